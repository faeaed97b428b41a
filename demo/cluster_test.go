package demo

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"ballast/internal/wait"
)

// goroutines lists the running goroutines by the function that started them.
func goroutines() map[string]int {
	buf := make([]byte, 4<<20)
	count := map[string]int{}
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		lines := strings.Split(strings.TrimSpace(g), "\n")
		count[lines[len(lines)-2]]++
	}
	return count
}

func TestClusterForms(t *testing.T) {
	start := time.Now()
	dir := t.TempDir()
	d, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	select {
	case <-d.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	t.Log("ready", time.Since(start))
	start = time.Now()
	if err := d.KillServer("nats-2"); err != nil {
		t.Fatal(err)
	}
	t.Log("killed", time.Since(start))
	start = time.Now()
	if err := d.RestartServer("nats-2"); err != nil {
		t.Fatal(err)
	}
	t.Log("restarted", time.Since(start))
	start = time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Log("stopped", time.Since(start))
	wait.For(t, 5*time.Second, "goroutines", func() bool { return len(goroutines()) < 4 })
}
