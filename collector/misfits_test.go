package collector

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// Samples that a client of the account made up, beside those of the server.
func TestForgedSamplesAreMarked(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	j := js(t, nc)
	stream(t, j, "ORDERS", 1)
	honest := consumer(t, j, "ORDERS", "honest")
	consumer(t, j, "ORDERS", "forged")
	m := &memory{}
	var ahead atomic.Int64
	run(t, Config{
		Monitor: []string{natstest.MonitorURL(srv)}, Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G",
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	}, m)
	wait.For(t, patience, "the consumers", func() bool { c, ok := findConsumer(m.latest(), "forged"); return ok && c.Sampled() })
	forge := func(name string, n int) {
		for range n {
			if err := nc.Publish(ackSubject+"ORDERS."+name, sample(1, "1000000")); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Two comparisons of two looks each: on a machine that is busy a look at all
	// consumers may be taken every half minute only.
	wait.For(t, 3*patience, "the mark", func() bool {
		publish(t, j, "orders.a", 50)
		ackSome(t, honest, 50, 50)
		forge("forged", 200)
		forge("ghost", 5)
		c, _ := findConsumer(m.latest(), "forged")
		return strings.Contains(c.Misfit, "came while 0 deliveries were settled")
	})
	if !m.has("consumer.samples_misfit", "$G/ORDERS/forged") {
		t.Errorf("events %v do not tell of it", m.kinds())
	}
	if c, _ := findConsumer(m.latest(), "honest"); c.Misfit != "" || m.has("consumer.samples_misfit", "$G/ORDERS/honest") {
		t.Errorf("the server's own samples are marked: %s", c.Misfit)
	}
	ghost := func() bool {
		for _, p := range m.latest().Problems {
			if p.Where == "account $G" && strings.Contains(p.What, "do not exist: ORDERS/ghost") {
				return true
			}
		}
		return false
	}
	if ghost() {
		t.Error("a consumer that may only be new is called missing at once")
	}
	ahead.Add(int64(misfitAfter))
	wait.For(t, patience, "the problem", func() bool { forge("ghost", 5); return ghost() })
	// A sample from below zero, and one that took longer than a delivery can.
	if err := nc.Publish(ackSubject+"ORDERS.honest", sample(1, "-5")); err != nil {
		t.Fatal(err)
	}
	wait.For(t, patience, "the mark of the other", func() bool {
		c, _ := findConsumer(m.latest(), "honest")
		return strings.Contains(c.Misfit, "less than no time")
	})
	// Without more of it the mark goes.
	wait.For(t, patience, "the end of the mark", func() bool {
		ahead.Add(int64(misfitFor))
		c, ok := findConsumer(m.latest(), "honest")
		return ok && c.Misfit == ""
	})
}

// A busy consumer whose every message is sampled, with redeliveries, is never
// marked.
func TestHonestSamplesFit(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	j := js(t, natstest.Connect(t, srv.ClientURL()))
	stream(t, j, "ORDERS", 1)
	con := consumer(t, j, "ORDERS", "east")
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}, Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G"})
	wait.For(t, patience, "the consumer", func() bool { c, ok := findConsumer(m.latest(), "east"); return ok && c.Sampled() })
	seen := len(m.all())
	wait.For(t, patience, "twenty looks under load", func() bool {
		publish(t, j, "orders.a", 100)
		batch, err := con.Fetch(100, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for msg := range batch.Messages() {
			if i++; i%10 == 0 {
				err = msg.Nak()
			} else {
				err = msg.Ack()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return len(m.all()) > seen+20
	})
	for _, s := range m.all() {
		if c, ok := findConsumer(s, "east"); ok && c.Misfit != "" {
			t.Fatalf("marked: %s", c.Misfit)
		}
	}
}

func TestWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	base := fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: "c"}, AckPolicy: "explicit", SampleFreq: "100",
		AckWait: 10 * time.Second, MaxDeliver: 3, Created: t0.Add(-time.Hour)}
	key := fleet.ConsumerKey{Stream: "S", Consumer: "c"}
	// each is one round a second: what the servers say and what came.
	type step struct {
		c     fleet.Consumer
		total ackTotal
	}
	play := func(steps []step) string {
		var m misfits
		last := ""
		for i, s := range steps {
			now := t0.Add(time.Duration(i) * time.Second)
			s.c.At = now
			rows := []fleet.Consumer{s.c}
			m.judge(now, rows, "A", true, map[fleet.ConsumerKey]ackTotal{key: s.total}, 0)
			last = rows[0].Misfit
		}
		return last
	}
	many := func(n int, f func(i int, c *fleet.Consumer, total *ackTotal)) []step {
		out := make([]step, n)
		for i := range out {
			out[i].c = base
			f(i, &out[i].c, &out[i].total)
		}
		return out
	}
	for _, c := range []struct {
		name, want string
		steps      []step
	}{
		{"as many as acknowledged", "", many(20, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.Delivered, c.AckPending, a.came = uint64(i*1000+50), 50, uint64(i*1000)
		})},
		{"more than acknowledged", "came while", many(20, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.Delivered, a.came = uint64(i*1000), uint64(i*2500)
		})},
		{"delivered but not acknowledged", "came while 0 deliveries", many(20, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.Delivered, c.AckPending, a.came = uint64(i*1000), i*1000, uint64(i*1000)
		})},
		{"one burst that a new leader does not know of yet", "", many(7, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.Delivered, a.came = uint64(i*1000), uint64(i*1000)
			if i == 2 {
				c.Delivered -= 999
			}
		})},
		{"made anew under the same name", "", many(20, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.Created, a.came = t0.Add(time.Duration(i)*time.Second), uint64(i*1000)
		})},
		{"not explicit, for long", "not explicit", many(130, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.AckPolicy, c.Delivered, a.came = "all", uint64(i*100), uint64(i)
		})},
		{"not sampled, for long", "sample_freq is off", many(130, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.SampleFreq, c.Delivered, a.came = "0", uint64(i*100), uint64(i)
		})},
		{"switched off just now", "", many(130, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.Delivered, a.came = uint64(i*100), uint64(i)
			if i > 100 {
				c.SampleFreq = ""
			}
		})},
		{"switched off, and none come any more", "", many(300, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.SampleFreq, a.came = "", 5
		})},
		{"longer than a delivery", "delivered again", many(2, func(i int, c *fleet.Consumer, a *ackTotal) { a.longest = time.Minute })},
		{"longer, with a back-off", "", many(2, func(i int, c *fleet.Consumer, a *ackTotal) {
			a.longest, c.Backoff = time.Minute, []time.Duration{time.Second, time.Minute}
		})},
		{"more deliveries than are made", "deliveries", many(2, func(i int, c *fleet.Consumer, a *ackTotal) { a.deliveries = 4 })},
		{"any number of deliveries", "", many(2, func(i int, c *fleet.Consumer, a *ackTotal) { a.deliveries, c.MaxDeliver = 400, -1 })},
		{"below zero", "less than no time", many(2, func(i int, c *fleet.Consumer, a *ackTotal) { a.negative = true })},
		{"configuration not read", "", many(200, func(i int, c *fleet.Consumer, a *ackTotal) {
			c.AckPolicy, c.SampleFreq, a.came, a.negative = "", "", uint64(i*1000), true
		})},
	} {
		if got := play(c.steps); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Invented names take no more memory than the samples of them do.
func TestDoubtsAreForgotten(t *testing.T) {
	t.Parallel()
	now := t0
	a := newAcks(func() time.Time { return now })
	for i := range 3 * maxAckConsumers {
		a.take(msgOf(fmt.Sprint("c", i)))
		if i%maxAckConsumers == maxAckConsumers-1 {
			a.cut(now)
		}
	}
	var m misfits
	came := a.byConsumer()
	if len(came) != 2*maxAckConsumers {
		t.Errorf("%d consumers are remembered, want %d", len(came), 2*maxAckConsumers)
	}
	if _, missing := m.judge(now, nil, "A", false, came, 0); missing != nil {
		t.Errorf("%d are called missing while not all consumers are known", len(missing))
	}
	m.judge(now, nil, "A", true, came, 0)
	now = now.Add(quietFor + time.Second)
	if came = a.byConsumer(); len(came) != 0 {
		t.Errorf("%d consumers are remembered after they were quiet", len(came))
	}
	if m.judge(now, nil, "A", true, came, 0); len(m.by) != 0 {
		t.Errorf("%d doubts are left", len(m.by))
	}
	if what := nameMissing([]string{"S/a", "S/b", "S/c", "S/d"}); what != "Acknowledgement samples come in the name of 4 consumers that do not exist: S/a, S/b, S/c and others." {
		t.Error(what)
	}
}
