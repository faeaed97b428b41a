package tuner

import (
	"slices"
	"strings"
	"testing"

	"ballast/fleet"
)

func TestAdvisoryAffects(t *testing.T) {
	t.Parallel()
	two := Advisory{From: "2.2.0", Fixed: []string{"2.12.6", "2.11.15"}}
	open := Advisory{Fixed: []string{"2.14.0", "2.12.7", "2.11.16"}}
	for _, c := range []struct {
		a       Advisory
		version string
		want    bool
	}{
		{two, "2.11.14", true},
		{two, "2.11.15", false},
		{two, "2.11.99", false},
		{two, "2.12.0", true},
		{two, "2.12.5", true},
		{two, "2.12.6", false},
		{two, "2.12.6-RC.1", true}, // a preview comes before its release
		{two, "2.12.7-RC.1", false},
		{two, "2.10.29", true}, // a line that got no fix
		{two, "2.14.0", false}, // a line that began with it
		{two, "2.1.9", false},  // from before the defect
		{open, "2.1.9", true},
		{open, "v2.12.6", true},
		{open, "2.13.0", true},
		{open, "2.15.2", false},
		{open, "2.14.0-preview.2", true},
		{open, "2.12.7+build5", false},
	} {
		v, ok := parseVersion(c.version)
		if !ok {
			t.Errorf("parseVersion(%q) refuses it", c.version)
			continue
		}
		if got := c.a.affects(v); got != c.want {
			t.Errorf("%v affects %s = %v, want %v", c.a.Fixed, c.version, got, c.want)
		}
	}
}

func TestParseVersionRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "2", "2.1", "2.1.x", "2.1.-1", "2.1.2.3", "latest", "2..1"} {
		if v, ok := parseVersion(s); ok {
			t.Errorf("parseVersion(%q) = %v, want a refusal", s, v)
		}
	}
}

// TestAdvisoryBoundaries holds every row against the releases around its edges,
// as its source names them: the last that has the defect and the first that has
// not.
func TestAdvisoryBoundaries(t *testing.T) {
	t.Parallel()
	judged := map[string]bool{}
	for _, c := range []struct {
		ids          string
		has, has0    string // last affected of each line, oldest affected
		fixed, never string // first fixed of each line; what never had it
	}{
		{"GHSA-q59r-vq66-pxc2 GHSA-p957-7v2w-g93g GHSA-7qmq-8cc4-hxwg GHSA-r72h-j7qq-v6qg GHSA-hmmp-q8cx-v964 GHSA-4g68-3pwx-5vfj CVE-2026-58254", "2.14.2 2.12.11 2.11.17", "2.0.0", "2.14.3 2.12.12", "2.15.0"},
		{"GHSA-g33f-6538-grxh", "2.14.1 2.12.9 2.11.17", "2.0.0", "2.14.2 2.12.10", "2.15.0"},
		{"GHSA-qrcv-3558-gj4f", "2.14.0 2.12.8 2.11.17", "2.0.0", "2.14.1 2.12.9", "2.15.0"},
		{"GHSA-3g5q-cfh2-cq67", "2.12.7 2.11.16 2.10.29", "2.0.0", "2.12.8 2.11.17", "2.14.0"},
		{"GHSA-jx8g-9g95-6322 GHSA-wh7g-5m82-pmhr GHSA-38x3-76xf-cq45", "2.12.6 2.11.15 2.10.29", "2.0.0", "2.14.0 2.12.7 2.11.16", "2.15.0"},
		{"CVE-2026-33247 CVE-2026-33248 CVE-2026-33222 CVE-2026-33219 CVE-2026-33218 CVE-2026-33223 CVE-2026-33246 CVE-2026-33217 CVE-2026-33215 CVE-2026-33216", "2.12.5 2.11.14 2.10.29", "2.0.0", "2.12.6 2.11.15", "2.14.0"},
		{"CVE-2026-33249", "2.12.5 2.11.14", "2.11.0", "2.12.6 2.11.15", "2.14.0 2.10.29"},
		{"CVE-2026-29785", "2.12.4 2.11.13 2.10.29", "2.0.0", "2.12.5 2.11.14", "2.14.0 1.4.1"},
		{"CVE-2026-27889", "2.12.4 2.11.13 2.10.29", "2.2.0", "2.12.5 2.11.14", "2.14.0 2.1.9"},
		{"CVE-2026-27571", "2.12.2 2.11.11 2.10.29", "2.2.0", "2.12.3 2.11.12", "2.14.0 2.1.9"},
		{"CVE-2025-30215", "2.11.0 2.10.26 2.9.25", "2.2.0", "2.11.1 2.10.27", "2.12.0 2.1.9"},
		{"CVE-2023-46129", "2.10.3", "2.10.0", "2.10.4", "2.9.25 2.11.0"},
		{"CVE-2023-47090", "2.10.1 2.9.22 2.8.4", "2.2.0", "2.10.2 2.9.23", "2.11.0 2.1.9"},
		{"CVE-2022-42709", "2.9.2 2.8.4", "2.0.0", "2.9.3", "2.10.0 1.4.1"},
		{"CVE-2022-42708", "2.9.2 2.8.4", "2.2.0", "2.9.3", "2.10.0 2.1.9"},
		{"CVE-2022-29946", "2.8.1 2.7.4", "2.0.0", "2.8.2", "2.9.0 1.4.1"},
		{"CVE-2022-28357", "2.7.4", "2.2.0", "2.8.0", "2.8.1 2.1.9"},
		{"CVE-2022-26652", "2.7.3", "2.2.0", "2.7.4", "2.8.0 2.1.9"},
		{"CVE-2022-24450", "2.7.1", "2.0.0", "2.7.2", "2.8.0 1.4.1"},
	} {
		for _, id := range strings.Fields(c.ids) {
			i := slices.IndexFunc(advisories, func(a Advisory) bool { return a.ID == id })
			if i < 0 {
				t.Errorf("%s is not in the table", id)
				continue
			}
			judged[id] = true
			for versions, want := range map[string]bool{c.has + " " + c.has0: true, c.fixed + " " + c.never: false} {
				for _, v := range strings.Fields(versions) {
					p, ok := parseVersion(v)
					if got := advisories[i].affects(p); !ok || got != want {
						t.Errorf("%s affects %s = %v, want %v", id, v, got, want)
					}
				}
			}
		}
	}
	for _, a := range advisories {
		if !judged[a.ID] {
			t.Errorf("nothing here holds %s against its edges", a.ID)
		}
	}
}

func TestAdvisoriesAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range advisories {
		if a.ID == "" || seen[a.ID] || a.What == "" || !strings.HasPrefix(a.Source, "https://advisories.nats.io/CVE/") || len(a.Fixed) == 0 || a.Severity != fleet.Warning && a.Severity != fleet.Critical {
			t.Errorf("advisory %q is incomplete or there twice: %+v", a.ID, a)
		}
		seen[a.ID] = true
		if len(a.fixes()) != len(a.Fixed) {
			t.Errorf("advisory %s: a version of %v cannot be read", a.ID, a.Fixed)
		}
	}
}
