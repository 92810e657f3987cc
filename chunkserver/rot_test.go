package chunkserver_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// rot flips a byte of a replica's data behind its server's back.
func (r *rig) rot(i int, handle gfs.ChunkHandle, offset int64) {
	r.t.Helper()
	found := false
	err := filepath.WalkDir(r.dirs[i], func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, handle.String()) {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], offset); err != nil {
			return err
		}
		b[0] ^= 0x10
		found = true
		_, err = f.WriteAt(b[:], offset)
		return err
	})
	if err != nil || !found {
		r.t.Fatalf("no data file of chunk %s at server %d: %v", handle, i, err)
	}
}

func TestRottenBlockIsNeitherServedNorWrittenInto(t *testing.T) {
	const handle = gfs.ChunkHandle(4)
	for _, rotten := range []int{0, 1} {
		r := newRig(t, 3)
		version := r.create(handle, 0, 1, 2)
		c := dial(t, r.servers[0].Addr())
		data := pattern(1, 3*gfs.BlockSize)
		must(t, c.write(handle, version, 0, data))
		dial(t, r.servers[rotten].Addr()).readAll(handle, version, int64(len(data))) // it knows that all is committed
		r.rot(rotten, handle, gfs.BlockSize+100)
		told := r.listen(r.subjects.Event(messages.EventChunkCorrupt))

		reply, _ := dial(t, r.servers[rotten].Addr()).read(&pb.Read{Handle: uint64(handle), Offset: gfs.BlockSize + 1, Length: 10})
		if gfs.Code(reply.Code) != gfs.CodeCorrupt {
			t.Fatalf("server %d served a rotten block: %v", rotten, reply)
		}
		corrupt := receive(t, r.reports, "report of corruption", func(m *pb.Report) bool { return m.Kind == pb.Report_CORRUPT })
		if corrupt.Handle != uint64(handle) || corrupt.Accused != string(r.servers[rotten].ID()) {
			t.Fatalf("reported %v", corrupt)
		}
		var event pb.Event
		if err := protojson.Unmarshal(<-told, &event); err != nil {
			t.Fatal(err)
		}
		if event.GetKind() != messages.EventChunkCorrupt || event.GetServer() != corrupt.Accused || event.GetChunk() != handle.String() ||
			event.GetTimeUnixNano() == 0 || event.GetCluster() == "" || event.GetDetail() == "" {
			t.Errorf("the event is %v", &event)
		}

		// A write into the middle of the block cannot be applied there.
		piece := []byte("not on rotten ground")
		answer := c.write(handle, version, gfs.BlockSize+50, piece)
		report := receive(t, r.reports, "report", func(m *pb.Report) bool { return m.Kind != pb.Report_CORRUPT })
		if report.Accused != string(r.servers[rotten].ID()) {
			t.Fatalf("reported %v, want server %d accused", report, rotten)
		}
		members := []int{0, 2}
		if rotten == 0 {
			if got := <-answer; !errors.Is(got.err, gfs.ErrNotPrimary) {
				t.Fatalf("the rotten primary answered %+v", got)
			}
			members = []int{1, 2}
		}
		next := r.reconfigure(handle, version, members...)
		if rotten == 0 {
			answer = dial(t, r.servers[1].Addr()).write(handle, next, gfs.BlockSize+50, piece)
		}
		settled(t, answer, func() <-chan result {
			return dial(t, r.servers[members[0]].Addr()).write(handle, next, gfs.BlockSize+50, piece)
		})
		copy(data[gfs.BlockSize+50:], piece)
		for _, i := range members {
			if got := dial(t, r.servers[i].Addr()).readAll(handle, next, int64(len(data))); !bytes.Equal(got, data) {
				t.Fatalf("server %d holds other bytes", i)
			}
		}
	}
}

// listen hands out what is published on a subject from now on.
func (r *rig) listen(subject string) <-chan []byte {
	r.t.Helper()
	conn, err := nats.Connect(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(conn.Close)
	arrived := make(chan []byte, 16)
	_, err = conn.Subscribe(subject, func(m *nats.Msg) { arrived <- m.Data })
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return arrived
}

// TestAPrimaryThatCannotReadItsOwnBlockAccusesNobody: a member lacks what is in a block that has rotted at the primary. The
// member is not to blame: left out, with the primary corrupt, nothing would be left.
func TestAPrimaryThatCannotReadItsOwnBlockAccusesNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	const handle = gfs.ChunkHandle(4)
	version := r.create(handle, 0, 1)
	must(t, dial(t, r.servers[0].Addr()).write(handle, version, 0, pattern(1, 2*gfs.BlockSize)))
	second := r.reconfigure(handle, version, 0) // the other one misses a change in the second block
	must(t, dial(t, r.servers[0].Addr()).write(handle, second, gfs.BlockSize, pattern(2, 100)))
	r.rot(0, handle, gfs.BlockSize+5000)
	third := r.nextVersion()
	for i := range 2 {
		if _, err := r.prepare(i, handle, third, second); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := r.grant(handle, third, 0, 1); gfs.CodeOf(err) != gfs.CodeCorrupt {
		t.Fatalf("granted: %v, %v", reply, err)
	}
	receive(t, r.reports, "report", func(m *pb.Report) bool {
		return m.Kind == pb.Report_CORRUPT && m.Accused == string(r.servers[0].ID())
	})
}

// TestALastBlockThatNobodyHas: the last block has rotted while the server was down, and no other server has it. The replica is
// corrupt then, once, instead of being refused as a primary again and again; its other blocks are served.
func TestALastBlockThatNobodyHas(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	const handle = gfs.ChunkHandle(4)
	version := r.create(handle, 0)
	data := pattern(1, gfs.BlockSize+1000)
	writer := dial(t, r.servers[0].Addr())
	must(t, writer.write(handle, version, 0, data[:gfs.BlockSize]))
	must(t, writer.write(handle, version, gfs.BlockSize, data[gfs.BlockSize:])) // and with it that the first one is committed
	r.stop(0)
	r.rot(0, handle, gfs.BlockSize+500)
	r.start(0)
	next := r.nextVersion()
	if _, err := r.prepare(0, handle, next, version); err != nil {
		t.Fatal(err)
	}
	if reply, err := r.grant(handle, next, 0); gfs.CodeOf(err) != gfs.CodeCorrupt && reply.GetAccused() != string(r.servers[0].ID()) {
		t.Fatalf("granted: %v, %v", reply, err)
	}
	receive(t, r.reports, "report", func(m *pb.Report) bool {
		return m.Kind == pb.Report_CORRUPT && m.Accused == string(r.servers[0].ID())
	})
	if reply, err := r.prepare(0, handle, r.nextVersion(), next); err != nil || gfs.ReplicaState(reply.GetState()) != gfs.ReplicaCorrupt {
		t.Fatalf("prepared: %v, %v", reply, err)
	}
	reader := dial(t, r.servers[0].Addr())
	if got := reader.readAll(handle, next, gfs.BlockSize); !bytes.Equal(got, data[:gfs.BlockSize]) {
		t.Fatal("the first block differs")
	}
	if reply, served := reader.read(&pb.Read{Handle: uint64(handle), Offset: gfs.BlockSize, Length: 10}); len(served) > 0 {
		t.Fatalf("served a rotten block: %v", reply)
	}
}
