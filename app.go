package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"ballast/collector"
	"ballast/control"
	"ballast/fleet"
	"ballast/lb"
	"ballast/store"
	"ballast/traffic"
	"ballast/tuner"
	"ballast/web/handlers"
)

// setup is what an app is made of: the common part of serve and demo.
type setup struct {
	listen   string
	hosts    []string
	data     string
	system   string
	operator string
	conn     *nats.Conn // account whose traffic is steered; nil: watch only
	sysConn  *nats.Conn // system account; nil: monitoring only
	monitor  []string
	tls      *tls.Config // for monitoring over https; nil: the system's roots
	interval time.Duration
	sparing  bool // ACK samples are listened to in turns when there are many
	bake     time.Duration
	readOnly bool
	// What the drivers of the servers' own mappings need, besides sysConn.
	operatorKey, mappingFile string
	demo                     handlers.Demo
	stopping                 time.Duration // how long open requests may take at the end
	log                      *slog.Logger
}

// app is the wired console. It is opened along the way the data flows and
// closed backwards.
type app struct {
	setup
	db        *store.DB
	collector *collector.Collector
	control   *control.Control
	watch     *control.Watch
	web       *handlers.Server
	ln        net.Listener
}

// newApp opens the data directory and the port, and connects every room with
// the next; nothing runs before Run. It takes over the connections, also when
// it returns an error.
func newApp(ctx context.Context, s setup) (_ *app, err error) {
	a := &app{setup: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	// The port comes first: a second console on the same address must not touch
	// the first one's data.
	if a.ln, err = net.Listen("tcp", s.listen); err != nil {
		return nil, fmt.Errorf("open the console's port: %w", err)
	}
	a.db, err = store.Open(ctx, s.data, store.Options{
		Log: s.log, Now: time.Now, Interval: s.interval,
	})
	if err != nil {
		return nil, fmt.Errorf("open the data directory %s: %w", s.data, err)
	}
	a.collector, err = collector.New(collector.Config{
		Monitor: s.monitor, Conn: s.conn, System: s.sysConn, TLS: s.tls,
		Interval: s.interval, AckEvery: time.Second, Sparing: s.sparing, Followed: a.followed,
		Log: s.log, Now: time.Now,
	}, a.db)
	if err != nil {
		return nil, err
	}
	a.control = control.New(control.Config{
		Drivers: a.drivers(),
		Conn:    s.conn, Ledger: a.db.Journal(), Observer: a.db, Advisor: tuner.New(tuner.Config{}),
		Now: time.Now, Log: s.log,
		Bake: s.bake, ReadOnly: s.readOnly,
	})
	a.watch = control.NewWatch(control.WatchConfig{
		Metrics: a.db, Store: a.db, Inspector: tuner.NewFindings(tuner.FindingsConfig{}), Splits: a.control,
		Interval: s.interval, Now: time.Now, Log: s.log,
	})
	a.web = handlers.New(handlers.Deps{
		Metrics: a.db, Columns: store.ExportColumns, Journal: a.db.Journal(), Control: a.control, Demo: s.demo,
		Findings: a.watch, Checks: tuner.Checks(),
		Log: s.log, Now: time.Now,
		System: s.system, Version: versionText(), Operator: s.operator,
		Interval: s.interval, Hosts: s.hosts,
	})
	return a, nil
}

// drivers are those for which the console has what they need.
func (a *app) drivers() map[traffic.Driver]control.Driver {
	if a.conn == nil || a.sysConn == nil {
		return nil
	}
	all := map[traffic.Driver]control.Driver{
		traffic.DriverMappingConfig: control.NewFileDriver(control.FileConfig{
			Conn: a.conn, System: a.sysConn, File: a.mappingFile, Now: time.Now,
			Splits: func() ([]traffic.Split, error) { return a.control.Driven(traffic.DriverMappingConfig) },
		}),
	}
	if a.operatorKey != "" {
		all[traffic.DriverMappingJWT] = control.NewClaimsDriver(control.ClaimsConfig{Conn: a.conn, System: a.sysConn, KeyFile: a.operatorKey, Now: time.Now})
	}
	return all
}

// followed are the consumers whose ACK samples decide something now: those at
// which a split's targets are observed, and those that are being measured.
func (a *app) followed() []fleet.ConsumerKey {
	var keys []fleet.ConsumerKey
	add := func(o *traffic.Observed) {
		if o != nil && o.Consumer != "" {
			keys = append(keys, fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer})
		}
	}
	for _, m := range a.control.Measurements() {
		if m.Phase != traffic.MeasureOver {
			add(&m.Consumer)
		}
	}
	for _, r := range a.control.Splits() {
		for i := range r.Split.Targets {
			add(r.Split.Targets[i].Observe)
		}
	}
	return keys
}

// addr is where the console answers.
func (a *app) addr() string { return a.ln.Addr().String() }

// Run works until ctx ends, then stops in order: no new requests, no new
// changes, no new samples, everything on disk.
func (a *app) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.db.Run(ctx) })
	g.Go(func() error { return a.collector.Run(ctx) })
	g.Go(func() error { return a.control.Run(ctx) })
	g.Go(func() error { return a.watch.Run(ctx) })
	g.Go(func() error { return a.web.Run(ctx) })
	g.Go(func() error { return a.serveHTTP(ctx) })
	err := g.Wait()
	return errors.Join(err, a.close())
}

func (a *app) serveHTTP(ctx context.Context) error {
	// Streams end with this context: Shutdown alone would wait for them.
	streams, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           a.web.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second, // lifted per stream and export
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return streams },
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(cancel)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(a.ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the console: %w", err)
	case <-ctx.Done():
	}
	stop, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), a.stopping)
	defer cancelStop()
	if err := srv.Shutdown(stop); err != nil {
		// Mostly connections that a browser opened in advance and never used.
		a.log.DebugContext(ctx, "open connections are cut off", "after", a.stopping)
		if err := srv.Close(); err != nil {
			return fmt.Errorf("close the console's connections: %w", err)
		}
	}
	<-done
	return nil
}

// close undoes what newApp opened, last first.
func (a *app) close() error {
	var errs []error
	for _, nc := range []*nats.Conn{a.conn, a.sysConn} {
		if nc != nil {
			nc.Close()
		}
	}
	if a.db != nil {
		errs = append(errs, a.db.Close())
	}
	if a.ln != nil {
		if err := a.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// serve runs the console for the operator's own NATS.
func serve(ctx context.Context, c serveCmd, log *slog.Logger, stdout io.Writer) error {
	s, err := c.setup(log)
	if err != nil {
		return err
	}
	a, err := newApp(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Ballast %s is at http://%s\n", versionText(), a.addr())
	return a.Run(ctx)
}

// setup turns flags into connections. An unreachable server is no error: the
// connection goes on trying, and the console says what is missing.
func (c *serveCmd) setup(log *slog.Logger) (setup, error) {
	s := setup{
		listen: c.Listen, hosts: c.Host, data: c.Data, system: c.Name, operator: c.Operator,
		monitor: c.Monitor, interval: c.Interval, sparing: !c.AllSamples, bake: c.Bake, readOnly: c.ReadOnly,
		operatorKey: c.OperatorKeyFile, mappingFile: c.MappingFile,
		stopping: 5 * time.Second, log: log,
	}
	var err error
	if s.tls, err = tlsConfig(c.TLSCA, c.TLSCert, c.TLSKey); err != nil {
		return s, err
	}
	options := func(creds, user, passwordFile string) ([]nats.Option, error) {
		var opts []nats.Option
		if s.tls != nil {
			opts = append(opts, nats.Secure(s.tls.Clone()))
		}
		if creds != "" {
			opts = append(opts, nats.UserCredentials(creds))
		}
		if user != "" {
			password, err := secret(passwordFile, log)
			if err != nil {
				return nil, err
			}
			opts = append(opts, nats.UserInfo(user, password))
		}
		return append(opts, nats.CustomInboxPrefix(c.InboxPrefix)), nil
	}

	urls := strings.Join(c.NATS, ",")
	var opts []nats.Option
	if c.Context != "" {
		nctx, err := natscontext.New(c.Context, true)
		if err != nil {
			return s, fmt.Errorf("read the nats context %q (see 'nats context ls'): %w", c.Context, err)
		}
		if opts, err = nctx.NATSOptions(); err != nil {
			return s, fmt.Errorf("use the nats context %q: %w", c.Context, err)
		}
		if urls = nctx.ServerURL(); urls == "" {
			urls = nats.DefaultURL
		}
		if s.system == "" {
			s.system = nctx.Name
		}
	}
	more, err := options(c.Creds, c.User, c.PasswordFile)
	if err != nil {
		return s, err
	}
	opts = append(opts, more...)
	if urls != "" {
		if s.conn, err = lb.Connect(urls, connectOptions(log, "account", opts)...); err != nil {
			return s, fmt.Errorf("prepare the connection to %s: %w", urls, err)
		}
	}
	if c.SysCreds != "" || c.SysUser != "" {
		sysOpts, err := options(c.SysCreds, c.SysUser, c.SysPasswordFile)
		if err != nil {
			return s, err
		}
		if s.sysConn, err = lb.Connect(urls, connectOptions(log, "system account", sysOpts)...); err != nil {
			return s, fmt.Errorf("prepare the system account's connection to %s: %w", urls, err)
		}
	}
	return s, nil
}

func connectOptions(log *slog.Logger, what string, opts []nats.Option) []lb.ConnectOption {
	return []lb.ConnectOption{
		lb.WithName("ballast console"),
		lb.WithLogger(log.With("component", "nats", "connection", what)),
		lb.WithNATSOptions(opts...),
	}
}

// tlsConfig returns nil when nothing is configured: the system's roots serve.
func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read --tls-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read --tls-ca: %s holds no certificate in PEM", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read --tls-cert and --tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
