package fleet

import "time"

// Intake is how the servers' samples of acknowledgements are taken in. When
// they come faster than they can be counted, only every so-manieth of each
// consumer is, evenly, and the rest is passed over.
type Intake struct {
	At        time.Time
	Every     int       // one of so many samples is counted; 1: all are
	Since     time.Time // when Every rose above 1; zero while it is 1
	PerSecond float64   // samples that came, since the snapshot before
	Counted   uint64    // samples in all, since the collector began
	Passed    uint64    // not counted because Every was above 1
	Dropped   uint64    // never seen here: the queue before the intake was full
	Waiting   int       // in that queue
	// Share of the time in which samples are listened to, because all of them would
	// cost the servers more; 1: always. Targets of splits and consumers that are
	// being measured are listened to all the time.
	Share float64
}

// Whole reports whether every sample that arrived is counted.
func (i Intake) Whole() bool { return i.Every <= 1 }
