package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A backup is there whole or not at all, also on stdout; a folder that is somebody's is not restored into.
func TestAdminBackupAndRestore(t *testing.T) {
	s, _ := newShell(t)
	s.put("/f", "hello")
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	var made, restored backupFacts
	s.fact(&made, "admin", "backup", file)
	if info, err := os.Stat(file); err != nil || info.Size() != made.Bytes || made.Cluster != "local" || made.Master != "m1" || made.Epoch != 1 || made.Index == 0 {
		t.Errorf("backup: %+v, %v", made, err)
	}
	if out := s.must("admin", "backup", file); !strings.Contains(out, "cluster local") { // in the place of the one before
		t.Errorf("backup: %q", out)
	}
	if left, err := filepath.Glob(file + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if status, _, stderr := s.try(nil, "admin", "backup", filepath.Join(dir, "none", "backup")); status != 1 || !strings.Contains(stderr, "none") {
		t.Errorf("a folder that is not there: status %d: %s", status, stderr)
	}
	piped := s.must("admin", "backup", "-")

	folder := filepath.Join(dir, "m1")
	s.fact(&restored, "admin", "restore", file, "--data", folder)
	if restored.Files != 1 || restored.Chunks != 1 || restored.Index < made.Index {
		t.Errorf("restored: %+v", restored)
	}
	refuse := func(what, says string, want int, args ...string) {
		t.Helper()
		status, _, stderr := s.try(bytes.NewReader([]byte(piped)), append([]string{"admin", "restore"}, args...)...)
		if status != want || !strings.Contains(stderr, says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d: %s", what, status, stderr)
		}
	}
	refuse("a master's folder", "belongs to master m1", 1, file, "--data", folder)
	refuse("another cluster", `of cluster "local"`, 1, file, "--data", filepath.Join(dir, "other"), "--cluster", "other")
	refuse("no folder", "--data", 2, file)
	refuse("no file", "restore FILE", 2, "--data", folder)
	refuse("a group without a name", "--id", 2, file, "--data", folder, "--peers", "m1=127.0.0.1:1,m2=127.0.0.1:2,m3=127.0.0.1:3")
	status, out, stderr := s.try(strings.NewReader(piped), "admin", "restore", "-", "--data", filepath.Join(dir, "piped"), "--id", "m2", "--peers", "m1=h1:7400,m2=h2:7400,m3=h3:7400")
	if status != 0 || !strings.Contains(out, "1 files") {
		t.Errorf("from stdin: status %d: %s%s", status, out, stderr)
	}
}
