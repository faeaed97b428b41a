package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// Fields of a consumer's configuration that a patch can change, as servers
// spell them. They are the names of a form's fields, too.
const (
	fieldMaxAckPending = "max_ack_pending"
	fieldAckWait       = "ack_wait"
	fieldBackOff       = "backoff"
	fieldMaxDeliver    = "max_deliver"
	fieldPause         = "pause_until"
	fieldPolicy        = "priority_policy"
	fieldGroups        = "priority_groups"
	fieldTimeout       = "priority_timeout"
)

// patchable is the order in which differences are told.
var patchable = []string{fieldMaxAckPending, fieldAckWait, fieldBackOff, fieldMaxDeliver, fieldPause, fieldPolicy, fieldGroups, fieldTimeout}

// ConsumerSettings asks a consumer's leader what is in force.
func (c *Control) ConsumerSettings(ctx context.Context, k fleet.ConsumerKey) (traffic.ConsumerSettings, error) {
	if err := c.reachable(ctx, k); err != nil {
		return traffic.ConsumerSettings{}, err
	}
	s, err := c.consumer(ctx, k)
	if err != nil {
		return traffic.ConsumerSettings{}, asked(err)
	}
	out := settingsOf(k, s)
	// Who may not see the limits sees the settings all the same: the server holds
	// a change against them anyway.
	if out.Limit, out.LimitedBy, err = c.ackLimit(ctx, k, s); err != nil {
		c.log.InfoContext(ctx, "limits of a consumer", "stream", k.Stream, "consumer", k.Consumer, "err", err)
	}
	return out, nil
}

// reachable says why a consumer cannot be asked for, or changed, here.
func (c *Control) reachable(ctx context.Context, k fleet.ConsumerKey) error {
	fields := map[string]string{}
	if !apiToken(k.Stream) {
		fields["stream"] = "this cannot be the name of a stream"
	}
	if !apiToken(k.Consumer) {
		fields["consumer"] = "this cannot be the name of a consumer"
	}
	switch {
	case len(fields) > 0:
		return invalid("There cannot be such a consumer.", "Look at the list of consumers.", fields)
	case c.cfg.Conn == nil:
		return noConn()
	case !c.cfg.Conn.IsConnected():
		return c.offline()
	}
	return c.ownAccount(ctx, k)
}

// ownAccount refuses a consumer of another account: one of the same name here
// would be changed instead.
func (c *Control) ownAccount(ctx context.Context, k fleet.ConsumerKey) error {
	if k.Account == "" {
		return nil
	}
	mine, err := c.myAccount(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(mine, k.Account) {
		return &fleet.Error{Kind: fleet.Forbidden,
			Msg:  fmt.Sprintf("The consumer is of account %s; this console has credentials for account %s.", printable([]byte(k.Account)), printable([]byte(mine[0]))),
			Hint: "Start a console with credentials of that account."}
	}
	return nil
}

// settingsOf reads a consumer's configuration.
func settingsOf(k fleet.ConsumerKey, s consumerState) traffic.ConsumerSettings {
	out := traffic.ConsumerSettings{
		Consumer: observedOf(k), Born: s.born, Digest: digest(s),
		Pull: s.text("deliver_subject") == "", AckPolicy: s.text("ack_policy"),
		Priority: policyOf(s), Pinned: s.pinned,
		Waiting: s.waiting, InFlight: s.inFlight, Backlog: s.backlog,
	}
	// A field of another type than expected is shown as not set, and survives.
	read := func(field string, into any) { _ = json.Unmarshal(s.config[field], into) }
	read(fieldMaxAckPending, &out.MaxAckPending)
	read(fieldAckWait, &out.AckWait)
	read(fieldBackOff, &out.BackOff)
	read(fieldMaxDeliver, &out.MaxDeliver)
	read(fieldPause, &out.PausedUntil)
	read(fieldGroups, &out.Groups)
	read(fieldTimeout, &out.PriorityTimeout)
	out.Fixed = fixed(s, out.Pull)
	return out
}

// policyOf is the priority policy; servers leave none away, or write it out.
func policyOf(s consumerState) traffic.PriorityPolicy {
	if p := s.text(fieldPolicy); p != "none" {
		return traffic.PriorityPolicy(p)
	}
	return traffic.PriorityNone
}

// digest names a configuration as far as an edit depends on it.
func digest(s consumerState) string {
	all := map[string]any{}
	for f, raw := range s.config {
		if v := meaning(f, raw); f != sampleField && v != nil {
			all[f] = v
		}
	}
	sum := sha256.Sum256(encode(map[string]any{"born": s.born, "config": all}))
	return hex.EncodeToString(sum[:12])
}

// fixed are the settings that nats-server (2.15) refuses to update.
func fixed(s consumerState, pull bool) []traffic.FixedSetting {
	const anew = " Create another consumer with the wanted value and move the workers there."
	value := func(field, unset string) string {
		raw := s.config[field]
		var text string
		switch {
		case len(raw) == 0:
			return unset
		case json.Unmarshal(raw, &text) == nil:
			return printable([]byte(text))
		}
		return printable(raw)
	}
	beat := value("idle_heartbeat", "none")
	if ns, err := strconv.ParseInt(beat, 10, 64); err == nil {
		beat = time.Duration(ns).String()
	}
	out := []traffic.FixedSetting{
		{Name: "ack_policy", Value: value("ack_policy", "none"), Why: "What was delivered is accounted for by it." + anew},
		{Name: "deliver_policy", Value: value("deliver_policy", "all"), Why: "It says only where the consumer began to read." + anew},
		{Name: "opt_start_seq", Value: value("opt_start_seq", "none"), Why: "It says only where the consumer began to read." + anew},
		{Name: "opt_start_time", Value: value("opt_start_time", "none"), Why: "It says only where the consumer began to read." + anew},
		{Name: "replay_policy", Value: value("replay_policy", "instant"), Why: "The pace of delivery is fixed at the creation." + anew},
		{Name: "mem_storage", Value: value("mem_storage", "false"), Why: "The consumer's state would have to move between disk and memory." + anew},
	}
	if pull {
		return append(out,
			traffic.FixedSetting{Name: "max_waiting", Value: value("max_waiting", "not set"), Why: "The queue of waiting pulls has its size from the creation; fewer pulls wait when every client asks for larger batches." + anew},
			traffic.FixedSetting{Name: "deliver_subject", Value: "none: it is a pull consumer", Why: "A pull consumer cannot become a push consumer." + anew})
	}
	return append(out,
		traffic.FixedSetting{Name: "idle_heartbeat", Value: beat, Why: "The subscribers count on it since they began." + anew},
		traffic.FixedSetting{Name: "flow_control", Value: value("flow_control", "false"), Why: "The subscribers count on it since they began." + anew})
}

// ackLimit is the lowest limit of max_ack_pending that can be seen from outside.
// A server may have one of its own, which only its refusal shows.
func (c *Control) ackLimit(ctx context.Context, k fleet.ConsumerKey, s consumerState) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	var stream struct {
		Config struct {
			Replicas int `json:"num_replicas"`
			Limits   struct {
				MaxAckPending int `json:"max_ack_pending"`
			} `json:"consumer_limits"`
		} `json:"config"`
	}
	type tier struct {
		Limits struct {
			MaxAckPending int `json:"max_ack_pending"`
		} `json:"limits"`
	}
	var account struct {
		tier
		Tiers map[string]tier `json:"tiers"`
	}
	// Each may be forbidden by itself.
	err := errors.Join(
		c.request(ctx, "$JS.API.STREAM.INFO."+k.Stream, nil, &stream),
		c.request(ctx, "$JS.API.INFO", nil, &account))
	limit, by := 0, ""
	if n := stream.Config.Limits.MaxAckPending; n > 0 {
		limit, by = n, "stream"
	}
	n := account.Limits.MaxAckPending
	if t, ok := account.Tiers["R"+strconv.Itoa(stream.Config.Replicas)]; ok {
		n = t.Limits.MaxAckPending
	}
	if n > 0 && (limit == 0 || n < limit) {
		limit, by = n, "account"
	}
	return limit, by, err
}

// level is the JetStream API level of the server that answered: 1 since 2.11, 2
// since 2.12, 0 before.
func (s consumerState) level() int {
	var meta map[string]string
	_ = json.Unmarshal(s.config["metadata"], &meta)
	n, _ := strconv.Atoi(meta["_nats.level"])
	return n
}

// put returns the configuration with some fields replaced; nil takes a field away.
func (s consumerState) put(fields map[string]json.RawMessage) map[string]json.RawMessage {
	c := maps.Clone(s.config)
	for f, v := range fields {
		if v == nil {
			delete(c, f)
		} else {
			c[f] = v
		}
	}
	return c
}

// has reports in which of the fields a configuration is not as given.
func (s consumerState) lacks(fields map[string]json.RawMessage) []string {
	var out []string
	for _, f := range patchable {
		if want, ok := fields[f]; ok && !sameValue(f, want, s.config[f]) {
			out = append(out, f)
		}
	}
	return out
}

// sameValue compares two values of a field by what servers make of them.
func sameValue(field string, a, b json.RawMessage) bool {
	return inWords(field, a) == inWords(field, b)
}

// inWords tells a field's value to an operator.
func inWords(field string, raw json.RawMessage) string {
	fallback := printable(raw)
	switch field {
	case fieldMaxAckPending, fieldMaxDeliver:
		var n int
		switch err := json.Unmarshal(raw, &n); {
		case len(raw) == 0:
			return "not set"
		case err != nil:
			return fallback
		case n < 0:
			return "no limit"
		}
		return strconv.Itoa(n)
	case fieldAckWait, fieldTimeout:
		var d time.Duration
		switch err := json.Unmarshal(raw, &d); {
		case len(raw) > 0 && err != nil:
			return fallback
		case d == 0:
			return "not set"
		}
		return d.String()
	case fieldBackOff:
		var ds []time.Duration
		if len(raw) > 0 && json.Unmarshal(raw, &ds) != nil {
			return fallback
		}
		words := make([]string, len(ds))
		for i, d := range ds {
			words[i] = d.String()
		}
		return orNone(words)
	case fieldPause:
		var at time.Time
		switch err := json.Unmarshal(raw, &at); {
		case len(raw) > 0 && err != nil:
			return fallback
		case at.IsZero():
			return "not paused"
		}
		return at.UTC().Format(time.RFC3339Nano)
	case fieldPolicy:
		var p string
		switch err := json.Unmarshal(raw, &p); {
		case len(raw) > 0 && err != nil:
			return fallback
		case p == "":
			return "none"
		}
		return printable([]byte(p))
	case fieldGroups:
		var gs []string
		if len(raw) > 0 && json.Unmarshal(raw, &gs) != nil {
			return fallback
		}
		for i, g := range gs {
			gs[i] = printable([]byte(g))
		}
		return orNone(gs)
	}
	return fallback
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}
