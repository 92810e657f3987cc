package clientlib

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// peerServer is a chunkserver on a real socket.
type peerServer struct {
	id, rack, address string
	shown             string // the address that the master tells, if it is another
	peers             *peers
	tasks             sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	silent   chan struct{} // not nil: nothing is answered until it is closed
	corrupt  int           // reads to spoil: 1 only those that are not copies, 2 all
	orphaned bool
	reads    int
	copies   int
	frames   int // mutations that arrived, retries included
	pushes   int // that arrived
	named    int // mutations that named what was pushed

	// onMutate, if set, may answer a mutation in the server's place, or let it apply and then cut the connection.
	onMutate func(nth int, m *pb.Mutate) (code gfs.Code, cutAfter bool)
	// onPush, if set, decides a push: it is refused, or its connection is cut, or it is never answered.
	onPush func(nth int, m *pb.Push) (code gfs.Code, cut, silent bool)
}

func (s *peerServer) shownAddress() string {
	if s.shown != "" {
		return s.shown
	}
	return s.address
}

func newPeerServer(t testing.TB, p *peers, n int) *peerServer {
	s := &peerServer{id: fmt.Sprintf("%016x", n+1), rack: fmt.Sprintf("rack%d", n%2), peers: p, conns: make(map[net.Conn]bool)}
	s.start(t, "127.0.0.1:0")
	t.Cleanup(s.kill)
	return s
}

func (s *peerServer) start(t testing.TB, address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.address = listener, listener.Addr().String()
	s.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.listener != listener {
				conn.Close()
			} else {
				s.conns[conn] = true
				s.tasks.Go(func() { s.serve(conn) })
			}
			s.mu.Unlock()
		}
	})
}

// kill refuses connections and resets those there are.
func (s *peerServer) kill() {
	s.mu.Lock()
	if s.listener != nil {
		s.listener.Close()
	}
	s.listener = nil
	if s.silent != nil {
		close(s.silent)
		s.silent = nil
	}
	s.mu.Unlock()
	s.cut()
	s.tasks.Wait()
}

// cut resets every connection.
func (s *peerServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	clear(s.conns)
}

// hush makes the server silent, as SIGSTOP does: connections are accepted, nothing is answered.
func (s *peerServer) hush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = make(chan struct{})
}

// alive reports whether the master would get an answer.
func (s *peerServer) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener != nil && s.silent == nil
}

func (s *peerServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *peerServer) get(n *int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *n
}

func (s *peerServer) serve(conn net.Conn) {
	defer conn.Close()
	frames, out := wire.NewReader(conn), wire.NewWriter(conn)
	for {
		header, err := frames.Next()
		if err != nil {
			return
		}
		s.mu.Lock()
		silent := s.silent
		s.mu.Unlock()
		if silent != nil {
			<-silent
			return
		}
		reply, payload, cut := s.handle(frames, header)
		if cut {
			s.cut()
			return
		}
		if reply == nil && header.Op == wire.OpPush {
			continue
		}
		header.Flags |= wire.FlagReply
		if payload != nil {
			err = out.Frame(header, reply, payload)
		} else {
			err = out.Frame(header, reply)
		}
		if err != nil {
			return
		}
	}
}

// handle answers one request.
func (s *peerServer) handle(frames *wire.Reader, header wire.Header) (reply proto.Message, payload []byte, cut bool) {
	decode := func(m proto.Message) {
		if err := frames.Decode(m); err != nil {
			panic(err)
		}
	}
	switch header.Op {
	case wire.OpPing:
		return nil, nil, false
	case wire.OpMutate:
		m, data := &pb.Mutate{}, make([]byte, header.PayloadBytes)
		decode(m)
		if frames.Payload(data) != nil {
			return nil, nil, true
		}
		return s.mutate(m, data)
	case wire.OpPush:
		m, data := &pb.Push{}, make([]byte, header.PayloadBytes)
		decode(m)
		if frames.Payload(data) != nil {
			return nil, nil, true
		}
		return s.push(m, data)
	case wire.OpRead:
		m := &pb.Read{}
		decode(m)
		reply, payload := s.read(m)
		return reply, payload, false
	case wire.OpLength:
		m, r := &pb.Length{}, &pb.LengthReply{}
		decode(m)
		c, code := s.find(m.GetHandle(), m.GetVersion())
		r.Code = uint32(code)
		if code == 0 {
			s.peers.mu.Lock()
			r.CommitLength, r.EndKnown, r.Version = int64(len(c.data)), !c.open || c.members[0] == s, uint64(c.version)
			s.peers.mu.Unlock()
		}
		return r, nil, false
	case wire.OpSync:
		m := &pb.SyncChunk{}
		decode(m)
		c, code := s.find(m.GetHandle(), m.GetVersion())
		s.peers.mu.Lock()
		defer s.peers.mu.Unlock()
		if code == 0 && (!c.open || c.members[0] != s) {
			code = gfs.CodeNotPrimary
		}
		if code == 0 {
			s.peers.applied["sync"]++
		}
		return &pb.SyncChunkReply{Code: uint32(code)}, nil, false
	}
	return nil, nil, true
}

func (s *peerServer) find(handle, version uint64) (*peerChunk, gfs.Code) {
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	c := s.peers.chunks[gfs.ChunkHandle(handle)]
	if c == nil {
		return nil, gfs.CodeNoReplica
	}
	member := false
	for _, m := range c.members {
		member = member || m == s
	}
	switch {
	case !member:
		return nil, gfs.CodeNoReplica
	case version != 0 && gfs.Version(version) != c.version:
		return nil, gfs.CodeStaleVersion
	}
	return c, 0
}

// push takes data for all servers. No reply, unless the connection is to be cut, means silence.
func (s *peerServer) push(m *pb.Push, data []byte) (reply proto.Message, payload []byte, cut bool) {
	s.mu.Lock()
	s.pushes++
	nth, script := s.pushes, s.onPush
	s.mu.Unlock()
	err := wire.Verify(m.GetChecksums(), m.GetOffset(), data)
	code := gfs.CodeOf(err)
	if script != nil {
		scripted, cut, silent := script(nth, m)
		if cut || silent {
			return nil, nil, cut
		}
		code = scripted
	}
	if code == 0 {
		s.peers.mu.Lock()
		s.peers.pushed[[2]uint64{m.GetSession(), m.GetCounter()}] = data
		s.peers.mu.Unlock()
	}
	return &pb.PushReply{Code: uint32(code)}, nil, false
}

func (s *peerServer) mutate(m *pb.Mutate, data []byte) (reply *pb.MutateReply, payload []byte, cut bool) {
	s.mu.Lock()
	s.frames++
	if m.GetPushedSession() != 0 {
		s.named++
		key := [2]uint64{m.GetPushedSession(), m.GetPushedCounter()}
		s.peers.mu.Lock()
		data = s.peers.pushed[key]
		delete(s.peers.pushed, key)
		s.peers.mu.Unlock()
		if data == nil || len(data) != int(m.GetPushedBytes()) {
			s.mu.Unlock()
			return nil, nil, true
		}
	}
	nth, script := s.frames, s.onMutate
	s.mu.Unlock()
	if script != nil {
		code, cutAfter := script(nth, m)
		if code != 0 {
			return &pb.MutateReply{Code: uint32(code), Detail: "scripted"}, nil, false
		}
		cut = cutAfter
	}
	c, code := s.find(m.GetHandle(), m.GetVersion())
	if code != 0 {
		return &pb.MutateReply{Code: uint32(code)}, nil, cut
	}
	if err := wire.Verify(m.GetChecksums(), m.GetOffset(), data); err != nil {
		return &pb.MutateReply{Code: uint32(gfs.CodeOf(err)), Detail: err.Error()}, nil, cut
	}
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	if !c.open || c.members[0] != s {
		return &pb.MutateReply{Code: uint32(gfs.CodeNotPrimary)}, nil, cut
	}
	offset := m.GetOffset()
	if m.GetKind() == pb.Mutate_APPEND {
		key := [2]uint64{m.GetWriter(), m.GetSequence()}
		if old, ok := c.table[key]; ok && m.GetWriter() != 0 {
			return &pb.MutateReply{Offset: old, Length: int64(len(c.data))}, nil, cut
		}
		offset = int64(len(c.data))
		if c.full = c.full || offset+int64(len(data)) > s.peers.chunkCap; c.full {
			return &pb.MutateReply{Code: uint32(gfs.CodeChunkFull)}, nil, cut
		}
		c.table[key] = offset
		c.appends++
	}
	if end := offset + int64(len(data)); end > int64(len(c.data)) {
		c.data = append(c.data, make([]byte, end-int64(len(c.data)))...)
	}
	copy(c.data[offset:], data)
	return &pb.MutateReply{Offset: offset, Length: int64(len(c.data))}, nil, cut
}

func (s *peerServer) read(m *pb.Read) (*pb.ReadReply, []byte) {
	c, code := s.find(m.GetHandle(), m.GetVersion())
	if code != 0 {
		return &pb.ReadReply{Code: uint32(code)}, nil
	}
	s.peers.mu.Lock()
	end := min(m.GetOffset()+m.GetLength(), int64(len(c.data)))
	var data []byte
	if m.GetOffset() < end {
		data = append(data, c.data[m.GetOffset():end]...)
	}
	reply := &pb.ReadReply{CommitLength: int64(len(c.data)), EndKnown: !s.peers.fenced && (!c.open || c.members[0] == s), Version: uint64(c.version)}
	s.peers.mu.Unlock()
	reply.Checksums = wire.AppendChecksums(nil, m.GetOffset(), data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if m.GetCopy() {
		s.copies++
	}
	if len(data) > 0 && (s.corrupt == 2 || s.corrupt == 1 && !m.GetCopy()) {
		data[len(data)/2] ^= 1
	}
	reply.Orphaned = s.orphaned
	return reply, data
}
