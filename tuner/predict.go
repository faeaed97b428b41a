package tuner

import (
	"math"

	"ballast/internal/sketch"
	"ballast/traffic"
)

// flows are the members that work, with the given shares, for a prediction. The
// time a message takes when nothing queues is what was measured less what the
// model says is queueing; of a target whose queue hides that, its processing
// time and what the others need beyond theirs.
func (v *view) flows(shares []float64) []flow {
	extra := math.Inf(1)
	for _, m := range v.tier {
		if l := m.seen.latencyMean(); m.k > 0 && m.use <= v.cfg.Hot && m.t.service > 0 && l > 0 {
			extra = min(extra, max(0, (l-m.t.service).Seconds()))
		}
	}
	if math.IsInf(extra, 1) {
		extra = 0
	}
	var flows []flow
	for i, m := range v.tier {
		if m.k <= 0 {
			continue
		}
		p := pool{m.k, max(m.t.slots, 1)}
		l, service := m.seen.latencyMean().Seconds(), m.t.service.Seconds()
		f := flow{pool: p, x: v.rate * shares[i] / 100, sigma: sigma}
		switch {
		case m.use > v.cfg.Hot && service > 0 || l == 0:
			f.empty = max(service, p.service()) + extra
		case m.use > v.cfg.Hot:
			f.empty = l
		default:
			f.empty = max(l-p.wait(v.load(m, m.weight)), service, l/2)
		}
		if m.seen.latency.Count() >= v.cfg.SureSamples {
			p50, p99 := m.seen.latency.Quantile(0.5).Seconds(), m.seen.latency.Quantile(0.99).Seconds()
			if p50 > 0 {
				f.sigma = min(max(math.Log(p99/p50)/2.3263, 0.1), 1.5)
			}
		}
		flows = append(flows, f)
	}
	return flows
}

// predict compares what is measured with what the model says of the next weights.
func (v *view) predict(next []int) traffic.Prediction {
	all := &sketch.Sketch{}
	count, sum := uint64(0), 0.0
	now, shares := make([]int, len(v.tier)), make([]float64, len(v.tier))
	for i, m := range v.tier {
		count += m.seen.acked
		sum += m.seen.latencyMean().Seconds() * float64(m.seen.acked)
		all.Merge(m.seen.latency)
		now[i], shares[i] = m.weight, float64(next[i])
	}
	p := traffic.Prediction{P99Before: all.Quantile(0.99), RhoBefore: v.utilization(now), RhoAfter: v.utilization(next)}
	if count > 0 {
		p.MeanBefore = seconds(sum / float64(count))
	}
	p.MeanAfter, p.P99After = predict(v.flows(shares))
	return p
}
