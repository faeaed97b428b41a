package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/traffic"
)

// unpin is what the journal keeps of an unpinning.
type unpin struct {
	Consumer traffic.Observed `json:"consumer"`
	Group    string           `json:"group"`
	Client   string           `json:"client,omitempty"` // that was pinned
	Reason   string           `json:"reason"`
}

// Unpin has the server pin another client of a priority group, or the same one
// anew if no other asks first. Nothing is lost: what the client has in flight
// stays with it.
func (c *Control) Unpin(ctx context.Context, k fleet.ConsumerKey, group, actor, reason string) error {
	if err := c.open(); err != nil {
		return err
	}
	fields := map[string]string{}
	checkText(fields, actor, reason)
	if len(fields) > 0 {
		return invalid("The client cannot be unpinned like this.", "Correct what is marked.", fields)
	}
	if err := c.reachable(ctx, k); err != nil {
		return err
	}
	release, err := c.claimConsumer(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	s, err := c.consumer(ctx, k)
	if err != nil {
		return asked(err)
	}
	set := settingsOf(k, s)
	switch {
	case set.Priority != traffic.PriorityPinned:
		return invalid("This consumer pins no client: its priority_policy is "+inWords(fieldPolicy, s.config[fieldPolicy])+".", "Only pinned_client does.", nil)
	case !slices.Contains(set.Groups, group):
		return invalid("This consumer has no such group.", "Its groups are "+inWords(fieldGroups, s.config[fieldGroups])+".", map[string]string{"group": "choose one of the consumer's groups"})
	}
	u := unpin{Consumer: observedOf(k), Group: group, Client: printable([]byte(set.Pinned[group])), Reason: reason}
	entry := func(text string) traffic.Entry {
		return traffic.Entry{At: c.now(), Kind: traffic.EntryConsumerUnpinned, Actor: actor, Text: text, Data: encode(u)}
	}
	who := "no client was pinned"
	if u.Client != "" {
		who = "client " + u.Client + " was pinned"
	}
	if err := c.append(ctx, entry(fmt.Sprintf("%s unpins group %s of consumer %s; %s.", actor, group, named(k), who))); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	rctx, cancel := context.WithTimeout(ctx, c.writeTimeout)
	defer cancel()
	var a struct {
		Error *jetstream.APIError `json:"error"`
	}
	subject := "$JS.API.CONSUMER.UNPIN." + k.Stream + "." + k.Consumer
	err = c.request(rctx, subject, map[string]string{"group": group}, &a)
	if err == nil && a.Error != nil {
		err = a.Error
	}
	if err != nil {
		err = consumerError(k, subject, fmt.Errorf("unpin group %s of consumer %s: %w", group, named(k), err))
		c.tell(ctx, entry("Not unpinned, or not known: "+words(err)))
		return err
	}
	c.log.InfoContext(ctx, "client unpinned", "stream", k.Stream, "consumer", k.Consumer, "group", group, "client", u.Client, "actor", actor)
	return nil
}
