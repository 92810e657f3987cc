package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/cairnfs/cairn/messages/gfs"
)

// DefaultBufferBytes is what a Reader asks for in one ReadAt unless WithBuffer says otherwise.
const DefaultBufferBytes = 1 << 20

// ReaderOption changes what NewReader makes.
type ReaderOption func(*Reader)

// WithWriters sets how many writers are remembered in order to drop duplicates, from 1 to MaxWriters (200 bytes each).
func WithWriters(n int) ReaderOption {
	return func(r *Reader) { r.duplicates.limit = min(max(n, 1), MaxWriters) }
}

// WithBuffer sets how many bytes are read at once, from gfs.BlockSize on. The buffer grows to the longest record met, which
// is at most gfs.MaxRecordBytes.
func WithBuffer(bytes int) ReaderOption {
	return func(r *Reader) { r.bufferBytes = max(bytes, gfs.BlockSize) }
}

// WithChunkSize says that records do not cross multiples of bytes instead of gfs.ChunkSize. It is for input that was
// not made by record append, such as a local copy under tests.
func WithChunkSize(bytes int64) ReaderOption {
	return func(r *Reader) { r.chunkBytes = max(bytes, FrameOverheadBytes) }
}

// Reader finds the records of a file. It is for one goroutine at a time. It reads only while an iteration asks for the
// next record and holds no resources, so there is nothing to close.
type Reader struct {
	source      io.ReaderAt
	chunkBytes  int64
	bufferBytes int
	duplicates  *duplicates

	offset int64  // in the file, of data's first byte: all before it is dealt with
	buffer []byte // its whole length is room for data
	data   []byte // read and not dealt with: a part of buffer
}

// NewReader makes a Reader at the beginning of source, which may grow meanwhile but must not change what it once
// returned.
func NewReader(source io.ReaderAt, opts ...ReaderOption) *Reader {
	r := &Reader{
		source:      source,
		chunkBytes:  gfs.ChunkSize,
		bufferBytes: DefaultBufferBytes,
		duplicates:  newDuplicates(DefaultWriters),
	}
	for _, opt := range opts {
		opt(r)
	}
	return r
}

// Position is behind the record handed out last: a Reader that seeks to it hands out what follows and none of what
// was handed out before. It costs time and memory in proportion to the writers remembered.
func (r *Reader) Position() Position {
	return Position{offset: r.offset, marks: r.duplicates.encode()}
}

// SeekTo goes to a position, of this Reader or of another one of the same file. Where the position remembers more
// writers than this Reader may, the most recently met are kept.
func (r *Reader) SeekTo(p Position) {
	r.offset, r.data = p.offset, nil
	r.duplicates = newDuplicates(r.duplicates.limit)
	if err := r.duplicates.decode([]byte(p.marks)); err != nil {
		panic("record: a position that UnmarshalText should have refused: " + err.Error())
	}
}

// Records hands out the records from the Reader's position to the present end of the file, each once. At the end, also
// before a record that is not all there yet, the iteration ends without an error; another call goes on from
// there. A failed read, the end of ctx or a record of a newer format is the last pair, with an error; the
// records before it were handed out, and another call tries again. The context is looked at before each record and
// each read; a read under way is not cut short.
func (r *Reader) Records(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for {
			record, err := r.next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(record, err) || err != nil {
				return
			}
		}
	}
}

// next returns the next record that is no duplicate, or io.EOF if there is none yet.
func (r *Reader) next(ctx context.Context) (Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Record{}, err
		}
		f, err := r.find(ctx)
		if err != nil {
			return Record{}, err
		}
		if err := f.readable(r.offset); err != nil {
			return Record{}, err
		}
		whole, offset := r.data[:f.bytes()], r.offset
		r.skip(f.bytes())
		if r.duplicates.first(f.writer, f.sequence) {
			return Record{Writer: f.writer, Seq: f.sequence, Offset: offset, Payload: f.open(whole)}, nil
		}
	}
}

// find moves to the next frame and reads all of it. It returns io.EOF if there is none yet; the position is then where one
// may be arriving. Each byte is searched once and checksummed at most once, whatever the input.
func (r *Reader) find(ctx context.Context) (frame, error) {
	for {
		at := bytes.Index(r.data, []byte(magic))
		if at < 0 {
			r.skip(max(0, len(r.data)-len(magic)+1)) // the magic may have begun
		} else {
			r.skip(at)
		}
		if err := r.fill(ctx, headerBytes); err != nil {
			return frame{}, err
		}
		if at < 0 {
			continue
		}
		f, ok := parseHeader(r.data)
		if !ok || r.offset%r.chunkBytes+int64(f.bytes()) > r.chunkBytes {
			r.skip(1)
			continue
		}
		torn, err := r.load(ctx, f.bytes())
		if err != nil {
			return frame{}, err
		}
		if !torn && f.verify(r.data[:f.bytes()]) {
			return f, nil
		}
		r.skip(1)
	}
}

// load reads the rest of a frame of n bytes that begins at the position. It reports torn as soon as the magic appears
// inside: then this is the beginning of a record that was cut short, and the rest is not waited for.
func (r *Reader) load(ctx context.Context, n int) (torn bool, err error) {
	searched := 1
	for {
		have := min(len(r.data), n)
		if bytes.Contains(r.data[searched:have], []byte(magic)) {
			return true, nil
		}
		if have == n {
			return false, nil
		}
		searched = max(searched, have-len(magic)+1)
		if err := r.fill(ctx, n); err != nil && len(r.data) == have {
			return false, err
		}
	}
}

// skip deals with the first n bytes of data.
func (r *Reader) skip(n int) {
	r.data = r.data[n:]
	r.offset += int64(n)
}

// fill reads until data has at least want bytes. Else it returns io.EOF or the error of ReadAt; data then has what there
// was. It moves data, so that payloads handed out before become invalid.
func (r *Reader) fill(ctx context.Context, want int) error {
	if len(r.data) >= want {
		return nil
	}
	if len(r.buffer) < want || r.buffer == nil {
		r.buffer = make([]byte, max(want, r.bufferBytes))
	}
	r.data = r.buffer[:copy(r.buffer, r.data)]
	for len(r.data) < want {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := r.offset + int64(len(r.data))
		room := r.buffer[len(r.data):]
		// Reads that end with a block are checked by the client against stored checksums, which is cheaper.
		if past := int((from + int64(len(room))) % gfs.BlockSize); len(r.data)+len(room)-past >= want {
			room = room[:len(room)-past]
		}
		n, err := r.source.ReadAt(room, from)
		if n < 0 || n > len(room) || n == 0 && err == nil {
			return fmt.Errorf("read of records at offset %d returned %d bytes: %w", from, n, io.ErrNoProgress)
		}
		r.data = r.buffer[:len(r.data)+n]
		switch {
		case len(r.data) >= want:
			return nil // an error comes again if what follows is asked for
		case errors.Is(err, io.EOF):
			return io.EOF
		case err != nil:
			return fmt.Errorf("read of records at offset %d: %w", from, err)
		}
	}
	return nil
}
