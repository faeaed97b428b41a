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
	if s.Pick != Weighted && s.Pick != ByKey {
		add("pick", "%q is neither %q nor %q", s.Pick, Weighted, ByKey)
	}
	if s.Driver != DriverKV {
		add("driver", "%q is not a driver", s.Driver)
	}
	if !slices.Contains([]Mode{Observe, Suggest}, s.Mode) {
		add("mode", "%q is not a mode", s.Mode)
	}
	if !slices.Contains([]Law{LawCapacity, LawSeed, LawEqual, LawManual}, s.Law) {
		add("law", "%q is not a law", s.Law)
	}
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
