package control

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// mapped is a split whose messages the servers divide.
func mapped(d traffic.Driver, weights ...int) traffic.Split {
	s := traffic.Split{Name: "orders", Subject: "orders", Pick: traffic.Weighted, Driver: d, Mode: traffic.Suggest, Law: traffic.LawCapacity}
	for i, w := range weights {
		name := string(rune('a' + i))
		s.Targets = append(s.Targets, traffic.Target{Name: name, Subject: "o." + name, Weight: w, State: traffic.Ready})
	}
	return s
}

// everywhere waits until all servers do what the split says.
func everywhere(tb testing.TB, d Driver, s traffic.Split, servers int) {
	tb.Helper()
	var last []traffic.InForce
	wait.For(tb, 30*time.Second, fmt.Sprintf("%v on %d servers", s.Weights(), servers), func() bool {
		var err error
		if last, err = d.InForce(tb.Context(), s); err != nil || len(last) != servers {
			return false
		}
		for _, f := range last {
			if f.State != traffic.ForceSame {
				return false
			}
		}
		return true
	})
}

// drawn publishes n messages to the split's subject and counts where they arrive.
func drawn(tb testing.TB, nc *nats.Conn, n int) map[string]int {
	tb.Helper()
	sub, err := nc.SubscribeSync("o.*")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		tb.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		tb.Fatal(err)
	}
	for range n {
		if err := nc.Publish("orders", nil); err != nil {
			tb.Fatal(err)
		}
	}
	got := map[string]int{}
	for range n {
		m, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			tb.Fatalf("after %v: %v", got, err)
		}
		got[strings.TrimPrefix(m.Subject, "o.")]++
	}
	return got
}

func shares(tb testing.TB, got map[string]int, want ...int) {
	tb.Helper()
	n := 0
	for _, v := range got {
		n += v
	}
	for i, w := range want {
		name := string(rune('a' + i))
		p := float64(w) / 100
		if off := math.Abs(float64(got[name])/float64(n) - p); off > 5*math.Sqrt(p*(1-p)/float64(n)) {
			tb.Errorf("%s got %d of %d messages, its weight is %d", name, got[name], n, w)
		}
	}
}

func claimsOf(tb testing.TB, o *natstest.Operator) (Driver, *nats.Conn) {
	tb.Helper()
	sys := o.Sys(tb)
	return NewClaimsDriver(ClaimsConfig{Conn: o.App(tb), System: sys, KeyFile: o.KeyFile}), sys
}

// Weights in the claims: in force on every server within moments, no message lost,
// and nothing else in the claims is touched.
func TestClaimsDriver(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 3, func(c *jwt.AccountClaims) {
		c.Exports.Add(&jwt.Export{Name: "events", Subject: "events.>", Type: jwt.Stream})
		c.Mappings = jwt.Mapping{"other": {{Subject: "x", Weight: 100}}}
		c.Tags.Add("kept")
	})
	d, sys := claimsOf(t, o)
	first := mapped(traffic.DriverMappingJWT, 60, 30, 10)
	if warn, err := d.Check(t.Context(), first); err != nil || len(warn) == 0 {
		t.Fatalf("Check = %q, %v", warn, err)
	}
	if err := d.Push(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	var apps []*nats.Conn
	for i := range 3 { // so that every server has the account
		apps = append(apps, natstest.Connect(t, o.URL(i), o.AppOptions()...))
	}
	everywhere(t, d, first, 3)
	for _, nc := range apps {
		shares(t, drawn(t, nc, 5000), 60, 30, 10)
	}

	// Ten changes while messages flow on all servers: none is lost.
	var sent, got atomic.Int64
	if _, err := apps[0].Subscribe("o.*", func(*nats.Msg) { got.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if err := apps[0].Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	for _, nc := range apps {
		go func() {
			defer func() { ended <- struct{}{} }()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if nc.Publish("orders", nil) == nil {
					sent.Add(1)
				}
				<-tick.C
			}
		}()
	}
	last := first
	for i := range 10 {
		last = mapped(traffic.DriverMappingJWT, 60-5*i, 30+5*i, 10)
		if err := d.Push(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		everywhere(t, d, last, 3)
	}
	stop()
	for range apps {
		<-ended
	}
	for _, nc := range apps {
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, 30*time.Second, "all messages", func() bool { return got.Load() >= sent.Load() })
	if got.Load() != sent.Load() {
		t.Errorf("%d messages were sent and %d arrived", sent.Load(), got.Load())
	}

	// A target without weight gets nothing: in claims, 0 would be everything.
	drained := mapped(traffic.DriverMappingJWT, 60, 40, 0)
	if err := d.Push(t.Context(), drained); err != nil {
		t.Fatal(err)
	}
	everywhere(t, d, drained, 3)
	if n := drawn(t, apps[1], 2000); n["c"] != 0 {
		t.Errorf("a target without weight got %d messages", n["c"])
	}

	msg, err := sys.Request("$SYS.REQ.ACCOUNT."+o.Account+".CLAIMS.LOOKUP", nil, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ac, err := jwt.DecodeAccountClaims(string(msg.Data))
	if err != nil {
		t.Fatal(err)
	}
	if len(ac.Exports) != 1 || !ac.Tags.Contains("kept") || len(ac.Mappings["other"]) != 1 || ac.Name != "APP" || ac.Limits.DiskStorage != -1 {
		t.Errorf("the claims lost something: %+v", ac)
	}
}

// A server that was down during a push comes back with the older weights; another
// push repairs it at once.
func TestClaimsDriverRepairsAServerThatWasAway(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 3, nil)
	d, _ := claimsOf(t, o)
	first := mapped(traffic.DriverMappingJWT, 50, 50)
	if err := d.Push(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	before, err := d.(*claimsDriver).lookUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Push(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if again, err := d.(*claimsDriver).lookUp(t.Context()); err != nil || again.token != before.token {
		t.Errorf("claims that say it already were signed anew, %v", err)
	}
	if err := d.Push(t.Context(), first); err != nil { // that did not help, it seems
		t.Fatal(err)
	}
	if again, err := d.(*claimsDriver).lookUp(t.Context()); err != nil || again.token == before.token {
		t.Errorf("claims are pushed as they are for ever, %v", err)
	}
	o.Kill(2)
	next := mapped(traffic.DriverMappingJWT, 10, 90)
	wait.For(t, 30*time.Second, "a push without the third server", func() bool { return d.Push(t.Context(), next) == nil })
	o.Restart(2)
	nc := natstest.Connect(t, o.URL(2), append(o.AppOptions(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))...)
	wait.For(t, 30*time.Second, "the third server to serve", nc.IsConnected)
	if err := d.Push(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "the third server to have the new weights", func() bool {
		all, err := d.InForce(t.Context(), next)
		if err != nil {
			return false
		}
		for _, f := range all {
			if f.Server == "n3" {
				return f.State == traffic.ForceSame
			}
		}
		return false
	})
	shares(t, drawn(t, nc, 3000), 10, 90)
}

// A server that was away while somebody changed the claims is the first to answer,
// with the older ones: a push must not take the change back.
func TestClaimsDriverBuildsOnTheNewest(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 2, nil)
	driver, _ := claimsOf(t, o)
	d := driver.(*claimsDriver)
	first := mapped(traffic.DriverMappingJWT, 50, 50)
	if err := d.Push(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	old, err := d.lookUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ac, err := jwt.DecodeAccountClaims(old.token)
	if err != nil {
		t.Fatal(err)
	}
	ac.Exports.Add(&jwt.Export{Name: "new", Subject: "events.>", Type: jwt.Stream})
	wait.For(t, 30*time.Second, "the next second: claims tell no less", func() bool { return time.Now().Unix() > old.issued() })
	newer, err := ac.Encode(o.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, order := range [][]string{{old.token, newer}, {newer, old.token, ""}} {
		var all [][]byte
		for _, token := range order {
			all = append(all, []byte(token))
		}
		if c, err := newestClaims(all); err != nil || c.token != newer {
			t.Errorf("the newest of %d is issued at %d, %v", len(order), c.issued(), err)
		}
	}
	ac.Tags.Add("another")
	twin, err := ac.Encode(o.Key)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := must(readClaims(newer))(t), must(readClaims(twin))(t); a.issued() == b.issued() { // as nearly always
		if _, err := newestClaims([][]byte{[]byte(newer), []byte(twin)}); fleet.KindOf(err) != fleet.Stale {
			t.Errorf("two versions of one second: %v", err)
		}
	}
	// Two consoles at once: they differ in their mappings alone.
	now := time.Unix(1_900_000_000, 0)
	one, two := must(old.signed(first, o.Key, now))(t), must(old.signed(mapped(traffic.DriverMappingJWT, 10, 90), o.Key, now))(t)
	for _, all := range [][][]byte{{[]byte(one), []byte(two)}, {[]byte(two), []byte(one)}} {
		if c, err := newestClaims(all); err != nil || c.token != max(one, two) {
			t.Errorf("of two that differ in their mappings alone: %v", err)
		}
	}
	if _, err := newestClaims([][]byte{{}, {}}); err == nil {
		t.Error("claims of an account that no server knows")
	}
}

// One server refuses claims that another takes: the other goes back to what it had.
func TestClaimsDriverWhenOneServerRefuses(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 2, nil)
	for i := range o.Len() {
		natstest.Connect(t, o.URL(i), o.AppOptions()...)
	}
	d, _ := claimsOf(t, o)
	first := mapped(traffic.DriverMappingJWT, 60, 40)
	if err := d.Push(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	everywhere(t, d, first, 2)
	broken := filepath.Join(o.Dir(1), "jwt") // nothing can be stored in a folder that is a file
	if err := os.RemoveAll(broken); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := d.Push(t.Context(), mapped(traffic.DriverMappingJWT, 10, 90))
	if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "Server n2 refuses the account's claims") {
		t.Errorf("Push = %v", err)
	}
	everywhere(t, d, first, 2)
}

// What the server would answer with "updated" and then choke on is refused before.
func TestClaimsDriverRefuses(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 2, func(c *jwt.AccountClaims) {
		c.Mappings = jwt.Mapping{"wide.*": {{Subject: "x", Weight: 100}}}
	})
	d, sys := claimsOf(t, o)
	app := o.App(t)
	s := mapped(traffic.DriverMappingJWT, 100)
	s.Subject = "wide.orders"
	if err := d.Push(t.Context(), s); fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "wide.*") {
		t.Errorf("an overlapping mapping: %v", err)
	}
	s.Subject = "orders"
	other, err := nkeys.CreateOperator()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := other.Seed()
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	userSeed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text []byte
		kind fleet.ErrorKind
	}{"stranger": {seed, fleet.Forbidden}, "user": {userSeed, fleet.Invalid}, "rubbish": {[]byte("x"), fleet.Invalid}} {
		file := filepath.Join(t.TempDir(), "key.nk")
		if err := os.WriteFile(file, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		err := NewClaimsDriver(ClaimsConfig{Conn: app, System: sys, KeyFile: file}).Push(t.Context(), s)
		if fleet.KindOf(err) != tt.kind {
			t.Errorf("the key of a %s: %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), string(seed)) {
			t.Errorf("the error tells the key")
		}
	}
	if err := NewClaimsDriver(ClaimsConfig{Conn: app, System: sys}).Push(t.Context(), s); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("no key: %v", err)
	}
	if err := NewClaimsDriver(ClaimsConfig{Conn: app, KeyFile: o.KeyFile}).Push(t.Context(), s); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("no system account: %v", err)
	}
	if all, err := d.InForce(t.Context(), s); err != nil || len(all) != 2 || all[0].State == traffic.ForceSame {
		t.Errorf("something was pushed: %+v, %v", all, err)
	}
}

// Members of claims that this program has never heard of survive, whatever they
// are, and the mapping of single clusters stays.
func TestSigningKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	op, err := nkeys.CreateOperator()
	if err != nil {
		t.Fatal(err)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	public, err := account.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	ac := jwt.NewAccountClaims(public)
	ac.Name = "APP <b>"
	ac.Mappings = jwt.Mapping{"orders": {{Subject: "old", Weight: 100}, {Subject: "near", Weight: 100, Cluster: "east"}}}
	token, err := ac.Encode(op)
	if err != nil {
		t.Fatal(err)
	}
	c, err := readClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	c.payload["from_2027"] = json.RawMessage(`{"a":[1,18446744073709551615,"<&>"]}`)
	c.nats["new_limit"] = json.RawMessage(`12.50`)
	now := time.Unix(1_800_000_000, 0)
	signed, err := c.signed(mapped(traffic.DriverMappingJWT, 70, 30), op, now)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(signed, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`18446744073709551615`, `"new_limit":12.50`, `"cluster":"east"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is lost: %s", want, raw)
		}
	}
	got, err := jwt.DecodeAccountClaims(signed)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "APP <b>" || len(got.Mappings["orders"]) != 3 || got.Mappings["orders"][0].Weight != 70 {
		t.Errorf("%+v", got)
	}
	again, err := readClaims(signed)
	if err != nil {
		t.Fatal(err)
	}
	second, err := again.signed(mapped(traffic.DriverMappingJWT, 60, 40), op, now)
	if err != nil {
		t.Fatal(err)
	}
	later, err := jwt.DecodeAccountClaims(second)
	if err != nil || later.IssuedAt <= got.IssuedAt {
		t.Errorf("two in one second are issued at %d and %d (%v)", got.IssuedAt, later.IssuedAt, err)
	}
}

// filed is a cluster whose account includes a file of mappings, each server from a
// configuration file of its own as a reload needs it.
func filed(tb testing.TB, n int) (file string, c *natstest.Servers) {
	tb.Helper()
	file = filepath.Join(tb.TempDir(), "ballast.conf")
	if err := os.WriteFile(file, []byte(render(nil, nil)), 0o640); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(rightsBeside(file), []byte(`publish: ">"`), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file, natstest.FileCluster(tb, n, func(dir string) string {
		include, err := filepath.Rel(dir, file) // a server takes every path from its own folder on
		if err != nil {
			tb.Fatal(err)
		}
		rights := filepath.Join(filepath.Dir(include), filepath.Base(rightsBeside(file)))
		return fmt.Sprintf(`
accounts {
  SYS { users: [ { user: %q, password: %q, permissions { include %q } } ] }
  APP { jetstream: enabled, users: [ { user: %q, password: %q } ], mappings { include %q } }
}
system_account: SYS
`, natstest.SysUser, natstest.SysPassword, rights, natstest.AppUser, natstest.AppPassword, include)
	})
}

// rightsBeside is the file of the system user's rights.
func rightsBeside(file string) string { return file + ".rights" }

// One server does not answer the request to reload: the others follow all the
// same, and it does as soon as it can be asked.
func TestFileDriverWithAServerThatIsNotReached(t *testing.T) {
	t.Parallel()
	file, c := filed(t, 2)
	deny := fmt.Sprintf(`publish: { allow: ">", deny: "$SYS.REQ.SERVER.%s.RELOAD" }`, c.Server(1).ID())
	reload := func(rights string) {
		t.Helper()
		if err := os.WriteFile(rightsBeside(file), []byte(rights), 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range c.Len() {
			if err := c.Server(i).Reload(); err != nil {
				t.Fatal(err)
			}
		}
	}
	reload(deny)
	d := NewFileDriver(FileConfig{Conn: c.App(t), System: c.Sys(t), File: file, Splits: func() ([]traffic.Split, error) { return nil, nil }})
	s := mapped(traffic.DriverMappingConfig, 70, 30)
	err := d.Push(t.Context(), s)
	if fleet.KindOf(err) != fleet.Unavailable || !strings.Contains(err.Error(), "n2 did not answer") {
		t.Errorf("Push = %v", err)
	}
	if f := force(t, d, s, "n1"); f.State != traffic.ForceSame {
		t.Errorf("the server that answers has %+v", f)
	}
	if f := force(t, d, s, "n2"); f.State != traffic.ForceNone {
		t.Errorf("the server that does not answer has %+v", f)
	}
	reload(`publish: ">"`) // which is a reload: it reads the file as the push left it
	everywhere(t, d, s, 2)
}

// Weights in an included file: written as a whole, taken over by every server on
// request, and put back when a server refuses them.
func TestFileDriver(t *testing.T) {
	t.Parallel()
	file, c := filed(t, 2)
	var all []traffic.Split
	d := NewFileDriver(FileConfig{Conn: c.App(t), System: c.Sys(t), File: file, Splits: func() ([]traffic.Split, error) { return all, nil }})
	nc := c.App(t)
	for _, weights := range [][]int{{60, 30, 10}, {10, 0, 90}, {100}} {
		s := mapped(traffic.DriverMappingConfig, weights...)
		if _, err := d.Check(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := d.Push(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		everywhere(t, d, s, 2)
		shares(t, drawn(t, nc, 3000), weights...)
		all = []traffic.Split{s}
	}
	// Another split stays in the file.
	second := mapped(traffic.DriverMappingConfig, 50, 50)
	second.Name, second.Subject = "bills", `bills."x"{y}`
	if err := d.Push(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	everywhere(t, d, second, 2)
	everywhere(t, d, all[0], 2)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file's rights are %v, %v", info.Mode(), err)
	}

	// A split that is gone leaves its block: its publishers may still be there.
	all = nil
	third := mapped(traffic.DriverMappingConfig, 100)
	third.Name, third.Subject = "third", "third"
	if err := d.Push(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	everywhere(t, d, second, 2)
	if text, err := os.ReadFile(file); err != nil || strings.Count(string(text), blockMark) != 3 || strings.Count(string(text), blockMark+"bills") != 1 {
		t.Errorf("the file is\n%s, %v", text, err)
	}
	if text, _, err := d.Text(t.Context(), second); err != nil || strings.Count(text, blockMark) != 3 {
		t.Errorf("the dry run shows\n%s, %v", text, err)
	}
	all = []traffic.Split{mapped(traffic.DriverMappingConfig, 100), second, third}

	// The servers refuse what they cannot read: the file is as it was, and so are the
	// weights.
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := mapped(traffic.DriverMappingConfig, 100)
	bad.Name, bad.Subject = "bad", "bad.{{wildcard(9)}}"
	bad.Targets[0].Subject = "x.{{wildcard(9)}}"
	err = d.Push(t.Context(), bad)
	if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "refuses its configuration") {
		t.Errorf("a mapping that no server takes: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the file is\n%s, %v", after, err)
	}
	everywhere(t, d, all[0], 2)

	bad.Subject = `a"'`
	if _, err := d.Check(t.Context(), bad); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("a subject that cannot be written: %v", err)
	}
	// A file that cannot be written changes nothing.
	broken := NewFileDriver(FileConfig{Conn: c.App(t), System: c.Sys(t), File: filepath.Join(t.TempDir(), "no", "file"), Splits: func() ([]traffic.Split, error) { return nil, nil }})
	if err := broken.Push(t.Context(), all[0]); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	// Of servers elsewhere only what they do is looked at.
	elsewhere := NewFileDriver(FileConfig{Conn: c.App(t), System: c.Sys(t), Splits: func() ([]traffic.Split, error) { return nil, nil }})
	other := mapped(traffic.DriverMappingConfig, 1, 99)
	if err := elsewhere.Push(t.Context(), other); !errors.Is(err, errElsewhere) {
		t.Fatalf("Push = %v", err)
	}
	got, err := elsewhere.InForce(t.Context(), other)
	if err != nil || len(got) != 2 || got[0].State != traffic.ForceOther || got[0].Weights["a"] != 100 {
		t.Errorf("in force is %+v, %v", got, err)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, literal string
		want             bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false},
		{">", "a", true}, {"a.>", "a", false}, {"a.>", "a.b.c", true}, {"*.b", "a.b", true}, {"a", "a.b", false},
	} {
		if got := matches(tt.pattern, tt.literal); got != tt.want {
			t.Errorf("%s means %s: %v", tt.pattern, tt.literal, got)
		}
	}
}

// A server that was killed is counted for a while yet: the others' answers are
// enough then, and all of them are waited for again later.
func TestMissingServersAreNotWaitedForAgain(t *testing.T) {
	t.Parallel()
	at := &clock{}
	s := &servers{now: at.now}
	steps := []struct {
		said, answered, want int // want is what is waited for next
		after                time.Duration
	}{
		{said: 3, answered: 3, want: 3},
		{said: 3, answered: 2, want: 2},
		{said: 3, answered: 1, want: 2}, // one was slow, it is no news
		{said: 3, answered: 2, want: 3, after: missingFor},
		{said: 3, answered: 2, want: 2},
		{said: 3, answered: 3, want: 3}, // it is back
	}
	for i, step := range steps {
		s.note(step.said, step.answered)
		at.move(step.after)
		if got := s.missed(step.said); got != step.want {
			t.Errorf("step %d: %d are waited for, want %d", i, got, step.want)
		}
	}
	s.note(3, 2)
	if got := s.missed(4); got != 4 {
		t.Errorf("of 4 servers %d are waited for", got)
	}
}
