// Package control owns the life of a change: dry run, journal, compare-and-swap,
// read-back, bake, verified or rolled back. It is the only package that writes
// to NATS, and it writes nothing but the KV bucket BALLAST, what its drivers give
// to the servers, the settings of a consumer that an operator asks for and, for a
// limited time, the sample_freq of one that shall be measured. It never measures
// itself, never decides weights and never keeps a change that the
// ledger did not take.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"ballast/fleet"
	"ballast/traffic"
)

// Ledger is the append-only journal. Append returns the entry as stored.
type Ledger interface {
	Append(ctx context.Context, e traffic.Entry) (traffic.Entry, error)
	Replay(ctx context.Context, yield func(traffic.Entry) error) error
}

// Observer measures the targets of a split over a range, in the split's order.
type Observer interface {
	Observe(ctx context.Context, s traffic.Split, r fleet.Range) ([]traffic.Observation, error)
}

// Advisor is the tuner. It is asked from one goroutine only, so it may remember.
type Advisor interface {
	Decide(now time.Time, rev traffic.Revision, obs []traffic.Observation) traffic.Decision
}

// Config is what a Control is built from.
type Config struct {
	Conn     *nats.Conn // nil: nothing can be steered, and Ready says so
	Ledger   Ledger
	Observer Observer
	Advisor  Advisor
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: slog.Default
	// Bake is how long a change's effect is watched; 0 is 60 s.
	Bake time.Duration
	// Every is the pace of the tuner and of the watch over baking changes; 0 is 2 s.
	Every time.Duration
	// Replicas of the bucket when it is created; 0 is as many as the cluster
	// allows, up to 3.
	Replicas int
	// Drivers make splits real that the client library does not carry out.
	Drivers map[traffic.Driver]Driver
	// ReadOnly refuses every change.
	ReadOnly bool
}

const (
	defaultBake  = time.Minute
	defaultEvery = 2 * time.Second
	// readTimeout and writeTimeout keep the answer to an operator under five
	// seconds when the KV's quorum is gone: one read, one write, one look after it.
	readTimeout   = 2 * time.Second
	writeTimeout  = 2 * time.Second
	settleTimeout = time.Second
	ledgerTimeout = 5 * time.Second
	// kept bounds what is remembered of finished changes and proposals; the
	// journal has all of them.
	kept = 2000
	// epoch of all revisions until there is a leader election.
	epoch = 1
)

// Control applies changes and watches their effect. Its methods are safe for
// concurrent use.
type Control struct {
	cfg Config
	log *slog.Logger
	js  jetstream.JetStream // nil without a connection

	readTimeout, writeTimeout, settleTimeout time.Duration

	late time.Duration // how long a write without an answer may be under way

	absent atomic.Bool   // the bucket was not there when it was last asked for
	wake   chan struct{} // the bucket was just created: the follower need not wait

	journal sync.Mutex      // one append at a time, taken before mu
	owed    []traffic.Entry // guarded by journal: happened, but the ledger did not take it yet

	mu        sync.Mutex // guards all below; never held over I/O
	booted    bool       // the ledger was replayed
	trouble   error      // why the KV does not serve, as the follower last saw it
	splits    map[string]traffic.Revision
	histories map[string][]traffic.Revision // newest first, as the watch told
	followed  time.Time                     // when the bucket that is followed was created
	gone      map[string]uint64             // token of the delete marker of a split
	busy      map[string]chan struct{}
	book      *book
	decisions map[string]traffic.Decision
	bad       map[string]int      // by change: how often in a row its effect looked bad
	bases     map[string]baseline // by change that bakes
	tuned     map[string]progress
	recorded  map[string]recording // by split: its last suggestion in the journal
	interval  time.Duration        // of the collector, as the observations say
	attempts  map[string]attempt   // by measurement that could not be put back yet, or consumer's change: when it is looked at next
	driven    map[string]driven    // by split
	drifted   time.Time            // when verified changes of consumers were last held against them
}

// New builds a Control. Nothing starts before Run.
func New(cfg Config) *Control {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Bake <= 0 {
		cfg.Bake = defaultBake
	}
	if cfg.Every <= 0 {
		cfg.Every = defaultEvery
	}
	c := &Control{
		cfg:           cfg,
		log:           cfg.Log.With("component", "control"),
		readTimeout:   readTimeout,
		writeTimeout:  writeTimeout,
		settleTimeout: settleTimeout,
		late:          lateWrite,
		wake:          make(chan struct{}, 1),
		splits:        map[string]traffic.Revision{},
		histories:     map[string][]traffic.Revision{},
		gone:          map[string]uint64{},
		busy:          map[string]chan struct{}{},
		book:          newBook(),
		decisions:     map[string]traffic.Decision{},
		tuned:         map[string]progress{},
		recorded:      map[string]recording{},
		bad:           map[string]int{},
		bases:         map[string]baseline{},
		attempts:      map[string]attempt{},
		driven:        map[string]driven{},
	}
	if cfg.Conn != nil {
		// It refuses only options that are given wrongly, and none is given.
		c.js, _ = jetstream.New(cfg.Conn)
	}
	return c
}

// Run replays the ledger, then follows the KV, watches over changes and asks
// the tuner, until ctx ends; it then returns nil. A ledger that cannot be read
// is tried again: until it was, nothing is changed.
func (c *Control) Run(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := c.replay(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		c.log.ErrorContext(ctx, "replay of the journal", "err", err)
		c.mu.Lock()
		c.trouble = unavailable("The journal cannot be read.", "Check the data directory and its disk.", err)
		c.mu.Unlock()
		if !pause(ctx, wait) {
			return nil
		}
	}
	c.reconcile(ctx)
	c.mu.Lock()
	c.booted, c.trouble = true, nil
	if c.js != nil {
		c.trouble = unavailable("The splits are still being read.", "Try again in a moment.", nil)
	}
	c.mu.Unlock()

	g, ctx := errgroup.WithContext(ctx)
	if c.js != nil {
		g.Go(func() error { return c.follow(ctx) })
	}
	g.Go(func() error { return c.every(ctx, c.care) })
	g.Go(func() error { return c.every(ctx, c.tend) })
	g.Go(func() error {
		return c.every(ctx, func(ctx context.Context) {
			c.tendConsumers(ctx)
			c.driftConsumers(ctx)
		})
	})
	if len(c.cfg.Drivers) > 0 {
		g.Go(func() error { return c.every(ctx, c.drive) })
	}
	if a := c.cfg.Advisor; a != nil {
		g.Go(func() error { return c.every(ctx, func(ctx context.Context) { c.tune(ctx, a) }) })
	}
	err := g.Wait()
	c.windUp(ctx)
	c.pay(ctx) // what happened must not be forgotten with the program
	return err
}

// every calls step at the configured pace until ctx ends.
func (c *Control) every(ctx context.Context, step func(context.Context)) error {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	for {
		step(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// pause waits for d and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// now is the time as it survives the journal.
func (c *Control) now() time.Time { return c.cfg.Now().UTC().Round(0) }

// Ready says in words for the operator why nothing can be applied now, or nil.
func (c *Control) Ready() error {
	if err := c.open(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble
}

// open says what refuses a change before NATS is even asked. The follower's
// trouble is not part of it: that may be over already, and the leader read of
// the change itself knows better.
func (c *Control) open() error {
	if c.cfg.ReadOnly {
		return &fleet.Error{Kind: fleet.Forbidden, Msg: "This console only watches.", Hint: "Start it without --read-only to change weights."}
	}
	if c.cfg.Conn == nil {
		return noConn()
	}
	c.mu.Lock()
	booted, trouble := c.booted, c.trouble
	c.mu.Unlock()
	switch {
	case !booted && trouble != nil:
		return trouble
	case !booted:
		return unavailable("The journal is still being read.", "Try again in a moment.", nil)
	case !c.cfg.Conn.IsConnected():
		return c.offline()
	}
	return nil
}

func noConn() *fleet.Error {
	return unavailable("No NATS connection is configured.", "Give --nats and the credentials of a user that may steer.", nil)
}

func (c *Control) offline() *fleet.Error {
	return unavailable("NATS is not connected.", "Weights in force stay as they are; check the servers and the network.", c.cfg.Conn.LastError())
}

// Splits lists the splits as the KV last told them, by name.
func (c *Control) Splits() []traffic.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]traffic.Revision, 0, len(c.splits))
	for _, r := range c.splits {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b traffic.Revision) int {
		switch {
		case a.Split.Name < b.Split.Name:
			return -1
		case a.Split.Name > b.Split.Name:
			return 1
		}
		return 0
	})
	return all
}

// Split returns a split as the KV last told it.
func (c *Control) Split(name string) (traffic.Revision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.splits[name]
	if !ok {
		return traffic.Revision{}, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no split %q.", name), Hint: "Look at the list of splits."}
	}
	return r, nil
}

// Changes are newest first; "" is all splits, a limit of 0 is no limit.
func (c *Control) Changes(split string, limit int) []traffic.Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	return newest(c.book.order, c.book.changes, limit, func(ch traffic.Change) bool { return split == "" || ch.Split == split })
}

// Change finds a change by id.
func (c *Control) Change(id string) (traffic.Change, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.book.changes[id]
	if !ok {
		return traffic.Change{}, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no change %q.", id), Hint: "Old changes are in the journal."}
	}
	return ch, nil
}

// Proposals are newest first; "" is all splits, a limit of 0 is no limit.
func (c *Control) Proposals(split string, limit int) []traffic.Proposal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return newest(c.book.offered, c.book.proposals, limit, func(p traffic.Proposal) bool { return split == "" || p.Split == split })
}

// Proposal finds a proposal by id.
func (c *Control) Proposal(id string) (traffic.Proposal, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.book.proposals[id]
	if !ok {
		return traffic.Proposal{}, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no suggestion %q.", id), Hint: "Old suggestions are in the journal."}
	}
	return p, nil
}

// Decision is the tuner's last word on a split: also why it holds.
func (c *Control) Decision(split string) (traffic.Decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.decisions[split]
	return d, ok
}

func newest[T any](ids []string, by map[string]T, limit int, want func(T) bool) []T {
	var out []T
	for _, id := range slices.Backward(ids) {
		if limit > 0 && len(out) == limit {
			break
		}
		if v := by[id]; want(v) {
			out = append(out, v)
		}
	}
	return out
}

// claim makes the caller the only one who changes the split; release undoes it.
func (c *Control) claim(ctx context.Context, split string) (release func(), err error) {
	one := c.gate(split)
	select {
	case one <- struct{}{}:
		return func() { <-one }, nil
	case <-ctx.Done():
		return nil, unavailable("Another change of this split is under way.", "Try again in a moment.", ctx.Err())
	}
}

// tryClaim is claim for whoever comes back later anyway.
func (c *Control) tryClaim(split string) (release func(), ok bool) {
	one := c.gate(split)
	select {
	case one <- struct{}{}:
		return func() { <-one }, true
	default:
		return nil, false
	}
}

func (c *Control) gate(split string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	one, ok := c.busy[split]
	if !ok {
		one = make(chan struct{}, 1)
		c.busy[split] = one
	}
	return one
}

func unavailable(msg, hint string, err error) *fleet.Error {
	return &fleet.Error{Kind: fleet.Unavailable, Msg: msg, Hint: hint, Err: err}
}

// rest is a context for what must be finished although the asker went away.
func rest(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// words returns the sentence of an error that is meant for an operator.
func words(err error) string {
	var e *fleet.Error
	if errors.As(err, &e) {
		return e.Msg
	}
	return err.Error()
}
