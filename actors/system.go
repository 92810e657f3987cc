package actors

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/sirupsen/logrus"
)

// shutdownPatience is how long Shutdown waits for actors that do not end their turn: an actor never waits, so
// one that needs longer has a bug, and a bug must not keep a process from ending.
const shutdownPatience = 10 * time.Second

// deadLetterInterval is the library's throttle of dead letters. It holds a goroutine that long after each one, so
// it is short; what it logs is at Debug anyway.
const deadLetterInterval = 10 * time.Millisecond

// Config is what a System needs from outside.
type Config struct {
	// Log receives panics (Error) and the library's own messages (Debug). Required.
	Log *logrus.Entry
	// Crash is called once, with the first panic inside an actor of the system, after it was logged with its
	// stack; later panics are only logged. It runs on the goroutine of the actor. The default writes the error to
	// stderr and ends the process with status 2. A Crash that returns leaves the actor stopped for good.
	Crash func(error)
	// Stage, if not nil, carries out turns and timers in the place of goroutines and the clock.
	Stage Stage
}

// System is a set of actors that start and end together. It is safe for concurrent use.
type System struct {
	log     *logrus.Entry
	crash   func(error)
	stage   Stage // nil outside of simulations, where what follows is nil
	library *actor.ActorSystem
	root    *actor.RootContext // of library, with the guardian of all actors
	props   *actor.Props       // of every actor: one for all saves half of an idle actor's memory

	crashOnce    sync.Once
	shutdownOnce sync.Once
	owed         atomic.Int64

	mu       sync.Mutex
	closed   bool
	sequence uint64             // makes the library's ids unique
	starting actor.Actor        // what props makes an actor of
	cells    map[*cell]struct{} // running actors; a stopped one leaves
}

// PanicError is a panic inside an actor, as Config.Crash gets it.
type PanicError struct {
	Actor string // the name given to Spawn
	Value any    // what was panicked with
	Stack []byte // of the goroutine that panicked
}

// Error names the actor and the panic's value; the stack is left to the field.
func (e *PanicError) Error() string { return fmt.Sprintf("actor %s panicked: %v", e.Actor, e.Value) }

// Unwrap is the panic's value where that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// NewSystem makes a system without actors. It panics if cfg.Log is nil. One on a stage is not for Shutdown: it ends with
// whoever runs the stage.
func NewSystem(cfg Config) *System {
	if cfg.Log == nil {
		panic("actors: Config.Log is required")
	}
	if cfg.Crash == nil {
		cfg.Crash = exitProcess
	}
	s := &System{log: cfg.Log, crash: cfg.Crash, stage: cfg.Stage, cells: make(map[*cell]struct{})}
	if s.stage != nil {
		return s
	}
	quiet := slog.New(newQuietHandler(cfg.Log))
	s.library = actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }),
		actor.WithDeadLetterThrottleCount(0), // no line for each; Send drops most before they get there
		actor.WithDeadLetterThrottleInterval(deadLetterInterval),
	)
	s.root = s.library.Root.Copy().WithGuardian(&guardian{s})
	s.props = actor.PropsFromProducer(func() actor.Actor { return s.starting }, actor.WithMailbox(actor.Unbounded()))
	return s
}

func exitProcess(err error) {
	fmt.Fprintln(os.Stderr, err)
	if p, ok := err.(*PanicError); ok {
		fmt.Fprintf(os.Stderr, "%s\n", p.Stack)
	}
	os.Exit(2)
}

// Shutdown stops every actor after the commands already queued to it and waits for their last turns. From its
// start Spawn returns refs of stopped actors. It is idempotent, and each call returns only when all is done. An
// actor that does not end its turn within 10 s is named at Error and left behind. It must not be called inside an
// actor.
func (s *System) Shutdown() {
	s.shutdownOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		running := make([]*cell, 0, len(s.cells))
		for c := range s.cells {
			running = append(running, c)
		}
		s.mu.Unlock()
		for _, c := range running {
			c.stop()
		}
		s.await(running)
		s.library.Shutdown()
	})
}

func (s *System) await(running []*cell) {
	patience := time.NewTimer(shutdownPatience)
	defer patience.Stop()
	for i, c := range running {
		select {
		case <-c.stopped:
		case <-patience.C:
			stuck := slices.DeleteFunc(running[i:], func(c *cell) bool { return c.gone.Load() })
			s.log.WithField("actors", names(stuck)).Error("actors did not stop")
			return
		}
	}
}

// names lists the first few actors of a log line.
func names(cells []*cell) string {
	const most = 10
	var list []string
	for _, c := range cells[:min(most, len(cells))] {
		list = append(list, c.name)
	}
	if more := len(cells) - most; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}

// Running is the number of actors that have not stopped.
func (s *System) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.cells)
}

// Outstanding is the number of Asks whose command an actor has begun or will begin and that nobody answered yet,
// also when their callers have given up. An idle system has none: a test that finds one has found a path on which
// a reply is forgotten.
func (s *System) Outstanding() int { return int(s.owed.Load()) }

// start runs the actor of a cell, unless the system is shutting down. The lock is held all along, so that Shutdown
// finds an actor either running, and stops it, or not at all; and because the library calls the producer of props
// inside SpawnNamed, and never again for an actor that is not restarted.
func (s *System) start(c *cell, host actor.Actor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.gone.Store(true)
		close(c.stopped)
		return
	}
	s.cells[c] = struct{}{}
	if s.stage != nil {
		return
	}
	s.sequence++
	id := c.name + "#" + strconv.FormatUint(s.sequence, 10)
	s.starting = host
	pid, err := s.root.SpawnNamed(s.props, id)
	s.starting = nil
	if err != nil {
		panic(fmt.Sprintf("actors: spawn %s: %v", id, err)) // the sequence makes ids unique
	}
	c.pid = pid
}

func (s *System) forget(c *cell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cells, c)
}

// logPanic logs a panic with the stack of the goroutine that it is called on.
func (s *System) logPanic(name string, value any) *PanicError {
	err := &PanicError{Actor: name, Value: value, Stack: debug.Stack()}
	s.log.WithFields(logrus.Fields{"actor": name, "err": fmt.Sprint(value), "stack": string(err.Stack)}).
		Error("actor panicked")
	return err
}

// crashed hands the first panic to Crash.
func (s *System) crashed(err *PanicError) {
	s.crashOnce.Do(func() { s.crash(err) })
}

// guardian is what the library asks about failures of a system's actors, whatever its strategies of restart.
type guardian struct{ system *System }

// HandleFailure ends the process instead of restarting the actor with fresh state (a lease granted twice). The kit
// catches the panics of commands itself, so what gets here is a panic of the library.
func (g *guardian) HandleFailure(_ *actor.ActorSystem, _ actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any) {
	g.system.crashed(g.system.logPanic(child.GetId(), reason))
}
