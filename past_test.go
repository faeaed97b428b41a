package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"ballast/fleet"
	"ballast/internal/wait"
	"ballast/store"
)

// seenAt is what some pages showed at one moment.
type seenAt struct {
	paths []string
	doc   map[string]any
	at    time.Time
	left  []string // how the past differed when it was compared last
	done  bool
}

// query is the moment in a URL.
func (p *seenAt) query() string { return "?at=" + url.QueryEscape(p.at.Format(time.RFC3339Nano)) }

// compare asks a console for the same pages as of the moment.
func (p *seenAt) compare(base string) bool {
	p.left = nil
	for _, path := range p.paths {
		code, body := tryGet(base + path + p.query())
		past, err := getAny(body)
		if code != http.StatusOK || err != nil {
			p.left = append(p.left, fmt.Sprintf("%s as of %s = %d: %.300s", path, p.at, code, body))
			continue
		}
		p.left = append(p.left, difference(path, p.doc[path], past)...)
	}
	return len(p.left) == 0
}

// look reads the pages, all of one round of the collector.
func (p *seenAt) look(t *testing.T, base string) bool {
	t.Helper()
	taken := func() time.Time {
		return getJSON[struct {
			At time.Time `json:"taken_at"`
		}](t, base+"/topology.json").At
	}
	before := taken()
	p.doc = map[string]any{}
	for _, path := range p.paths {
		doc, err := getAny(get(t, base+path))
		if err != nil {
			t.Fatal(err)
		}
		p.doc[path] = doc
	}
	p.at = taken()
	return p.at.Equal(before)
}

// What the pages showed at a moment they show again as of that moment, field by
// field: while all goes on, and from the data directory alone when NATS and the
// console that saw it are gone.
func TestThePastFromTheStoreAlone(t *testing.T) {
	t.Parallel()
	s := startSeparate(t)
	work := s.app(t)
	for id := range 2 {
		if _, err := work.QueueSubscribe("work.>", "workers", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		svc, err := micro.AddService(work, micro.Config{Name: "pay", Version: "1.2.3", Description: "takes money", Metadata: map[string]string{"region": fmt.Sprint("east-", id)},
			StatsHandler: func(*micro.Endpoint) any { return map[string]any{"cpu": 12.5, "memory": 1 << 20} }})
		if err != nil {
			t.Fatal(err)
		}
		if err := svc.AddEndpoint("charge", micro.HandlerFunc(func(r micro.Request) { _ = r.Respond(nil) })); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		if _, err := work.Request("charge", nil, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := work.Publish("work.a", nil); err != nil {
			t.Fatal(err)
		}
	}
	data := t.TempDir()
	console := s.console(t, data, "--monitor", fmt.Sprintf("https://127.0.0.1:%d", freePort(t))) // nobody answers there
	base := console.url(t)
	ready(t, base)
	p, _ := s.orders(t)
	createOrders(t, base, 70, 30)
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, p, 500)
	wait.For(t, time.Minute, "samples in the store", func() bool {
		d := getJSON[splitData](t, base+"/splits/orders.json")
		return len(d.Targets) == 2 && d.Targets[0].Samples > 0 && d.Targets[0].Acked > 0
	})
	// Lists are noted once a minute and read more often, each at its own time: each
	// group of pages has a moment of its own.
	all := []*seenAt{
		{paths: []string{"/consumers.json", "/servers.json", "/topology.json", "/streams.json", "/accounts.json", "/cost.json"}},
		{paths: []string{"/connections.json"}}, {paths: []string{"/connections/sums.json"}}, {paths: []string{"/services.json"}},
	}
	defer func() {
		for _, p := range all {
			if t.Failed() {
				t.Logf("differences: %s", strings.Join(p.left, "\n"))
			}
		}
	}()
	wait.For(t, 6*time.Minute, "moments of which everything is recorded", func() bool {
		left := 0
		for _, p := range all {
			if p.done = p.done || p.look(t, base) && p.compare(base); !p.done {
				left++
			}
		}
		return left == 0
	})
	for path, n := range map[string]int{"/connections.json": 4, "/connections/sums.json": 2, "/services.json": 2, "/cost.json": 3} {
		for _, p := range all {
			if doc, ok := p.doc[path].([]any); ok && len(doc) < n {
				t.Errorf("%s had %d rows, want at least %d", path, len(doc), n)
			}
		}
	}
	main := all[0]
	if problems := fmt.Sprint(main.doc["/topology.json"]); !strings.Contains(problems, "The monitoring port does not answer") {
		t.Errorf("a problem was to be seen: %.2000s", problems)
	}
	split := getJSON[splitData](t, base+"/splits/orders.json"+main.query())

	console.end(t, syscall.SIGTERM, 30*time.Second)
	s.proc.end(t, syscall.SIGKILL, 10*time.Second)
	alone := s.console(t, data)
	base = alone.url(t)
	for _, p := range all {
		if !p.compare(base) {
			t.Errorf("from the store alone %v differ", p.paths)
		}
	}
	again := getJSON[splitData](t, base+"/splits/orders.json"+main.query())
	if again.Revision.Number != 1 || again.Revision.Reason != "first weights" || len(again.Targets) != 2 {
		t.Fatalf("the split of then: %+v", again)
	}
	for i, target := range again.Targets {
		if target != split.Targets[i] {
			t.Errorf("target %s: %+v, was %+v", target.Name, target, split.Targets[i])
		}
	}
	for _, page := range []string{"/", "/topology", "/consumers", "/consumers/APP/ORDERS/a", "/splits", "/splits/orders", "/findings", "/journal", "/charts/server-cpu",
		"/connections", "/connections/sums", "/services", "/cost", "/streams", "/accounts/APP", "/servers/standalone", "/charts/service-requests?account=APP&service=pay"} {
		path, query, _ := strings.Cut(page, "?")
		body := string(get(t, base+path+main.query()+"&"+query))
		if !strings.Contains(body, "As it was at") || strings.Contains(body, "ot recorded") {
			t.Errorf("%s does not say that it is of the past, or that something is not recorded", page)
		}
	}
	if body := string(get(t, base+"/cost"+main.query())); !strings.Contains(body, "The monitoring port does not answer") {
		t.Error("the problem of then is not on the page of what watching costs")
	}
	for path, want := range map[string]string{
		"/export?kind=micro+service&key=APP%2Fpay&range=1h&format=csv":                                                             "requests_per_s",
		"/export?kind=endpoint&key=APP%2Fpay%2Fcharge&range=1h&format=json":                                                        `"serving":{"avg"`,
		"/export?kind=connections&key=standalone%2FAPP&range=1h&format=csv":                                                        "pending_B",
		"/export?kind=client+library&key=go+" + nats.Version + "&range=1h&format=json":                                             `"conns":{"avg"`,
		"/charts/connections.json?server=standalone&account=APP&range=1h":                                                          "subscriptions",
		"/charts/clients.json?range=1h&at=" + url.QueryEscape(all[2].at.Format(time.RFC3339Nano)):                                  "go " + nats.Version,
		"/charts/service-requests.json?account=APP&service=pay&range=1h&at=" + url.QueryEscape(all[3].at.Format(time.RFC3339Nano)): "charge",
	} {
		if body := string(get(t, base+path)); !strings.Contains(body, want) {
			t.Errorf("%s has no %s: %.500s", path, want, body)
		}
	}
	alone.end(t, syscall.SIGTERM, 30*time.Second)
	queuesOfThen(t, data, all[2].at)
}

// queuesOfThen looks at the queue groups, which only findings are made of.
func queuesOfThen(t *testing.T, data string, at time.Time) {
	t.Helper()
	db, err := store.Open(t.Context(), data, store.Options{Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	then, _, err := db.SnapshotAt(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(then.Queues, func(g fleet.QueueGroup) bool { return g.Subject == "work.>" && g.Queue == "workers" })
	if i < 0 {
		t.Fatalf("the queue groups of then: %+v", then.Queues)
	}
	g := then.Queues[i]
	msgs := uint64(0)
	for _, m := range g.Members {
		msgs += m.Msgs
	}
	if g.Account != "APP" || g.Total != 2 || len(g.Members) != 2 || msgs != 50 || g.Since.IsZero() || g.At.IsZero() {
		t.Errorf("the queue group of then: %+v", g)
	}
	if then.Expected != 1 || len(then.Problems) == 0 || !then.Intake.Whole() {
		t.Errorf("%d servers were expected, problems %v, intake %+v", then.Expected, then.Problems, then.Intake)
	}
}

func getAny(body []byte) (any, error) {
	var v any
	err := json.Unmarshal(body, &v)
	return v, err
}

// difference compares what a page showed with the same page as of then. Times
// are kept to the millisecond; splits have a window of their own, and when the
// last message of a stream came is not recorded.
func difference(path string, was, is any) (out []string) {
	switch was := was.(type) {
	case map[string]any:
		got, ok := is.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s was an object, is %v", path, is)}
		}
		for k, v := range was {
			if !slices.Contains([]string{"splits", "last_message_at"}, k) {
				out = append(out, difference(path+"."+k, v, got[k])...)
			}
		}
	case []any:
		got, ok := is.([]any)
		if !ok || len(got) != len(was) {
			return []string{fmt.Sprintf("%s was %v, is %v", path, was, is)}
		}
		for i := range was {
			out = append(out, difference(fmt.Sprintf("%s[%d]", path, i), was[i], got[i])...)
		}
	case string:
		got, _ := is.(string)
		a, errA := time.Parse(time.RFC3339, was)
		b, errB := time.Parse(time.RFC3339, got)
		if was != got && (errA != nil || errB != nil || !a.Truncate(time.Millisecond).Equal(b.Truncate(time.Millisecond))) {
			out = append(out, fmt.Sprintf("%s was %q, is %q", path, was, got))
		}
	default:
		if was != is {
			out = append(out, fmt.Sprintf("%s was %v, is %v", path, was, is))
		}
	}
	return out
}
