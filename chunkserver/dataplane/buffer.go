package dataplane

import (
	"math/bits"
	"sync"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Buffers come in powers of two from 1 KiB to the longest piece.
const (
	smallestClass = 10
	largestClass  = 24
	// keptClassBytes bounds what a pool keeps of one size; at least two buffers of each are kept.
	keptClassBytes = 16 << 20
)

// A buffer of the largest class holds the longest piece.
const _ = uint(1<<largestClass - gfs.MaxPieceBytes)

// Buffer is a piece of memory with one owner, who passes it on or calls Release once.
type Buffer struct {
	// Data is what the buffer holds; its capacity may be larger.
	Data []byte

	whole []byte
	pool  *Pool
}

// Pool keeps released buffers by size, so that streams allocate nothing. It is safe for concurrent use. The zero
// value is ready.
type Pool struct {
	classes [largestClass + 1 - smallestClass]sizeClass
}

type sizeClass struct {
	mu   sync.Mutex
	free []*Buffer
}

// Get returns a buffer whose Data has n bytes, 0 to gfs.MaxPieceBytes, of unknown content.
func (p *Pool) Get(n int) *Buffer {
	if n < 0 || n > gfs.MaxPieceBytes {
		panic("dataplane: buffer longer than a piece")
	}
	class := max(bits.Len(uint(max(n, 1)-1)), smallestClass)
	c := &p.classes[class-smallestClass]
	c.mu.Lock()
	if last := len(c.free) - 1; last >= 0 {
		b := c.free[last]
		c.free[last] = nil
		c.free = c.free[:last]
		c.mu.Unlock()
		b.Data = b.whole[:n]
		return b
	}
	c.mu.Unlock()
	b := &Buffer{whole: make([]byte, 1<<class), pool: p}
	b.Data = b.whole[:n]
	return b
}

// Release gives the buffer back; neither it nor its Data may be used afterwards. A nil Buffer may be released.
func (b *Buffer) Release() {
	if b == nil {
		return
	}
	if b.Data == nil {
		panic("dataplane: buffer released twice")
	}
	b.Data = nil
	c := &b.pool.classes[bits.Len(uint(len(b.whole)-1))-smallestClass]
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) < max(2, keptClassBytes/len(b.whole)) {
		c.free = append(c.free, b)
	}
}
