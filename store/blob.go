package store

import (
	"encoding/binary"
	"math"
	"slices"
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
	base   []int64
	small  []int32 // look by look: ms since start, rising, and the differences to base
	wide   []int64 // instead of small, once a difference did not fit: ms, and the values
}

// smallAbsent stands for absent in small.
const smallAbsent = math.MinInt32

// again makes the block one of another slot, in the memory that it has.
func (b *block) again(e *entity, start int64) {
	clear(b.base)
	*b = block{e: e, start: start, base: b.base, small: b.small[:0]}
	b.follow()
}

// follow takes over the look before.
func (b *block) follow() {
	n := len(b.base)
	prior := b.base[n : 2*n]
	b.prior = nil
	if e := b.e; e.last != nil {
		b.before, b.prior = e.at, prior
		copy(prior, e.last)
	}
}

// newBlock is an empty block; small is memory for its looks.
func newBlock(e *entity, start int64, small []int32) *block {
	n := len(e.cols)
	b := &block{e: e, start: start, small: small}
	b.base = make([]int64, n, 2*n) // and of the look before
	b.follow()
	return b
}

// width of a look: its time and its values.
func (b *block) width() int { return 1 + len(b.base) }

// looks is their number.
func (b *block) looks() int { return (len(b.small) + len(b.wide)) / b.width() }

// time of look i, ms since start.
func (b *block) time(i int) int64 {
	if b.wide != nil {
		return b.wide[i*b.width()]
	}
	return int64(b.small[i*b.width()])
}

func (b *block) add(at int64, v []int64) {
	if len(b.small) == 0 && b.wide == nil {
		copy(b.base, v)
	}
	at -= b.start
	if b.wide != nil {
		b.wide = append(append(b.wide, at), v...)
		return
	}
	small, base := append(b.small, int32(at)), b.base[:len(v)]
	for i, x := range v {
		d := int32(smallAbsent)
		if x != absent {
			if base[i] == absent {
				base[i] = x // all before it are absent
			}
			diff := x - base[i]
			d = int32(diff)
			if int64(d) != diff || (diff < 0) != (x < base[i]) || d == smallAbsent {
				b.widen()
				b.wide = append(append(b.wide, at), v...)
				return
			}
		}
		small = append(small, d)
	}
	b.small = small
}

func (b *block) widen() {
	n := b.width()
	b.wide = make([]int64, 0, max(cap(b.small), len(b.small)+n))
	for i, d := range b.small {
		x := int64(absent)
		switch {
		case i%n == 0:
			x = int64(d)
		case d != smallAbsent:
			x = b.base[i%n-1] + int64(d)
		}
		b.wide = append(b.wide, x)
	}
	b.small = nil
}

// column appends the values of one column.
func (b *block) column(dst []int64, col int) []int64 {
	n := b.width()
	if b.wide != nil {
		for i := 1 + col; i < len(b.wide); i += n {
			dst = append(dst, b.wide[i])
		}
		return dst
	}
	base := b.base[col]
	for i := 1 + col; i < len(b.small); i += n {
		x := int64(absent)
		if d := b.small[i]; d != smallAbsent {
			x = base + int64(d)
		}
		dst = append(dst, x)
	}
	return dst
}

// value of a column at a look.
func (b *block) value(look, col int) int64 {
	i := look*b.width() + 1 + col
	switch {
	case b.wide != nil:
		return b.wide[i]
	case b.small[i] == smallAbsent:
		return absent
	}
	return b.base[col] + int64(b.small[i])
}

// times appends the times of the looks, after a start.
func (b *block) times(dst []int64, start int64) []int64 {
	n := b.width()
	for i := 0; i < len(b.wide); i += n {
		dst = append(dst, start+b.wide[i])
	}
	for i := 0; i < len(b.small); i += n {
		dst = append(dst, start+int64(b.small[i]))
	}
	return dst
}

// appendTo seals the block; times are written relative to the slot's start.
func (b *block) appendTo(dst []byte, enc *encoder, layout, interval int64) []byte {
	dst = append(dst, blobVersion)
	dst = binary.AppendUvarint(dst, uint64(layout))
	dst = binary.AppendUvarint(dst, uint64(interval))
	dst = binary.AppendUvarint(dst, uint64(b.looks()))
	enc.values = b.times(enc.values[:0], 0)
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
	n := b.width()
	if b.wide != nil {
		for row := 1; row < len(b.wide); row += n {
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
	for row := 1; row < len(b.small); row += n {
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

// scratch is memory for values that is used again.
type scratch struct {
	v    []int64
	cols [][]int64

	cells    []cell
	cellCols [][]cell

	// What was asked of the blob before, and where it stood: mostly the next one
	// has the same columns.
	layout int64
	want   []column
	where  []int
	total  int
}

// find is layouts.find.
func (s *scratch) find(l layouts, layout int64, want []column) ([]int, int, error) {
	if len(want) > 0 && len(want) == len(s.want) && &want[0] == &s.want[0] && layout == s.layout {
		return s.where, s.total, nil
	}
	where, total, err := l.find(layout, want)
	if err == nil {
		s.layout, s.want, s.where, s.total = layout, want, where, total
	}
	return where, total, err
}

// take returns n values, which are not zero.
func (s *scratch) take(n int) []int64 {
	if len(s.v)+n > cap(s.v) {
		s.v = make([]int64, 0, max(2*cap(s.v), 8*n))
	}
	at := len(s.v)
	s.v = s.v[:at+n]
	return s.v[at : at+n : at+n]
}

// decodeBlock reads the columns in want.
func decodeBlock(data []byte, l layouts, want []column, start int64) (chunk, error) {
	return decodeBlockIn(data, l, want, start, nil)
}

// decodeBlockIn reads the columns in want. What it returns is overwritten by the
// next call with the same room; nil makes memory of its own.
func decodeBlockIn(data []byte, l layouts, want []column, start int64, room *scratch) (chunk, error) {
	if room == nil {
		room = &scratch{}
	}
	room.v = room.v[:0]
	d := decoder{b: data}
	if d.byte() != blobVersion {
		return chunk{}, errCorrupt
	}
	where, total, err := room.find(l, int64(d.uvarint()), want)
	if err != nil {
		return chunk{}, err
	}
	c := chunk{interval: int64(d.uvarint())}
	n := d.looks()
	if d.err != nil {
		return chunk{}, d.err
	}
	c.at = room.take(n)
	d.column(c.at)
	for i := range c.at {
		c.at[i] += start
	}
	room.cols = slices.Grow(room.cols[:0], len(want))[:len(want)]
	clear(room.cols)
	c.cols = room.cols
	var stack [40]uint64
	parts, err := split(&d, total, stack[:])
	if err != nil {
		return chunk{}, err
	}
	sums := false
	for i, at := range where {
		if at < 0 {
			continue
		}
		c.cols[i] = room.take(n)
		col := parts.column(at)
		if col.isSum() {
			sums = true
			continue
		}
		if col.column(c.cols[i]); col.err != nil {
			return chunk{}, col.err
		}
	}
	if !sums {
		return c, nil
	}
	// The terms of a sum are mostly among what was read.
	var part []int64
	term := func(d *decoder, at int) []int64 {
		col := parts.column(at)
		if col.isSum() {
			d.fail()
			return nil
		}
		if i := slices.Index(where, at); i >= 0 {
			return c.cols[i]
		}
		if part == nil {
			part = room.take(n)
		}
		if col.column(part); col.err != nil {
			d.fail()
		}
		return part
	}
	for i, at := range where {
		if at < 0 {
			continue
		}
		if col := parts.column(at); col.isSum() {
			clear(c.cols[i])
			if col.sum(total, c.cols[i], term); col.err != nil {
				return chunk{}, col.err
			}
		}
	}
	return c, nil
}

func (d *decoder) isSum() bool { return len(d.b) > 0 && d.b[0] == formSum }

// sum adds up the columns that are named here.
func (d *decoder) sum(total int, out []int64, term func(d *decoder, col int) []int64) {
	d.byte()
	n := d.count()
	if n > total {
		d.fail()
	}
	for ; n > 0 && d.err == nil; n-- {
		col, off := d.uvarint(), d.byte()
		if d.err != nil || col >= uint64(total) {
			d.fail()
			return
		}
		part := term(d, int(col))
		if d.err != nil {
			return
		}
		if off == 1 {
			for i, x := range part {
				out[i] -= x
			}
			continue
		}
		for i, x := range part {
			out[i] += x
		}
	}
}

// parts are the columns of a blob, not yet decoded.
type parts struct {
	body []byte
	ends []uint64 // of each column, after the beginning of the first
}

// split reads the lengths of the columns; ends is memory for it.
func split(d *decoder, total int, ends []uint64) (parts, error) {
	ends = append(ends[:0], 0)
	sum := uint64(0)
	for range total {
		n := d.uvarint()
		if n > uint64(len(d.b)) {
			return parts{}, errCorrupt
		}
		sum += n
		ends = append(ends, sum)
	}
	if d.err != nil || sum > uint64(len(d.b)) {
		return parts{}, errCorrupt
	}
	return parts{d.b, ends}, nil
}

func (p parts) column(i int) decoder { return decoder{b: p.body[p.ends[i]:p.ends[i+1]]} }

// readColumns calls read with the decoder at the i-th wanted column.
func readColumns(d *decoder, where []int, total int, read func(d *decoder, i int)) error {
	var stack [40]uint64
	p, err := split(d, total, stack[:])
	if err != nil {
		return err
	}
	for i, at := range where {
		if at < 0 {
			continue
		}
		col := p.column(at)
		read(&col, i)
		if col.err != nil {
			return col.err
		}
	}
	return nil
}
