package tuner

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
)

var serverChecks = []check{
	{fleet.Check{Code: "SRV001", Title: "Server does not answer", Severity: fleet.Critical,
		What:   "A server that answered before does not answer the collector.",
		Why:    "Its clients have moved to the others or are cut off, and replicated streams are one failure closer to losing their quorum.",
		Remedy: "Look whether the process runs and whether its monitoring or the system account is reachable; if it was removed for good, this ends by itself within ten minutes.",
	}, checkUnreachable},
	{fleet.Check{Code: "SRV002", Title: "Server is in lame duck mode", Severity: fleet.Warning,
		What:   "The server refuses new clients and asks its own to leave.",
		Why:    "That is right before a planned stop and wrong at any other time: the other servers carry its load.",
		Remedy: "Let the shutdown finish and start the server again; lame duck mode cannot be left.",
	}, checkLameDuck},
	{fleet.Check{Code: "SRV003", Title: "Server was restarted", Severity: fleet.Warning,
		What:   "The server was restarted within the last 5 minutes; twice or more is critical.",
		Why:    "A start moves clients and leaders and makes replicas catch up. A second one within five minutes is rarely planned: it is a crash loop or an out-of-memory kill.",
		Remedy: "If nobody restarted it, read the end of its log and the kernel's log for an out-of-memory kill.",
	}, checkRestarted},
	{fleet.Check{Code: "SRV004", Title: "Server's CPU is busy", Severity: fleet.Warning,
		What:   "The server uses 90 % of its cores or more; 98 % is critical.",
		Why:    "From there on queues in the server grow faster than an operator reads, and Raft heartbeats come late, which makes leaders move.",
		Remedy: "Spread clients and leaders over more servers, or give this one more cores.",
	}, checkCPU},
	{fleet.Check{Code: "SRV005", Title: "Slow consumers are cut off", Severity: fleet.Warning,
		What:   "The server closed connections within the last 5 minutes because they read too slowly.",
		Why:    "A client that is cut off loses core messages that were on their way; every one of them is a loss that somebody notices, so the limit is one.",
		Remedy: "Find the client by its pending bytes, make it read faster, split its subscriptions, or use a pull consumer.",
	}, checkSlowConsumers},
	{fleet.Check{Code: "SRV006", Title: "Clock is wrong", Severity: fleet.Warning,
		What:   "The server's clock and the console's differ by more than 1 s beyond the time of the request; 30 s is critical.",
		Why:    "Message ages, time limits and the expiry of credentials are judged by the servers' clocks. With NTP clocks differ by milliseconds, so a second means that it does not run.",
		Remedy: "Start time synchronization on the server's machine, or on the console's if all servers show the same difference.",
	}, checkClock},
	{fleet.Check{Code: "SRV007", Title: "Version has known vulnerabilities", Severity: fleet.Warning,
		What:   "The server's version is in the range of a published advisory.",
		Why:    "The advisories are public, and so is the way to use them. The table knows advisories up to " + AdvisoriesAsOf + "; newer ones are not in it.",
		Remedy: "Update nats-server; read the advisory for a workaround until then.",
	}, checkAdvisories},
	{fleet.Check{Code: "SRV008", Title: "Server versions are mixed", Severity: fleet.Info,
		What:   "The servers of a cluster run different versions.",
		Why:    "It is normal during an update and a forgotten update otherwise: features that need all servers are off, and what is tested together is not what runs.",
		Remedy: "Finish the update of the servers that are behind.",
	}, checkMixedVersions},
	{fleet.Check{Code: "SRV009", Title: "Two servers have one name", Severity: fleet.Critical,
		What:   "Several running servers have the same server_name.",
		Why:    "JetStream tells peers apart by name: with two of one name, replicas land on the wrong one.",
		Remedy: "Give every server its own server_name and restart those that share one, one after the other.",
	}, checkNames},
	{fleet.Check{Code: "SRV010", Title: "Connections are lopsided", Severity: fleet.Warning,
		What:   "A server of a cluster has more than 1.5 times the mean of its connections, in clusters with 30 connections or more.",
		Why:    "Clients stay where they connected, so after a restart one server carries what three should. Below 30 connections chance alone is as lopsided.",
		Remedy: "Spread the connections; list all servers in the clients' URLs.",
	}, checkConnections},
	{fleet.Check{Code: "SRV011", Title: "Clients are refused", Severity: fleet.Warning,
		What:   "The server refused clients' credentials within the last 5 minutes. Needs the system account.",
		Why:    "It is a client with expired or wrong credentials that retries for ever, or somebody who guesses.",
		Remedy: "Find the client by its address in the server's log, and renew or revoke its credentials.",
	}, checkAuthErrors},
	{fleet.Check{Code: "SRV012", Title: "Server is not read", Severity: fleet.Info,
		What:   "A server is known from its neighbours only.",
		Why:    "It has no figures: whatever is wrong there is not seen.",
		Remedy: "Give the console its monitoring URL, or a user of the system account.",
	}, checkUnread},
	{fleet.Check{Code: "SRV013", Title: "Connection is about to be cut off", Severity: fleet.Warning,
		What:   "More than 1 MiB waits in a server for one client; 32 MiB is critical.",
		Why:    "At max_pending, 64 MiB unless configured, the server closes the connection. A client that keeps up has kilobytes waiting.",
		Remedy: "Make the client read faster, or divide its subscriptions over more connections.",
	}, checkPending},
}

func checkUnreachable(in *inspection) {
	for i := range in.snap.Servers {
		s := &in.snap.Servers[i]
		switch s.State {
		case fleet.Unread:
		case fleet.Unreachable:
			in.bad(s.Entity(), in.snap.TakenAt, proof{
				text: fmt.Sprintf("Server %s last answered %s. %s", s.Name, ago(in.now.Sub(s.At)), s.Error), command: about("nats server ping"),
				evidence: figures(figure("last answer", ago(in.now.Sub(s.At)), "", "")), source: s.Source,
			})
		default:
			in.good(s.Entity(), s.At)
		}
	}
}

func checkLameDuck(in *inspection) {
	in.servers(func(s *fleet.Server) {
		in.judge(s.Entity(), s.At, s.State == fleet.LameDuck, func() proof {
			return proof{
				text:    fmt.Sprintf("Server %s is in lame duck mode with %s left.", s.Name, plural(s.Conns, "connection")),
				command: about("nats server info", s.Name), source: s.Source,
				evidence: figures(figure("connections left", number(float64(s.Conns)), "", fleet.ColConns)),
			}
		})
	})
}

// recent counts the events of a kind by what they happened to.
func (in *inspection) recent(kind string) map[string]int {
	n := map[string]int{}
	for _, e := range in.look.Events {
		if e.Kind == kind && in.now.Sub(e.At) <= in.engine.cfg.Window {
			n[e.Entity]++
		}
	}
	return n
}

func checkRestarted(in *inspection) {
	starts := in.recent("server.restarted")
	in.servers(func(s *fleet.Server) {
		n := starts[s.Name]
		in.judge(s.Entity(), s.At, n > 0, func() proof {
			p := proof{
				text:    fmt.Sprintf("Server %s was restarted %s; it runs for %s now.", s.Name, times(n, in.engine.cfg.Window), short(max(0, s.Now.Sub(s.Start)))),
				command: about("nats server info", s.Name), source: s.Source,
				evidence: figures(figure("restarts", number(float64(n)), "0", "")),
			}
			if n > 1 {
				p.severity = fleet.Critical
			}
			return p
		})
	})
}

func times(n int, within time.Duration) string {
	if n == 1 {
		return "once within " + short(within)
	}
	return number(float64(n)) + " times within " + short(within)
}

func checkCPU(in *inspection) {
	in.servers(func(s *fleet.Server) {
		if s.Cores < 1 {
			return
		}
		used := s.CPU / 100 / float64(s.Cores)
		in.judge(s.Entity(), s.At, used >= in.lim.CPU, func() proof {
			p := proof{
				text:    fmt.Sprintf("Server %s uses %s of its %s.", s.Name, percent(used), plural(s.Cores, "core")),
				command: about("nats server info", s.Name), source: s.Source,
				evidence: figures(figure("CPU", percent(used), percent(in.lim.CPU), fleet.ColCPU)),
			}
			if used >= 0.98 {
				p.severity = fleet.Critical
			}
			return p
		})
	})
}

func checkSlowConsumers(in *inspection) {
	in.servers(func(s *fleet.Server) {
		n, span := in.engine.rise(s.Entity(), "slow consumers", s.At, s.SlowConsumers)
		in.judge(s.Entity(), s.At, n > 0, func() proof {
			return proof{
				text:    fmt.Sprintf("Server %s cut off %s within %s.", s.Name, plural(int(n), "slow consumer"), short(span)),
				command: about("nats server report connections --sort pending"), source: s.Source,
				evidence: figures(figure("cut off", number(float64(n)), "0", fleet.ColSlow)),
			}
		})
	})
}

func checkClock(in *inspection) {
	in.servers(func(s *fleet.Server) {
		if s.Now.IsZero() {
			return
		}
		skew := s.Now.Sub(s.At)
		off := skew.Abs() - s.RTT
		in.judge(s.Entity(), s.At, off > in.lim.Skew, func() proof {
			way := "ahead of"
			if skew < 0 {
				way = "behind"
			}
			p := proof{
				text:    fmt.Sprintf("The clock of server %s is %s %s the console's.", s.Name, short(skew.Abs()), way),
				command: about("nats server info", s.Name), source: s.Source,
				evidence: figures(figure("difference", short(skew.Abs()), short(in.lim.Skew), "")),
			}
			if off > 30*time.Second {
				p.severity = fleet.Critical
			}
			return p
		})
	})
}

func checkAdvisories(in *inspection) {
	in.servers(func(s *fleet.Server) {
		v, ok := parseVersion(s.Version)
		if !ok {
			return
		}
		var hit []Advisory
		for _, a := range in.engine.cfg.Advisories {
			if a.affects(v) {
				hit = append(hit, a)
			}
		}
		slices.SortStableFunc(hit, func(a, b Advisory) int { // the worst first
			return cmp.Compare(a.rank(), b.rank())
		})
		in.judge(s.Entity(), s.At, len(hit) > 0, func() proof {
			p := proof{command: about("nats server info", s.Name), source: s.Source}
			var words []string
			for _, a := range hit {
				words = append(words, a.ID+" ("+a.What+")")
				p.evidence = append(p.evidence, figure(a.ID+": "+a.What, s.Version, "fixed in "+list(a.Fixed)+", "+a.Source, ""))
				if a.Severity == fleet.Critical {
					p.severity = fleet.Critical
				}
			}
			p.text = fmt.Sprintf("Server %s runs %s, which has %s: %s. The table knows advisories up to %s; later advisories are not in it.",
				s.Name, s.Version, plural(len(hit), "known defect"), list(words), AdvisoriesAsOf)
			return p
		})
	})
}

func checkMixedVersions(in *inspection) {
	for _, name := range in.clusterNames() {
		members := in.clusters[name]
		var versions []string
		var at time.Time
		for _, s := range members {
			versions = append(versions, s.Version)
			at = newest(at, s.At)
		}
		slices.Sort(versions)
		versions = slices.Compact(versions)
		in.judge(fleet.Entity{Kind: fleet.KindCluster, Key: name}, at, len(versions) > 1, func() proof {
			p := proof{text: fmt.Sprintf("The %s of cluster %s run %s.", plural(len(members), "server"), name, list(versions)), command: about("nats server ls")}
			for _, s := range members {
				p.evidence = append(p.evidence, figure(s.Name, s.Version, "", ""))
			}
			return p
		})
	}
}

func checkNames(in *inspection) {
	// The neighbours know of servers that the snapshot shows as one.
	ids := map[string]map[string]bool{}
	note := func(name, id string) {
		if ids[name] == nil {
			ids[name] = map[string]bool{}
		}
		ids[name][id] = true
	}
	in.servers(func(s *fleet.Server) { note(givenName(s), s.ID) })
	for _, r := range in.snap.Routes {
		note(r.ToName, r.To)
	}
	done := map[string]bool{}
	in.servers(func(s *fleet.Server) {
		name := givenName(s)
		if done[name] {
			return
		}
		done[name] = true
		n := len(ids[name])
		in.judge(fleet.Entity{Kind: fleet.KindServer, Key: name}, s.At, n > 1, func() proof {
			return proof{
				text:    fmt.Sprintf("%d running servers are named %s.", n, name),
				command: about("nats server ls"), source: s.Source, evidence: figures(figure("servers of that name", number(float64(n)), "1", "")),
			}
		})
	})
}

// givenName is the name of the server's own configuration: the collector tells
// servers of one name apart by adding the cluster or the beginning of the ID.
func givenName(s *fleet.Server) string {
	if name, ok := strings.CutSuffix(s.Name, "@"+s.Cluster); ok && s.Cluster != "" && name != "" {
		return name
	}
	if i := strings.LastIndexByte(s.Name, '#'); i > 0 && len(s.Name)-i > 8 && strings.HasPrefix(s.ID, s.Name[i+1:]) {
		return s.Name[:i]
	}
	return s.Name
}

func checkConnections(in *inspection) {
	for _, name := range in.clusterNames() {
		in.lopsided(name, in.lim.Conns, func(s *fleet.Server) (int, time.Time) { return s.Conns, s.At }, func(most *fleet.Server, n int, mean float64) proof {
			return proof{
				text:    fmt.Sprintf("Server %s has %s; the mean of cluster %s is %s.", most.Name, plural(n, "connection"), name, number(mean)),
				command: command("nats", "server", "cluster", "balance", "--server-name="+most.Name), source: most.Source,
				evidence: figures(figure("connections of "+most.Name, number(float64(n)), number(mean*in.lim.Lopsided), fleet.ColConns), figure("mean", number(mean), "", "")),
			}
		})
	}
}

// lopsided judges how evenly something is spread over the servers of a cluster.
func (in *inspection) lopsided(cluster string, least int, count func(*fleet.Server) (int, time.Time), p func(most *fleet.Server, n int, mean float64) proof) {
	members := in.clusters[cluster]
	if len(members) < 2 {
		return
	}
	var most *fleet.Server
	var at time.Time
	top, sum := 0, 0
	for _, s := range members {
		n, t := count(s)
		sum += n
		at = newest(at, t)
		if most == nil || n > top {
			most, top = s, n
		}
	}
	mean := float64(sum) / float64(len(members))
	in.judge(fleet.Entity{Kind: fleet.KindCluster, Key: cluster}, at, sum >= least && float64(top) > mean*in.lim.Lopsided,
		func() proof { return p(most, top, mean) })
}

func checkAuthErrors(in *inspection) {
	n := in.recent(fleet.EventAuthError)
	in.servers(func(s *fleet.Server) {
		in.judge(s.Entity(), s.At, n[s.Name] > 0, func() proof {
			last := ""
			for _, e := range in.look.Events {
				if e.Kind == fleet.EventAuthError && e.Entity == s.Name {
					last = " " + e.Text
					break
				}
			}
			return proof{
				text:    fmt.Sprintf("Server %s refused clients; %s told of it within %s.%s", s.Name, plural(n[s.Name], "event"), short(in.engine.cfg.Window), last),
				command: about("nats events --all"), source: fleet.System,
				evidence: figures(figure("events", number(float64(n[s.Name])), "0", "")),
			}
		})
	})
}

func checkUnread(in *inspection) {
	for i := range in.snap.Servers {
		s := &in.snap.Servers[i]
		in.judge(s.Entity(), in.snap.TakenAt, s.State == fleet.Unread, func() proof {
			return proof{text: fmt.Sprintf("Server %s is linked to the others, but nothing reads it.", s.Name), command: about("nats server ping")}
		})
	}
}

func checkPending(in *inspection) {
	for i := range in.snap.Conns {
		c := &in.snap.Conns[i]
		s := in.ids[c.Server]
		if s == nil {
			continue
		}
		e := fleet.Entity{Kind: fleet.KindConn, Key: fmt.Sprintf("%s/%d", s.Name, c.CID)}
		in.judge(e, c.At, c.Pending > in.lim.ConnPending, func() proof {
			p := proof{
				text:    fmt.Sprintf("%s wait in server %s for connection %d (%s, %s).", size(float64(c.Pending)), s.Name, c.CID, cmp.Or(c.Name, "no name"), c.IP),
				command: about("nats server report connections --sort pending"), source: s.Source,
				evidence: figures(figure("pending", size(float64(c.Pending)), size(float64(in.lim.ConnPending)), "")),
			}
			if c.Pending > 32<<20 {
				p.severity = fleet.Critical
			}
			return p
		})
	}
}
