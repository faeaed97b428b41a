package collector

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// moving is a monitoring URL behind which another server can be put.
func moving(t *testing.T, to string) (at string, move func(to string)) {
	t.Helper()
	var target atomic.Pointer[url.URL]
	move = func(to string) {
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		target.Store(u)
	}
	move(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := httputil.NewSingleHostReverseProxy(target.Load())
		p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL, move
}

// Two servers of one name live, one of them ends and comes back: its series go
// on under its name, and the other's never do.
func TestNamesakesAreNotMixedByARestart(t *testing.T) {
	t.Parallel()
	config := natstest.Config("server_name: twin\n")
	a, b := natstest.Server(t, config), natstest.Server(t, config)
	at, move := moving(t, natstest.MonitorURL(a))
	m := collect(t, Config{Monitor: []string{at, natstest.MonitorURL(b)}})
	named := func(id string) fleet.Server {
		for _, s := range m.latest().Servers {
			if s.ID == id {
				return s
			}
		}
		return fleet.Server{}
	}
	wait.For(t, patience, "both", func() bool { return named(a.ID()).Name != "" && named(b.ID()).Name != "" })
	nameA, nameB := named(a.ID()).Name, named(b.ID()).Name
	// Both must have run beside each other for longer than clocks are trusted.
	wait.For(t, patience, "an answer of the first well after the start of the second", func() bool {
		return named(a.ID()).At.Sub(named(b.ID()).Start) > 2*clockDoubt
	})
	a.Shutdown()
	a.WaitForShutdown()
	wait.For(t, patience, "the end of the first", func() bool { return named(a.ID()).State == fleet.Unreachable })
	if got := named(b.ID()); got.Name != nameB || got.State != fleet.Healthy {
		t.Errorf("the other one is %s %q, want %q as before", got.State, got.Name, nameB)
	}
	again := natstest.Server(t, config)
	move(natstest.MonitorURL(again))
	wait.For(t, patience, "its return", func() bool { return named(again.ID()).State == fleet.Healthy })
	s := m.latest()
	if len(s.Servers) != 2 || named(again.ID()).Name != nameA || named(b.ID()).Name != nameB {
		t.Errorf("%d servers; the one that came back is %q, want %q; the other %q, want %q", len(s.Servers), named(again.ID()).Name, nameA, named(b.ID()).Name, nameB)
	}
	if !m.has("server.restarted", nameA) || m.has("server.restarted", nameB) {
		t.Errorf("events %q, want one restart, of %s", m.kinds(), nameA)
	}
	// The same ids never change their names, in no look.
	for _, look := range m.all() {
		for _, srv := range look.Servers {
			if srv.ID == b.ID() && srv.Name != nameB {
				t.Fatalf("the other one was called %q in one look", srv.Name)
			}
		}
	}
}

func TestUniqueNames(t *testing.T) {
	t.Parallel()
	at := func(id string, alive bool) seen {
		return seen{look: &look{server: fleet.Server{ID: id, Name: "n", Start: time.Unix(int64(id[0]), 0)}}, alive: alive}
	}
	before := func(of ...string) *fleet.Snapshot { // id, name
		s := &fleet.Snapshot{}
		for i := 0; i < len(of); i += 2 {
			s.Servers = append(s.Servers, fleet.Server{ID: of[i], Name: of[i+1]})
		}
		return s
	}
	for what, c := range map[string]struct {
		all    []seen
		before *fleet.Snapshot
		want   string
		told   bool
	}{
		"one":                         {[]seen{at("A", true)}, nil, "", false},
		"two, the older is plain":     {[]seen{at("B", true), at("A", true)}, nil, "B=n#B", true},
		"two, each keeps its own":     {[]seen{at("A", true), at("B", true)}, before("A", "n#A", "B", "n"), "A=n#A", true},
		"the namesake is gone":        {[]seen{at("B", true)}, before("A", "n", "B", "n#B"), "B=n#B", false},
		"the namesake is silent":      {[]seen{at("A", false), at("B", true)}, before("A", "n", "B", "n#B"), "B=n#B", false},
		"the namesake came back":      {[]seen{at("C", true), at("B", true)}, before("A", "n", "B", "n#B"), "B=n#B", true},
		"a name of quite another one": {[]seen{at("B", true)}, before("B", "else"), "", false},
	} {
		names, problems := uniqueNames(c.all, c.before)
		var got []string
		for id, n := range names {
			got = append(got, id+"="+n)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want || len(problems) > 0 != c.told {
			t.Errorf("%s: %q, %d problems, want %q, told %v", what, got, len(problems), c.want, c.told)
		}
	}
}
