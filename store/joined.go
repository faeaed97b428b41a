package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
)

// A row of a joined level is those of the level below, as they are: version, then
// of each its number in the slot, its length and itself.
const joinedVersion = 1

func appendJoined(dst []byte, part int64, data []byte) []byte {
	if len(dst) == 0 {
		dst = append(dst, joinedVersion)
	}
	dst = binary.AppendUvarint(dst, uint64(part))
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

// rows calls f with each blob of cells in a row of the level, and when its first
// cell may begin.
func (l level) rows(slot int64, data []byte, f func(start int64, data []byte) error) error {
	start := slot * l.span
	if l.part == 0 {
		return f(start, data)
	}
	d := decoder{b: data}
	if d.byte() != joinedVersion {
		return errCorrupt
	}
	for len(d.b) > 0 {
		at := d.uvarint()
		part := d.bytes(d.uvarint())
		if d.err != nil || at >= uint64(l.span/l.part) {
			return errCorrupt
		}
		if err := f(start+int64(at)*l.part, part); err != nil {
			return err
		}
	}
	return d.err
}

// joinSlot builds one slot of a joined level.
func (db *DB) joinSlot(ctx context.Context, lvl int, start int64) error {
	l, below := levels[lvl], levels[lvl-1]
	alive, err := db.alive(ctx, start, start+l.span)
	if err != nil {
		return err
	}
	slots, err := db.slotsUnder(ctx, lvl, start)
	if err != nil {
		return err
	}
	var rows []blobRow
	for part := range slices.Chunk(alive, perFold) {
		joined := make([][]byte, len(part))
		for _, slot := range slots {
			err := db.eachOf(ctx, below.table, slot, part, func(i int, data []byte) error {
				joined[i] = appendJoined(joined[i], (slot*below.span-start)/l.part, data)
				return nil
			})
			if err != nil {
				return err
			}
		}
		rows = rows[:0]
		for i, d := range joined {
			if d != nil {
				rows = append(rows, blobRow{start/l.span<<entityBits | part[i].id, d})
			}
		}
		if err := db.writeBlobs(ctx, l.table, rows, func(context.Context, *sql.Tx) error { return nil }); err != nil {
			return err
		}
	}
	return db.writeBlobs(ctx, l.table, nil, func(ctx context.Context, tx *sql.Tx) error { return setMark(ctx, tx, l.table, start+l.span) })
}

// dropJoined drops the rows that were joined before the last call: whoever reads
// them now began before they were.
func (db *DB) dropJoined(ctx context.Context) error {
	built, err := db.builtUntil(ctx)
	if err != nil {
		return err
	}
	for lvl := 1; lvl < len(levels); lvl++ {
		if levels[lvl].part == 0 {
			continue
		}
		below := levels[lvl-1]
		for {
			dropped, err := db.dropOldest(ctx, kept{table: below.table, span: below.span}, db.joined)
			if err != nil {
				return fmt.Errorf("drop what is joined: %w", err)
			}
			if !dropped {
				break
			}
		}
		db.joined = built[lvl]
	}
	return nil
}

// eachOf calls f with the place of each of the entities that has a row in the
// slot, and the row. The entities are in rising order of their ids.
func (db *DB) eachOf(ctx context.Context, table string, slot int64, part []folding, f func(i int, data []byte) error) error {
	i := 0
	return db.between(ctx, table, slot<<entityBits|part[0].id, slot<<entityBits|part[len(part)-1].id, func(k int64, data []byte) error {
		for i < len(part) && part[i].id < k&entityMask {
			i++
		}
		if i == len(part) || part[i].id != k&entityMask {
			return nil
		}
		return f(i, data)
	})
}
