package actors

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Command is a message to an actor whose shell is S, normally a pointer type.
type Command[S any] interface {
	// Do is one turn of the actor: it has the shell to itself until it returns. It must not wait: no Ask, no
	// sleep, no network, no long disk work. A panic is a bug and goes to Config.Crash.
	Do(shell S)
}

// Func is a command made of a function: for completions of slow work and for tests.
type Func[S any] func(shell S)

// Do calls f.
func (f Func[S]) Do(shell S) { f(shell) }

// Ref addresses an actor whose shell is S. It is a comparable value that may be copied and kept beyond the actor's
// end. The zero Ref addresses nobody: it drops commands.
type Ref[S any] struct{ cell *cell }

// cell is what the kit knows about one actor, whatever its shell.
type cell struct {
	system  *System
	name    string
	pid     *actor.PID
	staged  *mailbox      // in the place of pid on a stage
	gone    atomic.Bool   // set before stopped is closed, so that Send need not select
	stopped chan struct{} // closed after the last turn
}

// stopOrder is the kit's own message that ends an actor after the commands already queued. (The library's poison
// pill would do the same, but one sent to a dead actor is logged as a dead letter.)
type stopOrder struct{}

// IgnoreDeadLetterLogging tells the library that an order to a stopped actor is nothing to report.
func (stopOrder) IgnoreDeadLetterLogging() {}

// Spawn starts an actor with the given shell, which from now on belongs to the actor alone. The name is for logs
// and need not be unique. In a system that is shutting down the actor is stopped from its beginning, without a turn.
func Spawn[S any](sys *System, name string, shell S) Ref[S] {
	c := &cell{system: sys, name: name, stopped: make(chan struct{})}
	h := &host[S]{cell: c, shell: shell}
	if sys.stage != nil {
		c.staged = &mailbox{stage: sys.stage, receive: h.onStage}
	}
	sys.start(c, h)
	return Ref[S]{c}
}

// Name is the name given to Spawn; empty for the zero Ref.
func (r Ref[S]) Name() string {
	if r.cell == nil {
		return ""
	}
	return r.cell.name
}

// Send queues a command. It never blocks and may be called from anywhere, also from the actor itself. Commands of
// one sender run in the order in which they were sent. A command to a stopped actor is dropped; so is one queued
// behind Stop. A nil command is a bug and panics.
func (r Ref[S]) Send(cmd Command[S]) {
	if cmd == nil {
		panic("actors: nil command")
	}
	if r.cell == nil || r.cell.gone.Load() {
		return
	}
	r.cell.send(cmd)
}

// Stop ends the actor after the commands already queued and returns at once. If the shell has a method Stopped(),
// it is called in the last turn: the place to answer who still waits. Stopping twice is the same as once.
func (r Ref[S]) Stop() {
	if r.cell != nil {
		r.cell.stop()
	}
}

// StopWait is Stop, and waits for the last turn or for the end of ctx, whose error it then returns wrapped. It
// must not be called inside the actor.
func (r Ref[S]) StopWait(ctx context.Context) error {
	if r.cell == nil {
		return nil
	}
	r.cell.stop()
	select {
	case <-r.cell.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("actor %s has not stopped yet: %w", r.cell.name, ctx.Err())
	}
}

// Done is closed when the actor has had its last turn. For the zero Ref it is closed already.
func (r Ref[S]) Done() <-chan struct{} {
	if r.cell == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return r.cell.stopped
}

func (c *cell) stop() {
	if !c.gone.Load() {
		c.send(stopOrder{})
	}
}

// send queues a message.
func (c *cell) send(message any) {
	if c.staged != nil {
		c.staged.send(message)
		return
	}
	c.system.root.Send(c.pid, message)
}

// markStopped is called once, by Spawn or by the actor's last turn.
func (c *cell) markStopped() {
	c.system.forget(c)
	c.gone.Store(true)
	close(c.stopped)
}

// unavailable is the error of who asks a stopped actor: nothing was begun.
func (c *cell) unavailable() error {
	name := "nobody"
	if c != nil {
		name = c.name
	}
	return gfs.Errorf(gfs.CodeUnavailable, "actor %s has stopped; try again", name)
}

// host is the library's view of an actor: the only Receive in the tree.
type host[S any] struct {
	cell   *cell
	shell  S
	broken bool // a turn panicked: the shell's state means nothing any more
}

// errGoexit is what a turn is said to have panicked with if it ended its goroutine, as t.FailNow does.
var errGoexit = errors.New("runtime.Goexit inside an actor (t.Fatal in a command?)")

// Receive runs one turn.
func (h *host[S]) Receive(ctx actor.Context) {
	h.turn(ctx.Message(), func() { ctx.Stop(ctx.Self()) })
}

// onStage runs one turn on a stage.
func (h *host[S]) onStage(message any) {
	h.turn(message, func() {
		h.cell.staged.drop()
		if !h.broken {
			h.turn(&actor.Stopped{}, nil)
		}
	})
}

// turn carries out one message. stop ends the actor, whose last message is then actor.Stopped.
func (h *host[S]) turn(message any, stop func()) {
	if h.broken {
		return
	}
	finished := false
	defer func() {
		if !finished {
			h.fail(stop, recover())
		}
	}()
	switch message := message.(type) {
	case Command[S]:
		message.Do(h.shell)
	case stopOrder:
		stop()
	case *actor.Stopped:
		if last, ok := any(h.shell).(interface{ Stopped() }); ok {
			last.Stopped()
		}
		h.cell.markStopped()
	}
	finished = true
}

// fail ends an actor whose turn panicked. Stopped() is not called: the shell cannot be trusted.
func (h *host[S]) fail(stop func(), value any) {
	if value == nil {
		value = errGoexit
	}
	h.broken = true
	err := h.cell.system.logPanic(h.cell.name, value)
	h.cell.markStopped()
	if stop != nil {
		stop()
	}
	h.cell.system.crashed(err)
}

// Timer is a command that will be sent later.
type Timer struct {
	timer  *time.Timer
	staged func() bool // stops it in the place of timer on a stage
}

// After sends cmd to r when d has passed; at once, from another goroutine, if d is not positive.
func After[S any](r Ref[S], d time.Duration, cmd Command[S]) *Timer {
	if cmd == nil {
		panic("actors: nil command")
	}
	if r.cell != nil && r.cell.staged != nil {
		return &Timer{staged: r.cell.system.stage.After(d, func() { r.Send(cmd) })}
	}
	return &Timer{timer: time.AfterFunc(d, func() { r.Send(cmd) })}
}

// Stop takes the timer back and reports whether it was in time. If not, the command has been sent and may still be
// queued, so a command of a timer checks that it still matters. A nil Timer can be stopped, and is not in time.
func (t *Timer) Stop() bool {
	switch {
	case t == nil:
		return false
	case t.staged != nil:
		return t.staged()
	}
	return t.timer.Stop()
}
