package oplog

import "iter"

// Machine is the replicated state: one deterministic machine that every master runs over the same records. Its
// methods are never called concurrently with each other. None may wait for the Log (Propose inside Apply would
// never end), and all must go on working until Close has returned.
type Machine interface {
	// Apply takes effect of all records of one log entry, in order, and returns one outcome a record; what was
	// refused is an outcome too. It must be deterministic: nothing but its arguments and the state may decide
	// (no clock, no random source, no order of a map). index is that of the log entry; it rises from call to
	// call, with gaps. The records must not be changed or kept: copy what is to stay.
	Apply(index uint64, records [][]byte) []any

	// View fixes the state of this moment for a checkpoint. It must be quick, it holds up the log.
	View() View

	// Restore replaces the whole state by the pages of a checkpoint, which arrive in key order and were all
	// checked before the first one is handed out. A page's memory is valid until the loop's next step: copy what
	// is to stay. An error that a step yields must be returned.
	Restore(pages iter.Seq2[Page, error]) error
}

// View is the state of one moment. It is read in one other goroutine while later entries are applied.
type View interface {
	// Pages yields the state in strictly ascending key order. A page's memory must stay unchanged until the next
	// step. An error ends the checkpoint; the log goes on without it.
	Pages() iter.Seq2[Page, error]
	// Release is called once, after the last use of Pages, and also if there was none.
	Release()
}

// Page is one entry of a checkpoint: what the machine wants back as one value, some kilobytes of it ideally.
type Page struct {
	Key   []byte // 1 to MaxPageKeyBytes bytes
	Value []byte // at most MaxPageBytes bytes
}

// Bounds of a page.
const (
	// MaxPageKeyBytes bounds a key, so that keys never dominate a checkpoint's branch pages.
	MaxPageKeyBytes = 4096
	// MaxPageBytes bounds a value: a checkpoint is read and checked value by value.
	MaxPageBytes = 16 << 20
)
