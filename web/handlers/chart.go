package handlers

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

// chartPoints is what a card has room for: a point every two pixels. Exports
// ask for more.
const (
	chartPoints  = 200
	exportPoints = 2000
)

// chartArgs are the arguments of a chart's URL.
type chartArgs struct {
	split, target, server string
	service               string // of consumer.Account
	consumer              fleet.ConsumerKey
	quantile              string // p50, p95 or p99 (default)
	span                  timeRange
	points                int
}

func (a chartArgs) query() url.Values {
	q := a.span.query()
	for k, v := range map[string]string{"split": a.split, "target": a.target, "server": a.server, "service": a.service, "q": a.quantile,
		"account": a.consumer.Account, "stream": a.consumer.Stream, "consumer": a.consumer.Consumer} {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

// chartKinds are the charts there are, by their id in URLs. Ids are stable.
var chartKinds = map[string]func(*Server, context.Context, chartArgs) (chart, error){
	"split-latency":        (*Server).splitLatencyChart,
	"split-share":          (*Server).splitShareChart,
	"split-rate":           (*Server).splitRateChart,
	"split-pending":        (*Server).splitPendingChart,
	"split-redelivered":    (*Server).splitRedeliveredChart,
	"target-latency":       (*Server).targetLatencyChart,
	"consumer-latency":     (*Server).consumerLatencyChart,
	"consumer-rate":        (*Server).consumerRateChart,
	"consumer-pending":     (*Server).consumerPendingChart,
	"consumer-inflight":    (*Server).consumerInFlightChart,
	"consumer-redelivered": (*Server).consumerRedeliveredChart,
	"consumer-waiting":     (*Server).consumerWaitingChart,
	"stream-rate":          columnsChart("Messages stored", "msg/s", "By the advance of the last sequence.", streamEntity, [2]string{"stored", fleet.ColLastSeq}),
	"stream-messages":      streamChart("Messages", "msgs", "Held by the stream, as its leader says.", (*limits).messages, [2]string{"messages", fleet.ColMessages}),
	"stream-bytes":         streamChart("Size", "B", "On the leader.", (*limits).bytes, [2]string{"size", fleet.ColBytes}),
	"stream-subjects":      streamChart("Subjects", "", "Of which the stream holds messages.", (*limits).subjects, [2]string{"subjects", fleet.ColSubjects}),
	"account-msgs":         columnsChart("Messages", "msg/s", "Over all servers.", accountEntity, [2]string{"in", fleet.ColInMsgs}, [2]string{"out", fleet.ColOutMsgs}),
	"account-bytes":        columnsChart("Bytes", "B/s", "Over all servers.", accountEntity, [2]string{"in", fleet.ColInBytes}, [2]string{"out", fleet.ColOutBytes}),
	"account-conns":        (*Server).accountConnsChart,
	"account-subs":         columnsChart("Subscriptions", "", "Over all servers.", accountEntity, [2]string{"subscriptions", fleet.ColSubs}),
	"account-slow":         columnsChart("Slow consumers", "per s", "Connections that were closed for reading too slowly.", accountEntity, [2]string{"closed", fleet.ColSlow}),
	"account-leafs":        columnsChart("Leaf nodes", "", "Over all servers.", accountEntity, [2]string{"leaf nodes", fleet.ColLeafs}),
	"connections":          columnsChart("Connections", "", "Of one account to one server, counted about once a minute.", connsEntity, [2]string{"connections", fleet.ColConns}, [2]string{"subscriptions", fleet.ColSubs}),
	"connections-waiting":  columnsChart("Waiting", "B", "Bytes that wait for an account's connections to a server.", connsEntity, [2]string{"waiting", fleet.ColPending}),
	"clients":              (*Server).clientsChart,
	"service-requests":     endChart("Requests", "per s", "As the instances count them.", endColumn(fleet.ColServed)),
	"service-errors":       endChart("Errors", "per s", "Requests that were answered with an error.", endColumn(fleet.ColErrors)),
	"service-time":         endChart("Mean time", "ms", "Of the requests of each step, as the instances measure it.", endTime),
	"service-instances":    columnsChart("Instances", "", "That answered.", microEntity, [2]string{"instances", fleet.ColInstances}),
	"service-cpu":          columnsChart("CPU", "%", "Mean of the instances that tell.", microEntity, [2]string{"CPU", fleet.ColCPU}),
	"service-memory":       columnsChart("Memory", "B", "Of all instances that tell, together.", microEntity, [2]string{"memory", fleet.ColMem}),
	"server-traffic":       columnsChart("Messages", "msg/s", "", serverEntity, [2]string{"in", fleet.ColInMsgs}, [2]string{"out", fleet.ColOutMsgs}),
	"server-bytes":         columnsChart("Bytes", "B/s", "", serverEntity, [2]string{"in", fleet.ColInBytes}, [2]string{"out", fleet.ColOutBytes}),
	"server-slow":          serverChart(fleet.ColSlow, "Slow consumers", "per s"),
	"server-js":            columnsChart("JetStream", "B", "", serverEntity, [2]string{"store", fleet.ColJSStore}, [2]string{"memory", fleet.ColJSMemory}),
	"cost-requests":        columnsChart("Requests", "per round", "Of all sources together.", watchEntity, [2]string{"requests", fleet.ColRequests}),
	"cost-bytes": columnsChart("Bytes read", "B", "In one round, by how often it is asked for: fast is every round, slow about once a minute.", watchEntity,
		[2]string{"fast", fleet.ColBytesFast}, [2]string{"normal", fleet.ColBytesNormal}, [2]string{"slow", fleet.ColBytesSlow}),
	"cost-cpu": columnsChart("Servers' CPU", "ms", "Of one round, all servers together: an estimate by the number and size of their answers.", watchEntity,
		[2]string{"fast", fleet.ColCPUFast}, [2]string{"normal", fleet.ColCPUNormal}, [2]string{"slow", fleet.ColCPUSlow}),
	"cost-time":     columnsChart("Time of a round", "ms", "From the first request to the last answer.", watchEntity, [2]string{"took", fleet.ColTook}),
	"cost-samples":  columnsChart("ACK samples", "msg/s", "Sent by the servers for sampled consumers.", watchEntity, [2]string{"samples", fleet.ColSamples}),
	"cost-problems": columnsChart("Not answered", "", "Sources that did not answer in a round.", watchEntity, [2]string{"problems", fleet.ColProblems}),
	"server-cpu":    serverChart(fleet.ColCPU, "CPU", "% of one core"),
	"server-msgs":   serverChart(fleet.ColInMsgs, "Messages in", "msg/s"),
	"server-mem":    serverChart(fleet.ColMem, "Memory", "B"),
	"server-conns":  serverChart(fleet.ColConns, "Connections", ""),
}

// charts builds the cards of a page.
func (s *Server) charts(ctx context.Context, a chartArgs, ids ...string) ([]templates.ChartView, error) {
	views := make([]templates.ChartView, len(ids))
	for i, id := range ids {
		c, err := s.chart(ctx, id, a)
		if err != nil {
			return nil, err
		}
		views[i] = c.view(a)
	}
	return views, nil
}

func (s *Server) chart(ctx context.Context, id string, a chartArgs) (chart, error) {
	build, ok := chartKinds[id]
	if !ok {
		return chart{}, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such chart.", Hint: "Charts are named " + strings.Join(slices.Sorted(maps.Keys(chartKinds)), ", ") + "."}
	}
	if a.points == 0 {
		a.points = chartPoints
	}
	key := fmt.Sprintf("chart %s %q %q %q %q %q %s %d %s", id, a.split, a.target, a.server, a.service, a.consumer, a.quantile, a.points, a.span.shareKey())
	return share(ctx, s, key, func(ctx context.Context) (chart, error) {
		c, err := build(s, ctx, a)
		if err != nil {
			return chart{}, fmt.Errorf("chart %s: %w", id, err)
		}
		c.id, c.span = id, a.span.Range
		if a.span.Key != "" {
			c.span.From = c.fitted()
		}
		return c, nil
	})
}

// fitted is where the axis begins. A span that ends now and whose figures fill
// less than half of it is shown from the whole minute in which they begin: a
// console that was started a minute ago need not show a quarter of an hour of
// nothing.
func (c chart) fitted() time.Time {
	first := c.span.To
	for _, l := range c.lines {
		for _, s := range l.data {
			if s.n > 0 && !l.dash {
				if s.at.Before(first) {
					first = s.at
				}
				break
			}
		}
	}
	if first.Equal(c.span.To) || first.Sub(c.span.From) < c.span.Span()/2 {
		return c.span.From
	}
	from := first.Truncate(time.Minute)
	if latest := c.span.To.Add(-2 * time.Minute); from.After(latest) {
		from = latest
	}
	if from.Before(c.span.From) {
		return c.span.From
	}
	return from
}

// splitOf returns the split that a chart is asked for: its targets of today, also
// for a span of the past.
func (s *Server) splitOf(name string) (traffic.Revision, error) {
	if name == "" {
		return traffic.Revision{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The chart needs a split.", Hint: "Add split=NAME to the URL."}
	}
	return s.Control.Split(name)
}

// consumerOf finds the consumer at which a target is measured.
func (s *Server) consumerOf(t traffic.Target) (fleet.ConsumerKey, bool) {
	return consumerAt(s.Metrics.Latest(), t)
}

func consumerAt(snap *fleet.Snapshot, t traffic.Target) (fleet.ConsumerKey, bool) {
	if t.Observe == nil {
		return fleet.ConsumerKey{}, false
	}
	k := fleet.ConsumerKey{Account: t.Observe.Account, Stream: t.Observe.Stream, Consumer: t.Observe.Consumer}
	for i := range snap.Consumers {
		c := &snap.Consumers[i]
		if c.Stream == k.Stream && c.Consumer == k.Consumer && (k.Account == "" || k.Account == c.Account) {
			return c.ConsumerKey, true
		}
	}
	return k, k.Account != ""
}

// targetColor gives the targets of a split the colours by which every chart
// and form shows them.
func targetColor(i int) string { return "c-" + strconv.Itoa(i%6+1) }

// perTarget draws one line for each target that is measured somewhere.
func (s *Server) perTarget(sp traffic.Split, each func(t traffic.Target, k fleet.ConsumerKey) (line, error)) ([]line, error) {
	var lines []line
	for i, t := range sp.Targets {
		k, ok := s.consumerOf(t)
		if !ok {
			continue
		}
		l, err := each(t, k)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", t.Name, err)
		}
		l.label = cmp.Or(l.label, t.Name)
		l.color = targetColor(i)
		lines = append(lines, l)
	}
	return lines, nil
}

func (s *Server) splitLatencyChart(ctx context.Context, a chartArgs) (chart, error) {
	rev, err := s.splitOf(a.split)
	if err != nil {
		return chart{}, err
	}
	q := cmp.Or(a.quantile, "p99")
	pick, ok := quantiles[q]
	if !ok {
		return chart{}, &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such quantile.", Hint: "Choose q=p50, q=p95 or q=p99."}
	}
	c := chart{title: "ACK latency " + q, unit: "ms", hint: "per target"}
	estimated := false
	c.lines, err = s.perTarget(rev.Split, func(t traffic.Target, k fleet.ConsumerKey) (line, error) {
		lat, err := s.Metrics.Latency(ctx, k, a.span.Range, a.points)
		if err != nil {
			return line{}, err
		}
		l := latencyLine(lat, pick)
		c.limits.wait(s.consumer(k))
		if lat.Source == fleet.Estimate {
			estimated = true
			l.label = t.Name + " (mean, est.)"
		}
		return l, nil
	})
	if err != nil {
		return chart{}, err
	}
	c.marks = s.changeMarks(a)
	c.note = "Measured by the servers, from the last delivery to the acknowledgement."
	if estimated {
		c.note = "Lines marked est. are not sampled: their mean is estimated from rates and outstanding messages."
	}
	return c, nil
}

var quantiles = map[string]func(fleet.LatencyPoint) time.Duration{
	"p50": func(p fleet.LatencyPoint) time.Duration { return p.P50 },
	"p95": func(p fleet.LatencyPoint) time.Duration { return p.P95 },
	"p99": func(p fleet.LatencyPoint) time.Duration { return p.P99 },
}

func latencyLine(lat fleet.Latency, pick func(fleet.LatencyPoint) time.Duration) line {
	l := line{source: lat.Source, step: lat.Step, data: make([]sample, len(lat.Data))}
	if lat.Source == fleet.Estimate {
		pick = func(p fleet.LatencyPoint) time.Duration { return p.Mean }
	}
	for i, p := range lat.Data {
		v := float64(pick(p)) / float64(time.Millisecond)
		l.data[i] = sample{at: p.At, min: v, max: v, avg: v, n: p.N}
	}
	return l
}

func (s *Server) targetLatencyChart(ctx context.Context, a chartArgs) (chart, error) {
	rev, err := s.splitOf(a.split)
	if err != nil {
		return chart{}, err
	}
	t, ok := rev.Split.Target(a.target)
	if !ok {
		return chart{}, &fleet.Error{Kind: fleet.NotFound, Msg: "The split has no such target.", Hint: "Add target=NAME to the URL."}
	}
	c := chart{title: "ACK latency", unit: "ms", hint: t.Name}
	k, ok := s.consumerOf(t)
	if !ok {
		return c, nil
	}
	c.limits.wait(s.consumer(k))
	lat, err := s.Metrics.Latency(ctx, k, a.span.Range, a.points)
	if err != nil {
		return chart{}, err
	}
	if lat.Source == fleet.Estimate {
		l := latencyLine(lat, nil)
		l.label, l.color = "mean (est.)", "c-p95"
		c.lines = []line{l}
		c.note = "Not sampled: the mean is estimated from rates and outstanding messages."
	} else {
		for _, q := range []string{"p50", "p95", "p99"} {
			l := latencyLine(lat, quantiles[q])
			l.label, l.color = q, "c-"+q
			c.lines = append(c.lines, l)
		}
		c.note = fmt.Sprintf("Measured by the servers; %.0f %% of the acknowledgements are sampled.", lat.Share*100)
	}
	c.marks = s.changeMarks(a)
	return c, nil
}

func (s *Server) series(ctx context.Context, e fleet.Entity, column string, a chartArgs) (line, string, error) {
	ser, err := s.Metrics.Series(ctx, fleet.SeriesQuery{Entity: e, Column: column, Range: a.span.Range, Points: a.points})
	if err != nil {
		return line{}, "", err
	}
	l := line{source: ser.Source, step: ser.Step, data: make([]sample, len(ser.Data))}
	for i, p := range ser.Data {
		l.data[i] = sample{at: p.At, min: p.Min, max: p.Max, avg: p.Avg, n: uint64(max(p.N, 0))}
	}
	return l, ser.Unit, nil
}

func (s *Server) consumerChart(ctx context.Context, a chartArgs, c chart, add func(*limits, *fleet.Consumer), columns ...string) (chart, error) {
	rev, err := s.splitOf(a.split)
	if err != nil {
		return chart{}, err
	}
	c.lines, err = s.perTarget(rev.Split, func(t traffic.Target, k fleet.ConsumerKey) (line, error) {
		if add != nil {
			add(&c.limits, s.consumer(k))
		}
		var sum line
		for i, col := range columns {
			l, _, err := s.series(ctx, k.Entity(), col, a)
			if err != nil {
				return line{}, err
			}
			if i == 0 {
				sum = l
				continue
			}
			sum.data = combine(sum, l, func(x, y float64) float64 { return x + y })
		}
		return sum, nil
	})
	c.marks = s.changeMarks(a)
	return c, err
}

func (s *Server) splitRateChart(ctx context.Context, a chartArgs) (chart, error) {
	return s.consumerChart(ctx, a, chart{title: "Deliveries", unit: "msg/s", hint: "per target", note: "Deliveries to the workers of a target, redeliveries included."}, nil, fleet.ColDelivered)
}

func (s *Server) splitPendingChart(ctx context.Context, a chartArgs) (chart, error) {
	return s.consumerChart(ctx, a, chart{title: "Backlog", unit: "msgs", hint: "waiting + unacknowledged", note: "Messages that a target's consumer still has to deliver, or that wait for their acknowledgement."}, nil, fleet.ColPending, fleet.ColInFlight)
}

func (s *Server) splitRedeliveredChart(ctx context.Context, a chartArgs) (chart, error) {
	return s.consumerChart(ctx, a, chart{title: "Outstanding redeliveries", unit: "msgs", hint: "per target", note: "Messages now outstanding that were delivered more than once."}, (*limits).redelivered, fleet.ColRedelivered)
}

// splitShareChart draws what the traffic did beside what the weights said. It
// counts what came for a target, not what was delivered: a slow target would
// otherwise seem to get less than it is sent.
func (s *Server) splitShareChart(ctx context.Context, a chartArgs) (chart, error) {
	rev, err := s.splitOf(a.split)
	if err != nil {
		return chart{}, err
	}
	// Shares of a handful of messages are noise: no more than 60 points.
	a.points = min(a.points, 60)
	c := chart{title: "Share", unit: "%", hint: "observed, and as set (dashed)", note: "Share of the messages that came for each target; the dashed lines are the weights in force."}
	arrived, err := s.perTarget(rev.Split, func(t traffic.Target, k fleet.ConsumerKey) (line, error) {
		l, _, err := s.series(ctx, k.Entity(), fleet.ColArrived, a)
		return l, err
	})
	if err != nil {
		return chart{}, err
	}
	c.lines = append(shares(arrived), s.setShares(ctx, rev, a)...)
	c.marks = s.changeMarks(a)
	return c, nil
}

// combine joins two lines point by point where both have one; a gap of either
// is a gap.
func combine(a, b line, f func(x, y float64) float64) []sample {
	step := max(a.step, b.step, time.Second)
	other := make(map[int64]sample, len(b.data))
	for _, s := range b.data {
		other[s.at.UnixNano()/int64(step)] = s
	}
	out := make([]sample, 0, len(a.data))
	for _, s := range a.data {
		o, ok := other[s.at.UnixNano()/int64(step)]
		if !ok {
			continue
		}
		if s.n == 0 || o.n == 0 {
			out = append(out, sample{at: s.at})
			continue
		}
		v := f(s.avg, o.avg)
		out = append(out, sample{at: s.at, min: v, max: v, avg: v, n: s.n})
	}
	return out
}

// shares turns rates into percentages of their sum. Where one target was not
// measured, nobody's share is known.
func shares(lines []line) []line {
	step := time.Second
	for _, l := range lines {
		step = max(step, l.step)
	}
	sums, counts := map[int64]float64{}, map[int64]int{}
	for _, l := range lines {
		for _, s := range l.data {
			if s.n > 0 {
				sums[s.at.UnixNano()/int64(step)] += s.avg
				counts[s.at.UnixNano()/int64(step)]++
			}
		}
	}
	out := slices.Clone(lines)
	for i, l := range lines {
		out[i].data = make([]sample, len(l.data))
		for j, s := range l.data {
			out[i].data[j] = sample{at: s.at}
			b := s.at.UnixNano() / int64(step)
			if s.n > 0 && counts[b] == len(lines) && sums[b] > 0 {
				v := 100 * s.avg / sums[b]
				out[i].data[j] = sample{at: s.at, min: v, max: v, avg: v, n: s.n}
			}
		}
	}
	return out
}

// setShares draws the weights that were in force, from the revisions. Where
// the history cannot be read the present weights stand for the time since they
// were written.
func (s *Server) setShares(ctx context.Context, now traffic.Revision, a chartArgs) []line {
	revs, err := s.Control.History(ctx, now.Split.Name)
	if err != nil || len(revs) == 0 {
		revs = []traffic.Revision{now}
	}
	revs = slices.Clone(revs)
	slices.SortFunc(revs, func(x, y traffic.Revision) int { return cmp.Compare(x.Number, y.Number) })
	var lines []line
	for i, t := range now.Split.Targets {
		if _, ok := s.consumerOf(t); !ok {
			continue
		}
		l := line{label: t.Name + " set", color: targetColor(i), dash: true, steps: true}
		for _, r := range revs {
			if r.At.After(a.span.To) {
				break
			}
			old, ok := r.Split.Target(t.Name)
			p := sample{at: r.At, n: 1}
			p.avg = float64(old.Weight)
			p.min, p.max = p.avg, p.avg
			if !ok {
				p.n = 0
			}
			if !p.at.After(a.span.From) { // in force when the span began
				p.at = a.span.From
				l.data = l.data[:0]
			}
			l.data = append(l.data, p)
		}
		lines = append(lines, l)
	}
	return lines
}

// changeMarks are the changes of the split that were written in the span.
func (s *Server) changeMarks(a chartArgs) []mark {
	var marks []mark
	for _, ch := range slices.Backward(s.Control.Changes(a.split, 200)) {
		if ch.Written.IsZero() || ch.Written.Before(a.span.From) || ch.Written.After(a.span.To) {
			continue
		}
		marks = append(marks, mark{ch.Written, fmt.Sprintf("rev %d", ch.Revision),
			fmt.Sprintf("Revision %d at %s UTC by %s: %s", ch.Revision, ch.Written.UTC().Format("15:04:05"), ch.Actor, ch.Reason)})
	}
	return marks
}

// serverChart draws a column of one server, or of the six that are busiest now.
func serverChart(column, title, unit string) func(*Server, context.Context, chartArgs) (chart, error) {
	return func(s *Server, ctx context.Context, a chartArgs) (chart, error) {
		c := chart{title: title, unit: unit, hint: a.server}
		names := []string{a.server}
		if a.server == "" {
			servers := slices.Clone(s.Metrics.Latest().Servers)
			slices.SortStableFunc(servers, func(x, y fleet.Server) int { return cmp.Compare(y.CPU, x.CPU) })
			servers = servers[:min(len(servers), 6)]
			slices.SortFunc(servers, func(x, y fleet.Server) int { return strings.Compare(x.Name, y.Name) })
			names = names[:0]
			for _, srv := range servers {
				names = append(names, srv.Name)
			}
			c.hint = "the busiest servers"
		}
		for i, name := range names {
			l, u, err := s.series(ctx, fleet.Entity{Kind: fleet.KindServer, Key: name}, column, a)
			if err != nil {
				return chart{}, fmt.Errorf("server %s: %w", name, err)
			}
			if unit == "" {
				c.unit = u
			}
			l.label, l.color = name, targetColor(i)
			c.lines = append(c.lines, l)
		}
		return c, nil
	}
}

// view is the chart as a card.
func (c chart) view(a chartArgs) templates.ChartView {
	q := "?" + a.query().Encode()
	base := "/charts/" + c.id
	v := templates.ChartView{
		ID: "chart-" + c.id, Chart: c.id, Title: c.title, Unit: c.unit, Hint: c.hint, Note: c.note,
		Summary: c.summary(), Plot: c.draw(),
		Page: base + q, CSV: base + ".csv" + q, JSON: base + ".json" + q, SVG: base + ".svg" + q,
		Live: "/api/series?chart=" + c.id + "&" + a.query().Encode(),
	}
	if a.target != "" {
		v.ID += "-" + a.target
	}
	measured := false
	for _, l := range c.lines {
		if l.dash {
			continue
		}
		k := templates.ChartKey{Label: l.label, Color: l.color, Now: "–"}
		if s, ok := l.last(c.span.To); ok {
			k.Now = figure(s.avg, c.unit)
		}
		_, some := l.highest()
		measured = measured || some
		v.Legend = append(v.Legend, k)
	}
	if !measured {
		v.Empty = "Nothing was measured in this span."
	}
	return v
}

// summary says in words what the drawing shows.
func (c chart) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s, %s to %s UTC.", c.title, cmp.Or(c.unit, "number"), spanWords(c.span.Span()), c.span.To.UTC().Format("2006-01-02 15:04"))
	for _, l := range c.lines {
		top, ok := l.highest()
		if !ok || l.dash {
			continue
		}
		now := "not measured now"
		if s, ok := l.last(c.span.To); ok {
			now = "now " + figure(s.avg, c.unit)
		}
		fmt.Fprintf(&b, " %s: %s, highest %s at %s.", l.label, now, figure(top.max, c.unit), top.at.UTC().Format("15:04:05"))
	}
	if words := c.limits.words(); words != "" {
		b.WriteString(" " + words)
	}
	switch n := len(c.marks); n {
	case 0:
	case 1:
		b.WriteString(" One change.")
	default:
		fmt.Fprintf(&b, " %d changes.", n)
	}
	return b.String()
}

// rows are the figures of the chart, one line a point; gaps are not rows.
func (c chart) rows() iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		for _, l := range c.lines {
			for _, s := range l.data {
				if s.n > 0 && !yield([]any{s.at, l.label, s.avg, s.min, s.max, s.n, c.unit, l.source}) {
					return
				}
			}
		}
	}
}

var chartCols = []string{"time", "series", "value", "min", "max", "count", "unit", "source"}

// Chart and its parts are the JSON form of a chart.
type chartDoc struct {
	ID     string      `json:"id"`
	Title  string      `json:"title"`
	Unit   string      `json:"unit"`
	From   time.Time   `json:"from"`
	To     time.Time   `json:"to"`
	Note   string      `json:"note,omitempty"`
	Limits []limitDoc  `json:"limits"`
	Series []seriesDoc `json:"series"`
	Marks  []markDoc   `json:"changes"`
}

type seriesDoc struct {
	Label  string       `json:"label"`
	Source fleet.Source `json:"source,omitempty"`
	Set    bool         `json:"set,omitempty"` // what was ordered, not what was measured
	StepMS int64        `json:"step_ms"`
	Points []pointDoc   `json:"points"`
}

type pointDoc struct {
	At    time.Time `json:"at"`
	Value *float64  `json:"value"` // null in a gap
	Min   *float64  `json:"min,omitempty"`
	Max   *float64  `json:"max,omitempty"`
	Count uint64    `json:"count"`
}

type markDoc struct {
	At    time.Time `json:"at"`
	Label string    `json:"label"`
	Text  string    `json:"text"`
}

func (c chart) doc() chartDoc {
	d := chartDoc{ID: c.id, Title: c.title, Unit: c.unit, From: c.span.From.UTC(), To: c.span.To.UTC(), Note: c.note, Limits: c.limits.docs(), Series: []seriesDoc{}, Marks: []markDoc{}}
	for _, l := range c.lines {
		sd := seriesDoc{Label: l.label, Source: l.source, Set: l.dash, StepMS: l.step.Milliseconds(), Points: []pointDoc{}}
		for _, s := range l.data {
			p := pointDoc{At: s.at.UTC(), Count: s.n}
			if s.n > 0 {
				p.Value, p.Min, p.Max = &s.avg, &s.min, &s.max
			}
			sd.Points = append(sd.Points, p)
		}
		d.Series = append(d.Series, sd)
	}
	for _, m := range c.marks {
		d.Marks = append(d.Marks, markDoc{m.at.UTC(), m.label, m.text})
	}
	return d
}

// plotDoc is the compact form that the island draws: times in milliseconds,
// null in a gap.
type plotDoc struct {
	Unit   string      `json:"unit"`
	From   int64       `json:"from"`
	To     int64       `json:"to"`
	Limits []plotLimit `json:"limits,omitempty"`
	Lines  []lineDoc   `json:"lines"`
	Marks  []plotMark  `json:"marks"`
}

type plotLimit struct {
	Value float64 `json:"value"`
	Name  string  `json:"name"`
	Tone  string  `json:"tone,omitempty"`
}

type lineDoc struct {
	Label string     `json:"label"`
	Color string     `json:"color"`
	Dash  bool       `json:"dash,omitempty"`
	Steps bool       `json:"steps,omitempty"`
	T     []int64    `json:"t"`
	V     []*float64 `json:"v"`
	Now   string     `json:"now"`
}

type plotMark struct {
	At    int64  `json:"at"`
	Label string `json:"label"`
	Text  string `json:"text"`
}

// plot leaves out points before since: the island has them.
func (c chart) plot(since time.Time) plotDoc {
	d := plotDoc{Unit: c.unit, From: c.span.From.UnixMilli(), To: c.span.To.UnixMilli(), Lines: []lineDoc{}, Marks: []plotMark{}}
	for _, l := range c.limits {
		d.Limits = append(d.Limits, plotLimit{l.value, l.words(), l.tone})
	}
	for _, l := range c.lines {
		ld := lineDoc{Label: l.label, Color: l.color, Dash: l.dash, Steps: l.steps, T: []int64{}, V: []*float64{}, Now: "–"}
		if s, ok := l.last(c.span.To); ok {
			ld.Now = figure(s.avg, c.unit)
		}
		var prev time.Time
		for _, s := range l.data {
			if s.at.Before(since) && !l.steps {
				prev = s.at
				continue
			}
			if s.at.Before(c.span.From) { // a step in force since before the axis begins
				s.at = c.span.From
			}
			v := math.Round(s.avg*1000) / 1000
			switch {
			case s.n == 0:
				ld.T, ld.V = append(ld.T, s.at.UnixMilli()), append(ld.V, nil)
			case !l.steps && !prev.IsZero() && l.step > 0 && s.at.Sub(prev) > time.Duration(gapFactor*float64(l.step)):
				ld.T, ld.V = append(ld.T, prev.Add(l.step).UnixMilli(), s.at.UnixMilli()), append(ld.V, nil, &v)
			default:
				ld.T, ld.V = append(ld.T, s.at.UnixMilli()), append(ld.V, &v)
			}
			prev = s.at
		}
		if s, ok := l.last(c.span.To); ok && l.steps {
			ld.T, ld.V = append(ld.T, c.span.To.UnixMilli()), append(ld.V, &s.avg)
		}
		d.Lines = append(d.Lines, ld)
	}
	for _, m := range c.marks {
		d.Marks = append(d.Marks, plotMark{m.at.UnixMilli(), m.label, m.text})
	}
	return d
}

// chartRoutes are the URLs of the charts.
func chartRoutes(s *Server, e *echo.Echo) {
	e.GET("/charts/:chart", s.getChart)
	e.GET("/api/series", s.getSeries)
}

func (s *Server) chartArgs(c echo.Context) (chartArgs, error) {
	span, err := s.rangeOf(c)
	if err != nil {
		return chartArgs{}, err
	}
	return chartArgs{split: c.QueryParam("split"), target: c.QueryParam("target"), server: c.QueryParam("server"), service: c.QueryParam("service"), quantile: c.QueryParam("q"), span: span,
		consumer: fleet.ConsumerKey{Account: c.QueryParam("account"), Stream: c.QueryParam("stream"), Consumer: c.QueryParam("consumer")}}, nil
}

// getChart answers /charts/{id} with the chart and its figures, and the same
// with .json, .csv or .svg at its end.
func (s *Server) getChart(c echo.Context) error {
	a, err := s.chartArgs(c)
	if err != nil {
		return err
	}
	id, ext := c.Param("chart"), ""
	if i := strings.LastIndexByte(id, '.'); i >= 0 {
		id, ext = id[:i], id[i:]
	}
	switch ext {
	case "", ".svg":
		a.points = chartPoints
	case ".csv", ".json":
		a.points = exportPoints
	default:
		return echo.ErrNotFound
	}
	if id == heatID {
		return s.getHeat(c, ext, a)
	}
	ch, err := s.chart(c.Request().Context(), id, a)
	if err != nil {
		return err
	}
	name := strings.Trim(id+"-"+cmp.Or(a.split, a.server, a.service, a.consumer.Consumer)+"-"+a.target, "-")
	switch ext {
	case ".csv", ".json":
		return s.export(c, name, chartCols, ch.rows(), ch.doc())
	case ".svg":
		return s.sendSVG(c, name, ch)
	}
	v := templates.ChartPage{Chart: ch.view(a), Cols: chartCols, Limits: ch.limits.rows()}
	v.Chart.Page = ""
	const most = 500
	for row := range ch.rows() {
		if len(v.Rows) == most {
			v.More = fmt.Sprintf("The first %d figures. CSV and JSON have them all.", most)
			break
		}
		cells := make([]string, len(row))
		for i, cell := range row {
			switch cell := cell.(type) {
			case float64:
				cells[i] = figure(cell, "")
			case string:
				cells[i] = cell
			default:
				cells[i] = csvCell(cell)
			}
		}
		v.Rows = append(v.Rows, cells)
	}
	f := withLive(s.frame(c, ch.title, "", templates.Crumb{Name: "Charts"}, templates.Crumb{Name: ch.title}))
	f.Charts = true
	return show(c, templates.ChartOwnPage(f, v), templates.ChartCard(v.Chart))
}

// getSeries feeds the charts of a page in one request: chart= may stand several
// times, since= leaves out what the page has.
func (s *Server) getSeries(c echo.Context) error {
	a, err := s.chartArgs(c)
	if err != nil {
		return err
	}
	since, err := parseTime(c.QueryParam("since"), time.Time{})
	if err != nil {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The time in since= is not valid.", Hint: "Give milliseconds since 1970."}
	}
	ids := c.QueryParams()["chart"]
	if len(ids) > 16 {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "That is too many charts for one request.", Hint: "Ask for at most 16."}
	}
	out := make(map[string]plotDoc, len(ids))
	for _, id := range ids {
		ch, err := s.chart(c.Request().Context(), id, a)
		if err != nil {
			return err
		}
		out[id] = ch.plot(since)
	}
	return c.JSON(200, out)
}

// sendSVG sends the chart as a file of its own, with the colours inside: a
// picture in a document has no style sheet to ask.
func (s *Server) sendSVG(c echo.Context, name string, ch chart) error {
	var b strings.Builder
	if err := templates.PlotFile(ch.draw(), ch.title, ch.summary(), plotStyle).Render(c.Request().Context(), &b); err != nil {
		return fmt.Errorf("draw chart %s: %w", ch.id, err)
	}
	h := c.Response().Header()
	h.Set(echo.HeaderContentDisposition, `inline; filename="`+fileName(name, s.Now(), ".svg")+`"`)
	// The file may style itself; it still loads and runs nothing.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	return c.Blob(200, "image/svg+xml", []byte(b.String()))
}

// plotStyle is what css/charts.css says, for a file that stands by itself.
const plotStyle = `text{font:10.5px Inter,system-ui,sans-serif;fill:#667082}.ay{text-anchor:end}.ax{text-anchor:middle}.el{font-weight:560}` +
	`.grid{stroke:#eceff3;fill:none}.base{stroke:#cfd5de;fill:none}.lim{stroke:#667082;stroke-dasharray:2 3;fill:none}.lim-warn{stroke:#9a5b00;stroke-dasharray:4 4}.lim-crit{stroke:#c0321b;stroke-dasharray:9 3}` +
	`.lw{paint-order:stroke;stroke:#fff;stroke-width:3px}.lw-warn{fill:#9a5b00}.lw-crit{fill:#c0321b}` +
	`.ln{fill:none;stroke-width:1.5;stroke-linejoin:round}.dots{stroke-width:3;stroke-linecap:round}.dash{stroke-dasharray:4 3;opacity:.65}` +
	`.mk path{stroke:#3f51d1;fill:none}.mk .flag{fill:#3f51d1}.mk text{fill:#fff;font-weight:600;text-anchor:middle}` +
	`.ln-c-1{stroke:#1c66ad}.ln-c-2{stroke:#cf6410}.ln-c-3{stroke:#159470}.ln-c-4{stroke:#8a3a78}.ln-c-5{stroke:#857000}.ln-c-6{stroke:#5b5fc7}` +
	`.ln-c-p50{stroke:#628fc2}.ln-c-p95{stroke:#2a62ab}.ln-c-p99{stroke:#8a2a8c}.ln-c-p999{stroke:#b01030}` +
	`.fill-c-1{fill:#1c66ad}.fill-c-2{fill:#cf6410}.fill-c-3{fill:#159470}.fill-c-4{fill:#8a3a78}.fill-c-5{fill:#857000}.fill-c-6{fill:#5b5fc7}` +
	`.fill-c-p50{fill:#628fc2}.fill-c-p95{fill:#2a62ab}.fill-c-p99{fill:#8a2a8c}.fill-c-p999{fill:#b01030}`
