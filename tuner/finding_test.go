package tuner

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

var day0 = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

// course feeds looks 5 s apart: one of a server that is in lame duck mode or not.
type lookbook struct {
	f       *Findings
	at      time.Time
	changed []fleet.Finding
	events  []fleet.Event
}

func (l *lookbook) next(bad bool, measured time.Time) {
	l.at = l.at.Add(5 * time.Second)
	if measured.IsZero() {
		measured = l.at
	}
	s := fleet.Server{ID: "A", Name: "n1", State: fleet.Healthy, At: measured, Now: measured, Start: day0.Add(-time.Hour)}
	if bad {
		s.State = fleet.LameDuck
	}
	c, e := l.f.Inspect(fleet.Look{At: l.at, Interval: 5 * time.Second, Snapshot: &fleet.Snapshot{TakenAt: l.at, Servers: []fleet.Server{s}}}, nil, nil)
	l.changed, l.events = append(l.changed, c...), append(l.events, e...)
}

func (l *lookbook) feed(course string) {
	for _, r := range course {
		l.next(r == 'x', time.Time{})
	}
}

func (l *lookbook) kinds() string {
	var out []string
	for _, e := range l.events {
		out = append(out, strings.TrimPrefix(e.Kind, "finding."))
	}
	return strings.Join(out, " ")
}

func newLookbook(cfg FindingsConfig) *lookbook { return &lookbook{f: NewFindings(cfg), at: day0} }

func TestFindingsOpenAfterThreeCloseAfterTwo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ course, events string }{
		{"xx", ""},
		{"xx.xx.xx", ""},
		{"xxx", "opened"},
		{"xxx.", "opened"},
		{"xxx.x.x.x.", "opened"},
		{"xxx..", "opened closed"},
		{".....", ""},
		{"xxx..xxx", "opened closed reopened"},
		{"xxx..xxx..", "opened closed reopened"},          // four good ones now
		{"xxx..xxx....", "opened closed reopened closed"}, // here they are
	} {
		l := newLookbook(FindingsConfig{})
		l.feed(c.course)
		if got := l.kinds(); got != c.events {
			t.Errorf("%s gave events %q, want %q", c.course, got, c.events)
		}
	}
}

func TestFindingsDate(t *testing.T) {
	t.Parallel()
	l := newLookbook(FindingsConfig{})
	l.feed("..xxxx")
	open := l.f.Open()
	if len(open) != 1 || !open[0].Since.Equal(day0.Add(15*time.Second)) || !open[0].LastSeen.Equal(day0.Add(30*time.Second)) {
		t.Fatalf("open = %+v, want one since the first bad measurement", open)
	}
	l.feed("..")
	last := l.changed[len(l.changed)-1]
	if !last.Closed.Equal(day0.Add(40*time.Second)) || len(l.f.Open()) != 0 {
		t.Fatalf("closed = %v", last.Closed)
	}
	l.feed("xxx")
	if last = l.changed[len(l.changed)-1]; !last.Since.Equal(open[0].Since) || last.Reopened != 1 || !last.Open() {
		t.Errorf("came back as %+v, want the same episode, reopened once", last)
	}
}

// A measurement counts once: neither repetition nor silence opens or closes.
func TestFindingsIgnoreWhatIsNotNew(t *testing.T) {
	t.Parallel()
	l := newLookbook(FindingsConfig{})
	old := day0.Add(time.Second)
	for range 10 {
		l.next(true, old)
	}
	if len(l.events) != 0 {
		t.Fatalf("one measurement shown ten times gave %v", l.events)
	}
	l.feed("xx")
	if l.kinds() != "opened" {
		t.Fatalf("three measurements gave %q", l.kinds())
	}
	silent := func() {
		l.at = l.at.Add(5 * time.Second)
		s := fleet.Server{ID: "A", Name: "n1", State: fleet.Unread}
		_, e := l.f.Inspect(fleet.Look{At: l.at, Snapshot: &fleet.Snapshot{TakenAt: l.at, Servers: []fleet.Server{s}}}, nil, nil)
		for _, e := range e {
			if strings.HasPrefix(e.Text, "SRV002") {
				l.events = append(l.events, e)
			}
		}
	}
	for range 10 {
		silent()
	}
	if l.kinds() != "opened" {
		t.Errorf("silence gave %q", l.kinds())
	}
	if c, e := l.f.Inspect(fleet.Look{At: l.at.Add(time.Second), Snapshot: &fleet.Snapshot{TakenAt: l.at}}, nil, nil); c != nil || e != nil {
		t.Error("the same snapshot was judged twice")
	}
}

func TestFindingsOfWhatIsGoneClose(t *testing.T) {
	t.Parallel()
	l := newLookbook(FindingsConfig{})
	l.feed("xxx")
	for range 2 {
		l.at = l.at.Add(5 * time.Second)
		_, e := l.f.Inspect(fleet.Look{At: l.at, Snapshot: &fleet.Snapshot{TakenAt: l.at}}, nil, nil)
		l.events = append(l.events, e...)
	}
	if l.kinds() != "opened closed" {
		t.Errorf("a server that is forgotten gave %q", l.kinds())
	}
}

// A thing that goes to and fro for a day is told of a handful of times.
func TestFindingsFlapQuietly(t *testing.T) {
	t.Parallel()
	l := newLookbook(FindingsConfig{})
	for range 17280 / 5 {
		l.feed("xxx..")
	}
	if n := len(l.events); n > 8 {
		t.Errorf("a day of flapping made %d events: %s", n, l.kinds())
	}
	if open := l.f.Open(); len(open) != 1 {
		t.Errorf("open = %v, want it open all the time", open)
	}
	// The record got it once a minute, not at every look.
	if n := len(l.changed); n > 1500 {
		t.Errorf("%d rows were written in a day", n)
	}
}

func TestFindingsSuppressed(t *testing.T) {
	t.Parallel()
	l := newLookbook(FindingsConfig{})
	k := fleet.FindingKey{Code: "SRV002", Entity: fleet.Entity{Kind: fleet.KindServer, Key: "n1"}}
	s := fleet.Suppression{By: "ana", Reason: "planned", At: day0, Until: day0.Add(time.Minute)}
	if _, open := l.f.Suppress(k, s); open {
		t.Error("it is said to be open before anything was seen")
	}
	l.feed("xxx")
	if l.kinds() != "" || len(l.f.Open()) != 1 || l.f.Open()[0].Suppressed != s {
		t.Fatalf("events %q, open %+v; want it open, marked and quiet", l.kinds(), l.f.Open())
	}
	l.feed("..xxx..") // closes and comes back, all in quiet
	if l.kinds() != "" {
		t.Errorf("a suppressed finding told %q", l.kinds())
	}
	// Its time is over: the mark goes, and what happens next is told.
	n := len(l.changed)
	l.feed("xxxx")
	if open := l.f.Open(); len(open) != 1 || open[0].Suppressed.By != "" || len(l.changed) == n {
		t.Errorf("after the end: %+v, %d changes", open, len(l.changed)-n)
	}
	l.feed("....")
	if l.kinds() != "closed" {
		t.Errorf("after the end it told %q", l.kinds())
	}
	l.feed("xxx")
	if f, open := l.f.Suppress(k, s); !open || f.Suppressed != s {
		t.Errorf("Suppress = %+v, %v; want the open finding", f, open)
	}
	if f, _ := l.f.Suppress(k, fleet.Suppression{}); f.Suppressed.By != "" {
		t.Error("the suppression was not lifted")
	}
}

func TestFindingsSurviveARestart(t *testing.T) {
	t.Parallel()
	l := newLookbook(FindingsConfig{})
	l.feed("xxx")
	k := l.f.Open()[0].FindingKey
	next := newLookbook(FindingsConfig{})
	next.at = l.at
	next.f.Restore(fleet.FindingState{Open: l.f.Open(), Suppressions: map[fleet.FindingKey]fleet.Suppression{
		k: {By: "ana", Reason: "x", At: day0, Until: day0.Add(25 * time.Second)},
	}})
	next.feed("x")
	if next.kinds() != "" || !reflect.DeepEqual(next.f.Open()[0].Since, l.f.Open()[0].Since) || next.f.Open()[0].Suppressed.By != "ana" {
		t.Fatalf("after a restart: events %q, open %+v", next.kinds(), next.f.Open())
	}
	next.feed("..")
	if next.kinds() != "closed" {
		t.Errorf("after a restart it told %q, want that it closed", next.kinds())
	}
}

func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{Max: 10})
	for i := range 4 {
		at := day0.Add(time.Duration(i) * time.Second)
		s := fleet.Snapshot{TakenAt: at}
		for n := range 50 {
			s.Servers = append(s.Servers, fleet.Server{ID: fmt.Sprint(n), Name: fmt.Sprintf("n%02d", n), State: fleet.LameDuck, At: at, Now: at})
		}
		f.Inspect(fleet.Look{At: at, Snapshot: &s}, nil, nil)
	}
	if len(f.Open()) != 10 || f.Omitted() != 40 {
		t.Errorf("%d open, %d omitted; want 10 and 40", len(f.Open()), f.Omitted())
	}
}

// The order of streams and consumers, and of Go's maps, decides nothing.
func TestFindingsAreDeterministic(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (out []string) {
		rng := rand.New(rand.NewPCG(seed, 1))
		f := NewFindings(FindingsConfig{})
		for i := range 8 {
			s := disturbed(day0.Add(time.Duration(i)*5*time.Second), uint64(i)*2000)
			rng.Shuffle(len(s.Streams), func(i, j int) { s.Streams[i], s.Streams[j] = s.Streams[j], s.Streams[i] })
			rng.Shuffle(len(s.Consumers), func(i, j int) { s.Consumers[i], s.Consumers[j] = s.Consumers[j], s.Consumers[i] })
			changed, events := f.Inspect(fleet.Look{At: s.TakenAt, Snapshot: s}, nil, nil)
			for _, c := range changed {
				out = append(out, fmt.Sprintf("%+v", c))
			}
			for _, e := range events {
				out = append(out, fmt.Sprintf("%+v", e))
			}
		}
		return out
	}
	want := run(1)
	if len(want) < 20 {
		t.Fatalf("only %d words: the test shows nothing", len(want))
	}
	for seed := uint64(2); seed < 12; seed++ {
		if got := run(seed); !slices.Equal(got, want) {
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Fatalf("seed %d differs:\n%s\n%s", seed, got[i], want[i])
				}
			}
			t.Fatalf("seed %d: %d words, want %d", seed, len(got), len(want))
		}
	}
}

// disturbed is a system in which a lot is wrong.
func disturbed(at time.Time, n uint64) *fleet.Snapshot {
	s := &fleet.Snapshot{TakenAt: at, Expected: 5}
	for i, name := range []string{"n1", "n2", "n3"} {
		s.Servers = append(s.Servers, fleet.Server{
			ID: "ID" + name, Name: name, Cluster: "c", State: fleet.Healthy, At: at, Now: at.Add(time.Duration(i) * time.Minute), Start: day0,
			Version: []string{"2.10.20", "2.15.2", "2.12.1"}[i], Cores: 2, CPU: 195, Conns: 1 + 99*(i/2), SlowConsumers: n,
			JetStream: &fleet.JetStream{Store: 99, MaxStore: 100, Memory: 90, MaxMemory: 100, MetaSize: 3, APITotal: n, APIErrors: n / 2},
		})
	}
	for i := range 12 {
		name := fmt.Sprintf("S%02d", i)
		s.Streams = append(s.Streams, fleet.Stream{StreamKey: fleet.StreamKey{Account: "A", Stream: name}, At: at, Leader: "n1", Replicas: 3, Retention: "limits",
			Peers: []fleet.Replica{{Name: "n2", Offline: true}, {Name: "n3", Lag: 5000}}, Messages: n, LastSeq: n})
		s.Consumers = append(s.Consumers, fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: name, Consumer: "c"}, At: at, Leader: "n1", Created: day0,
			Pending: n + 2000, AckPending: 100, MaxAckPending: 100, Redelivered: 50, AckPolicy: "explicit"})
	}
	return s
}

func TestCommandsAreSafeForAShell(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ORDERS", "it's", "$(reboot)", "`reboot`", "a b", "a;b", "a\"b", "a|b", "~", "*", "ü", "-rf", "--help", "x=1", "!!", "#x", ""} {
		line := about("printf %s\\n", name)
		out, err := exec.Command("sh", "-c", strings.Replace(line, "printf %s\\n", `printf '%s\n'`, 1)).Output()
		if err != nil {
			t.Fatalf("sh -c %q: %v", line, err)
		}
		_, got, found := strings.Cut(string(out), "--\n")
		if !found {
			got = string(out)
		}
		if got != name+"\n" {
			t.Errorf("a shell made %q of the name %q in %q", got, name, line)
		}
	}
	for _, name := range []string{"a\nb", "a\x1b[2Jb", "a\x00b", "\u202egnp", "a\u2028b"} {
		if line := about("nats stream info", name); line != "" {
			t.Errorf("a name that a terminal acts on made a command: %q", line)
		}
	}
	if got, want := about("nats stream info", "-x"), "nats stream info -- -x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRise(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{Window: 10 * time.Second})
	e := fleet.Entity{Kind: fleet.KindServer, Key: "n1"}
	at := func(s int) time.Time { return day0.Add(time.Duration(s) * time.Second) }
	for _, c := range []struct {
		s    int
		v    uint64
		rose uint64
	}{{0, 100, 0}, {5, 103, 3}, {8, 103, 3}, {14, 103, 3}, {20, 2, 2}, {24, 5, 5}} {
		if rose, _ := f.rise(e, "x", at(c.s), c.v); rose != c.rose {
			t.Errorf("at %d s: rose by %d, want %d", c.s, rose, c.rose)
		}
	}
}
