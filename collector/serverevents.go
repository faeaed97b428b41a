package collector

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
)

// serverSubjects are the events of the servers that a watching user of the
// system account listens to.
var serverSubjects = []string{
	"$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.*.DISCONNECT",
	"$SYS.SERVER.*.CLIENT.AUTH.ERR", "$SYS.SERVER.*.SHUTDOWN", "$SYS.SERVER.*.LAMEDUCK", "$SYS.SERVER.*.STATSZ",
}

// announcement is what is read of a server event. A client's name, JWT and keys
// stand beside it and are not read.
type announcement struct {
	Server teller `json:"server"`
	teller        // SHUTDOWN has no envelope
	Client struct {
		Host    string `json:"host"`
		Account string `json:"acc"`
		NameTag string `json:"name_tag"`
	} `json:"client"`
}

type teller struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
}

// takeServer reads one server event.
func (p *pushed) takeServer(m *nats.Msg) {
	t := strings.Split(m.Subject, ".")
	if len(t) < 4 || t[0] != "$SYS" || len(m.Data) > maxPushed {
		p.bad()
		return
	}
	what := strings.Join(t[3:], ".")
	if t[1] == "ACCOUNT" {
		p.takeConnection(t[2], what, m.Data)
		return
	}
	var a announcement
	if json.Unmarshal(m.Data, &a) != nil {
		p.bad()
		return
	}
	s := a.Server
	if s.ID == "" {
		s = a.teller
	}
	if s.ID != t[2] {
		p.bad()
		return
	}
	if s.Name == "" {
		s.Name = s.ID
	}
	key := serverKey{s.Cluster, s.Name}
	switch what {
	case "STATSZ":
		p.announce(key, false)
	case "SHUTDOWN":
		p.announce(key, true)
		p.add(happening{kind: "server.shutdown", severity: fleet.Warning, name: s.Name,
			one: "Server " + s.Name + " announced that it shuts down."})
	case "LAMEDUCK":
		p.add(happening{kind: "server.lameduck", severity: fleet.Warning, name: s.Name,
			one: "Server " + s.Name + " is in lame duck mode: its clients are asked to leave."})
	case "CLIENT.AUTH.ERR":
		// What was given as a user's name may be a password in the wrong field.
		one := "Server " + s.Name + " refused a client's credentials."
		if a.Client.Host != "" {
			one = fmt.Sprintf("Server %s refused the credentials of a client at %.60s.", s.Name, a.Client.Host)
		}
		p.add(happening{kind: "server.auth_error", severity: fleet.Warning, name: s.Name, storm: true,
			one: one, many: "Server " + percents(s.Name) + " refused the credentials of clients %d times"})
	}
}

var reasonMember = []byte(`"reason":"`)

// takeConnection counts connections that came or went, by account and reason:
// a fleet of clients that reconnects is one fact.
func (p *pushed) takeConnection(account, what string, body []byte) {
	h := happening{kind: "connections.opened", severity: fleet.Info, name: account, storm: true}
	if what == "DISCONNECT" {
		h.kind = "connections.closed"
		h.variant = "no reason given"
		if i := bytes.LastIndex(body, reasonMember); i >= 0 {
			rest := body[i+len(reasonMember):]
			if end := bytes.IndexByte(rest, '"'); end > 0 && end <= 80 {
				h.variant = string(rest[:end])
			}
		}
		switch {
		case strings.HasPrefix(h.variant, "Slow Consumer"), h.variant == "Stale Connection",
			strings.HasPrefix(h.variant, "Authentication"), strings.HasPrefix(h.variant, "Maximum"):
			h.severity = fleet.Warning
		}
	} else if what != "CONNECT" {
		return
	}
	if p.again(h.key()) {
		return
	}
	var a announcement
	if json.Unmarshal(body, &a) != nil || a.Client.Account != account {
		p.bad()
		return
	}
	shown := account
	if a.Client.NameTag != "" && len(a.Client.NameTag) <= 128 {
		shown = a.Client.NameTag
	}
	where := ""
	if a.Server.Name != "" {
		where = " on " + a.Server.Name
	}
	if what == "CONNECT" {
		h.one = "A client of account " + shown + " connected" + where + "."
		h.many = "%d clients of account " + percents(shown) + " connected"
	} else {
		h.one = "A client of account " + shown + " disconnected" + where + ": " + h.variant + "."
		h.many = "%d clients of account " + percents(shown) + " disconnected (" + percents(h.variant) + ")"
	}
	p.add(h)
}
