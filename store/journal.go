package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// Journal is the record of what was decided: entries are only ever added, and
// each carries the hash of the one before, so that whatever was edited, removed
// or moved afterwards is found by Verify.
type Journal struct {
	file *file
	log  *slog.Logger
}

// Append records the entry and returns it with Seq, Prev and Hash set, and At
// as it was recorded: in UTC, to the millisecond. When it returns nil, a power
// cut does not lose the entry; when it does not, the entry is not there.
func (j *Journal) Append(ctx context.Context, e traffic.Entry) (traffic.Entry, error) {
	switch {
	case e.Kind == "":
		return traffic.Entry{}, &fleet.Error{Kind: fleet.Invalid, Msg: "A journal entry needs a kind"}
	case e.At.IsZero():
		return traffic.Entry{}, &fleet.Error{Kind: fleet.Invalid, Msg: "A journal entry needs a time"}
	case e.Data != nil && !json.Valid(e.Data):
		return traffic.Entry{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The data of a journal entry must be JSON"}
	}
	if err := ctx.Err(); err != nil {
		return traffic.Entry{}, err
	}
	// Once it has begun it ends one way or the other: the caller must know which.
	ctx = context.WithoutCancel(ctx)
	e.At = fromMS(ms(e.At))
	err := inTx(ctx, j.file.w, func(tx *sql.Tx) error {
		var last uint64
		var end string
		if err := tx.QueryRowContext(ctx, "SELECT seq, hash FROM journal_end").Scan(&last, &end); err != nil {
			return fmt.Errorf("read where the journal ends: %w", err)
		}
		e.Seq, e.Prev = last+1, end
		e.Hash = hashEntry(e)
		var data any
		if e.Data != nil {
			data = []byte(e.Data)
		}
		// A plain INSERT: should that number be there already, nothing is written.
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO journal(seq, at, kind, split, change, proposal, actor, text, data, prev, hash)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			e.Seq, ms(e.At), e.Kind, e.Split, e.Change, e.Proposal, e.Actor, e.Text, data, e.Prev, e.Hash); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE journal_end SET seq = ?, hash = ?", e.Seq, e.Hash)
		return err
	})
	if err != nil {
		return traffic.Entry{}, &fleet.Error{
			Kind: fleet.Unavailable,
			Msg:  "The journal could not be written",
			Hint: "See that the data directory is writable and the disk is not full. Nothing is changed without a record.",
			Err:  fmt.Errorf("append %s to the journal: %w", e.Kind, err),
		}
	}
	return e, nil
}

// hashEntry is SHA-256 over the fields, each with its length before it, so that
// no text can be moved from one to the next.
func hashEntry(e traffic.Entry) string {
	h := sha256.New()
	var n [8]byte
	number := func(v uint64) {
		binary.BigEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	text := func(s string) {
		number(uint64(len(s)))
		h.Write([]byte(s))
	}
	text("ballast journal 1")
	text(e.Prev)
	number(e.Seq)
	number(uint64(ms(e.At)))
	for _, s := range []string{string(e.Kind), e.Split, e.Change, e.Proposal, e.Actor, e.Text} {
		text(s)
	}
	if e.Data == nil {
		number(math.MaxUint64)
	} else {
		text(string(e.Data))
	}
	return hex.EncodeToString(h.Sum(nil))
}

const entryColumns = "seq, at, kind, split, change, proposal, actor, text, data, prev, hash"

func scanEntry(rows *sql.Rows) (traffic.Entry, error) {
	var e traffic.Entry
	var at int64
	var data []byte
	err := rows.Scan(&e.Seq, &at, &e.Kind, &e.Split, &e.Change, &e.Proposal, &e.Actor, &e.Text, &data, &e.Prev, &e.Hash)
	e.At, e.Data = fromMS(at), data
	return e, err
}

// entriesQuery builds the query of a filter.
func entriesQuery(f traffic.EntryFilter) (string, []any) {
	var where []string
	var args []any
	add := func(cond string, arg any) {
		where = append(where, cond)
		args = append(args, arg)
	}
	if f.Split != "" {
		add("split = ?", f.Split)
	}
	if f.Kind != "" {
		add("kind = ?", f.Kind)
	}
	if f.Change != "" {
		add("change = ? AND change <> ''", f.Change)
	}
	if !f.From.IsZero() {
		add("at >= ?", ms(f.From))
	}
	if !f.To.IsZero() {
		add("at < ?", ms(f.To))
	}
	if f.Before > 0 {
		add("seq < ?", int64(min(f.Before, math.MaxInt64)))
	}
	query := "SELECT " + entryColumns + " FROM journal"
	if where != nil {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	return query + " ORDER BY seq DESC LIMIT ?", append(args, f.Limit)
}

// Entries are newest first.
func (j *Journal) Entries(ctx context.Context, f traffic.EntryFilter) ([]traffic.Entry, error) {
	query, args := entriesQuery(f)
	rows, err := j.file.r.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	defer rows.Close()
	var list []traffic.Entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return list, nil
}

// page of entries read at a time by Replay and Verify: a long read would keep
// the write-ahead log from being emptied.
const page = 500

// Replay calls f with every entry, oldest first; an error of f ends it.
func (j *Journal) Replay(ctx context.Context, f func(traffic.Entry) error) error {
	last := uint64(0)
	for {
		n := 0
		list, err := j.after(ctx, last)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := f(e); err != nil {
				return err
			}
			last = e.Seq
			n++
		}
		if n < page {
			return nil
		}
	}
}

func (j *Journal) after(ctx context.Context, seq uint64) ([]traffic.Entry, error) {
	rows, err := j.file.r.QueryContext(ctx,
		"SELECT "+entryColumns+" FROM journal WHERE seq > ? ORDER BY seq LIMIT ?", int64(seq), page)
	if err != nil {
		return nil, fmt.Errorf("replay the journal: %w", err)
	}
	defer rows.Close()
	var list []traffic.Entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, fmt.Errorf("replay the journal after entry %d: %w", seq, err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("replay the journal after entry %d: %w", seq, err)
	}
	return list, nil
}

// ErrTampered is wrapped by what Verify returns when the record is not as it
// was written.
var ErrTampered = errors.New("the journal was changed after it was written")

// Verify reads the whole journal and returns an error that wraps ErrTampered
// and says where it was first edited, cut or reordered.
func (j *Journal) Verify(ctx context.Context) error {
	// Entries that are added meanwhile are not its business.
	var end uint64
	var endHash string
	if err := j.file.r.QueryRowContext(ctx, "SELECT seq, hash FROM journal_end").Scan(&end, &endHash); err != nil {
		return fmt.Errorf("verify the journal: %w: its end is not recorded: %w", ErrTampered, err)
	}
	var last traffic.Entry
	done := errors.New("done")
	err := j.Replay(ctx, func(e traffic.Entry) error {
		switch {
		case e.Seq > end:
			if last.Seq == end && e.Prev == endHash {
				return done
			}
			return fmt.Errorf("%w: entry %d lies beyond its end", ErrTampered, e.Seq)
		case e.Seq != last.Seq+1:
			return fmt.Errorf("%w: entry %d is missing", ErrTampered, last.Seq+1)
		case e.Prev != last.Hash:
			return fmt.Errorf("%w: entry %d does not follow entry %d", ErrTampered, e.Seq, last.Seq)
		case hashEntry(e) != e.Hash:
			return fmt.Errorf("%w: entry %d of %s is not what was written", ErrTampered, e.Seq, e.At.Format(time.RFC3339))
		}
		last = e
		return nil
	})
	switch {
	case errors.Is(err, done):
		return nil
	case err != nil:
		return fmt.Errorf("verify the journal: %w", err)
	case last.Seq != end || last.Hash != endHash:
		return fmt.Errorf("verify the journal: %w: it ends at entry %d instead of %d", ErrTampered, last.Seq, end)
	}
	return nil
}
