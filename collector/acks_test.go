package collector

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/sketch"
	"ballast/internal/wait"
)

func TestSamplesAreFoldedWithinOnePercent(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	j := js(t, nc)
	stream(t, j, "ORDERS", 1)
	con := consumer(t, j, "ORDERS", "east")
	// The same samples, recorded raw.
	var mu sync.Mutex // guards raw and twice
	var raw []time.Duration
	twice := 0
	rec := natstest.Connect(t, srv.ClientURL())
	sub, err := rec.Subscribe("$JS.EVENT.METRIC.CONSUMER.ACK.ORDERS.east", func(m *nats.Msg) {
		var s struct {
			AckTime    int64 `json:"ack_time"`
			Deliveries int   `json:"deliveries"`
		}
		if err := json.Unmarshal(m.Data, &s); err != nil {
			t.Errorf("read sample: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		raw = append(raw, time.Duration(s.AckTime))
		if s.Deliveries > 1 {
			twice++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := rec.Flush(); err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	const every = 200 * time.Millisecond
	stop := run(t, Config{Conn: nc, Monitor: []string{natstest.MonitorURL(srv)}, AckEvery: every}, m)
	// The first snapshot comes after the subscription; a round trip puts it into force.
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	const messages = 5000
	for i := range messages {
		if _, err := j.PublishAsync("orders.a", nil); err != nil {
			t.Fatalf("publish %d: %v", i, err)
		}
	}
	<-j.PublishAsyncComplete()
	nacked := 0
	for done := 0; done < messages; {
		// Batches wait in the client while the ones before are acknowledged, which
		// spreads the latencies over decades.
		batch, err := con.Fetch(500, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range batch.Messages() {
			if meta, _ := msg.Metadata(); meta.NumDelivered == 1 && nacked < 50 {
				nacked++
				if err := msg.Nak(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := msg.Ack(); err != nil {
				t.Fatal(err)
			}
			done++
		}
	}
	var total sketch.Sketch
	wait.For(t, patience, "all samples", func() bool {
		mu.Lock()
		defer mu.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		total = sketch.Sketch{}
		for _, w := range m.acks {
			total.Merge(w.Latency)
		}
		return len(raw) == messages && total.Count() == messages
	})
	stop()
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(raw)
	for _, q := range []float64{0.5, 0.95, 0.99} {
		exact, got := raw[int(math.Ceil(q*messages))-1], total.Quantile(q)
		if off := math.Abs(float64(got-exact)) / float64(exact); off > 0.01 {
			t.Errorf("p%v is %v, exactly %v: %.2f %% off", q*100, got, exact, off*100)
		}
	}
	redelivered := 0
	var last time.Time
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.SortFunc(m.acks, func(a, b fleet.AckWindow) int { return a.From.Compare(b.From) })
	for i, w := range m.acks {
		redelivered += int(w.Redelivered)
		if w.ConsumerKey != (fleet.ConsumerKey{Account: "$G", Stream: "ORDERS", Consumer: "east"}) {
			t.Errorf("window of %+v", w.ConsumerKey)
		}
		if !w.From.Before(w.To) || w.From.Before(last) {
			t.Errorf("window from %v to %v after one to %v", w.From, w.To, last)
		}
		last = w.To
		if aligned := w.To.Truncate(every).Equal(w.To); !aligned && i < len(m.acks)-1 {
			t.Errorf("window ends at %v, which is no multiple of %v", w.To, every)
		}
	}
	if redelivered != twice || twice != 50 {
		t.Errorf("%d redelivered, the raw samples say %d, want 50", redelivered, twice)
	}
}

func sample(deliveries int, ackTime string) []byte {
	return fmt.Appendf(nil, `{"type":"io.nats.jetstream.metric.v1.consumer_ack","id":"UzVVWTSMZlUXeAVVECexHi","timestamp":"2026-11-22T02:52:13.212291046Z","stream":"S","consumer":"PULL","consumer_seq":3,"stream_seq":3,"ack_time":%s,"deliveries":%d}`, ackTime, deliveries)
}

func TestParseAckIsStrict(t *testing.T) {
	t.Parallel()
	good := string(sample(2, "151924627"))
	got, err := parseAck([]byte(good))
	if want := (ackSample{151924627, 2}); err != nil || got != want {
		t.Errorf("parseAck(%s) = %+v, %v, want %+v", good, got, err, want)
	}
	pretty := "{\n  \"domain\": \"a\\\"b\\\\\", \"ack_time\": -5 ,\t\"type\":\"io.nats.jetstream.metric.v1.consumer_ack\" }\n"
	if got, err := parseAck([]byte(pretty)); err != nil || got.latency != -5 || got.deliveries != 0 {
		t.Errorf("parseAck(%s) = %+v, %v", pretty, got, err)
	}
	for _, bad := range []string{
		"", "{}", "[]", "null", good[:len(good)-1], good + "x", good[1:],
		`{"ack_time":5}`, // no type
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack"}`,
		`{"type":"io.nats.jetstream.advisory.v1.nak","ack_time":5}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":"5"}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":5.5}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":1e9}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":9223372036854775808}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":5,}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack" "ack_time":5}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":5,"x":{"y":1}}`,
		`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":5,"x":"` + "\n" + `"}`,
	} {
		if got, err := parseAck([]byte(bad)); err == nil {
			t.Errorf("parseAck(%s) = %+v, want an error", bad, got)
		}
	}
}

func TestAckConsumerNeedsBothNames(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]bool{
		ackSubject + "S.C":    true,
		ackSubject + "S":      false,
		ackSubject + "S.":     false,
		ackSubject + ".C":     false,
		ackSubject + "S.C.D":  false,
		"$JS.EVENT.METRIC.S.": false,
	} {
		if k, got := ackConsumer(subject); got != want {
			t.Errorf("ackConsumer(%q) = %+v, %v, want %v", subject, k, got, want)
		}
	}
}

// Whoever may publish in the account can invent consumers; they must not take
// all memory.
func TestInventedConsumersAreBounded(t *testing.T) {
	t.Parallel()
	a := newAcks(time.Now)
	data := sample(1, "1000000")
	for i := range maxAckConsumers + 7 {
		a.take(&nats.Msg{Subject: fmt.Sprintf("%sS.c%d", ackSubject, i), Data: data})
	}
	a.take(&nats.Msg{Subject: ackSubject + "S.c0", Data: data})
	a.take(&nats.Msg{Subject: ackSubject + "S.c0", Data: []byte("{}")})
	windows := a.cut(time.Now())
	if len(windows) != maxAckConsumers {
		t.Errorf("%d windows, want %d", len(windows), maxAckConsumers)
	}
	want := []string{
		"1 acknowledgement samples could not be read.",
		"7 acknowledgement samples were not counted: more than 10000 consumers are sampled.",
	}
	if got := a.trouble(); !slices.Equal(got, want) {
		t.Errorf("trouble = %q, want %q", got, want)
	}
	if got := a.trouble(); got != nil {
		t.Errorf("trouble again = %q, want none", got)
	}
}

// failing is a sink that refuses ACK windows for a while.
type failing struct {
	memory
	refuse int
}

func (f *failing) PutAcks(ctx context.Context, w []fleet.AckWindow) error {
	f.mu.Lock()
	refuse := f.refuse > 0
	f.refuse--
	f.mu.Unlock()
	if refuse {
		return fmt.Errorf("disk full")
	}
	return f.memory.PutAcks(ctx, w)
}

func TestWindowsThatWereNotStoredAreOfferedAgain(t *testing.T) {
	t.Parallel()
	f := &failing{refuse: 2}
	c, err := New(Config{Account: "APP"}, f)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.acks.take(&nats.Msg{Subject: ackSubject + "S.c", Data: sample(1, "1000000")})
		c.flush(t.Context(), time.Now())
	}
	n := uint64(0)
	for _, w := range f.acks {
		n += w.Latency.Count()
	}
	if n != 3 || len(f.acks) != 3 {
		t.Errorf("%d samples in %d windows arrived, want 3 in 3", n, len(f.acks))
	}
}

func BenchmarkAckTake(b *testing.B) {
	a := newAcks(time.Now)
	msgs := make([]*nats.Msg, 64)
	for i := range msgs {
		msgs[i] = &nats.Msg{Subject: fmt.Sprintf("%sORDERS.worker-%d", ackSubject, i%8), Data: sample(1, fmt.Sprint(20_000_000+i*977_777))}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		a.take(msgs[i%len(msgs)])
		i++
	}
}

// BenchmarkAckUnmarshal is the baseline: the same sample by encoding/json.
func BenchmarkAckUnmarshal(b *testing.B) {
	data := sample(1, "151924627")
	b.ReportAllocs()
	for b.Loop() {
		var s struct {
			Type       string `json:"type"`
			AckTime    int64  `json:"ack_time"`
			Deliveries uint64 `json:"deliveries"`
		}
		if err := json.Unmarshal(data, &s); err != nil {
			b.Fatal(err)
		}
	}
}

func msgOf(consumer string) *nats.Msg {
	return &nats.Msg{Subject: ackSubject + "S." + consumer, Data: sample(1, "1000000")}
}
