package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"

	"ballast/fleet"
	"ballast/traffic"
)

// diskOp is what SQLite asked of one file, in the order in which it did.
type diskOp struct {
	file string
	kind diskKind
	at   int64 // offset or size
	data []byte
	ack  int // for kindAck: everything up to this number was acknowledged
}

type diskKind int

const (
	kindWrite diskKind = iota
	kindTruncate
	kindSync
	kindDelete
	kindAckd
)

// recorder notes what is done to the files of one directory.
type recorder struct {
	dir string

	mu    sync.Mutex
	quiet bool // nothing is noted
	ops   []diskOp
	// Writes are counted; from the failFrom-th on they fail with a result code.
	writes, failFrom int
	code             int32
}

// refuse makes the disk refuse all writes after the next n, until accept.
func (r *recorder) refuse(n int, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes, r.failFrom, r.code = 0, n, code
}

// accept ends it, and reports whether any write was refused.
func (r *recorder) accept() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.code = 0
	return r.writes > r.failFrom
}

// write counts a write and returns the code with which it fails, or 0.
func (r *recorder) write() int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writes++; r.code != 0 && r.writes > r.failFrom {
		return r.code
	}
	return 0
}

func (r *recorder) note(op diskOp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.quiet {
		r.ops = append(r.ops, op)
	}
}

// knows returns the file's name if it is one of those that are recorded.
func (r *recorder) knows(path string) string {
	base := filepath.Base(path)
	if filepath.Dir(path) != r.dir || !strings.HasPrefix(base, "metrics.db") && !strings.HasPrefix(base, "console.db") {
		return ""
	}
	return base
}

// shim is SQLite's own file layer with some calls overheard.
var shim struct {
	mu       sync.Mutex
	original *lib.Tsqlite3_vfs
	recorder *recorder
	files    map[uintptr]shimFile
	methods  map[uintptr]uintptr // by the methods that they wrap
}

type shimFile struct {
	r       *recorder
	name    string
	methods *lib.Tsqlite3_io_methods // the original ones
}

// at turns an address outside Go's heap into a pointer.
func at[T any](addr uintptr) *T { return *(**T)(unsafe.Pointer(&addr)) }

// outside copies v to memory that is not Go's and returns its address.
func outside[T any](tls *libc.TLS, v T) uintptr {
	addr := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(v)))
	*at[T](addr) = v
	return addr
}

// address of a Go function, as translated C calls it.
func address(f any) uintptr { return (*[2]uintptr)(unsafe.Pointer(&f))[1] }

type (
	openFunc     = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32
	writeFunc    = func(tls *libc.TLS, file, data uintptr, n int32, at int64) int32
	truncateFunc = func(tls *libc.TLS, file uintptr, size int64) int32
	deleteFunc   = func(tls *libc.TLS, vfs, name uintptr, syncDir int32) int32
	syncFunc     = func(tls *libc.TLS, file uintptr, flags int32) int32
)

func call[F any](addr uintptr) F { return *(*F)(unsafe.Pointer(&struct{ uintptr }{addr})) }

var installShim = sync.OnceFunc(func() {
	tls := libc.NewTLS()
	shim.original = at[lib.Tsqlite3_vfs](lib.Xsqlite3_vfs_find(tls, 0))
	ours := *shim.original
	ours.FpNext = 0
	ours.FxOpen, ours.FxDelete = address(shimOpen), address(shimDelete)
	shim.files = map[uintptr]shimFile{}
	shim.methods = map[uintptr]uintptr{}
	lib.Xsqlite3_vfs_register(tls, outside(tls, ours), 1)
})

// record notes what is done to the files that are opened in dir until the
// returned function is called.
func record(dir string) (*recorder, func()) {
	installShim()
	r := &recorder{dir: dir}
	shim.mu.Lock()
	defer shim.mu.Unlock()
	shim.recorder = r
	return r, func() {
		shim.mu.Lock()
		defer shim.mu.Unlock()
		shim.recorder = nil
	}
}

func shimOpen(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32 {
	rc := call[openFunc](shim.original.FxOpen)(tls, vfs, name, file, flags, out)
	shim.mu.Lock()
	defer shim.mu.Unlock()
	delete(shim.files, file)
	if rc != 0 || name == 0 || shim.recorder == nil {
		return rc
	}
	base := shim.recorder.knows(libc.GoString(name))
	if base == "" {
		return rc
	}
	methods := at[uintptr](file) // the first field of a file
	wrapped := shim.methods[*methods]
	if wrapped == 0 {
		m := *at[lib.Tsqlite3_io_methods](*methods)
		m.FxWrite, m.FxTruncate, m.FxSync = address(shimWrite), address(shimTruncate), address(shimSync)
		wrapped = outside(tls, m)
		shim.methods[*methods] = wrapped
	}
	shim.files[file] = shimFile{shim.recorder, base, at[lib.Tsqlite3_io_methods](*methods)}
	*methods = wrapped
	return rc
}

func shimDelete(tls *libc.TLS, vfs, name uintptr, syncDir int32) int32 {
	rc := call[deleteFunc](shim.original.FxDelete)(tls, vfs, name, syncDir)
	shim.mu.Lock()
	defer shim.mu.Unlock()
	if r := shim.recorder; rc == 0 && r != nil {
		if base := r.knows(libc.GoString(name)); base != "" {
			r.note(diskOp{file: base, kind: kindDelete})
		}
	}
	return rc
}

func shimOf(file uintptr) shimFile {
	shim.mu.Lock()
	defer shim.mu.Unlock()
	return shim.files[file]
}

func shimWrite(tls *libc.TLS, file, data uintptr, n int32, offset int64) int32 {
	f := shimOf(file)
	if code := f.r.write(); code != 0 {
		return code
	}
	rc := call[writeFunc](f.methods.FxWrite)(tls, file, data, n, offset)
	if rc == 0 {
		f.r.note(diskOp{file: f.name, kind: kindWrite, at: offset, data: slices.Clone(unsafe.Slice(at[byte](data), n))})
	}
	return rc
}

func shimTruncate(tls *libc.TLS, file uintptr, size int64) int32 {
	f := shimOf(file)
	f.r.note(diskOp{file: f.name, kind: kindTruncate, at: size})
	return call[truncateFunc](f.methods.FxTruncate)(tls, file, size)
}

func shimSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	f := shimOf(file)
	rc := call[syncFunc](f.methods.FxSync)(tls, file, flags)
	f.r.note(diskOp{file: f.name, kind: kindSync})
	return rc
}

// image is what is on the platters, and what is still in the disk's cache.
type image struct {
	durable map[string][]byte
	pending map[string][]diskOp
	acked   int
}

func newImage() *image {
	return &image{map[string][]byte{}, map[string][]diskOp{}, -1}
}

func (m *image) do(op diskOp) {
	switch op.kind {
	case kindAckd:
		m.acked = op.ack
	case kindDelete: // happens when a database is made, which is not cut here
		delete(m.durable, op.file)
		delete(m.pending, op.file)
	case kindSync:
		for _, p := range m.pending[op.file] {
			m.durable[op.file] = apply(m.durable[op.file], p, nil)
		}
		m.pending[op.file] = nil
	default:
		m.pending[op.file] = append(m.pending[op.file], op)
	}
}

const sector = 512

// apply does one operation; of a write, only the sectors that keep says.
func apply(b []byte, op diskOp, keep func() bool) []byte {
	if op.kind == kindTruncate {
		if keep != nil && !keep() {
			return b
		}
		return resize(b, op.at)
	}
	for i := 0; i < len(op.data); i += sector {
		part := op.data[i:min(i+sector, len(op.data))]
		if keep != nil && !keep() {
			continue
		}
		if end := op.at + int64(i+len(part)); end > int64(len(b)) {
			b = resize(b, end)
		}
		copy(b[op.at+int64(i):], part)
	}
	return b
}

func resize(b []byte, n int64) []byte {
	if n <= int64(len(b)) {
		return b[:n]
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

// writeTo leaves what a power cut would: all that was synced, and of the rest
// any sectors.
func (m *image) writeTo(dir string, rnd *rand.Rand) error {
	for name := range names(m) {
		b := slices.Clone(m.durable[name])
		odds := rnd.IntN(5) // from nothing to everything
		for _, p := range m.pending[name] {
			b = apply(b, p, func() bool { return rnd.IntN(4) < odds })
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func names(m *image) map[string]bool {
	all := map[string]bool{}
	for name := range m.durable {
		all[name] = true
	}
	for name := range m.pending {
		all[name] = true
	}
	return all
}

// afterCut says what is wrong with the files after a power cut: what was
// acknowledged must be there.
func afterCut(ctx context.Context, dir string, acked int) error {
	c := newClock()
	start := c.now()
	c.add(time.Duration(acked+2) * time.Second)
	db, err := Open(ctx, dir, Options{Now: c.now, Interval: time.Second})
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	defer db.Close()
	var wrong []error
	if p := db.Problems(); len(p) > 0 {
		wrong = append(wrong, errors.New(p[0].What))
	}
	for _, f := range []*file{db.metrics, db.console} {
		var verdict string
		if err := f.r.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
			wrong = append(wrong, fmt.Errorf("integrity of %s: %s, %w", filepath.Base(f.path), verdict, err))
		}
	}
	if err := db.Journal().Verify(ctx); err != nil {
		wrong = append(wrong, err)
	}
	if acked < 0 {
		return errors.Join(wrong...)
	}
	r := fleet.Range{From: start, To: start.Add(time.Duration(acked+3) * time.Second)}
	s, err := db.Series(ctx, fleet.SeriesQuery{Entity: eastKey.Entity(), Column: fleet.ColInFlight, Range: r, Points: 5000})
	if err != nil {
		return errors.Join(append(wrong, err)...)
	}
	have := map[int]bool{}
	for _, p := range measured(s) {
		i := int(p.At.Sub(start).Seconds()) - 1
		if have[i] = true; p.Avg != float64(i) {
			wrong = append(wrong, fmt.Errorf("look %d says %v", i, p.Avg))
		}
	}
	for i := range acked + 1 {
		if !have[i] {
			wrong = append(wrong, fmt.Errorf("look %d of %d was acknowledged and is lost", i, acked))
			break
		}
	}
	l, err := db.Latency(ctx, eastKey, fleet.Range{From: r.From.Add(-10 * time.Second), To: r.To}, 5000)
	if err != nil || int(l.Total.Count()) < acked+1 {
		wrong = append(wrong, fmt.Errorf("%d samples, want at least %d: %w", l.Total.Count(), acked+1, err))
	}
	n := 0
	if err := db.Journal().Replay(ctx, func(traffic.Entry) error { n++; return nil }); err != nil || n < acked/10+1 {
		wrong = append(wrong, fmt.Errorf("%d journal entries, want at least %d: %w", n, acked/10+1, err))
	}
	return errors.Join(wrong...)
}

// campaign is how often a test does something: a few times by default, as often
// as the variable says on demand.
func campaign(tb testing.TB, variable string, usually int) int {
	tb.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usually
	}
	var n int
	if _, err := fmt.Sscan(text, &n); err != nil || n <= 0 {
		tb.Fatalf("%s is %q, not a number of times", variable, text)
	}
	return n
}

// At a power cut at any moment nothing acknowledged is lost and the files are
// sound. Its control, a disk that ignores syncs, shows that the test would
// notice. BALLAST_STORE_CUTS cuts more often.
//
// Not parallel: the recorder overhears one directory.
func TestPowerCut(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, stop := record(dir)
	defer stop()
	c := newClock()
	db, err := Open(t.Context(), dir, Options{Now: c.now, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	// Checkpoints as often as they come in hours.
	for _, f := range []*file{db.metrics, db.console} {
		if _, err := f.w.ExecContext(t.Context(), "PRAGMA wal_autocheckpoint=200"); err != nil {
			t.Fatal(err)
		}
	}
	opened := len(r.ops)
	const looks = 500
	for i := range looks {
		now := c.add(time.Second)
		put(t, db, look(now, i))
		w := fleet.AckWindow{ConsumerKey: eastKey, From: now.Add(-time.Second), To: now, Latency: sketchOf(time.Duration(i))}
		if err := db.PutAcks(t.Context(), []fleet.AckWindow{w}); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if _, err := db.Journal().Append(t.Context(), traffic.Entry{At: now, Kind: traffic.EntryIntent, Text: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		r.note(diskOp{kind: kindAckd, ack: i})
		if i%50 == 49 {
			if err := db.sealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ops := slices.Clone(r.ops)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	checkpoints := 0
	for _, op := range ops[opened:] {
		if op.kind == kindSync && op.file == "metrics.db" {
			checkpoints++
		}
	}
	if checkpoints == 0 {
		t.Error("there was no checkpoint: the test shows little")
	}

	cuts := campaign(t, "BALLAST_STORE_CUTS", 30)
	rnd := rand.New(rand.NewPCG(31, 32))
	run := func(cuts int, lying bool) (bad int) {
		var at []int
		for range cuts {
			at = append(at, opened+rnd.IntN(len(ops)-opened))
		}
		slices.Sort(at)
		m, done := newImage(), 0
		for _, cut := range at {
			for ; done < cut; done++ {
				if op := ops[done]; !lying || op.kind != kindSync || done < opened {
					m.do(op)
				}
			}
			to := t.TempDir()
			if err := m.writeTo(to, rnd); err != nil {
				t.Fatal(err)
			}
			if err := afterCut(t.Context(), to, m.acked); err != nil {
				if bad++; !lying {
					t.Errorf("cut at operation %d of %d, after look %d: %v", cut, len(ops), m.acked, err)
				}
			}
			os.RemoveAll(to)
		}
		return bad
	}
	run(cuts, false)
	if bad := run(10, true); bad < 5 {
		t.Errorf("of 10 cuts with a disk that ignores syncs %d did harm: the test shows little", bad)
	}
	t.Logf("%d cuts, %d operations, %d checkpoints", cuts, len(ops), checkpoints)
}
