// Package natstest runs real nats-servers inside a test: one with JetStream, or
// a cluster whose servers can be stopped and restarted. Everything listens on
// loopback, on ports that the kernel chose, and is gone when the test ends. It
// imitates nothing and serves no program.
package natstest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/ports"
	"ballast/internal/wait"
)

// The users of a Cluster and of a Server with Accounts.
const (
	AppUser, AppPassword = "app", "app-password" // account APP, with JetStream
	SysUser, SysPassword = "sys", "sys-password" // account SYS, the system account
)

const accounts = `
accounts {
  SYS { users: [ { user: "` + SysUser + `", password: "` + SysPassword + `" } ] }
  APP { jetstream: enabled, users: [ { user: "` + AppUser + `", password: "` + AppPassword + `" } ] }
}
system_account: SYS
`

// startTimeout is generous: the race detector on a busy machine makes a start
// take seconds.
const startTimeout = 30 * time.Second

// Option changes how a server is configured, before it starts.
type Option func(*config)

type config struct {
	text     string // in the server's own configuration language
	tweak    []func(*server.Options)
	interval time.Duration // of the resolver
}

// Accounts gives the server the accounts and users of a Cluster. Without it
// everybody is in the global account and needs no password.
func Accounts() Option { return Config(accounts) }

// Config adds text in nats-server's configuration language.
func Config(text string) Option { return func(c *config) { c.text += text } }

// Tweak changes the options after the configuration was read.
func Tweak(f func(*server.Options)) Option {
	return func(c *config) { c.tweak = append(c.tweak, f) }
}

// Server starts a single server with JetStream and a monitoring port, and
// stops it when the test ends.
func Server(tb testing.TB, opts ...Option) *server.Server {
	tb.Helper()
	dir := tb.TempDir() // asked for before the cleanup below, so removed after it
	srv := start(tb, options(tb, dir, opts))
	tb.Cleanup(func() { shutDown(srv) })
	return srv
}

// ForExample starts the server of Server for a testable example, which has no
// testing.TB. stop ends it and removes its files.
func ForExample() (srv *server.Server, stop func()) {
	dir, err := os.MkdirTemp("", "natstest-")
	if err != nil {
		panic(err)
	}
	o := &server.Options{}
	if err := o.ProcessConfigString(base(dir)); err != nil {
		panic(err)
	}
	o.NoLog, o.NoSigs = true, true
	if srv, err = server.NewServer(o); err != nil {
		panic(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		panic("the nats-server of the example did not start")
	}
	return srv, func() {
		shutDown(srv)
		os.RemoveAll(dir)
	}
}

// Connect connects to a server and closes the connection when the test ends.
func Connect(tb testing.TB, url string, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Name(tb.Name())}, opts...)...)
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// MonitorURL is the base of the server's monitoring endpoints.
func MonitorURL(srv *server.Server) string { return "http://" + srv.MonitorAddr().String() }

func base(dir string) string {
	return fmt.Sprintf(`
host: 127.0.0.1
port: -1
http: "127.0.0.1:-1"
jetstream { store_dir: %q, max_memory_store: 256MB, max_file_store: 1GB }
`, dir)
}

func options(tb testing.TB, dir string, opts []Option) *server.Options {
	tb.Helper()
	c := config{text: base(dir)}
	for _, o := range opts {
		o(&c)
	}
	o := &server.Options{}
	if err := o.ProcessConfigString(c.text); err != nil {
		tb.Fatalf("read server configuration: %v\n%s", err, c.text)
	}
	o.NoLog, o.NoSigs = true, true
	for _, f := range c.tweak {
		f(o)
	}
	return o
}

// fromFile reads the configuration of a server from a file in its folder.
func fromFile(tb testing.TB, dir, text string) *server.Options {
	tb.Helper()
	file := filepath.Join(dir, "nats.conf")
	text = strings.NewReplacer("port: -1\n", "", `http: "127.0.0.1:-1"`, "").Replace(base(dir)) + text
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return again(tb, file)
}

// again reads a server's configuration from its file.
func again(tb testing.TB, file string) *server.Options {
	tb.Helper()
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		tb.Fatalf("read server configuration %s: %v", file, err)
	}
	o.NoLog, o.NoSigs = true, true
	return o
}

func start(tb testing.TB, o *server.Options) *server.Server {
	tb.Helper()
	srv, err := server.NewServer(o)
	if err != nil {
		tb.Fatalf("new nats-server: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		shutDown(srv)
		tb.Fatalf("the nats-server on port %d did not start within %v", o.Port, startTimeout)
	}
	return srv
}

func shutDown(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// Servers is a running cluster. Its methods are to be called on the test's own
// goroutine.
type Servers struct {
	tb   testing.TB
	opts []*server.Options // with fixed ports once a server ran
	srv  []*server.Server  // nil while it is down
	urls []string
	mon  []string

	dirs     []string
	account  string        // of JetStream, as the servers call it
	app, sys []nats.Option // who connects
	filed    bool          // each reads its configuration from a file
}

// Cluster starts n servers with JetStream, the accounts SYS and APP, and waits
// until they have a leader and know each other. An election takes some seconds,
// so a package starts a cluster only where replication is the subject. The
// options are applied to every server.
func Cluster(tb testing.TB, n int, opts ...Option) *Servers {
	tb.Helper()
	c := &Servers{tb: tb, account: "APP", app: []nats.Option{nats.UserInfo(AppUser, AppPassword)}, sys: []nats.Option{nats.UserInfo(SysUser, SysPassword)}}
	c.start(n, func(string) string { return accounts }, opts)
	return c
}

// FileCluster is a cluster whose servers read what common gives for the folder of
// each, with the accounts and users of Cluster, from a file: such can be told to
// read it anew.
func FileCluster(tb testing.TB, n int, common func(dir string) string) *Servers {
	tb.Helper()
	c := &Servers{tb: tb, account: "APP", app: []nats.Option{nats.UserInfo(AppUser, AppPassword)}, sys: []nats.Option{nats.UserInfo(SysUser, SysPassword)}, filed: true}
	c.start(n, common, nil)
	return c
}

// AppOptions are those of a user of account APP.
func (c *Servers) AppOptions() []nats.Option { return slices.Clone(c.app) }

// start starts n servers; common is what all have in their configuration, by the
// folder of each.
func (c *Servers) start(n int, common func(dir string) string, opts []Option) {
	tb := c.tb
	tb.Helper()
	c.srv, c.urls, c.mon = make([]*server.Server, n), make([]string, n), make([]string, n)
	free, err := ports.Free(3 * n)
	if err != nil {
		tb.Fatal(err)
	}
	routes := make([]string, n)
	for i, p := range free[:n] {
		routes[i] = fmt.Sprintf("%q", fmt.Sprintf("nats-route://127.0.0.1:%d", p))
	}
	dirs := make([]string, n)
	c.dirs = dirs
	for i := range dirs {
		dirs[i] = tb.TempDir()
	}
	tb.Cleanup(func() {
		for _, srv := range c.srv {
			if srv != nil {
				shutDown(srv)
			}
		}
	})
	for i := range n {
		text := common(dirs[i]) + fmt.Sprintf(`
server_name: "n%d"
cluster { name: "test", listen: "127.0.0.1:%d", routes: [ %s ] }
`, i+1, free[i], strings.Join(routes, ", "))
		// Ports are fixed, so that a restart is found again.
		port, monitor := free[n+2*i], free[n+2*i+1]
		var o *server.Options
		if c.filed {
			o = fromFile(tb, dirs[i], fmt.Sprintf("%s\nport: %d\nhttp: \"127.0.0.1:%d\"\n", text, port, monitor))
		} else {
			o = options(tb, dirs[i], append([]Option{Config(text)}, opts...))
			o.Port, o.HTTPPort = port, monitor
		}
		srv := start(tb, o)
		c.opts, c.srv[i] = append(c.opts, o), srv
		c.urls[i], c.mon[i] = srv.ClientURL(), MonitorURL(srv)
	}
	c.WaitReady()
	c.waitPlaceable()
}

// Len is the number of servers, those that are down included.
func (c *Servers) Len() int { return len(c.srv) }

// Server returns the i-th server, nil while it is down.
func (c *Servers) Server(i int) *server.Server { return c.srv[i] }

// Dir is the folder of server i: its configuration, its store, its resolver's claims.
func (c *Servers) Dir(i int) string { return c.dirs[i] }

// URL is the client URL of server i, without a user.
func (c *Servers) URL(i int) string { return c.urls[i] }

// URLs are the client URLs of all servers, separated by commas.
func (c *Servers) URLs() string { return strings.Join(c.urls, ",") }

// MonitorURLs are the bases of the servers' monitoring endpoints.
func (c *Servers) MonitorURLs() []string { return append([]string(nil), c.mon...) }

// App connects to all servers as the user of account APP.
func (c *Servers) App(tb testing.TB, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	return Connect(tb, c.URLs(), append(patient(c.app), opts...)...)
}

// Sys connects to all servers as the user of the system account.
func (c *Servers) Sys(tb testing.TB, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	return Connect(tb, c.URLs(), append(patient(c.sys), opts...)...)
}

func patient(who []nats.Option) []nats.Option {
	return append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond)}, who...)
}

// Kill shuts server i down at once: connections break and its Raft groups look
// for new leaders. Its store stays for Restart.
func (c *Servers) Kill(i int) {
	c.tb.Helper()
	if c.srv[i] == nil {
		c.tb.Fatalf("kill server n%d: it is down already", i+1)
	}
	shutDown(c.srv[i])
	c.srv[i] = nil
}

// Restart starts server i on the ports and the store that it had; one of a
// FileCluster reads its file anew.
func (c *Servers) Restart(i int) {
	c.tb.Helper()
	if c.srv[i] != nil {
		c.tb.Fatalf("restart server n%d: it is running", i+1)
	}
	o := c.opts[i].Clone()
	if c.filed {
		o = again(c.tb, o.ConfigFile)
	}
	if len(o.TrustedOperators) > 0 {
		o.TrustedKeys = nil // the server wrote them there from its operators, and takes only one of the two
	}
	c.srv[i] = start(c.tb, o)
}

// WaitReady waits until the running servers are linked, have a meta leader and
// report themselves healthy.
func (c *Servers) WaitReady() {
	c.tb.Helper()
	up := 0
	for _, srv := range c.srv {
		if srv != nil {
			up++
		}
	}
	wait.For(c.tb, startTimeout, "a cluster with a meta leader", func() bool {
		leaders := 0
		for i, srv := range c.srv {
			if srv == nil {
				continue
			}
			if srv.NumRoutes() < up-1 || !healthy(c.mon[i]) {
				return false
			}
			if srv.JetStreamIsLeader() {
				leaders++
			}
		}
		return leaders == 1
	})
}

// waitPlaceable waits until the meta leader finds room for a replicated stream. A
// leader that was just elected has not heard of every server's store yet and
// refuses one with "no suitable peers for placement", while all report themselves
// healthy. Nothing but asking shows it.
func (c *Servers) waitPlaceable() {
	c.tb.Helper()
	nc, err := nats.Connect(c.URLs(), patient(c.app)...)
	if err != nil {
		c.tb.Fatalf("connect to %s: %v", c.URLs(), err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		c.tb.Fatal(err)
	}
	const probe = "NATSTEST_PROBE"
	wait.For(c.tb, startTimeout, "room for a replicated stream", func() bool {
		ctx, cancel := context.WithTimeout(c.tb.Context(), 5*time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: probe, Storage: jetstream.MemoryStorage, Replicas: len(c.srv)})
		return err == nil
	})
	wait.For(c.tb, startTimeout, "the probe to be gone", func() bool {
		ctx, cancel := context.WithTimeout(c.tb.Context(), 5*time.Second)
		defer cancel()
		err := js.DeleteStream(ctx, probe)
		return err == nil || errors.Is(err, jetstream.ErrStreamNotFound)
	})
}

func healthy(base string) bool {
	resp, err := http.Get(base + "/healthz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// MetaLeader returns the index of the server that leads the meta group, -1
// while an election runs.
func (c *Servers) MetaLeader() int {
	for i, srv := range c.srv {
		if srv != nil && srv.JetStreamIsLeader() {
			return i
		}
	}
	return -1
}

// StreamLeader returns the index of the server that leads a stream of account
// APP, -1 when none does.
func (c *Servers) StreamLeader(stream string) int {
	for i, srv := range c.srv {
		if srv != nil && srv.JetStreamIsStreamLeader(c.account, stream) {
			return i
		}
	}
	return -1
}
