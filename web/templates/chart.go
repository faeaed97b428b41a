package templates

// ChartView is one chart, ready to be written down: words and geometry, nothing
// left to compute.
type ChartView struct {
	ID      string // HTML id, unique on the page
	Title   string
	Unit    string
	Hint    string // beside the title: what is drawn, over which span
	Note    string // under the chart: where the figures come from, and their quality
	Summary string // one sentence that says what the chart shows, for those who do not see it
	Empty   string // said in place of the plot when nothing was measured
	Plot    Plot
	Legend  []ChartKey
	Page    string // URL of the chart by itself, with its figures as a table
	CSV     string
	JSON    string
	SVG     string
	Live    string // URL path and query of the figures for the island; "" leaves the drawing alone
	Chart   string // id in the scheme of /charts/{id}
}

// ChartKey is a line of the legend: the figure stands here as text.
type ChartKey struct {
	Label string
	Color string // "c-1" … "c-6", "c-p50", "c-p95", "c-p99"
	Dash  bool
	Now   string // newest figure, formatted; "–" when there is none
}

// Plot is the drawing, in user units of a viewBox of W by H.
type Plot struct {
	W, H                     string
	Left, Right, Top, Bottom string // the edges of the plotting area
	Y                        []Tick
	X                        []Tick
	Lines                    []PlotLine
	Marks                    []PlotMark
	Limits                   []PlotLimit
}

// Tick is a position on an axis with its label.
type Tick struct{ At, LabelAt, Label string }

// PlotLimit is a threshold; At is "" when it lies above what is drawn.
type PlotLimit struct{ At, Name, Tone, LabelX, LabelY string }

// PlotLine is one line; D has a gap where nothing was measured.
type PlotLine struct {
	Color  string
	D      string
	Dots   string // single measurements between two gaps, as a path of dots
	Dash   bool
	Label  string // at the line's end; "" when it has none
	LabelY string
}

// PlotMark is a change on the time axis.
type PlotMark struct {
	At, Label    string
	LabelX, Flag string // where the text stands, and the path of the flag under it
	Title        string
	End          bool // the label stands left of the line
}

// Spark is a small chart without axes, for a strip of figures.
type Spark struct {
	Line, Area string
	Label      string // text alternative
	ID         string // of its paths' ids, when it is live
}

// ChartPage is a chart by itself, with its figures.
type ChartPage struct {
	Chart  ChartView
	Cols   []string
	Rows   [][]string
	Limits [][]string // name, at most or at least, severity, where it is from
	More   string     // said when the table does not hold every figure
}
