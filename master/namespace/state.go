package namespace

import (
	"errors"
	"unicode/utf8"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// State is the replicated state. One goroutine owns it; others read a View.
type State struct {
	image
	edit    uint64         // of the pages and nodes that only the State knows
	numbers map[string]int // the inverse of image.names, from 1
	dropped []gfs.ChunkHandle
}

// image is what a State holds and a View keeps: copying it is the snapshot.
type image struct {
	entries    tree
	table      chunkTable
	names      []string // interned users and groups; appended to, never changed
	epoch      gfs.Epoch
	clock      int64           // nanoseconds since 1970, the latest time applied
	nextFile   gfs.FileID      // the first id not given out
	nextHandle gfs.ChunkHandle // the first handle not reserved
	epochFirst gfs.ChunkHandle // nextHandle when the epoch began: lower ones are placed by nobody any more
	restoration
	counts Counts
	drops  dropLog
}

// New is the state before the first record: an empty root directory that belongs to root and everyone may write
// to, and epoch 0.
func New() *State {
	s := &State{edit: 1, numbers: map[string]int{}}
	s.nextFile, s.nextHandle, s.epochFirst = gfs.RootID+1, 1, 1
	s.intern("")
	s.counts.Directories = 1
	s.putInode(gfs.RootID, &inode{directory: true, mode: maxMode})
	return s
}

// Outcome is what a record did. Which fields are set depends on the command; with Err only Repeated and Dropped
// can be set as well.
type Outcome struct {
	Err      *gfs.Error         // nil if the command took effect
	Reply    *pb.NamespaceReply // of a NamespaceMutation; not nil without Err, its status may be nil
	Made     bool               // the mutation made a file or directory; not known of one that is Repeated
	Repeated bool               // the mutation had been applied before: Reply or Err is that of the first time
	Epoch    gfs.Epoch          // the epoch that BeginEpoch began
	Restored gfs.Epoch          // BeginEpoch: as View.Restored
	First    gfs.ChunkHandle    // ReserveHandles: the first of the Count handles set aside
	Count    int                // ReserveHandles: how many
	Chunk    Chunk              // PlaceChunk, ConfigureChunk, CloseChunk: the chunk as it is now
	Dropped  []gfs.ChunkHandle  // chunks that lost their last reference; the caller owns the slice
	More     bool               // DropTrash, ExpireSessions: the bound of one record was reached, propose another
}

// Apply decides what a record does, and does it. Equal records on equal states have equal outcomes, on every
// master and for ever. It keeps nothing of the record. A record without a command that is known here, or of
// another epoch than the current one, changes nothing.
//
// Codes: INVALID for what is malformed or out of bounds, STALE_EPOCH, CONFLICT for a precondition of a chunk
// record, SESSION_ENDED and OUTCOME_UNKNOWN for sessions, and those of POSIX for the operations on paths.
func (s *State) Apply(r *pb.Record) Outcome {
	if begin, ok := r.GetCommand().(*pb.Record_BeginEpoch); ok && begin.BeginEpoch != nil {
		s.tick(r)
		return s.beginEpoch()
	}
	if r.GetCommand() == nil {
		return failed(gfs.Errorf(gfs.CodeInvalid, "record without a command that this release knows: upgrade this master"))
	}
	if gfs.Epoch(r.GetEpoch()) != s.epoch {
		return failed(gfs.Errorf(gfs.CodeStaleEpoch, "record of epoch %d, the current one is %d: another master acts", r.GetEpoch(), s.epoch))
	}
	var out Outcome
	switch c := r.GetCommand().(type) {
	case *pb.Record_Mutation:
		if c.Mutation.GetOperation() == nil {
			return failed(gfs.Errorf(gfs.CodeInvalid, "mutation without an operation that this release knows: upgrade this master"))
		}
		s.tick(r)
		out = s.mutate(c.Mutation)
	case *pb.Record_ReserveHandles:
		s.tick(r)
		out = s.reserveHandles(c.ReserveHandles)
	case *pb.Record_PlaceChunk:
		s.tick(r)
		out = s.placeChunk(c.PlaceChunk)
	case *pb.Record_ConfigureChunk:
		s.tick(r)
		out = s.configureChunk(c.ConfigureChunk)
	case *pb.Record_CloseChunk:
		s.tick(r)
		out = s.closeChunk(c.CloseChunk)
	case *pb.Record_ExpireSessions:
		s.tick(r)
		out = s.expireSessions(c.ExpireSessions.GetBeforeUnixNano())
	case *pb.Record_DropTrash:
		s.tick(r)
		out = s.dropTrash(c.DropTrash)
	default:
		return failed(gfs.Errorf(gfs.CodeInvalid, "unknown command %T: upgrade this master", c))
	}
	out.Dropped, s.dropped = s.dropped, nil
	return out
}

// View is the state as it is now, O(1). It never changes and any goroutine may read it while the State moves on.
func (s *State) View() *View {
	s.edit++ // from here on the State copies what the view can see
	return &View{s.image}
}

// tick moves the clock. A proposer whose clock is behind does not move it back.
func (s *State) tick(r *pb.Record) { s.clock = max(s.clock, r.GetTimeUnixNano()) }

func (s *State) beginEpoch() Outcome {
	if s.pending {
		s.leap()
	}
	if s.epoch+1 == 0 {
		return failed(gfs.Errorf(gfs.CodeInternal, "every epoch is used up"))
	}
	s.epoch++
	if s.pending {
		s.pending, s.epochRestored = false, s.epoch
	}
	s.epochFirst = s.nextHandle
	s.table.forgetBefore(s.edit, s.epochFirst)
	return Outcome{Epoch: s.epoch, Restored: s.epochRestored}
}

func (s *State) put(key, value []byte)  { s.entries.put(s.edit, key, value) }
func (s *State) remove(key []byte) bool { return s.entries.remove(s.edit, key) }

func (s *State) putInode(id gfs.FileID, n *inode) {
	s.put(inodeKey(id), n.pack(s.intern))
}

// intern is the number of a user's or group's name, 0 if there is none left.
func (s *State) intern(name string) int {
	n, ok := s.numbers[name]
	if !ok && len(s.names) < maxNames {
		s.names = append(s.names, name)
		n = len(s.names)
		s.numbers[name] = n
		s.put(nameKey(n), []byte(name))
	}
	return n
}

// maxDetailBytes bounds the detail of an error: the replicated state remembers it.
const maxDetailBytes = 1024

// failed makes the outcome of an error. Errors that are not a *gfs.Error are bugs and become CodeInternal.
func failed(err error) Outcome {
	var e *gfs.Error
	if !errors.As(err, &e) {
		e = gfs.Errorf(gfs.CodeInternal, "%v", err)
	}
	if len(e.Detail) > maxDetailBytes {
		cut := maxDetailBytes
		for cut > 0 && !utf8.RuneStart(e.Detail[cut]) {
			cut--
		}
		e = &gfs.Error{Code: e.Code, Detail: e.Detail[:cut] + "…"}
	}
	return Outcome{Err: e}
}
