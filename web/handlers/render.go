package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// statusOf turns the kind of an error into a status code; nobody else does.
var statusOf = map[fleet.ErrorKind]int{
	fleet.Internal:    http.StatusInternalServerError,
	fleet.Invalid:     http.StatusUnprocessableEntity,
	fleet.NotFound:    http.StatusNotFound,
	fleet.Stale:       http.StatusConflict,
	fleet.Unavailable: http.StatusServiceUnavailable,
	fleet.Forbidden:   http.StatusForbidden,
	fleet.Unknown:     http.StatusBadGateway,
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// render writes a component, or nothing when it fails half-way.
func render(c echo.Context, status int, part templ.Component) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if err := part.Render(c.Request().Context(), buf); err != nil {
		return fmt.Errorf("render %s: %w", c.Request().URL.Path, err)
	}
	page := buf.Bytes()
	if at := momentOf(c); !at.IsZero() {
		page = keepMoment(page, at)
	}
	return c.HTMLBlob(status, page)
}

// markup renders a component to bytes, for the live streams.
func markup(ctx context.Context, part templ.Component) ([]byte, error) {
	var buf bytes.Buffer
	if err := part.Render(ctx, &buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// show answers one URL in two sizes: the page, or for htmx the part of it that
// it asked for. The page contains the part, so both always agree.
func show(c echo.Context, page, part templ.Component) error {
	return showAs(c, http.StatusOK, page, part)
}

func showAs(c echo.Context, status int, page, part templ.Component) error {
	h := c.Response().Header()
	h.Add("Vary", "HX-Request")
	h.Add("Vary", "HX-History-Restore-Request")
	if wantsPart(c.Request()) {
		return render(c, status, part)
	}
	return render(c, status, page)
}

// wantsPart reports whether htmx asks for a part. A boosted link and a restored
// history entry need the whole page although htmx is asking.
func wantsPart(r *http.Request) bool {
	return r.Header.Get("HX-Request") == "true" &&
		r.Header.Get("HX-Boosted") != "true" &&
		r.Header.Get("HX-History-Restore-Request") != "true"
}

// format is what the URL asks for: "json", "csv" or "" for the page.
func format(c echo.Context) string {
	p := c.Request().URL.Path
	switch {
	case strings.HasSuffix(p, ".json"):
		return "json"
	case strings.HasSuffix(p, ".csv"):
		return "csv"
	}
	return ""
}

// seeOther ends a form that was accepted.
func seeOther(c echo.Context, url string) error {
	if wantsPart(c.Request()) {
		c.Response().Header().Set("HX-Redirect", url)
		return c.NoContent(http.StatusOK)
	}
	return c.Redirect(http.StatusSeeOther, url)
}

// fail draws every error that a handler returns: as a page, as a panel for
// htmx, or as JSON. Only here is it logged.
func (s *Server) fail(err error, c echo.Context) {
	r := c.Request()
	f := fault(err)
	f.RequestID, _ = c.Get(requestID).(string)
	if c.Response().Committed {
		if r.Context().Err() == nil {
			s.Log.ErrorContext(r.Context(), "answer broke off", "err", err, "path", r.URL.Path, "request_id", f.RequestID)
		}
		return
	}
	if f.Status >= 500 {
		s.Log.ErrorContext(r.Context(), "request failed", "err", err, "status", f.Status, "path", r.URL.Path, "request_id", f.RequestID)
	} else {
		s.Log.DebugContext(r.Context(), "request refused", "err", err, "status", f.Status, "path", r.URL.Path, "request_id", f.RequestID)
	}
	h := c.Response().Header()
	h.Del("Content-Disposition")
	if f.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "2")
	}
	var werr error
	switch {
	case wantsJSON(r):
		werr = c.JSON(f.Status, map[string]any{"error": f.Title, "detail": f.Text, "hint": f.Hint, "request_id": f.RequestID, "fields": fieldsOf(err)})
	case wantsPart(r):
		h.Set("HX-Retarget", "#alerts")
		h.Set("HX-Reswap", "innerHTML")
		werr = render(c, f.Status, templates.ErrorPart(f))
	default:
		fr := s.bareFrame(c, f.Title)
		if s.present == nil {
			fr.Travel = nil // what there is not now has no past here
		}
		werr = render(c, f.Status, templates.ErrorPage(fr, f))
	}
	if werr != nil && r.Context().Err() == nil {
		s.Log.ErrorContext(r.Context(), "error page broke off", "err", werr, "request_id", f.RequestID)
	}
}

func wantsJSON(r *http.Request) bool {
	p := r.URL.Path
	return strings.HasSuffix(p, ".json") || strings.HasSuffix(p, ".csv") || strings.HasPrefix(p, "/api/") || p == "/live" ||
		strings.HasPrefix(r.Header.Get("Accept"), "application/json")
}

// fault puts an error into the operator's words. The text of an error without
// any is a defect's: it is logged and never shown.
func fault(err error) templates.Fault {
	var e *fleet.Error
	var he *echo.HTTPError
	var co *crossOrigin
	switch {
	case errors.As(err, &e) && e.Kind != fleet.Internal:
		return templates.Fault{Status: statusOf[e.Kind], Title: e.Msg, Hint: e.Hint}
	case errors.As(err, &co):
		return templates.Fault{Status: http.StatusForbidden, Title: "This request came from another site", Text: "Nothing was changed.",
			Hint: "Open the console itself and try again. Behind a proxy, check that it passes the Host header on."}
	case errors.As(err, &he):
		f := templates.Fault{Status: he.Code, Title: http.StatusText(he.Code)}
		switch he.Code {
		case http.StatusNotFound:
			f.Title, f.Hint = "There is no such page", "Use the find box, or go to the overview."
		case http.StatusMethodNotAllowed:
			f.Title, f.Hint = "This page cannot be used that way", "Open it from the console's own links and forms."
		case http.StatusRequestEntityTooLarge:
			f.Title, f.Hint = "That is too much for one request", "A form may have at most 64 KiB."
		default:
			if text, ok := he.Message.(string); ok && he.Code < 500 {
				f.Text = text
			}
		}
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return templates.Fault{Status: http.StatusServiceUnavailable, Title: "That took too long", Text: "The answer was not ready within 15 seconds.",
			Hint: "Try a shorter time range, or try again."}
	}
	return templates.Fault{Status: http.StatusInternalServerError, Title: "Something went wrong here", Text: "This is a defect of Ballast, not of your NATS.",
		Hint: "The log of the console has the details under the number of this request."}
}

func fieldsOf(err error) json.RawMessage {
	var e *fleet.Error
	if !errors.As(err, &e) || len(e.Fields) == 0 {
		return nil
	}
	b, err := json.Marshal(e.Fields)
	if err != nil {
		return nil
	}
	return b
}
