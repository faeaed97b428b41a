package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"ballast/traffic"
)

// accountReply is what is read of a server's answer to ACCOUNTZ.
type accountReply struct {
	Account struct {
		Name     string                   `json:"account_name"`
		Mappings map[string][]destination `json:"mappings"`
		Leafs    int                      `json:"leafnode_connections"`
		Exports  []port                   `json:"exports"`
		Imports  []port                   `json:"imports"`
		Claims   string                   `json:"jwt"`
	} `json:"account_detail"`
}

// port is an export or an import of an account.
type port struct {
	Subject string `json:"subject"`
	To      string `json:"to"`            // of an import: the subject here
	Local   string `json:"local_subject"` // the same, as newer claims call it
	Type    string `json:"type"`          // stream or service
}

// here is the subject of an import in the account that imports.
func (p port) here() string {
	for _, s := range []string{p.Local, p.To} {
		if s != "" {
			return s
		}
	}
	return p.Subject
}

// accountOn is the account on one server; loaded is false where nobody uses it.
type accountOn struct {
	serverReply
	accountReply
	loaded bool
}

// accountz asks every server about the account.
func (s *servers) accountz(ctx context.Context) ([]accountOn, error) {
	account, err := s.account(ctx)
	if err != nil {
		return nil, err
	}
	question, err := json.Marshal(map[string]string{"account": account})
	if err != nil {
		return nil, fmt.Errorf("encode the question for account %q: %w", account, err)
	}
	replies, err := s.gather(ctx, "$SYS.REQ.SERVER.PING.ACCOUNTZ", question)
	if err != nil {
		return nil, err
	}
	out := make([]accountOn, len(replies))
	for i, r := range replies {
		out[i] = accountOn{serverReply: r, loaded: r.Error == nil}
		if r.Error == nil {
			if err := json.Unmarshal(r.Data, &out[i].accountReply); err != nil {
				return nil, fmt.Errorf("parse the account of server %q: %w", r.Server.Name, err)
			}
		}
	}
	return out, nil
}

// InForce implements Driver: it reads the mapping of a split from every server.
func (s *servers) InForce(ctx context.Context, split traffic.Split) ([]traffic.InForce, error) {
	all, err := s.accountz(ctx)
	if err != nil {
		return nil, err
	}
	var out []traffic.InForce
	for _, a := range all {
		f := traffic.InForce{Server: a.Server.Name, ID: a.Server.ID, At: s.now(), Weights: map[string]int{}, Others: map[string]int{}}
		if a.loaded {
			judge(&f, split, a.Account.Mappings, a.Server.Cluster)
		} else {
			f.State, f.Text = traffic.ForceUnused, "The server has not loaded the account: nobody is connected to it there."
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b traffic.InForce) int { return strings.Compare(a.Server+a.ID, b.Server+b.ID) })
	return out, nil
}

// judge compares the mappings that a server has with the split.
func judge(f *traffic.InForce, s traffic.Split, mappings map[string][]destination, cluster string) {
	over := overlapping(mappings, s.Subject)
	got := mappings[s.Subject]
	if len(got) == 0 {
		f.State, f.Text = traffic.ForceNone, "The server maps nothing of this subject: messages stay on it."
		if over != nil {
			f.State, f.Text = traffic.ForceOverlap, fmt.Sprintf("The account maps %s there, which means this subject too.", strings.Join(over, ", "))
		}
		return
	}
	names := map[string]string{}
	for _, t := range s.Targets {
		names[t.Subject] = t.Name
	}
	want := map[string]int{}
	for _, d := range destinations(s) {
		want[names[d.Subject]] = d.Weight
	}
	// Weights are told cumulated, in rising order, those of each cluster by
	// themselves. A server whose cluster has some takes them and no others.
	own := slices.ContainsFunc(got, func(d destination) bool { return d.Cluster != "" && d.Cluster == cluster })
	last, stays := 0, 0
	for _, d := range got {
		if (d.Cluster != "") != own || own && d.Cluster != cluster {
			continue
		}
		w := d.Weight - last
		last = d.Weight
		if name := names[d.Subject]; name != "" {
			f.Weights[name] += w
		} else {
			f.Others[d.Subject] += w
		}
		if d.Subject == s.Subject {
			stays += w
		}
	}
	same := last == 100 && len(f.Others) == 0 && len(f.Weights) == len(want)
	for name, w := range want {
		same = same && f.Weights[name] == w
	}
	switch {
	case over != nil:
		f.State, f.Text = traffic.ForceOverlap, fmt.Sprintf("The account also maps %s, which means this subject too: the server takes one of them, by chance at each start. Take the wider mapping away.", strings.Join(over, ", "))
	case same:
		f.State = traffic.ForceSame
	case own:
		f.State, f.Text = traffic.ForceOwn, fmt.Sprintf("Its cluster %s has weights of its own, which stay. Take them away where they were written, for example in the account's claims.", cluster)
	case last < 100: // the server adds the rest itself, unless the subject is among its own destinations
		f.State, f.Text = traffic.ForceOther, fmt.Sprintf("The weights sum to %d, and the mapping names its own subject: %d of 100 messages are lost.", last, 100-last)
	case stays > 0:
		f.State, f.Text = traffic.ForceOther, fmt.Sprintf("%d of 100 messages stay on the split's own subject.", stays)
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

// overlapping are the sources of other mappings that mean the subject too. A
// server takes whichever it comes upon first, and that is chance at each start.
func overlapping[T any](mappings map[string]T, subject string) []string {
	var out []string
	for src := range mappings {
		if src != subject && matches(src, subject) {
			out = append(out, src)
		}
	}
	slices.Sort(out)
	return out
}
