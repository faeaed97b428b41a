package traffic

import (
	"sync/atomic"
	"time"
)

// Lane is a class of messages: how long one may take, how often it is tried
// again, and where it goes when its target fails.
type Lane struct {
	Name string `json:"name"`
	// TimeoutMS is how long one attempt may take, in milliseconds.
	TimeoutMS int `json:"timeoutms"`
	// Retries are the attempts after the first one.
	Retries int `json:"retries"`
	// Target, when named, takes the messages of this lane instead of the one that
	// the split would pick.
	Target string `json:"target,omitempty"`
	// Fallback, when named, takes them when their target fails (see FallsBack).
	Fallback string `json:"fallback,omitempty"`
}

// Timeout of one attempt.
func (l Lane) Timeout() time.Duration { return time.Duration(l.TimeoutMS) * time.Millisecond }

// DefaultLanes are those of a split that names none. What is urgent is given up
// soon and tried again often; what is not may wait.
func DefaultLanes() []Lane {
	return []Lane{
		{Name: "high", TimeoutMS: 1_000, Retries: 3},
		{Name: "medium", TimeoutMS: 5_000, Retries: 2},
		{Name: "low", TimeoutMS: 30_000, Retries: 1},
	}
}

// Lane finds a lane by name.
func (s Split) Lane(name string) (Lane, bool) {
	lanes := s.Lanes
	if len(lanes) == 0 {
		lanes = DefaultLanes()
	}
	for _, l := range lanes {
		if l.Name == name {
			return l, true
		}
	}
	return Lane{}, false
}

// FallsBack reports whether the n-th message of a publisher goes to the lane's
// fallback, by the health (0..1) of its target and of the fallback. The messages
// of a lane with a Target of its own leave it by the part that its health lacks,
// so that one that comes back meets its messages little by little. Those that the
// split's pick sends around unhealthy targets already leave only one that takes
// nothing: then no tier has a healthy one.
func (l Lane) FallsBack(n uint64, target, fallback float64) bool {
	if target >= 1 || fallback <= target {
		return false
	}
	if l.Target == "" {
		return target <= 0
	}
	return unit(mix(n*golden)) >= target
}

// Retries bounds what retries may add to the load. The zero value of a field
// takes its default.
type Retries struct {
	// Percent of the messages that may be retries, 20 if 0: when everything fails,
	// the load rises by a fifth and not threefold, so that an overload can end.
	// (Finagle's RetryBudget.)
	Percent int `json:"percent,omitempty"`
	// Burst is how many retries are allowed beyond that, 100 if 0: a publisher that
	// sends little may still repeat, and what was on its way when a stream lost its
	// leader may be sent again.
	Burst int `json:"burst,omitempty"`
}

// Budget holds the retries of one publisher under Retries: each message earns a
// part of one, each retry costs a whole one. It is safe for concurrent use.
type Budget struct {
	earn  int64 // in thousandths of a retry
	limit int64
	left  atomic.Int64
}

const retry = 1000 // one, in thousandths

// NewBudget returns a full budget; nil is the default one.
func NewBudget(r *Retries) *Budget {
	percent, burst := 20, 100
	if r != nil && r.Percent != 0 {
		percent = r.Percent
	}
	if r != nil && r.Burst != 0 {
		burst = r.Burst
	}
	b := &Budget{earn: int64(percent) * retry / 100, limit: int64(burst) * retry}
	b.left.Store(b.limit)
	return b
}

// Sent earns the part of a retry that a message allows. What is above the burst
// is lost: a calm hour must not pay for a storm.
func (b *Budget) Sent() {
	for {
		old := b.left.Load()
		if old >= b.limit || b.left.CompareAndSwap(old, min(old+b.earn, b.limit)) {
			return
		}
	}
}

// Retry takes one retry out of the budget, and reports whether there was one.
func (b *Budget) Retry() bool {
	for {
		old := b.left.Load()
		if old < retry {
			return false
		}
		if b.left.CompareAndSwap(old, old-retry) {
			return true
		}
	}
}
