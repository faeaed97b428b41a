package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
)

// clock is a time that moves only when told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}

func openTest(tb testing.TB, dir string, c *clock, o Options) *DB {
	tb.Helper()
	o.Now = c.now
	if o.Interval == 0 {
		o.Interval = time.Second
	}
	db, err := Open(tb.Context(), dir, o)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

// copyDir takes the files as a kill -9 would leave them.
func copyDir(tb testing.TB, dir string) string {
	tb.Helper()
	to := tb.TempDir()
	for _, name := range []string{"metrics.db", "metrics.db-wal", "console.db", "console.db-wal"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return to
}

var (
	eastKey = fleet.ConsumerKey{Account: "APP", Stream: "ORDERS", Consumer: "east"}
	born    = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
)

// look is a system at second i: a server whose counters rise by 100 messages
// and 1000 bytes a second, a stream, a consumer to which 10 messages a second
// come and from which 9 are acknowledged.
func look(at time.Time, i int) fleet.Snapshot {
	n := uint64(i)
	return fleet.Snapshot{
		TakenAt: at,
		Servers: []fleet.Server{{ID: "S1", Name: "n1", State: fleet.Healthy, At: at, Start: born, InMsgs: 1000 + 100*n,
			InBytes: 1000 * n, CPU: 12.5, Mem: 1 << 20, RTT: 1500 * time.Microsecond, JetStream: &fleet.JetStream{Store: 5 * n}}},
		Routes:   []fleet.Route{{From: "S1", To: "S2", ToName: "n2", At: at, OutMsgs: 7 * n}},
		Gateways: []fleet.Gateway{{From: "S1", ToCluster: "west", At: at, InMsgs: 3 * n}},
		Leafs:    []fleet.Leaf{{Server: "S1", Name: "edge", Account: "APP", At: at, InBytes: 9 * n}},
		Accounts: []fleet.Account{{Name: "APP", At: at, InMsgs: 11 * n, Conns: 4}},
		Streams: []fleet.Stream{{StreamKey: fleet.StreamKey{Account: "APP", Stream: "ORDERS"}, Created: born, At: at,
			Messages: n, LastSeq: 10 * n}},
		Consumers: []fleet.Consumer{{ConsumerKey: eastKey, Created: born, At: at, Delivered: 10 * n, AckFloor: 9 * n,
			AckPending: i, Pending: 5, SampleFreq: "100", AckWait: 30 * time.Second, MaxAckPending: 1000}},
		Cost: fleet.Cost{Requests: 6, Bytes: 1234, Took: 5 * time.Millisecond},
	}
}

func put(tb testing.TB, db *DB, s fleet.Snapshot) {
	tb.Helper()
	if err := db.PutSnapshot(tb.Context(), s); err != nil {
		tb.Fatalf("PutSnapshot: %v", err)
	}
}

// fill puts n looks, one a second.
func fill(tb testing.TB, db *DB, c *clock, from, n int) {
	tb.Helper()
	for i := from; i < from+n; i++ {
		put(tb, db, look(c.add(time.Second), i))
	}
}

func series(tb testing.TB, db *DB, kind fleet.Kind, key, col string, r fleet.Range, points int) fleet.Series {
	tb.Helper()
	s, err := db.Series(tb.Context(), fleet.SeriesQuery{Entity: fleet.Entity{Kind: kind, Key: key}, Column: col, Range: r, Points: points})
	if err != nil {
		tb.Fatalf("Series %s %s %s: %v", kind, key, col, err)
	}
	return s
}

// measured returns the points that are no gaps.
func measured(s fleet.Series) []fleet.Point {
	return slices.DeleteFunc(slices.Clone(s.Data), func(p fleet.Point) bool { return p.N == 0 })
}

func TestEveryKindComesBack(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	err := db.PutReports(t.Context(), []fleet.WorkerReport{{Split: "orders", Target: "east", Worker: "w1", At: start,
		Interval: 5 * time.Second, Workers: 12, InFlight: 3, Processed: 50, CPU: 80, Memory: 1 << 20, Processing: sketchOf(20 * time.Millisecond)}})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, c, 0, 10)
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	for _, tt := range []struct {
		kind      fleet.Kind
		key, col  string
		want      float64
		n         int
		unit      string
		wantPoint time.Duration
	}{
		{fleet.KindServer, "n1", fleet.ColInMsgs, 100, 9, "msg/s", time.Second},
		{fleet.KindServer, "n1", fleet.ColInBytes, 1000, 9, "B/s", time.Second},
		{fleet.KindServer, "n1", fleet.ColCPU, 12.5, 10, "%", time.Second},
		{fleet.KindServer, "n1", fleet.ColRTT, 1.5, 10, "ms", time.Second},
		{fleet.KindServer, "n1", fleet.ColMem, 1 << 20, 10, "B", time.Second},
		{fleet.KindRoute, "n1/n2", fleet.ColOutMsgs, 7, 9, "msg/s", time.Second},
		{fleet.KindGateway, "n1/west", fleet.ColInMsgs, 3, 9, "msg/s", time.Second},
		{fleet.KindLeaf, "n1/edge/APP", fleet.ColInBytes, 9, 9, "B/s", time.Second},
		{fleet.KindAccount, "APP", fleet.ColInMsgs, 11, 9, "msg/s", time.Second},
		{fleet.KindStream, "APP/ORDERS", fleet.ColLastSeq, 10, 9, "msg/s", time.Second},
		{fleet.KindConsumer, "APP/ORDERS/east", fleet.ColDelivered, 10, 9, "msg/s", time.Second},
		{fleet.KindConsumer, "APP/ORDERS/east", fleet.ColAcked, 9, 9, "msg/s", time.Second},
		{fleet.KindConsumer, "APP/ORDERS/east", fleet.ColPending, 5, 10, "", time.Second},
		{fleet.KindWorker, "orders/east", fleet.ColWorkers, 12, 10, "", time.Second},
		{fleet.KindWorker, "orders/east", fleet.ColProcessing, 20, 10, "ms", time.Second},
		{fleet.KindWatch, "collector", fleet.ColRequests, 6, 10, "", time.Second},
		{fleet.KindWatch, "collector", fleet.ColTook, 5, 10, "ms", time.Second},
	} {
		s := series(t, db, tt.kind, tt.key, tt.col, r, 1000)
		got := measured(s)
		if len(got) != tt.n || s.Unit != tt.unit {
			t.Errorf("%s %s: %d points in %q, want %d in %q", tt.kind, tt.col, len(got), s.Unit, tt.n, tt.unit)
		}
		for _, p := range got {
			if math.Abs(p.Avg-tt.want) > 1e-6 || p.Min > p.Avg || p.Max < p.Avg {
				t.Errorf("%s %s: point %+v, want %v", tt.kind, tt.col, p, tt.want)
				break
			}
		}
	}
	if got := db.Latest(); !got.TakenAt.Equal(c.now()) || len(got.Consumers) != 1 {
		t.Errorf("Latest is of %v, want %v", got.TakenAt, c.now())
	}
	rates := db.Rates()
	if got := rates.Servers["n1"].InMsgs; got != 100 {
		t.Errorf("rate of the server = %v, want 100", got)
	}
	if got := rates.Routes[[2]string{"S1", "S2"}].OutMsgs; got != 7 {
		t.Errorf("rate of the route = %v, want 7", got)
	}
	if got := rates.Consumers[eastKey]; got != (fleet.ConsumerRate{Arrived: 10, Delivered: 10, Acked: 9}) {
		t.Errorf("rate of the consumer = %+v", got)
	}
}

func sketchOf(d ...time.Duration) *sketch.Sketch {
	s := &sketch.Sketch{}
	for _, x := range d {
		s.Add(x)
	}
	return s
}

func TestUnknownSeriesAreNotFound(t *testing.T) {
	t.Parallel()
	db := openTest(t, t.TempDir(), newClock(), Options{})
	r := fleet.Range{From: born, To: born.Add(time.Hour)}
	for _, q := range []fleet.SeriesQuery{
		{Entity: fleet.Entity{Kind: "moon", Key: "x"}, Column: "cpu", Range: r},
		{Entity: fleet.Entity{Kind: fleet.KindServer, Key: "x"}, Column: "d FROM raw; --", Range: r},
	} {
		if _, err := db.Series(t.Context(), q); fleet.KindOf(err) != fleet.NotFound {
			t.Errorf("Series(%v) = %v, want NotFound", q, err)
		}
	}
	q := fleet.SeriesQuery{Entity: fleet.Entity{Kind: fleet.KindServer, Key: "x"}, Column: fleet.ColCPU}
	if _, err := db.Series(t.Context(), q); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("Series without a range = %v, want Invalid", err)
	}
}

// Whatever was acknowledged is there again, without Close, from journal rows,
// from slots that are full and from sealed ones.
func TestReopenAfterKill(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	fill(t, db, c, 0, 150) // beyond the first slot
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(t, db, c, 150, 120) // a full slot that is not sealed, and an open one
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	want := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	if n := len(measured(want)); n != 269 {
		t.Fatalf("%d points before, want 269", n)
	}
	if len(db.closing) != 1 {
		t.Fatalf("%d slots wait, want 1", len(db.closing))
	}
	again := openTest(t, copyDir(t, dir), c, Options{})
	got := series(t, again, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	if !slices.Equal(got.Data, want.Data) {
		t.Errorf("after the kill %d points differ from %d before", len(got.Data), len(want.Data))
	}
	// It goes on where it stopped, also into the same slot, and seals all of it.
	fill(t, again, c, 270, 130)
	if err := again.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.To = c.now().Add(time.Second)
	got = series(t, again, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	for _, p := range measured(got) {
		if p.Avg != 100 {
			t.Fatalf("point %+v after reopening, want 100", p)
		}
	}
	if n := len(measured(got)); n != 399 {
		t.Errorf("%d points after reopening and sealing, want 399", n)
	}
	// Another interval makes other slots; they must not overwrite those there.
	coarse := openTest(t, copyDir(t, again.dirForTest()), c, Options{Interval: 5 * time.Second})
	for i := range 200 {
		put(t, coarse, look(c.add(5*time.Second), 404+5*i))
	}
	if err := coarse.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.To = c.now().Add(time.Second)
	sum := 0.0
	for _, p := range measured(series(t, coarse, fleet.KindServer, "n1", fleet.ColMem, r, 5000)) {
		sum += float64(p.N)
	}
	if sum != 600 {
		t.Errorf("%v looks with both intervals, want 600", sum)
	}
}

func (db *DB) dirForTest() string { return filepath.Dir(db.metrics.path) }

func TestCounterResetGapAndNewLife(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	fill(t, db, c, 0, 10)
	// The server restarts: its counters begin again.
	for i := range 10 {
		s := look(c.add(time.Second), i)
		s.Servers[0].ID, s.Servers[0].Start = "S1b", c.now().Add(-time.Second*time.Duration(i))
		s.Servers[0].Start = born.Add(time.Hour)
		s.Servers[0].InMsgs = uint64(50 * i)
		put(t, db, s)
	}
	restart := c.now()
	c.add(20 * time.Second) // nobody looked
	for i := range 10 {
		s := look(c.add(time.Second), i)
		s.Servers[0].ID, s.Servers[0].Start = "S1b", born.Add(time.Hour)
		s.Servers[0].InMsgs = uint64(100_000 + 50*i)
		put(t, db, s)
	}
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	s := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	var gaps []time.Time
	for _, p := range s.Data {
		switch {
		case p.N == 0:
			gaps = append(gaps, p.At)
		case p.Avg != 100 && p.Avg != 50:
			t.Errorf("point %+v: neither the rate before nor after the restart", p)
		}
	}
	if len(gaps) != 1 || gaps[0].Before(restart) || gaps[0].After(restart.Add(20*time.Second)) {
		t.Errorf("gaps at %v, want one after %v", gaps, restart)
	}
	// A counter that falls back within a life: no negative rate, no leap.
	put(t, db, func() fleet.Snapshot {
		s := look(c.add(time.Second), 0)
		s.Routes[0].OutMsgs = 1
		return s
	}())
	for _, p := range measured(series(t, db, fleet.KindRoute, "n1/n2", fleet.ColOutMsgs, fleet.Range{From: start, To: c.now().Add(time.Second)}, 5000)) {
		if p.Avg != 7 {
			t.Errorf("route point %+v, want 7", p)
		}
	}
}

// A server that does not answer keeps its old figures in the snapshot; they are
// not recorded again.
func TestOldFiguresAreNotRecordedTwice(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	fill(t, db, c, 0, 5)
	lost := c.now()
	for i := range 10 {
		s := look(c.add(time.Second), 5+i)
		s.Servers[0].At, s.Servers[0].State = lost, fleet.Unreachable
		put(t, db, s)
	}
	s := series(t, db, fleet.KindServer, "n1", fleet.ColCPU, fleet.Range{From: start, To: c.now().Add(time.Second)}, 5000)
	if n := len(measured(s)); n != 5 {
		t.Errorf("%d points, want 5", n)
	}
	if last := s.Data[len(s.Data)-1]; last.N != 0 {
		t.Errorf("the series ends with %+v, want a gap", last)
	}
	if _, ok := db.Rates().Servers["n1"]; ok {
		t.Error("a server that is silent for ten rounds has a present rate")
	}
}

func TestSealedAndOpenReadTheSame(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 5 * time.Second})
	rnd := rand.New(rand.NewPCG(1, 2))
	start := c.now()
	for i := range 1500 {
		s := look(c.add(5*time.Second+time.Duration(rnd.IntN(9))*time.Millisecond), i)
		s.Consumers[0].Pending = uint64(rnd.IntN(1000))
		put(t, db, s)
	}
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	var before []fleet.Series
	for _, col := range []string{fleet.ColPending, fleet.ColAcked} {
		before = append(before, series(t, db, fleet.KindConsumer, eastKey.Entity().Key, col, r, 400))
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.metrics.r.QueryRow("SELECT count(*) FROM raw").Scan(&n); err != nil || n == 0 {
		t.Fatalf("%d blobs, %v", n, err)
	}
	for i, col := range []string{fleet.ColPending, fleet.ColAcked} {
		after := series(t, db, fleet.KindConsumer, eastKey.Entity().Key, col, r, 400)
		if !slices.Equal(after.Data, before[i].Data) {
			t.Errorf("%s reads otherwise after sealing", col)
		}
	}
}

// A roll-up says what the looks would have said, to the last digit.
func TestRollUpEqualsRaw(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 30 * time.Second})
	rnd := rand.New(rand.NewPCG(3, 4))
	start := c.now()
	var total uint64
	for i := range 9 * 120 { // 9 h
		at := c.add(30 * time.Second)
		if i > 140 && i < 160 {
			continue // a gap
		}
		total += uint64(rnd.IntN(500))
		s := look(at, i)
		s.Servers[0].InMsgs = total
		s.Servers[0].CPU = float64(rnd.IntN(10_000)) / 100
		put(t, db, s)
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := fleet.Range{From: start, To: start.Add(8 * time.Hour)}
	for _, step := range []int64{minute, 10 * minute, hour} {
		for _, col := range []string{fleet.ColCPU, fleet.ColInMsgs} {
			column, err := findColumn(fleet.KindServer, col)
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := db.cells(t.Context(), fleet.Entity{Kind: fleet.KindServer, Key: "n1"}, column, -1, ms(r.From), ms(r.To), step)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.rollUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			lvl := len(levels) - 1 // the coarsest of that step: what it is joined from goes
			for levels[lvl].step != step {
				lvl--
			}
			got, _, err := db.cells(t.Context(), fleet.Entity{Kind: fleet.KindServer, Key: "n1"}, column, lvl, ms(r.From), ms(r.To), step)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s at %d ms: %d cells from the roll-up, %d from the looks, and they differ", col, step, len(got), len(want))
			}
		}
	}
	for _, table := range []string{"r1", "r2"} {
		var n int
		if err := db.metrics.r.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil || n == 0 {
			t.Errorf("%d rows in %s, %v", n, table, err)
		}
	}
	// Stopped half-way and built again, it is the same.
	whole := dump(t, db, "r1")
	if _, err := db.metrics.w.Exec("DELETE FROM mark WHERE k LIKE 'r_' OR k = 'm1'; DELETE FROM m1; DELETE FROM r1 WHERE k % 2"); err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := db.rollUp(stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("rollUp stopped = %v", err)
	}
	if err := db.rollUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := dump(t, db, "r1"); again != whole {
		t.Error("r1 built a second time differs from the first")
	}
	// A chart uses it, and shows the gap.
	s := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 480)
	if s.Step != time.Minute {
		t.Errorf("step %v, want 1 min", s.Step)
	}
	gaps := 0
	for _, p := range s.Data {
		if p.N == 0 {
			gaps++
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps, want 1", gaps)
	}
}

// dump is the content of a table of blobs.
func dump(tb testing.TB, db *DB, table string) string {
	tb.Helper()
	var s string
	if err := db.metrics.r.QueryRow("SELECT coalesce(group_concat(k || hex(d), ' '), '') FROM (SELECT k, d FROM " + table + " ORDER BY k)").Scan(&s); err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestRetentionAndSizeLimit(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 30 * time.Second, Retention: Retention{Raw: 3 * time.Hour}})
	start := c.now()
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range 6 * 120 {
		s := look(c.add(30*time.Second), i)
		s.Servers[0].Mem = rnd.Int64()
		put(t, db, s)
		if i%20 == 0 {
			ackWindow := fleet.AckWindow{ConsumerKey: eastKey, From: c.now().Add(-time.Second), To: c.now(), Latency: sketchOf(time.Duration(i))}
			if err := db.PutAcks(t.Context(), []fleet.AckWindow{ackWindow}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	var oldest int64
	if err := db.metrics.r.QueryRow("SELECT min(k) FROM raw").Scan(&oldest); err != nil {
		t.Fatal(err)
	}
	if age := c.now().Sub(fromMS(oldest >> entityBits * unit)); age > 3*time.Hour+12*time.Minute || age < 3*time.Hour-12*time.Minute {
		t.Errorf("the oldest looks are %v old, want about 3 h", age)
	}
	// What is gone from raw is served by the roll-up.
	s := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, fleet.Range{From: start, To: start.Add(time.Hour)}, 60)
	if n := len(measured(s)); n != 59 { // in the first minute there was one look, and no rate yet
		t.Errorf("%d points of the first hour, want 59", n)
	}
	// Under a limit that holds nothing, the finest go first and it still works.
	db.o.SizeLimit = 200 << 10
	if err := db.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	used, err := db.used(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var raw, r1 int
	if err := db.metrics.r.QueryRow("SELECT (SELECT count(*) FROM raw), (SELECT count(*) FROM r1)").Scan(&raw, &r1); err != nil {
		t.Fatal(err)
	}
	if raw != 0 && used > db.o.SizeLimit {
		t.Errorf("%d bytes are used with a limit of %d, and %d raw rows are there", used, db.o.SizeLimit, raw)
	}
	var pages, free int64
	if err := db.metrics.r.QueryRow("SELECT p.page_count, f.freelist_count FROM pragma_page_count p, pragma_freelist_count f").Scan(&pages, &free); err != nil {
		t.Fatal(err)
	}
	if free*5 >= pages {
		t.Errorf("%d of %d pages are free and were not given back", free, pages)
	}
	fill(t, db, c, 10_000, 5)
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	log := Options{}.withDefaults().Log
	dir := t.TempDir()
	name := filepath.Join(dir, "x.db")
	good := fstest.MapFS{
		"0001_a.sql": {Data: []byte("CREATE TABLE a(x INTEGER) STRICT; INSERT INTO a VALUES (1);")},
		"0002_b.sql": {Data: []byte("CREATE TABLE b(x INTEGER) STRICT;")},
	}
	f, err := openFile(t.Context(), name, good, log)
	if err != nil {
		t.Fatal(err)
	}
	var page, vacuum, version int
	var mode string
	if err := f.r.QueryRow("SELECT p.page_size, a.auto_vacuum, j.journal_mode, v.user_version FROM pragma_page_size p, pragma_auto_vacuum a, pragma_journal_mode j, pragma_user_version v").
		Scan(&page, &vacuum, &mode, &version); err != nil {
		t.Fatal(err)
	}
	if page != pageSize || vacuum != 2 || mode != "wal" || version != 2 {
		t.Errorf("page_size %d, auto_vacuum %d, journal_mode %s, user_version %d", page, vacuum, mode, version)
	}
	if _, err := f.r.Exec("INSERT INTO a VALUES (2)"); err == nil {
		t.Error("a reader could write")
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}

	broken := fstest.MapFS{"0001_a.sql": good["0001_a.sql"], "0002_b.sql": good["0002_b.sql"],
		"0003_c.sql": {Data: []byte("CREATE TABLE c(x INTEGER) STRICT; INSERT INTO a VALUES (3); CREATE TABLE b(x INTEGER);")}}
	if _, err := openFile(t.Context(), name, broken, log); err == nil || !strings.Contains(err.Error(), "0003_c.sql") {
		t.Errorf("a broken migration: %v", err)
	}
	if f, err = openFile(t.Context(), name, good, log); err != nil {
		t.Fatal(err)
	}
	var c, rows int
	if err := f.r.QueryRow("SELECT (SELECT count(*) FROM sqlite_master WHERE name = 'c'), (SELECT count(*) FROM a)").Scan(&c, &rows); err != nil || c != 0 || rows != 1 {
		t.Errorf("a broken migration left %d tables and %d rows, %v", c, rows, err)
	}
	f.close()

	older := fstest.MapFS{"0001_a.sql": good["0001_a.sql"]}
	if _, err := openFile(t.Context(), name, older, log); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("a file from a newer program: %v, want Unavailable", err)
	}
	for _, sub := range []string{"metrics", "console"} {
		files, err := fs.Glob(migrations, "migrations/"+sub+"/*.sql")
		if err != nil || len(files) == 0 {
			t.Errorf("no migrations for %s: %v", sub, err)
		}
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := newClock()
	db := openTest(t, dir, c, Options{})
	if _, err := Open(t.Context(), dir, Options{}); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("a second Open = %v, want Unavailable", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, dir, c, Options{})
}

func TestColumnsOfAnOlderProgram(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	fill(t, db, c, 0, 5)
	// As if "cpu" had not been recorded then.
	if _, err := db.metrics.w.Exec(`UPDATE layout SET cols = replace(cols, '"cpu"', '"was_cpu"') WHERE kind = 'server'`); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, copyDir(t, dir), c, Options{})
	fill(t, again, c, 5, 5)
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	if n := len(measured(series(t, again, fleet.KindServer, "n1", fleet.ColCPU, r, 1000))); n != 5 {
		t.Errorf("%d points of the column that is newer, want 5", n)
	}
	if n := len(measured(series(t, again, fleet.KindServer, "n1", fleet.ColMem, r, 1000))); n != 10 {
		t.Errorf("%d points of the column that was there, want 10", n)
	}
}

func TestEventsAndSlotsAndSettings(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	var want []fleet.Event
	for i, name := range hostile {
		want = append(want, fleet.Event{At: c.add(time.Second), Kind: "server.restarted", Severity: fleet.Warning, Entity: name, Text: fmt.Sprint("no. ", i, " ", name)})
	}
	if err := db.PutEvents(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := db.Events(t.Context(), fleet.Range{From: born, To: c.now().Add(time.Second)}, 0)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d events, %v, want %d", len(got), err, len(want))
	}
	slices.Reverse(got)
	for i := range got {
		if got[i].ID == 0 {
			t.Errorf("event %d has no number", i)
		}
		got[i].ID = 0
		if got[i] != want[i] {
			t.Errorf("event %+v, want %+v", got[i], want[i])
		}
	}
	if few, err := db.Events(t.Context(), fleet.Range{From: born, To: c.now().Add(time.Second)}, 2); err != nil || len(few) != 2 || few[0].Text != want[len(want)-1].Text {
		t.Errorf("the newest two: %v, %v", few, err)
	}

	first, err := db.Slots(t.Context(), append([]string{"b", "a", "b"}, hostile...))
	if err != nil {
		t.Fatal(err)
	}
	if first["b"] != 0 || first["a"] != 1 {
		t.Errorf("slots %v", first)
	}
	if err := db.SetSetting(t.Context(), "name", hostile[0]); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, copyDir(t, dir), c, Options{})
	second, err := again.Slots(t.Context(), append([]string{"new", "a"}, hostile...))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range append([]string{"a"}, hostile...) {
		if second[k] != first[k] {
			t.Errorf("%q moved from %d to %d", k, first[k], second[k])
		}
	}
	seen := map[int]string{}
	for k, n := range second {
		if seen[n] != "" {
			t.Errorf("%q and %q share place %d", k, seen[n], n)
		}
		seen[n] = k
	}
	if v, err := again.Setting(t.Context(), "name"); err != nil || v != hostile[0] {
		t.Errorf("setting = %q, %v", v, err)
	}
	if _, err := again.Setting(t.Context(), "none"); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("an unknown setting = %v, want NotFound", err)
	}
}

// hostile names: what clients may call their things.
var hostile = []string{
	"'; DROP TABLE raw; --", `<script>alert(1)</script>`, "a\x00b", "\xff\xfe not utf-8", "new\nline\r\x1b[31m",
	"=1+1", "\u202etxt.exe", strings.Repeat("x", 5000), "%s%n?1$1", "../../etc/passwd", "", "/", "a/b/c/d",
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	for i := range 3 {
		at := c.add(time.Second)
		s := fleet.Snapshot{TakenAt: at}
		var acks []fleet.AckWindow
		for _, name := range hostile {
			key := fleet.ConsumerKey{Account: name, Stream: "S", Consumer: "C"}
			s.Servers = append(s.Servers, fleet.Server{ID: name, Name: name, At: at, Start: born, InMsgs: uint64(i * 10)})
			s.Accounts = append(s.Accounts, fleet.Account{Name: name, At: at, InMsgs: uint64(i)})
			s.Consumers = append(s.Consumers, fleet.Consumer{ConsumerKey: key, At: at, Delivered: uint64(i), Pending: math.MaxUint64})
			acks = append(acks, fleet.AckWindow{ConsumerKey: key, From: at.Add(-time.Second), To: at, Latency: sketchOf(time.Millisecond)})
		}
		put(t, db, s)
		if err := db.PutAcks(t.Context(), acks); err != nil {
			t.Fatal(err)
		}
	}
	db = openTest(t, copyDir(t, dir), c, Options{})
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	for _, name := range hostile {
		if got := measured(series(t, db, fleet.KindServer, name, fleet.ColInMsgs, r, 1000)); len(got) != 2 || got[0].Avg != 10 {
			t.Errorf("server %.20q: %v", name, got)
		}
		l, err := db.Latency(t.Context(), fleet.ConsumerKey{Account: name, Stream: "S", Consumer: "C"}, r, 100)
		if err != nil || l.Total.Count() != 3 {
			t.Errorf("latency of account %.20q: %d samples, %v", name, l.Total.Count(), err)
		}
	}
}

func TestHotQueriesUseTheirKeys(t *testing.T) {
	t.Parallel()
	db := openTest(t, t.TempDir(), newClock(), Options{})
	entries, args := entriesQuery(traffic.EntryFilter{Split: "orders", Before: 10})
	byChange, changeArgs := entriesQuery(traffic.EntryFilter{Change: "c1"})
	for _, tt := range []struct {
		db    *file
		query string
		args  []any
		want  string
	}{
		{db.metrics, manySQL("raw"), []any{"[1,2]"}, "SEARCH raw USING INTEGER PRIMARY KEY"},
		{db.metrics, manySQL("h0"), []any{"[1,2]"}, "SEARCH h0 USING INTEGER PRIMARY KEY"},
		{db.metrics, livesSQL, []any{"server", "n1", 1}, "SEARCH entity USING INDEX sqlite_autoindex_entity_1 (kind=? AND name=?)"},
		{db.metrics, aliveSQL, []any{1, 2}, "entity_last"},
		{db.metrics, eventsSQL, []any{1, 2, 3}, "SEARCH event USING INDEX event_ts"},
		{db.metrics, seenSQL, []any{1, "[1,2]", 3}, "SEARCH entity USING INTEGER PRIMARY KEY"},
		{db.metrics, "DELETE FROM raw WHERE k < ?", []any{1}, "SEARCH raw USING INTEGER PRIMARY KEY"},
		{db.console, entries, args, "SEARCH journal USING INDEX journal_split"},
		{db.console, byChange, changeArgs, "SEARCH journal USING INDEX journal_change"},
	} {
		rows, err := tt.db.r.Query("EXPLAIN QUERY PLAN "+tt.query, tt.args...)
		if err != nil {
			t.Fatalf("explain %s: %v", tt.query, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, x int
			var text string
			if err := rows.Scan(&id, &parent, &x, &text); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, text)
		}
		rows.Close()
		if !strings.Contains(strings.Join(plan, "\n"), tt.want) {
			t.Errorf("%s\nruns as %q, want %q", tt.query, plan, tt.want)
		}
	}
}

// Readers see whole looks while looks are put, sealed, rolled up and dropped.
func TestReadersWhileWriting(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	fill(t, db, c, 0, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	split := traffic.Split{Name: "orders", Targets: []traffic.Target{{Name: "east", Observe: &traffic.Observed{Stream: "ORDERS", Consumer: "east"}}}}
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r := fleet.Range{From: start, To: c.now()}
				s, err := db.Series(t.Context(), fleet.SeriesQuery{Entity: fleet.Entity{Kind: fleet.KindServer, Key: "n1"},
					Column: fleet.ColInMsgs, Range: r, Points: 5000})
				if err != nil {
					t.Errorf("Series: %v", err)
					return
				}
				n := 0
				for _, p := range s.Data {
					if p.N > 0 && p.Avg != 100 {
						t.Errorf("point %+v, want 100", p)
						return
					}
					n += p.N
				}
				if want := int(r.Span().Seconds()) - 3; n < want {
					t.Errorf("%d looks, want at least %d", n, want)
					return
				}
				if _, err := db.Observe(t.Context(), split, r); err != nil {
					t.Errorf("Observe: %v", err)
					return
				}
			}
		})
	}
	fill(t, db, c, 10, 400)
	cancel()
	wg.Wait()
}

// What the disk refuses is said, and is not taken for recorded.
func TestDiskRefuses(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	fill(t, db, c, 0, 5)
	if _, err := db.metrics.w.Exec("CREATE TRIGGER full BEFORE INSERT ON tick BEGIN SELECT RAISE(ABORT, 'disk full'); END"); err != nil {
		t.Fatal(err)
	}
	for i := 5; i < 8; i++ {
		s := look(c.add(time.Second), i)
		s.Servers = append(s.Servers, fleet.Server{ID: "S9", Name: "n9", At: c.now(), Start: born})
		if err := db.PutSnapshot(t.Context(), s); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Fatalf("PutSnapshot = %v", err)
		}
	}
	if !db.Latest().TakenAt.Equal(c.now()) || db.Rates().Servers["n1"].InMsgs != 100 {
		t.Errorf("with a full disk, the latest look is of %v and the rate %v", db.Latest().TakenAt, db.Rates().Servers["n1"].InMsgs)
	}
	if _, err := db.metrics.w.Exec("DROP TRIGGER full"); err != nil {
		t.Fatal(err)
	}
	fill(t, db, c, 8, 5)
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	want := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	if n := len(measured(want)); n != 8 {
		t.Errorf("%d points, want 8: four before and four after", n)
	}
	got := series(t, openTest(t, copyDir(t, dir), c, Options{}), fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	if !slices.Equal(got.Data, want.Data) {
		t.Errorf("after a kill %v, want %v", got.Data, want.Data)
	}
	// A slot that cannot be sealed stays readable, and is sealed later.
	fill(t, db, c, 13, 130)
	r.To = c.now().Add(time.Second)
	want = series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	for _, table := range []string{"raw", "mark"} {
		if _, err := db.metrics.w.Exec("CREATE TRIGGER full BEFORE INSERT ON " + table + " BEGIN SELECT RAISE(ABORT, 'disk full'); END"); err != nil {
			t.Fatal(err)
		}
		if err := db.sealAll(t.Context()); err == nil || len(db.closing) != 1 {
			t.Errorf("sealing to a full disk = %v, %d slots wait", err, len(db.closing))
		}
		if got := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000); !slices.Equal(got.Data, want.Data) {
			t.Errorf("a slot that cannot be sealed (%s) reads otherwise", table)
		}
		if _, err := db.metrics.w.Exec("DROP TRIGGER full"); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.sealAll(t.Context()); err != nil || len(db.closing) != 0 {
		t.Errorf("sealing at last = %v, %d slots wait", err, len(db.closing))
	}
	if got := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000); !slices.Equal(got.Data, want.Data) {
		t.Error("the slot reads otherwise once it is sealed")
	}
}

// Whoever creates things without end, and a server that has no figures.
func TestWhatIsNotRecorded(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	for i := range 2 {
		s := fleet.Snapshot{TakenAt: c.add(time.Second), Servers: []fleet.Server{{ID: "S1", Name: "unread", State: fleet.Unread}}}
		for k := range maxEntities {
			s.Streams = append(s.Streams, fleet.Stream{StreamKey: fleet.StreamKey{Account: "A", Stream: fmt.Sprint(i, "-", k)}, LastSeq: 1})
		}
		put(t, db, s)
	}
	if n := len(db.entities); n != maxEntities {
		t.Errorf("%d entities, want %d", n, maxEntities)
	}
	s := series(t, db, fleet.KindServer, "unread", fleet.ColCPU, fleet.Range{From: start, To: c.now().Add(time.Second)}, 100)
	if n := len(measured(s)); n != 0 {
		t.Errorf("%d points of a server that was not read", n)
	}
}

func TestClockStepsBack(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	fill(t, db, c, 0, 200)
	c.add(-time.Minute)
	fill(t, db, c, 200, 100)
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	want := series(t, db, fleet.KindServer, "n1", fleet.ColMem, r, 5000)
	if n := len(measured(want)); n != 240 {
		t.Errorf("%d looks, want 240: 200 and those after the clock caught up", n)
	}
	got := series(t, openTest(t, copyDir(t, dir), c, Options{}), fleet.KindServer, "n1", fleet.ColMem, r, 5000)
	if !slices.Equal(got.Data, want.Data) {
		t.Error("after a kill the series differs")
	}
}

func TestCancelledPut(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.PutSnapshot(ctx, look(c.add(time.Second), 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("PutSnapshot = %v, want Canceled", err)
	}
	if !db.Latest().TakenAt.IsZero() {
		t.Error("a look that was refused is shown")
	}
}

// A power cut may leave any beginning of the write-ahead log: what is read is
// then a beginning of what was written.
func TestCutLog(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	for i := range 30 {
		put(t, db, look(c.add(time.Second), i))
		appendAll(t, db.Journal(), 1)
	}
	rnd := rand.New(rand.NewPCG(27, 28))
	for range 40 {
		cut := copyDir(t, dir)
		for _, name := range []string{"metrics.db-wal", "console.db-wal"} {
			st, err := os.Stat(filepath.Join(cut, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(cut, name), rnd.Int64N(st.Size())); err != nil {
				t.Fatal(err)
			}
		}
		part, err := Open(t.Context(), cut, Options{Now: c.now, Interval: time.Second})
		if err != nil {
			t.Fatalf("Open of a cut log: %v", err)
		}
		for i, p := range measured(series(t, part, fleet.KindConsumer, eastKey.Entity().Key, fleet.ColInFlight, fleet.Range{From: start, To: c.now().Add(time.Second)}, 5000)) {
			if p.Avg != float64(i) {
				t.Errorf("look %d says %v", i, p.Avg)
			}
		}
		if err := part.Journal().Verify(t.Context()); err != nil {
			t.Error(err)
		}
		put(t, part, look(c.now().Add(time.Second), 99))
		part.Close()
	}
}
