package tuner

import (
	"fmt"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
)

// large is a system of 3 servers, 500 streams, 5,000 consumers of which 100 are
// sampled, and 200 queue groups with 2,000 members.
type large struct {
	snap    fleet.Snapshot
	latency map[fleet.ConsumerKey]fleet.Latency
}

func newLarge() *large {
	l := &large{latency: map[fleet.ConsumerKey]fleet.Latency{}}
	names := []string{"n1", "n2", "n3"}
	for i, name := range names {
		l.snap.Servers = append(l.snap.Servers, fleet.Server{ID: "ID" + name, Name: name, Cluster: "c", Version: "2.15.2", State: fleet.Healthy, Start: day0.Add(-time.Hour),
			Cores: 2, CPU: 50, Conns: 660 + i, JetStream: &fleet.JetStream{Store: 10, MaxStore: 100, Memory: 1, MaxMemory: 100, MetaLeader: "n1", MetaSize: 3,
				MetaReplicas: []fleet.Replica{{Name: "n2", Current: true}, {Name: "n3", Current: true}}}})
	}
	for i, from := range names {
		for j, to := range names {
			if i != j {
				l.snap.Routes = append(l.snap.Routes, fleet.Route{From: "ID" + from, To: "ID" + to, ToName: to, RTT: time.Millisecond})
			}
		}
	}
	peers := []fleet.Replica{{Name: "n2", Current: true}, {Name: "n3", Current: true}}
	quick := &sketch.Sketch{}
	quick.AddN(5*time.Millisecond, 1000)
	for i := range 500 {
		stream := fleet.StreamKey{Account: "A", Stream: fmt.Sprintf("S%03d", i)}
		l.snap.Streams = append(l.snap.Streams, fleet.Stream{StreamKey: stream, Leader: names[i%3], Replicas: 3, Retention: "limits", Storage: "file", MaxAge: time.Hour, Consumers: 10, Messages: 5, Peers: peers})
		for c := range 10 {
			k := fleet.ConsumerKey{Account: "A", Stream: stream.Stream, Consumer: fmt.Sprint("worker-", c)}
			x := fleet.Consumer{ConsumerKey: k, Leader: names[(i+c)%3], Created: day0, Waiting: 1, MaxAckPending: 1000, AckPolicy: "explicit", AckWait: 30 * time.Second, Peers: peers}
			if c == 0 && i < 100 {
				x.SampleFreq = "10"
				l.latency[k] = fleet.Latency{ConsumerKey: k, Source: fleet.AckSample, Total: quick}
			}
			l.snap.Consumers = append(l.snap.Consumers, x)
		}
	}
	for i := range 200 {
		g := fleet.QueueGroup{Account: "A", Subject: fmt.Sprintf("jobs.%d", i), Queue: "crew", Total: 10, Span: time.Minute, Rate: 100}
		for m := range 10 {
			g.Members = append(g.Members, fleet.QueueMember{Server: "ID" + names[m%3], CID: uint64(i*10 + m), Name: "worker", Rate: 10, Span: time.Minute})
		}
		l.snap.Queues = append(l.snap.Queues, g)
	}
	return l
}

// look is the system as it is measured at that moment; bad consumers are stuck
// with messages that grow.
func (l *large) look(at time.Time, bad int) fleet.Look {
	s := l.snap
	s.TakenAt = at
	for i := range s.Servers {
		s.Servers[i].At, s.Servers[i].Now = at, at
	}
	for i := range s.Routes {
		s.Routes[i].At = at
	}
	for i := range s.Streams {
		s.Streams[i].At = at
	}
	for i := range s.Consumers {
		c := &s.Consumers[i]
		c.At, c.Waiting, c.Pending = at, 1, 0
		if i < bad {
			c.Waiting, c.Pending = 0, 2000+uint64(at.Sub(day0)/time.Second)
		}
	}
	for i := range s.Queues {
		s.Queues[i].At = at
	}
	for k, lat := range l.latency {
		lat.Last = at
		l.latency[k] = lat
	}
	return fleet.Look{At: at, Interval: 5 * time.Second, Snapshot: &s, Latency: l.latency}
}

// maxLookAllocs bounds what the judging of one look of that system allocates
// while all is well: what does not grow with what is well stays away.
const maxLookAllocs = 10_000

func TestJudgingAllocatesWithinBounds(t *testing.T) {
	l := newLarge()
	f := NewFindings(FindingsConfig{})
	at := day0.Add(time.Hour)
	n := testing.AllocsPerRun(10, func() {
		at = at.Add(5 * time.Second)
		f.Inspect(l.look(at, 0), nil, nil)
	})
	if open := f.Open(); len(open) != 0 {
		t.Fatalf("%d findings in a system that is well, the first: %+v", len(open), open[0])
	}
	if n > maxLookAllocs {
		t.Errorf("one look allocates %.0f times, want at most %d", n, maxLookAllocs)
	}
}

func BenchmarkFindings(b *testing.B) {
	for _, bad := range []int{0, 100, 5000} {
		b.Run(fmt.Sprintf("5000 consumers, %d bad", bad), func(b *testing.B) {
			l := newLarge()
			f := NewFindings(FindingsConfig{Max: 20_000})
			at := day0.Add(time.Hour)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				at = at.Add(5 * time.Second)
				look := l.look(at, bad)
				b.StartTimer()
				f.Inspect(look, nil, nil)
			}
		})
	}
}
