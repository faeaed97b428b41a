// Command ballast is an operations console for load balancing on NATS: it
// measures how traffic is divided over targets, suggests better weights, and
// applies them safely. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"ballast/demo/bed"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // something went wrong while running
	exitUsage = 2 // the flags are wrong; nothing was started
)

// version is set by the release build: -ldflags "-X main.version=v1.2.3".
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	code, exited := exitOK, false
	c, parsed, err := parse(args, stdout, stderr, func(n int) { code, exited = n, true })
	if exited { // --help
		return code
	}
	if err != nil {
		fmt.Fprintf(stderr, "ballast: %v\nTry 'ballast --help'.\n", err)
		return exitUsage
	}
	log := slog.New(newLogHandler(stderr, c.LogFormat, c.LogLevel))
	switch parsed.Command() {
	case "serve":
		sparing()
		err = serve(ctx, c.Serve, log, stdout)
	case "demo":
		err = runDemo(ctx, c.Demo, log, stdout)
	case "health":
		err = health(ctx, c.Health.Listen)
	case "version":
		fmt.Fprintln(stdout, "ballast", versionText())
	case "bed":
		err = runBed(ctx, c.Bed, log, stdout)
	case "bed-server":
		err = bed.ServerMain(c.BedServer.File)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(stderr, "ballast: %v\n", err)
		return exitError
	}
	return exitOK
}

// sparing trades processor time, of which a console needs little, for memory:
// what a look brings is garbage soon.
func sparing() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

func newLogHandler(w io.Writer, format string, level slog.Level) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// versionText is the release's version, or what the build knows of its commit.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

// health fails unless the console at addr answers that it is up.
func health(ctx context.Context, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the console: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the console answers %s", resp.Status)
	}
	return nil
}
