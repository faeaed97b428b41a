package store

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"modernc.org/sqlite"

	"ballast/fleet"
)

// Result codes of SQLite that say something about the disk or the file.
const (
	codeFull    = 13 // no room in the file system, or max_page_count reached
	codeIO      = 10 // its extended codes tell which call; 778 is a write
	codeCorrupt = 11
	codeNotADB  = 26
)

// health is what is wrong with the store itself, by topic.
type health map[string]fleet.Problem

// Ready says in words for the operator why nothing is recorded just now, or
// nil.
func (db *DB) Ready() error {
	db.healthMu.Lock()
	defer db.healthMu.Unlock()
	for _, topic := range []string{topicWrite, topicBroken} {
		if p, ok := db.health[topic]; ok {
			return &fleet.Error{Kind: fleet.Unavailable, Msg: p.What, Hint: p.Hint}
		}
	}
	return nil
}

// Problems are what is wrong with the store itself. They also stand in each
// snapshot that Latest returns.
func (db *DB) Problems() []fleet.Problem {
	db.healthMu.Lock()
	defer db.healthMu.Unlock()
	var out []fleet.Problem
	for _, p := range db.health {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b fleet.Problem) int { return strings.Compare(a.What, b.What) })
	return out
}

const (
	topicWrite      = "write"      // the disk refuses
	topicBroken     = "broken"     // a file is damaged
	topicQuarantine = "quarantine" // one was, and was put aside
)

// raise and clear keep the time at which a problem began.
func (db *DB) raise(topic, what, hint string, now time.Time) {
	db.healthMu.Lock()
	defer db.healthMu.Unlock()
	p := fleet.Problem{Where: "store", What: what, Hint: hint, Since: now}
	if old, ok := db.health[topic]; ok {
		p.Since = old.Since
	}
	db.health[topic] = p
}

func (db *DB) clear(topic string) {
	db.healthMu.Lock()
	defer db.healthMu.Unlock()
	delete(db.health, topic)
}

// refused notes what an error of a write says about the disk, and returns it.
func (db *DB) refused(err error) error {
	switch code, full := sqliteCode(err); code {
	case codeFull:
		db.raise(topicWrite, "The disk of the data directory is full: nothing is recorded.",
			"Make room; recording goes on by itself.", db.o.Now())
	case codeIO:
		db.raise(topicWrite, "The disk of the data directory refuses to write: nothing is recorded.",
			"See its file system, quota and limits (SQLite code "+strconv.Itoa(full)+"); recording goes on by itself.", db.o.Now())
	case codeCorrupt, codeNotADB:
		db.raise(topicBroken, "A database in the data directory is damaged.",
			"Restart Ballast: it puts damaged measurements aside and begins new ones.", db.o.Now())
	}
	return err
}

// sqliteCode is the primary and the extended result code in the error's chain;
// 0 when there is none.
func sqliteCode(err error) (primary, extended int) {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff, e.Code()
	}
	return 0, 0
}
