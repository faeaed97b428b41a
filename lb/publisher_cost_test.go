package lb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/shirou/gopsutil/v4/process"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// measureVariable asks for measurements that need minutes and a quiet machine;
// without it a small round keeps the rig itself from rotting.
const measureVariable = "BALLAST_MEASURE"

// way is one of two ways to send n messages, until the last one was answered for.
type way func(tb testing.TB, n int)

// comparison sets the client library against what it is built on.
type comparison struct {
	name     string
	baseline string
	n        int // messages of a block
	pair     func(tb testing.TB, rig costRig) (plain, ours way)
	changing bool // revisions come while it is measured
	server   bool // the server stores: throughput is its, and varies
}

// costRig is one server with a stream, two connections, and a window for what is
// sent without waiting.
type costRig struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	window jetstream.JetStreamOpt
	split  traffic.Split
	follow bool // there are revisions to follow
}

func (r costRig) publisher(tb testing.TB, opts ...lb.PublisherOption) *lb.Publisher {
	p := publisher(tb, r.nc, append([]lb.PublisherOption{lb.WithJetStream(r.window)}, opts...)...)
	ready(tb, p)
	if r.follow {
		wait.For(tb, 30*time.Second, "a revision", func() bool { _, ok := p.Revision(); return ok })
	}
	return p
}

var payload = make([]byte, 128)

const eastSubject = "orders.process.east"

// turns are the subjects of messages in turn, by the weights: what a program would
// write that divides them by itself. A server takes longer over three subjects
// than over one, and a processor learns a short sequence by heart.
func (r costRig) turns(tb testing.TB) func() string {
	picker, err := traffic.NewPicker(r.split)
	if err != nil {
		tb.Fatal(err)
	}
	var subjects []string
	for _, t := range picker.Targets() {
		subjects = append(subjects, t.Subject)
	}
	table := make([]uint8, 1<<16)
	for i := range table {
		table[i] = uint8(picker.PickNth(uint64(i)))
	}
	n := uint16(0)
	return func() string { n++; return subjects[table[n]] }
}

func flush(tb testing.TB, nc *nats.Conn) {
	if err := nc.FlushTimeout(time.Minute); err != nil {
		tb.Fatal(err)
	}
}

// each is a way that calls send n times and then flushes.
func (r costRig) each(send func() error) way {
	return func(tb testing.TB, n int) {
		for range n {
			if err := send(); err != nil {
				tb.Fatal(err)
			}
		}
		flush(tb, r.nc)
	}
}

var comparisons = []comparison{
	{name: "Publish", baseline: "nats.Conn.Publish", n: 500_000, pair: publishPair()},
	{name: "Publish, two choices", baseline: "nats.Conn.Publish", n: 500_000, pair: publishPair(twoChoices)},
	{name: "Publish, revisions change", baseline: "nats.Conn.Publish", n: 500_000, pair: publishPair(), changing: true},
	{name: "PublishMsg", baseline: "nats.Conn.PublishMsg", n: 300_000, pair: msgPair(nil)},
	{name: "PublishMsg by a key of the header", baseline: "nats.Conn.PublishMsg", n: 300_000, pair: msgPair(byKey)},
	{name: "PublishAsync", baseline: "JetStream.PublishMsgAsync", n: 30_000, pair: asyncPair(nil), server: true},
	{name: "PublishAsync, two choices", baseline: "JetStream.PublishMsgAsync", n: 30_000, pair: asyncPair(twoChoices), server: true},
	{name: "PublishAsync, revisions change", baseline: "JetStream.PublishMsgAsync", n: 30_000, pair: asyncPair(nil), changing: true, server: true},
	{name: "PublishJS, one attempt", baseline: "JetStream.PublishMsg", n: 5_000, pair: jsPair(1, false), server: true},
	{name: "PublishJS, three attempts", baseline: "JetStream.PublishMsg with an id", n: 5_000, pair: jsPair(3, true), server: true},
	{name: "PublishJS, three attempts", baseline: "JetStream.PublishMsg", n: 5_000, pair: jsPair(3, false), server: true},
	{name: "Request", baseline: "nats.Conn.RequestMsg", n: 5_000, pair: requestPair()},
}

func twoChoices(s *traffic.Split) { s.Local = traffic.TwoChoices }
func byKey(s *traffic.Split)      { s.Pick = traffic.ByKey }

func changed(s traffic.Split, how []func(*traffic.Split)) traffic.Split {
	for _, f := range how {
		if f != nil {
			f(&s)
		}
	}
	return s
}

func publishPair(how ...func(*traffic.Split)) func(testing.TB, costRig) (way, way) {
	return func(tb testing.TB, r costRig) (way, way) {
		p := r.publisher(tb, lb.WithFallback(changed(r.split, how)))
		next := r.turns(tb)
		return r.each(func() error { return r.nc.Publish(next(), payload) }),
			r.each(func() error { return p.Publish(tb.Context(), payload) })
	}
}

func msgPair(how func(*traffic.Split)) func(testing.TB, costRig) (way, way) {
	return func(tb testing.TB, r costRig) (way, way) {
		p := r.publisher(tb, lb.WithFallback(changed(r.split, []func(*traffic.Split){how})))
		msg := &nats.Msg{Data: payload, Header: nats.Header{lb.KeyHeader: {"customer-42"}}}
		next := r.turns(tb)
		return r.each(func() error { msg.Subject = next(); return r.nc.PublishMsg(msg) }),
			r.each(func() error { return p.PublishMsg(tb.Context(), msg) })
	}
}

func asyncPair(how func(*traffic.Split)) func(testing.TB, costRig) (way, way) {
	return func(tb testing.TB, r costRig) (way, way) {
		p := r.publisher(tb, lb.WithFallback(changed(r.split, []func(*traffic.Split){how})))
		next := r.turns(tb)
		plain, err := jetstream.New(r.nc, r.window)
		if err != nil {
			tb.Fatal(err)
		}
		return func(tb testing.TB, n int) {
				for sent := 0; sent < n; {
					_, err := plain.PublishMsgAsync(&nats.Msg{Subject: next(), Data: payload})
					switch {
					case err == nil:
						sent++
					case !errors.Is(err, jetstream.ErrTooManyStalledMsgs): // a machine that is busy with other work
						tb.Fatal(err)
					}
				}
				select {
				case <-plain.PublishAsyncComplete():
				case <-time.After(time.Minute):
					tb.Fatal("the answers did not come")
				}
			}, func(tb testing.TB, n int) {
				for range n {
					if _, err := p.PublishAsync(tb.Context(), &nats.Msg{Data: payload}); err != nil {
						tb.Fatal(err)
					}
				}
				ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
				defer cancel()
				if err := p.Flush(ctx); err != nil {
					tb.Fatal(err)
				}
			}
	}
}

func jsPair(attempts int, id bool) func(testing.TB, costRig) (way, way) {
	return func(tb testing.TB, r costRig) (way, way) {
		p := r.publisher(tb, lb.WithFallback(r.split), lb.WithAttempts(attempts))
		next, number := r.turns(tb), 0
		return r.each(func() error {
				msg := &nats.Msg{Subject: next(), Data: payload}
				if id {
					number++
					msg.Header = nats.Header{jetstream.MsgIDHeader: {fmt.Sprintf("%p-%d", &number, number)}}
				}
				_, err := r.js.PublishMsg(tb.Context(), msg)
				return err
			}), r.each(func() error {
				_, err := p.PublishJS(tb.Context(), &nats.Msg{Data: payload})
				return err
			})
	}
}

func requestPair() func(testing.TB, costRig) (way, way) {
	return func(tb testing.TB, r costRig) (way, way) {
		for _, t := range r.split.Targets {
			serve(tb, r.nc, t.Name, func(m *nats.Msg) { _ = m.Respond(payload) })
		}
		p := r.publisher(tb, lb.WithFallback(r.split))
		ctx, cancel := context.WithTimeout(tb.Context(), time.Hour)
		tb.Cleanup(cancel)
		next := r.turns(tb)
		return r.each(func() error {
				_, err := r.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: next(), Data: payload})
				return err
			}), r.each(func() error {
				_, err := p.Request(ctx, &nats.Msg{Data: payload})
				return err
			})
	}
}

// What the client library costs beside what it is built on: blocks of the one and
// of the other take turns in one run, with the server in the same process. A small
// round only checks that all messages arrive; BALLAST_MEASURE=publishing prints
// the table (about two minutes).
func TestPublishingCosts(t *testing.T) {
	rounds, part := 1, 100
	if os.Getenv(measureVariable) == "publishing" {
		rounds, part = 31, 1
	}
	text := &strings.Builder{}
	fmt.Fprintf(text, "\n| what | baseline | ns a message, baseline | ours | throughput | CPU |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, c := range comparisons {
		t.Run(c.name+" against "+c.baseline, func(t *testing.T) {
			r := c.run(t, rounds, max(c.n/part, 50))
			fmt.Fprintf(text, "| %s | `%s` | %.0f | %.0f | %.3f × | %.3f × |\n", c.name, c.baseline, r.plain, r.ours, r.throughput, r.cpu)
		})
	}
	t.Log(text)
}

// costs is what a comparison came to: medians, and the CPU time of all blocks.
type costs struct{ plain, ours, throughput, cpu float64 }

// setUp starts the server and builds both ways.
func (c comparison) setUp(tb testing.TB) (srv *server.Server, plain, ours way) {
	srv = natstest.Server(tb)
	rig := costRig{
		nc:     natstest.Connect(tb, srv.ClientURL()),
		window: jetstream.WithPublishAsyncMaxPending(1024),
		split:  splitOf(weights{"east": 60, "west": 30, "backup": 10}),
	}
	rig.js = jetStream(tb, rig.nc)
	if c.server {
		_, err := rig.js.CreateStream(tb.Context(), jetstream.StreamConfig{
			Name: "ORDERS", Subjects: []string{"orders.process.>"}, Storage: jetstream.MemoryStorage,
			Retention: jetstream.LimitsPolicy, MaxMsgs: 100_000, Duplicates: time.Second,
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if rig.follow = c.changing; rig.follow {
		keepChanging(tb, srv, rig.split)
	}
	plain, ours = c.pair(tb, rig)
	return srv, plain, ours
}

// The same, one after the other: go test ./lb -run xxx -bench Publishing
func BenchmarkPublishing(b *testing.B) {
	for _, c := range comparisons {
		b.Run(c.name, func(b *testing.B) {
			_, plain, ours := c.setUp(b)
			for name, w := range map[string]way{"baseline=" + c.baseline: plain, "Publisher": ours} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					w(b, b.N)
				})
			}
		})
	}
}

func (c comparison) run(t *testing.T, rounds, n int) costs {
	srv, plain, ours := c.setUp(t)
	self, err := process.NewProcess(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	used := func() float64 {
		u, err := self.Times()
		if err != nil {
			t.Fatal(err)
		}
		return u.User + u.System
	}
	var took [2][]float64
	var ratios []float64
	var cpu [2]float64
	before, sent := arrived(t, srv), int64(0)
	for round := range rounds + 1 { // the first warms up
		for k := range 2 {
			k = (k + round) % 2 // who begins changes, too
			start, busy := time.Now(), used()
			[]way{plain, ours}[k](t, n)
			spent, worked := time.Since(start), used()-busy
			// A server counts what it has read after it has answered.
			sent += int64(n)
			wait.For(t, 30*time.Second, "all messages at the server", func() bool { return arrived(t, srv)-before >= sent })
			if round > 0 {
				took[k] = append(took[k], float64(spent)/float64(n))
				cpu[k] += worked
			}
		}
		if round > 0 {
			ratios = append(ratios, took[0][round-1]/took[1][round-1])
		}
	}
	return costs{median(took[0]), median(took[1]), median(ratios), cpu[1] / cpu[0]}
}

func arrived(tb testing.TB, srv *server.Server) int64 {
	tb.Helper()
	v, err := srv.Varz(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return v.InMsgs
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// keepChanging puts a new revision into the bucket every few milliseconds.
func keepChanging(t testing.TB, srv *server.Server, s traffic.Split) {
	nc := natstest.Connect(t, srv.ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	ctx, stop := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() {
		for number := uint64(1); work(ctx, 5*time.Millisecond) == nil; number++ {
			doc, err := revision(1, number, s.WithWeights(weights{"east": int(number % 60), "west": 90 - int(number%60)})).Marshal()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := kv.Put(ctx, traffic.Key(s.Name), doc); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	t.Cleanup(func() { stop(); writer.Wait() })
}
