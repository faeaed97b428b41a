package loadtest

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/sketch"
)

// faulty is a publisher that takes time and fails; only a test of pace or faults
// uses it.
type faulty func(ctx context.Context, n int64) error

type faultyPublisher struct {
	calls atomic.Int64
	do    faulty
}

func (p *faultyPublisher) PublishJS(ctx context.Context, _ *nats.Msg) (*jetstream.PubAck, error) {
	if err := p.do(ctx, p.calls.Add(1)); err != nil {
		return nil, err
	}
	return &jetstream.PubAck{}, nil
}

func within(t *testing.T, what string, got, want, off time.Duration) {
	t.Helper()
	if got < want-off || got > want+off {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// A server that stands still for a second while 100 messages a second are due:
// the generator goes on, and each of the hundred shows how long it waited.
func TestAStallShowsInEveryMessageThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := &faultyPublisher{do: func(context.Context, int64) error {
			at := time.Since(start)
			if at >= time.Second && at < 2*time.Second {
				time.Sleep(2*time.Second - at) // the bubble's clock
			}
			return nil
		}}
		report, err := Run(t.Context(), Config{Publisher: p, Rate: 100, Count: 400})
		if err != nil {
			t.Fatal(err)
		}
		if report.Acknowledged != 400 || report.Failed != 0 || report.Due != 400 {
			t.Errorf("report %+v", report)
		}
		within(t, "the longest", report.Latency.Max(), time.Second, 20*time.Millisecond)
		within(t, "the quarter's middle", report.Latency.Quantile(0.875), 500*time.Millisecond, 20*time.Millisecond)
		within(t, "the run", report.Ended.Sub(report.Started), 3990*time.Millisecond, time.Millisecond)
	})
}

func TestLateSendingCountsFromWhenItWasDue(t *testing.T) {
	r := &runner{cfg: Config{Count: 1}}
	r.report.acked = make([]bool, 1)
	r.report.Latency, r.report.Service = new(sketch.Sketch), new(sketch.Sketch)
	now := time.Now()
	r.acknowledge(0, true, now.Add(-time.Second), now)
	if r.report.Latency.Max() < time.Second || r.report.Service.Max() > 500*time.Millisecond || r.report.Duplicates != 1 {
		t.Errorf("latency %v, service %v", r.report.Latency.Max(), r.report.Service.Max())
	}
}

func TestPoissonArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &faultyPublisher{do: func(context.Context, int64) error { return nil }}
		report, err := Run(t.Context(), Config{Publisher: p, Rate: 1000, Count: 20_000, Poisson: true, Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(report.Rate()-1000) > 30 {
			t.Errorf("rate %v, want 1000", report.Rate())
		}
	})
}

func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	synctest.Test(t, func(t *testing.T) {
		// Every second attempt fails: with two attempts all messages get through.
		p := &faultyPublisher{do: func(_ context.Context, n int64) error {
			if n%2 == 1 {
				return boom
			}
			return nil
		}}
		// 1 a second: a message is through before the next one is due.
		report, err := Run(t.Context(), Config{Publisher: p, Rate: 1, Count: 50, Attempts: 2})
		if err != nil || report.Acknowledged != 50 || report.Retried != 50 || report.Failed != 0 || report.Errors["boom"] != 50 {
			t.Errorf("report %+v, %v", report, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// Nobody answers: attempts end by their timeout, and what is due beyond
		// MaxWaiting fails at once.
		p := &faultyPublisher{do: func(ctx context.Context, _ int64) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		report, err := Run(t.Context(), Config{Publisher: p, Rate: 100, Count: 100, MaxWaiting: 10, Timeout: 5 * time.Second})
		if err != nil || report.Failed != 100 || report.Due != 100 || report.Errors["too many messages wait for their acknowledgement"] != 90 {
			t.Errorf("report %+v, %v", report, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := &faultyPublisher{do: func(context.Context, int64) error { return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 995*time.Millisecond)
		defer cancel()
		report, err := Run(ctx, Config{Publisher: p, Rate: 100, Count: 1000})
		if !errors.Is(err, context.DeadlineExceeded) || report.Due != 100 {
			t.Errorf("cut short: %d due, %v", report.Due, err)
		}
	})
}

func TestErrorsTakeBoundedRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &faultyPublisher{do: func(_ context.Context, n int64) error {
			return errors.New(time.Duration(n).String())
		}}
		report, err := Run(t.Context(), Config{Publisher: p, Rate: 1000, Count: 500})
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Errors) != maxErrors+1 || report.Errors["other errors"] != 500-maxErrors {
			t.Errorf("%d different errors, %d others", len(report.Errors), report.Errors["other errors"])
		}
	})
}

func TestReportForATerminal(t *testing.T) {
	t.Parallel()
	start := time.Unix(0, 0)
	r := Report{
		Run: "r", Due: 4, Acknowledged: 3, Failed: 1, Retried: 2, Duplicates: 1, Started: start, Ended: start.Add(2 * time.Second),
		Latency: new(sketch.Sketch), Service: new(sketch.Sketch), Errors: map[string]int{"a\x1b[31m": 2},
	}
	r.Latency.AddN(10*time.Millisecond, 3)
	const want = `run r: 4 messages due in 2s, 3 acknowledged (1.5/s), 1 failed, 2 attempts repeated, 1 duplicates refused by the stream
latency from when due   mean 10ms      p50 10ms      p95 10ms      p99 10ms      max 10ms
latency from when sent  mean 0s        p50 0s        p95 0s        p99 0s        max 0s
2 attempts: "a\x1b[31m"
`
	if got := r.String(); got != want {
		t.Errorf("String:\n%s\nwant:\n%s", got, want)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	p := &faultyPublisher{}
	for name, cfg := range map[string]Config{
		"no publisher":     {Rate: 1, Count: 1},
		"no rate":          {Publisher: p, Count: 1},
		"rate of NaN":      {Publisher: p, Rate: math.NaN(), Count: 1},
		"endless rate":     {Publisher: p, Rate: math.Inf(1), Count: 1},
		"no count":         {Publisher: p, Rate: 1},
		"negative payload": {Publisher: p, Rate: 1, Count: 1, Payload: -1},
		"ambiguous name":   {Publisher: p, Rate: 1, Count: 1, Run: "a-b"},
	} {
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%s: Run accepts it", name)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	if n, ok := parseID("run", id("run", 42)); !ok || n != 42 {
		t.Errorf("parseID = %d, %v", n, ok)
	}
	for _, hostile := range []string{"", "run", "run-", "run--1", "run-x", "other-1", "run-99999999999999999999"} {
		if n, ok := parseID("run", hostile); ok {
			t.Errorf("parseID(%q) = %d", hostile, n)
		}
	}
}
