package handlers

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

func serviceRoutes(s *Server, e *echo.Echo) {
	page(e, "/services", servicePages.show(s))
	e.GET("/services/:account/:service", s.showService)
}

// serviceRow is one endpoint of one instance; an instance without any has a row
// of its own.
type serviceRow struct {
	*fleet.Service
	end fleet.Endpoint
	key string
}

var servicePages = collection[serviceRow]{
	id: navServices, title: "Services", icon: navServices, placeholder: "service, instance, version or subject",
	none: "No micro service answered $SRV in the account of Ballast's credentials.", noted: true, own: []string{"account", "service", "version"},
	list: (*Server).serviceList, rows: (*Server).serviceRows,
	sub: func(_ *Server, rows []serviceRow) string {
		names, instances := map[string]bool{}, map[string]bool{}
		var requests, errs uint64
		for _, r := range rows {
			names[r.Account+"\x00"+r.Name] = true
			instances[r.Account+"\x00"+r.Name+"\x00"+r.ID] = true
			requests += r.end.Requests
			errs += r.end.Errors
		}
		return fmt.Sprintf("%s in %s; %s requests since their starts, %s errors. Services tell of themselves.",
			count(len(names), "service"), count(len(instances), "instance"), countWords(requests), countWords(errs))
	},
	filters: func(s *Server, a listArgs) []templates.ListFilter {
		all := s.serviceRows(listArgs{rest: url.Values{}})
		return []templates.ListFilter{
			oneOf("service", "Service", a.rest.Get("service"), all, func(r *serviceRow) string { return r.Name }),
			oneOf("version", "Version", a.rest.Get("version"), all, func(r *serviceRow) string { return r.Version }),
		}
	},
	doc: func(_ *Server, r *serviceRow) any { return serviceLineOf(r) },
}

func (s *Server) serviceRows(a listArgs) []serviceRow {
	account, name, version := a.rest.Get("account"), a.rest.Get("service"), a.rest.Get("version")
	all := s.Metrics.Latest().Services
	var rows []serviceRow
	for i := range all {
		v := &all[i]
		if account != "" && v.Account != account || name != "" && v.Name != name || version != "" && v.Version != version {
			continue
		}
		ends := v.Endpoints
		if len(ends) == 0 {
			ends = []fleet.Endpoint{{}}
		}
		for _, e := range ends {
			rows = append(rows, serviceRow{v, e, htmlID("svc", v.Account+"\x00"+v.Name+"\x00"+v.ID+"\x00"+e.Name+"\x00"+e.Subject)})
		}
	}
	slices.SortStableFunc(rows, func(a, b serviceRow) int {
		return cmp.Or(strings.Compare(a.Account, b.Account), strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID), strings.Compare(a.end.Name, b.end.Name))
	})
	return rows
}

func (s *Server) serviceList() listing[serviceRow] {
	errorShare := func(r *serviceRow) float64 { return float64(r.end.Errors) / float64(max(r.end.Requests, 1)) }
	return listing[serviceRow]{
		path: "/services",
		name: func(r *serviceRow) string {
			return strings.Join([]string{r.Name, r.ID, r.Version, r.end.Name, r.end.Subject, metadataWords(r.Metadata)}, "\n")
		},
		cols: []listCol[serviceRow]{
			{key: "name", label: "Service", by: func(a, b *serviceRow) int { return strings.Compare(a.Name, b.Name) },
				cell: func(r *serviceRow) templates.ListCell {
					return templates.ListCell{Text: r.Name, Small: metadataWords(r.Metadata), URL: serviceURL(r.Account, r.Name), Tip: r.Description}
				}},
			{key: "instance", label: "Instance", by: func(a, b *serviceRow) int { return strings.Compare(a.ID, b.ID) },
				cell: func(r *serviceRow) templates.ListCell {
					return templates.ListCell{Text: clip(r.ID, 22), Small: r.Account, Tip: r.ID}
				}},
			{key: "version", label: "Version", by: func(a, b *serviceRow) int { return strings.Compare(a.Version, b.Version) },
				cell: func(r *serviceRow) templates.ListCell { return templates.ListCell{Text: cmp.Or(r.Version, none)} }},
			{key: "endpoint", label: "Endpoint", by: func(a, b *serviceRow) int { return strings.Compare(a.end.Name, b.end.Name) },
				cell: func(r *serviceRow) templates.ListCell {
					return templates.ListCell{Text: cmp.Or(r.end.Name, none), Small: r.end.Subject}
				}},
			{key: "requests", label: "Requests", right: true, down: true, by: func(a, b *serviceRow) int { return cmp.Compare(a.end.Requests, b.end.Requests) },
				cell: func(r *serviceRow) templates.ListCell {
					return figureCell(r.key, "requests", countWords(r.end.Requests))
				}},
			{key: "errors", label: "Errors", right: true, down: true, by: func(a, b *serviceRow) int { return cmp.Compare(a.end.Errors, b.end.Errors) },
				cell: func(r *serviceRow) templates.ListCell {
					c := figureCell(r.key, "errors", countWords(r.end.Errors))
					c.Tip = r.end.LastError
					return c
				}},
			{key: "error_share", label: "Errors, %", right: true, down: true, by: func(a, b *serviceRow) int { return cmp.Compare(errorShare(a), errorShare(b)) },
				cell: func(r *serviceRow) templates.ListCell { return figureCell(r.key, "share", percent(errorShare(r))) }},
			{key: "processing", label: "Mean time", right: true, down: true, by: func(a, b *serviceRow) int { return cmp.Compare(a.end.Processing(), b.end.Processing()) },
				cell: func(r *serviceRow) templates.ListCell { return figureCell(r.key, "mean", duration(r.end.Processing())) }},
			{label: "Own figures", cell: func(r *serviceRow) templates.ListCell {
				c := figureCell(r.key, "data", cmp.Or(clip(string(bytes.ToValidUTF8(r.end.Data, []byte("\uFFFD"))), 48), none))
				c.Tip = string(bytes.ToValidUTF8(r.end.Data, []byte("\uFFFD")))
				return c
			}},
			{key: "started", label: "Started", right: true, down: true, by: func(a, b *serviceRow) int { return a.Started.Compare(b.Started) },
				cell: func(r *serviceRow) templates.ListCell { return s.momentCell(r.Started) }},
		},
	}
}

// metadataWords are an instance's labels in the order of their names.
func metadataWords(m map[string]string) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !strings.HasPrefix(k, "_nats.") { // the client library's own
			words = append(words, k+" "+m[k])
		}
	}
	return strings.Join(words, ", ")
}

// serviceLine is an endpoint as a row of the exports; its counters run from the
// instance's start.
type serviceLine struct {
	Account   string    `json:"account"`
	Service   string    `json:"service"`
	Instance  string    `json:"instance"`
	Version   string    `json:"version"`
	Metadata  string    `json:"metadata"`
	Endpoint  string    `json:"endpoint"`
	Subject   string    `json:"subject"`
	Queue     string    `json:"queue"`
	Requests  uint64    `json:"requests"`
	Errors    uint64    `json:"errors"`
	MeanMS    float64   `json:"processing_mean_ms"`
	LastError string    `json:"last_error"`
	Data      string    `json:"data"`
	Started   time.Time `json:"started"`
	At        time.Time `json:"measured_at"`
}

func serviceLineOf(r *serviceRow) serviceLine {
	if r.Service == nil {
		return serviceLine{}
	}
	return serviceLine{Account: r.Account, Service: r.Name, Instance: r.ID, Version: r.Version, Metadata: metadataWords(r.Metadata), Endpoint: r.end.Name, Subject: r.end.Subject,
		Queue: r.end.Queue, Requests: r.end.Requests, Errors: r.end.Errors, MeanMS: inMS(r.end.Processing()), LastError: r.end.LastError,
		Data: string(bytes.ToValidUTF8(r.end.Data, []byte("\uFFFD"))), Started: r.Started.UTC(), At: r.At.UTC()}
}
