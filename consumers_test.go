package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/browser"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// churn is a stream with a durable consumer whose owner set limits, and
// short-lived ones that come and go, all at work until the test ends.
func churn(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := withCancel(t)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 100_000,
		Metadata: map[string]string{"io.nats.monitor.msgs-warn": "500", "io.nats.monitor.msgs-critical": "50000"}}); err != nil {
		t.Fatal(err)
	}
	worker, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 20 * time.Second, MaxAckPending: 400, SampleFrequency: "100",
		Metadata: map[string]string{"io.nats.monitor.unprocessed-critical": "5", "io.nats.monitor.outstanding-ack-critical": "300", "io.nats.monitor.redelivery-critical": "9", "io.nats.monitor.waiting-critical": "77"}})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { cancel(); work.Wait() })
	work.Go(func() { // messages, and their acknowledgement one fetch later
		pace := time.NewTicker(40 * time.Millisecond)
		defer pace.Stop()
		var held []jetstream.Msg
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-pace.C:
			}
			for k := range 12 {
				_, _ = js.PublishAsync(fmt.Sprintf("orders.%c", 'a'+k%3), []byte("order"))
			}
			got, err := worker.FetchNoWait(10 + i%5)
			if err != nil {
				continue
			}
			for _, m := range held {
				_ = m.Ack()
			}
			held = held[:0]
			for m := range got.Messages() {
				if i%3 == 0 {
					held = append(held, m)
				} else {
					_ = m.Ack()
				}
			}
		}
	})
	work.Go(func() { // eight short-lived consumers at a time, each of which works a little
		var names []string
		pace := time.NewTicker(700 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-pace.C:
			}
			c, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{FilterSubject: "orders.a", AckPolicy: jetstream.AckExplicitPolicy, InactiveThreshold: 20 * time.Second})
			if err != nil {
				continue
			}
			if got, err := c.Fetch(20, jetstream.FetchMaxWait(100*time.Millisecond)); err == nil {
				for m := range got.Messages() {
					_ = m.Ack()
				}
			}
			if names = append(names, c.CachedInfo().Name); len(names) > 8 {
				_ = js.DeleteConsumer(ctx, "ORDERS", names[0])
				names = names[1:]
			}
		}
	})
}

// watchOne starts a console that watches a server of the test.
func watchOne(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	srv := natstest.Server(t, natstest.Accounts(), natstest.Config("server_name: one\n"))
	dir := t.TempDir()
	for name, password := range map[string]string{"app": natstest.AppPassword, "sys": natstest.SysPassword} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword)))
	if err != nil {
		t.Fatal(err)
	}
	console := startProcess(t, "ballast", nil, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--interval", "1s", "--nats", srv.ClientURL(),
		"--user", natstest.AppUser, "--password-file", filepath.Join(dir, "app"), "--sys-user", natstest.SysUser, "--sys-password-file", filepath.Join(dir, "sys"),
		"--monitor", natstest.MonitorURL(srv), "--all-samples")
	return console.url(t), js
}

type consumerLine struct {
	Consumer string `json:"consumer"`
	Pattern  string `json:"fold_pattern"`
	Now      int    `json:"fold_now"`
	Most     int    `json:"fold_most"`
	Seen     uint64 `json:"fold_seen"`
}

// The consumer's limits and latencies, and a row of short-lived ones, as a browser
// shows them of a real server. With BALLAST_SCREENSHOTS=DIR pictures are written
// there.
func TestConsumersOfARealServerInABrowser(t *testing.T) {
	const patience = 2 * time.Minute
	base, js := watchOne(t)
	churn(t, js)
	type heat struct {
		Source  string  `json:"source"`
		Share   float64 `json:"sampled_share"`
		Columns []struct {
			Count   uint64  `json:"count"`
			P50     float64 `json:"p50"`
			P999    float64 `json:"p99.9"`
			Buckets []struct {
				Count uint64 `json:"count"`
			} `json:"buckets"`
		} `json:"columns"`
	}
	const worker = "account=APP&stream=ORDERS&consumer=worker"
	wait.For(t, patience, "a few columns of samples", func() bool {
		code, _ := tryGet(base + "/charts/consumer-heat.json?" + worker)
		return code == 200 && len(getJSON[heat](t, base+"/charts/consumer-heat.json?"+worker).Columns) >= 3
	})
	h := getJSON[heat](t, base+"/charts/consumer-heat.json?"+worker)
	for _, c := range h.Columns {
		var n uint64
		for _, b := range c.Buckets {
			n += b.Count
		}
		if n != c.Count || c.P50 > c.P999 {
			t.Errorf("a column of %d samples has %d in its cells, p50 %v, p99.9 %v", c.Count, n, c.P50, c.P999)
		}
	}
	if h.Source != "ack sample" {
		t.Errorf("the latencies are of the source %q", h.Source)
	}

	var fold consumerLine
	wait.For(t, patience, "ten short-lived consumers in one row", func() bool {
		for _, c := range getJSON[[]consumerLine](t, base+"/consumers.json?stream=ORDERS") {
			if c.Pattern != "" {
				fold = c
			}
		}
		return fold.Seen >= 10
	})
	if fold.Consumer != "* (orders.a)" || fold.Most < 2 || fold.Most > 12 || fold.Now > fold.Most {
		t.Errorf("they are folded as %+v", fold)
	}

	tab := browser.Open(t, 1440, 1000)
	tab.Go(base + "/consumers/APP/ORDERS/worker")
	tab.Wait("the map", patience, `document.querySelectorAll('#heat svg [class^="h-"]').length > 8 && document.querySelector('#heat .ln-c-p999')`)
	for chart, limits := range map[string][]string{
		"consumer-pending": {"owner: unprocessed-critical 5"}, "consumer-inflight": {"owner: outstanding-ack-critical 300", "max_ack_pending 400"},
		"consumer-redelivered": {"owner: redelivery-critical 9"}, "consumer-waiting": {"owner: waiting-critical 77"}, "consumer-latency": {"ack_wait 20 s"},
	} {
		said := browser.Eval[string](tab, `document.getElementById('chart-`+chart+`').dataset.summary`)
		for _, l := range limits {
			if !strings.Contains(said, l) {
				t.Errorf("%s says %q, without %q", chart, said, l)
			}
		}
		tab.Wait("the island of "+chart, patience, `document.querySelector('#chart-`+chart+` canvas') || document.querySelector('#chart-`+chart+` .plot-empty')`)
	}
	if got := tab.Text("#heat"); !strings.Contains(got, "ack_wait 20 s") || !strings.Contains(got, "starts the clock anew") {
		t.Errorf("the map says %q", got)
	}
	// The page lives: the small charts move and the map is asked for anew.
	browser.Eval[bool](tab, `(window.spark = document.getElementById('spark:con/acked-line').getAttribute('d'), window.samples = document.querySelector('#heat .chart-note').textContent, true)`)
	tab.Wait("another spark", patience, `document.getElementById('spark:con/acked-line').getAttribute('d') !== window.spark`)
	tab.Wait("more samples in the map", patience, `document.querySelector('#heat .chart-note').textContent !== window.samples`)

	tab.Go(base + "/consumers?stream=ORDERS")
	tab.Wait("the row", patience, `[...document.querySelectorAll('#consumers a')].some(a => a.textContent === '* (orders.a)')`)
	browser.Eval[bool](tab, `([...document.querySelectorAll('#consumers a')].find(a => a.textContent === '* (orders.a)').click(), true)`)
	tab.Wait("the page of the row", patience, `document.querySelector('h1')?.textContent.includes('* (orders.a)') && document.querySelector('#fold-top tbody tr')`)
	browser.Eval[bool](tab, `(window.seen = document.querySelector('[data-k="fold/seen"]').textContent, window.first = document.querySelector('#fold-top').textContent, true)`)
	tab.Wait("more of them", patience, `document.querySelector('[data-k="fold/seen"]').textContent !== window.seen`)
	tab.Wait("other members", patience, `document.querySelector('#fold-top').textContent !== window.first`)
	if got := tab.Text("main"); !strings.Contains(got, "inactive_threshold") || !strings.Contains(got, "at most") {
		t.Errorf("the row's page says %q", got)
	}
	for _, c := range tab.Complaints() {
		t.Error(c)
	}
	lookAt(t, base, map[string]string{"consumer": "/consumers/APP/ORDERS/worker", "consumer-stream": "/streams/APP/ORDERS", "consumer-list": "/consumers", "consumer-fold": "/consumers/APP/ORDERS/*%20(orders.a)", "consumer-heat": "/charts/consumer-heat?" + worker})
}

// lookAt looks at pages in two sizes and both themes: nothing is wider than the
// screen and the browser does not complain.
func lookAt(t *testing.T, base string, pages map[string]string) {
	t.Helper()
	dir := os.Getenv("BALLAST_SCREENSHOTS")
	for _, size := range []struct{ w, h int64 }{{1440, 900}, {390, 844}} {
		for _, theme := range []string{"light", "dark"} {
			tab := browser.Open(t, size.w, size.h)
			for name, page := range pages {
				tab.Go(base + page)
				browser.Eval[string](tab, fmt.Sprintf(`(document.documentElement.dataset.theme = %q)`, theme))
				tab.Wait("fonts", time.Minute, `document.fonts.status === 'loaded'`)
				if overflow := browser.Eval[float64](tab, `document.documentElement.scrollWidth - innerWidth`); overflow > 0 {
					t.Errorf("%s at %d px is %.0f px too wide", page, size.w, overflow)
				}
				if hidden := browser.Eval[float64](tab, `(b => b ? b.firstElementChild.getBoundingClientRect().right - b.getBoundingClientRect().right : 0)(document.querySelector('.heat-plot'))`); hidden > 1 {
					t.Errorf("%s at %d px begins %.0f px before the newest of the map", page, size.w, hidden)
				}
				if dir != "" {
					tab.Wait("live data", time.Minute, `!document.body.innerText.includes('Connecting')`)
					tab.Screenshot(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, size.w, theme)))
				}
			}
			for _, c := range tab.Complaints() {
				t.Errorf("%d px, %s: the browser complains: %s", size.w, theme, c)
			}
		}
	}
}
