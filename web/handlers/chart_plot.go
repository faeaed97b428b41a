package handlers

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"ballast/fleet"
	"ballast/web/templates"
)

// chart is one graph before it is drawn: what was measured, over which span.
type chart struct {
	id, title, unit, hint, note string

	span   fleet.Range
	lines  []line
	marks  []mark
	limits limits
}

// line is one series of a chart.
type line struct {
	label  string
	color  string // class of the colour, see css/charts.css
	dash   bool   // what was ordered, beside what was measured
	steps  bool   // holds its value until the next point
	source fleet.Source
	step   time.Duration
	data   []sample
}

// sample is one point; n is 0 in a gap.
type sample struct {
	at            time.Time
	min, max, avg float64
	n             uint64
}

// mark is a change on the time axis.
type mark struct {
	at          time.Time
	label, text string
}

// gapFactor says how many steps may lie between two points before the line
// between them is broken. One missed round (two steps) is bridged; it is the
// rule by which the store finds gaps, too.
const gapFactor = 2.5

// Size of a plot in user units, which are CSS pixels at the width of a card in
// three columns. The right gutter holds the labels at the lines' ends; it is
// the same on all charts, so that their time axes stand in columns.
const (
	plotW, plotH                             = 520, 190
	plotLeft, plotRight, plotTop, plotBottom = 44, 92, 8, 24
)

// labelRunes is how much of a name fits into the right gutter.
const labelRunes = 14

// runs splits the line at its gaps.
func (l line) runs() [][]sample {
	var runs [][]sample
	start := 0
	flush := func(end int) {
		if end > start {
			runs = append(runs, l.data[start:end])
		}
	}
	for i, s := range l.data {
		switch {
		case s.n == 0:
			flush(i)
			start = i + 1
		case !l.steps && i > start && l.step > 0 && s.at.Sub(l.data[i-1].at) > time.Duration(gapFactor*float64(l.step)):
			flush(i)
			start = i
		}
	}
	flush(len(l.data))
	return runs
}

// last is the newest sample, if the line does not end in a gap before end.
func (l line) last(end time.Time) (sample, bool) {
	if len(l.data) == 0 {
		return sample{}, false
	}
	s := l.data[len(l.data)-1]
	return s, s.n > 0 && (l.steps || l.step == 0 || end.Sub(s.at) <= max(time.Duration(2*gapFactor*float64(l.step)), 15*time.Second))
}

func (l line) highest() (sample, bool) {
	var top sample
	for _, s := range l.data {
		if s.n > 0 && (top.n == 0 || s.max > top.max) {
			top = s
		}
	}
	return top, top.n > 0
}

// thin reduces a run to at most 2 × buckets samples: of each bucket of time the
// lowest and the highest, in their order, so that no peak is lost.
func thin(run []sample, buckets int) []sample {
	if len(run) <= 2*buckets {
		return run
	}
	first, span := run[0].at, run[len(run)-1].at.Sub(run[0].at)
	out := make([]sample, 0, 2*buckets)
	for i := 0; i < len(run); {
		b := bucketOf(run[i].at.Sub(first), span, buckets)
		lo, hi := i, i
		j := i
		for ; j < len(run) && bucketOf(run[j].at.Sub(first), span, buckets) == b; j++ {
			if run[j].min < run[lo].min {
				lo = j
			}
			if run[j].max > run[hi].max {
				hi = j
			}
		}
		low, high := run[lo], run[hi]
		low.avg, high.avg = low.min, high.max
		switch {
		case lo < hi:
			out = append(out, low, high)
		case lo > hi:
			out = append(out, high, low)
		default:
			out = append(out, run[lo])
		}
		i = j
	}
	return out
}

func bucketOf(d, span time.Duration, buckets int) int {
	return min(int(float64(d)/float64(span)*float64(buckets)), buckets-1)
}

// draw turns the chart into geometry.
func (c chart) draw() templates.Plot {
	const left, right, top, bottom = plotLeft, plotW - plotRight, plotTop, plotH - plotBottom
	high := 0.0
	for _, l := range c.lines {
		for _, s := range l.data {
			if s.n > 0 {
				high = max(high, s.max)
			}
		}
	}
	measured := high
	high = max(high, c.limits.top(high)*1.05)
	// A little air, so that a line at the very top is not drawn on the edge.
	step, high := axis(high*1.03, 4, c.unit)
	x := func(t time.Time) float64 {
		return max(left, left+float64(t.Sub(c.span.From))/float64(c.span.Span())*(right-left))
	}
	y := func(v float64) float64 { return bottom - v/high*(bottom-top) }

	p := templates.Plot{
		W: strconv.Itoa(plotW), H: strconv.Itoa(plotH),
		Left: f1(left), Right: f1(right), Top: f1(top), Bottom: f1(bottom),
	}
	for v := 0.0; v <= high*1.0001; v += step {
		p.Y = append(p.Y, templates.Tick{At: f1(y(v)), LabelAt: f1(left - 7), Label: axisFigure(v, step, c.unit)})
	}
	for _, t := range timeTicks(c.span, 6) {
		p.X = append(p.X, templates.Tick{At: f1(x(t.at)), LabelAt: f1(plotH - 6), Label: t.label})
	}
	p.Limits = c.limits.draw(y, func(l limit) bool { return l.inSight(measured) }, left, top, bottom)
	type end struct {
		line int
		y    float64
	}
	var ends []end
	for i, l := range c.lines {
		pl := templates.PlotLine{Color: l.color, Dash: l.dash}
		var d, dots strings.Builder
		for _, run := range l.runs() {
			if len(run) == 1 && !l.steps {
				fmt.Fprintf(&dots, "M%s %sh0", f1(x(run[0].at)), f1(y(run[0].avg)))
				continue
			}
			for k, s := range thin(run, (right-left)/2) {
				switch {
				case k == 0:
					fmt.Fprintf(&d, "M%s %s", f1(x(s.at)), f1(y(s.avg)))
				case l.steps:
					fmt.Fprintf(&d, "H%sV%s", f1(x(s.at)), f1(y(s.avg)))
				default:
					fmt.Fprintf(&d, "L%s %s", f1(x(s.at)), f1(y(s.avg)))
				}
			}
		}
		if _, ok := l.last(c.span.To); ok && l.steps {
			fmt.Fprintf(&d, "H%s", f1(right))
		}
		pl.D, pl.Dots = d.String(), dots.String()
		if s, ok := l.last(c.span.To); ok && !l.dash {
			pl.Label = clip(l.label, labelRunes)
			ends = append(ends, end{i, y(s.avg)})
		}
		p.Lines = append(p.Lines, pl)
	}
	at := make([]float64, len(ends))
	for i, e := range ends {
		at[i] = e.y
	}
	for i, v := range spread(at, 12, top+4, bottom) {
		p.Lines[ends[i].line].LabelY = f1(v)
	}
	p.Marks = c.drawMarks(x, left, right, top)
	return p
}

func (c chart) drawMarks(x func(time.Time) float64, left, right, top float64) []templates.PlotMark {
	var marks []templates.PlotMark
	free := left // where the next flag may begin
	for _, m := range c.marks {
		at := x(m.at)
		if at < left || at > right {
			continue
		}
		pm := templates.PlotMark{At: f1(at), Title: m.text}
		// 6.2 units a character of the flag's font, and 5 on either side.
		w := 6.2*float64(utf8.RuneCountInString(m.label)) + 10
		pm.End = at+w > right
		start := at
		if pm.End {
			start = at - w
		}
		// Flags that would cover each other are left out; the line and its title stay.
		if start >= free {
			free = start + w + 2
			pm.Label = m.label
			pm.LabelX = f1(start + w/2)
			pm.Flag = fmt.Sprintf("M%s %sh%sv15h-%sz", f1(start), f1(top), f1(w), f1(w))
		}
		marks = append(marks, pm)
	}
	return marks
}

// spread moves positions apart to at least gap, keeps their order and stays
// between low and high as far as there is room.
func spread(at []float64, gap, low, high float64) []float64 {
	order := make([]int, len(at))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(at[a], at[b]) })
	out := slices.Clone(at)
	next := low
	for _, i := range order {
		out[i] = max(out[i], next)
		next = out[i] + gap
	}
	next = high
	for _, i := range slices.Backward(order) {
		out[i] = min(out[i], next)
		next = out[i] - gap
	}
	return out
}

// axis returns a round step of which about n reach high, and the multiple of it
// where the axis ends. An empty chart has an axis, too.
func axis(high float64, n int, unit string) (step, end float64) {
	if !(high > 0) || math.IsInf(high, 0) {
		return 1, float64(n)
	}
	if strings.HasPrefix(unit, "B") {
		// Round in KiB, MiB, …, since that is what the ticks say.
		scale := math.Pow(1024, math.Floor(math.Log(high)/math.Log(1024)))
		step, end = axis(high/scale, n, "")
		return step * scale, end * scale
	}
	raw := high / float64(n)
	p := math.Pow(10, math.Floor(math.Log10(raw)))
	step = 10 * p
	for _, m := range []float64{1, 2, 2.5, 5} {
		if raw <= m*p*1.0000001 {
			step = m * p
			break
		}
	}
	return step, math.Ceil(high/step-1e-9) * step
}

type timeTick struct {
	at    time.Time
	label string
}

var timeSteps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 3 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 2 * 24 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 28 * 24 * time.Hour,
}

// timeTicks returns at most n round moments of the span, in UTC, each named as
// shortly as tells it from its neighbours. A tick on midnight says the day.
func timeTicks(r fleet.Range, n int) []timeTick {
	if r.Span() <= 0 {
		return nil
	}
	step := timeSteps[len(timeSteps)-1]
	for _, s := range timeSteps {
		if r.Span() <= s*time.Duration(n) {
			step = s
			break
		}
	}
	for r.Span() > step*time.Duration(n) {
		step *= 2
	}
	var ticks []timeTick
	for t := r.From.UTC().Truncate(step); !t.After(r.To); t = t.Add(step) {
		if t.Before(r.From) {
			continue
		}
		label := t.Format("15:04")
		switch {
		case step >= 24*time.Hour, t.Hour() == 0 && t.Minute() == 0 && t.Second() == 0 && step >= time.Hour:
			label = t.Format("2 Jan")
		case step < time.Minute:
			label = t.Format("15:04:05")
		}
		ticks = append(ticks, timeTick{t, label})
	}
	return ticks
}

// sparkline draws values in a box of 120 by 30; NaN is a gap.
func sparkline(label string, values []float64) templates.Spark {
	sp := templates.Spark{Label: label}
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if !math.IsNaN(v) {
			low, high = min(low, v), max(high, v)
		}
	}
	if len(values) < 2 || math.IsInf(low, 0) {
		return sp
	}
	// A figure that hardly moves is drawn as hardly moving: the box spans at
	// least a fifth of the value.
	if span := high - low; span < high*0.2 {
		low = max(0, low-(high*0.2-span)/2)
		high = low + high*0.2
	}
	if high == low {
		high = low + 1
	}
	var d, area strings.Builder
	open := false
	var from, prev float64
	closeRun := func() {
		if open {
			fmt.Fprintf(&area, "L%s 30L%s 30Z", f1(prev), f1(from))
		}
		open = false
	}
	for i, v := range values {
		if math.IsNaN(v) {
			closeRun()
			continue
		}
		x, y := float64(i)/float64(len(values)-1)*120, 28-(v-low)/(high-low)*25
		cmd := "L"
		if !open {
			cmd, from, open = "M", x, true
		}
		fmt.Fprintf(&d, "%s%s %s", cmd, f1(x), f1(y))
		fmt.Fprintf(&area, "%s%s %s", cmd, f1(x), f1(y))
		prev = x
	}
	closeRun()
	sp.Line, sp.Area = d.String(), area.String()
	return sp
}

// f1 is a coordinate: a tenth of a unit is finer than the eye.
func f1(v float64) string {
	s := strconv.FormatFloat(v, 'f', 1, 64)
	return strings.TrimSuffix(s, ".0")
}

func clip(s string, runes int) string {
	if utf8.RuneCountInString(s) <= runes {
		return s
	}
	r := []rune(s)
	return string(r[:runes-1]) + "…"
}

// figure writes a measured value with three significant digits.
func figure(v float64, unit string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	base, units := 1000.0, []string{"", "k", "M", "G", "T"}
	if unit == "B" || unit == "B/s" {
		base, units = 1024, []string{"", "Ki", "Mi", "Gi", "Ti"}
	}
	i := 0
	for a := math.Abs(v); a >= base*0.9995 && i < len(units)-1; i++ {
		a /= base
		v /= base
	}
	digits := 0
	switch a := math.Abs(v); {
	case a == math.Trunc(a) && i == 0:
	case a < 0.0995:
		digits = 3
	case a < 0.995:
		digits = 2
	case a < 9.95 && i > 0:
		digits = 2
	case a < 99.95:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + units[i]
}

// axisFigure writes a tick: as many digits as the step needs.
func axisFigure(v, step float64, unit string) string {
	suffix := ""
	base, units := 1000.0, []string{"", "k", "M", "G", "T"}
	if unit == "B" || unit == "B/s" {
		base, units = 1024, []string{"", "Ki", "Mi", "Gi", "Ti"}
	}
	for i := 0; i < len(units)-1 && math.Abs(v) >= base; i++ {
		v, step = v/base, step/base
		suffix = units[i+1]
	}
	digits := 0
	if v != 0 {
		for s := step; digits < 3 && math.Abs(s-math.Round(s)) > 1e-6; digits++ {
			s *= 10
		}
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	return s + suffix
}

// span says how long a range is.
func spanWords(d time.Duration) string {
	unit := func(n int64, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
	switch {
	case d < 2*time.Minute:
		return unit(int64(d.Seconds()+0.5), "second")
	case d < 2*time.Hour:
		return unit(int64(d.Minutes()+0.5), "minute")
	case d < 48*time.Hour:
		return unit(int64(d.Hours()+0.5), "hour")
	default:
		return unit(int64(d.Hours()/24+0.5), "day")
	}
}
