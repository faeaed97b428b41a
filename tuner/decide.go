package tuner

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"ballast/internal/sketch"
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

// learn returns the memory with the observations in it, and whether they
// brought anything new.
func (m memory) learn(cfg Config, now time.Time, rev traffic.Revision, obs []traffic.Observation) (memory, bool) {
	if m.targets == nil || rev.Number < m.rev {
		m = memory{rev: rev.Number, since: rev.At, weights: rev.Split.Weights(), damp: 1, targets: map[string]target{}}
	}
	if rev.Number > m.rev {
		m = m.follow(cfg, now, rev)
	}
	old := m.targets
	m.targets = make(map[string]target, len(rev.Split.Targets))
	newest := m.until
	for _, t := range rev.Split.Targets {
		learned := old[t.Name]
		for _, o := range obs {
			if o.Target == t.Name {
				learned = learned.learn(cfg, now, o)
			}
		}
		m.targets[t.Name] = learned
		if learned.until.After(newest) {
			newest = learned.until
		}
	}
	if !newest.After(m.until) {
		return m, false
	}
	rate, length := 0.0, pace
	for _, t := range tuned(rev.Split) {
		rate += m.targets[t.Name].arrival
	}
	if m.rated {
		length = newest.Sub(m.until)
		keep := math.Pow(0.5, float64(length)/float64(pace))
		rate = keep*m.rate + (1-keep)*rate
	}
	m.rate, m.rated, m.until = rate, true, newest
	return m, true
}

// follow takes note of a new revision: how it moved the weights decides how
// boldly the next move may go the other way, and latencies measured under the
// old weights explain nothing any more.
func (m memory) follow(cfg Config, now time.Time, rev traffic.Revision) memory {
	weights := rev.Split.Weights()
	moved := map[string]int{}
	against := 0
	for name, w := range weights {
		if was, ok := m.weights[name]; ok && was != w {
			moved[name] = w - was
			against += moved[name] * m.moved[name]
		}
	}
	if len(moved) > 0 {
		if against < 0 && now.Sub(m.since) < cfg.DampWindow {
			m.damp = max(0.2, m.damp/2)
		} else {
			m.damp = min(1, m.damp*1.25)
		}
		m.moved, m.since = moved, now
		targets := maps.Clone(m.targets)
		for name, t := range targets {
			t.before, t.current = span{}, span{}
			targets[name] = t
		}
		m.targets = targets
	}
	m.rev, m.weights, m.wanting = rev.Number, weights, 0
	return m
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
