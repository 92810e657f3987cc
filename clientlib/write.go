package clientlib

import (
	"errors"
	"io"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	// mutationCost is what a mutation takes of the window beside its bytes, so that their number is bounded too.
	mutationCost = 512
	// copyBytes is the buffer of ReadFrom: one piece.
	copyBytes = gfs.StreamPieceBytes
)

// Write writes at the position: it copies p into the window, waiting only for room there, and returns nil when all
// is queued. The data is acknowledged, and on every replica, once Sync or Close returned nil. A failure is sticky:
// every later Write, Sync and Close returns it.
//
// With os.O_APPEND each Write of at most gfs.MaxRecordBytes (16 MiB) is one record append, the position does not
// matter, and a longer one is several records.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.write(f.patience(), p)
	return n, pathError("write", f.name, err)
}

func (f *openFile) write(p *patience, data []byte) (int, error) {
	if err := f.usable(true); err != nil {
		return 0, err
	}
	if err := f.turn.take(p); err != nil {
		return 0, err
	}
	defer f.turn.give()
	f.ahead.drop()
	if err := f.failed(); err != nil {
		return 0, err
	}
	if f.appending() {
		return f.writeRecords(p, data)
	}
	total := 0
	for len(data) > 0 {
		n, err := f.queuePiece(p, data, f.position)
		f.position += int64(n)
		total, data = total+n, data[n:]
		if err != nil {
			return total, err
		}
		p.progress()
	}
	return total, nil
}

func (f *openFile) writeRecords(p *patience, data []byte) (int, error) {
	total := 0
	for len(data) > 0 {
		record := data[:min(len(data), gfs.MaxRecordBytes)]
		if _, _, err := f.pushAppend(p, record, true); err != nil {
			return total, err
		}
		total, data = total+len(record), data[len(record):]
		p.progress()
	}
	return total, nil
}

// pieceEnd is how many of length bytes from offset belong to one piece: pieces end at multiples of
// gfs.StreamPieceBytes, and so at the ends of blocks and chunks.
func pieceEnd(offset int64, length int) int {
	return min(length, gfs.StreamPieceBytes-int(offset%gfs.StreamPieceBytes))
}

func checkWriteRange(offset int64, length int) error {
	if offset < 0 || offset > gfs.MaxFileBytes-int64(length) {
		return gfs.Errorf(gfs.CodeInvalid, "%d bytes at offset %d: want a range from 0 to %d", length, offset, int64(gfs.MaxFileBytes))
	}
	return nil
}

// queuePiece queues the first piece of data, or lets it join the last one if that has not left yet.
func (f *openFile) queuePiece(p *patience, data []byte, offset int64) (int, error) {
	if err := checkWriteRange(offset, len(data)); err != nil {
		return 0, err
	}
	n := pieceEnd(offset, len(data))
	taken, err := f.room.acquire(p, n+mutationCost)
	if err != nil {
		return 0, err
	}
	within := offset % gfs.ChunkSize
	s := f.lockStream(uint32(offset / gfs.ChunkSize))
	defer s.mu.Unlock()
	if tail := s.window.tail(); tail != nil && tail.offset+int64(len(tail.data.data)) == within && within%gfs.StreamPieceBytes != 0 {
		f.client.extend(tail, data[:n])
		tail.cost += taken
		tail.open = (within+int64(n))%gfs.StreamPieceBytes != 0
		s.signal()
		return n, nil
	}
	s.window.seal()
	m := f.newMutation(p, data[:n], within, taken)
	m.queued, m.open = true, (within+int64(n))%gfs.StreamPieceBytes != 0
	return n, f.pushLocked(s, m)
}

// extend adds bytes to a piece that nobody else holds yet.
func (c *Client) extend(m *mutation, more []byte) {
	have := m.data.data
	if len(have)+len(more) > cap(have) {
		wider := c.buffers.get(min(max(2*cap(have), len(have)+len(more)), gfs.StreamPieceBytes))
		wider.data = append(wider.data, have...)
		m.data.release()
		m.data = wider
	}
	m.data.data = append(m.data.data, more...)
	m.bytes += int64(len(more))
}

// newMutation copies data.
func (f *openFile) newMutation(p *patience, data []byte, offset int64, cost int) *mutation {
	m := &mutation{offset: offset, bytes: int64(len(data)), call: p.call, data: f.client.buffers.get(len(data)), cost: cost, done: make(chan struct{})}
	m.data.data = append(m.data.data, data...)
	return m
}

// lockStream is the writing stream of the chunk at index, locked.
func (f *openFile) lockStream(index uint32) *stream {
	for {
		s := f.stream(index)
		s.mu.Lock()
		if !s.retired {
			return s
		}
		s.mu.Unlock()
	}
}

// pushLocked puts m into the window of s, whose lock is held.
func (f *openFile) pushLocked(s *stream, m *mutation) error {
	s.window.push(m)
	if s.kick() {
		return nil
	}
	s.window.remove(m)
	err := errClientClosed()
	m.queued = false
	s.settle(m, 0, err)
	return err
}

// WriteAt writes at offset, independently of the position, and returns when the data is acknowledged. Its failure is
// not sticky. It waits for what was queued for the same chunk before. Not for files opened with os.O_APPEND.
func (f *File) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.writeAt(f.patience(), p, offset)
	return n, pathError("write", f.name, err)
}

func (f *openFile) writeAt(p *patience, data []byte, offset int64) (int, error) {
	if err := f.usable(true); err != nil {
		return 0, err
	}
	if f.appending() {
		return 0, gfs.Errorf(gfs.CodeInvalid, "WriteAt on a file opened with os.O_APPEND: open it without")
	}
	if err := checkWriteRange(offset, len(data)); err != nil {
		return 0, err
	}
	var pending []*mutation
	var failure error
	for rest, at := data, offset; len(rest) > 0; {
		n := pieceEnd(at, len(rest))
		taken, err := f.room.acquire(p, n+mutationCost)
		if err != nil {
			failure = err
			break
		}
		m := f.newMutation(p, rest[:n], at%gfs.ChunkSize, taken)
		s := f.lockStream(uint32(at / gfs.ChunkSize))
		s.window.seal()
		err = f.pushLocked(s, m)
		s.mu.Unlock()
		if err != nil {
			failure = err
			break
		}
		pending, rest, at = append(pending, m), rest[n:], at+int64(n)
		p.progress()
	}
	written := 0
	for _, m := range pending {
		if err := f.awaitMutation(p, m); err != nil {
			return written, outcomeUnknown(err)
		}
		if m.err != nil {
			return written, m.err
		}
		written += pieceEnd(offset+int64(written), len(data)-written)
	}
	return written, failure
}

// ReadFrom writes everything that r gives; io.Copy uses it.
func (f *File) ReadFrom(r io.Reader) (int64, error) {
	lent := f.client.buffers.get(copyBytes)
	defer lent.release()
	buf := lent.data[:copyBytes]
	total := int64(0)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			written, failed := f.Write(buf[:n])
			total += int64(written)
			if failed != nil {
				return total, failed
			}
		}
		switch {
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// pending is every stream with something undecided.
func (f *openFile) pending() []*stream {
	var busy []*stream
	for _, s := range f.all() {
		s.mu.Lock()
		if !s.window.empty() {
			busy = append(busy, s)
		}
		s.mu.Unlock()
	}
	return busy
}
