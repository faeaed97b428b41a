package tuner

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"ballast/collector"
	"ballast/fleet"
	"ballast/internal/wait"
	"ballast/store"
	"ballast/traffic"
)

const (
	lookEvery = 100 * time.Millisecond
	patience  = 90 * time.Second
)

// rig is the way of the figures as in the program: a real collector, a real
// store and the engine. Looks follow each other faster, so that three bad ones
// take no long time.
type rig struct {
	t      *testing.T
	db     *store.DB
	f      *Findings
	now    func() time.Time
	seen   time.Time
	splits []traffic.Revision
	fired  map[[2]string]bool // by code and key
}

func newRig(t *testing.T, cfg FindingsConfig, col collector.Config) *rig {
	t.Helper()
	def(&cfg.Window, 10*time.Second) // three looks of a busy machine fit in
	def(&cfg.Flap, time.Millisecond) // every return is told as a new one
	def(&col.Interval, lookEvery)
	if col.Now == nil {
		col.Now = time.Now
	}
	r := &rig{t: t, f: NewFindings(cfg), now: col.Now, fired: map[[2]string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if r.db, err = store.Open(ctx, t.TempDir(), store.Options{Interval: col.Interval, Now: col.Now}); err != nil {
		cancel()
		t.Fatal(err)
	}
	c, err := collector.New(col, r.db)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("collector: %v", err)
		}
		if err := r.db.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return r
}

// look judges the newest snapshot, if it is a new one.
func (r *rig) look() {
	r.t.Helper()
	snap := r.db.Latest()
	if !snap.TakenAt.After(r.seen) {
		return
	}
	r.seen = snap.TakenAt
	ctx, now := r.t.Context(), r.now()
	span := fleet.Range{From: now.Add(-time.Minute), To: now.Add(time.Second)}
	look := fleet.Look{At: now, Interval: lookEvery, Snapshot: snap, Rates: r.db.Rates(), Latency: map[fleet.ConsumerKey]fleet.Latency{}}
	var err error
	if look.Events, err = r.db.Events(ctx, span, 1000); err != nil {
		r.t.Fatal(err)
	}
	for _, c := range snap.Consumers {
		if c.Sampled() {
			if look.Latency[c.ConsumerKey], err = r.db.Latency(ctx, c.ConsumerKey, span, 1); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	seen := map[string][]traffic.Observation{}
	for _, rev := range r.splits {
		if seen[rev.Split.Name], err = r.db.Observe(ctx, rev.Split, fleet.Range{From: now.Add(-5 * time.Second), To: now}); err != nil {
			r.t.Fatal(err)
		}
	}
	r.f.Inspect(look, r.splits, seen)
}

func (r *rig) find(code, key string) (fleet.Finding, bool) {
	for _, f := range r.f.Open() {
		if f.Code == code && f.Key == key {
			return f, true
		}
	}
	return fleet.Finding{}, false
}

// fires waits until the check finds the thing bad, and returns what it says.
func (r *rig) fires(code, key string) fleet.Finding {
	r.t.Helper()
	return r.firesWhile(code, key, func() {})
}

// firesWhile does something before every look, for what lasts only as long as
// somebody goes on with it.
func (r *rig) firesWhile(code, key string, do func()) fleet.Finding {
	r.t.Helper()
	var f fleet.Finding
	wait.For(r.t, patience, code+" of "+key+" to open", func() bool {
		do()
		r.look()
		var ok bool
		f, ok = r.find(code, key)
		return ok
	})
	if f.Text == "" || f.Remedy == "" || f.Title == "" || f.Since.IsZero() || len(f.Evidence) == 0 && code != "SRV012" {
		r.t.Errorf("%s of %s says too little: %+v", code, key, f)
	}
	r.t.Logf("%s %s %s: %s [%s]", f.Code, f.Severity, f.Key, f.Text, f.Command)
	r.fired[[2]string{code, key}] = true
	return f
}

// clears waits until the finding is closed.
func (r *rig) clears(code, key string) {
	r.t.Helper()
	r.clearsWhile(code, key, func() {})
}

func (r *rig) clearsWhile(code, key string, do func()) {
	r.t.Helper()
	wait.For(r.t, patience, code+" of "+key+" to close", func() bool {
		do()
		r.look()
		_, open := r.find(code, key)
		return !open
	})
	if !r.fired[[2]string{code, key}] {
		r.t.Fatalf("%s of %s is to clear, and never fired", code, key)
	}
	shown.note(code, r.t.Name())
}

// rounds judges some more looks.
func (r *rig) rounds(n int) {
	r.t.Helper()
	for range n {
		before := r.seen
		wait.For(r.t, patience, fmt.Sprintf("look after %v", before), func() bool {
			r.look()
			return r.seen.After(before)
		})
	}
}

// shown is what was seen to fire and to clear on real servers: a code and the
// test that did it. Only a rig writes into it, and only after both happened.
var shown = coverage{by: map[string]string{}}

type coverage struct {
	mu sync.Mutex // guards by
	by map[string]string
}

func (c *coverage) note(code, test string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[code] = test
}

func (c *coverage) has(code string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[code] != ""
}
