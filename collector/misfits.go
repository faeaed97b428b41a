package collector

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
)

const (
	// misfitAfter is how long samples must come for a consumer that does not
	// exist, or is not sampled, before they count as wrong: configurations are read
	// about once a minute.
	misfitAfter = 2 * time.Minute
	// misfitFor is how long a mark stays after what made it was seen last.
	misfitFor = 5 * time.Minute
	// quietFor is how long a consumer's samples may stay away before what was
	// counted of them is forgotten.
	quietFor = 10 * time.Minute
)

// ackTotal is what came in a consumer's name, over all windows.
type ackTotal struct {
	came       uint64
	last       time.Time
	negative   bool          // a latency below zero came since it was asked last
	longest    time.Duration // the longest latency since then
	deliveries uint64        // the most of a message since then
}

// misfits holds samples against what the servers say of their consumers. Any
// client of an account may publish what looks like a sample; what the servers
// cannot have sent is marked. Its state is owned by the rounds.
type misfits struct {
	after time.Duration // how long configurations may be old; misfitAfter at least
	by    map[fleet.ConsumerKey]*doubt
}

// doubt is what is known of one consumer's samples.
type doubt struct {
	seen   time.Time // when its samples were seen first
	odd    time.Time // since when they come without a reason; zero: they have one
	came   uint64    // by the round before
	base   tallied
	middle tallied // what had come at a moment after base and before the next figures
	over   int     // times in a row that more came than was acknowledged
	why    string
	until  time.Time // the mark stays until then
	told   bool
}

// tallied is how many samples had come, and how many deliveries were settled,
// at a moment.
type tallied struct {
	at            time.Time
	created       time.Time
	came, settled uint64
	waiting       uint64 // samples that had arrived and were not counted yet
}

// judge marks the rows whose samples do not fit and returns what is to be told.
// came is by consumer; whole says that rows has all consumers of the account
// that the samples are of.
func (m *misfits) judge(now time.Time, rows []fleet.Consumer, account string, whole bool, came map[fleet.ConsumerKey]ackTotal, waiting int) (events []fleet.Event, missing []string) {
	if m.by == nil {
		m.by = map[fleet.ConsumerKey]*doubt{}
	}
	for k := range m.by {
		if _, ok := came[k]; !ok {
			delete(m.by, k)
		}
	}
	if len(came) == 0 {
		return nil, nil
	}
	exists := make(map[fleet.ConsumerKey]bool, len(came))
	for i := range rows {
		c := &rows[i]
		if c.Account != account {
			continue
		}
		k := fleet.ConsumerKey{Stream: c.Stream, Consumer: c.Consumer}
		total, ok := came[k]
		if !ok {
			continue
		}
		exists[k] = true
		d := m.of(k, now)
		if why := d.look(now, c, total, uint64(max(waiting, 0)), m.patience()); why != "" {
			d.why, d.until = why, now.Add(misfitFor)
		}
		if now.Before(d.until) {
			c.Misfit = d.why
			if !d.told && len(events) < maxEvents {
				d.told = true
				events = append(events, fleet.Event{
					At: now, Kind: "consumer.samples_misfit", Severity: fleet.Warning, Entity: account + "/" + c.Stream + "/" + c.Consumer,
					Text: fmt.Sprintf("The acknowledgement samples of %s/%s cannot all be the servers': %s.", c.Stream, c.Consumer, d.why),
				})
			}
		} else {
			d.told = false
		}
	}
	if !whole {
		return events, nil
	}
	for k, total := range came {
		if exists[k] {
			continue
		}
		if d := m.of(k, now); d.without(now, total.came, m.patience()) {
			missing = append(missing, clipped(k.Stream, 64)+"/"+clipped(k.Consumer, 64))
		}
	}
	slices.Sort(missing)
	return events, missing
}

func (m *misfits) patience() time.Duration { return max(m.after, misfitAfter) }

func (m *misfits) of(k fleet.ConsumerKey, now time.Time) *doubt {
	d := m.by[k]
	if d == nil {
		d = &doubt{seen: now}
		m.by[k] = d
	}
	return d
}

// without reports whether samples have been coming for long without a reason.
func (d *doubt) without(now time.Time, came uint64, after time.Duration) bool {
	more := came != d.came
	d.came = came
	switch {
	case d.odd.IsZero():
		d.odd = now
	case now.Sub(d.odd) < after:
	default:
		if more {
			d.until = now.Add(misfitFor)
		}
		return now.Before(d.until)
	}
	return false
}

// look says what does not fit now; "" if nothing is known to.
func (d *doubt) look(now time.Time, c *fleet.Consumer, t ackTotal, waiting uint64, after time.Duration) string {
	if c.AckPolicy == "" {
		return "" // its configuration was not read yet
	}
	more := t.came != d.came
	tooMany := d.count(now, c, t.came, waiting)
	switch {
	case c.AckPolicy != "explicit" || !c.Sampled():
		if d.without(now, t.came, after) && more {
			if c.AckPolicy != "explicit" {
				return "its acknowledgements are not explicit, and the servers sample no others"
			}
			return "they come although its sample_freq is off"
		}
		return ""
	default:
		d.odd, d.came = time.Time{}, t.came
	}
	switch longest := longestWait(c); {
	case tooMany != "":
		return tooMany
	case t.negative:
		return "some say that less than no time passed"
	case longest > 0 && t.longest > 2*longest+5*time.Second:
		return fmt.Sprintf("some say %v, and after %v the server would have delivered again and measured anew",
			t.longest.Round(time.Millisecond), longest)
	case c.MaxDeliver > 0 && t.deliveries > uint64(c.MaxDeliver):
		return fmt.Sprintf("some say %d deliveries, and more than %d are never made", t.deliveries, c.MaxDeliver)
	}
	return ""
}

// longestWait is how long a delivery may stay unacknowledged; 0 is not known.
func longestWait(c *fleet.Consumer) time.Duration {
	longest := c.AckWait
	for _, b := range c.Backoff {
		longest = max(longest, b)
	}
	return longest
}

// count compares samples with acknowledgements. The samples are counted between
// two rounds, and the deliveries that were settled between a look before the
// first and one after the second, so that no delay can make the samples more.
func (d *doubt) count(now time.Time, c *fleet.Consumer, came, waiting uint64) string {
	settled := c.Delivered - min(uint64(max(c.AckPending, 0)), c.Delivered)
	start := tallied{at: now, created: c.Created, came: came, settled: settled, waiting: waiting}
	switch {
	case d.base.at.IsZero() || !d.base.created.Equal(c.Created) || settled < d.base.settled || came < d.base.came:
		d.base, d.middle, d.over = start, tallied{}, 0
		return ""
	case d.middle.at.IsZero():
		d.middle = start
		return ""
	case !c.At.After(d.middle.at):
		return "" // older figures than that
	}
	samples, acks, late := d.middle.came-d.base.came, settled-d.base.settled, d.base.waiting
	d.base, d.middle = start, tallied{}
	if samples <= acks+acks/10+16+late {
		d.over = 0
		return ""
	}
	// A leader that has just taken over may be behind for a moment.
	if d.over++; d.over < 2 {
		return ""
	}
	return fmt.Sprintf("%d came while %d deliveries were settled", samples, acks)
}

// nameMissing says in one sentence for which consumers that do not exist samples
// come; "" for none.
func nameMissing(names []string) string {
	if len(names) == 0 {
		return ""
	}
	shown := names[:min(len(names), 3)]
	what := fmt.Sprintf("Acknowledgement samples come in the name of %d consumers that do not exist: %s", len(names), strings.Join(shown, ", "))
	if len(names) > len(shown) {
		what += " and others"
	}
	return what + "."
}
