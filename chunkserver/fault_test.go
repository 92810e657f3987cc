package chunkserver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

func TestBadChecksumIsRefusedAndNothingIsWritten(t *testing.T) {
	r := newRig(t, 2)
	version := r.create(3, 0, 1)
	c := dial(t, r.servers[0].Addr())
	data := pattern(1, 200_000)
	sums := wire.AppendChecksums(nil, 0, data)
	sums[2]++
	got := <-c.mutate(&pb.Mutate{Handle: 3, Version: uint64(version), Kind: pb.Mutate_WRITE, Checksums: sums}, data)
	if !errors.Is(got.err, gfs.ErrCorrupt) {
		t.Fatalf("a write with a bad checksum: %v", got.err)
	}
	if got := must(t, c.append(3, version, 1, 1, []byte("good"))); got.offset != 0 || got.length != 4 {
		t.Fatalf("the connection or the chunk suffered: %+v", got)
	}
}

func TestGarbageClosesItsConnectionAlone(t *testing.T) {
	r := newRig(t, 1)
	version := r.create(3, 0)
	c := dial(t, r.servers[0].Addr())
	must(t, c.append(3, version, 1, 1, []byte("before")))
	flipped := new(bytes.Buffer)
	if err := wire.NewWriter(flipped).Frame(wire.Header{Op: wire.OpPing, RequestID: 1}, nil); err != nil {
		t.Fatal(err)
	}
	flipped.Bytes()[9] ^= 1
	for _, garbage := range [][]byte{[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), bytes.Repeat([]byte{0xff}, 100), flipped.Bytes()} {
		tcp, err := net.Dial("tcp", r.servers[0].Addr())
		if err != nil {
			t.Fatal(err)
		}
		tcp.SetDeadline(time.Now().Add(5 * time.Second))
		tcp.Write(garbage)
		if n, err := io.Copy(io.Discard, tcp); n != 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("garbage was answered with %d bytes, %v", n, err)
		}
		tcp.Close()
	}
	must(t, c.append(3, version, 1, 2, []byte("after")))
}

func TestRequestsThatMakeNoSenseAreAnswered(t *testing.T) {
	r := newRig(t, 2)
	version := r.create(3, 0, 1)
	primary, member := dial(t, r.servers[0].Addr()), dial(t, r.servers[1].Addr())
	for name, c := range map[string]struct {
		answer <-chan result
		want   error
	}{
		"no chunk":          {primary.append(99, version, 1, 1, []byte("x")), gfs.ErrNotPrimary},
		"a secondary":       {member.append(3, version, 1, 1, []byte("x")), gfs.ErrNotPrimary},
		"another version":   {primary.append(3, version+1, 1, 1, []byte("x")), gfs.ErrStaleVersion},
		"no data":           {primary.append(3, version, 1, 1, nil), gfs.FromCode(gfs.CodeInvalid, "")},
		"beyond the chunk":  {primary.write(3, version, gfs.ChunkSize-1, []byte("xy")), gfs.FromCode(gfs.CodeInvalid, "")},
		"far beyond":        {primary.mutate(&pb.Mutate{Handle: 3, Version: uint64(version), Kind: pb.Mutate_WRITE, Offset: 1<<63 - 1, Checksums: []uint32{1}}, []byte("x")), gfs.FromCode(gfs.CodeInvalid, "")},
		"a negative offset": {primary.mutate(&pb.Mutate{Handle: 3, Version: uint64(version), Kind: pb.Mutate_WRITE, Offset: -1, Checksums: []uint32{1}}, []byte("x")), gfs.FromCode(gfs.CodeInvalid, "")},
		"an unknown kind":   {primary.mutate(&pb.Mutate{Handle: 3, Version: uint64(version), Checksums: []uint32{1}}, []byte("x")), gfs.FromCode(gfs.CodeInvalid, "")},
		"too few checksums": {primary.mutate(&pb.Mutate{Handle: 3, Version: uint64(version), Kind: pb.Mutate_APPEND, Checksums: []uint32{1}}, make([]byte, 70_000)), gfs.FromCode(gfs.CodeInvalid, "")},
	} {
		if got := <-c.answer; gfs.CodeOf(got.err) != gfs.CodeOf(c.want) {
			t.Errorf("%s: %v, want %v", name, got.err, c.want)
		}
	}
}

func TestLostMemberIsReportedAndPendingAppendsAreAnsweredOnce(t *testing.T) {
	r := newRig(t, 3)
	const handle, records = gfs.ChunkHandle(5), 300
	version := r.create(handle, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())
	must(t, c.append(handle, version, 1, 1, pattern(0, 1000)))

	var mu sync.Mutex
	offsets := make(map[int64]int)
	var wg sync.WaitGroup
	started, granted := make(chan struct{}, records), make(chan gfs.Version)
	for i := range records {
		answer := c.append(handle, version, 1, uint64(i+2), pattern(uint64(i+1), 1000))
		started <- struct{}{}
		if i == records/2 {
			r.stop(2)
		}
		wg.Go(func() {
			got := <-answer
			if errors.Is(got.err, gfs.ErrNotPrimary) { // sent away on a slow machine
				got = <-c.append(handle, <-granted, 1, uint64(i+2), pattern(uint64(i+1), 1000))
			}
			mu.Lock()
			defer mu.Unlock()
			if got.err != nil {
				t.Errorf("append %d: %v", i, got.err)
				return
			}
			offsets[got.offset] = i + 1
		})
	}
	report := receive(t, r.reports, "report", func(m *pb.Report) bool { return m.Handle == uint64(handle) })
	if report.Accused != string(r.servers[2].ID()) || gfs.Version(report.Version) != version {
		t.Fatalf("reported %v, want server %s accused in version %s", report, r.servers[2].ID(), version)
	}
	next := r.reconfigure(handle, version, 0, 1)
	all := make(chan struct{})
	go func() {
		for {
			select {
			case granted <- next:
			case <-all:
				return
			}
		}
	}()
	wg.Wait()
	close(all)
	if len(offsets) != records {
		t.Fatalf("%d offsets, want %d", len(offsets), records)
	}
	total := int64(1000 * (records + 1))
	want := dial(t, r.servers[0].Addr()).readAll(handle, next, total)
	if got := dial(t, r.servers[1].Addr()).readAll(handle, next, total); !bytes.Equal(got, want) {
		t.Fatal("the members differ")
	}
	for offset, i := range offsets {
		if !bytes.Equal(want[offset:offset+1000], pattern(uint64(i), 1000)) {
			t.Fatalf("record %d is not at offset %d", i, offset)
		}
	}
	// The chunk goes on, and a retry of an old append gets its old place.
	c = dial(t, r.servers[0].Addr())
	if got := must(t, c.append(handle, next, 1, records+1, pattern(records, 1000))); offsets[got.offset] != records {
		t.Errorf("a retry got offset %d, which is that of record %d", got.offset, offsets[got.offset])
	}
	if got := <-c.append(handle, next, 1, 1, pattern(0, 1000)); !errors.Is(got.err, gfs.ErrOutcomeUnknown) {
		t.Errorf("a retry of what is forgotten: %+v", got)
	}
	if got := must(t, c.append(handle, next, 1, records+2, pattern(9, 10))); got.offset != total {
		t.Errorf("the next append is at %d, want %d", got.offset, total)
	}
}

func TestRetriesFindTheirAppendsAtAnotherPrimary(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(5)
	version := r.create(handle, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())
	offsets := make(map[uint64]int64)
	for i := range uint64(50) {
		offsets[i+1] = must(t, c.append(handle, version, 77, i+1, pattern(i, 500))).offset
	}
	next := r.reconfigure(handle, version, 1, 2)
	c = dial(t, r.servers[1].Addr())
	for i := range uint64(50) {
		if got := must(t, c.append(handle, next, 77, i+1, pattern(i, 500))); got.offset != offsets[i+1] {
			t.Fatalf("append %d is at %d now, was at %d", i+1, got.offset, offsets[i+1])
		}
	}
	if got := must(t, c.append(handle, next, 77, 51, pattern(51, 500))); got.offset != 50*500 {
		t.Fatalf("the next append is at %d", got.offset)
	}
	if got := <-dial(t, r.servers[0].Addr()).append(handle, version, 77, 52, pattern(52, 500)); got.err == nil {
		t.Fatal("the old primary acknowledged an append that no other member has")
	}
}

func TestReconcileMakesAStaleMemberEqual(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(5)
	version := r.create(handle, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())
	data := pattern(1, 3_000_000)
	must(t, c.write(handle, version, 0, data))
	// Server 2 misses a version in which the middle and the end change.
	second := r.reconfigure(handle, version, 0, 1)
	copy(data[1_000_000:], pattern(2, 200_000))
	must(t, c.write(handle, second, 1_000_000, data[1_000_000:1_200_000]))
	tail := pattern(3, 70_000)
	must(t, c.append(handle, second, 4, 1, tail))
	data = append(data, tail...)

	third := r.nextVersion()
	for i := range 3 {
		if _, err := r.prepare(i, handle, third, second); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := r.grant(handle, third, 0, 2, 1); err != nil || reply.Accused != "" || reply.Length != int64(len(data)) {
		t.Fatalf("grant: %v, %v", reply, err)
	}
	for i := range 3 {
		if got := dial(t, r.servers[i].Addr()).readAll(handle, third, int64(len(data))); !bytes.Equal(got, data) {
			t.Fatalf("server %d holds other bytes", i)
		}
	}
	final := r.reconfigure(handle, third, 2)
	if got := must(t, dial(t, r.servers[2].Addr()).append(handle, final, 4, 1, tail)); got.offset != 3_000_000 {
		t.Fatalf("the reconciled member does not remember the append: offset %d", got.offset)
	}
}

func TestStaleOrdersAreRefused(t *testing.T) {
	r := newRig(t, 1)
	version := r.create(3, 0)
	next := r.reconfigure(3, version, 0)
	if _, err := r.prepare(0, 3, next, version); !errors.Is(err, gfs.ErrStaleVersion) {
		t.Errorf("a version that is promised already: %v", err)
	}
	order := &pb.PrepareOrder{Header: r.header(0), Handle: 3, Version: uint64(next + 1), FromVersion: uint64(next)}
	order.Header.Incarnation++
	if err := r.order(0, messages.CommandPrepare, order, &pb.PrepareReply{}); !errors.Is(err, gfs.ErrWrongIncarnation) {
		t.Errorf("an order for another incarnation: %v", err)
	}
	r.epoch.Store(5)
	r.attempt.Store(0)
	last := r.reconfigure(3, next, 0)
	r.epoch.Store(4)
	if _, err := r.prepare(0, 3, last+1, last); !errors.Is(err, gfs.ErrStaleEpoch) {
		t.Errorf("an order of a replaced master: %v", err)
	}
	if _, err := r.prepare(0, 99, gfs.NewVersion(5, 9), 0); !errors.Is(err, gfs.ErrStaleEpoch) {
		t.Errorf("an order of a replaced master: %v", err)
	}
	r.epoch.Store(5)
	if _, err := r.prepare(0, 99, gfs.NewVersion(5, 9), 0); !errors.Is(err, gfs.ErrNoReplica) {
		t.Errorf("a chunk that is not here: %v", err)
	}
}

func TestFullChunkIsPaddedOnEveryMember(t *testing.T) {
	r := newRig(t, 2)
	const handle = gfs.ChunkHandle(8)
	version := r.create(handle, 0, 1)
	c := dial(t, r.servers[0].Addr())
	must(t, c.write(handle, version, gfs.ChunkSize-1000, pattern(1, 100)))
	if got := <-c.append(handle, version, 1, 1, pattern(2, 2000)); !errors.Is(got.err, gfs.ErrChunkFull) {
		t.Fatalf("an append that does not fit: %v", got.err)
	}
	if got := <-c.append(handle, version, 1, 2, pattern(2, 2)); !errors.Is(got.err, gfs.ErrChunkFull) {
		t.Fatalf("an append to a full chunk: %v", got.err)
	}
	for i := range 2 {
		s := dial(t, r.servers[i].Addr())
		reply, data := s.read(&pb.Read{Handle: uint64(handle), Offset: gfs.ChunkSize - 1000, Length: 5000})
		for reply.CommitLength < gfs.ChunkSize {
			reply, data = s.read(&pb.Read{Handle: uint64(handle), Offset: gfs.ChunkSize - 1000, Length: 5000})
		}
		if want := append(pattern(1, 100), make([]byte, 900)...); !bytes.Equal(data, want) {
			t.Errorf("server %d: the chunk's end is not padding", i)
		}
	}
}

func TestIdleChunkIsClosedAndSurvivesRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(6)
	version := r.create(handle, 0, 1, 2)
	data := pattern(1, 500_000)
	must(t, dial(t, r.servers[0].Addr()).write(handle, version, 0, data))
	r.skip(gfs.CloseAfterIdle)
	closed := receive(t, r.closes, "close", func(m *pb.CloseRequest) bool { return m.Handle == uint64(handle) })
	if gfs.Version(closed.Version) != version || closed.Length != int64(len(data)) {
		t.Fatalf("closed as %v", closed)
	}
	for i := range 3 {
		r.stop(i)
		r.start(i)
		c := dial(t, r.servers[i].Addr())
		if got := c.readAll(handle, version, int64(len(data))); !bytes.Equal(got, data) {
			t.Fatalf("server %d lost bytes", i)
		}
		if reply, _ := c.read(&pb.Read{Handle: uint64(handle), Length: 1}); !reply.EndKnown {
			t.Errorf("server %d does not know the end of a closed chunk", i)
		}
	}
	next := r.reconfigure(handle, version, 2, 1, 0)
	if got := must(t, dial(t, r.servers[2].Addr()).append(handle, next, 1, 1, data)); got.offset != int64(len(data)) {
		t.Fatalf("appended at %d", got.offset)
	}
}

func TestUnsyncedAppendsSurviveARestart(t *testing.T) {
	r := newRig(t, 2)
	const handle = gfs.ChunkHandle(6)
	version := r.create(handle, 0, 1)
	c := dial(t, r.servers[0].Addr())
	for i := range uint64(20) {
		must(t, c.append(handle, version, 3, i+1, pattern(i, 999)))
	}
	for i := range 2 {
		r.stop(i)
		r.start(i)
	}
	if got := <-dial(t, r.servers[0].Addr()).append(handle, version, 3, 21, pattern(0, 10)); !errors.Is(got.err, gfs.ErrNotPrimary) {
		t.Fatalf("a restarted primary took a mutation: %v", got.err)
	}
	next := r.reconfigure(handle, version, 1, 0)
	c = dial(t, r.servers[1].Addr())
	if got := must(t, c.append(handle, next, 3, 20, pattern(19, 999))); got.offset != 19*999 {
		t.Fatalf("the last append is at %d", got.offset)
	}
	if got := must(t, c.append(handle, next, 3, 21, pattern(0, 10))); got.offset != 20*999 {
		t.Fatalf("the next append is at %d", got.offset)
	}
}

func TestSyncReachesEveryMember(t *testing.T) {
	r := newRig(t, 3)
	version := r.create(4, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())
	must(t, c.mutate(&pb.Mutate{Handle: 4, Version: uint64(version), Kind: pb.Mutate_APPEND, Writer: 1, Sequence: 1, Synced: true}, []byte("durable")))
	must(t, c.append(4, version, 1, 2, []byte("not yet")))
	var reply pb.SyncChunkReply
	if c.call(wire.OpSync, &pb.SyncChunk{Handle: 4, Version: uint64(version)}, &reply); reply.Code != 0 {
		t.Fatalf("sync: %s", reply.Detail)
	}
	if c.call(wire.OpSync, &pb.SyncChunk{Handle: 4, Version: 1}, &reply); gfs.Code(reply.Code) != gfs.CodeStaleVersion {
		t.Fatalf("sync in another version: %v", &reply)
	}
}

func TestHeartbeatsStateLeasesAndInventory(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	for handle := range gfs.ChunkHandle(5) {
		r.create(handle+1, 0, 1)
	}
	me := string(r.servers[0].ID())
	beat := receive(t, r.heartbeats, "heartbeat with leases", func(m *pb.Heartbeat) bool { return m.Server.Id == me && len(m.Leases) == 5 })
	if len(beat.Leases[0].Members) != 2 || beat.Leases[0].Version == 0 || beat.Chunks != 5 || beat.CapacityBytes == 0 || beat.Incarnation == 0 {
		t.Errorf("heartbeat %v", beat)
	}
	if len(beat.Slice.Replicas) != 5 || beat.Slice.FirstHandle != 0 || !beat.Slice.Last {
		t.Errorf("slice %v", beat.Slice)
	}
	r.wantPages.Store(true)
	page := receive(t, r.pages, "inventory", func(m *pb.InventoryPage) bool { return m.Server == me })
	if len(page.Replicas) != 5 || page.Inventory == 0 || !page.Last {
		t.Errorf("page %v", page)
	}
	receive(t, r.heartbeats, "heartbeat that knows of the inventory", func(m *pb.Heartbeat) bool { return m.Server.Id == me && m.InventorySequence == page.Inventory })
	if err := r.order(0, messages.CommandReport, &pb.InventoryOrder{Header: r.header(0)}, &pb.OrderReply{}); err != nil {
		t.Error(err)
	}
	receive(t, r.pages, "inventory that was ordered", func(m *pb.InventoryPage) bool { return m.Server == me && m.Inventory > page.Inventory })
}

func TestDeleteIsCompareAndDelete(t *testing.T) {
	r := newRig(t, 1)
	version := r.create(3, 0)
	stated := &pb.ReplicaStatus{Handle: 3, Promised: uint64(version), Active: uint64(version), State: uint32(gfs.ReplicaMember), Marked: true}
	erase := func() {
		if err := r.order(0, messages.CommandDelete, &pb.DeleteOrder{Header: r.header(0), Replicas: []*pb.ReplicaStatus{stated}}, &pb.DeleteReply{}); err != nil {
			t.Error(err)
		}
	}
	c := dial(t, r.servers[0].Addr())
	erase()
	if reply, _ := c.read(&pb.Read{Handle: 3}); reply.Code != 0 {
		t.Fatalf("a replica that is open here was deleted: %s", reply.Detail)
	}
	next := r.nextVersion()
	if _, err := r.prepare(0, 3, next, version); err != nil {
		t.Fatal(err)
	}
	erase()
	if reply, _ := c.read(&pb.Read{Handle: 3}); reply.Code != 0 {
		t.Fatalf("a replica that has changed was deleted: %s", reply.Detail)
	}
	stated.Promised = uint64(next)
	erase()
	if reply, _ := c.read(&pb.Read{Handle: 3}); gfs.Code(reply.Code) != gfs.CodeNoReplica {
		t.Fatalf("not deleted: %v", reply)
	}
	// The order that made it comes once more.
	again := &pb.CreateOrder{Header: r.header(0), Handle: 3, Version: uint64(version), Members: r.members(0), LeaseMs: 60000}
	if err := r.order(0, messages.CommandCreate, again, &pb.OrderReply{}); gfs.CodeOf(err) != gfs.CodeExist {
		t.Fatalf("created anew: %v", err)
	}
}

// TestAClosedChunkIsNotCreatedAgain: the order that made a chunk comes once more when it was closed, empty.
func TestAClosedChunkIsNotCreatedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	version := r.create(3, 0)
	again := &pb.CreateOrder{Header: r.header(0), Handle: 3, Version: uint64(version), Members: r.members(0), LeaseMs: 60000}
	if err := r.order(0, messages.CommandCreate, again, &pb.OrderReply{}); err != nil {
		t.Fatalf("the same order again, while it is open: %v", err)
	}
	r.skip(gfs.CloseAfterIdle)
	receive(t, r.closes, "close", func(m *pb.CloseRequest) bool { return m.Handle == 3 })
	if err := r.order(0, messages.CommandCreate, again, &pb.OrderReply{}); gfs.CodeOf(err) != gfs.CodeExist {
		t.Fatalf("when it was closed: %v", err)
	}
}

func TestListenerBeyondLoopbackIsRefused(t *testing.T) {
	r := newRig(t, 0)
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		cs, err := chunkserver.Start(context.Background(), chunkserver.Config{
			Dirs: []string{t.TempDir()}, Cluster: testCluster, NATS: r.url, Log: testLog(t), Listen: address,
		})
		if err == nil {
			cs.Close()
		}
		if gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("listening on %s: %v", address, err)
		}
	}
}
