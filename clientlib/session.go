package clientlib

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// sequences numbers the mutations of one session. It is pure. At most gfs.SessionWindow consecutive numbers are
// outstanding, since the master remembers no more replies. The zero value is ready.
type sequences struct {
	last        uint64
	outstanding []uint64 // ascending
}

// begin takes the next number and says which is the lowest outstanding one, its own included; ok is false while the
// window is full.
func (s *sequences) begin() (sequence, lowest uint64, ok bool) {
	if len(s.outstanding) > 0 && s.last-s.outstanding[0] >= gfs.SessionWindow-1 {
		return 0, 0, false
	}
	s.last++
	s.outstanding = append(s.outstanding, s.last)
	return s.last, s.outstanding[0], true
}

// end says that nobody waits for sequence any longer.
func (s *sequences) end(sequence uint64) {
	if i, found := slices.BinarySearch(s.outstanding, sequence); found {
		s.outstanding = slices.Delete(s.outstanding, i, i+1)
	}
}

// session is one registered client session.
type session struct {
	id    uint64
	mu    sync.Mutex
	seq   sequences
	moved chan struct{} // closed and replaced when a number ends
}

// sessionRef is the client's current session, registered before the first mutation and anew when the master has
// forgotten it.
type sessionRef struct {
	mu          sync.Mutex
	current     *session
	registering chan struct{} // closed when the registration under way is over; nil when none is
}

// mutate asks for one namespace mutation, with exactly one effect however often it is sent.
func (c *Client) mutate(ctx context.Context, m *pb.NamespaceMutation) (*pb.FileStatus, error) {
	p := c.patience(ctx)
	m.Identity = c.identify()
	for {
		s, err := c.useSession(p)
		if err != nil {
			return nil, err
		}
		sequence, lowest, err := s.begin(p)
		if err != nil {
			return nil, err
		}
		m.Session = &pb.Session{Id: s.id, Sequence: sequence, LowestUnacknowledged: lowest}
		reply := &pb.NamespaceReply{}
		uncertain, err := c.askUntil(p, messages.OpMutate, m, reply)
		s.end(sequence)
		switch {
		case err == nil:
			return reply.GetStatus(), nil
		case gfs.CodeOf(err) == gfs.CodeSessionEnded:
			c.dropSession(s)
			if uncertain { // under the old session it may have taken effect; a new one could not tell
				return nil, outcomeUnknown(err)
			}
			if err := p.pause(err); err != nil {
				return nil, err
			}
		case uncertain && mayStillTakeEffect(err):
			return nil, outcomeUnknown(err)
		default:
			return nil, err
		}
	}
}

// mayStillTakeEffect reports whether err leaves open what became of a request that was sent: everything but a
// refusal, which the master gives only for a mutation that it has decided.
func mayStillTakeEffect(err error) bool {
	switch gfs.CodeOf(err) {
	case gfs.CodeOutcomeUnknown, gfs.CodeUnavailable, gfs.CodeBusy, gfs.CodeNotActing, gfs.CodeClosed, gfs.CodeInternal:
		return true
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// begin takes a number of the session, waiting for one while too many are outstanding.
func (s *session) begin(p *patience) (sequence, lowest uint64, err error) {
	for {
		s.mu.Lock()
		sequence, lowest, ok := s.seq.begin()
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		s.mu.Unlock()
		if ok {
			return sequence, lowest, nil
		}
		if err := p.await(moved); err != nil {
			return 0, 0, err
		}
	}
}

func (s *session) end(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq.end(sequence)
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// useSession is the registered session, registering one if there is none. One caller registers, the others wait.
func (c *Client) useSession(p *patience) (*session, error) {
	for {
		c.session.mu.Lock()
		if s := c.session.current; s != nil {
			c.session.mu.Unlock()
			return s, nil
		}
		if waiting := c.session.registering; waiting != nil {
			c.session.mu.Unlock()
			if err := p.await(waiting); err != nil {
				return nil, err
			}
			continue
		}
		done := make(chan struct{})
		c.session.registering = done
		c.session.mu.Unlock()

		s := &session{id: rand.Uint64() | 1}
		_, err := c.askUntil(p, messages.OpMutate, &pb.NamespaceMutation{
			Identity:  c.identify(),
			Session:   &pb.Session{Id: s.id},
			Operation: &pb.NamespaceMutation_RegisterSession{RegisterSession: &pb.RegisterSession{}},
		}, &pb.NamespaceReply{})
		c.session.mu.Lock()
		if err == nil {
			c.session.current = s
		}
		c.session.registering = nil
		c.session.mu.Unlock()
		close(done)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// dropSession forgets a session that the master does not know.
func (c *Client) dropSession(s *session) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if c.session.current == s {
		c.session.current = nil
	}
}
