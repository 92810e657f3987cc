package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

var errFlaky = errors.New("flaky")

// growing is a file of which only the first visible bytes exist yet. Reads are short and fail where flaky says so.
type growing struct {
	content []byte
	visible int
	flaky   func(n int) (served int, fail bool)
	reads   int
	bytes   int64
}

func (g *growing) ReadAt(p []byte, offset int64) (int, error) {
	g.reads++
	if offset >= int64(g.visible) {
		return 0, io.EOF
	}
	n := copy(p, g.content[offset:g.visible])
	if g.flaky != nil {
		if served, fail := g.flaky(n); fail {
			return served, errFlaky
		}
	}
	g.bytes += int64(n)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// layout builds a file as record append leaves it.
type layout struct {
	chunk   int
	content []byte
	want    []Record // each intact record at its first place
	ends    []int    // of those records
	met     map[[2]uint64]bool
}

// room pads the chunk if n bytes do not fit it.
func (l *layout) room(n int) {
	if left := l.chunk - len(l.content)%l.chunk; left < n {
		l.zeros(left)
	}
}

func (l *layout) zeros(n int) { l.content = append(l.content, make([]byte, n)...) }

func (l *layout) record(whole []byte, r Record) {
	l.room(len(whole))
	if key := [2]uint64{r.Writer, r.Seq}; !l.met[key] {
		l.met[key] = true
		r.Offset = int64(len(l.content))
		l.want = append(l.want, r)
		l.ends = append(l.ends, len(l.content)+len(whole))
	}
	l.content = append(l.content, whole...)
}

// fragment is a record cut short, before its checksum so that following zeros cannot complete it.
func (l *layout) fragment(t *rapid.T, whole []byte) {
	cut := rapid.IntRange(1, len(whole)-checksumBytes-1).Draw(t, "cut")
	l.room(cut)
	l.content = append(l.content, whole[:cut]...)
}

func drawPayload(t *rapid.T, limit int, earlier []byte) []byte {
	switch rapid.IntRange(0, 4).Draw(t, "payload") {
	case 0:
		return make([]byte, rapid.IntRange(0, limit).Draw(t, "zeros"))
	case 1: // frames inside a payload
		return bytes.Clone(earlier[:min(len(earlier), limit)])
	case 2:
		return bytes.Repeat([]byte(magic), rapid.IntRange(0, limit/len(magic)).Draw(t, "magics"))
	default:
		return rapid.SliceOfN(rapid.Byte(), 0, limit).Draw(t, "bytes")
	}
}

// drawLayout is any interleaving of records of several writers, duplicates, padding, torn fragments and garbage.
func drawLayout(t *rapid.T) *layout {
	l := &layout{chunk: rapid.SampledFrom([]int{256, 1000, 4096, 1 << 20}).Draw(t, "chunk"), met: map[[2]uint64]bool{}}
	type sent struct {
		whole  []byte
		record Record
	}
	var all []sent
	next := map[uint64]uint64{}
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		writer := rapid.Uint64Range(1, 4).Draw(t, "writer")
		payload := drawPayload(t, min(200, l.chunk-FrameOverheadBytes), l.content)
		next[writer] += rapid.Uint64Range(1, 3).Draw(t, "gap")
		r := Record{Writer: writer, Seq: next[writer], Payload: payload}
		fresh := sent{encode(t, writer, r.Seq, payload), r}
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind <= 3:
			l.record(fresh.whole, r)
			all = append(all, fresh)
		case kind == 4 && len(all) > 0: // a retry of any earlier one, also of one that was torn
			again := rapid.SampledFrom(all).Draw(t, "again")
			l.record(again.whole, again.record)
		case kind == 5:
			l.zeros(rapid.IntRange(0, l.chunk).Draw(t, "padding") % 5000)
		case kind == 6:
			l.fragment(t, fresh.whole)
			all = append(all, fresh)
		case kind == 7: // damaged
			whole := bytes.Clone(fresh.whole)
			whole[rapid.IntRange(0, len(whole)-1).Draw(t, "at")] ^= rapid.ByteRange(1, 255).Draw(t, "damage")
			l.room(len(whole))
			l.content = append(l.content, whole...)
		default:
			l.content = append(l.content, rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "garbage")...)
		}
	}
	return l
}

// collect takes records until the iteration ends; take bounds them, negative means all.
func collect(records iter.Seq2[Record, error], take int) (got []Record, err error) {
	if take == 0 {
		return nil, nil
	}
	for r, err := range records {
		if err != nil {
			return got, err
		}
		if got = append(got, r.Clone()); len(got) == take {
			break
		}
	}
	return got, nil
}

func sameRecords(t interface{ Fatalf(string, ...any) }, got, want []Record) {
	if !slices.EqualFunc(got, want, func(a, b Record) bool {
		return a.Writer == b.Writer && a.Seq == b.Seq && a.Offset == b.Offset && bytes.Equal(a.Payload, b.Payload)
	}) {
		t.Fatalf("records\n%v\nwant\n%v", brief(got), brief(want))
	}
}

func brief(records []Record) (lines []string) {
	for _, r := range records {
		lines = append(lines, fmt.Sprintf("%d/%d@%d:%.8x", r.Writer, r.Seq, r.Offset, r.Payload))
	}
	return lines
}

// Each acknowledged record comes once and in the order of the file, as soon as it is there, however the file grows,
// reads fail, the buffer is cut and the consumer stops and resumes from the text of its position.
func TestReaderHandsOutEachRecordOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t)
		file := &growing{content: l.content}
		failures := rapid.IntRange(0, 3).Draw(t, "failures")
		file.flaky = func(n int) (int, bool) {
			if failures == 0 || !rapid.Bool().Draw(t, "fail") {
				return 0, false
			}
			failures--
			return rapid.IntRange(0, n-1).Draw(t, "served"), true
		}
		open := func() *Reader {
			r := NewReader(file, WithChunkSize(int64(l.chunk)))
			r.bufferBytes = rapid.SampledFrom([]int{1, 40, 300, 5000, DefaultBufferBytes}).Draw(t, "buffer")
			return r
		}
		reader := open()
		var got []Record
		for file.visible < len(l.content) || failures > 0 {
			file.visible = min(len(l.content), file.visible+rapid.IntRange(0, 1+len(l.content)/2).Draw(t, "grown"))
			more, err := collect(reader.Records(t.Context()), rapid.IntRange(-1, 3).Draw(t, "take"))
			if err != nil && !errors.Is(err, errFlaky) {
				t.Fatalf("error %v", err)
			}
			if file.visible == len(l.content) {
				failures = 0
			}
			got = append(got, more...)
			if rapid.Bool().Draw(t, "resume") {
				text, _ := reader.Position().MarshalText()
				var position Position
				if err := position.UnmarshalText(text); err != nil || position != reader.Position() {
					t.Fatalf("position %s: %v", text, err)
				}
				reader = open()
				reader.SeekTo(position)
			}
			if rapid.Bool().Draw(t, "catch up") {
				more, err := collect(reader.Records(t.Context()), -1)
				got = append(got, more...)
				there := 0
				for there < len(l.ends) && l.ends[there] <= file.visible {
					there++
				}
				if err == nil {
					sameRecords(t, got, l.want[:there])
				}
			}
		}
		rest, err := collect(reader.Records(t.Context()), -1)
		if err != nil {
			t.Fatalf("error %v", err)
		}
		sameRecords(t, append(got, rest...), l.want)
	})
}

// A false header that promises 16 MiB must not hide the records behind it until 16 MiB are there.
func TestReaderDoesNotWaitForAFragment(t *testing.T) {
	torn := encode(t, 1, 1, make([]byte, 10<<20))[:headerBytes-10]
	content := append(torn, encode(t, 1, 2, []byte("behind"))...)
	reader := NewReader(bytes.NewReader(content))
	got, err := collect(reader.Records(t.Context()), -1)
	if err != nil || len(got) != 1 || string(got[0].Payload) != "behind" {
		t.Errorf("records %v, error %v", brief(got), err)
	}
}

func TestReaderWaitsForAnIncompleteRecord(t *testing.T) {
	whole := encode(t, 1, 1, []byte("arriving"))
	for cut := range len(whole) {
		file := &growing{content: whole, visible: cut}
		reader := NewReader(file)
		if got, err := collect(reader.Records(t.Context()), -1); err != nil || len(got) != 0 {
			t.Fatalf("cut at %d: records %v, error %v", cut, brief(got), err)
		}
		file.visible = len(whole)
		if got, err := collect(reader.Records(t.Context()), -1); err != nil || len(got) != 1 {
			t.Fatalf("cut at %d, then whole: records %v, error %v", cut, brief(got), err)
		}
	}
}

func TestReaderTakesTheLongestRecord(t *testing.T) {
	payload := bytes.Repeat([]byte("longest "), MaxPayloadBytes/8)
	whole := encode(t, 1, 1, payload)
	content := make([]byte, gfs.ChunkSize-len(whole))
	content = append(content, whole...)
	content = append(content, encode(t, 1, 2, payload)...)
	got, err := collect(NewReader(bytes.NewReader(content)).Records(t.Context()), -1)
	if err != nil || len(got) != 2 || got[0].Offset != int64(gfs.ChunkSize-len(whole)) || !bytes.Equal(got[1].Payload, payload) {
		t.Errorf("%d records, error %v", len(got), err)
	}
}

// A frame across a chunk boundary can only be garbage, and what looks like one must not swallow the record behind it.
func TestReaderTakesNoRecordAcrossAChunkBoundary(t *testing.T) {
	content := make([]byte, gfs.ChunkSize-10)
	content = append(content, encode(t, 1, 1, []byte("across"))...)
	content = append(content, encode(t, 1, 2, []byte("behind"))...)
	got, err := collect(NewReader(bytes.NewReader(content)).Records(t.Context()), -1)
	if err != nil || len(got) != 1 || string(got[0].Payload) != "behind" {
		t.Errorf("records %v, error %v", brief(got), err)
	}
}

// Every 40 bytes a header promises 16 MiB. Work must stay linear: in quadratic time this takes hours.
func TestReaderIsLinearOnHostileInput(t *testing.T) {
	header := encode(t, 1, 1, make([]byte, MaxPayloadBytes))[:headerBytes]
	content := bytes.Repeat(append(header, "12345678"...), 8<<20/40)
	content = append(content, encode(t, 1, 2, []byte("behind"))...)
	file := &growing{content: content, visible: len(content)}
	start := time.Now()
	got, err := collect(NewReader(file).Records(t.Context()), -1)
	if err != nil || len(got) != 1 || string(got[0].Payload) != "behind" {
		t.Errorf("records %v, error %v", brief(got), err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if file.bytes > int64(len(content)) {
		t.Errorf("read %d bytes of %d", file.bytes, len(content))
	}
}

func TestReaderFromTheMiddleOfAPayload(t *testing.T) {
	inner := encode(t, 9, 9, []byte("inner"))
	outer := encode(t, 1, 1, bytes.Repeat(inner, 10))
	content := append(outer, encode(t, 1, 2, []byte("behind"))...)
	for offset := int64(1); offset <= int64(len(outer)); offset++ {
		reader := NewReader(bytes.NewReader(content))
		reader.SeekTo(PositionAt(offset))
		got, err := collect(reader.Records(t.Context()), -1)
		if err != nil || len(got) != 1 || string(got[0].Payload) != "behind" {
			t.Fatalf("from %d: records %v, error %v", offset, brief(got), err)
		}
	}
}

func TestReaderEndsWithItsContext(t *testing.T) {
	content := append(encode(t, 1, 1, nil), encode(t, 1, 2, nil)...)
	reader := NewReader(bytes.NewReader(content))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []uint64
	var failure error
	for r, err := range reader.Records(ctx) {
		if err != nil {
			failure = err
			continue
		}
		got = append(got, r.Seq)
		cancel()
	}
	if !slices.Equal(got, []uint64{1}) || !errors.Is(failure, context.Canceled) {
		t.Errorf("sequences %v, error %v", got, failure)
	}
	rest, err := collect(reader.Records(t.Context()), -1)
	if err != nil || len(rest) != 1 || rest[0].Seq != 2 {
		t.Errorf("afterwards: records %v, error %v", brief(rest), err)
	}
}

// liar breaks the contract of io.ReaderAt.
type liar int

func (n liar) ReadAt([]byte, int64) (int, error) { return int(n), nil }

func TestReaderSurvivesABrokenSource(t *testing.T) {
	for _, n := range []int{0, -1, 1 << 40} {
		if _, err := collect(NewReader(liar(n)).Records(t.Context()), -1); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("source that reads %d bytes: error %v", n, err)
		}
	}
}

func TestReaderReadsWholeBlocks(t *testing.T) {
	var content []byte
	for seq := range uint64(3000) {
		content = append(content, encode(t, 1, seq+1, make([]byte, 1000))...)
	}
	inside := 0
	file := readerAtFunc(func(p []byte, offset int64) (int, error) {
		if end := offset + int64(len(p)); end < int64(len(content)) && end%gfs.BlockSize != 0 {
			inside++
		}
		return bytes.NewReader(content).ReadAt(p, offset)
	})
	if got, err := collect(NewReader(file).Records(t.Context()), -1); err != nil || len(got) != 3000 || inside != 0 {
		t.Errorf("%d records, error %v, %d reads ended inside a block", len(got), err, inside)
	}
}

type readerAtFunc func(p []byte, offset int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, offset int64) (int, error) { return f(p, offset) }

// The magic that proves a record torn may itself arrive in parts.
func TestReaderSearchesAcrossReads(t *testing.T) {
	content := append(encode(t, 1, 1, make([]byte, 1<<20))[:headerBytes], encode(t, 1, 2, []byte("behind"))...)
	visible := headerBytes + len(magic)/2
	file := readerAtFunc(func(p []byte, offset int64) (int, error) {
		defer func() { visible = len(content) }()
		return bytes.NewReader(content[:visible]).ReadAt(p, offset)
	})
	got, err := collect(NewReader(file).Records(t.Context()), -1)
	if err != nil || len(got) != 1 || string(got[0].Payload) != "behind" {
		t.Errorf("records %v, error %v", brief(got), err)
	}
}
