package collector

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	app := c.App(t)
	j := js(t, app)
	stream(t, j, "ORDERS", 3)
	const consumers = 9
	for i := range consumers {
		consumer(t, j, "ORDERS", fmt.Sprintf("c%d", i))
	}
	// Not all consumers may be led where the stream is: that is the case in which
	// a follower's zero would be taken for the truth.
	leader := natsServer(c.StreamLeader("ORDERS"))
	wait.For(t, patience, "a consumer led elsewhere than its stream", func() bool {
		for i := range consumers {
			con, err := j.Consumer(t.Context(), "ORDERS", fmt.Sprintf("c%d", i))
			if err == nil && con.CachedInfo().Cluster.Leader != leader {
				return true
			}
		}
		_, err := app.Request("$JS.API.CONSUMER.LEADER.STEPDOWN.ORDERS.c0", nil, time.Second)
		return err != nil && false
	})
	publish(t, j, "orders.a", 40)
	c0, err := j.Consumer(t.Context(), "ORDERS", "c0")
	if err != nil {
		t.Fatal(err)
	}
	ackSome(t, c0, 15, 10)

	byMonitoring := collect(t, Config{Monitor: c.MonitorURLs()})
	bySystem := collect(t, Config{System: c.Sys(t)})
	byOne := collect(t, Config{Monitor: c.MonitorURLs()[:1]})
	byOneAndAccount := collect(t, Config{Monitor: c.MonitorURLs()[:1], Conn: app})

	whole := func(s fleet.Snapshot) bool {
		healthy := 0
		for _, v := range s.Servers {
			if v.State == fleet.Healthy {
				healthy++
			}
		}
		return healthy == 3 && len(s.Streams) == 1 && len(s.Consumers) == consumers && len(s.Routes) >= 6
	}
	for name, m := range map[string]*memory{"monitoring": byMonitoring, "system account": bySystem} {
		wait.For(t, patience, "the whole cluster by "+name, func() bool { return whole(m.latest()) })
		s := m.latest()
		if s.Expected != 3 || len(s.Problems) != 0 {
			t.Errorf("%s: %d servers expected, problems %+v", name, s.Expected, s.Problems)
		}
		for i, k := range s.Consumers {
			if want := fmt.Sprintf("c%d", i); k.Consumer != want {
				t.Fatalf("%s: row %d is of %s, want each consumer once", name, i, k.Consumer)
			}
			pending, acked, waiting := uint64(40), uint64(0), 0
			if k.Consumer == "c0" {
				pending, acked, waiting = 25, 10, 5
			}
			if k.Pending != pending || k.AckFloor != acked || k.AckPending != waiting || k.Leader == "" || len(k.Peers) != 2 {
				t.Errorf("%s: consumer %+v, want %d pending, %d acknowledged, %d outstanding", name, k, pending, acked, waiting)
			}
		}
		if st := s.Streams[0]; st.Leader != leader || st.Messages != 40 || st.Replicas != 3 || len(st.Peers) != 2 || !st.Peers[0].Current {
			t.Errorf("%s: stream %+v, want it as %s tells", name, st, leader)
		}
		meta := natsServer(c.MetaLeader())
		ids := map[string]string{}
		for _, v := range s.Servers {
			ids[v.ID] = v.Name
			if v.JetStream == nil || v.JetStream.MetaLeader != meta || v.JetStream.MetaSize != 3 || v.Cluster != "test" {
				t.Errorf("%s: server %+v, JetStream %+v; want meta leader %s", name, v, v.JetStream, meta)
			}
		}
		for _, r := range s.Routes {
			if ids[r.From] == "" || ids[r.To] != r.ToName || r.Conns == 0 || r.At.IsZero() {
				t.Errorf("%s: route %+v joins no two servers of %v", name, r, ids)
			}
		}
	}
	// What the test made may be told as created: that was moments ago.
	for _, kind := range byMonitoring.kinds() {
		if !strings.HasPrefix(kind, "stream.created ") && !strings.HasPrefix(kind, "consumer.created ") {
			t.Errorf("an event before anything happened: %s", kind)
		}
	}

	t.Run("one monitoring URL", func(t *testing.T) {
		wait.For(t, patience, "the neighbours, not read", func() bool {
			s := byOne.latest()
			return len(s.Servers) == 3 && s.Expected == 3 && findServer(s, "n1").State == fleet.Healthy &&
				findServer(s, "n2").State == fleet.Unread && findServer(s, "n3").State == fleet.Unread
		})
		for _, p := range byOne.latest().Problems {
			if p.Where == "n2" && !strings.Contains(p.Hint, "--monitor") {
				t.Errorf("problem %+v does not say what to add", p)
			}
		}
		// What the unread servers lead is left out rather than shown with zeros, and
		// the account's own JetStream API fills it in where there is one.
		for _, k := range byOne.latest().Consumers {
			if k.Leader != "n1" {
				t.Errorf("consumer %+v is not led by the only server that is read", k)
			}
		}
		wait.For(t, patience, "all consumers with the account's help", func() bool {
			s := byOneAndAccount.latest()
			return len(s.Consumers) == consumers && len(s.Streams) == 1 && s.Streams[0].Messages == 40
		})
		for _, k := range byOneAndAccount.latest().Consumers {
			if k.Consumer != "c0" && k.Pending != 40 {
				t.Errorf("consumer %+v, want 40 pending", k)
			}
		}
	})

	t.Run("assets come and go", func(t *testing.T) {
		stream(t, j, "BRIEF", 3)
		consumer(t, j, "BRIEF", "b")
		for _, m := range []*memory{byMonitoring, bySystem} {
			wait.For(t, patience, "the new stream and consumer", func() bool {
				return m.has("stream.created", "APP/BRIEF") && m.has("consumer.created", "APP/BRIEF/b")
			})
		}
		if err := j.DeleteStream(t.Context(), "BRIEF"); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*memory{byMonitoring, bySystem} {
			wait.For(t, patience, "their removal", func() bool {
				return m.has("stream.removed", "APP/BRIEF") && m.has("consumer.removed", "APP/BRIEF/b")
			})
		}
	})

	t.Run("kill and restart", func(t *testing.T) {
		dead := c.StreamLeader("ORDERS")
		name := natsServer(dead)
		before := map[*memory]fleet.Server{
			byMonitoring: findServer(byMonitoring.latest(), name),
			bySystem:     findServer(bySystem.latest(), name),
		}
		c.Kill(dead)
		for m, before := range before {
			wait.For(t, patience, "the loss of "+name, func() bool {
				return m.has("server.lost", name) && findServer(m.latest(), name).State == fleet.Unreachable
			})
			s := m.latest()
			down := findServer(s, name)
			if down.Error == "" || !down.At.Before(s.TakenAt) || down.InMsgs < before.InMsgs || s.Expected != 3 {
				t.Errorf("lost server %+v; want its last good figures, dated, and an error", down)
			}
			for _, v := range s.Servers {
				if v.Name != name && (v.State != fleet.Healthy || s.TakenAt.Sub(v.At) > 2*time.Second) {
					t.Errorf("server %s is %s and %v old while %s is down", v.Name, v.State, s.TakenAt.Sub(v.At), name)
				}
			}
			for _, r := range s.Routes {
				if r.From == down.ID {
					t.Errorf("route %+v of a server that is down", r)
				}
			}
			wait.For(t, patience, "another leader of the stream", func() bool {
				s := m.latest()
				return len(s.Streams) == 1 && s.Streams[0].Leader != "" && s.Streams[0].Leader != name &&
					time.Since(s.Streams[0].At) < 5*time.Second && len(s.Consumers) == consumers
			})
			if !m.has("stream.leader", "APP/ORDERS") {
				t.Errorf("events %v, want the stream's new leader", m.kinds())
			}
			if slices.ContainsFunc(m.kinds(), func(e string) bool { return strings.HasSuffix(e, "removed APP/ORDERS") }) {
				t.Errorf("events %v: nothing of ORDERS was removed", m.kinds())
			}
		}
		for _, s := range byMonitoring.all() {
			if len(s.Consumers) < consumers && len(s.Servers) == 3 && whole(byMonitoring.all()[0]) {
				t.Fatalf("a snapshot during the election has %d consumers, want %d", len(s.Consumers), consumers)
			}
		}
		c.Restart(dead)
		c.WaitReady()
		for m, before := range before {
			wait.For(t, patience, "its restart", func() bool {
				return m.has("server.restarted", name) && findServer(m.latest(), name).State == fleet.Healthy
			})
			after := findServer(m.latest(), name)
			if after.ID == before.ID || !after.Start.After(before.Start) {
				t.Errorf("after the restart %+v, before it %+v", after, before)
			}
			wait.For(t, patience, "no problem to be left", func() bool {
				s := m.latest()
				return len(s.Problems) == 0 && len(s.Consumers) == consumers
			})
			for _, e := range m.kinds() {
				if e == "server.joined "+name || strings.HasPrefix(e, "stream.removed APP/ORDERS") || strings.HasPrefix(e, "consumer.removed APP/ORDERS") {
					t.Errorf("events %v: %s did not happen", m.kinds(), e)
				}
			}
		}
	})

	t.Run("replicas of one", func(t *testing.T) {
		if _, err := j.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SOLO", Subjects: []string{"solo"}, Replicas: 1}); err != nil {
			t.Fatal(err)
		}
		publish(t, j, "solo", 5)
		for _, m := range []*memory{byMonitoring, bySystem} {
			wait.For(t, patience, "the stream of one server", func() bool {
				s := m.latest()
				i := slices.IndexFunc(s.Streams, func(s fleet.Stream) bool { return s.Stream == "SOLO" })
				return i >= 0 && s.Streams[i].Messages == 5 && s.Streams[i].Leader != ""
			})
		}
	})
}

// natsServer is the name of a cluster's server by its index.
func natsServer(i int) string { return fmt.Sprintf("n%d", i+1) }

func TestCandidatesAreGuessedFromRoutes(t *testing.T) {
	t.Parallel()
	m, err := newMonitor(Config{Monitor: []string{"http://u:p@nats-1.example:8222/base/"}, Now: time.Now, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	e := m.endpoints[0]
	e.last = &look{server: fleet.Server{ID: "A"}, httpPort: 8222}
	got := m.candidates(e, []neighbour{{id: "B", name: "nats-2", ip: "10.0.0.2"}, {id: "C", name: "nats-3", ip: "fd00::3"}, {id: "D"}})
	var urls []string
	for _, g := range got {
		urls = append(urls, g.base.String())
		if g.expect == "" || g.configured {
			t.Errorf("candidate %+v is taken on trust", g)
		}
	}
	// The password is for the host that it was given for.
	want := []string{"http://10.0.0.2:8222/base", "http://[fd00::3]:8222/base"}
	if !slices.Equal(urls, want) {
		t.Errorf("candidates %v, want %v", urls, want)
	}
	if again := m.candidates(e, []neighbour{{id: "B", ip: "10.0.0.2"}}); len(again) != 0 {
		t.Errorf("the same guess again: %+v", again)
	}
	m.took(got[0], nil, errOther)
	if m.find(&url.URL{Scheme: "http", Host: "10.0.0.2:8222", Path: "/base"}) != nil {
		t.Error("a wrong guess is kept")
	}
}
