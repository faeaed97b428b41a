package lb

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// PriorityGroup is what a worker asks of a consumer with priority groups, by which
// the server chooses between workers of one consumer. Which of the fields count is
// for the consumer's policy to say:
//
//   - prioritized: a message goes to the waiting worker with the lowest Priority.
//     The next one gets what the first ones have no free handler for, and
//     everything while they are gone.
//   - overflow: a worker with MinPending or MinAckPending gets messages only while
//     so many wait, or are not acknowledged yet. The last MinPending-1 stay for the
//     workers without: it relieves them and does not replace them.
//   - pinned_client: one worker gets everything, until it has asked for nothing for
//     the consumer's priority_timeout. A worker all of whose handlers are busy asks
//     for nothing; with handlers that may take longer than that, give it a Prefetch
//     or expect that another one takes over meanwhile.
//
// The server believes every worker: roles are in the workers' settings only.
type PriorityGroup struct {
	Name                      string // one of the consumer's priority groups
	Priority                  int    // 0, the first, to 9; for the policy prioritized
	MinPending, MinAckPending int    // for the policy overflow; 0 is no condition
}

// check says what is wrong whatever the consumer is like.
func (g PriorityGroup) check() error {
	var wrong []error
	if g.Priority < 0 || g.Priority > 9 {
		wrong = append(wrong, errors.New("a priority is 0 to 9"))
	}
	if g.MinPending < 0 || g.MinAckPending < 0 {
		wrong = append(wrong, errors.New("the numbers of messages from which a worker takes part are not negative"))
	}
	if g.Name == "" && g != (PriorityGroup{}) {
		wrong = append(wrong, errors.New("name the priority group"))
	}
	if g.Priority > 0 && (g.MinPending > 0 || g.MinAckPending > 0) {
		wrong = append(wrong, errors.New("a priority and a number of messages belong to different policies"))
	}
	return errors.Join(wrong...)
}

// refused says why the server would refuse the worker's requests, with more of a
// reason than it would give. What it does not refuse works: a worker that names
// its group already goes on through a change of the policy from none.
func (g PriorityGroup) refused(cfg jetstream.ConsumerConfig) error {
	policy := cfg.PriorityPolicy
	switch {
	case (g.MinPending > 0 || g.MinAckPending > 0) && policy != jetstream.PriorityPolicyOverflow:
		return fmt.Errorf("the worker takes what overflows, and the consumer's policy is %s, not overflow", policyName(policy))
	case policy == jetstream.PriorityPolicyNone:
		return nil
	case g.Name == "":
		return fmt.Errorf("the consumer has priority groups %q (%s), and the worker names none", cfg.PriorityGroups, policyName(policy))
	case !slices.Contains(cfg.PriorityGroups, g.Name):
		return fmt.Errorf("the worker is of priority group %q, and the consumer has %q", g.Name, cfg.PriorityGroups)
	}
	return nil
}

// passedOver says what of its settings the server does not heed; "" is nothing.
func (g PriorityGroup) passedOver(cfg jetstream.ConsumerConfig) string {
	policy := cfg.PriorityPolicy
	switch {
	case g.Name != "" && policy == jetstream.PriorityPolicyNone:
		return fmt.Sprintf("the worker is of priority group %q, and the consumer has no priority groups: all workers get messages", g.Name)
	case g.Priority > 0 && policy != jetstream.PriorityPolicyPrioritized:
		return fmt.Sprintf("the worker has priority %d, and the consumer's policy is %s, not prioritized", g.Priority, policyName(policy))
	}
	return ""
}

func policyName(p jetstream.PriorityPolicy) string {
	switch p {
	case jetstream.PriorityPolicyPinned:
		return "pinned_client"
	case jetstream.PriorityPolicyOverflow:
		return "overflow"
	case jetstream.PriorityPolicyPrioritized:
		return "prioritized"
	}
	return "none"
}

// request is what one request for messages says beside their number.
func (g PriorityGroup) request(wait time.Duration) []jetstream.FetchOpt {
	opts := []jetstream.FetchOpt{jetstream.FetchMaxWait(wait)}
	if g.Name != "" {
		opts = append(opts, jetstream.FetchPriorityGroup(g.Name), jetstream.FetchPrioritized(uint8(g.Priority)))
	}
	if g.MinPending > 0 {
		opts = append(opts, jetstream.FetchMinPending(int64(g.MinPending)))
	}
	if g.MinAckPending > 0 {
		opts = append(opts, jetstream.FetchMinAckPending(int64(g.MinAckPending)))
	}
	return opts
}

// patience is how long a request may stand. A pinned worker must ask more often
// than the server's patience with it ends, and a consumer may bound requests.
func patience(cfg jetstream.ConsumerConfig, wait time.Duration) time.Duration {
	if cfg.PriorityPolicy == jetstream.PriorityPolicyPinned && cfg.PinnedTTL > 0 {
		wait = min(wait, cfg.PinnedTTL/2)
	}
	if cfg.MaxRequestExpires > 0 {
		wait = min(wait, cfg.MaxRequestExpires)
	}
	return wait
}
