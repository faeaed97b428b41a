package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// A disk that refuses from any write on, in either of SQLite's words for it,
// crashes nothing and loses nothing acknowledged; it is said, and recording
// goes on by itself once there is room.
//
// Not parallel: the recorder overhears one directory.
func TestDiskRefusesAtEveryWrite(t *testing.T) {
	for _, code := range []int32{codeFull, 778} { // SQLITE_FULL, SQLITE_IOERR_WRITE
		t.Run(fmt.Sprint(code), func(t *testing.T) { refuseEverywhere(t, code) })
	}
}

func refuseEverywhere(t *testing.T, code int32) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, stop := record(dir)
	defer stop()
	r.quiet = true
	c := newClock()
	start := c.now()
	db, err := Open(t.Context(), dir, Options{Now: c.now, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	acked := map[int]bool{}
	entries := map[string]bool{}
	ctx := t.Context()
	i := 0
	one := func() error {
		i++
		now := c.add(time.Second)
		err := db.PutSnapshot(ctx, look(now, i))
		acked[i] = err == nil
		return err
	}
	for n := 0; ; n++ {
		r.refuse(n, code)
		// Enough looks to fill a slot now and then, and everything else once.
		for range 10 {
			if err := one(); (err != nil) != (db.Ready() != nil) {
				t.Fatalf("from write %d: PutSnapshot = %v, Ready = %v", n, err, db.Ready())
			}
		}
		now := c.now()
		w := fleet.AckWindow{ConsumerKey: eastKey, From: now.Add(-time.Second), To: now, Latency: sketchOf(time.Duration(i))}
		key := fleet.FindingKey{Code: "JS001", Entity: eastKey.Entity()}
		text := fmt.Sprint(n)
		_, appendErr := db.Journal().Append(ctx, traffic.Entry{At: now, Kind: traffic.EntryIntent, Text: text})
		entries[text] = appendErr == nil
		_, slotErr := db.Slots(ctx, []string{text})
		errs := []error{
			db.PutAcks(ctx, []fleet.AckWindow{w}),
			db.PutEvents(ctx, []fleet.Event{{At: now, Kind: "test", Severity: fleet.Info, Text: text}}),
			db.PutFindings(ctx, []fleet.Finding{{FindingKey: key, Since: now, LastSeen: now}}),
			db.Suppress(ctx, key, fleet.Suppression{By: "ann", Reason: text, At: now, Until: now.Add(time.Hour)}),
			db.SetSetting(ctx, "n", text),
			db.sealAll(ctx), db.maintain(ctx), slotErr, appendErr,
		}
		refused := r.accept()
		for _, err := range errs {
			if err == nil {
				continue
			}
			if primary, _ := sqliteCode(err); !refused || primary != int(code&0xff) {
				t.Fatalf("from write %d: %v", n, err)
			}
		}
		if err := one(); err != nil || db.Ready() != nil {
			t.Fatalf("with room again after write %d: PutSnapshot = %v, Ready = %v", n, err, db.Ready())
		}
		if err := errors.Join(db.sealAll(ctx), db.maintain(ctx)); err != nil {
			t.Fatalf("with room again after write %d: %v", n, err)
		}
		if !refused {
			t.Logf("every one of %d writes was refused once", n)
			break
		}
	}
	check := func(name string, db *DB) {
		for _, f := range []*file{db.metrics, db.console} {
			var verdict string
			if err := f.r.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
				t.Errorf("%s: integrity of %s: %s, %v", name, f.path, verdict, err)
			}
		}
		have := map[int]bool{}
		for at := start; !at.After(c.now()); at = at.Add(time.Hour) { // one answer has only so many points
			r := fleet.Range{From: at, To: at.Add(time.Hour)}
			for _, p := range measured(series(t, db, fleet.KindConsumer, eastKey.Entity().Key, fleet.ColInFlight, r, 5000)) {
				have[int(p.At.Sub(start).Seconds())] = true
			}
		}
		for k := 1; k <= i; k++ {
			if acked[k] != have[k] {
				t.Errorf("%s: look %d was acknowledged: %v; it is there: %v", name, k, acked[k], have[k])
			}
		}
		if err := db.Journal().Verify(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		there := map[string]bool{}
		if err := db.Journal().Replay(ctx, func(e traffic.Entry) error { there[e.Text] = true; return nil }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for text, ok := range entries {
			if ok != there[text] {
				t.Errorf("%s: journal entry %s was acknowledged: %v; it is there: %v", name, text, ok, there[text])
			}
		}
	}
	check("open", db)
	check("after a kill", openTest(t, copyDir(t, dir), c, Options{}))
}

// TestNoMorePages: the last stop of the file's size is met like a full disk.
func TestNoMorePages(t *testing.T) {
	t.Parallel()
	c := newClock()
	db := openTest(t, t.TempDir(), c, Options{})
	fill(t, db, c, 0, 3)
	limit := func(pages string) {
		t.Helper()
		if _, err := db.metrics.w.Exec("PRAGMA max_page_count=" + pages); err != nil {
			t.Fatal(err)
		}
	}
	limit("1") // no fewer than there are
	var err error
	i := 3
	for ; err == nil && i < 2000; i++ {
		err = db.PutSnapshot(t.Context(), look(c.add(time.Second), i))
	}
	if primary, _ := sqliteCode(err); primary != codeFull {
		t.Fatalf("PutSnapshot = %v, want code %d", err, codeFull)
	}
	if db.Ready() == nil || len(db.Latest().Problems) == 0 {
		t.Errorf("Ready = %v, problems %v: a full disk is not said", db.Ready(), db.Latest().Problems)
	}
	limit("100000")
	put(t, db, look(c.add(time.Second), i))
	if err := db.Ready(); err != nil || len(db.Latest().Problems) != 0 {
		t.Errorf("with room again Ready = %v, problems %v", err, db.Latest().Problems)
	}
}

const limitEnv = "BALLAST_STORE_LIMITED"

// limitedChild runs where files may not grow beyond a limit of the system: it
// is refused there, and goes on once the limit is lifted.
func limitedChild(dir string) error {
	ctx := context.Background()
	c := newClock()
	db, err := Open(ctx, dir, Options{Now: c.now, Interval: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 256 << 10, Max: was.Max}); err != nil {
		return err
	}
	i := 0
	for err = nil; err == nil && i < 2000; i++ {
		err = db.PutSnapshot(ctx, look(c.add(time.Second), i))
	}
	if _, code := sqliteCode(err); code != 778 || db.Ready() == nil {
		return fmt.Errorf("beyond the limit PutSnapshot = %w, Ready = %w", err, db.Ready())
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	if err := db.PutSnapshot(ctx, look(c.add(time.Second), i)); err != nil || db.Ready() != nil {
		return fmt.Errorf("without the limit PutSnapshot = %w, Ready = %w", err, db.Ready())
	}
	return nil
}

func TestFileSizeLimit(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), limitEnv+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
}
