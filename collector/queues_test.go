package collector

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
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
			z, err := readConnz(decoder(data), 100)
			if err != nil {
				return
			}
			sums := newConnSums("A", t0)
			sums.add(z.plain())
			at := t0.Add(time.Duration(i) * time.Minute)
			groups, _ := q.update([]seen{lookAt("A", at, z)}, ownName)
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

// connPages is what a server answers that has n connections, each a member of a
// queue group and with an inbox, as it is asked for them.
func connPages(n int) [][]byte {
	var pages [][]byte
	for from := 0; from < n; from += connPage {
		var b strings.Builder
		fmt.Fprintf(&b, `{"server_id":"NB7GMY3NVN33P5YITLM6XQGUKYYDZI2YGDUQCA5I3335KD5UHXZLRLEO","now":"2026-11-24T06:25:14.888650091Z","num_connections":%d,"total":%d,"offset":%d,"limit":%d,"connections":[`,
			min(connPage, n-from), n, from, connPage)
		for i := from; i < min(from+connPage, n); i++ {
			if i > from {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"cid":%d,"kind":"Client","type":"nats","ip":"10.0.%d.%d","port":51234,"start":"2026-11-24T06:25:14.888650091Z","last_activity":"2026-11-24T06:25:15.888650091Z","rtt":"123µs","uptime":"1h2m3s","idle":"3s","pending_bytes":0,"in_msgs":%d,"out_msgs":%d,"in_bytes":123456,"out_bytes":654321,"subscriptions":2,"name":"worker-%d","lang":"go","version":"1.55.0","authorized_user":"app","account":"APP","subscriptions_list_detail":[{"subject":"jobs.%d.>","qgroup":"crew","sid":"1","msgs":%d,"cid":%d},{"subject":"_INBOX.Ab12Cd34Ef56Gh78.*","sid":"2","msgs":3,"cid":%d}]}`,
				i+1, i/250, i%250, i, 2*i, i, i%100, i, i+1, i+1)
		}
		b.WriteString("]}")
		pages = append(pages, []byte(b.String()))
	}
	return pages
}

// Ten thousand connections, page by page: all are summed, few are kept.
func TestTenThousandConnections(t *testing.T) {
	t.Parallel()
	pages := connPages(10_000)
	var mu sync.Mutex
	asked := map[string]int{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case r.URL.Path == "/varz":
			fmt.Fprintf(w, `{"server_id":"NB7GMY3NVN33P5YITLM6XQGUKYYDZI2YGDUQCA5I3335KD5UHXZLRLEO","server_name":"solo","version":"2.15.2","now":%q,"start":"2026-11-24T06:00:00Z","connections":10000,"subscriptions":20000}`, time.Now().Format(time.RFC3339Nano))
		case r.URL.Path == "/subsz":
			w.Write([]byte(`{"num_subscriptions":20000}`))
		case r.URL.Path == "/connz" && q.Get("sort") == "":
			mu.Lock()
			asked[q.Get("offset")]++
			mu.Unlock()
			n, err := strconv.Atoi(q.Get("offset"))
			if err != nil || q.Get("limit") != strconv.Itoa(connPage) || q.Get("subs") != "detail" {
				t.Errorf("asked for %s", r.URL)
			}
			w.Write(pages[min(n/connPage, len(pages)-1)])
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(front.Close)
	m := collect(t, Config{Monitor: []string{front.URL}, Interval: time.Second})
	wait.For(t, patience, "all connections", func() bool { return len(m.latest().ConnSums) > 0 })
	s := m.latest()
	if len(s.ConnSums) != 1 || s.ConnSums[0].Conns != 10_000 || s.ConnSums[0].Subs != 20_000 || s.ConnSums[0].InBytes != 10_000*123456 {
		t.Errorf("sums %+v", s.ConnSums)
	}
	total, listed := 0, 0
	for _, g := range s.Queues {
		total += g.Total
		listed += len(g.Members)
	}
	if len(s.Queues) != 100 || total != 10_000 || listed != 100*maxQueueMembers {
		t.Errorf("%d groups, %d members, %d listed", len(s.Queues), total, listed)
	}
	if len(s.Conns) > maxConns {
		t.Errorf("%d connections are kept", len(s.Conns))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != len(pages) {
		t.Errorf("%d pages were asked for, want %d", len(asked), len(pages))
	}
}

// BenchmarkTenThousandConnections reads and sums them, with their subscriptions,
// and builds the queue groups.
func BenchmarkTenThousandConnections(b *testing.B) {
	pages := connPages(10_000)
	bytes := 0
	for _, p := range pages {
		bytes += len(p)
	}
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	for b.Loop() {
		sums, subs := newConnSums("A", t0), newQueueSubs("A")
		for _, p := range pages {
			z, err := readConnz(decoder(p), connPage)
			if err != nil {
				b.Fatal(err)
			}
			sums.add(z.plain())
			subs.add(z)
		}
		x := &extras{}
		x.setQueues(subs, t0, true)
		var q queues
		groups, _ := q.update([]seen{{look: &look{server: fleet.Server{ID: "A"}}, extras: x, alive: true}}, ownName)
		if len(groups) != 100 || sums.list()[0].Conns != 10_000 {
			b.Fatal("not all were read")
		}
	}
}
