package control

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// known waits until a console knows all splits: until then it writes no file.
func known(tb testing.TB, c *Control) {
	tb.Helper()
	wait.For(tb, 60*time.Second, "the console to know all splits", func() bool { return c.Ready() == nil })
}

// follows waits until Control has read back from so many servers that they follow.
func follows(tb testing.TB, c *Control, servers int) {
	tb.Helper()
	wait.For(tb, 60*time.Second, "the servers to follow", func() bool {
		follow, of, _ := c.driving("orders").follow()
		return follow == of && of == servers
	})
}

// The life of a split that the servers carry out, in claims: dry run, apply, a
// server that was away, roll back, and a console that was stopped between the KV
// and the servers.
func TestMappedSplitInClaims(t *testing.T) {
	t.Parallel()
	o := natstest.OperatorCluster(t, 3, nil)
	conn := o.App(t)
	drivers := map[traffic.Driver]Driver{traffic.DriverMappingJWT: NewClaimsDriver(ClaimsConfig{Conn: conn, System: o.Sys(t), KeyFile: o.KeyFile})}
	ledger := &memLedger{}
	c, stop := console(t, Config{Conn: conn, Ledger: ledger, Drivers: drivers})

	first := mapped(traffic.DriverMappingJWT, 60, 40)
	plan, err := c.Plan(t.Context(), edit(0, first))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(plan.Servers, `"weight": 60`) || len(plan.ServersCommands) != 3 || !strings.Contains(plan.ServersCommands[0], "--from 'orders' --to 'o.a' --weight 60") {
		t.Errorf("the dry run says\n%s\n%q", plan.Servers, plan.ServersCommands)
	}
	ch := mustApply(t, c, edit(0, first))
	if !strings.HasPrefix(ch.Outcome, "In force on 3 of 3 servers") {
		t.Errorf("the outcome is %q", ch.Outcome)
	}
	shares(t, drawn(t, conn, 3000), 60, 40)

	// A server is away while the weights change, and follows when it is back.
	away := 0
	if conn.ConnectedServerName() == "n1" {
		away = 1
	}
	o.Kill(away)
	var second traffic.Change
	wait.For(t, 60*time.Second, "a change while a server is away", func() bool {
		second, err = c.Apply(t.Context(), edit(1, mapped(traffic.DriverMappingJWT, 10, 90)))
		return err == nil
	})
	o.Restart(away)
	there := natstest.Connect(t, o.URL(away), append(o.AppOptions(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))...)
	wait.For(t, 60*time.Second, "the server to serve", there.IsConnected)
	follows(t, c, 3)
	shares(t, drawn(t, there, 3000), 10, 90)

	back, err := c.Rollback(t.Context(), second.ID, "ann", "enough")
	if err != nil {
		t.Fatal(err)
	}
	follows(t, c, 3)
	shares(t, drawn(t, there, 3000), 60, 40)

	// Somebody writes the KV and stops before the servers have it: the next console
	// carries it out.
	stop()
	alone, stopAlone := console(t, Config{Conn: conn, Ledger: ledger, Drivers: map[traffic.Driver]Driver{traffic.DriverMappingJWT: mute{}}})
	mustApply(t, alone, edit(back.Revision, mapped(traffic.DriverMappingJWT, 25, 75)))
	stopAlone()
	c, _ = console(t, Config{Conn: conn, Ledger: ledger, Drivers: drivers})
	wait.For(t, 60*time.Second, "the servers to follow the stopped console", func() bool {
		all, err := drivers[traffic.DriverMappingJWT].InForce(t.Context(), mapped(traffic.DriverMappingJWT, 25, 75))
		if err != nil || len(all) != 3 {
			return false
		}
		for _, f := range all {
			if f.State != traffic.ForceSame {
				return false
			}
		}
		return true
	})
	if ledger.count(traffic.EntryDriven) == 0 {
		t.Error("the journal knows nothing of the servers")
	}
	// Another driver than the console has is refused before anything is written.
	if _, err := c.Apply(t.Context(), edit(0, func() traffic.Split { s := mapped(traffic.DriverMappingConfig, 100); s.Name = "x"; return s }())); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("a driver that the console does not have: %v", err)
	}
}

// mute is a driver whose pushes are lost.
type mute struct{}

func (mute) Check(context.Context, traffic.Split) ([]string, error) { return nil, nil }
func (mute) Text(context.Context, traffic.Split) (string, []string, error) {
	return "", nil, nil
}
func (mute) Push(context.Context, traffic.Split) error { return nil }
func (mute) InForce(context.Context, traffic.Split) ([]traffic.InForce, error) {
	return []traffic.InForce{{Server: "n1", State: traffic.ForceUnused}}, nil
}

// What the servers refuse is taken back in the KV too, and the operator is told
// why: nobody ever shows weights that are not in force.
func TestMappedSplitThatServersRefuse(t *testing.T) {
	t.Parallel()
	file, cluster := filed(t, 2)
	conn := cluster.App(t)
	var c *Control
	c, _ = console(t, Config{Conn: conn, Drivers: map[traffic.Driver]Driver{traffic.DriverMappingConfig: NewFileDriver(FileConfig{
		Conn: conn, System: cluster.Sys(t), File: file,
		Splits: func() ([]traffic.Split, error) { return c.Driven(traffic.DriverMappingConfig) },
	})}})
	known(t, c)
	good := mapped(traffic.DriverMappingConfig, 70, 30)
	mustApply(t, c, edit(0, good))
	follows(t, c, 2)
	bad := mapped(traffic.DriverMappingConfig, 30, 70)
	bad.Targets[0].Subject = "o.{{wildcard(9)}}"
	ch, err := c.Apply(t.Context(), edit(1, bad))
	if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), "refuses its configuration") {
		t.Fatalf("Apply = %v", err)
	}
	if ch.Phase != traffic.RolledBack {
		t.Errorf("the change is %s: %s (%v)", ch.Phase, ch.Outcome, err)
	}
	if rev, err := c.Split("orders"); err != nil || rev.Number != 3 || rev.Split.Weights()["a"] != 70 {
		t.Errorf("the KV holds %+v, %v", rev, err)
	}
	follows(t, c, 2)
	shares(t, drawn(t, conn, 3000), 70, 30)
	if text, err := os.ReadFile(filepath.Clean(file)); err != nil || !strings.Contains(string(text), "weight: 70") {
		t.Errorf("the file is %s, %v", text, err)
	}
}
