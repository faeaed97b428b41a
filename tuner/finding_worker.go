package tuner

import (
	"fmt"
	"maps"
	"slices"
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
	{fleet.Check{Code: "SVC002", Title: "Instances of a service run different versions", Severity: fleet.Info,
		What:   "More than one version of a micro service answers in three looks.",
		Why:    "During a roll-out that is as it should be; afterwards an old instance was forgotten and answers as it did before.",
		Remedy: "Finish the roll-out, or stop the instances of the old version.",
	}, checkServiceVersions},
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
		if c = in.consumers[fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer}]; c != nil && c.Fold != nil {
			c = nil
		}
		return c, true
	}
	n := 0
	in.eachConsumer(func(_ fleet.Entity, x *fleet.Consumer) {
		if x.Stream == o.Stream && x.Consumer == o.Consumer {
			c = x
			n++
		}
	})
	return c, n <= 1
}

// folded reports whether the consumer may be one of many that stand in one row.
func (in *inspection) folded(o *traffic.Observed) bool {
	return slices.ContainsFunc(in.snap.Consumers, func(c fleet.Consumer) bool {
		return c.Fold != nil && c.Stream == o.Stream && (o.Account == "" || c.Account == o.Account)
	})
}

func checkSampling(in *inspection) {
	in.targets(func(split string, t traffic.Target) {
		if t.Observe == nil {
			in.good(targetEntity(split, t.Name), in.snap.TakenAt) // no longer
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
			in.good(targetEntity(split, t.Name), in.snap.TakenAt) // no longer
			return
		}
		c, sure := in.consumerOf(t.Observe)
		if !sure || c == nil && in.folded(t.Observe) {
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
				switch e := targetEntity(rev.Split.Name, t.Name); {
				case t.Name != o.Target:
				case t.State == traffic.Ready:
					f(e, rev.Split.Name, o)
				default:
					in.good(e, in.snap.TakenAt) // it is meant to be without workers
				}
			}
		}
	}
}

func checkReports(in *inspection) {
	late := in.lim.ReportsLate
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

func checkServiceVersions(in *inspection) {
	type group struct {
		versions map[string][]string
		at       time.Time
	}
	by := map[string]*group{}
	for i := range in.snap.Services {
		s := &in.snap.Services[i]
		g := by[s.Name]
		if g == nil {
			g = &group{versions: map[string][]string{}}
			by[s.Name] = g
		}
		g.versions[s.Version] = append(g.versions[s.Version], s.ID)
		g.at = newest(g.at, s.At)
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		g := by[name]
		e := fleet.Entity{Kind: fleet.KindService, Key: name}
		in.exists[e] = true
		in.judge(e, g.at, len(g.versions) > 1, func() proof {
			text, ev := "", []fleet.Evidence(nil)
			for _, v := range slices.Sorted(maps.Keys(g.versions)) {
				if text != "" {
					text += ", "
				}
				text += fmt.Sprintf("%s (%s)", v, plural(len(g.versions[v]), "instance"))
				ev = append(ev, figure(v, plural(len(g.versions[v]), "instance"), "", ""))
			}
			return proof{text: fmt.Sprintf("Service %s runs as %s.", name, text), command: about("nats micro info", name), evidence: ev}
		})
	}
}
