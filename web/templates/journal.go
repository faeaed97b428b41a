package templates

// Journal is a page of the record.
type Journal struct {
	Splits, Kinds []Option
	Split, Kind   string
	From, To      string
	Days          []JournalDay
	Older         string // URL of the next page
	Newest        string // URL of the first page, when this is another
	CSV, JSON     string
	Filtered      bool
	Whole         string // changes when there is something new
}

// JournalDay is what happened on one day.
type JournalDay struct {
	Day     string
	Entries []JournalEntry
}

// JournalEntry is one record.
type JournalEntry struct {
	Seq, URL string
	At       When
	Status   Status
	Split    string
	SplitURL string
	Actor    string
	Bot      bool
	Text     string
}

// JournalDetail is one record in full.
type JournalDetail struct {
	Entry     JournalEntry
	Thing     *Link // the consumer that was changed; nil when it is none
	Diff      []DiffLine
	Keys      *KeyMoves // that the change moved; nil for a split that does not pick by key
	Effect    []EffectItem
	Data      string
	Prev      string
	Hash      string
	ChangeURL string
	Change    string
	Related   []JournalEntry
}

// Overview is the first page.
type Overview struct {
	Status   Status
	Sub      string
	KPIs     []KPI
	Needs    []Need
	Calm     string // said when nothing needs attention
	Splits   []SplitRow
	Changes  []ChangeRow
	Events   []EventRow
	Charts   []ChartView
	Forming  *Forming
	NewSplit string
	Whole    string // changes when the page consists of other parts than it was drawn with
}

// Need is something that wants attention; worst first.
type Need struct {
	Tone, What, Detail, URL string
	Since                   When
}

// EventRow is something that happened to the system.
type EventRow struct {
	Tone, Entity, Text string
	At                 When
}

// Forming says what is missing before there is anything to show.
type Forming struct {
	Title, Text string
	Steps       []FormingStep
}

// FormingStep is one thing that is there or is missing.
type FormingStep struct{ Tone, What, Hint string }

// Found is what the find box found.
type Found struct {
	Query string
	Hits  []Hit
	More  bool
}

// Hit leads to a page.
type Hit struct{ Name, Kind, URL, Icon string }

// Demo is the drawer.
type Demo struct {
	Targets      []DemoTarget
	Servers      []DemoServer
	Rate, Normal string
	Doubled      bool
	Published    string
	Failed       string
	Wrong        string
}

// DemoTarget is one pool of workers.
type DemoTarget struct {
	Name, Status string
	Tone         string
	Running      bool
	Factors      []DemoFactor
}

// DemoFactor is a service time to choose.
type DemoFactor struct {
	Label, Value string
	Current      bool
}

// DemoServer is one server of the demo's cluster.
type DemoServer struct {
	Name, Status, Tone string
	Running            bool
}
