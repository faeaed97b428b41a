package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/wait"
)

func TestServerHasJetStreamAndMonitoring(t *testing.T) {
	t.Parallel()
	srv := Server(t)
	js, err := jetstream.New(Connect(t, srv.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatalf("create stream: %v", err)
	}
	if !healthy(MonitorURL(srv)) {
		t.Errorf("%s/healthz is not 200", MonitorURL(srv))
	}
}

func TestServerWithAccounts(t *testing.T) {
	t.Parallel()
	srv := Server(t, Accounts())
	if _, err := nats.Connect(srv.ClientURL()); err == nil {
		t.Error("connected without a user")
	}
	sys := Connect(t, srv.ClientURL(), nats.UserInfo(SysUser, SysPassword))
	if _, err := sys.Request("$SYS.REQ.SERVER.PING", nil, 5*time.Second); err != nil {
		t.Errorf("system account request: %v", err)
	}
	js, err := jetstream.New(Connect(t, srv.ClientURL(), nats.UserInfo(AppUser, AppPassword)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AccountInfo(t.Context()); err != nil {
		t.Errorf("JetStream of account APP: %v", err)
	}
}

func TestClusterSurvivesAKilledServer(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 3)
	js, err := jetstream.New(c.App(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3})
	if err != nil {
		t.Fatalf("create stream: %v", err)
	}
	old := c.StreamLeader("S")
	c.Kill(old)
	wait.For(t, 30*time.Second, "another stream leader", func() bool { l := c.StreamLeader("S"); return l >= 0 && l != old })
	wait.For(t, 30*time.Second, "a publish", func() bool { _, err := js.Publish(t.Context(), "s", nil); return err == nil })
	c.Restart(old)
	c.WaitReady()
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Errorf("publish after the restart: %v", err)
	}
}
