package tuner

import (
	"maps"
	"math"
	"time"

	"ballast/internal/sketch"
	"ballast/traffic"
)

// memory is what is kept of one split between decisions. A memory is never
// changed: learning returns a new one.
type memory struct {
	rev     uint64    // revision the targets' weights are of
	since   time.Time // when that revision came, as far as known
	weights map[string]int
	until   time.Time // end of the newest window
	rate    float64   // msg/s arriving for the tuned tier, smoothed
	rated   bool
	wanting int            // decisions in a row that called for an ordinary move
	moved   map[string]int // points by which the last change moved each target
	damp    float64        // 0.2 to 1
	targets map[string]target
}

// target is what is kept of one target.
type target struct {
	until    time.Time // end of the newest window learned from
	interval time.Duration
	seen     uint64  // acknowledgements the estimate rests on, until it is known
	lnK      float64 // logarithm of the capacity in msg/s
	known    bool
	jumping  int // windows in a row far from the estimate
	quality  traffic.Quality

	workers    int
	service    time.Duration // mean processing time, from the newest report
	reportedAt time.Time
	cpu        float64
	trust      float64 // share of its reported capacity that a busy target really did; 0 is not judged yet
	impossible int     // reports in a row that a busy target contradicts
	since      tally   // since the newest report

	base    time.Duration // latency without a queue, for quality C
	slots   float64       // messages worked on at the same time
	errs    float64       // share of failed messages, smoothed
	arrival float64       // msg/s in the newest window
	window  time.Duration // its length
	backlog [2]uint64     // at the begin and the end of the newest window
	ackedAt time.Time     // end of the newest window with an acknowledgement
	silent  time.Duration // for how long nothing was acknowledged although messages waited
	faulty  string        // what contradicts itself in the newest window
	over    bool          // does more than its reports allow
	jumped  bool          // the newest window moved the estimate at once

	current, before span // the two newest evidence spans
}

// tally sums windows between two reports, so that what the servers counted is
// compared with what the workers said of the same time.
type tally struct {
	acked  uint64
	length time.Duration
	queued bool // the queue was never empty
	any    bool
}

// span is evidence for the explanation: what was acknowledged in a stretch of
// time. Its sketch is never changed once it is here.
type span struct {
	from, to  time.Time
	acked     uint64
	again     uint64 // redelivered
	latency   *sketch.Sketch
	mean      time.Duration // estimate, when nothing is sampled
	estimated bool
}

const (
	// smoothing per window or report. Settled quality is insensitive to it
	// between 0.15 and 0.6, because the capacity does not depend on the weights;
	// real changes are followed as jumps.
	smoothing = 0.3
	// pace is the window length that constants per window were chosen for.
	pace = 2 * time.Second
	// trustRegain is the part of the lost trust that a target regains per report
	// that its ACK latency bears out: it is tried again after minutes.
	trustRegain = 0.02
	// cpuCeiling is the share of its cores above which a worker has no capacity
	// left whatever its processing time says.
	cpuCeiling = 0.85
	// forget is how long an estimate outlives the last acknowledgement.
	forget = 3 * time.Minute
	// sure is the trust below which a report is openly doubted.
	sure = 0.95
	// absurd bounds what a report may claim; a worker that says more is not
	// believed at all, since anybody who may publish can write a report.
	absurdWorkers    = 100_000
	absurdProcessing = time.Hour
)

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

// learn returns t with what the window o teaches.
func (t target) learn(cfg Config, now time.Time, o traffic.Observation) target {
	length := o.To.Sub(o.From)
	if length <= 0 || o.From.Before(t.until.Add(-length/10)) {
		return t
	}
	t.until, t.window = o.To, length
	t.interval = o.Interval
	t.jumped = false
	if t.faulty = contradiction(now, o); t.faulty != "" {
		return t
	}
	arrived := arrivals(o)
	t.arrival = float64(arrived) / length.Seconds()
	t.backlog = [2]uint64{o.Backlog0, o.Backlog}
	if o.Acked == 0 && o.Backlog0 > 0 && o.Backlog >= 5 {
		t.silent += length
	} else {
		t.silent = 0
	}
	if o.Acked > 0 {
		t.ackedAt = o.To
	} else if o.To.Sub(t.ackedAt) > forget {
		t.known, t.seen, t.jumping = false, 0, 0
	}
	t = t.learnErrors(o)

	t.since.add(o, t.busy(o))
	reported := o.Workers > 0 && o.Workers <= absurdWorkers && o.Processing > 0 && o.Processing <= absurdProcessing
	at := o.ReportedAt
	if at.IsZero() {
		at = o.To
	}
	if reported && at.After(t.reportedAt) && !at.After(now.Add(max(o.Interval, pace))) {
		t.reportedAt = at
		t.workers, t.service, t.cpu = o.Workers, o.Processing, share(o.CPU, o.Cores)
		t = t.learnReport(cfg, o)
	}
	if t.over || !t.reports(cfg, o.To) {
		t = t.learnLatency(cfg, o)
	}
	t.slots = t.parallel(o)
	if t.jumped {
		t.before, t.current = span{}, span{} // what was before explains nothing now
	}
	return t.remember(cfg, o)
}

// contradiction says in which way the figures of a window cannot all be true,
// or "". Counters of a consumer that was recreated or purged end here.
func contradiction(now time.Time, o traffic.Observation) string {
	if o.To.After(now.Add(max(o.Interval, pace))) {
		return "its figures are from the future"
	}
	if o.Arrived == 0 && o.Acked > 0 {
		return "" // arrivals are not known; they are derived from the rest
	}
	in := float64(o.Backlog0) + float64(o.Arrived)
	out := float64(o.Backlog) + float64(o.Acked)
	if slack := 50 + 0.5*max(float64(o.Arrived), float64(o.Acked)); math.Abs(in-out) > slack {
		return "its arrivals, acknowledgements and backlog contradict each other"
	}
	return ""
}

// arrivals of the window, derived from the others when they were not counted.
func arrivals(o traffic.Observation) uint64 {
	if o.Arrived > 0 {
		return o.Arrived
	}
	if out := o.Acked + o.Backlog; out > o.Backlog0 {
		return out - o.Backlog0
	}
	return 0
}

// share turns a CPU percentage of one core into a share of all cores; 0 when
// the cores are not known, since then it means nothing.
func share(cpu float64, cores int) float64 {
	if cores <= 0 || math.IsNaN(cpu) || math.IsInf(cpu, 0) || cpu < 0 {
		return 0
	}
	return cpu / 100 / float64(cores)
}

// reports says whether the workers' last report still stands.
func (t target) reports(cfg Config, at time.Time) bool {
	return !t.reportedAt.IsZero() && at.Sub(t.reportedAt) <= cfg.ReportAge
}

// parallel is how many messages the target works on at the same time.
func (t target) parallel(o traffic.Observation) float64 {
	c := float64(t.workers)
	if c == 0 {
		c = max(10, 4*rateOf(o)*t.base.Seconds())
	}
	if o.MaxAckPending > 0 {
		c = min(c, float64(o.MaxAckPending))
	}
	return max(c, 1)
}

func rateOf(o traffic.Observation) float64 {
	return float64(o.Acked) / o.To.Sub(o.From).Seconds()
}

// busy says whether the target's queue was, by all one can tell, never empty in
// the window: then what it acknowledged is what it can do.
func (t target) busy(o traffic.Observation) bool {
	limit := 2*t.parallel(o) + 5
	return float64(o.Backlog0) > limit && float64(o.Backlog) > limit
}

func (s *tally) add(o traffic.Observation, busy bool) {
	s.queued = busy && (s.queued || !s.any)
	s.any = true
	s.acked += o.Acked
	s.length += o.To.Sub(o.From)
}

// learnReport estimates capacity as workers over mean processing time, and
// holds the claim against what the servers counted in the same time.
func (t target) learnReport(cfg Config, o traffic.Observation) target {
	c := float64(t.workers)
	if o.MaxAckPending > 0 {
		c = min(c, float64(o.MaxAckPending))
	}
	claimed := c / t.service.Seconds()
	n := max(t.since.acked, o.Acked)
	if t.trust == 0 {
		t.trust = 1
	}
	// Whoever claims to be slower than the servers saw it be, beyond chance, is
	// believed as little as one who claims to be faster: reports alone take no
	// traffic away.
	did := float64(t.since.acked) / t.since.length.Seconds()
	t.over = t.since.acked >= cfg.MinSamples && did > 1.25*claimed &&
		did*(1-3/math.Sqrt(float64(t.since.acked))) > claimed
	// Of several processes each report moves the claim a little; only a stretch
	// as long as their interval can be compared with it.
	if t.since.length >= cfg.ReportAge/4 {
		t = t.audit(cfg, claimed)
		t.since = tally{}
	}
	if t.over {
		return t
	}
	k := claimed * t.trust
	if t.cpu > cpuCeiling {
		k = min(k, rateOf(o)/t.cpu)
	}
	if t.quality != traffic.QualityReports {
		t.quality, t.known, t.seen = traffic.QualityReports, false, 0
	}
	return t.follow(cfg, k, n, c)
}

// audit compares the capacity claimed by reports with what was acknowledged in
// the same time, and moves the trust.
func (t target) audit(cfg Config, claimed float64) target {
	n := t.since.acked
	did := float64(n) / t.since.length.Seconds()
	latency := t.current.latencyMean()
	switch ratio := did / claimed; {
	case t.since.queued && n >= 10 && ratio < 0.8*t.trust:
		// A report that straddles a sudden change may be wrong once.
		if t.impossible++; t.impossible >= 2 {
			t.trust = ratio
		}
	case t.since.queued && n >= 10:
		t.impossible = 0
		t.trust += 0.7 * (min(1, ratio) - t.trust)
	case t.current.acked >= cfg.MinSamples && latency > 0 && latency <= t.service+t.service/2+5*time.Millisecond:
		// The servers measured about what the reports say, without a queue.
		t.impossible = 0
		t.trust += trustRegain * (1 - t.trust)
	default:
		t.impossible = 0
	}
	return t
}

// learnLatency estimates capacity from acknowledgements, their latency and the
// backlog alone. It sees no spare capacity, so it never more than doubles.
func (t target) learnLatency(cfg Config, o traffic.Observation) target {
	if o.Acked == 0 || o.Mean <= 0 {
		return t
	}
	if !t.over {
		t.workers, t.service, t.trust, t.impossible, t.since = 0, 0, 0, 0, tally{}
	}
	low := o.Mean / 4 // the tenth percentile of a log-normal time as variable as its mean
	if o.Latency.Count() > 0 {
		low = o.Latency.Quantile(0.1)
	}
	if t.base == 0 || low < t.base {
		t.base = low
	} else {
		t.base = min(low, time.Duration(float64(t.base)*math.Pow(1.002, float64(t.window)/float64(pace))))
	}
	did := rateOf(o)
	k := did
	if !t.busy(o) {
		queueing := max((o.Mean - 2*t.base).Seconds(), 0.3*t.base.Seconds(), 1e-6)
		k = min(did+1/queueing, 2*did+5)
	}
	if t.quality != traffic.QualityLatency {
		t.quality, t.known, t.seen = traffic.QualityLatency, false, 0
	}
	return t.follow(cfg, k, o.Acked, t.parallel(o))
}

// follow smooths the capacity k of a window with n messages in the logarithm,
// and takes over a real jump at once.
func (t target) follow(cfg Config, k float64, n uint64, c float64) target {
	if n == 0 || k <= 0 || math.IsNaN(k) || math.IsInf(k, 0) {
		return t
	}
	ln, weight := math.Log(k), float64(n)
	if !t.known {
		t.lnK = (t.lnK*float64(t.seen) + ln*weight) / (float64(t.seen) + weight)
		t.seen += n
		t.known = t.seen >= cfg.MinSamples
		return t
	}
	noise := 1.2/math.Sqrt(weight+1) + 0.05
	if math.Abs(ln-t.lnK) > 3*noise {
		t.jumping++
	} else {
		t.jumping = 0
	}
	wait := max(2*c/k, 0.1)
	confirmed := ln < t.lnK && float64(t.backlog[1]) > c+wait*k
	if t.jumping >= 2 || t.jumping == 1 && confirmed {
		t.lnK, t.jumping, t.jumped = ln, 0, true
		return t
	}
	t.lnK += smoothing * weight / (weight + 30) * (ln - t.lnK)
	return t
}

// learnErrors follows the share of failed messages: by the workers' word, or by
// the redeliveries that the servers counted.
func (t target) learnErrors(o traffic.Observation) target {
	total, bad := float64(o.Acked+o.Redelivered), float64(o.Redelivered)
	if o.Processed > 0 {
		total, bad = float64(max(o.Processed, o.Failed)), float64(o.Failed)
	}
	if total > 0 {
		t.errs += 0.5 * total / (total + 10) * (bad/total - t.errs)
	}
	return t
}

// remember adds the window to the evidence.
func (t target) remember(cfg Config, o traffic.Observation) target {
	if t.current.to.Sub(t.current.from) >= cfg.Evidence {
		t.before, t.current = t.current, span{}
	}
	s := t.current
	if s.from.IsZero() {
		s.from = o.From
	}
	s.to = o.To
	if s.acked+o.Acked > 0 {
		s.mean = time.Duration((float64(s.mean)*float64(s.acked) + float64(o.Mean)*float64(o.Acked)) / float64(s.acked+o.Acked))
	}
	s.acked += o.Acked
	s.again += o.Redelivered
	s.estimated = o.Estimated
	if o.Latency.Count() > 0 {
		all := s.latency.Clone()
		all.Merge(o.Latency)
		s.latency = all
	}
	t.current = s
	return t
}

// evidence is both spans together.
func (t target) evidence() span {
	a, b := t.before, t.current
	if a.from.IsZero() || a.to.Before(b.from.Add(-5*pace)) {
		return b
	}
	all := span{from: a.from, to: b.to, acked: a.acked + b.acked, again: a.again + b.again, estimated: b.estimated, mean: b.mean, latency: b.latency}
	if all.acked > 0 {
		all.mean = time.Duration((float64(a.mean)*float64(a.acked) + float64(b.mean)*float64(b.acked)) / float64(all.acked))
	}
	if a.latency.Count() > 0 {
		all.latency = a.latency.Clone()
		all.latency.Merge(b.latency)
	}
	return all
}

// latencyMean is the measured mean, the estimate without samples.
func (s span) latencyMean() time.Duration {
	if s.latency.Count() > 0 {
		return s.latency.Mean()
	}
	return s.mean
}

// dead says whether the target has answered nothing for too long.
func (t target) dead(cfg Config) bool {
	return t.silent >= max(cfg.Silence, 10*t.service)
}

// capacity in msg/s; 0 when it is not known yet or the target is dead.
func (t target) capacity(cfg Config) float64 {
	if !t.known || t.dead(cfg) {
		return 0
	}
	return math.Exp(t.lnK)
}
