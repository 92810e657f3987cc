package namespace

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const benchFiles = 1_000_000

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func mustApply(tb testing.TB, s *State, r *pb.Record) Outcome {
	r.Epoch = uint32(s.epoch)
	out := s.Apply(r)
	if out.Err != nil {
		tb.Fatal(out.Err)
	}
	return out
}

// fileName is the i-th name of 20 bytes: random digits, or in order.
func fileName(i int, random bool) string {
	if random {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		return fmt.Sprintf("%020x", r.Uint64())[0:4] + fmt.Sprintf("%016x", r.Uint64())
	}
	return fmt.Sprintf("file-%011d.dat", i)
}

// fill makes files in 1000 directories, one at a time, as clients with sessions do.
func fill(tb testing.TB, s *State, files int, random bool) {
	mustApply(tb, s, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{}}})
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	for i := range 1000 {
		mustApply(tb, s, &pb.Record{TimeUnixNano: clock, Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{
			Operation: &pb.NamespaceMutation_MakeDirectory{MakeDirectory: &pb.MakeDirectory{Path: fmt.Sprintf("/d%03d", i), Mode: 0o755}}}}})
	}
	for i := range files {
		clock += 12345
		mustApply(tb, s, createRecord(clock, i, random))
		if i%64 == 0 {
			s.View()
		}
	}
}

func createRecord(clock int64, i int, random bool) *pb.Record {
	return &pb.Record{TimeUnixNano: clock, Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{
		Identity: &pb.Identity{User: "root", Groups: []string{"staff"}},
		Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{
			Path: fmt.Sprintf("/d%03d/%s", i%1000, fileName(i, random)), Mode: 0o644, Exclusive: true}}}}}
}

// addChunks gives every file a chunk.
func addChunks(tb testing.TB, s *State, files int) {
	version := uint32(0)
	var next, end gfs.ChunkHandle
	for i := range files {
		if next == end {
			out := mustApply(tb, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: gfs.HandleReservation}}})
			next, end = out.First, out.First+gfs.ChunkHandle(out.Count)
		}
		version++
		mustApply(tb, s, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{
			FileId: uint64(1002 + i), Handle: uint64(next), Version: uint64(gfs.NewVersion(s.epoch, version)), Members: 3}}})
		mustApply(tb, s, &pb.Record{Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{
			Handle: uint64(next), Version: uint64(gfs.NewVersion(s.epoch, version)), Length: 12345}}})
		next++
		if i%64 == 0 {
			s.View()
		}
	}
}

// BenchmarkMemory reports what a file and a chunk cost the master: the growth of the heap with a million files
// of 20-byte names, and then with a chunk in each. Its inode's note of the chunk counts for the chunk.
func BenchmarkMemory(b *testing.B) {
	for _, names := range []string{"sequential", "random"} {
		b.Run(names, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s := New()
				fill(b, s, benchFiles, names == "random")
				files := heap()
				addChunks(b, s, benchFiles)
				chunks := heap()
				b.ReportMetric((files-before)/benchFiles, "B/file")
				b.ReportMetric((chunks-files)/benchFiles, "B/chunk")
				runtime.KeepAlive(s)
				start := time.Now()
				var pages []Page
				bytes := 0
				for p, err := range s.View().Pages() {
					if err != nil {
						b.Fatal(err)
					}
					pages = append(pages, p)
					bytes += len(p.Key) + len(p.Value)
				}
				b.ReportMetric(time.Since(start).Seconds(), "s/checkpoint")
				b.ReportMetric(float64(bytes)/benchFiles, "B/file-on-disk")
				start = time.Now()
				loaded, err := Load(replay(pages))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(start).Seconds(), "s/load")
				if loaded.counts != s.counts {
					b.Fatal("counts differ")
				}
			}
		})
	}
}

// BenchmarkCreate measures one create in a namespace of a million files, by a session with 32 in
// flight, with a view after every 64 as the operation log's batches take it.
func BenchmarkCreate(b *testing.B) {
	for _, names := range []string{"sequential", "random"} {
		b.Run(names, func(b *testing.B) {
			s := New()
			fill(b, s, benchFiles, names == "random")
			mustApply(b, s, record(&pb.NamespaceMutation{Session: &pb.Session{Id: 1}, Operation: &pb.NamespaceMutation_RegisterSession{}}))
			clock, i, sequence := s.clock, benchFiles, uint64(0)
			records := make([]*pb.Record, 0, 1<<16)
			for b.Loop() {
				if len(records) == 0 {
					b.StopTimer()
					for range cap(records) {
						clock += 12345
						records = append(records, createRecord(clock, i, names == "random"))
						i++
					}
					b.StartTimer()
				}
				r := records[len(records)-1]
				records = records[:len(records)-1]
				sequence++
				r.GetMutation().Session = &pb.Session{Id: 1, Sequence: sequence, LowestUnacknowledged: max(sequence, 32) - 31}
				mustApply(b, s, r)
				if len(records)%64 == 0 {
					s.View()
				}
			}
			b.ReportAllocs()
		})
	}
}

// BenchmarkStat measures the lookup of a path among a million files.
func BenchmarkStat(b *testing.B) {
	s := New()
	fill(b, s, benchFiles, true)
	paths := make([]string, 10000)
	for i := range paths {
		n := rand.IntN(benchFiles)
		paths[i] = fmt.Sprintf("/d%03d/%s", n%1000, fileName(n, true))
	}
	view := s.View()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if _, err := view.Stat(nil, paths[i%len(paths)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
