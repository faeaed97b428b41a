package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/traffic"
)

const (
	// bigMove is the number of points beyond which a plan warns: that many
	// messages at once are a load test of the target that gets them.
	bigMove   = 20
	maxReason = 500 // runes
	maxActor  = 100
)

// deletes reports whether the change takes the split away.
func deletes(ch traffic.Change) bool { return ch.After.Name == "" }

// draft is a plan with what writing it needs.
type draft struct {
	plan   traffic.Plan
	before record
}

// Plan is the dry run of an edit: the same reads, checks and bytes as Apply up
// to the journal. The change's id and the time in the document are those of the
// dry run.
func (c *Control) Plan(ctx context.Context, e traffic.Edit) (traffic.Plan, error) {
	d, err := c.draft(ctx, e, nuid.Next())
	if err != nil {
		return traffic.Plan{}, err
	}
	d.plan.Warn = append(d.plan.Warn, c.warnings(ctx, d)...)
	if err := c.planDriven(ctx, &d.plan); err != nil {
		return traffic.Plan{}, err
	}
	return d.plan, nil
}

// draft checks an edit against what is in force and makes its document.
func (c *Control) draft(ctx context.Context, e traffic.Edit, id string) (draft, error) {
	if err := checkEdit(e); err != nil {
		return draft{}, err
	}
	if err := c.checkDriver(e.Next); err != nil {
		return draft{}, err
	}
	before, err := c.read(ctx, e.Split)
	if err != nil {
		return draft{}, err
	}
	if before.number() != e.Base {
		return draft{}, stale(e.Split, e.Base, before)
	}
	if same(before.rev.Split, e.Next) {
		return draft{}, invalid("Nothing would change.", "Change a weight or a setting first.", nil)
	}
	number, err := c.nextNumber(ctx, e.Split, before)
	if err != nil {
		return draft{}, err
	}
	after := traffic.Revision{
		V: traffic.Version, Epoch: max(epoch, before.rev.Epoch), Number: number, Base: e.Base,
		Change: id, Author: e.Actor, Reason: e.Reason, At: c.now(), Split: e.Next,
	}
	doc, err := after.Marshal()
	if err != nil {
		return draft{}, invalid("The split is too large or not valid.", "Use fewer targets or labels.", err)
	}
	return draft{before: before, plan: traffic.Plan{
		Before:  before.rev,
		After:   after,
		Diff:    traffic.Diff(before.rev.Split, after.Split),
		Payload: doc,
		Key:     traffic.Bucket + "/" + traffic.Key(e.Split),
		Command: command(e.Split, doc, before.token),
	}}, nil
}

// nextNumber is one more than any revision that a reader may hold: a split that
// is created again after its deletion must not start at 1, or readers that
// still have the old one would refuse it.
func (c *Control) nextNumber(ctx context.Context, split string, before record) (uint64, error) {
	c.mu.Lock()
	last := max(before.number(), c.book.numbers[split], c.splits[split].Number)
	c.mu.Unlock()
	if before.deleted {
		p, err := c.past(ctx, split)
		if err != nil {
			return 0, err
		}
		if len(p.revs) > 0 {
			last = max(last, p.revs[0].Number)
		}
	}
	return last + 1, nil
}

// checkEdit finds what is wrong with an edit by itself.
func checkEdit(e traffic.Edit) error {
	fields := map[string]string{}
	if err := e.Next.Validate(); err != nil {
		var bad *traffic.Invalid
		if !errors.As(err, &bad) {
			return fmt.Errorf("validate split: %w", err)
		}
		for _, p := range bad.Problems {
			if fields[p.Field] != "" {
				fields[p.Field] += "; "
			}
			fields[p.Field] += p.Text
		}
	}
	if e.Split != e.Next.Name && fields["name"] == "" {
		fields["name"] = fmt.Sprintf("the split is called %q: a split keeps its name", e.Split)
	}
	checkText(fields, e.Actor, e.Reason)
	if e.Bake < 0 || e.Bake > 24*time.Hour {
		fields["bake"] = "watch the effect for at most 24 hours"
	}
	if len(fields) > 0 {
		return invalid("The split cannot be saved like this.", "Correct what is marked.", fields)
	}
	return nil
}

func checkText(fields map[string]string, actor, reason string) {
	if strings.TrimSpace(actor) == "" {
		fields["actor"] = "say who makes the change"
	} else if !plain(actor, maxActor) {
		fields["actor"] = fmt.Sprintf("use at most %d printable characters", maxActor)
	}
	if !plain(reason, maxReason) {
		fields["reason"] = fmt.Sprintf("use at most %d printable characters", maxReason)
	}
}

// plain reports whether s is short and prints as what it is: these words stand
// in the document, in logs and in commands.
func plain(s string, most int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= most &&
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func invalid(msg, hint string, detail any) *fleet.Error {
	e := &fleet.Error{Kind: fleet.Invalid, Msg: msg, Hint: hint}
	switch d := detail.(type) {
	case map[string]string:
		e.Fields = d
	case error:
		e.Err = d
	}
	return e
}

// stale says who was faster.
func stale(split string, base uint64, now record) *fleet.Error {
	e := &fleet.Error{Kind: fleet.Stale, Hint: "Look at what is in force now and decide again."}
	r := now.rev
	switch {
	case now.number() == 0 && base != 0:
		e.Msg = fmt.Sprintf("Split %s is not there any more; revision %d was asked for.", split, base)
	case base == 0:
		e.Msg = fmt.Sprintf("Split %s is there already, at revision %d, written by %s at %s.", split, r.Number, r.Author, r.At.UTC().Format(time.DateTime+" MST"))
	default:
		e.Msg = fmt.Sprintf("Split %s was changed by %s at %s to revision %d (%s); this edit is based on revision %d.",
			split, r.Author, r.At.UTC().Format(time.DateTime+" MST"), r.Number, weightsOf(r.Split), base)
	}
	if r.Reason != "" {
		e.Hint = fmt.Sprintf("The reason given was: %s. %s", r.Reason, e.Hint)
	}
	return e
}

func weightsOf(s traffic.Split) string {
	parts := make([]string, len(s.Targets))
	for i, t := range s.Targets {
		parts[i] = fmt.Sprintf("%s %d", t.Name, t.Weight)
	}
	if len(parts) > 8 {
		parts = append(parts[:8], "…")
	}
	return strings.Join(parts, ", ")
}

// same compares two splits as readers see them: by their document.
func same(a, b traffic.Split) bool { return bytes.Equal(encode(a), encode(b)) }

// warnings are what an operator should know before applying a plan.
func (c *Control) warnings(ctx context.Context, d draft) []string {
	var warn []string
	before, after := d.plan.Before.Split, d.plan.After.Split
	if !d.before.bucket {
		warn = append(warn, fmt.Sprintf("The KV bucket %s is not there yet; it is created by the first change.", traffic.Bucket))
	}
	if d.plan.After.Number > d.before.number()+1 && d.before.number() > 0 {
		warn = append(warn, fmt.Sprintf("The journal knows revision %d, but the KV holds revision %d: the bucket seems to have gone back in time.", d.plan.After.Number-1, d.before.number()))
	}
	if before.Name != "" && before.Subject != after.Subject {
		warn = append(warn, fmt.Sprintf("The subject changes from %s to %s: publishers that ask for the old one find no split.", before.Subject, after.Subject))
	}
	for _, t := range d.plan.Diff {
		switch {
		case before.Name == "" || t.After == nil && t.Before.Weight == 0:
		case t.After == nil:
			warn = append(warn, fmt.Sprintf("%s is taken out; what waits for it there stays there.", t.Name))
		default:
			var old int
			if t.Before != nil {
				old = t.Before.Weight
			}
			if by := t.After.Weight - old; by > bigMove || by < -bigMove {
				warn = append(warn, fmt.Sprintf("%s goes from %d to %d in one step: %d points.", t.Name, old, t.After.Weight, max(by, -by)))
			}
		}
	}
	now := c.now()
	obs, err := c.cfg.Observer.Observe(ctx, after, fleet.Range{From: now.Add(-time.Minute), To: now})
	if err != nil {
		c.log.WarnContext(ctx, "observe targets for a plan", "split", after.Name, "err", err)
		return append(warn, "The targets could not be looked at: whether they are alive is not known.")
	}
	for _, t := range after.Targets {
		if t.Weight == 0 {
			continue
		}
		i := slices.IndexFunc(obs, func(o traffic.Observation) bool { return o.Target == t.Name })
		switch {
		case t.Observe == nil:
			warn = append(warn, fmt.Sprintf("%s is not observed anywhere: what the change does to it will not be seen.", t.Name))
		case i < 0 || obs[i] == (traffic.Observation{Target: t.Name, From: obs[i].From, To: obs[i].To, Interval: obs[i].Interval}):
			warn = append(warn, fmt.Sprintf("Nothing was seen of %s's consumer %s on stream %s in the last minute: is anybody there to take the messages?", t.Name, t.Observe.Consumer, t.Observe.Stream))
		case obs[i].Samples == 0:
			warn = append(warn, fmt.Sprintf("%s has no ACK latency samples in the last minute: the guard cannot judge it.", t.Name))
		}
	}
	return warn
}

// Apply makes an edit real. It returns once the change is in force and read
// back (phase baking), or with the reason why it is not. With an error of kind
// fleet.Unknown the change comes too: it is found out later what became of it.
func (c *Control) Apply(ctx context.Context, e traffic.Edit) (traffic.Change, error) {
	if err := c.open(); err != nil {
		return traffic.Change{}, err
	}
	if err := checkEdit(e); err != nil { // before a hostile name claims anything
		return traffic.Change{}, err
	}
	release, err := c.claim(ctx, e.Split)
	if err != nil {
		return traffic.Change{}, err
	}
	defer release()
	return c.apply(ctx, e)
}

// apply is Apply for who has claimed the split.
func (c *Control) apply(ctx context.Context, e traffic.Edit) (traffic.Change, error) {
	if err := c.clear(e.Split); err != nil {
		return traffic.Change{}, err
	}
	id := nuid.Next()
	d, err := c.draft(ctx, e, id)
	if err != nil {
		return traffic.Change{}, err
	}
	if drv := c.cfg.Drivers[e.Next.Driver]; drv != nil && e.Undo == "" { // a way back is never barred
		if _, err := drv.Check(ctx, e.Next); err != nil {
			return traffic.Change{}, err
		}
	}
	if !d.before.bucket {
		if err := c.createBucket(ctx); err != nil {
			return traffic.Change{}, err
		}
	}
	ch := traffic.Change{
		ID: id, Split: e.Split, Phase: traffic.Applying, Base: e.Base, Revision: d.plan.After.Number,
		Actor: e.Actor, Reason: e.Reason, Proposal: e.Proposal, Undo: e.Undo,
		Before: d.before.rev.Split, After: e.Next, Created: d.plan.After.At, Guard: e.Guard,
	}
	// The bake time is fixed with the intent, so that a restart knows it.
	bake := e.Bake
	if bake == 0 {
		bake = c.cfg.Bake
	}
	ch.BakeEnds = ch.Created.Add(bake)
	ch, err = c.execute(ctx, ch, d.before, d.plan.Payload)
	if err != nil {
		return ch, err
	}
	return c.carryOut(context.WithoutCancel(ctx), ch)
}

// clear refuses a change of a split on which another is unresolved.
func (c *Control) clear(split string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.book.unfinished() {
		if ch.Split == split && ch.Phase != traffic.Baking {
			return unavailable(fmt.Sprintf("It is not known yet whether %s's change of %s at %s was written.", ch.Actor, split, ch.Created.Format(time.TimeOnly)),
				"It is resolved as soon as the KV's leader answers; then try again.", nil)
		}
	}
	return nil
}

// execute takes a change from its intent to being in force: no journal record,
// no write; no read-back, no success. doc is nil for a deletion.
func (c *Control) execute(ctx context.Context, ch traffic.Change, before record, doc []byte) (traffic.Change, error) {
	if err := c.append(ctx, c.about(traffic.EntryIntent, ch, ch.Actor, intentText(ch))); err != nil {
		return traffic.Change{}, err
	}
	c.remember(ch)
	// From here on it does not matter whether the asker still waits.
	ctx = context.WithoutCancel(ctx)
	_, err := c.swap(ctx, ch.Split, ch.ID, doc, before.token)
	if errors.Is(err, errNobody) {
		return c.reject(ctx, ch, unavailable("The KV bucket "+traffic.Bucket+" did not take the change; nothing was changed.",
			"Its leader may be gone: an election takes up to nine seconds. Then try again.", err))
	}
	if errors.Is(err, errDenied) {
		return c.reject(ctx, ch, &fleet.Error{Kind: fleet.Forbidden, Msg: "The NATS user of this console may not write the split; nothing was changed.",
			Hint: fmt.Sprintf("Let it publish to $KV.%s.> or start the console with --read-only.", traffic.Bucket), Err: err})
	}
	if err != nil && !errors.Is(err, errRefused) {
		c.log.WarnContext(ctx, "a write was not acknowledged", "split", ch.Split, "change", ch.ID, "err", err)
	}
	sctx, cancel := context.WithTimeout(ctx, c.settleTimeout)
	defer cancel()
	return c.settle(sctx, ch, doc, errors.Is(err, errRefused))
}

// settle finds out what became of a write and takes the change to where it then
// belongs. While that is not known the change is in phase unknown.
func (c *Control) settle(ctx context.Context, ch traffic.Change, doc []byte, refused bool) (traffic.Change, error) {
	landed, now, err := c.resolve(ctx, ch, doc, refused)
	done := context.WithoutCancel(ctx)
	switch {
	case err != nil:
		if ch.Phase != traffic.UnknownOut {
			ch.Phase = traffic.UnknownOut
			ch.Outcome = "The write was sent, but its result is not known yet."
			c.remember(ch)
			c.tell(done, c.about(traffic.EntryUnknown, ch, ch.Actor, ch.Outcome))
		}
		return ch, &fleet.Error{Kind: fleet.Unknown, Msg: "The change was sent, but it is not known yet whether it is in force.",
			Hint: "It is resolved by itself as soon as the KV's leader answers; nothing else is changed on this split meanwhile.", Err: err}
	case !landed && now.number() == ch.Base:
		return c.reject(done, ch, unavailable("The change did not reach the KV; nothing was changed.", "Try again.", nil))
	case !landed:
		return c.reject(done, ch, stale(ch.Split, ch.Base, now))
	}
	return c.inForce(done, ch, now), nil
}

// resolve asks the leader until it is certain whether a change was written. A
// write whose answer was lost may still be under way, so "not there" is certain
// only when it cannot come any more: writing once more what is in force takes
// the base away from under it, and readers ignore a revision they have.
func (c *Control) resolve(ctx context.Context, ch traffic.Change, doc []byte, refused bool) (landed bool, now record, err error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		landed, now, err = c.look(ctx, ch, doc, refused)
		if err == nil || !pause(ctx, wait) {
			return landed, now, err
		}
	}
}

var errAgain = errors.New("something moved while it was looked at")

func (c *Control) look(ctx context.Context, ch traffic.Change, doc []byte, refused bool) (landed bool, now record, err error) {
	now, err = c.read(ctx, ch.Split)
	if err != nil {
		return false, now, err
	}
	switch {
	case now.token > 0 && now.change == ch.ID && now.deleted == deletes(ch):
		if doc != nil && !bytes.Equal(doc, now.raw) {
			// Somebody signed another document with this change's id.
			c.log.WarnContext(ctx, "the document read back is not what was written", "split", ch.Split, "change", ch.ID, "revision", now.token)
			return false, now, nil
		}
		return true, now, nil
	case refused && now.number() == ch.Base:
		return false, now, nil
	case now.number() == ch.Base:
		if !now.bucket {
			return false, now, nil // no bucket, nothing to arrive in
		}
		// Of a document in force the same bytes; of none a delete marker.
		if _, err := c.swap(ctx, ch.Split, now.change, now.inForce(), now.token); err != nil {
			return false, now, fmt.Errorf("fence off change %s: %w", ch.ID, err)
		}
		return false, now, nil
	}
	p, err := c.past(ctx, ch.Split)
	if err != nil {
		return false, now, err
	}
	if p.last != now.token {
		return false, now, errAgain
	}
	return p.wrote(ch), now, nil
}

// reject ends a change that was not written.
func (c *Control) reject(ctx context.Context, ch traffic.Change, why *fleet.Error) (traffic.Change, error) {
	ch.Phase, ch.Ended, ch.Outcome = traffic.Rejected, c.now(), why.Msg
	c.remember(ch)
	c.tell(ctx, c.about(traffic.EntryRejected, ch, ch.Actor, ch.Outcome))
	return ch, why
}

// inForce begins a change's bake time and ends the change before it.
func (c *Control) inForce(ctx context.Context, ch traffic.Change, now record) traffic.Change {
	bake := ch.BakeEnds.Sub(ch.Created)
	ch.Phase, ch.Written = traffic.Baking, c.now()
	ch.BakeEnds = ch.Written.Add(bake)
	ch.Outcome = "In force; its effect is watched."
	if deletes(ch) {
		ch.Phase, ch.BakeEnds, ch.Ended = traffic.Verified, time.Time{}, ch.Written
		ch.Outcome = "The split is deleted."
	}
	c.remember(ch)
	c.mu.Lock()
	switch {
	case now.deleted:
		if c.splits[ch.Split].Token < now.token {
			delete(c.splits, ch.Split)
			c.gone[ch.Split] = now.token
		}
	default:
		c.show(now.rev)
	}
	c.mu.Unlock()
	c.tell(ctx, c.about(traffic.EntryWritten, ch, ch.Actor, writtenText(ch)))
	c.log.InfoContext(ctx, "change in force", "split", ch.Split, "change", ch.ID, "revision", ch.Revision, "actor", ch.Actor)
	c.retire(ctx, ch)
	if now.change != ch.ID {
		ch = c.replace(ctx, ch, now.rev)
	}
	return ch
}

// retire ends the changes that a newer one took the place of.
func (c *Control) retire(ctx context.Context, by traffic.Change) {
	c.mu.Lock()
	var old []traffic.Change
	for _, ch := range c.book.unfinished() {
		if ch.Split == by.Split && ch.ID != by.ID && ch.Phase == traffic.Baking && ch.Revision < by.Revision && ch.ID != by.Undo {
			old = append(old, ch)
		}
	}
	undone, ok := c.book.changes[by.Undo]
	c.mu.Unlock()
	for _, ch := range old {
		ch.Phase, ch.Ended = traffic.Replaced, c.now()
		ch.Outcome = fmt.Sprintf("Another change by %s came before the bake time was over.", by.Actor)
		c.remember(ch)
		c.tell(ctx, c.about(traffic.EntryReplaced, ch, by.Actor, ch.Outcome))
	}
	if ok && undone.Phase != traffic.RolledBack {
		undone.Phase, undone.Ended = traffic.RolledBack, c.now()
		undone.Outcome = fmt.Sprintf("Rolled back by %s: %s", by.Actor, by.Reason)
		c.remember(undone)
		c.tell(ctx, c.about(traffic.EntryRollback, undone, by.Actor, undone.Outcome))
	}
}

// replace ends a change after which somebody else wrote.
func (c *Control) replace(ctx context.Context, ch traffic.Change, by traffic.Revision) traffic.Change {
	ch.Phase, ch.Ended = traffic.Replaced, c.now()
	ch.Outcome = "The split was deleted before the bake time was over."
	who := ch.Actor
	if by.Number > 0 {
		who = by.Author
		ch.Outcome = fmt.Sprintf("Revision %d by %s came before the bake time was over.", by.Number, by.Author)
	}
	c.remember(ch)
	c.tell(ctx, c.about(traffic.EntryReplaced, ch, who, ch.Outcome))
	return ch
}

// remember takes a change into the book.
func (c *Control) remember(ch traffic.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.book.keep(ch)
	if ch.Phase.Final() {
		delete(c.bad, ch.ID)
		delete(c.bases, ch.ID)
	}
}

// Rollback restores what was in force before the change, by a new change.
func (c *Control) Rollback(ctx context.Context, change, actor, reason string) (traffic.Change, error) {
	if err := c.open(); err != nil {
		return traffic.Change{}, err
	}
	ch, err := c.Change(change)
	if err != nil {
		return traffic.Change{}, err
	}
	release, err := c.claim(ctx, ch.Split)
	if err != nil {
		return traffic.Change{}, err
	}
	defer release()
	return c.rollback(ctx, ch.ID, actor, reason)
}

// rollback is Rollback for who has claimed the split.
func (c *Control) rollback(ctx context.Context, change, actor, reason string) (traffic.Change, error) {
	ch, err := c.Change(change)
	if err != nil {
		return traffic.Change{}, err
	}
	switch {
	case ch.Written.IsZero():
		return traffic.Change{}, invalid("This change was never in force.", "There is nothing to roll back.", nil)
	case ch.Phase == traffic.RolledBack:
		return traffic.Change{}, invalid("This change was rolled back already.", "Look at the split's newest change.", nil)
	case ch.Before.Name == "":
		return traffic.Change{}, invalid("This change created the split.", "Delete the split instead.", nil)
	}
	base := ch.Revision
	if deletes(ch) {
		base = 0
	}
	return c.apply(ctx, traffic.Edit{Split: ch.Split, Base: base, Next: ch.Before, Actor: actor, Reason: reason, Undo: ch.ID})
}

// Delete takes a split away. Publishers keep their last good one.
func (c *Control) Delete(ctx context.Context, split string, base uint64, actor, reason string) error {
	if err := c.open(); err != nil {
		return err
	}
	fields := map[string]string{}
	checkText(fields, actor, reason)
	if len(fields) > 0 {
		return invalid("The split cannot be deleted like this.", "Correct what is marked.", fields)
	}
	if !traffic.ValidName(split) || base == 0 {
		return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no split %q.", split), Hint: "Look at the list of splits."}
	}
	release, err := c.claim(ctx, split)
	if err != nil {
		return err
	}
	defer release()
	return c.remove(ctx, traffic.Change{Split: split, Base: base, Actor: actor, Reason: reason})
}

// remove is Delete for who has claimed the split; ch says who deletes what and why.
func (c *Control) remove(ctx context.Context, ch traffic.Change) error {
	if err := c.clear(ch.Split); err != nil {
		return err
	}
	before, err := c.read(ctx, ch.Split)
	if err != nil {
		return err
	}
	if before.number() != ch.Base {
		return stale(ch.Split, ch.Base, before)
	}
	if ch.Revision, err = c.nextNumber(ctx, ch.Split, before); err != nil {
		return err
	}
	ch.ID, ch.Phase, ch.Before, ch.Created = nuid.Next(), traffic.Applying, before.rev.Split, c.now()
	_, err = c.execute(ctx, ch, before, nil)
	return err
}

// Keep ends a change's bake time early, as verified.
func (c *Control) Keep(ctx context.Context, change, actor string) (traffic.Change, error) {
	ch, err := c.Change(change)
	if err != nil {
		return traffic.Change{}, err
	}
	fields := map[string]string{}
	checkText(fields, actor, "")
	if len(fields) > 0 {
		return traffic.Change{}, invalid("The change cannot be kept like this.", "Correct what is marked.", fields)
	}
	release, err := c.claim(ctx, ch.Split)
	if err != nil {
		return traffic.Change{}, err
	}
	defer release()
	if ch, err = c.Change(change); err != nil {
		return traffic.Change{}, err
	}
	if ch.Phase != traffic.Baking {
		return ch, &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("This change is %s; it is not watched any more.", ch.Phase), Hint: "There is nothing to keep."}
	}
	ch.Phase, ch.Ended = traffic.Verified, c.now()
	ch.Outcome = fmt.Sprintf("Kept by %s before the bake time was over.", actor)
	if err := c.append(ctx, c.about(traffic.EntryVerified, ch, actor, ch.Outcome)); err != nil {
		return traffic.Change{}, err
	}
	c.remember(ch)
	return ch, nil
}

func intentText(ch traffic.Change) string {
	switch {
	case deletes(ch):
		return fmt.Sprintf("%s deletes split %s at revision %d.", ch.Actor, ch.Split, ch.Base)
	case ch.Base == 0:
		return fmt.Sprintf("%s creates split %s: %s.", ch.Actor, ch.Split, weightsOf(ch.After))
	}
	return fmt.Sprintf("%s changes split %s from revision %d to %d: %s.", ch.Actor, ch.Split, ch.Base, ch.Revision, moved(ch.Before, ch.After))
}

func writtenText(ch traffic.Change) string {
	if deletes(ch) {
		return fmt.Sprintf("Split %s is deleted.", ch.Split)
	}
	return fmt.Sprintf("Revision %d of split %s is in force.", ch.Revision, ch.Split)
}

// moved says in short what differs.
func moved(before, after traffic.Split) string {
	var parts []string
	for _, d := range traffic.Diff(before, after) {
		switch {
		case d.Before == nil:
			parts = append(parts, fmt.Sprintf("%s new with %d", d.Name, d.After.Weight))
		case d.After == nil:
			parts = append(parts, d.Name+" taken out")
		case d.Before.State != d.After.State:
			parts = append(parts, fmt.Sprintf("%s %s→%s (%d→%d)", d.Name, d.Before.State, d.After.State, d.Before.Weight, d.After.Weight))
		case d.Before.Weight != d.After.Weight:
			parts = append(parts, fmt.Sprintf("%s %d→%d", d.Name, d.Before.Weight, d.After.Weight))
		default:
			parts = append(parts, d.Name+" settings")
		}
	}
	if len(parts) == 0 {
		return "settings"
	}
	if len(parts) > 8 {
		parts = append(parts[:8], "…")
	}
	return strings.Join(parts, ", ")
}
