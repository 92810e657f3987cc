package record

import "bytes"

const (
	// MaxWindow is the most records of one Writer whose outcome is open at a time, and the number of latest sequences
	// of a writer that a Reader remembers. The two are equal: see the package's comment on duplicates.
	MaxWindow = 1024
	// DefaultWindow is the Writer's window unless WithWindow says otherwise: as many appends as a primary's table
	// remembers for one writer.
	DefaultWindow = 64

	// DefaultWriters is the number of writers a Reader remembers unless WithWriters says otherwise.
	DefaultWriters = 1024
	// MaxWriters bounds WithWriters, and with it the size of a Position: about 600 KiB at the very worst.
	MaxWriters = 4096
)

// Record is one message of a file.
type Record struct {
	Writer, Seq uint64 // identify the record; Seq rises from 1 for each writer, with gaps where an append failed
	Offset      int64  // of the frame, in bytes from the beginning of the file
	Payload     []byte // valid until the iteration's next step; the Reader's memory
}

// Clone returns the record with a payload of its own, which stays valid.
func (r Record) Clone() Record {
	r.Payload = bytes.Clone(r.Payload)
	return r
}
