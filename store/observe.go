package store

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

// Observe measures the targets of a split over a range, in the split's order.
//
// A target is measured between two looks at its consumer: the last one at or
// before the range's beginning (or else the first one in it) and the last one
// at or before its end. From and To of the answer are those looks' times, so
// consecutive ranges share out all that happened, without a hole or an overlap;
// between two looks a short range is empty. With d for the change between them:
//
//	settled     = d(delivered − in flight): acknowledged or redelivered
//	Redelivered = samples of messages delivered more than once, divided by the
//	              configured share of samples, or, if more, the growth of the
//	              number in flight that were delivered more than once. A lower
//	              bound: a message redelivered twice counts once.
//	Acked       = settled − Redelivered
//	Arrived     = d(delivered + pending) − Redelivered
//	Share       = Samples / settled
//
// A range that is longer than two hours, or older than single looks are kept,
// is measured from the roll-ups: to the minute or more coarsely, with the
// backlog as the mean of its first and last step.
//
// A server that is asked to sample N % samples N+1 % (nats-server 2.15.2,
// shouldSample); Share is what was measured, so it shows that as well as lost
// samples. Without samples Mean is estimated by Little's law.
func (db *DB) Observe(ctx context.Context, s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
	out := make([]traffic.Observation, len(s.Targets))
	latest := db.Latest()
	for i, t := range s.Targets {
		o := &out[i]
		o.Target, o.Interval = t.Name, db.o.Interval
		if err := db.observeWorkers(ctx, o, targetKey{s.Name, t.Name}, ms(r.To)); err != nil {
			return nil, fmt.Errorf("observe the workers of %s of split %s: %w", t.Name, s.Name, err)
		}
		if t.Observe == nil {
			continue
		}
		key, c, ok := db.consumerOf(latest, *t.Observe)
		if !ok {
			continue
		}
		share := 1.0
		if c != nil {
			o.AckWait, o.MaxAckPending = c.AckWait, c.MaxAckPending
			share = sampledShare(c.SampleFreq)
		}
		if err := db.observeConsumer(ctx, o, key, share, ms(r.From), ms(r.To)); err != nil {
			return nil, fmt.Errorf("observe target %s of split %s: %w", t.Name, s.Name, err)
		}
	}
	return out, nil
}

// consumerOf finds the consumer at which a target is observed, and its newest
// row if there is one. Which account "" means is not guessed when several have
// such a consumer: any account can name its streams as it likes.
func (db *DB) consumerOf(s *fleet.Snapshot, o traffic.Observed) (fleet.ConsumerKey, *fleet.Consumer, bool) {
	key := fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer}
	var found *fleet.Consumer
	for i := range s.Consumers {
		c := &s.Consumers[i]
		if c.Consumer != o.Consumer || c.Stream != o.Stream || o.Account != "" && c.Account != o.Account {
			continue
		}
		if found != nil {
			return key, nil, false
		}
		found = c
	}
	if found != nil {
		return found.ConsumerKey, found, true
	}
	return key, nil, o.Account != ""
}

// sampledShare is the share of acknowledgements that a server samples when it
// is configured to freq, e.g. "50%"; 1 when it says nothing.
func sampledShare(freq string) float64 {
	n, err := strconv.Atoi(strings.TrimSuffix(freq, "%"))
	if err != nil || n <= 0 {
		return 1
	}
	return min(float64(n+1)/100, 1)
}

func (db *DB) observeWorkers(ctx context.Context, o *traffic.Observation, k targetKey, to int64) error {
	db.mu.RLock()
	c := db.crewAt(k, to)
	since := max(db.workers.epoch, ms(db.o.Now())-recent.Milliseconds())
	db.mu.RUnlock()
	if c.processes == 0 {
		if to >= since {
			return nil
		}
		return db.observePastWorkers(ctx, o, k, to)
	}
	o.Workers = c.workers
	o.Processed, o.Failed = c.processed, c.failed
	o.Processing = c.mean()
	o.CPU = c.cpu / float64(c.processes)
	// The mean of some says nothing of the others.
	if c.known == c.processes {
		o.Cores = (c.cores + c.processes/2) / c.processes
	}
	o.ReportedAt = fromMS(c.at)
	return nil
}

// observePastWorkers reads from the series what memory no longer has.
func (db *DB) observePastWorkers(ctx context.Context, o *traffic.Observation, k targetKey, to int64) error {
	ids, err := db.lives(ctx, fleet.WorkerEntity(k.split, k.target), 0, to)
	if err != nil || len(ids) == 0 {
		return err
	}
	all := columnsOf[fleet.KindWorker]
	const iWorkers, iCPU, iProcessing = 0, 1, 2
	cols := []column{all[2], all[5], all[7]}
	from := to - gapAfter(db.intervalMS())
	return db.chunks(ctx, ids[len(ids)-1], cols, from, to, func(c chunk) error {
		for i, at := range c.at {
			if at <= from || at > to || c.cols[iWorkers] == nil {
				continue
			}
			o.Workers, o.ReportedAt = int(c.cols[iWorkers][i]), fromMS(at)
			if v := c.cols[iCPU]; v != nil {
				o.CPU = float64(v[i]) / cols[iCPU].scale
			}
			if v := c.cols[iProcessing]; v != nil && v[i] != absent {
				o.Processing = time.Duration(v[i]) * time.Microsecond
			}
		}
		return nil
	})
}

// observed are the columns of a consumer that an observation is made of.
var observed = [...]column{
	iArrived:   columnsOf[fleet.KindConsumer][arrived],
	iDelivered: columnsOf[fleet.KindConsumer][delivered],
	iAcked:     columnsOf[fleet.KindConsumer][acked],
	iPending:   columnsOf[fleet.KindConsumer][pending],
	iFlying:    columnsOf[fleet.KindConsumer][inFlight],
	iAgain:     columnsOf[fleet.KindConsumer][redelivered],
}

const (
	iArrived = iota // the first three are counters
	iDelivered
	iAcked
	iPending
	iFlying
	iAgain
)

func (db *DB) observeConsumer(ctx context.Context, o *traffic.Observation, key fleet.ConsumerKey, share float64, from, to int64) error {
	if to-from > 2*hour || ms(db.o.Now())-from > db.o.Retention.Raw.Milliseconds() {
		return db.observeLong(ctx, o, key, share, from, to)
	}
	id, err := db.lifeAt(ctx, key, to)
	if err != nil || id == 0 {
		return err
	}
	var (
		begin, end  int64 // times of the first and the last look
		before, now [6]int64
		grown       [3]int64
		law         littles
		again       int64
	)
	err = db.chunks(ctx, id, observed[:], from, to, func(c chunk) error {
		for i, at := range c.at {
			if at > to {
				return nil
			}
			for j := range now {
				now[j] = absent
				if c.cols[j] != nil {
					now[j] = c.cols[j][i]
				}
			}
			switch {
			case at <= from || begin == 0:
				begin = at
				o.Backlog0 = uint64(max(now[iPending], 0) + max(now[iFlying], 0))
			default:
				for j := range grown {
					inc, ok := increase(before[j], now[j])
					if ok {
						grown[j] += inc
					}
					if ok && j == iAcked {
						law.settled += inc
						law.covered += at - end
					}
				}
				if more := now[iAgain] - before[iAgain]; more > 0 && before[iAgain] != absent {
					again += more
				}
				law.flying += max(now[iFlying], 0)
				law.looks++
			}
			before, end = now, at
		}
		return nil
	})
	if err != nil || begin == 0 {
		return err
	}
	o.From, o.To = fromMS(begin), fromMS(end)
	o.Backlog = uint64(max(before[iPending], 0) + max(before[iFlying], 0))
	o.InFlight = uint64(max(before[iFlying], 0))
	if begin == end {
		return nil
	}
	return db.finishObservation(ctx, o, key, share, begin, end, grown, again, law)
}

// finishObservation adds what the samples say and derives the counts.
func (db *DB) finishObservation(ctx context.Context, o *traffic.Observation, key fleet.ConsumerKey, share float64,
	begin, end int64, grown [3]int64, again int64, law littles) error {
	latency, sampledAgain, err := db.acksBetween(ctx, key, begin, end)
	if err != nil {
		return err
	}
	settled := grown[iAcked]
	o.Redelivered = uint64(max(again, int64(math.Round(float64(sampledAgain)/share))))
	o.Acked = uint64(max(settled-int64(o.Redelivered), 0))
	o.Arrived = uint64(max(grown[iArrived]-int64(o.Redelivered), 0))
	if latency.Count() > 0 {
		o.Latency, o.Samples, o.Mean = latency, latency.Count(), latency.Mean()
		if settled > 0 {
			o.Share = min(float64(o.Samples)/float64(settled), 1)
		}
		return nil
	}
	if mean := law.mean(); mean > 0 {
		o.Mean, o.Estimated = mean, true
	}
	return nil
}

// observeLong measures a long or old range from cells.
func (db *DB) observeLong(ctx context.Context, o *traffic.Observation, key fleet.ConsumerKey, share float64, from, to int64) error {
	lvl := db.levelFor(from, max((to-from)/120, minute))
	step := max(minute, db.intervalMS())
	if lvl >= 0 {
		step = levels[lvl].step
	}
	var cols [len(observed)][]cell
	for i, col := range observed {
		var err error
		if cols[i], _, err = db.cells(ctx, key.Entity(), col, lvl, from, to, step); err != nil {
			return err
		}
	}
	waiting, flying := cols[iPending], cols[iFlying]
	if len(waiting) == 0 || len(flying) == 0 {
		return nil
	}
	mean := func(c cell) float64 { return float64(c.sum) / float64(c.n) }
	begin, end := max(waiting[0].at, from), min(waiting[len(waiting)-1].at+step, to)
	o.From, o.To = fromMS(begin), fromMS(end)
	o.Backlog0 = uint64(math.Round(mean(waiting[0]) + mean(flying[0])))
	o.InFlight = uint64(math.Round(mean(flying[len(flying)-1])))
	o.Backlog = uint64(math.Round(mean(waiting[len(waiting)-1]))) + o.InFlight
	var grown [3]int64
	var law littles
	for i := range grown {
		for _, c := range cols[i] {
			grown[i] += c.sum
			if i == iAcked {
				law.settled += c.sum
				law.covered += c.covered
			}
		}
	}
	for _, c := range flying {
		law.flying += c.sum
		law.looks += c.n
	}
	return db.finishObservation(ctx, o, key, share, begin, end, grown, 0, law)
}

// lifeAt finds the consumer's newest life that has looks at or before to; 0
// when there is none.
func (db *DB) lifeAt(ctx context.Context, key fleet.ConsumerKey, to int64) (int64, error) {
	name := key.Entity()
	db.mu.RLock()
	e := db.newest[name]
	db.mu.RUnlock()
	if e != nil && e.first <= to {
		return e.id, nil
	}
	ids, err := db.lives(ctx, name, 0, to+1)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return ids[len(ids)-1], nil
}

// acksBetween merges the windows that ended after begin and not after end.
// What memory no longer has comes from the sketches of 10 s, 5 min or 1 h.
func (db *DB) acksBetween(ctx context.Context, key fleet.ConsumerKey, begin, end int64) (*sketch.Sketch, uint64, error) {
	all := &sketch.Sketch{}
	var again uint64
	var windows []ackWindow
	id := int64(0)
	db.mu.RLock()
	r := db.acks.by[key]
	inMemory := r != nil && r.since <= begin
	if inMemory {
		for _, w := range r.windows {
			if w.to > begin && w.to <= end {
				windows = append(windows, w)
			}
		}
	}
	db.mu.RUnlock()
	if inMemory {
		for _, w := range windows {
			if err := all.MergeBinary(w.data); err != nil {
				return nil, 0, err
			}
			again += w.redelivered
		}
		return all, again, nil
	}
	id, err := db.ackEntity(ctx, key)
	if err != nil || id == 0 {
		return all, 0, err
	}
	built, err := db.acksBuilt(ctx)
	if err != nil {
		return nil, 0, err
	}
	lvl := 0
	age := ms(db.o.Now()) - begin
	if age > db.o.Retention.Acks10.Milliseconds() || end-begin > 2*hour {
		lvl = 1
	}
	if age > db.o.Retention.Acks5.Milliseconds() || end-begin > 48*hour {
		lvl = 2
	}
	// A cell counts to the range in which its middle lies.
	half := ackLevels[lvl].step / 2
	err = db.ackCells(ctx, id, lvl, floor(begin+half, ackLevels[lvl].step), end, built, func(c ackCell) error {
		if c.at+half > begin && c.at+half <= end {
			again += c.redelivered
			return all.MergeBinary(c.data)
		}
		return nil
	})
	return all, again, err
}
