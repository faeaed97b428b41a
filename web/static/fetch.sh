#!/bin/sh
# Fetches the vendored files again, from the npm registry by exact version, and
# writes SHA256SUMS. Run it through `go generate ./web/static`; look at the
# difference of SHA256SUMS before committing it.
set -eu
cd "$(dirname "$0")/vendor"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
take() { # package version: unpacks it to $tmp/package
	(cd "$tmp" && rm -rf package && tar xzf "$(npm pack --silent "$1@$2")")
}
take htmx.org 4.0.1
cp "$tmp/package/dist/htmx.min.js" "$tmp/package/dist/ext/hx-sse.min.js" .
cp "$tmp/package/LICENSE" htmx.LICENSE
take uplot 1.6.32
cp "$tmp/package/dist/uPlot.iife.min.js" "$tmp/package/dist/uPlot.min.css" .
cp "$tmp/package/LICENSE" uPlot.LICENSE
take @fontsource-variable/inter 5.3.0
cp "$tmp/package/files/inter-latin-wght-normal.woff2" .
cp "$tmp/package/LICENSE" inter.LICENSE
take @fontsource-variable/jetbrains-mono 5.3.0
cp "$tmp/package/files/jetbrains-mono-latin-wght-normal.woff2" .
cp "$tmp/package/LICENSE" jetbrains-mono.LICENSE
LC_ALL=C sha256sum -- *.css *.js *.woff2 *.LICENSE > SHA256SUMS
