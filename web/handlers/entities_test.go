package handlers

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

// seen adds what the fixture of the splits has no need of: connections, a second
// cluster with a gateway, a leaf node, settings of an account, an owner's limits.
func seen() *world {
	w := newWorld()
	s := w.snap
	at := s.TakenAt
	s.Conns = []fleet.Conn{
		{Server: "Sn1", CID: 7, Name: "orders-api", Account: "APP", User: "app", Lang: "go", Version: "1.55.0", IP: "10.0.0.7", RTT: 4 * time.Millisecond, Pending: 2048, Subs: 3, InMsgs: 90, OutMsgs: 12, Start: at.Add(-time.Hour), Idle: "2s", At: at},
		{Server: "Sn2", CID: 8, Name: "billing", Account: "APP", Lang: "python3", Version: "2.9.0", IP: "10.0.0.8", Pending: 0, Subs: 1, InMsgs: 5, OutMsgs: 900, Start: at.Add(-time.Minute), Idle: "0s", At: at},
	}
	s.ConnSums = []fleet.ConnSum{
		{Server: "Sn1", Account: "APP", Conns: 12, Subs: 80, Pending: 2048, Clients: map[string]int{"go 1.55.0": 9, "python3 2.9.0": 3}, At: at},
		{Server: "Sn2", Account: "APP", Conns: 13, Subs: 50, At: at},
	}
	s.Gateways = []fleet.Gateway{{From: "Sn1", FromCluster: "demo", ToCluster: "far", RTT: 31 * time.Millisecond, At: at}}
	s.Leafs = []fleet.Leaf{{Server: "Sn1", Name: "edge-7", Account: "APP", IP: "10.9.9.9", RTT: 12 * time.Millisecond, At: at}}
	s.Accounts[1].Settings = &fleet.AccountSettings{System: true, Exports: 4, At: at}
	s.Streams[0].MaxBytes, s.Streams[0].MaxAge = 64<<20, time.Hour
	s.Streams[0].Limits = &fleet.Thresholds{MsgsCritical: 100_000, PeerLag: 50}
	s.Streams[1].Peers[0].Offline, s.Streams[1].Peers[0].Current = true, false
	return w
}

func TestServersPage(t *testing.T) {
	t.Parallel()
	w := seen()
	w.snap.Expected = 4
	w.snap.Servers[2].State, w.snap.Servers[2].Error = fleet.Unreachable, "connection refused"
	st := newSite(t, w)
	st.get("/servers").status(200).says("servers", "unreachable").says("servers", "120 MiB").says("main", "2 of 3 servers up").says("main", "Seen 3 of 4")
	if got := text(st.get("/servers?sort=-cpu&q=n").id("servers")); strings.Index(got, "n3") > strings.Index(got, "n1") {
		t.Errorf("the busiest server does not come first: %s", got)
	}
	st.get("/servers?cluster=far").says("servers", "None fits the filter.")
	st.get("/servers?sort=nothing").status(422)
	newSite(t, emptyWorld()).get("/servers").status(200).says("servers", "No servers")

	a := st.get("/servers/n1").status(200)
	for _, want := range []string{"127.0.0.1:4222", "far", "gateway", "31 ms", "edge-7", "leaf node", "route", "Streams it leads", "ORDERS", "120 MiB of 4.00 GiB, 2.9 %"} {
		a.says("main", want)
	}
	st.get("/servers/n2").says("main", "leads the meta group")
	st.get("/servers/n3").says("main", "n3 restarted; its counters began again.").says("main", "connection refused")
	st.get("/servers/nobody").status(404)
	var one []serverLine
	if err := json.Unmarshal(st.get("/servers/n2.json").status(200).Body.Bytes(), &one); err != nil || len(one) != 1 || one[0].ID != "Sn2" || one[0].InMsgs != 1_200_000 || one[0].StoreLimit != 4<<30 {
		t.Errorf("n2 as JSON: %+v, %v", one, err)
	}
}

// Two servers of one name are two rows, and each has its page.
func TestTwoServersOfOneName(t *testing.T) {
	t.Parallel()
	w := seen()
	w.snap.Servers[1].Name = "n1"
	st := newSite(t, w)
	st.get("/servers").status(200).says("servers", "Sn1").says("servers", "Sn2")
	st.get("/servers/n1?id=Sn2").status(200).says("main", "127.0.0.1:4223")
	st.get("/servers/n1?id=Sn1").status(200).says("main", "127.0.0.1:4222")
}

func TestStreamsPage(t *testing.T) {
	t.Parallel()
	st := newSite(t, seen())
	st.get("/streams").status(200).says("streams", "1 replica offline").says("streams", "91,222").says("main", "2 streams; 182,444 messages, 42.0 MiB")
	st.get("/streams?q=payments.").says("streams", "PAYMENTS")
	st.get("/streams?server=n2").says("streams", "None fits the filter.")
	newSite(t, emptyWorld()).get("/streams").status(200).says("streams", "No streams")
	a := st.get("/streams/APP/ORDERS").status(200)
	for _, want := range []string{"64.0 MiB", "33 %", "msgs-critical", "100,000", "worker-east-1", "n2", "follower", "orders.>"} {
		a.says("main", want)
	}
	st.get("/streams/APP/NOTHING").status(404)
	st.get("/charts/stream-messages?account=APP&stream=ORDERS").status(200).says("main", "owner: msgs-critical 100,000")
	var one []streamLine
	if err := json.Unmarshal(st.get("/streams/APP/ORDERS.json").status(200).Body.Bytes(), &one); err != nil || len(one) != 1 || one[0].LastSeq != 91_222 || one[0].MaxAge != 3600 {
		t.Errorf("ORDERS as JSON: %+v, %v", one, err)
	}
}

func TestConnectionsPage(t *testing.T) {
	t.Parallel()
	st := newSite(t, seen())
	a := st.get("/connections").status(200).says("connections", "orders-api").says("connections", "cid 7, go 1.55.0").says("connections", "2.00 KiB").says("main", "of 39 in all")
	if got := text(a.id("connections")); strings.Index(got, "billing") < strings.Index(got, "orders-api") {
		t.Errorf("what waits most does not come first: %s", got)
	}
	st.get("/connections?q=10.0.0.8").says("connections", "billing")
	a.says("main", "Sums by server and account")
	st.get("/connections/sums").status(200).says("main", "The busiest").says("connection-sums", "go 1.55.0 ×9, python3 2.9.0 ×3").says("main", "25 connections")
	rows, err := csv.NewReader(st.get("/connections/sums.csv").status(200).Body).ReadAll()
	if err != nil || len(rows) != 3 || rows[1][0] != "n2" || rows[1][3] != "13" {
		t.Errorf("sums.csv = %v, %v", rows, err)
	}
}

func TestAccountsPage(t *testing.T) {
	t.Parallel()
	st := newSite(t, seen())
	st.get("/accounts").status(200).says("accounts", "system account").says("accounts", "42.0 MiB").says("main", "2 accounts, 22 connections")
	st.get("/accounts/APP").status(200).says("main", "ORDERS").says("main", "21")
	st.get("/accounts/SYS").status(200).says("main", "Exports")
	st.get("/accounts/NOBODY").status(404)
	var all []accountLine
	if err := json.Unmarshal(st.get("/accounts.json").status(200).Body.Bytes(), &all); err != nil || len(all) != 2 || all[0].Streams != 2 || all[0].Consumers != 5 || !all[1].System {
		t.Errorf("accounts.json = %+v, %v", all, err)
	}
}

// Connections and services of the past are shown like those of now, with how
// exactly the moment is known; the charts of the sums are a click away.
func TestConnectionsOfThePast(t *testing.T) {
	t.Parallel()
	st := newSite(t, seen())
	then := epoch.Add(-10 * time.Minute)
	for path, want := range map[string]string{"/connections": "orders-api", "/connections/sums": "python3 2.9.0 ×3", "/services": "Own figures"} {
		st.get(path+"?at="+then.Format(time.RFC3339)).status(200).says("main", want).says("main", "as of the last full minute or so")
		if body := st.get(path).status(200).Body.String(); strings.Contains(body, "as of the last full minute") {
			t.Errorf("%s of now is said to be of the past", path)
		}
	}
	// What moves with every message is not kept, and is not shown as nothing.
	st.get("/consumers/APP/ORDERS/worker-east-1?at="+then.Format(time.RFC3339)).status(200).says("main", "Last delivery not kept")
	st.get("/streams/APP/ORDERS?at="+then.Format(time.RFC3339)).status(200).says("main", "not kept")
	st.get("/charts/connections?server=n2&account=APP").status(200).says("main", "Connections")
	st.get("/charts/connections.json?server=n2&account=APP").status(200)
	st.get("/charts/clients").status(200).says("main", "go 1.55.0").says("main", "python3 2.9.0")
	if body := st.get("/connections/sums").Body.String(); !strings.Contains(body, "/charts/connections?account=APP&amp;server=n2") {
		t.Error("the sums do not lead to their charts")
	}
}

// Names that an attacker chose are text wherever they stand, and lead to their
// own pages.
func TestHostileNamesOfThings(t *testing.T) {
	t.Parallel()
	for _, name := range []string{`<script>alert(1)</script>`, `"><svg onload=x>`, `a' onmouseover='x`, "=HYPERLINK(1)", "\u202eevil", "a b/../c?d#e", "javascript:alert(1)", "100%", "..", "x.json", strings.Repeat("x", 500)} {
		w := seen()
		s := w.snap
		s.Servers[0].Name, s.Servers[0].Tags, s.Servers[0].Error = name, []string{name}, name
		s.Streams[0].StreamKey = fleet.StreamKey{Account: name, Stream: name}
		s.Streams[0].Subjects = []string{name}
		s.Accounts[0].Name = name
		s.Conns[0].Name, s.Conns[0].Account, s.Conns[0].User, s.Conns[0].Lang = name, name, name, name
		s.ConnSums[0].Account, s.ConnSums[0].Clients = name, map[string]int{name: 1}
		s.Leafs[0].Name = name
		st := newSite(t, w)
		for _, path := range []string{"/servers", "/streams", "/connections", "/connections/sums", "/accounts", serverURL(name), streamURL(s.Streams[0].StreamKey), accountURL(name)} {
			a := st.get(path).status(200)
			for _, bad := range []string{"<script>alert", "<svg onload", "onmouseover='x", `href="javascript:`} {
				if strings.Contains(a.Body.String(), bad) {
					t.Errorf("%s: the name %q reached the page as %q", path, name, bad)
				}
			}
		}
		for _, path := range []string{"/servers.csv", "/streams.csv", "/connections.csv", "/connections/sums.csv", "/accounts.csv"} {
			if body := st.get(path).status(200).Body.String(); strings.Contains(body, "\n=") || strings.Contains(body, ",=") {
				t.Errorf("%s: the name %q is a formula in the CSV", path, name)
			}
		}
	}
}

// The live stream of a list and of a thing says what their pages say.
func TestThingsAreLive(t *testing.T) {
	t.Parallel()
	w := seen()
	s := New(w.deps())
	for topic, want := range map[string]string{
		"servers:":                         "2.15.2",
		"server:name=n1":                   "gateway",
		"streams:":                         "ORDERS",
		"stream:account=APP&stream=ORDERS": "worker-east-1",
		"connections:":                     "orders-api",
		"connection-sums:":                 "python3",
		"accounts:":                        "APP",
		"account:account=APP":              "ORDERS",
	} {
		kind, arg, _ := strings.Cut(topic, ":")
		up, err := s.topics()[kind](t.Context(), arg)
		if err != nil {
			t.Errorf("%s: %v", topic, err)
			continue
		}
		var all strings.Builder
		for id, p := range up.Parts {
			html, err := markup(t.Context(), p.Component)
			if err != nil {
				t.Errorf("%s: part %s: %v", topic, id, err)
			}
			all.Write(html)
		}
		if !strings.Contains(all.String(), want) {
			t.Errorf("%s does not show %q", topic, want)
		}
	}
	if _, err := s.topics()["stream"](t.Context(), "account=APP&stream=GONE"); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("a stream that is gone: %v", err)
	}
}

// BenchmarkLists asks for the pages of a large system: 500 streams, 5,000
// consumers, 2,000 connections.
func BenchmarkLists(b *testing.B) {
	w := manyConsumers(5000)
	for i := range 500 {
		w.snap.Streams = append(w.snap.Streams, fleet.Stream{StreamKey: fleet.StreamKey{Account: "APP", Stream: fmt.Sprintf("S%d", i)}, Subjects: []string{"s.>"}, Replicas: 1, At: w.snap.TakenAt})
	}
	for i := range 2000 {
		w.snap.Conns = append(w.snap.Conns, fleet.Conn{Server: "Sn1", CID: uint64(i), Name: fmt.Sprintf("c%d", i), Account: "APP", Pending: int64(i), At: w.snap.TakenAt})
	}
	h := New(w.deps()).Handler()
	for _, path := range []string{"/servers", "/streams", "/connections", "/accounts", "/servers/n1", "/streams/APP/S7", "/streams.csv",
		"/consumers", "/consumers?sort=-arrived", "/consumers.json", "/consumers.csv", "/connections?sort=-pending", "/connections.json"} {
		b.Run(strings.ReplaceAll(path[1:], "/", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rec, req := newRequest(path)
				req.Header.Set("Accept-Encoding", "gzip") // as browsers ask
				h.ServeHTTP(rec, req)
				if rec.Code != 200 {
					b.Fatal(path, rec.Code)
				}
			}
		})
	}
}
