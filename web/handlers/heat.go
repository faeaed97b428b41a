package handlers

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/web/templates"
)

// heatID is the heat map's id among the charts.
const heatID = "consumer-heat"

const (
	heatPoints = 96 // columns that its width has room for
	heatRows   = 36 // at most
	heatW      = 1080
	heatH      = 320
)

// heatMap is the distribution of a consumer's ACK latencies over time: in each
// column how the acknowledgements of one step divide over the latencies, which
// are on a logarithmic scale.
type heatMap struct {
	con    *fleet.Consumer
	span   fleet.Range
	lat    fleet.Latency
	parts  []fleet.LatencyPart
	limits limits
	query  string
}

// heatLines are the percentiles that are drawn over the map.
var heatLines = []struct {
	name, color string
	q           float64
}{{"p50", "c-p50", .5}, {"p90", "c-p95", .9}, {"p99", "c-p99", .99}, {"p99.9", "c-p999", .999}}

// heatShares are the lower ends of the map's shades: shares of a column's samples.
var heatShares = []float64{0, .01, .02, .05, .1, .2, .4}

func (s *Server) heat(ctx context.Context, con *fleet.Consumer, a chartArgs) (heatMap, error) {
	if a.points == 0 {
		a.points = heatPoints
	}
	key := fmt.Sprintf("heat %q %d %s", con.ConsumerKey, a.points, a.span.shareKey())
	h, err := share(ctx, s, key, func(ctx context.Context) (heatMap, error) {
		lat, parts, err := s.Metrics.LatencyParts(ctx, con.ConsumerKey, a.span.Range, a.points)
		if err != nil {
			return heatMap{}, fmt.Errorf("latencies of %s: %w", con.Entity().Key, err)
		}
		return heatMap{lat: lat, parts: parts, span: a.span.Range}, nil
	})
	if err != nil {
		return h, err
	}
	h.con, h.query = con, a.query().Encode()
	h.limits.wait(con)
	if a.span.Key != "" && len(h.parts) > 0 {
		var first chart
		first.span = h.span
		first.lines = []line{{data: []sample{{at: h.parts[0].At, n: 1}}}}
		h.span.From = first.fitted()
	}
	return h, nil
}

// heatScale is the logarithmic axis: rows of equal ratio.
type heatScale struct {
	perDecade, low, rows int // the lowest row begins at 10^(low/perDecade) ms
}

// scale fits the samples, and a limit that is not far above them, with rows as
// fine as there is room for.
func (h heatMap) scale() heatScale {
	lowest, highest := time.Duration(math.MaxInt64), time.Duration(0)
	for _, p := range h.parts {
		lowest, highest = min(lowest, p.Sketch.Min()), max(highest, p.Sketch.Max())
	}
	lo, hi := max(inMS(lowest), 0.001), max(inMS(highest), 0.001)
	for _, l := range h.limits {
		if l.value <= hi*10 {
			hi = max(hi, l.value*1.2)
		}
	}
	hi = max(hi, lo*2)
	var s heatScale
	for _, s.perDecade = range []int{24, 12, 8, 6, 4, 3} {
		s.low = int(math.Floor(math.Log10(lo) * float64(s.perDecade)))
		s.rows = int(math.Floor(math.Log10(hi)*float64(s.perDecade))) + 1 - s.low
		if s.rows <= heatRows {
			break
		}
	}
	return s
}

// bound is the lower end of a row, in ms.
func (s heatScale) bound(row int) float64 {
	return math.Pow(10, float64(s.low+row)/float64(s.perDecade))
}

// at is the height of a latency of ms on an axis from 0 to 1.
func (s heatScale) at(ms float64) float64 {
	v := (math.Log10(max(ms, 0.001))*float64(s.perDecade) - float64(s.low)) / float64(s.rows)
	return min(max(v, 0), 1)
}

// counts divides a distribution over the rows.
func (s heatScale) counts(sk *sketch.Sketch) []uint64 {
	out := make([]uint64, s.rows)
	for b := range sk.Buckets() {
		mid := max((inMS(b.Low)+inMS(b.High))/2, 0.001)
		row := int(math.Floor(math.Log10(mid)*float64(s.perDecade))) - s.low
		out[min(max(row, 0), s.rows-1)] += b.Count
	}
	return out
}

// shade is the place of a share among the shades, from 1.
func shade(share float64) int {
	n := 0
	for _, from := range heatShares {
		if share >= from {
			n++
		}
	}
	return n
}

// view is the map as a card.
func (h heatMap) view() templates.HeatView {
	base, q := "/charts/"+heatID, "?"+h.query
	v := templates.HeatView{Src: base + q, Page: base + q, CSV: base + ".csv" + q, JSON: base + ".json" + q, Limits: h.words(), Misfit: h.con.Misfit, Measure: consumerURL(h.con.ConsumerKey) + "#h-measure"}
	for i, from := range heatShares {
		k := templates.HeatKey{Level: strconv.Itoa(i + 1), From: strconv.FormatFloat(from*100, 'f', -1, 64) + " %"}
		if i == 0 {
			k.From = "some"
		}
		v.Shades = append(v.Shades, k)
	}
	if len(h.parts) == 0 {
		v.Empty = "No sample of an acknowledgement came in this span."
		if h.lat.Source == fleet.Estimate && h.lat.Mean > 0 {
			v.Estimate = fmt.Sprintf("Estimated mean %s ms, by Little's law: messages in flight divided by those settled a second. It knows no percentiles; a stuck message or bursts mislead it.", latencyWords(h.lat.Mean))
		}
		v.Summary = "ACK latency. " + v.Empty
		return v
	}
	for _, l := range heatLines {
		v.Legend = append(v.Legend, templates.ChartKey{Label: l.name, Color: l.color, Now: latencyWords(h.lat.Total.Quantile(l.q))})
	}
	v.Summary = h.summary()
	v.Plot = h.draw()
	return v
}

func (h heatMap) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Distribution of the ACK latencies over %s to %s UTC, %s samples.", spanWords(h.span.Span()), h.span.To.UTC().Format("2006-01-02 15:04"), countWords(h.lat.Total.Count()))
	for _, l := range heatLines {
		fmt.Fprintf(&b, " %s: %s ms.", l.name, latencyWords(h.lat.Total.Quantile(l.q)))
	}
	fmt.Fprintf(&b, " Longest %s ms.", latencyWords(h.lat.Total.Max()))
	if words := h.limits.words(); words != "" {
		b.WriteString(" " + words)
	}
	return b.String()
}

// words are what bounds the measurement.
func (h heatMap) words() []string {
	var w []string
	switch {
	case h.con.AckPolicy != "" && h.con.AckPolicy != "explicit":
		w = append(w, fmt.Sprintf("ack_policy of this consumer is %s: a figure may be missing or stand for several messages.", h.con.AckPolicy))
	case !h.con.Sampled() && len(h.parts) > 0:
		w = append(w, "sample_freq is off now: the samples are from before.")
	case !h.con.Sampled():
		w = append(w, "sample_freq is off: the servers send no samples of this consumer.")
	}
	if h.lat.Total != nil && h.lat.Total.Count() > 0 {
		w = append(w, fmt.Sprintf("%s samples, about %s %% of what was settled.", countWords(h.lat.Total.Count()), percent(h.lat.Share)))
	}
	return append(w, "Only explicit acknowledgements are sampled. The servers count from the last delivery: a redelivery, a progress notice or a NAK starts the clock anew.")
}

// draw turns the map into geometry.
func (h heatMap) draw() templates.HeatPlot {
	const left, right, top, bottom = 52.0, heatW - 62.0, 8.0, heatH - 24.0
	sc := h.scale()
	x := func(t time.Time) float64 {
		return min(max(left+float64(t.Sub(h.span.From))/float64(h.span.Span())*(right-left), left), right)
	}
	y := func(ms float64) float64 { return bottom - sc.at(ms)*(bottom-top) }
	p := templates.HeatPlot{Plot: templates.Plot{W: strconv.Itoa(heatW), H: strconv.Itoa(heatH), Left: f1(left), Right: f1(right), Top: f1(top), Bottom: f1(bottom)}}
	p.Y = h.ticks(sc, left, y)
	for _, t := range timeTicks(h.span, 10) {
		p.X = append(p.X, templates.Tick{At: f1(x(t.at)), LabelAt: f1(heatH - 6), Label: t.label})
	}
	cells := make([]strings.Builder, len(heatShares)+1)
	rowH := (bottom - top) / float64(sc.rows)
	for _, part := range h.parts {
		from, to := x(part.At), x(part.At.Add(h.lat.Step))
		if to <= from {
			continue
		}
		all := float64(part.Sketch.Count())
		for row, n := range sc.counts(part.Sketch) {
			if n > 0 {
				fmt.Fprintf(&cells[shade(float64(n)/all)], "M%s %sH%sv%sH%sz", f1(from), f1(bottom-float64(row+1)*rowH), f1(to), f1(rowH), f1(from))
			}
		}
	}
	for level := 1; level < len(cells); level++ {
		p.Cells = append(p.Cells, templates.HeatCells{Level: strconv.Itoa(level), D: cells[level].String()})
	}
	p.Limits = h.limits.draw(y, func(l limit) bool { return sc.at(l.value) < 1 }, left, top, bottom)
	h.drawLines(&p, x, y, top, bottom)
	return p
}

// drawLines draws the percentiles from the middle of a column to the next; a
// column without samples is a gap.
func (h heatMap) drawLines(p *templates.HeatPlot, x func(time.Time) float64, y func(float64) float64, top, bottom float64) {
	ends := make([]float64, len(heatLines))
	for i, l := range heatLines {
		var d, dots strings.Builder
		for k, part := range h.parts {
			at, v := f1(x(part.At.Add(h.lat.Step/2))), y(inMS(part.Sketch.Quantile(l.q)))
			ends[i] = v - float64(i)*0.01 // of two that are as high, the further percentile stands above
			before := k > 0 && part.At.Sub(h.parts[k-1].At) == h.lat.Step
			after := k+1 < len(h.parts) && h.parts[k+1].At.Sub(part.At) == h.lat.Step
			switch {
			case before:
				fmt.Fprintf(&d, "L%s %s", at, f1(v))
			case after:
				fmt.Fprintf(&d, "M%s %s", at, f1(v))
			default:
				fmt.Fprintf(&dots, "M%s %sh0", at, f1(v))
			}
		}
		p.Lines = append(p.Lines, templates.PlotLine{Color: l.color, D: d.String(), Dots: dots.String(), Label: l.name})
	}
	for i, v := range spread(ends, 12, top+4, bottom) {
		p.Lines[i].LabelY = f1(v)
	}
}

// ticks stand at 1, 2 and 5 of each decade, as far as there is room.
func (h heatMap) ticks(sc heatScale, left float64, y func(float64) float64) []templates.Tick {
	of := []float64{1, 2, 5}
	if float64(sc.rows)/float64(sc.perDecade) > 3 {
		of = of[:1]
	}
	var out []templates.Tick
	low, high := sc.bound(0), sc.bound(sc.rows)
	for d := math.Pow(10, math.Floor(math.Log10(low))); d <= high; d *= 10 {
		for _, m := range of {
			if v := m * d; v >= low*0.999 && v <= high*1.001 {
				out = append(out, templates.Tick{At: f1(y(v)), LabelAt: f1(left - 7), Label: strconv.FormatFloat(float64(float32(v)), 'g', 6, 64)})
			}
		}
	}
	return out
}

// heatCols head the map as CSV: a line for each cell that counted something.
var heatCols = []string{"time", "step", "from_ms", "to_ms", "count", "source"}

func (h heatMap) rows() iter.Seq[[]any] {
	sc := h.scale()
	return func(yield func([]any) bool) {
		for _, p := range h.parts {
			for row, n := range sc.counts(p.Sketch) {
				if n > 0 && !yield([]any{p.At, h.lat.Step, digits(sc.bound(row)), digits(sc.bound(row + 1)), n, h.lat.Source}) {
					return
				}
			}
		}
	}
}

// digits leaves of a figure what it is good for.
func digits(v float64) float64 {
	f, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	return f
}

// heatDoc is the map as JSON; latencies are milliseconds.
type heatDoc struct {
	ID         string       `json:"id"`
	Unit       string       `json:"unit"`
	From       time.Time    `json:"from"`
	To         time.Time    `json:"to"`
	StepMS     int64        `json:"step_ms"`
	Source     fleet.Source `json:"source"`
	Share      float64      `json:"sampled_share"`
	EstimateMS float64      `json:"estimated_mean_ms,omitempty"`
	Misfit     string       `json:"samples_misfit,omitempty"`
	Notes      []string     `json:"notes"`
	Limits     []limitDoc   `json:"limits"`
	Columns    []heatColumn `json:"columns"`
}

type heatColumn struct {
	At      time.Time    `json:"at"`
	Count   uint64       `json:"count"`
	P50     float64      `json:"p50"`
	P90     float64      `json:"p90"`
	P99     float64      `json:"p99"`
	P999    float64      `json:"p99.9"`
	Max     float64      `json:"max"`
	Buckets []heatBucket `json:"buckets"`
}

type heatBucket struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Count uint64  `json:"count"`
}

func (h heatMap) doc() heatDoc {
	sc := h.scale()
	d := heatDoc{ID: heatID, Unit: "ms", From: h.span.From.UTC(), To: h.span.To.UTC(), StepMS: h.lat.Step.Milliseconds(), Source: h.lat.Source, Share: h.lat.Share,
		Misfit: h.con.Misfit, Notes: h.words(), Limits: h.limits.docs(), Columns: []heatColumn{}}
	if h.lat.Source == fleet.Estimate {
		d.EstimateMS = inMS(h.lat.Mean)
	}
	for _, p := range h.parts {
		sk := p.Sketch
		c := heatColumn{At: p.At.UTC(), Count: sk.Count(), P50: inMS(sk.Quantile(.5)), P90: inMS(sk.Quantile(.9)), P99: inMS(sk.Quantile(.99)), P999: inMS(sk.Quantile(.999)), Max: inMS(sk.Max())}
		for row, n := range sc.counts(sk) {
			if n > 0 {
				c.Buckets = append(c.Buckets, heatBucket{digits(sc.bound(row)), digits(sc.bound(row + 1)), n})
			}
		}
		d.Columns = append(d.Columns, c)
	}
	return d
}

// table is the map for those who read figures: the percentiles of each column.
func (h heatMap) table() (cols []string, rows [][]string) {
	cols = []string{"time", "samples"}
	for _, l := range heatLines {
		cols = append(cols, l.name+" ms")
	}
	cols = append(cols, "longest ms")
	for _, p := range h.parts {
		row := []string{csvCell(p.At), countWords(p.Sketch.Count())}
		for _, l := range heatLines {
			row = append(row, latencyWords(p.Sketch.Quantile(l.q)))
		}
		rows = append(rows, append(row, latencyWords(p.Sketch.Max())))
	}
	return cols, rows
}

// getHeat answers /charts/consumer-heat with the map and its figures, and the
// same with .json or .csv at its end.
func (s *Server) getHeat(c echo.Context, ext string, a chartArgs) error {
	con := s.consumer(a.consumer)
	if con == nil {
		return consumerGone(a.consumer)
	}
	a.points = heatPoints
	h, err := s.heat(c.Request().Context(), con, a)
	if err != nil {
		return err
	}
	switch ext {
	case ".csv", ".json":
		return s.export(c, strings.Trim(heatID+"-"+cmp.Or(con.Consumer, con.Stream), "-"), heatCols, h.rows(), h.doc())
	case "":
	default:
		return echo.ErrNotFound
	}
	v := templates.HeatPage{Heat: h.view(), Name: con.Consumer, URL: consumerURL(con.ConsumerKey), Limits: h.limits.rows()}
	v.Cols, v.Rows = h.table()
	v.Heat.Page = ""
	f := withLive(s.frame(c, "ACK latency of "+con.Consumer, "", templates.Crumb{Name: "Consumers", URL: "/consumers"}, templates.Crumb{Name: con.Consumer, URL: v.URL}, templates.Crumb{Name: "ACK latency"}))
	return show(c, templates.HeatOwnPage(f, v), templates.HeatBody(v.Heat))
}
