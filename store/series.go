package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ballast/fleet"
)

// maxPoints of one answer.
const maxPoints = 5000

// steps between two points that an axis can show.
var steps = []int64{
	100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000,
	minute, 2 * minute, 5 * minute, 10 * minute, 15 * minute, 30 * minute,
	hour, 2 * hour, 3 * hour, 6 * hour, 12 * hour, 24 * hour, 7 * 24 * hour,
}

// stepFor returns the step at which the span has about so many points, but no
// less than least.
func stepFor(span int64, points int, least int64) int64 {
	want := max(span/int64(points), least, 1)
	for _, s := range steps {
		if s >= want {
			return s
		}
	}
	return ceil(want, 7*24*hour)
}

func checkRange(r fleet.Range, points *int) error {
	if r.From.IsZero() || r.To.IsZero() || !r.From.Before(r.To) {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The time range is empty", Hint: "Its end must lie after its beginning."}
	}
	if *points <= 0 {
		*points = 300
	}
	*points = min(*points, maxPoints)
	return nil
}

// Series answers one column of one entity. Buckets start at multiples of Step,
// so that a moving range does not change the points it has shown. A gap has one
// point with N = 0, at its beginning; a bucket that is empty because a look came
// a little late has none.
func (db *DB) Series(ctx context.Context, q fleet.SeriesQuery) (fleet.Series, error) {
	col, err := findColumn(q.Kind, q.Column)
	if err != nil {
		return fleet.Series{}, err
	}
	if err := checkRange(q.Range, &q.Points); err != nil {
		return fleet.Series{}, err
	}
	from, to := ms(q.From), ms(q.To)
	step := stepFor(to-from, q.Points, db.every(q.Kind))
	lvl := db.levelFor(from, step)
	if lvl >= 0 {
		step = stepFor(step, 1, levels[lvl].step)
	}
	cells, gaps, err := db.cells(ctx, q.Entity, col, lvl, from, to, step)
	if err != nil {
		return fleet.Series{}, fmt.Errorf("series %s of %s %q: %w", q.Column, q.Kind, q.Key, err)
	}
	out := fleet.Series{SeriesQuery: q, Unit: col.unit, Source: db.sourceOf(q.Kind), Step: time.Duration(step) * time.Millisecond}
	// Where looks are about as far apart as buckets are wide, an empty bucket is
	// no gap; only the looks themselves tell.
	limit := max(step, gapAfter(db.every(q.Kind)))
	gap := func(at int64) {
		out.Data = append(out.Data, fleet.Point{At: fromMS(at)})
	}
	out.Data = make([]fleet.Point, 0, len(cells)+8)
	last := floor(from, step) - step
	for i := range cells {
		c := &cells[i]
		_, marked := slices.BinarySearch(gaps, c.at)
		apart := c.at - last
		if i == 0 {
			apart -= step // a counter's first look has no rate yet
		}
		if apart > limit || marked && apart > step {
			gap(last + step)
		}
		out.Data = append(out.Data, col.point(*c))
		last = c.at
	}
	if end := floor(to-1, step); end-last > limit {
		gap(last + step)
	}
	return out, nil
}

// levelFor picks the coarsest level that has the step, or a coarser one when
// the range begins before the finer ones do.
func (db *DB) levelFor(from, step int64) int {
	lvl := -1
	for i, l := range levels {
		if l.step <= step && l.step >= 2*db.intervalMS() {
			lvl = i
		}
	}
	age := ms(db.o.Now()) - from
	kept := []time.Duration{db.o.Retention.Raw, db.o.Retention.Raw, db.o.Retention.Min1, db.o.Retention.Min10, db.o.Retention.Hour1}
	for lvl < len(levels)-1 && age > kept[lvl+1].Milliseconds() {
		lvl++
	}
	return lvl
}

// cells folds one column of all lives of an entity.
func (db *DB) cells(ctx context.Context, name fleet.Entity, col column, lvl int, from, to, step int64) ([]cell, []int64, error) {
	built, err := db.builtUntil(ctx)
	if err != nil {
		return nil, nil, err
	}
	start := floor(from, step)
	if lvl >= 0 {
		start = floor(from, levels[lvl].step)
	}
	ids, err := db.lives(ctx, name, start, to)
	if err != nil {
		return nil, nil, err
	}
	var all []cell
	var gaps []int64
	for _, id := range ids {
		f := &folder{counter: col.counter, step: step, cells: make([]cell, 0, min((to-start)/step+2, maxPoints))}
		if err := db.fold(ctx, id, []column{col}, lvl, start, to, built, []*folder{f}); err != nil {
			return nil, nil, err
		}
		all = append(all, f.cells...)
		gaps = append(gaps, f.gaps...)
	}
	if len(ids) > 1 { // lives may overlap: sort, and merge what shares a bucket
		slices.SortStableFunc(all, func(a, b cell) int { return int(a.at - b.at) })
		merged := all[:0]
		for _, c := range all {
			if n := len(merged); n > 0 && merged[n-1].at == c.at {
				merged[n-1].merge(c)
			} else {
				merged = append(merged, c)
			}
		}
		all = merged
		slices.Sort(gaps)
	}
	return all, gaps, nil
}

// point of a cell, in the column's unit.
func (c column) point(x cell) fleet.Point {
	p := fleet.Point{At: fromMS(x.at), N: int(x.n)}
	if x.n == 0 {
		return p
	}
	if c.counter {
		p.Min, p.Max = float64(x.min)/1000, float64(x.max)/1000
		p.Avg = perSecond(x.sum, x.covered)
		// The stored extremes are rounded down to a thousandth.
		p.Min, p.Max = min(p.Min, p.Avg), max(p.Max, p.Avg)
		return p
	}
	p.Min, p.Max = float64(x.min)/c.scale, float64(x.max)/c.scale
	p.Avg = float64(x.sum) / float64(x.n) / c.scale
	return p
}

// sourceOf is where the newest figures of a kind came from.
func (db *DB) sourceOf(k fleet.Kind) fleet.Source {
	if k == fleet.KindWorker {
		return fleet.Report
	}
	s := db.Latest()
	source := fleet.Monitoring
	for _, x := range s.Servers {
		if x.Source != "" {
			source = x.Source
			break
		}
	}
	switch {
	case k == fleet.KindStream && len(s.Streams) > 0 && s.Streams[0].Source != "":
		source = s.Streams[0].Source
	case k == fleet.KindConsumer && len(s.Consumers) > 0 && s.Consumers[0].Source != "":
		source = s.Consumers[0].Source
	}
	return source
}
