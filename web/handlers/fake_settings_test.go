package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// The settings of the fixture's consumers, as a leader would tell them.

func (w *world) ConsumerSettings(_ context.Context, k fleet.ConsumerKey) (traffic.ConsumerSettings, error) {
	if w.settingsErr != nil {
		return traffic.ConsumerSettings{}, w.settingsErr
	}
	s, ok := w.settings[k]
	if !ok {
		s = traffic.ConsumerSettings{Consumer: traffic.Observed{Account: k.Account, Stream: k.Stream, Consumer: k.Consumer}, Born: epoch.Add(-time.Hour), Pull: true, AckPolicy: "explicit",
			MaxAckPending: 1000, AckWait: 30 * time.Second, MaxDeliver: -1, Waiting: 2, InFlight: 31, Backlog: 812, Limit: 5000, LimitedBy: "stream",
			Fixed: []traffic.FixedSetting{{Name: "max_waiting", Value: "512", Why: "A server answers 10012: make a new consumer."}, {Name: "deliver_policy", Value: "all", Why: "It was used up when the consumer was made."}}}
	}
	s.Digest = fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, s.MaxAckPending, s.AckWait, s.BackOff, s.MaxDeliver, s.PausedUntil, s.Priority, s.Groups, s.PriorityTimeout)))
	return s, nil
}

// set puts other settings in force, as somebody else would.
func (w *world) set(k fleet.ConsumerKey, change func(*traffic.ConsumerSettings)) {
	s, _ := w.ConsumerSettings(context.Background(), k)
	change(&s)
	if w.settings == nil {
		w.settings = map[fleet.ConsumerKey]traffic.ConsumerSettings{}
	}
	w.settings[k] = s
}

func (w *world) PlanConsumer(ctx context.Context, e traffic.ConsumerEdit) (traffic.ConsumerPlan, error) {
	if w.planErr != nil {
		return traffic.ConsumerPlan{}, w.planErr
	}
	k := fleet.ConsumerKey{Account: e.Consumer.Account, Stream: e.Consumer.Stream, Consumer: e.Consumer.Consumer}
	now, err := w.ConsumerSettings(ctx, k)
	if err != nil {
		return traffic.ConsumerPlan{}, err
	}
	if e.Base != now.Digest {
		return traffic.ConsumerPlan{}, &fleet.Error{Kind: fleet.Stale, Msg: "The consumer was changed since you looked at it.", Hint: "Decide again."}
	}
	p := traffic.ConsumerPlan{Before: now, After: now, Subject: "$JS.API.CONSUMER.DURABLE.CREATE." + k.Stream + "." + k.Consumer, Warn: []string{"31 messages are in flight."}}
	fields := map[string]string{}
	diff := func(name string, before, after any) {
		if b, a := fmt.Sprint(before), fmt.Sprint(after); b != a {
			p.Diff = append(p.Diff, traffic.SettingDiff{Name: name, Before: b, After: a})
		}
	}
	if v := e.Patch.MaxAckPending; v != nil {
		if p.After.MaxAckPending = *v; *v > now.Limit {
			fields["max_ack_pending"] = "the stream allows 5000"
		}
		diff("max_ack_pending", now.MaxAckPending, *v)
	}
	if v := e.Patch.AckWait; v != nil {
		p.After.AckWait = *v
		diff("ack_wait", now.AckWait, *v)
	}
	if v := e.Patch.BackOff; v != nil {
		p.After.BackOff = *v
		diff("backoff", now.BackOff, *v)
	}
	if v := e.Patch.MaxDeliver; v != nil {
		p.After.MaxDeliver = *v
		diff("max_deliver", now.MaxDeliver, *v)
	}
	if v := e.Patch.PauseUntil; v != nil {
		p.After.PausedUntil = *v
		diff("pause_until", now.PausedUntil.UTC().Format(time.RFC3339), v.UTC().Format(time.RFC3339))
	}
	if v := e.Patch.PriorityGroups; v != nil {
		p.After.Groups = *v
		diff("priority_groups", now.Groups, *v)
	}
	if v := e.Patch.PriorityTimeout; v != nil {
		p.After.PriorityTimeout = *v
		diff("priority_timeout", now.PriorityTimeout, *v)
	}
	if v := e.Patch.PriorityPolicy; v != nil {
		p.After.Priority = *v
		diff("priority_policy", now.Priority, *v)
		if !e.Migrate {
			fields["migrate"] = "2 pulls wait now: their clients stop for good"
		}
	}
	if len(fields) > 0 {
		return traffic.ConsumerPlan{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The settings are not valid.", Fields: fields}
	}
	p.Payload, _ = json.Marshal(p.After)
	p.Command = "nats consumer edit '" + k.Stream + "' '" + k.Consumer + "'"
	return p, nil
}

func (w *world) ApplyConsumer(ctx context.Context, e traffic.ConsumerEdit) (traffic.ConsumerChange, error) {
	p, err := w.PlanConsumer(ctx, e)
	if err != nil {
		return traffic.ConsumerChange{}, err
	}
	k := fleet.ConsumerKey{Account: e.Consumer.Account, Stream: e.Consumer.Stream, Consumer: e.Consumer.Consumer}
	w.set(k, func(s *traffic.ConsumerSettings) { *s = p.After })
	before, _ := json.Marshal(p.Before)
	hold := e.Hold
	if hold == 0 {
		hold = time.Minute
	}
	ch := traffic.ConsumerChange{ID: fmt.Sprintf("s%d", len(w.setChanges)+1), Consumer: e.Consumer, Phase: traffic.Baking, Actor: e.Actor, Reason: e.Reason, Undo: e.Undo, Diff: p.Diff, Before: before,
		Created: w.now(), Written: w.now(), HoldEnds: w.now().Add(hold), Outcome: "In force."}
	w.setChanges = slices.Insert(w.setChanges, 0, ch)
	return ch, nil
}

func (w *world) RollBackConsumer(_ context.Context, id, actor, reason string) (traffic.ConsumerChange, error) {
	if w.planErr != nil {
		return traffic.ConsumerChange{}, w.planErr
	}
	i := slices.IndexFunc(w.setChanges, func(ch traffic.ConsumerChange) bool { return ch.ID == id })
	if i < 0 {
		return traffic.ConsumerChange{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such change of a consumer."}
	}
	ch := &w.setChanges[i]
	k := fleet.ConsumerKey{Account: ch.Consumer.Account, Stream: ch.Consumer.Stream, Consumer: ch.Consumer.Consumer}
	w.set(k, func(s *traffic.ConsumerSettings) { _ = json.Unmarshal(ch.Before, s) })
	ch.Phase, ch.Ended, ch.Outcome = traffic.RolledBack, w.now(), "Rolled back by "+actor+": "+reason
	return *ch, nil
}

func (w *world) ConsumerChanges() []traffic.ConsumerChange { return w.setChanges }

func (w *world) Unpin(_ context.Context, k fleet.ConsumerKey, group, actor, reason string) error {
	w.unpinned = append(w.unpinned, k.Consumer+" "+group+" "+actor+" "+reason)
	return w.planErr
}
