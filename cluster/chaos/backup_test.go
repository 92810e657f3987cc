package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// All processes are killed and the masters' folders are lost. Restored from a backup that is older than what the
// chunkservers hold, the masters find every line that was acknowledged in files that the backup knows, before it and
// after it; what came after goes on working, and no replica was deleted, not even those of files that the backup does not
// know.
func TestMastersAreRestoredFromABackup(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const masters = 3
	r := newRig(t, ctx, masters, 4)
	local := filepath.Join(t.TempDir(), "local")
	writeNoise(t, local, 3<<20)
	r.must(ctx, "put", local, "/kept")

	var offsets [appenders][]int64
	half := func(from int) {
		t.Helper()
		var failed [appenders / 2]error
		var wg sync.WaitGroup
		for i := range failed {
			wg.Go(func() { offsets[from+i], failed[i] = r.appendLines(ctx, "/log", from+i) })
		}
		wg.Wait()
		if err := errors.Join(failed[:]...); err != nil {
			t.Fatal(err)
		}
	}
	half(0)
	file := filepath.Join(t.TempDir(), "backup")
	r.must(ctx, "admin", "backup", file)

	r.must(ctx, "put", local, "/lost")
	victim, err := r.holder(ctx, "/log", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(victim); err != nil { // so that the chunk has another configuration than the backup knows
		t.Fatal(err)
	}
	half(appenders / 2)
	if err := r.Start(ctx, victim); err != nil {
		t.Fatal(err)
	}
	if err := r.killAll(); err != nil {
		t.Fatal(err)
	}
	before := r.replicas()
	for i := range masters {
		r.restore(ctx, fmt.Sprintf("m%d", i+1), file)
	}
	if err := r.startAll(ctx); err != nil {
		t.Fatal(err)
	}
	r.waitReady(ctx)

	if err := r.checkLines(ctx, "/log", offsets[:]); err != nil {
		t.Error(err)
	}
	want, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.must(ctx, "cat", "/kept"), want) {
		t.Error("a file of the backup differs")
	}
	if _, err := r.run(ctx, nil, "stat", "/lost"); err == nil {
		t.Error("a file that was made after the backup is there")
	}
	r.must(ctx, "put", local, "/lost") // its name is free, and no chunk of it meets the old one's
	for _, name := range []string{"/log", "/made later"} {
		if _, err := r.run(ctx, strings.NewReader("after the restoration\n"), "append", name); err != nil {
			t.Error(err)
		}
		if out := r.must(ctx, "tail", "-n", "1", name); string(out) != "after the restoration\n" {
			t.Errorf("%s ends with %q", name, out)
		}
	}
	if !bytes.Equal(r.must(ctx, "cat", "/lost"), want) {
		t.Error("a file made after the restoration differs")
	}
	after := r.replicas()
	for _, name := range before {
		if !slices.Contains(after, name) {
			t.Errorf("replica %s was deleted", name)
		}
	}
}

// restore replaces a master's folder by one made from a backup.
func (r *rig) restore(ctx context.Context, name, file string) {
	r.t.Helper()
	args := r.Args(name)
	option := func(name string) string { return args[slices.Index(args, name)+1] }
	command := []string{"admin", "restore", file, "--id", name, "--data", option("--data"), "--peers", option("--peers")}
	if _, err := r.run(ctx, nil, command...); err == nil {
		r.t.Error("a backup was restored over a master's folder")
	}
	if err := os.RemoveAll(option("--data")); err != nil {
		r.t.Fatal(err)
	}
	r.must(ctx, command...)
}

// replicas lists the data files of all replicas on disk.
func (r *rig) replicas() (names []string) {
	r.t.Helper()
	for _, name := range r.Names() {
		if !strings.HasPrefix(name, "cs") {
			continue
		}
		args := r.Args(name)
		dir := filepath.Join(args[slices.Index(args, "--data")+1], "chunks")
		if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && filepath.Ext(path) == "" {
				names = append(names, path)
			}
			return err
		}); err != nil {
			r.t.Fatal(err)
		}
	}
	return names
}
