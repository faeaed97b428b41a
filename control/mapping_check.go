package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"ballast/traffic"
)

// surroundings is what lies around a mapping in its account, of all servers.
type surroundings struct {
	mappings map[string][]destination
	leafs    int
	exports  []port
	imports  []port
}

// lookAround asks the servers what else the account has.
func (s *servers) lookAround(ctx context.Context) (surroundings, error) {
	out := surroundings{mappings: map[string][]destination{}}
	all, err := s.accountz(ctx)
	if err != nil {
		return out, err
	}
	for _, a := range all {
		maps.Copy(out.mappings, a.Account.Mappings)
		out.leafs += a.Account.Leafs
		out.exports = append(out.exports, a.Account.Exports...)
		out.imports = append(out.imports, a.Account.Imports...)
	}
	return out, nil
}

// refuseOverlap refuses a split that another mapping of the account means too.
func refuseOverlap[T any](mappings map[string]T, s traffic.Split) error {
	over := overlapping(mappings, s.Subject)
	if over == nil {
		return nil
	}
	return invalid(fmt.Sprintf("The account already maps %s, which means %s too.", strings.Join(over, ", "), s.Subject),
		"A server takes whichever mapping it comes upon first, by chance at each start. Take the wider mapping away, or divide another subject.",
		map[string]string{"subject": "another mapping of the account overlaps: " + strings.Join(over, ", ")})
}

// warnings are what an operator should know before servers divide a split.
func (s *servers) warnings(ctx context.Context, split traffic.Split, around surroundings) []string {
	warn := []string{
		fmt.Sprintf("Subscribers to %s itself get nothing any more, and streams that capture it store nothing: messages arrive on the targets' subjects.", split.Subject),
		"Publishers need the right to publish to the targets' subjects: servers check it after mapping.",
	}
	if len(split.Tiers()) > 1 {
		warn = append(warn, "A server knows no tiers: the lowest one with a READY target takes everything, and a failed target is only left out by a change of the weights.")
	}
	warn = append(warn, around.chained(split)...)
	warn = append(warn, around.shared(split)...)
	if around.leafs > 0 {
		warn = append(warn, fmt.Sprintf("The account has %s. What is published at one is divided on its way through these servers: subscribers of the targets at that same leaf node get nothing of it. Have them subscribe elsewhere, or give the leaf node the same mapping; its own goes first.",
			plural(around.leafs, "connection of leaf nodes", "connections of leaf nodes")))
	}
	return append(warn, s.streamWarnings(ctx, split)...)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// chained warns of other mappings before and behind this one: a server maps a
// message once.
func (a surroundings) chained(s traffic.Split) []string {
	var warn []string
	for _, t := range s.Effective() {
		for _, src := range slices.Sorted(maps.Keys(a.mappings)) {
			if matches(src, t.Subject) {
				warn = append(warn, fmt.Sprintf("The account maps %s too (by %s), but a server maps a message once: what is drawn to %s arrives there. Only behind a leaf node it is mapped again.", t.Subject, src, t.Subject))
			}
		}
	}
	for _, src := range slices.Sorted(maps.Keys(a.mappings)) {
		if src != s.Subject && slices.ContainsFunc(a.mappings[src], func(d destination) bool { return d.Subject == s.Subject }) {
			warn = append(warn, fmt.Sprintf("The account's mapping of %s leads to %s: a server maps a message once, so what comes that way is not divided. Let it lead to the targets.", src, s.Subject))
		}
	}
	return warn
}

// shared warns of what other accounts see and send.
func (a surroundings) shared(s traffic.Split) []string {
	var warn []string
	streams := func(subject string) bool {
		return slices.ContainsFunc(a.exports, func(e port) bool { return e.Type == "stream" && matches(e.Subject, subject) })
	}
	if streams(s.Subject) {
		var missing []string
		for _, t := range s.Effective() {
			if !streams(t.Subject) {
				missing = append(missing, t.Subject)
			}
		}
		if missing != nil {
			warn = append(warn, fmt.Sprintf("The account exports %s, but not %s: accounts that import it get nothing of that any more. Export the targets' subjects first.", s.Subject, strings.Join(missing, ", ")))
		}
	}
	if slices.ContainsFunc(a.imports, func(i port) bool { return i.Type == "stream" && matches(i.here(), s.Subject) }) {
		warn = append(warn, fmt.Sprintf("The account imports %s from another one: a mapping is applied in the account that publishes, so what arrives that way is not divided.", s.Subject))
	}
	return warn
}

// streamWarnings compares what streams capture of a split's subject with what
// they capture of its targets.
func (s *servers) streamWarnings(ctx context.Context, split traffic.Split) []string {
	at := func(subject string) ([]string, error) { return s.streamsOf(ctx, subject) }
	source, err := at(split.Subject)
	if err != nil {
		return []string{"Which streams capture the subjects could not be asked: whether JetStream publishers get their acknowledgements is not known."}
	}
	var warn, stored, nowhere []string
	for _, t := range split.Effective() {
		names, err := at(t.Subject)
		if err != nil {
			return []string{"Which streams capture the subjects could not be asked: whether JetStream publishers get their acknowledgements is not known."}
		}
		if names == nil {
			nowhere = append(nowhere, t.Subject)
		}
		stored = append(stored, names...)
	}
	slices.Sort(stored)
	stored = slices.Compact(stored)
	used := source != nil || stored != nil
	switch {
	case nowhere != nil && used:
		warn = append(warn, fmt.Sprintf("No stream captures %s: JetStream publishers get no acknowledgement for what is drawn there, and nothing stores it. Let a stream capture the targets first.", strings.Join(nowhere, ", ")))
	case source != nil && slices.ContainsFunc(source, func(name string) bool { return !slices.Contains(stored, name) }):
		warn = append(warn, fmt.Sprintf("Stream %s captures %s itself: it stores only what some server does not map, such as one that was away during a change. Keep a consumer on it.", strings.Join(source, ", "), split.Subject))
	}
	if len(stored) > 1 {
		warn = append(warn, fmt.Sprintf("The targets are stored in several streams (%s): a message that is published again with the same Nats-Msg-Id may be drawn to another one and stored twice. Let one stream capture all targets.", strings.Join(stored, ", ")))
	}
	return warn
}

// streamsOf are the streams of the account that capture a subject.
func (s *servers) streamsOf(ctx context.Context, subject string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	question, err := json.Marshal(map[string]string{"subject": subject})
	if err != nil {
		return nil, fmt.Errorf("encode the question for streams of %q: %w", subject, err)
	}
	msg, err := s.conn.RequestWithContext(ctx, "$JS.API.STREAM.NAMES", question)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, nil // no JetStream
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the streams of %q: %w", subject, err)
	}
	var r struct {
		Streams []string `json:"streams"` // with an error, such as JetStream not enabled, there are none
	}
	if err := json.Unmarshal(msg.Data, &r); err != nil {
		return nil, fmt.Errorf("parse the streams of %q: %w", subject, err)
	}
	return r.Streams, nil
}
