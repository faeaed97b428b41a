package templates

// Detail is one thing in full: a server, a stream, an account.
type Detail struct {
	ID              string // prefix of its live keys and parts
	Name            string
	Where, WhereURL string
	Status          Status
	Error           string // why its figures are old
	CSV, JSON       string
	Download        string
	KPIs            []KPI
	Charts          []ChartView
	Cards           []DetailCard
	Tables          []DetailTable
	Commands        []Command // the same by hand
	Findings        []Need
	Events          []EventRow
}

// Command is a line for a terminal, to be copied: Ballast runs none of them.
type Command struct {
	ID, What, Line string
	Acts           bool // it changes something
}

// Bar is a figure against its limit.
type Bar struct {
	Name, Value string
	Share       string // of the limit, 0 to 100; "" when there is no limit to draw
	Tone, Word  string // near the limit or beyond it; "" is neither
}

// DetailCard is a headed card of figures and settings, with its replicas if it
// has some.
type DetailCard struct {
	ID, Title, Sub string
	Bars           []Bar
	Settings       []Setting
	Replicas       []ReplicaRow
}

// DetailTable is a headed table.
type DetailTable struct {
	ID, Title, Sub string
	Table          ListTable
	More           Link // the whole list
}
