package collector

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

const advisorySubject = "$JS.EVENT.ADVISORY."

// advisory holds what is read of one, of all types together. Requests and
// responses of the API may hold anything; of them only the refusal is read.
type advisory struct {
	Type       string `json:"type"`
	ID         string `json:"id"`
	Account    string `json:"account"`
	Leader     string `json:"leader"`
	Reason     string `json:"reason"`
	Deliveries uint64 `json:"deliveries"`
	StreamSeq  uint64 `json:"stream_seq"`
	Paused     bool   `json:"paused"`
	PauseUntil wtime  `json:"pause_until"`
	Group      string `json:"group"`
	Server     string `json:"server"`
	Cluster    string `json:"cluster"`
	Subject    string `json:"subject"`
	Response   string `json:"response"`
	Client     struct {
		Name    string `json:"name"`
		User    string `json:"user"`
		Host    string `json:"host"`
		Account string `json:"acc"`
	} `json:"client"`
}

// advised is what an advisory's subject tells. The names in it can be trusted as
// far as the servers' permissions go; those in the body cannot.
type advised struct {
	what             string // "CONSUMER.MSG_NAKED"
	stream, consumer string
}

func parseAdvisorySubject(subject string) (advised, bool) {
	rest, ok := strings.CutPrefix(subject, advisorySubject)
	if !ok || len(subject) > 1024 {
		return advised{}, false
	}
	t := strings.Split(rest, ".")
	switch {
	case t[0] == "API" && len(t) <= 2, t[0] == "DOMAIN", t[0] == "SERVER":
		return advised{what: rest}, true
	case t[0] == "STREAM" && len(t) == 3 && t[2] != "":
		return advised{what: "STREAM." + t[1], stream: t[2]}, true
	case t[0] == "CONSUMER" && len(t) == 4 && t[2] != "" && t[3] != "":
		return advised{what: "CONSUMER." + t[1], stream: t[2], consumer: t[3]}, true
	}
	return advised{}, false
}

// storms are the advisories that one misbehaving client makes a thousand of
// every second, with their words.
var storms = map[string]struct {
	kind     string
	severity fleet.Severity
	many     string
}{
	"CONSUMER.MSG_NAKED":      {"consumer.nak", fleet.Info, "messages were refused by its clients (NAK)"},
	"CONSUMER.MSG_TERMINATED": {"consumer.terminated", fleet.Warning, "messages were given up by its clients (TERM)"},
	"CONSUMER.MAX_DELIVERIES": {"consumer.max_deliveries", fleet.Warning, "messages were delivered as often as allowed and never acknowledged"},
}

// takeAdvisory reads one. own tells that it came over the measured account's
// connection.
func (p *pushed) takeAdvisory(m *nats.Msg, own bool) {
	s, ok := parseAdvisorySubject(m.Subject)
	if !ok {
		if !own || !strings.HasPrefix(m.Subject, advisorySubject) {
			return
		}
		p.bad()
		return
	}
	name := s.stream
	if s.consumer != "" {
		name += "/" + s.consumer
	}
	if st, ok := storms[s.what]; ok && own && p.again(foldKey{kind: st.kind, name: name, asset: true}) {
		return
	}
	if s.what == "API" && !isWrite(m.Data) {
		return // our own questions are audited too
	}
	if len(m.Data) > maxPushed {
		p.bad()
		return
	}
	var a advisory
	if json.Unmarshal(m.Data, &a) != nil || !strings.HasPrefix(a.Type, "io.nats.jetstream.advisory.") {
		p.bad()
		return
	}
	if !p.first(a.ID) {
		return
	}
	h, ok := s.happening(&a)
	if !ok {
		return
	}
	if s.what == "STREAM.UPDATED" || s.what == "API" && configures(a.Subject) {
		p.mu.Lock()
		p.reconfigured = true
		p.mu.Unlock()
	}
	h.account = a.Account
	if own {
		h.account = ""
	}
	if h.asset && !own && h.account == "" {
		h.account = cmp.Or(a.Client.Account, "system account")
	}
	p.add(h)
}

// happening puts an advisory in words; false for one that is no news.
func (s advised) happening(a *advisory) (happening, bool) {
	stream := "Stream " + s.stream
	consumer := "Consumer " + s.consumer + " of " + s.stream
	ofStream := func(kind string, severity fleet.Severity, text string) (happening, bool) {
		return happening{kind: "stream." + kind, severity: severity, name: s.stream, asset: true, one: stream + text}, true
	}
	ofConsumer := func(kind string, severity fleet.Severity, text string) (happening, bool) {
		return happening{kind: "consumer." + kind, severity: severity, name: s.stream + "/" + s.consumer, asset: true, one: consumer + text}, true
	}
	because := func() string {
		if a.Reason == "" {
			return "."
		}
		return fmt.Sprintf(": %.120s.", a.Reason)
	}
	if st, ok := storms[s.what]; ok {
		var one string
		switch s.what {
		case "CONSUMER.MSG_NAKED":
			one = fmt.Sprintf("%s: message %d was refused by a client (NAK) at delivery %d.", consumer, a.StreamSeq, a.Deliveries)
		case "CONSUMER.MSG_TERMINATED":
			one = fmt.Sprintf("%s: message %d was given up by a client (TERM) at delivery %d", consumer, a.StreamSeq, a.Deliveries) + because()
		default:
			one = fmt.Sprintf("%s: message %d was delivered %d times, as often as allowed, and never acknowledged.", consumer, a.StreamSeq, a.Deliveries)
		}
		return happening{
			kind: st.kind, severity: st.severity, name: s.stream + "/" + s.consumer, asset: true, storm: true,
			one: one, many: percents(consumer) + ": %d " + st.many,
		}, true
	}
	switch s.what {
	case "STREAM.CREATED":
		return ofStream("created", fleet.Info, " was created.")
	case "STREAM.DELETED":
		return ofStream("removed", fleet.Warning, " was removed.")
	case "STREAM.UPDATED":
		return ofStream("updated", fleet.Info, "'s configuration was changed.")
	case "STREAM.LEADER_ELECTED":
		return ofStream("leader", fleet.Info, " is led by "+cmp.Or(a.Leader, "an unnamed server")+".")
	case "STREAM.QUORUM_LOST":
		return ofStream("quorum_lost", fleet.Critical, " lost its quorum: it takes no messages.")
	case "STREAM.BATCH_ABANDONED":
		return ofStream("batch_abandoned", fleet.Warning, ": a batch was given up before its commit"+because())
	case "STREAM.SNAPSHOT_CREATE":
		return ofStream("snapshot", fleet.Info, " is being backed up.")
	case "STREAM.RESTORE_CREATE":
		return ofStream("restore", fleet.Warning, " is being restored from a backup.")
	case "CONSUMER.CREATED", "CONSUMER.DELETED":
		kind, severity, done := "created", fleet.Info, "created"
		if s.what == "CONSUMER.DELETED" {
			kind, done = "removed", "removed"
		}
		if pattern := namePattern(s.consumer); pattern != s.consumer {
			// Ephemeral ones come and go with their clients.
			return happening{
				kind: "consumer." + kind, severity: severity, name: s.stream + "/" + pattern, asset: true, storm: true,
				one:  consumer + " was " + done + ".",
				many: "%d short-lived consumers of " + percents(s.stream) + " were " + done,
			}, true
		}
		return ofConsumer(kind, severity, " was "+done+".")
	case "CONSUMER.LEADER_ELECTED":
		return ofConsumer("leader", fleet.Info, " is led by "+cmp.Or(a.Leader, "an unnamed server")+".")
	case "CONSUMER.QUORUM_LOST":
		return ofConsumer("quorum_lost", fleet.Critical, " lost its quorum: it delivers nothing.")
	case "CONSUMER.PAUSE":
		if !a.Paused {
			return ofConsumer("resumed", fleet.Info, " delivers again after a pause.")
		}
		return ofConsumer("paused", fleet.Warning, " is paused until "+a.PauseUntil.UTC().Format(time.RFC3339)+".")
	case "CONSUMER.PINNED":
		return ofConsumer("pinned", fleet.Info, fmt.Sprintf(": group %.64s is pinned to one client.", a.Group))
	case "CONSUMER.UNPINNED":
		return ofConsumer("unpinned", fleet.Info, fmt.Sprintf(": group %.64s is no longer pinned to its client", a.Group)+because())
	case "API":
		return apiCall(a)
	case "API.LIMIT_REACHED":
		return happening{
			kind: "api.limit_reached", severity: fleet.Critical, name: cmp.Or(a.Server, "JetStream"), storm: true,
			one:  "Server " + cmp.Or(a.Server, "unnamed") + " dropped JetStream requests: too many were waiting.",
			many: "Server " + percents(cmp.Or(a.Server, "unnamed")) + " dropped JetStream requests %d times",
		}, true
	case "SERVER.OUT_OF_STORAGE":
		return happening{kind: "server.out_of_storage", severity: fleet.Critical, name: a.Server,
			one: "Server " + a.Server + " has no room left for JetStream and switched it off."}, true
	case "SERVER.REMOVED":
		return happening{kind: "server.removed", severity: fleet.Warning, name: a.Server,
			one: "Server " + a.Server + " was removed from the meta group."}, true
	}
	return happening{}, false
}

// configures reports whether a call of the API may have changed a consumer that
// is there to stay. Its update is told by nothing but the call.
func configures(subject string) bool {
	t := strings.Split(subject, ".")
	at := slices.Index(t, "CREATE")
	if at < 0 || !slices.Contains(t, "CONSUMER") || at+2 >= len(t) {
		return false
	}
	k := fleet.ConsumerKey{Stream: t[at+1], Consumer: t[at+2]}
	return patternOf(&fleet.Consumer{ConsumerKey: k}) == k.Consumer
}

// percents makes hostile text safe as part of a format.
func percents(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// writes are the calls of the JetStream API that change something, by the
// beginning of their subject after $JS.API. What follows names stream and
// consumer.
var writes = []struct{ prefix, verb string }{
	{"STREAM.CREATE.", "create the stream"},
	{"STREAM.UPDATE.", "update the stream"},
	{"STREAM.DELETE.", "delete the stream"},
	{"STREAM.PURGE.", "purge the stream"},
	{"STREAM.RESTORE.", "restore the stream"},
	{"STREAM.SNAPSHOT.", "back up the stream"},
	{"STREAM.MSG.DELETE.", "delete a message"},
	{"STREAM.PEER.REMOVE.", "remove a peer"},
	{"STREAM.LEADER.STEPDOWN.", "move the leader"},
	{"CONSUMER.CREATE.", "create or update a consumer"},
	{"CONSUMER.DURABLE.CREATE.", "create or update a consumer"},
	{"CONSUMER.DELETE.", "delete a consumer"},
	{"CONSUMER.PAUSE.", "pause or resume a consumer"},
	{"CONSUMER.RESET.", "reset a consumer"},
	{"CONSUMER.UNPIN.", "unpin a consumer"},
	{"CONSUMER.LEADER.STEPDOWN.", "move a consumer's leader"},
	{"META.LEADER.STEPDOWN", "move the meta leader"},
	{"META.RESCUE", "rescue the meta group"},
	{"SERVER.REMOVE", "remove a server from the meta group"},
	{"ACCOUNT.PURGE.", "purge an account"},
	{"ACCOUNT.STREAM.MOVE.", "move a stream"},
}

const apiPrefix = "$JS.API."

var auditedSubject = []byte(`"subject":"` + apiPrefix)

// isWrite looks for the subject of an audited call without reading the whole:
// reads are most of the calls, and their responses are large.
func isWrite(b []byte) bool {
	i := bytes.Index(b, auditedSubject)
	if i < 0 {
		return true // written in another way; the decoder decides
	}
	rest := b[i+len(auditedSubject):]
	for _, w := range writes {
		if bytes.HasPrefix(rest, []byte(w.prefix)) {
			return true
		}
	}
	return false
}

func apiCall(a *advisory) (happening, bool) {
	call, ok := strings.CutPrefix(a.Subject, apiPrefix)
	if !ok {
		return happening{}, false
	}
	for _, w := range writes {
		rest, ok := strings.CutPrefix(call, w.prefix)
		if !ok {
			continue
		}
		verb := strings.ToLower(strings.TrimSuffix(w.prefix, "."))
		h := happening{kind: "api." + verb, severity: fleet.Info, storm: true, name: "JetStream"}
		stream, _, _ := strings.Cut(rest, ".")
		on := ""
		if stream != "" && strings.HasSuffix(w.prefix, ".") && !strings.HasPrefix(w.prefix, "ACCOUNT.") {
			h.name, h.asset, on = stream, true, fmt.Sprintf(" (%.100s)", rest)
		}
		who := "Somebody"
		if a.Client.User != "" && len(a.Client.User) <= 64 {
			who = "User " + a.Client.User
		}
		if a.Client.Name != "" {
			who += fmt.Sprintf(" as %.60q", a.Client.Name)
		}
		if a.Client.Host != "" {
			who += fmt.Sprintf(" from %.60s", a.Client.Host)
		}
		var response struct {
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		refused := ""
		if json.Unmarshal([]byte(a.Response), &response) == nil && response.Error != nil {
			h.variant, h.severity = "refused", fleet.Warning
			refused = fmt.Sprintf(", but it was refused: %.120s", response.Error.Description)
		}
		h.one = who + " asked JetStream to " + w.verb + on + strings.TrimSuffix(refused, ".") + "."
		h.many = "JetStream was asked to " + w.verb + " %d times on " + percents(h.name)
		if refused != "" {
			h.many += " and refused"
		}
		return h, true
	}
	return happening{}, false
}
