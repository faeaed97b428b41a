package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/store"
)

const every = 5 * time.Second

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func ticks(hours float64) int { return int(hours * float64(time.Hour/every)) }

// runLoad only makes the load, so that its cost can be taken off.
func runLoad(c config) (result, error) {
	l := newLoad(c.seed, every)
	a := newAcks(c.seed)
	for i := range ticks(c.hours) {
		l.step()
		l.snapshot(begin.Add(time.Duration(i) * every))
		if c.acks && i%60 == 59 {
			a.windows(begin.Add(time.Duration(i) * every))
		}
	}
	return result{CPU: took(), RSS: field("status", "VmHWM") * 1024}, nil
}

func runColumns(c config) (result, error) {
	l := newLoad(c.seed, every)
	var sum int64
	for i := range ticks(c.tsdbHours) {
		l.step()
		l.columns(begin.Add(time.Duration(i)*every), func(_ int, ms, v int64) { sum += ms ^ v })
	}
	return result{CPU: took(), Samples: sum}, nil
}

// acks makes latencies of all consumers, a window of 5 min each.
type acks struct {
	rnd *rand.Rand
	of  []float64 // each consumer's median, ns
	set []*sketch.Sketch
}

func newAcks(seed uint64) *acks {
	a := &acks{rnd: rand.New(rand.NewPCG(seed, 7))}
	for range consumers {
		a.of = append(a.of, 5e6*math.Exp(a.rnd.NormFloat64()))
		a.set = append(a.set, &sketch.Sketch{})
	}
	return a
}

func (a *acks) windows(at time.Time) []fleet.AckWindow {
	var out []fleet.AckWindow
	for i, median := range a.of {
		s := a.set[i]
		s.Reset()
		for range 60 {
			v := median * math.Exp(0.5*a.rnd.NormFloat64())
			if a.rnd.IntN(1000) < 15 {
				v *= 10
			}
			s.Add(time.Duration(v))
		}
		out = append(out, fleet.AckWindow{ConsumerKey: consumerKey(i), From: at.Add(-4*time.Minute - 50*time.Second), To: at, Latency: s})
	}
	return out
}

func runStore(c config) (result, error) {
	// As the console does: memory for computing time of which little is needed.
	debug.SetGCPercent(50)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var now atomic.Int64
	now.Store(begin.UnixNano())
	o := store.Options{Now: func() time.Time { return time.Unix(0, now.Load()).UTC() }, Interval: every, SizeLimit: 64 << 30}
	db, err := store.Open(ctx, c.dir, o)
	if err != nil {
		return result{}, err
	}
	done := make(chan error, 1)
	go func() { done <- db.Run(ctx) }()
	stop, err := profile(c)
	if err != nil {
		return result{}, err
	}
	l, a := newLoad(c.seed, every), newAcks(c.seed)
	var r result
	var looks []time.Duration
	var putAcks []time.Duration
	start := time.Now()
	n := ticks(c.hours)
	for i := range n {
		at := begin.Add(time.Duration(i) * every)
		now.Store(at.UnixNano())
		l.step()
		s := l.snapshot(at)
		// 10 min of looks come within a second here: a slot would be full before
		// the one before is on disk, which no real pace does.
		for i%120 == 119 && db.Unsealed() > 0 {
			time.Sleep(time.Millisecond)
		}
		before := time.Now()
		if err := db.PutSnapshot(ctx, s); err != nil {
			return r, err
		}
		d := time.Since(before)
		if i == 0 {
			r.First = d // adds all entities
		} else {
			looks = append(looks, d)
		}
		r.Put += d
		if c.acks && i%60 == 59 {
			w := a.windows(at)
			before := time.Now()
			if err := db.PutAcks(ctx, w); err != nil {
				return r, err
			}
			putAcks = append(putAcks, time.Since(before))
		}
	}
	// What is full is written before the time is taken.
	for {
		u, err := db.Usage(ctx)
		if err != nil {
			return r, err
		}
		if u.Unsealed == 0 {
			r.Samples = int64(n) * int64(u.Series)
			sizes, err := db.TableSizes(ctx)
			if err != nil {
				return r, err
			}
			r.Raw = sizes["raw"] * int64(n) / int64(n-(n-1)%120-1) // the open slot is not in it
			r.All = u.File - u.Free - sizes["tick"] - sizes["acks"]
			r.Notes = append(r.Notes, fmt.Sprint("store: tables ", sizes))
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.CPU, r.Wall = took(), time.Since(start)
	r.P50, r.P99, r.Max = quantile(looks, 0.5), quantile(looks, 0.99), quantile(looks, 1)
	r.Notes = append(r.Notes, fmt.Sprintf("store: PutAcks of %d windows p50 %s p99 %s ms", consumers, millis(quantile(putAcks, 0.5)), millis(quantile(putAcks, 0.99))))
	r.Written, r.RSS = field("io", "write_bytes"), field("status", "VmHWM")*1024
	stop()
	cancel()
	if err := <-done; err != nil {
		return r, err
	}
	runtime.GC()
	if r.Reads, err = reads(db, c, begin.Add(time.Duration(n)*every)); err != nil {
		return r, err
	}
	return r, db.Close()
}

// runReads measures what the pages ask for, of a store that an earlier run of the
// same length left in -dir.
func runReads(c config) (result, error) {
	end := begin.Add(time.Duration(ticks(c.hours)) * every)
	o := store.Options{Now: func() time.Time { return end.Add(-every) }, Interval: every, SizeLimit: 64 << 30}
	db, err := store.Open(context.Background(), c.dir, o)
	if err != nil {
		return result{}, err
	}
	// What its jobs have not done yet comes first.
	jobs, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := db.Run(jobs); err != nil {
		return result{}, err
	}
	stop, err := profile(c)
	if err != nil {
		return result{}, err
	}
	var r result
	if r.Reads, err = reads(db, c, end); err != nil {
		return r, err
	}
	stop()
	return r, db.Close()
}

// profile writes the CPU profile until stop, if one is asked for.
func profile(c config) (stop func(), err error) {
	if c.cpuprofile == "" {
		return func() {}, nil
	}
	f, err := os.Create(c.cpuprofile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// reads measures what the pages ask for.
func reads(db *store.DB, c config, end time.Time) (map[string][2]time.Duration, error) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(c.seed, 9))
	out := map[string][2]time.Duration{}
	measure := func(name string, n int, f func() error) error {
		if !strings.Contains(name, c.only) {
			return nil
		}
		var took []time.Duration
		for range n {
			before := time.Now()
			if err := f(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			took = append(took, time.Since(before))
		}
		out[name] = [2]time.Duration{quantile(took, 0.5), quantile(took, 0.99)}
		return nil
	}
	columns := []string{fleet.ColArrived, fleet.ColDelivered, fleet.ColAcked, fleet.ColPending}
	one := func(rnd *rand.Rand, span time.Duration, points int) error {
		_, err := db.Series(ctx, fleet.SeriesQuery{Entity: consumerKey(rnd.IntN(consumers)).Entity(), Column: columns[rnd.IntN(4)],
			Range: fleet.Range{From: end.Add(-span), To: end}, Points: points})
		return err
	}
	// A page asks for its charts at once, a chart for its series one by one.
	page := func(span time.Duration) error {
		done := make(chan error, 12)
		for chart := range 12 {
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), uint64(chart)))
			go func() {
				var err error
				for range 4 {
					err = errors.Join(err, one(rnd, span, 300))
				}
				done <- err
			}()
		}
		var err error
		for range 12 {
			err = errors.Join(err, <-done)
		}
		return err
	}
	charts := func(span time.Duration) error {
		for range 12 * 4 {
			if err := one(rnd, span, 300); err != nil {
				return err
			}
		}
		return nil
	}
	top := func(span time.Duration, column string) error {
		if column == "" && !c.acks {
			return nil
		}
		t, err := db.Top(ctx, fleet.TopQuery{Kind: fleet.KindConsumer, Column: column, Quantile: 0.99, N: 10,
			Range: fleet.Range{From: end.Add(-span), To: end}})
		if err == nil && len(t.Rows) != 10 {
			err = fmt.Errorf("%d rows", len(t.Rows))
		}
		return err
	}
	for _, x := range []struct {
		name string
		n    int
		f    func() error
	}{
		{"24 h of one series", 500, func() error { return one(rnd, 24*time.Hour, 300) }},
		{"1 h of one series", 500, func() error { return one(rnd, time.Hour, 720) }},
		{"12 charts x 4, 24 h", 60, func() error { return charts(24 * time.Hour) }},
		{"12 charts x 4 at once, 24 h", 60, func() error { return page(24 * time.Hour) }},
		{"top 10 by p99, 2 h", 60, func() error { return top(2*time.Hour, "") }},
		{"top 10 by p99, 24 h", 40, func() error { return top(24*time.Hour, "") }},
		{"top 10 by column, 2 h", 40, func() error { return top(2*time.Hour, fleet.ColAcked) }},
		{"top 10 by column, 24 h", 20, func() error { return top(24*time.Hour, fleet.ColAcked) }},
		{"12 charts x 4, 1 h", 60, func() error { return charts(time.Hour) }},
	} {
		if err := measure(x.name, x.n, x.f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// runTSDB records the same values; aligned: all of one look at the same time.
func runTSDB(c config, jitter bool) (result, error) {
	ctx := context.Background()
	o := tsdb.DefaultOptions()
	o.RetentionDuration = (400 * 24 * time.Hour).Milliseconds()
	db, err := tsdb.Open(c.dir, nil, nil, o, nil)
	if err != nil {
		return result{}, err
	}
	names := make([]labels.Labels, seriesCount)
	refs := make([]storage.SeriesRef, seriesCount)
	for i := range names {
		names[i] = labels.FromStrings("__name__", fmt.Sprint("nats_metric_", i%60), "entity", fmt.Sprint("entity-", i/8), "series", fmt.Sprint(i))
	}
	l := newLoad(c.seed, every)
	var r result
	var looks []time.Duration
	type sample struct {
		ms int64
		v  float64
	}
	row := make([]sample, seriesCount)
	n := ticks(c.tsdbHours)
	start := time.Now()
	for i := range n {
		at := begin.Add(time.Duration(i) * every)
		l.step()
		l.columns(at, func(series int, ms, v int64) {
			if !jitter {
				ms = at.UnixMilli()
			}
			row[series] = sample{ms, float64(v)}
		})
		before := time.Now()
		app := db.Appender(ctx)
		for s, x := range row {
			if refs[s], err = app.Append(refs[s], names[s], x.ms, x.v); err != nil {
				return r, err
			}
		}
		if err := app.Commit(); err != nil {
			return r, err
		}
		looks = append(looks, time.Since(before))
		r.Put += looks[i]
	}
	r.Samples = int64(n) * seriesCount
	if err := db.CompactHead(tsdb.NewRangeHead(db.Head(), db.Head().MinTime(), db.Head().MaxTime())); err != nil {
		return r, err
	}
	r.CPU, r.Wall = took(), time.Since(start)
	r.P50, r.P99, r.Max = quantile(looks, 0.5), quantile(looks, 0.99), quantile(looks, 1)
	r.Written, r.RSS = field("io", "write_bytes"), field("status", "VmHWM")*1024
	for _, b := range db.Blocks() {
		r.Raw += sizeOf(b.Dir())
	}
	r.All = r.Raw
	end := begin.Add(time.Duration(n) * every)
	var took []time.Duration
	rnd := rand.New(rand.NewPCG(c.seed, 9))
	for range 60 {
		before := time.Now()
		q, err := db.Querier(end.Add(-24*time.Hour).UnixMilli(), end.UnixMilli())
		if err != nil {
			return r, err
		}
		set := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchEqual, "series", fmt.Sprint(rnd.IntN(consumers*8))))
		var it chunkenc.Iterator
		for set.Next() {
			it = set.At().Iterator(it)
			for it.Next() == chunkenc.ValFloat {
				it.At()
			}
		}
		if err := set.Err(); err != nil {
			return r, err
		}
		q.Close()
		took = append(took, time.Since(before))
	}
	r.Reads = map[string][2]time.Duration{"24 h of one series": {quantile(took, 0.5), quantile(took, 0.99)}}
	return r, db.Close()
}
