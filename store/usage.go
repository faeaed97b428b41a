package store

import (
	"context"
	"fmt"
	"os"

	"ballast/fleet"
)

// Usage measures the store. It reads the whole directory of pages: not for
// every look.
func (db *DB) Usage(ctx context.Context) (fleet.StoreUsage, error) {
	u := fleet.StoreUsage{Tables: map[string]int64{}}
	db.mu.RLock()
	u.Entities, u.Unsealed = len(db.entities), len(db.closing)
	for _, e := range db.entities {
		u.Series += len(e.cols)
	}
	db.mu.RUnlock()
	if st, err := os.Stat(db.metrics.path + "-wal"); err == nil {
		u.Log = st.Size()
	}
	if err := db.metrics.r.QueryRowContext(ctx,
		"SELECT p.page_count * ?1, f.freelist_count * ?1 FROM pragma_page_count AS p, pragma_freelist_count AS f", pageSize).
		Scan(&u.File, &u.Free); err != nil {
		return u, fmt.Errorf("measure the file: %w", err)
	}
	rows, err := db.metrics.r.QueryContext(ctx, "SELECT name, pgsize FROM dbstat WHERE aggregate = 1")
	if err != nil {
		return u, fmt.Errorf("measure the tables: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return u, fmt.Errorf("measure the tables: %w", err)
		}
		u.Tables[name] = n
	}
	if err := rows.Err(); err != nil {
		return u, fmt.Errorf("measure the tables: %w", err)
	}
	return u, nil
}

// Unsealed is how many slots are full and not yet on disk as such.
func (db *DB) Unsealed() int {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return len(db.closing)
}
