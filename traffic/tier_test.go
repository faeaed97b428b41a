package traffic

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

// tiered has two targets a tier, 60 and 40, named by tier and letter.
func tiered(tiers int, spill *Spill) Split {
	s := splitOf()
	s.Spill = spill
	for tier := range tiers {
		for i, w := range []int{60, 40} {
			name := fmt.Sprintf("%d%c", tier, 'a'+i)
			s.Targets = append(s.Targets, Target{Name: name, Subject: "s." + name, Tier: tier, Weight: w, State: Ready})
		}
	}
	return s
}

func TestTiersSpillOver(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		spill  *Spill
		health []float64 // 0a 0b 1a 1b
		want   []float64 // percent
	}{
		{"all healthy", nil, nil, []float64{60, 40, 0, 0}},
		{"more health than whole is whole", nil, []float64{7, 1, 1, 1}, []float64{60, 40, 0, 0}},
		{"what is missing the factor makes up for", nil, []float64{1, 0.5, 1, 1}, []float64{75, 25, 0, 0}},           // 0.8 × 1.4 > 1
		{"the smaller one is down", nil, []float64{1, 0, 1, 1}, []float64{84, 0, 9.6, 6.4}},                          // 0.6 × 1.4 = 0.84
		{"the bigger one is down", nil, []float64{0, 1, 1, 1}, []float64{0, 56, 26.4, 17.6}},                         // 0.4 × 1.4 = 0.56
		{"the primary is down", nil, []float64{0, 0, 1, 1}, []float64{0, 0, 60, 40}},                                 //
		{"no head-room", &Spill{Factor: 100}, []float64{1, 0, 1, 1}, []float64{60, 0, 24, 16}},                       //
		{"both tiers are hurt, and carry it", nil, []float64{0, 1, 1, 0}, []float64{0, 56, 44, 0}},                   // 0.56 + 0.84 ≥ 1
		{"both are hurt too much: panic", nil, []float64{0, 0.5, 0, 0.5}, []float64{30, 20, 30, 20}},                 // 0.28 each
		{"panic is off", &Spill{Panic: 1}, []float64{0, 0.5, 0, 0.5}, []float64{0, 50, 0, 50}},                       //
		{"one panics, one does not", &Spill{Factor: 100}, []float64{0, 0.25, 1, 0}, []float64{8.57, 5.71, 85.71, 0}}, // 0.1 and 0.6 of 0.7
		{"nobody is healthy", nil, []float64{0, 0, 0, 0}, []float64{60, 40, 0, 0}},                                   //
		{"not a number is not healthy", nil, []float64{math.NaN(), 1, 1, 1}, []float64{0, 56, 26.4, 17.6}},           //
		{"too short a list: the rest is healthy", nil, []float64{0}, []float64{0, 56, 26.4, 17.6}},                   //
	}
	for _, tt := range tests {
		p := mustPicker(t, tiered(2, tt.spill)).With(tt.health)
		got := make([]float64, 4)
		for n := range uint64(100_000) {
			got[p.PickNth(n)] += 100.0 / 100_000
		}
		for i, want := range tt.want {
			if math.Abs(100*p.Share(i)-want) > 0.01 {
				t.Errorf("%s: the share of %s is %.2f %%, want %.2f", tt.name, p.Targets()[i].Name, 100*p.Share(i), want)
			}
			if math.Abs(got[i]-want) > 0.1 {
				t.Errorf("%s: %s gets %.2f %% of the messages, want %.2f", tt.name, p.Targets()[i].Name, got[i], want)
			}
		}
	}
}

// Whatever the health, shares are a division: none negative, together one, and
// nothing for an unhealthy target unless there is panic.
func TestSharesAreADivision(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		s := tiered(1+rnd.IntN(3), &Spill{Factor: 100 + rnd.IntN(300), Panic: rnd.IntN(101)})
		s.Order = []Order{Spread, Smooth, Random}[rnd.IntN(3)]
		health := make([]float64, len(s.Targets))
		for i := range health {
			health[i] = []float64{0, 1, rnd.Float64()}[rnd.IntN(3)]
		}
		p := mustPicker(t, s).With(health)
		sum := 0.0
		for i := range health {
			if p.share[i] < 0 || math.IsNaN(p.share[i]) {
				t.Fatalf("health %v: share %d is %v", health, i, p.share[i])
			}
			sum += p.share[i]
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("health %v: the shares sum to %v", health, sum)
		}
		for i, level := range p.tiers {
			for j := level.from; j < level.to; j++ {
				if health[j] == 0 && !level.panic && p.share[j] > 0 {
					t.Fatalf("health %v: target %d of tier %d gets %v", health, j, i, p.share[j])
				}
			}
		}
		for _, at := range p.table {
			if p.share[at] == 0 {
				t.Fatalf("health %v: target %d is in the table", health, at)
			}
		}
	}
}

// Smooth weighted round robin is exact over any 100 messages in a row, so over
// any 1,000 too.
func TestSmoothIsExact(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, weights := range [][]int{{60, 30, 10}, {1, 99}, {100}, {34, 33, 33}, even(16), even(100)} {
		s := splitOf(weights...)
		s.Order = Smooth
		p := mustPicker(t, s)
		for range 200 {
			got := make([]int, len(weights))
			start := rnd.Uint64N(math.MaxUint64 - 2000)
			for n := range uint64(1000) {
				got[p.PickNth(start+n)]++
			}
			for i, w := range weights {
				if got[i] != 10*w {
					t.Fatalf("weights %v from %d: target %d got %d of 1,000, want %d", weights, start, i, got[i], 10*w)
				}
			}
		}
	}
	// nginx's own example: 5, 1, 1 is a a b a c a a.
	if got := fmt.Sprint(smooth([]int{5, 1, 1}, 7)); got != "[0 0 1 0 2 0 0]" {
		t.Errorf("5 1 1 is visited as %s", got)
	}
}

// While nothing is in flight the weights alone decide; a target that stalls gets
// nearly nothing, and one that works off what it gets keeps its share.
func TestTwoChoices(t *testing.T) {
	t.Parallel()
	weights := []int{50, 30, 20}
	s := splitOf(weights...)
	s.Local = TwoChoices
	p := mustPicker(t, s)
	idle := loads(p)
	got := make([]int, 3)
	for n := range uint64(200_000) {
		got[p.PickTwo(n, idle)]++
	}
	for i, w := range weights {
		if share := float64(got[i]) / 2000; math.Abs(share-float64(w)) > 0.5 {
			t.Errorf("idle: target %d got %.2f %%, want %d", i, share, w)
		}
	}
	// Target 0 answers nothing any more; the others answer at once.
	in := loads(p)
	stalled := 0
	for n := range uint64(10_000) {
		if i := p.PickTwo(n, in); i == 0 {
			in[0].Add(1)
			stalled++
		}
	}
	// It is taken only when it is drawn twice: a quarter instead of a half.
	if share := float64(stalled) / 10_000; share > 0.27 {
		t.Errorf("a stalled target with half of the weight gets %.1f %% of the messages", 100*share)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	b := NewBudget(nil)
	for i := range 100 {
		if !b.Retry() {
			t.Fatalf("retry %d of a full budget was refused", i)
		}
	}
	if b.Retry() {
		t.Error("an empty budget gave a retry")
	}
	retries := 0
	for range 1000 { // everything fails and wants to be tried three times
		b.Sent()
		for range 3 {
			if b.Retry() {
				retries++
			}
		}
	}
	if retries != 200 {
		t.Errorf("%d retries of 1,000 messages, the budget is 20 %%", retries)
	}
	for range 10_000 { // a calm hour saves up no more than the burst
		b.Sent()
	}
	for retries = 0; b.Retry(); retries++ {
	}
	if retries != 100 {
		t.Errorf("%d retries after a calm hour, want 100", retries)
	}
	if b := NewBudget(&Retries{Percent: 50, Burst: 1}); !b.Retry() || b.Retry() {
		t.Error("a burst of 1 is not 1")
	} else if b.Sent(); b.Retry() {
		t.Error("half a retry is a whole one")
	} else if b.Sent(); !b.Retry() {
		t.Error("two halves are none")
	}
}

func TestLanes(t *testing.T) {
	t.Parallel()
	s := splitOf(60, 40)
	for name, want := range map[string]string{"medium": "medium", "high": "high", "low": "low"} {
		if l, ok := s.Lane(name); !ok || l.Name != want {
			t.Errorf("lane %q is %q, %v", name, l.Name, ok)
		}
	}
	s.Lanes = []Lane{{Name: "bulk", TimeoutMS: 10, Fallback: "t1"}}
	for name, want := range map[string]bool{"bulk": true, "high": false, "": false} {
		if _, ok := s.Lane(name); ok != want {
			t.Errorf("a split with lane bulk has lane %q: %v", name, ok)
		}
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	for field, set := range map[string]func(*Split){
		"order":                func(s *Split) { s.Order = "sorted" },
		"local":                func(s *Split) { s.Local = "best" },
		"key":                  func(s *Split) { s.Key = &Keyed{} },
		"key.from":             func(s *Split) { s.Pick, s.Key = ByKey, &Keyed{From: "body"} },
		"key.header":           func(s *Split) { s.Pick, s.Key = ByKey, &Keyed{Header: "a b"} },
		"key.token":            func(s *Split) { s.Pick, s.Key = ByKey, &Keyed{From: FromToken} },
		"key.hash":             func(s *Split) { s.Pick, s.Key = ByKey, &Keyed{Hash: "md5"} },
		"key.bound":            func(s *Split) { s.Pick, s.Key = ByKey, &Keyed{Bound: 99} },
		"spill.factor":         func(s *Split) { s.Spill = &Spill{Factor: 99} },
		"spill.panic":          func(s *Split) { s.Spill = &Spill{Panic: 101} },
		"lanes.0.name":         func(s *Split) { s.Lanes = []Lane{{Name: "a b", TimeoutMS: 1}} },
		"lanes.high.name":      func(s *Split) { s.Lanes = []Lane{{Name: "high", TimeoutMS: 1}, {Name: "high", TimeoutMS: 1}} },
		"lanes.high.timeoutms": func(s *Split) { s.Lanes = []Lane{{Name: "high"}} },
		"lanes.high.retries":   func(s *Split) { s.Lanes = []Lane{{Name: "high", TimeoutMS: 1, Retries: 11}} },
		"lanes.high.target":    func(s *Split) { s.Lanes = []Lane{{Name: "high", TimeoutMS: 1, Target: "nobody"}} },
		"lanes.high.fallback":  func(s *Split) { s.Lanes = []Lane{{Name: "high", TimeoutMS: 1, Target: "t0", Fallback: "t0"}} },
		"lanes":                func(s *Split) { s.Lanes = make([]Lane, MaxLanes+1) },
		"retry.percent":        func(s *Split) { s.Retry = &Retries{Percent: 101} },
		"retry.burst":          func(s *Split) { s.Retry = &Retries{Burst: -1} },
	} {
		s := splitOf(60, 40)
		set(&s)
		err, _ := s.Validate().(*Invalid)
		found := false
		if err != nil {
			for _, p := range err.Problems {
				found = found || p.Field == field
			}
		}
		if !found {
			t.Errorf("%s: Validate says %v", field, err)
		}
	}
}

// Publishers pick while revisions and health change under them.
func TestPickWhileThePickerChanges(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[Picker]
	now.Store(mustPicker(t, tiered(2, nil)))
	stop := make(chan struct{})
	done := make(chan [4]int)
	for w := range uint64(4) {
		go func() {
			var got [4]int
			defer func() { done <- got }()
			for n := w << 32; ; n++ {
				select {
				case <-stop:
					return
				default:
					got[now.Load().PickNth(n)]++
				}
			}
		}()
	}
	for i := range 2000 {
		p := mustPicker(t, tiered(2, nil))
		now.Store(p.With([]float64{float64(i % 2), 1, 1, 1}))
	}
	close(stop)
	total := 0
	for range 4 {
		for _, n := range <-done {
			total += n
		}
	}
	if total == 0 {
		t.Error("nobody picked")
	}
}

func BenchmarkPickWhileRevisionsChange(b *testing.B) {
	for _, n := range []int{3, 16, 256} {
		var now atomic.Pointer[Picker]
		now.Store(mustPicker(b, splitOf(even(n)...)))
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			a, c := now.Load(), now.Load().With(make([]float64, 1))
			for {
				select {
				case <-stop:
					return
				default:
					now.Store(a)
					now.Store(c)
				}
			}
		}()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			turn := uint64(0)
			for b.Loop() {
				turn++
				sink = now.Load().PickNth(turn)
			}
		})
		close(stop)
		<-ended
	}
}

func BenchmarkPickTwo(b *testing.B) {
	for _, n := range []int{3, 16, 256} {
		p := mustPicker(b, splitOf(even(n)...))
		in := loads(p)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			turn := uint64(0)
			for b.Loop() {
				turn++
				sink = p.PickTwo(turn, in)
			}
		})
	}
}

// A lane's messages leave a target of their own by what its health lacks, and one
// that was picked only when it takes nothing.
func TestLaneFallsBack(t *testing.T) {
	own, picked := Lane{Target: "a", Fallback: "b"}, Lane{Fallback: "b"}
	for _, c := range []struct {
		lane             Lane
		target, fallback float64
		want             float64 // share that falls back
	}{
		{own, 1, 1, 0}, {own, 0.25, 1, 0.75}, {own, 0.5, 0.5, 0}, {own, 0, 0, 0}, {own, 0, 0.1, 1},
		{picked, 0.1, 1, 0}, {picked, 0, 1, 1}, {picked, 0, 0, 0}, {picked, 1, 1, 0},
	} {
		back := 0.0
		for n := range uint64(10_000) {
			if c.lane.FallsBack(n, c.target, c.fallback) {
				back += 1.0 / 10_000
			}
		}
		if math.Abs(back-c.want) > 0.02 {
			t.Errorf("%+v with health %v and %v: %.3f fall back, want %v", c.lane, c.target, c.fallback, back, c.want)
		}
	}
}
