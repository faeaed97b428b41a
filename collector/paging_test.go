package collector

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

func TestPagesAreAskedUntilAllIsTold(t *testing.T) {
	for _, c := range []struct {
		limit, accounts, heaviest int // an answer is too large when it is of more than that many
		want                      string
		used                      int
		err                       error
	}{
		{0, 5, 5, "0+0", 0, nil},
		{2, 5, 5, "2+0 2+2 2+4", 2, nil},
		{5, 5, 5, "5+0", 5, nil},
		{0, 40, 2, "0+0 5+0 2+0 2+2 2+4 2+6 2+8 2+10 2+12 2+14 2+16 2+18 2+20 2+22 2+24 2+26 2+28 2+30 2+32 2+34 2+36 2+38", 2, nil},
		{0, 3, 0, "0+0 1+0", 1, errTooLarge},
		{0, 1, 0, "0+0", 0, errTooLarge},
	} {
		var got []string
		used, err := inPages(c.limit, func() {},
			func() (int, error) { return c.accounts, nil },
			func(limit, offset int) (int, error) {
				got = append(got, fmt.Sprintf("%d+%d", limit, offset))
				if limit == 0 && c.accounts > c.heaviest || limit > c.heaviest {
					return 0, errTooLarge
				}
				return c.accounts, nil
			})
		if asked := strings.Join(got, " "); asked != c.want || used != c.used || !errors.Is(err, c.err) {
			t.Errorf("%+v: asked %s, used %d, %v", c, asked, used, err)
		}
	}
}

func TestNextPage(t *testing.T) {
	for _, c := range []struct {
		limit    int
		size     int64
		accounts int
		want     int
	}{
		{0, 8 << 20, 100, 0},
		{0, 9 << 20, 100, 44},
		{0, 9 << 20, 1, 0},     // it cannot be divided
		{44, 5 << 20, 100, 44}, // no more than did
		{44, 4 << 20, 100, 0},
		{44, 90 << 20, 100, 4},
		{0, 900 << 20, 20, 1},
	} {
		if got := pageNext(c.limit, c.size, c.accounts, pageAbove); got != c.want {
			t.Errorf("%d bytes of %d accounts, %d at a time: %d the next time, want %d", c.size, c.accounts, c.limit, got, c.want)
		}
	}
}

// many accounts with a stream each, as a large answer has.
func manyAccounts(t *testing.T, n int) (monitor, client string) {
	t.Helper()
	var text strings.Builder
	text.WriteString("accounts {\n  SYS { users: [ { user: sys, password: sys } ] }\n")
	for i := range n {
		fmt.Fprintf(&text, "  TENANT%02d { jetstream: enabled, users: [ { user: u%d, password: u } ] }\n", i, i)
	}
	text.WriteString("}\nsystem_account: SYS\n")
	srv := natstest.Server(t, natstest.Config(text.String()))
	for i := range n {
		nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(fmt.Sprintf("u%d", i), "u"))
		api := js(t, nc)
		stream(t, api, "ORDERS", 1)
		for k := range 4 {
			consumer(t, api, "ORDERS", fmt.Sprintf("worker-%d", k))
		}
	}
	return natstest.MonitorURL(srv), srv.ClientURL()
}

// An answer that is large is asked for in parts, one that is too large at once,
// and what the pages show is whole in every snapshot.
func TestLargeAnswersAreReadByAccounts(t *testing.T) {
	t.Parallel()
	const accounts = 24
	monitor, client := manyAccounts(t, accounts)
	whole := func(s fleet.Snapshot) bool {
		for i := range accounts {
			name := fmt.Sprintf("TENANT%02d", i)
			if !slices.ContainsFunc(s.Streams, func(x fleet.Stream) bool { return x.Account == name && x.Storage != "" }) ||
				!slices.ContainsFunc(s.Consumers, func(x fleet.Consumer) bool { return x.Account == name && x.AckPolicy == "explicit" }) {
				return false
			}
		}
		return true
	}
	var mu sync.Mutex
	var parts []string // what was asked of a server's streams
	saw := func(q string) {
		mu.Lock()
		parts = append(parts, q)
		mu.Unlock()
	}
	target, err := url.Parse(monitor)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jsz" {
			saw("http " + r.URL.RawQuery)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	spy := natstest.Connect(t, client, nats.UserInfo("sys", "sys"))
	if _, err := spy.Subscribe("$SYS.REQ.SERVER.PING.JSZ", func(m *nats.Msg) { saw("sys " + string(m.Data)) }); err != nil {
		t.Fatal(err)
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	system := func() *nats.Conn { return natstest.Connect(t, client, nats.UserInfo("sys", "sys")) }
	for _, c := range []struct {
		name string
		cfg  Config
		part string // of a question for some accounts
	}{
		{"http, large", Config{Monitor: []string{front.URL}, pageAbove: 8 << 10}, "offset="},
		{"http, too large", Config{Monitor: []string{front.URL}, pageAbove: 8 << 10, largest: 64 << 10}, "offset="},
		{"system account, large", Config{System: system(), pageAbove: 8 << 10}, `"offset":`},
		{"system account, too large", Config{System: system(), pageAbove: 8 << 10, largest: 32 << 10}, `"offset":`},
	} {
		mu.Lock()
		parts = nil
		mu.Unlock()
		c.cfg.Interval = 100 * time.Millisecond
		m := &memory{}
		stop := run(t, c.cfg, m)
		wait.For(t, patience, c.name+": all accounts", func() bool { return whole(m.latest()) })
		asked := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, q := range parts {
				if strings.Contains(q, c.part) {
					n++
				}
			}
			return n
		}
		first := asked()
		wait.For(t, patience, c.name+": questions for some accounts, in several rounds", func() bool { return asked() > first+20 })
		stop()
		mu.Lock()
		if tooLarge := strings.Contains(c.name, "too large"); tooLarge != slices.ContainsFunc(parts, func(q string) bool { return q == "sys " || q == "http " }) {
			t.Errorf("%s: asked %q", c.name, parts[:min(len(parts), 4)])
		}
		mu.Unlock()
		begun := false
		for _, s := range m.all() {
			if begun = begun || whole(s); begun && !whole(s) {
				t.Errorf("%s: a snapshot has %d streams and %d consumers of %d accounts", c.name, len(s.Streams), len(s.Consumers), accounts)
			}
			for _, p := range s.Problems {
				if strings.Contains(p.What, "larger than") {
					t.Errorf("%s: %s", c.name, p.What)
				}
			}
		}
		if m.has("stream.removed", "TENANT00/ORDERS") {
			t.Errorf("%s: events tell of a removal: %v", c.name, m.kinds())
		}
	}
}
