package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ballast/fleet"
)

type blobRow struct {
	k int64
	d []byte
}

const (
	perInsert = 32  // rows of one INSERT
	perTx     = 256 // rows of one transaction: a look waits for it at most some ms
)

var (
	insertOne  = map[string]string{}
	insertMany = map[string]string{}
)

func init() {
	for _, t := range []string{"top", "raw", "m1", "r1", "r2", "r3", "h0", "h1", "h2"} {
		insertOne[t] = "INSERT OR REPLACE INTO " + t + "(k, d) VALUES (?, ?)"
		insertMany[t] = insertOne[t] + strings.Repeat(", (?, ?)", perInsert-1)
	}
}

// insertBlobs writes rows, which are in rising order of their keys.
func insertBlobs(ctx context.Context, tx *sql.Tx, table string, rows []blobRow, many *sql.Stmt) error {
	args := make([]any, 0, 2*perInsert)
	for len(rows) > 0 {
		n := min(len(rows), perInsert)
		if n < perInsert {
			n = 1
		}
		args = args[:0]
		for _, r := range rows[:n] {
			args = append(args, r.k, r.d)
		}
		var err error
		if n == perInsert {
			_, err = many.ExecContext(ctx, args...)
		} else {
			_, err = tx.ExecContext(ctx, insertOne[table], args...)
		}
		if err != nil {
			return fmt.Errorf("write %d blobs to %s: %w", n, table, err)
		}
		rows = rows[n:]
	}
	return nil
}

// writeBlobs writes rows in short transactions; the last one runs finish as
// well. A crash in between leaves a part, which the next try writes again.
func (db *DB) writeBlobs(ctx context.Context, table string, rows []blobRow, finish func(context.Context, *sql.Tx) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(len(rows), perTx)
		last := n == len(rows)
		run := context.WithoutCancel(ctx)
		many, err := db.metrics.writing(run, insertMany[table])
		if err != nil {
			return fmt.Errorf("write blobs to %s: %w", table, err)
		}
		err = inTx(run, db.metrics.w, func(tx *sql.Tx) error {
			if err := insertBlobs(run, tx, table, rows[:n], tx.StmtContext(run, many)); err != nil || !last {
				return err
			}
			return finish(run, tx)
		})
		if err != nil || last {
			db.jobDone()
			return err
		}
		rows = rows[n:]
	}
}

// sealAll writes the slots that are full.
func (db *DB) sealAll(ctx context.Context) error {
	db.sealing.Lock()
	defer db.sealing.Unlock()
	for {
		db.mu.RLock()
		var h *head
		if len(db.closing) > 0 {
			h = db.closing[0]
		}
		db.mu.RUnlock()
		if h == nil {
			break
		}
		if err := db.seal(ctx, h); err != nil {
			return fmt.Errorf("seal the slot of %s: %w", fromMS(h.start).Format(time.RFC3339), err)
		}
	}
	return db.sealAcks(ctx)
}

// seal writes a full slot and forgets its journal rows. Nobody adds to a
// closing head, so it is read without the lock.
func (db *DB) seal(ctx context.Context, h *head) error {
	blocks := make([]*block, 0, len(h.blocks))
	for _, b := range h.blocks {
		blocks = append(blocks, b)
	}
	slices.SortFunc(blocks, func(a, b *block) int { return cmp.Compare(a.e.id, b.e.id) })
	var enc encoder
	rows := make([]blobRow, len(blocks))
	for i, b := range blocks {
		rows[i] = blobRow{
			k: h.start/unit<<entityBits | b.e.id,
			d: b.appendTo(nil, &enc, db.layouts.now[b.e.kind], db.every(b.e.kind)),
		}
	}
	tops := db.kindTops(blocks)
	err := db.writeBlobs(ctx, "raw", rows, func(ctx context.Context, tx *sql.Tx) error {
		if err := seenUntil(ctx, tx, rows, h.end-1); err != nil {
			return err
		}
		for layout, data := range tops {
			if err := putTop(ctx, tx, h.start, layout, data); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM tick WHERE id <= ?", h.lastTick); err != nil {
			return err
		}
		return setMark(ctx, tx, "raw", h.end)
	})
	if err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.closing = slices.Clone(db.closing[1:])
	db.sealed = h.end
	// The memory is used again: a slot's is a good part of all there is.
	db.spare = map[int][]*block{}
	for _, b := range blocks {
		if n := len(b.base); b.wide == nil && cap(b.small) == (1+n)*h.looks {
			db.spare[n] = append(db.spare[n], b)
		}
	}
	return nil
}

// seenUntil notes that the entities of the blobs were there.
func seenUntil(ctx context.Context, tx *sql.Tx, rows []blobRow, at int64) error {
	ids := []byte{'['}
	for i, r := range rows {
		if i > 0 {
			ids = append(ids, ',')
		}
		ids = strconv.AppendInt(ids, r.k&entityMask, 10)
	}
	ids = append(ids, ']')
	if _, err := tx.ExecContext(ctx, seenSQL, at, string(ids), seenEvery-1); err != nil {
		return fmt.Errorf("note %d entities: %w", len(rows), err)
	}
	return nil
}

// seenEvery is how far last_ms of an entity may lie behind what is sealed of
// it: writing it with every slot would cost more than the slot's figures.
const seenEvery = hour

const seenSQL = "UPDATE entity SET last_ms = ?1 WHERE +last_ms < ?1 - ?3 AND id IN (SELECT value FROM json_each(?2))"

// rollUp builds every roll-up slot whose source is complete. It can be stopped
// and started at any point: a slot is built anew until its mark is set.
func (db *DB) rollUp(ctx context.Context) error {
	db.sealing.Lock()
	defer db.sealing.Unlock()
	db.jobDone() // what is built on is read anew
	if err := db.dropJoined(ctx); err != nil {
		return err
	}
	for lvl := range levels {
		if err := db.rollUpLevel(ctx, lvl); err != nil {
			return fmt.Errorf("build %s: %w", levels[lvl].table, err)
		}
	}
	if err := db.rankHours(ctx); err != nil {
		return fmt.Errorf("rank hours: %w", err)
	}
	return nil
}

func (db *DB) rollUpLevel(ctx context.Context, lvl int) error {
	l := levels[lvl]
	built, err := db.builtUntil(ctx)
	if err != nil {
		return err
	}
	source, table, span := db.sealedUntil(), "raw", int64(unit)
	if lvl > 0 {
		source, table, span = built[lvl-1], levels[lvl-1].table, levels[lvl-1].span
	}
	next := built[lvl]
	if next == 0 {
		var k sql.NullInt64
		if err := db.metrics.r.QueryRowContext(ctx, "SELECT min(k) FROM "+table).Scan(&k); err != nil {
			return err
		}
		if !k.Valid {
			return nil
		}
		next = floor(k.Int64>>entityBits*span, l.span)
	}
	for ; next+l.span <= source; next += l.span {
		build := db.rollUpSlot
		if l.part > 0 {
			build = db.joinSlot
		}
		if err := build(ctx, lvl, next); err != nil {
			return fmt.Errorf("slot of %s: %w", fromMS(next).Format(time.RFC3339), err)
		}
	}
	return nil
}

func (db *DB) sealedUntil() int64 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.sealed
}

// perFold is how many entities are folded at once: what is kept of them in the
// meantime stays in the processor's caches.
const perFold = 64

// folding is one entity whose roll-up is being built.
type folding struct {
	id      int64
	kind    fleet.Kind
	cols    []column
	folders []*folder
}

// rollUpSlot builds one slot of a level for all entities that were there.
func (db *DB) rollUpSlot(ctx context.Context, lvl int, start int64) error {
	l := levels[lvl]
	alive, err := db.alive(ctx, start, start+l.span)
	if err != nil {
		return err
	}
	slots, err := db.slotsUnder(ctx, lvl, start)
	if err != nil {
		return err
	}
	var enc encoder
	var rows []blobRow
	var spare []*folder // used again for the next entities
	var room scratch
	flush := func(finish func(context.Context, *sql.Tx) error) error {
		err := db.writeBlobs(ctx, l.table, rows, finish)
		rows = rows[:0]
		return err
	}
	for part := range slices.Chunk(alive, perFold) {
		n := 0
		for i := range part {
			e := &part[i]
			for _, c := range e.cols {
				if n == len(spare) {
					spare = append(spare, &folder{})
				}
				f := spare[n]
				*f = folder{counter: c.counter, from: start, to: start + l.span, step: l.step, cells: f.cells[:0], gaps: f.gaps[:0]}
				n++
			}
			e.folders = spare[n-len(e.cols) : n]
		}
		if err := db.foldPart(ctx, lvl, part, slots, &room); err != nil {
			return err
		}
		for _, e := range part {
			if cols := align(e.folders); len(cols[0]) > 0 {
				rows = append(rows, blobRow{
					k: start/l.span<<entityBits | e.id,
					d: appendCells(nil, &enc, db.layouts.now[e.kind], start, l.step, e.cols, cols),
				})
			}
		}
		if len(rows) >= perTx-perFold {
			if err := flush(func(context.Context, *sql.Tx) error { return nil }); err != nil {
				return err
			}
		}
	}
	return flush(func(ctx context.Context, tx *sql.Tx) error { return setMark(ctx, tx, l.table, start+l.span) })
}

// alive lists the entities that may have been there between two times, by id.
func (db *DB) alive(ctx context.Context, from, to int64) ([]folding, error) {
	found, err := db.metrics.r.QueryContext(ctx, aliveSQL, from-seenEvery, to)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var alive []folding
	for found.Next() {
		var e folding
		if err := found.Scan(&e.id, &e.kind); err != nil {
			return nil, err
		}
		if e.cols = columnsOf[e.kind]; len(e.cols) > 0 {
			alive = append(alive, e)
		}
	}
	return alive, found.Err()
}

// slotsUnder lists the slots from which one of the level is built. Of raw, the
// slot before is among them: it has the looks that counters are compared with.
func (db *DB) slotsUnder(ctx context.Context, lvl int, start int64) ([]int64, error) {
	end := start + levels[lvl].span
	if lvl > 0 {
		var slots []int64
		for slot := start / levels[lvl-1].span; slot*levels[lvl-1].span < end; slot++ {
			slots = append(slots, slot)
		}
		return slots, nil
	}
	k, err := db.known(ctx)
	if err != nil {
		return nil, err
	}
	first, _ := slices.BinarySearch(k.slots, start/unit-maxUnits)
	last, _ := slices.BinarySearch(k.slots, end/unit)
	return k.slots[first:last], nil
}

// foldPart feeds the folders of neighbouring entities with the slots below a
// level, one scan for each.
func (db *DB) foldPart(ctx context.Context, lvl int, part []folding, slots []int64, room *scratch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, slot := range slots {
		var err error
		if lvl == 0 {
			err = db.eachOf(ctx, "raw", slot, part, func(i int, data []byte) error {
				e := &part[i]
				c, err := decodeBlockIn(data, db.layouts, e.cols, slot*unit, room)
				if err != nil {
					return err
				}
				for i, f := range e.folders {
					f.looks(c.at, c.cols[i], c.interval)
				}
				return nil
			})
		} else {
			below := levels[lvl-1]
			err = db.eachOf(ctx, below.table, slot, part, func(i int, data []byte) error {
				e := &part[i]
				return below.rows(slot, data, func(start int64, data []byte) error {
					got, err := decodeCellsIn(data, db.layouts, e.cols, start, below.step, room)
					if err != nil {
						return err
					}
					for i, f := range e.folders {
						f.fine(got[i])
					}
					return nil
				})
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// between reads the blobs whose keys lie from first to last, in their order. It
// is not interrupted: see rows.
func (db *DB) between(ctx context.Context, table string, first, last int64, f func(k int64, data []byte) error) error {
	ctx = context.WithoutCancel(ctx)
	query, err := db.metrics.reading(ctx, "SELECT k, d FROM "+table+" WHERE k BETWEEN ?1 AND ?2 ORDER BY k")
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	rows, err := query.QueryContext(ctx, first, last)
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	return eachBlob(rows, table, f)
}

// +id: sorting the few that are alive is cheaper than reading all there ever were.
const aliveSQL = "SELECT id, kind FROM entity WHERE last_ms >= ?1 AND first_ms < ?2 ORDER BY +id"

// align gives all columns the same buckets. Mostly they have them.
func align(folders []*folder) [][]cell {
	cols := make([][]cell, len(folders))
	same := true
	for i, f := range folders {
		cols[i] = f.cells
		same = same && slices.EqualFunc(f.cells, cols[0], func(a, b cell) bool { return a.at == b.at })
	}
	if same {
		return cols
	}
	var at []int64
	for _, f := range folders {
		for _, c := range f.cells {
			at = append(at, c.at)
		}
	}
	slices.Sort(at)
	at = slices.Compact(at)
	for i, f := range folders {
		cols[i] = make([]cell, len(at))
		rest := f.cells
		for j, t := range at {
			cols[i][j].at = t
			if len(rest) > 0 && rest[0].at == t {
				cols[i][j], rest = rest[0], rest[1:]
			}
		}
	}
	return cols
}
