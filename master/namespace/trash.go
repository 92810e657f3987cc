package namespace

import (
	"encoding/binary"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// A removal takes one name away, whatever lies below it. What had the name goes into the trash, from where it
// can come back, or at once into the queue of what is being dropped. The queue is emptied in slices of bounded
// work: a directory puts its children into the queue one by one, a file gives up its chunks.

const (
	// dropAtOnce is the work, in files and chunks, that a removal past the trash or a replacement does at once;
	// the rest waits for the next DropTrash record.
	dropAtOnce = 64
	// maxDrop bounds the work of one record.
	maxDrop = 1 << 16
)

// removePath removes what a path leads to.
func (s *State) removePath(c caller, r *pb.Remove) (*pb.FileStatus, error) {
	t, err := s.must(c, r.GetPath())
	if r.GetRecursive() && gfs.CodeOf(err) == gfs.CodeNotExist {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if t.path == "/" {
		return nil, gfs.Errorf(gfs.CodeInvalid, "the root directory cannot be removed: remove what is in it")
	}
	if err := t.writable(c); err != nil {
		return nil, err
	}
	if t.inode.directory && !s.isEmpty(t.id) {
		if !r.GetRecursive() {
			return nil, gfs.Errorf(gfs.CodeNotEmpty, "%s is not empty: remove what is in it first, or remove it recursively", t.path)
		}
		if !c.may(&t.inode, mayWrite|mayExecute) {
			return nil, denied(c, "change names in", t.path)
		}
	}
	status := s.statusOf(&t)
	s.unlink(&t)
	if r.GetNow() {
		s.discard(t.id, &t.inode)
		return status, nil
	}
	s.put(trashKey(s.clock, t.id), []byte(t.path))
	s.put(undoKey(t.path, s.clock, t.id), nil)
	s.counts.Trash++
	return status, nil
}

// undelete brings the newest removal of a path back, with all that was below it.
func (s *State) undelete(c caller, r *pb.Undelete) (*pb.FileStatus, error) {
	t, err := s.walk(c, r.GetPath())
	if err != nil {
		return nil, err
	}
	if t.existing {
		return nil, gfs.Errorf(gfs.CodeExist, "%s exists: rename it first", t.path)
	}
	var removed int64
	var id gfs.FileID
	prefix := undoPrefix(t.path)
	for key := range s.entries.prefixed(prefix) {
		removed, id = int64(^number(key, len(prefix))), gfs.FileID(^number(key, len(prefix)+8))
		break
	}
	if id == 0 {
		return nil, gfs.Errorf(gfs.CodeNotExist, "%s is not in the trash: what was removed with its directory comes back with the directory", t.path)
	}
	if err := t.writable(c); err != nil {
		return nil, err
	}
	if t.inode, err = s.inode(id); err != nil {
		return nil, err
	}
	s.forgetRemoval(t.path, removed, id)
	t.id = id
	s.link(&t)
	return s.statusOf(&t), nil
}

// forgetRemoval takes an entry out of the trash.
func (s *State) forgetRemoval(path string, removed int64, id gfs.FileID) {
	s.remove(trashKey(removed, id))
	s.remove(undoKey(path, removed, id))
	s.counts.Trash--
}

// dropTrash ends the retention of what was removed before a time, and works on the queue. The record's limit
// bounds the files, directories and chunks touched in all.
func (s *State) dropTrash(r *pb.DropTrash) Outcome {
	if r.GetLimit() == 0 {
		return failed(gfs.Errorf(gfs.CodeInvalid, "drop of the trash with limit 0: want 1 to %d", maxDrop))
	}
	budget := min(int(r.GetLimit()), maxDrop)
	for budget > 0 {
		var path string
		var removed int64
		var id gfs.FileID
		for key, value := range s.entries.prefixed([]byte{kindTrash}) {
			if at := int64(number(key, 1)); at < r.GetBeforeUnixNano() {
				path, removed, id = string(value), at, gfs.FileID(number(key, 9))
			}
			break
		}
		if id == 0 {
			break
		}
		n, err := s.inode(id)
		if err != nil {
			return failed(err)
		}
		s.forgetRemoval(path, removed, id)
		s.enqueue(id, &n)
		budget--
	}
	for budget > 0 {
		id, ok := s.queued()
		if !ok {
			break
		}
		if err := s.drop(id, &budget); err != nil {
			return failed(err)
		}
	}
	return Outcome{More: s.dropDue(r.GetBeforeUnixNano())}
}

// dropDue reports whether anything is queued, or was removed before a time.
func (m *image) dropDue(before int64) bool {
	if _, ok := m.queued(); ok {
		return true
	}
	for key := range m.entries.prefixed([]byte{kindTrash}) {
		return int64(number(key, 1)) < before
	}
	return false
}

func (m *image) queued() (gfs.FileID, bool) {
	for key := range m.entries.prefixed([]byte{kindQueue}) {
		return gfs.FileID(number(key, 1)), true
	}
	return 0, false
}

// discard drops what nothing names any more: at once if it is small.
func (s *State) discard(id gfs.FileID, n *inode) {
	s.enqueue(id, n)
	budget := dropAtOnce
	_ = s.drop(id, &budget) // what is damaged stays in the queue, and DropTrash tells
}

// enqueue puts a file or directory into the queue. Nobody opens it from here on.
func (s *State) enqueue(id gfs.FileID, n *inode) {
	n.dropping = true
	s.putInode(id, n)
	s.put(queueKey(id), []byte{0})
}

// drop works on one entry of the queue for as much as the budget allows.
func (s *State) drop(id gfs.FileID, budget *int) error {
	n, err := s.inode(id)
	if err != nil {
		return err
	}
	if n.directory {
		err = s.dropChildren(id, budget)
		if err != nil || *budget == 0 {
			return err
		}
		s.counts.Directories--
	} else {
		all, err := s.dropChunks(id, &n, budget)
		if err != nil || !all {
			return err
		}
		s.counts.Files--
	}
	*budget--
	s.remove(queueKey(id))
	s.remove(inodeKey(id))
	return nil
}

// dropChildren puts the children of a directory into the queue.
func (s *State) dropChildren(id gfs.FileID, budget *int) error {
	type child struct {
		name string
		id   gfs.FileID
	}
	var children []child
	prefix := direntKey(id, "")
	for key, value := range s.entries.prefixed(prefix) {
		if len(children) == *budget {
			break
		}
		target, _, ok := unpackDirent(value)
		if !ok {
			return damaged("directory entry", id)
		}
		children = append(children, child{string(key[len(prefix):]), target})
	}
	for _, c := range children {
		n, err := s.inode(c.id)
		if err != nil {
			return err
		}
		s.remove(direntKey(id, c.name))
		s.enqueue(c.id, &n)
	}
	*budget -= len(children)
	return nil
}

// dropChunks gives up a file's references to its chunks, from the first on. It tells whether all are gone and
// the budget allows for the file itself.
func (s *State) dropChunks(id gfs.FileID, n *inode, budget *int) (all bool, err error) {
	value, _ := s.entries.get(queueKey(id))
	from, _ := binary.Uvarint(value)
	gone := int(from)
	for _, h := range s.handles(id, n, gone) {
		if *budget == 0 {
			break
		}
		*budget--
		gone++
		s.release(h)
	}
	for s.dropSegment(id, gone) {
	}
	if *budget == 0 {
		s.put(queueKey(id), binary.AppendUvarint(nil, uint64(gone)))
		return false, nil
	}
	if gone != n.chunks() {
		return false, damaged("list of chunks", id)
	}
	return true, nil
}

// dropSegment removes the first segment of a file if the chunks in it are gone.
func (s *State) dropSegment(id gfs.FileID, gone int) bool {
	for key := range s.entries.from(runsKey(id, 0)) {
		if end, ok := segmentEnd(key, id); ok && end <= gone {
			return s.remove(runsKey(id, end))
		}
		break
	}
	return false
}

// segmentEnd is the index behind a segment of a file, false if the key is of something else.
func segmentEnd(key []byte, id gfs.FileID) (int, bool) {
	if len(key) != 13 || key[0] != kindRuns || gfs.FileID(number(key, 1)) != id {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(key[9:])), true
}

// release gives up one reference to a chunk. Without one, no version of it can be logged.
func (s *State) release(h gfs.ChunkHandle) {
	r := s.table.get(h)
	if !r.live() {
		return
	}
	r.references--
	if r.references == 0 {
		r = row{version: goneVersion}
		s.counts.Chunks--
		s.remove(lossKey(h))
		s.drops.add(s.clock, 1)
		s.dropped = append(s.dropped, h)
	}
	s.table.set(s.edit, h, r)
}
