package store

import (
	"hash/fnv"
	"math"
	"time"

	"ballast/fleet"
)

// row is one look at one entity.
type row struct {
	ref  entityRef
	at   int64
	v    []int64
	skip bool    // it has no figures
	e    *entity // nil: not recorded, because nothing new was measured
}

// rowSet is a snapshot as rows, one for each element of its slices and in
// their order, so that the rates find theirs.
type rowSet struct {
	rows  []row
	taken int64
	tick  int64 // id of its journal row
	arena []int64

	routes, gateways, leafs, accounts, streams, consumers int // index of the first of each
}

func count(v uint64) int64 { return int64(min(v, math.MaxInt64)) }

func (s *rowSet) add(kind fleet.Kind, name string, epoch int64, at time.Time, v ...int64) {
	if len(s.arena)+len(v) > cap(s.arena) {
		s.arena = make([]int64, 0, max(4096, len(v)))
	}
	n := len(s.arena)
	s.arena = append(s.arena, v...)
	ts := s.taken
	if !at.IsZero() {
		ts = min(ms(at), s.taken) // nothing was measured after the round ended
	}
	s.rows = append(s.rows, row{ref: entityRef{kind, name, epoch}, at: ts, v: s.arena[n:len(s.arena):len(s.arena)]})
}

// epochOf is the birth of a thing; an unknown one is 0.
func epochOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return ms(t)
}

// rowsOf lists what is recorded of a snapshot, in the order of columnsOf.
func rowsOf(s *fleet.Snapshot) *rowSet {
	set := &rowSet{taken: ms(s.TakenAt)}
	set.rows = make([]row, 0, 1+len(s.Servers)+len(s.Routes)+len(s.Gateways)+len(s.Leafs)+len(s.Accounts)+len(s.Streams)+len(s.Consumers))
	names := make(map[string]string, len(s.Servers))
	answered := fnv.New64a()
	answers := int64(0)
	for _, x := range s.Servers {
		names[x.ID] = x.Name
		mem, disk := int64(absent), int64(absent)
		if x.JetStream != nil {
			mem, disk = count(x.JetStream.Memory), count(x.JetStream.Store)
		}
		known := x.State != fleet.Unread && (x.State != fleet.Unreachable || !x.At.IsZero())
		if x.State != fleet.Unreachable && x.State != fleet.Unread {
			answers++
			answered.Write([]byte(x.ID))
		}
		set.add(fleet.KindServer, x.Name, epochOf(x.Start), x.At,
			count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes),
			int64(math.Round(x.CPU*100)), x.Mem, int64(x.Conns), int64(x.Subs),
			count(x.SlowConsumers), mem, disk, micros(x.RTT))
		set.rows[len(set.rows)-1].skip = !known
	}
	name := func(id string) string {
		if n := names[id]; n != "" {
			return n
		}
		return id
	}
	set.routes = len(set.rows)
	for _, x := range s.Routes {
		to := x.ToName
		if to == "" {
			to = name(x.To)
		}
		key := name(x.From) + "/" + to
		if x.Account != "" {
			key += "/" + x.Account
		}
		set.add(fleet.KindRoute, key, 0, x.At, count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes),
			micros(x.RTT), x.Pending, int64(x.Conns))
	}
	set.gateways = len(set.rows)
	for _, x := range s.Gateways {
		set.add(fleet.KindGateway, name(x.From)+"/"+x.ToCluster, 0, x.At,
			count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes), micros(x.RTT))
	}
	set.leafs = len(set.rows)
	for _, x := range s.Leafs {
		set.add(fleet.KindLeaf, name(x.Server)+"/"+x.Name+"/"+x.Account, 0, x.At,
			count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes), micros(x.RTT))
	}
	// An account's counters are sums over the servers that answered: with other
	// servers they are another counter.
	sum := int64(answered.Sum64() >> 1)
	set.accounts = len(set.rows)
	for _, x := range s.Accounts {
		set.add(fleet.KindAccount, x.Name, sum, x.At, count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes),
			int64(x.Conns), int64(x.Subs), count(x.Slow))
	}
	set.streams = len(set.rows)
	for _, x := range s.Streams {
		set.add(fleet.KindStream, x.Entity().Key, epochOf(x.Created), x.At, count(x.Messages), count(x.Bytes), count(x.LastSeq))
	}
	set.consumers = len(set.rows)
	for _, x := range s.Consumers {
		set.add(fleet.KindConsumer, x.Entity().Key, epochOf(x.Created), x.At,
			count(x.Delivered+x.Pending), count(x.Delivered), count(x.Delivered)-int64(x.AckPending), count(x.AckFloor),
			count(x.Pending), int64(x.AckPending), int64(x.Redelivered), int64(x.Waiting))
	}
	set.add(fleet.WatchEntity.Kind, fleet.WatchEntity.Key, 0, s.TakenAt,
		int64(s.Cost.Requests), s.Cost.Bytes, micros(s.Cost.Took), answers, int64(len(s.Problems)))
	return set
}

func micros(d time.Duration) int64 { return d.Microseconds() }

// increase is what a counter grew from one look to the next. One that fell
// back was reset, or is a sum of which a part was: what happened in between is
// not known, and no figure is better than an invented one.
func increase(before, now int64) (int64, bool) {
	if before == absent || now == absent || now < before {
		return 0, false
	}
	return now - before, true
}

// perSecond is the rate of an increase over ms milliseconds.
func perSecond(inc, ms int64) float64 { return float64(inc) * 1000 / float64(ms) }

// look moves the entity to its newest look and computes its rates. The caller
// holds mu.
func (db *DB) look(e *entity, at int64, v []int64) {
	if e.last != nil && at-e.at <= gapAfter(db.intervalMS()) {
		if e.rate == nil {
			e.rate = make([]float64, len(e.cols))
		}
		for i, c := range e.cols {
			if c.counter {
				e.rate[i] = 0
				if inc, ok := increase(e.last[i], v[i]); ok {
					e.rate[i] = perSecond(inc, at-e.at)
				}
			}
		}
		e.rateAt = at
	}
	e.at, e.last = at, v
}

// ratesOf collects the rates of a snapshot's rows. A rate older than two and a
// half rounds is left out: it is not the present one.
func (db *DB) ratesOf(s *fleet.Snapshot, set *rowSet) *fleet.Rates {
	r := &fleet.Rates{
		At:        s.TakenAt,
		Servers:   make(map[string]fleet.LinkRate, len(s.Servers)),
		Routes:    make(map[[2]string]fleet.LinkRate, len(s.Routes)),
		Gateways:  make(map[[2]string]fleet.LinkRate, len(s.Gateways)),
		Leafs:     make(map[[2]string]fleet.LinkRate, len(s.Leafs)),
		Streams:   make(map[fleet.StreamKey]fleet.LinkRate, len(s.Streams)),
		Consumers: make(map[fleet.ConsumerKey]fleet.ConsumerRate, len(s.Consumers)),
	}
	rate := func(i int) []float64 {
		e := db.entities[set.rows[i].ref]
		if e == nil || e.rate == nil || set.taken-e.rateAt > gapAfter(db.intervalMS()) {
			return nil
		}
		return e.rate
	}
	link := func(i int) (fleet.LinkRate, bool) {
		v := rate(i)
		if v == nil {
			return fleet.LinkRate{}, false
		}
		return fleet.LinkRate{InMsgs: v[inMsgs], OutMsgs: v[outMsgs], InBytes: v[inBytes], OutBytes: v[outBytes]}, true
	}
	add := func(to map[[2]string]fleet.LinkRate, key [2]string, i int) {
		if l, ok := link(i); ok {
			sum := to[key] // several accounts may share a link
			to[key] = fleet.LinkRate{InMsgs: sum.InMsgs + l.InMsgs, OutMsgs: sum.OutMsgs + l.OutMsgs,
				InBytes: sum.InBytes + l.InBytes, OutBytes: sum.OutBytes + l.OutBytes}
		}
	}
	for i, x := range s.Servers {
		if l, ok := link(i); ok {
			r.Servers[x.Name] = l
		}
	}
	for i, x := range s.Routes {
		add(r.Routes, [2]string{x.From, x.To}, set.routes+i)
	}
	for i, x := range s.Gateways {
		add(r.Gateways, [2]string{x.From, x.ToCluster}, set.gateways+i)
	}
	for i, x := range s.Leafs {
		add(r.Leafs, [2]string{x.Server, x.Name}, set.leafs+i)
	}
	for i, x := range s.Streams {
		if v := rate(set.streams + i); v != nil {
			r.Streams[x.StreamKey] = fleet.LinkRate{InMsgs: v[lastSeq]}
		}
	}
	for i, x := range s.Consumers {
		if v := rate(set.consumers + i); v != nil {
			r.Consumers[x.ConsumerKey] = fleet.ConsumerRate{Arrived: v[arrived], Delivered: v[delivered], Acked: v[acked]}
		}
	}
	return r
}
