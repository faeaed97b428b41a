package handlers

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"ballast/fleet"
)

const (
	tickEvery = time.Second
	// writeLimit is how long a viewer may take for one write before it is dropped.
	writeLimit = 10 * time.Second
	// perSession is the number of streams that a browser may hold over HTTP/1.x:
	// it opens six connections to a host at most, and a seventh would hang whole pages.
	perSession   = 4
	maxStreams   = 500
	maxTopics    = 8 // of one stream
	maxTopicName = 200
)

// Topics of the live stream. Every page follows the frame: badges and the alerts
// above the page.
const (
	topicFrame       = "frame"
	topicOverview    = "overview"
	topicSplits      = "splits"
	topicSplit       = "split" // split:NAME
	topicSuggestions = "suggestions"
	topicJournal     = "journal"
	topicFindings    = "findings" // findings:QUERY of the list's URL
	topicConsumer    = "consumer" // consumer:QUERY that names it
	topicSettings    = "settings" // settings:QUERY that names the consumer
	topicFold        = "fold"     // fold:QUERY that names it
	topicServer      = "server"   // server:QUERY that names it
	topicStream      = "stream"   // stream:QUERY that names it
	topicAccount     = "account"  // account:QUERY that names it
	topicService     = "service"  // service:QUERY that names it
	topicCost        = "cost"
)

// update is what a topic shows at one moment.
type update struct {
	// Text goes into the elements with data-k of that key.
	Text map[string]string
	// Attr sets attributes: "element-id attribute" to value. The island takes
	// only attributes of its short list.
	Attr map[string]string
	// Parts are morphed into the elements with that id, when their shape changed.
	Parts map[string]part
	// Data is handed to the page's islands as it is.
	Data any
}

// part is markup of a live page. Its shape is everything of it that Text and Attr
// do not bring up to date; "" stands for the markup itself.
type part struct {
	templ.Component
	shape string
}

// topicFunc computes a topic; arg is what stands after the colon in its name.
type topicFunc func(ctx context.Context, arg string) (update, error)

// topics are the kinds of topics by name.
func (s *Server) topics() map[string]topicFunc {
	return map[string]topicFunc{
		topicFrame:       s.frameTopic,
		topicTopology:    s.topologyTopic,
		topicOverview:    s.overviewTopic,
		topicSplits:      s.splitsTopic,
		topicSplit:       s.splitTopic,
		topicSuggestions: s.suggestionsTopic,
		topicJournal:     s.journalTopic,
		topicFindings:    s.findingsTopic,
		topicConsumer:    s.consumerTopic,
		topicSettings:    s.settingsTopic,
		topicFold:        s.foldTopic,
		topicServer:      s.serverTopic,
		topicStream:      s.streamTopic,
		topicAccount:     s.accountTopic,
		topicService:     s.serviceTopic,
		topicCost:        s.costTopic,

		serverPages.id:        serverPages.topic(s),
		streamPages.id:        streamPages.topic(s),
		consumerPages.id:      consumerPages.topic(s),
		connectionPages.id:    connectionPages.topic(s),
		connectionSumPages.id: connectionSumPages.topic(s),
		accountPages.id:       accountPages.topic(s),
		servicePages.id:       servicePages.topic(s),
	}
}

// hub renders each followed topic once a second, for all its viewers together.
type hub struct {
	s     *Server
	kinds map[string]topicFunc

	mu       sync.Mutex        // guards all below
	topics   map[string]*topic // by name, those with viewers
	viewers  map[*viewer]bool
	running  bool
	stopped  chan struct{} // closed when run ends
	sequence uint64        // of ticks
}

// topic is the newest state of a topic and what its last tick changed.
type topic struct {
	users   int
	seq     uint64 // of the tick in which it was last computed; 0 before the first
	text    map[string]string
	attr    map[string]string
	full    []byte // tick with everything
	delta   []byte // tick with what changed since seq-1
	parts   map[string]livePart
	lastErr string
}

type livePart struct {
	html  []byte // as it is now
	shape string
	seq   uint64 // of the last change of its shape
}

// viewer is one open stream.
type viewer struct {
	session string
	topics  []string
	wake    chan struct{} // length 1: a slow viewer misses ticks and holds up nobody
	evicted chan struct{}
	since   time.Time
}

func newHub(s *Server) *hub {
	return &hub{s: s, kinds: s.topics(), topics: map[string]*topic{}, viewers: map[*viewer]bool{}, stopped: make(chan struct{})}
}

func (h *hub) run(ctx context.Context) error {
	h.mu.Lock()
	h.running, h.stopped = true, make(chan struct{})
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.running = false
		close(h.stopped)
		h.mu.Unlock()
	}()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.tick(ctx)
		}
	}
}

// tick computes every topic that somebody follows and wakes the viewers.
func (h *hub) tick(ctx context.Context) {
	h.mu.Lock()
	names := slices.Sorted(maps.Keys(h.topics))
	h.mu.Unlock()
	if len(names) == 0 {
		return
	}
	h.mu.Lock()
	h.sequence++
	seq := h.sequence
	h.mu.Unlock()
	for _, name := range names {
		h.compute(ctx, name, seq)
	}
	h.mu.Lock()
	for v := range h.viewers {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
	h.mu.Unlock()
}

// tickMessage is the JSON of a tick event.
type tickMessage struct {
	Now  int64             `json:"now"` // milliseconds, our clock
	At   int64             `json:"at"`  // of the figures; 0 before the first look
	Text map[string]string `json:"v,omitempty"`
	Attr map[string]string `json:"a,omitempty"`
	Data any               `json:"d,omitempty"`
}

// compute renders one topic. What cannot be computed is left as it was: the
// page's age tells the viewer that it is old.
func (h *hub) compute(ctx context.Context, name string, seq uint64) {
	kind, arg, _ := strings.Cut(name, ":")
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	up, err := h.kinds[kind](ctx, arg)
	h.mu.Lock()
	t := h.topics[name]
	h.mu.Unlock()
	if t == nil {
		return // its last viewer left meanwhile
	}
	if err != nil {
		if ctx.Err() == nil && err.Error() != t.lastErr {
			h.s.Log.WarnContext(ctx, "live topic cannot be computed", "topic", name, "err", err)
		}
		h.mu.Lock()
		t.lastErr = err.Error()
		h.mu.Unlock()
		return
	}
	parts := make(map[string]livePart, len(up.Parts))
	for id, p := range up.Parts {
		b, err := markup(ctx, p)
		if err != nil {
			h.s.Log.ErrorContext(ctx, "live part cannot be rendered", "topic", name, "part", id, "err", err)
			return
		}
		if p.shape == "" {
			p.shape = string(b)
		}
		parts[id] = livePart{b, p.shape, seq}
	}
	msg := tickMessage{Now: h.s.Now().UnixMilli(), Data: up.Data}
	if at := h.s.Metrics.Latest().TakenAt; !at.IsZero() {
		msg.At = at.UnixMilli()
	}
	msg.Text, msg.Attr = up.Text, up.Attr
	full, err := json.Marshal(msg)
	if err != nil {
		h.s.Log.ErrorContext(ctx, "live topic cannot be encoded", "topic", name, "err", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	msg.Text, msg.Attr = changed(t.text, up.Text), changed(t.attr, up.Attr)
	delta, err := json.Marshal(msg)
	if err != nil {
		h.s.Log.ErrorContext(ctx, "live topic cannot be encoded", "topic", name, "err", err)
		return
	}
	t.seq, t.full, t.delta = seq, full, delta
	t.text, t.attr, t.lastErr = up.Text, up.Attr, ""
	for id, p := range parts {
		if old, ok := t.parts[id]; ok && old.shape == p.shape {
			p.seq = old.seq
			parts[id] = p
		}
	}
	t.parts = parts
}

func changed(old, new map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range new {
		if o, ok := old[k]; !ok || o != v {
			out[k] = v
		}
	}
	return out
}

// join adds a viewer; over HTTP/1.x the oldest stream of the same session has to
// go when there are too many.
func (h *hub) join(v *viewer, http1 bool) (stopped <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.running {
		return nil, &fleet.Error{Kind: fleet.Unavailable, Msg: "The live stream is not running.", Hint: "The console is starting or stopping; it reconnects by itself."}
	}
	if len(h.viewers) >= maxStreams {
		return nil, &fleet.Error{Kind: fleet.Unavailable, Msg: "Too many live pages are open.", Hint: fmt.Sprintf("The limit is %d.", maxStreams)}
	}
	if http1 {
		var mine []*viewer
		for o := range h.viewers {
			if o.session == v.session {
				mine = append(mine, o)
			}
		}
		slices.SortFunc(mine, func(a, b *viewer) int { return a.since.Compare(b.since) })
		for len(mine) >= perSession {
			close(mine[0].evicted)
			h.drop(mine[0])
			mine = mine[1:]
		}
	}
	h.viewers[v] = true
	for _, name := range v.topics {
		if h.topics[name] == nil {
			h.topics[name] = &topic{}
		}
		h.topics[name].users++
	}
	return h.stopped, nil
}

func (h *hub) leave(v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(v)
}

// drop is called with mu held.
func (h *hub) drop(v *viewer) {
	if !h.viewers[v] {
		return
	}
	delete(h.viewers, v)
	for _, name := range v.topics {
		t := h.topics[name]
		if t.users--; t.users == 0 {
			delete(h.topics, name)
		}
	}
}

// pending returns the events that bring a viewer from what it has to now: a
// delta if it has the tick before, else everything.
func (h *hub) pending(v *viewer, seen map[string]uint64) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out bytes.Buffer
	for _, name := range v.topics {
		t := h.topics[name]
		if t == nil || t.seq == 0 || t.seq == seen[name] {
			continue
		}
		// Parts first: the figures of the tick then find their elements.
		var parts bytes.Buffer
		for _, id := range slices.Sorted(maps.Keys(t.parts)) {
			if p := t.parts[id]; p.seq > seen[name] {
				fmt.Fprintf(&parts, `<hx-partial hx-target="#%s" hx-swap="innerMorph">`, templ.EscapeString(id))
				parts.Write(p.html)
				parts.WriteString("</hx-partial>")
			}
		}
		if parts.Len() > 0 {
			event(&out, "", parts.Bytes())
		}
		if seen[name] == t.seq-1 && seen[name] != 0 && parts.Len() == 0 {
			event(&out, "tick", t.delta)
		} else {
			event(&out, "tick", t.full)
		}
		seen[name] = t.seq
	}
	return out.Bytes()
}

// event writes one server-sent event; data is split at its line ends.
func event(w *bytes.Buffer, name string, data []byte) {
	if name != "" {
		w.WriteString("event: " + name + "\n")
	}
	for line := range bytes.SplitSeq(bytes.ReplaceAll(data, []byte("\r"), nil), []byte("\n")) {
		w.WriteString("data: ")
		w.Write(line)
		w.WriteByte('\n')
	}
	w.WriteByte('\n')
}

// live is the one stream of a page.
func (s *Server) live(c echo.Context) error {
	names, err := s.followed(c.QueryParam("topics"))
	if err != nil {
		return err
	}
	r := c.Request()
	v := &viewer{session: sessionOf(c), topics: names, wake: make(chan struct{}, 1), evicted: make(chan struct{}), since: time.Now()}
	stopped, err := s.hub.join(v, r.ProtoMajor < 2)
	if err != nil {
		return err
	}
	defer s.hub.leave(v)

	w := c.Response()
	w.Header().Set(echo.HeaderContentType, "text/event-stream")
	w.Header().Set(echo.HeaderCacheControl, "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	ctl := http.NewResponseController(w.Writer)
	send := func(b []byte) error {
		// A server without deadlines (a test's recorder) is no reason to refuse.
		_ = ctl.SetWriteDeadline(time.Now().Add(writeLimit))
		if _, err := w.Write(b); err != nil {
			return err
		}
		w.Flush()
		return nil
	}
	var hello bytes.Buffer
	body, err := json.Marshal(map[string]any{"build": s.build, "now": s.Now().UnixMilli()})
	if err != nil {
		return fmt.Errorf("encode hello: %w", err)
	}
	event(&hello, "hello", body)
	if send(hello.Bytes()) != nil {
		return nil // the viewer left; there is nobody to tell
	}
	seen := map[string]uint64{}
	idle := time.NewTicker(15 * time.Second)
	defer idle.Stop()
	for {
		var b []byte
		select {
		case <-r.Context().Done():
			return nil
		case <-stopped:
			return nil
		case <-v.evicted:
			var bye bytes.Buffer
			event(&bye, "evicted", []byte("{}"))
			_ = send(bye.Bytes())
			return nil
		case <-idle.C:
			b = []byte(":\n\n")
		case <-v.wake:
			b = s.hub.pending(v, seen)
		}
		if len(b) > 0 && send(b) != nil {
			return nil
		}
	}
}

// followed checks the names of topics: only known kinds, and few.
func (s *Server) followed(q string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(q, ",") {
		kind, _, _ := strings.Cut(name, ":")
		if s.hub.kinds[kind] == nil || len(name) > maxTopicName {
			return nil, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such live topic.", Hint: "Reload the page."}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > maxTopics {
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "Too many live topics for one page.", Hint: fmt.Sprintf("The limit is %d.", maxTopics)}
	}
	return names, nil
}

const sessionCookie = "ballast_tab"

// sessionOf tells browsers apart, to share out their streams. It grants nothing.
func sessionOf(c echo.Context) string {
	if k, err := c.Cookie(sessionCookie); err == nil && len(k.Value) == 32 {
		return k.Value
	}
	var b [16]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	c.SetCookie(&http.Cookie{Name: sessionCookie, Value: id, Path: "/live", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return id
}
