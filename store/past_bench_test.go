package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
)

// largeLook is a look at 3 servers, 500 streams and 5,000 consumers with three
// replicas each, the 256 busiest of 2,000 connections, 60 queue groups and 20
// instances of micro services; a third of all is busy.
func largeLook(at time.Time, i int) fleet.Snapshot {
	s := fleet.Snapshot{TakenAt: at, Expected: 3}
	peers := []fleet.Replica{{Name: "n2", Current: true, Active: time.Duration(i%900) * time.Millisecond}, {Name: "n3", Current: true, Lag: uint64(i % 3)}}
	moved := func(k, rate int) uint64 {
		if k%3 != 0 {
			return uint64(1000 * k)
		}
		return uint64(1000*k + i*rate + (i*k)%17)
	}
	for k := range 3 {
		s.Servers = append(s.Servers, fleet.Server{ID: fmt.Sprintf("N%055d", k), Name: fmt.Sprint("n", k+1), Cluster: "C1", Version: "2.15.2", State: fleet.Healthy, At: at, Start: born,
			InMsgs: moved(3*k, 5000), OutMsgs: moved(3*k, 9000), CPU: float64(20 + (i*k)%9), Mem: int64(1<<28 + (i*k)%4096), Conns: 667, JetStream: &fleet.JetStream{Store: moved(3*k, 800), MetaLeader: "n1"},
			Internals: &fleet.Internals{At: at, Subs: fleet.SubTotals{Subs: 9000, Matches: moved(3*k, 100)}, Raft: fleet.RaftTotals{Groups: 5501, Leading: 1800}}})
		for a := range 10 {
			s.ConnSums = append(s.ConnSums, fleet.ConnSum{Server: s.Servers[k].ID, Account: fmt.Sprint("TENANT_", a), Conns: 66, Subs: 300, InMsgs: moved(3*a, 400), OutMsgs: moved(3*a, 500),
				Clients: map[string]int{"go 1.55.0": 40, "python3 2.9.0": 20, "rust 0.40.0": 6}, At: at})
		}
	}
	for k := range 500 {
		s.Streams = append(s.Streams, fleet.Stream{StreamKey: fleet.StreamKey{Account: fmt.Sprint("TENANT_", k%10), Stream: fmt.Sprint("ORDERS_", k)}, Created: born, At: at,
			Subjects: []string{fmt.Sprintf("orders.%d.>", k)}, Storage: "file", Retention: "limits", Discard: "old", Replicas: 3, Leader: "n1", Peers: peers, MaxBytes: -1, MaxMsgs: -1, Consumers: 10,
			FirstSeq: 1, LastSeq: moved(k, 50), Messages: moved(k, 50), Bytes: 300 * moved(k, 50), Source: fleet.System})
	}
	for k := range 5000 {
		n := moved(k, 50)
		s.Consumers = append(s.Consumers, fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: fmt.Sprint("TENANT_", k/10%10), Stream: fmt.Sprint("ORDERS_", k/10), Consumer: fmt.Sprint("worker-", k)}, Created: born, At: at,
			Leader: "n2", Peers: peers, FilterSubjects: []string{fmt.Sprintf("orders.%d.*.created", k/10)}, AckPolicy: "explicit", AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 1000, Durable: true,
			SampleFreq: "100", Delivered: n, AckFloor: n - n%40, AckPending: int(n % 40), Pending: n % 11, Waiting: 4, Source: fleet.System, Metadata: map[string]string{"_nats.ver": "2.15.2", "_nats.level": "1"}})
	}
	for k := range 256 {
		s.Conns = append(s.Conns, fleet.Conn{Server: s.Servers[k%3].ID, CID: uint64(1000 + 7*k), Name: fmt.Sprint("orders-api-", k), Account: fmt.Sprint("TENANT_", k%10), User: fmt.Sprint("app-", k%10), Lang: "go", Version: "1.55.0",
			IP: fmt.Sprintf("10.0.%d.%d", k%7, k), RTT: time.Duration(200+(i*k)%90) * time.Microsecond, Subs: 5, InMsgs: moved(k, 40), OutMsgs: moved(k, 60), InBytes: 250 * moved(k, 40), OutBytes: 250 * moved(k, 60),
			Pending: int64((i * k) % 5 * 100), Start: born.Add(time.Duration(k) * time.Second), Idle: fmt.Sprint(i*k%60, "s"), At: at})
	}
	for k := range 60 {
		g := fleet.QueueGroup{Account: fmt.Sprint("TENANT_", k%10), Subject: fmt.Sprintf("orders.%d.process", k), Queue: "workers", Since: born, At: at, Total: 8, Rate: 400, Span: time.Minute}
		for m := range 8 {
			g.Members = append(g.Members, fleet.QueueMember{Server: s.Servers[m%3].ID, CID: uint64(1000 + m + 8*k), SID: "4", Name: fmt.Sprint("worker-", m), IP: fmt.Sprintf("10.1.%d.%d", k, m), Lang: "go", Version: "1.55.0",
				Start: born, Active: at, RTT: time.Millisecond, Msgs: moved(k, 50+m), Since: born, Moved: at, Rate: float64(50 + (i*m)%7), Span: time.Minute})
		}
		s.Queues = append(s.Queues, g)
	}
	for k := range 20 {
		s.Services = append(s.Services, fleet.Service{Account: "TENANT_1", Name: fmt.Sprint("pay", k%4), ID: fmt.Sprintf("INSTANCE%014d", k), Version: "1.2.3", Metadata: map[string]string{"region": "east"}, Started: born, At: at,
			Endpoints: []fleet.Endpoint{{Name: "charge", Subject: "pay.charge", Queue: "q", Requests: moved(3*k, 90), ProcessingTime: time.Duration(moved(3*k, 90)) * time.Millisecond, Data: fmt.Appendf(nil, `{"cpu":%d}`, (i*k)%90)}}})
	}
	return s
}

// aged takes the lists that are read less often from an older look.
func aged(s fleet.Snapshot, older fleet.Snapshot) fleet.Snapshot {
	s.ConnSums, s.Queues = older.ConnSums, older.Queues
	for k := range s.Servers {
		s.Servers[k].Internals = older.Servers[k].Internals
	}
	return s
}

// BenchmarkSnapshotAt: any moment of 35 minutes of a large system, none of them
// asked for before: of what is sealed, and of what is not.
func BenchmarkSnapshotAt(b *testing.B) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{Interval: 5 * time.Second})
	start := c.now()
	var slow fleet.Snapshot
	for i := range 420 {
		s := largeLook(c.add(5*time.Second), i)
		if i%12 == 0 {
			slow = s
		}
		put(b, db, aged(s, slow))
		if i%12 == 11 {
			if err := db.maintain(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := db.sealAll(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		from, to time.Duration // of the moments
	}{{"sealed", 3 * time.Minute, 29 * time.Minute}, {"open", 30*time.Minute + time.Second, 35 * time.Minute}} {
		b.Run(tt.name, func(b *testing.B) {
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				at := start.Add(tt.from + time.Duration(i)*7919*time.Millisecond%(tt.to-tt.from))
				begun := time.Now()
				s, _, err := db.SnapshotAt(b.Context(), at)
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begun))
				if len(s.Consumers) != 5000 || len(s.Streams) != 500 || len(s.Conns) != 256 || len(s.Queues) != 60 || len(s.Services) != 20 {
					b.Fatalf("%d consumers, %d streams, %d connections, %d queue groups, %d services", len(s.Consumers), len(s.Streams), len(s.Conns), len(s.Queues), len(s.Services))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}

// BenchmarkDetails: what the lists of a large system take, noted once a minute
// for an hour: bytes in the file a minute, and the time of a note.
func BenchmarkDetails(b *testing.B) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{Interval: 5 * time.Second})
	notes := 0
	for b.Loop() {
		s := largeLook(c.add(time.Minute), 12*notes)
		s.Streams, s.Consumers = nil, nil
		b.StopTimer()
		put(b, db, s)
		b.StartTimer()
		if err := db.noteDetails(b.Context()); err != nil {
			b.Fatal(err)
		}
		notes++
	}
	if notes < 60 {
		return
	}
	rows, err := db.metrics.r.QueryContext(b.Context(), "SELECT k & 255, count(*), sum(length(d)) FROM detail GROUP BY 1")
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	all := 0
	for rows.Next() {
		var list, n, size int
		if err := rows.Scan(&list, &n, &size); err != nil {
			b.Fatal(err)
		}
		all += size
		if list == int(listConns) {
			b.ReportMetric(float64(size)/float64(notes), "B/minute-connections")
		}
	}
	b.ReportMetric(float64(all)/float64(notes), "B/minute")
}
