package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/internal/wait"
)

var watchLine = regexp.MustCompile(`(?m)^  \S+ (serve .*)$`)

// A newcomer copies the printed line and sees the bed; ctrl-C removes it.
func TestBedPrintsHowToWatchIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bed")
	p := startProcess(t, "ballast", nil, "bed", "--size", "S", "--dir", dir, "--rate", "50")
	var line []string
	wait.For(t, time.Minute, "the command line", func() bool {
		line = watchLine.FindStringSubmatch(p.out.String())
		return line != nil
	})
	console := startProcess(t, "ballast", nil, append(strings.Fields(line[1]), "--listen", "127.0.0.1:0")...)
	url := console.url(t)
	wait.For(t, time.Minute, "the bed's consumers on the console", func() bool {
		_, body := tryGet(url + "/consumers.json")
		return bytes.Contains(body, []byte(`STREAM-0000`))
	})
	console.end(t, syscall.SIGTERM, 30*time.Second)
	// Twice, as timeout(1) and impatient people do.
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t, syscall.SIGINT, 30*time.Second); code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "console" {
		t.Errorf("%v (%v) is left, want nothing but the console's data", left, err)
	}
}

func TestBedCommandsAreHidden(t *testing.T) {
	var out bytes.Buffer
	run(t.Context(), []string{"--help"}, &out, &out)
	if strings.Contains(out.String(), "bed") || !strings.Contains(out.String(), "serve") {
		t.Errorf("help says:\n%s", out.String())
	}
}

func TestShellQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"/tmp/a-b_c": "/tmp/a-b_c", "": "''", "a b": "'a b'", "it's $(x)": `'it'\''s $(x)'`,
	} {
		if got := shellQuoted(in); got != want {
			t.Errorf("shellQuoted(%q) = %s, want %s", in, got, want)
		}
	}
}
