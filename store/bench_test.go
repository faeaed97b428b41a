package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

// manyConsumers is a look at n consumers, a third of them busy.
func manyConsumers(at time.Time, i, n int, rnd *rand.Rand) fleet.Snapshot {
	s := fleet.Snapshot{TakenAt: at, Consumers: make([]fleet.Consumer, n)}
	for k := range s.Consumers {
		busy := uint64(0)
		if k%3 == 0 {
			busy = uint64(i*100 + rnd.IntN(40))
		}
		s.Consumers[k] = fleet.Consumer{
			ConsumerKey: fleet.ConsumerKey{Account: "APP", Stream: fmt.Sprint("S", k/10), Consumer: fmt.Sprint("C", k)}, Created: born,
			At: at, Delivered: busy, AckFloor: busy, AckPending: int(busy % 7), Pending: busy % 11,
		}
	}
	return s
}

// BenchmarkPutSnapshot: a look at 5,000 consumers, 40,000 values, one
// transaction with a full sync. Baseline, the research prototype: 50,000 values
// in 1.8 ms at the median.
func BenchmarkPutSnapshot(b *testing.B) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{Interval: 5 * time.Second})
	rnd := rand.New(rand.NewPCG(21, 22))
	looks := make([]fleet.Snapshot, 8)
	for i := range looks {
		looks[i] = manyConsumers(time.Time{}, i, 5000, rnd)
	}
	put(b, db, manyConsumers(c.add(5*time.Second), 0, 5000, rnd)) // adds the entities
	i := 0
	for b.Loop() {
		s := looks[i%len(looks)]
		i++
		s.TakenAt = c.add(5 * time.Second)
		put(b, db, s)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/40_000, "ns/value")
}

// BenchmarkSeal: a slot of 5,000 consumers and 120 looks, 4.8 million values.
// Baselines of the research prototype: 0.44 to 1.1 B and 17 ns a value.
func BenchmarkSeal(b *testing.B) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{Interval: 5 * time.Second})
	rnd := rand.New(rand.NewPCG(21, 22))
	for i := range 121 {
		put(b, db, manyConsumers(c.add(5*time.Second), i, 5000, rnd))
	}
	h := db.closing[0]
	for b.Loop() {
		if err := db.seal(b.Context(), h); err != nil {
			b.Fatal(err)
		}
		db.closing = []*head{h}
	}
	values := 0
	for _, x := range h.blocks {
		values += x.looks() * len(x.base)
	}
	var size int64
	if err := db.metrics.r.QueryRow("SELECT sum(length(d)) FROM raw").Scan(&size); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(size)/float64(values), "B/value")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(values), "ns/value")
}

// dayOld is a store with 24 h of one server, looks 10 s apart.
func dayOld(b *testing.B) (*DB, *clock) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{Interval: 10 * time.Second})
	for i := range 24 * 360 {
		put(b, db, look(c.add(10*time.Second), i))
	}
	if err := db.sealAll(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := db.rollUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	return db, c
}

// BenchmarkSeries24h: 300 points of 24 h. The baseline reads the looks.
func BenchmarkSeries24h(b *testing.B) {
	db, c := dayOld(b)
	q := fleet.SeriesQuery{Entity: fleet.Entity{Kind: fleet.KindServer, Key: "n1"}, Column: fleet.ColInMsgs,
		Range: fleet.Range{From: c.now().Add(-24 * time.Hour), To: c.now()}}
	for _, points := range []int{300, 5000} {
		name := map[int]string{300: "rolled up", 5000: "baseline raw"}[points]
		b.Run(name, func(b *testing.B) {
			q.Points = points
			for b.Loop() {
				if s, err := db.Series(b.Context(), q); err != nil || len(s.Data) < 250 {
					b.Fatalf("%d points, %v", len(s.Data), err)
				}
			}
		})
	}
}

// BenchmarkObserve: three targets, sampled, a window a second. "2 s" is what
// the tuner asks for every 2 s; "15 min" the longest that it may look back.
func BenchmarkObserve(b *testing.B) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{})
	split := traffic.Split{Name: "orders"}
	rnd := rand.New(rand.NewPCG(23, 24))
	var keys []fleet.ConsumerKey
	for _, name := range []string{"C0", "C1", "C2"} {
		split.Targets = append(split.Targets, traffic.Target{Name: name, Observe: &traffic.Observed{Stream: "S0", Consumer: name}})
		keys = append(keys, fleet.ConsumerKey{Account: "APP", Stream: "S0", Consumer: name})
	}
	for i := range 900 {
		put(b, db, manyConsumers(c.add(time.Second), i, 100, rnd))
		var acks []fleet.AckWindow
		for _, k := range keys {
			s := &sketch.Sketch{}
			for range 100 {
				s.Add(time.Duration(20e6 * (1 + rnd.ExpFloat64())))
			}
			acks = append(acks, fleet.AckWindow{ConsumerKey: k, From: c.now().Add(-time.Second), To: c.now(), Latency: s})
		}
		if err := db.PutAcks(b.Context(), acks); err != nil {
			b.Fatal(err)
		}
		if i%100 == 0 {
			if err := db.sealAll(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("latency chart of 15 min", func(b *testing.B) {
		r := fleet.Range{From: c.now().Add(-15 * time.Minute), To: c.now()}
		for b.Loop() {
			if l, err := db.Latency(b.Context(), keys[0], r, 90); err != nil || len(l.Data) < 80 {
				b.Fatalf("%d points, %v", len(l.Data), err)
			}
		}
	})
	for _, span := range []time.Duration{2 * time.Second, time.Minute, 15 * time.Minute} {
		b.Run(span.String(), func(b *testing.B) {
			r := fleet.Range{From: c.now().Add(-span), To: c.now()}
			for b.Loop() {
				if o, err := db.Observe(b.Context(), split, r); err != nil || o[0].Samples == 0 {
					b.Fatalf("%+v, %v", o, err)
				}
			}
		})
	}
}

// BenchmarkTop: the ten highest of 5,000 consumers by p99, of 2 h. The baseline
// merges all of them.
func BenchmarkTop(b *testing.B) {
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{Interval: 5 * time.Second})
	rnd := rand.New(rand.NewPCG(25, 26))
	// Log-normal latencies with 1.5 % of ten times as much, of consumers whose
	// medians are log-normal as well.
	medians := make([]float64, 5000)
	for i := range medians {
		medians[i] = 5e6 * math.Exp(rnd.NormFloat64())
	}
	for i := range 36 {
		at := c.add(5 * time.Minute)
		var windows []fleet.AckWindow
		for k := range 5000 {
			s := &sketch.Sketch{}
			for range 200 {
				v := medians[k] * math.Exp(0.5*rnd.NormFloat64())
				if rnd.IntN(1000) < 15 {
					v *= 10
				}
				s.Add(time.Duration(v))
			}
			windows = append(windows, fleet.AckWindow{From: at.Add(-290 * time.Second), To: at, Latency: s,
				ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: fmt.Sprint("S", k/10), Consumer: fmt.Sprint("C", k)}})
		}
		if err := db.PutAcks(b.Context(), windows); err != nil {
			b.Fatal(err)
		}
		if i%2 == 0 {
			if err := db.sealAll(b.Context()); err != nil {
				b.Fatal(err)
			}
			if err := db.rollUpAcks(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, n := range []int{10, 5000} {
		b.Run(map[int]string{10: "10", 5000: "baseline all"}[n], func(b *testing.B) {
			for b.Loop() {
				t, err := db.Top(b.Context(), fleet.TopQuery{Quantile: 0.99, N: n, Range: fleet.Range{From: c.now().Add(-2 * time.Hour), To: c.now()}})
				if err != nil || len(t.Rows) != n {
					b.Fatalf("%d rows, %v", len(t.Rows), err)
				}
			}
		})
	}
}
