package traffic

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

const (
	// points is what the weights of a tier sum to.
	points = 100
	// finePoints divide the messages while targets are less than healthy: shares
	// are no whole percents then.
	finePoints = 2000
)

// Picker finds the target of each message by one revision of a split. It is
// never changed after NewPicker, so any number of goroutines may share it; the
// next revision, and the next change of a target's health, make a new one.
//
// Messages go to the lowest tier as long as its targets are healthy (see With).
type Picker struct {
	targets []Target // READY with a weight, tier after tier
	tiers   []tier
	weight  []float64 // of each target in its tier
	health  []float64 // nil is all healthy
	share   []float64 // of each target in all messages, 0..1
	// table holds for each point the target it belongs to. While all are healthy
	// there are as many points as percents, so a draw is exact, and it takes the
	// same time for any number of targets.
	table []uint8
	order Order
	hash  []uint64 // of the target's name, for keys
	key   Keyed
	spill *Spill
}

// NewPicker returns the picker of a split, or an *Invalid when the split is not
// valid: an invalid one must divide nothing.
func NewPicker(s Split) (*Picker, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	p := &Picker{order: s.Order, spill: s.Spill}
	if s.Key != nil {
		p.key = *s.Key
	}
	for _, level := range s.Tiers() {
		t := tier{from: len(p.targets)}
		for _, x := range s.Targets {
			if x.Tier != level || x.State != Ready || x.Weight == 0 {
				continue
			}
			p.targets = append(p.targets, x)
			p.weight = append(p.weight, float64(x.Weight))
			p.hash = append(p.hash, fnv1a(x.Name))
		}
		if t.to = len(p.targets); t.to > t.from {
			p.tiers = append(p.tiers, t)
		}
	}
	if p.targets == nil {
		return nil, fmt.Errorf("pick a target of split %s: no tier has a READY target", s.Name)
	}
	if p.key.Hash == Ring {
		for i := range p.tiers {
			p.tiers[i].ring = ring(p.targets[p.tiers[i].from:p.tiers[i].to], p.tiers[i].from)
		}
	}
	p.settle(nil)
	return p, nil
}

// With returns the picker that divides the same revision while targets are less
// than healthy: health holds, for each of Targets, 1 for one that takes its whole
// share, 0 for one that takes nothing, and between them the part of its share
// that one which comes back takes. The other targets of the tier share what is
// left by weight; what they cannot carry spills over to the next tier, by the
// rules of Spill. nil is all healthy.
func (p *Picker) With(health []float64) *Picker {
	q := *p
	q.tiers = append([]tier(nil), p.tiers...)
	q.settle(append([]float64(nil), health...))
	return &q
}

// settle computes shares and table.
func (p *Picker) settle(health []float64) {
	n := finePoints
	if whole(health) {
		health, n = nil, points
	}
	p.health = health
	p.share = divide(p.tiers, p.weight, health, p.spill)
	counts := apportion(p.share, n)
	if p.order == Smooth {
		p.table = smooth(counts, n)
		return
	}
	p.table = make([]uint8, 0, n)
	for i, c := range counts {
		for range c {
			p.table = append(p.table, uint8(i))
		}
	}
}

// smooth lays the points out as nginx's smooth weighted round robin visits them:
// each turn every target gains its weight, the one that has the most is picked
// and pays the sum of all. (nginx, commit 52327e0627f4, ngx_http_upstream_round_robin.c.)
func smooth(counts []int, n int) []uint8 {
	table := make([]uint8, n)
	credit := make([]int, len(counts))
	for at := range table {
		best := -1
		for i, c := range counts {
			if c == 0 {
				continue
			}
			credit[i] += c
			if best < 0 || credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= n
		table[at] = uint8(best)
	}
	return table
}

// Targets are those that can be picked, tier after tier, in the split's order.
// The slice is shared and not to be changed.
func (p *Picker) Targets() []Target { return p.targets }

// Share of all messages that the i-th of Targets gets, 0..1.
func (p *Picker) Share(i int) float64 { return p.share[i] }

// Pick draws a target by weight and returns its index in Targets.
func (p *Picker) Pick() int { return int(p.table[rand.IntN(len(p.table))]) }

// PickRand draws as Pick does, from rnd, so that a seed repeats the sequence.
func (p *Picker) PickRand(rnd *rand.Rand) int { return int(p.table[rnd.IntN(len(p.table))]) }

// golden is 2^64 / 1.618…
const golden = 0x9e3779b97f4a7c15

// PickNth returns the index in Targets of a publisher's n-th message, by the
// order of the split. A publisher counts n up from any start.
//
// Spread gives every target its share of any run of messages, spread evenly: of
// 1,000 messages in a row within half a point, where a draw by Pick is off by up
// to four. n times the golden ratio, modulo one, is the sequence whose runs fill
// the interval most evenly (Knuth, TAOCP vol. 3, 6.4, theorem S), and so do its
// strides: a publisher whose every k-th message is a big one divides the big ones
// evenly too.
//
// Smooth is exact over any 100 messages in a row (2,000 while a target is less
// than healthy), but repeats itself: what comes in step with it always meets the
// same target.
//
// Random draws, by the counter's hash.
func (p *Picker) PickNth(n uint64) int {
	switch p.order {
	case Smooth:
		return int(p.table[n%uint64(len(p.table))])
	case Random:
		n = mix(n * golden) // splitmix64
	default:
		n *= golden
	}
	point, _ := bits.Mul64(n, uint64(len(p.table)))
	return int(p.table[point])
}

// Loads counts what a publisher has in flight at each of the Targets of a
// Picker: sent, and neither acknowledged, answered nor given up. Its elements may
// be shared with the pickers of other revisions.
type Loads []*atomic.Int64

// PickTwo draws two targets by weight for the n-th message and returns the one
// with fewer messages in flight for its weight, the first of them when it is the
// same: while nothing queues the weights alone decide, and a target that stalls
// gets less from the next message on, whatever the tuner knows by then. The
// weighted form of the power of two choices (Mitzenmacher, IEEE TPDS 12(10),
// 2001).
func (p *Picker) PickTwo(n uint64, in Loads) int {
	a := p.PickNth(n)
	point, _ := bits.Mul64(mix(n*golden), uint64(len(p.table)))
	b := int(p.table[point])
	if a == b {
		return a
	}
	if float64(in[b].Load())*p.share[a] < float64(in[a].Load())*p.share[b] {
		return b
	}
	return a
}
