package fleet

import "time"

// KindService is an instance of a micro service, by "name/id".
const KindService Kind = "service"

// Service is one running instance of a micro service ($SRV) as it tells of
// itself. Any client of the account can claim to be one.
type Service struct {
	Account string
	Name    string
	ID      string // of the instance, new at every start
	Version string
	// Description is what the instance says it is for.
	Description string
	Metadata    map[string]string
	Started     time.Time // by the instance's clock
	Endpoints   []Endpoint
	At          time.Time
}

// Entity names the instance's series.
func (s Service) Entity() Entity { return Entity{KindService, s.Name + "/" + s.ID} }

// Endpoint is one subject that an instance serves; counters run from its start.
type Endpoint struct {
	Name           string
	Subject        string
	Queue          string
	Requests       uint64
	Errors         uint64
	ProcessingTime time.Duration // sum
	AvgProcessing  time.Duration
	LastError      string
	Data           []byte // custom, as sent, at most 4 KiB; JSON
}
