package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

// round asks every source, waits for those that answered the last time, and
// hands over what arrived. A source that does not answer is not waited for
// again until it does: it must not delay the others' figures. Its late answer
// counts in the next round.
func (c *Collector) round(ctx context.Context) {
	r := &round{c: c, begun: c.now(), awaited: map[any]bool{}}
	r.askSystem(ctx)
	r.askMonitors(ctx)
	r.askAccount(ctx)
	r.askServices(ctx)
	r.collect(ctx)
	if r.discover(ctx) {
		r.collect(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	s := r.assemble(ctx)
	events := append(c.told(ctx), r.news...)
	events = append(events, c.pushed.unsaid(changes(c.last, &s, c.toldBy))...)
	c.wantConfigs = false
	c.stale = c.pushed.changed() || c.stale
	if c.stale && r.early(0) {
		c.stale = false
	}
	c.last, c.toldBy = &s, r.toldBy
	if err := c.sink.PutSnapshot(ctx, s); err != nil && !errors.Is(err, context.Canceled) {
		c.log.ErrorContext(ctx, "snapshot not stored", "err", err)
	}
	if len(events) == 0 {
		return
	}
	if err := c.sink.PutEvents(ctx, events); err != nil && !errors.Is(err, context.Canceled) {
		c.log.ErrorContext(ctx, "events not stored", "events", len(events), "err", err)
	}
}

// told returns what NATS pushed since the last round.
func (c *Collector) told(ctx context.Context) []fleet.Event {
	account := ""
	if c.pushed.own() {
		account = c.account.name(ctx)
	}
	return c.pushed.cut(account)
}

type round struct {
	c       *Collector
	begun   time.Time
	awaited map[any]bool // sources that this round waits for
	toldBy  map[string]bool
	news    []fleet.Event // found while the snapshot was put together
}

// start runs work beside the rounds; what it returns is run by a round.
func (r *round) start(ctx context.Context, source any, await bool, work func(cost *bill) func()) {
	c := r.c
	if await {
		r.awaited[source] = true
	}
	c.open++
	c.inFlight.Go(func() {
		var cost bill
		done := work(&cost)
		select {
		case c.results <- answer{source, cost, done}:
		case <-ctx.Done():
		}
	})
}

// answer is what a source brought; apply is run by the round that takes it.
type answer struct {
	source any
	cost   bill
	apply  func()
}

func (r *round) collect(ctx context.Context) {
	c := r.c
	full := time.NewTimer(min(c.cfg.Interval, requestTimeout+graceTime))
	defer full.Stop()
	grace := time.NewTimer(graceTime)
	defer grace.Stop()
	for c.open > 0 {
		enough := full.C
		if len(r.awaited) == 0 {
			enough = grace.C
		}
		select {
		case a := <-c.results:
			c.open--
			delete(r.awaited, a.source)
			a.cost.addTo(&c.cost)
			a.apply()
		case <-enough:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (r *round) askMonitors(ctx context.Context) {
	for _, e := range r.c.monitor.endpoints {
		if e.last != nil && r.c.system.covers(e.last.server.ID) {
			continue // the system account tells the same of it, at less cost
		}
		r.poll(ctx, e)
	}
}

func (r *round) poll(ctx context.Context, e *endpoint) {
	c := r.c
	if e.busy || !e.due(c.now(), askServer) {
		return
	}
	e.busy = true
	m, copied, begun := c.monitor, *e, c.now()
	what := e.take(begun, c.cfg.Interval, askServer, askTopConns, askBusyConns)
	r.start(ctx, e, e.err == nil, func(cost *bill) func() {
		l, err := m.poll(ctx, copied, what, cost)
		return func() {
			m.took(e, l, err)
			if err == nil {
				now := c.now()
				e.putOff(now, askServer, now.Sub(begun))
			}
			r.pollAssets(ctx, e)
			r.pollExtras(ctx, e)
		}
	})
}

func (r *round) pollAssets(ctx context.Context, e *endpoint) {
	if e.err != nil || e.assetsBusy || e.last.server.JetStream == nil || r.c.now().Before(e.assets.due(r.c.cfg.Interval)) {
		return
	}
	r.readAssets(ctx, e)
}

func (r *round) readAssets(ctx context.Context, e *endpoint) {
	c := r.c
	e.assetsBusy = true
	m, copied := c.monitor, *e
	what := r.configsDue(&e.agenda, e.assets != nil)
	r.start(ctx, assetsOf{e}, e.assetsErr == nil, func(cost *bill) func() {
		a, err := m.pollAssets(ctx, copied, what, cost)
		return func() {
			e.assetsBusy, e.assetsErr = false, err
			if err != nil {
				return
			}
			anew := c.inv.lacks(a) && r.early(a.took)
			e.assets, e.page = a, a.page
			if anew {
				r.readAssets(ctx, e)
			}
		}
	})
}

// assetsOf and extrasOf name the second and third question to a source.
type (
	assetsOf struct{ source any }
	extrasOf struct{ source any }
)

// configsDue decides whether the question for streams and consumers asks for
// their configurations too.
func (r *round) configsDue(a *agenda, read bool) asked {
	if !read || r.c.wantConfigs {
		a.next[askConfigs] = time.Time{}
	}
	return a.take(r.c.now(), r.c.cfg.Interval, askConfigs)
}

// early reports whether configurations may be asked for before their time,
// because something new was told of: not more often than the normal tier, for
// there may always be something new.
func (r *round) early(took time.Duration) bool {
	c := r.c
	if took > slowAnswer || c.now().Sub(c.earlyAt) < time.Duration(everyRounds[fleet.Normal])*c.cfg.Interval {
		return false
	}
	c.earlyAt, c.wantConfigs = c.now(), true
	return true
}

func (r *round) pollExtras(ctx context.Context, e *endpoint) {
	c := r.c
	if e.err != nil || e.extrasBusy {
		return
	}
	what := e.take(c.now(), c.cfg.Interval, askInternal, askAllConns)
	if what == (asked{}) {
		return
	}
	e.extrasBusy = true
	m, copied := c.monitor, *e
	r.start(ctx, extrasOf{e}, false, func(cost *bill) func() {
		x, err := m.pollExtras(ctx, copied, what, cost)
		return func() {
			e.extrasBusy, e.extrasErr = false, err
			if err == nil {
				e.putOffAll(c.now(), what, x.took)
				e.extras = x.after(e.extras, what)
			}
		}
	})
}

func (r *round) askSystemExtras(ctx context.Context) {
	c, s := r.c, r.c.system
	if s.err != nil || s.extrasBusy {
		return
	}
	what := s.take(c.now(), c.cfg.Interval, askInternal, askAllConns)
	if what == (asked{}) {
		return
	}
	of := map[string]fleet.Server{}
	for id := range s.alive {
		of[id] = s.looks[id].server
	}
	s.extrasBusy = true
	ask := s.ask()
	r.start(ctx, extrasOf{s}, false, func(cost *bill) func() {
		got, err := ask.gatherExtras(ctx, of, what, cost)
		return func() {
			s.extrasBusy, s.extrasErr = false, err
			for id, x := range got {
				s.putOffAll(c.now(), what, x.took)
				if s.looks[id] != nil {
					s.extras[id] = x.after(s.extras[id], what)
				}
			}
		}
	})
}

// askServices asks the account's micro services.
func (r *round) askServices(ctx context.Context) {
	c, s := r.c, r.c.services
	if s.nc == nil || s.busy || !s.nc.IsConnected() || !s.due(c.now(), askServices) {
		return
	}
	what := s.take(c.now(), c.cfg.Interval, askServices, askAbout)
	s.busy = true
	account := c.account
	r.start(ctx, s, false, func(cost *bill) func() {
		got, err := s.find(ctx, account.name(ctx), what[askAbout], cost)
		return func() { s.took(got, err) }
	})
}

func (r *round) askSystem(ctx context.Context) {
	s := r.c.system
	if s.nc == nil || s.busy || !s.nc.IsConnected() {
		s.disconnected()
		return
	}
	if !s.due(r.c.now(), askServer) {
		return
	}
	s.busy = true
	ask, begun := s.ask(), r.c.now()
	what := s.take(begun, r.c.cfg.Interval, askServer, askTopConns, askBusyConns)
	r.start(ctx, s, s.err == nil, func(cost *bill) func() {
		got, err := ask.gather(ctx, what, cost)
		return func() {
			s.took(got, err)
			if err == nil && len(got.partial) == 0 {
				now := r.c.now()
				s.putOff(now, askServer, now.Sub(begun))
			}
			r.askSystemAssets(ctx)
			r.askSystemExtras(ctx)
		}
	})
}

func (r *round) askSystemAssets(ctx context.Context) {
	s := r.c.system
	if s.err != nil || s.assetsBusy || !s.assetsDue(r.c.cfg.Interval) {
		return
	}
	r.readSystemAssets(ctx)
}

func (r *round) readSystemAssets(ctx context.Context) {
	c, s := r.c, r.c.system
	of := map[string]fleet.Server{}
	for id := range s.alive {
		of[id] = s.looks[id].server
	}
	s.assetsBusy = true
	ask := s.ask()
	what := r.configsDue(&s.agenda, len(s.assets) >= len(of))
	r.start(ctx, assetsOf{s}, s.assetsErr == nil, func(cost *bill) func() {
		got, err := ask.gatherAssets(ctx, of, what, cost)
		return func() {
			anew := false
			for _, a := range got {
				anew = anew || c.inv.lacks(a) && r.early(a.took)
			}
			s.tookAssets(got, err)
			if anew {
				r.readSystemAssets(ctx)
			}
		}
	})
}

// askAccount reads the account's own JetStream API, when there are streams or
// consumers whose leaders neither monitoring nor the system account can read.
func (r *round) askAccount(ctx context.Context) {
	c, a := r.c, r.c.account
	if a.nc == nil || a.busy || !a.nc.IsConnected() || c.now().Before(a.last.due(c.cfg.Interval)) {
		return
	}
	if c.last != nil && !c.needAccount {
		a.last = nil
		return
	}
	a.busy = true
	r.start(ctx, a, a.err == nil && c.monitor.silent() && c.system.silent(), func(cost *bill) func() {
		got, err := a.list(ctx, cost.in(askConfigs))
		return func() { a.took(got, err) }
	})
}

// discover looks for the monitoring ports of servers that are known from
// others' routes and read by no source.
func (r *round) discover(ctx context.Context) bool {
	m := r.c.monitor
	unread := r.c.unread()
	names := map[string]bool{}
	for _, s := range r.c.servers() {
		names[s.look.server.Name] = true
	}
	found := false
	for _, e := range slices.Clone(m.endpoints) {
		if e.last == nil || e.err != nil {
			continue
		}
		var mine []neighbour
		for _, n := range e.last.known {
			if slices.ContainsFunc(unread, func(u neighbour) bool { return u.id == n.id }) {
				mine = append(mine, n)
			}
		}
		mine = append(mine, behindLeafs(e.last, names)...)
		for _, guess := range m.candidates(e, mine) {
			r.poll(ctx, guess)
			found = true
		}
	}
	return found
}

// behindLeafs are the servers at the other ends of leaf node connections that
// are not among those with these names.
func behindLeafs(l *look, names map[string]bool) []neighbour {
	var out []neighbour
	for _, f := range l.leafs {
		if f.Name == "" || names[f.Name] {
			continue
		}
		out = append(out, neighbour{name: f.Name, ip: f.IP, leaf: true})
	}
	return out
}

// serverKey tells servers apart over their restarts.
type serverKey struct{ cluster, name string }

func keyOf(s *fleet.Server) serverKey { return serverKey{s.Cluster, s.Name} }

// seen is a server in this round: the last look at it and whether it is alive.
type seen struct {
	look   *look
	assets *assets
	extras *extras
	alive  bool
	err    string
}

// servers chooses for each server the newest look at it, a live one first. Two
// that are alive under one name are two servers.
func (c *Collector) servers() []seen {
	byID := map[string]seen{}
	add := func(s seen) {
		id := s.look.server.ID
		old, ok := byID[id]
		if !ok || s.alive && !old.alive || s.alive == old.alive && s.look.server.At.After(old.look.server.At) {
			byID[id] = s
		}
	}
	for _, l := range c.system.looks {
		alive := c.system.alive[l.server.ID]
		if !alive && c.now().Sub(l.server.At) > forgetAfter {
			continue
		}
		add(seen{look: l, assets: c.system.assets[l.server.ID], extras: c.system.extras[l.server.ID], alive: alive, err: "It did not answer the system account's request."})
	}
	for _, e := range c.monitor.endpoints {
		if e.last == nil || !e.configured && e.err != nil && c.now().Sub(e.last.server.At) > forgetAfter {
			continue
		}
		if c.system.covers(e.last.server.ID) {
			continue
		}
		s := seen{look: e.last, assets: e.assets, extras: e.extras, alive: e.err == nil}
		if e.err != nil {
			s.err = "Its monitoring does not answer: " + reason(e.err) + "."
		}
		add(s)
	}
	// One that does not answer, under a name that another one answers to, is what
	// that one was before its restart, unless both ran at the same time.
	became := func(s, o seen) bool {
		now, gone := &o.look.server, &s.look.server
		return keyOf(now) == keyOf(gone) && now.ID != gone.ID && (o.alive || now.At.After(gone.At)) && !ranBeside(now, gone)
	}
	byName := map[serverKey][]seen{}
	for _, s := range byID {
		k := keyOf(&s.look.server)
		byName[k] = append(byName[k], s)
	}
	out := make([]seen, 0, len(byID))
	for _, s := range byID {
		later := func(o seen) bool { return became(s, o) }
		if s.alive || !slices.ContainsFunc(byName[keyOf(&s.look.server)], later) {
			out = append(out, s)
		}
	}
	return out
}

// unread are the servers that live ones are linked to and no source reads.
func (c *Collector) unread() []neighbour {
	all := c.servers()
	ids, names := map[string]bool{}, map[serverKey]bool{}
	for _, s := range all {
		ids[s.look.server.ID] = true
		names[keyOf(&s.look.server)] = true
	}
	var out []neighbour
	for _, s := range all {
		if !s.alive {
			continue
		}
		for _, n := range s.look.known {
			if k := (serverKey{n.cluster, n.name}); !ids[n.id] && !names[k] {
				ids[n.id], names[k] = true, true
				out = append(out, n)
			}
		}
	}
	return out
}

// assemble builds the snapshot of what is known now.
func (r *round) assemble(ctx context.Context) fleet.Snapshot {
	c := r.c
	var s fleet.Snapshot
	all := c.servers()
	live, settling := map[string]bool{}, map[string]bool{}
	var told []*assets
	r.toldBy = map[string]bool{}
	accounts := map[string]*fleet.Account{}
	names, problems := uniqueNames(all, c.last)
	nameOf := func(s *fleet.Server) string { return cmp.Or(names[s.ID], s.Name) }
	for _, one := range all {
		l := one.look
		row := l.server
		row.Name = nameOf(&row)
		if one.alive {
			live[row.Name] = true
			settling[row.Name] = c.isSettling(&row)
			s.Routes = append(s.Routes, l.routes...)
			s.Gateways = append(s.Gateways, l.gateways...)
			s.Leafs = append(s.Leafs, l.leafs...)
			s.Conns = append(s.Conns, l.conns()...)
			problems = append(problems, l.problems...)
			if x := one.extras; x != nil {
				row.Internals = x.internals
				s.ConnSums = append(s.ConnSums, x.conns...)
			}
		} else {
			row.State, row.Error = fleet.Unreachable, one.err
			problems = append(problems, fleet.Problem{
				Where: row.Name, What: one.err, Since: row.At,
				Hint: "Look whether the server runs; its figures are as old as they say.",
			})
		}
		if one.assets != nil && row.JetStream != nil {
			mine := one.assets
			if row.Name != l.server.Name {
				mine = mine.renamed(row.Name)
			}
			told = append(told, c.inv.complete(mine))
			r.toldBy[row.Name] = true
			one.assets.describe(&row)
		}
		sumAccounts(accounts, l.accounts, one.alive)
		if one.alive && one.extras != nil {
			settleAccounts(accounts, one.extras.accounts)
		}
		s.Servers = append(s.Servers, row)
	}
	for _, n := range c.unread() {
		s.Servers = append(s.Servers, fleet.Server{ID: n.id, Name: n.name, Cluster: n.cluster, State: fleet.Unread,
			Error: "It is known from its neighbours only."})
		problems = append(problems, c.unreadProblem(n))
	}
	if a := c.account.last; a != nil {
		told = append(told, a)
		r.toldBy[""] = true
	}
	c.inv.merge(told, func(name string) bool { return live[name] }, func(name string) bool { return settling[name] })
	s.Streams = c.inv.sortedStreams()
	var of map[fleet.ConsumerKey]string
	s.Intake, r.news = c.acks.intake()
	consumers := c.inv.sortedConsumers()
	problems = append(problems, r.crossCheck(ctx, consumers, s.Intake.Waiting)...)
	s.Consumers, of = c.folds.fold(consumers)
	c.foldedIn.Store(&of)
	rename(&s, names)
	for _, one := range all {
		if one.assets != nil && one.alive {
			jetStreamLimits(accounts, one.assets.reserved)
		}
	}
	for _, a := range accounts {
		s.Accounts = append(s.Accounts, *a)
	}
	s.Services = c.services.list()
	s.Queues, s.QueuesCut = c.queues.update(all, nameOf)
	sortSnapshot(&s)
	s.Expected = max(len(s.Servers)+c.pushed.missing(s.Servers), c.system.active)
	problems = append(problems, c.problems(&s)...)
	s.Problems = c.dated(ctx, problems)
	s.Cost = c.cost
	c.cost = fleet.Cost{}
	s.TakenAt = c.now()
	s.Cost.Took = s.TakenAt.Sub(r.begun)
	return s
}

// crossCheck holds the samples of acknowledgements against the consumers.
func (r *round) crossCheck(ctx context.Context, consumers []fleet.Consumer, waiting int) []fleet.Problem {
	c := r.c
	came := c.acks.byConsumer()
	if len(came) == 0 {
		return nil
	}
	account := c.account.name(ctx)
	whole := len(r.toldBy) > 0 && c.inv.gaps == 0 && !c.account.guessed.Load()
	events, missing := c.misfits.judge(c.now(), consumers, account, whole, came, waiting)
	r.news = append(r.news, events...)
	if what := nameMissing(missing); what != "" {
		return []fleet.Problem{{Where: "account " + account, What: what,
			Hint: "A client of the account sends them; permit only the servers to publish to $JS.EVENT.>, by denying it to the users."}}
	}
	return nil
}

// isSettling reports whether a server was restarted under our eyes so recently
// that it may still be recovering its streams.
func (c *Collector) isSettling(s *fleet.Server) bool {
	if s.Now.Sub(s.Start) > time.Minute || c.last == nil {
		delete(c.restarted, s.Name)
		return false
	}
	for i := range c.last.Servers {
		old := &c.last.Servers[i]
		if keyOf(old) == keyOf(s) && old.ID != s.ID && old.State != fleet.Unread {
			c.restarted[s.Name] = true
		}
	}
	return c.restarted[s.Name]
}

// sumAccounts adds one server's figures. Counters of a server that does not
// answer keep counting as they were: without them the sum would fall, as if
// there had been a restart.
func sumAccounts(sums map[string]*fleet.Account, rows []fleet.Account, alive bool) {
	for _, a := range rows {
		sum := sums[a.Name]
		if sum == nil {
			sum = &fleet.Account{Name: a.Name}
			sums[a.Name] = sum
		}
		if alive {
			sum.Conns += a.Conns
			sum.Subs += a.Subs
			sum.Leafs += a.Leafs
		}
		sum.InMsgs += a.InMsgs
		sum.OutMsgs += a.OutMsgs
		sum.InBytes += a.InBytes
		sum.OutBytes += a.OutBytes
		sum.Slow += a.Slow
		if a.At.After(sum.At) {
			sum.At = a.At
		}
	}
}

// maxConns bounds the connections of a snapshot.
const maxConns = 256

func sortSnapshot(s *fleet.Snapshot) {
	slices.SortFunc(s.Servers, func(a, b fleet.Server) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(s.Routes, func(a, b fleet.Route) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Account, b.Account))
	})
	slices.SortFunc(s.Gateways, func(a, b fleet.Gateway) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.ToCluster, b.ToCluster))
	})
	slices.SortFunc(s.Leafs, func(a, b fleet.Leaf) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Account, b.Account))
	})
	slices.SortFunc(s.Accounts, func(a, b fleet.Account) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.ConnSums, func(a, b fleet.ConnSum) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Account, b.Account))
	})
	s.Conns = busiestConns(s.Conns)
}

// busiestConns keeps the first by bytes waiting, by messages and by bytes, in
// the order of the bytes waiting and then of the messages.
func busiestConns(all []fleet.Conn) []fleet.Conn {
	byPending := func(a, b fleet.Conn) int { return cmp.Compare(b.Pending, a.Pending) }
	byMsgs := func(a, b fleet.Conn) int { return cmp.Compare(b.InMsgs+b.OutMsgs, a.InMsgs+a.OutMsgs) }
	byBytes := func(a, b fleet.Conn) int { return cmp.Compare(b.InBytes+b.OutBytes, a.InBytes+a.OutBytes) }
	byID := func(a, b fleet.Conn) int { return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.CID, b.CID)) }
	if len(all) > maxConns {
		type id struct {
			server string
			cid    uint64
		}
		keep := make(map[id]fleet.Conn, maxConns)
		for _, by := range []func(a, b fleet.Conn) int{byPending, byMsgs, byBytes} {
			slices.SortFunc(all, func(a, b fleet.Conn) int { return cmp.Or(by(a, b), byID(a, b)) })
			for _, c := range all[:maxConns/3] {
				keep[id{c.Server, c.CID}] = c
			}
		}
		all = slices.Collect(maps.Values(keep))
	}
	slices.SortFunc(all, func(a, b fleet.Conn) int { return cmp.Or(byPending(a, b), byMsgs(a, b), byID(a, b)) })
	return all
}

func (c *Collector) unreadProblem(n neighbour) fleet.Problem {
	p := fleet.Problem{Where: n.name, What: "It is linked to the others, but its monitoring is not read."}
	url := "its monitoring URL"
	if n.ip != "" {
		port := 8222
		for _, e := range c.monitor.endpoints {
			if e.last != nil && e.last.httpPort != 0 {
				port = e.last.httpPort
				break
			}
		}
		url = "its monitoring URL, perhaps http://" + net.JoinHostPort(n.ip, strconv.Itoa(port)) + ","
	}
	p.Hint = "Add --monitor with " + url + " or connect with a user of the system account, which reaches every server."
	return p
}

// problems are those of the whole, beyond single servers'. It also decides
// whether the account's own JetStream API is needed in the next round.
func (c *Collector) problems(s *fleet.Snapshot) []fleet.Problem {
	var out []fleet.Problem
	add := func(where, what, hint string) {
		out = append(out, fleet.Problem{Where: where, What: what, Hint: hint})
	}
	m, sys, acc := c.monitor, c.system, c.account
	for _, e := range m.endpoints {
		if e.configured && e.last == nil && e.err != nil {
			hint := "Start nats-server with http_port in its configuration, or correct the URL."
			if errors.Is(e.err, context.DeadlineExceeded) {
				hint = "Look whether a firewall lets Ballast reach the port."
			}
			add(e.where, "The monitoring port does not answer: "+reason(e.err)+".", hint)
		}
	}
	for _, e := range m.endpoints {
		if e.err == nil && e.assetsErr != nil && !sys.covers(e.last.server.ID) {
			add(e.last.server.Name, "Its /jsz was not read: "+reason(e.assetsErr)+".", "The figures of its streams and consumers are missing or old.")
		}
	}
	if len(m.endpoints) == 0 && sys.nc == nil {
		add("servers", "Neither a monitoring URL nor a system account is given, so no server can be seen.",
			"Give --monitor http://host:8222 or a user of the system account.")
	}
	if sys.nc != nil {
		switch {
		case !sys.nc.IsConnected():
			add("system account", "Not connected to NATS"+lastError(sys.nc)+".", "It is tried again by itself; look at the URL and the credentials.")
		case sys.err != nil:
			add("system account", "The servers did not answer: "+reason(sys.err)+".",
				"The user needs permission to publish to $SYS.REQ.SERVER.PING.* and to subscribe to its inbox, in the system account.")
		}
		if err := sys.nc.LastError(); sys.nc.IsConnected() && errors.Is(err, nats.ErrPermissionViolation) {
			add("system account", fmt.Sprintf("NATS refuses something: %.200s.", err), "Grant the permissions that the documentation lists for a watching user of the system account.")
		}
		partial := sys.partial
		if err := sys.assetsErr; err != nil {
			partial = append(slices.Clip(partial), "JSZ was not read of all servers: "+reason(err)+".")
		}
		for _, what := range partial {
			add("system account", what, "Figures that come from it are missing or old.")
		}
	}
	silent := m.silent() && sys.silent()
	c.needAccount = silent || c.inv.gaps > 0
	switch {
	case acc.nc == nil:
		if c.inv.unledStreams+c.inv.unledConsumers > 0 {
			add("JetStream", fmt.Sprintf("%d streams and %d consumers are led by servers that are not read.", c.inv.unledStreams, c.inv.unledConsumers),
				"Add the monitoring URLs of the other servers.")
		}
	case !acc.nc.IsConnected():
		add("account", "Not connected to NATS"+lastError(acc.nc)+".", "It is tried again by itself; look at the URL and the credentials.")
	default:
		if c.needAccount && acc.err != nil {
			add("account", "The account's JetStream did not answer: "+reason(acc.err)+".",
				"The user needs permission to publish to $JS.API.STREAM.LIST and $JS.API.CONSUMER.LIST.*, and JetStream must be on in the account.")
		}
		if acc.guessed.Load() {
			add("account", "The server did not tell the name of the account; $G is assumed.",
				"Permit the user to publish to $SYS.REQ.USER.INFO.")
		}
		if err := acc.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
			add("account", fmt.Sprintf("NATS refuses something: %.200s.", err), "Grant the permissions that the documentation lists for a watching user.")
		}
	}
	if acc.nc != nil && acc.nc.IsConnected() {
		if err := c.services.err; err != nil {
			add("micro services", "They were not asked: "+reason(err)+".", "The user needs permission to publish to $SRV.STATS and $SRV.INFO.")
		}
		if c.services.over > 0 {
			add("micro services", fmt.Sprintf("More answered than are kept (%d).", maxServices), "The figures of the others are missing.")
		}
	}
	for _, what := range c.pushed.trouble() {
		add("events", what, "What happened meanwhile is seen by comparing the rounds only.")
	}
	if in := s.Intake; !in.Whole() {
		add("account", fmt.Sprintf("1 of %d acknowledgement samples of each consumer is counted since %s: they come faster than they can be counted.",
			in.Every, in.Since.UTC().Format("15:04:05 UTC")), "Lower sample_freq of the busiest consumers, or give Ballast more processor time.")
	}
	for _, what := range append(c.acks.trouble(), c.reports.trouble()...) {
		add("account", what, "Lower sample_freq of the busiest consumers, or give Ballast more processor time.")
	}
	return out
}

func lastError(nc *nats.Conn) string {
	err := nc.LastError()
	if err == nil {
		return ""
	}
	return ": " + reason(err)
}

// dated says since when each problem is there, and logs those that came and went.
func (c *Collector) dated(ctx context.Context, problems []fleet.Problem) []fleet.Problem {
	slices.SortFunc(problems, func(a, b fleet.Problem) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.What, b.What))
	})
	since := make(map[problemKey]time.Time, len(problems))
	now := c.now()
	for i := range problems {
		p := &problems[i]
		k := problemKey{p.Where, p.What}
		if p.Since.IsZero() {
			p.Since = now
		}
		if t, ok := c.since[k]; !ok {
			c.log.WarnContext(ctx, "problem", "where", p.Where, "what", p.What, "hint", p.Hint)
		} else if t.Before(p.Since) {
			p.Since = t
		}
		since[k] = p.Since
	}
	for k := range c.since {
		if _, ok := since[k]; !ok {
			c.log.InfoContext(ctx, "problem is over", "where", k.where, "what", k.what)
		}
	}
	c.since = since
	return problems
}

// problemKey tells problems apart over the rounds.
type problemKey struct{ where, what string }
