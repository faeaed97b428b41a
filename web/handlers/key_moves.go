package handlers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"ballast/traffic"
	"ballast/web/templates"
)

// shownMoves bounds the ways of keys that a page lists, the widest first.
const shownMoves = 12

// keyMoves is what a change does to the keys of a split that picks by key before
// and after; nil for any other.
func keyMoves(before, after traffic.Split) *templates.KeyMoves {
	if before.Pick != traffic.ByKey || after.Pick != traffic.ByKey {
		return nil
	}
	m, err := traffic.MovedKeys(before, after)
	if err != nil {
		return nil // what is not valid is said elsewhere
	}
	v := &templates.KeyMoves{Share: percent(m.Keys) + " %", Least: percent(m.Least) + " %"}
	switch {
	case m.Keys == 0:
		v.Text = "Every key stays with its target."
	case m.Least < 1e-9:
		v.Text = fmt.Sprintf("About %s of the keys go to another target from then on, though no weight asks for it: keys are laid out in another way.", v.Share)
	default:
		v.Text = fmt.Sprintf("About %s of the keys go to another target from then on; the weights alone ask for %s.", v.Share, v.Least)
	}
	if m.Keys > 0 {
		v.Text += " Messages of such a key that are under way and those that follow are with two targets for a moment: their order is not kept."
	}
	if was, is := keySource(before), keySource(after); was != is {
		v.Source = fmt.Sprintf("What is taken for the key changes as well (%s, then %s): the same message may have another key, so the shares hold for keys, not for messages.", was, is)
	}
	if b := cmp.Or(after.Key, &traffic.Keyed{}).Bound; b > 0 {
		v.Bound = fmt.Sprintf("While a target has more than %d %% of its share in flight, further keys go elsewhere; that is not counted here.", b)
	}
	ways := slices.SortedFunc(maps.Keys(m.Ways), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(m.Ways[b], m.Ways[a]), cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
	rest := 0.0
	for i, w := range ways {
		if i < shownMoves {
			v.Ways = append(v.Ways, templates.KeyWay{From: w[0], To: w[1], Share: percent(m.Ways[w])})
		} else {
			rest += m.Ways[w]
		}
	}
	if n := len(ways) - shownMoves; n > 0 {
		v.Rest = fmt.Sprintf("%s more with %s %% together", plural(n, "way", "ways"), percent(rest))
	}
	return v
}

// keySource says what a split takes for a message's key.
func keySource(sp traffic.Split) string {
	k := cmp.Or(sp.Key, &traffic.Keyed{})
	switch k.From {
	case traffic.FromToken:
		return fmt.Sprintf("token %d of the subject", k.Token)
	case traffic.FromCaller:
		return "handed over by the program"
	}
	return "header " + cmp.Or(k.Header, traffic.KeyHeader)
}
