// Package store keeps what was measured and what was decided, in two SQLite
// files: metrics.db (series, latency sketches, events; may be deleted) and
// console.db (the journal of decisions, places on the topology, settings). It
// owns every line of SQL, the computation of rates from counters, roll-ups and
// retention. It never talks to NATS and decides nothing.
//
// Looks of the open slot are kept in memory and journaled as one row a round;
// a finished slot is sealed as one bit-packed blob per entity, from which
// coarser levels are built.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"ballast/fleet"
)

// Options of a store; the zero value of each takes the default.
type Options struct {
	Log *slog.Logger
	Now func() time.Time
	// Interval between two looks of the collector, 5 s by default. A distance of
	// more than two and a half of them is a gap.
	Interval  time.Duration
	Retention Retention
	// SizeLimit of metrics.db in bytes, 4 GiB by default: beyond it the finest and
	// oldest measurements go first.
	SizeLimit int64
}

// Retention says how long each level is kept. A level is kept at least as long
// as the next coarser one needs to be built from it.
type Retention struct {
	Raw     time.Duration // every look; 24 h by default
	Min1    time.Duration // 1 min; 14 days
	Min10   time.Duration // 10 min; 90 days
	Hour1   time.Duration // 1 h; 400 days
	Acks10  time.Duration // latency of 10 s; 6 h
	Acks5   time.Duration // of 5 min; 7 days
	AcksH   time.Duration // of 1 h; 90 days
	Events  time.Duration // 90 days
	Details time.Duration // lists of a moment: connections, instances, queue groups; 14 days
}

const day = 24 * time.Hour

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	if o.SizeLimit <= 0 {
		o.SizeLimit = 4 << 30
	}
	r := &o.Retention
	for _, d := range []struct {
		v                *time.Duration
		otherwise, least time.Duration
	}{
		{&r.Raw, day, 3 * time.Hour},
		{&r.Min1, 14 * day, 7 * time.Hour},
		{&r.Min10, 90 * day, 8 * day},
		{&r.Hour1, 400 * day, day},
		{&r.Acks10, 6 * time.Hour, 3 * time.Hour},
		{&r.Acks5, 7 * day, 2 * day},
		{&r.AcksH, 90 * day, day},
		{&r.Events, 90 * day, time.Hour},
		{&r.Details, 14 * day, 2 * time.Hour},
	} {
		if *d.v <= 0 {
			*d.v = d.otherwise
		}
		*d.v = max(*d.v, d.least)
	}
	return o
}

// DB is an open store. All its methods may be called at the same time.
type DB struct {
	o       Options
	log     *slog.Logger
	metrics *file
	console *file
	lock    *sql.DB
	layouts layouts
	journal Journal

	latest atomic.Pointer[fleet.Snapshot]
	rates  atomic.Pointer[present]

	// put serialises the writers of looks, ACK windows and reports. It is taken
	// before mu.
	put     sync.Mutex
	set     rowSet // guarded by put, as all to the next blank
	putID   uint64
	chainID uint64 // of the tick rows that build on each other
	chained bool   // the next tick row is a difference to the one before
	tickRow []byte // memory that is used again
	served  served
	clients admitted
	taken   int64 // of the newest look, ms
	back    bool  // the clock is behind it
	full    bool  // there are more entities than are recorded

	// sealing serialises the jobs that write blobs. It is taken before put.
	sealing sync.Mutex
	joined  int64         // guarded by sealing: how far what is joined may be dropped
	wake    chan struct{} // a slot is ready to be sealed

	mu       sync.RWMutex // guards what follows
	entities map[entityRef]*entity
	newest   map[fleet.Entity]*entity // the latest epoch of each
	open     *head
	closing  []*head          // full, not yet sealed, oldest first
	sealed   int64            // raw slots that start before it are on disk, ms
	spare    map[int][]*block // of the slot sealed last, for the next one; by number of columns
	acks     ackBuffer
	workers  workers

	healthMu sync.Mutex // guards health
	health   health
	sound    atomic.Bool // metrics.db needs no check, or passed it

	attrMu  sync.Mutex       // guards attrs
	attrs   map[int64][]byte // as noted last, by entity
	born    atomic.Bool      // there are things whose attributes were not noted yet
	moment  atomic.Pointer[moment]
	details detailNotes

	generation atomic.Uint64 // of what the jobs wrote
	knownNow   atomic.Pointer[known]

	livesMu      sync.Mutex // guards livesOf and livesChanges
	livesOf      map[fleet.Entity][]life
	livesChanges uint64

	slotMu sync.Mutex     // guards slots
	slots  map[string]int // nil until first read
}

// Open opens or creates the two databases under dir and reads the open slots
// back. Measurements after it are kept from the first Put on; Run does the work
// in the background.
func Open(ctx context.Context, dir string, o Options) (*DB, error) {
	o = o.withDefaults()
	ignoreSizeSignal()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	db := &DB{
		o:        o,
		log:      o.Log.With("component", "store"),
		wake:     make(chan struct{}, 1),
		entities: map[entityRef]*entity{},
		newest:   map[fleet.Entity]*entity{},
		livesOf:  map[fleet.Entity][]life{},
		acks:     newAckBuffer(),
		workers:  newWorkers(o.Now()),
		health:   health{},
		attrs:    map[int64][]byte{},
	}
	db.latest.Store(&fleet.Snapshot{})
	db.rates.Store(&present{s: &fleet.Snapshot{}})
	ready := false
	defer func() {
		if !ready {
			db.Close()
		}
	}()
	var err error
	if db.lock, err = lockDir(ctx, dir); err != nil {
		return nil, err
	}
	if db.console, err = openFile(ctx, filepath.Join(dir, "console.db"), migrationsOf("console"), db.log); err != nil {
		return nil, err
	}
	if err := db.openMetrics(ctx, filepath.Join(dir, "metrics.db")); err != nil {
		return nil, err
	}
	db.journal = Journal{file: db.console, log: db.log}
	ready = true
	return db, nil
}

// Journal is the record of what was decided.
func (db *DB) Journal() *Journal { return &db.journal }

// Run seals full slots, builds the roll-ups and drops what is too old, until
// ctx ends; then it finishes what is under way and returns nil. A job that
// fails is logged and tried again.
func (db *DB) Run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var cleaned time.Time
	if err := db.checkLate(ctx); err != nil && ctx.Err() == nil {
		db.log.ErrorContext(ctx, "the check of the measurements went wrong", "err", err)
	}
	for {
		if err := db.sealAll(ctx); err != nil && ctx.Err() == nil {
			db.log.ErrorContext(ctx, "sealing a slot went wrong", "err", db.refused(err))
		}
		if now := db.o.Now(); now.Sub(cleaned) >= time.Minute {
			cleaned = now
			if err := db.maintain(ctx); err != nil && ctx.Err() == nil {
				db.log.ErrorContext(ctx, "maintenance went wrong", "err", db.refused(err))
			}
		}
		if db.born.Swap(false) {
			if err := errors.Join(db.noteAttrs(ctx), db.noteDetails(ctx)); err != nil && ctx.Err() == nil {
				db.born.Store(true)
				db.log.ErrorContext(ctx, "noting what is new went wrong", "err", db.refused(err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-db.wake:
		}
	}
}

// maintain builds what can be built and drops what is too old or too much.
func (db *DB) maintain(ctx context.Context) error {
	return errors.Join(db.rollUp(ctx), db.rollUpAcks(ctx), db.noteAttrs(ctx), db.noteDetails(ctx), db.clean(ctx), db.forgetAttrs(ctx), db.cleanFindings(ctx, ms(db.o.Now())))
}

// Close closes the files. What was put is on disk already.
func (db *DB) Close() error {
	var errs []error
	if db.metrics != nil && db.sound.Load() {
		// Without it the next start checks the file; nothing else depends on it.
		setMark(context.Background(), db.metrics.w, cleanMark, 1)
	}
	for _, f := range []*file{db.metrics, db.console} {
		if f != nil {
			errs = append(errs, f.close())
		}
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// Latest is the newest snapshot, shared and never changed; its TakenAt is zero
// before the first.
func (db *DB) Latest() *fleet.Snapshot { return db.latest.Load() }

// Rates are the present rates, shared and never changed.
func (db *DB) Rates() *fleet.Rates { return db.rates.Load().get(&db.mu, gapAfter(db.intervalMS())) }

func ms(t time.Time) int64          { return t.UnixMilli() }
func fromMS(v int64) time.Time      { return time.UnixMilli(v).UTC() }
func floor(v, step int64) int64     { return v - mod(v, step) }
func mod(v, step int64) int64       { return (v%step + step) % step }
func ceil(v, step int64) int64      { return floor(v+step-1, step) }
func (db *DB) intervalMS() int64    { return db.o.Interval.Milliseconds() }
func gapAfter(interval int64) int64 { return interval * 5 / 2 }
