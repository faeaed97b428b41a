package store

import (
	"encoding/binary"
	"math"
	"slices"
)

// cell is what one column did in one bucket of time, in the column's stored
// unit. Of a counter, n counts the intervals that ended in the bucket, sum is
// the increase, covered the time in which it happened, and min and max are the
// rates of single intervals per 1000 s; minOver and maxOver are how long those
// intervals were, where that matters.
type cell struct {
	at               int64 // start of the bucket, ms
	n                int64
	min, max         int64
	sum              int64
	covered          int64 // ms
	minOver, maxOver int32 // ms; 0: the rate is 0, or it is not known
}

func (c *cell) merge(o cell) {
	if o.n == 0 {
		return
	}
	if c.n == 0 {
		at := c.at
		*c = o
		c.at = at
		return
	}
	c.n += o.n
	c.sum += o.sum
	c.covered += o.covered
	if o.min < c.min {
		c.min, c.minOver = o.min, o.minOver
	}
	if o.max > c.max {
		c.max, c.maxOver = o.max, o.maxOver
	}
}

// interval adds a counter's increase between two looks: merge, for the many.
func (c *cell) interval(inc, apart int64) {
	rate, over := int64(0), int32(0)
	if inc != 0 {
		if rate = rateOf(inc, apart); rate != 0 && apart == int64(int32(apart)) {
			over = int32(apart)
		}
	}
	if c.n == 0 || rate < c.min {
		c.min, c.minOver = rate, over
	}
	if c.n == 0 || rate > c.max {
		c.max, c.maxOver = rate, over
	}
	c.n++
	c.sum += inc
	c.covered += apart
}

// look adds what a gauge showed.
func (c *cell) look(v int64) {
	if c.n == 0 || v < c.min {
		c.min = v
	}
	if c.n == 0 || v > c.max {
		c.max = v
	}
	c.n++
	c.sum += v
}

// rateOf is the rate of an increase, per 1000 s.
func rateOf(inc, apart int64) int64 { return int64(perSecond(inc, apart) * 1000) }

// increaseOf undoes rateOf; false when no increase gives that rate.
func increaseOf(rate int64, over int32) (int64, bool) {
	if rate == 0 {
		return 0, true
	}
	if over <= 0 {
		return 0, false
	}
	inc := int64(math.Ceil(float64(rate) * float64(over) / 1e6))
	return inc, rateOf(inc, int64(over)) == rate
}

// A slot of a roll-up is one blob: version, column list, n, the shared buckets,
// the length of each column, the columns. A column is its form, then its
// fields, each as what the ones before it do not tell:
//
//	n
//	covered       less n × the pace, and the pace after it
//	of a gauge    min, max - min, sum less max and min for all others
//	of a counter  sum less the highest increase and the mean for all others, then
//	              of the lowest and the highest rate the increase, and the time
//	              it took less the pace; or sum and both rates as they are
//
// Version 1 had the five fields as they are; it was never released and is not
// read any more.
const cellsVersion = 2

const (
	cellsGauge = iota
	cellsCounter
	cellsRates // a counter whose rates stand as they are
)

// appendCells seals the cells of all columns of a roll-up slot. Every column
// has the same buckets; one that is empty has n = 0.
func appendCells(dst []byte, enc *encoder, layout, start, step int64, want []column, cols [][]cell) []byte {
	dst = append(dst, cellsVersion)
	dst = binary.AppendUvarint(dst, uint64(layout))
	n := len(cols[0])
	dst = binary.AppendUvarint(dst, uint64(n))
	v := enc.room(n)
	for i, c := range cols[0] {
		v[i] = (c.at - start) / step
	}
	dst = enc.append(dst, v)
	return appendColumns(dst, len(cols), func(dst []byte, col int) []byte {
		cells := cols[col]
		// A bucket in which nothing was measured repeats what stands before it.
		field := func(dst []byte, of func(c *cell) int64) []byte {
			last := int64(0)
			for i := range cells {
				if cells[i].n > 0 {
					last = of(&cells[i])
				}
				v[i] = last
			}
			return enc.append(dst, v)
		}
		form := formOf(want[col], cells)
		dst = append(dst, form)
		if same := sameField(cols, col, 0); same >= 0 {
			dst = binary.AppendUvarint(append(dst, formSame), zig(int64(same)))
		} else {
			for i := range cells {
				v[i] = cells[i].n
			}
			dst = enc.append(dst, v)
		}
		pace := paceOf(cells)
		if same := sameField(cols, col, 4); same >= 0 {
			dst = binary.AppendUvarint(append(dst, formSame), zig(int64(same)))
		} else {
			dst = field(dst, func(c *cell) int64 { return c.covered - c.n*pace })
			dst = binary.AppendUvarint(dst, zig(pace))
		}
		if form == cellsGauge {
			dst = field(dst, func(c *cell) int64 { return c.min })
			dst = field(dst, func(c *cell) int64 { return c.max - c.min })
			return field(dst, func(c *cell) int64 { return c.sum - (c.n-1)*c.min - c.max })
		}
		if form == cellsRates {
			dst = field(dst, func(c *cell) int64 { return c.sum })
			dst = field(dst, func(c *cell) int64 { return c.min })
			return field(dst, func(c *cell) int64 { return c.max })
		}
		mean := meanOf(cells)
		dst = binary.AppendUvarint(dst, zig(mean))
		dst = field(dst, func(c *cell) int64 {
			most, _ := increaseOf(c.max, c.maxOver)
			return c.sum - most - (c.n-1)*mean
		})
		dst = binary.AppendUvarint(dst, zig(pace))
		for _, extreme := range []func(c *cell) (int64, int32){
			func(c *cell) (int64, int32) { return c.min, c.minOver },
			func(c *cell) (int64, int32) { return c.max, c.maxOver },
		} {
			dst = field(dst, func(c *cell) int64 {
				inc, _ := increaseOf(extreme(c))
				return inc
			})
			over := pace
			dst = field(dst, func(c *cell) int64 {
				if rate, o := extreme(c); rate != 0 {
					over = int64(o)
				}
				return over - pace
			})
		}
		return dst
	})
}

// meanOf is about what a counter grows between two looks, the most in each cell
// left out: bursts are told by that.
func meanOf(cells []cell) int64 {
	var n, sum int64
	for i := range cells {
		most, _ := increaseOf(cells[i].max, cells[i].maxOver)
		n += max(cells[i].n-1, 0)
		sum += cells[i].sum - most
	}
	if n <= 0 {
		return 0
	}
	return sum / n
}

// formOf is the form of a column.
func formOf(c column, cells []cell) byte {
	if !c.counter {
		return cellsGauge
	}
	for i := range cells {
		c := &cells[i]
		_, low := increaseOf(c.min, c.minOver)
		_, high := increaseOf(c.max, c.maxOver)
		if !low || !high {
			return cellsRates
		}
	}
	return cellsCounter
}

// paceOf is about the time between two looks in these cells.
func paceOf(cells []cell) int64 {
	var n, covered int64
	for i := range cells {
		n += cells[i].n
		covered += cells[i].covered
	}
	if n <= 0 {
		return 0
	}
	return (covered + n/2) / n
}

// rateOver is the rate of an increase and the time it took.
func rateOver(inc, over int64) (int64, int32) {
	if inc == 0 || over <= 0 || over != int64(int32(over)) {
		return 0, 0
	}
	return rateOf(inc, over), int32(over)
}

// sameField is the first column before col that has the same numbers of looks,
// or the same times between them: mostly all that are counters, or are not.
func sameField(cols [][]cell, col, field int) int {
	for other := range col {
		same := true
		for i := range cols[col] {
			a, b := &cols[col][i], &cols[other][i]
			if field == 0 && a.n != b.n || field == 4 && a.covered != b.covered {
				same = false
				break
			}
		}
		if same {
			return other
		}
	}
	return -1
}

// decodeCells reads the columns in want; a nil one was not recorded then.
func decodeCells(data []byte, l layouts, want []column, start, step int64) ([][]cell, error) {
	return decodeCellsIn(data, l, want, start, step, &scratch{})
}

// decodeCellsIn reads the columns in want. What it returns is overwritten by the
// next call with the same room.
func decodeCellsIn(data []byte, l layouts, want []column, start, step int64, room *scratch) ([][]cell, error) {
	d := decoder{b: data}
	if d.byte() != cellsVersion {
		return nil, errCorrupt
	}
	where, total, err := room.find(l, int64(d.uvarint()), want)
	if err != nil {
		return nil, err
	}
	n := d.looks()
	if d.err != nil {
		return nil, d.err
	}
	room.v = room.v[:0]
	at, v := room.take(n), room.take(n)
	d.column(at)
	room.cells = slices.Grow(room.cells[:0], n*len(want))[:n*len(want)]
	room.cellCols = slices.Grow(room.cellCols[:0], len(want))[:len(want)]
	clear(room.cellCols)
	cols := room.cellCols
	all := d
	err = readColumns(&d, where, total, func(d *decoder, i int) {
		cells := room.cells[i*n : (i+1)*n : (i+1)*n]
		for j := range cells {
			cells[j] = cell{at: start + at[j]*step}
		}
		d.cells(&all, total, cells, v, room.take(n))
		cols[i] = cells
	})
	return cols, err
}

// cells reads a column; all stands before the lengths of the columns.
func (d *decoder) cells(all *decoder, total int, cells []cell, v, n []int64) {
	form := d.byte()
	d.counts(all, total, n)
	for i := range cells {
		cells[i].n = n[i]
	}
	if d.times(all, total, n, v); d.err != nil {
		return
	}
	for i := range cells {
		cells[i].covered = v[i]
	}
	switch form {
	case cellsGauge:
		d.column(v)
		for i := range cells {
			cells[i].min = v[i]
		}
		d.column(v)
		for i := range cells {
			cells[i].max = cells[i].min + v[i]
		}
		d.column(v)
		for i := range cells {
			cells[i].sum = v[i] + (cells[i].n-1)*cells[i].min + cells[i].max
		}
	case cellsRates:
		d.column(v)
		for i := range cells {
			cells[i].sum = v[i]
		}
		d.column(v)
		for i := range cells {
			cells[i].min = v[i]
		}
		d.column(v)
		for i := range cells {
			cells[i].max = v[i]
		}
	case cellsCounter:
		mean := d.varint()
		d.column(v)
		for i := range cells {
			cells[i].sum = v[i] + (cells[i].n-1)*mean
		}
		pace := d.varint()
		d.column(v)
		d.column(n)
		for i := range cells {
			cells[i].min, cells[i].minOver = rateOver(v[i], n[i]+pace)
		}
		d.column(v)
		d.column(n)
		for i := range cells {
			cells[i].sum += v[i]
			cells[i].max, cells[i].maxOver = rateOver(v[i], n[i]+pace)
		}
	default:
		d.fail()
	}
	for i := range cells {
		if c := &cells[i]; c.n == 0 {
			*c = cell{at: c.at}
		}
	}
}

// counts reads n: of the column itself, or of another one.
func (d *decoder) counts(all *decoder, total int, out []int64) {
	if len(d.b) == 0 || d.b[0] != formSame {
		d.column(out)
		return
	}
	d.other(all, total, func(o *decoder) {
		if len(o.b) > 0 && o.b[0] == formSame {
			o.fail() // it would be said to be the same as the third
			return
		}
		o.column(out)
	})
}

// times reads covered, of the column itself or of another one; n is its number
// of looks.
func (d *decoder) times(all *decoder, total int, n, out []int64) {
	if len(d.b) > 0 && d.b[0] == formSame {
		own := make([]int64, len(n))
		d.other(all, total, func(o *decoder) {
			if o.counts(all, total, own); o.err != nil || len(o.b) > 0 && o.b[0] == formSame {
				o.fail()
				return
			}
			o.times(all, total, own, out)
		})
		return
	}
	d.column(out)
	pace := d.varint()
	for i := range out {
		if n[i] == 0 {
			out[i] = 0
		} else {
			out[i] += n[i] * pace
		}
	}
}

// other calls read with the column that stands here by its number.
func (d *decoder) other(all *decoder, total int, read func(o *decoder)) {
	d.byte()
	col := d.varint()
	if d.err != nil || col < 0 || col >= int64(total) {
		d.fail()
		return
	}
	from := *all
	err := readColumns(&from, []int{int(col)}, total, func(o *decoder, _ int) {
		o.byte()
		read(o)
	})
	if err != nil {
		d.fail()
	}
}
