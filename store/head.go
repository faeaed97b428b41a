package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/klauspost/compress/s2"

	"ballast/fleet"
)

// unit is the grid on which raw slots start; a slot is one to five units long,
// so that it holds about 120 looks at any interval.
const unit = 2 * 60_000

const maxUnits = 5

// entityRef is an entity in one life; a new epoch begins its counters anew.
type entityRef struct {
	kind  fleet.Kind
	name  string
	epoch int64
}

// entity is what the store remembers of one between two looks. Everything but
// id and cols is guarded by DB.mu, and written with DB.put held as well.
type entity struct {
	entityRef
	id     int64
	cols   []column
	first  int64      // ms, of the first look
	at     int64      // ms, of the last look; 0: none since the start
	last   []int64    // the last look; the memory is the entity's own
	rate   [4]float64 // of the first columns, which are all that Rates needs
	rateAt int64      // ms; 0: none
	in     *head      // the slot of block
	block  *block
	put    uint64 // guarded by DB.put: of its last look
	chain  uint64 // guarded by DB.put: of the tick rows that have its last look
}

// head is a raw slot in memory.
type head struct {
	start, end int64            // ms
	lastTick   int64            // id of the last journal row in it
	looks      int              // about so many of one entity
	blocks     map[int64]*block // by entity
	spare      map[int][]*block // of a slot that is on disk, by number of columns
	rest       []int32          // memory for blocks that is not used yet
}

// block makes a block, in used memory if there is some.
func (h *head) block(e *entity) *block {
	n := len(e.cols)
	if spare := h.spare[n]; len(spare) > 0 {
		b := spare[len(spare)-1]
		h.spare[n] = spare[:len(spare)-1]
		b.again(e, h.start)
		return b
	}
	return newBlock(e, h.start, h.room((1+n)*h.looks))
}

// roomSize is how many numbers are allocated at once.
const roomSize = 64 << 10

// room is memory for n numbers. Blocks whose memory lay at multiples of its size
// would displace each other from the processor's caches, and round up what each
// takes.
func (h *head) room(n int) []int32 {
	if len(h.rest) < n {
		h.rest = make([]int32, max(n, roomSize))
	}
	room := h.rest[:0:n]
	h.rest = h.rest[n:]
	return room
}

func (h *head) add(e *entity, at int64, v []int64) {
	if d := at - h.start; d != int64(int32(d)) {
		return // a clock that stepped back by weeks
	}
	if e.in != h {
		e.in, e.block = h, h.block(e)
		h.blocks[e.id] = e.block
	}
	e.block.add(at, v)
}

// slotOf returns the slot of a time, given that everything before sealed is on
// disk already: a slot never starts where another one lies.
func (db *DB) slotOf(at int64) (start, end int64) {
	length := min(max(ceil(db.intervalMS()*120, unit), unit), maxUnits*unit)
	start = floor(at, length)
	return max(start, db.sealed), start + length
}

// headFor returns the open slot for a look at the time, closing the one before.
// The caller holds mu.
func (db *DB) headFor(at int64) *head {
	if db.open != nil && at < db.open.end {
		return db.open // a step back of the clock stays in the open slot
	}
	if db.open != nil {
		db.closing = append(db.closing, db.open)
		select {
		case db.wake <- struct{}{}:
		default:
		}
	}
	start, end := db.slotOf(at)
	if n := len(db.closing); n > 0 {
		start = max(start, db.closing[n-1].end)
	}
	end = max(end, start+unit)
	looks := min(int((end-start)/db.intervalMS())+2, 1000)
	db.open = &head{start: start, end: end, looks: looks, blocks: make(map[int64]*block, len(db.entities)), spare: db.spare}
	db.spare = nil
	return db.open
}

// A tick row holds one round: version, 1 when it is not a difference to the row
// before, then by kind: kind's column list, number of entities, and of each at -
// tick, one bit for each value, and the differences of those whose bit is set.
// The lowest bit of the time is set when the id is not the next one; then the
// distance of the ids follows. Compressing it gains little.
const tickVersion = 3

// encodeTick writes the rows that are recorded, which stand together by kind,
// to tickRow. The caller holds put.
func (db *DB) encodeTick(set *rowSet) {
	b := append(db.tickRow[:0], tickVersion, 0)
	if !db.chained {
		b[1] = 1
	}
	for i := 0; i < len(set.rows); {
		kind := set.rows[i].ref.kind
		n, end := 0, i
		for ; end < len(set.rows) && set.rows[end].ref.kind == kind; end++ {
			if set.rows[end].e != nil {
				n++
			}
		}
		rows := set.rows[i:end]
		i = end
		if n == 0 {
			continue
		}
		b = binary.AppendUvarint(b, uint64(db.layouts.now[kind]))
		b = binary.AppendUvarint(b, uint64(n))
		last := int64(0)
		for j := range rows {
			r := &rows[j]
			e := r.e
			if e == nil {
				continue
			}
			if time := zig(r.at-set.taken) << 1; e.id == last+1 {
				b = appendVarint(b, time)
			} else {
				b = appendVarint(b, time|1)
				b = appendVarint(b, zig(e.id-last))
			}
			last = e.id
			// The values that differ, after one bit for each value.
			v, bits := set.values(r), len(b)
			for k := 0; k < len(v); k += 8 {
				b = append(b, 0)
			}
			before := e.last
			if e.chain != db.chainID {
				e.chain, before = db.chainID, nil
			}
			for k, x := range v {
				if before != nil {
					x -= before[k]
				}
				if x != 0 {
					b[bits+k/8] |= 1 << (k % 8)
					b = appendVarint(b, zig(x))
				}
			}
		}
	}
	db.tickRow = b
}

// appendVarint is binary.AppendUvarint with the short cut for small numbers.
func appendVarint(b []byte, u uint64) []byte {
	if u < 0x80 {
		return append(b, byte(u))
	}
	return binary.AppendUvarint(b, u)
}

// maxRow bounds a journal row when it is not compressed; a look at 50,000 series
// takes some hundred KiB.
const maxRow = 64 << 20

// inflate reads a compressed journal row. Its length stands in front, and is not
// believed before it is known to be one that was written.
func inflate(data []byte) ([]byte, error) {
	n, err := s2.DecodedLen(data)
	if err == nil && n > maxRow {
		err = errCorrupt
	}
	if err != nil {
		return nil, err
	}
	return s2.Decode(nil, data)
}

// decodeTick calls f with each look of a tick row; carried holds the values from
// row to row, by entity.
func (db *DB) decodeTick(data []byte, ts int64, carried map[int64][]int64, f func(layout, id, at int64, v []int64) error) error {
	d := decoder{b: data}
	if d.byte() != tickVersion {
		return errCorrupt
	}
	if d.byte() == 1 {
		clear(carried)
	}
	for len(d.b) > 0 {
		layout := int64(d.uvarint())
		names, ok := db.layouts.names[layout]
		if !ok {
			return errLayout
		}
		id := int64(0)
		for n := d.count(); n > 0; n-- {
			time := d.uvarint()
			if time&1 == 1 {
				id += d.varint()
			} else {
				id++
			}
			at := ts + unzig(time>>1)
			bits := d.bytes(uint64(len(names)+7) / 8)
			if d.err != nil {
				return d.err
			}
			last := carried[id]
			if len(last) != len(names) {
				last = make([]int64, len(names))
				carried[id] = last
			}
			for i := range last {
				if bits[i/8]>>(i%8)&1 == 1 {
					last[i] += d.varint()
				}
			}
			if d.err != nil {
				return d.err
			}
			if err := f(layout, id, at, last); err != nil {
				return err
			}
		}
	}
	return d.err
}

// recoverTicks fills the open slots from the tick rows.
func (db *DB) recoverTicks(ctx context.Context) error {
	var err error
	if db.sealed, err = mark(ctx, db.metrics.w, "raw"); err != nil {
		return err
	}
	byID := map[int64]*entity{}
	rows, err := db.metrics.w.QueryContext(ctx, "SELECT id, ts, d FROM tick ORDER BY id")
	if err != nil {
		return fmt.Errorf("read the open slot: %w", err)
	}
	defer rows.Close()
	type tickRow struct {
		id, ts int64
		data   []byte
	}
	var ticks []tickRow // the writer has one connection: read all, then look entities up
	for rows.Next() {
		var t tickRow
		if err := rows.Scan(&t.id, &t.ts, &t.data); err != nil {
			return fmt.Errorf("read the open slot: %w", err)
		}
		ticks = append(ticks, t)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the open slot: %w", err)
	}
	rows.Close()
	carried := map[int64][]int64{}
	for _, t := range ticks {
		h := db.headFor(t.ts)
		h.lastTick = t.id
		err := db.decodeTick(t.data, t.ts, carried, func(layout, id, at int64, v []int64) error {
			e := byID[id]
			if e == nil {
				if e, err = loadEntity(ctx, db.metrics.w, id); err != nil {
					return err
				}
				byID[id] = e
				db.remember(e)
			}
			where, _, err := db.layouts.find(layout, e.cols)
			if err != nil {
				return err
			}
			now := make([]int64, len(where))
			for i, w := range where {
				now[i] = absent
				if w >= 0 {
					now[i] = v[w]
				}
			}
			if at > e.at {
				h.add(e, at, now)
				e.at, e.last = at, now
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read tick %d of the open slot: %w", t.id, err)
		}
	}
	if len(db.closing) > 0 {
		return db.recoverPrior(ctx, db.closing[0])
	}
	return db.recoverPrior(ctx, db.open)
}

// recoverPrior gives the blocks of the first slot in memory the looks before
// them, from the slot before: without them what happened in between would be
// missing in the ranking.
func (db *DB) recoverPrior(ctx context.Context, h *head) error {
	if h == nil {
		return nil
	}
	for slot := h.start/unit - maxUnits; slot < h.start/unit; slot++ {
		keys := []byte{'['}
		for id, b := range h.blocks {
			if b.e.first >= h.start {
				continue
			}
			if len(keys) > 1 {
				keys = append(keys, ',')
			}
			keys = strconv.AppendInt(keys, slot<<entityBits|id, 10)
		}
		err := db.many(ctx, "raw", append(keys, ']'), func(k int64, data []byte) error {
			b := h.blocks[k&entityMask]
			c, err := decodeBlock(data, db.layouts, b.e.cols, slot*unit)
			if err != nil {
				return err
			}
			n := len(c.at)
			if n == 0 || c.at[n-1] >= b.start+b.time(0) {
				return nil
			}
			b.before, b.prior = c.at[n-1], make([]int64, len(b.e.cols))
			for i, col := range c.cols {
				b.prior[i] = absent
				if col != nil {
					b.prior[i] = col[n-1]
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the slot before the open one: %w", err)
		}
	}
	return nil
}

// loadEntity reads an entity by its number.
func loadEntity(ctx context.Context, q querier, id int64) (*entity, error) {
	e := &entity{id: id}
	err := q.QueryRowContext(ctx, "SELECT kind, name, epoch, first_ms FROM entity WHERE id = ?", id).
		Scan(&e.kind, &e.name, &e.epoch, &e.first)
	if err != nil {
		return nil, fmt.Errorf("read entity %d: %w", id, err)
	}
	e.cols = columnsOf[e.kind]
	return e, nil
}

// remember keeps the entity in memory. The caller holds mu, or nobody else is
// there yet.
func (db *DB) remember(e *entity) {
	db.entities[e.entityRef] = e
	db.born.Store(true)
	name := fleet.Entity{Kind: e.kind, Key: e.name}
	if old := db.newest[name]; old == nil || old.first <= e.first {
		db.newest[name] = e
	}
	db.livesChanged(name)
}

// querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// getEntity finds the entity or adds it, in the transaction.
func getEntity(ctx context.Context, tx querier, ref entityRef, at int64) (*entity, error) {
	e := &entity{entityRef: ref, cols: columnsOf[ref.kind]}
	err := tx.QueryRowContext(ctx, `
		INSERT INTO entity(kind, name, epoch, first_ms, last_ms) VALUES (?1, ?2, ?3, ?4, ?4)
		ON CONFLICT DO UPDATE SET last_ms = max(last_ms, excluded.last_ms)
		RETURNING id, first_ms`, ref.kind, ref.name, ref.epoch, at).Scan(&e.id, &e.first)
	if err != nil {
		return nil, fmt.Errorf("add %s %q: %w", ref.kind, ref.name, err)
	}
	return e, nil
}

// mark reads how far a job got; 0 when it never ran.
func mark(ctx context.Context, q querier, name string) (int64, error) {
	var v int64
	if err := q.QueryRowContext(ctx, "SELECT coalesce(max(v), 0) FROM mark WHERE k = ?", name).Scan(&v); err != nil {
		return 0, fmt.Errorf("read mark %s: %w", name, err)
	}
	return v, nil
}

func setMark(ctx context.Context, q querier, name string, v int64) error {
	if _, err := q.ExecContext(ctx, "INSERT OR REPLACE INTO mark(k, v) VALUES (?, ?)", name, v); err != nil {
		return fmt.Errorf("set mark %s: %w", name, err)
	}
	return nil
}
