package collector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// replies gives what a real server said, as hosts that each need a moment; the
// host "dead" takes the question and says nothing.
type replies map[string][]byte

func (r replies) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	if host == "dead" {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	select {
	case <-time.After(20 * time.Millisecond):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	name := strings.TrimPrefix(req.URL.Path, "/")
	if name == "jsz" {
		name = "jsz-configs"
	}
	body, ok := r[name]
	status := http.StatusOK
	if !ok {
		status = http.StatusNotFound
	}
	var as struct {
		ID   string `json:"server_id"`
		Name string `json:"server_name"`
	}
	if err := json.Unmarshal(r["varz"], &as); err != nil {
		return nil, err
	}
	body = bytes.ReplaceAll(body, []byte(as.ID), []byte("ID-OF-"+host))
	body = bytes.ReplaceAll(body, fmt.Appendf(nil, `"server_name":%q`, as.Name), fmt.Appendf(nil, `"server_name":%q`, host))
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(body)), Request: req, Header: http.Header{}}, nil
}

// One dead endpoint of ten: the others are read as evenly as without it. Time is
// made, so that what is measured is the collector and not the machine.
func TestDeadEndpointDoesNotShakeTheOthers(t *testing.T) {
	answers := replies{}
	for _, name := range []string{"varz", "healthz", "accstatz", "connz", "jsz-configs", "subsz", "ipqueuesz", "accountz"} {
		body, err := os.ReadFile(filepath.Join(captures, "v2.15.2", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		answers[name] = body
	}
	synctest.Test(t, func(t *testing.T) {
		const interval, rounds, good = time.Second, 120, 9
		cfg := Config{Interval: interval, HTTPClient: &http.Client{Transport: answers}}
		cfg.Monitor = append(cfg.Monitor, "http://dead:8222")
		for i := range good {
			cfg.Monitor = append(cfg.Monitor, fmt.Sprintf("http://good%d:8222", i))
		}
		m := &memory{}
		c, err := New(cfg, m)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(rounds*interval + interval/2) // the bubble's clock
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		last, told := map[string]time.Time{}, map[string]int{}
		var worst, held time.Duration
		for n, s := range m.all() {
			if n >= 5 { // by then it is known to be dead
				held = max(held, s.Cost.Took)
			}
			for _, v := range s.Servers {
				before, ok := last[v.Name]
				if !ok || v.At.After(before) {
					if ok {
						worst = max(worst, (v.At.Sub(before) - interval).Abs())
					}
					last[v.Name] = v.At
					told[v.Name]++
				}
			}
		}
		for i := range good {
			if n := told[fmt.Sprintf("good%d", i)]; n < rounds {
				t.Errorf("good%d told %d times in %d rounds: %v", i, n, rounds, told)
			}
		}
		if worst > interval/10 {
			t.Errorf("the others are read up to %v late or early, more than a tenth of %v", worst, interval)
		}
		if held > interval/3 {
			t.Errorf("a round takes %v, as if it waited for the dead one", held)
		}
		if len(m.latest().Problems) == 0 {
			t.Error("nobody says that an endpoint is dead")
		}
		t.Logf("at most %v beside the beat of %v; a round takes up to %v", worst, interval, held)
	})
}
