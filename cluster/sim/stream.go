package sim

import (
	"errors"
	"slices"
	"time"
)

// stream is a TCP connection between two processes. What is sent arrives in order, until one end closes it, one of the
// processes ends, or it breaks; then what is on its way may be lost.
type stream struct {
	network *network
	ends    [2]end
	broken  bool // nothing that is sent from now on arrives
}

// end is one end of a stream.
type end struct {
	node *node
	life *life
	last time.Duration // when what was sent last to this end arrives
	lost func(error)   // called once, when this end has heard all that it will hear
	over bool
}

// errBroken is what an end hears last.
var errBroken = errors.New("simulated connection ended")

// dial opens a stream from a process to a node. It is refused if no process is there.
func (n *network) dial(from, to *node) *stream {
	if !to.up() {
		return nil
	}
	s := &stream{network: n}
	s.ends[0] = end{node: from, life: from.life}
	s.ends[1] = end{node: to, life: to.life}
	n.streams = append(n.streams, s)
	for i := range s.ends {
		s.ends[i].life.endings = append(s.ends[i].life.endings, s.finish)
	}
	return s
}

// send makes f happen at an end when what was sent there before has arrived.
func (s *stream) send(to int, f func()) {
	receiver, sender := &s.ends[to], &s.ends[1-to]
	if s.broken || sender.life.dead {
		return
	}
	s.at(to, s.arrival(sender, receiver), func() {
		if !receiver.over {
			f()
		}
	})
}

// arrival is when something sent now arrives: what is cut is sent again when it no longer is.
func (s *stream) arrival(sender, receiver *end) time.Duration {
	n := s.network
	at := max(n.world.now, n.cutUntil(sender.node, receiver.node)) + n.delay() + n.lateness(sender.node, receiver.node)
	receiver.last = max(receiver.last, at)
	return receiver.last
}

func (s *stream) at(to int, at time.Duration, f func()) {
	w := s.network.world
	w.after(at-w.now, s.ends[to].life, f)
}

// finish ends the stream: each end hears of it after what is on its way there, or after a part of that. Across a cut it
// takes until the cut ends.
func (s *stream) finish() {
	if s.broken {
		return
	}
	s.broken = true
	s.network.streams = slices.DeleteFunc(s.network.streams, func(other *stream) bool { return other == s })
	w := s.network.world
	for i := range s.ends {
		e := &s.ends[i]
		at := max(s.arrival(&s.ends[1-i], e), w.now)
		if w.chance(2) { // what is on its way is lost from a certain moment on
			at = max(w.now, s.network.cutUntil(s.ends[1-i].node, e.node)) + w.between(0, at-w.now)
		}
		s.at(i, at, func() { s.hear(i) })
	}
}

// hear tells an end that the stream has ended.
func (s *stream) hear(i int) {
	e := &s.ends[i]
	if !e.over {
		e.over = true
		if e.lost != nil {
			e.lost(errBroken)
		}
	}
}

// hangUp is the end of the stream by a process of its own will: it hears nothing more from the other end.
func (s *stream) hangUp(i int) {
	s.finish()
	e := &s.ends[i]
	if !e.over {
		e.over = true
		if lost := e.lost; lost != nil {
			s.at(i, s.network.world.now, func() { lost(errBroken) })
		}
	}
}
