package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

func consumerRoutes(s *Server, e *echo.Echo) {
	page(e, "/consumers", consumerPages.show(s))
	e.GET("/consumers/:account/:stream/:consumer", s.showConsumer)
	e.POST("/consumers/:account/:stream/:consumer/measure", s.measureConsumer)
	e.POST("/consumers/:account/:stream/:consumer/stop", s.stopMeasuring)
}

func consumerURL(k fleet.ConsumerKey) string {
	return "/consumers/" + url.PathEscape(k.Account) + "/" + url.PathEscape(k.Stream) + "/" + url.PathEscape(k.Consumer)
}

// consumerState gives a consumer a shape and a word. Only what stands in its own
// figures is said here; what the checks found has its own page.
func (s *Server) consumerState(c *fleet.Consumer) (tone, word string) {
	switch {
	case c.Fold != nil && c.Fold.Count == 0:
		return "idle", "none now"
	case s.Now().Sub(c.At) > s.staleAfter():
		return "stale", "no new data for " + ago(s.Now().Sub(c.At))
	case c.Fold != nil:
		return "idle", "many, summed up"
	case c.Leader == "" && len(c.Peers) > 0:
		return "crit", "no leader"
	case c.Paused:
		return "idle", "paused"
	case c.MaxAckPending > 0 && c.AckPending >= c.MaxAckPending:
		return "warn", "max_ack_pending reached"
	}
	return "ok", "healthy"
}

// consumerRow is a consumer with its rates.
type consumerRow struct {
	*fleet.Consumer
	rate   fleet.ConsumerRate
	known  bool   // the rates are measured
	target string // split/target that is measured here
}

var consumerPages = collection[consumerRow]{
	id: navConsumers, title: "Consumers", icon: navConsumers, placeholder: "consumer, stream or account", none: "Nothing was seen that reads from a stream.",
	own: []string{"account", "stream", "server"}, list: (*Server).consumerList, rows: (*Server).consumerRows, sub: (*Server).consumerSum,
	heading: func(a listArgs) string {
		if st := a.rest.Get("stream"); st != "" {
			return "Consumers of " + st
		}
		return ""
	},
	filters: func(s *Server, a listArgs) []templates.ListFilter {
		all := s.Metrics.Latest().Consumers
		return []templates.ListFilter{
			oneOf("account", "Account", a.rest.Get("account"), all, func(c *fleet.Consumer) string { return c.Account }),
			oneOf("server", "Server", a.rest.Get("server"), all, func(c *fleet.Consumer) string { return c.Leader }),
		}
	},
	doc: func(s *Server, r *consumerRow) any { return s.consumerLine(r) },
}

func (s *Server) consumerRows(a listArgs) []consumerRow {
	snap, rates, targets := s.Metrics.Latest(), s.Metrics.Rates(), s.observed()
	account, stream, server := a.rest.Get("account"), a.rest.Get("stream"), a.rest.Get("server")
	rows := make([]consumerRow, 0, len(snap.Consumers))
	for i := range snap.Consumers {
		c := &snap.Consumers[i]
		if account != "" && c.Account != account || stream != "" && c.Stream != stream || server != "" && c.Leader != server {
			continue
		}
		rows = append(rows, rowOf(c, rates, targets))
	}
	slices.SortFunc(rows, func(a, b consumerRow) int {
		return cmp.Or(strings.Compare(a.Account, b.Account), strings.Compare(a.Stream, b.Stream), strings.Compare(a.Consumer.Consumer, b.Consumer.Consumer))
	})
	return rows
}

func rowOf(c *fleet.Consumer, rates *fleet.Rates, targets map[fleet.ConsumerKey]string) consumerRow {
	r := consumerRow{Consumer: c}
	r.rate, r.known = rates.Consumers[c.ConsumerKey]
	if len(targets) > 0 {
		r.target = cmp.Or(targets[c.ConsumerKey], targets[fleet.ConsumerKey{Stream: c.Stream, Consumer: c.Consumer}])
	}
	return r
}

// observed are the targets of the splits by the consumers at which they are
// measured; the account is "" where the target does not say it.
func (s *Server) observed() map[fleet.ConsumerKey]string {
	targets := map[fleet.ConsumerKey]string{}
	for _, rev := range s.Control.Splits() {
		for _, t := range rev.Split.Targets {
			if o := t.Observe; o != nil {
				targets[fleet.ConsumerKey{Account: o.Account, Stream: o.Stream, Consumer: o.Consumer}] = rev.Split.Name + "/" + t.Name
			}
		}
	}
	return targets
}

func (s *Server) consumerSum(rows []consumerRow) string {
	var pending uint64
	sampled, folded := 0, 0
	for _, r := range rows {
		pending += r.Pending
		if r.Sampled() {
			sampled++
		}
		if r.Fold != nil {
			folded++
		}
	}
	sum := fmt.Sprintf("%s; %s messages wait; %s sampled.", count(len(rows), "consumer"), countWords(pending), plural(sampled, "is", "are"))
	if folded > 0 {
		sum += " " + plural(folded, "row sums", "rows sum") + " up short-lived ones."
	}
	return sum
}

// key is the prefix of its live keys.
func (r *consumerRow) key() string { return htmlID("con", r.Entity().Key) }

func figureCell(key, name, text string) templates.ListCell {
	return templates.ListCell{Key: key + "/" + name, Text: text}
}

func (r *consumerRow) cell(name, text string) templates.ListCell {
	return figureCell(r.key(), name, text)
}

// perSecond is a rate in words, if it is measured.
func (r *consumerRow) perSecond(v float64) string {
	if !r.known {
		return none
	}
	return figure(v, "msg/s")
}

func (s *Server) consumerList() listing[consumerRow] {
	by := func(v func(*consumerRow) float64) func(a, b *consumerRow) int {
		return func(a, b *consumerRow) int { return cmp.Compare(v(a), v(b)) }
	}
	return listing[consumerRow]{
		path: "/consumers",
		name: func(r *consumerRow) string { return r.Account + "\n" + r.Stream + "\n" + r.Consumer.Consumer },
		cols: []listCol[consumerRow]{
			{key: "name", label: "Consumer", by: func(a, b *consumerRow) int { return strings.Compare(a.Consumer.Consumer, b.Consumer.Consumer) },
				cell: func(r *consumerRow) templates.ListCell {
					return templates.ListCell{Text: r.Consumer.Consumer, URL: consumerURL(r.ConsumerKey), Small: foldWords(r.Consumer)}
				}},
			{key: "stream", label: "Stream", by: func(a, b *consumerRow) int {
				return cmp.Or(strings.Compare(a.Account, b.Account), strings.Compare(a.Stream, b.Stream))
			},
				cell: func(r *consumerRow) templates.ListCell {
					return templates.ListCell{Text: r.Stream, URL: streamURL(fleet.StreamKey{Account: r.Account, Stream: r.Stream}), Small: r.Account}
				}},
			{label: "State", cell: func(r *consumerRow) templates.ListCell {
				tone, word := s.consumerState(r.Consumer)
				return templates.ListCell{Text: word, Tone: tone}
			}},
			{key: "pending", label: "Pending", right: true, down: true, by: func(a, b *consumerRow) int { return cmp.Compare(a.Pending, b.Pending) },
				cell: func(r *consumerRow) templates.ListCell { return r.cell("pending", countWords(r.Pending)) }},
			{key: "ack_pending", label: "In flight", right: true, down: true, by: func(a, b *consumerRow) int { return cmp.Compare(a.AckPending, b.AckPending) },
				cell: func(r *consumerRow) templates.ListCell {
					return r.cell("inflight", countWords(uint64(max(r.AckPending, 0))))
				}},
			{key: "redelivered", label: "Redelivered", right: true, down: true, by: func(a, b *consumerRow) int { return cmp.Compare(a.Redelivered, b.Redelivered) },
				cell: func(r *consumerRow) templates.ListCell {
					return r.cell("redelivered", countWords(uint64(max(r.Redelivered, 0))))
				}},
			{key: "arrived", label: "Arrived msg/s", right: true, down: true, by: by(func(r *consumerRow) float64 { return r.rate.Arrived }),
				cell: func(r *consumerRow) templates.ListCell { return r.cell("arrived", r.perSecond(r.rate.Arrived)) }},
			{key: "acked", label: "Settled msg/s", right: true, down: true, by: by(func(r *consumerRow) float64 { return r.rate.Acked }),
				cell: func(r *consumerRow) templates.ListCell { return r.cell("acked", r.perSecond(r.rate.Acked)) }},
			{key: "leader", label: "Leader", by: func(a, b *consumerRow) int { return strings.Compare(a.Leader, b.Leader) },
				cell: func(r *consumerRow) templates.ListCell {
					if r.Leader == "" {
						return templates.ListCell{Text: none}
					}
					return templates.ListCell{Text: r.Leader, URL: serverURL(r.Leader)}
				}},
			{key: "sampled", label: "Sampled", right: true, by: func(a, b *consumerRow) int { return strings.Compare(a.SampleFreq, b.SampleFreq) },
				cell: func(r *consumerRow) templates.ListCell { return templates.ListCell{Text: sampledText(r.Consumer)} }},
		},
	}
}

func sampledText(c *fleet.Consumer) string {
	if !c.Sampled() {
		return "off"
	}
	return strings.TrimSuffix(c.SampleFreq, "%") + " %"
}

// foldWords says what a row of short-lived consumers stands for; "" for any other.
func foldWords(c *fleet.Consumer) string {
	if c.Fold == nil {
		return ""
	}
	return countWords(uint64(max(c.Fold.Count, 0))) + " short-lived"
}

// consumerOfPath finds the consumer that a path names.
func (s *Server) consumerOfPath(c echo.Context) (k fleet.ConsumerKey, con *fleet.Consumer, err error) {
	for name, into := range map[string]*string{"account": &k.Account, "stream": &k.Stream, "consumer": &k.Consumer} {
		if *into, err = pathParam(c, name); err != nil {
			return k, nil, err
		}
	}
	if con = s.consumer(k); con == nil && format(c) != "" { // no name of a consumer has a dot
		k.Consumer = strings.TrimSuffix(k.Consumer, "."+format(c))
		con = s.consumer(k)
	}
	if con == nil {
		return k, nil, consumerGone(k)
	}
	return k, con, nil
}

func consumerGone(k fleet.ConsumerKey) error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no consumer %q of stream %q.", k.Consumer, k.Stream), Hint: "It may have been removed; look at the list of consumers."}
}

func (s *Server) consumer(k fleet.ConsumerKey) *fleet.Consumer {
	return consumerNamed(s.Metrics.Latest(), k)
}

// memberOf finds a short-lived consumer among those that its row keeps in detail.
func (s *Server) memberOf(k fleet.ConsumerKey) (fold, con *fleet.Consumer) {
	snap := s.Metrics.Latest()
	for i := range snap.Consumers {
		f := &snap.Consumers[i]
		if f.Fold == nil || f.Account != k.Account || f.Stream != k.Stream {
			continue
		}
		for j := range f.Fold.Top {
			if f.Fold.Top[j].ConsumerKey == k {
				return f, &f.Fold.Top[j]
			}
		}
	}
	return nil, nil
}

func (s *Server) consumerRow(con *fleet.Consumer) consumerRow {
	return rowOf(con, s.Metrics.Rates(), s.observed())
}

func (s *Server) showConsumer(c echo.Context) error {
	k, con, err := s.consumerOfPath(c)
	if err != nil {
		for _, name := range []string{k.Consumer, strings.TrimSuffix(k.Consumer, "."+format(c))} {
			k.Consumer = name
			if fold, member := s.memberOf(k); member != nil {
				return s.showMember(c, fold, member)
			}
		}
		return err
	}
	if con.Fold != nil {
		return s.showFold(c, con)
	}
	if format(c) != "" {
		row := s.consumerRow(con)
		return s.exportDocs(c, "consumer-"+con.Consumer, consumerDoc{}, []any{s.consumerLine(&row)})
	}
	return s.answerConsumer(c, http.StatusOK, con, templates.MeasureForm{})
}

// answerConsumer shows a consumer; form is what was typed and refused.
func (s *Server) answerConsumer(c echo.Context, status int, con *fleet.Consumer, form templates.MeasureForm) error {
	span, err := s.rangeOf(c)
	if err != nil {
		return err
	}
	k := con.ConsumerKey
	v := templates.Consumer{Name: k.Consumer, Where: strings.TrimPrefix(k.Account+" / "+k.Stream, " / "), StreamURL: streamURL(fleet.StreamKey{Account: k.Account, Stream: k.Stream}),
		CSV: consumerURL(k) + ".csv", JSON: consumerURL(k) + ".json", Download: exportURL(k.Entity()), Measure: s.measureView(con, form), SettingsURL: settingsURL(k)}
	v.Status.Tone, v.Status.Word = s.consumerState(con)
	if v.KPIs, err = s.consumerKPIs(c.Request().Context(), con); err != nil {
		return err
	}
	v.State = s.consumerFacts(con)
	args := chartArgs{consumer: k, span: span}
	h, err := s.heat(c.Request().Context(), con, args)
	if err != nil {
		return err
	}
	v.Heat = h.view()
	if v.Charts, err = s.charts(c.Request().Context(), args, "consumer-latency", "consumer-rate", "consumer-pending", "consumer-inflight", "consumer-redelivered", "consumer-waiting"); err != nil {
		return err
	}
	v.Config = s.consumerConfig(con)
	v.Limits = ownerLimits(con.Limits)
	v.Replicas, v.Findings = replicaRows(con.Leader, con.Peers), s.findingsOn(k.Entity())
	for _, rev := range s.Control.Splits() {
		for _, t := range rev.Split.Targets {
			if at, ok := s.consumerOf(t); ok && at == k {
				v.Splits = append(v.Splits, templates.Link{Name: rev.Split.Name + " / " + t.Name, URL: splitURL(rev.Split.Name)})
			}
		}
	}
	q := url.Values{"account": {k.Account}, "stream": {k.Stream}, "consumer": {k.Consumer}}.Encode()
	topic := topicConsumer + ":" + q
	if len(topic) > maxTopicName {
		topic = ""
	}
	f := follow(s.frame(c, k.Consumer, navConsumers, templates.Crumb{Name: "Consumers", URL: "/consumers"}, templates.Crumb{Name: k.Stream, URL: v.StreamURL}, templates.Crumb{Name: k.Consumer}), topic)
	f.Charts, f.Range = true, span.choices(consumerURL(k))
	return showAs(c, status, templates.ConsumerPage(f, v), templates.MeasureBox(v.Measure))
}

func (s *Server) consumerConfig(con *fleet.Consumer) []templates.Setting {
	limit := func(n int) string {
		if n <= 0 {
			return "none"
		}
		return countWords(uint64(n))
	}
	return []templates.Setting{
		{Name: "Subjects", Value: cmp.Or(strings.Join(con.FilterSubjects, ", "), "all of the stream")}, {Name: "ack_policy", Value: con.AckPolicy}, {Name: "ack_wait", Value: duration(con.AckWait)},
		{Name: "max_ack_pending", Value: limit(con.MaxAckPending)}, {Name: "max_deliver", Value: limit(con.MaxDeliver)}, {Name: "sample_freq", Value: sampledText(con)},
		{Name: "Created", Value: cmp.Or(s.when(con.Created).Exact, none)},
	}
}

// consumerCols are the series behind a consumer's figures.
var consumerCols = map[string]string{
	"con/pending": fleet.ColPending, "con/inflight": fleet.ColInFlight, "con/redelivered": fleet.ColRedelivered,
	"con/arrived": fleet.ColArrived, "con/delivered": fleet.ColDelivered, "con/acked": fleet.ColAcked,
}

func (s *Server) consumerKPIs(ctx context.Context, con *fleet.Consumer) ([]templates.KPI, error) {
	r := s.consumerRow(con)
	owner := con.Limits
	if owner == nil {
		owner = &fleet.Thresholds{}
	}
	counted := func(key, label string, n, most uint64) templates.KPI {
		k := templates.KPI{Key: key, Label: label, Value: countWords(n), NoteKey: key + "-of"}
		if most > 0 {
			k.Note = "owner: below " + countWords(most)
			if n >= most {
				k.Tone = "crit"
			}
		}
		return k
	}
	kpis := []templates.KPI{
		counted("con/pending", "Pending", con.Pending, owner.Unprocessed),
		counted("con/inflight", "In flight", uint64(max(con.AckPending, 0)), uint64(owner.AckPending)),
		counted("con/redelivered", "Outstanding redeliveries", uint64(max(con.Redelivered, 0)), uint64(owner.Redelivered)),
		{Key: "con/arrived", Label: "Arrived", Value: r.perSecond(r.rate.Arrived), Unit: "msg/s"},
		{Key: "con/delivered", Label: "Delivered", Value: r.perSecond(r.rate.Delivered), Unit: "msg/s"},
		{Key: "con/acked", Label: "Settled", Value: r.perSecond(r.rate.Acked), Unit: "msg/s"},
	}
	return kpis, s.kpiSparks(ctx, con.Entity(), kpis, consumerCols)
}

func (s *Server) consumerFacts(con *fleet.Consumer) []templates.Setting {
	moment := func(t time.Time) string { return cmp.Or(s.when(t).Ago, none) }
	owner := con.Limits
	if owner == nil {
		owner = &fleet.Thresholds{}
	}
	within := func(d time.Duration) string {
		if d <= 0 {
			return ""
		}
		return " (owner: within " + duration(d) + ")"
	}
	return []templates.Setting{
		{Name: "Deliveries", Value: countWords(con.Delivered), Key: "con/f-delivered"}, {Name: "Stream sequence delivered", Value: s.ofNow(countWords(con.DeliveredSeq)), Key: "con/f-seq"},
		{Name: "Acknowledged up to", Value: countWords(con.AckFloor), Key: "con/f-floor"}, {Name: "Stream sequence acknowledged", Value: s.ofNow(countWords(con.AckFloorSeq)), Key: "con/f-floorseq"},
		{Name: "Pull requests waiting", Value: countWords(uint64(max(con.Waiting, 0))), Key: "con/f-waiting"},
		{Name: "Last delivery", Value: s.ofNow(moment(con.LastDelivery)) + within(owner.LastDelivery), Key: "con/f-last"}, {Name: "Last acknowledgement", Value: s.ofNow(moment(con.LastAck)) + within(owner.LastAck), Key: "con/f-lastack"},
		{Name: "Measured", Value: moment(con.At), Key: "con/f-at"}, {Name: "Source", Value: string(con.Source)},
	}
}

func (s *Server) consumerTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the consumer's name: %w", err)
	}
	k := fleet.ConsumerKey{Account: q.Get("account"), Stream: q.Get("stream"), Consumer: q.Get("consumer")}
	con := s.consumer(k)
	if con == nil {
		return update{}, consumerGone(k)
	}
	tone, word := s.consumerState(con)
	m := s.measureView(con, templates.MeasureForm{})
	shape := m.Sampled + "\x00" + m.Why
	for _, r := range m.Last {
		shape += "\x00" + r.ID + r.Status
	}
	if m.Runs != nil {
		shape += "\x00runs" + m.Runs.ID + m.Runs.Status
	}
	up := update{Text: map[string]string{}, Attr: map[string]string{}, Parts: map[string]part{
		"consumer-status": {templates.Chip(templates.Status{Tone: tone, Word: word}), tone + word},
		"measure":         {templates.MeasureBox(m), shape},
	}}
	kpis, err := s.consumerKPIs(ctx, con)
	if err != nil {
		return update{}, err
	}
	kpiText(up, kpis)
	for _, f := range s.consumerFacts(con) {
		if f.Key != "" {
			up.Text[f.Key] = f.Value
		}
	}
	return up, nil
}

// measureSpans are how long a consumer may be measured.
var measureSpans = []struct {
	key, label string
	d          time.Duration
}{
	{"5m", "5 minutes", 5 * time.Minute}, {"15m", "15 minutes", 15 * time.Minute}, {"1h", "1 hour", time.Hour}, {"8h", "8 hours", 8 * time.Hour}, {"24h", "24 hours", 24 * time.Hour},
}

// measureView is how the consumer is measured now, and the form.
func (s *Server) measureView(con *fleet.Consumer, form templates.MeasureForm) templates.Measure {
	v := templates.Measure{Sampled: "sample_freq is off: latencies are estimated", Form: form}
	if con.Sampled() {
		v.Sampled = "sample_freq is " + sampledText(con)
	}
	v.Form.URL, v.Form.For = consumerURL(con.ConsumerKey)+"/measure", cmp.Or(form.For, measureSpans[1].key)
	for _, sp := range measureSpans {
		v.Form.Spans = append(v.Form.Spans, templates.Option{Value: sp.key, Label: sp.label})
	}
	for _, m := range s.Control.Measurements() {
		if m.Consumer.Stream != con.Stream || m.Consumer.Consumer != con.Consumer || m.Consumer.Account != "" && m.Consumer.Account != con.Account {
			continue
		}
		run := templates.MeasureRun{ID: m.ID, Status: string(m.Phase), Tone: "info", Actor: m.Actor, Reason: m.Reason, Outcome: m.Outcome, Percent: fmt.Sprintf("%d %%", m.Percent),
			Started: s.when(m.Started), Ends: millis(m.Ends), Until: "until " + m.Ends.UTC().Format("15:04:05 UTC"), StopURL: consumerURL(con.ConsumerKey) + "/stop"}
		if m.Cost.Samples > 0 {
			run.Cost = fmt.Sprintf("%s samples, %s a second.", countWords(m.Cost.Samples), figure(m.Cost.SamplesPerSec, "msg/s"))
		}
		switch m.Phase {
		case traffic.SwitchingOn, traffic.Measuring, traffic.PuttingBack:
			if v.Runs == nil {
				v.Runs = &run
				continue
			}
		}
		run.Tone = "idle"
		if len(v.Last) < 5 {
			v.Last = append(v.Last, run)
		}
	}
	if strings.TrimSuffix(con.SampleFreq, "%") == "100" {
		v.Why = "The servers sample every acknowledgement of this consumer already."
	}
	if con.Fold != nil {
		v.Why = "This row sums up many consumers with generated names; they are not measured one by one."
	} else if err := s.Control.Ready(); err != nil {
		v.Why = "It cannot be measured now: " + fault(err).Title
	}
	if con.Misfit != "" {
		said := &v.Sampled
		if v.Why != "" {
			said = &v.Why
		}
		*said = strings.TrimSuffix(*said, ".") + "; the samples cannot all be the servers' own: " + con.Misfit + "."
	}
	return v
}

func (s *Server) measureConsumer(c echo.Context) error {
	k, con, err := s.consumerOfPath(c)
	if err != nil {
		return err
	}
	form := templates.MeasureForm{For: c.FormValue("for"), Percent: strings.TrimSpace(c.FormValue("percent")), Reason: strings.TrimSpace(c.FormValue("reason"))}
	refuse := func(msg string, fields map[string]string) error {
		form.Wrong, form.WrongFields = msg, fields
		return s.answerConsumer(c, http.StatusUnprocessableEntity, con, form)
	}
	wrong := map[string]string{}
	var span time.Duration
	for _, sp := range measureSpans {
		if sp.key == form.For {
			span = sp.d
		}
	}
	if span == 0 {
		wrong["duration"] = "Choose one of these."
	}
	share := 0
	if form.Percent != "" {
		if share, err = strconv.Atoi(form.Percent); err != nil || share < 1 || share > 100 {
			wrong["percent"] = "Give a whole number from 1 to 100, or leave it empty."
		}
	}
	if form.Reason == "" || len(form.Reason) > maxReason {
		wrong["reason"] = fmt.Sprintf("Say why, in at most %d characters.", maxReason)
	}
	if len(wrong) > 0 {
		return refuse("The consumer is not measured.", wrong)
	}
	_, err = s.Control.Measure(c.Request().Context(), k, share, span, s.Operator, form.Reason)
	var e *fleet.Error
	if errors.As(err, &e) && e.Kind == fleet.Invalid {
		return refuse(strings.TrimSpace(e.Msg+" "+e.Hint), e.Fields)
	}
	if err != nil {
		return err
	}
	return seeOther(c, consumerURL(k))
}

func (s *Server) stopMeasuring(c echo.Context) error {
	// The consumer may be gone: its measurement is to be ended all the same.
	k, _, err := s.consumerOfPath(c)
	var e *fleet.Error
	if err != nil && !(errors.As(err, &e) && e.Kind == fleet.NotFound) {
		return err
	}
	if _, err := s.Control.StopMeasuring(c.Request().Context(), c.FormValue("id"), s.Operator); err != nil {
		return err
	}
	return seeOther(c, consumerURL(k))
}

// Charts of one consumer.

func (s *Server) consumerLatencyChart(ctx context.Context, a chartArgs) (chart, error) {
	c := chart{title: "ACK latency", unit: "ms", hint: a.consumer.Consumer}
	c.limits.wait(s.consumer(a.consumer))
	lat, parts, err := s.Metrics.LatencyParts(ctx, a.consumer, a.span.Range, a.points)
	if err != nil {
		return chart{}, err
	}
	if lat.Source == fleet.Estimate {
		l := latencyLine(lat, nil)
		l.label, l.color = "mean (est.)", "c-p95"
		c.lines, c.note = []line{l}, "Not sampled: the mean is estimated from rates and outstanding messages (Little's law); a stuck message or bursts mislead it."
		return c, nil
	}
	for _, q := range heatLines {
		l := line{label: q.name, color: q.color, source: lat.Source, step: lat.Step, data: make([]sample, len(parts))}
		for i, p := range parts {
			v := inMS(p.Sketch.Quantile(q.q))
			l.data[i] = sample{at: p.At, min: v, max: v, avg: v, n: p.Sketch.Count()}
		}
		c.lines = append(c.lines, l)
	}
	c.note = fmt.Sprintf("Measured by the servers; %.0f %% of the acknowledgements are sampled.", lat.Share*100)
	return c, nil
}

// consumerColumns draws columns of one consumer.
func (s *Server) consumerColumns(ctx context.Context, a chartArgs, c chart, cols ...[2]string) (chart, error) {
	for i, col := range cols {
		l, _, err := s.series(ctx, a.consumer.Entity(), col[1], a)
		if err != nil {
			return chart{}, fmt.Errorf("column %s: %w", col[1], err)
		}
		l.label, l.color = col[0], targetColor(i)
		c.lines = append(c.lines, l)
	}
	return c, nil
}

func (s *Server) consumerRateChart(ctx context.Context, a chartArgs) (chart, error) {
	return s.consumerColumns(ctx, a, chart{title: "Rates", unit: "msg/s", note: "Deliveries include redeliveries."},
		[2]string{"arrived", fleet.ColArrived}, [2]string{"delivered", fleet.ColDelivered}, [2]string{"settled", fleet.ColAcked})
}

func (s *Server) consumerPendingChart(ctx context.Context, a chartArgs) (chart, error) {
	c := chart{title: "Pending", unit: "msgs", note: "Messages that are still to be delivered."}
	c.limits.pending(s.consumer(a.consumer))
	return s.consumerColumns(ctx, a, c, [2]string{"pending", fleet.ColPending})
}

func (s *Server) consumerInFlightChart(ctx context.Context, a chartArgs) (chart, error) {
	c := chart{title: "In flight", unit: "msgs", note: "Delivered messages whose acknowledgement is awaited."}
	c.limits.inFlight(s.consumer(a.consumer))
	return s.consumerColumns(ctx, a, c, [2]string{"in flight", fleet.ColInFlight})
}

func (s *Server) consumerRedeliveredChart(ctx context.Context, a chartArgs) (chart, error) {
	c := chart{title: "Outstanding redeliveries", unit: "msgs", note: "Messages now outstanding that were delivered more than once."}
	c.limits.redelivered(s.consumer(a.consumer))
	return s.consumerColumns(ctx, a, c, [2]string{"redelivered", fleet.ColRedelivered})
}

func (s *Server) consumerWaitingChart(ctx context.Context, a chartArgs) (chart, error) {
	c := chart{title: "Pull requests", note: "Requests of clients that wait for messages."}
	c.limits.waiting(s.consumer(a.consumer))
	return s.consumerColumns(ctx, a, c, [2]string{"waiting", fleet.ColWaiting})
}

// consumerDoc is a consumer as a row of the exports; rates are per second.
type consumerDoc struct {
	Account     string       `json:"account"`
	Stream      string       `json:"stream"`
	Consumer    string       `json:"consumer"`
	Leader      string       `json:"leader"`
	Pending     uint64       `json:"pending"`
	AckPending  int          `json:"ack_pending"`
	Redelivered int          `json:"redelivered"`
	Waiting     int          `json:"waiting"`
	Arrived     float64      `json:"arrived_per_s"`
	Delivered   float64      `json:"delivered_per_s"`
	Acked       float64      `json:"acked_per_s"`
	MaxPending  int          `json:"max_ack_pending"`
	AckWaitMS   float64      `json:"ack_wait_ms"`
	Sampled     string       `json:"sample_freq"`
	Paused      bool         `json:"paused"`
	Misfit      string       `json:"samples_misfit,omitempty"` // why they cannot all be the servers' own
	Target      string       `json:"target,omitempty"`         // split/target that is measured here
	State       string       `json:"state"`
	Subjects    []string     `json:"subjects"`
	Pattern     string       `json:"fold_pattern,omitempty"` // set: a row of many short-lived consumers
	Members     int          `json:"fold_now,omitempty"`
	Most        int          `json:"fold_most,omitempty"`
	Seen        uint64       `json:"fold_seen,omitempty"`
	At          time.Time    `json:"measured_at"`
	Source      fleet.Source `json:"source"`
}

func (s *Server) consumerLine(r *consumerRow) consumerDoc {
	k := r.Consumer
	if k == nil {
		return consumerDoc{}
	}
	tone, state := s.consumerState(k)
	if tone == "stale" {
		state = tone // its age is in measured_at
	}
	d := consumerDoc{
		Account: k.Account, Stream: k.Stream, Consumer: k.Consumer, Leader: k.Leader, Pending: k.Pending, AckPending: k.AckPending, Redelivered: k.Redelivered, Waiting: k.Waiting,
		Arrived: r.rate.Arrived, Delivered: r.rate.Delivered, Acked: r.rate.Acked, MaxPending: k.MaxAckPending, AckWaitMS: inMS(k.AckWait), Sampled: k.SampleFreq, Paused: k.Paused, Misfit: k.Misfit,
		Target: r.target, State: state, Subjects: k.FilterSubjects, At: k.At.UTC(), Source: k.Source,
	}
	if f := k.Fold; f != nil {
		d.Pattern, d.Members, d.Most, d.Seen = f.Pattern, f.Count, f.Most, f.Seen
	}
	return d
}
