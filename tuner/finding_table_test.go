package tuner

import (
	"fmt"
	"testing"
	"time"

	"ballast/fleet"
)

// TestServerArithmetic judges single snapshots by single checks.
func TestServerArithmetic(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	server := func(name string, change func(*fleet.Server)) fleet.Server {
		s := fleet.Server{ID: "ID" + name, Name: name, Cluster: "c", Version: "2.15.2", State: fleet.Healthy, At: now, Now: now, Start: now.Add(-time.Hour), Cores: 4}
		if change != nil {
			change(&s)
		}
		return s
	}
	conns := func(n ...int) []fleet.Server {
		var out []fleet.Server
		for i, c := range n {
			out = append(out, server(fmt.Sprintf("n%d", i), func(s *fleet.Server) { s.Conns = c }))
		}
		return out
	}
	one := func(change func(*fleet.Server)) []fleet.Server { return []fleet.Server{server("n", change)} }
	for _, c := range []struct {
		name    string
		code    string
		servers []fleet.Server
		bad     bool
	}{
		{"CPU of four cores at 89 %", "SRV004", one(func(s *fleet.Server) { s.CPU = 356 }), false},
		{"CPU of four cores at 90 %", "SRV004", one(func(s *fleet.Server) { s.CPU = 360 }), true},
		{"a clock 1 s ahead", "SRV006", one(func(s *fleet.Server) { s.Now = now.Add(time.Second) }), false},
		{"a clock 1.1 s ahead", "SRV006", one(func(s *fleet.Server) { s.Now = now.Add(1100 * time.Millisecond) }), true},
		{"a clock 1.1 s behind", "SRV006", one(func(s *fleet.Server) { s.Now = now.Add(-1100 * time.Millisecond) }), true},
		{"a clock 1.1 s behind over a slow request", "SRV006", one(func(s *fleet.Server) { s.Now, s.RTT = now.Add(-1100*time.Millisecond), time.Second }), false},
		{"connections of few", "SRV010", conns(20, 4, 4), false},
		{"connections at 1.5 times the mean", "SRV010", conns(45, 25, 20), false},
		{"connections beyond it", "SRV010", conns(46, 24, 20), true},
		{"connections of a single server", "SRV010", conns(500), false},
		{"one version", "SRV008", []fleet.Server{server("a", nil), server("b", nil)}, false},
		{"two versions", "SRV008", []fleet.Server{server("a", nil), server("b", func(s *fleet.Server) { s.Version = "2.14.9" })}, true},
		{"two versions, one is down", "SRV008", []fleet.Server{server("a", nil), server("b", func(s *fleet.Server) { s.Version, s.State = "2.14.9", fleet.Unreachable })}, false},
		{"twins", "SRV009", []fleet.Server{server("a", nil), server("a@c", func(s *fleet.Server) { s.ID = "other" })}, true},
		{"no twins", "SRV009", []fleet.Server{server("a", nil), server("a2", nil)}, false},
	} {
		f := NewFindings(FindingsConfig{})
		for i := range 3 {
			at := now.Add(time.Duration(i) * 5 * time.Second)
			snap := &fleet.Snapshot{TakenAt: at}
			for _, s := range c.servers {
				s.At, s.Now = at, s.Now.Add(at.Sub(now))
				snap.Servers = append(snap.Servers, s)
			}
			f.Inspect(fleet.Look{At: at, Interval: 5 * time.Second, Snapshot: snap}, nil, nil)
		}
		bad := false
		for _, o := range f.Open() {
			bad = bad || o.Code == c.code
		}
		if bad != c.bad {
			t.Errorf("%s: %s is open = %v, want %v", c.name, c.code, bad, c.bad)
		}
	}
}
