package record

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

// encode is appendFrame for inputs that must be accepted.
func encode(t interface{ Fatalf(string, ...any) }, writer, sequence uint64, payload []byte) []byte {
	whole, err := appendFrame(nil, writer, sequence, payload, rand.Uint32)
	if err != nil {
		t.Fatalf("frame of %d bytes: %v", len(payload), err)
	}
	return whole
}

func TestFrameKeepsTheMagicToItsBeginning(t *testing.T) {
	inner := encode(t, 1, 2, []byte("inner"))
	half := []byte(magic)[2:]
	for name, payload := range map[string][]byte{
		"empty":               {},
		"text":                []byte("text"),
		"magic":               []byte(magic),
		"magic at the end":    append([]byte("abc"), magic...),
		"half a magic":        half,
		"many magics":         bytes.Repeat([]byte(magic), 1000),
		"frames":              bytes.Repeat(inner, 20),
		"shifted by each":     []byte("1" + magic + "22" + magic + "333" + magic + "4444" + magic),
		"ends within a magic": append([]byte("abc"), magic[:3]...),
	} {
		whole := encode(t, 7, 8, payload)
		if bytes.Contains(whole[1:], []byte(magic)) {
			t.Errorf("%s: the frame holds a second magic", name)
		}
		f, ok := parseHeader(whole)
		if !ok || f.bytes() != len(whole) || !f.verify(whole) || f.writer != 7 || f.sequence != 8 {
			t.Errorf("%s: decoded %+v", name, f)
			continue
		}
		if got := f.open(whole); !bytes.Equal(got, payload) {
			t.Errorf("%s: payload %q, want %q", name, got, payload)
		}
	}
}

func TestFrameWithAMaskThatFailsTriesAnother(t *testing.T) {
	// XORed with the first mask this payload becomes the magic; the second is harmless.
	masks := []uint32{0x01020304, 0x0a0b0c0d}
	payload := append([]byte(magic), magic...)
	xor(payload[4:], masks[0])
	next := func() uint32 { m := masks[0]; masks = masks[1:]; return m }
	whole, err := appendFrame(nil, 1, 1, payload, next)
	if err != nil || len(masks) != 0 {
		t.Fatalf("error %v, %d masks left", err, len(masks))
	}
	f, _ := parseHeader(whole)
	if got := f.open(whole); f.mask != 0x0a0b0c0d || !bytes.Equal(got, payload) {
		t.Errorf("mask %x, payload %x", f.mask, got)
	}
	if _, err := appendFrame(nil, 1, 1, []byte(magic), func() uint32 { return 0 }); gfs.CodeOf(err) != gfs.CodeInternal {
		t.Errorf("no mask helps: error %v", err)
	}
}

func TestFrameRefusals(t *testing.T) {
	var writer [8]byte
	copy(writer[2:], magic)
	for name, c := range map[string]struct {
		writer, sequence uint64
		payload          int
		want             error
	}{
		"too long":              {1, 1, MaxPayloadBytes + 1, gfs.ErrRecordTooLarge},
		"writer like the magic": {binary.BigEndian.Uint64(writer[:]), 1, 1, gfs.FromCode(gfs.CodeInvalid, "")},
		"sequence too high":     {1, maxSequence + 1, 1, gfs.FromCode(gfs.CodeInvalid, "")},
	} {
		dst := []byte("kept")
		got, err := appendFrame(dst, c.writer, c.sequence, make([]byte, c.payload), rand.Uint32)
		if gfs.CodeOf(err) != gfs.CodeOf(c.want) || string(got) != "kept" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := appendFrame(nil, 1, 1, make([]byte, MaxPayloadBytes), rand.Uint32); err != nil {
		t.Errorf("longest payload: %v", err)
	}
}

func TestFrameNotices(t *testing.T) {
	good := encode(t, 3, 4, []byte(strings.Repeat("payload ", 40)))
	rapid.Check(t, func(t *rapid.T) {
		whole := slices.Clone(good)
		bit := rapid.IntRange(len(magic)*8, len(whole)*8-1).Draw(t, "bit")
		whole[bit/8] ^= 1 << (bit % 8)
		if f, ok := parseHeader(whole); ok && f.bytes() <= len(whole) && f.verify(whole) {
			t.Fatalf("a flipped bit %d went unnoticed", bit)
		}
	})
}

func TestXorTakesEveryLength(t *testing.T) {
	for n := range 40 {
		p := make([]byte, n)
		xor(p, 0xa1b2c3d4)
		want := bytes.Repeat([]byte{0xa1, 0xb2, 0xc3, 0xd4}, 10)[:n]
		if !bytes.Equal(p, want) {
			t.Errorf("%d bytes: %x, want %x", n, p, want)
		}
	}
}

func TestNewerFormatsAreRefused(t *testing.T) {
	for name, change := range map[string]func(whole []byte){
		"version": func(whole []byte) { whole[4] = frameVersion + 1 },
		"flag":    func(whole []byte) { whole[5] |= 0x80 },
	} {
		first, whole := encode(t, 1, 1, []byte("old")), encode(t, 1, 2, []byte("new"))
		change(whole)
		body := whole[:len(whole)-checksumBytes]
		binary.BigEndian.PutUint32(whole[len(body):], checksum(body))
		var got []string
		var failure error
		for record, err := range NewReader(bytes.NewReader(append(first, whole...))).Records(t.Context()) {
			if err != nil {
				failure = err
				break
			}
			got = append(got, string(record.Payload))
		}
		if !slices.Equal(got, []string{"old"}) || gfs.CodeOf(failure) != gfs.CodeInvalid ||
			!strings.Contains(failure.Error(), "newer") {
			t.Errorf("%s: records %q, error %v", name, got, failure)
		}
	}
}
