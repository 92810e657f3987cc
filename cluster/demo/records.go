package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnfs/cairn/clientlib/record"
)

// recordsPath is the file that all producers append to.
const recordsPath = "/demo/records"

// produce appends from all producers at once and kills the primary's chunkserver when half of the records are
// acknowledged.
func (s *show) produce(ctx context.Context, summary *Summary) error {
	f, err := s.client.Create(ctx, recordsPath)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	var acknowledged atomic.Int64
	half := make(chan struct{})
	var longest sync.Map // producer → its longest wait
	failed := make([]error, producers+1)
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			wait, err := s.producer(ctx, p, func() {
				if acknowledged.Add(1) == producers*recordsPerProducer/2 {
					close(half)
				}
			})
			longest.Store(p, wait)
			failed[p] = err
		})
	}
	produced := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		select {
		case <-half:
			summary.KilledAfter = int(acknowledged.Load())
			summary.Killed, failed[producers] = s.killPrimary(ctx)
		case <-produced: // a producer failed before that
		}
	}()
	wg.Wait()
	close(produced)
	<-killed
	if err := errors.Join(failed...); err != nil {
		return err
	}
	longest.Range(func(_, wait any) bool {
		summary.LongestWait = max(summary.LongestWait, float64(wait.(time.Duration).Microseconds())/1e3)
		return true
	})
	summary.Acknowledged = int(acknowledged.Load())
	s.sayf("%d producers appended %d records to %s; chunkserver %s was killed (SIGKILL) after %d; longest wait of a producer %.0f ms",
		producers, summary.Acknowledged, recordsPath, summary.Killed, summary.KilledAfter, summary.LongestWait)
	return nil
}

// producer appends numbered records, one after the other is acknowledged, and returns its longest wait.
func (s *show) producer(ctx context.Context, number int, acknowledged func()) (longest time.Duration, err error) {
	f, err := s.client.OpenFile(ctx, recordsPath, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return 0, err
	}
	w := record.NewWriter(f)
	defer func() { err = errors.Join(err, w.Close(), f.Close()) }()
	for i := range recordsPerProducer {
		begin := time.Now()
		if _, err := w.Append(ctx, fmt.Appendf(nil, "producer %d record %d", number, i)); err != nil {
			return longest, fmt.Errorf("producer %d, record %d: %w", number, i, err)
		}
		longest = max(longest, time.Since(begin))
		acknowledged()
	}
	return longest, nil
}

// killPrimary kills the chunkserver that holds the last chunk of the records, with SIGKILL.
func (s *show) killPrimary(ctx context.Context) (string, error) {
	info, err := s.client.Stat(ctx, recordsPath)
	if err != nil {
		return "", err
	}
	locations, err := s.client.Locations(ctx, recordsPath, max(info.Size()-1, 0), 1)
	if err != nil {
		return "", err
	}
	if len(locations) == 0 || len(locations[0].Servers) == 0 {
		return "", fmt.Errorf("nobody holds the last chunk of %s", recordsPath)
	}
	id := string(locations[0].Servers[0].ID)
	name := s.parts.Server(id)
	if name == "" {
		return "", fmt.Errorf("the master names chunkserver %s, which was never started", id)
	}
	return name, s.parts.Kill(name)
}

// checkRecords reads all records: each acknowledged one must be there, once, whole.
func (s *show) checkRecords(ctx context.Context, summary *Summary) (err error) {
	f, err := s.client.Open(ctx, recordsPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var seen [producers][recordsPerProducer]int
	for r, err := range record.NewReader(f).Records(ctx) {
		if err != nil {
			return fmt.Errorf("read the records back: %w", err)
		}
		var p, i int
		if _, err := fmt.Sscanf(string(r.Payload), "producer %d record %d", &p, &i); err != nil || p < 0 || p >= producers || i < 0 || i >= recordsPerProducer {
			return fmt.Errorf("a record nobody wrote at offset %d: %q", r.Offset, r.Payload)
		}
		seen[p][i]++
		summary.Found++
	}
	for p := range seen {
		for i, n := range seen[p] {
			if n != 1 {
				return fmt.Errorf("record %d of producer %d was acknowledged once and is there %d times", i, p, n)
			}
		}
	}
	s.sayf("read %s back: %d records of %d producers, each once and whole", recordsPath, summary.Found, producers)
	return nil
}

// copyIn stores a local file and returns the SHA-256 of what it read, and its length in bytes.
func (s *show) copyIn(ctx context.Context, local, to string) (sum string, n int64, err error) {
	from, err := os.Open(local)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = from.Close() }() // only read
	f, err := s.client.Create(ctx, to)
	if err != nil {
		return "", 0, err
	}
	hash := sha256.New()
	n, err = io.Copy(f, io.TeeReader(from, hash))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(hash.Sum(nil)), n, nil
}

// hash reads a stored file.
func (s *show) hash(ctx context.Context, name string) (sum string, n int64, err error) {
	f, err := s.client.Open(ctx, name)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	if n, err = io.Copy(hash, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(hash.Sum(nil)), n, nil
}
