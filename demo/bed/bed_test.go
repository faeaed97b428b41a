package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	ps "github.com/shirou/gopsutil/v4/process"

	"ballast/internal/wait"
)

// The test binary is three programs: the tests, a nats-server, and a bed that a
// test can kill.
const (
	runAs  = "BALLAST_TEST_RUN_AS"
	bedDir = "BALLAST_TEST_BED_DIR"
)

func TestMain(m *testing.M) {
	switch os.Getenv(runAs) {
	case "nats-server":
		if err := ServerMain(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "bed":
		bedMain()
	default:
		os.Exit(m.Run())
	}
}

// bedMain prints the servers' processes and stays until it is killed.
func bedMain() {
	b, err := Start(context.Background(), Config{Size: Small, Dir: os.Getenv(bedDir), Server: testServer, Streams: 2, Consumers: 2, Connections: 2})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(b.PIDs())
	forever := make(chan os.Signal, 1)
	signal.Notify(forever, syscall.SIGUSR1)
	<-forever
}

func testServer(config string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(exe, config)
	cmd.Env = append(os.Environ(), runAs+"=nats-server")
	return cmd
}

func start(tb testing.TB, cfg Config) *Bed {
	tb.Helper()
	cfg.Dir, cfg.Server = filepath.Join(tb.TempDir(), "bed"), testServer
	b, err := Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Errorf("close the bed: %v", err)
		}
	})
	return b
}

// run runs the workload until the test ends.
func run(tb testing.TB, b *Bed) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the workload ended with %v", err)
		}
	})
}

func get[T any](tb testing.TB, url string) T {
	tb.Helper()
	var v T
	resp, err := http.Get(url)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &v)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("GET %s: %s, %v\n%.500s", url, resp.Status, err, body)
	}
	return v
}

// seen is what the servers report by themselves.
type seen struct {
	streams map[string]*server.StreamDetail // by account and name, from their leaders
	conns   []string                        // names of the connections
}

const allOfJetStream = "/jsz?accounts=1&streams=1&consumers=1&config=1&leader-only=0&limit=1000"

func look(tb testing.TB, b *Bed) seen {
	tb.Helper()
	s := seen{streams: map[string]*server.StreamDetail{}}
	for _, srv := range b.Servers {
		js := get[server.JSInfo](tb, srv.MonitorURL+allOfJetStream)
		for _, a := range js.AccountDetails {
			for i, st := range a.Streams {
				if st.Cluster == nil || st.Cluster.Leader == "" || st.Cluster.Leader == srv.Name {
					s.streams[a.Name+"/"+st.Name] = &a.Streams[i]
				}
			}
		}
		for offset := 0; ; offset += 500 {
			page := get[server.Connz](tb, fmt.Sprintf("%s/connz?limit=500&offset=%d", srv.MonitorURL, offset))
			for _, c := range page.Conns {
				if c.Kind == "Leafnode" { // a server lists them with its clients
					continue
				}
				s.conns = append(s.conns, c.Name)
			}
			if page.Offset+page.NumConns >= page.Total {
				break
			}
		}
	}
	return s
}

// check compares what the servers report with the plan, name by name.
func (s seen) check(tb testing.TB, b *Bed) {
	tb.Helper()
	consumers := 0
	for _, want := range b.plan.streams {
		key := want.seat.account + "/" + want.config.Name
		got := s.streams[key]
		if got == nil {
			tb.Errorf("no server shows stream %q", key)
			continue
		}
		if got.Config.Replicas != want.config.Replicas || fmt.Sprint(got.Config.Retention) != fmt.Sprint(want.config.Retention) ||
			fmt.Sprint(got.Config.Storage) != fmt.Sprint(want.config.Storage) || got.Config.MaxMsgs != want.config.MaxMsgs {
			tb.Errorf("stream %q: %+v, want %+v", key, got.Config, want.config)
		}
		names := map[string]*server.ConsumerInfo{}
		for _, c := range got.Consumer {
			names[c.Name] = c
		}
		for _, c := range want.consumers {
			got := names[c.config.Durable]
			switch {
			case got == nil:
				tb.Errorf("stream %q: no server shows consumer %q", key, c.config.Durable)
			case got.Config.SampleFrequency != c.config.SampleFrequency || got.Config.DeliverSubject != c.config.DeliverSubject:
				tb.Errorf("stream %q, consumer %q: %+v, want %+v", key, c.config.Durable, got.Config, c.config)
			default:
				consumers++
			}
		}
	}
	if len(s.streams) != b.Streams || consumers != b.Consumers || len(s.conns) != b.Connections {
		tb.Errorf("the servers show %d streams, %d consumers and %d connections; want %d, %d and %d",
			len(s.streams), consumers, len(s.conns), b.Streams, b.Consumers, b.Connections)
	}
	for _, c := range b.plan.conns {
		if !slices.Contains(s.conns, c.name) {
			tb.Errorf("no server shows a connection named %q", c.name)
		}
	}
}

func TestSmall(t *testing.T) {
	t.Parallel()
	b := start(t, Config{Size: Small, Rate: 500, Churn: 20})
	if b.Streams != 20 || b.Consumers != 100 || b.Connections != 200 {
		t.Errorf("%d streams, %d consumers, %d connections; want 20, 100, 200", b.Streams, b.Consumers, b.Connections)
	}
	look(t, b).check(t, b)

	run(t, b)
	wait.For(t, 30*time.Second, "the workload", func() bool {
		w := b.Work()
		return w.Published > 500 && w.Acknowledged > 500 && w.Ephemerals > 5
	})
	if w := b.Work(); w.Unstored > 0 {
		t.Errorf("%d of %d messages were not stored", w.Unstored, w.Published)
	}
	// The servers' figures move: the busy streams hold messages, a worked
	// consumer's acknowledgements advance, a sampled one exists among them.
	now := look(t, b)
	sampled := false
	for _, s := range b.busy() {
		got := now.streams[s.seat.account+"/"+s.config.Name]
		if got.State.LastSeq == 0 {
			t.Errorf("busy stream %q got no message", got.Name)
		}
		for _, c := range got.Consumer {
			worked := slices.ContainsFunc(s.consumers, func(p consumerPlan) bool { return p.worked && p.config.Durable == c.Name })
			if worked && c.AckFloor.Consumer == 0 {
				t.Errorf("consumer %q of stream %q acknowledged nothing", c.Name, got.Name)
			}
			sampled = sampled || worked && c.Config.SampleFrequency != ""
		}
	}
	if !sampled {
		t.Error("no consumer of the workload is sampled")
	}
}

// What a watcher costs a server, and for what, is seen in the server's profile;
// nobody else's server has one open.
func TestServersHaveProfilersWhenAsked(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{false, true} {
		b := start(t, Config{Size: Small, Streams: 2, Consumers: 2, Connections: 2, Profile: asked})
		url := b.Servers[0].ProfileURL
		if !asked {
			if url != "" {
				t.Errorf("a profiler at %s that nobody asked for", url)
			}
			continue
		}
		wait.For(t, time.Minute, "the server's profiler", func() bool {
			resp, err := http.Get(url + "heap?debug=1")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			return err == nil && strings.Contains(string(text), "TotalAlloc")
		})
	}
}

func TestUsersSeeTheirAccounts(t *testing.T) {
	t.Parallel()
	b := start(t, Config{Size: Large, Streams: 10, Consumers: 20, Connections: 10})
	look(t, b).check(t, b) // both applications' accounts have streams
	for _, u := range []User{b.AppUser, b.SysUser} {
		password, err := os.ReadFile(u.File)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(strings.Join(b.URLs, ","), nats.UserInfo(u.Name, strings.TrimSpace(string(password))))
		if err != nil {
			t.Fatalf("connect as %s: %v", u.Name, err)
		}
		defer nc.Close()
		m, err := nc.Request("$SYS.REQ.USER.INFO", nil, 5*time.Second)
		if err != nil {
			t.Fatalf("ask who %s is: %v", u.Name, err)
		}
		if !strings.Contains(string(m.Data), fmt.Sprintf(`"account":%q`, u.Account)) {
			t.Errorf("%s is not in account %s: %s", u.Name, u.Account, m.Data)
		}
	}
}

func TestSuperCluster(t *testing.T) {
	t.Parallel()
	b := start(t, Config{Size: Super, Streams: 10, Consumers: 24, Connections: 28, Rate: 100, Churn: 5})
	if len(b.Servers) != 7 || len(b.PIDs()) != 7 || len(b.URLs) != 6 || len(b.MonitorURLs) != 7 {
		t.Fatalf("servers %+v, URLs %v, monitoring %v", b.Servers, b.URLs, b.MonitorURLs)
	}
	look(t, b).check(t, b)

	// One request to the system account reaches all, the leaf node included.
	sys, err := nats.Connect(b.URLs[0], nats.UserInfo(b.SysUser.Name, b.SysUser.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close()
	var mu sync.Mutex // guards names
	names := map[string]bool{}
	inbox := sys.NewRespInbox()
	_, err = sys.Subscribe(inbox, func(m *nats.Msg) {
		var answer server.ServerAPIResponse
		if json.Unmarshal(m.Data, &answer) == nil && answer.Server != nil {
			mu.Lock()
			names[answer.Server.Name] = true
			mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.PublishRequest("$SYS.REQ.SERVER.PING.VARZ", inbox, nil); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "an answer of all servers", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range b.Servers {
			if !names[s.Name] {
				return false
			}
		}
		return true
	})
	run(t, b)
	wait.For(t, 60*time.Second, "the workload", func() bool {
		w := b.Work()
		return w.Published > 100 && w.Acknowledged > 100 && w.Ephemerals > 2
	})
}

// alive tells whether a process runs; one that only waits to be collected does
// not.
func alive(pid int) bool {
	p, err := ps.NewProcess(int32(pid))
	if err != nil {
		return false
	}
	status, err := p.Status()
	return err == nil && !slices.Contains(status, ps.Zombie)
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bed")
	b, err := Start(t.Context(), Config{Size: Small, Dir: dir, Server: testServer, Streams: 3, Consumers: 3, Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	pid := b.PIDs()[0]
	if !alive(pid) {
		t.Error("the server does not run as a process")
	}
	// A second one in the same place is refused and leaves the first alone.
	if _, err := Start(t.Context(), Config{Size: Small, Dir: dir, Server: testServer}); err == nil || !strings.Contains(err.Error(), "another bed") {
		t.Errorf("a second bed in the directory: %v", err)
	}
	if _, err := os.Stat(b.AppUser.File); err != nil {
		t.Errorf("the first bed's password is gone: %v", err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if alive(pid) {
		t.Error("the server is still running")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestCloseKeepsTheFilesOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "console.db")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Start(t.Context(), Config{Size: Small, Dir: dir, Server: testServer, Streams: 1, Consumers: 1, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || !slices.Equal(left, []string{other}) {
		t.Errorf("left %v (%v), want %s", left, err, other)
	}
}

func TestServersDieWithAKilledBed(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), runAs+"=bed", bedDir+"="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	err = json.NewDecoder(out).Decode(&pids)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || len(pids) != 1 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	wait.For(t, 30*time.Second, "the end of the servers", func() bool { return !slices.ContainsFunc(pids, alive) })
}

func TestRunEndsWhenAServerDies(t *testing.T) {
	t.Parallel()
	b := start(t, Config{Size: Small, Streams: 2, Consumers: 2, Connections: 2, Rate: 50})
	done := make(chan error, 1)
	go func() { done <- b.Run(t.Context()) }()
	wait.For(t, 30*time.Second, "the workload", func() bool { return b.Work().Acknowledged > 5 })
	if err := syscall.Kill(b.PIDs()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "bed-1") {
			t.Errorf("ended with %v, want an error that names the server", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the workload goes on without a server")
	}
}

func TestStartSaysWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bed")
	_, err := Start(t.Context(), Config{Size: Small, Dir: dir, Server: func(config string) *exec.Cmd {
		if err := os.WriteFile(config, []byte("no_such_setting { \n"), 0o600); err != nil {
			t.Error(err)
		}
		return testServer(config)
	}})
	if err == nil || !strings.Contains(err.Error(), "read the server's configuration") {
		t.Errorf("error %v, want the server's own words", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestStartStopsWhenTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	dir := filepath.Join(t.TempDir(), "bed")
	_, err := Start(ctx, Config{Size: Small, Dir: dir, Server: func(config string) *exec.Cmd {
		cancel()
		return testServer(config)
	}})
	if err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestUsageCountsWhatAProcessDoes(t *testing.T) {
	t.Parallel()
	before, err := UsageOf(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before.RSS < 1<<20 {
		t.Errorf("%d bytes in memory", before.RSS)
	}
	n := 0
	wait.For(t, 30*time.Second, "50 ms of CPU time", func() bool {
		for range 1 << 20 {
			n++
		}
		now, err := UsageOf(t.Context(), os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return now.CPU >= before.CPU+50*time.Millisecond
	})
	if _, err := UsageOf(t.Context(), 1<<30); err == nil {
		t.Error("a process that does not exist has a usage")
	}
}

// What one look at everything costs the server of Large, in its own CPU time:
// the baseline for a console that does not ask for everything.
func BenchmarkLargeAnswersEverything(b *testing.B) {
	bed := start(b, Config{Size: Large})
	pid := bed.PIDs()[0]
	before, err := UsageOf(b.Context(), pid)
	if err != nil {
		b.Fatal(err)
	}
	var size int64
	for b.Loop() {
		resp, err := http.Get(bed.MonitorURLs[0] + "/jsz?accounts=1&streams=1&consumers=1&config=1")
		if err != nil {
			b.Fatal(err)
		}
		size, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
	}
	after, err := UsageOf(b.Context(), pid)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((after.CPU-before.CPU).Microseconds())/1000/float64(b.N), "server-cpu-ms/op")
	b.ReportMetric(float64(size), "answer-bytes")
	b.ReportMetric(float64(before.RSS)/(1<<20), "server-MiB-before")
	b.ReportMetric(float64(after.RSS)/(1<<20), "server-MiB-after")
}
