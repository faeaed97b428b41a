package collector

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

// system reads all servers at once through the system account. Its state is
// owned by the rounds.
type system struct {
	nc      *nats.Conn
	now     func() time.Time
	busy    bool
	looks   map[string]*look         // by server ID, those that stopped answering too
	alive   map[string]bool          // by server ID, in the last round
	way     map[string]time.Duration // by server ID, the shortest time that VARZ took
	active  int                      // servers that the servers know of
	err     error
	partial []string // what part of the last round did not come

	assetsBusy bool
	assets     map[string]*assets // by server ID
	assetsErr  error
	page       int   // accounts asked for at a time; 0: all
	pageAbove  int64 // bytes beyond which they are asked for in parts
	largest    int64 // bytes of an answer that is read

	extrasBusy bool
	extras     map[string]*extras // by server ID
	extrasErr  error
	agenda
}

func newSystem(cfg Config) *system {
	return &system{nc: cfg.System, now: cfg.Now, largest: cmp.Or(cfg.largest, maxAnswer), pageAbove: cmp.Or(cfg.pageAbove, pageAbove), looks: map[string]*look{}, alive: map[string]bool{}, way: map[string]time.Duration{}, assets: map[string]*assets{}, extras: map[string]*extras{}}
}

// covers reports whether the system account told of a server in the last round.
func (s *system) covers(id string) bool { return s.alive[id] }

// silent reports whether no server answers.
func (s *system) silent() bool { return len(s.alive) == 0 }

// disconnected notes that no server can be asked, so that monitoring takes over.
func (s *system) disconnected() {
	if !s.busy {
		s.alive, s.active, s.partial = map[string]bool{}, 0, nil
	}
}

// systemAsk is one round of questions, with what it must know of the one before.
type systemAsk struct {
	nc       *nats.Conn
	now      func() time.Time
	answered int // that many answered the last time; 0 is not known
	active   int // that many the servers then knew of
	near     bool
	page     int // accounts asked for at a time; 0: all
	above    int64
	largest  int64
}

// nearRTT is the way to a server that is in the same network: there bytes are
// cheaper than the processor time that compressing them takes. The shortest way
// seen decides: one that took longer once was waiting for a processor, and gets
// more to do by compressing.
const nearRTT = 5 * time.Millisecond

func (s *system) ask() systemAsk {
	a := systemAsk{nc: s.nc, now: s.now, answered: len(s.alive), active: s.active, near: len(s.alive) > 0, page: s.page, above: s.pageAbove, largest: s.largest}
	for id := range s.alive {
		a.near = a.near && s.way[id] < nearRTT
	}
	return a
}

// took keeps what a round of questions brought.
func (s *system) took(got *gathered, err error) {
	s.busy, s.err = false, err
	s.alive = map[string]bool{}
	s.partial = nil
	if err != nil {
		return
	}
	s.active, s.partial = got.active, got.partial
	setAddresses(got.looks)
	for id, l := range got.looks {
		// A restarted server has a new ID; the old look is in its place no more.
		for old, o := range s.looks {
			// Unless it answers too: then two servers have one name.
			same := keyOf(&o.server) == keyOf(&l.server) || s.looks[id] == nil && cameBackAs(&o.server, &l.server)
			if old != id && got.looks[old] == nil && same {
				delete(s.looks, old)
				// Until it has told its streams anew, the old ones stand.
				if s.assets[id] == nil && s.assets[old] != nil {
					s.assets[id] = s.assets[old]
				}
				delete(s.assets, old)
				delete(s.extras, old)
			}
		}
		l.keepConns(s.looks[id], got.what)
		if way, ok := s.way[id]; !ok || l.server.RTT < way {
			s.way[id] = l.server.RTT
		}
		s.looks[id] = l
		s.alive[id] = true
	}
	maps.DeleteFunc(s.way, func(id string, _ time.Duration) bool { return s.looks[id] == nil })
	for id, l := range s.looks {
		if !s.alive[id] && s.now().Sub(l.server.At) > forgetAfter {
			delete(s.looks, id)
			delete(s.assets, id)
			delete(s.extras, id)
		}
	}
}

// assetsDue reports whether the servers may be asked for their streams again:
// the slowest of them decides.
func (s *system) assetsDue(interval time.Duration) bool {
	for id := range s.alive {
		if s.now().Before(s.assets[id].due(interval)) {
			return false
		}
	}
	return len(s.alive) > 0
}

// tookAssets keeps what the question for streams and consumers brought.
func (s *system) tookAssets(got map[string]*assets, err error) {
	s.assetsBusy, s.assetsErr = false, err
	page := 0
	for id, a := range got {
		if s.looks[id] != nil {
			s.assets[id] = a
		}
		// One question goes to all servers: the one with the most to tell decides.
		if a.page > 0 && (page == 0 || a.page < page) {
			page = a.page
		}
	}
	if len(got) > 0 {
		s.page = page
	}
}

type gathered struct {
	what    asked
	looks   map[string]*look
	active  int
	partial []string
}

// gather asks every server for everything but its streams and consumers. An
// error means that nobody answered; a kind of question that some did not answer
// is a partial result.
func (a systemAsk) gather(ctx context.Context, what asked, cost *bill) (*gathered, error) {
	got := &gathered{looks: map[string]*look{}, what: what}
	sent := a.now()
	cost.in(askServer)
	err := a.each(ctx, "VARZ", nil, a.answered, max(a.answered, a.active), cost, func(id string, d *json.Decoder) error {
		var v varz
		if err := d.Decode(&v); err != nil {
			return err
		}
		if v.ID == "" || v.ID != id {
			return errors.New("the answer is not of the server that sent it")
		}
		l := &look{}
		at := a.now()
		l.setVarz(&v, fleet.System, at, at.Sub(sent))
		got.looks[id] = l
		return nil
	})
	if len(got.looks) == 0 {
		return nil, cmp.Or(err, errors.New("no answer"))
	}
	if err != nil {
		got.partial = append(got.partial, "VARZ was not read of all servers: "+reason(err)+".")
	}
	n := len(got.looks)
	routes, gateways, leafs := false, false, false
	for _, l := range got.looks {
		routes = routes || l.server.Cluster != "" || l.server.Routes > 0
		gateways = gateways || l.gateway != ""
		leafs = leafs || l.hasLeafs
	}
	part := func(kind string, options any, read func(l *look, d *json.Decoder) error) {
		err := a.each(ctx, kind, options, n, n, cost, func(id string, d *json.Decoder) error {
			l := got.looks[id]
			if l == nil {
				return d.Decode(&skip{}) // joined since; the next round sees it
			}
			return read(l, d)
		})
		if err != nil && ctx.Err() == nil {
			got.partial = append(got.partial, kind+" was not read of all servers: "+reason(err)+".")
		}
	}
	part("STATSZ", nil, func(l *look, d *json.Decoder) error {
		// Unlike the others it has its figures beside the server, not under data.
		var z struct {
			Active int `json:"active_servers"`
		}
		err := d.Decode(&z)
		got.active = max(got.active, z.Active)
		return err
	})
	part("HEALTHZ", map[string]bool{"js-server-only": true}, func(l *look, d *json.Decoder) error {
		var h healthz
		err := d.Decode(&h)
		l.setHealth(h)
		return err
	})
	cost.in(askLinks)
	if routes {
		part("ROUTEZ", nil, func(l *look, d *json.Decoder) error {
			var z routez
			err := d.Decode(&z)
			l.setRoutez(&z)
			return err
		})
	}
	if gateways {
		part("GATEWAYZ", nil, func(l *look, d *json.Decoder) error {
			var z gatewayz
			err := d.Decode(&z)
			l.setGatewayz(&z)
			return err
		})
	}
	if leafs {
		part("LEAFZ", nil, func(l *look, d *json.Decoder) error {
			var z leafz
			err := d.Decode(&z)
			l.setLeafz(&z)
			return err
		})
	}
	cost.in(askAccounts)
	part("$SYS.REQ.ACCOUNT.PING.STATZ", map[string]bool{"include_unused": true}, func(l *look, d *json.Decoder) error {
		var z accstatz
		err := d.Decode(&z)
		l.setAccstatz(&z)
		return err
	})
	for q, orders := range connOrders {
		if !what[q] {
			continue
		}
		cost.in(question(q))
		for _, sort := range orders {
			part("CONNZ", map[string]any{"sort": sort, "auth": true, "limit": topConns}, func(l *look, d *json.Decoder) error {
				z, err := readConnz(d, topConns)
				l.addConnz(question(q), z.plain())
				return err
			})
		}
	}
	return got, nil
}

// gatherAssets asks every server for its streams and consumers. What came is
// returned with an error too.
func (a systemAsk) gatherAssets(ctx context.Context, of map[string]fleet.Server, what asked, cost *bill) (map[string]*assets, error) {
	begun := a.now()
	got := map[string]*assets{}
	options := map[string]any{"accounts": true, "streams": true, "consumer": true}
	cost.in(askFigures)
	if what[askConfigs] {
		options["config"] = true
		cost.in(askConfigs)
	}
	page, err := inPages(a.page,
		func() { clear(got) },
		func() (n int, err error) {
			err = a.each(ctx, "JSZ", nil, len(of), len(of), cost, func(_ string, d *json.Decoder) error {
				held, err := readJSZ(d, jszSink{})
				n = max(n, held.Accounts)
				return err
			})
			return n, err
		},
		func(limit, offset int) (most int, err error) {
			if limit > 0 {
				options["limit"], options["offset"] = limit, offset
			}
			told := map[string]bool{}
			err = a.each(ctx, "JSZ", options, len(of), len(of), cost, func(id string, d *json.Decoder) error {
				srv, ok := of[id]
				if !ok || srv.JetStream == nil {
					return d.Decode(&skip{})
				}
				one, err := readAssets(d, &srv, a.now())
				if err != nil {
					return err
				}
				one.cpu = cpuOf(one.size, cpuPlainByte)
				most, told[id] = max(most, one.held.Accounts), true
				if got[id] != nil {
					return got[id].join(one)
				}
				if offset == 0 {
					got[id] = one
				}
				return nil
			})
			maps.DeleteFunc(got, func(id string, _ *assets) bool { return !told[id] })
			return most, err
		})
	if err != nil && page > 0 {
		clear(got) // half of a server's accounts would look as if the others were gone
	}
	for _, one := range got {
		one.took, one.configs = a.now().Sub(begun), what[askConfigs]
		one.page = pageNext(page, one.size, one.held.Accounts, a.above)
	}
	return got, err
}

// each sends one question (a kind of $SYS.REQ.SERVER.PING, or a whole subject)
// to all servers and reads the answers as they come,
// until as many came as may come. Once as many came as expected, it waits for
// the rest only as long as they come briskly: a server that died must not hold
// up every round. Fewer than expected is an error.
func (a systemAsk) each(ctx context.Context, kind string, options any, expected, atMost int, cost *bill, read func(id string, d *json.Decoder) error) error {
	// idle is how long after an answer the next one may take: all of a cluster
	// were seen within 7 ms, one behind an ocean takes 300 ms.
	// A missing one gets longer before it counts as lost.
	const idle, patience = 400 * time.Millisecond, time.Second
	timeout := requestTimeout
	if kind == "JSZ" || kind == "CONNZ" {
		timeout = bulkTimeout
	}
	var body []byte
	if options != nil {
		var err error
		if body, err = json.Marshal(options); err != nil {
			return err
		}
	}
	inbox := a.nc.NewRespInbox()
	sub, err := a.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(1<<12, 4*maxAnswer); err != nil {
		return err
	}
	subject := kind
	if !strings.HasPrefix(kind, "$") {
		subject = "$SYS.REQ.SERVER.PING." + kind
	}
	msg := nats.NewMsg(subject)
	msg.Reply, msg.Data = inbox, body
	if !a.near {
		msg.Header.Set("Accept-Encoding", "gzip")
	}
	cost.request()
	if err := a.nc.PublishMsg(msg); err != nil {
		return err
	}
	total, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	came := 0
	var wrong error
	for atMost == 0 || came < atMost {
		limit, cancel := total, context.CancelFunc(func() {})
		switch {
		case came == 0:
		case came >= expected:
			limit, cancel = context.WithTimeout(total, idle)
		case timeout == requestTimeout:
			limit, cancel = context.WithTimeout(total, patience)
		}
		m, err := sub.NextMsgWithContext(limit)
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if came == 0 {
				return err
			}
			if came >= expected {
				break
			}
			return cmp.Or(wrong, fmt.Errorf("%d of %d answered in time", came, expected))
		}
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return errors.New("nobody answers such requests; the user is not in the system account")
		}
		came++
		whole, err := a.open(m, read)
		if err != nil {
			wrong = err
		}
		perByte := cpuPlainByte
		if whole != int64(len(m.Data)) {
			perByte = cpuGzipByte
		}
		cost.answer(int64(len(m.Data)), whole, perByte)
	}
	return wrong
}

// open takes an answer out of its envelope. whole is its size when it is not
// compressed, as far as it was read.
func (a systemAsk) open(m *nats.Msg, read func(id string, d *json.Decoder) error) (whole int64, err error) {
	l := &limited{r: bytes.NewReader(m.Data), left: a.largest}
	whole = int64(len(m.Data))
	if whole > a.largest {
		return whole, errTooLarge
	}
	if m.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(l.r)
		if err != nil {
			return whole, err
		}
		l.r = z
		defer func() { whole = l.read }()
	}
	d := l.decoder()
	var id string
	// The server comes first in the envelope; its answer is then read as it
	// streams out of the decompression.
	err = object(d, func(key string) error {
		switch key {
		case "server":
			var s struct {
				ID string `json:"id"`
			}
			err := d.Decode(&s)
			id = s.ID
			return err
		case "error":
			var e *struct {
				Description string `json:"description"`
			}
			if err := d.Decode(&e); err != nil || e == nil {
				return err
			}
			return errors.New(e.Description)
		case "data", "statsz":
			if id == "" {
				return errors.New("an answer before the server's name")
			}
			return read(id, d)
		}
		return d.Decode(&skip{})
	})
	return whole, err
}
