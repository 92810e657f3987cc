// Package wire frames the data plane: what chunkservers and clients say to each other over raw TCP.
//
// A frame is a header of HeaderSize bytes, a protocol buffer (the words: package pb, mutation.proto) and a payload
// (the bytes of files). All numbers are big-endian.
//
//	offset  bytes  field
//	0       4      magic "CRN1": the 1 is the protocol version
//	4       1      operation
//	5       1      flags
//	6       2      zero
//	8       8      request id, chosen by the sender of the request and repeated in its reply
//	16      4      message length in bytes, at most gfs.MaxWireMessageBytes
//	20      4      payload length in bytes, at most gfs.MaxPieceBytes
//	24      4      zero
//	28      4      CRC32C of the 28 bytes before
//
// The header's checksum covers the lengths, so that a flipped bit cannot make a reader wait for bytes that never
// come. The message has none of its own (TCP's checksum, and every field is checked); the payload has the CRC32C
// of each block in the message.
//
// A malformed frame is an error after which the connection cannot be used. Nothing is allocated before the lengths
// are checked. Frames on a connection are in order; replies may overtake each other and are told apart by request id.
//
// The package opens no socket and starts no goroutine: it works on io.Reader and io.Writer.
package wire
