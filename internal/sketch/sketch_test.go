package sketch

import (
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
