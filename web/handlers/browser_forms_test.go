package handlers

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/browser"
	"ballast/traffic"
)

// TestFormsWithEverythingInABrowser opens the pages that steer, with all options
// set, refused, in conflict, and with the longest names: nothing is wider than the
// screen, fields stand on one line with those beside them, and the other way of
// picking hides its options. With BALLAST_SCREENSHOTS=DIR the pictures are written
// there.
func TestFormsWithEverythingInABrowser(t *testing.T) {
	const patience = 2 * time.Minute
	w := newWorld()
	long := strings.Repeat("worker-of-the-very-long-name-", 3)[:64]
	w.splits[0].Split = everyOption(w.splits[0].Split)
	w.splits[0].Split.Targets[2].Name = long
	served := w.splits[0]
	served.Split.Name, served.Split.Pick, served.Split.Key, served.Split.Lanes, served.Split.Driver = "served", traffic.Weighted, nil, nil, traffic.DriverMappingConfig
	w.splits = append(w.splits, served)
	w.history["served"] = []traffic.Revision{served}
	w.inForce = []traffic.InForce{
		{Server: "n1", State: traffic.ForceSame, Weights: map[string]int{"worker-east-1": 60, "worker-west-1": 30, long: 10}},
		{Server: "nats-<b>" + strings.Repeat("long.", 30), State: traffic.ForceOther, Text: "The server has other weights: it was away when they were written, and is written to again.", Weights: map[string]int{"worker-east-1": 40}, Others: map[string]int{strings.Repeat("orders.process.somewhere.", 6): 60}},
		{Server: "n3", State: traffic.ForceUnused},
	}
	w.set(eastKey, func(s *traffic.ConsumerSettings) {
		s.BackOff, s.PausedUntil = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second}, epoch.Add(time.Hour)
		s.Priority, s.Groups, s.PriorityTimeout, s.Pinned = traffic.PriorityPinned, []string{"jobs", "rest"}, 2*time.Minute, map[string]string{"jobs": "Tr8gwUNKs5OfevQiCcm3Sh"}
	})
	changedSettings(w, epoch.Add(-10*time.Minute))
	st := newStation(t, w)
	look := func(tab *browser.Tab, name string, width int64, theme string) {
		t.Helper()
		tab.Wait("the styles", patience, "document.styleSheets.length === 1 && document.fonts.status === 'loaded'")
		if wide := browser.Eval[int](tab, "document.documentElement.scrollWidth"); int64(wide) > width {
			t.Errorf("%s is %d pixels wide on a screen of %d", name, wide, width)
		}
		if uneven := browser.Eval[string](tab, unevenFields); uneven != "" {
			t.Errorf("%s at %d: %s", name, width, uneven)
		}
		if dir := os.Getenv("BALLAST_SCREENSHOTS"); dir != "" {
			tab.Screenshot(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, theme)))
		}
	}
	send := func(tab *browser.Tab, form, fill string) {
		tab.Wait("the form", patience, "document.querySelector('"+form+"')")
		browser.Eval[bool](tab, "(f => ("+fill+", HTMLFormElement.prototype.submit.call(f), true))(document.querySelector('"+form+"'))")
	}
	themes := []string{"light"} // both are of one size: the other is for the pictures
	if os.Getenv("BALLAST_SCREENSHOTS") != "" {
		themes = append(themes, "dark")
	}
	for _, theme := range themes {
		for _, width := range []int64{1440, 390} {
			tab := browser.Open(t, width, 900)
			tab.Go(st.URL + "/splits")
			browser.Eval[string](tab, "document.cookie = 'theme="+theme+";path=/'")
			for name, p := range map[string]string{"split-new": "/splits/new", "split-edit": "/splits/orders/edit", "split-served": "/splits/served", "split-served-edit": "/splits/served/edit", "consumer-settings": eastSettings} {
				tab.Go(st.URL + p)
				look(tab, name, width, theme)
			}
			tab.Go(st.URL + consumerURL(eastKey))
			tab.Wait("the settings on the consumer's page", patience, "document.querySelector('#in-force .defs')")
			look(tab, "consumer-with-settings", width, theme)
			tab.Go(st.URL + "/splits/orders/edit")
			tab.Wait("the form", patience, "document.querySelector('#split-form')")
			shown := func(group string) bool {
				return browser.Eval[bool](tab, "document.querySelector('#split-form ."+group+"').offsetParent !== null")
			}
			if !shown("only-key") || shown("only-weighted") {
				t.Errorf("a split by key shows what is for splits by weight")
			}
			browser.Eval[string](tab, "document.querySelector('#split-form [name=pick]').value = 'weighted'")
			if shown("only-key") || !shown("only-weighted") {
				t.Errorf("a split by weight shows what is for splits by key")
			}
			send(tab, "#split-form", "f.elements.pick.value = 'key', f.elements['key.token'].value = 99, f.elements['l.0.timeout'].value = 0, f.elements['l.1.fallback'].value = 'nobody', f.elements.reason.value = 'x'")
			tab.Wait("the refusal", patience, "document.querySelector('#split-form [name=\"key.token\"][aria-invalid=true]')")
			look(tab, "split-refused", width, theme)
			send(tab, "#split-form", "f.elements['key.token'].value = 4, f.elements['l.0.timeout'].value = 100, f.elements['l.1.fallback'].value = '', f.elements['t.0.weight'].value = 40, f.elements['t.1.weight'].value = 50")
			tab.Wait("the dry run", patience, "document.querySelector('#key-moves')")
			look(tab, "split-review", width, theme)

			tab.Go(st.URL + eastSettings)
			send(tab, "#settings-form", "f.elements.max_ack_pending.value = 6000, f.elements.priority_policy.value = 'overflow', f.elements.reason.value = 'x'")
			tab.Wait("the refusal", patience, "document.querySelector('#migrate')")
			look(tab, "settings-refused", width, theme)
			send(tab, "#settings-form", "f.elements.max_ack_pending.value = 600, f.elements.migrate.checked = true")
			tab.Wait("the dry run", patience, "document.querySelector('#confirm')")
			look(tab, "settings-review", width, theme)
			tab.Go(st.URL + eastSettings)
			send(tab, "#settings-form", "f.elements.base.value = 'old', f.elements['was.max_ack_pending'].value = 900, f.elements.max_ack_pending.value = 300, f.elements['was.max_deliver'].value = 3, f.elements.max_deliver.value = 3, f.elements.reason.value = 'x'")
			tab.Wait("the conflict", patience, "document.querySelector('#settings-form .moved')")
			look(tab, "settings-conflict", width, theme)
			for _, c := range tab.Complaints() {
				if !strings.Contains(c, "status of 422") && !strings.Contains(c, "status of 409") { // of what was refused on purpose
					t.Errorf("%s at %d: %s", theme, width, c)
				}
			}
		}
	}
	// A name that is as long as NATS lets it be, on its own page.
	k := fleet.ConsumerKey{Account: "APP", Stream: strings.Repeat("S", 200), Consumer: strings.Repeat("c", 200)}
	w.mu.Lock()
	snap := *w.snap
	snap.Consumers = append(snap.Consumers[:len(snap.Consumers):len(snap.Consumers)], fleet.Consumer{ConsumerKey: k, At: epoch})
	w.snap = &snap
	w.mu.Unlock()
	for _, width := range []int64{1440, 390} {
		tab := browser.Open(t, width, 900)
		tab.Go(st.URL + settingsURL(k))
		look(tab, "settings-long", width, "light")
		action := url.PathEscape(k.Consumer)
		send(tab, "#settings-form", "f.elements.ack_wait.value = '10s', f.elements.reason.value = '"+action+"'")
		tab.Wait("the dry run", patience, "document.querySelector('#confirm')")
		look(tab, "settings-long-review", width, "light")
	}
}

// unevenFields finds fields that share a row of a form with another that stands
// higher or lower; help that wraps must not push the fields apart.
const unevenFields = `(() => {
	const bad = [];
	for (const row of document.querySelectorAll('.trow, .opt-grid, .form-grid')) {
		const boxes = [...row.querySelectorAll('input, select')].map(f => [f.name, f.getBoundingClientRect()]).filter(([, b]) => b.height > 0);
		for (let i = 1; i < boxes.length; i++) {
			const [name, b] = boxes[i], [before, a] = boxes[i - 1];
			if (b.left > a.right && Math.abs(b.top - a.top) > 1 && b.top < a.bottom) bad.push(before + ' and ' + name + ' are ' + Math.round(b.top - a.top) + ' px apart');
		}
	}
	return bad.join('; ');
})()`
