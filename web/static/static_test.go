package static

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// The vendored files are what was reviewed: every one is in SHA256SUMS, and is so.
func TestVendoredFilesMatchTheirSums(t *testing.T) {
	t.Parallel()
	sums := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(Text("vendor/SHA256SUMS")))
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			t.Fatalf("SHA256SUMS has the line %q", lines.Text())
		}
		sums[name] = sum
	}
	entries, err := fs.ReadDir(files, "vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "SHA256SUMS" {
			continue
		}
		sum := sha256.Sum256(must("vendor/" + e.Name()))
		if got := hex.EncodeToString(sum[:]); got != sums[e.Name()] {
			t.Errorf("%s has the sum %s, SHA256SUMS says %q", e.Name(), got, sums[e.Name()])
		}
		delete(sums, e.Name())
	}
	for name := range sums {
		t.Errorf("%s is in SHA256SUMS and not in vendor", name)
	}
}

func TestEveryVendoredLibraryHasItsLicence(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"htmx", "uPlot", "inter", "jetbrains-mono"} {
		if len(Text("vendor/"+name+".LICENSE")) < 200 {
			t.Errorf("%s has no licence", name)
		}
	}
}

func TestAssetsAreServedForEverAndCompressed(t *testing.T) {
	t.Parallel()
	h := Handler()
	for _, name := range []string{"app.css", "app.js", "htmx.js", "uplot.js", "icon.svg", "inter.woff2", "mono.woff2"} {
		r := httptest.NewRequest("GET", URL(name), nil)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || w.Header().Get("Content-Type") == "" {
			t.Errorf("%s = %d %v", name, w.Code, w.Header())
		}
		plain := httptest.NewRecorder()
		h.ServeHTTP(plain, httptest.NewRequest("GET", URL(name), nil))
		if w.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(z)
			if err != nil || string(body) != plain.Body.String() {
				t.Errorf("%s unpacks to something else: %v", name, err)
			}
		} else if strings.HasSuffix(name, ".js") || strings.HasSuffix(name, ".css") {
			t.Errorf("%s is not compressed", name)
		}
	}
	for _, p := range []string{"/static/app.css", "/static/", "/static/../static.go", "/static/vendor/SHA256SUMS", "/static/app.000000000000.css"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", p, nil))
		if w.Code != 404 {
			t.Errorf("%s = %d, want 404", p, w.Code)
		}
	}
}

// What app.css names must be there, and come from us.
func TestStyleSheetLoadsOnlyOurFiles(t *testing.T) {
	t.Parallel()
	css := string(load().byName["app.css"].body)
	for _, m := range regexp.MustCompile(`url\(([^)]*)\)`).FindAllStringSubmatch(css, -1) {
		if load().byURL[m[1]] == nil {
			t.Errorf("app.css loads %s", m[1])
		}
	}
	if strings.Contains(css, "@import") {
		t.Error("app.css imports another style sheet")
	}
	if open, shut := strings.Count(css, "{"), strings.Count(css, "}"); open != shut {
		t.Errorf("app.css has %d opening and %d closing braces", open, shut)
	}
	for _, token := range regexp.MustCompile(`var\((--[a-z0-9-]+)\)`).FindAllStringSubmatch(css, -1) {
		if !strings.Contains(css, token[1]+":") {
			t.Errorf("app.css uses %s, which is nowhere set", token[1])
		}
	}
}

// Islands must run under the content security policy.
func TestIslandsUseNothingThatThePolicyForbids(t *testing.T) {
	t.Parallel()
	for _, f := range ordered("js", jsOrder) {
		js := Text(f)
		for _, bad := range []string{"eval(", "new Function", ".innerHTML", ".outerHTML", "insertAdjacentHTML", "document.write", "setAttribute('style'", `setAttribute("style"`, "setTimeout('"} {
			if strings.Contains(js, bad) {
				t.Errorf("%s uses %s", f, bad)
			}
		}
	}
}

// The weight of a first visit is promised: fonts, scripts and styles together
// leave room for the page itself within 200 KB.
func TestFirstVisitIsLight(t *testing.T) {
	t.Parallel()
	total := 0
	for name, a := range load().byName {
		n := len(a.body)
		if a.gz != nil {
			n = len(a.gz)
		}
		t.Logf("%-12s %6d bytes on the wire", name, n)
		total += n
	}
	if total > 170<<10 {
		t.Errorf("all assets have %d bytes on the wire, want at most 170 KiB", total)
	}
}
