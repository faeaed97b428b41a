package fleet

import (
	"strconv"
	"strings"
	"time"
)

// monitorPrefix begins the metadata keys in which the owner of a stream or
// consumer says when it is to be considered unwell. They are those that the
// NATS command line's checks read.
const monitorPrefix = "io.nats.monitor."

// Thresholds are the owner's own limits for a stream or consumer. A limit of
// zero is not set. MonitorOff says that the owner wants no checks at all.
type Thresholds struct {
	MonitorOff bool

	// Stream.
	SourceLag    uint64        // lag-critical: messages that a source or mirror may be behind
	SourceSeen   time.Duration // seen-critical: since a source or mirror was heard
	MinSources   int           // min-sources
	MaxSources   int           // max-sources
	Peers        int           // peer-expect
	PeerLag      uint64        // peer-lag-critical
	PeerSeen     time.Duration // peer-seen-critical
	MsgsWarn     uint64        // msgs-warn; below MsgsCritical it is an upper limit, above it or alone a lower one
	MsgsCritical uint64        // msgs-critical; alone it is a lower limit
	SubjWarn     int           // subjects-warn
	SubjCritical int           // subjects-critical

	// Consumer.
	AckPending   int           // outstanding-ack-critical
	Waiting      int           // waiting-critical
	Unprocessed  uint64        // unprocessed-critical
	LastDelivery time.Duration // last-delivery-critical
	LastAck      time.Duration // last-ack-critical
	Redelivered  int           // redelivery-critical
	Pinned       bool          // pinned: every priority group must have its client

	// Ignored names the keys whose values cannot be read.
	Ignored []string
}

// ThresholdsOf reads the limits out of the metadata of a stream or consumer;
// nil if there are none. A value that cannot be read counts for nothing, for
// its owner meant something else; keys that are not known are left alone.
func ThresholdsOf(metadata map[string]string) *Thresholds {
	var t *Thresholds
	for key, value := range metadata {
		name, ok := strings.CutPrefix(key, monitorPrefix)
		if !ok {
			continue
		}
		if t == nil {
			t = &Thresholds{}
		}
		if !t.set(name, value) {
			t.Ignored = append(t.Ignored, key)
		}
	}
	return t
}

func (t *Thresholds) set(name, value string) (ok bool) {
	switch name {
	case "enabled":
		on, err := strconv.ParseBool(value)
		t.MonitorOff = err == nil && !on
		return err == nil
	case "pinned":
		return parseInto(&t.Pinned, value, strconv.ParseBool)
	case "lag-critical":
		return parseInto(&t.SourceLag, value, parseCount)
	case "peer-lag-critical":
		return parseInto(&t.PeerLag, value, parseCount)
	case "msgs-warn":
		return parseInto(&t.MsgsWarn, value, parseCount)
	case "msgs-critical":
		return parseInto(&t.MsgsCritical, value, parseCount)
	case "unprocessed-critical":
		return parseInto(&t.Unprocessed, value, parseCount)
	case "min-sources":
		return parseInto(&t.MinSources, value, parseSmall)
	case "max-sources":
		return parseInto(&t.MaxSources, value, parseSmall)
	case "peer-expect":
		return parseInto(&t.Peers, value, parseSmall)
	case "subjects-warn":
		return parseInto(&t.SubjWarn, value, parseSmall)
	case "subjects-critical":
		return parseInto(&t.SubjCritical, value, parseSmall)
	case "outstanding-ack-critical":
		return parseInto(&t.AckPending, value, parseSmall)
	case "waiting-critical":
		return parseInto(&t.Waiting, value, parseSmall)
	case "redelivery-critical":
		return parseInto(&t.Redelivered, value, parseSmall)
	case "seen-critical":
		return parseInto(&t.SourceSeen, value, parseSpan)
	case "peer-seen-critical":
		return parseInto(&t.PeerSeen, value, parseSpan)
	case "last-delivery-critical":
		return parseInto(&t.LastDelivery, value, parseSpan)
	case "last-ack-critical":
		return parseInto(&t.LastAck, value, parseSpan)
	}
	return true // of a later version, or somebody's own
}

func parseInto[T any](to *T, value string, parse func(string) (T, error)) bool {
	v, err := parse(value)
	if err == nil {
		*to = v
	}
	return err == nil
}

func parseCount(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }

func parseSmall(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

// parseSpan reads a duration as the NATS tools write it: like Go's, and with
// days, weeks, months of 30 days and years of 365 days.
func parseSpan(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if s == "0" {
		return 0, nil
	}
	var total time.Duration
	for rest := s; rest != ""; {
		n := 0
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '.') {
			n++
		}
		u := n
		for u < len(rest) && (rest[u] < '0' || rest[u] > '9') && rest[u] != '.' {
			u++
		}
		number, unit := rest[:n], rest[n:u]
		rest = rest[u:]
		var one time.Duration
		switch unit {
		case "d", "D":
			one = 24 * time.Hour
		case "w", "W":
			one = 7 * 24 * time.Hour
		case "M":
			one = 30 * 24 * time.Hour
		case "y", "Y":
			one = 365 * 24 * time.Hour
		default:
			d, err := time.ParseDuration(number + unit)
			if err != nil {
				return 0, err
			}
			total += d
			continue
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, err
		}
		if f > float64(maxSpan/one) {
			return 0, strconv.ErrRange
		}
		total += time.Duration(f * float64(one))
	}
	if s == "" || total < 0 || total > maxSpan {
		return 0, strconv.ErrRange
	}
	return total, nil
}

// maxSpan is longer than any limit that means something, and far from where a
// sum of durations would run over.
const maxSpan = 100 * 365 * 24 * time.Hour
