package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
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
	for _, t := range []string{"top", "raw", "r1", "r2", "r3", "h0", "h1", "h2"} {
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
			d: b.appendTo(nil, &enc, db.layouts.now[b.e.kind], db.intervalMS()),
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
		if n := len(b.base); b.wide == nil && cap(b.at) == h.looks {
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
	for lvl := range levels {
		if err := db.rollUpLevel(ctx, lvl); err != nil {
			return fmt.Errorf("build %s: %w", levels[lvl].table, err)
		}
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
		built[lvl] = next
		if err := db.rollUpSlot(ctx, lvl, next, built); err != nil {
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

// rollUpSlot builds one slot of a level for all entities that were there.
func (db *DB) rollUpSlot(ctx context.Context, lvl int, start int64, built []int64) error {
	l := levels[lvl]
	found, err := db.metrics.r.QueryContext(ctx, aliveSQL, start-seenEvery, start+l.span)
	if err != nil {
		return err
	}
	defer found.Close()
	var alive []*entity
	for found.Next() {
		e := &entity{}
		if err := found.Scan(&e.id, &e.kind); err != nil {
			return err
		}
		e.cols = columnsOf[e.kind]
		alive = append(alive, e)
	}
	if err := errors.Join(found.Err(), found.Close()); err != nil {
		return err
	}
	var enc encoder
	var rows []blobRow
	var spare []*folder // used again for the next entity
	flush := func(finish func(context.Context, *sql.Tx) error) error {
		err := db.writeBlobs(ctx, l.table, rows, finish)
		rows = rows[:0]
		return err
	}
	for _, e := range alive {
		if len(e.cols) == 0 {
			continue
		}
		for len(spare) < len(e.cols) {
			spare = append(spare, &folder{})
		}
		folders := spare[:len(e.cols)]
		for i, c := range e.cols {
			f := folders[i]
			*f = folder{counter: c.counter, step: l.step, cells: f.cells[:0], gaps: f.gaps[:0]}
		}
		if err := db.fold(ctx, e.id, e.cols, lvl-1, start, start+l.span, built, folders); err != nil {
			return err
		}
		if cols := align(folders); len(cols[0]) > 0 {
			rows = append(rows, blobRow{
				k: start/l.span<<entityBits | e.id,
				d: appendCells(nil, &enc, db.layouts.now[e.kind], start, l.step, e.cols, cols),
			})
		}
		if len(rows) == perTx {
			if err := flush(func(context.Context, *sql.Tx) error { return nil }); err != nil {
				return err
			}
		}
	}
	return flush(func(ctx context.Context, tx *sql.Tx) error { return setMark(ctx, tx, l.table, start+l.span) })
}

// +id: sorting the few that are alive is cheaper than reading all there ever were.
const aliveSQL = "SELECT id, kind FROM entity WHERE last_ms >= ?1 AND first_ms < ?2 ORDER BY +id"

// align gives all columns the same buckets.
func align(folders []*folder) [][]cell {
	var at []int64
	for _, f := range folders {
		for _, c := range f.cells {
			at = append(at, c.at)
		}
	}
	slices.Sort(at)
	at = slices.Compact(at)
	cols := make([][]cell, len(folders))
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
