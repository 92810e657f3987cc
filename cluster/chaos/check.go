package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/messages/gfs"
)

// check reads everything back through the library, then stops the cluster and compares the replicas on disk.
func (r *run) check(ctx context.Context) error {
	client, err := clientlib.Connect(ctx, r.parts.URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := r.checkRecords(ctx, client); err != nil {
		return err
	}
	info, err := client.Stat(ctx, path)
	if err != nil {
		return err
	}
	locations, err := r.waitWhole(ctx, client, info.Size())
	if err != nil {
		return err
	}
	for _, name := range r.parts.Names() {
		if strings.HasPrefix(name, "cs") {
			if err := r.parts.Stop(name); err != nil {
				return err
			}
		}
	}
	for i, l := range locations {
		length := min(info.Size()-int64(i)*gfs.ChunkSize, gfs.ChunkSize)
		if err := r.compare(l, length); err != nil {
			return err
		}
		r.report.Chunks++
	}
	return nil
}

// wholeTimeout is how long the replicas that were lost have to be replaced.
const wholeTimeout = time.Minute

// waitWhole waits until every chunk of the file has all its good replicas again.
func (r *run) waitWhole(ctx context.Context, client *clientlib.Client, size int64) ([]clientlib.ChunkLocation, error) {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	began := time.Now()
	for {
		locations, err := client.Locations(ctx, path, 0, size)
		missing := 0
		for _, l := range locations {
			missing += max(0, gfs.DefaultReplicas-len(l.Servers))
		}
		if err == nil && missing == 0 {
			r.report.Healing = time.Since(began)
			return locations, nil
		}
		if pauseErr := r.pause(ctx, 50, 100); pauseErr != nil {
			return nil, fmt.Errorf("%d replicas are still missing: %w", missing, errors.Join(err, pauseErr))
		}
	}
}

func (r *run) checkRecords(ctx context.Context, client *clientlib.Client) (err error) {
	f, err := client.Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	found := map[string]int{}
	for rec, err := range record.NewReader(f).Records(ctx) {
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		payload := string(rec.Payload)
		found[payload]++
		if offset, ok := r.acknowledged[payload]; ok && offset != rec.Offset {
			return fmt.Errorf("record %.40q was acknowledged at offset %d and is at %d", payload, offset, rec.Offset)
		}
	}
	r.report.Found = len(found)
	var failed []error
	for payload := range r.acknowledged {
		if found[payload] != 1 {
			failed = append(failed, fmt.Errorf("record %.40q was acknowledged once and is there %d times", payload, found[payload]))
		}
		if len(failed) == 10 {
			break
		}
	}
	return errors.Join(failed...)
}

// compare compares the first length bytes of a chunk on all the servers that hold it.
func (r *run) compare(l clientlib.ChunkLocation, length int64) error {
	var first []byte
	for i, s := range l.Servers {
		name := r.parts.Server(string(s.ID))
		handle := l.Handle.String()
		sum, err := hashFile(filepath.Join(r.Dir, name, "chunks", handle[len(handle)-2:], handle), length)
		if err != nil {
			return fmt.Errorf("chunk %s on %s: %w", handle, name, err)
		}
		if i == 0 {
			first = sum
		} else if string(sum) != string(first) {
			return fmt.Errorf("chunk %s: the first %d bytes differ between %s and %s", handle, length, r.parts.Server(string(l.Servers[0].ID)), name)
		}
	}
	return nil
}

func hashFile(name string, length int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	hash := sha256.New()
	if n, err := io.Copy(hash, io.LimitReader(f, length)); err != nil || n != length {
		return nil, fmt.Errorf("%d of %d bytes: %w", n, length, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return hash.Sum(nil), nil
}
