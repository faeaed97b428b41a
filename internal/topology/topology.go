// Package topology decides where the servers, clusters and links of a NATS
// system stand on a map. The same system always gets the same map, and a
// restart moves nothing: places follow persisted slots, not the order in which
// servers happen to answer. It knows geometry only; it draws nothing, formats
// nothing and judges nothing but what is missing from a full mesh.
package topology

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
)

// Point on the map, in user units: at most about one CSS pixel.
type Point struct{ X, Y float64 }

// Map is the laid-out system.
type Map struct {
	X, Y, W, H float64 // the view box
	Clusters   []*Cluster
	Gateways   []Gateway
	Compact    bool // many clusters: draw quietly
	Detailed   bool // few servers: there is room for names
}

// Cluster is a ring of servers.
type Cluster struct {
	Key      string // "" for servers outside any cluster
	Center   Point
	Ring     float64 // radius on which the servers stand
	Radius   float64 // of the disc
	Node     float64 // radius of a server
	Side     int     // where the leafs stand: -1 left, +1 right
	Servers  []Node
	Leafs    []Leaf
	MoreLeaf int // leafs beyond those drawn
	// Routes that exist between pairs of its servers, and pairs there are.
	Routes, Pairs int
	Seen          bool // false: only known from a gateway that points to it
}

// Node is a server on the ring.
type Node struct {
	Server *fleet.Server
	At     Point
	Angle  float64 // on the ring, 0 is east, growing clockwise
	Label  string  // short: the number at the end of its name, or its place
}

// Leaf is a leaf node in the column beside its cluster.
type Leaf struct {
	Leaf *fleet.Leaf
	At   Point
	Path string // from the rim of the cluster
}

// Gateway is the link between two clusters, both directions together.
type Gateway struct {
	From, To *Cluster
	// Connections that exist, and that a full set has: each server of either
	// cluster keeps one to the other cluster.
	Up, Want int
	Links    []*fleet.Gateway
	RTT      time.Duration // the shortest measured
	Path     string
	Label    Point
}

const (
	leafRow     = 22.0
	leafColumn  = 122.0 // room for a name
	leafGap     = 34.0  // between the rim and the markers
	maxLeafs    = 6
	minWidth    = 860.0
	minHeight   = 480.0
	aspect      = 1.45 // of the ellipse: screens are wider than high
	discPadding = 10.0
	// detailLimit is how many servers have room for their names on one ring.
	detailLimit = 7
)

// ServerKey, ClusterKey and LeafKey name what has a slot.
func ServerKey(s fleet.Server) string { return "server/" + s.Cluster + "/" + s.Name }

// ClusterKey names a cluster's slot.
func ClusterKey(name string) string { return "cluster/" + name }

// Keys lists everything on the map that has a slot, in a stable order.
func Keys(s *fleet.Snapshot) []string {
	var keys []string
	for _, c := range clusterNames(s) {
		keys = append(keys, ClusterKey(c))
	}
	servers := make([]string, len(s.Servers))
	for i, srv := range s.Servers {
		servers[i] = ServerKey(srv)
	}
	slices.SortFunc(servers, natural)
	return append(keys, servers...)
}

// natural orders names as people do: n2 before n10.
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is the length of the run of digits at the beginning of s.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}

func clusterNames(s *fleet.Snapshot) []string {
	var names []string
	for _, srv := range s.Servers {
		names = append(names, srv.Cluster)
	}
	for _, g := range s.Gateways {
		names = append(names, g.FromCluster, g.ToCluster)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Layout places everything. A key without a slot stands after all that have
// one, by name.
func Layout(s *fleet.Snapshot, slots map[string]int) *Map {
	m := &Map{}
	byName := map[string]*Cluster{}
	bySlot := func(a, b string) int {
		sa, oka := slots[a]
		sb, okb := slots[b]
		switch {
		case oka && okb && sa != sb:
			return cmp.Compare(sa, sb)
		case oka != okb:
			if oka {
				return -1
			}
			return 1
		}
		return cmp.Or(natural(a, b), strings.Compare(a, b))
	}
	for _, name := range clusterNames(s) {
		c := &Cluster{Key: name}
		byName[name] = c
		m.Clusters = append(m.Clusters, c)
	}
	slices.SortFunc(m.Clusters, func(a, b *Cluster) int { return bySlot(ClusterKey(a.Key), ClusterKey(b.Key)) })

	ids := make(map[string]*fleet.Server, len(s.Servers))
	for i := range s.Servers {
		srv := &s.Servers[i]
		c := byName[srv.Cluster]
		c.Seen = true
		c.Servers = append(c.Servers, Node{Server: srv})
		if srv.ID != "" {
			ids[srv.ID] = srv
		}
	}
	for _, c := range m.Clusters {
		slices.SortFunc(c.Servers, func(a, b Node) int {
			return bySlot(ServerKey(*a.Server), ServerKey(*b.Server))
		})
		number(c.Servers)
	}
	for i := range s.Leafs {
		l := &s.Leafs[i]
		if srv := ids[l.Server]; srv != nil {
			c := byName[srv.Cluster]
			c.Leafs = append(c.Leafs, Leaf{Leaf: l})
		}
	}
	for _, c := range m.Clusters {
		slices.SortFunc(c.Leafs, func(a, b Leaf) int {
			return cmp.Or(strings.Compare(a.Leaf.Name, b.Leaf.Name), strings.Compare(a.Leaf.Account, b.Leaf.Account))
		})
		if n := len(c.Leafs); n > maxLeafs {
			c.MoreLeaf = n - (maxLeafs - 1)
			c.Leafs = c.Leafs[:maxLeafs-1]
		}
	}
	countRoutes(s, byName, ids)

	m.Detailed = len(m.Clusters) == 1 && len(s.Servers) <= detailLimit
	m.Compact = len(m.Clusters) > 6
	for _, c := range m.Clusters {
		c.size(m.Detailed)
	}
	m.place()
	for _, c := range m.Clusters {
		c.placeServers()
		c.placeLeafs()
	}
	m.connect(s, byName, ids)
	m.frame()
	return m
}

// number labels servers by the number at the end of their names where these
// tell them apart, since that is what operators call them, and by their place
// on the ring otherwise.
func number(nodes []Node) {
	taken := map[string]bool{}
	clear := true
	for i := range nodes {
		name := nodes[i].Server.Name
		digits := name[len(strings.TrimRight(name, "0123456789")):]
		digits = strings.TrimLeft(digits, "0")
		if digits == "" || len(digits) > 3 || taken[digits] {
			clear = false
			break
		}
		taken[digits] = true
		nodes[i].Label = digits
	}
	if clear {
		return
	}
	for i := range nodes {
		nodes[i].Label = fmt.Sprint(i + 1)
	}
}

// countRoutes counts pairs of servers of a cluster between which at least one
// of the two reports a route. A server that does not answer reports nothing
// that is still true.
func countRoutes(s *fleet.Snapshot, clusters map[string]*Cluster, ids map[string]*fleet.Server) {
	type pair struct{ a, b *fleet.Server }
	names := make(map[[2]string]*fleet.Server, len(s.Servers))
	for i := range s.Servers {
		srv := &s.Servers[i]
		names[[2]string{srv.Cluster, srv.Name}] = srv
	}
	seen := map[pair]bool{}
	for _, r := range s.Routes {
		from := ids[r.From]
		if from == nil || from.State == fleet.Unreachable {
			continue
		}
		to := ids[r.To]
		if to == nil {
			to = names[[2]string{from.Cluster, r.ToName}]
		}
		if to == nil || to == from || to.Cluster != from.Cluster {
			continue
		}
		p := pair{from, to}
		if strings.Compare(from.Name, to.Name) > 0 {
			p = pair{to, from}
		}
		if !seen[p] {
			seen[p] = true
			clusters[from.Cluster].Routes++
		}
	}
	for name, c := range clusters {
		if n := len(c.Servers); name != "" {
			c.Pairs = n * (n - 1) / 2
		}
	}
}

// size sets the radii. The ring grows in steps of four servers, so that one
// more does not usually change the size of the disc, and with it the map.
func (c *Cluster) size(detailed bool) {
	n := (len(c.Servers) + 3) / 4 * 4
	switch {
	case detailed:
		c.Node, c.Ring = 30, 138
	case n > 12:
		c.Node = 11
		c.Ring = max(62, float64(n)*(2*c.Node+8)/(2*math.Pi))
	default:
		c.Node = 13
		c.Ring = max(66, float64(n)*(2*c.Node+8)/(2*math.Pi))
	}
	c.Radius = c.Ring + c.Node + discPadding
	if detailed {
		c.Radius = c.Ring + c.Node + 22 // for the names
	}
}

type box struct{ x0, y0, x1, y1 float64 }

func (a box) meets(b box) bool { return a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1 }

// boxes are what the cluster covers: the square around its disc, and then its
// leafs if it has any.
func (c *Cluster) boxes() []box {
	const air = 14
	b := []box{{c.Center.X - c.Radius - air, c.Center.Y - c.Radius - air, c.Center.X + c.Radius + air, c.Center.Y + c.Radius + air}}
	if rows := len(c.Leafs); rows > 0 {
		h := float64(rows+1)*leafRow/2 + 8
		x0, x1 := c.Center.X+c.Radius, c.Center.X+c.Radius+leafGap+leafColumn
		if c.Side < 0 {
			x0, x1 = c.Center.X-c.Radius-leafGap-leafColumn, c.Center.X-c.Radius
		}
		b = append(b, box{x0, c.Center.Y - h, x1, c.Center.Y + h})
	}
	return b
}

// place puts the clusters on an ellipse, clockwise from the left, as small as
// they fit. The radius grows in coarse steps: a cluster that grows a little
// leaves the others where they are.
func (m *Map) place() {
	k := len(m.Clusters)
	if k == 0 {
		return
	}
	if k == 1 {
		m.Clusters[0].Side = 1
		return
	}
	start := math.Pi
	if k > 2 {
		start += math.Pi / float64(k)
	}
	gap := 96.0 // room for the gateways and what is written on them
	if m.Compact {
		gap = 30
	}
	for r := 80.0; ; r *= 1.04 {
		for i, c := range m.Clusters {
			a := start + 2*math.Pi*float64(i)/float64(k)
			c.Center = Point{math.Cos(a) * r * aspect, math.Sin(a) * r}
			c.Side = 1
			if c.Center.X < -1 {
				c.Side = -1
			}
		}
		if m.fits(gap) {
			return
		}
	}
}

func (m *Map) fits(gap float64) bool {
	const air = 12 // between a disc and the leafs of another cluster
	for i, a := range m.Clusters {
		for _, b := range m.Clusters[i+1:] {
			if math.Hypot(a.Center.X-b.Center.X, a.Center.Y-b.Center.Y)-a.Radius-b.Radius < gap {
				return false
			}
			la, lb := a.boxes()[1:], b.boxes()[1:]
			for _, box := range la {
				if box.distance(b.Center) < b.Radius+air {
					return false
				}
			}
			for _, box := range lb {
				if box.distance(a.Center) < a.Radius+air {
					return false
				}
			}
			if len(la) > 0 && len(lb) > 0 && la[0].meets(lb[0]) {
				return false
			}
		}
	}
	return true
}

// distance is 0 inside the box.
func (b box) distance(p Point) float64 {
	return math.Hypot(max(b.x0-p.X, 0, p.X-b.x1), max(b.y0-p.Y, 0, p.Y-b.y1))
}

func (c *Cluster) placeServers() {
	n := len(c.Servers)
	for i := range c.Servers {
		a := -math.Pi/2 + 2*math.Pi*float64(i)/float64(n)
		c.Servers[i].Angle = a
		c.Servers[i].At = Point{c.Center.X + c.Ring*math.Cos(a), c.Center.Y + c.Ring*math.Sin(a)}
	}
}

func (c *Cluster) placeLeafs() {
	rows := len(c.Leafs)
	if c.MoreLeaf > 0 {
		rows++
	}
	side := float64(c.Side)
	for i := range c.Leafs {
		at := Point{c.Center.X + side*(c.Radius+leafGap), c.Center.Y + (float64(i)-float64(rows-1)/2)*leafRow}
		a := math.Atan2(at.Y-c.Center.Y, c.Radius+leafGap) * 0.85
		rim := Point{c.Center.X + side*c.Radius*math.Cos(a), c.Center.Y + c.Radius*math.Sin(a)}
		mid := (rim.X + at.X) / 2
		c.Leafs[i].At = at
		c.Leafs[i].Path = fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f",
			rim.X, rim.Y, mid, rim.Y, mid, at.Y, at.X-side*7, at.Y)
	}
}

// MoreAt is where "+n more" stands.
func (c *Cluster) MoreAt() Point {
	return Point{c.Center.X + float64(c.Side)*(c.Radius+leafGap), c.Center.Y + (float64(len(c.Leafs))-float64(len(c.Leafs))/2)*leafRow}
}

func (m *Map) connect(s *fleet.Snapshot, clusters map[string]*Cluster, ids map[string]*fleet.Server) {
	index := make(map[*Cluster]int, len(m.Clusters))
	for i, c := range m.Clusters {
		index[c] = i
	}
	links := map[[2]int][]*fleet.Gateway{}
	for i := range s.Gateways {
		g := &s.Gateways[i]
		if srv := ids[g.From]; srv != nil && srv.State == fleet.Unreachable {
			continue
		}
		a, b := index[clusters[g.FromCluster]], index[clusters[g.ToCluster]]
		if a != b {
			key := [2]int{min(a, b), max(a, b)}
			links[key] = append(links[key], g)
		}
	}
	for a := range m.Clusters {
		for b := a + 1; b < len(m.Clusters); b++ {
			if l := links[[2]int{a, b}]; l != nil {
				m.Gateways = append(m.Gateways, m.gateway(m.Clusters[a], m.Clusters[b], l))
			}
		}
	}
}

func (m *Map) gateway(a, b *Cluster, links []*fleet.Gateway) Gateway {
	g := Gateway{From: a, To: b, Links: links, Up: len(links)}
	for _, c := range []*Cluster{a, b} {
		for _, n := range c.Servers {
			if n.Server.State != fleet.Unreachable {
				g.Want++
			}
		}
	}
	for _, l := range links {
		if l.RTT > 0 && (g.RTT == 0 || l.RTT < g.RTT) {
			g.RTT = l.RTT
		}
	}
	// The curve bends to the middle of the map, so that it keeps clear of the
	// clusters between its ends.
	bend := 0.30
	if len(m.Clusters) <= 3 {
		bend = 0.12
	}
	mid := Point{(a.Center.X + b.Center.X) / 2 * (1 - bend), (a.Center.Y + b.Center.Y) / 2 * (1 - bend)}
	if len(m.Clusters) == 2 {
		mid.Y -= 30
	}
	p, q := a.rim(mid), b.rim(mid)
	g.Path = fmt.Sprintf("M%.1f %.1fQ%.1f %.1f %.1f %.1f", p.X, p.Y, mid.X, mid.Y, q.X, q.Y)
	g.Label = curve(p, mid, q, 0.5)
	// Curves through the very middle would write their labels over each other.
	if math.Hypot(g.Label.X, g.Label.Y) < 30 && len(m.Clusters) > 2 {
		g.Label = curve(p, mid, q, 0.32)
	}
	return g
}

func (c *Cluster) rim(to Point) Point {
	d := math.Hypot(to.X-c.Center.X, to.Y-c.Center.Y)
	if d < 1 {
		return c.Center
	}
	k := (c.Radius + 2) / d
	return Point{c.Center.X + (to.X-c.Center.X)*k, c.Center.Y + (to.Y-c.Center.Y)*k}
}

// curve is the point at t of a quadratic Bézier curve.
func curve(p, c, q Point, t float64) Point {
	u := 1 - t
	return Point{u*u*p.X + 2*u*t*c.X + t*t*q.X, u*u*p.Y + 2*u*t*c.Y + t*t*q.Y}
}

// frame sets the view box. A small system is never blown up: three servers
// that fill the screen tell no more than three servers that do not.
func (m *Map) frame() {
	all := box{math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)}
	for _, c := range m.Clusters {
		for _, b := range c.boxes() {
			all = box{min(all.x0, b.x0), min(all.y0, b.y0), max(all.x1, b.x1), max(all.y1, b.y1)}
		}
	}
	if len(m.Clusters) == 0 {
		all = box{}
	}
	m.X, m.Y, m.W, m.H = all.x0-10, all.y0-24, all.x1-all.x0+20, all.y1-all.y0+48
	if m.W < minWidth {
		m.X, m.W = m.X-(minWidth-m.W)/2, minWidth
	}
	if m.H < minHeight {
		m.Y, m.H = m.Y-(minHeight-m.H)/2, minHeight
	}
}
