package handlers

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

// none stands where nothing was measured.
const none = "–"

// latencyWords is a latency in milliseconds, with the digits that mean something.
func latencyWords(d time.Duration) string {
	if d <= 0 {
		return none
	}
	return figure(float64(d)/float64(time.Millisecond), "ms")
}

func countWords(n uint64) string { return humanize.Comma(int64(min(n, math.MaxInt64))) }

func percent(share float64) string {
	if math.IsNaN(share) {
		return none
	}
	if share > 0 && share < 0.0995 {
		return strconv.FormatFloat(share*100, 'f', 1, 64)
	}
	return strconv.FormatFloat(share*100, 'f', 0, 64)
}

// when is a moment for a template: exact for the machine, relative for people.
func (s *Server) when(t time.Time) templates.When {
	if t.IsZero() {
		return templates.When{}
	}
	return templates.When{
		ISO:   t.UTC().Format(time.RFC3339Nano),
		Exact: t.UTC().Format("2006-01-02 15:04:05 UTC"),
		Clock: t.UTC().Format("15:04:05"),
		Ago:   ago(max(s.Now().Sub(t), 0)) + " ago",
	}
}

// phaseTone and proposalTone give a status its shape and colour.
func phaseTone(p traffic.Phase) string {
	switch p {
	case traffic.Verified:
		return "ok"
	case traffic.RolledBack, traffic.UnknownOut:
		return "crit"
	case traffic.Rejected:
		return "warn"
	case traffic.Baking, traffic.Applying:
		return "info"
	}
	return "idle"
}

func proposalTone(st traffic.ProposalStatus) string {
	switch st {
	case traffic.Open:
		return "warn"
	case traffic.Applied:
		return "ok"
	}
	return "idle"
}

func severityTone(s fleet.Severity) string {
	switch s {
	case fleet.Critical:
		return "crit"
	case fleet.Warning:
		return "warn"
	}
	return "info"
}

func entryTone(k traffic.EntryKind) string {
	switch k {
	case traffic.EntryVerified, traffic.EntryWritten, traffic.EntryThaw, traffic.EntryConsumerVerified, traffic.EntryConsumerWritten:
		return "ok"
	case traffic.EntryRollback, traffic.EntryUnknown, traffic.EntryConsumerRolledBack, traffic.EntryConsumerUnknown:
		return "crit"
	case traffic.EntryRejected, traffic.EntryFreeze, traffic.EntryDemo, traffic.EntryConsumerRejected, traffic.EntryConsumerReplaced:
		return "warn"
	case traffic.EntryIntent, traffic.EntryProposal, traffic.EntryMeasureOn, traffic.EntryConsumerIntent, traffic.EntryConsumerUnpinned:
		return "info"
	}
	return "idle"
}

// entryWords names a kind of journal entry for people.
func entryWords(k traffic.EntryKind) string {
	switch k {
	case traffic.EntryProposal:
		return "suggested"
	case traffic.EntryDismissed:
		return "dismissed"
	case traffic.EntryExpired:
		return "suggestion expired"
	case traffic.EntryIntent:
		return "change begun"
	case traffic.EntryWritten:
		return "in force"
	case traffic.EntryUnknown:
		return "outcome unknown"
	case traffic.EntryRejected:
		return "refused"
	case traffic.EntryVerified:
		return "verified"
	case traffic.EntryRollback:
		return "rolled back"
	case traffic.EntryReplaced:
		return "replaced"
	case traffic.EntryFreeze:
		return "frozen"
	case traffic.EntryThaw:
		return "thawed"
	case traffic.EntryDemo:
		return "demo fault"
	case traffic.EntryMeasureOn:
		return "measuring begun"
	case traffic.EntryMeasureOff:
		return "measuring ended"
	case traffic.EntryDriven:
		return "servers made to follow"
	case traffic.EntryConsumerIntent:
		return "settings: change begun"
	case traffic.EntryConsumerWritten:
		return "settings in force"
	case traffic.EntryConsumerUnknown:
		return "settings: outcome unknown"
	case traffic.EntryConsumerRejected:
		return "settings refused"
	case traffic.EntryConsumerVerified:
		return "settings verified"
	case traffic.EntryConsumerRolledBack:
		return "settings rolled back"
	case traffic.EntryConsumerReplaced:
		return "settings changed by others"
	case traffic.EntryConsumerUnpinned:
		return "client unpinned"
	}
	return string(k)
}

// bot reports whether an actor is part of Ballast and not a person.
func bot(actor string) bool {
	return actor == "tuner" || actor == "ballast" || strings.HasPrefix(actor, "ballast ")
}

func consumerWords(o *traffic.Observed) string {
	if o == nil {
		return ""
	}
	return strings.TrimPrefix(o.Account+" / "+o.Stream+" / "+o.Consumer, " / ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
