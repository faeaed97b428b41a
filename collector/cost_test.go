package collector

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// Figures that cost a server much are asked for in every second round, and never
// so rarely that they look stale.
func TestFiguresAreAskedByWhatTheyCost(t *testing.T) {
	const interval = 5 * time.Second
	for _, c := range []struct {
		consumers int
		rounds    int
	}{{100, 1}, {2500, 1}, {5000, 2}, {10_000, 2}, {200_000, 2}} {
		a := &assets{at: t0.Add(50 * time.Millisecond), took: 20 * time.Millisecond, cpu: cpuOf(int64(c.consumers)*320, cpuPlainByte)}
		round := 1
		for t0.Add(time.Duration(round) * interval).Before(a.due(interval)) {
			round++
		}
		if round != c.rounds {
			t.Errorf("figures of %d consumers are asked in round %d, want %d", c.consumers, round, c.rounds)
		}
	}
	slow := &assets{at: t0, took: 2 * time.Second, cpu: time.Millisecond}
	if due := slow.due(interval); due != t0.Add(20*time.Second) {
		t.Errorf("an answer of 2 s is due again after %v, want 20 s", due.Sub(t0))
	}
	if due := (*assets)(nil).due(interval); !due.IsZero() {
		t.Errorf("what was never read is due at %v", due)
	}
}

func TestConnectionsOfSeveralOrders(t *testing.T) {
	conn := func(cid uint64, at time.Time) fleet.Conn { return fleet.Conn{CID: cid, At: at} }
	server := fleet.Server{ID: "S"}
	later := t0.Add(time.Minute)
	old := &look{server: server, waiting: []fleet.Conn{conn(1, t0)}, busy: []fleet.Conn{conn(1, t0), conn(2, t0)}}
	l := &look{server: server, waiting: []fleet.Conn{conn(2, later), conn(3, later)}}
	l.keepConns(old, asked{askTopConns: true})
	if want := []fleet.Conn{conn(2, later), conn(3, later), conn(1, t0)}; !slices.Equal(l.conns(), want) {
		t.Errorf("%+v, want each once by its newest figures", l.conns())
	}
	next := &look{server: server}
	next.keepConns(l, asked{askTopConns: true, askBusyConns: true})
	if got := next.conns(); len(got) != 0 {
		t.Errorf("%+v are left of what was asked anew and is gone", got)
	}
	other := &look{server: fleet.Server{ID: "restarted"}}
	other.keepConns(old, asked{})
	if got := other.conns(); len(got) != 0 {
		t.Errorf("%+v of a server that is another", got)
	}
}

// Who is near is asked for plain answers, because bytes are cheaper there than
// the servers' time; one that is far away compresses. The shortest way decides.
func TestServersThatAreNearDoNotCompress(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts())
	sys := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	spy := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	var mu sync.Mutex
	compressed := map[string][]bool{}
	for _, kind := range []string{"VARZ", "JSZ", "CONNZ"} {
		if _, err := spy.Subscribe("$SYS.REQ.SERVER.PING."+kind, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			compressed[kind] = append(compressed[kind], m.Header.Get("Accept-Encoding") == "gzip")
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	s := newSystem(Config{System: sys, Now: time.Now})
	visit := func(way time.Duration) systemAsk {
		ask := s.ask()
		got, err := ask.gather(t.Context(), asked{askTopConns: true}, &bill{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range got.looks {
			l.server.RTT = way
		}
		s.took(got, nil)
		return ask
	}
	if visit(time.Second).near {
		t.Error("a server that was never asked counts as near")
	}
	if visit(4 * time.Millisecond).near {
		t.Error("a server that took 1 s counts as near")
	}
	if !visit(time.Second).near {
		t.Error("a server that took 4 ms does not count as near")
	}
	ask := s.ask()
	if !ask.near {
		t.Error("one slow answer makes a server far away")
	}
	of := map[string]fleet.Server{}
	for id := range s.alive {
		of[id] = s.looks[id].server
	}
	for _, near := range []bool{false, true} {
		ask.near = near
		if got, err := ask.gatherAssets(t.Context(), of, asked{askConfigs: true}, &bill{}); err != nil || len(got) != len(of) {
			t.Errorf("%d answers, %v", len(got), err)
		}
	}
	want := map[string][]bool{"VARZ": {true, true, false}, "CONNZ": {true, true, false}, "JSZ": {true, false}}
	for kind, flags := range want {
		wait.For(t, patience, "the questions for "+kind, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(compressed[kind]) >= len(flags)
		})
		mu.Lock()
		if !slices.Equal(compressed[kind], flags) {
			t.Errorf("%s was asked for compressed: %v, want %v", kind, compressed[kind], flags)
		}
		mu.Unlock()
	}
}
