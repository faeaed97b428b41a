// Package gateway lets programs that speak only HTTP publish to a split: a
// request is answered once JetStream holds the message. It picks targets as
// every other publisher does, by the split's document; it never changes one,
// and it serves only the splits that it was given.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"ballast/lb"
	"ballast/traffic"
)

// Headers of a request that have a meaning. Any other stays here: a client must
// not be able to set NATS's own headers, such as Nats-Rollup.
const (
	// IdempotencyKey becomes the message id: a client that got no answer repeats
	// the request with the same key, and the stream keeps one copy.
	IdempotencyKey = "Idempotency-Key"
	// Key is what a split that picks by key picks by, e.g. a customer's number.
	Key = lb.KeyHeader
)

const (
	defaultMaxBody = 256 << 10
	defaultTimeout = 5 * time.Second
	maxKey         = 128 // bytes of an IdempotencyKey or a Key
	retryAfter     = 2   // seconds
)

// Config of a gateway.
type Config struct {
	Conn    *nats.Conn
	Splits  []string      // the splits that it serves
	MaxBody int64         // bytes; 0 is 256 KiB. The server's own limit holds besides.
	Timeout time.Duration // for the acknowledgement; 0 is 5 s
	Log     *slog.Logger  // nil discards
}

// Gateway answers HTTP requests.
type Gateway struct {
	cfg    Config
	splits map[string]*lb.Publisher
}

// New builds a gateway and starts nothing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Conn == nil || len(cfg.Splits) == 0 {
		return nil, errors.New("a gateway needs a connection and at least one split")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{cfg: cfg, splits: map[string]*lb.Publisher{}}
	for _, name := range cfg.Splits {
		p, err := lb.NewPublisher(cfg.Conn, name)
		if err != nil {
			return nil, fmt.Errorf("build the publisher of split %q: %w", name, err)
		}
		g.splits[name] = p
	}
	return g, nil
}

// Run follows the splits' documents until ctx ends, then returns nil. Without
// it the gateway has no weights and answers 503.
func (g *Gateway) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range g.splits {
		group.Go(func() error { return p.Run(ctx) })
	}
	return group.Wait()
}

// Handler answers POST /v1/splits/{name}, /healthz and /readyz.
func (g *Gateway) Handler() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = g.refuse
	e.POST("/v1/splits/:name", g.publish)
	e.GET("/healthz", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", g.ready)
	// A page in a browser on this machine must not be able to post here.
	return http.NewCrossOriginProtection().Handler(e)
}

// receipt is the answer to an accepted message.
type receipt struct {
	Split     string `json:"split"`
	Target    string `json:"target"`
	Subject   string `json:"subject"`
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"sequence"`
	Duplicate bool   `json:"duplicate,omitempty"` // the stream already had this Idempotency-Key
}

func (g *Gateway) publish(c echo.Context) error {
	name := c.Param("name")
	p, ok := g.splits[name]
	if !ok {
		return echo.NewHTTPError(http.StatusNotFound, "This gateway serves no such split.")
	}
	msg, err := g.message(c.Response(), c.Request())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), g.cfg.Timeout)
	defer cancel()
	ack, err := p.PublishJS(ctx, msg)
	if err != nil {
		return g.explain(err)
	}
	return c.JSON(http.StatusAccepted, receipt{
		Split:     name,
		Target:    targetOf(p, msg.Subject),
		Subject:   msg.Subject,
		Stream:    ack.Stream,
		Sequence:  ack.Sequence,
		Duplicate: ack.Duplicate,
	})
}

// message reads the request. It always has a message id, so that a retry by the
// client library cannot store it twice.
func (g *Gateway) message(w http.ResponseWriter, r *http.Request) (*nats.Msg, error) {
	for _, h := range []string{IdempotencyKey, Key} {
		if !validKey(r.Header.Get(h)) {
			return nil, echo.NewHTTPError(http.StatusBadRequest,
				fmt.Sprintf("%s must have at most %d printable ASCII characters and no space.", h, maxKey))
		}
	}
	header := nats.Header{jetstream.MsgIDHeader: {cmp.Or(r.Header.Get(IdempotencyKey), nuid.Next())}}
	if key := r.Header.Get(Key); key != "" {
		header.Set(lb.KeyHeader, key)
	}
	limit := g.cfg.MaxBody
	if server := g.cfg.Conn.MaxPayload(); server > 0 {
		limit = min(limit, server)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, echo.NewHTTPError(http.StatusRequestEntityTooLarge, fmt.Sprintf("The limit is %d bytes.", limit))
	case err != nil:
		return nil, echo.NewHTTPError(http.StatusBadRequest, "The request's body could not be read.").SetInternal(err)
	}
	return &nats.Msg{Header: header, Data: body}, nil
}

// validKey admits "", which stands for none.
func validKey(s string) bool {
	return len(s) <= maxKey && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

// targetOf names the target of a subject; "" when the split was changed since
// the message was sent and no longer has it.
func targetOf(p *lb.Publisher, subject string) string {
	rev, _ := p.Revision()
	i := slices.IndexFunc(rev.Split.Targets, func(t traffic.Target) bool { return t.Subject == subject })
	if i < 0 {
		return ""
	}
	return rev.Split.Targets[i].Name
}

// explain turns an error of a publish into an answer. What may be better in a
// moment is 503, so that clients and load balancers retry.
func (g *Gateway) explain(err error) error {
	answer := func(code int, text string) error { return echo.NewHTTPError(code, text).SetInternal(err) }
	switch {
	case errors.Is(err, lb.ErrNoSplit):
		return answer(http.StatusServiceUnavailable, "The split's weights are not known yet.")
	case errors.Is(err, nats.ErrMaxPayload):
		return answer(http.StatusRequestEntityTooLarge, "The message is larger than the NATS server allows.")
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return answer(http.StatusServiceUnavailable, "No stream takes the target's messages, or it has no leader now.")
	default:
		return answer(http.StatusServiceUnavailable,
			"NATS did not acknowledge the message; it may be stored. Repeat the request with the same "+IdempotencyKey+".")
	}
}

// refuse answers with the error as JSON and logs what the client is not told.
func (g *Gateway) refuse(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var he *echo.HTTPError
	if !errors.As(err, &he) {
		he = echo.NewHTTPError(http.StatusInternalServerError, "Internal error.").SetInternal(err)
	}
	if he.Code >= http.StatusInternalServerError {
		g.cfg.Log.WarnContext(c.Request().Context(), "request was refused", "code", he.Code, "err", he.Internal)
	}
	if he.Code == http.StatusServiceUnavailable {
		c.Response().Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if err := c.JSON(he.Code, map[string]any{"error": he.Message}); err != nil {
		g.cfg.Log.DebugContext(c.Request().Context(), "answer was not sent", "err", err)
	}
}

func (g *Gateway) ready(c echo.Context) error {
	if !g.cfg.Conn.IsConnected() {
		return echo.NewHTTPError(http.StatusServiceUnavailable, "NATS is not connected.")
	}
	for _, name := range g.cfg.Splits {
		if _, ok := g.splits[name].Revision(); !ok {
			return echo.NewHTTPError(http.StatusServiceUnavailable, fmt.Sprintf("The weights of split %s are not known yet.", name))
		}
	}
	return c.String(http.StatusOK, "ready\n")
}
