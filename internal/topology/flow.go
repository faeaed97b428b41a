package topology

import (
	"fmt"
	"math"
)

// Flow is a split drawn beside a small map: its messages run from the hub
// through a lane for each target to the server that leads the target's
// consumer.
type Flow struct {
	Hub   Box
	Lanes []Lane
}

// Box is an upright rectangle.
type Box struct{ X, Y, W, H float64 }

// Lane is one target's way.
type Lane struct {
	Box
	In    string // from the hub to the lane
	Out   string // from the lane to its server; "" when nobody leads its consumer
	Width float64
}

const (
	hubW, hubH   = 132.0, 64.0
	laneW, laneH = 196.0, 62.0
	laneGap      = 14.0
	flowGap      = 64.0 // between hub, lanes and the ring
)

// Drawn reports whether the map has room to draw flows; on a larger one the
// shares stand at the servers themselves.
func (m *Map) Drawn() bool { return m.Detailed && len(m.Clusters) == 1 }

// Flow lays out a split's lanes to the left of the only cluster and widens the
// view. hosts are names of servers, "" for a target that nobody leads; shares
// are what each lane carries, 0 to 1.
func (m *Map) Flow(hosts []string, shares []float64) *Flow {
	c := m.Clusters[0]
	f := &Flow{}
	n := float64(len(hosts))
	left := c.Center.X - c.Radius - flowGap - laneW
	top := c.Center.Y - (n*laneH+(n-1)*laneGap)/2
	f.Hub = Box{left - flowGap - hubW, c.Center.Y - hubH/2, hubW, hubH}
	// The bands leave the hub side by side, as wide as what they carry.
	const full = 40.0
	at := f.Hub.Y + hubH/2 - full/2
	for i, host := range hosts {
		l := Lane{Box: Box{left, top + float64(i)*(laneH+laneGap), laneW, laneH}}
		l.Width = max(1.5, full*shares[i])
		y := at + full*shares[i]/2
		at += full * shares[i]
		l.In = band(Point{f.Hub.X + hubW, y}, Point{l.X, l.Y + laneH/2})
		for _, s := range c.Servers {
			if s.Server.Name == host {
				l.Out = c.reach(Point{l.X + laneW, l.Y + laneH/2}, s)
			}
		}
		f.Lanes = append(f.Lanes, l)
	}
	right := m.X + m.W
	m.X = min(m.X, f.Hub.X-16)
	// What the frame added to the right to keep the map in the middle is needed
	// no more.
	content := c.Center.X + c.Radius + 40
	for _, b := range c.boxes() {
		content = max(content, b.x1+10)
	}
	m.W = max(min(right, content)-m.X, minWidth)
	if low := top - 24; low < m.Y {
		m.H += 2 * (m.Y - low)
		m.Y = low
	}
	return f
}

func band(p, q Point) string {
	mid := (p.X + q.X) / 2
	return fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", p.X, p.Y, mid, p.Y, mid, q.Y, q.X, q.Y)
}

// reach leads from the left into a server. One on the far side is reached
// around the middle, where the cluster's name stands.
func (c *Cluster) reach(p Point, s Node) string {
	rim := c.Node + 7
	if s.At.X <= c.Center.X+1 {
		// From the left, a little from the side on which the server stands.
		a := math.Atan2(s.At.Y-c.Center.Y, 2*c.Ring)
		q := Point{s.At.X - rim*math.Cos(a), s.At.Y + rim*math.Sin(a)*0.6}
		return fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", p.X, p.Y, p.X+50, p.Y, q.X-70, q.Y, q.X, q.Y)
	}
	sign := 1.0
	if s.At.Y < c.Center.Y {
		sign = -1
	}
	pass := Point{c.Center.X, c.Center.Y + sign*max(46, math.Abs(s.At.Y-c.Center.Y)*0.8)}
	q := Point{s.At.X - rim, s.At.Y}
	return fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1fS%.1f %.1f %.1f %.1f",
		p.X, p.Y, p.X+60, p.Y, pass.X-110, pass.Y, pass.X, pass.Y, q.X-30, q.Y, q.X, q.Y)
}
