package loadtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

const (
	quickWork    = 2 * time.Millisecond // what a healthy worker takes for a message
	slowWork     = 20 * quickWork       // four handlers do 100 a second then
	crewAckWait  = 2 * time.Second
	pinnedFor    = 2 * time.Second
	overflowFrom = 50
	window       = 50 // messages over which a share is taken
)

// form is a way to have a backup.
type form struct {
	name    string
	policy  jetstream.PriorityPolicy
	backup  lb.PriorityGroup // the primary's has only a name
	own     bool             // each target has a consumer of its own
	request bool             // no stream: requests to two services
	moved   time.Duration    // the document changes so long after the fault and after its end; 0 never
	idle    bool             // the backup gets nothing
	stays   bool             // what has moved to the backup does not come back by itself
}

var crewGroup = lb.PriorityGroup{Name: "crew"}

var forms = []form{
	{name: "one consumer, no policy"},
	{name: "prioritized", policy: jetstream.PriorityPolicyPrioritized, backup: lb.PriorityGroup{Name: "crew", Priority: 1}},
	{name: "overflow", policy: jetstream.PriorityPolicyOverflow, backup: lb.PriorityGroup{Name: "crew", MinPending: overflowFrom}},
	{name: "pinned_client", policy: jetstream.PriorityPolicyPinned, backup: crewGroup, stays: true},
	{name: "lb breaker, Request", request: true},
	{name: "lb, PublishJS to two streams", own: true, idle: true},
	{name: "the same, weights changed after 2 s", own: true, moved: 2 * time.Second},
}

// course is what happens to the primary.
type course struct {
	name      string
	hit, mend func(f *field)
	every     time.Duration // it comes and goes at this pace; 0 is once
}

var courses = []course{
	{name: "killed", hit: func(f *field) { f.primary.kill() }, mend: func(f *field) { f.primary = f.hire("primary") }},
	{name: "stopped", hit: func(f *field) { f.primary.signal(syscall.SIGSTOP) }, mend: func(f *field) { f.primary.signal(syscall.SIGCONT) }},
	{name: "slowed", hit: func(f *field) { f.primary.takes(slowWork) }, mend: func(f *field) { f.primary.takes(quickWork) }},
	{name: "flapping", hit: func(f *field) { f.primary.signal(syscall.SIGSTOP) }, mend: func(f *field) { f.primary.signal(syscall.SIGCONT) }, every: 2 * time.Second},
}

// field is one run: a server, a publisher, two worker processes.
type field struct {
	tb   testing.TB
	form form
	try  trial
	book book
	srv  *server.Server
	js   jetstream.JetStream
	kv   jetstream.KeyValue
	rev  uint64

	primary, backup *process
}

func split(first string, timeout time.Duration) traffic.Split {
	s := traffic.Split{
		Name: "orders", Subject: "orders", Pick: traffic.Weighted, Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawCapacity,
		Lanes: []traffic.Lane{{Name: "high", TimeoutMS: int(timeout.Milliseconds()), Retries: 3, Fallback: "backup"}},
		// What times out before the breaker has seen enough is repeated once: two
		// intervals of 2 s at the rate.
		Retry: &traffic.Retries{Burst: 1000},
	}
	for _, name := range []string{"primary", "backup"} {
		tier := 1
		if name == first {
			tier = 0
		}
		s.Targets = append(s.Targets, traffic.Target{Name: name, Subject: "orders." + name, Weight: 100, Tier: tier, State: traffic.Ready})
	}
	return s
}

// asker sends requests where a load test publishes.
type asker struct{ to lb.Sender }

func (a asker) PublishJS(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	if _, err := a.to.Request(ctx, msg); err != nil {
		return nil, err
	}
	return &jetstream.PubAck{}, nil
}

func newField(tb testing.TB, form form, try trial) *field {
	tb.Helper()
	f := &field{tb: tb, form: form, try: try, srv: natstest.Server(tb)}
	nc := natstest.Connect(tb, f.srv.ClientURL())
	var err error
	if f.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second)); err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	if f.kv, err = f.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: traffic.Bucket, History: 8}); err != nil {
		tb.Fatal(err)
	}
	if err := f.divide("primary"); err != nil {
		tb.Fatal(err)
	}
	if form.request {
		return f
	}
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{Name: crewStream, Subjects: []string{"orders.>"}})
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range []string{"primary", "backup"} {
		cfg := jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: crewAckWait, MaxAckPending: 1000}
		if form.own {
			cfg.FilterSubject = "orders." + name
		}
		if form.policy != jetstream.PriorityPolicyNone {
			cfg.PriorityPolicy, cfg.PriorityGroups = form.policy, []string{crewGroup.Name}
		}
		if form.policy == jetstream.PriorityPolicyPinned {
			cfg.PinnedTTL = pinnedFor
		}
		if _, err := stream.CreateConsumer(ctx, cfg); err != nil {
			tb.Fatal(err)
		}
		if !form.own {
			break // both work on the first one
		}
	}
	return f
}

// divide writes the split's document: who is first and who backs it up.
func (f *field) divide(first string) error {
	f.rev++
	doc, err := traffic.Revision{
		V: traffic.Version, Epoch: 1, Number: f.rev, Base: f.rev - 1, Change: "chg", Author: "test", Reason: "test", At: time.Now().UTC(), Split: split(first, f.try.timeout),
	}.Marshal()
	if err != nil {
		return err
	}
	_, err = f.kv.Put(context.Background(), traffic.Key("orders"), doc)
	return err
}

func (f *field) hire(name string) *process {
	f.tb.Helper()
	m := member{URL: f.srv.ClientURL(), Name: name, Consumer: "primary", Takes: quickWork}
	if f.form.policy != jetstream.PriorityPolicyNone {
		m.Group = crewGroup
		if name == "backup" {
			m.Group = f.form.backup
		}
	}
	if f.form.own {
		m.Consumer = name
	}
	if f.form.request {
		m.Subject = "orders." + name
	}
	return f.book.hire(f.tb, m)
}

// present waits until a member that was hired is at work.
func (f *field) present(name string, requests int) {
	f.tb.Helper()
	if f.form.request {
		wait.For(f.tb, time.Minute, name+" to answer", func() bool {
			_, err := f.js.Conn().Request("orders."+name, nil, 10*time.Second)
			return err == nil
		})
		return
	}
	consumer := "primary"
	if f.form.own {
		consumer, requests = name, 1
	}
	wait.For(f.tb, time.Minute, name+" to ask for messages", func() bool {
		c, err := f.js.Consumer(context.Background(), crewStream, consumer)
		return err == nil && c.CachedInfo().NumWaiting >= requests
	})
}

// publisher is the application's.
func (f *field) publisher(ctx context.Context) (Publisher, <-chan error) {
	f.tb.Helper()
	nc := natstest.Connect(f.tb, f.srv.ClientURL())
	p, err := lb.NewPublisher(nc, "orders", lb.WithRepeatableRequests(), lb.WithBreaker(f.try.breaker))
	if err != nil {
		f.tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := p.Ready(ready); err != nil {
		f.tb.Fatal(err)
	}
	switch {
	case f.form.request:
		return asker{p.Lane("high")}, ended
	case f.try.patient:
		return p.Lane("high"), ended
	}
	return p, ended
}

// result is what one run has shown.
type result struct {
	toBackup time.Duration // from the fault to the first message that the backup has worked off; -1 never
	toReturn time.Duration // from its end until the primary has its share again; -1 not
	oldest   time.Duration // age of a message when it was worked off
	sent     int
	lost     int
	twice    int // worked off more than once
}

// trial is how much, how long, and how patient.
type trial struct {
	rate    float64       // messages a second
	healthy int           // messages before the fault
	lasts   time.Duration // of the fault
	back    time.Duration // for the primary to have its share again
	timeout time.Duration // of an attempt in the lane
	patient bool          // streams are published to in the lane too
	breaker traffic.BreakerConfig
}

// run lets a fault come and go under load.
func run(tb testing.TB, form form, c course, try trial) result {
	tb.Helper()
	f := newField(tb, form, try)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	publisher, published := f.publisher(ctx)
	// The primary comes first, so that it is the one that gets pinned.
	f.primary = f.hire("primary")
	f.present("primary", 1)
	load, endLoad := context.WithCancel(ctx)
	defer endLoad()
	var report Report
	ended := make(chan error, 1)
	go func() {
		var err error
		report, err = Run(load, Config{Publisher: publisher, Rate: try.rate, Count: 1_000_000, Timeout: time.Minute, Run: crewRun})
		ended <- err
	}()
	wait.For(tb, time.Minute, "the primary to work", func() bool { return f.book.by("primary", time.Time{}) >= 20 })
	f.backup = f.hire("backup")
	f.present("backup", 2)
	since := time.Now()
	wait.For(tb, time.Minute, "a healthy start", func() bool { return f.book.by("primary", since) >= try.healthy })
	healthy := share(f.book.all(), since)

	hit := time.Now()
	f.fault(c, try.lasts)
	mended := time.Now()
	back := f.returned(mended, 0.9*healthy, try.back)
	endLoad()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		tb.Fatalf("the load ended with %v", err)
	}
	unseen := f.drain(&report)
	cancel()
	if err := <-published; err != nil {
		tb.Errorf("publisher: %v", err)
	}
	return f.sum(report, hit, back, unseen)
}

// fault lets the primary fail for a while. An operator, or the tuner, changes the
// weights after some time if the form says so.
func (f *field) fault(c course, lasts time.Duration) {
	var change sync.WaitGroup
	f.shift(&change, "backup")
	c.hit(f)
	if c.every > 0 {
		for end := time.Now().Add(lasts); time.Now().Before(end); {
			<-time.After(c.every)
			c.mend(f)
			<-time.After(c.every)
			c.hit(f)
		}
	} else {
		<-time.After(lasts)
	}
	change.Wait()
	c.mend(f)
	f.shift(&change, "primary")
	change.Wait()
}

func (f *field) shift(change *sync.WaitGroup, first string) {
	if f.form.moved > 0 {
		change.Go(func() {
			<-time.After(f.form.moved)
			if err := f.divide(first); err != nil {
				f.tb.Errorf("change the weights: %v", err)
			}
		})
	}
}

// share is the primary's part of what was worked off since a moment.
func share(steps []step, since time.Time) float64 {
	n, primary := 0, 0
	for _, s := range steps {
		if s.at.Before(since) {
			continue
		}
		n++
		if s.who == "primary" {
			primary++
		}
	}
	return float64(primary) / float64(max(n, 1))
}

// firsts are the steps in the order of time, without those that worked off a
// message again: what a stopped process finds when it goes on is no share of it.
func (f *field) firsts() (out []step) {
	steps := slices.Clone(f.book.all())
	slices.SortStableFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
	seen := map[int]bool{}
	for _, s := range steps {
		if !seen[s.n] {
			seen[s.n] = true
			out = append(out, s)
		}
	}
	return out
}

// returned waits until the primary has so large a share again, over a window of
// messages; -1 is not within patience.
func (f *field) returned(since time.Time, want float64, patience time.Duration) time.Duration {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var after []step
		for _, s := range f.firsts() {
			if !s.at.Before(since) {
				after = append(after, s)
			}
		}
		for i := range max(0, len(after)-window+1) {
			if share(after[i:i+window], time.Time{}) >= want {
				return after[i].at.Sub(since)
			}
		}
		select {
		case <-deadline.C:
			return -1
		case <-tick.C:
		}
	}
}

// drain waits until everything that was acknowledged has been worked off, and
// returns how many messages never were.
func (f *field) drain(report *Report) (unseen int) {
	missing := func() (n int) {
		seen := make([]bool, len(report.acked))
		for _, s := range f.book.all() {
			seen[s.n] = true
		}
		for n, acked := range report.acked {
			if acked && !seen[n] {
				unseen++
			}
		}
		n, unseen = unseen, 0
		return n
	}
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n := missing()
		if n == 0 {
			return 0
		}
		select {
		case <-deadline.C:
			return n
		case <-tick.C:
		}
	}
}

func (f *field) sum(report Report, hit time.Time, back time.Duration, unseen int) result {
	r := result{toBackup: -1, toReturn: back, sent: report.Due, lost: report.Failed + unseen}
	firsts := f.firsts()
	r.twice = len(f.book.all()) - len(firsts)
	gap := time.Duration(float64(time.Second) / f.try.rate)
	for _, s := range firsts {
		if s.who == "backup" && r.toBackup < 0 && !s.at.Before(hit) {
			r.toBackup = s.at.Sub(hit)
		}
		r.oldest = max(r.oldest, s.at.Sub(report.Started.Add(time.Duration(s.n)*gap)))
	}
	return r
}

// What each way to have a backup does when the primary fails, on a real server
// with worker processes. Each run of the tests kills the primary of each form;
// BALLAST_MEASURE=failover runs all faults five times and writes the table of
// docs/failover.md.
func TestFailover(t *testing.T) {
	if os.Getenv("BALLAST_MEASURE") == "failover" {
		measureFailover(t)
		return
	}
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			// Who is killed is gone at once; time-outs are for a machine that is busy.
			try := trial{
				rate: 100, healthy: 50, lasts: 3 * time.Second, back: time.Minute, timeout: 5 * time.Second, patient: true,
				breaker: traffic.BreakerConfig{OpenFor: time.Second, Interval: 500 * time.Millisecond},
			}
			if form.stays {
				try.back = time.Second
			}
			r := run(t, form, courses[0], try)
			t.Logf("%+v", r)
			if r.lost != 0 {
				t.Errorf("%d of %d messages were lost", r.lost, r.sent)
			}
			if form.idle != (r.toBackup < 0) {
				t.Errorf("the backup's first message came after %v", r.toBackup)
			}
			if !form.stays && r.toReturn < 0 {
				t.Error("the primary did not get its share again")
			}
		})
	}
}

func measureFailover(t *testing.T) {
	const rounds = 5
	results := map[string][]result{}
	var mu sync.Mutex
	t.Run("runs", func(t *testing.T) {
		slots := make(chan struct{}, 3) // runs at a time; they mostly wait
		for round := range rounds {
			for _, c := range courses {
				for _, form := range forms {
					t.Run(fmt.Sprintf("%d/%s/%s", round, c.name, form.name), func(t *testing.T) {
						t.Parallel()
						slots <- struct{}{}
						defer func() { <-slots }()
						try := trial{rate: 200, healthy: 200, lasts: 6 * time.Second, back: time.Minute, timeout: 250 * time.Millisecond}
						if form.stays {
							try.back = 5 * time.Second
						}
						r := run(t, form, c, try)
						t.Logf("%+v", r)
						mu.Lock()
						defer mu.Unlock()
						key := c.name + "/" + form.name
						results[key] = append(results[key], r)
					})
				}
			}
		}
	})
	var b strings.Builder
	for _, c := range courses {
		fmt.Fprintf(&b, "\n%s\n\n| | first message at the backup | oldest message | lost | worked off twice | primary has its share again |\n| --- | --- | --- | --- | --- | --- |\n", c.name)
		for _, form := range forms {
			rs := results[c.name+"/"+form.name]
			lost := 0
			for _, r := range rs {
				lost += r.lost
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %d | %s | %s |\n", form.name, median(rs, func(r result) time.Duration { return r.toBackup }),
				median(rs, func(r result) time.Duration { return r.oldest }), lost, count(rs, func(r result) int { return r.twice }),
				median(rs, func(r result) time.Duration { return r.toReturn }))
		}
	}
	t.Log(b.String())
}

// median of durations, as text; "never" when most are.
func median(rs []result, of func(result) time.Duration) string {
	if len(rs) == 0 {
		return "–"
	}
	var all []time.Duration
	for _, r := range rs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	switch d := all[len(all)/2]; {
	case d < 0:
		return "never"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(100 * time.Millisecond).String()
	}
}

// count is the median of numbers, with the largest when it differs.
func count(rs []result, of func(result) int) string {
	if len(rs) == 0 {
		return "–"
	}
	var all []int
	for _, r := range rs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	if m, most := all[len(all)/2], all[len(all)-1]; m != most {
		return fmt.Sprintf("%d (%d)", m, most)
	}
	return fmt.Sprint(all[0])
}
