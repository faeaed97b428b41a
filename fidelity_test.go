package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ballast/demo/bed"
	"ballast/internal/wait"
)

// What the pages show is what the servers say, field by field: of a small server
// and of a super-cluster with a leaf node; of a large server when BALLAST_MEASURE
// is "fields".
func TestPagesShowWhatTheServersSay(t *testing.T) {
	t.Parallel()
	sizes := []bed.Size{bed.Small, bed.Super}
	if os.Getenv(measureVariable) == "fields" {
		sizes = []bed.Size{bed.Large}
	}
	for _, size := range sizes {
		t.Run(string(size), func(t *testing.T) { comparePages(t, size) })
	}
}

func comparePages(t *testing.T, size bed.Size) {
	const soon = 2 * time.Minute
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err := bed.Start(t.Context(), bed.Config{
		Size: size, Dir: filepath.Join(dir, "bed"), Rate: 500,
		Server: func(config string) *exec.Cmd {
			cmd := exec.Command(exe, "bed-server", "-c", config)
			cmd.Env = append(os.Environ(), runAs+"=ballast")
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bed: %v", err)
		}
	})
	// Some work, so that the figures are figures; then rest, so that a backlog is
	// the same for whoever looks.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- b.Run(ctx) }()
	wait.For(t, soon, "some work", func() bool { return b.Work().Acknowledged > 300 })
	stop()
	if err := <-worked; err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, "ballast", nil, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "console"),
		"--nats", strings.Join(b.URLs, ","), "--user", b.AppUser.Name, "--password-file", b.AppUser.File,
		"--sys-user", b.SysUser.Name, "--sys-password-file", b.SysUser.File, "--interval", "1s")
	url := p.url(t)

	var wrong []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%d differences, such as\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 30)], "\n"))
		}
	})
	fields := 0
	// Counters are those of between two looks at the servers; what does not fit
	// the first time (an election, a list that is read once a minute) has to fit
	// in the end.
	wait.For(t, soon, "the pages to show what the servers say", func() bool {
		before, began := said(t, b), time.Now()
		var pages facts
		wait.For(t, soon, "a look that began after that", func() bool {
			pages = shown(t, url)
			return pages.since(began)
		})
		wrong, fields = pages.differences(before, said(t, b))
		return len(wrong) == 0
	})
	t.Logf("%s: %d fields of %d rows are equal", size, fields, len(shown(t, url)))
	if code := p.end(t, syscall.SIGTERM, time.Minute); code != exitOK {
		t.Errorf("the console ended with code %d", code)
	}
}

// facts are rows by what they are of, as "consumers/APP/ORDERS/east".
type facts map[string]map[string]any

func (f facts) add(row map[string]any, name ...any) {
	f[strings.TrimSuffix(fmt.Sprintln(name...), "\n")] = row
}

// since reports whether every row was measured after t.
func (f facts) since(t time.Time) bool {
	for _, row := range f {
		text, _ := row["measured_at"].(string)
		at, err := time.Parse(time.RFC3339Nano, text)
		if text != "" && (err != nil || at.Before(t)) {
			return false
		}
	}
	return len(f) > 0
}

// own are fields that the question itself changes: an inbox is a subscription.
var own = map[string]float64{"subscriptions": 10}

// differences compares every field that the servers' answers have with what the
// pages show, and counts the fields.
func (f facts) differences(before, after facts) (wrong []string, fields int) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		row := f[name]
		if row == nil && strings.HasPrefix(name, "connections") {
			continue // the list shows the busiest
		}
		if row == nil {
			wrong = append(wrong, name+" is not shown")
			continue
		}
		for field, v := range after[name] {
			fields++
			got := row[field]
			hi, isNumber := number(v)
			if !isNumber {
				if fmt.Sprint(got) != fmt.Sprint(v) {
					wrong = append(wrong, fmt.Sprintf("%s: %s is %v, the servers say %v", name, field, got, v))
				}
				continue
			}
			n, ok := number(got)
			lo, _ := number(before[name][field])
			if !ok || n < min(lo, hi)-own[field] || n > max(lo, hi)+own[field] {
				wrong = append(wrong, fmt.Sprintf("%s: %s is %v, the servers say %v, then %v", name, field, got, before[name][field], v))
			}
		}
	}
	for name := range f {
		if after[name] == nil && before[name] == nil && !strings.HasPrefix(name, "connections") {
			wrong = append(wrong, name+" is shown, but no server has it")
		}
	}
	return wrong, fields
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	}
	return 0, false
}

// shown is what the pages' JSON holds.
func shown(t *testing.T, url string) facts {
	t.Helper()
	f := facts{}
	for _, row := range getJSON[[]map[string]any](t, url+"/consumers.json") {
		f.add(row, "consumers", row["account"], row["stream"], row["consumer"])
	}
	for _, row := range getJSON[[]map[string]any](t, url+"/streams.json") {
		f.add(row, "streams", row["account"], row["stream"])
	}
	for _, row := range getJSON[[]map[string]any](t, url+"/servers.json") {
		f.add(row, "servers", row["name"])
	}
	for _, row := range getJSON[[]map[string]any](t, url+"/accounts.json") {
		f.add(row, "accounts", row["name"])
	}
	for _, row := range getJSON[[]map[string]any](t, url+"/connections.json") {
		f.add(row, "connections", row["server"], row["cid"])
	}
	topology := getJSON[struct {
		Gateways []map[string]any
		Clusters []struct {
			Leafs []map[string]any `json:"leaf_nodes"`
		}
	}](t, url+"/topology.json")
	for _, g := range topology.Gateways {
		f.add(g, "gateways", g["a"], g["b"])
	}
	for _, c := range topology.Clusters {
		for _, l := range c.Leafs {
			f.add(l, "leafs", l["server"], l["name"], l["account"])
		}
	}
	return f
}

// ask reads a server's own answer.
func ask[T any](t *testing.T, url string) T {
	t.Helper()
	var v T
	code, body := tryGet(url)
	if err := json.Unmarshal(body, &v); err != nil || code != 200 {
		t.Fatalf("GET %s = %d: %v\n%.500s", url, code, err, body)
	}
	return v
}

// said is what the servers themselves answer, in the pages' words. Gauges that
// differ with each question (CPU, memory, RTT) are left out.
func said(t *testing.T, b *bed.Bed) facts {
	t.Helper()
	f := facts{}
	accounts := map[string]map[string]any{}
	for _, s := range b.Servers {
		v := ask[server.Varz](t, s.MonitorURL+"/varz")
		js := ask[server.JSInfo](t, s.MonitorURL+"/jsz?accounts=1&streams=1&consumers=1&config=1&limit=1000")
		f.add(map[string]any{
			"id": v.ID, "cluster": s.Cluster, "version": v.Version, "host": v.Host, "port": v.Port, "cores": v.Cores,
			"started": v.Start.UTC().Format(time.RFC3339Nano), "connections": v.Connections, "subscriptions": int(v.Subscriptions),
			"routes": v.Routes, "slow_consumers": v.SlowConsumers, "in_msgs": v.InMsgs, "out_msgs": v.OutMsgs, "in_bytes": v.InBytes, "out_bytes": v.OutBytes,
			"jetstream_domain": v.JetStream.Config.Domain, "jetstream_memory_bytes": v.JetStream.Stats.Memory, "jetstream_store_bytes": v.JetStream.Stats.Store,
			"jetstream_memory_limit_bytes": v.JetStream.Config.MaxMemory, "jetstream_store_limit_bytes": v.JetStream.Config.MaxStore,
			"jetstream_streams": js.Streams, "jetstream_consumers": js.Consumers, "jetstream_messages": js.Messages,
			"jetstream_api_total": v.JetStream.Stats.API.Total, "jetstream_api_errors": v.JetStream.Stats.API.Errors,
		}, "servers", s.Name)
		for _, a := range js.AccountDetails {
			for i := range a.Streams {
				addStream(f, s.Name, a.Name, &a.Streams[i])
			}
		}
		for _, a := range ask[server.AccountStatz](t, s.MonitorURL+"/accstatz?unused=1").Accounts {
			sum := accounts[a.Account]
			if sum == nil {
				sum = map[string]any{"connections": 0, "subscriptions": 0, "in_msgs": int64(0), "out_msgs": int64(0), "in_bytes": int64(0), "out_bytes": int64(0), "slow_consumers": int64(0)}
				accounts[a.Account] = sum
			}
			sum["connections"] = sum["connections"].(int) + a.Conns
			sum["subscriptions"] = sum["subscriptions"].(int) + int(a.NumSubs)
			for field, n := range map[string]int64{"in_msgs": a.Received.Msgs, "out_msgs": a.Sent.Msgs, "in_bytes": a.Received.Bytes, "out_bytes": a.Sent.Bytes, "slow_consumers": a.SlowConsumers} {
				sum[field] = sum[field].(int64) + n
			}
		}
		for _, c := range ask[server.Connz](t, s.MonitorURL+"/connz?auth=1&limit=10000").Conns {
			if strings.HasPrefix(c.Name, "ballast") {
				continue // the console's own, which move with every question
			}
			f.add(map[string]any{
				"name": c.Name, "account": c.Account, "user": c.AuthorizedUser, "lang": c.Lang, "version": c.Version, "ip": c.IP,
				"subscriptions": int(c.NumSubs), "in_msgs": c.InMsgs, "out_msgs": c.OutMsgs, "in_bytes": c.InBytes, "out_bytes": c.OutBytes,
				"started": c.Start.UTC().Format(time.RFC3339Nano),
			}, "connections", s.Name, c.Cid)
		}
		for _, l := range ask[server.Leafz](t, s.MonitorURL+"/leafz").Leafs {
			f.add(map[string]any{}, "leafs", s.Name, l.Name, l.Account) // both ends tell of the link
		}
		// A pair of clusters is one line on the map, whoever of their servers tells.
		for remote := range ask[server.Gatewayz](t, s.MonitorURL+"/gatewayz").OutboundGateways {
			f.add(map[string]any{}, "gateways", min(s.Cluster, remote), max(s.Cluster, remote))
		}
	}
	for name, sum := range accounts {
		f.add(sum, "accounts", name)
	}
	return f
}

func addStream(f facts, srv, account string, s *server.StreamDetail) {
	leader := srv
	if s.Cluster != nil && s.Cluster.Leader != "" {
		leader = s.Cluster.Leader
	}
	if leader == srv {
		f.add(map[string]any{
			"subjects": fmt.Sprint(s.Config.Subjects), "storage": strings.ToLower(s.Config.Storage.String()), "retention": strings.ToLower(s.Config.Retention.String()),
			"replicas": s.Config.Replicas, "leader": leader, "messages": s.State.Msgs, "bytes": s.State.Bytes, "first_seq": s.State.FirstSeq, "last_seq": s.State.LastSeq,
			"consumers": s.State.Consumers, "max_bytes": s.Config.MaxBytes, "max_msgs": s.Config.MaxMsgs, "max_msgs_per_subject": s.Config.MaxMsgsPer,
			"max_age_s": s.Config.MaxAge.Seconds(), "created": s.Created.UTC().Format(time.RFC3339Nano),
		}, "streams", account, s.Name)
	}
	for _, c := range s.Consumer {
		leader := srv
		if c.Cluster != nil && c.Cluster.Leader != "" {
			leader = c.Cluster.Leader
		}
		if leader != srv {
			continue
		}
		f.add(map[string]any{
			"leader": leader, "pending": c.NumPending, "ack_pending": c.NumAckPending, "redelivered": c.NumRedelivered, "waiting": c.NumWaiting,
			"max_ack_pending": c.Config.MaxAckPending, "ack_wait_ms": float64(c.Config.AckWait.Milliseconds()), "sample_freq": c.Config.SampleFrequency, "paused": c.Paused,
		}, "consumers", account, s.Name, c.Name)
	}
}
