package clientlib

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// File is an open file. It implements io.Reader, io.ReaderAt, io.Writer, io.WriterAt, io.Seeker, io.Closer,
// io.WriterTo and io.ReaderFrom. It is safe for concurrent use; Read, Write, Seek and their like share one
// position and take turns.
//
// Methods without a context of their own use that of WithContext, and end after the client's timeout without
// progress in any case.
type File struct {
	*openFile
	ctx context.Context
}

var (
	_ io.ReadWriteSeeker = (*File)(nil)
	_ io.ReaderAt        = (*File)(nil)
	_ io.WriterAt        = (*File)(nil)
	_ io.WriterTo        = (*File)(nil)
	_ io.ReaderFrom      = (*File)(nil)
)

// Name is the name that the file was opened with.
func (f *File) Name() string { return f.name }

// WriterID is the writer id of the file's record appends; 0 before the first.
func (f *File) WriterID() gfs.WriterID {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.appender == nil {
		return 0
	}
	return f.appender.writer
}

// WithContext is the same open file, with its position, whose methods without a context end when ctx ends. Closing
// either closes both.
func (f *File) WithContext(ctx context.Context) *File { return &File{openFile: f.openFile, ctx: ctx} }

// patience begins a call without a context of its own.
func (f *File) patience() *patience { return f.client.patience(f.ctx) }

// Stat is the file's status, wherever it was renamed to, with its true length; the name is that which it was opened
// with. It waits for queued writes.
func (f *File) Stat(ctx context.Context) (fs.FileInfo, error) {
	info, err := f.statWith(f.client.patience(ctx))
	if err != nil {
		return nil, pathError("stat", f.name, err)
	}
	return info, nil
}

func (f *openFile) statWith(p *patience) (*fileInfo, error) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return nil, fs.ErrClosed
	}
	if err := f.settleQueued(p); err != nil {
		return nil, err
	}
	info, err := f.client.stat(p, &pb.StatRequest{FileId: uint64(f.id)})
	if err == nil {
		info.name = path.Base(f.name) // an id has no name
	}
	return info, err
}

// settleQueued waits for queued writes; a failure of theirs is for Write, Sync and Close to tell.
func (f *openFile) settleQueued(p *patience) error {
	if err := f.flush(p); err != nil && p.ctx.Err() != nil {
		return err
	}
	return nil
}

// Read reads from the position. It may return less than len(p) before the end; at the end it is 0, io.EOF, and a
// later Read sees what was added since. What a sequential reader will want next is fetched ahead.
func (f *File) Read(buf []byte) (int, error) {
	n, err := f.read(f.patience(), buf)
	return n, pathError("read", f.name, err)
}

func (f *openFile) read(p *patience, buf []byte) (int, error) {
	if err := f.beginRead(p); err != nil {
		return 0, err
	}
	defer f.turn.give()
	if len(buf) == 0 {
		return 0, nil
	}
	n, err := f.ahead.read(p, buf, f.position)
	f.position += int64(n)
	return n, err
}

// beginRead takes the turn for a read and waits for queued writes.
func (f *openFile) beginRead(p *patience) error {
	if err := f.usable(false); err != nil {
		return err
	}
	if err := f.turn.take(p); err != nil {
		return err
	}
	if f.writable() {
		if len(f.pending()) > 0 {
			f.ahead.drop() // it may hold what is about to be overwritten
		}
		if err := f.settleQueued(p); err != nil {
			f.turn.give()
			return err
		}
	}
	return nil
}

// ReadAt reads at offset, independently of the position; large reads fetch several chunks at once. It reads less
// than len(p) only at the end, with io.EOF, or with another error.
func (f *File) ReadAt(buf []byte, offset int64) (int, error) {
	n, err := f.readAtWith(f.patience(), buf, offset)
	return n, pathError("read", f.name, err)
}

func (f *openFile) readAtWith(p *patience, buf []byte, offset int64) (int, error) {
	if err := f.usable(false); err != nil {
		return 0, err
	}
	if err := f.settleQueued(p); err != nil {
		return 0, err
	}
	return f.readAt(p, buf, offset)
}

// WriteTo writes everything from the position to w; io.Copy uses it.
func (f *File) WriteTo(w io.Writer) (int64, error) {
	p := f.patience()
	if err := f.beginRead(p); err != nil {
		return 0, pathError("read", f.name, err)
	}
	defer f.turn.give()
	total := int64(0)
	for {
		head, err := f.ahead.head(p, f.position, readPieceBytes)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, pathError("read", f.name, err)
		}
		n, err := w.Write(head.data.data[f.position-head.offset:])
		f.position += int64(n)
		f.ahead.advance(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
		p.progress()
	}
}

// Seek moves the position: io.SeekStart, io.SeekCurrent, or io.SeekEnd, which asks for the file's length.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	to, err := f.seek(f.patience(), offset, whence)
	return to, pathError("seek", f.name, err)
}

func (f *openFile) seek(p *patience, offset int64, whence int) (int64, error) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return 0, fs.ErrClosed
	}
	if err := f.turn.take(p); err != nil {
		return 0, err
	}
	defer f.turn.give()
	base := int64(0)
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = f.position
	case io.SeekEnd:
		info, err := f.statWith(p)
		if err != nil {
			return 0, err
		}
		base = info.length
	default:
		return 0, gfs.Errorf(gfs.CodeInvalid, "whence %d: want io.SeekStart, io.SeekCurrent or io.SeekEnd", whence)
	}
	if base+offset < 0 {
		return 0, gfs.Errorf(gfs.CodeInvalid, "seek to the negative offset %d", base+offset)
	}
	f.position = base + offset
	return f.position, nil
}

// Sync waits until everything written before is acknowledged and durable (fsync) on every replica. It returns the
// failure of an earlier queued Write, and once ErrUnsyncedLost if power was lost at all replicas of a chunk before the
// bytes were on disk: all or a part of what was written since the last Sync may be missing then.
func (f *File) Sync(ctx context.Context) error {
	if err := f.checkOpen(); err != nil {
		return pathError("sync", f.name, err)
	}
	return pathError("sync", f.name, f.sync(f.client.patience(ctx)))
}

// Close waits until everything written before is acknowledged, and returns the failure of an earlier queued Write
// if there was one. The file is closed in any case; a second Close does nothing and returns fs.ErrClosed.
func (f *File) Close() error {
	return pathError("close", f.name, f.close(f.patience()))
}

func (f *openFile) checkOpen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	return nil
}

// appending reports whether writes are record appends.
func (f *openFile) appending() bool { return f.flag&os.O_APPEND != 0 }
