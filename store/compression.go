package store

import (
	"context"
	"database/sql"
	"fmt"

	"ballast/fleet"
)

// Compression is what one kind of entity takes in one table: of raw, Values are
// the values measured, which are what bytes are counted per; of a roll-up, the
// buckets of each column.
type Compression struct {
	Table                string
	Kind                 fleet.Kind
	Blobs, Values, Bytes int64 // bytes without the rest of their pages
}

// Compression measures what is sealed, by table and kind. It reads all there is:
// for a measurement, not for a page.
func (db *DB) Compression(ctx context.Context) ([]Compression, error) {
	var out []Compression
	for _, table := range []string{"raw", levels[0].table, levels[1].table, levels[2].table} {
		of := map[fleet.Kind]int{}
		rows, err := db.metrics.r.QueryContext(ctx, "SELECT d FROM "+table+" ORDER BY k")
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", table, err)
		}
		for rows.Next() {
			var data sql.RawBytes
			if err := rows.Scan(&data); err != nil {
				rows.Close()
				return nil, fmt.Errorf("measure %s: %w", table, err)
			}
			d := decoder{b: data}
			d.byte()
			layout := int64(d.uvarint())
			if table == "raw" {
				d.uvarint() // the interval
			}
			looks := d.looks()
			kind, ok := db.layouts.kinds[layout]
			if d.err != nil || !ok {
				rows.Close()
				return nil, fmt.Errorf("measure %s: %w", table, errCorrupt)
			}
			i, ok := of[kind]
			if !ok {
				i = len(out)
				of[kind] = i
				out = append(out, Compression{Table: table, Kind: kind})
			}
			out[i].Blobs++
			out[i].Values += int64(looks * len(db.layouts.names[layout]))
			out[i].Bytes += int64(len(data))
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("measure %s: %w", table, err)
		}
		rows.Close()
	}
	return out, nil
}
