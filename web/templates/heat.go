package templates

// HeatView is a consumer's distribution of latencies over time, as a card.
type HeatView struct {
	Src             string // URL that answers with the card's inside
	Page, CSV, JSON string
	Summary         string // says in words what the drawing shows
	Empty           string // said in place of the map when there are no samples
	Estimate        string // what is known without samples
	Measure         string // URL of the form that has it measured
	Misfit          string // why the samples cannot all be the servers' own
	Limits          []string
	Plot            HeatPlot
	Legend          []ChartKey // percentiles of the whole span
	Shades          []HeatKey
}

// HeatKey is a shade of the map; From is the lower end of its shares.
type HeatKey struct{ Level, From string }

// HeatPlot is the drawing: a plot with cells below its lines.
type HeatPlot struct {
	Plot
	Cells []HeatCells
}

// HeatCells are the cells of one shade as a path.
type HeatCells struct{ Level, D string }

// HeatPage is the map by itself, with its figures as a table.
type HeatPage struct {
	Heat      HeatView
	Name, URL string
	Limits    [][]string
	Cols      []string
	Rows      [][]string
}
