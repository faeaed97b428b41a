package handlers

import (
	"flag"

	"ballast/internal/fleettest"
)

var fleetSize = flag.Int("servers", 0, "with -serve: show a system of so many servers")

// grow puts the fixture's streams and consumers onto a system of n servers,
// with some that are not well.
func (w *world) grow(n int) {
	big, rates := fleettest.System(n, w.snap.TakenAt)
	big.Streams, big.Consumers, big.Accounts, big.Conns = w.snap.Streams, w.snap.Consumers, w.snap.Accounts, w.snap.Conns
	rates.Streams, rates.Consumers = w.rates.Streams, w.rates.Consumers
	place := map[string]string{}
	for i, name := range []string{"n1", "n2", "n3"} {
		place[name] = big.Servers[i*(n-1)/2].Name
	}
	for i := range big.Streams {
		big.Streams[i].Leader = place[big.Streams[i].Leader]
	}
	for i := range big.Consumers {
		big.Consumers[i].Leader = place[big.Consumers[i].Leader]
	}
	w.snap, w.rates = big, rates
}
