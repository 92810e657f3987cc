package oplog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"runtime/debug"
	"time"

	"github.com/boltdb/bolt"
	"github.com/cairnfs/cairn/messages/gfs"
)

// Names and layout of the bolt file that is a checkpoint. The table is in doc.go.
const (
	checkpointMagic  = "cairn checkpoint"
	checkpointFormat = 1

	pageCRCBytes = 4
	// Bolt splits leaves only when a transaction commits: more keys at a time make it slow, more bytes large.
	maxTransactionKeys  = 10_000
	maxTransactionBytes = 32 << 20
	// checkpointLockTimeout bounds the wait for bolt's lock on a file that nobody else should have open.
	checkpointLockTimeout = 5 * time.Second
)

// errStopped ends a checkpoint because the log is closing.
var errStopped = errors.New("the operation log is closing")

func metaBucket() []byte  { return []byte("checkpoint") }
func pagesBucket() []byte { return []byte("pages") }

// pageCRC covers key and value and where one ends.
func pageCRC(key, value []byte) uint32 {
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(key)))
	sum := crc32.Checksum(length[:], castagnoli())
	return crc32.Update(crc32.Update(sum, castagnoli(), key), castagnoli(), value)
}

// totals is what the checkpoint says about all its pages together.
type totals struct {
	pages uint64
	crc   uint32 // CRC32C over the pages' checksums, in key order
}

func (t *totals) add(sum []byte) {
	t.pages++
	t.crc = crc32.Update(t.crc, castagnoli(), sum)
}

// streamCheckpoint builds the bolt file at scratch, copies it to out and removes it. It touches nothing but the
// view, and gives up with errStopped soon after stop is closed.
func streamCheckpoint(out io.Writer, scratch string, view View, stop <-chan struct{}) (err error) {
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(scratch)) }()
	if err := writeCheckpoint(scratch, view, stop); err != nil {
		return err
	}
	file, err := os.Open(scratch)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, file)
	return errors.Join(err, file.Close())
}

// writeCheckpoint makes the bolt file. Nothing is synced: the copy is.
func writeCheckpoint(path string, view View, stop <-chan struct{}) (err error) {
	db, err := bolt.Open(path, 0o644, &bolt.Options{NoGrowSync: true})
	if err != nil {
		return fmt.Errorf("make checkpoint file: %w", err)
	}
	db.NoSync = true
	defer func() { err = errors.Join(err, db.Close()) }()

	next, end := iter.Pull2(view.Pages())
	defer end()
	var sums totals
	var last []byte
	for more := true; more; {
		if isClosed(stop) {
			return errStopped
		}
		err := db.Update(func(tx *bolt.Tx) (err error) {
			last, more, err = writePages(tx, next, last, &sums)
			if err == nil && !more {
				err = writeTotals(tx, sums)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	return nil
}

// writePages fills one transaction. It returns the last key, and whether more pages may follow.
func writePages(tx *bolt.Tx, next func() (Page, error, bool), last []byte, sums *totals) ([]byte, bool, error) {
	bucket, err := tx.CreateBucketIfNotExists(pagesBucket())
	if err != nil {
		return nil, false, err
	}
	bucket.FillPercent = 1 // keys arrive in order, nothing is ever inserted between them
	size := 0
	for keys := 0; keys < maxTransactionKeys && size < maxTransactionBytes; keys++ {
		page, err, ok := next()
		if err != nil {
			return nil, false, err
		}
		if !ok {
			return last, false, nil
		}
		if err := checkPage(page, last); err != nil {
			return nil, false, err
		}
		// Bolt keeps key and value until the commit; the page's memory is ours only until the next step.
		last = bytes.Clone(page.Key)
		value := make([]byte, pageCRCBytes, pageCRCBytes+len(page.Value))
		binary.LittleEndian.PutUint32(value, pageCRC(page.Key, page.Value))
		sums.add(value)
		value = append(value, page.Value...)
		if err := bucket.Put(last, value); err != nil {
			return nil, false, err
		}
		size += len(last) + len(value)
	}
	return last, true, nil
}

func checkPage(page Page, last []byte) error {
	switch {
	case len(page.Key) == 0 || len(page.Key) > MaxPageKeyBytes:
		return gfs.Errorf(gfs.CodeInternal, "checkpoint key of %d bytes: want 1 to %d", len(page.Key), MaxPageKeyBytes)
	case len(page.Value) > MaxPageBytes:
		return gfs.Errorf(gfs.CodeInternal, "checkpoint value of %d bytes at key %x: at most %d", len(page.Value), page.Key, MaxPageBytes)
	case bytes.Compare(page.Key, last) <= 0:
		return gfs.Errorf(gfs.CodeInternal, "checkpoint key %x does not follow %x", page.Key, last)
	}
	return nil
}

// writeTotals makes the checkpoint complete: a file without them is refused.
func writeTotals(tx *bolt.Tx, sums totals) error {
	bucket, err := tx.CreateBucketIfNotExists(metaBucket())
	if err != nil {
		return err
	}
	return errors.Join(
		bucket.Put([]byte("magic"), []byte(checkpointMagic)),
		bucket.Put([]byte("format"), binary.LittleEndian.AppendUint32(nil, checkpointFormat)),
		bucket.Put([]byte("pages"), binary.LittleEndian.AppendUint64(nil, sums.pages)),
		bucket.Put([]byte("crc32c"), binary.LittleEndian.AppendUint32(nil, sums.crc)),
	)
}

// readCheckpoint maps the bolt file at path into memory, checks all of it, and then hands its pages to restore.
// Damage is gfs.CodeCorrupt and found before restore is called; a newer format is gfs.CodeInvalid.
func readCheckpoint(path string, restore func(iter.Seq2[Page, error]) error) (err error) {
	db, err := openCheckpoint(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bolt.Tx) error {
		if err := verifyCheckpoint(tx); err != nil {
			return err
		}
		return restore(func(yield func(Page, error) bool) {
			cursor := tx.Bucket(pagesBucket()).Cursor()
			for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
				if !yield(Page{Key: key, Value: value[pageCRCBytes:]}, nil) {
					return
				}
			}
		})
	})
}

func openCheckpoint(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer corruptOnPanic(&err)
	db, err = bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true, Timeout: checkpointLockTimeout})
	if err != nil {
		return nil, gfs.Errorf(gfs.CodeCorrupt, "checkpoint %s is not a bolt file: %v", path, err)
	}
	return db, nil
}

// verifyCheckpoint reads every page once.
func verifyCheckpoint(tx *bolt.Tx) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer corruptOnPanic(&err)
	meta, pages := tx.Bucket(metaBucket()), tx.Bucket(pagesBucket())
	if meta == nil || pages == nil || string(meta.Get([]byte("magic"))) != checkpointMagic {
		return gfs.Errorf(gfs.CodeCorrupt, "not a complete checkpoint: its totals are missing")
	}
	format, count, sum := meta.Get([]byte("format")), meta.Get([]byte("pages")), meta.Get([]byte("crc32c"))
	if len(format) != 4 || len(count) != 8 || len(sum) != 4 {
		return gfs.Errorf(gfs.CodeCorrupt, "the checkpoint's totals are damaged")
	}
	if number := binary.LittleEndian.Uint32(format); number > checkpointFormat {
		return gfs.Errorf(gfs.CodeInvalid, "checkpoint of format %d: this program knows up to %d; run a newer one", number, checkpointFormat)
	}
	var sums totals
	cursor := pages.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		if len(value) < pageCRCBytes {
			return gfs.Errorf(gfs.CodeCorrupt, "checkpoint value at key %x has no checksum", key)
		}
		if want, got := binary.LittleEndian.Uint32(value), pageCRC(key, value[pageCRCBytes:]); want != got {
			return gfs.Errorf(gfs.CodeCorrupt, "checkpoint value at key %x has CRC32C %08x, it was written with %08x", key, got, want)
		}
		sums.add(value[:pageCRCBytes])
	}
	if want := binary.LittleEndian.Uint64(count); sums.pages != want {
		return gfs.Errorf(gfs.CodeCorrupt, "checkpoint holds %d pages, it was written with %d", sums.pages, want)
	}
	if want := binary.LittleEndian.Uint32(sum); sums.crc != want {
		return gfs.Errorf(gfs.CodeCorrupt, "checkpoint has CRC32C %08x over all pages, it was written with %08x", sums.crc, want)
	}
	return nil
}

// corruptOnPanic is deferred around bolt's reading of a file that may be damaged: bolt asserts what it expects, and
// a page number out of range faults in the mapped memory.
func corruptOnPanic(err *error) {
	if damage := recover(); damage != nil {
		*err = gfs.Errorf(gfs.CodeCorrupt, "checkpoint is not a sound bolt file: %v", damage)
	}
}

func isClosed(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
