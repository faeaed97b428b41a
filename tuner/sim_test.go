package tuner

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"ballast/internal/sketch"
	"ballast/traffic"
)

// world is a small discrete-event model of a split: Poisson arrivals, a random
// pick by weight, one FIFO queue and some workers a target, log-normal service
// with a coefficient of variation of 1, looks every two seconds and worker
// reports every five.
type world struct {
	rnd     *rand.Rand
	rate    func(at float64) float64 // msg/s
	targets []*worker
	late    bool // what is seen is one look old, reports aside
	seen    []traffic.Observation
	apply   float64 // seconds from a proposal to the weights in force; 0: never
	rev     traffic.Revision
	tuner   *Tuner
}

type worker struct {
	name    string
	weight  int
	workers int
	service float64 // mean, seconds
	factor  func(at float64) float64
	silent  bool    // sends no reports
	lie     float64 // factor on the processing time it reports; 0 is honest
	stopped func(at float64) bool

	queue []float64 // arrival times
	busy  int

	arrived, acked      uint64 // counters
	at                  counts // at the last look
	latency             *sketch.Sketch
	processed, reported uint64 // since the last report; in the last one
	sum                 float64
	processing          time.Duration
	reportedAt          time.Time
}

type counts struct{ arrived, acked, backlog uint64 }

type done struct {
	at, arrived, took float64
	w                 *worker
}

type agenda []done

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(done)) }
func (a *agenda) Pop() any {
	old := *a
	last := old[len(old)-1]
	*a = old[:len(old)-1]
	return last
}

// run is what came of it.
type run struct {
	decisions []traffic.Decision
	weights   [][]int // by second
	finished  []finished
	applied   []applied
}

type finished struct{ at, latency float64 }

type applied struct {
	at float64
	p  *traffic.Proposal
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func moment(at float64) time.Time {
	return epoch.Add(time.Duration(at * float64(time.Second)).Round(time.Microsecond))
}

func constant(v float64) func(float64) float64 { return func(float64) float64 { return v } }

// phases returns v[i] from from[i] on.
func phases(pairs ...float64) func(float64) float64 {
	return func(at float64) float64 {
		v := pairs[1]
		for i := 0; i < len(pairs); i += 2 {
			if at >= pairs[i] {
				v = pairs[i+1]
			}
		}
		return v
	}
}

func newWorld(seed uint64, law traffic.Law, rate func(float64) float64, targets ...*worker) *world {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 7)), rate: rate, targets: targets, tuner: New(Config{})}
	s := traffic.Split{Name: "orders", Subject: "orders.process", Pick: traffic.Weighted, Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: law}
	for _, t := range targets {
		s.Targets = append(s.Targets, traffic.Target{Name: t.name, Subject: "orders.process." + t.name, Weight: t.weight, State: traffic.Ready})
		if t.factor == nil {
			t.factor = constant(1)
		}
		t.latency = &sketch.Sketch{}
	}
	w.rev = traffic.Revision{V: 1, Number: 1, At: epoch, Split: s}
	return w
}

func (w *world) simulate(seconds float64) *run {
	r := &run{}
	var todo agenda
	const look, report, never = 2.0, 5.0, 1e18
	nextArrival, nextLook, nextReport, nextSecond := w.rnd.ExpFloat64()/w.rate(0), look, report-0.7, 0.0
	var pending *traffic.Proposal
	due := never
	start := func(t *worker, at float64) {
		for t.busy < t.workers && len(t.queue) > 0 && (t.stopped == nil || !t.stopped(at)) {
			took := t.service * t.factor(at) * math.Exp(w.rnd.NormFloat64()*sigma-sigma*sigma/2)
			heap.Push(&todo, done{at + took, t.queue[0], took, t})
			t.queue = t.queue[1:]
			t.busy++
		}
	}
	for {
		nextDone := never
		if len(todo) > 0 {
			nextDone = todo[0].at
		}
		at := min(nextArrival, nextLook, nextReport, nextSecond, nextDone, due)
		if at > seconds {
			return r
		}
		switch at {
		case nextDone:
			d := heap.Pop(&todo).(done)
			d.w.busy--
			d.w.acked++
			d.w.processed++
			d.w.sum += d.took
			d.w.latency.Add(time.Duration((d.took + 0.001) * float64(time.Second)))
			r.finished = append(r.finished, finished{at, at - d.arrived})
			start(d.w, at)
		case nextArrival:
			pick := w.rnd.IntN(100)
			for i, t := range w.targets {
				if pick -= w.rev.Split.Targets[i].Weight; pick < 0 {
					t.arrived++
					t.queue = append(t.queue, at)
					start(t, at)
					break
				}
			}
			nextArrival = at + w.rnd.ExpFloat64()/w.rate(at)
		case nextReport:
			for _, t := range w.targets {
				start(t, at)
				if t.silent || t.processed == 0 {
					continue
				}
				factor := t.lie
				if factor == 0 {
					factor = 1
				}
				t.processing = time.Duration(factor * t.sum / float64(t.processed) * float64(time.Second))
				t.reported, t.processed, t.sum, t.reportedAt = t.processed, 0, 0, moment(at)
			}
			nextReport += report
		case nextSecond:
			var weights []int
			for _, t := range w.rev.Split.Targets {
				weights = append(weights, t.Weight)
			}
			r.weights = append(r.weights, weights)
			nextSecond++
		case due:
			next := map[string]int{}
			for _, m := range pending.Moves {
				next[m.Target] = m.To
			}
			w.rev.Split = w.rev.Split.WithWeights(next)
			w.rev.Base, w.rev.Number, w.rev.At = w.rev.Number, w.rev.Number+1, moment(at)
			r.applied = append(r.applied, applied{at, pending})
			pending, due = nil, never
		case nextLook:
			d := w.tuner.Decide(moment(at), w.rev, w.look(at, look))
			r.decisions = append(r.decisions, d)
			if d.Proposal != nil && w.apply > 0 {
				if pending == nil {
					due = at + w.apply
				}
				pending = d.Proposal
			}
			nextLook += look
		}
	}
}

func (w *world) look(at, length float64) []traffic.Observation {
	var obs []traffic.Observation
	for _, t := range w.targets {
		now := counts{t.arrived, t.acked, uint64(len(t.queue) + t.busy)}
		o := traffic.Observation{
			Target: t.name, From: moment(at - length), To: moment(at), Interval: 2 * time.Second,
			Arrived: now.arrived - t.at.arrived, Acked: now.acked - t.at.acked,
			Backlog0: t.at.backlog, Backlog: now.backlog, InFlight: uint64(t.busy),
			Latency: t.latency.Clone(), Samples: t.latency.Count(), Share: 1, Mean: t.latency.Mean(),
			AckWait: 30 * time.Second, MaxAckPending: 1000,
		}
		if !t.reportedAt.IsZero() {
			o.Workers, o.Processed, o.Processing, o.ReportedAt = t.workers, t.reported, t.processing, t.reportedAt
		}
		obs = append(obs, o)
		t.at = now
		t.latency.Reset()
	}
	if w.late {
		// As the store answers it: windows end at an older look, while what the
		// workers said last is as new as it can be.
		obs, w.seen = w.seen, obs
		for i := range obs {
			n := w.seen[i]
			obs[i].Workers, obs[i].Processed, obs[i].Processing, obs[i].ReportedAt = n.Workers, n.Processed, n.Processing, n.ReportedAt
		}
	}
	return obs
}

// p99 of the messages that finished in [from, to), in seconds.
func (r *run) p99(from, to float64) float64 {
	var l []float64
	for _, f := range r.finished {
		if f.at >= from && f.at < to {
			l = append(l, f.latency)
		}
	}
	if len(l) == 0 {
		return math.Inf(1)
	}
	slices.Sort(l)
	return l[len(l)*99/100]
}

// late is the share of messages in [from, to) that took over a second.
func (r *run) late(from, to float64) float64 {
	n, late := 0, 0
	for _, f := range r.finished {
		if f.at >= from && f.at < to {
			n++
			if f.latency > 1 {
				late++
			}
		}
	}
	return float64(late) / float64(max(n, 1))
}

// mean of the messages that finished in [from, to), in seconds.
func (r *run) mean(from, to float64) float64 {
	n, sum := 0, 0.0
	for _, f := range r.finished {
		if f.at >= from && f.at < to {
			n++
			sum += f.latency
		}
	}
	return sum / float64(max(n, 1))
}

// proposals are those made in [from, to), with the time of the first.
func (r *run) proposals(from, to float64) (list []*traffic.Proposal, first float64) {
	for _, d := range r.decisions {
		if at := d.At.Sub(epoch).Seconds(); d.Proposal != nil && at >= from && at < to {
			if list == nil {
				first = at
			}
			list = append(list, d.Proposal)
		}
	}
	return list, first
}

// changes counts what was applied in [from, to).
func (r *run) changes(from, to float64) int {
	n := 0
	for _, a := range r.applied {
		if a.at >= from && a.at < to {
			n++
		}
	}
	return n
}

func (r *run) weightsAt(at float64) []int { return r.weights[int(at)] }

func demoTargets() []*worker {
	return []*worker{
		{name: "worker-east-1", weight: 60, workers: 12, service: 0.02},
		{name: "worker-west-1", weight: 30, workers: 6, service: 0.02},
		{name: "worker-backup-1", weight: 10, workers: 2, service: 0.02},
	}
}
