package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// bootOf names the life of a directory's page cache: the kernel's boot, the directory, and the mount of its file system.
// What a process wrote without fsync is there as long as the name stays the same, whatever becomes of the process.
func bootOf(path string) (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("data directory %s: %w", path, err)
	}
	return fmt.Sprintf("%s %d %d %s", strings.TrimSpace(string(id)), st.Dev, st.Ino, mountOf(path, &st)), nil
}

// mountOf tells two mounts of a file system apart, one after the other: device and inode are the same in both, and so is
// the boot when a disk was gone and came back. A file system on a block device has a folder in sysfs for as long as it is
// mounted anywhere, and the kernel gives none of these folders an inode number twice. Where there is no such folder the
// number of the mount counts, from Linux 6.8 on; it differs in each mount namespace as well, so a server that is
// started again in another one finds itself suspect without need. Older kernels cannot tell, and mountOf is empty.
func mountOf(path string, st *unix.Stat_t) string {
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err == nil {
		for _, kind := range [...]string{"ext4", "xfs", "f2fs"} {
			var folder unix.Stat_t
			if unix.Stat(filepath.Join("/sys/fs", kind, filepath.Base(device)), &folder) == nil {
				return fmt.Sprintf("%s-%d", kind, folder.Ino)
			}
		}
	}
	var at unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID_UNIQUE, &at)
	if err != nil || at.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return ""
	}
	return fmt.Sprintf("mount-%d", at.Mnt_id)
}
