package collector

import (
	"math/rand/v2"
	"time"

	"ballast/fleet"
)

// question is a kind of thing that is asked.
type question int

const (
	askServer    question = iota // VARZ, HEALTHZ, STATSZ
	askLinks                     // ROUTEZ, GATEWAYZ, LEAFZ
	askAccounts                  // ACCSTATZ
	askFigures                   // JSZ without configurations
	askTopConns                  // CONNZ, those with the most bytes waiting
	askBusyConns                 // CONNZ, those that were sent the most
	askServices                  // $SRV.STATS
	askConfigs                   // JSZ with configurations
	askAllConns                  // CONNZ, page by page
	askInternal                  // SUBSZ, RAFTZ, IPQUEUESZ
	askAbout                     // $SRV.INFO
	questions
)

// tierOf says how often each question is asked. What is drawn live is asked in
// every round, as far as it is cheap: of streams and consumers only the figures,
// which take the servers half of the time that they need with configurations.
var tierOf = [questions]fleet.Tier{
	askServer: fleet.Fast, askLinks: fleet.Fast, askAccounts: fleet.Fast, askFigures: fleet.Fast,
	askTopConns: fleet.Normal, askServices: fleet.Normal,
	askConfigs: fleet.Slow, askAllConns: fleet.Slow, askBusyConns: fleet.Slow, askInternal: fleet.Slow, askAbout: fleet.Slow,
}

// everyRounds is the distance between two questions of a tier, in rounds: at the
// usual 5 s they are 15 s and a minute.
var everyRounds = [fleet.Tiers]int{fleet.Fast: 1, fleet.Normal: 3, fleet.Slow: 12}

// agenda knows when one source is to be asked what. It is owned by the rounds.
type agenda struct {
	next [questions]time.Time
}

// asked is the set of questions of one visit.
type asked [questions]bool

// due reports whether a question's time has come, without taking it off.
func (a *agenda) due(now time.Time, q question) bool { return !now.Before(a.next[q]) }

// take returns which of the questions are due and puts them off. The first time
// all are, so that the first look is whole; later the slower ones drift apart
// over the servers, because each waits a little more or less than its time.
func (a *agenda) take(now time.Time, interval time.Duration, qs ...question) asked {
	var out asked
	for _, q := range qs {
		if !a.due(now, q) {
			continue
		}
		out[q] = true
		if n := everyRounds[tierOf[q]]; n > 1 {
			// A round may begin a little early; it must not miss its turn for that.
			wait := time.Duration(n)*interval - interval/2
			a.next[q] = now.Add(wait + rand.N(interval/2+1))
		}
	}
	return out
}

// putOff delays a question that took so long that it must not be asked again
// soon.
func (a *agenda) putOff(now time.Time, q question, took time.Duration) {
	slow, duty := slowAnswer, time.Duration(bulkDuty)
	if tierOf[q] == fleet.Fast {
		slow, duty = requestTimeout, fastDuty
	}
	if t := now.Add(min(duty*took, maxBackOff)); took > slow && t.After(a.next[q]) {
		a.next[q] = t
	}
}

// putOffAll delays the questions of one visit.
func (a *agenda) putOffAll(now time.Time, what asked, took time.Duration) {
	for q, was := range what {
		if was {
			a.putOff(now, question(q), took)
		}
	}
}

// topConns are how many there are of each.
const topConns = 64

// connOrders are the orders of which the first connections are kept. What waits
// may grow within seconds; what was sent since a connection began does not.
var connOrders = [questions][]string{askTopConns: {"pending"}, askBusyConns: {"msgs_to", "bytes_to"}}

// cpuDuty bounds the share of a core that a server spends on the figures of its
// streams and consumers to 1/cpuDuty, by what they are estimated to cost: beyond
// about 4,000 consumers they are asked in every second round. Not more rarely,
// for what is older than three rounds counts as stale.
const cpuDuty = 400

const (
	// slowAnswer is how long a bulky answer may take before the server is given
	// more rest than its tier does; the small ones of a round may take
	// requestTimeout together.
	slowAnswer = 500 * time.Millisecond
	// fastDuty bounds the share of the time that a server spends on the small
	// answers, once it is slow at them, to 1/fastDuty.
	fastDuty   = 3
	maxBackOff = time.Minute
)

// What answers cost the servers: measured with nats-server 2.15.2, 1000 streams
// and 10,000 consumers, by the processor time of a separate server process.
const (
	cpuRequest   = 150 * time.Microsecond
	cpuHTTPByte  = 10.5 // ns; indented, so twice as many bytes
	cpuPlainByte = 13.5
	cpuGzipByte  = 18 // of the answer before it was compressed
)

// cpuOf is what an answer of that size takes a server.
func cpuOf(size int64, perByte float64) time.Duration {
	return cpuRequest + time.Duration(float64(size)*perByte)
}

// bill adds up what a visit costs.
type bill struct {
	tier fleet.Tier
	by   [fleet.Tiers]fleet.TierCost
}

// in sets the tier that the next requests belong to.
func (b *bill) in(q question) *bill {
	b.tier = tierOf[q]
	return b
}

func (b *bill) request() { b.by[b.tier].Requests++ }

// answer counts one answer: what came over the wire, and what it was before it
// was compressed.
func (b *bill) answer(wire, whole int64, perByte float64) {
	t := &b.by[b.tier]
	t.Bytes += wire
	t.ServerCPU += cpuOf(whole, perByte)
}

// addTo adds the bill to the cost of a round.
func (b *bill) addTo(c *fleet.Cost) {
	for i, t := range b.by {
		c.Requests += t.Requests
		c.Bytes += t.Bytes
		c.By[i].Requests += t.Requests
		c.By[i].Bytes += t.Bytes
		c.By[i].ServerCPU += t.ServerCPU
	}
}
