package collector

import (
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/reportpb"
)

// maxReports bounds the reports held between two flushes: 4,000 workers that
// report every 5 s fit into a second's flush five times over.
const maxReports = 4096

// reports gathers what workers say of themselves.
type reports struct {
	now func() time.Time
	sub *nats.Subscription // set before the first report arrives

	mu      sync.Mutex // guards all below
	held    []fleet.WorkerReport
	refused uint64
	reason  error // of the last refused one
	over    uint64
	dropped int
}

func newReports(now func() time.Time) *reports { return &reports{now: now} }

func (r *reports) take(m *nats.Msg) {
	report, err := reportpb.Decode(m.Subject, m.Data)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.refused++
		r.reason = err
		return
	case len(r.held) >= maxReports:
		r.over++
		return
	}
	// All that is measured stands on one time axis, ours; a worker's clock may be
	// wrong by any amount.
	report.At = r.now()
	r.held = append(r.held, report)
}

// cut returns the reports that came since it was called last.
func (r *reports) cut() []fleet.WorkerReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.held
	r.held = nil
	return out
}

// trouble says what was not taken since it was asked last.
func (r *reports) trouble() []string {
	var out []string
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused > 0 {
		out = append(out, fmt.Sprintf("%d worker reports were refused: %.200s.", r.refused, r.reason))
	}
	if r.over > 0 {
		out = append(out, fmt.Sprintf("%d worker reports were not taken: more than %d came at once.", r.over, maxReports))
	}
	r.refused, r.over = 0, 0
	if n := droppedBy(r.sub); n > r.dropped {
		out = append(out, fmt.Sprintf("%d worker reports were dropped: they came faster than they were read.", n-r.dropped))
		r.dropped = n
	}
	return out
}
