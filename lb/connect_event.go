package lb

import (
	"errors"
	"log/slog"

	"github.com/nats-io/nats.go"
)

// EventKind says what happened to a connection.
type EventKind string

const (
	EventConnected    EventKind = "connected"    // for the first time
	EventReconnected  EventKind = "reconnected"  // and the subscriptions are in force again
	EventDisconnected EventKind = "disconnected" // it broke; Err says why. The client tries again by itself
	EventUnreachable  EventKind = "unreachable"  // one attempt to connect failed; Err says why
	EventLameDuck     EventKind = "lame duck"    // the server is about to stop, the client moves to another
	EventError        EventKind = "error"        // the server or the client reported Err, e.g. a permission that is missing
	EventClosed       EventKind = "closed"       // for good; Err says why it was given up, nil that the program closed it
)

// Event is one thing that happened to a connection.
type Event struct {
	Kind    EventKind
	Server  string // name of the server, "" while there is none
	URL     string // of the server, without a password; "" while there is none
	Subject string // of the subscription that an error is about, if any
	Err     error
}

// WithEvents calls f for what happens to the connection, one call at a time, in
// the order in which it happened. f must not block: the next event waits for it.
// It may be given several times.
func WithEvents(f func(Event)) ConnectOption {
	return func(c *connectConfig) { c.events = append(c.events, f) }
}

// write logs an event in one line.
func (e Event) write(log *slog.Logger) {
	switch e.Kind {
	case EventConnected:
		log.Info("connected to NATS", "url", e.URL, "server", e.Server)
	case EventReconnected:
		log.Info("connected to NATS again", "url", e.URL, "server", e.Server)
	case EventDisconnected:
		log.Warn("the connection to NATS broke", "err", e.Err)
	case EventUnreachable:
		log.Warn("NATS is not reachable, trying again", "err", e.Err)
	case EventLameDuck:
		log.Warn("the NATS server is about to stop", "server", e.Server)
	case EventError:
		log.Error("NATS reported an error", "subject", e.Subject, "err", e.Err)
	case EventClosed:
		if e.Err != nil {
			log.Error("the connection to NATS is given up", "err", e.Err)
		}
	}
}

// eventOptions have the client tell happened of every event.
func eventOptions(happened func(Event)) []nats.Option {
	at := func(nc *nats.Conn, kind EventKind, err error) {
		happened(Event{Kind: kind, Server: nc.ConnectedServerName(), URL: nc.ConnectedUrlRedacted(), Err: err})
	}
	return []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) { at(nc, EventConnected, nil) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { at(nc, EventReconnected, nil) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { happened(Event{Kind: EventUnreachable, Err: err}) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: closed on purpose
				happened(Event{Kind: EventDisconnected, Err: err})
			}
		}),
		nats.LameDuckModeHandler(func(nc *nats.Conn) { at(nc, EventLameDuck, nil) }),
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			e := Event{Kind: EventError, Server: nc.ConnectedServerName(), URL: nc.ConnectedUrlRedacted(), Err: err}
			if sub != nil {
				e.Subject = sub.Subject
			}
			happened(e)
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			e := Event{Kind: EventClosed}
			// Where nothing is ever given up, the last error is that of an attempt.
			if err := nc.LastError(); nc.Opts.MaxReconnect >= 0 && errors.Is(err, nats.ErrNoServers) {
				e.Err = err
			}
			happened(e)
		}),
	}
}
