package store

import (
	"encoding/hex"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// bucketed is what a counter and two gauges did in n minutes, some of them
// without a look, as a folder would have it.
func bucketed(rnd *rand.Rand, n int) ([]column, [][]cell) {
	cols := []column{{name: "counter", counter: true}, {name: "gauge"}, {name: "slow", counter: true}, {name: "wide"}}
	out := make([][]cell, len(cols))
	for i := range int64(n) {
		for j := range cols {
			c := cell{at: i * minute}
			for range rnd.IntN(13) {
				apart := 5000 + rnd.Int64N(15) - 7
				switch j {
				case 0:
					c.interval(rnd.Int64N(1<<20), apart)
				case 1:
					v := rnd.Int64N(8) - 4
					c.look(v)
				case 2:
					c.interval(rnd.Int64N(3), apart)
				case 3:
					v := rnd.Int64() - math.MaxInt64/2
					c.look(v)
				}
			}
			out[j] = append(out[j], c)
		}
	}
	return cols, out
}

// Every field of every cell is read as it was written, whatever other columns
// are asked for, and bytes cut short are an error.
func TestCellsAreReadAsWritten(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(31, 32))
	for range 200 {
		cols, cells := bucketed(rnd, 1+rnd.IntN(70))
		if rnd.IntN(3) == 0 {
			cells[2] = cells[0] // shares its times, or is not told by increases
		}
		if rnd.IntN(3) == 0 {
			for i := range cells[0] {
				cells[0][i].minOver = 0
			}
		}
		l := layouts{names: map[int64][]string{1: {"counter", "gauge", "slow", "wide"}}}
		data := appendCells(nil, &encoder{}, 1, 0, minute, cols, cells)
		got, err := decodeCells(data, l, cols, 0, minute)
		if err != nil {
			t.Fatal(err)
		}
		for j := range cells {
			same := slices.EqualFunc(got[j], cells[j], func(a, b cell) bool {
				a.minOver, a.maxOver, b.minOver, b.maxOver = 0, 0, 0, 0
				return a == b
			})
			if !same {
				t.Fatalf("%s:\n%+v\nwant\n%+v", cols[j].name, got[j], cells[j])
			}
			alone, err := decodeCells(data, l, cols[j:j+1], 0, minute)
			if err != nil || !slices.Equal(alone[0], got[j]) {
				t.Fatalf("%s alone: %+v, %v", cols[j].name, alone, err)
			}
		}
		if _, err := decodeCells(data[:len(data)-1], l, cols, 0, minute); err == nil {
			t.Error("what is cut short was read")
		}
	}
}

// What a version before wrote is refused, and is dropped by a migration.
func TestCellsOfVersion1(t *testing.T) {
	t.Parallel()
	data, err := hex.DecodeString("01010402000200e41f112a001802e098170200e402a0d1190400109402c0bb010200e402baa90702001b0600000a02120200e402a0010200e40000020004000ccc020001000d01c0cf240201bfcf2401c0cf24020004000cfe0200100060ea00005eea5dea")
	if err != nil {
		t.Fatal(err)
	}
	cols := []column{{name: "a", counter: true}, {name: "b"}, {name: "c", counter: true}}
	if _, err := decodeCells(data, layouts{names: map[int64][]string{1: {"a", "b", "c"}}}, cols, 0, minute); err != errCorrupt {
		t.Errorf("decoded with %v", err)
	}
	drop, err := migrations.ReadFile("migrations/metrics/0005_cells.sql")
	if err != nil {
		t.Fatal(err)
	}
	db := openTest(t, t.TempDir(), newClock(), Options{})
	for _, q := range []string{"INSERT INTO r2(k, d) VALUES (1, x'0101'), (2, x'0201')", string(drop)} {
		if _, err := db.metrics.w.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	var n, k int
	if err := db.metrics.r.QueryRow("SELECT count(*), max(k) FROM r2").Scan(&n, &k); err != nil || n != 1 || k != 2 {
		t.Errorf("%d rows are left, the last is %d (%v)", n, k, err)
	}
}
