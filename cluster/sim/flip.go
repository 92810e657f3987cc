package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// patrolPause is how long a flipped bit goes unread when all faults are over.
const patrolPause = time.Second

// flip is a block in which a bit was turned round.
type flip struct {
	server *server
	handle gfs.ChunkHandle
	block  uint32
}

// flipOne turns a bit of one of a server's replicas round, if there is one of which another replica counts.
func (c *cluster) flipOne(s *server) {
	var files []string
	dir := filepath.Join(c.dir, s.name)
	err := eachChunkFile(dir, func(path string) error {
		replica, err := s.server.Store().Get(handleOf(path))
		if err == nil && !strings.HasSuffix(path, ".crc") && c.mayDamage(s, path) {
			chunk, _ := c.state.View().Chunk(replica.Handle())
			if status := replica.Status(); status.Length > 0 && counts(status, chunk) {
				files = append(files, path)
			}
		}
		return nil
	})
	if err == nil && len(files) > 0 {
		err = c.flipIn(s, files[c.random.IntN(len(files))])
	}
	if err != nil {
		c.fail("set-up", "flip at %s: %v", s.name, err)
	}
}

func (c *cluster) flipIn(s *server, path string) error {
	h := handleOf(path)
	replica, err := s.server.Store().Get(h)
	if err != nil {
		return err
	}
	length := replica.Status().Length
	at := max(c.checks.truth(h).base, length-c.random.Int64N(length)-1)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return nil // it is not in the file yet
	}
	b[0] ^= 1 << c.random.IntN(8)
	if _, err := f.WriteAt(b[:], at); err != nil {
		return err
	}
	c.note("a bit flips at %d of chunk %s at %s", at, h, s.name)
	c.flips = append(c.flips, flip{s, h, uint32(at / gfs.BlockSize)})
	return nil
}

// flipped reports whether a bit was turned round in a block.
func (c *cluster) flipped(s *server, h gfs.ChunkHandle, block uint32) bool {
	return slices.Contains(c.flips, flip{s, h, block})
}

// rotten says which replica still counts in spite of a block that does not match, empty if there is none. Whoever reads
// the block hears of it.
func (c *cluster) rotten() (which string) {
	for _, f := range c.flips {
		if !f.server.up() || f.server.server == nil {
			continue
		}
		replica, err := f.server.server.Store().Get(f.handle)
		chunk, logged := c.state.View().Chunk(f.handle)
		if err != nil || !logged || !counts(replica.Status(), chunk) || replica.Verify(f.block) == nil {
			continue
		}
		which = fmt.Sprintf("chunk %s at %s counts with a bad block", f.handle, f.server.name)
	}
	return which
}

// patrol has somebody read what has flipped, now and then.
func (c *cluster) patrol() {
	c.after(patrolPause, nil, func() {
		for _, f := range c.flips {
			if f.server.up() && f.server.server != nil {
				if replica, err := f.server.server.Store().Get(f.handle); err == nil && replica.Verify(f.block) != nil {
					f.server.server.Handler().Corrupt(f.handle, "a reader found it")
				}
			}
		}
		c.patrol()
	})
}
