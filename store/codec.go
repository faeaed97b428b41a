package store

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// A column of int64 is written in the smallest of five forms. Differences wrap
// around, so every int64 is welcome.
const (
	formConst  = iota // v0
	formSparse        // v0, number of changes, then (distance, change) each
	formFrame         // min; packed: value - min
	formStep          // v0, least step; packed: step - least
	formDrift         // v0, mean step; packed: zigzag(step - mean)
	formSum           // number of terms, of each the column and 1 when it is taken off: see derived
	formSame          // of a roll-up: the column whose field is the same
)

var errCorrupt = errors.New("corrupt blob")

func zig(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzig(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }
func varlen(u uint64) int  { return (bits.Len64(u|1) + 6) / 7 }

// encoder keeps its scratch memory between columns.
type encoder struct {
	rest   []uint64
	values []int64
	spare  []int64
}

// room is n values of scratch memory.
func (e *encoder) room(n int) []int64 {
	e.spare = slices.Grow(e.spare[:0], n)[:n]
	return e.spare
}

// append writes v, whose length the reader must know.
func (e *encoder) append(b []byte, v []int64) []byte {
	n := len(v)
	if n == 0 {
		return b
	}
	least, most := v[0], v[0]
	var leastStep int64
	changes, sparse, last := 0, 0, 0
	for i := 1; i < n; i++ {
		least, most = min(least, v[i]), max(most, v[i])
		step := v[i] - v[i-1]
		if i == 1 || step < leastStep {
			leastStep = step
		}
		if step != 0 {
			changes++
			sparse += varlen(uint64(i-last)) + varlen(zig(step))
			last = i
		}
	}
	if changes == 0 {
		return binary.AppendUvarint(append(b, formConst), zig(v[0]))
	}
	sparse += varlen(zig(v[0])) + varlen(uint64(changes))
	if sparse <= 4+n/8 {
		// One bit for each value would take as much.
		return appendSparse(b, v, changes)
	}
	mean := (v[n-1] - v[0]) / int64(n-1)
	var frameBits, stepBits, driftBits [65]int32
	frameBits[bits.Len64(uint64(v[0])-uint64(least))]++
	for i := 1; i < n; i++ {
		step := v[i] - v[i-1]
		frameBits[bits.Len64(uint64(v[i])-uint64(least))]++
		stepBits[bits.Len64(uint64(step)-uint64(leastStep))]++
		driftBits[bits.Len64(zig(step-mean))]++
	}
	frameWidth, frame := width(&frameBits, n)
	stepWidth, steps := width(&stepBits, n-1)
	driftWidth, drift := width(&driftBits, n-1)
	frame += varlen(zig(least))
	steps += varlen(zig(v[0])) + varlen(zig(leastStep))
	drift += varlen(zig(v[0])) + varlen(zig(mean))

	e.rest = e.rest[:0]
	switch min(sparse, frame, steps, drift) {
	case sparse:
		return appendSparse(b, v, changes)
	case frame:
		b = binary.AppendUvarint(append(b, formFrame), zig(least))
		for _, x := range v {
			e.rest = append(e.rest, uint64(x)-uint64(least))
		}
		return pack(b, e.rest, frameWidth)
	case steps:
		b = binary.AppendUvarint(append(b, formStep), zig(v[0]))
		b = binary.AppendUvarint(b, zig(leastStep))
		for i := 1; i < n; i++ {
			e.rest = append(e.rest, uint64(v[i]-v[i-1])-uint64(leastStep))
		}
		return pack(b, e.rest, stepWidth)
	default:
		b = binary.AppendUvarint(append(b, formDrift), zig(v[0]))
		b = binary.AppendUvarint(b, zig(mean))
		for i := 1; i < n; i++ {
			e.rest = append(e.rest, zig(v[i]-v[i-1]-mean))
		}
		return pack(b, e.rest, driftWidth)
	}
}

// appendSparse writes the first value and the changes.
func appendSparse(b []byte, v []int64, changes int) []byte {
	b = binary.AppendUvarint(append(b, formSparse), zig(v[0]))
	b = binary.AppendUvarint(b, uint64(changes))
	last := 0
	for i := 1; i < len(v); i++ {
		if step := v[i] - v[i-1]; step != 0 {
			b = binary.AppendUvarint(b, uint64(i-last))
			b = binary.AppendUvarint(b, zig(step))
			last = i
		}
	}
	return b
}

// width returns the number of bits with which n values take the fewest bytes,
// and those bytes. A value with more bits is an exception: its high part is
// written after the packed ones.
func width(lens *[65]int32, n int) (best uint, size int) {
	size = 1 << 62
	exceptions := 0
	longest := 64
	for longest > 0 && lens[longest] == 0 {
		longest--
	}
	for w := longest; w >= 0; w-- {
		s := 1 + varlen(uint64(exceptions)) + (n*w+7)/8 + exceptions // a distance mostly takes one byte
		if exceptions > 0 {
			for l := w + 1; l <= longest; l++ {
				s += int(lens[l]) * ((l - w + 6) / 7)
			}
		}
		if s < size {
			best, size = uint(w), s
		}
		exceptions += int(lens[w])
		if 2*exceptions >= size {
			break // each takes two bytes at least
		}
	}
	return best, size
}

func mask(w uint) uint64 {
	if w >= 64 {
		return ^uint64(0)
	}
	return 1<<w - 1
}

// pack writes the width, the number of exceptions, the low w bits of all
// values, then distance and high bits of each exception.
func pack(b []byte, u []uint64, w uint) []byte {
	low := mask(w)
	exceptions := 0
	for _, x := range u {
		if x > low {
			exceptions++
		}
	}
	b = binary.AppendUvarint(append(b, byte(w)), uint64(exceptions))
	b = slices.Grow(b, (len(u)*int(w)+7)/8)
	var acc uint64 // bits not yet written, always fewer than 64 between values
	var held uint
	for _, x := range u {
		x &= low
		acc |= x << held
		if held+w >= 64 {
			b = binary.LittleEndian.AppendUint64(b, acc)
			acc = x >> (64 - held) // none, when held is 0
			held += w - 64
		} else {
			held += w
		}
	}
	for ; held > 0; held -= min(held, 8) {
		b = append(b, byte(acc))
		acc >>= 8
	}
	if exceptions > 0 {
		last := 0
		for i, x := range u {
			if x > low {
				b = binary.AppendUvarint(b, uint64(i-last))
				b = binary.AppendUvarint(b, x>>w)
				last = i
			}
		}
	}
	return b
}

// decoder reads what encoder wrote. After an error everything reads as zero;
// the caller looks at err once, at the end.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.err, d.b = errCorrupt, nil }

func (d *decoder) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		u := uint64(d.b[0])
		d.b = d.b[1:]
		return u
	}
	u, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return u
}

func (d *decoder) varint() int64 { return unzig(d.uvarint()) }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

// count reads a number of things of which each takes at least one of the
// 2^20 that a blob may hold: hostile bytes cannot make us allocate.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > 1<<20 {
		d.fail()
		return 0
	}
	return int(n)
}

// maxLooks in one blob: the slot of ten minutes at ten looks a second has 6,000.
const maxLooks = 1 << 16

// looks reads a number of looks, for which the caller makes room before it has
// seen any: a blob of few bytes must not take much memory.
func (d *decoder) looks() int {
	n := d.count()
	if n > maxLooks {
		d.fail()
		return 0
	}
	return n
}

// column fills out.
func (d *decoder) column(out []int64) {
	if len(out) == 0 || d.err != nil {
		return
	}
	form := d.byte()
	v := d.varint()
	switch form {
	case formConst:
		for i := range out {
			out[i] = v
		}
	case formSparse:
		i := 0
		for n := d.count(); n > 0; n-- {
			gap := d.uvarint()
			if d.err != nil || gap == 0 || gap >= uint64(len(out)-i) {
				d.fail()
				return
			}
			for end := i + int(gap); i < end; i++ {
				out[i] = v
			}
			v += d.varint()
		}
		for ; i < len(out); i++ {
			out[i] = v
		}
	case formFrame:
		d.unpack(out)
		for i := range out {
			out[i] += v
		}
	case formStep:
		least := d.varint()
		d.unpack(out[1:])
		out[0] = v
		for i := 1; i < len(out); i++ {
			v += out[i] + least
			out[i] = v
		}
	case formDrift:
		mean := d.varint()
		d.unpack(out[1:])
		out[0] = v
		for i := 1; i < len(out); i++ {
			v += unzig(uint64(out[i])) + mean
			out[i] = v
		}
	default:
		d.fail()
	}
}

// unpack fills out with the bits that pack wrote.
func (d *decoder) unpack(out []int64) {
	w := uint(d.byte())
	exceptions := d.count()
	if w > 64 || exceptions > len(out) {
		d.fail()
		return
	}
	b := d.bytes(uint64((len(out)*int(w) + 7) / 8))
	if d.err != nil {
		return
	}
	// What follows may be read along: it is of the same row, and masked away.
	b = b[:min(len(b)+8, cap(b))]
	low := mask(w)
	for i, bit := 0, uint(0); i < len(out); i, bit = i+1, bit+w {
		at, shift := bit/8, bit%8
		var x uint64
		if int(at)+8 <= len(b) {
			x = binary.LittleEndian.Uint64(b[at:]) >> shift
			if shift+w > 64 {
				x |= uint64(b[at+8]) << (64 - shift)
			}
		} else {
			for j, c := range b[at:] {
				if j == 8 {
					x |= uint64(c) << (64 - shift)
					break
				}
				if s := uint(8*j) - shift; 8*uint(j) >= shift {
					x |= uint64(c) << s
				} else {
					x |= uint64(c) >> (shift - 8*uint(j))
				}
			}
		}
		out[i] = int64(x & low)
	}
	for i := 0; exceptions > 0; exceptions-- {
		gap := d.uvarint()
		high := d.uvarint()
		if d.err != nil || gap >= uint64(len(out)-i) || w == 64 {
			d.fail()
			return
		}
		i += int(gap)
		out[i] |= int64(high << w)
	}
}
