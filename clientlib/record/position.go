package record

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	positionVersion = 1
	// maxRuns is the number of runs up to which they are shorter than the bitmap.
	maxRuns = 64
	// maxMarksBytes is the longest encoding of one writer's marks: id, sequence, a zero and the bitmap.
	maxMarksBytes = 8 + binary.MaxVarintLen64 + 1 + MaxWindow/8
	// maxPositionBytes is the longest encoding of a Position, before base64.
	maxPositionBytes = 1 + 2*binary.MaxVarintLen64 + MaxWriters*maxMarksBytes + checksumBytes
)

// Position is a place in a file behind the records that a Reader has handed out, and what it must remember to hand
// out none of them again. The zero value is the beginning of a file. It is opaque, comparable and immutable; two
// positions that are not equal may still mean the same. Its text form holds no spaces and is bounded: some 15 bytes a
// writer as a rule, 200 at worst.
type Position struct {
	offset int64
	marks  string // the writers from the least recently met on, as encodeMarks wrote them
}

// PositionAt is a place at offset bytes with nothing remembered: a Reader finds the next frame from there on by
// itself. A record that stands before offset and has a duplicate behind it comes out. Negative means 0.
func PositionAt(offset int64) Position { return Position{offset: max(offset, 0)} }

// Offset is where reading goes on, in bytes: all that stands before was handed out, dropped or skipped.
func (p Position) Offset() int64 { return p.offset }

// AppendText appends the text form to b. It never fails.
func (p Position) AppendText(b []byte) ([]byte, error) {
	raw := make([]byte, 0, 1+binary.MaxVarintLen64+len(p.marks)+1+checksumBytes)
	raw = append(raw, positionVersion)
	raw = binary.AppendUvarint(raw, uint64(p.offset))
	if p.marks == "" {
		raw = append(raw, 0) // no writers
	}
	raw = append(raw, p.marks...)
	raw = binary.BigEndian.AppendUint32(raw, checksum(raw))
	return base64.RawURLEncoding.AppendEncode(b, raw), nil
}

// MarshalText is the text form, for a consumer to keep beside its results.
func (p Position) MarshalText() ([]byte, error) { return p.AppendText(nil) }

// UnmarshalText reads what MarshalText wrote. Anything else is refused with fs.ErrInvalid and leaves p as it was.
func (p *Position) UnmarshalText(text []byte) error {
	if base64.RawURLEncoding.DecodedLen(len(text)) > maxPositionBytes {
		return gfs.Errorf(gfs.CodeInvalid, "record position of %d characters is longer than any", len(text))
	}
	raw, err := base64.RawURLEncoding.Strict().AppendDecode(nil, text)
	if err != nil || len(raw) < 1+1+1+checksumBytes {
		return gfs.Errorf(gfs.CodeInvalid, "record position %.32q is damaged: want what MarshalText wrote", text)
	}
	body := raw[:len(raw)-checksumBytes]
	if checksum(body) != binary.BigEndian.Uint32(raw[len(body):]) {
		return gfs.Errorf(gfs.CodeInvalid, "record position %.32q is damaged: its checksum does not match", text)
	}
	if body[0] != positionVersion {
		return gfs.Errorf(gfs.CodeInvalid, "record position has format version %d: this program reads version %d; use a newer one",
			body[0], positionVersion)
	}
	offset, n := binary.Uvarint(body[1:])
	if n <= 0 || offset > 1<<63-1 {
		return gfs.Errorf(gfs.CodeInvalid, "record position %.32q: malformed offset", text)
	}
	body = body[1+n:]
	decoded := newDuplicates(MaxWriters)
	if err := decoded.decode(body); err != nil {
		return err
	}
	marks := string(body)
	if len(decoded.writers) == 0 {
		marks = "" // the one form of nothing remembered, so that positions compare
	}
	*p = Position{offset: int64(offset), marks: marks}
	return nil
}

// encode writes the number of writers, then the marks of each, the least recently met first.
func (d *duplicates) encode() string {
	if len(d.writers) == 0 {
		return ""
	}
	b := binary.AppendUvarint(nil, uint64(len(d.writers)))
	for m := d.oldest; m != nil; m = m.newer {
		b = m.appendTo(b)
	}
	return string(b)
}

// appendTo writes writer, max and the window downwards from max as lengths of runs, met and not met by turns, the
// last of which follows from the others; or a zero and the bitmap where there are many runs.
func (m *marks) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.writer)
	b = binary.AppendUvarint(b, m.max)
	var runs [maxRuns]uint64
	n, met := 0, true
	for back := range uint64(MaxWindow) {
		if m.get(m.max-back) != met {
			met = !met
			n++
			if n == maxRuns {
				break
			}
		}
		runs[n]++
	}
	if n == maxRuns {
		b = append(b, 0)
		for _, word := range m.seen {
			b = binary.BigEndian.AppendUint64(b, word)
		}
		return b
	}
	b = binary.AppendUvarint(b, uint64(n+1))
	for _, run := range runs[:n] {
		b = binary.AppendUvarint(b, run)
	}
	return b
}

// decode enters the writers that encode wrote. If there are more than the limit, the most recently met stay.
func (d *duplicates) decode(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	count, n := binary.Uvarint(b)
	if n <= 0 || count > MaxWriters {
		return gfs.Errorf(gfs.CodeInvalid, "record position: malformed number of writers")
	}
	b = b[n:]
	for range count {
		m := new(marks)
		rest, ok := m.parse(b)
		if !ok || d.writers[m.writer] != nil {
			return gfs.Errorf(gfs.CodeInvalid, "record position: malformed marks of a writer")
		}
		d.add(m)
		b = rest
	}
	if len(b) != 0 {
		return gfs.Errorf(gfs.CodeInvalid, "record position: %d bytes too many", len(b))
	}
	return nil
}

// parse reads what appendTo wrote and returns what follows.
func (m *marks) parse(b []byte) (rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, false
	}
	m.writer = binary.BigEndian.Uint64(b)
	b = b[8:]
	var n int
	if m.max, n = binary.Uvarint(b); n <= 0 {
		return nil, false
	}
	b = b[n:]
	runs, n := binary.Uvarint(b)
	if n <= 0 || runs > maxRuns {
		return nil, false
	}
	b = b[n:]
	if runs == 0 {
		if len(b) < MaxWindow/8 {
			return nil, false
		}
		for i := range m.seen {
			m.seen[i] = binary.BigEndian.Uint64(b[8*i:])
		}
		return b[MaxWindow/8:], m.get(m.max)
	}
	back, met := uint64(0), true
	for i := range runs {
		length := MaxWindow - back
		if i < runs-1 {
			if length, n = binary.Uvarint(b); n <= 0 || length == 0 || length >= MaxWindow-back {
				return nil, false
			}
			b = b[n:]
		}
		for range length {
			if met {
				m.set(m.max - back)
			}
			back++
		}
		met = !met
	}
	return b, true
}
