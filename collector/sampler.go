package collector

import (
	"fmt"
	"time"

	"ballast/fleet"
)

const (
	// maxWaiting bounds what waits between the client library and a handler:
	// beyond either the library drops, and counts what it dropped.
	maxWaiting      = 1 << 16
	maxWaitingBytes = 32 << 20

	// A queue that is a quarter full and grows is overloaded; one that is nearly
	// empty is not.
	crowded = maxWaiting / 4
	relaxed = maxWaiting / 64

	maxEvery   = 1 << 10
	judgeEvery = 100 * time.Millisecond
	// More samples are tried after a calm of minCalm; each time it was too early,
	// the next calm must last twice as long.
	minCalm = 10 * time.Second
	maxCalm = 5 * time.Minute
)

// sampler decides which share of the samples is counted: one of every. It goes
// by the queue before the intake alone, and knows no other clock than the
// moments it is asked at.
type sampler struct {
	every   int
	since   time.Time // when every rose above 1
	judged  time.Time
	waiting int       // then
	dropped int       // by then
	calm    time.Time // since when the queue is nearly empty; zero: it is not
	needed  time.Duration
	eased   time.Time // when every was lowered last
}

func newSampler() sampler { return sampler{every: 1, needed: minCalm} }

// judge takes a look at the queue: how many wait in it, and how many were
// dropped before it so far.
func (s *sampler) judge(now time.Time, waiting, dropped int) {
	if now.Sub(s.judged).Abs() < judgeEvery {
		return
	}
	grows, lost := waiting > s.waiting, dropped > s.dropped
	s.judged, s.waiting, s.dropped = now, waiting, dropped
	switch {
	case lost || waiting > crowded && grows:
		s.calm = time.Time{}
		if !s.eased.IsZero() && now.Sub(s.eased) < s.needed {
			s.needed = min(2*s.needed, maxCalm)
		}
		s.eased = time.Time{}
		if s.every == 1 {
			s.since = now
		}
		s.every = min(2*s.every, maxEvery)
	case waiting > relaxed:
		s.calm = time.Time{}
	case s.calm.IsZero():
		s.calm = now
	case now.Sub(s.calm) < s.needed:
	case s.every > 1:
		s.every /= 2
		s.calm, s.eased = now, now
		if s.every == 1 {
			s.since = time.Time{}
		}
	case now.Sub(s.calm) >= maxCalm:
		s.needed = minCalm
	}
}

// said turns a change of the share between two rounds into an event.
func said(before, after *fleet.Intake) []fleet.Event {
	e := fleet.Event{At: after.At, Severity: fleet.Info, Entity: "collector"}
	switch {
	case before.Whole() && !after.Whole():
		e.At, e.Kind, e.Severity = after.Since, "acks.sampled", fleet.Warning
		e.Text = fmt.Sprintf("Acknowledgement samples came faster than they could be counted: 1 of %d of each consumer is counted.", after.Every)
	case !before.Whole() && after.Whole():
		e.Kind = "acks.whole"
		e.Text = fmt.Sprintf("All acknowledgement samples are counted again, after %v.", max(after.At.Sub(before.Since).Round(time.Second), time.Second))
	default:
		return nil
	}
	return []fleet.Event{e}
}
