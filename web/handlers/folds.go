package handlers

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// A fold is a row that stands for many short-lived consumers with generated
// names: they come and go, its series go on. Its page says what is summed up in
// it, how much, and which of its members have the most to do.

// showFold answers with the fold's page, or its sum and members as rows.
func (s *Server) showFold(c echo.Context, con *fleet.Consumer) error {
	k := con.ConsumerKey
	if format(c) != "" {
		row := s.consumerRow(con)
		docs := []any{s.consumerLine(&row)}
		for i := range con.Fold.Top {
			member := consumerRow{Consumer: &con.Fold.Top[i]}
			docs = append(docs, s.consumerLine(&member))
		}
		return s.exportDocs(c, "consumers-"+k.Stream, consumerDoc{}, docs)
	}
	v, err := s.foldDetail(c.Request().Context(), con)
	if err != nil {
		return err
	}
	charts := []string{"consumer-rate", "consumer-pending", "consumer-inflight", "consumer-redelivered"}
	if con.AckPolicy != "none" {
		charts = append(charts, "consumer-latency")
	}
	topic := topicFold + ":" + url.Values{"account": {k.Account}, "stream": {k.Stream}, "consumer": {k.Consumer}}.Encode()
	return s.showDetail(c, navConsumers, consumerURL(k), topic, v, chartArgs{consumer: k}, charts,
		templates.Crumb{Name: "Consumers", URL: consumerPages.list(s).path}, templates.Crumb{Name: k.Stream, URL: streamURL(fleet.StreamKey{Account: k.Account, Stream: k.Stream})})
}

func (s *Server) foldTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the name of the consumers: %w", err)
	}
	k := fleet.ConsumerKey{Account: q.Get("account"), Stream: q.Get("stream"), Consumer: q.Get("consumer")}
	con := s.consumer(k)
	if con == nil || con.Fold == nil {
		return update{}, consumerGone(k)
	}
	v, err := s.foldDetail(ctx, con)
	if err != nil {
		return update{}, err
	}
	return detailUpdate(v), nil
}

// foldDetail is a fold's page without its charts.
func (s *Server) foldDetail(ctx context.Context, con *fleet.Consumer) (templates.Detail, error) {
	const id = "fold"
	k, f := con.ConsumerKey, con.Fold
	stream := fleet.StreamKey{Account: k.Account, Stream: k.Stream}
	v := templates.Detail{ID: id, Name: k.Consumer, Where: strings.TrimPrefix(k.Account+" / "+k.Stream, " / "), WhereURL: streamURL(stream),
		CSV: consumerURL(k) + ".csv", JSON: consumerURL(k) + ".json", Download: exportURL(k.Entity()), Findings: s.findingsOn(k.Entity())}
	v.Status.Tone, v.Status.Word = s.consumerState(con)
	kpis, err := s.consumerKPIs(ctx, con)
	if err != nil {
		return v, err
	}
	v.KPIs = append([]templates.KPI{
		{Key: id + "/now", NoteKey: id + "/most", Label: "Consumers now", Value: countWords(uint64(max(f.Count, 0))), Note: "at most " + countWords(uint64(max(f.Most, f.Count)))},
		{Key: id + "/seen", Label: "Seen in all", Value: countWords(f.Seen)},
	}, kpis[:4]...)
	limit := func(n int) string { return limitOf(int64(n), func(n int64) string { return countWords(uint64(n)) }) }
	v.Cards = []templates.DetailCard{
		{ID: id + "-is", Title: "Summed up here", Sub: "short-lived consumers of one stream, filter and pattern of names", Settings: []templates.Setting{
			{Name: "Stream", Value: k.Stream, URL: streamURL(stream)},
			{Name: "Filter", Value: cmp.Or(f.Filter, "all of the stream")},
			{Name: "Names", Value: foldNames(f.Pattern)},
			{Name: "Since", Value: cmp.Or(s.when(con.Created).Exact, none)},
			{Name: "Deliveries", Value: countWords(con.Delivered), Key: id + "/f-delivered"},
			{Name: "Settled per second", Value: kpis[5].Value, Key: id + "/f-acked"},
			{Name: "Pull requests waiting", Value: countWords(uint64(max(con.Waiting, 0))), Key: id + "/f-waiting"},
			{Name: "Last delivery", Value: cmp.Or(s.when(con.LastDelivery).Ago, none), Key: id + "/f-last"},
			{Name: "Measured", Value: cmp.Or(s.when(con.At).Ago, none), Key: id + "/f-at"}, {Name: "Source", Value: string(con.Source)},
		}},
		{ID: id + "-config", Title: "Settings", Sub: "of each of them, as the first one has them", Settings: []templates.Setting{
			{Name: "ack_policy", Value: cmp.Or(con.AckPolicy, none)}, {Name: "ack_wait", Value: duration(con.AckWait)}, {Name: "max_ack_pending", Value: limit(con.MaxAckPending)},
			{Name: "max_deliver", Value: limit(con.MaxDeliver)}, {Name: "inactive_threshold", Value: duration(con.Inactive)}, {Name: "sample_freq", Value: sampledText(con)},
		}},
	}
	v.Tables = []templates.DetailTable{s.foldMembers(con)}
	others := map[string]bool{} // consumers of the stream that have a row of their own
	for _, c := range s.Metrics.Latest().Consumers {
		if c.Account == k.Account && c.Stream == k.Stream && c.Fold == nil {
			others[c.Entity().Key] = true
		}
	}
	v.Events, err = s.eventsOf(ctx, func(e *fleet.Event) bool {
		return strings.HasPrefix(e.Entity, stream.Entity().Key+"/") && !others[e.Entity]
	})
	return v, err
}

// foldNames says which names a pattern stands for.
func foldNames(pattern string) string {
	if pattern == "*" {
		return "* (made up by the server)"
	}
	return pattern
}

// foldMembers are the members that are kept in detail: those with the most to do.
func (s *Server) foldMembers(con *fleet.Consumer) templates.DetailTable {
	l := s.consumerList()
	rows := make([]*consumerRow, len(con.Fold.Top))
	for i := range rows {
		rows[i] = &consumerRow{Consumer: &con.Fold.Top[i]}
	}
	l.cols = foldCols(s)
	t := l.table(rows, listArgs{page: 1, sort: "-pending", rest: url.Values{}})
	t.Label, t.Icon, t.Empty, t.EmptyText = "Members", navConsumers, "No members", "None of them exists now."
	sub := fmt.Sprintf("%s of %s", countWords(uint64(len(rows))), countWords(uint64(max(con.Fold.Count, len(rows)))))
	d := firstRows("fold-top", "Those with the most to do", sub, t, withQuery(l.path, url.Values{"account": {con.Account}, "stream": {con.Stream}}))
	d.More.Name, d.Table.Note = "All consumers of the stream", ""
	return d
}

func foldCols(s *Server) []listCol[consumerRow] {
	counted := func(key, label string, v func(*consumerRow) uint64) listCol[consumerRow] {
		return listCol[consumerRow]{key: key, label: label, right: true, cell: func(r *consumerRow) templates.ListCell { return r.cell(key, countWords(v(r))) }}
	}
	return []listCol[consumerRow]{
		{key: "name", label: "Consumer", cell: func(r *consumerRow) templates.ListCell {
			return templates.ListCell{Text: r.Consumer.Consumer, URL: consumerURL(r.ConsumerKey)}
		}},
		counted("pending", "Pending", func(r *consumerRow) uint64 { return r.Pending }),
		counted("inflight", "In flight", func(r *consumerRow) uint64 { return uint64(max(r.AckPending, 0)) }),
		counted("redelivered", "Redelivered", func(r *consumerRow) uint64 { return uint64(max(r.Redelivered, 0)) }),
		counted("delivered", "Deliveries", func(r *consumerRow) uint64 { return r.Delivered }),
		{key: "last", label: "Last delivery", right: true, cell: func(r *consumerRow) templates.ListCell {
			return r.cell("last", cmp.Or(s.when(r.LastDelivery).Ago, none))
		}},
		{key: "created", label: "Created", right: true, cell: func(r *consumerRow) templates.ListCell {
			return r.cell("created", cmp.Or(s.when(r.Created).Ago, none))
		}},
		{key: "leader", label: "Leader", cell: func(r *consumerRow) templates.ListCell {
			if r.Leader == "" {
				return templates.ListCell{Text: none}
			}
			return templates.ListCell{Text: r.Leader, URL: serverURL(r.Leader)}
		}},
	}
}

// showMember answers with a short-lived consumer as it is now: over time it is
// known in its row only.
func (s *Server) showMember(c echo.Context, fold, con *fleet.Consumer) error {
	if format(c) != "" {
		row := consumerRow{Consumer: con}
		return s.exportDocs(c, "consumer-"+con.Consumer, consumerDoc{}, []any{s.consumerLine(&row)})
	}
	const id = "member"
	k := con.ConsumerKey
	v := templates.Detail{ID: id, Name: k.Consumer, Where: strings.TrimPrefix(k.Account+" / "+k.Stream, " / "), WhereURL: streamURL(fleet.StreamKey{Account: k.Account, Stream: k.Stream}),
		CSV: consumerURL(k) + ".csv", JSON: consumerURL(k) + ".json"}
	v.Status.Tone, v.Status.Word = s.consumerState(con)
	v.KPIs = []templates.KPI{
		{Key: id + "/pending", Label: "Pending", Value: countWords(con.Pending), Unit: "msgs"},
		{Key: id + "/inflight", Label: "In flight", Value: countWords(uint64(max(con.AckPending, 0))), Unit: "msgs"},
		{Key: id + "/redelivered", Label: "Outstanding redeliveries", Value: countWords(uint64(max(con.Redelivered, 0))), Unit: "msgs"},
	}
	v.Cards = []templates.DetailCard{
		{ID: id + "-is", Title: "State", Settings: append([]templates.Setting{{Name: "Summed up in", Value: fold.Consumer, URL: consumerURL(fold.ConsumerKey)}}, s.consumerFacts(con)...), Replicas: replicaRows(con.Leader, con.Peers)},
		{ID: id + "-config", Title: "Configuration", Settings: s.consumerConfig(con)},
	}
	var err error
	v.Events, err = s.eventsOf(c.Request().Context(), func(e *fleet.Event) bool { return e.Entity == k.Entity().Key })
	if err != nil {
		return err
	}
	return s.showDetail(c, navConsumers, consumerURL(k), "", v, chartArgs{}, nil, templates.Crumb{Name: "Consumers", URL: consumerPages.list(s).path},
		templates.Crumb{Name: fold.Consumer, URL: consumerURL(fold.ConsumerKey)})
}
