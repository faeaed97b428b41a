package store

import (
	"encoding/binary"
	"math"
)

// A sealed slot of one entity is one blob: version, column list, interval, n,
// the shared time column, the length of each column, the columns. Sums among
// the columns name others of the same blob, none of which is a sum.
const blobVersion = 1

// block is what an entity measured in one slot, look by look. Memory is what
// limits the number of entities, so values are kept as differences to the first
// in 32 bits as long as they fit.
type block struct {
	e      *entity
	start  int64   // ms
	before int64   // time of the look before the first, ms; 0: not known
	prior  []int64 // its values
	at     []int32 // ms since start, rising
	base   []int64
	small  []int32 // look by look
	wide   []int64 // instead of small, once a difference did not fit
}

// smallAbsent stands for absent in small.
const smallAbsent = math.MinInt32

func newBlock(e *entity, start int64, looks int) *block {
	n := len(e.cols)
	b := &block{e: e, start: start, at: make([]int32, 0, looks), small: make([]int32, 0, looks*n)}
	own := make([]int64, 2*n)
	b.base = own[:n:n]
	if e.last != nil {
		b.before, b.prior = e.at, own[n:]
		copy(b.prior, e.last)
	}
	return b
}

func (b *block) add(at int64, v []int64) {
	if len(b.at) == 0 {
		copy(b.base, v)
	}
	b.at = append(b.at, int32(at-b.start))
	if b.wide != nil {
		b.wide = append(b.wide, v...)
		return
	}
	n := len(b.small)
	for i, x := range v {
		d := int32(smallAbsent)
		if x != absent {
			if b.base[i] == absent {
				b.base[i] = x // all before it are absent
			}
			diff := x - b.base[i]
			d = int32(diff)
			if int64(d) != diff || (diff < 0) != (x < b.base[i]) || d == smallAbsent {
				b.small = b.small[:n]
				b.widen()
				b.wide = append(b.wide, v...)
				return
			}
		}
		b.small = append(b.small, d)
	}
}

func (b *block) widen() {
	n := len(b.base)
	b.wide = make([]int64, 0, max(cap(b.at), len(b.at))*n)
	for i, d := range b.small {
		x := int64(absent)
		if d != smallAbsent {
			x = b.base[i%n] + int64(d)
		}
		b.wide = append(b.wide, x)
	}
	b.small = nil
}

// column appends the values of one column.
func (b *block) column(dst []int64, col int) []int64 {
	n := len(b.base)
	if b.wide != nil {
		for i := col; i < len(b.wide); i += n {
			dst = append(dst, b.wide[i])
		}
		return dst
	}
	base := b.base[col]
	for i := col; i < len(b.small); i += n {
		x := int64(absent)
		if d := b.small[i]; d != smallAbsent {
			x = base + int64(d)
		}
		dst = append(dst, x)
	}
	return dst
}

func (b *block) times(dst []int64) []int64 {
	for _, t := range b.at {
		dst = append(dst, b.start+int64(t))
	}
	return dst
}

// appendTo seals the block; times are written relative to the slot's start.
func (b *block) appendTo(dst []byte, enc *encoder, layout, interval int64) []byte {
	dst = append(dst, blobVersion)
	dst = binary.AppendUvarint(dst, uint64(layout))
	dst = binary.AppendUvarint(dst, uint64(interval))
	dst = binary.AppendUvarint(dst, uint64(len(b.at)))
	enc.values = enc.values[:0]
	for _, t := range b.at {
		enc.values = append(enc.values, int64(t))
	}
	dst = enc.append(dst, enc.values)
	sums := derived[b.e.kind]
	return appendColumns(dst, len(b.base), func(dst []byte, i int) []byte {
		if terms := sums[i]; terms != nil && b.isSum(i, terms) {
			dst = binary.AppendUvarint(append(dst, formSum), uint64(len(terms)))
			for _, t := range terms {
				dst = binary.AppendUvarint(dst, uint64(t.col))
				dst = append(dst, byte((1-t.sign)/2))
			}
			return dst
		}
		enc.values = b.column(enc.values[:0], i)
		return enc.append(dst, enc.values)
	})
}

// isSum reports whether the column is the sum of the terms at every look.
func (b *block) isSum(col int, terms []term) bool {
	n := len(b.base)
	if b.wide != nil {
		for row := 0; row < len(b.wide); row += n {
			sum := b.wide[row+col]
			for _, t := range terms {
				sum -= int64(t.sign) * b.wide[row+t.col]
			}
			if sum != 0 {
				return false
			}
		}
		return true
	}
	sum := b.base[col]
	for _, t := range terms {
		sum -= int64(t.sign) * b.base[t.col]
	}
	if sum != 0 {
		return false
	}
	for row := 0; row < len(b.small); row += n {
		own := b.small[row+col]
		if own == smallAbsent {
			return false
		}
		sum := int64(own)
		for _, t := range terms {
			x := b.small[row+t.col]
			if x == smallAbsent {
				return false
			}
			sum -= int64(t.sign) * int64(x)
		}
		if sum != 0 {
			return false
		}
	}
	return true
}

// appendColumns writes the lengths of n columns, then the columns, so that a
// reader of one skips the others.
func appendColumns(dst []byte, n int, column func(dst []byte, i int) []byte) []byte {
	var stack [2048]byte
	body := stack[:0]
	for i := range n {
		before := len(body)
		body = column(body, i)
		dst = binary.AppendUvarint(dst, uint64(len(body)-before))
	}
	return append(dst, body...)
}

// chunk is a run of looks at one entity; a nil column was not recorded then.
type chunk struct {
	at       []int64
	cols     [][]int64
	interval int64 // ms between two looks, as then configured
}

// decodeBlock reads the columns in want.
func decodeBlock(data []byte, l layouts, want []column, start int64) (chunk, error) {
	d := decoder{b: data}
	if d.byte() != blobVersion {
		return chunk{}, errCorrupt
	}
	where, total, err := l.find(int64(d.uvarint()), want)
	if err != nil {
		return chunk{}, err
	}
	c := chunk{interval: int64(d.uvarint())}
	n := d.looks()
	if d.err != nil {
		return chunk{}, d.err
	}
	c.at = make([]int64, n)
	d.column(c.at)
	for i := range c.at {
		c.at[i] += start
	}
	c.cols = make([][]int64, len(want))
	all := d
	err = readColumns(&d, where, total, func(d *decoder, i int) {
		c.cols[i] = make([]int64, n)
		if len(d.b) > 0 && d.b[0] == formSum {
			d.sum(&all, total, c.cols[i])
			return
		}
		d.column(c.cols[i])
	})
	return c, err
}

// sum fills out with a column that is the sum of others; all stands before the
// lengths of the columns.
func (d *decoder) sum(all *decoder, total int, out []int64) {
	d.byte()
	n := d.count()
	if n > total {
		d.fail()
	}
	part := make([]int64, len(out))
	for ; n > 0 && d.err == nil; n-- {
		col, off := d.uvarint(), d.byte()
		if d.err != nil || col >= uint64(total) {
			d.fail()
			return
		}
		from := *all
		err := readColumns(&from, []int{int(col)}, total, func(d *decoder, _ int) { d.column(part) })
		if err != nil {
			d.fail()
			return
		}
		for i, x := range part {
			if off == 1 {
				x = -x
			}
			out[i] += x
		}
	}
}

// readColumns calls read with the decoder at the i-th wanted column.
func readColumns(d *decoder, where []int, total int, read func(d *decoder, i int)) error {
	ends := make([]uint64, total+1)
	for i := range total {
		ends[i+1] = ends[i] + d.uvarint()
	}
	body := d.b
	if d.err != nil || ends[total] > uint64(len(body)) {
		return errCorrupt
	}
	for i, at := range where {
		if at < 0 {
			continue
		}
		if ends[at+1] < ends[at] || ends[at+1] > uint64(len(body)) {
			return errCorrupt
		}
		col := decoder{b: body[ends[at]:ends[at+1]]}
		read(&col, i)
		if col.err != nil {
			return col.err
		}
	}
	return nil
}

// cell is what one column did in one bucket of time, in the column's stored
// unit. Of a counter, n counts the intervals that ended in the bucket, sum is
// the increase, covered the time in which it happened, and min and max are the
// rates of single intervals per 1000 s.
type cell struct {
	at       int64 // start of the bucket, ms
	n        int64
	min, max int64
	sum      int64
	covered  int64 // ms
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
	c.min, c.max = min(c.min, o.min), max(c.max, o.max)
}

// appendCells seals the cells of all columns of a roll-up slot. Every column
// has the same buckets; one that is empty has n = 0.
func appendCells(dst []byte, enc *encoder, layout, start, step int64, cols [][]cell) []byte {
	dst = append(dst, blobVersion)
	dst = binary.AppendUvarint(dst, uint64(layout))
	n := len(cols[0])
	dst = binary.AppendUvarint(dst, uint64(n))
	v := make([]int64, n)
	for i, c := range cols[0] {
		v[i] = (c.at - start) / step
	}
	dst = enc.append(dst, v)
	return appendColumns(dst, len(cols), func(dst []byte, col int) []byte {
		for field := range cellFields {
			if same := sameField(cols, col, field); same >= 0 {
				dst = binary.AppendUvarint(append(dst, formSame), zig(int64(same)))
				continue
			}
			for i := range cols[col] {
				v[i] = *cols[col][i].field(field)
			}
			dst = enc.append(dst, v)
		}
		return dst
	})
}

const cellFields = 5

func (c *cell) field(i int) *int64 {
	return [cellFields]*int64{&c.n, &c.min, &c.max, &c.sum, &c.covered}[i]
}

// sameField is the first column before col that has the same numbers of looks,
// or the same times between them: mostly all that are counters, or are not.
func sameField(cols [][]cell, col, field int) int {
	if field != 0 && field != 4 {
		return -1
	}
	for other := range col {
		same := true
		for i := range cols[col] {
			if *cols[col][i].field(field) != *cols[other][i].field(field) {
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
	d := decoder{b: data}
	if d.byte() != blobVersion {
		return nil, errCorrupt
	}
	where, total, err := l.find(int64(d.uvarint()), want)
	if err != nil {
		return nil, err
	}
	n := d.looks()
	if d.err != nil {
		return nil, d.err
	}
	at := make([]int64, n)
	d.column(at)
	cols := make([][]cell, len(want))
	v := make([]int64, n)
	all := d
	err = readColumns(&d, where, total, func(d *decoder, i int) {
		cells := make([]cell, n)
		for j := range cells {
			cells[j].at = start + at[j]*step
		}
		for field := range cellFields {
			if len(d.b) > 0 && d.b[0] == formSame {
				d.byte()
				d.same(&all, total, d.varint(), field, v)
			} else {
				d.column(v)
			}
			for j := range cells {
				*cells[j].field(field) = v[j]
			}
		}
		cols[i] = cells
	})
	return cols, err
}

// same fills out with a field of another column, which is not the same as that
// of a third.
func (d *decoder) same(all *decoder, total int, col int64, field int, out []int64) {
	if d.err != nil || col < 0 || col >= int64(total) {
		d.fail()
		return
	}
	from := *all
	err := readColumns(&from, []int{int(col)}, total, func(d *decoder, _ int) {
		for f := range field + 1 {
			if len(d.b) > 0 && d.b[0] == formSame {
				if f == field {
					d.fail()
					return
				}
				d.byte()
				d.varint()
				continue
			}
			d.column(out)
		}
	})
	if err != nil {
		d.fail()
	}
}
