package collector

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

func TestMicroServices(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	m := collect(t, Config{Conn: natstest.Connect(t, srv.ClientURL()), Account: "$G"})
	wait.For(t, patience, "a look", func() bool { return !m.latest().TakenAt.IsZero() })
	if s := m.latest(); len(s.Services) != 0 || slices.ContainsFunc(s.Problems, func(p fleet.Problem) bool { return p.Where == "micro services" }) {
		t.Errorf("no service runs, but: %+v, problems %+v", s.Services, s.Problems)
	}
	var instances []micro.Service
	for i := range 3 {
		s, err := micro.AddService(nc, micro.Config{
			Name: "orders", Version: fmt.Sprintf("%d.0.0", i+1), Description: "takes orders", Metadata: map[string]string{"region": "eu"},
			StatsHandler: func(*micro.Endpoint) any { return map[string]float64{"cpu_pct": 12.5} },
			Endpoint: &micro.EndpointConfig{
				Subject: "orders.create", Handler: micro.HandlerFunc(func(r micro.Request) {
					if string(r.Data()) == "bad" {
						r.Error("500", "boom", nil)
						return
					}
					r.Respond(nil)
				}),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		instances = append(instances, s)
	}
	for i := range 30 {
		body := "good"
		if i%10 == 0 {
			body = "bad"
		}
		if _, err := nc.Request("orders.create", []byte(body), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	sums := func(s fleet.Snapshot) (requests, errors uint64) {
		for _, one := range s.Services {
			for _, e := range one.Endpoints {
				requests += e.Requests
				errors += e.Errors
			}
		}
		return requests, errors
	}
	wait.For(t, patience, "three instances and their counters", func() bool {
		s := m.latest()
		requests, errors := sums(s)
		return len(s.Services) == 3 && requests == 30 && errors == 3 && s.Services[0].Description != ""
	})
	for _, s := range m.latest().Services {
		e := s.Endpoints[0]
		if s.Account != "$G" || s.Name != "orders" || s.ID == "" || s.Version == "" || s.Metadata["region"] != "eu" || s.Description != "takes orders" ||
			s.Started.IsZero() || time.Since(s.At) > time.Minute || e.Subject != "orders.create" || e.Queue != "q" || !strings.Contains(string(e.Data), "cpu_pct") {
			t.Errorf("instance %+v", s)
		}
		if e.Requests > 0 && (e.Processing() <= 0 || e.AvgProcessing <= 0) {
			t.Errorf("endpoint %+v lacks its times", e)
		}
		if e.Errors > 0 && e.LastError != "500:boom" {
			t.Errorf("last error %q", e.LastError)
		}
	}
	if err := instances[0].Stop(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, patience, "two instances", func() bool { return len(m.latest().Services) == 2 })
}

// An impostor cannot take up more than its share, nor another one's name.
func TestPretendedServicesAreBounded(t *testing.T) {
	t.Parallel()
	answer := func(id string, data int) []byte {
		return fmt.Appendf(nil, `{"type":"io.nats.micro.v1.stats_response","name":"x","id":%q,"version":"1.0.0","endpoints":[{"name":"e","data":%q}]}`, id, strings.Repeat("x", data))
	}
	l := newServiceList("stats", "$G", t0)
	for _, b := range [][]byte{[]byte(`{"type":"io.nats.micro.v1.stats_response","name":"","id":""}`), []byte(`[`), answer("same", 8000), answer("same", 10)} {
		if !l.add(b) {
			t.Fatalf("%.80q ends the list", b)
		}
	}
	if len(l.list) != 1 || len(l.list[0].Endpoints[0].Data) != 0 {
		t.Errorf("list %+v, want one instance without its %d bytes of data", l.list, 8000)
	}
	n := 0
	for ; l.add(answer(fmt.Sprint("id", n), 10)); n++ {
	}
	if len(l.list) != maxServices || l.over != 1 || n != maxServices-1 {
		t.Errorf("%d instances, over %d, want %d and one too many", len(l.list), l.over, maxServices)
	}
	big := newServiceList("stats", "$G", t0)
	for n = 0; big.add(answer(fmt.Sprint("id", n), 1<<20)); n++ {
	}
	if n != 15 || big.over != 1 {
		t.Errorf("%d answers of 1 MiB were taken, want %d MiB together", n, maxServiceBytes>>20)
	}
	s := newServices(nil, time.Now)
	s.took(&servicesFound{stats: l.list, over: l.over}, nil)
	if len(s.list()) != maxServices || s.over == 0 {
		t.Error("nobody is told that there were more")
	}
}

// More connections than a page holds are all counted.
func TestAllConnectionsAreSummed(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts(), natstest.Config("server_name: solo\n"))
	const clients = connPage + 28
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	for i := range 8 {
		wg.Go(func() {
			for range clients/8 + (i+1)/8*(clients%8) {
				nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword), nats.Timeout(patience))
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					t.Cleanup(nc.Close)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	sys := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	for name, m := range map[string]*memory{
		"monitoring":     collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}, Interval: 300 * time.Millisecond}),
		"system account": collect(t, Config{System: sys, Interval: 300 * time.Millisecond}),
	} {
		wait.For(t, patience, "the sums by "+name, func() bool { return len(m.latest().ConnSums) > 0 })
		s := m.latest()
		i := slices.IndexFunc(s.ConnSums, func(c fleet.ConnSum) bool { return c.Account == "APP" })
		if i < 0 || s.ConnSums[i].Conns != clients || s.ConnSums[i].Server != s.Servers[0].ID || s.ConnSums[i].Clients["go "+nats.Version] != clients {
			t.Errorf("%s: %+v, want %d connections of APP", name, s.ConnSums, clients)
		}
		if len(s.Conns) == 0 || len(s.Conns) > maxConns {
			t.Errorf("%s: %d connections in detail, want at most %d", name, len(s.Conns), maxConns)
		}
		in := s.Servers[0].Internals
		if in == nil || in.Subs.Subs == 0 || in.Subs.Inserts == 0 {
			t.Errorf("%s: internals %+v, want the table of subscriptions", name, in)
		}
	}
}

func TestRaftGroupsAreSummed(t *testing.T) {
	t.Parallel()
	z := `{"APP":{"S-R3F-a":{"state":"LEADER","leader":"x","committed":9,"applied":9,"ipq_apply_len":2},
		"C-R3F-b":{"state":"FOLLOWER","leader":"","committed":50,"applied":10,"catching_up":true}},"$SYS":{"_meta_":{"state":"FOLLOWER","leader":"y"}}, "NONE":null}`
	got, err := readRaftz(decoder([]byte(z)))
	want := fleet.RaftTotals{Groups: 3, Leading: 1, Leaderless: 1, CatchingUp: 1, MaxLag: 40, MaxLagOf: "C-R3F-b", Waiting: 2}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

// Figures come in every round, configurations seldom, and a new consumer has its
// configuration in its first look.
func TestFiguresOftenConfigurationsSeldom(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	j := js(t, natstest.Connect(t, srv.ClientURL()))
	stream(t, j, "ORDERS", 1)
	consumer(t, j, "ORDERS", "east")
	target, err := url.Parse(natstest.MonitorURL(srv))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := map[string]int{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		if r.URL.Query().Get("config") != "" {
			asked["configs"]++
		}
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	const interval = 100 * time.Millisecond
	began := time.Now()
	m := collect(t, Config{Monitor: []string{front.URL}, Interval: interval})
	count := func(what string) int {
		mu.Lock()
		defer mu.Unlock()
		return asked[what]
	}
	wait.For(t, patience, "thirty looks", func() bool { return count("/varz") >= 30 && count("/jsz") >= 15 })
	// A busy machine makes the rounds longer, but not the time between two
	// questions for configurations shorter.
	n, all := count("configs"), count("/jsz")
	if rounds := int(time.Since(began) / interval); n < 2 || n >= all || n > 2+rounds/(everyRounds[fleet.Slow]-1) {
		t.Errorf("%d of %d questions for streams asked for configurations too, in the time of %d rounds", n, all, rounds)
	}
	if n, all := count("/connz"), count("/varz"); n > 2*all {
		t.Errorf("%d questions for connections in %d rounds", n, all)
	}
	if n, all := count("/subsz"), count("/varz"); n == 0 || n > all/4 {
		t.Errorf("%d slow questions in %d rounds", n, all)
	}
	created, err := j.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{
		Durable: "west", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 7 * time.Second,
		Metadata: map[string]string{"io.nats.monitor.unprocessed-critical": "10", "io.nats.monitor.last-ack-critical": "1d"}})
	if err != nil {
		t.Fatal(err)
	}
	wait.For(t, patience, "the new consumer with its configuration", func() bool {
		c, ok := findConsumer(m.latest(), "west")
		return ok && c.AckWait == 7*time.Second
	})
	c, _ := findConsumer(m.latest(), "west")
	if c.Limits == nil || c.Limits.Unprocessed != 10 || c.Limits.LastAck != 24*time.Hour || !c.Durable {
		t.Errorf("consumer %+v, limits %+v", c, c.Limits)
	}
	// Figures are as fresh as the look, with the configuration beside them.
	publish(t, j, "orders.a", 5)
	ackSome(t, created, 2, 1)
	wait.For(t, patience, "figures of the new consumer", func() bool {
		c, _ := findConsumer(m.latest(), "west")
		return c.Pending == 3 && c.AckPending == 1 && c.AckFloor == 1 && c.AckWait == 7*time.Second
	})
	var sum fleet.Cost
	for _, s := range m.all() {
		for tier, by := range s.Cost.By {
			sum.By[tier].Requests += by.Requests
			sum.By[tier].Bytes += by.Bytes
			sum.By[tier].ServerCPU += by.ServerCPU
		}
		sum.Requests += s.Cost.Requests
		sum.Bytes += s.Cost.Bytes
	}
	requests, bytes := 0, int64(0)
	for tier, by := range sum.By {
		if by.Requests == 0 || by.Bytes == 0 || by.ServerCPU == 0 {
			t.Errorf("cost of the %v tier: %+v", fleet.Tier(tier), by)
		}
		requests += by.Requests
		bytes += by.Bytes
	}
	if requests != sum.Requests || bytes != sum.Bytes {
		t.Errorf("the tiers cost %d requests and %d bytes, all together %d and %d", requests, bytes, sum.Requests, sum.Bytes)
	}
}

func TestAgendaSpreadsAndBacksOff(t *testing.T) {
	t.Parallel()
	const interval = 5 * time.Second
	var a agenda
	first := a.take(t0, interval, askServer, askTopConns, askConfigs)
	if !first[askServer] || !first[askTopConns] || !first[askConfigs] || first[askInternal] {
		t.Errorf("first: %v, want all that were offered", first)
	}
	counts := map[question]int{}
	for i := 1; i <= 120; i++ { // ten minutes
		for q, due := range a.take(t0.Add(time.Duration(i)*interval), interval, askServer, askTopConns, askConfigs) {
			if due {
				counts[question(q)]++
			}
		}
	}
	if counts[askServer] != 120 || counts[askTopConns] < 38 || counts[askTopConns] > 42 || counts[askConfigs] < 9 || counts[askConfigs] > 11 {
		t.Errorf("asked %v times in ten minutes", counts)
	}
	now := t0.Add(time.Hour)
	a.putOff(now, askServer, 100*time.Millisecond)
	if !a.due(now, askServer) {
		t.Error("a quick answer puts the next question off")
	}
	a.putOff(now, askConfigs, 2*time.Second)
	if a.due(now.Add(19*time.Second), askConfigs) || !a.due(now.Add(21*time.Second), askConfigs) {
		t.Error("a bulky answer that took 2 s must rest the server for 20 s")
	}
	a.putOff(now, askServer, 3*time.Second)
	if a.due(now.Add(8*time.Second), askServer) || !a.due(now.Add(10*time.Second), askServer) {
		t.Error("small answers that took 3 s must rest the server for 9 s")
	}
	a.putOff(now, askServer, time.Hour)
	if !a.due(now.Add(maxBackOff+time.Second), askServer) {
		t.Error("a server rests longer than the most")
	}
}

// Short-lived consumers are one row, whose counters do not fall when they go.
func TestShortLivedConsumersAreFolded(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	j := js(t, natstest.Connect(t, srv.ClientURL()))
	stream(t, j, "ORDERS", 1)
	consumer(t, j, "ORDERS", "east")
	publish(t, j, "orders.a", 50)
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}, Conn: natstest.Connect(t, srv.ClientURL())})
	ephemeral := func() jetstream.Consumer {
		// One generated name in 250 looks like a word; it would have a row of its own.
		name := nuid.Next()[14:]
		for !isServerMade(name) {
			name = nuid.Next()[14:]
		}
		c, err := j.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{Name: name,
			AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.a", InactiveThreshold: time.Minute, SampleFrequency: "100"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	row := func() fleet.Consumer {
		c, _ := findConsumer(m.latest(), "* (orders.a)")
		return c
	}
	last := uint64(0)
	for round := range 5 {
		var mine []jetstream.Consumer
		for range 4 {
			c := ephemeral()
			ackSome(t, c, 5, 5)
			mine = append(mine, c)
		}
		wait.For(t, patience, "the fold", func() bool {
			c := row()
			return c.Fold != nil && c.Fold.Count == 4 && c.Fold.Most >= 4 && c.Delivered == uint64(20*(round+1)) && c.AckFloor == c.Delivered
		})
		c := row()
		if c.Pending != 4*45 || len(c.Fold.Top) != 4 || c.Fold.Pattern != "*" || c.Fold.Filter != "orders.a" || c.Delivered < last {
			t.Fatalf("row %+v, fold %+v", c, c.Fold)
		}
		last = c.Delivered
		for _, c := range mine {
			if err := j.DeleteConsumer(t.Context(), "ORDERS", c.CachedInfo().Name); err != nil {
				t.Fatal(err)
			}
		}
		wait.For(t, patience, "their end", func() bool {
			c := row()
			return c.Fold != nil && c.Fold.Count == 0 && c.Pending == 0 && c.Delivered == last
		})
	}
	keys := map[fleet.ConsumerKey]bool{}
	for _, s := range m.all() {
		for _, c := range s.Consumers {
			keys[c.ConsumerKey] = true
		}
	}
	if len(keys) != 2 {
		t.Errorf("rows %v, want east and one for all the others", keys)
	}
	wait.For(t, patience, "the measured latencies in that row", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		n := uint64(0)
		for _, w := range m.acks {
			if w.Consumer == "* (orders.a)" {
				n += w.Latency.Count()
			}
		}
		return n > 0
	})
}

// Consumers that are gone before their configuration is read are in the row that
// is the only one for names like theirs, but for what they counted; where there are
// two rows it is not known to which they belong.
func TestConsumersThatAreTooShortLivedToBeReadAreInTheirRow(t *testing.T) {
	t.Parallel()
	now := t0
	f := newFolds(func() time.Time { return now })
	one := func(name, filter, policy string) fleet.Consumer {
		c := fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: name}, Created: now, AckPolicy: policy, Delivered: 10, AckFloor: 8, Pending: 7, At: now}
		if filter != "" {
			c.FilterSubjects = []string{filter}
		}
		return c
	}
	f.fold([]fleet.Consumer{one("q1w2e3r4", "s.a", "explicit")})
	now = now.Add(5 * time.Second)
	out, of := f.fold([]fleet.Consumer{one("z9x8c7v6", "", ""), one("p0o9i8u7", "", "")})
	if len(out) != 1 || len(of) != 0 {
		t.Fatalf("%d rows, %d assigned", len(out), len(of))
	}
	if c := out[0]; c.Fold.Count != 2 || c.Fold.Most != 2 || c.Pending != 14 || c.Delivered != 10 || c.AckFloor != 8 || c.Fold.Seen != 1 || !c.At.Equal(now) || len(c.Fold.Top) != 2 {
		t.Errorf("the row is %+v, its fold %+v", c, c.Fold)
	}
	// Read now, they count like any other.
	out, _ = f.fold([]fleet.Consumer{one("z9x8c7v6", "s.a", "explicit"), one("p0o9i8u7", "", "")})
	if c := out[0]; len(out) != 1 || c.Fold.Count != 2 || c.Delivered != 20 || c.Fold.Seen != 2 {
		t.Errorf("the row is %+v, its fold %+v", c, c.Fold)
	}
	out, _ = f.fold([]fleet.Consumer{one("z9x8c7v6", "s.a", "explicit"), one("m1n2b3v4", "s.b", "explicit"), one("p0o9i8u7", "", "")})
	if len(out) != 2 || out[0].Fold.Count != 1 || out[1].Fold.Count != 1 {
		t.Errorf("with two rows there are %d, the first is %+v", len(out), out[0].Fold)
	}
}

func TestFoldsAreBounded(t *testing.T) {
	t.Parallel()
	now := t0
	f := newFolds(func() time.Time { return now })
	var rows []fleet.Consumer
	for i := range 3 * maxKeptFolds {
		rows = append(rows, fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: fmt.Sprintf("B%dsIBYQ%d", i%10, i)},
			Created: t0, AckPolicy: "none", FilterSubjects: []string{fmt.Sprint("s.", i)}, Delivered: 1})
	}
	out, of := f.fold(rows)
	sum := uint64(0)
	for _, c := range out {
		sum += c.Delivered
	}
	if len(out) > maxKeptFolds+1 || sum != uint64(len(rows)) || len(of) != len(rows) {
		t.Errorf("%d rows with %d deliveries of %d consumers", len(out), sum, len(rows))
	}
	if out, _ := f.fold(nil); len(out) > maxKeptFolds+1 || out[0].Fold.Count != 0 || out[0].Fold.Most == 0 || out[0].Fold.Top != nil || out[0].Delivered == 0 {
		t.Errorf("without members there are %d rows, the first is %+v", len(out), out[0])
	}
	now = now.Add(foldShown + time.Second)
	if out, _ := f.fold(nil); len(out) != 0 || len(f.known) == 0 {
		t.Errorf("%d rows are shown long after their last member, %d are kept", len(out), len(f.known))
	}
	now = now.Add(foldKept)
	if f.fold(nil); len(f.known) != 0 {
		t.Errorf("%d empty folds are kept", len(f.known))
	}
}

// A word among many names that nobody chose was not chosen either; one that is
// durable, alone or of another filter was.
func TestAWordAmongGeneratedNames(t *testing.T) {
	t.Parallel()
	f := newFolds(func() time.Time { return t0 })
	con := func(name, filter string) fleet.Consumer {
		return fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: name}, Created: t0, AckPolicy: "explicit", FilterSubjects: []string{filter}}
	}
	names := func(rows ...fleet.Consumer) (out []string) {
		folded, _ := f.fold(rows)
		for _, c := range folded {
			out = append(out, c.Consumer)
		}
		return out
	}
	if got := names(con("B7sIBYQ1", "s.a"), con("exporter", "s.a")); !slices.Equal(got, []string{"* (s.a)", "exporter"}) {
		t.Errorf("among few: %q", got)
	}
	var many []fleet.Consumer
	for i := range manySeen {
		many = append(many, con(fmt.Sprintf("B7sIB%03d", i), "s.a"))
	}
	f.fold(many)
	durable, unread := con("reporter", "s.a"), con("anybody1", "")
	durable.Durable = true
	unread.AckPolicy, unread.FilterSubjects = "", nil
	if got := names(con("B7sIBYQ1", "s.a"), con("exporter", "s.a"), con("importer", "s.b"), con("exporters", "s.a"), durable, unread); !slices.Equal(got, []string{"* (s.a)", "exporters", "importer", "reporter"}) {
		t.Errorf("among many: %q", got)
	}
}

// Two servers with one name are two servers, and somebody says so.
func TestTwoServersOfOneName(t *testing.T) {
	t.Parallel()
	config := natstest.Config("server_name: twin\n")
	a, b := natstest.Server(t, config), natstest.Server(t, config)
	m := collect(t, Config{Monitor: []string{natstest.MonitorURL(a), natstest.MonitorURL(b)}})
	wait.For(t, patience, "both", func() bool { return len(m.latest().Servers) == 2 })
	name := func(id string) string {
		for _, s := range m.latest().Servers {
			if s.ID == id {
				return s.Name
			}
		}
		return ""
	}
	before := [2]string{name(a.ID()), name(b.ID())}
	if before[0] == before[1] || !slices.Contains(before[:], "twin") || !strings.HasPrefix(before[0], "twin") || !strings.HasPrefix(before[1], "twin") {
		t.Errorf("names %q", before)
	}
	if !slices.ContainsFunc(m.latest().Problems, func(p fleet.Problem) bool { return p.Where == "twin" && strings.HasPrefix(p.What, "2 servers") }) {
		t.Errorf("problems %+v, want one that says so", m.latest().Problems)
	}
	j := js(t, natstest.Connect(t, b.ClientURL()))
	stream(t, j, "ORDERS", 1)
	wait.For(t, patience, "the stream of one of them", func() bool {
		s := m.latest()
		return len(s.Streams) == 1 && s.Streams[0].Leader == before[1]
	})
	seen := len(m.all())
	wait.For(t, patience, "more looks", func() bool { return len(m.all()) > seen+5 })
	if now := [2]string{name(a.ID()), name(b.ID())}; now != before {
		t.Errorf("names %q became %q", before, now)
	}
	for _, k := range m.kinds() {
		if strings.HasPrefix(k, "server.restarted") || strings.HasPrefix(k, "server.lost") {
			t.Errorf("event %s, nothing happened", k)
		}
	}
}

func TestNamesakesInTwoClusters(t *testing.T) {
	t.Parallel()
	at := func(id, cluster string) seen {
		return seen{look: &look{server: fleet.Server{ID: id, Name: "n1", Cluster: cluster}}, alive: true}
	}
	names, problems := uniqueNames([]seen{at("1", "east"), at("2", "west")}, nil)
	if len(problems) != 0 || len(names) != 1 || names["2"] != "n1@west" {
		t.Errorf("names %v, problems %+v", names, problems)
	}
	before := &fleet.Snapshot{Servers: []fleet.Server{{ID: "2", Name: "n1", Cluster: "west"}}}
	if names, _ = uniqueNames([]seen{at("1", "east"), at("2", "west")}, before); names["1"] != "n1@east" || names["2"] != "" {
		t.Errorf("names %v, want the known one to keep its own", names)
	}
}

// A server that comes back under another name is not a new one.
func TestRenamedServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config("server_name: before\n"))
	other := natstest.Server(t, natstest.Config("server_name: after\n"))
	var mu sync.Mutex
	target := natstest.MonitorURL(srv)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		to, err := url.Parse(target)
		mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		httputil.NewSingleHostReverseProxy(to).ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	m := collect(t, Config{Monitor: []string{front.URL}})
	wait.For(t, patience, "the server", func() bool { return findServer(m.latest(), "before").ID != "" })
	mu.Lock()
	target = natstest.MonitorURL(other)
	mu.Unlock()
	wait.For(t, patience, "its new name", func() bool { return m.has("server.renamed", "after") })
	if s := m.latest(); len(s.Servers) != 1 || s.Servers[0].Name != "after" {
		t.Errorf("servers %+v, want the renamed one alone", s.Servers)
	}
}

// Our clock an hour behind the servers', and an hour ahead.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config("server_name: solo\n"))
	j := js(t, natstest.Connect(t, srv.ClientURL()))
	for i, skew := range []time.Duration{time.Hour, -time.Hour} {
		name := fmt.Sprintf("S%d", i)
		stream(t, j, name+"OLD", 1)
		m := collect(t, Config{Monitor: []string{natstest.MonitorURL(srv)}, Now: func() time.Time { return time.Now().Add(-skew) }})
		wait.For(t, patience, "a look", func() bool { return len(m.latest().Streams) > 0 })
		s := m.latest()
		if got := s.Servers[0].Skew(); (got - skew).Abs() > 10*time.Second {
			t.Errorf("skew %v, want %v", got, skew)
		}
		stream(t, j, name, 1)
		wait.For(t, patience, "the new stream", func() bool { return m.has("stream.created", "$G/"+name) })
		for _, e := range m.find("stream.created", "") {
			if d := e.At.Sub(time.Now().Add(-skew)); d.Abs() > time.Minute {
				t.Errorf("event %+v is %v off our clock", e, d)
			}
		}
		if m.has("stream.created", "$G/"+name+"OLD") {
			t.Error("an old stream is called new")
		}
	}
}

// An answer that comes late counts with its own date; a missing one leaves the
// figures as they were.
func TestLateAndMissingSamples(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config("server_name: solo\n"))
	to, err := url.Parse(natstest.MonitorURL(srv))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	var mu sync.Mutex
	gate := make(chan struct{})
	held, missing := false, false
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		wait, refuse := held && r.URL.Path == "/varz", missing
		mu.Unlock()
		if refuse {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		if wait {
			select {
			case <-gate:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	m := collect(t, Config{Monitor: []string{front.URL}})
	wait.For(t, patience, "the server", func() bool { return findServer(m.latest(), "solo").State == fleet.Healthy })
	mu.Lock()
	held = true
	mu.Unlock()
	before := len(m.all())
	wait.For(t, patience, "looks without an answer", func() bool { return len(m.all()) > before+5 })
	late := m.latest()
	if age := late.TakenAt.Sub(late.Servers[0].At); age < 100*time.Millisecond {
		t.Errorf("the figures are %v old, want them to keep their date", age)
	}
	mu.Lock()
	held = false
	mu.Unlock()
	close(gate)
	wait.For(t, patience, "fresh figures", func() bool {
		s := m.latest()
		return s.TakenAt.Sub(s.Servers[0].At) < 90*time.Millisecond && s.Servers[0].State == fleet.Healthy
	})
	mu.Lock()
	missing = true
	mu.Unlock()
	wait.For(t, patience, "the server's absence", func() bool { return findServer(m.latest(), "solo").State == fleet.Unreachable })
	at := findServer(m.latest(), "solo").At
	seen := len(m.all())
	wait.For(t, patience, "more looks", func() bool { return len(m.all()) > seen+3 })
	if s := findServer(m.latest(), "solo"); !s.At.Equal(at) || s.InBytes == 0 && s.Mem == 0 {
		t.Errorf("server %+v, want its last figures and their date %v", s, at)
	}
}

func FuzzService(f *testing.F) {
	f.Add([]byte(`{"type":"io.nats.micro.v1.stats_response","name":"orders","id":"x","version":"1.0.0","metadata":{"a":"b"},"started":"2026-11-22T03:56:59Z","endpoints":[{"name":"create","subject":"o","queue_group":"q","num_requests":44,"num_errors":-1,"last_error":"500:boom","processing_time":115344527,"average_processing_time":2621466,"data":{"cpu":1}}]}`))
	f.Add([]byte(`{"type":"io.nats.micro.v1.stats_response","name":"o","id":"x","endpoints":[null,{"data":null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := readService(data, "stats")
		if err != nil {
			return
		}
		if s.Name == "" || s.ID == "" || len(s.Endpoints) > maxEndpoints || len(s.Metadata) > maxServiceMeta {
			t.Errorf("service %+v", s)
		}
		for _, e := range s.Endpoints {
			if e.ProcessingTime < 0 || e.AvgProcessing < 0 || e.Processing() < 0 || len(e.Data) > maxServiceData || len(e.Data) > 0 && !json.Valid(e.Data) {
				t.Errorf("endpoint %+v", e)
			}
		}
	})
}

func FuzzExtras(f *testing.F) {
	f.Add([]byte(`{"APP":{"S-R3F-a":{"state":"LEADER","committed":9,"applied":10,"ipq_apply_len":2}}}`))
	f.Add([]byte(`{"JetStream API queue":{"pending":5,"in_progress":1},"x":{"pending":-1}}`))
	f.Add([]byte(`{"total":2000,"connections":[{"cid":1,"account":"A","lang":"go","version":"1"},{"cid":1},{}]}`))
	f.Add([]byte(`{"num_subscriptions":7,"cache_hit_rate":0.5,"num_matches":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := readRaftz(decoder(data)); err == nil && (r.Groups < r.Leading || r.Waiting < 0) {
			t.Errorf("raft %+v", r)
		}
		if q, err := readIpqueuesz(decoder(data)); err == nil && len(q) > maxQueues {
			t.Errorf("%d queues", len(q))
		}
		var z connz
		if decoder(data).Decode(&z) == nil {
			s := newConnSums("A", t0)
			s.add(&z)
			n := 0
			for _, sum := range s.list() {
				n += sum.Conns
				if len(sum.Clients) > maxClients+1 {
					t.Errorf("%d client libraries", len(sum.Clients))
				}
			}
			if n > len(z.Conns) {
				t.Errorf("%d connections of %d", n, len(z.Conns))
			}
		}
		var sz subsz
		if decoder(data).Decode(&sz) == nil {
			sz.totals()
		}
	})
}

func FuzzNamePattern(f *testing.F) {
	for _, s := range []string{"east", "B0sIBYQI", "a-4f1e2d3c-aa11-4b22-8c33-0123456789ab-b", "--__", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 4096 {
			return // no subject is that long
		}
		p := namePattern(name)
		if len(p) > len(name) {
			t.Errorf("namePattern(%q) = %q, longer than the name", name, p)
		}
		if again := namePattern(name); again != p {
			t.Errorf("namePattern(%q) = %q and %q", name, p, again)
		}
	})
}

func BenchmarkFold5000(b *testing.B) {
	rows := make([]fleet.Consumer, 5000)
	for i := range rows {
		rows[i] = fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: fmt.Sprint("S", i/10), Consumer: fmt.Sprint("worker-", i%10)}, Durable: true}
		if i%10 == 0 {
			rows[i].Consumer, rows[i].Durable = fmt.Sprintf("B%dsIBYQ%d", i%7, i), false
		}
	}
	f := newFolds(time.Now)
	b.ReportAllocs()
	for b.Loop() {
		f.fold(rows)
	}
}
