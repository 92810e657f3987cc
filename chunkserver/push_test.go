package chunkserver_test

import (
	"bytes"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// pusher is a client that sends data to some servers, the nearest first, and then the mutation to the primary.
type pusher struct {
	*rig
	nearest, primary *client
	rest             []string
	version          gfs.Version
	counter          uint64
}

const pushedChunk, pushSession = gfs.ChunkHandle(11), 77

// newPusher makes a chunk on three servers, the first its primary, and pushes to the given ones.
func newPusher(t *testing.T, numbers ...int) *pusher {
	r := newRig(t, 3)
	p := &pusher{rig: r, version: r.create(pushedChunk, 0, 1, 2)}
	p.nearest, p.primary = dial(t, r.servers[numbers[0]].Addr()), dial(t, r.servers[0].Addr())
	for _, i := range numbers[1:] {
		p.rest = append(p.rest, r.servers[i].Addr())
	}
	return p
}

// mutate pushes data and asks for the mutation.
func (p *pusher) mutate(m *pb.Mutate, data []byte) <-chan result {
	p.t.Helper()
	p.counter++
	push := &pb.Push{Handle: uint64(pushedChunk), Session: pushSession, Counter: p.counter, Rest: p.rest, Offset: m.Offset % gfs.BlockSize,
		Checksums: wire.AppendChecksums(nil, m.Offset, data)}
	done := make(chan *pb.PushReply, 1)
	p.nearest.send(wire.OpPush, push, func(_ wire.Header, in *wire.Reader) error {
		reply := &pb.PushReply{Code: uint32(gfs.CodeUnavailable)}
		defer func() { done <- reply }()
		if in == nil {
			return nil
		}
		return in.Decode(reply)
	}, data)
	if reply := <-done; reply.Code != 0 {
		p.t.Fatalf("push: %s %s", gfs.Code(reply.Code), reply.Detail)
	}
	m.Handle, m.Version, m.Checksums = uint64(pushedChunk), uint64(p.version), push.Checksums
	m.PushedSession, m.PushedCounter, m.PushedBytes = pushSession, p.counter, uint32(len(data))
	answer := make(chan result, 1)
	p.primary.send(wire.OpMutate, m, func(_ wire.Header, in *wire.Reader) error {
		var reply pb.MutateReply
		if in == nil {
			answer <- result{err: gfs.Errorf(gfs.CodeUnavailable, "connection ended")}
			return nil
		}
		err := in.Decode(&reply)
		answer <- result{reply.Offset, reply.Length, gfs.FromCode(gfs.Code(reply.Code), reply.Detail)}
		return err
	})
	return answer
}

// fill writes and appends, by reference and in order by turns, and returns what the chunk then holds.
func (p *pusher) fill() []byte {
	p.t.Helper()
	var want []byte
	for i := range 6 {
		piece := pattern(uint64(i), 200_000+i*50_000)
		must(p.t, p.mutate(&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: int64(len(want))}, piece))
		want = append(want, piece...)
		short := pattern(uint64(100+i), 1000)
		must(p.t, p.primary.append(pushedChunk, p.version, 9, uint64(2*i+1), short))
		want = append(want, short...)
		record := pattern(uint64(200+i), gfs.SmallMutationBytes+i*100_000)
		got := must(p.t, p.mutate(&pb.Mutate{Kind: pb.Mutate_APPEND, Writer: 9, Sequence: uint64(2*i + 2)}, record))
		if got.offset != int64(len(want)) {
			p.t.Fatalf("record %d at %d, want %d", i, got.offset, len(want))
		}
		want = append(want, record...)
	}
	again := must(p.t, p.mutate(&pb.Mutate{Kind: pb.Mutate_APPEND, Writer: 9, Sequence: 12}, want[len(want)-gfs.SmallMutationBytes-500_000:]))
	if again.length != int64(len(want)) {
		p.t.Errorf("a retry by reference led to a chunk of %d bytes, want %d", again.length, len(want))
	}
	return want
}

func (p *pusher) check(want []byte) {
	p.t.Helper()
	for i := range 3 {
		if got := dial(p.t, p.servers[i].Addr()).readAll(pushedChunk, p.version, int64(len(want))); !bytes.Equal(got, want) {
			p.t.Errorf("server %d holds other bytes", i)
		}
	}
}

// TestPushedMutationsReachEveryReplica pushes along a chain that begins at the last secondary.
func TestPushedMutationsReachEveryReplica(t *testing.T) {
	p := newPusher(t, 2, 1, 0)
	want := p.fill()
	p.check(want)
	for i := range 3 {
		m := p.servers[i].Metrics()
		if m.Pushes != 13 || m.Pulls != 0 {
			t.Errorf("server %d took %d pushes and gave %d, want 13 and 0", i, m.Pushes, m.Pulls)
		}
		if i > 0 && m.ChainBytes != 6000 {
			t.Errorf("%d bytes came to server %d down the chain, want those of the small records", m.ChainBytes, i)
		}
	}
	if m := p.servers[0].Metrics(); m.References != 13 || m.InFlight != 0 {
		t.Errorf("%d references, %d in flight", m.References, m.InFlight)
	}
}

// TestMembersPullWhatTheyLack pushes to the primary alone: the others get the data from it.
func TestMembersPullWhatTheyLack(t *testing.T) {
	p := newPusher(t, 0)
	want := p.fill()
	p.check(want)
	if m := p.servers[0].Metrics(); m.Pulls != 2*12 {
		t.Errorf("%d pulls, want %d", m.Pulls, 2*12)
	}
}

// TestPushedMutationsSurviveAReconfiguration loses the last member while mutations by reference are on their way.
func TestPushedMutationsSurviveAReconfiguration(t *testing.T) {
	p := newPusher(t, 1, 2, 0)
	var want []byte
	var answers []<-chan result
	for i := range 4 {
		piece := pattern(uint64(i), 300_000)
		answers = append(answers, p.mutate(&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: int64(len(want))}, piece))
		want = append(want, piece...)
	}
	p.stop(2)
	p.rest = p.rest[1:]
	piece := pattern(9, 300_000)
	answers = append(answers, p.mutate(&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: int64(len(want))}, piece))
	receive(t, p.reports, "report", func(m *pb.Report) bool { return m.Accused == string(p.servers[2].ID()) })
	p.version = p.reconfigure(pushedChunk, p.version, 0, 1)
	for i, a := range answers[:4] {
		settled(t, a, func() <-chan result {
			return p.mutate(&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: int64(i) * 300_000}, want[i*300_000:(i+1)*300_000])
		})
	}
	settled(t, answers[4], func() <-chan result {
		return p.mutate(&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: int64(len(want))}, piece)
	})
	want = append(want, piece...)
	for i := range 2 {
		if got := dial(t, p.servers[i].Addr()).readAll(pushedChunk, p.version, int64(len(want))); !bytes.Equal(got, want) {
			t.Errorf("server %d holds other bytes", i)
		}
	}
}
