package lb

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

// Pace of reconnecting, and of noticing that a server is gone without a word.
const (
	backoffFirst = time.Second
	backoffMost  = 30 * time.Second
	pingEvery    = 15 * time.Second
	pingsMissed  = 2
)

// Backoff is the time to wait before attempt n (1, 2, 3, …): 1 s, 2 s, 4 s and
// so on up to 30 s, each ±20 %. random returns numbers in [0,1), such as
// rand.Float64.
func Backoff(n int, random func() float64) time.Duration {
	d := backoffMost
	if n <= 5 { // 2^4 s is the last below the limit
		d = backoffFirst << max(n-1, 0)
	}
	return jitter(d, random)
}

// ConnectOption changes how Connect connects.
type ConnectOption func(*connectConfig)

type connectConfig struct {
	log    *slog.Logger
	events []func(Event)
	nats   []nats.Option
}

func natsOption(o nats.Option) ConnectOption {
	return func(c *connectConfig) { c.nats = append(c.nats, o) }
}

// WithName names the connection in the server's monitoring.
func WithName(name string) ConnectOption { return natsOption(nats.Name(name)) }

// WithLogger receives the events of the connection as lines; see WithEvents for a
// program that wants to act on them.
func WithLogger(log *slog.Logger) ConnectOption {
	return func(c *connectConfig) { c.log = log }
}

// WithInboxPrefix replaces _INBOX, so that a server can permit a user the
// replies to its own requests and nobody else's.
func WithInboxPrefix(prefix string) ConnectOption { return natsOption(nats.CustomInboxPrefix(prefix)) }

// WithCredentials authenticates by a credentials file, which is read anew at
// every attempt.
func WithCredentials(file string) ConnectOption { return natsOption(nats.UserCredentials(file)) }

// WithUser authenticates by user and password.
func WithUser(user, password string) ConnectOption {
	return natsOption(nats.UserInfo(user, password))
}

// WithTLSRoots trusts the certificate authorities in the files, and asks for TLS.
func WithTLSRoots(files ...string) ConnectOption { return natsOption(nats.RootCAs(files...)) }

// WithTLSCertificate presents a client certificate.
func WithTLSCertificate(cert, key string) ConnectOption {
	return natsOption(nats.ClientCert(cert, key))
}

// WithPing sets how often the connection is probed by a round trip, 15 s if not
// said, and how many of these may be unanswered, 2 if not said, until it is taken
// for dead: a server that is gone without a word is noticed after every × (missed
// + 1) at most. A program that wants to know at this moment asks
// nats.Conn.FlushWithContext.
func WithPing(every time.Duration, missed int) ConnectOption {
	return func(c *connectConfig) {
		c.nats = append(c.nats, nats.PingInterval(every), nats.MaxPingsOutstanding(missed))
	}
}

// WithMaxReconnects gives each server up after n failed attempts in a row, and
// closes the connection when none is left; without it nothing is ever given up.
// It is for programs that are better started anew by who watches over them.
func WithMaxReconnects(n int) ConnectOption { return natsOption(nats.MaxReconnects(max(n, 0))) }

// WithNATSOptions passes options of the NATS client through, after our own: the
// last one wins. A handler of events that is passed here replaces our own, which
// then neither logs nor tells WithEvents.
func WithNATSOptions(opts ...nats.Option) ConnectOption {
	return func(c *connectConfig) { c.nats = append(c.nats, opts...) }
}

// Connect prepares a connection to one or several URLs, separated by commas. It
// never gives up, unless WithMaxReconnects says so: a server that is unreachable
// now, or refuses the user now, is tried again by Backoff for as long as the
// connection is not closed. An error means that the configuration is wrong and
// that waiting cannot help.
//
// While there is no server, what is published is kept up to the client's
// reconnect buffer (8 MB) and sent afterwards; requests wait for their context.
func Connect(urls string, opts ...ConnectOption) (*nats.Conn, error) {
	var c connectConfig
	for _, o := range opts {
		o(&c)
	}
	c.log = discard(c.log)
	happened := func(e Event) {
		e.write(c.log)
		for _, f := range c.events {
			f(e)
		}
	}
	nc, err := nats.Connect(urls, append(houseOptions(happened), c.nats...)...)
	if err != nil {
		// The URLs may hold a password, so they are not repeated here.
		return nil, fmt.Errorf("prepare the connection to NATS: %w", err)
	}
	return nc, nil
}

func houseOptions(happened func(Event)) []nats.Option {
	return append(eventOptions(happened),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(func(attempts int) time.Duration { return Backoff(attempts, rand.Float64) }),
		// A password that is wrong today may be right after the server's reload.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsMissed),
	)
}
