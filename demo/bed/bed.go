// Package bed raises whole NATS systems on loopback, to measure and test a
// console against: from one small server to a super-cluster. Every server is a
// process of its own, so that what it costs can be told apart from what the
// watcher costs; clients and workload live in this process. It knows nothing of
// the console, and never listens beyond loopback.
package bed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Size of a bed.
type Size string

// Small and Large are one server each; Super is two clusters of three servers,
// joined by gateways, with a leaf node on the first.
const (
	Small Size = "S"
	Large Size = "L"
	Super Size = "super"
)

// upLimit is how long the servers may take until all have found each other: the
// seven of a super-cluster take about 8 s on two idle cores.
const upLimit = 2 * time.Minute

// Config of a bed.
type Config struct {
	Size Size
	// Dir receives one directory with the servers' files and the passwords, which
	// Close removes. Dir is made if it is missing and stays if anything else is in
	// it.
	Dir string
	// Server returns the command of a nats-server with this configuration file;
	// it has to end in ServerMain or be nats-server itself.
	Server func(config string) *exec.Cmd

	// What there is on the servers; 0 is the size's own.
	Streams, Consumers, Connections int

	// Rate is the messages that Run publishes in a second, over all streams. The
	// servers store each once and two consumers of its stream acknowledge it.
	Rate float64
	// Churn is the ephemeral consumers that Run creates in a second. Half of them
	// are deleted at once, the others when the server finds them unused.
	Churn float64

	// Profile opens the servers' own profilers.
	Profile bool

	Log *slog.Logger // nil discards
}

// User is a user of one account, with the file that holds the password.
type User struct {
	Account, Name, Password, File string
}

// Server is one running nats-server.
type Server struct {
	Name       string
	Cluster    string // "" for a server that stands alone
	PID        int
	URL        string // for clients
	MonitorURL string
	ProfileURL string // of net/http/pprof; "" unless the Config asks for it
}

// Bed is what Start raised. All of its fields are only read after it.
type Bed struct {
	Servers     []Server // the leaf node last
	URLs        []string // for clients, without the leaf node's
	MonitorURLs []string // of all servers

	AppUser User // of account APP
	SysUser User // of the system account

	// What was created: every connection is open, every asset was confirmed by
	// its leader.
	Streams, Consumers, Connections int

	cfg       Config
	plan      plan
	nodes     []*node
	processes []*process
	spawn     *spawner
	conns     []*nats.Conn
	js        map[seat]jetstream.JetStream // through one of the connections
	claimed   string                       // the directory that Close removes
	log       *slog.Logger
	work      work
	close     sync.Once
}

// seat is where a client sits: an account on a server.
type seat struct {
	account string
	node    int // index into nodes
}

// Start raises a bed and returns when all of it is there. The bed outlives ctx,
// which bounds the raising only; Close ends it.
func Start(ctx context.Context, cfg Config) (_ *Bed, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bed{cfg: cfg, log: cfg.Log, js: map[seat]jetstream.JetStream{}}
	if b.plan, err = newPlan(cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.prepare(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := b.startServers(ctx); err != nil {
		return nil, err
	}
	servers := time.Since(began)
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	conns := time.Since(began) - servers
	if err := b.create(ctx); err != nil {
		return nil, err
	}
	b.log.Info("the bed is up", "size", cfg.Size, "streams", b.Streams, "consumers", b.Consumers,
		"connections", b.Connections, "took", time.Since(began).Round(time.Millisecond),
		"servers_took", servers.Round(time.Millisecond), "connections_took", conns.Round(time.Millisecond))
	return b, nil
}

// prepare chooses ports and passwords and writes every file.
func (b *Bed) prepare() error {
	dir, err := filepath.Abs(b.cfg.Dir)
	if b.cfg.Dir == "" {
		err = errors.New("no directory was given")
	}
	if err != nil {
		return fmt.Errorf("find the directory of the bed: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the bed: %w", err)
	}
	// Mkdir is the test and the claim in one: of two beds in a directory, the
	// second stops here and removes nothing of the first.
	claim := filepath.Join(dir, "nats")
	if err := os.Mkdir(claim, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s belongs to another bed, or to one that was killed: remove it, or take another directory", claim)
		}
		return fmt.Errorf("claim the directory of the bed: %w", err)
	}
	b.claimed = claim

	b.AppUser = User{Account: appAccount, Name: "app", Password: rand.Text(), File: filepath.Join(claim, "app.password")}
	b.SysUser = User{Account: sysAccount, Name: "sys", Password: rand.Text(), File: filepath.Join(claim, "sys.password")}
	for _, u := range []User{b.AppUser, b.SysUser} {
		if err := os.WriteFile(u.File, []byte(u.Password+"\n"), 0o600); err != nil {
			return fmt.Errorf("write a password: %w", err)
		}
	}
	b.nodes, err = layOut(b.cfg.Size, b.cfg.Profile, claim, b.AppUser.Password, b.SysUser.Password)
	return err
}

// PIDs are the processes of the servers, in the order of Servers.
func (b *Bed) PIDs() []int {
	pids := make([]int, len(b.processes))
	for i, p := range b.processes {
		pids[i] = p.pid()
	}
	return pids
}

// Close ends all connections and servers and removes the bed's files. It
// returns when every server is gone.
func (b *Bed) Close() error {
	var err error
	b.close.Do(func() {
		var wg sync.WaitGroup
		for _, nc := range b.conns {
			if nc != nil {
				wg.Go(nc.Close)
			}
		}
		wg.Wait()
		// Killed, not asked: the store of a server that ends in order is written
		// once more, only to be removed.
		for _, p := range b.processes {
			p.kill()
		}
		if b.spawn != nil {
			b.spawn.stop()
		}
		if b.claimed != "" {
			err = os.RemoveAll(b.claimed)
			_ = os.Remove(filepath.Dir(b.claimed)) // refused while anything else is in it
		}
	})
	return err
}
