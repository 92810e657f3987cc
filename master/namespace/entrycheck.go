package namespace

import (
	"encoding/binary"
	"errors"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Checks of the entries in a checkpoint. They see to it that each can be decoded and is within bounds; how the
// entries of a whole state must fit together is what Verify checks.

var errEntry = errors.New("bad entry")

// entry checks one entry of the tree, in the order of their keys, and counts it.
func (l *loader) entry(key, value []byte) error {
	if len(key) == 0 {
		return errEntry
	}
	ok := false
	switch key[0] {
	case kindName:
		ok = l.name(key, value)
	case kindAnswer:
		_, err := unpackAnswer(value)
		ok = len(key) == 17 && err == nil
	case kindDirent:
		ok = l.dirent(key, value)
	case kindInode:
		ok = l.inode(key, value)
	case kindLoss:
		ok = len(key) == 9 && len(value) == 8 && number(value, 0) != 0
	case kindQueue:
		d := decoder{rest: value}
		l.given += int(d.uvarint(gfs.MaxFileChunks))
		ok = len(key) == 9 && l.known(number(key, 1)) && d.done()
	case kindRuns:
		runs, err := parseRuns(value)
		ok = len(key) == 13 && err == nil && len(runs) > 0 && l.reserved(runs) &&
			chunksIn(runs) <= int(binary.BigEndian.Uint32(key[9:]))
		l.chunksNamed += chunksIn(runs)
	case kindSession:
		_, whole := unpackSession(value)
		ok = len(key) == 9 && number(key, 1) != 0 && whole
		l.s.counts.Sessions++
	case kindTrash:
		ok = len(key) == 17 && number(key, 1) <= uint64(l.s.clock) && l.known(number(key, 9)) && isClean(value)
		l.s.counts.Trash++
	case kindUndo:
		ok = len(key) > 18 && len(value) == 0 && key[len(key)-17] == 0 && isClean(key[1:len(key)-17])
	}
	if !ok {
		return errEntry
	}
	return nil
}

// name takes an interned name. They are numbered without gaps and come before the inodes that use them.
func (l *loader) name(key, value []byte) bool {
	s, name := l.s, string(value)
	if len(key) != 5 || int(binary.BigEndian.Uint32(key[1:])) != len(s.names)+1 || len(s.names) == maxNames || checkOwner(name) != nil {
		return false
	}
	if _, twice := s.numbers[name]; twice {
		return false
	}
	s.names = append(s.names, name)
	s.numbers[name] = len(s.names)
	return true
}

func (l *loader) dirent(key, value []byte) bool {
	if len(key) < 10 || !l.known(number(key, 1)) || gfs.CheckName(string(key[9:])) != nil {
		return false
	}
	id, _, ok := unpackDirent(value)
	return ok && l.known(uint64(id))
}

func (l *loader) inode(key, value []byte) bool {
	if len(key) != 9 || !l.known(number(key, 1)) {
		return false
	}
	n, err := unpackInode(value, l.s.names)
	if err != nil || !l.reserved(n.runs) {
		return false
	}
	l.chunksNamed += chunksIn(n.runs)
	if n.directory {
		l.s.counts.Directories++
	} else {
		l.s.counts.Files++
	}
	return true
}

// known reports whether an id was given out.
func (l *loader) known(id uint64) bool { return id != 0 && id < uint64(l.s.nextFile) }

// reserved reports whether all the handles were reserved.
func (l *loader) reserved(runs []run) bool {
	for _, r := range runs {
		if r.first+gfs.ChunkHandle(r.count) > l.s.nextHandle {
			return false
		}
	}
	return true
}

func isClean(path []byte) bool {
	clean, err := gfs.CleanPath(string(path))
	return err == nil && clean == string(path)
}
