package chunkserver_test

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
	"google.golang.org/protobuf/proto"
)

// mute is a member of a chain that takes part and then says nothing, as a stopped process does; or, with busy set,
// only that it is alive.
type mute struct {
	listener net.Listener
	busy     bool
	signs    atomic.Int64  // of life, sent
	closing  chan struct{} // the primary has asked to close
	wg       sync.WaitGroup
}

func newMute(t *testing.T, busy bool) *mute {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mute{listener: listener, busy: busy, closing: make(chan struct{}, 1)}
	m.wg.Go(func() {
		for {
			tcp, err := listener.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.serve(tcp) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		m.wg.Wait()
	})
	return m
}

func (m *mute) serve(tcp net.Conn) {
	defer tcp.Close()
	in, out := wire.NewReader(tcp), wire.NewWriter(tcp)
	var write sync.Mutex
	for {
		h, err := in.Next()
		if err != nil {
			return
		}
		if in.Discard() != nil {
			return
		}
		if h.Op == wire.OpChainClose {
			m.closing <- struct{}{}
		}
		if h.Op != wire.OpChainOpen {
			continue
		}
		write.Lock()
		out.Frame(wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}, &pb.ChainOpened{})
		write.Unlock()
		if m.busy {
			m.wg.Go(func() {
				for err := error(nil); err == nil; <-time.After(gfs.BusyInterval) {
					write.Lock()
					err = out.Frame(wire.Header{Op: wire.OpChainAck}, &pb.ChainAck{Busy: true})
					write.Unlock()
					m.signs.Add(1)
				}
			})
		}
	}
}

func (m *mute) member() *pb.Server {
	return &pb.Server{Id: "00000000000000ff", Address: m.listener.Addr().String()}
}

// grantTo makes server 0 the primary of a configuration with members of which not all are chunkservers.
func (r *rig) grantTo(handle gfs.ChunkHandle, version gfs.Version, members []*pb.Server) {
	r.t.Helper()
	reply := &pb.GrantReply{}
	err := r.order(0, "grant", &pb.GrantOrder{
		Header: r.header(0), Handle: uint64(handle), Version: uint64(version), Members: members, LeaseMs: 60000,
	}, reply)
	if err != nil || reply.Accused != "" {
		r.t.Fatalf("grant: %v, %v", reply, err)
	}
}

func TestSilentMemberIsNamedWhereverItIs(t *testing.T) {
	t.Parallel()
	for _, position := range []int{1, 2} {
		r := newRig(t, 2)
		silent := newMute(t, false)
		first := r.create(3, 0, 1)
		version := r.nextVersion()
		members := []*pb.Server{r.member(0)}
		for i := range position {
			if _, err := r.prepare(i, 3, version, first); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				members = append(members, r.member(i))
			}
		}
		members = append(members, silent.member())
		r.grantTo(3, version, members)
		began := time.Now()
		answer := dial(t, r.servers[0].Addr()).append(3, version, 1, 1, []byte("anybody there?"))
		report := receive(t, r.reports, "report", func(m *pb.Report) bool { return m.Handle == 3 })
		took := time.Since(began)
		if report.Accused != silent.member().Id || gfs.Version(report.Version) != version || report.Kind != pb.Report_UNREACHABLE {
			t.Fatalf("position %d: reported %v", position, report)
		}
		if took < gfs.MemberSilence {
			t.Errorf("position %d: accused after %s", position, took)
		}
		t.Logf("position %d: accused after %s", position, took)
		next := r.reconfigure(3, version, 0)
		again := func() <-chan result {
			return dial(t, r.servers[0].Addr()).append(3, next, 1, 1, []byte("anybody there?"))
		}
		if got := settled(t, answer, again); got.offset != 0 {
			t.Fatalf("position %d: %+v", position, got)
		}
	}
}

func TestBusyMemberIsNotAccused(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	busy := newMute(t, true)
	first := r.create(3, 0)
	version := r.nextVersion()
	if _, err := r.prepare(0, 3, version, first); err != nil {
		t.Fatal(err)
	}
	r.grantTo(3, version, []*pb.Server{r.member(0), busy.member()})
	answer := dial(t, r.servers[0].Addr()).append(3, version, 1, 1, []byte("no hurry"))
	select {
	case report := <-r.reports:
		t.Fatalf("a busy member was reported: %v", report)
	case got := <-answer:
		t.Fatalf("answered without the member: %+v", got)
	case <-time.After(3 * gfs.MemberSilence):
	}
	next := r.reconfigure(3, version, 0)
	settled(t, answer, func() <-chan result {
		return dial(t, r.servers[0].Addr()).append(3, next, 1, 1, []byte("no hurry"))
	})
}

// A primary that lacks a member and does not reach the master sends its clients there: they may reach it, and another
// may be the primary by now.
func TestClientsOfAPrimaryWithoutAMasterHearOfIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.deaf.Store(true)
	silent := newMute(t, false)
	first := r.create(3, 0)
	version := r.nextVersion()
	if _, err := r.prepare(0, 3, version, first); err != nil {
		t.Fatal(err)
	}
	r.grantTo(3, version, []*pb.Server{r.member(0), silent.member()})
	answer := dial(t, r.servers[0].Addr()).append(3, version, 1, 1, []byte("anybody there?"))
	receive(t, r.reports, "report", func(m *pb.Report) bool { return m.Handle == 3 })
	began := time.Now()
	got := <-answer
	if took := time.Since(began); gfs.CodeOf(got.err) != gfs.CodeNotPrimary || took > 3*gfs.PrepareSilence {
		t.Fatalf("%+v %v after the report", got, took)
	}
	began = time.Now()
	got = <-dial(t, r.servers[0].Addr()).append(3, version, 2, 1, []byte("anybody there now?"))
	if took := time.Since(began); gfs.CodeOf(got.err) != gfs.CodeNotPrimary || took > gfs.ReportInterval/2 {
		t.Fatalf("once more: %+v after %v", got, took)
	}
	r.deaf.Store(false)
	next := r.reconfigure(3, version, 0)
	if got := must(t, dial(t, r.servers[0].Addr()).append(3, next, 1, 1, []byte("anybody there?"))); got.offset != 0 {
		t.Fatalf("the retry got %+v", got)
	}
}

// A primary that promised another version and is not granted it keeps nobody waiting for long: another was.
func TestClientsOfAFencedPrimaryHearOfIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	first := r.create(3, 0)
	c := dial(t, r.servers[0].Addr())
	must(t, c.append(3, first, 1, 1, []byte("before")))
	if _, err := r.prepare(0, 3, r.nextVersion(), first); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := <-c.append(3, first, 1, 2, []byte("behind"))
	if took := time.Since(began); gfs.CodeOf(got.err) != gfs.CodeNotPrimary || took > 1500*time.Millisecond {
		t.Fatalf("%+v after %v", got, took)
	}
}

func TestOrphanedServerSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.create(3, 0)
	c := dial(t, r.servers[0].Addr())
	if reply, _ := c.read(&pb.Read{Handle: 3}); reply.Orphaned {
		t.Fatal("orphaned while a master answers")
	}
	r.silent.Store(true)
	r.skip(gfs.OrphanSilence)
	for deadline := time.Now().Add(3 * gfs.OrphanSilence); ; <-time.After(50 * time.Millisecond) {
		if reply, _ := c.read(&pb.Read{Handle: 3}); reply.Orphaned {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("never orphaned")
		}
	}
}

// TestSignsOfLifeWhileClosing: a primary that closes has given up its order of mutations, and its successor may still
// say that it is alive.
func TestSignsOfLifeWhileClosing(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	busy := newMute(t, true)
	first := r.create(3, 0)
	version := r.nextVersion()
	if _, err := r.prepare(0, 3, version, first); err != nil {
		t.Fatal(err)
	}
	r.grantTo(3, version, []*pb.Server{r.member(0), busy.member()})
	r.skip(gfs.CloseAfterIdle)
	<-busy.closing
	for before := busy.signs.Load(); busy.signs.Load() < before+3; <-time.After(10 * time.Millisecond) {
	}
	r.reconfigure(3, version, 0)
	must(t, dial(t, r.servers[0].Addr()).append(3, gfs.NewVersion(1, r.attempt.Load()), 1, 1, []byte("still here")))
}

// sooner reports whether something goes well in less time than patient pings take: a busy machine, on which silence says
// nothing, may need several tries.
func sooner(try func() bool) bool {
	for range 8 {
		if began := time.Now(); try() && time.Since(began) < 2*gfs.MemberSilence {
			return true
		}
	}
	return false
}

// An order for a server that the master does not reach goes by way of another one.
func TestAPrepareIsPassedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	first := r.create(3, 0, 1)
	must(t, dial(t, r.servers[0].Addr()).append(3, first, 1, 1, []byte("before")))
	relay := func(to *pb.Server, prepare *pb.PrepareOrder) (*pb.PrepareReply, error) {
		reply := &pb.PrepareReply{}
		return reply, r.order(0, messages.CommandRelay, &pb.RelayOrder{Header: r.header(0), To: to, Prepare: prepare}, reply)
	}
	version := r.nextVersion()
	prepare := &pb.PrepareOrder{Header: r.header(1), Handle: 3, Version: uint64(version), FromVersion: uint64(first)}
	reply, err := relay(r.member(1), prepare)
	if err != nil {
		t.Fatal(err)
	}
	if direct, err := r.prepare(0, 3, version, first); err != nil || gfs.Version(reply.Promised) != version || reply.Length != 6 ||
		reply.State != direct.State || !bytes.Equal(reply.Digest, direct.Digest) {
		t.Fatalf("passed on: %v; directly: %v, %v", reply, direct, err)
	}
	if granted, err := r.grant(3, version, 0, 1); err != nil || granted.Accused != "" {
		t.Fatalf("grant: %v, %v", granted, err)
	}
	must(t, dial(t, r.servers[0].Addr()).append(3, version, 1, 2, []byte("behind")))

	stopped, old := newMute(t, false).member(), proto.CloneOf(prepare)
	old.Header.Incarnation++
	for _, c := range []struct {
		what    string
		to      *pb.Server
		prepare *pb.PrepareOrder
		want    gfs.Code
	}{
		{"once more", r.member(1), prepare, gfs.CodeStaleVersion},
		{"for another process", r.member(1), old, gfs.CodeWrongIncarnation},
		{"for nobody", stopped, prepare, gfs.CodeUnavailable},
		{"for itself", r.member(0), prepare, gfs.CodeInvalid},
		{"no order", r.member(1), nil, gfs.CodeInvalid},
	} {
		began := time.Now()
		if _, err := relay(c.to, c.prepare); gfs.CodeOf(err) != c.want || time.Since(began) >= gfs.PrepareTimeout {
			t.Errorf("%s: %v after %v, want code %v", c.what, err, time.Since(began), c.want)
		}
	}
}

// A server that is asked says who gives it no sign of life: one that is stopped, and one that is gone.
func TestProbe(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	stopped := newMute(t, false).member()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := &pb.Server{Id: "00000000000000fe", Address: listener.Addr().String()}
	listener.Close()
	const bound = 10 * gfs.MemberSilence // two pings' patience, and what a busy machine adds to it
	for _, c := range []struct {
		servers, silent []*pb.Server
	}{
		{nil, nil},
		{[]*pb.Server{r.member(1), gone}, []*pb.Server{gone}},
		{[]*pb.Server{stopped, r.member(1), gone}, []*pb.Server{stopped, gone}},
	} {
		began := time.Now()
		reply := &pb.ProbeReply{}
		if err := r.order(0, messages.CommandProbe, &pb.ProbeOrder{Header: r.header(0), Servers: c.servers}, reply); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		var want []string
		for _, s := range c.silent {
			want = append(want, s.Id)
		}
		slices.Sort(want)
		slices.Sort(reply.Silent)
		if !slices.Equal(reply.Silent, want) || took > bound {
			t.Errorf("probe of %v: silent are %v after %v, want %v within %v", c.servers, reply.Silent, took, want, bound)
		}
	}
	soon := sooner(func() bool {
		reply := &pb.ProbeReply{}
		order := &pb.ProbeOrder{Header: r.header(0), Servers: []*pb.Server{stopped, r.member(1)}, Doubted: []string{stopped.Id, r.member(1).Id}}
		if err := r.order(0, messages.CommandProbe, order, reply); err != nil {
			t.Fatal(err)
		}
		return slices.Equal(reply.Silent, []string{stopped.Id})
	})
	if !soon {
		t.Error("one that was found silent before has more than one ping to answer")
	}
	many := make([]*pb.Server, gfs.MaxReplicas+1)
	for i := range many {
		many[i] = r.member(1)
	}
	if err := r.order(0, messages.CommandProbe, &pb.ProbeOrder{Header: r.header(0), Servers: many}, &pb.ProbeReply{}); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("probe of %d servers: %v", len(many), err)
	}
}
