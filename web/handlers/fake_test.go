package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/browser"
	"ballast/internal/sketch"
	"ballast/traffic"
)

// serveAddr shows the fixture in a browser instead of running the tests:
//
//	go test ./web/handlers -serve 127.0.0.1:8099
var serveAddr = flag.String("serve", "", "serve the fixture on this address instead of running the tests")

func TestMain(m *testing.M) {
	flag.Parse()
	if *serveAddr == "" {
		os.Exit(browser.Main(m))
	}
	w := newWorld()
	if *fleetSize > 0 {
		w.grow(*fleetSize)
	}
	w.now = time.Now
	w.shift(time.Now())
	s := New(w.deps())
	ln, err := net.Listen("tcp", *serveAddr)
	if err != nil {
		panic(err)
	}
	fmt.Println("serving the fixture on http://" + ln.Addr().String())
	go s.Run(context.Background())
	panic(http.Serve(ln, s.Handler()))
}

// epoch is the time of the fixture.
var epoch = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// world is a fixture of everything that the pages read: a three-server cluster,
// two splits with a history, a suggestion, a journal. Its fields may be changed
// before the first request.
type world struct {
	mu        sync.Mutex
	now       func() time.Time
	snap      *fleet.Snapshot
	rates     *fleet.Rates
	splits    []traffic.Revision
	history   map[string][]traffic.Revision
	changes   []traffic.Change
	proposals []traffic.Proposal
	decisions map[string]traffic.Decision
	entries   []traffic.Entry // newest first
	events    []fleet.Event
	load      map[string]load // by target
	measured  []traffic.Measurement
	findings  *fakeFindings
	demo      *fakeDemo

	inForce []traffic.InForce // what InForce says of every split

	mapping    string // what Mapping says of every split
	mappingErr error
	servers    string // what a dry run says that the servers get

	settings    map[fleet.ConsumerKey]traffic.ConsumerSettings // in force; what is not there is plain
	setChanges  []traffic.ConsumerChange                       // newest first
	settingsErr error                                          // what every question about settings answers
	unpinned    []string

	ready      error // what Ready says
	planErr    error // what Plan, Apply and the other verbs answer
	metricsErr error // what every measurement answers
}

// load is what a target does in the fixture.
type load struct {
	rate, p50, sigma float64 // msg/s, ms, of a log-normal
	pending          uint64
	redelivered      uint64
	workers          int
	estimated        bool
}

func (w *world) deps() Deps {
	d := Deps{
		Metrics: w, Columns: columnsOf, Journal: w, Control: w, Log: slog.New(slog.DiscardHandler), Now: w.now,
		System: "demo", Version: "0.1.0-test", Operator: "ada", Interval: time.Second,
	}
	if w.demo != nil {
		d.Demo = w.demo
	}
	if w.findings != nil {
		d.Findings = w.findings
	}
	return d
}

func newWorld() *world {
	w := &world{now: func() time.Time { return epoch }, history: map[string][]traffic.Revision{}, decisions: map[string]traffic.Decision{},
		load: map[string]load{
			"worker-east-1":   {rate: 214, p50: 38, sigma: 0.62, pending: 812, redelivered: 9, workers: 4},
			"worker-west-1":   {rate: 106, p50: 5.2, sigma: 0.4, pending: 3, workers: 4},
			"worker-backup-1": {rate: 37, p50: 7.9, sigma: 0.5, workers: 2},
			"eu":              {rate: 41, p50: 11, sigma: 0.3, workers: 2},
			"us":              {rate: 39, p50: 12, sigma: 0.3, pending: 2, estimated: true},
		},
		demo: &fakeDemo{state: DemoState{Rate: 360, NormalRate: 360, Published: 184_223,
			Targets: []DemoTarget{{"worker-east-1", true, 8, 4}, {"worker-west-1", true, 1, 4}, {"worker-backup-1", false, 1, 2}},
			Servers: []DemoServer{{"n1", true}, {"n2", true}, {"n3", false}}}},
	}
	w.snapshot()
	w.services("pay", "ship")
	w.orders()
	w.payments()
	w.journal()
	w.events = []fleet.Event{
		{ID: 3, At: epoch.Add(-4 * time.Minute), Kind: "server.restarted", Severity: fleet.Warning, Entity: "n3", Text: "n3 restarted; its counters began again."},
		{ID: 2, At: epoch.Add(-9 * time.Minute), Kind: "consumer.created", Severity: fleet.Info, Entity: "ORDERS/worker-west-1", Text: "Consumer worker-west-1 was created."},
	}
	return w
}

// empty is a console that has not seen NATS yet.
func emptyWorld() *world {
	return &world{now: func() time.Time { return epoch }, snap: &fleet.Snapshot{}, rates: &fleet.Rates{}, history: map[string][]traffic.Revision{},
		decisions: map[string]traffic.Decision{}, load: map[string]load{},
		ready: &fleet.Error{Kind: fleet.Unavailable, Msg: "NATS cannot be reached.", Hint: "Check --nats and that the server runs; Ballast tries again by itself."}}
}

func (w *world) snapshot() {
	at := epoch.Add(-600 * time.Millisecond)
	s := &fleet.Snapshot{TakenAt: at, Expected: 3, Cost: fleet.Cost{Requests: 12, Bytes: 48_123, Took: 31 * time.Millisecond}}
	replicas := func(leader string) []fleet.Replica {
		var out []fleet.Replica
		for _, n := range []string{"n1", "n2", "n3"} {
			if n != leader {
				out = append(out, fleet.Replica{Name: n, Current: true, Active: 200 * time.Millisecond})
			}
		}
		return out
	}
	for i, n := range []string{"n1", "n2", "n3"} {
		s.Servers = append(s.Servers, fleet.Server{
			ID: "S" + n, Name: n, Cluster: "demo", Version: "2.15.2", Host: "127.0.0.1", Port: 4222 + i, URL: fmt.Sprintf("http://127.0.0.1:%d", 8222+i),
			State: fleet.Healthy, At: at, Start: at.Add(-time.Hour), Now: at, RTT: 2 * time.Millisecond, Source: fleet.Monitoring, Cores: 4,
			CPU: float64(12 + 9*i), Mem: int64(60+i) << 20, Conns: 12 + i, Subs: 140, Routes: 8,
			InMsgs: 1_200_000, OutMsgs: 1_190_000, InBytes: 310 << 20, OutBytes: 309 << 20,
			JetStream: &fleet.JetStream{Store: 120 << 20, MaxStore: 4 << 30, MaxMemory: 1 << 30, Streams: 3, Consumers: 5, MetaLeader: "n2", MetaSize: 3},
		})
		for j, o := range []string{"n1", "n2", "n3"} {
			if i != j {
				s.Routes = append(s.Routes, fleet.Route{From: "S" + n, To: "S" + o, ToName: o, RTT: 300 * time.Microsecond, Conns: 4, At: at, InMsgs: 900, OutMsgs: 880})
			}
		}
	}
	s.Accounts = []fleet.Account{{Name: "APP", Conns: 21, Subs: 130, At: at}, {Name: "SYS", Conns: 1, Subs: 9, At: at}}
	for _, name := range []string{"ORDERS", "PAYMENTS"} {
		s.Streams = append(s.Streams, fleet.Stream{StreamKey: fleet.StreamKey{Account: "APP", Stream: name}, Created: at.Add(-time.Hour),
			Subjects: []string{strings.ToLower(name) + ".>"}, Storage: "file", Retention: "limits", Replicas: 3, Leader: "n1", Peers: replicas("n1"),
			Messages: 91_222, Bytes: 21 << 20, LastSeq: 91_222, Consumers: 3, At: at, Source: fleet.Monitoring})
	}
	for i, c := range []string{"worker-backup-1", "worker-east-1", "worker-west-1", "eu", "us"} {
		stream := "ORDERS"
		if i > 2 {
			stream = "PAYMENTS"
		}
		leader := []string{"n1", "n2", "n3"}[i%3]
		l := w.load[c]
		con := fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "APP", Stream: stream, Consumer: c}, Created: at.Add(-time.Hour), Leader: leader, Peers: replicas(leader),
			FilterSubjects: []string{"orders.process." + c}, AckPolicy: "explicit", AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 1000,
			SampleFreq: "100", Delivered: 40_000, AckFloor: 39_900, AckPending: 31, Redelivered: int(l.redelivered), Pending: l.pending, Waiting: 2, At: at, Source: fleet.Monitoring}
		if l.estimated {
			con.SampleFreq = ""
		}
		s.Consumers = append(s.Consumers, con)
	}
	w.snap = s
	r := &fleet.Rates{At: at, Servers: map[string]fleet.LinkRate{}, Routes: map[[2]string]fleet.LinkRate{}, Gateways: map[[2]string]fleet.LinkRate{}, Leafs: map[[2]string]fleet.LinkRate{},
		Streams: map[fleet.StreamKey]fleet.LinkRate{}, Consumers: map[fleet.ConsumerKey]fleet.ConsumerRate{}}
	for _, sv := range s.Servers {
		r.Servers[sv.Name] = fleet.LinkRate{InMsgs: 410, OutMsgs: 402, InBytes: 120_000, OutBytes: 118_000}
	}
	for _, ro := range s.Routes {
		r.Routes[[2]string{ro.From, ro.To}] = fleet.LinkRate{InMsgs: 120, OutMsgs: 119}
	}
	for _, c := range s.Consumers {
		l := w.load[c.Consumer]
		r.Consumers[c.ConsumerKey] = fleet.ConsumerRate{Arrived: l.rate, Delivered: l.rate, Acked: l.rate}
		lr := r.Streams[fleet.StreamKey{Account: c.Account, Stream: c.Stream}]
		lr.InMsgs += l.rate
		r.Streams[fleet.StreamKey{Account: c.Account, Stream: c.Stream}] = lr
	}
	w.rates = r
}

func target(name, subject, stream string, weight int) traffic.Target {
	return traffic.Target{Name: name, Subject: subject + "." + name, Weight: weight, State: traffic.Ready,
		Observe: &traffic.Observed{Account: "APP", Stream: stream, Consumer: name}}
}

func (w *world) orders() {
	sp := traffic.Split{Name: "orders", Subject: "orders.process", Pick: traffic.Weighted, Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawCapacity,
		Targets: []traffic.Target{target("worker-east-1", "orders.process", "ORDERS", 60), target("worker-west-1", "orders.process", "ORDERS", 30), target("worker-backup-1", "orders.process", "ORDERS", 10)}}
	weights := [][3]int{{34, 33, 33}, {50, 30, 20}, {40, 40, 20}, {60, 30, 10}}
	reasons := []string{"First version", "East has the new machines", "Try an even front", "East carries more since the upgrade"}
	var before traffic.Split
	for i, v := range weights {
		next := sp.WithWeights(map[string]int{"worker-east-1": v[0], "worker-west-1": v[1], "worker-backup-1": v[2]})
		n := uint64(i + 1)
		at := epoch.Add(-time.Duration(60-15*i) * time.Minute)
		w.history["orders"] = slices.Insert(w.history["orders"], 0, traffic.Revision{V: 1, Epoch: 1, Number: n, Base: n - 1, Change: fmt.Sprintf("c%d", n), Author: "ada", Reason: reasons[i], At: at, Split: next, Token: n})
		ch := traffic.Change{ID: fmt.Sprintf("c%d", n), Split: "orders", Phase: traffic.Verified, Base: n - 1, Revision: n, Actor: "ada", Reason: reasons[i], Before: before, After: next,
			Created: at, Written: at.Add(90 * time.Millisecond), BakeEnds: at.Add(time.Minute), Ended: at.Add(time.Minute), Guard: true, Outcome: "p99 stayed within 5 % of before.",
			Effect: &traffic.Effect{MeanBefore: 9 * time.Millisecond, MeanAfter: 8 * time.Millisecond, P99Before: 31 * time.Millisecond, P99After: 29 * time.Millisecond, SamplesBefore: 4211, SamplesAfter: 4188}}
		if i == 2 {
			ch.Phase, ch.Outcome = traffic.RolledBack, "p99 of worker-west-1 rose from 21 ms to 64 ms."
		}
		w.changes = slices.Insert(w.changes, 0, ch)
		before = next
	}
	w.splits = append(w.splits, w.history["orders"][0])
	est := func(name string, rate, capacity float64, workers int, service, lat, p99 time.Duration, backlog uint64) traffic.Estimate {
		return traffic.Estimate{Target: name, Rate: rate, Capacity: capacity, Quality: traffic.QualityReports, Utilization: rate / capacity, Workers: workers, Service: service,
			Latency: lat, P99: p99, Samples: uint64(rate * 60), Acked: uint64(rate * 60), Backlog: backlog, Age: 2 * time.Second}
	}
	estimates := []traffic.Estimate{
		est("worker-east-1", 214, 131, 4, 30*time.Millisecond, 46*time.Millisecond, 162*time.Millisecond, 812),
		est("worker-west-1", 106, 820, 4, 4900*time.Microsecond, 5600*time.Microsecond, 13*time.Millisecond, 3),
		est("worker-backup-1", 37, 260, 2, 7700*time.Microsecond, 9*time.Millisecond, 25*time.Millisecond, 0),
	}
	estimates[2].Quality, estimates[2].Note = traffic.QualityLatency, "no worker reports; capacity from ACK latency and backlog"
	open := traffic.Proposal{ID: "p7", Split: "orders", Base: 4, At: epoch.Add(-20 * time.Second), Expires: epoch.Add(4 * time.Minute), Window: time.Minute, Law: traffic.LawCapacity, Kind: "relief",
		Moves:     []traffic.Move{{Target: "worker-east-1", From: 60, To: 40, LimitedBy: "step"}, {Target: "worker-west-1", From: 30, To: 45}, {Target: "worker-backup-1", From: 10, To: 15}},
		Title:     "Move 20 points of orders away from worker-east-1",
		Why:       "worker-east-1 is asked for 214 msg/s and can do 131: its ACK latency p99 is 162 ms over 12,840 samples and its backlog grew to 812 messages in the last minute, while worker-west-1 uses 13 % of what it can do.",
		Estimates: estimates, Predicted: traffic.Prediction{MeanBefore: 29 * time.Millisecond, P99Before: 158 * time.Millisecond, MeanAfter: 9 * time.Millisecond, P99After: 34 * time.Millisecond, RhoBefore: 1.63, RhoAfter: 0.94},
		Alternatives: []traffic.Alternative{{Law: "capacity, no step limit", Weights: map[string]int{"worker-east-1": 11, "worker-west-1": 68, "worker-backup-1": 21}, Rho: 0.3}},
		Confidence:   traffic.High, Guards: []string{"step: a change moves at most 20 points at once"}, Status: traffic.Open}
	applied, dismissed := open, open
	applied.ID, applied.Status, applied.Change, applied.At, applied.Base = "p3", traffic.Applied, "c4", epoch.Add(-16*time.Minute), 3
	applied.ClosedAt, applied.ClosedBy, applied.Title = epoch.Add(-15*time.Minute), "ada", "Move 20 points of orders to worker-east-1"
	applied.Moves = []traffic.Move{{Target: "worker-east-1", From: 40, To: 60}, {Target: "worker-west-1", From: 40, To: 30}, {Target: "worker-backup-1", From: 20, To: 10}}
	dismissed.ID, dismissed.Status, dismissed.At, dismissed.ClosedBy = "p1", traffic.Dismissed, epoch.Add(-40*time.Minute), "ada"
	dismissed.ClosedAt, dismissed.Confidence, dismissed.Title = epoch.Add(-39*time.Minute), traffic.Low, "Move 3 points of orders to worker-backup-1"
	w.proposals = append(w.proposals, open, applied, dismissed)
	w.decisions["orders"] = traffic.Decision{Split: "orders", At: epoch.Add(-2 * time.Second), Estimates: estimates, Proposal: &open, Why: open.Why}
}

func (w *world) payments() {
	sp := traffic.Split{Name: "payments", Subject: "payments.capture", Pick: traffic.ByKey, Driver: traffic.DriverKV, Mode: traffic.Observe, Law: traffic.LawCapacity,
		Targets: []traffic.Target{target("eu", "payments.capture", "PAYMENTS", 50), target("us", "payments.capture", "PAYMENTS", 50), target("old", "payments.capture", "PAYMENTS", 0)}}
	sp.Targets[2].State = traffic.Maint
	rev := traffic.Revision{V: 1, Epoch: 1, Number: 1, Change: "d1", Author: "ada", Reason: "First version", At: epoch.Add(-2 * time.Hour), Split: sp, Token: 9}
	w.splits = append(w.splits, rev)
	w.history["payments"] = []traffic.Revision{rev}
	w.decisions["payments"] = traffic.Decision{Split: "payments", At: epoch.Add(-2 * time.Second), Why: "The present weights are within 2 points of the best: nothing to gain.", Vetoes: []string{"mode is observe"}}
}

// bake puts the newest change of orders back into its bake time.
func (w *world) bake() {
	w.changes[0].Phase, w.changes[0].Ended, w.changes[0].BakeEnds, w.changes[0].Effect, w.changes[0].Outcome = traffic.Baking, time.Time{}, w.now().Add(42*time.Second), nil, ""
}

func (w *world) journal() {
	add := func(ago time.Duration, kind traffic.EntryKind, actor, text string, ch *traffic.Change) {
		e := traffic.Entry{Seq: uint64(len(w.entries) + 1), At: epoch.Add(-ago), Kind: kind, Split: "orders", Actor: actor, Text: text}
		if len(w.entries) > 0 {
			e.Prev = w.entries[0].Hash
		}
		if ch != nil {
			e.Change = ch.ID
			e.Data, _ = json.Marshal(ch)
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "%s%d%s%s", e.Prev, e.Seq, e.Kind, e.Text))
		e.Hash = hex.EncodeToString(sum[:])
		w.entries = slices.Insert(w.entries, 0, e)
	}
	for i := len(w.changes) - 1; i >= 0; i-- {
		ch := &w.changes[i]
		ago := epoch.Sub(ch.Created)
		add(ago, traffic.EntryIntent, "ada", fmt.Sprintf("Write revision %d of orders: %s.", ch.Revision, ch.Reason), ch)
		add(ago-time.Second, traffic.EntryWritten, "ballast", fmt.Sprintf("Revision %d of orders is in force.", ch.Revision), ch)
		if ch.Phase == traffic.RolledBack {
			add(ago-30*time.Second, traffic.EntryRollback, "ballast guard", fmt.Sprintf("Revision %d of orders was rolled back: %s", ch.Revision, ch.Outcome), ch)
		} else {
			add(ago-time.Minute, traffic.EntryVerified, "ballast", fmt.Sprintf("Revision %d of orders is verified.", ch.Revision), ch)
		}
	}
	add(30*time.Second, traffic.EntryDemo, "ada", "Demo fault: worker-east-1 works 8 times slower.", nil)
	add(20*time.Second, traffic.EntryProposal, "tuner", w.proposals[0].Title+".", nil)
}

// record adds an entry to the journal, as the newest.
func (w *world) record(kind traffic.EntryKind, change string, data any) {
	e := traffic.Entry{Seq: w.entries[0].Seq + 1, At: w.now(), Kind: kind, Actor: "ada", Change: change, Text: "Something was done."}
	e.Data, _ = json.Marshal(data)
	w.entries = slices.Insert(w.entries, 0, e)
}

// shift moves the fixture's times to now, for looking at it in a browser.
func (w *world) shift(now time.Time) {
	d := now.Sub(epoch)
	w.snap.TakenAt = w.snap.TakenAt.Add(d)
	for i := range w.snap.Servers {
		w.snap.Servers[i].At = w.snap.Servers[i].At.Add(d)
	}
	for i := range w.entries {
		w.entries[i].At = w.entries[i].At.Add(d)
	}
	for i := range w.events {
		w.events[i].At = w.events[i].At.Add(d)
	}
	for i := range w.changes {
		c := &w.changes[i]
		c.Created, c.Written, c.BakeEnds, c.Ended = c.Created.Add(d), c.Written.Add(d), c.BakeEnds.Add(d), c.Ended.Add(d)
	}
	for i := range w.proposals {
		p := &w.proposals[i]
		p.At, p.Expires, p.ClosedAt = p.At.Add(d), p.Expires.Add(d), p.ClosedAt.Add(d)
	}
	for i := range w.splits {
		w.splits[i].At = w.splits[i].At.Add(d)
	}
	for _, h := range w.history {
		for i := range h {
			h[i].At = h[i].At.Add(d)
		}
	}
	for k, dec := range w.decisions {
		dec.At = dec.At.Add(d)
		w.decisions[k] = dec
	}
	go func() { // the figures stay young
		for range time.Tick(time.Second) {
			w.mu.Lock()
			s := *w.snap
			s.TakenAt = time.Now()
			s.Servers = slices.Clone(s.Servers)
			for i := range s.Servers {
				if s.Servers[i].State != fleet.Unreachable {
					s.Servers[i].At = s.TakenAt
				}
			}
			w.snap = &s
			w.mu.Unlock()
		}
	}()
	w.bake()
}

// Metrics

func (w *world) Latest() *fleet.Snapshot { w.mu.Lock(); defer w.mu.Unlock(); return w.snap }
func (w *world) Rates() *fleet.Rates     { return w.rates }

func (w *world) Series(_ context.Context, q fleet.SeriesQuery) (fleet.Series, error) {
	if w.metricsErr != nil {
		return fleet.Series{}, w.metricsErr
	}
	out := fleet.Series{SeriesQuery: q, Source: fleet.Monitoring}
	n := max(min(q.Points, 120), 2)
	out.Step = q.Span() / time.Duration(n)
	base, name := 40.0, q.Key[strings.LastIndexByte(q.Key, '/')+1:]
	if l, ok := w.load[name]; ok {
		base = l.rate
	}
	for i := range n {
		p := fleet.Point{At: q.From.Add(time.Duration(i) * out.Step), N: 5}
		if i == n/3 {
			p.N = 0 // a gap
		}
		p.Avg = base * (1 + 0.12*math.Sin(float64(i)/7) + 0.05*math.Sin(float64(i)*1.7))
		p.Min, p.Max = p.Avg*0.9, p.Avg*1.1
		out.Data = append(out.Data, p)
	}
	return out, nil
}

func (w *world) Latency(_ context.Context, k fleet.ConsumerKey, r fleet.Range, points int) (fleet.Latency, error) {
	if w.metricsErr != nil {
		return fleet.Latency{}, w.metricsErr
	}
	l := w.load[k.Consumer]
	out := fleet.Latency{ConsumerKey: k, Range: r, Source: fleet.AckSample, Share: 1, Last: r.To}
	if l.estimated {
		out.Source, out.Share, out.Mean = fleet.Estimate, 0, ms(l.p50)
	} else {
		out.Total = logNormal(l, int(l.rate*60))
		out.Mean = out.Total.Mean()
	}
	n := max(min(points, 120), 2)
	out.Step = r.Span() / time.Duration(n)
	for i := range n {
		f := 1 + 0.15*math.Sin(float64(i)/6) + 0.07*math.Sin(float64(i)*2.1)
		p := fleet.LatencyPoint{At: r.From.Add(time.Duration(i) * out.Step), N: uint64(l.rate * out.Step.Seconds()), Mean: ms(l.p50 * f)}
		if !l.estimated {
			p.P50, p.P95, p.P99, p.Max = ms(l.p50*f), ms(l.p50*f*2.6), ms(l.p50*f*4), ms(l.p50*f*5)
		}
		out.Data = append(out.Data, p)
	}
	return out, nil
}

func (w *world) LatencyParts(ctx context.Context, k fleet.ConsumerKey, r fleet.Range, points int) (fleet.Latency, []fleet.LatencyPart, error) {
	lat, err := w.Latency(ctx, k, r, points)
	if err != nil || lat.Source == fleet.Estimate {
		return lat, nil, err
	}
	var parts []fleet.LatencyPart
	for _, p := range lat.Data {
		l := w.load[k.Consumer]
		l.p50 = float64(p.P50) / float64(time.Millisecond)
		if p.N > 0 {
			parts = append(parts, fleet.LatencyPart{At: p.At, Sketch: logNormal(l, int(p.N))})
		}
	}
	return lat, parts, nil
}

func ms(f float64) time.Duration { return time.Duration(f * float64(time.Millisecond)) }

// logNormal puts n values at the quantiles of the distribution: no randomness.
func logNormal(l load, n int) *sketch.Sketch {
	sk := &sketch.Sketch{}
	n = min(max(n, 1), 4000)
	for i := range n {
		p := (float64(i) + 0.5) / float64(n)
		sk.Add(ms(l.p50 * math.Exp(l.sigma*math.Sqrt2*math.Erfinv(2*p-1))))
	}
	return sk
}

func (w *world) Observe(_ context.Context, s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.metricsErr != nil {
		return nil, w.metricsErr
	}
	var out []traffic.Observation
	for _, t := range s.Targets {
		l, ok := w.load[t.Name]
		o := traffic.Observation{Target: t.Name, From: r.From, To: r.To, Interval: time.Second}
		if ok {
			secs := r.Span().Seconds()
			o.Arrived, o.Acked, o.Redelivered, o.Backlog, o.InFlight = uint64(l.rate*secs), uint64(l.rate*secs), l.redelivered, l.pending, uint64(l.workers)
			o.AckWait, o.MaxAckPending, o.Workers = 30*time.Second, 1000, l.workers
			if l.estimated {
				o.Estimated, o.Mean = true, ms(l.p50)
			} else {
				o.Latency = logNormal(l, int(l.rate*secs))
				o.Samples, o.Share, o.Mean = uint64(l.rate*secs), 1, o.Latency.Mean()
			}
		}
		out = append(out, o)
	}
	return out, nil
}

func (w *world) Events(_ context.Context, r fleet.Range, limit int) ([]fleet.Event, error) {
	return w.events[:min(limit, len(w.events))], w.metricsErr
}

func (w *world) Slots(_ context.Context, keys []string) (map[string]int, error) {
	out := map[string]int{}
	for i, k := range slices.Sorted(slices.Values(keys)) {
		out[k] = i
	}
	return out, w.metricsErr
}

// SnapshotAt knows the hour before the fixture's time.
func (w *world) SnapshotAt(_ context.Context, at time.Time) (*fleet.Snapshot, *fleet.Rates, error) {
	if w.metricsErr != nil {
		return nil, nil, w.metricsErr
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.Before(epoch.Add(-time.Hour)) {
		return nil, nil, &fleet.Error{Kind: fleet.NotFound, Msg: "Nothing is recorded of that moment"}
	}
	d := at.Add(-600 * time.Millisecond).Sub(w.snap.TakenAt)
	s := *w.snap
	s.TakenAt = s.TakenAt.Add(d)
	s.Servers, s.Streams, s.Consumers = slices.Clone(s.Servers), slices.Clone(s.Streams), slices.Clone(s.Consumers)
	for i := range s.Servers {
		s.Servers[i].At, s.Servers[i].Now = s.Servers[i].At.Add(d), s.Servers[i].Now.Add(d)
	}
	for i := range s.Streams {
		s.Streams[i].At = s.Streams[i].At.Add(d)
	}
	for i := range s.Consumers {
		s.Consumers[i].At, s.Consumers[i].Pending = s.Consumers[i].At.Add(d), s.Consumers[i].Pending+7
	}
	r := *w.rates
	r.At = s.TakenAt
	return &s, &r, nil
}

func (w *world) Usage(context.Context) (fleet.StoreUsage, error) {
	return fleet.StoreUsage{Entities: 40, Series: 400, File: 30 << 20, Free: 2 << 20, Log: 1 << 20, Limit: 4 << 30}, w.metricsErr
}

// Export is a row a second, with a gap of a minute in the middle.
func (w *world) Export(ctx context.Context, q fleet.ExportQuery) iter.Seq2[fleet.ExportRow, error] {
	return func(yield func(fleet.ExportRow, error) bool) {
		if w.metricsErr != nil || q.Key == "nobody" {
			if w.metricsErr != nil {
				yield(fleet.ExportRow{}, w.metricsErr)
			}
			return
		}
		step := max(q.Step, time.Second)
		for at := q.From.Truncate(step); at.Before(q.To); at = at.Add(step) {
			if err := ctx.Err(); err != nil {
				yield(fleet.ExportRow{}, err)
				return
			}
			row := fleet.ExportRow{At: at, Step: step, Points: make([]fleet.Point, len(q.Columns))}
			for i := range row.Points {
				row.Points[i] = fleet.Point{At: at, Min: 1, Max: 3, Avg: 2.5, N: 4}
			}
			if at.Second() == 7 {
				row.Points[0].N = 0
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// columnsOf are those of the fixture's series.
func columnsOf(k fleet.Kind) (names, units []string) {
	switch k {
	case fleet.KindMicro:
		return []string{fleet.ColServed, fleet.ColErrors}, []string{"/s", "/s"}
	case fleet.KindServer:
		return []string{fleet.ColCPU, fleet.ColMem, fleet.ColInMsgs}, []string{"%", "B", "msg/s"}
	case fleet.KindConsumer:
		return []string{fleet.ColPending, fleet.ColAcked}, []string{"", "msg/s"}
	case fleet.KindStream, fleet.KindAccount, fleet.KindWatch:
		return []string{fleet.ColMessages}, []string{""}
	}
	return nil, nil
}

// Journal

func (w *world) Entries(_ context.Context, f traffic.EntryFilter) ([]traffic.Entry, error) {
	if w.metricsErr != nil {
		return nil, w.metricsErr
	}
	limit := f.Limit
	if limit == 0 {
		limit = 100
	}
	var out []traffic.Entry
	for _, e := range w.entries {
		switch {
		case f.Split != "" && e.Split != f.Split, f.Kind != "" && e.Kind != f.Kind, f.Change != "" && e.Change != f.Change,
			f.Before != 0 && e.Seq >= f.Before, !f.From.IsZero() && e.At.Before(f.From), !f.To.IsZero() && !e.At.Before(f.To):
			continue
		}
		if out = append(out, e); len(out) == limit {
			break
		}
	}
	return out, nil
}

// Control

func (w *world) Ready() error               { return w.ready }
func (w *world) Splits() []traffic.Revision { return w.splits }

func (w *world) Split(name string) (traffic.Revision, error) {
	i := slices.IndexFunc(w.splits, func(r traffic.Revision) bool { return r.Split.Name == name })
	if i < 0 {
		return traffic.Revision{}, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no split %q.", name)}
	}
	return w.splits[i], nil
}

func (w *world) History(_ context.Context, name string) ([]traffic.Revision, error) {
	return w.history[name], nil
}

func (w *world) Plan(_ context.Context, e traffic.Edit) (traffic.Plan, error) {
	if w.planErr != nil {
		return traffic.Plan{}, w.planErr
	}
	before, err := w.Split(e.Split)
	if err != nil && e.Base != 0 {
		return traffic.Plan{}, err
	}
	if before.Number != e.Base {
		return traffic.Plan{}, &fleet.Error{Kind: fleet.Stale, Msg: fmt.Sprintf("Split %s is at revision %d; you looked at %d.", e.Split, before.Number, e.Base), Hint: "Look at the difference and decide again."}
	}
	if err := e.Next.Validate(); err != nil {
		var inv *traffic.Invalid
		errors.As(err, &inv)
		fields := map[string]string{}
		for _, p := range inv.Problems {
			fields[p.Field] = p.Text
		}
		return traffic.Plan{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The split is not valid.", Fields: fields, Err: err}
	}
	after := traffic.Revision{V: 1, Epoch: 1, Number: e.Base + 1, Base: e.Base, Change: "new", Author: e.Actor, Reason: e.Reason, At: w.now(), Split: e.Next}
	doc, err := after.Marshal()
	if err != nil {
		return traffic.Plan{}, err
	}
	return traffic.Plan{Servers: w.servers, Before: before, After: after, Diff: traffic.Diff(before.Split, e.Next), Payload: doc, Key: traffic.Bucket + "/" + traffic.Key(e.Split),
		Command: fmt.Sprintf("nats kv update %s %s '%s' %d", traffic.Bucket, traffic.Key(e.Split), doc, before.Token), Warn: []string{"worker-east-1 moves by more than 20 points at once."}}, nil
}

func (w *world) Apply(ctx context.Context, e traffic.Edit) (traffic.Change, error) {
	p, err := w.Plan(ctx, e)
	if err != nil {
		return traffic.Change{}, err
	}
	ch := traffic.Change{ID: fmt.Sprintf("c%d", len(w.changes)+1), Split: e.Split, Phase: traffic.Baking, Base: e.Base, Revision: e.Base + 1, Actor: e.Actor, Reason: e.Reason, Proposal: e.Proposal,
		Undo: e.Undo, Before: p.Before.Split, After: e.Next, Created: w.now(), Written: w.now(), BakeEnds: w.now().Add(time.Minute), Guard: e.Guard}
	p.After.Change = ch.ID
	w.changes = slices.Insert(w.changes, 0, ch)
	w.history[e.Split] = slices.Insert(w.history[e.Split], 0, p.After)
	if i := slices.IndexFunc(w.splits, func(r traffic.Revision) bool { return r.Split.Name == e.Split }); i >= 0 {
		w.splits[i] = p.After
	} else {
		w.splits = append(w.splits, p.After)
	}
	return ch, nil
}

func (w *world) Rollback(ctx context.Context, id, actor, reason string) (traffic.Change, error) {
	ch, err := w.Change(id)
	if err != nil {
		return traffic.Change{}, err
	}
	return w.Apply(ctx, traffic.Edit{Split: ch.Split, Base: ch.Revision, Next: ch.Before, Actor: actor, Reason: reason, Undo: id})
}

func (w *world) Delete(_ context.Context, split string, base uint64, actor, reason string) error {
	if w.planErr != nil {
		return w.planErr
	}
	w.splits = slices.DeleteFunc(w.splits, func(r traffic.Revision) bool { return r.Split.Name == split })
	return nil
}

func (w *world) Keep(_ context.Context, id, actor string) (traffic.Change, error) {
	if w.planErr != nil {
		return traffic.Change{}, w.planErr
	}
	i := slices.IndexFunc(w.changes, func(c traffic.Change) bool { return c.ID == id })
	if i < 0 {
		return traffic.Change{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such change."}
	}
	w.changes[i].Phase = traffic.Verified
	return w.changes[i], nil
}

func (w *world) Changes(split string, limit int) []traffic.Change {
	var out []traffic.Change
	for _, c := range w.changes {
		if (split == "" || c.Split == split) && len(out) < limit {
			out = append(out, c)
		}
	}
	return out
}

func (w *world) Change(id string) (traffic.Change, error) {
	for _, c := range w.changes {
		if c.ID == id {
			return c, nil
		}
	}
	return traffic.Change{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such change."}
}

func (w *world) Proposals(split string, limit int) []traffic.Proposal {
	var out []traffic.Proposal
	for _, p := range w.proposals {
		if (split == "" || p.Split == split) && len(out) < limit {
			out = append(out, p)
		}
	}
	return out
}

func (w *world) Proposal(id string) (traffic.Proposal, error) {
	for _, p := range w.proposals {
		if p.ID == id {
			return p, nil
		}
	}
	return traffic.Proposal{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such suggestion."}
}

func (w *world) Approve(ctx context.Context, id, actor, reason string) (traffic.Change, error) {
	p, err := w.Proposal(id)
	if err != nil {
		return traffic.Change{}, err
	}
	rev, err := w.Split(p.Split)
	if err != nil {
		return traffic.Change{}, err
	}
	to := map[string]int{}
	for _, m := range p.Moves {
		to[m.Target] = m.To
	}
	ch, err := w.Apply(ctx, traffic.Edit{Split: p.Split, Base: p.Base, Next: rev.Split.WithWeights(to), Actor: actor, Reason: reason, Proposal: id, Guard: true})
	if err != nil {
		return ch, err
	}
	w.close(id, traffic.Applied, actor, ch.ID)
	return ch, nil
}

func (w *world) Dismiss(_ context.Context, id, actor, reason string) error {
	if w.planErr != nil {
		return w.planErr
	}
	w.close(id, traffic.Dismissed, actor, "")
	return nil
}

func (w *world) close(id string, st traffic.ProposalStatus, actor, change string) {
	for i := range w.proposals {
		if p := &w.proposals[i]; p.ID == id {
			p.Status, p.ClosedAt, p.ClosedBy, p.Change = st, w.now(), actor, change
		}
	}
}

func (w *world) Decision(split string) (traffic.Decision, bool) {
	d, ok := w.decisions[split]
	return d, ok
}

func (w *world) Mapping(context.Context, string) (string, error) { return w.mapping, w.mappingErr }

func (w *world) InForce(string) ([]traffic.InForce, time.Time, error) {
	return w.inForce, w.now(), nil
}

func (w *world) Measure(_ context.Context, k fleet.ConsumerKey, percent int, d time.Duration, actor, reason string) (traffic.Measurement, error) {
	if w.planErr != nil {
		return traffic.Measurement{}, w.planErr
	}
	m := traffic.Measurement{ID: fmt.Sprintf("m%d", len(w.measured)+1), Consumer: traffic.Observed{Account: k.Account, Stream: k.Stream, Consumer: k.Consumer},
		Phase: traffic.Measuring, Actor: actor, Reason: reason, Percent: percent, Started: w.now(), Ends: w.now().Add(d), Outcome: "The acknowledgements are sampled."}
	w.measured = slices.Insert(w.measured, 0, m)
	return m, nil
}

func (w *world) StopMeasuring(_ context.Context, id, actor string) (traffic.Measurement, error) {
	i := slices.IndexFunc(w.measured, func(m traffic.Measurement) bool { return m.ID == id })
	if i < 0 {
		return traffic.Measurement{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such measurement."}
	}
	w.measured[i].Phase, w.measured[i].Ended = traffic.MeasureOver, w.now()
	return w.measured[i], nil
}

func (w *world) Measurements() []traffic.Measurement { return w.measured }

// fakeDemo records what the drawer asked for.
type fakeDemo struct {
	state DemoState
	asked []string
	err   error
}

func (d *fakeDemo) State() DemoState { return d.state }
func (d *fakeDemo) Slow(target string, f float64) error {
	return d.ask(fmt.Sprintf("slow %s %g", target, f))
}
func (d *fakeDemo) StopTarget(t string) error    { return d.ask("stop " + t) }
func (d *fakeDemo) StartTarget(t string) error   { return d.ask("start " + t) }
func (d *fakeDemo) KillServer(n string) error    { return d.ask("kill " + n) }
func (d *fakeDemo) RestartServer(n string) error { return d.ask("restart " + n) }
func (d *fakeDemo) SetRate(r float64) error      { return d.ask(fmt.Sprintf("rate %g", r)) }

func (d *fakeDemo) ask(what string) error {
	d.asked = append(d.asked, what)
	return d.err
}
