package handlers

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"ballast/web/templates"
)

// commandList is what a page says of doing the same in a terminal. Names come
// from NATS: one with what a terminal would act on makes a remark instead.
type commandList []templates.Command

// ask adds a line that only reads.
func (l *commandList) ask(what, verb string, names ...string) { l.add(what, false, verb, names) }

// act adds a line that changes something.
func (l *commandList) act(what, verb string, names ...string) { l.add(what, true, verb, names) }

func (l *commandList) add(what string, acts bool, verb string, names []string) {
	line := cmp.Or(shellLine(verb, names...), "# The name holds what a terminal would act on: no line is made of it.")
	*l = append(*l, templates.Command{ID: "command-" + strconv.Itoa(len(*l)), What: what, Line: line, Acts: acts})
}

// shellLine makes a line for a POSIX shell of words that are ours and names that
// are not: none of these is taken for an option, and "" comes of one that a
// terminal would act on. A word of ours that ends in "="
// gets its value from the next name.
func shellLine(verb string, names ...string) string {
	words := strings.Fields(verb)
	for i, w := range words {
		if strings.HasSuffix(w, "=") && len(names) > 0 {
			if !printable(names[0]) {
				return ""
			}
			words[i], names = w+shellWord(names[0]), names[1:]
		}
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "-") }) {
		words = append(words, "--")
	}
	for _, n := range names {
		if !printable(n) {
			return ""
		}
		words = append(words, shellWord(n))
	}
	return strings.Join(words, " ")
}

// printable reports whether a terminal shows the name and does nothing else with it.
func printable(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// shellWord makes one word of w, plainly where nothing is special.
func shellWord(w string) string {
	special := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}
	if w != "" && !strings.ContainsFunc(w, special) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
