package collector

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"ballast/fleet"
)

// uniqueNames gives every server of a snapshot a name of its own: series, leaders
// and pages go by names. NATS itself wants them unique in a cluster only, and
// nothing keeps two servers outside of JetStream from having one name. Whoever
// had a name in the snapshot before keeps it as long as it runs, also when its
// namesake is gone: its figures are not to go on in the other's series.
func uniqueNames(all []seen, before *fleet.Snapshot) (names map[string]string, problems []fleet.Problem) {
	had := map[string]string{} // ID to name
	if before != nil {
		for i := range before.Servers {
			had[before.Servers[i].ID] = before.Servers[i].Name
		}
	}
	byName := map[string][]*fleet.Server{}
	running := map[serverKey]int{}
	for _, s := range all {
		srv := &s.look.server
		byName[srv.Name] = append(byName[srv.Name], srv)
		if s.alive {
			running[keyOf(srv)]++
		}
	}
	names = map[string]string{}
	for name, group := range byName {
		clusters := map[string]int{}
		for _, s := range group {
			clusters[s.Cluster]++
		}
		own := func(s *fleet.Server) string {
			if s.Cluster != "" && clusters[s.Cluster] == 1 {
				return name + "@" + s.Cluster
			}
			return byID(name, s)
		}
		var plain []*fleet.Server
		for _, s := range group {
			if n := had[s.ID]; n == byID(name, s) || n != "" && n == name+"@"+s.Cluster {
				names[s.ID] = n
			} else {
				plain = append(plain, s)
			}
		}
		slices.SortFunc(plain, func(a, b *fleet.Server) int {
			keeps := func(s *fleet.Server) int {
				if had[s.ID] == name {
					return 0
				}
				return 1
			}
			return cmp.Or(cmp.Compare(keeps(a), keeps(b)), cmp.Compare(a.Cluster, b.Cluster), a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID))
		})
		for _, s := range plain[min(1, len(plain)):] {
			names[s.ID] = own(s)
		}
		for cluster := range clusters {
			if n := running[serverKey{cluster, name}]; n > 1 {
				where := ""
				if cluster != "" {
					where = " of cluster " + cluster
				}
				problems = append(problems, fleet.Problem{
					Where: name, What: fmt.Sprintf("%d servers%s have this name.", n, where),
					Hint: "Give every server a server_name of its own; JetStream needs it, and figures are told apart by it.",
				})
			}
		}
	}
	return names, problems
}

// byID tells a server apart from others of its name and cluster.
func byID(name string, s *fleet.Server) string { return name + "#" + clipped(s.ID, 8) }

// ranBeside reports whether a server ran before another one of its name gave its
// last answer: then it is not what that one became by a restart.
func ranBeside(now, gone *fleet.Server) bool {
	if now.Start.IsZero() || gone.At.IsZero() {
		return false
	}
	began := now.Start.Add(now.At.Sub(now.Now)) // by our clock, as well as an answer's way allows
	return began.Add(clockDoubt).Before(gone.At)
}

// clockDoubt is how far our reckoning of another clock may be off.
const clockDoubt = 2 * time.Second

// setAddresses says where clients reach each server: at the host that it
// listens on or, when that is any, at the one that its neighbours see.
func setAddresses(looks map[string]*look) {
	ips := map[string]string{}
	for _, l := range looks {
		for _, n := range l.known {
			if n.ip != "" {
				ips[n.id] = n.ip
			}
		}
	}
	for id, l := range looks {
		host := l.server.Host
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = ips[id]
		}
		if host != "" && l.server.Port > 0 {
			l.server.Address = net.JoinHostPort(host, strconv.Itoa(l.server.Port))
		}
	}
}

// cameBackAs reports whether now is what a server that does not answer any more
// has become under another name: it began later, at the same address.
func cameBackAs(old, now *fleet.Server) bool {
	began := now.Start.Add(now.At.Sub(now.Now)) // by our clock
	return old.Name != now.Name && old.ID != now.ID && old.Cluster == now.Cluster && old.State != fleet.Unread &&
		old.Address != "" && old.Address == now.Address && !began.Before(old.At)
}

// rename puts unique names where servers are named, in the copy that belongs to
// the snapshot.
func rename(s *fleet.Snapshot, names map[string]string) {
	if len(names) == 0 {
		return
	}
	for i := range s.Servers {
		if n := names[s.Servers[i].ID]; n != "" {
			s.Servers[i].Name = n
		}
	}
	for i := range s.Routes {
		if n := names[s.Routes[i].To]; n != "" {
			s.Routes[i].ToName = n
		}
	}
}

// renamed gives what a server with a new name told its rows under that name, so
// that they point to it and not to its namesake.
func (a *assets) renamed(to string) *assets {
	out := *a
	out.server = to
	out.streams, out.consumers = slices.Clone(a.streams), slices.Clone(a.consumers)
	for i := range out.streams {
		if out.streams[i].Leader == a.server {
			out.streams[i].Leader = to
		}
	}
	for i := range out.consumers {
		if out.consumers[i].Leader == a.server {
			out.consumers[i].Leader = to
		}
	}
	return &out
}
