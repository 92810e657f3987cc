package store

import (
	"bytes"
	"testing"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

func FuzzParseRecord(f *testing.F) {
	f.Add(appendRecord(nil, &record{
		kind: recordProgress, state: gfs.ReplicaMember, sequence: 4, length: 70000, commit: 5, active: v(1), first: 1,
		crcs: []uint32{7}, appends: []mutation.Append{appendOf(1, 2, 3, 4)}, dropped: []gfs.WriterID{9},
	}))
	f.Add(appendRecord(nil, &record{kind: recordIntent, state: gfs.ReplicaMember, intents: []intent{{3, 4}, {5, 6}}}))
	f.Add(appendRecord(nil, &record{kind: recordSync, state: gfs.ReplicaMember, length: 9, crcs: []uint32{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A checksum keeps a fuzzer out, so it gets the right one.
		if size := recordSize(b); size > 0 && size <= len(b) {
			b = bytes.Clone(b)
			sum := checksum(b[4:size])
			b[0], b[1], b[2], b[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		}
		r, size, err := parseRecord(b)
		if err != nil {
			return
		}
		again, n, err := parseRecord(appendRecord(nil, &r))
		if err != nil || n != size || again.length != r.length || len(again.crcs) != len(r.crcs) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
		s := &sums{sequence: r.sequence - 1, table: &mutation.Table{}}
		(&replay{sums: s}).step(r)
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	s := &sums{handle: 1, sequence: 2, length: gfs.BlockSize + 1, commit: 3, active: v(1), state: gfs.ReplicaMember, table: &mutation.Table{}}
	f.Add(appendCheckpoint(nil, s))
	s.unknown.add(1)
	s.named.add(1)
	s.table.Add(mutation.Entry{Writer: 1, Sequence: 2}, 0)
	f.Add(appendCheckpoint(nil, s))
	f.Fuzz(func(t *testing.T, b []byte) {
		if size, _, err := checkpointSize(b); err == nil && size <= len(b) {
			b = bytes.Clone(b)
			sum := checkpointChecksum(b[:size])
			b[12], b[13], b[14], b[15] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		}
		s, size, err := parseCheckpoint(b)
		if err != nil {
			return
		}
		again, n, err := parseCheckpoint(appendCheckpoint(nil, s))
		if err != nil || n > size || again.length != s.length || !again.table.Equal(s.table) || again.unknown != s.unknown {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

func FuzzReplayFile(f *testing.F) {
	s := &sums{handle: 1, sequence: 2, state: gfs.ReplicaMember, table: &mutation.Table{}}
	b := appendCheckpoint(nil, s)
	b = appendRecord(b, &record{kind: recordProgress, state: gfs.ReplicaMember, sequence: 3, length: 5, crcs: []uint32{1}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := replayFile(bytes.NewReader(b), int64(len(b)), true)
		if err == nil && (p.sums.length < 0 || p.sums.length > gfs.ChunkSize || p.end > regionBytes) {
			t.Fatalf("out of bounds: %+v", p)
		}
	})
}

func FuzzParseRow(f *testing.F) {
	f.Add(appendRow(nil, 1, row{promised: v(1), state: gfs.ReplicaMember, marked: true, length: 5}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == rowBytes {
			b = bytes.Clone(b)
			sum := rowChecksum(1, b[:rowBytes-4])
			b[44], b[45], b[46], b[47] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		}
		r, err := parseRow(1, b)
		if err != nil {
			return
		}
		if again, err := parseRow(1, appendRow(nil, 1, r)); err != nil || again != r {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzParsePatch(f *testing.F) {
	s := &sums{handle: 1, sequence: 2, length: 3, state: gfs.ReplicaMember, table: &mutation.Table{}}
	s.crcs[0] = checksum([]byte("abc"))
	f.Add(append(patchHead(s, []PatchBlock{{Data: []byte("abc")}}), "abc"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, blocks, err := parsePatch(b)
		if err != nil {
			return
		}
		for _, block := range blocks {
			if checksum(block.Data) != s.crcs[block.Index] {
				t.Fatalf("block %d", block.Index)
			}
		}
	})
}
