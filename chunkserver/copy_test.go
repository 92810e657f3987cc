package chunkserver_test

import (
	"bytes"
	"testing"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func (r *rig) close(i int, handle gfs.ChunkHandle, version gfs.Version) error {
	return r.order(i, messages.CommandClose, &pb.CloseOrder{Header: r.header(i), Handle: uint64(handle), Version: uint64(version)}, &pb.OrderReply{})
}

// closed waits until a chunk is closed on all members, and returns its length.
func (r *rig) closed(handle gfs.ChunkHandle) int64 {
	r.t.Helper()
	return receive(r.t, r.closes, "close", func(m *pb.CloseRequest) bool { return m.Handle == uint64(handle) }).Length
}

func (r *rig) copy(i int, order *pb.CopyOrder) ([]byte, error) {
	reply := &pb.CopyReply{}
	order.Header = r.header(i)
	err := r.order(i, messages.CommandCopy, order, reply)
	return reply.Digest, err
}

// TestAnOrderToCloseTakesNoWriterByForce closes a chunk while appends stream in: what was acknowledged is in it, and
// what came too late is refused so that the client asks the master.
func TestAnOrderToCloseTakesNoWriterByForce(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(7)
	version := r.create(handle, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())
	must(t, c.append(handle, version, 5, 1, pattern(1, 1000)))
	if err := r.close(1, handle, version); gfs.CodeOf(err) != gfs.CodeConflict {
		t.Errorf("a secondary was told to close: %v", err)
	}
	if err := r.close(0, handle, version+1); gfs.CodeOf(err) != gfs.CodeConflict {
		t.Errorf("another version was to be closed: %v", err)
	}
	var answers []<-chan result
	for i := range 200 {
		answers = append(answers, c.append(handle, version, 5, uint64(2+i), pattern(1, 1000)))
	}
	if err := r.close(0, handle, version); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		answers = append(answers, c.append(handle, version, 6, uint64(1+i), pattern(1, 1000)))
	}
	acknowledged := int64(1)
	for _, answer := range answers {
		switch got := <-answer; gfs.CodeOf(got.err) {
		case gfs.CodeNone:
			acknowledged++
		case gfs.CodeNotPrimary:
		default:
			t.Errorf("an append: %v", got.err)
		}
	}
	if length := r.closed(handle); length != acknowledged*1000 || acknowledged == 251 {
		t.Errorf("closed with %d bytes, %d appends of 1000 were acknowledged", length, acknowledged)
	}
	version = r.reconfigure(handle, version, 1, 2, 0)
	must(t, dial(t, r.servers[1].Addr()).append(handle, version, 5, 900, pattern(2, 10)))
}

// TestCopiesAreCutOrExtended copies a closed chunk to other lengths, and goes on with the copies as with any chunk.
func TestCopiesAreCutOrExtended(t *testing.T) {
	r := newRig(t, 2)
	const source = gfs.ChunkHandle(7)
	version := r.create(source, 0, 1)
	c := dial(t, r.servers[0].Addr())
	want := pattern(1, 3<<20+777)
	for at := 0; at < len(want); at += 1 << 20 {
		must(t, c.write(source, version, int64(at), want[at:min(at+1<<20, len(want))]))
	}
	for i := range 3 { // at 3 MiB and 777, 5777, 10777
		must(t, c.append(source, version, 9, uint64(1+i), pattern(uint64(i), 5000)))
		want = append(want, pattern(uint64(i), 5000)...)
	}
	order := func(handle gfs.ChunkHandle, length int64) *pb.CopyOrder {
		return &pb.CopyOrder{Handle: uint64(handle), Version: uint64(r.nextVersion()), Source: uint64(source), SourceVersion: uint64(version), Length: length}
	}
	if _, err := r.copy(0, order(8, 100)); gfs.CodeOf(err) != gfs.CodeStaleVersion {
		t.Errorf("copy of an open chunk: %v", err)
	}
	if err := r.close(0, source, version); err != nil {
		t.Fatal(err)
	}
	r.closed(source)
	for i, length := range []int64{1, gfs.BlockSize, 3<<20 + 777 + 7000, int64(len(want)), int64(len(want)) + 200_000, gfs.ChunkSize} {
		handle := gfs.ChunkHandle(20 + i)
		made := order(handle, length)
		first, err := r.copy(0, made)
		second, err2 := r.copy(1, made)
		again, err3 := r.copy(1, made)
		if err != nil || err2 != nil || err3 != nil || !bytes.Equal(first, second) || !bytes.Equal(second, again) {
			t.Fatalf("copies of %d bytes: %v, %v, %v: %x, %x, %x", length, err, err2, err3, first, second, again)
		}
		expect := make([]byte, length)
		copy(expect, want)
		for _, s := range r.servers {
			if got := dial(t, s.Addr()).readAll(handle, gfs.Version(made.Version), length); !bytes.Equal(got, expect) {
				t.Fatalf("the copy of %d bytes differs", length)
			}
		}
		// As with any closed chunk, mutations go on in a new version, and the table knows what is left.
		next := r.reconfigure(handle, gfs.Version(made.Version), 0, 1)
		if length == gfs.ChunkSize {
			continue
		}
		for sequence := range uint64(3) {
			end := int64(3<<20 + 777 + 5000*(sequence+1))
			got := must(t, c.append(handle, next, 9, 1+sequence, pattern(sequence, 5000)))
			if kept := end <= length; kept != (got.offset == end-5000) {
				t.Errorf("copy of %d bytes: record %d again is at %d", length, sequence, got.offset)
			}
		}
	}
	bad := order(source, 10)
	if _, err := r.copy(0, bad); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("a copy onto itself: %v", err)
	}
	bad = order(20, 10)
	if _, err := r.copy(0, bad); gfs.CodeOf(err) != gfs.CodeExist {
		t.Errorf("a copy onto another chunk: %v", err)
	}
	bad = order(40, 10)
	bad.Source = 99
	if _, err := r.copy(0, bad); gfs.CodeOf(err) != gfs.CodeNoReplica {
		t.Errorf("a copy of nothing: %v", err)
	}
	// A restart in the middle of everything leaves a copy as it was.
	r.stop(0)
	r.start(0)
	if got := dial(t, r.servers[0].Addr()).readAll(25, 0, 1000); !bytes.Equal(got, want[:1000]) {
		t.Error("after a restart the copy differs")
	}
}
