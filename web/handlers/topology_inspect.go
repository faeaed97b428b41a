package handlers

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"ballast/fleet"
	"ballast/web/templates"
)

// inspector shows the chosen server, or the whole when none is chosen.
func (s *Server) inspector(ctx context.Context, sc *scene) (templates.Inspector, error) {
	if sc.server == "" {
		return sc.whole(), nil
	}
	i := slices.IndexFunc(sc.snap.Servers, func(srv fleet.Server) bool { return srv.Name == sc.server })
	if i < 0 {
		return templates.Inspector{}, &fleet.Error{Kind: fleet.NotFound, Msg: "No server of this name was seen.", Hint: "It may have been renamed; the map shows those that there are."}
	}
	v := sc.inspect(&sc.snap.Servers[i])
	span := timeRange{fleet.Range{From: sc.now.Add(-15 * time.Minute), To: sc.now}, "15m"}
	var err error
	v.Charts, err = s.charts(ctx, chartArgs{server: sc.server, span: span}, "server-cpu", "server-msgs")
	return v, err
}

func (sc *scene) whole() templates.Inspector {
	v := templates.Inspector{Title: "The system"}
	v.Tone, _ = sc.head()
	v.State = "seen " + ago(max(sc.now.Sub(sc.snap.TakenAt), 0)) + " ago"
	jetStream, grouped := 0, false
	for _, srv := range sc.snap.Servers {
		if srv.JetStream != nil {
			jetStream++
			grouped = grouped || srv.JetStream.MetaSize > 0
		}
	}
	metas := "none: an election runs"
	switch {
	case jetStream == 0:
		metas = "none: JetStream is off"
	case !grouped:
		metas = "none: no server with JetStream is in a cluster"
	}
	if len(sc.metas) > 0 {
		var names []string
		for name := range sc.metas {
			names = append(names, name)
		}
		slices.Sort(names)
		metas = strings.Join(names, ", ")
	}
	cost := sc.snap.Cost
	v.Facts = []templates.Fact{
		{Name: "Servers", Value: strconv.Itoa(len(sc.snap.Servers))},
		{Name: "With JetStream", Value: strconv.Itoa(jetStream)},
		{Name: "Meta leader", Value: metas},
		{Name: "Streams", Value: humanize.Comma(int64(len(sc.snap.Streams)))},
		{Name: "Consumers", Value: humanize.Comma(int64(len(sc.snap.Consumers)))},
		{Name: "Accounts", Value: humanize.Comma(int64(len(sc.snap.Accounts)))},
		{Name: "Cost of watching", Value: fmt.Sprintf("%s, %s, %s a round", count(cost.Requests, "request"), bytesWords(float64(cost.Bytes)), duration(cost.Took))},
	}
	clusters := templates.FactGroup{Head: "Clusters", Cols: []string{"Cluster", "Servers", "Routes", "In msg/s"}, None: "None was seen."}
	for _, c := range sc.layout.Clusters {
		row := templates.FactRow{Cells: []string{clusterName(c.Key), strconv.Itoa(len(c.Servers)), fmt.Sprintf("%d/%d", c.Routes, c.Pairs), strings.TrimSuffix(sc.clusterRate(c), " msg/s")},
			URL: sc.with(func(a *topoArgs) { a.filter = c.Key }) + "#servers"}
		if c.Routes < c.Pairs {
			row.Tone = "warn"
		}
		clusters.Rows = append(clusters.Rows, row)
	}
	v.Groups = append(v.Groups, clusters)
	if len(sc.snap.Problems) > 0 {
		g := templates.FactGroup{Head: "Not answered", Cols: []string{"Where", "Since"}}
		for _, p := range sc.snap.Problems {
			since := "–"
			if !p.Since.IsZero() {
				since = ago(max(sc.now.Sub(p.Since), 0))
			}
			g.Rows = append(g.Rows, templates.FactRow{Cells: []string{p.Where + ": " + p.What, since}, Tone: "warn"})
		}
		v.Groups = append(v.Groups, g)
	}
	return v
}

func (sc *scene) inspect(srv *fleet.Server) templates.Inspector {
	id := "topo." + serverID(srv)
	r, now := sc.rates.Servers[srv.Name], sc.figures(srv)
	v := templates.Inspector{Title: srv.Name, Close: sc.with(func(a *topoArgs) { a.server = "" }), Error: srv.Error}
	v.Tone, v.State = sc.tone(srv)
	measured := fmt.Sprintf("%s ago, by %s", ago(max(sc.now.Sub(srv.At), 0)), srv.Source)
	address := srv.Host
	if srv.Port > 0 {
		address += ":" + strconv.Itoa(srv.Port)
	}
	v.Facts = []templates.Fact{
		{Name: "Cluster", Value: clusterName(srv.Cluster)},
		{Name: "Address", Value: cmp.Or(address, "–")},
		{Name: "Version", Value: cmp.Or(srv.Version, "–")},
		{Name: "Up", Value: now.up, Title: "since " + srv.Start.UTC().Format(time.RFC3339)},
		{Name: "Measured", Value: measured},
		{Name: "CPU", Value: now.cpu, Key: id + ".cpu", Title: fmt.Sprintf("%.1f %% of one core, %s", srv.CPU, count(max(srv.Cores, 1), "core"))},
		{Name: "Memory", Value: now.mem, Key: id + ".mem"},
		{Name: "Connections", Value: now.conns, Key: id + ".conns"},
		{Name: "Subscriptions", Value: humanize.Comma(int64(srv.Subs))},
		{Name: "In msg/s", Value: now.in, Key: id + ".in", Title: bytesWords(r.InBytes) + "/s"},
		{Name: "Out msg/s", Value: now.out, Key: id + ".out", Title: bytesWords(r.OutBytes) + "/s"},
		{Name: "RTT of the request", Value: now.rtt},
		{Name: "Slow consumers", Value: humanize.Comma(int64(srv.SlowConsumers)), Title: "connections closed for reading too slowly since its start"},
	}
	if skew := srv.Now.Sub(srv.At); !srv.Now.IsZero() && (skew > 500*time.Millisecond || skew < -500*time.Millisecond) {
		which := "ahead of ours"
		if skew < 0 {
			which, skew = "behind ours", -skew
		}
		v.Facts = append(v.Facts, templates.Fact{Name: "Clock", Value: duration(skew) + " " + which})
	}
	if js := srv.JetStream; js != nil {
		role := "follower"
		switch {
		case sc.metas[srv.Name]:
			role = "meta leader"
		case js.MetaLeader == "":
			role = "no meta leader known"
		}
		v.Facts = append(v.Facts,
			templates.Fact{Name: "JetStream", Value: role},
			templates.Fact{Name: "Stored", Value: bytesWords(float64(js.Store)) + " on disk, " + bytesWords(float64(js.Memory)) + " in memory"},
			templates.Fact{Name: "API", Value: fmt.Sprintf("%s requests, %s errors", humanize.Comma(int64(js.APITotal)), humanize.Comma(int64(js.APIErrors)))})
	}
	here := templates.FactGroup{Head: "Targets served here", Cols: []string{"Target", "Set", "Observed", "ACK p99"}, None: "No target's consumer is led here."}
	for _, sp := range sc.splits {
		for _, t := range sp.targets {
			if t.host == srv.Name {
				here.Rows = append(here.Rows, templates.FactRow{URL: splitURL(sp.Name), Cells: []string{sp.Name + " / " + t.Name, fmt.Sprintf("%d %%", t.Weight), seenText(t.seen), p99Text(t)}})
			}
		}
	}
	streams := templates.FactGroup{Head: "Streams led", Cols: []string{"Stream", "Messages", "Replicas"}, None: "None."}
	for _, st := range sc.snap.Streams {
		if st.Leader == srv.Name {
			lag := ""
			for _, p := range st.Peers {
				if !p.Current || p.Offline {
					lag = "warn"
				}
			}
			streams.Rows = append(streams.Rows, templates.FactRow{Tone: lag, Cells: []string{st.Account + " / " + st.StreamKey.Stream, humanize.Comma(int64(st.Messages)), strconv.Itoa(max(st.Replicas, 1))}})
		}
	}
	routes := templates.FactGroup{Head: "Routes", Cols: []string{"To", "RTT", "Waiting"}, None: "None."}
	for _, rt := range sc.snap.Routes {
		if rt.From == srv.ID {
			to := cmp.Or(sc.nameOf[rt.To], rt.ToName)
			routes.Rows = append(routes.Rows, templates.FactRow{URL: sc.with(func(a *topoArgs) { a.server = to }), Cells: []string{to, duration(rt.RTT), bytesWords(float64(rt.Pending))}})
		}
	}
	v.Groups = []templates.FactGroup{here, limitRows(streams, 12), limitRows(routes, 12)}
	v.Links = []templates.Choice{{Label: "CPU chart", URL: "/charts/server-cpu?server=" + url.QueryEscape(srv.Name)}, {Label: "Memory chart", URL: "/charts/server-mem?server=" + url.QueryEscape(srv.Name)},
		{Label: "Connections chart", URL: "/charts/server-conns?server=" + url.QueryEscape(srv.Name)}}
	return v
}

// limitRows keeps a side panel short; the exports have everything.
func limitRows(g templates.FactGroup, n int) templates.FactGroup {
	if more := len(g.Rows) - n; more > 0 {
		g.Rows = g.Rows[:n]
		g.Head += fmt.Sprintf(" (%d more)", more)
	}
	return g
}
