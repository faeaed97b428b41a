package collector

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

const (
	// allUpTo is the samples a second up to which all are listened to. One that
	// comes alone wakes three of a server's threads: it costs 10 µs on a busy
	// machine and 45 µs on a quiet one, so at this rate up to half a percent of a
	// core.
	allUpTo = 100
	// Beyond it those are listened to that come in turns, in all about enough a
	// second, but never in less than leastShare of the time.
	enough     = 25
	leastShare = 0.1
	turnTime   = 5 * time.Second
	// maxFollowed bounds the consumers that are listened to all the time, a
	// subscription each.
	maxFollowed = 256
)

// shareFor is the share of the time in which the samples of those that are not
// followed are listened to. all is the rate of all samples and others that of
// those not followed; before is the share until now.
func shareFor(all, others, before float64) float64 {
	if all <= allUpTo && (before == 1 || all <= allUpTo/2) {
		return 1
	}
	if share := max(enough/max(others, 1), leastShare); share < 0.8 {
		return share
	}
	return 1 // the turns would cost as much as they save
}

// hearing listens to the servers' samples of acknowledgements: to all of them
// once it is open, and in turns while it runs. Its state is owned by one
// goroutine.
type hearing struct {
	nc      *nats.Conn
	acks    *acks
	turn    time.Duration
	whom    func() []fleet.ConsumerKey // that are listened to all the time
	all     *nats.Subscription         // to the samples of all consumers; nil: between turns
	alone   map[string]*nats.Subscription
	share   float64
	rest    [2]float64 // smoothed rates of those not followed and of the followed
	settled bool       // rest was measured
}

func newHearing(nc *nats.Conn, a *acks, whom func() []fleet.ConsumerKey) *hearing {
	return &hearing{nc: nc, acks: a, turn: turnTime, whom: whom, alone: map[string]*nats.Subscription{}, share: 1}
}

// run listens in turns until ctx ends, or until the connection is closed for
// good.
func (h *hearing) run(ctx context.Context) error {
	for {
		slice := time.Duration(h.share * float64(h.turn))
		if err := h.follow(); err != nil {
			return err
		}
		// At another moment of every turn: what comes at a steady beat must not
		// always fall beside it, or into it.
		before := rand.N(h.turn - slice + 1)
		if h.share < 1 {
			h.drop()
			if !idle(ctx, before) {
				return nil
			}
			if err := h.open(); err != nil {
				return err
			}
			h.begin(ctx)
		}
		others, followed := h.acks.heard()
		if !idle(ctx, slice) {
			return nil
		}
		othersNow, followedNow := h.acks.heard()
		h.learn(float64(othersNow-others)/slice.Seconds(), float64(followedNow-followed)/slice.Seconds())
		if h.share == 1 {
			h.decide()
			continue
		}
		h.drop()
		if !idle(ctx, h.turn-slice-before) {
			return nil
		}
		if h.decide(); h.share == 1 {
			// In this order nothing is missed; a sample may count twice.
			if err := h.open(); err != nil {
				return err
			}
			h.mute()
		}
	}
}

func idle(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// learn takes the rates of one turn into account: a short turn errs by chance.
func (h *hearing) learn(others, followed float64) {
	if !h.settled {
		h.rest, h.settled = [2]float64{others, followed}, true
		return
	}
	h.rest[0] += (others - h.rest[0]) / 2
	h.rest[1] += (followed - h.rest[1]) / 2
}

func (h *hearing) decide() {
	h.share = shareFor(h.rest[0]+h.rest[1], h.rest[0], h.share)
	h.acks.setShare(h.share)
}

// follow learns whom to listen to all the time and, while the others are heard
// in turns, listens to each of them alone.
func (h *hearing) follow() error {
	subjects := map[string]bool{}
	if h.whom != nil {
		for _, k := range h.whom() {
			if s := ackSubject + k.Stream + "." + k.Consumer; len(subjects) < maxFollowed && oneConsumer(k) {
				subjects[s] = true
			}
		}
	}
	h.acks.follow(subjects)
	for s, sub := range h.alone {
		if !subjects[s] || h.share == 1 {
			h.acks.unhear(sub)
			delete(h.alone, s)
		}
	}
	if h.share == 1 {
		return nil
	}
	for s := range subjects {
		if h.alone[s] == nil {
			sub, err := h.acks.hear(h.nc, s, h.acks.take)
			if err != nil {
				return err
			}
			h.alone[s] = sub
		}
	}
	return nil
}

// oneConsumer reports whether the names stand for one consumer and not, as a
// subject, for many.
func oneConsumer(k fleet.ConsumerKey) bool {
	whole := func(s string) bool { return s != "" && !strings.ContainsAny(s, ".*> \t\r\n") }
	return whole(k.Stream) && whole(k.Consumer)
}

func (h *hearing) open() (err error) {
	if h.all == nil {
		h.all, err = h.acks.hear(h.nc, ackSubject+">", h.acks.takeOther)
	}
	return err
}

// begin waits until the servers know of the subscription, so that a turn is as
// long as it is meant to be. A connection that is down has nothing to be heard.
func (h *hearing) begin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_ = h.nc.FlushWithContext(ctx)
}

func (h *hearing) drop() {
	if h.all != nil {
		h.acks.unhear(h.all)
		h.all = nil
	}
}

func (h *hearing) mute() {
	for s, sub := range h.alone {
		h.acks.unhear(sub)
		delete(h.alone, s)
	}
}

func (h *hearing) close() {
	h.drop()
	h.mute()
}
