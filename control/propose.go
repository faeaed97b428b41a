package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/traffic"
)

const (
	tunerName = "tuner"
	// quiet is how long a dismissed suggestion is not made again.
	quiet = 10 * time.Minute
	// refresh is how long a suggestion that ran out and is still true is renewed
	// without another entry in the journal.
	refresh = 5 * time.Minute
	// stay is how long a suggestion is not replaced by one of the same kind with
	// other numbers: an operator must be able to read what he clicks on.
	stay = 15 * time.Second
	// alike is the number of points within which two suggestions are always the
	// same one: the operator would decide the same.
	alike = 2
)

// tune asks the advisor about every split that wants suggestions. Windows of one
// split follow each other without overlap, so that no sample counts twice.
func (c *Control) tune(ctx context.Context, advisor Advisor) {
	for _, rev := range c.Splits() {
		if ctx.Err() != nil {
			return
		}
		if rev.Split.Mode != traffic.Suggest || rev.Split.Law == traffic.LawManual {
			c.drop(ctx, rev.Split.Name)
			continue
		}
		r, ok := c.nextWindow(rev)
		if !ok {
			continue
		}
		obs, err := c.cfg.Observer.Observe(ctx, rev.Split, r)
		if err != nil {
			if ctx.Err() == nil {
				c.log.WarnContext(ctx, "observe split for the tuner", "split", rev.Split.Name, "err", err)
			}
			continue // the window grows until it can be read
		}
		c.noteInterval(obs)
		c.mu.Lock()
		at := c.tuned[rev.Split.Name]
		at.to = r.To
		c.tuned[rev.Split.Name] = at
		c.mu.Unlock()
		d := advisor.Decide(c.now(), rev, obs)
		c.decide(ctx, rev, d)
	}
}

// progress is how far the tuner has come with a split.
type progress struct {
	revision uint64
	since    time.Time // when it was written, as far as is known
	to       time.Time // end of the last window
}

// nextWindow starts where the last one ended, but never before the change in
// force took effect: what was measured under other weights says nothing of
// these.
func (c *Control) nextWindow(rev traffic.Revision) (fleet.Range, bool) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	at, known := c.tuned[rev.Split.Name]
	if !known {
		at.to = now.Add(-c.cfg.Every)
	}
	if !known || at.revision != rev.Number {
		at.revision, at.since = rev.Number, rev.At
		if ch, ok := c.book.changes[rev.Change]; ok && !ch.Written.IsZero() {
			at.since = ch.Written
		}
		if at.since.After(now) { // by another console, whose clock is ahead
			at.since = now
		}
	}
	c.tuned[rev.Split.Name] = at
	r := fleet.Range{From: at.to, To: now}
	if effect := at.since.Add(c.interval); r.From.Before(effect) {
		r.From = effect
	}
	// A console that slept must not drag in hours of another load.
	if oldest := now.Add(-10 * time.Minute); r.From.Before(oldest) {
		r.From = oldest
	}
	// Half an interval: ticks jitter, and a window skipped is one look later.
	return r, r.Span() >= max(c.interval/2, time.Millisecond)
}

// drop forgets what the tuner said of a split that wants to hear nothing now.
func (c *Control) drop(ctx context.Context, split string) {
	c.mu.Lock()
	p, ok := c.book.open(split)
	delete(c.decisions, split)
	delete(c.tuned, split)
	c.mu.Unlock()
	if ok {
		c.expire(ctx, p, "The split takes no suggestions any more.")
	}
}

// decide takes over a decision and keeps at most one suggestion open.
func (c *Control) decide(ctx context.Context, rev traffic.Revision, d traffic.Decision) {
	split, now := rev.Split.Name, c.now()
	c.mu.Lock()
	open, isOpen := c.book.open(split)
	muted := c.book.silenced[split]
	c.mu.Unlock()
	if isOpen && open.Base != rev.Number {
		c.mu.Lock()
		c.book.proposals[open.ID] = closed(open, traffic.Superseded, now, rev.Author)
		c.mu.Unlock()
		isOpen = false
	}
	p := d.Proposal
	lapsed := isOpen && !now.Before(open.Expires)
	if p == nil || len(p.Moves) == 0 {
		if lapsed {
			c.expire(ctx, open, "Nobody decided in time, and it is not true any more.")
		}
		d.Proposal = nil
		c.setDecision(split, d)
		return
	}
	fresh := *p
	fresh.ID, fresh.Split, fresh.Base, fresh.Status = "", split, rev.Number, traffic.Open
	fresh.At = now
	if !fresh.Expires.After(now) {
		fresh.Expires = now.Add(15 * time.Minute)
	}
	switch {
	case now.Before(muted.until) && similar(muted.moves, fresh.Moves):
		d.Vetoes = append(slices.Clone(d.Vetoes), fmt.Sprintf("dismissed; not suggested again before %s", muted.until.Format(time.TimeOnly+" MST")))
		d.Proposal = nil
		if isOpen {
			c.expire(ctx, open, "It is not true any more.")
		}
		c.setDecision(split, d)
		return
	case isOpen && !lapsed && (similar(open.Moves, fresh.Moves) || open.Kind == fresh.Kind && now.Before(open.At.Add(stay))):
		d.Proposal = &open
		c.setDecision(split, d)
		return
	case lapsed && slices.Equal(open.Moves, fresh.Moves) && now.Before(c.journaled(open.ID).Add(refresh)):
		// Still true, with the same numbers: the operator finds it where it was.
		fresh.ID = open.ID
		c.mu.Lock()
		c.book.offer(fresh)
		c.mu.Unlock()
		d.Proposal = &fresh
		c.setDecision(split, d)
		return
	case lapsed:
		c.expire(ctx, open, "Nobody decided in time.")
	}
	fresh.ID = nuid.Next()
	if _, err := json.Marshal(fresh); err != nil {
		c.log.ErrorContext(ctx, "the tuner made a suggestion that cannot be recorded", "split", split, "err", err)
		return
	}
	if err := c.append(ctx, c.aboutProposal(traffic.EntryProposal, fresh, tunerName, fresh.Title)); err != nil {
		// What is not on record is not suggested; it will be when it still holds.
		c.log.ErrorContext(ctx, "record a suggestion", "split", split, "err", err)
		return
	}
	c.mu.Lock()
	c.book.offer(fresh)
	fresh = c.book.proposals[fresh.ID]
	c.recorded[split] = recording{fresh.ID, now}
	c.mu.Unlock()
	d.Proposal = &fresh
	c.setDecision(split, d)
	c.log.InfoContext(ctx, "suggestion made", "split", split, "proposal", fresh.ID, "title", fresh.Title)
}

// recording is when a suggestion went into the journal.
type recording struct {
	id string
	at time.Time
}

// journaled returns when a proposal was recorded; zero for one of an earlier
// start, which is then made anew.
func (c *Control) journaled(id string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.recorded {
		if r.id == id {
			return r.at
		}
	}
	return time.Time{}
}

func (c *Control) setDecision(split string, d traffic.Decision) {
	d.Split = split
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decisions[split] = d
}

// expire closes a suggestion whose time is over.
func (c *Control) expire(ctx context.Context, p traffic.Proposal, why string) {
	c.mu.Lock()
	if c.book.proposals[p.ID].Status != traffic.Open { // approved or dismissed meanwhile
		c.mu.Unlock()
		return
	}
	p = closed(p, traffic.Lapsed, c.now(), tunerName)
	c.book.offer(p)
	c.mu.Unlock()
	c.tell(ctx, c.aboutProposal(traffic.EntryExpired, p, tunerName, why))
}

// similar reports whether an operator would decide the same on both: every
// target ends at the same weight, give or take a quarter of what is moved in
// all. Both are bound to the same base; a target that only one of them moves
// stays where it is in the other.
func similar(a, b []traffic.Move) bool {
	to := func(moves []traffic.Move, m traffic.Move) int {
		i := slices.IndexFunc(moves, func(o traffic.Move) bool { return o.Target == m.Target })
		if i < 0 {
			return m.From
		}
		return moves[i].To
	}
	moved := func(moves []traffic.Move) (points int) {
		for _, m := range moves {
			points += max(m.To-m.From, 0)
		}
		return points
	}
	way := max(alike, min(moved(a), moved(b))/4)
	return !slices.ContainsFunc(slices.Concat(a, b), func(m traffic.Move) bool { return abs(to(a, m)-to(b, m)) > way })
}

func abs(n int) int { return max(n, -n) }

// actable returns a proposal that can still be decided.
func (c *Control) actable(id string) (traffic.Proposal, error) {
	p, err := c.Proposal(id)
	if err != nil {
		return p, err
	}
	now := c.now()
	switch {
	case p.Status == traffic.Open && now.Before(p.Expires):
		return p, nil
	case p.Status == traffic.Open, p.Status == traffic.Lapsed:
		return p, &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("This suggestion ran out at %s: the traffic it was made for may be another by now.", p.Expires.UTC().Format(time.TimeOnly+" MST")), Hint: "If it is still true there will be a new one in a moment."}
	case p.Status == traffic.Superseded:
		return p, &fleet.Error{Kind: fleet.Stale, Msg: "A newer revision or suggestion took this one's place.", Hint: "Look at the split's present state."}
	}
	return p, &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("This suggestion is %s already, by %s.", p.Status, p.ClosedBy), Hint: "There is nothing left to decide."}
}

// Approve applies a suggestion, with exactly the weights that it shows.
func (c *Control) Approve(ctx context.Context, proposal, actor, reason string) (traffic.Change, error) {
	if err := c.open(); err != nil {
		return traffic.Change{}, err
	}
	p, err := c.actable(proposal)
	if err != nil {
		return traffic.Change{}, err
	}
	release, err := c.claim(ctx, p.Split)
	if err != nil {
		return traffic.Change{}, err
	}
	defer release()
	if p, err = c.actable(proposal); err != nil { // while waiting somebody else may have decided
		return traffic.Change{}, err
	}
	now, err := c.read(ctx, p.Split)
	if err != nil {
		return traffic.Change{}, err
	}
	if now.number() != p.Base {
		return traffic.Change{}, stale(p.Split, p.Base, now)
	}
	to := make(map[string]int, len(p.Moves))
	for _, m := range p.Moves {
		if t, ok := now.rev.Split.Target(m.Target); !ok || t.Weight != m.From {
			return traffic.Change{}, stale(p.Split, p.Base, now)
		}
		to[m.Target] = m.To
	}
	if reason == "" && plain(p.Title, maxReason) {
		reason = p.Title
	}
	return c.apply(ctx, traffic.Edit{
		Split: p.Split, Base: p.Base, Next: now.rev.Split.WithWeights(to),
		Actor: actor, Reason: reason, Proposal: p.ID, Guard: true,
	})
}

// Dismiss closes a suggestion, and equal ones for a while.
func (c *Control) Dismiss(ctx context.Context, proposal, actor, reason string) error {
	fields := map[string]string{}
	checkText(fields, actor, reason)
	if len(fields) > 0 {
		return invalid("The suggestion cannot be dismissed like this.", "Correct what is marked.", fields)
	}
	p, err := c.Proposal(proposal)
	if err != nil {
		return err
	}
	release, err := c.claim(ctx, p.Split) // not while it is being approved
	if err != nil {
		return err
	}
	defer release()
	if p, err = c.actable(proposal); err != nil {
		return err
	}
	p = closed(p, traffic.Dismissed, c.now(), actor)
	text := fmt.Sprintf("%s dismissed: %s", actor, p.Title)
	if reason != "" {
		text += " (" + reason + ")"
	}
	if err := c.append(ctx, c.aboutProposal(traffic.EntryDismissed, p, actor, text)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.book.offer(p)
	if d, ok := c.decisions[p.Split]; ok && d.Proposal != nil && d.Proposal.ID == p.ID {
		d.Proposal = nil
		c.decisions[p.Split] = d
	}
	return nil
}
