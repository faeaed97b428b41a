package collector

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

func findQueue(s fleet.Snapshot, subject, queue string) (fleet.QueueGroup, bool) {
	for _, g := range s.Queues {
		if g.Subject == subject && g.Queue == queue {
			return g, true
		}
	}
	return fleet.QueueGroup{}, false
}

// Members of one group on three servers, and another group that gets nothing, as
// monitoring and the system account tell of them.
func TestQueueGroups(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	c.WaitReady()
	member := func(server int, name string) *nats.Conn {
		nc, err := nats.Connect(c.URL(server), nats.UserInfo(natstest.AppUser, natstest.AppPassword), nats.Name(name), nats.MaxReconnects(-1), nats.Timeout(patience))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		if _, err := nc.QueueSubscribe("jobs.>", "crew", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Subscribe("jobs.>", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return nc
	}
	first := member(0, "one")
	member(1, "two")
	member(2, "three")
	if _, err := first.QueueSubscribe("rest.>", "crew", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	published := uint64(0)
	for _, source := range []struct {
		name string
		cfg  Config
	}{{"monitoring", Config{Monitor: c.MonitorURLs()}}, {"system account", Config{System: c.Sys(t)}}} {
		m := collect(t, source.cfg)
		var g fleet.QueueGroup
		wait.For(t, patience, "the group over "+source.name, func() bool {
			var ok bool
			g, ok = findQueue(m.latest(), "jobs.>", "crew")
			return ok && g.Total == 3
		})
		if g.Account != "APP" || g.Since.IsZero() || g.At.IsZero() || len(g.Members) != 3 {
			t.Errorf("%s: group %+v", source.name, g)
		}
		for _, q := range g.Members {
			if q.CID == 0 || q.SID == "" || q.Server == "" || q.Name == "" || q.IP == "" || q.Lang != "go" || q.Start.IsZero() || q.Active.IsZero() || q.Since.IsZero() {
				t.Errorf("%s: member %+v", source.name, q)
			}
		}
		for range 300 {
			if err := first.Publish("jobs.a", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		published += 300
		seen := g
		wait.For(t, patience, "the group's traffic over "+source.name, func() bool {
			g, _ = findQueue(m.latest(), "jobs.>", "crew")
			sum := uint64(0)
			for _, q := range g.Members {
				sum += q.Msgs
			}
			return sum == published
		})
		if !g.Since.Equal(seen.Since) || g.Span == 0 {
			t.Errorf("%s: seen first at %v, then at %v; span %v", source.name, seen.Since, g.Since, g.Span)
		}
		if !slices.ContainsFunc(g.Members, func(q fleet.QueueMember) bool { return q.Moved.After(q.Since) && q.Msgs > 0 }) {
			t.Errorf("%s: nobody moved: %+v", source.name, g.Members)
		}
		if r, ok := findQueue(m.latest(), "rest.>", "crew"); !ok || r.Total != 1 || r.Members[0].Msgs != 0 || r.Members[0].Moved.After(r.Members[0].Since) || r.Rate != 0 {
			t.Errorf("%s: idle group %+v", source.name, r)
		}
	}
	m := collect(t, Config{Monitor: c.MonitorURLs()})
	wait.For(t, patience, "the group", func() bool { g, ok := findQueue(m.latest(), "jobs.>", "crew"); return ok && g.Total == 3 })
	first.Close()
	wait.For(t, patience, "the group without the one that left", func() bool {
		g, ok := findQueue(m.latest(), "jobs.>", "crew")
		return ok && g.Total == 2 && !slices.ContainsFunc(g.Members, func(q fleet.QueueMember) bool { return q.Name == "one" })
	})
}

func pageOf(conns, subs int, msgs uint64) *subbedConnz {
	z := &subbedConnz{Total: conns}
	for i := range conns {
		c := subbedConn{conn: conn{CID: uint64(i + 1), Account: "A", Name: strings.Repeat("n", 1000)}}
		for j := range subs {
			c.Detail = append(c.Detail, subDetail{Subject: fmt.Sprint("s", j), Queue: "q", SID: fmt.Sprint(j), Msgs: counter(msgs)})
		}
		c.Detail = append(c.Detail, subDetail{Subject: "plain", SID: "x"})
		z.Conns = append(z.Conns, c)
	}
	return z
}

func lookAt(id string, at time.Time, pages ...*subbedConnz) seen {
	subs := newQueueSubs(id)
	for _, p := range pages {
		subs.add(p)
	}
	x := &extras{}
	x.setQueues(subs, at, true)
	return seen{look: &look{server: fleet.Server{ID: id, Name: "n" + id}}, extras: x, alive: true}
}

func ownName(s *fleet.Server) string { return s.Name }

func TestQueueRates(t *testing.T) {
	t.Parallel()
	var q queues
	groups, _ := q.update([]seen{lookAt("1", t0, pageOf(2, 1, 100))}, ownName)
	if len(groups) != 1 || groups[0].Total != 2 || groups[0].Span != 0 || groups[0].Members[0].Span != 0 {
		t.Fatalf("first look %+v, want one group without rates", groups)
	}
	next := pageOf(2, 1, 100)
	next.Conns[1].Detail[0].Msgs = 700
	later := lookAt("1", t0.Add(time.Minute), next, next) // a page that repeats itself counts once
	groups, _ = q.update([]seen{later}, ownName)
	g := groups[0]
	if g.Rate != 10 || g.Span != time.Minute || g.Total != 2 || !g.Since.Equal(t0) {
		t.Errorf("second look %+v, want 10 msg/s over a minute", g)
	}
	if m := g.Members[0]; m.CID != 1 || m.Rate != 0 || !m.Moved.Equal(t0) || m.Span != time.Minute {
		t.Errorf("idle member %+v", m)
	}
	if m := g.Members[1]; m.CID != 2 || m.Rate != 10 || !m.Moved.Equal(t0.Add(time.Minute)) || len(m.Name) != 128 {
		t.Errorf("busy member %+v", m)
	}
	// Another server tells, this one does not: its figures stand.
	groups, _ = q.update([]seen{later, lookAt("2", t0.Add(90*time.Second), pageOf(1, 1, 5))}, ownName)
	if g := groups[0]; g.Total != 3 || g.Rate != 10 {
		t.Errorf("with another server %+v", g)
	}
	// A counter that fell is no burst.
	groups, _ = q.update([]seen{lookAt("1", t0.Add(2*time.Minute), pageOf(2, 1, 1))}, ownName)
	if g := groups[0]; g.Rate != 0 || g.Total != 2 {
		t.Errorf("after a fallen counter %+v", g)
	}
	dead := lookAt("1", t0.Add(3*time.Minute), pageOf(2, 1, 1))
	dead.alive = false
	if groups, _ = q.update([]seen{dead}, ownName); len(groups) != 0 {
		t.Errorf("members of a server that does not answer: %+v", groups)
	}
}

func TestQueueGroupsAreBounded(t *testing.T) {
	t.Parallel()
	var q queues
	subs := newQueueSubs("2")
	heavy := seen{look: &look{server: fleet.Server{ID: "2", Name: "heavy"}}, extras: &extras{}, alive: true}
	heavy.extras.setQueues(subs, t0, false)
	groups, cut := q.update([]seen{lookAt("1", t0, pageOf(10, 3000, 1)), heavy}, ownName)
	if len(groups) != maxQueueGroups || cut.Groups != 2000 || !slices.Equal(cut.Servers, []string{"heavy", "n1"}) {
		t.Errorf("%d groups, cut %+v", len(groups), cut)
	}
	all := 0
	for _, g := range groups {
		all += g.Total
		if g.Total < 6 {
			t.Fatalf("group %+v was kept before larger ones", g)
		}
	}
	if all > maxQueueSubs {
		t.Errorf("%d members were kept, want at most %d", all, maxQueueSubs)
	}
	groups, _ = q.update([]seen{lookAt("1", t0.Add(time.Minute), pageOf(500, 1, 1))}, ownName)
	if g := groups[0]; g.Total != 500 || len(g.Members) != maxQueueMembers {
		t.Errorf("%d members of %d are listed", len(g.Members), g.Total)
	}
}

// FuzzQueues reads any bytes as a page of connections with their subscriptions.
func FuzzQueues(f *testing.F) {
	f.Add([]byte(`{"total":1,"connections":[{"cid":7,"account":"A","name":"w","last_activity":"2026-11-24T06:25:14Z","subscriptions_list_detail":[{"subject":"jobs.>","qgroup":"crew","sid":"1","msgs":5,"cid":7},{"subject":"x","sid":"2","msgs":-1}]}]}`), []byte(`{"connections":[{"cid":7,"account":"A","subscriptions_list_detail":[{"subject":"jobs.>","qgroup":"crew","sid":"1","msgs":9}]}]}`))
	f.Add([]byte(`{"connections":[{"subscriptions_list_detail":[null,{"subject":"","qgroup":"q"}]},null]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var q queues
		for i, data := range [][]byte{first, second} {
			var z subbedConnz
			if decoder(data).Decode(&z) != nil {
				return
			}
			sums := newConnSums("A", t0)
			sums.add(z.plain())
			at := t0.Add(time.Duration(i) * time.Minute)
			groups, _ := q.update([]seen{lookAt("A", at, &z)}, ownName)
			for _, g := range groups {
				if g.Subject == "" || g.Queue == "" || g.Total < len(g.Members) || len(g.Members) == 0 || g.Rate < 0 || g.Since.After(at) {
					t.Errorf("group %+v", g)
				}
				for _, m := range g.Members {
					if m.Rate < 0 || m.Pending < 0 || m.Since.After(m.Moved) || m.Moved.After(at) || len(m.Name) > 128 {
						t.Errorf("member %+v", m)
					}
				}
			}
		}
	})
}
