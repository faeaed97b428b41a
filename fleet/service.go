package fleet

import (
	"encoding/json"
	"math"
	"time"
)

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

// Entity names the instance, as findings do. Instances come and go and have no
// series of their own: those of the service are named by MicroEntity.
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

// Own is what an instance says of its own process in the custom data of its
// endpoints: no library does so by itself, and there is no standard for it.
type Own struct {
	CPU    float64 // percent, as it says
	Memory float64 // bytes
	HasCPU bool
	HasMem bool
}

// Names under which instances give their own figures, the first that is there.
var (
	ownCPU    = []string{"cpu", "cpu_percent", "cpu_usage"}
	ownMemory = []string{"memory", "memory_bytes", "mem", "mem_bytes", "rss", "mem_usage"}
)

// Own reads the instance's own figures: numbers at the top of the custom data of
// an endpoint, the first that has them.
func (s Service) Own() Own {
	var o Own
	for _, e := range s.Endpoints {
		if len(e.Data) == 0 || e.Data[0] != '{' || o.HasCPU && o.HasMem {
			continue
		}
		var data map[string]any
		if json.Unmarshal(e.Data, &data) != nil {
			continue
		}
		take := func(v *float64, has *bool, names []string, most float64) {
			for _, name := range names {
				n, ok := data[name].(float64)
				if ok && !*has && n >= 0 && n <= most {
					*v, *has = n, true
				}
			}
		}
		take(&o.CPU, &o.HasCPU, ownCPU, 1e6)
		take(&o.Memory, &o.HasMem, ownMemory, math.MaxInt64/1024)
	}
	return o
}
