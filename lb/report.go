package lb

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/shirou/gopsutil/v4/process"
	"google.golang.org/protobuf/proto"

	"ballast/internal/reportpb"
	"ballast/internal/sketch"
)

// tally is what happened since the last report.
type tally struct {
	mu                       sync.Mutex // guards what follows
	processed, failed        uint64
	processing, receiptToAck sketch.Sketch
}

func (t *tally) add(o Outcome, failed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.processed++
	t.processing.Add(o.Processing)
	if failed {
		t.failed++
	} else if o.Err == nil {
		t.receiptToAck.Add(o.ReceiptToAck)
	}
}

// fill moves the tally into the report and begins a new one.
func (t *tally) fill(r *reportpb.Report) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if r.Processing, err = t.processing.MarshalBinary(); err != nil {
		return fmt.Errorf("encode processing times: %w", err)
	}
	if r.ReceiptToAck, err = t.receiptToAck.MarshalBinary(); err != nil {
		return fmt.Errorf("encode times to acknowledgement: %w", err)
	}
	r.Processed, r.Failed = t.processed, t.failed
	t.processed, t.failed = 0, 0
	t.processing.Reset()
	t.receiptToAck.Reset()
	return nil
}

// reporter tells what a worker did.
type reporter struct {
	nc            *nats.Conn
	split, target string
	id            string
	workers       int
	every         time.Duration // negative: never
	log           *slog.Logger

	inFlight          atomic.Int64
	processed, failed atomic.Uint64
	tally             tally
}

// ended counts the end of a handler's run.
func (w *reporter) ended(o Outcome, failed bool) {
	w.inFlight.Add(-1)
	w.processed.Add(1)
	if failed {
		w.failed.Add(1)
	}
	w.tally.add(o, failed)
}

func (w *reporter) stats() WorkerStats {
	return WorkerStats{Processed: w.processed.Load(), Failed: w.failed.Load(), InFlight: int(w.inFlight.Load())}
}

// report publishes a report at a steady pace until ctx ends, and then a last
// one, so that the work of the last interval is not lost.
func (w *reporter) report(ctx context.Context) {
	if w.every < 0 {
		return
	}
	var u usage
	u.since() // CPU time counts from here
	last := time.Now()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			running = false
		}
		now := time.Now()
		if err := w.sendReport(now, now.Sub(last), &u); err != nil {
			w.log.DebugContext(ctx, "worker report was not sent", "err", err)
		}
		last = now
	}
}

func (w *reporter) sendReport(now time.Time, interval time.Duration, u *usage) error {
	r := &reportpb.Report{
		V:     reportpb.Version,
		Split: w.split, Target: w.target, Worker: w.id,
		AtUnixMs:   now.UnixMilli(),
		IntervalMs: uint32(min(max(interval.Milliseconds(), 1), reportpb.MaxInterval.Milliseconds())),
		Workers:    uint32(w.workers),
		InFlight:   uint32(max(w.inFlight.Load(), 0)),
	}
	if err := w.tally.fill(r); err != nil {
		return err
	}
	spent, memory := u.since()
	r.MemoryBytes = memory
	r.Cores = uint32(runtime.GOMAXPROCS(0)) // the limit of a container is in it
	if interval > 0 {
		r.CpuPercent = 100 * spent.Seconds() / interval.Seconds()
	}
	data, err := proto.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode worker report: %w", err)
	}
	if err := w.nc.Publish(reportpb.Subject(w.split, w.target), data); err != nil {
		return fmt.Errorf("publish worker report: %w", err)
	}
	return nil
}

// usage reads what this process takes of the machine.
type usage struct {
	proc *process.Process
	cpu  time.Duration // at the last look
}

// since returns the CPU time spent since the last call and the resident memory;
// 0 is "not known" on systems that do not tell.
func (u *usage) since() (spent time.Duration, memory int64) {
	if u.proc == nil {
		proc, err := process.NewProcess(int32(os.Getpid()))
		if err != nil {
			return 0, 0
		}
		u.proc = proc
	}
	if t, err := u.proc.Times(); err == nil {
		cpu := time.Duration((t.User + t.System) * float64(time.Second))
		spent = max(cpu-u.cpu, 0)
		u.cpu = cpu
	}
	if m, err := u.proc.MemoryInfo(); err == nil && m.RSS <= math.MaxInt64 {
		memory = int64(m.RSS)
	}
	return spent, memory
}
