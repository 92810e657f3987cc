package sim

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cairnfs/cairn/messages/gfs"
)

// lostPage is a page that an fsync could not write. The page cache takes it for clean from then on: later fsyncs leave it
// out, and one day it is read from the disk again.
type lostPage struct {
	path   string
	number int64
	disk   []byte // what is on disk; nil for zeros
	cache  []byte // what the page cache had
}

// forget chooses which pages of a file an fsync that fails could not write.
func (d *durability) forget(w *world, path string) error {
	before := d.files[path]
	now, err := take(path)
	if err != nil {
		return err
	}
	lucky := w.random.IntN(4) // so many of four pages were written
	for number := int64(0); number*pageBytes < now.size; number++ {
		disk, cache := before.pages[number], now.pages[number]
		if !bytes.Equal(disk, cache) && w.random.IntN(4) >= lucky {
			d.lost = append(d.lost, lostPage{path, number, disk, cache})
		}
	}
	return nil
}

// without takes the pages that are not on disk out of a file's content.
func (d *durability) without(path string, now image) {
	for _, l := range d.lost {
		if l.path == path && bytes.Equal(now.pages[l.number], l.cache) { // nobody wrote it again
			now.pages[l.number] = l.disk
		}
	}
}

// evict drops lost pages from the page cache. It happens when the index has taken something down since: a process that
// ends between its failed fsync and that cannot tell the next one.
func (d *durability) evict() error {
	lost := d.lost
	d.lost = nil
	for _, l := range lost {
		if err := l.evict(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (l lostPage) evict() error {
	f, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	page := make([]byte, pageBytes)
	n, err := f.ReadAt(page, l.number*pageBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	page = page[:n]
	if same := bytes.Equal(page, l.cache) || l.cache == nil && bytes.Equal(page, zeros[:n]); !same {
		return nil
	}
	clear(page)
	copy(page, l.disk)
	_, err = f.WriteAt(page, l.number*pageBytes)
	return err
}

// holds reports whether bytes of a file are on disk.
func (d *durability) holds(path string, offset int64, data []byte) bool {
	for len(data) > 0 {
		number, in := offset/pageBytes, int(offset%pageBytes)
		page := d.files[path].pages[number]
		part := data[:min(pageBytes-in, len(data))]
		if len(page) < in+len(part) || !bytes.Equal(page[in:in+len(part)], part) {
			return false
		}
		offset, data = offset+int64(len(part)), data[len(part):]
	}
	return true
}

// onDisk checks that what is acknowledged as synced is on the disk of every replica that counts.
func (k *checks) onDisk(h gfs.ChunkHandle, p piece) {
	c := k.cluster
	chunk, logged := c.state.View().Chunk(h)
	if !c.power || !logged {
		return
	}
	for _, s := range c.servers {
		if !s.up() || s.server == nil {
			continue
		}
		if replica, err := s.server.Store().Get(h); err == nil && counts(replica.Status(), chunk) {
			k.onDiskAt(s, h, p)
		}
	}
}

// onDiskAt is the same for one server.
func (k *checks) onDiskAt(s *server, h gfs.ChunkHandle, p piece) {
	c, name := k.cluster, h.String()
	path := filepath.Join(c.dir, s.name, "chunks", name[len(name)-2:], name)
	if c.power && !s.durable.holds(path, p.offset, p.data) {
		c.fail(checkOnDisk, "chunk %s at %s: %d bytes at %d are acknowledged, and not on disk", h, s.name, len(p.data), p.offset)
	}
}
