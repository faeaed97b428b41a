package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// The tests of this file hold what docs/drivers.md says of the servers' mappings
// against servers of the version that this program is built with.

var noJetStream = natstest.Tweak(func(o *server.Options) { o.JetStream = false })

func conf(format string, args ...any) natstest.Option {
	return natstest.Config(fmt.Sprintf(format, args...))
}

// mapping are the accounts of natstest with more in account APP, and other accounts.
func mapping(app, others string) natstest.Option {
	return conf(`
accounts {
  SYS { users: [ { user: %q, password: %q } ] }
  APP { users: [ { user: %q, password: %q } ]
    %s
  }
  %s
}
system_account: SYS
`, natstest.SysUser, natstest.SysPassword, natstest.AppUser, natstest.AppPassword, app, others)
}

func as(tb testing.TB, srv *server.Server, user, password string) *nats.Conn {
	tb.Helper()
	return natstest.Connect(tb, srv.ClientURL(), nats.UserInfo(user, password))
}

func asApp(tb testing.TB, srv *server.Server) *nats.Conn {
	tb.Helper()
	return as(tb, srv, natstest.AppUser, natstest.AppPassword)
}

// looksAt is a driver that writes nothing, on one server.
func looksAt(tb testing.TB, srv *server.Server) Driver {
	tb.Helper()
	return NewFileDriver(FileConfig{Conn: asApp(tb, srv), System: as(tb, srv, natstest.SysUser, natstest.SysPassword), Splits: func() ([]traffic.Split, error) { return nil, nil }})
}

// heard publishes n messages and counts by subject what arrives at a subscriber of
// the patterns. What is published last marks the end: nothing is waited for that
// may not come.
func heard(tb testing.TB, pub, sub *nats.Conn, subject string, n int, patterns ...string) map[string]int {
	tb.Helper()
	in := make(chan *nats.Msg, 4*n+10_000)
	mark := "mark." + cmp.Or(pub.Opts.User, "user") + "." + nuid.Next() // other accounts import those of one
	for _, p := range append(patterns, mark) {
		s, err := sub.ChanSubscribe(p, in)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = s.Unsubscribe() }()
	}
	if err := sub.Flush(); err != nil {
		tb.Fatal(err)
	}
	wait.For(tb, 30*time.Second, "the subscription to be known everywhere", func() bool {
		if err := pub.Publish(mark, nil); err != nil {
			tb.Fatal(err)
		}
		select {
		case <-in:
			return true
		default:
			return false
		}
	})
	for range n {
		if err := pub.Publish(subject, nil); err != nil {
			tb.Fatal(err)
		}
	}
	if err := pub.Publish(mark, []byte("end")); err != nil {
		tb.Fatal(err)
	}
	got := map[string]int{}
	end := time.After(30 * time.Second)
	for {
		select {
		case m := <-in:
			switch {
			case m.Subject != mark:
				got[m.Subject]++
			case len(m.Data) > 0:
				return got
			}
		case <-end:
			tb.Fatalf("the end does not come; so far %v", got)
		}
	}
}

// only fails when messages came to other subjects than these, or to one of these
// none.
func only(tb testing.TB, what string, got map[string]int, n int, subjects ...string) {
	tb.Helper()
	sum := 0
	for _, v := range got {
		sum += v
	}
	slices.Sort(subjects)
	if sum != n || !slices.Equal(slices.Sorted(maps.Keys(got)), subjects) {
		tb.Errorf("%s: %v, want %d in all at %v", what, got, n, subjects)
	}
}

func warned(tb testing.TB, d Driver, s traffic.Split, says string) {
	tb.Helper()
	warn, err := d.Check(tb.Context(), s)
	if err != nil {
		tb.Errorf("Check: %v", err)
	}
	if !slices.ContainsFunc(warn, func(w string) bool { return strings.Contains(w, says) }) {
		tb.Errorf("nothing warns with %q: %q", says, warn)
	}
}

func unwarned(tb testing.TB, d Driver, s traffic.Split, says string) {
	tb.Helper()
	warn, err := d.Check(tb.Context(), s)
	if err != nil || slices.ContainsFunc(warn, func(w string) bool { return strings.Contains(w, says) }) {
		tb.Errorf("Check = %q, %v; it must not say %q", warn, err, says)
	}
}

// force reads what one server does, as soon as it answers.
func force(tb testing.TB, d Driver, s traffic.Split, name string) (f traffic.InForce) {
	tb.Helper()
	wait.For(tb, 60*time.Second, "the answer of server "+name, func() bool {
		all, err := d.InForce(tb.Context(), s)
		i := slices.IndexFunc(all, func(f traffic.InForce) bool { return f.Server == name })
		if err != nil || i < 0 {
			return false
		}
		f = all[i]
		return true
	})
	return f
}

// Weights under 100: the rest stays on the subject itself, unless the mapping
// names it; then it is lost.
func TestMappingWithARest(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, noJetStream, conf("server_name: n1\n"), mapping(`mappings {
      orders: [ { destination: o.a, weight: 40 } ]
      bills: [ { destination: o.a, weight: 40 }, { destination: bills, weight: 10 } ]
    }`, ""))
	d, pub, sub := looksAt(t, srv), asApp(t, srv), asApp(t, srv)
	s := mapped(traffic.DriverMappingConfig, 100)
	only(t, "a mapping of 40", heard(t, pub, sub, "orders", 1000, "orders", "o.*"), 1000, "orders", "o.a")
	if f := force(t, d, s, "n1"); f.State != traffic.ForceOther || f.Weights["a"] != 40 || f.Others["orders"] != 60 || !strings.Contains(f.Text, "60 of 100 messages stay") {
		t.Errorf("in force is %+v", f)
	}
	s.Subject = "bills"
	if got := heard(t, pub, sub, "bills", 1000, "bills", "o.*"); got["o.a"]+got["bills"] > 650 || got["o.a"] == 0 || got["bills"] == 0 {
		t.Errorf("half of the messages should be lost: %v", got)
	}
	if f := force(t, d, s, "n1"); f.State != traffic.ForceOther || !strings.Contains(f.Text, "50 of 100 messages are lost") {
		t.Errorf("in force is %+v", f)
	}
}

// Two clusters, one of which has weights of its own: the server that a message is
// published at decides.
func TestMappingOfClusters(t *testing.T) {
	t.Parallel()
	accounts := mapping(`mappings {
      orders: [ { destination: o.a, weight: 60 }, { destination: o.b, weight: 40 }, { destination: near.x, weight: 50, cluster: east }, { destination: near.y, weight: 50, cluster: east } ]
      elsewhere: [ { destination: near.z, weight: 100, cluster: east } ]
    }`, "")
	east := natstest.Server(t, noJetStream, accounts, conf(`
server_name: e1
cluster { name: east, listen: "127.0.0.1:-1" }
gateway { name: east, listen: "127.0.0.1:-1" }
`))
	west := natstest.Server(t, noJetStream, accounts, conf(`
server_name: w1
cluster { name: west, listen: "127.0.0.1:-1" }
gateway { name: west, listen: "127.0.0.1:-1", gateways: [ { name: east, url: "nats://127.0.0.1:%d" } ] }
`, east.GatewayAddr().Port))
	wait.For(t, 30*time.Second, "the clusters to be linked", func() bool { return east.NumOutboundGateways() == 1 && west.NumOutboundGateways() == 1 })
	e, w := asApp(t, east), asApp(t, west)
	only(t, "published in the east", heard(t, e, w, "orders", 500, "orders", "o.*", "near.*"), 500, "near.x", "near.y")
	only(t, "published in the west", heard(t, w, e, "orders", 500, "orders", "o.*", "near.*"), 500, "o.a", "o.b")
	only(t, "weights for another cluster only", heard(t, w, e, "elsewhere", 100, "elsewhere", "near.*"), 100, "elsewhere")

	d, s := looksAt(t, west), mapped(traffic.DriverMappingConfig, 60, 40)
	if f := force(t, d, s, "w1"); f.State != traffic.ForceSame {
		t.Errorf("in the west %+v", f)
	}
	if f := force(t, d, s, "e1"); f.State != traffic.ForceOwn || f.Others["near.x"] != 50 || !strings.Contains(f.Text, "cluster east has weights of its own") {
		t.Errorf("in the east %+v", f)
	}
}

// The claims hold weights for one cluster: they stay, they are told, and a target
// that would then stand twice is refused before a server does.
func TestClaimsWithWeightsOfACluster(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 2, func(c *jwt.AccountClaims) {
		c.Mappings = jwt.Mapping{"orders": {{Subject: "near.x", Weight: 100, Cluster: "test"}}}
	})
	d, _ := claimsOf(t, o)
	s := mapped(traffic.DriverMappingJWT, 60, 40)
	warned(t, d, s, "cluster test have weights of their own")
	if err := d.Push(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "the claims on the server", func() bool { return force(t, d, s, "n1").State == traffic.ForceOwn })
	nc := o.App(t)
	only(t, "published in the cluster", heard(t, nc, nc, "orders", 200, "orders", "o.*", "near.*"), 200, "near.x")

	s.Targets[0].Subject = "near.x"
	if err := d.Push(t.Context(), s); fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "stands twice") {
		t.Errorf("a destination that stands twice: %v", err)
	}
	c, err := d.(*claimsDriver).lookUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	twice := c.claimsWith(t, o, jwt.WeightedMapping{Subject: "near.x", Weight: 100, Cluster: "test"}, jwt.WeightedMapping{Subject: "near.x", Weight: 100})
	if err := d.(*claimsDriver).update(t.Context(), twice); fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "duplicate entry") {
		t.Errorf("the server takes a destination that stands twice: %v", err)
	}
}

// claimsWith are the claims with a mapping as it is given, signed.
func (c claims) claimsWith(tb testing.TB, o *natstest.Operator, mapping ...jwt.WeightedMapping) string {
	tb.Helper()
	ac, err := jwt.DecodeAccountClaims(c.token)
	if err != nil {
		tb.Fatal(err)
	}
	ac.Mappings = jwt.Mapping{"orders": mapping}
	token, err := ac.Encode(o.Key)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// A wider mapping beside the exact one: chance at each start, so it is refused
// before and shown after.
func TestMappingBesideAWiderOne(t *testing.T) {
	t.Parallel()
	for range 5 {
		srv := natstest.Server(t, noJetStream, conf("server_name: n1\n"), mapping(`mappings {
      orders: [ { destination: o.a, weight: 100 } ]
      "*": [ { destination: "wide.{{wildcard(1)}}", weight: 100 } ]
    }`, ""))
		pub, sub := asApp(t, srv), asApp(t, srv)
		// Marks have several tokens: the wider mapping does not mean them.
		if got := heard(t, pub, sub, "orders", 50, "orders", "o.*", "wide.*"); got["o.a"] != 50 && got["wide.orders"] != 50 {
			t.Errorf("a server takes one of the two, whichever it is: %v", got)
		}
		d, s := looksAt(t, srv), mapped(traffic.DriverMappingConfig, 100)
		if _, err := d.Check(t.Context(), s); fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "already maps *") {
			t.Errorf("Check = %v", err)
		}
		if f := force(t, d, s, "n1"); f.State != traffic.ForceOverlap || !strings.Contains(f.Text, "also maps *") {
			t.Errorf("in force is %+v", f)
		}
	}
}

// hubAndLeaf is a server that maps orders, and one behind a leaf node connection
// to the same account.
func hubAndLeaf(tb testing.TB, hub, leaf string) (h, l *server.Server) {
	tb.Helper()
	h = natstest.Server(tb, noJetStream, mapping(hub, ""), conf("server_name: hub\nleafnodes { listen: \"127.0.0.1:-1\" }\n"))
	v, err := h.Varz(nil)
	if err != nil {
		tb.Fatal(err)
	}
	l = natstest.Server(tb, noJetStream, mapping(leaf, ""), conf("server_name: leaf\nleafnodes { remotes: [ { url: \"nats-leaf://%s:%s@127.0.0.1:%d\", account: APP } ] }\n",
		natstest.AppUser, natstest.AppPassword, v.LeafNode.Port))
	wait.For(tb, 30*time.Second, "the leaf node", func() bool { return h.NumLeafNodes() == 1 && l.NumLeafNodes() == 1 })
	return h, l
}

const ordersMapped = "mappings { orders: [ { destination: o.a, weight: 60 }, { destination: o.b, weight: 40 } ] }"

// What is published at a leaf node is divided on its way through the servers that
// map; at the leaf node itself nobody gets it.
func TestMappingAndALeafNode(t *testing.T) {
	t.Parallel()
	h, l := hubAndLeaf(t, ordersMapped, "")
	hub, leaf, beside := asApp(t, h), asApp(t, l), asApp(t, l)
	only(t, "from the leaf node to the hub", heard(t, leaf, hub, "orders", 500, "orders", "o.*"), 500, "o.a", "o.b")
	only(t, "from the hub to the leaf node", heard(t, hub, leaf, "orders", 500, "orders", "o.*"), 500, "o.a", "o.b")
	only(t, "from the leaf node to its own subscribers of the targets", heard(t, leaf, beside, "orders", 500, "o.*"), 0)
	only(t, "from the leaf node to its own subscribers of the subject", heard(t, leaf, beside, "orders", 500, "orders", "o.*"), 500, "orders")
	d, s := looksAt(t, h), mapped(traffic.DriverMappingConfig, 60, 40)
	warned(t, d, s, "subscribers of the targets at that same leaf node get nothing")
	if all, err := d.InForce(t.Context(), s); err != nil || len(all) != 1 || all[0].State != traffic.ForceSame {
		t.Errorf("in force is %+v, %v: a leaf node of another system is not asked", all, err)
	}
}

// A leaf node with the same mapping divides by itself, once; with others, its own
// go first, and the hub maps what comes of them again.
func TestMappingOfALeafNode(t *testing.T) {
	t.Parallel()
	h, l := hubAndLeaf(t, ordersMapped, ordersMapped)
	hub, leaf, beside := asApp(t, h), asApp(t, l), asApp(t, l)
	only(t, "the same mapping, to the hub", heard(t, leaf, hub, "orders", 500, "orders", "o.*"), 500, "o.a", "o.b")
	only(t, "the same mapping, at the leaf node", heard(t, leaf, beside, "orders", 500, "orders", "o.*"), 500, "o.a", "o.b")

	h, l = hubAndLeaf(t, `mappings { orders: [ { destination: o.a, weight: 100 } ], o.c: [ { destination: o.again, weight: 100 } ] }`,
		"mappings { orders: [ { destination: o.c, weight: 100 } ] }")
	hub, leaf = asApp(t, h), asApp(t, l)
	only(t, "a mapping of its own, mapped again by the hub", heard(t, leaf, hub, "orders", 500, "orders", "o.*"), 500, "o.again")
}

// A server maps a message once, and in the account in which it is published.
func TestMappingAndOtherAccounts(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, noJetStream, conf("server_name: n1\n"), mapping(`
    exports: [ { stream: "orders" }, { stream: "o.a" }, { service: "ask" }, { stream: "mark.app.*" } ]
    imports: [ { stream: { account: OTHER, subject: "sent.orders" }, to: "got" }, { stream: { account: OTHER, subject: "mark.other.*" } } ]
    mappings {
      orders: [ { destination: o.a, weight: 60 }, { destination: o.b, weight: 40 } ]
      o.b: [ { destination: behind, weight: 100 } ]
      before: [ { destination: orders, weight: 100 } ]
      got: [ { destination: o.a, weight: 100 } ]
      ask: [ { destination: asked, weight: 100 } ]
    }`, `OTHER {
      users: [ { user: other, password: other } ]
      exports: [ { stream: "sent.orders" }, { stream: "mark.other.*" } ]
      imports: [ { stream: { account: APP, subject: "mark.app.*" } }, { stream: { account: APP, subject: "o.a" } }, { stream: { account: APP, subject: "orders" } }, { service: { account: APP, subject: ask }, to: "app.ask" } ]
    }`))
	app, sub, other := asApp(t, srv), asApp(t, srv), as(t, srv, "other", "other")
	only(t, "a target that is mapped itself", heard(t, app, sub, "orders", 200, "orders", "o.*", "behind"), 200, "o.a", "o.b")
	only(t, "a mapping that leads to the subject", heard(t, app, sub, "before", 200, "before", "orders", "o.*", "behind"), 200, "orders")
	// What other accounts import, and what they send.
	if got := heard(t, app, other, "orders", 200, "orders", "o.*"); got["o.a"] == 0 || got["orders"]+got["o.b"] != 0 {
		t.Errorf("the other account gets %v, want what is drawn to o.a alone", got)
	}
	only(t, "by import of a stream", heard(t, other, app, "sent.orders", 100, "got", "o.*"), 100, "got")
	only(t, "by import of a service", heard(t, other, app, "app.ask", 100, "ask", "asked"), 100, "asked")

	d, s := looksAt(t, srv), mapped(traffic.DriverMappingConfig, 60, 40)
	warned(t, d, s, "maps o.b too (by o.b), but a server maps a message once")
	warned(t, d, s, "mapping of before leads to orders")
	warned(t, d, s, "exports orders, but not o.b")
	unwarned(t, d, s, "imports")
	s.Subject = "got"
	warned(t, d, s, "imports got from another one")
	unwarned(t, d, s, "leads to got")
}

// Streams: what is mapped away from a subject is not stored there, and Nats-Msg-Id
// reaches no further than one stream.
func TestMappingAndStreams(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, conf("server_name: n1\n"), mapping("jetstream: enabled\n"+ordersMapped, ""))
	js, err := jetstream.New(asApp(t, srv))
	if err != nil {
		t.Fatal(err)
	}
	stream := func(name string, subjects ...string) {
		t.Helper()
		if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: subjects, Storage: jetstream.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(name string) uint64 {
		t.Helper()
		st, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo().State.Msgs
	}
	d, s := looksAt(t, srv), mapped(traffic.DriverMappingConfig, 60, 40)
	unwarned(t, d, s, "tream captures") // no streams at all
	stream("SOURCE", "orders")
	warned(t, d, s, "No stream captures o.a, o.b")
	stream("A", "o.a")
	stream("B", "o.b")
	warned(t, d, s, "Stream SOURCE captures orders itself")
	warned(t, d, s, "several streams (A, B)")
	for i := range 200 {
		for range 2 { // a publisher that repeats what it believes was lost
			if _, err := js.Publish(t.Context(), "orders", nil, jetstream.WithMsgID(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := stored("SOURCE"); n != 0 {
		t.Errorf("the stream of the subject stored %d messages", n)
	}
	if n := stored("A") + stored("B"); n <= 200 {
		t.Errorf("%d of 200 repeated messages are stored: two streams should have taken some twice", n)
	}
	for _, name := range []string{"SOURCE", "A", "B"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	stream("ALL", "orders", "o.*")
	unwarned(t, d, s, "tream captures")
	unwarned(t, d, s, "several streams")
	for i := range 200 {
		for range 2 {
			if _, err := js.Publish(t.Context(), "orders", nil, jetstream.WithMsgID(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := stored("ALL"); n != 200 {
		t.Errorf("one stream stored %d messages of 200 that were repeated", n)
	}
}
