package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
)

// The ranking by latency is that of the merged sketches themselves, for short
// and long, past and present ranges, and also when there are no bounds.
func TestTopLatencyIsExact(t *testing.T) {
	t.Parallel()
	const consumers = 60
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{Interval: 5 * time.Second})
	rnd := rand.New(rand.NewPCG(31, 32))
	var all []fleet.AckWindow
	for minute := range 9 * 60 {
		at := c.add(time.Minute)
		if minute == 5*60 {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openTest(t, dir, c, Options{Interval: 5 * time.Second})
		}
		var windows []fleet.AckWindow
		for i := range consumers {
			if rnd.IntN(3) == 0 {
				continue
			}
			s := &sketch.Sketch{}
			for range 1 + rnd.IntN(5) {
				s.Add(time.Duration(float64(1+i%7) * 1e6 * math.Exp(rnd.NormFloat64())))
			}
			windows = append(windows, fleet.AckWindow{From: at.Add(-10 * time.Second), To: at, Latency: s,
				ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: fmt.Sprint("c", i)}})
		}
		if err := db.PutAcks(t.Context(), windows); err != nil {
			t.Fatal(err)
		}
		all = append(all, windows...)
		if minute%7 == 0 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.rollUpAcks(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := c.now()
	check := func(what string, r fleet.Range, q float64) {
		t.Helper()
		got, err := db.Top(t.Context(), fleet.TopQuery{Quantile: q, Range: r, N: 10})
		if err != nil {
			t.Fatal(err)
		}
		if got.From.After(r.From) || got.To.Before(r.To) {
			t.Errorf("%s: ranked %v to %v, asked for %v to %v", what, got.From, got.To, r.From, r.To)
		}
		sums := map[fleet.ConsumerKey]*sketch.Sketch{}
		for _, w := range all {
			if !w.From.Before(got.From) && w.From.Before(got.To) {
				if sums[w.ConsumerKey] == nil {
					sums[w.ConsumerKey] = &sketch.Sketch{}
				}
				sums[w.ConsumerKey].Merge(w.Latency)
			}
		}
		var want []float64
		for _, s := range sums {
			want = append(want, float64(s.Quantile(q))/1e6)
		}
		slices.Sort(want)
		slices.Reverse(want)
		want = want[:min(10, len(want))]
		var have []float64
		for _, row := range got.Rows {
			have = append(have, row.Value)
			key, err := parseConsumer(row.Key)
			if err != nil {
				t.Fatal(err)
			}
			if s := sums[key]; s.Count() != row.Count || float64(s.Quantile(q))/1e6 != row.Value {
				t.Errorf("%s: %s has %v of %d, want %v of %d", what, row.Key, row.Value, row.Count, float64(s.Quantile(q))/1e6, s.Count())
			}
		}
		if !slices.Equal(have, want) {
			t.Errorf("%s by %v: %v, want %v", what, q, have, want)
		}
	}
	ranges := map[string]fleet.Range{
		"last 10 min": {From: now.Add(-10 * time.Minute), To: now},
		"last 2 h":    {From: now.Add(-2 * time.Hour), To: now},
		"last 9 h":    {From: now.Add(-9 * time.Hour), To: now},
		"3 h before":  {From: now.Add(-5 * time.Hour), To: now.Add(-2 * time.Hour)},
		"7 h before":  {From: now.Add(-8*time.Hour - 13*time.Minute), To: now.Add(-70 * time.Minute)},
	}
	for what, r := range ranges {
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
			check(what, r, q)
		}
	}
	if _, err := db.metrics.w.Exec("DELETE FROM top; DELETE FROM mark WHERE k = 'top_acks'"); err != nil {
		t.Fatal(err)
	}
	check("without bounds", ranges["7 h before"], 0.99)
	if _, err := db.Top(t.Context(), fleet.TopQuery{Quantile: 2, Range: ranges["last 2 h"]}); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("a quantile of 2: %v", err)
	}
}

// The ranking by a column is that of the series over the same time.
func TestTopColumnEqualsSeries(t *testing.T) {
	t.Parallel()
	const consumers = 30
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{Interval: 10 * time.Second})
	rnd := rand.New(rand.NewPCG(33, 34))
	delivered := make([]uint64, consumers)
	for i := range 3 * 360 {
		at := c.add(10 * time.Second)
		s := fleet.Snapshot{TakenAt: at}
		for k := range consumers {
			delivered[k] += uint64(rnd.IntN(50 * (1 + k%9)))
			created := born
			if k == 4 && i > 500 {
				created = born.Add(time.Hour) // a second life
			}
			if k == 5 && i/100%2 == 1 {
				continue // gaps
			}
			s.Consumers = append(s.Consumers, fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: fmt.Sprint("c", k)},
				Created: created, At: at, Delivered: delivered[k], Pending: uint64(rnd.IntN(100 * (1 + k%4)))})
		}
		put(t, db, s)
		if i == 700 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openTest(t, dir, c, Options{Interval: 10 * time.Second})
		}
		if i%50 == 0 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := fleet.Range{From: c.now().Add(-100 * time.Minute), To: c.now().Add(time.Second)}
	for _, x := range []struct {
		column string
		by     fleet.TopBy
	}{{fleet.ColDelivered, fleet.ByMean}, {fleet.ColDelivered, fleet.ByMax}, {fleet.ColDelivered, fleet.BySum},
		{fleet.ColPending, fleet.ByMean}, {fleet.ColPending, fleet.ByMax}} {
		got, err := db.Top(t.Context(), fleet.TopQuery{Kind: fleet.KindConsumer, Column: x.column, By: x.by, Range: r, N: 8})
		if err != nil || got.Of != consumers || len(got.Rows) != 8 {
			t.Fatalf("%+v, %v", got, err)
		}
		var want []float64
		for k := range consumers {
			name := fmt.Sprint("A/S/c", k)
			var n, sum, most float64
			for _, p := range measured(series(t, db, fleet.KindConsumer, name, x.column, fleet.Range{From: got.From, To: r.To}, 5000)) {
				n++
				sum += p.Avg
				most = max(most, p.Max)
			}
			switch x.by {
			case fleet.ByMean:
				want = append(want, sum/n)
			case fleet.ByMax:
				want = append(want, most)
			case fleet.BySum:
				want = append(want, sum*10) // a look every 10 s
			}
		}
		slices.Sort(want)
		slices.Reverse(want)
		for i, row := range got.Rows {
			if math.Abs(row.Value-want[i]) > 1e-6*want[i]+0.002 {
				t.Errorf("%s by %s, place %d: %v, want %v", x.column, x.by, i, row.Value, want[i])
			}
			if i > 0 && row.Value > got.Rows[i-1].Value {
				t.Errorf("%s by %s is not sorted", x.column, x.by)
			}
		}
	}
}
