package namespace

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Verify checks the whole state against its invariants, in time and memory proportional to its size: every name
// leads to an inode of its kind, every inode but the root's has exactly one name, or lies in the trash or in the
// queue; the references of chunks are those of the files; removals can be found by path; all counts are right.
// An error is a bug, or a checkpoint that was tampered with.
func (v *View) Verify() error {
	c := verifier{View: v, held: map[gfs.FileID]int{gfs.RootID: 1}, references: map[gfs.ChunkHandle]int{}, segments: map[gfs.FileID]int{},
		answers: map[uint64]int{}, gone: map[gfs.FileID]int{}}
	// Queue and segments come after the inodes that need them, so these kinds are read first.
	for _, kind := range [...]byte{kindQueue, kindRuns, kindAnswer, kindDirent, kindTrash, kindInode, kindSession, kindUndo, kindLoss} {
		for key, value := range v.entries.prefixed([]byte{kind}) {
			if err := c.entry(key, value); err != nil {
				return fmt.Errorf("entry %.40x: %w", key, err)
			}
		}
	}
	return c.finish()
}

type verifier struct {
	*View
	counts     Counts
	held       map[gfs.FileID]int      // names, removals and places in the queue of each id
	references map[gfs.ChunkHandle]int // by files
	segments   map[gfs.FileID]int      // where the segments read so far end
	gone       map[gfs.FileID]int      // chunks given up by files in the queue
	answers    map[uint64]int          // by session
	undos      int
}

func (c *verifier) entry(key, value []byte) error {
	switch key[0] {
	case kindQueue:
		from, _ := binary.Uvarint(value)
		c.gone[gfs.FileID(number(key, 1))] = int(from)
		c.held[gfs.FileID(number(key, 1))]++
	case kindRuns:
		return c.segment(key, value)
	case kindAnswer:
		c.answers[number(key, 1)]++
	case kindDirent:
		return c.dirent(key, value)
	case kindTrash:
		c.counts.Trash++
		c.held[gfs.FileID(number(key, 9))]++
		if _, ok := c.entries.get(undoKey(string(value), int64(number(key, 1)), gfs.FileID(number(key, 9)))); !ok {
			return fmt.Errorf("removal of %q cannot be found by its path", value)
		}
	case kindInode:
		return c.inode(gfs.FileID(number(key, 1)))
	case kindSession:
		e, _ := unpackSession(value)
		if c.counts.Sessions++; e.answers != c.answers[number(key, 1)] || e.answers > gfs.SessionWindow {
			return fmt.Errorf("session remembers %d answers, not %d", c.answers[number(key, 1)], e.answers)
		}
		delete(c.answers, number(key, 1))
	case kindUndo:
		c.undos++
	case kindLoss:
		h := gfs.ChunkHandle(number(key, 1))
		if r := c.table.get(h); !r.live() || gfs.Version(number(value, 0)) > r.version {
			return fmt.Errorf("chunk %s lost what was written before version %s, its version is %s, references %d", h, gfs.Version(number(value, 0)), r.version, r.references)
		}
	}
	return nil
}

func (c *verifier) segment(key, value []byte) error {
	id, end := gfs.FileID(number(key, 1)), int(binary.BigEndian.Uint32(key[9:]))
	runs, err := parseRuns(value)
	if err != nil {
		return err
	}
	start, seen := c.segments[id]
	if !seen && c.gone[id] > 0 {
		start = end - chunksIn(runs) // those before were given up
	}
	if end != start+chunksIn(runs) {
		return fmt.Errorf("segment of %d chunks from %d on ends at %d", chunksIn(runs), start, end)
	}
	c.segments[id] = end
	return nil
}

func (c *verifier) dirent(key, value []byte) error {
	id, directory, _ := unpackDirent(value)
	c.held[id]++
	holder, err := c.image.inode(gfs.FileID(number(key, 1)))
	if err != nil {
		return err
	}
	n, err := c.image.inode(id)
	if err != nil {
		return err
	}
	if !holder.directory || n.directory != directory {
		return fmt.Errorf("name %q of file %d: directory is %t, in a directory is %t", key[9:], id, n.directory, holder.directory)
	}
	return nil
}

func (c *verifier) inode(id gfs.FileID) error {
	n, err := c.image.inode(id)
	if err != nil {
		return err
	}
	if c.held[id] != 1 {
		return fmt.Errorf("file %d has %d names", id, c.held[id])
	}
	delete(c.held, id)
	gone, queued := c.gone[id]
	if n.dropping != queued {
		return fmt.Errorf("file %d: being dropped is %t, in the queue is %t", id, n.dropping, queued)
	}
	if n.directory {
		c.counts.Directories++
		return nil
	}
	c.counts.Files++
	if end, ok := c.segments[id]; ok && end != n.spilled || !ok && n.spilled > gone {
		return fmt.Errorf("file %d: segments end at %d, not at %d", id, end, n.spilled)
	}
	delete(c.segments, id)
	next := gone
	for index, h := range c.handles(id, &n, gone) {
		if index != next {
			return fmt.Errorf("file %d: chunk %d follows chunk %d", id, index, next-1)
		}
		next++
		c.references[h]++
	}
	if next != n.chunks() {
		return fmt.Errorf("file %d: %d chunks of %d", id, next, n.chunks())
	}
	return nil
}

func (c *verifier) finish() error {
	for h, r := range c.table.from(1, false) {
		if c.references[h] != int(r.references) || h >= c.nextHandle {
			return fmt.Errorf("chunk %s has %d references, not %d", h, c.references[h], r.references)
		}
		c.counts.Chunks++
		delete(c.references, h)
	}
	if len(c.held)+len(c.references)+len(c.segments)+len(c.answers) > 0 || c.undos != c.counts.Trash {
		return fmt.Errorf("left over: names of %v, references to %v, segments of %v, answers of %v, %d removals by path of %d",
			c.held, c.references, c.segments, c.answers, c.undos, c.counts.Trash)
	}
	if c.counts != c.View.counts || c.table.live != c.counts.Chunks {
		return fmt.Errorf("counts are %+v, not %+v", c.counts, c.View.counts)
	}
	return nil
}
