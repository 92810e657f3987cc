package record

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Appender is what a Writer appends to; a *clientlib.File is one. AppendAsync appends record atomically, at least once, and in
// the order of the calls as far as it can. It takes a copy of record and may wait for room, but not for the
// acknowledgement. The Writer calls it from one goroutine at a time, except to repeat what failed.
type Appender[P Pending] interface {
	AppendAsync(ctx context.Context, record []byte) P
}

// Pending is an append under way. Wait returns where the record stands once it is acknowledged. It ends within a bounded
// time also if ctx never does.
type Pending interface {
	Wait(ctx context.Context) (offset int64, err error)
}

// defaultRetries is how often an append is repeated: the Appender has retried for half a minute each time before it fails.
const defaultRetries = 2

// maxSpareBytes is the largest frame buffer kept for reuse, so that a few long records do not hold memory for ever.
const maxSpareBytes = 64 << 10

// WriterOption changes what NewWriter makes.
type WriterOption func(*Writer)

// WithWindow sets how many records may be on their way at once, from 1 to MaxWindow; DefaultWindow otherwise. Their bytes are
// bounded too, by gfs.ClientWindowBytes (one record may exceed it alone).
func WithWindow(records int) WriterOption {
	return func(w *Writer) { w.window = uint64(min(max(records, 1), MaxWindow)) }
}

// WithAck sets a function that is told the outcome of each record, one call at a time and in the order of the
// sequences. The offset is where the record stands (an earlier copy may stand before it, if the append was
// repeated), or -1 with an error. It must not call the Writer, and the window waits for it.
func WithAck(ack func(seq uint64, offset int64, err error)) WriterOption {
	return func(w *Writer) { w.ack = ack }
}

// WithWriterID makes the Writer go on as an earlier one: readers drop what they have met of (id, sequence), so next, from
// 1, must be above every sequence used for another payload with this id. A program that repeats what it does not know the
// outcome of, under the same sequences, has each record once. Without this option the id is random and the
// sequences run from 1.
func WithWriterID(id, next uint64) WriterOption {
	return func(w *Writer) { w.id, w.next = id, max(next, 1) }
}

// WithRetries sets how often an append is repeated that the Appender gave up with an unknown outcome or for lack of an
// answer; 2 otherwise. Readers drop the copies. A repeated record may stand behind later ones.
func WithRetries(n int) WriterOption {
	return func(w *Writer) { w.retries = max(n, 0) }
}

// Writer appends framed records, in the order in which Append and Enqueue were called. It is safe for concurrent
// use. The file is the caller's to close, after the Writer.
type Writer struct {
	file    func(ctx context.Context, record []byte) Pending
	id      uint64
	window  uint64
	retries int
	ack     func(seq uint64, offset int64, err error)
	acking  sync.Mutex    // acks come one at a time
	turn    chan struct{} // holds one token; who has it may wait for freed and give the next sequence
	freed   chan struct{} // holds a token after a record left the window
	next    uint64        // the next sequence; guarded by turn
	closed  bool          // guarded by turn

	mu      sync.Mutex
	sent    []entry  // by sequence modulo window
	lowest  uint64   // the lowest sequence in the window
	records int      // in the window
	bytes   int      // of their frames
	failure error    // of an enqueued record, the first one since Flush last returned
	spare   [][]byte // frames for reuse, at most window
}

// entry is the outcome of a record in the window.
type entry struct {
	known  bool
	offset int64
	err    error
	bytes  int
}

// sending is a record on its way.
type sending struct {
	seq     uint64
	frame   []byte
	pending Pending
}

// NewWriter makes a Writer that appends to file: record.NewWriter(file) for a *clientlib.File.
func NewWriter[P Pending](file Appender[P], opts ...WriterOption) *Writer {
	w := &Writer{
		file:    func(ctx context.Context, record []byte) Pending { return file.AppendAsync(ctx, record) },
		id:      rand.Uint64(),
		window:  DefaultWindow,
		retries: defaultRetries,
		ack:     func(uint64, int64, error) {},
		turn:    make(chan struct{}, 1),
		freed:   make(chan struct{}, 1),
		next:    1,
	}
	for !usable(w.id, 1) {
		w.id = rand.Uint64()
	}
	for _, opt := range opts {
		opt(w)
	}
	w.lowest = w.next
	w.sent = make([]entry, w.window)
	w.turn <- struct{}{}
	return w
}

// ID is the writer id in the frames.
func (w *Writer) ID() uint64 { return w.id }

// Append appends one record and waits for its acknowledgement; the payload may be reused afterwards. It returns the
// offset of the record's frame. If ctx ends after the record was sent the error matches gfs.ErrOutcomeUnknown, and the
// record may appear later, once. The other errors are those of the Appender, gfs.ErrRecordTooLarge beyond
// MaxPayloadBytes, and fs.ErrClosed after Close.
func (w *Writer) Append(ctx context.Context, payload []byte) (offset int64, err error) {
	s, err := w.begin(ctx, payload)
	if err != nil {
		return -1, err
	}
	done := make(chan entry, 1)
	go func() {
		offset, err := w.finish(context.WithoutCancel(ctx), s)
		done <- entry{offset: offset, err: err}
		w.settle(s, offset, err)
	}()
	select {
	case e := <-done:
		return e.offset, e.err
	case <-ctx.Done():
		return -1, fmt.Errorf("%w: %w", gfs.ErrOutcomeUnknown, context.Cause(ctx))
	}
}

// Enqueue takes a copy of the payload and returns when it is on its way, once the window has room; ctx bounds that wait alone.
// The outcome goes to WithAck's function; a failure also to Flush or Close. The errors are those of the wait,
// gfs.ErrRecordTooLarge and fs.ErrClosed: then nothing was sent and no acknowledgement follows.
func (w *Writer) Enqueue(ctx context.Context, payload []byte) error {
	s, err := w.begin(ctx, payload)
	if err != nil {
		return err
	}
	go func() {
		offset, err := w.finish(context.WithoutCancel(ctx), s)
		w.fail(err)
		w.settle(s, offset, err)
	}()
	return nil
}

// Flush waits until the outcome of every record given before is known and acknowledged, and returns the first
// failure of an enqueued record since the last Flush. Meanwhile other calls wait.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.release()
	return w.drain(ctx)
}

// Close flushes, waiting as long as the Appender does, and ends the Writer. It does not close the file. Called again it
// returns fs.ErrClosed.
func (w *Writer) Close() error {
	ctx := context.Background()
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.release()
	w.closed = true
	return w.drain(ctx)
}

// take waits for the turn, and gives it back if the Writer is closed.
func (w *Writer) take(ctx context.Context) error {
	select {
	case <-w.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	if w.closed {
		w.release()
		return fs.ErrClosed
	}
	return nil
}

func (w *Writer) release() { w.turn <- struct{}{} }

// await waits until ready, which is called under mu, returns true. Only the holder of the turn may wait.
func (w *Writer) await(ctx context.Context, ready func() bool) error {
	for {
		w.mu.Lock()
		done := ready()
		w.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-w.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain waits until the window is empty and takes the failure.
func (w *Writer) drain(ctx context.Context) error {
	var failure error
	if err := w.await(ctx, func() bool {
		if w.records > 0 {
			return false
		}
		failure, w.failure = w.failure, nil
		return true
	}); err != nil {
		return err
	}
	return failure
}

// begin waits for room, encodes the frame under the next sequence and sends it. A sequence is given only when those a window
// below it are settled: readers rely on it to forget.
func (w *Writer) begin(ctx context.Context, payload []byte) (s sending, err error) {
	if err := w.take(ctx); err != nil {
		return s, err
	}
	defer w.release()
	if !usable(w.id, w.next) {
		if err := w.skipUnusable(ctx); err != nil {
			return s, err
		}
	}
	size := len(payload) + FrameOverheadBytes
	if err := w.await(ctx, func() bool {
		if w.next-w.lowest >= w.window || w.records > 0 && w.bytes+size > gfs.ClientWindowBytes {
			return false
		}
		if n := len(w.spare); n > 0 {
			s.frame, w.spare = w.spare[n-1][:0], w.spare[:n-1]
		}
		return true
	}); err != nil {
		return s, err
	}
	if s.frame, err = appendFrame(s.frame, w.id, w.next, payload, rand.Uint32); err != nil {
		return s, err
	}
	w.mu.Lock()
	w.sent[w.next%w.window] = entry{bytes: len(s.frame)}
	w.records++
	w.bytes += len(s.frame)
	w.mu.Unlock()
	s.seq = w.next
	w.next++
	s.pending = w.file(ctx, s.frame)
	return s, nil
}

// skipUnusable passes over the sequences that look like the magic, one in four thousand million. The window is empty
// meanwhile, so that it stays a run of sequences.
func (w *Writer) skipUnusable(ctx context.Context) error {
	return w.await(ctx, func() bool {
		if w.records > 0 {
			return false
		}
		for w.next < maxSequence && usable(w.id, 0) && !usable(w.id, w.next) {
			w.next++
		}
		w.lowest = w.next
		return true
	})
}

// finish waits for the outcome and repeats the append where that may change it.
func (w *Writer) finish(ctx context.Context, s sending) (offset int64, err error) {
	offset, err = s.pending.Wait(ctx)
	for range w.retries {
		if err == nil || !repeatable(err) {
			break
		}
		offset, err = w.file(ctx, s.frame).Wait(ctx)
	}
	if err != nil {
		offset = -1
	}
	return offset, err
}

// repeatable reports whether the same frame may be sent again with a hope of another outcome.
func repeatable(err error) bool {
	code := gfs.CodeOf(err)
	return code == gfs.CodeOutcomeUnknown || code.Action() == gfs.Retry
}

// fail keeps the first failure for Flush.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil {
		w.failure = err
	}
}

// settle enters the outcome, acknowledges what is known from the lowest sequence on, and makes room.
func (w *Writer) settle(s sending, offset int64, err error) {
	w.acking.Lock()
	defer w.acking.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &w.sent[s.seq%w.window]
	e.known, e.offset, e.err = true, offset, err
	if cap(s.frame) <= maxSpareBytes && uint64(len(w.spare)) < w.window {
		w.spare = append(w.spare, s.frame)
	}
	for w.sent[w.lowest%w.window].known {
		seq, e := w.lowest, w.sent[w.lowest%w.window]
		w.mu.Unlock()
		w.ack(seq, e.offset, e.err)
		w.mu.Lock()
		w.sent[seq%w.window].known = false
		w.lowest++
		w.records--
		w.bytes -= e.bytes
		select {
		case w.freed <- struct{}{}:
		default:
		}
	}
}
