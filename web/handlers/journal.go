package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

const (
	journalPage   = 50
	journalExport = 10_000
)

func journalRoutes(s *Server, e *echo.Echo) {
	page(e, "/journal", s.listJournal)
	e.GET("/journal/:seq", s.showEntry)
}

var entryKinds = []traffic.EntryKind{
	traffic.EntryProposal, traffic.EntryDismissed, traffic.EntryExpired, traffic.EntryIntent, traffic.EntryWritten, traffic.EntryUnknown, traffic.EntryRejected,
	traffic.EntryVerified, traffic.EntryRollback, traffic.EntryReplaced, traffic.EntryFreeze, traffic.EntryThaw, traffic.EntryDriven, traffic.EntryDemo,
	traffic.EntryMeasureOn, traffic.EntryMeasureOff,
	traffic.EntryConsumerIntent, traffic.EntryConsumerWritten, traffic.EntryConsumerUnknown, traffic.EntryConsumerRejected, traffic.EntryConsumerVerified,
	traffic.EntryConsumerRolledBack, traffic.EntryConsumerReplaced, traffic.EntryConsumerUnpinned,
}

// consumerKinds are the records that hold a change of a consumer's settings as it
// then stood.
var consumerKinds = []traffic.EntryKind{
	traffic.EntryConsumerIntent, traffic.EntryConsumerWritten, traffic.EntryConsumerUnknown, traffic.EntryConsumerRejected, traffic.EntryConsumerVerified,
	traffic.EntryConsumerRolledBack, traffic.EntryConsumerReplaced,
}

// journalFilter reads ?split=&kind=&change=&from=&to=&before=; times are UTC.
func journalFilter(q url.Values) (traffic.EntryFilter, error) {
	f := traffic.EntryFilter{Split: q.Get("split"), Kind: traffic.EntryKind(q.Get("kind")), Change: q.Get("change"), Limit: journalPage}
	var err error
	if f.From, err = parseTime(q.Get("from"), time.Time{}); err == nil {
		f.To, err = parseTime(q.Get("to"), time.Time{})
	}
	if err != nil {
		return f, &fleet.Error{Kind: fleet.Invalid, Msg: "The time is not valid.", Hint: "Write it as 2026-01-31T12:00, in UTC.", Err: err}
	}
	if v := q.Get("before"); v != "" {
		if f.Before, err = strconv.ParseUint(v, 10, 64); err != nil {
			return f, &fleet.Error{Kind: fleet.Invalid, Msg: "The page of the journal is not valid.", Hint: "before= is the number of a record.", Err: err}
		}
	}
	return f, nil
}

func (s *Server) listJournal(c echo.Context) error {
	q := c.QueryParams()
	filter, err := journalFilter(q)
	if err != nil {
		return err
	}
	if format(c) != "" {
		filter.Limit = journalExport
	} else {
		filter.Limit++ // one more tells whether there is another page
	}
	entries, err := s.Journal.Entries(c.Request().Context(), filter)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if format(c) != "" {
		if entries == nil {
			entries = []traffic.Entry{}
		}
		return s.export(c, "journal", journalColumns, journalTable(entries), entries)
	}
	kept := url.Values{}
	for _, k := range []string{"split", "kind", "change", "from", "to"} {
		if v := q.Get(k); v != "" {
			kept.Set(k, v)
		}
	}
	v := templates.Journal{Split: filter.Split, Kind: string(filter.Kind), From: inputTime(filter.From), To: inputTime(filter.To), Filtered: len(kept) > 0,
		CSV: withQuery("/journal.csv", kept), JSON: withQuery("/journal.json", kept)}
	if filter.Before > 0 {
		v.Newest = withQuery("/journal", kept)
	}
	if len(entries) > journalPage {
		entries = entries[:journalPage]
		older := url.Values{}
		for k := range kept {
			older.Set(k, kept.Get(k))
		}
		older.Set("before", strconv.FormatUint(entries[journalPage-1].Seq, 10))
		v.Older = withQuery("/journal", older)
	}
	for _, e := range entries {
		day := e.At.UTC().Format("Monday, 2 January 2006 (UTC)")
		if n := len(v.Days); n == 0 || v.Days[n-1].Day != day {
			v.Days = append(v.Days, templates.JournalDay{Day: day})
		}
		d := &v.Days[len(v.Days)-1]
		d.Entries = append(d.Entries, s.entryView(e))
	}
	for _, r := range s.Control.Splits() {
		v.Splits = append(v.Splits, templates.Option{Value: r.Split.Name, Label: r.Split.Name})
	}
	for _, k := range entryKinds {
		v.Kinds = append(v.Kinds, templates.Option{Value: string(k), Label: entryWords(k)})
	}
	newest, err := s.newestRecord(c.Request().Context())
	if err != nil {
		return err
	}
	v.Whole = newest
	f := withLive(s.frame(c, "Journal", navJournal), topicJournal)
	return show(c, templates.JournalPage(f, v), templates.JournalPage(f, v))
}

// newestRecord is the number of the journal's last record.
func (s *Server) newestRecord(ctx context.Context) (string, error) {
	last, err := s.Journal.Entries(ctx, traffic.EntryFilter{Limit: 1})
	if err != nil {
		return "", fmt.Errorf("read the end of the journal: %w", err)
	}
	if len(last) == 0 {
		return "empty", nil
	}
	return strconv.FormatUint(last[0].Seq, 10), nil
}

func (s *Server) journalTopic(ctx context.Context, _ string) (update, error) {
	newest, err := s.newestRecord(ctx)
	return update{Data: whole{newest}}, err
}

func inputTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04")
}

func (s *Server) entryView(e traffic.Entry) templates.JournalEntry {
	return templates.JournalEntry{Seq: strconv.FormatUint(e.Seq, 10), URL: "/journal/" + strconv.FormatUint(e.Seq, 10), At: s.when(e.At),
		Status: templates.Status{Tone: entryTone(e.Kind), Word: entryWords(e.Kind)}, Split: e.Split, SplitURL: splitURL(e.Split), Actor: e.Actor, Bot: bot(e.Actor), Text: e.Text}
}

func (s *Server) showEntry(c echo.Context) error {
	ctx := c.Request().Context()
	seq, err := strconv.ParseUint(strings.TrimSuffix(c.Param("seq"), ".json"), 10, 64)
	if err != nil || seq == 0 {
		return echo.ErrNotFound
	}
	entries, err := s.Journal.Entries(ctx, traffic.EntryFilter{Before: seq + 1, Limit: 1})
	if err != nil {
		return fmt.Errorf("read journal record %d: %w", seq, err)
	}
	if len(entries) == 0 || entries[0].Seq != seq {
		return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no record %d in the journal.", seq)}
	}
	e := entries[0]
	if format(c) == "json" {
		return s.export(c, fmt.Sprintf("journal-%d", seq), journalColumns, journalTable(entries), e)
	}
	v := templates.JournalDetail{Entry: s.entryView(e), Prev: e.Prev, Hash: e.Hash, Change: e.Change, ChangeURL: "/journal?change=" + url.QueryEscape(e.Change)}
	if len(e.Data) > 0 {
		var pretty bytes.Buffer
		if json.Indent(&pretty, e.Data, "", "  ") == nil {
			v.Data = pretty.String()
		} else {
			v.Data = string(e.Data)
		}
		// Older programs recorded other things: what is not a change has no diff.
		var ch traffic.Change
		if e.Change != "" && json.Unmarshal(e.Data, &ch) == nil && len(ch.After.Targets) > 0 {
			v.Diff, v.Keys, v.Effect = diffLines(ch.Before, ch.After), keyMoves(ch.Before, ch.After), effectItems(ch.Effect)
		}
		var set traffic.ConsumerChange
		if slices.Contains(consumerKinds, e.Kind) && json.Unmarshal(e.Data, &set) == nil {
			o := set.Consumer
			v.Diff, v.Effect = settingLines(set.Diff), effectItems(set.Effect)
			v.Thing = &templates.Link{Name: consumerWords(&o), URL: settingsURL(fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer})}
		}
	}
	if e.Change != "" {
		related, err := s.Journal.Entries(ctx, traffic.EntryFilter{Change: e.Change, Limit: 20})
		if err != nil {
			return fmt.Errorf("read journal of change %s: %w", e.Change, err)
		}
		for _, r := range related {
			v.Related = append(v.Related, s.entryView(r))
		}
	}
	f := s.frame(c, fmt.Sprintf("Record %d", seq), navJournal, templates.Crumb{Name: "Journal", URL: "/journal"}, templates.Crumb{Name: fmt.Sprintf("Record %d", seq)})
	return show(c, templates.JournalEntryPage(f, v), templates.JournalEntryPage(f, v))
}

var journalColumns = []string{"seq", "at", "kind", "split", "change", "proposal", "actor", "text", "prev", "hash"}

func journalTable(entries []traffic.Entry) iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		for _, e := range entries {
			if !yield([]any{e.Seq, e.At, e.Kind, e.Split, e.Change, e.Proposal, e.Actor, e.Text, e.Prev, e.Hash}) {
				return
			}
		}
	}
}
