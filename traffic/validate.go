package traffic

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Invalid lists what is wrong with a split, by field: "name", "subject",
// "targets", "targets.<name>.weight", "tier.<n>".
type Invalid struct {
	Problems []Problem
}

// Problem is one thing that is wrong.
type Problem struct{ Field, Text string }

func (e *Invalid) Error() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.Field + ": " + p.Text
	}
	return "invalid split: " + strings.Join(texts, "; ")
}

// Limits of a document; a split beyond them is refused.
const (
	MaxTargets  = 256
	MaxDocument = 64 << 10 // bytes
	MaxLanes    = 8
	MaxToken    = 16
)

// The words of a document.
var (
	picks   = []Pick{Weighted, ByKey}
	drivers = []Driver{DriverKV, DriverMappingJWT, DriverMappingConfig}
	modes   = []Mode{Observe, Suggest}
	laws    = []Law{LawCapacity, LawSeed, LawEqual, LawManual}
	orders  = []Order{Spread, Smooth, Random}
	locals  = []Local{TwoChoices}
	hashes  = []Hash{Rendezvous, Ring}
	sources = []Source{FromHeader, FromToken, FromCaller}
)

// names are KV key tokens and subject tokens at once.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ValidName reports whether s can name a split or a target: it is a KV key
// token and a subject token at once.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// ValidSubject reports whether s is a literal subject that one can publish to.
func ValidSubject(s string) bool {
	if s == "" || len(s) > 255 || strings.HasPrefix(s, "$") {
		return false
	}
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n\f\x00") {
			return false
		}
	}
	return true
}

// Validate returns nil or an *Invalid that lists everything that is wrong.
// The weights of each tier's READY targets sum to exactly 100; all others are
// 0; at least one target is READY.
func (s Split) Validate() error {
	var bad []Problem
	add := func(field, format string, args ...any) {
		bad = append(bad, Problem{field, fmt.Sprintf(format, args...)})
	}
	if !ValidName(s.Name) {
		add("name", "use 1 to 64 letters, digits, '-' or '_'")
	}
	if !ValidSubject(s.Subject) {
		add("subject", "%q is not a literal subject", s.Subject)
	}
	if !slices.Contains(picks, s.Pick) {
		add("pick", "%q is neither %q nor %q", s.Pick, Weighted, ByKey)
	}
	if !slices.Contains(drivers, s.Driver) {
		add("driver", "%q is not a driver", s.Driver)
	}
	if !slices.Contains(modes, s.Mode) {
		add("mode", "%q is not a mode", s.Mode)
	}
	if !slices.Contains(laws, s.Law) {
		add("law", "%q is not a law", s.Law)
	}
	s.validateOptions(add)
	switch n := len(s.Targets); {
	case n == 0:
		add("targets", "a split needs at least one target")
	case n > MaxTargets:
		add("targets", "%d targets, the limit is %d", n, MaxTargets)
	}
	sums := map[int]int{}
	ready := map[int]int{}
	names, subjects := map[string]bool{}, map[string]bool{}
	for i, t := range s.Targets {
		field := fmt.Sprintf("targets.%d", i)
		if ValidName(t.Name) {
			field = "targets." + t.Name
		} else {
			add(field+".name", "use 1 to 64 letters, digits, '-' or '_'")
		}
		if names[t.Name] {
			add(field+".name", "the name %q stands twice", t.Name)
		}
		names[t.Name] = true
		if !ValidSubject(t.Subject) {
			add(field+".subject", "%q is not a literal subject", t.Subject)
		}
		if subjects[t.Subject] {
			add(field+".subject", "the subject %q stands twice", t.Subject)
		}
		subjects[t.Subject] = true
		if t.Tier < 0 || t.Tier > 9 {
			add(field+".tier", "tier %d is not between 0 and 9", t.Tier)
		}
		switch t.State {
		case Ready:
			ready[t.Tier]++
			if t.Weight < 0 || t.Weight > 100 {
				add(field+".weight", "%d is not between 0 and 100", t.Weight)
			}
			sums[t.Tier] += t.Weight
		case Drain, Maint:
			if t.Weight != 0 {
				add(field+".weight", "a target in %s has weight 0, not %d", t.State, t.Weight)
			}
		default:
			add(field+".state", "%q is not a state", t.State)
		}
		if o := t.Observe; o != nil && (!validAsset(o.Stream) || !validAsset(o.Consumer)) {
			add(field+".observe", "name the stream and the consumer that are observed")
		}
	}
	if len(s.Targets) > 0 && len(ready) == 0 {
		add("targets", "at least one target must be READY: an empty set never means all")
	}
	for _, tier := range s.Tiers() {
		if ready[tier] > 0 && sums[tier] != 100 {
			add(fmt.Sprintf("tier.%d", tier), "the weights of tier %d sum to %d, not 100", tier, sums[tier])
		}
	}
	if bad != nil {
		return &Invalid{bad}
	}
	return nil
}

// validateOptions checks the members that may be left out.
func (s Split) validateOptions(add func(field, format string, args ...any)) {
	if s.Driver.Maps() {
		// A server draws by weight and knows nothing else.
		if s.Pick == ByKey {
			add("pick", "the servers' mappings know no keys: a split of driver %s picks by weight", s.Driver)
		}
		if s.Local != "" || s.Order != "" && s.Order != Random {
			add("driver", "the servers' mappings draw each message by itself: leave the order and the local rule out")
		}
		for _, t := range s.Targets {
			if t.Subject == s.Subject {
				add("targets."+t.Name+".subject", "the split's own subject cannot be a destination of its mapping: what is drawn to it would be lost")
			}
		}
	}
	if s.Order != "" && !slices.Contains(orders, s.Order) {
		add("order", "%q is not an order", s.Order)
	}
	if s.Local != "" && !slices.Contains(locals, s.Local) {
		add("local", "%q is not a local rule", s.Local)
	}
	if s.Pick == ByKey && s.Local != "" {
		add("local", "a split that picks by key has no local rule: the key decides; give it a bound instead")
	}
	if k := s.Key; k != nil {
		if s.Pick != ByKey {
			add("key", "the split does not pick by key")
		}
		if k.From != "" && !slices.Contains(sources, k.From) {
			add("key.from", "%q is not a source of keys", k.From)
		}
		if k.Header != "" && (k.From != "" && k.From != FromHeader || !headerPattern.MatchString(k.Header)) {
			add("key.header", "%q is not the name of a header to take the key from", k.Header)
		}
		if k.From == FromToken != (k.Token > 0) || k.Token < 0 || k.Token > MaxToken {
			add("key.token", "name the token that is the key, 1 to %d, if and only if it is taken from the subject", MaxToken)
		}
		if k.Hash != "" && !slices.Contains(hashes, k.Hash) {
			add("key.hash", "%q is not a hash", k.Hash)
		}
		if k.Bound != 0 && (k.Bound < 101 || k.Bound > 1000) {
			add("key.bound", "%d is neither 0 nor between 101 and 1000 percent", k.Bound)
		}
	}
	if sp := s.Spill; sp != nil {
		if sp.Factor != 0 && (sp.Factor < 100 || sp.Factor > 1000) {
			add("spill.factor", "%d is not between 100 and 1000 percent", sp.Factor)
		}
		if sp.Panic < 0 || sp.Panic > 100 {
			add("spill.panic", "%d is not between 0 and 100 percent", sp.Panic)
		}
	}
	if len(s.Lanes) > MaxLanes {
		add("lanes", "%d lanes, the limit is %d", len(s.Lanes), MaxLanes)
	}
	lanes := map[string]bool{}
	for i, l := range s.Lanes {
		field := fmt.Sprintf("lanes.%d", i)
		if ValidName(l.Name) {
			field = "lanes." + l.Name
		} else {
			add(field+".name", "use 1 to 64 letters, digits, '-' or '_'")
		}
		if lanes[l.Name] {
			add(field+".name", "the name %q stands twice", l.Name)
		}
		lanes[l.Name] = true
		if l.TimeoutMS < 1 || l.TimeoutMS > 3_600_000 {
			add(field+".timeoutms", "%d is not between 1 and 3600000 ms", l.TimeoutMS)
		}
		if l.Retries < 0 || l.Retries > 10 {
			add(field+".retries", "%d is not between 0 and 10", l.Retries)
		}
		for _, ref := range []struct{ member, name string }{{".target", l.Target}, {".fallback", l.Fallback}} {
			if _, ok := s.Target(ref.name); ref.name != "" && !ok {
				add(field+ref.member, "the split has no target %q", ref.name)
			}
		}
		if l.Fallback != "" && l.Fallback == l.Target {
			add(field+".fallback", "%q is the target itself", l.Fallback)
		}
	}
	if r := s.Retry; r != nil {
		if r.Percent < 0 || r.Percent > 100 {
			add("retry.percent", "%d is not between 0 and 100", r.Percent)
		}
		if r.Burst < 0 || r.Burst > 10_000 {
			add("retry.burst", "%d is not between 0 and 10000", r.Burst)
		}
	}
}

// headerPattern is that of a header's name (RFC 9110, 5.1: a token).
var headerPattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")

// validAsset follows nats-server's isValidAssetName.
func validAsset(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsAny(s, " \t\r\n\f.*>/\\")
}

// Diff lists the targets that differ, in the order of after, removed ones last.
func Diff(before, after Split) []TargetDiff {
	var diff []TargetDiff
	for _, t := range after.Targets {
		old, ok := before.Target(t.Name)
		switch {
		case !ok:
			diff = append(diff, TargetDiff{Name: t.Name, After: &t})
		case !t.equal(old):
			diff = append(diff, TargetDiff{Name: t.Name, Before: &old, After: &t})
		}
	}
	for _, t := range before.Targets {
		if _, ok := after.Target(t.Name); !ok {
			diff = append(diff, TargetDiff{Name: t.Name, Before: &t})
		}
	}
	return diff
}
