package demo

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/wait"
	"ballast/traffic"
)

// goroutines lists what runs now by the function that started it, other than
// this test's own.
func goroutines() []string {
	buf := make([]byte, 8<<20)
	var all []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for line := range strings.Lines(g) {
			if by, ok := strings.CutPrefix(line, "created by "); ok {
				by, _, _ = strings.Cut(by, " in goroutine")
				all = append(all, strings.TrimSpace(by))
			}
		}
	}
	slices.Sort(all)
	return all
}

// rig is a running demo and what a test needs to look at it.
type rig struct {
	*Demo
	t    *testing.T
	js   jetstream.JetStream
	nc   *nats.Conn
	stop func()
}

// start runs a demo until the test ends, or until stop, and puts its first
// split document.
func start(t *testing.T, cfg Config) *rig {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	r := &rig{Demo: d, t: t}
	r.stop = sync.OnceFunc(func() {
		if r.nc != nil {
			r.nc.Close()
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after cancel", err)
		}
	})
	t.Cleanup(r.stop)
	select {
	case <-d.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run ended at the start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the cluster was not ready within a minute")
	}
	user, password := d.AppUser()
	r.nc, err = nats.Connect(strings.Join(d.URLs(), ","), nats.UserInfo(user, password), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if r.js, err = jetstream.New(r.nc, jetstream.WithDefaultTimeout(30*time.Second)); err != nil {
		t.Fatal(err)
	}
	r.divide(1, Split())
	return r
}

// divide writes the split's document, as the console would.
func (r *rig) divide(number uint64, s traffic.Split) {
	r.t.Helper()
	kv, err := r.js.CreateOrUpdateKeyValue(r.t.Context(), jetstream.KeyValueConfig{Bucket: traffic.Bucket, Replicas: len(r.cluster.members)})
	if err != nil {
		r.t.Fatal(err)
	}
	doc, err := traffic.Revision{V: traffic.Version, Epoch: 1, Number: number, Base: number - 1, Change: "test", At: time.Now().UTC(), Split: s}.Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := kv.Put(r.t.Context(), traffic.Key(s.Name), doc); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) consumer(target string) *jetstream.ConsumerInfo {
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	c, err := r.js.Consumer(ctx, StreamName, target)
	if err != nil {
		return nil // while an election runs
	}
	return c.CachedInfo()
}

// replicated waits until all servers have the whole stream.
func (r *rig) replicated() {
	r.t.Helper()
	wait.For(r.t, time.Minute, "all replicas of the stream to be current", func() bool {
		ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
		defer cancel()
		s, err := r.js.Stream(ctx, StreamName)
		if err != nil {
			return false
		}
		c := s.CachedInfo().Cluster
		behind := func(p *jetstream.PeerInfo) bool { return p.Offline || !p.Current }
		return c.Leader != "" && len(c.Replicas) == 2 && !slices.ContainsFunc(c.Replicas, behind)
	})
}

func (r *rig) streamLeader() string {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), StreamName)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().Cluster.Leader
}

// published waits for n more orders.
func (r *rig) published(n uint64) {
	r.t.Helper()
	from := r.State().Published
	wait.For(r.t, time.Minute, "more orders", func() bool { return r.State().Published >= from+n })
}

// pause stops the orders and waits until none is in flight to the stream.
func (r *rig) pause() {
	r.t.Helper()
	if err := r.SetRate(0); err != nil {
		r.t.Fatal(err)
	}
	wait.For(r.t, time.Minute, "the last acknowledgement", func() bool { return r.State().InFlight == 0 })
}

// quiet waits, after pause, until every pool has worked off its orders.
func (r *rig) quiet() {
	r.t.Helper()
	r.pause()
	for _, p := range staff {
		wait.For(r.t, time.Minute, p.target+" to work off its orders", func() bool {
			c := r.consumer(p.target)
			return c != nil && c.NumPending == 0 && c.NumAckPending == 0
		})
	}
}

// balanced compares the orders in the stream with those acknowledged to the
// publisher, and with the deliveries when none may have been repeated.
func (r *rig) balanced(once bool) {
	r.t.Helper()
	if once {
		var delivered uint64
		for _, p := range staff {
			delivered += r.consumer(p.target).Delivered.Consumer
		}
		if n := r.State().Published; delivered != n {
			r.t.Errorf("%d deliveries of %d orders", delivered, n)
		}
	}
	s, err := r.js.Stream(r.t.Context(), StreamName)
	if err != nil {
		r.t.Fatal(err)
	}
	state := r.State()
	if state.Failed != 0 || s.CachedInfo().State.Msgs != state.Published {
		r.t.Errorf("the stream holds %d orders; %d were published, %d failed", s.CachedInfo().State.Msgs, state.Published, state.Failed)
	}
}

// meanLatency is the mean of the servers' samples of a consumer over n acks.
func (r *rig) meanLatency(target string, n int64) time.Duration {
	r.t.Helper()
	var count, sum atomic.Int64
	sub, err := r.nc.Subscribe("$JS.EVENT.METRIC.CONSUMER.ACK."+StreamName+"."+target, func(m *nats.Msg) {
		var sample struct {
			AckTime int64 `json:"ack_time"`
		}
		if json.Unmarshal(m.Data, &sample) == nil {
			sum.Add(sample.AckTime)
			count.Add(1)
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer sub.Unsubscribe()
	wait.For(r.t, time.Minute, "ACK samples of "+target, func() bool { return count.Load() >= n })
	return time.Duration(sum.Load() / count.Load())
}

func running(s State, server string) bool {
	i := slices.IndexFunc(s.Servers, func(s ServerState) bool { return s.Name == server })
	return i >= 0 && s.Servers[i].Running
}

func TestDemo(t *testing.T) {
	// Whatever anybody creates as a temporary file is found here.
	temp, dir := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	before := goroutines()
	r := start(t, Config{Dir: dir, Rate: 800, Seed: 1})

	t.Run("every server answers", func(t *testing.T) {
		r.t = t
		for i, base := range r.MonitorURLs() {
			var varz struct {
				Name string `json:"server_name"`
				Host string `json:"host"`
			}
			res, err := http.Get(base + "/varz")
			if err != nil {
				t.Fatal(err)
			}
			err = json.NewDecoder(res.Body).Decode(&varz)
			res.Body.Close()
			if want := r.State().Servers[i].Name; err != nil || varz.Name != want || varz.Host != "127.0.0.1" {
				t.Errorf("%s/varz: %+v, %v; want %s on 127.0.0.1", base, varz, err, want)
			}
		}
		user, password := r.SysUser()
		sys, err := nats.Connect(r.URLs()[0], nats.UserInfo(user, password))
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close()
		inbox := sys.NewRespInbox()
		replies, err := sys.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := sys.PublishRequest("$SYS.REQ.SERVER.PING", inbox, nil); err != nil {
			t.Fatal(err)
		}
		for range r.URLs() {
			if _, err := replies.NextMsg(10 * time.Second); err != nil {
				t.Errorf("a server does not answer in the system account: %v", err)
			}
		}
		for _, account := range []func() (string, string){r.AppUser, r.SysUser} {
			user, _ := account()
			if nc, err := nats.Connect(r.URLs()[0], nats.UserInfo(user, "guess")); err == nil {
				nc.Close()
				t.Errorf("user %s gets in with a wrong password", user)
			}
		}
	})

	t.Run("shares follow the weights", func(t *testing.T) {
		r.t = t
		r.published(4000)
		r.quiet()
		r.balanced(true)
		total := float64(r.State().Published)
		for _, target := range Split().Targets {
			got := 100 * float64(r.consumer(target.Name).Delivered.Consumer) / total
			if math.Abs(got-float64(target.Weight)) > 3 {
				t.Errorf("%s got %.1f %% of %.0f orders, its weight is %d", target.Name, got, total, target.Weight)
			}
		}
	})

	t.Run("a slow target shows in its ACK latency", func(t *testing.T) {
		r.t = t
		if err := r.SetRate(200); err != nil {
			t.Fatal(err)
		}
		normal := r.meanLatency("worker-west-1", 100)
		if err := r.Slow("worker-west-1", 4); err != nil {
			t.Fatal(err)
		}
		r.published(50) // those that were begun at the old pace
		slow := r.meanLatency("worker-west-1", 100)
		t.Logf("mean ACK latency %v, slowed four times %v", normal, slow)
		// A busy machine adds to both, but a message is never acknowledged before
		// its service time is over.
		if normal < serviceMean*8/10 {
			t.Errorf("mean ACK latency is %v, the mean service time is %v", normal, serviceMean)
		}
		if slow < 3*serviceMean || slow < normal {
			t.Errorf("mean ACK latency is %v when slowed four times, was %v; the mean service time is %v", slow, normal, serviceMean)
		}
		if err := r.Slow("worker-west-1", 1); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a stopped target loses nothing", func(t *testing.T) {
		r.t = t
		if err := r.StopTarget("worker-east-1"); err != nil {
			t.Fatal(err)
		}
		if r.State().Targets[0].Running {
			t.Error("State shows a stopped target as running")
		}
		wait.For(t, time.Minute, "orders that wait for the stopped target", func() bool {
			c := r.consumer("worker-east-1")
			return c != nil && c.NumPending > 100 && c.NumAckPending == 0
		})
		if err := r.StartTarget("worker-east-1"); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		r.balanced(true)
	})

	t.Run("the cluster survives a dead server", func(t *testing.T) {
		r.t = t
		if err := r.SetRate(300); err != nil {
			t.Fatal(err)
		}
		// The publisher is connected to nats-2.
		for _, name := range []string{r.streamLeader(), "nats-2"} {
			if err := r.KillServer(name); err != nil {
				t.Fatal(err)
			}
			if running(r.State(), name) {
				t.Errorf("State shows the killed %s as running", name)
			}
			r.published(600)
			if err := r.RestartServer(name); err != nil {
				t.Fatal(err)
			}
			if !running(r.State(), name) {
				t.Errorf("State shows the restarted %s as dead", name)
			}
			r.replicated()
		}
		t.Logf("%d attempts were repeated", r.State().Retried)
		// Acknowledgements that a dying server no longer heard are made good by
		// redelivery, half a minute later; that is not waited for.
		r.pause()
		r.balanced(false)
	})

	t.Run("the demo survives an outage of all servers", func(t *testing.T) {
		r.t = t
		if err := r.SetRate(50); err != nil {
			t.Fatal(err)
		}
		servers := r.State().Servers
		for _, s := range servers {
			if err := r.KillServer(s.Name); err != nil {
				t.Fatal(err)
			}
		}
		wait.For(t, time.Minute, "orders that wait", func() bool { return r.State().InFlight > 20 })
		for _, s := range servers {
			if err := r.RestartServer(s.Name); err != nil {
				t.Fatal(err)
			}
		}
		r.published(100)
		if n := r.State().Failed; n != 0 {
			t.Errorf("%d orders failed", n)
		}
	})

	t.Run("nothing is left behind", func(t *testing.T) {
		r.t = t
		if err := r.SetRate(300); err != nil {
			t.Fatal(err)
		}
		r.published(100)
		begun := time.Now()
		r.stop()
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("the demo took %v to stop", took)
		}
		if err := r.KillServer("nats-1"); !errors.Is(err, ErrRefused) {
			t.Errorf("KillServer after Run = %v, want ErrRefused", err)
		}
		if files, err := os.ReadDir(temp); err != nil || len(files) > 0 {
			t.Errorf("temporary files are left: %v, %v", files, err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || files[0].Name() != "cluster-of-3" {
			t.Errorf("the directory holds %v, %v", files, err)
		}
	})
	// A subtest runs on a goroutine of its own, so this is asked outside.
	wait.For(t, 30*time.Second, "the demo's goroutines to end", func() bool {
		return len(goroutines()) <= len(before)
	})
}

func TestStopWhileTheClusterForms(t *testing.T) {
	before := goroutines()
	d, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	wait.For(t, time.Minute, "a server", func() bool { return running(d.State(), "nats-1") })
	begun := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil after cancel", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the demo took %v to stop", took)
	}
	wait.For(t, 30*time.Second, "the demo's goroutines to end", func() bool { return len(goroutines()) <= len(before) })
	if err := d.Run(t.Context()); err == nil {
		t.Error("Run runs a second time")
	}
}

func TestTakenPortIsAnError(t *testing.T) {
	d, err := New(Config{Dir: t.TempDir(), Servers: 1})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(d.URLs()[0])
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "nats-1") {
		t.Errorf("Run on a taken port = %v, want an error that names the server", err)
	}
}

func TestKeptDirectory(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir, Servers: 1, Rate: 200})
	r.published(20)
	r.stop()
	stored := r.State().Published

	r = start(t, Config{Dir: dir, Servers: 1, Rate: 200})
	s, err := r.js.Stream(t.Context(), StreamName)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got < stored {
		t.Errorf("the stream holds %d orders after a restart, had at least %d", got, stored)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no directory":  {},
		"even cluster":  {Dir: "x", Servers: 2},
		"negative rate": {Dir: "x", Rate: -1},
		"no number":     {Dir: "x", Rate: math.NaN()},
		"too much":      {Dir: "x", Rate: maxRate + 1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New accepts it", name)
		}
	}
}

func TestFaultsAreChecked(t *testing.T) {
	d, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got  error
		want error
	}{
		"slow an unknown target":      {d.Slow("nobody", 2), ErrUnknown},
		"stop an unknown target":      {d.StopTarget("nobody"), ErrUnknown},
		"start an unknown target":     {d.StartTarget("nobody"), ErrUnknown},
		"kill an unknown server":      {d.KillServer("nats-9"), ErrUnknown},
		"kill before Run":             {d.KillServer("nats-1"), ErrRefused},
		"restart before Run":          {d.RestartServer("nats-1"), ErrRefused},
		"slow by nothing":             {d.Slow("worker-east-1", 0), ErrRefused},
		"slow by no number":           {d.Slow("worker-east-1", math.NaN()), ErrRefused},
		"slow by too much":            {d.Slow("worker-east-1", 1000), ErrRefused},
		"a rate that is no number":    {d.SetRate(math.NaN()), ErrRefused},
		"a rate beyond all reason":    {d.SetRate(math.Inf(1)), ErrRefused},
		"a rate below nothing":        {d.SetRate(-1), ErrRefused},
		"a good factor":               {d.Slow("worker-east-1", 8), nil},
		"a good rate":                 {d.SetRate(600), nil},
		"a stop that was a stop":      {d.StopTarget("worker-east-1"), nil},
		"a second stop is no mistake": {d.StopTarget("worker-east-1"), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s = %v, want %v", name, c.got, c.want)
		}
	}
	s := d.State()
	if east := s.Targets[0]; east.Running || east.Factor != 8 || s.Rate != 600 || s.NormalRate != 300 {
		t.Errorf("State = %+v", s)
	}
}

func TestSplitIsValid(t *testing.T) {
	if err := Split().Validate(); err != nil {
		t.Error(err)
	}
}

func TestServiceTimes(t *testing.T) {
	const n = 100_000
	p := newPool(staff[0], 0, 7, nil, slog.New(slog.DiscardHandler))
	var sum, squares float64
	for range n {
		x := p.serviceTime().Seconds()
		sum += x
		squares += x * x
	}
	mean := sum / n
	cv := math.Sqrt(squares/n-mean*mean) / mean
	if math.Abs(mean-serviceMean.Seconds()) > 0.0005 || math.Abs(cv-serviceCV) > 0.03 {
		t.Errorf("mean %.4f s and CV %.3f, want %v and %v", mean, cv, serviceMean, serviceCV)
	}
	a, b := newPool(staff[0], 0, 7, nil, slog.New(slog.DiscardHandler)), newPool(staff[0], 0, 7, nil, slog.New(slog.DiscardHandler))
	for range 100 {
		if x, y := a.serviceTime(), b.serviceTime(); x != y {
			t.Fatalf("the same seed gives %v and %v", x, y)
		}
	}
}
