package namespace

import (
	"encoding/binary"

	"github.com/cairnfs/cairn/messages/gfs"
)

// The kinds of entries of the one tree: the first byte of each key. Numbers in keys are big-endian, so that keys
// sort as their numbers do. The bytes are part of the checkpoint format.
const (
	kindName    = 'N' // number → a user or group that inodes name by number; before them in a checkpoint
	kindAnswer  = 'a' // session, sequence → the remembered outcome
	kindDirent  = 'd' // directory, name → id of the file or directory
	kindInode   = 'i' // id → attributes, chunks
	kindLoss    = 'l' // chunk → the version from which on what was not synced before may be missing
	kindQueue   = 'q' // id → how many of the chunks are gone: files and directories being dropped
	kindRuns    = 'r' // file, index behind the last chunk → earlier chunks of a large file
	kindSession = 's' // session → when it was last active, what is remembered
	kindTrash   = 't' // removal time, id → original path
	kindUndo    = 'u' // original path, NUL, the same inverted so that the newest comes first
)

// maxFileID is far above what can be given out, and leaves a directory entry a bit to spare.
const maxFileID = 1 << 62

// keyRoom lets most keys be built on the stack.
const keyRoom = 64

func inodeKey(id gfs.FileID) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindInode), uint64(id))
}

func direntKey(parent gfs.FileID, name string) []byte {
	key := binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindDirent), uint64(parent))
	return append(key, name...)
}

func lossKey(h gfs.ChunkHandle) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindLoss), uint64(h))
}

func nameKey(number int) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, keyRoom), kindName), uint32(number))
}

func queueKey(id gfs.FileID) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindQueue), uint64(id))
}

// runsKey is the key of the segment of chunks that ends before index end. A search for (file, i+1) meets the
// segment that holds chunk i.
func runsKey(file gfs.FileID, end int) []byte {
	key := binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindRuns), uint64(file))
	return binary.BigEndian.AppendUint32(key, uint32(end))
}

func sessionKey(session uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindSession), session)
}

func answerKey(session, sequence uint64) []byte {
	key := binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindAnswer), session)
	return binary.BigEndian.AppendUint64(key, sequence)
}

func trashKey(removed int64, id gfs.FileID) []byte {
	key := binary.BigEndian.AppendUint64(append(make([]byte, 0, keyRoom), kindTrash), uint64(removed))
	return binary.BigEndian.AppendUint64(key, uint64(id))
}

func undoPrefix(path string) []byte {
	key := append(make([]byte, 0, keyRoom), kindUndo)
	key = append(key, path...)
	return append(key, 0) // no path holds a NUL
}

func undoKey(path string, removed int64, id gfs.FileID) []byte {
	key := binary.BigEndian.AppendUint64(undoPrefix(path), ^uint64(removed))
	return binary.BigEndian.AppendUint64(key, ^uint64(id))
}

// number reads the big-endian 64-bit number at an offset of a key.
func number(key []byte, off int) uint64 { return binary.BigEndian.Uint64(key[off:]) }

// packDirent is the value of a directory entry.
func packDirent(id gfs.FileID, directory bool) []byte {
	n := uint64(id) << 1
	if directory {
		n |= 1
	}
	return binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64), n)
}

func unpackDirent(value []byte) (id gfs.FileID, directory bool, ok bool) {
	n, size := binary.Uvarint(value)
	return gfs.FileID(n >> 1), n&1 == 1, size > 0 && size == len(value) && n>>1 != 0
}
