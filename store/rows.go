package store

import (
	"hash/fnv"
	"math"
	"sync"
	"time"

	"ballast/fleet"
)

// row is one look at one entity.
type row struct {
	ref   entityRef
	at    int64
	first int32 // of its values in the arena
	n     int32
	skip  bool    // it has no figures
	known *entity // nil: not in memory
	e     *entity // nil: not recorded, because nothing new was measured
}

// rowSet is a snapshot as rows, one for each element of its slices and in
// their order, so that the rates find theirs. It is used again for the next
// snapshot: mostly the same things stand in the same places, and are found
// there without their names being put together.
type rowSet struct {
	rows  []row
	taken int64
	tick  int64 // id of its journal row
	arena []int64

	routes, gateways, leafs, accounts, streams, consumers int // index of the first of each
}

func (s *rowSet) values(r *row) []int64 { return s.arena[r.first : r.first+r.n] }

func count(v uint64) int64 { return int64(min(v, math.MaxInt64)) }

// key is the name of an entity before its parts are put together.
type key struct {
	n       int
	a, b, c string
}

func key1(a string) key       { return key{1, a, "", ""} }
func key2(a, b string) key    { return key{2, a, b, ""} }
func key3(a, b, c string) key { return key{3, a, b, c} }

func (k key) String() string {
	switch k.n {
	case 1:
		return k.a
	case 2:
		return k.a + "/" + k.b
	}
	return k.a + "/" + k.b + "/" + k.c
}

// is reports whether the name is the key's.
func (k key) is(name string) bool {
	switch k.n {
	case 1:
		return name == k.a
	case 2:
		n := len(k.a)
		return len(name) == n+1+len(k.b) && name[n] == '/' && name[:n] == k.a && name[n+1:] == k.b
	}
	n, m := len(k.a), len(k.a)+1+len(k.b)
	return len(name) == m+1+len(k.c) && name[n] == '/' && name[m] == '/' &&
		name[:n] == k.a && name[n+1:m] == k.b && name[m+1:] == k.c
}

// add appends a row. A place of the set before is taken over when the same
// thing stands there.
func (s *rowSet) add(kind fleet.Kind, name key, epoch int64, at time.Time, v ...int64) {
	ts := s.taken
	if !at.IsZero() {
		ts = min(ms(at), s.taken) // nothing was measured after the round ended
	}
	if n := len(s.rows); n < cap(s.rows) {
		s.rows = s.rows[:n+1]
	} else {
		s.rows = append(s.rows, row{})
	}
	r := &s.rows[len(s.rows)-1]
	if k := r.known; k == nil || k.epoch != epoch || k.kind != kind || !name.is(k.name) {
		r.known = nil
		r.ref = entityRef{kind, name.String(), epoch}
	} else {
		r.ref = k.entityRef
	}
	r.at, r.skip, r.e = ts, false, nil
	r.first, r.n = int32(len(s.arena)), int32(len(v))
	s.arena = append(s.arena, v...)
}

// leave forgets the entities of places that are not used any more.
func (s *rowSet) leave() { clear(s.rows[len(s.rows):cap(s.rows)]) }

// epochOf is the birth of a thing; an unknown one is 0.
func epochOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return ms(t)
}

// fill lists what is recorded of a snapshot, in the order of columnsOf.
func (set *rowSet) fill(s *fleet.Snapshot) {
	set.taken, set.tick = ms(s.TakenAt), 0
	set.rows, set.arena = set.rows[:0], set.arena[:0]
	names := make(map[string]string, len(s.Servers))
	answered := fnv.New64a()
	answers := int64(0)
	for i := range s.Servers {
		x := &s.Servers[i]
		names[x.ID] = x.Name
		skew := int64(absent)
		if !x.Now.IsZero() {
			skew = micros(x.Now.Sub(x.At))
		}
		js := [7]int64{absent, absent, absent, absent, absent, absent, absent}
		if j := x.JetStream; j != nil {
			js = [7]int64{count(j.Memory), count(j.Store), int64(j.Streams), int64(j.Consumers), count(j.Messages), count(j.APITotal), count(j.APIErrors)}
		}
		known := x.State != fleet.Unread && (x.State != fleet.Unreachable || !x.At.IsZero())
		if x.State != fleet.Unreachable && x.State != fleet.Unread {
			answers++
			answered.Write([]byte(x.ID))
		}
		set.add(fleet.KindServer, key1(x.Name), epochOf(x.Start), x.At,
			count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes),
			int64(math.Round(x.CPU*100)), x.Mem, int64(x.Conns), int64(x.Subs),
			count(x.SlowConsumers), js[0], js[1], micros(x.RTT), int64(x.Routes), js[2], js[3], js[4], js[5], js[6], skew)
		set.rows[len(set.rows)-1].skip = !known
	}
	name := func(id string) string {
		if n := names[id]; n != "" {
			return n
		}
		return id
	}
	set.routes = len(set.rows)
	for i := range s.Routes {
		x := &s.Routes[i]
		to := x.ToName
		if to == "" {
			to = name(x.To)
		}
		k := key2(name(x.From), to)
		if x.Account != "" {
			k = key3(k.a, k.b, x.Account)
		}
		set.add(fleet.KindRoute, k, 0, x.At, count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes),
			micros(x.RTT), x.Pending, int64(x.Conns), int64(x.Subs), x.Uptime.Milliseconds())
	}
	set.gateways = len(set.rows)
	for i := range s.Gateways {
		x := &s.Gateways[i]
		set.add(fleet.KindGateway, key2(name(x.From), x.ToCluster), 0, x.At,
			count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes), micros(x.RTT))
	}
	set.leafs = len(set.rows)
	for i := range s.Leafs {
		x := &s.Leafs[i]
		set.add(fleet.KindLeaf, key3(name(x.Server), x.Name, x.Account), 0, x.At,
			count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes), micros(x.RTT), int64(x.Subs))
	}
	// An account's counters are sums over the servers that answered: with other
	// servers they are another counter.
	sum := int64(answered.Sum64() >> 1)
	set.accounts = len(set.rows)
	for i := range s.Accounts {
		x := &s.Accounts[i]
		set.add(fleet.KindAccount, key1(x.Name), sum, x.At, count(x.InMsgs), count(x.OutMsgs), count(x.InBytes), count(x.OutBytes),
			int64(x.Conns), int64(x.Subs), count(x.Slow), int64(x.Leafs))
	}
	set.streams = len(set.rows)
	for i := range s.Streams {
		x := &s.Streams[i]
		set.add(fleet.KindStream, key2(x.Account, x.StreamKey.Stream), epochOf(x.Created), x.At,
			count(x.Messages), count(x.Bytes), count(x.LastSeq), count(x.FirstSeq)-1, int64(x.Distinct), int64(x.Consumers))
	}
	set.consumers = len(set.rows)
	for i := range s.Consumers {
		x := &s.Consumers[i]
		set.add(fleet.KindConsumer, key3(x.Account, x.Stream, x.ConsumerKey.Consumer), epochOf(x.Created), x.At,
			count(x.Delivered+x.Pending), count(x.Delivered), count(x.Delivered)-int64(x.AckPending), count(x.AckFloor),
			count(x.Pending), int64(x.AckPending), int64(x.Redelivered), int64(x.Waiting))
	}
	set.add(fleet.WatchEntity.Kind, key1(fleet.WatchEntity.Key), 0, s.TakenAt,
		int64(s.Cost.Requests), s.Cost.Bytes, micros(s.Cost.Took), answers, int64(len(s.Problems)), int64(math.Round(s.Intake.PerSecond*10)),
		s.Cost.By[fleet.Fast].Bytes, s.Cost.By[fleet.Normal].Bytes, s.Cost.By[fleet.Slow].Bytes,
		micros(s.Cost.By[fleet.Fast].ServerCPU), micros(s.Cost.By[fleet.Normal].ServerCPU), micros(s.Cost.By[fleet.Slow].ServerCPU),
		int64(s.Cost.By[fleet.Fast].Requests), int64(s.Cost.By[fleet.Normal].Requests), int64(s.Cost.By[fleet.Slow].Requests),
		count(s.Intake.Counted), count(s.Intake.Passed), count(s.Intake.Dropped), int64(s.Intake.Waiting))
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
	if apart := at - e.at; e.last != nil && apart > 0 && apart <= gapAfter(db.every(e.kind)) {
		for i := range min(len(e.rate), len(v)) {
			e.rate[i] = 0
			if !e.cols[i].counter {
				continue
			}
			if inc, ok := increase(e.last[i], v[i]); ok {
				e.rate[i] = perSecond(inc, apart)
			}
		}
		e.rateAt = at
	}
	e.at, e.last = at, append(e.last[:0], v...)
}

// present is the rates of a snapshot's rows; they are collected when somebody
// asks. Whoever asks when the next look has come gets that one's.
type present struct {
	once  sync.Once
	rates *fleet.Rates

	s    *fleet.Snapshot
	of   []*entity // of each row; nil: not known
	rows []rowRate

	routes, gateways, leafs, accounts, streams, consumers int
}

// rowRate is the first rates of one row.
type rowRate struct {
	ok bool
	v  [4]float64
}

func newPresent(s *fleet.Snapshot, set *rowSet) *present {
	p := &present{s: s, routes: set.routes, gateways: set.gateways, leafs: set.leafs,
		accounts: set.accounts, streams: set.streams, consumers: set.consumers,
		of: make([]*entity, set.consumers+len(s.Consumers))}
	for i := range p.of {
		p.of[i] = set.rows[i].known
	}
	return p
}

// get collects the rates, once. One older than two and a half rounds is left
// out: it is not the present one.
func (p *present) get(mu *sync.RWMutex, gap int64) *fleet.Rates {
	p.once.Do(func() {
		p.rows = make([]rowRate, len(p.of))
		taken := ms(p.s.TakenAt)
		mu.RLock()
		for i, e := range p.of {
			if e != nil && e.rateAt != 0 && taken-e.rateAt <= gap {
				p.rows[i] = rowRate{true, e.rate}
			}
		}
		mu.RUnlock()
		p.rates = p.collect()
		p.s, p.of, p.rows = nil, nil, nil
	})
	return p.rates
}

func (p *present) collect() *fleet.Rates {
	s := p.s
	r := &fleet.Rates{
		At:        s.TakenAt,
		Servers:   make(map[string]fleet.LinkRate, len(s.Servers)),
		Routes:    make(map[[2]string]fleet.LinkRate, len(s.Routes)),
		Gateways:  make(map[[2]string]fleet.LinkRate, len(s.Gateways)),
		Leafs:     make(map[[2]string]fleet.LinkRate, len(s.Leafs)),
		Streams:   make(map[fleet.StreamKey]fleet.LinkRate, len(s.Streams)),
		Consumers: make(map[fleet.ConsumerKey]fleet.ConsumerRate, len(s.Consumers)),
	}
	link := func(i int) (fleet.LinkRate, bool) {
		v := p.rows[i].v
		return fleet.LinkRate{InMsgs: v[inMsgs], OutMsgs: v[outMsgs], InBytes: v[inBytes], OutBytes: v[outBytes]}, p.rows[i].ok
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
		add(r.Routes, [2]string{x.From, x.To}, p.routes+i)
	}
	for i, x := range s.Gateways {
		add(r.Gateways, [2]string{x.From, x.ToCluster}, p.gateways+i)
	}
	for i, x := range s.Leafs {
		add(r.Leafs, [2]string{x.Server, x.Name}, p.leafs+i)
	}
	for i, x := range s.Streams {
		if row := p.rows[p.streams+i]; row.ok {
			r.Streams[x.StreamKey] = fleet.LinkRate{InMsgs: row.v[lastSeq]}
		}
	}
	for i, x := range s.Consumers {
		if row := p.rows[p.consumers+i]; row.ok {
			r.Consumers[x.ConsumerKey] = fleet.ConsumerRate{Arrived: row.v[arrived], Delivered: row.v[delivered], Acked: row.v[acked]}
		}
	}
	return r
}
