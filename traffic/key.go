package traffic

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// KeyHeader is the header that holds a message's key when the split does not
// name another.
const KeyHeader = "Ballast-Key"

// PickKey returns the index in Targets of the key's target: always the same one
// for the same key, each target with its weight's share of the keys. When a
// weight or a target's health changes, few keys move beyond those that must.
//
// Rendezvous: the target with the highest -weight/ln(u) wins, where u in (0,1) is
// a hash of key and target name (Thaler, Ravishankar 1998; weights as in Schindelhauer,
// Schomaker, SPAA 2005). Its shares are those of the weights, and not one key
// moves that need not.
//
// Ring: the first virtual node clockwise from the key's hash wins (Karger et al.
// 1997); its shares wobble by several percent around the weights.
//
// docs/contracts.md states both for other languages.
func (p *Picker) PickKey(key string) int { return p.pickHash(fnv1a(key), nil) }

// PickKeyBounded is PickKey with the bound of the split: a target that has its
// bound in flight is passed over, and the key goes to the next one by its own
// order, back again when there is room (Mirrokni, Thorup, Zadimoghaddam, SODA
// 2018). Without a bound it is PickKey.
func (p *Picker) PickKeyBounded(key string, in Loads) int {
	if p.key.Bound == 0 {
		in = nil
	}
	return p.pickHash(fnv1a(key), in)
}

// pickHash picks by the hash of a key. in is nil when nothing bounds.
func (p *Picker) pickHash(k uint64, in Loads) int {
	total := 0.0
	for _, n := range in {
		total += float64(n.Load())
	}
	t := p.tierOf(k)
	var at int
	if t.ring != nil {
		at = p.onRing(t, k, in, total)
	} else {
		at = p.highest(t.from, t.to, k, in, total)
	}
	if at < 0 { // all of the tier are full: the bound counts over all tiers
		at = p.highest(0, len(p.targets), k, in, total)
	}
	if at < 0 { // they filled up while this looked
		at = p.highest(t.from, t.to, k, nil, 0)
	}
	return at
}

// tierOf is the tier of a key: while a tier is healthy all of its keys, and of one
// that carries a part always the same part.
func (p *Picker) tierOf(k uint64) *tier {
	if p.tiers[0].load >= 1 {
		return &p.tiers[0]
	}
	u := unit(mix(k ^ golden))
	for i := range p.tiers {
		if u < p.tiers[i].upto {
			return &p.tiers[i]
		}
	}
	return &p.tiers[len(p.tiers)-1]
}

// highest is the target among from ≤ i < to with the highest score, -1 when none
// may be picked.
func (p *Picker) highest(from, to int, k uint64, in Loads, total float64) int {
	best, at := math.Inf(-1), -1
	for i := from; i < to; i++ {
		if p.share[i] == 0 {
			continue
		}
		u := unit(mix(k ^ p.hash[i]))
		// -ln u is at least 1-u, so most targets are beaten without a logarithm; the
		// rounding errors of both sides are far below the margin.
		if p.share[i] < best*(1-u)*(1-1e-9) {
			continue
		}
		if score := -p.share[i] / math.Log(u); score > best && (in == nil || !p.full(i, in, total)) {
			best, at = score, i
		}
	}
	return at
}

// full reports whether one more message would put target i over the bound.
func (p *Picker) full(i int, in Loads, total float64) bool {
	limit := math.Ceil(float64(p.key.Bound) / 100 * p.share[i] * (total + 1))
	return float64(in[i].Load())+1 > limit
}

// unit makes a number in (0,1) of a hash. 53 bits and a half: never 0, and rounded
// to 1 for one hash of 2^53 only, whose target then loses.
func unit(h uint64) float64 { return (float64(h>>11) + 0.5) / (1 << 53) }

// virtual is the number of points that a target with the mean weight has on the
// ring.
const virtual = 160

// vnode is one point of a ring.
type vnode struct {
	hash   uint64
	target int // in Picker.targets
}

// ring lays out the virtual nodes of a tier's targets: 160 for each target on
// average, by weight, one at least. The n-th of a target is at the hash of
// "<name>#<n>".
func ring(targets []Target, from int) []vnode {
	var out []vnode
	for i, t := range targets {
		n := max(1, int(math.Round(float64(virtual*len(targets)*t.Weight)/points)))
		for v := range n {
			out = append(out, vnode{mix(fnv1a(t.Name + "#" + strconv.Itoa(v))), from + i})
		}
	}
	slices.SortFunc(out, func(a, b vnode) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.target, b.target)) })
	return out
}

// onRing walks clockwise from the key to the first target that may be picked, -1
// when none may. A target that is less than healthy keeps the part of its keys
// that its health says, always the same ones.
func (p *Picker) onRing(t *tier, k uint64, in Loads, total float64) int {
	h := mix(k)
	start, _ := slices.BinarySearchFunc(t.ring, h, func(v vnode, h uint64) int { return cmp.Compare(v.hash, h) })
	last := -1
	for n := range t.ring {
		at := start + n
		if at >= len(t.ring) {
			at -= len(t.ring)
		}
		i := t.ring[at].target
		if p.share[i] == 0 || in != nil && p.full(i, in, total) {
			continue
		}
		if health := fit(p.health, i); t.panic || health == 1 || unit(mix(k^p.hash[i])) < health {
			return i
		}
		last = i // none else may be left
	}
	return last
}

// Moved is what a change does to the keys of a split.
type Moved struct {
	Keys  float64 // share of all keys whose target is another one afterwards, 0..1
	Least float64 // share that has to move by the change of the weights alone
	// Lost and Gained are shares of all keys that leave and reach each target, by
	// name.
	Lost, Gained map[string]float64
	// Ways are shares of all keys by the names of the target that they leave and of
	// the one that they reach.
	Ways map[[2]string]float64
}

// sampled keys make a preview: the error of a share is below half a point.
const sampled = 1 << 16

// MovedKeys previews which share of all keys a change moves, from a fixed sample
// of 65,536 keys. Both splits must be valid.
func MovedKeys(before, after Split) (Moved, error) {
	old, err := NewPicker(before)
	if err != nil {
		return Moved{}, err
	}
	next, err := NewPicker(after)
	if err != nil {
		return Moved{}, err
	}
	m := Moved{Lost: map[string]float64{}, Gained: map[string]float64{}, Ways: map[[2]string]float64{}}
	for n := range uint64(sampled) {
		k := mix(n * golden)
		from, to := old.targets[old.pickHash(k, nil)].Name, next.targets[next.pickHash(k, nil)].Name
		if from != to {
			m.Keys += 1.0 / sampled
			m.Lost[from] += 1.0 / sampled
			m.Gained[to] += 1.0 / sampled
			m.Ways[[2]string{from, to}] += 1.0 / sampled
		}
	}
	share := map[string]float64{}
	for i, t := range old.targets {
		share[t.Name] -= old.share[i]
	}
	for i, t := range next.targets {
		share[t.Name] += next.share[i]
	}
	for _, d := range share {
		m.Least += max(d, 0)
	}
	return m, nil
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
