package store

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"ballast/fleet"
)

// A past moment reads as it was seen then, from memory, from disk, and after a
// restart; settings are those of then, not of now.
func TestSnapshotAt(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	type seen struct {
		s *fleet.Snapshot
		r *fleet.Rates
	}
	then := map[time.Time]seen{}
	var order []time.Time
	for i := range 400 {
		s := look(c.add(time.Second), i)
		// Settings of every sort; the owner's limits stand in the metadata.
		s.Streams[0].Discard, s.Streams[0].PerSubject = "new", 5
		s.Streams[0].Metadata = map[string]string{"io.nats.monitor.msgs-critical": "1000"}
		s.Streams[0].Limits = fleet.ThresholdsOf(s.Streams[0].Metadata)
		s.Consumers[0].Durable, s.Consumers[0].Inactive, s.Consumers[0].Backoff, s.Consumers[0].Priority = true, time.Hour, []time.Duration{time.Second, time.Minute}, "pinned_client"
		s.Accounts[0].Settings = &fleet.AccountSettings{JetStream: true, Exports: 3}
		if i >= 200 {
			s.Consumers[0].AckWait = 10 * time.Second
			s.Servers[0].Version = "2.15.3"
		}
		put(t, db, s)
		if i%50 == 49 {
			if err := db.noteAttrs(t.Context()); err != nil {
				t.Fatal(err)
			}
			then[c.now()] = seen{db.Latest(), db.Rates()}
			order = append(order, c.now())
		}
	}
	check := func(what string, db *DB) {
		t.Helper()
		for i, at := range order {
			s, r, err := db.SnapshotAt(t.Context(), at.Add(400*time.Millisecond))
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			want := then[at]
			if !s.TakenAt.Equal(at) || len(s.Servers) != 1 || len(s.Routes) != 1 || len(s.Gateways) != 1 || len(s.Leafs) != 1 || len(s.Accounts) != 1 {
				t.Fatalf("%s: look %d: %+v", what, i, s)
			}
			if !reflect.DeepEqual(s.Consumers, want.s.Consumers) {
				t.Errorf("%s: look %d: consumers %+v, want %+v", what, i, s.Consumers, want.s.Consumers)
			}
			wantServer := want.s.Servers[0]
			if got := s.Servers[0]; !reflect.DeepEqual(got, wantServer) {
				t.Errorf("%s: look %d: server %+v, want %+v", what, i, got, wantServer)
			}
			if wantStream := want.s.Streams[0]; !reflect.DeepEqual(s.Streams[0], wantStream) {
				t.Errorf("%s: look %d: stream %+v, want %+v", what, i, s.Streams[0], wantStream)
			}
			if !reflect.DeepEqual(r, want.r) {
				t.Errorf("%s: look %d: rates %+v, want %+v", what, i, r, want.r)
			}
			if !reflect.DeepEqual(s.Accounts[0].Settings, want.s.Accounts[0].Settings) {
				t.Errorf("%s: look %d: account %+v", what, i, s.Accounts[0].Settings)
			}
			if s.Cost != want.s.Cost {
				t.Errorf("%s: look %d: cost %+v", what, i, s.Cost)
			}
		}
	}
	check("in memory", db)
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("sealed", db)
	check("after a kill", openTest(t, copyDir(t, dir), c, Options{}))

	// What is known of a thing first counts from its first look on, though it was
	// noted later.
	first, _, err := db.SnapshotAt(t.Context(), start.Add(3*time.Second))
	if err != nil || len(first.Consumers) != 1 || first.Consumers[0].AckWait != 30*time.Second || first.Servers[0].Version == "2.15.3" {
		t.Errorf("the third look: %+v, %v", first, err)
	}

	_, _, err = db.SnapshotAt(t.Context(), start.Add(-time.Hour))
	if e := (*fleet.Error)(nil); !errors.As(err, &e) || e.Kind != fleet.NotFound {
		t.Errorf("before the first look: %v", err)
	}
}

// A server that did not answer then is shown so; what is no longer kept look by
// look is told by means and labelled.
func TestSnapshotAtOldAndMissing(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 10 * time.Second})
	start := c.now()
	for i := range 8 * 360 {
		s := look(c.add(10*time.Second), 10*i)
		switch {
		case i >= 7*360+300:
			s.Servers = nil // nobody remembers it
		case i >= 7*360:
			s.Servers[0].State, s.Servers[0].Error, s.Servers[0].At = fleet.Unreachable, "It went", start.Add(7*time.Hour)
		}
		put(t, db, s)
		if i%360 == 359 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, _, err := db.SnapshotAt(t.Context(), c.now().Add(-30*time.Minute))
	if err != nil || len(s.Servers) != 1 || s.Servers[0].State != fleet.Unreachable || s.Servers[0].Error != "It went" ||
		!s.Servers[0].At.Equal(start.Add(7*time.Hour)) || s.Servers[0].Mem != 1<<20 {
		t.Errorf("a silent server: %+v, %v", s.Servers, err)
	}
	if s, _, err = db.SnapshotAt(t.Context(), c.now().Add(-time.Minute)); err != nil || len(s.Servers) != 0 || len(s.Consumers) != 1 {
		t.Errorf("a server that is gone: %+v, %v", s, err)
	}
	c.add(25 * time.Hour)
	if err := db.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := start.Add(2 * time.Hour)
	s, r, err := db.SnapshotAt(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Consumers) != 1 || s.Consumers[0].Pending != 5 || s.Consumers[0].AckWait != 30*time.Second || len(s.Problems) != 1 {
		t.Errorf("an old moment: %+v, problems %v", s.Consumers, s.Problems)
	}
	if got := r.Servers["n1"].InMsgs; got < 99 || got > 101 {
		t.Errorf("an old rate = %v, want 100", got)
	}
}

// Single looks end where their slot does. At that edge some things have theirs
// and others, looked at less often, do not: of these the mean is known, and that
// it is one.
func TestSnapshotAtTheEdgeOfRaw(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 10 * time.Second})
	var account fleet.Account
	for i := range 3 * 360 {
		s := look(c.add(10*time.Second), 10*i)
		if i%6 == 2 { // each full minute and 30 s
			account = s.Accounts[0]
		}
		s.Accounts = []fleet.Account{account}
		if i < 2 {
			s.Accounts = nil
		}
		put(t, db, s)
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	k, err := db.known(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	edge := k.slots[len(k.slots)/3] * unit
	at := fromMS(edge).Add(20 * time.Second)
	whole, _, err := db.SnapshotAt(t.Context(), at)
	if err != nil || len(whole.Accounts) != 1 || len(whole.Problems) != 0 || !whole.Accounts[0].At.Before(fromMS(edge)) {
		t.Fatalf("as long as all is kept: %+v, %v", whole, err)
	}
	for {
		dropped, err := db.dropOldest(t.Context(), kept{"raw", unit, 0}, edge)
		if err != nil {
			t.Fatal(err)
		}
		if !dropped {
			break
		}
	}
	db.moment.Store(nil)
	s, r, err := db.SnapshotAt(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s.Consumers, whole.Consumers) || !reflect.DeepEqual(s.Streams, whole.Streams) || r.Servers["n1"].InMsgs != 100 {
		t.Errorf("what has single looks: %+v and %+v, was %+v", s.Consumers, s.Streams, whole.Consumers)
	}
	if len(s.Accounts) != 1 || s.Accounts[0].Conns != 4 || s.Accounts[0].InMsgs != 0 || !s.Accounts[0].At.Equal(fromMS(edge)) {
		t.Errorf("what has none: %+v", s.Accounts)
	}
	if len(s.Problems) != 1 || s.Problems[0].Where != "store" {
		t.Errorf("problems %+v", s.Problems)
	}
}
