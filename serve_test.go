package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// separate is a nats-server in a process of its own, configured by a file: TLS,
// accounts, and users with the permissions of docs/nats-permissions.md.
type separate struct {
	dir     string
	port    int
	monitor int
	tls     *tls.Config
	proc    *process
}

func startSeparate(tb testing.TB) *separate {
	tb.Helper()
	s := &separate{dir: tb.TempDir(), port: freePort(tb), monitor: freePort(tb)}
	certificates(tb, s.dir)
	conf := fmt.Sprintf(`
server_name: "standalone"
listen: "127.0.0.1:%d"
https: "127.0.0.1:%d"
tls { cert_file: %q, key_file: %q, ca_file: %q }
jetstream { store_dir: %q }
accounts {
  SYS { users: [ {
    user: "watch", password: "watch-password",
    permissions { publish: [%s], subscribe: [%s] }
  } ] }
  APP {
    jetstream: enabled
    users: [
      { user: "ballast", password: "ballast-password"
        permissions {
          publish: [%s]
          subscribe: [%s]
        } }
      { user: "app", password: "app-password", permissions { publish: { deny: ["$JS.EVENT.>", "$KV.BALLAST.>"] } } }
    ]
  }
}
system_account: SYS
`, s.port, s.monitor, s.file("cert.pem"), s.file("key.pem"), s.file("ca.pem"), s.file("js"),
		documented(tb, "## 2. System account", "publish"), documented(tb, "## 2. System account", "subscribe"),
		documented(tb, "## 3. The account", "publish"), documented(tb, "## 3. The account", "subscribe"))
	s.write(tb, "nats.conf", conf)
	s.write(tb, "ballast.password", "ballast-password\n")
	s.write(tb, "sys.password", "watch-password\n")
	pem, err := os.ReadFile(s.file("ca.pem"))
	if err != nil {
		tb.Fatal(err)
	}
	s.tls = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	s.tls.RootCAs.AppendCertsFromPEM(pem)
	s.start(tb)
	return s
}

// documented returns the permissions to publish or subscribe that
// docs/nats-permissions.md lists in a section, so that the page is held to what
// works.
func documented(tb testing.TB, section, verb string) string {
	tb.Helper()
	page, err := os.ReadFile("docs/nats-permissions.md")
	if err != nil {
		tb.Fatal(err)
	}
	_, text, ok := strings.Cut(string(page), section)
	if !ok {
		tb.Fatalf("docs/nats-permissions.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var subjects []string
	for {
		var list string
		_, text, ok = strings.Cut(text, verb+": [")
		if !ok {
			break
		}
		list, text, _ = strings.Cut(text, "]")
		for line := range strings.Lines(list) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.Trim(strings.TrimSpace(line), ","); line != "" {
				subjects = append(subjects, line)
			}
		}
	}
	if len(subjects) == 0 {
		tb.Fatalf("docs/nats-permissions.md lists nothing to %s in %q", verb, section)
	}
	return strings.Join(subjects, ", ")
}

func (s *separate) file(name string) string { return filepath.Join(s.dir, name) }

func (s *separate) write(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func (s *separate) start(tb testing.TB) {
	tb.Helper()
	s.proc = startProcess(tb, "nats-server", nil, "-c", s.file("nats.conf"))
	wait.For(tb, time.Minute, "the separate server to accept clients", func() bool {
		nc, err := nats.Connect(s.url(), nats.UserInfo("app", "app-password"), nats.Secure(s.tls))
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
}

func (s *separate) url() string { return fmt.Sprintf("tls://127.0.0.1:%d", s.port) }

// app connects as an application.
func (s *separate) app(tb testing.TB) *nats.Conn {
	tb.Helper()
	nc, err := lb.Connect(s.url(), lb.WithUser("app", "app-password"), lb.WithNATSOptions(nats.Secure(s.tls)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	wait.For(tb, time.Minute, "the application's connection", nc.IsConnected)
	return nc
}

// console starts "ballast serve" as its own process, with documented users and
// what else is given.
func (s *separate) console(tb testing.TB, data string, more ...string) *process {
	tb.Helper()
	return startProcess(tb, "ballast", nil, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", data, "--interval", "1s", "--bake", "5s",
		"--nats", s.url(), "--user", "ballast", "--password-file", s.file("ballast.password"), "--inbox-prefix", "_INBOX_ballast",
		"--tls-ca", s.file("ca.pem"), "--sys-user", "watch", "--sys-password-file", s.file("sys.password"),
		"--monitor", fmt.Sprintf("https://127.0.0.1:%d", s.monitor)}, more...)...)
}

// orders is a stream with two observed targets; a worker and a publisher run
// until the test ends.
func (s *separate) orders(tb testing.TB) (*lb.Publisher, jetstream.JetStream) {
	tb.Helper()
	nc := s.app(tb)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.CreateStream(tb.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.process.>"}}); err != nil {
		tb.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := js.CreateConsumer(tb.Context(), "ORDERS", jetstream.ConsumerConfig{
			Durable: name, FilterSubject: "orders.process." + name, AckPolicy: jetstream.AckExplicitPolicy, SampleFrequency: "100",
		}); err != nil {
			tb.Fatal(err)
		}
		w, err := lb.NewWorker(nc, lb.WorkerConfig{Split: "orders", Target: name, Stream: "ORDERS", Consumer: name, Concurrency: 4,
			Handler: func(context.Context, jetstream.Msg) error { return nil }})
		if err != nil {
			tb.Fatal(err)
		}
		runUntilCleanup(tb, "worker "+name, w.Run)
	}
	p, err := lb.NewPublisher(nc, "orders")
	if err != nil {
		tb.Fatal(err)
	}
	runUntilCleanup(tb, "the publisher", p.Run)
	return p, js
}

// createOrders makes the split through the console's form.
func createOrders(tb testing.TB, console string, a, b int) {
	tb.Helper()
	post(tb, console, "/splits/create", url.Values{
		"name": {"orders"}, "subject": {"orders.process"}, "pick": {"weighted"}, "mode": {"suggest"}, "law": {"capacity"}, "reason": {"first weights"},
		"t.0.name": {"a"}, "t.0.subject": {"orders.process.a"}, "t.0.observe": {"ORDERS/a"}, "t.0.weight": {fmt.Sprint(a)}, "t.0.tier": {"0"}, "t.0.state": {"READY"},
		"t.1.name": {"b"}, "t.1.subject": {"orders.process.b"}, "t.1.observe": {"ORDERS/b"}, "t.1.weight": {fmt.Sprint(b)}, "t.1.tier": {"0"}, "t.1.state": {"READY"},
	})
}

func ready(tb testing.TB, console string) {
	tb.Helper()
	wait.For(tb, time.Minute, "the console to be ready", func() bool {
		code, _ := tryGet(console + "/readyz")
		return code == http.StatusOK
	})
}

// publish sends n orders and returns how many went to target a.
func publish(tb testing.TB, p *lb.Publisher, n int) int {
	tb.Helper()
	toA := 0
	for range n {
		ack := &nats.Msg{Data: []byte("order")}
		if _, err := p.PublishJS(tb.Context(), ack); err != nil {
			tb.Fatalf("publish: %v", err)
		}
		if ack.Subject == "orders.process.a" {
			toA++
		}
	}
	return toA
}

// A server of its own, with its own file, TLS, accounts and documented
// permissions: shown, steered, obeyed; also when it comes after the console.
func TestServeAgainstASeparateServer(t *testing.T) {
	s := startSeparate(t)
	console := s.console(t, t.TempDir())
	base := console.url(t)
	ready(t, base)
	p, _ := s.orders(t)
	if page := string(get(t, base+"/topology")); !strings.Contains(page, "standalone") {
		t.Error("the topology does not show the server")
	}
	createOrders(t, base, 80, 20)
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if toA := publish(t, p, 1000); toA < 770 || toA > 830 {
		t.Errorf("%d of 1,000 orders went to a, its weight is 80", toA)
	}
	post(t, base, "/splits/orders/apply", url.Values{"base": {"1"}, "reason": {"turn round"}, "w.a": {"20"}, "w.b": {"80"}})
	wait.For(t, 30*time.Second, "the publisher to follow", func() bool { r, ok := p.Revision(); return ok && r.Number == 2 })
	if toA := publish(t, p, 1000); toA < 170 || toA > 230 {
		t.Errorf("%d of 1,000 orders went to a, its weight is 20", toA)
	}
	wait.For(t, time.Minute, "measured latencies of both targets", func() bool {
		d := getJSON[splitData](t, base+"/splits/orders.json")
		return d.Targets[0].Samples > 0 && d.Targets[1].Samples > 0 && d.Targets[0].Acked > 0
	})
	if d := getJSON[splitData](t, base+"/splits/orders.json"); d.Revision.Number != 2 || d.Revision.Reason != "turn round" {
		t.Errorf("the console shows revision %d, %q", d.Revision.Number, d.Revision.Reason)
	}

	// The server goes and comes back: the console says so and catches up.
	s.proc.end(t, syscall.SIGKILL, 10*time.Second)
	wait.For(t, time.Minute, "the console to say that nothing can be applied", func() bool {
		code, body := tryGet(base + "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(string(body), "NATS")
	})
	if page := string(get(t, base+"/")); !strings.Contains(page, "standalone") {
		t.Error("the overview does not name the lost server")
	}
	s.start(t)
	ready(t, base)
	post(t, base, "/splits/orders/apply", url.Values{"base": {"2"}, "reason": {"after the restart"}, "w.a": {"50"}, "w.b": {"50"}})
	if code := console.end(t, syscall.SIGTERM, 15*time.Second); code != exitOK {
		t.Errorf("SIGTERM ended the console with %d", code)
	}
}

// The console is killed while traffic runs: traffic goes on by the last
// weights, and a new console has history and journal.
func TestKilledConsole(t *testing.T) {
	s := startSeparate(t)
	data := t.TempDir()
	console := s.console(t, data)
	base := console.url(t)
	ready(t, base)
	p, _ := s.orders(t)
	createOrders(t, base, 70, 30)
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, p, 200)
	post(t, base, "/splits/orders/apply", url.Values{"base": {"1"}, "reason": {"before the kill"}, "w.a": {"90"}, "w.b": {"10"}})
	wait.For(t, 30*time.Second, "the publisher to follow", func() bool { r, ok := p.Revision(); return ok && r.Number == 2 })
	publish(t, p, 200)
	wait.For(t, time.Minute, "samples in the store", func() bool {
		d := getJSON[splitData](t, base+"/splits/orders.json")
		return d.Targets[0].Samples > 100
	})
	killed := time.Now()
	console.end(t, syscall.SIGKILL, 10*time.Second)

	if toA := publish(t, p, 1000); toA < 870 || toA > 930 {
		t.Errorf("with the console dead %d of 1,000 orders went to a, its weight is 90", toA)
	}

	console = s.console(t, data)
	base = console.url(t)
	ready(t, base)
	type entry = traffic.Entry
	kinds := map[traffic.EntryKind]int{}
	for _, e := range getJSON[[]entry](t, base+"/journal.json") {
		kinds[e.Kind]++
	}
	if kinds[traffic.EntryIntent] != 2 || kinds[traffic.EntryWritten] != 2 {
		t.Errorf("the journal holds %v, want two intents and two writes", kinds)
	}
	q := url.Values{"from": {killed.Add(-time.Minute).Format(time.RFC3339Nano)}, "to": {killed.Format(time.RFC3339Nano)}}
	if report := string(get(t, base+"/reports/orders.json?"+q.Encode())); !strings.Contains(report, "before the kill") || strings.Contains(report, `"ack_samples": 0`) {
		t.Errorf("the report of the time before the kill lacks the change or the samples: %.2000s", report)
	}
	wait.For(t, time.Minute, "the change that was being watched to end", func() bool {
		d := getJSON[splitData](t, base+"/splits/orders.json")
		return len(d.Changes) > 0 && d.Changes[0].Phase.Final()
	})
}

// A console without NATS comes up, says what is missing, and recovers.
func TestServeBeforeNATS(t *testing.T) {
	s := startSeparate(t)
	s.proc.end(t, syscall.SIGTERM, 10*time.Second)
	console := s.console(t, t.TempDir())
	base := console.url(t)
	page := string(get(t, base+"/"))
	if !strings.Contains(page, "NATS") {
		t.Errorf("the overview does not say that NATS is missing: %.2000s", page)
	}
	if code, _ := tryGet(base + "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz = %d without NATS, want 503", code)
	}
	s.start(t)
	ready(t, base)
}
