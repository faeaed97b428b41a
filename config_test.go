package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func parseServe(t *testing.T, args ...string) (serveCmd, error) {
	t.Helper()
	c, _, err := parse(append([]string{"serve"}, args...), &bytes.Buffer{}, &bytes.Buffer{}, func(code int) { t.Errorf("exit %d", code) })
	if c == nil {
		return serveCmd{}, err
	}
	return c.Serve, err
}

func TestFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ballast.yaml")
	text := "listen: 127.0.0.1:1111\ninterval: 7s\nnats: [nats://a:4222, nats://b:4222]\nread-only: true\nbake: 30s\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BALLAST_CONFIG", file)
	t.Setenv("BALLAST_LISTEN", "127.0.0.1:2222")
	t.Setenv("BALLAST_INTERVAL", "3s")

	c, err := parseServe(t, "--interval", "2s")
	if err != nil {
		t.Fatal(err)
	}
	if c.Interval != 2*time.Second || c.Listen != "127.0.0.1:2222" || c.Bake != 30*time.Second || !c.ReadOnly {
		t.Errorf("interval %v, listen %s, bake %v, read-only %v; want 2s (flag), 127.0.0.1:2222 (environment), 30s and true (file)",
			c.Interval, c.Listen, c.Bake, c.ReadOnly)
	}
	if want := []string{"nats://a:4222", "nats://b:4222"}; !slices.Equal(c.NATS, want) {
		t.Errorf("nats = %v, want %v", c.NATS, want)
	}
}

func TestEveryFlagIsAnEnvironmentVariable(t *testing.T) {
	t.Setenv("BALLAST_SYS_USER", "sys")
	t.Setenv("BALLAST_SYS_PASSWORD_FILE", os.DevNull)
	t.Setenv("BALLAST_NATS", "nats://a:1,nats://b:2")
	c, err := parseServe(t)
	if err != nil {
		t.Fatal(err)
	}
	if c.SysUser != "sys" || c.SysPasswordFile != os.DevNull || len(c.NATS) != 2 {
		t.Errorf("sys-user %q, sys-password-file %q, nats %q", c.SysUser, c.SysPasswordFile, c.NATS)
	}
}

func TestMistakesAreReportedTogether(t *testing.T) {
	_, err := parseServe(t, "--user", "me", "--tls-cert", os.DevNull, "--interval", "1ms", "--creds", "/does/not/exist")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"--password-file", "--tls-key", "--interval", "/does/not/exist"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message does not name %s: %v", want, err)
		}
	}
}

func TestUnknownKeyInTheFileIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ballast.yaml")
	if err := os.WriteFile(file, []byte("listne: 127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parseServe(t, "--config", file); err == nil || !strings.Contains(err.Error(), `"listne"`) {
		t.Errorf("error %v, want one that names the key", err)
	}
}

func TestListenIsLoopbackUnlessAllowed(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:8080": true, "[::1]:0": true, "localhost:80": true,
		"0.0.0.0:8080": false, ":8080": false, "192.168.1.1:80": false, "example.org:80": false,
	} {
		if _, err := parseServe(t, "--listen", addr); (err == nil) != ok {
			t.Errorf("--listen %s: error %v, want accepted %v", addr, err, ok)
		}
		if _, err := parseServe(t, "--allow-remote", "--listen", addr); err != nil {
			t.Errorf("--allow-remote --listen %s: %v", addr, err)
		}
	}
}

func TestDefaultsWatchTheLocalServer(t *testing.T) {
	c, err := parseServe(t)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.NATS, []string{"nats://127.0.0.1:4222"}) || !slices.Equal(c.Monitor, []string{"http://127.0.0.1:8222"}) {
		t.Errorf("nats %v, monitor %v", c.NATS, c.Monitor)
	}
	if c, err = parseServe(t, "--monitor", "http://10.0.0.1:8222"); err != nil || c.NATS != nil {
		t.Errorf("with --monitor alone: nats %v, error %v; want none: watching needs no account", c.NATS, err)
	}
}

func TestExitCodes(t *testing.T) {
	run := func(args ...string) (int, string) {
		var out, errs lockedBuffer // a connection that is given up may still log
		code := run(context.Background(), args, &out, &errs)
		return code, out.String() + errs.String()
	}
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"version"}, exitOK, "ballast "},
		{[]string{"serve", "--help"}, exitOK, "--sys-creds"},
		{[]string{"serve", "--no-such-flag"}, exitUsage, "unknown flag"},
		{[]string{"serve", "--listen", "0.0.0.0:1"}, exitUsage, "--allow-remote"},
		{[]string{}, exitUsage, "expected one of"},
		{[]string{"demo", "--servers", "2"}, exitUsage, "1, 3 or 5"},
		{[]string{"serve", "--data", "/dev/null/x", "--listen", "127.0.0.1:0"}, exitError, "/dev/null/x"},
		{[]string{"health", "--listen", "127.0.0.1:1"}, exitError, "ask the console"},
	} {
		if code, out := run(tc.args...); code != tc.code || !strings.Contains(out, tc.says) {
			t.Errorf("ballast %s: exit %d, said %.300q; want exit %d and %q", strings.Join(tc.args, " "), code, out, tc.code, tc.says)
		}
	}
}
