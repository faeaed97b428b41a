package collector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"ballast/fleet"
)

// readerOf makes the test binary a program that reads one server and says how
// much its memory grew by that: a process of its own, for others' tests must not
// count.
const readerOf = "BALLAST_TEST_READ"

func TestMain(m *testing.M) {
	if url := os.Getenv(readerOf); url != "" {
		if err := readOnce(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func readOnce(url string) error {
	debug.SetGCPercent(50) // as the console does
	m, err := newMonitor(Config{Monitor: []string{url}, Interval: time.Second, Now: time.Now})
	if err != nil {
		return err
	}
	e := *m.endpoints[0]
	e.last = &look{server: fleet.Server{ID: "S", Name: "s", JetStream: &fleet.JetStream{}}}
	before := peakMemory()
	var what asked
	for q := range what {
		what[q] = true
	}
	l, _ := m.poll(context.Background(), e, what, &bill{})
	a, _ := m.pollAssets(context.Background(), e, what, &bill{})
	x, _ := m.pollExtras(context.Background(), e, what, &bill{})
	after := peakMemory()
	runtime.KeepAlive([]any{l, a})
	conns := 0
	if x != nil {
		for _, s := range x.conns {
			conns += s.Conns
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{"grown": after - before, "conns": int64(conns)})
}

// peakMemory is the most memory that the heap of this process had, in bytes.
// What the race detector needs beside it does not count.
func peakMemory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys)
}

// What a server answers, however large or hostile, takes no more than 64 MiB.
func TestMemoryOfLargeAndHostileAnswers(t *testing.T) {
	t.Parallel()
	const most = 64 << 20
	varz, err := os.ReadFile(filepath.Join(captures, "v2.15.2", "varz.json"))
	if err != nil {
		t.Fatal(err)
	}
	endless := func(w http.ResponseWriter, begin, unit string) {
		fmt.Fprint(w, begin)
		chunk := bytes.Repeat([]byte(unit), 1<<16/len(unit))
		for range 2 * maxAnswer / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	// The lists are endless; that each small answer is bounded alike is one case.
	lists := func(begin, unit string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/varz":
				w.Write(varz)
			case "/connz", "/jsz", "/accstatz":
				endless(w, begin, unit)
			case "/subsz":
				fmt.Fprint(w, "{}")
			default:
				http.NotFound(w, r)
			}
		}
	}
	conn := func(w http.ResponseWriter, cid int) {
		fmt.Fprintf(w, `{"cid":%d,"kind":"Client","ip":"10.0.0.1","port":%d,"start":"2026-11-24T06:00:00Z","last_activity":"2026-11-24T06:25:14Z","rtt":"1ms","uptime":"25m","idle":"1s","pending_bytes":0,"in_msgs":1,"out_msgs":2,"in_bytes":3,"out_bytes":4,"subscriptions":2,"name":"service %d","lang":"go","version":"1.55.0","account":"A%d","subscriptions_list_detail":[{"account":"A","subject":"jobs.%d","qgroup":"crew","sid":"1","msgs":5,"cid":%d},{"account":"A","subject":"plain","sid":"2","msgs":5,"cid":%d}]}`,
			cid, cid, cid, cid%7, cid%100, cid, cid)
	}
	for _, c := range []struct {
		name  string
		conns int64 // that are summed
		serve func(w http.ResponseWriter, r *http.Request)
	}{
		{"ten thousand connections", 10_000, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/varz":
				w.Write(varz)
			case "/connz":
				limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
				offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
				fmt.Fprint(w, `{"server_id":"S","total":10000,"connections":[`)
				for i := offset; i < min(offset+limit, 10_000); i++ {
					if i > offset {
						fmt.Fprint(w, ",")
					}
					conn(w, i+1)
				}
				fmt.Fprint(w, "]}")
			case "/subsz", "/accountz":
				fmt.Fprint(w, "{}")
			default:
				http.NotFound(w, r)
			}
		}},
		{"a first answer without an end", 0, func(w http.ResponseWriter, r *http.Request) { endless(w, `{"server_id":"`, "aaaaaaaa") }},
		{"strings without an end", 0, lists(`{"server_id":"`, "aaaaaaaa")},
		{"brackets without an end", 0, lists(`{"connections":`, "[[[[[[[[")},
		{"connections without an end", 0, lists(`{"server_id":"S","total":1000000,"connections":[{}`, `,{"cid":7}`)},
		{"streams without an end", 0, lists(`{"server_id":"S","account_details":[{"name":"A","stream_detail":[{"name":"s"}`, `,{"name":"s"}`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(c.serve))
			defer srv.Close()
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), readerOf+"="+srv.URL, "GOGC=")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var said struct{ Grown, Conns int64 }
			if err := json.Unmarshal(out, &said); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%.1f MiB", float64(said.Grown)/(1<<20))
			if said.Grown > most {
				t.Errorf("memory grew by %.1f MiB, more than %d", float64(said.Grown)/(1<<20), most>>20)
			}
			if said.Conns != c.conns {
				t.Errorf("%d connections were summed, want %d", said.Conns, c.conns)
			}
		})
	}
}
