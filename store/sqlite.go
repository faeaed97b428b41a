package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	_ "modernc.org/sqlite"

	"ballast/fleet"
)

//go:embed migrations
var migrations embed.FS

// file is one SQLite database: one writing connection, a few reading ones.
type file struct {
	path string
	w, r *sql.DB

	mu       sync.Mutex // guards prepared
	prepared map[string]*sql.Stmt
}

// reading is a statement on the reading connections, parsed once for each of
// them: for json_each that is half of a small query.
func (f *file) reading(ctx context.Context, query string) (*sql.Stmt, error) {
	return f.prepare(ctx, f.r, query)
}

// writing is a statement on the writing connection; see tx.StmtContext.
func (f *file) writing(ctx context.Context, query string) (*sql.Stmt, error) {
	return f.prepare(ctx, f.w, query)
}

func (f *file) prepare(ctx context.Context, db *sql.DB, query string) (*sql.Stmt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.prepared[query]; s != nil {
		return s, nil
	}
	s, err := db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if f.prepared == nil {
		f.prepared = map[string]*sql.Stmt{}
	}
	f.prepared[query] = s
	return s, nil
}

const (
	// pageSize was measured best for blobs of some hundred bytes: a smaller file
	// than 4 KiB, fewer bytes written than 16 KiB.
	pageSize = 8192
	readers  = 4
)

// openFile opens or creates the database and brings it to the newest migration
// under dir. A file from a newer program is refused and not touched.
func openFile(ctx context.Context, name string, dir fs.FS, log *slog.Logger) (*file, error) {
	if err := bootstrap(ctx, name); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	f := &file{path: name}
	var err error
	if f.w, err = openPool(name, 1, "_txlock=immediate", "busy_timeout(5000)", "synchronous(FULL)", "foreign_keys(ON)",
		"trusted_schema(OFF)", "cache_size(-4096)", "wal_autocheckpoint(6000)", "journal_size_limit(67108864)"); err != nil {
		return nil, err
	}
	if err := migrate(ctx, f.w, dir, log.With("file", filepath.Base(name))); err != nil {
		f.w.Close()
		return nil, fmt.Errorf("migrate %s: %w", name, err)
	}
	if f.r, err = openPool(name, readers, "mode=ro", "busy_timeout(5000)", "query_only(ON)", "trusted_schema(OFF)",
		"cache_size(-4096)"); err != nil {
		f.w.Close()
		return nil, err
	}
	return f, nil
}

// bootstrap sets what must be set before the first table, on one connection by
// hand: the driver runs a DSN's pragmas in alphabetical order, and page_size
// after journal_mode is silently ignored.
func bootstrap(ctx context.Context, name string) error {
	if st, err := os.Stat(name); err == nil && st.Size() > 0 {
		return nil
	}
	if err := touch(name); err != nil {
		return err
	}
	db, err := openPool(name, 1)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, pragma := range []string{
		"PRAGMA page_size=" + strconv.Itoa(pageSize),
		"PRAGMA auto_vacuum=INCREMENTAL",
		"PRAGMA journal_mode=WAL",
	} {
		if _, err := db.ExecContext(ctx, pragma); err != nil {
			return fmt.Errorf("%s: %w", pragma, err)
		}
	}
	return nil
}

// touch creates the file if need be, for nobody but the console's user to read.
func touch(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// openPool takes pragmas as "name(value)" and DSN parameters as "name=value".
// Only a file: URL is obeyed in mode=ro.
func openPool(name string, conns int, params ...string) (*sql.DB, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	q := url.Values{}
	for _, p := range params {
		if key, value, ok := strings.Cut(p, "="); ok && !strings.Contains(key, "(") {
			q.Set(key, value)
		} else {
			q.Add("_pragma", p)
		}
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate applies the files NNNN_name.sql above user_version, each in one
// transaction with its number: a broken one leaves nothing behind.
func migrate(ctx context.Context, db *sql.DB, dir fs.FS, log *slog.Logger) error {
	names, err := fs.Glob(dir, "*.sql") // sorted
	if err != nil {
		return err
	}
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("read its version: %w", err)
	}
	if have > len(names) {
		return &fleet.Error{
			Kind: fleet.Unavailable,
			Msg:  fmt.Sprintf("The database has version %d, this program knows up to %d", have, len(names)),
			Hint: "It was written by a newer Ballast: start that one, or give this one another data directory.",
		}
	}
	for i, name := range names {
		n, err := strconv.Atoi(path.Base(name)[:4])
		if err != nil || n != i+1 {
			return fmt.Errorf("migration %s is not number %d", name, i+1)
		}
		if n <= have {
			continue
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		err = inTx(ctx, db, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, string(text)); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "PRAGMA user_version="+strconv.Itoa(n))
			return err
		})
		if err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
		log.InfoContext(ctx, "database migrated", "migration", name)
	}
	return nil
}

// inTx runs f in a transaction; an error of f undoes all of it.
func inTx(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		tx.Rollback()
		return err
	}
	return tx.Commit()
}

func (f *file) close() error {
	f.r.Close()
	// What the next start would have to recover; it does no harm when it fails.
	f.w.Exec("PRAGMA optimize")
	f.w.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	if err := f.w.Close(); err != nil {
		return fmt.Errorf("close %s: %w", f.path, err)
	}
	return nil
}

// lockDir holds an exclusive lock on the directory as long as the returned
// closer lives; the kernel releases it when the process dies.
func lockDir(ctx context.Context, dir string) (*sql.DB, error) {
	name := filepath.Join(dir, "lock")
	if err := touch(name); err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	db, err := openPool(name, 1, "locking_mode(EXCLUSIVE)", "journal_mode(MEMORY)", "busy_timeout(0)")
	if err != nil {
		return nil, err
	}
	// In exclusive mode the lock outlives the transaction.
	if _, err := db.ExecContext(ctx, "BEGIN EXCLUSIVE; COMMIT"); err != nil {
		db.Close()
		return nil, &fleet.Error{
			Kind: fleet.Unavailable,
			Msg:  fmt.Sprintf("The data directory %s is in use", dir),
			Hint: "Another Ballast runs on it; stop that one, or choose another directory with --data.",
			Err:  err,
		}
	}
	return db, nil
}
