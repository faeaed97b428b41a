package traffic

import (
	"encoding/json"
	"time"
)

// PriorityPolicy of a pull consumer says which of its clients get messages first
// (nats-server 2.11; prioritized 2.12).
type PriorityPolicy string

const (
	PriorityNone        PriorityPolicy = ""
	PriorityOverflow    PriorityPolicy = "overflow"      // a client is served beyond the backlog that its pulls name
	PriorityPinned      PriorityPolicy = "pinned_client" // one client is served alone until it is silent for the timeout
	PriorityPrioritized PriorityPolicy = "prioritized"   // the pulls with the lowest number are served first
)

// ConsumerSettings are what is in force at a consumer's leader.
type ConsumerSettings struct {
	Consumer Observed  `json:"consumer"`
	Born     time.Time `json:"born"` // when it was created: tells one created anew apart
	// Digest of the configuration but for sample_freq, which measurements change,
	// and for what servers note down for themselves.
	Digest string `json:"digest"`

	Pull      bool   `json:"pull"`
	AckPolicy string `json:"ack_policy"` // explicit, all, none, flow_control

	MaxAckPending int             `json:"max_ack_pending"` // messages; -1 is no limit
	AckWait       time.Duration   `json:"ack_wait_ns"`     // until an unacknowledged message is delivered again
	BackOff       []time.Duration `json:"backoff_ns,omitempty"`
	MaxDeliver    int             `json:"max_deliver"` // deliveries of a message; -1 is no limit
	PausedUntil   time.Time       `json:"paused_until,omitzero"`

	Priority        PriorityPolicy    `json:"priority_policy,omitempty"`
	Groups          []string          `json:"priority_groups,omitempty"`
	PriorityTimeout time.Duration     `json:"priority_timeout_ns,omitempty"` // of pinned_client
	Pinned          map[string]string `json:"pinned,omitempty"`              // id of the pinned client, by group

	// As the leader counted them when it answered.
	Waiting  int    `json:"waiting"`   // pulls that wait for messages
	InFlight int    `json:"in_flight"` // delivered and not acknowledged
	Backlog  uint64 `json:"backlog"`   // not delivered yet

	// Limit of MaxAckPending by the stream or the account; 0 is none, or not known.
	Limit     int    `json:"limit,omitempty"`
	LimitedBy string `json:"limited_by,omitempty"` // "stream" or "account"

	Fixed []FixedSetting `json:"fixed"`
}

// Beforehand says what servers would refuse of any change of a setting, or make
// something else of, because of what else is in force; "" is nothing. The setting
// is named as in the configuration.
func (s ConsumerSettings) Beforehand(setting string) string {
	acks := setting == "max_ack_pending" || setting == "ack_wait" || setting == "backoff" || setting == "max_deliver"
	switch {
	case acks && s.AckPolicy == "none":
		return "This consumer takes no acknowledgements (ack_policy none): there is nothing to wait for or to deliver again."
	case acks && setting != "max_ack_pending" && s.AckPolicy == "flow_control":
		return "A consumer with ack_policy flow_control has none."
	case !acks && !s.Pull:
		return "Only pull consumers have it; to this one the servers push."
	case setting == "ack_wait" && len(s.BackOff) > 0:
		return "There is a backoff: its first step is the ack_wait. Change the step, or take the backoff away."
	}
	return ""
}

// FixedSetting is one that a server never changes on a consumer that exists.
type FixedSetting struct {
	Name  string `json:"name"`  // as in the configuration: max_waiting
	Value string `json:"value"` // that it has
	Why   string `json:"why"`   // one sentence, with what to do instead
}

// ConsumerPatch names the settings that shall change; nil stays as it is.
type ConsumerPatch struct {
	MaxAckPending   *int
	AckWait         *time.Duration
	BackOff         *[]time.Duration // an empty list takes it away
	MaxDeliver      *int
	PauseUntil      *time.Time // zero resumes; alone in its edit, since it is a request of its own
	PriorityPolicy  *PriorityPolicy
	PriorityGroups  *[]string
	PriorityTimeout *time.Duration
}

// ConsumerEdit is what an operator asks for.
type ConsumerEdit struct {
	Consumer Observed
	Base     string // Digest that the asker looked at
	Patch    ConsumerPatch
	Actor    string
	Reason   string
	Undo     string        // id of the change that this one takes back
	Hold     time.Duration // how long it is watched whether the change stays in force; 0 takes the default
	Migrate  bool          // the asker knows that another priority policy or other groups stop the clients
}

// SettingDiff is one setting's change, in words for an operator.
type SettingDiff struct {
	Name   string `json:"name"` // as in the configuration: ack_wait
	Before string `json:"before"`
	After  string `json:"after"`
}

// ConsumerPlan is the dry run of a ConsumerEdit: exactly what would be sent.
type ConsumerPlan struct {
	Before  ConsumerSettings
	After   ConsumerSettings
	Diff    []SettingDiff
	Payload []byte // the body of the request, byte for byte
	Subject string // it is sent to
	Command string // the equivalent nats command
	Warn    []string
}

// ConsumerChange is one attempt to change a consumer's settings. Its phases are
// those of a Change; Baking is the time for which it is watched whether the
// change stays in force.
type ConsumerChange struct {
	ID       string        `json:"id"`
	Consumer Observed      `json:"consumer"`
	Phase    Phase         `json:"phase"`
	Actor    string        `json:"actor"`
	Reason   string        `json:"reason"`
	Undo     string        `json:"undo,omitempty"`
	Diff     []SettingDiff `json:"diff"`
	// Before and After are the fields of the diff as the configuration has them; a
	// field that is not there is not set.
	Before   json.RawMessage `json:"before"`
	After    json.RawMessage `json:"after"`
	Config   json.RawMessage `json:"config"` // all of it before, as the server told it
	Born     time.Time       `json:"born"`   // when the consumer was created
	Created  time.Time       `json:"created"`
	Written  time.Time       `json:"written,omitzero"` // read back from the leader
	HoldEnds time.Time       `json:"hold_ends"`
	Ended    time.Time       `json:"ended,omitzero"`
	Effect   *Effect         `json:"effect,omitempty"`
	Outcome  string          `json:"outcome"` // one sentence
}
