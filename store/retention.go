package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"time"

	"ballast/fleet"
)

// kept is a table of blobs and how long its rows live.
type kept struct {
	table string
	span  int64 // ms of one step of the key
	keep  time.Duration
}

// tables in the order in which they give way when the file is too large: the
// finest first.
func (db *DB) tables() []kept {
	r := db.o.Retention
	return []kept{
		{"raw", unit, r.Raw},
		{"h0", ackLevels[0].span, r.Acks10},
		{"top", unit, r.Acks5},
		{"detail", hour, r.Details},
		{"m1", levels[0].span, r.Min1},
		{"r1", levels[1].span, r.Min1},
		{"h1", ackLevels[1].span, r.Acks5},
		{"r2", levels[2].span, r.Min10},
		{"h2", ackLevels[2].span, r.AcksH},
		{"r3", levels[3].span, r.Hour1},
	}
}

// clean drops what is too old, then what is too much, and forgets in memory
// what is gone.
func (db *DB) clean(ctx context.Context) error {
	db.sealing.Lock()
	defer db.sealing.Unlock()
	now := ms(db.o.Now())
	for _, t := range db.tables() {
		// A row goes when all that is in it is too old.
		before := floor(now-t.keep.Milliseconds(), t.span)
		for {
			dropped, err := db.dropOldest(ctx, t, before)
			if err != nil {
				return fmt.Errorf("drop what is too old: %w", err)
			}
			if !dropped {
				break
			}
		}
	}
	if _, err := db.metrics.w.ExecContext(ctx, "DELETE FROM event WHERE ts < ?", now-db.o.Retention.Events.Milliseconds()); err != nil {
		return fmt.Errorf("drop old events: %w", err)
	}
	longest := max(db.o.Retention.Hour1, db.o.Retention.AcksH)
	if _, err := db.metrics.w.ExecContext(ctx, "DELETE FROM entity WHERE last_ms < ?", now-longest.Milliseconds()-2*levels[3].span); err != nil {
		return fmt.Errorf("drop old entities: %w", err)
	}
	if err := db.shrink(ctx); err != nil {
		return err
	}
	db.forget(now)
	db.forgetWorkers(now)
	return nil
}

// dropOldest deletes the oldest slot of the table if it begins before the time.
// One slot a transaction: a look that waits for it waits some ms.
func (db *DB) dropOldest(ctx context.Context, t kept, before int64) (bool, error) {
	var k sql.NullInt64
	if err := db.metrics.r.QueryRowContext(ctx, "SELECT min(k) FROM "+t.table).Scan(&k); err != nil {
		return false, fmt.Errorf("find the oldest slot of %s: %w", t.table, err)
	}
	if !k.Valid || k.Int64>>entityBits*t.span >= before {
		return false, nil
	}
	next := (k.Int64>>entityBits + 1) << entityBits
	if _, err := db.metrics.w.ExecContext(ctx, "DELETE FROM "+t.table+" WHERE k < ?", next); err != nil {
		return false, fmt.Errorf("delete from %s: %w", t.table, err)
	}
	db.jobDone() // readers know which slots there are
	return true, nil
}

// shrink keeps the file within its limit.
func (db *DB) shrink(ctx context.Context) error {
	for _, t := range db.tables() {
		for {
			used, err := db.used(ctx)
			if err != nil {
				return err
			}
			if used <= db.o.SizeLimit {
				return db.giveBack(ctx)
			}
			dropped, err := db.dropOldest(ctx, t, 1<<62)
			if err != nil {
				return fmt.Errorf("keep within %d bytes: %w", db.o.SizeLimit, err)
			}
			if !dropped {
				break
			}
			db.log.WarnContext(ctx, "measurements dropped before their time: the file is at its limit", "table", t.table, "limit", db.o.SizeLimit)
		}
	}
	return db.giveBack(ctx)
}

// used is what the database takes, pages that are free again not counted.
func (db *DB) used(ctx context.Context) (int64, error) {
	var pages, free int64
	if err := db.metrics.r.QueryRowContext(ctx,
		"SELECT p.page_count, f.freelist_count FROM pragma_page_count AS p, pragma_freelist_count AS f").Scan(&pages, &free); err != nil {
		return 0, fmt.Errorf("measure the file: %w", err)
	}
	used := (pages - free) * pageSize
	if st, err := os.Stat(db.metrics.path + "-wal"); err == nil {
		used += st.Size()
	}
	return used, nil
}

// giveBack returns pages to the file system when a good part of the file is
// free, some at a time; the rest is used again.
func (db *DB) giveBack(ctx context.Context) error {
	var pages, free int64
	if err := db.metrics.r.QueryRowContext(ctx,
		"SELECT p.page_count, f.freelist_count FROM pragma_page_count AS p, pragma_freelist_count AS f").Scan(&pages, &free); err != nil {
		return fmt.Errorf("measure the file: %w", err)
	}
	if free*5 < pages {
		return nil
	}
	for range min(free/500+1, 20) {
		if _, err := db.metrics.w.ExecContext(ctx, "PRAGMA incremental_vacuum(500)"); err != nil {
			return fmt.Errorf("give pages back: %w", err)
		}
	}
	return nil
}

// forget drops entities that were not seen for an hour from memory; those with
// looks in a slot that is not on disk stay.
func (db *DB) forget(now int64) {
	db.put.Lock()
	defer db.put.Unlock()
	db.mu.Lock()
	defer db.mu.Unlock()
	for ref, e := range db.entities {
		if now-e.at <= hour || db.open != nil && db.open.blocks[e.id] != nil {
			continue
		}
		closing := false
		for _, h := range db.closing {
			closing = closing || h.blocks[e.id] != nil
		}
		if closing {
			continue
		}
		delete(db.entities, ref)
		db.livesChanged(fleet.Entity{Kind: ref.kind, Key: ref.name})
		db.set = rowSet{} // it must not find what is forgotten
	}
	for name, e := range db.newest {
		if db.entities[e.entityRef] != e {
			delete(db.newest, name)
		}
	}
	for key, r := range db.acks.by {
		if n := len(r.windows); n == 0 || now-r.windows[n-1].to > hour {
			delete(db.acks.by, key)
		}
	}
}
