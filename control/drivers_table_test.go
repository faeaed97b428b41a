package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// tableSize says how much is measured: "drivers" in BALLAST_MEASURE is for the
// table of docs/drivers.md, anything else shows that nothing is lost.
type tableSize struct {
	flips  int // changes under traffic
	sample int // messages that a share is judged by
	rounds int // of a server that was away
}

func sizeOfTable() tableSize {
	if os.Getenv("BALLAST_MEASURE") == "drivers" {
		return tableSize{flips: 40, sample: 20_000, rounds: 5}
	}
	return tableSize{flips: 3, sample: 1500, rounds: 1}
}

// What each driver does on real servers while messages flow through all of them:
// how long until they follow, how well, what is lost, and what a server that was
// away does when it is back. Nothing may be lost and nothing stored twice; times
// are reported, not asserted.
func TestDriversTable(t *testing.T) {
	t.Parallel()
	size := sizeOfTable()
	t.Run("kv", func(t *testing.T) {
		t.Parallel()
		c := natstest.Cluster(t, 3)
		r := newRig(t, c, traffic.DriverKV, nil)
		r.changes(size)
		for range size.rounds {
			r.away("down during the change", nil, nil)
		}
		r.report()
	})
	t.Run("mapping-jwt", func(t *testing.T) {
		t.Parallel()
		o := natstest.OperatorCluster(t, 3, nil, natstest.ResolverInterval(time.Minute)) // as servers have it if not told otherwise
		drv := NewClaimsDriver(ClaimsConfig{Conn: o.App(t), System: o.Sys(t), KeyFile: o.KeyFile})
		r := newRig(t, o.Servers, traffic.DriverMappingJWT, func(*rig, *Control) Driver { return drv })
		r.changes(size)
		jwts := func(i int) string { return filepath.Join(o.Dir(i), "jwt") }
		for range size.rounds {
			r.away("down during the change", nil, nil)
		}
		if size.rounds > 1 { // the folder of a server that was down is as old
			for range size.rounds {
				r.away("back with an old folder of claims", jwts, nil)
			}
		}
		r.report()
	})
	t.Run("mapping-config", func(t *testing.T) {
		t.Parallel()
		file, c := filed(t, 3)
		r := newRig(t, c, traffic.DriverMappingConfig, func(r *rig, console *Control) Driver {
			d := NewFileDriver(FileConfig{Conn: c.App(t), System: c.Sys(t), File: file, Splits: func() ([]traffic.Split, error) { return console.Driven(traffic.DriverMappingConfig) }})
			if underRace {
				return paused{d, r.pause}
			}
			return d
		})
		r.changes(size)
		for range size.rounds {
			r.away("down during the change", nil, nil)
		}
		for range size.rounds {
			r.away("back with an old file", nil, func() string { return file })
		}
		r.report()
	})
}

// arrival is a message as a subscriber saw it.
type arrival struct {
	target string
	from   int           // publisher
	sent   time.Duration // since the rig began
}

// tally counts messages by their names: none may be missing, none twice.
type tally struct {
	mu       sync.Mutex
	seen     map[string]int
	arrivals []arrival
	runs     map[int]run // by publisher
}

// run is how often in a row a publisher's messages went to one target.
type run struct {
	target string
	n      int
}

func (c *tally) take(name, target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[name]++
	kind, rest, _ := strings.Cut(name, ".")
	parts := strings.Split(rest, ".")
	if kind != "core" || len(parts) != 3 {
		return
	}
	from, _ := strconv.Atoi(parts[0])
	sent, _ := strconv.ParseInt(parts[2], 10, 64)
	c.arrivals = append(c.arrivals, arrival{target: target, from: from, sent: time.Duration(sent)})
	if r := c.runs[from]; r.target == target {
		c.runs[from] = run{target, r.n + 1}
	} else {
		c.runs[from] = run{target, 1}
	}
}

// after are the messages that arrived after the first n.
func (c *tally) after(n int) []arrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.arrivals[n:])
}

func (c *tally) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.arrivals)
}

// follows reports whether what each of the publishers sends goes to one target.
func (c *tally) follows(target string, publishers []int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(publishers, func(i int) bool { return c.runs[i].target != target || c.runs[i].n < 10 })
}

// rig is a console with a split, and publishers on every server.
type rig struct {
	tb     testing.TB
	c      *natstest.Servers
	driver traffic.Driver
	conn   *nats.Conn
	ctl    *Control
	rev    uint64
	begun  time.Time

	heard  tally
	mu     sync.Mutex      // guards sent
	sent   map[string]bool // names of messages that were sent; of JetStream's, that were acknowledged
	failed atomic.Int64    // JetStream messages that were tried again

	gate sync.RWMutex // held to publish, and guards open
	open []*nats.Conn // of publishers

	first, last []time.Duration // of each change, after the call of Apply
	took        []time.Duration // the call of Apply
	errs        []float64       // points
	backs       map[string][]back
}

// back is what a server did that came back.
type back struct {
	follows time.Duration // until its last message by the old weights
	wrong   int           // messages by the old weights
}

const tablePace = 4 * time.Millisecond // between two messages of one publisher

func newRig(tb testing.TB, c *natstest.Servers, driver traffic.Driver, make func(*rig, *Control) Driver) *rig {
	tb.Helper()
	r := &rig{tb: tb, c: c, driver: driver, conn: c.App(tb), begun: time.Now(), sent: map[string]bool{}, backs: map[string][]back{}, heard: tally{seen: map[string]int{}, runs: map[int]run{}}}
	drivers := map[traffic.Driver]Driver{}
	r.ctl, _ = console(tb, Config{Conn: r.conn, Drivers: drivers, Bake: time.Hour}, func(ctl *Control) {
		if make != nil {
			drivers[driver] = make(r, ctl)
		}
	})
	js, err := jetstream.New(r.conn)
	if err != nil {
		tb.Fatal(err)
	}
	wait.For(tb, 60*time.Second, "the stream of the targets", func() bool {
		_, err := js.CreateOrUpdateStream(tb.Context(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"o.*"}, Replicas: 3, Storage: jetstream.MemoryStorage})
		return err == nil
	})
	r.apply(100, 0, 0)
	return r
}

// paused is a driver during whose pushes nobody publishes.
type paused struct {
	Driver
	pause func() (resume func())
}

func (p paused) Push(ctx context.Context, s traffic.Split) error {
	defer p.pause()()
	return p.Driver.Push(ctx, s)
}

// pause holds all publishers until resume is called. nats-server 2.15.2 writes a
// client's account in a reload while it is read without a lock for each message
// that is mapped (registerWithAccount, selectMappedSubject). The race detector
// counts that against the test: under it, publishers stand still while a file is
// reloaded.
func (r *rig) pause() (resume func()) {
	r.gate.Lock()
	for _, nc := range r.open {
		if err := nc.FlushTimeout(10 * time.Second); err != nil && !nc.IsClosed() {
			r.tb.Logf("flush before a reload: %v", err)
		}
	}
	return r.gate.Unlock
}

// listening counts what arrives, at server i, until stop is called.
func (r *rig) listening(i int) (stop func()) {
	r.tb.Helper()
	sub := natstest.Connect(r.tb, r.c.URL(i), r.c.AppOptions()...)
	for _, subject := range []string{"o.*", "orders"} {
		s, err := sub.Subscribe(subject, func(m *nats.Msg) { r.heard.take(string(m.Data), strings.TrimPrefix(m.Subject, "o.")) })
		if err == nil {
			err = s.SetPendingLimits(-1, -1)
		}
		if err != nil {
			r.tb.Fatal(err)
		}
	}
	if err := sub.Flush(); err != nil {
		r.tb.Fatal(err)
	}
	for k := range r.c.Len() {
		if r.c.Server(k) == nil {
			continue
		}
		nc := natstest.Connect(r.tb, r.c.URL(k), r.c.AppOptions()...)
		r.reaches(nc)
		nc.Close()
	}
	return func() {
		var lost []string
		defer func() {
			if lost != nil {
				r.tb.Logf("of %d missing: %q", len(lost), lost[:min(len(lost), 20)])
			}
		}()
		wait.For(r.tb, 60*time.Second, "all plain messages", func() bool {
			lost = r.missing()
			return lost == nil
		})
		sub.Close()
	}
}

// reaches waits until what is published on a connection is heard: a server hears
// of a subscription in its own time, after its start too, and what is published
// there before is nobody's.
func (r *rig) reaches(nc *nats.Conn) {
	r.tb.Helper()
	name := "probe." + nuid.Next()
	wait.For(r.tb, 60*time.Second, "the subscription to be known at a server", func() bool {
		if err := nc.Publish("o.probe", []byte(name)); err != nil {
			r.tb.Fatal(err)
		}
		r.heard.mu.Lock()
		defer r.heard.mu.Unlock()
		return r.heard.seen[name] > 0
	})
}

// missing are the plain messages that were sent and that nobody got.
func (r *rig) missing() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard.mu.Lock()
	defer r.heard.mu.Unlock()
	for name := range r.sent {
		if strings.HasPrefix(name, "core.") && r.heard.seen[name] == 0 {
			names = append(names, name)
		}
	}
	return names
}

func (r *rig) split(weights ...int) traffic.Split { return mapped(r.driver, weights...) }

// apply changes the weights, as soon as the KV has a leader.
func (r *rig) apply(weights ...int) (called, returned time.Duration) {
	r.tb.Helper()
	wait.For(r.tb, 120*time.Second, fmt.Sprintf("weights %v", weights), func() bool {
		if r.rev == 0 {
			if rev, err := r.ctl.Split("orders"); err == nil {
				r.rev = rev.Number
			}
		}
		called = time.Since(r.begun)
		ch, err := r.ctl.Apply(r.tb.Context(), edit(r.rev, r.split(weights...)))
		returned = time.Since(r.begun)
		if err == nil {
			r.rev = ch.Revision
		}
		return err == nil
	})
	return called, returned
}

// publishing publishes at server i until stop is called: plain messages all the
// time, and others that JetStream acknowledges.
func (r *rig) publishing(i int) (stop func()) {
	r.tb.Helper()
	nc := natstest.Connect(r.tb, r.c.URL(i), append(r.c.AppOptions(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers())...)
	wait.For(r.tb, 60*time.Second, "a publisher's connection", nc.IsConnected)
	r.reaches(nc)
	r.gate.Lock()
	r.open = append(r.open, nc)
	r.gate.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	plain := func(data []byte) error { return nc.Publish("orders", data) }
	js, err := jetstream.New(nc)
	if err != nil {
		r.tb.Fatal(err)
	}
	acked := func(msg *nats.Msg) error {
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		msg.Subject = "orders"
		_, err := js.PublishMsg(one, msg)
		return err
	}
	var g sync.WaitGroup
	if r.driver == traffic.DriverKV {
		p, err := lb.NewPublisher(nc, "orders")
		if err != nil {
			r.tb.Fatal(err)
		}
		g.Go(func() { _ = p.Run(ctx) })
		wait.For(r.tb, 60*time.Second, "a publisher's document", func() bool {
			one, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return p.Ready(one) == nil
		})
		plain = func(data []byte) error { return p.Publish(ctx, data) }
		acked = func(msg *nats.Msg) error {
			one, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_, err := p.PublishJS(one, msg)
			return err
		}
	}
	note := func(name string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sent[name] = true
	}
	run := fmt.Sprint(time.Since(r.begun).Nanoseconds())
	g.Go(func() {
		tick := time.NewTicker(tablePace)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			name := fmt.Sprintf("core.%d.%s-%d.%d", i, run, n, time.Since(r.begun).Nanoseconds())
			note(name)
			r.gate.RLock()
			err := plain([]byte(name))
			r.gate.RUnlock()
			if err != nil {
				r.tb.Errorf("publish at server %d: %v", i+1, err)
			}
			<-tick.C
		}
	})
	g.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			name := fmt.Sprintf("js.%d.%s-%d", i, run, n)
			for ctx.Err() == nil { // until it is certain
				r.gate.RLock()
				err := acked(&nats.Msg{Header: nats.Header{"Nats-Msg-Id": {name}}, Data: []byte(name)})
				r.gate.RUnlock()
				if err == nil {
					note(name)
					break
				}
				r.failed.Add(1)
			}
			pause(ctx, 5*tablePace)
		}
	})
	return func() {
		cancel()
		g.Wait()
		if err := nc.Flush(); err != nil {
			r.tb.Errorf("flush at server %d: %v", i+1, err)
		}
		nc.Close()
	}
}

// settled waits until what every publisher sends goes to one target alone.
func (r *rig) settled(target string, publishers ...int) {
	r.tb.Helper()
	wait.For(r.tb, 120*time.Second, "all publishers to follow to "+target, func() bool { return r.heard.follows(target, publishers) })
}

// changes moves everything from one target to another, again and again: the first
// message at the new one and the last at the old one are certain. Then it judges
// shares.
func (r *rig) changes(size tableSize) {
	r.tb.Helper()
	quiet := r.listening(0)
	var stops []func()
	for i := range r.c.Len() {
		stops = append(stops, r.publishing(i))
	}
	r.settled("a", 0, 1, 2)
	type flip struct {
		called time.Duration
		to     string
	}
	var flips []flip
	for k := range size.flips {
		to, weights := "b", []int{0, 100, 0}
		if k%2 == 1 {
			to, weights = "a", []int{100, 0, 0}
		}
		called, returned := r.apply(weights...)
		flips = append(flips, flip{called, to})
		r.took = append(r.took, returned-called)
		r.settled(to, 0, 1, 2)
	}
	all := r.heard.after(0)
	for k, f := range flips {
		var first, last time.Duration
		for _, a := range all {
			if a.sent < f.called || k+1 < len(flips) && a.sent >= flips[k+1].called {
				continue
			}
			if a.target != f.to {
				last = max(last, a.sent-f.called)
			} else if first == 0 || a.sent-f.called < first {
				first = a.sent - f.called
			}
		}
		r.first, r.last = append(r.first, first), append(r.last, last)
	}

	weights := []int{60, 30, 10}
	r.apply(weights...)
	r.inForce(weights...)
	for range size.rounds {
		r.judge(size.sample, weights...)
	}
	r.apply(100, 0, 0)
	r.settled("a", 0, 1, 2)
	for _, stop := range stops {
		stop()
	}
	quiet()
}

// judge compares the shares of the next n messages with the weights.
func (r *rig) judge(n int, weights ...int) {
	r.tb.Helper()
	began, before := time.Since(r.begun), r.heard.count()
	wait.For(r.tb, 10*time.Minute, "enough messages", func() bool { return r.heard.count() >= before+n })
	got, all, worst := map[string]int{}, 0, 0.0
	for _, a := range r.heard.after(before) {
		if a.sent > began {
			got[a.target]++
			all++
		}
	}
	shares(r.tb, got, weights...)
	for i, w := range weights {
		worst = max(worst, math.Abs(100*float64(got[string(rune('a'+i))])/float64(all)-float64(w)))
	}
	r.errs = append(r.errs, worst)
}

// inForce waits until every server, or every publisher, has the weights.
func (r *rig) inForce(weights ...int) {
	r.tb.Helper()
	if drv := r.ctl.cfg.Drivers[r.driver]; drv != nil {
		everywhere(r.tb, drv, r.split(weights...), r.c.Len())
		return
	}
	before := r.heard.count()
	wait.For(r.tb, 60*time.Second, "publishers to have the document", func() bool {
		seen := map[arrival]bool{}
		for _, a := range r.heard.after(before) {
			seen[arrival{target: a.target, from: a.from}] = true
		}
		return len(seen) >= 2*r.c.Len() // each has sent to two targets at least
	})
}

// away stops a server, changes the weights meanwhile and starts it again, with its
// folder or file as it was before the change if that is given. Two publishers go
// on elsewhere, one is at the server once it is back.
func (r *rig) away(what string, folder func(int) string, file func() string) {
	r.tb.Helper()
	leads := func(i int) bool { return r.c.StreamLeader("ALL") == i || r.c.StreamLeader("KV_BALLAST") == i }
	victim := -1
	wait.For(r.tb, 60*time.Second, "leaders", func() bool {
		if r.c.StreamLeader("ALL") < 0 || r.c.StreamLeader("KV_BALLAST") < 0 {
			return false
		}
		victim = slices.IndexFunc([]int{0, 1, 2}, func(i int) bool { return !leads(i) })
		return victim >= 0
	})
	quiet := r.listening((victim + 1) % r.c.Len())
	before := r.heard.count()
	var stops []func()
	var others []int
	for i := range r.c.Len() {
		if i != victim {
			others, stops = append(others, i), append(stops, r.publishing(i))
		}
	}
	r.settled("a", others...)
	var old []byte
	if file != nil {
		old = must(os.ReadFile(file()))(r.tb)
	}
	r.c.Kill(victim)
	saved := r.tb.TempDir()
	if folder != nil {
		copyAll(r.tb, folder(victim), saved)
	}
	r.apply(0, 100, 0)
	r.settled("b", others...)
	if folder != nil {
		if err := os.RemoveAll(folder(victim)); err != nil {
			r.tb.Fatal(err)
		}
		copyAll(r.tb, saved, folder(victim))
	}
	if file != nil {
		if err := os.WriteFile(file(), old, 0o600); err != nil {
			r.tb.Fatal(err)
		}
	}
	r.c.Restart(victim)
	began := time.Since(r.begun)
	stops = append(stops, r.publishing(victim))
	r.settled("b", victim)
	r.inForceAll()
	b := back{}
	for _, a := range r.heard.after(before) {
		if a.from == victim && a.sent > began && a.target != "b" {
			b.wrong++
			b.follows = max(b.follows, a.sent-began)
		}
	}
	r.backs[what] = append(r.backs[what], b)
	r.apply(100, 0, 0)
	r.settled("a", 0, 1, 2)
	for _, stop := range stops {
		stop()
	}
	quiet()
	r.c.WaitReady()
}

// inForceAll waits until the servers say so themselves too.
func (r *rig) inForceAll() {
	if drv := r.ctl.cfg.Drivers[r.driver]; drv != nil {
		everywhere(r.tb, drv, r.split(0, 100, 0), r.c.Len())
	}
}

// report counts everything, and prints the table's line.
func (r *rig) report() {
	r.tb.Helper()
	core, lost, twice := 0, len(r.missing()), 0
	for name := range r.sent {
		if strings.HasPrefix(name, "core.") {
			core++
			if r.heard.seen[name] > 1 {
				twice++
			}
		}
	}
	var stored map[string]int
	wait.For(r.tb, 120*time.Second, "what the stream has stored", func() bool {
		var err error
		stored, err = r.stored()
		return err == nil
	})
	acked, jsLost, jsTwice := 0, 0, 0
	for name := range r.sent {
		if strings.HasPrefix(name, "js.") {
			acked++
			if stored[name] == 0 {
				jsLost++
			}
		}
	}
	for _, n := range stored {
		if n > 1 {
			jsTwice++
		}
	}
	if lost+twice+jsLost+jsTwice > 0 {
		r.tb.Errorf("%d plain messages are lost, %d arrived twice; of JetStream's, %d are lost and %d stored twice", lost, twice, jsLost, jsTwice)
	}
	r.tb.Logf("%s: %d changes; Apply %s; first message by the new weights %s; last by the old %s; share error %.2f points (at most %.2f, of %d messages); plain %d sent, %d lost, %d twice; JetStream %d acknowledged (%d tried again), %d lost, %d twice",
		r.driver, len(r.took), spread(r.took), spread(r.first), spread(r.last), middle(r.errs), slices.Max(r.errs), sizeOfTable().sample, core, lost, twice, acked, r.failed.Load(), jsLost, jsTwice)
	for _, what := range slices.Sorted(maps.Keys(r.backs)) {
		var follows []time.Duration
		var wrong []int
		for _, b := range r.backs[what] {
			follows, wrong = append(follows, b.follows), append(wrong, b.wrong)
		}
		slices.Sort(wrong)
		r.tb.Logf("%s, a server %s: last message by the old weights %s after its start; %v messages by them", r.driver, what, spread(follows), wrong)
	}
}

// stored counts the messages of the stream that JetStream acknowledged, by name.
func (r *rig) stored() (map[string]int, error) {
	js, err := jetstream.New(r.conn)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(r.tb.Context(), "ALL", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for pending := uint64(1); pending > 0; {
		batch, err := consumer.Fetch(5000, jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			return nil, err
		}
		got := 0
		for m := range batch.Messages() {
			if name := string(m.Data()); strings.HasPrefix(name, "js.") {
				out[name]++
			}
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			pending, got = meta.NumPending, got+1
		}
		if err := batch.Error(); err != nil {
			return nil, err
		}
		if got == 0 {
			return nil, errors.New("the stream does not deliver")
		}
	}
	return out, nil
}

func middle(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }

// spread is the median of times, and the extremes.
func spread(all []time.Duration) string {
	all = slices.Sorted(slices.Values(all))
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
	return fmt.Sprintf("%s ms (%s to %s)", ms(all[len(all)/2]), ms(all[0]), ms(all[len(all)-1]))
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func copyAll(tb testing.TB, from, to string) {
	tb.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		tb.Fatal(err)
	}
	err := fs.WalkDir(os.DirFS(from), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(from, path))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, path), data, 0o600)
	})
	if err != nil {
		tb.Fatal(err)
	}
}
