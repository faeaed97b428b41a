package fleet

import (
	"reflect"
	"testing"
	"time"
)

func TestThresholdsOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		in   map[string]string
		want *Thresholds
	}{
		{"none", map[string]string{"team": "a", "_nats.level": "1"}, nil},
		{"all of a stream", map[string]string{
			"io.nats.monitor.enabled": "1", "io.nats.monitor.lag-critical": "100", "io.nats.monitor.seen-critical": "5m",
			"io.nats.monitor.min-sources": "1", "io.nats.monitor.max-sources": "2", "io.nats.monitor.peer-expect": "3",
			"io.nats.monitor.peer-lag-critical": "7", "io.nats.monitor.peer-seen-critical": "1d", "io.nats.monitor.msgs-warn": "999",
			"io.nats.monitor.msgs-critical": "500", "io.nats.monitor.subjects-warn": "8", "io.nats.monitor.subjects-critical": "9",
		}, &Thresholds{SourceLag: 100, SourceSeen: 5 * time.Minute, MinSources: 1, MaxSources: 2, Peers: 3, PeerLag: 7,
			PeerSeen: 24 * time.Hour, MsgsWarn: 999, MsgsCritical: 500, SubjWarn: 8, SubjCritical: 9}},
		{"all of a consumer", map[string]string{
			"io.nats.monitor.outstanding-ack-critical": "1", "io.nats.monitor.waiting-critical": "2", "io.nats.monitor.unprocessed-critical": "3",
			"io.nats.monitor.last-delivery-critical": "1w2d", "io.nats.monitor.last-ack-critical": "1.5h", "io.nats.monitor.redelivery-critical": "6",
			"io.nats.monitor.pinned": "true",
		}, &Thresholds{AckPending: 1, Waiting: 2, Unprocessed: 3, LastDelivery: 9 * 24 * time.Hour, LastAck: 90 * time.Minute, Redelivered: 6, Pinned: true}},
		{"switched off", map[string]string{"io.nats.monitor.enabled": "false"}, &Thresholds{MonitorOff: true}},
		{"a key of tomorrow", map[string]string{"io.nats.monitor.mood": "good"}, &Thresholds{}},
		{"unreadable", map[string]string{"io.nats.monitor.lag-critical": "-1"}, &Thresholds{Ignored: []string{"io.nats.monitor.lag-critical"}}},
	} {
		if got := ThresholdsOf(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func FuzzThresholds(f *testing.F) {
	for _, v := range []string{"1", "5m", "1d", "-1", "1w1", "99999999999999y", "0", " 3h ", "1.5.5d", "NaNd", "infd"} {
		f.Add("last-ack-critical", v)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		l := ThresholdsOf(map[string]string{"io.nats.monitor." + name: value})
		if l.LastAck < 0 || l.SourceSeen < 0 || l.PeerSeen < 0 || l.LastDelivery < 0 || l.AckPending < 0 || l.Peers < 0 {
			t.Errorf("%q = %q reads as %+v: below zero", name, value, l)
		}
	})
}
