package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/cairnfs/cairn/messages/gfs"
)

// sumLog writes a checksum file: records one after another in the region in use, and a checkpoint in another
// region when the log has grown long. Its callers hold the replica's write lock.
type sumLog struct {
	f        file
	region   int
	base     int64 // length of the region's checkpoint
	end      int64 // where in the region the next record goes
	sequence uint64
	// limit is how long the log grows at least before a checkpoint replaces it, in bytes.
	limit int64
	// stale means that the log no longer leads to the state in memory, because a write failed half way: the
	// next thing written has to be a checkpoint.
	stale bool
	// synced is the region in which the last sync point lies, which is left alone until there is a later one:
	// after a loss of power it may be the only one that is whole.
	synced int
	// syncing is the region in which a sync point lies that is on its way to the disk, or neverSynced.
	syncing int
	buf     []byte
}

// What sumLog.synced is where it is no region.
const (
	neverSynced   = -1 // nothing is on disk for sure
	unknownSynced = -2 // after a restart any region but the one in use may have the sync point
)

// append writes one record; s is the state before it, for a checkpoint where one is due. On an error nothing has
// happened that a restart would see.
func (l *sumLog) append(r *record, s *sums) error {
	if l.stale || l.end-l.base > max(l.limit, 2*l.base) {
		if err := l.checkpoint(s); err != nil {
			return err
		}
	}
	r.sequence = l.sequence + 1
	l.buf = appendRecord(l.buf[:0], r)
	if l.end+int64(len(l.buf)) > regionBytes {
		if err := l.checkpoint(s); err != nil {
			return err
		}
		r.sequence = l.sequence + 1
		l.buf = appendRecord(l.buf[:0], r)
	}
	if err := l.f.writeAt(l.buf, int64(l.region)*regionBytes+l.end); err != nil {
		return err
	}
	l.end += int64(len(l.buf))
	l.sequence = r.sequence
	return nil
}

// checkpoint writes the whole state into a region that nothing depends on, and goes on there. If that fails the
// region in use stays what a restart reads.
func (l *sumLog) checkpoint(s *sums) error {
	if l.next() < 0 {
		// After a restart, or a quarter of a MiB of log after another during a single fsync.
		if err := l.f.sync(); err != nil {
			return err
		}
		l.synced, l.syncing = l.region, neverSynced
	}
	s.sequence = l.sequence + 1
	b := appendCheckpoint(nil, s)
	to := l.next()
	if err := l.f.writeAt(b, int64(to)*regionBytes); err != nil {
		return err
	}
	l.region, l.base, l.end = to, int64(len(b)), int64(len(b))
	l.sequence, l.stale = s.sequence, false
	return nil
}

// next is the region that the next checkpoint goes to, or negative when something depends on each.
func (l *sumLog) next() int {
	for step := range regions - 1 {
		to := (l.region + 1 + step) % regions
		if to != l.synced && to != l.syncing && l.synced != unknownSynced {
			return to
		}
	}
	return -1
}

// reserve gets disk space for the next checkpoint if that is of s.
func (l *sumLog) reserve(s *sums) error {
	return l.f.allocate(int64(max(l.next(), 0))*regionBytes, int64(len(appendCheckpoint(nil, s))))
}

// tail is a length that ended within a block, and the CRC of that block's bytes below it.
type tail struct {
	length int64
	crc    uint32
}

// replay is what a checksum file says after a restart.
type replay struct {
	sums   *sums
	region int
	base   int64 // length of the region's checkpoint
	end    int64 // where in the region the next record goes
	// outstanding are the blocks that were being overwritten: each holds its old bytes, the intended ones, or a
	// mixture.
	outstanding []intent
	// tails are the lengths that the log went through in the block of the last one, oldest first: what a torn
	// last block may be cut back to after a loss of power.
	tails []tail
	// lengths are all the lengths that the log went through, oldest first: where whole pieces end.
	lengths []int64
	// damaged means that sound records follow after one that is not: not a torn write but rot, and what was
	// acknowledged may be missing.
	damaged bool
}

// step applies a record to the state; false if it does not follow from it.
func (p *replay) step(r record) bool {
	s := p.sums
	if r.sequence != s.sequence+1 || r.length < s.length && r.kind == recordProgress {
		return false
	}
	// Whatever follows an intent was written after the data that the intent announced.
	p.fulfil()
	s.sequence = r.sequence
	switch r.kind {
	case recordIntent:
		p.outstanding = append(p.outstanding, r.intents...)
		return true
	case recordSync:
		s.syncLength, s.syncCRC = r.length, 0
		if len(r.crcs) > 0 {
			s.syncCRC = r.crcs[0]
		}
		return true
	}
	s.length, s.commit, s.active, s.state = r.length, r.commit, r.active, r.state
	copy(s.crcs[r.first:], r.crcs)
	for _, id := range r.dropped {
		s.table.DropWriter(id)
	}
	for i := range r.appends {
		s.table.Add(r.appends[i].Entry, r.appends[i].Lowest)
	}
	p.remember()
	return true
}

// fulfil takes the outstanding intents for carried out.
func (p *replay) fulfil() {
	for _, in := range p.outstanding {
		p.sums.crcs[in.block] = in.crc
		p.sums.known(int(in.block))
	}
	p.outstanding = p.outstanding[:0]
}

// remember keeps the present length among the lengths and the tails, and of the tails only the ones in its block.
func (p *replay) remember() {
	s := p.sums
	if n := len(p.lengths); n == 0 || p.lengths[n-1] != s.length {
		p.lengths = append(p.lengths, s.length)
	}
	if len(p.tails) > 0 && p.tails[0].length/gfs.BlockSize != s.length/gfs.BlockSize {
		p.tails = p.tails[:0]
	}
	if s.length%gfs.BlockSize != 0 {
		p.tails = append(p.tails, tail{s.length, s.lastCRC()})
	}
}

// replayFile reads a checksum file of size bytes. It takes the region with the later sound checkpoint and follows
// its log to the end. With thorough set it also looks for records behind the end, which a reader of a closed
// chunk need not do: it knows from the index which record has to be the last.
func replayFile(f io.ReaderAt, size int64, thorough bool) (*replay, error) {
	var best *replay
	var reasons error
	for region := range regions {
		base := int64(region) * regionBytes
		if size <= base {
			continue
		}
		s, n, err := readCheckpoint(f, base)
		switch {
		case errors.Is(err, errUnread):
			return nil, err // it may be the latest one
		case err != nil:
			reasons = errors.Join(reasons, err)
			continue
		}
		if best == nil || s.sequence > best.sums.sequence {
			best = &replay{sums: s, region: region, base: int64(n), end: int64(n)}
		}
	}
	if best == nil {
		if reasons == nil {
			reasons = errors.New("empty")
		}
		return nil, reasons
	}
	best.remember()
	if err := best.follow(f); err != nil {
		return nil, err
	}
	if thorough {
		var err error
		if best.damaged, err = best.later(f, size); err != nil {
			return nil, err
		}
	}
	return best, nil
}

// errUnread is of a file that the disk did not give: what is there nobody knows.
var errUnread = errors.New("not read")

// readUpTo reads what there is of b. Its error wraps errUnread.
func readUpTo(f io.ReaderAt, b []byte, off int64) (n int, err error) {
	if n, err = f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("%w: %w", errUnread, err)
	}
	return n, nil
}

// readCheckpoint reads the checkpoint of the region at base.
func readCheckpoint(f io.ReaderAt, base int64) (*sums, int, error) {
	buf := make([]byte, 8<<10)
	n, err := readUpTo(f, buf, base)
	if err != nil {
		return nil, 0, err
	}
	size, _, err := checkpointSize(buf[:n])
	if err != nil {
		return nil, 0, err
	}
	if size > n {
		buf = make([]byte, size)
		if n, err = readUpTo(f, buf, base); err != nil {
			return nil, 0, err
		}
	}
	return parseCheckpoint(buf[:n])
}

// follow applies the log's records in order up to the first that is not whole and sound.
func (p *replay) follow(f io.ReaderAt) error {
	buf := make([]byte, 16<<10)
	for {
		room := int64(len(buf))
		if left := regionBytes - p.end; left < room {
			room = left
		}
		n, err := readUpTo(f, buf[:room], int64(p.region)*regionBytes+p.end)
		if err != nil {
			return err
		}
		used := 0
		for {
			r, size, err := parseRecord(buf[used:n])
			if err != nil || !p.step(r) {
				break
			}
			used += size
		}
		p.end += int64(used)
		// Go on if what stopped us may be whole in a longer read.
		switch {
		case int64(n) < room, p.end >= regionBytes:
			return nil
		case used > 0:
			continue
		case recordSize(buf) <= len(buf):
			return nil
		}
		buf = make([]byte, maxRecordBytes)
	}
}

// later reports whether anywhere in the file stands a record that comes after the last one followed. Records of
// the log before, which a region still holds behind its new one, have lower sequences.
func (p *replay) later(f io.ReaderAt, size int64) (bool, error) {
	for region := range regions {
		base, end := int64(region)*regionBytes, min(int64(region+1)*regionBytes, size)
		if region == p.region {
			base += p.end
		}
		if end <= base {
			continue
		}
		buf := make([]byte, end-base)
		if _, err := readUpTo(f, buf, base); err != nil {
			return false, err
		}
		for at := 0; at+recordHeaderBytes <= len(buf); at += 8 {
			if recordSize(buf[at:]) == 0 {
				continue
			}
			if r, _, err := parseRecord(buf[at:]); err == nil && r.sequence > p.sums.sequence {
				return true, nil
			}
		}
	}
	return false, nil
}
