package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	// help.
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

// gatherFor is how long servers may take to answer a question to all of them.
const gatherFor = 2 * time.Second

// servers reads back over the system account what each server does with the
// split's subject.
type servers struct {
	sys *nats.Conn
	now func() time.Time

	conn  *nats.Conn // of the account whose messages are divided
	mu    sync.Mutex // guards known
	known string
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

// gather asks all servers and collects what comes within gatherFor, or until as
// many answered as are expected, if that is known (0 is not).
func (s *servers) gather(ctx context.Context, subject string, payload []byte, expected int) ([]serverReply, error) {
	if s.sys == nil {
		return nil, &fleet.Error{Kind: fleet.Invalid, Msg: "The servers' own mappings need the system account.", Hint: "Give the console its credentials: --sys-creds, or --sys-user."}
	}
	if !s.sys.IsConnected() {
		return nil, unavailable("The system account is not connected.", "Check the servers and the network.", s.sys.LastError())
	}
	inbox := s.sys.NewRespInbox()
	sub, err := s.sys.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask the servers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.sys.PublishRequest(subject, inbox, payload); err != nil {
		return nil, fmt.Errorf("ask the servers %s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, gatherFor)
	defer cancel()
	var out []serverReply
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case err != nil && len(out) == 0:
			return nil, unavailable("No server answers over the system account.", "Check that its user may ask "+subject+".", fmt.Errorf("ask the servers %s: %w", subject, err))
		case err != nil:
			return out, nil
		}
		var r serverReply
		if err := json.Unmarshal(msg.Data, &r); err != nil {
			return nil, fmt.Errorf("parse the answer of a server to %s: %w", subject, err)
		}
		if out = append(out, r); len(out) == expected {
			return out, nil
		}
		if expected == 0 && len(out) == 1 { // the others are as near as the first one
			quick, stop := context.WithTimeout(ctx, gatherFor/2)
			defer stop()
			ctx = quick
		}
	}
}

// accountReply is what is read of a server's answer to ACCOUNTZ.
type accountReply struct {
	Account struct {
		Name     string                   `json:"account_name"`
		Mappings map[string][]destination `json:"mappings"`
	} `json:"account_detail"`
}

// accountz asks every server about an account.
func (s *servers) accountz(ctx context.Context) ([]serverReply, error) {
	account, err := s.account(ctx)
	if err != nil {
		return nil, err
	}
	ask, err := json.Marshal(map[string]string{"account": account})
	if err != nil {
		return nil, fmt.Errorf("encode the question for account %q: %w", account, err)
	}
	return s.gather(ctx, "$SYS.REQ.SERVER.PING.ACCOUNTZ", ask, 0)
}

// InForce implements Driver: it reads the mapping of a split from every server.
func (s *servers) InForce(ctx context.Context, split traffic.Split) ([]traffic.InForce, error) {
	replies, err := s.accountz(ctx)
	if err != nil {
		return nil, err
	}
	want := map[string]int{}
	names := map[string]string{}
	for _, t := range split.Targets {
		names[t.Subject] = t.Name
	}
	for _, d := range destinations(split) {
		want[names[d.Subject]] = d.Weight
	}
	var out []traffic.InForce
	for _, r := range replies {
		f := traffic.InForce{Server: r.Server.Name, ID: r.Server.ID, At: s.now(), Weights: map[string]int{}, Others: map[string]int{}}
		var a accountReply
		switch {
		case r.Error != nil:
			f.State, f.Text = traffic.ForceUnused, "The server has not loaded the account: nobody is connected to it there."
		default:
			if err := json.Unmarshal(r.Data, &a); err != nil {
				return nil, fmt.Errorf("parse the account of server %q: %w", r.Server.Name, err)
			}
			judge(&f, a.Account.Mappings[split.Subject], r.Server.Cluster, names, want)
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b traffic.InForce) int { return strings.Compare(a.Server+a.ID, b.Server+b.ID) })
	return out, nil
}

// judge compares the mapping that a server has with the one that is wanted.
func judge(f *traffic.InForce, got []destination, cluster string, names map[string]string, want map[string]int) {
	if len(got) == 0 {
		f.State, f.Text = traffic.ForceNone, "The server maps nothing: messages stay on the split's own subject."
		return
	}
	// Weights are told cumulated, in rising order, those of each cluster by
	// themselves. A server whose cluster has some takes them and no others.
	own := slices.ContainsFunc(got, func(d destination) bool { return d.Cluster != "" && d.Cluster == cluster })
	last, sum := 0, 0
	for _, d := range got {
		if (d.Cluster != "") != own || own && d.Cluster != cluster {
			continue
		}
		w := d.Weight - last
		last = d.Weight
		sum += w
		if name := names[d.Subject]; name != "" {
			f.Weights[name] += w
		} else {
			f.Others[d.Subject] += w
		}
	}
	same := sum == 100 && len(f.Others) == 0 && len(f.Weights) == len(want)
	for name, w := range want {
		same = same && f.Weights[name] == w
	}
	switch {
	case same:
		f.State = traffic.ForceSame
	case own:
		f.State, f.Text = traffic.ForceOther, fmt.Sprintf("Its cluster %s has weights of its own.", cluster)
	case sum < 100:
		f.State, f.Text = traffic.ForceOther, fmt.Sprintf("The weights sum to %d: the rest stays on the split's own subject.", sum)
	default:
		f.State, f.Text = traffic.ForceOther, "The server has other weights."
	}
}

// matches reports whether a literal subject is one that a pattern means.
func matches(pattern, literal string) bool {
	p, l := strings.Split(pattern, "."), strings.Split(literal, ".")
	for i, t := range p {
		switch {
		case t == ">":
			return len(l) > i
		case i >= len(l) || t != "*" && t != l[i]:
			return false
		}
	}
	return len(p) == len(l)
}

// overlapping are the sources of other mappings that mean the split's subject
// too. The server takes whichever it comes upon first, and that is chance at each
// start, so such a split is refused.
func overlapping(sources []string, subject string) []string {
	var out []string
	for _, s := range sources {
		if s != subject && matches(s, subject) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

func refuseOverlap(sources []string, s traffic.Split) error {
	over := overlapping(sources, s.Subject)
	if over == nil {
		return nil
	}
	return invalid(fmt.Sprintf("The account already maps %s, which means %s too.", strings.Join(over, ", "), s.Subject),
		"A server takes whichever mapping it comes upon first, by chance at each start. Take the wider mapping away, or divide another subject.",
		map[string]string{"subject": "another mapping of the account overlaps: " + strings.Join(over, ", ")})
}
