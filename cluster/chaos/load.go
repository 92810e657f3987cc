package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
)

// How much is written: enough that something is always under way, and little enough that ten minutes fit on a disk.
const (
	leastPause, mostPause = 4 * time.Millisecond, 20 * time.Millisecond // of a producer, between appends
	mostEntryBytes        = 3 << 10
	aheadWindow           = 16
	streamPieceBytes      = 256 << 10
	streamPieces          = 8 // between two Syncs
	streamPause           = 60 * time.Millisecond
	blockBytes            = 96 << 10 // one and a half of the blocks that have a checksum each
	blockCount            = 64
	samples               = 4096
)

func (r *run) generator(producer uint32) *rand.Rand {
	return rand.New(rand.NewPCG(r.Seed, uint64(producer)+1))
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + rand64(random, most-least)
}

// open opens a file to write to.
func open(ctx context.Context, client *clientlib.Client, path string, flag int) (*clientlib.File, error) {
	return client.OpenFile(ctx, path, os.O_RDWR|flag)
}

// failedAfter says when and where a call failed.
func failedAfter(op *operation, why error) error {
	return fmt.Errorf("%s to %s, after %s: %w", op.kind, op.file, time.Since(op.began).Round(time.Millisecond), why)
}

// appendRecords appends framed records, each after the one before is acknowledged.
func (r *run) appendRecords(ctx context.Context, client *clientlib.Client, producer uint32) (err error) {
	f, err := open(ctx, client, recordsPath, os.O_APPEND)
	if err != nil {
		return err
	}
	w := record.NewWriter(f)
	defer func() { err = errors.Join(err, w.Close(), f.Close()) }()
	random := r.generator(producer)
	for i := 0; !r.stop.Load(); i++ {
		payload := fmt.Sprintf("%d/%d %s", producer, i, strings.Repeat("x", random.IntN(mostEntryBytes)))
		op := r.ops.start(appendOne, recordsPath, unknown)
		offset, err := w.Append(ctx, []byte(payload))
		if err != nil {
			return failedAfter(op, err)
		}
		r.ops.end(op, indexOf(offset))
		r.mu.Lock()
		r.records[payload] = ack{offset, time.Now()}
		r.mu.Unlock()
		if err := rest(ctx, between(random, leastPause, mostPause)); err != nil {
			return err
		}
	}
	return nil
}

// acknowledged notes where an entry is.
func (r *run) acknowledged(id entryID, offset int64, length int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries[id] = offset
	s := sample{id, offset, length}
	if len(r.recent) < samples {
		r.recent = append(r.recent, s)
	} else {
		r.recent[rand.IntN(samples)] = s
	}
}

// appendEntries appends bare entries, each after the one before is acknowledged.
func (r *run) appendEntries(ctx context.Context, client *clientlib.Client, producer uint32) (err error) {
	f, err := open(ctx, client, rawPath, os.O_APPEND)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	random := r.generator(producer)
	for i := uint32(0); !r.stop.Load(); i++ {
		entry := encodeEntry(entryID{producer, i}, entryHeadBytes+random.IntN(mostEntryBytes))
		op := r.ops.start(appendOne, rawPath, unknown)
		offset, err := f.Append(ctx, entry)
		if err != nil {
			return failedAfter(op, err)
		}
		r.ops.end(op, indexOf(offset))
		r.acknowledged(entryID{producer, i}, offset, len(entry))
		if err := rest(ctx, between(random, leastPause, mostPause)); err != nil {
			return err
		}
	}
	return nil
}

// appendAhead appends bare entries with a window of them under way.
func (r *run) appendAhead(ctx context.Context, client *clientlib.Client, producer uint32) (err error) {
	f, err := open(ctx, client, rawPath, os.O_APPEND)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	window := make(chan struct{}, aheadWindow)
	failed := make(chan error, aheadWindow+1)
	var landing sync.WaitGroup
	defer landing.Wait()
	random := r.generator(producer)
	for i := uint32(0); !r.stop.Load(); i++ {
		id := entryID{producer, i}
		entry := encodeEntry(id, entryHeadBytes+random.IntN(mostEntryBytes))
		select {
		case window <- struct{}{}:
		case err := <-failed:
			return err
		}
		op := r.ops.start(appendAhead, rawPath, unknown)
		pending := f.AppendAsync(ctx, entry)
		landing.Go(func() {
			offset, err := pending.Wait(ctx)
			if err != nil {
				failed <- failedAfter(op, err)
				return
			}
			r.ops.end(op, indexOf(offset))
			r.acknowledged(id, offset, len(entry))
			<-window
		})
		if err := rest(ctx, between(random, leastPause, mostPause)); err != nil {
			return err
		}
	}
	landing.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// writeStream writes a file from its beginning to its end, and syncs it now and then.
func (r *run) writeStream(ctx context.Context, client *clientlib.Client) (err error) {
	f, err := open(ctx, client, streamPath, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	piece := make([]byte, streamPieceBytes)
	for offset := int64(0); !r.stop.Load(); {
		op := r.ops.start(streamSync, streamPath, indexOf(offset))
		for range streamPieces {
			fillPattern(piece, offset, 0)
			if _, err := f.Write(piece); err != nil {
				return failedAfter(op, err)
			}
			offset += streamPieceBytes
		}
		if err := f.Sync(ctx); err != nil {
			return failedAfter(op, err)
		}
		r.ops.end(op, indexOf(offset-1))
		r.stream.Store(offset)
		if err := rest(ctx, streamPieces*streamPause); err != nil {
			return err
		}
	}
	return nil
}

// writeBlocks overwrites blocks at random, one after the other, so that each has what was written last.
func (r *run) writeBlocks(ctx context.Context, client *clientlib.Client) (err error) {
	f, err := open(ctx, client, blocksPath, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r.blocks = make([]uint64, blockCount)
	random := r.generator(1 << 20)
	data := make([]byte, blockBytes)
	for salt := uint64(1); !r.stop.Load(); salt++ {
		block := random.IntN(blockCount)
		if salt <= blockCount {
			block = int(salt) - 1
		}
		offset := int64(block) * blockBytes
		fillPattern(data, offset, salt)
		op := r.ops.start(writeAt, blocksPath, indexOf(offset))
		if _, err := f.WriteAt(data, offset); err != nil {
			return failedAfter(op, err)
		}
		r.ops.end(op, indexOf(offset))
		r.blocks[block] = salt
		if err := rest(ctx, between(random, leastPause, 5*mostPause)); err != nil {
			return err
		}
	}
	return nil
}

// appendWithPauses appends just when the chunk is about to be closed, or was a moment ago.
func (r *run) appendWithPauses(ctx context.Context, client *clientlib.Client) (err error) {
	f, err := open(ctx, client, pausesPath, os.O_APPEND)
	if err != nil {
		return err
	}
	w := record.NewWriter(f)
	defer func() { err = errors.Join(err, w.Close(), f.Close()) }()
	random := r.generator(1 << 21)
	for i := 0; !r.stop.Load(); i++ {
		op := r.ops.start(appendOne, pausesPath, unknown)
		offset, err := w.Append(ctx, fmt.Appendf(nil, "%d", i))
		if err != nil {
			return failedAfter(op, err)
		}
		r.ops.end(op, indexOf(offset))
		if err := rest(ctx, between(random, 4900*time.Millisecond, 6*time.Second)); err != nil {
			return err
		}
	}
	return nil
}
