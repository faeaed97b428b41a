package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/demo"
	"ballast/internal/browser"
	"ballast/internal/wait"
	"ballast/traffic"
)

// runningDemo is a demo in this process.
type runningDemo struct {
	url  string
	demo *demo.Demo
}

// splitData is what the tests read of /splits/{name}.json.
type splitData struct {
	Revision traffic.Revision `json:"revision"`
	Rate     float64          `json:"rate_per_s"`
	P99      float64          `json:"ack_p99_ms"`
	Backlog  uint64           `json:"backlog"`
	Targets  []struct {
		Name     string  `json:"name"`
		Set      float64 `json:"set_share_percent"`
		Observed float64 `json:"observed_share_percent"`
		Arrived  uint64  `json:"arrived"`
		Acked    uint64  `json:"acked"`
		P50      float64 `json:"ack_p50_ms"`
		P95      float64 `json:"ack_p95_ms"`
		P99      float64 `json:"ack_p99_ms"`
		Samples  uint64  `json:"samples"`
	} `json:"targets"`
	Changes []traffic.Change `json:"changes"`
}

func (d runningDemo) split(tb testing.TB) splitData {
	tb.Helper()
	return getJSON[splitData](tb, d.url+"/splits/"+demo.SplitName+".json")
}

// splitOver is the split as measured over a range.
func (d runningDemo) splitOver(tb testing.TB, from, to time.Time) splitData {
	tb.Helper()
	q := url.Values{"from": {from.Format(time.RFC3339Nano)}, "to": {to.Format(time.RFC3339Nano)}}
	return getJSON[splitData](tb, d.url+"/splits/"+demo.SplitName+".json?"+q.Encode())
}

func (s splitData) samples() (n uint64) {
	for _, t := range s.Targets {
		n += t.Samples
	}
	return n
}

// waitForTraffic waits until the console shows acknowledged orders.
func (d runningDemo) waitForTraffic(tb testing.TB) {
	tb.Helper()
	wait.For(tb, 2*time.Minute, "orders to be acknowledged", func() bool {
		if code, _ := tryGet(d.url + "/splits/" + demo.SplitName + ".json"); code != http.StatusOK {
			return false
		}
		s := d.split(tb)
		return len(s.Targets) == 3 && s.Targets[2].Acked > 100
	})
}

// The whole loop, as a newcomer walks it: watch, break, read why, apply, see
// it follow, take the report.
func TestTheWholeLoopInABrowser(t *testing.T) {
	d := startDemo(t)
	tab := browser.Open(t, 1440, 1000)

	tab.Go(d.url)
	tab.Wait("three servers", time.Minute, `document.body.innerText.includes('3 of 3 servers')`)
	tab.Go(d.url + "/topology")
	tab.Wait("three servers on the map", time.Minute, `['nats-1','nats-2','nats-3'].every(n => document.querySelector('#topo').textContent.includes(n))`)
	d.waitForTraffic(t)
	tab.Go(d.url + "/splits/" + demo.SplitName)
	tab.Wait("the split's three targets", time.Minute, `['worker-east-1','worker-west-1','worker-backup-1'].every(n => document.querySelector('main').innerText.includes(n))`)

	healthy := d.split(t)
	tab.Do("open the drawer", browser.Click("[data-drawer-open]"))
	tab.Wait("the drawer", 10*time.Second, `document.querySelector('#drawer [aria-label="Slow worker-east-1 ×8"]')`)
	slowed := time.Now()
	tab.Do("slow worker-east-1 by 8", browser.Click(`#drawer [aria-label="Slow worker-east-1 ×8"]`))

	wait.For(t, 30*time.Second, "the fault in the journal", func() bool {
		return slices.ContainsFunc(getJSON[[]traffic.Entry](t, d.url+"/journal.json"), func(e traffic.Entry) bool {
			return e.Kind == traffic.EntryDemo && strings.Contains(e.Text, "worker-east-1")
		})
	})

	var p traffic.Proposal
	wait.For(t, time.Minute, "a suggestion that moves weight away from worker-east-1", func() bool {
		for _, p = range getJSON[[]traffic.Proposal](t, d.url+"/suggestions.json") {
			for _, m := range p.Moves {
				// A busy machine may have given the tuner reasons before: not those.
				if p.Status == traffic.Open && p.At.After(slowed) && m.Target == "worker-east-1" && m.To < m.From {
					return true
				}
			}
		}
		return false
	})
	t.Logf("suggestion after %v: %s", time.Since(slowed).Round(100*time.Millisecond), p.Title)
	var before splitData
	wait.For(t, 2*time.Minute, "a thousand samples of the slow time", func() bool {
		from := slowed.Add(2 * time.Second)
		if !time.Now().After(from.Add(time.Second)) {
			return false
		}
		before = d.splitOver(t, from, time.Now())
		return before.samples() >= 1000
	})

	tab.Go(d.url + "/suggestions")
	tab.Wait("the suggestion in the list", 20*time.Second, `document.querySelector('.sugg-list')?.innerText.includes('worker-east-1')`)
	tab.Do("open the newest", browser.Click(".sugg-list a"))
	tab.Wait("the evidence", 20*time.Second, `location.pathname.startsWith('/suggestions/') && document.readyState === 'complete' && document.querySelector('#approve')`)
	why := tab.Text("#suggestion")
	for _, want := range []string{"ACK latency", "samples", "acknowledgements", "worker-east-1"} {
		if !strings.Contains(why, want) {
			t.Errorf("the reason does not name %q: %s", want, why)
		}
	}

	follow := d.countFrom(t)
	tab.Do("approve", browser.Set("#approve-reason", "relieve worker-east-1"), browser.Click("#approve button.primary"))
	tab.Wait("the split's page", 20*time.Second, `location.pathname === '/splits/orders'`)
	var after splitData
	wait.For(t, 30*time.Second, "revision 2 in force", func() bool {
		after = d.split(t)
		return after.Revision.Number == before.Revision.Number+1
	})
	if got := after.Revision.Reason; got != "relieve worker-east-1" {
		t.Errorf("the revision's reason is %q", got)
	}
	shares := follow.shares(t, 1000)
	for _, target := range after.Revision.Split.Targets {
		if got := shares[target.Subject]; math.Abs(got-float64(target.Weight)) > 3 {
			t.Errorf("%s got %.1f %% of the next 1,000 messages, its weight is %d", target.Name, got, target.Weight)
		}
	}
	wait.For(t, 2*time.Minute, "the change to be verified", func() bool {
		after = d.split(t)
		return len(after.Changes) > 0 && after.Changes[0].Phase == traffic.Verified
	})
	change := after.Changes[0]
	further := 0
	defer func() {
		if t.Failed() {
			for _, target := range after.Targets {
				t.Logf("at the end %s: %d samples, p99 %.0f ms, share %.1f %% of %.1f %%", target.Name, target.Samples, target.P99, target.Observed, target.Set)
			}
			t.Logf("p99 of the split: %.0f ms healthy, %.0f ms when approved, %.0f ms at the end, after %d more changes", healthy.P99, before.P99, after.P99, further)
		}
	}()
	wait.For(t, 3*time.Minute, "the observed shares on the page to follow, and the p99 to fall", func() bool {
		after = d.split(t)
		// One step goes so far only. When what was measured before it asked for too
		// little, the target still gets more than it can do, its queue grows on and
		// the tuner says so: an operator goes on with it.
		if after.Changes[0].Phase != traffic.Baking {
			for _, p := range getJSON[[]traffic.Proposal](t, d.url+"/suggestions.json") {
				if p.Status != traffic.Open || !p.At.After(after.Changes[0].Written) {
					continue
				}
				// It may have been replaced meanwhile; then there is a newer one.
				if code, _, _ := tryPost(t, d.url, "/suggestions/"+p.ID+"/approve", url.Values{"reason": {"relieve worker-east-1 further"}}); code == http.StatusSeeOther {
					further++
				}
				return false
			}
		}
		for _, target := range after.Targets {
			if math.Abs(target.Observed-target.Set) > 3 {
				return false
			}
		}
		after = d.splitOver(t, time.Now().Add(-10*time.Second), time.Now())
		return after.samples() >= 1000 && after.P99 < 0.75*before.P99
	})
	t.Logf("p99 of the split: %.0f ms healthy, %.0f ms when approved, %.0f ms after it and %d more", healthy.P99, before.P99, after.P99, further)

	tab.Go(d.url + "/reports/orders")
	tab.Wait("the report", 20*time.Second, `document.body.innerText.includes('relieve worker-east-1')`)
	// Downloads as the page's own links ask for them.
	for _, ext := range []string{"html", "csv", "json"} {
		link := browser.Eval[string](tab, fmt.Sprintf(`([...document.querySelectorAll('a[href]')].find(a => new URL(a.href).pathname === '/reports/orders.%s')?.href ?? '')`, ext))
		if link == "" {
			t.Errorf("the report's page has no link to its .%s", ext)
			continue
		}
		body := string(get(t, link))
		if !strings.Contains(body, "relieve worker-east-1") {
			t.Errorf("the change is not in the report's .%s", ext)
		}
		switch ext {
		case "html":
			if strings.Contains(body, `src="/`) || strings.Contains(body, `href="/static`) || !strings.Contains(body, "<svg") {
				t.Error("the HTML report is not self-contained, or has no chart")
			}
		case "csv":
			r := csv.NewReader(strings.NewReader(body))
			r.FieldsPerRecord = -1
			if _, err := r.ReadAll(); err != nil {
				t.Errorf("the CSV report is no CSV: %v", err)
			}
		case "json":
			if !strings.Contains(body, change.ID) {
				t.Errorf("the JSON report does not hold change %s", change.ID)
			}
		}
	}
	for _, c := range tab.Complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

// follower counts what the publisher sends, by subject.
type follower struct{ sub *nats.Subscription }

func (d runningDemo) countFrom(tb testing.TB) follower {
	tb.Helper()
	user, password := d.demo.AppUser()
	nc, err := nats.Connect(strings.Join(d.demo.URLs(), ","), nats.UserInfo(user, password))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	sub, err := nc.SubscribeSync(demo.Subject + ".>")
	if err != nil {
		tb.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		tb.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		tb.Fatal(err)
	}
	return follower{sub}
}

// shares returns the percentage by subject of n messages that came after the
// ones already waiting.
func (f follower) shares(tb testing.TB, n int) map[string]float64 {
	tb.Helper()
	for pending, _, _ := f.sub.Pending(); pending > 0; pending, _, _ = f.sub.Pending() {
		if _, err := f.sub.NextMsg(time.Second); err != nil {
			tb.Fatal(err)
		}
	}
	shares := map[string]float64{}
	for range n {
		m, err := f.sub.NextMsg(10 * time.Second)
		if err != nil {
			tb.Fatalf("follow the traffic: %v", err)
		}
		shares[m.Subject] += 100 / float64(n)
	}
	return shares
}

// Every page in both themes and two sizes, without a complaint of the browser.
// With BALLAST_SCREENSHOTS=DIR the pictures are written there.
func TestPagesInABrowser(t *testing.T) {
	d := startDemo(t)
	d.waitForTraffic(t)
	for _, size := range []struct{ w, h int64 }{{1440, 900}, {390, 844}} {
		for _, theme := range []string{"light", "dark"} {
			tab := browser.Open(t, size.w, size.h)
			for _, page := range pages {
				tab.Go(d.url + page)
				browser.Eval[string](tab, fmt.Sprintf(`(document.documentElement.dataset.theme = %q)`, theme))
				tab.Wait("fonts", 10*time.Second, `document.fonts.status === 'loaded'`)
				if size.w > 1000 && theme == "light" {
					n := firstLoad(t, tab)
					t.Logf("%s: %.1f KB on the wire with all its assets", page, float64(n)/1024)
					if n > maxFirstLoad {
						t.Errorf("%s weighs %d bytes on the wire, the limit is %d", page, n, maxFirstLoad)
					}
				}
				if overflow := browser.Eval[float64](tab, `document.documentElement.scrollWidth - innerWidth`); overflow > 0 {
					t.Errorf("%s at %d px is %.0f px too wide", page, size.w, overflow)
				}
				if dir := os.Getenv("BALLAST_SCREENSHOTS"); dir != "" {
					name := strings.Trim(strings.ReplaceAll(page, "/", "-"), "-")
					if name == "" {
						name = "overview"
					}
					tab.Wait("live data", 20*time.Second, `!document.body.innerText.includes('Connecting')`)
					tab.Screenshot(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, size.w, theme)))
				}
			}
			for _, c := range tab.Complaints() {
				t.Errorf("%d px, %s: the browser complains: %s", size.w, theme, c)
			}
		}
	}
}

// maxFirstLoad is what a page may weigh on the wire with all its assets.
const maxFirstLoad = 200 << 10

// firstLoad sums the compressed bytes of the page in the tab and of everything
// it loads.
func firstLoad(tb testing.TB, tab *browser.Tab) int {
	tb.Helper()
	total := 0
	for _, u := range browser.Eval[[]string](tab, `[location.href, ...new Set(performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.includes('/live')))]`) {
		req, err := http.NewRequest(http.MethodGet, u, nil)
		if err != nil {
			tb.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip") // set by hand, so that the answer is not unpacked
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			tb.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			tb.Fatal(err)
		}
		total += int(n)
	}
	return total
}

// BenchmarkPages asks the running demo for each page 200 times and reports the
// time from request to last byte.
func BenchmarkPages(b *testing.B) {
	d := startDemo(b)
	d.waitForTraffic(b)
	for _, page := range append(slices.Clone(pages), "/topology.json", "/splits/orders.json", "/journal.json", "/consumers.json", "/metrics", "/reports/orders.html") {
		b.Run(strings.ReplaceAll(strings.Trim(page, "/"), "/", "-")+"-", func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = took[:0]
				for range 200 {
					began := time.Now()
					if code, _ := tryGet(d.url + page); code != http.StatusOK {
						b.Fatalf("GET %s = %d", page, code)
					}
					took = append(took, time.Since(began))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(rank(took, .5))/1e6, "p50-ms")
			b.ReportMetric(float64(rank(took, .99))/1e6, "p99-ms")
		})
	}
}

// pages that a newcomer opens.
var pages = []string{"/", "/topology", "/splits", "/splits/orders", "/splits/orders/edit", "/splits/new", "/suggestions", "/findings", "/servers", "/servers/nats-1", "/streams", "/streams/APP/ORDERS", "/consumers", "/connections", "/connections/sums", "/accounts", "/accounts/APP", "/services", "/cost", "/export?kind=server&key=nats-1", "/consumers?at=10s", "/journal", "/reports", "/reports/orders", "/demo"}

// startDemo runs the demo in this process until the test ends.
func startDemo(tb testing.TB, args ...string) runningDemo {
	tb.Helper()
	c, _, err := parse(append([]string{"demo", "--listen", "127.0.0.1:0", "--data", tb.TempDir()}, args...), io.Discard, io.Discard, func(int) {})
	if err != nil {
		tb.Fatal(err)
	}
	var log lockedBuffer
	ctx, cancel := withCancel(tb)
	a, d, err := newDemo(ctx, c.Demo, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		cancel()
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the demo ended with %v", err)
		}
		if tb.Failed() {
			tb.Logf("the demo said:\n%s", log.String())
		}
	})
	return runningDemo{"http://" + a.addr(), d}
}
