// Capture runs real servers of one version, puts a small load on them and
// writes down what they answer, for the tests of the decoders:
//
//	GOBIN=/tmp/v2.10.27 go install github.com/nats-io/nats-server/v2@v2.10.27
//	go run ./collector/testdata/capture -server /tmp/v2.10.27/nats-server -out collector/testdata/captures/v2.10.27
//
// The servers are a cluster of three, a second cluster of one behind a gateway
// and a leaf node; with -single it is one server alone. They listen on the
// loopback address and are stopped at the end.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
)

func main() {
	binary := flag.String("server", "", "nats-server to run")
	out := flag.String("out", "", "directory to write to")
	single := flag.Bool("single", false, "one server alone")
	flag.Parse()
	if err := run(*binary, *out, *single); err != nil {
		log.Fatal(err)
	}
}

const accounts = `
accounts {
  SYS { users: [ { user: sys, password: sys } ] }
  APP { jetstream: enabled, users: [ { user: app, password: app } ] }
}
system_account: SYS
`

type world struct {
	dir     string
	procs   []*exec.Cmd
	url     string // of n1
	monitor string // of n1
	leader  string // monitoring of the server that leads what is measured
	ports   map[string]string
	app     *nats.Conn
	sys     *nats.Conn
}

func run(binary, out string, single bool) error {
	dir, err := os.MkdirTemp("", "capture")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &world{dir: dir, ports: map[string]string{}}
	defer w.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := w.start(binary, single); err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	defer w.app.Close()
	defer w.sys.Close()
	var mu sync.Mutex
	pushed := map[string]json.RawMessage{}
	note := func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		t := strings.Split(m.Subject, ".")
		name := strings.TrimPrefix(m.Subject, "$JS.EVENT.")
		if t[0] == "$SYS" {
			name = t[1] + "." + strings.Join(t[3:], ".")
		}
		if t[0] == "$JS" && strings.HasSuffix(m.Subject, ".API") && !bytes.Contains(m.Data, []byte("STREAM.PURGE")) {
			return
		}
		// The subject has to come along: names are read out of it.
		one, err := json.Marshal(map[string]any{"subject": m.Subject, "data": json.RawMessage(m.Data)})
		if err == nil {
			pushed[name] = one
		}
	}
	for _, s := range []string{"$JS.EVENT.>"} {
		if _, err := w.app.Subscribe(s, note); err != nil {
			return err
		}
	}
	for _, s := range []string{"$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.*.DISCONNECT", "$SYS.SERVER.*.CLIENT.AUTH.ERR", "$SYS.SERVER.*.STATSZ"} {
		if _, err := w.sys.Subscribe(s, note); err != nil {
			return err
		}
	}
	if err := errors.Join(w.app.Flush(), w.sys.Flush()); err != nil {
		return err
	}
	if err := w.load(ctx, single); err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"varz": "/varz", "healthz": "/healthz?js-server-only=true", "routez": "/routez", "gatewayz": "/gatewayz", "leafz": "/leafz",
		"accstatz": "/accstatz?unused=1", "accountz": "/accountz", "subsz": "/subsz", "raftz": "/raftz", "ipqueuesz": "/ipqueuesz?all=1",
		"connz": "/connz?auth=1&limit=64&sort=pending", "jsz": "/jsz?accounts=1&streams=1&consumers=1&config=1",
	} {
		from := w.monitor
		if name == "jsz" {
			from = w.leader
		}
		b, err := get(ctx, from+path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if b == nil {
			continue // not offered
		}
		if err := w.write(out, name, b); err != nil {
			return err
		}
	}
	for _, kind := range []string{"VARZ", "STATSZ", "JSZ"} {
		m, err := w.sys.Request("$SYS.REQ.SERVER.PING."+kind, []byte(`{"server_name":"n1","exact_match":true,"accounts":true,"streams":true,"consumer":true,"config":true}`), 5*time.Second)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if err := w.write(out, "sys_"+strings.ToLower(kind), m.Data); err != nil {
			return err
		}
	}
	mu.Lock()
	defer mu.Unlock()
	b, err := json.Marshal(pushed)
	if err != nil {
		return err
	}
	return w.write(out, "pushed", b)
}

func (w *world) start(binary string, single bool) error {
	names := []string{"n1", "n2", "n3", "w1", "leaf"}
	if single {
		names = names[:1]
	}
	// Client, monitoring, cluster, gateway and leaf node ports, by server.
	ports, err := freePorts(5 * len(names))
	if err != nil {
		return err
	}
	port := func(server, kind int) int { return ports[5*server+kind] }
	for i, name := range names {
		conf := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%d\"\nhttp: \"127.0.0.1:%d\"\n", name, port(i, 0), port(i, 1))
		domain := ""
		if name == "leaf" {
			domain = ", domain: edge"
		}
		if name == "w1" {
			conf += strings.ReplaceAll(accounts, "jetstream: enabled, ", "") // a cluster of one has no meta group
		} else {
			conf += fmt.Sprintf("jetstream { store_dir: %q, max_mem: 64MB, max_file: 256MB%s }\n", filepath.Join(w.dir, name), domain) + accounts
		}
		if !single && name != "leaf" {
			cluster, routes := "east", fmt.Sprintf("nats://127.0.0.1:%d, nats://127.0.0.1:%d", port(0, 2), port(1, 2))
			if name == "w1" {
				cluster, routes = "west", ""
			}
			conf += fmt.Sprintf("cluster { name: %s, listen: \"127.0.0.1:%d\", routes: [%s] }\n", cluster, port(i, 2), routes)
			conf += fmt.Sprintf("gateway { name: %s, listen: \"127.0.0.1:%d\", gateways: [ {name: east, url: \"nats://127.0.0.1:%d\"}, {name: west, url: \"nats://127.0.0.1:%d\"} ] }\n",
				cluster, port(i, 3), port(0, 3), port(3, 3))
			conf += fmt.Sprintf("leafnodes { listen: \"127.0.0.1:%d\" }\n", port(i, 4))
		}
		if name == "leaf" {
			conf += fmt.Sprintf("leafnodes { remotes: [ { url: \"nats://app:app@127.0.0.1:%d\", account: APP } ] }\n", port(0, 4))
		}
		file := filepath.Join(w.dir, name+".conf")
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			return err
		}
		c := exec.Command(binary, "-c", file, "-l", filepath.Join(w.dir, name+".log"))
		if err := c.Start(); err != nil {
			return err
		}
		w.procs = append(w.procs, c)
		w.ports[name] = fmt.Sprintf("http://127.0.0.1:%d", port(i, 1))
	}
	w.url = fmt.Sprintf("nats://127.0.0.1:%d", port(0, 0))
	w.monitor = w.ports["n1"]
	w.leader = w.monitor
	return nil
}

func (w *world) stop() {
	for _, c := range w.procs {
		c.Process.Kill()
		c.Wait()
	}
}

func (w *world) connect(ctx context.Context) error {
	return retry(ctx, "connect and find JetStream", func() error {
		if w.app == nil {
			nc, err := nats.Connect(w.url, nats.UserInfo("app", "app"), nats.Name("orders api"))
			if err != nil {
				return err
			}
			w.app = nc
		}
		if w.sys == nil {
			nc, err := nats.Connect(w.url, nats.UserInfo("sys", "sys"))
			if err != nil {
				return err
			}
			w.sys = nc
		}
		for _, path := range []string{"/gatewayz", "/leafz"} {
			b, err := get(ctx, w.monitor+path)
			if err != nil {
				return err
			}
			linked := bytes.Contains(b, []byte(`"w1"`)) || bytes.Contains(b, []byte(`"leaf"`)) || bytes.Contains(b, []byte(`"leafs"`))
			if len(w.procs) > 1 && !linked {
				return errors.New(path + ": not linked yet")
			}
		}
		js, err := jetstream.New(w.app)
		if err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err = js.AccountInfo(short)
		return err
	})
}

// load leaves every figure that the pages show different from zero.
func (w *world) load(ctx context.Context, single bool) error {
	js, err := jetstream.New(w.app)
	if err != nil {
		return err
	}
	replicas := 3
	if single {
		replicas = 1
	}
	var con jetstream.Consumer
	err = retry(ctx, "create the stream and its consumer", func() error {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if _, err := js.CreateOrUpdateStream(short, jetstream.StreamConfig{
			Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: replicas, MaxBytes: 10 << 20, MaxMsgs: 100_000, MaxAge: time.Hour,
			Metadata: map[string]string{"io.nats.monitor.msgs-warn": "1000", "io.nats.monitor.msgs-critical": "2000"},
		}); err != nil {
			return err
		}
		con, err = js.CreateOrUpdateConsumer(short, "ORDERS", jetstream.ConsumerConfig{
			Durable: "east", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second, MaxDeliver: 7, MaxAckPending: 50,
			FilterSubject: "orders.east", SampleFrequency: "100", Metadata: map[string]string{"io.nats.monitor.outstanding-ack-critical": "40"},
		})
		return err
	})
	if err != nil {
		return err
	}
	if !single {
		// One server is to lead both, so that its /jsz has all figures.
		err := retry(ctx, "bring both leaders together", func() error {
			s, err := js.Stream(ctx, "ORDERS")
			if err != nil {
				return err
			}
			info, err := con.Info(ctx)
			if err != nil {
				return err
			}
			leader := s.CachedInfo().Cluster.Leader
			if info.Cluster.Leader == leader && w.ports[leader] != "" {
				w.leader = w.ports[leader]
				return nil
			}
			_, err = w.app.Request("$JS.API.CONSUMER.LEADER.STEPDOWN.ORDERS.east", nil, 5*time.Second)
			return errors.Join(err, errors.New("they are apart"))
		})
		if err != nil {
			return err
		}
	}
	if _, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, InactiveThreshold: time.Hour}); err != nil {
		return err
	}
	for range 30 {
		if _, err := js.Publish(ctx, "orders.east", []byte("an order")); err != nil {
			return err
		}
	}
	svc, err := micro.AddService(w.app, micro.Config{Name: "prices", Version: "1.2.3", Metadata: map[string]string{"region": "eu"},
		Endpoint: &micro.EndpointConfig{Subject: "prices.get", Handler: micro.HandlerFunc(func(r micro.Request) { r.Respond(nil) })}})
	if err != nil {
		return err
	}
	_ = svc
	if _, err := w.app.Request("prices.get", nil, 5*time.Second); err != nil {
		return err
	}
	batch, err := con.Fetch(20, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		return err
	}
	i := 0
	for m := range batch.Messages() {
		switch {
		case i < 8:
			err = m.DoubleAck(ctx)
		case i == 8:
			err = m.Nak()
		case i == 9:
			err = m.Term()
		}
		if err != nil {
			return err
		}
		i++
	}
	// Those that were not acknowledged come again.
	again, err := con.Fetch(3, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		return err
	}
	for range again.Messages() {
	}
	if _, err := nats.Connect(w.url, nats.UserInfo("app", "wrong")); err == nil {
		return errors.New("a wrong password was accepted")
	}
	short, err := nats.Connect(w.url, nats.UserInfo("app", "app"))
	if err != nil {
		return err
	}
	short.Close()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "SCRAP", Subjects: []string{"scrap.>"}}); err != nil {
		return err
	}
	s, err := js.Stream(ctx, "SCRAP")
	if err != nil {
		return err
	}
	if err := s.Purge(ctx); err != nil {
		return err
	}
	// A pull request that waits while the answers are taken.
	waiting, err := con.Fetch(100, jetstream.FetchMaxWait(20*time.Second))
	if err != nil {
		return err
	}
	go func() {
		for range waiting.Messages() {
		}
	}()
	return retry(ctx, "see the load in /jsz", func() error {
		b, err := get(ctx, w.leader+"/jsz?consumers=1&accounts=1&streams=1")
		if err == nil && !bytes.Contains(b, []byte(`"num_redelivered": 1`)) && !bytes.Contains(b, []byte(`"num_redelivered": 3`)) && !bytes.Contains(b, []byte(`"num_redelivered": 2`)) {
			err = errors.New("nothing is redelivered yet")
		}
		return err
	})
}

// retry tries until it works or ctx ends.
func retry(ctx context.Context, what string, f func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	return io.ReadAll(resp.Body)
}

// write scrubs the directory of this run out of an answer and keeps it compact.
func (w *world) write(out, name string, b []byte) error {
	var c bytes.Buffer
	if err := json.Compact(&c, b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.WriteByte('\n')
	scrubbed := bytes.ReplaceAll(c.Bytes(), []byte(w.dir), []byte("/data"))
	return os.WriteFile(filepath.Join(out, name+".json"), scrubbed, 0o644)
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
