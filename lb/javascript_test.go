package lb_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/internal/natstest"
	"ballast/internal/wait"
)

const examples = "../docs/examples/js"

// javascript returns a folder with the example and what it needs installed. A
// machine without Node.js skips the test, unless BALLAST_NODE=required says that
// it must not.
func javascript(tb testing.TB) string {
	tb.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		if os.Getenv("BALLAST_NODE") == "required" {
			tb.Fatal("npm is not installed")
		}
		tb.Skip("npm is not installed")
	}
	dir := tb.TempDir()
	if err := os.CopyFS(dir, os.DirFS(examples)); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// The example in another language agrees with this one on every vector of the
// contract.
func TestJavaScriptPassesTheVectors(t *testing.T) {
	t.Parallel()
	vectors, err := filepath.Abs("../docs/contracts/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "conformance.mjs", vectors)
	cmd.Dir = javascript(t)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), ", 0 wrong") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// It follows a split on a real server: what it publishes arrives, divided by the
// revision in force; a bad document changes nothing.
func TestJavaScriptFollowsASplit(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	put(t, kv, revision(1, 1, splitOf(weights{"east": 60, "west": 30, "backup": 10})))
	arrived := make(chan *nats.Msg, 10_000)
	if _, err := nc.ChanSubscribe("orders.process.*", arrived); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	cmd := exec.CommandContext(t.Context(), "node", "publisher.mjs", srv.ClientURL(), "orders")
	cmd.Dir = javascript(t)
	book := &logBook{}
	cmd.Stderr = book
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	share := func(want weights) {
		t.Helper()
		sent := map[string]int{}
		if _, err := io.WriteString(in, strings.Repeat("order\n", 1000)); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			if !lines.Scan() {
				t.Fatalf("it ended: %v %s", lines.Err(), book.text())
			}
			sent[lines.Text()]++
		}
		for name, w := range want {
			if off := sent[name] - 10*w; off < -5 || off > 5 {
				t.Errorf("%s got %d of 1,000 messages, its weight is %d", name, sent[name], w)
			}
		}
		for range 1000 {
			select {
			case m := <-arrived:
				sent[strings.TrimPrefix(m.Subject, "orders.process.")]--
			case <-time.After(30 * time.Second):
				t.Fatal("a message did not arrive")
			}
		}
		for name, left := range sent {
			if left != 0 {
				t.Errorf("%s: %d messages more were said to be sent than arrived", name, left)
			}
		}
	}
	share(weights{"east": 60, "west": 30, "backup": 10})
	put(t, kv, revision(1, 2, splitOf(weights{"east": 10, "west": 90})))
	wait.For(t, 30*time.Second, "revision 2", func() bool { return book.count("revision 2 is in force") == 1 })
	share(weights{"east": 10, "west": 90})
	putRaw(t, kv, []byte(`{"v":1}`))
	wait.For(t, 30*time.Second, "the refusal", func() bool { return book.count("refused") == 1 })
	put(t, kv, revision(1, 1, splitOf(weights{"east": 100}))) // older
	wait.For(t, 30*time.Second, "the second refusal", func() bool { return book.count("refused") == 2 })
	share(weights{"east": 10, "west": 90})
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v: %s", err, book.text())
	}
}
