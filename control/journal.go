package control

import (
	"context"
	"encoding/json"
	"fmt"

	"ballast/fleet"
	"ballast/traffic"
)

// append puts an entry on the record, after those that are still owed. It
// returns an error when the entry is not there: then what it announces must not
// happen.
func (c *Control) append(ctx context.Context, e traffic.Entry) error {
	c.journal.Lock()
	defer c.journal.Unlock()
	if err := c.settleDebt(ctx); err != nil {
		return err
	}
	return c.put(ctx, e)
}

// tell records what has happened already. What the ledger does not take now is
// owed, and goes first once it takes entries again; no change can begin before.
func (c *Control) tell(ctx context.Context, e traffic.Entry) {
	c.journal.Lock()
	defer c.journal.Unlock()
	err := c.settleDebt(ctx)
	if err == nil {
		err = c.put(ctx, e)
	}
	if err != nil {
		c.owed = append(c.owed, e)
		c.log.ErrorContext(ctx, "a journal entry is owed", "kind", e.Kind, "change", e.Change, "owed", len(c.owed), "err", err)
	}
}

// pay records what is owed, if the ledger takes it now.
func (c *Control) pay(ctx context.Context) {
	c.journal.Lock()
	defer c.journal.Unlock()
	if err := c.settleDebt(ctx); err != nil {
		c.log.ErrorContext(ctx, "journal entries are owed", "owed", len(c.owed), "err", err)
	}
}

// settleDebt records what is owed, oldest first. c.journal is held.
func (c *Control) settleDebt(ctx context.Context) error {
	for len(c.owed) > 0 {
		if err := c.put(ctx, c.owed[0]); err != nil {
			return err
		}
		c.owed = c.owed[1:]
	}
	return nil
}

func (c *Control) put(ctx context.Context, e traffic.Entry) error {
	ctx, cancel := rest(ctx, ledgerTimeout)
	defer cancel()
	if _, err := c.cfg.Ledger.Append(ctx, e); err != nil {
		return &fleet.Error{
			Kind: fleet.Unavailable,
			Msg:  "The journal takes no entries, so nothing is changed.",
			Hint: "Check the data directory and the space on its disk.",
			Err:  fmt.Errorf("record %s: %w", e.Kind, err),
		}
	}
	return nil
}

// about makes the entry of a step in a change's life.
func (c *Control) about(kind traffic.EntryKind, ch traffic.Change, actor, text string) traffic.Entry {
	return traffic.Entry{
		At: c.now(), Kind: kind, Split: ch.Split, Change: ch.ID, Proposal: ch.Proposal,
		Actor: actor, Text: text, Data: encode(ch),
	}
}

// aboutProposal makes the entry of a step in a proposal's life.
func (c *Control) aboutProposal(kind traffic.EntryKind, p traffic.Proposal, actor, text string) traffic.Entry {
	return traffic.Entry{
		At: c.now(), Kind: kind, Split: p.Split, Proposal: p.ID, Actor: actor, Text: text, Data: encode(p),
	}
}

// encode cannot err: changes and proposals hold no floats but finite ones, and
// those of a tuner that divided by zero are kept out in offer.
func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}
