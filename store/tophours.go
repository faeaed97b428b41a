package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// An hour of a ranking is one row, the sum of those of the slots that begin in
// it: a day is ranked from some thirty rows, not from hundreds. Those of the
// slots go when a range so far back needs no better resolution.
const (
	topHour      = 1 << 30 // in the key beside the column list
	topHoursMark = "top_hours"
	topSlotsKept = 7 * hour
)

// hourTop sums the rows of one column list, column by column.
type hourTop struct {
	place map[int64]int
	ids   []int64
	cols  [][]int64 // as in the rows
	seen  [][]int64 // looks, or covered time, of each column so far
}

func newHourTop(columns int) *hourTop {
	return &hourTop{place: map[int64]int{}, cols: make([][]int64, topFirst+perTop*columns), seen: make([][]int64, columns)}
}

func (h *hourTop) at(id int64) int {
	p, ok := h.place[id]
	if !ok {
		p = len(h.ids)
		h.place[id] = p
		h.ids = append(h.ids, id)
		for i := range h.cols {
			h.cols[i] = append(h.cols[i], 0)
		}
		for i := range h.seen {
			h.seen[i] = append(h.seen[i], 0)
		}
	}
	return p
}

// add sums a row; counter says what each column is.
func (h *hourTop) add(ids []int64, cols [][]int64, counter []bool) {
	for i, id := range ids {
		p := h.at(id)
		h.cols[topLooks][p] += cols[topLooks][i]
		h.cols[topCovered][p] += cols[topCovered][i]
		for c := range h.seen {
			most, sum, own := topFirst+perTop*c, topFirst+perTop*c+1, topFirst+perTop*c+2
			n := cols[topLooks][i]
			if counter[c] {
				n = cols[topCovered][i]
			}
			n += cols[own][i]
			h.cols[own][p] += cols[own][i]
			if n == 0 {
				continue
			}
			if h.seen[c][p] == 0 || cols[most][i] > h.cols[most][p] {
				h.cols[most][p] = cols[most][i]
			}
			h.cols[sum][p] += cols[sum][i]
			h.seen[c][p] += n
		}
	}
}

// append writes the row, by rising ids.
func (h *hourTop) append(dst []byte) []byte {
	order := make([]int, len(h.ids))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(h.ids[a] - h.ids[b]) })
	sorted := make([]int64, len(order))
	by := func(v []int64) []int64 {
		for i, p := range order {
			sorted[i] = v[p]
		}
		return sorted
	}
	var enc encoder
	dst = binary.AppendUvarint(append(dst, blobVersion), uint64(len(h.ids)))
	dst = enc.append(dst, by(h.ids))
	return appendColumns(dst, len(h.cols), func(dst []byte, i int) []byte { return enc.append(dst, by(h.cols[i])) })
}

// rankHours sums the rankings of the hours that are over and sealed. It can be
// stopped at any point: an hour is one transaction. The caller holds sealing.
func (db *DB) rankHours(ctx context.Context) error {
	done, err := mark(ctx, db.metrics.r, topHoursMark)
	if err != nil {
		return err
	}
	for {
		// What was not watched is passed over.
		var k sql.NullInt64
		if err := db.metrics.r.QueryRowContext(ctx, "SELECT min(k) FROM top WHERE k >= ?", done/unit<<entityBits).Scan(&k); err != nil {
			return err
		}
		start := floor(k.Int64>>entityBits*unit, hour)
		if !k.Valid || start+hour > db.sealedUntil() {
			return nil
		}
		if err := db.rankHour(ctx, start, done); err != nil {
			return fmt.Errorf("hour of %s: %w", fromMS(start).Format(time.RFC3339), err)
		}
		done = start + hour
	}
}

// rankHour sums one hour; done is how far there were hours before.
func (db *DB) rankHour(ctx context.Context, start, done int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	var rows []blobRow
	for id, names := range db.layouts.names {
		counter := make([]bool, len(names))
		for i, name := range names {
			col, err := findColumn(db.layouts.kinds[id], name)
			counter[i] = err == nil && col.counter // one that is no more is not asked for
		}
		all := make([]int, topFirst+perTop*len(names))
		for i := range all {
			all[i] = i
		}
		sum := newHourTop(len(names))
		err := db.topRows(ctx, id, start, start+hour, unit, func(_ int64, data []byte) error {
			ids, cols, err := decodeTop(data, all, len(all))
			if err == nil {
				sum.add(ids, cols, counter)
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(sum.ids) > 0 {
			rows = append(rows, blobRow{start/unit<<entityBits | topHour | id, sum.append(nil)})
		}
	}
	err := inTx(ctx, db.metrics.w, func(tx *sql.Tx) error {
		for _, r := range rows {
			if _, err := tx.ExecContext(ctx, insertOne["top"], r.k, r.d); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM top WHERE k >= ?1 AND k < ?2 AND k & ?3 < ?4",
			max(done-topSlotsKept, 0)/unit<<entityBits, (start+hour-topSlotsKept)/unit<<entityBits, entityMask, topHour); err != nil {
			return err
		}
		return setMark(ctx, tx, topHoursMark, start+hour)
	})
	db.jobDone()
	return err
}

// topSpans is how a range is read: slots from the first time to the second,
// hours to the third, slots to the fourth.
type topSpans [4]int64

// topSpansOf widens the range to whole hours at an end where there are no slots
// any more; sealed and hours are how far there are slots and hours.
func topSpansOf(from, to, sealed, hours int64) topSpans {
	// The next hour's are dropped while we read.
	if since := hours - topSlotsKept + 2*hour; hours > 0 {
		if from < since {
			from = floor(from, hour)
		}
		if to < since {
			to = ceil(to, hour)
		}
	}
	last := min(to, sealed)
	first := min(ceil(from, hour), last)
	middle := max(min(floor(last, hour), hours), first)
	if middle == first { // no whole hour
		first, middle = last, last
	}
	return topSpans{from, first, middle, to}
}
