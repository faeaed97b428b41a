package tuner

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

var workerChecks = []check{
	{fleet.Check{Code: "SPL001", Title: "Target's consumer is not sampled", Severity: fleet.Info,
		What:   "The consumer at which a split's target is measured has no sample_freq.",
		Why:    "Without samples its ACK latency is only estimated, with a bias that grows with bursts, and suggestions rest on it.",
		Remedy: "Switch sampling on; a small percentage is enough for a busy consumer.",
	}, checkSampling},
	{fleet.Check{Code: "SPL002", Title: "Target's consumer does not exist", Severity: fleet.Warning,
		What:   "A split names a consumer for a target that no server knows.",
		Why:    "The target is not measured, so nothing is ever suggested for it; a typing error or a deleted consumer.",
		Remedy: "Correct the consumer's name in the split, or create the consumer.",
	}, checkTargetConsumer},
	{fleet.Check{Code: "SPL003", Title: "Workers stopped reporting", Severity: fleet.Warning,
		What:   "A READY target's workers reported before, and have not for 15 s.",
		Why:    "Workers of the client library report every 5 s: three reports in a row are missing. They stopped, are cut off, or hang.",
		Remedy: "Look whether the workers run and are connected.",
	}, checkReports},
	{fleet.Check{Code: "SPL004", Title: "Workers' CPU is busy", Severity: fleet.Warning,
		What:   "A target's worker processes use 90 % of their cores or more.",
		Why:    "Above that, waiting for the processor dominates the processing time, and more messages only make all of them slower.",
		Remedy: "Add worker processes, or give the target less weight.",
	}, checkWorkerCPU},
	{fleet.Check{Code: "SVC001", Title: "Micro service answers with errors", Severity: fleet.Warning,
		What:   "5 % or more of an instance's requests of the last 5 minutes, and 20 of them or more, ended in an error.",
		Why:    "One error in twenty is beyond what callers' mistakes usually make. Below 20 requests a share means little.",
		Remedy: "Read the last error, and take the instance out if only this one fails.",
	}, checkService},
	{fleet.Check{Code: "QUE001", Title: "Queue group has stale members", Severity: fleet.Warning,
		What:   "Micro service endpoints of one subject are in several queue groups whose names differ only in a start time and process id (name.<start>.<pid>).",
		Why:    "Every queue group gets its own copy of each message: a new group beside one of an earlier start means that every request is handled twice.",
		Remedy: "Stop the instances of the older group, or give the group a name that stays.",
	}, checkQueues},
}

func (in *inspection) targets(f func(split string, t traffic.Target)) {
	for _, rev := range in.splits {
		for _, t := range rev.Split.Targets {
			f(rev.Split.Name, t)
		}
	}
}

// consumerOf is the consumer at which a target is measured. Without an account
// it is that of Ballast's own credentials, which is not known here: a name that
// fits in one account only is taken.
func (in *inspection) consumerOf(o *traffic.Observed) (c *fleet.Consumer, sure bool) {
	if o.Account != "" {
		return in.consumers[fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer}], true
	}
	n := 0
	in.eachConsumer(func(x *fleet.Consumer) {
		if x.Stream == o.Stream && x.Consumer == o.Consumer {
			c = x
			n++
		}
	})
	return c, n <= 1
}

func checkSampling(in *inspection) {
	in.targets(func(split string, t traffic.Target) {
		if t.Observe == nil {
			return
		}
		c, sure := in.consumerOf(t.Observe)
		if c == nil || !sure {
			return
		}
		in.judge(targetEntity(split, t.Name), c.At, !c.Sampled() && c.AckPolicy == "explicit", func() proof {
			return proof{
				text:    fmt.Sprintf("Consumer %s, at which target %s of split %s is measured, has no sample_freq.", c.Consumer, t.Name, split),
				command: about("nats consumer edit --sample 10", c.Stream, c.Consumer), source: c.Source,
				evidence: figures(figure("sample_freq", "off", "1 %", "")),
			}
		})
	})
}

func checkTargetConsumer(in *inspection) {
	// Without any consumer in sight the sources are missing, not this consumer.
	if len(in.snap.Consumers) == 0 || len(in.clusters) == 0 {
		return
	}
	in.targets(func(split string, t traffic.Target) {
		if t.Observe == nil {
			return
		}
		c, sure := in.consumerOf(t.Observe)
		if !sure {
			return
		}
		in.judge(targetEntity(split, t.Name), in.snap.TakenAt, c == nil, func() proof {
			return proof{
				text:     fmt.Sprintf("Target %s of split %s is measured at consumer %s of stream %s, which does not exist.", t.Name, split, t.Observe.Consumer, t.Observe.Stream),
				command:  about("nats consumer ls", t.Observe.Stream),
				evidence: figures(figure("consumers of that name", "0", "1", "")),
			}
		})
	})
}

// observed calls f for every READY target that was observed.
func (in *inspection) observed(f func(e fleet.Entity, split string, o traffic.Observation)) {
	for _, rev := range in.splits {
		for _, o := range in.seen[rev.Split.Name] {
			for _, t := range rev.Split.Targets {
				if t.Name == o.Target && t.State == traffic.Ready {
					f(targetEntity(rev.Split.Name, t.Name), rev.Split.Name, o)
				}
			}
		}
	}
}

func checkReports(in *inspection) {
	const late = 15 * time.Second
	in.observed(func(e fleet.Entity, split string, o traffic.Observation) {
		reported := in.engine.reported
		if o.ReportedAt.After(reported[e]) {
			reported[e] = o.ReportedAt
		}
		last := reported[e]
		if last.IsZero() {
			return // its workers do not use the client library
		}
		in.judge(e, in.snap.TakenAt, in.now.Sub(last) > late, func() proof {
			return proof{
				text:    fmt.Sprintf("The workers of target %s of split %s last reported %s.", o.Target, split, ago(in.now.Sub(last))),
				command: about("nats sub", "ballast.report."+split+"."+o.Target), source: fleet.Report,
				evidence: figures(figure("last report", ago(in.now.Sub(last)), short(late), fleet.ColProcesses)),
			}
		})
	})
}

func checkWorkerCPU(in *inspection) {
	in.observed(func(e fleet.Entity, split string, o traffic.Observation) {
		if o.Workers == 0 || o.Cores < 1 {
			return
		}
		used := o.CPU / 100 / float64(o.Cores)
		in.judge(e, o.ReportedAt, used >= in.lim.WorkerCPU, func() proof {
			return proof{
				text:     fmt.Sprintf("The worker processes of target %s of split %s use %s of their %s.", o.Target, split, percent(used), plural(o.Cores, "core")),
				source:   fleet.Report,
				evidence: figures(figure("CPU", percent(used), percent(in.lim.WorkerCPU), fleet.ColCPU)),
			}
		})
	})
}

func checkService(in *inspection) {
	for i := range in.snap.Services {
		s := &in.snap.Services[i]
		var requests, errors uint64
		last := ""
		for _, p := range s.Endpoints {
			requests += p.Requests
			errors += p.Errors
			if p.LastError != "" {
				last = " The last error: " + clip(p.LastError, 200)
			}
		}
		total, span := in.engine.rise(s.Entity(), "requests", s.At, requests)
		wrong, _ := in.engine.rise(s.Entity(), "errors", s.At, errors)
		r := ratio(float64(wrong), float64(max(total, wrong)))
		in.judge(s.Entity(), s.At, wrong >= in.lim.MinRequests && r >= in.lim.ServiceError, func() proof {
			return proof{
				text: fmt.Sprintf("Instance %s of service %s answered %s of its requests with an error within %s: %s of %s.%s", s.ID, s.Name, percent(r), short(span),
					number(float64(wrong)), number(float64(total)), last),
				command: about("nats micro stats", s.Name), source: fleet.Report,
				evidence: figures(figure("errors", percent(r), percent(in.lim.ServiceError), "")),
			}
		})
	}
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}

// dynamicQueue takes a queue group's name apart: a base, the start in seconds or
// milliseconds, and a process id.
var dynamicQueue = regexp.MustCompile(`^(.+)[.\-_](\d{10}|\d{13})[.\-_](\d{1,10})$`)

func checkQueues(in *inspection) {
	type group struct {
		subject, base string
	}
	starts := map[group]map[int64]int{} // instances by start
	at := map[group]time.Time{}
	for i := range in.snap.Services {
		s := &in.snap.Services[i]
		for _, p := range s.Endpoints {
			m := dynamicQueue.FindStringSubmatch(p.Queue)
			if m == nil {
				continue
			}
			start, err := strconv.ParseInt(m[2], 10, 64)
			if err != nil {
				continue
			}
			if len(m[2]) == 13 {
				start /= 1000
			}
			k := group{p.Subject, m[1]}
			if starts[k] == nil {
				starts[k] = map[int64]int{}
			}
			starts[k][start]++
			at[k] = newest(at[k], s.At)
		}
	}
	for k, by := range starts {
		e := fleet.Entity{Kind: fleet.KindQueue, Key: k.subject + " " + k.base}
		in.exists[e] = true
		in.judge(e, at[k], len(by) > 1, func() proof {
			var last int64
			n := 0
			for start, count := range by {
				last = max(last, start)
				n += count
			}
			return proof{
				text: fmt.Sprintf("Subject %s is served by %d queue groups named %s.<start>.<pid>; only %s of %d belong to the newest, of %s.", k.subject, len(by), k.base,
					plural(by[last], "instance"), n, time.Unix(last, 0).UTC().Format("2006-01-02 15:04:05 UTC")),
				command: about("nats micro ls"), source: fleet.Report,
				evidence: figures(figure("queue groups", number(float64(len(by))), "1", "")),
			}
		})
	}
}
