package tuner

import (
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

func TestAdvisoriesAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range advisories {
		if a.ID == "" || seen[a.ID] || a.What == "" || a.Source == "" || len(a.Fixed) == 0 || a.Severity != fleet.Warning && a.Severity != fleet.Critical {
			t.Errorf("advisory %q is incomplete or there twice: %+v", a.ID, a)
		}
		seen[a.ID] = true
		if len(a.fixes()) != len(a.Fixed) {
			t.Errorf("advisory %s: a version of %v cannot be read", a.ID, a.Fixed)
		}
	}
}
