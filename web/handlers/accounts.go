package handlers

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

func accountRoutes(s *Server, e *echo.Echo) {
	page(e, "/accounts", accountPages.show(s))
	e.GET("/accounts/:account", s.showAccount)
}

func accountURL(name string) string { return "/accounts/" + url.PathEscape(name) }

// accountRow is an account with what belongs to it.
type accountRow struct {
	*fleet.Account
	key                string
	streams, consumers int
	bytes              uint64 // of its streams, on their leaders
	// What JetStream counts against the account's limits: every replica.
	memory, store uint64
	mostSubs      int // of one connection, of those that are listed
}

var accountPages = collection[accountRow]{
	id: navAccounts, title: "Accounts", icon: navAccounts, placeholder: "account", none: "No server told of its accounts yet.",
	list: (*Server).accountList, rows: func(s *Server, _ listArgs) []accountRow { return s.accountRows() },
	sub: func(s *Server, rows []accountRow) string {
		conns := 0
		for _, r := range rows {
			conns += r.Conns
		}
		return fmt.Sprintf("%s, %s.", count(len(rows), "account"), count(conns, "connection"))
	},
	doc: func(s *Server, r *accountRow) any { return accountLineOf(r) },
}

func (s *Server) accountRows() []accountRow {
	snap := s.Metrics.Latest()
	rows := make([]accountRow, len(snap.Accounts))
	at := map[string]*accountRow{}
	for i := range snap.Accounts {
		a := &snap.Accounts[i]
		rows[i] = accountRow{Account: a, key: htmlID("acc", a.Name)}
		at[a.Name] = &rows[i]
	}
	for i := range snap.Streams {
		if r := at[snap.Streams[i].Account]; r != nil {
			st := &snap.Streams[i]
			r.streams++
			r.bytes += st.Bytes
			if all := st.Bytes * uint64(max(st.Replicas, 1)); st.Storage == "memory" {
				r.memory += all
			} else {
				r.store += all
			}
		}
	}
	for i := range snap.Conns {
		if r := at[snap.Conns[i].Account]; r != nil {
			r.mostSubs = max(r.mostSubs, snap.Conns[i].Subs)
		}
	}
	for i := range snap.Consumers {
		if r := at[snap.Consumers[i].Account]; r != nil {
			n := 1
			if f := snap.Consumers[i].Fold; f != nil {
				n = f.Count
			}
			r.consumers += n
		}
	}
	slices.SortFunc(rows, func(a, b accountRow) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

func (s *Server) accountList() listing[accountRow] {
	counted := func(key, label string, v func(*accountRow) uint64, words func(uint64) string) listCol[accountRow] {
		return listCol[accountRow]{key: key, label: label, right: true, down: true, by: func(a, b *accountRow) int { return cmp.Compare(v(a), v(b)) },
			cell: func(r *accountRow) templates.ListCell { return figureCell(r.key, key, words(v(r))) }}
	}
	size := func(n uint64) string { return bytesWords(float64(n)) }
	return listing[accountRow]{
		path: "/accounts",
		name: func(r *accountRow) string { return r.Name },
		cols: []listCol[accountRow]{
			{key: "name", label: "Account", by: func(a, b *accountRow) int { return strings.Compare(a.Name, b.Name) },
				cell: func(r *accountRow) templates.ListCell {
					c := templates.ListCell{Text: r.Name, URL: accountURL(r.Name)}
					if r.Settings != nil && r.Settings.System {
						c.Small = "system account"
					}
					return c
				}},
			counted("conns", "Connections", func(r *accountRow) uint64 { return uint64(max(r.Conns, 0)) }, countWords),
			counted("leafs", "Leaf nodes", func(r *accountRow) uint64 { return uint64(max(r.Leafs, 0)) }, countWords),
			counted("subs", "Subscriptions", func(r *accountRow) uint64 { return uint64(max(r.Subs, 0)) }, countWords),
			counted("in", "Messages in", func(r *accountRow) uint64 { return r.InMsgs }, countWords),
			counted("out", "Messages out", func(r *accountRow) uint64 { return r.OutMsgs }, countWords),
			counted("slow", "Slow consumers", func(r *accountRow) uint64 { return r.Slow }, countWords),
			counted("streams", "Streams", func(r *accountRow) uint64 { return uint64(r.streams) }, countWords),
			counted("consumers", "Consumers", func(r *accountRow) uint64 { return uint64(r.consumers) }, countWords),
			counted("bytes", "Stored", func(r *accountRow) uint64 { return r.bytes }, size),
		},
	}
}

// accountLine is an account as a row of the exports.
type accountLine struct {
	Name      string `json:"name"`
	System    bool   `json:"system"`
	JetStream bool   `json:"jetstream"`
	Conns     int    `json:"connections"`
	Leafs     int    `json:"leaf_nodes"`
	Subs      int    `json:"subscriptions"`
	InMsgs    uint64 `json:"in_msgs"`
	OutMsgs   uint64 `json:"out_msgs"`
	InBytes   uint64 `json:"in_bytes"`
	OutBytes  uint64 `json:"out_bytes"`
	Slow      uint64 `json:"slow_consumers"`
	Streams   int    `json:"streams"`
	Consumers int    `json:"consumers"`
	Bytes     uint64 `json:"stored_bytes"`
	Imports   int    `json:"imports"`
	Exports   int    `json:"exports"`
	Mappings  int    `json:"mappings"`
	// Limits: null is not told, -1 is none.
	MaxConns     any       `json:"max_connections"`
	MaxLeafs     any       `json:"max_leaf_nodes"`
	MaxSubs      any       `json:"max_subscriptions_of_a_connection"`
	MaxPayload   any       `json:"max_payload_bytes"`
	MemoryUsed   uint64    `json:"jetstream_memory_bytes"`
	MaxMemory    any       `json:"jetstream_memory_limit_bytes"`
	StoreUsed    uint64    `json:"jetstream_store_bytes"`
	MaxStore     any       `json:"jetstream_store_limit_bytes"`
	MaxStreams   any       `json:"max_streams"`
	MaxConsumers any       `json:"max_consumers"`
	At           time.Time `json:"measured_at"`
}

func accountLineOf(r *accountRow) accountLine {
	if r.Account == nil {
		return accountLine{}
	}
	d := accountLine{Name: r.Name, Conns: r.Conns, Leafs: r.Leafs, Subs: r.Subs, InMsgs: r.InMsgs, OutMsgs: r.OutMsgs, InBytes: r.InBytes, OutBytes: r.OutBytes, Slow: r.Slow,
		Streams: r.streams, Consumers: r.consumers, Bytes: r.bytes, MemoryUsed: r.memory, StoreUsed: r.store, At: r.At.UTC()}
	if set := r.Settings; set != nil {
		d.System, d.JetStream, d.Imports, d.Exports, d.Mappings = set.System, set.JetStream, set.Imports, set.Exports, set.Mappings
		most := func(l fleet.Limit) any {
			if !l.Told {
				return nil
			}
			return l.Max
		}
		l := set.Limits
		d.MaxConns, d.MaxLeafs, d.MaxSubs, d.MaxPayload = most(l.Conns), most(l.Leafs), most(l.Subs), most(l.Payload)
		d.MaxMemory, d.MaxStore, d.MaxStreams, d.MaxConsumers = most(l.Memory), most(l.Store), most(l.Streams), most(l.Consumers)
	}
	return d
}

func (s *Server) accountNamed(name string) *accountRow {
	rows := s.accountRows()
	for i := range rows {
		if rows[i].Name == name {
			return &rows[i]
		}
	}
	return nil
}

func accountGone(name string) error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("No server told of an account %q.", name), Hint: "An account is seen once somebody connects to it, or with the system account's credentials."}
}

func (s *Server) showAccount(c echo.Context) error {
	name, err := pathParam(c, "account")
	if err != nil {
		return err
	}
	name = withoutFormat(c, name, func(n string) bool { return s.accountNamed(n) != nil })
	r := s.accountNamed(name)
	if r == nil {
		return accountGone(name)
	}
	if format(c) != "" {
		return s.exportDocs(c, "account-"+name, accountLine{}, []any{accountLineOf(r)})
	}
	v, err := s.accountDetail(c.Request().Context(), r)
	if err != nil {
		return err
	}
	topic := topicAccount + ":" + url.Values{"account": {name}}.Encode()
	return s.showDetail(c, navAccounts, accountURL(name), topic, v, chartArgs{consumer: fleet.ConsumerKey{Account: name}},
		[]string{"account-msgs", "account-bytes", "account-conns", "account-subs", "account-slow", "account-leafs"}, templates.Crumb{Name: "Accounts", URL: "/accounts"})
}

func (s *Server) accountTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the account's name: %w", err)
	}
	r := s.accountNamed(q.Get("account"))
	if r == nil {
		return update{}, accountGone(q.Get("account"))
	}
	v, err := s.accountDetail(ctx, r)
	if err != nil {
		return update{}, err
	}
	return detailUpdate(v), nil
}

// accountDetail is an account's page without its charts.
func (s *Server) accountDetail(ctx context.Context, r *accountRow) (templates.Detail, error) {
	const id = "acc"
	entity := accountEntity(chartArgs{consumer: fleet.ConsumerKey{Account: r.Name}})
	v := templates.Detail{ID: id, Name: r.Name, CSV: accountURL(r.Name) + ".csv", JSON: accountURL(r.Name) + ".json", Download: exportURL(entity), Findings: s.findingsOn(entity)}
	v.Status = templates.Status{Tone: "ok", Word: "seen " + cmp.Or(s.when(r.At).Ago, "now")}
	if s.Now().Sub(r.At) > max(s.staleAfter(), 3*time.Minute) { // it is read more rarely than the servers
		v.Status = templates.Status{Tone: "stale", Word: "no new data for " + ago(s.Now().Sub(r.At))}
	}
	of := url.Values{"account": {r.Name}}
	v.KPIs = []templates.KPI{
		{Key: id + "/conns", Label: "Connections", Value: countWords(uint64(max(r.Conns, 0))), URL: withQuery("/connections", of)},
		{Key: id + "/subs", Label: "Subscriptions", Value: countWords(uint64(max(r.Subs, 0)))},
		{Key: id + "/streams", Label: "Streams", Value: countWords(uint64(r.streams)), URL: withQuery("/streams", of)},
		{Key: id + "/consumers", Label: "Consumers", Value: countWords(uint64(r.consumers)), URL: withQuery("/consumers", of)},
		{Key: id + "/bytes", Label: "Stored", Value: bytesWords(float64(r.bytes))},
		{Key: id + "/slow", Label: "Slow consumers", Value: countWords(r.Slow)},
	}
	v.Cards = append(v.Cards, limitCard(id, r))
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	if set := r.Settings; set != nil {
		card := templates.DetailCard{ID: id + "-is", Title: "Account", Sub: "as the servers have it", Settings: []templates.Setting{
			{Name: "System account", Value: yes(set.System)}, {Name: "JetStream", Value: yes(set.JetStream)}, {Name: "Expired", Value: yes(set.Expired)},
			{Name: "Imports", Value: countWords(uint64(max(set.Imports, 0)))}, {Name: "Exports", Value: countWords(uint64(max(set.Exports, 0)))}, {Name: "Mappings", Value: countWords(uint64(max(set.Mappings, 0)))},
			{Name: "Updated", Value: cmp.Or(s.when(set.Updated).Exact, none)}, {Name: "Read", Value: cmp.Or(s.when(set.At).Ago, none), Key: id + "/f-set"},
		}}
		if set.Incomplete {
			card.Sub = "a server could not resolve all that it imports"
		}
		v.Cards = append(v.Cards, card)
	}
	cmds := commandList{}
	cmds.ask("How it is set up and what it uses", "nats server account info", r.Name)
	cmds.ask("Its connections", "nats server report connections --account=", r.Name)
	if r.streams > 0 {
		cmds.ask("Its JetStream, by server", "nats server report jetstream --account=", r.Name)
	}
	cmds.ask("All that a server says of it", "nats server request accounts --account=", r.Name)
	v.Commands = cmds
	if r.streams > 0 {
		v.Tables = append(v.Tables, streamPages.part(s, "acc-streams", "Streams", url.Values{"account": {r.Name}, "sort": {"-bytes"}}))
	}
	var err error
	v.Events, err = s.eventsOf(ctx, func(e *fleet.Event) bool { return e.Entity == r.Name || strings.HasPrefix(e.Entity, r.Name+"/") })
	return v, err
}

// closeTo is the part of a limit from which on it is said to be near: there is
// still something left to act with.
const closeTo = 0.8

// usage is a figure against its limit.
func usage(name string, used uint64, l fleet.Limit, words func(uint64) string) templates.Bar {
	b := templates.Bar{Name: name, Value: words(used)}
	switch {
	case !l.Told:
		b.Value += ", limit not told"
		return b
	case l.Max < 0:
		b.Value += ", no limit"
		return b
	case l.Max == 0:
		if b.Value += ", none allowed"; used > 0 {
			b.Tone, b.Word, b.Share = "crit", "over its limit", "100"
		}
		return b
	}
	share := float64(used) / float64(l.Max)
	b.Value += fmt.Sprintf(" of %s, %s %%", words(uint64(l.Max)), percent(share))
	b.Share = f1(min(share, 1) * 100)
	switch {
	case share > 1:
		b.Tone, b.Word = "crit", "over its limit"
	case share == 1:
		b.Tone, b.Word = "crit", "at its limit"
	case share >= closeTo:
		b.Tone, b.Word = "warn", "near its limit"
	}
	return b
}

// limitCard shows what the account uses of what it may.
func limitCard(id string, r *accountRow) templates.DetailCard {
	var l fleet.AccountLimits
	card := templates.DetailCard{ID: id + "-limits", Title: "Limits", Sub: "as its token or the servers' JetStream say"}
	if r.Settings != nil {
		l = r.Settings.Limits
	}
	if l == (fleet.AccountLimits{}) {
		card.Sub = "no server tells of them"
	}
	size := func(n uint64) string { return bytesWords(float64(n)) }
	small := func(n int) uint64 { return uint64(max(n, 0)) }
	payload := templates.Bar{Name: "Size of a message", Value: "limit not told"}
	switch {
	case l.Payload.Told && l.Payload.Max < 0:
		payload.Value = "no limit but the server's"
	case l.Payload.Told:
		payload.Value = "at most " + size(uint64(l.Payload.Max))
	}
	card.Bars = []templates.Bar{
		usage("Connections", small(r.Conns), l.Conns, countWords),
		usage("Leaf nodes", small(r.Leafs), l.Leafs, countWords),
		usage("Subscriptions, most of a connection", small(r.mostSubs), l.Subs, countWords),
		payload,
		usage("JetStream store", r.store, l.Store, size),
		usage("JetStream memory", r.memory, l.Memory, size),
		usage("Streams", small(r.streams), l.Streams, countWords),
		usage("Consumers", small(r.consumers), l.Consumers, countWords),
	}
	if l.Tiered {
		card.Sub = "JetStream's are set by number of replicas; the command below tells of them"
	}
	return card
}

// accountConnsChart draws the limit of connections too.
func (s *Server) accountConnsChart(ctx context.Context, a chartArgs) (chart, error) {
	c, err := columnsChart("Connections", "", "Over all servers.", accountEntity, [2]string{"connections", fleet.ColConns})(s, ctx, a)
	if r := s.accountNamed(a.consumer.Account); err == nil && r != nil && r.Settings != nil && r.Settings.Limits.Conns.Max > 0 {
		c.limits.count("max_connections", "crit", false, uint64(r.Settings.Limits.Conns.Max))
	}
	return c, err
}

func accountEntity(a chartArgs) fleet.Entity {
	return fleet.Entity{Kind: fleet.KindAccount, Key: a.consumer.Account}
}
