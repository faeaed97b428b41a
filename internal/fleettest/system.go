// Package fleettest makes snapshots of NATS systems of any size, for tests and
// benchmarks. The same arguments always make the same system.
package fleettest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"ballast/fleet"
)

var regions = []string{"eu-west", "us-east", "ap-south", "eu-central", "us-west", "ap-northeast", "sa-east", "af-south", "ca-central", "ap-southeast", "me-central", "eu-north"}

// System is a super-cluster of n healthy servers, seen at the moment at: one
// cluster up to 5 servers, 4 up to 100, 12 beyond; full meshes of routes and
// gateways; some leaf nodes.
func System(n int, at time.Time) (*fleet.Snapshot, *fleet.Rates) {
	rnd := rand.New(rand.NewPCG(7, uint64(n)))
	clusters, leafs := 1, 2
	switch {
	case n > 100:
		clusters, leafs = 12, 60
	case n > 12:
		clusters, leafs = 4, 12
	}
	s := &fleet.Snapshot{TakenAt: at, Expected: n, Cost: fleet.Cost{Requests: 6 * n, Bytes: int64(n) * 9000, Took: 40 * time.Millisecond}}
	r := &fleet.Rates{At: at, Servers: map[string]fleet.LinkRate{}, Routes: map[[2]string]fleet.LinkRate{}, Gateways: map[[2]string]fleet.LinkRate{},
		Leafs: map[[2]string]fleet.LinkRate{}, Streams: map[fleet.StreamKey]fleet.LinkRate{}, Consumers: map[fleet.ConsumerKey]fleet.ConsumerRate{}}
	members := make([][]fleet.Server, clusters)
	left := n
	for c := range clusters {
		size := left / (clusters - c)
		if c < clusters-1 && clusters > 1 {
			size += []int{1, -1, 2, -2}[c%4]
		}
		left -= size
		for i := range size {
			srv := fleet.Server{
				ID: fmt.Sprintf("N%02d%03d", c, i), Name: fmt.Sprintf("%s-n%d", regions[c], i+1), Cluster: regions[c], Version: "2.15.2", Host: "10.0.0.1", Port: 4222,
				State: fleet.Healthy, At: at, Now: at, Start: at.Add(-30 * time.Hour), RTT: 2 * time.Millisecond, Source: fleet.Monitoring, Cores: 4,
				CPU: 30 + rnd.Float64()*150, Mem: int64(80+rnd.IntN(900)) << 20, Conns: 200 + rnd.IntN(2400), Subs: 1000 + rnd.IntN(9000), Routes: size - 1,
				JetStream: &fleet.JetStream{MetaLeader: regions[0] + "-n1", MetaSize: n},
			}
			in := 800 + rnd.Float64()*5200
			r.Servers[srv.Name] = fleet.LinkRate{InMsgs: in, OutMsgs: in * 1.7, InBytes: in * 600, OutBytes: in * 1020}
			members[c] = append(members[c], srv)
			s.Servers = append(s.Servers, srv)
		}
	}
	for c, servers := range members {
		for _, a := range servers {
			for _, b := range servers {
				if a.ID != b.ID {
					s.Routes = append(s.Routes, fleet.Route{From: a.ID, To: b.ID, ToName: b.Name, RTT: 400 * time.Microsecond, Conns: 4, At: at})
				}
			}
			for o := range members {
				if o != c {
					// A pair of clusters is busy or it is not; its servers share that.
					busy := math.Pow(10, 0.4+2.8*float64((c*7+o*7+c*o)%10)/10)
					s.Gateways = append(s.Gateways, fleet.Gateway{From: a.ID, FromCluster: regions[c], ToCluster: regions[o], RTT: time.Duration(18+7*(c+o)) * time.Millisecond, At: at})
					r.Gateways[[2]string{a.ID, regions[o]}] = fleet.LinkRate{OutMsgs: busy * (0.8 + 0.4*rnd.Float64())}
				}
			}
		}
	}
	for i := range leafs {
		at := members[i%clusters]
		srv := at[rnd.IntN(len(at))]
		s.Leafs = append(s.Leafs, fleet.Leaf{Server: srv.ID, Name: fmt.Sprintf("edge-%02d", i+1), Account: []string{"IOT", "RETAIL", "FLEET"}[i%3], RTT: time.Duration(4+i) * time.Millisecond, At: s.TakenAt})
	}
	return s, r
}

// Slots gives every key the number of its place in the list.
func Slots(keys []string) map[string]int {
	m := make(map[string]int, len(keys))
	for i, k := range keys {
		m[k] = i
	}
	return m
}
