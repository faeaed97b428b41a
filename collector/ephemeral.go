package collector

import "strings"

// namePattern replaces what a client library or a program generated in a
// consumer's name by a star: random tokens, UUIDs, long numbers. A name that
// somebody chose is returned as it is.
func namePattern(name string) string {
	var out strings.Builder
	changed := false
	for i := 0; i+uuidLen <= len(name); i++ {
		if isUUID(name[i : i+uuidLen]) {
			name = name[:i] + uuidMark + name[i+uuidLen:]
			changed = true
		}
	}
	for len(name) > 0 {
		i := strings.IndexAny(name, "-_:/@")
		token, sep := name, ""
		if i >= 0 {
			token, sep = name[:i], name[i:i+1]
			name = name[i+1:]
		} else {
			name = ""
		}
		switch {
		case token == uuidMark, isGenerated(token):
			token, changed = "*", true
		case changed && isNumber(token): // the serial number of an ordered consumer
			token = "*"
		}
		out.WriteString(token)
		out.WriteString(sep)
	}
	p := out.String()
	for strings.Contains(p, "*-*") || strings.Contains(p, "*_*") {
		p = strings.ReplaceAll(strings.ReplaceAll(p, "*-*", "*"), "*_*", "*")
	}
	return p
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// isGenerated tells a random token from a word. Client libraries make 8 or 22
// of the letters and digits (a NUID or a hash of one); programs use process IDs
// and time stamps. Eight lower-case letters are a word more often than chance.
func isGenerated(s string) bool {
	if isNumber(s) {
		return len(s) >= 4
	}
	var lower, upper, turns, inside int
	last := byte(0)
	for i := range len(s) {
		kind := byte(0)
		switch c := s[i]; {
		case c >= 'a' && c <= 'z':
			lower++
			kind = 'a'
		case c >= 'A' && c <= 'Z':
			upper++
			kind = 'A'
		case c >= '0' && c <= '9':
			kind = '0'
		default:
			return false
		}
		if last != 0 && kind != last {
			turns++
			if last == '0' {
				inside++
			}
		}
		last = kind
	}
	switch {
	case len(s) >= 20:
		return turns >= 4
	case len(s) >= 8:
		// A CamelCase word turns too, but has no digits between its letters.
		return inside > 0 && turns >= 3 || turns >= 6 || len(s) == 8 && upper > 1 && lower > 1 && turns >= 4
	}
	return false
}

const (
	uuidLen  = 36
	uuidMark = "\x00" // stands for a UUID; no name holds it
)

func isUUID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return false
		}
	}
	return true
}
