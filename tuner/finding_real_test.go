package tuner

import (
	"sync/atomic"
	"testing"
)

// realServerTests make checks fire and clear on real servers. They are one
// table, so that what they showed can be counted when all of them ran.
var realServerTests = map[string]func(*testing.T){
	"clients":            testClients,
	"one server":         testOneServer,
	"busy server":        testBusyServer,
	"refused clients":    testRefusedClients,
	"cluster":            testCluster,
	"missing route":      testMissingRoute,
	"same name":          testSameName,
	"long routes":        testLongRoutes,
	"gateways":           testGateways,
	"leaf nodes":         testLeafNodes,
	"storage":            testStorage,
	"streams":            testStreams,
	"consumers":          testConsumers,
	"forgotten":          testForgotten,
	"owners' streams":    testOwnersStreams,
	"owners' consumers":  testOwnersConsumers,
	"splits":             testSplits,
	"services":           testServices,
	"plain queue groups": testQueueGroups,
	"forged samples":     testForgedSamples,
	"replication":        testReplication,
}

// syntheticOnly are the checks that no real server was made to fail: tables of
// single looks show them, and docs/findings.md says so.
var syntheticOnly = map[string]string{}

// TestChecksOnRealServers runs them all. Every check must have fired and cleared
// then, or be named among those that only synthetic looks show.
func TestChecksOnRealServers(t *testing.T) {
	var ran atomic.Int32
	t.Run("all", func(t *testing.T) {
		for name, run := range realServerTests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t)
				ran.Add(1)
			})
		}
	})
	if int(ran.Load()) != len(realServerTests) {
		t.Logf("only %d of %d tests ran to their end: what they show was not counted", ran.Load(), len(realServerTests))
		return
	}
	for _, c := range Checks() {
		why := syntheticOnly[c.Code]
		switch has := shown.has(c.Code); {
		case !has && why == "":
			t.Errorf("no real server made %s (%s) fire and clear", c.Code, c.Title)
		case has && why != "":
			t.Errorf("%s is named as shown by synthetic looks only, and a real server shows it", c.Code)
		}
	}
	for _, key := range ownersKeys {
		if !ownersShown.has(key) {
			t.Errorf("no real server made io.nats.monitor.%s fire and clear", key)
		}
	}
}
