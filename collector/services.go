package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

const (
	// maxServices bounds the instances of micro services that are kept: any client
	// of the account can claim to be one, or a thousand.
	maxServices = 2000
	// maxServiceBytes bounds what all instances together may say.
	maxServiceBytes = 16 << 20
	maxEndpoints    = 256     // of one instance
	maxServiceData  = 4 << 10 // of one endpoint; more is left out
	maxServiceMeta  = 64      // keys
	maxServiceName  = 256     // bytes
	// serviceIdle is how long after an answer the next one may take: there is no
	// way to know how many instances there are.
	serviceIdle = 200 * time.Millisecond
	// serviceMisses is how many rounds of questions an instance may leave
	// unanswered before it counts as gone.
	serviceMisses = 2
)

// services asks the account's micro services. Its state is owned by the rounds.
type services struct {
	nc   *nats.Conn
	now  func() time.Time
	busy bool
	err  error
	over int // instances that were too many
	agenda
	known map[fleet.Entity]*instance
}

type instance struct {
	fleet.Service
	missed int
	about  string
}

func newServices(nc *nats.Conn, now func() time.Time) *services {
	return &services{nc: nc, now: now, known: map[fleet.Entity]*instance{}}
}

// serviceAnswer is what an instance answers to STATS or INFO.
type serviceAnswer struct {
	Type        string            `json:"type"`
	Name        string            `json:"name"`
	ID          string            `json:"id"`
	Version     string            `json:"version"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata"`
	Started     wtime             `json:"started"`
	Endpoints   []struct {
		Name       string          `json:"name"`
		Subject    string          `json:"subject"`
		Queue      string          `json:"queue_group"`
		Requests   counter         `json:"num_requests"`
		Errors     counter         `json:"num_errors"`
		LastError  string          `json:"last_error"`
		Processing counter         `json:"processing_time"`
		Average    counter         `json:"average_processing_time"`
		Data       json.RawMessage `json:"data"`
	} `json:"endpoints"`
}

var errNotService = errors.New("not a micro service's answer")

// readService reads an answer of the given kind, "stats" or "info".
func readService(b []byte, kind string) (fleet.Service, error) {
	var a serviceAnswer
	if err := json.Unmarshal(b, &a); err != nil {
		return fleet.Service{}, err
	}
	if a.Type != "io.nats.micro.v1."+kind+"_response" || !isServiceName(a.Name) || !isServiceName(a.ID) ||
		len(a.Version) > maxServiceName || len(a.Endpoints) > maxEndpoints {
		return fleet.Service{}, errNotService
	}
	s := fleet.Service{
		Name: a.Name, ID: a.ID, Version: a.Version, Description: clipped(a.Description, 1024),
		Started: a.Started.Time,
	}
	if len(a.Metadata) > 0 && len(a.Metadata) <= maxServiceMeta {
		s.Metadata = a.Metadata
		for _, v := range s.Metadata {
			if len(v) > maxServiceData {
				s.Metadata = nil
				break
			}
		}
	}
	for _, e := range a.Endpoints {
		if len(e.Name) > maxServiceName || len(e.Subject) > 4*maxServiceName || len(e.Queue) > maxServiceName {
			return fleet.Service{}, errNotService
		}
		out := fleet.Endpoint{
			Name: e.Name, Subject: e.Subject, Queue: e.Queue, Requests: uint64(e.Requests), Errors: uint64(e.Errors),
			ProcessingTime: time.Duration(e.Processing), AvgProcessing: time.Duration(e.Average), LastError: clipped(e.LastError, 256),
		}
		if len(e.Data) <= maxServiceData && string(e.Data) != "null" {
			out.Data = e.Data
		}
		s.Endpoints = append(s.Endpoints, out)
	}
	return s, nil
}

func isServiceName(s string) bool { return s != "" && len(s) <= maxServiceName }

func clipped(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// servicesFound is what one round of questions brought.
type servicesFound struct {
	stats []fleet.Service
	about map[fleet.Entity]string // nil: not asked
	over  int
}

// serviceList takes the answers to one question, each instance's once, as many
// as are kept.
type serviceList struct {
	kind    string // "stats" or "info"
	account string
	at      time.Time
	left    int64 // bytes
	seen    map[fleet.Entity]bool
	list    []fleet.Service
	over    int
}

func newServiceList(kind, account string, at time.Time) *serviceList {
	return &serviceList{kind: kind, account: account, at: at, left: maxServiceBytes, seen: map[fleet.Entity]bool{}}
}

func (l *serviceList) add(b []byte) (more bool) {
	if l.left -= int64(len(b)); l.left < 0 {
		l.over++
		return false
	}
	one, err := readService(b, l.kind)
	switch {
	case err != nil: // nobody's loss but the pretender's
	case l.seen[one.Entity()]:
	case len(l.list) >= maxServices:
		l.over++
		return false
	default:
		l.seen[one.Entity()] = true
		one.Account, one.At = l.account, l.at
		l.list = append(l.list, one)
	}
	return true
}

// find asks all instances for their figures, and what they are for if about.
func (s *services) find(ctx context.Context, account string, about bool, cost *bill) (*servicesFound, error) {
	stats := newServiceList("stats", account, s.now())
	if err := gather(ctx, s.nc, "$SRV.STATS", cost.in(askServices), stats.add); err != nil {
		return nil, fmt.Errorf("ask micro services for their figures: %w", err)
	}
	got := &servicesFound{stats: stats.list, over: stats.over}
	if !about || len(got.stats) == 0 {
		return got, nil
	}
	// Their descriptions are no reason to lose the figures.
	info := newServiceList("info", account, s.now())
	gather(ctx, s.nc, "$SRV.INFO", cost.in(askAbout), info.add)
	got.about = make(map[fleet.Entity]string, len(info.list))
	for i := range info.list {
		got.about[info.list[i].Entity()] = info.list[i].Description
	}
	return got, nil
}

// gather sends a request that any number may answer, and takes answers as long
// as they come briskly and are wanted.
func gather(ctx context.Context, nc *nats.Conn, subject string, cost *bill, take func([]byte) (more bool)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(2*maxServices, 2*maxServiceBytes); err != nil {
		return err
	}
	cost.request()
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		return err
	}
	for n := 0; ; n++ {
		limit, stop := ctx, context.CancelFunc(func() {})
		if n > 0 {
			limit, stop = context.WithTimeout(ctx, serviceIdle)
		}
		m, err := sub.NextMsgWithContext(limit)
		stop()
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil // there are none
		case err != nil && n > 0:
			return nil
		case err != nil:
			return err
		case len(m.Data) == 0 && m.Header.Get("Status") == "503":
			return nil
		}
		cost.answer(int64(len(m.Data)), 0, 0) // the instances' work, not the servers'
		if !take(m.Data) {
			return nil
		}
	}
}

// took keeps what a round of questions brought.
func (s *services) took(got *servicesFound, err error) {
	s.busy, s.err = false, err
	if err != nil {
		return
	}
	s.over = got.over
	for _, i := range s.known {
		i.missed++
	}
	for _, one := range got.stats {
		i := s.known[one.Entity()]
		if i == nil {
			i = &instance{}
			s.known[one.Entity()] = i
			s.next[askAbout] = time.Time{} // it is to be introduced
		}
		if text, ok := got.about[one.Entity()]; ok {
			i.about = text
		}
		one.Description = cmp.Or(one.Description, i.about)
		i.Service, i.missed = one, 0
	}
	maps.DeleteFunc(s.known, func(_ fleet.Entity, i *instance) bool { return i.missed >= serviceMisses })
}

func (s *services) list() []fleet.Service {
	out := make([]fleet.Service, 0, len(s.known))
	for _, i := range s.known {
		out = append(out, i.Service)
	}
	slices.SortFunc(out, func(a, b fleet.Service) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out
}
