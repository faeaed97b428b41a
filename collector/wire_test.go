package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

// read returns a real server's answer (nats-server 2.15.2).
func read(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func decoder(b []byte) *json.Decoder { return json.NewDecoder(bytes.NewReader(b)) }

func TestOldServerIsRead(t *testing.T) {
	t.Parallel()
	// What nats-server 2.2 sends of it; most of today's fields are not there.
	var v varz
	old := `{"server_id":"ID","version":"2.2.0","host":"0.0.0.0","port":4222,"start":"2021-03-15T10:00:00Z",
		"now":"2021-03-15T10:00:05Z","mem":100,"cores":4,"cpu":1.5,"connections":2,"in_msgs":7,"subscriptions":3,
		"cluster":{},"gateway":{},"leaf":{},"jetstream":{},"unknown":{"a":[1,2,{"b":null}]}}`
	if err := decoder([]byte(old)).Decode(&v); err != nil {
		t.Fatal(err)
	}
	l := &look{}
	l.setVarz(&v, fleet.Monitoring, time.Now(), time.Millisecond)
	if s := l.server; s.Name != "ID" || s.Conns != 2 || s.InMsgs != 7 || s.JetStream != nil || s.State != fleet.Healthy || s.Cluster != "" {
		t.Errorf("server %+v", s)
	}
}

func TestLeaderlessAndForeignRowsAreNotTaken(t *testing.T) {
	t.Parallel()
	doc := `{"server_id":"A","account_details":[{"name":"X","id":"x","stream_detail":[
		{"name":"LED","cluster":{"leader":"n1","replicas":[{"name":"n2"}]},"consumer_detail":[
			{"name":"here","cluster":{"leader":"n1"}},
			{"name":"there","cluster":{"leader":"n2"}},
			{"name":"nowhere","cluster":{"replicas":[{"name":"n2"}]}}]},
		{"name":"FOREIGN","cluster":{"leader":"n2"}},
		{"name":"ALONE","consumer_detail":null}]},{"id":"only-id","stream_detail":[{"name":"S"}]}]}`
	a, err := readAssets(decoder([]byte(doc)), &fleet.Server{ID: "A", Name: "n1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range a.streams {
		got = append(got, s.Entity().Key+" "+s.Leader)
	}
	for _, c := range a.consumers {
		got = append(got, c.Entity().Key+" "+c.Leader)
	}
	want := "X/LED n1,X/ALONE n1,only-id/S n1,X/LED/here n1"
	if strings.Join(got, ",") != want {
		t.Errorf("rows %q, want %q", got, want)
	}
	if len(a.elsewhereStreams) != 1 || len(a.elsewhereConsumers) != 2 || a.elsewhereConsumers[fleet.ConsumerKey{Account: "X", Stream: "LED", Consumer: "nowhere"}] != "" {
		t.Errorf("elsewhere: %v and %v", a.elsewhereStreams, a.elsewhereConsumers)
	}
	if _, err := readAssets(decoder([]byte(doc)), &fleet.Server{ID: "B", Name: "n1"}, time.Now()); err == nil {
		t.Error("another server's answer was taken")
	}
	for _, bad := range []string{
		`{"server_id":"A","account_details":[{"stream_detail":[{"name":"S"}],"name":"late"}]}`,
		`{"server_id":"A","account_details":[{"name":"X","stream_detail":[{"state":{}}]}]}`,
		`{"server_id":"A","account_details":[{"name":"X","stream_detail":[{"name":"S","consumer_detail":[{}]}]}]}`,
		`{"server_id":"A","account_details":[{"name":"X"`,
		`{"server_id":"A","account_details":{}}`, `[]`, ``,
	} {
		if _, err := readAssets(decoder([]byte(bad)), &fleet.Server{ID: "A", Name: "n1"}, time.Now()); err == nil {
			t.Errorf("readAssets(%s) succeeded", bad)
		}
	}
}

func TestAnswerBeyondTheLimitIsAnError(t *testing.T) {
	t.Parallel()
	row := `{"name":"S","created":"2026-11-24T06:00:00.123456789Z","state":{"messages":0,"bytes":0,"first_seq":0,"first_ts":"0001-01-01T00:00:00Z","last_seq":0}},`
	for _, c := range []struct {
		begin, unit string
		left        int64
		want        error
	}{
		{`[`, row, 1 << 20, errTooLarge},
		{`[`, `{"name":"S"},`, 1 << 20, errShortRows},
		{`"`, "aaaaaaaa", 2 * maxValue, errLongValue},
	} {
		endless := io.MultiReader(strings.NewReader(`{"server_id":"A","account_details":[{"name":"X","stream_detail":`+c.begin), &repeat{[]byte(c.unit), 0})
		_, err := readJSZ((&limited{r: endless, left: c.left}).decoder(), jszSink{})
		if !errors.Is(err, c.want) {
			t.Errorf("%s%.20s…: err = %v, want %v", c.begin, c.unit, err, c.want)
		}
	}
}

// repeat is an endless reader.
type repeat struct {
	b []byte
	i int
}

func (r *repeat) Read(p []byte) (int, error) {
	for n := range p {
		p[n] = r.b[r.i%len(r.b)]
		r.i++
	}
	return len(p), nil
}

// FuzzLook reads any bytes as any of a server's answers.
func FuzzLook(f *testing.F) {
	kinds := []string{"varz", "healthz", "routez", "gatewayz", "leafz", "accstatz", "connz"}
	for i, k := range kinds {
		f.Add(uint8(i), read(f, k+".json"))
		f.Add(uint8(i), []byte(`{"server_id":"A","routes":[null,{}],"leafs":[{}],"connections":[{}],"outbound_gateways":{"x":null},"inbound_gateways":{"x":[null]},"now":5,"rtt":7}`))
	}
	for _, v := range []string{"v2.10.27", "v2.15.2"} {
		for i, k := range kinds {
			f.Add(uint8(i), capture(f, v, k))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		l := &look{server: fleet.Server{ID: "A", Name: "n1"}}
		d := decoder(data)
		switch kinds[int(kind)%len(kinds)] {
		case "varz":
			var v varz
			if d.Decode(&v) == nil {
				l.setVarz(&v, fleet.Monitoring, time.Now(), time.Millisecond)
			}
		case "healthz":
			var z healthz
			if d.Decode(&z) == nil {
				l.setHealth(z)
			}
		case "routez":
			var z routez
			if d.Decode(&z) == nil {
				l.setRoutez(&z)
			}
		case "gatewayz":
			var z gatewayz
			if d.Decode(&z) == nil {
				l.setGatewayz(&z)
			}
		case "leafz":
			var z leafz
			if d.Decode(&z) == nil {
				l.setLeafz(&z)
			}
		case "accstatz":
			var z accstatz
			if d.Decode(&z) == nil {
				l.setAccstatz(&z)
			}
		case "connz":
			var z connz
			if d.Decode(&z) == nil {
				l.addConnz(askTopConns, &z)
			}
		}
		if l.server.CPU < 0 || l.server.Mem < 0 {
			t.Errorf("negative figures: %+v", l.server)
		}
		for _, r := range l.routes {
			if r.To == "" || r.Conns < 1 || r.RTT < 0 || r.Uptime < 0 {
				t.Errorf("route %+v", r)
			}
		}
	})
}

// FuzzJSZ reads any bytes as streams and consumers.
func FuzzJSZ(f *testing.F) {
	f.Add(read(f, "jsz.json"))
	for _, v := range []string{"v2.10.27", "v2.15.2"} {
		f.Add(capture(f, v, "jsz-configs"))
		f.Add(capture(f, v, "jsz-figures"))
	}
	f.Add([]byte(`{"server_id":"A","account_details":[{"name":"X","stream_detail":[{"name":"S","consumer_detail":[{"name":"c"}]}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := readAssets(decoder(data), &fleet.Server{ID: "A", Name: "n1"}, time.Now())
		if err != nil {
			return
		}
		for _, s := range a.streams {
			if s.Account == "" || s.Stream == "" {
				t.Errorf("stream without a name: %+v", s)
			}
		}
		for _, c := range a.consumers {
			if c.Account == "" || c.Stream == "" || c.Consumer == "" {
				t.Errorf("consumer without a name: %+v", c)
			}
		}
	})
}

// FuzzPage reads any bytes as a page of a list of the JetStream API.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`{"total":2,"offset":0,"limit":256,"streams":[{"created":"2026-11-24T06:25:14Z","config":{"name":"S","subjects":["s.>"],"max_age":1},"state":{"messages":1},"cluster":{"leader":"n1","replicas":[{"name":"n2"}]}}],"missing":["X"]}`))
	f.Add([]byte(`{"total":1,"consumers":[{"stream_name":"S","name":"c","config":{"ack_policy":"explicit","inactive_threshold":5,"metadata":{"io.nats.monitor.last-ack-critical":"1d"}},"num_pending":3},null]}`))
	f.Add([]byte(`{"error":{"code":503,"description":"no"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p page
		if json.Unmarshal(data, &p) != nil {
			return
		}
		a := newAssets("", t0)
		p.addTo(a, "A", "S")
		p.addTo(a, "A", "")
		for _, c := range a.consumers {
			if c.Consumer == "" || c.Leader == "" && len(c.Peers) > 0 {
				t.Errorf("consumer %+v", c)
			}
		}
		for _, s := range a.streams {
			if s.Stream == "" {
				t.Errorf("stream without a name: %+v", s)
			}
		}
	})
}

// FuzzEnvelope reads any bytes as a system account's answer.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"server":{"id":"A"},"data":{"server_id":"A"}}`), false)
	f.Add([]byte(`{"error":{"description":"no"},"server":{"id":"A"}}`), false)
	f.Add([]byte("\x1f\x8b\x08\x00"), true)
	f.Fuzz(func(t *testing.T, data []byte, zipped bool) {
		m := nats.NewMsg("x")
		m.Data = data
		if zipped {
			m.Header.Set("Content-Encoding", "gzip")
		}
		systemAsk{largest: maxAnswer}.open(m, func(id string, d *json.Decoder) error {
			if id == "" {
				t.Error("an answer without its server")
			}
			var v varz
			return d.Decode(&v)
		})
	})
}

// FuzzParseAck holds the hand-written scanner against encoding/json: what it
// accepts, encoding/json reads the same.
func FuzzParseAck(f *testing.F) {
	f.Add(sample(1, "151924627"))
	f.Add([]byte(`{"type":"io.nats.jetstream.metric.v1.consumer_ack","ack_time":-1}`))
	f.Add([]byte(`{ "ack_time" : 07 , "type":"io.nats.jetstream.metric.v1.consumer_ack" }`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseAck(data)
		if err != nil || !json.Valid(data) || bytes.Contains(data, []byte("\\")) {
			return // escapes stay as they are, and need not be valid in what is not read
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(data, &members); err != nil {
			t.Fatalf("accepted %q, which is no object: %v", data, err)
		}
		var ns int64
		if err := json.Unmarshal(members["ack_time"], &ns); err != nil || ns != int64(got.latency) {
			t.Errorf("parseAck(%q) = %v, encoding/json reads %s", data, got.latency, members["ack_time"])
		}
	})
}

// jszOf is a /jsz answer with n consumers, ten to a stream, as n1 leads them.
func jszOf(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"server_id":"A","now":"2026-11-24T06:25:14.888650091Z","streams":1,"account_details":[{"name":"APP","id":"APP","stream_detail":[`)
	for s := range n / 10 {
		if s > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"S%d","created":"2026-11-24T06:25:14.888650091Z","cluster":{"name":"test","raft_group":"S-R3F-x","leader":"n1","replicas":[{"name":"n2","current":true,"active":95997500,"peer":"44jzkV9D"},{"name":"n3","current":true,"active":95997500,"peer":"BXScrY9i"}]},"config":{"name":"S%d","subjects":["s%d.>"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":1048576,"max_age":0,"storage":"file","num_replicas":3,"metadata":{"_nats.req.level":"0"}},"state":{"messages":5,"bytes":225,"first_seq":1,"first_ts":"2026-11-24T06:25:14Z","last_seq":5,"last_ts":"2026-11-24T06:25:14Z","consumer_count":10},"consumer_detail":[`, s, s, s)
		for c := range 10 {
			if c > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"stream_name":"S%d","name":"worker-%d","created":"2026-11-24T06:25:14.856153186Z","config":{"durable_name":"worker-%d","deliver_policy":"all","ack_policy":"explicit","ack_wait":60000000000,"max_deliver":-1,"filter_subject":"s%d.>","replay_policy":"instant","sample_freq":"100","max_waiting":512,"max_ack_pending":5000,"num_replicas":0,"metadata":{"_nats.level":"5","_nats.req.level":"0","_nats.ver":"2.15.2"}},"delivered":{"consumer_seq":3,"stream_seq":3,"last_active":"2026-11-24T06:25:14.884153186Z"},"ack_floor":{"consumer_seq":2,"stream_seq":2,"last_active":"2026-11-24T06:25:14.886153186Z"},"num_ack_pending":1,"num_redelivered":0,"num_waiting":0,"num_pending":2,"cluster":{"name":"test","raft_group":"C-R3F-x","leader":"n1","leader_since":"2026-11-24T06:25:14.856153186Z","replicas":[{"name":"n2","current":true,"active":95997500,"peer":"44jzkV9D"},{"name":"n3","current":true,"active":95997500,"peer":"BXScrY9i"}]},"ts":"2026-11-24T06:25:14.888153186Z"}`, s, c, c, s)
		}
		b.WriteString(`]}`)
	}
	b.WriteString(`]}]}`)
	return b.Bytes()
}

func BenchmarkJSZ1000Consumers(b *testing.B) {
	doc := jszOf(1000)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		a, err := readAssets(decoder(doc), &fleet.Server{ID: "A", Name: "n1"}, time.Now())
		if err != nil || len(a.consumers) != 1000 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/consumer")
}

// BenchmarkJSZ1000ConsumersAny is the baseline: the same answer into maps.
func BenchmarkJSZ1000ConsumersAny(b *testing.B) {
	doc := jszOf(1000)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		var v any
		if err := json.Unmarshal(doc, &v); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/consumer")
}
