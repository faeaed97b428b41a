package handlers

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"ballast/traffic"
	"ballast/web/templates"
)

// optionNames are the members of a split's form that may be left out, as Validate
// calls them.
var optionNames = []string{
	"driver", "order", "local", "key.from", "key.header", "key.token", "key.hash", "key.bound", "spill.factor", "spill.panic", "retry.percent", "retry.burst",
}

// laneInput is a lane as typed.
type laneInput struct{ name, timeout, retries, target, fallback string }

// optionsOf are the options of a split as a form shows them.
func optionsOf(sp traffic.Split) (map[string]string, []laneInput) {
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	// A default that is written out is the same as one that is left out.
	other := func(v, usual string) string {
		if v == usual {
			return ""
		}
		return v
	}
	opt := map[string]string{"driver": string(sp.Driver), "order": other(string(sp.Order), string(traffic.Spread)), "local": string(sp.Local)}
	if k := sp.Key; k != nil {
		opt["key.from"], opt["key.header"], opt["key.token"] = other(string(k.From), string(traffic.FromHeader)), k.Header, number(k.Token)
		opt["key.hash"], opt["key.bound"] = other(string(k.Hash), string(traffic.Rendezvous)), number(k.Bound)
	}
	if s := sp.Spill; s != nil {
		opt["spill.factor"], opt["spill.panic"] = number(s.Factor), number(s.Panic)
	}
	if r := sp.Retry; r != nil {
		opt["retry.percent"], opt["retry.burst"] = number(r.Percent), number(r.Burst)
	}
	var lanes []laneInput
	for _, l := range sp.Lanes {
		lanes = append(lanes, laneInput{l.Name, strconv.Itoa(l.TimeoutMS), strconv.Itoa(l.Retries), l.Target, l.Fallback})
	}
	return opt, lanes
}

// readOptions reads the options of a form into a split. What belongs to another way
// of picking is left out: a split that picks by weight has no key.
func (in *splitInput) readOptions(form url.Values, sp *traffic.Split) {
	in.opt = map[string]string{}
	for _, name := range optionNames {
		in.opt[name] = strings.TrimSpace(form.Get(name))
	}
	number := func(field, v string) int {
		if v == "" {
			return 0
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			in.wrong[field] = "Use a whole number, or leave it empty."
		}
		return n
	}
	if d := in.opt["driver"]; d != "" {
		sp.Driver = traffic.Driver(d)
	}
	if sp.Pick == traffic.ByKey {
		k := traffic.Keyed{
			From: traffic.Source(in.opt["key.from"]), Header: in.opt["key.header"], Hash: traffic.Hash(in.opt["key.hash"]),
			Bound: number("key.bound", in.opt["key.bound"]),
		}
		if k.From == traffic.FromToken {
			k.Token = number("key.token", in.opt["key.token"])
		}
		if k.From != "" && k.From != traffic.FromHeader {
			k.Header = ""
		}
		if k != (traffic.Keyed{}) {
			sp.Key = &k
		}
	} else {
		sp.Order, sp.Local = traffic.Order(in.opt["order"]), traffic.Local(in.opt["local"])
	}
	if s := (traffic.Spill{Factor: number("spill.factor", in.opt["spill.factor"]), Panic: number("spill.panic", in.opt["spill.panic"])}); s != (traffic.Spill{}) {
		sp.Spill = &s
	}
	if r := (traffic.Retries{Percent: number("retry.percent", in.opt["retry.percent"]), Burst: number("retry.burst", in.opt["retry.burst"])}); r != (traffic.Retries{}) {
		sp.Retry = &r
	}
	for i := range traffic.MaxLanes {
		p := fmt.Sprintf("l.%d.", i)
		if !form.Has(p + "name") {
			break
		}
		get := func(k string) string { return strings.TrimSpace(form.Get(p + k)) }
		l := laneInput{get("name"), get("timeout"), get("retries"), get("target"), get("fallback")}
		in.lanes = append(in.lanes, l)
		if l.name == "" {
			continue
		}
		sp.Lanes = append(sp.Lanes, traffic.Lane{Name: l.name, TimeoutMS: number(p+"timeout", l.timeout), Retries: number(p+"retries", l.retries), Target: l.target, Fallback: l.fallback})
	}
}

// laneField is the form's field of a lane's member, which traffic calls by the
// lane's name, or by its place among those that have one.
func (in *splitInput) laneField(of string) string {
	name, member, _ := strings.Cut(of, ".")
	member = strings.TrimSuffix(member, "ms")
	named, at := 0, -1
	for i, l := range in.lanes {
		if l.name == "" {
			continue
		}
		if l.name == name || at < 0 && strconv.Itoa(named) == name {
			at = i
		}
		named++
	}
	if at < 0 {
		return "lanes"
	}
	return fmt.Sprintf("l.%d.%s", at, member)
}

// optionsView shows the options; one row more of lanes than there are.
func (in splitInput) optionsView() templates.SplitOptions {
	v := templates.SplitOptions{Value: in.opt, Wrong: in.wrong}
	if v.Value == nil {
		v.Value = map[string]string{}
	}
	lanes := in.lanes
	if len(lanes) == 0 || lanes[len(lanes)-1].name != "" && len(lanes) < traffic.MaxLanes {
		lanes = append(lanes, laneInput{})
	}
	laneWrong := false
	for i, l := range lanes {
		row := templates.LaneForm{I: strconv.Itoa(i), Name: l.name, Timeout: l.timeout, Retries: l.retries, Target: l.target, Fallback: l.fallback, Wrong: map[string]string{}}
		for _, f := range []string{"name", "timeout", "retries", "target", "fallback"} {
			if text := in.wrong[fmt.Sprintf("l.%d.%s", i, f)]; text != "" {
				row.Wrong[f], laneWrong = text, true
			}
		}
		v.Lanes = append(v.Lanes, row)
	}
	for _, name := range optionNames {
		v.Open = v.Open || name != "driver" && v.Value[name] != "" || name == "driver" && v.Value[name] != "" && v.Value[name] != string(traffic.DriverKV) || in.wrong[name] != ""
	}
	v.Open = v.Open || len(lanes) > 1 || in.wrong["lanes"] != "" || laneWrong
	return v
}

// optionWords are the options of a split, a line each, for a difference.
func optionWords(sp traffic.Split) map[string]string {
	opt, lanes := optionsOf(sp)
	for i, l := range lanes {
		text := fmt.Sprintf("%s  %s ms, %s retries", l.name, l.timeout, l.retries)
		if l.target != "" {
			text += ", to " + l.target
		}
		if l.fallback != "" {
			text += ", else to " + l.fallback
		}
		opt[fmt.Sprintf("lane %d", i+1)] = text
	}
	return opt
}
