package tuner

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ballast/collector"
	"ballast/internal/natstest"
)

// TestMissingRouteOnRealServers has two servers of one cluster that do not know
// each other, until the second is told.
func TestMissingRouteOnRealServers(t *testing.T) {
	t.Parallel()
	text := func(name string) natstest.Option {
		return natstest.Config(fmt.Sprintf("server_name: %s\ncluster { name: c, listen: \"127.0.0.1:-1\" }\n", name))
	}
	plain := natstest.Tweak(func(o *server.Options) { o.JetStream = false })
	var opts *server.Options
	a := natstest.Server(t, text("a"), plain)
	b := natstest.Server(t, text("b"), plain, natstest.Tweak(func(o *server.Options) { opts = o }))
	l, _ := collect(t, collector.Config{Monitor: []string{natstest.MonitorURL(a), natstest.MonitorURL(b)}})
	f := NewFindings(FindingsConfig{})
	fires(t, f, l, "NET001", "a → b")

	told := opts.Clone()
	told.Routes = []*url.URL{{Scheme: "nats-route", Host: a.ClusterAddr().String()}}
	if err := b.ReloadOptions(told); err != nil {
		t.Fatalf("tell b of a: %v", err)
	}
	clears(t, f, l, "NET001", "a → b")
}

// TestSameNameOnRealServers has two clusters with a server of the same name.
func TestSameNameOnRealServers(t *testing.T) {
	t.Parallel()
	text := func(cluster string) natstest.Option {
		return natstest.Config(fmt.Sprintf("server_name: twin\ncluster { name: %s, listen: \"127.0.0.1:-1\" }\n", cluster))
	}
	plain := natstest.Tweak(func(o *server.Options) { o.JetStream = false })
	a, b := natstest.Server(t, text("x"), plain), natstest.Server(t, text("y"), plain)
	l, _ := collect(t, collector.Config{Monitor: []string{natstest.MonitorURL(a), natstest.MonitorURL(b)}})
	f := NewFindings(FindingsConfig{})
	fires(t, f, l, "SRV009", "twin")
	b.Shutdown()
	clears(t, f, l, "SRV009", "twin")
}

// TestGatewayChecksOnRealServers has a cluster that loses its only neighbour.
func TestGatewayChecksOnRealServers(t *testing.T) {
	t.Parallel()
	plain := natstest.Tweak(func(o *server.Options) { o.JetStream = false })
	var opts *server.Options
	b := natstest.Server(t, natstest.Config("server_name: b\ngateway { name: B, listen: \"127.0.0.1:-1\" }\n"), plain,
		natstest.Tweak(func(o *server.Options) { opts = o }))
	port := b.GatewayAddr().Port
	a := natstest.Server(t, natstest.Config(fmt.Sprintf("server_name: a\ngateway { name: A, listen: \"127.0.0.1:-1\", gateways: [ { name: B, url: \"nats://127.0.0.1:%d\" } ] }\n", port)), plain)
	again := opts.Clone()
	again.Gateway.Port = port
	l, _ := collect(t, collector.Config{Monitor: []string{natstest.MonitorURL(a)}})
	slow := FindingsConfig{}
	slow.Limits.GatewayRTT = time.Nanosecond
	f := NewFindings(slow)
	fires(t, f, l, "NET004", "a → B")
	f2 := handOver(f, FindingsConfig{})
	clears(t, f2, l, "NET004", "a → B")

	b.Shutdown()
	b.WaitForShutdown()
	fires(t, f2, l, "NET002", "a → B")
	restarted, err := server.NewServer(again)
	if err != nil {
		t.Fatal(err)
	}
	restarted.Start()
	t.Cleanup(func() { restarted.Shutdown(); restarted.WaitForShutdown() })
	clears(t, f2, l, "NET002", "a → B")
}
