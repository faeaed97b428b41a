package handlers

import (
	"strings"
	"testing"

	"ballast/fleet"
)

func TestServerTellsOfItsInsides(t *testing.T) {
	t.Parallel()
	w := seen()
	w.snap.Servers[1].Internals = &fleet.Internals{At: epoch, Subs: fleet.SubTotals{Subs: 140, Cached: 12, CacheHits: 0.5, MaxFanout: 9, AvgFanout: 1.5},
		Raft:   fleet.RaftTotals{Groups: 14, Leading: 5, Leaderless: 1, CatchingUp: 2, MaxLag: 1234, MaxLagOf: "S-R3F-x", Waiting: 7},
		Queues: []fleet.ServerQueue{{Name: "<b>ACCOUNT</b>", Pending: 321, InProgress: 4}}}
	st := newSite(t, w)
	a := st.get("/servers/n2").status(200)
	for _, want := range []string{"Raft groups", "14", "1,234 in S-R3F-x", "Catching up", "<b>ACCOUNT</b>", "321", "1.5, 9"} {
		a.says("main", want)
	}
	up, err := st.s.serverTopic(t.Context(), "name=n2&id=Sn2")
	if err != nil || up.Text["srv/f-leaderless"] != "1" || up.Text["srv/f-raftlag"] != "1,234 in S-R3F-x" || up.Text[htmlID("que", "<b>ACCOUNT</b>")+"/waiting"] != "321" {
		t.Errorf("the tick: %v, %v", err, up.Text)
	}
	st.get("/servers/n1").status(200) // nothing was read of its insides yet
	w.snap.Servers[0].Internals = &fleet.Internals{At: epoch}
	newSite(t, w).get("/servers/n1").status(200).says("main", "none: nothing here is replicated").says("main", "Nothing waits")
}

func TestServerCommands(t *testing.T) {
	t.Parallel()
	st := newSite(t, seen())
	leader := st.get("/servers/n2").status(200)
	for _, want := range []string{"nats server info n2", "nats server request jetstream --accounts --name=n2", "nats server config reload Sn2", "nats server cluster step-down", "nats-server --signal ldm", "curl -s http://127.0.0.1:8223/raftz"} {
		leader.says("main", want)
	}
	if strings.Contains(st.get("/servers/n1").Body.String(), "step-down") {
		t.Error("a server that does not lead the meta group is told to step down")
	}
	w := seen()
	w.snap.Servers[1].Name = "n1"
	newSite(t, w).get("/servers/n1?id=Sn2").says("main", "nats server info Sn2") // one of two of the name
	w.snap.Servers[1].Name, w.snap.Servers[1].ID = "n1#NABCDEFG", "NABCDEFGHIJ"  // as the collector tells it apart
	newSite(t, w).get("/servers/n1%23NABCDEFG").says("main", "nats server info NABCDEFGHIJ").says("main", "--name=n1 ")
	w.snap.Servers[1].Name = "n1@demo"
	newSite(t, w).get("/servers/n1@demo").says("main", "nats server info NABCDEFGHIJ").says("main", "--name=n1 ")
}
