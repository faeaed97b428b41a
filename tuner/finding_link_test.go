package tuner

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"ballast/collector"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// withoutJetStream is for servers that only pass messages on.
func withoutJetStream() natstest.Option {
	return natstest.Tweak(func(o *server.Options) { o.JetStream = false })
}

// attentive servers measure their round trips every two seconds, which is longer
// than any of them takes here, and do not take a link for dead when nothing
// passes over it for a while.
func attentive() natstest.Option {
	return natstest.Config("ping_interval: \"2s\"\nping_max: 1000\nwrite_deadline: \"10m\"\n")
}

// testMissingRoute has two servers of one cluster that do not know each other,
// until the second is told.
func testMissingRoute(t *testing.T) {
	text := func(name string) natstest.Option {
		return natstest.Config(fmt.Sprintf("server_name: %s\ncluster { name: c, listen: \"127.0.0.1:-1\" }\n", name))
	}
	var opts *server.Options
	a := natstest.Server(t, text("a"), withoutJetStream())
	b := natstest.Server(t, text("b"), withoutJetStream(), natstest.Tweak(func(o *server.Options) { opts = o }))
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(a), natstest.MonitorURL(b)}})
	r.fires("NET001", "a → b")

	told := opts.Clone()
	told.Routes = []*url.URL{{Scheme: "nats-route", Host: a.ClusterAddr().String()}}
	if err := b.ReloadOptions(told); err != nil {
		t.Fatalf("tell b of a: %v", err)
	}
	r.clears("NET001", "a → b")
}

// testSameName has two clusters with a server of the same name.
func testSameName(t *testing.T) {
	text := func(cluster string) natstest.Option {
		return natstest.Config(fmt.Sprintf("server_name: twin\ncluster { name: %s, listen: \"127.0.0.1:-1\" }\n", cluster))
	}
	a, b := natstest.Server(t, text("x"), withoutJetStream()), natstest.Server(t, text("y"), withoutJetStream())
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(a), natstest.MonitorURL(b)}})
	r.fires("SRV009", "twin")
	b.Shutdown()
	r.clears("SRV009", "twin")
}

// testLongRoutes has two servers with a long cable between them, over which for
// a while nothing passes.
func testLongRoutes(t *testing.T) {
	a := natstest.Server(t, natstest.Config("server_name: a\ncluster { name: c, listen: \"127.0.0.1:-1\" }\n"), attentive(), withoutJetStream())
	link := newCable(t, a.ClusterAddr().String())
	b := natstest.Server(t, natstest.Config(fmt.Sprintf("server_name: b\ncluster { name: c, listen: \"127.0.0.1:-1\", routes: [\"nats-route://%s\"] }\n", link.addr)), attentive(), withoutJetStream())
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(a), natstest.MonitorURL(b)}})
	wait.For(t, patience, "the route", func() bool { return a.NumRoutes() > 0 && b.NumRoutes() > 0 })

	link.delay.Store(int64(100 * time.Millisecond))
	r.fires("NET003", "a → b")
	link.delay.Store(0)
	r.clears("NET003", "a → b")

	sub := natstest.Connect(t, b.ClientURL())
	if _, err := sub.Subscribe("flood", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := sub.Flush(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, patience, "interest at a", func() bool {
		z, err := a.Routez(&server.RoutezOptions{Subscriptions: true})
		if err != nil {
			return false
		}
		for _, route := range z.Routes {
			for _, s := range route.Subs {
				if s == "flood" {
					return true
				}
			}
		}
		return false
	})
	link.hold()
	pub := natstest.Connect(t, a.ClientURL())
	for range 100 {
		if err := pub.Publish("flood", make([]byte, 384<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	r.fires("NET005", "a → b")
	link.release()
	r.clears("NET005", "a → b")
}

// testGateways has a cluster whose only neighbour is far away, and then gone.
func testGateways(t *testing.T) {
	var opts *server.Options
	b := natstest.Server(t, natstest.Config("server_name: b\ngateway { name: B, listen: \"127.0.0.1:-1\" }\n"), attentive(), withoutJetStream(),
		natstest.Tweak(func(o *server.Options) { opts = o }))
	port := b.GatewayAddr().Port
	link := newCable(t, b.GatewayAddr().String())
	a := natstest.Server(t, natstest.Config(fmt.Sprintf("server_name: a\ngateway { name: A, listen: \"127.0.0.1:-1\", gateways: [ { name: B, url: \"nats://%s\" } ] }\n", link.addr)), attentive(), withoutJetStream())
	again := opts.Clone()
	again.Gateway.Port = port
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(a)}})
	wait.For(t, patience, "the gateway", func() bool { return a.NumOutboundGateways() > 0 })
	link.delay.Store(int64(400 * time.Millisecond))
	r.fires("NET004", "a → B")
	link.delay.Store(0)
	r.clears("NET004", "a → B")

	b.Shutdown()
	b.WaitForShutdown()
	r.fires("NET002", "a → B")
	restarted, err := server.NewServer(again)
	if err != nil {
		t.Fatal(err)
	}
	restarted.Start()
	t.Cleanup(func() { restarted.Shutdown(); restarted.WaitForShutdown() })
	r.clears("NET002", "a → B")
}

// testLeafNodes has a leaf node that is far away, and one that leaves while it
// is.
func testLeafNodes(t *testing.T) {
	hub := natstest.Server(t, natstest.Config("server_name: hub\nleafnodes { listen: \"127.0.0.1:-1\" }\n"), attentive(), withoutJetStream())
	z, err := hub.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	link := newCable(t, fmt.Sprintf("127.0.0.1:%d", z.LeafNode.Port))
	// A hub does not ask a leaf node that asked it just now, so this one asks rarely.
	leaf := natstest.Server(t, natstest.Config(fmt.Sprintf("server_name: edge\nleafnodes { remotes: [ { url: \"nats-leaf://%s\" } ] }\n", link.addr)), withoutJetStream())
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(hub)}})
	wait.For(t, patience, "the leaf node", func() bool { return hub.NumLeafNodes() > 0 })
	link.delay.Store(int64(400 * time.Millisecond))
	r.fires("NET006", "hub → edge")
	link.delay.Store(0)
	r.clears("NET006", "hub → edge")
	link.delay.Store(int64(400 * time.Millisecond))
	r.fires("NET006", "hub → edge")
	leaf.Shutdown()
	r.clears("NET006", "hub → edge")
}
