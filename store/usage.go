package store

import (
	"context"
	"fmt"
	"os"

	"ballast/fleet"
)

// Usage measures the store.
func (db *DB) Usage(ctx context.Context) (fleet.StoreUsage, error) {
	u := fleet.StoreUsage{Limit: db.o.SizeLimit}
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
	return u, nil
}

// TableSizes are the bytes of each table's pages. It reads the whole directory
// of pages: for measuring, not for a page.
func (db *DB) TableSizes(ctx context.Context) (map[string]int64, error) {
	sizes := map[string]int64{}
	rows, err := db.metrics.r.QueryContext(ctx, "SELECT name, pgsize FROM dbstat WHERE aggregate = 1")
	if err != nil {
		return nil, fmt.Errorf("measure the tables: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return nil, fmt.Errorf("measure the tables: %w", err)
		}
		sizes[name] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("measure the tables: %w", err)
	}
	return sizes, nil
}

// Unsealed is how many slots are full and not yet on disk as such.
func (db *DB) Unsealed() int {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return len(db.closing)
}
