package handlers

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"ballast/traffic"
)

// healthRoutes are for whoever watches the watcher: /healthz says that the
// process runs, /readyz that what it shows is true and that it can act.
func healthRoutes(s *Server, e *echo.Echo) {
	e.GET("/healthz", func(c echo.Context) error {
		c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
		return c.String(http.StatusOK, "ok\n")
	})
	e.GET("/readyz", s.getReady)
}

// probe reports whether a path may be asked for by any name: an orchestrator
// asks by the address of the container, and the answer tells a foreign page
// nothing about the system that is watched.
func probe(path string) bool { return path == "/healthz" || path == "/readyz" }

// scrape reports whether a request is a scraper's for the metrics, which may ask
// by any name. They name servers, streams and consumers, so a page of a foreign
// name that was rebound to this address must not read them: whatever a browser
// sends has one of these headers, and no page can leave Accept-Language out.
func scrape(r *http.Request) bool {
	if r.Method != http.MethodGet || r.URL.Path != "/metrics" {
		return false
	}
	for _, h := range []string{"Accept-Language", "Sec-Fetch-Site", "Origin", "Referer", "Cookie"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	return true
}

// readyDoc is the answer of /readyz.
type readyDoc struct {
	Ready  bool       `json:"ready"`
	Checks []checkDoc `json:"checks"`
}

type checkDoc struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

func (s *Server) getReady(c echo.Context) error {
	doc := readyDoc{Ready: true}
	check := func(name, good string, err error) {
		d := checkDoc{Name: name, OK: err == nil, Text: good}
		if err != nil {
			f := fault(err)
			d.Text, d.Hint = f.Title, f.Hint
			doc.Ready = false
		}
		doc.Checks = append(doc.Checks, d)
	}
	_, err := s.Journal.Entries(c.Request().Context(), traffic.EntryFilter{Limit: 1})
	if err != nil {
		s.Log.WarnContext(c.Request().Context(), "readiness: journal does not answer", "err", err)
	}
	check("store", "The store answers.", err)

	fresh := checkDoc{Name: "snapshot", Text: "The newest look at NATS is fresh."}
	at := s.Metrics.Latest().TakenAt
	switch age := s.Now().Sub(at); {
	case at.IsZero():
		fresh.Text, fresh.Hint = "NATS was not seen yet.", "Check the addresses and credentials that the console was started with."
	case age > s.staleAfter():
		fresh.Text = fmt.Sprintf("The newest look at NATS is %s old.", ago(age))
		fresh.Hint = "The topology page says which sources do not answer."
	default:
		fresh.OK = true
	}
	doc.Ready = doc.Ready && fresh.OK
	doc.Checks = append(doc.Checks, fresh)

	check("control", "Changes can be applied.", s.Control.Ready())
	status := http.StatusOK
	if !doc.Ready {
		status = http.StatusServiceUnavailable
	}
	c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
	return c.JSONPretty(status, doc, " ")
}
