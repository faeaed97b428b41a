package fleet

import "time"

// Processing is the mean time of a request since the instance's start.
func (e Endpoint) Processing() time.Duration {
	if e.Requests == 0 {
		return 0
	}
	return time.Duration(uint64(e.ProcessingTime) / e.Requests)
}

// ConnSum sums the client connections of one account on one server.
type ConnSum struct {
	Server   string // server ID
	Account  string
	Conns    int
	Subs     int
	Pending  int64 // bytes
	InMsgs   uint64
	OutMsgs  uint64
	InBytes  uint64
	OutBytes uint64
	Clients  map[string]int // connections by client library and version, "go 1.55.0"
	At       time.Time
}

// Internals is what a server says of its own machinery; it changes slowly and
// is asked for rarely.
type Internals struct {
	At     time.Time
	Subs   SubTotals
	Raft   RaftTotals
	Queues []ServerQueue // those with the most waiting, at most 8
}

// SubTotals is a server's table of subscriptions.
type SubTotals struct {
	Subs      int
	Cached    int
	Inserts   uint64 // counters since the server's start
	Removes   uint64
	Matches   uint64
	CacheHits float64 // share, 0..1
	MaxFanout int
	AvgFanout float64
}

// RaftTotals sums the Raft groups that a server takes part in.
type RaftTotals struct {
	Groups     int
	Leading    int
	Leaderless int
	CatchingUp int
	MaxLag     uint64 // most entries that are committed in one group and not applied yet
	MaxLagOf   string // that group
	Waiting    int    // entries in the groups' queues
}

// ServerQueue is a queue inside a server, by the server's own name for it.
type ServerQueue struct {
	Name       string
	Pending    int
	InProgress int
}

// Skew is by how much the server's clock is ahead of ours. It contains the way
// of the answer, so that less than RTT says nothing.
func (s Server) Skew() time.Duration {
	if s.Now.IsZero() || s.At.IsZero() {
		return 0
	}
	return s.Now.Sub(s.At)
}

// Tier is how often something is asked for.
type Tier int

const (
	Fast   Tier = iota // in every round: what is drawn live
	Normal             // in every few rounds
	Slow               // about once a minute: what is heavy or hardly changes
	Tiers              // how many there are
)

func (t Tier) String() string {
	switch t {
	case Fast:
		return "fast"
	case Normal:
		return "normal"
	case Slow:
		return "slow"
	}
	return "?"
}

// TierCost is the share of a tier in the cost of a round.
type TierCost struct {
	Requests int
	Bytes    int64
	// ServerCPU estimates what the answers cost all servers together, by the
	// number of requests and bytes. It is an estimate; the servers do not say.
	ServerCPU time.Duration
}

// Fold is what stands behind a row that sums up consumers which come and go
// under generated names.
type Fold struct {
	Pattern string // of their names, "*" for what is generated in them
	Filter  string // of their subjects; "" is all
	Count   int    // those that exist now
	Most    int    // the most that existed in one round, since this row exists
	Seen    uint64 // those seen since this row exists
	Top     []Consumer
}
