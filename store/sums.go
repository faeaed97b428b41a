package store

import (
	"cmp"
	"math"
	"slices"
	"time"

	"ballast/fleet"
)

// What comes and goes without end has no series of its own but is summed:
// instances of micro services by their service, connections by server and
// account and by client library. Names come from clients, so that of each sort
// only so many are recorded; what is beyond is in no sum but its own total.
const (
	maxMicros    = 500
	maxMethods   = 1000   // endpoints of all services
	maxTracked   = 20_000 // endpoints of all instances
	maxConnSums  = 2000
	maxClientele = 200
)

// rounds is how many rounds lie between two looks at a kind that is not looked
// at in each.
var rounds = map[fleet.Kind]int64{fleet.KindMicro: 3, fleet.KindEndpoint: 3, fleet.KindConns: 12, fleet.KindClients: 12}

// every is the time between two looks at a thing of the kind, in ms.
func (db *DB) every(kind fleet.Kind) int64 { return db.intervalMS() * max(rounds[kind], 1) }

// admitted are names that are recorded, with the time at which each was there
// last: one that was not there for an hour makes room.
type admitted map[string]int64

// admit reports whether the name is recorded.
func (a admitted) admit(name string, now int64, most int) bool {
	if _, ok := a[name]; !ok && len(a) >= most {
		for old, at := range a {
			if now-at > hour {
				delete(a, old)
			}
		}
		if len(a) >= most {
			return false
		}
	}
	a[name] = now
	return true
}

// served adds up what the instances of micro services count. An instance begins
// at zero and takes its count with it when it ends; the sums only rise. It is
// guarded by DB.put.
type served struct {
	at        int64 // of the newest answer, ms
	instances map[instanceKey]*instanceSeen
	micros    map[key]*microSum
	methods   map[key]*microSum
	names     admitted
	ends      admitted
	tracked   int // endpoints of instances
}

type instanceKey struct{ account, name, id string }

type instanceSeen struct {
	at   int64 // of its last answer, ms
	ends map[string]fleet.Endpoint
}

// microSum is what a service or an endpoint did since the console began to look.
type microSum struct {
	at                     int64 // of the newest answer, ms
	requests, errors, busy uint64
	instances              int
	cpu, mem               float64
	cpus, mems             int // instances that tell
}

// rows adds a row for each micro service and each of their endpoints.
func (v *served) rows(set *rowSet, services []fleet.Service) {
	if v.instances == nil {
		v.instances, v.names, v.ends = map[instanceKey]*instanceSeen{}, admitted{}, admitted{}
		v.micros, v.methods = map[key]*microSum{}, map[key]*microSum{}
	}
	newest := v.at
	for i := range services {
		newest = max(newest, ms(services[i].At))
	}
	if newest > v.at {
		v.take(services, newest)
	}
	add := func(kind fleet.Kind, sums map[key]*microSum) {
		names := make([]key, 0, len(sums))
		for k := range sums {
			names = append(names, k)
		}
		slices.SortFunc(names, func(a, b key) int { return cmp.Or(cmp.Compare(a.a, b.a), cmp.Compare(a.b, b.b), cmp.Compare(a.c, b.c)) })
		for _, k := range names {
			m := sums[k]
			values := []int64{count(m.requests), count(m.errors), count(m.busy / uint64(time.Microsecond)), int64(m.instances)}
			if kind == fleet.KindMicro {
				cpu, mem := int64(absent), int64(absent)
				if m.cpus > 0 {
					cpu = int64(math.Round(m.cpu / float64(m.cpus) * 100))
				}
				if m.mems > 0 {
					mem = int64(m.mem)
				}
				values = append(values, cpu, mem)
			}
			set.add(kind, k, 0, fromMS(m.at), values...)
		}
	}
	add(fleet.KindMicro, v.micros)
	add(fleet.KindEndpoint, v.methods)
}

// take counts what the instances did since they answered last.
func (v *served) take(services []fleet.Service, now int64) {
	since := v.at
	v.at = now
	for _, sums := range []map[key]*microSum{v.micros, v.methods} {
		for k, m := range sums {
			if m.instances == 0 && now-m.at > hour {
				delete(sums, k)
			}
			m.instances, m.cpu, m.mem, m.cpus, m.mems = 0, 0, 0, 0, 0
		}
	}
	for i := range services {
		s := &services[i]
		k := key2(s.Account, s.Name)
		if !v.names.admit(k.String(), now, maxMicros) {
			continue
		}
		sum := sumOf(v.micros, k, ms(s.At))
		sum.instances++
		own := s.Own()
		if own.HasCPU {
			sum.cpu += own.CPU
			sum.cpus++
		}
		if own.HasMem {
			sum.mem += own.Memory
			sum.mems++
		}
		seen, known := v.instances[instanceKey{s.Account, s.Name, s.ID}]
		if !known {
			if v.tracked+len(s.Endpoints) > maxTracked {
				continue
			}
			seen = &instanceSeen{ends: map[string]fleet.Endpoint{}}
			v.instances[instanceKey{s.Account, s.Name, s.ID}] = seen
		}
		seen.at = now
		fresh := !known && since > 0 && ms(s.Started) > since // all that it did was done since
		for _, e := range s.Endpoints {
			before, old := seen.ends[e.Name]
			if !old {
				v.tracked++
			}
			seen.ends[e.Name] = fleet.Endpoint{Requests: e.Requests, Errors: e.Errors, ProcessingTime: e.ProcessingTime}
			var of *microSum
			if ek := key3(s.Account, s.Name, e.Name); v.ends.admit(ek.String(), now, maxMethods) {
				of = sumOf(v.methods, ek, ms(s.At))
				of.instances++
			}
			if !old && !fresh || e.Requests < before.Requests || e.Errors < before.Errors || e.ProcessingTime < before.ProcessingTime {
				continue
			}
			for _, m := range []*microSum{sum, of} {
				if m != nil {
					m.requests += e.Requests - before.Requests
					m.errors += e.Errors - before.Errors
					m.busy += uint64(e.ProcessingTime - before.ProcessingTime)
				}
			}
		}
	}
	for k, seen := range v.instances {
		if now-seen.at > 10*minute {
			v.tracked -= len(seen.ends)
			delete(v.instances, k)
		}
	}
	// One without instances has been said to have none; then it is silent.
	for _, sums := range []map[key]*microSum{v.micros, v.methods} {
		for _, m := range sums {
			if m.instances == 0 && now-m.at <= 5*minute {
				m.at = max(m.at, now)
			}
		}
	}
}

func sumOf(sums map[key]*microSum, k key, at int64) *microSum {
	m := sums[k]
	if m == nil {
		m = &microSum{}
		sums[k] = m
	}
	m.at = max(m.at, at)
	return m
}

// connRows adds a row for each account's connections to a server, and one for
// each client library.
func (db *DB) connRows(set *rowSet, s *fleet.Snapshot) {
	names := make(map[string]string, len(s.Servers))
	for i := range s.Servers {
		names[s.Servers[i].ID] = s.Servers[i].Name
	}
	by := map[string]int{}
	var newest time.Time
	for i := range s.ConnSums {
		x := &s.ConnSums[i]
		if i < maxConnSums {
			set.add(fleet.KindConns, key2(cmp.Or(names[x.Server], x.Server), x.Account), 0, x.At, int64(x.Conns), int64(x.Subs), x.Pending)
		}
		for client, n := range x.Clients {
			by[client] += n
		}
		if x.At.After(newest) {
			newest = x.At
		}
	}
	if db.clients == nil {
		db.clients = admitted{}
	}
	clients := make([]string, 0, len(by))
	for c := range by {
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b string) int { return cmp.Or(cmp.Compare(by[b], by[a]), cmp.Compare(a, b)) })
	other, kept := by["other"], clients[:0]
	for _, c := range clients {
		switch {
		case c == "other":
		case db.clients.admit(c, set.taken, maxClientele):
			kept = append(kept, c)
		default:
			other += by[c]
		}
	}
	slices.Sort(kept)
	for _, c := range kept {
		set.add(fleet.KindClients, key1(c), 0, newest, int64(by[c]))
	}
	if other > 0 {
		set.add(fleet.KindClients, key1("other"), 0, newest, int64(other))
	}
}
