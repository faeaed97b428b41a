package lb_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/internal/natstest"
	"ballast/lb"
	"ballast/traffic"
)

// arrival says when a publisher had a revision in force.
type arrival struct {
	publisher int
	number    uint64
	at        time.Time
}

// arrivals is the log of a publisher: it passes on when a revision is in force.
type arrivals struct {
	publisher int
	to        chan<- arrival
}

func (a arrivals) Enabled(context.Context, slog.Level) bool { return true }
func (a arrivals) WithAttrs([]slog.Attr) slog.Handler       { return a }
func (a arrivals) WithGroup(string) slog.Handler            { return a }

func (a arrivals) Handle(_ context.Context, r slog.Record) error {
	now := time.Now()
	if r.Message != "weights are in force" {
		return nil
	}
	r.Attrs(func(x slog.Attr) bool {
		if x.Key == "revision" {
			a.to <- arrival{a.publisher, x.Value.Uint64(), now}
		}
		return true
	})
	return nil
}

// From the moment before a revision is written by compare-and-swap until each
// publisher divides by it. Every publisher must have each revision, once and in
// order; BALLAST_MEASURE=revision writes 500 to 200 publishers of a cluster and
// prints the times (about a minute).
func TestARevisionReachesAllPublishers(t *testing.T) {
	publishers, conns, changes := 20, 4, 20
	var connect func() *nats.Conn
	replicas := 1
	if os.Getenv(measureVariable) == "revision" {
		publishers, conns, changes, replicas = 200, 20, 500, 3
		c := natstest.Cluster(t, 3)
		connect = func() *nats.Conn { return c.App(t) }
	} else {
		srv := natstest.Server(t)
		connect = func() *nats.Conn { return natstest.Connect(t, srv.ClientURL()) }
	}
	writer := connect()
	kv := bucket(t, jetStream(t, writer), replicas)
	write := func(number uint64, last uint64) (token uint64, before time.Time, acked time.Duration) {
		t.Helper()
		doc, err := revision(1, number, splitOf(weights{"east": int(number % 100), "west": 100 - int(number%100)})).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		before = time.Now()
		token, err = kv.Update(t.Context(), traffic.Key("orders"), doc, last)
		if err != nil {
			t.Fatalf("write revision %d: %v", number, err)
		}
		return token, before, time.Since(before)
	}
	token, _, _ := write(1, 0)

	arrived := make(chan arrival, publishers*(changes+1))
	var nc *nats.Conn
	var all []*lb.Publisher
	for i := range publishers {
		if i%(publishers/conns) == 0 {
			nc = connect()
		}
		all = append(all, publisher(t, nc, lb.WithLog(slog.New(arrivals{i, arrived}))))
	}
	at := make([]uint64, publishers) // the last revision of each
	var took, last, acks []time.Duration
	gather := func(number uint64, before time.Time) {
		t.Helper()
		patience := time.After(time.Minute)
		slowest := time.Duration(0)
		for n := range publishers {
			select {
			case a := <-arrived:
				if a.number != number || at[a.publisher] != number-1 {
					t.Fatalf("publisher %d went from revision %d to %d, want %d", a.publisher, at[a.publisher], a.number, number)
				}
				at[a.publisher] = number
				took = append(took, a.at.Sub(before))
				slowest = max(slowest, took[len(took)-1])
			case <-patience:
				t.Fatalf("revision %d reached %d of %d publishers", number, n, publishers)
			}
		}
		last = append(last, slowest)
	}
	gather(1, time.Now())
	took, last = nil, nil // that was the start
	for number := uint64(2); number < uint64(2+changes); number++ {
		var before time.Time
		var acked time.Duration
		token, before, acked = write(number, token)
		acks = append(acks, acked)
		gather(number, before)
	}
	for i, p := range all {
		if s := p.Stats(); s.Taken != uint64(changes+1) || s.Refused != 0 {
			t.Errorf("publisher %d: %+v, want %d documents taken and none refused", i, s, changes+1)
		}
	}

	text := &strings.Builder{}
	fmt.Fprintf(text, "\n%d revisions, %d publishers over %d connections\n| | p50 | p99 | longest |\n| --- | --- | --- | --- |\n", changes, publishers, conns)
	for _, row := range []struct {
		what string
		took []time.Duration
	}{{"written, as the writer is told", acks}, {"in force at a publisher", took}, {"in force at the last of all", last}} {
		slices.Sort(row.took)
		at := func(q float64) time.Duration {
			return row.took[int(q*float64(len(row.took)-1))].Round(10 * time.Microsecond)
		}
		fmt.Fprintf(text, "| %s | %v | %v | %v |\n", row.what, at(0.5), at(0.99), at(1))
	}
	t.Log(text)
}
