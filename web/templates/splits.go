package templates

// When is a moment: exact for the machine, relative for people.
type When struct{ ISO, Exact, Clock, Ago string }

// KPI is one figure of a strip.
type KPI struct {
	Key         string // live key of the value
	Label       string
	Value, Unit string
	Note        string // small, beside the value: what it covers or how good it is
	NoteKey     string
	URL         string // "" for one that leads nowhere
	Tone        string // ok, warn, crit or ""
	Spark       Spark
}

// Status is a shape and a word.
type Status struct{ Tone, Word string }

// TargetRow is one target with what was set and what was seen.
type TargetRow struct {
	Key                   string // prefix of its live keys
	Name, Color           string
	Tone, Status          string
	Subject, Consumer     string
	Tier, State           string
	Set                   string // percent
	Observed, ObservedBar string // percent; the bar's width
	Rate                  string
	P50, P95, P99         string // milliseconds
	Estimated             bool   // P50 holds an estimated mean
	Quality, QualityTip   string
	Backlog, InFlight     string
	Redelivered, Samples  string
	Load, LoadTip         string // percent of capacity
}

// SplitRow is a split in a list.
type SplitRow struct {
	Key, Name, URL, Subject string
	Status                  Status
	Revision                string
	Pick, Mode              string
	Targets                 []TargetRow
	Rate, P99, Backlog      string
	P99Note                 string
	Changed                 When
	By                      string
	Suggestion              string // URL of the open one
}

// Splits is the list of all.
type Splits struct {
	Rows     []SplitRow
	JSON     string
	CSV      string
	NewURL   string
	ReadOnly bool
}

// SplitPage is one split.
type SplitPage struct {
	// Servers that carry the split out themselves, and when they were asked; none
	// when the client library does.
	Servers       []ServerRow
	ServersAt     When
	ServersUn     string // why they could not be asked
	MappingURL    string // the text that they get, as a download
	Name, Subject string
	Status        Status
	Revision      string
	Sub           string
	Changed       When
	By, Reason    string
	Window        string // what the figures of the table cover
	KPIs          []KPI
	Targets       []TargetRow
	Sampled       string // how the latencies were measured, one sentence
	Decision      string // the tuner's last word
	Vetoes        []string
	DecidedAt     When
	Form          WeightsForm
	Suggestion    *Suggestion
	Charts        []ChartView
	Revisions     []RevisionRow
	Changes       []ChangeRow
	Report        string
	JSON, CSV     string
	EditURL       string
	JournalURL    string
	RangeQuery    string
}

// WeightsForm is the form that moves traffic, as loaded or as typed.
type WeightsForm struct {
	Split     string
	Action    string
	Base      string
	Tiers     []TierForm
	Reason    string
	Guard     bool
	GuardText string
	Mode, Law string
	Wrong     map[string]string // by field
	General   string            // what is wrong with the whole
	From      string            // where the weights come from when not from the revision: "suggestion p7"
	Proposal  string
	NotReady  string // why nothing can be applied now
}

// TierForm is one tier of it.
type TierForm struct {
	Tier  string
	Title string
	Rows  []WeightRow
	Sum   string
	Bad   bool
	Wrong string
}

// WeightRow is one target's weight and state.
type WeightRow struct {
	Name, Color string
	Note        string
	Value, Now  string
	Offset      string // of its segment in the bar
	State       string
	StateNow    string
	Wrong       string
}

// RevisionRow is one revision in the history.
type RevisionRow struct {
	Number    string
	Current   bool
	At        When
	By        string
	Reason    string
	Weights   string
	RestoreTo string // revision to go back to; "" for the current one
}

// ChangeRow is one change with how it went.
type ChangeRow struct {
	ID, URL  string
	Split    string
	SplitURL string
	Revision string
	Status   Status
	At       When
	By       string
	Bot      bool
	Reason   string
	Outcome  string
	Effect   []EffectItem
	Undo     bool
}

// EffectItem is a figure before and after.
type EffectItem struct {
	Name, Before, After, Unit string
	Better, Worse             bool
	Note                      string
}

// DiffLine is one line of a difference; Op is " ", "-" or "+".
type DiffLine struct{ Op, Text string }

// Review is the dry run: exactly what would be written.
type Review struct {
	Split   string
	Title   string
	Lead    string
	Diff    []DiffLine
	Warn    []string
	Key     string
	KeyName string // what Key is; "" is a key of the KV bucket
	KeyNote string
	Payload string
	Command string
	Guard   bool

	Keys *KeyMoves // nil for a split that does not pick by key

	// Of a split that the servers carry out themselves.
	Servers, ServersCommands string
	ServersSave, ServersFile string // a link that holds what they get, and the name to save it by

	GuardText string
	Reason    string
	Fields    []Hidden
	Action    string
	Back      string
	NoChange  bool
}

// KeyMoves is what a change does to the keys of a split that picks by key.
type KeyMoves struct {
	Text          string // one sentence or two
	Share, Least  string // that move, and that the weights alone ask for
	Source, Bound string // what the shares do not say; "" for nothing
	Ways          []KeyWay
	Rest          string // of the ways that are not listed
}

// KeyWay is the share of all keys that goes from one target to another.
type KeyWay struct{ From, To, Share string }

// Conflict shows both versions of a split that moved while somebody edited it.
type Conflict struct {
	Split         string
	Base, Now     string
	By, Reason    string
	At            When
	Yours, Theirs []DiffLine
	Fields        []Hidden
	Action        string
	Back          string
}

// SplitForm makes a split or changes its targets.
type SplitForm struct {
	Title, Lead string
	Action      string
	Name        string
	Fixed       bool // the name cannot be changed
	Base        string
	Subject     string
	Pick        string
	Mode        string
	Law         string
	Reason      string
	Rows        []TargetForm
	Consumers   []Option
	Options     SplitOptions
	Wrong       map[string]string
	General     string
	Back        string
	Delete      string // URL; "" for a new one
}

// TargetForm is one target of it; I is its place in the form.
type TargetForm struct {
	I                       string
	Name, Subject, Observe  string
	Weight, Tier, State     string
	WrongName, WrongSubject string
	WrongWeight, WrongTier  string
	WrongObserve            string
}

// SplitOptions are what may be left out of a split, by name.
type SplitOptions struct {
	Open  bool // something of it is set, or wrong
	Value map[string]string
	Wrong map[string]string
	Lanes []LaneForm
}

// LaneForm is one lane of it; I is its place in the form.
type LaneForm struct {
	I, Name, Timeout, Retries, Target, Fallback string

	Wrong map[string]string // by name, timeout, retries, target, fallback
}

// ServerRow is what one server does with a split that the servers carry out.
type ServerRow struct {
	Server, URL string
	Status      Status
	Weights     string
	Text        string
}

// Option is one of a list to choose from.
type Option struct{ Value, Label string }
