package sketch

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsTileTheAxis(t *testing.T) {
	t.Parallel()
	want := uint64(0)
	for i := range maxIndex + 1 {
		low, width := bounds(i)
		if low != want {
			t.Fatalf("bounds(%d) starts at %d, want %d", i, low, want)
		}
		if got := index(low); got != i {
			t.Fatalf("index(%d) = %d, want %d", low, got, i)
		}
		if got := index(low + width - 1); got != i {
			t.Fatalf("index(%d) = %d, want %d", low+width-1, got, i)
		}
		want = low + width
	}
	if want != 1<<63 {
		t.Errorf("the last bucket ends at %d, want 2^63", want)
	}
}

func TestQuantileIsWithinOnePercent(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	var s Sketch
	values := make([]time.Duration, 20_000)
	for i := range values {
		values[i] = time.Duration(20e6 * (1 + rnd.ExpFloat64()*rnd.ExpFloat64()))
		s.Add(values[i])
	}
	slices.Sort(values)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1} {
		rank := max(int(q*float64(len(values))+0.9999999), 1)
		exact := values[rank-1]
		got := s.Quantile(q)
		if diff := float64(got-exact) / float64(exact); diff > 0.0079 || diff < -0.0079 {
			t.Errorf("Quantile(%v) = %v, exact %v: %.2f %% off", q, got, exact, diff*100)
		}
	}
	if s.Max() != values[len(values)-1] || s.Min() != values[0] {
		t.Errorf("Min, Max = %v, %v, want %v, %v", s.Min(), s.Max(), values[0], values[len(values)-1])
	}
}

func TestMergeEqualsAddingAll(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	var a, b, all Sketch
	for range 1000 {
		d := time.Duration(rnd.Int64N(1 << rnd.IntN(45)))
		all.Add(d)
		if rnd.IntN(2) == 0 {
			a.Add(d)
		} else {
			b.Add(d)
		}
	}
	a.Merge(&b)
	a.Merge(nil)
	got, _ := a.MarshalBinary()
	want, _ := all.MarshalBinary()
	if !slices.Equal(got, want) {
		t.Errorf("merged sketch differs from the sketch of all values")
	}
}

func TestBinaryRoundTrip(t *testing.T) {
	t.Parallel()
	for _, values := range [][]time.Duration{nil, {0}, {1, 1 << 62, time.Second}, {-5, time.Hour}} {
		var s, back Sketch
		for _, v := range values {
			s.Add(v)
		}
		data, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := back.UnmarshalBinary(data); err != nil {
			t.Fatalf("UnmarshalBinary of %v: %v", values, err)
		}
		if back.Count() != s.Count() || back.Sum() != s.Sum() || back.Min() != s.Min() || back.Max() != s.Max() ||
			back.Quantile(0.5) != s.Quantile(0.5) {
			t.Errorf("round trip of %v: got %+v, want %+v", values, back, s)
		}
	}
}

// Merging the binary form adds the same as merging the sketch; what is corrupt
// adds nothing.
func TestMergeBinary(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(7, 8))
	var direct, binary Sketch
	for range 50 {
		var part Sketch
		for range rnd.IntN(200) {
			part.Add(time.Duration(rnd.Int64N(1 << rnd.IntN(62))))
		}
		data, err := part.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		direct.Merge(&part)
		if err := binary.MergeBinary(data); err != nil {
			t.Fatal(err)
		}
		before, _ := binary.MarshalBinary()
		for n := range data {
			if err := binary.MergeBinary(data[:n]); err == nil {
				t.Fatalf("%d of %d bytes were merged", n, len(data))
			}
		}
		after, _ := binary.MarshalBinary()
		want, _ := direct.MarshalBinary()
		if !slices.Equal(before, want) || !slices.Equal(after, want) {
			t.Fatal("merging the binary form differs from merging the sketch")
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	var s Sketch
	s.Add(time.Millisecond)
	seed, _ := s.MarshalBinary()
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Sketch
		if s.UnmarshalBinary(data) != nil {
			return
		}
		again, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var back Sketch
		if err := back.UnmarshalBinary(again); err != nil {
			t.Fatalf("what was read could not be written and read again: %v", err)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	var s Sketch
	d := 10 * time.Millisecond
	for b.Loop() {
		s.Add(d)
		d += 977
	}
}

func BenchmarkMerge(b *testing.B) {
	rnd := rand.New(rand.NewPCG(5, 6))
	var part, all Sketch
	for range 1000 {
		part.Add(time.Duration(20e6 * (1 + rnd.ExpFloat64())))
	}
	for b.Loop() {
		all.Merge(&part)
	}
}

// BenchmarkMergeBinary: a sketch of 1,000 latencies as it is stored. The
// baseline decodes it first.
func BenchmarkMergeBinary(b *testing.B) {
	rnd := rand.New(rand.NewPCG(5, 6))
	var part, all Sketch
	for range 1000 {
		part.Add(time.Duration(20e6 * (1 + rnd.ExpFloat64())))
	}
	data, err := part.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("direct", func(b *testing.B) {
		for b.Loop() {
			if err := all.MergeBinary(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("baseline decode then merge", func(b *testing.B) {
		for b.Loop() {
			var s Sketch
			if err := s.UnmarshalBinary(data); err != nil {
				b.Fatal(err)
			}
			all.Merge(&s)
		}
	})
}

// Merged in binary form, it is the same to the byte as merged as sketches.
func TestBinaryMerge(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(5, 6))
	random := func() *Sketch {
		s := &Sketch{}
		for range rnd.IntN(200) {
			s.Add(time.Duration(math.Exp(rnd.NormFloat64()*float64(1+rnd.IntN(4)) + 15)))
		}
		return s
	}
	for range 500 {
		a, b := random(), random()
		binA, _ := a.MarshalBinary()
		binB, _ := b.MarshalBinary()
		want := a.Clone()
		want.Merge(b)
		wantBin, _ := want.MarshalBinary()
		got, err := AppendMerged([]byte("x"), binA, binB)
		if err != nil || string(got) != "x"+string(wantBin) {
			t.Fatalf("AppendMerged: %v, %x, want %x", err, got, wantBin)
		}
		direct := a.Clone()
		if err := direct.MergeBinary(binB); err != nil {
			t.Fatal(err)
		}
		if bin, _ := direct.MarshalBinary(); string(bin) != string(wantBin) {
			t.Fatalf("MergeBinary: %x, want %x", bin, wantBin)
		}
		n, sum, longest, err := Peek(wantBin)
		if err != nil || n != want.Count() || sum != want.Sum() || longest != want.Max() {
			t.Fatalf("Peek: %d, %v, %v, %v", n, sum, longest, err)
		}
		for _, q := range []float64{0.5, 0.95, 0.99, 0.999} {
			if got, most := want.Quantile(q), max(a.Bound(q), b.Bound(q)); got > most {
				t.Fatalf("the %v quantile of the sum is %v, the parts bound it by %v", q, got, most)
			}
		}
		// Cut or bent it is an error or other counts, never a panic.
		for i := range wantBin {
			(&Sketch{}).MergeBinary(wantBin[:i])
			bent := append([]byte(nil), wantBin...)
			bent[i] ^= byte(1 + rnd.IntN(255))
			(&Sketch{}).MergeBinary(bent)
			AppendMerged(nil, bent, binA)
		}
	}
}

// Every quantile from the median to 99.9 % is within 1 % of the exact one.
func TestWithinOnePercent(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(7, 8))
	for _, sigma := range []float64{0.1, 0.5, 1, 2} {
		s := &Sketch{}
		exact := make([]time.Duration, 100_000)
		for i := range exact {
			exact[i] = time.Duration(math.Exp(rnd.NormFloat64()*sigma + 16))
			s.Add(exact[i])
		}
		slices.Sort(exact)
		for q := 500; q <= 999; q++ {
			want := exact[int(math.Ceil(float64(q)/1000*float64(len(exact))))-1]
			got := s.Quantile(float64(q) / 1000)
			if off := math.Abs(float64(got-want)) / float64(want); off > 0.01 {
				t.Errorf("sigma %v: the %.1f %% quantile is %v, exactly %v: off by %.2f %%", sigma, float64(q)/10, got, want, 100*off)
			}
		}
	}
}

func FuzzMerge(f *testing.F) {
	for _, d := range []time.Duration{1, 100, 1e6, 1e18} {
		s := &Sketch{}
		s.Add(d)
		s.Add(2 * d)
		b, _ := s.MarshalBinary()
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var x, y Sketch
		okA, okB := x.UnmarshalBinary(a) == nil, y.UnmarshalBinary(b) == nil
		merged, err := AppendMerged(nil, a, b)
		if okA && okB {
			x.Merge(&y)
			if err != nil {
				t.Fatalf("two good ones: %v", err)
			}
			var z Sketch
			if x.Count() >= y.Count() && x.Sum() >= y.Sum() { // no overflow
				if err := z.UnmarshalBinary(merged); err != nil && x.Count() < 1<<62 {
					t.Fatalf("what was merged cannot be read: %v", err)
				}
			}
		}
		x.MergeBinary(b)
	})
}

// BenchmarkAppendMerged: two sketches of 1,000 latencies, both as they are
// stored. The baseline decodes both and encodes the sum.
func BenchmarkAppendMerged(b *testing.B) {
	rnd := rand.New(rand.NewPCG(9, 10))
	var part Sketch
	for range 1000 {
		part.Add(time.Duration(math.Exp(rnd.NormFloat64()*0.5 + 16)))
	}
	data, err := part.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.Run("direct", func(b *testing.B) {
		for b.Loop() {
			if dst, err = AppendMerged(dst[:0], data, data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("baseline decode, merge, encode", func(b *testing.B) {
		for b.Loop() {
			var x Sketch
			if err := errors.Join(x.MergeBinary(data), x.MergeBinary(data)); err != nil {
				b.Fatal(err)
			}
			if dst, err = x.AppendBinary(dst[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
