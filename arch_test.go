package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mayImport is the map of docs/architecture.md: which of our packages a package
// may import. Everything under internal/ is open to all, and imports only the
// vocabulary.
var mayImport = map[string][]string{
	"fleet":         {},
	"traffic":       {},
	"lb":            {"traffic"},
	"collector":     {"fleet"},
	"store":         {"fleet", "traffic"},
	"tuner":         {"fleet", "traffic"},
	"control":       {"fleet", "traffic"},
	"web/handlers":  {"fleet", "traffic", "web/templates", "web/static"},
	"web/templates": {},
	"web/static":    {},
	"gateway":       {"lb", "traffic", "fleet"},
	"demo":          {"lb", "traffic"},
	"demo/bed":      {},
	"loadtest":      {"lb", "traffic"},
}

// onlyIn names the packages that may use a library (by prefix of its path).
var onlyIn = map[string][]string{
	"database/sql":                   {"store"},
	"modernc.org/sqlite":             {"store"},
	"github.com/labstack/echo":       {"web/handlers", "gateway"},
	"github.com/nats-io/nats.go":     {".", "collector", "control", "lb", "gateway", "demo", "demo/bed", "loadtest"},
	"github.com/nats-io/nats-server": {".", "demo", "demo/bed", "internal/natstest"},
}

func TestImportsFollowTheMap(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() && path != "." {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return filepath.SkipDir // a module of its own
			}
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room := filepath.ToSlash(filepath.Dir(path))
		for _, spec := range f.Imports {
			imp := strings.Trim(spec.Path.Value, `"`)
			for lib, rooms := range onlyIn {
				if strings.HasPrefix(imp, lib) && !slices.Contains(rooms, room) && !strings.HasPrefix(room, "internal/natstest") {
					t.Errorf("%s imports %s, which belongs to %v", path, imp, rooms)
				}
			}
			ours, ok := strings.CutPrefix(imp, "ballast/")
			if !ok || strings.HasPrefix(ours, "internal/") || room == "." {
				continue
			}
			if strings.HasPrefix(room, "internal/") {
				if ours != "fleet" && ours != "traffic" {
					t.Errorf("%s imports %s; internal helpers know only the vocabulary", path, ours)
				}
				continue
			}
			allowed, known := mayImport[room]
			if !known {
				t.Errorf("%s is in a room that is not on the map", path)
			} else if !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s; %s may import %v", path, ours, room, allowed)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// mayDial names the files that may connect to NATS by themselves: the one of the
// house, and those that stand for other people's programs.
var mayDial = []string{"lb/connect.go", "internal/natstest/natstest.go", "demo/bed/raise.go"}

// Every part of Ballast connects as lb.Connect does: it waits for servers, backs
// off with jitter, and notices a silent one.
func TestOneWayToConnect(t *testing.T) {
	dials := regexp.MustCompile(`\bnats\.(Options\{|Connect\(|GetDefaultOptions\()`)
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		code, err := os.ReadFile(path)
		if err != nil || !dials.Match(code) {
			return err
		}
		found++
		if !slices.Contains(mayDial, filepath.ToSlash(path)) {
			t.Errorf("%s connects to NATS by itself; use lb.Connect", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != len(mayDial) {
		t.Errorf("%d files connect to NATS by themselves, %d are named", found, len(mayDial))
	}
}
