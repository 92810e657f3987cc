package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system of its own, in an image, on a loop device, that can lose what it was not told to keep.
type disk struct{ device, dir string }

// What the kernel calls what lose does.
const (
	ioctlExt4Shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
	shutdownNoFlush   = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
)

// newDisk makes an image of size bytes, sparse, and mounts it at dir, which it makes. It needs root, mkfs.ext4 and losetup.
func newDisk(ctx context.Context, image, dir string, size int64) (*disk, error) {
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.Mkdir(dir, 0o755)); err != nil {
		return nil, err
	}
	if _, err := command(ctx, "mkfs.ext4", "-q", "-F", image); err != nil {
		return nil, err
	}
	device, err := command(ctx, "losetup", "--find", "--show", image)
	if err != nil {
		return nil, err
	}
	d := &disk{device: device, dir: dir}
	if err := d.mount(); err != nil {
		return nil, errors.Join(err, d.detach())
	}
	return d, nil
}

// command runs a program and returns what it printed, without the line's end.
func command(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (d *disk) mount() error {
	if err := unix.Mount(d.device, d.dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", d.device, d.dir, err)
	}
	return nil
}

// lose has the file system forget, at once, all that was not flushed; after it every access to it fails.
func (d *disk) lose() error {
	root, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unix.IoctlSetPointerInt(int(root.Fd()), ioctlExt4Shutdown, shutdownNoFlush); err != nil {
		return fmt.Errorf("shut down the file system at %s: %w", d.dir, err)
	}
	return nil
}

// mountAgain is what comes after lose: the journal is replayed. Nobody may have a file open there.
func (d *disk) mountAgain() error {
	if err := unix.Unmount(d.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	return d.mount()
}

// close unmounts the file system and gives the loop device back; the image stays.
func (d *disk) close() error {
	err := unix.Unmount(d.dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) {
		err = nil // not mounted: mountAgain failed half way
	}
	return errors.Join(err, d.detach())
}

func (d *disk) detach() error {
	_, err := command(context.Background(), "losetup", "--detach", d.device)
	return err
}

// writeBack has the kernel write back some pages of some file of a replica, as it may do with any at any time.
func (d *disk) writeBack(random *rand.Rand) error {
	const most = 1 << 20
	files, err := filepath.Glob(filepath.Join(d.dir, "chunks", "*", "*"))
	if err != nil || len(files) == 0 {
		return err
	}
	f, err := os.OpenFile(files[random.IntN(len(files))], os.O_RDWR, 0)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	from, bytes := int64(0), int64(most)
	if info.Size() > 0 { // the end is where most happens
		from, bytes = max(0, info.Size()-random.Int64N(most)), 4096+random.Int64N(most)
	}
	return unix.SyncFileRange(int(f.Fd()), from, bytes, unix.SYNC_FILE_RANGE_WRITE)
}

// ignoreGone is for files that may be deleted between a look and the next.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
