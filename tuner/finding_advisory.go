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
	ID       string         // its CVE, or GHSA where it has none
	What     string         // one clause; also when it applies
	Severity fleet.Severity // critical: without credentials of a kind, or across accounts
	From     string         // first version that has it; "" is all
	Fixed    []string       // the first version of each line of releases without it
	Source   string
}

// advisories are those of the NATS project from 2022 on, newest first, each as
// its source gives the versions (repository nats-io/advisories, read on
// 2026-11-24). Left out is 2026-01, a defect of the Go release that a server was
// built with: its version does not tell. CVE-2026-33249 begins where its CVE
// record has it begin, with message tracing; the note says "any version". Most
// matter only with the configuration that their sources name.
var advisories = []Advisory{
	{"GHSA-q59r-vq66-pxc2", "a client that may ask for its account's connections can crash it", fleet.Warning, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-28.txt"},
	{"GHSA-p957-7v2w-g93g", "without MQTT, anybody who reaches its WebSocket port can crash it", fleet.Critical, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-27.txt"},
	{"GHSA-7qmq-8cc4-hxwg", "MQTT retained and replayed messages pass subscribe deny rules", fleet.Warning, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-26.txt"},
	{"GHSA-r72h-j7qq-v6qg", "unfinished MQTT CONNECT packets exhaust its memory before authentication", fleet.Critical, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-25.txt"},
	{"GHSA-hmmp-q8cx-v964", "with no_auth_user, the limits of that user on kinds of connections do not hold", fleet.Critical, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-24.txt"},
	{"GHSA-g33f-6538-grxh", "in operator mode, a malformed JWT crashes it before authentication", fleet.Critical, "", []string{"2.14.2", "2.12.10"}, "https://advisories.nats.io/CVE/secnote-2026-23.txt"},
	{"GHSA-qrcv-3558-gj4f", "an MQTT subscription can inject protocol into routes and leaf nodes", fleet.Critical, "", []string{"2.14.1", "2.12.9"}, "https://advisories.nats.io/CVE/secnote-2026-22.txt"},
	{"GHSA-4g68-3pwx-5vfj", "an MQTT client can subscribe to internal delivery subjects", fleet.Warning, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-21.txt"},
	{"CVE-2026-58254", "a leaf node can have traces sent to any subject and keep messages from delivery", fleet.Warning, "", []string{"2.14.3", "2.12.12"}, "https://advisories.nats.io/CVE/secnote-2026-20.txt"},
	{"GHSA-3g5q-cfh2-cq67", "repeated INFO of a leaf node crashes it before authentication", fleet.Critical, "", []string{"2.12.8", "2.11.17"}, "https://advisories.nats.io/CVE/secnote-2026-19.txt"},
	{"GHSA-jx8g-9g95-6322", "a queue subscription gets around a deny rule of its subject", fleet.Warning, "", []string{"2.14.0", "2.12.7", "2.11.16"}, "https://advisories.nats.io/CVE/secnote-2026-18.txt"},
	{"GHSA-wh7g-5m82-pmhr", "a wildcard subscription that overlaps a wildcard deny rule receives what is denied", fleet.Warning, "", []string{"2.14.0", "2.12.7", "2.11.16"}, "https://advisories.nats.io/CVE/secnote-2026-17.txt"},
	{"GHSA-38x3-76xf-cq45", "with no_auth_user, a route or leaf node connects without credentials", fleet.Critical, "", []string{"2.14.0", "2.12.7", "2.11.16"}, "https://advisories.nats.io/CVE/secnote-2026-16.txt"},
	{"CVE-2026-33249", "a client can have traces sent to subjects that it may not publish to", fleet.Warning, "2.11.0", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-15.txt"},
	{"CVE-2026-33247", "credentials given on its command line are shown by the monitoring port", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-14.txt"},
	{"CVE-2026-33248", "client identity by certificate DN can be passed with some name patterns", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-13.txt"},
	{"CVE-2026-33222", "a user who may restore one stream can restore others", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-12.txt"},
	{"CVE-2026-33219", "WebSocket clients exhaust its memory before authentication", fleet.Critical, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-11.txt"},
	{"CVE-2026-33218", "a malformed message at the leaf node port crashes it before authentication", fleet.Critical, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-10.txt"},
	{"CVE-2026-33223", "a client can forge the Nats-Request-Info header", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-09.txt"},
	{"CVE-2026-33246", "a leaf node can forge the Nats-Request-Info header", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-08.txt"},
	{"CVE-2026-33217", "permissions do not hold for MQTT clients in the $MQTT subjects", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-07.txt"},
	{"CVE-2026-33215", "an MQTT client ID can take over sessions and messages of another", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-06.txt"},
	{"CVE-2026-33216", "MQTT passwords are shown by the monitoring port", fleet.Warning, "", []string{"2.12.6", "2.11.15"}, "https://advisories.nats.io/CVE/secnote-2026-05.txt"},
	{"CVE-2026-29785", "leaf node compression lets a remote server crash it before authentication", fleet.Critical, "2.0.0", []string{"2.12.5", "2.11.14"}, "https://advisories.nats.io/CVE/secnote-2026-04.txt"},
	{"CVE-2026-27889", "a WebSocket frame crashes it before authentication", fleet.Critical, "2.2.0", []string{"2.12.5", "2.11.14"}, "https://advisories.nats.io/CVE/secnote-2026-03.txt"},
	{"CVE-2026-27571", "compressed WebSocket frames exhaust its memory before authentication", fleet.Critical, "2.2.0", []string{"2.12.3", "2.11.12"}, "https://advisories.nats.io/CVE/secnote-2026-02.txt"},
	{"CVE-2025-30215", "JetStream management requests are not confined to their account", fleet.Critical, "2.2.0", []string{"2.11.1", "2.10.27"}, "https://advisories.nats.io/CVE/secnote-2025-01.txt"},
	{"CVE-2023-46129", "auth callouts are encrypted with a key of zeros", fleet.Warning, "2.10.0", []string{"2.10.4"}, "https://advisories.nats.io/CVE/secnote-2023-02.txt"},
	{"CVE-2023-47090", "an authorization block beside a system account lets everybody in", fleet.Critical, "2.2.0", []string{"2.10.2", "2.9.23"}, "https://advisories.nats.io/CVE/secnote-2023-01.txt"},
	{"CVE-2022-42709", "loops of account imports crash it", fleet.Warning, "2.0.0", []string{"2.9.3"}, "https://advisories.nats.io/CVE/CVE-2022-42709.txt"},
	{"CVE-2022-42708", "a JetStream user can crash it by a number of replicas", fleet.Warning, "2.2.0", []string{"2.9.3"}, "https://advisories.nats.io/CVE/CVE-2022-42708.txt"},
	{"CVE-2022-29946", "a queue subscription to a wildcard receives what is denied", fleet.Warning, "2.0.0", []string{"2.8.2"}, "https://advisories.nats.io/CVE/CVE-2022-29946.txt"},
	{"CVE-2022-28357", "users of the system account can write any file", fleet.Warning, "2.2.0", []string{"2.8.0"}, "https://advisories.nats.io/CVE/CVE-2022-28357.txt"},
	{"CVE-2022-26652", "restoring a stream can write any file", fleet.Warning, "2.2.0", []string{"2.7.4"}, "https://advisories.nats.io/CVE/CVE-2022-26652.txt"},
	{"CVE-2022-24450", "a client with any credentials can enter any account", fleet.Critical, "2.0.0", []string{"2.7.2"}, "https://advisories.nats.io/CVE/CVE-2022-24450.txt"},
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

// rank orders advisories by how bad they are.
func (a Advisory) rank() int {
	if a.Severity == fleet.Critical {
		return 0
	}
	return 1
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
