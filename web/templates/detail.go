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
	Findings        []Need
	Events          []EventRow
}

// DetailCard is a headed card of figures and settings, with its replicas if it
// has some.
type DetailCard struct {
	ID, Title, Sub string
	Settings       []Setting
	Replicas       []ReplicaRow
}

// DetailTable is a headed table.
type DetailTable struct {
	ID, Title, Sub string
	Table          ListTable
	More           Link // the whole list
}
