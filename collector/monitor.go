package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ballast/fleet"
)

var errTooLarge = fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)

// monitor reads servers over their HTTP monitoring ports.
type monitor struct {
	client    *http.Client
	now       func() time.Time
	spread    time.Duration // requests to the servers are spread over this long
	endpoints []*endpoint
	tried     map[string]time.Time // candidates that were no server of ours, by URL
	largest   int64                // bytes of an answer that is read
	pageAbove int64                // bytes beyond which accounts are asked for in parts
}

// endpoint is one monitoring port. Its state is owned by the rounds; a poll
// works on copies.
type endpoint struct {
	base       *url.URL
	where      string // the URL without secrets
	configured bool
	expect     string // a discovered one must be the server with this ID at first
	expectLeaf string // or, behind a leaf node connection, the one with this name
	delay      time.Duration
	busy       bool
	last       *look // nil: never answered
	err        error // of the last poll

	assetsBusy bool
	assets     *assets // nil: never read
	assetsErr  error
	page       int // accounts asked for at a time; 0: all

	extrasBusy bool
	extras     *extras // nil: never read
	extrasErr  error
	agenda
}

func newMonitor(cfg Config) (*monitor, error) {
	m := &monitor{
		now: cfg.Now, spread: min(cfg.Interval/20, 250*time.Millisecond),
		tried: map[string]time.Time{}, largest: cmp.Or(cfg.largest, maxAnswer), pageAbove: cmp.Or(cfg.pageAbove, pageAbove),
	}
	m.client = &http.Client{
		// A redirect could lead anywhere; a monitoring port has no need of one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: requestTimeout}).DialContext,
			TLSClientConfig:     cfg.TLS,
			TLSHandshakeTimeout: requestTimeout,
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     90 * time.Second,
		},
	}
	if cfg.HTTPClient != nil && cfg.HTTPClient.Transport != nil {
		m.client.Transport = cfg.HTTPClient.Transport
	}
	for _, raw := range cfg.Monitor {
		base, err := parseMonitorURL(raw)
		if err != nil {
			return nil, err
		}
		if m.find(base) == nil {
			m.add(base, true, "")
		}
	}
	return m, nil
}

func parseMonitorURL(raw string) (*url.URL, error) {
	bad := func(cause error) error {
		return &fleet.Error{
			Kind: fleet.Invalid, Msg: "a monitoring URL cannot be read",
			Hint: "Write it as http://host:8222, with the port of http_port or https_port in the server's configuration.",
			Err:  cause,
		}
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err // the URL may hold a password
		}
		return nil, bad(err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, bad(fmt.Errorf("scheme %q, host %q", u.Scheme, u.Host))
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawQuery, u.Fragment = "", ""
	return u, nil
}

func (m *monitor) add(base *url.URL, configured bool, expect string) *endpoint {
	e := &endpoint{base: base, where: place(base), configured: configured, expect: expect}
	if len(m.endpoints) > 0 {
		e.delay = rand.N(m.spread + 1)
	}
	m.endpoints = append(m.endpoints, e)
	return e
}

func (m *monitor) find(base *url.URL) *endpoint {
	for _, e := range m.endpoints {
		if e.where == place(base) {
			return e
		}
	}
	return nil
}

func (m *monitor) close() { m.client.CloseIdleConnections() }

// poll reads one server, but for its streams and consumers. An error means that
// it told nothing; a part that could not be read is among the look's problems.
func (m *monitor) poll(ctx context.Context, e endpoint, what asked, cost *bill) (*look, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(e.delay):
	}
	l := &look{}
	var v varz
	sent := m.now()
	cost.in(askServer)
	if err := m.get(ctx, e, "/varz", requestTimeout, cost, func(d *json.Decoder) error { return d.Decode(&v) }); err != nil {
		return nil, err
	}
	at := m.now()
	if v.ID == "" {
		return nil, errors.New("the answer to /varz is not a nats-server's")
	}
	if e.expect != "" && v.ID != e.expect {
		return nil, errOther
	}
	if e.expectLeaf != "" && (v.Name != e.expectLeaf || v.Leafs == 0) {
		return nil, errOther
	}
	l.setVarz(&v, fleet.Monitoring, at, at.Sub(sent))
	l.server.URL = e.where
	part := func(path string, timeout time.Duration, read func(*json.Decoder) error) {
		err := m.get(ctx, e, path, timeout, cost, read)
		// An older server has fewer endpoints, which is no trouble.
		if err != nil && !errors.Is(err, errNotOffered) && ctx.Err() == nil {
			name, _, _ := strings.Cut(path, "?")
			l.problems = append(l.problems, fleet.Problem{
				Where: l.server.Name, What: "Its " + name + " was not read: " + reason(err) + ".",
				Hint: "Figures that come from it are missing or old.",
			})
		}
	}
	part("/healthz?js-server-only=true", requestTimeout, func(d *json.Decoder) error {
		var h healthz
		err := d.Decode(&h)
		l.setHealth(h)
		return err
	})
	cost.in(askLinks)
	if v.Cluster.Name != "" || v.Routes > 0 {
		part("/routez", requestTimeout, func(d *json.Decoder) error {
			var z routez
			err := d.Decode(&z)
			l.setRoutez(&z)
			return err
		})
	}
	if v.Gateway.Name != "" {
		part("/gatewayz", requestTimeout, func(d *json.Decoder) error {
			var z gatewayz
			err := d.Decode(&z)
			l.setGatewayz(&z)
			return err
		})
	}
	if v.Leafs > 0 {
		part("/leafz", requestTimeout, func(d *json.Decoder) error {
			var z leafz
			err := d.Decode(&z)
			l.setLeafz(&z)
			return err
		})
	}
	cost.in(askAccounts)
	part("/accstatz?unused=1", bulkTimeout, func(d *json.Decoder) error {
		var z accstatz
		err := d.Decode(&z)
		l.setAccstatz(&z)
		return err
	})
	l.keepConns(e.last, what)
	for q, orders := range connOrders {
		if !what[q] {
			continue
		}
		cost.in(question(q))
		for _, sort := range orders {
			part(fmt.Sprintf("/connz?auth=1&limit=%d&sort=%s", topConns, sort), bulkTimeout, func(d *json.Decoder) error {
				z, err := readConnz(d, topConns)
				l.addConnz(question(q), z.plain())
				return err
			})
		}
	}
	return l, nil
}

// pollAssets reads the streams and consumers of one server, which may take long
// and is therefore apart from its other figures.
func (m *monitor) pollAssets(ctx context.Context, e endpoint, what asked, cost *bill) (*assets, error) {
	begun := m.now()
	var a *assets
	path := "/jsz?accounts=1&streams=1&consumers=1"
	cost.in(askFigures)
	if what[askConfigs] {
		path += "&config=1"
		cost.in(askConfigs)
	}
	page, err := inPages(e.page,
		func() { a = nil },
		func() (n int, err error) {
			err = m.get(ctx, e, "/jsz", requestTimeout, cost, func(d *json.Decoder) error {
				held, err := readJSZ(d, jszSink{})
				n = held.Accounts
				return err
			})
			return n, err
		},
		func(limit, offset int) (total int, err error) {
			part := path
			if limit > 0 {
				part += fmt.Sprintf("&limit=%d&offset=%d", limit, offset)
			}
			err = m.get(ctx, e, part, bulkTimeout, cost, func(d *json.Decoder) error {
				one, err := readAssets(d, &e.last.server, begun)
				if err != nil {
					return err
				}
				one.cpu = cpuOf(one.size, cpuHTTPByte)
				if total = one.held.Accounts; a != nil {
					return a.join(one)
				}
				a = one
				return nil
			})
			return total, err
		})
	if err != nil {
		return nil, err
	}
	a.took, a.configs = m.now().Sub(begun), what[askConfigs]
	a.page = pageNext(page, a.size, a.held.Accounts, m.pageAbove)
	return a, nil
}

// errOther says that an address that was guessed is not the server looked for.
var errOther = errors.New("another server answers there")

var errNotOffered = errors.New("HTTP status 404")

// get makes one request; read must read all that it wants before it returns.
func (m *monitor) get(ctx context.Context, e endpoint, path string, timeout time.Duration, cost *bill, read func(*json.Decoder) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	u := *e.base
	p, query, _ := strings.Cut(path, "?")
	u.Path += p
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	cost.request()
	resp, err := m.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := &limited{r: resp.Body, left: m.largest}
	defer func() {
		io.CopyN(io.Discard, body, 4096) // lets the connection be used again
		cost.answer(m.largest-body.left, m.largest-body.left, cpuHTTPByte)
	}()
	if resp.StatusCode == http.StatusNotFound {
		return errNotOffered
	}
	// /healthz says in its status that a server is not well, and why in its body.
	if resp.StatusCode != http.StatusOK && p != "/healthz" {
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	return read(body.decoder())
}

// maxValue bounds one value of an answer: a decoder holds it as a whole, and
// twice as much while its buffer grows. Lists that may be long are read row by
// row, each a value.
const maxValue = 8 << 20

var errLongValue = fmt.Errorf("one value of the answer is larger than %d MiB", maxValue>>20)

// limited is like io.LimitedReader, but more than the limit is an error and not
// the end of the answer, and so is a value that is too long.
type limited struct {
	r    io.Reader
	left int64
	read int64
	d    *json.Decoder // that reads from it; nil: another reader
}

// decoder returns a decoder of what is read; there may be only one.
func (l *limited) decoder() *json.Decoder {
	l.d = json.NewDecoder(l)
	return l.d
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLarge
	}
	if l.d != nil && l.read-l.d.InputOffset() > maxValue {
		return 0, errLongValue
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	l.read += int64(n)
	return n, err
}

// reason puts an error in words for the operator, without a URL in it.
func reason(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return "its name does not resolve"
	case strings.Contains(err.Error(), "connection refused"):
		return "connection refused"
	}
	return fmt.Sprintf("%.200s", err)
}

const (
	// maxTried bounds the addresses that are remembered as tried within a minute.
	maxTried = 1024
	// maxLeafGuesses bounds the leaf nodes of one server that are looked for in one
	// round; there may be thousands, behind addresses that answer nobody.
	maxLeafGuesses = 16
)

// candidates are the addresses where servers that are known but not read may
// have their monitoring: the address of the route, and the port that the
// server which told of them uses itself. Servers announce no monitoring port
// over routes, so it is a guess, proved by the server's ID. Behind a leaf node
// connection only the name is known, which proves enough together with the
// fact that the server has such connections.
func (m *monitor) candidates(from *endpoint, unread []neighbour) []*endpoint {
	var found []*endpoint
	leafs := 0
	for _, n := range unread {
		if n.ip == "" || n.id == "" && !n.leaf {
			continue
		}
		u := *from.base
		u.User = nil // credentials are for the host that was configured
		port := cmp.Or(u.Port(), strconv.Itoa(from.last.httpPort))
		u.Host = net.JoinHostPort(n.ip, port)
		where := place(&u)
		if t, ok := m.tried[where]; ok && m.now().Sub(t) < time.Minute || m.find(&u) != nil {
			continue
		}
		if len(m.tried) >= maxTried {
			maps.DeleteFunc(m.tried, func(_ string, t time.Time) bool { return m.now().Sub(t) >= time.Minute })
		}
		if len(m.tried) >= maxTried {
			break
		}
		if n.leaf {
			if leafs++; leafs > maxLeafGuesses {
				continue
			}
		}
		m.tried[where] = m.now()
		guess := m.add(&u, false, n.id)
		if n.leaf {
			guess.expectLeaf = n.name
		}
		found = append(found, guess)
	}
	return found
}

// drop forgets a discovered endpoint.
func (m *monitor) drop(e *endpoint) {
	for i, o := range m.endpoints {
		if o == e {
			m.endpoints = append(m.endpoints[:i:i], m.endpoints[i+1:]...)
			return
		}
	}
}

// took keeps what a poll brought.
func (m *monitor) took(e *endpoint, l *look, err error) {
	e.busy = false
	e.err = err
	if err != nil {
		if !e.configured && e.last == nil {
			m.drop(e) // the guess was wrong
		}
		return
	}
	e.last, e.expect, e.expectLeaf = l, "", ""
}

// silent reports whether no server answers.
func (m *monitor) silent() bool {
	for _, e := range m.endpoints {
		if e.last != nil && e.err == nil {
			return false
		}
	}
	return true
}
