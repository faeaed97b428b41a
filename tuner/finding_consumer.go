package tuner

import (
	"fmt"
	"time"

	"ballast/fleet"
)

var consumerChecks = []check{
	{fleet.Check{Code: "CON001", Title: "Lag grows", Severity: fleet.Warning,
		What:   "1,000 messages or more wait for the consumer, and 5 % more than when it began within the last 5 minutes.",
		Why:    "More arrives than is taken, so messages get older until somebody acts. Fewer than 1,000 are a burst that most consumers drain in seconds.",
		Remedy: "Add workers, give this target less weight, or speed up the processing.",
	}, checkLag},
	{fleet.Check{Code: "CON002", Title: "Redelivery storm", Severity: fleet.Warning,
		What:   "10 messages or more in flight, and a tenth of all in flight, were delivered more than once.",
		Why:    "Work is done twice: workers crash, refuse messages, or take longer than ack_wait. It feeds itself, since redeliveries make the others wait longer.",
		Remedy: "Look at the workers' errors; if they are only slow, raise ack_wait or have them report progress.",
	}, checkRedeliveries},
	{fleet.Check{Code: "CON003", Title: "ACK latency is close to ack_wait", Severity: fleet.Warning,
		What:   "The p99 of the sampled ACK latency is 70 % of ack_wait or more, over 100 samples or more; 90 % is critical.",
		Why:    "Acknowledgements that come later than ack_wait are redelivered, and the samples say nothing of those that never came. From 70 % on a slow minute is enough for a storm.",
		Remedy: "Raise ack_wait to several times the p99, or fetch fewer messages at a time so that they do not wait in the client.",
	}, checkAckWait},
	{fleet.Check{Code: "CON004", Title: "max_ack_pending is reached", Severity: fleet.Warning,
		What:   "90 % of max_ack_pending or more are in flight while messages wait.",
		Why:    "The server delivers nothing more until something is acknowledged, so more workers change nothing.",
		Remedy: "Look for workers that do not acknowledge; if all do, raise max_ack_pending.",
	}, checkAckPending},
	{fleet.Check{Code: "CON005", Title: "Consumer is stuck", Severity: fleet.Critical,
		What:   "Messages wait, nobody asks for them, and nothing was delivered or acknowledged for a minute.",
		Why:    "A consumer with workers has pull requests waiting or deliveries going on. A minute is beyond every ordinary fetch pause.",
		Remedy: "Start the workers of this consumer.",
	}, checkStuck},
	{fleet.Check{Code: "CON006", Title: "Consumer is not used", Severity: fleet.Info,
		What:   "Nobody asks a pull consumer for messages, none wait, and nothing was delivered for an hour; one that removes itself when idle is not judged.",
		Why:    "A forgotten consumer costs the servers memory, and holds back messages in streams with retention by interest or work queue.",
		Remedy: "Delete it if nobody needs it, or give it an inactive threshold.",
	}, checkUnused},
	{fleet.Check{Code: "CON007", Title: "Consumer has no leader", Severity: fleet.Critical,
		What:   "A replicated consumer has no leader, or its leader does not answer.",
		Why:    "Nothing is delivered by it. Elections take seconds; what is seen three times in a row has lost its quorum.",
		Remedy: "Start the servers that hold its replicas; more than half of them must run.",
	}, checkConsumerLeader},
	{fleet.Check{Code: "CON008", Title: "Consumer's replica is absent", Severity: fleet.Warning,
		What:   "The leader sees a replica offline or has not heard it for 10 s; it is critical when one more loss would cost the quorum.",
		Why:    "The consumer is closer to stopping than was asked for.",
		Remedy: "Start the server, or have the stream's replica placed on another one.",
	}, checkConsumerReplicas},
	{fleet.Check{Code: "CON009", Title: "Consumer breaks its owner's threshold", Severity: fleet.Critical,
		What:   "A figure passes a threshold that the owner wrote into the consumer's metadata (io.nats.monitor.*).",
		Why:    "The owner knows best what is normal; the thresholds are those that 'nats server check consumer' uses.",
		Remedy: "Ask the owner of the consumer, or correct the threshold in its metadata.",
	}, checkConsumerOwner},
	{fleet.Check{Code: "CON010", Title: "Paused consumer holds messages", Severity: fleet.Info,
		What:   "The consumer is paused while messages wait for it.",
		Why:    "A pause ends by itself only at its time, which may be far off, and looks like a consumer without workers.",
		Remedy: "Resume it when the reason for the pause is gone.",
	}, checkPaused},
	{fleet.Check{Code: "CON011", Title: "ACK samples do not fit", Severity: fleet.Warning,
		What:   "The samples of the consumer's acknowledgements do not fit what its leader counts.",
		Why:    "Any client of the account can send such samples. Suggestions must not rest on figures that somebody made up, so its latency is judged by nothing as long as this lasts.",
		Remedy: "Take the permission to publish to $JS.EVENT.METRIC.CONSUMER.ACK.> from the account's users.",
	}, checkMisfit},
}

func (in *inspection) eachConsumer(f func(e fleet.Entity, c *fleet.Consumer)) {
	for i := range in.snap.Consumers {
		// A row that sums up many is no consumer that something could be done about.
		if c := &in.snap.Consumers[i]; c.Fold == nil {
			f(in.consumerNames[i], c)
		}
	}
}

func consumerInfo(c *fleet.Consumer) string { return about("nats consumer info", c.Stream, c.Consumer) }

func checkLag(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		much := c.Pending >= in.lim.Lag && !c.Paused
		first, span := in.engine.course(e, "pending", c.At, c.Pending, much)
		in.judge(e, c.At, much && float64(c.Pending) > 1.05*float64(first), func() proof {
			more := c.Pending - first
			growth := float64(more) / max(span.Seconds(), 1e-3)
			return proof{
				text:    fmt.Sprintf("%s wait for consumer %s, %s more than %s before.%s", plural(int(c.Pending), "message"), c.Consumer, number(float64(more)), short(span), in.drain(c)),
				command: consumerInfo(c), source: c.Source,
				evidence: figures(figure("waiting", number(float64(c.Pending)), number(float64(in.lim.Lag)), fleet.ColPending), figure("growth", number(growth)+" msg/s", "0", fleet.ColPending)),
			}
		})
	})
}

// drain says how long a backlog would take at the present rates, as a sentence
// that follows another.
func (in *inspection) drain(c *fleet.Consumer) string {
	if in.look.Rates == nil {
		return ""
	}
	r, ok := in.look.Rates.Consumers[c.ConsumerKey]
	if !ok {
		return "" // seen once: its rates are not known
	}
	done := r.Acked
	if c.AckPolicy == "none" {
		done = r.Delivered
	}
	switch {
	case done <= 0:
		return " Nothing is acknowledged: it never drains."
	case done > r.Arrived:
		eta := time.Duration(float64(c.Pending) / (done - r.Arrived) * float64(time.Second))
		return fmt.Sprintf(" At the present rates (%s msg/s arrive, %s are done) it drains in %s.", number(r.Arrived), number(done), short(eta))
	}
	eta := time.Duration(float64(c.Pending) / done * float64(time.Second))
	return fmt.Sprintf(" It never drains while %s msg/s arrive and %s are done; if nothing more arrived, it would take %s.", number(r.Arrived), number(done), short(eta))
}

func checkRedeliveries(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		r := ratio(float64(c.Redelivered), float64(c.AckPending))
		in.judge(e, c.At, c.Redelivered >= in.lim.Redelivered && r >= 0.1, func() proof {
			return proof{
				text: fmt.Sprintf("%s of the messages in flight of consumer %s were delivered more than once: %s of %s.", percent(r), c.Consumer,
					number(float64(c.Redelivered)), number(float64(c.AckPending))),
				command: consumerInfo(c), source: c.Source,
				evidence: figures(figure("redelivered", number(float64(c.Redelivered)), number(float64(in.lim.Redelivered)), fleet.ColRedelivered)),
			}
		})
	})
}

func checkAckWait(in *inspection) {
	for k, l := range in.look.Latency {
		c := in.consumers[k]
		// A sum over many consumers has no one's latency, and samples that anybody
		// may have sent say nothing of this one's.
		if c == nil || c.Fold != nil || c.Misfit != "" || c.AckWait <= 0 || l.Source != fleet.AckSample || l.Total == nil || l.Total.Count() < in.lim.Samples {
			continue
		}
		p99 := l.Total.Quantile(0.99)
		r := ratio(float64(p99), float64(c.AckWait))
		in.judge(k.Entity(), l.Last, r >= in.lim.AckWait, func() proof {
			p := proof{
				text:    fmt.Sprintf("The p99 ACK latency of consumer %s is %s: p99 is %s of ack_wait, %s.", c.Consumer, short(p99), percent(r), short(c.AckWait)),
				command: longerWait(c), source: fleet.AckSample,
				evidence: figures(figure("p99 ACK latency", short(p99), short(time.Duration(in.lim.AckWait*float64(c.AckWait))), ""), figure("samples", number(float64(l.Total.Count())), "", "")),
			}
			if r >= 0.9 {
				p.severity = fleet.Critical
			}
			return p
		})
	}
}

// longerWait gives a consumer three times the time. With a backoff the server
// takes ack_wait from its first step, so that changing it alone does nothing.
func longerWait(c *fleet.Consumer) string {
	if len(c.Backoff) > 0 {
		return about("nats consumer edit", c.Stream, c.Consumer)
	}
	return about(fmt.Sprintf("nats consumer edit --wait %s", max(c.AckWait*3, time.Second).Round(time.Second)), c.Stream, c.Consumer)
}

func checkAckPending(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		r := ratio(float64(c.AckPending), float64(c.MaxAckPending))
		in.judge(e, c.At, r >= in.lim.AckPending && c.Pending > 0, func() proof {
			return proof{
				text: fmt.Sprintf("Consumer %s has %s of its max_ack_pending of %s in flight, and %s wait.", c.Consumer, percent(r),
					number(float64(c.MaxAckPending)), plural(int(c.Pending), "message")),
				command: about(fmt.Sprintf("nats consumer edit --max-pending %d", 2*c.MaxAckPending), c.Stream, c.Consumer), source: c.Source,
				evidence: figures(figure("in flight", number(float64(c.AckPending)), number(in.lim.AckPending*float64(c.MaxAckPending)), fleet.ColInFlight)),
			}
		})
	})
}

// clock is what the clock of a server said at a time of ours: what the server
// dates must be compared with its own clock.
func (in *inspection) clock(server string, at time.Time) time.Time {
	if s := in.names[server]; len(s) > 0 {
		return at.Add(s[0].Skew())
	}
	return at
}

// quiet is how long nothing was delivered by a consumer or acknowledged to it.
func quiet(in *inspection, c *fleet.Consumer) time.Duration {
	return max(0, in.clock(c.Leader, c.At).Sub(newest(c.Created, c.LastDelivery, c.LastAck)))
}

func checkStuck(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		q := quiet(in, c)
		in.judge(e, c.At, c.Pending > 0 && c.Waiting == 0 && !c.Paused && q >= in.lim.Stuck, func() proof {
			return proof{
				text:    fmt.Sprintf("%s wait for consumer %s, nobody asks for them, and nothing moved for %s.", plural(int(c.Pending), "message"), c.Consumer, short(q)),
				command: consumerInfo(c), source: c.Source,
				evidence: figures(figure("waiting", number(float64(c.Pending)), "0", fleet.ColPending), figure("pull requests", "0", "1", fleet.ColWaiting), figure("last movement", ago(q), short(in.lim.Stuck), "")),
			}
		})
	})
}

func checkUnused(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		q := quiet(in, c)
		in.judge(e, c.At, !c.Push && c.Waiting == 0 && c.Pending == 0 && c.Inactive == 0 && !c.Paused && q >= in.lim.Idle, func() proof {
			return proof{
				text:    fmt.Sprintf("Nobody asked consumer %s for messages, and nothing was delivered for %s.", c.Consumer, short(q)),
				command: consumerInfo(c), source: c.Source,
				evidence: figures(figure("pull requests", "0", "1", fleet.ColWaiting), figure("last movement", ago(q), short(in.lim.Idle), "")),
			}
		})
	})
}

func checkConsumerLeader(in *inspection) {
	if len(in.clusters) == 0 {
		return // nobody answers: who leads is not known
	}
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		in.judge(e, in.snap.TakenAt, len(c.Peers) > 0 && in.leaderless(c.Leader, len(c.Peers)+1), func() proof {
			return proof{
				text:    fmt.Sprintf("Consumer %s has no leader; its figures are of %s.", c.Consumer, ago(in.now.Sub(c.At))),
				command: consumerInfo(c), source: c.Source, evidence: figures(figure("replicas", number(float64(len(c.Peers)+1)), "", "")),
			}
		})
	})
}

func checkConsumerReplicas(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		if len(c.Peers) == 0 {
			in.good(e, c.At)
			return
		}
		in.replicas(e, c.At, c.Peers, c.Source, func() (string, string) { return "consumer " + c.Consumer, consumerInfo(c) })
	})
}

func checkConsumerOwner(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		l := c.Limits
		if l == nil || l.MonitorOff {
			in.good(e, c.At) // also what was judged before is over
			return
		}
		b := breaches{}
		b.above("outstanding-ack-critical", uint64(max(0, c.AckPending)), uint64(l.AckPending), fleet.ColInFlight)
		b.above("waiting-critical", uint64(max(0, c.Waiting)), uint64(l.Waiting), fleet.ColWaiting)
		b.above("unprocessed-critical", c.Pending, l.Unprocessed, fleet.ColPending)
		b.above("redelivery-critical", uint64(max(0, c.Redelivered)), uint64(l.Redelivered), fleet.ColRedelivered)
		now := in.clock(c.Leader, c.At)
		b.older("last-delivery-critical", now.Sub(newest(c.Created, c.LastDelivery)), l.LastDelivery)
		b.older("last-ack-critical", now.Sub(newest(c.Created, c.LastAck)), l.LastAck)
		if l.Pinned {
			b.pinned(c)
		}
		in.owners(e, c.At, b, command("nats", "server", "check", "consumer", "--stream="+c.Stream, "--consumer="+c.Consumer), c.Source)
	})
}

// pinned wants a client for every priority group of a consumer that pins them.
func (b *breaches) pinned(c *fleet.Consumer) {
	n := 0
	for _, g := range c.Groups {
		if g.Pinned != "" {
			n++
		}
	}
	switch {
	case c.Priority != "pinned_client" || len(c.Groups) == 0:
		b.add("pinned", "no group that pins a client", "true", "")
	case n < len(c.Groups):
		b.add("pinned", fmt.Sprintf("%d of %s", n, plural(len(c.Groups), "group")), "true", "")
	}
}

func checkMisfit(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		in.judge(e, c.At, c.Misfit != "", func() proof {
			return proof{
				text:    fmt.Sprintf("The samples of consumer %s cannot all be the servers' own: %s.", c.Consumer, clip(c.Misfit, 300)),
				command: consumerInfo(c), source: fleet.AckSample,
				evidence: figures(figure("samples", clip(c.Misfit, 300), "those of the servers", "")),
			}
		})
	})
}

func checkPaused(in *inspection) {
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		in.judge(e, c.At, c.Paused && c.Pending > 0, func() proof {
			return proof{
				text:    fmt.Sprintf("Consumer %s is paused, and %s wait.", c.Consumer, plural(int(c.Pending), "message")),
				command: about("nats consumer resume", c.Stream, c.Consumer), source: c.Source,
				evidence: figures(figure("waiting", number(float64(c.Pending)), "0", fleet.ColPending)),
			}
		})
	})
}
