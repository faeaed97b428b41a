package traffic

import "slices"

// Spill says how the tiers of a split take over from each other when targets
// fail. The zero value of a field takes its default.
type Spill struct {
	// Factor is the over-provisioning factor in percent, 140 if 0: a tier keeps all
	// of its messages as long as the healthy part of its weights, times the factor,
	// is the whole. With 140 that is up to 28 % lost. (Envoy's
	// overprovisioning_factor.)
	Factor int `json:"factor,omitempty"`
	// Panic is the percentage of a tier's healthy weights below which health is no
	// longer believed, 50 if 0, when no other tier can take over: to send
	// everything to the few that seem healthy would fell them too. (Envoy's
	// healthy_panic_threshold.)
	Panic int `json:"panic,omitempty"`
}

const (
	defaultFactor = 140
	defaultPanic  = 50
)

func (s *Spill) factor() float64 {
	if s == nil || s.Factor == 0 {
		return defaultFactor / 100.0
	}
	return float64(s.Factor) / 100
}

func (s *Spill) panic() float64 {
	if s == nil || s.Panic == 0 {
		return defaultPanic / 100.0
	}
	return float64(s.Panic) / 100
}

// tier is the part of a Picker's targets that one failover level has.
type tier struct {
	from, to int     // its targets in Picker.targets
	load     float64 // share of all messages, 0..1
	upto     float64 // load of this tier and of those before it
	panic    bool    // health is not believed
	ring     []vnode // of a split that hashes on a ring
}

// divide gives each tier its load and each target its share of all messages, by
// the health of the targets (0..1 by index; nil is all healthy).
//
// A tier can carry the healthy part of its weights times the over-provisioning
// factor, but no more than all. What the first tier cannot carry spills over to
// the second, and so on. When all together cannot carry everything, each gets
// its part of what they can, and one whose healthy part is below the panic
// threshold divides as if all its targets were healthy. (Envoy, "Priority
// levels" and "Panic threshold".)
func divide(tiers []tier, weight, health []float64, spill *Spill) (share []float64) {
	share = make([]float64, len(weight))
	carry := make([]float64, len(tiers))
	healthy := make([]float64, len(tiers))
	total := 0.0
	for i, t := range tiers {
		for j := t.from; j < t.to; j++ {
			healthy[i] += weight[j] / points * fit(health, j)
		}
		carry[i] = min(1, healthy[i]*spill.factor())
		total += carry[i]
	}
	rest := 1.0
	for i := range tiers {
		t := &tiers[i]
		switch {
		case total >= 1-1e-12: // twice half a tier is a whole one, rounding aside
			t.load, t.panic = min(carry[i], rest), false
		case total > 0:
			t.load, t.panic = carry[i]/total, healthy[i] < spill.panic()
		default: // nobody is healthy, as far as one knows: the weights are all there is
			t.load, t.panic = 0, true
			if i == 0 {
				t.load = 1
			}
		}
		rest -= t.load
		if rest < 1e-12 {
			rest = 0
		}
		t.upto = 1 - rest
		for j := t.from; j < t.to; j++ {
			switch {
			case t.panic:
				share[j] = t.load * weight[j] / points
			case healthy[i] > 0:
				share[j] = t.load * weight[j] / points * fit(health, j) / healthy[i]
			}
		}
	}
	return share
}

// fit is the health of target j, 0..1.
func fit(health []float64, j int) float64 {
	if j >= len(health) {
		return 1
	}
	h := health[j]
	if !(h > 0) { // also NaN
		return 0
	}
	return min(h, 1)
}

// whole reports whether no target is less than healthy.
func whole(health []float64) bool {
	return !slices.ContainsFunc(health, func(h float64) bool { return !(h >= 1) })
}

// apportion gives each share its part of n points, by largest remainder; equal
// remainders go to the earlier one.
func apportion(share []float64, n int) []int {
	out := make([]int, len(share))
	rest := make([]float64, len(share))
	order := make([]int, len(share))
	left := n
	for i, s := range share {
		exact := s * float64(n)
		out[i] = int(exact + 1e-9)
		rest[i], order[i] = exact-float64(out[i]), i
		left -= out[i]
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case rest[a] > rest[b]:
			return -1
		case rest[a] < rest[b]:
			return 1
		}
		return 0
	})
	for _, i := range order[:max(left, 0)] {
		out[i]++
	}
	return out
}
