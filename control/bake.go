package control

import (
	"context"
	"fmt"
	"math"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

const (
	guardName = "ballast guard"

	// worseP99 and worseRedeliveries are what a change may cost before the guard
	// takes it back.
	worseP99          = 1.20
	worseRedeliveries = 1.50
	// enough samples for a p99 to mean something: with fewer it is the maximum.
	enough = 100
	// fewRedeliveries are noise whatever their ratio.
	fewRedeliveries = 10
	// sigmas is how far from the expected a count must lie to be more than chance.
	sigmas = 3
	// strikes is how many looks in a row must agree before the guard acts: it
	// looks at a growing window many times, and each look may err.
	strikes = 3
	// soonest is when the guard judges at the earliest, if that is before half of
	// the bake time: until then old backlogs drain.
	soonest = 30 * time.Second
	// patience is how long after the bake time an unmeasured effect is waited for.
	patience = 30 * time.Second
)

// care resolves what is unfinished, watches over what bakes and settles what
// the journal is owed.
func (c *Control) care(ctx context.Context) {
	c.pay(ctx)
	c.mu.Lock()
	open := c.book.unfinished()
	c.mu.Unlock()
	for _, ch := range open {
		if ctx.Err() != nil {
			return
		}
		release, ok := c.tryClaim(ch.Split)
		if !ok {
			continue // whoever has it takes it further
		}
		c.mu.Lock()
		ch = c.book.changes[ch.ID]
		c.mu.Unlock()
		switch ch.Phase {
		case traffic.Applying, traffic.UnknownOut:
			c.recover(ctx, ch)
		case traffic.Baking:
			c.bake(ctx, ch)
		}
		release()
	}
}

// recover takes a change further whose write has an unknown end: the answer was
// lost, or the program stopped after the intent.
func (c *Control) recover(ctx context.Context, ch traffic.Change) {
	if c.cfg.ReadOnly || c.js == nil || !c.cfg.Conn.IsConnected() {
		return // resolving may need a write
	}
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout+c.writeTimeout)
	defer cancel()
	now, err := c.settle(ctx, ch, nil, false)
	if fleet.KindOf(err) == fleet.Unknown && err != nil {
		c.log.WarnContext(ctx, "a change is still unresolved", "split", ch.Split, "change", ch.ID, "err", err)
		return
	}
	c.log.InfoContext(ctx, "change resolved", "split", ch.Split, "change", ch.ID, "phase", now.Phase)
}

// reconcile finishes what a stop of the program left between two entries: the
// end of the changes that a newer one took the place of.
func (c *Control) reconcile(ctx context.Context) {
	c.mu.Lock()
	var written []traffic.Change
	for _, id := range c.book.order {
		if ch := c.book.changes[id]; !ch.Written.IsZero() {
			written = append(written, ch)
		}
	}
	c.mu.Unlock()
	for _, ch := range written {
		c.retire(ctx, ch)
	}
}

// bake looks at the effect of a change and ends its bake time when that is due.
func (c *Control) bake(ctx context.Context, ch traffic.Change) {
	c.mu.Lock()
	shown, known := c.splits[ch.Split]
	gone := c.gone[ch.Split] > 0 && !known
	c.mu.Unlock()
	if known && shown.Number > ch.Revision && shown.Change != ch.ID || gone {
		c.replace(ctx, ch, shown)
		return
	}
	now := c.now()
	m, err := c.measure(ctx, ch, now)
	if err != nil {
		if now.Before(ch.BakeEnds.Add(patience)) {
			c.log.WarnContext(ctx, "observe the effect of a change", "split", ch.Split, "change", ch.ID, "err", err)
			return
		}
		c.verify(ctx, ch, "In force; its effect could not be measured.")
		return
	}
	ch.Effect = m.effect()
	before, after := m.before(), m.after()
	why := m.worse()
	c.mu.Lock()
	switch judge := min(ch.BakeEnds.Sub(ch.Written)/2, soonest); {
	case why == "" || now.Before(ch.Written.Add(judge)):
		delete(c.bad, ch.ID)
	default:
		c.bad[ch.ID]++
	}
	tripped := c.bad[ch.ID] >= strikes
	c.book.changes[ch.ID] = ch // the effect so far, for display; the journal gets the final one
	c.mu.Unlock()
	over := !now.Before(ch.BakeEnds)
	switch {
	case why != "" && (tripped || over) && ch.Guard && !m.worseBefore() && ch.Before.Name != "":
		if _, err := c.rollback(ctx, ch.ID, guardName, why); err != nil {
			c.log.ErrorContext(ctx, "roll back a change with a bad effect", "split", ch.Split, "change", ch.ID, "why", why, "err", err)
		}
	case !over:
	case why != "" && m.worseBefore():
		c.verify(ctx, ch, "In force. "+why+" It was getting worse before the change already, so the guard left it.")
	case why != "":
		c.verify(ctx, ch, "In force. "+why+" The guard was off.")
	case !after.telling():
		c.verify(ctx, ch, fmt.Sprintf("In force; %d ACK samples are too few to judge its effect.", after.latency.Count()))
	case !before.telling():
		c.verify(ctx, ch, fmt.Sprintf("In force; p99 ACK latency is %s. There was too little before to compare it with.", short(after.p99())))
	default:
		text := fmt.Sprintf("Verified: p99 ACK latency %s before, %s after.", short(before.p99()), short(after.p99()))
		if m.recent.telling() && m.recent.p99() > before.p99()*11/10 {
			text = fmt.Sprintf("Verified: p99 ACK latency %s before (%s in the last %s of that), %s after.",
				short(before.p99()), short(m.recent.p99()), short(m.recent.span), short(after.p99()))
		}
		c.verify(ctx, ch, text)
	}
}

func (c *Control) verify(ctx context.Context, ch traffic.Change, outcome string) {
	if ch.After.Driver.Maps() {
		outcome += c.lagging(ch.Split)
	}
	ch.Phase, ch.Ended, ch.Outcome = traffic.Verified, c.now(), outcome
	c.remember(ch)
	c.tell(ctx, c.about(traffic.EntryVerified, ch, guardName, outcome))
	c.log.InfoContext(ctx, "change verified", "split", ch.Split, "change", ch.ID, "revision", ch.Revision)
}

// window is what all targets of a split did together: what its clients feel.
type window struct {
	span        time.Duration
	latency     *sketch.Sketch
	mean        time.Duration
	acked       uint64
	redelivered uint64
	backlog     uint64
}

func (w window) p99() time.Duration { return w.latency.Quantile(0.99) }

// baseline is how it was before a change. earlier is as long as the bake time
// and ends where head begins; head and recent together are the bake time before
// the change. recent is what would have gone on without it: a change often comes
// seconds after something broke.
type baseline struct{ earlier, head, recent window }

func (b baseline) before() window { return b.head.and(b.recent) }

// measured are the windows around a change. start and latest together reach
// from its taking effect to now.
type measured struct {
	baseline
	start, latest window
}

func (m measured) after() window { return m.start.and(m.latest) }

// and is both windows together; o follows w.
func (w window) and(o window) window {
	all := window{
		span: w.span + o.span, latency: w.latency.Clone(),
		acked: w.acked + o.acked, redelivered: w.redelivered + o.redelivered, backlog: o.backlog,
	}
	all.latency.Merge(o.latency)
	if all.mean = all.latency.Mean(); all.mean == 0 && all.acked > 0 {
		all.mean = time.Duration((float64(w.mean)*float64(w.acked) + float64(o.mean)*float64(o.acked)) / float64(all.acked))
	}
	return all
}

func (c *Control) measure(ctx context.Context, ch traffic.Change, now time.Time) (measured, error) {
	bake := ch.BakeEnds.Sub(ch.Written)
	c.mu.Lock()
	interval := c.interval
	b, cached := c.bases[ch.ID]
	c.mu.Unlock()
	tail := min(max(bake/4, 2*interval), bake)
	m := measured{baseline: b}
	var err error
	look := func(s traffic.Split, from, to time.Time) (w window) {
		if err == nil && s.Name != "" && from.Before(to) {
			w, err = c.window(ctx, s, fleet.Range{From: from, To: to})
		}
		return w
	}
	if !cached {
		m.earlier = look(ch.Before, ch.Written.Add(-2*bake), ch.Written.Add(-bake))
		m.head = look(ch.Before, ch.Written.Add(-bake), ch.Written.Add(-tail))
		m.recent = look(ch.Before, ch.Written.Add(-tail), ch.Written)
	}
	end := now
	if end.After(ch.BakeEnds) { // a console that was away judges what it missed, no more
		end = ch.BakeEnds
	}
	// The interval in which it was written has samples of both sides.
	from := ch.Written.Add(interval)
	if !from.Before(end) {
		from = ch.Written
	}
	cut := end.Add(-tail)
	if cut.Before(from) {
		cut = from
	}
	m.start = look(ch.After, from, cut)
	m.latest = look(ch.After, cut, end)
	if err != nil {
		return measured{}, err
	}
	if !cached && now.After(ch.Written.Add(2*interval+time.Second)) { // nothing of it can still come in
		c.mu.Lock()
		c.bases[ch.ID] = m.baseline
		c.mu.Unlock()
	}
	return m, nil
}

func (c *Control) window(ctx context.Context, s traffic.Split, r fleet.Range) (window, error) {
	obs, err := c.cfg.Observer.Observe(ctx, s, r)
	if err != nil {
		return window{}, fmt.Errorf("observe split %s: %w", s.Name, err)
	}
	w := window{span: r.Span(), latency: &sketch.Sketch{}}
	var weighted, all float64
	for _, o := range obs {
		w.latency.Merge(o.Latency)
		w.acked += o.Acked
		w.redelivered += o.Redelivered
		w.backlog += o.Backlog
		weighted += float64(o.Mean) * float64(o.Acked)
		all += float64(o.Acked)
	}
	if w.mean = w.latency.Mean(); w.mean == 0 && all > 0 { // by estimate
		w.mean = time.Duration(weighted / all)
	}
	c.noteInterval(obs)
	return w, nil
}

// noteInterval remembers the pace at which the collector looks.
func (c *Control) noteInterval(obs []traffic.Observation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range obs {
		if o.Interval > 0 {
			c.interval = o.Interval
		}
	}
}

func (m measured) effect() *traffic.Effect {
	before, after := m.before(), m.after()
	return &traffic.Effect{
		MeanBefore: before.mean, MeanAfter: after.mean,
		P99Before: before.p99(), P99After: after.p99(),
		SamplesBefore: before.latency.Count(), SamplesAfter: after.latency.Count(),
		RedeliveredBefore: before.redelivered, RedeliveredAfter: after.redelivered,
		BacklogBefore: before.backlog, BacklogAfter: after.backlog,
	}
}

// worse says what is worse after than before, beyond noise; "" when nothing is.
// It must be worse than it was just before the change, too, and still be so: what
// was sent by the old weights is finished by the old targets for a while.
func (m measured) worse() string {
	why := compare(m.before(), m.after())
	if why == "" ||
		m.recent.telling() && compare(m.recent, m.after()) == "" ||
		m.latest.telling() && compare(m.before(), m.latest) == "" {
		return ""
	}
	return why
}

// worseBefore reports whether things went the same way before the change: then
// it is not the change's doing, and undoing it would not help.
func (m measured) worseBefore() bool {
	return compare(m.earlier, m.before()) != "" || compare(m.earlier.and(m.head), m.recent) != ""
}

// telling reports whether a window has samples enough to be compared.
func (w window) telling() bool { return w.latency.Count() >= enough }

// compare says in which way b is worse than a, beyond noise.
func compare(a, b window) string {
	if na, nb := a.latency.Count(), b.latency.Count(); a.telling() && b.telling() {
		// The p99 of a is itself known only roughly: take the upper end of it. Then
		// one in a hundred of b's samples may lie beyond the limit, give or take
		// chance.
		high := a.latency.Quantile(min(1, 0.99+sigmas*math.Sqrt(0.99*0.01/float64(na))))
		limit := time.Duration(worseP99 * float64(high))
		expected := 0.01 * float64(nb)
		if beyond := float64(above(b.latency, limit)); beyond > expected+sigmas*math.Sqrt(expected) {
			return fmt.Sprintf("The p99 ACK latency rose from %s to %s (%d and %d samples).", short(a.p99()), short(b.p99()), na, nb)
		}
	}
	if a.span > 0 && b.redelivered >= fewRedeliveries {
		expected := float64(a.redelivered) * float64(b.span) / float64(a.span)
		if float64(b.redelivered) > worseRedeliveries*expected+sigmas*math.Sqrt(expected) {
			return fmt.Sprintf("Redeliveries rose from %d in %s to %d in %s.", a.redelivered, short(a.span), b.redelivered, short(b.span))
		}
	}
	return ""
}

// above counts the samples that lie wholly beyond limit.
func above(s *sketch.Sketch, limit time.Duration) uint64 {
	var n uint64
	for b := range s.Buckets() {
		if b.Low > limit {
			n += b.Count
		}
	}
	return n
}

// short rounds a duration to three digits.
func short(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
