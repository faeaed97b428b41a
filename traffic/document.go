package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
// differently: a member that stands twice, a member whose name differs from
// ours in case only, and bytes that are not UTF-8. Two readers must never
// divide the same document in two ways.
func checkMembers(doc []byte) error {
	if !utf8.Valid(doc) {
		return errors.New("the text is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	return checkValue(d, false, 0)
}

// maxDepth is more than a valid document has.
const maxDepth = 8

func checkValue(d *json.Decoder, labels bool, depth int) error {
	tok, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("more than %d levels of nesting", maxDepth)
	}
	seen := map[string]bool{}
	for d.More() {
		inLabels := false
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
			if !labels && !lowerCase(name) {
				return fmt.Errorf("unknown member %q", name)
			}
			inLabels = name == "labels"
		}
		if err := checkValue(d, inLabels, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

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
