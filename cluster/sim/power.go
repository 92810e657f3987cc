package sim

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairnfs/cairn/chunkserver/store"
)

// pageBytes is what the page cache writes back at once.
const pageBytes = 4096

// image is a file's content: its pages that are not all zeros, by number.
type image struct {
	size  int64
	pages map[int64][]byte
}

// durability knows what of a server's replicas is on its disk and not only in its page cache. The index is a file that
// is synced with each commit, so it is left alone.
type durability struct {
	files map[string]image // as of their last sync
	lost  []lostPage       // that the last syncs could not write
}

// chunkFile reports whether a path is that of a replica's data or checksums.
func chunkFile(path string) bool {
	return strings.Contains(path, string(filepath.Separator)+"chunks"+string(filepath.Separator))
}

// synced notes that a file, or everything below a data directory, is on disk.
func (d *durability) synced(path string) error {
	if d.files == nil {
		d.files = make(map[string]image)
	}
	if chunkFile(path) {
		now, err := take(path)
		d.without(path, now)
		d.files[path] = now
		return err
	}
	return eachChunkFile(path, d.synced)
}

func eachChunkFile(dir string, visit func(path string) error) error {
	return filepath.WalkDir(filepath.Join(dir, "chunks"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return visit(path)
	})
}

// take reads a file without its holes.
func take(path string) (image, error) {
	f, err := os.Open(path)
	if err != nil {
		return image{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return image{}, err
	}
	i := image{size: info.Size(), pages: make(map[int64][]byte)}
	for at := int64(0); ; {
		at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return i, nil
		}
		if err != nil {
			return i, err
		}
		hole, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return i, err
		}
		data := make([]byte, hole-at)
		n, err := f.ReadAt(data, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return i, err
		}
		i.add(at/pageBytes, data[:n])
		at = hole
	}
}

// add keeps the pages of data that are not all zeros, the first of which has a number.
func (i image) add(number int64, data []byte) {
	for ; len(data) > 0; number++ {
		page := data[:min(pageBytes, len(data))]
		data = data[len(page):]
		if !bytes.Equal(page, zeros[:len(page)]) {
			i.pages[number] = page
		}
	}
}

// zeros is a page of them.
var zeros [pageBytes]byte

// lose is the loss of power: of each file what was synced is there, and of the rest any pages.
func (d *durability) lose(w *world, dir string) error {
	return eachChunkFile(dir, func(path string) error {
		before, known := d.files[path]
		if !known && w.chance(2) {
			return os.Remove(path) // not even its name was on disk
		}
		now, err := take(path)
		if err != nil {
			return err
		}
		return before.rewrite(w, path, now)
	})
}

// rewrite makes a file hold each page as it was, or as it is now.
func (i image) rewrite(w *world, path string, now image) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size := i.size
	if w.chance(2) {
		size = now.size
	}
	lucky := w.random.IntN(5) // so many of four pages were written back
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	for number := int64(0); number*pageBytes < size; number++ {
		page, later := i.pages[number], now.pages[number]
		if string(page) != string(later) && w.random.IntN(4) < lucky {
			page = later
		}
		page = page[:min(int64(len(page)), size-number*pageBytes)]
		if _, err := f.WriteAt(page, number*pageBytes); err != nil {
			return err
		}
	}
	return nil
}

// losePower ends the process and forgets what was not synced. Its connections do not end, they fall silent.
func (s *server) losePower() {
	if s.life == nil || s.server == nil {
		return
	}
	c := s.cluster
	c.note("%s loses its power", s.name)
	silent := s.life.endings
	s.life.endings = nil
	s.crash()
	s.boots++
	c.after(c.between(0, 3*time.Second), nil, func() {
		for _, f := range silent {
			f()
		}
	})
	if err := s.durable.lose(c.world, filepath.Join(c.dir, s.name)); err != nil {
		c.fail("set-up", "power of %s: %v", s.name, err)
	}
	for name, status := range c.checks.versions {
		if name.server == s.name {
			c.checks.versions[name] = store.Status{Handle: status.Handle, Promised: status.Promised} // activation is not synced
		}
	}
}
