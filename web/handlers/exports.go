package handlers

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// exportRoutes serve the course of one thing over any range. The page asks what
// is wanted; with ?format= the file itself comes, row by row as it is read.
func exportRoutes(s *Server, e *echo.Echo) {
	e.GET(exportPath, s.exportSeries)
}

const exportPath = "/export"

// exportURL leads to the export of a thing.
func exportURL(e fleet.Entity) string {
	return exportPath + "?" + url.Values{"kind": {string(e.Kind)}, "key": {e.Key}}.Encode()
}

// exportSteps are the distances of rows to choose from.
var exportSteps = []struct {
	key, label string
	d          time.Duration
}{{"", "as fine as kept", 0}, {"10s", "10 s", 10 * time.Second}, {"1m", "1 min", time.Minute}, {"10m", "10 min", 10 * time.Minute}, {"1h", "1 h", time.Hour}, {"1d", "1 d", 24 * time.Hour}}

const maxExportStep = 31 * 24 * time.Hour

func (s *Server) exportSeries(c echo.Context) error {
	q, names, units, err := s.exportQuery(c)
	if err != nil {
		return err
	}
	switch c.QueryParam("format") {
	case "":
		return s.exportPage(c, q, names)
	case "csv", "json":
	default:
		return &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such format.", Hint: "Choose csv or json."}
	}
	return s.sendExport(c, q, names, units)
}

// exportQuery reads what is asked for, with the names and units of its columns.
func (s *Server) exportQuery(c echo.Context) (q fleet.ExportQuery, names, units []string, err error) {
	invalid := func(msg, hint string) error { return &fleet.Error{Kind: fleet.Invalid, Msg: msg, Hint: hint} }
	q.Entity = fleet.Entity{Kind: fleet.Kind(c.QueryParam("kind")), Key: c.QueryParam("key")}
	all, allUnits := s.Columns(q.Kind)
	switch {
	case len(all) == 0:
		return q, nil, nil, invalid("Nothing is recorded of that kind of thing.", "Use the download on the page of a server, stream, consumer or account.")
	case q.Key == "":
		return q, nil, nil, invalid("It is not said what to export.", "Give its name as key=.")
	}
	span, err := s.rangeOf(c)
	if err != nil {
		return q, nil, nil, err
	}
	q.Range = span.Range
	if v := c.QueryParam("step"); v != "" {
		if q.Step, err = parseAgo(v); err != nil || q.Step <= 0 || q.Step > maxExportStep {
			return q, nil, nil, invalid("The distance of the rows is not valid.", "Give step= as 10s, 1m, 1h or 1d, at most 31d; without it the rows are as fine as they are kept.")
		}
	}
	for i, name := range all {
		if picked := c.QueryParams()["col"]; len(picked) == 0 || slices.Contains(picked, name) {
			names, units = append(names, name), append(units, allUnits[i])
		}
	}
	for _, col := range c.QueryParams()["col"] {
		if !slices.Contains(all, col) {
			return q, nil, nil, invalid(fmt.Sprintf("A %s has no series of that name.", q.Kind), "It has "+strings.Join(all, ", ")+".")
		}
	}
	q.Columns = names
	return q, names, units, nil
}

func (s *Server) exportPage(c echo.Context, q fleet.ExportQuery, names []string) error {
	v := templates.Export{Name: q.Key, Kind: string(q.Kind), URL: entityURL(q.Entity), Path: exportPath, Columns: strings.Join(names, ", "),
		Range: cmp.Or(c.QueryParam("range"), "24h"), Step: c.QueryParam("step"), Fields: []templates.Hidden{{Name: "kind", Value: string(q.Kind)}, {Name: "key", Value: q.Key}},
		Placeholder: s.Now().Add(-24 * time.Hour).UTC().Format("2006-01-02T15:04:05")}
	for _, sp := range spans {
		v.Ranges = append(v.Ranges, templates.Option{Value: sp.key, Label: "the last " + sp.key})
	}
	for _, st := range exportSteps {
		v.Steps = append(v.Steps, templates.Option{Value: st.key, Label: st.label})
	}
	f := withLive(s.frame(c, "Download "+q.Key, "", templates.Crumb{Name: string(q.Kind)}, templates.Crumb{Name: q.Key, URL: v.URL}, templates.Crumb{Name: "Download"}))
	return show(c, templates.ExportPage(f, v), templates.ExportPage(f, v))
}

// sendExport streams the rows as the store yields them: a year of figures takes
// no more memory than a minute. Nothing is sent before the first row is there, so
// that what cannot be read is still an error with a status; what breaks off later
// breaks the connection, so that half a file is not taken for a whole one.
func (s *Server) sendExport(c echo.Context, q fleet.ExportQuery, names, units []string) error {
	ctx := c.Request().Context()
	next, stop := iter.Pull2(s.Metrics.Export(ctx, q))
	defer stop()
	row, err, ok := next()
	if err != nil {
		return fmt.Errorf("export %s %q: %w", q.Kind, q.Key, err)
	}
	if !ok {
		return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("Nothing is recorded of this %s in that span.", q.Kind), Hint: "Choose a longer one, or look whether the name is right."}
	}
	w := c.Response()
	asJSON := c.QueryParam("format") == "json"
	ext, mime := ".csv", "text/csv; charset=utf-8; header=present"
	if asJSON {
		ext, mime = ".json", echo.MIMEApplicationJSON
	}
	w.Header().Set(echo.HeaderContentType, mime)
	w.Header().Set(echo.HeaderContentDisposition, `attachment; filename="`+fileName(string(q.Kind)+"-"+q.Key, s.Now(), ext)+`"`)
	w.WriteHeader(http.StatusOK)
	if c.Request().Method == http.MethodHead {
		return nil
	}
	out := bufio.NewWriterSize(&patient{w: w, ctl: http.NewResponseController(w.Writer)}, 32<<10)
	write := csvRows(out, names, units)
	if asJSON {
		write = jsonRows(out, q, names, units)
	}
	for ok {
		if err := write(&row); err != nil {
			return nil // the reader left; there is nobody to tell
		}
		if row, err, ok = next(); err != nil {
			if ctx.Err() == nil {
				s.Log.ErrorContext(ctx, "export broke off", "kind", q.Kind, "err", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
	if err := errors.Join(write(nil), out.Flush()); err != nil {
		return nil
	}
	return nil
}

// patient gives the reader time for each piece, instead of one limit for all.
type patient struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	// A server without deadlines (a test's recorder) is no reason to refuse.
	_ = p.ctl.SetWriteDeadline(time.Now().Add(writeLimit))
	return p.w.Write(b)
}

// csvRows writes a head and then one line a row; nil is the end. Each column has
// its mean and extremes; a cell without a figure is empty.
func csvRows(out *bufio.Writer, names, units []string) func(*fleet.ExportRow) error {
	begun := false
	return func(r *fleet.ExportRow) error {
		if !begun {
			begun = true
			out.WriteString("time,step_ms")
			for i, name := range names {
				unit := strings.NewReplacer("/", "_per_", "%", "percent").Replace(units[i])
				head := strings.ReplaceAll(strings.Trim(name+"_"+unit, "_"), "__", "_")
				fmt.Fprintf(out, ",%s,%s_min,%s_max,%s_count", head, head, head, name)
			}
			out.WriteString("\r\n")
		}
		if r == nil {
			return nil
		}
		out.WriteString(r.At.UTC().Format(exportTime))
		csvField(out, csvCell(r.Step), 1)
		for _, p := range r.Points {
			if p.N == 0 {
				out.WriteString(",,,,")
				continue
			}
			csvField(out, csvCell(p.Avg), 1)
			csvField(out, csvCell(p.Min), 1)
			csvField(out, csvCell(p.Max), 1)
			csvField(out, csvCell(p.N), 1)
		}
		_, err := out.WriteString("\r\n")
		return err
	}
}

// exportDoc is a row as JSON; a column without a figure is left out.
type exportDoc struct {
	At     time.Time             `json:"time"`
	StepMS int64                 `json:"step_ms"`
	Values map[string]exportCell `json:"values"`
}

type exportCell struct {
	Avg   float64 `json:"avg"`
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	Count int     `json:"count"`
}

// jsonRows writes one object with the rows as a list; nil is the end.
func jsonRows(out *bufio.Writer, q fleet.ExportQuery, names, units []string) func(*fleet.ExportRow) error {
	begun := false
	return func(r *fleet.ExportRow) error {
		if !begun {
			begun = true
			of := map[string]string{}
			for i, name := range names {
				of[name] = units[i]
			}
			head, err := json.Marshal(struct {
				Kind  fleet.Kind        `json:"kind"`
				Key   string            `json:"key"`
				From  time.Time         `json:"from"`
				To    time.Time         `json:"to"`
				Units map[string]string `json:"units"`
			}{q.Kind, q.Key, q.From.UTC(), q.To.UTC(), of})
			if err != nil {
				return fmt.Errorf("encode the head of the export: %w", err)
			}
			out.Write(head[:len(head)-1])
			out.WriteString(`,"rows":[`)
		} else if r != nil {
			out.WriteByte(',')
		}
		if r == nil {
			_, err := out.WriteString("\n]}\n")
			return err
		}
		d := exportDoc{At: r.At.UTC(), StepMS: r.Step.Milliseconds(), Values: map[string]exportCell{}}
		for i, p := range r.Points {
			if p.N > 0 {
				d.Values[names[i]] = exportCell{p.Avg, p.Min, p.Max, p.N}
			}
		}
		b, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("encode a row: %w", err)
		}
		out.WriteByte('\n')
		_, err = out.Write(b)
		return err
	}
}
