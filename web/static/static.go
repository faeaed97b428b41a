// Package static holds the console's style sheets, scripts and fonts and serves
// them. Its files are embedded, joined and compressed once; each has the hash of
// its content in its name, so that a browser may keep it for ever. It never reads
// the disk and never serves a name that it did not make itself.
package static

//go:generate sh fetch.sh

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
)

//go:embed vendor css js icon.svg
var files embed.FS

// Prefix is the path under which Handler answers.
const Prefix = "/static/"

// cssOrder and jsOrder are the files whose place matters; all others follow by name.
var (
	cssOrder = []string{"tokens.css", "base.css", "layout.css", "parts.css"}
	jsOrder  = []string{"live.js", "theme.js"}
)

// apart are style sheets that are not part of app.css: a downloaded report carries its own.
var apart = []string{"report.css"}

type asset struct {
	url         string
	contentType string
	body, gz    []byte // gz is nil when it would not be smaller
}

type bundle struct {
	byName map[string]*asset // "app.css"
	byURL  map[string]*asset
}

var load = sync.OnceValue(func() *bundle {
	b := &bundle{map[string]*asset{}, map[string]*asset{}}
	b.add("inter.woff2", "font/woff2", must("vendor/inter-latin-wght-normal.woff2"))
	b.add("mono.woff2", "font/woff2", must("vendor/jetbrains-mono-latin-wght-normal.woff2"))
	b.add("icon.svg", "image/svg+xml", must("icon.svg"))
	b.add("htmx.js", "text/javascript; charset=utf-8", join("vendor/htmx.min.js", "vendor/hx-sse.min.js"))
	b.add("uplot.js", "text/javascript; charset=utf-8", join("vendor/uPlot.iife.min.js"))
	b.add("app.js", "text/javascript; charset=utf-8", join(ordered("js", jsOrder)...))
	// A rule outside of any layer would win over all of ours.
	css := append([]byte("@layer vendor{"), must("vendor/uPlot.min.css")...)
	css = append(css, "}\n"...)
	// The order of the layers is declared before the first of them is used.
	css = append([]byte("@layer vendor, tokens, base, layout, parts, pages, small, print;\n"), css...)
	css = append(css, join(ordered("css", cssOrder)...)...)
	css = bytes.ReplaceAll(css, []byte("url(inter.woff2)"), []byte("url("+b.byName["inter.woff2"].url+")"))
	css = bytes.ReplaceAll(css, []byte("url(mono.woff2)"), []byte("url("+b.byName["mono.woff2"].url+")"))
	b.add("app.css", "text/css; charset=utf-8", css)
	return b
})

// URL returns the path of an asset: app.css, app.js, htmx.js, uplot.js,
// icon.svg, inter.woff2, mono.woff2. An unknown name is a defect and panics.
func URL(name string) string {
	a, ok := load().byName[name]
	if !ok {
		panic("static: no asset " + name)
	}
	return a.url
}

// Text returns an embedded file as it is, for what must carry its own style
// ("css/report.css"). An unknown name is a defect and panics.
func Text(name string) string { return string(must(name)) }

// Build identifies the assets: a page of another build should be loaded anew.
func Build() string {
	b := load()
	names := make([]string, 0, len(b.byURL))
	for u := range b.byURL {
		names = append(names, u)
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(names, "\n")))
	return hex.EncodeToString(sum[:4])
}

// Handler serves the assets under Prefix.
func Handler() http.Handler {
	b := load()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := b.byURL[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", a.contentType)
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Add("Vary", "Accept-Encoding")
		body := a.body
		if a.gz != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			body = a.gz
		}
		h.Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body)
	})
}

func (b *bundle) add(name, contentType string, body []byte) {
	sum := sha256.Sum256(body)
	ext := path.Ext(name)
	a := &asset{
		url:         Prefix + strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext,
		contentType: contentType,
		body:        body,
	}
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression)
	w.Write(body)
	w.Close()
	if z.Len() < len(body)*9/10 {
		a.gz = z.Bytes()
	}
	b.byName[name] = a
	b.byURL[a.url] = a
}

// ordered lists the files of a folder: first the named ones, then the rest.
func ordered(dir string, first []string) []string {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		panic("static: " + err.Error())
	}
	var names []string
	for _, n := range first {
		names = append(names, path.Join(dir, n))
	}
	for _, e := range entries {
		if !slices.Contains(first, e.Name()) && !slices.Contains(apart, e.Name()) {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	return names
}

func join(names ...string) []byte {
	var out []byte
	for _, n := range names {
		out = append(out, must(n)...)
		out = append(out, '\n')
	}
	return out
}

func must(name string) []byte {
	body, err := files.ReadFile(name)
	if err != nil {
		panic("static: " + err.Error())
	}
	return body
}
