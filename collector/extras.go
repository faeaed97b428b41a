package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"ballast/fleet"
)

const (
	// connPage is half of what a server gives by itself: it holds its locks for a
	// page, and two thousand connections are four.
	connPage = 512
	// maxConnPages bounds the connections of a server that are summed to 65,536.
	maxConnPages = 128
	maxQueues    = 8
)

// extras are what a server is asked for rarely. They are filled by their source
// and never changed afterwards.
type extras struct {
	internals *fleet.Internals
	conns     []fleet.ConnSum
	cut       bool                             // there are more connections than were summed
	accounts  map[string]fleet.AccountSettings // by name
	queues    []queueSub
	queuesAt  time.Time // zero: never read
	queuesCut bool      // there are more queue subscriptions than were read
	took      time.Duration
}

// connSums adds connections up, page by page. A page may repeat connections of
// the one before, because some were opened or closed in between.
type connSums struct {
	server string
	at     time.Time
	seen   map[uint64]struct{}
	by     map[string]*fleet.ConnSum
}

func newConnSums(server string, at time.Time) *connSums {
	return &connSums{server: server, at: at, seen: map[uint64]struct{}{}, by: map[string]*fleet.ConnSum{}}
}

func (s *connSums) add(z *connz) {
	for i := range z.Conns {
		c := &z.Conns[i]
		if _, again := s.seen[c.CID]; again {
			continue
		}
		s.seen[c.CID] = struct{}{}
		account := cmp.Or(c.NameTag, c.Account)
		sum := s.by[account]
		if sum == nil {
			sum = &fleet.ConnSum{Server: s.server, Account: account, At: s.at, Clients: map[string]int{}}
			s.by[account] = sum
		}
		sum.Conns++
		sum.Subs += c.Subs
		sum.Pending += c.Pending
		sum.InMsgs += uint64(c.InMsgs)
		sum.OutMsgs += uint64(c.OutMsgs)
		sum.InBytes += uint64(c.InBytes)
		sum.OutBytes += uint64(c.OutBytes)
		client := clipped(c.Lang, 32) + " " + clipped(c.Version, 32)
		if c.Lang == "" {
			client = "unknown"
		}
		if _, ok := sum.Clients[client]; !ok && len(sum.Clients) >= maxClients {
			client = "other"
		}
		sum.Clients[client]++
	}
}

// maxClients bounds the client libraries that are told apart; their names come
// from the clients.
const maxClients = 32

func (s *connSums) list() []fleet.ConnSum {
	out := make([]fleet.ConnSum, 0, len(s.by))
	for _, sum := range s.by {
		out = append(out, *sum)
	}
	slices.SortFunc(out, func(a, b fleet.ConnSum) int { return cmp.Compare(a.Account, b.Account) })
	return out
}

// subsz are the totals of a server's table of subscriptions.
type subsz struct {
	Subs      int     `json:"num_subscriptions"`
	Cached    int     `json:"num_cache"`
	Inserts   counter `json:"num_inserts"`
	Removes   counter `json:"num_removes"`
	Matches   counter `json:"num_matches"`
	CacheHits float64 `json:"cache_hit_rate"`
	MaxFanout int     `json:"max_fanout"`
	AvgFanout float64 `json:"avg_fanout"`
}

func (z *subsz) totals() fleet.SubTotals {
	return fleet.SubTotals{
		Subs: z.Subs, Cached: z.Cached, Inserts: uint64(z.Inserts), Removes: uint64(z.Removes), Matches: uint64(z.Matches),
		CacheHits: z.CacheHits, MaxFanout: z.MaxFanout, AvgFanout: z.AvgFanout,
	}
}

type raftState struct {
	State      string `json:"state"`
	Leader     string `json:"leader"`
	Committed  uint64 `json:"committed"`
	Applied    uint64 `json:"applied"`
	CatchingUp bool   `json:"catching_up"`
	Proposals  int    `json:"ipq_proposal_len"`
	Entries    int    `json:"ipq_entry_len"`
	Responses  int    `json:"ipq_resp_len"`
	Applies    int    `json:"ipq_apply_len"`
}

// readRaftz sums the groups of a /raftz answer, which may be many thousand.
func readRaftz(d *json.Decoder) (fleet.RaftTotals, error) {
	var out fleet.RaftTotals
	err := object(d, func(string) error { // account
		return object(d, func(group string) error {
			var g raftState
			if err := d.Decode(&g); err != nil {
				return err
			}
			out.Groups++
			if g.State == "LEADER" {
				out.Leading++
			}
			if g.Leader == "" && g.State != "LEADER" {
				out.Leaderless++
			}
			if g.CatchingUp {
				out.CatchingUp++
			}
			if lag := g.Committed - min(g.Applied, g.Committed); lag > out.MaxLag {
				out.MaxLag, out.MaxLagOf = lag, clipped(group, 128)
			}
			out.Waiting += max(g.Proposals, 0) + max(g.Entries, 0) + max(g.Responses, 0) + max(g.Applies, 0)
			return nil
		})
	})
	return out, err
}

// readIpqueuesz keeps the queues with the most waiting.
func readIpqueuesz(d *json.Decoder) ([]fleet.ServerQueue, error) {
	var out []fleet.ServerQueue
	err := object(d, func(name string) error {
		var q struct {
			Pending    int `json:"pending"`
			InProgress int `json:"in_progress"`
		}
		if err := d.Decode(&q); err != nil {
			return err
		}
		if q.Pending > 0 || q.InProgress > 0 {
			out = append(out, fleet.ServerQueue{Name: clipped(name, 128), Pending: q.Pending, InProgress: q.InProgress})
		}
		if len(out) > 4*maxQueues {
			out = busiest(out)
		}
		return nil
	})
	return busiest(out), err
}

func busiest(q []fleet.ServerQueue) []fleet.ServerQueue {
	slices.SortFunc(q, func(a, b fleet.ServerQueue) int {
		return cmp.Or(cmp.Compare(b.Pending, a.Pending), cmp.Compare(b.InProgress, a.InProgress), cmp.Compare(a.Name, b.Name))
	})
	return slices.Clip(q[:min(len(q), maxQueues)])
}

// pollExtras asks one server for what changes slowly. It ends with the first
// part that is not answered; an older server offers fewer parts.
func (m *monitor) pollExtras(ctx context.Context, e endpoint, what asked, cost *bill) (*extras, error) {
	begun := m.now()
	x := &extras{}
	if what[askInternal] {
		in := &fleet.Internals{At: begun}
		cost.in(askInternal)
		err := m.get(ctx, e, "/subsz", requestTimeout, cost, func(d *json.Decoder) error {
			var z subsz
			err := d.Decode(&z)
			in.Subs = z.totals()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read /subsz: %w", err)
		}
		// A server that is not clustered has no Raft groups and answers 404.
		if e.last.server.JetStream != nil {
			m.get(ctx, e, "/raftz", bulkTimeout, cost, func(d *json.Decoder) (err error) {
				in.Raft, err = readRaftz(d)
				return err
			})
		}
		m.get(ctx, e, "/ipqueuesz", bulkTimeout, cost, func(d *json.Decoder) (err error) {
			in.Queues, err = readIpqueuesz(d)
			return err
		})
		x.internals = in
		x.accounts = m.pollAccounts(ctx, e, cost)
	}
	if what[askAllConns] {
		sums, subs := newConnSums(e.last.server.ID, begun), newQueueSubs(e.last.server.ID)
		detail := ""
		if e.last.server.Subs <= maxSubsAsked {
			detail = "&subs=detail"
		}
		cost.in(askAllConns)
		total := 1
		for page := 0; page*connPage < total; page++ {
			if page == maxConnPages {
				x.cut = true
				break
			}
			path := fmt.Sprintf("/connz?auth=1&limit=%d&offset=%d%s", connPage, page*connPage, detail)
			err := m.get(ctx, e, path, bulkTimeout, cost, func(d *json.Decoder) error {
				z, err := readConnz(d, connPage)
				if len(z.Conns) == 0 {
					total = 0
				} else {
					total = z.Total
				}
				sums.add(z.plain())
				subs.add(z)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("read /connz: %w", err)
			}
		}
		x.conns = sums.list()
		x.setQueues(subs, begun, detail != "")
	}
	x.took = m.now().Sub(begun)
	return x, nil
}

// gatherExtras asks every server for what changes slowly.
func (a systemAsk) gatherExtras(ctx context.Context, of map[string]fleet.Server, what asked, cost *bill) (map[string]*extras, error) {
	begun := a.now()
	got := map[string]*extras{}
	for id := range of {
		got[id] = &extras{}
	}
	n := len(of)
	// A part that is missing is not worth a problem: older servers have fewer.
	part := func(kind string, read func(in *fleet.Internals, d *json.Decoder) error) {
		a.each(ctx, kind, nil, n, n, cost, func(id string, d *json.Decoder) error {
			x := got[id]
			if x == nil {
				return d.Decode(&skip{})
			}
			if x.internals == nil {
				x.internals = &fleet.Internals{At: begun}
			}
			return read(x.internals, d)
		})
	}
	if what[askInternal] {
		cost.in(askInternal)
		part("SUBSZ", func(in *fleet.Internals, d *json.Decoder) error {
			var z subsz
			err := d.Decode(&z)
			in.Subs = z.totals()
			return err
		})
		part("RAFTZ", func(in *fleet.Internals, d *json.Decoder) (err error) {
			in.Raft, err = readRaftz(d)
			return err
		})
		part("IPQUEUESZ", func(in *fleet.Internals, d *json.Decoder) (err error) {
			in.Queues, err = readIpqueuesz(d)
			return err
		})
		for id, accounts := range a.gatherAccounts(ctx, of, cost) {
			got[id].accounts = accounts
		}
	}
	if what[askAllConns] {
		cost.in(askAllConns)
		sums, subs := map[string]*connSums{}, map[string]*queueSubs{}
		// One question goes to all servers alike: if the list of one is too long,
		// it is asked of none.
		detail := true
		for id, srv := range of {
			sums[id], subs[id] = newConnSums(id, begun), newQueueSubs(id)
			detail = detail && srv.Subs <= maxSubsAsked
		}
		more := true
		for page := 0; more; page++ {
			if page == maxConnPages {
				for _, x := range got {
					x.cut = true
				}
				break
			}
			more = false
			options := map[string]any{"auth": true, "limit": connPage, "offset": page * connPage}
			if detail {
				options["subscriptions_detail"] = true
			}
			err := a.each(ctx, "CONNZ", options, n, n, cost, func(id string, d *json.Decoder) error {
				z, err := readConnz(d, connPage)
				if err != nil {
					return err
				}
				if s := sums[id]; s != nil {
					s.add(z.plain())
					subs[id].add(z)
					more = more || len(z.Conns) > 0 && (page+1)*connPage < z.Total
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("read all connections: %w", err)
			}
		}
		for id, s := range sums {
			got[id].conns = s.list()
			if detail || of[id].Subs > maxSubsAsked {
				got[id].setQueues(subs[id], begun, detail)
			}
		}
	}
	took := a.now().Sub(begun)
	for _, x := range got {
		x.took = took
	}
	return got, nil
}

// setQueues keeps the queue subscriptions that were read; asked is false when
// there are too many subscriptions to ask for them.
func (x *extras) setQueues(subs *queueSubs, at time.Time, asked bool) {
	x.queues, x.queuesAt, x.queuesCut = slices.Clip(subs.list), at, subs.cut || !asked
}

// after joins what was asked for now with what was known before.
func (x *extras) after(old *extras, what asked) *extras {
	if old == nil {
		return x
	}
	if !what[askInternal] || x.internals == nil {
		x.internals, x.accounts = old.internals, old.accounts
	}
	if !what[askAllConns] {
		x.conns, x.cut = old.conns, old.cut
		x.queues, x.queuesAt, x.queuesCut = old.queues, old.queuesAt, old.queuesCut
	}
	return x
}
