package handlers

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
)

// mappingRoutes serve the text by which servers carry out a split: for the
// operator's own configuration management, or for review. It holds no key.
func mappingRoutes(s *Server, e *echo.Echo) {
	e.GET("/splits/:name/mapping.conf", s.sendMapping(traffic.DriverMappingConfig, ".conf", "text/plain; charset=utf-8"))
	e.GET("/splits/:name/mapping.json", s.sendMapping(traffic.DriverMappingJWT, ".json", echo.MIMEApplicationJSON))
}

// mappingURL leads to the text, "" for a split that has none.
func mappingURL(sp traffic.Split) string {
	switch sp.Driver {
	case traffic.DriverMappingConfig:
		return splitURL(sp.Name) + "/mapping.conf"
	case traffic.DriverMappingJWT:
		return splitURL(sp.Name) + "/mapping.json"
	}
	return ""
}

func (s *Server) sendMapping(driver traffic.Driver, ext, contentType string) echo.HandlerFunc {
	return func(c echo.Context) error {
		name := c.Param("name")
		rev, err := s.Control.Split(name)
		if err != nil {
			return err
		}
		if rev.Split.Driver != driver {
			return &fleet.Error{Kind: fleet.NotFound, Msg: "Split " + name + " is not carried out like this.", Hint: "Its page has the download that fits its driver, if it has one."}
		}
		text, err := s.Control.Mapping(c.Request().Context(), name)
		if err != nil {
			return err
		}
		h := c.Response().Header()
		h.Set(echo.HeaderContentDisposition, `attachment; filename="`+fileName(name+"-mapping", s.Now(), ext)+`"`)
		return c.Blob(http.StatusOK, contentType, []byte(text))
	}
}
