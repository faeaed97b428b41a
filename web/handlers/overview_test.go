package handlers

import (
	"fmt"
	"strings"
	"testing"

	"ballast/fleet"
)

// As long as nothing is split, the overview tells of the system.
func TestOverviewWithoutSplits(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.splits, w.history = nil, nil
	w.rates.Servers = map[string]fleet.LinkRate{"n1": {InMsgs: 100, OutMsgs: 10}, "n2": {InMsgs: 50.5, OutMsgs: 5}}
	st := newSite(t, w)
	a := st.get("/").status(200)
	for _, want := range []string{"Messages in, all servers 150 msg/s", "Messages out, all servers 15 msg/s", "Connections 39", "Make the first one"} {
		a.says("main", want)
	}
	if got := a.Body.String(); strings.Contains(got, "slowest split") || strings.Count(got, `class="spark"`) != 3 {
		t.Errorf("figures of splits are shown, or the wrong sparklines: %d", strings.Count(got, `class="spark"`))
	}
	up, err := st.s.overviewTopic(t.Context(), "")
	if err != nil || up.Text["overview/in"] != "150" {
		t.Errorf("the tick: %v, %q", err, up.Text["overview/in"])
	}
}

// A list on another page is a beginning; the whole stands on its own page.
func TestListsOnOtherPagesAreShort(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for i := range 30 {
		one := w.snap.Streams[0]
		one.Stream = fmt.Sprintf("S%02d", i)
		w.snap.Streams = append(w.snap.Streams, one)
	}
	st := newSite(t, w)
	a := st.get("/accounts/APP").status(200).says("acc-streams", "12 of 32")
	if n := strings.Count(text(a.id("acc-streams")), "APP"); n != partRows {
		t.Errorf("%d rows, want %d", n, partRows)
	}
	w.snap.Streams = w.snap.Streams[:5]
	if got := text(newSite(t, w).get("/accounts/APP").id("acc-streams")); strings.Contains(got, " of ") {
		t.Errorf("a short list is counted: %s", got)
	}
}

func TestWhoLeadsTheMetaGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		js             fleet.JetStream
		server, system string
	}{
		{fleet.JetStream{}, "none: it stands alone", "none: no server with JetStream is in a cluster"},
		{fleet.JetStream{MetaSize: 3}, "none: an election runs", "none: an election runs"},
		{fleet.JetStream{MetaSize: 3, MetaLeader: "n1"}, "n1", "n1"},
	} {
		w := newWorld()
		for i := range w.snap.Servers {
			js := c.js
			w.snap.Servers[i].JetStream = &js
		}
		st := newSite(t, w)
		st.get("/servers/n1").says("main", "Meta leader "+c.server)
		st.get("/topology").says("main", "Meta leader "+c.system)
	}
	w := newWorld()
	for i := range w.snap.Servers {
		w.snap.Servers[i].JetStream = nil
	}
	newSite(t, w).get("/topology").says("main", "none: JetStream is off")
}
