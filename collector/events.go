package collector

import (
	"fmt"
	"time"

	"ballast/fleet"
)

// maxEvents bounds the events of one round: a thousand ephemeral consumers that
// come and go are one fact, not a thousand.
const maxEvents = 100

// changes compares two snapshots and says what happened in between. The first
// one makes no events: that something is there is no news, and neither are the
// streams of a server that had not told of any before. toldBy are those that had.
func changes(prev, next *fleet.Snapshot, toldBy map[string]bool) []fleet.Event {
	if prev == nil {
		return nil
	}
	e := &eventList{at: next.TakenAt, toldBy: toldBy}
	e.servers(prev, next)
	e.metaLeader(prev, next)
	hosts := hostsOf(prev, next)
	e.streams(prev, next, hosts)
	e.consumers(prev, next, hosts)
	return e.ended()
}

// ended returns the events, with a word on those that were too many.
func (e *eventList) ended() []fleet.Event {
	if e.more > 0 {
		e.list = append(e.list, fleet.Event{
			At: e.at, Kind: "events.omitted", Severity: fleet.Info, Entity: "collector",
			Text: fmt.Sprintf("%d more things happened in this round.", e.more),
		})
	}
	return e.list
}

type eventList struct {
	at   time.Time
	list []fleet.Event
	more int

	toldBy map[string]bool
}

func (e *eventList) add(at time.Time, kind string, severity fleet.Severity, entity, format string, args ...any) {
	if len(e.list) >= maxEvents {
		e.more++
		return
	}
	e.list = append(e.list, fleet.Event{At: at, Kind: kind, Severity: severity, Entity: entity, Text: fmt.Sprintf(format, args...)})
}

func (e *eventList) servers(prev, next *fleet.Snapshot) {
	before := map[serverKey]*fleet.Server{}
	byURL := map[string]*fleet.Server{}
	read := 0
	for i := range prev.Servers {
		s := &prev.Servers[i]
		before[keyOf(s)] = s
		if s.URL != "" {
			byURL[s.URL] = s
		}
		if s.State != fleet.Unread {
			read++
		}
	}
	still := map[string]bool{}
	for i := range next.Servers {
		still[next.Servers[i].ID] = true
	}
	for i := range next.Servers {
		s := &next.Servers[i]
		if s.State == fleet.Unread {
			continue
		}
		old := before[keyOf(s)]
		if old == nil && s.URL != "" {
			// Without a server_name the name changes with every start.
			if old = byURL[s.URL]; old != nil && old.Name != s.Name && old.Name != old.ID {
				e.renamed(old, s)
			}
		}
		if (old == nil || old.State == fleet.Unread) && s.URL == "" {
			for i := range prev.Servers {
				if was := &prev.Servers[i]; !still[was.ID] && cameBackAs(was, s) {
					old = was
					e.renamed(old, s)
					break
				}
			}
		}
		if old == nil || old.State == fleet.Unread {
			if read > 0 && old == nil {
				e.add(e.at, "server.joined", fleet.Info, s.Name, "Server %s joined.", s.Name)
			}
			continue
		}
		restarted := s.ID != old.ID || !s.Start.IsZero() && !old.Start.IsZero() && s.Start.Sub(old.Start).Abs() > time.Second
		switch {
		case s.State != fleet.Unreachable && restarted:
			e.add(startedAt(s, old), "server.restarted", fleet.Warning, s.Name, "Server %s was restarted; its counters began anew.", s.Name)
		case s.State == fleet.Unreachable && old.State != fleet.Unreachable:
			e.add(e.at, "server.lost", fleet.Critical, s.Name, "Server %s does not answer.", s.Name)
		case s.State != fleet.Unreachable && old.State == fleet.Unreachable:
			e.add(e.at, "server.back", fleet.Info, s.Name, "Server %s answers again.", s.Name)
		}
		if s.State == fleet.LameDuck && old.State != fleet.LameDuck {
			e.add(e.at, "server.lameduck", fleet.Warning, s.Name, "Server %s is in lame duck mode: its clients are asked to leave.", s.Name)
		}
	}
}

func (e *eventList) renamed(old, now *fleet.Server) {
	e.add(e.at, "server.renamed", fleet.Warning, now.Name, "Server %s came back as %s; it has its own series from now on.", old.Name, now.Name)
}

// startedAt is a server's start by our clock, between the two looks.
func startedAt(s, old *fleet.Server) time.Time {
	at := s.Start.Add(s.At.Sub(s.Now))
	if at.Before(old.At) || at.After(s.At) {
		return s.At
	}
	return at
}

func (e *eventList) metaLeader(prev, next *fleet.Snapshot) {
	before, after := metaLeaders(prev), metaLeaders(next)
	for domain, leader := range after {
		old, ok := before[domain]
		entity := "JetStream"
		if domain != "" {
			entity += " domain " + domain
		}
		switch {
		case !ok || old == leader:
		case leader == "":
			e.add(e.at, "meta.leaderless", fleet.Critical, entity, "%s has no meta leader: nothing can be created or moved.", entity)
		case old == "":
			e.add(e.at, "meta.leader", fleet.Info, entity, "%s leads the meta group.", leader)
		default:
			e.add(e.at, "meta.leader", fleet.Info, entity, "%s leads the meta group, after %s.", leader, old)
		}
	}
}

// metaLeaders names the meta leader of each domain by the newest word of a
// server that answers; "" when none of them knows one.
func metaLeaders(s *fleet.Snapshot) map[string]string {
	leaders, at := map[string]string{}, map[string]time.Time{}
	for i := range s.Servers {
		srv := &s.Servers[i]
		js := srv.JetStream
		if js == nil || js.MetaSize == 0 || srv.State == fleet.Unreachable {
			continue
		}
		if _, ok := leaders[js.Domain]; !ok {
			leaders[js.Domain] = ""
		}
		if js.MetaLeader != "" && srv.At.After(at[js.Domain]) {
			leaders[js.Domain], at[js.Domain] = js.MetaLeader, srv.At
		}
	}
	return leaders
}

// hosts tells whether the servers that held a stream or consumer answer now, so
// that its absence means that it is gone.
type hosts map[string]bool

func hostsOf(prev, next *fleet.Snapshot) hosts {
	h := hosts{}
	for i := range prev.Servers {
		h[prev.Servers[i].Name] = false
	}
	for i := range next.Servers {
		s := &next.Servers[i]
		h[s.Name] = s.State == fleet.Healthy || s.State == fleet.LameDuck
	}
	return h
}

func (h hosts) allAnswer(leader string, peers []fleet.Replica) bool {
	if alive, known := h[leader]; known && !alive {
		return false
	}
	for _, p := range peers {
		if alive, known := h[p.Name]; known && !alive {
			return false
		}
	}
	return true
}

// isNew tells a thing that was created from one that only came into sight. The
// moment is by the clock of a server, perhaps not of the one that leads now.
func isNew(created time.Time, leader string, prev *fleet.Snapshot) bool {
	var skew time.Duration
	for i := range prev.Servers {
		if s := &prev.Servers[i]; s.Name == leader {
			skew = s.Skew()
		}
	}
	return created.After(prev.TakenAt.Add(skew - 30*time.Second))
}

// asset is what streams and consumers have in common here.
type asset struct {
	kind, entity, name string
	created            time.Time
	leader             string
}

func streamAsset(s *fleet.Stream) asset {
	return asset{"stream", s.Entity().Key, "Stream " + s.Stream, s.Created, s.Leader}
}

func consumerAsset(c *fleet.Consumer) asset {
	return asset{"consumer", c.Entity().Key, "Consumer " + c.Consumer + " of " + c.Stream, c.Created, c.Leader}
}

func (e *eventList) appeared(now asset, prev *fleet.Snapshot) {
	if (e.toldBy[now.leader] || e.toldBy[""]) && isNew(now.created, now.leader, prev) {
		e.add(e.at, now.kind+".created", fleet.Info, now.entity, "%s was created.", now.name)
	}
}

func (e *eventList) stayed(old, now asset) {
	switch {
	case !now.created.Equal(old.created):
		e.add(e.at, now.kind+".recreated", fleet.Warning, now.entity, "%s was removed and created again; its counters began anew.", now.name)
	case now.leader == old.leader:
	case now.leader == "":
		e.add(e.at, now.kind+".leaderless", fleet.Warning, now.entity, "%s has no leader.", now.name)
	case old.leader == "":
		e.add(e.at, now.kind+".leader", fleet.Info, now.entity, "%s is led by %s.", now.name, now.leader)
	default:
		e.add(e.at, now.kind+".leader", fleet.Info, now.entity, "%s is led by %s, after %s.", now.name, now.leader, old.leader)
	}
}

func (e *eventList) removed(old asset, severity fleet.Severity) {
	e.add(e.at, old.kind+".removed", severity, old.entity, "%s was removed.", old.name)
}

func (e *eventList) streams(prev, next *fleet.Snapshot, h hosts) {
	now := make(map[fleet.StreamKey]bool, len(next.Streams))
	before := make(map[fleet.StreamKey]*fleet.Stream, len(prev.Streams))
	for i := range prev.Streams {
		before[prev.Streams[i].StreamKey] = &prev.Streams[i]
	}
	for i := range next.Streams {
		s := &next.Streams[i]
		now[s.StreamKey] = true
		if old := before[s.StreamKey]; old != nil {
			e.stayed(streamAsset(old), streamAsset(s))
		} else {
			e.appeared(streamAsset(s), prev)
		}
	}
	for i := range prev.Streams {
		if old := &prev.Streams[i]; !now[old.StreamKey] && h.allAnswer(old.Leader, old.Peers) {
			e.removed(streamAsset(old), fleet.Warning)
		}
	}
}

func (e *eventList) consumers(prev, next *fleet.Snapshot, h hosts) {
	now := make(map[fleet.ConsumerKey]bool, len(next.Consumers))
	before := make(map[fleet.ConsumerKey]*fleet.Consumer, len(prev.Consumers))
	for i := range prev.Consumers {
		before[prev.Consumers[i].ConsumerKey] = &prev.Consumers[i]
	}
	for i := range next.Consumers {
		c := &next.Consumers[i]
		if c.Fold != nil {
			continue // its members come and go all the time
		}
		now[c.ConsumerKey] = true
		if old := before[c.ConsumerKey]; old != nil {
			e.stayed(consumerAsset(old), consumerAsset(c))
		} else {
			e.appeared(consumerAsset(c), prev)
		}
	}
	for i := range prev.Consumers {
		if old := &prev.Consumers[i]; old.Fold == nil && !now[old.ConsumerKey] && h.allAnswer(old.Leader, old.Peers) {
			e.removed(consumerAsset(old), fleet.Info)
		}
	}
}
