package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"ballast/collector"
	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/store"
)

// Ten thousand consumers with generated names and ten thousand connections come
// and go, and every one of them is counted: the store keeps as many things,
// series and attributes of them as of a handful.
func TestChurnMakesNoEndlessSeries(t *testing.T) {
	t.Parallel()
	const waves, perWave, filters = 20, 500, 4
	srv := natstest.Server(t)
	watching := natstest.Connect(t, srv.ClientURL())
	js, err := jetstream.New(natstest.Connect(t, srv.ClientURL()), jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{Interval: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	col, err := collector.New(collector.Config{Conn: watching, Monitor: []string{natstest.MonitorURL(srv)}, Account: "$G",
		Interval: 200 * time.Millisecond, AckEvery: time.Second, Log: slog.New(slog.DiscardHandler), Now: time.Now}, db)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run errgroup.Group
	run.Go(func() error { return col.Run(ctx) })
	run.Go(func() error { return db.Run(ctx) })
	defer func() {
		cancel()
		if err := run.Wait(); err != nil {
			t.Error(err)
		}
	}()
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	// Of the first of a row one in 250 has a word for its name by chance, and
	// stands for itself until there are more.
	seen := func() (consumers, conns int) {
		s := db.Latest()
		for _, c := range s.Consumers {
			if c.Fold != nil {
				consumers += int(c.Fold.Seen)
			} else {
				consumers++
			}
		}
		for _, x := range s.ConnSums {
			conns += x.Conns
		}
		return consumers, conns
	}
	usage := func() fleet.StoreUsage {
		t.Helper()
		u, err := db.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	var before fleet.StoreUsage
	var sizes map[string]int64
	for wave := range waves {
		var names []string
		for i := range perWave {
			con, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy,
				FilterSubject: fmt.Sprintf("orders.%d", i%filters), MemoryStorage: true, InactiveThreshold: time.Hour})
			if err != nil {
				t.Fatalf("wave %d: %v", wave, err)
			}
			names = append(names, con.CachedInfo().Name)
		}
		conns := make([]*nats.Conn, perWave)
		for i := range conns {
			if conns[i], err = nats.Connect("", nats.InProcessServer(srv), nats.Name(fmt.Sprintf("client %d of wave %d", i, wave))); err != nil {
				t.Fatalf("wave %d: %v", wave, err)
			}
		}
		wait.For(t, time.Minute, fmt.Sprintf("wave %d to be seen", wave), func() bool {
			cons, n := seen()
			return cons >= (wave+1)*perWave && n >= perWave
		})
		for _, nc := range conns {
			nc.Close()
		}
		for _, name := range names {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatalf("wave %d: %v", wave, err)
			}
		}
		if wave == 0 {
			before = usage()
		}
	}
	after := usage()
	if sizes, err = db.TableSizes(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("after the first wave %d things with %d series, at the end %d with %d; attributes %d B, lists %d B, entities %d B",
		before.Entities, before.Series, after.Entities, after.Series, sizes["attr"], sizes["detail"], sizes["entity"])
	// An account is summed anew when other servers answer; nothing else is.
	if after.Entities > before.Entities+2 || after.Series > before.Series+20 {
		t.Errorf("after the first wave %d things with %d series, at the end %d with %d", before.Entities, before.Series, after.Entities, after.Series)
	}
	if sizes["attr"] > 64<<10 || sizes["entity"] > 64<<10 {
		t.Errorf("attributes take %d B, entities %d B", sizes["attr"], sizes["entity"])
	}
	past, _, err := db.SnapshotAt(t.Context(), db.Latest().TakenAt)
	if err != nil {
		t.Fatal(err)
	}
	if len(past.Consumers) > filters+perWave/50 || len(past.Conns) > 256 { // with words by chance
		t.Errorf("the past has %d consumers and %d connections", len(past.Consumers), len(past.Conns))
	}
}
