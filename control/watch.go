package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"ballast/fleet"
	"ballast/traffic"
)

// Inspector is the findings engine. It is pure: what it is shown decides what
// it says. Inspect returns the findings that were opened, reopened, closed or
// seen anew, for the store, and the events that tell of it.
type Inspector interface {
	Restore(s fleet.FindingState)
	Inspect(look fleet.Look, splits []traffic.Revision, seen map[string][]traffic.Observation) ([]fleet.Finding, []fleet.Event)
	Open() []fleet.Finding
	// Suppress keeps the finding quiet, or lifts it with the zero Suppression. It
	// returns the finding if it is open.
	Suppress(k fleet.FindingKey, s fleet.Suppression) (fleet.Finding, bool)
}

// FindingStore keeps findings and suppressions over a restart.
type FindingStore interface {
	// PutFindings adds or replaces episodes of findings, by key and Since.
	PutFindings(ctx context.Context, f []fleet.Finding) error
	Findings(ctx context.Context, f fleet.FindingFilter) ([]fleet.Finding, error)
	// FindingState is what is open, and the suppressions that still hold.
	FindingState(ctx context.Context, now time.Time) (fleet.FindingState, error)
	// Suppress keeps a suppression; the zero one removes what was kept.
	Suppress(ctx context.Context, k fleet.FindingKey, s fleet.Suppression) error
}

// Measurements is what the watch reads of the store.
type Measurements interface {
	Latest() *fleet.Snapshot
	Rates() *fleet.Rates
	Latency(ctx context.Context, k fleet.ConsumerKey, r fleet.Range, points int) (fleet.Latency, error)
	Observe(ctx context.Context, s traffic.Split, r fleet.Range) ([]traffic.Observation, error)
	Events(ctx context.Context, r fleet.Range, limit int) ([]fleet.Event, error)
	PutEvents(ctx context.Context, events []fleet.Event) error
}

// Splits are the splits in force.
type Splits interface{ Splits() []traffic.Revision }

// WatchConfig is what a Watch is built from.
type WatchConfig struct {
	Metrics   Measurements
	Store     FindingStore
	Inspector Inspector
	Splits    Splits
	Interval  time.Duration // of the collector
	Now       func() time.Time
	Log       *slog.Logger
}

const (
	// latencySpan is what a consumer's ACK latency is judged over: long enough
	// for a p99 of a consumer with some messages a second.
	latencySpan = time.Minute
	// latenciesALook bounds the consumers whose latency is read for one look;
	// 5,000 sampled consumers take their turn within five minutes of 5 s looks.
	latenciesALook = 100
	// eventSpan is how far back the checks look for events.
	eventSpan = 5 * time.Minute
	// lastFlush bounds how long the end waits for the store.
	lastFlush = 3 * time.Second
	// maxSuppression bounds how long a finding may be kept quiet: what nobody
	// looks at for a quarter should be said again.
	maxSuppression = 90 * 24 * time.Hour
)

// Watch shows every new look of the collector to the findings engine, keeps
// what it found, and takes suppressions. It writes nothing to NATS.
type Watch struct {
	cfg WatchConfig
	log *slog.Logger

	// What follows is owned by the goroutine of Run.
	seen time.Time       // TakenAt of the last snapshot that was judged
	turn int             // next consumer whose latency is read
	owed []fleet.Finding // not taken by the store yet
	in   map[episode]int // where each of them stands in owed
	told []fleet.Event

	suppress sync.Mutex // one at a time, so that store and engine agree
}

// NewWatch builds a Watch. Nothing starts before Run.
func NewWatch(cfg WatchConfig) *Watch {
	cfg.Interval = cmp.Or(cfg.Interval, 5*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Watch{cfg: cfg, log: cfg.Log.With("component", "watch")}
}

// Run takes up what was open when the program last stopped, and judges until
// ctx ends. A look that cannot be judged is logged, and the next one is.
func (w *Watch) Run(ctx context.Context) error {
	every := max(20*time.Millisecond, min(w.cfg.Interval/4, time.Second))
	tick := time.NewTicker(every)
	defer tick.Stop()
	restored, failing := false, false
	for {
		err := error(nil)
		if !restored {
			err = w.restore(ctx)
			restored = err == nil
		}
		// Without what was open before, everything would open once more.
		if restored {
			err = w.look(ctx)
		}
		if err != nil && ctx.Err() == nil && !failing {
			w.log.ErrorContext(ctx, "findings are not up to date", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			// What was found is told now or never: the next run takes up what is open.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			if err := w.flush(last); err != nil {
				w.log.ErrorContext(last, "the last findings are not kept", "err", err)
			}
			return nil
		case <-tick.C:
		}
	}
}

func (w *Watch) restore(ctx context.Context) error {
	state, err := w.cfg.Store.FindingState(ctx, w.cfg.Now())
	if err != nil {
		return fmt.Errorf("read what was open: %w", err)
	}
	w.cfg.Inspector.Restore(state)
	return nil
}

// look judges the newest snapshot, unless it was judged already.
func (w *Watch) look(ctx context.Context) error {
	snap := w.cfg.Metrics.Latest()
	if !snap.TakenAt.After(w.seen) {
		return w.flush(ctx)
	}
	now := w.cfg.Now()
	look := fleet.Look{
		At: now, Interval: w.cfg.Interval, Snapshot: snap, Rates: w.cfg.Metrics.Rates(),
		Latency: map[fleet.ConsumerKey]fleet.Latency{},
	}
	var errs []error
	var err error
	if look.Events, err = w.cfg.Metrics.Events(ctx, fleet.Range{From: now.Add(-eventSpan), To: now.Add(time.Second)}, 1000); err != nil {
		errs = append(errs, fmt.Errorf("read the events: %w", err))
	}
	for _, k := range w.nextSampled(snap) {
		l, err := w.cfg.Metrics.Latency(ctx, k, fleet.Range{From: now.Add(-latencySpan), To: now}, 1)
		if err != nil {
			errs = append(errs, fmt.Errorf("read the latency of %s: %w", k.Entity().Key, err))
			break // the store is in trouble; the others would say the same
		}
		look.Latency[k] = l
	}
	splits := w.cfg.Splits.Splits()
	seen := map[string][]traffic.Observation{}
	for _, rev := range splits {
		obs, err := w.cfg.Metrics.Observe(ctx, rev.Split, fleet.Range{From: now.Add(-latencySpan), To: now})
		if err != nil {
			errs = append(errs, fmt.Errorf("observe split %s: %w", rev.Split.Name, err))
			continue
		}
		seen[rev.Split.Name] = obs
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.seen = snap.TakenAt
	changed, events := w.cfg.Inspector.Inspect(look, splits, seen)
	w.owe(changed)
	w.told = append(w.told, events...)
	return errors.Join(append(errs, w.flush(ctx))...)
}

// nextSampled are the consumers whose latency this look judges, in turns.
func (w *Watch) nextSampled(s *fleet.Snapshot) []fleet.ConsumerKey {
	var keys []fleet.ConsumerKey
	for i := range s.Consumers {
		// A row that sums up many consumers has no latency that a check judges.
		if s.Consumers[i].Sampled() && s.Consumers[i].Fold == nil {
			keys = append(keys, s.Consumers[i].ConsumerKey)
		}
	}
	if len(keys) <= latenciesALook {
		return keys
	}
	w.turn %= len(keys)
	keys = slices.Concat(keys[w.turn:], keys[:w.turn])[:latenciesALook]
	w.turn += latenciesALook
	return keys
}

// episode is what tells findings of one key apart.
type episode struct {
	fleet.FindingKey
	since int64 // nanoseconds since 1970
}

// owe keeps the newest form of each episode until the store has it.
func (w *Watch) owe(changed []fleet.Finding) {
	for _, f := range changed {
		e := episode{f.FindingKey, f.Since.UnixNano()}
		if i, ok := w.in[e]; ok {
			w.owed[i] = f
			continue
		}
		if w.in == nil {
			w.in = map[episode]int{}
		}
		w.in[e] = len(w.owed)
		w.owed = append(w.owed, f)
	}
}

func (w *Watch) flush(ctx context.Context) error {
	if len(w.owed) > 0 {
		if err := w.cfg.Store.PutFindings(ctx, w.owed); err != nil {
			return fmt.Errorf("keep %d findings: %w", len(w.owed), err)
		}
		w.owed, w.in = nil, nil
	}
	if len(w.told) > 0 {
		if err := w.cfg.Metrics.PutEvents(ctx, w.told); err != nil {
			w.told = w.told[max(0, len(w.told)-1000):]
			return fmt.Errorf("keep %d events of findings: %w", len(w.told), err)
		}
		w.told = nil
	}
	return nil
}

// Open are the findings that are open, the worst first.
func (w *Watch) Open() []fleet.Finding { return w.cfg.Inspector.Open() }

// Findings answers from the record, closed ones included if the filter asks.
func (w *Watch) Findings(ctx context.Context, f fleet.FindingFilter) ([]fleet.Finding, error) {
	return w.cfg.Store.Findings(ctx, f)
}

// Suppress keeps a finding quiet until the suppression ends.
func (w *Watch) Suppress(ctx context.Context, k fleet.FindingKey, s fleet.Suppression) error {
	s.At = w.cfg.Now()
	fields := map[string]string{}
	if s.By == "" {
		fields["by"] = "Say who suppresses it."
	}
	if n := utf8.RuneCountInString(s.Reason); n == 0 || n > maxReason {
		fields["reason"] = fmt.Sprintf("Give a reason of at most %d characters.", maxReason)
	}
	if !s.Until.After(s.At) || s.Until.Sub(s.At) > maxSuppression {
		fields["until"] = fmt.Sprintf("Choose an end within the next %d days.", int(maxSuppression.Hours()/24))
	}
	if len(fields) > 0 {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The finding was not suppressed.", Fields: fields}
	}
	return w.setSuppression(ctx, k, s, fmt.Sprintf("%s suppressed %s of %s until %s: %s", s.By, k.Code, nameOf(k.Entity), s.Until.UTC().Format("2006-01-02 15:04 UTC"), s.Reason))
}

// Lift ends a suppression.
func (w *Watch) Lift(ctx context.Context, k fleet.FindingKey, by string) error {
	if by == "" {
		return &fleet.Error{Kind: fleet.Invalid, Msg: "The suppression was not lifted.", Fields: map[string]string{"by": "Say who lifts it."}}
	}
	return w.setSuppression(ctx, k, fleet.Suppression{}, fmt.Sprintf("%s lifted the suppression of %s of %s.", by, k.Code, nameOf(k.Entity)))
}

// setSuppression records first: what could not be kept must not hold.
func (w *Watch) setSuppression(ctx context.Context, k fleet.FindingKey, s fleet.Suppression, text string) error {
	w.suppress.Lock()
	defer w.suppress.Unlock()
	if err := w.cfg.Store.Suppress(ctx, k, s); err != nil {
		return fmt.Errorf("keep the suppression of %s: %w", k.Code, err)
	}
	f, open := w.cfg.Inspector.Suppress(k, s)
	if open {
		// The engine's next word on it would bring it along too; an operator who
		// reloads the page wants to see it now.
		if err := w.cfg.Store.PutFindings(ctx, []fleet.Finding{f}); err != nil {
			return fmt.Errorf("keep finding %s: %w", k.Code, err)
		}
	}
	kind := "finding.suppressed"
	if s.By == "" {
		kind = "finding.lifted"
	}
	return w.cfg.Metrics.PutEvents(ctx, []fleet.Event{{
		At: w.cfg.Now(), Kind: kind, Severity: fleet.Info, Entity: nameOf(k.Entity), Text: text,
	}})
}

// nameOf is how an event names what it happened to.
func nameOf(e fleet.Entity) string { return cmp.Or(e.Key, string(e.Kind)) }
