package control

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"

	"ballast/traffic"
)

// command is what an operator would type to write the same document without
// Ballast. Names come from NATS: what a terminal would act on, or show as
// something else, is escaped the way JSON has for it.
func command(split string, doc []byte, token uint64) string {
	verb, revision := "update", fmt.Sprintf(" %d", token)
	if token == 0 {
		verb, revision = "create", ""
	}
	return fmt.Sprintf("nats kv %s %s %s %s%s", verb, traffic.Bucket, traffic.Key(split), shellQuote(printable(doc)), revision)
}

// printable escapes the runes that do not print. In a JSON document they can
// only stand inside strings.
func printable(doc []byte) string {
	var b strings.Builder
	for _, r := range string(doc) {
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		}
	}
	return b.String()
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
