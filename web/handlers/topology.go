package handlers

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/internal/topology"
	"ballast/traffic"
	"ballast/web/templates"
)

const topicTopology = "topology"

// busyCPU is the share of a server's cores above which it is marked: beyond it
// a burst of a fifth more traffic makes clients wait.
const busyCPU = 85.0

// topoArgs select what the map shows; all of it stands in the URL.
type topoArgs struct {
	mode   string // links, traffic, streams
	split  string
	server string
	filter string
}

func (a topoArgs) url(path string) string {
	q := url.Values{}
	for k, v := range map[string]string{"overlay": a.mode, "split": a.split, "server": a.server, "q": a.filter} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// with returns the URL of the page with one thing changed.
func (a topoArgs) with(change func(*topoArgs)) string {
	change(&a)
	return a.url("/topology")
}

// scene is everything that the map is drawn from, looked up once.
type scene struct {
	topoArgs
	now     time.Time
	stale   time.Duration
	snap    *fleet.Snapshot
	rates   *fleet.Rates
	layout  *topology.Map
	splits  []splitScene
	leads   map[string]int // streams by the server that leads them
	metas   map[string]bool
	nameOf  map[string]string // server names by ID
	busiest float64           // msg/s of the busiest gateway
}

// splitScene is a split on the map.
type splitScene struct {
	traffic.Split
	targets []targetScene
	rate    float64
}

type targetScene struct {
	traffic.Target
	color    string
	host     string  // server that leads the consumer; "" when there is none
	why      string  // there is no host
	seen     float64 // observed share, percent; NaN when nothing was observed
	rate     float64 // msg/s that came for it
	obs      traffic.Observation
	measured bool // its consumer exists
}

func (s *Server) scene(ctx context.Context, a topoArgs) (*scene, error) {
	sc := &scene{topoArgs: a, now: s.Now(), stale: s.staleAfter(), snap: s.Metrics.Latest(), rates: s.Metrics.Rates(),
		leads: map[string]int{}, metas: map[string]bool{}, nameOf: map[string]string{}}
	slots, err := s.Metrics.Slots(ctx, topology.Keys(sc.snap))
	if err != nil {
		return nil, fmt.Errorf("read the places on the map: %w", err)
	}
	sc.layout = topology.Layout(sc.snap, slots)
	for _, st := range sc.snap.Streams {
		sc.leads[st.Leader]++
	}
	for _, srv := range sc.snap.Servers {
		sc.nameOf[srv.ID] = srv.Name
		if srv.JetStream != nil && srv.State == fleet.Healthy && srv.JetStream.MetaLeader != "" {
			sc.metas[srv.JetStream.MetaLeader] = true
		}
	}
	for _, rev := range s.Control.Splits() {
		one, err := s.splitScene(ctx, rev)
		if err != nil {
			return nil, err
		}
		sc.splits = append(sc.splits, one)
	}
	if sc.mode == "" {
		sc.mode = "links"
		if len(sc.splits) > 0 {
			sc.mode = "traffic"
		}
	}
	if sc.split == "" && len(sc.splits) > 0 {
		sc.split = sc.splits[0].Name
	}
	return sc, nil
}

func (s *Server) splitScene(ctx context.Context, rev traffic.Revision) (splitScene, error) {
	m, err := s.measure(ctx, rev)
	if err != nil {
		return splitScene{}, err
	}
	one := splitScene{Split: rev.Split, rate: m.rate}
	for i, t := range m.targets {
		ts := targetScene{Target: t.Target, color: targetColor(i), seen: 100 * t.observed, rate: t.rate, obs: t.obs, measured: t.found, why: "not observed"}
		if k, ok := s.consumerOf(t.Target); ok {
			ts.why = "no leader"
			for _, c := range s.Metrics.Latest().Consumers {
				if c.ConsumerKey == k {
					ts.host = c.Leader
				}
			}
		}
		one.targets = append(one.targets, ts)
	}
	return one, nil
}

// current is the split that the overlay draws.
func (sc *scene) current() *splitScene {
	for i := range sc.splits {
		if sc.splits[i].Name == sc.split {
			return &sc.splits[i]
		}
	}
	return nil
}

// tone is the state of a server as a shape and a word. Old figures come first:
// what a server looked like once is not how it is.
func (sc *scene) tone(srv *fleet.Server) (tone, word string) {
	switch {
	case srv.State == fleet.Unreachable:
		return "crit", "unreachable"
	case sc.now.Sub(srv.At) > sc.stale:
		return "stale", "no new data for " + ago(sc.now.Sub(srv.At))
	case srv.State == fleet.LameDuck:
		return "lame", "lame duck"
	case cpuShare(srv) > busyCPU:
		return "warn", "busy"
	}
	return "ok", "healthy"
}

// cpuShare is the CPU as a share of all cores, in percent.
func cpuShare(srv *fleet.Server) float64 {
	return min(srv.CPU/float64(max(srv.Cores, 1)), 100)
}

// htmlID makes an id out of a name that may contain anything.
func htmlID(prefix, name string) string {
	h := fnv.New64a()
	h.Write([]byte(name))
	return prefix + strconv.FormatUint(h.Sum64(), 36)
}

func serverID(srv *fleet.Server) string { return htmlID("s", srv.Cluster+"\x00"+srv.Name) }

func clusterName(name string) string { return cmp.Or(name, "standalone") }

// drawing turns the scene into the drawing. Everything that the hash covers is
// structure; the rest is patched by ticks while the hash stays.
func (sc *scene) drawing() templates.TopoMap {
	sum := fnv.New64a()
	m := templates.TopoMap{Mode: sc.mode, Compact: sc.layout.Compact, Detailed: sc.layout.Detailed, Label: sc.label()}
	fmt.Fprintln(sum, sc.mode, sc.split, sc.server)
	for _, sp := range sc.splits { // the tables show them all
		for _, t := range sp.targets {
			fmt.Fprintln(sum, sp.Name, t.Name, t.host, t.Weight, t.State)
		}
	}
	shares := map[string]float64{} // of the current split, by cluster
	hosts := map[string][]targetScene{}
	cur := sc.current()
	if sc.mode == "traffic" && cur != nil {
		for _, t := range cur.targets {
			if t.host != "" && t.State == traffic.Ready {
				hosts[t.host] = append(hosts[t.host], t)
			}
		}
	}
	for _, c := range sc.layout.Clusters {
		for _, n := range c.Servers {
			for _, t := range hosts[n.Server.Name] {
				if t.Tier == 0 {
					shares[c.Key] += float64(t.Weight)
				}
			}
		}
	}
	if sc.mode == "traffic" && cur != nil && sc.layout.Drawn() && len(cur.targets) <= 8 {
		m.Flow = sc.flow(cur)
		clear(shares)
	}
	for _, c := range sc.layout.Clusters {
		m.Clusters = append(m.Clusters, sc.cluster(c, shares[c.Key], hosts, m.Flow != nil, sum))
	}
	for _, g := range sc.layout.Gateways {
		sc.busiest = max(sc.busiest, sc.gatewayRate(g))
	}
	for _, g := range sc.layout.Gateways {
		m.Gateways = append(m.Gateways, sc.gateway(g, sum))
	}
	l := sc.layout
	m.Box = fmt.Sprintf("%.0f %.0f %.0f %.0f", math.Floor(l.X), math.Floor(l.Y), math.Ceil(l.W), math.Ceil(l.H))
	fmt.Fprintln(sum, m.Box)
	m.Hash = strconv.FormatUint(sum.Sum64(), 36)
	return m
}

func (sc *scene) label() string {
	return fmt.Sprintf("Map of %s, %s, %s and %s",
		count(len(sc.layout.Clusters), "cluster"), count(len(sc.snap.Servers), "server"), count(len(sc.layout.Gateways), "gateway"), count(len(sc.snap.Leafs), "leaf node"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return humanize.Comma(int64(n)) + " " + what + "s"
}

func (sc *scene) cluster(c *topology.Cluster, share float64, hosts map[string][]targetScene, flow bool, sum hash.Hash64) templates.TopoCluster {
	id := htmlID("c", c.Key)
	v := templates.TopoCluster{
		ID: id, Name: clip(clusterName(c.Key), 22), X: f1(c.Center.X), Y: f1(c.Center.Y), Radius: f1(c.Radius), Ring: f1(c.Ring),
		NameY: f1(c.Center.Y - 5), RateY: f1(c.Center.Y + 11), CountY: f1(c.Center.Y + 26),
		URL:     sc.with(func(a *topoArgs) { a.filter = c.Key; a.server = "" }) + "#servers",
		RateKey: "topo." + id + ".rate", Rate: sc.clusterRate(c), Tone: "ok",
	}
	worst := map[string]int{"crit": 3, "warn": 2, "lame": 1, "stale": 1}
	for _, n := range c.Servers {
		tone, _ := sc.tone(n.Server)
		if worst[tone] > worst[v.Tone] {
			v.Tone = tone
		}
		v.Nodes = append(v.Nodes, sc.node(c, n, hosts, flow, sum))
	}
	switch {
	case !c.Seen:
		v.Count, v.Rate, v.Tone = "not observed", "", "stale"
	case c.Routes < c.Pairs:
		v.Count, v.Bad = fmt.Sprintf("%d/%d routes", c.Routes, c.Pairs), true
		if v.Tone == "ok" || v.Tone == "lame" {
			v.Tone = "warn"
		}
	default:
		v.Count = count(len(c.Servers), "server")
	}
	v.Title = fmt.Sprintf("%s, cluster of %s, %d of %d routes", clusterName(c.Key), count(len(c.Servers), "server"), c.Routes, c.Pairs)
	for _, l := range c.Leafs {
		side := float64(c.Side)
		lv := templates.TopoLeaf{Path: l.Path, X: f1(l.At.X - 5), Y: f1(l.At.Y - 5), TextX: f1(l.At.X + side*12), TextY: f1(l.At.Y + 4), End: c.Side < 0,
			Name:  clip(l.Leaf.Name, 18),
			Title: fmt.Sprintf("Leaf node %s, account %s, at %s, RTT %s", l.Leaf.Name, l.Leaf.Account, sc.nameOf[l.Leaf.Server], duration(l.Leaf.RTT))}
		v.Leafs = append(v.Leafs, lv)
		fmt.Fprintln(sum, l.Leaf.Name, l.Leaf.Server)
	}
	if c.MoreLeaf > 0 {
		at := c.MoreAt()
		v.More, v.MoreX, v.MoreY, v.MoreEnd = fmt.Sprintf("+%d more leaf nodes", c.MoreLeaf), f1(at.X+float64(c.Side)*4), f1(at.Y+4), c.Side < 0
	}
	if share > 0 {
		v.Share = strconv.FormatFloat(share, 'f', -1, 64)
		v.ShareR = f1(c.Radius + 4)
		v.PillX, v.PillTop, v.PillTextY = f1(c.Center.X-22), f1(c.Center.Y-c.Radius-24), f1(c.Center.Y-c.Radius-10)
	}
	fmt.Fprintln(sum, c.Key, v.Count, v.Tone, v.More, v.Share)
	return v
}

func (sc *scene) clusterRate(c *topology.Cluster) string {
	in := 0.0
	for _, n := range c.Servers {
		in += sc.rates.Servers[n.Server.Name].InMsgs
	}
	return figure(in, "msg/s") + " msg/s"
}

func (sc *scene) node(c *topology.Cluster, n topology.Node, hosts map[string][]targetScene, flow bool, sum hash.Hash64) templates.TopoNode {
	srv := n.Server
	tone, word := sc.tone(srv)
	cpu := cpuShare(srv)
	v := templates.TopoNode{
		ID: serverID(srv), Label: n.Label, Tone: tone, At: "translate(" + f1(n.At.X) + " " + f1(n.At.Y) + ")", R: f1(c.Node),
		URL:     sc.with(func(a *topoArgs) { a.server = srv.Name }),
		Current: sc.server == srv.Name,
		CPU:     cpuDash(cpu),
		// The name starts with what is seen, for those who speak to their machine.
		Title: fmt.Sprintf("%s: %s, %s, cpu %.0f %% of %s, %s", n.Label, srv.Name, word, cpu, count(max(srv.Cores, 1), "core"), count(srv.Conns, "connection")),
	}
	r := c.Node
	switch tone {
	case "crit":
		v.Shape = fmt.Sprintf("M0 %sL%s 0 0 %s %s 0Z", f1(-r-3), f1(r+3), f1(r+3), f1(-r-3))
	case "warn":
		v.Shape = fmt.Sprintf("M0 %sL%s %sH%sZ", f1(-r-5), f1(r+3), f1(r), f1(-r-3))
	}
	if sc.metas[srv.Name] {
		v.Meta = f1(r + 4.5)
		v.Title += ", meta leader"
	}
	if sc.layout.Detailed {
		v.Name = clip(srv.Name, 20)
		v.NameY = f1(r + 19)
		if v.Shape == "" {
			v.CPUText, v.CPUKey = cpuText(cpu), "topo."+v.ID+".cpu"
		}
	}
	if led := sc.leads[srv.Name]; led > 0 && sc.mode == "streams" {
		v.Leads = strconv.Itoa(led)
		v.LeadsX, v.LeadsY = f1(r*0.35), f1(-r-8)
		v.Title += ", leads " + count(led, "stream")
	}
	for i, t := range hosts[srv.Name] {
		if i == 4 {
			break
		}
		v.Arcs = append(v.Arcs, templates.TopoArc{R: f1(r + 8.5 + float64(i)*4.5), Set: strconv.Itoa(t.Weight), Color: t.color,
			Title: fmt.Sprintf("%s %d %%", t.Name, t.Weight)})
		v.Title += fmt.Sprintf(", %s %d %%", t.Name, t.Weight)
	}
	fmt.Fprintln(sum, v.ID, tone, n.Label, v.Meta, v.Leads, v.At)
	return v
}

func cpuDash(cpu float64) string { return fmt.Sprintf("%.0f 100", cpu) }
func cpuText(cpu float64) string { return fmt.Sprintf("%.0f %%", cpu) }

func (sc *scene) gatewayRate(g topology.Gateway) float64 {
	rate := 0.0
	for _, l := range g.Links {
		rate += sc.rates.Gateways[[2]string{l.From, l.ToCluster}].OutMsgs
	}
	return rate
}

func (sc *scene) gateway(g topology.Gateway, sum hash.Hash64) templates.TopoGateway {
	rate := sc.gatewayRate(g)
	// By the logarithm, since links differ by factors of thousands and all must
	// be seen; cubed, since otherwise all would look the same.
	w := 1.2
	if sc.busiest > 0 {
		w += 5.8 * math.Pow(math.Log1p(rate)/math.Log1p(sc.busiest), 3)
	}
	if sc.layout.Compact {
		w = max(0.8, w*0.55)
	}
	v := templates.TopoGateway{ID: htmlID("g", g.From.Key+"\x00"+g.To.Key), A: htmlID("c", g.From.Key), B: htmlID("c", g.To.Key),
		Path: g.Path, Width: f1(w), Tone: "ok",
		Title: fmt.Sprintf("%s – %s: %s msg/s, RTT %s, %d of %d connections", clusterName(g.From.Key), clusterName(g.To.Key), figure(rate, "msg/s"), duration(g.RTT), g.Up, g.Want)}
	if g.Up < g.Want {
		v.Tone, v.Label = "warn", fmt.Sprintf("%d/%d links", g.Up, g.Want)
	} else if len(sc.layout.Clusters) <= 5 && g.RTT > 0 {
		v.Label = duration(g.RTT)
	}
	if v.Label != "" {
		w := 6.4*float64(len([]rune(v.Label))) + 14
		v.LabelX, v.LabelY = f1(g.Label.X), f1(g.Label.Y+3.8)
		v.RectX, v.RectY, v.RectW = f1(g.Label.X-w/2), f1(g.Label.Y-9), f1(w)
	}
	fmt.Fprintln(sum, v.ID, v.Tone, v.Path, v.Label)
	return v
}

// flow draws the split beside a small map.
func (sc *scene) flow(cur *splitScene) *templates.TopoFlow {
	hosts, carried := make([]string, len(cur.targets)), make([]float64, len(cur.targets))
	for i, t := range cur.targets {
		hosts[i], carried[i] = t.host, float64(t.Weight)/100
		if t.Tier > 0 {
			carried[i] = 0 // stands by
		}
	}
	f := sc.layout.Flow(hosts, carried)
	id := htmlID("f", cur.Name)
	v := &templates.TopoFlow{Name: clip(cur.Name, 16), URL: splitURL(cur.Name), Rate: figure(cur.rate, "msg/s") + " msg/s", RateKey: "topo." + id + ".rate",
		X: f1(f.Hub.X), Y: f1(f.Hub.Y), W: f1(f.Hub.W), H: f1(f.Hub.H), TextX: f1(f.Hub.X + f.Hub.W/2), NameY: f1(f.Hub.Y + f.Hub.H/2 - 2), RateY: f1(f.Hub.Y + f.Hub.H/2 + 16)}
	for i, t := range cur.targets {
		l := f.Lanes[i]
		key := laneID(cur.Name, t.Name)
		bar := l.W - 14 - 82
		lane := templates.TopoLane{
			ID: key, Name: clip(t.Name, 19), Color: t.color, Tone: "ok", In: l.In, Out: l.Out, Width: f1(l.Width),
			X: f1(l.X), Y: f1(l.Y), W: f1(l.W), H: f1(l.H), TextX: f1(l.X + 14), EndX: f1(l.X + l.W - 10),
			NameY: f1(l.Y + 19), SetY: f1(l.Y + 36.5), SeenY: f1(l.Y + 52.5),
			BarX: f1(l.X + 14), SetBarY: f1(l.Y + 30), SeenBarY: f1(l.Y + 46), BarW: f1(bar), BarID: key + "-bar",
			Set: fmt.Sprintf("%d %% set", t.Weight), SetW: f1(bar * float64(t.Weight) / 100),
			Seen: seenText(t.seen) + " seen", SeenKey: "topo." + key + ".seen", SeenW: f1(seenWidth(t.seen, bar)),
			Rate: figure(t.rate, "msg/s") + "/s", RateKey: "topo." + key + ".rate",
			Title: fmt.Sprintf("%s: %d %% set, %s observed, %s", t.Name, t.Weight, seenText(t.seen), cmp.Or(t.host, t.why)),
		}
		switch {
		case t.State != traffic.Ready:
			lane.Tone, lane.Set = "idle", string(t.State)
		case t.host == "":
			lane.Tone = "crit"
		}
		v.Lanes = append(v.Lanes, lane)
	}
	return v
}

func laneID(split, target string) string { return htmlID("t", split+"\x00"+target) }

func seenText(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " %"
}

func seenWidth(v, full float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return full * v / 100
}

// bytesWords writes an amount of memory.
func bytesWords(v float64) string {
	s := figure(v, "B")
	number := strings.TrimRight(s, "KMGTi")
	return number + " " + s[len(number):] + "B"
}

// duration writes a length of time with a sensible unit.
func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e3, 'f', 0, 64) + " µs"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 1, 64) + " ms"
	case d < 10*time.Second:
		return humanize.Comma(int64(d.Round(time.Millisecond)/time.Millisecond)) + " ms"
	}
	return ago(d)
}

// head says whether the system is well, in one sentence.
func (sc *scene) head() (tone, text string) {
	if sc.snap.TakenAt.IsZero() {
		return "stale", "Nothing was seen yet"
	}
	counts := map[string]int{}
	for i := range sc.snap.Servers {
		tone, _ := sc.tone(&sc.snap.Servers[i])
		counts[tone]++
	}
	missing := 0
	for _, c := range sc.layout.Clusters {
		missing += c.Pairs - c.Routes
	}
	for _, g := range sc.layout.Gateways {
		missing += max(g.Want-g.Up, 0)
	}
	var wrong []string
	tone = "ok"
	add := func(n int, what, t string) {
		if n > 0 {
			wrong = append(wrong, count(n, "server")+" "+what)
			if tone != "crit" {
				tone = t
			}
		}
	}
	add(counts["crit"], "unreachable", "crit")
	add(max(sc.snap.Expected-len(sc.snap.Servers), 0), "missing", "crit")
	add(counts["stale"], "without new data", "warn")
	add(counts["warn"], "busy", "warn")
	add(counts["lame"], "in lame duck mode", "warn")
	if missing > 0 {
		wrong = append(wrong, count(missing, "link")+" missing")
		if tone == "ok" {
			tone = "warn"
		}
	}
	if len(wrong) > 0 {
		return tone, strings.Join(wrong, ", ")
	}
	return "ok", fmt.Sprintf("%s in %s, all links up", count(len(sc.snap.Servers), "server"), count(len(sc.layout.Clusters), "cluster"))
}

// servers are the rows of the table that the filter leaves.
func (sc *scene) servers() []*fleet.Server {
	var out []*fleet.Server
	q := strings.ToLower(sc.filter)
	for _, c := range sc.layout.Clusters {
		for _, n := range c.Servers {
			_, word := sc.tone(n.Server)
			if q == "" || strings.Contains(strings.ToLower(strings.Join([]string{n.Server.Name, clusterName(c.Key), n.Server.Version, word}, "\n")), q) {
				out = append(out, n.Server)
			}
		}
	}
	return out
}

func (sc *scene) table() templates.TopoServers {
	suffix := ""
	if sc.filter != "" {
		suffix = "?" + url.Values{"q": {sc.filter}}.Encode()
	}
	v := templates.TopoServers{Query: sc.filter, CSV: "/servers.csv" + suffix, JSON: "/servers.json" + suffix}
	for _, h := range []templates.Hidden{{Name: "overlay", Value: sc.mode}, {Name: "split", Value: sc.split}, {Name: "server", Value: sc.server}} {
		if h.Value != "" {
			v.Keep = append(v.Keep, h)
		}
	}
	rows := sc.servers()
	v.Note = count(len(rows), "server")
	if sc.filter != "" {
		v.Note = fmt.Sprintf("%d of %s", len(rows), count(len(sc.snap.Servers), "server"))
	}
	for _, srv := range rows {
		id := "topo." + serverID(srv)
		tone, word := sc.tone(srv)
		now := sc.figures(srv)
		row := templates.TopoServer{
			ID: "row-" + serverID(srv), Name: srv.Name, Cluster: clusterName(srv.Cluster), State: word, Tone: tone, Version: srv.Version,
			URL: sc.with(func(a *topoArgs) { a.server = srv.Name }), Current: srv.Name == sc.server,
			CPU: now.cpu, CPUKey: id + ".cpu", Mem: now.mem, MemKey: id + ".mem", Conns: now.conns, ConnsKey: id + ".conns",
			In: now.in, InKey: id + ".in", Out: now.out, OutKey: id + ".out",
			RTT: now.rtt, Leads: strconv.Itoa(sc.leads[srv.Name]), Uptime: now.up,
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

// serverFigures are what is known of a server now, in words.
type serverFigures struct{ cpu, mem, conns, in, out, rtt, up string }

// figures are blank for a server that does not answer: what it last said is not
// how it is.
func (sc *scene) figures(srv *fleet.Server) serverFigures {
	if tone, _ := sc.tone(srv); tone == "crit" || tone == "stale" {
		return serverFigures{none, none, none, none, none, none, none}
	}
	r := sc.rates.Servers[srv.Name]
	return serverFigures{cpuText(cpuShare(srv)), bytesWords(float64(srv.Mem)), humanize.Comma(int64(srv.Conns)),
		figure(r.InMsgs, "msg/s"), figure(r.OutMsgs, "msg/s"), duration(srv.RTT), uptime(srv)}
}

func uptime(srv *fleet.Server) string {
	if srv.Start.IsZero() || srv.Now.Before(srv.Start) {
		return "–"
	}
	return ago(srv.Now.Sub(srv.Start))
}

// texts are the live figures of the page, by key.
func (sc *scene) texts() map[string]string {
	_, head := sc.head()
	t := map[string]string{"topo.head": head}
	for _, c := range sc.layout.Clusters {
		if c.Seen {
			t["topo."+htmlID("c", c.Key)+".rate"] = sc.clusterRate(c)
		}
		for _, n := range c.Servers {
			id, now := "topo."+serverID(n.Server), sc.figures(n.Server)
			t[id+".cpu"], t[id+".mem"], t[id+".conns"], t[id+".in"], t[id+".out"] = now.cpu, now.mem, now.conns, now.in, now.out
		}
	}
	for _, sp := range sc.splits {
		t["topo."+htmlID("f", sp.Name)+".rate"] = figure(sp.rate, "msg/s") + " msg/s"
		for _, ts := range sp.targets {
			id := "topo." + laneID(sp.Name, ts.Name)
			t[id+".seen"] = seenText(ts.seen) + " seen"
			t[id+".share"] = seenText(ts.seen)
			t[id+".rate"] = figure(ts.rate, "msg/s") + "/s"
			t[id+".p99"] = p99Text(ts)
		}
	}
	return t
}

// attrs are the live attributes of the drawing.
func (sc *scene) attrs() map[string]string {
	a := map[string]string{}
	for _, srv := range sc.snap.Servers {
		a[serverID(&srv)+"-cpu stroke-dasharray"] = cpuDash(cpuShare(&srv))
	}
	for _, sp := range sc.splits {
		for _, ts := range sp.targets {
			a[laneID(sp.Name, ts.Name)+"-bar width"] = f1(seenWidth(ts.seen, 100)) // 196 wide lanes have bars of 100
		}
	}
	return a
}

func p99Text(t targetScene) string {
	switch {
	case t.obs.Latency.Count() > 0:
		return duration(t.obs.Latency.Quantile(0.99))
	case t.obs.Estimated && t.obs.Mean > 0:
		return "≈ " + duration(t.obs.Mean)
	}
	return "–"
}

func latencySource(t targetScene) string {
	switch {
	case t.obs.Latency.Count() > 0:
		return fmt.Sprintf("measured by the servers, %s in the last minute", count(int(t.obs.Samples), "sample"))
	case t.obs.Estimated && t.obs.Mean > 0:
		return "mean, estimated from rates and outstanding messages: this consumer is not sampled"
	}
	return "not measured"
}

func (sc *scene) shares() []templates.TopoSplit {
	var out []templates.TopoSplit
	for _, sp := range sc.splits {
		v := templates.TopoSplit{Name: sp.Name, URL: splitURL(sp.Name)}
		for _, t := range sp.targets {
			id := "topo." + laneID(sp.Name, t.Name)
			row := templates.TopoShare{Name: t.Name, Color: t.color, State: string(t.State), Host: cmp.Or(t.host, t.why),
				Set: fmt.Sprintf("%d %%", t.Weight), Seen: seenText(t.seen), SeenKey: id + ".share", Rate: figure(t.rate, "msg/s") + "/s", RateKey: id + ".rate",
				SetW: strconv.Itoa(t.Weight), SeenW: f1(seenWidth(t.seen, 100)),
				Latency: p99Text(t), LatencyKey: id + ".p99", LatencySource: latencySource(t)}
			if t.Tier > 0 {
				row.State += fmt.Sprintf(", tier %d", t.Tier)
			}
			if t.host != "" {
				row.HostURL = sc.with(func(a *topoArgs) { a.server = t.host })
			}
			v.Rows = append(v.Rows, row)
		}
		out = append(out, v)
	}
	return out
}

// topologyRoutes are the URLs of the map and of what stands on it.
func topologyRoutes(s *Server, e *echo.Echo) {
	e.GET("/topology", s.getTopology)
	e.GET("/topology/svg", s.getTopologySVG)
	e.GET("/topology.json", s.getTopologyFile)
	e.GET("/topology.csv", s.getTopologyFile)
}

func topoArgsOf(c echo.Context) (topoArgs, error) {
	a := topoArgs{mode: c.QueryParam("overlay"), split: c.QueryParam("split"), server: c.QueryParam("server"), filter: strings.TrimSpace(c.QueryParam("q"))}
	if !slices.Contains([]string{"", "links", "traffic", "streams"}, a.mode) {
		return a, &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such overlay.", Hint: "Choose links, traffic or streams."}
	}
	return a, nil
}

func (s *Server) getTopology(c echo.Context) error {
	a, err := topoArgsOf(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	sc, err := s.scene(ctx, a)
	if err != nil {
		return err
	}
	v := templates.Topology{URL: a.url("/topology"), Map: sc.drawing()}
	v.Tone, v.Head = sc.head()
	topics := []string{topicTopology + ":" + topicArg(a)}
	if len(sc.snap.Servers) == 0 {
		v.Empty, v.Hint = "No server was seen yet", "Ballast is connecting. As soon as the first server answers, it appears here."
		if len(sc.snap.Problems) > 0 {
			p := sc.snap.Problems[0]
			v.Hint = p.Where + ": " + p.What + " " + p.Hint
		}
	} else {
		for _, m := range []struct{ key, name string }{{"links", "Links"}, {"traffic", "Traffic"}, {"streams", "Streams"}} {
			v.Modes = append(v.Modes, templates.Choice{Label: m.name, URL: sc.with(func(a *topoArgs) { a.mode = m.key }), Current: sc.mode == m.key})
		}
		if sc.mode == "traffic" {
			for _, sp := range sc.splits {
				v.Splits = append(v.Splits, templates.Choice{Label: sp.Name, URL: sc.with(func(a *topoArgs) { a.split = sp.Name }), Current: sp.Name == sc.split})
			}
		}
		if v.Inspector, err = s.inspector(ctx, sc); err != nil {
			return err
		}
		v.Shares = sc.shares()
		v.Servers = sc.table()
	}
	f := withLive(s.frame(c, "Topology", navTopology), topics...)
	f.Charts = len(v.Inspector.Charts) > 0
	return show(c, templates.TopologyPage(f, v), templates.TopologyContent(v))
}

// getTopologySVG answers the map alone, for who wants the picture.
func (s *Server) getTopologySVG(c echo.Context) error {
	a, err := topoArgsOf(c)
	if err != nil {
		return err
	}
	sc, err := s.scene(c.Request().Context(), a)
	if err != nil {
		return err
	}
	return render(c, http.StatusOK, templates.TopoSVG(sc.drawing()))
}

// topicArg packs what decides the structure into the name of a topic, as it was
// asked for: what is left to the server is decided anew each time, here as for
// the page. Commas separate topics, so it is query-escaped.
func topicArg(a topoArgs) string {
	return url.Values{"o": {a.mode}, "s": {a.split}, "n": {a.server}}.Encode()
}

// topologyTopic keeps an open map current: figures by text and attribute, and
// the hash by which the page notices that the structure changed.
func (s *Server) topologyTopic(ctx context.Context, arg string) (update, error) {
	q, err := url.ParseQuery(arg)
	if err != nil {
		return update{}, fmt.Errorf("parse topic: %w", err)
	}
	sc, err := s.scene(ctx, topoArgs{mode: q.Get("o"), split: q.Get("s"), server: q.Get("n")})
	if err != nil {
		return update{}, err
	}
	return update{Text: sc.texts(), Attr: sc.attrs(), Data: map[string]string{"topology": sc.drawing().Hash}}, nil
}

// topoDoc is the map as JSON.
type topoDoc struct {
	TakenAt  time.Time     `json:"taken_at"`
	Expected int           `json:"expected_servers"`
	Clusters []clusterDoc  `json:"clusters"`
	Gateways []gatewayDoc  `json:"gateways"`
	Splits   []splitTopo   `json:"splits"`
	Problems []problemDoc  `json:"problems"`
	Cost     watchCostJSON `json:"cost_of_watching"`
}

type clusterDoc struct {
	Name    string      `json:"name"`
	Routes  int         `json:"routes"`
	Pairs   int         `json:"routes_expected"`
	Servers []serverDoc `json:"servers"`
	Leafs   []leafDoc   `json:"leaf_nodes"`
}

type serverDoc struct {
	Name       string       `json:"name"`
	ID         string       `json:"id"`
	Cluster    string       `json:"cluster"`
	State      string       `json:"state"`
	Error      string       `json:"error,omitempty"`
	Version    string       `json:"version"`
	At         time.Time    `json:"measured_at"`
	Source     fleet.Source `json:"source"`
	Start      time.Time    `json:"start"`
	Cores      int          `json:"cores"`
	CPU        float64      `json:"cpu_percent_of_a_core"`
	Mem        int64        `json:"memory_bytes"`
	Conns      int          `json:"connections"`
	Subs       int          `json:"subscriptions"`
	InMsgs     float64      `json:"in_msgs_per_s"`
	OutMsgs    float64      `json:"out_msgs_per_s"`
	InBytes    float64      `json:"in_bytes_per_s"`
	OutBytes   float64      `json:"out_bytes_per_s"`
	Slow       uint64       `json:"slow_consumers"`
	RTTMS      float64      `json:"rtt_ms"`
	Streams    int          `json:"streams_led"`
	MetaLeader bool         `json:"meta_leader"`
	Tags       []string     `json:"tags,omitempty"`
}

type leafDoc struct {
	Name    string  `json:"name"`
	Account string  `json:"account"`
	Server  string  `json:"server"`
	RTTMS   float64 `json:"rtt_ms"`
}

type gatewayDoc struct {
	A     string  `json:"a"`
	B     string  `json:"b"`
	Up    int     `json:"connections"`
	Want  int     `json:"connections_expected"`
	RTTMS float64 `json:"rtt_ms"`
}

type splitTopo struct {
	Name    string       `json:"name"`
	Targets []targetTopo `json:"targets"`
}

type targetTopo struct {
	Name   string   `json:"name"`
	State  string   `json:"state"`
	Server string   `json:"server"`
	Set    int      `json:"set_percent"`
	Seen   *float64 `json:"observed_percent"`
	Rate   float64  `json:"msgs_per_s"`
}

type problemDoc struct {
	Where string    `json:"where"`
	What  string    `json:"what"`
	Hint  string    `json:"hint,omitempty"`
	Since time.Time `json:"since"`
}

type watchCostJSON struct {
	Requests int     `json:"requests"`
	Bytes    int64   `json:"bytes"`
	TookMS   float64 `json:"took_ms"`
}

func inMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (sc *scene) serverDoc(srv *fleet.Server) serverDoc {
	r := sc.rates.Servers[srv.Name]
	_, word := sc.tone(srv)
	return serverDoc{
		Name: srv.Name, ID: srv.ID, Cluster: srv.Cluster, State: word, Error: srv.Error, Version: srv.Version, At: srv.At.UTC(), Source: srv.Source, Start: srv.Start.UTC(),
		Cores: srv.Cores, CPU: srv.CPU, Mem: srv.Mem, Conns: srv.Conns, Subs: srv.Subs,
		InMsgs: r.InMsgs, OutMsgs: r.OutMsgs, InBytes: r.InBytes, OutBytes: r.OutBytes, Slow: srv.SlowConsumers, RTTMS: inMS(srv.RTT),
		Streams: sc.leads[srv.Name], MetaLeader: sc.metas[srv.Name], Tags: srv.Tags,
	}
}

func (sc *scene) doc() topoDoc {
	d := topoDoc{TakenAt: sc.snap.TakenAt.UTC(), Expected: sc.snap.Expected, Clusters: []clusterDoc{}, Gateways: []gatewayDoc{}, Splits: []splitTopo{}, Problems: []problemDoc{},
		Cost: watchCostJSON{sc.snap.Cost.Requests, sc.snap.Cost.Bytes, inMS(sc.snap.Cost.Took)}}
	for _, c := range sc.layout.Clusters {
		cd := clusterDoc{Name: c.Key, Routes: c.Routes, Pairs: c.Pairs, Servers: []serverDoc{}, Leafs: []leafDoc{}}
		members := map[string]bool{}
		for _, n := range c.Servers {
			cd.Servers = append(cd.Servers, sc.serverDoc(n.Server))
			members[n.Server.ID] = true
		}
		for _, l := range sc.snap.Leafs {
			if members[l.Server] {
				cd.Leafs = append(cd.Leafs, leafDoc{l.Name, l.Account, sc.nameOf[l.Server], inMS(l.RTT)})
			}
		}
		d.Clusters = append(d.Clusters, cd)
	}
	for _, g := range sc.layout.Gateways {
		d.Gateways = append(d.Gateways, gatewayDoc{g.From.Key, g.To.Key, g.Up, g.Want, inMS(g.RTT)})
	}
	for _, sp := range sc.splits {
		sd := splitTopo{Name: sp.Name, Targets: []targetTopo{}}
		for _, t := range sp.targets {
			td := targetTopo{Name: t.Name, State: string(t.State), Server: t.host, Set: t.Weight, Rate: t.rate}
			if !math.IsNaN(t.seen) {
				td.Seen = &t.seen
			}
			sd.Targets = append(sd.Targets, td)
		}
		d.Splits = append(d.Splits, sd)
	}
	for _, p := range sc.snap.Problems {
		d.Problems = append(d.Problems, problemDoc{p.Where, p.What, p.Hint, p.Since.UTC()})
	}
	return d
}

// getTopologyFile is the map as a table of its links, or whole as JSON.
func (s *Server) getTopologyFile(c echo.Context) error {
	a, err := topoArgsOf(c)
	if err != nil {
		return err
	}
	sc, err := s.scene(c.Request().Context(), a)
	if err != nil {
		return err
	}
	cols := []string{"kind", "from", "to", "cluster", "state", "rtt_ms", "in_msgs_per_s", "out_msgs_per_s", "connections", "measured_at"}
	rows := func(yield func([]any) bool) {
		for _, srv := range sc.snap.Servers {
			_, word := sc.tone(&srv)
			r := sc.rates.Servers[srv.Name]
			if !yield([]any{"server", srv.Name, "", srv.Cluster, word, srv.RTT, r.InMsgs, r.OutMsgs, srv.Conns, srv.At}) {
				return
			}
		}
		for _, r := range sc.snap.Routes {
			rate := sc.rates.Routes[[2]string{r.From, r.To}]
			if !yield([]any{"route", sc.nameOf[r.From], cmp.Or(sc.nameOf[r.To], r.ToName), "", "up", r.RTT, rate.InMsgs, rate.OutMsgs, r.Conns, r.At}) {
				return
			}
		}
		for _, g := range sc.snap.Gateways {
			rate := sc.rates.Gateways[[2]string{g.From, g.ToCluster}]
			if !yield([]any{"gateway", sc.nameOf[g.From], g.ToCluster, g.FromCluster, "up", g.RTT, rate.InMsgs, rate.OutMsgs, 1, g.At}) {
				return
			}
		}
		for _, l := range sc.snap.Leafs {
			rate := sc.rates.Leafs[[2]string{l.Server, l.Name}]
			if !yield([]any{"leaf", l.Name, sc.nameOf[l.Server], "", "up", l.RTT, rate.InMsgs, rate.OutMsgs, 1, l.At}) {
				return
			}
		}
	}
	return s.export(c, "topology", cols, rows, sc.doc())
}
