package clientlib

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// maxIdleStreams is how many writing streams without work a File keeps for the next write to their chunks.
const maxIdleStreams = 8

// openFile is what all Files made from one Open share.
type openFile struct {
	client *Client
	name   string // as it was opened
	id     gfs.FileID
	flag   int // of OpenFile
	synced bool
	life   context.Context // ends with close, or with the client
	end    context.CancelFunc
	room   room
	chunks atomic.Uint32 // as many were known to exist; a truncation by somebody else may have cut some away

	turn     turn // held by calls that use the position
	position int64
	ahead    readAhead // guarded by turn

	mu       sync.Mutex // before it may come a stream's lock, behind it none
	streams  map[uint32]*stream
	appender *stream
	failure  error // the first failed Write: sticky
	// unsynced are the chunks with mutations that no Sync has covered, with the version in which the first was acknowledged.
	unsynced map[uint32]gfs.Version
	closed   bool
}

func newOpenFile(c *Client, name string, flag int, status *pb.FileStatus) *openFile {
	f := &openFile{client: c, name: name, id: gfs.FileID(status.GetFileId()), flag: flag, synced: status.GetSynced(),
		room: room{size: gfs.ClientWindowBytes}, turn: make(turn, 1),
		streams: make(map[uint32]*stream), unsynced: make(map[uint32]gfs.Version)}
	f.life, f.end = context.WithCancel(c.life)
	f.ahead.file = f
	f.chunks.Store(status.GetChunks())
	return f
}

// turn is a lock that can be waited for under a context.
type turn chan struct{}

func (t turn) take(p *patience) error {
	for {
		select {
		case t <- struct{}{}:
			return nil
		default:
		}
		select {
		case t <- struct{}{}:
			return nil
		case <-p.ctx.Done():
		case <-p.client.life.Done():
		}
		if err := p.ended(nil); err != nil {
			return err
		}
	}
}

func (t turn) give() { <-t }

func (f *openFile) readable() bool { return f.flag&(os.O_WRONLY|os.O_RDWR) != os.O_WRONLY }
func (f *openFile) writable() bool { return f.flag&(os.O_WRONLY|os.O_RDWR) != 0 }

// usable is nil while the file is open, and open for writing if that is asked.
func (f *openFile) usable(writing bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return fs.ErrClosed
	case writing && !f.writable():
		return gfs.Errorf(gfs.CodePermission, "the file was opened read only: open it with OpenFile and os.O_RDWR or os.O_WRONLY")
	case !writing && !f.readable():
		return gfs.Errorf(gfs.CodePermission, "the file was opened write only: open it with os.O_RDWR")
	}
	return nil
}

// fail keeps the first failure of a queued write.
func (f *openFile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		f.failure = err
	}
}

// failed is the failure of an earlier queued write, or nil.
func (f *openFile) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

// touched notes that a mutation of the chunk at index was acknowledged in a version, for Sync.
func (f *openFile) touched(index uint32, version gfs.Version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if first, touched := f.unsynced[index]; !touched || version < first {
		f.unsynced[index] = version
	}
}

// exists notes that the file has a chunk at index.
func (f *openFile) exists(index uint32) {
	for known := f.chunks.Load(); known <= index && !f.chunks.CompareAndSwap(known, index+1); known = f.chunks.Load() {
	}
}

// reach makes sure that every chunk before index exists: a write beyond the end leaves a hole of empty chunks.
func (f *openFile) reach(p *patience, index uint32) error {
	if f.chunks.Load() >= index {
		return nil
	}
	reply := &pb.LocateReply{}
	if _, err := f.client.askUntil(p, messages.OpLocate,
		&pb.LocateRequest{Identity: f.client.identify(), FileId: uint64(f.id), FirstIndex: index, Count: 1}, reply); err != nil {
		return err
	}
	if err := f.client.makeChunks(p, f.id, reply.GetFileChunks(), index); err != nil {
		return err
	}
	f.exists(index - 1)
	return nil
}

// completeBefore waits, if the file has no chunk at index yet, until what is queued for the one before is decided:
// once a chunk has a successor, readers take what it lacks for a hole, and would read zeros for what is on its way.
func (f *openFile) completeBefore(p *patience, index uint32) error {
	if index == 0 || f.chunks.Load() > index {
		return nil
	}
	f.mu.Lock()
	before := f.streams[index-1]
	f.mu.Unlock()
	if before == nil {
		return nil
	}
	for _, m := range before.undecided() {
		if err := p.await(m.done); err != nil {
			return err
		}
		p.progress()
	}
	return nil
}

// stream is the writing stream of the chunk at index.
func (f *openFile) stream(index uint32) *stream {
	f.mu.Lock()
	if s, ok := f.streams[index]; ok {
		f.mu.Unlock()
		return s
	}
	s := newStream(f)
	s.index, s.located = index, true
	f.streams[index] = s
	var others []uint32
	if len(f.streams) > maxIdleStreams {
		others = slices.Collect(maps.Keys(f.streams))
	}
	all := maps.Clone(f.streams)
	f.mu.Unlock()
	for _, other := range others {
		if other != index && all[other].retire() {
			f.mu.Lock()
			delete(f.streams, other)
			f.mu.Unlock()
		}
	}
	return s
}

// all is every stream that may have work.
func (f *openFile) all() []*stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	streams := slices.Collect(maps.Values(f.streams))
	if f.appender != nil {
		streams = append(streams, f.appender)
	}
	return streams
}

// flush waits until everything queued before it is decided, and gives the failure of queued writes.
func (f *openFile) flush(p *patience) error {
	for _, s := range f.all() {
		for _, m := range s.undecided() {
			if err := f.awaitMutation(p, m); err != nil {
				return err
			}
		}
	}
	return f.failed()
}

// awaitMutation waits until m is decided. Progress is the stream's to judge: it ends what does not move.
func (f *openFile) awaitMutation(p *patience, m *mutation) error {
	select {
	case <-m.done:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// sync flushes and makes what was acknowledged durable on every replica.
func (f *openFile) sync(p *patience) error {
	if err := f.flush(p); err != nil {
		return err
	}
	f.mu.Lock()
	unsynced := maps.Clone(f.unsynced)
	clear(f.unsynced)
	f.mu.Unlock()
	if f.synced {
		return nil // as every acknowledgement was
	}
	for _, index := range slices.Sorted(maps.Keys(unsynced)) {
		err := f.client.syncChunk(p, f.id, index, unsynced[index])
		if err == nil || errors.Is(err, gfs.ErrUnsyncedLost) {
			delete(unsynced, index) // a loss is told once, as the kernel tells a failed fsync
		}
		if err != nil {
			for left, version := range unsynced {
				f.touched(left, version)
			}
			return err
		}
		p.progress()
	}
	return nil
}

// close flushes and ends what reads ahead. A second call gives fs.ErrClosed.
func (f *openFile) close(p *patience) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return fs.ErrClosed
	}
	f.closed = true
	f.mu.Unlock()
	err := f.flush(p)
	f.end()
	return err
}
