package lb_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"ballast/internal/natstest"
	"ballast/internal/ports"
	"ballast/internal/wait"
	"ballast/lb"
)

// diary keeps the events of a connection.
type diary struct {
	mu     sync.Mutex // guards events
	events []lb.Event
}

func (d *diary) write(e lb.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

// first returns the first event of a kind.
func (d *diary) first(kind lb.EventKind) (lb.Event, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events {
		if e.Kind == kind {
			return e, true
		}
	}
	return lb.Event{}, false
}

// turns are the kinds in order, the same one in a row said once.
func (d *diary) turns() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var last lb.EventKind
	text := ""
	for _, e := range d.events {
		if e.Kind != last {
			text += fmt.Sprintf("%s, ", e.Kind)
		}
		last = e.Kind
	}
	return text
}

func (d *diary) has(kind lb.EventKind) func() bool {
	return func() bool { _, ok := d.first(kind); return ok }
}

// quickly tries again at once, so that a test need not wait.
func quickly() lb.ConnectOption {
	return lb.WithNATSOptions(nats.CustomReconnectDelay(func(int) time.Duration { return 20 * time.Millisecond }))
}

// The application hears of the whole life of its connection, in order.
func TestEventsOfAConnection(t *testing.T) {
	t.Parallel()
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	start := func() *server.Server {
		return natstest.Server(t, natstest.Tweak(func(o *server.Options) {
			o.Port, o.ServerName = free[0], "alone"
			o.LameDuckGracePeriod, o.LameDuckDuration = 10*time.Millisecond, 100*time.Millisecond
		}))
	}
	var d, second diary
	nc, err := lb.Connect(fmt.Sprintf("nats://ana:secret@127.0.0.1:%d", free[0]),
		lb.WithEvents(d.write), lb.WithEvents(second.write), quickly())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	wait.For(t, 30*time.Second, "an attempt that failed", d.has(lb.EventUnreachable))
	srv := start()
	wait.For(t, 30*time.Second, "the connection", d.has(lb.EventConnected))
	srv.Shutdown()
	srv.WaitForShutdown()
	wait.For(t, 30*time.Second, "its end", d.has(lb.EventDisconnected))
	srv = start()
	wait.For(t, 30*time.Second, "the connection again", d.has(lb.EventReconnected))
	if e, _ := d.first(lb.EventReconnected); e.Server != "alone" || e.URL != fmt.Sprintf("nats://ana:xxxxx@127.0.0.1:%d", free[0]) {
		t.Errorf("reconnected to %q at %q, want the server's name and its URL without the password", e.Server, e.URL)
	}
	srv.LameDuckShutdown()
	wait.For(t, 30*time.Second, "the warning of the server", d.has(lb.EventLameDuck))
	nc.Close()
	wait.For(t, 30*time.Second, "the end", d.has(lb.EventClosed))
	if e, _ := d.first(lb.EventClosed); e.Err != nil {
		t.Errorf("closed by the program, with %v", e.Err)
	}
	if e, _ := d.first(lb.EventDisconnected); e.Err == nil {
		t.Error("disconnected without a reason")
	}
	wait.For(t, 30*time.Second, "the second listener", second.has(lb.EventClosed))
	if got, want := second.turns(), d.turns(); got != want {
		t.Errorf("one listener heard %s the other %s", want, got)
	}
	t.Log(d.turns())
}

// What a server refuses to a user is an event with the subject in its text.
func TestAPermissionThatIsMissingIsAnEvent(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(`authorization { users = [ { user: app, password: pw, permissions: { publish: "orders.>" } } ] }`))
	var d diary
	nc, err := lb.Connect(srv.ClientURL(), lb.WithUser("app", "pw"), lb.WithEvents(d.write))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	wait.For(t, 30*time.Second, "the connection", nc.IsConnected)
	if err := nc.Publish("payments.new", nil); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "the refusal", d.has(lb.EventError))
	if e, _ := d.first(lb.EventError); !errors.Is(e.Err, nats.ErrPermissionViolation) {
		t.Errorf("the event says %v, want ErrPermissionViolation", e.Err)
	}
}

// Who wants to be started anew instead of waiting for ever is told the end.
func TestConnectGivesUpWhenToldTo(t *testing.T) {
	t.Parallel()
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	var book logBook
	var d diary
	nc, err := lb.Connect(fmt.Sprintf("nats://127.0.0.1:%d", free[0]), lb.WithMaxReconnects(3),
		lb.WithLogger(book.logger()), lb.WithEvents(d.write), quickly())
	if err != nil {
		t.Fatalf("Connect = %v, want nil: the attempts are still to come", err)
	}
	t.Cleanup(nc.Close)
	wait.For(t, 30*time.Second, "the end", d.has(lb.EventClosed))
	if e, _ := d.first(lb.EventClosed); !errors.Is(e.Err, nats.ErrNoServers) || !nc.IsClosed() {
		t.Errorf("the connection ended with %v, closed %v", e.Err, nc.IsClosed())
	}
	if book.count("is given up") != 1 {
		t.Errorf("the end was not logged once: %s", book.text())
	}
}

// A server that is gone without a word, as one that is stopped or behind a cable
// that is cut, is noticed by the pings.
func TestPingsNoticeASilentServer(t *testing.T) {
	t.Parallel()
	r := newRelay(t, natstest.Server(t).Addr().String())
	var d diary
	nc, err := lb.Connect("nats://"+r.address(), lb.WithPing(50*time.Millisecond, 2), lb.WithEvents(d.write), quickly())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	wait.For(t, 30*time.Second, "the connection", d.has(lb.EventConnected))
	r.silent.Store(true)
	wait.For(t, 30*time.Second, "the loss to be noticed", d.has(lb.EventDisconnected))
	if e, _ := d.first(lb.EventDisconnected); !errors.Is(e.Err, nats.ErrStaleConnection) {
		t.Errorf("disconnected by %v, want a stale connection", e.Err)
	}
	r.silent.Store(false)
	wait.For(t, 30*time.Second, "the connection again", nc.IsConnected)
}
