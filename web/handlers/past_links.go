package handlers

import (
	"bytes"
	"html"
	"net/url"
	"regexp"
	"strings"
	"time"

	"ballast/web/static"
)

// The links of a page about the past lead to the same moment, and its forms
// change nothing. Both are done to the markup as a whole, for all pages alike:
// templates write attributes with double quotes and escape those in what they
// write, so that no name can look like an attribute.

// atOwn marks what names its own moment, or leads back to now.
const atOwn = " data-at-own"

var pastMarkup = regexp.MustCompile(`<form[^>]*>|</form>|(?:` + atOwn + `)? (?:href|action|hx-get|hx-post|data-src)="/[^"]*"`)

// keepMoment makes a page's links and forms those of a past moment.
func keepMoment(page []byte, at time.Time) []byte {
	text := momentText(at)
	off := false // within a form that is switched off
	var out bytes.Buffer
	out.Grow(len(page) + len(page)/8)
	last := 0
	for _, m := range pastMarkup.FindAllIndex(page, -1) {
		out.Write(page[last:m[0]])
		tag := string(page[m[0]:m[1]])
		last = m[1]
		switch {
		case strings.HasPrefix(tag, "<form"):
			if strings.Contains(tag, atOwn) || strings.Contains(tag, ` action="/theme"`) {
				out.WriteString(tag)
				continue
			}
			out.Write(pastAttrs.ReplaceAllFunc([]byte(tag), func(a []byte) []byte { return []byte(linkAt(string(a), text)) }))
			if strings.Contains(tag, ` method="post"`) {
				out.WriteString(`<fieldset class="past-off" disabled title="This is the past: nothing can be changed from here. Go back to now first.">`)
				off = true
			} else {
				out.WriteString(`<input type="hidden" name="at" value="` + html.EscapeString(text) + `"/>`)
			}
		case tag == "</form>":
			if off {
				out.WriteString("</fieldset>")
				off = false
			}
			out.WriteString(tag)
		default:
			out.WriteString(linkAt(tag, text))
		}
	}
	out.Write(page[last:])
	return out.Bytes()
}

var pastAttrs = regexp.MustCompile(` (?:action|hx-get|hx-post)="/[^"]*"`)

// linkAt adds the moment to the URL in an attribute, unless it has its own.
func linkAt(attr, at string) string {
	if strings.HasPrefix(attr, atOwn) {
		return attr
	}
	name, rest, _ := strings.Cut(attr, `="`)
	link := html.UnescapeString(strings.TrimSuffix(rest, `"`))
	if strings.HasPrefix(link, "//") || strings.HasPrefix(link, static.Prefix) {
		return attr
	}
	link, fragment, _ := strings.Cut(link, "#")
	path, query, _ := strings.Cut(link, "?")
	for _, p := range timeless {
		if strings.HasPrefix(path, p) {
			return attr
		}
	}
	if query != "" {
		query += "&"
	}
	link = path + "?" + query + "at=" + url.QueryEscape(at)
	if fragment != "" {
		link += "#" + fragment
	}
	return name + `="` + html.EscapeString(link) + `"`
}
