package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type frame struct {
			h       Header
			m       *pb.Read
			payload []byte
		}
		frames := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) frame {
			return frame{
				Header{Op: Op(rapid.IntRange(1, int(opEnd)-1).Draw(t, "op")), Flags: rapid.Byte().Draw(t, "flags") & FlagReply, RequestID: rapid.Uint64().Draw(t, "id")},
				&pb.Read{Handle: rapid.Uint64().Draw(t, "handle"), Offset: rapid.Int64().Draw(t, "offset")},
				rapid.SliceOfN(rapid.Byte(), 0, 3*readBuffer).Draw(t, "payload"),
			}
		}), 1, 8).Draw(t, "frames")
		var stream bytes.Buffer
		w := NewWriter(&stream)
		for _, f := range frames {
			half := len(f.payload) / 2
			if err := w.Frame(f.h, f.m, f.payload[:half], f.payload[half:]); err != nil {
				t.Fatal(err)
			}
		}
		r := NewReader(&stream)
		for _, f := range frames {
			h, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			f.h.MessageBytes, f.h.PayloadBytes = proto.Size(f.m), len(f.payload)
			if h != f.h {
				t.Fatalf("header %+v, want %+v", h, f.h)
			}
			var m pb.Read
			if err := r.Decode(&m); err != nil || !proto.Equal(&m, f.m) {
				t.Fatalf("message %v (%v), want %v", &m, err, f.m)
			}
			got := make([]byte, h.PayloadBytes)
			if err := r.Payload(got); err != nil || !bytes.Equal(got, f.payload) {
				t.Fatalf("payload differs (%v)", err)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("at the end: %v, want io.EOF", err)
		}
	})
}

func TestEveryFlippedHeaderBitIsRefused(t *testing.T) {
	var stream bytes.Buffer
	if err := NewWriter(&stream).Frame(Header{Op: OpPing, RequestID: 7}, nil); err != nil {
		t.Fatal(err)
	}
	for bit := range HeaderSize * 8 {
		b := bytes.Clone(stream.Bytes())
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := NewReader(bytes.NewReader(b)).Next(); !errors.Is(err, errInvalid()) {
			t.Errorf("bit %d flipped: %v, want invalid", bit, err)
		}
	}
}

func TestLengthsAreBoundedBeforeAnythingIsAllocated(t *testing.T) {
	for _, at := range []int{16, 20} {
		b := make([]byte, HeaderSize)
		Header{Op: OpRead}.put(b)
		binary.BigEndian.PutUint32(b[at:], 1<<31)
		binary.BigEndian.PutUint32(b[28:], Checksum(b[:28]))
		if _, err := NewReader(bytes.NewReader(b)).Next(); !errors.Is(err, errInvalid()) {
			t.Errorf("length of 2 GiB at %d: %v, want invalid", at, err)
		}
	}
	if err := NewWriter(io.Discard).Frame(Header{Op: OpMutate}, nil, make([]byte, gfs.MaxPieceBytes+1)); !errors.Is(err, errInvalid()) {
		t.Errorf("a payload above the bound was written: %v", err)
	}
}

func TestTruncatedFrames(t *testing.T) {
	var stream bytes.Buffer
	if err := NewWriter(&stream).Frame(Header{Op: OpRead}, &pb.Read{Handle: 1}, []byte("payload")); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < stream.Len(); n++ {
		r := NewReader(bytes.NewReader(stream.Bytes()[:n]))
		h, err := r.Next()
		if err == nil {
			err = r.Payload(make([]byte, h.PayloadBytes))
		}
		if err != io.ErrUnexpectedEOF {
			t.Errorf("%d of %d bytes: %v, want io.ErrUnexpectedEOF", n, stream.Len(), err)
		}
	}
}

func TestPayloadMustBeReadBeforeTheNextFrame(t *testing.T) {
	var stream bytes.Buffer
	w := NewWriter(&stream)
	for range 2 {
		if err := w.Frame(Header{Op: OpMutate}, nil, []byte("payload")); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&stream)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err == nil {
		t.Fatal("the payload was read as a header")
	}
	if err := r.Discard(); err != nil {
		t.Fatal(err)
	}
	if h, err := r.Next(); err != nil || h.PayloadBytes != 7 {
		t.Fatalf("after Discard: %+v, %v", h, err)
	}
}

func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 1, 5000).Draw(t, "data")
		offset := gfs.BlockSize - rapid.Int64Range(0, 5000).Draw(t, "before the boundary")
		sums := AppendChecksums(nil, offset, data)
		if len(sums) != Parts(offset, int64(len(data))) {
			t.Fatalf("%d sums, want %d", len(sums), Parts(offset, int64(len(data))))
		}
		if err := Verify(sums, offset, data); err != nil {
			t.Fatal(err)
		}
		data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] ^= 0x10
		if err := Verify(sums, offset, data); !errors.Is(err, gfs.ErrCorrupt) {
			t.Fatalf("a flipped bit: %v, want corrupt", err)
		}
	})
}

func FuzzReader(f *testing.F) {
	var stream bytes.Buffer
	if err := NewWriter(&stream).Frame(Header{Op: OpMutate, RequestID: 1}, &pb.Mutate{Handle: 2}, []byte("data")); err != nil {
		f.Fatal(err)
	}
	f.Add(stream.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for {
			if _, err := r.Next(); err != nil {
				return
			}
			var m pb.Mutate
			if err := r.Decode(&m); err != nil && !errors.Is(err, errInvalid()) {
				t.Fatalf("decode: %v", err)
			}
			if err := r.Discard(); err != nil {
				return
			}
		}
	})
}

func errInvalid() error { return fs.ErrInvalid }

func BenchmarkFrame(b *testing.B) {
	a, z := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, z) }()
	defer a.Close()
	w, m, payload := NewWriter(a), &pb.Mutate{Handle: 1, Checksums: make([]uint32, 8)}, make([]byte, 512<<10)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Frame(Header{Op: OpMutate}, m, payload); err != nil {
			b.Fatal(err)
		}
	}
}
