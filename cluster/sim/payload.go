package sim

import (
	"encoding/binary"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Writes at offsets go to slots, each once: what is there is known, or zeros.
const (
	slotBytes = 1500
	slotCount = 200
	// Behind them are some that are long enough to be pushed.
	largeBytes = gfs.SmallMutationBytes + 3000
	largeCount = 4
)

// slotOffset is where a slot begins.
func slotOffset(n int) int64 {
	if n < slotCount {
		return int64(n) * slotBytes
	}
	return slotCount*slotBytes + int64(n-slotCount)*largeBytes
}

// slotAt is the slot that an offset is in.
func slotAt(offset int64) int {
	if offset < slotCount*slotBytes {
		return int(offset / slotBytes)
	}
	return slotCount + int(offset-slotCount*slotBytes)/largeBytes
}

// Records begin with a header, so that a chunk of them can be taken apart: magic, writer, sequence, length of all.
const (
	recordMagic  = 0x4352_4543
	recordHeader = 4 + 8 + 8 + 4
)

// record is the bytes of an append: they follow from writer and sequence.
func record(id gfs.WriterID, sequence uint64) []byte {
	n := recordHeader + int(mix(uint64(id)<<32|sequence)%1200)
	if sequence%29 == 0 {
		n += 60_000
	}
	if id == largeWriter {
		n += gfs.SmallMutationBytes
	}
	b := make([]byte, n)
	binary.LittleEndian.PutUint32(b, recordMagic)
	binary.LittleEndian.PutUint64(b[4:], uint64(id))
	binary.LittleEndian.PutUint64(b[12:], sequence)
	binary.LittleEndian.PutUint32(b[20:], uint32(n))
	fill(b[recordHeader:], uint64(id)<<40|sequence)
	return b
}

// slot is the bytes of a write to a slot.
func slot(n int) []byte {
	b := make([]byte, slotBytes)
	if n >= slotCount {
		b = make([]byte, largeBytes)
	}
	fill(b, uint64(n)|1<<63)
	return b
}

func fill(b []byte, seed uint64) {
	var next [8]byte
	for len(b) > 0 {
		seed = mix(seed)
		binary.LittleEndian.PutUint64(next[:], seed|0x0101_0101_0101_0101) // no byte is zero
		b = b[copy(b, next[:]):]
	}
}

// mix is the step of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
