package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"unicode/utf8"
)

// Version of the KV document's format.
const Version = 1

// Bucket is the KV bucket of the documents; Key is a split's key in it.
const Bucket = "BALLAST"

// Key returns the KV key of a split.
func Key(split string) string { return "split." + split }

// Marshal returns the document. An invalid revision is refused: nothing that a
// reader would refuse is ever written.
func (r Revision) Marshal() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	doc, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode split %s: %w", r.Split.Name, err)
	}
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("the document of split %s has %d bytes, the limit is %d", r.Split.Name, len(doc), MaxDocument)
	}
	return doc, nil
}

// Parse reads a document strictly: unknown and repeated fields, another
// version, trailing data, weights that do not sum to 100 and anything over
// 64 KiB are refused. A reader that gets an error keeps its last good revision.
func Parse(doc []byte) (Revision, error) {
	if len(doc) > MaxDocument {
		return Revision{}, fmt.Errorf("the document has %d bytes, the limit is %d", len(doc), MaxDocument)
	}
	if err := checkMembers(doc); err != nil {
		return Revision{}, fmt.Errorf("parse split document: %w", err)
	}
	var r Revision
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Revision{}, fmt.Errorf("parse split document: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Revision{}, fmt.Errorf("parse split document: data after its end")
	}
	if err := r.validate(); err != nil {
		return Revision{}, err
	}
	return r, nil
}

// checkMembers refuses what encoding/json lets pass and other languages read
// differently: a member that stands twice, that is missing, or whose name differs
// from ours in case only; null; numbers with a sign, a point or an exponent; times
// that are nearly ones; and bytes that are not UTF-8. Two readers must never divide
// the same document in two ways.
func checkMembers(doc []byte) error {
	if !utf8.Valid(doc) {
		return errors.New("the text is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	return checkValue(d, "", 0)
}

// required are the members that an object has, by the name of the member that it
// stands in.
var required = map[string][]string{
	"":        {"v", "epoch", "rev", "base", "change", "author", "reason", "at", "split"},
	"split":   {"name", "subject", "pick", "driver", "mode", "law", "targets"},
	"targets": {"name", "subject", "weight", "tier", "state"},
	"lanes":   {"name", "timeoutms", "retries"},
	"observe": {"stream", "consumer"},
}

// optional are the members that are left out instead of being 0 or empty.
var optional = map[string]bool{
	"order": true, "local": true, "from": true, "header": true, "token": true, "hash": true, "bound": true,
	"factor": true, "panic": true, "target": true, "fallback": true, "percent": true, "burst": true,
}

// maxDepth is more than a valid document has.
const maxDepth = 8

var (
	wholeNumber = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	timeStamp   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)
)

// checkValue checks the value of a member; "" is the document itself. What stands
// in labels has the names that an operator chose.
func checkValue(d *json.Decoder, member string, depth int) error {
	tok, err := d.Token()
	if err != nil {
		return err
	}
	var open json.Delim
	switch tok := tok.(type) {
	case nil:
		return fmt.Errorf("member %q is null", member)
	case json.Number:
		switch {
		case !wholeNumber.MatchString(tok.String()):
			return fmt.Errorf("member %q is %s, which is not a whole number", member, tok)
		case optional[member] && tok == "0":
			return fmt.Errorf("member %q is 0: it is to be left out", member)
		}
		return nil
	case string:
		switch {
		case member == "at" && !timeStamp.MatchString(tok):
			return fmt.Errorf("member %q is %q, which is not a time of RFC 3339", member, tok)
		case optional[member] && tok == "":
			return fmt.Errorf("member %q is empty: it is to be left out", member)
		}
		return nil
	case json.Delim:
		open = tok
	default:
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("more than %d levels of nesting", maxDepth)
	}
	seen := map[string]bool{}
	for d.More() {
		inside := member // the values of a list stand in its member
		if open == '{' {
			tok, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := tok.(string) // the decoder lets nothing else be a name
			if seen[name] {
				return fmt.Errorf("member %q stands twice", name)
			}
			seen[name] = true
			if member != inLabels && !lowerCase(name) {
				return fmt.Errorf("unknown member %q", name)
			}
			if inside = name; member == inLabels {
				inside = inLabels
			}
		}
		if err := checkValue(d, inside, depth+1); err != nil {
			return err
		}
	}
	if open == '{' {
		for _, name := range required[member] {
			if !seen[name] {
				return fmt.Errorf("member %q is missing", name)
			}
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

const inLabels = "labels"

// lowerCase reports whether s could be the name of a member of ours.
func lowerCase(s string) bool {
	for i := range len(s) {
		if s[i] < 'a' || s[i] > 'z' {
			return false
		}
	}
	return s != ""
}

func (r Revision) validate() error {
	if r.V != Version {
		return fmt.Errorf("split document has version %d, this program reads version %d", r.V, Version)
	}
	if r.Number == 0 || r.Base >= r.Number {
		return fmt.Errorf("split document has revision %d on base %d", r.Number, r.Base)
	}
	return r.Split.Validate()
}

// Newer reports whether r may take the place of old at a reader: a lower epoch,
// or a lower revision of the same epoch, is refused.
func (r Revision) Newer(old Revision) bool {
	if r.Epoch != old.Epoch {
		return r.Epoch > old.Epoch
	}
	return r.Number > old.Number
}

func (t Target) equal(o Target) bool {
	sameObserved := t.Observe == o.Observe || t.Observe != nil && o.Observe != nil && *t.Observe == *o.Observe
	return sameObserved && maps.Equal(t.Labels, o.Labels) &&
		t.Name == o.Name && t.Subject == o.Subject && t.Weight == o.Weight && t.Tier == o.Tier && t.State == o.State
}
