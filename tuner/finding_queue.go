package tuner

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"

	"ballast/fleet"
)

var queueChecks = []check{
	{fleet.Check{Code: "QUE001", Title: "Queue group has stale members", Severity: fleet.Warning,
		What:   "Beside a member of a dynamic group, named <group>.<start>.<pid>, stands one of an earlier start: a queue group, or a durable consumer from which nobody pulls for a minute. Or a member gets nothing, while the members of its group in the same cluster get 20 messages each or more between two looks.",
		Why:    "Every queue group and every consumer gets its own copy of each message: either the work is done twice, or messages pile up for a process that is gone. A member that gets nothing takes no load off the others, mostly because its permissions deny what the group is sent.",
		Remedy: "Stop the instances or remove the consumers of earlier starts; set inactive_threshold so that they go by themselves. Give a member without messages the permissions of the others.",
	}, checkMembers},
}

// dynamicName is that of a member of a dynamic group: <group>-<start>-<pid>,
// the start in seconds to nanoseconds since 1970.
var dynamicName = regexp.MustCompile(`^(.+)[-_.](1\d{9}|1\d{12}|1\d{15}|1\d{18})[-_.](\d{1,7})$`)

// generation splits a dynamic name; ok is false for any other.
func generation(name string) (group string, start int64, ok bool) {
	if len(name) < 14 || name[len(name)-1] < '0' || name[len(name)-1] > '9' {
		return "", 0, false // most names; the expression costs more
	}
	m := dynamicName.FindStringSubmatch(name)
	if m == nil {
		return "", 0, false
	}
	n, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil {
		return "", 0, false
	}
	for n < 1e18 {
		n *= 1000
	}
	return m[1], n, true
}

// generations are the members of one dynamic group, by the names of their
// queue groups or consumers.
type generations struct {
	where   string
	name    string
	idle    map[string]bool  // by name of the member
	start   map[string]int64 // of each
	newest  int64
	at      time.Time
	source  fleet.Source
	command string
}

// stale are the members of an earlier start than the newest.
func (g *generations) stale() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(g.start)) {
		if g.idle[name] && g.start[name] < g.newest {
			out = append(out, name)
		}
	}
	return out
}

func checkMembers(in *inspection) {
	groups := map[string]*generations{}
	// whose names a group by its key, what it is of, and the command about it; most
	// names are of no group.
	add := func(name string, whose func() (key, where, command string), at time.Time, source fleet.Source, idle bool) {
		base, start, ok := generation(name)
		if !ok {
			return
		}
		key, where, command := whose()
		g := groups[key+" "+base]
		if g == nil {
			g = &generations{where: where, name: base, source: source, command: command, idle: map[string]bool{}, start: map[string]int64{}}
			groups[key+" "+base] = g
		}
		g.idle[name], g.start[name] = idle, start
		g.at, g.newest = newest(g.at, at), max(g.newest, start)
	}
	in.eachConsumer(func(e fleet.Entity, c *fleet.Consumer) {
		if c.Leader != "" {
			add(c.Consumer, func() (string, string, string) {
				where := "stream " + c.Account + "/" + c.Stream
				return where, where, about("nats consumer report", c.Stream)
			}, c.At, c.Source, c.Waiting == 0 && quiet(in, c) >= in.lim.Stuck)
		}
	})
	// Every generation has its own queue group: each of them gets every message.
	told := map[string]bool{}
	for i := range in.snap.Queues {
		q := &in.snap.Queues[i]
		told[q.Account+"/"+q.Subject] = true
		add(q.Queue, func() (string, string, string) {
			return q.Account + "/" + q.Subject, "subject " + q.Subject + " of account " + q.Account, about("nats server report connections --sort subs")
		}, q.At, "", true)
		in.without(q)
	}
	// What services say of themselves counts where the servers do not tell of the
	// subject: theirs is read rarely, and a mixture would be of no one moment.
	for i := range in.snap.Services {
		s := &in.snap.Services[i]
		for j := range s.Endpoints {
			if p := &s.Endpoints[j]; !told[s.Account+"/"+p.Subject] {
				add(p.Queue, func() (string, string, string) {
					return s.Account + "/" + p.Subject, "service " + s.Name + ", subject " + p.Subject, about("nats micro info", s.Name)
				}, s.At, "", true)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		g := groups[k]
		e := fleet.Entity{Kind: fleet.KindQueue, Key: k}
		in.exists[e] = true
		stale := g.stale()
		in.judge(e, g.at, len(stale) > 0, func() proof {
			return proof{
				text:   fmt.Sprintf("Of group %s of %s, %s of an earlier start stand beside a newer one: %s.", g.name, g.where, plural(len(stale), "member"), list(stale)),
				source: g.source, command: g.command, evidence: figures(figure("stale members", number(float64(len(stale))), "0", "")),
			}
		})
	}
}

// without judges whether a member of a group gets nothing while the others do.
// Servers spread a group's messages evenly over the members of their cluster,
// and send them to other clusters only when there are none: those are not
// compared with each other.
func (in *inspection) without(q *fleet.QueueGroup) {
	e := q.Entity()
	in.exists[e] = true
	if q.Span <= 0 {
		return // seen once: nothing is known of its traffic
	}
	var stale []string
	for i := range q.Members {
		m := &q.Members[i]
		if q.Rate*q.Span.Seconds() < in.lim.Share {
			break // too few for anybody, and most groups are idle
		}
		if s := in.ids[m.Server]; s != nil && m.Span > 0 && m.Rate == 0 && in.busyBeside(q, s) {
			stale = append(stale, fmt.Sprintf("%s (connection %d of %s)", cmp.Or(clip(m.Name, 60), "unnamed"), m.CID, s.Name))
		}
	}
	in.judge(e, q.At, len(stale) > 0, func() proof {
		return proof{
			text: fmt.Sprintf("Queue group %s of subject %s in account %s got %s msg/s, and %s of its %d none of them: %s.", q.Queue, q.Subject, q.Account, number(q.Rate),
				plural(len(stale), "member"), q.Total, list(stale[:min(len(stale), 5)])),
			command:  about("nats server report connections --sort subs"),
			evidence: figures(figure("members without messages", number(float64(len(stale))), "0", ""), figure("messages of the group", number(q.Rate)+" msg/s", "", "")),
		}
	})
}

// busyBeside reports whether the members of a group that are in the cluster of a
// server got enough messages for each to get some.
func (in *inspection) busyBeside(q *fleet.QueueGroup, s *fleet.Server) bool {
	members, got := 0, 0.0
	for i := range q.Members {
		m := &q.Members[i]
		o := in.ids[m.Server]
		if o == nil || m.Span <= 0 || o != s && (s.Cluster == "" || o.Cluster != s.Cluster) {
			continue // a server without a cluster stands alone
		}
		members++
		got += m.Rate * m.Span.Seconds()
	}
	return got >= in.lim.Share*float64(members)
}
