package chaos

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/messages/gfs"
)

// lastRecord is how long after the end of the load another record may come: the last one may have come before.
const lastRecord = 5 * time.Second

// followRecords follows the framed records: each comes once, in the order of the file, where it was acknowledged.
func (r *run) followRecords(ctx context.Context, client *clientlib.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for !r.stop.Load() && rest(ctx, 100*time.Millisecond) == nil {
		}
		_ = rest(ctx, lastRecord)
		cancel()
	}()
	last := int64(-1)
	seen := map[string]int64{}
	op := r.ops.read(client, tail, recordsPath, 0)
	for rec, err := range client.Tail(ctx, recordsPath, record.Position{}) {
		switch {
		case err != nil && r.stop.Load() && errors.Is(err, context.Canceled):
			return nil
		case err != nil:
			return failedAfter(op, err)
		case rec.Offset <= last:
			return unexpected("tail", recordsPath, rec.Offset, errors.New("it went back"))
		}
		payload := string(rec.Payload)
		if _, twice := seen[payload]; twice {
			return unexpected("tail", recordsPath, rec.Offset, errors.New("a record came twice"))
		}
		seen[payload], last = rec.Offset, rec.Offset
		r.mu.Lock()
		known, acknowledged := r.records[payload]
		r.mu.Unlock()
		late := time.Duration(0)
		if acknowledged {
			late = time.Since(known.at)
		}
		r.ops.endAfter(op, indexOf(rec.Offset), late)
		if r.stop.Load() {
			return nil
		}
		op = r.ops.read(client, tail, recordsPath, indexOf(rec.Offset))
	}
	return nil
}

// readAtRandom reads again what was acknowledged, and wants the same bytes.
func (r *run) readAtRandom(ctx context.Context, client *clientlib.Client) (err error) {
	raw, err := client.Open(ctx, rawPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	stream, err := client.Open(ctx, streamPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	data := make([]byte, streamPieceBytes)
	for !r.stop.Load() {
		if err := rest(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		r.mu.Lock()
		var s sample
		if len(r.recent) > 0 {
			s = r.recent[rand.IntN(len(r.recent))]
		}
		r.mu.Unlock()
		if s.length > 0 {
			op := r.ops.read(client, readRandom, rawPath, indexOf(s.offset))
			if _, err := raw.ReadAt(data[:s.length], s.offset); err != nil {
				return failedAfter(op, err)
			}
			r.ops.end(op, indexOf(s.offset))
			if id, length, err := decodeEntry(data[:s.length]); err != nil || id != s.id || length != s.length {
				return unexpected("read of entry "+s.id.String(), rawPath, s.offset, errors.Join(err, errors.New("it is "+id.String())))
			}
		}
		if end := r.stream.Load(); end > 0 {
			n := 1 + rand.Int64N(min(end, int64(len(data))))
			offset := rand.Int64N(end - n + 1)
			op := r.ops.read(client, readRandom, streamPath, indexOf(offset))
			if _, err := stream.ReadAt(data[:n], offset); err != nil {
				return failedAfter(op, err)
			}
			r.ops.end(op, indexOf(offset))
			if err := checkPattern(data[:n], offset, 0); err != nil {
				return unexpected("read", streamPath, offset, err)
			}
		}
	}
	return nil
}

// readInOrder reads the stream from beginning to end, again and again.
func (r *run) readInOrder(ctx context.Context, client *clientlib.Client) (err error) {
	f, err := client.Open(ctx, streamPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	file := f.WithContext(ctx)
	data := make([]byte, 1<<20)
	offset := int64(0)
	for !r.stop.Load() {
		acknowledged := r.stream.Load()
		op := r.ops.read(client, readInOrder, streamPath, indexOf(offset))
		n, err := file.Read(data)
		if err != nil && err != io.EOF {
			return failedAfter(op, err)
		}
		r.ops.end(op, indexOf(offset))
		if wrong := checkPattern(data[:n], offset, 0); wrong != nil {
			return unexpected("read in order", streamPath, offset, wrong)
		}
		offset += int64(n)
		if err == io.EOF {
			if offset < acknowledged {
				return unexpected("read in order", streamPath, offset, errors.New("the file ends before what was acknowledged"))
			}
			if offset, err = file.Seek(max(0, offset-2*gfs.ChunkSize), io.SeekStart); err != nil {
				return err
			}
		}
		if err := rest(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
