package traffic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
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

// Parse reads a document strictly: unknown fields, another version, trailing
// data, weights that do not sum to 100 and anything over 64 KiB are refused. A
// reader that gets an error keeps its last good revision.
func Parse(doc []byte) (Revision, error) {
	if len(doc) > MaxDocument {
		return Revision{}, fmt.Errorf("the document has %d bytes, the limit is %d", len(doc), MaxDocument)
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
	labels := maps.Equal(t.Labels, o.Labels)
	t.Observe, o.Observe, t.Labels, o.Labels = nil, nil, nil, nil
	return sameObserved && labels && t.Name == o.Name && t.Subject == o.Subject && t.Weight == o.Weight && t.Tier == o.Tier && t.State == o.State
}
