package handlers

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"ballast/fleet"
	"ballast/web/templates"
)

// listRows is the length of a page of a list.
const listRows = 50

// listing describes a table of things that its URL sorts, filters and pages:
// ?q= is a part of a name, ?sort= a column's key, with a minus before it for
// descending, ?page= counts from 1.
type listing[T any] struct {
	path string
	cols []listCol[T]
	sort string // what it is sorted by when the URL does not say
	name func(*T) string
}

// listCol is a column of it.
type listCol[T any] struct {
	key, label string
	right      bool
	by         func(a, b *T) int // ascending; nil: it does not sort
	down       bool              // the first click sorts descending
	cell       func(*T) templates.ListCell
}

// listArgs are what a URL asks of a list.
type listArgs struct {
	q, sort string
	page    int
	rest    url.Values // its own filters
}

// args reads a URL. own are the names of the filters that belong to this list.
func (l listing[T]) args(q url.Values, own ...string) (listArgs, error) {
	a := listArgs{q: strings.TrimSpace(q.Get("q")), sort: q.Get("sort"), page: 1, rest: url.Values{}}
	if v := q.Get("page"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return a, &fleet.Error{Kind: fleet.Invalid, Msg: "The page of the list is not valid.", Hint: "page= is a number from 1."}
		}
		a.page = n
	}
	if a.sort != "" && l.column(a.sort) == nil {
		return a, &fleet.Error{Kind: fleet.Invalid, Msg: "The list cannot be sorted by that.", Hint: "Use the heads of its columns."}
	}
	for _, k := range own {
		if v := q.Get(k); v != "" {
			a.rest.Set(k, v)
		}
	}
	return a, nil
}

// column is what a sort= names, or nil.
func (l listing[T]) column(sort string) *listCol[T] {
	key := strings.TrimPrefix(sort, "-")
	for i := range l.cols {
		if l.cols[i].key == key && l.cols[i].by != nil {
			return &l.cols[i]
		}
	}
	return nil
}

// query is what stands in the URL for these arguments.
func (a listArgs) query() url.Values {
	q := url.Values{}
	for k := range a.rest {
		q.Set(k, a.rest.Get(k))
	}
	if a.q != "" {
		q.Set("q", a.q)
	}
	if a.sort != "" {
		q.Set("sort", a.sort)
	}
	if a.page > 1 {
		q.Set("page", strconv.Itoa(a.page))
	}
	return q
}

func (a listArgs) filtered() bool { return a.q != "" || len(a.rest) > 0 }

// pick leaves what the arguments ask for, sorted: all pages of it.
func (l listing[T]) pick(all []T, a listArgs) []*T {
	out := make([]*T, 0, len(all))
	q := strings.ToLower(a.q)
	for i := range all {
		if q == "" || strings.Contains(strings.ToLower(l.name(&all[i])), q) {
			out = append(out, &all[i])
		}
	}
	sort := cmp.Or(a.sort, l.sort)
	if c := l.column(sort); c != nil {
		by := c.by
		if strings.HasPrefix(sort, "-") {
			by = func(x, y *T) int { return c.by(y, x) }
		}
		slices.SortStableFunc(out, by) // equal ones keep the order of their names
	}
	return out
}

// table is one page of what was picked. A page behind the last shows the last:
// what stood there may have gone meanwhile.
func (l listing[T]) table(picked []*T, a listArgs) templates.ListTable {
	pages := max((len(picked)+listRows-1)/listRows, 1)
	a.page = min(a.page, pages)
	first := (a.page - 1) * listRows
	last := min(first+listRows, len(picked))
	v := templates.ListTable{}
	sort := cmp.Or(a.sort, l.sort)
	for _, c := range l.cols {
		head := templates.ListCol{Label: c.label, Right: c.right}
		if c.by != nil {
			next := c.key
			if c.down {
				next = "-" + c.key
			}
			switch sort {
			case c.key:
				head.Order, next = "ascending", "-"+c.key
			case "-" + c.key:
				head.Order, next = "descending", c.key
			}
			to := a
			to.sort, to.page = next, 1
			head.URL = withQuery(l.path, to.query())
		}
		v.Cols = append(v.Cols, head)
	}
	for _, t := range picked[first:last] {
		row := templates.ListRow{Cells: make([]templates.ListCell, len(l.cols))}
		for i, c := range l.cols {
			cell := c.cell(t)
			cell.Label, cell.Right = c.label, c.right
			row.Cells[i] = cell
		}
		v.Rows = append(v.Rows, row)
	}
	if len(picked) > 0 {
		v.Note = fmt.Sprintf("%s to %s of %s", countWords(uint64(first+1)), countWords(uint64(last)), countWords(uint64(len(picked))))
	}
	turn := func(page int) string {
		to := a
		to.page = page
		return withQuery(l.path, to.query())
	}
	if a.page > 1 {
		v.Prev = turn(a.page - 1)
	}
	if a.page < pages {
		v.Next = turn(a.page + 1)
	}
	return v
}

// page is the frame of the list around its table.
func (l listing[T]) page(id, title string, a listArgs, t templates.ListTable) templates.List {
	export := a
	export.page = 1
	v := templates.List{ID: id, Title: title, Path: l.path, Query: a.q, Table: t,
		CSV: withQuery(l.path+".csv", export.query()), JSON: withQuery(l.path+".json", export.query())}
	if a.sort != "" {
		v.Keep = append(v.Keep, templates.Hidden{Name: "sort", Value: a.sort})
	}
	if a.filtered() {
		v.Clear = l.path
	}
	return v
}

// listUpdate is a list's tick: the cells of the visible rows, and the table anew
// when other rows are to be seen.
func listUpdate(id, sub string, t templates.ListTable) update {
	up := update{Text: map[string]string{id + "/sub": sub}}
	var shape strings.Builder
	for _, c := range t.Cols {
		fmt.Fprintf(&shape, "%q %s\n", c.Label, c.Order)
	}
	for _, r := range t.Rows {
		for _, c := range r.Cells {
			if c.Key != "" {
				up.Text[c.Key] = c.Text
				c.Text = ""
			}
			fmt.Fprintf(&shape, "%q %q %q %s\n", c.Text, c.Small, c.URL, c.Tone)
		}
	}
	fmt.Fprint(&shape, t.Note, t.Prev, t.Next, t.Empty)
	up.Parts = map[string]part{id: {templates.ListRows(t), shape.String()}}
	return up
}

// listTopic names the live stream of a list as its URL asks for it; "" when the
// URL is too long for one.
func listTopic(kind string, a listArgs) string {
	if name := kind + ":" + a.query().Encode(); len(name) <= maxTopicName {
		return name
	}
	return ""
}

// follow makes a page live by a topic, unless there is none.
func follow(f templates.Frame, topic string) templates.Frame {
	if topic == "" {
		return withLive(f)
	}
	return withLive(f, topic)
}
