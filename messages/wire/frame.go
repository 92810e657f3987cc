package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
)

// readBuffer is small: a payload is read past it, straight into its destination, but for what came with the header.
const readBuffer = 4 << 10

// Reader reads frames from a stream. It is not safe for concurrent use.
type Reader struct {
	buffered *bufio.Reader
	header   [HeaderSize]byte
	message  []byte // reused by every frame
	payload  int    // bytes of the current frame's payload not read yet
}

// NewReader reads frames from r. It may read ahead of the frame it was asked for, so r belongs to it.
func NewReader(r io.Reader) *Reader {
	return &Reader{buffered: bufio.NewReaderSize(r, readBuffer)}
}

// Next reads the next frame's header and message; the payload is then read with Payload or Discard, in whole,
// before Next is called again. The message is decoded by Decode and is valid until the next call of Next.
// At a clean end of the stream the error is io.EOF; within a frame it is io.ErrUnexpectedEOF. An error of
// gfs.CodeInvalid means that the peer does not speak this protocol.
func (r *Reader) Next() (Header, error) {
	if r.payload != 0 {
		return Header{}, fmt.Errorf("wire: %d bytes of the payload were not read", r.payload)
	}
	if _, err := io.ReadFull(r.buffered, r.header[:]); err != nil {
		return Header{}, err
	}
	h, err := parseHeader(r.header[:])
	if err != nil {
		return Header{}, err
	}
	if cap(r.message) < h.MessageBytes {
		r.message = make([]byte, h.MessageBytes)
	}
	r.message = r.message[:h.MessageBytes]
	if _, err := io.ReadFull(r.buffered, r.message); err != nil {
		return Header{}, unexpected(err)
	}
	r.payload = h.PayloadBytes
	return h, nil
}

// Decode decodes the current frame's message into m. The error is gfs.CodeInvalid.
func (r *Reader) Decode(m proto.Message) error {
	if err := proto.Unmarshal(r.message, m); err != nil {
		return gfs.Errorf(gfs.CodeInvalid, "malformed message of %d bytes: %v", len(r.message), err)
	}
	return nil
}

// Payload reads the next len(p) bytes of the current frame's payload into p, which the caller owns.
func (r *Reader) Payload(p []byte) error {
	if len(p) > r.payload {
		return fmt.Errorf("wire: %d bytes wanted, %d left in the payload", len(p), r.payload)
	}
	n, err := io.ReadFull(r.buffered, p)
	r.payload -= n
	return unexpected(err)
}

// Discard skips what is left of the current frame's payload.
func (r *Reader) Discard() error {
	n, err := r.buffered.Discard(r.payload)
	r.payload -= n
	return unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes frames to a stream. It is not safe for concurrent use.
type Writer struct {
	w       io.Writer
	head    []byte
	vectors net.Buffers
}

// NewWriter writes frames to w. A *net.TCPConn gets each frame in one system call.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, head: make([]byte, 0, readBuffer)} }

// Frame writes one frame. It fills in the lengths of h: m may be nil, and the payload is what payload's slices hold
// together; the slices belong to the caller again on return. After an error the stream cannot be used.
func (w *Writer) Frame(h Header, m proto.Message, payload ...[]byte) error {
	if err := w.encodeHead(h, m, total(payload)); err != nil {
		return err
	}
	if len(payload) == 0 {
		_, err := w.w.Write(w.head)
		return err
	}
	w.vectors = append(append(w.vectors[:0], w.head), payload...)
	vectors := w.vectors // WriteTo consumes its receiver; ours keeps the room
	_, err := vectors.WriteTo(w.w)
	clear(w.vectors)
	return err
}

// Head writes the header and message of a frame whose payload of payloadBytes the caller then writes to the stream
// itself, by sendfile say.
func (w *Writer) Head(h Header, m proto.Message, payloadBytes int) error {
	if err := w.encodeHead(h, m, payloadBytes); err != nil {
		return err
	}
	_, err := w.w.Write(w.head)
	return err
}

func (w *Writer) encodeHead(h Header, m proto.Message, payloadBytes int) error {
	w.head = append(w.head[:0], make([]byte, HeaderSize)...)
	if m != nil {
		var err error
		if w.head, err = (proto.MarshalOptions{}).MarshalAppend(w.head, m); err != nil {
			return fmt.Errorf("wire: encode %s: %w", h.Op, err)
		}
	}
	h.MessageBytes, h.PayloadBytes = len(w.head)-HeaderSize, payloadBytes
	if h.MessageBytes > gfs.MaxWireMessageBytes || payloadBytes > gfs.MaxPieceBytes {
		return gfs.Errorf(gfs.CodeInvalid, "%s frame of %d message and %d payload bytes: at most %d and %d are allowed",
			h.Op, h.MessageBytes, payloadBytes, gfs.MaxWireMessageBytes, gfs.MaxPieceBytes)
	}
	h.put(w.head)
	return nil
}

func total(slices [][]byte) int {
	n := 0
	for _, s := range slices {
		n += len(s)
	}
	return n
}
