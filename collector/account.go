package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

// account reads one account's own JetStream API. It is the source for those
// who have nothing but an account's credentials, and fills in for servers that
// neither monitoring nor the system account reaches.
type account struct {
	nc  *nats.Conn
	now func() time.Time

	mu      sync.Mutex // guards known and retry
	known   string
	retry   time.Time // no earlier question for the name
	guessed atomic.Bool

	// Owned by the rounds.
	busy bool
	last *assets
	err  error
}

// globalAccount is the account of users for whom the configuration names none.
const globalAccount = "$G"

func newAccount(nc *nats.Conn, name string, now func() time.Time) *account {
	return &account{nc: nc, known: name, now: now}
}

// name is the account's name as the servers report it. It asks until it knows,
// but not all the time: a question that is not permitted is answered by silence.
func (a *account) name(ctx context.Context) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known != "" {
		return a.known
	}
	if a.now().Before(a.retry) {
		return globalAccount
	}
	var info struct {
		Data struct {
			Account string `json:"account"`
			Name    string `json:"account_name"`
		} `json:"data"`
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := a.nc.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	if err == nil {
		err = json.Unmarshal(m.Data, &info)
	}
	if err != nil || info.Data.Account == "" {
		a.guessed.Store(true)
		a.retry = a.now().Add(5 * requestTimeout)
		return globalAccount
	}
	a.guessed.Store(false)
	a.known = info.Data.Account
	if info.Data.Name != "" {
		a.known = info.Data.Name // the one that /jsz and /connz show
	}
	return a.known
}

const (
	maxListed = 2000     // streams listed with their consumers, a request each
	maxPage   = 64 << 10 // pages, so that a total that lies ends
)

// page is one page of a list of the JetStream API.
type page struct {
	Total   int      `json:"total"`
	Missing []string `json:"missing"`
	Error   *struct {
		Description string `json:"description"`
	} `json:"error"`
	Streams []struct {
		Created wtime        `json:"created"`
		Config  streamConfig `json:"config"`
		State   streamState  `json:"state"`
		Cluster *raftGroup   `json:"cluster"`
		Mirror  *origin      `json:"mirror"`
		Origins []origin     `json:"sources"`
	} `json:"streams"`
	Consumers []consumerDetail `json:"consumers"`
}

// list reads all streams and consumers of the account, as their leaders tell.
func (a *account) list(ctx context.Context, cost *bill) (*assets, error) {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	name := a.name(ctx)
	out := newAssets("", a.now())
	err := a.pages(ctx, "$JS.API.STREAM.LIST", cost, func(p *page) int { return p.addTo(out, name, "") })
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	if len(out.streams) > maxListed {
		out.streams = out.streams[:maxListed]
	}
	for _, s := range out.streams {
		if s.Consumers == 0 {
			continue
		}
		err := a.pages(ctx, "$JS.API.CONSUMER.LIST."+s.Stream, cost, func(p *page) int { return p.addTo(out, name, s.Stream) })
		if err != nil {
			return nil, fmt.Errorf("list consumers: %w", err)
		}
	}
	out.took, out.configs = a.now().Sub(out.at), true
	return out, nil
}

// addTo adds what the page lists: streams, or the consumers of stream. It
// returns how many it lists.
func (p *page) addTo(out *assets, account, stream string) int {
	if stream == "" {
		for i := range p.Streams {
			s := &p.Streams[i]
			if s.Config.Name == "" {
				continue
			}
			out.addStream(fleet.StreamKey{Account: account, Stream: s.Config.Name},
				&streamDetail{Name: s.Config.Name, Created: s.Created, Cluster: s.Cluster, Config: s.Config, State: s.State, Mirror: s.Mirror, Origins: s.Origins}, fleet.API)
		}
		// Their leaders did not answer: they exist, without figures.
		for _, missing := range p.Missing {
			out.elsewhereStreams[fleet.StreamKey{Account: account, Stream: missing}] = ""
		}
		return len(p.Streams) + len(p.Missing)
	}
	for i := range p.Consumers {
		if c := &p.Consumers[i]; c.Name != "" {
			out.addConsumer(fleet.ConsumerKey{Account: account, Stream: stream, Consumer: c.Name}, c, fleet.API)
		}
	}
	for _, missing := range p.Missing {
		out.elsewhereConsumers[fleet.ConsumerKey{Account: account, Stream: stream, Consumer: missing}] = ""
	}
	return len(p.Consumers) + len(p.Missing)
}

// pages asks for a list page by page; take returns how many a page held.
func (a *account) pages(ctx context.Context, subject string, cost *bill, take func(*page) int) error {
	offset := 0
	for range maxPage {
		cost.request()
		m, err := a.nc.RequestWithContext(ctx, subject, fmt.Appendf(nil, `{"offset":%d}`, offset))
		if err != nil {
			return err
		}
		cost.answer(int64(len(m.Data)), int64(len(m.Data)), cpuPlainByte)
		var p page
		if err := json.Unmarshal(m.Data, &p); err != nil {
			return err
		}
		if p.Error != nil {
			return errors.New(p.Error.Description)
		}
		n := take(&p)
		if offset += n; n == 0 || offset >= p.Total {
			return nil
		}
	}
	return errors.New("the list does not end")
}

// took keeps what a listing brought.
func (a *account) took(got *assets, err error) {
	a.busy, a.err = false, err
	if err != nil {
		return
	}
	a.last = got
}
