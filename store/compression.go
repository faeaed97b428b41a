package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

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
	out, err := db.compressionOf(ctx, "raw", level{span: unit})
	for _, l := range levels {
		if err == nil {
			var more []Compression
			more, err = db.compressionOf(ctx, l.table, l)
			out = append(out, more...)
		}
	}
	return out, err
}

func (db *DB) compressionOf(ctx context.Context, table string, l level) ([]Compression, error) {
	of := map[fleet.Kind]*Compression{}
	var out []Compression
	rows, err := db.metrics.r.QueryContext(ctx, "SELECT k, d FROM "+table+" ORDER BY k")
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", table, err)
	}
	err = eachBlob(rows, table, func(k int64, data []byte) error {
		var kind fleet.Kind
		var values int64
		err := l.rows(k>>entityBits, data, func(_ int64, data []byte) error {
			d := decoder{b: data}
			d.byte()
			layout := int64(d.uvarint())
			if table == "raw" {
				d.uvarint() // the interval
			}
			looks := d.looks()
			var ok bool
			if kind, ok = db.layouts.kinds[layout]; d.err != nil || !ok {
				return errCorrupt
			}
			values += int64(looks * len(db.layouts.names[layout]))
			return nil
		})
		if err != nil {
			return err
		}
		c := of[kind]
		if c == nil {
			c = &Compression{Table: table, Kind: kind}
			of[kind] = c
		}
		c.Blobs++
		c.Values += values
		c.Bytes += int64(len(data))
		return nil
	})
	for _, kind := range slices.Sorted(maps.Keys(of)) {
		out = append(out, *of[kind])
	}
	return out, err
}
