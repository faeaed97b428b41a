package templates

// Consumer is one consumer in full.
type Consumer struct {
	Name, Where string
	StreamURL   string
	Status      Status
	KPIs        []KPI
	Heat        HeatView
	Charts      []ChartView
	Config      []Setting
	State       []Setting
	Limits      []Setting // its owner's
	Replicas    []ReplicaRow
	Findings    []Need
	Splits      []Link
	Measure     Measure
	SettingsURL string // "" for one that has none of its own
	CSV, JSON   string
	Download    string
}

// Setting is a figure or setting with its name.
type Setting struct{ Name, Value, Key, URL string }

// Link leads to a page.
type Link struct{ Name, URL string }

// ReplicaRow is a replica of a consumer.
type ReplicaRow struct{ Name, URL, Role, Tone, State, Lag, Active string }

// Measure is how a consumer is measured, and the form that has it measured.
type Measure struct {
	Sampled string // what the servers do now
	Why     string // why it cannot be measured; "" if it can
	Runs    *MeasureRun
	Form    MeasureForm
	Last    []MeasureRun
}

// MeasureRun is a measurement.
type MeasureRun struct {
	ID, Status, Tone, Actor, Reason, Outcome, Percent, Cost string
	Started                                                 When
	Ends, Until                                             string // milliseconds, and in words
	StopURL                                                 string
}

// MeasureForm is the form as it was filled in.
type MeasureForm struct {
	URL, For, Percent, Reason string
	Spans                     []Option
	Wrong                     string
	WrongFields               map[string]string
}
