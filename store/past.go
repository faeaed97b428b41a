package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ballast/fleet"
)

// An entity's attributes are what is not a figure: names, versions, settings,
// leaders. They change rarely, so they are noted once a minute, when they
// changed. Each function below lists them one by one: a field that moves with
// every look would make a row a minute of it.

func serverAttrs(x fleet.Server) fleet.Server {
	out := fleet.Server{ID: x.ID, Name: x.Name, Cluster: x.Cluster, Version: x.Version, Host: x.Host, Port: x.Port, URL: x.URL,
		State: x.State, Error: x.Error, Health: x.Health, Address: x.Address, Start: x.Start, Source: x.Source, Cores: x.Cores, Tags: x.Tags}
	if j := x.JetStream; j != nil {
		out.JetStream = &fleet.JetStream{Domain: j.Domain, MaxMemory: j.MaxMemory, MaxStore: j.MaxStore,
			MetaLeader: j.MetaLeader, MetaSize: j.MetaSize, MetaReplicas: peers(j.MetaReplicas)}
	}
	return out
}

func routeAttrs(x fleet.Route) fleet.Route {
	return fleet.Route{From: x.From, To: x.To, ToName: x.ToName, Account: x.Account, Compression: x.Compression,
		DidSolicit: x.DidSolicit, IsConfigured: x.IsConfigured}
}

func gatewayAttrs(x fleet.Gateway) fleet.Gateway {
	return fleet.Gateway{From: x.From, FromCluster: x.FromCluster, ToCluster: x.ToCluster}
}

func leafAttrs(x fleet.Leaf) fleet.Leaf {
	return fleet.Leaf{Server: x.Server, Name: x.Name, Account: x.Account, IP: x.IP}
}

func accountAttrs(x fleet.Account) fleet.Account {
	out := fleet.Account{Name: x.Name}
	if x.Settings != nil {
		set := *x.Settings
		set.At = time.Time{}
		out.Settings = &set
	}
	return out
}

func streamAttrs(x fleet.Stream) fleet.Stream {
	return fleet.Stream{StreamKey: x.StreamKey, Created: x.Created, Subjects: x.Subjects, Storage: x.Storage, Retention: x.Retention,
		Discard: x.Discard, PerSubject: x.PerSubject,
		Replicas: x.Replicas, Leader: x.Leader, Peers: peers(x.Peers), MaxBytes: x.MaxBytes, MaxMsgs: x.MaxMsgs, MaxAge: x.MaxAge,
		Metadata: x.Metadata, Source: x.Source}
}

func consumerAttrs(x fleet.Consumer) fleet.Consumer {
	return fleet.Consumer{ConsumerKey: x.ConsumerKey, Created: x.Created, Leader: x.Leader, Peers: peers(x.Peers),
		FilterSubjects: x.FilterSubjects, AckPolicy: x.AckPolicy, AckWait: x.AckWait, MaxDeliver: x.MaxDeliver,
		MaxAckPending: x.MaxAckPending, Durable: x.Durable, Inactive: x.Inactive, Backoff: x.Backoff, Priority: x.Priority, SampleFreq: x.SampleFreq, Paused: x.Paused, Push: x.Push, Metadata: x.Metadata, Source: x.Source}
}

// peers without what moves: how far behind each is, and when it was heard.
func peers(list []fleet.Replica) []fleet.Replica {
	var out []fleet.Replica
	for _, p := range list {
		out = append(out, fleet.Replica{Name: p.Name, Current: p.Current, Offline: p.Offline})
	}
	return out
}

// attrsOf is the attributes of the set's rows, in their order.
func attrsOf(s *fleet.Snapshot) []any {
	var out []any
	for _, x := range s.Servers {
		out = append(out, serverAttrs(x))
	}
	for _, x := range s.Routes {
		out = append(out, routeAttrs(x))
	}
	for _, x := range s.Gateways {
		out = append(out, gatewayAttrs(x))
	}
	for _, x := range s.Leafs {
		out = append(out, leafAttrs(x))
	}
	for _, x := range s.Accounts {
		out = append(out, accountAttrs(x))
	}
	for _, x := range s.Streams {
		out = append(out, streamAttrs(x))
	}
	for _, x := range s.Consumers {
		out = append(out, consumerAttrs(x))
	}
	return out
}

// noteAttrs records the attributes that are not those noted last.
func (db *DB) noteAttrs(ctx context.Context) error {
	s := db.Latest()
	if s.TakenAt.IsZero() {
		return nil
	}
	db.attrMu.Lock()
	defer db.attrMu.Unlock()
	set := &rowSet{}
	set.fill(s)
	list := attrsOf(s)
	type note struct {
		id, since int64
		d         []byte
	}
	var fresh []note
	for i, a := range list {
		if set.rows[i].skip {
			continue
		}
		db.mu.RLock()
		e := db.entities[set.rows[i].ref]
		db.mu.RUnlock()
		if e == nil {
			continue
		}
		d, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("note the attributes of %s %q: %w", e.kind, e.name, err)
		}
		since := ms(s.TakenAt)
		last, ok := db.attrs[e.id]
		if !ok {
			err := db.metrics.r.QueryRowContext(ctx, "SELECT d FROM attr WHERE entity = ? ORDER BY since DESC LIMIT 1", e.id).Scan(&last)
			if err != nil && err != sql.ErrNoRows {
				return fmt.Errorf("read the attributes of %s %q: %w", e.kind, e.name, err)
			}
			if err == sql.ErrNoRows {
				since = min(since, e.first) // it was so from its first look on, some seconds ago
			}
		}
		if bytes.Equal(last, d) {
			db.attrs[e.id] = d
			continue
		}
		fresh = append(fresh, note{e.id, since, d})
	}
	run := context.WithoutCancel(ctx)
	for part := range slices.Chunk(fresh, perTx) {
		err := inTx(run, db.metrics.w, func(tx *sql.Tx) error {
			for _, n := range part {
				if _, err := tx.ExecContext(run, "INSERT OR REPLACE INTO attr(entity, since, d) VALUES (?, ?, ?)", n.id, n.since, string(n.d)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("note the attributes of %d things: %w", len(part), err)
		}
		for _, n := range part {
			db.attrs[n.id] = n.d
		}
	}
	return nil
}

// forgetAttrs drops what memory knows of entities that are not there any more,
// and the rows of those that are gone from disk.
func (db *DB) forgetAttrs(ctx context.Context) error {
	db.attrMu.Lock()
	defer db.attrMu.Unlock()
	known := map[int64]bool{}
	db.mu.RLock()
	for _, e := range db.entities {
		known[e.id] = true
	}
	db.mu.RUnlock()
	for id := range db.attrs {
		if !known[id] {
			delete(db.attrs, id)
		}
	}
	if _, err := db.metrics.w.ExecContext(ctx, "DELETE FROM attr WHERE entity NOT IN (SELECT id FROM entity)"); err != nil {
		return fmt.Errorf("drop old attributes: %w", err)
	}
	return nil
}

// past is one entity at a moment.
type past struct {
	*entity
	at int64   // of the look; 0: there was none
	v  []int64 // as recorded; absent where nothing was

	before int64   // of the look before
	prior  []int64 // its figures

	rate  []float64
	rated bool
	attrs []byte
}

// get returns a figure in the unit in which it is recorded; 0 when there is none.
func (p *past) get(name string) int64 {
	v, _ := p.has(name)
	return v
}

func (p *past) has(name string) (v int64, ok bool) {
	for i, c := range p.cols {
		if c.name == name && i < len(p.v) && p.v[i] != absent {
			return p.v[i], true
		}
	}
	return 0, false
}

func (p *past) u64(name string) uint64 { return uint64(max(p.get(name), 0)) }

func (p *past) per(name string) float64 {
	for i, c := range p.cols {
		if c.name == name && p.rated {
			return p.rate[i]
		}
	}
	return 0
}

func (p *past) link() fleet.LinkRate {
	return fleet.LinkRate{InMsgs: p.per(fleet.ColInMsgs), OutMsgs: p.per(fleet.ColOutMsgs),
		InBytes: p.per(fleet.ColInBytes), OutBytes: p.per(fleet.ColOutBytes)}
}

// decode reads the attributes into to, which keeps what it has without any.
func (p *past) decode(to any) error {
	if p.attrs == nil {
		return nil
	}
	if err := json.Unmarshal(p.attrs, to); err != nil {
		return fmt.Errorf("read the attributes of %s %q: %w", p.kind, p.name, err)
	}
	return nil
}

// moment is the answer for one moment, kept for the parts of one page.
type moment struct {
	at       int64
	snapshot *fleet.Snapshot
	rates    *fleet.Rates
}

// SnapshotAt is the system as it was recorded at a moment: the newest look at
// each thing that is not older than two minutes (or than what it is looked at
// less often by), with its rates, and its attributes: of something new from its
// first look on, later changes to the minute. Lists, such as the busiest
// connections, are as of the last minute or so, and each row says when it was
// measured. Where single looks are no longer kept, gauges are means over the
// step that is, and counters are 0; a Problem of the snapshot says so. A moment
// of which nothing is known is a NotFound error.
//
// What it returns is shared and never changed.
func (db *DB) SnapshotAt(ctx context.Context, t time.Time) (*fleet.Snapshot, *fleet.Rates, error) {
	at := ms(t)
	if m := db.moment.Load(); m != nil && m.at == at && at <= db.sealedUntil() {
		return m.snapshot, m.rates, nil
	}
	s, r, err := db.snapshotAt(ctx, at)
	if err != nil {
		return nil, nil, fmt.Errorf("look back to %s: %w", fromMS(at).Format(time.RFC3339), err)
	}
	db.moment.Store(&moment{at, s, r})
	return s, r, nil
}

func (db *DB) snapshotAt(ctx context.Context, at int64) (*fleet.Snapshot, *fleet.Rates, error) {
	all, err := db.candidates(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	whole, err := db.rawAt(ctx, all, at)
	if err != nil {
		return nil, nil, err
	}
	means, step := 0, int64(0)
	if !whole {
		if means, step, err = db.meansAt(ctx, all, at); err != nil {
			return nil, nil, err
		}
	}
	if !slices.ContainsFunc(all, func(p past) bool { return p.at != 0 }) {
		return nil, nil, &fleet.Error{Kind: fleet.NotFound, Msg: "Nothing is recorded of that moment"}
	}
	if err := db.attrsAt(ctx, all, at); err != nil {
		return nil, nil, err
	}
	s, r, err := assemble(all)
	if err != nil {
		return nil, nil, err
	}
	known, err := db.detailsAt(ctx, s, at)
	if err != nil {
		return nil, nil, err
	}
	if !known {
		s.Expected = len(s.Servers)
	}
	if means > 0 {
		s.Problems = append(s.Problems, fleet.Problem{Where: "store", Since: s.TakenAt,
			What: fmt.Sprintf("Single looks of that time are no longer kept: figures are means over %s.", time.Duration(step)*time.Millisecond),
			Hint: "Counters are not known, only their rates. Longer retention keeps single looks."})
	}
	sortPast(s)
	return s, r, nil
}

// sortPast puts everything where it stood.
func sortPast(s *fleet.Snapshot) {
	slices.SortStableFunc(s.Servers, func(a, b fleet.Server) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	slices.SortStableFunc(s.Routes, func(a, b fleet.Route) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To), strings.Compare(a.Account, b.Account))
	})
	slices.SortStableFunc(s.Gateways, func(a, b fleet.Gateway) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.ToCluster, b.ToCluster))
	})
	slices.SortStableFunc(s.Leafs, func(a, b fleet.Leaf) int {
		return cmp.Or(strings.Compare(a.Server, b.Server), strings.Compare(a.Name, b.Name), strings.Compare(a.Account, b.Account))
	})
	slices.SortStableFunc(s.Streams, func(a, b fleet.Stream) int {
		return cmp.Or(strings.Compare(a.Account, b.Account), strings.Compare(a.StreamKey.Stream, b.StreamKey.Stream))
	})
	slices.SortStableFunc(s.Consumers, func(a, b fleet.Consumer) int {
		return cmp.Or(strings.Compare(a.Account, b.Account), strings.Compare(a.Stream, b.Stream), strings.Compare(a.ConsumerKey.Consumer, b.ConsumerKey.Consumer))
	})
}

// candidates are the lives that may have been there at the moment.
func (db *DB) candidates(ctx context.Context, at int64) ([]past, error) {
	var all []past
	have := map[int64]bool{}
	db.mu.RLock()
	for _, e := range db.entities {
		if e.first <= at && len(e.cols) > 0 {
			all = append(all, past{entity: &entity{entityRef: e.entityRef, id: e.id, cols: e.cols, first: e.first}})
			have[e.id] = true
		}
	}
	db.mu.RUnlock()
	// last_ms lies up to some time behind what is recorded.
	rows, err := db.metrics.r.QueryContext(ctx, aliveAtSQL, at-2*hour, at)
	if err != nil {
		return nil, fmt.Errorf("find what was there: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		e := &entity{}
		if err := rows.Scan(&e.id, &e.kind, &e.name, &e.epoch, &e.first); err != nil {
			return nil, fmt.Errorf("find what was there: %w", err)
		}
		if e.cols = columnsOf[e.kind]; len(e.cols) > 0 && !have[e.id] {
			all = append(all, past{entity: e})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find what was there: %w", err)
	}
	slices.SortFunc(all, func(a, b past) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), strings.Compare(a.name, b.name), cmp.Compare(a.first, b.first))
	})
	return all, nil
}

const aliveAtSQL = "SELECT id, kind, name, epoch, first_ms FROM entity WHERE last_ms >= ?1 AND first_ms <= ?2"

// horizon is how old a look at a thing of the kind may be to count.
func (db *DB) horizon(kind fleet.Kind) int64 { return max(unit, gapAfter(db.every(kind))) }

// rawAt finds of each the look at or before the moment, and the one before that.
// It reports whether single looks are kept of all the time that counts.
func (db *DB) rawAt(ctx context.Context, all []past, at int64) (whole bool, err error) {
	inMemory, from := db.rawInMemory(all, at)
	k, err := db.known(ctx)
	if err != nil {
		return false, err
	}
	if len(k.slots) > 0 {
		from = min(from, k.slots[0]*unit)
	}
	var room scratch
	for i, slot := range slices.Backward(k.slots) {
		start := slot * unit
		if start > at || inMemory[slot] {
			continue
		}
		keys, byKey := db.wanting(all, slot, at, min(start+maxUnits*unit, nextSlot(k.slots, i)))
		if len(keys) == 0 {
			break // of an older one still less is wanted
		}
		err := db.many(ctx, "raw", keys, func(key int64, data []byte) error {
			p := byKey[key]
			c, err := decodeBlockIn(data, db.layouts, p.cols, start, &room)
			if err != nil {
				return err
			}
			end, _ := slices.BinarySearch(c.at, at+1)
			for j := end - 1; j >= 0 && !p.full(); j-- {
				p.older(c.at[j], func(col int) int64 {
					if c.cols[col] == nil {
						return absent
					}
					return c.cols[col][j]
				})
			}
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	for i := range all {
		p := &all[i]
		if p.at == 0 || at-p.at > db.horizon(p.kind) {
			p.at, p.v = 0, nil
			continue
		}
		if p.prior == nil || p.at-p.before > gapAfter(db.every(p.kind)) {
			continue
		}
		p.rated, p.rate = true, make([]float64, len(p.cols))
		for j, c := range p.cols {
			if inc, ok := increase(p.prior[j], p.v[j]); ok && c.counter {
				p.rate[j] = perSecond(inc, p.at-p.before)
			}
		}
	}
	return from <= at-unit, nil
}

// nextSlot is where the slot after the one at i begins.
func nextSlot(slots []int64, i int) int64 {
	if i+1 < len(slots) {
		return slots[i+1] * unit
	}
	return 1 << 62
}

// full reports whether both looks are known.
func (p *past) full() bool { return p.prior != nil }

// older takes the look before those that are known.
func (p *past) older(at int64, value func(col int) int64) {
	v := make([]int64, len(p.cols))
	for i := range v {
		v[i] = value(i)
	}
	switch {
	case p.v == nil:
		p.at, p.v = at, v
	case at < p.at:
		p.before, p.prior = at, v
	}
}

// rawInMemory takes the looks that are not sealed; it returns the slots of them
// and the beginning of the first.
func (db *DB) rawInMemory(all []past, at int64) (slots map[int64]bool, from int64) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	slots, from = map[int64]bool{}, int64(1<<62)
	heads := slices.Clone(db.closing)
	if db.open != nil {
		heads = append(heads, db.open)
	}
	for _, h := range slices.Backward(heads) {
		slots[h.start/unit] = true
		from = min(from, h.start)
		if h.start > at {
			continue
		}
		for i := range all {
			p := &all[i]
			b := h.blocks[p.id]
			if b == nil || p.full() {
				continue
			}
			for j := b.looks() - 1; j >= 0 && !p.full(); j-- {
				if t := b.start + b.time(j); t <= at {
					p.older(t, func(col int) int64 { return b.value(j, col) })
				}
			}
			if p.v != nil && !p.full() && b.prior != nil && b.before > 0 {
				p.older(b.before, func(col int) int64 { return b.prior[col] })
			}
		}
	}
	return slots, from
}

// wanting are the keys of the blobs, in a slot that ends at end, that may have a
// look that is wanted, and whose they are.
func (db *DB) wanting(all []past, slot, at, end int64) (keys []byte, byKey map[int64]*past) {
	var ids []*past
	for i := range all {
		p := &all[i]
		if p.full() || p.first >= end {
			continue
		}
		reach := at - db.horizon(p.kind)
		if p.v != nil {
			reach = p.at - gapAfter(db.every(p.kind))
		}
		if end > reach && (p.v == nil || p.first < p.at) {
			ids = append(ids, p)
		}
	}
	return blobKeys(slot, ids)
}

// blobKeys are the keys of the things' blobs in a slot, in rising order, and
// whose they are; none for none.
func blobKeys(slot int64, of []*past) (keys []byte, byKey map[int64]*past) {
	if len(of) == 0 {
		return nil, nil
	}
	slices.SortFunc(of, func(a, b *past) int { return cmp.Compare(a.id, b.id) })
	byKey = make(map[int64]*past, len(of))
	keys = []byte{'['}
	for i, p := range of {
		k := slot<<entityBits | p.id
		if i > 0 {
			keys = append(keys, ',')
		}
		keys = strconv.AppendInt(keys, k, 10)
		byKey[k] = p
	}
	return append(keys, ']'), byKey
}

// meansAt takes, of those of which no look was found, the cell in which the
// moment lies. It returns for how many there was one, and its step.
func (db *DB) meansAt(ctx context.Context, all []past, at int64) (found int, step int64, err error) {
	built, err := db.builtUntil(ctx)
	if err != nil {
		return 0, 0, err
	}
	lvl := max(db.levelFor(at, minute), 0)
	for lvl > 0 && built[lvl] <= at {
		lvl--
	}
	l := levels[lvl]
	if built[lvl] <= at {
		return 0, l.step, nil // it is built of single looks, and there are none
	}
	// Of what is looked at less often than a cell is long, the cell before counts
	// as well.
	cell := floor(at, l.step)
	for slot := cell / l.span; slot >= (cell-hour)/l.span; slot-- {
		var ids []*past
		for i := range all {
			p := &all[i]
			if p.at == 0 && (slot+1)*l.span > min(cell, at-db.horizon(p.kind)) {
				ids = append(ids, p)
			}
		}
		if len(ids) == 0 {
			break
		}
		keys, byKey := blobKeys(slot, ids)
		err := db.many(ctx, l.table, keys, func(k int64, data []byte) error {
			p := byKey[k]
			first := cell
			if rounds[p.kind] > 1 {
				first = min(cell, floor(at-db.horizon(p.kind), l.step))
			}
			err := l.rows(slot, data, func(start int64, data []byte) error {
				cols, err := decodeCells(data, db.layouts, p.cols, start, l.step)
				if err == nil {
					p.mean(cols, first, cell)
				}
				return err
			})
			if p.at != 0 {
				found++
			}
			return err
		})
		if err != nil {
			return 0, 0, err
		}
	}
	return found, l.step, nil
}

// mean takes the newest cell between two times.
func (p *past) mean(cols [][]cell, first, last int64) {
	at := int64(0)
	for _, cells := range cols {
		for _, c := range cells {
			if c.n > 0 && c.at >= first && c.at <= last {
				at = max(at, c.at)
			}
		}
	}
	if at == 0 {
		return
	}
	p.at = at
	p.v, p.rate = make([]int64, len(p.cols)), make([]float64, len(p.cols))
	for i, cells := range cols {
		p.v[i] = absent
		for _, c := range cells {
			switch {
			case c.at != at || c.n == 0:
			case !p.cols[i].counter:
				p.v[i] = c.sum / c.n
			case c.covered > 0:
				p.rate[i], p.rated = perSecond(c.sum, c.covered), true
			}
		}
	}
}

// attrsAt reads the attributes as noted up to the moment, or else the first
// that were noted after it.
func (db *DB) attrsAt(ctx context.Context, all []past, at int64) error {
	byID := make(map[int64]*past, len(all))
	ids := []byte{'['}
	for i := range all {
		byID[all[i].id] = &all[i]
		if i > 0 {
			ids = append(ids, ',')
		}
		ids = strconv.AppendInt(ids, all[i].id, 10)
	}
	rows, err := db.metrics.r.QueryContext(ctx, attrsSQL, string(append(ids, ']')), at)
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var d []byte
		if err := rows.Scan(&id, &d); err != nil {
			return fmt.Errorf("read attributes: %w", err)
		}
		byID[id].attrs = d
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	return nil
}

const attrsSQL = `
	SELECT j.value, coalesce(
		(SELECT d FROM attr WHERE entity = j.value AND since <= ?2 ORDER BY since DESC LIMIT 1),
		(SELECT d FROM attr WHERE entity = j.value ORDER BY since LIMIT 1))
	FROM json_each(?1) AS j`

// assemble makes a snapshot of what was found. The things stand in the order of
// their names.
func assemble(all []past) (*fleet.Snapshot, *fleet.Rates, error) {
	s := &fleet.Snapshot{}
	r := &fleet.Rates{
		Servers: map[string]fleet.LinkRate{}, Routes: map[[2]string]fleet.LinkRate{}, Gateways: map[[2]string]fleet.LinkRate{},
		Leafs: map[[2]string]fleet.LinkRate{}, Streams: map[fleet.StreamKey]fleet.LinkRate{}, Consumers: map[fleet.ConsumerKey]fleet.ConsumerRate{},
	}
	newest := int64(0)
	ofStream := map[fleet.StreamKey]int{}
	var uncounted []int // streams whose number of consumers was not recorded
	for i := range all {
		p := &all[i]
		if i+1 < len(all) && all[i+1].entityRef.kind == p.kind && all[i+1].name == p.name && (all[i+1].at != 0 || p.at == 0) {
			continue // a later life of the same name
		}
		if p.at == 0 && p.kind != fleet.KindServer {
			continue
		}
		newest = max(newest, p.at)
		at := fromMS(p.at)
		switch p.kind {
		case fleet.KindServer:
			x := fleet.Server{Name: p.name, State: fleet.Healthy}
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			if p.at == 0 {
				x.State, x.Error, at = fleet.Unreachable, "It did not answer at that time", time.Time{}
			}
			x.At = at
			x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = p.u64(fleet.ColInMsgs), p.u64(fleet.ColOutMsgs), p.u64(fleet.ColInBytes), p.u64(fleet.ColOutBytes)
			x.CPU, x.Mem, x.Conns, x.Subs = float64(p.get(fleet.ColCPU))/100, p.get(fleet.ColMem), int(p.get(fleet.ColConns)), int(p.get(fleet.ColSubs))
			x.SlowConsumers, x.RTT = p.u64(fleet.ColSlow), time.Duration(p.get(fleet.ColRTT))*time.Microsecond
			x.Routes = int(p.get(fleet.ColRoutes))
			if skew, ok := p.has(fleet.ColSkew); ok && !at.IsZero() {
				x.Now = at.Add(time.Duration(skew) * time.Microsecond)
			}
			if x.JetStream != nil {
				j := x.JetStream
				j.Memory, j.Store = p.u64(fleet.ColJSMemory), p.u64(fleet.ColJSStore)
				j.Streams, j.Consumers, j.Messages = int(p.get(fleet.ColJSStreams)), int(p.get(fleet.ColJSConsumers)), p.u64(fleet.ColJSMessages)
				j.APITotal, j.APIErrors = p.u64(fleet.ColAPI), p.u64(fleet.ColAPIErrors)
			}
			s.Servers = append(s.Servers, x)
			if p.rated {
				r.Servers[x.Name] = p.link()
			}
		case fleet.KindRoute:
			var x fleet.Route
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			x.At, x.RTT = at, time.Duration(p.get(fleet.ColRTT))*time.Microsecond
			x.Pending, x.Conns, x.Subs = p.get(fleet.ColPending), int(p.get(fleet.ColConns)), int(p.get(fleet.ColSubs))
			x.Uptime = time.Duration(p.get(fleet.ColUptime)) * time.Millisecond
			x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = p.u64(fleet.ColInMsgs), p.u64(fleet.ColOutMsgs), p.u64(fleet.ColInBytes), p.u64(fleet.ColOutBytes)
			s.Routes = append(s.Routes, x)
			addLink(r.Routes, [2]string{x.From, x.To}, p)
		case fleet.KindGateway:
			var x fleet.Gateway
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			x.At, x.RTT = at, time.Duration(p.get(fleet.ColRTT))*time.Microsecond
			x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = p.u64(fleet.ColInMsgs), p.u64(fleet.ColOutMsgs), p.u64(fleet.ColInBytes), p.u64(fleet.ColOutBytes)
			s.Gateways = append(s.Gateways, x)
			addLink(r.Gateways, [2]string{x.From, x.ToCluster}, p)
		case fleet.KindLeaf:
			var x fleet.Leaf
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			x.At, x.RTT = at, time.Duration(p.get(fleet.ColRTT))*time.Microsecond
			x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = p.u64(fleet.ColInMsgs), p.u64(fleet.ColOutMsgs), p.u64(fleet.ColInBytes), p.u64(fleet.ColOutBytes)
			x.Subs = int(p.get(fleet.ColSubs))
			s.Leafs = append(s.Leafs, x)
			addLink(r.Leafs, [2]string{x.Server, x.Name}, p)
		case fleet.KindAccount:
			x := fleet.Account{Name: p.name}
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			x.At, x.Conns, x.Subs, x.Slow = at, int(p.get(fleet.ColConns)), int(p.get(fleet.ColSubs)), p.u64(fleet.ColSlow)
			x.InMsgs, x.OutMsgs, x.InBytes, x.OutBytes = p.u64(fleet.ColInMsgs), p.u64(fleet.ColOutMsgs), p.u64(fleet.ColInBytes), p.u64(fleet.ColOutBytes)
			x.Leafs = int(p.get(fleet.ColLeafs))
			s.Accounts = append(s.Accounts, x)
		case fleet.KindStream:
			var x fleet.Stream
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			if p.attrs == nil {
				if i := strings.LastIndexByte(p.name, '/'); i >= 0 {
					x.StreamKey = fleet.StreamKey{Account: p.name[:i], Stream: p.name[i+1:]}
				}
			}
			x.Limits = fleet.ThresholdsOf(x.Metadata)
			x.At, x.Messages, x.Bytes, x.LastSeq = at, p.u64(fleet.ColMessages), p.u64(fleet.ColBytes), p.u64(fleet.ColLastSeq)
			if gone, ok := p.has(fleet.ColRemoved); ok {
				x.FirstSeq = uint64(max(gone+1, 0))
			}
			x.Distinct = int(p.get(fleet.ColSubjects))
			if n, ok := p.has(fleet.ColConsumers); ok {
				x.Consumers = int(n)
			} else {
				uncounted = append(uncounted, len(s.Streams))
			}
			s.Streams = append(s.Streams, x)
			if p.rated {
				r.Streams[x.StreamKey] = fleet.LinkRate{InMsgs: p.per(fleet.ColLastSeq)}
			}
		case fleet.KindConsumer:
			var x fleet.Consumer
			if err := p.decode(&x); err != nil {
				return nil, nil, err
			}
			if p.attrs == nil {
				key, err := parseConsumer(p.name)
				if err != nil {
					return nil, nil, err
				}
				x.ConsumerKey = key
			}
			x.Limits = fleet.ThresholdsOf(x.Metadata)
			x.At, x.Delivered, x.AckFloor = at, p.u64(fleet.ColDelivered), p.u64(fleet.ColAckFloor)
			x.Pending, x.AckPending = p.u64(fleet.ColPending), int(p.get(fleet.ColInFlight))
			x.Redelivered, x.Waiting = int(p.get(fleet.ColRedelivered)), int(p.get(fleet.ColWaiting))
			s.Consumers = append(s.Consumers, x)
			ofStream[fleet.StreamKey{Account: x.Account, Stream: x.Stream}]++
			if p.rated {
				r.Consumers[x.ConsumerKey] = fleet.ConsumerRate{Arrived: p.per(fleet.ColArrived), Delivered: p.per(fleet.ColDelivered), Acked: p.per(fleet.ColAcked)}
			}
		case fleet.KindWatch:
			s.Cost = fleet.Cost{Requests: int(p.get(fleet.ColRequests)), Bytes: p.get(fleet.ColReadBytes), Took: time.Duration(p.get(fleet.ColTook)) * time.Microsecond}
			for tier, cols := range [fleet.Tiers][3]string{
				fleet.Fast:   {fleet.ColBytesFast, fleet.ColCPUFast, fleet.ColRequestsFast},
				fleet.Normal: {fleet.ColBytesNormal, fleet.ColCPUNormal, fleet.ColRequestsNormal},
				fleet.Slow:   {fleet.ColBytesSlow, fleet.ColCPUSlow, fleet.ColRequestsSlow},
			} {
				s.Cost.By[tier] = fleet.TierCost{Bytes: p.get(cols[0]), ServerCPU: time.Duration(p.get(cols[1])) * time.Microsecond, Requests: int(p.get(cols[2]))}
			}
			s.Intake = fleet.Intake{At: at, Every: 1, Counted: p.u64(fleet.ColCounted), Passed: p.u64(fleet.ColPassed), Dropped: p.u64(fleet.ColDropped), Waiting: int(p.get(fleet.ColQueued))}
			s.Intake.PerSecond = float64(p.get(fleet.ColSamples)) / 10
		}
	}
	for _, i := range uncounted {
		s.Streams[i].Consumers = ofStream[s.Streams[i].StreamKey]
	}
	s.TakenAt = fromMS(newest)
	r.At = s.TakenAt
	return s, r, nil
}

// addLink adds up: several accounts may share a link.
func addLink(to map[[2]string]fleet.LinkRate, key [2]string, p *past) {
	if !p.rated {
		return
	}
	l, sum := p.link(), to[key]
	to[key] = fleet.LinkRate{InMsgs: sum.InMsgs + l.InMsgs, OutMsgs: sum.OutMsgs + l.OutMsgs,
		InBytes: sum.InBytes + l.InBytes, OutBytes: sum.OutBytes + l.OutBytes}
}
