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

func streamRoutes(s *Server, e *echo.Echo) {
	page(e, "/streams", streamPages.show(s))
	e.GET("/streams/:account/:stream", s.showStream)
}

func streamURL(k fleet.StreamKey) string {
	return "/streams/" + url.PathEscape(k.Account) + "/" + url.PathEscape(k.Stream)
}

// streamRow is a stream with its traffic.
type streamRow struct {
	*fleet.Stream
	rate  fleet.LinkRate
	known bool
	key   string
}

var streamPages = collection[streamRow]{
	id: navStreams, title: "Streams", icon: navStreams, placeholder: "stream, account or subject", none: "No stream was seen.",
	own: []string{"account", "server"}, list: (*Server).streamList, rows: (*Server).streamRows,
	sub: func(s *Server, rows []streamRow) string {
		var messages, bytes uint64
		for _, r := range rows {
			messages, bytes = messages+r.Messages, bytes+r.Bytes
		}
		return fmt.Sprintf("%s; %s messages, %s.", count(len(rows), "stream"), countWords(messages), bytesWords(float64(bytes)))
	},
	filters: func(s *Server, a listArgs) []templates.ListFilter {
		all := s.Metrics.Latest().Streams
		return []templates.ListFilter{
			oneOf("account", "Account", a.rest.Get("account"), all, func(x *fleet.Stream) string { return x.Account }),
			oneOf("server", "Led by", a.rest.Get("server"), all, func(x *fleet.Stream) string { return x.Leader }),
		}
	},
	doc: func(s *Server, r *streamRow) any { return s.streamLine(r) },
}

func (s *Server) streamRows(a listArgs) []streamRow {
	snap, rates := s.Metrics.Latest(), s.Metrics.Rates()
	account, server := a.rest.Get("account"), a.rest.Get("server")
	rows := make([]streamRow, 0, len(snap.Streams))
	for i := range snap.Streams {
		st := &snap.Streams[i]
		if account != "" && st.Account != account || server != "" && st.Leader != server {
			continue
		}
		r := streamRow{Stream: st, key: htmlID("str", st.Entity().Key)}
		r.rate, r.known = rates.Streams[st.StreamKey]
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b streamRow) int {
		return cmp.Or(strings.Compare(a.Account, b.Account), strings.Compare(a.Stream.Stream, b.Stream.Stream))
	})
	return rows
}

// streamState gives a stream a shape and a word by its own figures alone.
func (s *Server) streamState(st *fleet.Stream) (tone, word string) {
	off, behind := 0, 0
	for _, p := range st.Peers {
		switch {
		case p.Offline:
			off++
		case !p.Current:
			behind++
		}
	}
	switch {
	case s.Now().Sub(st.At) > s.staleAfter():
		return "stale", "no new data for " + ago(s.Now().Sub(st.At))
	case st.Leader == "" && st.Replicas > 1:
		return "crit", "no leader"
	case off > 0:
		return "warn", plural(off, "replica", "replicas") + " offline"
	case behind > 0:
		return "warn", plural(behind, "replica", "replicas") + " behind"
	}
	return "ok", "healthy"
}

func (s *Server) streamList() listing[streamRow] {
	return listing[streamRow]{
		path: "/streams",
		name: func(r *streamRow) string {
			return r.Account + "\n" + r.Stream.Stream + "\n" + strings.Join(r.Subjects, "\n")
		},
		cols: []listCol[streamRow]{
			{key: "name", label: "Stream", by: func(a, b *streamRow) int { return strings.Compare(a.Stream.Stream, b.Stream.Stream) },
				cell: func(r *streamRow) templates.ListCell {
					return templates.ListCell{Text: r.Stream.Stream, URL: streamURL(r.StreamKey), Small: r.Account}
				}},
			{label: "State", cell: func(r *streamRow) templates.ListCell {
				tone, word := s.streamState(r.Stream)
				return templates.ListCell{Text: word, Tone: tone}
			}},
			{key: "messages", label: "Messages", right: true, down: true, by: func(a, b *streamRow) int { return cmp.Compare(a.Messages, b.Messages) },
				cell: func(r *streamRow) templates.ListCell { return figureCell(r.key, "messages", countWords(r.Messages)) }},
			{key: "bytes", label: "Size", right: true, down: true, by: func(a, b *streamRow) int { return cmp.Compare(a.Bytes, b.Bytes) },
				cell: func(r *streamRow) templates.ListCell { return figureCell(r.key, "bytes", bytesWords(float64(r.Bytes))) }},
			{key: "rate", label: "Stored msg/s", right: true, down: true, by: func(a, b *streamRow) int { return cmp.Compare(a.rate.InMsgs, b.rate.InMsgs) },
				cell: func(r *streamRow) templates.ListCell {
					if !r.known {
						return figureCell(r.key, "rate", none)
					}
					return figureCell(r.key, "rate", figure(r.rate.InMsgs, "msg/s"))
				}},
			{key: "consumers", label: "Consumers", right: true, down: true, by: func(a, b *streamRow) int { return cmp.Compare(a.Consumers, b.Consumers) },
				cell: func(r *streamRow) templates.ListCell {
					return figureCell(r.key, "consumers", countWords(uint64(max(r.Consumers, 0))))
				}},
			{key: "last", label: "Last message", right: true, down: true, by: func(a, b *streamRow) int { return a.LastTime.Compare(b.LastTime) },
				cell: func(r *streamRow) templates.ListCell {
					return figureCell(r.key, "last", s.ofNow(cmp.Or(s.when(r.LastTime).Ago, none)))
				}},
			{key: "leader", label: "Leader", by: func(a, b *streamRow) int { return strings.Compare(a.Leader, b.Leader) },
				cell: func(r *streamRow) templates.ListCell {
					if r.Leader == "" {
						return templates.ListCell{Text: none}
					}
					return templates.ListCell{Text: r.Leader, URL: serverURL(r.Leader)}
				}},
			{key: "replicas", label: "Replicas", right: true, down: true, by: func(a, b *streamRow) int { return cmp.Compare(a.Replicas, b.Replicas) },
				cell: func(r *streamRow) templates.ListCell { return templates.ListCell{Text: fmt.Sprint(r.Replicas)} }},
			{key: "storage", label: "Storage", by: func(a, b *streamRow) int { return strings.Compare(a.Storage, b.Storage) },
				cell: func(r *streamRow) templates.ListCell { return templates.ListCell{Text: cmp.Or(r.Storage, none)} }},
		},
	}
}

// streamLine is a stream as a row of the exports.
type streamLine struct {
	Account    string       `json:"account"`
	Stream     string       `json:"stream"`
	State      string       `json:"state"`
	Subjects   []string     `json:"subjects"`
	Storage    string       `json:"storage"`
	Retention  string       `json:"retention"`
	Discard    string       `json:"discard"`
	Replicas   int          `json:"replicas"`
	Leader     string       `json:"leader"`
	Followers  []string     `json:"followers"`
	Messages   uint64       `json:"messages"`
	Bytes      uint64       `json:"bytes"`
	FirstSeq   uint64       `json:"first_seq"`
	LastSeq    uint64       `json:"last_seq"`
	LastTime   time.Time    `json:"last_message_at"`
	Consumers  int          `json:"consumers"`
	Rate       float64      `json:"stored_per_s"`
	MaxBytes   int64        `json:"max_bytes"`
	MaxMsgs    int64        `json:"max_msgs"`
	PerSubject int64        `json:"max_msgs_per_subject"`
	MaxAge     float64      `json:"max_age_s"`
	Created    time.Time    `json:"created"`
	At         time.Time    `json:"measured_at"`
	Source     fleet.Source `json:"source"`
}

func (s *Server) streamLine(r *streamRow) streamLine {
	if r.Stream == nil {
		return streamLine{}
	}
	_, word := s.streamState(r.Stream)
	d := streamLine{
		Account: r.Account, Stream: r.Stream.Stream, State: word, Subjects: r.Subjects, Storage: r.Storage, Retention: r.Retention, Discard: r.Discard, Replicas: r.Replicas, Leader: r.Leader,
		Messages: r.Messages, Bytes: r.Bytes, FirstSeq: r.FirstSeq, LastSeq: r.LastSeq, LastTime: r.LastTime.UTC(), Consumers: r.Consumers, Rate: r.rate.InMsgs,
		MaxBytes: r.MaxBytes, MaxMsgs: r.MaxMsgs, PerSubject: r.PerSubject, MaxAge: r.MaxAge.Seconds(), Created: r.Created.UTC(), At: r.At.UTC(), Source: r.Source,
	}
	for _, p := range r.Peers {
		d.Followers = append(d.Followers, p.Name)
	}
	return d
}

func (s *Server) streamNamed(k fleet.StreamKey) *streamRow {
	rows := s.streamRows(listArgs{rest: url.Values{"account": {k.Account}}})
	for i := range rows {
		if rows[i].StreamKey == k {
			return &rows[i]
		}
	}
	return nil
}

func streamGone(k fleet.StreamKey) error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no stream %q in account %q.", k.Stream, k.Account), Hint: "It may have been removed; look at the list of streams."}
}

func (s *Server) showStream(c echo.Context) error {
	var k fleet.StreamKey
	var err error
	for name, into := range map[string]*string{"account": &k.Account, "stream": &k.Stream} {
		if *into, err = pathParam(c, name); err != nil {
			return err
		}
	}
	k.Stream = withoutFormat(c, k.Stream, func(n string) bool { return s.streamNamed(fleet.StreamKey{Account: k.Account, Stream: n}) != nil })
	r := s.streamNamed(k)
	if r == nil {
		return streamGone(k)
	}
	if format(c) != "" {
		return s.exportDocs(c, "stream-"+k.Stream, streamLine{}, []any{s.streamLine(r)})
	}
	v, err := s.streamDetail(c.Request().Context(), r)
	if err != nil {
		return err
	}
	topic := topicStream + ":" + url.Values{"account": {k.Account}, "stream": {k.Stream}}.Encode()
	return s.showDetail(c, navStreams, streamURL(k), topic, v, chartArgs{consumer: fleet.ConsumerKey{Account: k.Account, Stream: k.Stream}},
		[]string{"stream-rate", "stream-messages", "stream-bytes", "stream-subjects"}, templates.Crumb{Name: "Streams", URL: "/streams"})
}

func (s *Server) streamTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the stream's name: %w", err)
	}
	k := fleet.StreamKey{Account: q.Get("account"), Stream: q.Get("stream")}
	r := s.streamNamed(k)
	if r == nil {
		return update{}, streamGone(k)
	}
	v, err := s.streamDetail(ctx, r)
	if err != nil {
		return update{}, err
	}
	return detailUpdate(v), nil
}

// streamDetail is a stream's page without its charts.
func (s *Server) streamDetail(ctx context.Context, r *streamRow) (templates.Detail, error) {
	const id = "str"
	k := r.StreamKey
	v := templates.Detail{ID: id, Name: k.Stream, Where: k.Account, WhereURL: accountURL(k.Account), CSV: streamURL(k) + ".csv", JSON: streamURL(k) + ".json",
		Download: exportURL(k.Entity()), Findings: s.findingsOn(k.Entity())}
	v.Status.Tone, v.Status.Word = s.streamState(r.Stream)
	rate := none
	if r.known {
		rate = figure(r.rate.InMsgs, "msg/s")
	}
	v.KPIs = []templates.KPI{
		{Key: id + "/messages", Label: "Messages", Value: countWords(r.Messages)},
		{Key: id + "/bytes", Label: "Size", Value: bytesWords(float64(r.Bytes))},
		{Key: id + "/rate", Label: "Stored", Value: rate, Unit: "msg/s"},
		{Key: id + "/consumers", Label: "Consumers", Value: countWords(uint64(max(r.Consumers, 0)))},
		{Key: id + "/last", Label: "Last message", Value: s.ofNow(cmp.Or(s.when(r.LastTime).Ago, none))},
	}
	if err := s.kpiSparks(ctx, k.Entity(), v.KPIs, map[string]string{id + "/messages": fleet.ColMessages, id + "/bytes": fleet.ColBytes, id + "/rate": fleet.ColLastSeq}); err != nil {
		return v, err
	}
	v.Cards = []templates.DetailCard{
		{ID: id + "-is", Title: "State", Replicas: replicaRows(r.Leader, r.Peers), Settings: []templates.Setting{
			{Name: "First sequence", Value: countWords(r.FirstSeq), Key: id + "/f-first"}, {Name: "Last sequence", Value: countWords(r.LastSeq), Key: id + "/f-lastseq"},
			{Name: "Of max_bytes", Value: ofLimit(float64(r.Bytes), r.MaxBytes), Key: id + "/f-ofbytes"}, {Name: "Of max_msgs", Value: ofLimit(float64(r.Messages), r.MaxMsgs), Key: id + "/f-ofmsgs"},
			{Name: "Measured", Value: cmp.Or(s.when(r.At).Ago, none), Key: id + "/f-at"}, {Name: "Source", Value: string(r.Source)},
		}},
		{ID: id + "-config", Title: "Configuration", Settings: []templates.Setting{
			{Name: "Subjects", Value: cmp.Or(strings.Join(r.Subjects, ", "), "none")}, {Name: "Storage", Value: cmp.Or(r.Storage, none)}, {Name: "Retention", Value: cmp.Or(r.Retention, none)},
			{Name: "Discard", Value: cmp.Or(r.Discard, none)}, {Name: "Replicas", Value: fmt.Sprint(r.Replicas)},
			{Name: "max_bytes", Value: limitOf(r.MaxBytes, func(n int64) string { return bytesWords(float64(n)) })}, {Name: "max_msgs", Value: limitOf(r.MaxMsgs, func(n int64) string { return countWords(uint64(n)) })},
			{Name: "max_msgs_per_subject", Value: limitOf(r.PerSubject, func(n int64) string { return countWords(uint64(n)) })},
			{Name: "max_age", Value: limitOf(int64(r.MaxAge), func(n int64) string { return duration(time.Duration(n)) })},
			{Name: "Created", Value: cmp.Or(s.when(r.Created).Exact, none)},
		}},
	}
	if owner := ownerLimits(r.Limits); len(owner) > 0 {
		v.Cards = append(v.Cards, templates.DetailCard{ID: id + "-limits", Title: "Its owner's limits", Sub: "from its metadata", Settings: owner})
	}
	v.Tables = append(v.Tables, consumersOf(s, k))
	var err error
	v.Events, err = s.eventsOf(ctx, func(e *fleet.Event) bool {
		return e.Entity == k.Entity().Key || e.Entity == k.Stream || strings.HasPrefix(e.Entity, k.Entity().Key+"/")
	})
	return v, err
}

// consumersOf are the stream's consumers, those with the most waiting first.
func consumersOf(s *Server, k fleet.StreamKey) templates.DetailTable {
	t := consumerPages.part(s, "str-consumers", "Consumers", url.Values{"account": {k.Account}, "stream": {k.Stream}, "sort": {"-pending"}})
	t.Table.EmptyText = "Nothing reads from this stream."
	return t
}

// ofLimit is the share of a limit that is used up.
func ofLimit(used float64, limit int64) string {
	if limit <= 0 {
		return "no limit"
	}
	return percent(used/float64(limit)) + " %"
}

func limitOf(n int64, words func(int64) string) string {
	if n <= 0 {
		return "no limit"
	}
	return words(n)
}

// ownerLimits are the thresholds that the owner of a stream or consumer set.
func ownerLimits(t *fleet.Thresholds) []templates.Setting {
	if t == nil {
		return nil
	}
	var out []templates.Setting
	add := func(name, value string, set bool) {
		if set {
			out = append(out, templates.Setting{Name: name, Value: value})
		}
	}
	add("Checks", "switched off", t.MonitorOff)
	add("msgs-warn", countWords(t.MsgsWarn), t.MsgsWarn > 0)
	add("msgs-critical", countWords(t.MsgsCritical), t.MsgsCritical > 0)
	add("subjects-warn", countWords(uint64(t.SubjWarn)), t.SubjWarn > 0)
	add("subjects-critical", countWords(uint64(t.SubjCritical)), t.SubjCritical > 0)
	add("lag-critical", countWords(t.SourceLag), t.SourceLag > 0)
	add("seen-critical", duration(t.SourceSeen), t.SourceSeen > 0)
	add("min-sources", countWords(uint64(t.MinSources)), t.MinSources > 0)
	add("max-sources", countWords(uint64(t.MaxSources)), t.MaxSources > 0)
	add("peer-expect", countWords(uint64(t.Peers)), t.Peers > 0)
	add("peer-lag-critical", countWords(t.PeerLag), t.PeerLag > 0)
	add("peer-seen-critical", duration(t.PeerSeen), t.PeerSeen > 0)
	add("outstanding-ack-critical", countWords(uint64(t.AckPending)), t.AckPending > 0)
	add("waiting-critical", countWords(uint64(t.Waiting)), t.Waiting > 0)
	add("unprocessed-critical", countWords(t.Unprocessed), t.Unprocessed > 0)
	add("last-delivery-critical", duration(t.LastDelivery), t.LastDelivery > 0)
	add("last-ack-critical", duration(t.LastAck), t.LastAck > 0)
	add("redelivery-critical", countWords(uint64(t.Redelivered)), t.Redelivered > 0)
	add("pinned", "every priority group must have its client", t.Pinned)
	for _, key := range t.Ignored {
		add(key, "cannot be read, counts for nothing", true)
	}
	return out
}

func streamEntity(a chartArgs) fleet.Entity {
	return fleet.StreamKey{Account: a.consumer.Account, Stream: a.consumer.Stream}.Entity()
}

// streamChart draws columns of a stream with the limits that belong to them.
func streamChart(title, unit, note string, add func(*limits, *fleet.Stream), cols ...[2]string) func(*Server, context.Context, chartArgs) (chart, error) {
	draw := columnsChart(title, unit, note, streamEntity, cols...)
	return func(s *Server, ctx context.Context, a chartArgs) (chart, error) {
		c, err := draw(s, ctx, a)
		if r := s.streamNamed(fleet.StreamKey{Account: a.consumer.Account, Stream: a.consumer.Stream}); err == nil && r != nil {
			add(&c.limits, r.Stream)
		}
		return c, err
	}
}
