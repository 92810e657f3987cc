package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cairnfs/cairn/messages/gfs"
)

// HeaderSize is the length of a frame's header in bytes.
const HeaderSize = 32

// magic ends in the protocol version.
const magic = "CRN1"

// Castagnoli is the table of CRC32C, the checksum of everything in the system.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32C of p.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// UpdateChecksum is the CRC32C of what sum covers followed by p.
func UpdateChecksum(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli, p) }

// Op says what a frame is. Values are only ever appended.
type Op uint8

// The operations, with the messages of a request and of its reply.
const (
	OpMutate     Op = iota + 1 // Mutate + data → MutateReply
	OpRead                     // Read → ReadReply + data
	OpLength                   // Length → LengthReply
	OpSync                     // SyncChunk → SyncChunkReply
	OpDigest                   // Digest → DigestReply
	OpPatch                    // Patch + blocks → PatchReply
	OpPing                     // nothing → nothing
	OpChainOpen                // ChainOpen → ChainOpened; the connection is a chain stream from then on
	OpChainApply               // ChainApply + data, no reply of its own
	OpChainAck                 // ChainAck, up the stream
	OpChainTick                // ChainTick, no reply
	OpChainClose               // ChainClose → ChainClosed
	OpPush                     // Push + data → PushReply
	OpPull                     // Pull → PullReply + data
	OpPrepare                  // PrepareOrder → Prepared: an order of the master's, passed on
	opEnd
)

var opNames = [opEnd]string{
	OpMutate: "mutate", OpRead: "read", OpLength: "length", OpSync: "sync", OpDigest: "digest", OpPatch: "patch",
	OpPing: "ping", OpChainOpen: "chain-open", OpChainApply: "chain-apply", OpChainAck: "chain-ack",
	OpChainTick: "chain-tick", OpChainClose: "chain-close", OpPush: "push", OpPull: "pull",
	OpPrepare: "prepare",
}

// String is the operation's name in logs and metrics.
func (o Op) String() string {
	if o == 0 || o >= opEnd {
		return fmt.Sprintf("op(%d)", uint8(o))
	}
	return opNames[o]
}

// FlagReply marks the answer to a request of the same operation and request id.
const FlagReply uint8 = 1

// Header is a frame's header in memory.
type Header struct {
	Op           Op
	Flags        uint8
	RequestID    uint64
	MessageBytes int // 0 to gfs.MaxWireMessageBytes
	PayloadBytes int // 0 to gfs.MaxPieceBytes
}

// IsReply reports whether the frame answers a request.
func (h Header) IsReply() bool { return h.Flags&FlagReply != 0 }

// put writes the header into the first HeaderSize bytes of b.
func (h Header) put(b []byte) {
	b = b[:HeaderSize]
	copy(b, magic)
	b[4], b[5], b[6], b[7] = byte(h.Op), h.Flags, 0, 0
	binary.BigEndian.PutUint64(b[8:], h.RequestID)
	binary.BigEndian.PutUint32(b[16:], uint32(h.MessageBytes))
	binary.BigEndian.PutUint32(b[20:], uint32(h.PayloadBytes))
	binary.BigEndian.PutUint32(b[24:], 0)
	binary.BigEndian.PutUint32(b[28:], Checksum(b[:28]))
}

// parseHeader checks and reads a header; b has at least HeaderSize bytes. Errors are gfs.CodeInvalid.
func parseHeader(b []byte) (Header, error) {
	b = b[:HeaderSize]
	if string(b[:4]) != magic {
		if string(b[:3]) == magic[:3] {
			return Header{}, gfs.Errorf(gfs.CodeInvalid, "frame of protocol version %q, this side speaks %q: upgrade the older one", b[3], magic[3])
		}
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "not a frame of Cairn's data plane (begins with % x)", b[:4])
	}
	if got, want := Checksum(b[:28]), binary.BigEndian.Uint32(b[28:]); got != want {
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "frame header with checksum %08x, computed %08x", want, got)
	}
	h := Header{Op: Op(b[4]), Flags: b[5], RequestID: binary.BigEndian.Uint64(b[8:])}
	messageBytes, payloadBytes := binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])
	switch {
	case h.Op == 0 || h.Op >= opEnd:
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "frame of unknown operation %d", b[4])
	case h.Flags&^FlagReply != 0:
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "frame with unknown flags %02x", h.Flags)
	case messageBytes > gfs.MaxWireMessageBytes:
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "message of %d bytes, at most %d are allowed", messageBytes, gfs.MaxWireMessageBytes)
	case payloadBytes > gfs.MaxPieceBytes:
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "payload of %d bytes, at most %d are allowed", payloadBytes, gfs.MaxPieceBytes)
	}
	h.MessageBytes, h.PayloadBytes = int(messageBytes), int(payloadBytes)
	return h, nil
}
