package collector

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// The sampler by itself: what it does to a queue that it is told of, with time
// that is made.
func TestSamplerFollowsTheQueue(t *testing.T) {
	t.Parallel()
	s := newSampler()
	now := t0
	tell := func(waiting, dropped int) int {
		now = now.Add(judgeEvery)
		s.judge(now, waiting, dropped)
		return s.every
	}
	steps := func(what string, want int, n, waiting, dropped int) {
		t.Helper()
		for range n {
			tell(waiting, dropped)
		}
		if s.every != want {
			t.Errorf("%s: 1 of %d, want 1 of %d", what, s.every, want)
		}
	}
	steps("empty", 1, 100, 0, 0)
	steps("half full of the allowed crowd", 1, 100, crowded, 0)
	steps("crowded", 2, 1, crowded+1, 0)
	if !s.since.Equal(now) {
		t.Errorf("since %v, want %v", s.since, now)
	}
	began := s.since
	steps("crowded, but it shrinks no more nor grows", 2, 50, crowded+1, 0)
	steps("still growing", 4, 1, crowded+2, 0)
	steps("dropped before it", 8, 1, 0, 5)
	steps("no more dropped than before", 8, 1, 0, 5)
	if !s.since.Equal(began) {
		t.Errorf("since %v, want %v of the beginning", s.since, began)
	}
	perCalm := int(minCalm / judgeEvery)
	steps("calm for less than is needed", 8, perCalm-1, relaxed, 5)
	steps("calm for long enough", 4, 1, relaxed, 5)
	steps("neither calm nor crowded", 4, 10*perCalm, relaxed+1, 5)
	steps("calm again", 4, perCalm, 0, 5)
	steps("calm again for long enough", 2, 1, 0, 5)
	// It was too early: next time the calm must last twice as long.
	steps("crowded at once", 4, 1, crowded+9, 5)
	steps("as calm as was enough", 4, perCalm+1, 0, 5)
	steps("twice as calm", 2, perCalm, 0, 5)
	steps("and down to all", 1, 2*perCalm, 0, 5)
	if !s.since.IsZero() {
		t.Errorf("since %v while all are counted", s.since)
	}
	steps("after a long calm", 1, int(2*maxCalm/judgeEvery), 0, 5)
	if s.needed != minCalm {
		t.Errorf("a calm of %v is needed, want %v after a long calm", s.needed, minCalm)
	}
	for i := range 100 {
		tell(crowded+10+i, 5)
	}
	if s.every != maxEvery {
		t.Errorf("1 of %d at the worst, want %d", s.every, maxEvery)
	}
	s.judge(now.Add(judgeEvery/2), 1<<20, 1<<20)
	if s.every != maxEvery || s.dropped != 5 {
		t.Error("it judged twice within its interval")
	}
}

// Of each consumer evenly, the first of every window, and nothing is lost from
// the sum.
func TestSamplesAreLeftOutEvenly(t *testing.T) {
	t.Parallel()
	a := newAcks(time.Now)
	a.sampler.every = 4
	data := sample(1, "1000000")
	for range 4001 {
		// In turns: one counter for all would always pass over the same one.
		for _, c := range []string{"a", "b", "c", "d"} {
			a.take(&nats.Msg{Subject: ackSubject + "S." + c, Data: data})
		}
	}
	a.take(&nats.Msg{Subject: ackSubject + "S.rare", Data: data})
	for _, w := range a.cut(time.Now()) {
		want, passed := uint64(1001), uint64(3000)
		if w.Consumer == "rare" {
			want, passed = 1, 0
		}
		if w.Latency.Count() != want || w.Passed != passed {
			t.Errorf("%s: %d counted and %d passed over, want %d and %d", w.Consumer, w.Latency.Count(), w.Passed, want, passed)
		}
	}
	if in, _ := a.intake(); in.Counted != 4*1001+1 || in.Passed != 4*3000 || in.Whole() {
		t.Errorf("intake %+v", in)
	}
}

// A real flood at a collector that does not keep up.
func TestFloodIsSampledDownAndSaid(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	m := &memory{}
	var ahead atomic.Int64 // of the real clock
	c, err := New(Config{
		Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G", Interval: 100 * time.Millisecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	}, m)
	if err != nil {
		t.Fatal(err)
	}
	runIt(t, c)
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	if in := m.latest().Intake; in.Every != 1 || !in.Whole() || in.At.IsZero() {
		t.Errorf("intake at first %+v", in)
	}
	pub := natstest.Connect(t, srv.ClientURL())
	data := sample(1, "5000000")
	published := uint64(0)
	flood := func(n int) {
		for i := range n {
			if err := pub.Publish(fmt.Sprintf("%sORDERS.c%d", ackSubject, i%5), data); err != nil {
				t.Fatal(err)
			}
		}
		published += uint64(n)
		if err := pub.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
	}
	// It stands still, as on a machine that is busy with something else, and the
	// queue before it fills and runs over.
	hold := sync.OnceFunc(c.acks.mu.Unlock)
	c.acks.mu.Lock()
	t.Cleanup(hold)
	for waitingFor(c.hearing.all) < crowded*2 && droppedBy(c.hearing.all) == 0 {
		flood(lookAfter * 16)
	}
	if n := waitingFor(c.hearing.all); n > maxWaiting {
		t.Errorf("%d wait, more than may", n)
	}
	ahead.Add(int64(2 * judgeEvery)) // it stood still for longer than it may take to fill the queue
	hold()
	wait.For(t, patience, "that it is said", func() bool {
		s := m.latest()
		return s.Intake.Every >= 2 && m.has("acks.sampled", "collector")
	})
	s := m.latest()
	if s.Intake.Since.IsZero() || s.Intake.Whole() {
		t.Errorf("intake %+v", s.Intake)
	}
	said := false
	for _, p := range s.Problems {
		said = said || strings.Contains(p.What, fmt.Sprintf("1 of %d acknowledgement samples of each consumer is counted since ", s.Intake.Every))
	}
	if !said {
		t.Errorf("problems %+v do not say that samples are passed over", s.Problems)
	}
	wait.For(t, patience, "an empty queue", func() bool { return waitingFor(c.hearing.all) == 0 })
	flood(lookAfter * 8)
	sum := func() (counted, passed uint64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, w := range m.acks {
			counted += w.Latency.Count()
			passed += w.Passed
		}
		return counted, passed
	}
	wait.For(t, patience, "every sample to be accounted for", func() bool {
		counted, passed := sum()
		return counted+passed+uint64(droppedBy(c.hearing.all)) == published
	})
	if counted, passed := sum(); passed == 0 || counted == 0 {
		t.Errorf("%d counted, %d passed over", counted, passed)
	}
	wait.For(t, patience, "the figures of the snapshot", func() bool {
		in := m.latest().Intake
		counted, passed := sum()
		return in.Counted == counted && in.Passed == passed
	})
	// The flood is over: with time that passes, all are counted again.
	wait.For(t, patience, "all samples to be counted again", func() bool {
		ahead.Add(int64(minCalm))
		return m.latest().Intake.Whole() && m.has("acks.whole", "collector")
	})
	if in := m.latest().Intake; !in.Since.IsZero() {
		t.Errorf("intake %+v, want no moment while all are counted", in)
	}
}

// What the library drops before the intake is noticed and said.
func TestDroppedSamplesAreSaid(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	m := &memory{}
	var ahead atomic.Int64
	c, err := New(Config{
		Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G", Interval: 100 * time.Millisecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	}, m)
	if err != nil {
		t.Fatal(err)
	}
	runIt(t, c)
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	if err := c.hearing.all.SetPendingLimits(100, 1<<20); err != nil {
		t.Fatal(err)
	}
	pub := natstest.Connect(t, srv.ClientURL())
	hold := sync.OnceFunc(c.acks.mu.Unlock)
	c.acks.mu.Lock()
	t.Cleanup(hold)
	for droppedBy(c.hearing.all) == 0 {
		if err := pub.Publish(ackSubject+"S.c", sample(1, "5")); err != nil {
			t.Fatal(err)
		}
		if err := pub.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
	}
	ahead.Add(int64(2 * judgeEvery))
	hold()
	wait.For(t, patience, "the problem", func() bool {
		for _, s := range m.all() {
			for _, p := range s.Problems {
				if strings.Contains(p.What, "acknowledgement samples were dropped") {
					return s.Intake.Dropped > 0
				}
			}
		}
		return false
	})
	if in := m.latest().Intake; in.Whole() {
		t.Errorf("intake %+v after samples were dropped, want fewer to be counted", in)
	}
}

func TestShareIsToldAsAnEvent(t *testing.T) {
	t.Parallel()
	all, some := fleet.Intake{Every: 1, At: t0.Add(time.Minute)}, fleet.Intake{Every: 4, Since: t0, At: t0.Add(time.Second)}
	if e := said(&all, &some); len(e) != 1 || e[0].Kind != "acks.sampled" || !e[0].At.Equal(t0) || e[0].Severity != fleet.Warning || !strings.Contains(e[0].Text, "1 of 4") {
		t.Errorf("events %+v", e)
	}
	if e := said(&some, &all); len(e) != 1 || e[0].Kind != "acks.whole" || !strings.Contains(e[0].Text, "after 1m0s") {
		t.Errorf("events %+v", e)
	}
	if e := append(said(&some, &some), said(&all, &all)...); len(e) != 0 {
		t.Errorf("events %+v, nothing changed", e)
	}
}

// BenchmarkAckFlood brings samples from a publisher over a real server into the
// sketches, all in this process.
func BenchmarkAckFlood(b *testing.B) {
	srv := natstest.Server(b)
	m := &memory{}
	c, err := New(Config{Conn: natstest.Connect(b, srv.ClientURL()), Account: "$G", Interval: time.Second}, m)
	if err != nil {
		b.Fatal(err)
	}
	runIt(b, c)
	wait.For(b, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	pub := natstest.Connect(b, srv.ClientURL())
	subjects := make([]string, 100)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("%sORDERS.c%d", ackSubject, i)
	}
	data := sample(1, "5000000")
	for i := 0; b.Loop(); i++ {
		if err := pub.Publish(subjects[i%len(subjects)], data); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			if err := pub.FlushTimeout(patience); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := pub.FlushTimeout(patience); err != nil {
		b.Fatal(err)
	}
	wait.For(b, patience, "all samples", func() bool {
		in, _ := c.acks.intake()
		return in.Counted+in.Passed+in.Dropped == uint64(b.N)
	})
	in, _ := c.acks.intake()
	b.ReportMetric(float64(in.Passed), "passed")
	b.ReportMetric(float64(in.Dropped), "dropped")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}
