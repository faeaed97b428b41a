package fleet

import "time"

// QueueGroup is a queue group of core NATS: subscriptions of one account that
// share the messages of a subject, so that each goes to one of them. It exists
// as long as it has members, and its name is whatever they chose.
//
// Groups are read rarely (the slow tier, about once a minute) and within
// bounds; Snapshot.QueuesCut says what was left out.
type QueueGroup struct {
	Account string
	Subject string // as subscribed to, with its wildcards
	Queue   string
	Since   time.Time // when it was seen first, our clock
	At      time.Time // when it was read last, our clock
	// Total is the number of members; Members lists at most 64 of them, those
	// that get nothing first.
	Total   int
	Members []QueueMember
	// Rate is what all members got per second between the last two looks, those
	// that are not listed too; it means something if Span is not zero.
	Rate float64
	Span time.Duration // between these looks; 0: seen once
}

// QueueMember is one subscription of a queue group.
type QueueMember struct {
	Server  string // server ID
	CID     uint64 // of the connection on that server
	SID     string // of the subscription on that connection
	Name    string // of the connection, chosen by the client
	IP      string
	Lang    string
	Version string
	Start   time.Time // of the connection, by the server's clock
	// Active is when the connection last received or sent anything, by the
	// server's clock.
	Active  time.Time
	RTT     time.Duration
	Pending int64 // bytes waiting for the whole connection
	// Msgs counts the messages that the server handed to the subscription.
	Msgs  uint64
	Since time.Time // when it was seen first, our clock
	// Moved is the look in which Msgs was last seen to have risen; Since if it
	// never was. A member that does not move while its group does is stale.
	Moved time.Time
	Rate  float64       // messages per second between the last two looks
	Span  time.Duration // between these looks; 0: seen once
}

// Entity names the group, as findings do.
func (g QueueGroup) Entity() Entity {
	return Entity{KindQueue, g.Account + "/" + g.Subject + " " + g.Queue}
}

// QueuesCut says which queue groups are not in a snapshot.
type QueuesCut struct {
	Groups  int      // beyond the number that is kept
	Servers []string // names of servers with too many subscriptions to be asked for them
}
