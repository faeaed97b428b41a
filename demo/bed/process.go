package bed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ServerMain is a nats-server with this configuration file. It returns when the
// server has ended by a signal, or with the reason why it cannot start.
func ServerMain(config string) error {
	fs := flag.NewFlagSet("nats-server", flag.ContinueOnError)
	none := func() {}
	opts, err := server.ConfigureOptions(fs, []string{"-c", config}, none, none, none)
	if err != nil {
		return fmt.Errorf("read the server's configuration: %w", err)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("build the server: %w", err)
	}
	srv.ConfigureLogger()
	if err := server.Run(srv); err != nil {
		return fmt.Errorf("run the server: %w", err)
	}
	srv.WaitForShutdown()
	return nil
}

// process is a server's.
type process struct {
	name string
	log  string // path of what it says
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended already
	<-p.done
}

// ended says why a server is no more.
func (p *process) ended() error {
	text, _ := os.ReadFile(p.log)
	if len(text) > 2000 {
		text = text[len(text)-2000:]
	}
	return fmt.Errorf("server %s ended (%v); its last words:\n%s", p.name, p.cmd.ProcessState, bytes.TrimSpace(text))
}

// spawner starts processes from one thread that lives as long as they: Linux
// sends the parent's death signal when the thread ends that started the child.
type spawner struct {
	tasks chan func()
	ended chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{tasks: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for task := range s.tasks {
			task()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	result := make(chan error)
	s.tasks <- func() { result <- cmd.Start() }
	return <-result
}

func (s *spawner) stop() {
	close(s.tasks)
	<-s.ended
}

// startServers starts all servers and returns when they have found each other.
func (b *Bed) startServers(ctx context.Context) error {
	b.spawn = newSpawner()
	for _, n := range b.nodes {
		p, err := b.startServer(n)
		if err != nil {
			return fmt.Errorf("start server %s: %w", n.Name, err)
		}
		b.processes = append(b.processes, p)
		b.Servers = append(b.Servers, Server{Name: n.Name, Cluster: n.Cluster, PID: p.pid(), URL: n.url(), MonitorURL: n.monitorURL(), ProfileURL: n.profileURL()})
		b.MonitorURLs = append(b.MonitorURLs, n.monitorURL())
		if !n.leaf() {
			b.URLs = append(b.URLs, n.url())
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, upLimit, fmt.Errorf("it took longer than %v", upLimit))
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(b.nodes))
	for i := range b.nodes {
		wg.Go(func() { errs[i] = b.awaitServer(ctx, i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *Bed) startServer(n *node) (*process, error) {
	log := filepath.Join(n.Dir, "log")
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	p := &process{name: n.Name, log: log, cmd: b.cfg.Server(n.config), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	tieToParent(p.cmd)
	if err := b.spawn.start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}()
	return p, nil
}

func (b *Bed) awaitServer(ctx context.Context, i int) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := b.missing(ctx, b.nodes[i])
		if missing == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-b.processes[i].done:
			return b.processes[i].ended()
		case <-ctx.Done():
			return fmt.Errorf("wait for server %s: %w; %w", b.nodes[i].Name, context.Cause(ctx), missing)
		}
	}
}

// missing says what a server lacks until it is a full member of its system.
func (b *Bed) missing(ctx context.Context, n *node) error {
	var health struct{ Status string }
	if err := getJSON(ctx, n.monitorURL()+"/healthz", &health); err != nil {
		return err
	}
	switch {
	case n.leaf():
		var leafs server.Leafz
		if err := getJSON(ctx, n.monitorURL()+"/leafz", &leafs); err != nil {
			return err
		}
		if leafs.NumLeafs < 2 {
			return fmt.Errorf("%d of 2 leaf connections", leafs.NumLeafs)
		}
	case n.Cluster != "":
		var gates server.Gatewayz
		if err := getJSON(ctx, n.monitorURL()+"/gatewayz", &gates); err != nil {
			return err
		}
		if len(gates.OutboundGateways) < 1 {
			return errors.New("no gateway")
		}
		var js server.JSInfo
		if err := getJSON(ctx, n.monitorURL()+"/jsz", &js); err != nil {
			return err
		}
		if js.Meta == nil || js.Meta.Leader == "" || js.Meta.Size != len(b.URLs) {
			return fmt.Errorf("no meta leader of %d servers", len(b.URLs))
		}
	}
	return nil
}

func getJSON(ctx context.Context, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
