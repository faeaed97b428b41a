package bed

import (
	"math"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func noServer(string) *exec.Cmd { return nil }

func TestPlanHasTheCountsAndTheVariety(t *testing.T) {
	t.Parallel()
	for size, want := range counts {
		p, err := newPlan(Config{Size: size, Server: noServer})
		if err != nil {
			t.Fatal(err)
		}
		names, hostile := map[string]bool{}, 0
		consumers, sampled, pushed, worked, replicated := 0, 0, 0, 0, 0
		accounts := map[string]bool{}
		for _, s := range p.streams {
			names[s.config.Name] = true
			accounts[s.seat.account] = true
			if !strings.HasPrefix(s.config.Name, "STREAM-") {
				hostile++
			}
			if s.config.Replicas == 3 {
				replicated++
			}
			own := map[string]bool{}
			for _, c := range s.consumers {
				consumers++
				own[c.config.Durable] = true
				if c.config.SampleFrequency != "" {
					sampled++
				}
				if c.push() {
					pushed++
				}
				if c.worked {
					worked++
				}
			}
			if len(own) != len(s.consumers) {
				t.Errorf("%s: stream %q has consumers of one name", size, s.config.Name)
			}
		}
		if len(names) != want[0] || consumers != want[1] || len(p.conns) != want[2] {
			t.Errorf("%s: %d streams, %d consumers, %d connections; want %v", size, len(names), consumers, len(p.conns), want)
		}
		if hostile != len(hostileAssets) || sampled < consumers/4 || sampled > consumers/2 || pushed == 0 || worked == 0 {
			t.Errorf("%s: %d hostile streams; of %d consumers %d sampled, %d push, %d worked", size, hostile, consumers, sampled, pushed, worked)
		}
		if accounts[otherAccount] != (size != Small) {
			t.Errorf("%s: accounts %v", size, accounts)
		}
		if (replicated > 0) != (size == Super) {
			t.Errorf("%s: %d replicated streams", size, replicated)
		}
		again, _ := newPlan(Config{Size: size, Server: noServer})
		if !reflect.DeepEqual(p, again) {
			t.Errorf("%s: the same configuration has two plans", size)
		}
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"size":        {Size: "XL", Server: noServer},
		"server":      {Size: Small},
		"streams":     {Size: Small, Server: noServer, Streams: -1},
		"rate":        {Size: Small, Server: noServer, Rate: math.NaN()},
		"connections": {Size: Super, Server: noServer, Connections: 2},
	} {
		if _, err := newPlan(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
