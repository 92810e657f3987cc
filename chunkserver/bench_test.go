package chunkserver_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// BenchmarkChainWrite writes a stream in pieces of 512 KiB with 8 MiB in flight to chains of three servers.
func BenchmarkChainWrite(b *testing.B) {
	r := newRig(b, 3)
	const piece = gfs.StreamPieceBytes
	data := pattern(1, piece)
	sums := wire.AppendChecksums(nil, 0, data)
	c := dial(b, r.servers[0].Addr())
	b.SetBytes(piece)
	b.ReportAllocs()
	handle, version := gfs.ChunkHandle(0), gfs.Version(0)
	offset := int64(gfs.ChunkSize)
	var pending []<-chan result
	for b.Loop() {
		if offset == gfs.ChunkSize {
			handle++
			version, offset = r.create(handle, 0, 1, 2), 0
		}
		pending = append(pending, c.mutate(&pb.Mutate{
			Handle: uint64(handle), Version: uint64(version), Kind: pb.Mutate_WRITE, Offset: offset, Checksums: sums,
		}, data))
		offset += piece
		if len(pending) == 16 {
			must(b, pending[0])
			pending = pending[1:]
		}
	}
	for _, p := range pending {
		must(b, p)
	}
}

// BenchmarkChainAppend appends records of 1 KiB from 16 producers with 64 in flight each to one chunk after another.
func BenchmarkChainAppend(b *testing.B) {
	r := newRig(b, 3)
	const producers, flight, record = 16, 64, 1024
	data := pattern(1, record)
	sums := wire.AppendChecksums(nil, 0, data)
	b.SetBytes(record)
	b.ReportAllocs()
	b.ResetTimer()
	left := b.N
	for handle := gfs.ChunkHandle(1); left > 0; handle++ {
		n := min(left, (gfs.ChunkSize-1<<20)/record)
		left -= n
		version := r.create(handle, 0, 1, 2)
		var next atomic.Int64
		var wg sync.WaitGroup
		for w := range producers {
			wg.Go(func() {
				c := dial(b, r.servers[0].Addr())
				var sequence uint64
				slots := make(chan struct{}, flight)
				var done sync.WaitGroup
				for next.Add(1) <= int64(n) {
					slots <- struct{}{}
					done.Add(1)
					sequence++
					c.send(wire.OpMutate, &pb.Mutate{
						Handle: uint64(handle), Version: uint64(version), Kind: pb.Mutate_APPEND, Writer: uint64(w + 1), Sequence: sequence,
						Checksums: sums,
					}, func(_ wire.Header, in *wire.Reader) error {
						var reply pb.MutateReply
						if err := in.Decode(&reply); err != nil || reply.Code != 0 {
							b.Errorf("append: %v, %s", err, reply.Detail)
						}
						<-slots
						done.Done()
						return nil
					}, data)
				}
				done.Wait()
			})
		}
		wg.Wait()
	}
}

// BenchmarkRead reads settled blocks in requests of 1 MiB, two ahead, checked by the reader;
// and single blocks all over the chunk, four ahead.
func BenchmarkRead(b *testing.B) {
	r := newRig(b, 1)
	version := r.create(1, 0)
	c := dial(b, r.servers[0].Addr())
	const total, piece = 32 << 20, 1 << 20
	for offset := int64(0); offset < total; offset += piece {
		must(b, c.write(1, version, offset, pattern(uint64(offset), piece)))
	}
	read := func(b *testing.B, bytes int64, ahead int, at func(int) int64) {
		b.SetBytes(bytes)
		b.ReportAllocs()
		slots := make(chan struct{}, ahead)
		buffer := make([]byte, bytes)
		var done sync.WaitGroup
		for i := range b.N {
			slots <- struct{}{}
			done.Add(1)
			offset := at(i)
			c.send(wire.OpRead, &pb.Read{Handle: 1, Version: uint64(version), Offset: offset, Length: bytes}, func(h wire.Header, in *wire.Reader) error {
				defer done.Done()
				var reply pb.ReadReply
				err := in.Decode(&reply)
				if err == nil {
					err = in.Payload(buffer[:h.PayloadBytes])
				}
				if err == nil {
					err = wire.Verify(reply.Checksums, offset, buffer[:h.PayloadBytes])
				}
				<-slots
				return err
			})
		}
		done.Wait()
	}
	b.Run("stream", func(b *testing.B) { read(b, piece, 2, func(i int) int64 { return int64(i) * piece % total }) })
	b.Run("random64K", func(b *testing.B) {
		read(b, gfs.BlockSize, 4, func(i int) int64 { return int64(i*7919) % (total / gfs.BlockSize) * gfs.BlockSize })
	})
}
