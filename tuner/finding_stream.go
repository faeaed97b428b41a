package tuner

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"ballast/fleet"
)

var streamChecks = []check{
	{fleet.Check{Code: "STR001", Title: "Stream has no leader", Severity: fleet.Critical,
		What:   "A replicated stream has no leader, or its leader does not answer.",
		Why:    "Nothing can be published to it and nothing read from it. Elections take seconds; what is seen three times in a row has lost its quorum.",
		Remedy: "Start the servers that hold its replicas; more than half of them must run.",
	}, checkStreamLeader},
	{fleet.Check{Code: "STR002", Title: "Stream's replica is absent", Severity: fleet.Warning,
		What:   "The leader sees a replica offline or has not heard it for 10 s; it is critical when one more loss would cost the quorum.",
		Why:    "What is published is kept on fewer servers than was asked for.",
		Remedy: "Start the server, or have the replica placed on another one.",
	}, checkStreamReplicas},
	{fleet.Check{Code: "STR003", Title: "Stream's replica lags", Severity: fleet.Warning,
		What:   "A replica is more than 1,000 operations behind the leader.",
		Why:    "A replica that keeps up is a few operations behind. If the leader fails now, a replica that lags cannot take over at once.",
		Remedy: "Look at the disk and the network of the replica's server.",
	}, checkStreamLag},
	{fleet.Check{Code: "STR004", Title: "Stream is close to its size limit", Severity: fleet.Warning,
		What:   "The stream holds 85 % of max_bytes or more, and keeps messages until they are consumed or refuses new ones when full; 95 % is critical.",
		Why:    "Full means refused publishes, or lost messages that nobody consumed. A stream that drops its oldest by design is not judged.",
		Remedy: "Consume faster, shorten max_age, or raise max_bytes.",
	}, checkStreamBytes},
	{fleet.Check{Code: "STR005", Title: "Stream is close to its limit of messages", Severity: fleet.Warning,
		What:   "The stream holds 85 % of max_msgs or more, and keeps messages until they are consumed or refuses new ones when full; 95 % is critical.",
		Why:    "As for the size limit.",
		Remedy: "Consume faster, shorten max_age, or raise max_msgs.",
	}, checkStreamMessages},
	{fleet.Check{Code: "STR006", Title: "Stream grows without limit", Severity: fleet.Info,
		What:   "A stream with retention by limits has none: no max_bytes, max_msgs, max_msgs_per_subject or max_age.",
		Why:    "It grows until the server's storage is full, and then stops every other stream there too.",
		Remedy: "Set max_age or max_bytes.",
	}, checkUnlimited},
	{fleet.Check{Code: "STR007", Title: "Stream has no consumers", Severity: fleet.Info,
		What:   "A stream has no consumer. It is a warning for a work queue that holds messages, and for retention by interest.",
		Why:    "A work queue without consumers fills up; with retention by interest, messages that nobody is interested in are dropped at once.",
		Remedy: "Start the application that consumes it, or delete the stream. Key-value and object stores are not judged.",
	}, checkNoConsumers},
	{fleet.Check{Code: "STR008", Title: "Stream breaks its owner's threshold", Severity: fleet.Critical,
		What:   "A figure passes a threshold that the owner wrote into the stream's metadata (io.nats.monitor.*).",
		Why:    "The owner knows best what is normal; the thresholds are those that 'nats server check stream' uses.",
		Remedy: "Ask the owner of the stream, or correct the threshold in its metadata.",
	}, checkStreamOwner},
	{fleet.Check{Code: "STR009", Title: "Stream has one copy in a cluster", Severity: fleet.Info,
		What:   "A stream on disk has one replica, and three servers or more of its cluster answer.",
		Why:    "While its server is away so is the stream, and with that disk it is lost. Three is the least that survives a failure.",
		Remedy: "Set replicas to 3, unless what it holds can be made again.",
	}, checkSingle},
}

func (in *inspection) streams(f func(e fleet.Entity, s *fleet.Stream)) {
	for i := range in.snap.Streams {
		f(in.streamNames[i], &in.snap.Streams[i])
	}
}

// leaderless reports whether nobody leads: the group says so, or its leader is a
// server that does not answer.
func (in *inspection) leaderless(leader string, replicas int) bool {
	if leader == "" {
		return true
	}
	s := in.names[leader]
	return replicas > 1 && len(s) > 0 && s[0].State == fleet.Unreachable
}

func checkStreamLeader(in *inspection) {
	if len(in.clusters) == 0 {
		return // nobody answers: who leads is not known
	}
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		in.judge(e, in.snap.TakenAt, s.Replicas > 1 && in.leaderless(s.Leader, s.Replicas), func() proof {
			return proof{
				text:    fmt.Sprintf("Stream %s has no leader; its figures are of %s.", s.Stream, ago(in.now.Sub(s.At))),
				command: about("nats stream info", s.Stream), source: s.Source,
				evidence: figures(figure("replicas", strconv.Itoa(s.Replicas), "", "")),
			}
		})
	})
}

func checkStreamReplicas(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		in.replicas(e, s.At, s.Peers, s.Source, func() (string, string) { return "stream " + s.Stream, about("nats stream info", s.Stream) })
	})
}

func checkStreamLag(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		var worst fleet.Replica
		for _, p := range s.Peers {
			if p.Lag > worst.Lag {
				worst = p
			}
		}
		in.judge(e, s.At, worst.Lag > in.lim.ReplicaLag, func() proof {
			return proof{
				text:    fmt.Sprintf("The replica of stream %s on %s is %s behind.", s.Stream, worst.Name, plural(int(worst.Lag), "operation")),
				command: about("nats stream info", s.Stream), source: s.Source,
				evidence: figures(figure("behind", number(float64(worst.Lag)), number(float64(in.lim.ReplicaLag)), "")),
			}
		})
	})
}

// keeps reports whether being full hurts: new messages are refused, or ones
// that nobody consumed are dropped.
func keeps(s *fleet.Stream) bool {
	return s.Discard == "new" || s.Retention == "workqueue" || s.Retention == "interest"
}

func checkStreamBytes(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		in.nearly(e, s, float64(s.Bytes), float64(s.MaxBytes), size, "max_bytes", fleet.ColBytes)
	})
}

func checkStreamMessages(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		in.nearly(e, s, float64(s.Messages), float64(s.MaxMsgs), number, "max_msgs", fleet.ColMessages)
	})
}

func (in *inspection) nearly(e fleet.Entity, s *fleet.Stream, has, most float64, write func(float64) string, limit, column string) {
	r := ratio(has, most)
	in.judge(e, s.At, most > 0 && keeps(s) && r >= in.lim.Full, func() proof {
		return proof{
			severity: in.brim(r),
			text:     fmt.Sprintf("Stream %s holds %s of its %s: %s of %s.", s.Stream, percent(r), limit, write(has), write(most)),
			command:  about("nats stream info", s.Stream), source: s.Source,
			evidence: figures(figure(limit, write(has), write(most*in.lim.Full), column)),
		}
	})
}

func checkUnlimited(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		if ofStore(s) {
			return
		}
		in.judge(e, s.At, s.Retention == "limits" && s.MaxBytes <= 0 && s.MaxMsgs <= 0 && s.MaxAge == 0 && s.PerSubject <= 0, func() proof {
			return proof{
				text:    fmt.Sprintf("Stream %s has no limit and holds %s in %s.", s.Stream, size(float64(s.Bytes)), plural(int(s.Messages), "message")),
				command: about("nats stream edit --max-age 30d", s.Stream), source: s.Source,
				evidence: figures(figure("bytes", size(float64(s.Bytes)), "", fleet.ColBytes)),
			}
		})
	})
}

// ofStore reports whether the stream is the inside of a key-value or object store.
func ofStore(s *fleet.Stream) bool {
	return strings.HasPrefix(s.Stream, "KV_") || strings.HasPrefix(s.Stream, "OBJ_")
}

func checkNoConsumers(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		if ofStore(s) {
			return
		}
		in.judge(e, s.At, s.Consumers == 0, func() proof {
			p := proof{
				text:    fmt.Sprintf("Stream %s has no consumer and holds %s.", s.Stream, plural(int(s.Messages), "message")),
				command: about("nats consumer ls", s.Stream), source: s.Source,
				evidence: figures(figure("consumers", "0", "1", ""), figure("messages", number(float64(s.Messages)), "", fleet.ColMessages)),
			}
			if s.Retention == "interest" || s.Retention == "workqueue" && s.Messages > 0 {
				p.severity = fleet.Warning
			}
			return p
		})
	})
}

// breaches are those of the owner's thresholds that are not kept.
type breaches struct {
	words    []string
	evidence []fleet.Evidence
	mild     bool // only one of which the owner wants to be warned
}

func (b *breaches) add(key, value, limit, column string) {
	b.mild = false
	b.words = append(b.words, fmt.Sprintf("%s is %s, and it was set to %s", key, value, limit))
	b.evidence = append(b.evidence, figure("io.nats.monitor."+key, value, limit, column))
}

func (b *breaches) above(key string, value, limit uint64, column string) {
	if limit > 0 && value >= limit {
		b.add(key, number(float64(value)), number(float64(limit)), column)
	}
}

func (b *breaches) older(key string, age, limit time.Duration) {
	if limit > 0 && age >= limit {
		b.add(key, short(age), short(limit), "")
	}
}

func (in *inspection) owners(e fleet.Entity, at time.Time, b breaches, command string, source fleet.Source) {
	in.judge(e, at, len(b.words) > 0, func() proof {
		p := proof{text: "The owner's thresholds are passed: " + strings.Join(b.words, "; ") + ".", command: command, source: source, evidence: b.evidence}
		if b.mild {
			p.severity = fleet.Warning
		}
		return p
	})
}

func checkStreamOwner(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		l := s.Limits
		if l == nil || l.MonitorOff {
			in.good(e, s.At) // also what was judged before is over
			return
		}
		b := breaches{}
		if l.Peers > 0 && len(s.Peers)+1 != l.Peers {
			b.add("peer-expect", strconv.Itoa(len(s.Peers)+1), strconv.Itoa(l.Peers), "")
		}
		for _, p := range s.Peers {
			b.above("peer-lag-critical", p.Lag, l.PeerLag, "")
			b.older("peer-seen-critical", p.Active, l.PeerSeen)
		}
		b.origins(in, s, l)
		// As 'nats server check' has it: a stream that must not run dry, unless the
		// warning comes before the critical limit from below; and a limit of subjects
		// that must not be reached, unless the warning is above the critical one.
		b.between("msgs", s.Messages, l.MsgsWarn, l.MsgsCritical, l.MsgsWarn == 0 || l.MsgsCritical == 0 || l.MsgsWarn >= l.MsgsCritical, fleet.ColMessages)
		b.between("subjects", uint64(max(0, s.Distinct)), uint64(l.SubjWarn), uint64(l.SubjCritical), l.SubjWarn >= l.SubjCritical, "")
		in.owners(e, s.At, b, command("nats", "server", "check", "stream", "--stream="+s.Stream), s.Source)
	})
}

// between holds a figure against a pair of limits, from above or, for what must
// not run low, from below.
func (b *breaches) between(key string, value, warn, critical uint64, low bool, column string) {
	beyond := func(limit uint64) bool {
		return limit > 0 && (low && value <= limit || !low && value >= limit)
	}
	switch {
	case beyond(critical):
		b.add(key+"-critical", number(float64(value)), number(float64(critical)), column)
	case beyond(warn):
		mild := len(b.words) == 0 // before this one is counted
		b.add(key+"-warn", number(float64(value)), number(float64(warn)), column)
		b.mild = mild
	}
}

// origins holds what a stream copies against the owner's limits.
func (b *breaches) origins(in *inspection, s *fleet.Stream, l *fleet.Thresholds) {
	n := len(s.Origins)
	if n < l.MinSources {
		b.add("min-sources", strconv.Itoa(n), strconv.Itoa(l.MinSources), "")
	}
	if l.MaxSources > 0 && n > l.MaxSources {
		b.add("max-sources", strconv.Itoa(n), strconv.Itoa(l.MaxSources), "")
	}
	all := s.Origins
	if s.Mirror != nil {
		all = append([]fleet.Origin{*s.Mirror}, all...)
	}
	if len(all) == 0 {
		if l.SourceLag > 0 {
			b.add("lag-critical", "that of no mirror or source", number(float64(l.SourceLag)), "")
		}
		if l.SourceSeen > 0 {
			b.add("seen-critical", "that of no mirror or source", short(l.SourceSeen), "")
		}
		return
	}
	var lag uint64
	var quiet time.Duration
	for _, o := range all {
		lag = max(lag, o.Lag)
		age := o.Active
		if age < 0 { // never heard
			age = in.clock(s.Leader, s.At).Sub(s.Created)
		}
		quiet = max(quiet, age)
	}
	b.above("lag-critical", lag, l.SourceLag, "")
	b.older("seen-critical", quiet, l.SourceSeen)
}

func checkSingle(in *inspection) {
	in.streams(func(e fleet.Entity, s *fleet.Stream) {
		leaders := in.names[s.Leader]
		if len(leaders) == 0 || leaders[0].Cluster == "" || s.Storage == "memory" {
			return
		}
		n := len(in.clusters[leaders[0].Cluster])
		in.judge(e, s.At, s.Replicas < 2 && n > 2, func() proof {
			return proof{
				text:    fmt.Sprintf("Stream %s is kept on %s alone, in a cluster of %s.", s.Stream, s.Leader, plural(n, "server")),
				command: about("nats stream edit --replicas=3", s.Stream), source: s.Source,
				evidence: figures(figure("replicas", strconv.Itoa(s.Replicas), "3", "")),
			}
		})
	})
}
