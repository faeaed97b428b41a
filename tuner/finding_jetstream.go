package tuner

import (
	"fmt"
	"time"

	"ballast/fleet"
)

var jetStreamChecks = []check{
	{fleet.Check{Code: "JS001", Title: "JetStream has no meta leader", Severity: fleet.Critical,
		What:   "No server says who leads the meta group.",
		Why:    "Nothing can be created, changed or moved, and no lost replica is replaced. An election takes seconds, so one that is seen three times in a row does not succeed.",
		Remedy: "Start servers until more than half of the meta group runs.",
	}, checkMetaLeader},
	{fleet.Check{Code: "JS002", Title: "Meta group lacks a server", Severity: fleet.Warning,
		What:   "The meta leader sees a server of the meta group offline or more than 10 s silent; it is critical when one more would cost the majority.",
		Why:    "Each absent server brings the group closer to losing its majority. A server that was removed for good still counts until it is removed from the group.",
		Remedy: "Start the server, or remove it from the group if it never comes back.",
	}, checkMetaPeers},
	{fleet.Check{Code: "JS003", Title: "JetStream's file storage is nearly full", Severity: fleet.Warning,
		What:   "A server uses 85 % of its file storage or more; 95 % is critical.",
		Why:    "When it is full, publishing to the streams of the server is refused. At 85 % a store that doubles in a day has hours left.",
		Remedy: "Give streams limits or shorter ages, purge what is not needed, or raise max_file_store.",
	}, checkStore},
	{fleet.Check{Code: "JS004", Title: "JetStream's memory is nearly full", Severity: fleet.Warning,
		What:   "A server uses 85 % of its JetStream memory or more; 95 % is critical.",
		Why:    "When it is full, publishing to memory streams is refused, also to the streams of consumers that keep their state in memory.",
		Remedy: "Move streams to file storage, give them limits, or raise max_memory_store.",
	}, checkMemory},
	{fleet.Check{Code: "JS005", Title: "JetStream API refuses requests", Severity: fleet.Warning,
		What:   "5 % or more of a server's JetStream API requests of the last 5 minutes, and 20 of them or more, ended in an error.",
		Why:    "A few errors are normal, as asking whether a stream exists. A share that stays is an application that retries something that cannot succeed.",
		Remedy: "Watch the API's audit events to see who asks for what.",
	}, checkAPIErrors},
	{fleet.Check{Code: "JS006", Title: "Leaders are lopsided", Severity: fleet.Warning,
		What:   "A server leads more than 1.5 times the mean of the streams and consumers of its cluster, in clusters with 10 or more of them that are replicated.",
		Why:    "The leader does the work of its group: after a rolling restart the first server leads little and the last nearly nothing. Below 10 leaders chance alone is as lopsided.",
		Remedy: "Have leaders step down so that they spread.",
	}, checkLeaders},
}

func metaEntity(domain string) fleet.Entity { return fleet.Entity{Kind: fleet.KindMeta, Key: domain} }

func checkMetaLeader(in *inspection) {
	type word struct {
		at     time.Time
		leader string
		size   int
		source fleet.Source
	}
	words := map[string]word{}
	in.servers(func(s *fleet.Server) {
		// A server without a cluster has no meta group.
		if s.JetStream == nil || s.JetStream.MetaSize < 2 {
			return
		}
		w := words[s.JetStream.Domain]
		if s.JetStream.MetaLeader != "" {
			w.leader = s.JetStream.MetaLeader
		}
		w.at, w.size, w.source = newest(w.at, s.At), max(w.size, s.JetStream.MetaSize), s.Source
		words[s.JetStream.Domain] = w
	})
	for domain, w := range words {
		in.judge(metaEntity(domain), w.at, w.leader == "", func() proof {
			return proof{
				text:    fmt.Sprintf("None of the servers that answer knows a leader of the meta group of %d.", w.size),
				command: about("nats server report jetstream"), source: w.source,
				evidence: figures(figure("meta group", number(float64(w.size)), "", "")),
			}
		})
	}
}

func checkMetaPeers(in *inspection) {
	in.servers(func(s *fleet.Server) {
		js := s.JetStream
		if js == nil || js.MetaLeader != s.Name {
			return
		}
		absent := in.absent(js.MetaReplicas)
		in.judge(metaEntity(js.Domain), s.At, len(absent) > 0, func() proof {
			p := proof{
				text:    fmt.Sprintf("The meta leader %s misses %s of %s.", s.Name, list(absent), plural(js.MetaSize, "server")),
				command: about("nats server report jetstream"), source: s.Source,
				evidence: figures(figure("missing", number(float64(len(absent))), "0", "")),
			}
			if js.MetaSize-len(absent)-1 <= js.MetaSize/2 {
				p.severity = fleet.Critical
			}
			return p
		})
	})
}

// absent are the peers of a group that its leader does not hear.
func (in *inspection) absent(peers []fleet.Replica) []string {
	var out []string
	for _, p := range peers {
		if p.Offline || p.Active > in.lim.ReplicaQuiet {
			out = append(out, p.Name)
		}
	}
	return out
}

func checkStore(in *inspection) {
	in.full(func(js *fleet.JetStream) (uint64, int64) { return js.Store, js.MaxStore }, "file storage", fleet.ColJSStore)
}

func checkMemory(in *inspection) {
	in.full(func(js *fleet.JetStream) (uint64, int64) { return js.Memory, js.MaxMemory }, "JetStream memory", fleet.ColJSMemory)
}

func (in *inspection) full(of func(*fleet.JetStream) (uint64, int64), what, column string) {
	in.servers(func(s *fleet.Server) {
		if s.JetStream == nil {
			return
		}
		used, most := of(s.JetStream)
		in.judge(s.Entity(), s.At, most > 0 && ratio(float64(used), float64(most)) >= in.lim.Full, func() proof {
			r := ratio(float64(used), float64(most))
			return proof{
				severity: in.brim(r),
				text:     fmt.Sprintf("Server %s uses %s of its %s: %s of %s.", s.Name, percent(r), what, size(float64(used)), size(float64(most))),
				command:  about("nats server report jetstream"), source: s.Source,
				evidence: figures(figure(what, size(float64(used)), size(float64(most)*in.lim.Full), column)),
			}
		})
	})
}

// brim is critical when nearly nothing is left, else what the check says.
func (in *inspection) brim(r float64) fleet.Severity {
	if r >= in.lim.Brim {
		return fleet.Critical
	}
	return ""
}

func checkAPIErrors(in *inspection) {
	in.servers(func(s *fleet.Server) {
		if s.JetStream == nil {
			return
		}
		total, span := in.engine.rise(s.Entity(), "api requests", s.At, s.JetStream.APITotal)
		wrong, _ := in.engine.rise(s.Entity(), "api errors", s.At, s.JetStream.APIErrors)
		r := ratio(float64(wrong), float64(max(total, wrong)))
		in.judge(s.Entity(), s.At, wrong >= in.lim.MinRequests && r >= in.lim.APIErrors, func() proof {
			return proof{
				text:    fmt.Sprintf("Server %s refused %s of its JetStream API requests within %s: %s of %s.", s.Name, percent(r), short(span), number(float64(wrong)), number(float64(total))),
				command: about("nats server watch jetstream"), source: s.Source,
				evidence: figures(figure("errors", percent(r), percent(in.lim.APIErrors), "")),
			}
		})
	})
}

func checkLeaders(in *inspection) {
	led := map[string]int{}
	at := map[string]time.Time{}
	note := func(leader string, peers []fleet.Replica, t time.Time) {
		if leader != "" && len(peers) > 0 {
			led[leader]++
			at[leader] = newest(at[leader], t)
		}
	}
	for i := range in.snap.Streams {
		note(in.snap.Streams[i].Leader, in.snap.Streams[i].Peers, in.snap.Streams[i].At)
	}
	for i := range in.snap.Consumers {
		if c := &in.snap.Consumers[i]; c.Fold == nil {
			note(c.Leader, c.Peers, c.At)
		}
	}
	for _, name := range in.clusterNames() {
		in.lopsided(name, in.lim.Leaders, func(s *fleet.Server) (int, time.Time) { return led[s.Name], at[s.Name] }, func(most *fleet.Server, n int, mean float64) proof {
			return proof{text: fmt.Sprintf("Server %s leads %s; the mean of cluster %s is %s.", most.Name, plural(n, "replicated group"), name, number(mean)),
				source: most.Source, command: about("nats stream cluster balance"),
				evidence: figures(figure("leaders on "+most.Name, number(float64(n)), number(mean*in.lim.Lopsided), ""), figure("mean", number(mean), "", ""))}
		})
	}
}

// replicas judges the peers of a stream or consumer as its leader sees them.
func (in *inspection) replicas(e fleet.Entity, at time.Time, peers []fleet.Replica, source fleet.Source, named func() (what, command string)) {
	absent := in.absent(peers)
	in.judge(e, at, len(absent) > 0, func() proof {
		what, command := named()
		p := proof{
			text:    fmt.Sprintf("The leader of %s does not hear %s.", what, list(absent)),
			command: command, source: source, evidence: figures(figure("replicas not heard", list(absent), "none", "")),
		}
		if n := len(peers) + 1; n-len(absent)-1 <= n/2 {
			p.severity = fleet.Critical
		}
		return p
	})
}
