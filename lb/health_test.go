package lb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// quick is a breaker whose times suit a test.
var quick = traffic.BreakerConfig{Interval: 200 * time.Millisecond, OpenFor: 500 * time.Millisecond}

// serve answers requests to a target until the test ends or stop is called.
func serve(tb testing.TB, nc *nats.Conn, target string, answer func(*nats.Msg)) (stop func()) {
	tb.Helper()
	sub, err := nc.Subscribe("orders.process."+target, answer)
	if err != nil {
		tb.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		tb.Fatal(err)
	}
	return func() {
		if err := sub.Unsubscribe(); err != nil {
			tb.Error(err)
		}
		if err := nc.Flush(); err != nil {
			tb.Error(err)
		}
	}
}

func done(m *nats.Msg) { _ = m.Respond([]byte("done")) }

// A target that nobody serves gets no more requests after five, no request fails
// on its account, and when it is served again its share grows back.
func TestAFailedTargetIsLeftAlone(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
	serve(t, workers, "east", done)
	stop := serve(t, workers, "west", done)
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 50, "west": 50})), lb.WithBreaker(quick))
	request := func() {
		t.Helper()
		if _, err := p.Request(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		request()
	}
	stop()
	wait.For(t, 30*time.Second, "west to be left alone", func() bool {
		request()
		return p.Stats().Targets["west"].Circuit == traffic.Opened
	})
	before := p.Stats()
	if before.Moved < 5 {
		t.Errorf("%d requests moved to the other target, five at least had to", before.Moved)
	}
	serve(t, workers, "west", done)
	wait.For(t, time.Minute, "west to have its whole share again", func() bool {
		request()
		return p.Stats().Targets["west"].Circuit == traffic.Closed
	})
	if s := p.Stats(); s.Failed != 0 || s.Targets["west"].Sent == before.Targets["west"].Sent {
		t.Errorf("Stats = %+v", s)
	}
}

// The backup takes over when the primary tier fails.
func TestTheNextTierTakesOver(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
	serve(t, workers, "backup", done)
	s := splitOf(weights{"east": 100, "backup": 100})
	s.Targets[1].Tier = 1
	p := publisher(t, nc, lb.WithFallback(s), lb.WithBreaker(traffic.BreakerConfig{OpenFor: time.Hour}))
	wait.For(t, 30*time.Second, "the backup's answer", func() bool {
		_, err := p.Request(t.Context(), &nats.Msg{})
		return err == nil
	})
	for range 100 {
		if _, err := p.Request(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	if st := p.Stats(); st.Targets["east"].Sent != 0 || st.Targets["backup"].Sent < 100 {
		t.Errorf("Stats = %+v", st)
	}
}

// A repetition at another target of the same stream is stored once.
func TestARepetitionElsewhereIsStoredOnce(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	stream := ordersStream(t, js, 1)
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 50, "west": 50})), lb.WithAttempts(6), lb.WithoutBreaker())
	for range 20 { // both targets are known to be of one stream
		if _, err := p.PublishJS(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	const n = 20
	ids := map[string]bool{}
	for i := range n {
		msg := nats.NewMsg("")
		msg.Header.Set(jetstream.MsgIDHeader, fmt.Sprint("order-", i))
		for range 2 { // as a caller would after an error, by whatever target
			if _, err := p.PublishJS(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			ids[msg.Subject] = true
		}
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := info.State.Msgs; got != 20+n {
		t.Errorf("the stream holds %d messages, want %d", got, 20+n)
	}
	if len(ids) != 2 {
		t.Errorf("all messages went to %v", ids)
	}
}

// A lane bounds each attempt by its own timeout, repeats by its own retries, and
// goes to its own targets.
func TestLanes(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
	var asked atomic.Int64
	serve(t, workers, "east", func(*nats.Msg) { asked.Add(1) }) // gets all and answers nothing
	serve(t, workers, "backup", done)
	s := splitOf(weights{"east": 100, "backup": 0})
	s.Targets[1].Tier, s.Targets[1].Weight = 1, 100
	s.Lanes = []traffic.Lane{
		{Name: "high", TimeoutMS: 50, Retries: 3},
		{Name: "bulk", TimeoutMS: 60_000, Retries: 0, Target: "backup"},
		{Name: "safe", TimeoutMS: 60_000, Retries: 0, Target: "east", Fallback: "backup"},
	}
	p := publisher(t, nc, lb.WithFallback(s), lb.WithRepeatableRequests(), lb.WithBreaker(traffic.BreakerConfig{BadRequests: 2, Interval: 500 * time.Millisecond}))
	alone := publisher(t, nc, lb.WithFallback(s), lb.WithRepeatableRequests(), lb.WithoutBreaker()) // never picks the backup
	if _, err := alone.Lane("high").Request(t.Context(), &nats.Msg{}); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a request that nobody answers in time: %v", err)
	}
	wait.For(t, 30*time.Second, "all attempts to arrive", func() bool { return asked.Load() >= 4 })
	if n := asked.Load(); n != 4 {
		t.Errorf("lane high tried %d times, want 1 + 3", n)
	}
	if _, err := p.Lane("bulk").Request(t.Context(), &nats.Msg{}); err != nil {
		t.Errorf("lane bulk has a target of its own: %v", err)
	}
	// East times out too often: the lane's messages leave it by as much as it lacks,
	// three of four.
	wait.For(t, 30*time.Second, "east to be unhealthy", func() bool {
		_, _ = p.Lane("high").Request(t.Context(), &nats.Msg{})
		return p.Stats().Targets["east"].Health < 0.3
	})
	before := p.Stats().Targets["backup"].Sent
	for range 40 {
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, _ = p.Lane("safe").Request(short, &nats.Msg{})
		cancel()
	}
	if got := p.Stats().Targets["backup"].Sent - before; got < 20 || got > 39 {
		t.Errorf("the fallback of lane safe got %d of 40 messages, want about 30", got)
	}
	if _, err := p.Lane("urgent").Request(t.Context(), &nats.Msg{}); !errors.Is(err, lb.ErrNoLane) {
		t.Errorf("a lane that there is not: %v", err)
	}
}

// A request that may be worked off twice is repeated at the lane's fallback when it
// was not answered in time, and one that may not is not.
func TestARequestIsRepeatedAtTheFallback(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
	serve(t, workers, "east", func(*nats.Msg) {}) // gets all and answers nothing
	serve(t, workers, "backup", done)
	s := splitOf(weights{"east": 100, "backup": 100})
	s.Targets[1].Tier = 1
	s.Lanes = []traffic.Lane{{Name: "high", TimeoutMS: 50, Retries: 1, Fallback: "backup"}}
	p := publisher(t, nc, lb.WithFallback(s), lb.WithoutBreaker(), lb.WithRepeatableRequests())
	for range 5 {
		msg := &nats.Msg{}
		if _, err := p.Lane("high").Request(t.Context(), msg); err != nil || msg.Subject != "orders.process.backup" {
			t.Errorf("a request that nobody answers in time went to %s: %v", msg.Subject, err)
		}
	}
	if st := p.Stats(); st.Moved != 5 || st.Failed != 0 {
		t.Errorf("Stats = %+v, want 5 moved and none failed", st)
	}
	once := publisher(t, nc, lb.WithFallback(s), lb.WithoutBreaker())
	if _, err := once.Lane("high").Request(t.Context(), &nats.Msg{}); err == nil {
		t.Error("a request that may not be worked off twice was repeated elsewhere")
	}
}

// While nothing answers retries are bounded by the budget.
func TestTheBudgetBoundsRetries(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	s := splitOf(weights{"east": 50, "west": 50})
	s.Retry = &traffic.Retries{Percent: 10, Burst: 5}
	p := publisher(t, nc, lb.WithFallback(s), lb.WithoutBreaker())
	for range 100 {
		if _, err := p.Request(t.Context(), &nats.Msg{}); !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
	}
	if st := p.Stats(); st.Retried < 10 || st.Retried > 15 || st.Denied == 0 {
		t.Errorf("Stats = %+v, want 10 to 15 retries and others denied", st)
	}
}

// While a target is too busy to answer in time, or says so, its load grows by the
// budget and not by every message's retries; when it has caught up nothing is left
// that would keep it busy.
func TestAnOverloadIsNotMadeToStay(t *testing.T) {
	t.Parallel()
	const n, percent, burst = 200, 10, 5
	for name, overloaded := range map[string]func(*nats.Msg){
		"silent": func(*nats.Msg) {},
		"503": func(m *nats.Msg) {
			m.Header = nats.Header{"Nats-Service-Error-Code": {"503"}, "Nats-Service-Error": {"too busy"}}
			_ = m.RespondMsg(&nats.Msg{Header: m.Header})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := natstest.Server(t).ClientURL()
			nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
			var arrived atomic.Int64
			var busy atomic.Bool
			busy.Store(true)
			serve(t, workers, "east", func(m *nats.Msg) {
				arrived.Add(1)
				if busy.Load() {
					overloaded(m)
				} else {
					done(m)
				}
			})
			s := splitOf(weights{"east": 100})
			s.Lanes = []traffic.Lane{{Name: "hasty", TimeoutMS: 20, Retries: 3}, {Name: "calm", TimeoutMS: 60_000, Retries: 3}}
			s.Retry = &traffic.Retries{Percent: percent, Burst: burst}
			p := publisher(t, nc, lb.WithFallback(s), lb.WithoutBreaker(), lb.WithRepeatableRequests())
			ask := func(lane string) {
				var asking sync.WaitGroup
				for range 8 {
					asking.Go(func() {
						for range n / 8 {
							_, _ = p.Lane(lane).Request(t.Context(), &nats.Msg{})
						}
					})
				}
				asking.Wait()
			}
			ask("hasty")
			st := p.Stats()
			wait.For(t, 30*time.Second, "all attempts to arrive", func() bool { return arrived.Load() >= int64(n+st.Retried) })
			if most := int64(n + n*percent/100 + burst); arrived.Load() > most {
				t.Errorf("%d requests made %d attempts, the budget allows %d", n, arrived.Load(), most)
			}
			if name == "silent" && (st.Retried == 0 || st.Denied == 0) {
				t.Errorf("Stats = %+v: this test shows nothing", st)
			}
			busy.Store(false)
			before := arrived.Load()
			ask("calm")
			if got := arrived.Load() - before; got != n {
				t.Errorf("after the overload %d requests made %d attempts", n, got)
			}
			if after := p.Stats(); after.Retried != st.Retried || after.Failed != st.Failed {
				t.Errorf("after the overload Stats = %+v, and before %+v", after, st)
			}
		})
	}
}

// A hedged request is answered although its first target is stuck.
func TestHedging(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
	serve(t, workers, "east", func(*nats.Msg) {})
	serve(t, workers, "west", done)
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 50, "west": 50})), lb.WithHedging(20*time.Millisecond), lb.WithoutBreaker())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 40 {
		if _, err := p.Request(ctx, &nats.Msg{Header: nats.Header{"A": {"b"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if st := p.Stats(); st.Hedged == 0 || st.Failed != 0 {
		t.Errorf("Stats = %+v, want some hedged", st)
	}
}

// Where the key stands is what the split says.
func TestSourcesOfKeys(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	for _, tt := range []struct {
		name string
		key  traffic.Keyed
		send func(p *lb.Publisher, key string) (string, error)
	}{
		{"header", traffic.Keyed{}, func(p *lb.Publisher, key string) (string, error) {
			m := &nats.Msg{Header: nats.Header{lb.KeyHeader: {key}}}
			err := p.PublishMsg(t.Context(), m)
			return m.Subject, err
		}},
		{"another header", traffic.Keyed{Header: "Tenant", Hash: traffic.Ring}, func(p *lb.Publisher, key string) (string, error) {
			m := &nats.Msg{Header: nats.Header{"Tenant": {key}}}
			err := p.PublishMsg(t.Context(), m)
			return m.Subject, err
		}},
		{"token", traffic.Keyed{From: traffic.FromToken, Token: 3}, func(p *lb.Publisher, key string) (string, error) {
			m := nats.NewMsg("orders.process." + key)
			err := p.PublishMsg(t.Context(), m)
			return m.Subject, err
		}},
		{"caller", traffic.Keyed{From: traffic.FromCaller, Bound: 125}, func(p *lb.Publisher, key string) (string, error) {
			m := &nats.Msg{}
			err := p.Key(key).PublishMsg(t.Context(), m)
			return m.Subject, err
		}},
	} {
		s := splitOf(weights{"east": 60, "west": 30, "backup": 10})
		s.Pick, s.Key = traffic.ByKey, &tt.key
		picker, err := traffic.NewPicker(s)
		if err != nil {
			t.Fatal(err)
		}
		p := publisher(t, nc, lb.WithFallback(s))
		for i := range 100 {
			key := fmt.Sprintf("customer-%d", i)
			want := picker.Targets()[picker.PickKey(key)].Subject
			if got, err := tt.send(p, key); err != nil || got != want {
				t.Fatalf("%s: key %s went to %s, want %s (%v)", tt.name, key, got, want, err)
			}
		}
		if n := p.Stats().Keyless; n != 0 {
			t.Errorf("%s: %d messages had no key", tt.name, n)
		}
	}
}

// With two choices a target that does not store gets less, and what was sent
// without waiting is counted until it is answered.
func TestInFlightIsCounted(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	ordersStream(t, jetStream(t, nc), 1)
	s := splitOf(weights{"east": 60, "west": 40})
	s.Local = traffic.TwoChoices
	p := publisher(t, nc, lb.WithFallback(s))
	for range 5000 {
		if _, err := p.PublishAsync(t.Context(), &nats.Msg{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "nothing in flight", func() bool {
		st := p.Stats()
		return st.Targets["east"].InFlight == 0 && st.Targets["west"].InFlight == 0
	})
	st := p.Stats()
	if n := st.Targets["east"].Sent + st.Targets["west"].Sent; n != 5000 || st.Targets["west"].Sent == 0 {
		t.Errorf("Stats = %+v", st)
	}
}

// A publisher that starts while the bucket is away divides by what the last one
// left, and a spoiled file is passed over.
func TestCache(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "orders.json")
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 7, splitOf(weights{"east": 70, "west": 30})))
	p := publisher(t, nc, lb.WithCache(file))
	ready(t, p)
	wait.For(t, 30*time.Second, "the cache", func() bool { _, err := os.Stat(file); return err == nil })

	alone := natstest.Connect(t, natstest.Server(t).ClientURL())
	p, err := lb.NewPublisher(alone, "orders", lb.WithCache(file))
	if err != nil {
		t.Fatal(err)
	}
	if rev, ok := p.Revision(); !ok || rev.Number != 7 || rev.Split.Weights()["east"] != 70 {
		t.Errorf("the cached revision is %+v, %v", rev, ok)
	}
	if err := p.Publish(t.Context(), nil); err != nil {
		t.Error(err)
	}
	for _, spoiled := range []string{"", "{", `{"v":1}`} {
		if err := os.WriteFile(file, []byte(spoiled), 0o600); err != nil {
			t.Fatal(err)
		}
		book := &logBook{}
		p, err := lb.NewPublisher(alone, "orders", lb.WithCache(file), lb.WithLog(book.logger()))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := p.Revision(); ok || book.count("the cached weights cannot be used") != 1 {
			t.Errorf("a file with %q was used, or not spoken of: %s", spoiled, book.text())
		}
	}
	// A file that cannot be written stops no message.
	book := &logBook{}
	p = publisher(t, nc, lb.WithCache(filepath.Join(t.TempDir(), "no", "such", "folder")), lb.WithLog(book.logger()))
	ready(t, p)
	if err := p.Publish(t.Context(), nil); err != nil {
		t.Error(err)
	}
	wait.For(t, 30*time.Second, "a word about it", func() bool { return book.count("cannot be cached") == 1 })
}
