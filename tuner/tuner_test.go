package tuner

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/internal/sketch"
	"ballast/traffic"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt")

// latencies are n roughly log-normal samples around mean.
func latencies(mean time.Duration, n uint64) *sketch.Sketch {
	s := &sketch.Sketch{}
	for _, q := range []struct {
		z float64
		n uint64
	}{{-1.28, 2}, {-0.5, 3}, {0, 3}, {0.8, 1}, {1.8, 1}} {
		s.AddN(time.Duration(0.75*float64(mean)*math.Exp(q.z*sigma)), n*q.n/10)
	}
	return s
}

// state is one target of a synthetic split.
type state struct {
	name    string
	weight  int
	tier    int
	state   traffic.State
	workers int
	service time.Duration
	backlog [2]uint64
	edit    func(o *traffic.Observation)
}

func revision(states []state) traffic.Revision {
	s := traffic.Split{Name: "orders", Subject: "orders.process", Pick: traffic.Weighted, Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawCapacity}
	for _, t := range states {
		if t.state == "" {
			t.state = traffic.Ready
		}
		s.Targets = append(s.Targets, traffic.Target{Name: t.name, Subject: "orders.process." + t.name, Weight: t.weight, Tier: t.tier, State: t.state})
	}
	return traffic.Revision{V: 1, Number: 7, Base: 6, At: epoch, Split: s}
}

// window is what is seen in the n-th window of two seconds at a rate.
func window(n int, rate float64, states []state) []traffic.Observation {
	var obs []traffic.Observation
	for _, t := range states {
		load := rate * float64(t.weight) / 100
		acked := load
		if t.workers > 0 && t.service > 0 {
			acked = min(load, float64(t.workers)/t.service.Seconds())
		}
		grown := uint64(2 * (load - acked))
		o := traffic.Observation{
			Target: t.name, From: moment(2 * float64(n)), To: moment(2*float64(n) + 2), Interval: 2 * time.Second,
			Arrived: uint64(2 * load), Acked: uint64(2 * acked),
			Backlog0: t.backlog[0] + uint64(n)*grown, Backlog: t.backlog[1] + uint64(n+1)*grown, Share: 1,
			Workers: t.workers, Processed: uint64(5 * acked), Processing: t.service,
			ReportedAt: moment(math.Floor(2*float64(n)/5) * 5),
		}
		o.Samples = o.Acked / 10 * 10
		o.Latency = latencies(t.service+time.Millisecond, o.Samples)
		o.Mean = o.Latency.Mean()
		if t.edit != nil {
			t.edit(&o)
		}
		obs = append(obs, o)
	}
	return obs
}

// watch decides after each of n windows and returns the last decision.
func watch(tuner *Tuner, rev traffic.Revision, n int, rate float64, states []state) traffic.Decision {
	var d traffic.Decision
	for i := range n {
		d = tuner.Decide(moment(2*float64(i)+2), rev, window(i, rate, states))
	}
	return d
}

func calm() []state {
	return []state{
		{name: "worker-east-1", weight: 60, workers: 12, service: 20 * time.Millisecond},
		{name: "worker-west-1", weight: 30, workers: 6, service: 20 * time.Millisecond},
		{name: "worker-backup-1", weight: 10, workers: 2, service: 20 * time.Millisecond},
	}
}

// slow is calm with worker-east-1 eight times slower.
func slow() []state {
	s := calm()
	s[0].service *= 8
	return s
}

func TestHolds(t *testing.T) {
	t.Parallel()
	each := func(states []state, edit func(o *traffic.Observation), only ...string) []state {
		for i := range states {
			if len(only) == 0 || slices.Contains(only, states[i].name) {
				states[i].edit = edit
			}
		}
		return states
	}
	old := func(o *traffic.Observation) {
		if o.To.After(moment(12)) {
			o.From, o.To = o.From.Add(-time.Hour), o.To.Add(-time.Hour)
		}
	}
	const staleFrom = 10 // until then the slow target is rightly relieved
	dead := func(o *traffic.Observation) {
		o.Backlog0, o.Backlog, o.Acked, o.Samples, o.Latency, o.Mean = o.Backlog0+o.Arrived, o.Backlog0+2*o.Arrived, 0, 0, nil, 0
		o.Workers, o.ReportedAt = 0, time.Time{}
	}
	for _, c := range []struct {
		name   string
		states []state
		rate   float64
		rev    func(r *traffic.Revision)
		why    string
		from   int // first window in which it must hold
	}{
		{name: "balanced", states: calm(), why: "Within tolerance"},
		{name: "mode observe", states: slow(), rev: func(r *traffic.Revision) { r.Split.Mode = traffic.Observe }, why: "only observed"},
		{name: "law manual", states: slow(), rev: func(r *traffic.Revision) { r.Split.Law = traffic.LawManual }, why: "by hand"},
		{name: "unknown law", states: slow(), rev: func(r *traffic.Revision) { r.Split.Law = "magic" }, why: `no law "magic"`},
		{name: "one READY target", states: []state{
			{name: "a", weight: 100, workers: 1, service: time.Second},
			{name: "b", state: traffic.Drain}, {name: "c", state: traffic.Maint},
		}, why: "fewer than two READY"},
		{name: "one READY target in the lowest tier", states: []state{
			{name: "a", weight: 100, workers: 1, service: time.Second},
			{name: "b", weight: 50, tier: 1}, {name: "c", weight: 50, tier: 1},
		}, why: "fewer than two READY"},
		{name: "all stale", from: staleFrom, states: each(slow(), old), why: "not enough to judge by"},
		{name: "two of three stale", from: staleFrom, states: each(slow(), old, "worker-west-1", "worker-backup-1"), why: "not enough to judge by"},
		{name: "the heavy one stale", from: staleFrom, states: each(slow(), old, "worker-east-1"), why: "Over half of the traffic"},
		{name: "few messages", states: slow(), rate: 0.5, why: "not enough to judge by"},
		{name: "no messages", states: calm(), rate: 1e-12, why: "not enough to judge by"},
		{name: "contradictory counters", states: each(slow(), func(o *traffic.Observation) { o.Acked = 5 * (o.Arrived + 1000) }), why: "contradict each other"},
		{name: "from the future", states: each(slow(), func(o *traffic.Observation) { o.To = o.To.Add(time.Hour) }), why: "future"},
		{name: "two of three dead", states: each(calm(), dead, "worker-west-1", "worker-east-1"), why: "Under half of the targets work: worker-east-1 and worker-west-1"},
		{name: "a liar who says it became slow", states: each(calm(), func(o *traffic.Observation) { o.Processing *= 8 }, "worker-east-1"), why: "olerance"},
		{name: "overload", states: calm(), rate: 1500, why: "only more workers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rev := revision(c.states)
			if c.rev != nil {
				c.rev(&rev)
			}
			if c.rate == 0 {
				c.rate = 300
			}
			tuner := New(Config{})
			for i := range 20 {
				d := tuner.Decide(moment(2*float64(i)+2), rev, window(i, c.rate, c.states))
				if d.Proposal != nil && i >= c.from {
					t.Fatalf("window %d: %s", i, d.Proposal.Why)
				}
				if i == 19 && !strings.Contains(d.Why, c.why) {
					t.Errorf("Why = %q, want %q in it", d.Why, c.why)
				}
				if i == 19 && c.name != "balanced" && len(d.Vetoes) == 0 {
					t.Error("no veto is named")
				}
			}
		})
	}
}

func TestReliefMovesTheWeightAwayAtOnce(t *testing.T) {
	t.Parallel()
	tuner := New(Config{})
	watch(tuner, revision(calm()), 3, 300, calm())
	var d traffic.Decision
	for i := 3; i < 8 && d.Proposal == nil; i++ {
		d = tuner.Decide(moment(2*float64(i)+2), revision(slow()), window(i, 300, slow()))
	}
	p := d.Proposal
	if p == nil {
		t.Fatalf("no proposal: %s", d.Why)
	}
	if p.Kind != kindRelief || p.Base != 7 || p.Law != traffic.LawCapacity || p.Status != traffic.Open ||
		p.Expires.Sub(p.At) != time.Minute || p.Split != "orders" || len(p.ID) != 16 {
		t.Errorf("proposal %+v", p)
	}
	if sum := change(p.Moves); sum != 0 {
		t.Errorf("the moves %v sum to %d", p.Moves, sum)
	}
	if len(p.Alternatives) != 2 || p.Alternatives[0].Law != traffic.LawSeed || p.Alternatives[1].Law != traffic.LawEqual {
		t.Fatalf("alternatives %+v", p.Alternatives)
	}
	if w := p.Alternatives[1].Weights; w["worker-east-1"] != 34 || w["worker-west-1"] != 33 || w["worker-backup-1"] != 33 {
		t.Errorf("equal weights are %v", w)
	}
	for _, a := range p.Alternatives {
		if a.Rho <= p.Predicted.RhoAfter {
			t.Errorf("law %s predicts %.2f, the proposal %.2f", a.Law, a.Rho, p.Predicted.RhoAfter)
		}
	}
}

func change(moves []traffic.Move) int {
	sum := 0
	for _, m := range moves {
		sum += m.To - m.From
	}
	return sum
}

func TestOrdinaryMovesWaitAndAreLimited(t *testing.T) {
	t.Parallel()
	states := calm()
	states[0].weight, states[1].weight, states[2].weight = 8, 68, 24
	tuner := New(Config{})
	var first int
	var p *traffic.Proposal
	for i := range 10 {
		if d := tuner.Decide(moment(2*float64(i)+2), revision(states), window(i, 300, states)); d.Proposal != nil {
			first, p = i, d.Proposal
			break
		}
	}
	if p == nil || first < 2 {
		t.Fatalf("first proposal in window %d: %v; want one, but not before the third", first, p)
	}
	if p.Kind != kindSplit || p.Moves[0].To != 18 || p.Moves[0].LimitedBy != "step" || len(p.Guards) == 0 {
		t.Errorf("moves %+v, guards %v; want worker-east-1 to grow by the 10 points of a step", p.Moves, p.Guards)
	}
}

func TestOnlyTheLowestTierIsTuned(t *testing.T) {
	t.Parallel()
	states := append(slow(), state{name: "spare-1", weight: 50, tier: 1}, state{name: "spare-2", weight: 50, tier: 1}, state{name: "old", state: traffic.Drain})
	d := watch(New(Config{}), revision(states), 8, 300, states[:3])
	if d.Proposal == nil {
		t.Fatalf("no proposal: %s", d.Why)
	}
	for _, m := range d.Proposal.Moves {
		if !strings.HasPrefix(m.Target, "worker-") {
			t.Errorf("%s is moved", m.Target)
		}
	}
	if len(d.Estimates) != 6 || d.Estimates[3].Target != "spare-1" {
		t.Errorf("estimates %+v, want one for every target in the split's order", d.Estimates)
	}
}

func TestAStaleTargetKeepsItsWeight(t *testing.T) {
	t.Parallel()
	states := slow()
	states[2].edit = func(o *traffic.Observation) {
		o.From, o.To, o.ReportedAt = o.From.Add(-time.Hour), o.To.Add(-time.Hour), o.ReportedAt.Add(-time.Hour)
	}
	d := watch(New(Config{}), revision(states), 8, 300, states)
	if d.Proposal == nil {
		t.Fatalf("no proposal: %s", d.Why)
	}
	if len(d.Proposal.Moves) != 2 || d.Proposal.Confidence != traffic.Low {
		t.Errorf("moves %v, confidence %s; want the stale target left alone and low confidence", d.Proposal.Moves, d.Proposal.Confidence)
	}
}

func TestAnIdleTargetIsForgotten(t *testing.T) {
	t.Parallel()
	tuner := New(Config{})
	states := calm()
	if d := watch(tuner, revision(states), 5, 300, states); d.Estimates[2].Capacity == 0 {
		t.Fatal("nothing is known of it at first")
	}
	states[2].edit = func(o *traffic.Observation) {
		o.Arrived, o.Acked, o.Samples, o.Latency, o.Mean, o.Processed, o.Processing = 0, 0, 0, nil, 0, 0, 0
	}
	for i := 5; i < 110; i++ {
		d := tuner.Decide(moment(2*float64(i)+2), revision(states), window(i, 300, states))
		if known := d.Estimates[2].Capacity > 0; known != (i < 95) {
			t.Fatalf("in window %d its capacity is %.0f", i, d.Estimates[2].Capacity)
		}
	}
}

func TestOverlappingWindowsTeachNothing(t *testing.T) {
	t.Parallel()
	tuner := New(Config{})
	a := watch(tuner, revision(slow()), 1, 300, slow())
	obs := window(0, 300, slow())
	for i := range obs {
		obs[i].To = obs[i].To.Add(200 * time.Millisecond)
		obs[i].Acked *= 100
	}
	b := tuner.Decide(moment(2.2), revision(slow()), obs)
	if a.Estimates[0].Acked != b.Estimates[0].Acked || a.Estimates[0].Capacity != b.Estimates[0].Capacity {
		t.Errorf("estimate %+v became %+v", a.Estimates[0], b.Estimates[0])
	}
}

func TestOppositeChangesAreDamped(t *testing.T) {
	t.Parallel()
	states := calm()
	rev := revision(states)
	m, _ := memory{}.learn(New(Config{}).cfg, moment(2), rev, window(0, 300, states))
	shift := func(at float64, east, west int) {
		rev.Number++
		rev.Split = rev.Split.WithWeights(map[string]int{"worker-east-1": east, "worker-west-1": west})
		m, _ = m.learn(New(Config{}).cfg, moment(at), rev, nil)
	}
	for i, c := range []struct {
		at         float64
		east, west int
		damp       float64
	}{{4, 50, 40, 1}, {10, 60, 30, 0.5}, {20, 50, 40, 0.25}, {30, 60, 30, 0.2}, {40, 65, 25, 0.25}, {200, 50, 40, 0.3125}} {
		shift(c.at, c.east, c.west)
		if m.damp != c.damp {
			t.Errorf("after change %d the damping is %v, want %v", i, m.damp, c.damp)
		}
	}
}

func TestCPUIsACeilingOnlyWhenTheCoresAreKnown(t *testing.T) {
	t.Parallel()
	for cores, want := range map[int]float64{0: 600, 1: 180 / 0.9} {
		states := calm()
		states[0].edit = func(o *traffic.Observation) { o.CPU, o.Cores = 90, cores }
		d := watch(New(Config{}), revision(states), 6, 300, states)
		if got := d.Estimates[0].Capacity; math.Abs(got-want) > 0.2*want {
			t.Errorf("with %d cores at 90 %% the capacity is %.0f, want about %.0f", cores, got, want)
		}
	}
}

// Whatever is observed, a proposal keeps what an operator relies on.
func TestProposalsKeepTheirPromises(t *testing.T) {
	t.Parallel()
	proposals := 0
	for seed := range uint64(1500) {
		rnd := rand.New(rand.NewPCG(seed, 99))
		n := 2 + rnd.IntN(12)
		states := make([]state, n)
		shares := make([]float64, n)
		sum := 0.0
		for i := range shares {
			shares[i] = 0.05 + rnd.Float64()
			sum += shares[i]
		}
		for i := range shares {
			shares[i] *= 100 / sum
		}
		for i, w := range whole(shares, 100, 1) {
			states[i] = state{name: fmt.Sprintf("t%d", i), weight: w, workers: 1 + rnd.IntN(20), service: time.Duration(1+rnd.IntN(200)) * time.Millisecond}
			if rnd.IntN(4) == 0 {
				states[i].workers = 0 // sends no reports
			}
			kind := rnd.IntN(12)
			states[i].edit = func(o *traffic.Observation) {
				switch kind {
				case 0:
					o.From, o.To = o.From.Add(-time.Minute), o.To.Add(-time.Minute)
				case 1:
					o.Acked, o.Latency, o.Samples, o.Mean = 0, nil, 0, 0
				case 2:
					o.Processing = time.Duration(rnd.Int64())
					o.CPU, o.Cores = math.NaN(), 4
				case 3:
					o.Redelivered, o.Failed = o.Acked/2, o.Processed/2
				case 4:
					o.Workers = -5
				case 5:
					o.Arrived, o.Backlog, o.Backlog0 = rnd.Uint64(), rnd.Uint64(), rnd.Uint64()
				}
			}
		}
		rev := revision(states)
		rev.Split.Law = laws[rnd.IntN(len(laws))]
		tuner := New(Config{})
		rate := 10 + 3000*rnd.Float64()
		for i := range 8 {
			now := moment(2*float64(i) + 2)
			d := tuner.Decide(now, rev, window(i, rate, states))
			if d.Split != "orders" || d.Why == "" || len(d.Estimates) != n {
				t.Fatalf("seed %d: decision %+v", seed, d)
			}
			p := d.Proposal
			if p == nil {
				continue
			}
			proposals++
			if change(p.Moves) != 0 || len(p.Moves) == 0 {
				t.Fatalf("seed %d: moves %v", seed, p.Moves)
			}
			next := rev.Split.Weights()
			for _, m := range p.Moves {
				e := d.Estimates[slices.IndexFunc(d.Estimates, func(e traffic.Estimate) bool { return e.Target == m.Target })]
				if m.From != next[m.Target] || m.To < 1 || m.To > 100 {
					t.Fatalf("seed %d: move %+v", seed, m)
				}
				if e.Age > 6*time.Second {
					t.Fatalf("seed %d: %s is moved on figures %v old", seed, m.Target, e.Age)
				}
				if limit := math.Ceil(float64(m.From) + max(10, 0.5*float64(m.From))); p.Kind == kindSplit && float64(m.To) > limit {
					t.Fatalf("seed %d: %s grows from %d to %d", seed, m.Target, m.From, m.To)
				}
				next[m.Target] = m.To
			}
			if err := rev.Split.WithWeights(next).Validate(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if _, err := json.Marshal(d); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for _, bad := range []string{"NaN", "Inf", "%!"} {
				if strings.Contains(p.Why+p.Title, bad) {
					t.Fatalf("seed %d: %s", seed, p.Why)
				}
			}
		}
	}
	if proposals < 500 {
		t.Errorf("only %d proposals came of it", proposals)
	}
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	record := func() []byte {
		targets := demoTargets()
		targets[0].factor = phases(0, 1, 40, 8, 120, 1)
		w := newWorld(3, traffic.LawCapacity, constant(300), targets...)
		w.apply = 10
		out, err := json.Marshal(w.simulate(200).decisions)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if a, b := record(), record(); !slices.Equal(a, b) {
		t.Error("two runs over the same inputs differ")
	}
}

func TestDecideDoesNotChangeWhatItIsGiven(t *testing.T) {
	t.Parallel()
	obs := window(0, 300, slow())
	before, err := json.Marshal(obs)
	if err != nil {
		t.Fatal(err)
	}
	kept := obs[0].Latency.Clone()
	tuner := New(Config{})
	watch(tuner, revision(slow()), 1, 300, slow())
	tuner.Decide(moment(2), revision(slow()), obs)
	for i := 1; i < 5; i++ {
		tuner.Decide(moment(2*float64(i)+2), revision(slow()), window(i, 300, slow()))
	}
	after, err := json.Marshal(obs)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := kept.MarshalBinary()
	y, _ := obs[0].Latency.MarshalBinary()
	if !slices.Equal(before, after) || !slices.Equal(x, y) {
		t.Error("the observations were changed")
	}
}

func TestExplanations(t *testing.T) {
	t.Parallel()
	edit := func(states []state, i int, f func(o *traffic.Observation)) []state {
		states[i].edit = f
		return states
	}
	weigh := func(states []state, w ...int) []state {
		for i := range w {
			states[i].weight = w[i]
		}
		return states
	}
	unreported := slow()
	for i := range unreported {
		unreported[i].edit = func(o *traffic.Observation) { o.Workers, o.Processed = 0, 0 }
	}
	unsampled := slow()
	for i := range unsampled {
		unsampled[i].edit = func(o *traffic.Observation) {
			o.Workers, o.Processed, o.Latency, o.Samples, o.Share, o.Estimated = 0, 0, nil, 0, 0, true
		}
	}
	for _, c := range []struct {
		name   string
		states []state
		law    traffic.Law
	}{
		{"calm", calm(), ""},
		{"relief", slow(), ""},
		{"relief_without_reports", unreported, ""},
		{"relief_without_samples", unsampled, ""},
		{"return", weigh(calm(), 8, 68, 24), ""},
		{"dead", edit(calm(), 1, func(o *traffic.Observation) {
			o.Backlog0 += o.Arrived
			o.Backlog = o.Backlog0 + o.Arrived
			o.Acked, o.Samples, o.Latency, o.Mean = 0, 0, nil, 0
			o.Workers, o.Processed = 0, 0
		}), ""},
		{"failing", edit(calm(), 1, func(o *traffic.Observation) {
			o.Failed, o.Redelivered = o.Processed/5, o.Acked/5
		}), ""},
		{"overload", []state{
			{name: "a", weight: 50, workers: 1, service: 20 * time.Millisecond},
			{name: "b", weight: 50, workers: 1, service: 20 * time.Millisecond},
		}, ""},
		{"equal", calm(), traffic.LawEqual},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rev := revision(c.states)
			if c.law != "" {
				rev.Split.Law = c.law
			}
			got := tell(watch(New(Config{}), rev, 10, 300, c.states))
			file := filepath.Join("testdata", c.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// tell writes a decision the way a person would want to read it.
func tell(d traffic.Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", d.Why)
	for _, v := range d.Vetoes {
		fmt.Fprintf(&b, "veto: %s\n", v)
	}
	if p := d.Proposal; p != nil {
		fmt.Fprintf(&b, "\n%s, confidence %s\n%s\n\n", p.Kind, p.Confidence, strings.ReplaceAll(p.Why, ". ", ".\n"))
		for _, m := range p.Moves {
			fmt.Fprintf(&b, "%s %d -> %d %s\n", m.Target, m.From, m.To, m.LimitedBy)
		}
		for _, a := range p.Alternatives {
			fmt.Fprintf(&b, "law %s: %v, highest utilization %s\n", a.Law, a.Weights, percent(a.Rho))
		}
		for _, g := range p.Guards {
			fmt.Fprintf(&b, "guard: %s\n", g)
		}
	}
	b.WriteByte('\n')
	for _, e := range d.Estimates {
		fmt.Fprintf(&b, "%s: %s of %s msg/s, quality %q, mean %s, p99 %s, %d samples, backlog %d, errors %s. %s\n",
			e.Target, number(e.Rate), number(e.Capacity), e.Quality, short(e.Latency), short(e.P99), e.Samples, e.Backlog, percent(e.ErrorRate), e.Note)
	}
	return b.String()
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			var states []state
			shares := slices.Repeat([]float64{100 / float64(n)}, n)
			for i, w := range whole(shares, 100, 0) {
				states = append(states, state{name: fmt.Sprintf("t%d", i), weight: w, workers: 4 + i%7, service: time.Duration(10+i%13) * time.Millisecond})
			}
			rev := revision(states)
			tuner := New(Config{})
			var windows [64][]traffic.Observation
			for i := range windows {
				windows[i] = window(i, 4000, states)
			}
			i := 0
			for b.Loop() {
				if i == len(windows) {
					b.StopTimer()
					tuner, i = New(Config{}), 0
					b.StartTimer()
				}
				tuner.Decide(moment(2*float64(i)+2), rev, windows[i])
				i++
			}
		})
	}
}
