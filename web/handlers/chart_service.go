package handlers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"ballast/fleet"
)

// endLines is how many endpoints have a line of their own.
const endLines = 6

func microEntity(a chartArgs) fleet.Entity {
	return fleet.MicroEntity(a.consumer.Account, a.service)
}

// endChart draws one line for each endpoint of a service, the busiest if there
// are too many.
func endChart(title, unit, note string, of func(s *Server, ctx context.Context, e fleet.Entity, a chartArgs) (line, error)) func(*Server, context.Context, chartArgs) (chart, error) {
	return func(s *Server, ctx context.Context, a chartArgs) (chart, error) {
		c := chart{title: title, unit: unit, note: note, hint: "by endpoint"}
		var ends []serviceEnd
		if v := s.serviceNamed(a.consumer.Account, a.service); v != nil {
			ends = v.ends
		}
		if len(ends) > endLines {
			ends = slices.Clone(ends)
			slices.SortStableFunc(ends, func(a, b serviceEnd) int { return cmp.Compare(b.Requests, a.Requests) })
			ends = ends[:endLines]
			slices.SortFunc(ends, func(a, b serviceEnd) int { return strings.Compare(a.Name, b.Name) })
			c.note += fmt.Sprintf(" The %d endpoints with the most requests are drawn.", endLines)
		}
		if len(ends) == 0 { // none that answers now: what is recorded of the service as a whole
			l, err := of(s, ctx, microEntity(a), a)
			if err != nil {
				return chart{}, fmt.Errorf("service %s: %w", a.service, err)
			}
			l.label, l.color = "all endpoints", targetColor(0)
			c.lines, c.hint = []line{l}, ""
			return c, nil
		}
		for i, e := range ends {
			l, err := of(s, ctx, fleet.EndpointEntity(a.consumer.Account, a.service, e.Name), a)
			if err != nil {
				return chart{}, fmt.Errorf("endpoint %s: %w", e.Name, err)
			}
			l.label, l.color = cmp.Or(e.Name, none), targetColor(i)
			c.lines = append(c.lines, l)
		}
		return c, nil
	}
}

func endColumn(column string) func(*Server, context.Context, fleet.Entity, chartArgs) (line, error) {
	return func(s *Server, ctx context.Context, e fleet.Entity, a chartArgs) (line, error) {
		l, _, err := s.series(ctx, e, column, a)
		return l, err
	}
}

// endTime is the mean time of the requests that were answered in each step: the
// time that was spent by the number of them. A step without a request has none.
func endTime(s *Server, ctx context.Context, e fleet.Entity, a chartArgs) (line, error) {
	spent, _, err := s.series(ctx, e, fleet.ColServing, a)
	if err != nil {
		return line{}, err
	}
	served, _, err := s.series(ctx, e, fleet.ColServed, a)
	if err != nil {
		return line{}, err
	}
	for i := range served.data {
		if served.data[i].avg <= 0 {
			served.data[i].n = 0
		}
	}
	spent.data = combine(spent, served, func(us, n float64) float64 { return us / n / 1000 })
	return spent, nil
}
