package collector

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// A server with more subscriptions than are worth the question is not asked for
// them, and that its queue groups are missing is said, by every source.
func TestServersWithTooManySubscriptionsAreNamed(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts())
	// By hand: a client library would start a hundred thousand goroutines.
	conn, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		w := bufio.NewWriterSize(conn, 1<<16)
		fmt.Fprintf(w, "CONNECT {\"user\":%q,\"pass\":%q,\"verbose\":false}\r\n", natstest.AppUser, natstest.AppPassword)
		for i := range maxSubsAsked + 1 {
			fmt.Fprintf(w, "SUB many.%d crew %d\r\n", i, i+1)
		}
		io.WriteString(w, "PING\r\n")
		w.Flush()
	}()
	conn.SetReadDeadline(time.Now().Add(patience))
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "PONG") {
			break
		}
	}
	system := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	sources := map[string]*memory{
		"monitoring":     collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}, Interval: 100 * time.Millisecond}),
		"system account": collect(t, Config{System: system, Interval: 100 * time.Millisecond}),
	}
	for source, m := range sources {
		wait.For(t, patience, "the server without its queue groups over "+source, func() bool {
			s := m.latest()
			return slices.Equal(s.QueuesCut.Servers, []string{srv.Name()}) && len(s.Queues) == 0 && len(s.ConnSums) > 0
		})
	}
	conn.Close()
	few := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	if _, err := few.QueueSubscribe("jobs", "crew", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	for source, m := range sources {
		wait.For(t, patience, "its queue groups over "+source, func() bool {
			s := m.latest()
			_, ok := findQueue(s, "jobs", "crew")
			return ok && len(s.QueuesCut.Servers) == 0
		})
	}
}
