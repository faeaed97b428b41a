package wholefile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "weights.json")
	holds := func(text string, mode os.FileMode) {
		t.Helper()
		got, err := os.ReadFile(file)
		if err != nil || string(got) != text {
			t.Fatalf("the file holds %q, %v, want %q", got, err, text)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != mode {
			t.Fatalf("the file has the rights %v, %v, want %v", info.Mode(), err, mode)
		}
		if all, err := os.ReadDir(filepath.Dir(file)); err != nil || len(all) != 1 {
			t.Fatalf("beside the file there are %v, %v", all, err)
		}
	}
	if err := Write(file, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	holds("one", 0o600)
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Write(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	holds("two", 0o640)
}

// What cannot be put in place leaves nothing behind.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "absent", "file"), nil, 0o600); err == nil {
		t.Error("a file was written into a folder that is not there")
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(taken, []byte("data"), 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("left behind: %v, %v", all, err)
	}
}
