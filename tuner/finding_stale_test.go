package tuner

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

// ofTheMoment are the checks that judge by what is absent from a look, so that
// they need no new measurement of the thing itself.
var ofTheMoment = []string{"SRV001", "SRV012", "STR001", "CON007", "SPL002", "SPL003"}

// Figures that are not measured anew open nothing, however bad they are and
// however often they are shown.
func TestStaleDataOpensNothing(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	for i := range 50 {
		s := disturbed(day0, 5000)
		s.TakenAt = day0.Add(time.Duration(i) * 5 * time.Second)
		f.Inspect(fleet.Look{At: s.TakenAt, Interval: 5 * time.Second, Snapshot: s}, nil, nil)
	}
	for _, o := range f.Open() {
		if !slices.Contains(ofTheMoment, o.Code) {
			t.Errorf("%s of %s opened by one measurement shown 50 times", o.Code, o.Key)
		}
	}
	// The same figures, measured anew, do open.
	f = NewFindings(FindingsConfig{})
	for i := range 5 {
		s := disturbed(day0.Add(time.Duration(i)*5*time.Second), 5000+uint64(i))
		f.Inspect(fleet.Look{At: s.TakenAt, Interval: 5 * time.Second, Snapshot: s}, nil, nil)
	}
	if n := len(f.Open()); n < 30 {
		t.Errorf("measured anew, %d opened: the test shows nothing", n)
	}
}

// A gap in the data is neither good nor bad: an hour in which a server, and all
// it would have told of, was not read changes nothing of what is open on it.
func TestGapsOpenAndCloseNothing(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	at := day0
	show := func(s *fleet.Snapshot) []fleet.Event {
		s.TakenAt = at
		_, events := f.Inspect(fleet.Look{At: at, Interval: 5 * time.Second, Snapshot: s}, nil, nil)
		at = at.Add(5 * time.Second)
		return events
	}
	for i := range 2 {
		show(disturbed(at, uint64(i)))
	}
	if n := len(f.Open()); n != 0 {
		t.Fatalf("two bad looks opened %d", n)
	}
	last := disturbed(at.Add(-5*time.Second), 1) // what the collector keeps showing
	for i := range last.Servers {
		last.Servers[i].State, last.Servers[i].Error = fleet.Unreachable, "no answer"
	}
	// Streams and consumers without a leader are not judged while nobody answers.
	for range 720 {
		for _, e := range show(last) {
			if !strings.HasPrefix(e.Text, "SRV001") {
				t.Fatalf("during the gap: %+v", e)
			}
		}
	}
	show(disturbed(at, 3)) // the third bad one in a row, an hour later
	codes := map[string]bool{}
	for _, o := range f.Open() {
		codes[o.Code] = true
	}
	for _, c := range []string{"SRV004", "JS003", "CON004", "STR002"} {
		if !codes[c] {
			t.Errorf("%s is not open after three bad measurements with a gap between them: %v", c, codes)
		}
	}
	before := len(f.Open())
	for range 720 {
		show(last)
	}
	after := 0
	for _, o := range f.Open() {
		if o.Code != "SRV001" {
			after++
		}
	}
	if n := before - countCode(f.Open(), "SRV001"); after < n {
		t.Errorf("a gap closed %d of %d", before-after, before)
	}
}

func countCode(all []fleet.Finding, code string) int {
	n := 0
	for _, f := range all {
		if f.Code == code {
			n++
		}
	}
	return n
}

// Whatever vanishes takes its findings along, of every check: nothing of it is
// open for ever.
func TestWhatVanishesLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	at := day0
	for i := range 6 {
		s := disturbed(at, 5000+2000*uint64(i))
		s.Gateways = []fleet.Gateway{{From: "IDn1", FromCluster: "c", ToCluster: "far", RTT: time.Second + time.Duration(i), At: at}}
		s.Leafs = []fleet.Leaf{{Server: "IDn1", Name: "edge", RTT: time.Second + time.Duration(i), At: at}}
		s.Routes = []fleet.Route{{From: "IDn1", To: "IDn2", ToName: "n2", RTT: time.Second + time.Duration(i), Pending: 1 << 30, At: at}}
		s.Conns = []fleet.Conn{{Server: "IDn1", CID: 7, Pending: 1 << 30, At: at}}
		s.Queues = []fleet.QueueGroup{crew(at, 100, 100, 0)}
		s.Services = []fleet.Service{
			{Name: "billing", ID: "A", Version: "1.0.0", At: at, Endpoints: []fleet.Endpoint{{Subject: "b", Queue: "pool.1700000000.1", Requests: 1000 * uint64(i), Errors: 500 * uint64(i)}}},
			{Name: "billing", ID: "B", Version: "1.1.0", At: at, Endpoints: []fleet.Endpoint{{Subject: "b", Queue: "pool.1700000100.2"}}},
		}
		f.Inspect(fleet.Look{At: at, Interval: 5 * time.Second, Snapshot: s}, nil, nil)
		at = at.Add(5 * time.Second)
	}
	kinds := map[fleet.Kind]bool{}
	for _, o := range f.Open() {
		kinds[o.Kind] = true
	}
	for _, k := range []fleet.Kind{fleet.KindServer, fleet.KindCluster, fleet.KindRoute, fleet.KindGateway, fleet.KindLeaf, fleet.KindConn, fleet.KindStream, fleet.KindConsumer, fleet.KindService, fleet.KindQueue} {
		if !kinds[k] {
			t.Errorf("nothing of kind %q is open: the test does not show how it ends", k)
		}
	}
	// All but one server, which is well, is forgotten.
	for range 3 {
		s := &fleet.Snapshot{TakenAt: at, Servers: []fleet.Server{{ID: "new", Name: "calm", State: fleet.Healthy, At: at, Now: at, Start: day0, Cores: 2, Version: "2.15.2"}}}
		f.Inspect(fleet.Look{At: at, Interval: 5 * time.Second, Snapshot: s}, nil, nil)
		at = at.Add(5 * time.Second)
	}
	for _, o := range f.Open() {
		t.Errorf("still open: %s of %s %q", o.Code, o.Kind, o.Key)
	}
}

// A gateway that nobody restores is forgotten after an hour, and so is what was
// said of it.
func TestForgottenGatewayCloses(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	at := day0
	show := func(gateways ...fleet.Gateway) {
		s := &fleet.Snapshot{TakenAt: at, Gateways: gateways, Servers: []fleet.Server{{ID: "A", Name: "a", Cluster: "x", State: fleet.Healthy, At: at, Now: at, Start: day0, Cores: 2, Version: "2.15.2"}}}
		f.Inspect(fleet.Look{At: at, Interval: time.Minute, Snapshot: s}, nil, nil)
		at = at.Add(time.Minute)
	}
	show(fleet.Gateway{From: "A", FromCluster: "x", ToCluster: "y", At: at})
	for range 10 {
		show()
	}
	if n := countCode(f.Open(), "NET002"); n != 1 {
		t.Fatalf("NET002 is open %d times, want once", n)
	}
	for range 60 {
		show()
	}
	if open := f.Open(); len(open) != 0 {
		t.Errorf("open after an hour: %+v", open)
	}
}

// crew is a queue group whose members got so many messages in the last minute.
func crew(at time.Time, got ...int) fleet.QueueGroup {
	g := fleet.QueueGroup{Account: "A", Subject: "jobs.>", Queue: "crew", At: at, Since: day0, Span: time.Minute, Total: len(got)}
	for i, n := range got {
		g.Members = append(g.Members, fleet.QueueMember{Server: "IDn1", CID: uint64(i), Name: fmt.Sprintf("m%d", i), Rate: float64(n) / 60, Span: time.Minute})
		g.Rate += float64(n) / 60
	}
	return g
}

func TestQueueArithmetic(t *testing.T) {
	t.Parallel()
	elsewhere := func(g fleet.QueueGroup, i int, server string) fleet.QueueGroup {
		g.Members[i].Server = server
		return g
	}
	fresh := func(g fleet.QueueGroup, i int) fleet.QueueGroup {
		g.Members[i].Span, g.Members[i].Rate = 0, 0
		return g
	}
	named := func(queues ...string) (out []fleet.QueueGroup) {
		for _, q := range queues {
			out = append(out, fleet.QueueGroup{Account: "A", Subject: "s", Queue: q, Total: 1})
		}
		return out
	}
	for _, c := range []struct {
		name   string
		groups []fleet.QueueGroup
		bad    bool
	}{
		{"all get some", []fleet.QueueGroup{crew(day0, 30, 30, 30)}, false},
		{"one gets nothing of few", []fleet.QueueGroup{crew(day0, 29, 30, 0)}, false},
		{"one gets nothing of many", []fleet.QueueGroup{crew(day0, 31, 30, 0)}, true},
		{"nobody gets anything", []fleet.QueueGroup{crew(day0, 0, 0, 0)}, false},
		{"one of another cluster gets nothing", []fleet.QueueGroup{elsewhere(crew(day0, 300, 300, 0), 2, "IDfar")}, false},
		{"a server without a cluster stands alone", []fleet.QueueGroup{elsewhere(crew(day0, 300, 300, 0), 2, "IDlone")}, false},
		{"one that came just now", []fleet.QueueGroup{fresh(crew(day0, 300, 300, 0), 2)}, false},
		{"one generation", named("pool.1700000000.1"), false},
		{"two generations", named("pool.1700000000.1", "pool.1700000100.2"), true},
		{"two groups", named("pool.1700000000.1", "other.1700000100.2"), false},
		{"names that are no generations", named("pool.1", "pool.2"), false},
	} {
		f := NewFindings(FindingsConfig{})
		for i := range 3 {
			at := day0.Add(time.Duration(i) * time.Minute)
			s := &fleet.Snapshot{TakenAt: at}
			for _, n := range []struct{ name, cluster string }{{"n1", "c"}, {"far", "d"}, {"lone", ""}} {
				s.Servers = append(s.Servers, fleet.Server{ID: "ID" + n.name, Name: n.name, Cluster: n.cluster, State: fleet.Healthy, At: at, Now: at, Start: day0.Add(-time.Hour), Cores: 2, Version: "2.15.2"})
			}
			for _, g := range c.groups {
				g.At = at
				s.Queues = append(s.Queues, g)
			}
			f.Inspect(fleet.Look{At: at, Interval: time.Minute, Snapshot: s}, nil, nil)
		}
		if bad := countCode(f.Open(), "QUE001") > 0; bad != c.bad {
			t.Errorf("%s: QUE001 is open = %v, want %v: %+v", c.name, bad, c.bad, f.Open())
		}
	}
}

// One subject and queue in two accounts are two groups, each with its finding.
func TestQueuesOfTwoAccounts(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	for i := range 6 {
		at := day0.Add(time.Duration(i) * time.Minute)
		s := &fleet.Snapshot{TakenAt: at, Servers: []fleet.Server{{ID: "IDn1", Name: "n1", Cluster: "c", State: fleet.Healthy, At: at, Now: at, Start: day0.Add(-time.Hour), Cores: 2, Version: "2.15.2"}}}
		for _, account := range []string{"A", "B"} {
			one := crew(at, 31, 30, 0)
			one.Account = account
			s.Queues = append(s.Queues, one)
			if account == "A" && i > 2 { // the one that is mended does not close the other's
				s.Queues[len(s.Queues)-1] = crew(at, 31, 30, 30)
			}
			for _, start := range []string{"1700000000.1", "1700000100.2"} {
				s.Queues = append(s.Queues, fleet.QueueGroup{Account: account, Subject: "s", Queue: "pool." + start, Total: 1, At: at})
			}
		}
		f.Inspect(fleet.Look{At: at, Interval: time.Minute, Snapshot: s}, nil, nil)
		want := []string{"A/jobs.> crew", "A/s pool", "B/jobs.> crew", "B/s pool"}
		if i == 5 {
			want = []string{"A/s pool", "B/jobs.> crew", "B/s pool"}
		}
		var got []string
		for _, one := range f.Open() {
			if one.Code == "QUE001" {
				got = append(got, one.Entity.Key)
			}
		}
		slices.Sort(got)
		if (i == 2 || i == 5) && !slices.Equal(got, want) {
			t.Errorf("look %d: QUE001 is open on %q, want %q", i, got, want)
		}
	}
}

// A row that sums up many consumers is judged by no check of consumers, however
// bad its sums look, and hides nobody whom a split names.
func TestFoldsAreNotJudged(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	slow := &sketch.Sketch{}
	for range 200 {
		slow.Add(29 * time.Second)
	}
	target := traffic.Target{Name: "east", Subject: "s", State: traffic.Ready, Observe: &traffic.Observed{Account: "A", Stream: "S", Consumer: "worker-1"}}
	splits := []traffic.Revision{{Split: traffic.Split{Name: "orders", Targets: []traffic.Target{target}}}}
	for i := range 6 {
		at := day0.Add(time.Duration(i) * time.Minute)
		k := fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: "worker-*"}
		c := fleet.Consumer{ConsumerKey: k, At: at, Created: day0.Add(-2 * time.Hour), Pending: 10_000 * uint64(i+1), AckPending: 5000, MaxAckPending: 5000,
			Redelivered: 4000, AckPolicy: "explicit", AckWait: 30 * time.Second, SampleFreq: "100", Paused: i%2 == 0, Misfit: "they cannot be",
			Limits: &fleet.Thresholds{Unprocessed: 1}, Fold: &fleet.Fold{Pattern: "worker-*", Count: 500},
			Peers: []fleet.Replica{{Name: "n2", Offline: true}}}
		s := &fleet.Snapshot{TakenAt: at, Consumers: []fleet.Consumer{c}, Servers: []fleet.Server{
			{ID: "A", Name: "n1", Cluster: "c", State: fleet.Healthy, At: at, Now: at, Start: day0, Cores: 2, Version: "2.15.2"}}}
		f.Inspect(fleet.Look{At: at, Interval: time.Minute, Snapshot: s, Latency: map[fleet.ConsumerKey]fleet.Latency{
			k: {ConsumerKey: k, Source: fleet.AckSample, Last: at, Total: slow}}}, splits, nil)
	}
	for _, o := range f.Open() {
		t.Errorf("%s of %s opened: %s", o.Code, o.Key, o.Text)
	}
}

// Samples that somebody made up say so, and say nothing else.
func TestForgedSamplesAreTold(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	slow := &sketch.Sketch{}
	for range 200 {
		slow.Add(29 * time.Second)
	}
	misfit := "there were 500 samples of 20 acknowledgements"
	look := func(i int) {
		at := day0.Add(time.Duration(i) * time.Minute)
		k := fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: "c"}
		s := &fleet.Snapshot{TakenAt: at, Consumers: []fleet.Consumer{{ConsumerKey: k, At: at, Created: day0, Leader: "n1", Waiting: 1, AckPolicy: "explicit", AckWait: 30 * time.Second, SampleFreq: "100", Misfit: misfit}}}
		f.Inspect(fleet.Look{At: at, Interval: time.Minute, Snapshot: s, Latency: map[fleet.ConsumerKey]fleet.Latency{
			k: {ConsumerKey: k, Source: fleet.AckSample, Last: at, Total: slow}}}, nil, nil)
	}
	for i := range 3 {
		look(i)
	}
	if open := f.Open(); len(open) != 1 || open[0].Code != "CON011" || !strings.Contains(open[0].Text, misfit) {
		t.Fatalf("open %+v, want CON011 alone", open)
	}
	misfit = ""
	for i := range 3 {
		look(3 + i)
	}
	if open := f.Open(); len(open) != 1 || open[0].Code != "CON003" {
		t.Errorf("open %+v, want CON003 as soon as the samples fit", open)
	}
}

// A server measures a round trip rarely and shows it in every answer: one slow
// ping is one measurement.
func TestOneSlowPingIsOneMeasurement(t *testing.T) {
	t.Parallel()
	f := NewFindings(FindingsConfig{})
	at := day0
	show := func(rtt time.Duration) int {
		s := &fleet.Snapshot{TakenAt: at, Routes: []fleet.Route{{From: "IDa", To: "IDb", ToName: "b", RTT: rtt, At: at}}}
		for _, name := range []string{"a", "b"} {
			s.Servers = append(s.Servers, fleet.Server{ID: "ID" + name, Name: name, Cluster: "c", State: fleet.Healthy, At: at, Now: at, Start: day0, Cores: 2, Version: "2.15.2"})
		}
		f.Inspect(fleet.Look{At: at, Interval: 5 * time.Second, Snapshot: s}, nil, nil)
		at = at.Add(5 * time.Second)
		return countCode(f.Open(), "NET003")
	}
	for range 500 {
		if show(69*time.Millisecond) != 0 {
			t.Fatal("one slow ping opened NET003")
		}
	}
	show(70 * time.Millisecond)
	if show(71*time.Millisecond) != 1 {
		t.Fatal("three slow pings did not open NET003")
	}
	for range 500 {
		if show(time.Millisecond) != 1 {
			t.Fatal("one fast ping closed it")
		}
	}
	if show(2*time.Millisecond) != 0 {
		t.Error("two fast pings did not close it")
	}
}
