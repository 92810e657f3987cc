package chunkserver_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

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
	return r.newPusher(r.members(0, 1, 2), numbers...)
}

// newPusher makes the chunk on all servers, which are told of each other as members.
func (r *rig) newPusher(members []*pb.Server, numbers ...int) *pusher {
	t := r.t
	t.Helper()
	p := &pusher{rig: r, version: r.createFor(pushedChunk, members, 0, 1, 2)}
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

// TestASlowPullIsNotSilence lets one member lack the data, and the primary's answer take longer than a member may be silent:
// who pulls says that it is alive, and stays in the chain.
func TestASlowPullIsNotSilence(t *testing.T) {
	for who, numbers := range map[string][]int{"last": {1, 0}, "middle": {2, 0}} {
		t.Run(who, func(t *testing.T) {
			const held = 2 * gfs.MemberSilence // below gfs.PullTimeout
			r := newRig(t, 3)
			members := r.members(0, 1, 2)
			members[0].Address = slowly(t, members[0].Address, held)
			p := r.newPusher(members, numbers...)
			data, begun := pattern(1, 200_000), time.Now()
			must(t, p.mutate(&pb.Mutate{Kind: pb.Mutate_WRITE}, data))
			if took := time.Since(begun); took < held {
				t.Errorf("it took %v, and the data are held back for %v", took, held)
			}
			p.check(data)
			if n := p.servers[0].Metrics().Pulls; n != 1 {
				t.Errorf("%d pulls, want 1", n)
			}
			select {
			case report := <-r.reports:
				t.Errorf("%s was accused: %s", report.Accused, report.Detail)
			default:
			}
		})
	}
}

// slowly is the address of a way to another, on which every answer is held back for a while.
func slowly(t testing.TB, address string, held time.Duration) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				return
			}
			wg.Go(func() {
				defer far.Close()
				_, _ = io.Copy(far, near)
			})
			wg.Go(func() {
				defer near.Close()
				var first [1]byte
				if _, err := io.ReadFull(far, first[:]); err != nil {
					return
				}
				<-time.After(held)
				if _, err := near.Write(first[:]); err == nil {
					_, _ = io.Copy(near, far)
				}
			})
		}
	})
	return listener.Addr().String()
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
