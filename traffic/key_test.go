package traffic

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// keyed is a split that picks by key.
func keyed(h Hash, bound int, weights ...int) Split {
	s := splitOf(weights...)
	s.Pick, s.Key = ByKey, &Keyed{Hash: h, Bound: bound}
	return s
}

func loads(p *Picker) Loads {
	in := make(Loads, len(p.Targets()))
	for i := range in {
		in[i] = new(atomic.Int64)
	}
	return in
}

// A target is added, or removed, by twenty sets of names: with the default at most
// 1.15 times the keys move that must, whatever the names are. The ring's 160
// points a target leave the share of a new one to chance, by about 1/√160: of many
// sets half move more than that.
func TestAnAddedTargetMovesFewKeys(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ before, after []int }{
		"a tenth equal one":         {[]int{12, 11, 11, 11, 11, 11, 11, 11, 11, 0}, even(10)},
		"a tenth beside a big one":  {[]int{30, 10, 10, 10, 10, 10, 10, 5, 5, 0}, []int{27, 9, 9, 9, 9, 9, 9, 5, 4, 10}},
		"an eighth of unequal ones": {[]int{30, 20, 10, 10, 10, 10, 10, 0}, []int{27, 18, 9, 9, 9, 9, 9, 10}},
		"one of ten goes":           {even(10), []int{0, 12, 11, 11, 11, 11, 11, 11, 11, 11}},
	} {
		for h, most := range map[Hash]struct{ middle, worst float64 }{Rendezvous: {1.10, 1.15}, Ring: {1.25, 1.6}} {
			var ratios []float64
			for set := range 20 {
				before, after := keyed(h, 0, tt.before...), keyed(h, 0, tt.after...)
				for i := range before.Targets {
					before.Targets[i].Name = fmt.Sprintf("worker-%d-%d", set, i)
					after.Targets[i].Name = before.Targets[i].Name
				}
				m, err := MovedKeys(before, after)
				if err != nil {
					t.Fatal(err)
				}
				ratios = append(ratios, m.Keys/m.Least)
				gained, lost := 0.0, 0.0
				for _, v := range m.Gained {
					gained += v
				}
				for _, v := range m.Lost {
					lost += v
				}
				if math.Abs(gained-m.Keys) > 1e-9 || math.Abs(lost-m.Keys) > 1e-9 {
					t.Errorf("%s: gained %v and lost %v of %v", h, gained, lost, m.Keys)
				}
			}
			slices.Sort(ratios)
			middle, worst := ratios[len(ratios)/2], ratios[len(ratios)-1]
			t.Logf("%s, %s: of the keys that must move %.2f × do, at worst %.2f ×", name, h, middle, worst)
			if middle > most.middle || worst > most.worst {
				t.Errorf("%s, %s: %.2f × of the keys that must move do, at worst %.2f ×; want at most %.2f × and %.2f ×",
					name, h, middle, worst, most.middle, most.worst)
			}
		}
	}
}

// A million keys: the default keeps every weight within 0.2 points.
func TestAMillionKeysFollowTheWeights(t *testing.T) {
	t.Parallel()
	const keys = 1_000_000
	for _, weights := range [][]int{{60, 30, 10}, {99, 1}, even(10)} {
		p := mustPicker(t, keyed(Rendezvous, 0, weights...))
		got := make([]int, len(weights))
		buf := []byte("customer-")
		for i := range keys {
			got[p.PickKey(string(strconv.AppendInt(buf, int64(i), 10)))]++
		}
		for i, w := range weights {
			if share := 100 * float64(got[i]) / keys; math.Abs(share-float64(w)) > 0.2 {
				t.Errorf("weights %v: target %d got %.2f %% of the keys, want %d ± 0.2", weights, i, share, w)
			}
		}
	}
}

// The preview is what happens to real keys.
func TestThePreviewIsRight(t *testing.T) {
	t.Parallel()
	const keys = 100_000
	for _, h := range []Hash{Rendezvous, Ring} {
		before, after := keyed(h, 0, 60, 30, 10), keyed(h, 0, 40, 35, 25)
		m, err := MovedKeys(before, after)
		if err != nil {
			t.Fatal(err)
		}
		a, b, moved := mustPicker(t, before), mustPicker(t, after), 0
		for i := range keys {
			key := fmt.Sprintf("customer-%d", i)
			if a.PickKey(key) != b.PickKey(key) {
				moved++
			}
		}
		if got := float64(moved) / keys; math.Abs(got-m.Keys) > 0.01 {
			t.Errorf("%s: %.2f %% of real keys moved, the preview says %.2f", h, 100*got, 100*m.Keys)
		}
	}
	if _, err := MovedKeys(splitOf(60, 30), splitOf(60, 40)); err == nil {
		t.Error("an invalid split was previewed")
	}
}

// With a bound of 125 no target ever has more than a quarter above its share in
// flight, however unequal the keys are; without one a hot key does what it likes.
func TestBoundedLoads(t *testing.T) {
	t.Parallel()
	for _, h := range []Hash{Rendezvous, Ring} {
		for _, weights := range [][]int{even(10), {60, 30, 10}} {
			p := mustPicker(t, keyed(h, 125, weights...))
			in := loads(p)
			hot := 0
			const messages = 20_000
			for i := range messages {
				key := fmt.Sprintf("customer-%d", i)
				if i%3 == 0 {
					key = "the hot one"
				}
				at := p.PickKeyBounded(key, in)
				if key == "the hot one" && at == p.PickKey(key) {
					hot++
				}
				in[at].Add(1)
				for j := range in {
					limit := math.Ceil(1.25 * p.Share(j) * float64(i+1))
					if got := in[j].Load(); float64(got) > limit {
						t.Fatalf("%s %v: target %d has %d of %d in flight, the bound is %v", h, weights, j, got, i+1, limit)
					}
				}
			}
			if hot == 0 {
				t.Errorf("%s %v: the hot key never met its own target", h, weights)
			}
			// Without pressure a key stays where it is.
			calm := loads(p)
			for j := range calm {
				calm[j].Store(int64(1000 * p.Share(j)))
			}
			for i := range 1000 {
				key := fmt.Sprintf("customer-%d", i)
				if got, want := p.PickKeyBounded(key, calm), p.PickKey(key); got != want {
					t.Fatalf("%s %v: an even load moved %s from %d to %d", h, weights, key, want, got)
				}
			}
		}
	}
}

// What a key has lost it gets back when its target is healthy again, and other
// keys never move.
func TestAFailedTargetMovesItsOwnKeysOnly(t *testing.T) {
	t.Parallel()
	for _, h := range []Hash{Rendezvous, Ring} {
		p := mustPicker(t, keyed(h, 0, 50, 25, 25))
		down := p.With([]float64{1, 0, 1})
		half := p.With([]float64{1, 0.5, 1})
		back := down.With([]float64{1, 1, 1})
		kept, own := 0, 0
		for i := range 20_000 {
			key := fmt.Sprintf("k%d", i)
			was := p.PickKey(key)
			if got := down.PickKey(key); got == 1 || was != 1 && got != was {
				t.Fatalf("%s: key %s of target %d went to %d while target 1 is down", h, key, was, got)
			}
			got := half.PickKey(key)
			if was != 1 && got != was {
				t.Fatalf("%s: key %s of target %d went to %d while target 1 is half healthy", h, key, was, got)
			}
			if was == 1 {
				own++
				if got == 1 {
					kept++
				}
			}
			if got := back.PickKey(key); got != was {
				t.Fatalf("%s: key %s of target %d is at %d after the recovery", h, key, was, got)
			}
		}
		if share := float64(kept) / float64(own); math.Abs(share-0.5) > 0.1 {
			t.Errorf("%s: a target at half its health keeps %.0f %% of its keys", h, 100*share)
		}
	}
}

// The hash of the ring is a contract with other languages, as that of the
// rendezvous: docs/contracts.md names these values.
func TestTheRingIsStable(t *testing.T) {
	t.Parallel()
	p := mustPicker(t, keyed(Ring, 0, 60, 30, 10))
	if n := len(p.tiers[0].ring); n != 480 {
		t.Errorf("the ring has %d virtual nodes, want 3 × 160", n)
	}
	if h := p.tiers[0].ring[0]; h.hash >= p.tiers[0].ring[1].hash {
		t.Errorf("the ring is not in order")
	}
	if got := mix(fnv1a("t0#0")); got != 0xd63aec4a75baaa59 {
		t.Errorf("the first virtual node of t0 is at %#x", got)
	}
	for key, want := range ringVectors {
		if got := p.PickKey(key); got != want {
			t.Errorf("PickKey(%q) = %d, want %d", key, got, want)
		}
	}
}

// Passing over targets that are beaten anyway changes no pick.
func TestTheHighestScoreWins(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]int{{60, 30, 10}, {1, 99}, even(16), even(100), {50, 0, 0, 25, 25}} {
		whole := mustPicker(t, keyed(Rendezvous, 0, weights...))
		for _, p := range []*Picker{whole, whole.With([]float64{0.1, 1})} {
			for n := range uint64(50_000) {
				k := mix(n * golden)
				best, want := math.Inf(-1), -1
				for i, s := range p.share {
					if score := -s / math.Log(unit(mix(k^p.hash[i]))); s > 0 && score > best {
						best, want = score, i
					}
				}
				if got := p.pickHash(k, nil); got != want {
					t.Fatalf("weights %v: hash %#x went to target %d, the highest score has %d", weights, k, got, want)
				}
			}
		}
	}
}

// Every way to hash side by side: how unequal the load is at unequal weights, and
// how many keys move when an eighth target takes a tenth from all. go test -run Compare -v shows it.
func TestCompareHashes(t *testing.T) {
	t.Parallel()
	const keys = 200_000
	weights := []int{30, 20, 10, 10, 10, 10, 10}
	grown := []int{27, 18, 9, 9, 9, 9, 9, 10}
	text := &strings.Builder{}
	fmt.Fprintf(text, "\n%-12s %10s %22s\n", "hash", "max/share", "moved of those that must")
	for _, alg := range rivals {
		before, after := alg.build(weights), alg.build(grown)
		got, moved := make([]int, len(weights)), 0
		for i := range keys {
			key := fmt.Sprintf("customer-%d", i)
			a, b := before(key), after(key)
			got[a]++
			if a != b {
				moved++
			}
		}
		worst := 0.0
		for i, w := range weights {
			worst = max(worst, float64(got[i])/keys/(float64(w)/100))
		}
		least := 0.0
		for i := range grown {
			was := 0
			if i < len(weights) {
				was = weights[i]
			}
			least += max(0, float64(grown[i]-was)/100)
		}
		ratio := float64(moved) / keys / least
		fmt.Fprintf(text, "%-12s %10.3f %22.2f\n", alg.name, worst, ratio)
		if alg.name == "rendezvous" && (worst > 1.05 || ratio > 1.15) {
			t.Errorf("rendezvous: %.3f of the share at worst, %.2f of the keys that must move", worst, ratio)
		}
	}
	t.Log(text)
}

type rival struct {
	name  string
	build func(weights []int) func(key string) int
}

// rivals are ours and what others use. Mod-N and jump know no weights: a target
// stands there once for each percent.
var rivals = []rival{
	{"rendezvous", func(w []int) func(string) int { return must(keyed(Rendezvous, 0, w...)).PickKey }},
	{"ring", func(w []int) func(string) int { return must(keyed(Ring, 0, w...)).PickKey }},
	{"mod-n", func(w []int) func(string) int {
		table := spelled(w)
		return func(key string) int { return table[mix(fnv1a(key))%uint64(len(table))] }
	}},
	{"jump", func(w []int) func(string) int {
		table := spelled(w)
		return func(key string) int { return table[jump(fnv1a(key), len(table))] }
	}},
	{"maglev", maglev},
}

func must(s Split) *Picker {
	p, err := NewPicker(s)
	if err != nil {
		panic(err)
	}
	return p
}

func spelled(weights []int) []int {
	var table []int
	for i, w := range weights {
		for range w {
			table = append(table, i)
		}
	}
	return table
}

// jump is the jump consistent hash (Lamping, Veach 2014, figure 1).
func jump(key uint64, buckets int) int {
	b, j := int64(-1), int64(0)
	for j < int64(buckets) {
		b = j
		key = key*2862933555777941757 + 1
		j = int64(float64(b+1) * (float64(int64(1)<<31) / float64((key>>33)+1)))
	}
	return int(b)
}

// maglev is the lookup table of Maglev (Eisenbud et al., NSDI 2016, 3.4), with
// turns by weight.
func maglev(weights []int) func(string) int {
	const size = 65537
	type seat struct{ offset, skip, next uint64 }
	seats := make([]seat, len(weights))
	for i := range weights {
		h := fnv.New64a()
		fmt.Fprintf(h, "t%d", i)
		seats[i] = seat{offset: mix(h.Sum64()) % size, skip: mix(h.Sum64()^golden)%(size-1) + 1}
	}
	table := slices.Repeat([]int{-1}, size)
	credit := make([]int, len(weights))
	for filled := 0; filled < size; {
		for i := range seats {
			if credit[i] += weights[i]; credit[i] < slices.Max(weights) {
				continue
			}
			credit[i] -= slices.Max(weights)
			for {
				at := (seats[i].offset + seats[i].next*seats[i].skip) % size
				seats[i].next++
				if table[at] < 0 {
					table[at] = i
					break
				}
			}
			if filled++; filled == size {
				break
			}
		}
	}
	return func(key string) int { return table[mix(fnv1a(key))%size] }
}

func BenchmarkHash(b *testing.B) {
	for _, n := range []int{3, 10, 100} {
		for _, alg := range rivals {
			pick := alg.build(even(n))
			b.Run(fmt.Sprintf("%s/%d", alg.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink = pick("customer-42")
				}
			})
		}
	}
}

func BenchmarkPickKeyBounded(b *testing.B) {
	for _, h := range []Hash{Rendezvous, Ring} {
		for _, n := range []int{3, 16, 100} {
			p := mustPicker(b, keyed(h, 125, even(n)...))
			in := loads(p)
			b.Run(fmt.Sprintf("%s/%d", h, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink = p.PickKeyBounded("customer-42", in)
				}
			})
		}
	}
}

// ringVectors are keys and their targets at weights 60, 30, 10.
var ringVectors = map[string]int{
	"customer-40": 1, "customer-41": 0, "customer-42": 1, "customer-43": 2, "customer-44": 0, "customer-54": 2,
}
