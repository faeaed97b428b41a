// Package traffic holds the words for how messages are divided: splits,
// targets, weights, revisions, and the life of a change. It decides what a
// valid division is and how a message finds its target. It is pure: no I/O, no
// clock, no logging.
package traffic

import (
	"cmp"
	"slices"
	"time"
)

// State of a target, in HAProxy's words.
type State string

const (
	Ready State = "READY"
	Drain State = "DRAIN" // no new messages; finish what is in flight
	Maint State = "MAINT" // out
)

// Pick says how a message finds its target.
type Pick string

const (
	Weighted Pick = "weighted" // by weight
	ByKey    Pick = "key"      // by a consistent hash of a key, weights respected
)

// Order says in which order the messages of a weighted split take its points.
type Order string

const (
	Spread Order = "spread" // any run of messages is even within half a percent, at any stride (default)
	Smooth Order = "smooth" // smooth weighted round robin: exact over any 100 messages in a row
	Random Order = "random" // independent draws
)

// Hash says how a key finds its target.
type Hash string

const (
	Rendezvous Hash = "rendezvous" // highest weighted score wins (default)
	Ring       Hash = "ring"       // consistent hashing on a ring with virtual nodes
)

// Source says where the key of a message stands.
type Source string

const (
	FromHeader Source = "header" // a header of the message (default: Ballast-Key)
	FromToken  Source = "token"  // a token of the subject that the application named
	FromCaller Source = "caller" // the program hands it to the client library
)

// Local is what a publisher decides by itself, message by message, within the
// weights.
type Local string

// TwoChoices draws two targets by weight and takes the one with fewer messages
// in flight for its weight.
const TwoChoices Local = "two-choices"

// Driver says how a revision becomes real.
type Driver string

const (
	DriverKV Driver = "kv" // the client library follows the KV document
	// The servers' own weighted subject mappings, without any change to an
	// application: pushed with the account's claims, or as a file that the servers'
	// configuration includes. The KV document is then what they are made to follow.
	DriverMappingJWT    Driver = "mapping-jwt"
	DriverMappingConfig Driver = "mapping-config"
)

// Maps reports whether the driver writes the servers' own subject mappings.
func (d Driver) Maps() bool { return d == DriverMappingJWT || d == DriverMappingConfig }

// Mode says what the tuner may do to a split.
type Mode string

const (
	Observe Mode = "observe" // measure only
	Suggest Mode = "suggest" // propose, a human applies (default)
)

// Law is a tuner's way to choose weights.
type Law string

const (
	LawCapacity Law = "capacity" // queueing model at a design load, guarded (default)
	LawSeed     Law = "seed"     // health score of latency, CPU and memory, for comparison
	LawEqual    Law = "equal"    // the same weight for all
	LawManual   Law = "manual"   // no suggestions
)

// Split divides the messages of one logical subject over targets.
type Split struct {
	Name    string   `json:"name"`
	Subject string   `json:"subject"`
	Pick    Pick     `json:"pick"`
	Driver  Driver   `json:"driver"`
	Mode    Mode     `json:"mode"`
	Law     Law      `json:"law"`
	Targets []Target `json:"targets"`

	// What follows may be left out; its zero value is the default.

	Order Order    `json:"order,omitempty"` // of a weighted split; "" is Spread
	Local Local    `json:"local,omitempty"` // "" is none
	Key   *Keyed   `json:"key,omitempty"`   // of a split that picks by key
	Spill *Spill   `json:"spill,omitempty"` // how tiers take over from each other
	Lanes []Lane   `json:"lanes,omitempty"` // classes of messages; none is DefaultLanes
	Retry *Retries `json:"retry,omitempty"` // what bounds the retries of all lanes
}

// Keyed says what a split that picks by key hashes, and how.
type Keyed struct {
	From   Source `json:"from,omitempty"`   // "" is FromHeader
	Header string `json:"header,omitempty"` // "" is Ballast-Key
	Token  int    `json:"token,omitempty"`  // 1 is the first token of the subject
	Hash   Hash   `json:"hash,omitempty"`   // "" is Rendezvous
	// Bound is the most that a target may have in flight, in percent of its share
	// of all that is in flight: 125 is a quarter more. A key whose target is full
	// goes to its next one. 0 is no bound.
	Bound int `json:"bound,omitempty"`
}

// Target is one destination of a split.
type Target struct {
	Name    string            `json:"name"`
	Subject string            `json:"subject"`
	Weight  int               `json:"weight"` // whole percent of its tier; 0 unless READY
	Tier    int               `json:"tier"`   // 0 is primary, 1 backs it up, …
	State   State             `json:"state"`
	Labels  map[string]string `json:"labels,omitempty"`
	Observe *Observed         `json:"observe,omitempty"`
}

// Observed names the JetStream consumer at which a target is measured.
type Observed struct {
	Account  string `json:"account,omitempty"` // "" is the account of Ballast's own credentials
	Stream   string `json:"stream"`
	Consumer string `json:"consumer"`
}

// Revision is one immutable version of a split, as it stands in the KV document.
type Revision struct {
	V      int       `json:"v"`      // version of the format: 1
	Epoch  uint64    `json:"epoch"`  // leadership under which it was written
	Number uint64    `json:"rev"`    // 1, 2, 3, … of this split
	Base   uint64    `json:"base"`   // the revision it was computed from; 0 for the first
	Change string    `json:"change"` // id of the change that wrote it
	Author string    `json:"author"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Split  Split     `json:"split"`

	// Token is the KV revision it was read at, for compare-and-swap. It is not
	// part of the document.
	Token uint64 `json:"-"`
}

// Weights returns weight by target name.
func (s Split) Weights() map[string]int {
	w := make(map[string]int, len(s.Targets))
	for _, t := range s.Targets {
		w[t.Name] = t.Weight
	}
	return w
}

// Effective are the targets that take messages while all are healthy: the READY
// ones with a weight of the lowest tier that has any.
func (s Split) Effective() []Target {
	for _, tier := range s.Tiers() {
		var out []Target
		for _, t := range s.Targets {
			if t.Tier == tier && t.State == Ready && t.Weight > 0 {
				out = append(out, t)
			}
		}
		if out != nil {
			return out
		}
	}
	return nil
}

// Target finds a target by name.
func (s Split) Target(name string) (Target, bool) {
	i := slices.IndexFunc(s.Targets, func(t Target) bool { return t.Name == name })
	if i < 0 {
		return Target{}, false
	}
	return s.Targets[i], true
}

// WithWeights returns a copy with the given weights; targets not named keep theirs.
func (s Split) WithWeights(w map[string]int) Split {
	s.Targets = slices.Clone(s.Targets)
	for i, t := range s.Targets {
		if v, ok := w[t.Name]; ok {
			s.Targets[i].Weight = v
		}
	}
	return s
}

// Tiers returns the tiers in use, lowest first.
func (s Split) Tiers() []int {
	var tiers []int
	for _, t := range s.Targets {
		if !slices.Contains(tiers, t.Tier) {
			tiers = append(tiers, t.Tier)
		}
	}
	slices.SortFunc(tiers, cmp.Compare[int])
	return tiers
}

// InForce is what one server does with the messages of a split, read back from it.
type InForce struct {
	Server string // name
	ID     string
	// Weights by target; Others by subject, of destinations that are no target.
	Weights, Others map[string]int
	State           ForceState
	Text            string // one sentence, when it is not in force
	At              time.Time
}

// ForceState says whether a server does what the split says.
type ForceState string

const (
	ForceSame  ForceState = "in force"
	ForceOther ForceState = "differs"
	// What pushing again does not mend: the server's cluster has weights of its own,
	// or a wider mapping means the same subject.
	ForceOwn     ForceState = "own weights"
	ForceOverlap ForceState = "overlapped"
	ForceNone    ForceState = "not mapped" // messages stay on the split's own subject
	ForceUnused  ForceState = "unused"     // the server has not loaded the account: nobody is connected there
	ForceSilent  ForceState = "silent"     // it did not answer
)
