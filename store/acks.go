package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"

	"ballast/fleet"
	"ballast/internal/sketch"
)

// ackLevels of latency sketches, from fine to coarse; a coarser one is the sum
// of finer ones, exactly.
var ackLevels = []level{
	{"h0", 10_000, 10 * minute, 0},
	{"h1", 5 * minute, hour, 0},
	{"h2", hour, 24 * hour, 0},
}

const (
	// ackGrace is how long after its end a slot still takes windows, besides two
	// intervals of the collector.
	ackGrace = 30_000
	// maxWindows in memory over all consumers; each takes some hundred bytes.
	maxWindows = 200_000
)

// ackCell is the latency of one consumer in one bucket of time, its sketch in
// binary form: a twentieth of what it takes as a sketch.
type ackCell struct {
	at          int64
	redelivered uint64
	data        []byte // never changed, only replaced
}

// ackOpen is what is known of a consumer in a slot that is not on disk.
type ackOpen struct {
	cells   []ackCell // rising
	longest time.Duration
}

// ackWindow is one window as it came, its sketch in binary form.
type ackWindow struct {
	id          int64
	from, to    int64
	redelivered uint64
	data        []byte
}

// ackRecent is the last windows of one consumer.
type ackRecent struct {
	id      int64
	since   int64 // all windows that end after it are here
	windows []ackWindow
}

// ackBuffer is what is in memory of the latencies, guarded by DB.mu.
type ackBuffer struct {
	by     map[fleet.ConsumerKey]*ackRecent
	slots  map[int64]map[int64]*ackOpen // by start of the slot, by entity
	closed int64                        // slots that start before it take no more windows
	sealed int64                        // slots that start before it are on disk
	late   int                          // windows that came after their slot was sealed
}

func newAckBuffer() ackBuffer {
	return ackBuffer{by: map[fleet.ConsumerKey]*ackRecent{}, slots: map[int64]map[int64]*ackOpen{}}
}

// PutAcks records what the servers' samples said, in one transaction.
func (db *DB) PutAcks(ctx context.Context, windows []fleet.AckWindow) error {
	if err := ctx.Err(); err != nil || len(windows) == 0 {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	db.put.Lock()
	defer db.put.Unlock()

	list := make([]ackWindow, 0, len(windows))
	keys := make([]fleet.ConsumerKey, 0, len(windows))
	late := 0
	db.mu.RLock()
	for _, w := range windows {
		if w.Latency.Count() == 0 {
			continue
		}
		a := ackWindow{from: ms(w.From), to: ms(w.To), redelivered: w.Redelivered}
		if floor(a.from, ackLevels[0].span) < db.acks.closed {
			late++
			continue
		}
		var err error
		if a.data, err = w.Latency.MarshalBinary(); err != nil {
			db.mu.RUnlock()
			return fmt.Errorf("encode the latency of %s: %w", w.Entity().Key, err)
		}
		if r := db.acks.by[w.ConsumerKey]; r != nil {
			a.id = r.id
		}
		list, keys = append(list, a), append(keys, w.ConsumerKey)
	}
	db.mu.RUnlock()

	if len(list) > 0 {
		err := inTx(ctx, db.metrics.w, func(tx *sql.Tx) error {
			for i := range list {
				if list[i].id == 0 {
					e, err := getEntity(ctx, tx, entityRef{kind: kindAck, name: keys[i].Entity().Key}, list[i].from)
					if err != nil {
						return err
					}
					list[i].id = e.id
				}
			}
			for rest := list; len(rest) > 0; {
				slot, n, data := encodeAcks(rest)
				if _, err := tx.ExecContext(ctx, "INSERT INTO acks(slot, d) VALUES (?, ?)", slot, data); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
		if err != nil {
			return db.refused(fmt.Errorf("record %d ACK windows: %w", len(list), err))
		}
	}
	db.mu.Lock()
	first := late > 0 && db.acks.late == 0
	db.acks.late += late
	var err error
	for i, w := range list {
		err = errors.Join(err, db.acks.add(keys[i], w))
	}
	db.mu.Unlock()
	if first {
		db.log.WarnContext(ctx, "ACK windows came after their slot was closed and are not counted", "windows", late)
	}
	return err
}

// add takes one window.
func (b *ackBuffer) add(key fleet.ConsumerKey, w ackWindow) error {
	r := b.by[key]
	if r == nil {
		r = &ackRecent{id: w.id, since: b.sealed}
		b.by[key] = r
	}
	r.windows = append(r.windows, w)
	most := min(max(maxWindows/len(b.by), 12), 2000)
	drop := max(len(r.windows)-most, 0)
	for drop < len(r.windows) && w.to-r.windows[drop].to > recent.Milliseconds() {
		drop++
	}
	if drop > 0 {
		r.since = max(r.since, r.windows[drop-1].to)
		r.windows = slices.Delete(r.windows, 0, drop)
	}

	slot := floor(w.from, ackLevels[0].span)
	if b.slots[slot] == nil {
		b.slots[slot] = map[int64]*ackOpen{}
	}
	o := b.slots[slot][w.id]
	if o == nil {
		o = &ackOpen{}
		b.slots[slot][w.id] = o
	}
	_, _, longest, err := sketch.Peek(w.data)
	if err != nil {
		return fmt.Errorf("latency of %s: %w", key.Entity().Key, err)
	}
	o.longest = max(o.longest, longest)
	at := floor(w.from, ackLevels[0].step)
	i, ok := slices.BinarySearchFunc(o.cells, at, func(c ackCell, at int64) int { return cmp.Compare(c.at, at) })
	if !ok {
		o.cells = slices.Insert(o.cells, i, ackCell{at, w.redelivered, w.data})
		return nil
	}
	c := &o.cells[i]
	c.redelivered += w.redelivered
	if c.data, err = sketch.AppendMerged(nil, c.data, w.data); err != nil {
		return fmt.Errorf("latency of %s: %w", key.Entity().Key, err)
	}
	return nil
}

const acksVersion = 1

// encodeAcks writes a journal row of the first n windows, as many as are well
// below what is read back, and returns the latest slot in it.
func encodeAcks(list []ackWindow) (slot int64, n int, data []byte) {
	b := []byte{acksVersion}
	for _, w := range list {
		if len(b) > maxRow/4 {
			break
		}
		n++
		slot = max(slot, floor(w.from, ackLevels[0].span))
		b = binary.AppendUvarint(b, uint64(w.id))
		b = binary.AppendUvarint(b, zig(w.from))
		b = binary.AppendUvarint(b, zig(w.to-w.from))
		b = binary.AppendUvarint(b, w.redelivered)
		b = binary.AppendUvarint(b, uint64(len(w.data)))
		b = append(b, w.data...)
	}
	return slot, n, s2.Encode(nil, b)
}

func decodeAcks(data []byte) ([]ackWindow, error) {
	raw, err := inflate(data)
	if err != nil {
		return nil, err
	}
	d := decoder{b: raw}
	if d.byte() != acksVersion {
		return nil, errCorrupt
	}
	var list []ackWindow
	for len(d.b) > 0 {
		w := ackWindow{id: int64(d.uvarint()), from: d.varint()}
		w.to = w.from + d.varint()
		w.redelivered = d.uvarint()
		w.data = d.bytes(d.uvarint())
		if d.err == nil {
			list = append(list, w)
		}
	}
	return list, d.err
}

// recoverAcks fills the open latency slots from the journal rows.
func (db *DB) recoverAcks(ctx context.Context) error {
	var err error
	if db.acks.sealed, err = mark(ctx, db.metrics.w, "h0"); err != nil {
		return err
	}
	db.acks.closed = db.acks.sealed
	rows, err := db.metrics.w.QueryContext(ctx, "SELECT d FROM acks ORDER BY id")
	if err != nil {
		return fmt.Errorf("read the open latency slot: %w", err)
	}
	defer rows.Close()
	var list []ackWindow
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			return fmt.Errorf("read the open latency slot: %w", err)
		}
		windows, err := decodeAcks(data)
		if err != nil {
			return fmt.Errorf("read the open latency slot: %w", err)
		}
		list = append(list, windows...)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return fmt.Errorf("read the open latency slot: %w", err)
	}
	keys := map[int64]fleet.ConsumerKey{}
	for _, w := range list {
		if floor(w.from, ackLevels[0].span) < db.acks.sealed {
			continue
		}
		key, ok := keys[w.id]
		if !ok {
			e, err := loadEntity(ctx, db.metrics.w, w.id)
			if err != nil {
				return err
			}
			if key, err = parseConsumer(e.name); err != nil {
				return err
			}
			keys[w.id] = key
		}
		if err := db.acks.add(key, w); err != nil {
			return fmt.Errorf("read the open latency slot: %w", err)
		}
	}
	return nil
}

// parseConsumer undoes ConsumerKey.Entity: no stream or consumer has a slash in
// its name, an account may.
func parseConsumer(name string) (fleet.ConsumerKey, error) {
	b := []byte(name)
	last := lastSlash(b)
	if last < 0 {
		return fleet.ConsumerKey{}, fmt.Errorf("%q names no consumer", name)
	}
	first := lastSlash(b[:last])
	if first < 0 {
		return fleet.ConsumerKey{}, fmt.Errorf("%q names no consumer", name)
	}
	return fleet.ConsumerKey{Account: name[:first], Stream: name[first+1 : last], Consumer: name[last+1:]}, nil
}

func lastSlash(b []byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '/' {
			return i
		}
	}
	return -1
}

// A sealed row of cells: version, n, then of each cell the distance to the one
// before in steps, redeliveries, length and bytes of the sketch.
func appendAckCells(dst []byte, start, step int64, cells []ackCell) []byte {
	dst = append(dst, blobVersion)
	dst = binary.AppendUvarint(dst, uint64(len(cells)))
	at := start
	for _, c := range cells {
		dst = binary.AppendUvarint(dst, uint64((c.at-at)/step))
		at = c.at
		dst = binary.AppendUvarint(dst, c.redelivered)
		dst = binary.AppendUvarint(dst, uint64(len(c.data)))
		dst = append(dst, c.data...)
	}
	return dst
}

// decodeAckCells calls f with each cell; the data are valid only in the call.
func decodeAckCells(data []byte, start, step int64, f func(ackCell) error) error {
	d := decoder{b: data}
	if d.byte() != blobVersion {
		return errCorrupt
	}
	at := start
	for n := d.count(); n > 0; n-- {
		at += int64(d.uvarint()) * step
		c := ackCell{at: at, redelivered: d.uvarint()}
		c.data = d.bytes(d.uvarint())
		if d.err != nil {
			return d.err
		}
		if err := f(c); err != nil {
			return err
		}
	}
	return d.err
}

// sealAcks writes the latency slots that take no more windows. The caller
// holds sealing.
func (db *DB) sealAcks(ctx context.Context) error {
	l := ackLevels[0]
	closed := ms(db.o.Now()) - ackGrace - 2*db.intervalMS()
	for {
		db.mu.RLock()
		slot := int64(-1)
		for s := range db.acks.slots {
			if s+l.span <= closed && (slot < 0 || s < slot) {
				slot = s
			}
		}
		db.mu.RUnlock()
		if slot < 0 {
			return nil
		}
		if err := db.sealAckSlot(ctx, slot); err != nil {
			return fmt.Errorf("seal the latencies of %s: %w", fromMS(slot).Format(time.RFC3339), err)
		}
	}
}

func (db *DB) sealAckSlot(ctx context.Context, slot int64) error {
	l := ackLevels[0]
	// From here on no window comes to the slot: it is read without the lock.
	db.put.Lock()
	db.mu.Lock()
	db.acks.closed = max(db.acks.closed, slot+l.span)
	open := db.acks.slots[slot]
	db.mu.Unlock()
	db.put.Unlock()

	ids := slices.Sorted(maps.Keys(open))
	rows := make([]blobRow, 0, len(ids))
	var top latencyTop
	var all sketch.Sketch
	for _, id := range ids {
		all.Reset()
		for _, c := range open[id].cells {
			if err := all.MergeBinary(c.data); err != nil {
				return fmt.Errorf("latency of entity %d: %w", id, err)
			}
		}
		top.add(id, &all)
		rows = append(rows, blobRow{slot/l.span<<entityBits | id, appendAckCells(nil, slot, l.step, open[id].cells)})
	}
	err := db.writeBlobs(ctx, l.table, rows, func(ctx context.Context, tx *sql.Tx) error {
		if err := seenUntil(ctx, tx, rows, slot+l.span-1); err != nil {
			return err
		}
		if err := putTop(ctx, tx, slot, topicAcks, top.append(nil)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM acks WHERE slot <= ?", slot); err != nil {
			return err
		}
		return setMark(ctx, tx, l.table, slot+l.span)
	})
	if err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.acks.slots, slot)
	db.acks.sealed = slot + l.span
	return nil
}

// ackCells calls f with the cells of a consumer's sketches that start in [from,
// to), from the level as far as it is built, the rest from the finer ones. f
// must not keep the data.
func (db *DB) ackCells(ctx context.Context, id int64, lvl int, from, to int64, built []int64, f func(ackCell) error) error {
	if from >= to {
		return nil
	}
	l := ackLevels[lvl]
	within := func(c ackCell) error {
		if c.at < from || c.at >= to {
			return nil
		}
		return f(c)
	}
	if lvl == 0 {
		db.mu.RLock()
		var inMemory []ackCell
		known := map[int64]bool{}
		for slot, by := range db.acks.slots {
			known[slot/l.span] = true
			if o := by[id]; o != nil {
				for _, c := range o.cells {
					if c.at >= from && c.at < to {
						inMemory = append(inMemory, c)
					}
				}
			}
		}
		db.mu.RUnlock()
		err := db.blobs(ctx, l.table, id, from/l.span, (to-1)/l.span, func(slot int64, data []byte) error {
			if known[slot] {
				return nil
			}
			return decodeAckCells(data, slot*l.span, l.step, within)
		})
		if err != nil {
			return err
		}
		slices.SortFunc(inMemory, func(a, b ackCell) int { return cmp.Compare(a.at, b.at) })
		for _, c := range inMemory {
			if err := f(c); err != nil {
				return err
			}
		}
		return nil
	}
	end := min(to, built[lvl])
	if from < end {
		err := db.blobs(ctx, l.table, id, from/l.span, (end-1)/l.span, func(slot int64, data []byte) error {
			return decodeAckCells(data, slot*l.span, l.step, func(c ackCell) error {
				if c.at >= end {
					return nil
				}
				return within(c)
			})
		})
		if err != nil {
			return err
		}
	}
	return db.ackCells(ctx, id, lvl-1, max(from, end), to, built, f)
}

func (db *DB) acksBuilt(ctx context.Context) ([]int64, error) {
	// Before the marks: a level is never built further than the finer one is
	// found to be here.
	db.mu.RLock()
	sealed := db.acks.sealed
	db.mu.RUnlock()
	marks, err := db.marks(ctx)
	built := make([]int64, len(ackLevels))
	for i, l := range ackLevels {
		built[i] = marks[l.table]
	}
	built[0] = sealed
	return built, err
}

// rollUpAcks builds every coarser latency cell whose source is complete. A row
// is written anew as it grows: what ranks consumers must not wait for its end.
func (db *DB) rollUpAcks(ctx context.Context) error {
	db.sealing.Lock()
	defer db.sealing.Unlock()
	db.jobDone() // what is built on is read anew
	for lvl := 1; lvl < len(ackLevels); lvl++ {
		l, finer := ackLevels[lvl], ackLevels[lvl-1]
		built, err := db.acksBuilt(ctx)
		if err != nil {
			return err
		}
		next := built[lvl]
		if next == 0 {
			var k sql.NullInt64
			if err := db.metrics.r.QueryRowContext(ctx, "SELECT min(k) FROM "+finer.table).Scan(&k); err != nil {
				return fmt.Errorf("build %s: %w", l.table, err)
			}
			if !k.Valid {
				return nil
			}
			next = floor(k.Int64>>entityBits*finer.span, l.step)
		}
		for next+l.step <= built[lvl-1] {
			end := min(floor(next, l.span)+l.span, floor(built[lvl-1], l.step))
			if err := db.rollUpAckSlot(ctx, lvl, next, end, built); err != nil {
				return fmt.Errorf("build %s of %s: %w", l.table, fromMS(next).Format(time.RFC3339), err)
			}
			next, built[lvl] = end, end
		}
	}
	return nil
}

// rollUpAckSlot adds the cells from next to end to the rows of their slot.
func (db *DB) rollUpAckSlot(ctx context.Context, lvl int, next, end int64, built []int64) error {
	l := ackLevels[lvl]
	found, err := db.metrics.r.QueryContext(ctx, aliveAcksSQL, next-seenEvery, end, kindAck)
	if err != nil {
		return err
	}
	defer found.Close()
	var ids []int64
	for found.Next() {
		var id int64
		if err := found.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := errors.Join(found.Err(), found.Close()); err != nil {
		return err
	}
	start := floor(next, l.span)
	tops := map[int64]*latencyTop{} // by cell, of the level that ranks long ranges
	var rows []blobRow
	for _, id := range ids {
		var cells []ackCell
		var sum sketch.Sketch
		finish := func() error {
			if len(cells) == 0 || sum.Count() == 0 {
				return nil
			}
			c := &cells[len(cells)-1]
			var err error
			if c.data, err = sum.AppendBinary(nil); err != nil {
				return err
			}
			if lvl == len(ackLevels)-1 {
				if tops[c.at] == nil {
					tops[c.at] = &latencyTop{}
				}
				tops[c.at].add(id, &sum)
			}
			sum.Reset()
			return nil
		}
		err := db.ackCells(ctx, id, lvl-1, next, end, built, func(c ackCell) error {
			at := floor(c.at, l.step)
			if n := len(cells); n == 0 || cells[n-1].at != at {
				if err := finish(); err != nil {
					return err
				}
				cells = append(cells, ackCell{at: at})
			}
			cells[len(cells)-1].redelivered += c.redelivered
			return sum.MergeBinary(c.data)
		})
		if err := errors.Join(err, finish()); err != nil {
			return err
		}
		if len(cells) == 0 {
			continue
		}
		if start < next {
			var before []ackCell
			err := db.blobs(ctx, l.table, id, start/l.span, start/l.span, func(slot int64, data []byte) error {
				return decodeAckCells(slices.Clone(data), start, l.step, func(c ackCell) error {
					if c.at < next {
						before = append(before, c)
					}
					return nil
				})
			})
			if err != nil {
				return err
			}
			cells = append(before, cells...)
		}
		rows = append(rows, blobRow{start/l.span<<entityBits | id, appendAckCells(nil, start, l.step, cells)})
	}
	return db.writeBlobs(ctx, l.table, rows, func(ctx context.Context, tx *sql.Tx) error {
		for at, top := range tops {
			if err := putTop(ctx, tx, at, topicAcksHour, top.append(nil)); err != nil {
				return err
			}
		}
		return setMark(ctx, tx, l.table, end)
	})
}

const aliveAcksSQL = "SELECT id FROM entity WHERE last_ms >= ?1 AND first_ms < ?2 AND kind = ?3 ORDER BY +id"
