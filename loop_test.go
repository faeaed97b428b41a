package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/loadtest"
	"ballast/traffic"
)

// rig is a cluster, a stream with one consumer a target, workers, and a console
// that looks at them.
type rig struct {
	cluster *natstest.Servers
	url     string
	split   traffic.Split

	mu           sync.Mutex // guards receiptToAck
	receiptToAck map[string][]time.Duration
}

// newRig starts three servers and a console; the split's targets get workers
// that take about mean for a message.
func newRig(tb testing.TB, mean time.Duration, weights map[string]int) *rig {
	tb.Helper()
	r := &rig{cluster: natstest.Cluster(tb, 3), receiptToAck: map[string][]time.Duration{}}
	r.split = traffic.Split{
		Name: "jobs", Subject: "jobs", Pick: traffic.Weighted, Driver: traffic.DriverKV,
		Mode: traffic.Observe, Law: traffic.LawCapacity,
	}
	ctx := tb.Context()
	js, err := jetstream.New(r.cluster.App(tb), jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "JOBS", Subjects: []string{"jobs.>"}, Replicas: 3}); err != nil {
		tb.Fatal(err)
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for n := range weights {
			if !yield(n) {
				return
			}
		}
	})
	for i, name := range names {
		r.split.Targets = append(r.split.Targets, traffic.Target{
			Name: name, Subject: "jobs." + name, Weight: weights[name], State: traffic.Ready,
			Observe: &traffic.Observed{Stream: "JOBS", Consumer: name},
		})
		if _, err := js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{
			Durable: name, FilterSubject: "jobs." + name, AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: 30 * time.Second, MaxAckPending: 1000, SampleFrequency: "100",
		}); err != nil {
			tb.Fatal(err)
		}
		r.work(tb, name, mean, uint64(i))
	}

	app, err := newApp(ctx, setup{
		listen: "127.0.0.1:0", data: tb.TempDir(), system: "rig", operator: "tester",
		conn: r.cluster.App(tb), monitor: r.cluster.MonitorURLs(), interval: time.Second, bake: time.Minute,
		stopping: time.Second, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		tb.Fatal(err)
	}
	runUntilCleanup(tb, "the console", app.Run)
	r.url = "http://" + app.addr()
	wait.For(tb, time.Minute, "the console to be ready", func() bool {
		code, _ := tryGet(r.url + "/readyz")
		return code == http.StatusOK
	})
	r.create(tb)
	wait.For(tb, time.Minute, "the split's consumers among those whose samples are always heard", func() bool {
		return len(app.followed()) == len(app.control.Splits()[0].Split.Targets)
	})
	return r
}

// runUntilCleanup runs something that ends with its context.
func runUntilCleanup(tb testing.TB, what string, run func(context.Context) error) {
	tb.Helper()
	ctx, cancel := withCancel(tb)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("%s ended with %v", what, err)
		}
	})
}

// work runs sixteen handlers for a target, with log-normal service times.
func (r *rig) work(tb testing.TB, target string, mean time.Duration, seed uint64) {
	tb.Helper()
	var mu sync.Mutex // guards rnd
	rnd := rand.New(rand.NewPCG(7, seed))
	w, err := lb.NewWorker(r.cluster.App(tb), lb.WorkerConfig{
		Split: r.split.Name, Target: target, Stream: "JOBS", Consumer: target, Concurrency: 16,
		Handler: func(ctx context.Context, _ jetstream.Msg) error {
			if mean == 0 {
				return nil
			}
			mu.Lock()
			took := time.Duration(float64(mean) * math.Exp(0.5*rnd.NormFloat64()-0.125))
			mu.Unlock()
			timer := time.NewTimer(took)
			defer timer.Stop()
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		Observe: func(o lb.Outcome) {
			if o.Err == nil {
				r.mu.Lock()
				r.receiptToAck[target] = append(r.receiptToAck[target], o.ReceiptToAck)
				r.mu.Unlock()
			}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	runUntilCleanup(tb, "the workers of "+target, w.Run)
}

// post sends a form as a browser without JavaScript does, and returns where it
// led.
func post(tb testing.TB, base, path string, form url.Values) string {
	tb.Helper()
	code, location, answer := tryPost(tb, base, path, form)
	if code != http.StatusSeeOther {
		tb.Fatalf("POST %s = %d\n%.3000s", path, code, answer)
	}
	return location
}

// tryPost sends a form that may be refused.
func tryPost(tb testing.TB, base, path string, form url.Values) (code int, location, answer string) {
	tb.Helper()
	req, err := http.NewRequest(http.MethodPost, base+path, strings.NewReader(form.Encode()))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", base)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Get("Location"), string(body)
}

// create makes the split by the console's form.
func (r *rig) create(tb testing.TB) {
	tb.Helper()
	form := url.Values{
		"name": {r.split.Name}, "subject": {r.split.Subject}, "pick": {string(r.split.Pick)},
		"mode": {string(r.split.Mode)}, "law": {string(r.split.Law)}, "reason": {"first weights"},
	}
	for i, t := range r.split.Targets {
		p := fmt.Sprintf("t.%d.", i)
		form.Set(p+"name", t.Name)
		form.Set(p+"subject", t.Subject)
		form.Set(p+"observe", t.Observe.Stream+"/"+t.Observe.Consumer)
		form.Set(p+"weight", fmt.Sprint(t.Weight))
		form.Set(p+"tier", "0")
		form.Set(p+"state", string(t.State))
	}
	if to := post(tb, r.url, "/splits/create", form); to != "/splits/"+r.split.Name {
		tb.Fatalf("creating the split led to %s", to)
	}
}

// publisher follows the split and marks its messages with the revision.
func (r *rig) publisher(tb testing.TB) *lb.Publisher {
	tb.Helper()
	p, err := lb.NewPublisher(r.cluster.App(tb), r.split.Name, lb.WithMarks())
	if err != nil {
		tb.Fatal(err)
	}
	runUntilCleanup(tb, "the publisher", p.Run)
	if err := p.Ready(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return p
}

// Fifty changes by form under load: nothing lost, nothing twice, and the time
// from the click to the first message by the new weights.
func TestWeightsByFormLoseNothing(t *testing.T) {
	r := newRig(t, 0, map[string]int{"east": 60, "west": 30, "backup": 10})
	p := r.publisher(t)
	js, err := jetstream.New(r.cluster.App(t), jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	v := loadtest.NewVerifier(loadtest.VerifierConfig{Run: "changes", Split: r.split, RevisionHeader: lb.RevisionHeader})
	runUntilCleanup(t, "the verifier", func(ctx context.Context) error { return v.Follow(ctx, js, "JOBS") })

	load, stopLoad := context.WithCancel(t.Context())
	defer stopLoad()
	reports := make(chan loadtest.Report, 1)
	go func() {
		report, err := loadtest.Run(load, loadtest.Config{Publisher: p, Rate: 1000, Count: 1 << 20, Run: "changes", Seed: 1})
		if err != nil && load.Err() == nil {
			t.Errorf("load: %v", err)
		}
		reports <- report
	}()
	wait.For(t, time.Minute, "messages to flow", func() bool { return v.Count() > 100 })

	const changes = 50
	var took []time.Duration
	rev := getJSON[splitData](t, r.url+"/splits/jobs.json").Revision.Number
	for i := range changes {
		east := 10 + (i*37)%70
		clicked := time.Now()
		post(t, r.url, "/splits/jobs/apply", url.Values{
			"base": {fmt.Sprint(rev)}, "reason": {fmt.Sprintf("change %d", i)},
			"w.east": {fmt.Sprint(east)}, "w.west": {fmt.Sprint(90 - east)}, "w.backup": {"10"},
		})
		rev++
		wait.For(t, time.Minute, fmt.Sprintf("a message by revision %d", rev), func() bool { _, ok := v.FirstBy(rev); return ok })
		at, _ := v.FirstBy(rev)
		took = append(took, at.Sub(clicked))
		seen := v.Count()
		wait.For(t, time.Minute, "more messages by it", func() bool { return v.Count() >= seen+20 })
	}
	stopLoad()
	report := <-reports
	wait.For(t, time.Minute, "every acknowledged message to arrive", func() bool { return len(v.Check(report).Missing) == 0 })
	verdict := v.Check(report)
	if verdict.Duplicates != 0 || verdict.Strays != 0 || report.Failed != 0 || verdict.Delivered != report.Acknowledged+verdict.Unasked {
		t.Errorf("published %d, acknowledged %d, failed %d; %+v: want nothing lost and nothing twice", report.Due, report.Acknowledged, report.Failed, verdict)
	}
	acked := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, list := range r.receiptToAck {
			n += len(list)
		}
		return n
	}
	defer func() { t.Logf("the workers acknowledged %d", acked()) }()
	wait.For(t, time.Minute, "the workers to acknowledge all of it", func() bool { return acked() == verdict.Delivered })
	slices.Sort(took)
	t.Logf("%d changes by form, %d messages published, %d delivered, 0 lost, 0 duplicated; click to first message by the new weights: p50 %v, p99 %v, max %v",
		changes, report.Acknowledged, verdict.Delivered, rank(took, .5), rank(took, .99), took[len(took)-1])
}

// The console's ACK latency against the exact quantiles of the servers' own
// samples, recorded raw beside it.
func TestLatencyIsWhatTheServersMeasured(t *testing.T) {
	const count = 20_000
	r := newRig(t, 8*time.Millisecond, map[string]int{"east": 60, "west": 40})
	p := r.publisher(t)

	var mu sync.Mutex // guards raw
	raw := map[string][]time.Duration{}
	nc := r.cluster.App(t)
	if _, err := nc.Subscribe("$JS.EVENT.METRIC.CONSUMER.ACK.JOBS.>", func(m *nats.Msg) {
		var sample struct {
			Consumer string        `json:"consumer"`
			AckTime  time.Duration `json:"ack_time"`
		}
		if err := json.Unmarshal(m.Data, &sample); err != nil {
			t.Errorf("sample %q: %v", m.Data, err)
		}
		mu.Lock()
		raw[sample.Consumer] = append(raw[sample.Consumer], sample.AckTime)
		mu.Unlock()
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	report, err := loadtest.Run(t.Context(), loadtest.Config{Publisher: p, Rate: 1000, Count: count, Poisson: true, Seed: 3, Attempts: 5})
	if err != nil || report.Acknowledged != count {
		t.Fatalf("load: %v\n%s", err, report)
	}
	var doc struct {
		Targets []struct {
			Name    string  `json:"name"`
			Samples int     `json:"ack_samples"`
			P50     float64 `json:"ack_p50_ms"`
			P95     float64 `json:"ack_p95_ms"`
			P99     float64 `json:"ack_p99_ms"`
		} `json:"targets"`
	}
	wait.For(t, time.Minute, "every sample in the console's report", func() bool {
		q := url.Values{"from": {began.Add(-5 * time.Second).Format(time.RFC3339Nano)}, "to": {time.Now().Format(time.RFC3339Nano)}}
		body := get(t, r.url+"/reports/jobs.json?"+q.Encode())
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatalf("%v\n%.500s", err, body)
		}
		total := 0
		for _, target := range doc.Targets {
			total += target.Samples
		}
		mu.Lock()
		defer mu.Unlock()
		return total == len(raw["east"])+len(raw["west"]) && total >= count
	})
	mu.Lock()
	defer mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, target := range doc.Targets {
		exact, own := raw[target.Name], r.receiptToAck[target.Name]
		slices.Sort(exact)
		slices.Sort(own)
		if len(exact) != target.Samples {
			t.Errorf("%s: the console counts %d samples, %d were recorded", target.Name, target.Samples, len(exact))
		}
		for _, q := range []struct {
			name  string
			q     float64
			shown float64
		}{{"p50", .5, target.P50}, {"p95", .95, target.P95}, {"p99", .99, target.P99}} {
			want := float64(rank(exact, q.q)) / 1e6
			off := q.shown/want - 1
			t.Logf("%s %s: console %.3f ms, servers' samples %.3f ms (%+.2f %%), the workers' receipt to ACK %.3f ms", target.Name, q.name, q.shown, want, 100*off, float64(rank(own, q.q))/1e6)
			if math.Abs(off) > 0.01 {
				t.Errorf("%s %s is %.2f %% off", target.Name, q.name, 100*off)
			}
		}
	}
}

// rank is the nearest-rank quantile of sorted values.
func rank(sorted []time.Duration, q float64) time.Duration {
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}
