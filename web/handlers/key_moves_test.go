package handlers

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"ballast/traffic"
)

// The dry run of a split that picks by key says which keys move, page and fragment
// alike; of any other it says nothing.
func TestTheDryRunSaysWhichKeysMove(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	form := url.Values{"base": {"1"}, "w.eu": {"40"}, "w.us": {"60"}, "reason": {"More room in the west"}}
	for _, a := range []*answer{st.ask("POST", "/splits/payments/plan", form).status(200), st.ask("POST", "/splits/payments/plan", form, "HX-Request", "true").status(200)} {
		said := text(a.says("key-moves", "of the keys go to another target from then on; the weights alone ask for 10 %.").id("key-moves"))
		if !strings.Contains(said, "From To Of all keys eu us 9.9 %") {
			t.Errorf("the ways are not told: %s", said)
		}
		if strings.Contains(said, "What is taken for the key") || strings.Contains(said, "in flight") {
			t.Errorf("it warns of what does not change: %s", said)
		}
	}
	form.Set("w.eu", "50")
	form.Set("w.us", "50")
	st.ask("POST", "/splits/payments/plan", form).status(200).says("key-moves", "Every key stays with its target.")
	if a := st.ask("POST", "/splits/orders/plan", url.Values{"base": {"4"}, "w.worker-east-1": {"50"}, "w.worker-west-1": {"40"}, "reason": {"x"}}).status(200); strings.Contains(a.Body.String(), "key-moves") {
		t.Error("a split by weight has keys that move")
	}
}

// An open suggestion is approved without another review: it says which keys move.
func TestASuggestionSaysWhichKeysMove(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := w.proposals[0]
	p.ID, p.Split, p.Base, p.Moves = "k7", "payments", 1, []traffic.Move{{Target: "eu", From: 50, To: 40}, {Target: "us", From: 50, To: 60}}
	w.proposals = append(w.proposals, p)
	st := newSite(t, w)
	st.get("/suggestions/k7").status(200).says("key-moves", "the weights alone ask for 10 %")
	if a := st.get("/suggestions/p7").status(200); strings.Contains(a.Body.String(), "key-moves") {
		t.Error("a suggestion for a split by weight has keys that move")
	}
	w.proposals[len(w.proposals)-1].Status = traffic.Dismissed
	if a := st.get("/suggestions/k7").status(200); strings.Contains(a.Body.String(), "key-moves") {
		t.Error("a suggestion that is closed has keys that move")
	}
}

// What else changes the keys is said: their source, how they are laid out, a bound;
// and a change that a split made says it for ever in the journal.
func TestWhatChangesKeysIsSaid(t *testing.T) {
	t.Parallel()
	sp := newWorld().splits[1].Split
	ring, token, bound := sp, sp, sp
	ring.Key = &traffic.Keyed{Hash: traffic.Ring}
	token.Key = &traffic.Keyed{From: traffic.FromToken, Token: 3}
	bound.Key = &traffic.Keyed{Bound: 125}
	if v := keyMoves(sp, ring); !strings.Contains(v.Text, "though no weight asks for it") || v.Least != "0 %" || v.Source != "" {
		t.Errorf("to a ring: %+v", v)
	}
	if v := keyMoves(sp, token); v.Source == "" || !strings.Contains(v.Source, "header Ballast-Key, then token 3 of the subject") || v.Share != "0 %" {
		t.Errorf("to a token: %+v", v)
	}
	if v := keyMoves(sp, bound); !strings.Contains(v.Bound, "more than 125 %") {
		t.Errorf("to a bound: %+v", v)
	}
	weighted := sp
	weighted.Pick = traffic.Weighted
	if keyMoves(weighted, sp) != nil || keyMoves(sp, weighted) != nil || keyMoves(traffic.Split{Pick: traffic.ByKey}, sp) != nil {
		t.Error("a split that did not pick by key, or none at all, has keys that move")
	}

	many := sp
	many.Targets = nil
	for i := range 20 {
		many.Targets = append(many.Targets, target(fmt.Sprintf("t%d", i), "payments.capture", "PAYMENTS", 5))
	}
	fewer := many
	fewer.Targets = append([]traffic.Target(nil), many.Targets...)
	fewer.Targets[0].Weight, fewer.Targets[1].Weight = 0, 10
	if v := keyMoves(many, fewer); len(v.Ways) > shownMoves || v.Ways[0].To != "t1" {
		t.Errorf("%d ways are listed, the first %+v", len(v.Ways), v.Ways[0])
	}
	fewer.Targets = []traffic.Target{target("z", "payments.capture", "PAYMENTS", 100)}
	if v := keyMoves(many, fewer); len(v.Ways) != shownMoves || v.Rest == "" || v.Share != "100 %" {
		t.Errorf("20 targets that give way to one: %+v", v)
	}

	w := newWorld()
	next := w.splits[1].Split.WithWeights(map[string]int{"eu": 100, "us": 0})
	ch := traffic.Change{ID: "k1", Split: "payments", Before: w.splits[1].Split, After: next}
	w.record(traffic.EntryWritten, "k1", ch)
	newSite(t, w).get(fmt.Sprintf("/journal/%d", w.entries[0].Seq)).status(200).says("key-moves", "us eu 50 %")
}
