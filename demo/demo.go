// Package demo runs a real NATS cluster inside this process, with a workload
// that looks like production: orders published at random moments and worked on
// by three unequal pools. It injects the faults that a console must show: slow
// and stopped workers, dead servers, more load. It never writes the split's KV
// document and knows nothing of the console.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"ballast/lb"
	"ballast/traffic"
)

// The names under which the demo's things are found.
const (
	SplitName  = "orders"
	Subject    = "orders.process"
	StreamName = "ORDERS"
	AppAccount = "APP"
	SysAccount = "SYS"
)

// The stream keeps what these allow, so that the demo's files stay small: a
// pool may be stopped for ten minutes before its oldest orders are dropped.
const (
	streamAge   = 10 * time.Minute
	streamBytes = 128 << 20
)

// ErrUnknown is returned for a target or a server that the demo does not have,
// ErrRefused for what it cannot do now. Both come with a sentence for the
// operator.
var (
	ErrUnknown = errors.New("not in this demo")
	ErrRefused = errors.New("the demo refuses")
)

// Config of a demo.
type Config struct {
	Dir     string       // where the servers keep their files; required
	Servers int          // 1, 3 or 5; 0 is 3
	Rate    float64      // orders a second at the start; 0 is 300
	Seed    uint64       // of arrivals, orders and service times
	Log     *slog.Logger // nil discards
}

// Demo is a cluster and its workload.
type Demo struct {
	log     *slog.Logger
	normal  float64
	cluster *cluster
	pools   []*pool
	orders  *orders
	ready   chan struct{}
	started atomic.Bool
}

// New chooses ports and passwords and starts nothing.
func New(cfg Config) (*Demo, error) {
	cfg.Servers = cmp.Or(cfg.Servers, 3)
	cfg.Rate = cmp.Or(cfg.Rate, 300)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dir == "" {
		return nil, errors.New("the demo needs a directory for the servers' files")
	}
	if err := checkRate(cfg.Rate); err != nil {
		return nil, err
	}
	c, err := newCluster(cfg.Dir, cfg.Servers, cfg.Log)
	if err != nil {
		return nil, err
	}
	d := &Demo{
		log:     cfg.Log,
		normal:  cfg.Rate,
		cluster: c,
		orders:  newOrders(cfg.Seed, cfg.Rate, cfg.Log),
		ready:   make(chan struct{}),
	}
	for i, s := range staff {
		d.pools = append(d.pools, newPool(s, uint64(i), cfg.Seed, c, cfg.Log))
	}
	return d, nil
}

// URLs are the servers' client URLs; they answer once Run has started the
// servers.
func (d *Demo) URLs() []string { return d.cluster.clientURLs() }

// MonitorURLs are the servers' monitoring URLs, in the order of URLs.
func (d *Demo) MonitorURLs() []string { return d.cluster.monitorURLs() }

// AppUser may do anything in the account of the workload.
func (d *Demo) AppUser() (user, password string) { return appUser, d.cluster.appPassword }

// SysUser belongs to the system account.
func (d *Demo) SysUser() (user, password string) { return sysUser, d.cluster.sysPassword }

// Ready is closed once the stream and its consumers exist.
func (d *Demo) Ready() <-chan struct{} { return d.ready }

// Split is what the demo's first split document should hold.
func Split() traffic.Split {
	s := traffic.Split{
		Name:    SplitName,
		Subject: Subject,
		Pick:    traffic.Weighted,
		Driver:  traffic.DriverKV,
		Mode:    traffic.Suggest,
		Law:     traffic.LawCapacity,
	}
	for _, p := range staff {
		s.Targets = append(s.Targets, traffic.Target{
			Name:    p.target,
			Subject: subjectOf(p.target),
			Weight:  p.weight,
			State:   traffic.Ready,
			Labels:  map[string]string{"region": p.region},
			Observe: &traffic.Observed{Stream: StreamName, Consumer: p.target},
		})
	}
	return s
}

func subjectOf(target string) string { return Subject + "." + target }

// Run starts the servers, then the workload, and stops all of it, backwards,
// when ctx ends; then it returns nil. It can be called once. The stream and the
// consumers are made as soon as the cluster has a leader, which takes about
// five seconds; from then on the workers work, and orders are published as soon
// as there is a split document.
func (d *Demo) Run(ctx context.Context) error {
	if d.started.Swap(true) {
		return errors.New("a demo runs only once")
	}
	defer d.cluster.stop()
	if err := d.cluster.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}

	nc, err := d.cluster.connect("demo-setup", 0, d.log)
	if err != nil {
		return err
	}
	err = d.prepare(ctx, nc)
	nc.Close()
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	close(d.ready)
	d.log.InfoContext(ctx, "demo cluster is ready", "servers", len(d.cluster.members))

	// The workers outlive the publisher, so that what is in flight is worked on.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var pools sync.WaitGroup
	for _, p := range d.pools {
		pools.Go(func() { p.run(workCtx) })
	}
	err = d.publish(ctx)
	stopWork()
	pools.Wait()
	return err
}

// State is what the demo does now.
type State struct {
	Targets          []TargetState
	Servers          []ServerState
	Rate, NormalRate float64 // orders a second
	Published        uint64  // acknowledged by JetStream
	Failed           uint64  // given up: not acknowledged in time, or no room to wait
	Retried          uint64  // attempts that were repeated
	InFlight         int     // waiting for their acknowledgement
}

// TargetState is one pool of workers.
type TargetState struct {
	Name    string
	Running bool
	Factor  float64 // service time, as a multiple of normal
	Workers int
}

// ServerState is one server.
type ServerState struct {
	Name    string
	Running bool
}

// State never waits for a server.
func (d *Demo) State() State {
	s := d.orders.state()
	s.NormalRate = d.normal
	for _, p := range d.pools {
		s.Targets = append(s.Targets, p.state())
	}
	for _, m := range d.cluster.members {
		s.Servers = append(s.Servers, ServerState{m.name, m.running.Load()})
	}
	return s
}

// SetRate changes the arrivals from the next one on; 0 pauses them.
func (d *Demo) SetRate(perSecond float64) error {
	if err := checkRate(perSecond); err != nil {
		return err
	}
	d.orders.setRate(perSecond)
	return nil
}

// Slow makes a target's service times factor times as long as normal, from the
// next message on.
func (d *Demo) Slow(target string, factor float64) error {
	p, err := d.pool(target)
	if err != nil {
		return err
	}
	return p.slow(factor)
}

// StopTarget lets a target's workers finish what they hold and take no more.
// It does not wait for them. Stopping a stopped target is no error.
func (d *Demo) StopTarget(target string) error { return d.setRunning(target, false) }

// StartTarget undoes StopTarget.
func (d *Demo) StartTarget(target string) error { return d.setRunning(target, true) }

func (d *Demo) setRunning(target string, on bool) error {
	p, err := d.pool(target)
	if err != nil {
		return err
	}
	p.setRunning(on)
	return nil
}

// KillServer shuts a server down at once and returns when it is gone. Killing a
// dead one is no error. The cluster works on with a majority of its servers.
func (d *Demo) KillServer(name string) error { return d.cluster.kill(name) }

// RestartServer starts a killed server again on its old ports and files.
func (d *Demo) RestartServer(name string) error { return d.cluster.restart(name) }

func (d *Demo) pool(target string) (*pool, error) {
	i := slices.IndexFunc(d.pools, func(p *pool) bool { return p.target == target })
	if i < 0 {
		return nil, fmt.Errorf("target %q is %w", target, ErrUnknown)
	}
	return d.pools[i], nil
}

// prepare makes the stream and a durable consumer a target. Until the cluster
// has a leader and enough peers every attempt is refused, so it goes on until
// it works or ctx ends.
func (d *Demo) prepare(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	for {
		err := d.create(ctx, js)
		if err == nil {
			return nil
		}
		d.log.DebugContext(ctx, "cluster is not ready yet", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (d *Demo) create(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        StreamName,
		Description: "orders of the Ballast demo",
		Subjects:    []string{Subject + ".>"},
		Replicas:    min(3, len(d.cluster.members)),
		MaxAge:      streamAge,
		MaxBytes:    streamBytes,
		Duplicates:  2 * retryFor,
	})
	if err != nil {
		return fmt.Errorf("create stream %s: %w", StreamName, err)
	}
	for _, p := range d.pools {
		_, err := s.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:         p.target,
			Description:     "orders for " + p.target,
			FilterSubject:   subjectOf(p.target),
			AckPolicy:       jetstream.AckExplicitPolicy,
			AckWait:         30 * time.Second,
			MaxAckPending:   256,
			SampleFrequency: "100",
		})
		if err != nil {
			return fmt.Errorf("create consumer %s: %w", p.target, err)
		}
	}
	return nil
}

// publish runs the split's publisher and the arrivals until ctx ends.
func (d *Demo) publish(ctx context.Context) error {
	nc, err := d.cluster.connect("orders", 1, d.log)
	if err != nil {
		return err
	}
	defer nc.Close()
	pub, err := lb.NewPublisher(nc, SplitName, lb.WithLog(d.log), lb.WithAttempts(publishAttempts))
	if err != nil {
		return err
	}
	// What waits for its acknowledgement still needs the publisher after ctx.
	followCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return pub.Run(followCtx) })
	g.Go(func() error {
		defer stop()
		return d.orders.run(ctx, pub)
	})
	return g.Wait()
}
