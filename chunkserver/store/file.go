package store

import (
	"errors"
	"hash/crc32"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cairnfs/cairn/messages/gfs"
)

// operation names a step that uses a disk, for the tests that let one fail or stop.
type operation string

// The operations.
const (
	opCreate    operation = "create"
	opOpen      operation = "open"
	opRead      operation = "read"
	opWrite     operation = "write"
	opTruncate  operation = "truncate"
	opAllocate  operation = "allocate"
	opSync      operation = "sync"
	opSyncNames operation = "sync names" // in a folder
	opRename    operation = "rename"
	opReplace   operation = "replace" // the rename that puts a side file in place
	opCommit    operation = "commit"
	opCommitted operation = "committed" // asked when it is done: an error says that it may not be
)

// faultFunc is asked before each operation; it may let pass less than all bytes, or refuse with an error. It is
// nil outside of tests.
type faultFunc func(op operation, path string, bytes int) (allowed int, err error)

// ask is true and nil where nothing stands against an operation of n bytes.
func (f faultFunc) ask(op operation, path string, n int) (int, error) {
	if f == nil {
		return n, nil
	}
	return f(op, path, n)
}

// file is an open file of a replica. Its methods may be used by many goroutines.
type file struct {
	*os.File
	fault  faultFunc
	noSync bool // see Config
}

// openFile opens a file of a replica, O_RDWR and the flags given.
func (d *directory) openFile(path string, flags int) (file, error) {
	op := opOpen
	if flags&os.O_CREATE != 0 {
		op = opCreate
	}
	if _, err := d.fault.ask(op, path, 0); err != nil {
		return file{}, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o640)
	return file{f, d.fault, d.noSync}, err
}

// writeAt writes all of b or returns an error; what was written before an error is undefined.
func (f file) writeAt(b []byte, off int64) error {
	n, err := f.fault.ask(opWrite, f.Name(), len(b))
	if n > 0 {
		if _, werr := f.WriteAt(b[:n], off); werr != nil {
			return werr
		}
	}
	return err
}

// ReadAt is that of os.File.
func (f file) ReadAt(b []byte, off int64) (int, error) {
	if _, err := f.fault.ask(opRead, f.Name(), len(b)); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, off)
}

// readFull reads exactly len(b) bytes; what lies beyond the file's end are zeros, as everything is that was never
// written.
func (f file) readFull(b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		clear(b[n:])
		err = nil
	}
	return err
}

// truncate sets the file's size: bytes beyond are gone, bytes up to it that were not there are zeros.
func (f file) truncate(size int64) error {
	if _, err := f.fault.ask(opTruncate, f.Name(), 0); err != nil {
		return err
	}
	return f.Truncate(size)
}

// allocate reserves disk space for a range without changing the file's size. File systems that cannot do that
// are none the worse for it.
func (f file) allocate(off, n int64) error {
	if allowed, err := f.fault.ask(opAllocate, f.Name(), int(n)); err != nil || allowed == 0 {
		return err
	}
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return nil
		}
		return err
	}
}

// sync makes the file's bytes and size durable.
func (f file) sync() error {
	if _, err := f.fault.ask(opSync, f.Name(), 0); err != nil {
		return err
	}
	if f.noSync {
		return nil
	}
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncDir is the same for a folder of the data directory.
func (d *directory) syncDir(path string) error {
	if _, err := d.fault.ask(opSyncNames, path, 0); err != nil {
		return err
	}
	if d.noSync {
		return nil
	}
	return syncDir(path)
}

// replace renames a file over another.
func (d *directory) replace(from, to string) error {
	if _, err := d.fault.ask(opReplace, to, 0); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// outOfSpace reports whether an error means that a disk, or the share of it that we may have, is full.
func outOfSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// damaged reports whether an error means that a disk, or the file system on it, does not give what it holds.
func damaged(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EUCLEAN) || errors.Is(err, syscall.EBADMSG)
}

// diskError gives a failed write its code: full disks have their own, after everything else the replica is
// suspect and another one has to be used.
func diskError(h gfs.ChunkHandle, what string, err error) error {
	if outOfSpace(err) {
		return gfs.Errorf(gfs.CodeNoSpace, "chunk %s: %s: %v; free space on this chunkserver or add another", h, what, err)
	}
	return gfs.Errorf(gfs.CodeNoReplica, "chunk %s: %s: %v; the replica is suspect until it is reconciled", h, what, err)
}

// castagnoli is the polynomial of every checksum here; amd64 and arm64 have instructions for it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeros is a block of zeros. Nothing writes to it.
var zeros [gfs.BlockSize]byte

// zeroBlockCRC is the CRC32C of a whole block of zeros.
const zeroBlockCRC = 0x72c0c4a4

// checksum is the CRC32C of b.
func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// extendChecksum is the CRC32C of what sum covers followed by b.
func extendChecksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// blockCount is the number of blocks, the last perhaps in part, that hold length bytes.
func blockCount(length int64) int { return int((length + gfs.BlockSize - 1) / gfs.BlockSize) }

// bytesInBlock is how many of the first length bytes of a chunk lie in a block.
func bytesInBlock(block int, length int64) int {
	return int(min(max(length-int64(block)*gfs.BlockSize, 0), gfs.BlockSize))
}

// blockSet is a set of block numbers. The zero value is empty.
type blockSet [gfs.BlocksPerChunk / 64]uint64

func (s *blockSet) has(block int) bool { return s[block/64]&(1<<(block%64)) != 0 }
func (s *blockSet) add(block int)      { s[block/64] |= 1 << (block % 64) }
func (s *blockSet) remove(block int)   { s[block/64] &^= 1 << (block % 64) }

// list is the members in rising order, nil when there is none.
func (s *blockSet) list() []uint32 {
	var out []uint32
	for block := range gfs.BlocksPerChunk {
		if s.has(block) {
			out = append(out, uint32(block))
		}
	}
	return out
}
