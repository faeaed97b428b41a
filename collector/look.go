package collector

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
)

// look is what one server said of itself in one round. A look is filled by its
// source and never changed afterwards.
type look struct {
	server   fleet.Server
	gateway  string // the cluster's name in a super-cluster
	hasLeafs bool
	served   bool // clients were connected since its start
	httpPort int
	routes   []fleet.Route
	gateways []fleet.Gateway
	leafs    []fleet.Leaf
	accounts []fleet.Account
	waiting  []fleet.Conn // the first by bytes that wait
	busy     []fleet.Conn // the first by what they were sent
	known    []neighbour
	problems []fleet.Problem
}

// neighbour is a server that another one is linked to.
type neighbour struct {
	id, name, cluster string
	ip                string
	leaf              bool // by a leaf node connection: its ID and cluster are not known
}

// assets are the streams and consumers that one server, or the JetStream API of
// one account, told of. Only a leader knows num_pending and num_waiting, so
// rows are taken from leaders; of the others it is kept that they exist.
type assets struct {
	at        time.Time
	took      time.Duration
	size      int64         // bytes of the answer
	page      int           // accounts to ask for at a time the next time; 0: all
	cpu       time.Duration // that the answer took the server; an estimate
	configs   bool          // the rows have their configurations
	held      jsz           // what the server counts
	server    string        // "" for the JetStream API, which answers with every leader's word
	streams   []fleet.Stream
	consumers []fleet.Consumer
	// elsewhere names the leaders of those that this server does not lead; ""
	// while an election runs.
	reserved           map[string]reserved // by account
	elsewhereStreams   map[fleet.StreamKey]string
	elsewhereConsumers map[fleet.ConsumerKey]string
}

func (l *look) setVarz(v *varz, source fleet.Source, at time.Time, rtt time.Duration) {
	s := fleet.Server{
		ID: v.ID, Name: cmp.Or(v.Name, v.ID), Cluster: cmp.Or(v.Cluster.Name, v.Gateway.Name), Version: v.Version,
		Host: v.Host, Port: v.Port, State: fleet.Healthy, At: at, Start: v.Start.Time, Now: v.Now.Time,
		RTT: rtt, Source: source, Cores: v.Cores, CPU: max(v.CPU, 0), Mem: max(v.Mem, 0),
		Conns: v.Connections, Subs: v.Subs, Routes: v.Routes,
		InMsgs: uint64(v.InMsgs), OutMsgs: uint64(v.OutMsgs), InBytes: uint64(v.InBytes), OutBytes: uint64(v.OutBytes),
		SlowConsumers: uint64(v.Slow), Tags: v.Tags,
	}
	if c := v.JetStream.Config; c != nil {
		s.JetStream = &fleet.JetStream{
			Domain: c.Domain, MaxMemory: c.MaxMemory, MaxStore: c.MaxStore,
			Memory: v.JetStream.Stats.Memory, Store: v.JetStream.Stats.Store,
			APITotal: v.JetStream.Stats.API.Total, APIErrors: v.JetStream.Stats.API.Errors,
			MetaLeader: v.JetStream.Meta.Leader, MetaSize: v.JetStream.Meta.Size,
			MetaReplicas: replicas(v.JetStream.Meta.Replicas),
		}
	}
	l.server, l.gateway, l.hasLeafs, l.served = s, v.Gateway.Name, v.Leafs > 0, v.Ever > 0
	l.httpPort = cmp.Or(v.HTTPPort, v.HTTPSPort)
}

// setHealth tells a server in lame duck mode from a healthy one: it listens for
// clients no longer. One that is still starting does not listen yet, but then
// no client ever connected to it.
func (l *look) setHealth(h healthz) {
	if h.Status != "" && h.Status != "ok" {
		l.server.Health = clipped(cmp.Or(h.Error, h.Status), 256)
	}
	// "failed to be ready for connections after 1ms: leafnode, server"
	_, listeners, ok := strings.Cut(h.Error, "ready for connections")
	if ok && l.served && strings.Contains(listeners, "server") {
		l.server.State = fleet.LameDuck
	}
}

// setRoutez sums the connections of a pair of servers: since 2.10 there are
// several.
func (l *look) setRoutez(z *routez) {
	type key struct{ to, account string }
	sums := map[key]*fleet.Route{}
	seen := map[string]bool{}
	for _, r := range z.Routes {
		if r.RemoteID == "" {
			continue // not introduced itself yet
		}
		if !seen[r.RemoteID] {
			seen[r.RemoteID] = true
			l.known = append(l.known, neighbour{id: r.RemoteID, name: cmp.Or(r.RemoteName, r.RemoteID), cluster: l.server.Cluster, ip: r.IP})
		}
		uptime := max(z.Now.Sub(r.Start.Time), 0)
		k := key{r.RemoteID, r.Account}
		sum := sums[k]
		if sum == nil {
			sum = &fleet.Route{
				From: l.server.ID, To: r.RemoteID, ToName: cmp.Or(r.RemoteName, r.RemoteID), Account: r.Account,
				RTT: time.Duration(r.RTT), At: l.server.At, Uptime: uptime, Compression: r.Compression,
			}
			sums[k] = sum
		}
		sum.Conns++
		sum.Pending += r.Pending
		sum.InMsgs += uint64(r.InMsgs)
		sum.OutMsgs += uint64(r.OutMsgs)
		sum.InBytes += uint64(r.InBytes)
		sum.OutBytes += uint64(r.OutBytes)
		sum.Subs += r.Subs
		sum.DidSolicit = sum.DidSolicit || r.DidSolicit
		sum.IsConfigured = sum.IsConfigured || r.IsConfigured
		sum.Uptime = max(sum.Uptime, uptime)
		if rtt := time.Duration(r.RTT); rtt > 0 && (sum.RTT == 0 || rtt < sum.RTT) {
			sum.RTT = rtt
		}
	}
	for _, r := range sums {
		l.routes = append(l.routes, *r)
	}
}

func (l *look) setGatewayz(z *gatewayz) {
	for cluster, g := range z.Outbound {
		row := fleet.Gateway{From: l.server.ID, FromCluster: cmp.Or(z.Name, l.server.Cluster), ToCluster: cluster, At: l.server.At}
		if c := g.Connection; c != nil {
			row.RTT, row.OutMsgs, row.OutBytes = time.Duration(c.RTT), uint64(c.OutMsgs), uint64(c.OutBytes)
			l.known = append(l.known, neighbour{id: c.Name, name: c.Name, cluster: cluster, ip: c.IP})
		}
		for _, in := range z.Inbound[cluster] {
			if in != nil && in.Connection != nil {
				row.InMsgs += uint64(in.Connection.InMsgs)
				row.InBytes += uint64(in.Connection.InBytes)
			}
		}
		l.gateways = append(l.gateways, row)
	}
}

func (l *look) setLeafz(z *leafz) {
	for _, f := range z.Leafs {
		l.leafs = append(l.leafs, fleet.Leaf{
			Server: l.server.ID, Name: f.Name, Account: f.Account, IP: f.IP, RTT: time.Duration(f.RTT),
			InMsgs: uint64(f.InMsgs), OutMsgs: uint64(f.OutMsgs), InBytes: uint64(f.InBytes), OutBytes: uint64(f.OutBytes),
			Subs: f.Subs, At: l.server.At,
		})
	}
}

func (l *look) setAccstatz(z *accstatz) {
	for _, a := range z.Accounts {
		l.accounts = append(l.accounts, fleet.Account{
			Name: cmp.Or(a.Name, a.ID), Conns: a.Conns, Subs: a.Subs,
			InMsgs: uint64(a.Received.Msgs), InBytes: uint64(a.Received.Bytes),
			OutMsgs: uint64(a.Sent.Msgs), OutBytes: uint64(a.Sent.Bytes),
			Slow: uint64(a.Slow), At: l.server.At, Leafs: max(a.Leafs, 0),
		})
	}
}

func (l *look) addConnz(q question, z *connz) {
	to := &l.waiting
	if q == askBusyConns {
		to = &l.busy
	}
	for _, c := range z.Conns {
		if hasConn(*to, c.CID) {
			continue
		}
		*to = append(*to, fleet.Conn{
			Server: l.server.ID, CID: c.CID, Name: c.Name, Account: cmp.Or(c.NameTag, c.Account), User: c.User,
			Lang: c.Lang, Version: c.Version, IP: c.IP, RTT: time.Duration(c.RTT), Pending: c.Pending, Subs: c.Subs,
			InMsgs: uint64(c.InMsgs), OutMsgs: uint64(c.OutMsgs), InBytes: uint64(c.InBytes), OutBytes: uint64(c.OutBytes),
			Start: c.Start.Time, Idle: c.Idle, At: l.server.At,
		})
	}
}

func hasConn(list []fleet.Conn, cid uint64) bool {
	return slices.ContainsFunc(list, func(o fleet.Conn) bool { return o.CID == cid })
}

// keepConns takes over the connections that were not asked for now from the
// look before, if there is one.
func (l *look) keepConns(old *look, what asked) {
	if old == nil || old.server.ID != l.server.ID {
		return
	}
	if !what[askTopConns] {
		l.waiting = old.waiting
	}
	if !what[askBusyConns] {
		l.busy = old.busy
	}
}

// conns are the first connections by every order, each once, by its newest
// figures.
func (l *look) conns() []fleet.Conn {
	newer, older := l.waiting, l.busy
	if len(newer) > 0 && len(older) > 0 && older[0].At.After(newer[0].At) {
		newer, older = older, newer
	}
	out := slices.Clone(newer)
	for _, c := range older {
		if !hasConn(newer, c.CID) {
			out = append(out, c)
		}
	}
	return out
}

// readAssets reads the /jsz answer of a server.
func readAssets(d *json.Decoder, of *fleet.Server, at time.Time) (*assets, error) {
	a := newAssets(of.Name, at)
	var err error
	a.held, err = readJSZ(d, a.sink(of.Source))
	if err == nil && a.held.ID != of.ID {
		err = errors.New("the answer is another server's")
	}
	if err != nil {
		return nil, err
	}
	a.size = d.InputOffset()
	return a, nil
}

func newAssets(server string, at time.Time) *assets {
	return &assets{
		at: at, server: server, reserved: map[string]reserved{},
		elsewhereStreams: map[fleet.StreamKey]string{}, elsewhereConsumers: map[fleet.ConsumerKey]string{},
	}
}

// due is when these may be asked for again, if rounds begin once an interval.
func (a *assets) due(interval time.Duration) time.Time {
	if a == nil {
		return time.Time{}
	}
	rest := min(cpuDuty*a.cpu, 3*interval/2) // the round after the next, and not the one after that
	return a.at.Add(max(rest, min(bulkDuty*a.took, time.Minute)))
}

// describe adds what /jsz alone tells of the server.
func (a *assets) describe(s *fleet.Server) {
	if a == nil || s.JetStream == nil {
		return
	}
	js := *s.JetStream
	js.Streams, js.Consumers, js.Messages = a.held.Streams, a.held.Consumers, a.held.Messages
	s.JetStream = &js
}

func (a *assets) sink(source fleet.Source) jszSink {
	return jszSink{
		account: func(account string, r reserved) { a.reserved[account] = r },
		stream: func(account string, s *streamDetail) error {
			a.addStream(fleet.StreamKey{Account: account, Stream: s.Name}, s, source)
			return nil
		},
		consumer: func(account, stream string, c *consumerDetail) error {
			a.addConsumer(fleet.ConsumerKey{Account: account, Stream: stream, Consumer: c.Name}, c, source)
			return nil
		},
	}
}

// leads reports whether the row is this source's to give, and who leads.
func (a *assets) leads(g *raftGroup) (leader string, ours bool) {
	if g == nil || g.Leader == "" && len(g.Replicas) == 0 {
		return a.server, true // not replicated
	}
	return g.Leader, g.Leader != "" && (a.server == "" || g.Leader == a.server)
}

func (a *assets) addStream(k fleet.StreamKey, s *streamDetail, source fleet.Source) {
	leader, ours := a.leads(s.Cluster)
	if !ours {
		a.elsewhereStreams[k] = leader
		return
	}
	row := fleet.Stream{
		StreamKey: k, Created: s.Created.Time, Subjects: s.Config.Subjects, Storage: s.Config.Storage,
		Retention: s.Config.Retention, Discard: s.Config.Discard, Replicas: s.Config.Replicas, Leader: leader,
		Messages: s.State.Messages, Bytes: s.State.Bytes, FirstSeq: s.State.FirstSeq, LastSeq: s.State.LastSeq,
		LastTime: s.State.LastTime.Time, Consumers: s.State.Consumers,
		MaxBytes: s.Config.MaxBytes, MaxMsgs: s.Config.MaxMsgs, PerSubject: s.Config.PerSubject, MaxAge: s.Config.MaxAge, Metadata: s.Config.Metadata,
		Limits: fleet.ThresholdsOf(s.Config.Metadata), Distinct: s.State.Subjects, At: a.at, Source: source,
	}
	if s.Mirror != nil {
		row.Mirror = new(s.Mirror.seen())
	}
	for _, o := range s.Origins {
		row.Origins = append(row.Origins, o.seen())
	}
	if s.Cluster != nil {
		row.Peers = replicas(s.Cluster.Replicas)
	}
	a.streams = append(a.streams, row)
}

func (o origin) seen() fleet.Origin {
	out := fleet.Origin{Name: clipped(o.Name, 256), Lag: o.Lag, Active: o.Active}
	if o.Error != nil {
		out.Error = clipped(o.Error.Description, 256)
	}
	return out
}

func (a *assets) addConsumer(k fleet.ConsumerKey, c *consumerDetail, source fleet.Source) {
	leader, ours := a.leads(c.Cluster)
	if !ours {
		a.elsewhereConsumers[k] = leader
		return
	}
	filters := c.Config.FilterSubjects
	if len(filters) == 0 && c.Config.FilterSubject != "" {
		filters = []string{c.Config.FilterSubject}
	}
	row := fleet.Consumer{
		ConsumerKey: k, Created: c.Created.Time, Leader: leader, FilterSubjects: filters,
		AckPolicy: c.Config.AckPolicy, AckWait: c.Config.AckWait, MaxDeliver: c.Config.MaxDeliver,
		MaxAckPending: c.Config.MaxAckPending, SampleFreq: c.Config.SampleFreq, Backoff: c.Config.Backoff,
		Delivered: c.Delivered.Consumer, DeliveredSeq: c.Delivered.Stream,
		AckFloor: c.AckFloor.Consumer, AckFloorSeq: c.AckFloor.Stream,
		LastDelivery: c.Delivered.Last.Time, LastAck: c.AckFloor.Last.Time,
		AckPending: c.AckPending, Redelivered: c.Redelivered, Pending: c.Pending, Waiting: c.Waiting,
		Paused: c.Paused, Push: c.Config.DeliverSubject != "", Metadata: c.Config.Metadata,
		Limits: fleet.ThresholdsOf(c.Config.Metadata), Durable: c.Config.Durable != "", Inactive: c.Config.Inactive,
		Priority: c.Config.Priority, At: a.at, Source: source,
	}
	if c.Cluster != nil {
		row.Peers = replicas(c.Cluster.Replicas)
	}
	for _, g := range c.Groups {
		row.Groups = append(row.Groups, fleet.PriorityGroup{Name: clipped(g.Name, 64), Pinned: clipped(g.Pinned, 64)})
	}
	a.consumers = append(a.consumers, row)
}

func replicas(peers []peer) []fleet.Replica {
	if len(peers) == 0 {
		return nil
	}
	out := make([]fleet.Replica, len(peers))
	for i, p := range peers {
		out[i] = fleet.Replica{Name: p.Name, Current: p.Current, Offline: p.Offline, Active: p.Active, Lag: p.Lag}
	}
	return out
}

// inventory merges what the servers told of streams and consumers.
type inventory struct {
	streams   map[fleet.StreamKey]fleet.Stream
	consumers map[fleet.ConsumerKey]fleet.Consumer
	// unled counts those whose leader nobody could read, so that no figures of
	// them are known at all.
	unledStreams, unledConsumers int
	// gaps counts those whose leader is no server that is read; the account's own
	// JetStream API may know them.
	gaps int
}

// lacks reports whether something was told of whose configuration is not known:
// it is new, or was made anew.
func (inv *inventory) lacks(a *assets) bool {
	if a.configs {
		return false
	}
	for i := range a.streams {
		if !inv.configured(&a.streams[i]) {
			return true
		}
	}
	for i := range a.consumers {
		c := &a.consumers[i]
		if !inv.configuredConsumer(c) && patternOf(c) == c.Consumer {
			return true // a short-lived one is not worth the question
		}
	}
	return false
}

func (inv *inventory) configured(s *fleet.Stream) bool {
	old, ok := inv.streams[s.StreamKey]
	return ok && old.Storage != "" && old.Created.Equal(s.Created)
}

func (inv *inventory) configuredConsumer(c *fleet.Consumer) bool {
	old, ok := inv.consumers[c.ConsumerKey]
	return ok && old.AckPolicy != "" && old.Created.Equal(c.Created)
}

// complete gives rows that were read without their configurations those that
// were read before.
func (inv *inventory) complete(a *assets) *assets {
	if a.configs {
		return a
	}
	full := *a
	full.streams, full.consumers = slices.Clone(a.streams), slices.Clone(a.consumers)
	for i := range full.streams {
		s := &full.streams[i]
		if !inv.configured(s) {
			continue
		}
		old := inv.streams[s.StreamKey]
		s.Subjects, s.Storage, s.Retention, s.Replicas = old.Subjects, old.Storage, old.Retention, old.Replicas
		s.MaxBytes, s.MaxMsgs, s.MaxAge, s.Metadata, s.Limits = old.MaxBytes, old.MaxMsgs, old.MaxAge, old.Metadata, old.Limits
		s.Discard, s.PerSubject = old.Discard, old.PerSubject
	}
	for i := range full.consumers {
		c := &full.consumers[i]
		if !inv.configuredConsumer(c) {
			continue
		}
		old := inv.consumers[c.ConsumerKey]
		c.FilterSubjects, c.AckPolicy, c.AckWait, c.MaxDeliver = old.FilterSubjects, old.AckPolicy, old.AckWait, old.MaxDeliver
		c.MaxAckPending, c.SampleFreq, c.Push, c.Metadata = old.MaxAckPending, old.SampleFreq, old.Push, old.Metadata
		c.Limits, c.Durable, c.Inactive, c.Priority = old.Limits, old.Durable, old.Inactive, old.Priority
	}
	return &full
}

// merge takes the latest word of every source. live tells the servers that
// answered in this round.
//
// A row comes from its leader. While nobody claims to lead it (an election, or
// a leader that moved between two servers' answers) the row of before stays,
// with its old date. What no source knows any more is gone, unless it was led
// by a server that is settling: one that has just started lists its streams
// only as it recovers them.
func (inv *inventory) merge(all []*assets, live, settling func(server string) bool) {
	streams := mergeRows(all, inv.streams, live, settling,
		func(a *assets) []fleet.Stream { return a.streams },
		func(a *assets) map[fleet.StreamKey]string { return a.elsewhereStreams },
		func(s *fleet.Stream) (fleet.StreamKey, time.Time, *string) { return s.StreamKey, s.At, &s.Leader })
	consumers := mergeRows(all, inv.consumers, live, settling,
		func(a *assets) []fleet.Consumer { return a.consumers },
		func(a *assets) map[fleet.ConsumerKey]string { return a.elsewhereConsumers },
		func(c *fleet.Consumer) (fleet.ConsumerKey, time.Time, *string) { return c.ConsumerKey, c.At, &c.Leader })
	inv.streams, inv.unledStreams = streams.rows, streams.unled
	inv.consumers, inv.unledConsumers = consumers.rows, consumers.unled
	inv.gaps = streams.gaps + consumers.gaps
}

type merged[K comparable, R any] struct {
	rows        map[K]R
	unled, gaps int
}

func mergeRows[K comparable, R any](all []*assets, before map[K]R, live, settling func(string) bool,
	led func(*assets) []R, elsewhere func(*assets) map[K]string, meta func(*R) (K, time.Time, *string)) merged[K, R] {
	out := merged[K, R]{rows: make(map[K]R, len(before))}
	fresh := make(map[K]bool, len(before))
	byServer := make(map[K]bool, len(before))
	for _, a := range all {
		rows := led(a)
		for i := range rows {
			k, at, _ := meta(&rows[i])
			byServer[k] = byServer[k] || a.server != ""
			if old, ok := out.rows[k]; ok {
				if _, oldAt, _ := meta(&old); !at.After(oldAt) {
					continue
				}
			}
			out.rows[k] = rows[i]
			fresh[k] = a.server == "" || live(a.server)
		}
	}
	type word struct {
		leader string
		at     time.Time
	}
	said, gaps := map[K]word{}, map[K]bool{}
	for _, a := range all {
		for k, leader := range elsewhere(a) {
			if !byServer[k] {
				gaps[k] = true
			}
			if !fresh[k] && !a.at.Before(said[k].at) {
				said[k] = word{leader, a.at}
			}
		}
	}
	out.gaps = len(gaps)
	for k, w := range said {
		row, ok := out.rows[k]
		if !ok {
			row, ok = before[k]
		}
		if !ok {
			out.unled++
			continue
		}
		if _, at, leader := meta(&row); w.at.After(at) {
			*leader = w.leader
		}
		out.rows[k] = row
	}
	for k, row := range before {
		if _, ok := out.rows[k]; ok {
			continue
		}
		if _, _, leader := meta(&row); settling(*leader) {
			out.rows[k] = row
		}
	}
	return out
}

func (inv *inventory) sortedStreams() []fleet.Stream {
	return slices.SortedFunc(maps.Values(inv.streams), func(a, b fleet.Stream) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Stream, b.Stream))
	})
}

func (inv *inventory) sortedConsumers() []fleet.Consumer {
	return slices.SortedFunc(maps.Values(inv.consumers), func(a, b fleet.Consumer) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Consumer, b.Consumer))
	})
}
