package store

import (
	"cmp"
	"container/heap"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
)

// Topics stand in the keys of top beyond the numbers of the column lists.
const (
	topicAcks     = 1<<31 + iota // latency of consumers in a slot of 10 min
	topicAcksHour                // in one hour
)

// topMark is where the rows of top begin; what is older is ranked the long way.
const topMark, topAcksMark = "top", "top_acks"

// putTop writes a row of top.
func putTop(ctx context.Context, tx *sql.Tx, start, topic int64, data []byte) error {
	if _, err := tx.ExecContext(ctx, insertOne["top"], start/unit<<entityBits|topic, data); err != nil {
		return fmt.Errorf("rank the slot of %s: %w", fromMS(start).Format(time.RFC3339), err)
	}
	name := topMark
	if topic >= topicAcks {
		name = topAcksMark
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO mark(k, v) VALUES (?, ?) ON CONFLICT DO NOTHING", name, start); err != nil {
		return fmt.Errorf("set mark %s: %w", name, err)
	}
	return nil
}

// bounded are the quantiles that a row knows a bound of. One in between is
// bounded by the next higher.
var bounded = [...]float64{0.5, 0.95, 0.99, 0.999, 1}

// latencyTop is what is known of the latencies of all consumers in one slot.
type latencyTop struct {
	ids, counts []int64
	bounds      [len(bounded)][]int64 // µs, rounded up
}

func (t *latencyTop) add(id int64, s *sketch.Sketch) {
	if s.Count() == 0 {
		return
	}
	t.ids = append(t.ids, id)
	t.counts = append(t.counts, count(s.Count()))
	for i, q := range bounded {
		t.bounds[i] = append(t.bounds[i], micros(s.Bound(q))+1)
	}
}

// append writes: version, number, ids, then counts and bounds as columns.
func (t *latencyTop) append(dst []byte) []byte {
	var enc encoder
	dst = append(dst, blobVersion)
	dst = binary.AppendUvarint(dst, uint64(len(t.ids)))
	dst = enc.append(dst, t.ids)
	return appendColumns(dst, 1+len(bounded), func(dst []byte, i int) []byte {
		if i == 0 {
			return enc.append(dst, t.counts)
		}
		return enc.append(dst, t.bounds[i-1])
	})
}

// decodeTop reads the ids and the columns at the places in want, of total.
func decodeTop(data []byte, want []int, total int) (ids []int64, cols [][]int64, err error) {
	d := decoder{b: data}
	if d.byte() != blobVersion {
		return nil, nil, errCorrupt
	}
	n := d.count()
	if d.err != nil {
		return nil, nil, d.err
	}
	ids = make([]int64, n)
	d.column(ids)
	cols = make([][]int64, len(want))
	err = readColumns(&d, want, total, func(d *decoder, i int) {
		cols[i] = make([]int64, n)
		d.column(cols[i])
	})
	return ids, cols, err
}

// Of a slot's entities of one kind the row of top has, after the ids, the number
// of looks and the time between them, then of each column three.
const (
	topLooks = iota
	topCovered
	topFirst // of column 0: highest, sum, what its time differs by
	perTop   = 3
)

// measure folds what one column did in the block, as the roll-ups would.
func (b *block) measure(col column, i int, interval int64) cell {
	if !col.counter {
		return b.measureGauge(i)
	}
	c := cell{}
	gap := gapAfter(interval)
	prior, before := int64(absent), int64(0)
	if b.before != 0 {
		prior, before = b.prior[i], b.before
	}
	n, base := b.width(), b.base[i]
	for j := 0; j < len(b.small)+len(b.wide); j += n {
		at, v := b.start, int64(absent)
		if b.wide != nil {
			at, v = at+b.wide[j], b.wide[j+1+i]
		} else {
			at += int64(b.small[j])
			if d := b.small[j+1+i]; d != smallAbsent {
				v = base + int64(d)
			}
		}
		if v != absent && before != 0 && at > before && at-before <= gap {
			if inc, ok := increase(prior, v); ok {
				c.interval(inc, at-before)
			}
		}
		prior, before = v, at
	}
	return c
}

func (b *block) measureGauge(i int) cell {
	c := cell{}
	if b.wide != nil {
		for i++; i < len(b.wide); i += b.width() {
			if v := b.wide[i]; v != absent {
				c.look(v)
			}
		}
		return c
	}
	n, base := b.width(), b.base[i]
	least, most := int32(math.MaxInt32), int32(math.MinInt32)
	for i++; i < len(b.small); i += n {
		if d := b.small[i]; d != smallAbsent {
			c.n++
			c.sum += int64(d)
			least, most = min(least, d), max(most, d)
		}
	}
	if c.n == 0 {
		return cell{}
	}
	return cell{n: c.n, min: base + int64(least), max: base + int64(most), sum: c.sum + c.n*base}
}

// kindTops ranks the blocks of a slot, which are in rising order of their
// entities: one row for each kind, by its column list.
func (db *DB) kindTops(blocks []*block) map[int64][]byte {
	type kindTop struct {
		ids  []int64
		cols [][]int64
	}
	tops := map[fleet.Kind]*kindTop{}
	for _, b := range blocks {
		t := tops[b.e.kind]
		if t == nil {
			t = &kindTop{cols: make([][]int64, topFirst+perTop*len(b.e.cols))}
			tops[b.e.kind] = t
		}
		t.ids = append(t.ids, b.e.id)
		var looks, covered int64
		for i, col := range b.e.cols {
			c := b.measure(col, i, db.every(b.e.kind))
			if col.counter && covered == 0 {
				covered = c.covered
			}
			if looks == 0 && !col.counter {
				looks = c.n
			}
			own := c.covered - covered
			if !col.counter {
				own = c.n - looks
			}
			at := topFirst + perTop*i
			t.cols[at] = append(t.cols[at], c.max)
			t.cols[at+1] = append(t.cols[at+1], c.sum)
			t.cols[at+2] = append(t.cols[at+2], own)
		}
		t.cols[topLooks] = append(t.cols[topLooks], looks)
		t.cols[topCovered] = append(t.cols[topCovered], covered)
	}
	out := map[int64][]byte{}
	var enc encoder
	for kind, t := range tops {
		d := binary.AppendUvarint([]byte{blobVersion}, uint64(len(t.ids)))
		d = enc.append(d, t.ids)
		out[db.layouts.now[kind]] = appendColumns(d, len(t.cols), func(dst []byte, i int) []byte { return enc.append(dst, t.cols[i]) })
	}
	return out
}

// Top ranks entities over a range, exactly: to the slot, which is some minutes,
// or an hour in ranges of more than six.
func (db *DB) Top(ctx context.Context, q fleet.TopQuery) (fleet.Top, error) {
	points := 1
	if err := checkRange(q.Range, &points); err != nil {
		return fleet.Top{}, err
	}
	if q.N <= 0 {
		q.N = 10
	}
	var out fleet.Top
	var err error
	if q.Column == "" {
		if q.Quantile <= 0 || q.Quantile > 1 {
			return fleet.Top{}, &fleet.Error{Kind: fleet.Invalid, Msg: "Latency is ranked by a quantile between 0 and 1"}
		}
		q.Kind = fleet.KindConsumer
		out, err = db.topLatency(ctx, q)
	} else {
		var col column
		if col, err = findColumn(q.Kind, q.Column); err != nil {
			return fleet.Top{}, err
		}
		switch q.By {
		case "":
			q.By = fleet.ByMean
		case fleet.ByMean, fleet.ByMax, fleet.BySum:
		default:
			return fleet.Top{}, &fleet.Error{Kind: fleet.Invalid, Msg: fmt.Sprintf("Nothing is ranked by %q", q.By)}
		}
		out, err = db.topColumn(ctx, q, col)
	}
	if err != nil {
		return fleet.Top{}, fmt.Errorf("rank %ss: %w", q.Kind, err)
	}
	return out, nil
}

// topRows calls f with the rows of a topic whose slots begin in [from, to).
func (db *DB) topRows(ctx context.Context, topic, from, to, step int64, f func(start int64, data []byte) error) error {
	keys := []byte{'['}
	for at := from; at < to; at += step {
		if len(keys) > 1 {
			keys = append(keys, ',')
		}
		keys = strconv.AppendInt(keys, at/unit<<entityBits|topic, 10)
	}
	return db.many(ctx, "top", append(keys, ']'), func(k int64, data []byte) error { return f(k>>entityBits*unit, data) })
}

// many reads the blobs of a JSON list of keys, in its order.
func (db *DB) many(ctx context.Context, table string, keys []byte, f func(k int64, data []byte) error) error {
	query, err := db.metrics.reading(ctx, manySQL(table))
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	rows, err := query.QueryContext(ctx, string(keys))
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	return eachBlob(rows, table, f)
}

// eachBlob calls f with each row of keys and blobs, and closes them.
func eachBlob(rows *sql.Rows, table string, f func(k int64, data []byte) error) error {
	defer rows.Close()
	for rows.Next() {
		var k int64
		var data sql.RawBytes
		if err := rows.Scan(&k, &data); err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		if err := f(k, data); err != nil {
			return fmt.Errorf("read slot %d of entity %d in %s: %w", k>>entityBits, k&entityMask, table, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	return nil
}

// entityNames reads the names of entities by their numbers.
func (db *DB) entityNames(ctx context.Context, ids []int64) (map[int64]fleet.Entity, error) {
	out := make(map[int64]fleet.Entity, len(ids))
	keys := []byte{'['}
	for i, id := range ids {
		if i > 0 {
			keys = append(keys, ',')
		}
		keys = strconv.AppendInt(keys, id, 10)
	}
	rows, err := db.metrics.r.QueryContext(ctx, "SELECT e.id, e.kind, e.name FROM json_each(?1) AS j CROSS JOIN entity AS e ON e.id = j.value", string(append(keys, ']')))
	if err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var e fleet.Entity
		if err := rows.Scan(&id, &e.Kind, &e.Key); err != nil {
			return nil, fmt.Errorf("read names: %w", err)
		}
		out[id] = e
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	return out, nil
}

// gathered sums cells by entity. Rows of neighbouring slots mostly have the
// same entities at the same places.
type gathered struct {
	at    map[int64]int
	ids   []int64
	cells []cell
	last  []int64 // ids of the row before
	place []int   // where each of them is
}

func (g *gathered) add(ids []int64, cellOf func(i int) cell) {
	place := make([]int, len(ids))
	for i, id := range ids {
		p := -1
		if i < len(g.last) && g.last[i] == id {
			p = g.place[i]
		} else if at, ok := g.at[id]; ok {
			p = at
		} else {
			p = len(g.ids)
			g.at[id] = p
			g.ids = append(g.ids, id)
			g.cells = append(g.cells, cell{})
		}
		place[i] = p
		g.cells[p].merge(cellOf(i))
	}
	g.last, g.place = ids, place
}

func (g *gathered) one(id int64, c cell) {
	p, ok := g.at[id]
	if !ok {
		p = len(g.ids)
		g.at[id] = p
		g.ids = append(g.ids, id)
		g.cells = append(g.cells, cell{})
	}
	g.cells[p].merge(c)
}

func (db *DB) topColumn(ctx context.Context, q fleet.TopQuery, col column) (fleet.Top, error) {
	from, to := ms(q.From), ms(q.To)
	marks, err := db.marks(ctx)
	if err != nil {
		return fleet.Top{}, err
	}
	begin := marks[topMark]
	g := gathered{at: map[int64]int{}}
	// A slot lies in the range when it begins in it; the range is widened to the
	// beginning of the slot that it begins in.
	sealed := db.sealedUntil()
	from = floor(from, maxUnits*unit)
	if oldest := max(begin, ms(db.o.Now())-db.o.Retention.Acks5.Milliseconds()); (begin == 0 || from < oldest) && from < sealed {
		if err := db.topLong(ctx, q.Kind, col, from, min(to, sealed), &g); err != nil {
			return fleet.Top{}, err
		}
	} else {
		spans := topSpansOf(from, to, sealed, marks[topHoursMark])
		from, to = spans[0], spans[3]
		for id, names := range db.layouts.names {
			if db.layouts.kinds[id] != q.Kind {
				continue
			}
			i := slices.Index(names, col.name)
			if i < 0 {
				continue
			}
			if err := db.topRanked(ctx, id, col, i, len(names), spans, min(to, sealed), &g); err != nil {
				return fleet.Top{}, err
			}
		}
	}
	// What is in memory.
	db.mu.RLock()
	for i := range len(db.closing) + 1 {
		h := db.open
		if i < len(db.closing) {
			h = db.closing[i]
		}
		if h == nil || h.start < from || h.start >= to || h.start < sealed {
			continue
		}
		for id, b := range h.blocks {
			if b.e.kind != q.Kind {
				continue
			}
			where := slices.IndexFunc(b.e.cols, func(c column) bool { return c.name == col.name })
			g.one(id, b.measure(col, where, db.every(q.Kind)))
		}
	}
	db.mu.RUnlock()

	value := func(c cell) float64 {
		switch {
		case c.n == 0:
			return 0
		case q.By == fleet.BySum && col.counter:
			return float64(c.sum)
		case q.By == fleet.BySum:
			return float64(c.sum) / col.scale
		case q.By == fleet.ByMax && col.counter:
			return max(float64(c.max)/1000, perSecond(c.sum, c.covered))
		case q.By == fleet.ByMax:
			return float64(c.max) / col.scale
		case col.counter:
			return perSecond(c.sum, c.covered)
		}
		return float64(c.sum) / float64(c.n) / col.scale
	}
	// Several lives of one name are one row.
	names, err := db.namesOf(ctx, &g)
	if err != nil {
		return fleet.Top{}, err
	}
	of := make(map[string]int, len(g.ids))
	cells, keys := g.cells[:0], names[:0]
	for i, c := range g.cells {
		if c.n == 0 {
			continue
		}
		if at, ok := of[names[i]]; ok {
			cells[at].merge(c)
			continue
		}
		of[names[i]] = len(cells)
		cells, keys = append(cells, c), append(keys, names[i])
	}
	out := fleet.Top{TopQuery: q, Unit: col.unit, Of: len(cells)}
	if col.counter && q.By == fleet.BySum {
		out.Unit = countUnit(col.unit)
	}
	out.From = fromMS(from)
	if to > ms(q.To) {
		out.To = fromMS(to)
	}
	// Most are no candidates: only some times those that are asked for are sorted.
	least := math.Inf(-1)
	shorten := func() {
		slices.SortFunc(out.Rows, func(a, b fleet.Ranked) int {
			return cmp.Or(cmp.Compare(b.Value, a.Value), cmp.Compare(a.Key, b.Key))
		})
		if len(out.Rows) >= q.N {
			out.Rows = out.Rows[:q.N]
			least = out.Rows[q.N-1].Value
		}
	}
	for i, c := range cells {
		v := value(c)
		if v < least {
			continue
		}
		looks := c.n
		if every := db.every(q.Kind); col.counter {
			looks = (c.covered + every/2) / every
		}
		out.Rows = append(out.Rows, fleet.Ranked{Entity: fleet.Entity{Kind: q.Kind, Key: keys[i]}, Value: v, Count: uint64(looks)})
		if len(out.Rows) >= 3*q.N+100 {
			shorten()
		}
	}
	shorten()
	out.Rows = slices.Clip(out.Rows)
	return out, nil
}

// topRanked gathers column i of a column list of n.
func (db *DB) topRanked(ctx context.Context, layout int64, col column, i, n int, spans topSpans, sealed int64, g *gathered) error {
	at := topFirst + perTop*i
	shared := topLooks
	if col.counter {
		shared = topCovered
	}
	add := func(_ int64, data []byte) error {
		ids, cols, err := decodeTop(data, []int{shared, at, at + 1, at + 2}, topFirst+perTop*n)
		if err != nil {
			return err
		}
		g.add(ids, func(i int) cell {
			n := cols[0][i] + cols[3][i]
			c := cell{n: n, max: cols[1][i], min: cols[1][i], sum: cols[2][i]}
			if col.counter {
				c.n, c.covered = min(n, 1), n
			}
			return c
		})
		return nil
	}
	if err := db.topRows(ctx, layout, spans[0], spans[1], unit, add); err != nil {
		return err
	}
	if err := db.topRows(ctx, topHour|layout, spans[1], spans[2], hour, add); err != nil {
		return err
	}
	return db.topRows(ctx, layout, spans[2], sealed, unit, add)
}

// countUnit is the unit of what a rate counts.
func countUnit(rate string) string {
	if n := len(rate) - len("/s"); n >= 0 && rate[n:] == "/s" {
		return rate[:n]
	}
	return rate
}

// namesOf returns the names of what was gathered, one for each. It finds them in
// memory first: reading thousands costs some ms.
func (db *DB) namesOf(ctx context.Context, g *gathered) ([]string, error) {
	names := make([]string, len(g.ids))
	found := make([]bool, len(g.ids))
	db.mu.RLock()
	for _, e := range db.entities {
		if at, ok := g.at[e.id]; ok {
			names[at], found[at] = e.name, true
		}
	}
	db.mu.RUnlock()
	var rest []int64
	for at, ok := range found {
		if !ok {
			rest = append(rest, g.ids[at])
		}
	}
	if len(rest) == 0 {
		return names, nil
	}
	read, err := db.entityNames(ctx, rest)
	for id, e := range read {
		names[g.at[id]] = e.Key
	}
	return names, err
}

// topLong reads every entity of the kind, from the coarsest roll-up that has
// the range: for what was recorded before there were rows of top, or has
// outlived them.
func (db *DB) topLong(ctx context.Context, kind fleet.Kind, col column, from, to int64, g *gathered) error {
	built, err := db.builtUntil(ctx)
	if err != nil {
		return err
	}
	lvl := db.levelFor(from, max((to-from)/24, minute))
	rows, err := db.metrics.r.QueryContext(ctx,
		"SELECT id FROM entity WHERE kind = ?1 AND first_ms < ?2 AND last_ms >= ?3 ORDER BY id", kind, to, from-seenEvery)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for _, id := range ids {
		f := &folder{counter: col.counter, step: 1 << 50}
		if err := db.fold(ctx, id, []column{col}, lvl, from, to, built, []*folder{f}); err != nil {
			return err
		}
		for _, c := range f.cells {
			g.one(id, c)
		}
	}
	return nil
}

// candidate of a ranking by latency. Its bound is never below its value.
type candidate struct {
	id    int64
	bound int64 // µs; exact: ns
	exact bool
	sum   *sketch.Sketch
}

// byBound has the highest bound first.
type byBound []candidate

func (h byBound) Len() int { return len(h) }
func (h byBound) Less(i, j int) bool {
	if h[i].bound != h[j].bound {
		return h[i].bound > h[j].bound
	}
	return !h[i].exact && h[j].exact // what may be as high is looked at first
}
func (h byBound) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byBound) Push(x any)   { *h = append(*h, x.(candidate)) }
func (h *byBound) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// topBatch is how many consumers are merged with one query.
const topBatch = 48

// topLatency merges the sketches of those that can be among the highest, and
// of no others: the quantile of a sum is never above the highest of its parts.
func (db *DB) topLatency(ctx context.Context, q fleet.TopQuery) (fleet.Top, error) {
	from, to := ms(q.From), ms(q.To)
	lvl := 1
	if to-from > 6*hour || ms(db.o.Now())-from > db.o.Retention.Acks5.Milliseconds() {
		lvl = 2
	}
	step := max(ackLevels[lvl].step, ackLevels[0].span)
	from, to = floor(from, step), ceil(to, step)
	bounds, err := db.latencyBounds(ctx, q.Quantile, from, to)
	if err != nil {
		return fleet.Top{}, err
	}
	built, err := db.acksBuilt(ctx)
	if err != nil {
		return fleet.Top{}, err
	}
	h := make(byBound, len(bounds.ids))
	for i, id := range bounds.ids {
		h[i] = candidate{id: id, bound: bounds.cells[i].max}
	}
	heap.Init(&h)
	var best []candidate
	for h.Len() > 0 && len(best) < q.N {
		if h[0].exact {
			best = append(best, heap.Pop(&h).(candidate))
			continue
		}
		var batch []candidate
		for h.Len() > 0 && len(batch) < topBatch && !h[0].exact {
			batch = append(batch, heap.Pop(&h).(candidate))
		}
		ids := make([]int64, len(batch))
		for i, c := range batch {
			ids[i] = c.id
		}
		sums, err := db.mergeAcks(ctx, ids, lvl, from, to, built)
		if err != nil {
			return fleet.Top{}, err
		}
		for _, id := range ids {
			if s := sums[id]; s.Count() > 0 {
				heap.Push(&h, candidate{id, int64(s.Quantile(q.Quantile)), true, s})
			}
		}
	}
	out := fleet.Top{TopQuery: q, Unit: "ms", Of: len(bounds.ids)}
	out.From, out.To = fromMS(from), fromMS(to)
	ids := make([]int64, len(best))
	for i, c := range best {
		ids[i] = c.id
	}
	names, err := db.entityNames(ctx, ids)
	if err != nil {
		return fleet.Top{}, err
	}
	for _, c := range best {
		out.Rows = append(out.Rows, fleet.Ranked{
			Entity: fleet.Entity{Kind: fleet.KindConsumer, Key: names[c.id].Key},
			Value:  float64(c.bound) / 1e6, Count: c.sum.Count(),
		})
	}
	return out, nil
}

// latencyBounds gathers for each consumer with samples in the range what its
// quantile is not above, in ns, as the highest of its cell.
func (db *DB) latencyBounds(ctx context.Context, quantile float64, from, to int64) (gathered, error) {
	db.mu.RLock()
	g := gathered{at: make(map[int64]int, len(db.acks.by))}
	db.mu.RUnlock()
	which := slices.IndexFunc(bounded[:], func(q float64) bool { return q >= quantile })
	begin, err := mark(ctx, db.metrics.r, topAcksMark)
	if err != nil {
		return g, err
	}
	raise := func(id, ns int64) { g.one(id, cell{n: 1, max: ns}) }
	const unknown = 1 << 62
	db.mu.RLock()
	sealed := db.acks.sealed
	for slot, by := range db.acks.slots {
		if slot+ackLevels[0].span > from && slot < to {
			for id, o := range by {
				raise(id, int64(o.longest)+1)
			}
		}
	}
	db.mu.RUnlock()
	if begin == 0 && sealed > 0 || from < begin || from < ms(db.o.Now())-db.o.Retention.Acks5.Milliseconds() {
		rows, err := db.metrics.r.QueryContext(ctx, aliveAcksSQL, from-seenEvery, to, kindAck)
		if err != nil {
			return g, err
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				return g, err
			}
			raise(id, unknown)
		}
		return g, rows.Err()
	}
	built, err := mark(ctx, db.metrics.r, ackLevels[2].table)
	if err != nil {
		return g, err
	}
	add := func(_ int64, data []byte) error {
		ids, cols, err := decodeTop(data, []int{1 + which}, 1+len(bounded))
		if err != nil {
			return err
		}
		g.add(ids, func(i int) cell { return cell{n: 1, max: cols[0][i] * 1000} })
		return nil
	}
	// Whole hours first, as far as they are ranked; the rest slot by slot.
	middle := max(min(floor(to, hour), built), from)
	first := min(ceil(from, hour), middle)
	if err := db.topRows(ctx, topicAcksHour, first, middle, hour, add); err != nil {
		return g, err
	}
	for _, r := range [][2]int64{{from, first}, {middle, to}} {
		if err := db.topRows(ctx, topicAcks, r[0], r[1], ackLevels[0].span, add); err != nil {
			return g, err
		}
	}
	return g, nil
}

// mergeAcks sums the sketches of several consumers over the range.
func (db *DB) mergeAcks(ctx context.Context, ids []int64, lvl int, from, to int64, built []int64) (map[int64]*sketch.Sketch, error) {
	sums := make(map[int64]*sketch.Sketch, len(ids))
	for _, id := range ids {
		sums[id] = &sketch.Sketch{}
	}
	// What is in memory first: a slot that is sealed in the meantime is then not
	// missed.
	db.mu.RLock()
	built[0] = db.acks.sealed
	var inMemory []blobRow
	for _, by := range db.acks.slots {
		for _, id := range ids {
			if o := by[id]; o != nil {
				for _, c := range o.cells {
					if c.at >= from && c.at < to {
						inMemory = append(inMemory, blobRow{id, c.data})
					}
				}
			}
		}
	}
	db.mu.RUnlock()
	for _, c := range inMemory {
		if err := sums[c.k].MergeBinary(c.d); err != nil {
			return nil, err
		}
	}
	// Then one query a level for all of them.
	for ; lvl >= 0 && from < to; lvl-- {
		l := ackLevels[lvl]
		end := min(to, built[lvl])
		if from >= end {
			continue
		}
		keys := []byte{'['}
		for slot := from / l.span; slot <= (end-1)/l.span; slot++ {
			for _, id := range ids {
				if len(keys) > 1 {
					keys = append(keys, ',')
				}
				keys = strconv.AppendInt(keys, slot<<entityBits|id, 10)
			}
		}
		err := db.many(ctx, l.table, append(keys, ']'), func(k int64, data []byte) error {
			sum := sums[k&entityMask]
			return decodeAckCells(data, k>>entityBits*l.span, l.step, func(c ackCell) error {
				if c.at < from || c.at >= end {
					return nil
				}
				return sum.MergeBinary(c.data)
			})
		})
		if err != nil {
			return nil, err
		}
		from = end
	}
	return sums, nil
}
