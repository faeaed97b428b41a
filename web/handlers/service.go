package handlers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// One micro service: all instances of a name together.

func serviceURL(account, name string) string {
	return "/services/" + url.PathEscape(account) + "/" + url.PathEscape(name)
}

// instancesURL lists the endpoints of all instances of a service.
func instancesURL(account, name string) string {
	return withQuery("/services", url.Values{"account": {account}, "service": {name}})
}

// service is a micro service as its instances tell of it.
type service struct {
	account, name string
	instances     []*fleet.Service
	ends          []serviceEnd // by name
	total         serviceEnd
	at            time.Time // when an instance answered last
}

// serviceEnd is an endpoint, summed over the instances that have it.
type serviceEnd struct {
	fleet.Endpoint
	subjects, queues []string // that instances give it
	instances        int
}

func (e *serviceEnd) add(x *fleet.Endpoint) {
	e.instances++
	e.Requests += x.Requests
	e.Errors += x.Errors
	e.ProcessingTime += x.ProcessingTime
	e.LastError = cmp.Or(x.LastError, e.LastError)
	e.subjects, e.queues = withOne(e.subjects, x.Subject), withOne(e.queues, x.Queue)
}

// withOne is a list with a word, unless it stands there already or says nothing.
func withOne(all []string, word string) []string {
	if word == "" || slices.Contains(all, word) {
		return all
	}
	return append(all, word)
}

// errorShare is the part of the requests that was answered with an error.
func (e *serviceEnd) errorShare() float64 { return float64(e.Errors) / float64(max(e.Requests, 1)) }

// serviceNamed sums up the instances of a name; nil if none is known.
func (s *Server) serviceNamed(account, name string) *service {
	v := &service{account: account, name: name}
	ends := map[string]*serviceEnd{}
	all := s.Metrics.Latest().Services
	for i := range all {
		x := &all[i]
		if x.Account != account || x.Name != name {
			continue
		}
		v.instances = append(v.instances, x)
		if x.At.After(v.at) {
			v.at = x.At
		}
		for j := range x.Endpoints {
			e := &x.Endpoints[j]
			if ends[e.Name] == nil {
				ends[e.Name] = &serviceEnd{Endpoint: fleet.Endpoint{Name: e.Name}}
			}
			ends[e.Name].add(e)
			v.total.add(e)
		}
	}
	if len(v.instances) == 0 {
		return nil
	}
	slices.SortStableFunc(v.instances, func(a, b *fleet.Service) int { return strings.Compare(a.ID, b.ID) })
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		v.ends = append(v.ends, *ends[name])
	}
	return v
}

func serviceGone(name string) error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("No instance of a service %q answers.", name), Hint: "The last one may have ended; what is recorded of it can be seen by going back in time, or downloaded."}
}

func (s *Server) showService(c echo.Context) error {
	account, err := pathParam(c, "account")
	if err != nil {
		return err
	}
	name, err := pathParam(c, "service")
	if err != nil {
		return err
	}
	name = withoutFormat(c, name, func(n string) bool { return s.serviceNamed(account, n) != nil })
	v := s.serviceNamed(account, name)
	if v == nil {
		return serviceGone(name)
	}
	if format(c) != "" {
		rows := s.serviceRows(listArgs{rest: url.Values{"account": {account}, "service": {name}}})
		docs := make([]any, len(rows))
		for i := range rows {
			docs[i] = serviceLineOf(&rows[i])
		}
		return s.exportDocs(c, "service-"+name, serviceLine{}, docs)
	}
	d, err := s.serviceDetail(c.Request().Context(), v)
	if err != nil {
		return err
	}
	charts := []string{"service-requests", "service-time", "service-errors", "service-instances"}
	for _, x := range v.instances {
		own := x.Own()
		if own.HasCPU && !slices.Contains(charts, "service-cpu") {
			charts = append(charts, "service-cpu")
		}
		if own.HasMem && !slices.Contains(charts, "service-memory") {
			charts = append(charts, "service-memory")
		}
	}
	topic := topicService + ":" + url.Values{"account": {account}, "service": {name}}.Encode()
	return s.showDetail(c, navServices, serviceURL(account, name), topic, d, chartArgs{service: name, consumer: fleet.ConsumerKey{Account: account}},
		charts, templates.Crumb{Name: "Services", URL: "/services"})
}

func (s *Server) serviceTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the service's name: %w", err)
	}
	v := s.serviceNamed(q.Get("account"), q.Get("service"))
	if v == nil {
		return update{}, serviceGone(q.Get("service"))
	}
	d, err := s.serviceDetail(ctx, v)
	if err != nil {
		return update{}, err
	}
	return detailUpdate(d), nil
}

// serviceStale is after how long an instance that did not answer is called
// silent: they are asked in every third round.
func (s *Server) serviceStale(at time.Time) bool { return s.Now().Sub(at) > 3*s.staleAfter() }

// serviceDetail is a service's page without its charts.
func (s *Server) serviceDetail(ctx context.Context, v *service) (templates.Detail, error) {
	const id = "svc"
	entity := fleet.MicroEntity(v.account, v.name)
	d := templates.Detail{ID: id, Name: v.name, Where: v.account, WhereURL: accountURL(v.account), CSV: serviceURL(v.account, v.name) + ".csv", JSON: serviceURL(v.account, v.name) + ".json",
		Download: exportURL(entity)}
	d.Findings = s.findingsOn(fleet.Entity{Kind: fleet.KindService, Key: v.name})
	silent := 0
	for _, x := range v.instances {
		d.Findings = append(d.Findings, s.findingsOn(x.Entity())...)
		if s.serviceStale(x.At) {
			silent++
		}
	}
	switch {
	case silent == len(v.instances):
		d.Status = templates.Status{Tone: "stale", Word: "no new data for " + ago(s.Now().Sub(v.at))}
	case silent > 0:
		d.Status = templates.Status{Tone: "warn", Word: fmt.Sprintf("%d of %s silent", silent, plural(len(v.instances), "instance is", "instances are"))}
	default:
		d.Status = templates.Status{Tone: "ok", Word: plural(len(v.instances), "instance answers", "instances answer")}
	}
	served, knownServed, err := s.newest(ctx, entity, fleet.ColServed)
	if err != nil {
		return d, err
	}
	failed, knownFailed, err := s.newest(ctx, entity, fleet.ColErrors)
	if err != nil {
		return d, err
	}
	busy, knownBusy, err := s.newest(ctx, entity, fleet.ColServing)
	if err != nil {
		return d, err
	}
	rate := func(v float64, known bool) string {
		if !known {
			return none
		}
		return figure(v, "")
	}
	mean, meanOf := v.total.Processing(), "since their starts"
	if knownBusy && served > 0 {
		mean, meanOf = time.Duration(busy/served)*time.Microsecond, "now"
	}
	errorsNow := ""
	if knownFailed && served > 0 {
		errorsNow = percent(failed/served) + " %"
	}
	d.KPIs = []templates.KPI{
		{Key: id + "/rate", Label: "Requests", Value: rate(served, knownServed), Unit: "per s"},
		{Key: id + "/errors", Label: "Errors", Value: rate(failed, knownFailed), Unit: "per s", Note: errorsNow, NoteKey: id + "/errors-now"},
		{Key: id + "/mean", Label: "Mean time", Value: cmp.Or(duration(mean), none), Note: meanOf, NoteKey: id + "/mean-of"},
		{Key: id + "/instances", Label: "Instances", Value: countWords(uint64(len(v.instances))), URL: instancesURL(v.account, v.name)},
		{Key: id + "/requests", Label: "Requests in all", Value: countWords(v.total.Requests), Note: "since their starts"},
		{Key: id + "/failed", Label: "Errors in all", Value: countWords(v.total.Errors), Note: percent(v.total.errorShare()) + " %", NoteKey: id + "/failed-share"},
	}
	if failed > 0 {
		d.KPIs[1].Tone = "warn"
	}
	d.Cards = append(d.Cards, s.serviceCard(v))
	d.Tables = append(d.Tables, s.endpointTable(v), s.instanceTable(v))
	cmds := commandList{}
	cmds.ask("What it is, and its instances", "nats micro info", v.name)
	cmds.ask("Requests, errors and times", "nats micro stats", v.name)
	cmds.ask("Who answers, and how fast", "nats micro ping", v.name)
	if len(v.instances) == 1 {
		cmds.ask("This instance", "nats micro info", v.name, v.instances[0].ID)
	}
	d.Commands = cmds
	d.Events, err = s.eventsOf(ctx, func(e *fleet.Event) bool {
		return strings.HasPrefix(e.Kind, "service.") && (e.Entity == v.name || strings.HasPrefix(e.Entity, v.name+"/"))
	})
	return d, err
}

// newest is the newest figure of a column, as long as it is of the last minutes.
func (s *Server) newest(ctx context.Context, e fleet.Entity, column string) (v float64, known bool, err error) {
	now := s.Now()
	got, err := s.Metrics.Series(ctx, fleet.SeriesQuery{Entity: e, Column: column, Range: fleet.Range{From: now.Add(-6 * s.staleAfter()), To: now}, Points: chartPoints})
	if err != nil {
		return 0, false, fmt.Errorf("newest %s of %s: %w", column, e.Key, err)
	}
	for _, p := range slices.Backward(got.Data) {
		if p.N > 0 {
			return p.Avg, true, nil
		}
	}
	return 0, false, nil
}

// counted are values with how many have each, the most frequent first.
func counted(values []string) string {
	n := map[string]int{}
	for _, v := range values {
		if v != "" {
			n[v]++
		}
	}
	names := slices.SortedFunc(maps.Keys(n), func(a, b string) int { return cmp.Or(cmp.Compare(n[b], n[a]), strings.Compare(a, b)) })
	var words []string
	for _, name := range names {
		words = append(words, fmt.Sprintf("%s ×%d", name, n[name]))
	}
	if len(words) > 6 {
		words = append(words[:6], fmt.Sprintf("%d more", len(words)-6))
	}
	return cmp.Or(strings.Join(words, ", "), none)
}

// regionOf is where an instance says that it runs.
func regionOf(x *fleet.Service) string {
	for _, k := range []string{"region", "zone", "location", "cluster"} {
		if v := x.Metadata[k]; v != "" {
			return v
		}
	}
	return ""
}

func (s *Server) serviceCard(v *service) templates.DetailCard {
	var versions, regions, about []string
	first, last := v.instances[0].Started, v.instances[0].Started
	for _, x := range v.instances {
		versions, regions = append(versions, x.Version), append(regions, regionOf(x))
		about = withOne(about, x.Description)
		if x.Started.Before(first) {
			first = x.Started
		}
		if x.Started.After(last) {
			last = x.Started
		}
	}
	return templates.DetailCard{ID: "svc-is", Title: "Service", Sub: "as its instances tell of themselves", Settings: []templates.Setting{
		{Name: "For", Value: cmp.Or(strings.Join(about[:min(len(about), 3)], "; "), none)}, {Name: "Account", Value: v.account, URL: accountURL(v.account)},
		{Name: "Versions", Value: counted(versions)}, {Name: "Regions", Value: counted(regions)},
		{Name: "Oldest instance", Value: cmp.Or(s.when(first).Exact, none)}, {Name: "Newest instance", Value: cmp.Or(s.when(last).Exact, none)},
		{Name: "Answered last", Value: cmp.Or(s.when(v.at).Ago, none), Key: "svc/f-at"},
	}}
}

func (s *Server) endpointTable(v *service) templates.DetailTable {
	t := templates.DetailTable{ID: "svc-ends", Title: "Endpoints", Sub: "over all instances, since their starts",
		Table: templates.ListTable{Label: "Endpoints", Icon: navServices, Empty: "No endpoints", EmptyText: "No instance tells of a subject that it serves."}}
	heads := []string{"Endpoint", "Queue group", "Instances", "Requests", "Errors", "Errors, %", "Mean time", "Last error"}
	right := []bool{2: true, true, true, true, true, false}
	for i, h := range heads {
		t.Table.Cols = append(t.Table.Cols, templates.ListCol{Label: h, Right: right[i]})
	}
	for i := range v.ends[:min(len(v.ends), listRows)] {
		e := &v.ends[i]
		key := htmlID("end", v.account+"\x00"+v.name+"\x00"+e.Name)
		row := []templates.ListCell{{Text: cmp.Or(e.Name, none), Small: strings.Join(e.subjects, ", ")}, {Text: cmp.Or(strings.Join(e.queues, ", "), "none: every instance gets all")},
			figureCell(key, "instances", countWords(uint64(e.instances))), figureCell(key, "requests", countWords(e.Requests)), figureCell(key, "errors", countWords(e.Errors)),
			figureCell(key, "share", percent(e.errorShare())), figureCell(key, "mean", duration(e.Processing())), {Text: cmp.Or(e.LastError, none), Wrap: e.LastError != ""}}
		for i := range row {
			row[i].Label, row[i].Right = heads[i], right[i]
		}
		t.Table.Rows = append(t.Table.Rows, templates.ListRow{Cells: row})
	}
	if more := len(v.ends) - listRows; more > 0 {
		t.Table.Note = count(more, "more endpoint")
		t.More = templates.Link{Name: "All of them", URL: instancesURL(v.account, v.name)}
	}
	return t
}

func (s *Server) instanceTable(v *service) templates.DetailTable {
	t := templates.DetailTable{ID: "svc-instances", Title: "Instances", Sub: count(len(v.instances), "instance"), More: templates.Link{Name: "With their endpoints", URL: instancesURL(v.account, v.name)},
		Table: templates.ListTable{Label: "Instances", Icon: navServices}}
	heads := []string{"Instance", "State", "Version", "Region", "CPU %", "Memory", "Requests", "Errors", "Mean time", "Started"}
	for i, h := range heads {
		t.Table.Cols = append(t.Table.Cols, templates.ListCol{Label: h, Right: i > 3})
	}
	for _, x := range v.instances[:min(len(v.instances), listRows)] {
		key := htmlID("ins", x.Account+"\x00"+x.Name+"\x00"+x.ID)
		var sum serviceEnd
		for i := range x.Endpoints {
			sum.add(&x.Endpoints[i])
		}
		state := templates.ListCell{Text: "answers", Tone: "ok"}
		if s.serviceStale(x.At) {
			state = templates.ListCell{Text: "silent for " + ago(s.Now().Sub(x.At)), Tone: "stale"}
		}
		own, cpu, mem := x.Own(), none, none
		if own.HasCPU {
			cpu = figure(own.CPU, "%")
		}
		if own.HasMem {
			mem = bytesWords(own.Memory)
		}
		row := []templates.ListCell{{Text: clip(x.ID, 30), Small: metadataWords(x.Metadata), Tip: x.ID, URL: withQuery("/services", url.Values{"account": {x.Account}, "service": {x.Name}, "q": {x.ID}})},
			state, {Text: cmp.Or(x.Version, none)}, {Text: cmp.Or(regionOf(x), none)}, figureCell(key, "cpu", cpu), figureCell(key, "mem", mem),
			figureCell(key, "requests", countWords(sum.Requests)), figureCell(key, "errors", countWords(sum.Errors)), figureCell(key, "mean", duration(sum.Processing())), s.momentCell(x.Started)}
		for i := range row {
			row[i].Label, row[i].Right = heads[i], i > 3
		}
		t.Table.Rows = append(t.Table.Rows, templates.ListRow{Cells: row})
	}
	if more := len(v.instances) - listRows; more > 0 {
		t.Table.Note = count(more, "more instance")
	}
	return t
}
