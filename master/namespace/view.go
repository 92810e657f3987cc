package namespace

import (
	"iter"
	"strings"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// View is an immutable picture of a State, as of the record after which it was taken. Its methods may be called
// from any goroutine, never block, and return only memory that the caller owns.
type View struct{ image }

// Counts sizes the state.
type Counts struct {
	Files       int // not yet dropped: those in the trash included
	Directories int // not yet dropped: the root and those in the trash included
	Chunks      int // with at least one reference
	Sessions    int
	Trash       int // removals that can be undone; a directory with all that is in it is one
}

// File is what CheckFile tells of a file.
type File struct {
	ID       gfs.FileID
	Replicas int // wanted for each chunk
	Chunks   int
	Synced   bool // acknowledgements wait for fsync
}

// Chunk is what the log knows of a chunk.
type Chunk struct {
	Handle     gfs.ChunkHandle
	Version    gfs.Version // the logged one
	Members    int         // of that configuration; who they are is not logged
	Open       bool        // open for mutation
	Length     int64       // bytes, as of the last close
	Replicas   int         // wanted
	References int         // files that share it, at least 1
	File       gfs.FileID  // the one it was placed in
}

// TrashEntry is a removal that can be undone.
type TrashEntry struct {
	Path    string // where it was
	File    gfs.FileID
	Removed time.Time
}

// Epoch is the current epoch, 0 before the first master began to act.
func (v *View) Epoch() gfs.Epoch { return v.epoch }

// NextHandle is the first chunk handle that no master has reserved.
func (v *View) NextHandle() gfs.ChunkHandle { return v.nextHandle }

// Counts sizes the state, O(1).
func (v *View) Counts() Counts { return v.counts }

// Time is the latest time that was applied: the state's clock, which never runs backwards.
func (v *View) Time() time.Time { return time.Unix(0, v.clock) }

// Stat describes what a path leads to. The caller must be allowed to search the directories on the way.
func (v *View) Stat(id *pb.Identity, path string) (*pb.FileStatus, error) {
	c, err := newCaller(id)
	if err != nil {
		return nil, err
	}
	t, err := v.must(c, path)
	if err != nil {
		return nil, err
	}
	return v.statusOf(&t), nil
}

// StatID describes a file or directory wherever it is, also in the trash, until it is dropped. Its name is left
// empty, except for the root: an id has no name. No permission is asked: who has the id once found the file.
func (v *View) StatID(id *pb.Identity, file gfs.FileID) (*pb.FileStatus, error) {
	n, err := v.held(file)
	if err != nil {
		return nil, err
	}
	name := ""
	if file == gfs.RootID {
		name = "/"
	}
	return v.status(file, name, &n), nil
}

// List is a page of a directory: entries with names greater than after, in name order, at most limit of them
// (0, and more than gfs.MaxListEntries, mean that many), and whether there are more. The caller must be allowed
// to read the directory.
func (v *View) List(id *pb.Identity, path, after string, limit int) (entries []*pb.FileStatus, more bool, err error) {
	c, err := newCaller(id)
	if err != nil {
		return nil, false, err
	}
	t, err := v.must(c, path)
	switch {
	case err != nil:
		return nil, false, err
	case !t.inode.directory:
		return nil, false, gfs.Errorf(gfs.CodeNotDirectory, "%s is a file: ask for its status instead", t.path)
	case !c.may(&t.inode, mayRead):
		return nil, false, denied(c, "list", t.path)
	}
	if limit <= 0 || limit > gfs.MaxListEntries {
		limit = gfs.MaxListEntries
	}
	prefix := direntKey(t.id, "")
	from := direntKey(t.id, after)
	if after != "" {
		from = append(from, 0) // the least string above it
	}
	for key, value := range v.entries.from(from) {
		if len(key) < len(prefix) || string(key[:len(prefix)]) != string(prefix) {
			break
		}
		if len(entries) == limit {
			return entries, true, nil
		}
		child, _, ok := unpackDirent(value)
		if !ok {
			return nil, false, damaged("directory entry", t.id)
		}
		n, err := v.inode(child)
		if err != nil {
			return nil, false, err
		}
		entries = append(entries, v.status(child, string(key[len(prefix):]), &n))
	}
	return entries, false, nil
}

// CheckFile checks that the caller may read a file, or write to it. An id says nothing of the path, so only the
// file's own permission bits decide. A directory is IS_DIRECTORY.
func (v *View) CheckFile(id *pb.Identity, file gfs.FileID, write bool) (File, error) {
	c, err := newCaller(id)
	if err != nil {
		return File{}, err
	}
	n, err := v.heldFile(file)
	if err != nil {
		return File{}, err
	}
	want, what := uint32(mayRead), "read"
	if write {
		want, what = mayWrite, "write"
	}
	if !c.may(&n, want) {
		return File{}, gfs.Errorf(gfs.CodePermission, "user %q may not %s file %d: ask its owner for the permission", c.user, what, file)
	}
	return File{ID: file, Replicas: n.replicas, Chunks: n.chunks(), Synced: n.synced}, nil
}

// FileChunks are count chunks of a file from index first on, fewer at the end of the file, and the number of the
// file's chunks. Negative numbers count as zero.
func (v *View) FileChunks(file gfs.FileID, first, count int) (chunks []Chunk, total int, err error) {
	n, err := v.heldFile(file)
	if err != nil {
		return nil, 0, err
	}
	total = n.chunks()
	first = min(max(first, 0), total)
	count = min(max(count, 0), total-first)
	if count == 0 {
		return nil, total, nil
	}
	chunks = make([]Chunk, 0, count)
	for _, h := range v.handles(file, &n, first) {
		chunks = append(chunks, describe(h, v.table.get(h), &n))
		if len(chunks) == count {
			break
		}
	}
	return chunks, total, nil
}

// Chunk is what the log knows of a chunk; false if no file has it.
func (v *View) Chunk(h gfs.ChunkHandle) (Chunk, bool) { return v.chunk(h) }

// LostBefore is the version of a chunk before which writes that were acknowledged and not synced may be lost, since power
// was lost at all its replicas then; 0 if that never was so.
func (v *View) LostBefore(h gfs.ChunkHandle) gfs.Version { return v.lostBefore(h) }

// Chunks iterates over all chunks with handles from from on, in order of handles.
func (v *View) Chunks(from gfs.ChunkHandle) iter.Seq[Chunk] { return v.sweep(from, false) }

// OpenChunks iterates over the chunks that are open for mutation, as Chunks does. It is fast where few are.
func (v *View) OpenChunks(from gfs.ChunkHandle) iter.Seq[Chunk] { return v.sweep(from, true) }

// Trash iterates over the removals that can be undone, oldest first.
func (v *View) Trash() iter.Seq[TrashEntry] {
	return func(yield func(TrashEntry) bool) {
		for key, path := range v.entries.prefixed([]byte{kindTrash}) {
			e := TrashEntry{Path: string(path), File: gfs.FileID(number(key, 9)), Removed: time.Unix(0, int64(number(key, 1)))}
			if !yield(e) {
				return
			}
		}
	}
}

const (
	// maxTrashVisits bounds the entries that one page of ListTrash looks at, since a caller may see few of them.
	maxTrashVisits = 4 * gfs.MaxListEntries
	// maxTrashPathBytes bounds the paths of a page, so that it fits into a message with all else that it says.
	maxTrashPathBytes = gfs.MaxMessageBytes / 4
)

// ListTrash is a page of at most limit (0 to gfs.MaxListEntries; 0 means the latter) of the removals behind a place
// that the caller may undo: those of what the caller owns, and of names in directories that the caller may change.
// The oldest come first. Next is where the next page begins, nil behind the last one.
func (v *View) ListTrash(id *pb.Identity, after *pb.TrashPlace, limit int) (entries []*pb.TrashEntry, next *pb.TrashPlace, err error) {
	c, err := newCaller(id)
	if err != nil {
		return nil, nil, err
	}
	if limit <= 0 || limit > gfs.MaxListEntries {
		limit = gfs.MaxListEntries
	}
	from := []byte{kindTrash}
	if after != nil {
		from = append(trashKey(after.GetRemovedUnixNano(), gfs.FileID(after.GetFileId())), 0) // the least key above it
	}
	visits, pathBytes := 0, 0
	for key, path := range v.entries.from(from) {
		if key[0] != kindTrash {
			break
		}
		if len(entries) == limit || visits == maxTrashVisits || pathBytes >= maxTrashPathBytes {
			return entries, next, nil
		}
		visits++
		removed, file := int64(number(key, 1)), gfs.FileID(number(key, 9))
		next = &pb.TrashPlace{RemovedUnixNano: removed, FileId: uint64(file)}
		n, err := v.inode(file)
		if err != nil {
			return nil, nil, err
		}
		if !c.owns(&n) {
			if t, err := v.walk(c, string(path)); err != nil || t.writable(c) != nil {
				continue
			}
		}
		name := string(path)
		pathBytes += len(name)
		status := v.status(file, name[strings.LastIndexByte(name, '/')+1:], &n)
		entries = append(entries, &pb.TrashEntry{Path: name, RemovedUnixNano: removed, Status: status})
	}
	return entries, nil, nil
}

// DropDue reports whether a DropTrash record with this time would find anything to drop.
func (v *View) DropDue(before time.Time) bool { return v.dropDue(before.UnixNano()) }

// Release ends the use of the view. A view holds memory alone, so there is nothing to do but to forget it.
func (v *View) Release() {}

// held reads a file or directory that is not being dropped.
func (m *image) held(id gfs.FileID) (inode, error) {
	n, found, err := m.findInode(id)
	if err == nil && (!found || n.dropping) {
		err = gfs.Errorf(gfs.CodeNotExist, "file %d was removed: open the path again", id)
	}
	return n, err
}

func (m *image) heldFile(id gfs.FileID) (inode, error) {
	n, err := m.held(id)
	if err == nil && n.directory {
		err = gfs.Errorf(gfs.CodeIsDirectory, "file %d is a directory: it has no chunks", id)
	}
	return n, err
}
