package handlers

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/fleettest"
	"ballast/web/templates"
)

var (
	fleetSize = flag.Int("servers", 0, "with -serve: show a system of so many servers")
	renew     = flag.Bool("update", false, "write the golden files anew")
)

// grow puts the fixture's streams and consumers onto a system of n servers.
func (w *world) grow(n int) {
	big, rates := fleettest.System(n, w.snap.TakenAt)
	big.Streams, big.Consumers, big.Accounts, big.Conns = w.snap.Streams, w.snap.Consumers, w.snap.Accounts, w.snap.Conns
	rates.Streams, rates.Consumers = w.rates.Streams, w.rates.Consumers
	place := map[string]string{}
	for i, name := range []string{"n1", "n2", "n3"} {
		place[name] = big.Servers[i*(n-1)/2].Name
	}
	for i := range big.Streams {
		big.Streams[i].Leader = place[big.Streams[i].Leader]
	}
	for i := range big.Consumers {
		big.Consumers[i].Leader = place[big.Consumers[i].Leader]
	}
	w.snap, w.rates = big, rates
}

func TestMapOfThreeServersIsGolden(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.snap.Servers[2].State, w.snap.Servers[2].Error = fleet.Unreachable, "connection refused"
	w.snap.Routes = w.snap.Routes[:3] // n3's are gone
	got := ask(t, w, "/topology/svg?overlay=traffic&split=orders").Body.Bytes()
	got = bytes.ReplaceAll(got, []byte("><"), []byte(">\n<"))
	golden := filepath.Join("testdata", "topology-3.svg")
	if *renew {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		g, wl := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i := range min(len(g), len(wl)) {
			if g[i] != wl[i] {
				t.Fatalf("line %d differs; run with -update if that is wanted\n got %s\nwant %s", i+1, g[i], wl[i])
			}
		}
		t.Fatalf("the drawing has %d lines, want %d", len(g), len(wl))
	}
	for _, must := range []string{`class="nd t-crit"`, "unreachable", "60 % set", "59.9 % seen", `id="topo"`} {
		if !bytes.Contains(got, []byte(must)) {
			t.Errorf("the drawing does not contain %q", must)
		}
	}
}

func TestMapsStaySmall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ servers, limit int }{{3, 16 << 10}, {30, 40 << 10}, {200, 150 << 10}} {
		w := newWorld()
		w.grow(tc.servers)
		for _, overlay := range []string{"links", "traffic", "streams"} {
			rec := ask(t, w, "/topology/svg?overlay="+overlay)
			if rec.Code != http.StatusOK || rec.Body.Len() > tc.limit {
				t.Errorf("%d servers, %s: %d with %d bytes, want 200 with at most %d", tc.servers, overlay, rec.Code, rec.Body.Len(), tc.limit)
			}
			if n := strings.Count(rec.Body.String(), `class="nd `); n != tc.servers {
				t.Errorf("%d servers, %s: %d are drawn", tc.servers, overlay, n)
			}
		}
	}
}

func TestTheHashIsTheStructure(t *testing.T) {
	t.Parallel()
	hash := func(change func(*world)) string {
		w := newWorld()
		change(w)
		sc, err := New(w.deps()).scene(context.Background(), topoArgs{mode: "traffic", split: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		return sc.drawing().Hash
	}
	same := hash(func(*world) {})
	for name, change := range map[string]func(*world){
		"figures": func(w *world) {
			w.snap.Servers[0].CPU, w.snap.Servers[1].Conns = 77, 4711
			w.rates.Servers["n1"] = fleet.LinkRate{InMsgs: 9999}
			w.load["worker-east-1"] = load{rate: 3, p50: 900, sigma: 0.1}
		},
		"a restart": func(w *world) {
			w.snap.Servers[0].ID, w.snap.Servers[0].Start = "again", epoch
			for i, r := range w.snap.Routes {
				if r.From == "Sn1" {
					w.snap.Routes[i].From = "again"
				}
				if r.To == "Sn1" {
					w.snap.Routes[i].To = "again"
				}
			}
		},
	} {
		if got := hash(change); got != same {
			t.Errorf("%s: the drawing would be sent anew, although nothing of its structure changed", name)
		}
	}
	for name, change := range map[string]func(*world){
		"a server that does not answer": func(w *world) { w.snap.Servers[0].State = fleet.Unreachable },
		"a server more": func(w *world) {
			w.snap.Servers = append(w.snap.Servers, fleet.Server{ID: "4", Name: "n4", Cluster: "demo", At: epoch})
		},
		"a route less": func(w *world) { w.snap.Routes = w.snap.Routes[:2] },
		"a weight": func(w *world) {
			w.splits[0].Split = w.splits[0].Split.WithWeights(map[string]int{"worker-east-1": 50, "worker-west-1": 40})
		},
		"a consumer's leader": func(w *world) { w.snap.Consumers[1].Leader = "n3" },
		"the meta leader": func(w *world) {
			for i := range w.snap.Servers {
				w.snap.Servers[i].JetStream.MetaLeader = "n1"
			}
		},
	} {
		if hash(change) == same {
			t.Errorf("%s: nobody would see it", name)
		}
	}
}

func TestMissingRouteIsLoud(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.snap.Routes = w.snap.Routes[:2] // only n1 reports its routes
	body := ask(t, w, "/topology").Body.String()
	for _, want := range []string{"2/3 routes", "1 link missing"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestOldFiguresAreNotShownAsNew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fleet.Server){
		"unreachable": func(srv *fleet.Server) { srv.State = fleet.Unreachable },
		"no news":     func(srv *fleet.Server) { srv.At = epoch.Add(-time.Minute) },
	} {
		w := newWorld()
		change(&w.snap.Servers[1])
		up, err := New(w.deps()).topologyTopic(context.Background(), topicArg(topoArgs{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, col := range []string{".cpu", ".mem", ".conns", ".in", ".out"} {
			if got := up.Text["topo."+serverID(&w.snap.Servers[1])+col]; got != none {
				t.Errorf("%s: %s is shown as %q", name, col, got)
			}
			if got := up.Text["topo."+serverID(&w.snap.Servers[0])+col]; got == none {
				t.Errorf("%s: %s of a server that is well is not shown", name, col)
			}
		}
	}
}

func TestInspectorHasItsOwnURL(t *testing.T) {
	t.Parallel()
	w := newWorld()
	body := ask(t, w, "/topology?server=n2").Body.String()
	for _, want := range []string{"meta leader", "orders / worker-east-1", "127.0.0.1:4223", `data-chart="server-cpu"`, "n1", "n3"} {
		if !strings.Contains(body, want) {
			t.Errorf("the details of n2 do not say %q", want)
		}
	}
	if rec := ask(t, w, "/topology?server=nobody"); rec.Code != http.StatusNotFound {
		t.Errorf("a server that was never seen: %d, want 404", rec.Code)
	}
	if rec := ask(t, w, "/topology?overlay=magic"); rec.Code != http.StatusUnprocessableEntity {
		t.Errorf("an overlay that there is not: %d, want 422", rec.Code)
	}
}

func TestTopologyBeforeTheFirstLook(t *testing.T) {
	t.Parallel()
	w := emptyWorld()
	w.snap.Problems = []fleet.Problem{{Where: "nats://127.0.0.1:4222", What: "connection refused.", Hint: "Start the server."}}
	rec := ask(t, w, "/topology")
	if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "No server was seen yet") || !strings.Contains(rec.Body.String(), "connection refused. Start the server.") {
		t.Errorf("%d: the page does not say what is missing", rec.Code)
	}
	for _, url := range []string{"/topology/svg", "/topology.json", "/topology.csv", "/servers.json", "/consumers.csv", "/metrics"} {
		if rec := ask(t, w, url); rec.Code != http.StatusOK {
			t.Errorf("%s: %d, want 200", url, rec.Code)
		}
	}
}

func TestFilesSayWhatTheMapSays(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var doc topoDoc
	if err := json.Unmarshal(ask(t, w, "/topology.json").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Clusters) != 1 || len(doc.Clusters[0].Servers) != 3 || doc.Clusters[0].Routes != 3 || len(doc.Splits) != 2 || doc.Splits[0].Targets[0].Server != "n2" {
		t.Errorf("topology.json = %+v", doc)
	}
	rows, err := csv.NewReader(ask(t, w, "/topology.csv").Body).ReadAll()
	if err != nil || len(rows) != 1+3+6 {
		t.Errorf("topology.csv has %d rows, %v, want a header, 3 servers and 6 routes", len(rows), err)
	}
	rows, err = csv.NewReader(ask(t, w, "/servers.csv?q=n2").Body).ReadAll()
	if err != nil || len(rows) != 2 || rows[1][0] != "n2" {
		t.Errorf("servers.csv?q=n2 = %v, %v, want n2 alone", rows, err)
	}
	var consumers []consumerDoc
	if err := json.Unmarshal(ask(t, w, "/consumers.json?q=east").Body.Bytes(), &consumers); err != nil || len(consumers) != 1 || consumers[0].Target != "orders/worker-east-1" || consumers[0].Pending != 812 {
		t.Errorf("consumers.json?q=east = %+v, %v", consumers, err)
	}
}

func TestHostileNamesOnTheMap(t *testing.T) {
	t.Parallel()
	for _, name := range []string{`<script>alert(1)</script>`, `"><svg onload=x>`, `a' onmouseover='x`, "=HYPERLINK(1)", "\u202eevil", "a b/../c?d#e", "javascript:alert(1)", strings.Repeat("x", 500)} {
		w := newWorld()
		w.snap.Servers[0].Name, w.snap.Servers[0].Cluster, w.snap.Servers[0].Error, w.snap.Servers[0].Version = name, name, name, name
		w.snap.Consumers[1].Leader = name
		w.snap.Leafs = []fleet.Leaf{{Server: "Sn1", Name: name, Account: name}}
		for _, url := range []string{"/topology", "/topology?overlay=streams", "/topology/svg"} {
			rec := ask(t, w, url)
			body := rec.Body.String()
			for _, bad := range []string{"<script>alert", "<svg onload", "onmouseover='x", `href="javascript:`} {
				if strings.Contains(body, bad) {
					t.Errorf("%s: the name %q reached the page as %q", url, name, bad)
				}
			}
			if rec.Code != http.StatusOK {
				t.Errorf("%s: %d with the name %q", url, rec.Code, name)
			}
		}
		if rec := ask(t, w, "/servers.csv"); strings.Contains(rec.Body.String(), "\n=") || strings.HasPrefix(rec.Body.String(), "=") {
			t.Errorf("the name %q is a formula in the CSV", name)
		}
	}
}

func TestTopologyTopic(t *testing.T) {
	t.Parallel()
	w := newWorld()
	s := New(w.deps())
	sc, err := s.scene(context.Background(), topoArgs{})
	if err != nil {
		t.Fatal(err)
	}
	up, err := s.topologyTopic(context.Background(), topicArg(topoArgs{}))
	if err != nil {
		t.Fatal(err)
	}
	if got := up.Data.(map[string]string)["topology"]; got != sc.drawing().Hash {
		t.Errorf("hash of the topic is %s, of the page %s: the drawing would be sent for ever", got, sc.drawing().Hash)
	}
	page := ask(t, w, "/topology").Body.String()
	for key := range up.Text {
		if strings.HasPrefix(key, "topo.") && !strings.Contains(page, `data-k="`+key+`"`) && !strings.Contains(key, ".share") && !strings.Contains(key, htmlID("f", "payments")) && !strings.HasSuffix(key, ".seen") {
			t.Errorf("the stream sends %s, which the page does not show", key)
		}
	}
	for key := range up.Attr {
		id, _, _ := strings.Cut(key, " ")
		if !strings.Contains(page, `id="`+id+`"`) && !strings.Contains(key, "-bar") {
			t.Errorf("the stream sets an attribute of %s, which the page does not have", id)
		}
	}
}

func BenchmarkTopology(b *testing.B) {
	for _, n := range []int{3, 30, 200} {
		w := newWorld()
		w.grow(n)
		s := New(w.deps())
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sc, err := s.scene(context.Background(), topoArgs{mode: "traffic"})
				if err != nil {
					b.Fatal(err)
				}
				var buf bytes.Buffer
				if err := templates.TopoSVG(sc.drawing()).Render(context.Background(), &buf); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(buf.Len()))
			}
		})
	}
}
