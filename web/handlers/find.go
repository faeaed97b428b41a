package handlers

import (
	"strings"

	"github.com/labstack/echo/v4"

	"ballast/web/templates"
)

// maxHits is what a list under the find box has room for.
const maxHits = 12

// find searches what there is by a part of its name.
func (s *Server) find(c echo.Context) error {
	q := strings.TrimSpace(c.QueryParam("q"))
	v := s.found(q)
	f := s.frame(c, "Find", "")
	return show(c, templates.FindPage(f, v), templates.Hits(v))
}

func (s *Server) found(q string) templates.Found {
	v := templates.Found{Query: q}
	if q == "" || len(q) > 200 {
		return v
	}
	low := strings.ToLower(q)
	add := func(name, kind, url, icon string) {
		if !strings.Contains(strings.ToLower(name), low) {
			return
		}
		if len(v.Hits) == maxHits {
			v.More = true
			return
		}
		v.Hits = append(v.Hits, templates.Hit{Name: name, Kind: kind, URL: url, Icon: icon})
	}
	for _, g := range s.nav("") {
		for _, n := range g.Items {
			add(n.Name, "page", n.URL, n.Icon)
		}
	}
	for _, r := range s.Control.Splits() {
		add(r.Split.Name, "split", splitURL(r.Split.Name), "splits")
		add(r.Split.Subject, "subject of "+r.Split.Name, splitURL(r.Split.Name), "splits")
		for _, t := range r.Split.Targets {
			add(t.Name, "target of "+r.Split.Name, splitURL(r.Split.Name), "splits")
		}
	}
	snap := s.Metrics.Latest()
	for _, sv := range snap.Servers {
		add(sv.Name, "server", serverURL(sv.Name), navServers)
	}
	for _, ac := range snap.Accounts {
		add(ac.Name, "account", accountURL(ac.Name), navAccounts)
	}
	for _, st := range snap.Streams {
		add(st.Stream, "stream of "+st.Account, streamURL(st.StreamKey), "streams")
	}
	for _, cn := range snap.Consumers {
		add(cn.Consumer, "consumer of "+cn.Stream, consumerURL(cn.ConsumerKey), "consumers")
	}
	return v
}
