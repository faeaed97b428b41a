package traffic

import (
	"encoding/json"
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
	if p := mustPicker(t, r.Split); len(p.Targets()) != 2 {
		t.Errorf("the example divides over %d targets, the text says 2", len(p.Targets()))
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

	// Each word of the schema is one that Validate takes.
	for field, set := range map[string]func(*Split, string){
		"pick":   func(s *Split, w string) { s.Pick = Pick(w) },
		"driver": func(s *Split, w string) { s.Driver = Driver(w) },
		"mode":   func(s *Split, w string) { s.Mode = Mode(w) },
		"law":    func(s *Split, w string) { s.Law = Law(w) },
	} {
		words := split.Properties[field].Enum
		if len(words) == 0 {
			t.Errorf("the schema has no words for %s", field)
		}
		for _, w := range words {
			s := splitOf(100)
			set(&s, w)
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
