package handlers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// sharedFor is how long a reading serves everybody who asks for the same. The
// store gets a new look once in a collector's interval, which is not shorter:
// the tenth viewer of a page costs it nothing.
const sharedFor = time.Second

// readings are what was read from the store a moment ago, by name. What is kept
// is shared: nobody may change it.
type readings struct {
	flight singleflight.Group

	mu   sync.Mutex // guards kept
	kept map[string]reading
}

type reading struct {
	at    time.Time
	value any
}

// share returns what read returned within the last second under the same key,
// or reads it, once for all that wait for it. A reader that goes away does not
// take the others' answer with it.
func share[T any](ctx context.Context, s *Server, key string, read func(context.Context) (T, error)) (T, error) {
	now := time.Now()
	s.readings.mu.Lock()
	r, ok := s.readings.kept[key]
	s.readings.mu.Unlock()
	if ok && now.Sub(r.at) < sharedFor {
		return r.value.(T), nil
	}
	v, err, _ := s.readings.flight.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		v, err := read(ctx)
		if err == nil {
			s.readings.keep(key, reading{now, v})
		}
		return v, err
	})
	if err != nil {
		var none T
		return none, err
	}
	return v.(T), nil
}

func (rs *readings) keep(key string, r reading) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.kept == nil {
		rs.kept = map[string]reading{}
	}
	if len(rs.kept) >= 512 { // most of them are over; the others are read again
		for k, old := range rs.kept {
			if r.at.Sub(old.at) >= sharedFor {
				delete(rs.kept, k)
			}
		}
		if len(rs.kept) >= 512 {
			clear(rs.kept)
		}
	}
	rs.kept[key] = r
}

// shareKey names a range for share: one that ends now by its length, so that
// those who ask within a second ask for the same.
func (r timeRange) shareKey() string {
	if r.Key != "" {
		return r.Key
	}
	return fmt.Sprintf("%d-%d", r.From.UnixNano(), r.To.UnixNano())
}
