package handlers

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// What watching costs: the servers that are asked, the network between, and the
// disk of the console.
func costRoutes(s *Server, e *echo.Echo) { page(e, "/cost", s.showCost) }

func watchEntity(chartArgs) fleet.Entity { return fleet.WatchEntity }

// tierWords are how often each tier is asked, at the collector's interval.
func (s *Server) tierWords(t fleet.Tier) string {
	switch t {
	case fleet.Fast:
		return "every " + duration(s.Interval)
	case fleet.Normal:
		return "every few rounds"
	}
	return "about once a minute"
}

// costLine is a tier of the last round as a row of the exports.
type costLine struct {
	Tier     string    `json:"tier"`
	Asked    string    `json:"asked"`
	Requests int       `json:"requests"`
	Bytes    int64     `json:"bytes"`
	CPU      float64   `json:"servers_cpu_ms_estimate"`
	At       time.Time `json:"at"`
}

func (s *Server) costLines() []any {
	snap := s.Metrics.Latest()
	lines := make([]any, fleet.Tiers)
	for t := range fleet.Tiers {
		c := snap.Cost.By[t]
		lines[t] = costLine{t.String(), s.tierWords(t), c.Requests, c.Bytes, inMS(c.ServerCPU), snap.TakenAt.UTC()}
	}
	return lines
}

func (s *Server) showCost(c echo.Context) error {
	if format(c) != "" {
		return s.exportDocs(c, "cost-of-watching", costLine{}, s.costLines())
	}
	v, err := s.costDetail(c.Request().Context())
	if err != nil {
		return err
	}
	return s.showDetail(c, navCost, "/cost", topicCost, v, chartArgs{}, []string{"cost-requests", "cost-bytes", "cost-cpu", "cost-time", "cost-samples", "cost-problems"})
}

func (s *Server) costTopic(ctx context.Context, _ string) (update, error) {
	v, err := s.costDetail(ctx)
	if err != nil {
		return update{}, err
	}
	return detailUpdate(v), nil
}

func (s *Server) costDetail(ctx context.Context) (templates.Detail, error) {
	const id = "cost"
	snap := s.Metrics.Latest()
	cost, in := snap.Cost, snap.Intake
	usage, err := share(ctx, s, "store usage", s.Metrics.Usage)
	if err != nil {
		return templates.Detail{}, err
	}
	v := templates.Detail{ID: id, Name: "Cost of watching", CSV: "/cost.csv", JSON: "/cost.json", Download: exportURL(fleet.WatchEntity)}
	v.Status = templates.Status{Tone: "ok", Word: "all of it is watched"}
	switch {
	case snap.TakenAt.IsZero():
		v.Status = templates.Status{Tone: "stale", Word: "no data yet"}
	case in.Every > 1:
		v.Status = templates.Status{Tone: "warn", Word: fmt.Sprintf("1 of %d ACK samples is counted", in.Every)}
	case len(snap.Problems) > 0:
		v.Status = templates.Status{Tone: "warn", Word: plural(len(snap.Problems), "source does", "sources do") + " not answer"}
	}
	v.KPIs = []templates.KPI{
		{Key: id + "/requests", Label: "Requests, last round", Value: countWords(uint64(max(cost.Requests, 0)))},
		{Key: id + "/bytes", Label: "Read, last round", Value: bytesWords(float64(cost.Bytes))},
		{Key: id + "/took", Label: "Time, last round", Value: duration(cost.Took), Note: "of " + duration(s.Interval)},
		{Key: id + "/cpu", Label: "Servers' CPU, last round", Value: cmp.Or(duration(cost.ServerCPU()), none), Note: "estimate"},
		{Key: id + "/samples", Label: "ACK samples", Value: figure(in.PerSecond, "msg/s"), Unit: "per s"},
		{Key: id + "/file", Label: "Disk", Value: bytesWords(float64(usage.File + usage.Log)), Note: "of " + bytesWords(float64(usage.Limit))},
	}
	v.Cards = append(v.Cards, templates.DetailCard{ID: id + "-store", Title: "Store", Sub: "metrics.db", Settings: []templates.Setting{
		{Name: "File", Value: bytesWords(float64(usage.File)), Key: id + "/f-file"}, {Name: "Free in it", Value: bytesWords(float64(usage.Free)), Key: id + "/f-free"},
		{Name: "Write-ahead log", Value: bytesWords(float64(usage.Log)), Key: id + "/f-log"}, {Name: "Limit", Value: bytesWords(float64(usage.Limit)) + ", then the finest and oldest goes first"},
		{Name: "Things recorded now", Value: countWords(uint64(max(usage.Entities, 0))), Key: id + "/f-things"}, {Name: "Series of these", Value: countWords(uint64(max(usage.Series, 0))), Key: id + "/f-series"},
		{Name: "Slots not sealed yet", Value: countWords(uint64(max(usage.Unsealed, 0))), Key: id + "/f-slots"},
	}})
	intake := templates.DetailCard{ID: id + "-intake", Title: "ACK samples", Sub: "since the console was started", Settings: []templates.Setting{
		{Name: "Counted", Value: countWords(in.Counted), Key: id + "/f-counted"}, {Name: "Passed over", Value: countWords(in.Passed), Key: id + "/f-passed"},
		{Name: "Lost before they were read", Value: countWords(in.Dropped), Key: id + "/f-dropped"}, {Name: "Waiting", Value: countWords(uint64(max(in.Waiting, 0))), Key: id + "/f-waiting"},
		{Name: "Counted are", Value: intakeWords(in), Key: id + "/f-every"},
		{Name: "Listened to", Value: hearingWords(in), Key: id + "/f-share"},
	}}
	v.Cards = append(v.Cards, intake)
	v.Tables = append(v.Tables, s.tierTable(), s.problemTable())
	v.Events, err = s.eventsOf(ctx, func(e *fleet.Event) bool {
		return strings.HasPrefix(e.Kind, "acks.") || strings.HasPrefix(e.Kind, "store.")
	})
	return v, err
}

// intakeWords say which share of the samples is counted.
func intakeWords(in fleet.Intake) string {
	if in.Whole() {
		return "all that arrive"
	}
	return fmt.Sprintf("every %dth, since %s: more arrive than can be counted", in.Every, in.Since.UTC().Format("15:04:05 UTC"))
}

// hearingWords say whether samples are listened to in turns.
func hearingWords(in fleet.Intake) string {
	if in.Share == 0 || in.Share == 1 {
		return "all the time"
	}
	return fmt.Sprintf("%.0f %% of the time, to spare the servers; all the time where a split sends or a consumer is measured", 100*in.Share)
}

func (s *Server) tierTable() templates.DetailTable {
	t := templates.DetailTable{ID: "cost-tiers", Title: "What is asked how often", Sub: "the last round", Table: templates.ListTable{Label: "Tiers", Icon: navCost}}
	heads := []string{"Tier", "Asked", "Requests", "Read", "Servers' CPU, estimate"}
	for i, h := range heads {
		t.Table.Cols = append(t.Table.Cols, templates.ListCol{Label: h, Right: i > 1})
	}
	snap := s.Metrics.Latest()
	for tier := range fleet.Tiers {
		c, key := snap.Cost.By[tier], "tier-"+tier.String()
		row := []templates.ListCell{{Text: tier.String()}, {Text: s.tierWords(tier)}, figureCell(key, "requests", countWords(uint64(max(c.Requests, 0)))),
			figureCell(key, "bytes", bytesWords(float64(c.Bytes))), figureCell(key, "cpu", duration(c.ServerCPU))}
		for i := range row {
			row[i].Label, row[i].Right = heads[i], i > 1
		}
		t.Table.Rows = append(t.Table.Rows, templates.ListRow{Cells: row})
	}
	return t
}

func (s *Server) problemTable() templates.DetailTable {
	t := templates.DetailTable{ID: "cost-problems", Title: "What does not answer", Table: templates.ListTable{Label: "Problems", Icon: "check", Empty: "Everything answers", EmptyText: "All sources that Ballast knows were read in the last round."}}
	heads := []string{"Source", "What", "Since"}
	for _, h := range heads {
		t.Table.Cols = append(t.Table.Cols, templates.ListCol{Label: h})
	}
	for _, p := range s.Metrics.Latest().Problems {
		row := []templates.ListCell{{Text: p.Where, Tone: "warn"}, {Text: p.What, Small: p.Hint, Wrap: true}, {Text: cmp.Or(s.when(p.Since).Exact, none)}}
		for i := range row {
			row[i].Label = heads[i]
		}
		t.Table.Rows = append(t.Table.Rows, templates.ListRow{Cells: row})
	}
	return t
}
