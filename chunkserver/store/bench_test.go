package store

import (
	"testing"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// pieces writes n pieces of a stream into chunk after chunk; what it costs to open chunks is left out.
func pieces(b *testing.B, n int, withSums bool) {
	s := openStore(b, Config{Dirs: []string{b.TempDir()}})
	data := noise(1, n)
	sums := partSums(0, data)
	if !withSums {
		sums = nil
	}
	b.SetBytes(int64(n))
	b.ReportAllocs()
	var r *Replica
	h, off := gfs.ChunkHandle(0), int64(gfs.ChunkSize)
	b.ResetTimer()
	for range b.N {
		if off+int64(n) > gfs.ChunkSize {
			b.StopTimer()
			if r != nil {
				must(b, s.Delete(h, r.Status()))
				_, err := s.Sweep(s.now())
				must(b, err)
			}
			h, off = h+1, 0
			var err error
			r, err = s.Create(h, v(1))
			must(b, err)
			b.StartTimer()
		}
		if err := r.WriteAt(off, data, sums); err != nil {
			b.Fatal(err)
		}
		off += int64(n)
		if err := r.Advance(Progress{Length: off, Commit: off}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite512KiB(b *testing.B)         { pieces(b, 512<<10, true) }
func BenchmarkWrite512KiBNoSums(b *testing.B)   { pieces(b, 512<<10, false) }
func BenchmarkWrite64KiBUnaligned(b *testing.B) { pieces(b, 60_000, false) }

// BenchmarkOverwrite512KiB goes over one chunk again and again.
func BenchmarkOverwrite512KiB(b *testing.B) {
	s := openStore(b, Config{Dirs: []string{b.TempDir()}})
	data := noise(1, 512<<10)
	sums := partSums(0, data)
	r := filled(b, s, 1, noise(2, 8<<20))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for i := range b.N {
		if err := r.WriteAt(int64(i%16)*int64(len(data)), data, sums); err != nil {
			b.Fatal(err)
		}
	}
}

// appendBatch is what a batch of record appends costs: one write and one record in the log.
func appendBatch(b testing.TB, r *Replica, data []byte, appends []mutation.Append, off int64) int64 {
	for i := range appends {
		a := &appends[i]
		a.Sequence++
		a.Lowest = a.Sequence - min(a.Sequence, 4)
		a.Offset, a.Length = uint32(off)+uint32(i)<<10, 1<<10
	}
	if err := r.WriteAt(off, data, nil); err != nil {
		b.Fatal(err)
	}
	off += int64(len(data))
	if err := r.Advance(Progress{Length: off, Commit: off, Appends: appends}); err != nil {
		b.Fatal(err)
	}
	return off
}

// BenchmarkAppend1KiB appends 1 KiB records of 16 writers, 64 in a batch; the figures are for one record.
func BenchmarkAppend1KiB(b *testing.B) {
	const batch = 64
	s := openStore(b, Config{Dirs: []string{b.TempDir()}})
	data := noise(1, batch<<10)
	appends := make([]mutation.Append, batch)
	var r *Replica
	h, off := gfs.ChunkHandle(0), int64(gfs.ChunkSize)
	b.SetBytes(1 << 10)
	b.ReportAllocs()
	for range b.N / batch {
		if off+int64(len(data)) > gfs.ChunkSize {
			b.StopTimer()
			h, off = h+1, 0
			var err error
			r, err = s.Create(h, v(1))
			must(b, err)
			for i := range appends {
				appends[i] = mutation.Append{Entry: mutation.Entry{Writer: gfs.WriterID(i%16 + 1)}}
			}
			b.StartTimer()
		}
		off = appendBatch(b, r, data, appends, off)
	}
}

// BenchmarkReadAt64KiB reads whole blocks of a closed chunk.
func BenchmarkReadAt64KiB(b *testing.B) {
	s := openStore(b, Config{Dirs: []string{b.TempDir()}})
	r := filled(b, s, 1, noise(1, 4<<20))
	closeChunk(b, s, r)
	buf := make([]byte, gfs.BlockSize)
	b.SetBytes(gfs.BlockSize)
	b.ReportAllocs()
	for i := range b.N {
		if _, err := r.ReadAt(buf, int64(i%64)*gfs.BlockSize); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPromise opens a replica for mutation, alone: one durable commit.
func BenchmarkPromise(b *testing.B) {
	s := openStore(b, Config{Dirs: []string{b.TempDir()}})
	r := filled(b, s, 1, noise(1, 1000))
	for i := range b.N {
		must(b, r.Promise(v(uint32(i+2)), v(uint32(i+1)), false))
	}
}

// The write path allocates nothing, whatever a piece looks like.
func TestWritePathDoesNotAllocate(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}})
	r := filled(t, s, 1, noise(1, 100))
	data := noise(2, 60_000)
	appends := make([]mutation.Append, 32)
	for i := range appends {
		appends[i].Writer = gfs.WriterID(i%16 + 1)
	}
	off := int64(100)
	step := func() { off = appendBatch(t, r, data, appends, off) }
	for range 30 {
		step()
	}
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations for an append", n)
	}
	over := func() {
		if err := r.WriteAt(70_000, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	over()
	if n := testing.AllocsPerRun(50, over); n != 0 {
		t.Errorf("%v allocations for an overwrite", n)
	}
	buf := make([]byte, 100_000)
	if n := testing.AllocsPerRun(50, func() { _, _ = r.ReadAt(buf, 1000) }); n != 0 {
		t.Errorf("%v allocations for a read", n)
	}
}
