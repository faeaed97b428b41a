package control

import (
	"testing"

	"ballast/traffic"
)

func TestSimilarSuggestions(t *testing.T) {
	t.Parallel()
	moves := func(to ...int) []traffic.Move { // from 60/30/10, in this order
		var m []traffic.Move
		for i, from := range []int{60, 30, 10} {
			if to[i] != from {
				m = append(m, traffic.Move{Target: string(rune('a' + i)), From: from, To: to[i]})
			}
		}
		return m
	}
	for _, tc := range []struct {
		a, b []traffic.Move
		same bool
	}{
		{moves(60, 30, 10), moves(60, 30, 10), true},
		{moves(16, 66, 18), moves(7, 72, 21), true},   // the estimate sharpens
		{moves(16, 66, 18), moves(40, 48, 12), false}, // half as far
		{moves(58, 32, 10), moves(58, 31, 11), true},  // one of them leaves a target alone
		{moves(50, 40, 10), moves(70, 20, 10), false}, // the other way
		{moves(50, 40, 10), moves(60, 30, 10), false}, // no move at all
		{moves(50, 40, 10), moves(50, 30, 20), false}, // to another target
	} {
		if got := similar(tc.a, tc.b); got != tc.same {
			t.Errorf("similar(%v, %v) = %v, want %v", tc.a, tc.b, got, tc.same)
		}
		if got := similar(tc.b, tc.a); got != tc.same {
			t.Errorf("similar(%v, %v) = %v, want %v", tc.b, tc.a, got, tc.same)
		}
	}
}
