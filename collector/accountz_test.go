package collector

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

const sharedAccounts = `
accounts {
  SYS { users: [ { user: "` + natstest.SysUser + `", password: "` + natstest.SysPassword + `" } ] }
  APP {
    jetstream: enabled, users: [ { user: "` + natstest.AppUser + `", password: "` + natstest.AppPassword + `" } ]
    exports: [ { stream: "news.>" }, { service: "help" } ]
    mappings: { "a.b": "a.c" }
  }
  "OTHER &acc=APP" { imports: [ { stream: { account: APP, subject: "news.>" } } ] }
}
system_account: SYS
`

func findAccount(s fleet.Snapshot, name string) (fleet.Account, bool) {
	for _, a := range s.Accounts {
		if a.Name == name {
			return a, true
		}
	}
	return fleet.Account{}, false
}

// How accounts are set up, over both ways.
func TestAccountsAndTheirSettings(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config("server_name: solo\n"+sharedAccounts))
	url := func(user, password string) string {
		return strings.Replace(srv.ClientURL(), "://", "://"+user+":"+password+"@", 1)
	}
	natstest.Connect(t, url(natstest.AppUser, natstest.AppPassword))
	for name, cfg := range map[string]Config{
		"monitoring":     {Monitor: []string{natstest.MonitorURL(srv)}},
		"system account": {System: natstest.Connect(t, url(natstest.SysUser, natstest.SysPassword))},
	} {
		m := collect(t, cfg)
		wait.For(t, patience, "the accounts over "+name, func() bool {
			a, ok := findAccount(m.latest(), "APP")
			return ok && a.Settings != nil && a.Conns == 1 && a.Settings.Limits.Store.Told
		})
		s := m.latest()
		app, _ := findAccount(s, "APP")
		got := *app.Settings
		if got.At.IsZero() || time.Since(got.At) > time.Minute {
			t.Errorf("%s: read at %v", name, got.At)
		}
		got.At, got.Updated = time.Time{}, time.Time{}
		none := fleet.Limit{Told: true, Max: -1} // of JetStream; the others stand in the configuration and are not told
		if got != (fleet.AccountSettings{JetStream: true, Exports: 2, Mappings: 1, Limits: fleet.AccountLimits{Memory: none, Store: none}}) {
			t.Errorf("%s: APP %+v", name, got)
		}
		sys, _ := findAccount(s, "SYS")
		if sys.Settings == nil || !sys.Settings.System || sys.Settings.JetStream {
			t.Errorf("%s: SYS %+v", name, sys.Settings)
		}
		other, _ := findAccount(s, "OTHER &acc=APP")
		if other.Settings == nil || other.Settings.Imports != 1 || other.Settings.Exports != 0 {
			t.Errorf("%s: OTHER %+v", name, other.Settings)
		}
	}
}

// Limits in a server's configuration: it tells only JetStream's.
func TestLimitsOfAccountsInTheConfiguration(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(`server_name: solo
accounts {
  SYS { users: [ { user: "`+natstest.SysUser+`", password: "`+natstest.SysPassword+`" } ] }
  APP { users: [ { user: "`+natstest.AppUser+`", password: "`+natstest.AppPassword+`" } ]
    jetstream: { max_mem: 1048576, max_file: 2097152, max_streams: 3, max_consumers: 4 }, limits: { max_connections: 7 } }
}
system_account: SYS
`))
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}})
	wait.For(t, patience, "the limits", func() bool {
		a, ok := findAccount(m.latest(), "APP")
		return ok && a.Settings != nil && a.Settings.Limits.Store.Told
	})
	app, _ := findAccount(m.latest(), "APP")
	if want := (fleet.AccountLimits{Memory: fleet.Limit{Told: true, Max: 1 << 20}, Store: fleet.Limit{Told: true, Max: 2 << 20}}); app.Settings.Limits != want {
		t.Errorf("limits %+v, want %+v", app.Settings.Limits, want)
	}
}

// Limits in an account's token: the servers tell of all.
func TestLimitsOfAccountsByToken(t *testing.T) {
	t.Parallel()
	key := func(kp nkeys.KeyPair, err error) (nkeys.KeyPair, string) {
		if err != nil {
			t.Fatal(err)
		}
		pub, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, pub
	}
	operator, operatorID := key(nkeys.CreateOperator())
	accounts := &server.MemAccResolver{}
	account := func(name string, set func(*jwt.OperatorLimits)) (nkeys.KeyPair, string) {
		kp, id := key(nkeys.CreateAccount())
		claims := jwt.NewAccountClaims(id)
		claims.Name = name
		set(&claims.Limits)
		token, err := claims.Encode(operator)
		if err == nil {
			err = accounts.Store(id, token)
		}
		if err != nil {
			t.Fatal(err)
		}
		return kp, id
	}
	_, sysID := account("SYS", func(*jwt.OperatorLimits) {})
	bounded := func(l *jwt.OperatorLimits) {
		l.Conn, l.LeafNodeConn, l.Subs, l.Payload = 5, 2, 100, 4096
		l.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: 1 << 20, DiskStorage: -1, Streams: 3, Consumer: 4}
	}
	app, _ := account("BOUNDED", bounded)
	tiers, _ := account("TIERED", func(l *jwt.OperatorLimits) {
		l.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"R1": {DiskStorage: 1 << 20}}
	})
	srv := natstest.Server(t, natstest.Config("server_name: solo\n"), natstest.Tweak(func(o *server.Options) {
		o.TrustedKeys, o.AccountResolver, o.SystemAccount = []string{operatorID}, accounts, sysID
	}))
	for _, kp := range []nkeys.KeyPair{app, tiers} {
		user, userID := key(nkeys.CreateUser())
		token, err := jwt.NewUserClaims(userID).Encode(kp)
		if err != nil {
			t.Fatal(err)
		}
		natstest.Connect(t, srv.ClientURL(), nats.UserJWT(func() (string, error) { return token, nil }, user.Sign))
	}
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}})
	told := func(n int64) fleet.Limit { return fleet.Limit{Told: true, Max: n} }
	for name, want := range map[string]fleet.AccountLimits{
		"BOUNDED": {Conns: told(5), Leafs: told(2), Subs: told(100), Payload: told(4096), Memory: told(1 << 20), Store: told(-1), Streams: told(3), Consumers: told(4)},
		"TIERED":  {Conns: told(-1), Leafs: told(-1), Subs: told(-1), Payload: told(-1), Tiered: true},
	} {
		wait.For(t, patience, "the limits of "+name, func() bool {
			a, ok := findAccount(m.latest(), name)
			return ok && a.Settings != nil && a.Settings.Limits == want
		})
	}
}

func TestAccountsOfAllServersAreJoined(t *testing.T) {
	t.Parallel()
	sums := map[string]*fleet.Account{"A": {Name: "A", Conns: 2}}
	settleAccounts(sums, map[string]fleet.AccountSettings{"A": {JetStream: true, Exports: 2, Updated: t0}})
	settleAccounts(sums, map[string]fleet.AccountSettings{"A": {Expired: true, Incomplete: true, Imports: 1, Updated: t0.Add(time.Hour)}, "B": {System: true}})
	// Each server may know other limits; those of the newest token count.
	some := fleet.AccountLimits{Conns: fleet.Limit{Told: true, Max: 5}}
	settleAccounts(sums, map[string]fleet.AccountSettings{"A": {Updated: t0.Add(time.Minute), Limits: some}})
	settleAccounts(sums, map[string]fleet.AccountSettings{"A": {Updated: t0, Limits: fleet.AccountLimits{Conns: fleet.Limit{Told: true, Max: 4}}}})
	jetStreamLimits(sums, map[string]reserved{"A": {-1, 7}, "nobody": {1, 1}})
	some.Memory, some.Store = fleet.Limit{Told: true, Max: -1}, fleet.Limit{Told: true, Max: 7}
	want := fleet.AccountSettings{Limits: some, JetStream: true, Expired: true, Incomplete: true, Imports: 1, Exports: 2, Updated: t0.Add(time.Hour)}
	if got := *sums["A"].Settings; got != want || sums["A"].Conns != 2 {
		t.Errorf("A %+v, want %+v", got, want)
	}
	if b := sums["B"]; b == nil || !b.Settings.System {
		t.Errorf("B %+v, want the account that no server counts yet", b)
	}
	var z accountz
	for i := range 500 {
		z.Accounts = append(z.Accounts, fmt.Sprint("A", i), "")
	}
	if n := z.asked(); len(n) != maxAccountsAsked || slices.Contains(n, "") {
		t.Errorf("%d accounts are asked for", len(n))
	}
}

// What a server says is wrong with it is kept in its words.
func TestHealthInTheServersWords(t *testing.T) {
	t.Parallel()
	l := &look{}
	l.setHealth(healthz{Status: "ok"})
	if l.server.Health != "" {
		t.Errorf("health %q of a healthy server", l.server.Health)
	}
	l.setHealth(healthz{Status: "unavailable", Error: "JetStream has not established contact with a meta leader" + strings.Repeat("!", 1000)})
	if !strings.HasPrefix(l.server.Health, "JetStream has not established contact with a meta leader") || len(l.server.Health) > 256 {
		t.Errorf("health %q", l.server.Health)
	}
	l.setHealth(healthz{Status: "error"})
	if l.server.Health != "error" {
		t.Errorf("health %q, want the status where there is no error", l.server.Health)
	}
}

// A server that comes back under another name, as the system account tells of
// it: neither lost nor new.
func TestRenamedServerOverTheSystemAccount(t *testing.T) {
	t.Parallel()
	accounts := natstest.Accounts()
	watched := natstest.Server(t, accounts, natstest.Config("server_name: stays\ncluster { name: C, listen: \"127.0.0.1:-1\" }\n"), noJetStream)
	routes := natstest.Config(fmt.Sprintf("cluster { name: C, listen: \"127.0.0.1:-1\", routes: [ \"nats://127.0.0.1:%d\" ] }\n", watched.ClusterAddr().Port))
	port := freePort(t)
	at := natstest.Tweak(func(o *server.Options) { o.Port = port })
	before := natstest.Server(t, accounts, natstest.Config("server_name: before\n"), routes, at, noJetStream)
	sys := natstest.Connect(t, strings.Replace(watched.ClientURL(), "://", "://"+natstest.SysUser+":"+natstest.SysPassword+"@", 1))
	m := collect(t, Config{System: sys})
	wait.For(t, patience, "both servers", func() bool {
		s := m.latest()
		return findServer(s, "before").State == fleet.Healthy && findServer(s, "stays").State == fleet.Healthy
	})
	if a := findServer(m.latest(), "before").Address; a != fmt.Sprintf("127.0.0.1:%d", port) {
		t.Errorf("address %q, want that of port %d", a, port)
	}
	before.Shutdown()
	before.WaitForShutdown()
	wait.For(t, patience, "its absence", func() bool { return findServer(m.latest(), "before").State == fleet.Unreachable })
	natstest.Server(t, accounts, natstest.Config("server_name: after\n"), routes, at, noJetStream)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("servers %+v, events %v", m.latest().Servers, m.kinds())
		}
	})
	wait.For(t, patience, "its new name", func() bool { return m.has("server.renamed", "after") })
	wait.For(t, patience, "the two of them alone", func() bool {
		s := m.latest()
		return len(s.Servers) == 2 && findServer(s, "after").State == fleet.Healthy && findServer(s, "before").ID == ""
	})
	if m.has("server.joined", "after") {
		t.Error("the renamed server is called new")
	}
}

var noJetStream = natstest.Tweak(func(o *server.Options) { o.JetStream = false })

func TestWhoCameBack(t *testing.T) {
	t.Parallel()
	old := fleet.Server{ID: "1", Name: "a", Cluster: "C", Address: "10.0.0.1:4222", At: t0}
	next := fleet.Server{ID: "2", Name: "b", Cluster: "C", Address: "10.0.0.1:4222", At: t0.Add(time.Minute), Now: t0.Add(time.Hour), Start: t0.Add(time.Hour - 30*time.Second)}
	if !cameBackAs(&old, &next) {
		t.Error("not recognised, with a clock that is an hour ahead")
	}
	for what, change := range map[string]func(s *fleet.Server){
		"another address":         func(s *fleet.Server) { s.Address = "10.0.0.2:4222" },
		"no address":              func(s *fleet.Server) { s.Address = "" },
		"another cluster":         func(s *fleet.Server) { s.Cluster = "D" },
		"it ran before":           func(s *fleet.Server) { s.Start = s.Start.Add(-2 * time.Minute) },
		"the same name":           func(s *fleet.Server) { s.Name = "a" },
		"the same, it never left": func(s *fleet.Server) { s.ID = "1" },
	} {
		other := next
		change(&other)
		if cameBackAs(&old, &other) {
			t.Errorf("%s: taken for the one that left", what)
		}
	}
	looks := map[string]*look{
		"1": {server: fleet.Server{ID: "1", Host: "0.0.0.0", Port: 4222}, known: []neighbour{{id: "2", ip: "10.0.0.2"}}},
		"2": {server: fleet.Server{ID: "2", Host: "::", Port: 4222}, known: []neighbour{{id: "1", ip: "10.0.0.1"}}},
		"3": {server: fleet.Server{ID: "3", Host: "0.0.0.0", Port: 4222}},
		"4": {server: fleet.Server{ID: "4", Host: "n4", Port: 4222}},
	}
	setAddresses(looks)
	for id, want := range map[string]string{"1": "10.0.0.1:4222", "2": "10.0.0.2:4222", "3": "", "4": "n4:4222"} {
		if got := looks[id].server.Address; got != want {
			t.Errorf("address of %s is %q, want %q", id, got, want)
		}
	}
}

func FuzzAccountz(f *testing.F) {
	f.Add([]byte(`{"server_id":"A","system_account":"SYS","accounts":["APP","$G","SYS"]}`))
	f.Add([]byte(`{"account_detail":{"account_name":"APP","update_time":"2026-11-24T06:25:14Z","complete":true,"jetstream_enabled":true,"mappings":{"a":[{"subject":"b","weight":100}]},"exports":[{"subject":"news.>"}],"imports":[null],"decoded_jwt":{"sub":"x"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var z accountz
		if decoder(data).Decode(&z) != nil {
			return
		}
		if n := z.asked(); len(n) > maxAccountsAsked {
			t.Errorf("%d accounts are asked for", len(n))
		}
		out := map[string]fleet.AccountSettings{}
		z.addTo(out, t0)
		for name, s := range out {
			if name == "" || s.Imports > len(z.Account.Imports) {
				t.Errorf("%q: %+v", name, s)
			}
		}
	})
}

// A server behind a leaf node connection, found from the one that it is
// connected to, by the port that this one uses.
func TestLeafNodesAreDiscovered(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	monitor := func(host string) natstest.Option {
		return natstest.Tweak(func(o *server.Options) { o.HTTPHost, o.HTTPPort = host, port })
	}
	hub := natstest.Server(t, noJetStream, monitor("127.0.0.2"), natstest.Config("server_name: hub\nleafnodes { listen: \"127.0.0.1:-1\" }\n"))
	v, err := hub.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	natstest.Server(t, noJetStream, monitor("127.0.0.1"), natstest.Config(fmt.Sprintf(
		"server_name: edge\nleafnodes { remotes: [ { url: \"nats-leaf://127.0.0.1:%d\" } ] }\n", v.LeafNode.Port)))
	m := collect(t, Config{Monitor: []string{fmt.Sprintf("http://127.0.0.2:%d", port)}})
	wait.For(t, patience, "both servers", func() bool {
		s := m.latest()
		return len(s.Servers) == 2 && findServer(s, "hub").State == fleet.Healthy && findServer(s, "edge").State == fleet.Healthy
	})
	if url, want := findServer(m.latest(), "edge").URL, fmt.Sprintf("http://127.0.0.1:%d", port); url != want {
		t.Errorf("the leaf node was read at %q, want %q", url, want)
	}
	seen := len(m.all())
	wait.For(t, patience, "more looks", func() bool { return len(m.all()) > seen+5 })
	if s := m.latest(); len(s.Servers) != 2 || len(s.Problems) != 0 {
		t.Errorf("servers %+v, problems %+v", s.Servers, s.Problems)
	}
}

// Many leaf nodes that answer nobody are not all tried at once, and one that is
// not what was looked for is not taken.
func TestLeafGuessesAreBounded(t *testing.T) {
	t.Parallel()
	l := &look{server: fleet.Server{ID: "A"}, httpPort: 8222}
	for i := range 1000 {
		l.leafs = append(l.leafs, fleet.Leaf{Name: fmt.Sprint("edge", i), IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250)})
	}
	m, err := newMonitor(Config{Monitor: []string{"http://127.0.0.1:8222"}, Now: time.Now, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	m.endpoints[0].last = l
	for round := range 2 {
		got := m.candidates(m.endpoints[0], behindLeafs(l, map[string]bool{"edge0": true}))
		if want := fmt.Sprint("edge", 1+round*maxLeafGuesses); len(got) != maxLeafGuesses || got[0].expectLeaf != want {
			t.Errorf("round %d: %d guesses, first %+v, want %s", round, len(got), got[0], want)
		}
	}
	other := natstest.Server(t, noJetStream, natstest.Config("server_name: other\nleafnodes { listen: \"127.0.0.1:-1\" }\n"))
	m, err = newMonitor(Config{Monitor: []string{natstest.MonitorURL(other)}, Now: time.Now, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	e := *m.endpoints[0]
	for name, want := range map[string]bool{"edge": false, "other": false} { // the second one has no leaf nodes
		e.expectLeaf = name
		if _, err := m.poll(t.Context(), e, asked{}, &bill{}); (err == nil) != want {
			t.Errorf("looked for %s: %v", name, err)
		}
	}
}
