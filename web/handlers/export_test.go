package handlers

import (
	"bytes"
	"encoding/csv"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"ballast/fleet"
)

// hostileCells are what a NATS client may call its stream.
var hostileCells = []string{
	"=1+1", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠1",
	`"`, `""`, `a"b`, "a,b", "a\nb", "a\r\nb", ";", "'", "''=1", "", " ", "\x00", "\xff\xfe", "\u202e=1", "🦊", "<script>", "name",
}

func TestCSVCellsAreHarmlessAndRoundTrip(t *testing.T) {
	t.Parallel()
	const cells, width = 10_000, 5
	rnd := rand.New(rand.NewPCG(11, 12))
	alphabet := []rune("=+-@\t\r\n\"',; aä=＝中0\x00\u202e")
	var rows [][]any
	for len(rows)*width < cells {
		row := make([]any, width)
		for i := range row {
			if rnd.IntN(3) == 0 {
				row[i] = hostileCells[rnd.IntN(len(hostileCells))]
				continue
			}
			var b strings.Builder
			for range rnd.IntN(12) {
				b.WriteRune(alphabet[rnd.IntN(len(alphabet))])
			}
			row[i] = b.String()
		}
		rows = append(rows, row)
	}
	var buf bytes.Buffer
	if err := writeCSV(&buf, []string{"a", "b", "c", "d", "e"}, slices.Values(rows)); err != nil {
		t.Fatal(err)
	}
	if !utf8.Valid(buf.Bytes()) {
		t.Error("the file is not valid UTF-8")
	}
	in := csv.NewReader(&buf)
	if head, err := in.Read(); err != nil || !slices.Equal(head, []string{"a", "b", "c", "d", "e"}) {
		t.Fatalf("header = %q, %v", head, err)
	}
	for n, want := range rows {
		got, err := in.Read()
		if err != nil {
			t.Fatalf("row %d: %v", n, err)
		}
		for i, cell := range got {
			original := strings.ToValidUTF8(want[i].(string), "\uFFFD")
			if r, _ := utf8.DecodeRuneInString(cell); strings.ContainsRune("=+-@\t\r\n＝＋－＠", r) && cell != "" {
				t.Errorf("row %d: cell %q begins with what a spreadsheet computes", n, cell)
			}
			// The reader folds CRLF into LF, by RFC 4180 the same line end.
			original = strings.ReplaceAll(original, "\r\n", "\n")
			if cell != original && strings.TrimPrefix(cell, "'") != original {
				t.Errorf("row %d: cell %q came back as %q", n, original, cell)
			}
		}
	}
	if _, err := in.Read(); err != io.EOF {
		t.Errorf("after the last row: %v, want EOF", err)
	}
}

func TestCSVCellsOfFigures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v    any
		want string
	}{
		{nil, ""}, {-1, "-1"}, {-1.5, "-1.5"}, {uint64(1 << 63), "9223372036854775808"}, {1e21, "1000000000000000000000"}, {true, "true"},
		{1500 * time.Microsecond, "1.5"}, {time.Time{}, ""}, {time.Date(2026, 3, 14, 10, 26, 53, 589e6, time.FixedZone("", 3600)), "2026-03-14T09:26:53.589Z"},
		{fleet.AckSample, "ack sample"}, {fleet.State("=evil"), "'=evil"}, {float32(0.5), "0.5"}, {zero() / zero(), ""}, {1 / zero(), ""},
	} {
		if got := csvCell(tc.v); got != tc.want {
			t.Errorf("csvCell(%#v) = %q, want %q", tc.v, got, tc.want)
		}
	}
}

func zero() float64 { return 0 }

func TestFileNamesAreSafe(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	for _, tc := range []struct{ name, want string }{
		{"orders", "ballast-orders-20260314-092653.csv"},
		{`../../etc/"passwd"` + "\r\nX: y", "ballast-etc--passwd---X--y-20260314-092653.csv"},
		{"中文", "ballast--20260314-092653.csv"},
		{strings.Repeat("x", 300), "ballast-" + strings.Repeat("x", 80) + "-20260314-092653.csv"},
	} {
		if got := fileName(tc.name, at, ".csv"); got != tc.want {
			t.Errorf("fileName(%q) = %q, want %q", tc.name, got, tc.want)
		}
	}
}

func BenchmarkWriteCSV(b *testing.B) {
	rows := make([][]any, 1000)
	for i := range rows {
		rows[i] = []any{epoch, "worker-east-1", 12.5, uint64(i), 3 * time.Millisecond, fleet.AckSample}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := writeCSV(io.Discard, []string{"a", "b", "c", "d", "e", "f"}, slices.Values(rows)); err != nil {
			b.Fatal(err)
		}
	}
}
