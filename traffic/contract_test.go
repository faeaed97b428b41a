package traffic

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The document in docs/contracts.md is one that readers take.
func TestDocumentedExampleIsValid(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/contracts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```json\n")
	doc, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/contracts.md has no JSON example")
	}
	r, err := Parse([]byte(doc))
	if err != nil {
		t.Fatalf("the example is refused: %v", err)
	}
	p, taking := mustPicker(t, r.Split), 0
	for i := range p.Targets() {
		if p.Share(i) > 0 {
			taking++
		}
	}
	if taking != 2 {
		t.Errorf("the example divides over %d targets, the text says 2", taking)
	}
}

// schema is what this test reads of a JSON schema.
type schema struct {
	Ref        string            `json:"$ref"`
	Defs       map[string]schema `json:"$defs"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Closed     any               `json:"additionalProperties"`
	Enum       []string          `json:"enum"`
	Pattern    string            `json:"pattern"`
	MaxItems   int               `json:"maxItems"`
	Items      *schema           `json:"items"`
}

// The schema names the members that the types have, and the words that
// Validate knows.
func TestSchemaAgreesWithTheTypes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/contracts/split.v1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	split, target := root.Properties["split"], root.Defs["target"]
	for _, tt := range []struct {
		what string
		s    schema
		of   reflect.Type
	}{
		{"document", root, reflect.TypeFor[Revision]()},
		{"split", split, reflect.TypeFor[Split]()},
		{"target", target, reflect.TypeFor[Target]()},
		{"observe", target.Properties["observe"], reflect.TypeFor[Observed]()},
		{"key", split.Properties["key"], reflect.TypeFor[Keyed]()},
		{"spill", split.Properties["spill"], reflect.TypeFor[Spill]()},
		{"lane", root.Defs["lane"], reflect.TypeFor[Lane]()},
		{"retry", split.Properties["retry"], reflect.TypeFor[Retries]()},
	} {
		var all, required []string
		for i := range tt.of.NumField() {
			name, opts, _ := strings.Cut(tt.of.Field(i).Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			all = append(all, name)
			if opts == "" {
				required = append(required, name)
			}
			if _, ok := tt.s.Properties[name]; !ok {
				t.Errorf("%s: the schema does not know %q", tt.what, name)
			}
		}
		if len(all) != len(tt.s.Properties) {
			t.Errorf("%s: the schema has %d members, the type %v", tt.what, len(tt.s.Properties), all)
		}
		slices.Sort(required)
		slices.Sort(tt.s.Required)
		if !slices.Equal(required, tt.s.Required) {
			t.Errorf("%s: the schema requires %v, the type %v", tt.what, tt.s.Required, required)
		}
		if tt.s.Closed != false {
			t.Errorf("%s: the schema lets unknown members pass", tt.what)
		}
	}

	// Each word of the schema is one that Validate takes, and the other way round.
	key := split.Properties["key"].Properties
	for field, tt := range map[string]struct {
		words []string
		code  any
		set   func(*Split, string)
	}{
		"pick":     {split.Properties["pick"].Enum, picks, func(s *Split, w string) { s.Pick = Pick(w) }},
		"driver":   {split.Properties["driver"].Enum, drivers, func(s *Split, w string) { s.Driver = Driver(w) }},
		"mode":     {split.Properties["mode"].Enum, modes, func(s *Split, w string) { s.Mode = Mode(w) }},
		"law":      {split.Properties["law"].Enum, laws, func(s *Split, w string) { s.Law = Law(w) }},
		"order":    {split.Properties["order"].Enum, orders, func(s *Split, w string) { s.Order = Order(w) }},
		"local":    {split.Properties["local"].Enum, locals, func(s *Split, w string) { s.Local = Local(w) }},
		"key.hash": {key["hash"].Enum, hashes, func(s *Split, w string) { s.Pick, s.Key = ByKey, &Keyed{Hash: Hash(w)} }},
		"key.from": {key["from"].Enum, sources, func(s *Split, w string) {
			s.Pick, s.Key = ByKey, &Keyed{From: Source(w)}
			if s.Key.From == FromToken {
				s.Key.Token = 2
			}
		}},
	} {
		words := tt.words
		if got, want := fmt.Sprint(words), fmt.Sprint(tt.code); got != want {
			t.Errorf("%s: the schema knows %s, the code %s", field, got, want)
		}
		if len(words) == 0 {
			t.Errorf("the schema has no words for %s", field)
		}
		for _, w := range words {
			s := splitOf(100)
			tt.set(&s, w)
			if err := s.Validate(); err != nil {
				t.Errorf("%s %q of the schema: %v", field, w, err)
			}
		}
	}
	if words := target.Properties["state"].Enum; !slices.Equal(words, []string{string(Ready), string(Drain), string(Maint)}) {
		t.Errorf("states of the schema: %v", words)
	}
	if got := split.Properties["targets"].MaxItems; got != MaxTargets {
		t.Errorf("the schema allows %d targets, the code %d", got, MaxTargets)
	}
	if got := root.Defs["name"].Pattern; got != namePattern.String() {
		t.Errorf("the schema's pattern of a name is %s, the code's %s", got, namePattern)
	}
	subject := regexp.MustCompile(root.Defs["subject"].Pattern)
	for _, s := range []string{"a", "a.b", "$a", "a.$b", "a..b", ".", "a.", "a b", "a.*", "a.>", "ü.ß", "a\x00"} {
		if got, want := subject.MatchString(s), ValidSubject(s); got != want {
			t.Errorf("subject %q: the schema says %v, the code %v", s, got, want)
		}
	}
}
