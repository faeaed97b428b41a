package handlers

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ballast/fleet"
	"ballast/traffic"
)

// metricsRoutes serves /metrics and times every request by its route. A route
// is a pattern, so that names in URLs cannot make the number of series grow.
func metricsRoutes(s *Server, e *echo.Echo) {
	reg := prometheus.NewRegistry()
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "ballast_http_request_duration_seconds", Help: "Time to answer a request, by route pattern and status class.",
		Buckets: []float64{.001, .0025, .005, .01, .02, .05, .1, .25, 1, 5},
	}, []string{"method", "route", "status"})
	reg.MustRegister(took, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &fleetCollector{s})
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if c.Path() == "/live" { // open for as long as the page is
				return next(c)
			}
			began := time.Now()
			err := next(c)
			status := c.Response().Status
			if err != nil && !c.Response().Committed {
				status = fault(err).Status
			}
			took.WithLabelValues(c.Request().Method, c.Path(), strconv.Itoa(status/100)+"xx").Observe(time.Since(began).Seconds())
			return err
		}
	})
	h := promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		// Half of the figures are worth more than none to whoever is on call.
		ErrorHandling:      promhttp.ContinueOnError,
		ErrorLog:           promLog{s.Log},
		DisableCompression: true, // the server compresses
	})
	e.GET("/metrics", func(c echo.Context) error {
		h.ServeHTTP(c.Response(), c.Request())
		return nil
	})
}

type promLog struct{ log *slog.Logger }

func (l promLog) Println(v ...any) {
	for _, x := range v {
		if err, ok := x.(error); ok {
			l.log.Warn("metrics are incomplete", "err", err)
			return
		}
	}
	l.log.Warn("metrics are incomplete")
}

// fleetCollector turns what the pages show into metrics at the time of a
// scrape; it keeps nothing.
type fleetCollector struct{ s *Server }

var (
	descBuild       = desc("build_info", "Version of the console; always 1.", "version")
	descServers     = desc("servers", "NATS servers, by state.", "state")
	descExpected    = desc("servers_expected", "NATS servers that ever announced themselves.")
	descServerUp    = desc("server_up", "Whether the server answers.", "server", "cluster")
	descServerCPU   = desc("server_cpu_percent", "CPU of the server in percent of one core.", "server", "cluster")
	descServerConns = desc("server_connections", "Client connections of the server.", "server", "cluster")
	descPending     = desc("consumer_pending", "Messages that the consumer has yet to deliver.", "account", "stream", "consumer")
	descAckPending  = desc("consumer_ack_pending", "Messages delivered and not acknowledged.", "account", "stream", "consumer")
	descRedelivered = desc("consumer_redelivered", "Messages outstanding that were delivered more than once.", "account", "stream", "consumer")
	descWeight      = desc("split_weight_percent", "Weight of the target, as set.", "split", "target")
	descSeen        = desc("split_observed_percent", "Share of the split's messages that came for the target in the last minute.", "split", "target")
	descRevision    = desc("split_revision", "Revision in force.", "split")
	descAck         = desc("target_ack_latency_seconds", "ACK latency of the target over the last minute, as the servers sampled it.", "split", "target", "quantile")
	descAckMean     = desc("target_ack_latency_mean_seconds", "Mean ACK latency over the last minute; estimated is true where it is not sampled.", "split", "target", "estimated")
	descSamples     = desc("target_ack_samples", "Samples behind the ACK latency.", "split", "target")
	descArrived     = desc("target_arrived_per_second", "Messages that came for the target, over the last minute.", "split", "target")
	descProposals   = desc("suggestions_open", "Suggestions that wait for a decision.")
	descChanges     = desc("changes", "Changes that the console knows, by phase.", "phase")
	descReady       = desc("control_ready", "Whether changes can be applied.")
	descAge         = desc("snapshot_age_seconds", "Age of the newest look at NATS.")
	descRequests    = desc("collector_requests", "Requests of the last round.")
	descBytes       = desc("collector_bytes", "Bytes read in the last round.")
	descTook        = desc("collector_duration_seconds", "Length of the last round.")
	descProblems    = desc("collector_problems", "Sources that did not answer in the last round.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ballast_"+name, help, labels, nil)
}

// Describe sends nothing: which series there are depends on what is watched.
func (f *fleetCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	s := f.s
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		for i, l := range labels {
			labels[i] = strings.ToValidUTF8(l, "\uFFFD")
		}
		m, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		ch <- m
	}
	put(descBuild, 1, s.Version)
	snap := s.Metrics.Latest()
	if !snap.TakenAt.IsZero() {
		put(descAge, s.Now().Sub(snap.TakenAt).Seconds())
	}
	put(descRequests, float64(snap.Cost.Requests))
	put(descBytes, float64(snap.Cost.Bytes))
	put(descTook, snap.Cost.Took.Seconds())
	put(descProblems, float64(len(snap.Problems)))
	put(descExpected, float64(snap.Expected))
	states := map[fleet.State]int{fleet.Healthy: 0, fleet.LameDuck: 0, fleet.Unreachable: 0}
	for _, srv := range snap.Servers {
		states[srv.State]++
		up := 1.0
		if srv.State == fleet.Unreachable {
			up = 0
		}
		put(descServerUp, up, srv.Name, srv.Cluster)
		if up == 1 {
			put(descServerCPU, srv.CPU, srv.Name, srv.Cluster)
			put(descServerConns, float64(srv.Conns), srv.Name, srv.Cluster)
		}
	}
	for state, n := range states {
		put(descServers, float64(n), string(state))
	}
	for _, c := range snap.Consumers {
		put(descPending, float64(c.Pending), c.Account, c.Stream, c.Consumer)
		put(descAckPending, float64(c.AckPending), c.Account, c.Stream, c.Consumer)
		put(descRedelivered, float64(c.Redelivered), c.Account, c.Stream, c.Consumer)
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	var failed []error
	for _, rev := range s.Control.Splits() {
		put(descRevision, float64(rev.Number), rev.Split.Name)
		for _, t := range rev.Split.Targets {
			put(descWeight, float64(t.Weight), rev.Split.Name, t.Name)
		}
		one, err := s.splitScene(ctx, rev)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		for _, t := range one.targets {
			if !t.measured {
				continue
			}
			if !math.IsNaN(t.seen) {
				put(descSeen, t.seen, rev.Split.Name, t.Name)
			}
			put(descArrived, t.rate, rev.Split.Name, t.Name)
			put(descSamples, float64(t.obs.Samples), rev.Split.Name, t.Name)
			if t.obs.Mean > 0 {
				put(descAckMean, t.obs.Mean.Seconds(), rev.Split.Name, t.Name, strconv.FormatBool(t.obs.Estimated))
			}
			if t.obs.Latency.Count() > 0 {
				for _, q := range []float64{0.5, 0.95, 0.99} {
					put(descAck, t.obs.Latency.Quantile(q).Seconds(), rev.Split.Name, t.Name, strconv.FormatFloat(q, 'f', -1, 64))
				}
			}
		}
	}
	open := 0
	for _, p := range s.Control.Proposals("", 200) {
		if p.Status == traffic.Open {
			open++
		}
	}
	put(descProposals, float64(open))
	phases := map[traffic.Phase]int{}
	for _, c := range s.Control.Changes("", 1000) {
		phases[c.Phase]++
	}
	for phase, n := range phases {
		put(descChanges, float64(n), string(phase))
	}
	ready := 1.0
	if s.Control.Ready() != nil {
		ready = 0
	}
	put(descReady, ready)
	if err := errors.Join(failed...); err != nil {
		ch <- prometheus.NewInvalidMetric(descSeen, err)
	}
}
