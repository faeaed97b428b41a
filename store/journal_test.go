package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

func appendAll(tb testing.TB, j *Journal, n int) []traffic.Entry {
	tb.Helper()
	var list []traffic.Entry
	for i := range n {
		e, err := j.Append(tb.Context(), traffic.Entry{
			At: born.Add(time.Duration(i)*time.Second + 123456*time.Nanosecond), Kind: traffic.EntryIntent, Split: fmt.Sprint("split", i%3),
			Change: fmt.Sprint("c", i/2), Proposal: fmt.Sprint("p", i), Actor: hostile[i%len(hostile)], Text: "Weights of " + hostile[i%len(hostile)],
			Data: json.RawMessage(fmt.Sprintf(`{"i": %d, "s": " \u0000"}`, i)),
		})
		if err != nil {
			tb.Fatalf("Append: %v", err)
		}
		list = append(list, e)
	}
	return list
}

func sameEntry(a, b traffic.Entry) bool {
	return a.Seq == b.Seq && a.At.Equal(b.At) && a.Kind == b.Kind && a.Split == b.Split && a.Change == b.Change &&
		a.Proposal == b.Proposal && a.Actor == b.Actor && a.Text == b.Text && string(a.Data) == string(b.Data) && a.Prev == b.Prev && a.Hash == b.Hash
}

func TestJournalRoundTrip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := openTest(t, dir, newClock(), Options{}).Journal()
	want := appendAll(t, j, 30)
	for i, e := range want {
		if e.Seq != uint64(i+1) || i > 0 && e.Prev != want[i-1].Hash {
			t.Errorf("entry %d: seq %d, prev %s", i, e.Seq, e.Prev)
		}
	}
	j = openTest(t, copyDir(t, dir), newClock(), Options{}).Journal()
	var got []traffic.Entry
	err := j.Replay(t.Context(), func(e traffic.Entry) error {
		got = append(got, e)
		return nil
	})
	if err != nil || !slices.EqualFunc(got, want, sameEntry) {
		t.Errorf("Replay gave %d entries, %v; they are not the %d appended", len(got), err, len(want))
	}
	if err := j.Verify(t.Context()); err != nil {
		t.Errorf("Verify = %v", err)
	}
	stop := errors.New("stop")
	if err := j.Replay(t.Context(), func(traffic.Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Replay = %v, want the error of the function", err)
	}
}

func TestJournalFilter(t *testing.T) {
	t.Parallel()
	j := openTest(t, t.TempDir(), newClock(), Options{}).Journal()
	all := appendAll(t, j, 30)
	slices.Reverse(all)
	for name, f := range map[string]traffic.EntryFilter{
		"none":   {},
		"split":  {Split: "split1"},
		"change": {Change: "c3"},
		"kind":   {Kind: traffic.EntryVerified},
		"time":   {From: born.Add(5 * time.Second), To: born.Add(9 * time.Second)},
		"page":   {Before: 12, Limit: 4, Split: "split2"},
	} {
		var want []traffic.Entry
		for _, e := range all {
			if (f.Split == "" || e.Split == f.Split) && (f.Change == "" || e.Change == f.Change) && (f.Kind == "" || e.Kind == f.Kind) &&
				!e.At.Before(f.From) && (f.To.IsZero() || e.At.Before(f.To)) && (f.Before == 0 || e.Seq < f.Before) &&
				(f.Limit == 0 || len(want) < f.Limit) {
				want = append(want, e)
			}
		}
		got, err := j.Entries(t.Context(), f)
		if err != nil || !slices.EqualFunc(got, want, sameEntry) {
			t.Errorf("%s: %d entries, %v, want %d", name, len(got), err, len(want))
		}
	}
}

func TestJournalRefuses(t *testing.T) {
	t.Parallel()
	db := openTest(t, t.TempDir(), newClock(), Options{})
	j := db.Journal()
	for _, e := range []traffic.Entry{
		{At: born},
		{Kind: traffic.EntryIntent},
		{Kind: traffic.EntryIntent, At: born, Data: json.RawMessage("{")},
	} {
		if _, err := j.Append(t.Context(), e); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("Append(%+v) = %v, want Invalid", e, err)
		}
	}
	appendAll(t, j, 2)
	for _, q := range []string{
		"UPDATE journal SET text = 'x' WHERE seq = 1",
		"DELETE FROM journal",
	} {
		if _, err := db.console.w.Exec(q); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", q, err)
		}
	}
	// What cannot be written is said.
	if err := db.console.w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), traffic.Entry{Kind: traffic.EntryIntent, At: born}); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("Append to a closed file = %v, want Unavailable", err)
	}
}

func TestVerifyFindsTampering(t *testing.T) {
	t.Parallel()
	drop := "DROP TRIGGER journal_no_update; DROP TRIGGER journal_no_delete; "
	for name, tt := range map[string]struct{ sql, says string }{
		"text":           {"UPDATE journal SET text = text || 'x' WHERE seq = 7", "entry 7"},
		"time":           {"UPDATE journal SET at = at + 1 WHERE seq = 7", "entry 7"},
		"actor":          {"UPDATE journal SET actor = 'nobody' WHERE seq = 7", "entry 7"},
		"kind":           {"UPDATE journal SET kind = 'change.written' WHERE seq = 7", "entry 7"},
		"moved text":     {"UPDATE journal SET split = split || 'W', text = substr(text, 2) WHERE seq = 7", "entry 7"},
		"data":           {"UPDATE journal SET data = CAST('{}' AS BLOB) WHERE seq = 7", "entry 7"},
		"no data":        {"UPDATE journal SET data = NULL WHERE seq = 7", "entry 7"},
		"first":          {"UPDATE journal SET text = 'x' WHERE seq = 1", "entry 1"},
		"last":           {"UPDATE journal SET text = 'x' WHERE seq = 20", "entry 20"},
		"deleted":        {"DELETE FROM journal WHERE seq = 7", "entry 7 is missing"},
		"deleted first":  {"DELETE FROM journal WHERE seq = 1", "entry 1 is missing"},
		"deleted last":   {"DELETE FROM journal WHERE seq = 20", "ends at entry 19 instead of 20"},
		"deleted all":    {"DELETE FROM journal", "ends at entry 0 instead of 20"},
		"deleted closed": {"DELETE FROM journal WHERE seq = 7; UPDATE journal SET seq = seq - 1 WHERE seq = 8", "entry 7"},
		"swapped":        {"UPDATE journal SET seq = 100 WHERE seq = 7; UPDATE journal SET seq = 7 WHERE seq = 8; UPDATE journal SET seq = 8 WHERE seq = 100", "entry 7"},
		"hash":           {"UPDATE journal SET hash = upper(hash) WHERE seq = 7", "entry 7"},
		"prev":           {"UPDATE journal SET prev = '' WHERE seq = 7", "entry 7"},
		"added":          {"INSERT INTO journal SELECT 21, at, kind, split, change, proposal, actor, text, data, hash, hash FROM journal WHERE seq = 19", "entry 21"},
		"end":            {"UPDATE journal_end SET seq = 19", "entry 20"},
		"no end":         {"DELETE FROM journal_end", "end is not recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := openTest(t, t.TempDir(), newClock(), Options{})
			appendAll(t, db.Journal(), 20)
			if err := db.Journal().Verify(t.Context()); err != nil {
				t.Fatalf("Verify before = %v", err)
			}
			if _, err := db.console.w.Exec(drop + tt.sql); err != nil {
				t.Fatal(err)
			}
			err := db.Journal().Verify(t.Context())
			if !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Verify = %v, want one that says %q", err, tt.says)
			}
		})
	}
}

// Any bit of any row.
func TestVerifyFindsBitFlips(t *testing.T) {
	t.Parallel()
	db := openTest(t, t.TempDir(), newClock(), Options{})
	appendAll(t, db.Journal(), 20)
	if _, err := db.console.w.Exec("DROP TRIGGER journal_no_update; PRAGMA synchronous=OFF"); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(25, 26))
	columns := []string{"at", "kind", "split", "change", "proposal", "actor", "text", "data", "prev", "hash"}
	for i := range 1000 {
		// Each field in turn, of an entry that has it.
		col := columns[i%len(columns)]
		var seq int
		var was any
		err := db.console.w.QueryRow("SELECT seq, "+col+" FROM journal WHERE length("+col+") > 0 ORDER BY (seq * ?) % 23 LIMIT 1", 1+rnd.IntN(22)).Scan(&seq, &was)
		if err != nil {
			t.Fatalf("find an entry with %s: %v", col, err)
		}
		var bent any
		flip := func(b []byte) []byte {
			b = slices.Clone(b)
			b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			return b
		}
		switch v := was.(type) {
		case int64:
			bent = v ^ 1<<rnd.IntN(40)
		case string:
			bent = string(flip([]byte(v)))
		case []byte:
			bent = flip(v)
		}
		set := "UPDATE journal SET " + col + " = ? WHERE seq = ?"
		if _, err := db.console.w.Exec(set, bent, seq); err != nil {
			t.Fatal(err)
		}
		if err := db.Journal().Verify(t.Context()); !errors.Is(err, ErrTampered) {
			t.Errorf("%s of entry %d from %q to %q: Verify = %v", col, seq, was, bent, err)
		}
		if _, err := db.console.w.Exec(set, was, seq); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Journal().Verify(t.Context()); err != nil {
		t.Errorf("Verify of the restored journal = %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	j := openTest(b, b.TempDir(), newClock(), Options{}).Journal()
	e := traffic.Entry{At: born, Kind: traffic.EntryIntent, Split: "orders", Actor: "me", Text: "x", Data: json.RawMessage(`{"a":1}`)}
	for b.Loop() {
		if _, err := j.Append(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}
