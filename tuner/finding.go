package tuner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"ballast/fleet"
	"ballast/traffic"
)

// FindingsConfig are the limits of the findings engine that are not part of a
// single check. The zero value of a field takes its default.
type FindingsConfig struct {
	// OpenAfter is the number of bad measurements in a row that open a finding:
	// one bad interval is a burst, three are a state. Default 3.
	OpenAfter int
	// CloseAfter is the number of good ones in a row that close it. Default 2.
	CloseAfter int
	// Window is how far back the checks look for things that happen at a moment,
	// as a restart or a rise of a counter of errors. Default 5 min.
	Window time.Duration
	// Flap is how long after its end a finding that comes back is the same
	// episode. Each return doubles the number of good measurements that close it.
	// Default 10 min.
	Flap time.Duration
	// Max bounds the findings that are kept at a time. Default 5000.
	Max int
	// Advisories overrides the table of known defects of nats-server.
	Advisories []Advisory
	// Limits of single checks.
	Limits Limits
}

func (c FindingsConfig) withDefaults() FindingsConfig {
	def(&c.OpenAfter, 3)
	def(&c.CloseAfter, 2)
	def(&c.Window, 5*time.Minute)
	def(&c.Flap, 10*time.Minute)
	def(&c.Max, 5000)
	if c.Advisories == nil {
		c.Advisories = advisories
	}
	c.Limits = c.Limits.withDefaults()
	return c
}

// Findings judges the looks of the collector. It is safe for concurrent use.
// The same looks in the same order give the same findings.
type Findings struct {
	cfg FindingsConfig

	mu         sync.Mutex // guards what follows
	tracks     map[fleet.FindingKey]*track
	suppressed map[fleet.FindingKey]fleet.Suppression
	last       time.Time // TakenAt of the snapshot that was judged last
	history    map[historyKey][]reading
	gateways   map[[2]string]time.Time    // between clusters, when they were seen last
	reported   map[fleet.Entity]time.Time // newest report of a target's workers
	trips      map[fleet.Entity]trip
	omitted    int
}

// track is what is remembered of one thing that is or lately was bad.
type track struct {
	f         fleet.Finding
	bad, good int       // in a row
	at        time.Time // of the newest measurement that was judged
	open      bool
	ended     time.Time // when it closed last
	kept      time.Time // when the record got it last
}

// keepEvery is how often the record gets the figures of a finding that only
// goes on: a thousand open ones must not write a thousand rows every look.
const keepEvery = time.Minute

// NewFindings returns an engine that has seen nothing yet.
func NewFindings(cfg FindingsConfig) *Findings {
	return &Findings{
		cfg: cfg.withDefaults(), tracks: map[fleet.FindingKey]*track{},
		suppressed: map[fleet.FindingKey]fleet.Suppression{}, history: map[historyKey][]reading{},
		gateways: map[[2]string]time.Time{}, reported: map[fleet.Entity]time.Time{},
		trips: map[fleet.Entity]trip{},
	}
}

// Restore takes up what an earlier run left open, so that nothing is opened or
// told twice. Checks that no longer exist are left to be closed.
func (f *Findings) Restore(s fleet.FindingState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range s.Open {
		if o.Open() {
			f.tracks[o.FindingKey] = &track{f: o, open: true, at: o.LastSeen}
		}
	}
	maps.Copy(f.suppressed, s.Suppressions)
}

// Open are the findings that are open, the worst first.
func (f *Findings) Open() []fleet.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []fleet.Finding
	for _, t := range f.tracks {
		if t.open {
			out = append(out, t.f)
		}
	}
	fleet.SortFindings(out)
	return out
}

// Omitted is how many more things were bad in the last look than are kept.
func (f *Findings) Omitted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.omitted
}

// Suppress keeps a finding quiet; the zero Suppression lifts it. It returns the
// finding if it is open.
func (f *Findings) Suppress(k fleet.FindingKey, s fleet.Suppression) (fleet.Finding, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.By == "" {
		delete(f.suppressed, k)
	} else {
		f.suppressed[k] = s
	}
	t := f.tracks[k]
	if t == nil || !t.open {
		return fleet.Finding{}, false
	}
	t.f.Suppressed = s
	return t.f, true
}

// verdict is what a check says of one thing at one measurement.
type verdict struct {
	fleet.FindingKey
	at  time.Time // when what it rests on was measured
	bad bool
	f   *fleet.Finding // when bad
}

// Inspect judges one look. It returns the findings that changed, for the
// record, and the events that tell of it. A snapshot that is not newer than the
// last one says nothing new and is not judged.
func (f *Findings) Inspect(look fleet.Look, splits []traffic.Revision, seen map[string][]traffic.Observation) ([]fleet.Finding, []fleet.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if look.Snapshot == nil || !look.Snapshot.TakenAt.After(f.last) {
		return nil, nil
	}
	f.last = look.Snapshot.TakenAt
	in := newInspection(f, look, splits, seen)
	for _, c := range checks {
		in.check = &c.Check
		c.run(in)
	}
	f.forget(look.At)

	// The map makes two words of one check on one thing into one: the bad one
	// wins, so that the order of the snapshot's rows decides nothing.
	verdicts := map[fleet.FindingKey]verdict{}
	for _, v := range in.verdicts {
		if old, ok := verdicts[v.FindingKey]; !ok || v.bad && !old.bad {
			verdicts[v.FindingKey] = v
		}
	}
	for k, t := range f.tracks {
		// What no longer exists is not bad any more; what was only not measured
		// stays as it is.
		if _, judged := verdicts[k]; !judged && (t.open || t.bad > 0) && in.gone(k.Entity) {
			verdicts[k] = verdict{FindingKey: k, at: look.Snapshot.TakenAt}
		}
	}
	keys := slices.SortedFunc(maps.Keys(verdicts), compareKeys)
	var changed []fleet.Finding
	var events []fleet.Event
	f.omitted = 0
	for _, k := range keys {
		c, e := f.judge(verdicts[k], look)
		changed, events = append(changed, c...), append(events, e...)
	}
	return append(changed, f.wake(look.At)...), events
}

func compareKeys(a, b fleet.FindingKey) int {
	return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
}

// judge counts a verdict for or against a finding.
func (f *Findings) judge(v verdict, look fleet.Look) ([]fleet.Finding, []fleet.Event) {
	t := f.tracks[v.FindingKey]
	if t == nil {
		if !v.bad {
			return nil, nil
		}
		if len(f.tracks) >= f.cfg.Max {
			f.omitted++
			return nil, nil
		}
		t = &track{}
		f.tracks[v.FindingKey] = t
	}
	// One measurement counts once, however often it is shown: a source that is
	// read more slowly than the rest must not open anything by repetition.
	if !v.at.After(t.at) {
		return nil, nil
	}
	t.at = v.at
	if !v.bad {
		t.bad = 0
		if !t.open {
			return nil, nil
		}
		t.good++
		if t.good < f.cfg.CloseAfter<<min(t.f.Reopened, 5) {
			return nil, nil
		}
		t.open, t.ended, t.f.Closed = false, look.At, look.At
		return []fleet.Finding{t.f}, f.tell("finding.closed", fleet.Info, look.At, t.f, "Over: "+t.f.Title+".")
	}
	t.bad++
	t.good = 0
	since := v.at
	if t.bad > 1 || t.open {
		since = t.f.Since
	}
	back := !t.open && !t.ended.IsZero() && look.At.Sub(t.ended) < f.cfg.Flap
	reopened := 0
	if t.open || back {
		reopened = t.f.Reopened
	}
	next := *v.f
	next.FindingKey, next.Since, next.LastSeen, next.Reopened = v.FindingKey, since, v.at, reopened
	next.Suppressed = f.suppressed[v.FindingKey]
	if t.open {
		worse := next.Severity != t.f.Severity
		t.f = next
		if !worse && look.At.Sub(t.kept) < keepEvery {
			return nil, nil
		}
		t.kept = look.At
		return []fleet.Finding{t.f}, nil
	}
	if t.bad < f.cfg.OpenAfter {
		if !back {
			t.f = next
		}
		return nil, nil
	}
	kind, text := "finding.opened", next.Text
	if back {
		next.Since, next.Reopened = t.f.Since, reopened+1
		kind, text = "finding.reopened", "It came back: "+next.Text
	}
	t.f, t.open, t.kept = next, true, look.At
	return []fleet.Finding{t.f}, f.tell(kind, next.Severity, look.At, next, text)
}

// tell makes an event, unless somebody wants quiet.
func (f *Findings) tell(kind string, s fleet.Severity, at time.Time, fd fleet.Finding, text string) []fleet.Event {
	if f.suppressed[fd.FindingKey].Active(at) {
		return nil
	}
	return []fleet.Event{{At: at, Kind: kind, Severity: s, Entity: cmp.Or(fd.Key, string(fd.Kind)), Text: fd.Code + ": " + text}}
}

// wake ends suppressions whose time is over, and forgets what ended long ago.
func (f *Findings) wake(now time.Time) []fleet.Finding {
	var changed []fleet.Finding
	for _, k := range slices.SortedFunc(maps.Keys(f.suppressed), compareKeys) {
		if f.suppressed[k].Active(now) {
			continue
		}
		delete(f.suppressed, k)
		t := f.tracks[k]
		if t == nil {
			continue
		}
		t.f.Suppressed = fleet.Suppression{}
		if t.open {
			changed = append(changed, t.f)
		}
	}
	for k, t := range f.tracks {
		if !t.open && t.bad == 0 && (t.ended.IsZero() || now.Sub(t.ended) >= f.cfg.Flap) {
			delete(f.tracks, k)
		}
	}
	return changed
}

// historyKey names a figure whose course over the window matters.
type historyKey struct {
	fleet.Entity
	name string
}

type reading struct {
	at    time.Time
	value uint64
}

// rise notes a counter and says how far it rose within the window, and over
// which span that was seen. A counter that fell began anew: its value is what it
// rose since.
func (f *Findings) rise(e fleet.Entity, name string, at time.Time, value uint64) (by uint64, span time.Duration) {
	k := historyKey{e, name}
	h := f.history[k]
	if n := len(h); n == 0 || at.After(h[n-1].at) {
		h = append(h, reading{at, value})
	}
	from := at.Add(-f.cfg.Window)
	for len(h) > 1 && !h[1].at.After(from) { // the window begins between two readings
		h = h[1:]
	}
	f.history[k] = h
	for i := 1; i < len(h); i++ {
		if h[i].value >= h[i-1].value {
			by += h[i].value - h[i-1].value
		} else {
			by += h[i].value
		}
	}
	return by, at.Sub(h[0].at)
}

// course notes a level and gives the oldest one within the window, and its age.
// The course begins when the level first matters: most never do.
func (f *Findings) course(e fleet.Entity, name string, at time.Time, value uint64, matters bool) (first uint64, span time.Duration) {
	k := historyKey{e, name}
	if !matters {
		if f.history[k] != nil {
			delete(f.history, k)
		}
		return value, 0
	}
	_, span = f.rise(e, name, at, value)
	return f.history[k][0].value, span
}

// trip is a round trip as a server shows it. It measures one at its pings only,
// up to an hour apart, and shows it in every answer until the next.
type trip struct {
	took  time.Duration
	since time.Time // when it was shown first
	shown time.Time // when it was shown last
}

// tripAt is when a round trip was measured, as far as the answers tell: one that
// stays the same to the nanosecond is the same measurement.
func (f *Findings) tripAt(e fleet.Entity, took time.Duration, at time.Time) time.Time {
	t, known := f.trips[e]
	if !known || t.took != took {
		t = trip{took: took, since: at}
	}
	t.shown = at
	f.trips[e] = t
	return t.since
}

// forget drops the courses of what is no longer there.
func (f *Findings) forget(now time.Time) {
	for e, t := range f.trips {
		if now.Sub(t.shown) > time.Hour {
			delete(f.trips, e)
		}
	}
	for k, h := range f.history {
		if now.Sub(h[len(h)-1].at) > 2*f.cfg.Window+time.Minute {
			delete(f.history, k)
		}
	}
}

// command makes a line for a POSIX shell. Names come from NATS: one with what a
// terminal would act on makes no command at all, and one that begins like an
// option is set apart from the options.
func command(words ...string) string {
	var b strings.Builder
	for i, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return ""
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quoted(w))
	}
	return b.String()
}

// quoted makes one word for a POSIX shell, plainly where nothing is special.
func quoted(w string) string {
	plain := w != "" && !strings.ContainsFunc(w, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	})
	if plain {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// about names things of a command: none of them may be taken for an option.
func about(verb string, names ...string) string {
	words := strings.Fields(verb)
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "-") }) {
		words = append(words, "--")
	}
	return command(append(words, names...)...)
}

// ago writes an age for a sentence.
func ago(d time.Duration) string {
	if d < time.Second {
		return "just now"
	}
	return short(d.Round(time.Second)) + " ago"
}

// size writes bytes.
func size(b float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if b < 1024 {
			return fmt.Sprintf("%.3g %s", b, unit)
		}
		b /= 1024
	}
	return fmt.Sprintf("%.4g TiB", b)
}
