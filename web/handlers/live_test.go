package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"ballast/fleet"
	"ballast/internal/wait"
	"ballast/traffic"
)

// station is a running console over real HTTP.
type station struct {
	*httptest.Server
	s    *Server
	w    *world
	stop context.CancelFunc
}

func newStation(tb testing.TB, w *world) *station {
	tb.Helper()
	s := New(w.deps())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	wait.For(tb, 30*time.Second, "the hub to run", func() bool { s.hub.mu.Lock(); defer s.hub.mu.Unlock(); return s.hub.running })
	srv := httptest.NewServer(s.Handler())
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Run = %v, want nil after its context ended", err)
		}
		srv.Close() // waits for the streams
	})
	return &station{srv, s, w, cancel}
}

// listener is one open stream.
type listener struct {
	tb     testing.TB
	resp   *http.Response
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// listen opens a stream as a browser with that cookie does; "" is a new browser.
func (st *station) listen(tb testing.TB, topics, session string) *listener {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", st.URL+"/live?topics="+topics, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if session != "" {
		r.AddCookie(&http.Cookie{Name: sessionCookie, Value: session})
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		tb.Fatalf("open /live: %v", err)
	}
	tb.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	return &listener{tb, resp, lines, cancel}
}

// next returns the next event; ok is false when the stream has ended.
func (l *listener) next() (name, data string, ok bool) {
	for l.lines.Scan() {
		line := l.lines.Text()
		switch {
		case line == "" && (name != "" || data != ""):
			return name, data, true
		case strings.HasPrefix(line, "event: "):
			name = line[7:]
		case strings.HasPrefix(line, "data: "):
			data += line[6:] + "\n"
		}
	}
	return "", "", false
}

// until reads on to the first event that fits.
func (l *listener) until(what string, ok func(name, data string) bool) string {
	l.tb.Helper()
	for {
		name, data, open := l.next()
		if !open {
			l.tb.Fatalf("the stream ended before %s: %v", what, l.lines.Err())
		}
		if ok(name, data) {
			return data
		}
	}
}

func (l *listener) tick(key string) tickMessage {
	l.tb.Helper()
	var m tickMessage
	l.until("a tick with "+key, func(name, data string) bool {
		m = tickMessage{}
		if name != "tick" {
			return false
		}
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			l.tb.Fatalf("tick %q: %v", data, err)
		}
		_, there := m.Text[key]
		return there
	})
	return m
}

func TestLiveStream(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newStation(t, w)
	l := st.listen(t, "frame,split:orders", "")
	if l.resp.StatusCode != 200 || l.resp.Header.Get("Content-Type") != "text/event-stream" || l.resp.Header.Get("Content-Encoding") != "" || l.resp.Header.Get("Content-Security-Policy") != csp {
		t.Fatalf("/live = %d %v", l.resp.StatusCode, l.resp.Header)
	}
	name, data, _ := l.next()
	var hello struct{ Build string }
	if err := json.Unmarshal([]byte(data), &hello); name != "hello" || err != nil || hello.Build != st.s.build {
		t.Fatalf("the first event is %s %q", name, data)
	}
	m := l.tick("orders/worker-east-1/p99")
	if m.Text["orders/worker-east-1/obs"] != "60" || m.Attr["bar/orders/worker-east-1 width"] != "59.9" || m.At != w.snap.TakenAt.UnixMilli() {
		t.Errorf("the tick is %+v", m)
	}
	// The second tick says only what changed.
	w.mu.Lock()
	l2 := w.load["worker-east-1"]
	l2.pending = 4321
	load := map[string]load{}
	for k, v := range w.load {
		load[k] = v
	}
	load["worker-east-1"] = l2
	w.load = load
	w.mu.Unlock()
	m = l.tick("orders/worker-east-1/backlog")
	if m.Text["orders/worker-east-1/backlog"] != "4,321" {
		t.Errorf("backlog = %q", m.Text["orders/worker-east-1/backlog"])
	}
	if _, again := m.Text["orders/worker-west-1/p99"]; again {
		t.Error("a figure that did not change was sent again")
	}
}

// Whoever joins later gets everything at once, also markup.
func TestALateViewerGetsEverything(t *testing.T) {
	t.Parallel()
	st := newStation(t, newWorld())
	first := st.listen(t, "split:orders", "")
	first.tick("orders/worker-east-1/p99")
	late := st.listen(t, "split:orders", "")
	part := late.until("the markup", func(name, data string) bool { return name == "" })
	if !strings.Contains(part, `<hx-partial hx-target="#target-rows" hx-swap="innerMorph">`) || !strings.Contains(part, "worker-west-1") {
		t.Errorf("markup %q", part)
	}
	late.tick("orders/worker-west-1/p99")
}

// Markup is sent when more than its figures changed, and only then.
func TestMarkupIsSentWhenItsShapeChanges(t *testing.T) {
	t.Parallel()
	w := newWorld()
	h := newHub(New(w.deps()))
	h.running = true
	v := &viewer{topics: []string{"split:orders"}, wake: make(chan struct{}, 1), evicted: make(chan struct{})}
	if _, err := h.join(v, true); err != nil {
		t.Fatal(err)
	}
	seen := map[string]uint64{}
	send := func() string { h.tick(t.Context()); return string(h.pending(v, seen)) }
	if out := send(); !strings.Contains(out, "target-rows") {
		t.Errorf("the first answer has no markup: %q", out)
	}
	east := w.load["worker-east-1"]
	east.pending++
	w.load["worker-east-1"] = east
	if out := send(); strings.Contains(out, "hx-partial") || !strings.Contains(out, "813") {
		t.Errorf("a figure alone sent %q", out)
	}
	w.changes[0].Phase = traffic.Baking
	if out := send(); !strings.Contains(out, "split-changes") || strings.Contains(out, "target-rows") {
		t.Errorf("a change of phase sent %q", out)
	}
	// A viewer that missed a tick gets the whole of the next one.
	h.tick(t.Context())
	if out := send(); !strings.Contains(out, "orders/worker-west-1/p99") {
		t.Errorf("after a missed tick: %q", out)
	}
	h.leave(v)
	h.leave(v)
	if len(h.topics) != 0 || len(h.viewers) != 0 {
		t.Errorf("%d topics and %d viewers are left", len(h.topics), len(h.viewers))
	}
}

// All viewers share one computation of a topic.
func TestViewersShareOneComputation(t *testing.T) {
	t.Parallel()
	w := newWorld()
	h := newHub(New(w.deps()))
	h.running = true
	n := 0
	h.kinds["counted"] = func(context.Context, string) (update, error) { n++; return update{}, nil }
	for range 50 {
		if _, err := h.join(&viewer{session: fmt.Sprint(n), topics: []string{"counted"}, wake: make(chan struct{}, 1), evicted: make(chan struct{})}, false); err != nil {
			t.Fatal(err)
		}
	}
	h.tick(t.Context())
	if n != 1 {
		t.Errorf("50 viewers made %d computations", n)
	}
}

func TestABrowserHoldsFourStreams(t *testing.T) {
	t.Parallel()
	st := newStation(t, newWorld())
	session := strings.Repeat("a", 32)
	var all []*listener
	for range perSession + 1 {
		l := st.listen(t, "frame", session)
		l.until("hello", func(name, _ string) bool { return name == "hello" })
		all = append(all, l)
	}
	other := st.listen(t, "frame", "")
	all[0].until("the eviction", func(name, _ string) bool { return name == "evicted" })
	if _, _, open := all[0].next(); open {
		t.Error("the evicted stream goes on")
	}
	all[1].tick("nav.suggestions")
	all[perSession].tick("nav.suggestions")
	other.tick("nav.suggestions")
}

func TestAStreamEndsWithItsViewerAndWithTheConsole(t *testing.T) {
	t.Parallel()
	st := newStation(t, newWorld())
	gone, stays := st.listen(t, "frame", ""), st.listen(t, "frame", "")
	count := func() int { st.s.hub.mu.Lock(); defer st.s.hub.mu.Unlock(); return len(st.s.hub.viewers) }
	wait.For(t, 30*time.Second, "two viewers", func() bool { return count() == 2 })
	gone.cancel()
	wait.For(t, 30*time.Second, "the viewer that left to be gone", func() bool { return count() == 1 })
	st.stop()
	for _, _, open := stays.next(); open; _, _, open = stays.next() {
	}
	wait.For(t, 30*time.Second, "all to be gone", func() bool { return count() == 0 })
	if l := st.listen(t, "frame", ""); l.resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the end /live = %d", l.resp.StatusCode)
	}
}

func TestLiveRefusesUnknownTopics(t *testing.T) {
	t.Parallel()
	st := newStation(t, newWorld())
	for topics, want := range map[string]int{"": 404, "nothing": 404, "frame,nothing": 404, "split:" + strings.Repeat("x", 300): 404,
		"split:a,split:b,split:c,split:d,split:e,split:f,split:g,split:h,split:i": 422} {
		if l := st.listen(t, topics, ""); l.resp.StatusCode != want {
			t.Errorf("topics %q = %d, want %d", topics, l.resp.StatusCode, want)
		}
	}
}

// A topic that cannot be computed leaves the others alone.
func TestABrokenTopicLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.metricsErr = &fleet.Error{Kind: fleet.Unavailable, Msg: "The store does not answer."}
	st := newStation(t, w)
	st.listen(t, "split:orders,split:none,frame", "").tick("nav.suggestions")
}

// A topic's data must not be able to break out of its event.
func TestEventsKeepTheirLines(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.bake()
	w.changes[0].Split = "a\n\nevent: evicted\ndata: x\r\n"
	st := newStation(t, w)
	l := st.listen(t, "frame", "")
	l.tick("nav.suggestions")
	if name, _, _ := l.next(); name == "evicted" {
		t.Error("a name made an event")
	}
}

func BenchmarkTickOfASplit(b *testing.B) {
	h := newHub(New(newWorld().deps()))
	h.running = true
	if _, err := h.join(&viewer{topics: []string{"frame", "split:orders"}, wake: make(chan struct{}, 1), evicted: make(chan struct{})}, true); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h.tick(b.Context())
	}
}

// Lists are not redrawn under the reader: their topics only say that there is
// something new, in the words that the page was drawn with.
func TestListsSayThatTheyHaveChanged(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	for path, topic := range map[string]string{"/": topicOverview, "/splits/orders": topicSplit + ":orders", "/suggestions": topicSuggestions, "/journal": topicJournal} {
		kind, arg, _ := strings.Cut(topic, ":")
		now := func() string {
			up, err := st.s.topics()[kind](t.Context(), arg)
			if err != nil {
				t.Fatalf("%s: %v", topic, err)
			}
			return up.Data.(whole).Whole
		}
		drawn := attr(find(st.get(path).doc, func(n *html.Node) bool { return has(n, "data-whole") }), "data-whole")
		if drawn != now() {
			t.Errorf("%s was drawn as %q, its stream says %q: it would load again and again", path, drawn, now())
		}
	}
	before := st.s.suggestionsShape()
	w.proposals[0].Status = traffic.Dismissed
	if st.s.suggestionsShape() == before {
		t.Error("a dismissed suggestion changed nothing")
	}
}
