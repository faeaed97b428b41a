package lb_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ballast/traffic"
)

// Two readers that differ about a document divide the messages in two ways. So
// every member of three documents is taken away, and put to everything that it
// might be, and both readers must say the same of each.
func TestJavaScriptRefusesTheSameDocuments(t *testing.T) {
	t.Parallel()
	type document struct {
		Name  string `json:"name"`
		Doc   string `json:"doc"`
		Takes bool   `json:"takes"`
	}
	var docs []document
	taken := 0
	for i, s := range spoiledSplits() {
		good, err := revision(5, 7, s).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := json.Unmarshal(good, &tree); err != nil {
			t.Fatal(err)
		}
		spoil(t, fmt.Sprint("document ", i), tree, func(name, doc string) {
			_, err := traffic.Parse([]byte(doc))
			docs = append(docs, document{name, doc, err == nil})
			if err == nil {
				taken++
			}
		})
	}
	if len(docs) < 5000 || taken < 100 {
		t.Fatalf("%d documents, %d of them taken: that proves little", len(docs), taken)
	}
	none := []any{}
	text, err := json.Marshal(map[string]any{"documents": docs, "newer": none, "weighted": none, "keys": none, "shares": none})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spoiled.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "conformance.mjs", file)
	cmd.Dir = javascript(t)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), ", 0 wrong") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%d of them taken; %s", taken, out)
}

// spoiledSplits have every member between them.
func spoiledSplits() []traffic.Split {
	full := splitOf(weights{"east": 60, "west": 40})
	full.Pick, full.Key = traffic.ByKey, &traffic.Keyed{From: traffic.FromToken, Token: 2, Hash: traffic.Ring, Bound: 150}
	full.Spill, full.Retry = &traffic.Spill{Factor: 120, Panic: 40}, &traffic.Retries{Percent: 5, Burst: 7}
	full.Lanes = []traffic.Lane{{Name: "high", TimeoutMS: 100, Retries: 2, Target: "east", Fallback: "west"}}
	full.Targets[0].Labels = map[string]string{"Region": "east"}
	full.Targets[0].Observe = &traffic.Observed{Account: "A", Stream: "ORDERS", Consumer: "east"}
	ordered := splitOf(weights{"east": 60, "west": 40})
	ordered.Order, ordered.Local = traffic.Smooth, traffic.TwoChoices
	header := splitOf(weights{"east": 60, "west": 40})
	header.Pick, header.Key = traffic.ByKey, &traffic.Keyed{Header: "Tenant"}
	return []traffic.Split{full, ordered, header}
}

// anything is what a member is put to.
var anything = []string{
	"null", "true", "false", "[]", "{}", "[null]", "[[[[[[[[[1]]]]]]]]]", "nul", "truex", "NaN",
	"0", "-0", "1", "-1", "1.0", "1e0", "1E2", "2.5", "100", "101", "00", "01", "1.", "+1", "1x",
	"9223372036854775808", "18446744073709551615", "18446744073709551616",
	`""`, `"x"`, `"a b"`, `"\u0000"`, `"\ud800"`, `"$x"`, `"a.*"`, `"READY"`, `"DRAIN"`, `"kv"`, `"mapping-jwt"`, `"header"`, `"caller"`, `"random"`, `"weighted"`,
	`"2026-11-24T06:00:00Z"`, `"2026-11-24T06:00:00+01:00"`, `"2026-11-24T06:00:00.123456789Z"`, `"9999-12-31T23:59:59-23:59"`, `"2024-02-29T00:00:00Z"`,
	`"2026-11-24"`, `"2026-11-24 06:00:00Z"`, `"2026-11-24t06:00:00z"`, `"2026-11-24T06:00Z"`, `"2026-11-24T6:00:00Z"`, `"2026-11-24T06:00:00"`,
	`"2026-02-30T06:00:00Z"`, `"2026-11-24T24:00:00Z"`, `"2026-11-24T06:00:60Z"`, `"2026-11-24T06:00:00,5Z"`, `"2026-11-24T06:00:00.0000000001Z"`,
	`"2026-11-24T06:00:00+24:00"`, `"2026-11-24T06:00:00+23:60"`, `"+002026-11-24T06:00:00Z"`, `"2026-00-01T00:00:00Z"`,
}

// spoil emits the document with each of its values in turn replaced by anything,
// and without each of its members.
func spoil(t *testing.T, name string, tree any, emit func(name, doc string)) {
	t.Helper()
	text := func(v any) json.RawMessage {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// put is the document with another value at this place. It is put together by
	// hand, since much of anything is no JSON.
	var walk func(name string, node any, put func(string) string)
	walk = func(name string, node any, put func(string) string) {
		for _, v := range anything {
			emit(name+" = "+v, put(v))
		}
		switch node := node.(type) {
		case map[string]any:
			for k := range node {
				rest := maps.Clone(node)
				delete(rest, k)
				emit(name+" without "+k, put(string(text(rest))))
				head := strings.TrimSuffix(string(text(rest)), "}")
				if len(rest) > 0 {
					head += ","
				}
				walk(name+"."+k, node[k], func(v string) string { return put(head + string(text(k)) + ":" + v + "}") })
			}
		case []any:
			for i := range node {
				walk(fmt.Sprintf("%s.%d", name, i), node[i], func(v string) string {
					items := make([]string, len(node))
					for j := range node {
						items[j] = string(text(node[j]))
					}
					items[i] = v
					return put("[" + strings.Join(items, ",") + "]")
				})
			}
		}
	}
	walk(name, tree, func(v string) string { return v })
}
