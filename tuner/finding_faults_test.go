package tuner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ballast/internal/natstest"
)

// cable is a connection between two servers that can be made long, or hold
// everything back.
type cable struct {
	addr    string
	target  string
	delay   atomic.Int64  // of each direction, in nanoseconds
	mu      sync.Mutex    // guards held and conns
	held    chan struct{} // not nil: nothing passes until it is closed
	conns   map[net.Conn]bool
	closed  bool
	pumping sync.WaitGroup
}

func newCable(t *testing.T, target string) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{addr: ln.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	c.pumping.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", c.target)
			if err != nil {
				near.Close()
				continue
			}
			if !c.keep(near, far) {
				return
			}
			c.pumping.Go(func() { c.pump(near, far) })
			c.pumping.Go(func() { c.pump(far, near) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		c.release()
		c.mu.Lock()
		c.closed = true
		for conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.pumping.Wait()
	})
	return c
}

// keep notes both ends, for the end of the test.
func (c *cable) keep(ends ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range ends {
		if c.closed {
			e.Close()
		} else {
			c.conns[e] = true
		}
	}
	return !c.closed
}

func (c *cable) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = make(chan struct{})
	}
}

func (c *cable) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		close(c.held)
		c.held = nil
	}
}

func (c *cable) gate() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

// pump carries one direction until an end is closed.
func (c *cable) pump(to, from net.Conn) {
	type chunk struct {
		at   time.Time
		data []byte
	}
	way := make(chan chunk, 16)
	c.pumping.Go(func() {
		defer close(way)
		for {
			data := make([]byte, 32<<10)
			n, err := from.Read(data)
			if n > 0 {
				way <- chunk{time.Now(), data[:n]}
			}
			if err != nil {
				return
			}
		}
	})
	defer func() {
		to.Close()
		from.Close()
		for range way { // lets the reader go
		}
	}()
	for k := range way {
		if gate := c.gate(); gate != nil {
			<-gate
		}
		if d := time.Until(k.at.Add(time.Duration(c.delay.Load()))); d > 0 {
			<-time.After(d)
		}
		if _, err := to.Write(k.data); err != nil {
			return
		}
	}
}

// front stands before a server's monitoring port and can change what it says of
// its version, be down, or stand before another one.
type front struct {
	url     string
	target  atomic.Pointer[url.URL]
	version atomic.Value // string; "" leaves the server's own
	down    atomic.Bool
}

var versionField = regexp.MustCompile(`"version": *"[^"]*"`)

func newFront(t *testing.T, monitor string) *front {
	t.Helper()
	f := &front{}
	f.before(t, monitor)
	f.version.Store("")
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(f.target.Load())
			r.Out.Header.Set("Accept-Encoding", "identity")
		},
		ModifyResponse: func(resp *http.Response) error {
			v := f.version.Load().(string)
			if v == "" || !strings.HasPrefix(resp.Request.URL.Path, "/varz") {
				return nil
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			resp.Body.Close()
			body = versionField.ReplaceAll(body, []byte(`"version":"`+v+`"`))
			resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
			resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

// newFronts puts one before every server of a cluster.
func newFronts(t *testing.T, c *natstest.Servers) (fronts []*front, urls []string) {
	t.Helper()
	for _, m := range c.MonitorURLs() {
		f := newFront(t, m)
		fronts, urls = append(fronts, f), append(urls, f.url)
	}
	return fronts, urls
}

// restart starts a server again and lets it be asked once it runs: nats-server
// 2.15.2 answers /jsz while it starts from what it writes at the same time,
// which the race detector takes for this program's fault.
func restart(c *natstest.Servers, fronts []*front, i int) {
	fronts[i].down.Store(true)
	c.Restart(i)
	fronts[i].down.Store(false)
}

func (f *front) before(t *testing.T, monitor string) {
	t.Helper()
	target, err := url.Parse(monitor)
	if err != nil {
		t.Fatal(err)
	}
	f.target.Store(target)
}

// childVariable makes this test's program a nats-server: one whose use of the
// processor is its own.
const childVariable = "BALLAST_TUNER_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := serveAsChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// serveAsChild runs a server until its input ends; "burn" makes it busy and
// "rest" idle again.
func serveAsChild(in io.Reader, out io.Writer) error {
	srv, err := server.NewServer(&server.Options{ServerName: "child", Host: "127.0.0.1", Port: -1, HTTPHost: "127.0.0.1", HTTPPort: -1, NoLog: true, NoSigs: true})
	if err != nil {
		return fmt.Errorf("new nats-server: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		return errors.New("the nats-server did not start")
	}
	fmt.Fprintf(out, "http://%s\n", srv.MonitorAddr())
	var burning sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		switch lines.Text() {
		case "burn":
			for range 4 * runtime.NumCPU() {
				burning.Go(func() {
					for ctx.Err() == nil {
					}
				})
			}
		case "rest":
			stop()
			burning.Wait()
			ctx, stop = context.WithCancel(context.Background())
		}
	}
	stop()
	burning.Wait()
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}

// childServer starts a nats-server as a process of its own. tell gives it a
// command.
func childServer(t *testing.T) (monitor string, tell func(string)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", fmt.Sprintf("GOMAXPROCS=%d", 4*runtime.NumCPU()))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server's process: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the server's address: %v", err)
	}
	return strings.TrimSpace(line), func(word string) {
		t.Helper()
		if _, err := fmt.Fprintln(in, word); err != nil {
			t.Fatal(err)
		}
	}
}
