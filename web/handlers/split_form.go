package handlers

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

const maxReason = 500

// weightsInput is the weights form as it was loaded or typed.
type weightsInput struct {
	base     uint64
	weights  map[string]string // by target
	states   map[string]string
	mode     string
	law      string
	reason   string
	guard    bool
	proposal string
	restore  string // a revision to go back to, instead of weights
	from     string
	wrong    map[string]string
	general  string
}

// formOf is the form of what is in force.
func (s *Server) formOf(rev traffic.Revision) weightsInput {
	in := weightsInput{base: rev.Number, weights: map[string]string{}, states: map[string]string{}, mode: string(rev.Split.Mode), law: string(rev.Split.Law), guard: true, wrong: map[string]string{}}
	for _, t := range rev.Split.Targets {
		in.weights[t.Name], in.states[t.Name] = strconv.Itoa(t.Weight), string(t.State)
	}
	return in
}

// propose fills in what a suggestion would set.
func (in weightsInput) propose(p traffic.Proposal) weightsInput {
	for _, m := range p.Moves {
		in.weights[m.Target] = strconv.Itoa(m.To)
	}
	in.from, in.proposal = "the suggestion", p.ID
	in.reason = p.Title
	return in
}

// readWeights reads the form as typed; every field that is wrong is said so.
func (s *Server) readWeights(form url.Values, rev traffic.Revision) weightsInput {
	in := s.formOf(rev)
	in.guard = form.Get("guard") != ""
	in.reason = strings.TrimSpace(form.Get("reason"))
	in.proposal, in.restore = form.Get("proposal"), form.Get("restore")
	in.mode, in.law = cmp.Or(form.Get("mode"), in.mode), cmp.Or(form.Get("law"), in.law)
	base, err := strconv.ParseUint(form.Get("base"), 10, 64)
	if err != nil {
		in.general = "The form does not say which revision it was made for. Load the page again."
	}
	in.base = base
	for name := range in.weights {
		if v, ok := form["w."+name]; ok {
			in.weights[name] = strings.TrimSpace(v[0])
		}
		if v := form.Get("s." + name); v != "" {
			in.states[name] = v
		}
		if in.states[name] != string(traffic.Ready) {
			in.weights[name] = "0"
		}
		if n, err := strconv.Atoi(in.weights[name]); err != nil || n < 0 || n > 100 {
			in.wrong["targets."+name+".weight"] = "Use a whole number from 0 to 100."
		}
	}
	in.checkReason()
	return in
}

func (in *weightsInput) checkReason() {
	switch {
	case in.reason == "":
		in.wrong["reason"] = "Say why; the journal keeps it."
	case len(in.reason) > maxReason:
		in.wrong["reason"] = fmt.Sprintf("Use at most %d characters.", maxReason)
	}
}

func (in weightsInput) ok() bool { return len(in.wrong) == 0 && in.general == "" }

// edit is the split as the form wants it: what the form does not show stays as
// it is in the revision that it was made for.
func (s *Server) edit(c echo.Context, in weightsInput, rev traffic.Revision) (traffic.Edit, traffic.Revision, error) {
	base := rev
	if in.base != rev.Number || in.restore != "" {
		history, err := s.Control.History(c.Request().Context(), rev.Split.Name)
		if err != nil {
			return traffic.Edit{}, base, fmt.Errorf("history of split %s: %w", rev.Split.Name, err)
		}
		find := func(n string) (traffic.Revision, error) {
			for _, r := range history {
				if strconv.FormatUint(r.Number, 10) == n {
					return r, nil
				}
			}
			return traffic.Revision{}, &fleet.Error{Kind: fleet.Stale, Msg: "Revision " + strconv.Quote(n) + " of this split is not there.", Hint: "Load the page again."}
		}
		if in.base != rev.Number {
			if base, err = find(strconv.FormatUint(in.base, 10)); err != nil {
				return traffic.Edit{}, base, err
			}
		}
		if in.restore != "" {
			back, err := find(in.restore)
			if err != nil {
				return traffic.Edit{}, base, err
			}
			return s.editTo(in, back.Split), base, nil
		}
	}
	next := base.Split
	next.Targets = slices.Clone(next.Targets)
	next.Mode, next.Law = traffic.Mode(in.mode), traffic.Law(in.law)
	for i, t := range next.Targets {
		if w, err := strconv.Atoi(in.weights[t.Name]); err == nil {
			next.Targets[i].Weight = w
		}
		if st, ok := in.states[t.Name]; ok {
			next.Targets[i].State = traffic.State(st)
		}
	}
	return s.editTo(in, next), base, nil
}

func (s *Server) editTo(in weightsInput, next traffic.Split) traffic.Edit {
	return traffic.Edit{Split: next.Name, Base: in.base, Next: next, Actor: s.Operator, Reason: in.reason, Proposal: in.proposal, Guard: in.guard}
}

// planWeights is the dry run: it shows what would be written and writes nothing.
func (s *Server) planWeights(c echo.Context) error { return s.weights(c, false) }

// applyWeights writes what the review showed.
func (s *Server) applyWeights(c echo.Context) error { return s.weights(c, true) }

func (s *Server) weights(c echo.Context, apply bool) error {
	name := c.Param("name")
	rev, err := s.Control.Split(name)
	if err != nil {
		return err
	}
	form, err := c.FormParams()
	if err != nil {
		return echo.NewHTTPError(http.StatusBadRequest, "The form cannot be read.")
	}
	in := s.readWeights(form, rev)
	if !in.ok() {
		return s.again(c, rev, in, http.StatusUnprocessableEntity)
	}
	e, base, err := s.edit(c, in, rev)
	if err == nil && apply {
		if _, err = s.Control.Apply(c.Request().Context(), e); err == nil {
			return seeOther(c, splitURL(name))
		}
	} else if err == nil {
		var p traffic.Plan
		if p, err = s.Control.Plan(c.Request().Context(), e); err == nil {
			v := s.reviewView(p, e, form)
			v.Action, v.Back = splitURL(name)+"/apply", splitURL(name)
			return s.showReview(c, v)
		}
	}
	if fleet.KindOf(err) == fleet.Stale && base.Number != 0 {
		return s.conflict(c, base, rev, e, form, splitURL(name)+"/plan")
	}
	status, ok := in.blame(err)
	if !ok {
		return err
	}
	return s.again(c, rev, in, status)
}

// blame puts what control says against an edit into the form; ok is false when
// that is not for the operator.
func (in *weightsInput) blame(err error) (status int, ok bool) {
	in.general, status, ok = blame(err, in.wrong)
	return status, ok
}

func blame(err error, wrong map[string]string) (general string, status int, ok bool) {
	var e *fleet.Error
	if !errors.As(err, &e) || e.Kind == fleet.Internal || e.Kind == fleet.NotFound {
		return "", 0, false
	}
	maps.Copy(wrong, e.Fields)
	return strings.TrimSpace(e.Msg + " " + e.Hint), statusOf[e.Kind], true
}

// again shows the form as it was typed, with what is wrong with it.
func (s *Server) again(c echo.Context, rev traffic.Revision, in weightsInput, status int) error {
	ctx := c.Request().Context()
	m, err := s.measure(ctx, rev)
	if err != nil {
		return err
	}
	if wantsPart(c.Request()) {
		h := c.Response().Header()
		h.Set("HX-Retarget", "#weights")
		h.Set("HX-Reswap", "outerHTML")
		return render(c, status, templates.Weights(s.weightsView(m, in)))
	}
	history, err := s.Control.History(ctx, rev.Split.Name)
	if err != nil {
		return fmt.Errorf("history of split %s: %w", rev.Split.Name, err)
	}
	span, err := parseRange(url.Values{}, s.Now())
	if err != nil {
		return err
	}
	v, err := s.splitPage(ctx, m, history, in, span)
	if err != nil {
		return err
	}
	return render(c, status, templates.SplitDetail(s.splitFrame(c, rev, span), v))
}

// weightsView is the form for the template.
func (s *Server) weightsView(m measured, in weightsInput) templates.WeightsForm {
	sp := m.rev.Split
	v := templates.WeightsForm{Split: sp.Name, Action: splitURL(sp.Name) + "/plan", Base: strconv.FormatUint(in.base, 10), Reason: in.reason, Guard: in.guard,
		GuardText: "Roll back by itself if the effect is bad: p99 or redeliveries clearly worse than before while the change is watched.",
		Mode:      in.mode, Law: in.law, Wrong: in.wrong, General: in.general, From: in.from, Proposal: in.proposal}
	if err := s.Control.Ready(); err != nil {
		v.NotReady = fault(err).Title
	}
	for _, tier := range sp.Tiers() {
		tf := templates.TierForm{Tier: strconv.Itoa(tier), Title: tierWords(tier), Wrong: in.wrong[fmt.Sprintf("tier.%d", tier)]}
		sum, ready := 0, 0
		for i, t := range m.targets {
			if t.Tier != tier {
				continue
			}
			row := templates.WeightRow{Name: t.Name, Color: strconv.Itoa(i%6 + 1), Note: t.note(), Value: in.weights[t.Name], Now: strconv.Itoa(t.Weight), Offset: strconv.Itoa(sum),
				State: in.states[t.Name], StateNow: string(t.State), Wrong: cmp.Or(in.wrong["targets."+t.Name+".weight"], in.wrong["targets."+t.Name+".state"])}
			if row.State == string(traffic.Ready) {
				ready++
				if n, err := strconv.Atoi(row.Value); err == nil {
					sum += min(max(n, 0), 100)
				}
			}
			tf.Rows = append(tf.Rows, row)
		}
		tf.Sum, tf.Bad = fmt.Sprintf("Total %d %%", sum), sum != 100
		if ready == 0 {
			tf.Sum = "No target is READY"
		}
		v.Tiers = append(v.Tiers, tf)
	}
	return v
}

func tierWords(tier int) string {
	if tier == 0 {
		return "Tier 0: used first"
	}
	return fmt.Sprintf("Tier %d: backs up tier %d", tier, tier-1)
}

// reviewView shows a plan; the fields of the form go along to be confirmed.
func (s *Server) reviewView(p traffic.Plan, e traffic.Edit, form url.Values) templates.Review {
	v := templates.Review{
		Split: e.Split, Title: fmt.Sprintf("Apply revision %d of %s", p.After.Number, e.Split), Lead: "This is the dry run: nothing has been written yet.",
		Diff: diffLines(p.Before.Split, p.After.Split), Warn: p.Warn, Key: p.Key, Payload: string(p.Payload), Command: p.Command, Servers: p.Servers, ServersCommands: strings.Join(p.ServersCommands, "\n"), Reason: e.Reason, Guard: e.Guard,
		GuardText: "The effect is watched, and you can roll back at any time.", Fields: hidden(form),
	}
	if p.Servers != "" {
		// The link holds the very text that is shown: what is planned can be saved
		// before it is applied, and nothing is planned a second time for it.
		v.ServersFile, v.ServersSave = "ballast-mapping.json", "data:text/plain;charset=utf-8,"+url.PathEscape(p.Servers)
		if p.After.Split.Driver == traffic.DriverMappingConfig {
			v.ServersFile = "ballast-mapping.conf"
		}
	}
	if p.Before.Number == 0 {
		v.Title = "Create the split " + e.Split
	}
	if e.Guard {
		v.GuardText = "The effect is watched; if it is bad, the change is rolled back by itself."
	}
	if p.Before.Number > 0 {
		v.Keys = keyMoves(p.Before.Split, p.After.Split)
	}
	if len(p.Diff) == 0 && !slices.ContainsFunc(v.Diff, func(l templates.DiffLine) bool { return l.Op != " " }) {
		v.NoChange, v.Lead = true, "Nothing would change: this is what is in force."
	}
	return v
}

func hidden(form url.Values) []templates.Hidden {
	var out []templates.Hidden
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if name == "more" {
			continue
		}
		for _, v := range form[name] {
			out = append(out, templates.Hidden{Name: name, Value: v})
		}
	}
	return out
}

func (s *Server) showReview(c echo.Context, v templates.Review) error {
	f := s.frame(c, v.Title, navSplits, templates.Crumb{Name: "Splits", URL: "/splits"}, templates.Crumb{Name: v.Split, URL: v.Back}, templates.Crumb{Name: "Review"})
	return show(c, templates.ReviewPage(f, v), templates.ReviewBox(v, true))
}

// conflict answers an edit whose base is not in force any more, with both versions.
func (s *Server) conflict(c echo.Context, base, now traffic.Revision, e traffic.Edit, form url.Values, action string) error {
	form = maps.Clone(form)
	form.Set("base", strconv.FormatUint(now.Number, 10))
	v := templates.Conflict{
		Split: e.Split, Base: strconv.FormatUint(e.Base, 10), Now: strconv.FormatUint(now.Number, 10), By: now.Author, Reason: now.Reason, At: s.when(now.At),
		Theirs: diffLines(base.Split, now.Split), Yours: diffLines(now.Split, e.Next), Fields: hidden(form), Action: action, Back: splitURL(e.Split),
	}
	f := s.frame(c, "Conflict", navSplits, templates.Crumb{Name: "Splits", URL: "/splits"}, templates.Crumb{Name: v.Split, URL: v.Back}, templates.Crumb{Name: "Conflict"})
	return showAs(c, http.StatusConflict, templates.ConflictPage(f, v), templates.ConflictBox(v, true))
}

// diffLines is the difference of two splits, a line for each target.
func diffLines(before, after traffic.Split) []templates.DiffLine {
	var out []templates.DiffLine
	put := func(op, format string, args ...any) {
		out = append(out, templates.DiffLine{Op: op, Text: fmt.Sprintf(format, args...)})
	}
	pair := func(name, was, is string) {
		if was == is {
			return
		}
		if was != "" {
			put("-", "%-9s %s", name, was)
		}
		put("+", "%-9s %s", name, is)
	}
	put(" ", "split     %s", cmp.Or(after.Name, before.Name))
	pair("subject", before.Subject, after.Subject)
	pair("pick", string(before.Pick), string(after.Pick))
	pair("mode", string(before.Mode), string(after.Mode))
	pair("law", string(before.Law), string(after.Law))
	was, is := optionWords(before), optionWords(after)
	names := maps.Clone(was)
	maps.Copy(names, is)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch {
		case was[name] == is[name]:
		case is[name] == "":
			put("-", "%-9s %s", name, was[name])
		default:
			pair(name, was[name], is[name])
		}
	}
	width := 8
	for _, sp := range []traffic.Split{before, after} {
		for _, t := range sp.Targets {
			width = max(width, len(t.Name))
		}
	}
	words := func(t traffic.Target) string {
		return fmt.Sprintf("%-*s %3d %%  %-5s  tier %d", width, t.Name, t.Weight, t.State, t.Tier)
	}
	full := func(t traffic.Target) string { return words(t) + "  " + t.Subject + observedWords(t.Observe) }
	for _, t := range after.Targets {
		old, ok := before.Target(t.Name)
		show := full // where a target is and how it is measured is shown when it is new or changes
		if ok && strings.TrimPrefix(full(old), words(old)) == strings.TrimPrefix(full(t), words(t)) {
			show = words
		}
		switch {
		case !ok:
			put("+", "%s", show(t))
		case full(old) == full(t):
			put(" ", "%s", show(t))
		default:
			put("-", "%s", show(old))
			put("+", "%s", show(t))
		}
	}
	for _, t := range before.Targets {
		if _, ok := after.Target(t.Name); !ok {
			put("-", "%s", full(t))
		}
	}
	return out
}

func observedWords(o *traffic.Observed) string {
	if o == nil {
		return ""
	}
	return "  at " + observedValue(o)
}

// observedValue writes a consumer as the forms do: account/stream/consumer.
func observedValue(o *traffic.Observed) string {
	if o == nil {
		return ""
	}
	return strings.TrimPrefix(o.Account+"/"+o.Stream+"/"+o.Consumer, "/")
}

// parseObserved reads what observedValue wrote. Streams and consumers have no
// slash in their names; an account may.
func parseObserved(v string) (*traffic.Observed, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return nil, true
	}
	parts := strings.Split(v, "/")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	n := len(parts)
	if n < 2 || parts[n-1] == "" || parts[n-2] == "" {
		return nil, false
	}
	return &traffic.Observed{Account: strings.Join(parts[:n-2], "/"), Stream: parts[n-2], Consumer: parts[n-1]}, true
}

// splitInput is the form of a whole split as typed.
type splitInput struct {
	fixed   bool
	base    uint64
	name    string
	subject string
	pick    string
	mode    string
	law     string
	reason  string
	rows    []targetInput
	opt     map[string]string // options, by the name that Validate gives them
	lanes   []laneInput
	wrong   map[string]string // by field; rows by "t.I.field"
	general string
}

type targetInput struct{ name, subject, observe, weight, tier, state string }

func (t targetInput) blank() bool { return t.name == "" && t.subject == "" }

func (s *Server) newSplit(c echo.Context) error {
	in := splitInput{pick: string(traffic.Weighted), mode: string(traffic.Suggest), law: string(traffic.LawCapacity), rows: []targetInput{{weight: "50", tier: "0"}, {weight: "50", tier: "0"}}}
	return s.showSplitForm(c, http.StatusOK, in)
}

func (s *Server) editSplit(c echo.Context) error {
	rev, err := s.Control.Split(c.Param("name"))
	if err != nil {
		return err
	}
	sp := rev.Split
	in := splitInput{fixed: true, base: rev.Number, name: sp.Name, subject: sp.Subject, pick: string(sp.Pick), mode: string(sp.Mode), law: string(sp.Law)}
	in.opt, in.lanes = optionsOf(sp)
	for _, t := range sp.Targets {
		in.rows = append(in.rows, targetInput{t.Name, t.Subject, observedValue(t.Observe), strconv.Itoa(t.Weight), strconv.Itoa(t.Tier), string(t.State)})
	}
	in.rows = append(in.rows, targetInput{weight: "0", tier: "0"})
	return s.showSplitForm(c, http.StatusOK, in)
}

func (s *Server) showSplitForm(c echo.Context, status int, in splitInput) error {
	v := templates.SplitForm{Title: "New split", Lead: "Say which subject is divided, and over which targets.", Action: "/splits/new", Name: in.name, Fixed: in.fixed, Base: strconv.FormatUint(in.base, 10),
		Subject: in.subject, Pick: in.pick, Mode: in.mode, Law: in.law, Reason: in.reason, Consumers: s.consumerOptions(), Options: in.optionsView(), Wrong: in.wrong, General: in.general, Back: "/splits"}
	crumbs := []templates.Crumb{{Name: "Splits", URL: "/splits"}, {Name: v.Title}}
	if in.fixed {
		v.Title, v.Lead, v.Action, v.Back = "Edit "+in.name, "Add, remove or rename targets. Empty a row's name and subject to remove it.", splitURL(in.name)+"/edit", splitURL(in.name)
		v.Delete = splitURL(in.name) + "/delete"
		crumbs = []templates.Crumb{{Name: "Splits", URL: "/splits"}, {Name: in.name, URL: v.Back}, {Name: "Edit"}}
	}
	for i, t := range in.rows {
		n := strconv.Itoa(i)
		wrong := func(f string) string { return in.wrong["t."+n+"."+f] }
		v.Rows = append(v.Rows, templates.TargetForm{I: n, Name: t.name, Subject: t.subject, Observe: t.observe, Weight: t.weight, Tier: t.tier, State: cmp.Or(t.state, string(traffic.Ready)),
			WrongName: wrong("name"), WrongSubject: wrong("subject"), WrongWeight: wrong("weight"), WrongTier: wrong("tier"), WrongObserve: wrong("observe")})
	}
	return render(c, status, templates.SplitFormPage(s.frame(c, v.Title, navSplits, crumbs...), v))
}

// readSplit reads the form of a whole split.
func readSplit(form url.Values) (splitInput, traffic.Split) {
	get := func(k string) string { return strings.TrimSpace(form.Get(k)) }
	in := splitInput{name: get("name"), subject: get("subject"), pick: get("pick"), mode: get("mode"), law: cmp.Or(get("law"), string(traffic.LawCapacity)), reason: get("reason"), wrong: map[string]string{}}
	in.base, _ = strconv.ParseUint(get("base"), 10, 64)
	sp := traffic.Split{Name: in.name, Subject: in.subject, Pick: traffic.Pick(in.pick), Driver: traffic.DriverKV, Mode: traffic.Mode(in.mode), Law: traffic.Law(in.law)}
	var place []int // of each target in the form
	for i := range traffic.MaxTargets {
		p := fmt.Sprintf("t.%d.", i)
		if !form.Has(p + "name") {
			break
		}
		t := targetInput{get(p + "name"), get(p + "subject"), get(p + "observe"), get(p + "weight"), get(p + "tier"), cmp.Or(get(p+"state"), string(traffic.Ready))}
		in.rows = append(in.rows, t)
		if t.blank() {
			continue
		}
		number := func(field, v string, high int) int {
			n, err := strconv.Atoi(cmp.Or(v, "0"))
			if err != nil || n < 0 || n > high {
				in.wrong[p+field] = fmt.Sprintf("Use a whole number from 0 to %d.", high)
			}
			return n
		}
		o, ok := parseObserved(t.observe)
		if !ok {
			in.wrong[p+"observe"] = "Write it as stream/consumer or account/stream/consumer."
		}
		place = append(place, i)
		sp.Targets = append(sp.Targets, traffic.Target{Name: t.name, Subject: t.subject, Weight: number("weight", t.weight, 100), Tier: number("tier", t.tier, 9), State: traffic.State(t.state), Observe: o})
	}
	in.readOptions(form, &sp)
	var inv *traffic.Invalid
	if err := sp.Validate(); errors.As(err, &inv) {
		for _, p := range inv.Problems {
			in.blame(p.Field, p.Text, sp, place)
		}
	}
	reason := weightsInput{reason: in.reason, wrong: in.wrong}
	reason.checkReason()
	return in, sp
}

// blame says of one field of the form what is wrong; traffic counts targets by
// name, or by place when the name itself is wrong.
func (in *splitInput) blame(field, text string, sp traffic.Split, place []int) {
	rest, ok := strings.CutPrefix(field, "targets.")
	if !ok {
		switch {
		case strings.HasPrefix(field, "tier."):
			field = "targets"
		case strings.HasPrefix(field, "lanes."):
			field = in.laneField(strings.TrimPrefix(field, "lanes."))
			if in.wrong[field] != "" { // what cannot be read is no value to judge
				return
			}
		}
		in.wrong[field] = strings.TrimSpace(in.wrong[field] + " " + sentence(text))
		return
	}
	name, what, _ := strings.Cut(rest, ".")
	i := slices.IndexFunc(sp.Targets, func(t traffic.Target) bool { return t.Name == name })
	if i < 0 {
		if n, err := strconv.Atoi(name); err == nil && n < len(place) {
			i = n
		}
	}
	if i < 0 {
		in.wrong["targets"] = sentence(text)
		return
	}
	if key := fmt.Sprintf("t.%d.%s", place[i], what); in.wrong[key] == "" {
		in.wrong[key] = sentence(text)
	}
}

func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

func (s *Server) planNew(c echo.Context) error  { return s.wholeSplit(c, false) }
func (s *Server) planEdit(c echo.Context) error { return s.wholeSplit(c, false) }
func (s *Server) applyNew(c echo.Context) error { return s.wholeSplit(c, true) }

// wholeSplit takes the form of a new split, or of an edited one: then the URL or
// a base says so.
func (s *Server) wholeSplit(c echo.Context, apply bool) error {
	form, err := c.FormParams()
	if err != nil {
		return echo.NewHTTPError(http.StatusBadRequest, "The form cannot be read.")
	}
	in, next := readSplit(form)
	in.fixed = in.base != 0
	if name := c.Param("name"); name != "" && name != in.name {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "A split cannot be renamed.", Hint: "Make a new one and delete the old."}
	}
	if form.Get("more") != "" {
		for range 3 {
			in.rows = append(in.rows, targetInput{weight: "0", tier: "0"})
		}
		in.wrong = nil
		return s.showSplitForm(c, http.StatusOK, in)
	}
	now, err := s.Control.Split(in.name)
	switch {
	case in.fixed && err != nil:
		return err
	case !in.fixed && err == nil:
		in.wrong["name"] = "There is already a split of this name."
	}
	if len(in.wrong) > 0 {
		return s.showSplitForm(c, http.StatusUnprocessableEntity, in)
	}
	if in.fixed { // the form does not show labels: they stay
		for i, t := range next.Targets {
			if old, ok := now.Split.Target(t.Name); ok {
				next.Targets[i].Labels = old.Labels
			}
		}
	}
	e := traffic.Edit{Split: in.name, Base: in.base, Next: next, Actor: s.Operator, Reason: in.reason, Guard: in.fixed}
	if apply {
		if _, err = s.Control.Apply(c.Request().Context(), e); err == nil {
			return seeOther(c, splitURL(in.name))
		}
	} else {
		var p traffic.Plan
		if p, err = s.Control.Plan(c.Request().Context(), e); err == nil {
			v := s.reviewView(p, e, form)
			v.Action, v.Back = "/splits/create", "/splits"
			if in.fixed {
				v.Back = splitURL(in.name)
			}
			return s.showReview(c, v)
		}
	}
	if fleet.KindOf(err) == fleet.Stale && in.fixed {
		base := now
		if history, herr := s.Control.History(c.Request().Context(), in.name); herr == nil {
			for _, r := range history {
				if r.Number == in.base {
					base = r
				}
			}
		}
		return s.conflict(c, base, now, e, form, splitURL(in.name)+"/edit")
	}
	general, status, ok := blame(err, in.wrong)
	if !ok {
		return err
	}
	in.general = general
	return s.showSplitForm(c, status, in)
}

func (s *Server) deleteSplit(c echo.Context) error {
	base, err := strconv.ParseUint(c.FormValue("base"), 10, 64)
	if err != nil {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The form does not say which revision it was made for.", Hint: "Load the page again."}
	}
	reason := strings.TrimSpace(c.FormValue("reason"))
	if reason == "" || len(reason) > maxReason || c.FormValue("confirm") != c.Param("name") {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The split was not deleted.", Hint: "Give a reason, and type the name of the split to confirm."}
	}
	if err := s.Control.Delete(c.Request().Context(), c.Param("name"), base, s.Operator, reason); err != nil {
		return err
	}
	return seeOther(c, "/splits")
}
