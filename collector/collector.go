// Package collector looks at a NATS system at a steady pace and hands what it
// saw to a sink: snapshots of the servers, measured acknowledgement latencies,
// worker reports and events. Every source has its own file and is useful alone.
// It reads from NATS and never writes to it, keeps nothing but what the next
// round needs, and never keeps or logs a secret.
package collector

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/reportpb"
)

// Sink takes what was collected. It owns what it is given.
type Sink interface {
	PutSnapshot(ctx context.Context, s fleet.Snapshot) error
	PutAcks(ctx context.Context, windows []fleet.AckWindow) error
	PutReports(ctx context.Context, reports []fleet.WorkerReport) error
	PutEvents(ctx context.Context, events []fleet.Event) error
}

// Config says where to look. Whatever is missing is not looked at; a snapshot's
// problems say what the missing source would add.
type Config struct {
	Monitor []string // monitoring URLs; other servers are discovered from them
	// Conn is a connection of the account that is measured and System one of the
	// system account. Each may be nil or not connected yet. The collector leaves
	// them open.
	Conn   *nats.Conn
	System *nats.Conn
	// Account is the name of Conn's account as the servers report it; "" asks the
	// server.
	Account  string
	Interval time.Duration // between two looks; 0 is 5 s
	AckEvery time.Duration // length of a window of ACK latencies; 0 is Interval
	// Sparing listens to the samples of acknowledgements in turns when there are
	// many, but for the consumers of Conn's account that Followed names, if given,
	// which are listened to all the time.
	Sparing  bool
	Followed func() []fleet.ConsumerKey

	TLS        *tls.Config  // for monitoring over https
	HTTPClient *http.Client // its transport is used instead of the collector's own
	Log        *slog.Logger
	Now        func() time.Time

	largest   int64 // answer that is read; 0 is maxAnswer
	pageAbove int64 // answer beyond which accounts are asked for in parts; 0 is pageAbove
}

const (
	// requestTimeout bounds a small request. A server that needs longer is in
	// trouble, and the next round asks again.
	requestTimeout = 2 * time.Second
	// bulkTimeout bounds a request for all streams or connections: 1.2 s was seen
	// for 10,000 consumers on a busy machine.
	bulkTimeout = 5 * time.Second
	// graceTime is how long a round waits for those that did not answer in the
	// round before, beyond the time that the others take.
	graceTime = 100 * time.Millisecond
	// forgetAfter is how long a server that stopped answering stays in the
	// snapshot; one that is configured stays for ever.
	forgetAfter = 10 * time.Minute
	// maxAnswer bounds an answer, decompressed. 10,000 consumers take 14 MB.
	maxAnswer = 32 << 20
	// bulkDuty bounds the share of the time that a server spends on answering
	// with all its streams and consumers to 1/bulkDuty.
	bulkDuty = 10
)

// maxUnsent bounds the windows that are offered again after the sink refused
// them: a few minutes of a big system. Beyond it they are given up.
const maxUnsent = 20_000

// Collector is made by New and works while Run runs.
type Collector struct {
	cfg      Config
	sink     Sink
	log      *slog.Logger
	now      func() time.Time
	monitor  *monitor
	system   *system
	account  *account
	acks     *acks
	hearing  *hearing
	reports  *reports
	pushed   *pushed
	services *services

	// unsent are windows that the sink did not take, to be offered again; owned by
	// the goroutine that flushes.
	unsent []fleet.AckWindow

	// What follows is owned by the goroutine of Run's rounds.
	inv         inventory
	last        *fleet.Snapshot
	toldBy      map[string]bool          // servers whose streams were known then; "" is the account
	since       map[problemKey]time.Time // when a problem was seen first
	restarted   map[string]bool          // servers that may still be recovering, by name
	cost        fleet.Cost               // since the last snapshot
	open        int                      // requests under way
	wantConfigs bool                     // configurations are asked for before their time
	earlyAt     time.Time                // when they were last
	stale       bool                     // a configuration was changed since they were read
	folds       *folds
	queues      queues
	misfits     misfits
	needAccount bool // the account's own JetStream API has something to add

	// foldedIn tells the windows which row a short-lived consumer is summed in.
	foldedIn atomic.Pointer[map[fleet.ConsumerKey]string]

	results  chan answer // from the sources to the rounds
	inFlight sync.WaitGroup
}

// New builds a collector; it starts nothing.
func New(cfg Config, sink Sink) (*Collector, error) {
	cfg.Interval = cmp.Or(cfg.Interval, 5*time.Second)
	cfg.AckEvery = cmp.Or(cfg.AckEvery, cfg.Interval)
	if cfg.Interval < 100*time.Millisecond || cfg.AckEvery < 100*time.Millisecond {
		return nil, &fleet.Error{
			Kind: fleet.Invalid,
			Msg:  fmt.Sprintf("the collection interval %v is too short", min(cfg.Interval, cfg.AckEvery)),
			Hint: "Use 100ms or more; 5s suits most systems.",
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Collector{
		cfg: cfg, sink: sink, now: cfg.Now,
		log:   cfg.Log.With("component", "collector"),
		since: map[problemKey]time.Time{}, restarted: map[string]bool{},
		results: make(chan answer),
	}
	var err error
	if c.monitor, err = newMonitor(cfg); err != nil {
		return nil, err
	}
	c.system = newSystem(cfg)
	c.account = newAccount(cfg.Conn, cfg.Account, cfg.Now)
	c.acks = newAcks(cfg.Now)
	c.hearing = newHearing(cfg.Conn, c.acks, cfg.Followed)
	c.reports = newReports(cfg.Now)
	c.pushed = newPushed(cfg.Now)
	c.services = newServices(cfg.Conn, cfg.Now)
	c.folds = newFolds(cfg.Now)
	c.misfits.after = 2 * time.Duration(everyRounds[fleet.Slow]) * cfg.Interval
	return c, nil
}

// Run collects until ctx ends, then hands over what it still holds and returns
// nil once all of it has stopped. What goes wrong on the way is told in the
// snapshots' problems and logged; the next round starts on time.
func (c *Collector) Run(ctx context.Context) error {
	defer c.listen(ctx)()
	var wg sync.WaitGroup
	wg.Go(func() { c.flushLoop(ctx) })
	if c.cfg.Sparing && c.hearing.all != nil {
		wg.Go(func() {
			if err := c.hearing.run(ctx); err != nil {
				c.log.ErrorContext(ctx, "acknowledgement samples are listened to no more", "err", err)
			}
		})
	}
	tick := time.NewTicker(c.cfg.Interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.round(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	c.inFlight.Wait()
	wg.Wait()
	c.monitor.close()
	return nil
}

// listen subscribes to what NATS pushes. A connection that is still being
// established takes the subscriptions along; one that is closed for good must
// not stop the console, which then says so in the snapshots' problems.
func (c *Collector) listen(ctx context.Context) (stop func()) {
	var subs []*nats.Subscription
	subscribe := func(nc *nats.Conn, subject string, f nats.MsgHandler) *nats.Subscription {
		if nc == nil {
			return nil
		}
		s, err := nc.Subscribe(subject, f)
		if err == nil {
			err = s.SetPendingLimits(maxWaiting, maxWaitingBytes)
		}
		if err != nil {
			c.log.ErrorContext(ctx, "not subscribed", "subject", subject, "err", err)
			return nil
		}
		subs = append(subs, s)
		return s
	}
	if c.cfg.Conn != nil {
		if err := c.hearing.open(); err != nil {
			c.log.ErrorContext(ctx, "not subscribed", "subject", ackSubject+">", "err", err)
		}
	}
	c.reports.sub = subscribe(c.cfg.Conn, reportpb.Wildcard, c.reports.take)
	pushes := []*nats.Subscription{
		subscribe(c.cfg.Conn, advisorySubject+">", func(m *nats.Msg) { c.pushed.takeAdvisory(m, true) }),
		subscribe(c.cfg.System, advisorySubject+">", func(m *nats.Msg) { c.pushed.takeAdvisory(m, false) }),
	}
	for _, subject := range serverSubjects {
		pushes = append(pushes, subscribe(c.cfg.System, subject, c.pushed.takeServer))
	}
	c.pushed.listenTo(pushes)
	return func() {
		c.hearing.close()
		for _, s := range subs {
			s.Unsubscribe() // a closed connection has forgotten it already
		}
	}
}

// flushLoop hands over ACK windows and worker reports, aligned to the clock so
// that the windows of all consumers are the same and divide the store's
// roll-ups.
func (c *Collector) flushLoop(ctx context.Context) {
	from := c.now()
	c.acks.cut(from)
	for {
		next := from.Truncate(c.cfg.AckEvery).Add(c.cfg.AckEvery)
		wait := time.NewTimer(next.Sub(c.now()))
		select {
		case <-ctx.Done():
			wait.Stop()
			// The last window is short, but nothing that was measured is lost.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
			c.flush(last, c.now())
			cancel()
			return
		case <-wait.C:
		}
		// After a pause of the machine the window is as long as the pause was.
		now := c.now()
		from = now.Truncate(c.cfg.AckEvery)
		if from.Before(next) {
			from = next
		}
		c.flush(ctx, from)
	}
}

func (c *Collector) flush(ctx context.Context, to time.Time) {
	windows := c.acks.cut(to)
	if len(windows) > 0 {
		account := c.account.name(ctx)
		for i := range windows {
			windows[i].Account = account
		}
		if of := c.foldedIn.Load(); of != nil {
			windows = foldWindows(windows, *of)
		}
	}
	if windows = append(c.unsent, windows...); len(windows) > 0 {
		err := c.sink.PutAcks(ctx, windows)
		if err != nil && !errors.Is(err, context.Canceled) {
			c.log.ErrorContext(ctx, "acknowledgement latencies not stored", "windows", len(windows), "err", err)
		}
		c.unsent = nil
		if err != nil && len(windows) <= maxUnsent {
			c.unsent = windows
		}
	}
	if reports := c.reports.cut(); len(reports) > 0 {
		if err := c.sink.PutReports(ctx, reports); err != nil && !errors.Is(err, context.Canceled) {
			c.log.ErrorContext(ctx, "worker reports not stored", "reports", len(reports), "err", err)
		}
	}
}

// place returns a monitoring URL without what may be secret in it.
func place(u *url.URL) string {
	p := *u
	p.User, p.RawQuery, p.Fragment = nil, "", ""
	return p.String()
}
