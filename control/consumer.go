package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
)

const (
	sampleField = "sample_freq"
	// serverMeta begins the metadata that servers write themselves.
	serverMeta = "_nats."
)

// consumerState is a consumer as its leader tells it. The configuration stays
// as it came, field by field: an update replaces all of it, so a field that this
// program does not know must survive too.
type consumerState struct {
	born    time.Time
	raw     json.RawMessage
	config  map[string]json.RawMessage
	settled int64 // deliveries that are over; only its growth means something

	waiting, inFlight int    // pulls, and messages that are not acknowledged
	backlog           uint64 // messages that were not delivered yet
	pinned            map[string]string
	replicated        bool
}

// text returns a field that holds a string, "" when it is not there.
func (s consumerState) text(field string) string {
	var v string
	// Of another type it is not a field that this program knows.
	_ = json.Unmarshal(s.config[field], &v)
	return v
}

func (s consumerState) sampleFreq() string { return s.text(sampleField) }

// with returns the configuration with another sample_freq and nothing else
// changed; "" takes the field away, as the servers write it.
func (s consumerState) with(freq string) map[string]json.RawMessage {
	c := maps.Clone(s.config)
	if freq == "" {
		delete(c, sampleField)
	} else {
		c[sampleField] = encode(freq)
	}
	return c
}

// differs names the fields in which two configurations differ, sample_freq and
// what servers note down for themselves left out.
func differs(a, b map[string]json.RawMessage) []string {
	var out []string
	for _, f := range slices.Sorted(maps.Keys(merged(a, b))) {
		if f != sampleField && !reflect.DeepEqual(meaning(f, a[f]), meaning(f, b[f])) {
			out = append(out, f)
		}
	}
	return out
}

func merged(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// meaning is a value without its spelling; nil for one that is not there.
func meaning(field string, raw json.RawMessage) any {
	if len(raw) == 0 {
		return nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return string(raw)
	}
	if m, ok := v.(map[string]any); ok && field == "metadata" {
		maps.DeleteFunc(m, func(k string, _ any) bool { return strings.HasPrefix(k, serverMeta) })
		if len(m) == 0 {
			return nil
		}
	}
	return v
}

// apiToken reports whether s can be the name of a stream or a consumer. One that
// cannot would ask for something else: it stands in the subject of the request.
func apiToken(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsAny(s, `.*>/\`) &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar })
}

// named is a consumer's name in a sentence.
func named(k fleet.ConsumerKey) string {
	return printable([]byte(k.Consumer)) + " of stream " + printable([]byte(k.Stream))
}

// request asks the JetStream API. errNobody and errDenied are proof that nobody
// acted on it; after any other error somebody may have.
func (c *Control) request(ctx context.Context, subject string, ask, answer any) error {
	if !c.cfg.Conn.IsConnected() {
		return errNobody // it would only sit in the reconnect buffer
	}
	var body []byte
	if ask != nil {
		body = encode(ask)
	}
	said := c.cfg.Conn.LastError()
	msg, err := c.cfg.Conn.RequestWithContext(ctx, subject, body)
	switch now := c.cfg.Conn.LastError(); {
	case err == nil:
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: %w", errNobody, err)
	case now != said && errors.Is(now, nats.ErrPermissionViolation) && strings.Contains(now.Error(), fmt.Sprintf("Publish to %q", subject)):
		return fmt.Errorf("%w: %w", errDenied, now)
	default:
		return err
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return fmt.Errorf("parse the answer: %w", err)
	}
	return nil
}

// consumerAnswer is what INFO and CREATE answer.
type consumerAnswer struct {
	Error     *jetstream.APIError `json:"error"`
	Created   time.Time           `json:"created"`
	Config    json.RawMessage     `json:"config"`
	Delivered struct {
		Consumer uint64 `json:"consumer_seq"`
	} `json:"delivered"`
	AckPending int    `json:"num_ack_pending"`
	Waiting    int    `json:"num_waiting"`
	Pending    uint64 `json:"num_pending"`
	Cluster    *struct {
		Leader   string            `json:"leader"`
		Replicas []json.RawMessage `json:"replicas"`
	} `json:"cluster"`
	Groups []struct {
		Group  string `json:"group"`
		Client string `json:"pinned_client_id"`
	} `json:"priority_groups"`
}

func (a consumerAnswer) state() (consumerState, error) {
	s := consumerState{
		born: a.Created, raw: a.Config, settled: int64(a.Delivered.Consumer) - int64(a.AckPending),
		waiting: a.Waiting, inFlight: a.AckPending, backlog: a.Pending,
		replicated: a.Cluster != nil && len(a.Cluster.Replicas) > 0,
	}
	for _, g := range a.Groups {
		if g.Client != "" {
			if s.pinned == nil {
				s.pinned = map[string]string{}
			}
			s.pinned[g.Group] = g.Client
		}
	}
	if err := json.Unmarshal(a.Config, &s.config); err != nil {
		return s, fmt.Errorf("parse the configuration: %w", err)
	}
	return s, nil
}

// consumer asks a consumer's leader what is in force.
func (c *Control) consumer(ctx context.Context, k fleet.ConsumerKey) (consumerState, error) {
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	var a consumerAnswer
	subject := "$JS.API.CONSUMER.INFO." + k.Stream + "." + k.Consumer
	if err := c.request(ctx, subject, nil, &a); err != nil {
		return consumerState{}, consumerError(k, subject, fmt.Errorf("look up consumer %s: %w", named(k), err))
	}
	if a.Error != nil {
		return consumerState{}, consumerError(k, subject, fmt.Errorf("look up consumer %s: %w", named(k), a.Error))
	}
	if a.Cluster != nil && a.Cluster.Leader == "" {
		return consumerState{}, unavailable("Consumer "+named(k)+" has no leader.", "An election takes up to nine seconds; then try again.", nil)
	}
	s, err := a.state()
	if err != nil {
		return consumerState{}, fmt.Errorf("look up consumer %s: %w", named(k), err)
	}
	return s, nil
}

// setSampling changes a consumer's sample_freq and returns its configuration as
// it then is. NATS has no compare-and-swap for consumers: what somebody else
// writes between the look at the consumer and this, about one round trip, is
// overwritten. A consumer that is gone is not created again.
func (c *Control) setSampling(ctx context.Context, k fleet.ConsumerKey, s consumerState, freq string) (consumerState, error) {
	ctx, cancel := context.WithTimeout(ctx, c.writeTimeout)
	defer cancel()
	subject := updateSubject(k, s)
	ask := map[string]any{"stream_name": k.Stream, "config": s.with(freq), "action": "update"}
	var a consumerAnswer
	if err := c.request(ctx, subject, ask, &a); err != nil {
		return consumerState{}, consumerError(k, subject, fmt.Errorf("update consumer %s: %w", named(k), err))
	}
	if a.Error != nil {
		return consumerState{}, consumerError(k, subject, fmt.Errorf("update consumer %s: %w", named(k), a.Error))
	}
	now, err := a.state()
	if err != nil {
		return consumerState{}, fmt.Errorf("update consumer %s: %w", named(k), err)
	}
	return now, nil
}

// updateSubject ends with the consumer's filter, if it has one alone: then the
// server holds the request to that filter, so permissions can do so too.
func updateSubject(k fleet.ConsumerKey, s consumerState) string {
	subject := "$JS.API.CONSUMER.CREATE." + k.Stream + "." + k.Consumer
	if f := s.text("filter_subject"); f != "" && !strings.ContainsFunc(f, unicode.IsSpace) {
		subject += "." + f
	}
	return subject
}

// consumerError gives an error of the consumer API its kind and its words. Kind
// Unknown is a write, or a read, of which nothing came back.
func consumerError(k fleet.ConsumerKey, subject string, err error) *fleet.Error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, errDenied):
		return &fleet.Error{Kind: fleet.Forbidden, Msg: "The NATS user of this console may not do this to consumer " + named(k) + ".",
			Hint: "Let it publish to " + printable([]byte(subject)) + ".", Err: err}
	case errors.Is(err, errNobody):
		return unavailable("JetStream does not answer.", "Check that it is enabled for this account and that its cluster has a leader; an election takes up to nine seconds.", err)
	case !errors.As(err, &api):
		return &fleet.Error{Kind: fleet.Unknown, Msg: "Consumer " + named(k) + " does not answer.", Hint: "Its leader may be gone: an election takes up to nine seconds.", Err: err}
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeConsumerNotFound, jetstream.JSErrCodeConsumerDoesNotExist, jetstream.JSErrCodeStreamNotFound:
		return &fleet.Error{Kind: fleet.NotFound, Msg: "There is no consumer " + named(k) + ".", Hint: "Look at the list of consumers.", Err: err}
	}
	if api.Code == 503 {
		return unavailable("JetStream cannot serve consumer "+named(k)+" just now.", "Its servers may be down or without a leader; then try again.", err)
	}
	return invalid("The server refuses the change: "+printable([]byte(api.Description))+".", "Nothing was changed.", err)
}

// myAccount is the name of the account that the connection is of, and the name
// that is shown for it when that is another.
func (c *Control) myAccount(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	var info struct {
		Data struct {
			Account string `json:"account"`
			Name    string `json:"account_name"`
		} `json:"data"`
	}
	err := c.request(ctx, "$SYS.REQ.USER.INFO", nil, &info)
	if err == nil && info.Data.Account == "" {
		err = errors.New("no name in the answer")
	}
	if err != nil {
		return nil, unavailable("The account of this console's credentials is not known, so a consumer of that name could be another account's.",
			"Permit its user to publish to $SYS.REQ.USER.INFO.", fmt.Errorf("ask for the account: %w", err))
	}
	return []string{info.Data.Account, info.Data.Name}, nil
}
