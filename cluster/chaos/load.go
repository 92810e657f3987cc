package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
)

// payload is the record number i of a producer: it says who wrote it and is filled to the wanted length.
func (r *run) payload(producer, i int) string {
	head := fmt.Sprintf("%d/%d ", producer, i)
	return head + strings.Repeat("x", max(r.RecordBytes-len(head), 0))
}

// produce appends records, each after the one before is acknowledged, through a client of its own.
func (r *run) produce(ctx context.Context, producer int) (err error) {
	client, err := clientlib.Connect(ctx, r.parts.URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	f, err := client.OpenFile(ctx, path, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return err
	}
	w := record.NewWriter(f)
	defer func() { err = errors.Join(err, w.Close(), f.Close()) }()
	for i := 0; !r.stop.Load(); i++ {
		payload, begin := r.payload(producer, i), time.Now()
		offset, err := w.Append(ctx, []byte(payload))
		if err != nil {
			return fmt.Errorf("producer %d, record %d, after %s: %w", producer, i, time.Since(begin).Round(time.Millisecond), err)
		}
		r.mu.Lock()
		r.acknowledged[payload] = offset
		r.longest = max(r.longest, time.Since(begin))
		r.mu.Unlock()
	}
	return nil
}

// follow reads the file again and again while it grows. What it has seen once must stay.
func (r *run) follow(ctx context.Context) error {
	client, err := clientlib.Connect(ctx, r.parts.URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	seen := map[int64]string{} // offset → payload
	for !r.stop.Load() {
		f, err := client.Open(ctx, path)
		if err != nil {
			return fmt.Errorf("reader: %w", err)
		}
		before, again := len(seen), 0
		for rec, err := range record.NewReader(f).Records(ctx) {
			if err != nil {
				return fmt.Errorf("reader: %w", errors.Join(err, f.Close()))
			}
			was, known := seen[rec.Offset]
			if known && was != string(rec.Payload) {
				return fmt.Errorf("reader: the record at offset %d changed from %.40q to %.40q", rec.Offset, was, rec.Payload)
			}
			if known {
				again++
			}
			seen[rec.Offset] = string(rec.Payload)
			if r.stop.Load() {
				return f.Close()
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
		if again != before {
			return fmt.Errorf("reader: of %d records seen before only %d are still there", before, again)
		}
	}
	return nil
}
