package clientlib

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// The sizes that are pooled, as powers of two: from 64 KiB, below which the garbage collector is as good, to 16 MiB.
const (
	minPooledBits = 16
	maxPooledBits = 24
)

// buffers lends buffers. The zero value is ready.
type buffers struct {
	classes [maxPooledBits - minPooledBits + 1]sync.Pool // of *buffer
}

// buffer is lent memory that several hold at once; when the last releases it, it is lent anew.
type buffer struct {
	data  []byte // may be resliced by its first holder, up to its capacity
	whole []byte
	refs  atomic.Int32
	home  *sync.Pool // nil: left to the garbage collector
}

// get lends a buffer with room for capacity bytes and no data, held once.
func (b *buffers) get(capacity int) *buffer {
	class := max(bits.Len(uint(max(capacity, 1)-1)), minPooledBits) - minPooledBits
	if capacity < 1<<(minPooledBits-1) || class >= len(b.classes) {
		lent := &buffer{data: make([]byte, 0, capacity)}
		lent.refs.Store(1)
		return lent
	}
	lent, ok := b.classes[class].Get().(*buffer)
	if !ok {
		lent = &buffer{whole: make([]byte, 1<<(class+minPooledBits)), home: &b.classes[class]}
	}
	lent.data = lent.whole[:0]
	lent.refs.Store(1)
	return lent
}

// retain adds a holder.
func (b *buffer) retain() { b.refs.Add(1) }

// release ends one hold; its holder must not touch the data again.
func (b *buffer) release() {
	switch left := b.refs.Add(-1); {
	case left < 0:
		panic("clientlib: buffer released more often than held")
	case left == 0 && b.home != nil:
		b.home.Put(b)
	}
}
