package traffic

import (
	"encoding/json"
	"time"
)

// MeasurePhase of a measurement.
type MeasurePhase string

const (
	SwitchingOn MeasurePhase = "switching on" // recorded; the consumer may or may not have it yet
	Measuring   MeasurePhase = "measuring"
	PuttingBack MeasurePhase = "putting back" // to be ended, but the consumer could not be reached yet
	LateWatch   MeasurePhase = "watched"      // put back; a write of ours without an answer could still arrive
	MeasureOver MeasurePhase = "ended"
)

// Measurement is a time for which the servers sample the ACK latency of one
// consumer: its sample_freq is raised, and afterwards put back.
type Measurement struct {
	ID       string       `json:"id"`
	Consumer Observed     `json:"consumer"`
	Phase    MeasurePhase `json:"phase"`
	Actor    string       `json:"actor"`
	Reason   string       `json:"reason"`
	Percent  int          `json:"percent"` // as written to sample_freq
	// Share of the acknowledgements that is sampled, 0..1: nats-server samples
	// one percent more than it is told, up to all of them.
	Share   float64         `json:"share"`
	AckRate float64         `json:"ack_rate"` // acknowledgements/s when it began
	Before  string          `json:"before"`   // sample_freq that is put back; "" is none
	Born    time.Time       `json:"born"`     // when the consumer was created: tells one created anew apart
	Config  json.RawMessage `json:"config"`   // of the consumer before, as the server told it
	Started time.Time       `json:"started"`
	Ends    time.Time       `json:"ends"`
	Ended   time.Time       `json:"ended,omitzero"`
	Doubt   time.Time       `json:"doubt,omitzero"` // until then a write without an answer may still arrive
	Cost    MeasureCost     `json:"cost"`
	Outcome string          `json:"outcome"` // one sentence
}

// MeasureCost is what a measurement takes. Samples are counted; bytes and CPU
// are estimates by them.
type MeasureCost struct {
	Samples        uint64  `json:"samples"`
	SamplesPerSec  float64 `json:"samples_per_s"`
	BytesPerSec    float64 `json:"bytes_per_s"`    // received, by the length of a sample of this consumer
	ServerCPU      float64 `json:"server_cpu"`     // percent of one core, over all servers
	ExpectedPerSec float64 `json:"expected_per_s"` // samples, by AckRate and Share
}
