package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"ballast/fleet"
)

const (
	entityBits = 32
	entityMask = 1<<entityBits - 1
)

// level is a roll-up: cells of step, span of them in one row.
type level struct {
	table      string
	step, span int64 // ms
	part       int64 // span of the rows below, which are joined as they are; 0: they are folded
}

const (
	minute = int64(60_000)
	hour   = 60 * minute
)

// levels from fine to coarse; each is built from the one before, the first
// from raw.
var levels = []level{
	{"m1", minute, hour, 0},
	{"r1", minute, 4 * hour, hour},
	{"r2", 10 * minute, 6 * hour, 0},
	{"r3", hour, 7 * 24 * hour, 0},
}

// manySQL reads the blobs of several keys, in the order of the keys, with one
// statement for any number of them.
func manySQL(table string) string {
	return "SELECT k, d FROM json_each(?1) AS j CROSS JOIN " + table + " ON k = j.value"
}

// blobs calls f with each blob of the entity whose slot is first, first+1, …,
// last, in rising order.
func (db *DB) blobs(ctx context.Context, table string, id, first, last int64, f func(slot int64, data []byte) error) error {
	if last < first {
		return nil
	}
	return db.blobsOf(ctx, table, keysOf(id, first, last), f)
}

// keysOf are the keys of the entity's slots first, first+1, …, last.
func keysOf(id, first, last int64) []byte {
	keys := make([]byte, 0, 20*(last-first+1))
	for slot := first; slot <= last; slot++ {
		keys = append(keys, ',')
		keys = strconv.AppendInt(keys, slot<<entityBits|id, 10)
	}
	return keys
}

// blobsOf takes the keys as ",1,2,3".
func (db *DB) blobsOf(ctx context.Context, table string, keys []byte, f func(slot int64, data []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Some rows are read at once: waiting for ctx meanwhile costs more.
	ctx = context.WithoutCancel(ctx)
	keys[0] = '['
	keys = append(keys, ']')
	query, err := db.metrics.reading(ctx, manySQL(table))
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	rows, err := query.QueryContext(ctx, string(keys))
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	return eachBlob(rows, table, func(k int64, data []byte) error { return f(k>>entityBits, data) })
}

// chunks calls f with the looks at an entity between two times, in rising
// order, from disk and memory. The chunks at both ends may hold looks beyond
// them; there is at least one look before from if one is less than a slot away.
func (db *DB) chunks(ctx context.Context, id int64, cols []column, from, to int64, f func(chunk) error) error {
	return db.chunksIn(ctx, nil, id, cols, from, to, f)
}

// chunksIn is chunks whose slices are used again for the next one, unless room
// is nil.
func (db *DB) chunksIn(ctx context.Context, room *scratch, id int64, cols []column, from, to int64, f func(chunk) error) error {
	newest, keys, err := db.looksOf(ctx, id, cols, from, to)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		err := db.blobsOf(ctx, "raw", keys, func(slot int64, data []byte) error {
			c, err := decodeBlockIn(data, db.layouts, cols, slot*unit, room)
			if err != nil {
				return err
			}
			return f(c)
		})
		if err != nil {
			return err
		}
	}
	for _, c := range newest {
		if err := f(c); err != nil {
			return err
		}
	}
	return nil
}

// looksOf returns the looks that are in memory, and the keys of the slots of raw
// that hold those before them.
func (db *DB) looksOf(ctx context.Context, id int64, cols []column, from, to int64) (newest []chunk, keys []byte, err error) {
	db.mu.RLock()
	var inMemory [8]int64 // slots: on disk they are not, or not yet all
	held := inMemory[:0]
	for i := range len(db.closing) + 1 {
		h := db.open
		if i < len(db.closing) {
			h = db.closing[i]
		}
		if h == nil || h.start > to+unit || h.end < from-maxUnits*unit {
			continue
		}
		held = append(held, h.start/unit)
		if b := h.blocks[id]; b != nil {
			newest = append(newest, db.copyBlock(b, cols))
		}
	}
	db.mu.RUnlock()
	// What is in memory is the newest, without a hole: when it begins before the
	// range does, nothing on disk is needed.
	if len(newest) > 0 && newest[0].at[0] < from {
		return newest, nil, nil
	}
	k, err := db.known(ctx)
	if err != nil {
		return nil, nil, err
	}
	// Slots do not stand at every unit: looking for those that are not there
	// would be most of the work.
	i, _ := slices.BinarySearch(k.slots, (from-maxUnits*unit)/unit)
	for ; i < len(k.slots) && k.slots[i] <= to/unit+1; i++ {
		if !slices.Contains(held, k.slots[i]) {
			keys = append(keys, ',')
			keys = strconv.AppendInt(keys, k.slots[i]<<entityBits|id, 10)
		}
	}
	return newest, keys, nil
}

func (db *DB) copyBlock(b *block, cols []column) chunk {
	n := b.looks()
	c := chunk{at: b.times(make([]int64, 0, n), b.start), cols: make([][]int64, len(cols)), interval: db.every(b.e.kind)}
	for i, want := range cols {
		for j, have := range b.e.cols {
			if have.name == want.name {
				c.cols[i] = b.column(make([]int64, 0, n), j)
			}
		}
	}
	return c
}

// folder turns one column's looks, or finer cells, into cells of step. It is
// the only place where counters become rates over time, for the roll-ups and
// for what is read.
type folder struct {
	counter  bool
	from, to int64 // of the looks that count
	step     int64
	cells    []cell
	end      int64   // of the last cell
	gaps     []int64 // buckets before which nothing was measured for too long

	at, v int64 // the look before; v may be absent
	any   bool
}

func (f *folder) cellAt(at int64) *cell {
	if n := len(f.cells); n > 0 && at < f.end && at >= f.end-f.step {
		return &f.cells[n-1]
	}
	start := floor(at, f.step)
	f.end = start + f.step
	if n := len(f.cells); n == 0 || f.cells[n-1].at < start {
		f.cells = append(f.cells, cell{at: start})
	}
	return &f.cells[len(f.cells)-1]
}

// looks folds a chunk of looks; v is nil when the column was not recorded.
func (f *folder) looks(at, v []int64, interval int64) {
	gap := gapAfter(interval)
	i, _ := slices.BinarySearch(at, f.from)
	end, _ := slices.BinarySearch(at, f.to)
	if i > 0 { // of what lies before the range, the last one counts
		f.follow(at[i-1], v, i-1)
	}
	for i < end && f.any && at[i] <= f.at {
		i++ // the clock stepped back
	}
	for i < end {
		next := floor(at[i], f.step) + f.step
		n := 1
		for i+n < end && at[i+n] < next {
			n++
		}
		switch {
		case v == nil:
			f.follow(at[i+n-1], nil, 0)
		case f.counter:
			f.intervals(at[i:i+n], v[i:i+n], gap)
		default:
			f.gauges(at[i:i+n], v[i:i+n], gap)
		}
		i += n
	}
}

// follow makes look i of v the look before, unless there is a later one.
func (f *folder) follow(t int64, v []int64, i int) {
	if f.any && t <= f.at {
		return
	}
	f.at, f.v, f.any = t, absent, true
	if v != nil {
		f.v = v[i]
	}
}

// intervals folds what a counter did between the looks of one bucket.
func (f *folder) intervals(at, v []int64, gap int64) {
	var c *cell
	for i, t := range at {
		now := v[i]
		if apart := t - f.at; f.any && now != absent {
			if apart > gap {
				f.gaps = append(f.gaps, floor(t, f.step))
			} else if inc, ok := increase(f.v, now); ok {
				if c == nil {
					c = f.cellAt(t)
				}
				c.interval(inc, apart)
			}
		}
		f.at, f.v, f.any = t, now, true
	}
}

// gauges folds what a gauge showed at the looks of one bucket.
func (f *folder) gauges(at, v []int64, gap int64) {
	if f.any && v[0] != absent && at[0]-f.at > gap {
		f.gaps = append(f.gaps, floor(at[0], f.step))
	}
	n, least, most, sum := int64(0), int64(math.MaxInt64), int64(math.MinInt64), int64(0)
	for i, now := range v {
		if now == absent {
			continue
		}
		if i > 0 && at[i]-at[i-1] > gap {
			f.gaps = append(f.gaps, floor(at[i], f.step))
		}
		n++
		sum += now
		least, most = min(least, now), max(most, now)
	}
	if n > 0 {
		f.cellAt(at[0]).merge(cell{n: n, min: least, max: most, sum: sum})
	}
	f.at, f.v, f.any = at[len(at)-1], v[len(v)-1], true
}

// fine folds cells of a finer level.
func (f *folder) fine(cells []cell) {
	for i := range cells {
		if c := &cells[i]; c.n > 0 && c.at >= f.from && c.at < f.to {
			f.cellAt(c.at).merge(*c)
		}
	}
}

// rooms are used by one reader at a time, and again by the next.
var rooms = sync.Pool{New: func() any { return &scratch{} }}

// stretch is what is read of one table.
type stretch struct {
	lvl      int // -1: raw
	from, to int64
	keys     []byte
}

// fold feeds one folder per column with what is known of an entity in [from,
// to), from the given level (-1 is raw) as far as it is built, the rest from
// the finer ones. from is a multiple of the level's step.
func (db *DB) fold(ctx context.Context, id int64, cols []column, lvl int, from, to int64, built []int64, folders []*folder) error {
	var plan []stretch
	for ; lvl >= 0 && from < to; lvl-- {
		l, end := levels[lvl], min(to, built[lvl])
		if from < end {
			plan = append(plan, stretch{lvl, from, end, keysOf(id, from/l.span, (end-1)/l.span)})
			from = end
		}
	}
	var newest []chunk
	if from < to {
		looks, keys, err := db.looksOf(ctx, id, cols, from, to)
		if err != nil {
			return err
		}
		newest = looks
		if len(keys) > 0 {
			plan = append(plan, stretch{-1, from, to, keys})
		}
	}
	room := rooms.Get().(*scratch)
	defer rooms.Put(room)
	looks := func(c chunk) {
		for i, f := range folders {
			f.from, f.to = from, to
			f.looks(c.at, c.cols[i], c.interval)
		}
	}
	for _, f := range folders {
		f.any = false
	}
	err := db.stretches(ctx, plan, func(s *stretch, slot int64, data []byte) error {
		if s.lvl < 0 {
			c, err := decodeBlockIn(data, db.layouts, cols, slot*unit, room)
			if err == nil {
				looks(c)
			}
			return err
		}
		l := levels[s.lvl]
		return l.rows(slot, data, func(start int64, data []byte) error {
			if start >= s.to || l.part > 0 && start+l.part <= s.from {
				return nil
			}
			got, err := decodeCellsIn(data, db.layouts, cols, start, l.step, room)
			if err != nil {
				return err
			}
			for i, f := range folders {
				f.from, f.to = s.from, s.to
				f.fine(got[i])
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, c := range newest {
		looks(c)
	}
	return nil
}

// stretchSQL are the statements for stretches of some levels, from coarse to
// fine: bit 0 stands for raw, the next ones for the levels.
var stretchSQL = func() []string {
	all := make([]string, 2<<len(levels))
	for which := range all {
		var text []string
		for lvl := len(levels) - 1; lvl >= -1; lvl-- {
			if which>>(lvl+1)&1 == 0 {
				continue
			}
			table := "raw"
			if lvl >= 0 {
				table = levels[lvl].table
			}
			text = append(text, fmt.Sprintf("SELECT %d, k, d FROM json_each(?%d) AS j CROSS JOIN %s ON k = j.value", len(text), len(text)+1, table))
		}
		all[which] = strings.Join(text, " UNION ALL ")
	}
	return all
}()

// stretches calls f with the blobs of all stretches, in their order. It is one
// statement: of a small one the most is its beginning and its end.
func (db *DB) stretches(ctx context.Context, plan []stretch, f func(s *stretch, slot int64, data []byte) error) error {
	if err := ctx.Err(); err != nil || len(plan) == 0 {
		return err
	}
	// Some rows are read at once: waiting for ctx meanwhile costs more.
	ctx = context.WithoutCancel(ctx)
	which := 0
	args := make([]any, len(plan))
	for i := range plan {
		s := &plan[i]
		which |= 1 << (s.lvl + 1)
		s.keys[0] = '['
		args[i] = string(append(s.keys, ']'))
	}
	query, err := db.metrics.reading(ctx, stretchSQL[which])
	if err != nil {
		return fmt.Errorf("read measurements: %w", err)
	}
	rows, err := query.QueryContext(ctx, args...)
	if err != nil {
		return fmt.Errorf("read measurements: %w", err)
	}
	defer rows.Close()
	last := 0
	for rows.Next() {
		var i int
		var k int64
		var data sql.RawBytes
		if err := rows.Scan(&i, &k, &data); err != nil {
			return fmt.Errorf("read measurements: %w", err)
		}
		if i < last {
			return fmt.Errorf("read measurements: stretch %d came after %d", i, last)
		}
		last = i
		if err := f(&plan[i], k>>entityBits, data); err != nil {
			return fmt.Errorf("read slot %d of entity %d, stretch %d: %w", k>>entityBits, k&entityMask, i, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read measurements: %w", err)
	}
	return nil
}

// builtUntil reads how far each roll-up is built.
func (db *DB) builtUntil(ctx context.Context) ([]int64, error) {
	marks, err := db.marks(ctx)
	built := make([]int64, len(levels))
	for i, l := range levels {
		built[i] = marks[l.table]
	}
	return built, err
}

// known is what readers ask of the jobs with every query, as of a generation of
// theirs. One that is a little old is right as well: what was built in the
// meantime is still there in the finer level.
type known struct {
	generation uint64
	marks      map[string]int64
	slots      []int64 // of raw, rising
}

// jobDone makes readers look again.
func (db *DB) jobDone() { db.generation.Add(1) }

func (db *DB) known(ctx context.Context) (*known, error) {
	generation := db.generation.Load()
	if k := db.knownNow.Load(); k != nil && k.generation == generation {
		return k, nil
	}
	k := &known{generation: generation}
	var err error
	if k.marks, err = db.readMarks(ctx); err != nil {
		return nil, err
	}
	if k.slots, err = db.readRawSlots(ctx); err != nil {
		return nil, err
	}
	db.knownNow.Store(k)
	return k, nil
}

// readRawSlots lists the slots of raw, by one look at the table for each.
func (db *DB) readRawSlots(ctx context.Context) ([]int64, error) {
	query, err := db.metrics.reading(ctx, "SELECT min(k) FROM raw WHERE k >= ?")
	if err != nil {
		return nil, fmt.Errorf("list slots: %w", err)
	}
	var slots []int64
	for next := int64(0); ; {
		var k sql.NullInt64
		if err := query.QueryRowContext(ctx, next).Scan(&k); err != nil {
			return nil, fmt.Errorf("list slots: %w", err)
		}
		if !k.Valid {
			return slots, nil
		}
		slots = append(slots, k.Int64>>entityBits)
		next = (k.Int64>>entityBits + 1) << entityBits
	}
}

// marks are how far the jobs got.
func (db *DB) marks(ctx context.Context) (map[string]int64, error) {
	k, err := db.known(ctx)
	if err != nil {
		return nil, err
	}
	return k.marks, nil
}

// readMarks reads all marks at once.
func (db *DB) readMarks(ctx context.Context) (map[string]int64, error) {
	query, err := db.metrics.reading(ctx, "SELECT k, v FROM mark")
	if err != nil {
		return nil, fmt.Errorf("read marks: %w", err)
	}
	rows, err := query.QueryContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("read marks: %w", err)
	}
	defer rows.Close()
	marks := make(map[string]int64, 16)
	for rows.Next() {
		var k string
		var v int64
		if err := rows.Scan(&k, &v); err != nil {
			return nil, fmt.Errorf("read marks: %w", err)
		}
		marks[k] = v
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read marks: %w", err)
	}
	return marks, nil
}

// life is one epoch of an entity.
type life struct {
	id, epoch   int64
	first, last int64 // ms; last is of what is sealed
}

// lives lists the epochs of an entity that were there between two times, oldest
// first.
func (db *DB) lives(ctx context.Context, name fleet.Entity, from, to int64) ([]int64, error) {
	all, err := db.allLives(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("find %s %q: %w", name.Kind, name.Key, err)
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	ids := make([]int64, 0, len(all))
	for _, l := range all {
		if l.first >= to {
			break
		}
		// last is of what is sealed, and is not followed as long as the life is in
		// memory.
		if l.last >= from-seenEvery || db.entities[entityRef{name.Kind, name.Key, l.epoch}] != nil {
			ids = append(ids, l.id)
		}
	}
	return ids, nil
}

// maxLives is how many names are remembered with their lives.
const maxLives = 10_000

// allLives reads the lives of a name, oldest first, and remembers them until one
// begins or leaves memory.
func (db *DB) allLives(ctx context.Context, name fleet.Entity) ([]life, error) {
	db.livesMu.Lock()
	all, ok := db.livesOf[name]
	changes := db.livesChanges
	db.livesMu.Unlock()
	if ok {
		return all, nil
	}
	query, err := db.metrics.reading(ctx, livesSQL)
	if err != nil {
		return nil, err
	}
	rows, err := query.QueryContext(ctx, name.Kind, name.Key)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var l life
		if err := rows.Scan(&l.id, &l.epoch, &l.first, &l.last); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	db.livesMu.Lock()
	defer db.livesMu.Unlock()
	// One that is not there yet may come without being put in memory.
	if len(all) > 0 && changes == db.livesChanges {
		if len(db.livesOf) >= maxLives {
			clear(db.livesOf)
		}
		db.livesOf[name] = all
	}
	return all, nil
}

// livesChanged forgets what is remembered of a name's lives.
func (db *DB) livesChanged(name fleet.Entity) {
	db.livesMu.Lock()
	defer db.livesMu.Unlock()
	db.livesChanges++
	delete(db.livesOf, name)
}

// The newest lives only: a name that is re-created for ever has a bounded past.
const livesSQL = `
	SELECT id, epoch, first_ms, last_ms FROM (
		SELECT id, epoch, first_ms, last_ms FROM entity WHERE kind = ?1 AND name = ?2
		ORDER BY first_ms DESC LIMIT 200)
	ORDER BY first_ms`
