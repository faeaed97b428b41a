package control

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/traffic"
)

// A console that waits for its bucket does not count as one whose requests fail.
func TestWaitingForTheBucketMakesNoErrors(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	c, _ := console2(t, Config{Conn: natstest.Connect(t, srv.ClientURL())})
	for range 20 {
		if kv, _, err := c.born(t.Context()); kv != nil || err != nil {
			t.Fatalf("born = %v, %v; want neither bucket nor error", kv, err)
		}
	}
	z, err := srv.Jsz(nil)
	if err != nil {
		t.Fatal(err)
	}
	if z.API.Total < 20 || z.API.Errors > 1 {
		t.Errorf("%d requests with %d errors, want 20 or more with at most one", z.API.Total, z.API.Errors)
	}
	if _, err := c.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: traffic.Bucket}); err != nil {
		t.Fatal(err)
	}
	if kv, _, err := c.born(t.Context()); kv == nil || err != nil {
		t.Errorf("born = %v, %v after the bucket was made; want it", kv, err)
	}
}
