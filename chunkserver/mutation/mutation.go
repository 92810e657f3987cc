package mutation

import (
	"github.com/cairnfs/cairn/messages/gfs"
)

// Kind says what a request wants.
type Kind uint8

// The kinds of requests. KindSync mutates nothing: it is answered when all that was numbered before it is durable on
// every member.
const (
	KindWrite Kind = iota + 1
	KindAppend
	KindSync
)

// Request is what the ordering needs to know of a client's request; its data stay with the shell.
type Request struct {
	Kind     Kind
	Offset   int64 // of a write, within the chunk
	Length   int   // bytes of data, 1 to gfs.MaxPieceBytes; 0 for KindSync
	Writer   gfs.WriterID
	Sequence uint64
	Lowest   uint64 // the writer's lowest unacknowledged sequence
	Sync     bool   // acknowledged only when durable on every member
}

// Mutation is one mutation in its place in the serial order. Its serial number follows from its place in a batch.
// Length 0 makes it padding, which moves the chunk's length without data, or nothing but a sync.
type Mutation struct {
	Offset    int64
	Length    int
	NewLength int64 // of the chunk afterwards
	Writer    gfs.WriterID
	Sequence  uint64
	Lowest    uint64
	Dropped   []gfs.WriterID // writers that leave the append table before this mutation enters it
	Sync      bool
}

// maxDroppedWriters bounds Mutation.Dropped, for the message that carries it.
const maxDroppedWriters = gfs.MaxAppendWriters

// Check refuses a mutation, from bytes that nobody vouches for, that no primary makes. The error is gfs.CodeInvalid.
func (m *Mutation) Check() error {
	if m.Offset < 0 || m.Length < 0 || m.Length > gfs.MaxPieceBytes || m.Offset > gfs.ChunkSize-int64(m.Length) ||
		m.NewLength < m.Offset+int64(m.Length) || m.NewLength > gfs.ChunkSize || len(m.Dropped) > maxDroppedWriters {
		return gfs.Errorf(gfs.CodeInvalid, "mutation of %d bytes at offset %d up to length %d, %d writers dropped: not within a chunk",
			m.Length, m.Offset, m.NewLength, len(m.Dropped))
	}
	return nil
}

// Entry is what the append table remembers of the mutation, if it is an append of a known writer.
func (m *Mutation) Entry() (Append, bool) {
	if m.Writer == 0 || m.Length == 0 {
		return Append{}, false
	}
	return Append{
		Entry:  Entry{Writer: m.Writer, Sequence: m.Sequence, Offset: uint32(m.Offset), Length: uint32(m.Length)},
		Lowest: m.Lowest,
	}, true
}

// Batch is mutations with consecutive serial numbers that travel together.
type Batch[T any] struct {
	First     gfs.Serial
	Mutations []Mutation
	Requests  []T   // the shell's side of each mutation; the zero T for padding
	Commit    int64 // commit length when the batch was made
	Bytes     int   // of data
}

// Last is the serial number of the last mutation.
func (b *Batch[T]) Last() gfs.Serial { return b.First + gfs.Serial(len(b.Mutations)) - 1 }

// Reply answers one request. Err is nil, or gfs.ErrChunkFull, or another error of package gfs.
type Reply[T any] struct {
	Request T
	Offset  int64 // within the chunk, where the data begin
	Length  int64 // committed length of the chunk
	Err     error
}
