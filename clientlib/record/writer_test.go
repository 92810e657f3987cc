package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/messages/gfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a file in memory whose record append behaves as asked: outcome decides, for each call, whether the record
// enters the file and what is returned.
type memory struct {
	mu      sync.Mutex
	content []byte
	calls   int
	chunk   int // 0: records may stand anywhere
	outcome func(call int) (lost bool, err error)
	waiting func() // if not nil, called before each outcome is told
}

// decided is an append in memory whose outcome is known.
type decided struct {
	wait   func()
	offset int64
	err    error
}

func (d *decided) Wait(context.Context) (int64, error) {
	if d.wait != nil {
		d.wait()
	}
	return d.offset, d.err
}

func (m *memory) AppendAsync(_ context.Context, record []byte) *decided {
	offset, err := m.append(record)
	return &decided{m.waiting, offset, err}
}

func (m *memory) append(record []byte) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	lost, err := false, error(nil)
	if m.outcome != nil {
		lost, err = m.outcome(m.calls)
	}
	offset := int64(-1)
	if !lost {
		if left := m.chunk - len(m.content)%max(m.chunk, 1); m.chunk > 0 && left < len(record) {
			m.content = append(m.content, make([]byte, left)...)
		}
		offset = int64(len(m.content))
		m.content = append(m.content, record...)
	}
	return offset, err
}

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.NewReader(m.content).ReadAt(p, offset)
}

func TestWriterAppendsWhatTheReaderReads(t *testing.T) {
	file := &memory{chunk: 512}
	writer := NewWriter(file, WithWriterID(7, 3))
	for i := range 20 {
		payload := fmt.Appendf(nil, "payload %d", i)
		offset, err := writer.Append(t.Context(), payload)
		if err != nil || offset < 0 {
			t.Fatalf("append %d: offset %d, error %v", i, offset, err)
		}
		clear(payload) // the caller's again
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := collect(NewReader(file, WithChunkSize(512)).Records(t.Context()), -1)
	if err != nil || len(got) != 20 {
		t.Fatalf("%d records, error %v", len(got), err)
	}
	for i, r := range got {
		if r.Writer != 7 || r.Seq != uint64(3+i) || string(r.Payload) != fmt.Sprintf("payload %d", i) {
			t.Errorf("record %d is %d/%d %q", i, r.Writer, r.Seq, r.Payload)
		}
	}
}

// Answers get lost both ways, many goroutines send, and yet each acknowledged record is read once.
func TestWriterWithLostAnswers(t *testing.T) {
	file := &memory{chunk: 4096, outcome: func(call int) (bool, error) {
		switch call % 7 {
		case 1:
			return true, gfs.ErrUnavailable // did not enter
		case 3:
			return false, gfs.ErrOutcomeUnknown // entered
		case 5:
			return true, gfs.ErrNoSpace // nothing to repeat
		}
		return false, nil
	}}
	acknowledged, failed := map[uint64]bool{}, map[uint64]bool{}
	last := uint64(0)
	writer := NewWriter(file, WithWindow(8), WithRetries(1), WithAck(func(seq uint64, offset int64, err error) {
		if last++; seq != last || (offset < 0) != (err != nil) {
			t.Errorf("sequence %d acknowledged instead of %d, offset %d with error %v", seq, last, offset, err)
		}
		if err != nil {
			failed[seq] = true
		} else {
			acknowledged[seq] = true
		}
	}))
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range 100 {
				payload := fmt.Appendf(nil, "%d %d", g, i)
				if i%2 == 0 {
					_, _ = writer.Append(t.Context(), payload) // its outcome comes to the ack as well
				} else if err := writer.Enqueue(t.Context(), payload); err != nil {
					t.Errorf("enqueue: %v", err)
				}
				clear(payload)
			}
		})
	}
	group.Wait()
	if err := writer.Flush(t.Context()); err == nil {
		t.Error("flush reported no failure")
	}
	if err := writer.Close(); err != nil {
		t.Errorf("close reported a failure again: %v", err)
	}
	if len(acknowledged)+len(failed) != 400 || len(failed) == 0 {
		t.Fatalf("%d acknowledged, %d failed", len(acknowledged), len(failed))
	}
	got, err := collect(NewReader(file, WithChunkSize(4096)).Records(t.Context()), -1)
	if err != nil {
		t.Fatal(err)
	}
	read := map[uint64]bool{}
	for _, r := range got {
		if read[r.Seq] {
			t.Errorf("sequence %d came twice", r.Seq)
		}
		read[r.Seq] = true
	}
	for seq := range acknowledged {
		if !read[seq] {
			t.Errorf("sequence %d was acknowledged and lost", seq)
		}
	}
}

// A sequence is sent only when the one a window below is settled, even if those between are.
func TestWriterWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := make(chan struct{})
		var calls atomic.Int32
		file := &memory{waiting: func() {
			if calls.Add(1) == 1 {
				<-first
			}
		}}
		var acked []uint64
		writer := NewWriter(file, WithWindow(4), WithAck(func(seq uint64, _ int64, _ error) { acked = append(acked, seq) }))
		for range 4 {
			if err := writer.Enqueue(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { err := writer.Enqueue(ctx, nil); ended <- err }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a fifth record was let in: %v", err)
		}
		close(first)
		if err := writer.Enqueue(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if err := writer.Close(); err != nil {
			t.Error(err)
		}
		if !slices.Equal(acked, []uint64{1, 2, 3, 4, 5}) {
			t.Errorf("acknowledged %v", acked)
		}
	})
}

func TestWriterBoundsTheBytesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		file := &memory{waiting: func() { <-gate }}
		writer := NewWriter(file)
		large := make([]byte, gfs.ClientWindowBytes) // over the bound by its header, allowed when alone
		if err := writer.Enqueue(t.Context(), large); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { _, err := writer.Append(ctx, []byte("small")); ended <- err }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a record beyond the bytes of the window: %v", err)
		}
		if err := writer.Flush(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("flush with an ended context: %v", err)
		}
		close(gate)
		if err := writer.Close(); err != nil || file.calls != 1 {
			t.Errorf("close: %v after %d appends", err, file.calls)
		}
	})
}

func TestWriterRefusals(t *testing.T) {
	file := &memory{}
	writer := NewWriter(file)
	if _, err := writer.Append(t.Context(), make([]byte, MaxPayloadBytes+1)); !errors.Is(err, gfs.ErrRecordTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := writer.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := writer.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if _, err := writer.Append(t.Context(), nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if err := writer.Enqueue(t.Context(), nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("enqueue after close: %v", err)
	}
	if err := writer.Flush(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("flush after close: %v", err)
	}
	if file.calls != 0 {
		t.Errorf("%d appends", file.calls)
	}
}

// Two programs do not share an id by accident, and a sequence that looks like the magic is passed over.
func TestWriterIdentity(t *testing.T) {
	file := &memory{}
	if a, b := NewWriter(file), NewWriter(file); a.ID() == b.ID() {
		t.Error("two writers share an id")
	}
	const like = 0xc1a1f79b
	var acked []uint64
	writer := NewWriter(file, WithWriterID(1, like-1), WithAck(func(seq uint64, _ int64, _ error) { acked = append(acked, seq) }))
	for range 3 {
		if err := writer.Enqueue(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	if err := writer.Close(); err != nil || !slices.Equal(acked, []uint64{like - 1, like + 1, like + 2}) {
		t.Errorf("acknowledged %#x, error %v", acked, err)
	}
	if _, err := NewWriter(file, WithWriterID(like, 1)).Append(t.Context(), nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an id that is the magic: %v", err)
	}
}

// The context of an Append ends its wait and not the append, which keeps its place in the window until its outcome is known.
func TestWriterAppendWhoseContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		writer := NewWriter(&memory{waiting: func() { <-gate }}, WithWindow(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := writer.Append(ctx, nil); !errors.Is(err, gfs.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("append: %v", err)
		}
		if err := writer.Enqueue(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the window of one let in a second record: %v", err)
		}
		close(gate)
		if err := writer.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}
