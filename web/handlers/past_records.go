package handlers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// pastJournal is the journal up to a moment.
type pastJournal struct {
	Journal
	at time.Time
}

func (j pastJournal) Entries(ctx context.Context, f traffic.EntryFilter) ([]traffic.Entry, error) {
	if end := j.at.Add(time.Millisecond); f.To.IsZero() || f.To.After(end) {
		f.To = end
	}
	return j.Journal.Entries(ctx, f)
}

// pastEntries bounds how much of the journal is read to tell what was so; a
// split that was not touched for longer is asked for by name.
const pastEntries = 2000

// pastControl is what was decided and in force at a moment. A record of the
// journal holds the change, suggestion or measurement as it then stood, so the
// newest one of each is the answer. It changes nothing.
type pastControl struct {
	splits    map[string]traffic.Revision
	history   map[string][]traffic.Revision // newest first
	changes   []traffic.Change              // newest first
	proposals []traffic.Proposal
	measured  []traffic.Measurement
	settings  []traffic.ConsumerChange // newest first
}

// controlAt reads the journal back from a moment. Revisions of which it does not
// tell, because they were written past this console, come from the history that
// NATS keeps.
func (s *Server) controlAt(ctx context.Context, at time.Time) (*pastControl, error) {
	p := &pastControl{splits: map[string]traffic.Revision{}, history: map[string][]traffic.Revision{}}
	journal := pastJournal{s.Journal, at}
	entries, err := journal.Entries(ctx, traffic.EntryFilter{Limit: pastEntries})
	if err != nil {
		return nil, fmt.Errorf("read the journal back from %s: %w", momentText(at), err)
	}
	if err := p.read(entries); err != nil {
		return nil, err
	}
	for _, now := range s.Control.Splits() {
		name := now.Split.Name
		if len(p.history[name]) == 0 && len(entries) == pastEntries {
			older, err := journal.Entries(ctx, traffic.EntryFilter{Split: name, Kind: traffic.EntryWritten, Limit: 64})
			if err != nil {
				return nil, fmt.Errorf("read what the journal has of split %s: %w", name, err)
			}
			if err := p.read(older); err != nil {
				return nil, err
			}
		}
		kept, err := s.Control.History(ctx, name)
		if err != nil {
			continue // the journal alone tells, then
		}
		for _, r := range kept {
			if !r.At.After(at) && !slices.ContainsFunc(p.history[name], func(o traffic.Revision) bool { return o.Number == r.Number }) {
				p.history[name] = append(p.history[name], r)
			}
		}
	}
	for name, revs := range p.history {
		slices.SortFunc(revs, func(a, b traffic.Revision) int { return cmp.Compare(b.Number, a.Number) })
		if newest := revs[0]; newest.Split.Name != "" { // "" was its deletion
			p.splits[name] = newest
		}
		p.history[name] = slices.DeleteFunc(revs, func(r traffic.Revision) bool { return r.Split.Name == "" })
	}
	for i := range p.proposals {
		o := &p.proposals[i]
		if o.Status == traffic.Open && (o.Base < p.splits[o.Split].Number || !at.Before(o.Expires) || slices.ContainsFunc(p.proposals[:i], func(n traffic.Proposal) bool { return n.Split == o.Split })) {
			o.Status = traffic.Superseded
		}
	}
	return p, nil
}

// read takes over records, newest first.
func (p *pastControl) read(entries []traffic.Entry) error {
	known := map[string]bool{}
	for _, ch := range p.changes {
		known[ch.ID] = true
	}
	for _, e := range entries {
		var err error
		switch e.Kind {
		case traffic.EntryIntent, traffic.EntryWritten, traffic.EntryUnknown, traffic.EntryRejected, traffic.EntryVerified, traffic.EntryRollback, traffic.EntryReplaced:
			var ch traffic.Change
			if err = json.Unmarshal(e.Data, &ch); err == nil && !known[ch.ID] {
				known[ch.ID] = true
				p.changes = append(p.changes, ch)
				if !ch.Written.IsZero() {
					p.history[ch.Split] = append(p.history[ch.Split], traffic.Revision{V: 1, Number: ch.Revision, Base: ch.Base, Change: ch.ID,
						Author: ch.Actor, Reason: ch.Reason, At: ch.Written, Split: ch.After})
				}
			}
		case traffic.EntryProposal, traffic.EntryDismissed, traffic.EntryExpired:
			var o traffic.Proposal
			if err = json.Unmarshal(e.Data, &o); err == nil && !known[o.ID] {
				known[o.ID] = true
				p.proposals = append(p.proposals, o)
			}
		case traffic.EntryMeasureOn, traffic.EntryMeasureOff:
			var m traffic.Measurement
			if err = json.Unmarshal(e.Data, &m); err == nil && !known[m.ID] {
				known[m.ID] = true
				p.measured = append(p.measured, m)
			}
		default:
			if !slices.Contains(consumerKinds, e.Kind) {
				continue
			}
			var ch traffic.ConsumerChange
			if err = json.Unmarshal(e.Data, &ch); err == nil && !known[ch.ID] {
				known[ch.ID] = true
				p.settings = append(p.settings, ch)
			}
		}
		if err != nil {
			return fmt.Errorf("read journal entry %d: %w", e.Seq, err)
		}
	}
	slices.SortStableFunc(p.changes, func(a, b traffic.Change) int { return b.Created.Compare(a.Created) })
	slices.SortStableFunc(p.settings, func(a, b traffic.ConsumerChange) int { return b.Created.Compare(a.Created) })
	slices.SortStableFunc(p.proposals, func(a, b traffic.Proposal) int { return b.At.Compare(a.At) })
	return nil
}

func (p *pastControl) Ready() error { return readOnlyPast() }

func (p *pastControl) Splits() []traffic.Revision {
	out := make([]traffic.Revision, 0, len(p.splits))
	for _, r := range p.splits {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b traffic.Revision) int { return strings.Compare(a.Split.Name, b.Split.Name) })
	return out
}

func (p *pastControl) Split(name string) (traffic.Revision, error) {
	if r, ok := p.splits[name]; ok {
		return r, nil
	}
	return traffic.Revision{}, notThen("There was no split %q then.", name)
}

func (p *pastControl) History(_ context.Context, name string) ([]traffic.Revision, error) {
	if revs := p.history[name]; len(revs) > 0 {
		return slices.Clone(revs), nil
	}
	return nil, notThen("There was no split %q then.", name)
}

func (p *pastControl) Changes(split string, limit int) []traffic.Change {
	return firstOf(p.changes, limit, func(ch traffic.Change) bool { return split == "" || ch.Split == split })
}

func (p *pastControl) Change(id string) (traffic.Change, error) {
	for _, ch := range p.changes {
		if ch.ID == id {
			return ch, nil
		}
	}
	return traffic.Change{}, notThen("There was no change %q then.", id)
}

func (p *pastControl) Proposals(split string, limit int) []traffic.Proposal {
	return firstOf(p.proposals, limit, func(o traffic.Proposal) bool { return split == "" || o.Split == split })
}

func (p *pastControl) Proposal(id string) (traffic.Proposal, error) {
	for _, o := range p.proposals {
		if o.ID == id {
			return o, nil
		}
	}
	return traffic.Proposal{}, notThen("There was no suggestion %q then.", id)
}

// Decision of the tuner is not recorded: only the suggestions that came of it are.
func (p *pastControl) Decision(string) (traffic.Decision, bool) { return traffic.Decision{}, false }

func (p *pastControl) Measurements() []traffic.Measurement { return p.measured }

// InForce is not kept: what servers did at a moment nobody wrote down.
func (p *pastControl) InForce(string) ([]traffic.InForce, time.Time, error) {
	return nil, time.Time{}, nil
}

// Mapping is not kept either.
func (p *pastControl) Mapping(context.Context, string) (string, error) {
	return "", &fleet.Error{Kind: fleet.NotFound, Msg: "What the servers were given is not recorded.", Hint: "Look at the split as it is now, or at its revision of that time."}
}

func (p *pastControl) Plan(context.Context, traffic.Edit) (traffic.Plan, error) {
	return traffic.Plan{}, readOnlyPast()
}

func (p *pastControl) Apply(context.Context, traffic.Edit) (traffic.Change, error) {
	return traffic.Change{}, readOnlyPast()
}

func (p *pastControl) Rollback(context.Context, string, string, string) (traffic.Change, error) {
	return traffic.Change{}, readOnlyPast()
}

func (p *pastControl) Delete(context.Context, string, uint64, string, string) error {
	return readOnlyPast()
}

func (p *pastControl) Keep(context.Context, string, string) (traffic.Change, error) {
	return traffic.Change{}, readOnlyPast()
}

func (p *pastControl) Approve(context.Context, string, string, string) (traffic.Change, error) {
	return traffic.Change{}, readOnlyPast()
}

func (p *pastControl) Dismiss(context.Context, string, string, string) error { return readOnlyPast() }

func (p *pastControl) Measure(context.Context, fleet.ConsumerKey, int, time.Duration, string, string) (traffic.Measurement, error) {
	return traffic.Measurement{}, readOnlyPast()
}

func (p *pastControl) StopMeasuring(context.Context, string, string) (traffic.Measurement, error) {
	return traffic.Measurement{}, readOnlyPast()
}

func (p *pastControl) ConsumerChanges() []traffic.ConsumerChange { return p.settings }

// ConsumerSettings are asked of the leader when they are wanted, and not kept.
func (p *pastControl) ConsumerSettings(context.Context, fleet.ConsumerKey) (traffic.ConsumerSettings, error) {
	return traffic.ConsumerSettings{}, &fleet.Error{Kind: fleet.NotFound, Msg: "What the consumer's leader told then was not kept.", Hint: "The consumer's page shows what was recorded of its configuration."}
}

func (p *pastControl) PlanConsumer(context.Context, traffic.ConsumerEdit) (traffic.ConsumerPlan, error) {
	return traffic.ConsumerPlan{}, readOnlyPast()
}

func (p *pastControl) ApplyConsumer(context.Context, traffic.ConsumerEdit) (traffic.ConsumerChange, error) {
	return traffic.ConsumerChange{}, readOnlyPast()
}

func (p *pastControl) RollBackConsumer(context.Context, string, string, string) (traffic.ConsumerChange, error) {
	return traffic.ConsumerChange{}, readOnlyPast()
}

func (p *pastControl) Unpin(context.Context, fleet.ConsumerKey, string, string, string) error {
	return readOnlyPast()
}

func notThen(text, name string) error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf(text, name), Hint: "Go to another moment, or back to now."}
}

func firstOf[T any](all []T, limit int, want func(T) bool) []T {
	var out []T
	for _, x := range all {
		if limit > 0 && len(out) == limit {
			break
		}
		if want(x) {
			out = append(out, x)
		}
	}
	return out
}

// pastFound bounds how many findings that were open at a moment are read.
const pastFound = 10_000

// pastFindings is what had been found at a moment, by the record.
type pastFindings struct {
	record Findings
	at     time.Time
	open   []fleet.Finding
}

func (f *pastFindings) read(ctx context.Context) error {
	all, err := f.record.Findings(ctx, fleet.FindingFilter{Closed: true, Range: fleet.Range{From: f.at}, Limit: pastFound})
	if err != nil {
		return fmt.Errorf("read the findings of %s: %w", momentText(f.at), err)
	}
	for _, one := range f.then(all) {
		if one.Open() {
			f.open = append(f.open, one)
		}
	}
	fleet.SortFindings(f.open)
	return nil
}

// then are findings as they stood: what came later is not known yet.
func (f *pastFindings) then(all []fleet.Finding) []fleet.Finding {
	var out []fleet.Finding
	for _, one := range all {
		if one.Since.After(f.at) {
			continue
		}
		if one.Closed.After(f.at) {
			one.Closed = time.Time{}
		}
		if one.LastSeen.After(f.at) {
			one.LastSeen = f.at
		}
		if one.Suppressed.At.After(f.at) {
			one.Suppressed = fleet.Suppression{}
		}
		out = append(out, one)
	}
	return out
}

func (f *pastFindings) Open() []fleet.Finding { return f.open }

func (f *pastFindings) Findings(ctx context.Context, q fleet.FindingFilter) ([]fleet.Finding, error) {
	all, err := f.record.Findings(ctx, q)
	return f.then(all), err
}

func (f *pastFindings) Suppress(context.Context, fleet.FindingKey, fleet.Suppression) error {
	return readOnlyPast()
}

func (f *pastFindings) Lift(context.Context, fleet.FindingKey, string) error { return readOnlyPast() }
