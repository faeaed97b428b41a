package tuner

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"ballast/traffic"
)

// veto says why nothing may be suggested whatever the figures are.
func (v *view) veto() (why string, vetoes []string) {
	s := v.split
	healthy, fresh := 0, 0
	var held []string
	for _, m := range v.tier {
		if m.fresh {
			fresh += m.weight
			if m.known && !m.dead {
				healthy++
			}
		}
		if m.held != "" {
			held = append(held, m.name+" "+m.held)
		}
	}
	var dead []string
	for _, m := range v.tier {
		if m.dead {
			dead = append(dead, m.name)
		}
	}
	switch {
	case s.Mode == traffic.Observe:
		return "This split is only observed; set its mode to suggest to get suggestions.", []string{"mode observe"}
	case s.Law == traffic.LawManual:
		return "The weights of this split are set by hand only.", []string{"law manual"}
	case !slices.Contains(laws, s.Law):
		return fmt.Sprintf("The tuner knows no law %q.", s.Law), []string{"unknown law"}
	case len(v.tier) < 2:
		return "There is nothing to divide: the tier in use has fewer than two READY targets.", []string{"fewer than two targets"}
	case len(dead) > 0 && healthy*2 < len(v.tier) && healthy+len(dead) > len(v.tier)/2:
		return fmt.Sprintf("Under half of the targets work: %s acknowledge nothing. That needs a person, not weights.", list(dead)),
			append([]string{"under half of the targets are healthy"}, held...)
	case healthy*2 < len(v.tier) && v.settling:
		return "The figures since the last change are still coming in.", append([]string{"settling"}, held...)
	case healthy*2 < len(v.tier):
		return fmt.Sprintf("There is not enough to judge by: %s.", strings.Join(held, "; ")), append([]string{"under half of the targets have fresh and sufficient figures"}, held...)
	case fresh < 50:
		return fmt.Sprintf("Over half of the traffic goes where the figures are stale: %s.", strings.Join(held, "; ")), append([]string{"under half of the traffic is freshly observed"}, held...)
	case len(v.free) < 2:
		return fmt.Sprintf("Fewer than two targets can be judged: %s.", strings.Join(held, "; ")), held
	case v.mass < 1:
		return fmt.Sprintf("All of the traffic goes where nothing can be judged: %s.", strings.Join(held, "; ")), held
	case v.rate < 1e-9:
		return "No messages arrive, so nothing can be judged.", []string{"no traffic"}
	}
	return "", nil
}

// relief decides whether the move is urgent, and then why.
func (v *view) relief() string {
	kind := kindSplit
	for _, m := range v.free {
		switch {
		case m.hot == "" || m.ideal > 0.9*float64(m.weight):
		case m.hot == kindRelief:
			kind = kindRelief
		case kind == kindSplit:
			kind = kindDrain
		}
	}
	if kind == kindSplit {
		return kind
	}
	before, after := 0.0, 0.0
	for _, m := range v.free {
		before = max(before, m.use)
		if !m.dead {
			after = max(after, v.rate*m.ideal/100/m.k)
		}
	}
	if after <= v.cfg.Hot || after < 0.95*before {
		return kind
	}
	return kindSplit
}

// tolerable says why the present weights are good enough, or "".
func (v *view) tolerable(law traffic.Law, kind string) (why string, vetoes []string) {
	relative, points, top := 0.0, 0.0, v.free[0]
	total := 0.0
	for _, m := range v.free {
		d := math.Abs(m.ideal - float64(m.weight))
		relative = max(relative, d/max(float64(m.weight), 5))
		points = max(points, d)
		total += m.k
		if m.use > top.use {
			top = m
		}
	}
	now := fmt.Sprintf("the highest utilization is %s (%s)", percent(top.use), top.name)
	if relative < v.cfg.DeadBand || points < v.cfg.MinPoints {
		if v.overload {
			return fmt.Sprintf("The targets together get %s msg/s and can do %s; no split helps, only more workers.",
				number(v.rate), number(total)), []string{"overload"}
		}
		return fmt.Sprintf("Within tolerance: the best split differs by %.1f points at most; %s.", points, now),
			[]string{fmt.Sprintf("dead band %s and %g points", percent(v.cfg.DeadBand), v.cfg.MinPoints)}
	}
	if kind != kindSplit || law != traffic.LawCapacity {
		return "", nil
	}
	before, after := v.slower()
	busy, less := v.busiest(func(m *member) float64 { return float64(m.weight) }), v.busiest(func(m *member) float64 { return m.ideal })
	if less > (1-v.cfg.MinGain)*busy && after.Seconds() > (1-v.cfg.MinGain)*before.Seconds() {
		return fmt.Sprintf("Within tolerance: another split would gain little (at %s load the busiest target at %s instead of %s); %s.",
			percent(v.cfg.Design), percent(less), percent(busy), now), []string{"gain under " + percent(v.cfg.MinGain)}
	}
	if top.use <= v.cfg.Design && after.Seconds() > (1+v.cfg.MaxLoss)*before.Seconds() {
		return fmt.Sprintf("A split with more headroom would make messages slower now (%s instead of %s on average); %s.",
			short(after), short(before), now), []string{"slower at the present load"}
	}
	if why := v.blind(); why != "" {
		return why, []string{"capacities known by latency only"}
	}
	return "", nil
}

// busiest is the highest utilization at the design load with the given shares.
func (v *view) busiest(share func(*member) float64) float64 {
	load, top := v.designLoad(), 0.0
	for _, m := range v.free {
		if m.eff > 0 {
			top = max(top, load*share(m)/v.mass/m.eff)
		}
	}
	return top
}

// slower gives the predicted mean latency at the present load with the present
// weights, and with the ideal ones.
func (v *view) slower() (before, after time.Duration) {
	shares, ideal := make([]float64, len(v.tier)), make([]float64, len(v.tier))
	for i, m := range v.tier {
		shares[i], ideal[i] = float64(m.weight), float64(m.weight)
		if m.held == "" {
			ideal[i] = m.ideal
		}
	}
	before, _ = predict(v.flows(shares))
	after, _ = predict(v.flows(ideal))
	return before, after
}

// blind says why an ordinary move cannot be justified when some capacity is
// known by latency only: that estimate sees no spare capacity, so targets that
// answer equally well must count as equally well off.
func (v *view) blind() string {
	var name string
	low, high := math.Inf(1), 0.0
	for _, m := range v.free {
		if m.t.quality == traffic.QualityLatency {
			name = m.name
		}
		if l := m.seen.latencyMean().Seconds(); l > 0 && m.seen.acked >= v.cfg.SureSamples {
			low, high = min(low, l), max(high, l)
		}
	}
	if name == "" || high > 1.5*low {
		return ""
	}
	return fmt.Sprintf("Within tolerance: %s sends no worker reports, and the ACK latencies of the targets differ by less than half, so none of them is known to be worse off.", name)
}

// step is the part of the way to the ideal shares that an ordinary move may
// go, and what limits it.
func (v *view) step(mem memory) (float64, []string) {
	step := 1.0
	var guards []string
	var tight *member
	against := 0.0
	for _, m := range v.free {
		grow := m.ideal - float64(m.weight)
		against += grow * float64(mem.moved[m.name])
		if grow <= 0 {
			continue
		}
		if s := max(v.cfg.Growth*float64(m.weight), v.cfg.GrowthPoints) / grow; s < step {
			step, tight = s, m
		}
	}
	if tight != nil {
		tight.limited = "step"
		guards = append(guards, fmt.Sprintf("growth: %s may gain half of its weight or %g points at a time", tight.name, v.cfg.GrowthPoints))
	}
	damp := mem.damp
	if against < 0 && v.now.Sub(mem.since) < v.cfg.DampWindow {
		damp = max(0.2, damp/2)
	}
	if damp < 1 {
		step *= damp
		guards = append(guards, fmt.Sprintf("damping: %s of the step, because the last changes went to and fro", percent(damp)))
		for _, m := range v.free {
			if m.limited == "" {
				m.limited = "damping"
			}
		}
	}
	return step, guards
}
