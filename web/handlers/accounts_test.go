package handlers

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"ballast/fleet"
	"ballast/web/templates"
)

func TestUsageAgainstLimits(t *testing.T) {
	t.Parallel()
	told := func(n int64) fleet.Limit { return fleet.Limit{Told: true, Max: n} }
	for _, c := range []struct {
		used uint64
		l    fleet.Limit
		want templates.Bar
	}{
		{21, fleet.Limit{}, templates.Bar{Value: "21, limit not told"}},
		{21, told(-1), templates.Bar{Value: "21, no limit"}},
		{0, told(0), templates.Bar{Value: "0, none allowed"}},
		{1, told(0), templates.Bar{Value: "1, none allowed", Share: "100", Tone: "crit", Word: "over its limit"}},
		{1, told(1000), templates.Bar{Value: "1 of 1,000, 0.1 %", Share: "0.1"}},
		{79, told(100), templates.Bar{Value: "79 of 100, 79 %", Share: "79"}},
		{80, told(100), templates.Bar{Value: "80 of 100, 80 %", Share: "80", Tone: "warn", Word: "near its limit"}},
		{100, told(100), templates.Bar{Value: "100 of 100, 100 %", Share: "100", Tone: "crit", Word: "at its limit"}},
		{250, told(100), templates.Bar{Value: "250 of 100, 250 %", Share: "100", Tone: "crit", Word: "over its limit"}},
	} {
		c.want.Name = "x"
		got := usage("x", c.used, c.l, countWords)
		got.Share = strings.TrimSuffix(got.Share, ".0")
		if got != c.want {
			t.Errorf("usage(%d of %+v) = %+v, want %+v", c.used, c.l, got, c.want)
		}
	}
}

func TestAccountPageShowsItsLimits(t *testing.T) {
	t.Parallel()
	w := seen()
	told := func(n int64) fleet.Limit { return fleet.Limit{Told: true, Max: n} }
	w.snap.Accounts[0].Settings = &fleet.AccountSettings{JetStream: true, At: epoch, Limits: fleet.AccountLimits{
		Conns: told(25), Leafs: told(-1), Subs: told(10), Payload: told(4096), Store: told(64 << 20), Memory: told(0), Streams: told(2), Consumers: told(100)}}
	st := newSite(t, w)
	a := st.get("/accounts/APP").status(200)
	// 21 MiB on each of three replicas, of two streams.
	for _, want := range []string{"21 of 25, 84 %", "near its limit", "0, no limit", "at most 4.00 KiB", "2 of 2, 100 %", "at its limit", "5 of 100, 5.0 %", "126 MiB of 64.0 MiB", "over its limit", "0 B, none allowed", "3 of 10", "nats server account info APP"} {
		a.says("main", want)
	}
	if got := text(st.get("/charts/account-conns?account=APP").status(200).id("main")); !strings.Contains(got, "max_connections 25") {
		t.Errorf("the chart does not draw the limit: %.400s", got)
	}
	for _, id := range []string{"account-subs", "account-slow", "account-leafs"} {
		st.get("/charts/" + id + "?account=APP").status(200)
		if !strings.Contains(a.Body.String(), "/charts/"+id+"?") {
			t.Errorf("no chart %s", id)
		}
	}
	up, err := st.s.accountTopic(t.Context(), "account=APP")
	if err != nil || up.Parts["acc-limits-bars"].Component == nil || !strings.Contains(up.Parts["acc-limits-bars"].shape, "21 of 25") {
		t.Errorf("the tick does not bring the limits up to date: %v", err)
	}
	var lines []map[string]any
	if err := json.Unmarshal(st.get("/accounts.json").status(200).Body.Bytes(), &lines); err != nil || lines[0]["max_connections"] != 25. || lines[0]["max_leaf_nodes"] != -1. || lines[0]["jetstream_store_bytes"] != float64(126<<20) {
		t.Errorf("accounts.json: %v, %v", err, lines)
	}
	if v, there := lines[1]["max_connections"]; !there || v != nil {
		t.Errorf("a limit that is not told is %v in JSON, want null", v)
	}
	rows := strings.Split(st.get("/accounts/SYS.csv").status(200).Body.String(), "\r\n")
	if i := slices.Index(strings.Split(rows[0], ","), "max_connections"); i < 0 || strings.Split(rows[1], ",")[i] != "" {
		t.Errorf("a limit that is not told is not empty in CSV: %q", rows)
	}
	st.get("/accounts/SYS").says("main", "no server tells of them").says("main", "1, limit not told")
	w.snap.Accounts[0].Settings.Limits = fleet.AccountLimits{Conns: told(5), Tiered: true}
	newSite(t, w).get("/accounts/APP").says("main", "set by number of replicas")
}
