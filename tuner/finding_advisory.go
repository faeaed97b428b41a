package tuner

import (
	"slices"
	"strconv"
	"strings"

	"ballast/fleet"
)

// AdvisoriesAsOf is the date of the newest advisory that the table of known
// defects was made from. What became known later is not in it: it can say that a
// version has a known defect, never that it has none.
const AdvisoriesAsOf = "2026-06-29"

// Advisory is a published security defect of nats-server and where it is fixed.
type Advisory struct {
	ID       string
	What     string         // one clause; also when it applies
	Severity fleet.Severity // critical: without credentials of a kind, or across accounts
	From     string         // first version that has it; "" is all
	Fixed    []string       // the first version of each line of releases without it
	Source   string
}

// advisories are those of the last two years that can be judged by the version
// alone, newest first. Most matter only with the configuration that their
// sources name.
var advisories = []Advisory{
	{"2026-26", "MQTT retained and replayed messages pass subscribe deny rules", fleet.Warning, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-26.txt"},
	{"2026-16", "with no_auth_user, a route or leaf node connects without credentials", fleet.Critical, "", []string{"2.14.0", "2.12.7", "2.11.16"}, "https://advisories.nats.io/CVE/secnote-2026-16.txt"},
	{"2026-18", "a queue subscription gets around a deny rule of its subject", fleet.Warning, "", []string{"2.14.0", "2.12.7", "2.11.16"}, "https://advisories.nats.io/CVE/secnote-2026-18.txt"},
	{"CVE-2026-33248", "client identity by certificate DN can be passed with some name patterns", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-13.txt"},
	{"CVE-2026-33246", "a leaf node can forge the Nats-Request-Info header", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://nvd.nist.gov/vuln/detail/CVE-2026-33246"},
	{"CVE-2026-33222", "a user who may restore one stream can restore others", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://github.com/advisories/GHSA-9983-vrx2-fg9c"},
	{"CVE-2026-29785", "a remote server can crash it before authentication by leaf node compression", fleet.Critical, "", []string{"2.12.5", "2.11.14"}, "https://nvd.nist.gov/vuln/detail/CVE-2026-29785"},
	{"CVE-2026-27571", "compressed WebSocket frames exhaust its memory before authentication", fleet.Critical, "", []string{"2.12.3", "2.11.12"}, "https://nvd.nist.gov/vuln/detail/CVE-2026-27571"},
	{"CVE-2025-30215", "JetStream management requests are not confined to their account", fleet.Critical, "2.2.0", []string{"2.11.1", "2.10.27"}, "https://advisories.nats.io/CVE/secnote-2025-01.txt"},
}

// version is major, minor, patch, and whether it is a preview, which comes
// before the release.
type version struct {
	part    [3]int
	preview bool
}

func parseVersion(s string) (v version, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "+")
	s, _, v.preview = strings.Cut(s, "-")
	words := strings.Split(s, ".")
	if len(words) != 3 {
		return v, false
	}
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil || n < 0 {
			return v, false
		}
		v.part[i] = n
	}
	return v, true
}

func (v version) compare(o version) int {
	if c := slices.Compare(v.part[:], o.part[:]); c != 0 || v.preview == o.preview {
		return c
	}
	if v.preview {
		return -1
	}
	return 1
}

func (v version) sameLine(o version) bool { return v.part[0] == o.part[0] && v.part[1] == o.part[1] }

// fixes are the versions with the fix, in order.
func (a Advisory) fixes() []version {
	var out []version
	for _, s := range a.Fixed {
		if v, ok := parseVersion(s); ok {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, version.compare)
	return out
}

// affects reports whether a version has the defect: a fix in its own line
// decides, and a line without one has it as long as a newer line needed a fix.
func (a Advisory) affects(v version) bool {
	if from, ok := parseVersion(a.From); ok && v.compare(from) < 0 {
		return false
	}
	for _, f := range a.fixes() {
		if v.compare(f) < 0 {
			return true
		}
		if v.sameLine(f) {
			return false
		}
	}
	return false
}
