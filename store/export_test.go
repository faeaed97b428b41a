package store

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
)

// An export has every look, with the figures of the series, from disk and from
// memory; and it ends when the reader does.
func TestExportIsTheSeries(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	fill(t, db, c, 0, 400)
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.add(time.Minute) // a gap
	fill(t, db, c, 460, 50)
	r := fleet.Range{From: start.Add(-240 * time.Hour), To: c.now().Add(time.Second)}
	n1 := fleet.Entity{Kind: fleet.KindServer, Key: "n1"}
	cols := []string{fleet.ColInMsgs, fleet.ColCPU}
	got := make([][]fleet.Point, len(cols))
	rows := 0
	for row, err := range db.Export(t.Context(), fleet.ExportQuery{Entity: n1, Columns: cols, Range: r}) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
		for i, p := range row.Points {
			if p.N > 0 {
				got[i] = append(got[i], p)
			}
		}
	}
	for i, col := range cols {
		want := measured(series(t, db, n1.Kind, n1.Key, col, fleet.Range{From: start, To: r.To}, 5000))
		if !slices.Equal(got[i], want) {
			t.Errorf("%s: %d points, want the %d of the series", col, len(got[i]), len(want))
		}
	}
	if rows != 450 {
		t.Errorf("%d rows, want 450", rows)
	}
	all := 0
	for row, err := range db.Export(t.Context(), fleet.ExportQuery{Entity: n1, Range: r, Step: time.Minute}) {
		if err != nil || len(row.Points) != len(columnsOf[n1.Kind]) || row.Step != time.Minute {
			t.Fatalf("%+v, %v", row, err)
		}
		if all++; all == 3 {
			break
		}
	}
	for _, q := range []fleet.ExportQuery{
		{Entity: n1, Columns: []string{"nonsense"}, Range: r},
		{Entity: fleet.Entity{Kind: "nonsense"}, Range: r},
		{Entity: n1},
	} {
		var last error
		for _, err := range db.Export(t.Context(), q) {
			last = err
		}
		if e := (*fleet.Error)(nil); !errors.As(last, &e) {
			t.Errorf("export of %+v = %v", q, last)
		}
	}
}

// A day of looks takes no more memory than some hours of them.
//
// It measures the heap and is not run beside others.
func TestExportTakesConstantMemory(t *testing.T) {
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 30 * time.Second})
	start := c.now()
	for i := range 24 * 120 {
		put(t, db, look(c.add(30*time.Second), i))
		if i%200 == 199 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	peak := func(span time.Duration) (rows int, most uint64) {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		base := m.HeapAlloc
		q := fleet.ExportQuery{Entity: fleet.Entity{Kind: fleet.KindServer, Key: "n1"}, Range: fleet.Range{From: start, To: start.Add(span)}}
		for _, err := range db.Export(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			if rows++; rows%200 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc-min(base, m.HeapAlloc))
			}
		}
		return rows, most
	}
	_, few := peak(6 * time.Hour)
	rows, many := peak(24 * time.Hour)
	if rows < 24*120-1 {
		t.Errorf("%d rows, want all %d", rows, 24*120)
	}
	if many > 2*few+4<<20 {
		t.Errorf("24 h took %d bytes, 6 h %d", many, few)
	}
}
