package control

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

func TestCommandIsSafeToPaste(t *testing.T) {
	t.Parallel()
	s := orders("orders", 60, 40)
	s.Targets[0].Labels = map[string]string{
		"quote": `it's $(touch /nowhere) "x" \ !! ` + "`id`",
		"esc":   "\x1b[31m\u009b31m", "bidi": "\u202egnp.exe", "nl": "a\nb\x00", "emoji": "\U0001F600\U000E0041",
	}
	rev := traffic.Revision{V: 1, Epoch: 1, Number: 5, Base: 4, Change: "c", Author: "o'brien", Reason: "'; rm -rf / #", At: time.Now().UTC(), Split: s}
	doc, err := rev.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	line := command("orders", doc, 17)
	for _, r := range line {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u202e' {
			t.Errorf("the command has %U, which a terminal acts on", r)
		}
	}
	// A shell must see exactly the words that are meant.
	out, err := exec.Command("sh", "-c", "nats() { for a in \"$@\"; do printf '%s\\n' \"$a\"; done; }\n"+line).Output()
	if err != nil {
		t.Fatalf("sh: %v", err)
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(words) != 6 || strings.Join(words[:4], " ") != "kv update BALLAST split.orders" || words[5] != "17" {
		t.Fatalf("the shell sees %q", words)
	}
	got, err := traffic.Parse([]byte(words[4]))
	if err != nil {
		t.Fatalf("the shell's document: %v", err)
	}
	if again, _ := got.Marshal(); string(again) != string(doc) {
		t.Errorf("the shell's document is\n%s\nwant\n%s", again, doc)
	}
	if got := command("orders", doc, 0); !strings.HasPrefix(got, "nats kv create BALLAST split.orders '") || !strings.HasSuffix(got, "'") {
		t.Errorf("for a new split: %s", got)
	}
}

func TestPlanWarns(t *testing.T) {
	t.Parallel()
	seen := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		obs := observed(s, r, time.Millisecond, 200)
		for i, o := range obs {
			switch o.Target {
			case "w1": // its consumer is not there
				obs[i] = traffic.Observation{Target: o.Target, From: r.From, To: r.To, Interval: o.Interval}
			case "w2":
				obs[i].Latency, obs[i].Samples = nil, 0
			}
		}
		return obs, nil
	})
	c, _ := console(t, Config{Conn: connect(t), Observer: seen})
	mustApply(t, c, edit(0, orders("orders", 60, 30, 10)))
	next := orders("orders", 20, 60, 10, 10)
	next.Targets[3].Observe = nil
	next.Subject = "orders.other"
	plan, err := c.Plan(context.Background(), edit(1, next))
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	all := strings.Join(plan.Warn, "\n")
	for _, want := range []string{"w0 goes from 60 to 20", "w1 goes from 30 to 60", "Nothing was seen of w1", "w2 has no ACK latency samples", "w3 is not observed", "subject changes"} {
		if !strings.Contains(all, want) {
			t.Errorf("the plan does not warn that %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, "w0 has") || strings.Contains(all, "seen of w0") {
		t.Errorf("the plan warns about w0, which is fine:\n%s", all)
	}
	if len(plan.Diff) != 3 { // w0, w1 and the new w3
		t.Errorf("diff = %+v", plan.Diff)
	}
	if got := leaderDoc(t, c, "orders"); got.number() != 1 {
		t.Errorf("revision %d after a dry run, want 1", got.number())
	}
}
