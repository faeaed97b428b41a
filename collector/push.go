package collector

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

const (
	// maxFolds bounds the different things that are counted at the same time.
	// Names in advisories can be invented by whoever may publish there.
	maxFolds = 2000
	// foldFor is how long a storm is counted before the next event of it: its
	// first happening is told at once.
	foldFor = time.Minute
	// toldFor is how long a pushed event stands for the same one that a comparison
	// of two snapshots would find; assets may be read as seldom as every minute.
	toldFor = 90 * time.Second
	// maxPushed bounds what is decoded; an API audit carries whole requests.
	maxPushed = 1 << 20
)

// happening is one thing that NATS pushed, in words.
type happening struct {
	kind     string
	severity fleet.Severity
	// name is what it happened to. With asset set it is a stream ("S") or a
	// consumer ("S/c") of account, and account "" is the measured one.
	name    string
	asset   bool
	account string
	// variant tells apart what has the same kind and name but must not be summed.
	variant string
	one     string // sentence for a single one
	many    string // sentence for more, with %d for how many; "" repeats one
	storm   bool   // may come a thousand times a second
}

type foldKey struct {
	kind, account, name, variant string
	asset                        bool
}

type fold struct {
	happening
	count    uint64
	from, to time.Time
	due      time.Time // no event before; set after a storm's first one
}

// pushed folds what NATS pushes (advisories and server events) into few events.
type pushed struct {
	now func() time.Time

	mu                sync.Mutex // guards all below
	subs              []*nats.Subscription
	folds             map[foldKey]*fold
	ids, oldIDs       map[string]struct{} // of advisories that come over two connections
	rotated           time.Time
	heard             map[serverKey]time.Time // servers by their own announcements
	malformed, beyond uint64
	// reconfigured notes that somebody changed a configuration that is not worth
	// a short-lived consumer.
	reconfigured bool
	dropped      map[*nats.Subscription]int

	told map[[2]string]time.Time // by kind and entity; owned by the rounds
}

func newPushed(now func() time.Time) *pushed {
	return &pushed{
		now: now, rotated: now(), folds: map[foldKey]*fold{}, ids: map[string]struct{}{},
		heard: map[serverKey]time.Time{}, dropped: map[*nats.Subscription]int{}, told: map[[2]string]time.Time{},
	}
}

func (p *pushed) listenTo(subs []*nats.Subscription) {
	p.mu.Lock()
	p.subs = subs
	p.mu.Unlock()
}

// again counts one more of a storm that is counted already. It saves the
// reading of a thousand bodies a second whose contents nobody would see.
func (p *pushed) again(k foldKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.folds[k]
	if f == nil || f.count == 0 {
		return false
	}
	f.count++
	f.to = p.now()
	return true
}

func (h *happening) key() foldKey { return foldKey{h.kind, h.account, h.name, h.variant, h.asset} }

func (p *pushed) add(h happening) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	f := p.folds[h.key()]
	if f == nil {
		if len(p.folds) >= maxFolds {
			p.beyond++
			return
		}
		f = &fold{}
		p.folds[h.key()] = f
	}
	if f.count == 0 {
		f.from = now
	}
	f.happening, f.to = h, now
	f.count++
}

// changed reports whether a configuration was changed since it was asked last.
func (p *pushed) changed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.reconfigured
	p.reconfigured = false
	return was
}

func (p *pushed) bad() {
	p.mu.Lock()
	p.malformed++
	p.mu.Unlock()
}

// first reports whether an advisory was not seen yet: the account's connection
// and the system account's both bring elections and lost quorums.
func (p *pushed) first(id string) bool {
	if id == "" {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, here := p.ids[id]
	_, before := p.oldIDs[id]
	if here || before {
		return false
	}
	if len(p.ids) >= maxFolds || p.now().Sub(p.rotated) > foldFor {
		p.oldIDs, p.ids, p.rotated = p.ids, map[string]struct{}{}, p.now()
	}
	p.ids[id] = struct{}{}
	return true
}

// own reports whether something of the measured account is waiting to be told.
func (p *pushed) own() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, f := range p.folds {
		if k.asset && k.account == "" && f.count > 0 {
			return true
		}
	}
	return false
}

// cut returns the events that are due. account is the name of the measured one.
func (p *pushed) cut(account string) []fleet.Event {
	p.mu.Lock()
	now := p.now()
	var ready []fold
	for k, f := range p.folds {
		switch {
		case now.Before(f.due):
		case f.count == 0:
			delete(p.folds, k)
		default:
			ready = append(ready, *f)
			if f.storm {
				f.count, f.due = 0, now.Add(foldFor)
			} else {
				delete(p.folds, k)
			}
		}
	}
	beyond := p.beyond
	p.beyond = 0
	p.mu.Unlock()

	rank := map[fleet.Severity]int{fleet.Critical: 0, fleet.Warning: 1, fleet.Info: 2}
	slices.SortFunc(ready, func(a, b fold) int {
		return cmp.Or(cmp.Compare(rank[a.severity], rank[b.severity]), a.from.Compare(b.from), strings.Compare(a.name, b.name))
	})
	e := &eventList{at: now}
	maps.DeleteFunc(p.told, func(_ [2]string, at time.Time) bool { return now.Sub(at) > toldFor })
	for _, f := range ready {
		entity := f.name
		if f.asset {
			entity = cmp.Or(f.account, account) + "/" + f.name
		}
		e.add(f.from, f.kind, f.severity, entity, "%s", f.text())
		if len(p.told) < maxFolds {
			p.told[[2]string{f.kind, entity}] = now
		}
	}
	e.more += int(min(beyond, 1<<30))
	return e.ended()
}

// unsaid leaves out of events what was pushed already.
func (p *pushed) unsaid(events []fleet.Event) []fleet.Event {
	return slices.DeleteFunc(events, func(e fleet.Event) bool {
		_, told := p.told[[2]string{e.Kind, e.Entity}]
		return told
	})
}

func (f *fold) text() string {
	switch {
	case f.count == 1:
		return f.one
	case f.many == "":
		return fmt.Sprintf("%s It is the last of %d.", f.one, f.count)
	}
	span := max(f.to.Sub(f.from).Round(time.Second), time.Second)
	return fmt.Sprintf(f.many, f.count) + fmt.Sprintf(" within %v.", span)
}

// announce notes that a server told of itself.
func (p *pushed) announce(k serverKey, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone {
		delete(p.heard, k)
		return
	}
	if _, ok := p.heard[k]; ok || len(p.heard) < maxFolds {
		p.heard[k] = p.now()
	}
}

// missing counts the servers that announced themselves within the time in which
// one is not forgotten, beyond those that are known otherwise.
func (p *pushed) missing(known []fleet.Server) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, n := p.now(), 0
	maps.DeleteFunc(p.heard, func(_ serverKey, at time.Time) bool { return now.Sub(at) > forgetAfter })
	have := map[serverKey]bool{}
	for i := range known {
		have[keyOf(&known[i])] = true
	}
	for k := range p.heard {
		if !have[k] {
			n++
		}
	}
	return n
}

// trouble says what was not taken since it was asked last.
func (p *pushed) trouble() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	if p.malformed > 0 {
		out = append(out, fmt.Sprintf("%d advisories could not be read.", p.malformed))
		p.malformed = 0
	}
	n := 0
	for _, s := range p.subs {
		d := droppedBy(s)
		n += max(d-p.dropped[s], 0)
		p.dropped[s] = d
	}
	if n > 0 {
		out = append(out, fmt.Sprintf("%d advisories and server events were dropped: they came faster than they were read.", n))
	}
	return out
}
