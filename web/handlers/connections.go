package handlers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

func connectionRoutes(s *Server, e *echo.Echo) {
	page(e, "/connections", connectionPages.show(s))
	page(e, "/connections/sums", connectionSumPages.show(s))
}

var connectionViews = [][2]string{{"The busiest", "/connections"}, {"Sums by server and account", "/connections/sums"}}

// connRow is a connection with the name of its server.
type connRow struct {
	*fleet.Conn
	server string
	key    string
}

// The servers have thousands of connections: the busiest are listed one by one,
// all of them are counted.
var connectionPages = collection[connRow]{
	id: navConnections, title: "Connections", icon: navConnections, placeholder: "connection, account, user or address", none: "No connection was read yet.",
	views: connectionViews, noted: true, own: []string{"server", "account"}, list: (*Server).connList, rows: (*Server).connRows, sub: (*Server).connSum,
	filters: func(s *Server, a listArgs) []templates.ListFilter {
		all := s.connRows(listArgs{})
		return []templates.ListFilter{
			oneOf("server", "Server", a.rest.Get("server"), all, func(r *connRow) string { return r.server }),
			oneOf("account", "Account", a.rest.Get("account"), all, func(r *connRow) string { return r.Account }),
		}
	},
	doc: func(_ *Server, r *connRow) any { return connLineOf(r) },
}

// serverNames are the names of the servers by their ids.
func (s *Server) serverNames() map[string]string {
	names := map[string]string{}
	for _, srv := range s.Metrics.Latest().Servers {
		names[srv.ID] = cmp.Or(srv.Name, srv.ID)
	}
	return names
}

func (s *Server) connRows(a listArgs) []connRow {
	snap, names := s.Metrics.Latest(), s.serverNames()
	server, account := a.rest.Get("server"), a.rest.Get("account")
	rows := make([]connRow, 0, len(snap.Conns))
	for i := range snap.Conns {
		c := &snap.Conns[i]
		r := connRow{Conn: c, server: cmp.Or(names[c.Server], c.Server), key: htmlID("cid", c.Server+"/"+strconv.FormatUint(c.CID, 10))}
		if server != "" && r.server != server || account != "" && c.Account != account {
			continue
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b connRow) int { return cmp.Or(strings.Compare(a.server, b.server), cmp.Compare(a.CID, b.CID)) })
	return rows
}

func (s *Server) connSum(rows []connRow) string {
	all, snap := 0, s.Metrics.Latest()
	for _, srv := range snap.Servers {
		all += srv.Conns
	}
	if len(rows) < len(snap.Conns) {
		return fmt.Sprintf("%d of the %s with the most traffic or waiting bytes; there are %s in all.", len(rows), count(len(snap.Conns), "connection"), countWords(uint64(all)))
	}
	return fmt.Sprintf("The %s with the most traffic or waiting bytes, of %s in all; the sums count every one.", count(len(rows), "connection"), countWords(uint64(all)))
}

func (s *Server) connList() listing[connRow] {
	counted := func(key, label string, v func(*connRow) uint64) listCol[connRow] {
		return listCol[connRow]{key: key, label: label, right: true, down: true, by: func(a, b *connRow) int { return cmp.Compare(v(a), v(b)) },
			cell: func(r *connRow) templates.ListCell { return figureCell(r.key, key, countWords(v(r))) }}
	}
	text := func(key, label string, v func(*connRow) string) listCol[connRow] {
		return listCol[connRow]{key: key, label: label, by: func(a, b *connRow) int { return strings.Compare(v(a), v(b)) },
			cell: func(r *connRow) templates.ListCell { return templates.ListCell{Text: cmp.Or(v(r), none)} }}
	}
	return listing[connRow]{
		path: "/connections", sort: "-pending",
		name: func(r *connRow) string {
			return strings.Join([]string{r.Name, r.Account, r.User, r.IP, r.server, strconv.FormatUint(r.CID, 10)}, "\n")
		},
		cols: []listCol[connRow]{
			{key: "name", label: "Connection", by: func(a, b *connRow) int { return strings.Compare(a.Name, b.Name) },
				cell: func(r *connRow) templates.ListCell {
					return templates.ListCell{Text: cmp.Or(r.Name, "no name"), Small: fmt.Sprintf("cid %d, %s", r.CID, strings.TrimSpace(r.Lang+" "+r.Version))}
				}},
			{key: "server", label: "Server", by: func(a, b *connRow) int { return strings.Compare(a.server, b.server) },
				cell: func(r *connRow) templates.ListCell {
					return templates.ListCell{Text: r.server, URL: serverURL(r.server)}
				}},
			{key: "account", label: "Account", by: func(a, b *connRow) int { return strings.Compare(a.Account, b.Account) },
				cell: func(r *connRow) templates.ListCell {
					if r.Account == "" {
						return templates.ListCell{Text: none}
					}
					return templates.ListCell{Text: r.Account, URL: accountURL(r.Account), Small: r.User}
				}},
			text("ip", "Address", func(r *connRow) string { return r.IP }),
			{key: "pending", label: "Waiting", right: true, down: true, by: func(a, b *connRow) int { return cmp.Compare(a.Pending, b.Pending) },
				cell: func(r *connRow) templates.ListCell {
					return figureCell(r.key, "pending", bytesWords(float64(r.Pending)))
				}},
			counted("subs", "Subscriptions", func(r *connRow) uint64 { return uint64(max(r.Subs, 0)) }),
			counted("in", "Messages in", func(r *connRow) uint64 { return r.InMsgs }),
			counted("out", "Messages out", func(r *connRow) uint64 { return r.OutMsgs }),
			{key: "rtt", label: "RTT", right: true, down: true, by: func(a, b *connRow) int { return cmp.Compare(a.RTT, b.RTT) },
				cell: func(r *connRow) templates.ListCell { return figureCell(r.key, "rtt", duration(r.RTT)) }},
			{key: "start", label: "Connected", right: true, by: func(a, b *connRow) int { return a.Start.Compare(b.Start) },
				cell: func(r *connRow) templates.ListCell {
					return figureCell(r.key, "start", cmp.Or(s.when(r.Start).Ago, none))
				}},
			{label: "Idle", cell: func(r *connRow) templates.ListCell { return templates.ListCell{Text: cmp.Or(r.Idle, none)} }},
		},
	}
}

// connLine is a connection as a row of the exports.
type connLine struct {
	Server   string    `json:"server"`
	ServerID string    `json:"server_id"`
	CID      uint64    `json:"cid"`
	Name     string    `json:"name"`
	Account  string    `json:"account"`
	User     string    `json:"user"`
	Lang     string    `json:"lang"`
	Version  string    `json:"version"`
	IP       string    `json:"ip"`
	RTT      float64   `json:"rtt_ms"`
	Pending  int64     `json:"pending_bytes"`
	Subs     int       `json:"subscriptions"`
	InMsgs   uint64    `json:"in_msgs"`
	OutMsgs  uint64    `json:"out_msgs"`
	InBytes  uint64    `json:"in_bytes"`
	OutBytes uint64    `json:"out_bytes"`
	Start    time.Time `json:"started"`
	Idle     string    `json:"idle"`
	At       time.Time `json:"measured_at"`
}

func connLineOf(r *connRow) connLine {
	if r.Conn == nil {
		return connLine{}
	}
	ip := r.IP
	if host, _, err := net.SplitHostPort(ip); err == nil {
		ip = host
	}
	return connLine{Server: r.server, ServerID: r.Conn.Server, CID: r.CID, Name: r.Name, Account: r.Account, User: r.User, Lang: r.Lang, Version: r.Version, IP: ip, RTT: inMS(r.RTT),
		Pending: r.Pending, Subs: r.Subs, InMsgs: r.InMsgs, OutMsgs: r.OutMsgs, InBytes: r.InBytes, OutBytes: r.OutBytes, Start: r.Start.UTC(), Idle: r.Idle, At: r.At.UTC()}
}

// connSumRow is all connections of one account on one server.
type connSumRow struct {
	*fleet.ConnSum
	server string
	key    string
}

var connectionSumPages = collection[connSumRow]{
	id: "connection-sums", title: "Connections by server and account", icon: navConnections, placeholder: "server or account", none: "The connections were not counted yet.",
	views: connectionViews, noted: true, list: (*Server).connSumList, rows: func(s *Server, _ listArgs) []connSumRow { return s.connSumRows() },
	sub: func(s *Server, rows []connSumRow) string {
		n := 0
		for _, r := range rows {
			n += r.Conns
		}
		return fmt.Sprintf("%s, counted about once a minute.", count(n, "connection"))
	},
	doc: func(_ *Server, r *connSumRow) any {
		if r.ConnSum == nil {
			return connSumLine{}
		}
		return connSumLine{r.server, r.ConnSum.Server, r.Account, r.Conns, r.Subs, r.Pending, r.InMsgs, r.OutMsgs, r.InBytes, r.OutBytes, strings.Split(clientWords(r.Clients), ", "), r.At.UTC()}
	},
}

// connSumLine is a sum as a row of the exports.
type connSumLine struct {
	Server   string    `json:"server"`
	ServerID string    `json:"server_id"`
	Account  string    `json:"account"`
	Conns    int       `json:"connections"`
	Subs     int       `json:"subscriptions"`
	Pending  int64     `json:"pending_bytes"`
	InMsgs   uint64    `json:"in_msgs"`
	OutMsgs  uint64    `json:"out_msgs"`
	InBytes  uint64    `json:"in_bytes"`
	OutBytes uint64    `json:"out_bytes"`
	Clients  []string  `json:"clients"`
	At       time.Time `json:"measured_at"`
}

func (s *Server) connSumRows() []connSumRow {
	snap, names := s.Metrics.Latest(), s.serverNames()
	rows := make([]connSumRow, len(snap.ConnSums))
	for i := range snap.ConnSums {
		x := &snap.ConnSums[i]
		rows[i] = connSumRow{ConnSum: x, server: cmp.Or(names[x.Server], x.Server), key: htmlID("sum", x.Server+"\x00"+x.Account)}
	}
	slices.SortFunc(rows, func(a, b connSumRow) int {
		return cmp.Or(strings.Compare(a.server, b.server), strings.Compare(a.Account, b.Account))
	})
	return rows
}

// clientWords are the client libraries, the most used first.
func clientWords(clients map[string]int) string {
	names := mostUsed(clients)
	for i, n := range names {
		names[i] = fmt.Sprintf("%s ×%d", n, clients[n])
	}
	return strings.Join(names, ", ")
}

func (s *Server) connSumList() listing[connSumRow] {
	counted := func(key, label string, v func(*connSumRow) uint64) listCol[connSumRow] {
		return listCol[connSumRow]{key: key, label: label, right: true, down: true, by: func(a, b *connSumRow) int { return cmp.Compare(v(a), v(b)) },
			cell: func(r *connSumRow) templates.ListCell { return figureCell(r.key, key, countWords(v(r))) }}
	}
	return listing[connSumRow]{
		path: "/connections/sums", sort: "-conns",
		name: func(r *connSumRow) string { return r.server + "\n" + r.Account },
		cols: []listCol[connSumRow]{
			{key: "server", label: "Server", by: func(a, b *connSumRow) int { return strings.Compare(a.server, b.server) },
				cell: func(r *connSumRow) templates.ListCell {
					return templates.ListCell{Text: r.server, URL: serverURL(r.server)}
				}},
			{key: "account", label: "Account", by: func(a, b *connSumRow) int { return strings.Compare(a.Account, b.Account) },
				cell: func(r *connSumRow) templates.ListCell {
					if r.Account == "" {
						return templates.ListCell{Text: none}
					}
					return templates.ListCell{Text: r.Account, URL: accountURL(r.Account)}
				}},
			counted("conns", "Connections", func(r *connSumRow) uint64 { return uint64(max(r.Conns, 0)) }),
			counted("subs", "Subscriptions", func(r *connSumRow) uint64 { return uint64(max(r.Subs, 0)) }),
			{key: "pending", label: "Waiting", right: true, down: true, by: func(a, b *connSumRow) int { return cmp.Compare(a.Pending, b.Pending) },
				cell: func(r *connSumRow) templates.ListCell {
					return figureCell(r.key, "pending", bytesWords(float64(r.Pending)))
				}},
			counted("in", "Messages in", func(r *connSumRow) uint64 { return r.InMsgs }),
			counted("out", "Messages out", func(r *connSumRow) uint64 { return r.OutMsgs }),
			{label: "Clients", cell: func(r *connSumRow) templates.ListCell {
				return templates.ListCell{Text: cmp.Or(clientWords(r.Clients), none), URL: "/charts/clients", Wrap: true}
			}},
			{label: "Course", cell: func(r *connSumRow) templates.ListCell {
				return templates.ListCell{Text: "chart", Tip: "Connections of " + r.Account + " to " + r.server + " over time",
					URL: "/charts/connections?" + url.Values{"server": {r.server}, "account": {r.Account}}.Encode()}
			}},
		},
	}
}

// connsEntity is an account's connections to a server.
func connsEntity(a chartArgs) fleet.Entity { return fleet.ConnsEntity(a.server, a.consumer.Account) }

// clientsChart draws how many connections there are with each client library:
// with those that most have now.
func (s *Server) clientsChart(ctx context.Context, a chartArgs) (chart, error) {
	by := map[string]int{}
	for _, x := range s.Metrics.Latest().ConnSums {
		for client, n := range x.Clients {
			by[client] += n
		}
	}
	c := chart{title: "Client libraries", hint: "the most used", note: "Connections to all servers, counted about once a minute. Clients say themselves what they are."}
	for i, client := range mostUsed(by) {
		if i == len(clientColors) {
			break
		}
		l, _, err := s.series(ctx, fleet.Entity{Kind: fleet.KindClients, Key: client}, fleet.ColConns, a)
		if err != nil {
			return chart{}, fmt.Errorf("client library %q: %w", client, err)
		}
		l.label, l.color = client, clientColors[i]
		c.lines = append(c.lines, l)
	}
	return c, nil
}

// clientColors are as many as a chart can tell apart.
var clientColors = []string{targetColor(0), targetColor(1), targetColor(2), targetColor(3), targetColor(4), targetColor(5)}

// mostUsed are the names by what they count, the highest first.
func mostUsed(by map[string]int) []string {
	return slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Or(cmp.Compare(by[b], by[a]), strings.Compare(a, b)) })
}
