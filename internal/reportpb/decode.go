// Package reportpb is the worker report's form on the wire and the one place
// that reads it. What arrives is hostile until Decode has passed it. It
// publishes and subscribes to nothing.
package reportpb

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

//go:generate go run -C generate . .. report.proto

// Version of the contract.
const Version = 1

// Limits of a report; one beyond them is refused.
const (
	MaxReport   = 40 << 10 // bytes
	MaxSketch   = 16 << 10 // bytes, each; a worker with very many latencies needs about 4 KB
	MaxWorker   = 64       // bytes of the worker's id
	MaxInterval = time.Hour
	maxWorkers  = 1 << 20
	maxCores    = 1 << 16
)

const prefix = "ballast.report."

// Wildcard is the subject that all reports arrive on.
const Wildcard = prefix + "*.*"

// Subject is where the workers of a target report.
func Subject(split, target string) string { return prefix + split + "." + target }

// Decode reads a report and checks every field of it. The names of the message
// must be those of the subject, because a server permits subjects, not
// contents: a worker may speak for its own target only.
func Decode(subject string, data []byte) (fleet.WorkerReport, error) {
	r, err := decode(subject, data)
	if err != nil {
		return fleet.WorkerReport{}, fmt.Errorf("read worker report: %w", err)
	}
	return r, nil
}

func decode(subject string, data []byte) (fleet.WorkerReport, error) {
	var none fleet.WorkerReport
	if len(data) > MaxReport {
		return none, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxReport)
	}
	var p Report
	if err := proto.Unmarshal(data, &p); err != nil {
		return none, err
	}
	rest, ok := strings.CutPrefix(subject, prefix)
	split, target, two := strings.Cut(rest, ".")
	interval := time.Duration(p.IntervalMs) * time.Millisecond
	at := time.UnixMilli(p.AtUnixMs).UTC()
	switch {
	case p.V != Version:
		return none, fmt.Errorf("version %d, this program reads version %d", p.V, Version)
	case !ok || !two || !traffic.ValidName(split) || !traffic.ValidName(target):
		return none, fmt.Errorf("subject %q is not one of a report", subject)
	case p.Split != split || p.Target != target:
		return none, fmt.Errorf("it speaks for target %q of split %q on subject %q", p.Target, p.Split, subject)
	case !ValidWorker(p.Worker):
		return none, fmt.Errorf("the worker's id %q is not 1 to %d printable ASCII characters", p.Worker, MaxWorker)
	case at.Year() < 2000 || at.Year() > 2200:
		return none, fmt.Errorf("its time %v is out of range", at)
	case interval <= 0 || interval > MaxInterval:
		return none, fmt.Errorf("its interval %v is not between 1 ms and %v", interval, MaxInterval)
	case p.Workers == 0 || p.Workers > maxWorkers || p.InFlight > maxWorkers:
		return none, fmt.Errorf("%d workers with %d messages in flight is out of range", p.Workers, p.InFlight)
	case p.Failed > p.Processed:
		return none, fmt.Errorf("%d of %d messages failed", p.Failed, p.Processed)
	case math.IsNaN(p.CpuPercent) || p.CpuPercent < 0 || p.CpuPercent > 1e6:
		return none, fmt.Errorf("CPU use of %v %% is out of range", p.CpuPercent)
	case p.Cores > maxCores:
		return none, fmt.Errorf("%d cores is out of range", p.Cores)
	case p.MemoryBytes < 0:
		return none, fmt.Errorf("memory use of %d bytes is out of range", p.MemoryBytes)
	}
	r := fleet.WorkerReport{
		Split: p.Split, Target: p.Target, Worker: p.Worker,
		At: at, Interval: interval,
		Workers: int(p.Workers), InFlight: int(p.InFlight),
		Processed: p.Processed, Failed: p.Failed,
		CPU: p.CpuPercent, Cores: int(p.Cores), Memory: p.MemoryBytes,
	}
	var err error
	if r.Processing, err = readSketch(p.Processing, p.Processed); err != nil {
		return none, fmt.Errorf("processing times: %w", err)
	}
	if r.ReceiptToAck, err = readSketch(p.ReceiptToAck, p.Processed); err != nil {
		return none, fmt.Errorf("times from receipt to acknowledgement: %w", err)
	}
	return r, nil
}

// readSketch returns an empty sketch for no bytes: a worker in another language
// need not send one.
func readSketch(data []byte, atMost uint64) (*sketch.Sketch, error) {
	s := &sketch.Sketch{}
	if len(data) == 0 {
		return s, nil
	}
	if len(data) > MaxSketch {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxSketch)
	}
	if err := s.UnmarshalBinary(data); err != nil {
		return nil, err
	}
	if s.Count() > atMost {
		return nil, fmt.Errorf("%d counted, %d processed", s.Count(), atMost)
	}
	return s, nil
}

// ValidWorker reports whether s can be a worker's id.
func ValidWorker(s string) bool {
	if s == "" || len(s) > MaxWorker {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
