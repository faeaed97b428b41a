package traffic

import (
	"math/rand/v2"
	"time"
)

// Outcome is what became of one message, as far as its target is to blame. A
// connection that is gone, or a message that the caller gave up, is none.
type Outcome int

const (
	Succeeded Outcome = iota
	Failed            // refused, or nobody there: it would not have got better by waiting
	TimedOut          // no answer in time: slow, or dead
)

// Circuit is the state of a Breaker.
type Circuit string

const (
	Closed   Circuit = "closed"    // takes its whole share, or less while it times out
	Opened   Circuit = "open"      // takes nothing
	HalfOpen Circuit = "half-open" // takes a part of its share that grows
)

// BreakerConfig are the limits of a Breaker. The zero value of a field takes its
// default.
type BreakerConfig struct {
	Consecutive int           // failures in a row that open at once; 5
	Requests    int           // outcomes in an interval before their share means anything; 20
	FailedShare float64       // share of failures in an interval that opens; 0.5
	Interval    time.Duration // over which outcomes are judged; 2 s
	OpenFor     time.Duration // first time it stays open; 10 s, doubled at each return, up to OpenMax
	OpenMax     time.Duration // 5 min
	Ramp        float64       // part of its share that a half-open target takes first; 0.1
	Growth      float64       // of that part per good interval; 1.5
	BadShare    float64       // share of failures and time-outs in an interval that opens a half-open one; 0.2
	BadRequests int           // outcomes before that share means anything; 10
}

func (c BreakerConfig) withDefaults() BreakerConfig {
	def(&c.Consecutive, 5)
	def(&c.Requests, 20)
	def(&c.FailedShare, 0.5)
	def(&c.Interval, 2*time.Second)
	def(&c.OpenFor, 10*time.Second)
	def(&c.OpenMax, 5*time.Minute)
	def(&c.Ramp, 0.1)
	def(&c.Growth, 1.5)
	def(&c.BadShare, 0.2)
	def(&c.BadRequests, 10)
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Breaker judges one target by what becomes of one publisher's messages: faster
// than any observer from outside, and without one. It is a state machine over the
// times that it is given and has no lock.
//
// Closed → open: Consecutive failures in a row, FailedShare of at least Requests
// outcomes of an interval, or no success at all among so many: a process that is
// stopped lets everything time out. Other time-outs never open it: they say slow,
// and to take a slow target's whole share away fells the next one. They lower the
// share it takes, by the square, down to a quarter.
//
// Open → half-open: after OpenFor, doubled at each return, ±20 %.
//
// Half-open → closed: the part it takes grows by Growth each good interval, in
// which something succeeded, until it is whole. Back to open: BadShare of at least
// BadRequests outcomes, or Consecutive failures in a row.
type Breaker struct {
	cfg    BreakerConfig
	random func() float64

	phase  Circuit
	begun  time.Time // of the interval
	row    int       // failures in a row
	ok     int       // in the interval
	failed int
	late   int
	part   float64       // of its share, while half-open
	slow   float64       // share of time-outs in the last interval
	hold   time.Duration // how long it stays open next
	until  time.Time     // while open
}

// NewBreaker returns a closed breaker. random spreads the times at which many
// publishers try a target again; nil is rand.Float64.
func NewBreaker(cfg BreakerConfig, random func() float64) *Breaker {
	cfg = cfg.withDefaults()
	if random == nil {
		random = rand.Float64
	}
	return &Breaker{cfg: cfg, random: random, phase: Closed, part: 1, hold: cfg.OpenFor}
}

// Circuit is the state it is in.
func (b *Breaker) Circuit() Circuit { return b.phase }

// Health is the part of its share that the target takes, for Picker.With.
func (b *Breaker) Health() float64 {
	switch b.phase {
	case Opened:
		return 0
	case HalfOpen:
		return b.part
	}
	return max(0.25, (1-b.slow)*(1-b.slow))
}

// Record counts an outcome and reports whether the health changed.
func (b *Breaker) Record(now time.Time, o Outcome) bool {
	before := b.Health()
	b.advance(now)
	switch o {
	case Succeeded:
		b.ok++
		b.row = 0
	case Failed:
		b.failed++
		b.row++
	case TimedOut:
		b.late++
	}
	if b.phase != Opened && b.row >= b.cfg.Consecutive {
		b.open(now)
	}
	return b.Health() != before
}

// Tick lets time pass without an outcome and reports whether the health changed.
func (b *Breaker) Tick(now time.Time) bool {
	before := b.Health()
	b.advance(now)
	return b.Health() != before
}

// advance ends the interval, or the time that it was open, when it is over.
func (b *Breaker) advance(now time.Time) {
	if b.begun.IsZero() {
		b.begun = now
	}
	if b.phase == Opened {
		if !now.Before(b.until) {
			b.phase, b.part = HalfOpen, b.cfg.Ramp
			b.begin(now)
		}
		return
	}
	if now.Sub(b.begun) < b.cfg.Interval {
		return
	}
	n := b.ok + b.failed + b.late
	bad := b.failed + b.late
	if b.phase == Closed && n > 0 && n < b.cfg.BadRequests && now.Sub(b.begun) < patience*b.cfg.Interval {
		return // too few say nothing yet, and are not to be forgotten
	}
	switch {
	case b.phase == HalfOpen && n >= b.cfg.BadRequests && float64(bad) >= b.cfg.BadShare*float64(n):
		b.open(now)
		return
	case b.phase == HalfOpen && b.ok > 0 && bad*2 < n: // silence proves nothing
		if b.part = b.part * b.cfg.Growth; b.part >= 1 {
			b.phase, b.part = Closed, 1
			b.hold = max(b.cfg.OpenFor, b.hold/4) // half of what it waited last
		}
	case b.phase == Closed && n >= b.cfg.Requests && (b.ok == 0 || float64(b.failed) >= b.cfg.FailedShare*float64(n)):
		b.open(now)
		return
	}
	if n >= b.cfg.BadRequests {
		b.slow = float64(b.late) / float64(n)
	} else {
		b.slow = 0
	}
	b.begin(now)
}

// patience is how many intervals outcomes are gathered for while they are few.
const patience = 10

func (b *Breaker) begin(now time.Time) {
	b.begun, b.ok, b.failed, b.late = now, 0, 0, 0
}

func (b *Breaker) open(now time.Time) {
	b.phase, b.part, b.slow, b.row = Opened, 0, 0, 0
	b.until = now.Add(time.Duration(float64(b.hold) * (0.8 + 0.4*b.random())))
	b.hold = min(2*b.hold, b.cfg.OpenMax)
	b.begin(now)
}
