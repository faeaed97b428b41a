package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"ballast/fleet"
)

// findingRest is what is kept of a finding besides its columns.
type findingRest struct {
	Severity fleet.Severity
	Title    string
	Text     string
	Remedy   string
	Command  string           `json:",omitempty"`
	Evidence []fleet.Evidence `json:",omitempty"`
	Reopened int              `json:",omitempty"`
}

// PutFindings keeps episodes: one with the same key and Since is replaced, any
// other is added. Suppressed is not looked at; see Suppress.
func (db *DB) PutFindings(ctx context.Context, findings []fleet.Finding) error {
	if err := ctx.Err(); err != nil || len(findings) == 0 {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	err := inTx(ctx, db.console.w, func(tx *sql.Tx) error {
		for _, f := range findings {
			rest, err := json.Marshal(findingRest{f.Severity, f.Title, f.Text, f.Remedy, f.Command, f.Evidence, f.Reopened})
			if err != nil {
				return err
			}
			var closed any
			if !f.Open() {
				closed = ms(f.Closed)
			}
			if _, err := tx.ExecContext(ctx, `
				INSERT INTO finding(code, kind, name, since, seen, closed, d) VALUES (?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT(code, kind, name, since) DO UPDATE SET seen = excluded.seen, closed = excluded.closed, d = excluded.d`,
				f.Code, f.Kind, f.Key, ms(f.Since), ms(f.LastSeen), closed, string(rest)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return db.refused(fmt.Errorf("keep %d findings: %w", len(findings), err))
	}
	return nil
}

// Findings answers a filter: open ones and, if it asks for them, closed ones;
// newest first. A suppression that is still kept stands in each.
func (db *DB) Findings(ctx context.Context, f fleet.FindingFilter) ([]fleet.Finding, error) {
	where := []string{"f.closed IS NULL"}
	var args []any
	if f.Closed {
		closed := "f.closed IS NOT NULL"
		if !f.From.IsZero() {
			closed += " AND f.closed >= ?"
			args = append(args, ms(f.From))
		}
		if !f.To.IsZero() {
			closed += " AND f.closed < ?"
			args = append(args, ms(f.To))
		}
		where[0] = "(f.closed IS NULL OR " + closed + ")"
	}
	if f.Key.Code != "" {
		where = append(where, "f.code = ? AND f.kind = ? AND f.name = ?")
		args = append(args, f.Key.Code, f.Key.Kind, f.Key.Key)
	}
	if f.Entity.Kind != "" {
		where = append(where, "f.kind = ? AND f.name = ?")
		args = append(args, f.Entity.Kind, f.Entity.Key)
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 1000
	}
	args = append(args, limit)
	rows, err := db.console.r.QueryContext(ctx, `
		SELECT f.code, f.kind, f.name, f.since, f.seen, f.closed, f.d, s.by, s.reason, s.at, s.until
		FROM finding f LEFT JOIN suppression s ON s.code = f.code AND s.kind = f.kind AND s.name = f.name
		WHERE `+strings.Join(where, " AND ")+`
		ORDER BY f.since DESC, f.id DESC LIMIT ?`, args...)
	if err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	defer rows.Close()
	var out []fleet.Finding
	for rows.Next() {
		var (
			x                 fleet.Finding
			since, seen       int64
			closed, at, until sql.NullInt64
			by, reason        sql.NullString
			text              []byte
			rest              findingRest
		)
		if err := rows.Scan(&x.Code, &x.Kind, &x.Key, &since, &seen, &closed, &text, &by, &reason, &at, &until); err != nil {
			return nil, fmt.Errorf("read findings: %w", err)
		}
		if err := json.Unmarshal(text, &rest); err != nil {
			return nil, fmt.Errorf("read finding %s of %s %q: %w", x.Code, x.Kind, x.Key, err)
		}
		x.Severity, x.Title, x.Text, x.Remedy = rest.Severity, rest.Title, rest.Text, rest.Remedy
		x.Command, x.Evidence, x.Reopened = rest.Command, rest.Evidence, rest.Reopened
		x.Since, x.LastSeen = fromMS(since), fromMS(seen)
		if closed.Valid {
			x.Closed = fromMS(closed.Int64)
		}
		if by.Valid {
			x.Suppressed = fleet.Suppression{By: by.String, Reason: reason.String, At: fromMS(at.Int64), Until: fromMS(until.Int64)}
		}
		out = append(out, x)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	return out, nil
}

// Suppress keeps a suppression, in place of an earlier one of the same finding;
// the zero Suppression lifts it.
func (db *DB) Suppress(ctx context.Context, k fleet.FindingKey, s fleet.Suppression) error {
	switch {
	case k.Code == "":
		return &fleet.Error{Kind: fleet.Invalid, Msg: "A suppression needs the code of a finding"}
	case s != (fleet.Suppression{}) && (s.By == "" || s.Reason == "" || !s.At.Before(s.Until)):
		return &fleet.Error{Kind: fleet.Invalid, Msg: "A suppression needs a name, a reason and an end that lies ahead"}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	var err error
	if s == (fleet.Suppression{}) {
		_, err = db.console.w.ExecContext(ctx, "DELETE FROM suppression WHERE code = ? AND kind = ? AND name = ?", k.Code, k.Kind, k.Key)
	} else {
		_, err = db.console.w.ExecContext(ctx, `
			INSERT OR REPLACE INTO suppression(code, kind, name, by, reason, at, until) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			k.Code, k.Kind, k.Key, s.By, s.Reason, ms(s.At), ms(s.Until))
	}
	if err != nil {
		return db.refused(fmt.Errorf("suppress %s of %s %q: %w", k.Code, k.Kind, k.Key, err))
	}
	return nil
}

// FindingState is what the engine begins with after a start: all that is open,
// and the suppressions that still hold at that moment.
func (db *DB) FindingState(ctx context.Context, now time.Time) (fleet.FindingState, error) {
	open, err := db.Findings(ctx, fleet.FindingFilter{Limit: 100_000})
	if err != nil {
		return fleet.FindingState{}, err
	}
	out := fleet.FindingState{Open: open, Suppressions: map[fleet.FindingKey]fleet.Suppression{}}
	rows, err := db.console.r.QueryContext(ctx,
		"SELECT code, kind, name, by, reason, at, until FROM suppression WHERE until > ?", ms(now))
	if err != nil {
		return out, fmt.Errorf("read suppressions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var k fleet.FindingKey
		var s fleet.Suppression
		var at, until int64
		if err := rows.Scan(&k.Code, &k.Kind, &k.Key, &s.By, &s.Reason, &at, &until); err != nil {
			return out, fmt.Errorf("read suppressions: %w", err)
		}
		s.At, s.Until = fromMS(at), fromMS(until)
		out.Suppressions[k] = s
	}
	if err := rows.Err(); err != nil {
		return out, fmt.Errorf("read suppressions: %w", err)
	}
	return out, nil
}

// cleanFindings drops what was closed long ago, and suppressions that ended.
func (db *DB) cleanFindings(ctx context.Context, now int64) error {
	err := inTx(ctx, db.console.w, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM finding WHERE closed < ?", now-db.o.Retention.Events.Milliseconds()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM suppression WHERE until <= ?", now)
		return err
	})
	if err != nil {
		return db.refused(fmt.Errorf("drop old findings: %w", err))
	}
	return nil
}
