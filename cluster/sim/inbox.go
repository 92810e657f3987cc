package sim

import (
	"context"
	"slices"

	"github.com/cairnfs/cairn/messages/pb"
)

// inbox is what came down a chain to a member, who takes up one thing after the other: while a frame waits for data that were
// pushed, what comes behind it waits too.
type inbox struct {
	server  *server
	life    *life
	primary string // the address at which pushed data are to be had
	waiting []func()
	reading bool            // a frame waits for data
	dropped bool            // the member gave the stream up: it takes no more frames
	ctx     context.Context // ends then
	cancel  context.CancelFunc
}

func newInbox(s *server, primary string) inbox {
	b := inbox{server: s, life: s.life, primary: primary}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// take does f when everything before it is done.
func (b *inbox) take(f func()) {
	b.waiting = append(b.waiting, f)
	b.goOn()
}

func (b *inbox) goOn() {
	for !b.reading && len(b.waiting) > 0 {
		f := b.waiting[0]
		b.waiting = b.waiting[1:]
		f()
	}
}

// frame does f, which is about a frame, unless the member has given the stream up before.
func (b *inbox) frame(f func()) {
	b.take(func() {
		if !b.dropped {
			f()
		}
	})
}

func (b *inbox) drop() {
	b.dropped = true
	b.cancel()
}

// received takes up a frame. What names data that were pushed may have to wait for them.
func (u upEnd) received(message *pb.ChainApply, data []byte) {
	if !slices.ContainsFunc(message.Mutations, func(m *pb.ChainMutation) bool { return m.PushedSession != 0 }) {
		u.read(message, data)
		return
	}
	b := &u.inbox
	b.reading = true
	b.life.begin(0, func() {
		u.read(message, data)
		b.reading = false
		b.goOn()
	})
}

// read makes the frame and hands it on; one that cannot be made ends the stream.
func (u upEnd) read(message *pb.ChainApply, data []byte) {
	b := &u.inbox
	c := b.server.cluster
	frame, err := b.server.server.Data().DecodeApply(b.ctx, message, data, b.primary, func() { u.Ack(0, "", true) })
	if err != nil {
		c.note("%s refuses a frame: %v", b.server.name, err)
		u.Drop()
		return
	}
	c.checks.carried(b.server, message, frame)
	u.sink.Apply(frame)
}
