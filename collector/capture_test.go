package collector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/ports"
	"ballast/internal/wait"
)

// The answers of real servers from 2.10 to 2.15 lie in testdata/captures. They
// are made anew by
//
//	for v in v2.10.27 v2.11.17 v2.12.15 v2.14.9 v2.15.2; do
//	  GOBIN=/somewhere/$v go install github.com/nats-io/nats-server/v2@$v; done
//	BALLAST_NATS_SERVERS=/somewhere go test -run TestCapture ./collector
const serversEnv = "BALLAST_NATS_SERVERS"

const captures = "testdata/captures"

var monitorCaptures = map[string]string{
	"varz": "/varz", "healthz": "/healthz?js-server-only=true", "routez": "/routez", "leafz": "/leafz", "gatewayz": "/gatewayz",
	"accstatz": "/accstatz?unused=1", "connz": "/connz?auth=1&limit=1024", "subsz": "/subsz", "raftz": "/raftz", "ipqueuesz": "/ipqueuesz?all=1",
	"connz-subs": "/connz?auth=1&limit=512&subs=detail", "accountz": "/accountz", "accountz-app": "/accountz?acc=APP",
	"jsz-figures": "/jsz?accounts=1&streams=1&consumers=1", "jsz-configs": "/jsz?accounts=1&streams=1&consumers=1&config=1",
}

var systemCaptures = map[string][2]string{
	"sys-varz": {"$SYS.REQ.SERVER.PING.VARZ", ""}, "sys-statsz": {"$SYS.REQ.SERVER.PING.STATSZ", ""},
	"sys-connz": {"$SYS.REQ.SERVER.PING.CONNZ", `{"auth":true,"limit":1024}`}, "sys-accstatz": {"$SYS.REQ.ACCOUNT.PING.STATZ", `{"include_unused":true}`},
	"sys-subsz": {"$SYS.REQ.SERVER.PING.SUBSZ", ""}, "sys-raftz": {"$SYS.REQ.SERVER.PING.RAFTZ", ""}, "sys-ipqueuesz": {"$SYS.REQ.SERVER.PING.IPQUEUESZ", ""},
	"sys-connz-subs": {"$SYS.REQ.SERVER.PING.CONNZ", `{"auth":true,"limit":512,"subscriptions_detail":true}`},
	"sys-accountz":   {"$SYS.REQ.SERVER.PING.ACCOUNTZ", ""}, "sys-accountz-app": {"$SYS.REQ.SERVER.PING.ACCOUNTZ", `{"account":"APP"}`},
	"sys-jsz-configs": {"$SYS.REQ.SERVER.PING.JSZ", `{"accounts":true,"streams":true,"consumer":true,"config":true}`},
}

// binary is one real nats-server process of some version.
type binary struct {
	url, monitor string
	dir          string
}

func startBinary(t *testing.T, path, config string) binary {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\nports_file_dir: %q\n%s", dir, strings.ReplaceAll(config, "DIR", dir))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, "-c", conf)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		cmd.Wait() // killed
		if t.Failed() {
			t.Logf("%s:\n%s", path, out.String())
		}
	})
	b := binary{dir: dir}
	wait.For(t, patience, path+" to listen", func() bool {
		files, err := filepath.Glob(filepath.Join(dir, "*.ports"))
		if err != nil || len(files) == 0 {
			return false
		}
		text, err := os.ReadFile(files[0])
		var ports struct {
			Nats       []string `json:"nats"`
			Monitoring []string `json:"monitoring"`
		}
		if err != nil || json.Unmarshal(text, &ports) != nil || len(ports.Nats) == 0 || len(ports.Monitoring) == 0 {
			return false
		}
		b.url, b.monitor = ports.Nats[0], ports.Monitoring[0]
		return true
	})
	return b
}

func freePort(t *testing.T) int {
	t.Helper()
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return free[0]
}

const captureAccounts = `
accounts {
  SYS { users: [ { user: "sys", password: "canary-password" } ] }
  APP { jetstream: enabled, users: [ { user: "app", password: "canary-password" } ] }
}
system_account: SYS
`

// work gives a system something to tell of, and returns when it can be seen.
func work(t *testing.T, url string, replicas int) {
	t.Helper()
	nc, err := nats.Connect(url, nats.UserInfo("app", "canary-password"), nats.Name("the-app"), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	j := js(t, nc)
	wait.For(t, patience, "the stream", func() bool {
		_, err := j.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: replicas, MaxBytes: 1 << 20, MaxAge: time.Hour,
			Metadata: map[string]string{"team": "payments", "io.nats.monitor.peer-expect": "3"}})
		return err == nil
	})
	var east jetstream.Consumer
	wait.For(t, patience, "the consumer", func() bool {
		east, err = j.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{
			Durable: "east", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, SampleFrequency: "100",
			FilterSubject: "orders.a", MaxAckPending: 5000, MaxDeliver: 7,
			Metadata: map[string]string{"io.nats.monitor.unprocessed-critical": "100"}})
		return err == nil
	})
	if _, err := j.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Hour}); err != nil {
		t.Fatal(err)
	}
	publish(t, j, "orders.a", 20)
	ackSome(t, east, 7, 4)
	sub, err := nc.QueueSubscribe("work.>", "workers", func(*nats.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("work.a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, patience, "the message", func() bool { n, err := sub.Delivered(); return err == nil && n == 1 })
}

// keep writes one answer down, without what belongs to this machine.
func keep(t *testing.T, version, name string, body []byte, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		body = bytes.ReplaceAll(body, []byte(d), []byte("/data"))
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		t.Fatalf("%s of %s: %v", name, version, err)
	}
	compact.WriteByte('\n')
	if bytes.Contains(compact.Bytes(), []byte("canary")) {
		t.Errorf("%s of %s holds a password", name, version)
	}
	dir := filepath.Join(captures, version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), compact.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func fetchAnswer(t *testing.T, url string) ([]byte, int) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b, resp.StatusCode
}

func captureAll(t *testing.T, version, prefix string, b binary, names ...string) {
	t.Helper()
	for name, path := range monitorCaptures {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		body, status := fetchAnswer(t, b.monitor+path)
		if status == http.StatusOK {
			keep(t, version, prefix+name, body, b.dir)
		}
	}
	if len(names) > 0 {
		return
	}
	nc, err := nats.Connect(b.url, nats.UserInfo("sys", "canary-password"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for name, q := range systemCaptures {
		if m, err := nc.Request(q[0], []byte(q[1]), time.Second); err == nil {
			keep(t, version, prefix+name, m.Data, b.dir)
		}
	}
}

// TestCapture makes the captures. Without the servers there is nothing to do.
func TestCapture(t *testing.T) {
	root := os.Getenv(serversEnv)
	if root == "" {
		return
	}
	versions, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(captures); err != nil {
		t.Fatal(err)
	}
	for i, v := range versions {
		path := filepath.Join(root, v.Name(), "nats-server")
		leafPort, gwPort := freePort(t), freePort(t)
		solo := startBinary(t, path, fmt.Sprintf("server_name: solo\nserver_tags: [\"az:1\"]\njetstream { store_dir: \"DIR/js\", max_memory_store: 64MB, max_file_store: 256MB }\nleafnodes { listen: \"127.0.0.1:%d\" }\n%s", leafPort, captureAccounts))
		startBinary(t, path, fmt.Sprintf("server_name: edge\nleafnodes { remotes: [ { url: \"nats://app:canary-password@127.0.0.1:%d\" } ] }\n", leafPort))
		gateway := startBinary(t, path, fmt.Sprintf("server_name: gw1\ngateway { name: GA, listen: \"127.0.0.1:%d\" }\n", gwPort))
		startBinary(t, path, fmt.Sprintf("server_name: gw2\ngateway { name: GB, listen: \"127.0.0.1:-1\", gateways: [ { name: GA, url: \"nats://127.0.0.1:%d\" } ] }\n", gwPort))
		work(t, solo.url, 1)
		for base, link := range map[string]string{solo.monitor + "/leafz": `"leafnodes": 1`, gateway.monitor + "/gatewayz": `"GB"`} {
			wait.For(t, patience, link, func() bool { b, _ := fetchAnswer(t, base); return bytes.Contains(b, []byte(link)) })
		}
		captureAll(t, v.Name(), "", solo)
		captureAll(t, v.Name(), "", gateway, "gatewayz")
		if i != 0 && i != len(versions)-1 {
			continue
		}
		ports := []int{freePort(t), freePort(t), freePort(t)}
		var nodes []binary
		for n, p := range ports {
			nodes = append(nodes, startBinary(t, path, fmt.Sprintf("server_name: n%d\ncluster { name: C, listen: \"127.0.0.1:%d\", routes: [\"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\"] }\njetstream { store_dir: \"DIR/js\", max_memory_store: 64MB, max_file_store: 256MB }\n%s",
				n+1, p, ports[0], ports[1], ports[2], captureAccounts)))
		}
		work(t, nodes[0].url, 3)
		for n, node := range nodes {
			captureAll(t, v.Name(), fmt.Sprintf("n%d-", n+1), node, "varz", "routez", "jsz-configs", "jsz-figures", "raftz", "ipqueuesz")
		}
	}
}

func capture(t testing.TB, version, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(captures, version, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decodeInto[T any](t *testing.T, b []byte) *T {
	t.Helper()
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

// Every version's answers give all that the pages show.
func TestEveryVersionIsRead(t *testing.T) {
	t.Parallel()
	versions, err := os.ReadDir(captures)
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) < 5 {
		t.Fatalf("captures of %d versions, want at least 5", len(versions))
	}
	for _, v := range versions {
		t.Run(v.Name(), func(t *testing.T) {
			t.Parallel()
			checkVersion(t, v.Name())
		})
	}
	for _, v := range []string{versions[0].Name(), versions[len(versions)-1].Name()} {
		t.Run(v+" cluster", func(t *testing.T) {
			t.Parallel()
			checkCluster(t, v)
		})
	}
}

func checkVersion(t *testing.T, version string) {
	at := time.Now()
	l := &look{}
	v := decodeInto[varz](t, capture(t, version, "varz"))
	l.setVarz(v, fleet.Monitoring, at, time.Millisecond)
	s := l.server
	if "v"+s.Version != version || s.ID == "" || s.Name != "solo" || s.Host != "127.0.0.1" || s.Port == 0 || s.Start.IsZero() || s.Now.IsZero() ||
		s.Cores == 0 || s.Mem == 0 || s.Conns == 0 || s.Subs == 0 || s.InMsgs == 0 || s.OutMsgs == 0 || s.InBytes == 0 || s.OutBytes == 0 ||
		!slices.Equal(s.Tags, []string{"az:1"}) || l.httpPort == 0 || !l.hasLeafs || !l.served {
		t.Errorf("server %+v", s)
	}
	if js := s.JetStream; js == nil || js.MaxMemory != 64<<20 || js.MaxStore != 256<<20 || js.Store == 0 || js.APITotal == 0 {
		t.Errorf("JetStream %+v", s.JetStream)
	}
	if h := decodeInto[healthz](t, capture(t, version, "healthz")); h.Status != "ok" {
		t.Errorf("health %+v", h)
	}
	l.addConnz(askTopConns, decodeInto[connz](t, capture(t, version, "connz")))
	i := slices.IndexFunc(l.conns(), func(c fleet.Conn) bool { return c.Name == "the-app" })
	if i < 0 {
		t.Fatalf("connections %+v", l.conns())
	}
	if c := l.conns()[i]; c.CID == 0 || c.Account != "APP" || c.User != "app" || c.Lang != "go" || c.Version == "" || c.IP != "127.0.0.1" ||
		c.Subs == 0 || c.InMsgs == 0 || c.OutMsgs == 0 || c.InBytes == 0 || c.OutBytes == 0 || c.Start.IsZero() || c.Idle == "" {
		t.Errorf("connection %+v", c)
	}
	sums := newConnSums(s.ID, at)
	z := decodeInto[connz](t, capture(t, version, "connz"))
	sums.add(z)
	if list := sums.list(); z.Total == 0 || len(list) == 0 || list[0].Conns == 0 {
		t.Errorf("total %d, sums %+v", z.Total, list)
	}
	l.setLeafz(decodeInto[leafz](t, capture(t, version, "leafz")))
	if len(l.leafs) != 1 || l.leafs[0].Account != "APP" || l.leafs[0].Name != "edge" || l.leafs[0].IP != "127.0.0.1" || l.leafs[0].Subs == 0 {
		t.Errorf("leafs %+v", l.leafs)
	}
	l.setGatewayz(decodeInto[gatewayz](t, capture(t, version, "gatewayz")))
	if len(l.gateways) != 1 || l.gateways[0].FromCluster != "GA" || l.gateways[0].ToCluster != "GB" || len(l.known) != 1 || l.known[0].ip != "127.0.0.1" {
		t.Errorf("gateways %+v, known %+v", l.gateways, l.known)
	}
	l.setAccstatz(decodeInto[accstatz](t, capture(t, version, "accstatz")))
	i = slices.IndexFunc(l.accounts, func(a fleet.Account) bool { return a.Name == "APP" })
	if i < 0 || l.accounts[i].Conns == 0 || l.accounts[i].Leafs != 1 || l.accounts[i].Subs == 0 || l.accounts[i].InMsgs == 0 || l.accounts[i].OutMsgs == 0 || l.accounts[i].InBytes == 0 {
		t.Errorf("accounts %+v", l.accounts)
	}
	page, err := readConnz(decoder(capture(t, version, "connz-subs")), connPage)
	if err != nil {
		t.Fatal(err)
	}
	checkQueues(t, s.ID, page)
	checkAccounts(t, decodeInto[accountz](t, capture(t, version, "accountz")), decodeInto[accountz](t, capture(t, version, "accountz-app")))
	if n := decodeInto[subsz](t, capture(t, version, "subsz")); n.Subs == 0 || n.Inserts == 0 || n.Matches == 0 || n.Cached == 0 {
		t.Errorf("subscriptions %+v", n)
	}
	if _, err := readIpqueuesz(decoder(capture(t, version, "ipqueuesz"))); err != nil {
		t.Errorf("queues: %v", err)
	}

	configs := readCaptured(t, version, "jsz-configs", &s)
	checkAssets(t, configs, "solo")
	figures := readCaptured(t, version, "jsz-figures", &s)
	if c := east(t, figures); c.AckPolicy != "" {
		t.Errorf("figures have configurations: %+v; then they need not be asked for twice", c)
	}
	inv := &inventory{}
	inv.merge([]*assets{configs}, func(string) bool { return true }, func(string) bool { return false })
	if inv.lacks(figures) {
		t.Error("nothing is new, yet configurations are asked for")
	}
	checkAssets(t, inv.complete(figures), "solo")

	// The same over the system account.
	got := &look{}
	sys := func(name string, read func(d *json.Decoder) error) {
		t.Helper()
		if _, err := (systemAsk{largest: maxAnswer}).open(&nats.Msg{Data: capture(t, version, name)}, func(id string, d *json.Decoder) error {
			if id != s.ID {
				t.Errorf("%s is of %s, want %s", name, id, s.ID)
			}
			return read(d)
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	sys("sys-varz", func(d *json.Decoder) error {
		var v varz
		err := d.Decode(&v)
		got.setVarz(&v, fleet.System, at, time.Millisecond)
		return err
	})
	if got.server.Version != s.Version || got.server.Name != s.Name || got.server.Mem == 0 || got.server.JetStream == nil {
		t.Errorf("server %+v over the system account", got.server)
	}
	sys("sys-connz", func(d *json.Decoder) error {
		var z connz
		err := d.Decode(&z)
		got.addConnz(askTopConns, &z)
		return err
	})
	if !slices.ContainsFunc(got.conns(), func(c fleet.Conn) bool { return c.Name == "the-app" && c.Account == "APP" }) {
		t.Errorf("connections %+v over the system account", got.conns())
	}
	sys("sys-connz-subs", func(d *json.Decoder) error {
		z, err := readConnz(d, connPage)
		checkQueues(t, s.ID, z)
		return err
	})
	var list, app accountz
	sys("sys-accountz", func(d *json.Decoder) error { return d.Decode(&list) })
	sys("sys-accountz-app", func(d *json.Decoder) error { return d.Decode(&app) })
	checkAccounts(t, &list, &app)
	sys("sys-accstatz", func(d *json.Decoder) error {
		var z accstatz
		err := d.Decode(&z)
		got.setAccstatz(&z)
		return err
	})
	if len(got.accounts) == 0 {
		t.Error("no accounts over the system account")
	}
	sys("sys-subsz", func(d *json.Decoder) error {
		var z subsz
		err := d.Decode(&z)
		if z.Subs == 0 {
			t.Errorf("subscriptions %+v", z)
		}
		return err
	})
	sys("sys-statsz", func(d *json.Decoder) error {
		var z struct {
			Active int `json:"active_servers"`
		}
		err := d.Decode(&z)
		if z.Active != 1 {
			t.Errorf("%d active servers, want 1", z.Active)
		}
		return err
	})
	sys("sys-jsz-configs", func(d *json.Decoder) error {
		a, err := readAssets(d, &s, at)
		if err == nil {
			checkAssets(t, a, "solo")
		}
		return err
	})
}

// checkQueues looks for the queue group that work makes.
func checkQueues(t *testing.T, server string, z *subbedConnz) {
	t.Helper()
	var q queues
	groups, _ := q.update([]seen{lookAt(server, t0, z)}, ownName)
	i := slices.IndexFunc(groups, func(g fleet.QueueGroup) bool { return g.Subject == "work.>" && g.Queue == "workers" })
	if i < 0 {
		t.Fatalf("queue groups %+v", groups)
	}
	g := groups[0]
	if m := g.Members[0]; len(groups) != 1 || g.Account != "APP" || g.Total != 1 || m.Msgs != 1 || m.Name != "the-app" || m.CID == 0 || m.SID == "" ||
		m.IP != "127.0.0.1" || m.Lang != "go" || m.Version == "" || m.Start.IsZero() || m.Active.IsZero() || m.RTT <= 0 {
		t.Errorf("queue groups %+v", groups)
	}
}

func checkAccounts(t *testing.T, list, app *accountz) {
	t.Helper()
	if names := list.asked(); !slices.Contains(names, "APP") || !slices.Contains(names, "SYS") || list.System != "SYS" {
		t.Errorf("accounts %+v", list)
	}
	out := map[string]fleet.AccountSettings{}
	app.addTo(out, t0)
	got := out["APP"]
	if got.Updated.IsZero() || !got.JetStream || got.System || got.Expired || got.Incomplete || got.Imports != 0 || len(out) != 1 {
		t.Errorf("account %+v", out)
	}
}

func readCaptured(t *testing.T, version, name string, s *fleet.Server) *assets {
	t.Helper()
	a, err := readAssets(decoder(capture(t, version, name)), s, time.Now())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	a.configs = strings.HasSuffix(name, "configs")
	return a
}

func east(t *testing.T, a *assets) fleet.Consumer {
	t.Helper()
	i := slices.IndexFunc(a.consumers, func(c fleet.Consumer) bool { return c.Consumer == "east" })
	if i < 0 {
		t.Fatalf("consumers %+v", a.consumers)
	}
	return a.consumers[i]
}

func checkAssets(t *testing.T, a *assets, leader string) {
	t.Helper()
	if len(a.streams) != 1 {
		t.Fatalf("streams %+v", a.streams)
	}
	st := a.streams[0]
	if st.Account != "APP" || st.Stream != "ORDERS" || st.Created.IsZero() || !slices.Equal(st.Subjects, []string{"orders.>"}) || st.Storage != "file" ||
		st.Retention != "limits" || st.Replicas == 0 || st.Leader != leader || st.Messages != 20 || st.Bytes == 0 || st.FirstSeq != 1 || st.LastSeq != 20 ||
		st.LastTime.IsZero() || st.Consumers != 2 || st.MaxBytes != 1<<20 || st.MaxMsgs != -1 || st.MaxAge != time.Hour || st.Metadata["team"] != "payments" ||
		st.Limits == nil || st.Limits.Peers != 3 {
		t.Errorf("stream %+v, limits %+v", st, st.Limits)
	}
	c := east(t, a)
	if c.Created.IsZero() || !slices.Equal(c.FilterSubjects, []string{"orders.a"}) || c.AckPolicy != "explicit" || c.AckWait != time.Minute ||
		c.MaxDeliver != 7 || c.MaxAckPending != 5000 || c.SampleFreq != "100" || c.Delivered != 7 || c.DeliveredSeq != 7 || c.AckFloor != 4 ||
		c.AckFloorSeq != 4 || c.LastDelivery.IsZero() || c.LastAck.IsZero() || c.AckPending != 3 || c.Pending != 13 || !c.Durable ||
		c.Limits == nil || c.Limits.Unprocessed != 100 {
		t.Errorf("consumer %+v, limits %+v", c, c.Limits)
	}
	if n := slices.IndexFunc(a.consumers, func(c fleet.Consumer) bool { return isShortLived(&c) }); n < 0 && len(a.consumers) > 1 {
		// The rare name that looks chosen is judged by its shape alone.
		if name := a.consumers[1-slices.IndexFunc(a.consumers, func(c fleet.Consumer) bool { return c.Consumer == "east" })].Consumer; isServerMade(name) {
			t.Errorf("consumer %q is not taken for a short-lived one", name)
		}
	}
}

func checkCluster(t *testing.T, version string) {
	var all []*assets
	ids, leader := map[string]string{}, ""
	for i := 1; i <= 3; i++ {
		node := fmt.Sprintf("n%d", i)
		l := &look{}
		l.setVarz(decodeInto[varz](t, capture(t, version, node+"-varz")), fleet.Monitoring, time.Now(), time.Millisecond)
		s := l.server
		ids[s.ID] = node
		if s.Name != node || s.Cluster != "C" || s.JetStream == nil || s.JetStream.MetaSize != 3 || s.JetStream.MetaLeader == "" || s.Routes == 0 {
			t.Errorf("server %+v, JetStream %+v", s, s.JetStream)
		}
		l.setRoutez(decodeInto[routez](t, capture(t, version, node+"-routez")))
		names := map[string]bool{}
		for _, r := range l.routes {
			names[r.ToName] = true
			if r.To == "" || r.Conns == 0 || r.Uptime <= 0 || r.RTT <= 0 {
				t.Errorf("route %+v", r)
			}
		}
		if len(names) != 2 {
			t.Errorf("%s has routes to %v, want the two others", node, names)
		}
		a := readCaptured(t, version, node+"-jsz-configs", &s)
		if len(a.streams) > 0 {
			leader = node
			if st := a.streams[0]; len(st.Peers) != 2 || st.Peers[0].Name == "" || !st.Peers[0].Current && !st.Peers[1].Current {
				t.Errorf("peers %+v", st.Peers)
			}
		}
		all = append(all, a)
		raft, err := readRaftz(decoder(capture(t, version, node+"-raftz")))
		if err != nil || raft.Groups == 0 {
			t.Errorf("%s: Raft groups %+v, %v", node, raft, err)
		}
	}
	inv := &inventory{}
	inv.merge(all, func(string) bool { return true }, func(string) bool { return false })
	if leader == "" || len(inv.streams) != 1 || len(inv.consumers) != 2 || inv.gaps != 0 {
		t.Fatalf("leader %q, streams %v, consumers %v, %d gaps", leader, inv.streams, inv.consumers, inv.gaps)
	}
	k := fleet.ConsumerKey{Account: "APP", Stream: "ORDERS", Consumer: "east"}
	if c := inv.consumers[k]; c.Pending != 13 || c.AckPending != 3 || c.Leader == "" || len(c.Peers) != 2 {
		t.Errorf("consumer %+v, want its leader's word", c)
	}
}

// What is kept of this machine's servers names nothing of it.
func TestCapturesHoldNoSecrets(t *testing.T) {
	t.Parallel()
	foreign := regexp.MustCompile(`canary|/tmp|password"`)
	err := filepath.WalkDir(captures, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if m := foreign.Find(b); m != nil {
			t.Errorf("%s holds %q", path, m)
		}
		if len(b) > 64<<10 {
			t.Errorf("%s has %d bytes, want small captures", path, len(b))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
