package record

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	frameVersion = 1
	flagMasked   = 1 << 0 // the payload is stored XORed with the mask

	headerBytes   = 32
	checksumBytes = 4

	// FrameOverheadBytes is what a frame adds to its payload.
	FrameOverheadBytes = headerBytes + checksumBytes
	// MaxPayloadBytes is the longest payload: its frame is a record append of the largest size.
	MaxPayloadBytes = gfs.MaxRecordBytes - FrameOverheadBytes

	// maxMasks bounds the search for a mask. A random mask fails with a probability of at most 1 in 256.
	maxMasks = 64
	// maxSequence keeps the first byte of a sequence zero, so that the magic cannot straddle it and the writer id.
	maxSequence = 1<<56 - 1
)

// magic begins a frame. Its first byte occurs in no UTF-8 text and none of its bytes is zero, so that neither texts nor
// padding slow the search down; none repeats the first, so that occurrences do not overlap.
const magic = "\xc1\xa1\xf7\x9b"

// checksum is CRC32C, the polynomial that processors have instructions for.
func checksum(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// frame is a decoded header.
type frame struct {
	version  byte
	flags    byte
	payload  int // length in bytes
	mask     uint32
	writer   uint64
	sequence uint64
}

// bytes is the length of the whole frame.
func (f *frame) bytes() int { return f.payload + FrameOverheadBytes }

// usable reports whether a writer id and a sequence can stand in a header without making the magic appear there.
func usable(writer, sequence uint64) bool {
	var fields [16]byte
	binary.BigEndian.PutUint64(fields[0:], writer)
	binary.BigEndian.PutUint64(fields[8:], sequence)
	return sequence <= maxSequence && !bytes.Contains(fields[:], []byte(magic))
}

// appendFrame appends the frame of a payload to dst. The payload is not kept. The masks come from random, which is called
// only if the payload makes the magic appear. Writer and sequence must be usable.
func appendFrame(dst []byte, writer, sequence uint64, payload []byte, random func() uint32) ([]byte, error) {
	if len(payload) > MaxPayloadBytes {
		return dst, gfs.Errorf(gfs.CodeRecordTooLarge, "payload of %d bytes: at most %d fit a framed record",
			len(payload), MaxPayloadBytes)
	}
	if !usable(writer, sequence) {
		return dst, gfs.Errorf(gfs.CodeInvalid, "writer %#x with sequence %d cannot be framed: choose another writer id",
			writer, sequence)
	}
	start := len(dst)
	dst = slices.Grow(dst, len(payload)+FrameOverheadBytes)
	dst = append(dst, magic...)
	dst = append(dst, frameVersion, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, writer)
	dst = binary.BigEndian.AppendUint64(dst, sequence)
	dst = append(dst, payload...)
	dst = binary.BigEndian.AppendUint32(dst, checksum(dst[start:]))
	whole := dst[start:]
	for range maxMasks {
		if !bytes.Contains(whole[1:], []byte(magic)) {
			return dst, nil
		}
		mask(whole, random())
	}
	return dst[:start], gfs.Errorf(gfs.CodeInternal, "no mask found for a payload of %d bytes", len(payload))
}

// mask replaces the mask of an encoded frame and with it payload and checksum.
func mask(whole []byte, key uint32) {
	body := whole[:len(whole)-checksumBytes]
	old := binary.BigEndian.Uint32(body[12:])
	whole[5] |= flagMasked
	binary.BigEndian.PutUint32(body[12:], key)
	xor(body[headerBytes:], old^key)
	binary.BigEndian.PutUint32(whole[len(body):], checksum(body))
}

// xor combines p with the bytes of key, in place.
func xor(p []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(p) >= 8 {
		binary.BigEndian.PutUint64(p, binary.BigEndian.Uint64(p)^wide)
		p = p[8:]
	}
	var rest [8]byte
	binary.BigEndian.PutUint64(rest[:], wide)
	for i := range p {
		p[i] ^= rest[i]
	}
}

// parseHeader reads the header at the beginning of p, which has at least headerBytes and begins with the magic. It
// refuses what no version writes; all else is for the checksum to decide.
func parseHeader(p []byte) (frame, bool) {
	length := binary.BigEndian.Uint32(p[8:])
	f := frame{
		version:  p[4],
		flags:    p[5],
		mask:     binary.BigEndian.Uint32(p[12:]),
		writer:   binary.BigEndian.Uint64(p[16:]),
		sequence: binary.BigEndian.Uint64(p[24:]),
	}
	if length > MaxPayloadBytes || f.version == 0 || p[6] != 0 || p[7] != 0 {
		return frame{}, false
	}
	f.payload = int(length)
	return f, true
}

// verify reports whether whole, whose header is f, is a frame and not garbage that looks like one.
func (f *frame) verify(whole []byte) bool {
	body := whole[:f.bytes()-checksumBytes]
	return binary.BigEndian.Uint32(whole[len(body):]) == checksum(body)
}

// readable refuses a verified frame that a newer program wrote.
func (f *frame) readable(offset int64) error {
	if f.version != frameVersion || f.flags&^flagMasked != 0 {
		return gfs.Errorf(gfs.CodeInvalid, "record at offset %d has format version %d and flags %#x: "+
			"this program reads version %d; use a newer one", offset, f.version, f.flags, frameVersion)
	}
	return nil
}

// open returns the payload of a verified, readable frame. It removes the mask in place, so it is called once a frame.
func (f *frame) open(whole []byte) []byte {
	payload := whole[headerBytes : headerBytes+f.payload : headerBytes+f.payload]
	if f.flags&flagMasked != 0 {
		xor(payload, f.mask)
	}
	return payload
}
