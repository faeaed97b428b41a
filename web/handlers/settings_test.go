package handlers

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"ballast/fleet"
	"ballast/traffic"
)

var eastKey = fleet.ConsumerKey{Account: "APP", Stream: "ORDERS", Consumer: "worker-east-1"}

const eastSettings = "/consumers/APP/ORDERS/worker-east-1/settings"

// settingsForm is the form of a page as a browser would send it.
func settingsForm(a *answer, id string) (action string, fields url.Values) {
	action, fields = a.form(id)
	chosen(a, id, fields)
	fields.Del("migrate") // a box that is not ticked is not sent
	fields.Set("reason", "Because of the test")
	return action, fields
}

// What is in force stands there with its units, what no server changes with the
// reason; and the consumer's page asks for it and leads to it.
func TestSettingsInForce(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.set(eastKey, func(s *traffic.ConsumerSettings) {
		s.BackOff, s.MaxDeliver = []time.Duration{time.Second, 90 * time.Second, time.Hour}, 5
		s.Priority, s.Groups, s.PriorityTimeout, s.Pinned = traffic.PriorityPinned, []string{"jobs", "rest"}, 2*time.Minute, map[string]string{"jobs": "CLIENT-7"}
	})
	st := newSite(t, w)
	a := st.get(eastSettings).status(200)
	a.says("in-force", "max_ack_pending 1,000 (the stream allows 5,000)").says("in-force", "ack_wait 30s").says("in-force", "backoff 1s, 1m30s, 1h").says("in-force", "max_deliver 5").
		says("in-force", "priority_timeout 2m").says("in-force", "31 messages are in flight, 812 to be delivered, 2 pull requests wait")
	a.says("fixed", "max_waiting 512 A server answers 10012: make a new consumer.").says("pins", "jobs CLIENT-7").says("pins", "rest none is pinned now")
	if got := a.field("backoff"); got != "1s, 1m30s, 1h" {
		t.Errorf("the form has the backoff %q", got)
	}
	if got := a.field("priority_policy"); got != "pinned_client" {
		t.Errorf("the form has the policy %q", got)
	}
	page := st.get("/consumers/APP/ORDERS/worker-east-1").status(200)
	if card := page.id("in-force"); attr(card, "hx-get") != eastSettings || find(card, func(n *html.Node) bool { return attr(n, "href") == eastSettings }) == nil {
		t.Error("the consumer's page has no way to its settings")
	}
	if part := st.get(eastSettings, "HX-Request", "true").status(200); strings.Contains(part.Body.String(), "<main") || !strings.Contains(part.Body.String(), "1m30s") {
		t.Errorf("the part is %s", part.Body)
	}
	st.get("/consumers/APP/ORDERS/nobody/settings").status(404)

	w.settingsErr = &fleet.Error{Kind: fleet.Unavailable, Msg: "The consumer's leader does not answer.", Hint: "Try again."}
	down := st.get(eastSettings).status(200).says("in-force", "The consumer's leader does not answer. Try again.")
	if find(down.doc, func(n *html.Node) bool { return attr(n, "id") == "settings-form" }) != nil {
		t.Error("there is a form over settings that nobody knows")
	}
}

// Edit, dry run, apply, in force, roll back; only what was changed in the form is
// part of the edit.
func TestSettingsAreReviewedThenApplied(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	action, fields := settingsForm(st.get(eastSettings), "settings-form")
	fields.Set("max_ack_pending", " 200 ")
	fields.Set("backoff", "1s,5s  30s")
	fields.Set("max_deliver", "4")
	fields.Set("hold", "5m")
	for _, h := range [][]string{nil, {"HX-Request", "true"}} {
		a := st.ask("POST", action, fields, h...).status(200)
		body := text(a.doc)
		for _, want := range []string{"Change the settings of worker-east-1", "- max_ack_pending 1000", "+ max_ack_pending 200", "+ backoff [1s 5s 30s]", "31 messages are in flight.", "nats consumer edit 'ORDERS' 'worker-east-1'",
			"Sent to $JS.API.CONSUMER.DURABLE.CREATE.ORDERS.worker-east-1", "Because of the test"} {
			if !strings.Contains(body, want) {
				t.Errorf("the dry run does not say %q: %s", want, body)
			}
		}
		if strings.Contains(body, "revision") || strings.Contains(body, "ack_wait 30") {
			t.Errorf("the dry run tells of what does not change: %s", body)
		}
	}
	if len(w.setChanges) != 0 {
		t.Fatal("the dry run changed something")
	}
	apply, confirmed := st.ask("POST", action, fields).form("confirm")
	if got := st.ask("POST", apply, confirmed).status(303).Header().Get("Location"); got != eastSettings {
		t.Errorf("it leads to %q", got)
	}
	ch := w.setChanges[0]
	if len(ch.Diff) != 3 || ch.Actor != "ada" || ch.Reason != "Because of the test" || ch.HoldEnds.Sub(ch.Written) != 5*time.Minute {
		t.Errorf("the change is %+v", ch)
	}
	a := st.get(eastSettings).says("in-force", "max_ack_pending 200").says("settings-changes", "in force, watched until 09:31:53 UTC").says("settings-changes", "max_deliver -1 → 4").says("settings-changes", "ada : Because of the test")
	undo, back := a.form("undo-s1")
	back.Set("reason", "It was worse")
	st.ask("POST", undo, back).status(303)
	a = st.get(eastSettings).says("in-force", "max_ack_pending 1,000").says("settings-changes", "rolled back").says("settings-changes", "Rolled back by ada: It was worse")
	if strings.Contains(a.Body.String(), `id="undo-`) {
		t.Error("what was rolled back can be rolled back again")
	}
}

// A wrong field comes back as typed with what is wrong beside it, what control
// refuses too, and a refusal of the whole above it; for scripts only the forms.
func TestRefusedSettingsComeBackAsTyped(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	action, plain := settingsForm(st.get(eastSettings), "settings-form")
	for _, c := range []struct{ field, value, says string }{
		{"max_ack_pending", "many", "Use a whole number; -1 is no limit."},
		{"max_ack_pending", "6000", "The stream allows 5000."},
		{"ack_wait", "30", "Use a number with its unit"},
		{"backoff", "1s, <b>", `"<b>" is not a time.`},
		{"max_deliver", "", "Use a whole number"},
		{"priority_timeout", "soon", "Use a number with its unit"},
		{"reason", "", "Say why"},
		{"hold", "9d", "Choose one of these."},
	} {
		f := url.Values{}
		for k, v := range plain {
			f[k] = v
		}
		f.Set("max_ack_pending", "900")
		f.Set(c.field, c.value)
		a := st.ask("POST", action, f).status(422).says("settings-form", c.says)
		if got := a.field(c.field); got != c.value && c.field != "hold" {
			t.Errorf("%s = %q came back as %q", c.field, c.value, got)
		}
		part := st.ask("POST", action, f, "HX-Request", "true").status(422)
		if part.Header().Get("HX-Retarget") != "#settings-forms" || strings.Contains(part.Body.String(), "<main") {
			t.Errorf("%s: scripts get %v %s", c.field, part.Header(), part.Body)
		}
	}
	st.ask("POST", action, plain).status(422).says("refused", "Nothing in the form differs")
	plain.Set("ack_wait", "10s")
	plain.Del("base")
	st.ask("POST", action, plain).status(422).says("refused", "does not say which settings")
	plain.Set("base", "x")
	for kind, status := range map[fleet.ErrorKind]int{fleet.Invalid: 422, fleet.Unavailable: 503, fleet.Unknown: 502, fleet.Forbidden: 403} {
		w.planErr = &fleet.Error{Kind: kind, Msg: "It was refused.", Hint: "Do this.", Fields: map[string]string{"ack_wait": "too short", "ack_policy": "is none"}}
		a := st.ask("POST", action+"/apply", plain).status(status).says("refused", "It was refused. Do this. ack_policy: Is none.").says("settings-form", "Too short.")
		if a.field("ack_wait") != "10s" {
			t.Errorf("%v: what was typed is lost", kind)
		}
		st.ask("POST", action+"/rollback", url.Values{"id": {"s1"}}).status(status).says("refused", "It was refused.")
		st.ask("POST", action+"/unpin", url.Values{"group": {"g"}, "reason": {"x"}}).status(status).says("refused", "It was refused.")
	}
	w.planErr = fmt.Errorf("a defect")
	st.ask("POST", action, plain).status(500)
	w.planErr = nil
	st.ask("POST", action+"/rollback", url.Values{"id": {"nothing"}}).status(404)
	st.ask("POST", action+"/rollback", url.Values{"id": {"s1"}, "reason": {strings.Repeat("x", 501)}}).status(422).says("refused", "Nothing was rolled back")
	st.ask("POST", action+"/unpin", url.Values{"group": {"g"}}).status(422).says("refused", "Nothing was unpinned")
	if len(w.setChanges) != 0 {
		t.Error("a refused edit changed something")
	}
}

// When somebody else changed the consumer meanwhile, the form shows both: what was
// changed in it stays as typed, everything else follows what is in force; and what
// is sent then puts nothing back that somebody else changed.
func TestConflictOfSettings(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	action, fields := settingsForm(st.get(eastSettings), "settings-form")
	fields.Set("max_ack_pending", "200")
	w.set(eastKey, func(s *traffic.ConsumerSettings) { s.MaxAckPending, s.MaxDeliver = 400, 7 })
	a := st.ask("POST", action, fields).status(409)
	a.says("refused", "Somebody else changed this consumer; nothing was sent.").says("settings-form", "In force now: 400. You saw: 1000.").says("settings-form", "Changed meanwhile from -1 to 7.")
	if a.field("max_ack_pending") != "200" || a.field("max_deliver") != "7" {
		t.Errorf("the form has %s and %s", a.field("max_ack_pending"), a.field("max_deliver"))
	}
	part := st.ask("POST", action, fields, "HX-Request", "true").status(409)
	if part.Header().Get("HX-Retarget") != "#settings-forms" {
		t.Error("scripts do not get the forms")
	}
	action, fields = settingsForm(a, "settings-form")
	apply, confirmed := st.ask("POST", action, fields).status(200).form("confirm")
	st.ask("POST", apply, confirmed).status(303)
	if ch := w.setChanges[0]; len(ch.Diff) != 1 || ch.Diff[0].Before != "400" || ch.Diff[0].After != "200" {
		t.Errorf("changed: %+v", ch.Diff)
	}
	if w.settings[eastKey].MaxDeliver != 7 {
		t.Errorf("somebody else's change was undone: %+v", w.settings[eastKey])
	}
}

// Another priority policy stops the clients: the form asks for consent only then,
// and says why.
func TestConsentToMigrate(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.get(eastSettings)
	if strings.Contains(a.Body.String(), `id="migrate"`) {
		t.Error("consent is asked for at once")
	}
	action, fields := settingsForm(a, "settings-form")
	fields.Set("priority_policy", "prioritized")
	fields.Set("priority_groups", "jobs")
	a = st.ask("POST", action, fields).status(422).says("migrate", "I know that its clients stop.").says("migrate", "2 pulls wait now: their clients stop for good.")
	if a.field("priority_policy") != "prioritized" {
		t.Errorf("the policy came back as %q", a.field("priority_policy"))
	}
	fields.Set("migrate", "1")
	apply, confirmed := st.ask("POST", action, fields).status(200).form("confirm")
	if confirmed.Get("migrate") != "1" {
		t.Error("the consent is lost at the review")
	}
	st.ask("POST", apply, confirmed).status(303)
	if s := w.settings[eastKey]; s.Priority != traffic.PriorityPrioritized || len(s.Groups) != 1 {
		t.Errorf("in force: %+v", s)
	}
}

// Pausing has a form of its own; what is confirmed is the moment that the review
// shows, however late.
func TestPausingAndResuming(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	action, fields := settingsForm(st.get(eastSettings), "pause-form")
	fields.Set("for", "1h")
	a := st.ask("POST", action, fields).status(200)
	a.says("main", "Pause worker-east-1").says("main", "+ pause_until 2026-03-14T10:26:53Z")
	apply, confirmed := a.form("confirm")
	w.now = func() time.Time { return epoch.Add(2 * time.Minute) }
	st.s = New(w.deps())
	st.ask("POST", apply, confirmed).status(303)
	if until := w.settings[eastKey].PausedUntil; !until.Equal(epoch.Add(time.Hour)) {
		t.Errorf("paused until %s", until)
	}
	a = st.get(eastSettings).says("in-force", "Paused until 2026-03-14 10:26:53 UTC").says("pause-form", "Review resuming")
	action, fields = settingsForm(a, "pause-form")
	apply, confirmed = st.ask("POST", action, fields).status(200).form("confirm")
	st.ask("POST", apply, confirmed).status(303)
	if !w.settings[eastKey].PausedUntil.IsZero() {
		t.Error("it is still paused")
	}
	action, fields = settingsForm(st.get(eastSettings), "pause-form")
	fields.Set("until", "tomorrow")
	fields.Set("reason", "")
	a = st.ask("POST", action, fields).status(422).says("pause-form", "Write it as").says("pause-form", "Say why")
	if got := text(a.id("settings-form")); strings.Contains(got, "Say why") {
		t.Errorf("the other form is blamed: %s", got)
	}
	fields.Set("until", "2026-03-15T00:00")
	fields.Set("reason", "Night")
	st.ask("POST", action, fields).status(200).says("main", "+ pause_until 2026-03-15T00:00:00Z")
	fields.Set("until", "")
	fields.Set("for", "9d")
	st.ask("POST", action, fields).status(422).says("pause-form", "Choose one of these")
}

func TestUnpinning(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.set(eastKey, func(s *traffic.ConsumerSettings) {
		s.Priority, s.Groups, s.Pinned = traffic.PriorityPinned, []string{"jobs"}, map[string]string{"jobs": "CLIENT-7"}
	})
	st := newSite(t, w)
	st.ask("POST", eastSettings+"/unpin", url.Values{"group": {"jobs"}, "reason": {"It hangs"}}).status(303)
	if len(w.unpinned) != 1 || w.unpinned[0] != "worker-east-1 jobs ada It hangs" {
		t.Errorf("unpinned: %q", w.unpinned)
	}
}

// changedSettings gives the fixture a change of settings with its records.
func changedSettings(w *world, at time.Time) {
	ch := traffic.ConsumerChange{ID: "s1", Consumer: traffic.Observed{Account: "APP", Stream: "ORDERS", Consumer: "worker-east-1"}, Phase: traffic.Applying, Actor: "ada", Reason: "=cmd", Created: at, HoldEnds: at.Add(time.Minute),
		Diff: []traffic.SettingDiff{{Name: "ack_wait", Before: "30s", After: "10s"}, {Name: "backoff", After: "1s, 5s"}}}
	w.record(traffic.EntryConsumerIntent, "s1", ch)
	w.entries[0].At = at
	ch.Phase, ch.Written = traffic.Baking, at.Add(time.Second)
	w.record(traffic.EntryConsumerWritten, "s1", ch)
	w.entries[0].At = at.Add(time.Second)
	ch.Phase, ch.Ended, ch.Outcome = traffic.Verified, at.Add(time.Minute), "In force to the end."
	w.record(traffic.EntryConsumerVerified, "s1", ch)
	w.entries[0].At = at.Add(time.Minute)
	w.record(traffic.EntryConsumerUnpinned, "s2", "jobs")
	w.entries[0].At = at.Add(time.Minute)
	w.setChanges = []traffic.ConsumerChange{ch}
}

// Records of settings are words, a filter, a difference and a way to the consumer;
// the past shows the changes as they then stood and changes nothing.
func TestSettingsInTheJournalAndThePast(t *testing.T) {
	t.Parallel()
	w := newWorld()
	changedSettings(w, epoch.Add(-10*time.Minute))
	st := newSite(t, w)
	st.get("/journal").status(200).says("main", "settings in force").says("main", "settings verified").says("main", "client unpinned").says("main", "settings changed by others") // the last as a filter
	if got := text(st.get("/journal?kind=consumer.written").status(200).id("main")); strings.Contains(got, "Revision 4") {
		t.Errorf("the filter does not hold: %s", got)
	}
	a := st.get(fmt.Sprintf("/journal/%d", w.entries[1].Seq)).status(200).says("main", "- ack_wait 30s + ack_wait 10s").says("main", "- backoff none + backoff 1s, 5s").says("main", "The life of this change")
	if find(a.doc, func(n *html.Node) bool { return attr(n, "href") == eastSettings }) == nil {
		t.Error("the record does not lead to the consumer")
	}
	st.get(fmt.Sprintf("/journal/%d", w.entries[0].Seq)).status(200)

	past := st.get(at(eastSettings, epoch.Add(-9*time.Minute-30*time.Second))).status(200)
	past.says("in-force", "What the consumer's leader told then was not kept.").says("settings-changes", "in force, watched").says("settings-changes", "ack_wait 30s → 10s")
	if strings.Contains(text(past.doc), "In force to the end.") {
		t.Error("the past knows what came later")
	}
	if got := text(st.get(at(eastSettings, then)).status(200).doc); !strings.Contains(got, "None from this console yet.") {
		t.Errorf("before the change: %s", got)
	}
	for _, verb := range []string{"", "/apply", "/rollback", "/unpin"} {
		st.ask("POST", at(eastSettings+verb, then), url.Values{"id": {"s1"}, "reason": {"x"}, "group": {"g"}}).status(403)
	}
	if len(w.unpinned) != 0 {
		t.Error("something was unpinned from the past")
	}
}

func TestSettingsAsData(t *testing.T) {
	t.Parallel()
	w := newWorld()
	changedSettings(w, epoch.Add(-10*time.Minute))
	st := newSite(t, w)
	var d settingsDoc
	if err := json.Unmarshal(st.get(eastSettings+".json").status(200).Body.Bytes(), &d); err != nil || d.Settings == nil || d.Settings.MaxAckPending != 1000 || len(d.Changes) != 1 || d.Changes[0].Diff[1].After != "1s, 5s" {
		t.Errorf("settings.json: %v, %+v", err, d)
	}
	csv := st.get(eastSettings + ".csv").status(200).Body.String()
	if !strings.Contains(csv, "s1,APP,ORDERS,worker-east-1,verified,ada,'=cmd,,ack_wait,30s,10s,") || strings.Count(csv, "\n") != 3 {
		t.Errorf("settings.csv:\n%s", csv)
	}
	w.settingsErr = &fleet.Error{Kind: fleet.Unavailable, Msg: "Nobody answers."}
	d = settingsDoc{}
	if err := json.Unmarshal(st.get(eastSettings+".json").status(200).Body.Bytes(), &d); err != nil || d.Settings != nil || d.Unread != "Nobody answers." || len(d.Changes) != 1 {
		t.Errorf("settings.json of a leader that is gone: %v, %+v", err, d)
	}
	if got := st.get("/consumers/APP/PAYMENTS/us/settings.csv").status(200).Body.String(); strings.Contains(got, "s1") {
		t.Errorf("changes of another consumer are told: %s", got)
	}
}

// Whatever the names are: the same elements, and each link leads on.
func TestHostileSettings(t *testing.T) {
	t.Parallel()
	build := func(name string) (*site, string) {
		w := newWorld()
		k := fleet.ConsumerKey{Account: name, Stream: name, Consumer: name}
		w.snap.Consumers = append(w.snap.Consumers, fleet.Consumer{ConsumerKey: k, At: epoch})
		w.set(k, func(s *traffic.ConsumerSettings) {
			s.Priority, s.Groups, s.Pinned, s.LimitedBy, s.AckPolicy = traffic.PriorityPinned, []string{name}, map[string]string{name: name}, name, name
			s.Fixed = []traffic.FixedSetting{{Name: name, Value: name, Why: name}}
		})
		w.setChanges = []traffic.ConsumerChange{{ID: name, Consumer: traffic.Observed{Account: name, Stream: name, Consumer: name}, Phase: traffic.Verified, Actor: name, Reason: name, Outcome: name,
			Created: epoch, Written: epoch, Diff: []traffic.SettingDiff{{Name: name, Before: name, After: name}}}}
		return newSite(t, w), settingsURL(k)
	}
	st, p := build("A")
	plain := skeleton(st.get(p).status(200).doc)
	action, fields := settingsForm(st.get(p), "settings-form")
	fields.Set("ack_wait", "1s")
	review := skeleton(st.ask("POST", action, fields).status(200).doc)
	for _, name := range hostile {
		st, p := build(name)
		a := st.get(p).status(200)
		if got := skeleton(a.doc); got != plain {
			t.Errorf("%q: %s", name, firstDifference(plain, got))
		}
		action, fields := settingsForm(a, "settings-form")
		fields.Set("ack_wait", "1s")
		if got := skeleton(st.ask("POST", action, fields).status(200).doc); got != review {
			t.Errorf("%q, review: %s", name, firstDifference(review, got))
		}
	}
}

// What the servers would refuse in a field is said before anything is typed.
func TestWhatIsRefusedIsSaidBeforehand(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*traffic.ConsumerSettings){
		"The stream allows 5,000 at most.":                                             func(*traffic.ConsumerSettings) {},
		"There is a backoff: its first step is the ack_wait.":                          func(s *traffic.ConsumerSettings) { s.BackOff = []time.Duration{time.Second} },
		"This consumer takes no acknowledgements (ack_policy none)":                    func(s *traffic.ConsumerSettings) { s.AckPolicy = "none" },
		"A consumer with ack_policy flow_control has none.":                            func(s *traffic.ConsumerSettings) { s.AckPolicy = "flow_control" },
		"Only pull consumers have it; to this one the servers push. Reason":            func(s *traffic.ConsumerSettings) { s.Pull = false },
		"How many messages may be out with clients at once, over all of them. When it": func(s *traffic.ConsumerSettings) { s.Limit = 0 },
	} {
		w := newWorld()
		w.set(eastKey, change)
		newSite(t, w).get(eastSettings).status(200).says("settings-form", says)
	}
}

// The list of changes lives, and is bounded.
func TestChangesOfSettingsLive(t *testing.T) {
	t.Parallel()
	w := newWorld()
	changedSettings(w, epoch.Add(-10*time.Minute))
	s := New(w.deps())
	shape := func() string {
		up, err := s.topics()[topicSettings](t.Context(), "account=APP&stream=ORDERS&consumer=worker-east-1")
		if err != nil {
			t.Fatal(err)
		}
		return up.Parts["changes-of-settings"].shape
	}
	before := shape()
	w.setChanges[0].Phase, w.setChanges[0].Outcome = traffic.Replaced, "An application set it back."
	if after := shape(); after == before || before == "" {
		t.Errorf("a change that goes further is not told: %q", after)
	}
	for range 30 {
		w.setChanges = append(w.setChanges, w.setChanges[0])
	}
	st := newSite(t, w)
	a := st.get(eastSettings).status(200).says("changes-of-settings", "11 older ones are in the JSON and CSV.")
	if live := attr(a.id("live"), "hx-sse:connect"); !strings.Contains(live, "settings") {
		t.Errorf("the page follows %q", live)
	}
	if up, err := s.settingsTopic(t.Context(), "account=APP&stream=ORDERS&consumer=nobody"); err != nil || strings.Contains(up.Parts["changes-of-settings"].shape, "s1") {
		t.Errorf("another consumer's changes are told: %v, %v", err, up)
	}
}
