package lb_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/reportpb"
	"ballast/internal/wait"
	"ballast/lb"
)

// The permissions that docs/nats-permissions.md gives to applications suffice,
// and neither publisher nor worker runs into a denial with them.
func TestDocumentedPermissionsSuffice(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/nats-permissions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, applications, ok := strings.Cut(string(text), "## Applications")
	if !ok {
		t.Fatal("docs/nats-permissions.md says nothing of applications")
	}
	_, rest, _ := strings.Cut(applications, "publish: [")
	publish, rest, _ := strings.Cut(rest, "]")
	_, rest, _ = strings.Cut(rest, "Workers need")
	sentence, _, _ := strings.Cut(rest, "\n")
	var workers []string
	for i, part := range strings.Split(sentence, "`") {
		if i%2 == 1 {
			part = strings.NewReplacer("<stream>", "ORDERS", "<consumer>", "east", "<split>", "orders", "<target>", "east").Replace(part)
			workers = append(workers, `"`+part+`"`)
		}
	}
	srv := natstest.Server(t, natstest.Config(`
accounts { APP { jetstream: enabled, users: [
  { user: admin, password: admin }
  { user: publisher, password: pw, permissions { publish: [`+publish+`], subscribe: ["_INBOX_app.>"] } }
  { user: worker, password: pw, permissions { publish: [`+strings.Join(workers, ", ")+`], subscribe: ["_INBOX_app.>"] } }
] } }`))
	admin := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("admin", "admin"))
	js := jetStream(t, admin)
	ordersStream(t, js, 1)
	eastConsumer(t, js, ackWait)
	kv := bucket(t, js, 1)
	put(t, kv, revision(1, 1, splitOf(weights{"east": 100})))
	reports, err := admin.SubscribeSync(reportpb.Wildcard)
	if err != nil {
		t.Fatal(err)
	}

	var book logBook
	connect := func(user string) *nats.Conn {
		nc, err := lb.Connect(srv.ClientURL(), lb.WithUser(user, "pw"), lb.WithInboxPrefix("_INBOX_app"), lb.WithLogger(book.logger()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	p := publisher(t, connect("publisher"), lb.WithResync(20*time.Millisecond))
	ready(t, p)
	cfg := config(func(context.Context, jetstream.Msg) error { return nil })
	cfg.ReportEvery = 20 * time.Millisecond
	w := worker(t, connect("worker"), cfg)
	halt := running(t, "worker", w.Run)
	for range 10 {
		if _, err := p.PublishJS(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, 30*time.Second, "ten acknowledgements", func() bool { return info(t, js).AckFloor.Stream == 10 })
	if _, err := reports.NextMsg(5 * time.Second); err != nil {
		t.Errorf("worker report: %v", err)
	}
	put(t, kv, revision(1, 2, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the next document", at(p, 2))
	halt()
	if n := book.count("ermissions"); n > 0 {
		t.Errorf("%d denials:\n%s", n, book.text())
	}
}
