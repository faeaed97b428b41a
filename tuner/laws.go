package tuner

import (
	"math"
	"slices"

	"ballast/traffic"
)

// laws are those that choose weights, in the order they are compared in.
var laws = []traffic.Law{traffic.LawCapacity, traffic.LawSeed, traffic.LawEqual}

// ideal returns the shares that a law gives the free members, in percent of the
// tier; they sum to mass.
func (v *view) ideal(law traffic.Law) []float64 {
	shares := make([]float64, len(v.free))
	switch law {
	case traffic.LawCapacity:
		shares = spread(v.pools(), v.designLoad())
	case traffic.LawSeed:
		for i, m := range v.free {
			shares[i] = seedHealth(m)
		}
	case traffic.LawEqual:
		// Below: the same for all.
	}
	sum := 0.0
	for _, s := range shares {
		sum += s
	}
	for i := range shares {
		if sum > 0 {
			shares[i] *= v.mass / sum
		} else {
			shares[i] = v.mass / float64(len(shares))
		}
	}
	return raise(shares, float64(v.floor))
}

// seedHealth is the health score of the classic formula: 70 % latency against
// 500 ms, and 30 % CPU and memory, six to four. Its latency is the whole time to
// the acknowledgement, so the wait in the backlog is added; memory is not
// measured here and counts as free. It measures distress, not capacity: members
// under 100 ms differ by 1.5 at most, so a small one must drown before it gets
// less.
func seedHealth(m *member) float64 {
	latency := max(0, 1-(m.seen.latencyMean().Seconds()+m.wait)/0.5)
	cpu := 1 - min(1, m.t.cpu)
	return math.Floor(100 * (0.7*latency + 0.3*(0.6*cpu+0.4)))
}

// raise lifts shares to the floor, at the cost of the others in proportion.
func raise(shares []float64, floor float64) []float64 {
	out := slices.Clone(shares)
	low := make([]bool, len(out))
	for {
		lifted, rest, need := 0.0, 0.0, false
		for i, s := range out {
			if low[i] {
				lifted += floor
			} else if s < floor {
				low[i], need = true, true
				lifted += floor
			} else {
				rest += s
			}
		}
		if !need {
			return out
		}
		sum := 0.0
		for _, s := range out {
			sum += s
		}
		for i := range out {
			if low[i] {
				out[i] = floor
			} else {
				out[i] *= (sum - lifted) / rest
			}
		}
	}
}

// whole rounds shares to whole points that sum to total, each at least floor:
// largest remainders first, and of equal ones the earlier.
func whole(shares []float64, total, floor int) []int {
	out := make([]int, len(shares))
	order := make([]int, len(shares))
	left := total
	for i, s := range shares {
		out[i] = max(int(math.Floor(s+1e-9)), floor)
		order[i] = i
		left -= out[i]
	}
	remainder := func(i int) float64 { return shares[i] - float64(out[i]) }
	slices.SortStableFunc(order, func(a, b int) int {
		switch d := remainder(b) - remainder(a); {
		case d > 1e-9:
			return 1
		case d < -1e-9:
			return -1
		}
		return 0
	})
	for n := 0; left > 0; n++ {
		out[order[n%len(order)]]++
		left--
	}
	for n := len(order) - 1; left < 0; n-- {
		if n < 0 {
			n = len(order) - 1
		}
		if i := order[n]; out[i] > floor {
			out[i]--
			left++
		}
	}
	return out
}
