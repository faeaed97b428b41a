package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func revisionOf(s Split) Revision {
	return Revision{
		V: Version, Epoch: 3, Number: 7, Base: 6, Change: "chg-1", Author: "ana", Reason: "east is slow",
		At: time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC), Split: s,
	}
}

func fullSplit() Split {
	s := splitOf(60, 30, 10)
	s.Targets[0].Labels = map[string]string{"region": "east"}
	s.Targets[0].Observe = &Observed{Account: "APP", Stream: "ORDERS", Consumer: "east"}
	s.Targets = append(s.Targets, Target{Name: "backup", Subject: "orders.process.backup", Tier: 1, Weight: 100, State: Ready},
		Target{Name: "old", Subject: "orders.process.old", State: Drain})
	return s
}

func TestDocumentRoundTrip(t *testing.T) {
	t.Parallel()
	want := revisionOf(fullSplit())
	doc, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(doc)
	if err != nil {
		t.Fatalf("Parse of what Marshal wrote: %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("round trip = %+v, want %+v", got, want)
	}
	if strings.Contains(string(doc), "Token") {
		t.Error("the KV revision is in the document")
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good, err := revisionOf(fullSplit()).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		t.Helper()
		s := strings.Replace(string(good), old, new, 1)
		if s == string(good) {
			t.Fatalf("%q is not in the document", old)
		}
		return s
	}
	tests := []struct{ name, doc, want string }{
		{"nothing", "", "EOF"},
		{"null", "null", "is null"},
		{"an array", "[]", "cannot unmarshal"},
		{"cut off", string(good[:len(good)-2]), "EOF"},
		{"data after the end", string(good) + "{}", "after its end"},
		{"an unknown member", replace(`"v":1`, `"v":1,"extra":1`), "unknown field"},
		{"an unknown member of a target", replace(`"tier":0`, `"tier":0,"ghost":1`), "unknown field"},
		{"a member that is null", replace(`"author":"ana"`, `"author":null`), "is null"},
		{"a label that is null", replace(`"region":"east"`, `"region":null`), "is null"},
		{"a member that is missing", replace(`"tier":0,`, ``), `"tier" is missing`},
		{"an option that is empty", replace(`"driver":"kv"`, `"driver":"kv","order":""`), "left out"},
		{"an option that is 0", replace(`"driver":"kv"`, `"driver":"kv","spill":{"panic":0}`), "left out"},
		{"half a time", replace(`"at":"2026-`, `"at":"26-`), "not a time"},
		{"a member twice", replace(`"weight":60`, `"weight":50,"weight":60`), "stands twice"},
		{"a label twice", replace(`"region":"east"`, `"region":"east","region":"west"`), "stands twice"},
		{"a member in other case", replace(`"weight":60`, `"Weight":60`), "unknown member"},
		{"a member by Unicode folding", replace(`"split"`, `"ſplit"`), "unknown member"},
		{"not UTF-8", replace("east is slow", "east \xff slow"), "not UTF-8"},
		{"another version", replace(`"v":1`, `"v":2`), "version 2"},
		{"no version", replace(`"v":1,`, ``), `"v" is missing`},
		{"no revision", replace(`"rev":7`, `"rev":0`), "revision 0"},
		{"a base that is no base", replace(`"base":6`, `"base":7`), "on base 7"},
		{"a negative revision", replace(`"rev":7`, `"rev":-7`), "not a whole number"},
		{"weights of 99", replace(`"weight":60`, `"weight":59`), "sum to 99"},
		{"weights of 101", replace(`"weight":60`, `"weight":61`), "sum to 101"},
		{"a broken weight", replace(`"weight":60`, `"weight":60.5`), "not a whole number"},
		{"a weight with a sign", replace(`"weight":60`, `"weight":-0`), "not a whole number"},
		{"a weight with an exponent", replace(`"weight":60`, `"weight":6e1`), "not a whole number"},
		{"NaN", replace(`"weight":60`, `"weight":NaN`), "invalid character"},
		{"a weight as text", replace(`"weight":60`, `"weight":"60"`), "cannot unmarshal"},
		{"a huge weight", replace(`"weight":60`, `"weight":1`+strings.Repeat("0", 400)), "cannot unmarshal"},
		{"no targets", replace(`"targets":[`, `"targets":[],"x":[`), "unknown field"},
		{"deep nesting", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "nesting"},
		{"too large", strings.Repeat(" ", MaxDocument) + string(good), "limit"},
	}
	for _, tt := range tests {
		_, err := Parse([]byte(tt.doc))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse of %s = %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(*Revision)
	}{
		{"weights that do not sum to 100", func(r *Revision) { r.Split = splitOf(60, 30) }},
		{"no targets", func(r *Revision) { r.Split = splitOf() }},
		{"no version", func(r *Revision) { r.V = 0 }},
		{"revision 0", func(r *Revision) { r.Number, r.Base = 0, 0 }},
		{"more than 64 KiB", func(r *Revision) { r.Reason = strings.Repeat("x", MaxDocument) }},
		{"a year that JSON has no form for", func(r *Revision) { r.At = r.At.AddDate(10000, 0, 0) }},
	}
	for _, tt := range tests {
		r := revisionOf(fullSplit())
		tt.spoil(&r)
		if doc, err := r.Marshal(); err == nil {
			t.Errorf("Marshal of %s wrote %d bytes, want an error", tt.name, len(doc))
		}
	}
}

func TestNewer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		epoch, number, oldEpoch, oldNumber uint64
		want                               bool
	}{
		{1, 2, 1, 1, true},
		{1, 1, 1, 1, false}, // the same again
		{1, 1, 1, 2, false},
		{2, 1, 1, 9, true},   // a new leader
		{1, 10, 2, 9, false}, // a deposed one
	}
	for _, tt := range tests {
		r, old := Revision{Epoch: tt.epoch, Number: tt.number}, Revision{Epoch: tt.oldEpoch, Number: tt.oldNumber}
		if got := r.Newer(old); got != tt.want {
			t.Errorf("epoch %d revision %d newer than %d/%d = %v, want %v", tt.epoch, tt.number, tt.oldEpoch, tt.oldNumber, got, tt.want)
		}
	}
}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(*Split)
		field string
	}{
		{"no name", func(s *Split) { s.Name = "" }, "name"},
		{"a name with a dot", func(s *Split) { s.Name = "a.b" }, "name"},
		{"a name with markup", func(s *Split) { s.Name = "<b>" }, "name"},
		{"a long name", func(s *Split) { s.Name = strings.Repeat("a", 65) }, "name"},
		{"no subject", func(s *Split) { s.Subject = "" }, "subject"},
		{"a wildcard subject", func(s *Split) { s.Subject = "orders.>" }, "subject"},
		{"a subject of the server", func(s *Split) { s.Subject = "$SYS.x" }, "subject"},
		{"an unknown pick", func(s *Split) { s.Pick = "fastest" }, "pick"},
		{"an unknown driver", func(s *Split) { s.Driver = "dns" }, "driver"},
		{"an unknown mode", func(s *Split) { s.Mode = "wild" }, "mode"},
		{"an unknown law", func(s *Split) { s.Law = "jungle" }, "law"},
		{"no targets", func(s *Split) { s.Targets = nil }, "targets"},
		{"too many targets", func(s *Split) { s.Targets = splitOf(even(MaxTargets + 1)...).Targets }, "targets"},
		{"none is READY", func(s *Split) {
			for i := range s.Targets {
				s.Targets[i].State, s.Targets[i].Weight = Maint, 0
			}
		}, "targets"},
		{"a target without a name", func(s *Split) { s.Targets[0].Name = "" }, "targets.0.name"},
		{"a name twice", func(s *Split) { s.Targets[1].Name = "t0" }, "targets.t0.name"},
		{"a subject twice", func(s *Split) { s.Targets[1].Subject = s.Targets[0].Subject }, "targets.t1.subject"},
		{"a bad target subject", func(s *Split) { s.Targets[0].Subject = "a..b" }, "targets.t0.subject"},
		{"a negative tier", func(s *Split) { s.Targets[0].Tier = -1 }, "targets.t0.tier"},
		{"tier 10", func(s *Split) { s.Targets[0].Tier = 10 }, "targets.t0.tier"},
		{"a negative weight", func(s *Split) { s.Targets[0].Weight, s.Targets[1].Weight = -10, 100 }, "targets.t0.weight"},
		{"a weight over 100", func(s *Split) { s.Targets[0].Weight = 101 }, "targets.t0.weight"},
		{"a drained target with weight", func(s *Split) { s.Targets[0].State = Drain }, "targets.t0.weight"},
		{"an unknown state", func(s *Split) { s.Targets[0].State = "READYISH" }, "targets.t0.state"},
		{"observed nowhere", func(s *Split) { s.Targets[0].Observe = &Observed{Stream: "S"} }, "targets.t0.observe"},
		{"observed at a wildcard", func(s *Split) { s.Targets[0].Observe = &Observed{Stream: "S", Consumer: "*"} }, "targets.t0.observe"},
		{"a sum of 99", func(s *Split) { s.Targets[0].Weight-- }, "tier.0"},
		{"a backup tier of 50", func(s *Split) { s.Targets[3].Weight = 50 }, "tier.1"},
	}
	for _, tt := range tests {
		s := fullSplit()
		tt.spoil(&s)
		var invalid *Invalid
		if !errors.As(s.Validate(), &invalid) {
			t.Errorf("%s: Validate = nil", tt.name)
			continue
		}
		found := false
		for _, p := range invalid.Problems {
			found = found || p.Field == tt.field
		}
		if !found {
			t.Errorf("%s: problems %v, want one of field %s", tt.name, invalid.Problems, tt.field)
		}
	}
	if err := fullSplit().Validate(); err != nil {
		t.Errorf("a good split: %v", err)
	}
}

func TestValidSubject(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"a": true, "a.b.c": true, "orders.process.east-1": true, "über.straße": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "*": false, "a.*": false, "a.>": false,
		"a b": false, "a\tb": false, "a\r\nPUB x 0": false, "a\x00": false, "$JS.API.x": false,
		strings.Repeat("a", 255): true, strings.Repeat("a", 256): false,
	} {
		if got := ValidSubject(s); got != want {
			t.Errorf("ValidSubject(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	before := fullSplit()
	if d := Diff(before, fullSplit()); d != nil {
		t.Errorf("Diff of equal splits = %v, want nothing", d)
	}
	after := fullSplit().WithWeights(map[string]int{"t0": 50, "t1": 40})
	after.Targets[2].Labels = map[string]string{"region": "west"}
	after.Targets = append(after.Targets[:3:3], after.Targets[4], Target{Name: "new", Subject: "n", State: Drain})
	after.Targets[3].Observe = &Observed{Stream: "S", Consumer: "C"}
	var got []string
	for _, d := range Diff(before, after) {
		switch {
		case d.Before == nil:
			got = append(got, "+"+d.Name)
		case d.After == nil:
			got = append(got, "-"+d.Name)
		default:
			got = append(got, fmt.Sprintf("%s %d→%d", d.Name, d.Before.Weight, d.After.Weight))
		}
	}
	want := "[t0 60→50 t1 30→40 t2 10→10 old 0→0 +new -backup]"
	if fmt.Sprint(got) != want {
		t.Errorf("Diff = %v, want %s", got, want)
	}
	if before.Targets[0].Weight != 60 {
		t.Error("WithWeights changed the split it was called on")
	}
}

// What a reader takes, a writer can write, and it reads the same.
func FuzzParse(f *testing.F) {
	good, err := revisionOf(fullSplit()).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"v":1,"rev":1,"split":{"name":"a","targets":[{}]}}`))
	f.Add([]byte(`{"v":1,"v":1}`))
	f.Add([]byte("[[[[[[[[[[[["))
	f.Fuzz(func(t *testing.T, doc []byte) {
		r, err := Parse(doc)
		if err != nil {
			return
		}
		if !json.Valid(doc) {
			t.Fatalf("Parse took what is not JSON: %q", doc)
		}
		again, err := r.Marshal()
		if err != nil {
			if len(doc) > MaxDocument/6 { // escapes make the text up to six times as long
				return
			}
			t.Fatalf("what was parsed is not written: %v", err)
		}
		back, err := Parse(again)
		if err != nil {
			t.Fatalf("what was written is not parsed: %v", err)
		}
		if third, err := back.Marshal(); err != nil || string(third) != string(again) {
			t.Fatalf("written again it differs: %v\n%s\n%s", err, again, third)
		}
		p, err := NewPicker(r.Split)
		if err != nil {
			t.Fatalf("a parsed split has no picker: %v", err)
		}
		for range 100 {
			if x := p.Targets()[p.Pick()]; x.State != Ready || x.Weight == 0 {
				t.Fatalf("picked %+v", x)
			}
		}
	})
}
