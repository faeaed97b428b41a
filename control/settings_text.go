package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// ask is the request that sets the fields, and nothing else. Pausing has a
// request of its own: an update keeps the pause that is there, whatever it says
// (nats-server 2.15).
func (s consumerState) ask(k fleet.ConsumerKey, set map[string]json.RawMessage) (subject string, body json.RawMessage) {
	if until, ok := set[fieldPause]; ok {
		ask := map[string]json.RawMessage{}
		if until != nil {
			ask[fieldPause] = until
		}
		return "$JS.API.CONSUMER.PAUSE." + k.Stream + "." + k.Consumer, encode(ask)
	}
	return updateSubject(k, s), encode(map[string]any{"stream_name": k.Stream, "config": s.put(set), "action": "update"})
}

// consumerCommand is what an operator would type to do the same without Ballast:
// the nats command's own words where it has them, else the request itself.
func consumerCommand(k fleet.ConsumerKey, s consumerState, set map[string]json.RawMessage) string {
	who := shellQuote(printable([]byte(k.Stream))) + " " + shellQuote(printable([]byte(k.Consumer)))
	if until, ok := set[fieldPause]; ok {
		if until == nil {
			return "nats consumer resume " + who + " --force"
		}
		return "nats consumer pause " + who + " " + shellQuote(inWords(fieldPause, until)) + " --force"
	}
	flags := ""
	for _, f := range patchable {
		raw, ok := set[f]
		if !ok {
			continue
		}
		var n int64
		flag := map[string]string{fieldMaxAckPending: "--max-pending", fieldAckWait: "--wait", fieldMaxDeliver: "--max-deliver"}[f]
		if flag == "" || json.Unmarshal(raw, &n) != nil || n <= 0 {
			// nats consumer edit has no words for it: -1 means "as it is" to it, and its
			// backoff is computed.
			subject, body := s.ask(k, set)
			return "nats request " + shellQuote(printable([]byte(subject))) + " " + shellQuote(printable(body))
		}
		flags += " " + flag + "=" + inWords(f, raw)
	}
	return "nats consumer edit " + who + flags + " --force"
}

// consumerWarnings are what an operator should know before applying a plan.
func (c *Control) consumerWarnings(ctx context.Context, k fleet.ConsumerKey, d consumerDraft, after traffic.ConsumerSettings) []string {
	var warn []string
	say := func(format string, args ...any) { warn = append(warn, fmt.Sprintf(format, args...)) }
	before := d.settings
	changed := func(field string) bool { _, ok := d.set[field]; return ok }
	if changed(fieldPause) {
		switch {
		case after.PausedUntil.IsZero():
			// updatePauseState of nats-server signals nobody when a pause is taken away.
			say("%d messages wait. They are delivered when the next message comes or the next pull is made, at the latest when the waiting pulls end: nats-server 2.15 does not wake clients for a resume, only for a pause that runs out.", before.Backlog)
		default:
			say("Until %s nothing is delivered, nor delivered again; then it goes on by itself. Work in flight goes on: %d messages are with workers now, and their acknowledgements count.",
				after.PausedUntil.UTC().Format(time.DateTime+" MST"), before.InFlight)
			say("What comes meanwhile waits in the stream, within the stream's limits.")
		}
		return warn // an update by the application leaves a pause as it is
	}
	if changed(fieldMaxAckPending) {
		switch was, will := before.MaxAckPending, after.MaxAckPending; {
		case will < 0 || was > 0 && will > was:
			say("It takes effect at once: as far as clients ask for messages, up to %s of the %d that wait are delivered in one go.", more(was, will), before.Backlog)
		case before.InFlight > will:
			say("%d messages are in flight. They stay with their workers; nothing new is delivered until fewer than %d are.", before.InFlight, will)
		}
		if d.before.replicated && lowered(before.MaxAckPending, after.MaxAckPending) {
			// updateConfig of nats-server drops what waits for its quorum before it is
			// sent: it counts as in flight, and nobody has it.
			say("This consumer has replicas: messages that are on their way to a worker at that very moment arrive only after ack_wait (%s) and, when they are many, when the clients' pulls end (30 s with nats.go), because nats-server 2.15 forgets to send them when the limit is lowered. None is lost. Pause the consumer first, lower the limit, and resume: then none is late.", after.AckWait)
		}
		if after.MaxAckPending < 0 && before.Limit > 0 {
			say("The %s's limit of %d is not held against \"no limit\" by nats-server 2.15.", before.LimitedBy, before.Limit)
		}
	}
	if changed(fieldAckWait) {
		if after.AckWait < before.AckWait {
			say("Messages that are in flight for longer than %s are delivered again within about 0.1 s of the change, to whoever asks next; %d are in flight now.", after.AckWait, before.InFlight)
			c.warnSlow(ctx, k, after.AckWait, say)
		} else {
			say("A message whose worker died comes back after %s, not after %s.", after.AckWait, before.AckWait)
		}
	}
	if changed(fieldBackOff) && len(after.BackOff) > 0 {
		say("Its first step takes the place of ack_wait, its last is repeated until max_deliver (%s).", inWords(fieldMaxDeliver, d.before.put(d.set)[fieldMaxDeliver]))
	}
	if changed(fieldMaxDeliver) && after.MaxDeliver > 0 {
		say("A message that was delivered %d times without an acknowledgement is not delivered any more: it stays in the stream, and the server says so once, on $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.", after.MaxDeliver)
	}
	if migrates(before, after) {
		say("%s", migrateText(before, after))
	}
	if after.Priority == traffic.PriorityOverflow && before.Priority != after.Priority {
		say("overflow is relief, not failover: when the first client dies, what is below the threshold of the others' pulls stays where it is.")
	}
	if len(after.Groups) > 1 && changed(fieldGroups) {
		say("NATS specifies one group for a consumer; nats-server takes several, and pins one client in all.")
	}
	if d.noLimits != nil {
		say("The limits of the stream and the account could not be read; the server may refuse what is beyond them.")
	}
	say("An application that creates or updates this consumer at its start (CreateOrUpdateConsumer) puts its own settings back: change them there, too.")
	return warn
}

// warnSlow says that workers take longer than the wait that is asked for.
func (c *Control) warnSlow(ctx context.Context, k fleet.ConsumerKey, wait time.Duration, say func(string, ...any)) {
	now := c.now()
	o, err := c.observed(ctx, k, now.Add(-5*time.Minute), now)
	if err != nil || o.Latency.Count() == 0 {
		return
	}
	if slow := above(o.Latency, wait); slow > 0 {
		say("In the last 5 minutes %d of %d sampled acknowledgements took longer than %s: such messages will be worked on twice.", slow, o.Latency.Count(), wait)
	}
}

// lowered reports whether a limit of max_ack_pending becomes smaller to a server,
// to which no limit is -1.
func lowered(was, will int) bool { return will < was }

// more is how many messages a raised limit lets out.
func more(was, will int) string {
	if will < 0 || was < 0 {
		return "all"
	}
	return fmt.Sprint(will - was)
}

func consumerIntentText(ch traffic.ConsumerChange) string {
	verb := "changes"
	if ch.Undo != "" {
		verb = "takes back a change of"
	}
	return fmt.Sprintf("%s %s consumer %s: %s.", ch.Actor, verb, named(keyOf(ch.Consumer)), diffWords(ch.Diff))
}

func diffWords(diff []traffic.SettingDiff) string {
	parts := make([]string, len(diff))
	for i, d := range diff {
		parts[i] = fmt.Sprintf("%s %s → %s", d.Name, d.Before, d.After)
	}
	return strings.Join(parts, "; ")
}
