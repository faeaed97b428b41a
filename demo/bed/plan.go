package bed

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// plan is what a bed consists of, besides its servers. The same Config has the
// same plan.
type plan struct {
	streams []streamPlan
	conns   []connPlan
}

type streamPlan struct {
	seat      seat // from where it is created and used
	config    jetstream.StreamConfig
	subjects  []string // to publish to
	busy      bool     // part of the workload
	consumers []consumerPlan
}

type consumerPlan struct {
	config jetstream.ConsumerConfig
	worked bool // its messages are acknowledged
}

func (c consumerPlan) push() bool { return c.config.DeliverSubject != "" }

type connPlan struct {
	seat    seat
	name    string
	subject string // of the service that it is an instance of
	group   string
}

// Names as a hostile or careless client chooses them: markup, quotes, formulas
// of spreadsheets, entities, text that runs backwards, and as long as NATS
// takes. NATS itself refuses blanks, dots, slashes and wildcards in names of
// streams and consumers, but in those of connections nothing.
var (
	hostileAssets = []string{
		`<img_src=x_onerror=alert(1)`,
		`"onmouseover="alert(1)"x="`,
		`=HYPERLINK("x","y")`,
		`'||(select_1)--;`,
		`&lt;b&gt;&amp;%00%2e`,
		"価格\u202egnp,@SUM(1;2)",
		strings.Repeat("long-", 40) + "end",
	}
	hostileConns = []string{
		`<script>alert(document.domain)</script>`,
		`"><svg onload=alert(1)>`,
		`=cmd|' /C calc'!A0`,
		"two\r\nlines,\"with\";quotes\tand\x00zero",
		"+1+1 \u202egnp.exe",
		`../../etc/passwd`,
		strings.Repeat("a very long name ", 60),
		``,
	}
)

// counts are a size's own streams, consumers and connections.
var counts = map[Size][3]int{
	Small: {20, 100, 200},
	Large: {500, 5000, 2000},
	Super: {24, 96, 140},
}

// The workload uses a fifth of the streams, at most maxBusy, and two consumers
// of each; the backlog of the other consumers grows as far as keep allows.
const (
	maxBusy = 20
	keep    = 10_000 // messages of a stream
)

func newPlan(cfg Config) (plan, error) {
	def, ok := counts[cfg.Size]
	if !ok {
		return plan{}, fmt.Errorf("there is no bed %q: use %s, %s or %s", cfg.Size, Small, Large, Super)
	}
	if cfg.Server == nil {
		return plan{}, fmt.Errorf("nothing says how a server is started")
	}
	if min(cfg.Streams, cfg.Consumers, cfg.Connections) < 0 || !(cfg.Rate >= 0) || !(cfg.Churn >= 0) {
		return plan{}, fmt.Errorf("a bed has no negative numbers: %d streams, %d consumers, %d connections, rate %v, churn %v",
			cfg.Streams, cfg.Consumers, cfg.Connections, cfg.Rate, cfg.Churn)
	}
	for i, n := range []*int{&cfg.Streams, &cfg.Consumers, &cfg.Connections} {
		if *n == 0 {
			*n = def[i]
		}
	}
	var p plan
	for i := range cfg.Streams {
		p.streams = append(p.streams, planStream(cfg, i))
	}
	for k := range cfg.Consumers {
		s := &p.streams[k%cfg.Streams]
		s.consumers = append(s.consumers, planConsumer(s, k%cfg.Streams, k/cfg.Streams))
	}
	// Every stream needs somebody who sits where it is; the others sit anywhere.
	for _, s := range p.streams {
		if !p.seated(s.seat) {
			p.conns = append(p.conns, connPlan{seat: s.seat})
		}
	}
	if len(p.conns) > cfg.Connections {
		return plan{}, fmt.Errorf("%d connections are too few to reach the streams: %d are needed", cfg.Connections, len(p.conns))
	}
	for i := len(p.conns); i < cfg.Connections; i++ {
		p.conns = append(p.conns, connPlan{seat: anySeat(cfg.Size, i)})
	}
	for i := range p.conns {
		c := &p.conns[i]
		c.name = fmt.Sprintf("service-%d instance %d", i%40, i/40)
		if i%10 == 1 && i/10 < len(hostileConns) {
			c.name = hostileConns[i/10]
		}
		c.subject, c.group = fmt.Sprintf("svc.%d.requests", i%40), fmt.Sprintf("service-%d", i%40)
	}
	return p, nil
}

func (p *plan) seated(s seat) bool {
	for _, c := range p.conns {
		if c.seat == s {
			return true
		}
	}
	return false
}

// The places on a super-cluster, as indexes into its nodes.
const (
	eastNode, westNode, edgeNode = 0, 3, 6
	superNodes                   = 7
)

func anySeat(size Size, i int) seat {
	s := seat{account: appAccount}
	if size == Super {
		s.node = i % superNodes
		i /= superNodes
	}
	if size != Small && i%5 == 4 {
		s.account = otherAccount
	}
	return s
}

func planStream(cfg Config, i int) streamPlan {
	s := streamPlan{
		seat:     seat{account: appAccount},
		subjects: []string{fmt.Sprintf("bed.%d.created", i), fmt.Sprintf("bed.%d.shipped", i)},
		busy:     i < min(maxBusy, max(1, cfg.Streams/5)),
		config: jetstream.StreamConfig{
			Name:        fmt.Sprintf("STREAM-%04d", i),
			Description: fmt.Sprintf("Stream %d of the <b>bed</b>, \"quoted\"", i),
			Subjects:    []string{fmt.Sprintf("bed.%d.>", i)},
			Storage:     jetstream.MemoryStorage,
			MaxMsgs:     keep,
			Replicas:    1,
		},
	}
	if n := i - 1; n >= 0 && n < len(hostileAssets) {
		s.config.Name = hostileAssets[n]
	}
	if i%4 == 2 {
		// A server reserves it: 125 streams of Large have to fit into its memory.
		s.config.MaxBytes, s.config.MaxAge = 8<<20, time.Hour
	}
	if i%7 == 3 {
		s.config.Retention = jetstream.InterestPolicy
	}
	if i%9 == 2 {
		s.config.Metadata = map[string]string{"io.nats.monitor.enabled": "1", "io.nats.monitor.msgs-warn": "5000", "io.nats.monitor.msgs-critical": "9000"}
	}
	if cfg.Size != Small && i%5 == 4 {
		s.seat.account = otherAccount
	}
	// Large is about numbers: with files, most of the time would go into making
	// directories.
	if cfg.Size != Large && i%2 == 0 {
		s.config.Storage = jetstream.FileStorage
	}
	if cfg.Size != Super {
		return s
	}
	switch {
	case i == cfg.Streams-1 && i > 1: // the leaf node's own
		s.seat = seat{appAccount, edgeNode}
		return s
	case i%2 == 0:
		s.seat.node, s.config.Placement = eastNode, &jetstream.Placement{Cluster: "east"}
	default:
		s.seat.node, s.config.Placement = westNode, &jetstream.Placement{Cluster: "west"}
	}
	if i%6 != 5 {
		s.config.Replicas = 3
	}
	return s
}

// planConsumer is the j-th consumer of stream i.
func planConsumer(s *streamPlan, i, j int) consumerPlan {
	c := consumerPlan{
		worked: s.busy && j < 2,
		config: jetstream.ConsumerConfig{
			Durable:       fmt.Sprintf("worker-%d", j),
			Description:   "'one' of <i>many</i>",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       30 * time.Second,
			MaxAckPending: 1000,
		},
	}
	if j == 1 && i < len(hostileAssets) {
		c.config.Durable = hostileAssets[i]
	}
	kind := i + j
	if kind%3 == 0 {
		c.config.SampleFrequency = "100"
	}
	if kind%4 == 1 {
		c.config.FilterSubject = s.subjects[0]
	}
	if kind%5 == 3 {
		c.config.MaxDeliver = 5
	}
	if kind%8 == 2 {
		c.config.Metadata = map[string]string{"io.nats.monitor.enabled": "1", "io.nats.monitor.unprocessed-critical": "5000", "io.nats.monitor.outstanding-ack-critical": "900"}
	}
	if kind%10 == 9 {
		c.config.DeliverSubject, c.config.DeliverGroup = fmt.Sprintf("deliver.%d.%d", i, j), "pushed"
	}
	return c
}
