package main

import (
	"bytes"
	"syscall"
	"testing"
	"time"

	"ballast/internal/wait"
)

// A console collects its garbage more often than a Go program does by itself,
// unless whoever starts it says how often.
func TestServeSparesMemory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ env, want string }{
		{"GOGC=", "go_gc_gogc_percent 50"},
		{"GOGC=83", "go_gc_gogc_percent 83"},
	} {
		p := startProcess(t, "ballast", []string{c.env}, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--monitor", "http://127.0.0.1:1")
		url := p.url(t)
		var body []byte
		wait.For(t, time.Minute, "the console's figures of itself", func() bool {
			_, body = tryGet(url + "/metrics")
			return bytes.Contains(body, []byte("go_gc_gogc_percent "))
		})
		if !bytes.Contains(body, []byte("\n"+c.want+"\n")) {
			at := bytes.Index(body, []byte("\ngo_gc_gogc_percent "))
			t.Errorf("with %q it says %q, want %q", c.env, bytes.TrimSpace(body[at:at+30]), c.want)
		}
		if code := p.end(t, syscall.SIGTERM, time.Minute); code != exitOK {
			t.Errorf("exit code %d", code)
		}
	}
}
