// Package browser drives a real Chromium for tests: one process per test
// binary, a tab per test, and everything that the page complained about.
package browser

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// Tab is one page of the browser.
type Tab struct {
	tb  testing.TB
	ctx context.Context

	mu         sync.Mutex // guards complaints
	complaints []string
}

var shared struct {
	once sync.Once
	ctx  context.Context
	stop context.CancelFunc
	err  error
}

// executable finds Chromium. BALLAST_BROWSER names it; "required" makes a
// missing one a failure instead of a skip.
func executable() string {
	if path := os.Getenv("BALLAST_BROWSER"); path != "" && path != "required" {
		return path
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Main runs the tests and ends the browser; call it from TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.stop != nil {
		shared.stop()
	}
	return code
}

// Open returns a new tab of the given size in CSS pixels. Without a browser the
// test is skipped, unless BALLAST_BROWSER=required: then it fails.
func Open(tb testing.TB, width, height int64) *Tab {
	tb.Helper()
	path := executable()
	if path == "" {
		if os.Getenv("BALLAST_BROWSER") == "required" {
			tb.Fatal("BALLAST_BROWSER=required, and no Chromium was found: install Debian's package chromium")
		}
		tb.Skip("no Chromium was found; install Debian's package chromium, or set BALLAST_BROWSER to its path")
	}
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "ballast-browser-")
		if err != nil {
			shared.err = err
			return
		}
		alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
			chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(dir),
			chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
			chromedp.Flag("hide-scrollbars", true),
			// A click during a page's cross-fade would hit the fading picture.
			chromedp.Flag("force-prefers-reduced-motion", true),
		)...)
		ctx, stop := chromedp.NewContext(alloc)
		shared.ctx = ctx
		shared.stop = func() {
			stop()
			stopAlloc()
			// The browser's children may write for a moment after it ended.
			for deadline := time.Now().Add(10 * time.Second); os.RemoveAll(dir) != nil && time.Now().Before(deadline); {
				<-time.After(50 * time.Millisecond)
			}
		}
		shared.err = chromedp.Do(ctx)
	})
	if shared.err != nil {
		tb.Fatalf("start %s: %v", path, shared.err)
	}
	ctx, cancel := chromedp.NewContext(shared.ctx)
	tb.Cleanup(cancel)
	ctx, cancelTimeout := context.WithTimeout(ctx, 5*time.Minute)
	tb.Cleanup(cancelTimeout)
	t := &Tab{tb: tb, ctx: ctx}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, height)); err != nil {
		tb.Fatalf("open a tab: %v", err)
	}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			switch m.Type {
			case chromedp.ConsoleError, chromedp.ConsoleException, chromedp.ConsoleWarning:
				t.mu.Lock()
				t.complaints = append(t.complaints, string(m.Type)+": "+m.Text+" ("+m.URL+")")
				t.mu.Unlock()
			}
		}
	}()
	return t
}

// Complaints are the console's errors and warnings so far: scripts that threw,
// resources that did not load, CSP violations.
func (t *Tab) Complaints() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.complaints...)
}

// Do runs steps and fails the test when one fails.
func (t *Tab) Do(what string, steps ...chromedp.Action[chromedp.Void]) {
	t.tb.Helper()
	if err := chromedp.Do(t.ctx, steps...); err != nil {
		t.tb.Fatalf("%s: %v\n%s", what, err, t.state())
	}
}

// Scriptless switches the scripts of the pages off that are opened from now on.
// What a test evaluates itself still runs.
func (t *Tab) Scriptless() {
	t.tb.Helper()
	t.Do("switch scripts off", chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
}

// Go opens a URL.
func (t *Tab) Go(url string) {
	t.tb.Helper()
	t.Do("open "+url, chromedp.Navigate(url))
}

// Wait polls a JavaScript condition.
func (t *Tab) Wait(what string, timeout time.Duration, condition string) {
	t.tb.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// A page that is just being replaced answers with an error: ask again.
		if ok, err := chromedp.Run(t.ctx, chromedp.Evaluate[bool]("!!("+condition+")")); err == nil && ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.tb.Fatalf("after %v still waiting for %s\n%s", timeout, what, t.state())
		}
	}
}

// Text returns the text of the first element that matches.
func (t *Tab) Text(selector string) string {
	t.tb.Helper()
	return Eval[string](t, "(document.querySelector("+quote(selector)+")?.innerText ?? '')")
}

// Eval evaluates JavaScript.
func Eval[T any](t *Tab, expression string) T {
	t.tb.Helper()
	v, err := chromedp.Run(t.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.tb.Fatalf("evaluate %s: %v", expression, err)
	}
	return v
}

// Await evaluates JavaScript that yields a promise.
func Await[T any](t *Tab, expression string) T {
	t.tb.Helper()
	v, err := chromedp.Run(t.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		t.tb.Fatalf("evaluate %s: %v", expression, err)
	}
	return v
}

// Screenshot writes the whole page to a PNG file.
func (t *Tab) Screenshot(file string) {
	t.tb.Helper()
	png, err := chromedp.Run(t.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, png, 0o644)
	}
	if err != nil {
		t.tb.Fatalf("screenshot %s: %v", file, err)
	}
}

func (t *Tab) state() string {
	url, _ := chromedp.Run(t.ctx, chromedp.Location())
	text, _ := chromedp.Run(t.ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText.slice(0, 1500) : ''"))
	return "page " + url + "\n" + text + "\nconsole: " + strings.Join(t.Complaints(), "\n")
}

func quote(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }

// Click clicks the first element that matches, once it can be seen.
func Click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible)
}

// Set puts a value into a form field as a person who types it would.
func Set(selector, value string) chromedp.Action[chromedp.Void] {
	return chromedp.Steps(chromedp.SetValue(chromedp.CSS(selector), value))
}
