package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/browser"
	"ballast/internal/wait"
)

// A consumer's settings on a real server, as a browser changes them: edit, dry
// run, apply, and the server has it; what it refuses is said at the field
// beforehand; roll back, and the server has what it had. With scripts the dry run
// is a dialog, without them a page. With BALLAST_SCREENSHOTS=DIR pictures are
// written there.
func TestSettingsOfARealConsumerInABrowser(t *testing.T) {
	const patience = 2 * time.Minute
	base, js := watchOne(t)
	ctx := t.Context()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, ConsumerLimits: jetstream.StreamConsumerLimits{MaxAckPending: 500}}); err != nil {
		t.Fatal(err)
	}
	worker, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 20 * time.Second, MaxAckPending: 400, MaxDeliver: 5,
		Metadata: map[string]string{"team": "orders"}})
	if err != nil {
		t.Fatal(err)
	}
	const page = "/consumers/APP/ORDERS/worker"
	wait.For(t, patience, "the console to see the consumer", func() bool { code, _ := tryGet(base + page); return code == 200 })
	config := func() jetstream.ConsumerConfig {
		t.Helper()
		info, err := worker.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return info.Config
	}

	for _, scripts := range []bool{true, false} {
		tab := browser.Open(t, 1440, 1000)
		review := "#dialog[open] #confirm"
		if scripts {
			tab.Go(base + page)
			tab.Wait("the settings on the consumer's page", patience, `document.querySelector('#in-force .defs')?.textContent.includes('400')`)
			browser.Eval[bool](tab, `(document.querySelector('#in-force header a').click(), true)`)
		} else {
			tab.Scriptless()
			tab.Go(base + page)
			tab.Wait("the way to the settings", patience, `document.querySelector('#in-force header a')`)
			tab.Go(base + page + "/settings")
			review = "main #confirm"
		}
		tab.Wait("the form", patience, `document.querySelector('#settings-form')`)
		if scripts {
			tab.Wait("the script that sends forms", patience, `window.htmx`)
		}
		fill := func(max, wait string) {
			browser.Eval[bool](tab, fmt.Sprintf(`(f => (f.elements.max_ack_pending.value = %q, f.elements.ack_wait.value = %q, f.elements.reason.value = 'Smaller machines', f.requestSubmit(), true))(document.querySelector('#settings-form'))`, max, wait))
		}
		// The server would refuse it: so does the console, at the field.
		fill("600", "15s")
		tab.Wait("the refusal", patience, `document.querySelector('#settings-form [name=max_ack_pending][aria-invalid=true]')`)
		if got := tab.Text("#settings-form"); !strings.Contains(got, "500") {
			t.Errorf("the field does not say what the stream allows: %q", got)
		}
		if got := browser.Eval[string](tab, `document.querySelector('#settings-form').elements.ack_wait.value`); got != "15s" {
			t.Errorf("what was typed is lost: %q", got)
		}
		if _, err := js.UpdateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 600}); err == nil {
			t.Error("the server takes what the console refuses")
		}
		if c := config(); c.MaxAckPending != 400 || c.AckWait != 20*time.Second {
			t.Fatalf("a refused edit changed the consumer: %+v", c)
		}

		fill("123", "15s")
		tab.Wait("the dry run", patience, `document.querySelector('`+review+`')`)
		for _, want := range []string{"123", "15s", "Smaller machines", "nats consumer edit", `"max_ack_pending":123`} {
			if got := browser.Eval[string](tab, `document.querySelector('`+review+`').closest('dialog, main').textContent`); !strings.Contains(got, want) {
				t.Errorf("the dry run does not say %q: %.1500s", want, got)
			}
		}
		if c := config(); c.MaxAckPending != 400 {
			t.Fatalf("the dry run changed the consumer: %+v", c)
		}
		browser.Eval[bool](tab, `(document.querySelector('`+review+`').requestSubmit(), true)`)
		tab.Wait("the settings in force", patience, `document.querySelector('#in-force')?.textContent.includes('123') && document.querySelector('#settings-changes form')`)
		if c := config(); c.MaxAckPending != 123 || c.AckWait != 15*time.Second || c.MaxDeliver != 5 || c.Metadata["team"] != "orders" {
			t.Errorf("the server has %+v", c)
		}
		if got := browser.Eval[string](tab, `document.querySelector('#settings-changes').textContent`); !strings.Contains(got, "in force, watched") || !strings.Contains(got, "Smaller machines") {
			t.Errorf("the changes say %q", got)
		}
		browser.Eval[bool](tab, `(document.querySelector('#settings-changes form').requestSubmit(), true)`)
		tab.Wait("what was before", patience, `document.querySelector('#in-force')?.textContent.includes('400')`)
		if c := config(); c.MaxAckPending != 400 || c.AckWait != 20*time.Second || c.MaxDeliver != 5 || c.Metadata["team"] != "orders" {
			t.Errorf("after rolling back the server has %+v", c)
		}
		for _, c := range tab.Complaints() {
			if !strings.Contains(c, "422") { // of a form that was refused on purpose
				t.Error(c)
			}
		}
	}
	if kinds := get(t, base+"/journal.csv"); strings.Count(string(kinds), "consumer.written") != 4 || strings.Count(string(kinds), "consumer.rolledback") != 2 {
		t.Errorf("the journal has\n%s", kinds)
	}
	lookAt(t, base, map[string]string{"settings": page + "/settings"})
}
