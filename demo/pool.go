package demo

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/lb"
)

// staffing is what a target has to work with.
type staffing struct {
	target    string
	region    string
	weight    int // at the start
	instances int // processes, each with its own connection
	workers   int // in all
}

// staff could work on 1000 orders a second in all. At the normal rate of 300
// every pool is busy to 30 % or less, so that one may become three times as
// slow before it falls behind.
var staff = []staffing{
	{target: "worker-east-1", region: "east", weight: 60, instances: 2, workers: 12},
	{target: "worker-west-1", region: "west", weight: 30, instances: 1, workers: 6},
	{target: "worker-backup-1", region: "backup", weight: 10, instances: 1, workers: 2},
}

// Service times are log-normal: most orders are quick, a few take several times
// as long.
const (
	serviceMean = 20 * time.Millisecond
	serviceCV   = 0.6 // standard deviation ÷ mean
)

const minFactor, maxFactor = 0.1, 50

// pool is the workers of one target.
type pool struct {
	staffing
	home    int // index of the server that the first instance prefers
	cluster *cluster
	log     *slog.Logger
	factor  atomic.Uint64 // float64 bits

	mu     sync.Mutex    // guards the rest
	on     bool          // shall the workers work
	toggle chan struct{} // closed and replaced when on changes
	rnd    *rand.Rand
}

func newPool(s staffing, n, seed uint64, c *cluster, log *slog.Logger) *pool {
	p := &pool{
		staffing: s,
		home:     int(n),
		cluster:  c,
		log:      log.With("target", s.target),
		on:       true,
		toggle:   make(chan struct{}),
		rnd:      rand.New(rand.NewPCG(seed, n)),
	}
	p.factor.Store(math.Float64bits(1))
	return p
}

func (p *pool) state() TargetState {
	on, _ := p.wanted()
	return TargetState{Name: p.target, Running: on, Factor: math.Float64frombits(p.factor.Load()), Workers: p.workers}
}

func (p *pool) slow(factor float64) error {
	if !(factor >= minFactor && factor <= maxFactor) {
		return fmt.Errorf("%w: a factor of %v is not between %v and %v", ErrRefused, factor, minFactor, maxFactor)
	}
	p.factor.Store(math.Float64bits(factor))
	return nil
}

func (p *pool) setRunning(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on != on {
		p.on = on
		close(p.toggle)
		p.toggle = make(chan struct{})
	}
}

// wanted says whether the workers shall work, and returns a channel that is
// closed when that changes.
func (p *pool) wanted() (on bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.on, p.toggle
}

// run lets the workers work whenever they shall, until ctx ends.
func (p *pool) run(ctx context.Context) {
	for ctx.Err() == nil {
		on, changed := p.wanted()
		workCtx, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		if on {
			for i := range p.instances {
				wg.Go(func() {
					if err := p.work(workCtx, i); err != nil {
						p.log.ErrorContext(ctx, "workers stopped", "err", err)
					}
				})
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
		stop()
		wg.Wait() // they finish what they hold
	}
}

// work is one process of the pool: a connection of its own and its part of the
// workers. It returns when its workers have finished what they held.
func (p *pool) work(ctx context.Context, instance int) error {
	name := fmt.Sprintf("%s/%d", p.target, instance+1)
	nc, err := p.cluster.connect(name, p.home+instance, p.log)
	if err != nil {
		return err
	}
	defer nc.Close()
	w, err := lb.NewWorker(nc, lb.WorkerConfig{
		Split:       SplitName,
		Target:      p.target,
		Stream:      StreamName,
		Consumer:    p.target,
		Concurrency: p.workers / p.instances,
		Handler:     p.handle,
		Drain:       stopFor,
		Log:         p.log,
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// handle is the work on one order: it takes time and nothing else.
func (p *pool) handle(ctx context.Context, _ jetstream.Msg) error {
	done := time.NewTimer(p.serviceTime())
	defer done.Stop()
	select {
	case <-done.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serviceTime draws from the log-normal distribution with the given mean and CV.
func (p *pool) serviceTime() time.Duration {
	variance := math.Log1p(serviceCV * serviceCV)
	p.mu.Lock()
	x := p.rnd.NormFloat64()
	p.mu.Unlock()
	factor := math.Exp(math.Sqrt(variance)*x - variance/2)
	return time.Duration(float64(serviceMean) * factor * math.Float64frombits(p.factor.Load()))
}
