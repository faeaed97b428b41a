package store

import (
	"fmt"
	"testing"
	"time"

	"ballast/fleet"
)

// micro is an instance of the service "pay" with one endpoint.
func micro(id string, at, started time.Time, requests, errs uint64, busy time.Duration, data string) fleet.Service {
	return fleet.Service{Account: "APP", Name: "pay", ID: id, Started: started, At: at, Endpoints: []fleet.Endpoint{
		{Name: "charge", Subject: "pay.charge", Requests: requests, Errors: errs, ProcessingTime: busy, Data: []byte(data)}}}
}

// A service's rates are those of all its instances: one that begins counts from
// zero, one that ends takes nothing with it.
func TestServicesAreSummedOverTheirInstances(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	start := c.now()
	at := start
	for i := range 200 {
		s := look(c.add(time.Second), i)
		if i%3 == 0 {
			at = c.now()
		}
		// a serves 10 a second from before the first look on, 2 ms each, one of ten
		// wrongly; b joins after 60 s, serves 20 a second and leaves after 120 s.
		n := uint64(at.Sub(start) / time.Second)
		s.Services = []fleet.Service{micro("a", at, born, 1000+10*n, n, time.Duration(10*n)*2*time.Millisecond, `{"cpu":40,"mem":1000}`)}
		if n >= 60 && n < 120 {
			s.Services = append(s.Services, micro("b", at, start.Add(59*time.Second), 20*(n-59), 0, time.Duration(20*(n-59))*2*time.Millisecond, `{"cpu":20,"mem":500}`))
		}
		put(t, db, s)
	}
	check := func(what string, db *DB) {
		t.Helper()
		of := func(e fleet.Entity, col string, from, to int) float64 {
			t.Helper()
			r := fleet.Range{From: start.Add(time.Duration(from) * time.Second), To: start.Add(time.Duration(to) * time.Second)}
			s := series(t, db, e.Kind, e.Key, col, r, 5)
			points := measured(s)
			if len(points) == 0 || len(points) != len(s.Data) {
				t.Fatalf("%s: %s of %v from %d to %d: %v", what, col, e, from, to, s.Data)
			}
			sum := 0.0
			for _, p := range points {
				sum += p.Avg
			}
			return sum / float64(len(points))
		}
		for _, e := range []fleet.Entity{fleet.MicroEntity("APP", "pay"), fleet.EndpointEntity("APP", "pay", "charge")} {
			for _, tt := range []struct {
				from, to                   int
				rate, errs, busy, instance float64
			}{{10, 58, 10, 1, 20_000, 1}, {70, 115, 30, 1, 60_000, 2}, {125, 195, 10, 1, 20_000, 1}} {
				near(t, what+" rate", of(e, fleet.ColServed, tt.from, tt.to), tt.rate)
				near(t, what+" errors", of(e, fleet.ColErrors, tt.from, tt.to), tt.errs)
				near(t, what+" busy", of(e, fleet.ColServing, tt.from, tt.to), tt.busy)
				near(t, what+" instances", of(e, fleet.ColInstances, tt.from, tt.to), tt.instance)
			}
		}
		near(t, what+" cpu", of(fleet.MicroEntity("APP", "pay"), fleet.ColCPU, 70, 115), 30)
		near(t, what+" memory", of(fleet.MicroEntity("APP", "pay"), fleet.ColMem, 70, 115), 1500)
	}
	check("in memory", db)
	check("after a kill", openTest(t, copyDir(t, dir), c, Options{}))
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("sealed", db)

	// The whole course, row by row.
	rows := 0
	for row, err := range db.Export(t.Context(), fleet.ExportQuery{Entity: fleet.MicroEntity("APP", "pay"), Range: fleet.Range{From: start, To: c.now()}}) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
		if len(row.Points) != 6 {
			t.Fatalf("a row has %d columns", len(row.Points))
		}
	}
	if rows < 38 {
		t.Errorf("%d rows of 200 s, 5 s apart", rows)
	}
	// A service that went is shown without instances for some minutes.
	for i := range 10 {
		s := look(c.add(time.Second), 200+i)
		s.Services = []fleet.Service{{Account: "APP", Name: "other", ID: "x", At: c.now()}}
		put(t, db, s)
	}
	left := series(t, db, fleet.KindMicro, "APP/pay", fleet.ColInstances, fleet.Range{From: c.now().Add(-9 * time.Second), To: c.now()}, 3)
	if points := measured(left); len(points) == 0 || points[len(points)-1].Avg != 0 {
		t.Errorf("instances of a service that went: %v", left.Data)
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want*0.99-0.01 || got > want*1.01+0.01 {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// connected are n connections in sums, as the collector hands them over.
func connected(at time.Time, clients map[string]int) []fleet.ConnSum {
	n := 0
	for _, k := range clients {
		n += k
	}
	return []fleet.ConnSum{{Server: "S1", Account: "APP", Conns: n, Subs: 2 * n, Pending: int64(3 * n), InMsgs: 7, Clients: clients, At: at}}
}

// Connections are recorded by server and account and by client library, a look
// a minute, and a look that comes a little late is no gap.
func TestConnectionsAreSummed(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 5 * time.Second})
	start := c.now()
	at := start
	for i := range 300 {
		s := look(c.add(5*time.Second), 5*i)
		if due := 12 + i%2; i == 0 || s.TakenAt.Sub(at) >= time.Duration(due)*5*time.Second {
			at = s.TakenAt
		}
		s.ConnSums = connected(at, map[string]int{"go 1.55.0": 4, "rust 0.40": 2, "other": 1})
		put(t, db, s)
	}
	r := fleet.Range{From: start.Add(2 * time.Minute), To: c.now()}
	for key, want := range map[fleet.Entity]map[string]float64{
		fleet.ConnsEntity("n1", "APP"):              {fleet.ColConns: 7, fleet.ColSubs: 14, fleet.ColPending: 21},
		{Kind: fleet.KindClients, Key: "go 1.55.0"}: {fleet.ColConns: 4},
		{Kind: fleet.KindClients, Key: "other"}:     {fleet.ColConns: 1},
	} {
		for col, v := range want {
			s := series(t, db, key.Kind, key.Key, col, r, 300)
			points := measured(s)
			if len(points) < 20 || len(points) != len(s.Data) || s.Step < time.Minute {
				t.Errorf("%v: %d points of %d, %v apart", key, len(points), len(s.Data), s.Step)
			}
			for _, p := range points {
				if p.Avg != v {
					t.Errorf("%v: %s = %v, want %v", key, col, p.Avg, v)
				}
			}
		}
	}
}

// Names come from clients: however many come and go, the series stay few.
func TestSumsStayBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	for i := range 200 {
		s := look(c.add(time.Second), i)
		clients := map[string]int{}
		for k := range 50 { // 10,000 connections, each of a client of its own
			clients[fmt.Sprint("liar ", i*50+k)] = 1
		}
		s.ConnSums = connected(s.TakenAt, clients)
		for k := range 50 {
			sv := micro(fmt.Sprint("id", k), s.TakenAt, s.TakenAt, 1, 0, 0, "")
			sv.Name = fmt.Sprint("liar", i*50+k)
			s.Services = append(s.Services, sv)
		}
		put(t, db, s)
	}
	counts := map[fleet.Kind]int{}
	for ref := range db.entities {
		counts[ref.kind]++
	}
	if n := counts[fleet.KindClients]; n != maxClientele+1 {
		t.Errorf("%d client libraries, want %d and the rest", n, maxClientele)
	}
	if n := counts[fleet.KindMicro]; n != maxMicros {
		t.Errorf("%d services, want %d", n, maxMicros)
	}
	if n := counts[fleet.KindEndpoint]; n > maxMethods {
		t.Errorf("%d endpoints, want at most %d", n, maxMethods)
	}
	if n := counts[fleet.KindConns]; n != 1 {
		t.Errorf("%d sums of connections, want 1", n)
	}
	var rows int
	if err := db.metrics.r.QueryRow("SELECT count(*) FROM entity").Scan(&rows); err != nil || rows != len(db.entities) {
		t.Errorf("%d rows, %d in memory, %v", rows, len(db.entities), err)
	}
	if n := len(db.served.instances); n > 2000 {
		t.Errorf("%d instances are remembered", n)
	}
	last := series(t, db, fleet.KindClients, "other", fleet.ColConns, fleet.Range{From: c.now().Add(-time.Second), To: c.now().Add(time.Second)}, 2)
	if points := measured(last); len(points) == 0 || points[0].Avg != 50 {
		t.Errorf("the rest = %v, want 50", last.Data)
	}
}
