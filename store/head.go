package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"

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
	first  int64   // ms, of the first look
	at     int64   // ms, of the last look; 0: none since the start
	last   []int64 // the last look
	rate   []float64
	rateAt int64
}

// head is a raw slot in memory.
type head struct {
	start, end int64            // ms
	lastTick   int64            // id of the last journal row in it
	blocks     map[int64]*block // by entity
}

func (h *head) add(e *entity, at int64, v []int64) {
	b := h.blocks[e.id]
	if b == nil {
		b = newBlock(e)
		h.blocks[e.id] = b
	}
	b.add(at, v)
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
	db.open = &head{start: start, end: max(end, start+unit), blocks: map[int64]*block{}}
	return db.open
}

// A tick row holds one round, compressed: version, 1 when it is not a
// difference to the row before, then by kind: kind's column list, number of
// entities, and of each id, at - tick, and the differences of its values.
const tickVersion = 1

// chain knows the values that the next tick row is a difference to.
type chain struct{ last map[int64][]int64 }

func newChain() *chain { return &chain{map[int64][]int64{}} }

// encodeTick writes the rows, which stand together by kind.
func (db *DB) encodeTick(rows []row, ts int64, prev *chain) []byte {
	b := make([]byte, 0, 16*len(rows))
	b = append(b, tickVersion, 0)
	if prev == nil {
		b[1] = 1
	}
	for len(rows) > 0 {
		kind := rows[0].e.kind
		n := slices.IndexFunc(rows, func(r row) bool { return r.e.kind != kind })
		if n < 0 {
			n = len(rows)
		}
		b = binary.AppendUvarint(b, uint64(db.layouts.now[kind]))
		b = binary.AppendUvarint(b, uint64(n))
		for _, r := range rows[:n] {
			b = binary.AppendUvarint(b, uint64(r.e.id))
			b = binary.AppendUvarint(b, zig(r.at-ts))
			var last []int64
			if prev != nil {
				last = prev.last[r.e.id]
			}
			for i, x := range r.v {
				if last != nil {
					x -= last[i]
				}
				b = binary.AppendUvarint(b, zig(x))
			}
		}
		rows = rows[n:]
	}
	return s2.Encode(nil, b)
}

// decodeTick calls f with each look of a tick row; prev carries the values from
// row to row.
func (db *DB) decodeTick(data []byte, ts int64, prev *chain, f func(layout, id, at int64, v []int64) error) error {
	raw, err := s2.Decode(nil, data)
	if err != nil {
		return err
	}
	d := decoder{b: raw}
	if d.byte() != tickVersion {
		return errCorrupt
	}
	if d.byte() == 1 {
		clear(prev.last)
	}
	for len(d.b) > 0 {
		layout := int64(d.uvarint())
		names, ok := db.layouts.names[layout]
		if !ok {
			return errLayout
		}
		for n := d.count(); n > 0; n-- {
			id := int64(d.uvarint())
			at := ts + d.varint()
			last := prev.last[id]
			if len(last) != len(names) {
				last = make([]int64, len(names))
				prev.last[id] = last
			}
			for i := range last {
				last[i] += d.varint()
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
	prev := newChain()
	for _, t := range ticks {
		h := db.headFor(t.ts)
		h.lastTick = t.id
		err := db.decodeTick(t.data, t.ts, prev, func(layout, id, at int64, v []int64) error {
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
	name := fleet.Entity{Kind: e.kind, Key: e.name}
	if old := db.newest[name]; old == nil || old.first <= e.first {
		db.newest[name] = e
	}
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
