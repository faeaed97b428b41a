package traffic

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// rig is a breaker on a clock of its own, without the spread of its returns.
type rig struct {
	*Breaker
	now time.Time
}

func newRig() *rig {
	return &rig{NewBreaker(BreakerConfig{}, func() float64 { return 0.5 }), time.Unix(1_800_000_000, 0)}
}

// feed gives n outcomes evenly over d.
func (r *rig) feed(n int, d time.Duration, o func(i int) Outcome) {
	for i := range n {
		r.now = r.now.Add(d / time.Duration(n))
		r.Record(r.now, o(i))
	}
}

func always(o Outcome) func(int) Outcome { return func(int) Outcome { return o } }

func TestBreakerOpensAtFiveFailuresInARow(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.feed(100, time.Second, always(Succeeded))
	r.feed(4, time.Millisecond, always(Failed))
	if r.Circuit() != Closed || r.Health() != 1 {
		t.Fatalf("after four failures it is %s, health %v", r.Circuit(), r.Health())
	}
	if !r.Record(r.now, Failed) || r.Circuit() != Opened || r.Health() != 0 {
		t.Fatalf("after five it is %s, health %v", r.Circuit(), r.Health())
	}
}

func TestBreakerOpensAtHalfOfAnInterval(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		every int // one of so many fails
		want  Circuit
	}{{2, Opened}, {3, Closed}} {
		r := newRig()
		r.feed(100, 5*time.Second, func(i int) Outcome {
			if i%tt.every == 0 {
				return Failed
			}
			return Succeeded
		})
		if r.Circuit() != tt.want {
			t.Errorf("one of %d fails: it is %s, want %s", tt.every, r.Circuit(), tt.want)
		}
	}
	r := newRig()
	r.feed(15, 10*time.Second, func(i int) Outcome { return Outcome(i % 2) })
	if r.Circuit() != Closed {
		t.Errorf("too few outcomes opened it: %s", r.Circuit())
	}
}

// Slow is not dead: time-outs lower the share, and never to nothing while anything
// succeeds.
func TestTimeOutsLowerTheShare(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.feed(200, 4*time.Second, func(i int) Outcome {
		if i%10 == 0 {
			return TimedOut
		}
		return Succeeded
	})
	if h := r.Health(); r.Circuit() != Closed || math.Abs(h-0.81) > 0.02 {
		t.Errorf("a tenth times out: %s, health %.2f, want 0.81", r.Circuit(), h)
	}
	r.feed(200, 5*time.Second, func(i int) Outcome {
		if i%10 == 0 {
			return Succeeded
		}
		return TimedOut
	})
	if h := r.Health(); r.Circuit() != Closed || h != 0.25 {
		t.Errorf("nine of ten time out: %s, health %.2f, want 0.25", r.Circuit(), h)
	}
	r.feed(200, 5*time.Second, always(Succeeded))
	if h := r.Health(); h != 1 {
		t.Errorf("it is fast again: health %.2f", h)
	}
}

// A process that is stopped answers nothing at all.
func TestBreakerOpensWhenNothingSucceeds(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.feed(100, 2*time.Second, always(Succeeded))
	r.feed(19, 2100*time.Millisecond, always(TimedOut))
	if r.Circuit() != Closed {
		t.Errorf("too few time-outs opened it: %s", r.Circuit())
	}
	r.feed(100, 3*time.Second, always(TimedOut))
	if r.Circuit() != Opened {
		t.Errorf("when all time out it is %s", r.Circuit())
	}
}

// It comes back over a ramp, never at once, and waits longer each time it fails
// again.
func TestBreakerComesBackOverARamp(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.feed(5, time.Millisecond, always(Failed))
	r.now = r.now.Add(9900 * time.Millisecond)
	if r.Tick(r.now); r.Circuit() != Opened {
		t.Fatalf("before its time it is %s", r.Circuit())
	}
	r.now = r.now.Add(200 * time.Millisecond)
	if !r.Tick(r.now) || r.Circuit() != HalfOpen || r.Health() != 0.1 {
		t.Fatalf("after its time it is %s, health %v", r.Circuit(), r.Health())
	}
	// Silence proves nothing.
	r.now = r.now.Add(time.Minute)
	if r.Tick(r.now); r.Health() != 0.1 {
		t.Fatalf("silence raised the health to %v", r.Health())
	}
	steps, last := 0, r.Health()
	for r.Circuit() == HalfOpen {
		r.feed(50, 2*time.Second, always(Succeeded))
		if h := r.Health(); h > 1.5*last+1e-9 && h < 1 || h < last {
			t.Fatalf("health went from %v to %v", last, h)
		}
		last = r.Health()
		if steps++; steps > 20 {
			t.Fatal("it never closes")
		}
	}
	if steps < 5 || steps > 8 {
		t.Errorf("it took %d intervals to close, want about 6", steps)
	}

	// It fails half-open: the next wait is twice as long.
	r = newRig()
	wait := 10 * time.Second
	for range 8 {
		r.feed(5, time.Millisecond, always(Failed))
		if r.Circuit() != Opened {
			t.Fatalf("it is %s", r.Circuit())
		}
		if got := r.until.Sub(r.now); got != min(wait, 5*time.Minute) {
			t.Fatalf("it waits %v, want %v", got, min(wait, 5*time.Minute))
		}
		wait *= 2
		r.now = r.until
		r.Tick(r.now)
	}
	// A fifth of bad outcomes is enough to open a half-open one.
	r.feed(25, 3*time.Second, func(i int) Outcome {
		if i%4 == 0 {
			return TimedOut
		}
		return Succeeded
	})
	if r.Circuit() != Opened {
		t.Errorf("half-open with a quarter of time-outs it is %s", r.Circuit())
	}
}

// Whatever happens: health is in 0..1, 0 only while open, and it never jumps up
// from nothing to everything.
func TestBreakerNeverJumps(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		b := NewBreaker(BreakerConfig{}, rnd.Float64)
		now := time.Unix(1_800_000_000, 0)
		last := b.Health()
		for range 2000 {
			now = now.Add(time.Duration(rnd.ExpFloat64() * float64(500*time.Millisecond)))
			if rnd.IntN(4) == 0 {
				b.Tick(now)
			} else {
				b.Record(now, Outcome(rnd.IntN(3)))
			}
			h := b.Health()
			if h < 0 || h > 1 || math.IsNaN(h) || (h == 0) != (b.Circuit() == Opened) {
				t.Fatalf("seed %d: %s with health %v", seed, b.Circuit(), h)
			}
			if last == 0 && h > 0.1 {
				t.Fatalf("seed %d: from nothing to %v at once", seed, h)
			}
			last = h
		}
	}
}
