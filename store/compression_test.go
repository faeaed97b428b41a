package store

import (
	"testing"
	"time"

	"ballast/fleet"
)

// Every value that was put and sealed is counted, and no other.
func TestCompressionCountsWhatIsSealed(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{Interval: 10 * time.Second})
	for i := range 1000 {
		put(t, db, look(c.add(10*time.Second), i))
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.rollUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var want int64
	r := fleet.Range{From: fromMS(0), To: fromMS(db.sealedUntil())}
	s := series(t, db, fleet.KindServer, "n1", fleet.ColMem, r, 1)
	for _, p := range s.Data {
		want += int64(p.N)
	}
	all, err := db.Compression(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]bool{}
	for _, x := range all {
		tables[x.Table] = true
		if x.Blobs <= 0 || x.Values <= 0 || x.Bytes <= 0 {
			t.Errorf("%+v", x)
		}
		if x.Table == "raw" && x.Kind == fleet.KindServer && x.Values != want*int64(len(columnsOf[fleet.KindServer])) {
			t.Errorf("%d values of servers, %d looks were sealed", x.Values, want)
		}
	}
	if !tables["raw"] || !tables["m1"] {
		t.Errorf("tables %v", tables)
	}
}
