package main

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/demo/bed"
	"ballast/internal/wait"
	"ballast/loadtest"
)

// measureVariable asks for measurements that take minutes and a quiet machine:
// "watching", or "watching-quick" for about eleven minutes.
const measureVariable = "BALLAST_MEASURE"

// What watching may cost on a large bed.
const (
	watchInterval  = 5 * time.Second
	maxConsoleCPU  = 8    // % of a core
	maxConsoleRSS  = 200  // MB
	maxServerShare = 0.5  // of what a full poll costs the servers
	maxSlowing     = 1.2  // of the p99 of publishing
	probeRate      = 200. // messages a second of the publisher that is timed
)

// fullPoll is what a watcher asks a server that asks for everything.
const fullPoll = "/jsz?accounts=true&streams=true&consumers=true&config=true"

// spans are how long the blocks of one round last.
type spans struct {
	rounds                         int
	idle, poll, settle, watch, eye time.Duration
}

// What watching costs, on separate processes and interleaved in one run: blocks
// in which nobody watches lie between those in which a plain HTTP client asks
// for everything and those in which the console watches. At the end it watches
// once without a connection of the account, and so without what the servers push
// there: samples of acknowledgements and advisories.
func TestWatchingCosts(t *testing.T) {
	var s spans
	switch os.Getenv(measureVariable) {
	case "watching":
		s = spans{rounds: 5, idle: 60 * time.Second, poll: 60 * time.Second, settle: 30 * time.Second, watch: 100 * time.Second, eye: 60 * time.Second}
	case "watching-quick":
		s = spans{rounds: 3, idle: 20 * time.Second, poll: 40 * time.Second, settle: 20 * time.Second, watch: 60 * time.Second, eye: 30 * time.Second}
	default:
		// One short round on a small bed: the command itself stays in order.
		s = spans{rounds: 1, idle: time.Second, poll: 5 * time.Second, settle: time.Second, watch: 2 * time.Second, eye: time.Second}
	}
	size, rate := bed.Large, 500.
	measured := os.Getenv(measureVariable) != ""
	if !measured {
		size, rate = bed.Small, 100
	}
	w := newWatching(t, size, rate)
	var table rows
	base := []load{w.block(s.idle, nil)}
	for range s.rounds {
		w.polled = append(w.polled, w.block(s.poll, w.pollAll))
		base = append(base, w.block(s.idle, nil))
		console, url := w.console()
		w.block(s.settle, nil) // its first look is whole
		l := w.block(s.watch, nil)
		l.console, l.peak = w.used.console, peakOf(t, console.cmd.Process.Pid)
		w.watched = append(w.watched, l)
		if len(w.watched) == s.rounds {
			w.viewed = w.block(s.eye, func(ctx context.Context) { w.view(ctx, url) })
			w.viewed.console, w.viewed.peak = w.used.console, peakOf(t, console.cmd.Process.Pid)
			w.pages(url)
			w.complete(url)
		}
		w.end(console)
		base = append(base, w.block(s.idle, nil))
	}
	deaf := w.serve(w.bed.SysUser)
	w.block(s.settle, nil)
	w.deaf = w.block(s.watch, nil)
	w.end(deaf)
	w.base = append(base, w.block(s.idle, nil))
	w.fill(&table)
	t.Logf("\n%s", table.String())
	if !measured {
		return
	}
	for _, miss := range table.missed {
		t.Error(miss)
	}
}

// watching is a bed, a publisher that is timed, and what was measured.
type watching struct {
	t       *testing.T
	bed     *bed.Bed
	js      jetstream.JetStream
	data    string
	started *process // the console that runs now; nil: none
	used    load

	base, polled, watched []load
	viewed, deaf          load
	answers               []pageTimes
}

// load is what one block used.
type load struct {
	span    time.Duration
	servers time.Duration // CPU
	console time.Duration
	peak    float64 // MB of the console since it started
	p50     time.Duration
	p99     time.Duration
}

func (l load) perInterval() time.Duration {
	return time.Duration(float64(l.servers) / l.span.Seconds() * watchInterval.Seconds())
}

func (l load) consoleShare() float64 { return 100 * l.console.Seconds() / l.span.Seconds() }

const probeStream = "PROBE"

func newWatching(t *testing.T, size bed.Size, rate float64) *watching {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &watching{t: t, data: filepath.Join(dir, "console")}
	w.bed, err = bed.Start(t.Context(), bed.Config{
		Size: size, Dir: filepath.Join(dir, "bed"), Rate: rate, Churn: 2, Profile: true,
		Server: func(config string) *exec.Cmd {
			cmd := exec.Command(exe, "bed-server", "-c", config)
			cmd.Env = append(os.Environ(), runAs+"=ballast")
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.bed.Close(); err != nil {
			t.Errorf("close the bed: %v", err)
		}
	})
	runUntilCleanup(t, "the bed's work", w.bed.Run)
	nc, err := nats.Connect(w.bed.URLs[0], nats.UserInfo(w.bed.AppUser.Name, w.bed.AppUser.Password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if w.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	_, err = w.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: probeStream, Subjects: []string{"probe"}, Storage: jetstream.MemoryStorage, MaxMsgs: 10_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// PublishJS is the timed publisher's.
func (w *watching) PublishJS(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	m.Subject = "probe"
	return w.js.PublishMsg(ctx, m)
}

// block lasts a span, in which the publisher runs and beside it whatever is
// given, and returns what was used.
func (w *watching) block(span time.Duration, beside func(context.Context)) load {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	w.sweep()
	before := w.usage()
	go func() {
		defer close(done)
		if beside != nil {
			beside(ctx)
		}
	}()
	began := time.Now()
	r, err := loadtest.Run(ctx, loadtest.Config{Publisher: w, Rate: probeRate, Count: int(probeRate * span.Seconds()), Poisson: true, Timeout: time.Minute})
	took := time.Since(began)
	after := w.usage()
	cancel()
	<-done
	if err != nil || r.Failed > 0 {
		w.t.Fatalf("%v; %v", err, r)
	}
	w.used = load{
		span: took, servers: after.servers - before.servers + w.sweep(), console: after.console - before.console,
		p50: r.Latency.Quantile(.5), p99: r.Latency.Quantile(.99),
	}
	return w.used
}

// sweep has every server collect its garbage and returns which part of the CPU
// for it is owed by what was allocated since the last time. A collection takes a
// third of a second on a large bed and comes once in a minute or two: without
// this, a block would be charged with one or not by chance.
func (w *watching) sweep() (owed time.Duration) {
	w.t.Helper()
	for _, srv := range w.bed.Servers {
		cpu := func() time.Duration {
			u, err := bed.UsageOf(w.t.Context(), srv.PID)
			if err != nil {
				w.t.Fatal(err)
			}
			return u.CPU
		}
		full := w.heap(srv.ProfileURL + "heap?debug=1")
		before := cpu()
		live := w.heap(srv.ProfileURL + "heap?debug=1&gc=1")
		owed += time.Duration(float64(cpu()-before) * min(1, max(0, full-live)/live))
	}
	return owed
}

var heapInUse = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

// heap is what a server has allocated and not freed, by its profiler.
func (w *watching) heap(url string) float64 {
	w.t.Helper()
	var m [][]byte
	wait.For(w.t, time.Minute, "the profiler of a server", func() bool {
		_, body := tryGet(url)
		m = heapInUse.FindSubmatch(body)
		return m != nil
	})
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || n == 0 {
		w.t.Fatalf("%s says %s", url, m[0])
	}
	return n
}

// usage is the CPU that servers and console used since they started.
func (w *watching) usage() (sum load) {
	w.t.Helper()
	of := func(pid int) time.Duration {
		u, err := bed.UsageOf(w.t.Context(), pid)
		if err != nil {
			w.t.Fatal(err)
		}
		return u.CPU
	}
	for _, pid := range w.bed.PIDs() {
		sum.servers += of(pid)
	}
	if w.started != nil {
		sum.console = of(w.started.cmd.Process.Pid)
	}
	return sum
}

// pollAll asks every server for everything, once an interval.
func (w *watching) pollAll(ctx context.Context) {
	// From the middle of an interval on: a block has one for each of its intervals.
	next := time.NewTimer(watchInterval / 2)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			next.Reset(watchInterval)
		case <-ctx.Done():
			return
		}
		for _, url := range w.bed.MonitorURLs {
			if _, err := fetch(ctx, url+fullPoll); err != nil && ctx.Err() == nil {
				w.t.Errorf("poll a server: %v", err)
			}
		}
	}
}

// fetch reads an answer to its end and returns its size.
func fetch(ctx context.Context, url string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s = %s", url, resp.Status)
	}
	return n, err
}

// console starts one with all its sources.
func (w *watching) console() (*process, string) {
	w.t.Helper()
	p := w.serve(w.bed.AppUser)
	return p, p.url(w.t)
}

// serve starts a console that sees the account of this user. The system account
// takes no samples and has no JetStream of its own.
func (w *watching) serve(account bed.User) *process {
	w.t.Helper()
	b := w.bed
	w.started = startProcess(w.t, "ballast", nil, "serve", "--listen", "127.0.0.1:0", "--data", w.data,
		"--nats", strings.Join(b.URLs, ","), "--user", account.Name, "--password-file", account.File,
		"--sys-user", b.SysUser.Name, "--sys-password-file", b.SysUser.File,
		"--monitor", b.MonitorURLs[0], "--interval", watchInterval.String())
	return w.started
}

func (w *watching) end(p *process) {
	w.t.Helper()
	if code := p.end(w.t, syscall.SIGTERM, time.Minute); code != exitOK {
		w.t.Errorf("the console ended with code %d", code)
	}
	w.started = nil
}

// viewedPages are open in the last block, and asked 200 times each after it.
var viewedPages = []string{"/", "/consumers", "/topology", "/findings"}

var liveAddress = regexp.MustCompile(`hx-sse:connect="([^"]+)"`)

// view keeps the first three pages open, as three browsers do.
func (w *watching) view(ctx context.Context, url string) {
	var open []chan struct{}
	for _, page := range viewedPages[:3] {
		_, body := tryGet(url + page)
		m := liveAddress.FindSubmatch(body)
		if m == nil {
			w.t.Errorf("page %s has no live stream", page)
			continue
		}
		done := make(chan struct{})
		open = append(open, done)
		go func() {
			defer close(done)
			n, _ := fetch(ctx, url+html.UnescapeString(string(m[1]))) // ends with ctx
			if n == 0 {
				w.t.Errorf("the live stream of page %s said nothing", page)
			}
		}()
	}
	for _, done := range open {
		<-done
	}
}

type pageTimes struct {
	page     string
	size     int64
	p50, p99 time.Duration
}

func (w *watching) pages(url string) {
	w.t.Helper()
	const requests = 200
	for _, page := range append(slices.Clone(viewedPages), "/consumers.json") {
		var took []time.Duration
		var size int64
		for range requests {
			began := time.Now()
			n, err := fetch(w.t.Context(), url+page)
			if err != nil {
				w.t.Fatal(err)
			}
			size = n
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		w.answers = append(w.answers, pageTimes{page, size, took[requests/2], took[requests*99/100]})
	}
}

// complete checks that what was measured was a console that sees what is there.
func (w *watching) complete(url string) {
	w.t.Helper()
	name := fmt.Appendf(nil, "STREAM-%04d", w.bed.Streams-1)
	wait.For(w.t, time.Minute, "the bed's last stream on the console", func() bool {
		_, body := tryGet(fmt.Sprintf("%s/consumers.json?q=%s", url, name))
		return bytes.Contains(body, name)
	})
}

// peakOf is the most memory that a process had, in MB.
func peakOf(t *testing.T, pid int) float64 {
	t.Helper()
	if runtime.GOOS == "linux" {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
				if err != nil {
					t.Fatal(err)
				}
				return kb / 1024
			}
		}
	}
	u, err := bed.UsageOf(t.Context(), pid)
	if err != nil {
		t.Fatal(err)
	}
	return float64(u.RSS) / (1 << 20)
}

// rows are the table of what was measured.
type rows struct {
	b      bytes.Buffer
	missed []string
}

func (r *rows) String() string {
	var out bytes.Buffer
	tw := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, _ = tw.Write(r.b.Bytes())
	_ = tw.Flush()
	return out.String()
}

func (r *rows) say(what, got string) { fmt.Fprintf(&r.b, "%s\t%s\t\t\n", what, got) }

func (r *rows) judge(what, got string, ok bool, target string) {
	verdict := "met"
	if !ok {
		verdict = "MISSED"
		r.missed = append(r.missed, fmt.Sprintf("%s: %s, the target is %s", what, got, target))
	}
	fmt.Fprintf(&r.b, "%s\t%s\ttarget %s\t%s\n", what, got, target, verdict)
}

// fill compares each block with the idle blocks before and after it: the bed
// itself grows a little all the time.
func (w *watching) fill(r *rows) {
	r.say("bed", fmt.Sprintf("%d streams, %d consumers, %d connections", w.bed.Streams, w.bed.Consumers, w.bed.Connections))
	around := func(i int) float64 { return float64(w.base[i].perInterval()+w.base[i+1].perInterval()) / 2 }
	var polled, watched, shares, cpu, peaks, slowing []float64
	for i := range w.watched {
		polled = append(polled, float64(w.polled[i].perInterval())-around(2*i))
		watched = append(watched, float64(w.watched[i].perInterval())-around(2*i+1))
		shares = append(shares, watched[i]/polled[i])
		cpu = append(cpu, w.watched[i].consoleShare())
		peaks = append(peaks, w.watched[i].peak)
		slowing = append(slowing, 2*float64(w.watched[i].p99)/float64(w.base[2*i+1].p99+w.base[2*i+2].p99))
	}
	var idle, p50, p99 []float64
	for _, l := range w.base {
		idle, p50, p99 = append(idle, float64(l.perInterval())), append(p50, float64(l.p50)), append(p99, float64(l.p99))
	}
	r.say("servers' CPU per interval, nobody watches", spread(idle, millis))
	r.say("more with a full poll", spread(polled, millis))
	r.say("more with the console", spread(watched, millis))
	r.say("more with the console, without the account", millis(float64(w.deaf.perInterval())-around(len(w.base)-2))+" (one block)")
	share := mean(watched) / mean(polled)
	r.judge("the console's share of a full poll's", fmt.Sprintf("%.2f (by round %s)", share, spread(shares, plain)), mean(polled) > 0 && share <= maxServerShare, fmt.Sprintf("≤ %.2f", maxServerShare))
	r.judge("console's CPU", spread(cpu, percent), median(cpu) <= maxConsoleCPU, fmt.Sprintf("≤ %d %% of a core", maxConsoleCPU))
	r.say("console's CPU, three pages open", percent(w.viewed.consoleShare()))
	r.judge("console's memory at its peak", spread(peaks, megabytes), slices.Max(peaks) <= maxConsoleRSS, fmt.Sprintf("≤ %d MB", maxConsoleRSS))
	r.judge("console's memory, three pages open", megabytes(w.viewed.peak), w.viewed.peak <= maxConsoleRSS, fmt.Sprintf("≤ %d MB", maxConsoleRSS))
	r.say("publish p50, p99, nobody watches", spread(p50, millis)+"; "+spread(p99, millis))
	r.judge("publish p99, watched to unwatched", spread(slowing, plain), median(slowing) <= maxSlowing, fmt.Sprintf("≤ ×%.1f", maxSlowing))
	for _, p := range w.answers {
		r.say("page "+p.page, fmt.Sprintf("p50 %s, p99 %s, %d KB", millis(float64(p.p50)), millis(float64(p.p99)), p.size>>10))
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func mean(v []float64) float64 {
	sum := 0.
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

func spread(v []float64, text func(float64) string) string {
	return fmt.Sprintf("%s (%s to %s)", text(median(v)), text(slices.Min(v)), text(slices.Max(v)))
}

func millis(ns float64) string   { return fmt.Sprintf("%.1f ms", ns/1e6) }
func percent(v float64) string   { return fmt.Sprintf("%.1f %%", v) }
func megabytes(v float64) string { return fmt.Sprintf("%.0f MB", v) }
func plain(v float64) string     { return fmt.Sprintf("%.2f", v) }
