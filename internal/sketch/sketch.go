// Package sketch counts durations in a log-linear histogram that merges
// exactly: the sketch of two intervals is the sum of their sketches. It holds
// no clock, no lock and no name.
package sketch

import (
	"encoding/binary"
	"errors"
	"iter"
	"math/bits"
	"time"
)

// subBits is the number of linear steps per octave, as a power of two. With 64
// steps a bucket is at most 1/64 of its lower bound wide, so its middle is at
// most 0.78 % away from every value in it.
const subBits = 6

const (
	steps = 1 << subBits
	// maxIndex is the bucket of 2^63-1 ns; no duration lies beyond it.
	maxIndex = (63-subBits)*steps + steps - 1
)

// Sketch is a histogram of durations in nanoseconds. The zero value is empty
// and ready to use. It is not safe for concurrent use.
type Sketch struct {
	count    uint64
	sum      uint64 // ns
	min, max uint64 // ns; valid when count > 0
	first    int    // bucket index of buckets[0]
	buckets  []uint64
}

// index returns the bucket of v: v itself below 64 ns, then 64 linear steps
// per octave.
func index(v uint64) int {
	if v < steps {
		return int(v)
	}
	octave := bits.Len64(v) - 1 - subBits
	return octave*steps + int(v>>octave)
}

// bounds returns the lowest value of bucket i and the number of values in it.
func bounds(i int) (low, width uint64) {
	if i < 2*steps {
		return uint64(i), 1
	}
	octave := i/steps - 1
	return uint64(steps+i%steps) << octave, 1 << octave
}

// Add counts one duration. A negative one (a clock that stepped back) counts as zero.
func (s *Sketch) Add(d time.Duration) { s.AddN(d, 1) }

// AddN counts n durations of the same length.
func (s *Sketch) AddN(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	v := uint64(max(d, 0))
	if s.count == 0 || v < s.min {
		s.min = v
	}
	s.max = max(s.max, v)
	s.count += n
	s.sum += v * n
	i := index(v)
	s.reserve(i, i)
	s.buckets[i-s.first] += n
}

// reserve makes the buckets from lo to hi addressable.
func (s *Sketch) reserve(lo, hi int) {
	if len(s.buckets) == 0 {
		s.first = lo
		s.buckets = append(s.buckets[:0], make([]uint64, hi-lo+1)...)
		return
	}
	if lo < s.first {
		grown := make([]uint64, s.first-lo+len(s.buckets))
		copy(grown[s.first-lo:], s.buckets)
		s.first, s.buckets = lo, grown
	}
	if last := s.first + len(s.buckets) - 1; hi > last {
		s.buckets = append(s.buckets, make([]uint64, hi-last)...)
	}
}

// Merge adds all that o counted. A nil o adds nothing.
func (s *Sketch) Merge(o *Sketch) {
	if o == nil || o.count == 0 {
		return
	}
	if s.count == 0 || o.min < s.min {
		s.min = o.min
	}
	s.max = max(s.max, o.max)
	s.count += o.count
	s.sum += o.sum
	s.reserve(o.first, o.first+len(o.buckets)-1)
	at := s.buckets[o.first-s.first:]
	for i, n := range o.buckets {
		at[i] += n
	}
}

// Reset empties the sketch and keeps its memory.
func (s *Sketch) Reset() { *s = Sketch{buckets: s.buckets[:0]} }

// Clone returns an independent copy; the clone of nil is empty.
func (s *Sketch) Clone() *Sketch {
	c := &Sketch{}
	c.Merge(s)
	return c
}

// Count is the number of durations counted; 0 for nil.
func (s *Sketch) Count() uint64 {
	if s == nil {
		return 0
	}
	return s.count
}

// Mean is exact: the sum is kept beside the buckets. It is 0 when empty.
func (s *Sketch) Mean() time.Duration {
	if s == nil || s.count == 0 {
		return 0
	}
	return time.Duration(s.sum / s.count)
}

// Sum is the exact total of the durations.
func (s *Sketch) Sum() time.Duration {
	if s == nil {
		return 0
	}
	return time.Duration(s.sum)
}

// Min and Max are exact; 0 when empty.
func (s *Sketch) Min() time.Duration {
	if s == nil || s.count == 0 {
		return 0
	}
	return time.Duration(s.min)
}

// Max is the longest duration counted, exactly; 0 when empty.
func (s *Sketch) Max() time.Duration {
	if s == nil {
		return 0
	}
	return time.Duration(s.max)
}

// Quantile returns the value of rank ceil(q*n), within 0.78 %: the middle of
// its bucket, never outside Min and Max. It is 0 when empty.
func (s *Sketch) Quantile(q float64) time.Duration {
	if s == nil || s.count == 0 {
		return 0
	}
	rank := uint64(q * float64(s.count))
	if float64(rank) < q*float64(s.count) {
		rank++
	}
	rank = min(max(rank, 1), s.count)
	var seen uint64
	for i, n := range s.buckets {
		if seen += n; seen >= rank {
			low, width := bounds(s.first + i)
			return time.Duration(min(max(low+(width-1)/2, s.min), s.max))
		}
	}
	return time.Duration(s.max)
}

// Bucket is a run of durations from Low (inclusive) to High (exclusive).
type Bucket struct {
	Low, High time.Duration
	Count     uint64
}

// Buckets yields the buckets that counted something, in rising order.
func (s *Sketch) Buckets() iter.Seq[Bucket] {
	return func(yield func(Bucket) bool) {
		if s == nil {
			return
		}
		for i, n := range s.buckets {
			if n == 0 {
				continue
			}
			low, width := bounds(s.first + i)
			if !yield(Bucket{time.Duration(low), time.Duration(low + width), n}) {
				return
			}
		}
	}
}

// Version 1 of the binary form: version, then varints: count, sum, min, max-min,
// then for each bucket that counted something the distance to the one before
// (from -1) and its count.
const version = 1

var errCorrupt = errors.New("sketch: not a sketch of version 1")

// AppendBinary appends the sketch's binary form; an empty one takes two bytes.
func (s *Sketch) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, version)
	b = binary.AppendUvarint(b, s.Count())
	if s.Count() == 0 {
		return b, nil
	}
	b = binary.AppendUvarint(b, s.sum)
	b = binary.AppendUvarint(b, s.min)
	b = binary.AppendUvarint(b, s.max-s.min)
	prev := -1
	for i, n := range s.buckets {
		if n == 0 {
			continue
		}
		b = binary.AppendUvarint(b, uint64(s.first+i-prev))
		b = binary.AppendUvarint(b, n)
		prev = s.first + i
	}
	return b, nil
}

// MarshalBinary returns the binary form.
func (s *Sketch) MarshalBinary() ([]byte, error) { return s.AppendBinary(nil) }

// UnmarshalBinary replaces the sketch by the one in data. Hostile input is an
// error, never a panic, and takes at most 30 KB.
func (s *Sketch) UnmarshalBinary(data []byte) error {
	var d Sketch
	if err := d.MergeBinary(data); err != nil {
		return err
	}
	*s = d
	return nil
}

// MergeBinary adds all that the sketch in data counted, without building that
// sketch. On an error nothing is added.
func (s *Sketch) MergeBinary(data []byte) error {
	if len(data) == 0 || data[0] != version {
		return errCorrupt
	}
	d := varints{b: data[1:], ok: true}
	count := d.next()
	if count == 0 {
		if !d.ok || len(d.b) > 0 {
			return errCorrupt
		}
		return nil
	}
	sum, least, span := d.next(), d.next(), d.next()
	most := least + span
	if !d.ok || most < least || most > 1<<63-1 {
		return errCorrupt
	}
	// The buckets are added as they are read; should the end turn out to be
	// wrong, they are taken off again.
	empty := s.count == 0
	added, ok := s.addBuckets(d.b, count, 1)
	if !ok {
		s.addBuckets(d.b[:added], 0, ^uint64(0))
		if empty {
			s.buckets = s.buckets[:0]
		}
		return errCorrupt
	}
	if s.count == 0 || least < s.min {
		s.min = least
	}
	s.max = max(s.max, most)
	s.count += count
	s.sum += sum
	return nil
}

// addBuckets adds each bucket in b, times sign, and returns how many bytes of b
// were added and whether they counted want.
func (s *Sketch) addBuckets(b []byte, want, sign uint64) (added int, ok bool) {
	var total uint64
	at := -1
	for pos := 0; pos < len(b); added = pos {
		gap := uint64(b[pos])
		if pos++; gap >= 0x80 {
			var n int
			if gap, n = binary.Uvarint(b[pos-1:]); n <= 0 {
				return added, false
			}
			pos += n - 1
		}
		if pos >= len(b) {
			return added, false
		}
		n := uint64(b[pos])
		if pos++; n >= 0x80 {
			var size int
			if n, size = binary.Uvarint(b[pos-1:]); size <= 0 {
				return added, false
			}
			pos += size - 1
		}
		if gap-1 > maxIndex || n == 0 || total+n < total {
			return added, false
		}
		if at += int(gap); at > maxIndex {
			return added, false
		}
		total += n
		if i := at - s.first; uint(i) < uint(len(s.buckets)) {
			s.buckets[i] += n * sign
		} else {
			s.reserve(at, at)
			s.buckets[at-s.first] += n * sign
		}
	}
	return added, total == want
}

// varints reads numbers until one is cut off or too large.
type varints struct {
	b  []byte
	ok bool
}

func (v *varints) next() uint64 {
	if len(v.b) > 0 && v.b[0] < 0x80 { // most are one byte
		u := uint64(v.b[0])
		v.b = v.b[1:]
		return u
	}
	u, n := binary.Uvarint(v.b)
	if n <= 0 {
		v.ok, v.b = false, nil
		return 0
	}
	v.b = v.b[n:]
	return u
}

// head is what stands before the buckets in the binary form.
type head struct{ count, sum, min, max uint64 }

// cursor walks through the buckets of a binary form.
type cursor struct {
	data  []byte
	index int
	count uint64
	bad   bool
}

func (c *cursor) uvarint() uint64 {
	if len(c.data) > 0 && c.data[0] < 0x80 {
		v := uint64(c.data[0])
		c.data = c.data[1:]
		return v
	}
	v, n := binary.Uvarint(c.data)
	if n <= 0 {
		c.bad = true
		c.data = nil
		return 0
	}
	c.data = c.data[n:]
	return v
}

// next moves to the next bucket; false at the end, and where the data is bad.
func (c *cursor) next() bool {
	if len(c.data) == 0 {
		return false
	}
	gap := c.uvarint()
	c.count = c.uvarint()
	if c.bad || gap == 0 || gap > maxIndex+1 || c.count == 0 {
		c.bad = true
		return false
	}
	if c.index += int(gap); c.index > maxIndex {
		c.bad = true
		return false
	}
	return true
}

// open reads what stands before the buckets.
func open(data []byte) (h head, c cursor, err error) {
	if len(data) == 0 || data[0] != version {
		return h, c, errCorrupt
	}
	c = cursor{data: data[1:], index: -1}
	if h.count = c.uvarint(); h.count == 0 {
		if c.bad || len(c.data) > 0 {
			err = errCorrupt
		}
		return h, c, err
	}
	h.sum, h.min = c.uvarint(), c.uvarint()
	span := c.uvarint()
	if h.max = h.min + span; c.bad || h.max < h.min || h.max > 1<<63-1 {
		return h, c, errCorrupt
	}
	return h, c, nil
}

func (h *head) merge(o head) {
	switch {
	case o.count == 0:
		return
	case h.count == 0:
		*h = o
		return
	}
	h.count += o.count
	h.sum += o.sum
	h.min, h.max = min(h.min, o.min), max(h.max, o.max)
}

// AppendMerged appends the binary form of the sum of two sketches in binary
// form.
func AppendMerged(dst, a, b []byte) ([]byte, error) {
	ha, ca, err := open(a)
	if err != nil {
		return dst, err
	}
	hb, cb, err := open(b)
	if err != nil {
		return dst, err
	}
	if hb.count == 0 {
		return append(dst, a...), nil
	}
	if ha.count == 0 {
		return append(dst, b...), nil
	}
	sum := ha
	sum.merge(hb)
	dst = append(dst, version)
	for _, v := range [...]uint64{sum.count, sum.sum, sum.min, sum.max - sum.min} {
		dst = binary.AppendUvarint(dst, v)
	}
	last := -1
	put := func(index int, n uint64) {
		dst = binary.AppendUvarint(dst, uint64(index-last))
		dst = binary.AppendUvarint(dst, n)
		last = index
	}
	moreA, moreB := ca.next(), cb.next()
	for moreA || moreB {
		switch {
		case !moreB || moreA && ca.index < cb.index:
			put(ca.index, ca.count)
			moreA = ca.next()
		case !moreA || cb.index < ca.index:
			put(cb.index, cb.count)
			moreB = cb.next()
		default:
			put(ca.index, ca.count+cb.count)
			moreA, moreB = ca.next(), cb.next()
		}
	}
	if ca.bad || cb.bad {
		return dst, errCorrupt
	}
	return dst, nil
}

// Peek reads the count, the total and the longest duration of a binary form
// without its buckets.
func Peek(data []byte) (count uint64, sum, longest time.Duration, err error) {
	h, _, err := open(data)
	return h.count, time.Duration(h.sum), time.Duration(h.max), err
}

// Bound is the upper end of the quantile's bucket. The quantile of a sum of
// sketches is at most the greatest Bound of its parts.
func (s *Sketch) Bound(q float64) time.Duration {
	if s.Count() == 0 {
		return 0
	}
	low, width := bounds(index(uint64(s.Quantile(q))))
	return time.Duration(low + (width - 1))
}
