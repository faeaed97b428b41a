package handlers

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"ballast/web/static"
)

// routes are all URLs of the console.
func (s *Server) routes(e *echo.Echo) {
	e.GET(static.Prefix+"*", echo.WrapHandler(static.Handler()))
	e.GET("/favicon.ico", func(c echo.Context) error { return c.Redirect(http.StatusFound, static.URL("icon.svg")) })
	e.GET("/live", s.live)
	e.POST("/theme", s.setTheme)
	demoRoutes(s, e)
	metricsRoutes(s, e)
	healthRoutes(s, e)
	s.pages(e)
}

// pages are the URLs that show what is watched: now, or with ?at= as it was.
func (s *Server) pages(e *echo.Echo) {
	overviewRoutes(s, e)
	splitRoutes(s, e)
	suggestionRoutes(s, e)
	journalRoutes(s, e)
	findingRoutes(s, e)
	serverRoutes(s, e)
	streamRoutes(s, e)
	consumerRoutes(s, e)
	settingsRoutes(s, e)
	connectionRoutes(s, e)
	accountRoutes(s, e)
	serviceRoutes(s, e)
	topologyRoutes(s, e)
	chartRoutes(s, e)
	reportRoutes(s, e)
	exportRoutes(s, e)
	costRoutes(s, e)
}

// page adds a page's URL together with its .json and .csv twins, which the
// same handler answers; format tells it which is asked for.
func page(e *echo.Echo, path string, h echo.HandlerFunc) {
	e.GET(path, h)
	e.GET(path+".json", h)
	e.GET(path+".csv", h)
}
