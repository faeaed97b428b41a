package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/demo/bed"
	"ballast/internal/browser"
	"ballast/internal/wait"
)

// largePages are pages whose length or width grows with the system.
var largePages = []string{"/", "/topology", "/findings", "/servers", "/servers/bed-1", "/streams", "/streams?page=10", "/streams/APP/STREAM-0000", "/consumers", "/consumers?sort=-pending&page=100",
	"/consumers?q=STREAM-0000", "/connections", "/connections/sums", "/accounts", "/accounts/APP", "/services", "/splits", "/journal", "/reports", "/cost", "/export?kind=stream&key=APP%2FSTREAM-0000", "/find?q=STREAM-00"}

// TestLargePagesInABrowser looks at a server with 500 streams, 5,000 consumers
// and 2,000 connections: nothing is wider than the screen, the browser does not
// complain, and no page is of unbounded length. With BALLAST_SCREENSHOTS=DIR
// pictures are written there, in light and dark.
func TestLargePagesInABrowser(t *testing.T) {
	url, _ := watchLargeBed(t)
	pictures := os.Getenv("BALLAST_SCREENSHOTS")
	themes := []string{"light"}
	if pictures != "" {
		themes = append(themes, "dark")
	}
	for _, size := range []struct{ w, h int64 }{{1440, 900}, {390, 844}} {
		for _, theme := range themes {
			tab := browser.Open(t, size.w, size.h)
			for _, page := range largePages {
				tab.Go(url + page)
				browser.Eval[string](tab, fmt.Sprintf(`(document.documentElement.dataset.theme = %q)`, theme))
				tab.Wait("fonts", time.Minute, `document.fonts.status === 'loaded'`)
				if overflow := browser.Eval[float64](tab, `document.documentElement.scrollWidth - innerWidth`); overflow > 0 {
					t.Errorf("%s at %d px is %.0f px too wide", page, size.w, overflow)
				}
				if rows := browser.Eval[int](tab, `document.querySelectorAll('tbody tr').length`); rows > maxRows {
					t.Errorf("%s has %d rows at once, want at most %d", page, rows, maxRows)
				}
				if pictures != "" {
					tab.Wait("live data", time.Minute, `!document.body.innerText.includes('Connecting')`)
					name := strings.Trim(strings.NewReplacer("/", "-", "?", "-", "&", "-", "=", "-", "%2F", "-").Replace(page), "-")
					if name == "" {
						name = "overview"
					}
					tab.Screenshot(filepath.Join(pictures, fmt.Sprintf("large-%s-%d-%s.png", name, size.w, theme)))
				}
			}
			for _, c := range tab.Complaints() {
				t.Errorf("%d px, %s: the browser complains: %s", size.w, theme, c)
			}
		}
	}
}

// maxRows is how many rows a page may have: one page of a list, and the tables of
// a detail page beside it.
const maxRows = 160

// watchLargeBed raises the large bed and a console that has seen all of it.
func watchLargeBed(t *testing.T) (url string, b *bed.Bed) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err = bed.Start(t.Context(), bed.Config{
		Size: bed.Large, Dir: filepath.Join(dir, "bed"), Rate: 200,
		Server: func(config string) *exec.Cmd {
			cmd := exec.Command(exe, "bed-server", "-c", config)
			cmd.Env = append(os.Environ(), runAs+"=ballast")
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	worked := make(chan error, 1)
	go func() { worked <- b.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-worked; err != nil {
			t.Errorf("the bed's work ended with %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("close the bed: %v", err)
		}
	})
	p := startProcess(t, "ballast", nil, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "console"),
		"--nats", strings.Join(b.URLs, ","), "--user", b.AppUser.Name, "--password-file", b.AppUser.File,
		"--sys-user", b.SysUser.Name, "--sys-password-file", b.SysUser.File)
	url = p.url(t)
	t.Cleanup(func() {
		if code := p.end(t, syscall.SIGTERM, time.Minute); code != exitOK {
			t.Errorf("the console ended with code %d", code)
		}
	})
	wait.For(t, 2*time.Minute, "all of the bed on the pages", func() bool {
		code, body := tryGet(url + "/consumers.csv")
		return code == 200 && strings.Count(string(body), "\n") > 5000
	})
	return url, b
}
