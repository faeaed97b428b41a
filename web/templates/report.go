package templates

// Reports is the page where a report is chosen.
type Reports struct {
	Splits []ReportSplit
	Ranges []Hidden // value and label of the ranges to pick from
	From   string   // for the fields of an own range, UTC
	To     string
}

// ReportSplit is a split with the links to its reports.
type ReportSplit struct {
	Name, Subject string
	Links         []ReportLinks
}

// ReportLinks are the forms of one report.
type ReportLinks struct{ Label, Page, HTML, CSV, JSON string }

// Report is a split over a span of time; everything is words.
type Report struct {
	Title     string
	Subtitle  []string // what, when, by whom
	Lead      string   // what happened, in a sentence or two
	Targets   []ReportTarget
	Note      string // how the latencies were measured
	Charts    []ChartView
	Changes   []ReportChange
	Proposals []ReportProposal
	Events    []ReportEvent
	Journal   []ReportEvent
	More      string // said when the journal of the span is longer than what is listed
	Hash      string // of the newest journal entry
	Made      string // when and by which version

	HTML, CSV, JSON string // URLs, empty in the file
}

// ReportTarget is a row of the table of targets.
type ReportTarget struct {
	Name, Color, State           string
	Set, Observed                string // Set is from → to where it changed
	SetW, SeenW                  string
	Messages, Acked, Redelivered string
	Mean, P50, P95, P99          string // milliseconds
	Source                       string // how the latency was found, and by how much
}

// ReportChange is a change with its effect.
type ReportChange struct {
	When, Title, Actor, Reason string
	Tone, Phase, Outcome       string
	Moves                      []ReportMove
	Effect                     []ReportEffect
}

// ReportMove is one target's weight, before and after.
type ReportMove struct{ Target, From, To, Delta string }

// ReportEffect is one figure, before and after.
type ReportEffect struct{ Name, Before, After, Delta string }

// ReportProposal is a suggestion with its reasons.
type ReportProposal struct{ When, Title, Why, Status, Evidence string }

// ReportEvent is something that happened.
type ReportEvent struct{ When, What, Who, Text, Tone string }
