package sim

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// The checkers of what clients do to files.
const (
	// checkLeft: a chunk leaves its file only where a client has it so, and a removed one not before its time is over.
	checkLeft = "files keep their chunks"
	// checkCut: after a truncation the file has the length asked for, its bytes are those from before or zeros, and
	// nothing that was cut off is found again.
	checkCut = "a truncation cuts what it is told to"
	// checkChange: a change of the namespace that was acknowledged took effect once.
	checkChange = "a change of the namespace takes effect once"
	// checkKept: a good replica of a chunk that a file has is not deleted.
	checkKept = "no good replica is deleted"
)

// ledger is what is known of the files: of which chunks there are, and whose they are.
type ledger struct {
	paths     map[string]uint64        // the file that has a name
	slotted   map[uint64]bool          // the files that are written to at offsets
	removed   map[uint64]time.Duration // when a file went into the trash
	condemned map[uint64]bool          // removed past the trash
	effects   map[change]int           // of changes that were asked for in a session
	left      []gfs.ChunkHandle        // the chunks that no file has any more
	cuts      map[change][]gfs.ChunkHandle
}

// proposalTime is how much earlier than it is heard of here a removal may have been proposed, from when its time counts.
const proposalTime = 100 * time.Millisecond

// change is the name of a client's change.
type change struct{ session, sequence uint64 }

func newLedger() ledger {
	return ledger{paths: make(map[string]uint64), slotted: make(map[uint64]bool), removed: make(map[uint64]time.Duration), condemned: make(map[uint64]bool), effects: make(map[change]int), cuts: make(map[change][]gfs.ChunkHandle)}
}

// list notes how the log has a chunk now.
func (k *checks) list(chunk namespace.Chunk) *truth {
	t := k.truth(chunk.Handle)
	t.row, t.listed = chunk, k.rounds
	t.slotted = k.files.slotted[uint64(chunk.File)]
	return t
}

// account hears what a record did, and that list was called for all chunks that files have now.
func (k *checks) account(record *pb.Record, outcome namespace.Outcome) {
	m := record.GetMutation()
	if outcome.Err != nil || outcome.Repeated {
		m = nil
	}
	if place := record.GetPlaceChunk(); place != nil && outcome.Err == nil {
		k.truth(gfs.ChunkHandle(place.Handle)).index = int(place.Index)
	}
	for _, h := range k.order {
		if t := k.chunks[h]; t.listed != 0 && t.listed != k.rounds && t.left == 0 {
			t.left = k.cluster.now
			k.files.left = append(k.files.left, h)
			k.leaves(h, t, record.GetDropTrash(), m)
		}
	}
	if m == nil {
		return
	}
	if s := m.GetSession(); s.GetSequence() != 0 {
		name := change{s.GetId(), s.GetSequence()}
		if k.files.effects[name]++; k.files.effects[name] > 1 {
			k.cluster.fail(checkChange, "change %d of session %016x took effect twice", name.sequence, name.session)
		}
	}
	k.files.apply(k, m, outcome)
}

// leaves checks that a chunk may leave its file with a record, which drops the trash or is a client's change.
func (k *checks) leaves(h gfs.ChunkHandle, t *truth, drop *pb.DropTrash, m *pb.NamespaceMutation) {
	f, file := &k.files, uint64(t.row.File)
	if cut := m.GetTruncate(); cut != nil && f.paths[cut.GetPath()] == file {
		name := change{m.GetSession().GetId(), m.GetSession().GetSequence()}
		f.cuts[name] = append(f.cuts[name], h)
		keep := chunksOf(cut.GetSize())
		r := cut.GetReplacement()
		switch {
		case t.index >= keep:
			return
		case t.index == keep-1 && gfs.ChunkHandle(r.GetSource()) == h:
			if t.row.Open {
				k.cluster.fail(checkCut, "chunk %s was open when a copy took its place", h)
			}
			k.inherit(h, gfs.ChunkHandle(r.GetHandle()), cut.GetSize()-int64(t.index)*gfs.ChunkSize)
			return
		}
	}
	removed, inTrash := f.removed[file]
	create, remove := m.GetCreateFile(), m.GetRemove()
	switch {
	case f.condemned[file],
		create.GetReplace() && f.paths[create.GetPath()] == file,
		remove.GetNow() && f.paths[remove.GetPath()] == file,
		drop != nil && inTrash && k.cluster.now-removed >= trashTime-proposalTime:
		return
	}
	k.cluster.fail(checkLeft, "chunk %s, number %d of file %d, is gone: removed %v, %v after that", h, t.index, file, inTrash, k.cluster.now-removed)
}

// apply takes over what a change did to names.
func (f *ledger) apply(k *checks, m *pb.NamespaceMutation, outcome namespace.Outcome) {
	id := outcome.Reply.GetStatus().GetFileId()
	switch {
	case m.GetCreateFile() != nil:
		path := m.GetCreateFile().GetPath()
		if old := f.paths[path]; old != 0 && old != id {
			f.condemned[old] = true
		}
		f.paths[path], f.slotted[id] = id, path == "/"+fileWrites
	case m.GetRemove() != nil:
		delete(f.paths, m.GetRemove().GetPath())
		if m.GetRemove().GetNow() {
			f.condemned[id] = true
		} else {
			f.removed[id] = k.cluster.now
		}
	case m.GetUndelete() != nil:
		f.paths[m.GetUndelete().GetPath()] = id
		delete(f.removed, id)
	case m.GetTruncate() != nil:
		k.truncated(id, m.GetTruncate())
	}
}

// truncated checks a file that was just truncated. One that has too few chunks stays as it is.
func (k *checks) truncated(file uint64, m *pb.Truncate) {
	keep, index := chunksOf(m.GetSize()), 0
	all, _, err := k.cluster.state.View().FileChunks(gfs.FileID(file), 0, gfs.MaxFileChunks)
	switch {
	case err != nil || len(all) > keep:
		k.cluster.fail(checkCut, "file %d has %d chunks after its truncation to %d bytes: %v", file, len(all), m.GetSize(), err)
	case len(all) == keep && keep > 0:
		last := all[keep-1]
		if last.Open || int64(keep-1)*gfs.ChunkSize+last.Length != m.GetSize() {
			k.cluster.fail(checkCut, "the last chunk of file %d, number %d, has %d bytes (open: %v) after the truncation to %d", file, keep-1, last.Length, last.Open, m.GetSize())
		}
	}
	for _, chunk := range all {
		if k.truth(chunk.Handle).index != index {
			k.cluster.fail(checkCut, "chunk %s of file %d has come to place %d", chunk.Handle, file, index)
		}
		index++
	}
}

func chunksOf(size int64) int { return int((size + gfs.ChunkSize - 1) / gfs.ChunkSize) }

// inherit begins the truth of a chunk that is a copy of another, with another length.
func (k *checks) inherit(from, to gfs.ChunkHandle, length int64) {
	old, t := k.truth(from), k.truth(to)
	old.heir = to
	t.index, t.first, t.base, t.length = old.index, length, length, length
	t.appends, t.within = old.appends, make(map[appendName]int64)
	for name, offset := range old.offsets {
		if offset+int64(len(k.records[name])) <= length {
			t.offsets[name] = offset
		}
	}
	for _, p := range old.pieces {
		t.expect(p)
	}
	held := min(old.row.Length, length)
	for _, s := range k.cluster.servers {
		if !s.up() || s.server == nil {
			continue
		}
		replica, err := s.server.Store().Get(from)
		if err != nil {
			continue
		}
		if status := replica.Status(); status.State == gfs.ReplicaMember && status.Active == old.row.Version && status.Length == old.row.Length {
			k.good(s, replica, status, true)
			for name, at := range old.found {
				if at+int64(len(record(name.writer, name.sequence))) <= length {
					t.within[name] = at
				}
			}
			t.image = picture(replica, held, length)
			return
		}
	}
}

// pictured are how many blocks at a chunk's beginning and before its end a picture has: all slots are in them.
const pictured = (slotCount*slotBytes+largeCount*largeBytes)/gfs.BlockSize + 1

// picture is what a copy of a replica holds that has another length: held bytes of it, and then zeros. It is nil if
// the replica cannot be read.
func picture(replica *store.Replica, held, length int64) map[uint32][]byte {
	blocks := uint32((length + gfs.BlockSize - 1) / gfs.BlockSize)
	image := make(map[uint32][]byte)
	for b := uint32(0); b < blocks; b++ {
		if b == pictured && blocks > 2*pictured {
			b = blocks - pictured
		}
		start := int64(b) * gfs.BlockSize
		data := make([]byte, min(gfs.BlockSize, length-start))
		if start < held {
			read, err := replica.Block(make([]byte, gfs.BlockSize), b)
			if err != nil {
				return nil
			}
			copy(data[:min(int64(len(data)), held-start)], read)
		}
		image[b] = data
	}
	return image
}

// expect adds the part of a piece that a copy has.
func (t *truth) expect(p piece) {
	if n := min(int64(len(p.data)), t.first-p.offset); n > 0 {
		t.pieces = append(t.pieces, piece{p.offset, p.data[:n]})
	}
}

// late passes on what is known to be completed only after a copy has taken the chunk's place: it was applied before.
func (k *checks) late(t *truth, name appendName, p piece) {
	for t.heir != 0 {
		if t = k.truth(t.heir); p.offset >= t.first {
			return
		}
		t.expect(p)
		if name.writer != 0 && p.offset+int64(len(p.data)) <= t.first {
			t.offsets[name] = p.offset
		}
	}
}

// fills hears that a client is about to make a chunk full soon.
func (k *checks) fills(h gfs.ChunkHandle) {
	t := k.truth(h)
	t.base = max(t.base, fillOffset+1)
}

// tries hears that a client is about to write to a slot.
func (k *checks) tries(h gfs.ChunkHandle, n int) {
	t := k.truth(h)
	if t.tried == nil {
		t.tried = make(map[int]bool)
	}
	t.tried[n] = true
}

// was is what a chunk held in a block when it was made; false if that is not known.
func (t *truth) was(block uint32) (data []byte, known bool) {
	if int64(block)*gfs.BlockSize >= t.first {
		return nil, true
	}
	data, known = t.image[block]
	return data, known
}

// strange is where bytes of a chunk with slots are neither what it held when it was made nor those of a write to it,
// negative if nowhere.
func (k *checks) strange(t *truth, offset int64, data []byte) int64 {
	for len(data) > 0 {
		block, slot := offset/gfs.BlockSize, slotAt(offset)
		n := min(int64(len(data)), (block+1)*gfs.BlockSize-offset, slotOffset(slot+1)-offset)
		if was, known := t.was(uint32(block)); known {
			old := make([]byte, n)
			if from := offset - block*gfs.BlockSize; from < int64(len(was)) {
				copy(old, was[from:])
			}
			if at := k.neither(data[:n], old, t.tried[slot], slot, offset-slotOffset(slot)); at >= 0 {
				return offset + at
			}
		}
		offset, data = offset+n, data[n:]
	}
	return -1
}

// neither is where bytes are neither the old ones nor, if that was tried, those that a slot has from an offset on.
func (k *checks) neither(data, old []byte, tried bool, n int, from int64) int64 {
	if bytes.Equal(data, old) {
		return -1
	}
	written := old
	if tried {
		written = slot(n)[from:]
	}
	for i, b := range data {
		if b != old[i] && b != written[i] {
			return int64(i)
		}
	}
	return -1
}

// unaltered checks what a copy has from the chunk before it, and a chunk with slots as a whole.
func (k *checks) unaltered(s *server, replica *store.Replica, status store.Status, t *truth, unknown []uint32) {
	blocks := slices.Sorted(maps.Keys(t.image))
	if t.slotted {
		blocks = blocks[:0]
		for b := uint32(0); b < pictured && int64(b)*gfs.BlockSize < status.Length; b++ {
			blocks = append(blocks, b)
		}
	}
	buffer := make([]byte, gfs.BlockSize)
	for _, b := range blocks {
		if slices.Contains(unknown, b) {
			continue
		}
		data, err := replica.Block(buffer, b)
		if err != nil {
			k.cluster.fail(checkSound, "chunk %s at %s: %v", status.Handle, s.name, err)
			return
		}
		at := int64(-1)
		if t.slotted {
			at = k.strange(t, int64(b)*gfs.BlockSize, data)
		} else if i := difference(data[:len(t.image[b])], t.image[b]); i >= 0 {
			at = int64(b)*gfs.BlockSize + int64(i)
		}
		if at >= 0 {
			k.cluster.fail(checkCut, "the byte at %d of chunk %s at %s, which was made with %d bytes, is not what was there before, nor zero, nor was it written", at, status.Handle, s.name, t.first)
			return
		}
	}
}

// readOld hears what a reader was given of what a chunk held when it was made, or of a chunk with slots.
func (k *checks) readOld(t *truth, h gfs.ChunkHandle, from string, offset int64, data []byte) {
	if !t.slotted {
		data = data[:min(int64(len(data)), max(t.first-offset, 0))]
	}
	at := int64(-1)
	if t.slotted {
		at = k.strange(t, offset, data)
	}
	for i := int64(0); !t.slotted && i < int64(len(data)); i++ {
		was, known := t.was(uint32((offset + i) / gfs.BlockSize))
		if known && was[(offset+i)%gfs.BlockSize] != data[i] {
			at = offset + i
			break
		}
	}
	if at >= 0 {
		k.cluster.fail(checkCut, "%s gives a byte at %d of chunk %s, which was made with %d bytes, that is not what was there before, nor zero, nor was it written", from, at, h, t.first)
	}
}

// landed hears that a client was told of a mutation that it first tried at a time: what a truncation has cut off before
// takes no mutation.
func (k *checks) landed(handle uint64, since time.Duration) {
	t := k.truth(gfs.ChunkHandle(handle))
	if f := uint64(t.row.File); t.left != 0 && t.left < since && !k.files.condemned[f] && k.files.removed[f] == 0 {
		k.cluster.fail(checkCut, "chunk %d was cut off at %v, and takes a mutation that was begun at %v", handle, t.left, since)
	}
}

// located hears where the chunks of a file are, which was asked for at a time.
func (k *checks) located(reply *pb.LocateReply, asked time.Duration) {
	for _, at := range reply.GetChunks() {
		if t := k.truth(gfs.ChunkHandle(at.Handle)); t.left != 0 && t.left < asked {
			k.cluster.fail(checkCut, "chunk %d left its file at %v, and is found there by a request sent at %v", at.Handle, t.left, asked)
		}
	}
}

// gone hears that a client was told of a file that it does not exist.
func (k *checks) gone(file uint64) {
	if _, err := k.cluster.state.View().StatID(nil, gfs.FileID(file)); gfs.CodeOf(err) != gfs.CodeNotExist {
		k.cluster.fail(checkErrors, "file %d does not exist, a client was told, and it does: %v", file, err)
	}
}

// changed hears that a client was told of a change that it took effect. What was cut off is deleted by then, unless a
// fault keeps a server from that.
func (k *checks) changed(session, sequence uint64) {
	name := change{session, sequence}
	if k.files.effects[name] != 1 {
		k.cluster.fail(checkChange, "change %d of session %016x was acknowledged, and did not take effect", sequence, session)
	}
	for _, h := range k.files.cuts[name] {
		for _, s := range k.cluster.servers {
			if k.cluster.troubled {
				return
			}
			if _, err := s.server.Store().Get(h); err == nil {
				k.cluster.fail(checkCut, "a truncation was acknowledged, and %s still has chunk %s, which it cut off", s.name, h)
			}
		}
	}
}

// deletes hears that a server moves a replica's files aside. Another one of the chunk has nothing to do with this one.
func (s *server) deletes(path string) {
	delete(s.durable.files, path)
	delete(s.durable.files, path+".crc")
	if s.server == nil {
		return // it is starting, and clears away what is left of a replica
	}
	h, err := gfs.ParseChunkHandle(filepath.Base(path))
	if err != nil {
		s.cluster.fail("set-up", "deletion of %s: %v", path, err)
		return
	}
	chunk, logged := s.cluster.state.View().Chunk(h)
	chunk.Handle = h
	s.cluster.checks.kept(s, chunk, logged)
}

// kept hears that a server has no replica of a chunk.
func (k *checks) kept(s *server, chunk namespace.Chunk, logged bool) {
	name := replicaName{s.name, chunk.Handle}
	// Of a disk that fails a replica may be known to be corrupt since it was looked at last.
	if before, known := k.versions[name]; known && logged && countsFor(chunk, before) && !k.cluster.fails {
		k.cluster.fail(checkKept, "chunk %s at %s is no longer there: it was promised %s and active %s, and %s is logged", chunk.Handle, s.name, before.Promised, before.Active, chunk.Version)
	}
	delete(k.versions, name)
}

// countsFor reports whether a replica is good in the logged version of its chunk.
func countsFor(chunk namespace.Chunk, status store.Status) bool {
	return status.State == gfs.ReplicaMember && (status.Active == chunk.Version || status.Promised == chunk.Version)
}

// litter is what is left of files that are gone, empty if nothing is.
func (k *checks) litter() string {
	for _, h := range k.order {
		if f := uint64(k.chunks[h].row.File); k.chunks[h].left == 0 && k.chunks[h].listed != 0 && (k.files.condemned[f] || k.files.removed[f] != 0) {
			return "chunk " + h.String() + " is in the log, and its file was removed"
		}
	}
	if len(k.files.left) == 0 {
		return ""
	}
	view := k.cluster.state.View()
	for _, s := range k.cluster.servers {
		if s.server == nil {
			continue
		}
		for _, status := range s.server.Store().Statuses(0, gfs.InventoryPageEntries) {
			if _, logged := view.Chunk(status.Handle); !logged {
				return "a replica of chunk " + status.Handle.String() + ", which no file has, is left at " + s.name
			}
		}
	}
	return ""
}
