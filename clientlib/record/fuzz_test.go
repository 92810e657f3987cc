package record

import (
	"bytes"
	"testing"
)

// Whatever the input, the reader ends, never panics, and hands out in rising order only what is a frame byte for byte.
func FuzzReader(f *testing.F) {
	one, two := encode(f, 1, 1, []byte("one")), encode(f, 1, 2, []byte("two "+magic))
	f.Add([]byte{}, uint16(0))
	f.Add(append(bytes.Clone(one), two...), uint16(7))
	f.Add(append(append(bytes.Clone(one[:20]), one...), make([]byte, 100)...), uint16(300))
	f.Add(append(append(make([]byte, 50), two...), one...), uint16(64))
	f.Fuzz(func(t *testing.T, content []byte, buffer uint16) {
		original := bytes.Clone(content)
		reader := NewReader(bytes.NewReader(content), WithChunkSize(4096))
		reader.bufferBytes = int(buffer) + 1
		got, err := collect(reader.Records(t.Context()), -1)
		if err != nil {
			return // a frame of a newer version
		}
		if !bytes.Equal(content, original) {
			t.Fatal("the reader changed its source")
		}
		behind := int64(0)
		for i, r := range got {
			if r.Offset < behind {
				t.Fatalf("record %d at %d begins before %d", i, r.Offset, behind)
			}
			whole := content[r.Offset:][:len(r.Payload)+FrameOverheadBytes]
			h, ok := parseHeader(whole)
			if !ok || !h.verify(whole) || h.writer != r.Writer || h.sequence != r.Seq ||
				!bytes.Equal(h.open(bytes.Clone(whole)), r.Payload) {
				t.Fatalf("record %d at %d is no frame", i, r.Offset)
			}
			behind = r.Offset + int64(len(whole))
		}
		// Reading again from each stop gives the same.
		again := NewReader(bytes.NewReader(content), WithChunkSize(4096))
		for i := range got {
			position := again.Position()
			again = NewReader(bytes.NewReader(content), WithChunkSize(4096))
			again.SeekTo(position)
			one, err := collect(again.Records(t.Context()), 1)
			if err != nil {
				t.Fatal(err)
			}
			sameRecords(t, one, got[i:i+1])
		}
	})
}

func FuzzPosition(f *testing.F) {
	d := newDuplicates(3)
	for seq := range uint64(300) {
		d.first(seq%3, 2*seq*seq)
	}
	text, _ := Position{offset: 9, marks: d.encode()}.MarshalText()
	f.Add(text)
	f.Add([]byte("AQAAAAAAAA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var p, again Position
		if p.UnmarshalText(text) != nil {
			return
		}
		out, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalText(out); err != nil || again != p {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		NewReader(bytes.NewReader(nil)).SeekTo(p)
	})
}

// FuzzMarks skips the checksum, which a fuzzer does not find.
func FuzzMarks(f *testing.F) {
	d := newDuplicates(3)
	for seq := range uint64(300) {
		d.first(seq%3, 2*seq*seq)
	}
	f.Add([]byte(d.encode()))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, again := newDuplicates(MaxWriters), newDuplicates(MaxWriters)
		if d.decode(b) != nil {
			return
		}
		if len(d.writers) > MaxWriters {
			t.Fatalf("%d writers", len(d.writers))
		}
		if err := again.decode([]byte(d.encode())); err != nil || again.encode() != d.encode() {
			t.Fatalf("%x became %x: %v", b, d.encode(), err)
		}
		d.first(1, 1)
	})
}
