package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/boltdb/bolt"

	"github.com/cairnfs/cairn/messages/gfs"
)

// row is what the index knows of a replica.
type row struct {
	promised gfs.Version
	active   gfs.Version
	length   int64
	commit   int64
	state    gfs.ReplicaState
	marked   bool
	redo     bool   // a patch in a side file is to be applied
	sequence uint64 // of the last record in the checksum file, when not marked
}

// rowFormat is the first byte of a row's value.
const (
	rowFormat = 1
	rowBytes  = 4 + 5*8 + 4

	flagMarked = 1 << 0
	flagRedo   = 1 << 1
)

// appendRow appends a row's value: format, state, flags, zero; promised, active, length, commit, sequence; CRC32C
// of the key and all of this.
func appendRow(b []byte, h gfs.ChunkHandle, r row) []byte {
	var flags byte
	if r.marked {
		flags |= flagMarked
	}
	if r.redo {
		flags |= flagRedo
	}
	start := len(b)
	b = append(b, rowFormat, byte(r.state), flags, 0)
	for _, n := range [...]uint64{uint64(r.promised), uint64(r.active), uint64(r.length), uint64(r.commit), r.sequence} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return binary.LittleEndian.AppendUint32(b, rowChecksum(h, b[start:]))
}

func rowChecksum(h gfs.ChunkHandle, value []byte) uint32 {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], uint64(h))
	return extendChecksum(checksum(key[:]), value)
}

// parseRow reads what appendRow wrote.
func parseRow(h gfs.ChunkHandle, b []byte) (row, error) {
	switch {
	case len(b) > 0 && b[0] > rowFormat:
		return row{}, fmt.Errorf("row of format %d, this program knows formats up to %d", b[0], rowFormat)
	case len(b) != rowBytes || b[0] != rowFormat:
		return row{}, fmt.Errorf("row of %d bytes, want %d", len(b), rowBytes)
	case rowChecksum(h, b[:rowBytes-4]) != binary.LittleEndian.Uint32(b[rowBytes-4:]):
		return row{}, errors.New("row does not match its checksum")
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[4+8*i:]) }
	r := row{
		state: gfs.ReplicaState(b[1]), marked: b[2]&flagMarked != 0, redo: b[2]&flagRedo != 0,
		promised: gfs.Version(word(0)), active: gfs.Version(word(1)),
		length: int64(word(2)), commit: int64(word(3)), sequence: word(4),
	}
	if r.length < 0 || r.length > gfs.ChunkSize || r.commit < 0 || r.commit > r.length ||
		r.state < gfs.ReplicaMember || r.state > gfs.ReplicaCorrupt {
		return row{}, fmt.Errorf("row out of bounds: %+v", r)
	}
	return r, nil
}

// bucket names a part of the index.
type bucket string

// The buckets: rows by handle; replicas deleted but perhaps not yet moved aside, by handle, with the name they
// get; facts about the server by name.
const (
	bucketReplicas bucket = "replicas"
	bucketRemovals bucket = "removals"
	bucketServer   bucket = "server"
)

// The keys of bucketServer.
const (
	keyFormat = "format"
	keyEpoch  = "epoch"
	keyBoot   = "boot"
)

// indexFormat is the version of the buckets' layout.
const indexFormat = 1

// change puts a value under a key, or deletes it when the value is nil.
type change struct {
	bucket bucket
	key    []byte
	value  []byte
}

func handleKey(h gfs.ChunkHandle) []byte { return binary.BigEndian.AppendUint64(nil, uint64(h)) }

func rowChange(h gfs.ChunkHandle, r row) change {
	return change{bucketReplicas, handleKey(h), appendRow(make([]byte, 0, rowBytes), h, r)}
}

// index is the bolt file of a data directory, and the only place that knows bolt. Commits are durable when they
// return. Callers that come while one runs share the next: with one caller a commit begins at once, with many
// there is one fsync for all of them.
type index struct {
	db    *bolt.DB
	fault faultFunc

	mu      sync.Mutex
	leading bool       // a caller is committing
	waiting []*request // for the next commit
	lazy    []change   // go along with the next commit
}

// request is one caller of commit. What is sent on wake is whether its changes were committed by another caller;
// if not, it has to lead the next commit itself.
type request struct {
	changes []change
	wake    chan bool
	err     error
}

// openIndex opens or makes an index.
func openIndex(path string, fault faultFunc, noSync bool) (*index, error) {
	db, err := bolt.Open(path, 0o640, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, gfs.Errorf(gfs.CodeInternal, "index %s: %v; if the file is damaged, move the data directory away "+
			"and let its chunks be cloned", path, err)
	}
	db.NoSync = noSync
	x := &index{db: db, fault: fault}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [...]bucket{bucketReplicas, bucketRemovals, bucketServer} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		server := tx.Bucket([]byte(bucketServer))
		value := server.Get([]byte(keyFormat))
		if value == nil {
			return server.Put([]byte(keyFormat), binary.BigEndian.AppendUint64(nil, indexFormat))
		}
		if format := parseNumber(value); format != indexFormat {
			return gfs.Errorf(gfs.CodeInvalid, "index %s has format %d, this program knows format %d: run the program "+
				"that wrote it, or a newer one", path, format, indexFormat)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return x, nil
}

// parseNumber reads a number of bucketServer; zero when there is none.
func parseNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// close flushes the lazy changes and lets go of the file.
func (x *index) close() error {
	var err error
	if len(x.lazy) > 0 {
		err = x.commit(nil)
	}
	return errors.Join(err, x.db.Close())
}

// fact is a value of bucketServer; nil when there is none.
func (x *index) fact(key string) (value []byte, err error) {
	err = x.db.View(func(tx *bolt.Tx) error {
		value = append(value, tx.Bucket([]byte(bucketServer)).Get([]byte(key))...)
		return nil
	})
	return value, err
}

// each calls a function with every row, by rising handle, or with the error that stands in a row's place.
func (x *index) each(visit func(gfs.ChunkHandle, row, error) error) error {
	return x.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketReplicas)).ForEach(func(key, value []byte) error {
			if len(key) != 8 {
				return gfs.Errorf(gfs.CodeInternal, "index %s: key of %d bytes, want 8", x.db.Path(), len(key))
			}
			h := gfs.ChunkHandle(binary.BigEndian.Uint64(key))
			r, err := parseRow(h, value)
			return visit(h, r, err)
		})
	})
}

// removals are the replicas that were deleted and perhaps not yet moved aside, with the names they get. A name is empty
// where the handle has a replica again: what was to be moved is out of its way.
func (x *index) removals() (map[gfs.ChunkHandle]string, error) {
	out := make(map[gfs.ChunkHandle]string)
	err := x.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketRemovals)).ForEach(func(key, value []byte) error {
			if len(key) != 8 {
				return nil
			}
			if tx.Bucket([]byte(bucketReplicas)).Get(key) != nil {
				value = nil
			}
			out[gfs.ChunkHandle(binary.BigEndian.Uint64(key))] = string(value)
			return nil
		})
	})
	return out, err
}

// later lets a change go along with the next commit that succeeds. It is for what can be found out again after a crash.
func (x *index) later(c change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lazy = append(x.lazy, c)
}

// again lets changes of a commit that failed go along with the next one. Of several under one key the last is kept. The
// caller holds mu.
func (x *index) again(lazy []change) {
	all := slices.Concat(lazy, x.lazy)
	x.lazy = nil
	kept := make(map[string]bool, len(all))
	for _, c := range slices.Backward(all) {
		if name := string(c.bucket) + string(c.key); !kept[name] {
			kept[name] = true
			x.lazy = append(x.lazy, c)
		}
	}
	slices.Reverse(x.lazy)
}

// commit makes changes durable, all or none, and returns then. It blocks for one fsync of its own, or for the
// rest of the one that runs and the next.
func (x *index) commit(changes []change) error {
	req := &request{changes: changes, wake: make(chan bool, 1)}
	x.mu.Lock()
	x.waiting = append(x.waiting, req)
	lead := !x.leading
	x.leading = true
	x.mu.Unlock()
	if !lead {
		if committed := <-req.wake; committed {
			return req.err
		}
	}

	x.mu.Lock()
	batch, lazy := x.waiting, x.lazy
	x.waiting, x.lazy = nil, nil
	x.mu.Unlock()
	err := x.update(batch, lazy)
	for _, other := range batch {
		if other != req {
			other.err = err
			other.wake <- true
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		x.again(lazy)
	}
	if len(x.waiting) > 0 {
		x.waiting[0].wake <- false
	} else {
		x.leading = false
	}
	return err
}

// update is one bolt transaction.
func (x *index) update(batch []*request, lazy []change) error {
	if _, err := x.fault.ask(opCommit, x.db.Path(), 0); err != nil {
		return err
	}
	err := x.db.Update(func(tx *bolt.Tx) error {
		if err := apply(tx, lazy); err != nil {
			return err
		}
		for _, req := range batch {
			if err := apply(tx, req.changes); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		_, err = x.fault.ask(opCommitted, x.db.Path(), 0)
	}
	return err
}

func apply(tx *bolt.Tx, changes []change) error {
	for _, c := range changes {
		b := tx.Bucket([]byte(c.bucket))
		var err error
		if c.value == nil {
			err = b.Delete(c.key)
		} else {
			err = b.Put(c.key, c.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
