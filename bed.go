package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"ballast/demo/bed"
)

// runBed raises a bed, says how to watch it, and keeps it until ctx ends. Its
// servers are this program again, as "ballast bed-server".
func runBed(ctx context.Context, c bedCmd, log *slog.Logger, stdout io.Writer) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	dir := c.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "ballast-bed-"); err != nil {
			return fmt.Errorf("make a temporary directory: %w", err)
		}
		// Close removes it, but keeps what others put there; this is for a start
		// that came not that far.
		defer os.Remove(dir)
	}
	// A second signal ends other commands at once. Here it would leave files
	// behind, and timeout(1) sends two; clearing up takes a moment only.
	deaf := make(chan os.Signal, 1)
	signal.Notify(deaf, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(deaf)
	fmt.Fprintf(stdout, "Raising bed %s in %s ...\n", c.Size, dir)
	b, err := bed.Start(ctx, bed.Config{
		Size: bed.Size(c.Size), Dir: dir, Rate: c.Rate, Churn: c.Churn, Profile: c.Profile, Log: log,
		Server: func(config string) *exec.Cmd { return exec.Command(exe, "bed-server", "-c", config) },
	})
	if err != nil {
		return fmt.Errorf("raise the bed: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, s := range b.Servers {
		fmt.Fprintf(stdout, "  %-8s pid %-7d %s  %s\n", s.Name, s.PID, s.URL, s.MonitorURL)
		if s.ProfileURL != "" {
			fmt.Fprintf(stdout, "           go tool pprof %sprofile\n", s.ProfileURL)
		}
	}
	fmt.Fprintf(stdout, "%d streams, %d consumers, %d connections; %g messages/s, %g ephemeral consumers/s\n",
		b.Streams, b.Consumers, b.Connections, c.Rate, c.Churn)
	fmt.Fprintf(stdout, "Watch it:\n  %s\nStop it with ctrl-C.\n", watchCommand(exe, dir, b))
	return b.Run(ctx)
}

// watchCommand is the command line of a console for this bed. Its data stays
// when the bed is gone.
func watchCommand(exe, dir string, b *bed.Bed) string {
	args := []string{
		exe, "serve",
		"--nats", strings.Join(b.URLs, ","),
		"--user", b.AppUser.Name, "--password-file", b.AppUser.File,
		"--sys-user", b.SysUser.Name, "--sys-password-file", b.SysUser.File,
		"--monitor", b.MonitorURLs[0],
		"--data", filepath.Join(dir, "console"),
	}
	for i, a := range args {
		args[i] = shellQuoted(a)
	}
	return strings.Join(args, " ")
}

// shellQuoted leaves plain words as they are.
func shellQuoted(s string) string {
	special := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,=", r)
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
