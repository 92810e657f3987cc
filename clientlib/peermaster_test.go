package clientlib

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// serveMaster answers master requests until the test ends.
func (p *peers) serveMaster(t testing.TB) {
	nc, err := nats.Connect(p.url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	p.nats = nc
	t.Cleanup(nc.Close)
	if _, err := nc.Subscribe("cairn.test.master.*", func(m *nats.Msg) {
		op := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		p.mu.Lock()
		p.asked[op]++
		nth, script := p.asked[op], p.onMaster
		p.mu.Unlock()
		var scripted gfs.Code
		var silent, apply bool
		if script != nil {
			scripted, silent, apply = script(op, nth)
		}
		if (silent || scripted != 0) && !apply {
			if scripted != 0 {
				p.refuse(m, gfs.Errorf(scripted, "scripted"))
			}
			return
		}
		reply, err := p.answer(op, m.Data)
		switch {
		case silent:
		case scripted != 0:
			p.refuse(m, gfs.Errorf(scripted, "scripted"))
		case err != nil:
			p.refuse(m, err)
		default:
			data, _ := proto.Marshal(reply)
			m.Respond(data)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func (p *peers) refuse(m *nats.Msg, err error) {
	reply := nats.NewMsg(m.Reply)
	reply.Header.Set("Nats-Service-Error-Code", strconv.Itoa(int(gfs.CodeOf(err))))
	reply.Header.Set("Nats-Service-Error", err.Error())
	m.RespondMsg(reply)
}

func parse[M proto.Message](data []byte, m M) M {
	if err := proto.Unmarshal(data, m); err != nil {
		panic(err)
	}
	return m
}

func (p *peers) answer(op string, data []byte) (proto.Message, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch op {
	case messages.OpMutate:
		return p.mutate(parse(data, &pb.NamespaceMutation{}))
	case messages.OpStat:
		request := parse(data, &pb.StatRequest{})
		node := p.nodes[request.GetPath()]
		if id := gfs.FileID(request.GetFileId()); id != 0 {
			node = p.files[id]
		}
		if node == nil {
			return nil, gfs.Errorf(gfs.CodeNotExist, "%s", request.GetPath())
		}
		return p.status(node), nil
	case messages.OpList:
		return p.list(parse(data, &pb.ListRequest{}))
	case messages.OpStatFS:
		return &pb.StatFSReply{CapacityBytes: 1 << 40, FreeBytes: 1 << 39, Files: uint64(len(p.nodes)), Chunks: uint64(len(p.chunks)),
			ChunkserversUp: uint32(len(p.servers)), Chunkservers: uint32(len(p.servers))}, nil
	case messages.OpLocate:
		request := parse(data, &pb.LocateRequest{})
		node := p.files[gfs.FileID(request.GetFileId())]
		if node == nil {
			return nil, gfs.Errorf(gfs.CodeNotExist, "file %d", request.GetFileId())
		}
		reply := &pb.LocateReply{FileChunks: uint32(len(node.chunks))}
		for i := int(request.GetFirstIndex()); i < len(node.chunks) && i < int(request.GetFirstIndex()+request.GetCount()); i++ {
			reply.Chunks = append(reply.Chunks, p.locationOf(i, p.chunks[node.chunks[i]]))
		}
		return reply, nil
	case messages.OpLease:
		return p.leaseChunk(parse(data, &pb.LeaseRequest{}))
	case messages.OpReport:
		report := parse(data, &pb.Report{})
		p.reports = append(p.reports, report)
		if c := p.chunks[gfs.ChunkHandle(report.GetHandle())]; c != nil && report.GetKind() == pb.Report_UNREACHABLE &&
			c.version == gfs.Version(report.GetVersion()) {
			p.reconfigure(c)
		}
		return &pb.ReportReply{}, nil
	}
	return nil, gfs.Errorf(gfs.CodeInvalid, "operation %s", op)
}

func (p *peers) locationOf(index int, c *peerChunk) *pb.ChunkLocation {
	at := &pb.ChunkLocation{Index: uint32(index), Handle: uint64(c.handle), Version: uint64(c.version), Open: c.open, LostBefore: uint64(c.lost)}
	if !c.open {
		at.Length = int64(len(c.data))
	} else {
		at.Primary = c.members[0].id
	}
	for _, s := range c.members {
		at.Replicas = append(at.Replicas, &pb.Server{Id: s.id, Address: s.shownAddress(), Rack: s.rack})
	}
	return at
}

func (p *peers) leaseChunk(r *pb.LeaseRequest) (*pb.ChunkLocation, error) {
	node := p.files[gfs.FileID(r.GetFileId())]
	if node == nil {
		return nil, gfs.Errorf(gfs.CodeNotExist, "file %d", r.GetFileId())
	}
	index := int(r.GetIndex())
	if r.GetLast() {
		index = max(len(node.chunks)-1, 0)
	}
	switch {
	case r.GetReserve():
		p.applied[fmt.Sprintf("reserve %d", index)]++
		return &pb.ChunkLocation{}, nil
	case index > len(node.chunks), index == len(node.chunks) && !r.GetAllocate():
		return nil, gfs.Errorf(gfs.CodeNotExist, "chunk %d of %d", index, len(node.chunks))
	case index == len(node.chunks):
		p.lastID++
		c := &peerChunk{handle: gfs.ChunkHandle(p.lastID), version: p.newVersion(), open: true, table: make(map[[2]uint64]int64)}
		for i := range min(3, len(p.servers)) {
			if s := p.servers[(int(p.lastID)+i)%len(p.servers)]; s.alive() {
				c.members = append(c.members, s)
			}
		}
		if len(c.members) == 0 {
			return nil, gfs.Errorf(gfs.CodeUnavailable, "no chunkserver is up")
		}
		p.chunks[c.handle] = c
		node.chunks = append(node.chunks, c.handle)
		return p.locationOf(index, c), nil
	}
	c := p.chunks[node.chunks[index]]
	accused := r.GetFailedServer() != "" && gfs.Version(r.GetFailedVersion()) == c.version && !p.server(r.GetFailedServer()).alive()
	if accused || !c.open {
		if err := p.reconfigure(c); err != nil {
			return nil, err
		}
	}
	return p.locationOf(index, c), nil
}

func (p *peers) status(n *peerNode) *pb.FileStatus {
	s := proto.CloneOf(n.status)
	s.Chunks = uint32(len(n.chunks))
	if last := len(n.chunks) - 1; last >= 0 {
		c := p.chunks[n.chunks[last]]
		s.Open, s.Length = c.open, int64(last)*gfs.ChunkSize
		if !c.open {
			s.Length += int64(len(c.data))
		}
	}
	return s
}

func (p *peers) list(r *pb.ListRequest) (*pb.ListReply, error) {
	node := p.nodes[r.GetPath()]
	switch {
	case node == nil:
		return nil, gfs.Errorf(gfs.CodeNotExist, "%s", r.GetPath())
	case !node.status.GetDirectory():
		return nil, gfs.Errorf(gfs.CodeNotDirectory, "%s", r.GetPath())
	}
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = 3 // so that paging shows
	}
	var names []string
	for name := range p.nodes {
		if name != "/" && path.Dir(name) == r.GetPath() && path.Base(name) > r.GetAfter() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	reply := &pb.ListReply{More: len(names) > limit}
	for _, name := range names[:min(limit, len(names))] {
		reply.Entries = append(reply.Entries, p.status(p.nodes[name]))
	}
	return reply, nil
}

// mutate applies a mutation once for each session and sequence.
func (p *peers) mutate(m *pb.NamespaceMutation) (*pb.NamespaceReply, error) {
	id, sequence := m.GetSession().GetId(), m.GetSession().GetSequence()
	if m.GetRegisterSession() != nil {
		p.applied["register"]++
		if p.sessions[id] == nil {
			p.sessions[id] = make(map[uint64][]byte)
		}
		return &pb.NamespaceReply{}, nil
	}
	known, ok := p.sessions[id]
	if !ok {
		return nil, gfs.Errorf(gfs.CodeSessionEnded, "session %x", id)
	}
	if old, ok := known[sequence]; ok {
		return parse(old, &pb.NamespaceReply{}), nil
	}
	status, err := p.apply(m)
	if err != nil {
		return nil, err
	}
	reply := &pb.NamespaceReply{Status: status}
	known[sequence], _ = proto.Marshal(reply)
	return reply, nil
}

func (p *peers) make(name string, directory bool, mode uint32) *peerNode {
	p.lastID++
	n := &peerNode{status: &pb.FileStatus{FileId: p.lastID, Name: path.Base(name), Directory: directory, Mode: mode, Owner: "root",
		Group: "root", Replicas: 3, ModifiedUnixNano: time.Now().UnixNano()}}
	p.nodes[name], p.files[gfs.FileID(p.lastID)] = n, n
	return n
}

func (p *peers) apply(m *pb.NamespaceMutation) (*pb.FileStatus, error) {
	switch {
	case m.GetCreateFile() != nil:
		return p.createFile(m.GetCreateFile())
	case m.GetMakeDirectory() != nil:
		r := m.GetMakeDirectory()
		if r.GetParents() {
			for dir := path.Dir(r.GetPath()); p.nodes[dir] == nil; dir = path.Dir(dir) {
				p.make(dir, true, r.GetMode())
			}
		}
		switch old := p.nodes[r.GetPath()]; {
		case old != nil && r.GetParents() && old.status.GetDirectory():
			return p.status(old), nil
		case old != nil:
			return nil, gfs.Errorf(gfs.CodeExist, "%s", r.GetPath())
		case p.nodes[path.Dir(r.GetPath())] == nil:
			return nil, gfs.Errorf(gfs.CodeNotExist, "%s", path.Dir(r.GetPath()))
		}
		p.applied["mkdir"]++
		return p.status(p.make(r.GetPath(), true, r.GetMode())), nil
	case m.GetRemove() != nil:
		return p.remove(m.GetRemove())
	case m.GetRename() != nil:
		return p.rename(m.GetRename())
	case m.GetUndelete() != nil:
		node := p.trash[m.GetUndelete().GetPath()]
		if node == nil {
			return nil, gfs.Errorf(gfs.CodeNotExist, "%s is not in the trash", m.GetUndelete().GetPath())
		}
		delete(p.trash, m.GetUndelete().GetPath())
		p.nodes[m.GetUndelete().GetPath()] = node
		return p.status(node), nil
	case m.GetSetAttributes() != nil:
		r := m.GetSetAttributes()
		node := p.nodes[r.GetPath()]
		if node == nil {
			return nil, gfs.Errorf(gfs.CodeNotExist, "%s", r.GetPath())
		}
		if r.Mode != nil {
			node.status.Mode = r.GetMode()
		}
		if r.Owner != nil {
			node.status.Owner = r.GetOwner()
		}
		if r.Group != nil {
			node.status.Group = r.GetGroup()
		}
		if r.ModifiedUnixNano != nil {
			node.status.ModifiedUnixNano = r.GetModifiedUnixNano()
		}
		if r.Replicas != nil {
			node.status.Replicas = r.GetReplicas()
		}
		return p.status(node), nil
	}
	return nil, gfs.Errorf(gfs.CodeInvalid, "no operation")
}

func (p *peers) createFile(r *pb.CreateFile) (*pb.FileStatus, error) {
	switch old, parent := p.nodes[r.GetPath()], p.nodes[path.Dir(r.GetPath())]; {
	case parent == nil:
		return nil, gfs.Errorf(gfs.CodeNotExist, "%s", path.Dir(r.GetPath()))
	case !parent.status.GetDirectory():
		return nil, gfs.Errorf(gfs.CodeNotDirectory, "%s", path.Dir(r.GetPath()))
	case old != nil && r.GetExclusive():
		return nil, gfs.Errorf(gfs.CodeExist, "%s", r.GetPath())
	case old != nil && old.status.GetDirectory():
		return nil, gfs.Errorf(gfs.CodeIsDirectory, "%s", r.GetPath())
	case old != nil && !r.GetReplace():
		return p.status(old), nil
	}
	p.applied["create"]++
	n := p.make(r.GetPath(), false, r.GetMode())
	n.status.Synced = r.GetSynced()
	if r.GetReplicas() != 0 {
		n.status.Replicas = r.GetReplicas()
	}
	return p.status(n), nil
}

func (p *peers) remove(r *pb.Remove) (*pb.FileStatus, error) {
	node := p.nodes[r.GetPath()]
	if node == nil {
		if r.GetRecursive() {
			return nil, nil
		}
		return nil, gfs.Errorf(gfs.CodeNotExist, "%s", r.GetPath())
	}
	for name := range p.nodes {
		if name != r.GetPath() && strings.HasPrefix(name, r.GetPath()+"/") {
			if !r.GetRecursive() {
				return nil, gfs.Errorf(gfs.CodeNotEmpty, "%s", r.GetPath())
			}
			delete(p.nodes, name)
		}
	}
	p.applied["remove"]++
	delete(p.nodes, r.GetPath())
	p.trash[r.GetPath()] = node
	return p.status(node), nil
}

func (p *peers) rename(r *pb.Rename) (*pb.FileStatus, error) {
	node := p.nodes[r.GetFrom()]
	if node == nil {
		return nil, gfs.Errorf(gfs.CodeNotExist, "%s", r.GetFrom())
	}
	p.applied["rename"]++
	for name, below := range p.nodes {
		if strings.HasPrefix(name, r.GetFrom()+"/") {
			delete(p.nodes, name)
			p.nodes[r.GetTo()+strings.TrimPrefix(name, r.GetFrom())] = below
		}
	}
	delete(p.nodes, r.GetFrom())
	p.nodes[r.GetTo()] = node
	node.status.Name = path.Base(r.GetTo())
	return p.status(node), nil
}
