package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	identityFile     = "identity"
	identityMagic    = "cairn master identity"
	identityFormat   = 1
	maxIdentityBytes = 1024
	lockFile         = "lock"
	// maxIDBytes bounds the names of clusters and masters; they appear in subjects, file names and log lines.
	maxIDBytes = 64
)

// identity says whose folder it is.
type identity struct {
	cluster string
	master  string
}

// checkID refuses names that would not survive in a NATS subject or an identity file.
func checkID(what, id string) error {
	if id == "" || len(id) > maxIDBytes {
		return gfs.Errorf(gfs.CodeInvalid, "%s %q: want 1 to %d letters, digits, '-' or '_'", what, id, maxIDBytes)
	}
	for _, c := range []byte(id) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return gfs.Errorf(gfs.CodeInvalid, "%s %q: want only letters, digits, '-' and '_'", what, id)
		}
	}
	return nil
}

// encode writes the identity as lines of text, the last one a CRC32C of the others.
func (id identity) encode() []byte {
	body := fmt.Sprintf("%s\nformat %d\ncluster %s\nmaster %s\n", identityMagic, identityFormat, id.cluster, id.master)
	return fmt.Appendf(nil, "%scrc32c %08x\n", body, crc32.Checksum([]byte(body), castagnoli()))
}

// decodeIdentity reads what encode wrote. Errors are gfs.CodeCorrupt, or gfs.CodeInvalid for a newer format.
func decodeIdentity(data []byte) (identity, error) {
	corrupt := gfs.Errorf(gfs.CodeCorrupt, "identity file of %d bytes is damaged: put back the one from a backup of this folder", len(data))
	body, sum, found := bytes.Cut(data, []byte("crc32c "))
	lines := strings.Split(string(body), "\n")
	if len(data) > maxIdentityBytes || !found || lines[0] != identityMagic || len(lines) < 3 ||
		string(sum) != fmt.Sprintf("%08x\n", crc32.Checksum(body, castagnoli())) {
		return identity{}, corrupt
	}
	format, ok := strings.CutPrefix(lines[1], "format ")
	if !ok {
		return identity{}, corrupt
	}
	if number, err := strconv.Atoi(format); err != nil || number > identityFormat {
		return identity{}, gfs.Errorf(gfs.CodeInvalid, "identity file of format %q: this program knows up to %d; run a newer one", format, identityFormat)
	}
	if len(lines) != 5 || lines[4] != "" {
		return identity{}, corrupt
	}
	cluster, okCluster := strings.CutPrefix(lines[2], "cluster ")
	master, okMaster := strings.CutPrefix(lines[3], "master ")
	if !okCluster || !okMaster || checkID("cluster", cluster) != nil || checkID("master", master) != nil {
		return identity{}, corrupt
	}
	return identity{cluster: cluster, master: master}, nil
}

// claimFolder takes the folder for one process: it locks it, and checks or (in an empty folder) writes whose it is.
// The folder stays claimed until the returned file is closed.
func claimFolder(dir string, want identity) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("master folder: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := checkIdentity(dir, want); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

func checkIdentity(dir string, want identity) error {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, raftFolder)); err == nil {
			return gfs.Errorf(gfs.CodeCorrupt, "folder %s holds an operation log but no identity file: put it back from a backup", dir)
		}
		return writeFileDurably(path, want.encode())
	}
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	got, err := decodeIdentity(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if got.cluster != want.cluster {
		return gfs.Errorf(gfs.CodeWrongCluster, "folder %s is of cluster %q, not %q: name that cluster or use another folder", dir, got.cluster, want.cluster)
	}
	if got.master != want.master {
		return gfs.Errorf(gfs.CodeInvalid, "folder %s is of master %q, not %q: name that master or use another folder", dir, got.master, want.master)
	}
	return nil
}

// writeFileDurably makes path hold data, whole or not at all, also after a crash.
func writeFileDurably(path string, data []byte) error {
	temporary := path + ".tmp"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
