package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/traffic"
)

const (
	// wantedSamples per second are enough for a p99 within seconds, and cost
	// nothing that can be measured.
	wantedSamples = 35
	// maxMeasuring bounds what may be sampled at the same time by this console.
	maxMeasuring = 32
	longest      = 24 * time.Hour
	// keptMeasurements that ended; the journal has all of them.
	keptMeasurements = 200
	retryEvery       = 5 * time.Second // putting back what could not be put back
	// lateWrite is how long a write without an answer is expected to arrive after
	// all. Nothing can fence it off: consumers have no compare-and-swap.
	lateWrite = time.Minute
	// stopTimeout bounds what a console does on its way out. What is left is put
	// back at its next start.
	stopTimeout = 5 * time.Second

	// cpuPerSample is what a server spends on one: measured with nats-server
	// 2.15.2, acknowledgements cost 5 µs and, all sampled and read, 3 to 4 µs more.
	cpuPerSample = 4 * time.Microsecond
	// sampleBytes is the length of a sample on the wire but for the names, which
	// stand twice in it: in the subject and in the body.
	sampleBytes = 272

	measureName = "ballast"
)

// attempt is when putting back may be tried next, and what it said last time.
type attempt struct {
	next time.Time
	said string
}

// shareOf is what a server makes of a sample_freq: it draws one of 0..99 and
// samples up to and including n (nats-server 2.10 to 2.15).
func shareOf(percent int) float64 { return float64(min(percent+1, 100)) / 100 }

// choosePercent finds the percentage for about wantedSamples a second. It cannot
// go below 1, of which servers make 2.
func choosePercent(rate float64) int {
	if rate <= wantedSamples {
		return 100
	}
	n := min(max(int(math.Round(100*wantedSamples/rate))-1, 1), 100)
	if shareOf(n) == 1 {
		return 100
	}
	return n
}

func observedOf(k fleet.ConsumerKey) traffic.Observed {
	return traffic.Observed{Account: k.Account, Stream: k.Stream, Consumer: k.Consumer}
}

func keyOf(o traffic.Observed) fleet.ConsumerKey {
	return fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer}
}

// gateOf is the name under which a consumer is claimed; no split's name has a
// slash.
func gateOf(k fleet.ConsumerKey) string { return "consumer/" + k.Stream + "/" + k.Consumer }

// Measure has the servers sample the ACK latency of a consumer for d. It changes
// the consumer's sample_freq and nothing else, and puts it back when the time is
// over, by StopMeasuring, when the console ends, or when it starts again. With
// percent 0 the percentage is chosen by the rate of acknowledgements. It returns
// once the consumer is sampled; with an error of kind fleet.Unknown it may be,
// and is put back as soon as the consumer answers.
func (c *Control) Measure(ctx context.Context, k fleet.ConsumerKey, percent int, d time.Duration, actor, reason string) (traffic.Measurement, error) {
	if err := c.open(); err != nil {
		return traffic.Measurement{}, err
	}
	if err := checkMeasure(k, percent, d, actor, reason); err != nil {
		return traffic.Measurement{}, err
	}
	if err := c.ownAccount(ctx, k); err != nil {
		return traffic.Measurement{}, err
	}
	release, err := c.claim(ctx, gateOf(k))
	if err != nil {
		return traffic.Measurement{}, unavailable("This consumer's sampling is just being changed.", "Try again in a moment.", err)
	}
	defer release()
	if err := c.mayMeasure(k); err != nil {
		return traffic.Measurement{}, err
	}
	if err := c.settled(k); err != nil {
		return traffic.Measurement{}, err
	}
	s, rate, err := c.lookAt(ctx, k, percent == 0)
	if err != nil {
		return traffic.Measurement{}, asked(err)
	}
	before := s.sampleFreq()
	if percent == 0 {
		percent = choosePercent(rate)
	}
	if p := percentOf(before); p > 0 && shareOf(p) == shareOf(percent) {
		return traffic.Measurement{}, invalid(fmt.Sprintf("This consumer is sampled already: its sample_freq is %s.", printable([]byte(before))), "Look at its ACK latency; to have more or fewer samples choose another percentage.", nil)
	}
	m := traffic.Measurement{
		ID: nuid.Next(), Consumer: observedOf(k), Phase: traffic.SwitchingOn, Actor: actor, Reason: reason,
		Percent: percent, Share: shareOf(percent), AckRate: rate, Before: before, Born: s.born, Config: s.raw, Started: c.now(),
	}
	m.Ends = m.Started.Add(d)
	m.Cost.ExpectedPerSec = rate * m.Share
	m.Outcome = "It is being switched on."
	if err := c.append(ctx, c.aboutMeasurement(traffic.EntryMeasureOn, m, actor, onText(m))); err != nil {
		return traffic.Measurement{}, err
	}
	c.note(m)
	// From here on it does not matter whether the asker still waits.
	return c.switchOn(context.WithoutCancel(ctx), m, s)
}

// switchOn writes what was recorded. The consumer is claimed.
func (c *Control) switchOn(ctx context.Context, m traffic.Measurement, s consumerState) (traffic.Measurement, error) {
	k := keyOf(m.Consumer)
	// Look again just before writing: the record took its time.
	now, err := c.consumer(ctx, k)
	if err == nil && (!now.born.Equal(s.born) || now.sampleFreq() != s.sampleFreq() || len(differs(s.config, now.config)) > 0) {
		err = &fleet.Error{Kind: fleet.Stale, Msg: "This consumer was changed by somebody else at the same moment.", Hint: "Look at it and try again."}
	}
	if err != nil {
		err = asked(err)
		return c.endMeasurement(ctx, m, m.Actor, "Not switched on: "+words(err)), err
	}
	now, err = c.setSampling(ctx, k, s, strconv.Itoa(m.Percent))
	switch {
	case err != nil && (fleet.KindOf(err) == fleet.Unknown || fleet.KindOf(err) == fleet.Internal):
		m.Doubt = c.now().Add(c.late)
		m.Phase, m.Outcome = traffic.PuttingBack, "The change was sent, but its result is not known; it is taken back as soon as the consumer answers."
		c.note(m)
		c.log.WarnContext(ctx, "a change of a consumer was not answered", "stream", k.Stream, "consumer", k.Consumer, "measurement", m.ID, "err", err)
		return m, &fleet.Error{Kind: fleet.Unknown, Msg: "It is not known yet whether the consumer is sampled.",
			Hint: "It is taken back by itself as soon as the consumer answers; then try again.", Err: err}
	case err != nil:
		m = c.endMeasurement(ctx, m, m.Actor, "Not switched on: "+words(err))
		return m, err
	}
	if fields := differs(s.config, now.config); len(fields) > 0 || now.sampleFreq() != strconv.Itoa(m.Percent) {
		// Whoever changed them, the server or somebody at the same moment: to write
		// the old ones could undo what somebody wants.
		what := printable([]byte(strings.Join(append(fields, sampleField)[:max(len(fields), 1)], ", ")))
		m.Phase = traffic.PuttingBack
		if m, err = c.putBack(ctx, m, m.Actor); err != nil {
			return m, err
		}
		return m, &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("With the sampling %s changed, too, so it was switched off again.", what),
			Hint: "Somebody may have changed the consumer at the same time: its configuration from before stands in the journal.",
			Err:  fmt.Errorf("update consumer %s: %s changed", named(k), what)}
	}
	m.Phase = traffic.Measuring
	m.Outcome = fmt.Sprintf("%.0f %% of the acknowledgements are sampled.", 100*m.Share)
	if most := 50.0; m.Cost.ExpectedPerSec > most && m.Percent == 1 {
		m.Outcome = fmt.Sprintf("2 %% of the acknowledgements are sampled, about %.0f a second: NATS cannot sample less.", m.Cost.ExpectedPerSec)
	}
	c.note(m)
	c.log.InfoContext(ctx, "consumer is sampled", "stream", k.Stream, "consumer", k.Consumer, "measurement", m.ID, "percent", m.Percent, "until", m.Ends, "actor", m.Actor)
	return m, nil
}

// StopMeasuring ends a measurement before its time.
func (c *Control) StopMeasuring(ctx context.Context, id, actor string) (traffic.Measurement, error) {
	if err := c.open(); err != nil {
		return traffic.Measurement{}, err
	}
	fields := map[string]string{}
	checkText(fields, actor, "")
	if len(fields) > 0 {
		return traffic.Measurement{}, invalid("The measurement cannot be ended like this.", "Correct what is marked.", fields)
	}
	m, ok := c.measurement(id)
	if !ok {
		return traffic.Measurement{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such measurement.", Hint: "Old measurements are in the journal."}
	}
	release, err := c.claim(ctx, gateOf(keyOf(m.Consumer)))
	if err != nil {
		return traffic.Measurement{}, unavailable("This consumer's sampling is just being changed.", "Try again in a moment.", err)
	}
	defer release()
	if m, _ = c.measurement(id); m.Phase == traffic.MeasureOver {
		return m, &fleet.Error{Kind: fleet.Stale, Msg: "This measurement has ended already.", Hint: m.Outcome}
	}
	if _, open := c.unsettled(keyOf(m.Consumer)); open {
		return m, unavailable("It is not known yet whether a change of this consumer was made.", "It is resolved as soon as the consumer's leader answers; then the measurement can be ended.", nil)
	}
	return c.putBack(context.WithoutCancel(ctx), m, actor)
}

// Measurements are newest first: those that run and the last that ended.
func (c *Control) Measurements() []traffic.Measurement {
	c.mu.Lock()
	defer c.mu.Unlock()
	return newest(c.book.measured, c.book.measurements, 0, func(traffic.Measurement) bool { return true })
}

func (c *Control) measurement(id string) (traffic.Measurement, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.book.measurements[id]
	return m, ok
}

func checkMeasure(k fleet.ConsumerKey, percent int, d time.Duration, actor, reason string) error {
	fields := map[string]string{}
	checkText(fields, actor, reason)
	if percent < 0 || percent > 100 {
		fields["percent"] = "choose 1 to 100, or 0 to have it chosen"
	}
	if d < time.Second || d > longest {
		fields["duration"] = "measure for one second to 24 hours"
	}
	if !apiToken(k.Stream) {
		fields["stream"] = "this cannot be the name of a stream"
	}
	if !apiToken(k.Consumer) {
		fields["consumer"] = "this cannot be the name of a consumer"
	}
	if len(fields) > 0 {
		return invalid("The consumer cannot be measured like this.", "Correct what is marked.", fields)
	}
	return nil
}

// mayMeasure refuses a second measurement of a consumer, and too many at once.
func (c *Control) mayMeasure(k fleet.ConsumerKey) error {
	running := c.running()
	for _, m := range running {
		switch {
		case m.Consumer.Stream != k.Stream || m.Consumer.Consumer != k.Consumer:
		case m.Phase != traffic.Measuring:
			return &fleet.Error{Kind: fleet.Stale, Msg: "An earlier measurement of this consumer is still being put back.", Hint: m.Outcome}
		default:
			return &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("%s measures this consumer already, until %s.", m.Actor, m.Ends.UTC().Format(time.TimeOnly+" MST")),
				Hint: "Wait for its end, or end it first."}
		}
	}
	if len(running) >= maxMeasuring {
		return invalid(fmt.Sprintf("%d consumers are being measured already.", len(running)), "End one of them first: every sample costs the servers.", nil)
	}
	return nil
}

// lookAt returns a consumer that can be measured and the rate of its
// acknowledgements in the last minute. When that was not observed but is needed,
// it is the rate of the second that this then takes.
func (c *Control) lookAt(ctx context.Context, k fleet.ConsumerKey, need bool) (consumerState, float64, error) {
	s, err := c.consumer(ctx, k)
	if err != nil {
		return s, 0, err
	}
	if err := samplable(s); err != nil {
		return s, 0, err
	}
	now := c.now()
	o, err := c.observed(ctx, k, now.Add(-time.Minute), now)
	if err == nil && o.To.After(o.From) && (o.Arrived > 0 || o.Acked > 0) {
		return s, float64(o.Acked) / o.To.Sub(o.From).Seconds(), nil
	}
	if !need {
		return s, 0, nil
	}
	from := time.Now()
	if !pause(ctx, time.Second) {
		return s, 0, unavailable("The rate of this consumer was not found out in time.", "Try again, or choose a percentage.", ctx.Err())
	}
	later, err := c.consumer(ctx, k)
	if err != nil {
		return s, 0, err
	}
	if !later.born.Equal(s.born) {
		return s, 0, &fleet.Error{Kind: fleet.Stale, Msg: "This consumer was just created anew.", Hint: "Look at it again."}
	}
	return later, float64(max(later.settled-s.settled, 0)) / time.Since(from).Seconds(), nil
}

// samplable says why a consumer's acknowledgements are not sampled by NATS.
func samplable(s consumerState) error {
	switch policy := s.text("ack_policy"); policy {
	case "explicit":
		return nil
	case "none":
		return invalid("This consumer takes no acknowledgements (ack_policy none), so there is no ACK latency.", "Only consumers with ack_policy explicit can be measured.", nil)
	case "all":
		return invalid("This consumer acknowledges many messages by one answer (ack_policy all); NATS samples none of these.", "Its mean is estimated; only consumers with ack_policy explicit can be measured.", nil)
	default:
		return invalid(fmt.Sprintf("NATS samples no acknowledgements of a consumer with ack_policy %s.", printable([]byte(policy))), "Only consumers with ack_policy explicit can be measured.", nil)
	}
}

// asked gives a read that was not answered the kind of something to try again:
// nothing was written.
func asked(err error) error {
	if fleet.KindOf(err) != fleet.Unknown {
		return err
	}
	return unavailable(words(err), "Its leader may be gone (an election takes up to nine seconds), or this user's permissions refuse the request.", err)
}

// observed asks the store for one consumer.
func (c *Control) observed(ctx context.Context, k fleet.ConsumerKey, from, to time.Time) (traffic.Observation, error) {
	o := observedOf(k)
	obs, err := c.cfg.Observer.Observe(ctx, traffic.Split{Targets: []traffic.Target{{Name: k.Consumer, Observe: &o}}}, fleet.Range{From: from, To: to})
	if err != nil {
		return traffic.Observation{}, fmt.Errorf("observe consumer %s: %w", named(k), err)
	}
	if len(obs) == 0 {
		return traffic.Observation{}, nil
	}
	return obs[0], nil
}

// percentOf reads a sample_freq; 0 is off.
func percentOf(freq string) int {
	n, err := strconv.Atoi(strings.TrimSuffix(freq, "%"))
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// putBack ends a measurement: sample_freq becomes what it was, on the consumer's
// configuration as it now is. The consumer is claimed.
func (c *Control) putBack(ctx context.Context, m traffic.Measurement, actor string) (traffic.Measurement, error) {
	m = c.costed(ctx, m)
	k := keyOf(m.Consumer)
	s, err := c.consumer(ctx, k)
	switch {
	case fleet.KindOf(err) == fleet.NotFound && err != nil:
		return c.endMeasurement(ctx, m, actor, "The consumer was deleted meanwhile; there was nothing to put back."), nil
	case err != nil:
		return c.putBackLater(ctx, m, asked(err))
	case !s.born.Equal(m.Born):
		return c.endMeasurement(ctx, m, actor, "The consumer was created anew meanwhile; the new one was left as it is."), nil
	}
	found := s.sampleFreq()
	steps, foreign := stepsBack(m, found)
	if foreign {
		return c.endMeasurement(ctx, m, actor, fmt.Sprintf("Somebody else set sample_freq to %s meanwhile; that was left as it is.", printable([]byte(found)))), nil
	}
	for i, freq := range steps {
		now, err := c.setSampling(ctx, k, s, freq)
		switch {
		case err == nil:
		case fleet.KindOf(err) == fleet.NotFound:
			return c.endMeasurement(ctx, m, actor, "The consumer was deleted meanwhile; there was nothing to put back."), nil
		case fleet.KindOf(err) == fleet.Forbidden && i == 0 && found == m.Before:
			return c.endMeasurement(ctx, m, actor, "The server refuses changes of this consumer; its sample_freq is what it was."), nil
		default:
			if fleet.KindOf(err) == fleet.Unknown {
				m.Doubt = c.now().Add(c.late)
			}
			return c.putBackLater(ctx, m, asked(err))
		}
		if now.sampleFreq() != freq {
			return c.putBackLater(ctx, m, unavailable("The consumer has another sample_freq than was just written.", "It is tried again by itself.", nil))
		}
		s = now
	}
	if m.Phase == traffic.SwitchingOn { // the program stopped after the record
		m.Doubt = m.Started.Add(c.late)
	}
	if c.now().Before(m.Doubt) {
		m.Phase = traffic.LateWatch
		m.Outcome = fmt.Sprintf("sample_freq is %s again; it is watched until %s, because a write without an answer could still arrive.",
			freqWords(s.sampleFreq()), m.Doubt.UTC().Format(time.TimeOnly+" MST"))
		c.note(m)
		c.mu.Lock()
		c.attempts[m.ID] = attempt{c.now().Add(c.retry()), m.Outcome}
		c.mu.Unlock()
		return m, nil
	}
	return c.endMeasurement(ctx, m, actor, fmt.Sprintf("Measured: %d samples; sample_freq is %s again.", m.Cost.Samples, freqWords(s.sampleFreq()))), nil
}

// retry is the pace at which putting back is tried again.
func (c *Control) retry() time.Duration { return max(c.cfg.Every, min(retryEvery, c.late/12)) }

// stepsBack are the values of sample_freq to write, in order; foreign says that
// somebody else chose the one that was found.
//
// A server that is told "" goes on as before (nats-server 2.15.2): the way to
// none leads over "0", and a "" that somebody else wrote has not switched off
// what we switched on. A write whose answer was lost may still be under way, so
// after that even the right value is written once more: the servers keep order.
func stepsBack(m traffic.Measurement, found string) (steps []string, foreign bool) {
	want := m.Before
	switch found {
	case strconv.Itoa(m.Percent), m.Before:
	case "0": // either our own first step, or off is what somebody wants
		if m.Before != "" {
			return nil, true
		}
	case "":
		want = ""
	default:
		return nil, true
	}
	switch {
	case want == found && (m.Phase == traffic.LateWatch || m.Phase == traffic.Measuring && want != ""):
		return nil, false
	case want == "":
		return []string{"0", ""}, false
	}
	return []string{want}, false
}

func freqWords(freq string) string {
	if freq == "" {
		return "not set"
	}
	return printable([]byte(freq))
}

// putBackLater leaves it to the watch over measurements.
func (c *Control) putBackLater(ctx context.Context, m traffic.Measurement, err error) (traffic.Measurement, error) {
	k := keyOf(m.Consumer)
	m.Phase = traffic.PuttingBack
	m.Outcome = "sample_freq could not be put back yet: " + words(err)
	c.note(m)
	c.mu.Lock()
	news := c.attempts[m.ID].said != m.Outcome
	c.attempts[m.ID] = attempt{c.now().Add(c.retry()), m.Outcome}
	c.mu.Unlock()
	if news {
		c.log.WarnContext(ctx, "put back a consumer's sample_freq", "stream", k.Stream, "consumer", k.Consumer, "measurement", m.ID, "err", err)
	}
	was := m.Before
	if was == "" {
		was = "0"
	}
	return m, &fleet.Error{Kind: fleet.KindOf(err), Msg: m.Outcome, Err: err,
		Hint: fmt.Sprintf("It is tried again by itself. By hand: nats consumer edit %s %s --sample %s", shellQuote(printable([]byte(k.Stream))), shellQuote(printable([]byte(k.Consumer))), shellQuote(printable([]byte(was))))}
}

// endMeasurement closes the record of a measurement.
func (c *Control) endMeasurement(ctx context.Context, m traffic.Measurement, actor, outcome string) traffic.Measurement {
	m.Phase, m.Ended, m.Outcome = traffic.MeasureOver, c.now(), outcome
	k := keyOf(m.Consumer)
	// Who sees the end finds it in the journal.
	c.tell(ctx, c.aboutMeasurement(traffic.EntryMeasureOff, m, actor, named(k)+": "+outcome))
	c.note(m)
	c.log.InfoContext(ctx, "measurement ended", "stream", k.Stream, "consumer", k.Consumer, "measurement", m.ID, "outcome", outcome)
	return m
}

// tend ends the measurements whose time is over or that a stop left behind, and
// keeps the cost of the others up to date.
func (c *Control) tend(ctx context.Context) {
	if c.cfg.ReadOnly || c.js == nil || !c.cfg.Conn.IsConnected() {
		return
	}
	for _, m := range c.running() {
		now := c.now()
		c.mu.Lock()
		wait := c.attempts[m.ID].next.After(now)
		c.mu.Unlock()
		if wait || ctx.Err() != nil {
			continue
		}
		k := keyOf(m.Consumer)
		release, ok := c.tryClaim(gateOf(k))
		if !ok {
			continue // whoever has it takes it further
		}
		if _, open := c.unsettled(k); open {
			release()
			continue // a change of the consumer may still arrive, with sample_freq as it is
		}
		switch m, _ = c.measurement(m.ID); {
		case m.Phase == traffic.MeasureOver:
		case m.Phase == traffic.Measuring && now.Before(m.Ends):
			c.note(c.costed(ctx, m))
		default:
			// What fails is said in the measurement and tried again.
			_, _ = c.putBack(context.WithoutCancel(ctx), m, measureName)
		}
		release()
	}
}

// windUp puts everything back on the way out: nobody would read the samples.
func (c *Control) windUp(ctx context.Context) {
	if c.cfg.ReadOnly || c.js == nil {
		return
	}
	ctx, cancel := rest(ctx, stopTimeout)
	defer cancel()
	for _, m := range c.running() {
		release, err := c.claim(ctx, gateOf(keyOf(m.Consumer)))
		if err != nil {
			return
		}
		_, open := c.unsettled(keyOf(m.Consumer)) // then it is put back after the next start
		if m, _ = c.measurement(m.ID); m.Phase != traffic.MeasureOver && c.cfg.Conn.IsConnected() && !open {
			_, _ = c.putBack(ctx, m, measureName)
		}
		release()
	}
}

// costed returns a measurement with what it took so far.
func (c *Control) costed(ctx context.Context, m traffic.Measurement) traffic.Measurement {
	now := c.now()
	if now.After(m.Ends) {
		now = m.Ends
	}
	if !now.After(m.Started) {
		return m
	}
	k := keyOf(m.Consumer)
	o, err := c.observed(ctx, k, m.Started, now)
	if err != nil {
		c.log.WarnContext(ctx, "count the samples of a measurement", "stream", k.Stream, "consumer", k.Consumer, "err", err)
		return m
	}
	from := o.From // of a look, so it may be before the sampling began
	if from.Before(m.Started) {
		from = m.Started
	}
	span := o.To.Sub(from).Seconds()
	if span <= 0 {
		return m // there was no look since it began
	}
	m.Cost.Samples = o.Samples
	m.Cost.SamplesPerSec = float64(o.Samples) / span
	m.Cost.BytesPerSec = m.Cost.SamplesPerSec * float64(sampleBytes+2*(len(k.Stream)+len(k.Consumer)))
	m.Cost.ServerCPU = 100 * m.Cost.SamplesPerSec * cpuPerSample.Seconds()
	return m
}

// running are the measurements that are not over, oldest first.
func (c *Control) running() []traffic.Measurement {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []traffic.Measurement
	for _, id := range c.book.measured {
		if m := c.book.measurements[id]; m.Phase != traffic.MeasureOver {
			out = append(out, m)
		}
	}
	return out
}

// note takes a measurement into the book.
func (c *Control) note(m traffic.Measurement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.book.measure(m)
	if m.Phase == traffic.MeasureOver {
		delete(c.attempts, m.ID)
	}
}

// measure takes over a measurement as it now stands.
func (b *book) measure(m traffic.Measurement) {
	if _, ok := b.measurements[m.ID]; !ok {
		b.measured = append(b.measured, m.ID)
	}
	b.measurements[m.ID] = m
	b.measured = prune(b.measured, b.measurements, keptMeasurements, func(m traffic.Measurement) bool { return m.Phase == traffic.MeasureOver })
}

// measureEntry takes over a measurement from the journal.
func (b *book) measureEntry(e traffic.Entry) error {
	var m traffic.Measurement
	if err := json.Unmarshal(e.Data, &m); err != nil {
		return fmt.Errorf("read measurement of journal entry %d: %w", e.Seq, err)
	}
	b.measure(m)
	return nil
}

func (c *Control) aboutMeasurement(kind traffic.EntryKind, m traffic.Measurement, actor, text string) traffic.Entry {
	return traffic.Entry{At: c.now(), Kind: kind, Actor: actor, Text: text, Data: encode(m)}
}

func onText(m traffic.Measurement) string {
	return fmt.Sprintf("%s measures consumer %s for %s: sample_freq %s → %d.", m.Actor, named(keyOf(m.Consumer)),
		m.Ends.Sub(m.Started), cmp.Or(printable([]byte(m.Before)), "not set"), m.Percent)
}
