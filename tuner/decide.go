package tuner

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"ballast/traffic"
)

// decide is the tuner: what it knew and what was seen now give what it knows
// and what it says.
func decide(cfg Config, old memory, now time.Time, rev traffic.Revision, obs []traffic.Observation) (memory, traffic.Decision) {
	mem, news := old.learn(cfg, now, rev, obs)
	v := look(cfg, mem, now, rev.Split)
	d := traffic.Decision{Split: rev.Split.Name, At: now, Estimates: v.estimates()}

	if d.Why, d.Vetoes = v.veto(); d.Why != "" {
		mem.wanting = 0
		return mem, d
	}
	law := rev.Split.Law
	for i, s := range v.ideal(law) {
		v.free[i].ideal = s
	}
	kind := v.relief()
	why, vetoes := v.tolerable(law, kind)
	if why != "" {
		mem.wanting = 0
		d.Why, d.Vetoes = why, vetoes
		return mem, d
	}
	step := 1.0
	var guards []string
	if kind == kindSplit {
		if news {
			mem.wanting++
		}
		if mem.wanting < cfg.Persist {
			d.Why = fmt.Sprintf("A better split shows; it is suggested when it still does after %s.",
				plural(cfg.Persist-mem.wanting, "more window"))
			d.Vetoes = []string{fmt.Sprintf("seen in %d of %d windows in a row", mem.wanting, cfg.Persist)}
			return mem, d
		}
		step, guards = v.step(mem)
	} else {
		mem.wanting = 0
	}
	shares := make([]float64, len(v.free))
	for i, m := range v.free {
		shares[i] = float64(m.weight) + step*(m.ideal-float64(m.weight))
	}
	next := v.weights(shares)
	moves := v.moves(next)
	if len(moves) == 0 {
		d.Why = "The next step is less than one point."
		return mem, d
	}
	d.Proposal = v.propose(rev, law, kind, moves, next, guards)
	d.Why = d.Proposal.Title + "."
	return mem, d
}

// weights rounds the free members' shares and returns the weight of every
// member of the tier; they sum to 100.
func (v *view) weights(shares []float64) []int {
	rounded := whole(shares, int(v.mass), v.floor)
	next := make([]int, len(v.tier))
	n := 0
	for i, m := range v.tier {
		next[i] = m.weight
		if m.held == "" {
			next[i] = rounded[n]
			n++
		}
	}
	return next
}

func (v *view) moves(next []int) []traffic.Move {
	var moves []traffic.Move
	for i, m := range v.tier {
		if next[i] == m.weight {
			continue
		}
		limited := m.limited
		if limited == "" && next[i] == v.floor {
			limited = "floor"
		}
		moves = append(moves, traffic.Move{Target: m.name, From: m.weight, To: next[i], LimitedBy: limited})
	}
	return moves
}

// alternatives are what the other laws would do, at once and without guards.
func (v *view) alternatives(law traffic.Law) []traffic.Alternative {
	var out []traffic.Alternative
	for _, other := range laws {
		if other == law {
			continue
		}
		next := v.weights(v.ideal(other))
		weights := make(map[string]int, len(next))
		for i, m := range v.tier {
			weights[m.name] = next[i]
		}
		out = append(out, traffic.Alternative{Law: other, Weights: weights, Rho: v.utilization(next)})
	}
	return out
}

func (v *view) propose(rev traffic.Revision, law traffic.Law, kind string, moves []traffic.Move, next []int, guards []string) *traffic.Proposal {
	p := &traffic.Proposal{
		ID: proposalID(rev, v.now, moves), Split: rev.Split.Name, Base: rev.Number,
		At: v.now, Expires: v.now.Add(v.cfg.Expiry), Law: law, Kind: kind, Moves: moves,
		Title: title(rev.Split.Name, moves), Estimates: v.estimates(),
		Predicted: v.predict(next), Alternatives: v.alternatives(law),
		Status: traffic.Open,
	}
	var doubt string
	p.Confidence, doubt = v.confidence()
	for _, m := range v.tier {
		p.Window = max(p.Window, m.seen.to.Sub(m.seen.from))
		if m.held != "" {
			guards = append(guards, m.name+" keeps its weight: it "+m.held)
		} else if note := v.note(m); note != "" {
			guards = append(guards, m.name+": "+note)
		}
	}
	p.Guards = guards
	p.Why = v.why(p, next, doubt)
	return p
}

// proposalID is derived from what the proposal says, so that the same inputs
// give the same one.
func proposalID(rev traffic.Revision, at time.Time, moves []traffic.Move) string {
	h := sha256.New()
	var number [8]byte
	write := func(n uint64) {
		binary.BigEndian.PutUint64(number[:], n)
		h.Write(number[:])
	}
	fmt.Fprintf(h, "%s\x00", rev.Split.Name)
	write(rev.Number)
	write(uint64(at.UnixNano()))
	for _, m := range moves {
		fmt.Fprintf(h, "%s\x00%d\x00%d\x00", m.Target, m.From, m.To)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
