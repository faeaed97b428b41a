package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// rig is a running gateway before a real server.
type rig struct {
	t   testing.TB
	url string
	srv *server.Server
	js  jetstream.JetStream
}

func start(t testing.TB) *rig {
	t.Helper()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Conn: nc, Splits: []string{"orders"}, MaxBody: 1000, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	web := httptest.NewServer(g.Handler())
	t.Cleanup(func() {
		web.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after cancel", err)
		}
	})
	return &rig{t: t, url: web.URL, srv: srv, js: js}
}

// divide writes the split's document and waits until the gateway follows it.
func (r *rig) divide() {
	r.t.Helper()
	kv, err := r.js.CreateOrUpdateKeyValue(r.t.Context(), jetstream.KeyValueConfig{Bucket: traffic.Bucket})
	if err != nil {
		r.t.Fatal(err)
	}
	doc, err := traffic.Revision{V: traffic.Version, Number: 1, Split: traffic.Split{
		Name: "orders", Subject: "orders", Pick: traffic.Weighted, Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawManual,
		Targets: []traffic.Target{{Name: "east", Subject: "orders.east", Weight: 100, State: traffic.Ready}},
	}}.Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := kv.Put(r.t.Context(), traffic.Key("orders"), doc); err != nil {
		r.t.Fatal(err)
	}
	wait.For(r.t, time.Minute, "the gateway to be ready", func() bool {
		code, _, _ := r.do(http.MethodGet, "/readyz", "", nil)
		return code == http.StatusOK
	})
}

func (r *rig) do(method, path, body string, header map[string]string) (code int, h http.Header, answer string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func TestPublish(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.divide()
	const key = "order-17"
	code, _, body := r.do(http.MethodPost, "/v1/splits/orders", "one order", map[string]string{
		IdempotencyKey: key, Key: "customer-4", "Nats-Rollup": "all", "Nats-Expected-Stream": "OTHER"})
	var got receipt
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusAccepted {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if want := (receipt{Split: "orders", Target: "east", Subject: "orders.east", Stream: "ORDERS", Sequence: 1}); got != want {
		t.Errorf("receipt %+v, want %+v", got, want)
	}
	s, err := r.js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if string(msg.Data) != "one order" || msg.Header.Get(jetstream.MsgIDHeader) != key || msg.Header.Get(lb.KeyHeader) != "customer-4" || msg.Header.Get("Nats-Rollup") != "" {
		t.Errorf("stored %q with %v", msg.Data, msg.Header)
	}

	code, _, body = r.do(http.MethodPost, "/v1/splits/orders", "one order", map[string]string{IdempotencyKey: key})
	got = receipt{}
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusAccepted || !got.Duplicate || got.Sequence != 1 {
		t.Errorf("the same key again: %d %s: %v", code, body, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.divide()
	for name, c := range map[string]struct {
		method, path, body string
		header             map[string]string
		want               int
	}{
		"unknown split":    {"POST", "/v1/splits/other", "x", nil, 404},
		"hostile split":    {"POST", "/v1/splits/%3Cscript%3E", "x", nil, 404},
		"a read":           {"GET", "/v1/splits/orders", "", nil, 405},
		"too large":        {"POST", "/v1/splits/orders", strings.Repeat("x", 1001), nil, 413},
		"long key":         {"POST", "/v1/splits/orders", "x", map[string]string{IdempotencyKey: strings.Repeat("k", maxKey+1)}, 400},
		"key with a space": {"POST", "/v1/splits/orders", "x", map[string]string{IdempotencyKey: "a b"}, 400},
		"hostile pick key": {"POST", "/v1/splits/orders", "x", map[string]string{Key: "a\tb"}, 400},
		"another site":     {"POST", "/v1/splits/orders", "x", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"as large as may":  {"POST", "/v1/splits/orders", strings.Repeat("x", 1000), nil, 202},
		"empty":            {"POST", "/v1/splits/orders", "", nil, 202},
		"alive":            {"GET", "/healthz", "", nil, 200},
	} {
		code, _, body := r.do(c.method, c.path, c.body, c.header)
		if code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, body, c.want)
		}
		if strings.Contains(body, "<script") {
			t.Errorf("%s: the answer repeats the name: %s", name, body)
		}
	}
}

func TestNothingToPublishTo(t *testing.T) {
	t.Parallel()
	r := start(t)
	unavailable := func(what string) {
		t.Helper()
		code, h, body := r.do(http.MethodPost, "/v1/splits/orders", "x", nil)
		if code != http.StatusServiceUnavailable || h.Get("Retry-After") == "" {
			t.Errorf("%s: POST %d %q, Retry-After %q", what, code, body, h.Get("Retry-After"))
		}
	}
	ready := func() int {
		code, _, _ := r.do(http.MethodGet, "/readyz", "", nil)
		return code
	}
	unavailable("without a document")
	if code := ready(); code != http.StatusServiceUnavailable {
		t.Errorf("without a document: /readyz %d", code)
	}
	r.divide()
	if err := r.js.DeleteStream(t.Context(), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	unavailable("without a stream")
	r.srv.Shutdown()
	r.srv.WaitForShutdown()
	unavailable("without a server")
	wait.For(t, time.Minute, "the gateway to notice", func() bool { return ready() == http.StatusServiceUnavailable })
	if code, _, _ := r.do(http.MethodGet, "/healthz", "", nil); code != http.StatusOK {
		t.Errorf("without a server: /healthz %d", code)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	for name, cfg := range map[string]Config{
		"no connection": {Splits: []string{"orders"}},
		"no split":      {Conn: nc},
		"a bad name":    {Conn: nc, Splits: []string{"a.b"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New accepts it", name)
		}
	}
}

// A message through the gateway, HTTP connection kept, against the publish with
// acknowledgement that it wraps.
func BenchmarkPublish(b *testing.B) {
	r := start(b)
	r.divide()
	b.Run("baseline=jetstream", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.js.Publish(b.Context(), "orders.east", []byte("one order")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("gateway", func(b *testing.B) {
		for b.Loop() {
			if code, _, body := r.do(http.MethodPost, "/v1/splits/orders", "one order", nil); code != http.StatusAccepted {
				b.Fatal(code, body)
			}
		}
	})
}
