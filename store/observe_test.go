package store

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

func eastSplit() traffic.Split {
	return traffic.Split{Name: "orders", Targets: []traffic.Target{
		{Name: "east", Observe: &traffic.Observed{Stream: "ORDERS", Consumer: "east"}},
		{Name: "west", Observe: &traffic.Observed{Account: "APP", Stream: "ORDERS", Consumer: "nowhere"}},
		{Name: "blind"},
	}}
}

func observe(tb testing.TB, db *DB, from, to time.Time) traffic.Observation {
	tb.Helper()
	return observeIn(tb, db, "", from, to)
}

// observeIn observes the consumer of an account; "" is that of the only one.
func observeIn(tb testing.TB, db *DB, account string, from, to time.Time) traffic.Observation {
	tb.Helper()
	split := eastSplit()
	split.Targets[0].Observe.Account = account
	obs, err := db.Observe(tb.Context(), split, fleet.Range{From: from, To: to})
	if err != nil {
		tb.Fatalf("Observe: %v", err)
	}
	if len(obs) != 3 || obs[1].Target != "west" || !obs[1].To.IsZero() || !obs[2].To.IsZero() {
		tb.Fatalf("Observe = %+v", obs)
	}
	return obs[0]
}

// flow is a consumer whose every message is accounted for.
type flow struct {
	rnd                              *rand.Rand
	arrived, delivered, acked, again uint64
	waiting, flying                  uint64
	samples                          []time.Duration
}

// second lets a second pass and returns the consumer and its ACK window.
func (f *flow) second(at time.Time) (fleet.Consumer, fleet.AckWindow) {
	in := uint64(80 + f.rnd.IntN(40))
	f.arrived += in
	f.waiting += in
	out := min(f.waiting, uint64(85+f.rnd.IntN(30)))
	f.waiting -= out
	f.flying += out
	f.delivered += out
	w := fleet.AckWindow{ConsumerKey: eastKey, From: at.Add(-time.Second), To: at, Latency: &sketch.Sketch{}}
	if f.flying > 5 {
		f.delivered++ // one is delivered again, and acknowledged
		f.again++
		w.Redelivered = 1
	}
	done := min(f.flying, uint64(80+f.rnd.IntN(40)))
	f.flying -= done
	f.acked += done
	for range done {
		d := time.Duration(20e6 * math.Exp(0.3*f.rnd.NormFloat64()))
		f.samples = append(f.samples, d)
		w.Latency.Add(d)
	}
	return fleet.Consumer{ConsumerKey: eastKey, Created: born, At: at, Delivered: f.delivered, AckFloor: f.acked,
		AckPending: int(f.flying), Pending: f.waiting, SampleFreq: "100", AckWait: 30 * time.Second, MaxAckPending: 1000}, w
}

// Consecutive windows of any length share out everything that happened.
func TestObserveSharesOutEverything(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	f := &flow{rnd: rand.New(rand.NewPCG(7, 8))}
	var sum traffic.Observation
	all := &sketch.Sketch{}
	var from time.Time
	var first flow
	for i := range 400 {
		at := c.add(time.Second)
		con, w := f.second(at)
		put(t, db, fleet.Snapshot{TakenAt: at.Add(3 * time.Millisecond), Consumers: []fleet.Consumer{con}})
		if err := db.PutAcks(t.Context(), []fleet.AckWindow{w}); err != nil {
			t.Fatal(err)
		}
		switch {
		case i == 0:
			from = at
			first = *f
		case f.rnd.IntN(3) == 0 || i == 399: // windows of 1 to some seconds, empty ones too
			for _, to := range []time.Time{at.Add(100 * time.Millisecond), at.Add(500 * time.Millisecond)} {
				o := observe(t, db, from, to)
				sum.Arrived += o.Arrived
				sum.Acked += o.Acked
				sum.Redelivered += o.Redelivered
				sum.Samples += o.Samples
				all.Merge(o.Latency)
				if o.Backlog != f.waiting+f.flying || o.InFlight != f.flying || !o.To.Equal(at) {
					t.Fatalf("second %d: %+v, want backlog %d, in flight %d", i, o, f.waiting+f.flying, f.flying)
				}
				if o.Samples > 0 && (o.Share < 0.9 || o.Estimated || o.Mean == 0) {
					t.Fatalf("second %d: share %v of %d samples, %d acked", i, o.Share, o.Samples, o.Acked)
				}
				from = to
			}
		}
	}
	if sum.Arrived != f.arrived-first.arrived || sum.Acked != f.acked-first.acked || sum.Redelivered != f.again-first.again {
		t.Errorf("arrived %d, acked %d, redelivered %d, want %d, %d, %d", sum.Arrived, sum.Acked, sum.Redelivered,
			f.arrived-first.arrived, f.acked-first.acked, f.again-first.again)
	}
	exact := f.samples[len(first.samples):]
	if int(sum.Samples) != len(exact) {
		t.Errorf("%d samples, want %d", sum.Samples, len(exact))
	}
	checkQuantiles(t, "merged windows", all, exact)

	// The same after a kill, in one piece, and once everything is sealed.
	start := c.now().Add(-399 * time.Second)
	want := observe(t, db, start, c.now())
	again := openTest(t, copyDir(t, dir), c, Options{})
	got := observeIn(t, again, "APP", start, c.now())
	if got.Samples != want.Samples || got.Acked != want.Acked || got.Mean != want.Mean || want.Samples == 0 {
		t.Errorf("after a kill %+v, want %+v", got, want)
	}
	c.add(time.Hour)
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := observe(t, db, start, start.Add(399*time.Second))
	if late.Acked != want.Acked || math.Abs(float64(late.Samples)-float64(want.Samples)) > 0.05*float64(want.Samples) {
		t.Errorf("an hour later %d acked and %d samples, want %d and about %d", late.Acked, late.Samples, want.Acked, want.Samples)
	}
}

func checkQuantiles(t *testing.T, what string, s *sketch.Sketch, exact []time.Duration) {
	t.Helper()
	exact = slices.Clone(exact)
	slices.Sort(exact)
	for _, q := range []float64{0.5, 0.95, 0.99} {
		want := exact[int(math.Ceil(q*float64(len(exact))))-1]
		if off := math.Abs(float64(s.Quantile(q)-want)) / float64(want); off > 0.01 {
			t.Errorf("%s: quantile %v is %v, exact %v: %.2f %% off", what, q, s.Quantile(q), want, off*100)
		}
	}
}

func TestObserveWithoutSamplesEstimates(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	for i := range 60 {
		at := c.add(time.Second)
		// 200 a second, 8 in flight: 40 ms by Little's law.
		put(t, db, fleet.Snapshot{TakenAt: at, Consumers: []fleet.Consumer{{ConsumerKey: eastKey, Created: born, At: at,
			Delivered: uint64(200*i + 8), AckPending: 8, AckFloor: uint64(200 * i)}}})
	}
	o := observe(t, db, start.Add(10*time.Second), c.now())
	if !o.Estimated || o.Latency != nil || o.Mean < 39*time.Millisecond || o.Mean > 41*time.Millisecond || o.Share != 0 {
		t.Errorf("Observe = %+v, want an estimate of 40 ms", o)
	}
	l, err := db.Latency(t.Context(), eastKey, fleet.Range{From: start, To: c.now()}, 10)
	if err != nil || l.Source != fleet.Estimate || l.Total != nil || l.Mean < 39*time.Millisecond || l.Mean > 41*time.Millisecond || len(l.Data) < 5 {
		t.Errorf("Latency = %+v, %v, want an estimate of 40 ms", l, err)
	}
}

func TestObserveDoesNotGuessTheAccount(t *testing.T) {
	t.Parallel()
	c := newClock()
	for _, account := range []string{"", "APP"} {
		db := openTest(t, t.TempDir(), c, Options{})
		for i := range 3 {
			s := look(c.add(time.Second), i)
			other := s.Consumers[0]
			other.Account = "AAA"
			other.Delivered *= 50
			s.Consumers = append([]fleet.Consumer{other}, s.Consumers...)
			put(t, db, s)
		}
		o := observeIn(t, db, account, c.now().Add(-2*time.Second), c.now())
		if account == "" && !o.To.IsZero() {
			t.Errorf("two accounts have the consumer, and one was taken: %+v", o)
		}
		if account != "" && o.Arrived != 20 {
			t.Errorf("with the account known: %+v, want 20 arrived", o)
		}
	}
}

func TestObserveWorkers(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	report := func(worker string, workers int, mean time.Duration, cpu float64) fleet.WorkerReport {
		s := &sketch.Sketch{}
		s.AddN(mean, 100)
		return fleet.WorkerReport{Split: "orders", Target: "east", Worker: worker, At: c.now().Add(-time.Hour), Interval: 5 * time.Second,
			Workers: workers, InFlight: 1, Processed: 100, Failed: 2, Processing: s, CPU: cpu, Memory: 10}
	}
	reports := func(r ...fleet.WorkerReport) {
		t.Helper()
		if err := db.PutReports(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	reports(report("gone", 50, time.Second, 10))
	c.add(20 * time.Second)
	reports(report("a", 4, 10*time.Millisecond, 40), report("b", 8, 30*time.Millisecond, math.NaN()))
	c.add(5 * time.Second)
	early := c.now()
	reports(report("a", 6, 20*time.Millisecond, 60))
	c.add(time.Second)
	o := observe(t, db, early, c.now())
	if o.Workers != 14 || o.Processed != 200 || o.Failed != 4 || o.Processing != 25*time.Millisecond || o.CPU != 30 || !o.ReportedAt.Equal(early) {
		t.Errorf("Observe = %+v", o)
	}
	if o := observe(t, db, early.Add(-time.Minute), early.Add(-time.Millisecond)); o.Workers != 12 {
		t.Errorf("before the newest report %d workers, want 12", o.Workers)
	}
	put(t, db, look(c.now(), 1))
	if got := measured(series(t, db, fleet.KindWorker, "orders/east", fleet.ColWorkers, fleet.Range{From: early, To: c.now().Add(time.Second)}, 100)); len(got) != 1 || got[0].Avg != 14 {
		t.Errorf("series of workers %v", got)
	}
	for range 2 { // silent for long: nobody is left, and nothing is invented
		c.add(20 * time.Minute)
		if err := db.clean(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if o := observe(t, db, early, c.now()); o.Workers != 0 || db.workers.count != 0 {
		t.Errorf("%d workers observed, %d remembered long after their last report", o.Workers, db.workers.count)
	}
}

// Sketches of every level say the same quantiles, within 1 % of the exact ones.
func TestLatencyLevels(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{Interval: 10 * time.Second})
	rnd := rand.New(rand.NewPCG(9, 10))
	start := c.now()
	var exact []time.Duration
	for i := range 28 * 60 { // 28 h, a window a minute
		at := c.add(time.Minute)
		if i >= 300 && i < 420 {
			continue // nothing for two hours
		}
		w := fleet.AckWindow{ConsumerKey: eastKey, From: at.Add(-time.Second), To: at, Latency: &sketch.Sketch{}, Redelivered: 1}
		for range 20 {
			d := time.Duration(20e6 * math.Exp(0.5*rnd.NormFloat64()))
			exact = append(exact, d)
			w.Latency.Add(d)
		}
		if err := db.PutAcks(t.Context(), []fleet.AckWindow{w}); err != nil {
			t.Fatal(err)
		}
		if i%120 == 0 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.rollUpAcks(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := fleet.Range{From: start, To: c.now().Add(time.Minute)}
	check := func(what string, db *DB) {
		t.Helper()
		for _, tt := range []struct {
			points int
			step   time.Duration
		}{{400, 5 * time.Minute}, {40, time.Hour}, {5, 6 * time.Hour}} {
			l, err := db.Latency(t.Context(), eastKey, r, tt.points)
			if err != nil {
				t.Fatal(err)
			}
			if l.Source != fleet.AckSample || l.Step != tt.step || l.Total.Count() != uint64(len(exact)) {
				t.Errorf("%s, %d points: %s, step %v, %d samples, want %v and %d", what, tt.points, l.Source, l.Step, l.Total.Count(), tt.step, len(exact))
			}
			checkQuantiles(t, what, l.Total, exact)
			n, gaps := uint64(0), 0
			for _, p := range l.Data {
				n += p.N
				if p.N == 0 {
					gaps++
				} else if p.P50 > p.P95 || p.P95 > p.P99 || p.P99 > p.Max {
					t.Errorf("%s: point %+v", what, p)
				}
			}
			if n != uint64(len(exact)) || gaps != 1 && tt.step < 2*time.Hour {
				t.Errorf("%s, %d points: %d samples in the points and %d gaps", what, tt.points, n, gaps)
			}
			// The parts are the same distributions, whole.
			again, parts, err := db.LatencyParts(t.Context(), eastKey, r, tt.points)
			if err != nil || again.Step != tt.step || len(parts) != len(l.Data)-gaps {
				t.Fatalf("%s, %d points: %d parts of %v, %v, want %d", what, tt.points, len(parts), again.Step, err, len(l.Data)-gaps)
			}
			sum := &sketch.Sketch{}
			for _, p := range parts {
				sum.Merge(p.Sketch)
				i := slices.IndexFunc(l.Data, func(d fleet.LatencyPoint) bool { return d.N > 0 && d.At.Equal(p.At) })
				if i < 0 || l.Data[i].N != p.Sketch.Count() || l.Data[i].P99 != p.Sketch.Quantile(.99) {
					t.Errorf("%s, %d points: the part at %v has no point like it", what, tt.points, p.At)
				}
			}
			checkQuantiles(t, what+" in parts", sum, exact)
		}
	}
	check("running", db)
	check("after a kill", openTest(t, copyDir(t, dir), c, Options{Interval: 10 * time.Second}))
	var h1, h2 int
	if err := db.metrics.r.QueryRow("SELECT (SELECT count(*) FROM h1), (SELECT count(*) FROM h2)").Scan(&h1, &h2); err != nil || h1 == 0 || h2 == 0 {
		t.Errorf("%d rows in h1, %d in h2, %v", h1, h2, err)
	}
	// What comes after its slot was closed is counted as late, not written over it.
	late := fleet.AckWindow{ConsumerKey: eastKey, From: start, To: start.Add(time.Second), Latency: sketchOf(time.Hour)}
	if err := db.PutAcks(t.Context(), []fleet.AckWindow{late}); err != nil {
		t.Fatal(err)
	}
	if db.acks.late != 1 {
		t.Errorf("%d windows are late, want 1", db.acks.late)
	}
	check("after a late window", db)
}
