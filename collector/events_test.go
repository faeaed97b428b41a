package collector

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

var everybody = map[string]bool{"": true, "n1": true, "n2": true, "n3": true}

var t0 = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

func server1(name string, f func(*fleet.Server)) fleet.Server {
	s := fleet.Server{ID: "ID-" + name, Name: name, Cluster: "c", State: fleet.Healthy, At: t0, Start: t0.Add(-time.Hour), Now: t0,
		JetStream: &fleet.JetStream{MetaLeader: "n1", MetaSize: 3}}
	if f != nil {
		f(&s)
	}
	return s
}

func consumer1(name, leader string) fleet.Consumer {
	return fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: name}, Created: t0.Add(-time.Hour), Leader: leader}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	base := func() *fleet.Snapshot {
		return &fleet.Snapshot{
			TakenAt: t0, Servers: []fleet.Server{server1("n1", nil), server1("n2", nil)},
			Consumers: []fleet.Consumer{consumer1("east", "n1"), consumer1("west", "n2")},
		}
	}
	later := func(s *fleet.Snapshot) { s.TakenAt = t0.Add(5 * time.Second) }
	for name, c := range map[string]struct {
		change func(next *fleet.Snapshot)
		want   []string
	}{
		"nothing": {func(*fleet.Snapshot) {}, nil},
		"lost": {func(s *fleet.Snapshot) { s.Servers[1].State = fleet.Unreachable },
			[]string{"server.lost n2"}},
		"a lost server's consumers are not removed": {func(s *fleet.Snapshot) {
			s.Servers[1].State = fleet.Unreachable
			s.Consumers = s.Consumers[:1]
		}, []string{"server.lost n2"}},
		"restarted": {func(s *fleet.Snapshot) {
			s.Servers[1].ID = "NEW"
			s.Servers[1].Start, s.Servers[1].Now, s.Servers[1].At = t0.Add(2*time.Second), t0.Add(5*time.Second), t0.Add(5*time.Second)
		}, []string{"server.restarted n2"}},
		"joined": {func(s *fleet.Snapshot) { s.Servers = append(s.Servers, server1("n3", nil)) },
			[]string{"server.joined n3"}},
		"known from neighbours only": {func(s *fleet.Snapshot) {
			s.Servers = append(s.Servers, fleet.Server{ID: "X", Name: "n3", Cluster: "c", State: fleet.Unread})
		}, nil},
		"meta leader": {func(s *fleet.Snapshot) {
			for i := range s.Servers {
				js := *s.Servers[i].JetStream
				js.MetaLeader = "n2"
				s.Servers[i].JetStream = &js
			}
		}, []string{"meta.leader JetStream"}},
		"one server does not know the meta leader yet": {func(s *fleet.Snapshot) {
			s.Servers[1].JetStream = &fleet.JetStream{MetaSize: 3}
		}, nil},
		"no meta leader": {func(s *fleet.Snapshot) {
			for i := range s.Servers {
				s.Servers[i].JetStream = &fleet.JetStream{MetaSize: 3}
			}
		}, []string{"meta.leaderless JetStream"}},
		"consumer removed":    {func(s *fleet.Snapshot) { s.Consumers = s.Consumers[1:] }, []string{"consumer.removed A/S/east"}},
		"consumer leader":     {func(s *fleet.Snapshot) { s.Consumers[0].Leader = "n2" }, []string{"consumer.leader A/S/east"}},
		"consumer leaderless": {func(s *fleet.Snapshot) { s.Consumers[0].Leader = "" }, []string{"consumer.leaderless A/S/east"}},
		"consumer recreated": {func(s *fleet.Snapshot) { s.Consumers[0].Created = t0 },
			[]string{"consumer.recreated A/S/east"}},
		"old consumer came into sight": {func(s *fleet.Snapshot) { s.Consumers = append(s.Consumers, consumer1("old", "n1")) }, nil},
		"new consumer": {func(s *fleet.Snapshot) {
			c := consumer1("new", "n1")
			c.Created = t0.Add(time.Second)
			s.Consumers = append(s.Consumers, c)
		}, []string{"consumer.created A/S/new"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := base()
			later(next)
			c.change(next)
			var got []string
			for _, e := range changes(base(), next, everybody) {
				got = append(got, e.Kind+" "+e.Entity)
				if e.Text == "" || e.Severity == "" || e.At.Before(t0) || e.At.After(next.TakenAt) {
					t.Errorf("event %+v", e)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("events %q, want %q", got, c.want)
			}
			if got := changes(nil, next, everybody); got != nil {
				t.Errorf("first round made events: %+v", got)
			}
		})
	}
}

func TestStormOfEventsIsBounded(t *testing.T) {
	t.Parallel()
	prev := &fleet.Snapshot{TakenAt: t0, Servers: []fleet.Server{server1("n1", nil)}}
	next := &fleet.Snapshot{TakenAt: t0.Add(time.Second), Servers: prev.Servers}
	for i := range 3000 {
		c := consumer1(fmt.Sprint(i), "n1")
		c.Created = t0
		next.Consumers = append(next.Consumers, c)
	}
	events := changes(prev, next, everybody)
	if last := events[len(events)-1]; len(events) != maxEvents+1 || last.Kind != "events.omitted" || !strings.Contains(last.Text, "2900") {
		t.Errorf("%d events, the last %+v", len(events), events[len(events)-1])
	}
}

func TestMergeTakesTheLeadersWord(t *testing.T) {
	t.Parallel()
	k := fleet.ConsumerKey{Account: "A", Stream: "S", Consumer: "c"}
	led := func(by string, at time.Time, pending uint64) *assets {
		a := newAssets(by, at)
		a.consumers = []fleet.Consumer{{ConsumerKey: k, Leader: by, Pending: pending, At: at}}
		return a
	}
	follows := func(by, leader string, at time.Time) *assets {
		a := newAssets(by, at)
		a.elsewhereConsumers[k] = leader
		return a
	}
	alive := func(names ...string) func(string) bool {
		return func(name string) bool { return slices.Contains(names, name) }
	}
	all, none := alive("n1", "n2", "n3"), alive()
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	var inv inventory
	check := func(what string, told []*assets, live, settling func(string) bool, want string) {
		t.Helper()
		inv.merge(told, live, settling)
		c, ok := inv.consumers[k]
		got := fmt.Sprintf("%q %d %ds gaps %d unled %d", c.Leader, c.Pending, int(c.At.Sub(t0)/time.Second), inv.gaps, inv.unledConsumers)
		if !ok {
			got = fmt.Sprintf("gone gaps %d unled %d", inv.gaps, inv.unledConsumers)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("only a follower is read", []*assets{follows("n2", "n1", at(1))}, all, none, "gone gaps 1 unled 1")
	check("leader and follower", []*assets{follows("n2", "n1", at(2)), led("n1", at(1), 7)}, all, none, `"n1" 7 1s gaps 0 unled 0`)
	check("the leader died, election", []*assets{led("n1", at(1), 7), follows("n2", "", at(3))}, alive("n2", "n3"), none, `"" 7 1s gaps 0 unled 0`)
	check("elected, old leader dead", []*assets{led("n1", at(1), 7), led("n2", at(4), 9)}, alive("n2", "n3"), none, `"n2" 9 4s gaps 0 unled 0`)
	check("leader moved between two answers", []*assets{follows("n2", "n3", at(5)), follows("n3", "n2", at(6))}, all, none, `"n2" 9 4s gaps 1 unled 0`)
	check("the leader restarts and knows nothing yet", []*assets{newAssets("n2", at(7))}, all, alive("n2"), `"n2" 9 4s gaps 0 unled 0`)
	check("removed", []*assets{newAssets("n1", at(8)), newAssets("n2", at(8))}, all, none, "gone gaps 0 unled 0")
}
