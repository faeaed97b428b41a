package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"ballast/fleet"
)

// exportWindow is how much of an export is in memory at once: a multiple of
// every step up to an hour.
const exportWindow = 6 * hour

// ExportColumns lists the columns that a kind has, with their units.
func ExportColumns(kind fleet.Kind) (names, units []string) {
	for _, c := range columnsOf[kind] {
		names, units = append(names, c.name), append(units, c.unit)
	}
	return names, units
}

// Export yields the course of an entity, oldest first, as finely as asked for
// and still kept. It holds some hours of it in memory, whatever the range, and
// no transaction while the caller works: a slow reader does not make the
// write-ahead log grow. An error is yielded once, as the last.
func (db *DB) Export(ctx context.Context, q fleet.ExportQuery) iter.Seq2[fleet.ExportRow, error] {
	return func(yield func(fleet.ExportRow, error) bool) {
		if err := db.export(ctx, q, func(r fleet.ExportRow) bool { return yield(r, nil) }); err != nil {
			yield(fleet.ExportRow{}, err)
		}
	}
}

func (db *DB) export(ctx context.Context, q fleet.ExportQuery, yield func(fleet.ExportRow) bool) error {
	points := 1
	if err := checkRange(q.Range, &points); err != nil {
		return err
	}
	names := q.Columns
	if len(names) == 0 {
		names, _ = ExportColumns(q.Kind)
	}
	if len(names) == 0 {
		_, err := findColumn(q.Kind, "")
		return err
	}
	cols := make([]column, len(names))
	for i, name := range names {
		var err error
		if cols[i], err = findColumn(q.Kind, name); err != nil {
			return err
		}
	}
	step := stepFor(1, 1, max(q.Step.Milliseconds(), db.every(q.Kind)))
	window := exportWindow
	if step > hour {
		window = 16 * step
	}
	from, to := floor(ms(q.From), step), ms(q.To)
	for from < to {
		end := min(floor(from, window)+window, to)
		more, err := db.exportWindow(ctx, q.Entity, cols, from, end, step, yield)
		if err != nil {
			return fmt.Errorf("export %s %q: %w", q.Kind, q.Key, err)
		}
		if !more {
			return nil
		}
		if from = end; from < to {
			if from, err = db.nextLook(ctx, q.Entity, from, window); err != nil {
				return fmt.Errorf("export %s %q: %w", q.Kind, q.Key, err)
			}
		}
	}
	return nil
}

// exportWindow yields the rows that begin in [from, to).
func (db *DB) exportWindow(ctx context.Context, name fleet.Entity, cols []column, from, to, step int64, yield func(fleet.ExportRow) bool) (more bool, err error) {
	lvl := db.levelFor(from, step)
	if lvl >= 0 {
		step = stepFor(step, 1, levels[lvl].step)
	}
	built, err := db.builtUntil(ctx)
	if err != nil {
		return false, err
	}
	ids, err := db.lives(ctx, name, from, to)
	if err != nil {
		return false, err
	}
	merged := make([][]cell, len(cols))
	for _, id := range ids {
		folders := make([]*folder, len(cols))
		for i, c := range cols {
			folders[i] = &folder{counter: c.counter, step: step}
		}
		if err := db.fold(ctx, id, cols, lvl, from, to, built, folders); err != nil {
			return false, err
		}
		for i, f := range folders {
			merged[i] = mergeCells(merged[i], f.cells)
		}
	}
	var at []int64
	for _, cells := range merged {
		for _, c := range cells {
			at = append(at, c.at)
		}
	}
	slices.Sort(at)
	for _, t := range slices.Compact(at) {
		row := fleet.ExportRow{At: fromMS(t), Step: time.Duration(step) * time.Millisecond, Points: make([]fleet.Point, len(cols))}
		for i := range cols {
			row.Points[i].At = row.At
			if rest := merged[i]; len(rest) > 0 && rest[0].at == t {
				row.Points[i], merged[i] = cols[i].point(rest[0]), rest[1:]
			}
		}
		if !yield(row) {
			return false, nil
		}
	}
	return true, nil
}

// mergeCells merges two rising lists; lives of one name may overlap.
func mergeCells(a, b []cell) []cell {
	if len(a) == 0 {
		return b
	}
	out := make([]cell, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].at < b[0].at:
			out, a = append(out, a[0]), a[1:]
		case len(a) == 0 || b[0].at < a[0].at:
			out, b = append(out, b[0]), b[1:]
		default:
			both := a[0]
			both.merge(b[0])
			out, a, b = append(out, both), a[1:], b[1:]
		}
	}
	return out
}

// nextLook is the time at which the next window begins: the given one, or later
// when the entity had no life for long, so that a range of years is not walked
// through in hours.
func (db *DB) nextLook(ctx context.Context, name fleet.Entity, at, window int64) (int64, error) {
	var first, last int64
	err := db.metrics.r.QueryRowContext(ctx, spanSQL, name.Kind, name.Key).Scan(&first, &last)
	if err != nil {
		return 0, fmt.Errorf("find %s %q: %w", name.Kind, name.Key, err)
	}
	if at < first {
		return max(at, floor(first, window)), nil
	}
	if last = max(last, ms(db.o.Now())); at > last {
		return 1 << 62, nil
	}
	return at, nil
}

const spanSQL = "SELECT coalesce(min(first_ms), 0), coalesce(max(last_ms), 0) FROM entity WHERE kind = ?1 AND name = ?2"
