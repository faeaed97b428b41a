package collector

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The answers of a server, with only the fields that are read. Fields that a
// server does not send stay zero and fields that it sends beyond these are
// skipped, so that older and newer servers are read alike. What may hold a
// secret (URLs with passwords, JWTs, keys) is not named here and therefore
// never kept.

type varz struct {
	ID          string  `json:"server_id"`
	Name        string  `json:"server_name"`
	Version     string  `json:"version"`
	Host        string  `json:"host"`
	Port        int     `json:"port"`
	HTTPPort    int     `json:"http_port"`
	HTTPSPort   int     `json:"https_port"`
	Start       wtime   `json:"start"`
	Now         wtime   `json:"now"`
	Mem         int64   `json:"mem"`
	Cores       int     `json:"cores"`
	CPU         float64 `json:"cpu"`
	Connections int     `json:"connections"`
	Ever        counter `json:"total_connections"`
	Routes      int     `json:"routes"`
	Leafs       int     `json:"leafnodes"`
	InMsgs      counter `json:"in_msgs"`
	OutMsgs     counter `json:"out_msgs"`
	InBytes     counter `json:"in_bytes"`
	OutBytes    counter `json:"out_bytes"`
	Slow        counter `json:"slow_consumers"`
	Subs        int     `json:"subscriptions"`
	Cluster     struct {
		Name string `json:"name"`
	} `json:"cluster"`
	Gateway struct {
		Name string `json:"name"`
	} `json:"gateway"`
	JetStream struct {
		Config *struct {
			MaxMemory int64  `json:"max_memory"`
			MaxStore  int64  `json:"max_storage"`
			Domain    string `json:"domain"`
		} `json:"config"`
		Stats jsStats     `json:"stats"`
		Meta  metaCluster `json:"meta"`
	} `json:"jetstream"`
	Tags []string `json:"tags"`
}

type jsStats struct {
	Memory uint64 `json:"memory"`
	Store  uint64 `json:"storage"`
	API    struct {
		Total  uint64 `json:"total"`
		Errors uint64 `json:"errors"`
	} `json:"api"`
}

type metaCluster struct {
	Leader   string `json:"leader"`
	Replicas []peer `json:"replicas"`
	Size     int    `json:"cluster_size"`
}

type peer struct {
	Name    string        `json:"name"`
	Current bool          `json:"current"`
	Offline bool          `json:"offline"`
	Active  time.Duration `json:"active"`
	Lag     uint64        `json:"lag"`
}

type routez struct {
	ID     string  `json:"server_id"`
	Now    wtime   `json:"now"`
	Routes []route `json:"routes"`
}

type route struct {
	RemoteID     string  `json:"remote_id"`
	RemoteName   string  `json:"remote_name"`
	DidSolicit   bool    `json:"did_solicit"`
	IsConfigured bool    `json:"is_configured"`
	IP           string  `json:"ip"`
	Start        wtime   `json:"start"`
	RTT          dur     `json:"rtt"`
	Pending      int64   `json:"pending_size"`
	InMsgs       counter `json:"in_msgs"`
	OutMsgs      counter `json:"out_msgs"`
	InBytes      counter `json:"in_bytes"`
	OutBytes     counter `json:"out_bytes"`
	Subs         int     `json:"subscriptions"`
	Account      string  `json:"account"`
	Compression  string  `json:"compression"`
}

type gatewayz struct {
	ID       string                `json:"server_id"`
	Now      wtime                 `json:"now"`
	Name     string                `json:"name"`
	Outbound map[string]gateway    `json:"outbound_gateways"`
	Inbound  map[string][]*gateway `json:"inbound_gateways"`
}

type gateway struct {
	Connection *conn `json:"connection"`
}

type leafz struct {
	ID    string `json:"server_id"`
	Now   wtime  `json:"now"`
	Leafs []leaf `json:"leafs"`
}

type leaf struct {
	Name     string  `json:"name"`
	Account  string  `json:"account"`
	IP       string  `json:"ip"`
	RTT      dur     `json:"rtt"`
	InMsgs   counter `json:"in_msgs"`
	OutMsgs  counter `json:"out_msgs"`
	InBytes  counter `json:"in_bytes"`
	OutBytes counter `json:"out_bytes"`
	Subs     int     `json:"subscriptions"`
}

type connz struct {
	ID    string `json:"server_id"`
	Now   wtime  `json:"now"`
	Total int    `json:"total"`
	Conns []conn `json:"connections"`
}

type conn struct {
	CID      uint64  `json:"cid"`
	Kind     string  `json:"kind"`
	Name     string  `json:"name"`
	Account  string  `json:"account"`
	NameTag  string  `json:"name_tag"`
	User     string  `json:"authorized_user"`
	Lang     string  `json:"lang"`
	Version  string  `json:"version"`
	IP       string  `json:"ip"`
	Start    wtime   `json:"start"`
	RTT      dur     `json:"rtt"`
	Idle     string  `json:"idle"`
	Pending  int64   `json:"pending_bytes"`
	InMsgs   counter `json:"in_msgs"`
	OutMsgs  counter `json:"out_msgs"`
	InBytes  counter `json:"in_bytes"`
	OutBytes counter `json:"out_bytes"`
	Subs     int     `json:"subscriptions"`
}

type accstatz struct {
	Accounts []accountStat `json:"account_statz"`
}

type accountStat struct {
	ID       string  `json:"acc"`
	Name     string  `json:"name"`
	Conns    int     `json:"conns"`
	Subs     int     `json:"num_subscriptions"`
	Leafs    int     `json:"leafnodes"`
	Sent     traffic `json:"sent"`
	Received traffic `json:"received"`
	Slow     counter `json:"slow_consumers"`
}

type traffic struct {
	Msgs  counter `json:"msgs"`
	Bytes counter `json:"bytes"`
}

type healthz struct {
	Status string `json:"status"`
	Error  string `json:"error"`
}

// jsz without the lists of accounts, which are streamed.
type jsz struct {
	jsStats
	ID        string
	Now       wtime
	Disabled  bool
	Accounts  int
	Streams   int
	Consumers int
	Messages  uint64
	Meta      metaCluster
}

type raftGroup struct {
	Leader   string `json:"leader"`
	Replicas []peer `json:"replicas"`
}

type streamDetail struct {
	Name    string
	Created wtime
	Cluster *raftGroup
	Config  streamConfig
	State   streamState
	Mirror  *origin
	Origins []origin
}

// origin is what a stream copies.
type origin struct {
	Name   string        `json:"name"`
	Lag    uint64        `json:"lag"`
	Active time.Duration `json:"active"`
	Error  *struct {
		Description string `json:"description"`
	} `json:"error"`
}

type streamConfig struct {
	Name       string            `json:"name"`
	Subjects   []string          `json:"subjects"`
	Storage    string            `json:"storage"`
	Retention  string            `json:"retention"`
	Discard    string            `json:"discard"`
	Replicas   int               `json:"num_replicas"`
	MaxBytes   int64             `json:"max_bytes"`
	MaxMsgs    int64             `json:"max_msgs"`
	PerSubject int64             `json:"max_msgs_per_subject"`
	MaxAge     time.Duration     `json:"max_age"`
	Metadata   map[string]string `json:"metadata"`
}

type streamState struct {
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	FirstSeq  uint64 `json:"first_seq"`
	LastSeq   uint64 `json:"last_seq"`
	LastTime  wtime  `json:"last_ts"`
	Consumers int    `json:"consumer_count"`
	Subjects  int    `json:"num_subjects"`
}

type consumerDetail struct {
	Stream      string         `json:"stream_name"`
	Name        string         `json:"name"`
	Created     wtime          `json:"created"`
	Config      consumerConfig `json:"config"`
	Delivered   sequence       `json:"delivered"`
	AckFloor    sequence       `json:"ack_floor"`
	AckPending  int            `json:"num_ack_pending"`
	Redelivered int            `json:"num_redelivered"`
	Waiting     int            `json:"num_waiting"`
	Pending     uint64         `json:"num_pending"`
	Cluster     *raftGroup     `json:"cluster"`
	Paused      bool           `json:"paused"`
	Groups      []struct {
		Name   string `json:"group"`
		Pinned string `json:"pinned_client_id"`
	} `json:"priority_groups"`
}

type consumerConfig struct {
	Durable        string            `json:"durable_name"`
	Inactive       time.Duration     `json:"inactive_threshold"`
	AckPolicy      string            `json:"ack_policy"`
	AckWait        time.Duration     `json:"ack_wait"`
	Backoff        []time.Duration   `json:"backoff"`
	MaxDeliver     int               `json:"max_deliver"`
	FilterSubject  string            `json:"filter_subject"`
	FilterSubjects []string          `json:"filter_subjects"`
	SampleFreq     string            `json:"sample_freq"`
	MaxAckPending  int               `json:"max_ack_pending"`
	DeliverSubject string            `json:"deliver_subject"`
	Priority       string            `json:"priority_policy"`
	Metadata       map[string]string `json:"metadata"`
}

type sequence struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
	Last     wtime  `json:"last_active"`
}

// counter is a signed counter of the server's; a negative one reads as zero.
type counter uint64

func (c *counter) UnmarshalJSON(b []byte) error {
	var v int64
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*c = counter(max(v, 0))
	return nil
}

// dur is a duration as servers print it ("1.5ms"); what cannot be read is zero,
// for a round-trip time is not worth an answer.
type dur time.Duration

func (d *dur) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(string(b[1 : len(b)-1]))
	if err != nil || v < 0 {
		v = 0
	}
	*d = dur(v)
	return nil
}

// wtime is a moment as servers print it; year 1 and what cannot be read is the
// zero time.
type wtime struct{ time.Time }

func (t *wtime) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' {
		*t = wtime{}
		return nil
	}
	v, err := time.Parse(time.RFC3339Nano, string(b[1:len(b)-1]))
	if err != nil || v.Year() <= 1 {
		v = time.Time{}
	}
	t.Time = v
	return nil
}

// skip takes a value that is not read.
type skip struct{}

func (skip) UnmarshalJSON([]byte) error { return nil }

// jszSink takes the streams and consumers of a /jsz answer one by one, so that
// an answer of many megabytes is never in memory as a whole.
// What it has no function for is not taken.
type jszSink struct {
	account  func(account string, r reserved) // nil: not wanted
	stream   func(account string, s *streamDetail) error
	consumer func(account, stream string, c *consumerDetail) error
}

// leastRow is less than any server writes for a stream or a consumer; a row in
// memory takes more. Rows that are shorter could fill the memory with a small
// answer.
const leastRow = 128

var errShortRows = errors.New("its rows are too short to be a server's")

// plausible returns the sink with a look at how long the rows are.
func (s jszSink) plausible(d *json.Decoder) jszSink {
	rows := int64(0)
	check := func() error {
		if rows++; rows*leastRow > d.InputOffset()+64<<10 {
			return errShortRows
		}
		return nil
	}
	out := s
	out.stream = func(account string, x *streamDetail) error {
		if err := check(); err != nil {
			return err
		}
		if s.stream == nil {
			return nil
		}
		return s.stream(account, x)
	}
	out.consumer = func(account, stream string, x *consumerDetail) error {
		if err := check(); err != nil {
			return err
		}
		if s.consumer == nil {
			return nil
		}
		return s.consumer(account, stream, x)
	}
	return out
}

// readJSZ reads a /jsz answer.
func readJSZ(d *json.Decoder, sink jszSink) (jsz, error) {
	var out jsz
	sink = sink.plausible(d)
	err := object(d, func(key string) error {
		switch key {
		case "server_id":
			return d.Decode(&out.ID)
		case "now":
			return d.Decode(&out.Now)
		case "disabled":
			return d.Decode(&out.Disabled)
		case "total":
			return d.Decode(&out.Accounts)
		case "streams":
			return d.Decode(&out.Streams)
		case "consumers":
			return d.Decode(&out.Consumers)
		case "messages":
			return d.Decode(&out.Messages)
		case "memory":
			return d.Decode(&out.Memory)
		case "storage":
			return d.Decode(&out.Store)
		case "api":
			return d.Decode(&out.API)
		case "meta_cluster":
			return d.Decode(&out.Meta)
		case "account_details":
			return array(d, func() error { return readAccount(d, sink) })
		}
		return d.Decode(&skip{})
	})
	return out, err
}

// readAccount reads one account of /jsz. The name comes before the streams in
// every server known; one that comes after them is an error, for rows without
// their account would be somebody else's.
func readAccount(d *json.Decoder, sink jszSink) error {
	var name, id string
	var memory, store uint64
	err := object(d, func(key string) error {
		switch key {
		case "name":
			return d.Decode(&name)
		case "reserved_memory":
			return d.Decode(&memory)
		case "reserved_storage":
			return d.Decode(&store)
		case "id":
			return d.Decode(&id)
		case "stream_detail":
			if name == "" {
				name = id
			}
			if name == "" {
				return errors.New("streams before the name of their account")
			}
			return array(d, func() error { return readStream(d, name, sink) })
		}
		return d.Decode(&skip{})
	})
	if err == nil && sink.account != nil && cmp.Or(name, id) != "" {
		// No limit is the greatest number that there is.
		sink.account(cmp.Or(name, id), reserved{int64(memory), int64(store)})
	}
	return err
}

// reserved is what an account may use of JetStream; negative is no limit, and
// nothing of both is not told.
type reserved struct{ memory, store int64 }

func readStream(d *json.Decoder, account string, sink jszSink) error {
	var s streamDetail
	err := object(d, func(key string) error {
		switch key {
		case "name":
			return d.Decode(&s.Name)
		case "created":
			return d.Decode(&s.Created)
		case "cluster":
			return d.Decode(&s.Cluster)
		case "config":
			return d.Decode(&s.Config)
		case "state":
			return d.Decode(&s.State)
		case "mirror":
			return d.Decode(&s.Mirror)
		case "sources":
			return d.Decode(&s.Origins)
		case "consumer_detail":
			return array(d, func() error {
				var c consumerDetail
				if err := d.Decode(&c); err != nil {
					return err
				}
				stream := s.Name
				if stream == "" {
					stream = c.Stream
				}
				if stream == "" || c.Name == "" {
					return errors.New("a consumer without a name")
				}
				return sink.consumer(account, stream, &c)
			})
		}
		return d.Decode(&skip{})
	})
	if err != nil {
		return err
	}
	if s.Name == "" {
		return errors.New("a stream without a name")
	}
	return sink.stream(account, &s)
}

// object walks the members of a JSON object; each must be read by f. null is
// an empty object.
func object(d *json.Decoder, f func(key string) error) error {
	open, err := begin(d, '{')
	if err != nil || !open {
		return err
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return fmt.Errorf("a member's name, not %v", t)
		}
		if err := f(key); err != nil {
			return within(key, err)
		}
	}
	_, err = d.Token()
	return err
}

// array walks the elements of a JSON array; each must be read by f. null is an
// empty array.
func array(d *json.Decoder, f func() error) error {
	open, err := begin(d, '[')
	if err != nil || !open {
		return err
	}
	for d.More() {
		if err := f(); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func begin(d *json.Decoder, want json.Delim) (open bool, err error) {
	t, err := d.Token()
	if err != nil {
		return false, err
	}
	if t == nil {
		return false, nil
	}
	if t != want {
		return false, fmt.Errorf("%q expected, not %v", want.String(), t)
	}
	return true, nil
}

// within says where in a document an error happened; the limit on its size
// passes through unchanged.
func within(key string, err error) error {
	if errors.Is(err, errTooLarge) || errors.Is(err, errLongValue) || errors.Is(err, errShortRows) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return fmt.Errorf("%.40q: %w", key, err)
}
