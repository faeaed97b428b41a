package handlers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// detailEvents is how many events the page of one thing has room for.
const detailEvents = 12

// eventsOf are the newest events of the last day that are about it.
func (s *Server) eventsOf(ctx context.Context, about func(*fleet.Event) bool) ([]templates.EventRow, error) {
	now := s.Now()
	events, err := s.Metrics.Events(ctx, fleet.Range{From: now.Add(-24 * time.Hour), To: now}, 2000)
	if err != nil {
		return nil, fmt.Errorf("events of the last day: %w", err)
	}
	var rows []templates.EventRow
	for i := range events {
		if e := &events[i]; about(e) && len(rows) < detailEvents {
			rows = append(rows, templates.EventRow{Tone: severityTone(e.Severity), Entity: e.Entity, Text: e.Text, At: s.when(e.At)})
		}
	}
	return rows, nil
}

// showDetail answers with the page of one thing; topic is its live stream.
func (s *Server) showDetail(c echo.Context, nav, path, topic string, v templates.Detail, a chartArgs, charts []string, crumbs ...templates.Crumb) error {
	span, err := s.rangeOf(c)
	if err != nil {
		return err
	}
	a.span = span
	if v.Charts, err = s.charts(c.Request().Context(), a, charts...); err != nil {
		return err
	}
	if len(topic) > maxTopicName {
		topic = ""
	}
	f := follow(s.frame(c, v.Name, nav, append(crumbs, templates.Crumb{Name: v.Name})...), topic)
	f.Charts, f.Range = true, span.choices(path)
	page := templates.DetailPage(f, v)
	return show(c, page, page)
}

// sparkSpan is what the small charts of a thing's figures show: the present, also
// while its charts look further back.
const sparkSpan = 15 * time.Minute

// kpiSparks draws under a thing's figures what they did lately; cols are the
// columns of its series by the figures' keys.
func (s *Server) kpiSparks(ctx context.Context, e fleet.Entity, kpis []templates.KPI, cols map[string]string) error {
	now := s.Now()
	span := timeRange{Range: fleet.Range{From: now.Add(-sparkSpan), To: now}, Key: "15m"}
	for i := range kpis {
		k := &kpis[i]
		col, ok := cols[k.Key]
		if !ok {
			continue
		}
		l, err := share(ctx, s, fmt.Sprintf("spark %q %s", e, col), func(ctx context.Context) (line, error) {
			l, _, err := s.series(ctx, e, col, chartArgs{span: span, points: sparkPoints})
			return l, err
		})
		if err != nil {
			return fmt.Errorf("column %s of %s: %w", col, e.Key, err)
		}
		k.Spark = sparkline(k.Label+" in the last 15 minutes", chart{lines: []line{l}}.join(plus))
		k.Spark.ID = "spark:" + k.Key
	}
	return nil
}

// detailUpdate is the page of one thing as its live stream shows it.
func detailUpdate(v templates.Detail) update {
	findings, events := "findings", "events"
	for _, n := range v.Findings {
		findings += "\x00" + n.Tone + n.What + n.Detail
	}
	for _, e := range v.Events {
		events += "\x00" + e.At.ISO + e.Text
	}
	up := update{Text: map[string]string{}, Attr: map[string]string{}, Parts: map[string]part{
		v.ID + "-status":   {templates.Chip(v.Status), v.Status.Tone + v.Status.Word},
		v.ID + "-findings": {templates.DetailFindings(v), findings},
		v.ID + "-events":   {templates.EventList(v.Events), events},
	}}
	kpiText(up, v.KPIs)
	for _, card := range v.Cards {
		for _, f := range card.Settings {
			if f.Key != "" {
				up.Text[f.Key] = f.Value
			}
		}
		if len(card.Bars) > 0 {
			up.Parts[card.ID+"-bars"] = part{templates.Bars(card.Bars), fmt.Sprint(card.Bars)}
		}
		if len(card.Replicas) > 0 {
			up.Parts[card.ID+"-replicas"] = part{templates.Replicas(card.Replicas), fmt.Sprint(card.Replicas)}
		}
	}
	for _, t := range v.Tables {
		table := listUpdate(t.ID, t.Sub, t.Table)
		for k, text := range table.Text {
			up.Text[k] = text
		}
		up.Parts[t.ID] = table.Parts[t.ID]
	}
	return up
}

// withoutFormat is a path's last name without the .csv or .json of its export, if
// a thing of the whole name does not exist.
func withoutFormat(c echo.Context, name string, exists func(string) bool) string {
	if f := format(c); f != "" && !exists(name) {
		return strings.TrimSuffix(name, "."+f)
	}
	return name
}

// columnsChart draws columns of one thing.
func columnsChart(title, unit, note string, of func(chartArgs) fleet.Entity, cols ...[2]string) func(*Server, context.Context, chartArgs) (chart, error) {
	return func(s *Server, ctx context.Context, a chartArgs) (chart, error) {
		c := chart{title: title, unit: unit, note: note}
		for i, col := range cols {
			l, u, err := s.series(ctx, of(a), col[1], a)
			if err != nil {
				return chart{}, fmt.Errorf("column %s: %w", col[1], err)
			}
			if unit == "" {
				c.unit = u
			}
			l.label, l.color = col[0], targetColor(i)
			c.lines = append(c.lines, l)
		}
		return c, nil
	}
}
