package fleet

// Columns of the series, by kind; SeriesQuery.Column is one of them. A column
// marked (rate) counts up at its source and is answered per second.
const (
	// Server, account.
	ColCPU      = "cpu"       // % of one core
	ColMem      = "mem"       // B, resident
	ColConns    = "conns"     //
	ColSubs     = "subs"      //
	ColInMsgs   = "in_msgs"   // (rate) msg/s; also route, gateway, leaf
	ColOutMsgs  = "out_msgs"  // (rate) msg/s
	ColInBytes  = "in_bytes"  // (rate) B/s
	ColOutBytes = "out_bytes" // (rate) B/s
	ColSlow     = "slow"      // (rate) connections closed for reading too slowly, per second
	ColJSMemory = "js_memory" // B
	ColJSStore  = "js_store"  // B
	ColRTT      = "rtt"       // ms; also route, gateway, leaf
	ColRoutes   = "routes"    // connections to servers of its cluster
	ColSkew     = "skew"      // ms, by which the server's clock is ahead of ours
	ColLeafs    = "leafs"     // leaf node connections of an account
	ColUptime   = "uptime"    // s; of a route

	// What a server hosts of JetStream, replicas included.
	ColJSStreams   = "js_streams"
	ColJSConsumers = "js_consumers"
	ColJSMessages  = "js_messages"
	ColAPI         = "js_api"        // (rate) requests to JetStream's API, per second
	ColAPIErrors   = "js_api_errors" // (rate) those answered with an error, per second

	// Stream.
	ColMessages  = "messages"
	ColBytes     = "bytes"    // B
	ColLastSeq   = "last_seq" // (rate) messages stored, msg/s
	ColRemoved   = "removed"  // (rate) messages that are gone from its beginning, msg/s
	ColSubjects  = "subjects" // that messages are held of
	ColConsumers = "consumers"

	// Consumer. ColPending and ColInFlight are also known of a route (B waiting)
	// and of workers.
	ColArrived     = "arrived"     // (rate) msg/s that came for it, redeliveries included
	ColDelivered   = "delivered"   // (rate) msg/s, redeliveries included
	ColAcked       = "acked"       // (rate) deliveries that were settled, msg/s
	ColAckFloor    = "ack_floor"   // (rate) advance of the oldest unsettled delivery, per second
	ColPending     = "pending"     // not yet delivered
	ColInFlight    = "in_flight"   // delivered, not acknowledged
	ColRedelivered = "redelivered" // in flight and delivered more than once
	ColWaiting     = "waiting"     // pull requests

	// Workers of a target.
	ColWorkers    = "workers"    // handlers that run at the same time
	ColProcesses  = "processes"  // worker processes that reported
	ColProcessed  = "processed"  // (rate) msg/s
	ColFailed     = "failed"     // (rate) msg/s
	ColProcessing = "processing" // ms, mean of the last reports

	// Micro service, over all its instances, and each of its endpoints. The mean
	// time of a request is ColServing divided by ColServed.
	ColInstances = "instances" // that answered; of an endpoint those that have it
	ColServed    = "requests"  // (rate) requests per second
	ColErrors    = "errors"    // (rate) of these answered with an error, per second
	ColServing   = "serving"   // (rate) time spent on requests, µs per second

	// Watch.
	ColRequests  = "requests"   // of one round
	ColReadBytes = "read_bytes" // B read in one round
	ColTook      = "took"       // ms of one round
	ColAnswered  = "answered"   // servers that answered
	ColProblems  = "problems"   // sources that did not answer
	ColSamples   = "samples"    // ACK samples that came, per second

	// ACK samples since the console was started, and those that wait.
	ColCounted = "samples_counted" // (rate) per second
	ColPassed  = "samples_passed"  // (rate) left out evenly, per second
	ColDropped = "samples_dropped" // (rate) lost before they were read, per second
	ColQueued  = "samples_waiting"

	// Of one round, by tier: what a tier that was not due takes is 0.
	ColRequestsFast, ColRequestsNormal, ColRequestsSlow = "requests_fast", "requests_normal", "requests_slow"

	ColBytesFast, ColBytesNormal, ColBytesSlow = "bytes_fast", "bytes_normal", "bytes_slow" // B
	ColCPUFast, ColCPUNormal, ColCPUSlow       = "cpu_fast", "cpu_normal", "cpu_slow"       // ms of all servers together, estimated
)

// Kinds that have series and stand for many things that come and go.
const (
	KindMicro    Kind = "micro service"  // all instances of one name, by "account/name"
	KindEndpoint Kind = "endpoint"       // of these, by "account/name/endpoint"
	KindConns    Kind = "connections"    // of an account on a server, by "server/account"
	KindClients  Kind = "client library" // connections with it, by its name and version: "go 1.55.0"
)

// MicroEntity names the series of a micro service: of all its instances together.
func MicroEntity(account, name string) Entity { return Entity{KindMicro, account + "/" + name} }

// EndpointEntity names the series of an endpoint of a micro service.
func EndpointEntity(account, name, endpoint string) Entity {
	return Entity{KindEndpoint, account + "/" + name + "/" + endpoint}
}

// ConnsEntity names the series of an account's connections to a server.
func ConnsEntity(server, account string) Entity { return Entity{KindConns, server + "/" + account} }

// WatchEntity names the series of what watching costs.
var WatchEntity = Entity{KindWatch, "collector"}

// Entity returns the name of the server's series.
func (s Server) Entity() Entity { return Entity{KindServer, s.Name} }

// WorkerEntity names the series of a target's workers.
func WorkerEntity(split, target string) Entity { return Entity{KindWorker, split + "/" + target} }
