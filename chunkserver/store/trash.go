package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Delete deletes a replica if its promised and active version, state and mark are still those of the precondition, and it
// still is empty if it was; else it is gfs.CodeConflict. Its files are moved aside, into the trash, and Sweep unlinks them later. The
// deletion is durable when Delete returns. Who still reads the files keeps reading them.
func (s *Store) Delete(h gfs.ChunkHandle, precondition Status) error {
	r, err := s.Get(h)
	if err != nil {
		return err
	}
	r.write.Lock()
	defer r.write.Unlock()
	now := r.Status()
	if now.Promised != precondition.Promised || now.Active != precondition.Active ||
		now.State != precondition.State || now.Marked != precondition.Marked || now.Length != 0 && precondition.Length == 0 {
		return gfs.Errorf(gfs.CodeConflict, "chunk %s: replica is promised %s, active %s, %s, marked %t, %d bytes long: not as it was reported",
			h, now.Promised, now.Active, now.State, now.Marked, now.Length)
	}
	r.mu.Lock()
	if r.gone {
		r.mu.Unlock()
		return r.usable()
	}
	r.gone = true
	r.mu.Unlock()

	// The row goes and a note of what is to be moved comes in one commit; the note itself may go any time after
	// the move.
	name := trashFileName(h, s.now().UnixNano())
	err = r.dir.commit(change{bucketReplicas, handleKey(h), nil}, change{bucketRemovals, handleKey(h), []byte(name)})
	if err != nil {
		r.mu.Lock()
		r.gone = false
		r.mu.Unlock()
		return err
	}
	err = r.dir.moveAside(h, name)
	if err == nil {
		r.dir.index.later(change{bucketRemovals, handleKey(h), nil})
	}
	r.mu.Lock()
	c := r.content
	r.content = nil
	r.dir.used.Add(-r.row.length)
	r.mu.Unlock()
	if c != nil {
		s.cache.forget(c)
		c.release()
	}
	s.forget(h)
	return err
}

// Sweep unlinks the files of replicas that were deleted before a time, and returns how many bytes of disk that
// frees. A caller short of space passes the present.
func (s *Store) Sweep(before time.Time) (freed int64, err error) {
	for _, d := range s.dirs {
		n, derr := d.sweep(before)
		freed += n
		err = errors.Join(err, derr)
	}
	return freed, err
}

func (d *directory) sweep(before time.Time) (freed int64, errs error) {
	trash, err := os.Open(filepath.Join(d.path, trashName))
	if err != nil {
		return 0, err
	}
	defer trash.Close()
	names, err := trash.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		stamp, ok := parseTrashName(name)
		if !ok || stamp >= before.UnixNano() {
			continue
		}
		path := filepath.Join(d.path, trashName, name)
		info, err := os.Lstat(path)
		if err == nil {
			err = os.Remove(path)
		}
		switch {
		case err == nil:
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				freed += st.Blocks * 512
			}
		case !errors.Is(err, fs.ErrNotExist):
			errs = errors.Join(errs, err)
		}
	}
	return freed, errs
}

// SweepLeftovers moves aside the files of creations that the end of a process cut short before the index knew of them, and
// returns how many replicas' files they were. It walks the directories, beside everything else that the store does; what
// this process makes it leaves alone, so once in a process is enough.
func (s *Store) SweepLeftovers() (n int, err error) {
	for _, d := range s.dirs {
		folders, derr := os.ReadDir(filepath.Join(d.path, chunksName)) // in order, for runs that can be repeated
		err = errors.Join(err, derr)
		for _, folder := range folders {
			files, derr := os.ReadDir(filepath.Join(d.path, chunksName, folder.Name()))
			err = errors.Join(err, derr)
			last := gfs.ChunkHandle(0)
			for _, f := range files {
				h, perr := gfs.ParseChunkHandle(strings.TrimSuffix(f.Name(), sumSuffix))
				if perr != nil || h == last || d.chunkPath(h) != filepath.Join(d.path, chunksName, folder.Name(), h.String()) {
					continue // nobody's whom we know
				}
				moved, merr := s.sweepLeftover(d, h)
				n, last = n+moved, h
				err = errors.Join(err, merr)
			}
		}
	}
	return n, err
}

// sweepLeftover moves the files of a chunk aside if there is no replica of it in that directory.
func (s *Store) sweepLeftover(d *directory, h gfs.ChunkHandle) (moved int, err error) {
	s.mu.Lock()
	r, there := s.replicas[h]
	if there && (r == nil || r.dir == d) {
		s.mu.Unlock()
		return 0, nil // it is being made, or it is one
	}
	if !there {
		s.replicas[h] = nil // nobody makes it meanwhile
	}
	s.mu.Unlock()
	err = d.moveAside(h, trashFileName(h, s.now().UnixNano()))
	if !there {
		s.mu.Lock()
		delete(s.replicas, h)
		s.mu.Unlock()
	}
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// finishRemovals moves aside what a crash left in place.
func (d *directory) finishRemovals() error {
	removals, err := d.index.removals()
	if err != nil {
		return err
	}
	for h, name := range removals {
		if name != "" {
			if err := d.moveAside(h, name); err != nil {
				return err
			}
		}
		d.index.later(change{bucketRemovals, handleKey(h), nil})
	}
	return nil
}
