package lb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/traffic"
)

// Run follows the split's document until ctx ends and then returns nil. A bucket
// or key that is not there yet, or no longer, is waited for, and so is a server.
// It returns an error only when the connection was closed for good.
func (p *Publisher) Run(ctx context.Context) error {
	life, end := context.WithCancel(ctx)
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		p.tend(life)
	}()
	defer func() {
		end()
		<-tended
	}()
	connected := p.nc.StatusChanged(nats.CONNECTED)
	defer p.nc.RemoveStatusListener(connected)
	said := ""
	for n := 1; ctx.Err() == nil; n++ {
		followed, err := p.watch(ctx, connected)
		switch {
		case ctx.Err() != nil:
			return nil
		case p.nc.IsClosed():
			return fmt.Errorf("follow the weights of split %s: %w", p.name, nats.ErrConnectionClosed)
		case followed:
			n, said = 0, ""
		}
		if err == nil {
			continue // a fresh watch is due
		}
		if why := p.trouble(err); why != said { // an absent bucket is no news every few seconds
			said = why
			p.log.WarnContext(ctx, "weights are not followed, trying again", "err", err, "known", p.now.Load() != nil)
		}
		// To create the bucket is the first thing that an operator does with
		// Ballast, and then waits for.
		rest(ctx, connected, min(Backoff(max(n, 1), rand.Float64), longestRest))
	}
	return nil
}

// trouble is what keeps the weights from being followed, the same as long as it is
// the same: one thing has many errors, by the request that met it.
func (p *Publisher) trouble(err error) string {
	switch {
	case !p.nc.IsConnected():
		return "no connection"
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound),
		errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return "no bucket"
	}
	return err.Error()
}

const (
	// lookTimeout bounds the requests that open a watch: a denied one is never
	// answered.
	lookTimeout = 5 * time.Second
	longestRest = 5 * time.Second
)

// watch opens a watch and follows it until it ends or is suspected dead, which
// is no error. followed reports whether it was seen to be alive.
func (p *Publisher) watch(ctx context.Context, connected <-chan nats.Status) (followed bool, err error) {
	if !p.nc.IsConnected() {
		return false, errNotConnected
	}
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	kv, err := p.js.KeyValue(look, traffic.Bucket)
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", traffic.Bucket, err)
	}
	// The subscription ends with the context that opened it, so that one must not
	// be timed; it is cut off only as long as it has not answered.
	life, end := context.WithCancel(ctx)
	defer end()
	answered := context.AfterFunc(look, end)
	w, err := kv.Watch(life, traffic.Key(p.name))
	if err != nil {
		return false, fmt.Errorf("watch %s/%s: %w", traffic.Bucket, traffic.Key(p.name), err)
	}
	defer w.Stop()
	if !answered() {
		return false, fmt.Errorf("watch %s/%s: %w", traffic.Bucket, traffic.Key(p.name), context.DeadlineExceeded)
	}

	var newest time.Time // of what the watch brought
	check := time.NewTicker(jitter(p.resync, rand.Float64))
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return followed, nil
		case <-connected:
			// Whatever happened meanwhile, a fresh watch begins with the document as
			// it stands now.
			return followed, nil
		case entry, open := <-w.Updates():
			switch {
			case !open:
				return followed, fmt.Errorf("watch %s/%s: the subscription ended", traffic.Bucket, traffic.Key(p.name))
			case entry != nil:
				newest = entry.Created()
				p.take(ctx, entry)
			case newest.IsZero(): // nil marks the end of what was there at the beginning
				p.refuse(ctx, "the bucket has no document of the split, waiting for it", jetstream.ErrKeyNotFound)
			}
		case <-check.C:
			alive, err := p.alive(ctx, kv, newest)
			if err != nil {
				select {
				case <-connected:
					err = nil // the question was lost with the old connection
				default:
				}
				return followed, err
			}
			if !alive {
				return followed, nil
			}
			followed = true
		}
	}
}

// alive reports whether the watch has brought what the bucket holds. The times
// are compared and not the KV revisions, which begin anew in a bucket that was
// deleted and created; an older time is that of a replica that lags.
func (p *Publisher) alive(ctx context.Context, kv jetstream.KeyValue, newest time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	entry, err := kv.Get(ctx, traffic.Key(p.name))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // also when it was deleted
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read %s/%s: %w", traffic.Bucket, traffic.Key(p.name), err)
	}
	return !entry.Created().After(newest), nil
}

// take judges what the bucket holds and brings it into force if it is good and
// newer.
func (p *Publisher) take(ctx context.Context, entry jetstream.KeyValueEntry) {
	if entry.Operation() != jetstream.KeyValuePut {
		p.refuse(ctx, "the split's document was deleted, the last weights stay",
			fmt.Errorf("%v at KV revision %d", entry.Operation(), entry.Revision()))
		return
	}
	rev, err := traffic.Parse(entry.Value())
	old, known := p.Revision()
	switch {
	case err != nil:
	case rev.Split.Name != p.name:
		err = fmt.Errorf("the document is of split %q", rev.Split.Name)
	case known && rev.Epoch == old.Epoch && rev.Number == old.Number:
		return // a fresh watch repeats what is in force
	case known && !rev.Newer(old):
		err = fmt.Errorf("epoch %d revision %d is older than epoch %d revision %d", rev.Epoch, rev.Number, old.Epoch, old.Number)
	default:
		rev.Token = entry.Revision()
		err = p.install(rev, false)
	}
	if err != nil {
		p.refused.Add(1)
		p.refuse(ctx, "a document was refused, the last weights stay", err)
		return
	}
	p.taken.Add(1)
	p.writeCache(ctx, entry.Value())
	p.log.InfoContext(ctx, "weights are in force", "epoch", rev.Epoch, "revision", rev.Number)
}

// refuse logs once why no document is taken, however often a fresh watch brings the
// same again.
func (p *Publisher) refuse(ctx context.Context, msg string, err error) {
	p.mu.Lock()
	again := p.lastBad == err.Error()
	p.lastBad = err.Error()
	p.mu.Unlock()
	if !again {
		p.log.WarnContext(ctx, msg, "err", err)
	}
}
