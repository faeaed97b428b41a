package handlers

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/wait"
)

func TestExportIsTheWholeCourse(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	q := "/export?kind=server&key=n1&from=2026-03-14T09:00:00Z&to=2026-03-14T09:10:00Z"
	rows, err := csv.NewReader(st.get(q + "&format=csv").status(200).Body).ReadAll()
	if err != nil || len(rows) != 601 {
		t.Fatalf("%d lines, %v", len(rows), err)
	}
	if got, want := strings.Join(rows[0], " "), "time step_ms cpu_percent cpu_percent_min cpu_percent_max cpu_count mem_B mem_B_min mem_B_max mem_count in_msgs_msg_per_s in_msgs_msg_per_s_min in_msgs_msg_per_s_max in_msgs_count"; got != want {
		t.Errorf("head %q, want %q", got, want)
	}
	if got, want := strings.Join(rows[8], " "), "2026-03-14T09:00:07.000Z 1000     2.5 1 3 4 2.5 1 3 4"; got != want {
		t.Errorf("a row with a gap is %q, want %q", got, want)
	}
	var doc struct {
		Kind, Key string
		Units     map[string]string
		Rows      []exportDoc
	}
	if err := json.Unmarshal(st.get(q+"&format=json&col=mem&step=1m").status(200).Body.Bytes(), &doc); err != nil || len(doc.Rows) != 10 || doc.Key != "n1" || doc.Units["mem"] != "B" {
		t.Fatalf("JSON: %v, %+v", err, doc)
	}
	if r := doc.Rows[0]; r.StepMS != 60_000 || len(r.Values) > 1 {
		t.Errorf("a row is %+v", r)
	}
}

func TestExportSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	for q, code := range map[string]int{
		"kind=teapot&key=x&format=csv": 422, "kind=server&format=csv": 422, "kind=server&key=n1&format=xls": 422, "kind=server&key=n1&format=csv&step=soon": 422, "kind=server&key=n1&format=csv&step=400d": 422,
		"kind=server&key=n1&format=csv&col=nothing": 422, "kind=server&key=n1&format=csv&from=2026-03-14&to=2026-03-13": 422, "kind=server&key=nobody&format=csv": 404, "kind=server&key=nobody&format=json": 404,
	} {
		a := st.get("/export?" + q).status(code)
		if a.Header().Get("Content-Disposition") != "" {
			t.Errorf("%s: an error comes as a file", q)
		}
	}
	w.metricsErr = &fleet.Error{Kind: fleet.Unavailable, Msg: "The store is closed."}
	st.get("/export?kind=server&key=n1&format=csv").status(503).says("main", "The store is closed.")
}

func TestExportFileNamesAreSafe(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	for _, name := range hostile {
		q := "/export?" + url.Values{"kind": {"server"}, "key": {name}, "format": {"csv"}, "range": {"15m"}}.Encode()
		h := st.get(q).status(200).Header().Get("Content-Disposition")
		file := strings.TrimSuffix(strings.TrimPrefix(h, `attachment; filename="`), `"`)
		if strings.Trim(file, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" || !strings.HasPrefix(file, "ballast-server") || !strings.HasSuffix(file, ".csv") {
			t.Errorf("the file of %q is %q", name, h)
		}
		st.get("/export?" + url.Values{"kind": {"server"}, "key": {name}}.Encode()).status(200)
	}
}

// endless yields rows until the reader or the context ends it.
type endless struct {
	*world
	rows  int
	ended chan error
}

func (e *endless) Export(ctx context.Context, q fleet.ExportQuery) iter.Seq2[fleet.ExportRow, error] {
	return func(yield func(fleet.ExportRow, error) bool) {
		defer func() {
			if e.ended != nil {
				e.ended <- ctx.Err()
			}
		}()
		for i := 0; e.rows == 0 || i < e.rows; i++ {
			if ctx.Err() != nil {
				yield(fleet.ExportRow{}, ctx.Err())
				return
			}
			row := fleet.ExportRow{At: q.From.Add(time.Duration(i) * time.Second), Step: time.Second, Points: make([]fleet.Point, len(q.Columns))}
			for j := range row.Points {
				row.Points[j] = fleet.Point{At: row.At, Avg: float64(i) / 3, Min: 1, Max: 3, N: 4}
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// A file of tens of megabytes takes no memory of its size.
func TestExportTakesConstantMemory(t *testing.T) {
	w := newWorld()
	d := w.deps()
	d.Metrics = &endless{world: w, rows: 400_000}
	srv := httptest.NewServer(New(d).Handler())
	defer srv.Close()
	for _, format := range []string{"csv", "json"} {
		res, err := http.Get(srv.URL + "/export?kind=server&key=n1&format=" + format)
		if err != nil {
			t.Fatal(err)
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		before, peak, size := m.HeapAlloc, m.HeapAlloc, int64(0)
		for in := bufio.NewReader(res.Body); ; {
			n, err := io.CopyN(io.Discard, in, 4<<20)
			size += n
			runtime.GC()
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			if err != nil {
				break
			}
		}
		res.Body.Close()
		if size < 20<<20 {
			t.Errorf("%s is only %d bytes", format, size)
		}
		if grown := peak - before; grown > 8<<20 {
			t.Errorf("%s of %d MiB took %d MiB", format, size>>20, grown>>20)
		}
	}
}

// A reader that goes away ends the reading.
func TestExportEndsWithItsReader(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := w.deps()
	e := &endless{world: w, ended: make(chan error, 1)}
	d.Metrics = e
	srv := httptest.NewServer(New(d).Handler())
	defer srv.Close()
	res, err := http.Get(srv.URL + "/export?kind=server&key=n1&format=csv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	wait.For(t, time.Minute, "the reading to end", func() bool { return len(e.ended) == 1 })
}

// What breaks off later breaks the connection: half a file is no whole one.
func TestExportThatBreaksOffIsNoFile(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := w.deps()
	d.Metrics = &breaking{w}
	srv := httptest.NewServer(New(d).Handler())
	defer srv.Close()
	res, err := http.Get(srv.URL + "/export?kind=server&key=n1&format=csv")
	if err == nil {
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
	}
	if err == nil {
		t.Error("half of the rows look like all of them")
	}
}

type breaking struct{ *world }

func (b *breaking) Export(_ context.Context, q fleet.ExportQuery) iter.Seq2[fleet.ExportRow, error] {
	return func(yield func(fleet.ExportRow, error) bool) {
		for i := range 5000 {
			if !yield(fleet.ExportRow{At: q.From.Add(time.Duration(i) * time.Second), Points: make([]fleet.Point, len(q.Columns))}, nil) {
				return
			}
		}
		yield(fleet.ExportRow{}, io.ErrUnexpectedEOF)
	}
}
