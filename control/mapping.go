package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/traffic"
)

// Driver makes the servers follow the split's document, for splits whose messages
// do not go through the client library. What it writes is a function of the split
// alone, so pushing twice is the same as once.
type Driver interface {
	// Check says why the split cannot be driven like this (fleet.Invalid), and what
	// an operator should know before.
	Check(ctx context.Context, s traffic.Split) (warn []string, err error)
	// Text is what Push would write, for reading, and the commands that do the same
	// by hand.
	Text(ctx context.Context, s traffic.Split) (payload string, commands []string, err error)
	// Push makes the servers follow the split. An error of kind fleet.Invalid or
	// fleet.Forbidden means that nothing was changed and that trying again cannot
	// help; errElsewhere, that somebody else has to carry it to the servers.
	Push(ctx context.Context, s traffic.Split) error
	// InForce reads back from every server what it does.
	InForce(ctx context.Context, s traffic.Split) ([]traffic.InForce, error)
}

// destination is one line of a weighted mapping.
type destination struct {
	Subject string `json:"subject"`
	Weight  int    `json:"weight"`
	Cluster string `json:"cluster,omitempty"`
}

// destinations is the mapping of a split. A target without weight is left out: in
// an account's claims a weight of 0 reads as 100.
func destinations(s traffic.Split) []destination {
	var out []destination
	for _, t := range s.Effective() {
		out = append(out, destination{Subject: t.Subject, Weight: t.Weight})
	}
	return out
}

// errElsewhere is the answer of a driver that writes nothing: the text is for the
// operator's own configuration management, and only what comes of it is looked at.
var errElsewhere = errors.New("the servers get the mapping from somebody else")

// gatherFor is how long servers may take to answer a question to all of them, and
// restFor how long the others may take after the first when nobody knows how many
// there are.
const (
	gatherFor = 2 * time.Second
	restFor   = time.Second
	// A server that was killed is counted by the others for half a minute: for as
	// long as fewer answered than there are said to be, the missing ones get
	// moreFor after those that answer.
	missingFor = 30 * time.Second
	moreFor    = 200 * time.Millisecond
)

// servers reads back over the system account what each server does with the
// split's subject.
type servers struct {
	sys *nats.Conn
	now func() time.Time

	// pushing is held from what a push reads to what it writes: two splits share
	// one file, or one account's claims.
	pushing sync.Mutex

	conn  *nats.Conn // of the account whose messages are divided
	mu    sync.Mutex // guards all below
	known string
	short shortage
}

// shortage is that fewer servers answered than there are said to be.
type shortage struct {
	said, answered int
	until          time.Time
}

// missed returns how many servers answer when so many are said to be there; all,
// as far as is known.
func (s *servers) missed(said int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.short.said == said && s.now().Before(s.short.until) {
		return s.short.answered
	}
	return said
}

// note remembers how many answered.
func (s *servers) note(said, answered int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case answered >= said:
		s.short = shortage{}
	case s.short.said != said || !s.now().Before(s.short.until) || answered > s.short.answered:
		s.short = shortage{said, answered, s.now().Add(missingFor)}
	}
}

// account is the account whose messages are divided, as the servers call it: its
// name, or in operator mode its public key. The server tells each user its own.
func (s *servers) account(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known != "" {
		return s.known, nil
	}
	if s.conn == nil {
		return "", noConn()
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	msg, err := s.conn.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	if err != nil {
		return "", unavailable("The server does not tell which account this console's user is of.", "The user must be allowed to ask $SYS.REQ.USER.INFO.", fmt.Errorf("ask for the user's account: %w", err))
	}
	var r serverReply
	var user struct {
		Account string `json:"account"`
	}
	if err = json.Unmarshal(msg.Data, &r); err == nil {
		err = json.Unmarshal(r.Data, &user)
	}
	if err != nil || user.Account == "" {
		return "", fmt.Errorf("parse the answer about the user's account: %w", errors.Join(err, fmt.Errorf("%q", msg.Data)))
	}
	s.known = user.Account
	return s.known, nil
}

// serverReply is the envelope of every answer of the system account.
type serverReply struct {
	Server struct {
		Name    string `json:"name"`
		ID      string `json:"id"`
		Cluster string `json:"cluster"`
	} `json:"server"`
	Data  json.RawMessage `json:"data"`
	Error *struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"error"`
}

// parseReply reads the envelope of one answer.
func parseReply(data []byte, subject string) (serverReply, error) {
	var r serverReply
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("parse the answer of a server to %s: %w", subject, err)
	}
	return r, nil
}

// active is how many servers there are, as the nearest one knows; 0 when it does
// not say. One that was killed is counted for some seconds yet.
func (s *servers) active(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, restFor/2)
	defer cancel()
	msg, err := s.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING.STATSZ", nil)
	if err != nil {
		return 0
	}
	var r struct {
		Stats struct {
			Active int `json:"active_servers"`
		} `json:"statsz"`
	}
	if json.Unmarshal(msg.Data, &r) != nil {
		return 0
	}
	return r.Stats.Active
}

// ask puts a question to all servers and collects their answers until all have
// answered or the time is over.
func (s *servers) ask(ctx context.Context, subject string, payload []byte) ([][]byte, error) {
	if s.sys == nil {
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "The servers' own mappings need the system account.", Hint: "Give the console its credentials: --sys-creds, or --sys-user."}
	}
	if !s.sys.IsConnected() {
		return nil, unavailable("The system account is not connected.", "Check the servers and the network.", s.sys.LastError())
	}
	ctx, cancel := context.WithTimeout(ctx, gatherFor)
	defer cancel()
	said := s.active(ctx)
	answering := s.missed(said)
	inbox := s.sys.NewRespInbox()
	sub, err := s.sys.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask the servers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.sys.PublishRequest(subject, inbox, payload); err != nil {
		return nil, fmt.Errorf("ask the servers %s: %w", subject, err)
	}
	var out [][]byte
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case err == nil && len(msg.Data) == 0 && msg.Header.Get("Status") != "":
			err = nats.ErrNoResponders
			fallthrough
		case err != nil && len(out) == 0:
			return nil, unavailable("No server answers over the system account.", "Check that its user may ask "+subject+".", fmt.Errorf("ask the servers %s: %w", subject, err))
		case err != nil:
			s.note(said, len(out))
			return out, nil
		}
		out = append(out, msg.Data)
		wait := time.Duration(0)
		switch {
		case len(out) == said:
			s.note(said, len(out))
			return out, nil
		case said == 0 && len(out) == 1: // the others are as near as the first one
			wait = restFor
		case len(out) == answering:
			wait = moreFor
		}
		if wait > 0 {
			quick, stop := context.WithTimeout(ctx, wait)
			defer stop()
			ctx = quick
		}
	}
}

// gather is ask for answers in the servers' envelope.
func (s *servers) gather(ctx context.Context, subject string, payload []byte) ([]serverReply, error) {
	all, err := s.ask(ctx, subject, payload)
	if err != nil {
		return nil, err
	}
	out := make([]serverReply, len(all))
	for i, data := range all {
		if out[i], err = parseReply(data, subject); err != nil {
			return nil, err
		}
	}
	return out, nil
}
