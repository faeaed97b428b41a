package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

const (
	// pinnedTimeout is what servers take when a pinned consumer names none.
	pinnedTimeout = 2 * time.Minute
	// longestPause bounds a slip of the pen; a server takes any moment.
	longestPause = 366 * 24 * time.Hour

	defaultHold = time.Minute
	longestHold = 24 * time.Hour
)

// groupName is the servers' own grammar.
var groupName = regexp.MustCompile(`^[a-zA-Z0-9/_=-]{1,16}$`)

// consumerDraft is an edit held against what is in force.
type consumerDraft struct {
	before   consumerState
	set      map[string]json.RawMessage // nil takes a field away
	settings traffic.ConsumerSettings   // before
	noLimits error                      // why limits are not known
}

// PlanConsumer is the dry run of an edit: the same reads, checks and bytes as
// ApplyConsumer up to the journal.
func (c *Control) PlanConsumer(ctx context.Context, e traffic.ConsumerEdit) (traffic.ConsumerPlan, error) {
	d, err := c.draftConsumer(ctx, e)
	if err != nil {
		return traffic.ConsumerPlan{}, err
	}
	k := keyOf(e.Consumer)
	subject, payload := d.before.ask(k, d.set)
	after := d.before
	after.config = d.before.put(d.set)
	p := traffic.ConsumerPlan{
		Before: d.settings, After: settingsOf(k, after), Diff: settingDiff(d.before, d.set),
		Payload: payload, Subject: subject, Command: consumerCommand(k, d.before, d.set),
	}
	p.After.Limit, p.After.LimitedBy = d.settings.Limit, d.settings.LimitedBy
	p.Warn = c.consumerWarnings(ctx, k, d, p.After)
	return p, nil
}

// draftConsumer checks an edit against what is in force.
func (c *Control) draftConsumer(ctx context.Context, e traffic.ConsumerEdit) (consumerDraft, error) {
	if err := c.checkConsumerEdit(e); err != nil {
		return consumerDraft{}, err
	}
	k := keyOf(e.Consumer)
	if err := c.reachable(ctx, k); err != nil {
		return consumerDraft{}, err
	}
	s, err := c.consumer(ctx, k)
	if err != nil {
		return consumerDraft{}, asked(err)
	}
	d := consumerDraft{before: s, settings: settingsOf(k, s), set: patchFields(e.Patch, s)}
	d.settings.Limit, d.settings.LimitedBy, d.noLimits = c.ackLimit(ctx, k, s)
	if d.settings.Digest != e.Base {
		return d, staleConsumer(k, d.settings)
	}
	if fields := refusals(d, e, c.now()); len(fields) > 0 {
		return d, invalid("The consumer cannot be changed like this.", "Correct what is marked.", fields)
	}
	maps.DeleteFunc(d.set, func(f string, v json.RawMessage) bool { return sameValue(f, v, s.config[f]) })
	if len(d.set) == 0 {
		return d, invalid("Nothing would change.", "Change a setting first.", nil)
	}
	return d, nil
}

// checkConsumerEdit finds what is wrong with an edit by itself.
func (c *Control) checkConsumerEdit(e traffic.ConsumerEdit) error {
	fields := map[string]string{}
	checkText(fields, e.Actor, e.Reason)
	p := e.Patch
	if n := p.MaxAckPending; n != nil && *n < 1 && *n != -1 {
		fields[fieldMaxAckPending] = "allow at least 1 message, or -1 for no limit: of 0 servers make a default of theirs"
	}
	if d := p.AckWait; d != nil && *d <= 0 {
		fields[fieldAckWait] = "wait for some time: of 0 servers make 30s, and a negative one they refuse"
	}
	if p.BackOff != nil && slices.ContainsFunc(*p.BackOff, func(d time.Duration) bool { return d <= 0 }) {
		fields[fieldBackOff] = "each step must be longer than 0"
	}
	if n := p.MaxDeliver; n != nil && *n < 1 && *n != -1 {
		fields[fieldMaxDeliver] = "allow at least 1 delivery, or -1 for no limit"
	}
	if at := p.PauseUntil; at != nil {
		rest := p
		rest.PauseUntil = nil
		switch now := c.now(); {
		case rest != (traffic.ConsumerPatch{}):
			fields[fieldPause] = "pause or resume by itself: it is a request of its own, and no other setting goes with it"
		case at.IsZero():
		case !at.After(now):
			fields[fieldPause] = "choose a moment to come"
		case at.After(now.Add(longestPause)):
			fields[fieldPause] = "pause for a year at most"
		}
	}
	switch policy := p.PriorityPolicy; {
	case policy == nil:
	case !slices.Contains([]traffic.PriorityPolicy{traffic.PriorityNone, traffic.PriorityOverflow, traffic.PriorityPinned, traffic.PriorityPrioritized}, *policy):
		fields[fieldPolicy] = "choose none, overflow, pinned_client or prioritized"
	}
	if p.PriorityGroups != nil {
		seen := map[string]bool{}
		for _, g := range *p.PriorityGroups {
			switch {
			case !groupName.MatchString(g):
				fields[fieldGroups] = "a group has 1 to 16 of A-Z a-z 0-9 / _ = -"
			case seen[g]:
				fields[fieldGroups] = "name each group once"
			}
			seen[g] = true
		}
	}
	if d := p.PriorityTimeout; d != nil && *d < 0 {
		fields[fieldTimeout] = "it cannot be negative"
	}
	if e.Hold < 0 || e.Hold > longestHold {
		fields["hold"] = "watch the change for at most 24 hours"
	}
	if len(fields) > 0 {
		return invalid("The consumer cannot be changed like this.", "Correct what is marked.", fields)
	}
	return nil
}

// patchFields are the fields that a patch sets, with those that follow from it.
func patchFields(p traffic.ConsumerPatch, s consumerState) map[string]json.RawMessage {
	set := map[string]json.RawMessage{}
	if p.MaxAckPending != nil {
		set[fieldMaxAckPending] = encode(*p.MaxAckPending)
	}
	if p.AckWait != nil {
		set[fieldAckWait] = encode(*p.AckWait)
	}
	if p.BackOff != nil {
		set[fieldBackOff] = nil
		if steps := *p.BackOff; len(steps) > 0 {
			set[fieldBackOff] = encode(steps)
			if p.AckWait == nil {
				set[fieldAckWait] = encode(steps[0]) // servers make it so
			}
		}
	}
	if p.MaxDeliver != nil {
		set[fieldMaxDeliver] = encode(*p.MaxDeliver)
	}
	if p.PauseUntil != nil {
		set[fieldPause] = nil
		if !p.PauseUntil.IsZero() {
			set[fieldPause] = encode(p.PauseUntil.UTC())
		}
	}
	if p.PriorityPolicy != nil {
		set[fieldPolicy] = nil
		if *p.PriorityPolicy != traffic.PriorityNone {
			set[fieldPolicy] = encode(*p.PriorityPolicy)
		}
		if was := policyOf(s); *p.PriorityPolicy != was && p.PriorityTimeout == nil {
			switch traffic.PriorityPinned {
			case was:
				set[fieldTimeout] = nil
			case *p.PriorityPolicy:
				set[fieldTimeout] = encode(pinnedTimeout)
			}
		}
	}
	if p.PriorityGroups != nil {
		set[fieldGroups] = nil
		if len(*p.PriorityGroups) > 0 {
			set[fieldGroups] = encode(*p.PriorityGroups)
		}
	}
	if p.PriorityTimeout != nil {
		set[fieldTimeout] = nil
		if *p.PriorityTimeout > 0 {
			set[fieldTimeout] = encode(*p.PriorityTimeout)
		}
	}
	return set
}

// refusals are what the server would refuse, or take and make something else
// of, by form field.
func refusals(d consumerDraft, e traffic.ConsumerEdit, now time.Time) map[string]string {
	fields := map[string]string{}
	before, next := d.settings, d.before
	next.config = d.before.put(d.set)
	after := settingsOf(keyOf(e.Consumer), next)
	p := e.Patch
	asks := map[string]bool{
		fieldMaxAckPending: p.MaxAckPending != nil, fieldAckWait: p.AckWait != nil,
		fieldBackOff: p.BackOff != nil && len(*p.BackOff) > 0, fieldMaxDeliver: p.MaxDeliver != nil,
	}
	refuse := func(field, why string) {
		if fields[field] == "" {
			fields[field] = why
		}
	}
	switch before.AckPolicy {
	case "none":
		for f, asked := range asks {
			if asked {
				refuse(f, "this consumer takes no acknowledgements (ack_policy none), so there is nothing to wait for or to deliver again")
			}
		}
	case "flow_control":
		if asks[fieldAckWait] || asks[fieldBackOff] {
			refuse(fieldAckWait, "a consumer with ack_policy flow_control has no ack_wait and no backoff")
		}
		if asks[fieldMaxDeliver] && after.MaxDeliver > 0 {
			refuse(fieldMaxDeliver, "a consumer with ack_policy flow_control has no max_deliver")
		}
		if asks[fieldMaxAckPending] && after.MaxAckPending <= 0 {
			refuse(fieldMaxAckPending, "a consumer with ack_policy flow_control needs a limit")
		}
	}
	if limit := before.Limit; asks[fieldMaxAckPending] && limit > 0 && after.MaxAckPending > limit {
		refuse(fieldMaxAckPending, fmt.Sprintf("the %s allows %d at most", before.LimitedBy, limit))
	}
	if n := len(after.BackOff); n > 0 {
		field := fieldMaxDeliver
		if asks[fieldBackOff] {
			field = fieldBackOff
		}
		if (asks[fieldBackOff] || asks[fieldMaxDeliver]) && after.MaxDeliver != -1 && n > after.MaxDeliver {
			refuse(field, fmt.Sprintf("backoff has %d steps, but a message is delivered at most %d times: the server wants max_deliver not to be below the number of steps", n, after.MaxDeliver))
		}
		if asks[fieldAckWait] && after.AckWait != after.BackOff[0] {
			refuse(fieldAckWait, fmt.Sprintf("with a backoff its first step (%s) takes the place of ack_wait: change the step, or take the backoff away", after.BackOff[0]))
		}
	}
	if p.PauseUntil != nil {
		switch {
		case d.before.level() < 1:
			refuse(fieldPause, "the servers must be nats-server 2.11 or newer to pause a consumer")
		case p.PauseUntil.IsZero() && !before.PausedUntil.After(now):
			refuse(fieldPause, "this consumer is not paused")
		}
	}
	refusePriority(refuse, d, after, e)
	return fields
}

// refusePriority is refusals for priority groups.
func refusePriority(refuse func(field, why string), d consumerDraft, after traffic.ConsumerSettings, e traffic.ConsumerEdit) {
	p, before := e.Patch, d.settings
	if p.PriorityPolicy == nil && p.PriorityGroups == nil && p.PriorityTimeout == nil {
		return
	}
	switch {
	case !before.Pull && after.Priority != traffic.PriorityNone:
		refuse(fieldPolicy, "a push consumer cannot have priority groups: create a pull consumer")
	case d.before.level() < 1:
		refuse(fieldPolicy, "the servers must be nats-server 2.11 or newer for priority groups")
	case after.Priority == traffic.PriorityPrioritized && d.before.level() < 2:
		refuse(fieldPolicy, "the servers must be nats-server 2.12 or newer for prioritized")
	case after.Priority != traffic.PriorityNone && len(after.Groups) == 0:
		refuse(fieldGroups, "a policy needs a group: the clients name it in their pulls")
	case after.Priority == traffic.PriorityNone && len(after.Groups) > 0:
		refuse(fieldGroups, "groups need a policy; leave them empty for none")
	}
	if p.PriorityTimeout != nil {
		switch {
		case after.Priority != traffic.PriorityPinned && *p.PriorityTimeout > 0:
			refuse(fieldTimeout, "only pinned_client has a timeout")
		case after.Priority == traffic.PriorityPinned && *p.PriorityTimeout == 0:
			refuse(fieldTimeout, "pinned_client needs one: of 0 servers make 2m0s")
		}
	}
	if migrates(before, after) && !e.Migrate && e.Undo == "" {
		field := fieldPolicy
		if before.Priority == after.Priority {
			field = fieldGroups
		}
		refuse(field, "the clients of this consumer stop for good when it changes. Create a new consumer with this policy and move the clients there, or say that they are to be restarted with the change")
		refuse("migrate", migrateText(before, after))
	}
}

// migrates reports whether the clients of a consumer must pull in another way.
func migrates(before, after traffic.ConsumerSettings) bool {
	return before.Priority != after.Priority || !slices.Equal(slices.Sorted(slices.Values(before.Groups)), slices.Sorted(slices.Values(after.Groups)))
}

// migrateText says what another policy, or other groups, do to the clients.
func migrateText(before, after traffic.ConsumerSettings) string {
	text := fmt.Sprintf("%d pulls wait now. ", before.Waiting)
	switch {
	case before.Priority == traffic.PriorityNone:
		return text + "They are served no more, and the next pulls of running clients are refused with 400 \"Priority Group missing\": their Consume ends for good (nats.go), so restart every client with a group in its pulls."
	case after.Priority == traffic.PriorityNone:
		return text + "Clients that name a group are refused by their own library when they start again (nats.go: priority group is not supported for this consumer): restart every client without one."
	}
	return text + "Pulls that do not fit the new policy or groups are refused with 400, and their Consume ends for good (nats.go): restart every client with pulls that fit."
}

// staleConsumer says what is in force instead of what was looked at.
func staleConsumer(k fleet.ConsumerKey, now traffic.ConsumerSettings) *fleet.Error {
	return &fleet.Error{Kind: fleet.Stale, Msg: "Consumer " + named(k) + " was changed since you looked at it.",
		Hint: "In force now: " + settingWords(now) + ". Decide again."}
}

// settingWords are the settings in short.
func settingWords(s traffic.ConsumerSettings) string {
	parts := []string{
		"max_ack_pending " + inWords(fieldMaxAckPending, encode(s.MaxAckPending)),
		"ack_wait " + inWords(fieldAckWait, encode(s.AckWait)),
		"max_deliver " + inWords(fieldMaxDeliver, encode(s.MaxDeliver)),
	}
	if len(s.BackOff) > 0 {
		parts = append(parts, "backoff "+strings.ReplaceAll(inWords(fieldBackOff, encode(s.BackOff)), ", ", "/"))
	}
	if !s.PausedUntil.IsZero() {
		parts = append(parts, "pause_until "+inWords(fieldPause, encode(s.PausedUntil)))
	}
	if s.Priority != traffic.PriorityNone {
		parts = append(parts, "priority_policy "+printable([]byte(s.Priority)))
	}
	return strings.Join(parts, ", ")
}

// settingDiff tells the fields that are set and what they were.
func settingDiff(before consumerState, set map[string]json.RawMessage) []traffic.SettingDiff {
	var out []traffic.SettingDiff
	for _, f := range patchable {
		if v, ok := set[f]; ok {
			out = append(out, traffic.SettingDiff{Name: f, Before: inWords(f, before.config[f]), After: inWords(f, v)})
		}
	}
	return out
}
