package chunkserver

import (
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Simulated is a chunkserver in surroundings that a simulation has made, which hands it what a process gets from its
// sockets. All of its code but those runs as it does in a process. It has one thread: that of its stage.
type Simulated struct {
	cs     *Chunkserver
	orders map[string]bus.Endpoint
}

// StartSimulated opens the directories and begins to beat. Of cfg what has to do with NATS and TCP is not used; disks
// says of the store what cfg does not, pushes of the data plane. Errors are those of store.Open.
func StartSimulated(cfg Config, around Surroundings, disks store.Config, pushes dataplane.PushLimits) (*Simulated, error) {
	cs, err := newChunkserver(cfg)
	if err != nil {
		return nil, err
	}
	if err := cs.open(around, disks); err != nil {
		return nil, err
	}
	cs.server = dataplane.Detached(dataplane.Config{
		Handler: handler{cs}, Pool: &cs.pool, Log: cs.log, Clock: cs.now, Around: around, Pushes: pushes,
	})
	cs.self = &pb.Server{Id: string(cs.ID()), Address: cfg.Advertise, Rack: cfg.Rack}
	s := &Simulated{cs: cs, orders: make(map[string]bus.Endpoint)}
	for _, e := range cs.orders() {
		s.orders[e.Name] = e
	}
	cs.beat()
	return s, nil
}

// Abandon lets go of the directories as the end of a process does. Nothing else of the server may run any more.
func (s *Simulated) Abandon() error { return s.cs.store.Close() }

// ID is the server's id.
func (s *Simulated) ID() gfs.ServerID { return s.cs.ID() }

// Store is the server's store, to look at.
func (s *Simulated) Store() *store.Store { return s.cs.store }

// Data is the server's data plane, for what comes by data connections that it does not hand on unchanged.
func (s *Simulated) Data() *dataplane.Server { return s.cs.server }

// Pool is where the memory of mutations and frames for the server comes from.
func (s *Simulated) Pool() *dataplane.Pool { return &s.cs.pool }

// Handler takes what comes by data connections, but for chains.
func (s *Simulated) Handler() dataplane.Handler { return handler{s.cs} }

// Order takes an order of a master: command is one of messages.Command…
func (s *Simulated) Order(command string, r *bus.Request) { s.orders[command].Handle(r) }

// OpenChain takes a chain stream.
func (s *Simulated) OpenChain(open *pb.ChainOpen, up Upstream) dataplane.ChainSink {
	return handler{s.cs}.openChain(open, up)
}
