package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// damagedDir is what a crash and a bad disk leave: the files of a running
// store, metrics.db with garbage in the middle.
func damagedDir(t *testing.T, c *clock, damage func(name string)) string {
	t.Helper()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	fill(t, db, c, 0, 300)
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Journal().Append(t.Context(), traffic.Entry{At: c.now(), Kind: traffic.EntryIntent, Text: "kept"}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.metrics.w.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	to := copyDir(t, dir)
	damage(filepath.Join(to, "metrics.db"))
	return to
}

// A damaged file of measurements is put aside, said and replaced; the console's
// own file is never touched.
func TestDamagedMeasurementsArePutAside(t *testing.T) {
	t.Parallel()
	overwrite := func(from, n int64) func(string) {
		return func(name string) {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte(strings.Repeat("\xa5\x00\xff", int(n/3)+1)), from); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, x := range []struct {
		what   string
		damage func(name string)
	}{
		{"no header", overwrite(0, 100)},
		{"a schema of nonsense", overwrite(100, 8000)},
		{"pages of nonsense", overwrite(3*pageSize, 8*pageSize)},
		{"cut off", func(name string) {
			st, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(name, st.Size()/2); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			dir := damagedDir(t, c, x.damage)
			db := openTest(t, dir, c, Options{})
			aside, err := filepath.Glob(filepath.Join(dir, "metrics.damaged-*.db"))
			if err != nil || len(aside) != 1 {
				t.Fatalf("put aside: %v, %v", aside, err)
			}
			if p := db.Problems(); len(p) != 1 || !strings.Contains(p[0].Hint, filepath.Base(aside[0])) {
				t.Errorf("problems: %+v", p)
			}
			if err := db.Ready(); err != nil {
				t.Errorf("Ready = %v: the new file records", err)
			}
			fill(t, db, c, 0, 5)
			if p := db.Latest().Problems; len(p) != 1 {
				t.Errorf("a look says %+v", p)
			}
			entries, err := db.Journal().Entries(t.Context(), traffic.EntryFilter{})
			if err != nil || len(entries) != 1 || entries[0].Text != "kept" {
				t.Errorf("journal: %+v, %v", entries, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openTest(t, dir, c, Options{})
			if p := db.Problems(); len(p) != 0 {
				t.Errorf("the start after it says %+v", p)
			}
		})
	}
}

// A damaged journal is not replaced by an empty one: what was decided is not
// forgotten in silence.
func TestDamagedConsoleIsRefused(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "console.db")
	if err := os.WriteFile(name, slices.Repeat([]byte("nonsense"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err := Open(t.Context(), dir, Options{Now: c.now}); err == nil {
		db.Close()
		t.Error("a damaged console.db was opened")
	}
	if data, err := os.ReadFile(name); err != nil || !strings.HasPrefix(string(data), "nonsense") {
		t.Errorf("it was touched: %v", err)
	}
}

// A backup taken while looks are written opens as it is, with all that was
// there when it began.
func TestBackup(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	start := c.now()
	fill(t, db, c, 0, 200)
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendAll(t, db.Journal(), 5)
	r := fleet.Range{From: start, To: c.now().Add(time.Second)}
	want := series(t, db, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000)
	to := filepath.Join(t.TempDir(), "copy")
	done := make(chan error, 1)
	go func() { done <- db.Backup(t.Context(), to) }()
	for i := 200; ; i++ {
		put(t, db, look(c.add(time.Second), i))
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		default:
			continue
		}
		break
	}
	if err := db.Backup(t.Context(), to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second backup to the same place = %v", err)
	}
	back := openTest(t, to, c, Options{})
	if err := back.Journal().Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if n, err := back.Journal().Entries(t.Context(), traffic.EntryFilter{}); err != nil || len(n) != 5 {
		t.Errorf("%d journal entries, %v", len(n), err)
	}
	if got := series(t, back, fleet.KindServer, "n1", fleet.ColInMsgs, r, 5000); len(got.Data) < len(want.Data) || !slices.Equal(got.Data[:len(want.Data)-1], want.Data[:len(want.Data)-1]) {
		t.Errorf("the copy has %d points, want %d", len(got.Data), len(want.Data))
	}
}
