package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ballast/internal/ports"
)

const (
	appUser = "app"
	sysUser = "sys"
)

// startLimit is how long a server may take to listen; a start on a busy
// two-core machine takes well under a second.
const startLimit = 20 * time.Second

// cluster owns the servers.
type cluster struct {
	members       []*member
	appPassword   string
	sysPassword   string
	routePassword string
	log           *slog.Logger

	ops sync.Mutex // one start or stop at a time; guards up and every member.server
	up  bool       // between start and stop
}

// member is one server, dead or alive. All but server and running is fixed, so
// that a restarted server is the same one to its peers.
type member struct {
	name                     string
	dir                      string
	port, monitor, routePort int
	running                  atomic.Bool
	server                   *server.Server
	fatal                    atomic.Pointer[string] // the first reason why it could not start
}

func newCluster(dir string, n int, log *slog.Logger) (*cluster, error) {
	if n != 1 && n != 3 && n != 5 {
		return nil, fmt.Errorf("a cluster of %d servers: use 1, 3 or 5, so that a majority is clear", n)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the directory of the demo: %w", err)
	}
	free, err := ports.Free(3 * n)
	if err != nil {
		return nil, err
	}
	c := &cluster{
		appPassword:   rand.Text(),
		sysPassword:   rand.Text(),
		routePassword: rand.Text(),
		log:           log,
	}
	for i := range n {
		name := fmt.Sprintf("nats-%d", i+1)
		c.members = append(c.members, &member{
			name: name,
			// A kept directory holds the peers of its cluster, so each size has its own.
			dir:       filepath.Join(dir, fmt.Sprintf("cluster-of-%d", n), name),
			port:      free[3*i],
			monitor:   free[3*i+1],
			routePort: free[3*i+2],
		})
	}
	return c, nil
}

func (c *cluster) clientURLs() []string {
	return c.urls("nats", func(m *member) int { return m.port })
}

func (c *cluster) monitorURLs() []string {
	return c.urls("http", func(m *member) int { return m.monitor })
}

func (c *cluster) urls(scheme string, port func(*member) int) []string {
	urls := make([]string, len(c.members))
	for i, m := range c.members {
		urls[i] = fmt.Sprintf("%s://127.0.0.1:%d", scheme, port(m))
	}
	return urls
}

// config is the server's own configuration format: its accounts' JetStream
// limits cannot be set from outside in any other way.
var config = template.Must(template.New("server").Parse(`
server_name: {{.Name}}
listen: "127.0.0.1:{{.Port}}"
http: "127.0.0.1:{{.Monitor}}"
jetstream {
	store_dir: {{.Dir}}
	max_memory_store: 64MB
	max_file_store: 2GB
}
accounts {
	APP { jetstream: enabled, users: [ {user: app, password: "{{.App}}"} ] }
	SYS { users: [ {user: sys, password: "{{.Sys}}"} ] }
}
system_account: SYS
{{- if .Routes}}
cluster {
	name: ballast-demo
	listen: "127.0.0.1:{{.RoutePort}}"
	authorization { user: route, password: "{{.Route}}" }
	routes: [ {{.Routes}} ]
}
{{- end}}
`))

func (c *cluster) options(m *member) (*server.Options, error) {
	var routes []string
	for _, o := range c.members {
		if o != m {
			u := url.URL{Scheme: "nats-route", User: url.UserPassword("route", c.routePassword), Host: fmt.Sprintf("127.0.0.1:%d", o.routePort)}
			routes = append(routes, fmt.Sprintf("%q", u.String()))
		}
	}
	var text strings.Builder
	err := config.Execute(&text, map[string]any{
		"Name": m.name, "Port": m.port, "Monitor": m.monitor, "RoutePort": m.routePort,
		"Dir": fmt.Sprintf("%q", m.dir), "App": c.appPassword, "Sys": c.sysPassword,
		"Route": c.routePassword, "Routes": strings.Join(routes, ", "),
	})
	if err != nil {
		return nil, fmt.Errorf("configure server %s: %w", m.name, err)
	}
	opts := &server.Options{NoSigs: true, DisableJetStreamBanner: true}
	if err := opts.ProcessConfigString(text.String()); err != nil {
		return nil, fmt.Errorf("configure server %s: %w", m.name, err)
	}
	return opts, nil
}

// start starts all servers at once: each waits for its peers only after it
// listens.
func (c *cluster) start(ctx context.Context) error {
	c.ops.Lock()
	defer c.ops.Unlock()
	c.up = true
	errs := make([]error, len(c.members))
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() { errs[i] = c.startOne(ctx, m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *cluster) startOne(ctx context.Context, m *member) error {
	opts, err := c.options(m)
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("build server %s: %w", m.name, err)
	}
	m.fatal.Store(nil)
	s.SetLoggerV2(&serverLog{log: c.log.With("server", m.name), m: m}, false, false, false)
	m.server = s
	s.Start()
	if err := m.awaitStart(ctx); err != nil {
		stopOne(m)
		return fmt.Errorf("start server %s: %w", m.name, err)
	}
	m.running.Store(true)
	return nil
}

// awaitStart returns once the server listens, or with the reason why it never
// will.
func (m *member) awaitStart(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, errors.New("it did not listen in time"))
	defer cancel()
	for {
		up := m.server.ReadyForConnections(100 * time.Millisecond)
		switch reason := m.fatal.Load(); {
		case reason != nil:
			return errors.New(*reason)
		case up:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

func stopOne(m *member) {
	m.running.Store(false)
	if m.server != nil {
		m.server.Shutdown()
		m.server.WaitForShutdown()
		m.server = nil
	}
}

// stop stops all servers for good.
func (c *cluster) stop() {
	c.ops.Lock()
	defer c.ops.Unlock()
	c.up = false
	var wg sync.WaitGroup
	for _, m := range c.members {
		wg.Go(func() { stopOne(m) })
	}
	wg.Wait()
}

func (c *cluster) kill(name string) error {
	return c.change(name, func(m *member) error {
		stopOne(m)
		return nil
	})
}

func (c *cluster) restart(name string) error {
	return c.change(name, func(m *member) error {
		if m.server != nil {
			return nil
		}
		return c.startOne(context.Background(), m)
	})
}

func (c *cluster) change(name string, do func(*member) error) error {
	for _, m := range c.members {
		if m.name != name {
			continue
		}
		c.ops.Lock()
		defer c.ops.Unlock()
		if !c.up {
			return fmt.Errorf("%w: its servers are not running", ErrRefused)
		}
		return do(m)
	}
	return fmt.Errorf("server %q is %w", name, ErrUnknown)
}

// serverLog puts what a server says into our log, at debug: to an operator the
// demo's servers are like any others, seen through the console.
type serverLog struct {
	log *slog.Logger
	m   *member
}

func (l *serverLog) say(level, format string, v []any) {
	l.log.Debug("nats-server says", "level", level, "text", fmt.Sprintf(format, v...))
}

func (l *serverLog) Noticef(format string, v ...any) { l.say("notice", format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.say("warning", format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.say("error", format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.say("debug", format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.say("trace", format, v) }

// Fatalf ends the program in the server's own logger; here the start is
// reported as an error instead.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.m.fatal.CompareAndSwap(nil, &text)
	l.say("fatal", format, v)
}
