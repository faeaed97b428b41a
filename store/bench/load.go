package main

import (
	"fmt"
	"math"
	"time"

	"ballast/fleet"
)

// The reference load: 50,000 series of a NATS system, seeded. 30 % of the
// entities are hot (every look differs, bursts, log-normal latencies, 1 % of
// them ×10), 40 % are slow, 30 % are idle. Looks have 0 to 7 ms of jitter.
const (
	consumers = 5000 // × 8 columns
	streams   = 1000 // × 5
	leafs     = 241  // × 6
	routes    = 200  // × 9
	accounts  = 100  // × 8
	servers   = 50   // × 19
)

type shape uint8

const (
	still    shape = iota // does not change
	counting              // rises with noise and bursts
	creeping              // rises now and then
	bytes                 // counting × the size of a message
	calm                  // a small number that mostly stays
	noisy                 // every look differs, around a slow walk
)

type value struct {
	v, base int64
	shape   shape
}

// load makes the values and keeps no history.
type load struct {
	rng    uint64
	values []value
	first  []int64 // of each stream, the sequence of its oldest message less one
	jitter []int64 // by entity, ms
	every  time.Duration
	snaps  [2]fleet.Snapshot // used in turn: one that was handed over is not written to while it is the newest
	turn   int
}

// columns that carry a value of their own, by kind.
var (
	trafficShapes  = []shape{counting, counting, bytes, bytes}
	consumerShapes = []shape{counting, counting, noisy, noisy, calm, calm} // delivered, floor, in flight, pending, redelivered, waiting
	streamShapes   = []shape{noisy, bytes, counting, calm}                 // messages at most, bytes, last sequence, subjects
	leafShapes     = append(append([]shape{}, trafficShapes...), noisy, calm)
	routeShapes    = append(append([]shape{}, trafficShapes...), noisy, calm, still, calm)
	accountShapes  = append(append([]shape{}, trafficShapes...), calm, calm, still, still)
	serverShapes   = append(append([]shape{}, trafficShapes...), noisy, noisy, calm, calm, still, noisy, noisy, noisy,
		calm, calm, calm, noisy, counting, still, noisy)
)

func newLoad(seed uint64, every time.Duration) *load {
	l := &load{rng: seed*0x9E3779B97F4A7C15 + 1, every: every}
	add := func(n int, shapes []shape) {
		for range n {
			activity := l.next() % 10
			for _, s := range shapes {
				switch {
				case activity >= 7 && s != calm:
					s = still
				case activity >= 3 && (s == counting || s == bytes):
					s = creeping
				case activity >= 3 && s == noisy:
					s = calm
				}
				v := value{base: int64(l.next()%5000 + 10), shape: s}
				switch s {
				case counting, creeping:
					v.v = int64(l.next() % (1 << 34))
				case bytes:
					v.v = int64(l.next() % (1 << 42))
				default:
					v.v = v.base
				}
				l.values = append(l.values, v)
			}
		}
	}
	add(consumers, consumerShapes)
	add(streams, streamShapes)
	add(leafs, leafShapes)
	add(routes, routeShapes)
	add(accounts, accountShapes)
	add(servers, serverShapes)
	l.first = make([]int64, streams)
	l.jitter = make([]int64, consumers+streams+leafs+routes+accounts+servers)
	for i := range l.snaps {
		l.snaps[i] = names()
	}
	return l
}

func (l *load) next() uint64 {
	x := l.rng
	x ^= x << 13
	x ^= x >> 7
	x ^= x << 17
	l.rng = x
	return x
}

// normal is about N(0,1), of four bytes.
func normal(r uint64) float64 {
	return (float64(r&255+r>>8&255+r>>16&255+r>>24&255) - 510) / 147.8
}

// step moves everything on by one look.
func (l *load) step() {
	for i := range l.values {
		s := &l.values[i]
		r := l.next()
		switch s.shape {
		case counting:
			s.v += burst(s.base, r)
		case bytes:
			s.v += burst(s.base, r) * int64(200+(r>>32)%100)
		case creeping:
			if r&3 == 0 {
				s.v += int64(r >> 8 & 3)
			}
		case calm:
			if r&15 == 0 {
				s.v = s.base + int64(r>>8&7)
			}
		case noisy:
			if r&63 == 0 {
				s.base = max(s.base+int64(r>>8&63)-31, 10)
			}
			v := float64(s.base) * math.Exp(0.25*normal(r>>16))
			if (r>>50)%100 == 0 {
				v *= 10
			}
			s.v = int64(v)
		}
	}
	// A stream holds its newest messages; what was removed does not come back.
	for i := range l.first {
		v := l.values[consumers*len(consumerShapes)+i*len(streamShapes):]
		l.first[i] = max(l.first[i], v[2].v-v[0].v)
	}
	for i := range l.jitter {
		l.jitter[i] = int64(l.next() % 8)
	}
}

func burst(base int64, r uint64) int64 {
	v := float64(base) * (1 + 0.1*normal(r))
	switch (r >> 40) % 100 {
	case 0, 1:
		v *= 5
	case 2:
		v = 0
	}
	return int64(max(v, 0))
}

var born = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func consumerKey(i int) fleet.ConsumerKey {
	return fleet.ConsumerKey{Account: "TENANT_" + fmt.Sprint(i%accounts), Stream: fmt.Sprint("ORDERS_", i/5), Consumer: fmt.Sprint("worker-", i)}
}

// names is a snapshot in which nothing was counted yet.
func names() fleet.Snapshot {
	var s fleet.Snapshot
	for i := range servers {
		s.Servers = append(s.Servers, fleet.Server{ID: fmt.Sprintf("N%055d", i), Name: fmt.Sprint("nats-", i), Cluster: "C1", Version: "2.15.2",
			State: fleet.Healthy, Start: born, JetStream: &fleet.JetStream{}, Source: fleet.Monitoring})
	}
	for i := range routes {
		s.Routes = append(s.Routes, fleet.Route{From: s.Servers[i%servers].ID, To: s.Servers[(i+1+i/servers)%servers].ID, ToName: s.Servers[(i+1+i/servers)%servers].Name})
	}
	for i := range leafs {
		s.Leafs = append(s.Leafs, fleet.Leaf{Server: s.Servers[i%servers].ID, Name: fmt.Sprint("edge-", i), Account: fmt.Sprint("TENANT_", i%accounts)})
	}
	for i := range accounts {
		s.Accounts = append(s.Accounts, fleet.Account{Name: fmt.Sprint("TENANT_", i)})
	}
	for i := range streams {
		s.Streams = append(s.Streams, fleet.Stream{StreamKey: fleet.StreamKey{Account: fmt.Sprint("TENANT_", i%accounts), Stream: fmt.Sprint("ORDERS_", i)},
			Created: born, Leader: s.Servers[i%servers].Name, Subjects: []string{fmt.Sprint("orders.", i, ".>")}, Replicas: 3, Source: fleet.Monitoring})
	}
	for i := range consumers {
		s.Consumers = append(s.Consumers, fleet.Consumer{ConsumerKey: consumerKey(i), Created: born, Leader: s.Servers[i%servers].Name,
			AckPolicy: "explicit", AckWait: 30 * time.Second, MaxAckPending: 1000, SampleFreq: "100%", Source: fleet.Monitoring})
	}
	return s
}

// reader takes the values in the order in which add made them.
type reader struct {
	l      *load
	value  int
	entity int
	at     time.Time
}

func (r *reader) i64() int64  { r.value++; return r.l.values[r.value-1].v }
func (r *reader) u64() uint64 { return uint64(r.i64()) }

func (r *reader) when() time.Time {
	r.entity++
	return r.at.Add(-time.Duration(r.l.jitter[r.entity-1]) * time.Millisecond)
}

// snapshot is the present values, as the collector would hand them over.
func (l *load) snapshot(at time.Time) fleet.Snapshot {
	l.turn = 1 - l.turn
	s := l.snaps[l.turn]
	s.TakenAt = at
	r := reader{l: l, at: at}
	for i := range s.Consumers {
		x := &s.Consumers[i]
		x.At, x.Delivered, x.AckFloor = r.when(), r.u64(), r.u64()
		x.AckPending, x.Pending, x.Redelivered, x.Waiting = int(r.i64()), r.u64(), int(r.i64()), int(r.i64())
	}
	for i := range s.Streams {
		x := &s.Streams[i]
		x.At = r.when()
		_, x.Bytes, x.LastSeq, x.Distinct = r.i64(), r.u64(), r.u64(), int(r.i64())
		x.FirstSeq, x.Messages = uint64(l.first[i])+1, x.LastSeq-uint64(l.first[i])
	}
	for i := range s.Leafs {
		x := &s.Leafs[i]
		x.At, x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = r.when(), r.u64(), r.u64(), r.u64(), r.u64()
		x.RTT, x.Subs = time.Duration(r.i64())*time.Microsecond, int(r.i64())
	}
	for i := range s.Routes {
		x := &s.Routes[i]
		x.At, x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = r.when(), r.u64(), r.u64(), r.u64(), r.u64()
		x.RTT, x.Pending, x.Conns, x.Subs = time.Duration(r.i64())*time.Microsecond, r.i64(), int(r.i64()), int(r.i64())
		x.Uptime = x.At.Sub(born)
	}
	for i := range s.Accounts {
		x := &s.Accounts[i]
		x.At, x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = r.when(), r.u64(), r.u64(), r.u64(), r.u64()
		x.Conns, x.Subs, x.Slow, x.Leafs = int(r.i64()), int(r.i64()), r.u64(), int(r.i64())
	}
	for i := range s.Servers {
		x := &s.Servers[i]
		x.At, x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = r.when(), r.u64(), r.u64(), r.u64(), r.u64()
		x.CPU, x.Mem, x.Conns, x.Subs, x.SlowConsumers = float64(r.i64())/100, r.i64(), int(r.i64()), int(r.i64()), r.u64()
		j := x.JetStream
		j.Memory, j.Store, x.RTT = r.u64(), r.u64(), time.Duration(r.i64())*time.Microsecond
		x.Routes, j.Streams, j.Consumers, j.Messages, j.APITotal, j.APIErrors = int(r.i64()), int(r.i64()), int(r.i64()), r.u64(), r.u64(), r.u64()
		x.Now = x.At.Add(time.Duration(r.i64()) * time.Microsecond)
	}
	return s
}

// columns calls f with each value that is recorded of the present look: entity,
// column, time in ms. They are those of the snapshot, the derived ones included.
func (l *load) columns(at time.Time, f func(series int, ms, v int64)) {
	r := reader{l: l, at: at}
	series := 0
	for range consumers {
		t := r.when().UnixMilli()
		delivered, floor, flying, pending, again, waiting := r.i64(), r.i64(), r.i64(), r.i64(), r.i64(), r.i64()
		for _, v := range [...]int64{delivered + pending, delivered, delivered - flying, floor, pending, flying, again, waiting} {
			f(series, t, v)
			series++
		}
	}
	some := func(v ...int64) {
		for _, x := range v {
			f(series, r.at.UnixMilli(), x)
			series++
		}
	}
	for i := range streams {
		r.at = r.when()
		_, size, last, subjects := r.i64(), r.i64(), r.i64(), r.i64()
		some(last-l.first[i], size, last, l.first[i], subjects)
		r.at = at
	}
	for _, k := range []struct {
		n, values int
		uptime    bool
	}{{leafs, 6, false}, {routes, 8, true}, {accounts, 8, false}, {servers, 19, false}} {
		for range k.n {
			r.at = r.when()
			for range k.values {
				some(r.i64())
			}
			if k.uptime {
				some(r.at.Sub(born).Milliseconds())
			}
			r.at = at
		}
	}
}

const seriesCount = consumers*8 + streams*5 + leafs*6 + routes*9 + accounts*8 + servers*19
