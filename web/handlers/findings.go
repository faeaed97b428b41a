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
	"ballast/web/templates"
)

// closedFindings bounds how far the list of those that are over goes back.
const closedFindings = 2000

func findingRoutes(s *Server, e *echo.Echo) {
	page(e, "/findings", s.listFindings)
	e.GET("/findings/:code", s.showFinding)
	e.POST("/findings/:code/suppress", s.suppressFinding)
	e.POST("/findings/:code/lift", s.liftFinding)
}

// findingURL names the episode of a finding. What it is about stands in the
// query: its name may be empty, and may contain anything.
func findingURL(f fleet.Finding) string {
	q := findingQuery(f.FindingKey)
	if !f.Since.IsZero() {
		q.Set("since", millis(f.Since))
	}
	return "/findings/" + url.PathEscape(f.Code) + "?" + q.Encode()
}

func findingQuery(k fleet.FindingKey) url.Values {
	q := url.Values{"kind": {string(k.Kind)}}
	if k.Key != "" {
		q.Set("key", k.Key)
	}
	return q
}

// pressing is the number of open findings that want somebody now.
func (s *Server) pressing() int {
	if s.Findings == nil {
		return 0
	}
	n, now := 0, s.Now()
	for _, f := range s.Findings.Open() {
		if f.Severity != fleet.Info && !f.Suppressed.Active(now) {
			n++
		}
	}
	return n
}

// entityURL leads to where a thing can be seen; "" when it has no page.
func entityURL(e fleet.Entity) string {
	switch e.Kind {
	case fleet.KindServer:
		return serverURL(e.Key)
	case fleet.KindSplit:
		return splitURL(e.Key)
	case fleet.KindTarget, fleet.KindWorker:
		split, _, _ := strings.Cut(e.Key, "/")
		return splitURL(split)
	case fleet.KindConsumer:
		// Names of streams and consumers have no slash; an account's may.
		if i := strings.LastIndexByte(e.Key, '/'); i > 0 {
			if j := strings.LastIndexByte(e.Key[:i], '/'); j >= 0 {
				return consumerURL(fleet.ConsumerKey{Account: e.Key[:j], Stream: e.Key[j+1 : i], Consumer: e.Key[i+1:]})
			}
		}
	case fleet.KindStream:
		if i := strings.LastIndexByte(e.Key, '/'); i >= 0 {
			return streamURL(fleet.StreamKey{Account: e.Key[:i], Stream: e.Key[i+1:]})
		}
	case fleet.KindAccount:
		return accountURL(e.Key)
	case fleet.KindMicro:
		if i := strings.LastIndexByte(e.Key, '/'); i >= 0 {
			return serviceURL(e.Key[:i], e.Key[i+1:])
		}
	case fleet.KindEndpoint:
		if i := strings.LastIndexByte(e.Key, '/'); i >= 0 {
			return entityURL(fleet.Entity{Kind: fleet.KindMicro, Key: e.Key[:i]})
		}
	case fleet.KindConns, fleet.KindClients:
		return "/connections/sums"
	case fleet.KindService:
		name, _, _ := strings.Cut(e.Key, "/")
		return withQuery("/services", url.Values{"service": {name}})
	case fleet.KindCluster:
		return "/topology?q=" + url.QueryEscape(e.Key)
	}
	return ""
}

// entityName is how a thing is called where its kind does not stand beside it.
func entityName(e fleet.Entity) string {
	if e.Kind == fleet.KindSystem {
		return "the whole system"
	}
	return cmp.Or(e.Key, "the "+string(e.Kind))
}

// findingStates are the parts of the list.
var findingStates = []templates.Option{{Value: "", Label: "Open"}, {Value: "suppressed", Label: "Suppressed"}, {Value: "closed", Label: "Over"}}

var severities = []fleet.Severity{fleet.Critical, fleet.Warning, fleet.Info}

func severityRank(s fleet.Severity) int { return slices.Index(severities, s) }

// findingList describes the list.
func (s *Server) findingList() listing[fleet.Finding] {
	return listing[fleet.Finding]{
		path: "/findings",
		name: func(f *fleet.Finding) string { return f.Code + "\n" + f.Title + "\n" + f.Key + "\n" + f.Text },
		cols: []listCol[fleet.Finding]{
			{key: "what", label: "What", by: func(a, b *fleet.Finding) int {
				return cmp.Or(strings.Compare(a.Title, b.Title), strings.Compare(a.Key, b.Key))
			},
				cell: func(f *fleet.Finding) templates.ListCell {
					return templates.ListCell{Text: f.Title, URL: findingURL(*f), Small: f.Code}
				}},
			{key: "severity", label: "Severity", by: func(a, b *fleet.Finding) int {
				return cmp.Or(cmp.Compare(severityRank(a.Severity), severityRank(b.Severity)), b.Since.Compare(a.Since))
			},
				cell: func(f *fleet.Finding) templates.ListCell {
					return templates.ListCell{Text: string(f.Severity), Tone: severityTone(f.Severity)}
				}},
			{key: "entity", label: "Where", by: func(a, b *fleet.Finding) int {
				return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Key, b.Key))
			},
				cell: func(f *fleet.Finding) templates.ListCell {
					return templates.ListCell{Text: entityName(f.Entity), Small: string(f.Kind), URL: entityURL(f.Entity)}
				}},
			{label: "Seen", cell: func(f *fleet.Finding) templates.ListCell {
				return templates.ListCell{Text: f.Text, Wrap: true}
			}},
			{key: "since", label: "Since", right: true, down: true, by: func(a, b *fleet.Finding) int { return a.Since.Compare(b.Since) },
				cell: func(f *fleet.Finding) templates.ListCell { return s.momentCell(f.Since) }},
			{key: "seen", label: "Last seen", right: true, down: true, by: func(a, b *fleet.Finding) int { return a.LastSeen.Compare(b.LastSeen) },
				cell: func(f *fleet.Finding) templates.ListCell { return s.momentCell(f.LastSeen) }},
		},
	}
}

// momentCell is a moment in a list: how long ago, exact on demand.
func (s *Server) momentCell(t time.Time) templates.ListCell {
	w := s.when(t)
	if w.ISO == "" {
		return templates.ListCell{Text: none}
	}
	return templates.ListCell{Text: w.Ago, Tip: w.Exact}
}

// findings are those of a state, the worst first; only of the severity and kind
// that the arguments name.
func (s *Server) findings(ctx context.Context, a listArgs) ([]fleet.Finding, error) {
	now := s.Now()
	var out []fleet.Finding
	switch state := a.rest.Get("state"); state {
	case "", "suppressed":
		for _, f := range s.Findings.Open() {
			if f.Suppressed.Active(now) == (state == "suppressed") {
				out = append(out, f)
			}
		}
	case "closed":
		all, err := s.Findings.Findings(ctx, fleet.FindingFilter{Closed: true, Limit: closedFindings})
		if err != nil {
			return nil, fmt.Errorf("read the findings that are over: %w", err)
		}
		for _, f := range all {
			if !f.Open() {
				out = append(out, f)
			}
		}
	default:
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such state of a finding.", Hint: "Choose suppressed or closed, or leave state= out."}
	}
	severity, kind := fleet.Severity(a.rest.Get("severity")), fleet.Kind(a.rest.Get("kind"))
	out = slices.DeleteFunc(out, func(f fleet.Finding) bool {
		return severity != "" && f.Severity != severity || kind != "" && f.Kind != kind
	})
	fleet.SortFindings(out)
	return out, nil
}

// findingTable is the page of the list that the arguments ask for.
func (s *Server) findingTable(l listing[fleet.Finding], all []fleet.Finding, a listArgs) templates.ListTable {
	t := l.table(l.pick(all, a), a)
	t.Label, t.Icon, t.Empty, t.EmptyText = "Findings", navFindings, "Nothing was found", "No check has anything to say."
	if a.filtered() {
		t.EmptyText = "No finding fits the filter."
	}
	return t
}

var findingOwn = []string{"state", "severity", "kind"}

func (s *Server) listFindings(c echo.Context) error {
	l := s.findingList()
	a, err := l.args(c.QueryParams(), findingOwn...)
	if err != nil {
		return err
	}
	if s.Findings == nil {
		if format(c) != "" {
			return findingsAway()
		}
		v := l.page("findings", "Findings", a, templates.ListTable{Icon: navFindings, Empty: "Findings are not running"})
		v.CSV, v.JSON = "", ""
		v.Away = "This console was started without the checks that judge what is measured."
		f := s.frame(c, "Findings", navFindings)
		return show(c, templates.ListPage(f, v), templates.ListPage(f, v))
	}
	all, err := s.findings(c.Request().Context(), a)
	if err != nil {
		return err
	}
	if format(c) != "" {
		picked := l.pick(all, a)
		docs := make([]findingDoc, len(picked))
		for i, f := range picked {
			docs[i] = findingDocOf(*f)
		}
		return s.export(c, "findings", findingColumns, func(yield func([]any) bool) {
			for _, d := range docs {
				if !yield([]any{d.Code, d.Severity, d.Kind, d.Key, d.Title, d.Text, d.Remedy, d.Command, d.Since, d.LastSeen, d.Closed, d.Reopened, d.SuppressedBy, d.SuppressedUntil, d.SuppressedReason}) {
					return
				}
			}
		}, docs)
	}
	v := l.page("findings", "Findings", a, s.findingTable(l, all, a))
	v.Sub, v.Placeholder, v.TabsLabel = s.findingsSub(), "code, name or text", "State"
	if v.Clear != "" {
		v.Clear = withQuery(l.path, stateOnly(a))
		if a.q == "" && len(a.rest) == len(stateOnly(a)) {
			v.Clear = ""
		}
	}
	for k := range stateOnly(a) {
		v.Keep = append(v.Keep, templates.Hidden{Name: k, Value: a.rest.Get(k)})
	}
	for _, st := range findingStates {
		q := url.Values{}
		if st.Value != "" {
			q.Set("state", st.Value)
		}
		v.Tabs = append(v.Tabs, templates.Choice{Label: st.Label, URL: withQuery(l.path, q), Current: a.rest.Get("state") == st.Value})
	}
	bySeverity := templates.ListFilter{Name: "severity", Label: "Severity", All: "all", Value: a.rest.Get("severity")}
	for _, sv := range severities {
		bySeverity.Options = append(bySeverity.Options, templates.Option{Value: string(sv), Label: string(sv)})
	}
	byKind := templates.ListFilter{Name: "kind", Label: "Of", All: "everything", Value: a.rest.Get("kind")}
	for _, k := range []fleet.Kind{fleet.KindSystem, fleet.KindCluster, fleet.KindServer, fleet.KindMeta, fleet.KindAccount, fleet.KindConn, fleet.KindStream, fleet.KindConsumer, fleet.KindQueue, fleet.KindSplit, fleet.KindTarget} {
		byKind.Options = append(byKind.Options, templates.Option{Value: string(k), Label: string(k)})
	}
	v.Filters = []templates.ListFilter{bySeverity, byKind}
	f := follow(s.frame(c, "Findings", navFindings), listTopic(topicFindings, a))
	return show(c, templates.ListPage(f, v), templates.ListRows(v.Table))
}

func stateOnly(a listArgs) url.Values {
	if st := a.rest.Get("state"); st != "" {
		return url.Values{"state": {st}}
	}
	return url.Values{}
}

func findingsAway() error {
	return &fleet.Error{Kind: fleet.Unavailable, Msg: "Findings are not running.", Hint: "This console was started without the checks."}
}

// findingsSub counts what is open.
func (s *Server) findingsSub() string {
	n, now := map[fleet.Severity]int{}, s.Now()
	quiet := 0
	for _, f := range s.Findings.Open() {
		if f.Suppressed.Active(now) {
			quiet++
		} else {
			n[f.Severity]++
		}
	}
	return fmt.Sprintf("%d critical, %s, %d to know; %d suppressed.", n[fleet.Critical], plural(n[fleet.Warning], "warning", "warnings"), n[fleet.Info], quiet)
}

func (s *Server) findingsTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the list's URL: %w", err)
	}
	l := s.findingList()
	a, err := l.args(q, findingOwn...)
	if err != nil {
		return update{}, err
	}
	if s.Findings == nil {
		return update{}, findingsAway()
	}
	all, err := s.findings(ctx, a)
	if err != nil {
		return update{}, err
	}
	return listUpdate("findings", s.findingsSub(), s.findingTable(l, all, a)), nil
}

// findingKey reads which finding a request is about.
func findingKey(c echo.Context, get func(string) string) (fleet.FindingKey, error) {
	code, err := pathParam(c, "code")
	if err != nil {
		return fleet.FindingKey{}, err
	}
	return fleet.FindingKey{Code: code, Entity: fleet.Entity{Kind: fleet.Kind(get("kind")), Key: get("key")}}, nil
}

// pathParam is a part of the path as it was before it was escaped: echo leaves
// the escapes in when the path cannot be written in another way.
func pathParam(c echo.Context, name string) (string, error) {
	v := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return v, nil
	}
	plain, err := url.PathUnescape(v)
	if err != nil {
		return "", echo.ErrNotFound
	}
	return plain, nil
}

// episodes are all times that a finding was open, newest first. What the checks
// say now is newer than the record.
func (s *Server) episodes(ctx context.Context, k fleet.FindingKey) ([]fleet.Finding, error) {
	if s.Findings == nil {
		return nil, findingsAway()
	}
	all, err := s.Findings.Findings(ctx, fleet.FindingFilter{Key: k, Closed: true, Limit: 20})
	if err != nil {
		return nil, fmt.Errorf("read finding %s: %w", k.Code, err)
	}
	for _, f := range s.Findings.Open() {
		if f.FindingKey != k {
			continue
		}
		if i := slices.IndexFunc(all, func(o fleet.Finding) bool { return o.Since.UnixMilli() == f.Since.UnixMilli() }); i >= 0 {
			all[i] = f
		} else {
			all = slices.Insert(all, 0, f)
		}
	}
	if len(all) == 0 {
		return nil, &fleet.Error{Kind: fleet.NotFound, Msg: "There is no such finding.", Hint: "It may be over for so long that its record was removed."}
	}
	return all, nil
}

func (s *Server) showFinding(c echo.Context) error {
	k, err := findingKey(c, c.QueryParam)
	if err != nil {
		return err
	}
	return s.answerFinding(c, http.StatusOK, k, c.QueryParam("since"), nil, "", "")
}

// answerFinding shows a finding; wrong is why it was not suppressed.
func (s *Server) answerFinding(c echo.Context, status int, k fleet.FindingKey, since string, wrong *fleet.Error, reason, span string) error {
	all, err := s.episodes(c.Request().Context(), k)
	if err != nil {
		return err
	}
	at := 0
	if since != "" {
		if at = slices.IndexFunc(all, func(f fleet.Finding) bool { return millis(f.Since) == since }); at < 0 {
			return &fleet.Error{Kind: fleet.NotFound, Msg: "This finding was not open at that time.", Hint: "Look at it in the list."}
		}
	}
	v := s.findingView(all, at)
	if v.Form != nil {
		v.Form.Reason, v.Form.For = reason, cmp.Or(span, v.Form.For)
		if wrong != nil {
			v.Form.Wrong, v.Form.WrongReason, v.Form.WrongFor = wrong.Msg, wrong.Fields["reason"], wrong.Fields["until"]
		}
	}
	f := withLive(s.frame(c, v.Title, navFindings, templates.Crumb{Name: "Findings", URL: "/findings"}, templates.Crumb{Name: v.Code}))
	return showAs(c, status, templates.FindingPage(f, v), templates.FindingPage(f, v))
}

// quietSpans are how long a finding may be kept quiet.
var quietSpans = []struct {
	key, label string
	d          time.Duration
}{
	{"1h", "1 hour", time.Hour}, {"8h", "8 hours", 8 * time.Hour}, {"24h", "1 day", 24 * time.Hour}, {"7d", "7 days", 7 * 24 * time.Hour}, {"30d", "30 days", 30 * 24 * time.Hour},
}

func (s *Server) findingView(all []fleet.Finding, at int) templates.Finding {
	f, now := all[at], s.Now()
	v := templates.Finding{
		Code: f.Code, Title: cmp.Or(f.Title, f.Code), Status: templates.Status{Tone: severityTone(f.Severity), Word: string(f.Severity)},
		Entity: entityName(f.Entity), EntityKind: string(f.Kind), EntityURL: entityURL(f.Entity), Text: f.Text, Remedy: f.Remedy, Command: f.Command,
		Since: s.when(f.Since), Seen: s.when(f.LastSeen), Closed: s.when(f.Closed),
	}
	if f.Reopened > 0 {
		v.Reopened = plural(f.Reopened, "time", "times")
	}
	for _, c := range s.Checks {
		if c.Code == f.Code {
			v.What, v.Why = c.What, c.Why
		}
	}
	for _, e := range f.Evidence {
		v.Evidence = append(v.Evidence, templates.FindingEvidence{Name: e.Name, Value: e.Value, Limit: e.Limit, Source: string(e.Source), At: s.when(e.At)})
	}
	for k, vs := range findingQuery(f.FindingKey) {
		v.Fields = append(v.Fields, templates.Hidden{Name: k, Value: vs[0]})
	}
	slices.SortFunc(v.Fields, func(a, b templates.Hidden) int { return strings.Compare(a.Name, b.Name) })
	base := "/findings/" + url.PathEscape(f.Code)
	switch {
	case !f.Open():
		v.State = templates.Status{Tone: "idle", Word: "over"}
	case f.Suppressed.Active(now):
		v.State = templates.Status{Tone: "idle", Word: "suppressed"}
		v.Quiet = &templates.Quiet{By: f.Suppressed.By, Reason: f.Suppressed.Reason, At: s.when(f.Suppressed.At), Until: s.when(f.Suppressed.Until).Exact}
		v.Lift = base + "/lift"
	default:
		v.State = templates.Status{Tone: severityTone(f.Severity), Word: "open"}
		v.Form = &templates.QuietForm{URL: base + "/suppress", For: quietSpans[2].key}
		for _, sp := range quietSpans {
			v.Form.Spans = append(v.Form.Spans, templates.Option{Value: sp.key, Label: sp.label})
		}
	}
	for i, e := range all {
		v.Episodes = append(v.Episodes, templates.FindingEpisode{URL: findingURL(e), Since: s.when(e.Since), Closed: s.when(e.Closed), Current: i == at})
	}
	v.Shape = strconv.Itoa(len(all)) + v.State.Word
	return v
}

func (s *Server) suppressFinding(c echo.Context) error {
	k, err := findingKey(c, c.FormValue)
	if err != nil {
		return err
	}
	if s.Findings == nil {
		return findingsAway()
	}
	now := s.Now()
	sup := fleet.Suppression{By: s.Operator, Reason: strings.TrimSpace(c.FormValue("reason")), At: now}
	for _, sp := range quietSpans {
		if sp.key == c.FormValue("for") {
			sup.Until = now.Add(sp.d)
		}
	}
	err = s.Findings.Suppress(c.Request().Context(), k, sup)
	var e *fleet.Error
	if errors.As(err, &e) && e.Kind == fleet.Invalid {
		return s.answerFinding(c, http.StatusUnprocessableEntity, k, "", e, sup.Reason, c.FormValue("for"))
	}
	if err != nil {
		return err
	}
	return seeOther(c, findingURL(fleet.Finding{FindingKey: k}))
}

func (s *Server) liftFinding(c echo.Context) error {
	k, err := findingKey(c, c.FormValue)
	if err != nil {
		return err
	}
	if s.Findings == nil {
		return findingsAway()
	}
	if err := s.Findings.Lift(c.Request().Context(), k, s.Operator); err != nil {
		return err
	}
	return seeOther(c, findingURL(fleet.Finding{FindingKey: k}))
}

// findingDoc is a finding as JSON.
type findingDoc struct {
	Code             string         `json:"code"`
	Severity         fleet.Severity `json:"severity"`
	Kind             fleet.Kind     `json:"kind"`
	Key              string         `json:"key"`
	Title            string         `json:"title"`
	Text             string         `json:"text"`
	Remedy           string         `json:"remedy"`
	Command          string         `json:"command,omitempty"`
	Since            time.Time      `json:"since"`
	LastSeen         time.Time      `json:"last_seen"`
	Closed           time.Time      `json:"closed,omitzero"`
	Reopened         int            `json:"reopened"`
	SuppressedBy     string         `json:"suppressed_by,omitempty"`
	SuppressedUntil  time.Time      `json:"suppressed_until,omitzero"`
	SuppressedReason string         `json:"suppressed_reason,omitempty"`
	Evidence         []evidenceDoc  `json:"evidence"`
}

// evidenceDoc is a figure of a finding.
type evidenceDoc struct {
	Name   string       `json:"name"`
	Value  string       `json:"value"`
	Limit  string       `json:"limit,omitempty"`
	Source fleet.Source `json:"source"`
	At     time.Time    `json:"measured_at"`
}

var findingColumns = []string{"code", "severity", "kind", "key", "title", "text", "remedy", "command", "since", "last_seen", "closed", "reopened", "suppressed_by", "suppressed_until", "suppressed_reason"}

func findingDocOf(f fleet.Finding) findingDoc {
	evidence := make([]evidenceDoc, len(f.Evidence))
	for i, e := range f.Evidence {
		evidence[i] = evidenceDoc{e.Name, e.Value, e.Limit, e.Source, e.At}
	}
	return findingDoc{Code: f.Code, Severity: f.Severity, Kind: f.Kind, Key: f.Key, Title: f.Title, Text: f.Text, Remedy: f.Remedy, Command: f.Command,
		Since: f.Since, LastSeen: f.LastSeen, Closed: f.Closed, Reopened: f.Reopened,
		SuppressedBy: f.Suppressed.By, SuppressedUntil: f.Suppressed.Until, SuppressedReason: f.Suppressed.Reason, Evidence: evidence}
}
