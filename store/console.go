package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"ballast/fleet"
)

// Slots gives each key a number that it keeps for ever, so that nothing on the
// topology jumps when something else comes or goes. New keys are numbered in
// the order given.
func (db *DB) Slots(ctx context.Context, keys []string) (map[string]int, error) {
	db.slotMu.Lock()
	defer db.slotMu.Unlock()
	if db.slots == nil {
		all, err := db.readSlots(ctx)
		if err != nil {
			return nil, fmt.Errorf("read places: %w", err)
		}
		db.slots = all
	}
	var fresh []string
	for _, k := range keys {
		if _, ok := db.slots[k]; !ok {
			fresh = append(fresh, k)
		}
	}
	if fresh != nil {
		ctx := context.WithoutCancel(ctx)
		next := len(db.slots)
		added := map[string]int{}
		err := inTx(ctx, db.console.w, func(tx *sql.Tx) error {
			for _, k := range fresh {
				if _, ok := added[k]; ok {
					continue // stands twice in keys
				}
				n := next + len(added)
				if _, err := tx.ExecContext(ctx, "INSERT INTO slot(key, n) VALUES (?, ?)", k, n); err != nil {
					return err
				}
				added[k] = n
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("give %d things a place: %w", len(fresh), err)
		}
		for k, n := range added {
			db.slots[k] = n
		}
	}
	out := make(map[string]int, len(keys))
	for _, k := range keys {
		out[k] = db.slots[k]
	}
	return out, nil
}

func (db *DB) readSlots(ctx context.Context) (map[string]int, error) {
	rows, err := db.console.r.QueryContext(ctx, "SELECT key, n FROM slot")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]int{}
	for rows.Next() {
		var k string
		var n int
		if err := rows.Scan(&k, &n); err != nil {
			return nil, err
		}
		all[k] = n
	}
	return all, rows.Err()
}

// Setting reads a setting; one that was never set is a NotFound error.
func (db *DB) Setting(ctx context.Context, key string) (string, error) {
	var v string
	err := db.console.r.QueryRowContext(ctx, "SELECT value FROM setting WHERE key = ?", key).Scan(&v)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("%q was never set", key)}
	case err != nil:
		return "", fmt.Errorf("read setting %s: %w", key, err)
	}
	return v, nil
}

// SetSetting keeps a setting.
func (db *DB) SetSetting(ctx context.Context, key, value string) error {
	if _, err := db.console.w.ExecContext(context.WithoutCancel(ctx),
		"INSERT OR REPLACE INTO setting(key, value) VALUES (?, ?)", key, value); err != nil {
		return fmt.Errorf("keep setting %s: %w", key, err)
	}
	return nil
}
