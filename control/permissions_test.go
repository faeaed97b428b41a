package control

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// The permissions of a watching and of a steering user as
// docs/nats-permissions.md gives them, as far as this package needs them.
const grants = `
accounts {
  APP {
    jetstream: enabled
    users: [
      { user: "watch", password: "w", permissions { publish: [ ` + watching + ` ], subscribe: [ "_INBOX_ballast.>" ] } }
      { user: "steer", password: "s", permissions { publish: [ ` + watching + `
          "$KV.BALLAST.>", "$JS.API.STREAM.CREATE.KV_BALLAST" ], subscribe: [ "_INBOX_ballast.>" ] } }
    ]
  }
}`

const watching = `
  "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*"
  "$JS.API.STREAM.MSG.GET.KV_BALLAST"
  "$JS.API.CONSUMER.CREATE.KV_BALLAST.>", "$JS.API.CONSUMER.DELETE.KV_BALLAST.>"
  "$JS.FC.KV_BALLAST.>"
`

func TestDocumentedPermissionsSuffice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := natstest.Server(t, natstest.Config(grants))
	var mu sync.Mutex
	denied := map[string][]string{}
	as := func(user, password string) *nats.Conn {
		return natstest.Connect(t, srv.ClientURL(), nats.UserInfo(user, password), nats.CustomInboxPrefix("_INBOX_ballast"),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				mu.Lock()
				defer mu.Unlock()
				denied[user] = append(denied[user], err.Error())
			}))
	}
	steer, stop := console(t, Config{Conn: as("steer", "s")})
	mustApply(t, steer, edit(0, orders("orders", 60, 40)))
	second := mustApply(t, steer, edit(1, orders("orders", 50, 50)))
	if _, err := steer.Rollback(ctx, second.ID, "ann", ""); err != nil {
		t.Errorf("Rollback: %v", err)
	}
	if err := steer.Delete(ctx, "orders", 3, "ann", ""); err != nil {
		t.Errorf("Delete: %v", err)
	}
	mustApply(t, steer, edit(0, orders("orders", 60, 40)))
	if _, err := steer.History(ctx, "orders"); err != nil {
		t.Errorf("History: %v", err)
	}

	ro := New(Config{Conn: as("watch", "w"), Ledger: &memLedger{}, Observer: script(nil), ReadOnly: true, Log: slog.New(slog.DiscardHandler)})
	rctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- ro.Run(rctx) }()
	wait.For(t, soon, "the watching user to see the split", func() bool { return len(ro.Splits()) == 1 })
	if _, err := ro.Plan(ctx, edit(ro.Splits()[0].Number, orders("orders", 10, 90))); err != nil {
		t.Errorf("a watching user's dry run: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	stop()
	mu.Lock()
	if len(denied) > 0 {
		t.Errorf("the server refused %v", denied)
	}
	mu.Unlock()

	// The watching user's write is refused, and that is found out and said.
	sneaky, _ := console(t, Config{Conn: as("watch", "w")}, impatient)
	now := leaderDoc(t, sneaky, "orders")
	ch, err := sneaky.Apply(ctx, edit(now.number(), orders("orders", 10, 90)))
	wantKind(t, err, fleet.Forbidden)
	if ch.Phase != traffic.Rejected || leaderDoc(t, sneaky, "orders").token != now.token {
		t.Errorf("change %s, the key at %d, want it untouched at %d", ch.Phase, leaderDoc(t, sneaky, "orders").token, now.token)
	}
}

// The rights of the system account's user as docs/nats-permissions.md gives them
// for the drivers of the servers' own mappings: in claims, and in a file.
var (
	claimsRights = []string{"$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING.STATSZ", "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.SERVER.PING.ACCOUNTZ"}
	fileRights   = []string{"$SYS.REQ.SERVER.PING.STATSZ", "$SYS.REQ.SERVER.PING.ACCOUNTZ", "$SYS.REQ.SERVER.*.RELOAD"}
)

func TestDocumentedPermissionsOfTheDriversSuffice(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var denied []string
	opts := []nats.Option{
		nats.CustomInboxPrefix("_INBOX_ballast"), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			mu.Lock()
			defer mu.Unlock()
			denied = append(denied, err.Error())
		}),
	}
	o := natstest.OperatorCluster(t, 2, nil)
	sys := natstest.Connect(t, o.URLs(), append(opts, o.SysUser(t, func(u *jwt.UserClaims) {
		u.Pub.Allow.Add(claimsRights...)
		u.Sub.Allow.Add("_INBOX_ballast.>")
	}))...)
	claims := NewClaimsDriver(ClaimsConfig{Conn: o.App(t), System: sys, KeyFile: o.KeyFile})

	file, c := filed(t, 2)
	if err := os.WriteFile(rightsBeside(file), []byte(`publish: [ "`+strings.Join(fileRights, `", "`)+`" ], subscribe: [ "_INBOX_ballast.>" ]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range c.Len() {
		if err := c.Server(i).Reload(); err != nil {
			t.Fatal(err)
		}
	}
	filing := NewFileDriver(FileConfig{Conn: c.App(t), System: c.Sys(t, opts...), File: file, Splits: func() ([]traffic.Split, error) { return nil, nil }})

	for driver, d := range map[traffic.Driver]Driver{traffic.DriverMappingJWT: claims, traffic.DriverMappingConfig: filing} {
		s := mapped(driver, 60, 40)
		if _, err := d.Check(t.Context(), s); err != nil {
			t.Errorf("%s: Check: %v", driver, err)
		}
		if err := d.Push(t.Context(), s); err != nil {
			t.Errorf("%s: Push: %v", driver, err)
		}
		wait.For(t, 30*time.Second, "the weights on every server that has the account", func() bool {
			all, err := d.InForce(t.Context(), s)
			return err == nil && len(all) == 2 && !slices.ContainsFunc(all, func(f traffic.InForce) bool {
				return f.State != traffic.ForceSame && f.State != traffic.ForceUnused
			})
		})
	}
	mu.Lock()
	defer mu.Unlock()
	if len(denied) > 0 {
		t.Errorf("refused: %q", denied)
	}
}

// Docs and tests name the same rights.
func TestDocumentedPermissionsOfTheDrivers(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/nats-permissions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "## 4. The servers' own mappings")
	if !ok {
		t.Fatal("the section is not there")
	}
	for _, subject := range slices.Concat(claimsRights, fileRights) {
		if !strings.Contains(section, `"`+subject+`"`) {
			t.Errorf("%s is not documented", subject)
		}
	}
}
