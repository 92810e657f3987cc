package sim

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages/gfs"
)

// node is a machine with at most one process.
type node struct {
	name string
	life *life // of its process, the last one if that has ended
}

func (n *node) up() bool { return n.life != nil && !n.life.dead }

// link is what is between two nodes.
type link struct{ from, to *node }

// network carries messages, which may be late, reordered, lost or doubled, and streams, which are in order until they
// break.
type network struct {
	world *world
	// cut is until when nothing passes between two nodes, in one direction.
	cut map[link]time.Duration
	// faults is one in how many messages is lost, doubled or very late; 0 for none.
	faults int
	// lose are the links on which the next frame of a chain is lost, as only a mistake could do it.
	lose map[link]bool
	// late is by how much a message between two nodes may take longer, and echo by how much later a message on the bus
	// comes to a node once more.
	late    map[link]time.Duration
	echo    map[*node]time.Duration
	streams []*stream
	serve   func(c *call, subject string, data []byte) bool
}

func (n *network) cutUntil(from, to *node) time.Duration { return n.cut[link{from, to}] }

// delay is how long a message travels.
func (n *network) delay() time.Duration {
	w := n.world
	switch {
	case n.faults > 0 && w.chance(n.faults):
		if w.chance(4) {
			return w.between(0, 3*time.Second)
		}
		return w.between(0, 700*time.Millisecond)
	case w.chance(10):
		return w.between(0, 5*time.Millisecond)
	}
	return w.between(50*time.Microsecond, 500*time.Microsecond)
}

// lateness is how much longer a message travels between two nodes.
func (n *network) lateness(from, to *node) time.Duration {
	if d := n.late[link{from, to}]; d > 0 {
		return n.world.between(0, d)
	}
	return 0
}

// datagram is a message that may be lost or doubled. It reaches whatever process the node has by then.
func (n *network) datagram(from *life, fromNode, to *node, f func()) {
	w := n.world
	if from.dead || n.cutUntil(fromNode, to) > w.now || n.faults > 0 && w.chance(n.faults) {
		return
	}
	arrive := func() {
		if to.up() {
			w.after(0, to.life, f) // a stopped process takes it when it goes on
		}
	}
	if d := n.echo[to]; d > 0 {
		w.after(w.between(0, d), nil, arrive)
	}
	copies := 1
	if n.faults > 0 && w.chance(n.faults) {
		copies = 2
	}
	for range copies {
		w.after(n.delay()+n.lateness(fromNode, to), nil, arrive)
	}
}

// call is a request on the bus with its answers.
type call struct {
	network *network
	node    *node
	life    *life
	on      func(bus.Answer) (done bool)
	ended   bool
	stop    func() bool
}

// ask sends a request to whoever serves its subject; on gets the answers as with bus.AskAsync.
func (n *network) ask(from *node, spec bus.Call, on func(bus.Answer) bool) {
	c := &call{network: n, node: from, life: from.life, on: on}
	data, err := proto.Marshal(spec.Request)
	if err != nil {
		panic(err)
	}
	if spec.Total <= 0 {
		spec.Total = bus.RequestTimeout
	}
	c.stop = c.life.After(spec.Total, func() {
		c.end(gfs.Errorf(gfs.CodeOutcomeUnknown, "%s: no last answer within %v", spec.Subject, spec.Total))
	})
	if !n.serve(c, spec.Subject, data) {
		c.life.After(n.delay(), func() { c.end(gfs.Errorf(gfs.CodeUnavailable, "nobody serves %s", spec.Subject)) })
	}
}

func (c *call) end(err error) {
	if !c.ended {
		c.ended = true
		c.stop()
		c.on(bus.Answer{Err: err})
	}
}

// deliver brings the request to a node; take gets it there.
func (c *call) deliver(to *node, subject string, data []byte, take func(*bus.Request)) {
	n := c.network
	n.datagram(c.life, c.node, to, func() {
		server := to.life
		take(bus.NewRequest(subject, data, func(a bus.Answer) {
			n.datagram(server, to, c.node, func() {
				if c.ended || c.node.life != c.life {
					return
				}
				if c.on(a) {
					c.ended = true
					c.stop()
				}
			})
		}))
	})
}

// askAndWait is ask for a job.
func (n *network) askAndWait(ctx context.Context, from *node, spec bus.Call, reply proto.Message) error {
	job, answered := n.world.running, false
	var answer bus.Answer
	n.ask(from, spec, func(a bus.Answer) bool {
		if !answered {
			answer, answered = a, true
			job.wake(0)
		}
		return true
	})
	for !answered && ctx.Err() == nil {
		job.park(ctx)
	}
	if !answered {
		return gfs.Errorf(gfs.CodeOutcomeUnknown, "no answer on %s", spec.Subject)
	}
	return answer.Decode(reply)
}
