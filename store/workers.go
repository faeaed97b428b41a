package store

import (
	"context"
	"math"
	"slices"
	"time"

	"ballast/fleet"
)

const (
	// recent is how far back single ACK windows and worker reports are kept in
	// memory, for the tuner.
	recent = 15 * time.Minute
	// maxReporters bounds what reports, which any client may send, can occupy.
	maxReporters = 10_000
)

type targetKey struct{ split, target string }

// report is what is kept of a fleet.WorkerReport.
type report struct {
	at         int64 // ms, when it came: the worker's clock may be wrong
	interval   int64
	workers    int
	inFlight   int
	processed  uint64
	failed     uint64
	processing time.Duration // sum
	handled    uint64        // count behind processing
	cpu        float64
	cores      int
	memory     int64
}

// stands reports whether the report still speaks for its worker at the time.
func (r report) stands(at int64) bool {
	return r.at <= at && at-r.at <= max(3*r.interval, 15_000)
}

type reporters map[string][]report // by worker, oldest first

// workers is what the workers of all targets said lately.
type workers struct {
	epoch   int64 // of the counters below: they begin with the process
	by      map[targetKey]reporters
	totals  map[targetKey]*[2]uint64 // processed, failed
	count   int
	dropped int
}

func newWorkers(now time.Time) workers {
	return workers{epoch: ms(now), by: map[targetKey]reporters{}, totals: map[targetKey]*[2]uint64{}}
}

// PutReports takes what workers say of themselves. It is recorded with the
// next snapshot.
func (db *DB) PutReports(ctx context.Context, reports []fleet.WorkerReport) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := ms(db.o.Now())
	dropped := 0
	db.mu.Lock()
	for _, r := range reports {
		k := targetKey{r.Split, r.Target}
		by := db.workers.by[k]
		if by[r.Worker] == nil && db.workers.count >= maxReporters {
			dropped++
			continue
		}
		if by == nil {
			by = reporters{}
			db.workers.by[k] = by
			db.workers.totals[k] = new([2]uint64)
		}
		if by[r.Worker] == nil {
			db.workers.count++
		}
		list := by[r.Worker]
		old := slices.IndexFunc(list, func(x report) bool { return now-x.at <= recent.Milliseconds() })
		if old < 0 {
			old = len(list)
		}
		if old > len(list)/2 {
			list = slices.Clone(list[old:])
		}
		by[r.Worker] = append(list, report{
			at: now, interval: r.Interval.Milliseconds(), workers: r.Workers, inFlight: r.InFlight,
			processed: r.Processed, failed: r.Failed, processing: r.Processing.Sum(), handled: r.Processing.Count(),
			cpu: sane(r.CPU), cores: r.Cores, memory: r.Memory,
		})
		t := db.workers.totals[k]
		t[0] += r.Processed
		t[1] += r.Failed
	}
	first := db.workers.dropped == 0 && dropped > 0
	db.workers.dropped += dropped
	db.mu.Unlock()
	if first {
		db.log.WarnContext(ctx, "more workers report than are kept", "limit", maxReporters)
	}
	return nil
}

// sane is the value, or 0 for what no process can use.
func sane(cpu float64) float64 {
	if cpu >= 0 && cpu < 1e6 {
		return cpu
	}
	return 0
}

// forgetWorkers drops those that have been silent for long.
func (db *DB) forgetWorkers(now int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for k, by := range db.workers.by {
		for name, list := range by {
			if now-list[len(list)-1].at > recent.Milliseconds() {
				delete(by, name)
				db.workers.count--
			}
		}
		if len(by) == 0 {
			delete(db.workers.by, k)
			delete(db.workers.totals, k)
		}
	}
}

// crew is the newest reports of a target's workers, merged.
type crew struct {
	report
	processes int
	known     int   // processes that say how many cores they have
	at        int64 // of the newest
}

func (c crew) mean() time.Duration {
	if c.handled == 0 {
		return 0
	}
	return c.processing / time.Duration(c.handled)
}

// crewAt merges what each worker last said before the time. The caller holds mu.
func (db *DB) crewAt(k targetKey, at int64) crew {
	var c crew
	for _, list := range db.workers.by[k] {
		for _, r := range slices.Backward(list) {
			if r.at > at {
				continue
			}
			if r.stands(at) {
				c.processes++
				c.at = max(c.at, r.at)
				c.workers += r.workers
				c.inFlight += r.inFlight
				c.processed += r.processed
				c.failed += r.failed
				c.processing += r.processing
				c.handled += r.handled
				c.cpu += r.cpu
				c.cores += r.cores
				if r.cores > 0 {
					c.known++
				}
				c.memory += r.memory
			}
			break
		}
	}
	return c
}

// workerRows adds a row for each target that has workers.
func (db *DB) workerRows(set *rowSet) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	now := ms(db.o.Now())
	for k := range db.workers.by {
		c := db.crewAt(k, now)
		if c.processes == 0 {
			continue
		}
		mean := int64(absent)
		if c.handled > 0 {
			mean = micros(c.mean())
		}
		t := db.workers.totals[k]
		set.add(fleet.KindWorker, key2(k.split, k.target), db.workers.epoch, time.Time{},
			count(t[0]), count(t[1]), int64(c.workers), int64(c.processes), int64(c.inFlight),
			int64(math.Round(c.cpu/float64(c.processes)*100)), c.memory, mean)
	}
}
