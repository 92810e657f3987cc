package master

import (
	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

// Simulated is a master in surroundings that a simulation has made, which hands it requests and what the log has
// committed. Its actors run as they do in a process. It has one thread: that of its stage.
type Simulated struct {
	v         *services
	endpoints map[string]bus.Endpoint
}

// StartSimulated makes a master with an empty state. Of cfg what has to do with NATS and the log is not used.
func StartSimulated(cfg Config, around Surroundings) (*Simulated, error) {
	v, err := newServices(&cfg)
	if err != nil {
		return nil, err
	}
	v.around = around
	v.makeActors(cfg.Crash)
	e := &edge{services: v}
	s := &Simulated{v: v, endpoints: make(map[string]bus.Endpoint)}
	for _, list := range [][]bus.Endpoint{e.forChunkservers(), e.forClients()} {
		for _, endpoint := range list {
			s.endpoints[endpoint.Subject] = endpoint
		}
	}
	return s, nil
}

// Subjects are those of the endpoints, of which one has a wildcard.
func (s *Simulated) Subjects() []string {
	subjects := make([]string, 0, len(s.endpoints))
	for subject := range s.endpoints {
		subjects = append(subjects, subject)
	}
	return subjects
}

// Handle takes a request that was sent to one of the subjects. It reports false if the master does not answer it,
// because it does not act.
func (s *Simulated) Handle(subject string, r *bus.Request) bool {
	endpoint := s.endpoints[subject]
	if !endpoint.Always && !s.Acting() {
		return false
	}
	endpoint.Handle(r)
	return true
}

// Apply applies a record that the log has committed; done gets the outcome in the turn that did so.
func (s *Simulated) Apply(record []byte, done func(outcome any)) {
	decoded := new(pb.Record)
	if err := proto.Unmarshal(record, decoded); err != nil {
		panic("master: a simulated record that cannot be decoded: " + err.Error())
	}
	s.v.namespace.Send(actors.Func[*namespaceShell](func(shell *namespaceShell) {
		answers := make(chan []any, 1)
		applyBatch{records: []*pb.Record{decoded}, answers: answers}.Do(shell)
		done((<-answers)[0])
	}))
}

// BeginEpoch proposes the record that begins an epoch; with the one that done gets the master may Act.
func (s *Simulated) BeginEpoch(done func(gfs.Epoch, error)) {
	s.v.beginEpoch(func(outcome namespace.Outcome, err error) { done(outcome.Epoch, err) })
}

// Act begins to act in an epoch.
func (s *Simulated) Act(epoch gfs.Epoch) { s.v.act(epoch, 0) }

// Cease ends acting.
func (s *Simulated) Cease() { s.v.cease() }

// Acting reports whether the master acts.
func (s *Simulated) Acting() bool { return s.v.acting.Load() != nil }

// View hands out the state in a turn of its own.
func (s *Simulated) View(give func(*namespace.View)) { s.v.namespace.Send(viewForScan{give}) }
