package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// rich has every setting that an update could lose.
func rich(name string) jetstream.ConsumerConfig {
	until := time.Now().Add(-time.Hour).UTC().Truncate(time.Second) // over, but still written there
	return jetstream.ConsumerConfig{
		Durable: name, Description: "workers <b>of</b> the east", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 7 * time.Second,
		MaxDeliver: 5, BackOff: []time.Duration{time.Second, 2 * time.Second}, FilterSubject: "orders." + name,
		MaxAckPending: 77, MaxRequestBatch: 11, MaxRequestExpires: 9 * time.Second, InactiveThreshold: time.Hour,
		Metadata: map[string]string{"team": "a \"b\" é", "io.nats.monitor.lag": "5"}, PauseUntil: &until, HeadersOnly: true,
	}
}

func ordersStream(tb testing.TB, nc *nats.Conn, replicas int) jetstream.Stream {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	var s jetstream.Stream
	// A meta leader that was just elected may not have heard of every peer yet.
	wait.For(tb, soon, "the stream to be created", func() bool {
		s, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: replicas})
		var api *jetstream.APIError
		if err != nil && (!errors.As(err, &api) || api.ErrorCode != codeNoPeers && api.Code < 500) {
			tb.Fatal(err)
		}
		return err == nil
	})
	return s
}

func addConsumer(tb testing.TB, s jetstream.Stream, cfg jetstream.ConsumerConfig) fleet.ConsumerKey {
	tb.Helper()
	if _, err := s.CreateConsumer(context.Background(), cfg); err != nil {
		tb.Fatalf("create consumer %s: %v", cfg.Durable, err)
	}
	return fleet.ConsumerKey{Stream: "ORDERS", Consumer: cfg.Durable}
}

// serverConfig is the consumer's configuration in the server's own words.
func serverConfig(tb testing.TB, nc *nats.Conn, k fleet.ConsumerKey) map[string]any {
	tb.Helper()
	var a struct {
		Config map[string]any `json:"config"`
	}
	var err error
	wait.For(tb, soon, "the consumer's leader to answer", func() bool {
		var m *nats.Msg
		if m, err = nc.Request("$JS.API.CONSUMER.INFO."+k.Stream+"."+k.Consumer, nil, 2*time.Second); err != nil {
			return false
		}
		if err := json.Unmarshal(m.Data, &a); err != nil {
			tb.Fatal(err)
		}
		return a.Config != nil
	})
	return a.Config
}

func freq(tb testing.TB, nc *nats.Conn, k fleet.ConsumerKey) string {
	tb.Helper()
	s, _ := serverConfig(tb, nc, k)["sample_freq"].(string)
	return s
}

// sameButFreq compares two of the server's answers field by field.
func sameButFreq(tb testing.TB, before, after map[string]any) {
	tb.Helper()
	for _, m := range []map[string]any{before, after} {
		delete(m, "sample_freq")
	}
	if b, a := asJSON(tb, before), asJSON(tb, after); a != b {
		tb.Errorf("the configuration changed:\n%s\n%s", b, a)
	}
}

// sampled counts how many of n acknowledgements the server samples.
func sampled(tb testing.TB, nc *nats.Conn, k fleet.ConsumerKey, n int) (samples int, bytes int) {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := nc.SubscribeSync("$JS.EVENT.METRIC.CONSUMER.ACK." + k.Stream + "." + k.Consumer)
	if err != nil {
		tb.Fatal(err)
	}
	defer sub.Unsubscribe()
	cons, err := js.Consumer(context.Background(), k.Stream, k.Consumer)
	if err != nil {
		tb.Fatal(err)
	}
	for range n {
		if _, err := js.Publish(context.Background(), "orders."+k.Consumer, []byte("x")); err != nil {
			tb.Fatal(err)
		}
		m, err := cons.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			tb.Fatal(err)
		}
		if err := m.DoubleAck(context.Background()); err != nil {
			tb.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil { // what the server sent before the last answer is here
		tb.Fatal(err)
	}
	for {
		m, err := sub.NextMsg(100 * time.Millisecond)
		if err != nil {
			return samples, bytes
		}
		samples++
		bytes = len(fmt.Sprintf("MSG %s 12 %d\r\n\r\n", m.Subject, len(m.Data))) + len(m.Data)
	}
}

func begin(tb testing.TB, c *Control, k fleet.ConsumerKey, percent int, d time.Duration) traffic.Measurement {
	tb.Helper()
	m, err := c.Measure(context.Background(), k, percent, d, "ann", "why is it slow?")
	if err != nil {
		tb.Fatalf("Measure(%v): %v", k, err)
	}
	return m
}

func waitOver(tb testing.TB, c *Control, id string) traffic.Measurement {
	tb.Helper()
	var m traffic.Measurement
	wait.For(tb, soon, "the measurement to end", func() bool {
		m, _ = c.measurement(id)
		return m.Phase == traffic.MeasureOver
	})
	return m
}

func TestMeasureChangesNothingElseAndPutsBack(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	push := jetstream.ConsumerConfig{Durable: "push", DeliverSubject: "deliver.here", DeliverGroup: "g", AckPolicy: jetstream.AckExplicitPolicy,
		FilterSubject: "orders.push", IdleHeartbeat: 5 * time.Second, RateLimit: 1 << 20}
	many := rich("many")
	many.FilterSubject, many.FilterSubjects = "", []string{"orders.many", "orders.b"}
	pinned := jetstream.ConsumerConfig{Durable: "pinned", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.pinned",
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"a"}, PinnedTTL: 30 * time.Second}
	for _, tc := range []struct {
		name   string
		before string
		cfg    jetstream.ConsumerConfig
	}{
		{"unset", "", rich("w0")},
		{"zero", "0", rich("w1")},
		{"five", "5%", rich("w2")},
		{"several filters", "", many},
		{"pinned", "", pinned},
		{"hostile names", "", rich("<b'x'{}\"&;$(id)é")},
		{"push", "1", push},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.SampleFrequency = tc.before
			var k fleet.ConsumerKey
			if tc.cfg.DeliverSubject != "" {
				if _, err := stream.CreatePushConsumer(context.Background(), tc.cfg); err != nil {
					t.Fatal(err)
				}
				k = fleet.ConsumerKey{Stream: "ORDERS", Consumer: tc.cfg.Durable}
				sub, err := nc.QueueSubscribeSync(tc.cfg.DeliverSubject, "g") // interest, as in real life
				if err != nil {
					t.Fatal(err)
				}
				defer sub.Unsubscribe()
			} else {
				k = addConsumer(t, stream, tc.cfg)
			}
			before := serverConfig(t, nc, k)
			m := begin(t, c, k, 100, time.Hour)
			if m.Phase != traffic.Measuring || m.Share != 1 || m.Before != tc.before {
				t.Fatalf("measurement %+v", m)
			}
			during := serverConfig(t, nc, k)
			if during["sample_freq"] != "100" {
				t.Errorf("sample_freq %v", during["sample_freq"])
			}
			sameButFreq(t, maps.Clone(before), during)
			m, err := c.StopMeasuring(context.Background(), m.ID, "bob")
			if err != nil || m.Phase != traffic.MeasureOver {
				t.Fatalf("StopMeasuring = %+v, %v", m, err)
			}
			if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
				t.Errorf("before and after differ:\n%s\n%s", b, a)
			}
			_, err = c.StopMeasuring(context.Background(), m.ID, "bob")
			wantKind(t, err, fleet.Stale)
		})
	}
	if on, off := ledger.count(traffic.EntryMeasureOn), ledger.count(traffic.EntryMeasureOff); on != 7 || off != 7 {
		t.Errorf("the journal has %d and %d entries, want 7 and 7", on, off)
	}
	checkMeasureReplay(t, c, ledger)
}

// checkMeasureReplay holds what the journal tells against what is remembered.
func checkMeasureReplay(tb testing.TB, c *Control, ledger *memLedger) {
	tb.Helper()
	again := New(Config{Ledger: ledger, Observer: script(nil)})
	if err := again.replay(context.Background()); err != nil {
		tb.Fatal(err)
	}
	if a, b := asJSON(tb, again.Measurements()), asJSON(tb, c.Measurements()); a != b {
		tb.Errorf("the journal tells\n%s\nremembered is\n%s", a, b)
	}
}

func TestMeasureReallySwitchesOnAndOff(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	plain := jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.w0"}
	k := addConsumer(t, stream, plain)
	c, _ := console(t, Config{Conn: nc})
	if n, _ := sampled(t, nc, k, 20); n != 0 {
		t.Fatalf("%d samples before", n)
	}
	m := begin(t, c, k, 100, time.Hour)
	n, size := sampled(t, nc, k, 20)
	if n != 20 {
		t.Errorf("%d of 20 sampled", n)
	}
	if guess := sampleBytes + 2*(len(k.Stream)+len(k.Consumer)); guess < size*9/10 || guess > size*11/10 {
		t.Errorf("a sample is taken to be %d bytes, it is %d", guess, size)
	}
	if _, err := c.StopMeasuring(context.Background(), m.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	// A plain "" would have left the server sampling.
	if n, _ := sampled(t, nc, k, 20); n != 0 {
		t.Errorf("%d samples after it was put back", n)
	}

	// Nor does it help if somebody else writes the "" meanwhile.
	m = begin(t, c, k, 100, time.Hour)
	if _, err := stream.UpdateConsumer(context.Background(), plain); err != nil {
		t.Fatal(err)
	}
	if n, _ := sampled(t, nc, k, 5); n != 5 {
		t.Errorf("%d of 5 sampled: nats-server has learned to take \"\" for off; see stepsBack", n)
	}
	if _, err := c.StopMeasuring(context.Background(), m.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if n, _ := sampled(t, nc, k, 20); n != 0 || freq(t, nc, k) != "" {
		t.Errorf("%d samples after it was put back, sample_freq %q", n, freq(t, nc, k))
	}
}

func TestMeasureEndsByItself(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, rich("w0"))
	var clock atomic.Int64
	now := func() time.Time { return time.Unix(1_800_000_000, clock.Load()) }
	see := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		from := r.From
		if r.Span() < time.Minute {
			from = from.Add(-5 * time.Second) // the last look before the sampling began
		}
		return []traffic.Observation{{Target: s.Targets[0].Name, From: from, To: r.To, Arrived: 6000, Acked: 6000, Samples: 1500}}, nil
	})
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Now: now, Observer: see, Ledger: ledger})
	m := begin(t, c, k, 0, time.Minute) // 100 acknowledgements/s were seen
	if m.AckRate != 100 || m.Percent != 34 || m.Cost.ExpectedPerSec != 35 {
		t.Fatalf("rate %v, %d %%, %v samples/s expected", m.AckRate, m.Percent, m.Cost.ExpectedPerSec)
	}
	_, err := c.Measure(context.Background(), k, 50, time.Minute, "bob", "")
	wantKind(t, err, fleet.Stale)
	clock.Store(int64(30 * time.Second))
	wait.For(t, soon, "the cost so far", func() bool {
		m, _ = c.measurement(m.ID)
		return m.Cost.Samples == 1500
	})
	if m.Cost.SamplesPerSec != 50 || m.Cost.BytesPerSec < 50*250 || m.Cost.BytesPerSec > 50*350 || m.Cost.ServerCPU < 0.01 || m.Cost.ServerCPU > 0.05 {
		t.Errorf("cost %+v", m.Cost)
	}
	clock.Store(int64(time.Minute))
	m = waitOver(t, c, m.ID)
	if got := freq(t, nc, k); got != "" || !strings.Contains(m.Outcome, "1500 samples; sample_freq is not set again") {
		t.Errorf("sample_freq %q, outcome %q", got, m.Outcome)
	}
	checkMeasureReplay(t, c, ledger)
}

func TestMeasureFindsTheRateItself(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy})
	c, _ := console(t, Config{Conn: nc})
	if m := begin(t, c, k, 0, time.Hour); m.Percent != 100 || m.AckRate != 0 {
		t.Errorf("an idle consumer: %d %% at %v/s", m.Percent, m.AckRate)
	}
	for _, tc := range []struct {
		rate    float64
		percent int
	}{{0, 100}, {35, 100}, {36, 96}, {100, 34}, {1000, 3}, {3000, 1}, {1e6, 1}} {
		got := choosePercent(tc.rate)
		if got != tc.percent {
			t.Errorf("choosePercent(%v) = %d, want %d", tc.rate, got, tc.percent)
		}
		if s := tc.rate * shareOf(got); tc.rate >= 20 && tc.rate <= 2000 && (s < 20 || s > 50) {
			t.Errorf("%v/s give %v samples/s, want 20 to 50", tc.rate, s)
		}
	}
}

func TestMeasureRefuses(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	good := addConsumer(t, stream, rich("w0"))
	for name, p := range map[string]jetstream.AckPolicy{"none": jetstream.AckNonePolicy, "all": jetstream.AckAllPolicy} {
		addConsumer(t, stream, jetstream.ConsumerConfig{Durable: name, AckPolicy: p})
	}
	on := rich("on")
	on.SampleFrequency = "100%"
	addConsumer(t, stream, on)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	key := func(consumer string) fleet.ConsumerKey {
		return fleet.ConsumerKey{Stream: "ORDERS", Consumer: consumer}
	}
	for _, tc := range []struct {
		name    string
		k       fleet.ConsumerKey
		percent int
		d       time.Duration
		actor   string
		want    fleet.ErrorKind
		says    string
	}{
		{"ack none", key("none"), 10, time.Minute, "ann", fleet.Invalid, "ack_policy none"},
		{"ack all", key("all"), 10, time.Minute, "ann", fleet.Invalid, "ack_policy all"},
		{"sampled already", key("on"), 100, time.Minute, "ann", fleet.Invalid, "sampled already"},
		{"sampled already, by another number", key("on"), 99, time.Minute, "ann", fleet.Invalid, "sampled already"},
		{"no such consumer", key("nobody"), 10, time.Minute, "ann", fleet.NotFound, "no consumer nobody"},
		{"no such stream", fleet.ConsumerKey{Stream: "X", Consumer: "w0"}, 10, time.Minute, "ann", fleet.NotFound, "no consumer"},
		{"another account", fleet.ConsumerKey{Account: "OTHER", Stream: "ORDERS", Consumer: "w0"}, 10, time.Minute, "ann", fleet.Forbidden, "account OTHER"},
		{"wildcard", key("*"), 10, time.Minute, "ann", fleet.Invalid, ""},
		{"all", key(">"), 10, time.Minute, "ann", fleet.Invalid, ""},
		{"two tokens", key("w0.x"), 10, time.Minute, "ann", fleet.Invalid, ""},
		{"a line of the protocol", key("w0 5\r\nPUB $KV.BALLAST.x 0\r\n"), 10, time.Minute, "ann", fleet.Invalid, ""},
		{"empty", fleet.ConsumerKey{}, 10, time.Minute, "ann", fleet.Invalid, ""},
		{"broken text", key("a\xffb"), 10, time.Minute, "ann", fleet.Invalid, ""},
		{"long", key(strings.Repeat("x", 300)), 10, time.Minute, "ann", fleet.Invalid, ""},
		{"percent", good, 101, time.Minute, "ann", fleet.Invalid, ""},
		{"negative", good, -1, time.Minute, "ann", fleet.Invalid, ""},
		{"for ever", good, 10, 25 * time.Hour, "ann", fleet.Invalid, ""},
		{"no time", good, 10, 0, "ann", fleet.Invalid, ""},
		{"nobody", good, 10, time.Minute, " ", fleet.Invalid, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.Measure(context.Background(), tc.k, tc.percent, tc.d, tc.actor, "")
			if e := wantKind(t, err, tc.want); !strings.Contains(e.Msg, tc.says) {
				t.Errorf("it says %q, want %q", e.Msg, tc.says)
			}
		})
	}
	if len(ledger.entries) > 0 {
		t.Errorf("the journal has %v", ledger.kinds(""))
	}
	good.Account = "$G"
	begin(t, c, good, 10, time.Hour)
	_, err := c.StopMeasuring(context.Background(), "nothing", "ann")
	wantKind(t, err, fleet.NotFound)

	ro := New(Config{Conn: nc, Ledger: ledger, ReadOnly: true})
	_, err = ro.Measure(context.Background(), key("w0"), 10, time.Minute, "ann", "")
	wantKind(t, err, fleet.Forbidden)
}

func TestMeasureNoRecordNoChange(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), rich("w0"))
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	ledger.setRefuse(func(traffic.Entry) error { return errors.New("disk full") })
	_, err := c.Measure(context.Background(), k, 10, time.Hour, "ann", "")
	wantKind(t, err, fleet.Unavailable)
	if got := freq(t, nc, k); got != "" || len(c.Measurements()) != 0 {
		t.Errorf("sample_freq %q, %d measurements", got, len(c.Measurements()))
	}
	ledger.setRefuse(nil)
	m := begin(t, c, k, 10, time.Hour)
	// The end is told even if the journal is full just then.
	ledger.setRefuse(func(traffic.Entry) error { return errors.New("disk full") })
	if _, err := c.StopMeasuring(context.Background(), m.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	ledger.setRefuse(nil)
	wait.For(t, soon, "the owed entry", func() bool { return ledger.count(traffic.EntryMeasureOff) == 1 })
	if got := freq(t, nc, k); got != "" {
		t.Errorf("sample_freq %q", got)
	}
}

// crash ends a console in the way of kill -9: nothing is put back.
func crash(nc *nats.Conn, stop func()) {
	nc.Close()
	stop()
}

func TestMeasureIsPutBackAfterACrash(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	stream := ordersStream(t, nc, 1)
	for name, between := range map[string]func(k fleet.ConsumerKey, ledger *memLedger){
		"while measuring": nil,
		// The record was made, the change was not.
		"before the change": func(k fleet.ConsumerKey, ledger *memLedger) {
			setFreq(t, stream, k, "0")
			setFreq(t, stream, k, "")
		},
		// "0" was written, "" was not.
		"half put back": func(k fleet.ConsumerKey, ledger *memLedger) { setFreq(t, stream, k, "0") },
	} {
		t.Run(name, func(t *testing.T) {
			k := addConsumer(t, stream, rich(strings.ReplaceAll(name, " ", "-")))
			before := serverConfig(t, nc, k)
			own := natstest.Connect(t, srv.ClientURL())
			ledger := &memLedger{}
			c, stop := console(t, Config{Conn: own, Ledger: ledger})
			m := begin(t, c, k, 50, time.Hour)
			crash(own, stop)
			if got := freq(t, nc, k); got != "50" {
				t.Fatalf("sample_freq %q, want it left", got)
			}
			if between != nil {
				between(k, ledger)
			}
			c, _ = console(t, Config{Conn: nc, Ledger: ledger}, func(c *Control) { c.late = 0 })
			if m = waitOver(t, c, m.ID); !strings.Contains(m.Outcome, "not set again") {
				t.Errorf("outcome %q", m.Outcome)
			}
			if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
				t.Errorf("before and after differ:\n%s\n%s", b, a)
			}
			if off := ledger.count(traffic.EntryMeasureOff); off != 1 {
				t.Errorf("%d entries of the end", off)
			}
		})
	}
}

func setFreq(tb testing.TB, s jetstream.Stream, k fleet.ConsumerKey, freq string) {
	tb.Helper()
	update(tb, s, k, func(c *jetstream.ConsumerConfig) { c.SampleFrequency = freq })
}

func update(tb testing.TB, s jetstream.Stream, k fleet.ConsumerKey, f func(*jetstream.ConsumerConfig)) {
	tb.Helper()
	cons, err := s.Consumer(context.Background(), k.Consumer)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := cons.CachedInfo().Config
	f(&cfg)
	if _, err := s.UpdateConsumer(context.Background(), cfg); err != nil {
		tb.Fatal(err)
	}
}

func TestMeasureIsPutBackWhenTheConsoleEnds(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	ledger := &memLedger{}
	c, stop := console(t, Config{Conn: nc, Ledger: ledger})
	var keys []fleet.ConsumerKey
	for i := range 5 {
		keys = append(keys, addConsumer(t, stream, rich("w"+strconv.Itoa(i))))
		begin(t, c, keys[i], 50, time.Hour)
	}
	stop()
	for _, k := range keys {
		if got := freq(t, nc, k); got != "" {
			t.Errorf("%s: sample_freq %q", k.Consumer, got)
		}
	}
	if off := ledger.count(traffic.EntryMeasureOff); off != 5 {
		t.Errorf("%d entries of the end", off)
	}
}

// What somebody else writes while the intent is put on record must survive.
func TestMeasureLooksAgainAfterTheRecord(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, rich("w0"))
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	ledger.setRefuse(func(e traffic.Entry) error {
		if e.Kind == traffic.EntryMeasureOn {
			update(t, stream, k, func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 999 })
		}
		return nil
	})
	_, err := c.Measure(context.Background(), k, 10, time.Hour, "ann", "")
	wantKind(t, err, fleet.Stale)
	if now := serverConfig(t, nc, k); now["max_ack_pending"] != 999.0 || now["sample_freq"] != nil {
		t.Errorf("the edit was lost: %v", now)
	}
	if on, off := ledger.count(traffic.EntryMeasureOn), ledger.count(traffic.EntryMeasureOff); on != 1 || off != 1 {
		t.Errorf("the journal has %d and %d entries, want 1 and 1", on, off)
	}
	ledger.setRefuse(nil)
	begin(t, c, k, 10, time.Hour)
}

func TestMeasureWhatOthersDidMeanwhile(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	c, _ := console(t, Config{Conn: nc})
	for _, tc := range []struct {
		name  string
		do    func(k fleet.ConsumerKey)
		says  string
		check func(k fleet.ConsumerKey)
	}{
		{"edited", func(k fleet.ConsumerKey) {
			update(t, stream, k, func(c *jetstream.ConsumerConfig) { c.MaxAckPending, c.Metadata["team"] = 999, "b" })
		}, "not set again", func(k fleet.ConsumerKey) {
			now := serverConfig(t, nc, k)
			if now["max_ack_pending"] != 999.0 || now["metadata"].(map[string]any)["team"] != "b" || now["sample_freq"] != nil {
				t.Errorf("the edit was lost: %v", now)
			}
		}},
		{"resampled", func(k fleet.ConsumerKey) { setFreq(t, stream, k, "7") }, "Somebody else set sample_freq to 7", func(k fleet.ConsumerKey) {
			if got := freq(t, nc, k); got != "7" {
				t.Errorf("sample_freq %q, want what somebody else chose", got)
			}
		}},
		{"deleted", func(k fleet.ConsumerKey) {
			if err := stream.DeleteConsumer(context.Background(), k.Consumer); err != nil {
				t.Fatal(err)
			}
		}, "deleted meanwhile", func(k fleet.ConsumerKey) {
			if _, err := stream.Consumer(context.Background(), k.Consumer); !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Errorf("the consumer is there again: %v", err)
			}
		}},
		{"recreated", func(k fleet.ConsumerKey) {
			if err := stream.DeleteConsumer(context.Background(), k.Consumer); err != nil {
				t.Fatal(err)
			}
			cfg := rich(k.Consumer)
			cfg.SampleFrequency = "50" // by chance what was measured with
			addConsumer(t, stream, cfg)
		}, "created anew", func(k fleet.ConsumerKey) {
			if got := freq(t, nc, k); got != "50" {
				t.Errorf("sample_freq %q, want the new consumer's own", got)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := addConsumer(t, stream, rich(tc.name))
			m := begin(t, c, k, 50, time.Hour)
			tc.do(k)
			m, err := c.StopMeasuring(context.Background(), m.ID, "ann")
			if err != nil || m.Phase != traffic.MeasureOver || !strings.Contains(m.Outcome, tc.says) {
				t.Errorf("StopMeasuring = %+v, %v; want it to say %q", m, err, tc.says)
			}
			tc.check(k)
		})
	}
	t.Run("many measure at once", func(t *testing.T) {
		k := addConsumer(t, stream, rich("busy"))
		var wg sync.WaitGroup
		var won atomic.Int32
		for range 10 {
			wg.Go(func() {
				if _, err := c.Measure(context.Background(), k, 50, time.Hour, "ann", ""); err == nil {
					won.Add(1)
				} else if fleet.KindOf(err) != fleet.Stale {
					t.Errorf("Measure: %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 10 won", won.Load())
		}
	})
}

// A configuration of a newer server has fields that this program does not know.
// No real server of today can show one, so this one is played.
func TestMeasureKeepsFieldsItDoesNotKnow(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.JetStream = false }))
	player, asker := natstest.Connect(t, srv.ClientURL()), natstest.Connect(t, srv.ClientURL())
	const config = `{"durable_name":"w0","name":"w0","ack_policy":"explicit","filter_subject":"a.b","num_replicas":0,
		"max_bytes":9007199254740993,"warp":{"factor":9.50,"deep":[{"x":null}]},"metadata":{"_nats.ver":"9.9.9"}}`
	var mu sync.Mutex
	held, asked := json.RawMessage(config), []json.RawMessage{}
	answer := func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if len(m.Data) > 0 {
			var req struct {
				Action string          `json:"action"`
				Config json.RawMessage `json:"config"`
			}
			if err := json.Unmarshal(m.Data, &req); err != nil || req.Action != "update" {
				t.Errorf("asked %s: %v", m.Data, err)
			}
			held = req.Config
			asked = append(asked, req.Config)
		}
		if err := m.Respond(encode(map[string]any{"created": "2026-01-01T00:00:00Z", "config": held})); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
	for _, subject := range []string{"$JS.API.CONSUMER.INFO.ORDERS.w0", "$JS.API.CONSUMER.CREATE.ORDERS.w0.a.b"} {
		if _, err := player.Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := player.Flush(); err != nil {
		t.Fatal(err)
	}
	c, _ := console(t, Config{Conn: asker})
	m := begin(t, c, fleet.ConsumerKey{Stream: "ORDERS", Consumer: "w0"}, 10, time.Hour)
	if _, err := c.StopMeasuring(context.Background(), m.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 3 { // on, "0", back
		t.Fatalf("%d updates, want 3: %s", len(asked), asked)
	}
	for i, want := range []string{`"10"`, `"0"`, ""} {
		var was, is map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal([]byte(config), &was), json.Unmarshal(asked[i], &is)); err != nil {
			t.Fatal(err)
		}
		if string(is["sample_freq"]) != want {
			t.Errorf("update %d: sample_freq %s, want %s", i, is["sample_freq"], want)
		}
		delete(is, "sample_freq")
		for f := range was {
			if string(is[f]) != string(was[f]) { // byte for byte: a number must not lose digits
				t.Errorf("update %d: %s is %s, was %s", i, f, is[f], was[f])
			}
		}
		if len(is) != len(was) {
			t.Errorf("update %d has %d fields, want %d", i, len(is), len(was))
		}
	}
}

func TestDiffers(t *testing.T) {
	t.Parallel()
	read := func(s string) (m map[string]json.RawMessage) {
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	a := read(`{"x":1,"y":[1,2],"sample_freq":"5","metadata":{"_nats.ver":"1","k":"v"}}`)
	for s, want := range map[string][]string{
		`{ "y":[1, 2], "x":1, "metadata":{"k":"v","_nats.ver":"2"}}`:   nil,
		`{"x":2,"y":[2,1],"metadata":{"k":"v"},"z":0}`:                 {"x", "y", "z"},
		`{"x":1,"y":[1,2],"metadata":{"_nats.ver":"1"}}`:               {"metadata"},
		`{"x":1,"y":[1,2],"metadata":{"k":"v","K":"v","_nats.l":"1"}}`: {"metadata"},
	} {
		if got := differs(a, read(s)); !slices.Equal(got, want) {
			t.Errorf("differs(%s) = %v, want %v", s, got, want)
		}
	}
}

func TestMeasureLostAnswer(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{"reply lost": loseReply, "write lost": loseWrite, "write late": holdWrite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := connect(t)
			k := addConsumer(t, ordersStream(t, nc, 1), rich("w0"))
			before := serverConfig(t, nc, k)
			p := newProxy(t, nc.ConnectedUrl())
			c, _ := console(t, Config{Conn: natstest.Connect(t, p.url(), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond))}, impatient,
				func(c *Control) { c.late = 3 * time.Second })
			p.arm(f)
			m, err := c.Measure(context.Background(), k, 50, time.Hour, "ann", "")
			wantKind(t, err, fleet.Unknown)
			p.heal()
			wait.For(t, soon, "it to be put back", func() bool {
				m, _ = c.measurement(m.ID)
				return m.Phase == traffic.LateWatch
			})
			_, err = c.Measure(context.Background(), k, 50, time.Hour, "bob", "")
			wantKind(t, err, fleet.Stale)
			if f == holdWrite {
				p.release()
				wait.For(t, soon, "the late write to arrive", func() bool { return freq(t, nc, k) == "50" })
			}
			m = waitOver(t, c, m.ID)
			if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
				t.Errorf("before and after differ:\n%s\n%s", b, a)
			}
			if n, _ := sampled(t, nc, k, 5); n != 0 {
				t.Errorf("%d samples although it was put back: %s", n, m.Outcome)
			}
		})
	}
}

// measureGrants is what docs/nats-permissions.md gives for measuring.
const measureGrants = `
accounts {
  APP {
    jetstream: enabled
    users: [
      { user: "app", password: "a" }
      { user: "one", password: "o", permissions { publish: [ ` + watching + ` "$SYS.REQ.USER.INFO", "$JS.API.CONSUMER.INFO.*.*",
          "$JS.API.CONSUMER.CREATE.ORDERS.w0.orders.w0" ], subscribe: [ "_INBOX_ballast.>" ] } }
      { user: "blind", password: "b", permissions { publish: [ ` + watching + ` ], subscribe: [ "_INBOX_ballast.>" ] } }
    ]
  }
}`

func TestMeasurePermissions(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(measureGrants))
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("app", "a"))
	stream := ordersStream(t, nc, 1)
	w0, w1 := addConsumer(t, stream, rich("w0")), addConsumer(t, stream, rich("w1"))
	as := func(user, password string) (*Control, *memLedger) {
		ledger := &memLedger{}
		c, _ := console(t, Config{Ledger: ledger, Conn: natstest.Connect(t, srv.ClientURL(), nats.UserInfo(user, password), nats.CustomInboxPrefix("_INBOX_ballast"))}, impatient)
		return c, ledger
	}
	w0.Account = "APP"
	one, ledger := as("one", "o")
	m := begin(t, one, w0, 50, time.Hour)
	if got := freq(t, nc, w0); got != "50" {
		t.Errorf("sample_freq %q", got)
	}
	if _, err := one.StopMeasuring(context.Background(), m.ID, "ann"); err != nil {
		t.Errorf("StopMeasuring: %v", err)
	}
	if got := freq(t, nc, w0); got != "" {
		t.Errorf("sample_freq %q", got)
	}

	_, err := one.Measure(context.Background(), w1, 50, time.Hour, "ann", "")
	if e := wantKind(t, err, fleet.Forbidden); !strings.Contains(e.Hint, "$JS.API.CONSUMER.CREATE.ORDERS.w1.orders.w1") {
		t.Errorf("hint %q does not name what to grant", e.Hint)
	}
	if ms := one.Measurements(); ms[0].Phase != traffic.MeasureOver || !strings.HasPrefix(ms[0].Outcome, "Not switched on") || freq(t, nc, w1) != "" {
		t.Errorf("measurement %+v", ms[0])
	}
	if on, off := ledger.count(traffic.EntryMeasureOn), ledger.count(traffic.EntryMeasureOff); on != 2 || off != 2 {
		t.Errorf("the journal has %d and %d entries, want 2 and 2", on, off)
	}

	blind, ledger := as("blind", "b")
	for _, account := range []string{"", "APP"} {
		w1.Account = account
		_, err := blind.Measure(context.Background(), w1, 50, time.Hour, "ann", "")
		if err == nil || fleet.KindOf(err) != fleet.Forbidden && fleet.KindOf(err) != fleet.Unavailable {
			t.Errorf("Measure without rights = %v", err)
		}
	}
	if len(ledger.entries) != 0 {
		t.Errorf("the journal has %d entries", len(ledger.entries))
	}
}

func TestMeasureOnACluster(t *testing.T) {
	t.Parallel()
	cl := natstest.Cluster(t, 3)
	nc := cl.App(t)
	stream := ordersStream(t, nc, 3)
	k := addConsumer(t, stream, rich("w0"))
	plain := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "plain", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.plain"})
	own := cl.App(t)
	ledger := &memLedger{}
	c, stop := console(t, Config{Conn: own, Ledger: ledger})

	before := serverConfig(t, nc, k)
	m := begin(t, c, k, 50, time.Hour)
	sameButFreq(t, maps.Clone(before), serverConfig(t, nc, k))
	// A server that was just elected may not have taken it over yet.
	wait.For(t, patient, "the leader to tell the new sample_freq", func() bool { return freq(t, nc, k) == "50" })
	if _, err := c.StopMeasuring(context.Background(), m.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
		t.Errorf("before and after differ:\n%s\n%s", b, a)
	}

	// Put back after a crash, and off at whichever server leads the consumer then.
	m = begin(t, c, plain, 100, time.Hour)
	if n, _ := sampled(t, nc, plain, 5); n != 5 {
		t.Errorf("%d of 5 sampled", n)
	}
	crash(own, stop)
	own = cl.App(t)
	c, _ = console(t, Config{Conn: own, Ledger: ledger}, func(c *Control) { c.late = 0 })
	waitOver(t, c, m.ID)
	if got := freq(t, nc, plain); got != "" {
		t.Errorf("sample_freq %q", got)
	}
	for range 3 {
		if _, err := nc.Request("$JS.API.CONSUMER.LEADER.STEPDOWN.ORDERS.plain", nil, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		serverConfig(t, nc, plain) // waits for the new leader
		if n, _ := sampled(t, nc, plain, 5); n != 0 {
			t.Errorf("%d samples after it was put back and another server leads", n)
		}
	}

	t.Run("no quorum", func(t *testing.T) {
		m := begin(t, c, k, 50, time.Hour)
		keep := cl.MetaLeader() // the console stays connected to whom it likes
		for i := range cl.Len() {
			if i != keep {
				cl.Kill(i)
			}
		}
		start := time.Now()
		_, err := c.Measure(context.Background(), plain, 50, time.Hour, "ann", "")
		if kind := fleet.KindOf(err); err == nil || kind != fleet.Unavailable && kind != fleet.Unknown {
			t.Errorf("Measure = %v", err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("it took %v to say so", took)
		}
		if m, err := c.StopMeasuring(context.Background(), m.ID, "ann"); err == nil || m.Phase != traffic.PuttingBack && m.Phase != "" {
			t.Errorf("StopMeasuring = %v, %v", m.Phase, err)
		}
		for i := range cl.Len() {
			if i != keep {
				cl.Restart(i)
			}
		}
		cl.WaitReady()
		wait.For(t, 60*time.Second, "it to be put back", func() bool {
			// A stop that found no connection at all left it running.
			if m, _ = c.measurement(m.ID); m.Phase == traffic.Measuring {
				_, _ = c.StopMeasuring(context.Background(), m.ID, "ann")
			}
			return m.Phase == traffic.MeasureOver
		})
		wait.For(t, soon, "sample_freq to be what it was", func() bool { return freq(t, nc, k) == "" && freq(t, nc, plain) == "" })
	})
}
