package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/internal/wait"
)

// What the pages showed at a moment they show again as of that moment, field by
// field: while all goes on, and from the data directory alone when NATS and the
// console that saw it are gone.
func TestThePastFromTheStoreAlone(t *testing.T) {
	s := startSeparate(t)
	data := t.TempDir()
	console := s.console(t, data)
	base := console.url(t)
	ready(t, base)
	p, _ := s.orders(t)
	createOrders(t, base, 70, 30)
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, p, 500)
	wait.For(t, time.Minute, "samples in the store", func() bool {
		d := getJSON[splitData](t, base+"/splits/orders.json")
		return len(d.Targets) == 2 && d.Targets[0].Samples > 0 && d.Targets[0].Acked > 0
	})
	paths := []string{"/consumers.json", "/servers.json", "/topology.json"}
	seen, at := map[string]any{}, time.Time{}
	asOf := func(base, path string) (any, error) {
		code, body := tryGet(base + path + "?at=" + url.QueryEscape(at.Format(time.RFC3339Nano)))
		if code != http.StatusOK {
			return nil, fmt.Errorf("%s as of %s = %d: %.300s", path, at, code, body)
		}
		return getAny(body)
	}
	differs := func(base string) (all []string) {
		for _, path := range paths {
			past, err := asOf(base, path)
			if err != nil {
				return []string{err.Error()}
			}
			all = append(all, difference(path, seen[path], past)...)
		}
		return all
	}
	// Names and settings are recorded to the minute: the moment must be one of
	// which they are known.
	var last []string
	defer func() {
		if t.Failed() {
			t.Logf("differences: %s", strings.Join(last, "\n"))
		}
	}()
	wait.For(t, 4*time.Minute, "a moment of which everything is recorded", func() bool {
		taken := func() time.Time {
			return getJSON[struct {
				At time.Time `json:"taken_at"`
			}](t, base+"/topology.json").At
		}
		before := taken()
		for _, path := range paths {
			doc, err := getAny(get(t, base+path))
			if err != nil {
				t.Fatal(err)
			}
			seen[path] = doc
		}
		if at = taken(); !at.Equal(before) {
			return false // a new look came between the pages
		}
		last = differs(base)
		return len(last) == 0
	})
	split := getJSON[splitData](t, base+"/splits/orders.json?at="+url.QueryEscape(at.Format(time.RFC3339Nano)))

	console.end(t, syscall.SIGTERM, 30*time.Second)
	s.proc.end(t, syscall.SIGKILL, 10*time.Second)
	alone := s.console(t, data)
	base = alone.url(t)
	if last = differs(base); len(last) > 0 {
		t.Error("from the store alone the pages differ")
	}
	again := getJSON[splitData](t, base+"/splits/orders.json?at="+url.QueryEscape(at.Format(time.RFC3339Nano)))
	if again.Revision.Number != 1 || again.Revision.Reason != "first weights" || len(again.Targets) != 2 {
		t.Fatalf("the split of then: %+v", again)
	}
	for i, target := range again.Targets {
		if target != split.Targets[i] {
			t.Errorf("target %s: %+v, was %+v", target.Name, target, split.Targets[i])
		}
	}
	for _, page := range []string{"/", "/topology", "/consumers", "/consumers/APP/ORDERS/a", "/splits", "/splits/orders", "/findings", "/journal", "/charts/server-cpu"} {
		body := string(get(t, base+page+"?at="+url.QueryEscape(at.Format(time.RFC3339Nano))))
		if !strings.Contains(body, "As it was at") {
			t.Errorf("%s does not say that it is of the past", page)
		}
	}
}

func getAny(body []byte) (any, error) {
	var v any
	err := json.Unmarshal(body, &v)
	return v, err
}

// difference compares what a page showed with the same page as of then. Times
// are kept to the millisecond; splits have a window of their own, and what was
// not answered is not recorded.
func difference(path string, was, is any) (out []string) {
	switch was := was.(type) {
	case map[string]any:
		got, ok := is.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s was an object, is %v", path, is)}
		}
		for k, v := range was {
			if !slices.Contains([]string{"splits", "problems"}, k) {
				out = append(out, difference(path+"."+k, v, got[k])...)
			}
		}
	case []any:
		got, ok := is.([]any)
		if !ok || len(got) != len(was) {
			return []string{fmt.Sprintf("%s was %v, is %v", path, was, is)}
		}
		for i := range was {
			out = append(out, difference(fmt.Sprintf("%s[%d]", path, i), was[i], got[i])...)
		}
	case string:
		got, _ := is.(string)
		a, errA := time.Parse(time.RFC3339, was)
		b, errB := time.Parse(time.RFC3339, got)
		if was != got && (errA != nil || errB != nil || !a.Truncate(time.Millisecond).Equal(b.Truncate(time.Millisecond))) {
			out = append(out, fmt.Sprintf("%s was %q, is %q", path, was, got))
		}
	default:
		if was != is {
			out = append(out, fmt.Sprintf("%s was %v, is %v", path, was, is))
		}
	}
	return out
}
