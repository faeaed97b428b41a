package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/lb"
)

// The test binary is the tests and a worker process, so that a worker can be
// killed and stopped as an operating system does it.
const crewVariable = "BALLAST_LOADTEST_MEMBER"

func TestMain(m *testing.M) {
	if text := os.Getenv(crewVariable); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	crewStream      = "ORDERS"
	crewRun         = "run" // of all load tests against a crew
	crewConcurrency = 4
)

// member says what a worker process does.
type member struct {
	URL, Name string
	Subject   string // of requests in core NATS; "" works on Consumer
	Consumer  string
	Group     lb.PriorityGroup
	Takes     time.Duration // a message; another duration on the standard input changes it
}

// work is the worker process. It says each message that it has worked off, before
// it acknowledges it, and ends with SIGTERM or when nobody listens any more.
func work(text string) error {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nc, err := lb.Connect(m.URL)
	if err != nil {
		return err
	}
	defer nc.Close()
	var takes atomic.Int64
	takes.Store(int64(m.Takes))
	go func() { // ends with the process
		defer stop()
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if d, err := time.ParseDuration(lines.Text()); err == nil {
				takes.Store(int64(d))
			}
		}
	}()
	var out sync.Mutex
	handle := func(ctx context.Context, id string, deliveries uint64) error {
		t := time.NewTimer(time.Duration(takes.Load()))
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		n, ok := parseID(crewRun, id)
		if !ok {
			return nil // asks whether anybody is there
		}
		out.Lock()
		defer out.Unlock()
		_, err := fmt.Printf("%d %d %d\n", n, deliveries, time.Now().UnixNano())
		return err
	}
	if m.Subject != "" {
		w, err := lb.NewQueueWorker(nc, lb.QueueConfig{
			Split: "orders", Target: m.Name, Subject: m.Subject, Group: "crew", Concurrency: crewConcurrency, ReportEvery: -1,
			Handler: func(ctx context.Context, msg *nats.Msg) error {
				if err := handle(ctx, msg.Header.Get(jetstream.MsgIDHeader), 1); err != nil {
					return err
				}
				return msg.Respond(nil)
			},
		})
		if err != nil {
			return err
		}
		return w.Run(ctx)
	}
	w, err := lb.NewWorker(nc, lb.WorkerConfig{
		Split: "orders", Target: m.Name, Stream: crewStream, Consumer: m.Consumer, Group: m.Group,
		Concurrency: crewConcurrency, PullWait: 500 * time.Millisecond, ReportEvery: -1,
		Handler: func(ctx context.Context, msg jetstream.Msg) error {
			meta, err := msg.Metadata()
			if err != nil {
				return err
			}
			return handle(ctx, msg.Headers().Get(jetstream.MsgIDHeader), meta.NumDelivered)
		},
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// step is a message that was worked off.
type step struct {
	who        string
	n          int // number of the message in the run
	deliveries int
	at         time.Time
}

// book keeps all steps of a run's processes.
type book struct {
	mu    sync.Mutex // guards steps
	steps []step
}

func (b *book) all() []step {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.steps[:len(b.steps):len(b.steps)]
}

// by counts the steps of one member since a moment.
func (b *book) by(who string, since time.Time) (n int) {
	for _, s := range b.all() {
		if s.who == who && !s.at.Before(since) {
			n++
		}
	}
	return n
}

// process is a worker process.
type process struct {
	tb   testing.TB
	name string
	cmd  *exec.Cmd
	in   io.Writer
	done chan struct{}
	mu   sync.Mutex // guards said
	said strings.Builder
}

func (b *book) hire(tb testing.TB, m member) *process {
	tb.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{tb: tb, name: m.Name, cmd: exec.Command(exe), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), crewVariable+"="+string(text))
	p.cmd.Stderr = p
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("start worker process %s: %v", m.Name, err)
	}
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s, ok := parseStep(m.Name, lines.Text())
			if !ok {
				continue // a killed one may leave half a line
			}
			b.mu.Lock()
			b.steps = append(b.steps, s)
			b.mu.Unlock()
		}
		_ = p.cmd.Wait()
	}()
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if said := p.words(); said != "" {
			tb.Logf("worker process %s said: %s", m.Name, said)
		}
	})
	return p
}

func parseStep(who, line string) (step, bool) {
	s := step{who: who}
	var at int64
	if _, err := fmt.Sscanf(line, "%d %d %d", &s.n, &s.deliveries, &at); err != nil {
		return step{}, false
	}
	s.at = time.Unix(0, at)
	return s, at > 1e18 // the whole of it
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *process) words() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

func (p *process) signal(sig os.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.tb.Fatalf("%v to worker process %s: %v", sig, p.name, err)
	}
}

// kill ends the process as kill -9 does, and waits for what it had said.
func (p *process) kill() {
	p.tb.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Fatalf("kill worker process %s: %v", p.name, err)
	}
	<-p.done
}

// takes changes how long the process takes for a message.
func (p *process) takes(d time.Duration) {
	p.tb.Helper()
	if _, err := fmt.Fprintln(p.in, d); err != nil {
		p.tb.Fatalf("change the pace of worker process %s: %v", p.name, err)
	}
}
