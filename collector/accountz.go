package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"time"

	"ballast/fleet"
)

// maxAccountsAsked bounds the accounts whose settings are asked for in one
// visit, a small request each.
const maxAccountsAsked = 64

// accountz lists the accounts that a server knows, or tells of one.
type accountz struct {
	System   string         `json:"system_account"`
	Accounts []string       `json:"accounts"`
	Account  *accountDetail `json:"account_detail"`
}

// accountDetail is what is read of an account. Its token and its issuer's key stand
// beside it and are not read, of its claims only the limits.
type accountDetail struct {
	Name      string          `json:"account_name"`
	NameTag   string          `json:"name_tag"`
	Updated   wtime           `json:"update_time"`
	System    bool            `json:"is_system"`
	Expired   bool            `json:"expired"`
	Complete  bool            `json:"complete"`
	JetStream bool            `json:"jetstream_enabled"`
	Mappings  map[string]skip `json:"mappings"`
	Exports   []skip          `json:"exports"`
	Imports   []struct {
		Account string `json:"account"`
	} `json:"imports"`
	Claims *struct {
		Nats struct {
			Limits accountLimits `json:"limits"`
		} `json:"nats"`
	} `json:"decoded_jwt"`
}

// accountLimits as they stand in an account's claims: -1 is no limit, and what is
// left out is 0.
type accountLimits struct {
	Conns     int64           `json:"conn"`
	Leafs     int64           `json:"leaf"`
	Subs      int64           `json:"subs"`
	Payload   int64           `json:"payload"`
	Memory    int64           `json:"mem_storage"`
	Store     int64           `json:"disk_storage"`
	Streams   int64           `json:"streams"`
	Consumers int64           `json:"consumer"`
	Tiers     map[string]skip `json:"tiered_limits"`
}

func (l *accountLimits) limits() fleet.AccountLimits {
	told := func(n int64) fleet.Limit { return fleet.Limit{Told: true, Max: max(n, -1)} }
	out := fleet.AccountLimits{Conns: told(l.Conns), Leafs: told(l.Leafs), Subs: told(l.Subs), Payload: told(l.Payload), Tiered: len(l.Tiers) > 0}
	if !out.Tiered {
		out.Memory, out.Store, out.Streams, out.Consumers = told(l.Memory), told(l.Store), told(l.Streams), told(l.Consumers)
	}
	return out
}

// jetStreamLimits adds what /jsz tells of accounts: their memory and store, also
// where they stand in the servers' configuration.
func jetStreamLimits(sums map[string]*fleet.Account, told map[string]reserved) {
	for name, r := range told {
		sum := sums[name]
		if sum == nil || sum.Settings == nil || sum.Settings.Limits.Tiered || sum.Settings.Limits.Store.Told || r == (reserved{}) {
			continue
		}
		set := *sum.Settings
		set.Limits.Memory, set.Limits.Store = fleet.Limit{Told: true, Max: max(r.memory, -1)}, fleet.Limit{Told: true, Max: max(r.store, -1)}
		sum.Settings = &set
	}
}

// asked are the accounts whose settings are asked for.
func (z *accountz) asked() []string {
	names := slices.DeleteFunc(slices.Clone(z.Accounts), func(n string) bool { return n == "" })
	slices.Sort(names)
	return names[:min(len(names), maxAccountsAsked)]
}

// addTo keeps what was told of one account, under the name that the other
// answers show.
func (z *accountz) addTo(out map[string]fleet.AccountSettings, at time.Time) {
	d := z.Account
	if d == nil || d.Name == "" {
		return
	}
	imports := 0
	for _, i := range d.Imports {
		// Every account is given some of the system account's services.
		if i.Account != z.System && i.Account != d.Name {
			imports++
		}
	}
	set := fleet.AccountSettings{
		System: d.System, JetStream: d.JetStream, Expired: d.Expired, Incomplete: !d.Complete,
		Imports: imports, Exports: len(d.Exports), Mappings: len(d.Mappings), Updated: d.Updated.Time, At: at,
	}
	if d.Claims != nil {
		set.Limits = d.Claims.Nats.Limits.limits()
	}
	out[cmp.Or(d.NameTag, d.Name)] = set
}

// pollAccounts asks one server for the settings of its accounts. What it does
// not answer is missing, which older servers do not make a problem.
func (m *monitor) pollAccounts(ctx context.Context, e endpoint, cost *bill) map[string]fleet.AccountSettings {
	out, at := map[string]fleet.AccountSettings{}, m.now()
	ask := func(path string, z *accountz) bool {
		return m.get(ctx, e, path, requestTimeout, cost, func(d *json.Decoder) error { return d.Decode(z) }) == nil
	}
	var list accountz
	if !ask("/accountz", &list) {
		return nil
	}
	for _, name := range list.asked() {
		var z accountz
		if !ask("/accountz?acc="+url.QueryEscape(name), &z) {
			break
		}
		z.addTo(out, at)
	}
	return out
}

// gatherAccounts asks every server for the settings of its accounts.
func (a systemAsk) gatherAccounts(ctx context.Context, of map[string]fleet.Server, cost *bill) map[string]map[string]fleet.AccountSettings {
	out, at, n := map[string]map[string]fleet.AccountSettings{}, a.now(), len(of)
	all := accountz{}
	a.each(ctx, "ACCOUNTZ", nil, n, n, cost, func(_ string, d *json.Decoder) error {
		var z accountz
		err := d.Decode(&z)
		for _, name := range z.Accounts {
			if !slices.Contains(all.Accounts, name) && len(all.Accounts) < 4*maxAccountsAsked {
				all.Accounts = append(all.Accounts, name)
			}
		}
		return err
	})
	for _, name := range all.asked() {
		a.each(ctx, "ACCOUNTZ", map[string]string{"account": name}, n, n, cost, func(id string, d *json.Decoder) error {
			var z accountz
			err := d.Decode(&z)
			if _, ours := of[id]; ours && err == nil {
				if out[id] == nil {
					out[id] = map[string]fleet.AccountSettings{}
				}
				z.addTo(out[id], at)
			}
			return err
		})
		if ctx.Err() != nil {
			break
		}
	}
	return out
}

// settleAccounts joins what one server knows of the accounts with what the
// others do: the worst of each counts.
func settleAccounts(sums map[string]*fleet.Account, of map[string]fleet.AccountSettings) {
	for name, s := range of {
		sum := sums[name]
		if sum == nil {
			sum = &fleet.Account{Name: name, At: s.At}
			sums[name] = sum
		}
		if old := sum.Settings; old != nil {
			s.System = s.System || old.System
			s.JetStream = s.JetStream || old.JetStream
			s.Expired = s.Expired || old.Expired
			s.Incomplete = s.Incomplete || old.Incomplete
			if none := (fleet.AccountLimits{}); old.Limits != none && (s.Limits == none || old.Updated.After(s.Updated)) {
				s.Limits = old.Limits // the newest that a server knows
			}
			s.Imports, s.Exports, s.Mappings = max(s.Imports, old.Imports), max(s.Exports, old.Exports), max(s.Mappings, old.Mappings)
			s.Updated, s.At = later(s.Updated, old.Updated), later(s.At, old.At)
		}
		sum.Settings = &s
	}
}
