package tuner

import (
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

// What a backlog is said to take, by the rates of the moment.
func TestDrain(t *testing.T) {
	t.Parallel()
	k := fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: "c"}
	for _, c := range []struct {
		name   string
		policy string
		rates  *fleet.Rates
		want   string
	}{
		{"no rates at all", "explicit", nil, ""},
		{"seen once", "explicit", &fleet.Rates{}, ""},
		{"nothing done", "explicit", ratesOf(k, fleet.ConsumerRate{Arrived: 10, Delivered: 10}), "never drains"},
		{"more done than arrives", "explicit", ratesOf(k, fleet.ConsumerRate{Arrived: 10, Acked: 20}), "drains in 10 min"},
		{"more arrives than done", "explicit", ratesOf(k, fleet.ConsumerRate{Arrived: 20, Acked: 10}), "if nothing more arrived, it would take 10 min"},
		{"without acknowledgements", "none", ratesOf(k, fleet.ConsumerRate{Arrived: 10, Delivered: 20}), "drains in 10 min"},
	} {
		in := newInspection(NewFindings(FindingsConfig{}), fleet.Look{At: day0, Snapshot: &fleet.Snapshot{TakenAt: day0}, Rates: c.rates}, nil, nil)
		got := in.drain(&fleet.Consumer{ConsumerKey: k, Pending: 6000, AckPolicy: c.policy, At: day0.Add(time.Second)})
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: it says %q, want %q", c.name, got, c.want)
		}
	}
}

func ratesOf(k fleet.ConsumerKey, r fleet.ConsumerRate) *fleet.Rates {
	return &fleet.Rates{Consumers: map[fleet.ConsumerKey]fleet.ConsumerRate{k: r}}
}
