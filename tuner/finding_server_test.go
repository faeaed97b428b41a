package tuner

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"ballast/collector"
	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// looks is the sink of a real collector; it keeps what the checks judge.
type looks struct {
	mu     sync.Mutex // guards what follows
	snap   *fleet.Snapshot
	events []fleet.Event // newest first
	edit   func(*fleet.Snapshot)
}

func (l *looks) PutSnapshot(_ context.Context, s fleet.Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.edit != nil {
		l.edit(&s)
	}
	l.snap = &s
	return nil
}

func (l *looks) PutEvents(_ context.Context, e []fleet.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = slices.Concat(e, l.events)
	return nil
}

func (l *looks) PutAcks(context.Context, []fleet.AckWindow) error       { return nil }
func (l *looks) PutReports(context.Context, []fleet.WorkerReport) error { return nil }

// judge shows the newest look to the engine.
func (l *looks) judge(f *Findings) {
	l.mu.Lock()
	look := fleet.Look{Interval: lookEvery, Snapshot: l.snap, Events: l.events}
	l.mu.Unlock()
	if look.Snapshot != nil {
		look.At = look.Snapshot.TakenAt
		f.Inspect(look, nil, nil)
	}
}

const (
	lookEvery = 100 * time.Millisecond
	patience  = 60 * time.Second
)

// collect runs a real collector until the test ends or stop is called.
func collect(t *testing.T, cfg collector.Config) (l *looks, stop func()) {
	t.Helper()
	l = &looks{}
	cfg.Interval = lookEvery
	c, err := collector.New(cfg, l)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		})
	}
	t.Cleanup(stop)
	return l, stop
}

func find(f *Findings, code, key string) (fleet.Finding, bool) {
	for _, o := range f.Open() {
		if o.Code == code && o.Key == key {
			return o, true
		}
	}
	return fleet.Finding{}, false
}

// fires waits until a finding is open, and looks at what it says.
func fires(t *testing.T, f *Findings, l *looks, code, key string) fleet.Finding {
	t.Helper()
	var got fleet.Finding
	wait.For(t, patience, code+" of "+key, func() bool {
		l.judge(f)
		o, ok := find(f, code, key)
		got = o
		return ok
	})
	if got.Text == "" || got.Remedy == "" || got.Since.IsZero() || !strings.Contains(got.Text, "(Measured ") {
		t.Errorf("%s of %s says too little: %+v", code, key, got)
	}
	return got
}

// clears waits until it is closed.
func clears(t *testing.T, f *Findings, l *looks, code, key string) {
	t.Helper()
	wait.For(t, patience, "the end of "+code+" of "+key, func() bool {
		l.judge(f)
		_, ok := find(f, code, key)
		return !ok
	})
}

// handOver goes on with other limits, as after a restart of the console.
func handOver(f *Findings, cfg FindingsConfig) *Findings {
	next := NewFindings(cfg)
	next.Restore(fleet.FindingState{Open: f.Open()})
	return next
}

func named(name string) natstest.Option { return natstest.Config("server_name: " + name + "\n") }

// short of waiting minutes for what happened at a moment to be over
var soon = FindingsConfig{Window: 2 * time.Second}

func TestClientsChecksOnARealServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, named("one"), natstest.Accounts(), natstest.Config("write_deadline: \"4s\"\n"))
	l, _ := collect(t, collector.Config{Monitor: []string{natstest.MonitorURL(srv)}})
	cfg := soon
	cfg.Limits.ConnPending = 64 << 10
	f := NewFindings(cfg)

	// A client that subscribes and never reads.
	raw, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprintf(raw, "CONNECT {\"user\":%q,\"pass\":%q,\"name\":\"sleeper\"}\r\nSUB flood 1\r\nPING\r\n", natstest.AppUser, natstest.AppPassword)
	wait.For(t, patience, "the subscription", func() bool { return srv.NumSubscriptions() > 0 })
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	wait.For(t, patience, "interest", func() bool {
		z, err := srv.Connz(&server.ConnzOptions{Subscriptions: true})
		return err == nil && slices.ContainsFunc(z.Conns, func(c *server.ConnInfo) bool { return slices.Contains(c.Subs, "flood") })
	})
	for range 24 {
		if err := nc.Publish("flood", make([]byte, 512<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var key string
	wait.For(t, patience, "SRV013", func() bool {
		l.judge(f)
		for _, o := range f.Open() {
			if o.Code == "SRV013" {
				key = o.Key
			}
		}
		return key != ""
	})
	fires(t, f, l, "SRV005", "one") // the write deadline cuts it off
	clears(t, f, l, "SRV013", key)
	clears(t, f, l, "SRV005", "one")
}

func TestServersOwnChecksOnARealServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, named("one"), natstest.Tweak(func(o *server.Options) {
		o.LameDuckDuration, o.LameDuckGracePeriod = time.Minute, 50*time.Second
	}))
	nc := natstest.Connect(t, srv.ClientURL())
	monitor := []string{natstest.MonitorURL(srv)}

	// A clock that is wrong: the console's, here.
	wrong, stop := collect(t, collector.Config{Monitor: monitor, Now: func() time.Time { return time.Now().Add(-time.Minute) }})
	f := NewFindings(FindingsConfig{Advisories: []Advisory{{ID: "TEST-1", What: "a test", Severity: fleet.Warning, Fixed: []string{"99.0.0"}}}})
	if got := fires(t, f, wrong, "SRV006", "one"); got.Severity != fleet.Critical {
		t.Errorf("a clock that is a minute off is %s, want %s", got.Severity, fleet.Critical)
	}
	fires(t, f, wrong, "SRV007", "one")
	stop()
	l, _ := collect(t, collector.Config{Monitor: monitor})
	f = handOver(f, FindingsConfig{})
	clears(t, f, l, "SRV006", "one")
	clears(t, f, l, "SRV007", "one")

	// Load: this process is the server's.
	cfg := FindingsConfig{}
	cfg.Limits.CPU = 0.000001
	f = NewFindings(cfg)
	var busy atomic.Bool
	busy.Store(true)
	var burning sync.WaitGroup
	for range runtime.NumCPU() {
		burning.Go(func() {
			for busy.Load() {
			}
		})
	}
	fires(t, f, l, "SRV004", "one")
	busy.Store(false)
	burning.Wait()
	cfg.Limits.CPU = 1000
	f = handOver(f, cfg)
	clears(t, f, l, "SRV004", "one")

	go srv.LameDuckShutdown()
	fires(t, f, l, "SRV002", "one")
	nc.Close()
	srv.Shutdown()
	fires(t, f, l, "SRV001", "one")
	if _, ok := find(f, "SRV002", "one"); !ok {
		t.Error("a server that does not answer was judged not to be in lame duck mode")
	}
}

func TestClusterChecksOnRealServers(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	cfg := soon
	cfg.Limits.RouteRTT, cfg.Limits.LinkPending = time.Nanosecond, -1
	f := NewFindings(cfg)

	partial, stop := collect(t, collector.Config{Monitor: c.MonitorURLs()[:1]})
	fires(t, f, partial, "SRV012", "n2")
	stop()
	l, _ := collect(t, collector.Config{Monitor: c.MonitorURLs()})
	clears(t, f, l, "SRV012", "n2")
	fires(t, f, l, "NET003", "n1 → n2")
	fires(t, f, l, "NET005", "n1 → n2")
	f = handOver(f, soon)
	clears(t, f, l, "NET003", "n1 → n2")
	clears(t, f, l, "NET005", "n1 → n2")

	var crowd []*nats.Conn
	for range 40 {
		crowd = append(crowd, natstest.Connect(t, c.URL(0), nats.UserInfo(natstest.AppUser, natstest.AppPassword)))
	}
	fires(t, f, l, "SRV010", "test")
	for _, nc := range crowd {
		nc.Close()
	}
	clears(t, f, l, "SRV010", "test")

	// Versions of real servers are all the same here, so one is written over.
	l.mu.Lock()
	l.edit = func(s *fleet.Snapshot) {
		if len(s.Servers) > 0 {
			s.Servers[0].Version = "2.10.1"
		}
	}
	l.mu.Unlock()
	fires(t, f, l, "SRV008", "test")
	l.mu.Lock()
	l.edit = nil
	l.mu.Unlock()
	clears(t, f, l, "SRV008", "test")

	c.Kill(2)
	fires(t, f, l, "SRV001", "n3")
	c.Restart(2)
	clears(t, f, l, "SRV001", "n3")
	fires(t, f, l, "SRV003", "n3")
	clears(t, f, l, "SRV003", "n3")
}

func TestRefusedClientsOnARealServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, named("one"), natstest.Accounts())
	sys := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	l, _ := collect(t, collector.Config{System: sys})
	f := NewFindings(soon)
	wait.For(t, patience, "the first look", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.snap != nil && len(l.snap.Servers) == 1
	})
	for range 5 {
		if nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo(natstest.AppUser, "wrong")); err == nil {
			nc.Close()
			t.Fatal("a wrong password was taken")
		}
	}
	fires(t, f, l, "SRV011", "one")
	clears(t, f, l, "SRV011", "one")
}
