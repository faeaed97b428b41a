package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ballast/fleet"
	"ballast/traffic"
)

// The document in the KV says what shall be; a driver makes the servers follow it.
// The two are compared again and again, so it does not matter when a server was
// away, or at which step the console was stopped: what differs is pushed again.

const (
	driverName = "ballast driver"
	// lookEvery is how often the servers are asked what they do: a server that
	// comes back with older weights is seen after that.
	lookEvery = 5 * time.Second
	// pushAgain is the least time between two pushes of one split: claims of an
	// account with many clients cost every server half a second. While pushes help
	// nobody, such as a server whose configuration lacks the file, it doubles up to
	// pushSeldom. For others than those it is pushSoon.
	pushAgain  = 10 * time.Second
	pushSeldom = 5 * time.Minute
	pushSoon   = time.Second
	// silentFor is how long a server that answered once is missed when it does not.
	silentFor = 15 * time.Minute
	// confirmFor is how long servers may take to follow a push before the operator
	// is told who does not.
	confirmFor = 5 * time.Second
)

// driven is what is known of a split that the servers carry out.
type driven struct {
	inForce []traffic.InForce
	looked  time.Time
	lookErr error
	pushed  time.Time
	pushErr error
	// helpless are the servers that the last push did not help, and wait is how long
	// not to push again for them.
	helpless string
	wait     time.Duration
	// met are the servers, by id, that answered after the last push. One that starts
	// holds what it had, and nobody sees that until somebody uses the account there.
	met map[string]bool
	// lagging is set while the journal's last word is that some do not follow.
	lagging bool
}

// follow counts the servers that do what the split says, all, and those that do
// not but would after a push. One that has not loaded the account divides nothing
// wrongly.
func (d driven) follow() (follow, all, late int) {
	for _, f := range d.inForce {
		switch f.State {
		case traffic.ForceSame, traffic.ForceUnused:
			follow++
		case traffic.ForceOther, traffic.ForceNone:
			late++
		}
	}
	return follow, len(d.inForce), late
}

// fresh reports whether a server has started since the last push that does not
// show yet what it holds.
func (d driven) fresh() bool {
	return slices.ContainsFunc(d.inForce, func(f traffic.InForce) bool { return f.State == traffic.ForceUnused && !d.met[f.ID] })
}

// meet notes the servers that answer.
func (d *driven) meet() {
	d.met = map[string]bool{}
	for _, f := range d.inForce {
		if f.State != traffic.ForceSilent {
			d.met[f.ID] = true
		}
	}
}

// late names the servers that a push should make follow.
func (d driven) late() string {
	var names []string
	for _, f := range d.inForce {
		if f.State == traffic.ForceOther || f.State == traffic.ForceNone {
			names = append(names, f.Server)
		}
	}
	return strings.Join(names, ", ")
}

// checkDriver refuses a driver that this console does not have.
func (c *Control) checkDriver(s traffic.Split) error {
	if !s.Driver.Maps() || c.cfg.Drivers[s.Driver] != nil {
		return nil
	}
	hint := "Start it with --sys-creds and --operator-key-file."
	if s.Driver == traffic.DriverMappingConfig {
		hint = "Start it with the credentials of the system account, and --mapping-file if it shall write the file."
	}
	return invalid(fmt.Sprintf("This console cannot drive a split by %s.", s.Driver), hint, map[string]string{"driver": "the console was started without what it needs for this driver"})
}

// planDriven adds to a dry run what the servers would get.
func (c *Control) planDriven(ctx context.Context, p *traffic.Plan) error {
	before, after := p.Before.Split, p.After.Split
	if before.Driver.Maps() && (before.Driver != after.Driver || before.Subject != after.Subject) {
		p.Warn = append(p.Warn, fmt.Sprintf("The servers keep their mapping of %s with its last weights, so that nothing that is published there is lost. Take it away by hand when nobody publishes there any more.", before.Subject))
	}
	drv := c.cfg.Drivers[after.Driver]
	if drv == nil {
		return nil
	}
	warn, err := drv.Check(ctx, after)
	if err != nil {
		return err
	}
	p.Warn = append(p.Warn, warn...)
	if p.Servers, p.ServersCommands, err = drv.Text(ctx, after); err != nil {
		return err
	}
	return nil
}

// carryOut makes the servers follow a change that has just come into force in the
// KV. What they refuse is taken back in the KV too; who is only away follows when
// it is there again.
func (c *Control) carryOut(ctx context.Context, ch traffic.Change) (traffic.Change, error) {
	drv := c.cfg.Drivers[ch.After.Driver]
	if drv == nil || ch.Phase.Final() {
		return ch, nil
	}
	err := c.push(ctx, drv, ch.After)
	if kind := fleet.KindOf(err); err != nil && (kind == fleet.Invalid || kind == fleet.Forbidden) && ch.Undo == "" {
		return c.takeBack(ctx, ch, err)
	}
	elsewhere := errors.Is(err, errElsewhere)
	if err != nil && !elsewhere {
		c.log.WarnContext(ctx, "the servers do not follow a split yet", "split", ch.Split, "change", ch.ID, "err", err)
	}
	began := c.now()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		c.readServers(ctx, drv, ch.After)
		_, all, late := c.driving(ch.Split).follow()
		if elsewhere || all > 0 && late == 0 || c.now().Sub(began) > confirmFor || !pause(ctx, wait) {
			break
		}
	}
	follow, all, _ := c.driving(ch.Split).follow()
	ch.Outcome = inForceOn(follow, all, elsewhere)
	c.remember(ch)
	c.noteDriven(ch.Split, func(d *driven) {
		d.lagging, d.helpless = follow < all || all == 0, d.late()
		d.meet()
	})
	c.tell(ctx, c.about(traffic.EntryDriven, ch, driverName, fmt.Sprintf("Revision %d of split %s is in force on %d of %d servers.", ch.Revision, ch.Split, follow, all)))
	return ch, nil
}

// inForceOn says how far a change has come on the servers.
func inForceOn(follow, all int, elsewhere bool) string {
	switch {
	case follow == all && all > 0:
		return fmt.Sprintf("In force on %d of %d servers; its effect is watched.", follow, all)
	case elsewhere:
		return fmt.Sprintf("In force on %d of %d servers: the others follow when your configuration management has given them the file and reloaded them. Its effect is watched.", follow, all)
	}
	return fmt.Sprintf("In force on %d of %d servers: the others follow as soon as they can. Its effect is watched.", follow, all)
}

// takeBack undoes in the KV what the servers refused. The driver has left them as
// they were.
func (c *Control) takeBack(ctx context.Context, ch traffic.Change, why error) (traffic.Change, error) {
	var err error
	if reason := oneLine(words(why)); ch.Before.Name == "" {
		err = c.remove(ctx, traffic.Change{Split: ch.Split, Base: ch.Revision, Actor: driverName, Reason: reason, Undo: ch.ID})
	} else {
		_, err = c.rollback(ctx, ch.ID, driverName, reason)
	}
	if err != nil {
		return ch, errors.Join(why, err)
	}
	if now, err := c.Change(ch.ID); err == nil {
		ch = now
	}
	return ch, why
}

// noteDriven changes what is known of a driven split.
func (c *Control) noteDriven(split string, change func(*driven)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.driven[split]
	change(&d)
	c.driven[split] = d
}

// driving is what is known of a driven split.
func (c *Control) driving(split string) driven {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.driven[split]
}

// push writes a split to the servers and notes when.
func (c *Control) push(ctx context.Context, drv Driver, s traffic.Split) error {
	err := drv.Push(ctx, s)
	c.noteDriven(s.Name, func(d *driven) {
		if d.pushed = c.now(); errors.Is(err, errElsewhere) {
			d.pushErr = nil
		} else {
			d.pushErr = err
		}
	})
	return err
}

// readServers reads back what the servers do with one split.
func (c *Control) readServers(ctx context.Context, drv Driver, s traffic.Split) {
	all, err := drv.InForce(ctx, s)
	now := c.now()
	c.noteDriven(s.Name, func(d *driven) {
		d.looked, d.lookErr = now, err
		if err == nil {
			d.inForce = withSilent(all, d.inForce, now)
		}
	})
}

// withSilent adds the servers that answered before and did not now.
func withSilent(all, before []traffic.InForce, now time.Time) []traffic.InForce {
	for _, f := range before {
		if now.Sub(f.At) > silentFor || slices.ContainsFunc(all, func(g traffic.InForce) bool { return g.Server == f.Server }) {
			continue
		}
		f.State, f.Text = traffic.ForceSilent, "It does not answer; when it is back it is made to follow. These were its weights."
		all = append(all, f)
	}
	slices.SortStableFunc(all, func(a, b traffic.InForce) int { return strings.Compare(a.Server, b.Server) })
	return all
}

// InForce is what each server does with a split's messages, as it was read back
// last, and when; the error says why it is not known or not so. It is empty for a
// split that the client library carries out.
func (c *Control) InForce(split string) ([]traffic.InForce, time.Time, error) {
	d := c.driving(split)
	err := d.lookErr
	if _, _, late := d.follow(); err == nil && late > 0 {
		err = d.pushErr
	}
	return d.inForce, d.looked, err
}

// Mapping is the text by which servers carry out a split that is in force, for the
// operator's own configuration management or for review. It holds no key.
func (c *Control) Mapping(ctx context.Context, split string) (string, error) {
	rev, err := c.Split(split)
	if err != nil {
		return "", err
	}
	if err := c.checkDriver(rev.Split); err != nil {
		return "", err
	}
	drv := c.cfg.Drivers[rev.Split.Driver]
	if drv == nil {
		return "", &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("Split %s has no mapping: publishers divide it themselves.", split), Hint: "Only splits of driver mapping-config or mapping-jwt have one."}
	}
	text, _, err := drv.Text(ctx, rev.Split)
	return text, err
}

// Driven are the splits in force of one driver; an error while not all are known.
func (c *Control) Driven(by traffic.Driver) ([]traffic.Split, error) {
	c.mu.Lock()
	trouble := c.trouble
	c.mu.Unlock()
	if trouble != nil {
		return nil, trouble
	}
	var out []traffic.Split
	for _, r := range c.Splits() {
		if r.Split.Driver == by {
			out = append(out, r.Split)
		}
	}
	return out, nil
}

// drive compares what the servers do with what the splits say, and pushes again
// what differs.
func (c *Control) drive(ctx context.Context) {
	for _, rev := range c.Splits() {
		drv := c.cfg.Drivers[rev.Split.Driver]
		if drv == nil || ctx.Err() != nil || c.now().Sub(c.driving(rev.Split.Name).looked) < lookEvery {
			continue
		}
		release, ok := c.tryClaim(rev.Split.Name)
		if !ok {
			continue // a change is under way, which looks itself
		}
		c.repair(ctx, drv, rev)
		release()
	}
}

// repair looks at one split's servers and pushes again when one differs. The split
// is claimed.
func (c *Control) repair(ctx context.Context, drv Driver, rev traffic.Revision) {
	s := rev.Split
	c.readServers(ctx, drv, s)
	d := c.driving(s.Name)
	if d.lookErr != nil {
		c.log.DebugContext(ctx, "the servers' mappings cannot be read", "split", s.Name, "err", d.lookErr)
		return
	}
	follow, all, late := d.follow()
	if late == 0 {
		c.noteDriven(s.Name, func(d *driven) { d.wait, d.helpless = 0, "" })
		if d.lagging && follow == all && all > 0 {
			c.caughtUp(ctx, rev, fmt.Sprintf("Revision %d of split %s is now in force on all %d servers.", rev.Number, s.Name, all), follow, all)
		}
		if !d.fresh() {
			return
		}
	}
	patience := max(pushAgain, d.wait)
	if d.late() != d.helpless || d.fresh() {
		patience = pushSoon
	}
	if c.cfg.ReadOnly || c.now().Sub(d.pushed) < patience {
		return
	}
	// The picture of the watch may be old; a repair by an old document would be a
	// change that nobody made.
	record, err := c.read(ctx, s.Name)
	if err != nil || record.number() != rev.Number {
		return
	}
	err = c.push(ctx, drv, s)
	if errors.Is(err, errElsewhere) {
		return
	}
	c.readServers(ctx, drv, s)
	follow, all, left := c.driving(s.Name).follow()
	helped := err == nil && (left < late || late == 0)
	c.noteDriven(s.Name, func(d *driven) {
		d.helpless, d.wait = d.late(), min(max(pushAgain, 2*d.wait), pushSeldom)
		if helped {
			d.wait = 0
		}
		d.meet()
	})
	if helped && late == 0 {
		return // a server that started has got what it may have missed
	}
	if !helped {
		c.log.WarnContext(ctx, "servers do not follow a split, also after another push", "split", s.Name, "late", c.driving(s.Name).late(), "follow", follow, "of", all, "err", err)
		return
	}
	c.log.InfoContext(ctx, "servers that did not follow a split were made to", "split", s.Name, "repaired", late-left, "follow", follow, "of", all)
	c.caughtUp(ctx, rev, fmt.Sprintf("%d servers that had other weights of split %s were repaired; revision %d is in force on %d of %d.", late-left, s.Name, rev.Number, follow, all), follow, all)
}

// caughtUp records that servers follow which did not before.
func (c *Control) caughtUp(ctx context.Context, rev traffic.Revision, text string, follow, all int) {
	c.noteDriven(rev.Split.Name, func(d *driven) { d.lagging = follow < all })
	if ch, err := c.Change(rev.Change); err == nil && ch.Phase == traffic.Baking {
		ch.Outcome = inForceOn(follow, all, false)
		c.remember(ch)
	}
	c.tell(ctx, traffic.Entry{At: c.now(), Kind: traffic.EntryDriven, Split: rev.Split.Name, Change: rev.Change, Actor: driverName, Text: text})
}

// lagging says which servers do not follow a split, for the end of a change.
func (c *Control) lagging(split string) string {
	var names []string
	for _, f := range c.driving(split).inForce {
		if f.State != traffic.ForceSame && f.State != traffic.ForceUnused {
			names = append(names, printable([]byte(f.Server)))
		}
	}
	if names == nil {
		return ""
	}
	if len(names) > 8 {
		names = append(names[:8], "…")
	}
	return " Not in force on " + strings.Join(names, ", ") + "."
}

// oneLine makes a reason of a text that came from a server.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > maxReason {
		s = string(r[:maxReason-1]) + "…"
	}
	return s
}
