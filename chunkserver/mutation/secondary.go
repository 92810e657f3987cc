package mutation

import "github.com/cairnfs/cairn/messages/gfs"

// Secondary is the serial order as a secondary sees it, in one version. It checks that what arrives continues what
// arrived before, and knows up to where it may acknowledge: what it has applied itself and everyone below as well.
// It is not safe for concurrent use. Make it with NewSecondary.
type Secondary struct {
	last     gfs.Serial // received
	length   int64      // after the last received
	applied  gfs.Serial
	below    gfs.Serial // acknowledged by the successor
	reported gfs.Serial // acknowledged to the predecessor
	tail     bool
	frozen   bool
}

// NewSecondary begins a version in which the replica has the given length. tail says that there is no successor.
func NewSecondary(length int64, tail bool) Secondary { return Secondary{length: length, tail: tail} }

// Receive takes up mutations with consecutive serial numbers from first on. What does not continue the order is
// gfs.CodeInvalid: a stream brings frames in order, so its sender is broken. A frozen secondary receives nothing.
func (s *Secondary) Receive(first gfs.Serial, mutations []Mutation) error {
	if s.frozen {
		return gfs.Errorf(gfs.CodeStaleVersion, "mutations in a version that has ended here")
	}
	if first != s.last+1 {
		return gfs.Errorf(gfs.CodeInvalid, "mutations from serial %d on, after serial %d", first, s.last)
	}
	length := s.length
	for i := range mutations {
		m := &mutations[i]
		after := max(length, m.Offset+int64(m.Length))
		if m.Length == 0 {
			after = max(length, m.NewLength)
		}
		if m.NewLength != after {
			return gfs.Errorf(gfs.CodeInvalid, "serial %d leads from length %d to %d, want %d", first+gfs.Serial(i), length, m.NewLength, after)
		}
		length = after
	}
	s.last, s.length = s.last+gfs.Serial(len(mutations)), length
	return nil
}

// Applied notes that everything up to serial is applied here; it never goes back.
func (s *Secondary) Applied(serial gfs.Serial) { s.applied = min(max(s.applied, serial), s.last) }

// Acked notes that the successor and everyone below has applied everything up to serial. What was never sent is
// gfs.CodeInvalid.
func (s *Secondary) Acked(serial gfs.Serial) error {
	if serial > s.last {
		return gfs.Errorf(gfs.CodeInvalid, "acknowledgement up to serial %d, %d was the last", serial, s.last)
	}
	s.below = max(s.below, serial)
	return nil
}

// Acknowledge is the serial up to which the predecessor may be told, and whether it has not been told yet. It then
// counts as told. A frozen secondary acknowledges nothing more.
func (s *Secondary) Acknowledge() (gfs.Serial, bool) {
	serial := s.applied
	if !s.tail {
		serial = min(serial, s.below)
	}
	if s.frozen || serial <= s.reported {
		return s.reported, false
	}
	s.reported = serial
	return serial, true
}

// Owes reports whether the predecessor still waits for an acknowledgement.
func (s *Secondary) Owes() bool { return !s.frozen && s.reported < s.last }

// OwedBelow reports whether the successor still owes an acknowledgement.
func (s *Secondary) OwedBelow() bool { return !s.frozen && !s.tail && s.below < s.last }

// Started reports whether anything was received in this version.
func (s *Secondary) Started() bool { return s.last > 0 }

// Received is the last serial number received.
func (s *Secondary) Received() gfs.Serial { return s.last }

// Length is the chunk's length after everything received.
func (s *Secondary) Length() int64 { return s.length }

// Freeze ends the version: nothing more is received or acknowledged.
func (s *Secondary) Freeze() { s.frozen = true }
