package clientlib

import (
	"context"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Append adds record to the end of the file as one atomic unit, wherever that is when its turn comes, and returns
// the offset of its first byte once every replica has it. Concurrent calls share frames and round trips. Those of
// one File take effect in the order in which they were made; a retry inside the library never leaves a duplicate.
//
// A record has at least one byte and at most gfs.MaxRecordBytes (16 MiB), else ErrRecordTooLarge. A call whose ctx ends after the record
// was sent returns ErrOutcomeUnknown. Source: GFS 3.3
func (f *File) Append(ctx context.Context, record []byte) (int64, error) {
	offset, err := f.append(f.client.patience(ctx), record)
	return offset, pathError("append", f.name, err)
}

func (f *openFile) append(p *patience, record []byte) (int64, error) {
	s, m, err := f.pushAppend(p, record, false)
	if err != nil {
		return -1, err
	}
	return s.await(p, m)
}

// await waits for an append. If ctx ends first, what was not sent is taken back.
func (s *stream) await(p *patience, m *mutation) (int64, error) {
	select {
	case <-m.done:
	case <-p.ctx.Done():
		cause := context.Cause(p.ctx)
		if !s.abandon(m, cause) {
			return -1, outcomeUnknown(cause)
		}
	}
	if m.err != nil {
		return -1, m.err
	}
	return m.result, nil
}

// Pending is an append under way.
type Pending struct {
	name   string
	client *Client
	stream *stream
	m      *mutation
}

// AppendAsync is Append without waiting for the acknowledgement: it copies record and waits only for room in the
// window. The record belongs to the caller again on return. Failures, also those of queueing, are Wait's.
func (f *File) AppendAsync(ctx context.Context, record []byte) *Pending {
	s, m, err := f.pushAppend(f.client.patience(ctx), record, false)
	if err != nil {
		m = &mutation{done: make(chan struct{})}
		m.settle(-1, err)
	}
	return &Pending{name: f.name, client: f.client, stream: s, m: m}
}

// Done is closed when the append is decided: Wait then returns at once.
func (p *Pending) Done() <-chan struct{} { return p.m.done }

// Wait returns what Append would have. If ctx ends first, the error matches ErrOutcomeUnknown and the append goes
// on; Wait may be called again.
func (p *Pending) Wait(ctx context.Context) (int64, error) {
	select {
	case <-p.m.done:
	default:
		select {
		case <-p.m.done:
		case <-ctx.Done():
			return -1, pathError("append", p.name, outcomeUnknown(context.Cause(ctx)))
		}
	}
	if p.m.err != nil {
		return -1, pathError("append", p.name, p.m.err)
	}
	return p.m.result, nil
}

// AppendBatch appends each record atomically, in order, and waits for all; the batch as a whole is not atomic. The
// offsets are those of the records, -1 where one failed; the error is the first failure.
func (f *File) AppendBatch(ctx context.Context, records [][]byte) ([]int64, error) {
	p := f.client.patience(ctx)
	offsets := make([]int64, len(records))
	queued := make([]*mutation, len(records))
	var stream *stream
	var failure error
	for i, record := range records {
		offsets[i] = -1
		s, m, err := f.pushAppend(p, record, false)
		if err != nil {
			if failure == nil {
				failure = err
			}
			continue
		}
		stream, queued[i] = s, m
		p.progress()
	}
	for i, m := range queued {
		if m == nil {
			continue
		}
		offset, err := stream.await(p, m)
		if offsets[i] = offset; err != nil && failure == nil {
			failure = err
		}
	}
	return offsets, pathError("append", f.name, failure)
}

// pushAppend copies record and puts it behind the File's other appends. Queued makes its failure the File's.
func (f *openFile) pushAppend(p *patience, record []byte, queued bool) (*stream, *mutation, error) {
	if err := f.usable(true); err != nil {
		return nil, nil, err
	}
	if len(record) > gfs.MaxRecordBytes {
		return nil, nil, gfs.Errorf(gfs.CodeRecordTooLarge, "%d bytes: split it into records of at most %d", len(record), gfs.MaxRecordBytes)
	}
	if len(record) == 0 {
		return nil, nil, gfs.Errorf(gfs.CodeInvalid, "an empty record: append at least one byte")
	}
	if err := p.ended(nil); err != nil {
		return nil, nil, err
	}
	taken, err := f.room.acquire(p, len(record)+mutationCost)
	if err != nil {
		return nil, nil, err
	}
	m := f.newMutation(p, record, 0, taken)
	m.queued = queued
	s := f.appendStream()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequence++
	m.sequence = s.sequence
	return s, m, f.pushLocked(s, m)
}

// appendStream is the file's one appending stream.
func (f *openFile) appendStream() *stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.appender == nil {
		s := newStream(f)
		s.appends, s.window.appends = true, true
		s.writer, s.sequence = f.client.takeWriter()
		f.appender = s
	}
	return f.appender
}
