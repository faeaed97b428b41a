package tuner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

// check is one rule: what it is about, and the function that judges a look.
// What it gives no verdict on is not judged: it neither opens nor closes.
type check struct {
	fleet.Check
	run func(in *inspection)
}

// checks are all rules. Codes are never changed and never used again.
var checks = slices.Concat(serverChecks, linkChecks, jetStreamChecks, streamChecks, consumerChecks, workerChecks, queueChecks)

// Checks describes all rules, by code.
func Checks() []fleet.Check {
	out := make([]fleet.Check, len(checks))
	for i, c := range checks {
		out[i] = c.Check
	}
	slices.SortFunc(out, func(a, b fleet.Check) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// Limits are where the checks fire. The zero value of a field takes its
// default; docs/findings.md gives the reasons.
type Limits struct {
	CPU          float64       // share of all cores; 0.9
	Skew         time.Duration // between a server's clock and ours; 1 s
	Full         float64       // share of a limit; 0.85
	Brim         float64       // share of a limit that is critical; 0.95
	Lopsided     float64       // the most of a cluster over the mean; 1.5
	Leaders      int           // fewest leaders of a cluster that are judged; 10
	Conns        int           // fewest connections of a cluster that are judged; 30
	ConnPending  int64         // bytes waiting for a client; 1 MiB
	RouteRTT     time.Duration // 50 ms
	GatewayRTT   time.Duration // 500 ms
	LeafRTT      time.Duration // 500 ms
	LinkPending  int64         // bytes waiting for a route; 8 MiB
	ReplicaLag   uint64        // operations; 1000
	ReplicaQuiet time.Duration // 10 s
	Lag          uint64        // messages; 1000
	Redelivered  int           // messages in flight; 10
	AckWait      float64       // p99 as a share of ack_wait; 0.7
	AckPending   float64       // share of max_ack_pending; 0.9
	Stuck        time.Duration // without a delivery; 1 min
	Idle         time.Duration // without anybody; 1 h
	APIErrors    float64       // share of the requests in the window; 0.05
	ServiceError float64       // share of the requests in the window; 0.05
	MinRequests  uint64        // in the window, before a share means anything; 20
	ReportsLate  time.Duration // of workers that reported before; 15 s
	WorkerCPU    float64       // share of the cores of a process; 0.9
	Samples      uint64        // of a p99; 100
	Share        float64       // messages a member of a queue group, before one without means anything; 20
}

func (l Limits) withDefaults() Limits {
	def(&l.CPU, 0.9)
	def(&l.Skew, time.Second)
	def(&l.Full, 0.85)
	def(&l.Brim, 0.95)
	def(&l.Lopsided, 1.5)
	def(&l.Leaders, 10)
	def(&l.Conns, 30)
	def(&l.ConnPending, 1<<20)
	def(&l.RouteRTT, 50*time.Millisecond)
	def(&l.GatewayRTT, 500*time.Millisecond)
	def(&l.LeafRTT, 500*time.Millisecond)
	def(&l.LinkPending, 8<<20)
	def(&l.ReplicaLag, 1000)
	def(&l.ReplicaQuiet, 10*time.Second)
	def(&l.Lag, 1000)
	def(&l.Redelivered, 10)
	def(&l.AckWait, 0.7)
	def(&l.AckPending, 0.9)
	def(&l.Stuck, time.Minute)
	def(&l.Idle, time.Hour)
	def(&l.APIErrors, 0.05)
	def(&l.ServiceError, 0.05)
	def(&l.MinRequests, 20)
	def(&l.WorkerCPU, 0.9)
	def(&l.ReportsLate, 15*time.Second)
	def(&l.Samples, 100)
	def(&l.Share, 20)
	return l
}

// inspection is one look, as the checks see it.
type inspection struct {
	engine *Findings
	lim    Limits
	now    time.Time
	look   fleet.Look
	snap   *fleet.Snapshot
	splits []traffic.Revision
	seen   map[string][]traffic.Observation

	names     map[string][]*fleet.Server // by name: two servers may share one
	ids       map[string]*fleet.Server
	clusters  map[string][]*fleet.Server // those that answer, sorted as in the snapshot
	consumers map[fleet.ConsumerKey]*fleet.Consumer
	exists    map[fleet.Entity]bool
	// The names of the snapshot's rows: making one for every check costs more than
	// the checks.
	streamNames, consumerNames []fleet.Entity

	check    *fleet.Check
	verdicts []verdict
}

func newInspection(f *Findings, look fleet.Look, splits []traffic.Revision, seen map[string][]traffic.Observation) *inspection {
	in := &inspection{
		engine: f, lim: f.cfg.Limits, now: look.At, look: look, snap: look.Snapshot, splits: splits, seen: seen,
		names: map[string][]*fleet.Server{}, ids: map[string]*fleet.Server{}, clusters: map[string][]*fleet.Server{},
		consumers: map[fleet.ConsumerKey]*fleet.Consumer{}, exists: map[fleet.Entity]bool{},
	}
	for i := range in.snap.Servers {
		s := &in.snap.Servers[i]
		in.names[s.Name] = append(in.names[s.Name], s)
		in.ids[s.ID] = s
		in.exists[s.Entity()] = true
		in.exists[fleet.Entity{Kind: fleet.KindCluster, Key: s.Cluster}] = true
		if alive(s) {
			in.clusters[s.Cluster] = append(in.clusters[s.Cluster], s)
		}
	}
	for i := range in.snap.Streams {
		e := in.snap.Streams[i].Entity()
		in.streamNames = append(in.streamNames, e)
		in.exists[e] = true
	}
	for i := range in.snap.Consumers {
		c := &in.snap.Consumers[i]
		in.consumers[c.ConsumerKey] = c
		e := c.Entity()
		in.consumerNames = append(in.consumerNames, e)
		in.exists[e] = true
	}
	for i := range in.snap.Services {
		in.exists[in.snap.Services[i].Entity()] = true
	}
	for _, rev := range splits {
		for _, t := range rev.Split.Targets {
			in.exists[targetEntity(rev.Split.Name, t.Name)] = true
		}
	}
	return in
}

func alive(s *fleet.Server) bool { return s.State == fleet.Healthy || s.State == fleet.LameDuck }

func targetEntity(split, target string) fleet.Entity {
	return fleet.Entity{Kind: fleet.KindTarget, Key: split + "/" + target}
}

// link names a connection between two servers or clusters.
func link(k fleet.Kind, from, to string) fleet.Entity {
	return fleet.Entity{Kind: k, Key: from + " → " + to}
}

// gone reports whether a thing no longer exists, as opposed to: was not seen.
func (in *inspection) gone(e fleet.Entity) bool {
	switch e.Kind {
	case fleet.KindSystem:
		return false
	case fleet.KindRoute:
		from, to, _ := strings.Cut(e.Key, " → ")
		return in.names[from] == nil || in.names[to] == nil
	case fleet.KindGateway:
		// One that is missing is known of as long as it is remembered.
		from, to, _ := strings.Cut(e.Key, " → ")
		return in.names[from] == nil || !slices.ContainsFunc(in.names[from], func(s *fleet.Server) bool {
			_, known := in.engine.gateways[[2]string{s.Cluster, to}]
			return known || !alive(s)
		})
	case fleet.KindLeaf:
		// Of a server that answers, a leaf node that it does not name has left.
		from, _, _ := strings.Cut(e.Key, " → ")
		return in.names[from] == nil || !in.exists[e] && slices.ContainsFunc(in.names[from], alive)
	case fleet.KindConn:
		// Of a server that answers, a connection that is not among the busiest is
		// closed, or has nothing waiting any more.
		name, _, _ := strings.Cut(e.Key, "/")
		return in.names[name] == nil || slices.ContainsFunc(in.names[name], alive)
	case fleet.KindMeta:
		return !slices.ContainsFunc(in.snap.Servers, func(s fleet.Server) bool {
			return !alive(&s) || s.JetStream != nil && s.JetStream.Domain == e.Key
		})
	}
	return !in.exists[e]
}

// good says that a measurement of that time shows nothing wrong.
func (in *inspection) good(e fleet.Entity, at time.Time) {
	k := fleet.FindingKey{Code: in.check.Code, Entity: e}
	if in.engine.tracks[k] != nil { // nearly everything is always good, and nobody asks
		in.verdicts = append(in.verdicts, verdict{FindingKey: k, at: at})
	}
}

// proof is why a thing is bad.
type proof struct {
	severity fleet.Severity // "" is the check's own
	text     string         // one or two sentences with the figures
	command  string
	evidence []fleet.Evidence
	source   fleet.Source
}

// bad says that a measurement of that time shows something wrong.
func (in *inspection) bad(e fleet.Entity, at time.Time, p proof) {
	if p.severity == "" {
		p.severity = in.check.Severity
	}
	for i := range p.evidence {
		p.evidence[i].At = at
		if p.evidence[i].Source == "" {
			p.evidence[i].Source = p.source
		}
	}
	from := ""
	if p.source != "" {
		from = ", " + string(p.source)
	}
	in.verdicts = append(in.verdicts, verdict{
		FindingKey: fleet.FindingKey{Code: in.check.Code, Entity: e}, at: at, bad: true,
		f: &fleet.Finding{
			Severity: p.severity, Title: in.check.Title, Remedy: in.check.Remedy, Command: p.command, Evidence: p.evidence,
			Text: fmt.Sprintf("%s (Measured %s%s.)", p.text, ago(max(0, in.now.Sub(at))), from),
		},
	})
}

// judge is bad or good.
func (in *inspection) judge(e fleet.Entity, at time.Time, isBad bool, p func() proof) {
	if isBad {
		in.bad(e, at, p())
	} else {
		in.good(e, at)
	}
}

func figure(name, value, limit, column string) fleet.Evidence {
	return fleet.Evidence{Name: name, Value: value, Limit: limit, Column: column}
}

func figures(f ...fleet.Evidence) []fleet.Evidence { return f }

// servers calls f for every server that answers.
func (in *inspection) servers(f func(s *fleet.Server)) {
	for i := range in.snap.Servers {
		if s := &in.snap.Servers[i]; alive(s) {
			f(s)
		}
	}
}

// clusterNames are the clusters with a server that answers, sorted.
func (in *inspection) clusterNames() []string {
	var names []string
	for _, s := range in.snap.Servers {
		if in.clusters[s.Cluster] != nil && !slices.Contains(names, s.Cluster) {
			names = append(names, s.Cluster)
		}
	}
	return names
}

// ratio is a part of a whole, 0 of nothing.
func ratio(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

// newest is the later of times.
func newest(ts ...time.Time) time.Time {
	var n time.Time
	for _, t := range ts {
		if t.After(n) {
			n = t
		}
	}
	return n
}
