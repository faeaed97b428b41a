package templates

// List is a table that its URL sorts, filters and pages.
type List struct {
	ID          string // of the table, for the live stream
	Title, Sub  string
	Path        string
	Query       string
	Placeholder string
	Tabs        []Choice
	TabsLabel   string
	Filters     []ListFilter
	Keep        []Hidden // what the filter form keeps of the URL
	Table       ListTable
	CSV, JSON   string
	Clear       string // URL without any filter; "" when there is none
	Away        string // said instead of the table: what is needed is not running
}

// ListTable is what of it the live stream renders anew.
type ListTable struct {
	Label      string
	Icon       string
	Cols       []ListCol
	Rows       []ListRow
	Note       string // "1 to 50 of 5,000"
	Prev, Next string
	Empty      string
	EmptyText  string
}

// ListFilter is a choice beside the search field.
type ListFilter struct {
	Name, Label, All, Value string
	Options                 []Option
}

// ListCol heads a column; URL sorts by it.
type ListCol struct {
	Label, URL string
	Order      string // of the table by this column: ascending, descending or ""
	Right      bool
}

// ListRow is a row; its first cell names it.
type ListRow struct{ Cells []ListCell }

// ListCell is a figure or a name.
type ListCell struct {
	Label string // of its column, for a phone
	Text  string
	Small string // under the text
	URL   string
	Tone  string // draws the shape of a status before the text
	Key   string // live key of the text
	Tip   string
	Right bool
	Wrap  bool // a sentence
}
