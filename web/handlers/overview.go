package handlers

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

func overviewRoutes(s *Server, e *echo.Echo) {
	e.GET("/", s.overview)
	e.GET("/find", s.find)
}

func (s *Server) overview(c echo.Context) error {
	ctx := c.Request().Context()
	span, err := s.rangeOf(c)
	if err != nil {
		return err
	}
	v, all, err := s.overviewView(ctx)
	if err != nil {
		return err
	}
	f := withLive(s.frame(c, "Overview", navOverview), topicOverview)
	if v.Forming == nil {
		f.Charts = true
		f.Range = span.choices("/")
		if err := s.overviewSparks(ctx, v.KPIs, all, span); err != nil {
			return err
		}
		// The charts of the first splits; every other is a click away.
		for _, m := range all[:min(len(all), 2)] {
			charts, err := s.charts(ctx, chartArgs{split: m.rev.Split.Name, span: span}, "split-latency", "split-share")
			if err != nil {
				return err
			}
			for i := range charts {
				charts[i].Title = m.rev.Split.Name + ": " + charts[i].Title
				charts[i].ID += "-" + m.rev.Split.Name
			}
			v.Charts = append(v.Charts, charts...)
		}
	}
	return show(c, templates.OverviewPage(f, v), templates.NeedList(v))
}

// overviewView is the page without what covers a range: that much is live.
func (s *Server) overviewView(ctx context.Context) (templates.Overview, []measured, error) {
	snap := s.Metrics.Latest()
	v := templates.Overview{NewSplit: "/splits/new", Whole: "forming"}
	if forming, ok := s.forming(snap); ok {
		v.Forming = &forming
		v.Status, v.Sub = templates.Status{Tone: "stale", Word: "no data yet"}, "Waiting for the first look at NATS."
		return v, nil, nil
	}
	all, err := s.measureAll(ctx)
	if err != nil {
		return v, nil, err
	}
	now := s.Now()
	events, err := s.Metrics.Events(ctx, fleet.Range{From: now.Add(-24 * time.Hour), To: now}, 40)
	if err != nil {
		return v, nil, fmt.Errorf("events of the last day: %w", err)
	}
	for _, e := range events {
		if len(v.Events) == 6 {
			break
		}
		// Whoever watches a bucket makes a short-lived consumer: no news.
		if strings.HasPrefix(e.Kind, "consumer.") && strings.Contains(e.Entity, "/KV_") {
			continue
		}
		v.Events = append(v.Events, templates.EventRow{Tone: severityTone(e.Severity), Entity: e.Entity, Text: e.Text, At: s.when(e.At)})
	}
	v.KPIs = s.overviewFigures(snap, all)
	v.Whole = "splits"
	for _, m := range all {
		v.Whole += " " + m.rev.Split.Name
	}
	v.Splits = s.splitRows(all)
	v.Changes = s.changeRows(s.Control.Changes("", 8))
	v.Needs = s.needs(snap, all)
	up := 0
	for _, sv := range snap.Servers {
		if sv.State == fleet.Healthy {
			up++
		}
	}
	v.Calm = fmt.Sprintf("All is healthy: %s, %s and %s.", count(up, "server"), count(len(snap.Consumers), "consumer"), count(len(all), "split"))
	v.Sub = fmt.Sprintf("%d of %s up, %s, %s, %s.", up, count(max(len(snap.Servers), snap.Expected), "server"),
		count(len(snap.Streams), "stream"), count(len(snap.Consumers), "consumer"), count(len(all), "split"))
	v.Status = templates.Status{Tone: "ok", Word: "all healthy"}
	if n := len(v.Needs); n > 0 {
		v.Status = templates.Status{Tone: v.Needs[0].Tone, Word: plural(n, "thing needs attention", "things need attention")}
	}
	return v, all, nil
}

// forming says what is missing as long as there is nothing to show.
func (s *Server) forming(snap *fleet.Snapshot) (templates.Forming, bool) {
	if len(snap.Servers) > 0 && (s.Demo == nil || len(snap.Streams) > 0) {
		return templates.Forming{}, false
	}
	f := templates.Forming{Title: "Nothing was seen of NATS yet", Text: "Ballast keeps trying, at first every second, then up to every 30 seconds."}
	if s.Demo != nil {
		f.Title, f.Text = "The demo cluster is forming", "Its servers elect a leader first; that takes about five seconds. This page fills by itself."
		if n := len(snap.Servers); n > 0 {
			f.Steps = append(f.Steps, templates.FormingStep{Tone: "ok", What: plural(n, "server is", "servers are") + " up"})
			leader := templates.FormingStep{Tone: "idle", What: "The servers are electing a leader of JetStream"}
			if l := metaLeader(snap); l != "" {
				leader = templates.FormingStep{Tone: "ok", What: l + " leads JetStream"}
			}
			f.Steps = append(f.Steps, leader, templates.FormingStep{Tone: "idle", What: "Stream, consumers and the split are being made"})
		}
	}
	for _, p := range snap.Problems {
		f.Steps = append(f.Steps, templates.FormingStep{Tone: "crit", What: p.Where + ": " + p.What, Hint: p.Hint})
	}
	if err := s.Control.Ready(); err != nil {
		e := fault(err)
		f.Steps = append(f.Steps, templates.FormingStep{Tone: "warn", What: e.Title, Hint: e.Hint})
	}
	if len(f.Steps) == 0 {
		f.Steps = append(f.Steps, templates.FormingStep{Tone: "idle", What: "Waiting for the first answer of a server.", Hint: "If this stays, check --nats, --monitor and the log."})
	}
	return f, true
}

func metaLeader(snap *fleet.Snapshot) string {
	for _, sv := range snap.Servers {
		if sv.JetStream != nil && sv.JetStream.MetaLeader != "" {
			return sv.JetStream.MetaLeader
		}
	}
	return ""
}

// lead is the first sentence of a text.
func lead(text string) string {
	if all := sentences(text); len(all) > 0 {
		return all[0]
	}
	return ""
}

func (s *Server) overviewFigures(snap *fleet.Snapshot, all []measured) []templates.KPI {
	var rate float64
	var p99, p50 time.Duration
	var redelivered uint64
	slowest := ""
	for _, m := range all {
		rate += m.rate
		redelivered += m.redelivd
		if d := m.quantile(.99); d > p99 {
			p99, slowest = d, m.rev.Split.Name
		}
		p50 = max(p50, m.quantile(.5))
	}
	var pending uint64
	for _, c := range snap.Consumers {
		pending += c.Pending
	}
	cpu := templates.KPI{Key: "overview/cpu", NoteKey: "overview/cpu-of", Label: "CPU, busiest server", Value: none, Unit: "%"}
	high := -1.0
	for _, sv := range snap.Servers {
		if sv.State != fleet.Unreachable && sv.CPU > high {
			high = sv.CPU
			cpu.Value, cpu.Note = figure(sv.CPU, "%"), sv.Name
		}
	}
	if len(all) == 0 {
		return append(s.systemFigures(snap, pending), cpu)
	}
	return []templates.KPI{
		{Key: "overview/rate", Label: "Message rate of the splits", Value: figure(rate, "msg/s"), Unit: "msg/s", URL: "/splits"},
		{Key: "overview/p99", NoteKey: "overview/p99-of", Label: "ACK p99, slowest split", Value: latencyWords(p99), Unit: "ms", Note: slowest},
		{Key: "overview/p50", Label: "ACK p50, slowest split", Value: latencyWords(p50), Unit: "ms"},
		{Key: "overview/pending", Label: "Pending, all consumers", Value: countWords(pending), Unit: "msgs", URL: "/topology"},
		{Key: "overview/redelivered", Label: "Redeliveries, last minute", Value: countWords(redelivered), Unit: ""},
		cpu,
	}
}

// systemFigures are those of the whole system, as long as nothing is split.
func (s *Server) systemFigures(snap *fleet.Snapshot, pending uint64) []templates.KPI {
	rates := s.Metrics.Rates()
	in, out := none, none
	if len(rates.Servers) > 0 {
		var sum fleet.LinkRate
		for _, r := range rates.Servers {
			sum.InMsgs, sum.OutMsgs = sum.InMsgs+r.InMsgs, sum.OutMsgs+r.OutMsgs
		}
		in, out = figure(sum.InMsgs, "msg/s"), figure(sum.OutMsgs, "msg/s")
	}
	conns, redelivered := 0, 0
	for i := range snap.Servers {
		if snap.Servers[i].State != fleet.Unreachable {
			conns += snap.Servers[i].Conns
		}
	}
	for i := range snap.Consumers {
		redelivered += snap.Consumers[i].Redelivered
	}
	return []templates.KPI{
		{Key: "overview/in", Label: "Messages in, all servers", Value: in, Unit: "msg/s", URL: "/servers?sort=-in"},
		{Key: "overview/out", Label: "Messages out, all servers", Value: out, Unit: "msg/s", URL: "/servers?sort=-out"},
		{Key: "overview/conns", Label: "Connections", Value: countWords(uint64(max(conns, 0))), URL: "/connections"},
		{Key: "overview/pending", Label: "Pending, all consumers", Value: countWords(pending), Unit: "msgs", URL: "/consumers?sort=-pending"},
		{Key: "overview/outstanding", Label: "Outstanding redeliveries", Value: countWords(uint64(max(redelivered, 0))), Unit: "msgs"},
	}
}

// systemSparks draw the course of what can be summed up: of few servers.
func (s *Server) systemSparks(ctx context.Context, kpis []templates.KPI, span timeRange) error {
	if len(s.Metrics.Latest().Servers) > 6 { // more than such a chart has lines
		return nil
	}
	for id, k := range map[string]struct {
		at    int
		label string
	}{"server-msgs": {0, "Messages in over the range"}, "server-conns": {2, "Connections over the range"}} {
		ch, err := s.chart(ctx, id, chartArgs{span: span, points: sparkPoints})
		if err != nil {
			return err
		}
		kpis[k.at].Spark = sparkline(k.label, ch.join(plus))
	}
	return nil
}

// overviewSparks draws the strip's small charts over the page's range.
func (s *Server) overviewSparks(ctx context.Context, kpis []templates.KPI, all []measured, span timeRange) error {
	sum := func(id, quantile, label string, f func(a, b float64) float64) (templates.Spark, error) {
		total := chart{}
		for _, m := range all[:min(len(all), 4)] {
			ch, err := s.chart(ctx, id, chartArgs{split: m.rev.Split.Name, span: span, points: sparkPoints, quantile: quantile})
			if err != nil {
				return templates.Spark{}, err
			}
			total.lines = append(total.lines, ch.lines...)
		}
		return sparkline(label, total.join(f)), nil
	}
	ofSplits := []struct {
		id, quantile, label string
		f                   func(a, b float64) float64
	}{
		{"split-rate", "", "Message rate over the range", plus},
		{"split-latency", "p99", "Highest ACK p99 over the range", math.Max},
		{"split-latency", "p50", "Highest ACK p50 over the range", math.Max},
		{"split-pending", "", "Backlog over the range", plus},
		{"split-redelivered", "", "Outstanding redeliveries over the range", plus},
	}
	if len(all) == 0 {
		ofSplits = nil
		if err := s.systemSparks(ctx, kpis, span); err != nil {
			return err
		}
	}
	for i, k := range ofSplits {
		var err error
		if kpis[i].Spark, err = sum(k.id, k.quantile, k.label, k.f); err != nil {
			return err
		}
	}
	cpu, err := s.chart(ctx, "server-cpu", chartArgs{span: span, points: sparkPoints})
	if err != nil {
		return err
	}
	kpis[5].Spark = sparkline("Highest CPU over the range", cpu.join(math.Max))
	return nil
}

// needs lists what wants attention, worst first.
func (s *Server) needs(snap *fleet.Snapshot, all []measured) []templates.Need {
	var out []templates.Need
	if a := s.age(); a.Stale {
		out = append(out, templates.Need{Tone: "crit", What: "The figures are old", Detail: a.Text + "; nothing newer was read.", Since: s.when(snap.TakenAt)})
	}
	hints := map[string]string{}
	for _, p := range snap.Problems {
		hints[p.Where] = p.Hint
	}
	told := map[string]bool{}
	found, needs := s.findingNeeds()
	out = append(out, needs...)
	for _, sv := range snap.Servers {
		if found[sv.Entity()] {
			told[sv.Name] = told[sv.Name] || sv.State == fleet.Unreachable
			continue
		}
		switch sv.State {
		case fleet.Unreachable:
			told[sv.Name] = true
			out = append(out, templates.Need{Tone: "crit", What: "Server " + sv.Name + " does not answer", Detail: strings.TrimSpace(sv.Error + " " + hints[sv.Name]), URL: serverURL(sv.Name), Since: s.when(sv.At)})
		case fleet.LameDuck:
			out = append(out, templates.Need{Tone: "warn", What: "Server " + sv.Name + " is going down (lame duck)", Detail: "Its clients are being moved to the others.", URL: serverURL(sv.Name)})
		}
	}
	if len(snap.Servers) < snap.Expected {
		out = append(out, templates.Need{Tone: "warn", What: fmt.Sprintf("%d of %d servers were seen", len(snap.Servers), snap.Expected), Detail: "Others announced themselves before and are missing now.", URL: "/topology"})
	}
	for _, p := range snap.Problems {
		if told[p.Where] {
			continue
		}
		out = append(out, templates.Need{Tone: "warn", What: p.Where, Detail: strings.TrimSpace(p.What + " " + p.Hint), Since: s.when(p.Since)})
	}
	for _, st := range snap.Streams {
		if st.Leader == "" && st.Replicas > 1 && !found[st.Entity()] {
			out = append(out, templates.Need{Tone: "crit", What: "Stream " + st.Stream + " has no leader", Detail: "Nothing can be published to it until one is elected."})
		}
	}
	for _, m := range all {
		name := m.rev.Split.Name
		for _, t := range m.targets {
			tone, word := t.status()
			if tone != "crit" && tone != "warn" || found[fleet.Entity{Kind: fleet.KindTarget, Key: name + "/" + t.Name}] {
				continue
			}
			detail := ""
			if t.hasEst && t.est.Capacity > 0 {
				detail = fmt.Sprintf("%s msg/s arrive, it can do %s; %s wait.", figure(t.rate, "msg/s"), figure(t.est.Capacity, "msg/s"), countWords(t.obs.Backlog))
			}
			out = append(out, templates.Need{Tone: tone, What: name + ": " + t.Name + ": " + word, Detail: detail, URL: splitURL(name)})
		}
	}
	for _, p := range s.Control.Proposals("", 50) {
		if p.Status == traffic.Open {
			out = append(out, templates.Need{Tone: "info", What: "Suggestion: " + p.Title, Detail: lead(p.Why), URL: suggestionURL(p.ID), Since: s.when(p.At)})
		}
	}
	for _, ch := range s.Control.Changes("", 50) {
		recent := s.Now().Sub(ch.Created) < time.Hour
		switch {
		case ch.Phase == traffic.UnknownOut:
			out = append(out, templates.Need{Tone: "crit", What: fmt.Sprintf("It is not known whether revision %d of %s was written", ch.Revision, ch.Split), Detail: "A read from the leader will tell; nothing is written to it before.", URL: splitURL(ch.Split), Since: s.when(ch.Created)})
		case ch.Phase == traffic.Baking:
			out = append(out, templates.Need{Tone: "info", What: fmt.Sprintf("Revision %d of %s is being watched", ch.Revision, ch.Split), Detail: ch.Reason, URL: splitURL(ch.Split), Since: s.when(ch.Written)})
		case ch.Phase == traffic.RolledBack && recent:
			out = append(out, templates.Need{Tone: "warn", What: fmt.Sprintf("Revision %d of %s was rolled back", ch.Revision, ch.Split), Detail: ch.Outcome, URL: "/journal?change=" + ch.ID, Since: s.when(ch.Ended)})
		}
	}
	rank := map[string]int{"crit": 0, "warn": 1, "info": 2}
	slices.SortStableFunc(out, func(a, b templates.Need) int { return rank[a.Tone] - rank[b.Tone] })
	return out
}

// needsShown bounds the findings on the overview; the list has them all.
const needsShown = 12

// findingNeeds are the findings that want somebody now, and what they are about:
// the page itself sees the same sooner, and must not say it twice.
func (s *Server) findingNeeds() (map[fleet.Entity]bool, []templates.Need) {
	about := map[fleet.Entity]bool{}
	if s.Findings == nil {
		return about, nil
	}
	var out []templates.Need
	now, more := s.Now(), 0
	for _, f := range s.Findings.Open() {
		if f.Severity == fleet.Info || f.Suppressed.Active(now) {
			continue
		}
		about[f.Entity] = true
		if len(out) == needsShown {
			more++
			continue
		}
		out = append(out, templates.Need{Tone: severityTone(f.Severity), What: f.Title + ": " + entityName(f.Entity), Detail: lead(f.Text), URL: findingURL(f), Since: s.when(f.Since)})
	}
	if more > 0 {
		out = append(out, templates.Need{Tone: "warn", What: plural(more, "more finding", "more findings"), URL: "/findings"})
	}
	return about, out
}

func (s *Server) overviewTopic(ctx context.Context, _ string) (update, error) {
	v, _, err := s.overviewView(ctx)
	if err != nil {
		return update{}, err
	}
	if v.Forming != nil {
		return update{Parts: map[string]part{"forming": {templates.FormingCard(*v.Forming), ""}}, Data: whole{v.Whole}}, nil
	}
	up := update{Parts: map[string]part{
		"overview-status": {templates.Chip(v.Status), ""},
		"needs":           {templates.NeedList(v), needsShape(v.Needs)},
		"split-health":    {templates.SplitHealth(v), splitsShape(v.Splits)},
		"latest":          {templates.ChangeList(v.Changes, "Nothing was changed yet."), changesShape(v.Changes)},
		"events":          {templates.EventList(v.Events), strconv.Itoa(len(v.Events)) + lastEvent(v.Events)},
	}}
	up.Text, up.Attr = splitsText(v.Splits)
	up.Text["overview/sub"] = v.Sub
	kpiText(up, v.KPIs)
	up.Data = whole{v.Whole}
	return up, nil
}

// whole is the data of a tick that makes a page load anew when it consists of
// other parts than it was drawn with.
type whole struct {
	Whole string `json:"whole"`
}

func needsShape(ns []templates.Need) string {
	var b strings.Builder
	for _, n := range ns {
		fmt.Fprint(&b, n.Tone, n.What, "\x00", n.URL, "\x00", n.Since.ISO, "\x00")
	}
	return b.String()
}

func lastEvent(es []templates.EventRow) string {
	if len(es) == 0 {
		return "none"
	}
	return es[0].At.ISO + es[0].Text
}
