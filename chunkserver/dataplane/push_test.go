package dataplane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// noise is n bytes that differ from seed to seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// pushOf is the request that pushes data along a chain.
func pushOf(counter uint64, offset int64, data []byte, rest ...string) *pb.Push {
	return &pb.Push{Handle: uint64(testChunk), Session: 1, Counter: counter, Rest: rest, Offset: offset, Checksums: wire.AppendChecksums(nil, offset, data)}
}

// send sends a push without waiting for its answer.
func (p *peer) send(m *pb.Push, data []byte) {
	p.t.Helper()
	if err := p.out.Frame(wire.Header{Op: wire.OpPush, RequestID: m.Counter}, m, data); err != nil {
		p.t.Fatal(err)
	}
}

// answer waits for the answer to a push.
func (p *peer) answer(m *pb.Push) error {
	p.t.Helper()
	h, err := p.in.Next()
	var reply pb.PushReply
	if err == nil {
		err = p.in.Decode(&reply)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	if h.Op != wire.OpPush || !h.IsReply() || h.RequestID != m.Counter {
		p.t.Fatalf("answer %+v", h)
	}
	return gfs.FromCode(gfs.Code(reply.Code), reply.Detail)
}

func (p *peer) push(m *pb.Push, data []byte) error {
	p.t.Helper()
	p.send(m, data)
	return p.answer(m)
}

// waits reports whether a server has these data for a mutation to come.
func (s *Server) waits(counter uint64, data []byte) bool {
	p := s.pushes.borrow(pushKey{1, counter})
	if p == nil {
		return false
	}
	defer p.release(1)
	return !p.claimed && bytes.Equal(p.buffer.Data, data)
}

func address(s *Server) string { return s.Addr().String() }

func TestPushedDataAreEverywhereOnceAnswered(t *testing.T) {
	a, _ := newServer(t)
	b, _ := newServer(t)
	c, _ := newServer(t)
	p := connect(t, a)
	for i, test := range []struct {
		offset int64
		bytes  int
	}{{0, gfs.SmallMutationBytes}, {100, 700_000}, {gfs.BlockSize - 1, 3 << 20}, {0, 512 << 10}} {
		data, counter := noise(byte(i), test.bytes), uint64(i+1)
		if err := p.push(pushOf(counter, test.offset, data, address(b), address(c)), data); err != nil {
			t.Fatal(err)
		}
		for at, s := range []*Server{a, b, c} {
			if !s.waits(counter, data) {
				t.Errorf("server %d has not got push %d", at, counter)
			}
			if held := s.pushes.positions[at].inUse(); held != i+1 {
				t.Errorf("%d pushes are counted at position %d, want %d", held, at, i+1)
			}
		}
	}
	if n := b.Counters().Connections.Load(); n != 1 {
		t.Errorf("%d connections for one sender", n)
	}
}

// next is a server that a test plays: the one to which pushes go on.
func next(t *testing.T) (address string, accept func() *peer) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String(), func() *peer {
		tcp, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close() })
		tcp.SetDeadline(time.Now().Add(20 * time.Second))
		return &peer{t, tcp, wire.NewReader(tcp), wire.NewWriter(tcp)}
	}
}

// TestPushesGoOnWhileTheyArrive holds back the second half of a push until the next server has the first, and then keeps
// the first server from keeping the data: the second half stays as well.
func TestPushesGoOnWhileTheyArrive(t *testing.T) {
	s, _ := newServer(t)
	onward, accept := next(t)
	data := noise(1, 2*verifyBytes)
	p, m := connect(t, s), pushOf(1, 0, data, onward)
	if err := p.out.Head(wire.Header{Op: wire.OpPush, RequestID: 1}, m, len(data)); err != nil {
		t.Fatal(err)
	}
	p.tcp.Write(data[:verifyBytes])
	q := accept()
	h, err := q.in.Next()
	var passed pb.Push
	if err == nil {
		err = q.in.Decode(&passed)
	}
	if err != nil || h.PayloadBytes != len(data) || passed.Position != 1 || len(passed.Rest) != 0 || passed.Counter != 1 {
		t.Fatalf("passed on as %+v %v: %v", h, &passed, err)
	}
	got := make([]byte, len(data))
	if err := q.in.Payload(got[:verifyBytes]); err != nil {
		t.Fatal(err)
	}
	s.pushes.mu.Lock()
	p.tcp.Write(data[verifyBytes:])
	q.tcp.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if err := q.in.Payload(got[verifyBytes : verifyBytes+1]); err == nil {
		t.Error("all is passed on, and the data are not kept")
	}
	s.pushes.mu.Unlock()
	q.tcp.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err := q.in.Payload(got[verifyBytes:]); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("what was passed on differs (%v)", err)
	}
	if !s.waits(1, data) {
		t.Error("the data are not kept")
	}
	if err := q.out.Frame(wire.Header{Op: wire.OpPush, Flags: wire.FlagReply, RequestID: h.RequestID}, &pb.PushReply{}); err != nil {
		t.Fatal(err)
	}
	if err := p.answer(m); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedDataAreNotPassedOn(t *testing.T) {
	s, _ := newServer(t)
	onward, accept := next(t)
	data := noise(1, 3*verifyBytes)
	p, m := connect(t, s), pushOf(1, 0, data, onward)
	m.Checksums[verifyBytes/gfs.BlockSize]++ // the first block of the second part
	p.send(m, data)
	q := accept()
	if _, err := q.in.Next(); err != nil {
		t.Fatal(err)
	}
	if err := q.in.Payload(make([]byte, verifyBytes)); err != nil {
		t.Fatal(err)
	}
	if err := q.in.Payload(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("behind the last good part: %v", err)
	}
	if err := p.answer(m); !errors.Is(err, gfs.ErrCorrupt) {
		t.Errorf("answered %v", err)
	}
	m = pushOf(2, 0, data)
	m.Checksums[0]++
	if err := p.push(m, data); !errors.Is(err, gfs.ErrCorrupt) {
		t.Errorf("at the end of the chain: %v", err)
	}
	if len(s.pushes.kept) != 0 || s.pushes.positions[0].inUse() != 0 {
		t.Error("damaged data are kept")
	}
	if err := p.push(pushOf(3, 0, data), data); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// TestPushesThatCannotGoOn looks at servers further down that refuse connections, break them, are silent, or refuse the
// data.
func TestPushesThatCannotGoOn(t *testing.T) {
	s, _ := newServer(t)
	data := noise(1, 2*verifyBytes)
	p := connect(t, s)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	if err := p.push(pushOf(1, 0, data, gone.Addr().String()), data); !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), gone.Addr().String()) {
		t.Errorf("nobody there: %v", err)
	}
	breaks, accept := next(t)
	go func() { accept().tcp.Close() }()
	if err := p.push(pushOf(2, 0, data, breaks), data); !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), breaks) {
		t.Errorf("connection broken: %v", err)
	}
	go func() { q := accept(); _, _ = io.Copy(io.Discard, q.tcp) }()
	begun := time.Now()
	if err := p.push(pushOf(3, 0, data, breaks), data); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("silence: %v", err)
	}
	if took := time.Since(begun); took < gfs.PushSilence || took > gfs.PushSilence+5*time.Second {
		t.Errorf("silence was noticed after %v", took)
	}
	deaf, acceptDeaf := next(t)
	go acceptDeaf()
	large := noise(2, gfs.MaxPieceBytes) // more than the connection's buffers take
	begun = time.Now()
	if err := p.push(pushOf(6, 0, large, deaf), large); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("nothing is taken: %v", err)
	}
	if took := time.Since(begun); took > gfs.FrameTimeout-2*time.Second {
		t.Errorf("that nothing is taken was noticed after %v", took)
	}
	full, _ := newServer(t)
	full.pushes.positions[1].take(gfs.MaxPositionBytes)
	if err := p.push(pushOf(4, 0, data, address(full)), data); !errors.Is(err, gfs.ErrBusy) {
		t.Errorf("no room further down: %v", err)
	}
	full.pushes.positions[1].put(gfs.MaxPositionBytes)
	if err := p.push(pushOf(5, 0, data, address(full)), data); err != nil || !full.waits(5, data) {
		t.Errorf("room again: %v", err)
	}
	if len(s.pushes.kept) != 1 {
		t.Errorf("%d pushes are kept here, one was answered well", len(s.pushes.kept))
	}
}

// TestPositionsHaveRoomOfTheirOwn fills one position: who comes at another does not notice, and who comes at that one
// waits for a while and is refused, or taken in when there is room.
func TestPositionsHaveRoomOfTheirOwn(t *testing.T) {
	s, _ := newServer(t)
	data := noise(1, 1<<20)
	w := s.pushes.positions[0]
	w.take(gfs.MaxPositionBytes - len(data)/2)
	p := connect(t, s)
	begun := time.Now()
	if err := p.push(pushOf(1, 0, data), data); !errors.Is(err, gfs.ErrBusy) {
		t.Errorf("no room: %v", err)
	}
	if took := time.Since(begun); took < gfs.PushPatience {
		t.Errorf("refused after %v", took)
	}
	m := pushOf(2, 0, data)
	m.Position = 1
	if err := p.push(m, data); err != nil {
		t.Errorf("at the next position: %v", err)
	}
	m = pushOf(3, 0, data)
	p.send(m, data)
	w.put(gfs.MaxPositionBytes - len(data)/2)
	if err := p.answer(m); err != nil || !s.waits(3, data) {
		t.Errorf("room in time: %v", err)
	}
}

func TestPushesThatMakeNoSenseAreRefused(t *testing.T) {
	s, _ := newServer(t)
	p := connect(t, s)
	data := noise(1, gfs.SmallMutationBytes)
	for name, change := range map[string]func(m *pb.Push){
		"no session":     func(m *pb.Push) { m.Session = 0 },
		"offset":         func(m *pb.Push) { m.Offset = gfs.BlockSize },
		"position":       func(m *pb.Push) { m.Position = gfs.MaxReplicas },
		"long chain":     func(m *pb.Push) { m.Rest = make([]string, gfs.MaxReplicas) },
		"no address":     func(m *pb.Push) { m.Rest = []string{""} },
		"long address":   func(m *pb.Push) { m.Rest = []string{strings.Repeat("x", 1000)} },
		"one sum amiss":  func(m *pb.Push) { m.Checksums = m.Checksums[1:] },
		"cut otherwise":  func(m *pb.Push) { m.Offset = 1 },
		"to nobody here": func(m *pb.Push) { m.Rest = []string{"no port"} },
	} {
		m := pushOf(1, 0, data)
		change(m)
		if err := p.push(m, data); !errors.Is(err, fs.ErrInvalid) && name != "to nobody here" || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.push(pushOf(1, 0, data[1:]), data[1:]); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a small push: %v", err)
	}
	if err := p.push(pushOf(2, 0, data), data); err != nil {
		t.Error(err)
	}
	if err := p.push(pushOf(2, 0, data), data); !errors.Is(err, gfs.ErrConflict) || !s.waits(2, data) {
		t.Errorf("a second push of the same name: %v", err)
	}
}

// TestReferences sends mutations whose data were pushed: they are the data of the mutation until it is over, and no other
// mutation may have them. One without data ends the connection, so that nothing behind it overtakes it.
func TestReferences(t *testing.T) {
	s, h := newServer(t)
	data := noise(1, 300_000)
	p := connect(t, s)
	if err := p.push(pushOf(1, 5, data), data); err != nil {
		t.Fatal(err)
	}
	reference := func(counter uint64) *pb.Mutate {
		return &pb.Mutate{Handle: uint64(testChunk), Version: 1, Kind: pb.Mutate_WRITE, Offset: gfs.BlockSize + 5,
			Checksums: wire.AppendChecksums(nil, 5, data), PushedSession: 1, PushedCounter: counter, PushedBytes: uint32(len(data))}
	}
	ask := func(p *peer, m *pb.Mutate) {
		if err := p.out.Frame(wire.Header{Op: wire.OpMutate, RequestID: 9}, m); err != nil {
			t.Fatal(err)
		}
	}
	ask(p, reference(1))
	m := <-h.mutations
	if !bytes.Equal(m.Data(), data) || s.pushes.positions[0].inUse() != 0 || s.InFlight() != 1 {
		t.Fatalf("data of %d bytes, %d waiting, %d in flight", len(m.Data()), s.pushes.positions[0].inUse(), s.InFlight())
	}
	m.ReleaseData()
	pulled := func() error {
		var reply pb.PullReply
		got, err := Fetch(context.Background(), s.pool, address(s), wire.OpPull, &pb.Pull{Session: 1, Counter: 1}, &reply)
		defer got.Release()
		if err == nil && reply.Code == 0 && !bytes.Equal(got.Data, data) {
			t.Error("pulled data differ")
		}
		if err == nil {
			err = gfs.FromCode(gfs.Code(reply.Code), reply.Detail)
		}
		return err
	}
	if err := pulled(); err != nil {
		t.Errorf("before the answer: %v", err)
	}
	if s.pushes.sweep(time.Now().Add(time.Hour)); s.pushes.borrow(pushKey{1, 1}) == nil {
		t.Error("data in use were swept away")
	} else {
		s.pushes.kept[pushKey{1, 1}].release(1)
	}
	m.Reply(0, 0, nil)
	if err := pulled(); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("after the answer: %v", err)
	}
	for name, m := range map[string]*pb.Mutate{"used": reference(1), "never pushed": reference(2), "other data": reference(3)} {
		if name == "other data" {
			if err := connect(t, s).push(pushOf(3, 5, data), data); err != nil {
				t.Fatal(err)
			}
			m.Checksums[0]++
		}
		p := connect(t, s)
		ask(p, m)
		small := []byte("behind it")
		if p.out.Frame(wire.Header{Op: wire.OpMutate, RequestID: 10},
			&pb.Mutate{Handle: 1, Kind: pb.Mutate_APPEND, Checksums: wire.AppendChecksums(nil, 0, small)}, small) == nil {
			if _, err := p.in.Next(); err == nil {
				t.Errorf("%s: the connection goes on", name)
			}
		}
		if len(h.mutations) != 0 {
			t.Errorf("%s: a mutation came through", name)
		}
	}
}

// TestMembersFindPushedData sends frames down a chain that do not carry their data: the member has them, or gets them
// from the primary, or ends the stream.
func TestMembersFindPushedData(t *testing.T) {
	first, _ := newServer(t)
	member, h := newServer(t)
	sink := h.sink.(*recorder)
	open := &pb.ChainOpen{Handle: 5, Version: 1, Position: 1,
		Members: []*pb.Server{{Id: "a", Address: address(first)}, {Id: "b", Address: address(member)}}}
	go func() { (<-h.opened).Opened(&pb.ChainOpened{}) }()
	d, _, err := OpenChain(context.Background(), open)
	if err != nil {
		t.Fatal(err)
	}
	heard := &events{make(chan gfs.Serial, 100), make(chan error, 1), make(chan error, 1)}
	d.Start(heard)
	data, small := noise(1, 300_000), []byte("in the frame")
	const at = 777 // pushed as an append, before its offset was known
	apply := func(serial gfs.Serial, counter uint64) *Apply {
		a := &Apply{First: serial, Runs: []Run{
			{Offset: at, Data: data, Checksums: wire.AppendChecksums(nil, at, data), pushed: pushKey{1, counter}},
			{Offset: at + int64(len(data)), Data: small, Checksums: wire.AppendChecksums(nil, at+int64(len(data)), small)},
		}}
		a.Mutations = []mutationType{mutationOf(at, len(data)), mutationOf(at+int64(len(data)), len(small))}
		return a
	}
	for i, servers := range [][]string{{address(member)}, {}} {
		counter := uint64(i + 1)
		if err := connect(t, first).push(pushOf(counter, 0, data, servers...), data); err != nil {
			t.Fatal(err)
		}
		if err := d.Apply(apply(gfs.Serial(counter), counter)); err != nil {
			t.Fatal(err)
		}
		var got *Apply
		select {
		case got = <-sink.frames:
		case err := <-sink.lost:
			t.Fatalf("push %d: the stream ended: %v", counter, err)
		}
		if !bytes.Equal(got.Runs[0].Data, data) || !bytes.Equal(got.Runs[1].Data, small) || got.Bytes() != len(data)+len(small) {
			t.Fatalf("push %d: the frame's data differ", counter)
		}
		got.Release()
	}
	if n := first.Counters().Pulls.Load(); n != 1 {
		t.Errorf("%d pulls, want 1", n)
	}
	if len(member.pushes.kept) != 0 {
		t.Errorf("%d pushes are kept after their use", len(member.pushes.kept))
	}
	if err := d.Apply(apply(3, 3)); err != nil {
		t.Fatal(err)
	}
	if err := <-sink.lost; !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("data that are nowhere: %v", err)
	}
	<-heard.lost
	d.Wait()
}
