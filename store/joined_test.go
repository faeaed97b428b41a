package store

import (
	"errors"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
)

// What is joined is read as what it was joined from, bit by bit; a row that was
// cut or bent is refused.
func TestJoinedRowsAreReadAsWritten(t *testing.T) {
	t.Parallel()
	l := levels[1]
	var data []byte
	want := map[int64]string{}
	for _, part := range []int64{0, 2, 3} {
		text := string(make([]byte, 100*part+1))
		data = appendJoined(data, part, []byte(text))
		want[5*l.span+part*l.part] = text
	}
	got := map[int64]string{}
	read := func(data []byte) error {
		clear(got)
		return l.rows(5, data, func(start int64, data []byte) error {
			got[start] = string(data)
			return nil
		})
	}
	if err := read(data); err != nil || len(got) != len(want) {
		t.Fatalf("%d parts, %v", len(got), err)
	}
	for at, text := range want {
		if got[at] != text {
			t.Errorf("the part of %d has %d bytes, want %d", at, len(got[at]), len(text))
		}
	}
	if err := read(data[:len(data)-1]); err == nil {
		t.Error("what is cut short was read")
	}
	bent := slices.Clone(data)
	bent[1] = 4 // the slot has four parts, from 0 on
	if err := read(bent); !errors.Is(err, errCorrupt) {
		t.Errorf("a part beyond the slot: %v", err)
	}
	if err := read([]byte{joinedVersion + 1}); !errors.Is(err, errCorrupt) {
		t.Errorf("another version: %v", err)
	}
}

// Rows go one pass after they were joined, and nothing is missing in between:
// neither for one who reads then, nor after a restart.
func TestJoiningLosesNothing(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	o := Options{Interval: 30 * time.Second}
	db := openTest(t, dir, c, o)
	start := c.now()
	for i := range 10 * 120 {
		put(t, db, look(c.add(30*time.Second), i))
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := fleet.Range{From: start, To: c.now()}
	before := series(t, db, fleet.KindServer, "n1", fleet.ColCPU, r, 600)
	same := func(when string) {
		t.Helper()
		if after := series(t, db, fleet.KindServer, "n1", fleet.ColCPU, r, 600); !slices.Equal(after.Data, before.Data) {
			t.Errorf("%s the series reads otherwise", when)
		}
	}
	rows := func(table string) (n int) {
		t.Helper()
		if err := db.metrics.r.QueryRow("SELECT count(DISTINCT k >> 32) FROM " + table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	pass := func() {
		t.Helper()
		if err := db.rollUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pass()
	young, joined := rows("m1"), rows("r1")
	if joined < 2 || young < 4*joined {
		t.Fatalf("%d hours, %d joined slots", young, joined)
	}
	same("joined,")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openTest(t, dir, c, o)
	pass()
	if n := rows("m1"); n != young {
		t.Errorf("after a restart %d hours are left at once, want %d", n, young)
	}
	same("after a restart")
	pass()
	if n := rows("m1"); n == 0 || n > young-4*(joined-1) || n >= 5 {
		t.Errorf("of %d hours %d are left", young, n)
	}
	same("dropped,")
}
