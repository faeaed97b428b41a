package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/templates"
)

func suggestionRoutes(s *Server, e *echo.Echo) {
	page(e, "/suggestions", s.listSuggestions)
	e.GET("/suggestions/:id", s.showSuggestion)
	e.POST("/suggestions/:id/approve", s.approve)
	e.POST("/suggestions/:id/dismiss", s.dismiss)
}

func suggestionURL(id string) string { return "/suggestions/" + url.PathEscape(id) }

func (s *Server) openProposal(split string) (traffic.Proposal, bool) {
	for _, p := range s.Control.Proposals(split, 20) {
		if p.Status == traffic.Open {
			return p, true
		}
	}
	return traffic.Proposal{}, false
}

var proposalStates = []struct {
	key, label string
	status     traffic.ProposalStatus
}{
	{"", "All", ""}, {"open", "Open", traffic.Open}, {"applied", "Applied", traffic.Applied}, {"dismissed", "Dismissed", traffic.Dismissed},
	{"expired", "Expired", traffic.Lapsed}, {"superseded", "Superseded", traffic.Superseded},
}

// filtered lists the proposals that a URL asks for.
func (s *Server) filtered(c echo.Context) ([]traffic.Proposal, error) {
	state := c.QueryParam("state")
	i := slices.IndexFunc(proposalStates, func(st struct {
		key, label string
		status     traffic.ProposalStatus
	}) bool {
		return st.key == state
	})
	if i < 0 {
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such state of a suggestion.", Hint: "Choose open, applied, dismissed, expired or superseded."}
	}
	all := s.Control.Proposals(c.QueryParam("split"), 100)
	if want := proposalStates[i].status; want != "" {
		all = slices.DeleteFunc(slices.Clone(all), func(p traffic.Proposal) bool { return p.Status != want })
	}
	return all, nil
}

func (s *Server) listSuggestions(c echo.Context) error {
	all, err := s.filtered(c)
	if err != nil {
		return err
	}
	if format(c) != "" {
		return s.export(c, "suggestions", suggestionColumns, suggestionTable(all), all)
	}
	v := s.suggestionsView(c, all)
	if len(all) > 0 {
		sel := s.suggestionView(all[0])
		v.Selected = &sel
	}
	return s.showSuggestions(c, http.StatusOK, v)
}

func (s *Server) showSuggestions(c echo.Context, status int, v templates.Suggestions) error {
	f := withLive(s.frame(c, "Suggestions", navSuggestions), topicSuggestions)
	return showAs(c, status, templates.SuggestionsPage(f, v), templates.SuggestionsPage(f, v))
}

func (s *Server) suggestionsView(c echo.Context, all []traffic.Proposal) templates.Suggestions {
	q := url.Values{}
	for _, k := range []string{"state", "split"} {
		if v := c.QueryParam(k); v != "" {
			q.Set(k, v)
		}
	}
	v := templates.Suggestions{JSON: withQuery("/suggestions.json", q), CSV: withQuery("/suggestions.csv", q), Empty: "No suggestion yet", Whole: s.suggestionsShape()}
	for _, st := range proposalStates {
		u := "/suggestions"
		if st.key != "" {
			u += "?state=" + st.key
		}
		v.States = append(v.States, templates.Choice{Label: st.label, URL: u, Current: st.key == c.QueryParam("state")})
		if st.key == c.QueryParam("state") && st.key != "" {
			v.Empty = "No " + strings.ToLower(st.label) + " suggestion"
		}
	}
	for _, p := range all {
		v.Rows = append(v.Rows, s.suggestionView(p))
	}
	for _, r := range s.Control.Splits() {
		d, ok := s.Control.Decision(r.Split.Name)
		if ok && d.Proposal == nil && d.Why != "" {
			v.Holds = append(v.Holds, templates.Hold{Split: r.Split.Name, URL: splitURL(r.Split.Name), Why: d.Why, Vetoes: d.Vetoes, At: s.when(d.At)})
		}
	}
	return v
}

// suggestionsShape changes when a suggestion comes or changes its state.
func (s *Server) suggestionsShape() string {
	var b strings.Builder
	for _, p := range s.Control.Proposals("", 100) {
		fmt.Fprint(&b, p.ID, " ", p.Status, " ")
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}

func (s *Server) suggestionsTopic(context.Context, string) (update, error) {
	return update{Data: whole{s.suggestionsShape()}}, nil
}

func (s *Server) showSuggestion(c echo.Context) error {
	return s.suggestionPage(c, http.StatusOK, "", "")
}

// suggestionPage shows one suggestion; reason and wrong are its form as typed.
func (s *Server) suggestionPage(c echo.Context, status int, reason, wrong string) error {
	id := c.Param("id")
	asJSON := strings.HasSuffix(id, ".json")
	p, err := s.Control.Proposal(strings.TrimSuffix(id, ".json"))
	if err != nil {
		return err
	}
	if asJSON {
		return s.export(c, "suggestion-"+p.ID, suggestionColumns, suggestionTable([]traffic.Proposal{p}), p)
	}
	v := s.suggestionsView(c, s.Control.Proposals("", 100))
	sel := s.suggestionView(p)
	sel.Reason, sel.Wrong = reason, wrong
	if rev, err := s.Control.Split(p.Split); err == nil && sel.Open && !sel.Stale {
		to := map[string]int{}
		for _, m := range p.Moves {
			to[m.Target] = m.To
		}
		sel.Keys = keyMoves(rev.Split, rev.Split.WithWeights(to))
	}
	v.Selected = &sel
	return s.showSuggestions(c, status, v)
}

func (s *Server) approve(c echo.Context) error {
	return s.decide(c, func(id, reason string) (string, error) {
		ch, err := s.Control.Approve(c.Request().Context(), id, s.Operator, reason)
		return splitURL(ch.Split), err
	})
}

func (s *Server) dismiss(c echo.Context) error {
	return s.decide(c, func(id, reason string) (string, error) {
		return "/suggestions", s.Control.Dismiss(c.Request().Context(), id, s.Operator, reason)
	})
}

// decide reads the reason, acts, and shows the form again when that is refused.
func (s *Server) decide(c echo.Context, act func(id, reason string) (next string, err error)) error {
	in := weightsInput{reason: strings.TrimSpace(c.FormValue("reason")), wrong: map[string]string{}}
	in.checkReason()
	if wrong := in.wrong["reason"]; wrong != "" {
		return s.suggestionPage(c, http.StatusUnprocessableEntity, in.reason, wrong)
	}
	next, err := act(c.Param("id"), in.reason)
	if err == nil {
		return seeOther(c, next)
	}
	general, status, ok := blame(err, in.wrong)
	if !ok {
		return err
	}
	return s.suggestionPage(c, status, in.reason, general)
}

var confidenceBars = map[traffic.Confidence]int{traffic.Low: 1, traffic.Medium: 3, traffic.High: 5}

func (s *Server) suggestionView(p traffic.Proposal) templates.Suggestion {
	v := templates.Suggestion{
		ID: p.ID, URL: suggestionURL(p.ID), Split: p.Split, SplitURL: splitURL(p.Split), Title: p.Title, Why: sentences(p.Why),
		Status: templates.Status{Tone: proposalTone(p.Status), Word: string(p.Status)}, Open: p.Status == traffic.Open, At: s.when(p.At),
		Expires: millis(p.Expires), ExpiresAt: s.when(p.Expires), Base: strconv.FormatUint(p.Base, 10), Window: "over " + ago(p.Window) + ", until " + p.At.UTC().Format("15:04:05 UTC"),
		Confidence: string(p.Confidence), Bars: confidenceBars[p.Confidence], Guards: p.Guards, Law: string(p.Law), Kind: p.Kind,
		Closed: s.when(p.ClosedAt), ClosedBy: p.ClosedBy, Approve: suggestionURL(p.ID) + "/approve", Dismiss: suggestionURL(p.ID) + "/dismiss",
		OpenIn:   splitURL(p.Split) + "?proposal=" + url.QueryEscape(p.ID) + "#weights",
		Measured: "The figures before are measured; those after follow from the queueing model at the present rates.",
	}
	if rev, err := s.Control.Split(p.Split); err == nil && v.Open {
		v.Stale = rev.Number != p.Base
	}
	if err := s.Control.Ready(); err != nil {
		v.NotReady = fault(err).Title
	}
	if len(v.Why) > 0 {
		v.Lead = v.Why[0]
	}
	for _, m := range p.Moves {
		by := fmt.Sprintf("%+d", m.To-m.From)
		if m.LimitedBy != "" {
			by += " (limited by " + m.LimitedBy + ")"
		}
		v.Moves = append(v.Moves, templates.MoveRow{Name: m.Target, From: strconv.Itoa(m.From), To: strconv.Itoa(m.To), By: by, Up: m.To > m.From, Limited: m.LimitedBy})
	}
	for _, e := range p.Estimates {
		row := templates.EvidenceRow{Name: e.Target, Rate: figure(e.Rate, "msg/s"), Capacity: none, Load: none, Latency: latencyWords(e.Latency), P99: latencyWords(e.P99),
			Samples: countWords(e.Samples), Backlog: countWords(e.Backlog), Errors: percent(e.ErrorRate), Age: ago(e.Age), Quality: string(e.Quality), QualityTip: qualityWords(e.Quality),
			Workers: strconv.Itoa(e.Workers), Estimated: e.Estimated, Over: e.Utilization >= 1, Note: e.Note}
		if e.Capacity > 0 {
			row.Capacity, row.Load = figure(e.Capacity, "msg/s"), percent(e.Utilization)
		}
		if e.Quality == traffic.QualityNone {
			row.Quality = none
		}
		v.Evidence = append(v.Evidence, row)
	}
	pr := p.Predicted
	v.Predicted = []templates.EffectItem{latencyItem("ACK p99", pr.P99Before, pr.P99After), latencyItem("ACK mean", pr.MeanBefore, pr.MeanAfter)}
	if pr.RhoBefore > 0 {
		v.Predicted = append(v.Predicted, templates.EffectItem{Name: "Highest load", Before: percent(pr.RhoBefore), After: percent(pr.RhoAfter), Unit: "% of capacity", Better: pr.RhoAfter < pr.RhoBefore, Worse: pr.RhoAfter > pr.RhoBefore})
	}
	for _, a := range p.Alternatives {
		words := []string{}
		for _, e := range p.Estimates {
			if w, ok := a.Weights[e.Target]; ok {
				words = append(words, e.Target+" "+strconv.Itoa(w))
			}
		}
		v.Others = append(v.Others, templates.AlternativeRow{Law: string(a.Law), Weights: strings.Join(words, " · "), Load: percent(a.Rho)})
	}
	if p.Change != "" {
		if ch, err := s.Control.Change(p.Change); err == nil {
			row := s.changeRow(ch)
			v.Change = &row
		}
	}
	return v
}

// sentences cuts a text where a sentence ends.
func sentences(text string) []string {
	if text == "" {
		return nil
	}
	out := strings.SplitAfter(text, ". ")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

var suggestionColumns = []string{"id", "split", "base_revision", "at", "expires", "status", "kind", "law", "title", "why", "confidence", "target", "from_percent", "to_percent",
	"mean_before_ms", "mean_after_ms", "p99_before_ms", "p99_after_ms", "change", "closed_at", "closed_by"}

// suggestionTable has a row for each move.
func suggestionTable(all []traffic.Proposal) iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		for _, p := range all {
			moves := p.Moves
			if len(moves) == 0 {
				moves = []traffic.Move{{}}
			}
			for _, m := range moves {
				pr := p.Predicted
				if !yield([]any{p.ID, p.Split, p.Base, p.At, p.Expires, p.Status, p.Kind, p.Law, p.Title, p.Why, p.Confidence, m.Target, m.From, m.To,
					dur(pr.MeanBefore), dur(pr.MeanAfter), dur(pr.P99Before), dur(pr.P99After), p.Change, p.ClosedAt, p.ClosedBy}) {
					return
				}
			}
		}
	}
}

// dur leaves a duration out that was not measured.
func dur(d time.Duration) any {
	if d <= 0 {
		return nil
	}
	return d
}
