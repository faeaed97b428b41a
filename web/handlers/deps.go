package handlers

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// Metrics is what the pages read of the measurements.
type Metrics interface {
	// Latest is the newest snapshot, shared and never changed; its TakenAt is
	// zero before the first.
	Latest() *fleet.Snapshot
	// Rates are the present rates, shared and never changed; never nil.
	Rates() *fleet.Rates
	Series(ctx context.Context, q fleet.SeriesQuery) (fleet.Series, error)
	Latency(ctx context.Context, k fleet.ConsumerKey, r fleet.Range, points int) (fleet.Latency, error)
	// LatencyParts is Latency with the whole distribution of each of its steps.
	LatencyParts(ctx context.Context, k fleet.ConsumerKey, r fleet.Range, points int) (fleet.Latency, []fleet.LatencyPart, error)
	// Observe measures the targets of a split over a range, in the split's order.
	Observe(ctx context.Context, s traffic.Split, r fleet.Range) ([]traffic.Observation, error)
	// Events are newest first.
	Events(ctx context.Context, r fleet.Range, limit int) ([]fleet.Event, error)
	// Slots gives each key a number that it keeps for ever, so that nothing on
	// the topology jumps when something else comes or goes.
	Slots(ctx context.Context, keys []string) (map[string]int, error)
	// SnapshotAt is the system as it was recorded at a past moment, and its rates
	// then, both shared and never changed; NotFound when nothing is.
	SnapshotAt(ctx context.Context, at time.Time) (*fleet.Snapshot, *fleet.Rates, error)
	// Usage is what the store holds and what it takes.
	Usage(ctx context.Context) (fleet.StoreUsage, error)
	// Export yields the course of one thing, oldest first and in constant memory;
	// an error is the last that it yields.
	Export(ctx context.Context, q fleet.ExportQuery) iter.Seq2[fleet.ExportRow, error]
}

// Journal is the record of what was decided.
type Journal interface {
	// Entries are newest first.
	Entries(ctx context.Context, f traffic.EntryFilter) ([]traffic.Entry, error)
}

// Control is what the pages ask for; it decides, the pages show.
type Control interface {
	// Ready says in words for the operator why nothing can be applied now, or
	// nil.
	Ready() error
	Splits() []traffic.Revision // by name
	Split(name string) (traffic.Revision, error)
	History(ctx context.Context, name string) ([]traffic.Revision, error) // newest first
	Plan(ctx context.Context, e traffic.Edit) (traffic.Plan, error)       // the dry run
	// Apply returns once the change is in force and read back (phase baking), or
	// with the reason why it is not.
	Apply(ctx context.Context, e traffic.Edit) (traffic.Change, error)
	// Rollback restores what was in force before the change.
	Rollback(ctx context.Context, change, actor, reason string) (traffic.Change, error)
	Delete(ctx context.Context, split string, base uint64, actor, reason string) error
	// Keep ends a change's bake time early, as verified.
	Keep(ctx context.Context, change, actor string) (traffic.Change, error)
	Changes(split string, limit int) []traffic.Change // newest first; "" is all splits
	Change(id string) (traffic.Change, error)
	Proposals(split string, limit int) []traffic.Proposal // newest first; "" is all splits
	Proposal(id string) (traffic.Proposal, error)
	Approve(ctx context.Context, proposal, actor, reason string) (traffic.Change, error)
	Dismiss(ctx context.Context, proposal, actor, reason string) error
	// Decision is the tuner's last word on a split: also why it holds.
	Decision(split string) (traffic.Decision, bool)
	// InForce is what each server does with a split that the servers carry out, as
	// read back last, and when.
	InForce(split string) ([]traffic.InForce, time.Time, error)
	// Mapping is the text by which servers carry out a split that is in force.
	Mapping(ctx context.Context, split string) (string, error)
	// Measure has the servers sample a consumer's ACK latency for d; with percent
	// 0 the percentage is chosen by its rate. It returns once the consumer is
	// sampled, or with the reason why it is not.
	Measure(ctx context.Context, k fleet.ConsumerKey, percent int, d time.Duration, actor, reason string) (traffic.Measurement, error)
	// StopMeasuring ends a measurement before its time.
	StopMeasuring(ctx context.Context, id, actor string) (traffic.Measurement, error)
	Measurements() []traffic.Measurement // newest first: those that run and the last that ended
	// ConsumerSettings are in force at the consumer's leader, asked of it now.
	ConsumerSettings(ctx context.Context, k fleet.ConsumerKey) (traffic.ConsumerSettings, error)
	PlanConsumer(ctx context.Context, e traffic.ConsumerEdit) (traffic.ConsumerPlan, error) // the dry run
	// ApplyConsumer returns once the settings are in force and read back from the
	// leader, or with the reason why they are not.
	ApplyConsumer(ctx context.Context, e traffic.ConsumerEdit) (traffic.ConsumerChange, error)
	// RollBackConsumer puts back what a change of settings changed.
	RollBackConsumer(ctx context.Context, change, actor, reason string) (traffic.ConsumerChange, error)
	ConsumerChanges() []traffic.ConsumerChange // newest first
	// Unpin lets another client of the group be pinned.
	Unpin(ctx context.Context, k fleet.ConsumerKey, group, actor, reason string) error
}

// Findings is what is wrong with the system, as far as the checks know.
type Findings interface {
	// Open are the findings that are open now, suppressed ones too; the worst first.
	Open() []fleet.Finding
	// Findings answers from the record, newest first.
	Findings(ctx context.Context, f fleet.FindingFilter) ([]fleet.Finding, error)
	// Suppress keeps a finding quiet until the suppression ends.
	Suppress(ctx context.Context, k fleet.FindingKey, s fleet.Suppression) error
	// Lift ends a suppression.
	Lift(ctx context.Context, k fleet.FindingKey, by string) error
}

// Demo drives the demo's faults; the drawer is shown when it is there.
type Demo interface {
	State() DemoState
	Slow(target string, factor float64) error // 1 is normal
	StopTarget(target string) error
	StartTarget(target string) error
	KillServer(name string) error
	RestartServer(name string) error
	SetRate(perSecond float64) error
}

// DemoState is what the drawer shows.
type DemoState struct {
	Targets           []DemoTarget
	Servers           []DemoServer
	Rate, NormalRate  float64 // msg/s
	Published, Failed uint64
}

// DemoTarget is one pool of workers.
type DemoTarget struct {
	Name    string
	Running bool
	Factor  float64 // service time, as a multiple of normal
	Workers int
}

// DemoServer is one server of the demo cluster.
type DemoServer struct {
	Name    string
	Running bool
}

// Deps is everything the pages need, plugged together in app.go.
type Deps struct {
	Metrics  Metrics
	Columns  func(fleet.Kind) (names, units []string) // that are recorded of a kind; none of an unknown one
	Journal  Journal
	Control  Control
	Findings Findings      // nil: nothing judges what was measured
	Checks   []fleet.Check // what Findings can find
	Demo     Demo          // nil outside the demo
	Log      *slog.Logger
	Now      func() time.Time
	System   string // name shown in the corner, e.g. "demo" or the context's name
	Version  string
	Operator string        // who acts, for the journal, as long as there is no login
	Interval time.Duration // of the collector: figures older than three are stale
	Hosts    []string      // Host headers that are answered; empty: any loopback name
}
