package control

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// scripted is a driver whose servers do what a test says.
type scripted struct {
	mu     sync.Mutex
	force  []traffic.InForce
	pushes int
	push   func() error // nil: accepted, and nothing comes of it
}

func (d *scripted) set(force ...traffic.InForce) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.force = force
}

func (d *scripted) Check(context.Context, traffic.Split) ([]string, error) { return nil, nil }
func (d *scripted) Text(context.Context, traffic.Split) (string, []string, error) {
	return "text", nil, nil
}

func (d *scripted) Push(context.Context, traffic.Split) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pushes++
	if d.push != nil {
		return d.push()
	}
	return nil
}

func (d *scripted) InForce(context.Context, traffic.Split) ([]traffic.InForce, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.force), nil
}

func does(server string, s traffic.ForceState, at time.Time) traffic.InForce {
	return traffic.InForce{Server: server, State: s, At: at}
}

// clock is one that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time       { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) move(d time.Duration) { c.ahead.Add(int64(d)) }

// driving is a stopped console with a split that the scripted servers carry out:
// the test takes its steps.
func driving(tb testing.TB, d *scripted) (*Control, *memLedger, *clock) {
	tb.Helper()
	ledger, at := &memLedger{}, &clock{}
	d.set(does("n1", traffic.ForceSame, at.now()), does("n2", traffic.ForceSame, at.now()))
	c, stop := console(tb, Config{Conn: connect(tb), Ledger: ledger, Now: at.now, Drivers: map[traffic.Driver]Driver{traffic.DriverMappingConfig: d}})
	if ch := mustApply(tb, c, edit(0, mapped(traffic.DriverMappingConfig, 60, 40))); !strings.HasPrefix(ch.Outcome, "In force on 2 of 2 servers;") {
		tb.Errorf("the outcome is %q", ch.Outcome)
	}
	stop()
	return c, ledger, at
}

// A server that pushes do not help is pushed to less and less; one that a push
// cannot help, never.
func TestPushesThatHelpNobodyBecomeRare(t *testing.T) {
	t.Parallel()
	d := &scripted{}
	c, ledger, at := driving(t, d)
	look := func(minutes int) int {
		before := d.pushes
		for range minutes * int(time.Minute/lookEvery) {
			at.move(lookEvery)
			c.drive(t.Context())
		}
		return d.pushes - before
	}
	if n := look(10); n != 0 {
		t.Errorf("%d pushes to servers that follow", n)
	}
	restarted := does("n2", traffic.ForceUnused, at.now())
	restarted.ID = "another"
	d.set(does("n1", traffic.ForceSame, at.now()), restarted)
	if n := look(10); n != 1 {
		t.Errorf("%d pushes to a server that has started and does not show what it holds", n)
	}
	for _, s := range []traffic.ForceState{traffic.ForceOwn, traffic.ForceOverlap, traffic.ForceSilent, traffic.ForceUnused} {
		d.set(does("n1", traffic.ForceSame, at.now()), does("n2", s, at.now()))
		if n := look(10); n != 0 {
			t.Errorf("%d pushes to a server that is %q", n, s)
		}
	}
	d.set(does("n1", traffic.ForceSame, at.now()), does("n2", traffic.ForceNone, at.now()))
	if n := look(30); n < 6 || n > 12 {
		t.Errorf("%d pushes in half an hour to a server that they do not help", n)
	}
	d.push = func() error {
		d.force[1].State = traffic.ForceSame
		return nil
	}
	before := ledger.count(traffic.EntryDriven)
	look(6)
	if _, _, late := c.driving("orders").follow(); late != 0 || ledger.count(traffic.EntryDriven) != before+1 {
		t.Errorf("%d servers are late; %d entries, %d before", late, ledger.count(traffic.EntryDriven), before)
	}
	// One that differs later is pushed to at once.
	d.force[0].State = traffic.ForceOther
	d.push = nil
	if n := look(1); n == 0 {
		t.Error("no push to a server that differs anew")
	}
}

// A server that answered and does not any more is missed, for a while.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	d := &scripted{}
	c, _, at := driving(t, d)
	d.set(does("n1", traffic.ForceSame, at.now()))
	at.move(lookEvery)
	c.drive(t.Context())
	all, _, err := c.InForce("orders")
	if err != nil || len(all) != 2 || all[1].Server != "n2" || all[1].State != traffic.ForceSilent {
		t.Errorf("in force is %+v, %v", all, err)
	}
	if follow, of, late := c.driving("orders").follow(); follow != 1 || of != 2 || late != 0 {
		t.Errorf("%d of %d follow, %d late", follow, of, late)
	}
	if s := c.lagging("orders"); s != " Not in force on n2." {
		t.Errorf("at the end of a change it says %q", s)
	}
	at.move(silentFor)
	c.drive(t.Context())
	if all, _, _ := c.InForce("orders"); len(all) != 1 {
		t.Errorf("a server that is long gone is still missed: %+v", all)
	}
}

// Why a push did not come through stands beside what the servers do.
func TestFailedPushIsShown(t *testing.T) {
	t.Parallel()
	d := &scripted{}
	c, _, at := driving(t, d)
	d.set(does("n1", traffic.ForceOther, at.now()))
	d.push = func() error { return unavailable("Server n1 did not answer the request to reload.", "", nil) }
	at.move(lookEvery)
	c.drive(t.Context())
	if all, _, err := c.InForce("orders"); len(all) != 2 || fleet.KindOf(err) != fleet.Unavailable || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("in force is %+v, %v", all, err)
	}
}

// A split that the servers refuse from the beginning is taken away again.
func TestRefusedCreationIsTakenAway(t *testing.T) {
	t.Parallel()
	d := &scripted{push: func() error { return invalid("Server n1 refuses its configuration: no.", "", nil) }}
	c, _ := console(t, Config{Conn: connect(t), Drivers: map[traffic.Driver]Driver{traffic.DriverMappingConfig: d}})
	ch, err := c.Apply(t.Context(), edit(0, mapped(traffic.DriverMappingConfig, 60, 40)))
	if fleet.KindOf(err) != fleet.Invalid || ch.Phase != traffic.RolledBack || !strings.Contains(ch.Outcome, "refuses its configuration") {
		t.Errorf("Apply = %s %q, %v", ch.Phase, ch.Outcome, err)
	}
	if rev, err := c.Split("orders"); err == nil {
		t.Errorf("the KV still holds %+v", rev)
	}
	d.push = nil
	mustApply(t, c, edit(0, mapped(traffic.DriverMappingConfig, 60, 40)))
}

// Servers elsewhere: the console writes no file, shows who does not follow, and
// sees it when somebody else's configuration management has handed the file out.
func TestMappingOfServersElsewhere(t *testing.T) {
	t.Parallel()
	file, cluster := filed(t, 2)
	conn, sys, at := cluster.App(t), cluster.Sys(t), &clock{}
	var c *Control
	ledger := &memLedger{}
	c, _ = console(t, Config{Conn: conn, Ledger: ledger, Now: at.now, Drivers: map[traffic.Driver]Driver{traffic.DriverMappingConfig: NewFileDriver(FileConfig{
		Conn: conn, System: sys, Now: at.now,
		Splits: func() ([]traffic.Split, error) { return c.Driven(traffic.DriverMappingConfig) },
	})}})
	known(t, c)
	s := mapped(traffic.DriverMappingConfig, 70, 30)
	plan, err := c.Plan(t.Context(), edit(0, s))
	if err != nil || !slices.ContainsFunc(plan.Warn, func(w string) bool { return strings.Contains(w, "your own configuration management") }) {
		t.Errorf("the dry run warns %q, %v", plan.Warn, err)
	}
	ch := mustApply(t, c, edit(0, s))
	if !strings.Contains(ch.Outcome, "In force on 0 of 2 servers: the others follow when your configuration management") {
		t.Errorf("the outcome is %q", ch.Outcome)
	}
	all, _, err := c.InForce("orders")
	if err != nil || len(all) != 2 || all[0].State != traffic.ForceNone || !strings.Contains(all[0].Text, "Does its configuration include the file") {
		t.Errorf("in force is %+v, %v", all, err)
	}

	text, err := c.Mapping(t.Context(), "orders")
	if err != nil || text != plan.Servers {
		t.Fatalf("the download is\n%s\nthe dry run showed\n%s\n%v", text, plan.Servers, err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range cluster.Len() { // as the operator's own tools would
		if err := cluster.Server(i).Reload(); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, 60*time.Second, "the console to see it", func() bool {
		at.move(lookEvery)
		follow, of, _ := c.driving("orders").follow()
		return follow == 2 && of == 2
	})
	shares(t, drawn(t, conn, 3000), 70, 30)
	wait.For(t, 60*time.Second, "the journal to tell it", func() bool { return ledger.count(traffic.EntryDriven) == 2 })
	if now, err := c.Change(ch.ID); err != nil || now.Phase == traffic.Baking && !strings.HasPrefix(now.Outcome, "In force on 2 of 2 servers;") {
		t.Errorf("the change says %q, %v", now.Outcome, err)
	}
	if _, err := c.Mapping(t.Context(), "nobody"); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("a split that is not there: %v", err)
	}
	if _, err := NewFileDriver(FileConfig{Splits: func() ([]traffic.Split, error) { return nil, unavailable("still reading", "", nil) }}).Check(t.Context(), s); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("while not all splits are known: %v", err)
	}
}

// Pushes of several splits at once share a file, or an account's claims, and none
// overwrites another.
func TestPushesDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	file, cluster := filed(t, 2)
	o := natstest.OperatorCluster(t, 2, nil)
	var splits []traffic.Split
	for i := range 6 {
		s := mapped(traffic.DriverMappingConfig, 10*i, 100-10*i)
		s.Name = string(rune('p' + i))
		s.Subject = "many." + s.Name
		splits = append(splits, s)
	}
	claimed, _ := claimsOf(t, o)
	var drivers []Driver
	for what, d := range map[string]Driver{
		"file":   NewFileDriver(FileConfig{Conn: cluster.App(t), System: cluster.Sys(t), File: file, Splits: func() ([]traffic.Split, error) { return splits, nil }}),
		"claims": claimed,
	} {
		drivers = append(drivers, d)
		var g sync.WaitGroup
		for _, s := range splits {
			g.Go(func() {
				if err := d.Push(context.WithoutCancel(t.Context()), s); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		g.Wait()
	}
	for i := range o.Len() { // so that every server has the account
		natstest.Connect(t, o.URL(i), o.AppOptions()...)
	}
	for _, s := range splits {
		for _, d := range drivers {
			everywhere(t, d, s, 2)
		}
	}
}

// Two consoles change two splits of one account at the same time. Claims have no
// compare-and-swap, so the later push may take the other's mapping away: the next
// look brings it back.
func TestTwoConsolesOnOneAccount(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 2, nil)
	for i := range o.Len() {
		natstest.Connect(t, o.URL(i), o.AppOptions()...)
	}
	var consoles []*Control
	var drv *claimsDriver
	for range 2 {
		d, _ := claimsOf(t, o)
		drv = d.(*claimsDriver)
		c, _ := console(t, Config{Conn: o.App(t), Drivers: map[traffic.Driver]Driver{traffic.DriverMappingJWT: d}})
		consoles = append(consoles, c)
	}
	first, second := mapped(traffic.DriverMappingJWT, 60, 40), mapped(traffic.DriverMappingJWT, 30, 70)
	second.Name, second.Subject = "bills", "bills"
	mustApply(t, consoles[0], edit(0, first))
	// The other console read the claims before that, and pushes now.
	stale, err := drv.lookUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	delete(stale.mappings, first.Subject)
	token, err := stale.signed(second, o.Key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := drv.update(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	mustApply(t, consoles[1], edit(0, second))
	for _, s := range []traffic.Split{first, second} {
		everywhere(t, drv, s, 2)
	}
}
