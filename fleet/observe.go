package fleet

import (
	"time"

	"ballast/internal/sketch"
)

// AckWindow is what the servers' own samples said of one consumer's
// acknowledgements between two moments. ack_time runs from the last delivery of
// the message to the arrival of its acknowledgement at the server, so it
// contains the wait in the client's prefetch buffer (nats-server 2.15.2,
// consumer.go sampleAck).
type AckWindow struct {
	ConsumerKey
	From, To    time.Time
	Latency     *sketch.Sketch
	Redelivered uint64 // samples of a message delivered more than once
	// Passed counts samples that came and are not in Latency, because there were
	// too many at once; they were left out evenly.
	Passed uint64
}

// WorkerReport is what one worker process of the client library says of itself
// over its last interval (subject ballast.report.<split>.<target>).
type WorkerReport struct {
	Split, Target string
	Worker        string // instance, unique per process start
	At            time.Time
	Interval      time.Duration
	Workers       int // handlers that run at the same time
	InFlight      int
	Processed     uint64 // in the interval
	Failed        uint64
	Processing    *sketch.Sketch // from receipt by the handler to its return
	ReceiptToAck  *sketch.Sketch // from receipt by the client to the acknowledgement sent
	CPU           float64        // percent of one core, of the process
	Cores         int            // that the process may use; 0 is not known
	Memory        int64          // bytes, resident
}

// Severity of an event or finding.
type Severity string

const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Event is something that happened on the common time axis.
type Event struct {
	ID       int64 // set by the store
	At       time.Time
	Kind     string // dotted, e.g. "server.restarted", "counter.reset", "consumer.created"
	Severity Severity
	Entity   string // what it happened to, for display
	Text     string // one sentence
}

// Range is a half-open span of time.
type Range struct{ From, To time.Time }

// Span is the length of the range.
func (r Range) Span() time.Duration { return r.To.Sub(r.From) }

// Kind of thing that has series.
type Kind string

const (
	KindServer   Kind = "server"
	KindRoute    Kind = "route"
	KindGateway  Kind = "gateway"
	KindLeaf     Kind = "leaf"
	KindAccount  Kind = "account"
	KindConn     Kind = "connection"
	KindStream   Kind = "stream"
	KindConsumer Kind = "consumer"
	KindWorker   Kind = "worker" // a target's workers, by report
	KindWatch    Kind = "watch"  // the cost of watching
)

// Entity names one thing that has series: server by name, stream by
// "account/stream", consumer by "account/stream/consumer".
type Entity struct {
	Kind Kind
	Key  string
}

// Entity returns the name of the consumer's series.
func (k ConsumerKey) Entity() Entity {
	return Entity{KindConsumer, k.Account + "/" + k.Stream + "/" + k.Consumer}
}

// Entity returns the name of the stream's series.
func (k StreamKey) Entity() Entity { return Entity{KindStream, k.Account + "/" + k.Stream} }

// SeriesQuery asks for one column of one entity.
type SeriesQuery struct {
	Entity
	Column string // one of the Col constants; counters are answered as rates per second
	Range
	Points int // at most; the store picks the coarsest level that serves it
}

// Point of a series. N is 0 in a gap: nothing was measured then, and nothing
// is interpolated.
type Point struct {
	At            time.Time
	Min, Max, Avg float64
	N             int
}

// Series answers a SeriesQuery.
type Series struct {
	SeriesQuery
	Unit   string // "msg/s", "B/s", "B", "%", "ms", ""
	Source Source
	Step   time.Duration // distance of the points; a larger one is a gap
	Data   []Point
}

// LatencyPoint is the ACK latency of one interval; N is 0 in a gap.
type LatencyPoint struct {
	At                       time.Time
	N                        uint64
	Mean, P50, P95, P99, Max time.Duration
}

// Latency is the ACK latency of one consumer over a range.
type Latency struct {
	ConsumerKey
	Range
	Source Source         // AckSample, or Estimate: then only Mean is meaningful and Total is nil
	Share  float64        // share of the acknowledgements that was sampled, 0..1
	Last   time.Time      // newest sample
	Total  *sketch.Sketch // all of the range, merged
	Mean   time.Duration  // of Total, or the estimate
	Step   time.Duration
	Data   []LatencyPoint
}

// LatencyPart is the distribution of the ACK latencies of one step.
type LatencyPart struct {
	At     time.Time
	Sketch *sketch.Sketch
}

// Rates are the present rates per second, derived by the store from the last
// two looks; a counter that fell back is a restart, not a negative rate.
type Rates struct {
	At        time.Time
	Servers   map[string]LinkRate // by server name
	Routes    map[[2]string]LinkRate
	Gateways  map[[2]string]LinkRate // server ID, remote cluster
	Leafs     map[[2]string]LinkRate // server ID, leaf name
	Streams   map[StreamKey]LinkRate // In only
	Consumers map[ConsumerKey]ConsumerRate
}

// LinkRate is traffic per second.
type LinkRate struct{ InMsgs, OutMsgs, InBytes, OutBytes float64 }

// ConsumerRate is a consumer's traffic per second.
type ConsumerRate struct {
	Arrived   float64 // messages that came for it
	Delivered float64 // deliveries, redeliveries included
	Acked     float64
}

// StoreUsage is what the store holds and what it takes.
type StoreUsage struct {
	Entities int   // in memory: those seen within the last hour or so
	Series   int   // columns of these
	Unsealed int   // slots that are full and not yet on disk as such
	File     int64 // B of metrics.db, free pages included
	Free     int64 // B in it that are used again
	Log      int64 // B of its write-ahead log
	Limit    int64 // B that the file may have: beyond it the finest and oldest goes first
}

// TopBy says what entities are ranked by.
type TopBy string

const (
	ByMean TopBy = "mean" // of a gauge over the looks, of a counter over the time
	ByMax  TopBy = "max"  // the highest look, the highest rate between two looks
	BySum  TopBy = "sum"  // what a counter counted; of a gauge the sum over the looks
)

// TopQuery asks which entities stand highest over a range: in a column of their
// kind, or consumers in a quantile of their ACK latency.
type TopQuery struct {
	Kind     Kind
	Column   string  // one of the Col constants; "" asks for latency
	By       TopBy   // of a column; "" is ByMean
	Quantile float64 // of latency, 0 to 1
	Range
	N int // how many; 0 is 10
}

// Ranked is one entity of an answer.
type Ranked struct {
	Entity
	Value float64 // in the unit of the answer
	Count uint64  // looks or samples behind it
}

// Top answers a TopQuery, exactly.
type Top struct {
	TopQuery        // its range is what was ranked: the one asked for, widened to whole slots
	Unit     string // "ms" for latency; of a counter's sum that of the count
	Of       int    // how many entities were compared
	Rows     []Ranked
}
