package handlers

import (
	"cmp"
	"fmt"
	"maps"
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

// settingField is one setting of the form: what it is called, in which unit it is
// typed, and what it means for messages.
type settingField struct {
	name, unit, help string
	text             func(traffic.ConsumerSettings) string // as the form shows it
	read             func(string, *traffic.ConsumerPatch) (wrong string)
}

var settingFields = []settingField{
	{"max_ack_pending", "messages; -1 is no limit", "How many messages may be out with clients at once, over all of them. When it is raised, more are delivered at once; when it is lowered, what is out stays out.",
		func(s traffic.ConsumerSettings) string { return strconv.Itoa(s.MaxAckPending) },
		func(v string, p *traffic.ConsumerPatch) string { return readCount(v, &p.MaxAckPending) }},
	{"ack_wait", "a time: 500ms, 30s, 2m", "A message that is not acknowledged for so long is delivered again. When it is shortened, what is out for longer comes again at once.",
		func(s traffic.ConsumerSettings) string { return spanText(s.AckWait) },
		func(v string, p *traffic.ConsumerPatch) string { return readSpan(v, &p.AckWait) }},
	{"backoff", "times: 1s, 5s, 30s; or none", "Takes the place of ack_wait, step by step for each delivery of a message; the last step holds for all further ones. It may not have more steps than max_deliver.",
		func(s traffic.ConsumerSettings) string { return spanList(s.BackOff) },
		func(v string, p *traffic.ConsumerPatch) string { return readSpans(v, &p.BackOff) }},
	{"max_deliver", "deliveries; -1 is no limit", "After so many deliveries without an acknowledgement a message is given up: it stays in the stream, but this consumer does not deliver it again.",
		func(s traffic.ConsumerSettings) string { return strconv.Itoa(s.MaxDeliver) },
		func(v string, p *traffic.ConsumerPatch) string { return readCount(v, &p.MaxDeliver) }},
	{"priority_policy", "", "Which clients get messages first. The clients name their group, and number or backlog, with each pull request; those that do not are refused from then on.",
		func(s traffic.ConsumerSettings) string { return string(s.Priority) },
		func(v string, p *traffic.ConsumerPatch) string {
			policy := traffic.PriorityPolicy(v)
			p.PriorityPolicy = &policy
			return ""
		}},
	{"priority_groups", "names with commas", "The groups that pull requests may name, for a policy only.",
		func(s traffic.ConsumerSettings) string { return strings.Join(s.Groups, ", ") },
		func(v string, p *traffic.ConsumerPatch) string {
			groups := splitList(v)
			p.PriorityGroups = &groups
			return ""
		}},
	{"priority_timeout", "a time; of pinned_client", "When the pinned client is silent for so long, another one takes over.",
		func(s traffic.ConsumerSettings) string {
			if s.PriorityTimeout == 0 {
				return ""
			}
			return spanText(s.PriorityTimeout)
		},
		func(v string, p *traffic.ConsumerPatch) string {
			if v == "" {
				p.PriorityTimeout = new(time.Duration)
				return ""
			}
			return readSpan(v, &p.PriorityTimeout)
		}},
}

// settingNames are the fields at which the form can say what is wrong.
var settingNames = []string{"max_ack_pending", "ack_wait", "backoff", "max_deliver", "priority_policy", "priority_groups", "priority_timeout", "pause_until", "hold", "reason", "migrate"}

func readCount(v string, into **int) string {
	n, err := strconv.Atoi(v)
	if err != nil {
		return "Use a whole number; -1 is no limit."
	}
	*into = &n
	return ""
}

const wrongSpan = "Use a number with its unit, such as 500ms, 30s or 2m."

func readSpan(v string, into **time.Duration) string {
	d, err := time.ParseDuration(strings.ReplaceAll(v, " ", ""))
	if err != nil {
		return wrongSpan
	}
	*into = &d
	return ""
}

func readSpans(v string, into **[]time.Duration) string {
	all := []time.Duration{}
	for _, one := range splitList(v) {
		d, err := time.ParseDuration(one)
		if err != nil {
			return fmt.Sprintf("%q is not a time. Use numbers with their units and commas between them, such as 1s, 5s, 30s.", one)
		}
		all = append(all, d)
	}
	*into = &all
	return ""
}

// splitList reads words with commas or spaces between them.
func splitList(v string) []string {
	words := strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	if words == nil {
		words = []string{}
	}
	return words
}

// holdSpans are how long it is watched whether a change stays in force.
var holdSpans = []struct {
	key, label string
	d          time.Duration
}{{"", "1 minute (default)", 0}, {"5m", "5 minutes", 5 * time.Minute}, {"15m", "15 minutes", 15 * time.Minute}, {"1h", "1 hour", time.Hour}}

// pauseSpans are for how long a consumer is paused.
var pauseSpans = []struct {
	key, label string
	d          time.Duration
}{{"15m", "15 minutes", 15 * time.Minute}, {"1h", "1 hour", time.Hour}, {"8h", "8 hours", 8 * time.Hour}, {"24h", "24 hours", 24 * time.Hour}, {"7d", "7 days", 7 * 24 * time.Hour}}

// settingsInput is a form of a consumer's settings as typed: that of the settings,
// or the one that pauses.
type settingsInput struct {
	base         string
	typed, was   map[string]string // by setting; was is what the form was filled with
	hold, reason string
	migrate      bool
	pause        string // "", "pause" or "resume"
	pauseFor     string
	pauseUntil   string
	wrong        map[string]string
	general      string
	conflict     bool // the settings in force are others than those that the form was made for
	until        time.Time
}

// readSettings reads a form into an edit. Only settings that were changed in the
// form are part of it: what somebody else changed meanwhile is not put back.
func (s *Server) readSettings(form url.Values, k fleet.ConsumerKey) (settingsInput, traffic.ConsumerEdit) {
	get := func(name string) string { return strings.TrimSpace(form.Get(name)) }
	in := settingsInput{base: get("base"), typed: map[string]string{}, was: map[string]string{}, hold: get("hold"), reason: get("reason"), migrate: get("migrate") != "",
		pause: get("pause"), pauseFor: get("for"), pauseUntil: get("until"), wrong: map[string]string{}}
	e := traffic.ConsumerEdit{Consumer: traffic.Observed{Account: k.Account, Stream: k.Stream, Consumer: k.Consumer}, Base: in.base, Actor: s.Operator, Reason: in.reason, Migrate: in.migrate}
	if in.base == "" {
		in.general = "The form does not say which settings it was made for. Load the page again."
	}
	switch in.pause {
	case "":
		changed := false
		for _, f := range settingFields {
			in.typed[f.name], in.was[f.name] = get(f.name), get("was."+f.name)
			if in.typed[f.name] == in.was[f.name] {
				continue
			}
			changed = true
			if text := f.read(in.typed[f.name], &e.Patch); text != "" {
				in.wrong[f.name] = text
			}
		}
		if !changed && in.general == "" {
			in.general = "Nothing in the form differs from what is in force."
		}
	case "resume":
		e.Patch.PauseUntil = new(time.Time)
	default:
		in.until = in.pauseEnd(s.Now())
		e.Patch.PauseUntil = &in.until
	}
	known := false
	for _, h := range holdSpans {
		if h.key == in.hold {
			known, e.Hold = true, h.d
		}
	}
	if !known {
		in.wrong["hold"] = "Choose one of these."
	}
	reason := weightsInput{reason: in.reason, wrong: in.wrong}
	reason.checkReason()
	return in, e
}

// pauseEnd is the moment that the form names, or the end of the span that it does.
func (in *settingsInput) pauseEnd(now time.Time) time.Time {
	if in.pauseUntil != "" {
		t, err := parseTime(in.pauseUntil, time.Time{})
		if err != nil || t.IsZero() {
			in.wrong["pause_until"] = "Write it as 2026-01-31T12:00, in UTC."
		}
		return t
	}
	for _, sp := range pauseSpans {
		if sp.key == in.pauseFor {
			return now.Add(sp.d).UTC().Truncate(time.Second)
		}
	}
	in.wrong["pause_until"] = "Choose one of these, or name a moment."
	return time.Time{}
}

// ahead says before anything is typed what holds for a field; "" is nothing.
func ahead(now traffic.ConsumerSettings, name string) string {
	if text := now.Beforehand(name); text != "" || name != "max_ack_pending" || now.Limit <= 0 {
		return text
	}
	return fmt.Sprintf("The %s allows %s at most.", now.LimitedBy, countWords(uint64(now.Limit)))
}

// view is the form for the template, over what is in force now. A setting that was
// not changed in the form follows what is in force; one that was stays as typed,
// and it is said when somebody else changed it too.
func (in settingsInput) view(now traffic.ConsumerSettings, at time.Time) templates.SettingsForm {
	v := templates.SettingsForm{Base: now.Digest, General: in.general, Conflict: in.conflict, Reason: in.reason, Hold: in.hold, Wrong: in.wrong, Migrate: in.migrate, MigrateWhy: in.wrong["migrate"]}
	if v.Wrong == nil {
		v.Wrong = map[string]string{}
	}
	for _, f := range settingFields {
		is := f.text(now)
		row := templates.SettingField{Name: f.name, Unit: f.unit, Help: f.help, Value: is, Now: is, Ahead: ahead(now, f.name), Wrong: v.Wrong[f.name], List: f.name == "priority_policy"}
		typed, ok := in.typed[f.name]
		if was := in.was[f.name]; ok && typed != was {
			row.Value = typed
			if was != is {
				row.Moved = fmt.Sprintf("In force now: %s. You saw: %s.", cmp.Or(is, "none"), cmp.Or(was, "none"))
			}
		} else if ok && was != is {
			row.Moved = fmt.Sprintf("Changed meanwhile from %s to %s.", cmp.Or(was, "none"), cmp.Or(is, "none"))
		}
		v.Fields = append(v.Fields, row)
	}
	for _, p := range []traffic.PriorityPolicy{traffic.PriorityNone, traffic.PriorityOverflow, traffic.PriorityPinned, traffic.PriorityPrioritized} {
		v.Policies = append(v.Policies, templates.Option{Value: string(p), Label: policyWords(p)})
	}
	for _, h := range holdSpans {
		v.Holds = append(v.Holds, templates.Option{Value: h.key, Label: h.label})
	}
	v.Paused = now.PausedUntil.After(at)
	v.Pausing, v.PauseFor, v.PauseUntil = in.pause != "", cmp.Or(in.pauseFor, pauseSpans[0].key), in.pauseUntil
	for _, sp := range pauseSpans {
		v.PauseSpans = append(v.PauseSpans, templates.Option{Value: sp.key, Label: sp.label})
	}
	return v
}

func (s *Server) planSettings(c echo.Context) error  { return s.changeSettings(c, false) }
func (s *Server) applySettings(c echo.Context) error { return s.changeSettings(c, true) }

func (s *Server) changeSettings(c echo.Context, apply bool) error {
	con, err := s.settingsOf(c)
	if err != nil {
		return err
	}
	form, err := c.FormParams()
	if err != nil {
		return echo.NewHTTPError(http.StatusBadRequest, "The form cannot be read.")
	}
	in, e := s.readSettings(form, con.ConsumerKey)
	if len(in.wrong) > 0 || in.general != "" {
		return s.answerSettings(c, http.StatusUnprocessableEntity, con, in)
	}
	ctx := c.Request().Context()
	if apply {
		if _, err = s.Control.ApplyConsumer(ctx, e); err == nil {
			return seeOther(c, settingsURL(con.ConsumerKey))
		}
	} else {
		var p traffic.ConsumerPlan
		if p, err = s.Control.PlanConsumer(ctx, e); err == nil {
			return s.showSettingsReview(c, con, p, e, in, form)
		}
	}
	return s.refuseSettings(c, con, in, err)
}

// refuseSettings shows the form again with what control says against it.
func (s *Server) refuseSettings(c echo.Context, con *fleet.Consumer, in settingsInput, err error) error {
	if in.wrong == nil {
		in.wrong = map[string]string{}
	}
	general, status, ok := blame(err, in.wrong)
	if !ok {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(in.wrong)) {
		in.wrong[name] = sentence(strings.TrimSuffix(in.wrong[name], "."))
		if !slices.Contains(settingNames, name) { // no field of the form: it is said of the whole
			general += " " + name + ": " + in.wrong[name]
		}
	}
	in.general, in.conflict = general, fleet.KindOf(err) == fleet.Stale
	return s.answerSettings(c, status, con, in)
}

func (s *Server) showSettingsReview(c echo.Context, con *fleet.Consumer, p traffic.ConsumerPlan, e traffic.ConsumerEdit, in settingsInput, form url.Values) error {
	k := con.ConsumerKey
	fields := maps.Clone(form)
	if in.pause == "pause" { // what is confirmed is the moment that is shown
		fields.Del("for")
		fields.Set("until", in.until.Format(time.RFC3339))
	}
	v := templates.Review{
		Split: k.Consumer, Title: "Change the settings of " + k.Consumer, Lead: "This is the dry run: nothing has been sent yet.", Diff: settingLines(p.Diff), Warn: p.Warn,
		KeyName: "Sent to", Key: p.Subject, KeyNote: "its leader is asked again just before, and what somebody else changed meanwhile stops it", Payload: string(p.Payload), Command: p.Command, Reason: e.Reason,
		GuardText: "It is read back from the leader and then watched whether it stays in force; you can roll back at any time.", Fields: hidden(fields),
		Action: settingsURL(k) + "/apply", Back: settingsURL(k),
	}
	switch in.pause {
	case "pause":
		v.Title = "Pause " + k.Consumer
	case "resume":
		v.Title = "Resume " + k.Consumer
	}
	if len(p.Diff) == 0 {
		v.NoChange, v.Lead = true, "Nothing would change: this is what is in force."
	}
	f := s.frame(c, v.Title, navConsumers, templates.Crumb{Name: "Consumers", URL: "/consumers"}, templates.Crumb{Name: k.Consumer, URL: consumerURL(k)},
		templates.Crumb{Name: "Settings", URL: v.Back}, templates.Crumb{Name: "Review"})
	return show(c, templates.ReviewPage(f, v), templates.ReviewBox(v, true))
}

func (s *Server) rollBackSettings(c echo.Context) error {
	con, err := s.settingsOf(c)
	if err != nil {
		return err
	}
	reason := cmp.Or(strings.TrimSpace(c.FormValue("reason")), "Rolled back from the console")
	if len(reason) > maxReason {
		return s.answerSettings(c, http.StatusUnprocessableEntity, con, settingsInput{general: fmt.Sprintf("Nothing was rolled back: use at most %d characters for the reason.", maxReason)})
	}
	if _, err := s.Control.RollBackConsumer(c.Request().Context(), c.FormValue("id"), s.Operator, reason); err != nil {
		return s.refuseSettings(c, con, settingsInput{}, err)
	}
	return seeOther(c, settingsURL(con.ConsumerKey))
}

func (s *Server) unpin(c echo.Context) error {
	con, err := s.settingsOf(c)
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(c.FormValue("reason"))
	if reason == "" || len(reason) > maxReason {
		return s.answerSettings(c, http.StatusUnprocessableEntity, con, settingsInput{general: fmt.Sprintf("Nothing was unpinned: say why, in at most %d characters.", maxReason)})
	}
	if err := s.Control.Unpin(c.Request().Context(), con.ConsumerKey, c.FormValue("group"), s.Operator, reason); err != nil {
		return s.refuseSettings(c, con, settingsInput{}, err)
	}
	return seeOther(c, settingsURL(con.ConsumerKey))
}
