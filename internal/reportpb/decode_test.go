package reportpb

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"ballast/internal/sketch"
)

const subject = "ballast.report.orders.worker-east-1"

func sketchOf(tb testing.TB, values ...time.Duration) []byte {
	tb.Helper()
	var s sketch.Sketch
	for _, v := range values {
		s.Add(v)
	}
	data, err := s.MarshalBinary()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func report(tb testing.TB) *Report {
	return &Report{
		V: 1, Split: "orders", Target: "worker-east-1", Worker: "w-1", AtUnixMs: 1_795_500_000_000, IntervalMs: 5000,
		Workers: 8, InFlight: 3, Processed: 3, Failed: 1, CpuPercent: 12.5, Cores: 6, MemoryBytes: 40 << 20,
		Processing:   sketchOf(tb, 10*time.Millisecond, 20*time.Millisecond, 30*time.Millisecond),
		ReceiptToAck: sketchOf(tb, 11*time.Millisecond, 21*time.Millisecond),
	}
}

func encode(tb testing.TB, r *Report) []byte {
	tb.Helper()
	data, err := proto.Marshal(r)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestDecode(t *testing.T) {
	t.Parallel()
	data := encode(t, report(t))
	r, err := Decode(subject, data)
	if err != nil {
		t.Fatal(err)
	}
	if r.Split != "orders" || r.Target != "worker-east-1" || r.Worker != "w-1" || r.Workers != 8 || r.InFlight != 3 ||
		r.Processed != 3 || r.Failed != 1 || r.CPU != 12.5 || r.Cores != 6 || r.Memory != 40<<20 || r.Interval != 5*time.Second {
		t.Errorf("Decode = %+v", r)
	}
	if !r.At.Equal(time.UnixMilli(1_795_500_000_000)) {
		t.Errorf("At = %v", r.At)
	}
	if r.Processing.Count() != 3 || r.Processing.Max() != 30*time.Millisecond || r.ReceiptToAck.Count() != 2 {
		t.Errorf("sketches have %d and %d counts, want 3 and 2", r.Processing.Count(), r.ReceiptToAck.Count())
	}
	// A newer writer's fields are passed over.
	if _, err := Decode(subject, append(data, 0xfa, 0x06, 0x01, 'x')); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestDecodeWithoutSketches(t *testing.T) {
	t.Parallel()
	p := report(t)
	p.Processing, p.ReceiptToAck = nil, nil
	r, err := Decode(subject, encode(t, p))
	if err != nil || r.Processing.Count() != 0 {
		t.Errorf("Decode = %+v, %v", r, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(*Report)
		want  string
	}{
		{"another version", func(r *Report) { r.V = 2 }, "version 2"},
		{"another split", func(r *Report) { r.Split = "payments" }, "speaks for"},
		{"another target", func(r *Report) { r.Target = "worker-west-1" }, "speaks for"},
		{"no worker", func(r *Report) { r.Worker = "" }, "id"},
		{"a worker with a line break", func(r *Report) { r.Worker = "a\nb" }, "id"},
		{"a long worker", func(r *Report) { r.Worker = strings.Repeat("w", MaxWorker+1) }, "id"},
		{"no time", func(r *Report) { r.AtUnixMs = 0 }, "time"},
		{"a far time", func(r *Report) { r.AtUnixMs = math.MaxInt64 }, "time"},
		{"no interval", func(r *Report) { r.IntervalMs = 0 }, "interval"},
		{"a long interval", func(r *Report) { r.IntervalMs = math.MaxUint32 }, "interval"},
		{"no workers", func(r *Report) { r.Workers = 0 }, "workers"},
		{"too many in flight", func(r *Report) { r.InFlight = math.MaxUint32 }, "in flight"},
		{"more failed than processed", func(r *Report) { r.Failed = 4 }, "failed"},
		{"CPU that is no number", func(r *Report) { r.CpuPercent = math.NaN() }, "CPU"},
		{"endless CPU", func(r *Report) { r.CpuPercent = math.Inf(1) }, "CPU"},
		{"a million cores", func(r *Report) { r.Cores = 1e6 }, "cores"},
		{"negative memory", func(r *Report) { r.MemoryBytes = -1 }, "memory"},
		{"a broken sketch", func(r *Report) { r.Processing = []byte{9, 9} }, "processing times"},
		{"a large sketch", func(r *Report) { r.ReceiptToAck = make([]byte, MaxSketch+1) }, "limit"},
		{"a sketch of more than was processed", func(r *Report) { r.Processed, r.Failed = 2, 0 }, "counted"},
	}
	for _, tt := range tests {
		p := report(t)
		tt.spoil(p)
		if _, err := Decode(subject, encode(t, p)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Decode of %s = %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	for _, s := range []string{"", "ballast.report.orders", "ballast.report.orders.worker-east-1.x", "other.report.orders.worker-east-1", "ballast.report.*.>"} {
		if _, err := Decode(s, encode(t, report(t))); err == nil {
			t.Errorf("Decode on subject %q passed", s)
		}
	}
	if _, err := Decode(subject, make([]byte, MaxReport+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("Decode of %d bytes = %v", MaxReport+1, err)
	}
	if _, err := Decode(subject, []byte{0xff}); err == nil {
		t.Error("Decode of rubbish passed")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(subject, encode(f, report(f)))
	f.Add("ballast.report.a.b", []byte{})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		r, err := Decode(subject, data)
		if err != nil {
			return
		}
		if Subject(r.Split, r.Target) != subject || r.Workers < 1 || r.Failed > r.Processed ||
			r.Processing == nil || r.ReceiptToAck == nil || r.Interval <= 0 || math.IsNaN(r.CPU) {
			t.Fatalf("Decode(%q) passed %+v", subject, r)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data := encode(b, report(b))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(subject, data); err != nil {
			b.Fatal(err)
		}
	}
}
