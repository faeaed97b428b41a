package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/reportpb"
	"ballast/internal/wait"
)

// memory is a sink that keeps everything.
type memory struct {
	mu        sync.Mutex // guards all below
	snapshots []fleet.Snapshot
	acks      []fleet.AckWindow
	reports   []fleet.WorkerReport
	events    []fleet.Event
}

func (m *memory) PutSnapshot(_ context.Context, s fleet.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snapshots = append(m.snapshots, s)
	return nil
}

func (m *memory) PutAcks(_ context.Context, w []fleet.AckWindow) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acks = append(m.acks, w...)
	return nil
}

func (m *memory) PutReports(_ context.Context, r []fleet.WorkerReport) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = append(m.reports, r...)
	return nil
}

func (m *memory) PutEvents(_ context.Context, e []fleet.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e...)
	return nil
}

func (m *memory) latest() fleet.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.snapshots) == 0 {
		return fleet.Snapshot{}
	}
	return m.snapshots[len(m.snapshots)-1]
}

func (m *memory) all() []fleet.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.snapshots)
}

func (m *memory) has(kind, entity string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.events, func(e fleet.Event) bool { return e.Kind == kind && e.Entity == entity })
}

func (m *memory) kinds() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, e := range m.events {
		out = append(out, e.Kind+" "+e.Entity)
	}
	return out
}

// patience is for machines that do much else and race detectors.
const patience = 90 * time.Second

// collect runs a collector until the test ends.
func collect(t *testing.T, cfg Config) *memory {
	t.Helper()
	m := &memory{}
	run(t, cfg, m)
	return m
}

func run(t *testing.T, cfg Config, sink Sink) (stop func()) {
	t.Helper()
	if cfg.Interval == 0 {
		cfg.Interval = 100 * time.Millisecond
	}
	c, err := New(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	return runIt(t, c)
}

func runIt(t testing.TB, c *Collector) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run = %v, want nil after cancel", err)
			}
		case <-time.After(patience):
			t.Error("Run did not return after cancel")
		}
	})
	t.Cleanup(stop)
	return stop
}

func js(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	// A busy machine acknowledges late: the client must not give up on the test.
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<16))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func stream(t testing.TB, js jetstream.JetStream, name string, replicas int) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{strings.ToLower(name) + ".>"}, Replicas: replicas, MaxBytes: 1 << 20,
		Metadata: map[string]string{"team": "payments"},
	})
	if err != nil {
		t.Fatalf("create stream %s: %v", name, err)
	}
}

func consumer(t testing.TB, js jetstream.JetStream, stream, name string) jetstream.Consumer {
	t.Helper()
	c, err := js.CreateConsumer(t.Context(), stream, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, SampleFrequency: "100",
		FilterSubject: strings.ToLower(stream) + ".>", MaxAckPending: 5000,
	})
	if err != nil {
		t.Fatalf("create consumer %s of %s: %v", name, stream, err)
	}
	return c
}

func publish(t testing.TB, js jetstream.JetStream, subject string, n int) {
	t.Helper()
	for range n {
		if _, err := js.Publish(t.Context(), subject, []byte("payload")); err != nil {
			t.Fatalf("publish to %s: %v", subject, err)
		}
	}
}

// ackSome fetches n messages and acknowledges ack of them.
func ackSome(t testing.TB, c jetstream.Consumer, n, ack int) {
	t.Helper()
	batch, err := c.Fetch(n)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for m := range batch.Messages() {
		if i < ack {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		i++
	}
	if i != n {
		t.Fatalf("fetched %d messages, want %d", i, n)
	}
}

func findConsumer(s fleet.Snapshot, name string) (fleet.Consumer, bool) {
	i := slices.IndexFunc(s.Consumers, func(c fleet.Consumer) bool { return c.Consumer == name })
	if i < 0 {
		return fleet.Consumer{}, false
	}
	return s.Consumers[i], true
}

func findServer(s fleet.Snapshot, name string) fleet.Server {
	i := slices.IndexFunc(s.Servers, func(v fleet.Server) bool { return v.Name == name })
	if i < 0 {
		return fleet.Server{}
	}
	return s.Servers[i]
}

// The same system, read by each of the three sources that tell of streams.
func TestEverySourceTellsTheSame(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts(), natstest.Config("server_name: solo\nserver_tags: [\"az:1\"]\n"))
	app := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword), nats.Name("the-app"))
	sys := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	j := js(t, app)
	stream(t, j, "ORDERS", 1)
	east := consumer(t, j, "ORDERS", "east")
	publish(t, j, "orders.a", 20)
	ackSome(t, east, 7, 4)

	check := func(t *testing.T, cfg Config, source fleet.Source, servers bool) {
		m := collect(t, cfg)
		wait.For(t, patience, "the consumer", func() bool { _, ok := findConsumer(m.latest(), "east"); return ok })
		s := m.latest()
		c, _ := findConsumer(s, "east")
		want := fleet.Consumer{
			ConsumerKey: fleet.ConsumerKey{Account: "APP", Stream: "ORDERS", Consumer: "east"},
			Created:     c.Created, Leader: c.Leader, FilterSubjects: []string{"orders.>"}, AckPolicy: "explicit",
			AckWait: time.Minute, MaxDeliver: -1, MaxAckPending: 5000, SampleFreq: "100", Durable: true,
			Delivered: 7, DeliveredSeq: 7, AckFloor: 4, AckFloorSeq: 4, AckPending: 3, Pending: 13,
			LastDelivery: c.LastDelivery, LastAck: c.LastAck, Metadata: c.Metadata, At: c.At, Source: source,
		}
		if got, want := fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", want); got != want {
			t.Errorf("consumer\n got %s\nwant %s", got, want)
		}
		if !c.Sampled() || c.Created.IsZero() || c.LastAck.IsZero() || c.LastDelivery.IsZero() || time.Since(c.At) > time.Minute {
			t.Errorf("consumer lacks times: %+v", c)
		}
		if len(s.Streams) != 1 {
			t.Fatalf("%d streams, want 1: %+v", len(s.Streams), s.Streams)
		}
		st := s.Streams[0]
		if st.Messages != 20 || st.LastSeq != 20 || st.FirstSeq != 1 || st.Consumers != 1 || st.Storage != "file" ||
			st.Retention != "limits" || st.Replicas != 1 || st.MaxBytes != 1<<20 || st.Metadata["team"] != "payments" ||
			st.Subjects[0] != "orders.>" || st.Account != "APP" || st.Bytes == 0 || st.Source != source || st.LastTime.IsZero() {
			t.Errorf("stream %+v", st)
		}
		// An answer that comes late is in the cost of a later round.
		wait.For(t, patience, "what it cost", func() bool {
			return slices.ContainsFunc(m.all(), func(s fleet.Snapshot) bool { return s.Cost.Requests > 0 && s.Cost.Bytes > 0 && s.Cost.Took > 0 })
		})
		if !servers {
			return
		}
		if len(s.Servers) != 1 || s.Expected != 1 || len(s.Problems) != 0 {
			t.Fatalf("%d servers, %d expected, problems %+v", len(s.Servers), s.Expected, s.Problems)
		}
		v, err := srv.Varz(nil)
		if err != nil {
			t.Fatal(err)
		}
		got := s.Servers[0]
		if got.ID != v.ID || got.Name != "solo" || got.Version != v.Version || got.Port != v.Port || got.Host != v.Host ||
			!got.Start.Equal(v.Start) || got.Cores != v.Cores || got.State != fleet.Healthy || got.Tags[0] != "az:1" ||
			got.Conns != v.Connections || got.Source != source || got.RTT <= 0 || got.Now.IsZero() || got.Mem <= 0 {
			t.Errorf("server %+v\nvarz %+v", got, v)
		}
		if got.InMsgs == 0 || got.InMsgs > uint64(v.InMsgs) || got.OutBytes == 0 || got.OutBytes > uint64(v.OutBytes) {
			t.Errorf("in %d of at most %d messages, out %d of at most %d bytes", got.InMsgs, v.InMsgs, got.OutBytes, v.OutBytes)
		}
		z, err := srv.Jsz(&server.JSzOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if js := got.JetStream; js == nil || js.Streams != 1 || js.Consumers != 1 || js.Messages != 20 || js.Store != z.Store ||
			js.MaxMemory != z.Config.MaxMemory || js.MaxStore != z.Config.MaxStore || js.APITotal == 0 {
			t.Errorf("JetStream %+v, jsz %+v", js, z)
		}
		i := slices.IndexFunc(s.Conns, func(c fleet.Conn) bool { return c.Name == "the-app" })
		if i < 0 || s.Conns[i].Account != "APP" || s.Conns[i].User != natstest.AppUser || s.Conns[i].InMsgs == 0 || s.Conns[i].Lang != "go" {
			t.Errorf("connections %+v", s.Conns)
		}
		i = slices.IndexFunc(s.Accounts, func(a fleet.Account) bool { return a.Name == "APP" })
		if i < 0 || s.Accounts[i].Conns < 1 || s.Accounts[i].InMsgs == 0 {
			t.Errorf("accounts %+v", s.Accounts)
		}
	}
	t.Run("monitoring", func(t *testing.T) {
		t.Parallel()
		check(t, Config{Monitor: []string{natstest.MonitorURL(srv)}}, fleet.Monitoring, true)
	})
	t.Run("system account", func(t *testing.T) {
		t.Parallel()
		check(t, Config{System: sys}, fleet.System, true)
	})
	t.Run("account", func(t *testing.T) {
		t.Parallel()
		check(t, Config{Conn: app}, fleet.API, false)
	})
	t.Run("system account before monitoring", func(t *testing.T) {
		t.Parallel()
		m := collect(t, Config{System: sys, Conn: app, Monitor: []string{natstest.MonitorURL(srv)}})
		wait.For(t, patience, "monitoring to be left alone", func() bool {
			s := m.latest()
			c, ok := findConsumer(s, "east")
			// VARZ STATSZ HEALTHZ ROUTEZ STATZ CONNZ CONNZ JSZ, and nothing else.
			return ok && c.Source == fleet.System && len(s.Servers) == 1 && s.Cost.Requests <= 8
		})
	})
}

func TestNATSThatStartsAfterTheConsole(t *testing.T) {
	t.Parallel()
	monitor, client := freePort(t), freePort(t)
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", client), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	url := fmt.Sprintf("http://127.0.0.1:%d", monitor)
	m := collect(t, Config{Monitor: []string{url}, Conn: nc})
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	s := m.latest()
	if len(s.Servers) != 0 || len(s.Problems) != 2 {
		t.Fatalf("servers %+v, problems %+v; want no server and two problems", s.Servers, s.Problems)
	}
	for _, p := range s.Problems {
		if p.Where == "" || p.What == "" || p.Hint == "" || p.Since.IsZero() {
			t.Errorf("problem %+v says too little", p)
		}
	}
	natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.HTTPPort, o.Port = monitor, client }))
	wait.For(t, patience, "the server", func() bool {
		s := m.latest()
		return len(s.Servers) == 1 && s.Servers[0].State == fleet.Healthy && len(s.Problems) == 0
	})
	j := js(t, nc)
	stream(t, j, "LATE", 1)
	late := consumer(t, j, "LATE", "late")
	publish(t, j, "late.x", 3)
	ackSome(t, late, 3, 3)
	wait.For(t, patience, "samples over the connection that came up late", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		n := uint64(0)
		for _, w := range m.acks {
			if w.ConsumerKey == (fleet.ConsumerKey{Account: "$G", Stream: "LATE", Consumer: "late"}) {
				n += w.Latency.Count()
			}
		}
		return n == 3
	})
	wait.For(t, patience, "the event of the stream", func() bool { return m.has("stream.created", "$G/LATE") })
	if m.has("server.joined", "") {
		t.Errorf("events %v: the first server seen is no news", m.kinds())
	}
}

// A server that accepts connections and never answers is the worst kind of
// dead: nothing is refused.
func TestHungServerDoesNotDelayTheOthers(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	hung := "http://" + ln.Addr().String()
	// The same at the same time without it shows how fast this machine is now.
	const interval = 250 * time.Millisecond
	alone := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}, Interval: interval})
	m := collect(t, Config{Monitor: []string{hung, natstest.MonitorURL(srv)}, Interval: interval})
	wait.For(t, patience, "the problem and 12 snapshots after it", func() bool {
		all := m.all()
		i := slices.IndexFunc(all, func(s fleet.Snapshot) bool {
			return slices.ContainsFunc(s.Problems, func(p fleet.Problem) bool { return p.Where == hung })
		})
		return i >= 0 && len(all) > i+12
	})
	beside, without := medianGap(m.all()), medianGap(alone.all())
	t.Logf("the good server is read every %v beside a hung one and every %v alone", beside, without)
	// Waiting for the hung one takes requestTimeout.
	if beside > without+requestTimeout/4 {
		t.Errorf("the good server is read every %v beside a hung one and every %v alone", beside, without)
	}
}

// medianGap is the time between two looks at the same server.
func medianGap(all []fleet.Snapshot) time.Duration {
	var at []time.Time
	for _, s := range all {
		for _, v := range s.Servers {
			if len(at) == 0 || v.At != at[len(at)-1] {
				at = append(at, v.At)
			}
		}
	}
	var gaps []time.Duration
	for i := 1; i < len(at); i++ {
		gaps = append(gaps, at[i].Sub(at[i-1]))
	}
	slices.Sort(gaps)
	if len(gaps) == 0 {
		return 0
	}
	return gaps[len(gaps)/2]
}

func TestSecretsAreNeverKept(t *testing.T) {
	t.Parallel()
	const canary = "CANARY-SECRET"
	srv := natstest.Server(t, natstest.Config(`
server_name: vault
authorization { token: "`+canary+`-token" }
cluster { name: "c", listen: "127.0.0.1:-1", routes: ["nats-route://ruser:`+canary+`-route@127.0.0.1:1"] }
leafnodes { remotes: [ { url: "nats-leaf://luser:`+canary+`-leaf@127.0.0.1:1" } ] }
`), natstest.Tweak(func(o *server.Options) { o.JetStream = false }))
	nc, err := nats.Connect(srv.ClientURL(), nats.Token(canary+"-token"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	// In front of it stands a proxy that wants a password and, once, repeats it in
	// an error; behind a second one is nothing that answers at all.
	target := natstest.MonitorURL(srv)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != canary+"-basic" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, target+r.URL.String()+"?"+canary, http.StatusFound)
	}))
	t.Cleanup(proxy.Close)
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	host := strings.TrimPrefix(target, "http://")
	m := &memory{}
	stop := run(t, Config{Conn: nc, Log: log, Monitor: []string{
		"http://muser:" + canary + "-monitor@" + host + "/?auth=" + canary + "-query",
		"http://muser:" + canary + "-basic@" + strings.TrimPrefix(proxy.URL, "http://"),
		"http://muser:" + canary + "-dead@127.0.0.1:1",
	}}, m)
	wait.For(t, patience, "three snapshots with the server", func() bool {
		all := m.all()
		return len(all) >= 3 && len(all[len(all)-1].Servers) == 1
	})
	stop()
	for _, s := range m.all() {
		if text := fmt.Sprintf("%+v", s); strings.Contains(text, canary) {
			t.Fatalf("a snapshot holds a secret: %s", text)
		}
	}
	if strings.Contains(logged.String(), canary) {
		t.Errorf("the log holds a secret: %s", logged.String())
	}
	// The redirect was refused, not followed.
	if !slices.ContainsFunc(m.latest().Problems, func(p fleet.Problem) bool { return strings.Contains(p.What, "HTTP status 302") }) {
		t.Errorf("problems %+v, want the redirect refused", m.latest().Problems)
	}
	_, err = New(Config{Monitor: []string{"http://u:" + canary + "@ho st:x"}}, m)
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("New = %v, want an error without the secret", err)
	}
	if fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("KindOf(%v) = %v, want Invalid", err, fleet.KindOf(err))
	}
}

func TestHugeAnswerIsRefused(t *testing.T) {
	t.Parallel()
	const largest = 1 << 20 // the real limit takes a busy machine longer than the time-out
	bomb := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/varz" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(`{"server_id":"`))
		chunk := bytes.Repeat([]byte("a"), 1<<16)
		for range 2 * largest >> 16 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(bomb.Close)
	m := collect(t, Config{Monitor: []string{bomb.URL}, largest: largest})
	wait.For(t, patience, "the problem", func() bool {
		return slices.ContainsFunc(m.latest().Problems, func(p fleet.Problem) bool { return strings.Contains(p.What, "larger than") })
	})
}

func TestForeignWebServerIsNoServer(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"hello":"world"}`)) }))
	t.Cleanup(web.Close)
	m := collect(t, Config{Monitor: []string{web.URL}})
	wait.For(t, patience, "the problem", func() bool { return len(m.latest().Problems) == 1 })
	if s := m.latest(); len(s.Servers) != 0 || !strings.Contains(s.Problems[0].What, "not a nats-server") {
		t.Errorf("servers %+v, problems %+v", s.Servers, s.Problems)
	}
}

func TestNothingConfiguredSaysSo(t *testing.T) {
	t.Parallel()
	m := collect(t, Config{})
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	if p := m.latest().Problems; len(p) != 1 || p[0].Hint == "" {
		t.Errorf("problems %+v, want one with a hint", p)
	}
	if _, err := New(Config{Interval: time.Millisecond}, m); !errors.As(err, new(*fleet.Error)) {
		t.Errorf("New with 1ms = %v, want a *fleet.Error", err)
	}
}

func TestAccountWithoutPermissionsSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(`
accounts { APP { jetstream: enabled, users: [ { user: "poor", password: "p", permissions: { publish: ["x"], subscribe: ["x"] } } ] } }
`))
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("poor", "p"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	m := collect(t, Config{Conn: nc, System: nc})
	wait.For(t, patience, "the problems of account and system account", func() bool {
		text := fmt.Sprintf("%+v", m.latest().Problems)
		return strings.Contains(text, "ermission") && strings.Contains(text, "$SYS.REQ.SERVER.PING")
	})
}

// The second server is linked to the first at 127.0.0.2 and has the same
// monitoring port there: what servers on machines of their own look like.
func TestOtherServersAreDiscovered(t *testing.T) {
	t.Parallel()
	noJetStream := natstest.Tweak(func(o *server.Options) { o.JetStream = false })
	port := freePort(t)
	monitor := func(host string) natstest.Option {
		return natstest.Tweak(func(o *server.Options) { o.HTTPHost, o.HTTPPort = host, port })
	}
	far := natstest.Server(t, noJetStream, monitor("127.0.0.2"), natstest.Config(`
server_name: far
cluster { name: "c", listen: "127.0.0.2:-1" }
`))
	natstest.Server(t, noJetStream, monitor("127.0.0.1"), natstest.Config(fmt.Sprintf(`
server_name: near
cluster { name: "c", listen: "127.0.0.1:-1", routes: ["nats-route://127.0.0.2:%d"] }
`, far.ClusterAddr().Port)))
	m := collect(t, Config{Monitor: []string{fmt.Sprintf("http://127.0.0.1:%d", port)}})
	wait.For(t, patience, "both servers", func() bool {
		s := m.latest()
		return len(s.Servers) == 2 && s.Servers[0].State == fleet.Healthy && s.Servers[1].State == fleet.Healthy && len(s.Problems) == 0
	})
	if url, want := findServer(m.latest(), "far").URL, fmt.Sprintf("http://127.0.0.2:%d", port); url != want {
		t.Errorf("the far server was read at %q, want %q", url, want)
	}
}

// Two clusters joined by gateways, and a leaf node at one of them.
func TestGatewaysAndLeafs(t *testing.T) {
	t.Parallel()
	accounts := natstest.Config(`
accounts {
  SYS { users: [ { user: sys, password: sys } ] }
  APP { users: [ { user: app, password: app } ] }
}
system_account: SYS
no_auth_user: app
`)
	east := natstest.Server(t, noJetStream, accounts, natstest.Config(`
server_name: e1
gateway { name: "east", listen: "127.0.0.1:-1" }
leafnodes { listen: "127.0.0.1:-1" }
`))
	eastGateway := east.GatewayAddr().Port
	west := natstest.Server(t, noJetStream, accounts, natstest.Config(fmt.Sprintf(`
server_name: w1
gateway { name: "west", listen: "127.0.0.1:-1", gateways: [ { name: "east", url: "nats://127.0.0.1:%d" } ] }
`, eastGateway)))
	v, err := east.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	edge := natstest.Server(t, noJetStream, accounts, natstest.Config(fmt.Sprintf(`
server_name: edge
leafnodes { remotes: [ { url: "nats-leaf://app:app@127.0.0.1:%d", account: APP } ] }
`, v.LeafNode.Port)))
	producer, reader := natstest.Connect(t, west.ClientURL()), natstest.Connect(t, east.ClientURL())
	leafReader := natstest.Connect(t, edge.ClientURL())
	for _, nc := range []*nats.Conn{reader, leafReader} {
		if _, err := nc.Subscribe("news.>", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(east), natstest.MonitorURL(west)}})
	wait.For(t, patience, "traffic over the gateway and to the leaf", func() bool {
		if err := producer.Publish("news.today", []byte("hello")); err != nil {
			t.Fatal(err)
		}
		s := m.latest()
		out := slices.ContainsFunc(s.Gateways, func(g fleet.Gateway) bool {
			return g.From == west.ID() && g.FromCluster == "west" && g.ToCluster == "east" && g.OutMsgs > 10 && g.OutBytes > 0
		})
		in := slices.ContainsFunc(s.Gateways, func(g fleet.Gateway) bool {
			return g.From == east.ID() && g.FromCluster == "east" && g.ToCluster == "west" && g.InMsgs > 10 && g.InBytes > 0
		})
		leaf := slices.ContainsFunc(s.Leafs, func(l fleet.Leaf) bool {
			return l.Server == east.ID() && l.Name == "edge" && l.Account == "APP" && l.OutMsgs > 10 && l.IP == "127.0.0.1" && l.RTT > 0
		})
		return out && in && leaf
	})
	s := m.latest()
	if len(s.Servers) != 2 || findServer(s, "e1").Cluster != "east" || findServer(s, "w1").Cluster != "west" || len(s.Problems) != 0 {
		t.Errorf("servers %+v, problems %+v", s.Servers, s.Problems)
	}
	if len(s.Gateways) != 2 || len(s.Leafs) != 1 {
		t.Errorf("%d gateways and %d leafs, want 2 and 1", len(s.Gateways), len(s.Leafs))
	}
}

func TestLameDuck(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config("server_name: duck\n"), natstest.Tweak(func(o *server.Options) {
		o.JetStream = false
		o.LameDuckDuration, o.LameDuckGracePeriod = time.Minute, 50*time.Second
	}))
	nc := natstest.Connect(t, srv.ClientURL(), nats.NoReconnect())
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}})
	wait.For(t, patience, "a healthy server", func() bool { return findServer(m.latest(), "duck").State == fleet.Healthy })
	go srv.LameDuckShutdown()
	wait.For(t, patience, "lame duck mode", func() bool {
		return findServer(m.latest(), "duck").State == fleet.LameDuck && m.has("server.lameduck", "duck")
	})
	if !nc.IsConnected() {
		t.Error("the client has left already")
	}
}

func TestWorkerReportsArrive(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	m := collect(t, Config{Conn: nc})
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	good := &reportpb.Report{
		V: reportpb.Version, Split: "orders", Target: "east", Worker: "w1", AtUnixMs: time.Now().Add(-time.Hour).UnixMilli(),
		IntervalMs: 5000, Workers: 4, InFlight: 2, Processed: 10, Failed: 1, CpuPercent: 12.5, MemoryBytes: 1 << 20,
	}
	foreign := proto.CloneOf(good)
	foreign.Target = "west" // on east's subject
	for _, r := range []*reportpb.Report{good, foreign} {
		data, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish(reportpb.Subject("orders", "east"), data); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, patience, "the good report and the problem of the other", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		refused := slices.ContainsFunc(m.snapshots, func(s fleet.Snapshot) bool {
			return slices.ContainsFunc(s.Problems, func(p fleet.Problem) bool { return strings.Contains(p.What, "1 worker reports were refused") })
		})
		return len(m.reports) == 1 && refused
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.reports[0]
	if r.Split != "orders" || r.Target != "east" || r.Workers != 4 || r.Processed != 10 || r.Failed != 1 || r.CPU != 12.5 || r.Interval != 5*time.Second {
		t.Errorf("report %+v", r)
	}
	if age := time.Since(r.At); age > time.Minute {
		t.Errorf("the report is %v old: it is dated by the worker's clock", age)
	}
}

// The permissions that the documentation gives a watching user are enough, and
// nothing beyond them is asked for.
func TestDocumentedPermissionsSuffice(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(`
accounts {
  SYS { users: [ { user: "sysro", password: "p", permissions: {
    publish: [
      "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.SERVER.PING.STATSZ", "$SYS.REQ.SERVER.PING.HEALTHZ",
      "$SYS.REQ.SERVER.PING.ROUTEZ", "$SYS.REQ.SERVER.PING.GATEWAYZ", "$SYS.REQ.SERVER.PING.LEAFZ",
      "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.JSZ", "$SYS.REQ.ACCOUNT.PING.STATZ",
      "$SYS.REQ.SERVER.PING.SUBSZ", "$SYS.REQ.SERVER.PING.RAFTZ", "$SYS.REQ.SERVER.PING.IPQUEUESZ" ],
    subscribe: [ "_INBOX_ops.>", "$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.*.DISCONNECT", "$SYS.SERVER.*.CLIENT.AUTH.ERR",
      "$SYS.SERVER.*.SHUTDOWN", "$SYS.SERVER.*.LAMEDUCK", "$SYS.SERVER.*.STATSZ", "$JS.EVENT.ADVISORY.>" ] } } ] }
  APP { jetstream: enabled, users: [
    { user: "app", password: "p" }
    { user: "ro", password: "p", permissions: {
      publish: [ "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.LIST.*", "$SYS.REQ.USER.INFO", "$SRV.STATS", "$SRV.INFO" ],
      subscribe: [ "_INBOX_ops.>", "$JS.EVENT.METRIC.CONSUMER.ACK.>", "$JS.EVENT.ADVISORY.>", "ballast.report.*.*" ] } }
  ] }
}
system_account: SYS
`))
	j := js(t, natstest.Connect(t, srv.ClientURL(), nats.UserInfo("app", "p")))
	stream(t, j, "ORDERS", 1)
	east := consumer(t, j, "ORDERS", "east")
	connect := func(user string) *nats.Conn {
		return natstest.Connect(t, srv.ClientURL(), nats.UserInfo(user, "p"), nats.CustomInboxPrefix("_INBOX_ops"),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("user %s: %v", user, err) }))
	}
	byAccount := collect(t, Config{Conn: connect("ro")})
	bySystem := collect(t, Config{System: connect("sysro"), Conn: connect("ro")})
	for _, m := range []*memory{byAccount, bySystem} {
		wait.For(t, patience, "the consumer", func() bool { return len(m.latest().Consumers) == 1 })
		publish(t, j, "orders.a", 1)
		ackSome(t, east, 1, 1)
		wait.For(t, patience, "a sample of account APP", func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return slices.ContainsFunc(m.acks, func(w fleet.AckWindow) bool { return w.Account == "APP" && w.Consumer == "east" })
		})
	}
	if p := bySystem.latest().Problems; len(p) != 0 {
		t.Errorf("problems %+v, want none", p)
	}
}

// When the big question fails, the small ones still count, and what was known
// of streams and consumers stays with its date.
func TestStreamsThatCannotBeReadStayAsTheyWere(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config("server_name: solo\n"))
	j := js(t, natstest.Connect(t, srv.ClientURL()))
	stream(t, j, "ORDERS", 1)
	consumer(t, j, "ORDERS", "east")
	target, err := url.Parse(natstest.MonitorURL(srv))
	if err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	through := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() && r.URL.Path == "/jsz" {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	m := collect(t, Config{Monitor: []string{front.URL}})
	wait.For(t, patience, "the consumer", func() bool { return len(m.latest().Consumers) == 1 })
	broken.Store(true)
	wait.For(t, patience, "the problem", func() bool {
		return slices.ContainsFunc(m.latest().Problems, func(p fleet.Problem) bool {
			return p.Where == "solo" && strings.Contains(p.What, "/jsz") && strings.Contains(p.What, "500")
		})
	})
	since := m.latest()
	wait.For(t, patience, "newer figures of the server", func() bool { return m.latest().Servers[0].At.Sub(since.Servers[0].At) > 300*time.Millisecond })
	s := m.latest()
	if len(s.Consumers) != 1 || len(s.Streams) != 1 || s.Consumers[0].At != since.Consumers[0].At || s.Servers[0].State != fleet.Healthy {
		t.Errorf("streams %+v, consumers %+v; want them as at %v", s.Streams, s.Consumers, since.Consumers[0].At)
	}
	broken.Store(false)
	wait.For(t, patience, "newer figures of the consumer", func() bool {
		s := m.latest()
		return len(s.Problems) == 0 && s.Consumers[0].At.After(since.Consumers[0].At)
	})
	if k := m.kinds(); len(k) != 0 {
		t.Errorf("events %v, want none", k)
	}
}

// BenchmarkRound is one look at a server with one stream and ten consumers;
// the server's own work is in it.
func BenchmarkRound(b *testing.B) {
	srv := natstest.Server(b)
	nc := natstest.Connect(b, srv.ClientURL())
	j := js(b, nc)
	stream(b, j, "ORDERS", 1)
	for i := range 10 {
		consumer(b, j, "ORDERS", fmt.Sprintf("c%d", i))
	}
	m := &memory{}
	c, err := New(Config{Monitor: []string{natstest.MonitorURL(srv)}}, m)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.round(b.Context())
	}
	cost := m.latest().Cost
	b.ReportMetric(float64(cost.Requests), "requests")
	b.ReportMetric(float64(cost.Bytes), "bytes/round")
}
