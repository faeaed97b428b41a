package lb_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"ballast/internal/natstest"
	"ballast/internal/ports"
	"ballast/internal/wait"
	"ballast/lb"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	middle := func() float64 { return 0.5 }
	for n, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second,
		5: 16 * time.Second, 6: 30 * time.Second, 7: 30 * time.Second, 1 << 40: 30 * time.Second,
	} {
		if got := lb.Backoff(n, middle); got != want {
			t.Errorf("Backoff(%d) without jitter = %v, want %v", n, got, want)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	low, high := time.Hour, time.Duration(0)
	for range 10_000 {
		d := lb.Backoff(3, rnd.Float64)
		low, high = min(low, d), max(high, d)
	}
	if low < 3200*time.Millisecond || low > 3210*time.Millisecond || high > 4800*time.Millisecond || high < 4790*time.Millisecond {
		t.Errorf("Backoff(3) lies in %v…%v, want 3.2s…4.8s", low, high)
	}
}

// An unreachable server is no error; the connection is there once the server is.
func TestConnectWaitsForTheServer(t *testing.T) {
	t.Parallel()
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	port := free[0]

	var book logBook
	nc, err := lb.Connect(fmt.Sprintf("nats://127.0.0.1:%d", port), lb.WithName("early"), lb.WithLogger(book.logger()))
	if err != nil {
		t.Fatalf("Connect to nobody = %v, want nil", err)
	}
	defer nc.Close()
	wait.For(t, 30*time.Second, "a failed attempt", func() bool { return book.count("NATS is not reachable") > 0 })
	natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.Port = port }))
	wait.For(t, 30*time.Second, "the connection", nc.IsConnected)
	wait.For(t, 30*time.Second, "a word about it", func() bool { return book.count("connected to NATS") > 0 })
}

// A user whom the server refuses today may be known after its next reload.
func TestConnectSurvivesARefusedUser(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts())
	var book logBook
	var attempts atomic.Int64
	nc, err := lb.Connect(srv.ClientURL(), lb.WithUser("app", "wrong"), lb.WithLogger(book.logger()),
		lb.WithNATSOptions(nats.CustomReconnectDelay(func(int) time.Duration { attempts.Add(1); return 5 * time.Millisecond })))
	if err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	defer nc.Close()
	wait.For(t, 30*time.Second, "five attempts", func() bool { return attempts.Load() >= 5 })
	if nc.IsClosed() {
		t.Error("the connection gave up")
	}
	if book.count("Authorization Violation") == 0 {
		t.Error("the refusal was not logged")
	}
}

func TestConnectRefusesWhatWaitingCannotHelp(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]lb.ConnectOption{
		{lb.WithInboxPrefix("_INBOX.>")},
		{lb.WithTLSRoots("no-such-file.pem")},
		{lb.WithTLSCertificate("no-such-file.pem", "no-such-file.key")},
	} {
		if nc, err := lb.Connect("nats://127.0.0.1:1", opts...); err == nil {
			nc.Close()
			t.Error("Connect = nil, want an error")
		}
	}
}

func TestConnectOptionsReachTheServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts())
	nc, err := lb.Connect(srv.ClientURL(), lb.WithName("shop"), lb.WithUser(natstest.AppUser, natstest.AppPassword), lb.WithInboxPrefix("_INBOX_shop"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	wait.For(t, 30*time.Second, "the connection", nc.IsConnected)
	if inbox := nc.NewInbox(); inbox[:12] != "_INBOX_shop." {
		t.Errorf("inbox = %s, want prefix _INBOX_shop", inbox)
	}
	conns, err := srv.Connz(&server.ConnzOptions{Username: true})
	if err != nil || len(conns.Conns) != 1 || conns.Conns[0].Name != "shop" || conns.Conns[0].AuthorizedUser != natstest.AppUser {
		t.Errorf("the server sees %+v, %v", conns, err)
	}
}
