package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// cleanMark is 1 while nobody has the file open: a start that finds 0 follows
	// a crash.
	cleanMark = "clean"
	// checkAtOnce is the size up to which a file is checked before it is used,
	// at about 600 MB a second; a larger one is checked while it is used already.
	checkAtOnce = 256 << 20
)

func migrationsOf(name string) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+name)
	if err != nil {
		panic(err) // the directory is compiled in
	}
	return sub
}

// errDamaged says that the file itself is broken, not the way to it.
var errDamaged = errors.New("the file is damaged")

// openMetrics opens metrics.db and reads the open slots back. A damaged file is
// put aside and a new one begun: measurements may be lost, the console may not.
func (db *DB) openMetrics(ctx context.Context, name string) error {
	err := db.tryMetrics(ctx, name)
	if err == nil || !damaged(err) {
		return err
	}
	if db.metrics != nil {
		db.metrics.abandon()
		db.metrics = nil
	}
	aside, moveErr := quarantine(name, db.o.Now().UTC().Format("20060102T150405"))
	if moveErr != nil {
		return errors.Join(err, moveErr)
	}
	db.log.ErrorContext(ctx, "damaged measurements were put aside; new ones are begun", "file", aside, "err", err)
	db.raise(topicQuarantine, "The measurements were damaged and have been put aside; history begins anew.",
		"The old file is "+filepath.Base(aside)+" in the data directory; delete it when nobody needs it.", db.o.Now())
	db.resetMetrics()
	return db.tryMetrics(ctx, name)
}

func damaged(err error) bool {
	code, _ := sqliteCode(err)
	return code == codeCorrupt || code == codeNotADB ||
		errors.Is(err, errDamaged) || errors.Is(err, errCorrupt) || errors.Is(err, errLayout)
}

// resetMetrics forgets what was read from a file that is not used.
func (db *DB) resetMetrics() {
	clear(db.entities)
	clear(db.newest)
	clear(db.attrs)
	db.details = detailNotes{}
	db.open, db.closing, db.sealed = nil, nil, 0
	db.acks = newAckBuffer()
}

func (db *DB) tryMetrics(ctx context.Context, name string) error {
	st, statErr := os.Stat(name)
	existed := statErr == nil && st.Size() > 0
	var err error
	if db.metrics, err = openFile(ctx, name, migrationsOf("metrics"), db.log); err != nil {
		return err
	}
	// The last stop, should retention not keep up.
	pages := (db.o.SizeLimit + db.o.SizeLimit/4) / pageSize
	if _, err := db.metrics.w.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count=%d", pages)); err != nil {
		return fmt.Errorf("limit the size of %s: %w", name, err)
	}
	clean := int64(1)
	if existed {
		if clean, err = mark(ctx, db.metrics.w, cleanMark); err != nil {
			return err
		}
	}
	db.sound.Store(clean == 1)
	if clean == 0 && st.Size() <= checkAtOnce {
		if err := db.metrics.check(ctx); err != nil {
			return err
		}
		db.sound.Store(true)
	}
	if err := setMark(ctx, db.metrics.w, cleanMark, 0); err != nil {
		return err
	}
	if db.layouts, err = loadLayouts(ctx, db.metrics.w); err != nil {
		return err
	}
	if err := db.recoverTicks(ctx); err != nil {
		return err
	}
	return db.recoverAcks(ctx)
}

// check walks through the whole file.
func (f *file) check(ctx context.Context) error {
	rows, err := f.r.QueryContext(ctx, "PRAGMA quick_check(20)")
	if err != nil {
		return fmt.Errorf("check %s: %w", f.path, err)
	}
	defer rows.Close()
	var wrong []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return fmt.Errorf("check %s: %w", f.path, err)
		}
		if line != "ok" {
			wrong = append(wrong, line)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("check %s: %w", f.path, err)
	}
	if wrong != nil {
		return fmt.Errorf("check %s: %w: %s", f.path, errDamaged, strings.Join(wrong, "; "))
	}
	return nil
}

// checkLate checks a file that was too large to be checked before its use.
// When it is damaged, the next start puts it aside.
func (db *DB) checkLate(ctx context.Context) error {
	if db.sound.Load() {
		return nil
	}
	err := db.metrics.check(ctx)
	switch {
	case err == nil:
		db.sound.Store(true)
	case damaged(err):
		db.raise(topicBroken, "The measurements are damaged.",
			"Restart Ballast: it puts the damaged file aside and begins a new one.", db.o.Now())
	}
	return err
}

// quarantine renames the database and what belongs to it.
func quarantine(name, stamp string) (string, error) {
	aside := strings.TrimSuffix(name, ".db") + ".damaged-" + stamp + ".db"
	for _, suffix := range []string{"-wal", "-shm", ""} {
		err := os.Rename(name+suffix, aside+suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("put a damaged database aside: %w", err)
		}
	}
	return aside, nil
}

// abandon closes the file without touching what is in it.
func (f *file) abandon() {
	f.r.Close()
	f.w.Close()
}

// Backup writes a compacted copy of both databases into a directory, while
// everything goes on. A copy that is there already is not overwritten. Put under
// a data directory of its own, the copy starts as it is.
func (db *DB) Backup(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create backup directory: %w", err)
	}
	for _, f := range []*file{db.console, db.metrics} {
		to := filepath.Join(dir, filepath.Base(f.path))
		if _, err := os.Stat(to); err == nil {
			return fmt.Errorf("back up %s: %w", f.path, fs.ErrExist)
		}
		if err := f.copyTo(ctx, to); err != nil {
			return fmt.Errorf("back up %s: %w", f.path, err)
		}
	}
	return nil
}

// copyTo writes the copy under another name first: what has the right name is
// whole.
func (f *file) copyTo(ctx context.Context, to string) error {
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := touch(part); err != nil {
		return err
	}
	// The readers may not write, not even to another file.
	db, err := openPool(f.path, 1, "mode=ro", "busy_timeout(5000)", "trusted_schema(OFF)")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", part); err != nil {
		os.Remove(part)
		return err
	}
	if err := syncFile(part); err != nil {
		return err
	}
	return os.Rename(part, to)
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
