package templates

// Suggestion is one proposal of the tuner.
type Suggestion struct {
	ID, URL    string
	Split      string
	SplitURL   string
	Title      string
	Lead       string   // the first sentence of why
	Why        []string // all of them
	Status     Status
	Open       bool
	At         When
	Expires    string // milliseconds, for the countdown
	ExpiresAt  When
	Base       string
	Stale      bool // another revision is in force than the one it was made for
	Moves      []MoveRow
	Keys       *KeyMoves // of an open one in full, for a split that picks by key
	Evidence   []EvidenceRow
	Window     string
	Predicted  []EffectItem
	Measured   string // says what is measured and what is the model's
	Others     []AlternativeRow
	Confidence string
	Bars       int // of five
	Guards     []string
	Law, Kind  string
	Closed     When
	ClosedBy   string
	Change     *ChangeRow // what became of it
	Approve    string     // URLs of its forms
	Dismiss    string
	OpenIn     string // URL of the weights form with these weights
	NotReady   string
	Reason     string // as typed
	Wrong      string // what is wrong with it
}

// MoveRow is one target's weight from and to.
type MoveRow struct {
	Name, From, To, By string
	Up                 bool
	Limited            string
}

// EvidenceRow is what the suggestion rests on, of one target.
type EvidenceRow struct {
	Name                          string
	Rate, Capacity, Load          string
	Latency, P99                  string
	Samples, Backlog, Errors, Age string
	Quality, QualityTip           string
	Workers                       string
	Estimated                     bool
	Over                          bool
	Note                          string
}

// AlternativeRow is what another law would do.
type AlternativeRow struct{ Law, Weights, Load string }

// Suggestions is the list, with one of them in full.
type Suggestions struct {
	States   []Choice
	Rows     []Suggestion
	Selected *Suggestion
	JSON     string
	CSV      string
	Empty    string
	Whole    string // changes when there is something new
	Holds    []Hold
}

// Hold is why there is no suggestion for a split just now.
type Hold struct {
	Split, URL string
	Why        string
	Vetoes     []string
	At         When
}
