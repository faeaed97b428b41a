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

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

func splitRoutes(s *Server, e *echo.Echo) {
	page(e, "/splits", s.listSplits)
	e.GET("/splits/new", s.newSplit)
	e.POST("/splits/new", s.planNew)
	e.POST("/splits/create", s.applyNew)
	e.GET("/splits/:name", s.showSplit)
	e.GET("/splits/:name/edit", s.editSplit)
	e.POST("/splits/:name/edit", s.planEdit)
	e.POST("/splits/:name/plan", s.planWeights)
	e.POST("/splits/:name/apply", s.applyWeights)
	e.POST("/splits/:name/delete", s.deleteSplit)
	e.POST("/changes/:id/keep", s.keepChange)
	e.POST("/changes/:id/rollback", s.rollbackChange)
	mappingRoutes(s, e)
}

func splitURL(name string) string { return "/splits/" + url.PathEscape(name) }

// measureAll reads every split, in the order of their names.
func (s *Server) measureAll(ctx context.Context) ([]measured, error) {
	revs := s.Control.Splits()
	all := make([]measured, len(revs))
	for i, rev := range revs {
		m, err := s.measure(ctx, rev)
		if err != nil {
			return nil, err
		}
		all[i] = m
	}
	return all, nil
}

func (s *Server) splitRows(all []measured) []templates.SplitRow {
	rows := make([]templates.SplitRow, len(all))
	for i, m := range all {
		sp := m.rev.Split
		tone, word := s.splitStatus(m)
		rows[i] = templates.SplitRow{
			Key: sp.Name, Name: sp.Name, URL: splitURL(sp.Name), Subject: sp.Subject,
			Status: templates.Status{Tone: tone, Word: word}, Revision: strconv.FormatUint(m.rev.Number, 10),
			Pick: string(sp.Pick), Mode: string(sp.Mode), Targets: s.targetRows(m),
			Rate: figure(m.rate, "msg/s"), P99: latencyWords(m.quantile(.99)), Backlog: countWords(m.backlog),
			Changed: s.when(m.rev.At), By: m.rev.Author,
		}
		if p, ok := s.openProposal(sp.Name); ok {
			rows[i].Suggestion = suggestionURL(p.ID)
		}
	}
	return rows
}

// splitsText patches the rows of lists of splits.
func splitsText(rows []templates.SplitRow) (text, attr map[string]string) {
	text, attr = map[string]string{}, map[string]string{}
	for _, r := range rows {
		text[r.Key+"/rate"], text[r.Key+"/p99"], text[r.Key+"/backlog"] = r.Rate, r.P99, r.Backlog
		for _, t := range r.Targets {
			rowText(text, attr, t)
		}
	}
	return text, attr
}

// splitsShape changes when a row of a list of splits looks different in more
// than its figures.
func splitsShape(rows []templates.SplitRow) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprint(&b, r.Name, "\x00", r.Revision, "\x00", r.Status, "\x00", r.Suggestion, "\x00", r.Mode)
		for _, t := range r.Targets {
			fmt.Fprint(&b, "\x00", t.Name, "\x00", t.Set)
		}
	}
	return b.String()
}

func (s *Server) listSplits(c echo.Context) error {
	all, err := s.measureAll(c.Request().Context())
	if err != nil {
		return err
	}
	if format(c) != "" {
		docs := make([]splitDoc, len(all))
		for i, m := range all {
			docs[i] = s.splitDoc(m)
		}
		return s.export(c, "splits", splitColumns, splitTable(docs), docs)
	}
	v := templates.Splits{Rows: s.splitRows(all), JSON: "/splits.json", CSV: "/splits.csv", NewURL: "/splits/new"}
	f := withLive(s.frame(c, "Splits", navSplits), topicSplits)
	return show(c, templates.SplitsPage(f, v), templates.SplitRows(v.Rows))
}

func (s *Server) splitsTopic(ctx context.Context, _ string) (update, error) {
	all, err := s.measureAll(ctx)
	if err != nil {
		return update{}, err
	}
	rows := s.splitRows(all)
	up := update{Parts: map[string]part{"split-rows": {templates.SplitRows(rows), splitsShape(rows)}}}
	up.Text, up.Attr = splitsText(rows)
	return up, nil
}

// splitDoc is a split in an export.
type splitDoc struct {
	Revision traffic.Revision `json:"revision"`
	Window   struct {
		From time.Time `json:"from"`
		To   time.Time `json:"to"`
	} `json:"window"`
	Status   string             `json:"status"`
	Rate     float64            `json:"rate_per_s"`
	P50      *float64           `json:"ack_p50_ms"`
	P99      *float64           `json:"ack_p99_ms"`
	Backlog  uint64             `json:"backlog"`
	InFlight uint64             `json:"in_flight"`
	Targets  []targetDoc        `json:"targets"`
	History  []traffic.Revision `json:"history,omitempty"`
	Changes  []traffic.Change   `json:"changes,omitempty"`
	Decision *traffic.Decision  `json:"decision,omitempty"`
}

// targetDoc is a target in an export. A null was not measured.
type targetDoc struct {
	Name     string        `json:"name"`
	Subject  string        `json:"subject"`
	Tier     int           `json:"tier"`
	State    traffic.State `json:"state"`
	Set      int           `json:"set_share_percent"`
	Observed *float64      `json:"observed_share_percent"`
	Rate     float64       `json:"rate_per_s"`
	Arrived  uint64        `json:"arrived"`
	Acked    uint64        `json:"acked"`
	Redeliv  uint64        `json:"redelivered"`
	Backlog  uint64        `json:"backlog"`
	InFlight uint64        `json:"in_flight"`
	Mean     *float64      `json:"ack_mean_ms"`
	P50      *float64      `json:"ack_p50_ms"`
	P95      *float64      `json:"ack_p95_ms"`
	P99      *float64      `json:"ack_p99_ms"`
	Quality  string        `json:"latency_is"` // measured, estimated or none
	Samples  uint64        `json:"samples"`
	Status   string        `json:"status"`
	At       time.Time     `json:"measured_at"`
}

var splitColumns = []string{"split", "revision", "target", "subject", "tier", "state", "set_share_percent", "observed_share_percent", "rate_per_s", "arrived", "acked", "redelivered",
	"backlog", "in_flight", "ack_mean_ms", "ack_p50_ms", "ack_p95_ms", "ack_p99_ms", "latency_is", "samples", "status", "measured_at"}

func splitTable(docs []splitDoc) iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		for _, d := range docs {
			for _, t := range d.Targets {
				row := []any{d.Revision.Split.Name, d.Revision.Number, t.Name, t.Subject, t.Tier, t.State, t.Set, optional(t.Observed), t.Rate, t.Arrived, t.Acked, t.Redeliv,
					t.Backlog, t.InFlight, optional(t.Mean), optional(t.P50), optional(t.P95), optional(t.P99), t.Quality, t.Samples, t.Status, t.At}
				if !yield(row) {
					return
				}
			}
		}
	}
}

func optional(v *float64) any {
	if v == nil {
		return nil
	}
	return *v
}

func millisOf(d time.Duration) *float64 {
	if d <= 0 {
		return nil
	}
	f := float64(d) / float64(time.Millisecond)
	return &f
}

func (s *Server) splitDoc(m measured) splitDoc {
	_, word := s.splitStatus(m)
	d := splitDoc{Revision: m.rev, Status: word, Rate: m.rate, P50: millisOf(m.quantile(.5)), P99: millisOf(m.quantile(.99)), Backlog: m.backlog, InFlight: m.inFlight}
	d.Window.From, d.Window.To = m.r.From, m.r.To
	for _, t := range m.targets {
		_, word := t.status()
		td := targetDoc{Name: t.Name, Subject: t.Subject, Tier: t.Tier, State: t.State, Set: t.Weight, Rate: t.rate, Arrived: t.obs.Arrived, Acked: t.obs.Acked,
			Redeliv: t.obs.Redelivered, Backlog: t.obs.Backlog, InFlight: t.obs.InFlight, Mean: millisOf(t.obs.Mean), Quality: "none", Samples: t.obs.Samples, Status: word, At: t.obs.To}
		if !math.IsNaN(t.observed) {
			share := t.observed * 100
			td.Observed = &share
		}
		switch sk := t.obs.Latency; {
		case sk != nil && sk.Count() > 0:
			td.Quality = "measured"
			td.P50, td.P95, td.P99 = millisOf(sk.Quantile(.5)), millisOf(sk.Quantile(.95)), millisOf(sk.Quantile(.99))
		case t.obs.Estimated:
			td.Quality = "estimated"
		}
		d.Targets = append(d.Targets, td)
	}
	return d
}

// showSplit answers /splits/{name}, {name}.json and {name}.csv: a split's name
// has no dot. The data are of the time range when the URL names one, else of the
// last minute as on the page.
func (s *Server) showSplit(c echo.Context) error {
	ctx := c.Request().Context()
	name, _, _ := strings.Cut(c.Param("name"), ".")
	rev, err := s.Control.Split(name)
	if err != nil {
		return err
	}
	span, err := s.rangeOf(c)
	if err != nil {
		return err
	}
	var m measured
	if format(c) != "" && (c.QueryParam("range") != "" || c.QueryParam("from") != "") {
		m, err = s.measureOver(ctx, measured{rev: rev, r: span.Range})
	} else {
		m, err = s.measure(ctx, rev)
	}
	if err != nil {
		return err
	}
	history, err := s.Control.History(ctx, name)
	if err != nil {
		return fmt.Errorf("history of split %s: %w", name, err)
	}
	if format(c) != "" {
		d := s.splitDoc(m)
		d.History, d.Changes = history, s.Control.Changes(name, 100)
		if m.decided {
			d.Decision = &m.decision
		}
		return s.export(c, "split-"+name, splitColumns, splitTable([]splitDoc{d}), d)
	}
	form := s.formOf(rev)
	if id := c.QueryParam("proposal"); id != "" {
		p, err := s.Control.Proposal(id)
		if err != nil {
			return err
		}
		form = form.propose(p)
	}
	v, err := s.splitPage(ctx, m, history, form, span)
	if err != nil {
		return err
	}
	f := s.splitFrame(c, rev, span)
	return show(c, templates.SplitDetail(f, v), templates.TargetRows(v.Targets))
}

func (s *Server) splitFrame(c echo.Context, rev traffic.Revision, span timeRange) templates.Frame {
	name := rev.Split.Name
	f := withLive(s.frame(c, name, navSplits, templates.Crumb{Name: "Splits", URL: "/splits"}, templates.Crumb{Name: name}), topicSplit+":"+name)
	f.Charts = true
	f.Range = span.choices(splitURL(name))
	return f
}

func (s *Server) splitPage(ctx context.Context, m measured, history []traffic.Revision, form weightsInput, span timeRange) (templates.SplitPage, error) {
	sp := m.rev.Split
	tone, word := s.splitStatus(m)
	kpis, charts, err := s.splitSignals(ctx, m, span)
	if err != nil {
		return templates.SplitPage{}, err
	}
	v := templates.SplitPage{
		Name: sp.Name, Subject: sp.Subject, Status: templates.Status{Tone: tone, Word: word}, Revision: strconv.FormatUint(m.rev.Number, 10),
		Sub:     fmt.Sprintf("%s, driver %s, the tuner %s", pickWords(sp.Pick), sp.Driver, modeWords(sp)),
		Changed: s.when(m.rev.At), By: m.rev.Author, Reason: m.rev.Reason, Window: m.windowWords(), KPIs: kpis,
		Targets: s.targetRows(m), Sampled: m.sampledWords(), Form: s.weightsView(m, form), Charts: charts,
		Changes: s.changeRows(s.Control.Changes(sp.Name, 8)), Report: "/reports/" + url.PathEscape(sp.Name) + "?" + span.query().Encode(),
		JSON: splitURL(sp.Name) + ".json", CSV: splitURL(sp.Name) + ".csv", EditURL: splitURL(sp.Name) + "/edit",
		JournalURL: "/journal?split=" + url.QueryEscape(sp.Name), RangeQuery: span.query().Encode(),
	}
	s.serversOf(&v, sp)
	if m.decided {
		v.Decision, v.Vetoes, v.DecidedAt = m.decision.Why, m.decision.Vetoes, s.when(m.decision.At)
	}
	if p, ok := s.openProposal(sp.Name); ok {
		sg := s.suggestionView(p)
		v.Suggestion = &sg
		v.Decision = "" // the card says it all
	}
	for _, r := range history {
		row := templates.RevisionRow{Number: strconv.FormatUint(r.Number, 10), Current: r.Number == m.rev.Number, At: s.when(r.At), By: r.Author, Reason: r.Reason, Weights: weightWords(r.Split)}
		if !row.Current {
			row.RestoreTo = row.Number
		}
		v.Revisions = append(v.Revisions, row)
		if len(v.Revisions) == 12 {
			break
		}
	}
	return v, nil
}

// serversOf shows what each server does with a split that the servers carry out.
func (s *Server) serversOf(v *templates.SplitPage, sp traffic.Split) {
	if !sp.Driver.Maps() {
		return
	}
	v.MappingURL = mappingURL(sp)
	all, at, err := s.Control.InForce(sp.Name)
	v.ServersAt = s.when(at)
	if err != nil {
		v.ServersUn = fault(err).Title
	}
	for _, f := range all {
		row := templates.ServerRow{Server: f.Server, URL: serverURL(f.Server), Status: templates.Status{Tone: "warn", Word: string(f.State)}, Text: f.Text}
		switch f.State {
		case traffic.ForceSame:
			row.Status.Tone, row.Text = "ok", cmp.Or(f.Text, "It does what the split says.")
		case traffic.ForceUnused:
			row.Status.Tone = "stale"
		}
		var words []string
		for _, t := range sp.Targets {
			if w, ok := f.Weights[t.Name]; ok {
				words = append(words, t.Name+" "+strconv.Itoa(w))
			}
		}
		for _, subject := range slices.Sorted(maps.Keys(f.Others)) {
			words = append(words, subject+" "+strconv.Itoa(f.Others[subject]))
		}
		row.Weights, row.Text = cmp.Or(strings.Join(words, " · "), none), cmp.Or(row.Text, none)
		v.Servers = append(v.Servers, row)
	}
}

func pickWords(p traffic.Pick) string {
	if p == traffic.ByKey {
		return "by key"
	}
	return "weighted"
}

func modeWords(sp traffic.Split) string {
	switch {
	case sp.Law == traffic.LawManual:
		return "makes no suggestions"
	case sp.Mode == traffic.Observe:
		return "only watches"
	}
	return "suggests"
}

// weightWords lists the weights of a split, in its order.
func weightWords(sp traffic.Split) string {
	words := make([]string, len(sp.Targets))
	for i, t := range sp.Targets {
		words[i] = t.Name + " " + strconv.Itoa(t.Weight)
		if t.State != traffic.Ready {
			words[i] = t.Name + " " + string(t.State)
		}
	}
	return strings.Join(words, " · ")
}

// sampledWords says how the latencies of the table came about.
func (m measured) sampledWords() string {
	measuredN, estimated := 0, 0
	var samples uint64
	for _, t := range m.targets {
		switch {
		case t.obs.Latency != nil && t.obs.Latency.Count() > 0:
			measuredN++
			samples += t.obs.Samples
		case t.obs.Estimated:
			estimated++
		}
	}
	text := "ACK latency runs from a message's last delivery to the arrival of its acknowledgement at the server. "
	if measuredN > 0 {
		text += fmt.Sprintf("%s measured over %s samples. ", plural(measuredN, "target is", "targets are"), countWords(samples))
	}
	if estimated > 0 {
		text += fmt.Sprintf("%s estimated, because sample_freq is off.", plural(estimated, "target is", "targets are"))
	}
	return text
}

// splitSignals are the charts of a split's page and the strip above them. Both
// cover the page's range, and what both show is read once.
func (s *Server) splitSignals(ctx context.Context, m measured, span timeRange) ([]templates.KPI, []templates.ChartView, error) {
	a := chartArgs{split: m.rev.Split.Name, span: span}
	p50 := a
	p50.quantile, p50.points = "p50", sparkPoints
	few := a
	few.points = sparkPoints
	var charts [6]chart
	for i, c := range []struct {
		id   string
		args chartArgs
	}{{"split-latency", a}, {"split-share", a}, {"split-rate", a}, {"split-pending", a}, {"split-latency", p50}, {"split-redelivered", few}} {
		var err error
		if charts[i], err = s.chart(ctx, c.id, c.args); err != nil {
			return nil, nil, err
		}
	}
	kpis := s.splitFigures(m)
	for i, k := range []struct {
		of    chart
		join  func(a, b float64) float64
		label string
	}{
		{charts[2], plus, "Rate over the range"}, {charts[0], math.Max, "Highest ACK p99 over the range"}, {charts[4], math.Max, "Highest ACK p50 over the range"},
		{charts[3], plus, "Backlog over the range"}, {charts[5], plus, "Outstanding redeliveries over the range"},
	} {
		kpis[i].Spark = sparkline(k.label, resample(k.of.join(k.join), sparkPoints))
	}
	views := make([]templates.ChartView, 4)
	for i := range views {
		views[i] = charts[i].view(a)
	}
	return kpis, views, nil
}

// resample averages values into at most n; a stretch without any is a gap.
func resample(values []float64, n int) []float64 {
	if len(values) <= n {
		return values
	}
	out := make([]float64, n)
	for i := range out {
		sum, count := 0.0, 0
		for _, v := range values[i*len(values)/n : (i+1)*len(values)/n] {
			if !math.IsNaN(v) {
				sum, count = sum+v, count+1
			}
		}
		out[i] = sum / float64(count) // 0/0 is the gap
	}
	return out
}

// sparkPoints is what a strip of figures has room for.
const sparkPoints = 60

func plus(a, b float64) float64 { return a + b }

// join makes one line of all of a chart's; a gap in any is a gap.
func (c chart) join(f func(a, b float64) float64) []float64 {
	if len(c.lines) == 0 {
		return nil
	}
	sum := c.lines[0]
	for _, l := range c.lines[1:] {
		if !l.dash {
			sum.data = combine(sum, l, f)
		}
	}
	out := make([]float64, len(sum.data))
	for i, p := range sum.data {
		out[i] = p.avg
		if p.n == 0 {
			out[i] = math.NaN()
		}
	}
	return out
}

// splitFigures are the strip's figures of the last minute.
func (s *Server) splitFigures(m measured) []templates.KPI {
	key := m.rev.Split.Name + "/kpi/"
	kpis := []templates.KPI{
		{Key: key + "rate", Label: "Message rate", Value: figure(m.rate, "msg/s"), Unit: "msg/s"},
		{Key: key + "p99", Label: "ACK latency p99", Value: latencyWords(m.quantile(.99)), Unit: "ms"},
		{Key: key + "p50", Label: "ACK latency p50", Value: latencyWords(m.quantile(.5)), Unit: "ms"},
		{Key: key + "backlog", Label: "Backlog", Value: countWords(m.backlog), Unit: "msgs", Note: countWords(m.inFlight) + " in flight", NoteKey: key + "inflight"},
		{Key: key + "redelivered", Label: "Redeliveries", Value: countWords(m.redelivd), Unit: ""},
	}
	load := templates.KPI{Key: key + "load", NoteKey: key + "loaded", Label: "Load, busiest target", Value: none, Unit: "%"}
	high := -1.0
	for _, t := range m.targets {
		if t.hasEst && t.est.Capacity > 0 && t.State == traffic.Ready && t.est.Utilization > high {
			high = t.est.Utilization
			load.Value, load.Note = percent(high), t.Name
		}
	}
	switch {
	case high >= 1:
		load.Tone = "crit"
	case high >= 0.85:
		load.Tone = "warn"
	}
	return append(kpis, load)
}

func (s *Server) changeRows(changes []traffic.Change) []templates.ChangeRow {
	rows := make([]templates.ChangeRow, len(changes))
	for i, ch := range changes {
		rows[i] = s.changeRow(ch)
	}
	return rows
}

func (s *Server) changeRow(ch traffic.Change) templates.ChangeRow {
	at := ch.Written
	if at.IsZero() {
		at = ch.Created
	}
	return templates.ChangeRow{
		ID: ch.ID, URL: "/journal?change=" + url.QueryEscape(ch.ID), Split: ch.Split, SplitURL: splitURL(ch.Split), Revision: strconv.FormatUint(ch.Revision, 10),
		Status: templates.Status{Tone: phaseTone(ch.Phase), Word: string(ch.Phase)}, At: s.when(at), By: ch.Actor, Bot: bot(ch.Actor),
		Reason: ch.Reason, Outcome: ch.Outcome, Effect: effectItems(ch.Effect), Undo: ch.Undo != "",
	}
}

func effectItems(e *traffic.Effect) []templates.EffectItem {
	if e == nil {
		return nil
	}
	items := []templates.EffectItem{
		latencyItem("ACK p99", e.P99Before, e.P99After),
		latencyItem("ACK mean", e.MeanBefore, e.MeanAfter),
		{Name: "Redeliveries", Before: countWords(e.RedeliveredBefore), After: countWords(e.RedeliveredAfter), Better: e.RedeliveredAfter < e.RedeliveredBefore, Worse: e.RedeliveredAfter > e.RedeliveredBefore},
		{Name: "Backlog", Before: countWords(e.BacklogBefore), After: countWords(e.BacklogAfter), Better: e.BacklogAfter < e.BacklogBefore, Worse: e.BacklogAfter > e.BacklogBefore},
	}
	items[0].Note = fmt.Sprintf("%s and %s samples", countWords(e.SamplesBefore), countWords(e.SamplesAfter))
	return items
}

func latencyItem(name string, before, after time.Duration) templates.EffectItem {
	return templates.EffectItem{Name: name, Before: latencyWords(before), After: latencyWords(after), Unit: "ms",
		Better: after > 0 && before > 0 && after < before, Worse: before > 0 && after > before}
}

func (s *Server) splitTopic(ctx context.Context, name string) (update, error) {
	rev, err := s.Control.Split(name)
	if err != nil {
		return update{}, err
	}
	m, err := s.measure(ctx, rev)
	if err != nil {
		return update{}, err
	}
	rows := s.targetRows(m)
	tone, word := s.splitStatus(m)
	changes := s.changeRows(s.Control.Changes(name, 8))
	up := update{Text: map[string]string{name + "/window": m.windowWords()}, Attr: map[string]string{}, Parts: map[string]part{
		"split-status":  {templates.Chip(templates.Status{Tone: tone, Word: word}), tone + word},
		"target-rows":   {templates.TargetRows(rows), rowsShape(rows)},
		"split-changes": {templates.ChangeList(changes, "Nothing was changed yet."), changesShape(changes)},
	}}
	for _, r := range rows {
		rowText(up.Text, up.Attr, r)
	}
	for _, t := range m.targets {
		up.Text[name+"/"+t.Name+"/note"] = t.note()
	}
	kpiText(up, s.splitFigures(m))
	up.Data = whole{fmt.Sprintf("revision %d", rev.Number)}
	var suggestion templ.Component = templ.NopComponent
	shape := ""
	if p, ok := s.openProposal(name); ok {
		suggestion, shape = templates.SuggestionBox(s.suggestionView(p)), p.ID
	}
	up.Parts["split-suggestion"] = part{suggestion, shape}
	decision := templates.SplitPage{}
	if m.decided && shape == "" {
		decision.Decision, decision.Vetoes = m.decision.Why, m.decision.Vetoes
	}
	up.Parts["split-decision"] = part{templates.DecisionCard(decision), decision.Decision + strings.Join(decision.Vetoes, "")}
	return up, nil
}

// kpiText patches a strip of figures.
func kpiText(up update, kpis []templates.KPI) {
	for _, k := range kpis {
		up.Text[k.Key] = k.Value
		up.Attr["kpi:"+k.Key+" data-state"] = k.Tone
		if k.NoteKey != "" {
			up.Text[k.NoteKey] = k.Note
		}
		if id := k.Spark.ID; id != "" {
			up.Attr[id+"-line d"], up.Attr[id+"-area d"] = k.Spark.Line, k.Spark.Area
		}
	}
}

func rowsShape(rows []templates.TargetRow) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprint(&b, r.Name, "\x00", r.Set, r.Tone, r.Status, r.State, r.Quality, "\x00")
	}
	return b.String()
}

func changesShape(rows []templates.ChangeRow) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprint(&b, r.ID, "\x00", r.Status.Word, r.Outcome, "\x00")
	}
	return b.String()
}

// consumerOptions lists the consumers that there are, to measure a target at.
func (s *Server) consumerOptions() []templates.Option {
	var out []templates.Option
	for _, c := range s.Metrics.Latest().Consumers {
		out = append(out, templates.Option{
			Value: observedValue(&traffic.Observed{Account: c.Account, Stream: c.Stream, Consumer: c.Consumer}),
			Label: strings.Join(c.FilterSubjects, ", "),
		})
	}
	return out
}

func (s *Server) keepChange(c echo.Context) error {
	ch, err := s.Control.Keep(c.Request().Context(), c.Param("id"), s.Operator)
	if err != nil {
		return err
	}
	return seeOther(c, splitURL(ch.Split))
}

func (s *Server) rollbackChange(c echo.Context) error {
	reason := strings.TrimSpace(c.FormValue("reason"))
	if reason == "" {
		reason = "Rolled back from the console"
	}
	if len(reason) > maxReason {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The reason is too long.", Hint: fmt.Sprintf("Use at most %d characters.", maxReason)}
	}
	ch, err := s.Control.Rollback(c.Request().Context(), c.Param("id"), s.Operator, reason)
	if err != nil {
		return err
	}
	return seeOther(c, splitURL(ch.Split))
}
