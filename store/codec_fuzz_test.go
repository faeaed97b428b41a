package store

import (
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"
)

// FuzzBlock reads any bytes as a sealed slot, of looks and of roll-ups.
func FuzzBlock(f *testing.F) {
	cols := []column{{name: "a"}, {name: "b"}, {name: "c", counter: true}}
	l := layouts{names: map[int64][]string{1: {"a", "b", "c"}}}
	rnd := rand.New(rand.NewPCG(21, 22))
	for _, n := range []int{1, 3, 50} {
		b := newBlock(&entity{entityRef: entityRef{kind: "server"}, cols: cols}, 0, nil)
		cells := make([][]cell, len(cols))
		for i := range n {
			b.add(int64(1+i)*1000, []int64{int64(i), rnd.Int64N(1 << 40), 7})
			for j := range cells {
				cells[j] = append(cells[j], cell{at: int64(i) * 10_000, n: 2, min: int64(i), max: rnd.Int64N(1 << 30), sum: 4, covered: 10_000})
			}
		}
		f.Add(b.appendTo(nil, &encoder{}, 1, 5000))
		f.Add(appendCells(nil, &encoder{}, 1, 0, 10_000, cols, cells))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := decodeBlock(data, l, cols, 0); err == nil {
			for i, v := range c.cols {
				if v != nil && len(v) != len(c.at) {
					t.Errorf("column %d has %d values of %d looks", i, len(v), len(c.at))
				}
			}
		}
		_ = levels[1].rows(0, data, func(start int64, data []byte) error {
			if start < 0 || start >= levels[1].span {
				t.Errorf("a part begins at %d", start)
			}
			_, err := decodeCells(data, l, cols, start, minute)
			return err
		})
		if rows, err := decodeCells(data, l, cols, 0, 10_000); err == nil && len(rows) != len(cols) {
			t.Errorf("%d columns of cells, want %d", len(rows), len(cols))
		}
	})
}

// FuzzJournalRow reads any bytes as a row that was written before its slot was
// sealed, compressed and not.
func FuzzJournalRow(f *testing.F) {
	db := &DB{layouts: layouts{names: map[int64][]string{1: {"a", "b"}}}}
	tick := []byte{tickVersion, 1, 1, 2, 4, 3, 8, 10, 7, 6, 1, 9}
	_, _, acks := encodeAcks([]ackWindow{{id: 3, from: 1000, to: 2000, redelivered: 4, data: []byte("sketch")}, {id: 4, from: 1, to: 2}})
	f.Add(tick, false)
	f.Add(acks, false)
	f.Add([]byte("\x87\x87\x87\x87\x0f\a\x00S"), false) // says that it is 4 GiB long
	f.Fuzz(func(t *testing.T, data []byte, wrap bool) {
		if wrap {
			if len(data) > 1<<16 {
				return
			}
			data = s2.Encode(nil, data)
		}
		carried := map[int64][]int64{}
		err := db.decodeTick(data, 0, carried, func(layout, _, _ int64, v []int64) error {
			if layout != 1 || len(v) != 2 {
				t.Errorf("a look of layout %d with %d values", layout, len(v))
			}
			return nil
		})
		_ = err // any error will do, but for a panic
		if list, err := decodeAcks(data); err == nil {
			_, n, again := encodeAcks(list)
			if n != len(list) {
				return
			}
			if back, err := decodeAcks(again); err != nil || len(back) != len(list) {
				t.Errorf("%d windows are read back as %d: %v", len(list), len(back), err)
			}
		}
	})
}
