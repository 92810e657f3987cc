package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// The checksum file's layout; doc.go has it as tables.
const (
	sumMagic  = "cairnsum"
	sumFormat = 1

	// regions is the number of the file's regions: the one in use, the one that the last sync point is in, and one
	// to go on in. regionBytes is the room of each, for a checkpoint of at most maxCheckpointBytes and its log.
	// The file is sparse, so room that is not used costs nothing.
	regions     = 3
	regionBytes = 4 << 20
	// defaultLogBytes is how long a log grows at least before a new checkpoint replaces it; it may also grow to
	// twice its checkpoint.
	defaultLogBytes = 256 << 10

	checkpointHeaderBytes = 104
	maxCheckpointBytes    = checkpointHeaderBytes + 8*gfs.BlocksPerChunk + mutation.MaxTableBytes + 16

	// namedBit marks an unknown block that an intent named.
	namedBit = 1 << 31

	recordHeaderBytes = 64
	appendBytes       = 32
	// maxRecordBytes bounds one record: every block's CRC, as many appends as may wait at a primary, and every
	// writer dropped.
	maxRecordBytes = recordHeaderBytes + 8*gfs.BlocksPerChunk + appendBytes*gfs.MaxChunkPending + 8*gfs.MaxAppendWriters + 8
)

// The kinds of records.
const (
	recordProgress = iota + 1 // length and what goes with it
	recordIntent              // blocks below the length that are about to be overwritten, their CRCs afterwards
	recordSync                // everything up to here is on disk
)

// sums is the content of a checksum file: the state of a replica but for its bytes.
type sums struct {
	handle   gfs.ChunkHandle
	sequence uint64 // of the checkpoint or of the last record
	length   int64
	commit   int64
	active   gfs.Version
	state    gfs.ReplicaState
	crcs     [gfs.BlocksPerChunk]uint32 // of each block's bytes below length
	unknown  blockSet                   // blocks whose bytes match neither CRC nor intent
	named    blockSet                   // those among them that an intent named: crcs has what was intended
	table    *mutation.Table

	syncLength int64  // the sync point: what was on disk at the last sync
	syncCRC    uint32 // of the last block's bytes below syncLength
}

// known takes a block out of the unknown ones.
func (s *sums) known(block int) {
	s.unknown.remove(block)
	s.named.remove(block)
}

// lastCRC is the CRC of the block that length cuts, or zero when it cuts none.
func (s *sums) lastCRC() uint32 {
	if s.length%gfs.BlockSize == 0 {
		return 0
	}
	return s.crcs[s.length/gfs.BlockSize]
}

// intent is a block about to be overwritten and the CRC of its bytes below the length afterwards.
type intent struct {
	block uint32
	crc   uint32
}

// record is one entry of a region's log.
type record struct {
	kind     uint8
	state    gfs.ReplicaState
	sequence uint64
	length   int64
	commit   int64
	active   gfs.Version
	first    uint32   // block of crcs[0]
	crcs     []uint32 // progress: of the blocks from first on; sync: of the block that length cuts
	intents  []intent
	appends  []mutation.Append
	dropped  []gfs.WriterID
}

func align8(n int) int { return (n + 7) &^ 7 }

// pad8 appends zeros until the part of b from start on is a multiple of 8 bytes.
func pad8(b []byte, start int) []byte {
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// appendRecord appends a record's bytes to b.
func appendRecord(b []byte, r *record) []byte {
	start := len(b)
	le := binary.LittleEndian
	b = append(b, zeros[:recordHeaderBytes]...)
	count := len(r.crcs)
	for _, crc := range r.crcs {
		b = le.AppendUint32(b, crc)
	}
	if r.kind == recordIntent {
		count = len(r.intents)
		for _, in := range r.intents {
			b = le.AppendUint32(le.AppendUint32(b, in.block), in.crc)
		}
	}
	b = pad8(b, start)
	for i := range r.appends {
		a := &r.appends[i]
		b = le.AppendUint64(b, uint64(a.Writer))
		b = le.AppendUint64(b, a.Sequence)
		b = le.AppendUint64(b, a.Lowest)
		b = le.AppendUint32(b, a.Offset)
		b = le.AppendUint32(b, a.Length)
	}
	for _, id := range r.dropped {
		b = le.AppendUint64(b, uint64(id))
	}
	h := b[start:]
	le.PutUint32(h[4:], uint32(len(h)))
	le.PutUint64(h[8:], r.sequence)
	h[16], h[17] = r.kind, byte(r.state)
	le.PutUint32(h[20:], r.first)
	le.PutUint64(h[24:], uint64(r.length))
	le.PutUint64(h[32:], uint64(r.commit))
	le.PutUint64(h[40:], uint64(r.active))
	le.PutUint32(h[48:], uint32(count))
	le.PutUint32(h[52:], uint32(len(r.appends)))
	le.PutUint32(h[56:], uint32(len(r.dropped)))
	le.PutUint32(h, checksum(h[4:]))
	return b
}

// errNoRecord means that bytes hold no whole and sound record.
var errNoRecord = errors.New("no record")

// recordSize is the length that b claims for the record at its beginning, or 0 when that cannot be one.
func recordSize(b []byte) int {
	if len(b) < recordHeaderBytes {
		return 0
	}
	size := int64(binary.LittleEndian.Uint32(b[4:]))
	if size < recordHeaderBytes || size > maxRecordBytes || size%8 != 0 {
		return 0
	}
	return int(size)
}

// parseRecord reads the record at the beginning of b and returns its length too. The record shares nothing with b.
// Whatever b is, what comes back is within the bounds of a chunk, or errNoRecord.
func parseRecord(b []byte) (record, int, error) {
	size := recordSize(b)
	if size == 0 || size > len(b) || checksum(b[4:size]) != binary.LittleEndian.Uint32(b) {
		return record{}, 0, errNoRecord
	}
	le := binary.LittleEndian
	r := record{
		kind: b[16], state: gfs.ReplicaState(b[17]), sequence: le.Uint64(b[8:]), first: le.Uint32(b[20:]),
		length: int64(le.Uint64(b[24:])), commit: int64(le.Uint64(b[32:])), active: gfs.Version(le.Uint64(b[40:])),
	}
	count, appends, dropped := int64(le.Uint32(b[48:])), int64(le.Uint32(b[52:])), int64(le.Uint32(b[56:]))
	each := int64(4)
	if r.kind == recordIntent {
		each = 8
	}
	body := int64(align8(int(count*each))) + appends*appendBytes + dropped*8
	if r.length < 0 || r.length > gfs.ChunkSize || r.commit < 0 || r.commit > r.length ||
		r.state < gfs.ReplicaMember || r.state > gfs.ReplicaCorrupt ||
		r.kind < recordProgress || r.kind > recordSync || count > gfs.BlocksPerChunk ||
		int64(r.first)+count > gfs.BlocksPerChunk || recordHeaderBytes+body != int64(size) {
		return record{}, 0, errNoRecord
	}
	rest := b[recordHeaderBytes:size]
	for i := range count {
		if r.kind != recordIntent {
			r.crcs = append(r.crcs, le.Uint32(rest[4*i:]))
			continue
		}
		in := intent{block: le.Uint32(rest[8*i:]), crc: le.Uint32(rest[8*i+4:])}
		if in.block >= gfs.BlocksPerChunk {
			return record{}, 0, errNoRecord
		}
		r.intents = append(r.intents, in)
	}
	rest = rest[align8(int(count*each)):]
	for range appends {
		a := mutation.Append{Lowest: le.Uint64(rest[16:])}
		a.Writer, a.Sequence = gfs.WriterID(le.Uint64(rest)), le.Uint64(rest[8:])
		a.Offset, a.Length = le.Uint32(rest[24:]), le.Uint32(rest[28:])
		r.appends, rest = append(r.appends, a), rest[appendBytes:]
	}
	for range dropped {
		r.dropped, rest = append(r.dropped, gfs.WriterID(le.Uint64(rest))), rest[8:]
	}
	return r, size, nil
}

// appendCheckpoint appends the form of s with which a region begins.
func appendCheckpoint(b []byte, s *sums) []byte {
	start := len(b)
	le := binary.LittleEndian
	b = append(b, zeros[:checkpointHeaderBytes]...)
	blocks := blockCount(s.length)
	for _, crc := range s.crcs[:blocks] {
		b = le.AppendUint32(b, crc)
	}
	unknown := s.unknown.list()
	for _, block := range unknown {
		if s.named.has(int(block)) {
			block |= namedBit
		}
		b = le.AppendUint32(b, block)
	}
	b = pad8(b, start)
	tableStart := len(b)
	b = s.table.AppendBinary(b)
	tableBytes := len(b) - tableStart
	b = pad8(b, start)

	h := b[start:]
	copy(h, sumMagic)
	le.PutUint32(h[8:], sumFormat)
	le.PutUint64(h[16:], uint64(s.handle))
	le.PutUint64(h[24:], s.sequence)
	le.PutUint64(h[32:], uint64(len(h)))
	le.PutUint64(h[40:], uint64(s.length))
	le.PutUint64(h[48:], uint64(s.commit))
	le.PutUint64(h[56:], uint64(s.active))
	le.PutUint64(h[64:], uint64(s.state))
	le.PutUint64(h[72:], uint64(s.syncLength))
	le.PutUint32(h[80:], s.syncCRC)
	le.PutUint32(h[84:], uint32(blocks))
	le.PutUint32(h[88:], uint32(len(unknown)))
	le.PutUint32(h[92:], uint32(tableBytes))
	le.PutUint32(h[12:], checkpointChecksum(h))
	return b
}

// checkpointChecksum covers everything but the field that holds it.
func checkpointChecksum(h []byte) uint32 {
	return extendChecksum(checksum(h[:12]), h[16:])
}

// errNewer means that a later program wrote a file: it is not damaged, but not for this one to read.
var errNewer = errors.New("format newer than this program: run the one that wrote it")

// checkpointSize is the length that the header of a checkpoint claims; an error when there is none, or one of a
// newer format.
func checkpointSize(b []byte) (size int, sequence uint64, err error) {
	if len(b) < checkpointHeaderBytes || string(b[:8]) != sumMagic {
		return 0, 0, errors.New("no checkpoint")
	}
	le := binary.LittleEndian
	if format := le.Uint32(b[8:]); format > sumFormat {
		return 0, 0, errNewer
	}
	n := le.Uint64(b[32:])
	if n < checkpointHeaderBytes || n > maxCheckpointBytes || n%8 != 0 {
		return 0, 0, fmt.Errorf("checkpoint of %d bytes, want %d to %d", n, checkpointHeaderBytes, maxCheckpointBytes)
	}
	return int(n), le.Uint64(b[24:]), nil
}

// parseCheckpoint reads the checkpoint at the beginning of b and returns its length too. It keeps nothing of b.
func parseCheckpoint(b []byte) (*sums, int, error) {
	size, sequence, err := checkpointSize(b)
	switch {
	case err != nil:
		return nil, 0, err
	case size > len(b):
		return nil, 0, fmt.Errorf("checkpoint of %d bytes cut to %d", size, len(b))
	}
	b = b[:size]
	le := binary.LittleEndian
	if checkpointChecksum(b) != le.Uint32(b[12:]) {
		return nil, 0, errors.New("checkpoint does not match its checksum")
	}
	s := &sums{
		handle: gfs.ChunkHandle(le.Uint64(b[16:])), sequence: sequence,
		length: int64(le.Uint64(b[40:])), commit: int64(le.Uint64(b[48:])), active: gfs.Version(le.Uint64(b[56:])),
		state: gfs.ReplicaState(le.Uint64(b[64:])), syncLength: int64(le.Uint64(b[72:])), syncCRC: le.Uint32(b[80:]),
	}
	blocks, unknown, tableBytes := int64(le.Uint32(b[84:])), int64(le.Uint32(b[88:])), int64(le.Uint32(b[92:]))
	tableStart := int64(align8(int(checkpointHeaderBytes + 4*blocks + 4*unknown)))
	if s.length < 0 || s.length > gfs.ChunkSize || s.commit < 0 || s.commit > s.length ||
		s.syncLength < 0 || s.syncLength > gfs.ChunkSize || blocks != int64(blockCount(s.length)) ||
		s.state < gfs.ReplicaMember || s.state > gfs.ReplicaCorrupt ||
		unknown > gfs.BlocksPerChunk || int64(align8(int(tableStart+tableBytes))) != int64(size) {
		return nil, 0, errors.New("checkpoint out of bounds")
	}
	for i := range blocks {
		s.crcs[i] = le.Uint32(b[checkpointHeaderBytes+4*i:])
	}
	for i := range unknown {
		entry := le.Uint32(b[checkpointHeaderBytes+4*blocks+4*i:])
		block := entry &^ namedBit
		if block >= gfs.BlocksPerChunk {
			return nil, 0, errors.New("checkpoint out of bounds")
		}
		s.unknown.add(int(block))
		if entry&namedBit != 0 {
			s.named.add(int(block))
		}
	}
	if s.table, err = mutation.ParseTable(b[tableStart : tableStart+tableBytes]); err != nil {
		return nil, 0, err
	}
	return s, size, nil
}
