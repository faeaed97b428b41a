package tuner

import (
	"fmt"
	"math"
	"slices"
	"time"

	"ballast/traffic"
)

// What a proposal is for.
const (
	kindSplit  = "split"  // a better division, in limited steps
	kindRelief = "relief" // a target gets more than it can do
	kindDrain  = "drain"  // a target's backlog or failures call for less
)

// member is a READY target of the tuned tier, or any other target for its
// estimate.
type member struct {
	name    string
	weight  int
	t       target
	seen    span
	age     time.Duration
	fresh   bool
	known   bool
	dead    bool
	held    string // why its weight is left alone; "" when it is tuned
	k, eff  float64
	use     float64 // utilization by its weight, at most fullUse
	wait    float64 // seconds that a message waits in its backlog
	excess  float64 // messages in the backlog beyond what is usual
	hot     string  // why it is hot; "" when it is not
	ideal   float64
	limited string
}

// flooded is the utilization beyond which a backlog grows to the most that
// draining may take within seconds, so that it counts from the start and the
// suggestion stays the same while it is read.
const flooded = 1.2

// settle is how long after a change the figures measured under it may take.
const settle = 10 * time.Second

// fullUse caps a utilization that is shown: beyond it the number says nothing.
const fullUse = 10

// view is one decision in the making.
type view struct {
	cfg      Config
	now      time.Time
	split    traffic.Split
	all      []*member // in the split's order
	tier     []*member // READY in the lowest tier that has any
	free     []*member // of them those whose weight may change
	mass     float64   // points that the free ones share
	floor    int
	rate     float64 // msg/s for the tier
	overload bool    // more than all free ones can do
	settling bool    // a change is so fresh that its figures are still coming in
}

// tuned are the READY targets of the lowest tier that has any.
func tuned(s traffic.Split) []traffic.Target {
	var tier []traffic.Target
	for _, t := range s.Targets {
		switch {
		case t.State != traffic.Ready:
		case len(tier) == 0 || t.Tier == tier[0].Tier:
			tier = append(tier, t)
		case t.Tier < tier[0].Tier:
			tier = []traffic.Target{t}
		}
	}
	return tier
}

// look judges every target by what is known of it now.
func look(cfg Config, mem memory, now time.Time, s traffic.Split) *view {
	v := &view{cfg: cfg, now: now, split: s, rate: mem.rate}
	v.settling = len(mem.moved) > 0 && now.Sub(mem.since) < settle
	for _, t := range s.Targets {
		known := mem.targets[t.Name]
		m := &member{name: t.Name, weight: t.Weight, t: known, seen: known.evidence()}
		if !known.until.IsZero() {
			m.age = max(0, now.Sub(known.until))
			// A collector may look more often than it is asked here.
			interval := max(known.interval, pace)
			m.fresh = m.age <= time.Duration(cfg.StaleIntervals)*interval && known.faulty == ""
		}
		m.dead = known.dead(cfg)
		m.known = known.known || m.dead
		m.k = known.capacity(cfg)
		switch {
		case known.until.IsZero():
			m.held = "was never observed"
		case known.faulty != "":
			m.held = "is left alone: " + known.faulty
		case !m.fresh:
			m.held = "was last observed " + short(m.age) + " ago"
		case !m.known:
			m.held = fmt.Sprintf("has %d of the %d acknowledgements that an estimate needs", known.seen, cfg.MinSamples)
		}
		m.eff = m.k
		if known.errs >= 0.01 {
			m.eff *= math.Pow(min(max(1-known.errs/0.5, 0.02), 1), 2)
		}
		v.all = append(v.all, m)
	}
	tier := tuned(s)
	for _, m := range v.all {
		if slices.ContainsFunc(tier, func(t traffic.Target) bool { return t.Name == m.name }) {
			v.tier = append(v.tier, m)
		}
	}
	if len(v.tier) > 0 {
		v.floor = min(cfg.Floor, 50/len(v.tier))
	}
	v.mass = 100
	for _, m := range v.tier {
		if m.held == "" {
			v.free = append(v.free, m)
			continue
		}
		v.mass -= float64(m.weight)
	}
	if len(v.free) > 0 {
		v.floor = min(v.floor, int(v.mass)/len(v.free))
	}
	v.loads()
	return v
}

// loads fills in what depends on the rate: utilizations, waits, and the
// capacity that is left while backlogs drain.
func (v *view) loads() {
	effective := 0.0
	for _, m := range v.free {
		effective += m.eff
	}
	part := v.rate * v.mass / 100
	v.overload = part > v.cfg.Hot*effective
	for _, m := range v.tier {
		queue := max(0, float64(m.t.backlog[1])-m.t.slots)
		switch {
		case m.k > 0:
			m.use = min(fullUse, v.load(m, m.weight)/m.k)
			m.wait = queue / m.k
			usual := max(2*m.t.slots/m.k, 0.05) * m.k
			m.excess = max(0, queue-usual)
		case m.dead && m.weight > 0:
			m.use = fullUse
		}
		if v.overload {
			m.eff = m.k * (1 - m.t.errs)
		} else if m.excess > 0 {
			drain := m.excess / v.cfg.DrainTime.Seconds()
			if m.use > flooded {
				drain = m.eff // by the time somebody decides, the backlog will have grown
			}
			m.eff -= min(m.eff*v.cfg.DrainShare, drain)
		}
		if m.held == "" {
			m.hot = v.hotness(m)
		}
	}
}

// load is what the member gets in msg/s with a weight.
func (v *view) load(m *member, weight int) float64 { return v.rate * float64(weight) / 100 }

// hotness says why a member needs relief now. A worker report is not enough for
// that: the servers' own figures must agree.
func (v *view) hotness(m *member) string {
	grows := float64(m.t.backlog[1]) > float64(m.t.backlog[0])+max(5, 0.05*m.t.arrival*m.t.window.Seconds())
	switch {
	case m.dead && m.weight > v.floor:
		return kindRelief
	case m.use > v.cfg.Hot && (grows || m.excess > 0) && m.seen.acked >= v.cfg.MinSamples:
		return kindRelief
	case m.use > 0.8 && m.wait > v.cfg.HotWait.Seconds():
		return kindDrain
	case m.t.errs >= 0.05 && m.seen.again > 0 && m.seen.acked >= v.cfg.MinSamples:
		return kindDrain
	}
	return ""
}

// pools are the free members as the model sees them.
func (v *view) pools() []pool {
	pools := make([]pool, len(v.free))
	for i, m := range v.free {
		// What errors and a backlog take away are slots; the rest is as fast as ever.
		pools[i] = pool{k: 1e-3, c: 1}
		if m.k > 0 {
			k := max(m.eff, 1e-3*m.k)
			pools[i] = pool{k: k, c: max(m.t.slots, 1) * k / m.k}
		}
	}
	return pools
}

// designLoad is the load, in msg/s, that the free members' weights are for.
func (v *view) designLoad() float64 {
	effective := 0.0
	for _, p := range v.pools() {
		effective += p.k
	}
	return max(v.rate*v.mass/100, v.cfg.Design*effective)
}

// utilization is the highest one with the given weights, dead targets aside,
// since they have none.
func (v *view) utilization(weights []int) float64 {
	top := 0.0
	for i, m := range v.tier {
		if m.k > 0 {
			top = max(top, min(fullUse, v.load(m, weights[i])/m.k))
		}
	}
	return top
}

func (v *view) estimates() []traffic.Estimate {
	out := make([]traffic.Estimate, len(v.all))
	for i, m := range v.all {
		e := traffic.Estimate{
			Target: m.name, Rate: m.t.arrival, Capacity: m.k, Quality: m.t.quality, Utilization: m.use,
			Workers: m.t.workers, Service: m.t.service,
			Latency: m.seen.latencyMean(), P99: m.seen.latency.Quantile(0.99),
			Samples: m.seen.latency.Count(), Acked: m.seen.acked, Backlog: m.t.backlog[1],
			ErrorRate: m.t.errs, Age: m.age, Estimated: m.seen.latency.Count() == 0 && m.seen.mean > 0,
			Note: v.note(m),
		}
		if !m.t.known {
			e.Quality = traffic.QualityNone
		}
		out[i] = e
	}
	return out
}

// note is what an operator should know before believing the estimate.
func (v *view) note(m *member) string {
	switch {
	case m.dead:
		return fmt.Sprintf("acknowledged nothing for %s although %s wait", short(m.t.silent), plural(int(m.t.backlog[1]), "message"))
	case m.held != "":
		return m.held
	case m.t.trust > 0 && m.t.trust < sure:
		return "reported processing time is impossible: busy all the time, it did " + percent(m.t.trust) + " of what its reports claim"
	case m.t.over:
		return "does more than its reports allow"
	case v.unexplained(m):
		return fmt.Sprintf("its ACK latency is %.0f times what its workers' processing time explains", m.seen.latencyMean().Seconds()/m.explained())
	}
	return ""
}

// explained is the latency that the model gives the member now.
func (m *member) explained() float64 {
	p := pool{m.k, max(m.t.slots, 1)}
	return m.t.service.Seconds() + p.wait(m.use*m.k)
}

// unexplained says whether the measured latency contradicts the reports: three
// times the model's and more than 5 ms, without a queue that would explain it.
func (v *view) unexplained(m *member) bool {
	return m.k > 0 && m.t.quality == traffic.QualityReports && m.excess == 0 && m.use < v.cfg.Hot &&
		m.seen.latency.Count() >= v.cfg.SureSamples && m.seen.latencyMean().Seconds() > 3*m.explained()+0.005
}

// confidence is low when anything rests on latency alone, is stale, doubted or
// contradicted, and then why; high when every target has reports and many
// samples.
func (v *view) confidence() (c traffic.Confidence, because string) {
	c = traffic.High
	var without []string
	for _, m := range v.tier {
		switch {
		case m.held != "":
			return traffic.Low, m.name + " " + m.held
		case m.dead:
			c = traffic.Medium
		case m.t.trust > 0 && m.t.trust < sure, m.t.over, v.unexplained(m):
			return traffic.Low, m.name + " contradicts its reports"
		case m.t.quality != traffic.QualityReports:
			without = append(without, m.name)
		case m.seen.latency.Count() < v.cfg.SureSamples:
			c = traffic.Medium
		}
	}
	if without != nil {
		return traffic.Low, "there are no worker reports of " + list(without)
	}
	return c, ""
}
