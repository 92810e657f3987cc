package master

import (
	"iter"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/backup"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

// backupShell hands out backups of the state, piece by piece. Each is of the moment at which its first piece was asked
// for: the state goes on meanwhile.
type backupShell struct {
	*services
	self    actors.Ref[*backupShell]
	running map[uint64]*backupRun // by the number that the client chose
}

// backupRun is one backup on its way.
type backupRun struct {
	next    func() (namespace.Page, error, bool)
	stop    func()
	encoder *backup.Encoder
	ready   []byte // encoded, not given out yet
	whole   bool   // ready has the end
	piece   uint32 // the number of last
	last    *pb.BackupReply
	timer   *actors.Timer
}

// fetchBackup asks for a piece in a turn of the namespace actor, which has the state.
func fetchBackup(s *namespaceShell, r *bus.Request, request *pb.BackupRequest) {
	header := backup.Header{Cluster: s.cluster, Master: s.id, Index: s.index, Epoch: s.view().Epoch(), Made: s.now()}
	s.backups.Send(backupPiece{r, request, s.view(), header})
}

// backupPiece asks for a piece. What the state is now only matters to the first.
type backupPiece struct {
	request *bus.Request
	wanted  *pb.BackupRequest
	view    *namespace.View
	header  backup.Header
}

func (c backupPiece) Do(s *backupShell) {
	id, piece := c.wanted.GetBackup(), c.wanted.GetPiece()
	run := s.running[id]
	switch {
	case id == 0:
		c.request.Fail(gfs.Errorf(gfs.CodeInvalid, "a backup without a number: choose one at random"))
		return
	case run == nil && piece == 0 && len(s.running) >= gfs.MaxBackups:
		c.request.Fail(gfs.Errorf(gfs.CodeBusy, "%d backups are under way: try again", len(s.running)))
		return
	case run == nil && piece == 0:
		run = s.begin(id, c)
	case run == nil || piece != run.piece && piece != run.piece+1 || run.last.GetLast() && piece != run.piece:
		c.request.Fail(gfs.Errorf(gfs.CodeConflict, "this master has no piece %d of backup %016x: begin another backup", piece, id))
		return
	}
	if run.last == nil || piece == run.piece+1 {
		if err := run.advance(); err != nil {
			s.end(id, run)
			c.request.Fail(err)
			return
		}
		run.piece = piece
	}
	run.timer.Stop()
	run.timer = actors.After(s.self, gfs.BackupPatience, actors.Command[*backupShell](backupIdle{id, run}))
	c.request.Reply(run.last)
}

// begin starts a backup of a view.
func (s *backupShell) begin(id uint64, c backupPiece) *backupRun {
	run := &backupRun{}
	run.next, run.stop = iter.Pull2(c.view.Pages())
	run.encoder, run.ready = backup.NewEncoder(nil, c.header)
	s.running[id] = run
	s.log.WithFields(logrus.Fields{"actor": "backup", "index": c.header.Index, "epoch": c.header.Epoch}).Info("backup begun")
	return run
}

// advance makes the next piece the last one given out.
func (run *backupRun) advance() error {
	for !run.whole && len(run.ready) < gfs.BackupPieceBytes {
		page, err, ok := run.next()
		switch {
		case err != nil:
			return err
		case ok:
			run.ready = run.encoder.Page(run.ready, backup.Page(page))
		default:
			run.ready, run.whole = run.encoder.End(run.ready), true
		}
	}
	n := min(len(run.ready), gfs.BackupPieceBytes)
	// The reply keeps these bytes; what is left moves to memory of its own.
	run.last = &pb.BackupReply{Data: run.ready[:n:n], Last: run.whole && n == len(run.ready)}
	run.ready = append([]byte(nil), run.ready[n:]...)
	return nil
}

// end forgets a backup.
func (s *backupShell) end(id uint64, run *backupRun) {
	run.timer.Stop()
	run.stop()
	delete(s.running, id)
}

// backupIdle ends a backup that nobody fetches any more, and one that was fetched to its end.
type backupIdle struct {
	id  uint64
	run *backupRun
}

func (c backupIdle) Do(s *backupShell) {
	if s.running[c.id] != c.run {
		return
	}
	if !c.run.last.GetLast() {
		s.log.WithFields(logrus.Fields{"actor": "backup", "piece": c.run.piece}).Warn("backup given up: nobody asked for its next piece")
	}
	s.end(c.id, c.run)
}

// Stopped ends all backups.
func (s *backupShell) Stopped() {
	for id, run := range s.running {
		s.end(id, run)
	}
}
