package handlers

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// collection is a list with all that belongs to it: its page, its .csv and .json
// with every field, and its live stream.
type collection[T any] struct {
	id          string // of its table, its topic and its place in the navigation
	title       string
	placeholder string
	icon        string
	none        string      // said when there is none at all
	views       [][2]string // names and paths of the lists of the same things, this one among them
	noted       bool        // of the past it is known to the minute
	own         []string    // filters of its URL beside the name
	list        func(*Server) listing[T]
	rows        func(*Server, listArgs) []T // what its own filters leave, by name
	sub         func(*Server, []T) string   // sums up the rows
	heading     func(listArgs) string       // in place of the title, unless it is ""
	filters     func(*Server, listArgs) []templates.ListFilter
	doc         func(*Server, *T) any // a struct with JSON names: a row of the exports
}

// show answers the list's URL.
func (l collection[T]) show(s *Server) echo.HandlerFunc {
	return func(c echo.Context) error {
		list := l.list(s)
		a, err := list.args(c.QueryParams(), l.own...)
		if err != nil {
			return err
		}
		if format(c) != "" {
			picked := list.pick(l.rows(s, a), a)
			docs := make([]any, len(picked))
			for i, row := range picked {
				docs[i] = l.doc(s, row)
			}
			var empty T
			return s.exportDocs(c, l.id, l.doc(s, &empty), docs)
		}
		t, sub := l.table(s, list, a)
		v := list.page(l.id, l.title, a, t)
		v.Sub, v.Placeholder = sub, l.placeholder
		if l.heading != nil {
			v.Title = cmp.Or(l.heading(a), v.Title)
		}
		for _, view := range l.views {
			v.TabsLabel = "Views"
			v.Tabs = append(v.Tabs, templates.Choice{Label: view[0], URL: view[1], Current: view[1] == list.path})
		}
		if l.filters != nil {
			v.Filters = l.filters(s, a)
		}
		for _, name := range l.own {
			value := a.rest.Get(name)
			shown := slices.ContainsFunc(v.Filters, func(f templates.ListFilter) bool { return f.Name == name })
			if value != "" && !shown {
				v.Keep = append(v.Keep, templates.Hidden{Name: name, Value: value})
			}
		}
		return show(c, templates.ListPage(follow(s.frame(c, v.Title, l.id), listTopic(l.id, a)), v), templates.ListRows(v.Table))
	}
}

// topic is the list as a live stream shows it; arg is the query of its URL.
func (l collection[T]) topic(s *Server) topicFunc {
	return func(_ context.Context, arg string) (update, error) {
		q, err := url.ParseQuery(arg)
		if err != nil {
			return update{}, fmt.Errorf("read the list's URL: %w", err)
		}
		list := l.list(s)
		a, err := list.args(q, l.own...)
		if err != nil {
			return update{}, err
		}
		t, sub := l.table(s, list, a)
		return listUpdate(l.id, sub, t), nil
	}
}

func (l collection[T]) table(s *Server, list listing[T], a listArgs) (t templates.ListTable, sub string) {
	all := l.rows(s, a)
	t = list.table(list.pick(all, a), a)
	t.Label, t.Icon, t.Empty, t.EmptyText = l.title, l.icon, "No "+strings.ToLower(l.title), l.none
	switch {
	case a.filtered():
		t.EmptyText = "None fits the filter."
	}
	sub = l.sub(s, all)
	if l.noted && !s.moment.IsZero() {
		sub += " Of the past it is known as of the last full minute or so."
	}
	return t, sub
}

// part is the first rows of the list on another page, sorted as the URL of the
// whole list says.
func (l collection[T]) part(s *Server, id, title string, q url.Values) templates.DetailTable {
	list := l.list(s)
	a, err := list.args(q, l.own...)
	if err != nil {
		a = listArgs{page: 1, rest: url.Values{}}
	}
	t, sub := l.table(s, list, a)
	return firstRows(id, title, sub, t, withQuery(list.path, a.query()))
}

// partRows are how many rows of a list another page has room for.
const partRows = 12

// firstRows are the first rows of a table on another page; whole leads to the list,
// where it is sorted and turned.
func firstRows(id, title, sub string, t templates.ListTable, whole string) templates.DetailTable {
	for i := range t.Cols {
		t.Cols[i].URL = ""
	}
	_, of, _ := strings.Cut(t.Note, " of ")
	t.Note, t.Prev, t.Next = "", "", ""
	if len(t.Rows) > partRows {
		t.Rows, t.Note = t.Rows[:partRows], fmt.Sprintf("%d of %s", partRows, of)
	}
	return templates.DetailTable{ID: id, Title: title, Sub: sub, Table: t, More: templates.Link{Name: "All of them", URL: whole}}
}

// oneOf is a filter with the values that there are.
func oneOf[T any](name, label, now string, rows []T, value func(*T) string) templates.ListFilter {
	f := templates.ListFilter{Name: name, Label: label, All: "all", Value: now}
	seen := map[string]bool{"": true}
	add := func(v string) {
		if !seen[v] {
			seen[v] = true
			f.Options = append(f.Options, templates.Option{Value: v, Label: v})
		}
	}
	for i := range rows {
		add(value(&rows[i]))
	}
	add(now) // what is filtered by may have gone
	slices.SortFunc(f.Options, func(a, b templates.Option) int { return strings.Compare(a.Value, b.Value) })
	return f
}

// exportDocs sends structs as JSON, or as CSV with a column for each field, under
// the same names. like is one of them, for the heads of an empty list.
func (s *Server) exportDocs(c echo.Context, name string, like any, docs []any) error {
	t := reflect.TypeOf(like)
	var cols []string
	for i := range t.NumField() {
		col, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		cols = append(cols, col)
	}
	return s.export(c, name, cols, func(yield func([]any) bool) {
		row := make([]any, len(cols))
		for _, d := range docs {
			v := reflect.ValueOf(d)
			for i := range row {
				row[i] = v.Field(i).Interface()
				if list, ok := row[i].([]string); ok {
					row[i] = strings.Join(list, " ")
				}
			}
			if !yield(row) {
				return
			}
		}
	}, docs)
}

// replicaRows are the replicas of a Raft group, its leader first.
func replicaRows(leader string, peers []fleet.Replica) []templates.ReplicaRow {
	var rows []templates.ReplicaRow
	if leader != "" {
		rows = append(rows, templates.ReplicaRow{Name: leader, URL: serverURL(leader), Role: "leader", Tone: "ok", State: "leads", Lag: none, Active: none})
	}
	for _, p := range peers {
		r := templates.ReplicaRow{Name: p.Name, URL: serverURL(p.Name), Role: "follower", Tone: "ok", State: "current", Lag: countWords(p.Lag), Active: duration(p.Active)}
		switch {
		case p.Offline:
			r.Tone, r.State = "crit", "offline"
		case !p.Current:
			r.Tone, r.State = "warn", "behind"
		}
		rows = append(rows, r)
	}
	return rows
}

// findingsOn are the open findings of one thing, the worst first.
func (s *Server) findingsOn(e fleet.Entity) []templates.Need {
	var needs []templates.Need
	if s.Findings == nil {
		return nil
	}
	for _, f := range s.Findings.Open() {
		if f.Entity == e {
			needs = append(needs, templates.Need{Tone: severityTone(f.Severity), What: f.Title, Detail: lead(f.Text), URL: findingURL(f), Since: s.when(f.Since)})
		}
	}
	return needs
}
