package clientlib

import (
	"context"
	"io"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	// firstAheadBytes is what the first read at a new place fetches at least: a block.
	firstAheadBytes = gfs.BlockSize
	// maxAheadSegments bounds what is read ahead, each at most readPieceBytes.
	maxAheadSegments = 6
)

// readAhead fetches what a sequential reader will want next: segments that double from a block to readPieceBytes,
// and from one to maxAheadSegments at once. A read elsewhere drops them. The File's turn guards it.
type readAhead struct {
	file     *openFile
	segments []*segment // adjacent, in order
	offset   int64      // where the reader is: in the first segment
	next     int64      // where the next segment begins
	size     int        // of the next segment
	depth    int        // how many segments are wanted at once
}

// segment is one fetch.
type segment struct {
	offset int64
	data   *buffer
	err    error // set with data before done is closed
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	direct *directRead // nil: a goroutine of its own reads it
}

// read copies what is at offset into buf: at least one byte, or an error.
func (r *readAhead) read(p *patience, buf []byte, offset int64) (int, error) {
	head, err := r.head(p, offset, len(buf))
	if err != nil {
		return 0, err
	}
	n := copy(buf, head.data.data[offset-head.offset:])
	r.advance(n)
	return n, nil
}

// head is the segment that holds offset, with at least one byte from there on.
func (r *readAhead) head(p *patience, offset int64, want int) (*segment, error) {
	fresh := offset != r.offset || len(r.segments) == 0
	if fresh {
		r.drop()
		r.offset, r.next, r.depth = offset, offset, 1
		r.size = min(max(firstAheadBytes, want), readPieceBytes)
	}
	r.fill()
	if len(r.segments) == 0 {
		if offset >= gfs.MaxFileBytes {
			return nil, io.EOF
		}
		return nil, errClientClosed()
	}
	head := r.segments[0]
	if err := r.await(p, head); err != nil {
		return nil, err
	}
	if offset-head.offset < int64(len(head.data.data)) {
		return head, nil
	}
	err := head.err
	r.drop() // the next read asks anew: the file may have grown
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case !fresh: // it ended there when that was fetched ahead
		return r.head(p, offset, want)
	}
	return nil, io.EOF
}

// advance says that the reader took n bytes.
func (r *readAhead) advance(n int) {
	r.offset += int64(n)
	head := r.segments[0]
	if r.offset < head.offset+int64(len(head.data.data)) || head.err != nil {
		return
	}
	head.cancel()
	head.data.release()
	r.segments = r.segments[1:]
	r.size = min(2*r.size, readPieceBytes)
	r.depth = min(r.depth+1, maxAheadSegments)
	r.fill()
}

// fill starts fetches until enough are under way.
func (r *readAhead) fill() {
	for len(r.segments) < r.depth && r.next < gfs.MaxFileBytes {
		if n := len(r.segments); n > 0 {
			select {
			case <-r.segments[n-1].done:
				if r.segments[n-1].err != nil { // the end, or a fault that the reader must see first
					return
				}
			default:
			}
		}
		// Up to a block's boundary, so that blocks are read whole, and never across a chunk's.
		end := (r.next + int64(r.size)) / gfs.BlockSize * gfs.BlockSize
		end = min(max(end, r.next+1), (r.next/gfs.ChunkSize+1)*gfs.ChunkSize)
		if end-r.next < gfs.BlockSize/2 {
			end = min(end+gfs.BlockSize, (r.next/gfs.ChunkSize+1)*gfs.ChunkSize)
		}
		if !r.fetch(int(end - r.next)) {
			return
		}
	}
}

// fetch starts one segment of length bytes.
func (r *readAhead) fetch(length int) bool {
	s := &segment{offset: r.next, data: r.file.client.buffers.get(length), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(r.file.life)
	if !r.file.fetchDirectly(s, length) && !r.file.fetch(s, length) {
		s.cancel()
		return false
	}
	r.segments = append(r.segments, s)
	r.next += int64(length)
	return true
}

// fetch reads a segment on a goroutine of its own, with all that a read does when something is wrong.
func (f *openFile) fetch(s *segment, length int) bool {
	return f.client.spawn(func() {
		defer close(s.done)
		into := s.data.data[:length]
		n, err := f.readAt(f.client.patience(s.ctx), into, s.offset)
		s.data.data, s.err = into[:n], err
	})
}

// drop forgets every segment. One still under way keeps its buffer, which the garbage collector then takes.
func (r *readAhead) drop() {
	for _, s := range r.segments {
		s.cancel()
		select {
		case <-s.done:
			s.data.release()
		default:
		}
	}
	r.segments = nil
}
