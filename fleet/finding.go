package fleet

import (
	"cmp"
	"slices"
	"time"
)

// Kinds of things that have findings but no series of their own.
const (
	KindSystem  Kind = "system"      // all of it; its key is ""
	KindCluster Kind = "cluster"     // by name
	KindMeta    Kind = "meta group"  // JetStream's meta group, by JetStream domain
	KindQueue   Kind = "queue group" // by "account/subject queue"
	KindSplit   Kind = "split"       // by name
	KindTarget  Kind = "target"      // by "split/target"
)

// FindingKey names a finding: what is wrong, with what. It is comparable.
type FindingKey struct {
	Code string // stable, never reused, e.g. "JS003"
	Entity
}

// Finding is something an operator should know about, with the figures that
// show it and what to do about it. One episode of it, from opening to closing,
// is named by its key and Since.
type Finding struct {
	FindingKey
	Severity Severity
	Title    string     // of the check, the same for every entity
	Text     string     // what was seen, in figures with their age
	Remedy   string     // what to do, one or two sentences
	Command  string     // the equivalent command, quoted for a POSIX shell; "" if there is none
	Evidence []Evidence // the figures that the text is made of
	Since    time.Time  // first of the bad intervals that opened it
	LastSeen time.Time  // newest interval in which it was bad
	Closed   time.Time  // zero while it is open
	// Reopened counts how often it came back within the time in which that
	// makes no new episode.
	Reopened   int
	Suppressed Suppression // zero if nobody suppressed it
}

// Open reports whether it has not been closed.
func (f Finding) Open() bool { return f.Closed.IsZero() }

// Check is what is known of a kind of finding before anything is found.
type Check struct {
	Code     string
	Title    string
	Severity Severity // the usual one; the figures may make it worse
	What     string   // when it fires, with its limit and why it is there
	Why      string   // why it matters
	Remedy   string
}

// Evidence is one figure of a finding.
type Evidence struct {
	Name   string // "p99 ACK latency"
	Value  string // with its unit, as shown: "21.3 s"
	Limit  string // what it was compared with; "" if there is none
	Column string // series that shows its course; "" if there is none
	Source Source
	At     time.Time // when it was measured
}

// Suppression keeps a finding quiet: it stays in the list, but raises no events
// and is counted apart.
type Suppression struct {
	By     string
	Reason string
	At     time.Time
	Until  time.Time // it ends by itself
}

// Active reports whether the suppression holds at that moment.
func (s Suppression) Active(at time.Time) bool { return s.By != "" && at.Before(s.Until) }

// FindingFilter asks for findings; its zero value asks for all that are open.
type FindingFilter struct {
	Key    FindingKey // only this one, unless Code is ""
	Entity Entity     // only of this entity, unless Kind is ""
	// Closed also asks for those that were closed within the range; a zero range is all.
	Closed bool
	Range
	Limit int // newest first; 0 is 1000
}

// FindingState is what the findings engine keeps over a restart.
type FindingState struct {
	Open         []Finding
	Suppressions map[FindingKey]Suppression // those that had not ended
}

// SortFindings orders findings as an operator reads them: the worst first, then
// the newest, then by name so that equal ones keep their place.
func SortFindings(fs []Finding) {
	rank := map[Severity]int{Critical: 0, Warning: 1, Info: 2}
	slices.SortFunc(fs, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(rank[a.Severity], rank[b.Severity]),
			b.Since.Compare(a.Since),
			cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Key, b.Key))
	})
}

// Look is what the findings engine judges by: the system at one moment and the
// little history that its checks need. What is missing is not judged.
type Look struct {
	At       time.Time     // when it is judged, our clock
	Interval time.Duration // of the collector
	Snapshot *Snapshot
	Rates    *Rates
	// Latency of the last minutes, of consumers that are sampled. It need not be
	// all of them in every look: a consumer that is absent is judged another time.
	Latency map[ConsumerKey]Latency
	// Events of the stretch that the checks look back over, newest first.
	Events []Event
}

// EventAuthError is the kind of the event for clients that a server refused,
// folded per server and interval; the findings engine looks for it.
const EventAuthError = "server.auth_error"
