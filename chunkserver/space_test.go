package chunkserver_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// onDisk is how many bytes of disk a chunk's data file takes at a server.
func (r *rig) onDisk(i int, handle gfs.ChunkHandle) int64 {
	r.t.Helper()
	name := handle.String()
	info, err := os.Stat(filepath.Join(r.dirs[i], "chunks", name[len(name)-2:], name))
	if err != nil {
		r.t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// A chunk that is made for a stream has its space before the first byte comes, and gives back what it did not use.
func TestAStreamsChunkHasItsSpace(t *testing.T) {
	r := newRig(t, 1)
	const handle = gfs.ChunkHandle(9)
	version := r.nextVersion()
	err := r.order(0, messages.CommandCreate, &pb.CreateOrder{
		Header: r.header(0), Handle: uint64(handle), Version: uint64(version), Members: r.members(0), LeaseMs: 60000, Stream: true,
	}, &pb.OrderReply{})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.onDisk(0, handle); n < gfs.ChunkSize {
		t.Fatalf("%d bytes reserved", n)
	}
	must(t, dial(t, r.servers[0].Addr()).write(handle, version, 0, pattern(1, 100_000)))
	r.skip(gfs.CloseAfterIdle)
	select {
	case <-r.closes:
	case <-time.After(10 * time.Second):
		t.Fatal("the chunk was not closed")
	}
	if n := r.onDisk(0, handle); n > 1<<20 {
		t.Fatalf("%d bytes on disk for a closed chunk of 100,000", n)
	}
}
