package namespace

import (
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// A client session makes a retried mutation take effect once (Ongaro's Raft thesis, 6.3): the outcome of each of
// its latest mutations is remembered under the session's sequence number, errors too. What is below the floor is
// forgotten: nobody knows any more whether it was applied.

const (
	// maxSequence keeps arithmetic on sequence numbers from overflowing.
	maxSequence = 1 << 62
	// maxExpire bounds the sessions that one record ends.
	maxExpire = 1024
)

// session is what is kept of a session beside its answers.
type session struct {
	active  int64  // when it was last heard of, nanoseconds since 1970
	floor   uint64 // answers below are forgotten
	answers int    // remembered
}

func (e *session) pack() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 24), uint64(e.active))
	b = binary.AppendUvarint(b, e.floor)
	return binary.AppendUvarint(b, uint64(e.answers))
}

func unpackSession(value []byte) (session, bool) {
	d := decoder{rest: value}
	e := session{active: int64(d.uint64()), floor: d.uvarint(maxSequence + 1), answers: int(d.uvarint(gfs.SessionWindow))}
	return e, d.done()
}

// mutate applies a mutation of the namespace, or recalls what came of it. A mutation without a session is applied
// each time.
func (s *State) mutate(m *pb.NamespaceMutation) Outcome {
	id, sequence := m.GetSession().GetId(), m.GetSession().GetSequence()
	if _, ok := m.GetOperation().(*pb.NamespaceMutation_RegisterSession); ok {
		return s.registerSession(id)
	}
	if id == 0 {
		return s.answer(m)
	}
	value, found := s.entries.get(sessionKey(id))
	if !found {
		return failed(gfs.Errorf(gfs.CodeSessionEnded, "session %016x ended after %s of silence or never began: register a new one", id, gfs.SessionTimeout))
	}
	e, ok := unpackSession(value)
	if !ok {
		return failed(gfs.Errorf(gfs.CodeInternal, "damaged session %016x: register a new one", id))
	}
	if sequence == 0 || sequence > maxSequence {
		return failed(gfs.Errorf(gfs.CodeInvalid, "sequence number %d: want 1 to %d", sequence, uint64(maxSequence)))
	}
	e.active = s.clock
	out, found := s.recall(id, sequence)
	switch {
	case found:
	case sequence < e.floor:
		out = failed(gfs.Errorf(gfs.CodeOutcomeUnknown, "mutation %d of session %016x is forgotten, only those from %d on are remembered: look whether it took effect", sequence, id, e.floor))
	default:
		out = s.answer(m)
		if out.Err != nil && out.Err.Code == gfs.CodeConflict {
			return out // it decides nothing: the master makes ready what is missing and proposes the mutation again
		}
		s.put(answerKey(id, sequence), packAnswer(out))
		e.answers++
	}
	s.forget(id, &e, min(m.GetSession().GetLowestUnacknowledged(), sequence))
	s.put(sessionKey(id), e.pack())
	return out
}

// answer runs a mutation's operation.
func (s *State) answer(m *pb.NamespaceMutation) Outcome {
	next := s.nextFile
	status, err := s.operate(m)
	if err != nil {
		return failed(err)
	}
	_, truncated := m.GetOperation().(*pb.NamespaceMutation_Truncate) // what it cuts off takes an id
	return Outcome{Reply: &pb.NamespaceReply{Status: status}, Made: s.nextFile != next && !truncated}
}

// registerSession begins a session. To register it again keeps it alive and forgets nothing.
func (s *State) registerSession(id uint64) Outcome {
	if id == 0 {
		return failed(gfs.Errorf(gfs.CodeInvalid, "session 0: draw a random number other than 0"))
	}
	e := session{floor: 1}
	value, found := s.entries.get(sessionKey(id))
	if found {
		e, _ = unpackSession(value)
	} else if s.counts.Sessions >= gfs.MaxSessions {
		return failed(gfs.Errorf(gfs.CodeBusy, "%d client sessions are registered, the most there may be: end some clients or wait %s", s.counts.Sessions, gfs.SessionTimeout))
	} else {
		s.counts.Sessions++
	}
	e.active = s.clock
	s.put(sessionKey(id), e.pack())
	return Outcome{Reply: &pb.NamespaceReply{}, Repeated: found}
}

// forget raises the floor to what the client still needs, and further if too much is remembered.
func (s *State) forget(id uint64, e *session, needed uint64) {
	e.floor = max(e.floor, needed)
	for {
		sequence, found := s.oldest(id)
		if !found || sequence >= e.floor && e.answers <= gfs.SessionWindow {
			return
		}
		s.remove(answerKey(id, sequence))
		e.answers--
		e.floor = max(e.floor, sequence+1)
	}
}

// oldest is the lowest sequence number that a session remembers.
func (s *State) oldest(id uint64) (uint64, bool) {
	for key := range s.entries.prefixed(answerKey(id, 0)[:9]) {
		return number(key, 9), true
	}
	return 0, false
}

// expireSessions ends sessions that were silent since before a time.
func (s *State) expireSessions(before int64) Outcome {
	var ended []uint64
	more := false
	for key, value := range s.entries.prefixed([]byte{kindSession}) {
		if e, _ := unpackSession(value); e.active < before {
			if len(ended) == maxExpire {
				more = true
				break
			}
			ended = append(ended, number(key, 1))
		}
	}
	for _, id := range ended {
		for sequence, found := s.oldest(id); found; sequence, found = s.oldest(id) {
			s.remove(answerKey(id, sequence))
		}
		s.remove(sessionKey(id))
		s.counts.Sessions--
	}
	return Outcome{More: more}
}

// recall returns the remembered outcome of a mutation.
func (s *State) recall(id, sequence uint64) (Outcome, bool) {
	value, found := s.entries.get(answerKey(id, sequence))
	if !found {
		return Outcome{}, false
	}
	out, err := unpackAnswer(value)
	if err != nil {
		return failed(gfs.Errorf(gfs.CodeInternal, "damaged answer %d of session %016x", sequence, id)), true
	}
	out.Repeated = true
	return out, true
}

var errAnswer = errors.New("damaged answer")

// packAnswer writes an outcome: the code, then the detail or the reply.
func packAnswer(out Outcome) []byte {
	if out.Err != nil {
		return append(binary.AppendUvarint(nil, uint64(out.Err.Code)), out.Err.Detail...)
	}
	b := append(make([]byte, 0, 128), byte(gfs.CodeNone))
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, out.Reply)
	if err != nil {
		panic(err) // paths and names are checked to be UTF-8, and nothing else makes it fail
	}
	return b
}

func unpackAnswer(value []byte) (Outcome, error) {
	d := decoder{rest: value}
	code := gfs.Code(d.uvarint(1<<16 - 1))
	if d.failed {
		return Outcome{}, errAnswer
	}
	if code != gfs.CodeNone {
		return Outcome{Err: &gfs.Error{Code: code, Detail: string(d.rest)}}, nil
	}
	reply := &pb.NamespaceReply{}
	if err := proto.Unmarshal(d.rest, reply); err != nil {
		return Outcome{}, errAnswer
	}
	return Outcome{Reply: reply}, nil
}
