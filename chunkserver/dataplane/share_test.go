package dataplane

import (
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// What a chunk has no room for stays with the clients, on all connections together, and is taken up as room comes;
// other chunks do not notice.
func TestDataOfOneChunkHoldItsClientsBack(t *testing.T) {
	s, h := newServer(t)
	const length = 4 << 20
	data := make([]byte, length)
	push := func(p *peer, handle uint64, n int) {
		for i := range n {
			m := &pb.Mutate{Handle: handle, Version: 1, Kind: pb.Mutate_APPEND, Checksums: wire.AppendChecksums(nil, 0, data)}
			if p.out.Frame(wire.Header{Op: wire.OpMutate, RequestID: uint64(i) + 1}, m, data) != nil {
				return
			}
		}
	}
	const room, connections, each = gfs.MaxChunkBufferBytes / length, 3, 4
	for range connections {
		p := connect(t, s)
		go push(p, uint64(testChunk), each)
	}
	held := make([]*Mutation, 0, connections*each)
	for range room {
		held = append(held, <-h.mutations)
	}
	select {
	case <-h.mutations:
		t.Fatal("more data than the chunk has room for")
	case <-time.After(50 * time.Millisecond):
	}
	other := connect(t, s)
	go push(other, uint64(testChunk)+1, 1)
	m := <-h.mutations
	if m.Handle != testChunk+1 {
		t.Fatalf("a mutation of chunk %s instead of the other one", m.Handle)
	}
	m.ReleaseData()
	m.Reply(0, length, nil)
	for i := range connections*each - room {
		held[i].ReleaseData()
		held = append(held, <-h.mutations)
	}
	for _, m := range held {
		m.ReleaseData()
		m.Reply(0, length, nil)
	}
}
