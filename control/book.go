package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"ballast/traffic"
)

// book is what is remembered of changes and proposals: what replaying the
// journal gives, but for the effect so far of a change that still bakes and for
// renewals of a suggestion, which are not recorded. Values are replaced, never changed in place, so readers
// may share them.
type book struct {
	changes   map[string]traffic.Change
	order     []string // ids of changes, oldest first
	proposals map[string]traffic.Proposal
	offered   []string // ids of proposals, oldest first
	silenced  map[string]silence
	numbers   map[string]uint64 // highest revision of a split that was ever in force

	measurements map[string]traffic.Measurement
	measured     []string // ids of measurements, oldest first

	settings map[string]traffic.ConsumerChange
	tuned    []string // ids of consumers' changes, oldest first
}

// silence is what an operator does not want to hear for a while.
type silence struct {
	moves []traffic.Move
	until time.Time
}

func newBook() *book {
	return &book{
		changes:   map[string]traffic.Change{},
		proposals: map[string]traffic.Proposal{},
		silenced:  map[string]silence{},
		numbers:   map[string]uint64{},

		measurements: map[string]traffic.Measurement{},
		settings:     map[string]traffic.ConsumerChange{},
	}
}

// replay rebuilds the book from the ledger.
func (c *Control) replay(ctx context.Context) error {
	b := newBook()
	err := c.cfg.Ledger.Replay(ctx, func(e traffic.Entry) error {
		switch e.Kind {
		case traffic.EntryIntent, traffic.EntryWritten, traffic.EntryUnknown, traffic.EntryRejected,
			traffic.EntryVerified, traffic.EntryRollback, traffic.EntryReplaced:
			var ch traffic.Change
			if err := json.Unmarshal(e.Data, &ch); err != nil {
				return fmt.Errorf("read change of journal entry %d: %w", e.Seq, err)
			}
			b.keep(ch)
		case traffic.EntryProposal, traffic.EntryDismissed, traffic.EntryExpired:
			var p traffic.Proposal
			if err := json.Unmarshal(e.Data, &p); err != nil {
				return fmt.Errorf("read proposal of journal entry %d: %w", e.Seq, err)
			}
			b.offer(p)
		case traffic.EntryMeasureOn, traffic.EntryMeasureOff:
			return b.measureEntry(e)
		case traffic.EntryConsumerIntent, traffic.EntryConsumerWritten, traffic.EntryConsumerUnknown, traffic.EntryConsumerRejected,
			traffic.EntryConsumerVerified, traffic.EntryConsumerRolledBack, traffic.EntryConsumerReplaced:
			return b.setEntry(e)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("replay journal: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.book = b
	return nil
}

// keep takes over a change as it now stands, with what follows from it for
// proposals. It is the one way in, live and by replay, so both give the same.
func (b *book) keep(ch traffic.Change) {
	if _, ok := b.changes[ch.ID]; !ok {
		b.order = append(b.order, ch.ID)
	}
	b.changes[ch.ID] = ch
	b.order = prune(b.order, b.changes, kept, func(ch traffic.Change) bool { return ch.Phase.Final() })
	if ch.Written.IsZero() {
		return
	}
	b.numbers[ch.Split] = max(b.numbers[ch.Split], ch.Revision)
	if p, ok := b.proposals[ch.Proposal]; ok && p.Status != traffic.Applied {
		p.Status, p.Change, p.ClosedAt, p.ClosedBy = traffic.Applied, ch.ID, ch.Written, ch.Actor
		b.proposals[p.ID] = p
	}
	for _, id := range b.offered {
		p := b.proposals[id]
		if p.Split == ch.Split && p.Status == traffic.Open && p.Base < ch.Revision {
			b.proposals[id] = closed(p, traffic.Superseded, ch.Written, ch.Actor)
		}
	}
}

// offer takes over a proposal as it now stands. A new one takes the place of
// the one that is open.
func (b *book) offer(p traffic.Proposal) {
	if _, ok := b.proposals[p.ID]; !ok {
		if old, ok := b.open(p.Split); ok {
			b.proposals[old.ID] = closed(old, traffic.Superseded, p.At, p.ClosedBy)
		}
		b.offered = append(b.offered, p.ID)
	}
	if p.Status == traffic.Open && p.Base < b.numbers[p.Split] {
		p = closed(p, traffic.Superseded, p.At, p.ClosedBy)
	}
	b.proposals[p.ID] = p
	if p.Status == traffic.Dismissed {
		b.silenced[p.Split] = silence{p.Moves, p.ClosedAt.Add(quiet)}
	}
	b.offered = prune(b.offered, b.proposals, kept, func(p traffic.Proposal) bool { return p.Status != traffic.Open })
}

// open returns the open proposal of a split; there is at most one.
func (b *book) open(split string) (traffic.Proposal, bool) {
	for _, id := range slices.Backward(b.offered) {
		if p := b.proposals[id]; p.Split == split && p.Status == traffic.Open {
			return p, true
		}
	}
	return traffic.Proposal{}, false
}

// unfinished returns the changes that are not final, oldest first.
func (b *book) unfinished() []traffic.Change {
	var out []traffic.Change
	for _, id := range b.order {
		if ch := b.changes[id]; !ch.Phase.Final() {
			out = append(out, ch)
		}
	}
	return out
}

func closed(p traffic.Proposal, s traffic.ProposalStatus, at time.Time, by string) traffic.Proposal {
	p.Status, p.ClosedAt, p.ClosedBy = s, at, by
	return p
}

// prune drops the oldest finished ones beyond those to keep.
func prune[T any](ids []string, by map[string]T, keep int, done func(T) bool) []string {
	for i := 0; len(by) > keep && i < len(ids); {
		if !done(by[ids[i]]) {
			i++
			continue
		}
		delete(by, ids[i])
		ids = slices.Delete(ids, i, i+1)
	}
	return ids
}
