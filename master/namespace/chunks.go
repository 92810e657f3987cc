package namespace

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// maxReservation bounds the handles that one record sets aside: a slip must not use up the numbers.
const maxReservation = 1 << 16

// maxHandle bounds the handles given out: 64 EiB of chunks.
const maxHandle = 1 << 40

// reserveHandles sets the next handles aside for the acting master: none is ever given out again.
func (s *State) reserveHandles(r *pb.ReserveHandles) Outcome {
	count := r.GetCount()
	if count < 1 || count > maxReservation || s.nextHandle+gfs.ChunkHandle(count) > maxHandle {
		return failed(gfs.Errorf(gfs.CodeInvalid, "reservation of %d chunk handles behind %s: want 1 to %d and none above %s", count, s.nextHandle, maxReservation, gfs.ChunkHandle(maxHandle)))
	}
	first := s.nextHandle
	s.nextHandle += gfs.ChunkHandle(count)
	return Outcome{First: first, Count: int(count)}
}

// placeChunk appends a chunk to a file, open for mutation in its first configuration. The handle must have been
// reserved in this epoch and never placed.
func (s *State) placeChunk(r *pb.PlaceChunk) Outcome {
	id, handle := gfs.FileID(r.GetFileId()), gfs.ChunkHandle(r.GetHandle())
	n, err := s.heldFile(id)
	if err != nil {
		return failed(err)
	}
	if err := s.checkConfiguration(gfs.Version(r.GetVersion()), r.GetMembers()); err != nil {
		return failed(err)
	}
	switch total := n.chunks(); {
	case total != int(r.GetIndex()):
		return failed(gfs.Errorf(gfs.CodeConflict, "file %d has %d chunks, so %d is not its next index: ask for the chunk again", id, total, r.GetIndex()))
	case total == gfs.MaxFileChunks:
		return failed(gfs.Errorf(gfs.CodeInvalid, "file %d has %d chunks, the most there may be: go on in another file", id, total))
	case handle < s.epochFirst || handle >= s.nextHandle:
		return failed(gfs.Errorf(gfs.CodeConflict, "chunk %s is not among the handles reserved in epoch %d, %s to %s: take another", handle, s.epoch, s.epochFirst, s.nextHandle-1))
	case s.table.get(handle) != row{}:
		return failed(gfs.Errorf(gfs.CodeConflict, "chunk %s was placed before: take another handle", handle))
	}
	r2 := newRow(gfs.Version(r.GetVersion()), id, 0, int(r.GetMembers()), true, 1)
	s.table.set(s.edit, handle, r2)
	s.counts.Chunks++
	n.add(handle)
	s.spill(id, &n)
	n.modified = s.clock
	s.putInode(id, &n)
	return Outcome{Chunk: describe(handle, r2, &n)}
}

// configureChunk logs a configuration, if the logged version still is the one that the attempt started from.
func (s *State) configureChunk(r *pb.ConfigureChunk) Outcome {
	handle, version := gfs.ChunkHandle(r.GetHandle()), gfs.Version(r.GetVersion())
	if err := s.checkConfiguration(version, r.GetMembers()); err != nil {
		return failed(err)
	}
	old, err := s.logged(handle, gfs.Version(r.GetFromVersion()))
	if err != nil {
		return failed(err)
	}
	if version <= old.version {
		return failed(gfs.Errorf(gfs.CodeInvalid, "chunk %s: version %s is not above the logged %s", handle, version, old.version))
	}
	s.table.set(s.edit, handle, newRow(version, old.file, old.length(), int(r.GetMembers()), r.GetOpen(), int(old.references)))
	if r.GetUnsyncedLost() {
		s.lose(handle, version)
	}
	c, _ := s.chunk(handle)
	return Outcome{Chunk: c}
}

// lose remembers that what was acknowledged in versions of a chunk before one, and not synced, may be missing. Who wrote it
// has to hear of that when it asks for it to be synced, whenever that is.
func (s *State) lose(handle gfs.ChunkHandle, before gfs.Version) {
	s.put(lossKey(handle), binary.BigEndian.AppendUint64(nil, uint64(before)))
}

// lostBefore is the version that lose was last told, 0 if nothing of the chunk was ever lost.
func (m *image) lostBefore(handle gfs.ChunkHandle) gfs.Version {
	value, found := m.entries.get(lossKey(handle))
	if !found {
		return 0
	}
	return gfs.Version(number(value, 0))
}

// closeChunk records a chunk's length and that no mutation is under way, if the logged version still is the
// closed one. To close it again with the same length changes nothing.
func (s *State) closeChunk(r *pb.CloseChunk) Outcome {
	handle, length := gfs.ChunkHandle(r.GetHandle()), r.GetLength()
	if length < 0 || length > gfs.ChunkSize {
		return failed(gfs.Errorf(gfs.CodeInvalid, "chunk %s: length of %d bytes: want 0 to %d", handle, length, gfs.ChunkSize))
	}
	old, err := s.logged(handle, gfs.Version(r.GetVersion()))
	if err != nil {
		return failed(err)
	}
	switch {
	case old.open():
		s.table.set(s.edit, handle, newRow(old.version, old.file, length, old.members(), false, int(old.references)))
		if n, found, err := s.findInode(old.file); err == nil && found {
			n.modified = s.clock
			s.putInode(old.file, &n)
		}
	case old.length() != length:
		return failed(gfs.Errorf(gfs.CodeConflict, "chunk %s was closed in version %s with %d bytes, not %d", handle, old.version, old.length(), length))
	}
	c, _ := s.chunk(handle)
	return Outcome{Chunk: c}
}

// checkConfiguration checks what a record says of a new configuration.
func (s *State) checkConfiguration(version gfs.Version, members uint32) error {
	if version.Epoch() != s.epoch || uint32(version) == 0 {
		return gfs.Errorf(gfs.CodeInvalid, "version %s is none of epoch %d: want one that this master made", version, s.epoch)
	}
	if members < 1 || members > memberMask {
		return gfs.Errorf(gfs.CodeInvalid, "configuration of %d members: want 1 to %d", members, memberMask)
	}
	return nil
}

// logged is the row of a chunk whose logged version is as stated.
func (s *State) logged(handle gfs.ChunkHandle, version gfs.Version) (row, error) {
	r := s.table.get(handle)
	switch {
	case !r.live():
		return r, gfs.Errorf(gfs.CodeNotExist, "no file has chunk %s: its replicas are garbage", handle)
	case r.version != version:
		return r, gfs.Errorf(gfs.CodeConflict, "chunk %s is in version %s, not %s: start again from there", handle, r.version, version)
	}
	return r, nil
}

// spill moves the older runs of a file to a segment once there are too many.
func (s *State) spill(id gfs.FileID, n *inode) {
	if len(n.runs) <= maxTailRuns {
		return
	}
	moved := n.runs[:spillRuns]
	for _, r := range moved {
		n.spilled += r.count
	}
	s.put(runsKey(id, n.spilled), appendRuns(nil, moved))
	n.runs = slices.Clone(n.runs[spillRuns:])
}

// handles iterates over a file's chunks from an index on, with their indexes. The tree must not be edited
// meanwhile.
func (m *image) handles(id gfs.FileID, n *inode, first int) iter.Seq2[int, gfs.ChunkHandle] {
	return func(yield func(int, gfs.ChunkHandle) bool) {
		each := func(index int, runs []run) (int, bool) {
			for _, r := range runs {
				for i := max(first-index, 0); i < r.count; i++ {
					if !yield(index+i, r.first+gfs.ChunkHandle(i)) {
						return 0, false
					}
				}
				index += r.count
			}
			return index, true
		}
		if first < n.spilled {
			for key, value := range m.entries.from(runsKey(id, first+1)) {
				end, ok := segmentEnd(key, id)
				if !ok {
					break
				}
				runs, err := parseRuns(value)
				if err != nil {
					return
				}
				if _, ok := each(end-chunksIn(runs), runs); !ok {
					return
				}
			}
		}
		each(n.spilled, n.runs)
	}
}

func chunksIn(runs []run) int {
	count := 0
	for _, r := range runs {
		count += r.count
	}
	return count
}

// chunk describes a chunk that some file has.
func (m *image) chunk(h gfs.ChunkHandle) (Chunk, bool) {
	r := m.table.get(h)
	if !r.live() {
		return Chunk{}, false
	}
	n, _, _ := m.findInode(r.file)
	return describe(h, r, &n), true
}

// sweep iterates over the chunks in order of handles. Those of one file mostly follow one another, so its
// attributes are read once.
func (m *image) sweep(from gfs.ChunkHandle, open bool) iter.Seq[Chunk] {
	return func(yield func(Chunk) bool) {
		var file gfs.FileID
		var n inode
		for h, r := range m.table.from(from, open) {
			if r.file != file {
				file = r.file
				n, _, _ = m.findInode(file)
			}
			if !yield(describe(h, r, &n)) {
				return
			}
		}
	}
}

// describe puts a chunk together from its row and its file.
func describe(h gfs.ChunkHandle, r row, n *inode) Chunk {
	return Chunk{
		Handle: h, Version: r.version, Members: r.members(), Open: r.open(), Length: r.length(),
		Replicas: n.replicas, References: int(r.references), File: r.file,
	}
}
