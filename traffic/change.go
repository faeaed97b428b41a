package traffic

import (
	"encoding/json"
	"time"

	"ballast/internal/sketch"
)

// Observation is what was measured of one target over one window. Zero means
// "none", a nil Latency "not measured".
type Observation struct {
	Target   string
	From, To time.Time
	Interval time.Duration // of the collector: an older To than three of them is stale

	Arrived     uint64 // messages that came for the target
	Acked       uint64
	Redelivered uint64
	Backlog0    uint64 // waiting or unacknowledged when the window began
	Backlog     uint64 // … when it ended
	InFlight    uint64 // delivered and not acknowledged at the end

	Latency *sketch.Sketch // ACK latency as the servers sampled it
	Samples uint64         // count of Latency
	Share   float64        // of the acknowledgements that was sampled, 0..1
	Mean    time.Duration  // of Latency, or the estimate when there is none
	// Estimated says that Mean comes from Little's law, not from samples.
	Estimated bool

	AckWait       time.Duration // of the consumer
	MaxAckPending int

	// Of the workers' own reports; Workers is 0 when there were none.
	Workers    int
	Processed  uint64
	Failed     uint64
	Processing time.Duration // mean
	CPU        float64       // percent of one core, mean per process
	Cores      int           // cores a process may use; 0 is not known, and then CPU says nothing
	ReportedAt time.Time
}

// Quality of a capacity estimate, best first.
type Quality string

const (
	QualityReports Quality = "A" // workers and processing time, from worker reports
	QualityLatency Quality = "C" // ACK latency and backlog only
	QualityNone    Quality = ""
)

// Confidence the tuner has in a proposal.
type Confidence string

const (
	High   Confidence = "high"
	Medium Confidence = "medium"
	Low    Confidence = "low"
)

// Decision is what the tuner says of one split at one moment: a proposal, or
// why there is none.
type Decision struct {
	Split     string
	At        time.Time
	Estimates []Estimate
	Proposal  *Proposal // nil: hold
	Why       string    // one sentence, for a hold too
	Vetoes    []string  // guards that spoke against moving
}

// Estimate is what the tuner believes of one target.
type Estimate struct {
	Target      string        `json:"target"`
	Rate        float64       `json:"rate"`     // msg/s arriving
	Capacity    float64       `json:"capacity"` // msg/s it can do
	Quality     Quality       `json:"quality"`
	Utilization float64       `json:"utilization"` // Rate / Capacity
	Workers     int           `json:"workers"`
	Service     time.Duration `json:"service_ns"` // mean processing time
	Latency     time.Duration `json:"latency_ns"` // mean ACK latency
	P99         time.Duration `json:"p99_ns"`
	Samples     uint64        `json:"samples"`
	Acked       uint64        `json:"acked"`
	Backlog     uint64        `json:"backlog"`
	ErrorRate   float64       `json:"error_rate"`
	Age         time.Duration `json:"age_ns"`
	Estimated   bool          `json:"estimated"`      // latency by Little's law, not sampled
	Note        string        `json:"note,omitempty"` // e.g. "reported processing time is impossible"
}

// Proposal is the tuner's suggestion, bound to a base revision.
type Proposal struct {
	ID           string         `json:"id"`
	Split        string         `json:"split"`
	Base         uint64         `json:"base"`
	At           time.Time      `json:"at"`
	Expires      time.Time      `json:"expires"`
	Window       time.Duration  `json:"window_ns"`
	Law          Law            `json:"law"`
	Kind         string         `json:"kind"` // split, relief, drain
	Moves        []Move         `json:"moves"`
	Title        string         `json:"title"` // "Move 12 points of orders from a to b"
	Why          string         `json:"why"`   // the plain sentence
	Estimates    []Estimate     `json:"estimates"`
	Predicted    Prediction     `json:"predicted"`
	Alternatives []Alternative  `json:"alternatives"`
	Confidence   Confidence     `json:"confidence"`
	Guards       []string       `json:"guards,omitempty"` // what limited it
	Status       ProposalStatus `json:"status"`
	Change       string         `json:"change,omitempty"` // the change that applied it
	ClosedAt     time.Time      `json:"closed_at,omitzero"`
	ClosedBy     string         `json:"closed_by,omitempty"`
}

// ProposalStatus of a proposal.
type ProposalStatus string

const (
	Open       ProposalStatus = "open"
	Applied    ProposalStatus = "applied"
	Dismissed  ProposalStatus = "dismissed"
	Lapsed     ProposalStatus = "expired"    // its time ran out
	Superseded ProposalStatus = "superseded" // a newer proposal or another revision took its place
)

// Move is one target's weight from → to, in points.
type Move struct {
	Target    string `json:"target"`
	From      int    `json:"from"`
	To        int    `json:"to"`
	LimitedBy string `json:"limited_by,omitempty"` // step, floor, damping
}

// Prediction of the effect, by the queueing model, and the model's value for
// the present weights for comparison.
type Prediction struct {
	MeanBefore time.Duration `json:"mean_before_ns"` // measured
	P99Before  time.Duration `json:"p99_before_ns"`  // measured
	MeanAfter  time.Duration `json:"mean_after_ns"`
	P99After   time.Duration `json:"p99_after_ns"`
	RhoBefore  float64       `json:"max_utilization_before"`
	RhoAfter   float64       `json:"max_utilization_after"`
}

// Alternative is what another law would do.
type Alternative struct {
	Law     Law            `json:"law"`
	Weights map[string]int `json:"weights"`
	Rho     float64        `json:"max_utilization"`
}

// Phase of a change.
type Phase string

const (
	Proposed   Phase = "proposed"
	Applying   Phase = "applying" // intent recorded, write under way
	Baking     Phase = "baking"   // in force and read back; its effect is watched
	Verified   Phase = "verified"
	RolledBack Phase = "rolled back"
	Replaced   Phase = "replaced" // another change came before the bake time was over
	Rejected   Phase = "rejected" // refused before anything was written, or lost the race
	UnknownOut Phase = "unknown"  // the write may have happened; a leader read will tell
)

// Final reports whether nothing more will happen to the change.
func (p Phase) Final() bool {
	switch p {
	case Verified, RolledBack, Replaced, Rejected:
		return true
	}
	return false
}

// Edit is what an operator (or an approved proposal) asks for.
type Edit struct {
	Split    string
	Base     uint64 // revision the asker looked at
	Next     Split  // the whole split as it shall be
	Actor    string
	Reason   string
	Proposal string // id, when it applies one
	Undo     string // id of the change that this one rolls back
	// Bake is how long the effect is watched; 0 takes the default.
	Bake time.Duration
	// Guard rolls the change back by itself when its effect is bad.
	Guard bool
}

// Plan is the dry run of an Edit: exactly what would be written.
type Plan struct {
	Before  Revision
	After   Revision
	Diff    []TargetDiff
	Payload []byte // the document, byte for byte
	Key     string // bucket/key it goes to
	Command string // the equivalent nats command
	Warn    []string

	// Of a driver that writes to the servers themselves: what it would write, and
	// the commands that do the same by hand.
	Servers         string
	ServersCommands []string
}

// TargetDiff is one target's change; a nil side is "not there".
type TargetDiff struct {
	Name          string
	Before, After *Target
}

// Change is one attempt to go from revision n to n+1.
type Change struct {
	ID       string    `json:"id"`
	Split    string    `json:"split"`
	Phase    Phase     `json:"phase"`
	Base     uint64    `json:"base"`
	Revision uint64    `json:"revision"` // written, or to be written
	Actor    string    `json:"actor"`
	Reason   string    `json:"reason"`
	Proposal string    `json:"proposal,omitempty"`
	Undo     string    `json:"undo,omitempty"`
	Before   Split     `json:"before"`
	After    Split     `json:"after"`
	Created  time.Time `json:"created"`
	Written  time.Time `json:"written,omitzero"` // acknowledged by NATS
	BakeEnds time.Time `json:"bake_ends,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Guard    bool      `json:"guard"`
	Effect   *Effect   `json:"effect,omitempty"`
	Outcome  string    `json:"outcome"` // one sentence
}

// Effect compares the windows before and after a change.
type Effect struct {
	MeanBefore        time.Duration `json:"mean_before_ns"`
	MeanAfter         time.Duration `json:"mean_after_ns"`
	P99Before         time.Duration `json:"p99_before_ns"`
	P99After          time.Duration `json:"p99_after_ns"`
	SamplesBefore     uint64        `json:"samples_before"`
	SamplesAfter      uint64        `json:"samples_after"`
	RedeliveredBefore uint64        `json:"redelivered_before"`
	RedeliveredAfter  uint64        `json:"redelivered_after"`
	BacklogBefore     uint64        `json:"backlog_before"`
	BacklogAfter      uint64        `json:"backlog_after"`
}

// EntryKind is the kind of a journal entry. Kinds are stable and never reused.
type EntryKind string

const (
	EntryProposal  EntryKind = "proposal.made"
	EntryDismissed EntryKind = "proposal.dismissed"
	EntryExpired   EntryKind = "proposal.expired"
	EntryIntent    EntryKind = "change.intent"  // before the write: no entry, no change
	EntryWritten   EntryKind = "change.written" // acknowledged and read back
	EntryUnknown   EntryKind = "change.unknown"
	EntryRejected  EntryKind = "change.rejected"
	EntryVerified  EntryKind = "change.verified"
	EntryRollback  EntryKind = "change.rolledback"
	EntryReplaced  EntryKind = "change.replaced"
	EntryFreeze    EntryKind = "freeze.on"
	EntryThaw      EntryKind = "freeze.off"
	EntryDemo      EntryKind = "demo.fault" // a fault injected by the demo

	EntryDriven EntryKind = "servers.pushed" // the servers were made to follow a split's mapping

	EntryMeasureOn  EntryKind = "measure.on"  // before sample_freq is raised: no entry, no change
	EntryMeasureOff EntryKind = "measure.off" // it is put back, or was not raised

	EntryConsumerIntent     EntryKind = "consumer.intent" // before the request: no entry, no change
	EntryConsumerWritten    EntryKind = "consumer.written"
	EntryConsumerUnknown    EntryKind = "consumer.unknown"
	EntryConsumerRejected   EntryKind = "consumer.rejected"
	EntryConsumerVerified   EntryKind = "consumer.verified"
	EntryConsumerRolledBack EntryKind = "consumer.rolledback"
	EntryConsumerReplaced   EntryKind = "consumer.replaced" // somebody else changed the same settings, or the consumer is gone
	EntryConsumerUnpinned   EntryKind = "consumer.unpinned" // before the request, and what came of it
)

// Entry is one record of the journal: append-only, each carries the hash of the
// one before.
type Entry struct {
	Seq      uint64          `json:"seq"` // set by the store, no holes
	At       time.Time       `json:"at"`
	Kind     EntryKind       `json:"kind"`
	Split    string          `json:"split,omitempty"`
	Change   string          `json:"change,omitempty"`
	Proposal string          `json:"proposal,omitempty"`
	Actor    string          `json:"actor"`
	Text     string          `json:"text"`           // one sentence
	Data     json.RawMessage `json:"data,omitempty"` // the Change, Proposal or Measurement as it then stood
	Prev     string          `json:"prev"`           // hex SHA-256 of the entry before; set by the store
	Hash     string          `json:"hash"`
}

// EntryFilter selects journal entries, newest first.
type EntryFilter struct {
	Split    string
	Kind     EntryKind
	Change   string
	From, To time.Time // of At; zero is no limit
	Before   uint64    // Seq below this one, for paging; 0 is no limit
	Limit    int       // 0 is 100
}
