package traffic

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

var updateVectors = flag.Bool("update-vectors", false, "write docs/contracts/vectors.json anew")

const vectorFile = "../docs/contracts/vectors.json"

// vectors are what every implementation of the contract must agree on. Numbers of
// 64 bits are written as decimal text: not every language reads them from JSON.
type vectors struct {
	Documents []documentVector `json:"documents"`
	Newer     []newerVector    `json:"newer"`
	Weighted  []weightedVector `json:"weighted"`
	Keys      []keyVector      `json:"keys"`
	Shares    []shareVector    `json:"shares"`
}

// documentVector is a document as it stands in the bucket, and whether a reader
// takes it.
type documentVector struct {
	Name  string `json:"name"`
	Doc   string `json:"doc"`
	Takes bool   `json:"takes"`
}

// newerVector says whether a document replaces the one in force.
type newerVector struct {
	Epoch    string `json:"epoch"`
	Rev      string `json:"rev"`
	NewEpoch string `json:"newepoch"`
	NewRev   string `json:"newrev"`
	Takes    bool   `json:"takes"`
}

// weightedVector is the targets of a run of messages, by the counter of the first.
type weightedVector struct {
	Split  Split     `json:"split"`
	Health []float64 `json:"health,omitempty"`
	From   string    `json:"from"`
	Picks  []string  `json:"picks"`
}

// keyVector is the targets of keys.
type keyVector struct {
	Split  Split             `json:"split"`
	Health []float64         `json:"health,omitempty"`
	Picks  map[string]string `json:"picks"`
}

// shareVector is each target's share of all messages, in the picker's order.
type shareVector struct {
	Split  Split     `json:"split"`
	Health []float64 `json:"health,omitempty"`
	Shares []float64 `json:"shares"`
}

// spoil changes a valid document by text.
func spoil(tb testing.TB, doc, old, with string) string {
	tb.Helper()
	if strings.Count(doc, old) != 1 {
		tb.Fatalf("%q does not stand once in the document", old)
	}
	return strings.Replace(doc, old, with, 1)
}

func makeVectors(tb testing.TB) vectors {
	var v vectors
	s := splitOf(60, 30, 10)
	rev := Revision{V: 1, Epoch: math.MaxUint64, Number: 7, Base: 6, Change: "chg", Author: "ana", Reason: "why", Split: s}
	good, err := rev.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	doc := string(good)
	rev.Split = tiered(2, &Spill{Factor: 120, Panic: 40})
	rev.Split.Pick, rev.Split.Key = ByKey, &Keyed{From: FromToken, Token: 2, Hash: Ring, Bound: 150}
	rev.Split.Lanes, rev.Split.Retry = DefaultLanes(), &Retries{Percent: 5, Burst: 7}
	rev.Split.Targets[0].Labels = map[string]string{"Region": "ea<st", "region": "x"}
	rev.Split.Targets[0].Observe = &Observed{Stream: "ORDERS", Consumer: "east"}
	full, err := rev.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range []struct{ name, doc string }{
		{"the least", doc},
		{"all members", string(full)},
		{"white space", " \n\t" + doc + "\r\n"},
		{"nothing", ""},
		{"two documents", doc + doc},
		{"not an object", "[" + doc + "]"},
		{"null", "null"},
		{"version 2", spoil(tb, doc, `"v":1`, `"v":2`)},
		{"version as text", spoil(tb, doc, `"v":1`, `"v":"1"`)},
		{"revision 0", spoil(tb, doc, `"rev":7`, `"rev":0`)},
		{"base not below", spoil(tb, doc, `"base":6`, `"base":7`)},
		{"a fraction", spoil(tb, doc, `"rev":7`, `"rev":7.5`)},
		{"beyond 64 bits", spoil(tb, doc, `18446744073709551615`, `18446744073709551616`)},
		{"unknown member", spoil(tb, doc, `"v":1`, `"v":1,"w":2`)},
		{"unknown member of a target", spoil(tb, doc, `"name":"t0"`, `"name":"t0","zone":"a"`)},
		{"member twice", spoil(tb, doc, `"rev":7`, `"rev":7,"rev":7`)},
		{"other case", spoil(tb, doc, `"rev":7`, `"Rev":7`)},
		{"trailing comma", spoil(tb, doc, `"v":1`, `"v":1,`)},
		{"weights sum to 99", spoil(tb, doc, `"weight":60`, `"weight":59`)},
		{"negative weight", spoil(tb, spoil(tb, doc, `"weight":60`, `"weight":110`), `"weight":30`, `"weight":-20`)},
		{"a target twice", spoil(tb, doc, `"name":"t1"`, `"name":"t0"`)},
		{"a subject twice", spoil(tb, doc, `"subject":"orders.process.t1"`, `"subject":"orders.process.t0"`)},
		{"a wildcard", spoil(tb, doc, `"subject":"orders.process.t1"`, `"subject":"orders.process.*"`)},
		{"unknown state", strings.Replace(doc, `"state":"READY"`, `"state":"ready"`, 1)},
		{"weight while draining", strings.Replace(doc, `"state":"READY"`, `"state":"DRAIN"`, 1)},
		{"tier 10", strings.Replace(doc, `"tier":0`, `"tier":10`, 1)},
		{"unknown pick", spoil(tb, doc, `"pick":"weighted"`, `"pick":"random"`)},
		{"no targets", doc[:strings.Index(doc, `"targets"`)] + `"targets":[]}}`},
		{"a bound of 100", spoil(tb, string(full), `"bound":150`, `"bound":100`)},
		{"a lane without time", spoil(tb, string(full), `"timeoutms":1000`, `"timeoutms":0`)},
		{"a lane to nobody", spoil(tb, string(full), `"timeoutms":1000`, `"timeoutms":1000,"target":"x"`)},
		{"a mapping", spoil(tb, doc, `"driver":"kv"`, `"driver":"mapping-jwt"`)},
		{"a mapping by key", spoil(tb, string(full), `"driver":"kv"`, `"driver":"mapping-config"`)},
		{"a mapping to itself", spoil(tb, spoil(tb, doc, `"driver":"kv"`, `"driver":"mapping-jwt"`), `"orders.process.t1"`, `"orders.process"`)},
		{"key of a weighted split", spoil(tb, string(full), `"pick":"key"`, `"pick":"weighted"`)},
		{"labels with one name twice", spoil(tb, string(full), `"Region"`, `"region"`)},
		{"a member that is null", spoil(tb, doc, `"author":"ana"`, `"author":null`)},
		{"an option that is null", spoil(tb, doc, `"driver":"kv"`, `"driver":"kv","key":null`)},
		{"a label that is null", spoil(tb, string(full), `"Region":"ea\u003cst"`, `"Region":null`)},
		{"without an author", spoil(tb, doc, `"author":"ana",`, ``)},
		{"without a base", spoil(tb, doc, `"base":6,`, ``)},
		{"a target without a tier", strings.Replace(doc, `"tier":0,`, ``, 1)},
		{"a lane without retries", spoil(tb, string(full), `"timeoutms":1000,"retries":3`, `"timeoutms":1000`)},
		{"an order that is empty", spoil(tb, doc, `"driver":"kv"`, `"driver":"kv","order":""`)},
		{"a bound of 0", spoil(tb, string(full), `"bound":150`, `"bound":0`)},
		{"a number with a point", spoil(tb, doc, `"weight":60`, `"weight":60.0`)},
		{"a number with an exponent", spoil(tb, doc, `"weight":60`, `"weight":6e1`)},
		{"a number with a sign", strings.Replace(doc, `"tier":0`, `"tier":-0`, 1)},
		{"a time with an offset", spoil(tb, doc, `"at":"0001-01-01T00:00:00Z"`, `"at":"2026-11-24T06:00:00.25+01:00"`)},
		{"a day without a time", spoil(tb, doc, `"at":"0001-01-01T00:00:00Z"`, `"at":"2026-11-24"`)},
		{"a time without seconds", spoil(tb, doc, `"at":"0001-01-01T00:00:00Z"`, `"at":"2026-11-24T06:00Z"`)},
		{"30 February", spoil(tb, doc, `"at":"0001-01-01T00:00:00Z"`, `"at":"2026-02-30T06:00:00Z"`)},
		{"more than 64 KiB", spoil(tb, doc, `"why"`, `"`+strings.Repeat("w", MaxDocument)+`"`)},
	} {
		_, err := Parse([]byte(d.doc))
		v.Documents = append(v.Documents, documentVector{d.name, d.doc, err == nil})
	}
	for _, n := range [][4]uint64{{1, 5, 1, 6}, {1, 5, 1, 5}, {1, 5, 1, 4}, {1, 5, 2, 1}, {2, 1, 1, 9}, {1, 1 << 63, 1, 1<<63 + 1}} {
		old, next := Revision{Epoch: n[0], Number: n[1]}, Revision{Epoch: n[2], Number: n[3]}
		u := func(x uint64) string { return strconv.FormatUint(x, 10) }
		v.Newer = append(v.Newer, newerVector{u(n[0]), u(n[1]), u(n[2]), u(n[3]), next.Newer(old)})
	}
	for _, order := range []Order{"", Spread, Smooth} {
		for _, from := range []uint64{0, 1 << 40, math.MaxUint64 - 150} {
			for _, health := range [][]float64{nil, {1, 0, 1, 1}, {0.3, 1, 1, 0.5}} {
				s := tiered(2, nil)
				s.Order = order
				p := mustPicker(tb, s).With(health)
				x := weightedVector{Split: s, Health: health, From: strconv.FormatUint(from, 10)}
				for n := range uint64(120) {
					x.Picks = append(x.Picks, p.targets[p.PickNth(from+n)].Name)
				}
				v.Weighted = append(v.Weighted, x)
			}
		}
	}
	for _, h := range []Hash{"", Ring} {
		for _, health := range [][]float64{nil, {0, 1, 1, 1}, {0.3, 1, 0, 0.5}, {0, 0, 0, 0}} {
			s := tiered(2, nil)
			s.Pick, s.Key = ByKey, &Keyed{Hash: h}
			p := mustPicker(tb, s).With(health)
			x := keyVector{s, health, map[string]string{}}
			for i := range 60 {
				key := fmt.Sprintf("customer-%d", i)
				x.Picks[key] = p.targets[p.PickKey(key)].Name
			}
			x.Picks["ключ €"] = p.targets[p.PickKey("ключ €")].Name
			v.Keys = append(v.Keys, x)
		}
	}
	for _, health := range [][]float64{nil, {1, 0.5, 1, 1, 1, 1}, {0, 1, 1, 1, 1, 1}, {0, 0.2, 0.1, 0, 1, 1}, {0, 0, 0, 0, 0, 0}, {0.2, 0.2, 0, 0.1, 0, 0}} {
		s := tiered(3, &Spill{Factor: 130, Panic: 30})
		p := mustPicker(tb, s).With(health)
		v.Shares = append(v.Shares, shareVector{s, health, p.share})
	}
	return v
}

// The vectors that other languages are tested by are what this package does.
func TestVectorsAreCurrent(t *testing.T) {
	t.Parallel()
	want := makeVectors(t)
	taken := 0
	for _, d := range want.Documents {
		if d.Takes {
			taken++
		}
	}
	if taken != 5 {
		t.Errorf("%d of the documents are taken, five should be", taken)
	}
	if *updateVectors {
		text, err := json.MarshalIndent(want, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var got vectors
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	// What was never set and what was read empty are the same.
	again, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var round vectors
	if err := json.Unmarshal(again, &round); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, round) {
		t.Errorf("%s is out of date: go test ./traffic -run Vectors -update-vectors", vectorFile)
	}
}
