package traffic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// splitOf has one READY target of tier 0 for each weight: t0, t1, …
func splitOf(weights ...int) Split {
	s := Split{Name: "orders", Subject: "orders.process", Pick: Weighted, Driver: DriverKV, Mode: Suggest, Law: LawCapacity}
	for i, w := range weights {
		name := fmt.Sprintf("t%d", i)
		s.Targets = append(s.Targets, Target{Name: name, Subject: "orders.process." + name, Weight: w, State: Ready})
	}
	return s
}

// even spreads 100 points over n targets.
func even(n int) []int {
	w := make([]int, n)
	for i := range 100 {
		w[i%n]++
	}
	return w
}

func mustPicker(tb testing.TB, s Split) *Picker {
	tb.Helper()
	p, err := NewPicker(s)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestPickFollowsTheWeights(t *testing.T) {
	t.Parallel()
	const picks = 1_000_000
	for _, weights := range [][]int{{60, 30, 10}, {100}, {99, 1}, {34, 33, 33}, {0, 50, 0, 50}, even(16), even(256)} {
		s := splitOf(weights...)
		p := mustPicker(t, s)
		rnd := rand.New(rand.NewPCG(1, 2))
		got := map[string]int{}
		for range picks {
			got[p.Targets()[p.PickRand(rnd)].Name]++
		}
		for _, target := range s.Targets {
			share := 100 * float64(got[target.Name]) / picks
			if math.Abs(share-float64(target.Weight)) > 0.2 {
				t.Errorf("weights %v: %s got %.2f %% of %d picks, want %d ± 0.2", weights, target.Name, share, picks, target.Weight)
			}
			if target.Weight == 0 && got[target.Name] > 0 {
				t.Errorf("weights %v: %s has weight 0 and got %d messages", weights, target.Name, got[target.Name])
			}
		}
	}
}

// A million messages of a publisher, in every order and with two choices while
// nothing queues: each target's share is its weight within 0.2 points.
func TestEveryOrderFollowsTheWeights(t *testing.T) {
	t.Parallel()
	const picks = 1_000_000
	for _, weights := range [][]int{{60, 30, 10}, {99, 1}, {34, 33, 33}, even(16)} {
		for _, order := range []Order{"", Spread, Smooth, Random} {
			s := splitOf(weights...)
			s.Order = order
			p := mustPicker(t, s)
			in := loads(p)
			for how, pick := range map[string]func(uint64) int{
				"one draw":    p.PickNth,
				"two choices": func(n uint64) int { return p.PickTwo(n, in) },
			} {
				got := make([]int, len(weights))
				for n := range uint64(picks) {
					got[pick(12345+n)]++
				}
				for i, w := range weights {
					if share := 100 * float64(got[i]) / picks; math.Abs(share-float64(w)) > 0.2 {
						t.Errorf("weights %v, order %q, %s: target %d got %.2f %%, want %d ± 0.2", weights, order, how, i, share, w)
					}
				}
			}
		}
	}
}

// Not one run of 1,000 messages, wherever it begins, and not one stride through
// it, is off by more than half a point; a random draw is by up to four.
func TestPickNthKeepsEveryRunEven(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]int{{60, 30, 10}, {1, 99}, {50, 50}, {34, 33, 33}, {7, 72, 21}, {2, 3, 5, 7, 11, 13, 59}} {
		s := Split{Name: "s", Subject: "s", Pick: Weighted, Driver: DriverKV, Mode: Suggest, Law: LawCapacity}
		for i, w := range weights {
			name := string(rune('a' + i))
			s.Targets = append(s.Targets, Target{Name: name, Subject: "s." + name, Weight: w, State: Ready})
		}
		p, err := NewPicker(s)
		if err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 500 {
			start, stride := rnd.Uint64(), 1+rnd.Uint64N(10)
			got := make([]int, len(weights))
			for n := range uint64(1000) {
				got[p.PickNth(start+n*stride)]++
			}
			for i, w := range weights {
				if off := math.Abs(float64(got[i])/10 - float64(w)); off > 0.5 && stride == 1 || off > 1 {
					t.Fatalf("weights %v from %d by %d: target %d got %d of 1,000, its weight is %d", weights, start, stride, i, got[i], w)
				}
			}
		}
	}
}

func TestPickRandRepeatsBySeed(t *testing.T) {
	t.Parallel()
	p := mustPicker(t, splitOf(60, 30, 10))
	a, b := rand.New(rand.NewPCG(7, 7)), rand.New(rand.NewPCG(7, 7))
	for i := range 1000 {
		if x, y := p.PickRand(a), p.PickRand(b); x != y {
			t.Fatalf("pick %d of the same seed = %d and %d", i, x, y)
		}
	}
}

func TestPickTakesTheLowestTierThatIsReady(t *testing.T) {
	t.Parallel()
	target := func(name string, tier, weight int, st State) Target {
		return Target{Name: name, Subject: "s." + name, Tier: tier, Weight: weight, State: st}
	}
	tests := []struct {
		name    string
		targets []Target
		want    []string
	}{
		{"primary ready", []Target{target("b", 1, 100, Ready), target("a", 0, 100, Ready)}, []string{"a"}},
		{"primary drained", []Target{target("a", 0, 0, Drain), target("b", 3, 40, Ready), target("c", 3, 60, Ready)}, []string{"b", "c"}},
		{"one of two in maintenance", []Target{target("a", 0, 100, Ready), target("b", 0, 0, Maint)}, []string{"a"}},
	}
	for _, tt := range tests {
		s := splitOf()
		s.Targets = tt.targets
		p := mustPicker(t, s)
		var got []string
		for i, x := range p.Targets() {
			if p.Share(i) > 0 {
				got = append(got, x.Name)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: can pick %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestNewPickerRefusesAnInvalidSplit(t *testing.T) {
	t.Parallel()
	for _, s := range []Split{{}, splitOf(), splitOf(60, 30), splitOf(101, -1)} {
		var invalid *Invalid
		if _, err := NewPicker(s); !errors.As(err, &invalid) {
			t.Errorf("NewPicker(%v) = %v, want *Invalid", s.Weights(), err)
		}
	}
}

func TestPickKeyFollowsTheWeights(t *testing.T) {
	t.Parallel()
	const keys = 200_000
	for _, weights := range [][]int{{60, 30, 10}, {99, 1}, even(16)} {
		p := mustPicker(t, splitOf(weights...))
		got := make([]int, len(weights))
		for i := range keys {
			got[p.PickKey(fmt.Sprintf("customer-%d", i))]++
		}
		for i, w := range weights {
			if share := 100 * float64(got[i]) / keys; math.Abs(share-float64(w)) > 0.5 {
				t.Errorf("weights %v: target %d got %.2f %% of the keys, want %d ± 0.5", weights, i, share, w)
			}
		}
	}
}

// When one weight changes, only keys that go to or come from that target move:
// no key moves between two targets that were not touched beyond the points that
// changed hands.
func TestPickKeyMovesNoMoreThanItMust(t *testing.T) {
	t.Parallel()
	const keys = 100_000
	before := mustPicker(t, splitOf(60, 30, 10))
	after := mustPicker(t, splitOf(50, 40, 10))
	moved, wrong := 0, 0
	for i := range keys {
		key := fmt.Sprintf("customer-%d", i)
		from, to := before.PickKey(key), after.PickKey(key)
		if from == to {
			continue
		}
		moved++
		if from == 1 || to == 0 {
			wrong++
		}
	}
	if share := 100 * float64(moved) / keys; share < 9 || share > 12 {
		t.Errorf("moving 10 points moved %.1f %% of the keys, want about 10", share)
	}
	if wrong > 0 {
		t.Errorf("%d keys moved against the change of the weights", wrong)
	}
}

func TestPickKeySurvivesARemovedTarget(t *testing.T) {
	t.Parallel()
	before := mustPicker(t, splitOf(50, 25, 25))
	gone := splitOf(50, 50, 0)
	after := mustPicker(t, gone)
	for i := range 10_000 {
		key := fmt.Sprintf("k%d", i)
		if from, to := before.PickKey(key), after.PickKey(key); from == 1 && to != 1 {
			t.Fatalf("key %s left a target that gained weight", key)
		}
	}
}

// The hash is a contract with other languages: these values are in
// docs/contracts.md and never change.
func TestPickKeyIsStable(t *testing.T) {
	t.Parallel()
	if got := fnv1a("customer-42"); got != 0x1e1b8c70eb18f59e {
		t.Errorf("fnv1a(customer-42) = %#x", got)
	}
	if got := mix(fnv1a("customer-42") ^ fnv1a("t0")); got != 0xd2dcce37cfb814af {
		t.Errorf("mix = %#x", got)
	}
	p := mustPicker(t, splitOf(60, 30, 10))
	for key, want := range map[string]int{"": 0, "ключ": 0, "customer-42": 0, "customer-45": 1, "customer-46": 1, "customer-51": 2, "customer-59": 2} {
		if got := p.PickKey(key); got != want {
			t.Errorf("PickKey(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPicksDoNotAllocate(t *testing.T) {
	p := mustPicker(t, splitOf(even(16)...))
	if n := testing.AllocsPerRun(100, func() { p.Pick(); p.PickNth(7); p.PickKey("customer-42") }); n != 0 {
		t.Errorf("a pick makes %v allocations, want 0", n)
	}
}

var sink int

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 16, 256} {
		p := mustPicker(b, splitOf(even(n)...))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink = p.Pick()
			}
		})
	}
	for _, n := range []int{3, 16, 256} {
		p := mustPicker(b, splitOf(even(n)...))
		b.Run(fmt.Sprintf("nth/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			turn := uint64(0)
			for b.Loop() {
				turn++
				sink = p.PickNth(turn)
			}
		})
	}
	// As a publisher does while new revisions come all the time.
	for _, n := range []int{3, 16, 256} {
		b.Run(fmt.Sprintf("changing/%d", n), func(b *testing.B) {
			var now atomic.Pointer[Picker]
			now.Store(mustPicker(b, splitOf(even(n)...)))
			ctx, stop := context.WithCancel(b.Context())
			var writer sync.WaitGroup
			writer.Go(func() {
				tick := time.NewTicker(100 * time.Microsecond)
				defer tick.Stop()
				for ctx.Err() == nil {
					now.Store(now.Load().With([]float64{rand.Float64()}))
					<-tick.C
				}
			})
			b.ReportAllocs() // the few of the writer are in it
			turn := uint64(0)
			for b.Loop() {
				turn++
				sink = now.Load().PickNth(turn)
			}
			stop()
			writer.Wait()
		})
	}
	// The baseline: walk the weights until the draw is used up.
	for _, n := range []int{3, 16, 256} {
		weights := even(n)
		b.Run(fmt.Sprintf("baseline=scan/%d", n), func(b *testing.B) {
			for b.Loop() {
				at := rand.IntN(points)
				for i, w := range weights {
					if at -= w; at < 0 {
						sink = i
						break
					}
				}
			}
		})
	}
}

func BenchmarkPickKey(b *testing.B) {
	for _, n := range []int{3, 16, 100} {
		p := mustPicker(b, splitOf(even(n)...))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink = p.PickKey("customer-42")
			}
		})
	}
}
