package handlers

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ballast/internal/browser"
)

// TestInARealBrowser opens every page in light and dark, wide and narrow: the
// console stays silent, the content security policy is not broken, and nothing
// is wider than the screen.
func TestInARealBrowser(t *testing.T) {
	w := newWorld()
	w.bake()
	w.found()
	st := newStation(t, w)
	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{1440, 390} {
			tab := browser.Open(t, width, 900)
			tab.Go(st.URL + "/splits")
			browser.Eval[string](tab, "document.cookie = 'theme="+theme+";path=/'")
			for _, p := range allPages {
				if p == "/nothing-here" {
					continue // its status is a complaint by itself
				}
				tab.Go(st.URL + p)
				tab.Wait("the styles of "+p, 10*time.Second, "document.styleSheets.length === 1 && document.fonts.status === 'loaded'")
				if got := browser.Eval[string](tab, "document.documentElement.dataset.theme"); got != theme {
					t.Errorf("%s comes in %q, want %q", p, got, theme)
				}
				if wide := browser.Eval[int](tab, "document.documentElement.scrollWidth"); int64(wide) > width {
					t.Errorf("%s is %d pixels wide on a screen of %d", p, wide, width)
				}
			}
			for _, c := range tab.Complaints() {
				t.Errorf("%s at %d: %s", theme, width, c)
			}
		}
	}
}

// TestSlidersAlwaysSumTo100 moves sliders, types numbers and locks rows at random.
func TestSlidersAlwaysSumTo100(t *testing.T) {
	st := newStation(t, newWorld())
	tab := browser.Open(t, 1440, 900)
	tab.Go(st.URL + "/splits/orders")
	tab.Wait("the weights island", 10*time.Second, "document.querySelector('form.scripted')")
	bad := browser.Eval[string](tab, `(() => {
		let seed = 7;
		const rnd = n => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
		const rows = [...document.querySelectorAll('[data-target]')];
		for (let i = 0; i < 3000; i++) {
			const row = rows[rnd(rows.length)], what = rnd(8);
			if (what < 2) row.querySelector('[data-lock]').click();
			else if (what < 3) { const s = row.querySelector('select'); s.value = ['READY', 'DRAIN', 'READY'][rnd(3)]; s.dispatchEvent(new Event('change', {bubbles: true})); }
			else if (what < 6) { const r = row.querySelector('[type=range]'); r.value = rnd(101); r.dispatchEvent(new Event('input', {bubbles: true})); }
			else { const n = row.querySelector('[type=number]'); n.value = rnd(140) - 20; n.dispatchEvent(new Event('change', {bubbles: true})); }
			const ready = rows.filter(r => r.querySelector('select').value === 'READY');
			const now = ready.map(r => +r.querySelector('[type=number]').value);
			const sum = now.reduce((a, b) => a + b, 0);
			const free = ready.some(r => r.querySelector('[data-lock]').getAttribute('aria-pressed') !== 'true');
			if (now.some(v => v < 0 || v !== Math.floor(v)) || free && ready.length && sum !== 100)
				return 'move ' + i + ' (' + what + '): ' + now.join(' ') + ' sum ' + sum;
		}
		return '';
	})()`)
	if bad != "" {
		t.Error(bad)
	}
}

// TestTheConsoleLives follows one page: figures change by themselves, pausing
// holds them, a review opens and its change is applied.
func TestTheConsoleLives(t *testing.T) {
	w := newWorld()
	st := newStation(t, w)
	tab := browser.Open(t, 1440, 900)
	tab.Go(st.URL + "/splits/orders")
	tab.Wait("the stream", 10*time.Second, "document.querySelector('#pill').textContent.startsWith('Live') || document.querySelector('#pill').textContent.startsWith('Stale')")
	setPending := func(n uint64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		load := map[string]load{}
		for k, v := range w.load {
			load[k] = v
		}
		l := load["worker-east-1"]
		l.pending = n
		load["worker-east-1"] = l
		w.load = load
	}
	backlog := func(want string) string {
		return "document.querySelector('[data-k=\"orders/worker-east-1/backlog\"]').textContent === '" + want + "'"
	}
	setPending(5555)
	tab.Wait("the new backlog", 10*time.Second, backlog("5,555"))
	browser.Eval[bool](tab, "document.querySelector('[data-pause]').click(), true")
	tab.Wait("the pause", 10*time.Second, "document.querySelector('#pill').textContent.startsWith('Paused')")
	setPending(6666)
	tab.Wait("two seconds of pause", 10*time.Second, "(window.held ??= performance.now(), performance.now() - window.held > 2000)")
	if !browser.Eval[bool](tab, backlog("5,555")) {
		t.Error("a paused page moved")
	}
	browser.Eval[bool](tab, "document.querySelector('[data-pause]').click(), true")
	tab.Wait("the backlog after the pause", 10*time.Second, backlog("6,666"))

	browser.Eval[bool](tab, `(() => {
		const n = document.querySelector('[name="w.worker-east-1"]');
		n.value = 40;
		n.dispatchEvent(new Event('change', {bubbles: true}));
		document.querySelector('[name=reason]').value = 'Relieve east';
		document.querySelector('[data-weights] .primary').click();
		return true;
	})()`)
	tab.Wait("the review", 10*time.Second, "document.querySelector('#dialog[open] #confirm')")
	if got := tab.Text("#dialog"); !strings.Contains(got, "Apply revision 5 of orders") {
		t.Errorf("the review says %q", got)
	}
	browser.Eval[bool](tab, "document.querySelector('#confirm .primary').click(), true")
	tab.Wait("the change", 10*time.Second, "document.querySelector('#alerts')?.textContent.includes('Revision 5 of orders is being watched')")
	for _, c := range tab.Complaints() {
		t.Error(c)
	}
}

// TestTheFirstConnectionIsRetried opens a page before the streams run: htmx
// itself tries only once.
func TestTheFirstConnectionIsRetried(t *testing.T) {
	w := newWorld()
	s := New(w.deps())
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	tab := browser.Open(t, 1440, 900)
	tab.Go(srv.URL + "/splits")
	tab.Wait("a refusal", 10*time.Second, "document.querySelector('#pill').textContent.startsWith('Reconnecting')")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tab.Wait("the stream", 20*time.Second, "['Live', 'Stale'].some(w => document.querySelector('#pill').textContent.startsWith(w))")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}
