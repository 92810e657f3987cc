package namespace

import (
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// A truncation is one record: the chunks behind the new end leave the file, and the last one left, if its length is not
// what it should be, gives way to a copy of the right length under a fresh handle. Nobody may add to what leaves, and its
// length must be known, so all of it has to be closed; and the copy has to exist. The acting master sees to both before,
// as Truncation tells it, and the record is refused where that no longer holds.

const (
	// dropAtTruncation is how many chunks a truncation drops at once, 256 GiB; the rest waits for the next DropTrash
	// record.
	dropAtTruncation = 4096
	// maxTruncationOpen bounds the open chunks that one look at a truncation names: it is looked at again.
	maxTruncationOpen = 256
)

// Truncation is what a truncation needs before its record can take effect.
type Truncation struct {
	File    gfs.FileID
	First   int               // the first chunk that it touches; from there on none may be opened or made meanwhile
	Open    []gfs.ChunkHandle // to be closed; more may be found when these are
	Replace Chunk             // with nothing open: to be replaced by a copy of Length bytes; handle 0 if none is
	Length  int64
	Synced  bool // of the file
}

// Truncation looks at what a truncation by somebody needs. The errors are those that its record would have, but for
// CodeConflict.
func (v *View) Truncation(id *pb.Identity, r *pb.Truncate) (Truncation, error) {
	c, err := newCaller(id)
	if err != nil {
		return Truncation{}, err
	}
	p, err := v.truncation(c, r)
	return p.Truncation, err
}

// truncation is a Truncation with the file that it is about.
type truncation struct {
	Truncation
	name  string // in the status
	inode inode
	keep  int // chunks of the file afterwards; it has fewer if it must grow first
}

func (m *image) truncation(c caller, r *pb.Truncate) (truncation, error) {
	size := r.GetSize()
	if size < 0 || size > gfs.MaxFileBytes {
		return truncation{}, gfs.Errorf(gfs.CodeInvalid, "truncate to %d bytes: want 0 to %d", size, int64(gfs.MaxFileBytes))
	}
	p, err := m.truncated(c, r)
	if err != nil {
		return p, err
	}
	p.keep = int((size + gfs.ChunkSize - 1) / gfs.ChunkSize)
	p.First, p.Synced = max(p.keep-1, 0), p.inode.synced
	if p.inode.chunks() < p.keep {
		return p, nil
	}
	index := p.First
	for _, h := range m.handles(p.File, &p.inode, p.First) {
		row := m.table.get(h)
		if row.open() {
			if p.Open = append(p.Open, h); len(p.Open) == maxTruncationOpen {
				break
			}
		}
		if index == p.keep-1 {
			p.Length = size - int64(index)*gfs.ChunkSize
			if row.length() != p.Length {
				p.Replace = describe(h, row, &p.inode)
			}
		}
		index++
	}
	if len(p.Open) > 0 {
		p.Replace = Chunk{} // its length is not known yet
	}
	return p, nil
}

// truncated finds the file that a truncation names, by path or id, and that the caller may write to.
func (m *image) truncated(c caller, r *pb.Truncate) (p truncation, err error) {
	if id := gfs.FileID(r.GetFileId()); id != 0 {
		p.File = id
		if p.inode, err = m.heldFile(id); err != nil {
			return p, err
		}
		if !c.may(&p.inode, mayWrite) {
			return p, gfs.Errorf(gfs.CodePermission, "user %q may not write file %d: ask its owner for the permission", c.user, id)
		}
		return p, nil
	}
	t, err := m.must(c, r.GetPath())
	switch {
	case err != nil:
		return p, err
	case t.inode.directory:
		return p, gfs.Errorf(gfs.CodeIsDirectory, "%s is a directory: it has no bytes to truncate", t.path)
	case !c.may(&t.inode, mayWrite):
		return p, denied(c, "write", t.path)
	}
	p.File, p.name, p.inode = t.id, t.name, t.inode
	return p, nil
}

// truncate makes a file as long as asked, unless it has too few chunks for that.
func (s *State) truncate(c caller, r *pb.Truncate) (*pb.FileStatus, error) {
	p, err := s.truncation(c, r)
	if err != nil {
		return nil, err
	}
	n, replacement := &p.inode, r.GetReplacement()
	switch {
	case len(p.Open) > 0:
		return nil, gfs.Errorf(gfs.CodeConflict, "chunk %s is open for mutation: close it first", p.Open[0])
	case n.chunks() < p.keep, n.chunks() == p.keep && p.Replace.Handle == 0:
		return s.status(p.File, p.name, n), nil
	}
	keep := p.keep
	if p.Replace.Handle != 0 {
		if err := s.checkReplacement(&p.Replace, p.Length, replacement); err != nil {
			return nil, err
		}
		keep--
	}
	before := s.lostBefore(p.Replace.Handle)
	if err := s.cut(p.File, n, keep); err != nil {
		return nil, err
	}
	if p.Replace.Handle != 0 {
		handle := gfs.ChunkHandle(replacement.GetHandle())
		s.table.set(s.edit, handle, newRow(gfs.Version(replacement.GetVersion()), p.File, p.Length, int(replacement.GetMembers()), false, 1))
		s.counts.Chunks++
		if before != 0 {
			s.lose(handle, before)
		}
		n.add(handle)
		s.spill(p.File, n)
	}
	n.modified = s.clock
	s.putInode(p.File, n)
	return s.status(p.File, p.name, n), nil
}

// checkReplacement checks that a replacement is one for the chunk as it is now.
func (s *State) checkReplacement(old *Chunk, length int64, r *pb.Replacement) error {
	handle := gfs.ChunkHandle(r.GetHandle())
	switch {
	case gfs.ChunkHandle(r.GetSource()) != old.Handle || gfs.Version(r.GetSourceVersion()) != old.Version:
		return gfs.Errorf(gfs.CodeConflict, "chunk %s in version %s has %d bytes, not %d: make a copy of that length first", old.Handle, old.Version, old.Length, length)
	case handle < s.epochFirst || handle >= s.nextHandle:
		return gfs.Errorf(gfs.CodeConflict, "chunk %s is not among the handles reserved in epoch %d, %s to %s: take another", handle, s.epoch, s.epochFirst, s.nextHandle-1)
	case s.table.get(handle) != row{}:
		return gfs.Errorf(gfs.CodeConflict, "chunk %s was placed before: take another handle", handle)
	}
	return s.checkConfiguration(gfs.Version(r.GetVersion()), r.GetMembers())
}

// cut takes a file's chunks from an index on away from it. They become a file without a name, which is dropped: at once
// as far as the bound allows.
func (s *State) cut(id gfs.FileID, n *inode, keep int) error {
	cut, err := s.cutRuns(id, n, keep)
	if err != nil || len(cut) == 0 {
		return err
	}
	rest, restID := *n, s.newID()
	rest.spilled, rest.runs = 0, nil
	for _, r := range cut {
		rest.runs = append(rest.runs, r)
		s.spill(restID, &rest)
	}
	s.counts.Files++
	s.enqueue(restID, &rest)
	budget := dropAtTruncation
	return s.drop(restID, &budget)
}

// cutRuns is the part of cut that is about the runs of handles. It writes no inode.
func (s *State) cutRuns(id gfs.FileID, n *inode, keep int) ([]run, error) {
	if keep > n.spilled || n.spilled == 0 {
		head, cut := splitRuns(n.runs, keep-n.spilled)
		n.runs = head
		return cut, nil
	}
	// The segment that holds the last chunk to be kept, if any is, becomes the tail.
	var head, cut []run
	var ends []int
	spilled := 0
	for key, value := range s.entries.from(runsKey(id, max(keep, 1))) {
		end, ok := segmentEnd(key, id)
		if !ok {
			break
		}
		runs, err := parseRuns(value)
		if err != nil {
			return nil, damaged("list of chunks", id)
		}
		start := end - chunksIn(runs)
		kept, rest := splitRuns(runs, keep-start)
		if len(ends) == 0 {
			head, spilled = kept, start
		}
		cut, ends = append(cut, rest...), append(ends, end)
	}
	for _, end := range ends {
		s.remove(runsKey(id, end))
	}
	cut = append(cut, n.runs...)
	n.spilled, n.runs = spilled, head
	return cut, nil
}

// splitRuns splits runs behind a number of chunks, none if it is negative. What it returns shares nothing with runs.
func splitRuns(runs []run, chunks int) (head, rest []run) {
	for _, r := range runs {
		n := min(max(chunks, 0), r.count)
		if n > 0 {
			head = append(head, run{r.first, n})
		}
		if n < r.count {
			rest = append(rest, run{r.first + gfs.ChunkHandle(n), r.count - n})
		}
		chunks -= n
	}
	return head, rest
}
