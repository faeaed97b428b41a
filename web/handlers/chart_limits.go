package handlers

import (
	"cmp"
	"slices"
	"strings"

	"ballast/fleet"
	"ballast/web/templates"
)

// limit is a threshold that belongs to what a chart draws: a setting of the
// consumer or stream, or what its owner wrote into its metadata.
type limit struct {
	value float64
	name  string // with its value, as a person writes it
	tone  string // warn, crit, or "" for a plain setting
	owner bool
	least bool // the figures are to stay above it
}

// limits are those of one chart, the highest first.
type limits []limit

// nearLimit is the part of a limit that the figures must reach for it to be drawn
// at its height. One that is further away would press the lines flat: it is named
// at the upper edge.
const nearLimit = 1.0 / 3

// top is the highest limit that is drawn at its height over figures up to high.
func (ls limits) top(high float64) float64 {
	var top float64
	for _, l := range ls {
		if l.inSight(high) {
			top = max(top, l.value)
		}
	}
	return top
}

func (l limit) inSight(high float64) bool { return high >= l.value*nearLimit }

// draw places the lines that are in sight, and the names of all, which keep clear
// of each other.
func (ls limits) draw(y func(float64) float64, inSight func(limit) bool, left, top, bottom float64) []templates.PlotLimit {
	var out []templates.PlotLimit
	at := make([]float64, 0, len(ls))
	for _, l := range ls {
		p := templates.PlotLimit{Tone: l.tone, Name: l.words(), LabelX: f1(left + 5)}
		if inSight(l) {
			p.At = f1(y(l.value))
			at = append(at, y(l.value)-4)
		} else {
			p.Name = "↑ " + p.Name
			at = append(at, top+8)
		}
		out = append(out, p)
	}
	for i, v := range spread(at, 12, top+8, bottom-3) {
		out[i].LabelY = f1(v)
	}
	return out
}

func (l limit) words() string {
	w := l.name
	if l.owner {
		w = "owner: " + w
	}
	if l.least {
		w += " at least"
	}
	return w
}

// words says the limits in a sentence; "" without any.
func (ls limits) words() string {
	if len(ls) == 0 {
		return ""
	}
	var all []string
	for _, l := range ls {
		all = append(all, l.words())
	}
	return "Limits: " + strings.Join(all, ", ") + "."
}

// add keeps of each kind of limit the strictest: a chart of several consumers has
// one line for all of theirs.
func (ls *limits) add(kind string, l limit) {
	if l.value <= 0 {
		return
	}
	l.name = kind + " " + l.name
	for i, o := range *ls {
		if k, _, _ := strings.Cut(o.name, " "); k == kind && o.owner == l.owner {
			if l.value < o.value {
				(*ls)[i] = l
			}
			return
		}
	}
	*ls = append(*ls, l)
	slices.SortStableFunc(*ls, func(a, b limit) int { return cmp.Compare(b.value, a.value) })
}

func (ls *limits) count(kind, tone string, owner bool, n uint64) {
	ls.add(kind, limit{value: float64(n), name: countWords(n), tone: tone, owner: owner})
}

// wait draw the shortest ack_wait: from there on messages are delivered a
// second time while the first delivery is still at work. A back-off stands in its
// place.
func (ls *limits) wait(con *fleet.Consumer) {
	if con == nil {
		return
	}
	kind, wait := "ack_wait", con.AckWait
	if len(con.Backoff) > 0 {
		kind, wait = "backoff", con.Backoff[0]
	}
	if con.AckPolicy == "none" {
		return
	}
	ls.add(kind, limit{value: inMS(wait), name: duration(wait), tone: "warn"})
}

// pending are those for what waits to be delivered.
func (ls *limits) pending(con *fleet.Consumer) {
	if con != nil && con.Limits != nil {
		ls.count("unprocessed-critical", "crit", true, con.Limits.Unprocessed)
	}
}

// inFlight are those for what is delivered and not acknowledged.
func (ls *limits) inFlight(con *fleet.Consumer) {
	if con == nil {
		return
	}
	if con.Fold == nil { // it holds for each of them, not for their sum
		ls.count("max_ack_pending", "warn", false, uint64(max(con.MaxAckPending, 0)))
	}
	if con.Limits != nil {
		ls.count("outstanding-ack-critical", "crit", true, uint64(con.Limits.AckPending))
	}
}

func (ls *limits) redelivered(con *fleet.Consumer) {
	if con != nil && con.Limits != nil {
		ls.count("redelivery-critical", "crit", true, uint64(con.Limits.Redelivered))
	}
}

func (ls *limits) waiting(con *fleet.Consumer) {
	if con != nil && con.Limits != nil {
		ls.count("waiting-critical", "crit", true, uint64(con.Limits.Waiting))
	}
}

// messages of a stream: a warning below the critical number warns of too
// many messages; above it, or each of them alone, of too few.
func (ls *limits) messages(st *fleet.Stream) {
	ls.count("max_msgs", "", false, uint64(max(st.MaxMsgs, 0)))
	if t := st.Limits; t != nil {
		upper := t.MsgsWarn > 0 && t.MsgsWarn < t.MsgsCritical
		ls.add("msgs-warn", limit{value: float64(t.MsgsWarn), name: countWords(t.MsgsWarn), tone: "warn", owner: true, least: !upper})
		ls.add("msgs-critical", limit{value: float64(t.MsgsCritical), name: countWords(t.MsgsCritical), tone: "crit", owner: true, least: !upper})
	}
}

// subjects of a stream follow the same rule.
func (ls *limits) subjects(st *fleet.Stream) {
	if t := st.Limits; t != nil {
		upper := t.SubjWarn > 0 && t.SubjWarn < t.SubjCritical
		ls.add("subjects-warn", limit{value: float64(t.SubjWarn), name: countWords(uint64(t.SubjWarn)), tone: "warn", owner: true, least: !upper})
		ls.add("subjects-critical", limit{value: float64(t.SubjCritical), name: countWords(uint64(t.SubjCritical)), tone: "crit", owner: true, least: !upper})
	}
}

func (ls *limits) bytes(st *fleet.Stream) {
	ls.add("max_bytes", limit{value: float64(st.MaxBytes), name: bytesWords(float64(st.MaxBytes))})
}

// limitDoc is a limit as JSON.
type limitDoc struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"` // in the chart's unit
	Severity string  `json:"severity,omitempty"`
	Owner    bool    `json:"owner,omitempty"`    // from io.nats.monitor.* in the metadata
	AtLeast  bool    `json:"at_least,omitempty"` // the figures are to stay above it
}

func (ls limits) docs() []limitDoc {
	out := []limitDoc{}
	for _, l := range ls {
		out = append(out, limitDoc{Name: l.name, Value: l.value, Severity: l.severity(), Owner: l.owner, AtLeast: l.least})
	}
	return out
}

func (l limit) severity() string {
	switch l.tone {
	case "crit":
		return "critical"
	case "warn":
		return "warning"
	}
	return ""
}

// rows are the limits as a table beside the figures.
func (ls limits) rows() [][]string {
	var rows [][]string
	for _, l := range ls {
		from, holds := "its settings", "at most"
		if l.owner {
			from, holds = "its owner, by metadata", "below"
		}
		if l.least {
			holds = "at least"
		}
		rows = append(rows, []string{l.name, holds, cmp.Or(l.severity(), none), from})
	}
	return rows
}
