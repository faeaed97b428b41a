package control

import (
	"context"
	"errors"
	"fmt"
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
	lookEvery = 10 * time.Second
	// pushAgain is the least time between two pushes of one split: claims of an
	// account with many clients cost every server half a second.
	pushAgain = 10 * time.Second
	// confirmFor is how long servers may take to follow a push before the operator
	// is told who does not.
	confirmFor = 5 * time.Second
)

// driven is what is known of a split that the servers carry out.
type driven struct {
	inForce []traffic.InForce
	looked  time.Time
	pushed  time.Time
	err     error // of the last look or push
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
	if before.Driver.Maps() && before.Driver != after.Driver {
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
	if kind := fleet.KindOf(err); err != nil && (kind == fleet.Invalid || kind == fleet.Forbidden) && ch.Before.Name != "" && ch.Undo == "" {
		if _, undo := c.rollback(ctx, ch.ID, driverName, oneLine(words(err))); undo != nil {
			return ch, errors.Join(err, undo)
		}
		if now, lookup := c.Change(ch.ID); lookup == nil {
			ch = now
		}
		return ch, err
	}
	if err != nil {
		c.log.WarnContext(ctx, "the servers do not follow a split yet", "split", ch.Split, "change", ch.ID, "err", err)
	}
	follow, of := 0, 0
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		c.readBack(ctx, drv, ch.After)
		follow, of = c.followers(ch.Split)
		if follow == of && of > 0 || c.now().Sub(ch.Written) > confirmFor || !pause(ctx, wait) {
			break
		}
	}
	ch.Outcome = fmt.Sprintf("In force on %d of %d servers; its effect is watched.", follow, of)
	if follow < of || of == 0 {
		ch.Outcome = fmt.Sprintf("In force on %d of %d servers: the others follow as soon as they can. Its effect is watched.", follow, of)
	}
	c.remember(ch)
	c.tell(ctx, c.about(traffic.EntryDriven, ch, driverName, fmt.Sprintf("Revision %d of split %s is in force on %d of %d servers.", ch.Revision, ch.Split, follow, of)))
	return ch, nil
}

// push writes a split to the servers and notes when.
func (c *Control) push(ctx context.Context, drv Driver, s traffic.Split) error {
	err := drv.Push(ctx, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.driven[s.Name]
	d.pushed, d.err = c.now(), err
	c.driven[s.Name] = d
	return err
}

// readBack reads back what the servers do with one split.
func (c *Control) readBack(ctx context.Context, drv Driver, s traffic.Split) {
	all, err := drv.InForce(ctx, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.driven[s.Name]
	d.looked = c.now()
	if err != nil {
		d.err = err
	} else {
		d.inForce, d.err = all, nil
	}
	c.driven[s.Name] = d
}

// followers counts the servers that do what the split says, and all. One that has
// not loaded the account divides nothing wrongly.
func (c *Control) followers(split string) (follow, of int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.driven[split].inForce {
		of++
		if f.State == traffic.ForceSame || f.State == traffic.ForceUnused {
			follow++
		}
	}
	return follow, of
}

// InForce is what each server does with a split's messages, as it was read back
// last, and when. It is empty for a split that the client library carries out.
func (c *Control) InForce(split string) ([]traffic.InForce, time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.driven[split]
	return d.inForce, d.looked, d.err
}

// drive compares what the servers do with what the splits say, and pushes again
// what differs.
func (c *Control) drive(ctx context.Context) {
	for _, rev := range c.Splits() {
		s := rev.Split
		drv := c.cfg.Drivers[s.Driver]
		if drv == nil || ctx.Err() != nil {
			continue
		}
		c.mu.Lock()
		d := c.driven[s.Name]
		c.mu.Unlock()
		now := c.now()
		if now.Sub(d.looked) < lookEvery {
			continue
		}
		release, ok := c.tryClaim(s.Name)
		if !ok {
			continue // a change is under way, which looks itself
		}
		c.repair(ctx, drv, rev, d, now)
		release()
	}
}

// repair looks at one split's servers and pushes again when one differs. The split
// is claimed.
func (c *Control) repair(ctx context.Context, drv Driver, rev traffic.Revision, before driven, now time.Time) {
	s := rev.Split
	c.readBack(ctx, drv, s)
	all, _, err := c.InForce(s.Name)
	if err != nil {
		c.log.DebugContext(ctx, "the servers' mappings cannot be read", "split", s.Name, "err", err)
		return
	}
	var wrong []string
	for _, f := range all {
		if f.State == traffic.ForceOther || f.State == traffic.ForceNone {
			wrong = append(wrong, f.Server)
		}
	}
	if wrong == nil || c.cfg.ReadOnly || now.Sub(before.pushed) < pushAgain {
		return
	}
	// The picture of the watch may be old; a repair by an old document would be a
	// change that nobody made.
	record, err := c.read(ctx, s.Name)
	if err != nil || record.number() != rev.Number {
		return
	}
	err = c.push(ctx, drv, s)
	c.readBack(ctx, drv, s)
	follow, of := c.followers(s.Name)
	c.log.InfoContext(ctx, "servers that did not follow a split were pushed to again", "split", s.Name, "servers", wrong, "follow", follow, "of", of, "err", err)
	if err == nil && follow > of-len(wrong) {
		c.tell(ctx, traffic.Entry{
			At: c.now(), Kind: traffic.EntryDriven, Split: s.Name, Change: rev.Change, Actor: driverName,
			Text: fmt.Sprintf("%d servers that had other weights of split %s were repaired; revision %d is in force on %d of %d.", len(wrong), s.Name, rev.Number, follow, of),
		})
	}
}

// oneLine makes a reason of a text that came from a server.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > maxReason {
		s = string(r[:maxReason-1]) + "…"
	}
	return s
}
