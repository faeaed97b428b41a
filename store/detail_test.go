package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

// What did not answer is known to the look, also when it was so for a moment
// only; lists are known to the minute, over hours, from the file alone.
func TestDetailsOverHours(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{Interval: 5 * time.Second})
	start := c.now()
	trouble := fleet.Problem{Where: "n2", What: "It does not answer.", Hint: "Look.", Since: start}
	type seen struct {
		at       time.Time
		conns    []fleet.Conn
		problems int
	}
	var noted []seen // moments right after a note
	var short time.Time
	for i := range 3 * 720 {
		s := look(c.add(5*time.Second), i)
		s.Conns = []fleet.Conn{{Server: "S1", CID: 7, Name: "app", InMsgs: uint64(i), At: s.TakenAt}}
		if i%100 < 50 {
			s.Conns = append(s.Conns, fleet.Conn{Server: "S1", CID: uint64(i), Name: "short", At: s.TakenAt})
		}
		if i/300%2 == 1 || i == 1300 {
			s.Problems = []fleet.Problem{trouble}
		}
		if i == 1300 {
			short = s.TakenAt
		}
		put(t, db, s)
		if i%12 != 11 {
			continue
		}
		if err := db.maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i%36 == 35 {
			noted = append(noted, seen{s.TakenAt, s.Conns, len(s.Problems)})
		}
	}
	check := func(what string, db *DB) {
		t.Helper()
		for _, n := range noted {
			s, _, err := db.SnapshotAt(t.Context(), n.at)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !reflect.DeepEqual(s.Conns, n.conns) || len(s.Problems) != n.problems {
				t.Errorf("%s: at %v %+v and %v, want %+v and %d problems", what, n.at, s.Conns, s.Problems, n.conns, n.problems)
			}
		}
		for off, want := range map[time.Duration]int{-5 * time.Second: 0, 0: 1, 5 * time.Second: 0} {
			s, _, err := db.SnapshotAt(t.Context(), short.Add(off))
			if err != nil || len(s.Problems) != want || want == 1 && !reflect.DeepEqual(s.Problems[0], trouble) {
				t.Errorf("%s: %v from a problem of one look: %+v, %v", what, off, s, err)
			}
		}
	}
	check("running", db)
	check("after a kill", openTest(t, copyDir(t, dir), c, Options{Interval: 5 * time.Second}))

	// Old ones go by the hour, and what is left stands for itself.
	c.add(14*day - 90*time.Minute)
	if err := db.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n int
	var first int64
	if err := db.metrics.r.QueryRow("SELECT count(*), min(k) FROM detail").Scan(&n, &first); err != nil || n == 0 {
		t.Fatalf("%d lists are left, %v", n, err)
	}
	if at, _ := detailAt(first); at < ms(start.Add(time.Hour)) {
		t.Errorf("the first that is left is of %v", fromMS(at))
	}
	s := &fleet.Snapshot{}
	if known, err := db.detailsAt(t.Context(), s, ms(noted[len(noted)-1].at)); err != nil || !known || !reflect.DeepEqual(s.Conns, noted[len(noted)-1].conns) {
		t.Errorf("what is left: %v, %+v, %v", known, s.Conns, err)
	}
	// The first of its hour is gone: the others cannot be read, and are not there.
	if _, err := db.metrics.w.Exec("DELETE FROM detail WHERE k = (SELECT min(k) FROM detail WHERE k & 255 = ?1)", int64(listConns)); err != nil {
		t.Fatal(err)
	}
	s = &fleet.Snapshot{}
	if _, err := db.detailsAt(t.Context(), s, first>>entityBits*hour+30*minute); err != nil || s.Conns != nil {
		t.Errorf("without the first: %+v, %v", s.Conns, err)
	}
}

// A list that is too large is cut, and whoever looks back is told so.
func TestDetailsAreBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	s := look(c.add(time.Second), 1)
	for k := range 1000 {
		g := fleet.QueueGroup{Account: "APP", Subject: fmt.Sprint("s.", k), Queue: strings.Repeat("q", 128), Total: 64}
		for m := range 64 {
			g.Members = append(g.Members, fleet.QueueMember{CID: uint64(m), Name: strings.Repeat("n", 128), IP: strings.Repeat("9", 64)})
		}
		s.Queues = append(s.Queues, g)
		s.Services = append(s.Services, fleet.Service{Account: "APP", Name: "liar", ID: fmt.Sprint("id", k), Endpoints: []fleet.Endpoint{{Name: "e", Data: []byte(strings.Repeat("x", 4096))}}})
	}
	put(t, db, s)
	if err := db.noteDetails(t.Context()); err != nil {
		t.Fatal(err)
	}
	is, _, err := db.SnapshotAt(t.Context(), s.TakenAt)
	if err != nil {
		t.Fatal(err)
	}
	if len(is.Services) != 1000 || is.Services[999].Endpoints[0].Data != nil {
		t.Errorf("%d services are left", len(is.Services))
	}
	if n := len(is.Queues); n == 0 || n == 1000 || len(is.Queues[0].Members) != 8 || is.Queues[0].Total != 64 {
		t.Errorf("%d queue groups with %d of %d members are left", n, len(is.Queues[0].Members), is.Queues[0].Total)
	}
	if len(is.Problems) != 1 || !strings.Contains(is.Problems[0].What, "of 1000 queue groups") {
		t.Errorf("problems %v", is.Problems)
	}
	if reflect.DeepEqual(s.Queues[0].Members, is.Queues[0].Members) || len(s.Queues[0].Members) != 64 {
		t.Error("what was handed over was changed")
	}
}

// A damaged list is an error that names it, never a panic and never an answer.
func TestDamagedDetails(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	for i := range 3 {
		s := look(c.add(time.Minute), i)
		s.Conns = []fleet.Conn{{Server: "S1", CID: uint64(i), Name: "app"}}
		put(t, db, s)
		if err := db.noteDetails(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var k int64
	var row []byte
	if err := db.metrics.r.QueryRow("SELECT k, d FROM detail WHERE k & 255 = ?1 ORDER BY k DESC LIMIT 1", int64(listConns)).Scan(&k, &row); err != nil {
		t.Fatal(err)
	}
	for i := range len(row) {
		for _, bad := range [][]byte{append(append([]byte{}, row[:i]...), append([]byte{row[i] ^ 0x41}, row[i+1:]...)...), row[:i]} {
			if _, err := db.metrics.w.Exec("UPDATE detail SET d = ?1 WHERE k = ?2", bad, k); err != nil {
				t.Fatal(err)
			}
			s := &fleet.Snapshot{}
			if _, err := db.detailsAt(t.Context(), s, ms(c.now())); err == nil && s.Conns != nil && s.Conns[0].CID != 2 {
				t.Fatalf("byte %d: read as %+v", i, s.Conns)
			}
		}
	}
	// One that stands on itself.
	if _, err := db.metrics.w.Exec("UPDATE detail SET d = ?1 WHERE k = ?2", binary.AppendUvarint([]byte{detailVersion}, uint64(k)), k); err != nil {
		t.Fatal(err)
	}
	if _, err := db.detailsAt(t.Context(), &fleet.Snapshot{}, ms(c.now())); !errors.Is(err, errCorrupt) {
		t.Errorf("one that stands on itself: %v", err)
	}
}

// FuzzDetail: no row makes the reader panic, or take more memory than a list has.
func FuzzDetail(f *testing.F) {
	base := []byte(`{"List":[{"Name":"app"}]}`)
	for _, own := range []bool{true, false} {
		row, err := packDetail([]byte(`{"List":[{"Name":"app"},{"Name":"app 2"}]}`), detailBase{k: 5, data: base}, own)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(row)
	}
	f.Fuzz(func(t *testing.T, row []byte) {
		data, err := unpackDetail(row, func(int64) ([]byte, error) { return base, nil })
		if err != nil {
			return
		}
		if len(data) > 4*maxDetail {
			t.Errorf("%d bytes", len(data))
		}
		for _, l := range slowLists {
			_ = addDetail(l, data, &fleet.Snapshot{})
		}
	})
}

// The share of the time in which samples are listened to is known of every moment,
// to a tenth, also when nothing else changed; its small changes are no notes.
func TestTheShareOfListeningIsKept(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 5 * time.Second})
	type moment struct {
		at    time.Time
		share float64
	}
	var moments []moment
	for i, share := range []float64{1, 1, 0.31, 0.32, 0.29, 0.1, 0.1, 1} {
		s := look(c.add(5*time.Second), i)
		s.Intake.Share = share
		put(t, db, s)
		moments = append(moments, moment{s.TakenAt, share})
	}
	if n := len(db.details.notes); n != 4 {
		t.Errorf("%d notes were made of 4 shares", n)
	}
	for _, m := range moments {
		s, _, err := db.SnapshotAt(t.Context(), m.at)
		if err != nil {
			t.Fatal(err)
		}
		if d := s.Intake.Share - m.share; d < -0.05 || d > 0.05 {
			t.Errorf("at %s the share was %v, the past says %v", m.at, m.share, s.Intake.Share)
		}
	}
}
