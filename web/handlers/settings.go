package handlers

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

func settingsRoutes(s *Server, e *echo.Echo) {
	const at = "/consumers/:account/:stream/:consumer/settings"
	page(e, at, s.showSettings)
	e.POST(at, s.planSettings)
	e.POST(at+"/apply", s.applySettings)
	e.POST(at+"/rollback", s.rollBackSettings)
	e.POST(at+"/unpin", s.unpin)
}

func settingsURL(k fleet.ConsumerKey) string { return consumerURL(k) + "/settings" }

// noSettings says why the settings of a row of many consumers are not told.
func noSettings() error {
	return &fleet.Error{Kind: fleet.NotFound, Msg: "This row sums up many consumers with generated names; their settings are not told one by one.", Hint: "Change them where the application makes them."}
}

// settingsOf finds the consumer of a path whose settings can be asked for.
func (s *Server) settingsOf(c echo.Context) (*fleet.Consumer, error) {
	_, con, err := s.consumerOfPath(c)
	if err == nil && con.Fold != nil {
		err = noSettings()
	}
	return con, err
}

func (s *Server) showSettings(c echo.Context) error {
	con, err := s.settingsOf(c)
	if err != nil {
		return err
	}
	if format(c) != "" {
		return s.exportSettings(c, con)
	}
	return s.answerSettings(c, http.StatusOK, con, settingsInput{})
}

// answerSettings shows a consumer's settings as its leader tells them now; in is
// what was typed and refused, if anything was.
func (s *Server) answerSettings(c echo.Context, status int, con *fleet.Consumer, in settingsInput) error {
	v := s.settingsView(c.Request().Context(), con, in)
	k := con.ConsumerKey
	if wantsPart(c.Request()) && status != http.StatusOK {
		h := c.Response().Header()
		h.Set("HX-Retarget", "#settings-forms")
		h.Set("HX-Reswap", "outerHTML")
		return render(c, status, templates.SettingsForms(v))
	}
	topic := topicSettings + ":" + url.Values{"account": {k.Account}, "stream": {k.Stream}, "consumer": {k.Consumer}}.Encode()
	if len(topic) > maxTopicName {
		topic = ""
	}
	f := follow(s.frame(c, "Settings of "+k.Consumer, navConsumers, templates.Crumb{Name: "Consumers", URL: "/consumers"},
		templates.Crumb{Name: k.Consumer, URL: consumerURL(k)}, templates.Crumb{Name: "Settings"}), topic)
	return showAs(c, status, templates.SettingsPage(f, v), templates.SettingsCard(v, true))
}

func (s *Server) settingsView(ctx context.Context, con *fleet.Consumer, in settingsInput) templates.ConsumerSettings {
	k := con.ConsumerKey
	v := templates.ConsumerSettings{Name: k.Consumer, Where: strings.TrimPrefix(k.Account+" / "+k.Stream, " / "), URL: consumerURL(k), SettingsURL: settingsURL(k),
		CSV: settingsURL(k) + ".csv", JSON: settingsURL(k) + ".json"}
	s.listChanges(&v, k)
	now, err := s.Control.ConsumerSettings(ctx, k)
	if err != nil {
		f := fault(err)
		v.Unread = strings.TrimSpace(f.Title + " " + f.Hint)
		v.Form = templates.SettingsForm{General: in.general}
		return v
	}
	v.At = s.when(s.Now())
	v.Force, v.Counts = forceRows(now), settingCounts(now)
	for _, f := range now.Fixed {
		v.Fixed = append(v.Fixed, templates.FixedRow{Name: f.Name, Value: f.Value, Why: f.Why})
	}
	for _, g := range now.Groups {
		if now.Priority == traffic.PriorityPinned {
			v.Pins = append(v.Pins, templates.PinRow{Group: g, Client: now.Pinned[g]})
		}
	}
	v.PausedUntil = pausedWords(s.Now(), now.PausedUntil)
	v.Form = in.view(now, s.Now())
	if err := s.Control.Ready(); err != nil {
		v.Form.NotReady = fault(err).Title
	}
	return v
}

// forceRows are the settings in force that a form can change, with units.
func forceRows(now traffic.ConsumerSettings) []templates.Setting {
	limit := countLimit(now.MaxAckPending)
	if now.Limit > 0 {
		limit += fmt.Sprintf(" (the %s allows %s)", now.LimitedBy, countWords(uint64(now.Limit)))
	}
	rows := []templates.Setting{
		{Name: "max_ack_pending", Value: limit},
		{Name: "ack_wait", Value: spanText(now.AckWait)},
		{Name: "backoff", Value: cmp.Or(spanList(now.BackOff), "none")},
		{Name: "max_deliver", Value: countLimit(now.MaxDeliver)},
		{Name: "priority_policy", Value: policyWords(now.Priority)},
	}
	if now.Priority != traffic.PriorityNone {
		rows = append(rows, templates.Setting{Name: "priority_groups", Value: strings.Join(now.Groups, ", ")})
	}
	if now.Priority == traffic.PriorityPinned {
		rows = append(rows, templates.Setting{Name: "priority_timeout", Value: spanText(now.PriorityTimeout)})
	}
	return rows
}

// settingCounts is what the leader counted when it answered: what a change of the
// settings meets.
func settingCounts(now traffic.ConsumerSettings) string {
	kind := "push"
	if now.Pull {
		kind = "pull"
	}
	return fmt.Sprintf("A %s consumer, acknowledgements %s; %s in flight, %s to be delivered, %s.", kind, cmp.Or(now.AckPolicy, "not told"),
		plural(now.InFlight, "message is", "messages are"), countWords(now.Backlog), plural(now.Waiting, "pull request waits", "pull requests wait"))
}

func countLimit(n int) string {
	if n <= 0 {
		return "no limit"
	}
	return countWords(uint64(n))
}

func policyWords(p traffic.PriorityPolicy) string {
	switch p {
	case traffic.PriorityNone:
		return "none: all clients are alike"
	case traffic.PriorityOverflow:
		return "overflow: a client is served beyond a backlog"
	case traffic.PriorityPinned:
		return "pinned_client: one client at a time"
	case traffic.PriorityPrioritized:
		return "prioritized: lower numbers first"
	}
	return string(p)
}

func pausedWords(now, until time.Time) string {
	if !until.After(now) {
		return ""
	}
	return "until " + until.UTC().Format("2006-01-02 15:04:05 UTC")
}

// changesOf are the changes of a consumer's settings, newest first.
func (s *Server) changesOf(k fleet.ConsumerKey) []traffic.ConsumerChange {
	return slices.DeleteFunc(slices.Clone(s.Control.ConsumerChanges()), func(ch traffic.ConsumerChange) bool {
		o := ch.Consumer
		return o.Stream != k.Stream || o.Consumer != k.Consumer || o.Account != "" && o.Account != k.Account
	})
}

// shownChanges bounds the list of changes on a page; the exports have all.
const shownChanges = 20

func (s *Server) listChanges(v *templates.ConsumerSettings, k fleet.ConsumerKey) {
	all := s.changesOf(k)
	for i, ch := range all {
		if i == shownChanges {
			v.More = fmt.Sprintf("%s are in the JSON and CSV.", plural(len(all)-i, "older one", "older ones"))
			break
		}
		v.Changes = append(v.Changes, s.settingsChange(ch))
	}
}

// settingsTopic follows what becomes of the changes: the list is drawn anew when
// one goes further.
func (s *Server) settingsTopic(_ context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("read the consumer's name: %w", err)
	}
	k := fleet.ConsumerKey{Account: q.Get("account"), Stream: q.Get("stream"), Consumer: q.Get("consumer")}
	v := templates.ConsumerSettings{SettingsURL: settingsURL(k)}
	s.listChanges(&v, k)
	shape := v.More
	for _, ch := range v.Changes {
		shape += "\x00" + ch.ID + ch.Status.Word + ch.Outcome
	}
	return update{Parts: map[string]part{"changes-of-settings": {templates.SettingsChanges(v), shape}}}, nil
}

func (s *Server) settingsChange(ch traffic.ConsumerChange) templates.SettingsChange {
	at := ch.Written
	if at.IsZero() {
		at = ch.Created
	}
	v := templates.SettingsChange{ID: ch.ID, URL: "/journal?change=" + url.QueryEscape(ch.ID), Status: templates.Status{Tone: phaseTone(ch.Phase), Word: string(ch.Phase)},
		At: s.when(at), By: ch.Actor, Bot: bot(ch.Actor), Reason: ch.Reason, Outcome: ch.Outcome, Effect: effectItems(ch.Effect), Diff: settingDiffs(ch.Diff)}
	switch ch.Phase {
	case traffic.Baking:
		v.Status.Word = "in force, watched"
		v.Ends, v.Until = millis(ch.HoldEnds), "until "+ch.HoldEnds.UTC().Format("15:04:05 UTC")
		v.Undo = true
	case traffic.Verified:
		v.Undo = true
	}
	return v
}

func settingDiffs(all []traffic.SettingDiff) []templates.SettingMove {
	out := make([]templates.SettingMove, len(all))
	for i, d := range all {
		out[i] = templates.SettingMove{Name: d.Name, Before: cmp.Or(d.Before, "none"), After: cmp.Or(d.After, "none")}
	}
	return out
}

// settingLines is the difference as a dry run shows it.
func settingLines(all []traffic.SettingDiff) []templates.DiffLine {
	width := 0
	for _, d := range all {
		width = max(width, len(d.Name))
	}
	var out []templates.DiffLine
	for _, d := range settingDiffs(all) {
		out = append(out, templates.DiffLine{Op: "-", Text: fmt.Sprintf("%-*s %s", width, d.Name, d.Before)}, templates.DiffLine{Op: "+", Text: fmt.Sprintf("%-*s %s", width, d.Name, d.After)})
	}
	return out
}

// settingsDoc is a consumer's settings and what was changed of them, as JSON.
type settingsDoc struct {
	Consumer traffic.Observed          `json:"consumer"`
	Settings *traffic.ConsumerSettings `json:"settings"` // null: they could not be read
	Unread   string                    `json:"unread,omitempty"`
	At       time.Time                 `json:"at"`
	Changes  []traffic.ConsumerChange  `json:"changes"`
}

var settingsColumns = []string{"change", "account", "stream", "consumer", "phase", "actor", "reason", "undo", "setting", "before", "after", "created", "written", "ended", "outcome"}

// exportSettings answers .json with all of it, .csv with a row for each setting
// of each change.
func (s *Server) exportSettings(c echo.Context, con *fleet.Consumer) error {
	k := con.ConsumerKey
	d := settingsDoc{Consumer: traffic.Observed{Account: k.Account, Stream: k.Stream, Consumer: k.Consumer}, At: s.Now().UTC(), Changes: s.changesOf(k)}
	if format(c) == "json" {
		if now, err := s.Control.ConsumerSettings(c.Request().Context(), k); err == nil {
			d.Settings = &now
		} else {
			d.Unread = fault(err).Title
		}
	}
	return s.export(c, "settings-"+k.Consumer, settingsColumns, settingsTable(d.Changes), d)
}

func settingsTable(changes []traffic.ConsumerChange) iter.Seq[[]any] {
	moment := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return t
	}
	return func(yield func([]any) bool) {
		for _, ch := range changes {
			for _, d := range ch.Diff {
				if !yield([]any{ch.ID, ch.Consumer.Account, ch.Consumer.Stream, ch.Consumer.Consumer, string(ch.Phase), ch.Actor, ch.Reason, ch.Undo, d.Name, d.Before, d.After,
					moment(ch.Created), moment(ch.Written), moment(ch.Ended), ch.Outcome}) {
					return
				}
			}
		}
	}
}

// spanText writes a time as a form takes it: 500ms, 30s, 1m30s.
func spanText(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func spanList(all []time.Duration) string {
	words := make([]string, len(all))
	for i, d := range all {
		words[i] = spanText(d)
	}
	return strings.Join(words, ", ")
}
