package traffic

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
)

// points is what the weights of a tier sum to.
const points = 100

// Picker finds the target of each message by one revision of a split. It is
// never changed after NewPicker, so any number of goroutines may share it; the
// next revision makes a new one.
//
// Messages go to the lowest tier that has a READY target.
type Picker struct {
	targets []Target
	// table holds, for each of the 100 points, the target it belongs to. Weights
	// are whole percent and sum to exactly 100, so a draw is exact and takes the
	// same time for any number of targets.
	table [points]uint8
	hash  []uint64  // of the target's name, for PickKey
	share []float64 // weight, for PickKey
}

// NewPicker returns the picker of a split, or an *Invalid when the split is not
// valid: an invalid one must divide nothing.
func NewPicker(s Split) (*Picker, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	var p Picker
	for _, tier := range s.Tiers() {
		at := 0
		for _, t := range s.Targets {
			if t.Tier != tier || t.State != Ready || t.Weight == 0 {
				continue
			}
			for range t.Weight {
				p.table[at] = uint8(len(p.targets))
				at++
			}
			p.targets = append(p.targets, t)
			p.hash = append(p.hash, fnv1a(t.Name))
			p.share = append(p.share, float64(t.Weight))
		}
		if at == points {
			return &p, nil
		}
	}
	return nil, fmt.Errorf("pick a target of split %s: no tier has a READY target", s.Name)
}

// Targets are those that can be picked, in the split's order. The slice is
// shared and not to be changed.
func (p *Picker) Targets() []Target { return p.targets }

// Pick draws a target by weight and returns its index in Targets.
func (p *Picker) Pick() int { return int(p.table[rand.IntN(points)]) }

// PickRand draws as Pick does, from rnd, so that a seed repeats the sequence.
func (p *Picker) PickRand(rnd *rand.Rand) int { return int(p.table[rnd.IntN(points)]) }

// PickNth returns the index in Targets of a publisher's n-th message. Counting n
// up from any start gives every target its share of any run of messages, spread
// evenly: of 1,000 messages in a row within half a point, where a draw by Pick is
// off by up to four. n times the golden ratio, modulo one, is the sequence whose
// runs fill the interval most evenly (Knuth, TAOCP vol. 3, 6.4, theorem S), and
// so do its strides: a publisher whose every k-th message is a big one divides
// the big ones evenly too.
func (p *Picker) PickNth(n uint64) int {
	const golden = 0x9e3779b97f4a7c15 // 2^64 / 1.618…
	point, _ := bits.Mul64(n*golden, points)
	return int(p.table[point])
}

// PickKey returns the index in Targets of the key's target: always the same one
// for the same key, each target with its weight's share of the keys. When a
// weight changes, only the keys that the change needs move (weighted rendezvous
// hashing: the target with the highest -weight/ln(u) wins, where u in (0,1) is
// a hash of key and target name).
//
// docs/contracts.md states the hash for other languages.
func (p *Picker) PickKey(key string) int {
	k := fnv1a(key)
	best, at := math.Inf(-1), 0
	for i, h := range p.hash {
		// 53 bits and a half: never 0 and never 1, so the logarithm is finite and
		// below zero.
		u := (float64(mix(k^h)>>11) + 0.5) / (1 << 53)
		if score := -p.share[i] / math.Log(u); score > best {
			best, at = score, i
		}
	}
	return at
}

// fnv1a is the 64 bit FNV-1a hash, here because hash/fnv allocates and takes
// bytes.
func fnv1a(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return h
}

// mix is the finaliser of splitmix64: FNV alone leaves the high bits of short
// keys alike.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
