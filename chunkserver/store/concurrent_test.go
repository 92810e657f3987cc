package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// stamped is a block full of one number, so that a mixture of two writes shows.
func stamped(n uint64, size int) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n), size/8)
}

// Readers run beside a writer that overwrites and appends: every block that they get is of one write.
func TestReadersBesideWriter(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, logBytes: 2000})
	r := filled(t, s, 1, stamped(1, 4*gfs.BlockSize))
	var over atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			buf := make([]byte, 2*gfs.BlockSize)
			for i := int64(0); !over.Load(); i++ {
				off := i % 5 * gfs.BlockSize
				n, err := r.ReadAt(buf, off)
				if err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("read at %d: %v", off, err)
					return
				}
				for start := 0; start < n; start += gfs.BlockSize {
					block := buf[start:min(start+gfs.BlockSize, n)]
					if !bytes.Equal(block[8:], block[:len(block)-8]) {
						t.Errorf("block at %d is a mixture", off+int64(start))
						return
					}
				}
				if f, sums, n, done := r.Settled(off, gfs.BlockSize, nil); n > 0 {
					got := make([]byte, n)
					if _, err := f.ReadAt(got, off); err != nil {
						t.Errorf("settled: %v", err)
					}
					// An overwrite may have come after: then the receiver sees it by the CRC.
					if checksum(got) == sums[0] && !bytes.Equal(got[8:], got[:n-8]) {
						t.Error("a mixture has a matching checksum")
					}
					done()
				}
				_ = r.Status()
				_, _ = r.Digest()
			}
		})
	}
	length := int64(4 * gfs.BlockSize)
	for n := uint64(2); n < 300; n++ {
		if err := r.WriteAt(int64(n%4)*gfs.BlockSize, stamped(n, gfs.BlockSize), nil); err != nil {
			t.Error(err)
			break
		}
		if err := r.WriteAt(length, stamped(7, 800), nil); err != nil {
			t.Error(err)
			break
		}
		length += 800
		p := Progress{Length: length, Commit: length, Appends: []mutation.Append{appendOf(1, n, length-800, 800)}}
		if err := r.Advance(p); err != nil {
			t.Error(err)
			break
		}
		r.SetCommit(length)
	}
	over.Store(true)
	wg.Wait()
}

// Many callers at once: each call is durable by itself, in few commits, and nothing depends on the file cache.
func TestManyReplicasAtOnce(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	var commits atomic.Int64
	s := openStore(t, Config{Dirs: dirs, OpenChunks: 2, fault: func(op operation, _ string, n int) (int, error) {
		if op == opCommit {
			commits.Add(1)
		}
		return n, nil
	}})
	const count = 64
	var wg sync.WaitGroup
	for h := gfs.ChunkHandle(1); h <= count; h++ {
		wg.Go(func() {
			if err := life(s, h); err != nil {
				t.Errorf("chunk %s: %v", h, err)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			s.Statuses(0, count)
			s.Space()
		}
	})
	wg.Wait()
	if s.Len() != count/2 {
		t.Fatalf("%d replicas left, want %d", s.Len(), count/2)
	}
	// Without sharing it would be 3.5 for each.
	if n := commits.Load(); n > count*3 {
		t.Errorf("%d commits for %d replicas", n, count)
	} else {
		t.Logf("%d commits for %d replicas", n, count)
	}
}

// life is a chunk's from its creation to its end.
func life(s *Store, h gfs.ChunkHandle) error {
	r, err := s.Create(h, v(1))
	if err != nil {
		return err
	}
	data := noise(uint64(h), 100_000)
	err = errors.Join(
		r.WriteAt(0, data, nil),
		r.Advance(Progress{Length: int64(len(data)), Commit: int64(len(data))}),
		r.Sync(),
		s.Unmark([]*Replica{r}),
	)
	if err != nil {
		return err
	}
	got := make([]byte, len(data))
	for range 5 {
		if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
			return fmt.Errorf("read: %w", err)
		}
	}
	if err := r.Promise(v(2), v(1), false); err != nil {
		return err
	}
	if err := errors.Join(r.Activate(v(2)), r.WriteAt(10, data[:10], nil)); err != nil {
		return err
	}
	if h%2 == 0 {
		return s.Delete(h, r.Status())
	}
	return nil
}

// An overwrite that comes between a reader's look at the CRC and its read of the bytes is no corruption.
func TestOverwriteInTheMiddleOfARead(t *testing.T) {
	var r *Replica
	reads := 0
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, fault: func(op operation, _ string, n int) (int, error) {
		if op == opRead {
			if reads++; reads == 1 {
				return n, r.WriteAt(0, stamped(2, gfs.BlockSize), nil)
			}
		}
		return n, nil
	}})
	r = filled(t, s, 1, stamped(1, gfs.BlockSize))
	got := make([]byte, gfs.BlockSize)
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, stamped(2, gfs.BlockSize)) {
		t.Fatalf("read %x…: %v", got[:8], err)
	}
	if reads != 2 {
		t.Fatalf("%d reads, want the second with the lock", reads)
	}
}
