package master

import (
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

const (
	// scanInterval is the pause between two rounds.
	scanInterval = 2 * time.Second
	// scanSlice is how many chunks one turn looks at: some hundred microseconds.
	scanSlice = 1024
	// sessionInterval is how often ended client sessions are looked for.
	sessionInterval = time.Minute
	// dropLimit is how many files one record drops from the trash.
	dropLimit = 256
)

// scannerShell sweeps over a view of the state in slices, while this master acts.
type scannerShell struct {
	*services
	period *period
	self   actors.Ref[*scannerShell]
	timer  *actors.Timer

	view     *namespace.View // of the round under way
	next     gfs.ChunkHandle // where the next slice of all chunks begins
	open     gfs.ChunkHandle // where the next slice of the open ones begins
	counts   surveyCounts
	sessions time.Time // when they were looked at last
	joins    joinPace
	garbage  collector
}

// Stopped ends the rounds.
func (s *scannerShell) Stopped() { s.timer.Stop() }

// scannerActs begins a period, or ends it where period is nil.
type scannerActs struct{ period *period }

func (c scannerActs) Do(s *scannerShell) {
	s.timer.Stop()
	s.period, s.view, s.joins, s.garbage = c.period, nil, joinPace{}, collector{}
	if c.period != nil {
		s.arm()
	}
}

func (s *scannerShell) arm() {
	s.timer = actors.After(s.self, scanInterval, actors.Command[*scannerShell](beginRound{s.period}))
}

// beginRound asks for a view.
type beginRound struct{ period *period }

func (c beginRound) Do(s *scannerShell) {
	if !s.current(c.period) {
		return
	}
	self, p := s.self, s.period
	s.namespace.Send(viewForScan{func(view *namespace.View) { self.Send(scanRound{p, view}) }})
}

func (s *scannerShell) current(p *period) bool { return p != nil && s.period == p }

// viewForScan hands the scanner a view.
type viewForScan struct{ give func(*namespace.View) }

func (c viewForScan) Do(s *namespaceShell) { c.give(s.view()) }

// scanRound begins a round with what is decided at once.
type scanRound struct {
	period *period
	view   *namespace.View
}

func (c scanRound) Do(s *scannerShell) {
	if !s.current(c.period) {
		return
	}
	s.view, s.next, s.open, s.counts = c.view, 0, 0, surveyCounts{}
	now := s.now()
	if now.Sub(s.sessions) >= sessionInterval {
		s.sessions = now
		s.sweep("expire sessions", func() *pb.Record {
			return &pb.Record{Command: &pb.Record_ExpireSessions{ExpireSessions: &pb.ExpireSessions{
				BeforeUnixNano: now.Add(-gfs.SessionTimeout).UnixNano(),
			}}}
		})
	}
	if before := now.Add(-s.trash); c.view.DropDue(before) {
		s.sweep("drop trash", func() *pb.Record {
			return &pb.Record{Command: &pb.Record_DropTrash{DropTrash: &pb.DropTrash{BeforeUnixNano: before.UnixNano(), Limit: dropLimit}}}
		})
	}
	if now.Sub(s.period.since) >= gfs.HeartbeatTimeout {
		s.reviveSlice() // by then the primaries of the master before have been heard of
	}
	s.surveySlice()
}

// sweep proposes a record, and again while it says that there is more to do.
func (s *scannerShell) sweep(what string, record func() *pb.Record) {
	p := s.period
	s.propose(p, record(), func(outcome namespace.Outcome, err error) {
		if err != nil {
			s.log.WithFields(logrus.Fields{"actor": "scanner", "op": what, "err": err}).Debug("sweep put off")
			return
		}
		if outcome.More {
			s.self.Send(actors.Func[*scannerShell](func(s *scannerShell) {
				if s.current(p) {
					s.sweep(what, record)
				}
			}))
		}
	})
}

// reviveSlice hands a slice of the open chunks to the namespace actor: those without a lease actor have no primary
// that this master knows.
func (s *scannerShell) reviveSlice() {
	var handles []gfs.ChunkHandle
	for chunk := range s.view.OpenChunks(s.open) {
		handles = append(handles, chunk.Handle)
		s.open = chunk.Handle + 1
		if len(handles) == scanSlice {
			break
		}
	}
	if len(handles) == 0 {
		return
	}
	s.namespace.Send(reviveChunks{s.period, handles, false})
	if len(handles) == scanSlice {
		p := s.period
		s.self.Send(actors.Func[*scannerShell](func(s *scannerShell) {
			if s.current(p) && s.view != nil {
				s.reviveSlice()
			}
		}))
	}
}

// surveySlice has the registry count the replicas of a slice of all chunks.
func (s *scannerShell) surveySlice() {
	chunks := make([]namespace.Chunk, 0, scanSlice)
	for chunk := range s.view.Chunks(s.next) {
		chunks = append(chunks, chunk)
		s.next = chunk.Handle + 1
		if len(chunks) == scanSlice {
			break
		}
	}
	self, p, last := s.self, s.period, len(chunks) < scanSlice
	s.registry.Send(surveyChunks{p, chunks, s.joins.busy(s.now()), actors.NewReply(func(found sliceSurvey, _ error) {
		self.Send(sliceSurveyed{p, found, last})
	})})
}

// sliceSurveyed is the registry's answer.
type sliceSurveyed struct {
	period *period
	found  sliceSurvey
	last   bool
}

func (c sliceSurveyed) Do(s *scannerShell) {
	if !s.current(c.period) || s.view == nil {
		return
	}
	s.counts.under += c.found.counts.under
	s.counts.missing += c.found.counts.missing
	s.counts.corrupt += c.found.counts.corrupt
	s.join(c.found.plans)
	if len(c.found.revive) > 0 {
		s.namespace.Send(reviveChunks{s.period, c.found.revive, true})
	}
	if !c.last {
		s.surveySlice()
		return
	}
	s.registry.Send(surveyed{s.counts})
	s.garbage.begin(s.now())
	s.sweepGarbage(0)
}

func (s *scannerShell) endRound() {
	s.view = nil // so that a round does not hold old pages in memory during the pause
	s.arm()
}
