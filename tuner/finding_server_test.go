package tuner

import (
	"fmt"
	"net"
	"slices"
	"strings"
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

func named(name string) natstest.Option { return natstest.Config("server_name: " + name + "\n") }

func testClients(t *testing.T) {
	srv := natstest.Server(t, named("one"), natstest.Accounts(), natstest.Config("write_deadline: \"10s\"\n"))
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(srv)}})

	// A client that subscribes and never reads.
	raw, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprintf(raw, "CONNECT {\"user\":%q,\"pass\":%q,\"name\":\"sleeper\"}\r\nSUB flood 1\r\nPING\r\n", natstest.AppUser, natstest.AppPassword)
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	wait.For(t, patience, "interest", func() bool {
		z, err := srv.Connz(&server.ConnzOptions{Subscriptions: true})
		return err == nil && slices.ContainsFunc(z.Conns, func(c *server.ConnInfo) bool { return slices.Contains(c.Subs, "flood") })
	})
	for range 48 {
		if err := nc.Publish("flood", make([]byte, 512<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	var key string
	wait.For(t, patience, "SRV013", func() bool {
		r.look()
		for _, o := range r.f.Open() {
			if o.Code == "SRV013" {
				key = o.Key
			}
		}
		return key != ""
	})
	r.fires("SRV013", key)
	r.fires("SRV005", "one") // the write deadline cuts it off
	r.clears("SRV013", key)
	r.clears("SRV005", "one")
}

func testOneServer(t *testing.T) {
	srv := natstest.Server(t, named("one"), natstest.Tweak(func(o *server.Options) {
		o.LameDuckDuration, o.LameDuckGracePeriod = 10*time.Minute, 9*time.Minute
	}))
	f := newFront(t, natstest.MonitorURL(srv))
	var ahead atomic.Int64
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{f.url}, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})

	// A clock that is wrong: the console's, here, until it is set.
	ahead.Store(int64(-time.Minute))
	if got := r.fires("SRV006", "one"); got.Severity != fleet.Critical {
		t.Errorf("a clock that is a minute off is %s, want %s", got.Severity, fleet.Critical)
	}
	ahead.Store(0)
	r.clears("SRV006", "one")

	// The server says that it is an old one, until it is updated.
	f.version.Store("2.10.26")
	if got := r.fires("SRV007", "one"); got.Severity != fleet.Critical || !slices.ContainsFunc(got.Evidence, func(e fleet.Evidence) bool { return strings.HasPrefix(e.Name, "CVE-2025-30215") }) {
		t.Errorf("2.10.26 was found to be %s: %s", got.Severity, got.Text)
	}
	f.version.Store("")
	r.clears("SRV007", "one")

	// Lame duck mode ends with the restart that it is for.
	nc := natstest.Connect(t, srv.ClientURL())
	leaving := make(chan struct{})
	go func() { defer close(leaving); srv.LameDuckShutdown() }()
	r.fires("SRV002", "one")
	nc.Close()
	srv.Shutdown()
	srv.WaitForShutdown()
	<-leaving
	r.fires("SRV001", "one")
	if _, ok := r.find("SRV002", "one"); !ok {
		t.Error("a server that does not answer was judged not to be in lame duck mode")
	}
	f.before(t, natstest.MonitorURL(natstest.Server(t, named("one"))))
	r.clears("SRV001", "one")
	r.clears("SRV002", "one")
}

// testBusyServer has a server of its own process, so that it alone decides what
// it uses. A twentieth of all cores is what it gets even on a machine that has
// twenty times more to do, and ten times what it needs when it rests.
func testBusyServer(t *testing.T) {
	monitor, tell := childServer(t)
	r := newRig(t, FindingsConfig{Limits: Limits{CPU: 0.05}}, collector.Config{Monitor: []string{monitor}, Interval: time.Second}) // being asked costs it too
	tell("burn")
	r.fires("SRV004", "child")
	tell("rest")
	r.clears("SRV004", "child")
}

func testCluster(t *testing.T) {
	c := natstest.Cluster(t, 3)
	fronts, urls := newFronts(t, c)
	fronts[1].down.Store(true)
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: urls})
	r.fires("SRV012", "n2")
	fronts[1].down.Store(false)
	r.clears("SRV012", "n2")

	var crowd []*nats.Conn
	for range 40 {
		crowd = append(crowd, natstest.Connect(t, c.URL(0), nats.UserInfo(natstest.AppUser, natstest.AppPassword)))
	}
	r.fires("SRV010", "test")
	for _, nc := range crowd {
		nc.Close()
	}
	r.clears("SRV010", "test")

	fronts[0].version.Store("2.14.9")
	r.fires("SRV008", "test")
	fronts[0].version.Store("")
	r.clears("SRV008", "test")

	c.Kill(2)
	r.fires("SRV001", "n3")
	restart(c, fronts, 2)
	r.fires("SRV003", "n3")
	r.clears("SRV001", "n3")
	r.clears("SRV003", "n3")
}

func testRefusedClients(t *testing.T) {
	srv := natstest.Server(t, named("one"), natstest.Accounts())
	sys := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	// The collector tells of a storm at once and then every minute.
	r := newRig(t, FindingsConfig{Window: 20 * time.Second}, collector.Config{System: sys})
	r.rounds(2)
	refused := func() {
		if nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo(natstest.AppUser, "wrong")); err == nil {
			nc.Close()
			t.Fatal("a wrong password was taken")
		}
	}
	r.firesWhile("SRV011", "one", refused)
	r.clears("SRV011", "one")
}
