package templates

// Finding is one finding in full.
type Finding struct {
	Code, Title string
	Status      Status // its severity
	State       Status // open, closed or suppressed
	Entity      string
	EntityKind  string
	EntityURL   string
	Text        string
	Remedy      string
	Command     string
	What, Why   string // of its check
	Since, Seen When
	Closed      When
	Reopened    string
	Evidence    []FindingEvidence
	Quiet       *Quiet // it is suppressed
	Form        *QuietForm
	Lift        string // URL that lifts the suppression
	Fields      []Hidden
	Episodes    []FindingEpisode
	Shape       string // changes when the page should be loaded anew
}

// FindingEvidence is a figure that shows it.
type FindingEvidence struct {
	Name, Value, Limit, Source string
	At                         When
}

// FindingEpisode is another time that it was open.
type FindingEpisode struct {
	URL           string
	Since, Closed When
	Current       bool
}

// Quiet is a suppression that holds.
type Quiet struct {
	By, Reason string
	At         When
	Until      string
}

// QuietForm asks for one.
type QuietForm struct {
	URL, Reason, For      string
	Spans                 []Option
	Wrong                 string
	WrongReason, WrongFor string
}
