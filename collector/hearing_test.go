package collector

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

func TestShareOfTheTimeInWhichSamplesAreHeard(t *testing.T) {
	for _, c := range []struct {
		all, others, before, want float64
	}{
		{0, 0, 1, 1},
		{allUpTo, allUpTo, 1, 1},
		{allUpTo + 1, allUpTo + 1, 1, 25. / 101},
		{60, 60, 0.3, 25. / 60}, // it was too much a moment ago
		{50, 50, 0.3, 1},
		{263, 263, 1, leastShare},
		{50_000, 50_000, 1, leastShare},
		{1000, 100, 1, 0.25}, // nine tenths are followed
		{1000, 20, 1, 1},     // nearly all are: turns would save nothing
		{1000, 0, 0.5, 1},
	} {
		if got := shareFor(c.all, c.others, c.before); got != c.want {
			t.Errorf("shareFor(%v, %v, %v) = %v, want %v", c.all, c.others, c.before, got, c.want)
		}
	}
}

// Many samples are listened to in turns, those of the followed consumers all the
// time, and a server sends no more than is listened to.
func TestManySamplesAreHeardInTurns(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	followed := fleet.ConsumerKey{Account: "$G", Stream: "ORDERS", Consumer: "steered"}
	odd := fleet.ConsumerKey{Account: "$G", Stream: "ORDERS", Consumer: "*"} // not one consumer
	m := &memory{}
	c, err := New(Config{
		Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G", Interval: 100 * time.Millisecond,
		Sparing: true, Followed: func() []fleet.ConsumerKey { return []fleet.ConsumerKey{followed, odd} },
	}, m)
	if err != nil {
		t.Fatal(err)
	}
	c.hearing.turn = time.Second
	runIt(t, c)
	pub := natstest.Connect(t, srv.ClientURL())
	data := sample(1, "5000000")
	send := func(consumer string) {
		if err := pub.Publish(ackSubject+"ORDERS."+consumer, data); err != nil {
			t.Error(err)
		}
	}
	var sent atomic.Uint64
	ctx, quiet := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		beat := time.NewTicker(time.Millisecond)
		defer beat.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-beat.C:
				for range 3 {
					send(fmt.Sprintf("loud%d", sent.Add(1)%5))
				}
			}
		}
	}()
	defer func() { quiet(); <-ended }()
	listens := func(subject string) bool {
		c.acks.mu.Lock()
		defer c.acks.mu.Unlock()
		return slices.ContainsFunc(c.acks.subs, func(s *nats.Subscription) bool { return s.Subject == subject })
	}
	wait.For(t, patience, "turns", func() bool {
		return m.latest().Intake.Share < 0.5 && listens(ackSubject+"ORDERS.steered")
	})
	if listens(ackSubject + "ORDERS.*") {
		t.Error("a name that stands for all consumers is followed")
	}
	counted := func() (loud, steered uint64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, w := range m.acks {
			if w.Consumer == "steered" {
				steered += w.Latency.Count()
			} else {
				loud += w.Latency.Count()
			}
		}
		return loud, steered
	}
	loudBefore, _ := counted()
	sentBefore := sent.Load()
	// Over many turns, so that a part of them would be missed.
	const many = 300
	for range many {
		at := sent.Load()
		wait.For(t, patience, "the next beat", func() bool { return sent.Load() > at+45 })
		send("steered")
	}
	wait.For(t, patience, "all samples of the followed consumer", func() bool {
		_, n := counted()
		return n >= many
	})
	loud, steered := counted()
	// Should the turns end for a moment on a busy machine, a few may count twice.
	if steered > many+10 {
		t.Errorf("%d samples of the followed consumer are counted, %d were sent", steered, many)
	}
	if all := sent.Load() - sentBefore; loud == loudBefore || loud-loudBefore > all*3/4 {
		t.Errorf("%d of %d samples were heard, want about a tenth", loud-loudBefore, all)
	}
	if in := m.latest().Intake; in.Every != 1 || in.Passed != 0 || in.Dropped != 0 {
		t.Errorf("intake %+v, want that nothing was passed over of what was listened to", in)
	}
	// It is quiet again: everything is listened to, by one subscription.
	quiet()
	wait.For(t, patience, "the end of the turns", func() bool {
		return m.latest().Intake.Share == 1 && listens(ackSubject+">") && !listens(ackSubject+"ORDERS.steered")
	})
	_, before := counted()
	send("steered")
	wait.For(t, patience, "one more sample", func() bool {
		_, n := counted()
		return n == before+1
	})
}

// Unless it is told to spare the servers, it listens to everything.
func TestAllSamplesAreHeardUnlessSparing(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	m := collect(t, Config{Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G", Interval: 100 * time.Millisecond})
	wait.For(t, patience, "a snapshot", func() bool { return !m.latest().TakenAt.IsZero() })
	pub := natstest.Connect(t, srv.ClientURL())
	const many = 5 * allUpTo
	for range many {
		if err := pub.Publish(ackSubject+"ORDERS.c", sample(1, "5000000")); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, patience, "all samples", func() bool { return m.latest().Intake.Counted == many })
	if in := m.latest().Intake; in.Share != 1 {
		t.Errorf("intake %+v", in)
	}
}
