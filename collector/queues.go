package collector

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"ballast/fleet"
)

const (
	// maxSubsAsked is the number of subscriptions of a server beyond which it is
	// not asked for them: their list would be some 10 MiB.
	maxSubsAsked = 100_000
	// maxQueueSubs bounds the queue subscriptions that are kept of one server,
	// maxQueueGroups the groups of a snapshot.
	maxQueueSubs   = 20_000
	maxQueueGroups = 1000
	// maxQueueMembers bounds the members of a group that are listed.
	maxQueueMembers = 64
)

// subbedConn is a connection with its subscriptions.
type subbedConn struct {
	conn
	Active wtime       `json:"last_activity"`
	Detail []subDetail `json:"subscriptions_list_detail"`
}

type subDetail struct {
	Subject string  `json:"subject"`
	Queue   string  `json:"qgroup"`
	SID     string  `json:"sid"`
	Msgs    counter `json:"msgs"`
}

// subbedConnz is a page of connections with their subscriptions.
type subbedConnz struct {
	Total int          `json:"total"`
	Conns []subbedConn `json:"connections"`
}

// readConnz reads a page row by row; more rows than were asked for are an error.
// It returns what it read with an error too.
func readConnz(d *json.Decoder, most int) (*subbedConnz, error) {
	var z subbedConnz
	err := object(d, func(key string) error {
		switch key {
		case "total":
			return d.Decode(&z.Total)
		case "connections":
			return array(d, func() error {
				if len(z.Conns) == most {
					return fmt.Errorf("more than the %d connections that were asked for", most)
				}
				var c subbedConn
				err := d.Decode(&c)
				z.Conns = append(z.Conns, c)
				return err
			})
		}
		return d.Decode(&skip{})
	})
	return &z, err
}

// plain returns the page without the subscriptions.
func (z *subbedConnz) plain() *connz {
	out := &connz{Total: z.Total, Conns: make([]conn, len(z.Conns))}
	for i := range z.Conns {
		out.Conns[i] = z.Conns[i].conn
	}
	return out
}

// queueSub is one member of a queue group as one answer of its server tells.
type queueSub struct {
	group  queueKey
	member fleet.QueueMember
}

type queueKey struct{ account, subject, queue string }

// queueSubs gathers the queue subscriptions of one server, page by page.
type queueSubs struct {
	server string
	seen   map[memberKey]struct{}
	list   []queueSub
	cut    bool // there are more than were kept
}

func newQueueSubs(server string) *queueSubs {
	return &queueSubs{server: server, seen: map[memberKey]struct{}{}}
}

func (q *queueSubs) add(z *subbedConnz) {
	for i := range z.Conns {
		c := &z.Conns[i]
		for _, d := range c.Detail {
			if d.Queue == "" || d.Subject == "" {
				continue
			}
			k := memberKey{q.server, c.CID, d.SID}
			if _, again := q.seen[k]; again {
				continue
			}
			if len(q.list) >= maxQueueSubs {
				q.cut = true
				return
			}
			q.seen[k] = struct{}{}
			q.list = append(q.list, queueSub{
				group: queueKey{cmp.Or(c.NameTag, c.Account), d.Subject, d.Queue},
				member: fleet.QueueMember{
					Server: q.server, CID: c.CID, SID: clipped(d.SID, 32), Name: clipped(c.Name, 128), IP: clipped(c.IP, 64),
					Lang: clipped(c.Lang, 32), Version: clipped(c.Version, 32), Start: c.Start.Time, Active: c.Active.Time,
					RTT: time.Duration(c.RTT), Pending: max(c.Pending, 0), Msgs: uint64(d.Msgs),
				},
			})
		}
	}
}

// follow continues what was seen of a member. Its counter cannot fall: a
// subscription that is made anew has another number.
func follow(m, before *fleet.QueueMember, then, now time.Time) {
	m.Since, m.Moved, m.Rate, m.Span = before.Since, before.Moved, before.Rate, before.Span
	if !now.After(then) {
		return // its server did not tell anew
	}
	got := m.Msgs - min(before.Msgs, m.Msgs)
	m.Span = now.Sub(then)
	m.Rate = float64(got) / m.Span.Seconds()
	if got > 0 {
		m.Moved = now
	}
}

// memberKey tells a subscription apart from all others; a server that was
// restarted has another ID.
type memberKey struct {
	server string
	cid    uint64
	sid    string
}

// queues builds the queue groups out of what the servers tell of their
// subscriptions, and remembers of each how far it was. Its state is owned by the
// rounds.
type queues struct {
	read    map[string]time.Time // when each server told, by its ID
	members map[memberKey]fleet.QueueMember
	at      map[memberKey]time.Time // when each was read
	since   map[queueKey]time.Time  // when each group was seen first
	groups  []fleet.QueueGroup      // of the last snapshot; never changed
	cut     fleet.QueuesCut
}

// update returns the groups of the servers that answer. Nothing is counted anew
// as long as no server told anew.
func (q *queues) update(all []seen, nameOf func(*fleet.Server) string) ([]fleet.QueueGroup, fleet.QueuesCut) {
	read := map[string]time.Time{}
	for _, s := range all {
		if x := s.extras; s.alive && x != nil && !x.queuesAt.IsZero() {
			read[s.look.server.ID] = x.queuesAt
		}
	}
	if q.read != nil && maps.Equal(read, q.read) {
		return q.groups, q.cut
	}
	members, at := map[memberKey]fleet.QueueMember{}, map[memberKey]time.Time{}
	groups := map[queueKey]*fleet.QueueGroup{}
	var cut fleet.QueuesCut
	for _, s := range all {
		id := s.look.server.ID
		when, ok := read[id]
		if !ok {
			continue
		}
		if s.extras.queuesCut {
			cut.Servers = append(cut.Servers, nameOf(&s.look.server))
		}
		for _, sub := range s.extras.queues {
			k := memberKey{id, sub.member.CID, sub.member.SID}
			m := sub.member
			old, known := q.members[k]
			if known {
				follow(&m, &old, q.at[k], when)
			} else {
				m.Since, m.Moved = when, when
			}
			members[k], at[k] = m, when
			g := groups[sub.group]
			if g == nil {
				g = &fleet.QueueGroup{Account: sub.group.account, Subject: clipped(sub.group.subject, 256), Queue: clipped(sub.group.queue, 128)}
				groups[sub.group] = g
			}
			g.Members = append(g.Members, m)
			g.Total++
			g.Rate += m.Rate
			g.Span = max(g.Span, m.Span)
			g.At = later(g.At, when)
		}
	}
	since := make(map[queueKey]time.Time, len(groups))
	list := make([]fleet.QueueGroup, 0, len(groups))
	for k, g := range groups {
		first, ok := q.since[k]
		if !ok {
			first = g.At
		}
		since[k], g.Since = first, first
		slices.SortFunc(g.Members, func(a, b fleet.QueueMember) int {
			return cmp.Or(cmp.Compare(a.Rate, b.Rate), a.Moved.Compare(b.Moved), cmp.Compare(a.Server, b.Server),
				cmp.Compare(a.CID, b.CID), cmp.Compare(a.SID, b.SID))
		})
		g.Members = slices.Clip(g.Members[:min(len(g.Members), maxQueueMembers)])
		list = append(list, *g)
	}
	byName := func(a, b fleet.QueueGroup) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Queue, b.Queue))
	}
	if len(list) > maxQueueGroups {
		slices.SortFunc(list, func(a, b fleet.QueueGroup) int { return cmp.Or(cmp.Compare(b.Total, a.Total), byName(a, b)) })
		cut.Groups = len(list) - maxQueueGroups
		list = slices.Clip(list[:maxQueueGroups])
	}
	slices.SortFunc(list, byName)
	slices.Sort(cut.Servers)
	q.read, q.members, q.at, q.since, q.groups, q.cut = read, members, at, since, list, cut
	return list, cut
}
