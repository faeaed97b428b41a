package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
)

// A ranking over hours is that of the series over the same time: in the middle
// of the past, where there are only rows of hours, and up to now.
func TestTopOverHoursEqualsSeries(t *testing.T) {
	t.Parallel()
	const consumers = 12
	every := time.Minute
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{Interval: every})
	rnd := rand.New(rand.NewPCG(35, 36))
	delivered := make([]uint64, consumers)
	for i := range 20 * 60 {
		at := c.add(every)
		s := fleet.Snapshot{TakenAt: at}
		for k := range 3 {
			// A clock that is behind: its highest difference is below zero.
			s.Servers = append(s.Servers, fleet.Server{ID: fmt.Sprint("S", k), Name: fmt.Sprint("s", k), State: fleet.Healthy, Start: born,
				At: at, Now: at.Add(-time.Duration(1+k+rnd.IntN(50)) * time.Second)})
		}
		for k := range consumers {
			delivered[k] += uint64(rnd.IntN(50 * (1 + k%5)))
			created := born
			if k == 4 && i > 600 {
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
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openTest(t, dir, c, Options{Interval: every})
		}
		if i%25 == 0 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.rollUp(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := c.now().Add(time.Second)
	var oldest int64
	if err := db.metrics.r.QueryRow("SELECT min(k >> 32) FROM top WHERE k & 0xFFFFFFFF < ?", topHour).Scan(&oldest); err != nil {
		t.Fatal(err)
	}
	if age := ms(now) - oldest*unit; age > topSlotsKept+3*hour || age < topSlotsKept-hour {
		t.Errorf("the oldest ranking of a slot is %v old", time.Duration(age)*time.Millisecond)
	}
	for _, r := range []fleet.Range{
		{From: now.Add(-19 * time.Hour), To: now},
		{From: now.Add(-3*time.Hour - 7*time.Minute), To: now},
		{From: now.Add(-3*time.Hour - 7*time.Minute), To: now.Add(-95 * time.Minute)},
		{From: now.Add(-15 * time.Minute), To: now},
		{From: now.Add(-17*time.Hour - 20*time.Minute), To: now.Add(-14*time.Hour - 40*time.Minute)},
		{From: now.Add(-17 * time.Hour), To: now.Add(-16*time.Hour - 50*time.Minute)},
		{From: now.Add(-12 * time.Hour), To: now.Add(-4*time.Hour - 13*time.Minute)},
	} {
		for _, x := range []struct {
			kind   fleet.Kind
			column string
			by     fleet.TopBy
		}{
			{fleet.KindConsumer, fleet.ColDelivered, fleet.ByMean}, {fleet.KindConsumer, fleet.ColDelivered, fleet.ByMax},
			{fleet.KindConsumer, fleet.ColDelivered, fleet.BySum}, {fleet.KindConsumer, fleet.ColPending, fleet.ByMean},
			{fleet.KindConsumer, fleet.ColPending, fleet.ByMax}, {fleet.KindServer, fleet.ColSkew, fleet.ByMax},
		} {
			got, err := db.Top(t.Context(), fleet.TopQuery{Kind: x.kind, Column: x.column, By: x.by, Range: r, N: 20})
			if err != nil {
				t.Fatal(err)
			}
			if got.From.After(r.From) || got.To.Before(r.To) || got.From.Before(r.From.Add(-time.Hour)) || got.To.After(r.To.Add(time.Hour)) {
				t.Errorf("ranked %v to %v, asked for %v to %v", got.From, got.To, r.From, r.To)
			}
			to := got.To
			if to.Before(now) {
				to = fromMS(ceil(ms(to), maxUnits*unit)) // to the slot
			}
			want := map[string]float64{}
			for _, row := range got.Rows {
				var n, sum float64
				most := math.Inf(-1)
				for _, p := range measured(series(t, db, x.kind, row.Key, x.column, fleet.Range{From: got.From, To: to}, 5000)) {
					n += float64(p.N)
					sum += p.Avg * float64(p.N)
					most = max(most, p.Max)
				}
				switch x.by {
				case fleet.ByMean:
					want[row.Key] = sum / n
				case fleet.ByMax:
					want[row.Key] = most
				case fleet.BySum:
					want[row.Key] = sum * every.Seconds()
				}
				if row.Count != uint64(n) {
					t.Errorf("%s of %s from %v: %d looks, want %v", x.column, row.Key, got.From, row.Count, n)
				}
				if w := want[row.Key]; math.Abs(row.Value-w) > 1e-6*math.Abs(w)+0.002 {
					t.Errorf("%s of %s by %s from %v to %v: %v, want %v", x.column, row.Key, x.by, got.From, got.To, row.Value, w)
				}
			}
			if !slices.IsSortedFunc(got.Rows, func(a, b fleet.Ranked) int { return int(math.Copysign(1, b.Value-a.Value)) }) {
				t.Errorf("%s by %s is not sorted: %v", x.column, x.by, got.Rows)
			}
			if len(got.Rows) != got.Of || x.kind == fleet.KindConsumer && got.Of < consumers-1 {
				t.Errorf("%d of %d are ranked", len(got.Rows), got.Of)
			}
		}
	}
}

// After a time in which nothing was watched, ranking goes on at once, and what
// is too old of before is gone.
func TestTopHoursPassOverGaps(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: time.Minute})
	watch := func(looks int) {
		for i := range looks {
			put(t, db, look(c.add(time.Minute), i))
		}
		if err := db.sealAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.rollUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	watch(3 * 60)
	c.add(5 * 24 * time.Hour)
	watch(3 * 60)
	var hours, early int
	begin := ms(c.now()) - 4*hour
	if err := db.metrics.r.QueryRow("SELECT count(DISTINCT k >> 32), (SELECT count(*) FROM top WHERE k & 0xFFFFFFFF < ?1 AND k >> 32 < ?2) FROM top WHERE k & 0xFFFFFFFF > ?1",
		topHour, begin/unit).Scan(&hours, &early); err != nil {
		t.Fatal(err)
	}
	if hours < 5 || hours > 8 || early != 0 {
		t.Errorf("%d hours are ranked, want those that were watched; %d rankings of slots of before the gap are left", hours, early)
	}
	got, err := db.Top(t.Context(), fleet.TopQuery{Kind: fleet.KindServer, Column: fleet.ColCPU, Range: fleet.Range{From: c.now().Add(-6 * 24 * time.Hour), To: c.now()}, N: 1})
	if err != nil || len(got.Rows) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if n := got.Rows[0].Count; n < 350 || n > 360 {
		t.Errorf("%d looks are ranked, 360 were taken", n)
	}
}
