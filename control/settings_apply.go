package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

// keptSettings are finished changes that are remembered; the journal has all of
// them.
const keptSettings = 500

const (
	// driftEvery and driftFor are how often, and for how long, it is looked whether
	// a verified change is still in force.
	driftEvery = time.Minute
	driftFor   = 30 * 24 * time.Hour
)

// ApplyConsumer makes an edit real. It returns once the change is read back from
// the consumer's leader (phase baking), or with the reason why it is not in
// force. With an error of kind fleet.Unknown the change comes too: it is found
// out later what became of it.
func (c *Control) ApplyConsumer(ctx context.Context, e traffic.ConsumerEdit) (traffic.ConsumerChange, error) {
	if err := c.open(); err != nil {
		return traffic.ConsumerChange{}, err
	}
	if err := c.checkConsumerEdit(e); err != nil {
		return traffic.ConsumerChange{}, err
	}
	k := keyOf(e.Consumer)
	if err := c.reachable(ctx, k); err != nil { // before a hostile name claims anything
		return traffic.ConsumerChange{}, err
	}
	release, err := c.claimConsumer(ctx, k)
	if err != nil {
		return traffic.ConsumerChange{}, err
	}
	defer release()
	d, err := c.draftConsumer(ctx, e)
	if err != nil {
		return traffic.ConsumerChange{}, err
	}
	return c.changeConsumer(ctx, e, d)
}

// RollBackConsumer puts back the settings that a change replaced, and no other,
// by a new change. It refuses when somebody changed them since.
func (c *Control) RollBackConsumer(ctx context.Context, id, actor, reason string) (traffic.ConsumerChange, error) {
	if err := c.open(); err != nil {
		return traffic.ConsumerChange{}, err
	}
	fields := map[string]string{}
	checkText(fields, actor, reason)
	if len(fields) > 0 {
		return traffic.ConsumerChange{}, invalid("The change cannot be rolled back like this.", "Correct what is marked.", fields)
	}
	ch, ok := c.consumerChange(id)
	if !ok {
		return traffic.ConsumerChange{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such change of a consumer.", Hint: "Old changes are in the journal."}
	}
	k := keyOf(ch.Consumer)
	if err := c.reachable(ctx, k); err != nil {
		return traffic.ConsumerChange{}, err
	}
	release, err := c.claimConsumer(ctx, k)
	if err != nil {
		return traffic.ConsumerChange{}, err
	}
	defer release()
	ch, _ = c.consumerChange(id)
	switch {
	case ch.Written.IsZero():
		return ch, invalid("This change was never in force.", "There is nothing to roll back.", nil)
	case ch.Phase == traffic.RolledBack:
		return ch, invalid("This change was rolled back already.", "Look at the consumer's newest change.", nil)
	}
	s, err := c.consumer(ctx, k)
	if err != nil {
		return ch, asked(err)
	}
	if !s.born.Equal(ch.Born) {
		return ch, &fleet.Error{Kind: fleet.Stale, Msg: "Consumer " + named(k) + " was created anew since.", Hint: "There is nothing to roll back; look at its settings."}
	}
	if other := s.lacks(fieldsOf(ch.After)); len(other) > 0 {
		return ch, &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("Somebody changed %s of consumer %s since.", strings.Join(other, ", "), named(k)),
			Hint: "In force now: " + valuesOf(s, other) + ". Change it by a new edit, if it is not what you want."}
	}
	d := consumerDraft{before: s, settings: settingsOf(k, s), set: fieldsOf(ch.Before)}
	return c.changeConsumer(ctx, traffic.ConsumerEdit{Consumer: ch.Consumer, Base: d.settings.Digest, Actor: actor, Reason: reason, Undo: ch.ID,
		Hold: ch.HoldEnds.Sub(ch.Written)}, d)
}

// ConsumerChanges are newest first: those that are not over and the last that are.
func (c *Control) ConsumerChanges() []traffic.ConsumerChange {
	c.mu.Lock()
	defer c.mu.Unlock()
	return newest(c.book.tuned, c.book.settings, 0, func(traffic.ConsumerChange) bool { return true })
}

// claimConsumer makes the caller the only one of this console that writes to the
// consumer, and refuses while something that was written to it is not settled.
func (c *Control) claimConsumer(ctx context.Context, k fleet.ConsumerKey) (release func(), err error) {
	release, err = c.claim(ctx, gateOf(k))
	if err != nil {
		return nil, unavailable("This consumer is just being changed.", "Try again in a moment.", err)
	}
	if err := c.settled(k); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// settled refuses a write to a consumer while an earlier one may still arrive: it
// carries a whole configuration, so whichever comes last would undo the other.
func (c *Control) settled(k fleet.ConsumerKey) error {
	for _, m := range c.running() {
		if sameConsumer(m.Consumer, k) && m.Phase != traffic.Measuring {
			return unavailable("A measurement of this consumer is just being put back.", m.Outcome, nil)
		}
	}
	if ch, ok := c.unsettled(k); ok {
		return unavailable(fmt.Sprintf("It is not known yet whether %s's change of this consumer at %s was made.", ch.Actor, ch.Created.UTC().Format(time.TimeOnly+" MST")),
			"It is resolved as soon as the consumer's leader answers, at the latest a good minute after the change; then try again.", nil)
	}
	return nil
}

// unsettled is the change of a consumer of which it is not known what became.
func (c *Control) unsettled(k fleet.ConsumerKey) (traffic.ConsumerChange, bool) {
	for _, ch := range c.openConsumerChanges() {
		if sameConsumer(ch.Consumer, k) && ch.Phase != traffic.Baking {
			return ch, true
		}
	}
	return traffic.ConsumerChange{}, false
}

// sameConsumer compares names within the account of this console: all others are
// refused before they come here.
func sameConsumer(o traffic.Observed, k fleet.ConsumerKey) bool {
	return o.Stream == k.Stream && o.Consumer == k.Consumer
}

// changeConsumer takes an edit from its intent to being in force. The consumer
// is claimed.
func (c *Control) changeConsumer(ctx context.Context, e traffic.ConsumerEdit, d consumerDraft) (traffic.ConsumerChange, error) {
	k := keyOf(e.Consumer)
	hold := e.Hold
	if hold <= 0 {
		hold = defaultHold
	}
	was := map[string]json.RawMessage{}
	for f := range d.set {
		was[f] = d.before.config[f]
	}
	ch := traffic.ConsumerChange{
		ID: nuid.Next(), Consumer: e.Consumer, Phase: traffic.Applying, Actor: e.Actor, Reason: e.Reason, Undo: e.Undo,
		Diff: settingDiff(d.before, d.set), Before: encode(was), After: encode(d.set), Config: d.before.raw, Born: d.before.born,
		Created: c.now(), Outcome: "It is being sent.",
	}
	ch.HoldEnds = ch.Created.Add(hold)
	if err := c.append(ctx, c.aboutConsumer(traffic.EntryConsumerIntent, ch, ch.Actor, consumerIntentText(ch))); err != nil {
		return traffic.ConsumerChange{}, err
	}
	c.noteConsumer(ch)
	// From here on it does not matter whether the asker still waits.
	ctx = context.WithoutCancel(ctx)
	// Look again just before writing: the record took its time.
	now, err := c.consumer(ctx, k)
	if err == nil && digest(now) != d.settings.Digest {
		err = staleConsumer(k, settingsOf(k, now))
	}
	if err != nil {
		err = asked(err)
		return c.rejectConsumer(ctx, ch, words(err)), err
	}
	if err := c.sendConsumer(ctx, k, now, d.set); err != nil {
		if proves(err) {
			return c.rejectConsumer(ctx, ch, words(err)), err
		}
		c.log.WarnContext(ctx, "a change of a consumer was not answered", "stream", k.Stream, "consumer", k.Consumer, "change", ch.ID, "err", err)
	}
	return c.seeConsumer(ctx, ch)
}

// sendConsumer sends the request. NATS has no compare-and-swap for consumers:
// what somebody else writes between the look at the consumer and this, about one
// round trip, is overwritten. A consumer that is gone is not created again.
func (c *Control) sendConsumer(ctx context.Context, k fleet.ConsumerKey, s consumerState, set map[string]json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, c.writeTimeout)
	defer cancel()
	subject, body := s.ask(k, set)
	var a struct {
		Error *jetstream.APIError `json:"error"`
	}
	err := c.request(ctx, subject, body, &a)
	if err == nil && a.Error != nil {
		err = a.Error
	}
	if err != nil {
		return consumerError(k, subject, fmt.Errorf("change consumer %s: %w", named(k), err))
	}
	return nil
}

// proves reports whether an error shows that the request was not carried out.
func proves(err error) bool {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, errNobody), errors.Is(err, errDenied):
		return true
	case errors.As(err, &api):
		return api.Code != 503 // of a server that gave up waiting for others
	}
	return false
}

// seeConsumer asks the leader until it shows the change, for a short while; after
// that the watch over changes goes on.
func (c *Control) seeConsumer(ctx context.Context, ch traffic.ConsumerChange) (traffic.ConsumerChange, error) {
	sctx, cancel := context.WithTimeout(ctx, c.settleTimeout)
	defer cancel()
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		s, err := c.consumer(sctx, keyOf(ch.Consumer))
		if done, over := c.judge(ctx, ch, s, err); over {
			if done.Phase == traffic.Rejected {
				return done, &fleet.Error{Kind: fleet.Stale, Msg: done.Outcome, Hint: "Look at the consumer's settings."}
			}
			return done, nil
		}
		if !pause(sctx, wait) {
			break
		}
	}
	ch.Phase, ch.Outcome = traffic.UnknownOut, "The request was sent, but its result is not known yet."
	c.noteConsumer(ch)
	c.tell(ctx, c.aboutConsumer(traffic.EntryConsumerUnknown, ch, ch.Actor, named(keyOf(ch.Consumer))+": "+ch.Outcome))
	return ch, &fleet.Error{Kind: fleet.Unknown, Msg: "The change was sent, but it is not known yet whether it is in force.",
		Hint: "It is resolved by itself as soon as the consumer's leader shows it, at the latest a good minute after it was sent; nothing else is changed on this consumer meanwhile."}
}

// judge takes a change further whose request was sent, by what the leader says;
// over is false while it is not known what became of it.
func (c *Control) judge(ctx context.Context, ch traffic.ConsumerChange, s consumerState, err error) (done traffic.ConsumerChange, over bool) {
	switch {
	case err != nil && fleet.KindOf(err) == fleet.NotFound:
		return c.rejectConsumer(ctx, ch, "The consumer was deleted before the change was seen to be in force."), true
	case err != nil:
		return ch, false
	case !s.born.Equal(ch.Born):
		return c.rejectConsumer(ctx, ch, "The consumer was created anew before the change was seen to be in force; the new one was left as it is."), true
	}
	other := s.lacks(fieldsOf(ch.After))
	if len(other) == 0 {
		return c.consumerInForce(ctx, ch, s), true
	}
	// A request without an answer cannot be fenced off, as consumers have no
	// compare-and-swap; "not there" is certain only when it is too late to come.
	if c.now().Before(ch.Created.Add(c.late + c.writeTimeout)) {
		return ch, false
	}
	outcome := "The change did not reach the consumer; nothing was changed."
	if len(s.lacks(fieldsOf(ch.Before))) > 0 {
		outcome = "The change is not in force: the consumer now has " + valuesOf(s, other) + "."
	}
	return c.rejectConsumer(ctx, ch, outcome), true
}

// consumerInForce records that the leader shows a change.
func (c *Control) consumerInForce(ctx context.Context, ch traffic.ConsumerChange, s consumerState) traffic.ConsumerChange {
	hold := ch.HoldEnds.Sub(ch.Created)
	ch.Phase, ch.Written = traffic.Baking, c.now()
	ch.HoldEnds = ch.Written.Add(hold)
	ch.Outcome = fmt.Sprintf("In force; watched until %s.", ch.HoldEnds.UTC().Format(time.TimeOnly+" MST"))
	var was consumerState
	_ = json.Unmarshal(ch.Config, &was.config) // as the server told it
	if also := differs(was.put(fieldsOf(ch.After)), s.config); len(also) > 0 {
		ch.Outcome += fmt.Sprintf(" With it %s changed, too: somebody may have changed the consumer at the same moment. Its configuration from before stands in the journal.",
			printable([]byte(strings.Join(also, ", "))))
	}
	k := keyOf(ch.Consumer)
	c.tell(ctx, c.aboutConsumer(traffic.EntryConsumerWritten, ch, ch.Actor, fmt.Sprintf("Consumer %s has %s.", named(k), afterWords(ch.Diff))))
	c.noteConsumer(ch)
	c.lookLater(ch)
	c.log.InfoContext(ctx, "consumer changed", "stream", k.Stream, "consumer", k.Consumer, "change", ch.ID, "diff", diffWords(ch.Diff), "actor", ch.Actor)
	c.retireConsumer(ctx, ch)
	return ch
}

// retireConsumer ends the changes that a newer one took the place of.
func (c *Control) retireConsumer(ctx context.Context, by traffic.ConsumerChange) {
	mine := fieldsOf(by.After)
	for _, old := range c.openConsumerChanges() {
		if old.ID == by.ID || old.ID == by.Undo || old.Phase != traffic.Baking || old.Consumer.Stream != by.Consumer.Stream || old.Consumer.Consumer != by.Consumer.Consumer {
			continue
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(fieldsOf(old.After))), func(f string) bool { _, ok := mine[f]; return ok }) {
			continue
		}
		c.endConsumer(ctx, old, traffic.Replaced, traffic.EntryConsumerReplaced, by.Actor, fmt.Sprintf("Another change by %s came before the end of its watch.", by.Actor))
	}
	if undone, ok := c.consumerChange(by.Undo); ok && undone.Phase != traffic.RolledBack {
		outcome := "Rolled back by " + by.Actor
		if by.Reason != "" {
			outcome += ": " + by.Reason
		}
		c.endConsumer(ctx, undone, traffic.RolledBack, traffic.EntryConsumerRolledBack, by.Actor, outcome)
	}
}

func (c *Control) rejectConsumer(ctx context.Context, ch traffic.ConsumerChange, outcome string) traffic.ConsumerChange {
	return c.endConsumer(ctx, ch, traffic.Rejected, traffic.EntryConsumerRejected, ch.Actor, outcome)
}

// endConsumer closes the record of a change.
func (c *Control) endConsumer(ctx context.Context, ch traffic.ConsumerChange, phase traffic.Phase, kind traffic.EntryKind, actor, outcome string) traffic.ConsumerChange {
	ch.Phase, ch.Ended, ch.Outcome = phase, c.now(), outcome
	k := keyOf(ch.Consumer)
	// Who sees the end finds it in the journal.
	c.tell(ctx, c.aboutConsumer(kind, ch, actor, named(k)+": "+outcome))
	c.noteConsumer(ch)
	c.log.InfoContext(ctx, "change of a consumer ended", "stream", k.Stream, "consumer", k.Consumer, "change", ch.ID, "phase", phase, "outcome", outcome)
	return ch
}

// tendConsumers resolves changes of which it is not known what became, and holds
// those in force against the consumer until their watch is over.
func (c *Control) tendConsumers(ctx context.Context) {
	if c.cfg.ReadOnly || c.js == nil || !c.cfg.Conn.IsConnected() {
		return
	}
	for _, ch := range c.openConsumerChanges() {
		if ctx.Err() != nil {
			return
		}
		now := c.now()
		c.mu.Lock()
		wait := ch.Phase == traffic.Baking && now.Before(ch.HoldEnds) && c.attempts[ch.ID].next.After(now)
		c.mu.Unlock()
		if wait {
			continue
		}
		release, ok := c.tryClaim(gateOf(keyOf(ch.Consumer)))
		if !ok {
			continue // whoever has it takes it further
		}
		if ch, _ = c.consumerChange(ch.ID); !ch.Phase.Final() {
			s, err := c.consumer(ctx, keyOf(ch.Consumer))
			if ch.Phase == traffic.Baking {
				c.holdConsumer(ctx, ch, s, err)
			} else {
				c.judge(context.WithoutCancel(ctx), ch, s, err)
			}
		}
		release()
	}
}

// driftConsumers looks now and then whether verified changes are still in force:
// an application that starts weeks later with settings of its own says so to
// nobody.
func (c *Control) driftConsumers(ctx context.Context) {
	if c.cfg.ReadOnly || c.js == nil || !c.cfg.Conn.IsConnected() {
		return
	}
	now := c.now()
	c.mu.Lock()
	due := !now.Before(c.drifted.Add(driftEvery))
	if due {
		c.drifted = now
	}
	c.mu.Unlock()
	if !due {
		return
	}
	for _, ch := range c.standing(now) {
		if ctx.Err() != nil {
			return
		}
		release, ok := c.tryClaim(gateOf(keyOf(ch.Consumer)))
		if !ok {
			continue // it is being changed
		}
		if ch, _ = c.consumerChange(ch.ID); ch.Phase == traffic.Verified {
			s, err := c.consumer(ctx, keyOf(ch.Consumer))
			if what := c.replacedBy(ctx, ch, s, err); what != "" {
				c.endConsumer(context.WithoutCancel(ctx), ch, traffic.Replaced, traffic.EntryConsumerReplaced, driverName,
					fmt.Sprintf("%s That was seen %s after it was verified.", what, short(c.now().Sub(ch.Ended))))
			}
		}
		release()
	}
}

// standing are the verified changes of late that no newer one touched, newest
// first.
func (c *Control) standing(now time.Time) []traffic.ConsumerChange {
	var out []traffic.ConsumerChange
	seen := map[fleet.ConsumerKey]map[string]bool{}
	for _, ch := range c.ConsumerChanges() {
		k := fleet.ConsumerKey{Stream: ch.Consumer.Stream, Consumer: ch.Consumer.Consumer}
		if seen[k] == nil {
			seen[k] = map[string]bool{}
		}
		touched := false
		for f := range fieldsOf(ch.After) {
			touched = touched || seen[k][f]
			seen[k][f] = seen[k][f] || !ch.Written.IsZero()
		}
		if ch.Phase == traffic.Verified && !touched && now.Before(ch.Ended.Add(driftFor)) {
			out = append(out, ch)
		}
	}
	return out
}

// replacedBy says what took the place of a change that was in force; "" is
// nothing, or nothing that is known. It looks twice: a server that was just
// elected may not have taken over the last change yet.
func (c *Control) replacedBy(ctx context.Context, ch traffic.ConsumerChange, s consumerState, err error) string {
	if setBack(ch, s, err) == "" || !pause(ctx, c.settleTimeout) {
		return ""
	}
	s, err = c.consumer(ctx, keyOf(ch.Consumer))
	return setBack(ch, s, err)
}

// setBack is replacedBy for one look.
func setBack(ch traffic.ConsumerChange, s consumerState, err error) string {
	switch {
	case err != nil && fleet.KindOf(err) == fleet.NotFound:
		return "The consumer was deleted."
	case err != nil:
		return "" // it is asked again
	case !s.born.Equal(ch.Born):
		return "The consumer was created anew."
	}
	if other := s.lacks(fieldsOf(ch.After)); len(other) > 0 {
		return fmt.Sprintf("Somebody else set %s, such as an application that creates or updates the consumer at its start with settings of its own.", valuesOf(s, other))
	}
	return ""
}

// holdConsumer looks whether a change is still in force.
func (c *Control) holdConsumer(ctx context.Context, ch traffic.ConsumerChange, s consumerState, err error) {
	what := c.replacedBy(ctx, ch, s, err)
	if ctx.Err() != nil {
		return // the next start takes it further
	}
	ctx = context.WithoutCancel(ctx)
	if what != "" {
		c.endConsumer(ctx, ch, traffic.Replaced, traffic.EntryConsumerReplaced, driverName, what)
		return
	}
	if err != nil {
		return
	}
	now := c.now()
	if now.Before(ch.HoldEnds) {
		c.lookLater(ch)
		return
	}
	var said string
	ch.Effect, said = c.consumerEffect(ctx, ch, now)
	c.endConsumer(ctx, ch, traffic.Verified, traffic.EntryConsumerVerified, driverName,
		fmt.Sprintf("Still in force after %s. %s", short(now.Sub(ch.Written)), said))
}

// lookLater spares the servers a look at every tick.
func (c *Control) lookLater(ch traffic.ConsumerChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts[ch.ID] = attempt{next: c.now().Add(c.retry())}
}

// consumerEffect compares the consumer before and after a change, over as long
// as it was watched.
func (c *Control) consumerEffect(ctx context.Context, ch traffic.ConsumerChange, now time.Time) (*traffic.Effect, string) {
	const unseen = "Its effect was not observed."
	span := ch.HoldEnds.Sub(ch.Written)
	s := traffic.Split{Name: ch.Consumer.Consumer, Targets: []traffic.Target{{Name: ch.Consumer.Consumer, Observe: &ch.Consumer}}}
	before, err := c.window(ctx, s, fleet.Range{From: ch.Written.Add(-span), To: ch.Written})
	var after window
	if err == nil {
		after, err = c.window(ctx, s, fleet.Range{From: ch.Written, To: ch.HoldEnds})
	}
	if err != nil {
		c.log.WarnContext(ctx, "observe the effect of a consumer's change", "change", ch.ID, "err", err)
		return nil, unseen
	}
	if before.acked+after.acked+before.backlog+after.backlog+before.redelivered+after.redelivered == 0 {
		return nil, unseen
	}
	none := window{latency: &sketch.Sketch{}}
	m := measured{baseline: baseline{head: before, recent: none}, start: after, latest: none}
	e := m.effect()
	e.BacklogBefore, e.BacklogAfter = before.backlog, after.backlog
	text := fmt.Sprintf("Acknowledged %d before and %d after, redelivered %d and %d, waiting or in flight %d and %d.",
		before.acked, after.acked, before.redelivered, after.redelivered, before.backlog, after.backlog)
	if e.SamplesBefore > 0 && e.SamplesAfter > 0 {
		text += fmt.Sprintf(" p99 ACK latency %s and %s (%d and %d samples).", short(e.P99Before), short(e.P99After), e.SamplesBefore, e.SamplesAfter)
	}
	if why := compare(before, after); why != "" {
		text += " " + why
	}
	return e, text
}

// openConsumerChanges are those that are not final, oldest first.
func (c *Control) openConsumerChanges() []traffic.ConsumerChange {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []traffic.ConsumerChange
	for _, id := range c.book.tuned {
		if ch := c.book.settings[id]; !ch.Phase.Final() {
			out = append(out, ch)
		}
	}
	return out
}

func (c *Control) consumerChange(id string) (traffic.ConsumerChange, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.book.settings[id]
	return ch, ok
}

// noteConsumer takes a change into the book.
func (c *Control) noteConsumer(ch traffic.ConsumerChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.book.set(ch)
	if ch.Phase.Final() {
		delete(c.attempts, ch.ID)
	}
}

// set takes over a consumer's change as it now stands.
func (b *book) set(ch traffic.ConsumerChange) {
	if _, ok := b.settings[ch.ID]; !ok {
		b.tuned = append(b.tuned, ch.ID)
	}
	b.settings[ch.ID] = ch
	b.tuned = prune(b.tuned, b.settings, keptSettings, func(ch traffic.ConsumerChange) bool { return ch.Phase.Final() })
}

// setEntry takes over a consumer's change from the journal.
func (b *book) setEntry(e traffic.Entry) error {
	var ch traffic.ConsumerChange
	if err := json.Unmarshal(e.Data, &ch); err != nil {
		return fmt.Errorf("read consumer change of journal entry %d: %w", e.Seq, err)
	}
	b.set(ch)
	return nil
}

func (c *Control) aboutConsumer(kind traffic.EntryKind, ch traffic.ConsumerChange, actor, text string) traffic.Entry {
	return traffic.Entry{At: c.now(), Kind: kind, Change: ch.ID, Actor: actor, Text: text, Data: encode(ch)}
}

// fieldsOf reads the fields of a change; null is a field that is not set.
func fieldsOf(raw json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	// It was encoded here, or the journal's chain is broken.
	_ = json.Unmarshal(raw, &m)
	for f, v := range m {
		if string(v) == "null" {
			m[f] = nil
		}
	}
	return m
}

// valuesOf tells what some fields have now.
func valuesOf(s consumerState, fields []string) string {
	parts := make([]string, len(fields))
	for i, f := range fields {
		parts[i] = f + " " + inWords(f, s.config[f])
	}
	return strings.Join(parts, ", ")
}

func afterWords(diff []traffic.SettingDiff) string {
	parts := make([]string, len(diff))
	for i, d := range diff {
		parts[i] = d.Name + " " + d.After
	}
	return strings.Join(parts, ", ")
}
