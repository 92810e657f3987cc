package store

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cairnfs/cairn/messages/gfs"
)

// The names in a data directory.
const (
	lockName    = "LOCK"
	indexName   = "index.bolt"
	chunksName  = "chunks"
	trashName   = "trash"
	patchesName = "patches"
	sumSuffix   = ".crc"
)

// directory is one of the server's data directories.
type directory struct {
	path  string
	lock  *os.File
	index *index
	fault faultFunc
	// noSync is Config.noSync.
	noSync bool
	// failed is set by a failed fsync: the kernel may have dropped what it could not write, so nothing on this
	// disk that is open for mutation can be relied on any more.
	failed atomic.Bool
	// used is the sum of the lengths of the replicas here, in bytes.
	used atomic.Int64
}

// lockDirectory makes a directory if need be and takes its lock.
func lockDirectory(path string, cfg *Config) (*directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, gfs.Errorf(gfs.CodeInUse, "data directory %s belongs to a running chunkserver: stop it or name another directory", path)
		}
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	return &directory{path: path, lock: lock, fault: cfg.fault, noSync: cfg.noSync}, nil
}

// open makes the folders and opens the index.
func (d *directory) open() error {
	for _, name := range [...]string{chunksName, trashName, patchesName} {
		if err := os.Mkdir(filepath.Join(d.path, name), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	var err error
	d.index, err = openIndex(filepath.Join(d.path, indexName), d.fault, d.noSync)
	return err
}

func (d *directory) close() error {
	var err error
	if d.index != nil {
		err = d.index.close()
	}
	return errors.Join(err, d.lock.Close())
}

// chunkPath is where a chunk's bytes are; its checksums are at the same path with sumSuffix. The folder is named
// by the low digits of the handle, so that sequential handles spread evenly.
func (d *directory) chunkPath(h gfs.ChunkHandle) string {
	name := h.String()
	return filepath.Join(d.path, chunksName, name[len(name)-2:], name)
}

func (d *directory) patchPath(h gfs.ChunkHandle) string {
	return filepath.Join(d.path, patchesName, h.String())
}

// space is what the disk has and has free, in bytes.
func (d *directory) space() (capacity, free int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return 0, 0
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// syncAll makes everything on the directory's file system durable.
func (d *directory) syncAll() error {
	if _, err := d.fault.ask(opSync, d.path, 0); err != nil {
		return err
	}
	if d.noSync {
		return nil
	}
	for {
		err := unix.Syncfs(int(d.lock.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// commit makes changes of the index durable. When that fails for another reason than a full disk, the disk has
// failed.
func (d *directory) commit(changes ...change) error {
	err := d.index.commit(changes)
	switch {
	case err == nil:
		return nil
	case outOfSpace(err):
		return gfs.Errorf(gfs.CodeNoSpace, "index in %s: %v; free space on this chunkserver or add another", d.path, err)
	}
	d.failed.Store(true)
	return gfs.Errorf(gfs.CodeUnavailable, "index in %s: %v; replace the disk", d.path, err)
}

// createExclusive makes an empty replica's two files. Leftovers of a deletion or creation that a crash cut short
// are moved aside: the index knows of no replica here.
func (d *directory) createExclusive(h gfs.ChunkHandle, stamp int64) (data, meta file, err error) {
	path := d.chunkPath(h)
	const flags = os.O_CREATE | os.O_EXCL
	data, err = d.openFile(path, flags)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(filepath.Dir(path), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return file{}, file{}, err
		}
		data, err = d.openFile(path, flags)
	case errors.Is(err, fs.ErrExist):
		if err := d.moveAside(h, trashFileName(h, stamp)); err != nil {
			return file{}, file{}, err
		}
		data, err = d.openFile(path, flags)
	}
	if err != nil {
		return file{}, file{}, err
	}
	// A checksum file without data can be left by a crash between the two renames of moveAside.
	if err := os.Remove(path + sumSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		data.Close()
		return file{}, file{}, err
	}
	if meta, err = d.openFile(path+sumSuffix, flags); err != nil {
		data.Close()
		return file{}, file{}, errors.Join(err, os.Remove(path))
	}
	return data, meta, nil
}

// openReplica opens a replica's two files.
func (d *directory) openReplica(h gfs.ChunkHandle) (data, meta file, err error) {
	path := d.chunkPath(h)
	if data, err = d.openFile(path, 0); err != nil {
		return file{}, file{}, err
	}
	if meta, err = d.openFile(path+sumSuffix, 0); err != nil {
		data.Close()
		return file{}, file{}, err
	}
	return data, meta, nil
}

// trashFileName is the name of a deleted replica's data: its handle and when it was deleted in nanoseconds since 1970.
func trashFileName(h gfs.ChunkHandle, stamp int64) string {
	return h.String() + "." + strconv.FormatInt(stamp, 10)
}

// parseTrashName reads what trashFileName wrote, with or without sumSuffix.
func parseTrashName(name string) (stamp int64, ok bool) {
	handle, rest, ok := strings.Cut(strings.TrimSuffix(name, sumSuffix), ".")
	if !ok {
		return 0, false
	}
	if _, err := gfs.ParseChunkHandle(handle); err != nil {
		return 0, false
	}
	stamp, err := strconv.ParseInt(rest, 10, 64)
	return stamp, err == nil
}

// moveAside moves a replica's files to the trash under a name. Files that are gone already are no error, so that
// it can be repeated after a crash.
func (d *directory) moveAside(h gfs.ChunkHandle, name string) error {
	if _, err := d.fault.ask(opRename, d.chunkPath(h), 0); err != nil {
		return err
	}
	var errs error
	for _, suffix := range [...]string{"", sumSuffix} {
		err := os.Rename(d.chunkPath(h)+suffix, filepath.Join(d.path, trashName, name+suffix))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// The identity file says whose data a directory holds.
const (
	identityName   = "identity"
	identityMagic  = "cairn chunkserver"
	identityFormat = 1
	maxIdentity    = 4096 // bytes
)

type identity struct {
	Magic   string       `json:"magic"`
	Format  int          `json:"format"`
	Server  gfs.ServerID `json:"server"`
	Cluster string       `json:"cluster"`
}

// readIdentity reads the identity of a data directory and checks it against the cluster; fs.ErrNotExist when it
// has none yet.
func readIdentity(dir, cluster string) (identity, error) {
	path := filepath.Join(dir, identityName)
	f, err := os.Open(path)
	if err != nil {
		return identity{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err != nil {
		return identity{}, err
	}
	var id identity
	if err := json.Unmarshal(text, &id); err != nil || id.Magic != identityMagic {
		return identity{}, gfs.Errorf(gfs.CodeInvalid, "%s is not the identity of a chunkserver: name another data directory", path)
	}
	if id.Format != identityFormat {
		return identity{}, gfs.Errorf(gfs.CodeInvalid, "%s has format %d, this program knows format %d: run the program "+
			"that wrote it, or a newer one", path, id.Format, identityFormat)
	}
	if raw, err := hex.DecodeString(string(id.Server)); err != nil || len(raw) != 8 {
		return identity{}, gfs.Errorf(gfs.CodeInvalid, "%s: server id %q, want 16 hex digits", path, id.Server)
	}
	if id.Cluster != cluster {
		return identity{}, gfs.Errorf(gfs.CodeWrongCluster, "%s belongs to cluster %q, not to %q: name that cluster or "+
			"another data directory", dir, id.Cluster, cluster)
	}
	return id, nil
}

// settleIdentity reads the identities of all directories, which must agree, and gives it to those that have none
// yet: all of them at a first start, added ones later.
func settleIdentity(dirs []string, cluster string, random io.Reader) (gfs.ServerID, error) {
	var server gfs.ServerID
	var fresh []string
	for _, dir := range dirs {
		id, err := readIdentity(dir, cluster)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := refuseUsed(dir); err != nil {
				return "", err
			}
			fresh = append(fresh, dir)
		case err != nil:
			return "", err
		case server != "" && id.Server != server:
			return "", gfs.Errorf(gfs.CodeInvalid, "%s belongs to chunkserver %s, another directory to %s: start one process for each",
				dir, id.Server, server)
		default:
			server = id.Server
		}
	}
	if server == "" {
		var raw [8]byte
		if _, err := io.ReadFull(random, raw[:]); err != nil {
			return "", fmt.Errorf("server id: %w", err)
		}
		server = gfs.ServerID(hex.EncodeToString(raw[:]))
	}
	for _, dir := range fresh {
		if err := writeIdentity(dir, identity{identityMagic, identityFormat, server, cluster}); err != nil {
			return "", err
		}
	}
	return server, nil
}

// refuseUsed refuses a directory that holds replicas although it has no identity.
func refuseUsed(dir string) error {
	for _, name := range [...]string{indexName, chunksName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return gfs.Errorf(gfs.CodeInvalid, "%s holds %s but no %s: restore that file or name an empty directory",
				dir, name, identityName)
		}
	}
	return nil
}

// writeIdentity puts an identity in place, whole and durable or not at all.
func writeIdentity(dir string, id identity) error {
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, identityName)
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(dir)
}
