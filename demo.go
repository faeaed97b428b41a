package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ballast/demo"
	"ballast/fleet"
	"ballast/lb"
	"ballast/traffic"
	"ballast/web/handlers"
)

// runDemo runs the cluster, the workload and the console in this process until
// ctx ends, and leaves nothing behind.
func runDemo(ctx context.Context, c demoCmd, log *slog.Logger, stdout io.Writer) error {
	a, d, err := newDemo(ctx, c, log)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Ballast demo: open http://%s\n", a.addr())
	user, password := d.AppUser()
	fmt.Fprintf(stdout, "NATS: %s (user %s, password %s)\n", strings.Join(d.URLs(), ","), user, password)
	fmt.Fprintf(stdout, "The cluster forms now; traffic flows in about ten seconds. Ctrl-C ends everything.\n")
	return a.Run(ctx)
}

// demoApp is the console together with what it looks at.
type demoApp struct {
	*app
	demo *demo.Demo
	tmp  string // removed at the end; "" when the directory is the user's
}

// newDemo wires the demo; nothing runs before Run.
func newDemo(ctx context.Context, c demoCmd, log *slog.Logger) (_ *demoApp, _ *demo.Demo, err error) {
	r := &demoApp{}
	dir := c.Data
	if dir == "" {
		if r.tmp, err = os.MkdirTemp("", "ballast-demo-"); err != nil {
			return nil, nil, fmt.Errorf("make the demo's directory: %w", err)
		}
		dir = r.tmp
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.remove())
		}
	}()
	r.demo, err = demo.New(demo.Config{
		Dir: filepath.Join(dir, "nats"), Servers: c.Servers, Rate: c.Rate, Seed: c.Seed,
		Log: log.With("component", "demo"),
	})
	if err != nil {
		return nil, nil, err
	}
	f := &faults{d: r.demo}
	s := setup{
		listen: c.Listen, hosts: c.Host, data: filepath.Join(dir, "console"), system: "demo", operator: c.Operator,
		monitor: r.demo.MonitorURLs(), interval: time.Second, bake: 20 * time.Second,
		demo: f, stopping: 2 * time.Second, log: log,
	}
	urls := strings.Join(r.demo.URLs(), ",")
	user, password := r.demo.AppUser()
	if s.conn, err = lb.Connect(urls, lb.WithName("ballast console"), lb.WithUser(user, password),
		lb.WithLogger(log.With("component", "nats"))); err != nil {
		return nil, nil, fmt.Errorf("prepare the connection: %w", err)
	}
	if r.app, err = newApp(ctx, s); err != nil {
		return nil, nil, err
	}
	f.record = func(text string) {
		// Not the request's context: what was done is recorded even if the asker
		// has gone.
		if _, err := r.db.Journal().Append(context.WithoutCancel(ctx), traffic.Entry{
			At: time.Now(), Kind: traffic.EntryDemo, Actor: c.Operator, Split: demo.SplitName, Text: text,
		}); err != nil {
			r.log.Error("record a fault of the demo", "err", err)
		}
	}
	return r, r.demo, nil
}

// Run ends the console first, then the cluster under it.
func (r *demoApp) Run(ctx context.Context) error {
	cluster, stopCluster := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCluster()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.demo.Run(cluster) })
	g.Go(func() error {
		defer stopCluster()
		return r.app.Run(ctx)
	})
	g.Go(func() error { return r.firstSplit(ctx) })
	return errors.Join(g.Wait(), r.remove())
}

func (r *demoApp) remove() error {
	if r.tmp == "" {
		return nil
	}
	if err := os.RemoveAll(r.tmp); err != nil {
		return fmt.Errorf("remove the demo's directory: %w", err)
	}
	return nil
}

// firstSplit writes the split's first revision the way any change is written,
// as soon as there is something to write it to. A directory from an earlier run
// may hold one already.
func (r *demoApp) firstSplit(ctx context.Context) error {
	select {
	case <-r.demo.Ready():
	case <-ctx.Done():
		return nil
	}
	retry := time.NewTicker(250 * time.Millisecond)
	defer retry.Stop()
	for {
		err := r.control.Ready()
		if err == nil {
			if _, err = r.control.Split(demo.SplitName); err == nil {
				return nil
			}
			if fleet.KindOf(err) == fleet.NotFound {
				_, err = r.control.Apply(ctx, traffic.Edit{
					Split: demo.SplitName, Next: demo.Split(), Actor: "demo", Reason: "The demo's first weights",
				})
			}
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		r.log.DebugContext(ctx, "the demo's split cannot be written yet", "err", err)
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// faults shows the demo to the console's drawer, and puts what is done to it on
// record: the journal explains why the tuner moved, so it must hold the cause.
type faults struct {
	d      *demo.Demo
	record func(text string)
}

func (f *faults) State() handlers.DemoState {
	s := f.d.State()
	v := handlers.DemoState{Rate: s.Rate, NormalRate: s.NormalRate, Published: s.Published, Failed: s.Failed}
	for _, t := range s.Targets {
		v.Targets = append(v.Targets, handlers.DemoTarget{Name: t.Name, Running: t.Running, Factor: t.Factor, Workers: t.Workers})
	}
	for _, srv := range s.Servers {
		v.Servers = append(v.Servers, handlers.DemoServer{Name: srv.Name, Running: srv.Running})
	}
	return v
}

func (f *faults) Slow(target string, factor float64) error {
	return f.done(f.d.Slow(target, factor), "Fault of the demo: the workers of %s take %g times as long as normal.", target, factor)
}

func (f *faults) StopTarget(target string) error {
	return f.done(f.d.StopTarget(target), "Fault of the demo: the workers of %s stop.", target)
}

func (f *faults) StartTarget(target string) error {
	return f.done(f.d.StartTarget(target), "The workers of %s start again.", target)
}

func (f *faults) KillServer(name string) error {
	return f.done(f.d.KillServer(name), "Fault of the demo: server %s is killed.", name)
}

func (f *faults) RestartServer(name string) error {
	return f.done(f.d.RestartServer(name), "Server %s is started again.", name)
}

func (f *faults) SetRate(perSecond float64) error {
	return f.done(f.d.SetRate(perSecond), "The demo's load is %g orders a second.", perSecond)
}

// done records what was done, or gives the demo's error the kind that pages
// answer by.
func (f *faults) done(err error, text string, args ...any) error {
	switch {
	case errors.Is(err, demo.ErrUnknown):
		return &fleet.Error{Kind: fleet.NotFound, Msg: "The demo has no such thing.", Err: err}
	case errors.Is(err, demo.ErrRefused):
		return &fleet.Error{Kind: fleet.Forbidden, Msg: err.Error()}
	case err != nil:
		return err
	}
	f.record(fmt.Sprintf(text, args...))
	return nil
}
