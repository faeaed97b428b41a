// Package fleet holds the words for what a NATS system is: servers, links,
// streams, consumers, what was measured of them and when. It is pure: no I/O,
// no clock, no logging, and it imports nothing of Ballast but the sketch.
//
// Counters are kept as the servers count them, from the server's (or the
// asset's) start; rates are computed in one place, the store. Names come from
// NATS clients and are hostile: whoever shows one must escape it.
package fleet

import (
	"time"
)

// Source says where a figure comes from, for the operator to judge it by.
type Source string

const (
	Monitoring Source = "monitoring"    // HTTP monitoring port of a server
	System     Source = "system"        // system account request
	API        Source = "JetStream API" // asked of the leaders, in the account's own name
	AckSample  Source = "ack sample"    // a server's own measurement, consumer sample_freq
	Estimate   Source = "estimate"      // derived, e.g. by Little's law; always labelled as such
	Report     Source = "worker report" // what a worker says of itself
)

// Snapshot is one look at the whole system. It is never changed after it was
// handed over, so that any number of readers may share it.
type Snapshot struct {
	TakenAt   time.Time // when the round ended, our clock; zero: nothing was seen yet
	Servers   []Server  // sorted by cluster, then name; includes servers that stopped answering
	Routes    []Route
	Gateways  []Gateway
	Leafs     []Leaf
	Accounts  []Account
	Streams   []Stream     // one row per stream, as its leader reports it
	Consumers []Consumer   // one row per consumer, as its leader reports it
	Conns     []Conn       // the busiest connections, at most a few hundred
	ConnSums  []ConnSum    // all connections, by server and account; refreshed about once a minute
	Services  []Service    // instances of micro services, by name and id
	Expected  int          // servers that ever announced themselves; more than answered means some are missing
	Problems  []Problem    // what could not be read in this round
	Cost      Cost         // what this round took
	Queues    []QueueGroup // by account, subject and queue; refreshed about once a minute
	QueuesCut QueuesCut
	Intake    Intake // of the servers' samples of acknowledgements
}

// Problem is a source that did not answer; the figures it would have brought
// are absent or old, and dated accordingly.
type Problem struct {
	Where string // monitoring URL, server name or account
	What  string // one sentence for the operator
	Hint  string // what to do about it
	Since time.Time
}

// Cost is what watching took in one round.
type Cost struct {
	Requests int // of all tiers together
	Bytes    int64
	Took     time.Duration
	By       [Tiers]TierCost
}

// ServerCPU estimates what the round cost all servers together.
func (c Cost) ServerCPU() time.Duration {
	var sum time.Duration
	for _, t := range c.By {
		sum += t.ServerCPU
	}
	return sum
}

// State of a server as seen from here.
type State string

const (
	Healthy     State = "healthy"
	LameDuck    State = "lame duck"
	Unreachable State = "unreachable" // answered before, does not now
	Unread      State = "not read"    // known from its neighbours only; it has no figures
)

// Server is one nats-server.
type Server struct {
	ID       string // changes at every start
	Name     string
	Cluster  string // "" for a single server
	Version  string
	Host     string
	Port     int
	URL      string // monitoring URL it was read from; "" over the system account
	State    State
	Error    string        // why it is unreachable, for the operator
	Health   string        // what it says is wrong with it (healthz); "" if nothing
	Address  string        // host and port for clients, as neighbours reach it; "" is not known
	At       time.Time     // when these figures were measured, our clock
	Start    time.Time     // by the server's clock
	Now      time.Time     // the server's clock at At: the difference is the skew
	RTT      time.Duration // of the monitoring request
	Source   Source
	Cores    int
	CPU      float64 // percent of one core, as the server reports it
	Mem      int64   // bytes, resident
	Conns    int
	Subs     int
	Routes   int
	InMsgs   uint64 // counters since Start
	OutMsgs  uint64
	InBytes  uint64
	OutBytes uint64
	// SlowConsumers counts connections closed for reading too slowly since Start.
	SlowConsumers uint64
	JetStream     *JetStream // nil when it is off
	Tags          []string
	Internals     *Internals // nil: not asked for yet, or not answered
}

// JetStream is a server's share of it.
type JetStream struct {
	Domain       string
	Memory       uint64 // bytes used
	Store        uint64
	MaxMemory    int64 // bytes allowed; -1 unlimited
	MaxStore     int64
	Streams      int // hosted here, replicas included
	Consumers    int
	Messages     uint64
	APITotal     uint64
	APIErrors    uint64
	MetaLeader   string // server name; "" while an election runs
	MetaSize     int    // servers in the meta group
	MetaReplicas []Replica
}

// Route is one direction of a connection between two servers of a cluster.
// Since 2.10 a pair of servers has several; they are summed here.
type Route struct {
	From, To     string // server IDs
	ToName       string
	Account      string // set on a route pinned to an account
	RTT          time.Duration
	Pending      int64 // bytes
	Conns        int
	InMsgs       uint64
	OutMsgs      uint64
	InBytes      uint64
	OutBytes     uint64
	Subs         int
	At           time.Time
	Uptime       time.Duration
	Compression  string
	DidSolicit   bool
	IsConfigured bool
}

// Gateway is an outbound connection from a server to another cluster.
type Gateway struct {
	From        string // server ID
	FromCluster string
	ToCluster   string
	RTT         time.Duration
	InMsgs      uint64 // summed over the inbound connections from ToCluster
	OutMsgs     uint64
	InBytes     uint64
	OutBytes    uint64
	At          time.Time
}

// Leaf is a leaf node connected to a server.
type Leaf struct {
	Server   string // server ID it is connected to
	Name     string
	Account  string
	IP       string
	RTT      time.Duration
	InMsgs   uint64
	OutMsgs  uint64
	InBytes  uint64
	OutBytes uint64
	Subs     int
	At       time.Time
}

// Account sums what the servers report of one account.
type Account struct {
	Name     string
	Conns    int
	Subs     int
	InMsgs   uint64
	OutMsgs  uint64
	InBytes  uint64
	OutBytes uint64
	Slow     uint64
	At       time.Time
	Leafs    int // leaf node connections
	// Settings is what the servers know of the account beyond its traffic; nil
	// until it was read, for it is read rarely.
	Settings *AccountSettings
}

// AccountSettings is how an account is set up, as the servers have it.
type AccountSettings struct {
	System     bool // it is the system account
	JetStream  bool
	Expired    bool // by its claims, on any server
	Incomplete bool // a server could not resolve all that it imports
	Imports    int  // from other accounts; those that a server adds itself are not counted
	Exports    int
	Mappings   int
	Updated    time.Time // when a server took its newest settings, by that server's clock
	Limits     AccountLimits
	At         time.Time
}

// AccountLimits are what an account may use. A server tells of all of them when
// they stand in the account's token; of those in its configuration file it tells
// only JetStream's memory and store.
type AccountLimits struct {
	Conns     Limit
	Leafs     Limit
	Subs      Limit // of one connection
	Payload   Limit // bytes of one message
	Memory    Limit // bytes that JetStream keeps, every replica counted
	Store     Limit
	Streams   Limit
	Consumers Limit
	// Tiered: JetStream's are set by the number of replicas; they are not told here.
	Tiered bool
}

// Limit is how much there may be of something. The zero value is one that no
// server tells of.
type Limit struct {
	Told bool
	Max  int64 // negative: no limit
}

// Conn is one client connection.
type Conn struct {
	Server   string // server ID
	CID      uint64
	Name     string
	Account  string
	User     string
	Lang     string
	Version  string
	IP       string
	RTT      time.Duration
	Pending  int64 // bytes
	Subs     int
	InMsgs   uint64
	OutMsgs  uint64
	InBytes  uint64
	OutBytes uint64
	Start    time.Time
	Idle     string
	At       time.Time
}

// Replica is a peer of a Raft group as its leader sees it.
type Replica struct {
	Name    string
	Current bool
	Offline bool
	Active  time.Duration // since it was last heard
	Lag     uint64        // operations behind
}

// StreamKey names a stream; it is comparable.
type StreamKey struct{ Account, Stream string }

// Stream as its leader reports it.
type Stream struct {
	StreamKey
	Created    time.Time // together with the key it tells a re-created stream apart
	Subjects   []string
	Storage    string
	Retention  string
	Discard    string // what happens at the limits: "old" makes room, "new" refuses; "" is not known
	Replicas   int
	Leader     string // server name; "" when there is none
	Peers      []Replica
	Messages   uint64
	Bytes      uint64
	FirstSeq   uint64
	LastSeq    uint64
	LastTime   time.Time
	Consumers  int
	MaxBytes   int64
	MaxMsgs    int64
	PerSubject int64 // max_msgs_per_subject; -1 or 0 unlimited
	MaxAge     time.Duration
	Metadata   map[string]string
	Limits     *Thresholds // its owner's, from Metadata; nil: none
	Distinct   int         // subjects that messages are held of
	Mirror     *Origin     // of what it is a copy; nil: of nothing
	Origins    []Origin    // streams that it takes messages from besides its subjects
	At         time.Time
	Source     Source
}

// Origin is a stream that another one copies, as the leader of the copy sees it.
type Origin struct {
	Name   string
	Lag    uint64        // messages that are not copied yet
	Active time.Duration // since it was last heard; negative: never
	Error  string        // why it cannot be read; "" if it can
}

// ConsumerKey names a consumer; it is comparable.
type ConsumerKey struct{ Account, Stream, Consumer string }

// Consumer as its leader reports it: num_pending and num_waiting are zero on
// every other server (nats-server 2.15.2, monitored).
type Consumer struct {
	ConsumerKey
	Created        time.Time
	Leader         string
	Peers          []Replica
	FilterSubjects []string
	AckPolicy      string
	AckWait        time.Duration
	MaxDeliver     int
	MaxAckPending  int
	SampleFreq     string // as configured; "" or "0" is off
	Delivered      uint64 // consumer sequence: counts every delivery, redeliveries too
	DeliveredSeq   uint64 // stream sequence
	AckFloor       uint64 // consumer sequence
	AckFloorSeq    uint64
	LastDelivery   time.Time
	LastAck        time.Time
	AckPending     int
	Redelivered    int // messages now outstanding that were delivered more than once
	Pending        uint64
	Waiting        int
	Paused         bool
	Push           bool
	Metadata       map[string]string
	Limits         *Thresholds // its owner's, from Metadata; nil: none
	Durable        bool
	Inactive       time.Duration   // it is removed after so long without interest; 0: never
	Backoff        []time.Duration // waits between deliveries, instead of AckWait; nil: none
	Priority       string          // policy of its priority groups, e.g. "pinned_client"; "" is none
	Groups         []PriorityGroup // as its leader tells of them
	// Misfit says why the samples of its acknowledgements cannot all be the
	// servers' own: any client of the account can send such. "" if they fit.
	Misfit string
	// Fold is set on a row that sums up many consumers with generated names. Its
	// name is no consumer's: nothing can be asked of it or set on it.
	Fold   *Fold
	At     time.Time
	Source Source
}

// PriorityGroup is one of a consumer's priority groups.
type PriorityGroup struct {
	Name   string
	Pinned string // ID of the client that gets all messages; "" while there is none
}

// Sampled reports whether the servers measure this consumer's acknowledgements.
func (c Consumer) Sampled() bool {
	return c.SampleFreq != "" && c.SampleFreq != "0" && c.SampleFreq != "0%"
}
