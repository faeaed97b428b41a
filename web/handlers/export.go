package handlers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// exportTime is RFC 3339 with the milliseconds that the store keeps.
const exportTime = "2006-01-02T15:04:05.000Z07:00"

// export answers a URL that ends in .csv or .json with what its page shows.
// Durations in rows become milliseconds; the column's name should say so.
func (s *Server) export(c echo.Context, name string, cols []string, rows iter.Seq[[]any], jsonValue any) error {
	return sendTable(c, s.Now(), name, cols, rows, jsonValue)
}

// sendTable answers a URL that ends in .csv or .json with what its page shows:
// the rows as CSV, or v as JSON. name becomes part of the file's name, which
// carries the time at as well.
func sendTable(c echo.Context, at time.Time, name string, cols []string, rows iter.Seq[[]any], v any) error {
	if path.Ext(c.Request().URL.Path) == ".csv" {
		return sendCSV(c, at, name, cols, rows)
	}
	return sendJSON(c, at, name, v)
}

// sendCSV streams: a month of figures is not held in memory twice.
func sendCSV(c echo.Context, at time.Time, name string, cols []string, rows iter.Seq[[]any]) error {
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, "text/csv; charset=utf-8; header=present")
	h.Set(echo.HeaderContentDisposition, `attachment; filename="`+fileName(name, at, ".csv")+`"`)
	c.Response().WriteHeader(http.StatusOK)
	if c.Request().Method == http.MethodHead {
		return nil
	}
	return writeCSV(c.Response(), cols, rows)
}

// sendJSON writes a list with one element on a line: to indent thousands of rows
// takes longer than to encode them.
func sendJSON(c echo.Context, at time.Time, name string, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	rows, isList := v.([]any)
	if !isList {
		enc.SetIndent("", " ")
		rows = []any{v}
	}
	if isList {
		b.WriteString("[\n")
	}
	for i, row := range rows {
		if i > 0 {
			b.Truncate(b.Len() - 1) // the line's end
			b.WriteString(",\n")
		}
		if err := enc.Encode(row); err != nil {
			return fmt.Errorf("encode %s as JSON: %w", name, err)
		}
		if i == 0 {
			b.Grow(b.Len() * len(rows) * 5 / 4)
		}
	}
	if isList {
		b.WriteString("]\n")
	}
	h := c.Response().Header()
	h.Set(echo.HeaderContentDisposition, `inline; filename="`+fileName(name, at, ".json")+`"`)
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, b.Bytes())
}

// writeCSV writes RFC 4180: CRLF at the end of a record, quotes where needed, a
// header line. It does not use encoding/csv, whose CRLF mode drops a lone
// carriage return out of a cell.
func writeCSV(w io.Writer, cols []string, rows iter.Seq[[]any]) error {
	out := bufio.NewWriterSize(w, 16<<10)
	for i, c := range cols {
		csvField(out, c, i)
	}
	out.WriteString("\r\n")
	for row := range rows {
		for i, v := range row {
			csvField(out, csvCell(v), i)
		}
		// The writer keeps its first error; asking for it here ends early.
		if _, err := out.WriteString("\r\n"); err != nil {
			return fmt.Errorf("write CSV: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

func csvField(out *bufio.Writer, cell string, i int) {
	if i > 0 {
		out.WriteByte(',')
	}
	if !strings.ContainsAny(cell, "\",\r\n ") {
		out.WriteString(cell)
		return
	}
	out.WriteByte('"')
	out.WriteString(strings.ReplaceAll(cell, `"`, `""`))
	out.WriteByte('"')
}

// csvCell returns a figure as a number that a spreadsheet computes with, and
// any text so that a spreadsheet does not compute it. Durations are
// milliseconds; the column's name says so.
func csvCell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return defuse(v)
	case int:
		return strconv.Itoa(v)
	case uint64:
		return strconv.FormatUint(v, 10)
	case bool:
		return strconv.FormatBool(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return ""
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return v.UTC().Format(exportTime)
	case time.Duration:
		return strconv.FormatFloat(float64(v)/float64(time.Millisecond), 'f', -1, 64)
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(r.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(r.Uint(), 10)
	case reflect.Float32, reflect.Float64:
		f := r.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return ""
		}
		return strconv.FormatFloat(f, 'f', -1, 64)
	case reflect.Bool:
		return strconv.FormatBool(r.Bool())
	case reflect.String:
		return defuse(r.String())
	default:
		return defuse(fmt.Sprint(v))
	}
}

// defuse puts an apostrophe before text that a spreadsheet would take for a
// formula: names come from NATS clients, and opening an export must not run
// what one of them wrote. The full-width forms are formulas in some locales.
func defuse(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if s == "" || isPlain(s[0]) {
		return s
	}
	for _, lead := range []string{"=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"} {
		if strings.HasPrefix(s, lead) {
			return "'" + s
		}
	}
	return s
}

// isPlain tells bytes that begin no formula.
func isPlain(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

// fileName makes a name that is safe in a header and on every file system.
func fileName(name string, at time.Time, ext string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return '-'
	}, name)
	if len(safe) > 80 {
		safe = safe[:80]
	}
	return "ballast-" + strings.Trim(safe, "-") + "-" + at.UTC().Format("20060102-150405") + ext
}
