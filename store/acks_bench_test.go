package store

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
)

// BenchmarkAcks: 50,000 acknowledgements a second of 500 consumers, folded into
// a sketch each and recorded once a second, in one transaction with a full sync,
// sealing included. Target: 2 µs of CPU an event from the message to the sketch
// on disk; the collector's part is BenchmarkAckTake.
func BenchmarkAcks(b *testing.B) {
	const consumers, perSecond = 500, 50_000
	c := newClock()
	db := openTest(b, b.TempDir(), c, Options{})
	rnd := rand.New(rand.NewPCG(33, 34))
	latencies := make([]time.Duration, 8192)
	for i := range latencies {
		latencies[i] = time.Duration(20e6 * (1 + rnd.ExpFloat64()*rnd.ExpFloat64()))
	}
	set := make([]sketch.Sketch, consumers)
	windows := make([]fleet.AckWindow, consumers)
	for i := range windows {
		windows[i] = fleet.AckWindow{Latency: &set[i],
			ConsumerKey: fleet.ConsumerKey{Account: "APP", Stream: fmt.Sprint("S", i/10), Consumer: fmt.Sprint("C", i)}}
	}
	n := 0
	for b.Loop() {
		for i := range set {
			set[i].Reset()
		}
		for range perSecond {
			set[n%consumers].Add(latencies[n%len(latencies)])
			n++
		}
		to := c.add(time.Second)
		for i := range windows {
			windows[i].From, windows[i].To = to.Add(-time.Second), to
		}
		if err := db.PutAcks(b.Context(), windows); err != nil {
			b.Fatal(err)
		}
		if to.Unix()%60 == 0 {
			if err := db.sealAll(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
