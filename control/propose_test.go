package control

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/wait"
	"ballast/traffic"
)

// dial is a clock that stands until it is turned.
type dial struct {
	mu sync.Mutex
	at time.Time
}

func (d *dial) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at
}

func (d *dial) turn(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = d.at.Add(by)
}

// mind is an advisor whose word the test sets, and that says how often it was asked.
type mind struct {
	mu    sync.Mutex
	says  *traffic.Proposal
	asked int
	spans []fleet.Range
}

func (m *mind) Decide(now time.Time, rev traffic.Revision, obs []traffic.Observation) traffic.Decision {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	d := traffic.Decision{Split: rev.Split.Name, At: now, Why: "scripted"}
	if m.says != nil {
		p := *m.says
		p.Expires = now.Add(time.Minute)
		d.Proposal = &p
	}
	return d
}

func (m *mind) say(from, to int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.says = &traffic.Proposal{Title: "Move", Moves: []traffic.Move{{Target: "w0", From: from, To: to}, {Target: "w1", From: 100 - from, To: 100 - to}}}
}

func (m *mind) hold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.says = nil
}

// tuned is a console with one split at 60/40 and a tuner that the test drives
// by hand: tick turns the clock by two seconds and asks it once.
type tunedConsole struct {
	*Control
	clock  *dial
	mind   *mind
	ledger *memLedger
}

func newTuned(t *testing.T) *tunedConsole {
	t.Helper()
	clock := &dial{at: time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)}
	tc := &tunedConsole{clock: clock, mind: &mind{}, ledger: &memLedger{}}
	obs := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		tc.mind.mu.Lock()
		defer tc.mind.mu.Unlock()
		tc.mind.spans = append(tc.mind.spans, r)
		return observed(s, r, time.Millisecond, 500), nil
	})
	// Without an advisor of its own: only the test's calls count.
	tc.Control, _ = console(t, Config{Conn: connect(t), Ledger: tc.ledger, Observer: obs, Now: clock.now, Every: time.Hour})
	mustApply(t, tc.Control, edit(0, orders("orders", 60, 40)))
	return tc
}

func (tc *tunedConsole) tick() {
	tc.clock.turn(2 * time.Second)
	tc.tune(context.Background(), tc.mind)
}

func (tc *tunedConsole) ticks(d time.Duration) {
	for range d / (2 * time.Second) {
		tc.tick()
	}
}

func (tc *tunedConsole) openOne(t *testing.T) traffic.Proposal {
	t.Helper()
	var open []traffic.Proposal
	for _, p := range tc.Proposals("orders", 0) {
		if p.Status == traffic.Open {
			open = append(open, p)
		}
	}
	if len(open) != 1 {
		t.Fatalf("%d open suggestions, want 1", len(open))
	}
	return open[0]
}

func TestOneSuggestionAtATime(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	tc.tick()
	if d, ok := tc.Decision("orders"); !ok || d.Proposal != nil || d.Why == "" {
		t.Errorf("Decision = %+v, %v; want a hold with its reason", d, ok)
	}
	tc.mind.say(60, 50)
	tc.ticks(20 * time.Second)
	first := tc.openOne(t)
	if first.Base != 1 || first.Status != traffic.Open || first.ID == "" {
		t.Errorf("proposal = %+v", first)
	}
	tc.mind.say(60, 51) // as good as the same
	tc.tick()
	if got := tc.openOne(t); got.ID != first.ID || got.Moves[0].To != 50 {
		t.Errorf("a point's difference made it %+v, want it untouched", got)
	}
	if d, _ := tc.Decision("orders"); d.Proposal == nil || d.Proposal.ID != first.ID {
		t.Errorf("the decision shows %+v, want the open one", d.Proposal)
	}
	if n := tc.ledger.count(traffic.EntryProposal); n != 1 {
		t.Errorf("%d journal entries, want 1", n)
	}
	tc.mind.say(60, 40)
	tc.ticks(stay)
	second := tc.openOne(t)
	if second.ID == first.ID {
		t.Error("another move must be another suggestion")
	}
	if p, _ := tc.Proposal(first.ID); p.Status != traffic.Superseded {
		t.Errorf("the first is %s, want superseded", p.Status)
	}
	checkReplay(t, tc.Control, tc.ledger)
}

func TestSuggestionCanBeRead(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	tc.mind.say(60, 50)
	tc.tick()
	first := tc.openOne(t)
	for i := range 5 { // a tuner that cannot make up its mind
		tc.mind.say(60, 30+5*(i%3))
		tc.tick()
		if got := tc.openOne(t); got.ID != first.ID {
			t.Fatalf("replaced after %v", got.At.Sub(first.At))
		}
	}
	tc.mind.say(60, 5)
	tc.mind.says.Kind = "relief" // this cannot wait
	tc.tick()
	if got := tc.openOne(t); got.Kind != "relief" {
		t.Errorf("open is %+v, want the urgent one", got)
	}
}

func TestSuggestionThatStaysTrueIsNotSpam(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	tc.mind.say(60, 50)
	tc.tick()
	first := tc.openOne(t)
	tc.ticks(4 * time.Minute) // it runs out every minute
	if got := tc.openOne(t); got.ID != first.ID || !got.Expires.After(first.Expires) {
		t.Errorf("after 4 minutes %s until %v, want %s renewed", got.ID, got.Expires, first.ID)
	}
	if n := tc.ledger.count(traffic.EntryProposal); n != 1 {
		t.Errorf("%d journal entries, want 1", n)
	}
	tc.ticks(3 * time.Minute)
	if got := tc.openOne(t); got.ID == first.ID {
		t.Error("after 7 minutes it must be a fresh one")
	}
	if n := tc.ledger.count(traffic.EntryExpired); n != 1 {
		t.Errorf("%d expiries on record, want 1", n)
	}
	tc.mind.hold()
	tc.ticks(90 * time.Second)
	for _, p := range tc.Proposals("orders", 0) {
		if p.Status == traffic.Open {
			t.Errorf("%+v is open although it ran out and is not true", p)
		}
	}
}

func TestApproveAndDismiss(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tc := newTuned(t)
	tc.mind.say(60, 50)
	tc.tick()
	p := tc.openOne(t)
	if err := tc.Dismiss(ctx, p.ID, "ann", "not now"); err != nil {
		t.Fatalf("Dismiss: %v", err)
	}
	wantKind(t, tc.Dismiss(ctx, p.ID, "ann", ""), fleet.Stale)
	_, err := tc.Approve(ctx, p.ID, "ann", "")
	wantKind(t, err, fleet.Stale)
	tc.ticks(9 * time.Minute)
	for _, p := range tc.Proposals("orders", 0) {
		if p.Status == traffic.Open {
			t.Fatalf("%+v was suggested again within ten minutes", p)
		}
	}
	tc.mind.say(60, 45) // not the same
	tc.tick()
	p = tc.openOne(t)
	ch, err := tc.Approve(ctx, p.ID, "ann", "")
	if err != nil {
		t.Fatalf("Approve: %v", err)
	}
	if ch.Proposal != p.ID || !ch.Guard || !same(ch.After, orders("orders", 45, 55)) || ch.Reason == "" {
		t.Errorf("change = %+v, want exactly the weights that were shown, guarded", ch)
	}
	if got, _ := tc.Proposal(p.ID); got.Status != traffic.Applied || got.Change != ch.ID {
		t.Errorf("proposal = %+v, want applied by %s", got, ch.ID)
	}
	_, err = tc.Approve(ctx, p.ID, "bob", "")
	wantKind(t, err, fleet.Stale)
	checkReplay(t, tc.Control, tc.ledger)
}

func TestStaleSuggestionIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tc := newTuned(t)
	tc.mind.say(60, 50)
	tc.tick()
	p := tc.openOne(t)
	tc.clock.turn(2 * time.Minute)
	_, err := tc.Approve(ctx, p.ID, "ann", "")
	wantKind(t, err, fleet.Stale) // ran out

	tc.tick()
	p = tc.openOne(t)
	mustApply(t, tc.Control, edit(1, orders("orders", 58, 42)))
	_, err = tc.Approve(ctx, p.ID, "ann", "")
	wantKind(t, err, fleet.Stale) // another revision
	if got, _ := tc.Proposal(p.ID); got.Status != traffic.Superseded {
		t.Errorf("proposal is %s, want superseded", got.Status)
	}
	_, err = tc.Approve(ctx, "no such", "ann", "")
	wantKind(t, err, fleet.NotFound)
	if doc := leaderDoc(t, tc.Control, "orders"); doc.number() != 2 {
		t.Errorf("revision %d, want 2", doc.number())
	}
}

func TestWindowsFollowEachOther(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	tc.mu.Lock()
	tc.interval = 2 * time.Second
	tc.mu.Unlock()
	tc.ticks(20 * time.Second)
	written := tc.clock.now()
	mustApply(t, tc.Control, edit(1, orders("orders", 50, 50)))
	tc.mind.mu.Lock()
	before := len(tc.mind.spans)
	tc.mind.mu.Unlock()
	tc.ticks(20 * time.Second)
	spans := tc.mind.spans
	if before < 5 || len(spans) < before+5 {
		t.Fatalf("%d windows before and %d after the change", before, len(spans)-before)
	}
	for i, r := range spans {
		if r.Span() <= 0 {
			t.Errorf("window %d is %v", i, r)
		}
		if i > 0 && r.From.Before(spans[i-1].To) {
			t.Errorf("window %d begins %v, before the end %v of the one before", i, r.From, spans[i-1].To)
		}
		if i > 0 && i != before && !r.From.Equal(spans[i-1].To) {
			t.Errorf("between windows %d and %d is a hole", i-1, i)
		}
	}
	if got, want := spans[before].From, written.Add(2*time.Second); got.Before(want) {
		t.Errorf("the first window after the change begins at %v, want %v: one interval after the write", got, want)
	}
}

func TestClockAheadDoesNotSilenceTheTuner(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	other := New(Config{Conn: tc.cfg.Conn, Ledger: &memLedger{}, Observer: script(nil), Now: func() time.Time { return tc.clock.now().Add(24 * time.Hour) }})
	other.booted = true
	mustApply(t, other, edit(1, orders("orders", 50, 50)))
	wait.For(t, soon, "revision 2 to be seen", func() bool { r, err := tc.Split("orders"); return err == nil && r.Number == 2 })
	asked := tc.mind.asked
	tc.ticks(10 * time.Second)
	if tc.mind.asked == asked {
		t.Error("the tuner is not asked any more")
	}
}

func TestOnlySplitsThatWantSuggestions(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	tc.mind.say(60, 50)
	tc.tick()
	p := tc.openOne(t)
	quietly := orders("orders", 60, 40)
	quietly.Mode = traffic.Observe
	mustApply(t, tc.Control, edit(1, quietly))
	asked := tc.mind.asked
	tc.ticks(10 * time.Second)
	if tc.mind.asked != asked {
		t.Errorf("the tuner was asked %d times about a split that is only observed", tc.mind.asked-asked)
	}
	if got, _ := tc.Proposal(p.ID); got.Status == traffic.Open {
		t.Error("the suggestion is still open")
	}
}

func TestUnrecordableSuggestionIsNotMade(t *testing.T) {
	t.Parallel()
	tc := newTuned(t)
	tc.mind.say(60, 50)
	tc.mind.says.Predicted.RhoAfter = math.Inf(1)
	tc.tick()
	if ps := tc.Proposals("", 0); len(ps) != 0 {
		t.Errorf("Proposals = %+v, want none", ps)
	}
	tc.mind.say(60, 50)
	tc.ledger.setRefuse(func(traffic.Entry) error { return context.DeadlineExceeded })
	tc.tick()
	if ps := tc.Proposals("", 0); len(ps) != 0 {
		t.Errorf("Proposals = %+v, want none without a journal", ps)
	}
	tc.ledger.setRefuse(nil)
	tc.tick()
	tc.openOne(t)
}

func TestRunAsksTheTuner(t *testing.T) {
	t.Parallel()
	m := &mind{}
	m.say(60, 50)
	c, _ := console(t, Config{Conn: connect(t), Observer: steady(time.Millisecond), Advisor: m})
	mustApply(t, c, edit(0, orders("orders", 60, 40)))
	wait.For(t, soon, "a suggestion", func() bool { return len(c.Proposals("orders", 1)) == 1 })
}
