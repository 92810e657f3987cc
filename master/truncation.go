package master

import (
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

// A truncation is made ready in rounds until its record takes effect or time is up: what it touches is closed, then the
// last chunk is copied at the new length, then the record is proposed. What went wrong meanwhile (somebody opened a chunk
// again, a chunkserver died, this master is not the one that began) shows in the next round or in the record's outcome:
// the state decides, and nothing here has to be undone.

const (
	// truncationTime is how long a file is kept from being written to on behalf of a truncation.
	truncationTime = 15 * time.Second
	// truncationPause is the pause before another round, where the last one failed.
	truncationPause = 100 * time.Millisecond
	// maxTruncations bounds those on their way, and maxTruncationWaiters who asks for the same one.
	maxTruncations       = 1024
	maxTruncationWaiters = 64
)

// truncation is one file's truncation on its way.
type truncation struct {
	mutation *pb.NamespaceMutation
	file     gfs.FileID
	first    int // no chunk from here on may be opened or made
	until    time.Time
	waiters  []*bus.Request
	sealing  int   // chunks that are being closed
	trouble  error // of this round, or the last
}

// repeats reports whether a mutation is the same one, asked for again.
func (t *truncation) repeats(m *pb.NamespaceMutation) bool {
	return m.GetSession().GetId() != 0 && m.GetSession().GetId() == t.mutation.GetSession().GetId() &&
		m.GetSession().GetSequence() == t.mutation.GetSession().GetSequence()
}

// truncate is a client's wish.
type truncate struct {
	request  *bus.Request
	mutation *pb.NamespaceMutation
}

func (c truncate) Do(s *namespaceShell) {
	if s.period == nil {
		c.request.Fail(errNotActing())
		return
	}
	need, err := s.view().Truncation(c.mutation.GetIdentity(), c.mutation.GetTruncate())
	if err != nil { // the record's outcome is the same, unless this is the retry of one that took effect
		s.propose(s.period, &pb.Record{Command: &pb.Record_Mutation{Mutation: c.mutation}}, func(outcome namespace.Outcome, err error) {
			switch {
			case gfs.CodeOf(err) == gfs.CodeConflict: // meanwhile it has something to do
				c.request.Fail(gfs.Errorf(gfs.CodeBusy, "the file has changed: try again"))
			case err != nil:
				c.request.Fail(err)
			default:
				c.request.Reply(outcome.Reply)
			}
		})
		return
	}
	t := s.truncations[need.File]
	switch {
	case t != nil && t.repeats(c.mutation) && len(t.waiters) < maxTruncationWaiters:
		t.waiters = append(t.waiters, c.request)
	case t != nil:
		c.request.Fail(gfs.Errorf(gfs.CodeBusy, "the file is being truncated: try again"))
	case len(s.truncations) >= maxTruncations:
		c.request.Fail(gfs.Errorf(gfs.CodeBusy, "%d files are being truncated: try again", len(s.truncations)))
	default:
		t = &truncation{mutation: c.mutation, file: need.File, first: need.First, until: s.now().Add(truncationTime), waiters: []*bus.Request{c.request}}
		s.truncations[need.File] = t
		actors.After(s.services.namespace, truncationTime, actors.Command[*namespaceShell](truncationDue{t}))
		s.prepareTruncation(t)
	}
}

// truncating reports whether a file's chunk must not be opened or made now.
func (s *namespaceShell) truncating(file gfs.FileID, index int) bool {
	t := s.truncations[file]
	return t != nil && index >= t.first
}

// prepareTruncation does what the next step needs.
func (s *namespaceShell) prepareTruncation(t *truncation) {
	need, err := s.view().Truncation(t.mutation.GetIdentity(), t.mutation.GetTruncate())
	switch {
	case err == nil && len(need.Open) > 0:
		s.sealChunks(t, need.Open)
	case err == nil && need.Replace.Handle != 0:
		s.copyLast(t, need)
	default:
		s.proposeTruncation(t, nil, nil)
	}
}

// sealChunks has chunks closed.
func (s *namespaceShell) sealChunks(t *truncation, handles []gfs.ChunkHandle) {
	p := s.period
	t.sealing, t.trouble = len(handles), nil
	for _, handle := range handles {
		done := func(err error) { s.services.namespace.Send(chunkSealed{p, t, err}) }
		if s.leaseOf(handle) {
			s.tell(handle, leaseSeal{done})
		} else {
			done(nil)
		}
	}
}

// chunkSealed says that a chunk is closed, or why not.
type chunkSealed struct {
	period *period
	t      *truncation
	err    error
}

func (c chunkSealed) Do(s *namespaceShell) {
	if !s.isUnderWay(c.period, c.t) {
		return
	}
	if c.t.sealing--; c.err != nil {
		c.t.trouble = c.err
	}
	switch {
	case c.t.sealing > 0:
	case c.t.trouble != nil:
		s.anotherRound(c.t)
	default:
		s.prepareTruncation(c.t)
	}
}

func (s *namespaceShell) isUnderWay(p *period, t *truncation) bool {
	return s.period != nil && s.period == p && s.truncations[t.file] == t
}

// anotherRound begins again after a pause.
func (s *namespaceShell) anotherRound(t *truncation) {
	actors.After(s.services.namespace, truncationPause, actors.Command[*namespaceShell](truncationAgain{s.period, t}))
}

type truncationAgain struct {
	period *period
	t      *truncation
}

func (c truncationAgain) Do(s *namespaceShell) {
	if s.isUnderWay(c.period, c.t) {
		s.prepareTruncation(c.t)
	}
}

// truncationDue ends the wait. The client's library asks again; should the record still take effect, it hears so then.
type truncationDue struct{ t *truncation }

func (c truncationDue) Do(s *namespaceShell) {
	if t := c.t; s.truncations[t.file] == t {
		err := gfs.Errorf(gfs.CodeUnavailable, "the chunks at the file's end could not be closed and copied within %s", truncationTime)
		if t.trouble != nil {
			err.Detail += ": " + t.trouble.Error()
		}
		s.endTruncation(t, nil, err)
	}
}

// copyLast has the chunk that the file will end with copied, at the length that it will have.
func (s *namespaceShell) copyLast(t *truncation, need namespace.Truncation) {
	handle := s.takeHandle()
	if handle == 0 {
		s.anotherRound(t) // a reservation is on its way
		return
	}
	s.copies[handle] = true
	p := s.period
	order := &pb.CopyOrder{
		Handle: uint64(handle), Version: uint64(p.nextVersion()), Source: uint64(need.Replace.Handle),
		SourceVersion: uint64(need.Replace.Version), Length: need.Length,
	}
	s.registry.Send(copyChunk{p, order, need.Replace.Replicas, func(made []registry.Note, err error) {
		s.services.namespace.Send(chunkCopied{p, t, order, made, err})
	}})
}

// chunkCopied is the outcome of copyLast.
type chunkCopied struct {
	period *period
	t      *truncation
	order  *pb.CopyOrder
	made   []registry.Note
	err    error
}

func (c chunkCopied) Do(s *namespaceShell) {
	switch underWay := s.isUnderWay(c.period, c.t); {
	case !underWay || c.err != nil:
		delete(s.copies, gfs.ChunkHandle(c.order.Handle))
		if underWay {
			c.t.trouble = c.err
			s.anotherRound(c.t)
		}
	default:
		s.proposeTruncation(c.t, &pb.Replacement{
			Source: c.order.Source, SourceVersion: c.order.SourceVersion, Handle: c.order.Handle, Version: c.order.Version, Members: uint32(len(c.made)),
		}, c.made)
	}
}

// proposeTruncation puts the truncation into the log. made are the replicas of the replacement.
func (s *namespaceShell) proposeTruncation(t *truncation, replacement *pb.Replacement, made []registry.Note) {
	p, m := s.period, proto.CloneOf(t.mutation)
	m.GetTruncate().Replacement = replacement
	s.propose(p, &pb.Record{Command: &pb.Record_Mutation{Mutation: m}}, func(outcome namespace.Outcome, err error) {
		s.services.namespace.Send(truncationLogged{p, t, gfs.ChunkHandle(replacement.GetHandle()), made, outcome, err})
	})
}

// truncationLogged is the record's outcome.
type truncationLogged struct {
	period  *period
	t       *truncation
	handle  gfs.ChunkHandle // of the replacement, 0 if there was none
	made    []registry.Note
	outcome namespace.Outcome
	err     error
}

func (c truncationLogged) Do(s *namespaceShell) {
	if s.period == nil || s.period != c.period {
		return
	}
	delete(s.copies, c.handle) // placed, or garbage
	if c.err != nil && gfs.CodeOf(c.err) == gfs.CodeConflict {
		c.t.trouble = c.err
		if s.truncations[c.t.file] == c.t {
			s.anotherRound(c.t)
		}
		return
	}
	if c.err != nil || c.outcome.Repeated {
		s.endTruncation(c.t, c.outcome.Reply, c.err)
		return
	}
	if c.handle != 0 {
		s.registry.Send(noteReplicas{c.period, c.handle, c.made})
	}
	// What was cut off is deleted before the client hears, so that whoever cached where it was reads it no more.
	s.registry.Send(retireChunks{c.period, c.outcome.Dropped, func() {
		s.services.namespace.Send(truncationDone{c.t, c.outcome.Reply})
	}})
}

// truncationDone says that what was cut off is gone.
type truncationDone struct {
	t     *truncation
	reply *pb.NamespaceReply
}

func (c truncationDone) Do(s *namespaceShell) { s.endTruncation(c.t, c.reply, nil) }

// endTruncation answers all who wait, if nobody has before.
func (s *namespaceShell) endTruncation(t *truncation, reply *pb.NamespaceReply, err error) {
	if s.truncations[t.file] == t {
		delete(s.truncations, t.file)
	}
	for _, r := range t.waiters {
		if err != nil {
			r.Fail(err)
		} else {
			r.Reply(reply)
		}
	}
	t.waiters = nil
}
