package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"os"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/cluster/processes"
	"github.com/cairnfs/cairn/messages/gfs"
)

// check reads everything back through the library, then stops the cluster and compares the replicas on disk.
func (r *run) check(ctx context.Context) (err error) {
	client, err := clientlib.Connect(ctx, r.parts.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	for _, check := range []func(context.Context, *clientlib.Client) error{r.checkRecords, r.checkEntries, r.checkStream, r.checkBlocks} {
		if err := check(ctx, client); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := waitWhole(ctx, client, paths, true); err != nil {
		return err
	}
	r.report.Healing = time.Since(began)
	chunks, err := chunksOf(ctx, client, paths)
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
	for _, l := range chunks {
		if err := compareReplicas(r.parts, l); err != nil {
			return err
		}
		r.report.Chunks++
	}
	return nil
}

// reading opens a file and closes it behind read.
func reading(ctx context.Context, client *clientlib.Client, path string, read func(f *clientlib.File) error) (err error) {
	f, err := client.Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return read(f.WithContext(ctx))
}

// checkRecords wants each acknowledged record where it was acknowledged. What stands there twice, the record package
// does not show; checkEntries does.
func (r *run) checkRecords(ctx context.Context, client *clientlib.Client) error {
	return reading(ctx, client, recordsPath, func(f *clientlib.File) error {
		found := map[string]bool{}
		for rec, err := range record.NewReader(f).Records(ctx) {
			if err != nil {
				return fmt.Errorf("read back: %w", err)
			}
			payload := string(rec.Payload)
			found[payload] = true
			if at, ok := r.records[payload]; ok && at.offset != rec.Offset {
				return fmt.Errorf("record %.40q was acknowledged at offset %d and is at %d", payload, at.offset, rec.Offset)
			}
		}
		for payload, at := range r.records {
			if !found[payload] {
				return fmt.Errorf("record %.40q was acknowledged at offset %d and is lost", payload, at.offset)
			}
		}
		return nil
	})
}

func (r *run) checkEntries(ctx context.Context, client *clientlib.Client) error {
	found, err := readEntries(ctx, client, rawPath)
	if err != nil {
		return err
	}
	for id, offset := range r.entries {
		if at, ok := found[id]; !ok || at != offset {
			return fmt.Errorf("entry %s was acknowledged at offset %d; found: %t, at %d", id, offset, ok, at)
		}
	}
	return nil
}

// readEntries goes through all bytes of a file of bare entries: each entry once, and between them nothing but the padding
// at the end of a chunk.
func readEntries(ctx context.Context, client *clientlib.Client, path string) (map[entryID]int64, error) {
	found := map[entryID]int64{}
	chunk := make([]byte, gfs.ChunkSize)
	err := reading(ctx, client, path, func(f *clientlib.File) error {
		for base := int64(0); ; base += gfs.ChunkSize {
			n, err := f.ReadAt(chunk, base)
			if err != nil && err != io.EOF {
				return fmt.Errorf("read back: %w", err)
			}
			if err := scanEntries(chunk[:n], base, found); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if err == io.EOF {
				return nil
			}
		}
	})
	return found, err
}

// scanEntries adds the entries of a chunk to found.
func scanEntries(data []byte, base int64, found map[entryID]int64) error {
	for at := 0; at < len(data); {
		id, length, err := decodeEntry(data[at:])
		if err != nil {
			for i, b := range data[at:] {
				if b != 0 {
					return fmt.Errorf("at offset %d is neither an entry nor padding (byte %d on is %#x): %w", base+int64(at), i, b, err)
				}
			}
			if len(data) < gfs.ChunkSize {
				return fmt.Errorf("padding from offset %d in a chunk that is not full: %w", base+int64(at), err)
			}
			return nil
		}
		offset := base + int64(at)
		if before, twice := found[id]; twice {
			return fmt.Errorf("entry %s is at offset %d and at %d", id, before, offset)
		}
		found[id] = offset
		at += length
	}
	return nil
}

func (r *run) checkStream(ctx context.Context, client *clientlib.Client) error {
	return reading(ctx, client, streamPath, func(f *clientlib.File) error {
		data := make([]byte, 1<<20)
		offset := int64(0)
		for {
			n, err := io.ReadFull(f, data)
			if wrong := checkPattern(data[:n], offset, 0); wrong != nil {
				return unexpected("read back", streamPath, offset, wrong)
			}
			offset += int64(n)
			if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if want := r.stream.Load(); offset < want {
			return fmt.Errorf("%s has %d bytes, %d were acknowledged", streamPath, offset, want)
		}
		return nil
	})
}

func (r *run) checkBlocks(ctx context.Context, client *clientlib.Client) error {
	return reading(ctx, client, blocksPath, func(f *clientlib.File) error {
		data := make([]byte, blockBytes)
		for i, salt := range r.blocks {
			if salt == 0 { // a short run
				continue
			}
			offset := int64(i) * blockBytes
			if _, err := f.ReadAt(data, offset); err != nil {
				return err
			}
			if err := checkPattern(data, offset, salt); err != nil {
				return unexpected("read back", blocksPath, offset, err)
			}
		}
		return nil
	})
}

// chunksOf is where all chunks of some files are.
func chunksOf(ctx context.Context, client *clientlib.Client, paths []string) (chunks []clientlib.ChunkLocation, err error) {
	for _, path := range paths {
		found, err := client.Locations(ctx, path, 0, gfs.MaxFileBytes)
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, found...)
	}
	return chunks, nil
}

// compareReplicas compares the data of a closed chunk on all the servers that hold it.
func compareReplicas(parts *processes.Cluster, l clientlib.ChunkLocation) error {
	var first []byte
	for i, s := range l.Servers {
		name := parts.Server(string(s.ID))
		handle := l.Handle.String()
		sum, err := hashFile(filepath.Join(parts.Dir(), name, "chunks", handle[len(handle)-2:], handle), l.Length)
		if err != nil {
			return fmt.Errorf("chunk %s on %s: %w", handle, name, err)
		}
		if i == 0 {
			first = sum
		} else if string(sum) != string(first) {
			return fmt.Errorf("chunk %s: the first %d bytes differ between %s and %s", handle, l.Length, parts.Server(string(l.Servers[0].ID)), name)
		}
	}
	return nil
}

// hashFile hashes the first length bytes of a file, and wants it to have nothing but zeros behind.
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
