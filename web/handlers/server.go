// Package handlers is the console over HTTP: it reads requests, turns what the
// other rooms know into view models and has them rendered. It decides nothing,
// speaks no SQL and never talks to NATS.
package handlers

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/nats-io/nuid"

	"ballast/fleet"
	"ballast/web/static"
)

// csp allows nothing but our own files: no inline script, no style attribute.
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

const (
	maxBody        = "64K"
	requestTimeout = 15 * time.Second
)

// Server answers the console's HTTP requests.
type Server struct {
	Deps
	readings readings
	echo     *echo.Echo
	handler  http.Handler
	hub      *hub
	build    string // of the assets and the program

	past atomic.Pointer[Server] // of the moment that was looked at last

	// Of a console at a past moment; see past.go.
	moment  time.Time // zero is now
	present *Server   // nil for the console of now
}

// New builds the server and starts nothing: Handler answers requests, Run feeds
// the live streams.
func New(d Deps) *Server {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Interval <= 0 {
		d.Interval = time.Second
	}
	if d.Columns == nil {
		d.Columns = func(fleet.Kind) (names, units []string) { return nil, nil }
	}
	if d.Operator == "" {
		d.Operator = "operator"
	}
	d.Log = d.Log.With("component", "web")
	s := &Server{Deps: d, echo: echo.New(), build: d.Version + "-" + static.Build()}
	s.hub = newHub(s)
	e := s.echo
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = s.fail
	e.Use(
		s.observe,
		middleware.RecoverWithConfig(middleware.RecoverConfig{
			DisablePrintStack: true,
			LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
				s.Log.ErrorContext(c.Request().Context(), "handler panicked", "err", err, "path", c.Request().URL.Path, "stack", string(stack))
				return err
			},
		}),
		s.guard,
		middleware.BodyLimit(maxBody),
		middleware.GzipWithConfig(middleware.GzipConfig{Skipper: raw, MinLength: 1024}),
		limitTime,
	)
	s.routes(e)
	e.Use(s.travel)

	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := e.NewContext(r, w)
		headers(w.Header())
		s.fail(&crossOrigin{}, c)
	}))
	s.handler = heads(cross.Handler(e))
	return s
}

// Handler is the whole console. The http.Server around it should set
// ReadHeaderTimeout, and end the context of Run before its own shutdown.
func (s *Server) Handler() http.Handler { return s.handler }

// Run renders what the open live streams show, once a second for all of them,
// until ctx ends; then the streams end too and it returns nil.
func (s *Server) Run(ctx context.Context) error { return s.hub.run(ctx) }

// raw are the answers that compress themselves or must not be held back.
func raw(c echo.Context) bool {
	p := c.Request().URL.Path
	return p == "/live" || strings.HasPrefix(p, static.Prefix)
}

// limitTime gives every request a deadline, but a stream and an export, which end
// when their reader takes nothing any more.
func limitTime(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if p := c.Request().URL.Path; p == "/live" || p == exportPath {
			return next(c)
		}
		r := c.Request()
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		c.SetRequest(r.WithContext(ctx))
		defer c.SetRequest(r) // an error page is still to be rendered, when that time is over
		return next(c)
	}
}

// heads answers HEAD as GET; net/http leaves the body out.
func heads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			r = r.Clone(r.Context())
			r.Method = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

const requestID = "request_id"

// observe names the request and writes the access log.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		id := nuid.Next()
		c.Set(requestID, id)
		c.Response().Header().Set("X-Request-Id", id)
		if err := next(c); err != nil {
			c.Error(err) // answers now, so that the status is known below
		}
		s.Log.DebugContext(c.Request().Context(), "request",
			"request_id", id, "method", c.Request().Method, "path", c.Request().URL.Path,
			"status", c.Response().Status, "bytes", c.Response().Size, "took", time.Since(began), "remote", c.RealIP())
		return nil
	}
}

// guard sets the security headers and refuses a Host that is not ours: a page
// of a foreign name that was rebound to this address must not read the console.
func (s *Server) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		headers(c.Response().Header())
		if !s.ours(c.Request().Host) && !probe(c.Request().URL.Path) && !scrape(c.Request()) {
			return echo.NewHTTPError(http.StatusMisdirectedRequest, "This console does not answer for the name "+c.Request().Host+".")
		}
		return next(c)
	}
}

func headers(h http.Header) {
	h.Set("Content-Security-Policy", csp)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-XSS-Protection", "0")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Cache-Control", "no-cache")
}

func (s *Server) ours(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() {
		return true
	}
	return slices.ContainsFunc(s.Hosts, func(h string) bool {
		return strings.EqualFold(h, host) || strings.EqualFold(h, name)
	})
}

// crossOrigin is a change asked for by a page of somebody else.
type crossOrigin struct{}

func (*crossOrigin) Error() string { return "cross-origin request refused" }
