package master

import (
	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/oplog"
)

// Surroundings are what a master's actors meet the world through. Those of a process are goroutines, an operation log and
// NATS; a simulation has its own.
type Surroundings interface {
	// Stage carries out turns, timers and jobs; nil is goroutines.
	Stage() actors.Stage
	// ProposeAsync and LinearizeAsync are those of oplog.Log.
	ProposeAsync(record []byte, done func(outcome any, err error))
	LinearizeAsync(done func(error))
	// AskAsync and PublishJSON are those of package bus.
	AskAsync(call bus.Call, on func(bus.Answer) (done bool))
	PublishJSON(subject string, value any) error
}

// process is the surroundings of a master that is a process, or part of one.
type process struct {
	*oplog.Log
	conn *bus.Conn
}

func (p *process) Stage() actors.Stage { return nil }

func (p *process) AskAsync(call bus.Call, on func(bus.Answer) (done bool)) {
	bus.AskAsync(p.conn, call, on)
}

func (p *process) PublishJSON(subject string, value any) error {
	return bus.PublishJSON(p.conn, subject, value)
}
