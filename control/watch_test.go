package control_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ballast/control"
	"ballast/fleet"
	"ballast/internal/wait"
	"ballast/store"
	"ballast/traffic"
	"ballast/tuner"
)

type noSplits struct{}

func (noSplits) Splits() []traffic.Revision { return nil }

// refusing is a store whose disk is full now and then.
type refusing struct {
	*store.DB
	full atomic.Bool
}

var errFull = errors.New("disk full")

func (r *refusing) PutFindings(ctx context.Context, f []fleet.Finding) error {
	if r.full.Load() {
		return errFull
	}
	return r.DB.PutFindings(ctx, f)
}

func (r *refusing) FindingState(ctx context.Context, now time.Time) (fleet.FindingState, error) {
	if r.full.Load() {
		return fleet.FindingState{}, errFull
	}
	return r.DB.FindingState(ctx, now)
}

// watched is a watch with a real store and the real engine.
type watched struct {
	t  *testing.T
	db *refusing
	*control.Watch
	stop func()
}

func watch(t *testing.T, db *refusing) *watched {
	t.Helper()
	w := control.NewWatch(control.WatchConfig{Metrics: db, Store: db, Inspector: tuner.NewFindings(tuner.FindingsConfig{}), Splits: noSplits{}, Interval: 80 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return &watched{t: t, db: db, Watch: w, stop: stop}
}

func openStore(t *testing.T) *refusing {
	t.Helper()
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{Interval: 80 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &refusing{DB: db}
}

var duck = fleet.FindingKey{Code: "SRV002", Entity: fleet.Entity{Kind: fleet.KindServer, Key: "n1"}}

// until puts looks of a server in that state until cond holds.
func (w *watched) until(what string, s fleet.State, cond func() bool) {
	w.t.Helper()
	wait.For(w.t, 30*time.Second, what, func() bool {
		now := time.Now()
		if last := w.db.Latest().TakenAt; now.Sub(last) > 20*time.Millisecond {
			if err := w.db.PutSnapshot(w.t.Context(), fleet.Snapshot{TakenAt: now, Expected: 1, Servers: []fleet.Server{{ID: "A", Name: "n1", State: s, At: now, Now: now, Start: now.Add(-time.Hour)}}}); err != nil {
				w.t.Fatal(err)
			}
		}
		return cond()
	})
}

func (w *watched) kept(closed bool) (fleet.Finding, bool) {
	w.t.Helper()
	all, err := w.db.Findings(w.t.Context(), fleet.FindingFilter{Key: duck, Closed: closed})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(all) == 0 {
		return fleet.Finding{}, false
	}
	return all[0], true
}

func (w *watched) told(kind string) int {
	w.t.Helper()
	events, err := w.db.Events(w.t.Context(), fleet.Range{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)}, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Kind == kind && e.Entity == "n1" && (strings.Contains(e.Text, "SRV002")) {
			n++
		}
	}
	return n
}

func TestFindingsAreKeptOverARestart(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	w := watch(t, db)
	w.until("the finding", fleet.LameDuck, func() bool { _, ok := w.kept(false); return ok && len(w.Open()) == 1 })
	since := w.Open()[0].Since
	w.stop()

	w = watch(t, db)
	w.until("the finding after a restart", fleet.LameDuck, func() bool { return len(w.Open()) == 1 })
	if got := w.Open()[0].Since; got.Sub(since).Abs() > time.Millisecond {
		t.Errorf("it is there since %v, want %v as before", got, since)
	}
	w.until("its end", fleet.Healthy, func() bool { f, ok := w.kept(true); return ok && !f.Open() })
	wait.For(t, 30*time.Second, "the event", func() bool { return w.told("finding.closed") == 1 })
	if n := w.told("finding.opened"); n != 1 {
		t.Errorf("it was told %d times that it opened, want once", n)
	}
}

func TestSuppressionsAreKept(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	w := watch(t, db)
	w.until("the finding", fleet.LameDuck, func() bool { _, ok := w.kept(false); return ok })
	ctx := t.Context()
	for field, s := range map[string]fleet.Suppression{
		"by":     {Reason: "planned", Until: time.Now().Add(time.Hour)},
		"reason": {By: "ana", Until: time.Now().Add(time.Hour)},
		"until":  {By: "ana", Reason: "planned", Until: time.Now().Add(-time.Hour)},
	} {
		var e *fleet.Error
		if err := w.Suppress(ctx, duck, s); !errors.As(err, &e) || e.Kind != fleet.Invalid || e.Fields[field] == "" {
			t.Errorf("without a good %s: %v", field, err)
		}
	}
	if err := w.Suppress(ctx, duck, fleet.Suppression{By: "ana", Reason: strings.Repeat("x", 501), Until: time.Now().Add(time.Hour)}); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("a reason of 501 characters: %v", err)
	}
	if err := w.Suppress(ctx, duck, fleet.Suppression{By: "ana", Reason: "planned", Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if f, _ := w.kept(false); f.Suppressed.By != "ana" || w.Open()[0].Suppressed.Reason != "planned" {
		t.Errorf("kept %+v, open %+v; want both suppressed", f.Suppressed, w.Open()[0].Suppressed)
	}
	w.stop()

	w = watch(t, db)
	w.until("the suppressed finding after a restart", fleet.LameDuck, func() bool { return len(w.Open()) == 1 && w.Open()[0].Suppressed.By == "ana" })
	w.until("its quiet end", fleet.Healthy, func() bool { return len(w.Open()) == 0 })
	if n := w.told("finding.closed"); n != 0 {
		t.Errorf("the end of a suppressed finding was told %d times", n)
	}
	if err := w.Lift(ctx, duck, ""); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("lifted by nobody: %v", err)
	}
	if err := w.Lift(ctx, duck, "ana"); err != nil {
		t.Fatal(err)
	}
	w.until("it to come back, aloud", fleet.LameDuck, func() bool { return w.told("finding.reopened") == 1 })
}

// What the store refuses is offered again, and nothing is judged before what
// was open is known.
func TestFindingsOutliveAFullDisk(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	db.full.Store(true)
	w := watch(t, db)
	n := 0
	w.until("some looks", fleet.LameDuck, func() bool { n++; return n > 200 })
	if len(w.Open()) != 0 {
		t.Error("findings were opened before those of the last run were read")
	}
	db.full.Store(false)
	w.until("the finding", fleet.LameDuck, func() bool { return len(w.Open()) == 1 })
	db.full.Store(true)
	w.until("its end", fleet.Healthy, func() bool { return len(w.Open()) == 0 })
	db.full.Store(false)
	w.until("its end on record", fleet.Healthy, func() bool { f, ok := w.kept(true); return ok && !f.Open() })
	wait.For(t, 30*time.Second, "both events", func() bool { return w.told("finding.opened") == 1 && w.told("finding.closed") == 1 })
}

// halting is a store under which the watch is stopped between the finding and
// its event.
type halting struct {
	*refusing
	halt func()
}

func (h *halting) PutFindings(ctx context.Context, f []fleet.Finding) error {
	err := h.refusing.PutFindings(ctx, f)
	h.halt()
	return err
}

func (h *halting) PutEvents(ctx context.Context, e []fleet.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.refusing.PutEvents(ctx, e)
}

// What was found just before the end is told: the next run takes it for known.
func TestTheEndTellsWhatWasFound(t *testing.T) {
	t.Parallel()
	db := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := &halting{db, cancel}
	w := control.NewWatch(control.WatchConfig{Metrics: h, Store: h, Inspector: tuner.NewFindings(tuner.FindingsConfig{}), Splits: noSplits{}, Interval: 80 * time.Millisecond})
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	shown := &watched{t: t, db: db, Watch: w}
	shown.until("the finding and the end", fleet.LameDuck, func() bool { return ctx.Err() != nil })
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if n := shown.told("finding.opened"); n != 1 {
		t.Errorf("it was told %d times that it opened, want once", n)
	}
}
