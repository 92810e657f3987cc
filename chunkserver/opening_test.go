package chunkserver_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// opener is a member that answers the attempts to open a chain with the codes given, and then no longer. One that is
// alive answers pings.
func opener(t *testing.T, alive bool, codes ...gfs.Code) (member *pb.Server, silent <-chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			tcp, err := listener.Accept()
			if err != nil {
				return
			}
			defer tcp.Close()
			h, err := wire.NewReader(tcp).Next()
			switch {
			case err == nil && h.Op == wire.OpPing:
				if alive {
					_ = wire.NewWriter(tcp).Frame(wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}, nil)
				}
			case err != nil || h.Op != wire.OpChainOpen:
				t.Errorf("%s frame, %v", h.Op, err)
			case len(codes) == 0:
				close(asked)
			default:
				reply := wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}
				if err := wire.NewWriter(tcp).Frame(reply, &pb.ChainOpened{Code: uint32(codes[0])}); err != nil {
					t.Error(err)
				}
				codes = codes[1:]
			}
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return &pb.Server{Id: "00000000000000ff", Address: listener.Addr().String()}, asked
}

// grantWith has server 0 promise a version and be granted it with a member that is no chunkserver.
func (r *rig) grantWith(member *pb.Server, doubted ...string) <-chan *pb.GrantReply {
	r.t.Helper()
	first := r.create(3, 0)
	version := r.nextVersion()
	if _, err := r.prepare(0, 3, version, first); err != nil {
		r.t.Fatal(err)
	}
	order := &pb.GrantOrder{
		Header: r.header(0), Handle: 3, Version: uint64(version), Members: []*pb.Server{r.member(0), member}, LeaseMs: 60000,
		Doubted: doubted,
	}
	answer := make(chan *pb.GrantReply, 1)
	go func() {
		reply := &pb.GrantReply{}
		if err := r.order(0, messages.CommandGrant, order, reply); err != nil {
			reply = nil
		}
		answer <- reply
	}()
	return answer
}

func TestAPrimaryThatStopsAccusesNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	member, asked := opener(t, true)
	answer := r.grantWith(member)
	<-asked
	r.stop(0)
	if reply := <-answer; reply != nil {
		t.Fatalf("answered %v", reply)
	}
}

func TestAMemberWithoutRoomIsAskedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	member, asked := opener(t, true, gfs.CodeBusy, gfs.CodeBusy)
	answer := r.grantWith(member)
	select {
	case <-asked:
	case reply := <-answer:
		t.Fatalf("answered %v", reply)
	}
}

// A member that stops before its chain is open is named soon: mutations wait for it. One that is slow has its time.
func TestAMemberThatStopsBeforeItsChainIsOpenIsNamed(t *testing.T) {
	t.Parallel()
	for _, slow := range []bool{false, true} {
		r := newRig(t, 1)
		member, _ := opener(t, slow)
		began := time.Now()
		reply := <-r.grantWith(member)
		took := time.Since(began)
		t.Logf("slow: %t, named after %v", slow, took)
		if reply.GetAccused() != member.Id || took > 9*time.Second || slow != (took > 4*time.Second) {
			t.Fatalf("slow: %t: answered %v after %v", slow, reply, took)
		}
	}
}

// One that was found silent a moment ago is given no second ping; the next one in the chain neither. It is no reason to give
// up one that does answer.
func TestADoubtedMemberIsNamedSooner(t *testing.T) {
	t.Parallel()
	next := sooner(func() bool {
		r := newRig(t, 1)
		member, _ := opener(t, false)
		return (<-r.grantWith(member, member.Id)).GetAccused() == member.Id
	})
	last := sooner(func() bool {
		r := newRig(t, 2)
		member, _ := opener(t, false)
		first := r.create(3, 0, 1)
		version := r.nextVersion()
		for i := range 2 {
			if _, err := r.prepare(i, 3, version, first); err != nil {
				t.Fatal(err)
			}
		}
		reply := &pb.GrantReply{}
		err := r.order(0, messages.CommandGrant, &pb.GrantOrder{
			Header: r.header(0), Handle: 3, Version: uint64(version), Members: []*pb.Server{r.member(0), r.member(1), member}, LeaseMs: 60000,
			Doubted: []string{r.member(1).Id, member.Id},
		}, reply)
		return err == nil && reply.Accused == member.Id
	})
	if !next || !last {
		t.Errorf("named before a second ping: the primary's successor: %t, the last of three: %t", next, last)
	}
	r := newRig(t, 1)
	lively, asked := opener(t, true, gfs.CodeBusy, gfs.CodeBusy)
	answer := r.grantWith(lively, lively.Id)
	select {
	case <-asked:
	case reply := <-answer:
		t.Errorf("one that answers pings: answered %v", reply)
	}
}

// A predecessor that goes while the rest of the chain is being opened leaves no member behind that waits for it: such
// a one would keep its successor waiting too, and its replica could not be deleted.
func TestAPredecessorThatGoesEarlyLeavesNoMember(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	first := r.create(3, 0)
	version := r.nextVersion()
	if _, err := r.prepare(0, 3, version, first); err != nil {
		t.Fatal(err)
	}
	other := dial(t, r.servers[0].Addr())
	var digest pb.DigestReply
	other.call(wire.OpDigest, &pb.Digest{Handle: 3}, &digest)

	above := dial(t, r.servers[0].Addr())
	above.send(wire.OpChainOpen, &pb.ChainOpen{
		Handle: 3, Version: uint64(version), Position: 1, Digest: digest.Digest, Members: []*pb.Server{
			{Id: "00000000000000fe", Address: "127.0.0.1:1"}, r.member(0), {Id: "00000000000000ff", Address: listener.Addr().String()},
		},
	}, func(wire.Header, *wire.Reader) error { return nil })
	below, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	in := wire.NewReader(below)
	h, err := in.Next()
	if err != nil || in.Discard() != nil {
		t.Fatal(err)
	}
	above.close()
	for range 50 { // long enough to be noticed
		other.call(wire.OpDigest, &pb.Digest{Handle: 4}, &digest)
	}
	if err := wire.NewWriter(below).Frame(wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}, &pb.ChainOpened{}); err != nil {
		t.Fatal(err)
	}
	if err := below.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if h, err := in.Next(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%s frame, %v: want the end of the stream", h.Op, err)
	}
}
