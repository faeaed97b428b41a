package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"ballast/fleet"
)

// maxEntities in memory: names come from clients, and whoever creates things
// without end must not fill our memory. Beyond it new ones are not recorded.
const maxEntities = 25_000

// PutSnapshot records one look at the whole system, in one transaction: when it
// returns nil, a crash or a power cut does not lose it. Figures that are no
// newer than those recorded before (a server that did not answer) are not
// recorded again, so that a gap stays a gap.
//
// When the disk refuses, Latest and Rates show the look all the same.
func (db *DB) PutSnapshot(ctx context.Context, s fleet.Snapshot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// A transaction that has begun is finished: interrupting it would cost the
	// connection, and commits are short.
	ctx = context.WithoutCancel(ctx)

	db.put.Lock()
	defer db.put.Unlock()
	set := &db.set
	set.fill(&s)
	db.workerRows(set)
	db.served.rows(set, s.Services)
	db.connRows(set, &s)
	set.leave()
	fresh := db.match(ctx, set)
	added := map[entityRef]*entity{}
	err := inTx(ctx, db.metrics.w, func(tx *sql.Tx) error {
		for _, i := range fresh {
			r := &set.rows[i]
			if added[r.ref] != nil {
				continue // a name that stands twice counts once
			}
			e, err := getEntity(ctx, tx, r.ref, r.at)
			if err != nil {
				return err
			}
			added[r.ref], r.e, r.known = e, e, e
		}
		return db.insertTick(ctx, tx, set)
	})

	db.mu.Lock()
	defer db.mu.Unlock()
	var h *head
	if err == nil {
		for _, e := range added {
			db.remember(e)
		}
		h = db.headFor(set.taken)
		h.lastTick = set.tick
	} else {
		db.chained = false // the row that would have been is not there to build on
	}
	for i := range set.rows {
		r := &set.rows[i]
		if err != nil && added[r.ref] != nil {
			r.known = nil // it was not added after all
			continue
		}
		if r.e != nil {
			v := set.values(r)
			if h != nil {
				h.add(r.e, r.at, v)
			}
			db.look(r.e, r.at, v)
		}
	}
	db.rates.Store(newPresent(&s, set))
	if err != nil {
		err = db.refused(fmt.Errorf("record snapshot: %w", err))
	} else {
		db.clear(topicWrite)
	}
	s.Problems = slices.Concat(s.Problems, db.Problems())
	if db.stirred(&s) {
		db.born.Store(true)
	}
	db.noteRound(&s, set.taken)
	db.latest.Store(&s)
	return err
}

// match gives the rows their entities and returns those whose entity is not in
// memory. The caller holds put.
func (db *DB) match(ctx context.Context, set *rowSet) (fresh []int) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.open == nil || set.taken >= db.open.end {
		db.chained = false // a slot's first row stands alone, so that what is gone is not carried on
	}
	if back := set.taken < db.taken; back != db.back {
		if db.back = back; back {
			db.log.ErrorContext(ctx, "the clock stepped back: nothing is recorded until it has caught up", "to", fromMS(db.taken))
		}
	}
	db.taken = max(db.taken, set.taken)
	refused := 0
	for i := range set.rows {
		r := &set.rows[i]
		if r.skip {
			continue
		}
		if r.known == nil {
			r.known = db.entities[r.ref]
		}
		r.e = r.known
		switch {
		case r.e == nil && len(db.entities)+len(fresh) >= maxEntities:
			refused++
		case r.e == nil:
			fresh = append(fresh, i)
		case r.at <= r.e.at:
			r.e = nil
		}
	}
	if (refused > 0) != db.full {
		if db.full = refused > 0; db.full {
			db.log.ErrorContext(ctx, "there are more things than are recorded", "limit", maxEntities, "left_out", refused)
		}
	}
	return fresh
}

// insertTick writes the journal row of the rows that have an entity.
func (db *DB) insertTick(ctx context.Context, tx *sql.Tx, set *rowSet) error {
	// A look is measured at its own time; one from before its slot would be
	// found by nobody.
	db.putID++
	for i := range set.rows {
		r := &set.rows[i]
		if r.e == nil {
			continue
		}
		if r.e.put == db.putID || set.taken-r.at > unit {
			r.e = nil
			continue
		}
		r.e.put = db.putID
	}
	if !db.chained {
		db.chainID++
	}
	db.encodeTick(set)
	res, err := tx.ExecContext(ctx, "INSERT INTO tick(ts, d) VALUES (?, ?)", set.taken, db.tickRow)
	if err != nil {
		return err
	}
	if set.tick, err = res.LastInsertId(); err != nil {
		return err
	}
	db.chained = true
	return nil
}

// PutEvents records what happened.
func (db *DB) PutEvents(ctx context.Context, events []fleet.Event) error {
	if err := ctx.Err(); err != nil || len(events) == 0 {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	err := inTx(ctx, db.metrics.w, func(tx *sql.Tx) error {
		for _, e := range events {
			if _, err := tx.ExecContext(ctx, "INSERT INTO event(ts, kind, sev, entity, text) VALUES (?, ?, ?, ?, ?)",
				ms(e.At), e.Kind, e.Severity, e.Entity, e.Text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return db.refused(fmt.Errorf("record %d events: %w", len(events), err))
	}
	return nil
}

// Events are newest first.
func (db *DB) Events(ctx context.Context, r fleet.Range, limit int) ([]fleet.Event, error) {
	if limit <= 0 || limit > 10_000 {
		limit = 10_000
	}
	rows, err := db.metrics.r.QueryContext(ctx, eventsSQL, ms(r.From), ms(r.To), limit)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var events []fleet.Event
	for rows.Next() {
		var e fleet.Event
		var at int64
		if err := rows.Scan(&e.ID, &at, &e.Kind, &e.Severity, &e.Entity, &e.Text); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		e.At = fromMS(at)
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

const eventsSQL = `
	SELECT id, ts, kind, sev, entity, text FROM event
	WHERE ts >= ?1 AND ts < ?2 ORDER BY ts DESC, id DESC LIMIT ?3`
