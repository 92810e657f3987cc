package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairnfs/cairn/cluster/processes"
)

// diskBytes is more than a chunkserver must have free to be given a new chunk; leftBytes is what is left then.
const (
	diskBytes = 240 << 20
	leftBytes = 8 << 20
)

// The chunkservers' disks run full in the middle of a chunk: whoever writes is told so and soon, everything that was
// acknowledged is there, and when there is space again writing goes on.
func TestFullDisks(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, fill, free := newFullRig(t, ctx)
	local := filepath.Join(t.TempDir(), "local")
	writeNoise(t, local, 3<<20)
	r.must(ctx, "put", local, "/kept")
	if _, err := r.run(ctx, strings.NewReader("first\n"), "append", "/log"); err != nil {
		t.Fatal(err)
	}
	fill(leftBytes)
	began := time.Now()

	line := strings.Repeat("x", 99) + "\n"
	out, err := r.run(ctx, strings.NewReader(strings.Repeat(line, 4*leftBytes/len(line))), "append", "-v", "/log")
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("append to a full disk: %v", err)
	}
	t.Log(err)
	if err := r.runTo(ctx, bytes.NewReader(make([]byte, 2*leftBytes)), io.Discard, "put", "-", "/kept too"); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("put to a full disk: %v", err)
	}
	want, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.must(ctx, "cat", "/kept"), want) {
		t.Error("a file that was stored before differs")
	}
	acknowledged := bytes.Count(out, []byte("\n"))
	if found := bytes.Count(r.must(ctx, "cat", "--records", "/log"), []byte("\n")); acknowledged == 0 || found < 1+acknowledged {
		t.Errorf("%d lines were acknowledged, %d are there", 1+acknowledged, found)
	}

	t.Log("full: done after", time.Since(began))

	// Nor is a full disk in the way of a process that begins anew, even where the last byte is taken meanwhile.
	for i := range r.chunkservers {
		if err := r.Kill(fmt.Sprintf("cs%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	fill(0)
	for i := range r.chunkservers {
		if err := r.Start(ctx, fmt.Sprintf("cs%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	r.waitReady(ctx)
	if !bytes.Equal(r.must(ctx, "cat", "/kept"), want) {
		t.Error("a file that was stored before differs after a restart on full disks")
	}
	if found := bytes.Count(r.must(ctx, "cat", "--records", "/log"), []byte("\n")); found < 1+acknowledged {
		t.Errorf("%d lines were acknowledged, %d are there after a restart on full disks", 1+acknowledged, found)
	}

	free()
	if _, err := r.run(ctx, strings.NewReader("last\n"), "append", "/log"); err != nil {
		t.Errorf("append after space was freed: %v", err)
	}
	if last := r.must(ctx, "tail", "-n", "1", "/log"); string(last) != "last\n" {
		t.Errorf("the last line is %q", last)
	}
	for { // until the master has heard that there is space
		if _, err := r.run(ctx, nil, "put", local, "/again"); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(r.must(ctx, "cat", "/again"), want) {
		t.Error("a file that was stored afterwards differs")
	}
}

// newFullRig starts a cluster whose disks can be filled and freed: small file systems where we may mount such, else
// limits on the size of the processes' files, which end with the process. fill leaves so many bytes.
func newFullRig(t *testing.T, ctx context.Context) (r *rig, fill func(left int64), free func()) {
	t.Helper()
	const chunkservers = 3
	binary, err := processes.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var disks []string
	for i := range chunkservers {
		disk := filepath.Join(dir, fmt.Sprintf("cs%d", i+1))
		if err := os.Mkdir(disk, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size="+strconv.Itoa(diskBytes)); err != nil {
			t.Logf("no file system of our own: %v", err)
			break
		}
		t.Cleanup(func() {
			if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		disks = append(disks, disk)
	}
	parts, err := processes.StartCluster(ctx, processes.Config{Binary: binary, Dir: dir, Chunkservers: chunkservers, Racks: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parts.Close(); err != nil {
			t.Error(err)
		}
	})
	r = &rig{Cluster: parts, t: t, binary: binary, chunkservers: chunkservers}
	r.waitReady(ctx)
	each := func(do func(i int) error) func() {
		return func() {
			t.Helper()
			var failed []error
			for i := range chunkservers {
				failed = append(failed, do(i))
			}
			if err := errors.Join(failed...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(disks) == chunkservers {
		ballast := func(i int) string { return filepath.Join(disks[i], "ballast") }
		fill := func(left int64) { each(func(i int) error { return fillDisk(disks[i], ballast(i), left) })() }
		return r, fill, each(func(i int) error { return os.Remove(ballast(i)) })
	}
	limit := func(bytes uint64) func() {
		return each(func(i int) error {
			p := r.Process(fmt.Sprintf("cs%d", i+1))
			if p == nil {
				return nil
			}
			return unix.Prlimit(p.Pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil)
		})
	}
	return r, func(left int64) { limit(uint64(left))() }, limit(unix.RLIM_INFINITY)
}

// fillDisk makes a file, or makes it longer, so that so many bytes are left on its file system.
func fillDisk(disk, ballast string, left int64) error {
	var at unix.Statfs_t
	if err := unix.Statfs(disk, &at); err != nil {
		return err
	}
	f, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	held, err := f.Seek(0, io.SeekEnd)
	more := int64(at.Bavail)*at.Bsize - left
	if err != nil || more <= 0 {
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, held, more)
}
