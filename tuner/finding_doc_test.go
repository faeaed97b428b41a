package tuner

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var updateDocs = flag.Bool("update-docs", false, "write docs/findings.md anew")

const findingsPage = "../docs/findings.md"

// TestPageOfFindings holds the page against the checks: it is made from them.
func TestPageOfFindings(t *testing.T) {
	t.Parallel()
	want := findingsText()
	if *updateDocs {
		if err := os.WriteFile(findingsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(findingsPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the checks say; run 'go test ./tuner -run PageOfFindings -update-docs'", findingsPage)
	}
}

func TestChecksAreDescribed(t *testing.T) {
	t.Parallel()
	code := regexp.MustCompile(`^[A-Z]{2,3}\d{3}$`)
	seen := map[string]bool{}
	for _, c := range Checks() {
		if !code.MatchString(c.Code) || seen[c.Code] {
			t.Errorf("code %q is malformed or used twice", c.Code)
		}
		seen[c.Code] = true
		for name, text := range map[string]string{"title": c.Title, "severity": string(c.Severity), "what": c.What, "why": c.Why, "remedy": c.Remedy} {
			if text == "" {
				t.Errorf("%s has no %s", c.Code, name)
			}
		}
	}
	if len(seen) < 25 {
		t.Errorf("there are %d checks, want 25 or more", len(seen))
	}
}

func findingsText() string {
	var b strings.Builder
	b.WriteString(`# Findings

Ballast judges every look of the collector by the checks on this page. A check
says what is wrong, shows the figures with their age and source, and gives a
remedy and the equivalent command. Codes are stable and never used again.

**Opening and closing.** A finding opens after 3 bad measurements in a row and
closes after 2 good ones. One measurement counts once, however often it is
shown: what was not measured anew neither opens nor closes anything. A thing
that no longer exists closes its findings. One that comes back within 10 minutes
of its end continues the same episode, and each return doubles the good
measurements that close it, so that flapping makes few events.

**Suppressing.** A finding can be kept quiet with a reason and an end, at most 90
days ahead. It stays in the list, is marked, and makes no events. When the time
is over it speaks again by itself.

**The owner's thresholds.** Limits that an owner wrote into the metadata of a
stream or consumer (` + "`io.nats.monitor.*`" + `, as for 'nats server check') are
judged by STR008 and CON009; ` + "`io.nats.monitor.enabled: false`" + ` turns them off.

**Known defects.** SRV007 compares versions with a table in the program that
knows advisories up to ` + AdvisoriesAsOf + `. It can say that a version has a
known defect, never that it has none.

| code | title | severity |
| --- | --- | --- |
`)
	for _, c := range Checks() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", c.Code, strings.ToLower(c.Code), c.Title, c.Severity)
	}
	b.WriteString("\n**What shows it.** Every check was made to fire and to clear on real servers by the tests of the findings engine")
	if len(syntheticOnly) == 0 {
		b.WriteString(".\n")
	} else {
		b.WriteString(",\nexcept for these, which are shown by synthetic looks only:\n\n")
		for _, code := range slices.Sorted(maps.Keys(syntheticOnly)) {
			fmt.Fprintf(&b, "- %s: %s\n", code, syntheticOnly[code])
		}
	}
	for _, c := range Checks() {
		fmt.Fprintf(&b, "\n## %s\n\n**%s** (%s). %s\n\n*Why:* %s\n\n*Remedy:* %s\n", c.Code, c.Title, c.Severity, c.What, c.Why, c.Remedy)
	}
	b.WriteString("\n## Sources of the known defects\n\n| defect | what | fixed in | source |\n| --- | --- | --- | --- |\n")
	for _, a := range advisories {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", a.ID, a.What, strings.Join(a.Fixed, ", "), a.Source)
	}
	return b.String()
}
