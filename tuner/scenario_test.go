package tuner

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"ballast/traffic"
)

// three pools of very different size: 800, 400 and 133 msg/s.
func three(a, b, c int) []*worker {
	return []*worker{
		{name: "a", weight: a, workers: 16, service: 0.02},
		{name: "b", weight: b, workers: 16, service: 0.04},
		{name: "c", weight: c, workers: 8, service: 0.0602},
	}
}

func alike(n, workers int, service float64) []*worker {
	var out []*worker
	for i := range n {
		weight := 100 / n
		if i < 100%n {
			weight++
		}
		out = append(out, &worker{name: fmt.Sprintf("t%d", i), weight: weight, workers: workers, service: service})
	}
	return out
}

func silent(targets []*worker) []*worker {
	for _, t := range targets {
		t.silent = true
	}
	return targets
}

// baseline runs the scenario with the weights that the targets come with.
func baseline(seed uint64, rate func(float64) float64, length float64, targets []*worker) *run {
	return newWorld(seed, traffic.LawManual, rate, targets...).simulate(length)
}

// auto applies every proposal half a second after it was made.
func auto(seed uint64, rate func(float64) float64, length float64, targets []*worker) *run {
	w := newWorld(seed, traffic.LawCapacity, rate, targets...)
	w.apply = 0.5
	return w.simulate(length)
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	slowed := func(base []*worker) []*worker {
		base[0].factor = phases(0, 1, 100, 4, 200, 1)
		return base
	}
	below := func(t *testing.T, what string, got, limit float64) {
		t.Helper()
		if !(got <= limit) {
			t.Errorf("%s is %.4g, want at most %.4g", what, got, limit)
		}
	}
	for _, c := range []struct {
		name  string
		check func(t *testing.T, seed uint64)
	}{
		{"S1 three unequal pools from equal weights", func(t *testing.T, seed uint64) {
			r := auto(seed, constant(933), 300, three(34, 33, 33))
			ideal := baseline(seed, constant(933), 300, three(60, 30, 10))
			below(t, "settled p99 against weights by true capacity", r.p99(240, 300), 1.1*ideal.p99(240, 300))
			below(t, "p99 after 30 s", r.p99(30, 60), 1.3*ideal.p99(30, 60))
			below(t, "late share", r.late(0, 300), 0.006)
			below(t, "changes after a minute", float64(r.changes(60, 300)), 1)
		}},
		{"S1b the same at 30 % load", func(t *testing.T, seed uint64) {
			r := auto(seed, constant(400), 300, three(34, 33, 33))
			below(t, "p99 against equal weights", r.p99(60, 300), 0.8*baseline(seed, constant(400), 300, three(34, 33, 33)).p99(60, 300))
			below(t, "changes after a minute", float64(r.changes(60, 300)), 1)
		}},
		{"S3 one of three becomes four times slower and recovers", func(t *testing.T, seed uint64) {
			r := auto(seed, constant(825), 300, slowed(alike(3, 10, 0.02)))
			below(t, "late share", r.late(0, 300), 0.012)
			below(t, "p99 20 s into the fault", r.p99(120, 200), 0.2)
			below(t, "p99 after it", r.p99(210, 300), 1.1*r.p99(0, 100))
			below(t, "changes", float64(len(r.applied)), 8)
			below(t, "changes in the last minute", float64(r.changes(240, 300)), 0)
			if w := r.weightsAt(299); slices.Max(w)-slices.Min(w) > 6 {
				t.Errorf("weights at the end are %v, want about a third each", w)
			}
		}},
		{"S4b one of three answers nothing for 100 s", func(t *testing.T, seed uint64) {
			targets := alike(3, 10, 0.02)
			targets[0].stopped = func(at float64) bool { return at >= 100 && at < 200 }
			r := auto(seed, constant(825), 400, targets)
			if list, first := r.proposals(100, 200); len(list) == 0 || first > 112 {
				t.Errorf("first proposal after the stop at %v s, want within 12 s", first)
			}
			if w := r.weightsAt(115); w[0] != 1 {
				t.Errorf("weights 15 s after the stop are %v, want 1 for the dead one", w)
			}
			below(t, "late share", r.late(0, 400), 0.012)
			if w := r.weightsAt(399); slices.Max(w)-slices.Min(w) > 6 {
				t.Errorf("weights at the end are %v, want about a third each", w)
			}
		}},
		{"S6 a burst from 35 % to 90 %", func(t *testing.T, seed uint64) {
			r := auto(seed, phases(0, 467, 100, 1200, 160, 467), 300, three(34, 33, 33))
			below(t, "p99 in the first half minute of the burst", r.p99(100, 130), 0.3)
			below(t, "late share of the burst", r.late(100, 160), 0.001)
		}},
		{"S7 hardly any messages", func(t *testing.T, seed uint64) {
			targets := func() []*worker {
				w := alike(5, 2, 0.05)
				w[0].service = 0.25
				return w
			}
			r := auto(seed, constant(12), 300, targets())
			below(t, "p99 against equal weights", r.p99(100, 300), 0.75*baseline(seed, constant(12), 300, targets()).p99(100, 300))
			below(t, "changes", float64(len(r.applied)), 8)
		}},
		{"S10 five equal pools at 80 %", func(t *testing.T, seed uint64) {
			r := auto(seed, constant(2000), 300, alike(5, 10, 0.02))
			below(t, "changes", float64(len(r.applied)), 0)
		}},
		{"S11 more than all can do", func(t *testing.T, seed uint64) {
			r := auto(seed, phases(0, 800, 100, 1467, 160, 800), 300, three(60, 30, 10))
			below(t, "changes", float64(len(r.applied)), 1)
			if d := r.decisions[74]; !slices.Contains(d.Vetoes, "overload") {
				t.Errorf("in overload: %q %v, want it named", d.Why, d.Vetoes)
			}
			below(t, "p99 after it", r.p99(240, 300), 1.2*r.p99(0, 100))
		}},
		{"S13 unequal pools without worker reports", func(t *testing.T, seed uint64) {
			r := auto(seed, constant(933), 300, silent(three(34, 33, 33)))
			ideal := baseline(seed, constant(933), 300, three(60, 30, 10))
			below(t, "settled p99 against weights by true capacity", r.p99(240, 300), 1.5*ideal.p99(240, 300))
			below(t, "late share", r.late(0, 300), 0.015)
		}},
		{"S14 a slow-down without worker reports", func(t *testing.T, seed uint64) {
			r := auto(seed, constant(825), 300, silent(slowed(alike(3, 10, 0.02))))
			below(t, "late share", r.late(0, 300), 0.012)
			below(t, "p99 20 s into the fault", r.p99(120, 200), 0.25)
		}},
		{"S16 a pool reports processing times five times too short", func(t *testing.T, seed uint64) {
			targets := three(34, 33, 33)
			targets[2].lie = 0.2
			r := auto(seed, constant(933), 300, targets)
			ideal := baseline(seed, constant(933), 300, three(60, 30, 10))
			below(t, "settled p99 against weights by true capacity", r.p99(240, 300), 1.1*ideal.p99(240, 300))
			below(t, "late share", r.late(0, 300), 0.015)
			if list, _ := r.proposals(0, 300); len(list) == 0 || list[len(list)-1].Confidence != traffic.Low ||
				!strings.Contains(list[len(list)-1].Estimates[2].Note, "impossible") {
				t.Errorf("the lie is not named")
			}
		}},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s/seed %d", c.name, seed+1), func(t *testing.T) {
				t.Parallel()
				c.check(t, seed+1)
			})
		}
	}
}

// The story of the demo: three targets 60/30/10 at 30 % load, the large one
// becomes eight times slower, an operator applies what is suggested 20 s after
// it shows, and the target recovers two minutes later.
func TestDemoStory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
			t.Parallel()
			targets := demoTargets()
			targets[0].factor = phases(0, 1, 300, 8, 420, 1)
			w := newWorld(seed+1, traffic.LawCapacity, constant(300), targets...)
			w.apply, w.late = 20, seed%2 == 1
			r := w.simulate(660)

			if list, first := r.proposals(0, 300); len(list) > 0 {
				t.Errorf("spurious proposal at %v s: %s", first, list[0].Why)
			}
			calm := r.decisions[60]
			if !strings.HasPrefix(calm.Why, "Within tolerance") || calm.Estimates[0].Quality != traffic.QualityReports {
				t.Errorf("while all is well: %q, %+v", calm.Why, calm.Estimates[0])
			}
			list, first := r.proposals(300, 420)
			if len(list) == 0 || first > 320 {
				t.Fatalf("first proposal after the slow-down at %v s, want within 20 s", first)
			}
			p := list[0]
			if p.Kind != kindRelief || p.Moves[0].Target != "worker-east-1" || p.Moves[0].To > 15 {
				t.Errorf("proposal %s %v, want relief of most of worker-east-1", p.Kind, p.Moves)
			}
			for _, want := range []string{"worker-east-1 has an ACK latency of", "p99", "samples of", "acknowledgements", "msg/s", "utilization", "waiting", "Predicted mean latency"} {
				if !strings.Contains(p.Why, want) {
					t.Errorf("the reason does not name %q: %s", want, p.Why)
				}
			}
			if p.Predicted.RhoAfter > 0.9 || p.Predicted.RhoBefore < 1.2 || p.Predicted.P99After >= p.Predicted.P99Before {
				t.Errorf("prediction %+v", p.Predicted)
			}
			if len(r.applied) == 0 {
				t.Fatal("nothing was applied")
			}
			if got, was := r.p99(390, 420), r.p99(300, 330); got > was/4 {
				t.Errorf("p99 %v s after the relief, %v s before", got, was)
			}
			last := r.weightsAt(659)
			if last[0] < 53 || last[0] > 67 || r.changes(420, 660) > 7 {
				t.Errorf("weights at the end %v after %d changes", last, r.changes(420, 660))
			}
			for _, a := range r.applied {
				if a.p.Kind != kindSplit {
					continue
				}
				for _, m := range a.p.Moves {
					if limit := math.Ceil(float64(m.From) + max(10, 0.5*float64(m.From))); float64(m.To) > limit {
						t.Errorf("%s grows from %d to %d in one step", m.Target, m.From, m.To)
					}
				}
			}
			if got, want := r.p99(630, 660), r.p99(100, 300); got > 1.15*want {
				t.Errorf("p99 at the end %v s, before it all %v s", got, want)
			}
		})
	}
}

// What was predicted is held against what the simulated messages then took.
func TestPredictionsComeTrue(t *testing.T) {
	t.Parallel()
	var means, tails []float64
	for seed := range uint64(2) {
		for _, r := range []*run{
			auto(seed+1, constant(933), 200, three(34, 33, 33)),
			auto(seed+1, constant(400), 200, three(34, 33, 33)),
			auto(seed+1, constant(700), 200, three(20, 30, 50)),
		} {
			last := r.applied[len(r.applied)-1]
			if last.at > 120 {
				continue
			}
			mean, p99 := r.mean(last.at+40, 200), r.p99(last.at+40, 200)
			means = append(means, math.Abs(last.p.Predicted.MeanAfter.Seconds()-mean)/mean)
			tails = append(tails, math.Abs(last.p.Predicted.P99After.Seconds()-p99)/p99)
		}
	}
	slices.Sort(means)
	slices.Sort(tails)
	mean, tail := means[len(means)/2], tails[len(tails)/2]
	t.Logf("median error of %d predictions: mean %.0f %%, p99 %.0f %%", len(means), 100*mean, 100*tail)
	if mean > 0.25 || tail > 0.35 {
		t.Errorf("median error of the predicted mean %.2f, of the p99 %.2f; want at most 0.25 and 0.35", mean, tail)
	}
}
