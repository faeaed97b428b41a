package tuner

import (
	"fmt"
	"slices"
	"time"

	"ballast/fleet"
)

var linkChecks = []check{
	{fleet.Check{Code: "NET001", Title: "Route is missing", Severity: fleet.Critical,
		What:   "Two servers of a cluster that both answer have no route between them.",
		Why:    "A cluster is a full mesh and does not forward: what is published at one of the two never reaches the other.",
		Remedy: "Look at the routes in both configurations, and whether the network lets the cluster port through in both directions.",
	}, checkRoutes},
	{fleet.Check{Code: "NET002", Title: "Gateway is missing", Severity: fleet.Critical,
		What:   "A server has no gateway to a cluster that was linked to its own within the last hour.",
		Why:    "The clusters no longer exchange messages and JetStream's API over that server.",
		Remedy: "Look whether the other cluster runs, and at the gateway section and the network between the two.",
	}, checkGateways},
	{fleet.Check{Code: "NET003", Title: "Route is slow", Severity: fleet.Warning,
		What:   "The round trip between two servers of a cluster takes more than 50 ms at three pings in a row, which are up to 30 s apart.",
		Why:    "Every message of a replicated stream waits for one round trip to a quorum, so 50 ms bound a publisher that waits to 20 messages a second.",
		Remedy: "Put servers that are far apart into clusters of their own, linked by gateways.",
	}, checkRouteRTT},
	{fleet.Check{Code: "NET004", Title: "Gateway is slow", Severity: fleet.Warning,
		What:   "The round trip of a gateway takes more than 500 ms at three pings in a row.",
		Why:    "Half around the world and back takes 300 ms; more means a full link or a detour.",
		Remedy: "Look at the network between the clusters and at the load of both ends.",
	}, checkGatewayRTT},
	{fleet.Check{Code: "NET005", Title: "Route does not keep up", Severity: fleet.Warning,
		What:   "More than 8 MiB wait in a server for a route.",
		Why:    "A route that keeps up has kilobytes waiting. One that stays behind is closed as slow, which cuts the cluster.",
		Remedy: "Look at the network and the CPU of both servers; route compression or a pool of routes may help.",
	}, checkRoutePending},
	{fleet.Check{Code: "NET006", Title: "Leaf node is slow", Severity: fleet.Warning,
		What:   "The round trip to a leaf node takes more than 500 ms at three pings in a row.",
		Why:    "Half around the world and back takes 300 ms; more means a full link or a detour, and every request over it waits for it.",
		Remedy: "Look at the network between the leaf node and its hub, and at the load of both.",
	}, checkLeafRTT},
}

func checkRoutes(in *inspection) {
	linked := map[[2]string]bool{}
	for _, r := range in.snap.Routes {
		linked[[2]string{r.From, r.To}] = true
	}
	for _, name := range in.clusterNames() {
		if name == "" {
			continue
		}
		members := in.clusters[name]
		for i, a := range members {
			for _, b := range members[i+1:] {
				// One end suffices: the two answers are not of the same moment.
				ok := linked[[2]string{a.ID, b.ID}] || linked[[2]string{b.ID, a.ID}]
				in.judge(link(fleet.KindRoute, a.Name, b.Name), newest(a.At, b.At), !ok, func() proof {
					return proof{
						text:    fmt.Sprintf("Servers %s and %s of cluster %s both answer, but neither has a route to the other.", a.Name, b.Name, name),
						command: about("nats server report connections"), source: a.Source,
						evidence: figures(figure("routes between them", "0", "1", "")),
					}
				})
			}
		}
	}
}

func checkGateways(in *inspection) {
	f := in.engine
	for _, g := range in.snap.Gateways {
		f.gateways[[2]string{g.FromCluster, g.ToCluster}] = in.now
	}
	for k, seen := range f.gateways {
		if in.now.Sub(seen) > time.Hour {
			delete(f.gateways, k)
		}
	}
	in.servers(func(s *fleet.Server) {
		for k := range f.gateways {
			if k[0] != s.Cluster || s.Cluster == "" {
				continue
			}
			has := slices.ContainsFunc(in.snap.Gateways, func(g fleet.Gateway) bool { return g.From == s.ID && g.ToCluster == k[1] })
			in.judge(link(fleet.KindGateway, s.Name, k[1]), s.At, !has, func() proof {
				return proof{
					text:    fmt.Sprintf("Server %s of cluster %s has no gateway to cluster %s, which had one %s.", s.Name, k[0], k[1], ago(in.now.Sub(f.gateways[k]))),
					command: about("nats server report gateways"), source: s.Source,
					evidence: figures(figure("gateways to "+k[1], "0", "1", "")),
				}
			})
		}
	})
}

func (in *inspection) serverName(id string) (string, fleet.Source) {
	if s := in.ids[id]; s != nil {
		return s.Name, s.Source
	}
	return "", ""
}

func checkRouteRTT(in *inspection) {
	for _, r := range in.snap.Routes {
		from, source := in.serverName(r.From)
		if from == "" || r.RTT <= 0 {
			continue
		}
		e := link(fleet.KindRoute, from, r.ToName)
		in.judge(e, in.engine.tripAt(e, r.RTT, r.At), r.RTT > in.lim.RouteRTT, func() proof {
			return proof{
				text:    fmt.Sprintf("The round trip from server %s to %s takes %s.", from, r.ToName, short(r.RTT)),
				command: about("nats server report connections"), source: source,
				evidence: figures(figure("round trip", short(r.RTT), short(in.lim.RouteRTT), fleet.ColRTT)),
			}
		})
	}
}

func checkGatewayRTT(in *inspection) {
	for _, g := range in.snap.Gateways {
		from, source := in.serverName(g.From)
		if from == "" || g.RTT <= 0 {
			continue
		}
		e := link(fleet.KindGateway, from, g.ToCluster)
		in.judge(e, in.engine.tripAt(e, g.RTT, g.At), g.RTT > in.lim.GatewayRTT, func() proof {
			return proof{
				text:    fmt.Sprintf("The round trip from server %s to cluster %s takes %s.", from, g.ToCluster, short(g.RTT)),
				command: about("nats server report gateways"), source: source,
				evidence: figures(figure("round trip", short(g.RTT), short(in.lim.GatewayRTT), fleet.ColRTT)),
			}
		})
	}
}

func checkRoutePending(in *inspection) {
	for _, r := range in.snap.Routes {
		from, source := in.serverName(r.From)
		if from == "" {
			continue
		}
		in.judge(link(fleet.KindRoute, from, r.ToName), r.At, r.Pending > in.lim.LinkPending, func() proof {
			return proof{
				text:    fmt.Sprintf("%s wait in server %s for its route to %s.", size(float64(r.Pending)), from, r.ToName),
				command: about("nats server report connections"), source: source,
				evidence: figures(figure("pending", size(float64(r.Pending)), size(float64(in.lim.LinkPending)), fleet.ColPending)),
			}
		})
	}
}

func checkLeafRTT(in *inspection) {
	for _, l := range in.snap.Leafs {
		from, source := in.serverName(l.Server)
		if from == "" {
			continue
		}
		e := link(fleet.KindLeaf, from, l.Name)
		in.exists[e] = true
		if l.RTT <= 0 {
			continue
		}
		in.judge(e, in.engine.tripAt(e, l.RTT, l.At), l.RTT > in.lim.LeafRTT, func() proof {
			return proof{
				text:    fmt.Sprintf("The round trip from server %s to leaf node %s (account %s) takes %s.", from, l.Name, l.Account, short(l.RTT)),
				command: about("nats server report leafnodes"), source: source,
				evidence: figures(figure("round trip", short(l.RTT), short(in.lim.LeafRTT), fleet.ColRTT)),
			}
		})
	}
}
