package store

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The page cache of a directory is another one when its file system was mounted anew, though boot, device and inode are
// the same. What a file system on a block device does is for the tests that lose power to see.
func TestAnotherMountIsAnotherLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	life := func() string {
		t.Helper()
		id, err := bootOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	seen := map[string]bool{life(): true}
	for range 3 {
		if before := life(); !seen[before] {
			t.Fatalf("the directory's life changed by itself: %q", before)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Logf("no file system of our own: %v", err)
			return
		}
		id := life()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		if seen[id] {
			t.Errorf("mounted anew the life is the same: %q", id)
		}
		seen[id] = true
	}
}
