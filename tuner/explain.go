package tuner

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"ballast/traffic"
)

// title says the move in a line.
func title(split string, moves []traffic.Move) string {
	points := 0
	var from, to []string
	for _, m := range moves {
		if m.To < m.From {
			points += m.From - m.To
			from = append(from, m.Target)
		} else {
			to = append(to, m.Target)
		}
	}
	return fmt.Sprintf("Move %s of %s from %s to %s", plural(points, "point"), split, list(from), list(to))
}

// why tells an operator in one paragraph what was measured, what follows and
// what the move should bring.
func (v *view) why(p *traffic.Proposal, next []int, doubt string) string {
	var text []string
	say := func(format string, args ...any) { text = append(text, fmt.Sprintf(format, args...)) }

	var givers, takers []*member
	points := map[string]int{}
	for _, mv := range p.Moves {
		points[mv.Target] = mv.To - mv.From
	}
	for _, m := range v.tier {
		switch d := points[m.name]; {
		case d < 0:
			givers = append(givers, m)
		case d > 0:
			takers = append(takers, m)
		}
	}
	largest := func(a, b *member) int {
		x, y := points[a.name], points[b.name]
		return cmp.Compare(max(y, -y), max(x, -x))
	}
	slices.SortStableFunc(givers, largest)
	slices.SortStableFunc(takers, largest)

	const shown = 2
	for _, m := range givers[:min(shown, len(givers))] {
		say("%s", v.describe(m))
	}
	for _, m := range takers[:min(shown, len(takers))] {
		say("%s", v.describe(m))
	}

	after := make([]string, 0, len(v.tier))
	for i, m := range v.tier {
		if points[m.name] != 0 && m.k > 0 && len(after) < 4 {
			after = append(after, m.name+" "+percent(v.load(m, next[i])/m.k))
		}
	}
	switch {
	case len(after) == 0:
	case p.Predicted.RhoAfter > 0.8 && v.bounded():
		say("After the move the utilizations are %s at most (highest now %s): what targets without worker reports can do beyond what they did is not known.",
			list(after), percent(p.Predicted.RhoBefore))
	case p.Predicted.RhoAfter > v.cfg.Hot:
		say("After the move the utilizations are %s (highest now %s): still too much, but less; the targets need more workers.",
			list(after), percent(p.Predicted.RhoBefore))
	default:
		say("After the move the utilizations are %s; the highest of all is %s, now %s.",
			list(after), percent(p.Predicted.RhoAfter), percent(p.Predicted.RhoBefore))
	}
	if p.Predicted.RhoAfter < 1 {
		say("Predicted mean latency %s (measured %s), p99 %s (measured %s).",
			short(p.Predicted.MeanAfter), short(p.Predicted.MeanBefore), short(p.Predicted.P99After), short(p.Predicted.P99Before))
	}
	for i, m := range v.tier {
		spare := m.k - v.load(m, next[i])
		if drain := seconds(m.excess / spare).Round(time.Second); m.hot != "" && spare > 0 && drain > 0 {
			say("The backlog of %s then drains in about %s.", m.name, short(drain))
		}
	}
	if p.Kind == kindSplit && p.Law == traffic.LawCapacity {
		say("%s", v.headroom(next))
	}
	switch {
	case p.Kind != kindSplit:
		var hot []string
		for _, m := range v.free {
			if m.hot != "" {
				hot = append(hot, m.name)
			}
		}
		say("No step limit applies, because %s cannot wait.", list(hot))
	case limited(p.Moves, "step"):
		say("This is one step of several: the next one follows when the samples confirm it.")
	case limited(p.Moves, "damping"):
		say("The step is smaller than usual, because the last change went the other way.")
	}
	if doubt != "" {
		say("Confidence is low, because %s.", doubt)
	}
	return strings.Join(text, " ")
}

// lowerBound says that the member may well do more than is estimated: an idle
// one without reports was never seen at its limit.
func (v *view) lowerBound(m *member) bool {
	return m.t.quality == traffic.QualityLatency && m.use <= v.cfg.Hot && m.excess == 0
}

func (v *view) bounded() bool { return slices.ContainsFunc(v.free, v.lowerBound) }

func limited(moves []traffic.Move, by string) bool {
	return slices.ContainsFunc(moves, func(m traffic.Move) bool { return m.LimitedBy == by })
}

// describe says what was measured of a member.
func (v *view) describe(m *member) string {
	var b strings.Builder
	if m.dead {
		fmt.Fprintf(&b, "%s has acknowledged nothing for %s, while %s wait there", m.name, short(m.t.silent), plural(int(m.t.backlog[1]), "message"))
		fmt.Fprintf(&b, " and %s msg/s arrive.", number(m.t.arrival))
		return b.String()
	}
	switch n := m.seen.latency.Count(); {
	case n > 0:
		fmt.Fprintf(&b, "%s has an ACK latency of %s on average, p99 %s (%s of %s in %s)", m.name,
			short(m.seen.latency.Mean()), short(m.seen.latency.Quantile(0.99)),
			plural(int(n), "sample"), plural(int(m.seen.acked), "acknowledgement"), short(m.seen.to.Sub(m.seen.from)))
	case m.seen.mean > 0:
		fmt.Fprintf(&b, "%s has an ACK latency of about %s (by Little's law, %s in %s, none sampled)", m.name,
			short(m.seen.mean), plural(int(m.seen.acked), "acknowledgement"), short(m.seen.to.Sub(m.seen.from)))
	default:
		fmt.Fprintf(&b, "%s made %s in %s", m.name, plural(int(m.seen.acked), "acknowledgement"), short(m.seen.to.Sub(m.seen.from)))
	}
	if v.lowerBound(m) {
		fmt.Fprintf(&b, " and can do at least %s msg/s", number(m.k))
	} else {
		fmt.Fprintf(&b, " and can do %s msg/s", number(m.k))
	}
	switch {
	case m.t.quality == traffic.QualityLatency:
		b.WriteString(" judging by its latency and backlog")
	case m.t.trust < sure || m.t.over:
		b.WriteString(" by what it did, not by its reports")
	default:
		fmt.Fprintf(&b, " (%s at %s a message)", plural(m.t.workers, "worker"), short(m.t.service))
	}
	fmt.Fprintf(&b, "; its weight gives it %s msg/s: utilization %s", number(v.load(m, m.weight)), percent(m.use))
	if m.wait > v.cfg.HotWait.Seconds() {
		fmt.Fprintf(&b, ", %s waiting", plural(int(m.t.backlog[1]), "message"))
	}
	if m.t.errs >= 0.01 {
		fmt.Fprintf(&b, ", %s failed", percent(m.t.errs))
	}
	b.WriteString(".")
	return b.String()
}

// headroom compares the highest utilizations at the load that the weights are for.
func (v *view) headroom(next []int) string {
	after := make(map[*member]float64, len(next))
	for i, m := range v.tier {
		after[m] = float64(next[i])
	}
	return fmt.Sprintf("When all targets together are %s busy, the busiest would be at %s instead of %s.",
		percent(v.designLoad()/max(v.effective(), 1e-9)),
		percent(v.busiest(func(m *member) float64 { return after[m] })),
		percent(v.busiest(func(m *member) float64 { return float64(m.weight) })))
}

func (v *view) effective() float64 {
	sum := 0.0
	for _, m := range v.free {
		sum += m.eff
	}
	return sum
}

// short writes a duration with three digits at most that matter.
func short(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case d == 0:
		return "0 ms"
	case ms < 1:
		return strconv.FormatFloat(ms, 'f', 2, 64) + " ms"
	case ms < 9.95:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 999.5:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	case d < 10*time.Second && d%time.Second != 0:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	case d < 2*time.Minute:
		return strconv.FormatFloat(ms/1000, 'f', 0, 64) + " s"
	}
	return strconv.FormatFloat(d.Minutes(), 'f', 0, 64) + " min"
}

func percent(share float64) string {
	if share >= fullUse {
		return "over 1000 %"
	}
	return strconv.FormatFloat(100*share, 'f', 0, 64) + " %"
}

// number writes a rate or a count with thousands separated.
func number(f float64) string {
	if f < 9.95 && f != math.Trunc(f) {
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	digits := strconv.FormatFloat(f, 'f', 0, 64)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return number(float64(n)) + " " + noun + "s"
}

// list joins names for a sentence; of many it names three.
func list(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none"
	case n == 1:
		return names[0]
	case n > 4:
		return strings.Join(names[:3], ", ") + " and " + plural(n-3, "other")
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}
