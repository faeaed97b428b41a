package bed

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// What is under way at once. A single server works through the requests of one
// account in order, so more only makes them wait longer.
const (
	connecting = 64
	creating   = 16
)

// createLimit is how long an asset may take: a super-cluster that has just come
// up refuses for seconds, until the leader knows what its peers have room for.
const createLimit = time.Minute

// connect opens all connections of the plan.
func (b *Bed) connect(ctx context.Context) error {
	b.conns = make([]*nats.Conn, len(b.plan.conns))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(connecting)
	for i, p := range b.plan.conns {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			nc, err := b.connectOne(p)
			if err != nil {
				return fmt.Errorf("open connection %d of %d to server %s: %w", i+1, len(b.plan.conns), b.nodes[p.seat.node].Name, err)
			}
			b.conns[i] = nc
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, p := range b.plan.conns {
		if b.js[p.seat] != nil {
			continue
		}
		js, err := jetstream.New(b.conns[i])
		if err != nil {
			return fmt.Errorf("use JetStream: %w", err)
		}
		b.js[p.seat] = js
	}
	b.Connections = len(b.conns)
	return nil
}

func (b *Bed) connectOne(p connPlan) (*nats.Conn, error) {
	user := b.AppUser.Name
	if p.seat.account == otherAccount {
		user = "billing"
	}
	nc, err := nats.Connect(b.nodes[p.seat.node].url(),
		nats.Name(p.name),
		nats.UserInfo(user, b.AppUser.Password),
		nats.Timeout(20*time.Second),
		nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.log.Debug("a connection of the bed reports", "connection", p.name, "err", err)
		}))
	if err != nil {
		return nil, err
	}
	_, err = nc.QueueSubscribe(p.subject, p.group, func(m *nats.Msg) {
		if m.Reply != "" {
			_ = m.Respond(m.Data)
		}
	})
	if err == nil {
		// The answer proves that the server has read the subscription, too.
		err = nc.FlushTimeout(20 * time.Second)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return nc, nil
}

// create makes all streams and their consumers.
func (b *Bed) create(ctx context.Context) error {
	var streams, consumers atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(creating)
	for _, s := range b.plan.streams {
		g.Go(func() error {
			js := b.js[s.seat]
			err := persist(ctx, func(ctx context.Context) error {
				_, err := js.CreateStream(ctx, s.config)
				return err
			})
			if err != nil {
				return fmt.Errorf("create stream %q: %w", s.config.Name, err)
			}
			streams.Add(1)
			for _, c := range s.consumers {
				err := persist(ctx, func(ctx context.Context) (err error) {
					if c.push() {
						_, err = js.CreatePushConsumer(ctx, s.config.Name, c.config)
					} else {
						_, err = js.CreateConsumer(ctx, s.config.Name, c.config)
					}
					return err
				})
				if err != nil {
					return fmt.Errorf("create consumer %q of stream %q: %w", c.config.Durable, s.config.Name, err)
				}
				consumers.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	b.Streams, b.Consumers = int(streams.Load()), int(consumers.Load())
	return err
}

// persist repeats a request that can be repeated while the answer is that the
// system is not ready, or none.
func persist(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 20*time.Second)
		err := do(try)
		done()
		if err == nil || !notReady(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// codeNoPeers is the server's answer while it knows too few peers with room.
const codeNoPeers jetstream.ErrorCode = 10005

func notReady(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
		return true
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.Code == 503 || api.ErrorCode == codeNoPeers)
}
