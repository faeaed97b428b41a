package topology

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/fleettest"
)

var now = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

func places(m *Map) map[string]Point {
	at := map[string]Point{}
	for _, c := range m.Clusters {
		at[ClusterKey(c.Key)] = c.Center
		for _, n := range c.Servers {
			at[ServerKey(*n.Server)] = n.At
		}
	}
	return at
}

func TestARestartMovesNothing(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 30, 200} {
		s, _ := fleettest.System(n, now)
		slots := fleettest.Slots(Keys(s))
		before := places(Layout(s, slots))
		old := s.Servers[1].ID
		s.Servers[1].ID, s.Servers[1].Start = "restarted", now
		for i := range s.Routes {
			if s.Routes[i].To == old {
				s.Routes[i].To = "restarted"
			}
		}
		for i := range s.Leafs {
			if s.Leafs[i].Server == old {
				s.Leafs[i].Server = "restarted"
			}
		}
		// While it is away it does not answer and its routes are gone.
		away := *s
		away.Servers = slices.Clone(s.Servers)
		away.Servers[1].State = fleet.Unreachable
		away.Routes = nil
		for _, look := range []*fleet.Snapshot{&away, s} {
			after := places(Layout(look, slots))
			for key, p := range before {
				if q := after[key]; p != q {
					t.Errorf("%d servers: %s moved from %v to %v", n, key, p, q)
				}
			}
		}
	}
}

func TestOneMoreServerMovesOnlyItsCluster(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 30, 200} {
		s, _ := fleettest.System(n, now)
		slots := fleettest.Slots(Keys(s))
		before := places(Layout(s, slots))
		grown := s.Servers[len(s.Servers)-1].Cluster
		extra := s.Servers[len(s.Servers)-1]
		extra.Name, extra.ID = grown+"-new", "new"
		s.Servers = append(s.Servers, extra)
		slots[ServerKey(extra)] = len(slots)
		after := places(Layout(s, slots))
		for _, srv := range s.Servers {
			key := ServerKey(srv)
			if srv.Cluster == grown {
				continue
			}
			if before[key] != after[key] {
				t.Errorf("%d servers and one more in %s: %s moved from %v to %v", n, grown, key, before[key], after[key])
			}
		}
		if before[ClusterKey(grown)] != after[ClusterKey(grown)] {
			t.Errorf("%d servers and one more: the cluster's middle moved", n)
		}
	}
}

func TestOrderOfAnswersDoesNotMatter(t *testing.T) {
	t.Parallel()
	s, _ := fleettest.System(30, now)
	slots := fleettest.Slots(Keys(s))
	want := Layout(s, slots)
	shuffled := *s
	shuffled.Servers, shuffled.Gateways, shuffled.Leafs, shuffled.Routes = slices.Clone(s.Servers), slices.Clone(s.Gateways), slices.Clone(s.Leafs), slices.Clone(s.Routes)
	rnd := rand.New(rand.NewPCG(3, 4))
	rnd.Shuffle(len(shuffled.Servers), func(i, j int) {
		shuffled.Servers[i], shuffled.Servers[j] = shuffled.Servers[j], shuffled.Servers[i]
	})
	rnd.Shuffle(len(shuffled.Gateways), func(i, j int) {
		shuffled.Gateways[i], shuffled.Gateways[j] = shuffled.Gateways[j], shuffled.Gateways[i]
	})
	rnd.Shuffle(len(shuffled.Leafs), func(i, j int) {
		shuffled.Leafs[i], shuffled.Leafs[j] = shuffled.Leafs[j], shuffled.Leafs[i]
	})
	got := Layout(&shuffled, slots)
	for key, p := range places(want) {
		if q := places(got)[key]; p != q {
			t.Errorf("%s stands at %v, want %v", key, q, p)
		}
	}
	for i := range want.Gateways {
		if got.Gateways[i].Path != want.Gateways[i].Path {
			t.Errorf("gateway %d is %s, want %s", i, got.Gateways[i].Path, want.Gateways[i].Path)
		}
	}
}

func TestNothingOverlapsAndAllIsInView(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 5, 6, 30, 60, 200, 400} {
		s, _ := fleettest.System(n, now)
		m := Layout(s, fleettest.Slots(Keys(s)))
		if m.W < minWidth || m.H < minHeight {
			t.Errorf("%d servers: the view is %v by %v, smaller than %v by %v", n, m.W, m.H, minWidth, minHeight)
		}
		for i, a := range m.Clusters {
			for _, b := range a.boxes() {
				if b.x0 < m.X || b.y0 < m.Y || b.x1 > m.X+m.W || b.y1 > m.Y+m.H {
					t.Errorf("%d servers: cluster %s reaches out of the view", n, a.Key)
				}
			}
			for _, b := range m.Clusters[i+1:] {
				if d := math.Hypot(a.Center.X-b.Center.X, a.Center.Y-b.Center.Y); d < a.Radius+b.Radius {
					t.Errorf("%d servers: %s and %s overlap", n, a.Key, b.Key)
				}
			}
			for j, p := range a.Servers {
				for _, q := range a.Servers[j+1:] {
					if d := math.Hypot(p.At.X-q.At.X, p.At.Y-q.At.Y); d < 2*a.Node {
						t.Errorf("%d servers: %s and %s overlap", n, p.Server.Name, q.Server.Name)
					}
				}
			}
		}
	}
}

func TestMissingRoutesAreCounted(t *testing.T) {
	t.Parallel()
	server := func(name string, state fleet.State) fleet.Server {
		return fleet.Server{ID: "id-" + name, Name: name, Cluster: "c", State: state}
	}
	all := []fleet.Server{server("a", fleet.Healthy), server("b", fleet.Healthy), server("c", fleet.Healthy)}
	for _, tc := range []struct {
		name    string
		servers []fleet.Server
		routes  []fleet.Route
		want    int
	}{
		{"none", all, nil, 0},
		{"one direction is enough", all, []fleet.Route{{From: "id-a", To: "id-b"}, {From: "id-b", To: "id-a"}, {From: "id-c", To: "id-a"}}, 2},
		{"several accounts are one pair", all, []fleet.Route{{From: "id-a", To: "id-b"}, {From: "id-a", To: "id-b", Account: "APP"}}, 1},
		{"an id that is not known yet is found by name", all, []fleet.Route{{From: "id-a", To: "id-of-the-restarted", ToName: "b"}}, 1},
		{"a server that does not answer reports nothing that is true", []fleet.Server{server("a", fleet.Unreachable), server("b", fleet.Healthy), server("c", fleet.Healthy)},
			[]fleet.Route{{From: "id-a", To: "id-b"}, {From: "id-a", To: "id-c"}, {From: "id-b", To: "id-c"}}, 1},
		{"to itself", all, []fleet.Route{{From: "id-a", To: "id-a"}}, 0},
	} {
		m := Layout(&fleet.Snapshot{Servers: tc.servers, Routes: tc.routes}, nil)
		if c := m.Clusters[0]; c.Routes != tc.want || c.Pairs != 3 {
			t.Errorf("%s: %d/%d routes, want %d/3", tc.name, c.Routes, c.Pairs, tc.want)
		}
	}
}

func TestAClusterKnownOnlyByAGatewayIsShown(t *testing.T) {
	t.Parallel()
	s := &fleet.Snapshot{
		Servers:  []fleet.Server{{ID: "1", Name: "n1", Cluster: "here", State: fleet.Healthy}},
		Gateways: []fleet.Gateway{{From: "1", FromCluster: "here", ToCluster: "there", RTT: time.Millisecond}},
	}
	m := Layout(s, nil)
	if len(m.Clusters) != 2 || m.Clusters[0].Seen != true || m.Clusters[1].Seen != false {
		t.Fatalf("clusters = %+v, want here seen and there not", m.Clusters)
	}
	if len(m.Gateways) != 1 || m.Gateways[0].Up != 1 || m.Gateways[0].Want != 1 {
		t.Errorf("gateways = %+v, want one that is whole", m.Gateways)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		names []string
		want  []string
	}{
		{[]string{"nats-1", "nats-2", "nats-3"}, []string{"1", "2", "3"}},
		{[]string{"nats-07", "nats-11"}, []string{"7", "11"}},
		{[]string{"a1", "b1"}, []string{"1", "2"}}, // the same number twice tells nothing apart
		{[]string{"alpha", "beta"}, []string{"1", "2"}},
		{[]string{"ip-10-0-0-17", "ip-10-0-1-20261"}, []string{"1", "2"}}, // too long for a circle
	} {
		nodes := make([]Node, len(tc.names))
		for i, n := range tc.names {
			nodes[i].Server = &fleet.Server{Name: n}
		}
		number(nodes)
		for i, n := range nodes {
			if n.Label != tc.want[i] {
				t.Errorf("%v: label %d is %q, want %q", tc.names, i, n.Label, tc.want[i])
			}
		}
	}
}

func TestNaturalOrder(t *testing.T) {
	t.Parallel()
	want := []string{"", "a", "n1", "n2", "n2a", "n10", "n010b", "n11", "x"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, natural)
	if !slices.Equal(got, want) {
		t.Errorf("sorted: %q, want %q", got, want)
	}
}

func TestAFlowWidensTheView(t *testing.T) {
	t.Parallel()
	s, _ := fleettest.System(3, now)
	m := Layout(s, fleettest.Slots(Keys(s)))
	if !m.Drawn() {
		t.Fatal("a flow is drawn beside three servers")
	}
	f := m.Flow([]string{"eu-west-n1", "eu-west-n2", "gone", ""}, []float64{0.6, 0.3, 0.1, 0})
	if len(f.Lanes) != 4 || f.Lanes[0].Out == "" || f.Lanes[1].Out == "" || f.Lanes[2].Out != "" || f.Lanes[3].Out != "" {
		t.Errorf("lanes = %+v, want the first two to reach a server", f.Lanes)
	}
	if f.Hub.X < m.X || f.Lanes[0].Y < m.Y || f.Lanes[3].Y+f.Lanes[3].H > m.Y+m.H {
		t.Errorf("hub %+v or lanes reach out of the view %v %v %v %v", f.Hub, m.X, m.Y, m.W, m.H)
	}
	for i, l := range f.Lanes[1:] {
		if l.Y < f.Lanes[i].Y+f.Lanes[i].H {
			t.Errorf("lane %d overlaps the one above", i+1)
		}
	}
}

func TestHostileSystemsAreLaidOut(t *testing.T) {
	t.Parallel()
	for _, s := range []*fleet.Snapshot{
		{},
		{Servers: []fleet.Server{{}}},
		{Servers: []fleet.Server{{Name: "a"}, {Name: "a"}}, Routes: []fleet.Route{{}}, Gateways: []fleet.Gateway{{}}, Leafs: []fleet.Leaf{{}}},
		{Gateways: []fleet.Gateway{{FromCluster: "x", ToCluster: "x"}}},
	} {
		m := Layout(s, nil)
		for _, v := range []float64{m.X, m.Y, m.W, m.H} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("view of %+v is %v %v %v %v", s, m.X, m.Y, m.W, m.H)
			}
		}
	}
}

func BenchmarkLayout(b *testing.B) {
	for _, n := range []int{3, 30, 200} {
		s, _ := fleettest.System(n, now)
		slots := fleettest.Slots(Keys(s))
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			for b.Loop() {
				Layout(s, slots)
			}
		})
	}
}
