// Package tuner turns what was measured of a split's targets into a suggestion
// of better weights, or into the reason why there is none. It owns the capacity
// estimates, the laws and the guards. It is arithmetic only: it reads no clock,
// does no I/O, never applies anything, and the same inputs in the same order
// give the same decisions, byte for byte.
package tuner

import (
	"sync"
	"time"

	"ballast/traffic"
)

// Config are the tuner's constants. The zero value of a field takes its default.
type Config struct {
	// Design is the utilization the weights are computed for when the traffic is
	// lighter. The best split at 35 % load starves the slow targets, and a burst
	// to 90 % then destroys them; 0.8 is the knee. Default 0.8.
	Design float64
	// Floor is the least weight of a READY target, so that samples keep coming.
	// Splits of more than fifty READY targets have none. Default 1.
	Floor int
	// DeadBand is the relative deviation of a weight below which nothing is
	// suggested; weights under 5 % are measured against 5 %. Default 0.10.
	DeadBand float64
	// MinPoints is the absolute one: traffic itself strays by so much from its
	// weights over a thousand messages. Default 3.
	MinPoints float64
	// MinGain is the least improvement for which an operator's attention is
	// asked: of the highest utilization at the design load, or of the predicted
	// mean latency at the present one. Default 0.10.
	MinGain float64
	// MaxLoss is the most that an ordinary move may lengthen the predicted mean
	// latency at the present load to win headroom, as long as no target is busier
	// than Design. Default 0.10.
	MaxLoss float64
	// Growth limits how much of itself a target may gain in one ordinary step:
	// samples of the next step must confirm that it bears the last. Default 0.5.
	Growth float64
	// GrowthPoints is what a small target may gain in any case: without it one at
	// the floor would need a dozen approvals to return. Default 10.
	GrowthPoints float64
	// Hot is the utilization above which a queue grows faster than an operator
	// reads, so that relief is suggested at once and in full. Default 0.95.
	Hot float64
	// HotWait is the wait in a target's backlog that makes a busy target hot.
	// Default 250 ms.
	HotWait time.Duration
	// DrainTime is the time in which a backlog should be gone; a target gets so
	// much less. Default 10 s.
	DrainTime time.Duration
	// DrainShare is the largest part of a target's capacity that draining may
	// take: more would make the suggestion change while it is being read.
	// Default 0.5.
	DrainShare float64
	// Expiry is how long a proposal stands. Default 60 s.
	Expiry time.Duration
	// MinSamples is the number of acknowledgements before a target is judged at
	// all, and before relief rests on its latest estimate. Default 20.
	MinSamples uint64
	// SureSamples is the number of latency samples a target needs for high
	// confidence. Default 100.
	SureSamples uint64
	// StaleIntervals is the age, in intervals of the collector, at which a
	// target's figures are stale. Default 3.
	StaleIntervals int
	// ReportAge is how long the last worker report stands for the workers: three
	// of their intervals. Default 15 s.
	ReportAge time.Duration
	// Persist is the number of decisions in a row that must call for an ordinary
	// move before it is suggested. Relief does not wait. Default 3.
	Persist int
	// DampWindow is how long after a change a move in the opposite direction
	// counts as oscillation and is halved. Default 60 s.
	DampWindow time.Duration
	// Evidence is the least span over which latencies are summed up for the
	// explanation, when so much is there; it is at most twice that. Default 10 s.
	Evidence time.Duration
	// Silence is how long a target with a backlog may acknowledge nothing before
	// it counts as dead; ten times its processing time if that is more. Default 6 s.
	Silence time.Duration
}

func (c Config) withDefaults() Config {
	def(&c.Design, 0.8)
	def(&c.Floor, 1)
	def(&c.DeadBand, 0.10)
	def(&c.MinPoints, 3)
	def(&c.MinGain, 0.10)
	def(&c.MaxLoss, 0.10)
	def(&c.Growth, 0.5)
	def(&c.GrowthPoints, 10)
	def(&c.Hot, 0.95)
	def(&c.HotWait, 250*time.Millisecond)
	def(&c.DrainTime, 10*time.Second)
	def(&c.DrainShare, 0.5)
	def(&c.Expiry, time.Minute)
	def(&c.MinSamples, 20)
	def(&c.SureSamples, 100)
	def(&c.StaleIntervals, 3)
	def(&c.ReportAge, 15*time.Second)
	def(&c.Persist, 3)
	def(&c.DampWindow, time.Minute)
	def(&c.Evidence, 10*time.Second)
	def(&c.Silence, 6*time.Second)
	return c
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Tuner keeps what it learned of each split between decisions. It is safe for
// concurrent use.
type Tuner struct {
	cfg Config

	mu     sync.Mutex // guards splits
	splits map[string]memory
}

// New returns a tuner that knows nothing yet.
func New(cfg Config) *Tuner {
	return &Tuner{cfg: cfg.withDefaults(), splits: map[string]memory{}}
}

// Decide learns from the observations and says what to do about the split.
//
// It expects, for every target, the window since the window of the call before:
// consecutive and disjoint, two seconds or more long. A window that overlaps
// one already learned from teaches nothing (it would count messages twice), so
// a caller with sliding windows only makes the tuner slower, not wrong. The
// figures of the workers' own reports are those of the newest report of every
// instance heard in Config.ReportAge, with ReportedAt the newest of them; they
// are learned from when ReportedAt moves.
//
// A proposal is made anew by every call for as long as it holds true; whoever
// keeps proposals compares the moves to tell a new one from a repetition.
func (t *Tuner) Decide(now time.Time, rev traffic.Revision, obs []traffic.Observation) traffic.Decision {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, d := decide(t.cfg, t.splits[rev.Split.Name], now, rev, obs)
	t.splits[rev.Split.Name] = next
	return d
}
