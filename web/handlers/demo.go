package handlers

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/web/templates"
)

// demoRoutes exist only in the demo.
func demoRoutes(s *Server, e *echo.Echo) {
	if s.Demo == nil {
		return
	}
	e.GET("/demo", s.showDemo)
	act := func(path string, f func(c echo.Context) error) {
		e.POST("/demo/"+path, func(c echo.Context) error {
			if err := f(c); err != nil {
				return s.demoAnswer(c, statusOf[fleet.KindOf(err)], err)
			}
			if wantsPart(c.Request()) {
				return s.demoAnswer(c, http.StatusOK, nil)
			}
			return seeOther(c, "/demo")
		})
	}
	act("slow", func(c echo.Context) error {
		t, err := s.demoTarget(c)
		if err != nil {
			return err
		}
		f, err := strconv.ParseFloat(c.FormValue("factor"), 64)
		if err != nil || !slices.ContainsFunc(slowness, func(x float64) bool { return x == f }) {
			return &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such service time.", Hint: "Choose one of the buttons."}
		}
		return s.Demo.Slow(t, f)
	})
	act("stop", func(c echo.Context) error { return s.onTarget(c, s.Demo.StopTarget) })
	act("start", func(c echo.Context) error { return s.onTarget(c, s.Demo.StartTarget) })
	act("kill", func(c echo.Context) error { return s.onServer(c, s.Demo.KillServer) })
	act("restart", func(c echo.Context) error { return s.onServer(c, s.Demo.RestartServer) })
	act("rate", func(c echo.Context) error {
		switch c.FormValue("factor") {
		case "1":
			return s.Demo.SetRate(s.Demo.State().NormalRate)
		case "2":
			return s.Demo.SetRate(2 * s.Demo.State().NormalRate)
		}
		return &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such load.", Hint: "Choose normal or double."}
	})
}

// slowness are the service times to choose from, as multiples of normal.
var slowness = []float64{1, 2, 4, 8, 20}

func (s *Server) demoTarget(c echo.Context) (string, error) {
	name := c.FormValue("target")
	if !slices.ContainsFunc(s.Demo.State().Targets, func(t DemoTarget) bool { return t.Name == name }) {
		return "", &fleet.Error{Kind: fleet.Invalid, Msg: "The demo has no such target."}
	}
	return name, nil
}

func (s *Server) onTarget(c echo.Context, f func(string) error) error {
	name, err := s.demoTarget(c)
	if err != nil {
		return err
	}
	return f(name)
}

func (s *Server) onServer(c echo.Context, f func(string) error) error {
	name := c.FormValue("server")
	if !slices.ContainsFunc(s.Demo.State().Servers, func(v DemoServer) bool { return v.Name == name }) {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The demo has no such server."}
	}
	return f(name)
}

func (s *Server) showDemo(c echo.Context) error { return s.demoAnswer(c, http.StatusOK, nil) }

func (s *Server) demoAnswer(c echo.Context, status int, err error) error {
	v := s.demoView()
	if err != nil {
		if fleet.KindOf(err) == fleet.Internal {
			s.Log.ErrorContext(c.Request().Context(), "demo fault was not injected", "err", err)
			v.Wrong = "That did not work; the log of the console says why."
		} else {
			f := fault(err)
			v.Wrong = f.Title + " " + f.Hint
		}
	}
	f := s.frame(c, "Demo faults", "")
	f.Demo = false // the page is the drawer
	return showAs(c, status, templates.DemoPage(f, v), templates.DemoDrawer(v, true))
}

func (s *Server) demoView() templates.Demo {
	st := s.Demo.State()
	v := templates.Demo{Rate: figure(st.Rate, "msg/s"), Normal: figure(st.NormalRate, "msg/s"), Doubled: st.Rate > 1.5*st.NormalRate, Published: countWords(st.Published), Failed: countWords(st.Failed)}
	for _, t := range st.Targets {
		row := templates.DemoTarget{Name: t.Name, Running: t.Running, Tone: "ok", Status: plural(t.Workers, "worker", "workers") + ", normal"}
		switch {
		case !t.Running:
			row.Tone, row.Status = "crit", "stopped"
		case t.Factor > 1:
			row.Tone, row.Status = "warn", plural(t.Workers, "worker", "workers")+", "+figure(t.Factor, "")+" times slower"
		}
		for _, f := range slowness {
			label := "×" + figure(f, "")
			if f == 1 {
				label = "Normal"
			}
			row.Factors = append(row.Factors, templates.DemoFactor{Label: label, Value: figure(f, ""), Current: t.Factor == f})
		}
		v.Targets = append(v.Targets, row)
	}
	for _, sv := range st.Servers {
		row := templates.DemoServer{Name: sv.Name, Running: sv.Running, Tone: "ok", Status: "running"}
		if !sv.Running {
			row.Tone, row.Status = "crit", "killed"
		}
		v.Servers = append(v.Servers, row)
	}
	return v
}
