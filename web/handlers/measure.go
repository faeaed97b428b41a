package handlers

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/traffic"
	"ballast/web/templates"
)

// window is what "now" means in a table: long enough for quantiles, short
// enough to follow a change.
const window = time.Minute

// measured is a split with what was seen of it.
type measured struct {
	rev      traffic.Revision
	r        fleet.Range
	since    bool // the range begins at the revision, which is younger than the window
	targets  []measuredTarget
	all      *sketch.Sketch // ACK latency of all targets together; nil when none is sampled
	rate     float64        // msg/s
	backlog  uint64
	inFlight uint64
	redelivd uint64
	decision traffic.Decision
	decided  bool
}

// measuredTarget is one target of it.
type measuredTarget struct {
	traffic.Target
	obs      traffic.Observation
	est      traffic.Estimate
	hasEst   bool
	found    bool    // its consumer exists
	observed float64 // share of what came, NaN when nothing came
	rate     float64
}

// measure reads a split over the last minute, or since its revision when that
// is younger: a share that mixes the old weights with the new says nothing.
func (s *Server) measure(ctx context.Context, rev traffic.Revision) (measured, error) {
	now := s.Now()
	m := measured{rev: rev, r: fleet.Range{From: now.Add(-window), To: now}}
	if rev.At.After(m.r.From) && now.Sub(rev.At) >= 5*time.Second {
		m.r.From, m.since = rev.At, true
	}
	return s.measureOver(ctx, m)
}

// measureOver reads a split over m's range.
func (s *Server) measureOver(ctx context.Context, m measured) (measured, error) {
	rev := m.rev
	obs, err := s.Metrics.Observe(ctx, rev.Split, m.r)
	if err != nil {
		return m, fmt.Errorf("observe split %s: %w", rev.Split.Name, err)
	}
	m.decision, m.decided = s.Control.Decision(rev.Split.Name)
	byName := make(map[string]traffic.Observation, len(obs))
	var arrived uint64
	for _, o := range obs {
		byName[o.Target] = o
		arrived += o.Arrived
	}
	for _, t := range rev.Split.Targets {
		mt := measuredTarget{Target: t, obs: byName[t.Name], observed: math.NaN()}
		_, mt.found = s.consumerOf(t)
		for _, e := range m.decision.Estimates {
			if e.Target == t.Name {
				mt.est, mt.hasEst = e, true
			}
		}
		if arrived > 0 {
			mt.observed = float64(mt.obs.Arrived) / float64(arrived)
		}
		if span := mt.obs.To.Sub(mt.obs.From).Seconds(); span > 0 {
			mt.rate = float64(mt.obs.Arrived) / span
		}
		m.rate += mt.rate
		m.backlog += mt.obs.Backlog
		m.inFlight += mt.obs.InFlight
		m.redelivd += mt.obs.Redelivered
		if mt.obs.Latency != nil && mt.obs.Latency.Count() > 0 {
			if m.all == nil {
				m.all = &sketch.Sketch{}
			}
			m.all.Merge(mt.obs.Latency)
		}
		m.targets = append(m.targets, mt)
	}
	return m, nil
}

func (m measured) quantile(q float64) time.Duration {
	if m.all == nil {
		return 0
	}
	return m.all.Quantile(q)
}

// status of a target: a shape and a word. What it is measured by is the tuner's
// estimate of its capacity; the levels only choose the shape.
func (t measuredTarget) status() (tone, word string) {
	switch {
	case t.State == traffic.Maint:
		return "idle", "out (MAINT)"
	case t.State == traffic.Drain:
		return "lame", "draining"
	case t.Observe == nil:
		return "idle", "not observed"
	case !t.found:
		return "crit", "consumer missing"
	case t.hasEst && t.est.Utilization >= 1:
		return "crit", "over capacity"
	case t.hasEst && t.est.Utilization >= 0.85:
		return "warn", "busy"
	case t.obs.Arrived == 0 && t.Weight > 0:
		return "stale", "no messages"
	}
	return "ok", "healthy"
}

// note is what stands beside the target's weight in the form.
func (t measuredTarget) note() string {
	if t.found && t.obs.Latency != nil && t.obs.Latency.Count() > 0 {
		return "p99 " + latencyWords(t.obs.Latency.Quantile(.99)) + " ms"
	}
	_, word := t.status()
	return word
}

// worst orders tones by how much they want to be looked at.
func worst(a, b string) string {
	order := map[string]int{"crit": 4, "warn": 3, "info": 2, "stale": 1}
	if order[b] > order[a] {
		return b
	}
	return a
}

// status of a split: its worst target, or what is happening to it.
func (s *Server) splitStatus(m measured) (tone, word string) {
	tone, word = "ok", "healthy"
	bad := 0
	for _, t := range m.targets {
		tt, w := t.status()
		if tt == "crit" || tt == "warn" {
			bad++
		}
		if worst(tone, tt) != tone {
			tone, word = tt, t.Name+" "+w
		}
	}
	if bad > 1 {
		word = plural(bad, "target needs", "targets need") + " attention"
	}
	if s.age().Stale {
		return "stale", "figures are old"
	}
	return tone, word
}

// windowWords says which span the figures cover.
func (m measured) windowWords() string {
	if m.since {
		return fmt.Sprintf("since revision %d, %s", m.rev.Number, ago(m.r.Span()))
	}
	return "last minute"
}

// rows are the targets as the table shows them.
func (s *Server) targetRows(m measured) []templates.TargetRow {
	rows := make([]templates.TargetRow, len(m.targets))
	for i, t := range m.targets {
		tone, word := t.status()
		row := templates.TargetRow{
			Key:   m.rev.Split.Name + "/" + t.Name,
			Name:  t.Name,
			Color: strconv.Itoa(i%6 + 1), Tone: tone, Status: word,
			Subject: t.Subject, Consumer: consumerWords(t.Observe), Tier: strconv.Itoa(t.Tier), State: string(t.State),
			Set: strconv.Itoa(t.Weight), Observed: percent(t.observed), ObservedBar: "0",
			Rate: none, P50: none, P95: none, P99: none, Backlog: none, InFlight: none, Redelivered: none, Load: none, Samples: "0",
			Quality: "no data", QualityTip: "Nothing was measured of this target.",
		}
		if !math.IsNaN(t.observed) {
			row.ObservedBar = strconv.FormatFloat(t.observed*100, 'f', 1, 64)
		}
		if t.found {
			o := t.obs
			row.Rate = figure(t.rate, "msg/s")
			row.Backlog, row.InFlight, row.Redelivered = countWords(o.Backlog), countWords(o.InFlight), countWords(o.Redelivered)
			age := ago(max(s.Now().Sub(o.To), 0))
			switch {
			case o.Latency != nil && o.Latency.Count() > 0:
				row.P50, row.P95, row.P99 = latencyWords(o.Latency.Quantile(.5)), latencyWords(o.Latency.Quantile(.95)), latencyWords(o.Latency.Quantile(.99))
				row.Quality = "measured"
				row.QualityTip = fmt.Sprintf("%s samples, %s %% of the acknowledgements, measured by the servers; newest %s old.", countWords(o.Samples), percent(min(o.Share, 1)), age)
			case o.Estimated && o.Mean > 0:
				row.P50 = latencyWords(o.Mean)
				row.Quality, row.Estimated = "mean, est.", true
				row.QualityTip = "The servers do not sample this consumer (sample_freq is off): the mean follows from rate and outstanding messages by Little's law. " + age + " old."
			}
			row.Samples = countWords(o.Samples)
		}
		if t.hasEst && t.est.Capacity > 0 {
			row.Load = percent(t.est.Utilization)
			row.LoadTip = fmt.Sprintf("%s of %s msg/s it can do (quality %s).", figure(t.est.Rate, "msg/s"), figure(t.est.Capacity, "msg/s"), qualityWords(t.est.Quality))
		}
		rows[i] = row
	}
	return rows
}

func qualityWords(q traffic.Quality) string {
	switch q {
	case traffic.QualityReports:
		return "A: from worker reports"
	case traffic.QualityLatency:
		return "C: from latency and backlog"
	}
	return "unknown"
}

// rowText is what the live stream patches of a row.
func rowText(text, attr map[string]string, r templates.TargetRow) {
	for name, v := range map[string]string{"obs": r.Observed, "rate": r.Rate, "p50": r.P50, "p95": r.P95, "p99": r.P99,
		"backlog": r.Backlog, "inflight": r.InFlight, "redelivered": r.Redelivered, "load": r.Load, "samples": r.Samples} {
		text[r.Key+"/"+name] = v
	}
	attr["bar/"+r.Key+" width"] = r.ObservedBar
}
