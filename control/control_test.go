package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/ports"
	"ballast/internal/sketch"
	"ballast/internal/wait"
	"ballast/traffic"
)

const (
	soon   = 20 * time.Second // generous: the machine may be busy
	always = time.Hour        // a bake time that no test waits for
)

// memLedger keeps the journal in memory. Its zero value works.
type memLedger struct {
	mu      sync.Mutex
	entries []traffic.Entry
	refuse  func(traffic.Entry) error // nil: take everything
}

func (l *memLedger) Append(_ context.Context, e traffic.Entry) (traffic.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		if err := l.refuse(e); err != nil {
			return traffic.Entry{}, err
		}
	}
	e.Seq = uint64(len(l.entries) + 1)
	l.entries = append(l.entries, e)
	return e, nil
}

func (l *memLedger) Replay(_ context.Context, yield func(traffic.Entry) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *memLedger) setRefuse(f func(traffic.Entry) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = f
}

func (l *memLedger) kinds(split string) []traffic.EntryKind {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kinds []traffic.EntryKind
	for _, e := range l.entries {
		if e.Split == split {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (l *memLedger) count(k traffic.EntryKind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, e := range l.entries {
		if e.Kind == k {
			n++
		}
	}
	return n
}

// until returns a ledger with the entries up to and including the last of kind.
func (l *memLedger) until(k traffic.EntryKind) *memLedger {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range slices.Backward(l.entries) {
		if e.Kind == k {
			return &memLedger{entries: slices.Clone(l.entries[:i+1])}
		}
	}
	return &memLedger{}
}

// script answers for the store.
type script func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error)

func (f script) Observe(_ context.Context, s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
	if f == nil {
		return nil, nil
	}
	return f(s, r)
}

// steady sees the same latency at every target, whenever it looks.
func steady(d time.Duration) script {
	return func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		return observed(s, r, d, 500), nil
	}
}

func observed(s traffic.Split, r fleet.Range, d time.Duration, n int) []traffic.Observation {
	var obs []traffic.Observation
	for _, t := range s.Targets {
		sk := &sketch.Sketch{}
		for i := range n {
			sk.Add(d + d*time.Duration(i)/time.Duration(n))
		}
		obs = append(obs, traffic.Observation{Target: t.Name, From: r.From, To: r.To, Arrived: uint64(n), Acked: uint64(n),
			Latency: sk, Samples: uint64(n), Share: 1, Mean: sk.Mean()})
	}
	return obs
}

func orders(name string, weights ...int) traffic.Split {
	s := traffic.Split{Name: name, Subject: name + ".process", Pick: traffic.Weighted, Driver: traffic.DriverKV,
		Mode: traffic.Suggest, Law: traffic.LawCapacity}
	for i, w := range weights {
		t := fmt.Sprintf("w%d", i)
		s.Targets = append(s.Targets, traffic.Target{Name: t, Subject: name + ".process." + t, Weight: w, State: traffic.Ready,
			Observe: &traffic.Observed{Stream: "ORDERS", Consumer: t}})
	}
	return s
}

func edit(base uint64, next traffic.Split) traffic.Edit {
	return traffic.Edit{Split: next.Name, Base: base, Next: next, Actor: "ann", Reason: "test"}
}

// console starts a Control on a connection, as app.go would.
func console(tb testing.TB, cfg Config, tweak ...func(*Control)) (c *Control, stop func()) {
	tb.Helper()
	if cfg.Ledger == nil {
		cfg.Ledger = &memLedger{}
	}
	if cfg.Observer == nil {
		cfg.Observer = script(nil)
	}
	if cfg.Bake == 0 {
		cfg.Bake = always
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Millisecond
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	c = New(cfg)
	for _, f := range tweak {
		f(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Run = %v, want nil after cancel", err)
		}
	})
	tb.Cleanup(stop)
	wait.For(tb, soon, "the console to start", func() bool { return c.open() == nil })
	return c, stop
}

func mustApply(tb testing.TB, c *Control, e traffic.Edit) traffic.Change {
	tb.Helper()
	ch, err := c.Apply(context.Background(), e)
	if err != nil {
		tb.Fatalf("Apply(base %d): %v", e.Base, err)
	}
	return ch
}

func waitPhase(tb testing.TB, c *Control, id string, want traffic.Phase) traffic.Change {
	tb.Helper()
	var ch traffic.Change
	wait.For(tb, soon, "change to be "+string(want), func() bool {
		var err error
		ch, err = c.Change(id)
		return err == nil && ch.Phase == want
	})
	return ch
}

// documents reads every message of the bucket, oldest first, as far as its
// leader goes: a watch is served by a replica that may lag behind.
func documents(tb testing.TB, nc *nats.Conn) []jetstream.KeyValueEntry {
	tb.Helper()
	ctx := context.Background()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	var kv jetstream.KeyValue
	var str jetstream.Stream
	wait.For(tb, time.Minute, "the bucket to answer", func() bool { // a server may just have come back
		if kv, err = js.KeyValue(ctx, traffic.Bucket); err == nil {
			str, err = js.Stream(ctx, stream)
		}
		return err == nil
	})
	last := str.CachedInfo().State.LastSeq
	var all []jetstream.KeyValueEntry
	wait.For(tb, soon, "a replica that has caught up", func() bool {
		w, err := kv.WatchAll(ctx, jetstream.IncludeHistory())
		if err != nil {
			return false
		}
		defer w.Stop()
		all = nil
		for e := range w.Updates() {
			if e == nil {
				break
			}
			all = append(all, e)
		}
		return len(all) > 0 && all[len(all)-1].Revision() >= last
	})
	return all
}

// checkDocuments holds every revision that was ever written against the
// invariants: valid (so its weights sum to 100), and on record with exactly one
// intent. It returns the changes that wrote, by split and number.
func checkDocuments(tb testing.TB, nc *nats.Conn, ledgers ...*memLedger) map[string]string {
	tb.Helper()
	intents := map[string]int{}
	for _, l := range ledgers {
		if err := l.Replay(tb.Context(), func(e traffic.Entry) error {
			if e.Kind == traffic.EntryIntent {
				intents[e.Change]++
			}
			return nil
		}); err != nil {
			tb.Fatal(err)
		}
	}
	wrote := map[string]string{}
	for _, e := range documents(tb, nc) {
		if e.Operation() != jetstream.KeyValuePut {
			continue
		}
		rev, err := traffic.Parse(e.Value())
		if err != nil {
			tb.Errorf("%s at %d: %v", e.Key(), e.Revision(), err)
			continue
		}
		if intents[rev.Change] != 1 {
			tb.Errorf("%s at %d was written by change %s, which has %d intents on record, want 1", e.Key(), e.Revision(), rev.Change, intents[rev.Change])
		}
		id := fmt.Sprintf("%s/%d", rev.Split.Name, rev.Number)
		if other := wrote[id]; other != "" && other != rev.Change {
			tb.Errorf("revision %s was written by %s and by %s", id, other, rev.Change)
		}
		wrote[id] = rev.Change
	}
	return wrote
}

func leaderDoc(tb testing.TB, c *Control, split string) record {
	tb.Helper()
	r, err := c.read(context.Background(), split)
	if err != nil {
		tb.Fatalf("leader read: %v", err)
	}
	return r
}

func wantKind(tb testing.TB, err error, want fleet.ErrorKind) *fleet.Error {
	tb.Helper()
	var e *fleet.Error
	if !errors.As(err, &e) || e.Kind != want {
		tb.Fatalf("error = %v, want kind %d", err, want)
	}
	if e.Msg == "" || e.Hint == "" {
		tb.Errorf("error %q has hint %q: both must say something", e.Msg, e.Hint)
	}
	return e
}

func asJSON(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func connect(tb testing.TB) *nats.Conn {
	tb.Helper()
	return natstest.Connect(tb, natstest.Server(tb).ClientURL())
}

func TestWholeLife(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger, Observer: steady(10 * time.Millisecond), Bake: 50 * time.Millisecond})
	wait.For(t, soon, "ready before the bucket is there", func() bool { return c.Ready() == nil })

	plan, err := c.Plan(context.Background(), edit(0, orders("orders", 60, 30, 10)))
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	if len(plan.Warn) == 0 || plan.Key != "BALLAST/split.orders" || plan.After.Number != 1 {
		t.Errorf("Plan = %+v, want a warning that the bucket is created, and revision 1", plan)
	}
	js, _ := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if _, err := js.KeyValue(context.Background(), traffic.Bucket); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Fatalf("the bucket after watching and a dry run: %v, want none: watching never writes", err)
	}

	first := mustApply(t, c, edit(0, orders("orders", 60, 30, 10)))
	if first.Phase != traffic.Baking || first.Revision != 1 || first.Written.IsZero() {
		t.Errorf("Apply = %+v, want revision 1 baking", first)
	}
	kv, err := js.KeyValue(context.Background(), traffic.Bucket)
	if err != nil {
		t.Fatalf("bucket: %v", err)
	}
	st, _ := kv.Status(context.Background())
	info := st.(*jetstream.KeyValueBucketStatus).StreamInfo().Config
	if info.MaxMsgsPerSubject != 64 || info.Storage != jetstream.FileStorage || info.Replicas != 1 {
		t.Errorf("bucket = history %d, storage %v, replicas %d; want 64, file, 1", info.MaxMsgsPerSubject, info.Storage, info.Replicas)
	}
	waitPhase(t, c, first.ID, traffic.Verified)

	next := edit(1, orders("orders", 50, 30, 20))
	plan, err = c.Plan(context.Background(), next)
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	second := mustApply(t, c, next)
	verified := waitPhase(t, c, second.ID, traffic.Verified)
	if e := verified.Effect; e == nil || e.SamplesBefore != 3000 || e.SamplesAfter != 3000 || e.P99Before == 0 {
		t.Errorf("effect = %+v, want 3000 samples on both sides: two windows of three targets", e)
	}
	doc := leaderDoc(t, c, "orders")
	var planned traffic.Revision
	if planned, err = traffic.Parse(plan.Payload); err != nil {
		t.Fatalf("the plan's payload: %v", err)
	}
	// Only the change's id and the moment tell the dry run from the real one.
	planned.Change, planned.At = doc.rev.Change, doc.rev.At
	if b, _ := planned.Marshal(); string(b) != string(doc.raw) {
		t.Errorf("planned %s\nwritten %s", b, doc.raw)
	}
	if doc.rev.Number != 2 || doc.rev.Base != 1 || doc.rev.Change != second.ID || doc.rev.Author != "ann" {
		t.Errorf("document = %+v", doc.rev)
	}
	want := []traffic.EntryKind{traffic.EntryIntent, traffic.EntryWritten, traffic.EntryVerified,
		traffic.EntryIntent, traffic.EntryWritten, traffic.EntryVerified}
	wait.For(t, soon, "the journal to be complete", func() bool { return len(ledger.kinds("orders")) == len(want) })
	if got := ledger.kinds("orders"); !slices.Equal(got, want) {
		t.Errorf("journal = %v, want %v", got, want)
	}
	wait.For(t, soon, "the follower to show revision 2", func() bool {
		r, err := c.Split("orders")
		return err == nil && r.Number == 2
	})
	hist, err := c.History(context.Background(), "orders")
	if err != nil || len(hist) != 2 || hist[0].Number != 2 {
		t.Errorf("History = %v, %v; want 2 revisions, newest first", hist, err)
	}
	checkDocuments(t, nc, ledger)
}

func TestRollbackKeepAndDelete(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	nc := connect(t)
	ledger := &memLedger{}
	c, stop := console(t, Config{Conn: nc, Ledger: ledger})
	first := mustApply(t, c, edit(0, orders("orders", 60, 40)))
	second := mustApply(t, c, edit(1, orders("orders", 70, 30)))
	if got, _ := c.Change(first.ID); got.Phase != traffic.Replaced {
		t.Errorf("the first change is %s, want replaced by the second", got.Phase)
	}
	if _, err := c.Rollback(ctx, first.ID, "bob", ""); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("rollback of a creation = %v, want invalid", err)
	}
	undo, err := c.Rollback(ctx, second.ID, "bob", "worse")
	if err != nil {
		t.Fatalf("Rollback: %v", err)
	}
	if undo.Undo != second.ID || undo.Revision != 3 || !same(undo.After, second.Before) {
		t.Errorf("undo = %+v, want revision 3 with the weights before", undo)
	}
	if got, _ := c.Change(second.ID); got.Phase != traffic.RolledBack {
		t.Errorf("the undone change is %s, want rolled back", got.Phase)
	}
	if _, err := c.Rollback(ctx, second.ID, "bob", ""); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("second rollback = %v, want invalid", err)
	}
	kept, err := c.Keep(ctx, undo.ID, "bob")
	if err != nil || kept.Phase != traffic.Verified {
		t.Errorf("Keep = %s, %v; want verified", kept.Phase, err)
	}
	if _, err := c.Keep(ctx, undo.ID, "bob"); fleet.KindOf(err) != fleet.Stale {
		t.Errorf("second Keep = %v, want stale", err)
	}
	wantKind(t, c.Delete(ctx, "orders", 2, "bob", ""), fleet.Stale)
	if err := c.Delete(ctx, "orders", 3, "bob", "gone"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if _, err := c.Split("orders"); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("Split after Delete = %v, want not found", err)
	}
	again := mustApply(t, c, edit(0, orders("orders", 10, 90)))
	if again.Revision <= 4 {
		t.Errorf("created again at revision %d: readers that still hold 3 must accept it", again.Revision)
	}
	checkDocuments(t, nc, ledger)
	stop()
	checkReplay(t, c, ledger)
}

// checkReplay holds the state of a stopped console against what its journal
// gives. The effect so far of what still bakes is measured again, not recorded.
func checkReplay(tb testing.TB, c *Control, ledger *memLedger) {
	tb.Helper()
	back := New(Config{Ledger: ledger})
	if err := back.replay(context.Background()); err != nil {
		tb.Fatalf("replay: %v", err)
	}
	recorded := func(c *Control) string {
		changes := c.Changes("", 0)
		for i := range changes {
			if !changes[i].Phase.Final() {
				changes[i].Effect = nil
			}
		}
		return asJSON(tb, changes) + asJSON(tb, c.Proposals("", 0))
	}
	if live, replayed := recorded(c), recorded(back); live != replayed {
		tb.Errorf("the journal gives\n%s\nwant as it was live\n%s", replayed, live)
	}
}

func TestDeletedSplitComesBackByRollback(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c, _ := console(t, Config{Conn: connect(t)})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	if err := c.Delete(ctx, "orders", 1, "ann", "oops"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	gone := c.Changes("orders", 1)[0]
	if gone.Phase != traffic.Verified {
		t.Errorf("the deletion is %s, want verified", gone.Phase)
	}
	back, err := c.Rollback(ctx, gone.ID, "ann", "back")
	if err != nil || !same(back.After, orders("orders", 60, 40)) {
		t.Fatalf("Rollback = %+v, %v; want the split as it was", back, err)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	// In milliseconds of latency, by where a window lies around the change. recent
	// is the last quarter of the bake time before it, late what comes after the
	// first quarter after it; 0 is no difference.
	for _, tc := range []struct {
		name                   string
		earlier, before, after time.Duration
		recent, late           time.Duration
		redelivered            uint64 // after
		guard                  bool
		want                   traffic.Phase
	}{
		{"better", 10, 10, 5, 0, 0, 0, true, traffic.Verified},
		{"a little worse", 10, 10, 11, 0, 0, 0, true, traffic.Verified},
		{"much worse", 10, 10, 20, 0, 0, 0, true, traffic.RolledBack},
		{"much worse, guard off", 10, 10, 20, 0, 0, 0, false, traffic.Verified},
		{"worse already before", 10, 20, 40, 0, 0, 0, true, traffic.Verified},
		{"broke just before", 10, 10, 30, 40, 0, 0, true, traffic.Verified},
		{"breaking just before, and worse", 10, 10, 80, 40, 0, 0, true, traffic.Verified},
		{"the old weights' backlog drains", 10, 10, 40, 0, 10, 0, true, traffic.Verified},
		{"redeliveries", 10, 10, 10, 0, 0, 400, true, traffic.RolledBack},
		{"few redeliveries", 10, 10, 10, 0, 0, 3, true, traffic.Verified},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var written time.Time
			bake := 200 * time.Millisecond
			obs := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
				mu.Lock()
				defer mu.Unlock()
				d := tc.after
				switch {
				case written.IsZero() || !r.To.After(written.Add(-bake)):
					d = tc.earlier
				case !r.To.After(written) && r.To.Before(written):
					d = tc.before
				case !r.To.After(written):
					d = max(tc.recent, tc.before)
				case tc.late > 0 && !r.From.Before(written.Add(bake/4)):
					d = tc.late
				}
				o := observed(s, r, d*time.Millisecond, 500)
				if !written.IsZero() && r.To.After(written) {
					o[0].Redelivered = tc.redelivered
				}
				return o, nil
			})
			ledger := &memLedger{}
			c, _ := console(t, Config{Conn: connect(t), Ledger: ledger, Observer: obs, Bake: bake})
			first := mustApply(t, c, edit(0, orders("orders", 60, 40)))
			waitPhase(t, c, first.ID, traffic.Verified)
			e := edit(1, orders("orders", 50, 50))
			e.Guard = tc.guard
			mu.Lock() // the windows of this change are only answered once it is known when it was written
			ch, err := c.Apply(context.Background(), e)
			written = ch.Written
			mu.Unlock()
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			got := waitPhase(t, c, ch.ID, tc.want)
			if got.Effect == nil || got.Outcome == "" {
				t.Errorf("change = %+v, want its effect and a sentence", got)
			}
			doc := leaderDoc(t, c, "orders")
			if back := doc.rev.Number == 3; back != (tc.want == traffic.RolledBack) {
				t.Errorf("revision %d in force after %s", doc.rev.Number, tc.want)
			}
			if tc.want == traffic.RolledBack {
				if doc.rev.Author != guardName || !same(doc.rev.Split, orders("orders", 60, 40)) {
					t.Errorf("in force: %+v, want the split before, by the guard", doc.rev)
				}
			}
		})
	}
}

func TestGuardJudgesByWhatWasJustBefore(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) window { // 0: nothing was seen
		w := window{span: 10 * time.Second, latency: &sketch.Sketch{}}
		if d > 0 {
			for range 500 {
				w.latency.Add(d * time.Millisecond)
			}
		}
		return w
	}
	for name, tc := range map[string]struct {
		earlier, head, recent, start, latest time.Duration
		worse, worseBefore                   bool
	}{
		"steady":                        {10, 10, 10, 10, 10, false, false},
		"worse":                         {10, 10, 10, 20, 20, true, false},
		"creeping up":                   {100, 100, 115, 130, 130, false, false},
		"over again":                    {10, 10, 10, 20, 10, false, false},
		"broke before, nothing earlier": {0, 10, 40, 80, 80, true, true},
		"broke before":                  {10, 10, 40, 80, 80, true, true},
		"long broken":                   {10, 40, 40, 80, 80, true, true},
		"nothing before":                {0, 0, 0, 80, 80, false, false},
		"nothing after":                 {10, 10, 10, 0, 0, false, false},
	} {
		m := measured{baseline{at(tc.earlier), at(tc.head), at(tc.recent)}, at(tc.start), at(tc.latest)}
		if got := m.worse(); (got != "") != tc.worse {
			t.Errorf("%s: worse = %q, want %v", name, got, tc.worse)
		}
		if got := m.worseBefore(); got != tc.worseBefore {
			t.Errorf("%s: worseBefore = %v, want %v", name, got, tc.worseBefore)
		}
	}
}

func TestGuardSeesThroughTheMixture(t *testing.T) {
	t.Parallel()
	spread := func(d time.Duration, n int) window {
		w := window{span: 10 * time.Second, latency: &sketch.Sketch{}}
		for i := range n {
			w.latency.Add(d*time.Millisecond + d*time.Millisecond*time.Duration(i)/time.Duration(n))
		}
		return w
	}
	// A target broke a moment ago: the p99 of the whole time before lies in the
	// middle of its few slow samples, that of the last moment at their end.
	m := measured{baseline{spread(10, 5000), spread(10, 5000), spread(40, 100)}, spread(46, 2000), spread(46, 500)}
	if compare(m.before(), m.after()) == "" {
		t.Fatal("the case tests nothing")
	}
	if got := m.worse(); got != "" {
		t.Errorf("worse = %q, want nothing: it was as bad just before", got)
	}
}

func TestGuardNeedsEnoughSamples(t *testing.T) {
	t.Parallel()
	few := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		return observed(s, r, time.Duration(r.To.UnixNano()%1000)*time.Millisecond, 10), nil
	})
	c, _ := console(t, Config{Conn: connect(t), Observer: few, Bake: 50 * time.Millisecond})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	e := edit(1, orders("orders", 50, 50))
	e.Guard = true
	waitPhase(t, c, mustApply(t, c, e).ID, traffic.Verified)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	nc := connect(t)
	c, _ := console(t, Config{Conn: nc})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	mustApply(t, c, traffic.Edit{Split: "orders", Base: 1, Next: orders("orders", 70, 30), Actor: "bob", Reason: "east is slow"})
	token := leaderDoc(t, c, "orders").token

	_, err := c.Apply(ctx, edit(1, orders("orders", 50, 50)))
	e := wantKind(t, err, fleet.Stale)
	for _, want := range []string{"bob", "revision 2", "revision 1", "w0 70"} {
		if !strings.Contains(e.Msg, want) {
			t.Errorf("stale: %q does not say %q", e.Msg, want)
		}
	}
	if !strings.Contains(e.Hint, "east is slow") {
		t.Errorf("stale hint %q does not give the reason", e.Hint)
	}
	if _, err := c.Plan(ctx, edit(1, orders("orders", 50, 50))); fleet.KindOf(err) != fleet.Stale {
		t.Errorf("Plan on an old base = %v, want stale", err)
	}
	for name, tc := range map[string]struct {
		edit  traffic.Edit
		field string
	}{
		"sum":           {edit(2, orders("orders", 60, 30)), "tier.0"},
		"empty":         {edit(2, orders("orders")), "targets"},
		"rename":        {traffic.Edit{Split: "orders", Base: 2, Next: orders("other", 60, 40), Actor: "a"}, "name"},
		"hostile name":  {edit(0, orders("orders.*", 60, 40)), "name"},
		"no actor":      {traffic.Edit{Split: "orders", Base: 2, Next: orders("orders", 50, 50)}, "actor"},
		"escape reason": {traffic.Edit{Split: "orders", Base: 2, Next: orders("orders", 50, 50), Actor: "a", Reason: "x\x1b[31m"}, "reason"},
		"bake":          {traffic.Edit{Split: "orders", Base: 2, Next: orders("orders", 50, 50), Actor: "a", Bake: -1}, "bake"},
	} {
		_, err := c.Apply(ctx, tc.edit)
		if e := wantKind(t, err, fleet.Invalid); e.Fields[tc.field] == "" {
			t.Errorf("%s: fields = %v, want one for %s", name, e.Fields, tc.field)
		}
	}
	_, err = c.Apply(ctx, edit(2, orders("orders", 70, 30)))
	wantKind(t, err, fleet.Invalid) // nothing would change
	if got := leaderDoc(t, c, "orders").token; got != token {
		t.Errorf("the key is at %d after refused edits, want %d", got, token)
	}
	ro, _ := console2(t, Config{Conn: nc, ReadOnly: true})
	_, err = ro.Apply(ctx, edit(2, orders("orders", 50, 50)))
	wantKind(t, err, fleet.Forbidden)
	none, _ := console2(t, Config{})
	wantKind(t, none.Ready(), fleet.Unavailable)
	_, err = none.Plan(ctx, edit(2, orders("orders", 50, 50)))
	wantKind(t, err, fleet.Unavailable)
}

// console2 is console for one that never becomes ready.
func console2(tb testing.TB, cfg Config) (*Control, func()) {
	tb.Helper()
	cfg.Ledger, cfg.Observer, cfg.Log = &memLedger{}, script(nil), slog.New(slog.DiscardHandler)
	return New(cfg), func() {}
}

func TestLedgerRefusesThenNothingIsWritten(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	token := leaderDoc(t, c, "orders").token

	full := errors.New("disk full")
	ledger.setRefuse(func(traffic.Entry) error { return full })
	_, err := c.Apply(context.Background(), edit(1, orders("orders", 50, 50)))
	if e := wantKind(t, err, fleet.Unavailable); !errors.Is(e, full) {
		t.Errorf("error %v does not carry its cause", e)
	}
	if err := c.Delete(context.Background(), "orders", 1, "ann", ""); !errors.Is(err, full) {
		t.Errorf("Delete = %v, want refused", err)
	}
	if got := leaderDoc(t, c, "orders").token; got != token {
		t.Errorf("the key is at %d without a journal, want %d", got, token)
	}

	// It takes the intent and nothing after it: what happened is owed.
	ledger.setRefuse(func(e traffic.Entry) error {
		if e.Kind == traffic.EntryIntent {
			return nil
		}
		return full
	})
	ch := mustApply(t, c, edit(1, orders("orders", 50, 50)))
	if _, err := c.Apply(context.Background(), edit(2, orders("orders", 40, 60))); !errors.Is(err, full) {
		t.Errorf("Apply while entries are owed = %v, want refused", err)
	}
	ledger.setRefuse(nil)
	wait.For(t, soon, "the owed entry", func() bool { return ledger.count(traffic.EntryWritten) == 2 })
	if got, _ := c.Change(ch.ID); got.Phase != traffic.Baking {
		t.Errorf("change is %s, want baking", got.Phase)
	}
	checkDocuments(t, nc, ledger)
}

func TestTwentyEditorsOneWinner(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	// Two consoles that know nothing of each other: only the swap decides.
	la, lb := &memLedger{}, &memLedger{}
	a, _ := console(t, Config{Conn: nc, Ledger: la})
	b, _ := console(t, Config{Conn: natstest.Connect(t, nc.ConnectedUrl()), Ledger: lb})
	mustApply(t, a, edit(0, orders("orders", 50, 50)))
	const rounds, editors = 5, 20
	for round := range rounds {
		base := leaderDoc(t, a, "orders").number()
		var wg sync.WaitGroup
		errs := make([]error, editors)
		for i := range editors {
			wg.Go(func() {
				c := a
				if i%2 == 1 {
					c = b
				}
				w := (i+round*editors)%49 + 1
				_, errs[i] = c.Apply(context.Background(), edit(base, orders("orders", w, 100-w)))
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case fleet.KindOf(err) != fleet.Stale:
				t.Errorf("round %d: loser got %v, want stale", round, err)
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d winners, want 1", round, won)
		}
		if got := leaderDoc(t, a, "orders").number(); got != base+1 {
			t.Errorf("round %d: revision %d after %d", round, got, base)
		}
	}
	if wrote := checkDocuments(t, nc, la, lb); len(wrote) != rounds+1 {
		t.Errorf("%d revisions, want %d", len(wrote), rounds+1)
	}
}

func TestAnotherConsoleReplaces(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	a, _ := console(t, Config{Conn: nc})
	b, _ := console(t, Config{Conn: natstest.Connect(t, nc.ConnectedUrl())})
	ch := mustApply(t, a, edit(0, orders("orders", 50, 50)))
	mustApply(t, b, edit(1, orders("orders", 40, 60)))
	waitPhase(t, a, ch.ID, traffic.Replaced)
}

func TestBucketVanishes(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	wait.For(t, soon, "ready", func() bool { return c.Ready() == nil && len(c.Splits()) == 1 })
	js, _ := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err := js.DeleteKeyValue(context.Background(), traffic.Bucket); err != nil {
		t.Fatal(err)
	}
	wait.For(t, soon, "the console to notice", func() bool { return c.Ready() != nil })
	wantKind(t, c.Ready(), fleet.Unavailable)
	if len(c.Splits()) != 1 {
		t.Errorf("Splits = %v, want the last good one", c.Splits())
	}
	if _, err := js.KeyValue(context.Background(), traffic.Bucket); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Fatalf("bucket = %v, want that nobody repaired it", err)
	}
	// An operator starts anew: readers that hold revision 1 must take what comes.
	again := mustApply(t, c, edit(0, orders("orders", 30, 70)))
	if again.Revision != 2 {
		t.Errorf("revision %d, want 2: the journal knows 1", again.Revision)
	}
	wait.For(t, soon, "ready again", func() bool { return c.Ready() == nil })
	if r, err := c.Split("orders"); err != nil || r.Number != 2 {
		t.Errorf("Split = %d, %v; want revision 2", r.Number, err)
	}
}

func TestHostileDocumentIsNotTakenOver(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	c, _ := console(t, Config{Conn: nc})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	wait.For(t, soon, "followed", func() bool { return c.Ready() == nil && len(c.Splits()) == 1 })
	js, _ := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	kv, _ := js.KeyValue(context.Background(), traffic.Bucket)
	if _, err := kv.Put(context.Background(), "split.orders", []byte(`{"v":1,"weights":"all"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(context.Background(), "split.other", leaderlessDoc(t)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Apply(context.Background(), edit(1, orders("orders", 50, 50)))
	if e := wantKind(t, err, fleet.Unavailable); !errors.Is(e, errUnreadable) {
		t.Errorf("Apply over a foreign document = %v", err)
	}
	if got := c.Splits(); len(got) != 1 || got[0].Number != 1 {
		t.Errorf("Splits = %v, want the last good one only", got)
	}
}

// leaderlessDoc is a good document under a wrong key.
func leaderlessDoc(tb testing.TB) []byte {
	tb.Helper()
	doc, err := traffic.Revision{V: 1, Epoch: 1, Number: 1, Change: "x", At: time.Now().UTC(), Split: orders("orders", 60, 40)}.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

func TestRunWaitsForTheJournal(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	var mu sync.Mutex
	broken := true
	l := &flakyReplay{memLedger: &memLedger{}, err: func() error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return errors.New("torn page")
		}
		return nil
	}}
	c := New(Config{Conn: nc, Ledger: l, Observer: script(nil), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	wait.For(t, soon, "words about the journal", func() bool { err := c.Ready(); return err != nil && strings.Contains(err.Error(), "torn page") })
	_, err := c.Apply(ctx, edit(0, orders("orders", 60, 40)))
	wantKind(t, err, fleet.Unavailable)
	mu.Lock()
	broken = false
	mu.Unlock()
	wait.For(t, soon, "ready", func() bool { return c.Ready() == nil })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

type flakyReplay struct {
	*memLedger
	err func() error
}

func (l *flakyReplay) Replay(ctx context.Context, yield func(traffic.Entry) error) error {
	if err := l.err(); err != nil {
		return err
	}
	return l.memLedger.Replay(ctx, yield)
}

func TestConsoleComesUpBeforeNATS(t *testing.T) {
	t.Parallel()
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	port := free[0]
	nc := natstest.Connect(t, fmt.Sprintf("nats://127.0.0.1:%d", port), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	c := New(Config{Conn: nc, Ledger: &memLedger{}, Observer: script(nil), Bake: always, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	wait.For(t, soon, "the journal to be read", func() bool { err := c.Ready(); return err != nil && strings.Contains(err.Error(), "not connected") })
	wantKind(t, c.Ready(), fleet.Unavailable)
	start := time.Now()
	_, err = c.Plan(ctx, edit(0, orders("orders", 60, 40)))
	wantKind(t, err, fleet.Unavailable)
	if took := time.Since(start); took > time.Second {
		t.Errorf("a plan without NATS took %v to be refused", took)
	}
	natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.Port = port }))
	wait.For(t, soon, "ready once NATS is there", func() bool { return c.Ready() == nil })
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
}

func TestBookForgetsOnlyWhatIsFinished(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.keep(traffic.Change{ID: "bakes", Phase: traffic.Baking})
	b.offer(traffic.Proposal{ID: "open", Split: "s", Status: traffic.Open})
	for i := range kept + 100 {
		b.keep(traffic.Change{ID: fmt.Sprint(i), Phase: traffic.Verified})
		b.offer(traffic.Proposal{ID: fmt.Sprint(i), Split: "t", Status: traffic.Open})
	}
	if len(b.changes) != kept || len(b.order) != kept || len(b.proposals) != kept || len(b.offered) != kept {
		t.Errorf("%d changes, %d proposals are remembered, want %d", len(b.changes), len(b.proposals), kept)
	}
	if _, ok := b.changes["bakes"]; !ok {
		t.Error("the change that bakes was forgotten")
	}
	if _, ok := b.open("s"); !ok {
		t.Error("the open suggestion was forgotten")
	}
}
