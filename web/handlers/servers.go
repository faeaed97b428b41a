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

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

func serverRoutes(s *Server, e *echo.Echo) {
	page(e, "/servers", serverPages.show(s))
	e.GET("/servers/:name", s.showServer)
}

func serverURL(name string) string { return "/servers/" + url.PathEscape(name) }

// serverRow is a server with its traffic.
type serverRow struct {
	*fleet.Server
	rate  fleet.LinkRate
	known bool // the rate is measured
	key   string
	leads int // streams
	twin  bool
}

var serverPages = collection[serverRow]{
	id: navServers, title: "Servers", icon: navServers, placeholder: "server or cluster", none: "No server was seen yet.",
	own: []string{"cluster"}, list: (*Server).serverList, rows: (*Server).serverRows, sub: (*Server).serverSum,
	filters: func(s *Server, a listArgs) []templates.ListFilter {
		return []templates.ListFilter{oneOf("cluster", "Cluster", a.rest.Get("cluster"), s.Metrics.Latest().Servers, func(x *fleet.Server) string { return x.Cluster })}
	},
	doc: func(s *Server, r *serverRow) any { return s.serverLine(r) },
}

func (s *Server) serverRows(a listArgs) []serverRow {
	snap, rates := s.Metrics.Latest(), s.Metrics.Rates()
	leads, names := map[string]int{}, map[string]int{}
	for i := range snap.Streams {
		leads[snap.Streams[i].Leader]++
	}
	for i := range snap.Servers {
		names[snap.Servers[i].Name]++
	}
	var rows []serverRow
	for i := range snap.Servers {
		srv := &snap.Servers[i]
		if c := a.rest.Get("cluster"); c != "" && srv.Cluster != c {
			continue
		}
		r := serverRow{Server: srv, key: htmlID("srv", srv.ID), leads: leads[srv.Name], twin: names[srv.Name] > 1}
		r.rate, r.known = rates.Servers[srv.Name]
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b serverRow) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Name, b.Name))
	})
	return rows
}

// serverState gives a server a shape and a word, as the topology does.
func (s *Server) serverState(srv *fleet.Server) (tone, word string) {
	sc := &scene{now: s.Now(), stale: s.staleAfter()}
	if srv.State == fleet.Unread {
		return "idle", "known from its neighbours only"
	}
	return sc.tone(srv)
}

func (s *Server) serverSum(rows []serverRow) string {
	snap := s.Metrics.Latest()
	up, conns := 0, 0
	for _, r := range rows {
		if r.State == fleet.Healthy || r.State == fleet.LameDuck {
			up++
		}
		conns += r.Conns
	}
	text := fmt.Sprintf("%d of %s up, %s.", up, plural(len(rows), "server", "servers"), count(conns, "connection"))
	if missing := snap.Expected - len(snap.Servers); missing > 0 {
		text += fmt.Sprintf(" Seen %d of %d that ever announced themselves.", len(snap.Servers), snap.Expected)
	}
	return text
}

// url leads to the server's page, or with an extension to its exports. Two of one
// name are told apart by their ids.
func (r *serverRow) url(ext string) string {
	u := serverURL(cmp.Or(r.Name, r.ID)) + ext
	if r.twin {
		u = withQuery(u, url.Values{"id": {r.ID}})
	}
	return u
}

func (r *serverRow) rateCell(name string, v float64, unit string) templates.ListCell {
	if !r.known {
		return figureCell(r.key, name, none)
	}
	return figureCell(r.key, name, figure(v, unit))
}

func (s *Server) serverList() listing[serverRow] {
	num := func(v func(*serverRow) float64) func(a, b *serverRow) int {
		return func(a, b *serverRow) int { return cmp.Compare(v(a), v(b)) }
	}
	return listing[serverRow]{
		path: "/servers",
		name: func(r *serverRow) string { return r.Name + "\n" + r.Cluster + "\n" + r.ID },
		cols: []listCol[serverRow]{
			{key: "name", label: "Server", by: func(a, b *serverRow) int { return strings.Compare(a.Name, b.Name) },
				cell: func(r *serverRow) templates.ListCell {
					c := templates.ListCell{Text: cmp.Or(r.Name, r.ID), URL: r.url(""), Small: r.Cluster}
					if r.twin {
						c.Small = strings.TrimSpace(r.Cluster + " " + r.ID)
					}
					return c
				}},
			{label: "State", cell: func(r *serverRow) templates.ListCell {
				tone, word := s.serverState(r.Server)
				return templates.ListCell{Text: word, Tone: tone, Tip: r.Error}
			}},
			{key: "version", label: "Version", by: func(a, b *serverRow) int { return strings.Compare(a.Version, b.Version) },
				cell: func(r *serverRow) templates.ListCell { return templates.ListCell{Text: cmp.Or(r.Version, none)} }},
			{key: "up", label: "Up", right: true, down: true, by: func(a, b *serverRow) int { return b.Start.Compare(a.Start) },
				cell: func(r *serverRow) templates.ListCell { return figureCell(r.key, "up", s.upFor(r.Server)) }},
			{key: "cpu", label: "CPU %", right: true, down: true, by: num(func(r *serverRow) float64 { return r.CPU }),
				cell: func(r *serverRow) templates.ListCell { return figureCell(r.key, "cpu", figure(r.CPU, "%")) }},
			{key: "mem", label: "Memory", right: true, down: true, by: func(a, b *serverRow) int { return cmp.Compare(a.Mem, b.Mem) },
				cell: func(r *serverRow) templates.ListCell { return figureCell(r.key, "mem", bytesWords(float64(r.Mem))) }},
			{key: "conns", label: "Connections", right: true, down: true, by: func(a, b *serverRow) int { return cmp.Compare(a.Conns, b.Conns) },
				cell: func(r *serverRow) templates.ListCell {
					return figureCell(r.key, "conns", countWords(uint64(max(r.Conns, 0))))
				}},
			{key: "in", label: "In msg/s", right: true, down: true, by: num(func(r *serverRow) float64 { return r.rate.InMsgs }),
				cell: func(r *serverRow) templates.ListCell { return r.rateCell("in", r.rate.InMsgs, "msg/s") }},
			{key: "out", label: "Out msg/s", right: true, down: true, by: num(func(r *serverRow) float64 { return r.rate.OutMsgs }),
				cell: func(r *serverRow) templates.ListCell { return r.rateCell("out", r.rate.OutMsgs, "msg/s") }},
			{key: "slow", label: "Slow consumers", right: true, down: true, by: func(a, b *serverRow) int { return cmp.Compare(a.SlowConsumers, b.SlowConsumers) },
				cell: func(r *serverRow) templates.ListCell { return figureCell(r.key, "slow", countWords(r.SlowConsumers)) }},
			{key: "leads", label: "Leads streams", right: true, down: true, by: func(a, b *serverRow) int { return cmp.Compare(a.leads, b.leads) },
				cell: func(r *serverRow) templates.ListCell {
					return figureCell(r.key, "leads", countWords(uint64(r.leads)))
				}},
			{key: "store", label: "JetStream store", right: true, down: true, by: num(func(r *serverRow) float64 {
				if r.JetStream == nil {
					return -1
				}
				return float64(r.JetStream.Store)
			}),
				cell: func(r *serverRow) templates.ListCell {
					if r.JetStream == nil {
						return templates.ListCell{Text: "off"}
					}
					return figureCell(r.key, "store", bytesWords(float64(r.JetStream.Store)))
				}},
			{key: "rtt", label: "RTT", right: true, down: true, by: func(a, b *serverRow) int { return cmp.Compare(a.RTT, b.RTT) },
				cell: func(r *serverRow) templates.ListCell { return figureCell(r.key, "rtt", duration(r.RTT)) }},
		},
	}
}

// upFor is how long the server had run when it was last looked at, by its own clock.
func (s *Server) upFor(srv *fleet.Server) string {
	if srv.Start.IsZero() || srv.Now.IsZero() {
		return none
	}
	return ago(max(srv.Now.Sub(srv.Start), 0))
}

// serverLine is a server as a row of the exports.
type serverLine struct {
	Name         string       `json:"name"`
	ID           string       `json:"id"`
	Cluster      string       `json:"cluster"`
	State        string       `json:"state"`
	Error        string       `json:"error"`
	Version      string       `json:"version"`
	Host         string       `json:"host"`
	Port         int          `json:"port"`
	URL          string       `json:"monitoring_url"`
	Tags         []string     `json:"tags"`
	Start        time.Time    `json:"started"`
	Cores        int          `json:"cores"`
	CPU          float64      `json:"cpu_percent"`
	Mem          int64        `json:"memory_bytes"`
	Conns        int          `json:"connections"`
	Subs         int          `json:"subscriptions"`
	Routes       int          `json:"routes"`
	Slow         uint64       `json:"slow_consumers"`
	InMsgs       uint64       `json:"in_msgs"`
	OutMsgs      uint64       `json:"out_msgs"`
	InBytes      uint64       `json:"in_bytes"`
	OutBytes     uint64       `json:"out_bytes"`
	InMsgsRate   float64      `json:"in_msgs_per_s"`
	OutMsgsRate  float64      `json:"out_msgs_per_s"`
	InBytesRate  float64      `json:"in_bytes_per_s"`
	OutBytesRate float64      `json:"out_bytes_per_s"`
	JetStream    bool         `json:"jetstream"`
	Domain       string       `json:"jetstream_domain"`
	MemoryUsed   uint64       `json:"jetstream_memory_bytes"`
	MemoryLimit  int64        `json:"jetstream_memory_limit_bytes"`
	StoreUsed    uint64       `json:"jetstream_store_bytes"`
	StoreLimit   int64        `json:"jetstream_store_limit_bytes"`
	Streams      int          `json:"jetstream_streams"`
	Consumers    int          `json:"jetstream_consumers"`
	Messages     uint64       `json:"jetstream_messages"`
	APITotal     uint64       `json:"jetstream_api_total"`
	APIErrors    uint64       `json:"jetstream_api_errors"`
	MetaLeader   string       `json:"meta_leader"`
	LeadsStreams int          `json:"leads_streams"`
	RTT          float64      `json:"rtt_ms"`
	SkewMS       float64      `json:"clock_skew_ms"`
	At           time.Time    `json:"measured_at"`
	Source       fleet.Source `json:"source"`
}

func (s *Server) serverLine(r *serverRow) serverLine {
	if r.Server == nil {
		return serverLine{}
	}
	_, word := s.serverState(r.Server)
	d := serverLine{
		Name: r.Name, ID: r.ID, Cluster: r.Cluster, State: word, Error: r.Error, Version: r.Version, Host: r.Host, Port: r.Port, URL: r.URL, Tags: r.Tags, Start: r.Start.UTC(),
		Cores: r.Cores, CPU: r.CPU, Mem: r.Mem, Conns: r.Conns, Subs: r.Subs, Routes: r.Routes, Slow: r.SlowConsumers,
		InMsgs: r.InMsgs, OutMsgs: r.OutMsgs, InBytes: r.InBytes, OutBytes: r.OutBytes,
		InMsgsRate: r.rate.InMsgs, OutMsgsRate: r.rate.OutMsgs, InBytesRate: r.rate.InBytes, OutBytesRate: r.rate.OutBytes,
		LeadsStreams: r.leads, RTT: inMS(r.RTT), At: r.At.UTC(), Source: r.Source,
	}
	if !r.Now.IsZero() {
		d.SkewMS = inMS(r.Now.Sub(r.At))
	}
	if js := r.JetStream; js != nil {
		d.JetStream, d.Domain, d.MemoryUsed, d.MemoryLimit, d.StoreUsed, d.StoreLimit = true, js.Domain, js.Memory, js.MaxMemory, js.Store, js.MaxStore
		d.Streams, d.Consumers, d.Messages, d.APITotal, d.APIErrors, d.MetaLeader = js.Streams, js.Consumers, js.Messages, js.APITotal, js.APIErrors, js.MetaLeader
	}
	return d
}

// serverNamed finds a server by its name, or by its id where it has none or shares
// it; nil if there is none.
func (s *Server) serverNamed(name, id string) *serverRow {
	rows := s.serverRows(listArgs{rest: url.Values{}})
	var found *serverRow
	for i := range rows {
		r := &rows[i]
		if id != "" && r.ID == id {
			return r
		}
		if (r.Name == name || r.Name == "" && r.ID == name) && (found == nil || r.At.After(found.At)) {
			found = r
		}
	}
	return found
}

func serverGone(name string) error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no server %q.", name), Hint: "It may have been renamed or removed; look at the list of servers."}
}

func (s *Server) showServer(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	id := c.QueryParam("id")
	name = withoutFormat(c, name, func(n string) bool { return s.serverNamed(n, id) != nil })
	r := s.serverNamed(name, id)
	if r == nil {
		return serverGone(name)
	}
	if format(c) != "" {
		return s.exportDocs(c, "server-"+r.Name, serverLine{}, []any{s.serverLine(r)})
	}
	v, err := s.serverDetail(c.Request().Context(), r)
	if err != nil {
		return err
	}
	topic := topicServer + ":" + url.Values{"name": {r.Name}, "id": {r.ID}}.Encode()
	return s.showDetail(c, navServers, r.url(""), topic, v, chartArgs{server: r.Name},
		[]string{"server-cpu", "server-mem", "server-traffic", "server-bytes", "server-conns", "server-slow", "server-js"}, templates.Crumb{Name: "Servers", URL: "/servers"})
}

func (s *Server) serverTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the server's name: %w", err)
	}
	r := s.serverNamed(q.Get("name"), q.Get("id"))
	if r == nil {
		return update{}, serverGone(q.Get("name"))
	}
	v, err := s.serverDetail(ctx, r)
	if err != nil {
		return update{}, err
	}
	return detailUpdate(v), nil
}

// serverDetail is a server's page without its charts.
func (s *Server) serverDetail(ctx context.Context, r *serverRow) (templates.Detail, error) {
	const id = "srv"
	v := templates.Detail{ID: id, Name: cmp.Or(r.Name, r.ID), Where: cmp.Or(r.Cluster, "no cluster"), WhereURL: withQuery("/servers", url.Values{"cluster": {r.Cluster}}), Error: r.Error,
		CSV: r.url(".csv"), JSON: r.url(".json"), Download: exportURL(r.Server.Entity()), Findings: s.findingsOn(r.Server.Entity())}
	if r.Cluster == "" {
		v.WhereURL = ""
	}
	v.Status.Tone, v.Status.Word = s.serverState(r.Server)
	v.KPIs = []templates.KPI{
		{Key: id + "/cpu", Label: "CPU", Value: figure(r.CPU, "%"), Unit: "% of one core", Note: "of " + count(max(r.Cores, 1), "core")},
		{Key: id + "/mem", Label: "Memory", Value: bytesWords(float64(r.Mem))},
		{Key: id + "/conns", Label: "Connections", Value: countWords(uint64(max(r.Conns, 0))), URL: withQuery("/connections", url.Values{"server": {r.Name}})},
		{Key: id + "/in", Label: "Messages in", Value: r.rateCell("", r.rate.InMsgs, "msg/s").Text, Unit: "msg/s"},
		{Key: id + "/out", Label: "Messages out", Value: r.rateCell("", r.rate.OutMsgs, "msg/s").Text, Unit: "msg/s"},
		{Key: id + "/slow", Label: "Slow consumers", Value: countWords(r.SlowConsumers), Note: "closed since its start"},
	}
	if r.SlowConsumers > 0 {
		v.KPIs[5].Tone = "warn"
	}
	address := r.Host
	if r.Port > 0 {
		address += ":" + strconv.Itoa(r.Port)
	}
	skew := none
	if !r.Now.IsZero() {
		d := r.Now.Sub(r.At)
		switch {
		case d > time.Millisecond:
			skew = duration(d) + " ahead of ours"
		case d < -time.Millisecond:
			skew = duration(-d) + " behind ours"
		default:
			skew = "as ours"
		}
	}
	v.Cards = append(v.Cards, templates.DetailCard{ID: id + "-is", Title: "Server", Settings: []templates.Setting{
		{Name: "Version", Value: cmp.Or(r.Version, none)}, {Name: "Address", Value: cmp.Or(address, none)}, {Name: "Server id", Value: r.ID},
		{Name: "Up", Value: s.upFor(r.Server), Key: id + "/f-up"}, {Name: "Started", Value: cmp.Or(s.when(r.Start).Exact, none)}, {Name: "Tags", Value: cmp.Or(strings.Join(r.Tags, ", "), "none")},
		{Name: "Subscriptions", Value: countWords(uint64(max(r.Subs, 0))), Key: id + "/f-subs"},
		{Name: "Clock", Value: skew, Key: id + "/f-skew"}, {Name: "RTT of the request", Value: duration(r.RTT), Key: id + "/f-rtt"},
		{Name: "Measured", Value: cmp.Or(s.when(r.At).Ago, none), Key: id + "/f-at"}, {Name: "Source", Value: string(r.Source)},
	}})
	if js := r.JetStream; js != nil {
		limit := func(used uint64, most int64) string {
			if most <= 0 {
				return bytesWords(float64(used)) + ", no limit"
			}
			return fmt.Sprintf("%s of %s, %s %%", bytesWords(float64(used)), bytesWords(float64(most)), percent(float64(used)/float64(most)))
		}
		card := templates.DetailCard{ID: id + "-js", Title: "JetStream", Settings: []templates.Setting{
			{Name: "Store", Value: limit(js.Store, js.MaxStore), Key: id + "/f-store"}, {Name: "Memory", Value: limit(js.Memory, js.MaxMemory), Key: id + "/f-jsmem"},
			{Name: "Streams hosted", Value: countWords(uint64(js.Streams)), Key: id + "/f-streams"}, {Name: "Consumers hosted", Value: countWords(uint64(js.Consumers)), Key: id + "/f-consumers"},
			{Name: "Leads streams", Value: countWords(uint64(r.leads)), Key: id + "/f-leads"},
			{Name: "Messages", Value: countWords(js.Messages), Key: id + "/f-msgs"},
			{Name: "API requests", Value: countWords(js.APITotal), Key: id + "/f-api"}, {Name: "API errors", Value: countWords(js.APIErrors), Key: id + "/f-apierr"},
			{Name: "Domain", Value: cmp.Or(js.Domain, "none")}, {Name: "Meta leader", Value: metaWords(js), Key: id + "/f-meta"},
		}}
		if js.MetaLeader == r.Name {
			card.Sub = "leads the meta group"
			card.Replicas = replicaRows(js.MetaLeader, js.MetaReplicas)
		}
		v.Cards = append(v.Cards, card)
	}
	if in := r.Internals; in != nil {
		v.Cards = append(v.Cards, templates.DetailCard{ID: id + "-in", Title: "Subscriptions", Sub: "its table of them, read about once a minute", Settings: []templates.Setting{
			{Name: "Subscriptions", Value: countWords(uint64(max(in.Subs.Subs, 0))), Key: id + "/f-table"},
			{Name: "Cached", Value: countWords(uint64(max(in.Subs.Cached, 0))), Key: id + "/f-cached"},
			{Name: "Cache hits", Value: percent(in.Subs.CacheHits) + " %", Key: id + "/f-hits"},
			{Name: "Fan-out, mean and most", Value: fmt.Sprintf("%.1f, %d", in.Subs.AvgFanout, in.Subs.MaxFanout), Key: id + "/f-fan"},
			{Name: "Read", Value: cmp.Or(s.when(in.At).Ago, none), Key: id + "/f-in"},
		}})
		if r.JetStream != nil {
			v.Cards = append(v.Cards, raftCard(id, in.Raft))
		}
	}
	v.Tables = append(v.Tables, s.linksOf(r.Server))
	if r.Internals != nil {
		v.Tables = append(v.Tables, queueTable(r.Internals.Queues))
	}
	if r.leads > 0 {
		v.Tables = append(v.Tables, streamPages.part(s, "srv-streams", "Streams it leads", url.Values{"server": {r.Name}, "sort": {"-rate"}}))
	}
	v.Commands = r.commands()
	var err error
	v.Events, err = s.eventsOf(ctx, func(e *fleet.Event) bool { return e.Entity == r.Name || e.Entity == r.ID })
	return v, err
}

// metaWords say who leads the group that places streams.
func metaWords(js *fleet.JetStream) string {
	if js.MetaLeader == "" && js.MetaSize == 0 {
		return "none: it stands alone"
	}
	return cmp.Or(js.MetaLeader, "none: an election runs")
}

// raftCard sums the Raft groups that a server takes part in.
func raftCard(id string, t fleet.RaftTotals) templates.DetailCard {
	lag := "none"
	if t.MaxLag > 0 {
		lag = fmt.Sprintf("%s in %s", countWords(t.MaxLag), cmp.Or(t.MaxLagOf, "one group"))
	}
	card := templates.DetailCard{ID: id + "-raft", Title: "Raft groups", Sub: "that it takes part in, read about once a minute", Settings: []templates.Setting{
		{Name: "Groups", Value: countWords(uint64(max(t.Groups, 0))), Key: id + "/f-groups"}, {Name: "Leads", Value: countWords(uint64(max(t.Leading, 0))), Key: id + "/f-leading"},
		{Name: "Without a leader", Value: countWords(uint64(max(t.Leaderless, 0))), Key: id + "/f-leaderless"}, {Name: "Catching up", Value: countWords(uint64(max(t.CatchingUp, 0))), Key: id + "/f-catching"},
		{Name: "Committed, not applied yet", Value: lag, Key: id + "/f-raftlag"}, {Name: "Entries in queues", Value: countWords(uint64(max(t.Waiting, 0))), Key: id + "/f-raftwait"},
	}}
	if t.Groups == 0 {
		card.Settings, card.Sub = []templates.Setting{{Name: "Groups", Value: "none: nothing here is replicated", Key: id + "/f-groups"}}, ""
	}
	return card
}

// queueTable lists a server's own queues, those with the most waiting.
func queueTable(queues []fleet.ServerQueue) templates.DetailTable {
	t := templates.DetailTable{ID: "srv-queues", Title: "Queues inside", Sub: "those with the most waiting, read about once a minute",
		Table: templates.ListTable{Label: "Queues inside", Icon: "check", Empty: "Nothing waits", EmptyText: "No queue inside the server holds anything back."}}
	heads := []string{"Queue", "Waiting", "In progress"}
	for i, h := range heads {
		t.Table.Cols = append(t.Table.Cols, templates.ListCol{Label: h, Right: i > 0})
	}
	for _, q := range queues {
		key := htmlID("que", q.Name)
		row := []templates.ListCell{{Text: q.Name}, figureCell(key, "waiting", countWords(uint64(max(q.Pending, 0)))), figureCell(key, "busy", countWords(uint64(max(q.InProgress, 0))))}
		for i := range row {
			row[i].Label, row[i].Right = heads[i], i > 0
		}
		t.Table.Rows = append(t.Table.Rows, templates.ListRow{Cells: row})
	}
	return t
}

// givenName is the name in the server's own configuration: a second one of a name
// is shown with its cluster or the beginning of its id.
func givenName(srv *fleet.Server) string {
	if name, ok := strings.CutSuffix(srv.Name, "@"+srv.Cluster); ok && srv.Cluster != "" {
		return name
	}
	if i := strings.LastIndexByte(srv.Name, '#'); i > 0 && len(srv.Name)-i == 9 && strings.HasPrefix(srv.ID, srv.Name[i+1:]) {
		return srv.Name[:i]
	}
	return srv.Name
}

// commands ask and do by hand what concerns the server. By its name all servers of
// it are asked, by its id this one alone.
func (r *serverRow) commands() []templates.Command {
	given := givenName(r.Server)
	name := given
	if name == "" || r.twin || given != r.Name {
		name = r.ID
	}
	cmds := commandList{}
	cmds.ask("What it is", "nats server info", name)
	cmds.ask("Its connections, those that wait most first", "nats server request connections --sort=pending --name=", given)
	cmds.ask("Its routes", "nats server request routes --name=", given)
	if r.JetStream != nil {
		cmds.ask("Its JetStream", "nats server request jetstream --accounts --name=", given)
		cmds.ask("What it says is wrong with it", "nats server request jetstream-health --name=", given)
	}
	if r.URL != "" {
		cmds.ask("Its Raft groups", "curl -s", r.URL+"/raftz")
	}
	cmds.act("Read its configuration file anew", "nats server config reload", r.ID)
	if js := r.JetStream; js != nil && r.Name != "" && js.MetaLeader == r.Name && js.MetaSize > 1 {
		cmds.act("Let another server lead the meta group", "nats server cluster step-down")
	}
	cmds.act("Lame duck: it sends its clients elsewhere and ends. On its own machine", "nats-server --signal ldm")
	return cmds
}

// linksOf are the server's routes, gateways and leaf nodes.
func (s *Server) linksOf(srv *fleet.Server) templates.DetailTable {
	snap, rates := s.Metrics.Latest(), s.Metrics.Rates()
	t := templates.DetailTable{ID: "srv-links", Title: "Links", Table: templates.ListTable{Label: "Links", Icon: "topology", Empty: "No links", EmptyText: "The server stands alone, or its links were not read."}}
	heads := []string{"To", "Kind", "RTT", "Waiting", "In msg/s", "Out msg/s"}
	for i, h := range heads {
		t.Table.Cols = append(t.Table.Cols, templates.ListCol{Label: h, Right: i > 1})
	}
	add := func(kind, to, toURL, small, waiting string, rtt time.Duration, r fleet.LinkRate, known bool) {
		key := htmlID("lnk", kind+"\x00"+to+"\x00"+small)
		rate := func(name string, v float64) templates.ListCell {
			if !known {
				return figureCell(key, name, none)
			}
			return figureCell(key, name, figure(v, "msg/s"))
		}
		row := templates.ListRow{Cells: []templates.ListCell{{Text: to, URL: toURL, Small: small}, {Text: kind},
			figureCell(key, "rtt", duration(rtt)), figureCell(key, "wait", waiting), rate("in", r.InMsgs), rate("out", r.OutMsgs)}}
		for i := range row.Cells {
			row.Cells[i].Label, row.Cells[i].Right = heads[i], i > 1
		}
		t.Table.Rows = append(t.Table.Rows, row)
	}
	n := map[string]int{}
	// A pair of servers may have a route for all and others for single accounts;
	// its rates are of all of them together.
	type pair struct {
		name     string
		accounts []string
		pending  int64
		rtt      time.Duration
	}
	var pairs []string
	routes := map[string]*pair{}
	for _, x := range snap.Routes {
		if x.From != srv.ID {
			continue
		}
		p := routes[x.To]
		if p == nil {
			p = &pair{name: cmp.Or(x.ToName, x.To)}
			routes[x.To], pairs = p, append(pairs, x.To)
		}
		if x.Account != "" {
			p.accounts = append(p.accounts, x.Account)
		}
		p.pending, p.rtt = p.pending+x.Pending, max(p.rtt, x.RTT)
	}
	for _, to := range pairs {
		p := routes[to]
		n["route"]++
		small := ""
		if len(p.accounts) > 0 {
			small = "one of its own for " + strings.Join(p.accounts, ", ")
		}
		rate, known := rates.Routes[[2]string{srv.ID, to}]
		add("route", p.name, serverURL(p.name), small, bytesWords(float64(p.pending)), p.rtt, rate, known)
	}
	for _, x := range snap.Gateways {
		if x.From != srv.ID {
			continue
		}
		n["gateway"]++
		rate, known := rates.Gateways[[2]string{x.From, x.ToCluster}]
		add("gateway", x.ToCluster, withQuery("/servers", url.Values{"cluster": {x.ToCluster}}), "", none, x.RTT, rate, known)
	}
	for _, x := range snap.Leafs {
		if x.Server != srv.ID {
			continue
		}
		n["leaf node"]++
		rate, known := rates.Leafs[[2]string{x.Server, x.Name}]
		add("leaf node", x.Name, "", strings.TrimSpace(x.Account+" "+x.IP), none, x.RTT, rate, known)
	}
	var sum []string
	for _, k := range []string{"route", "gateway", "leaf node"} {
		if n[k] > 0 {
			sum = append(sum, count(n[k], k))
		}
	}
	t.Sub = strings.Join(sum, ", ")
	return t
}

func serverEntity(a chartArgs) fleet.Entity {
	return fleet.Entity{Kind: fleet.KindServer, Key: a.server}
}
