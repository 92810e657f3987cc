package master

import (
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

// maxLocateChunks bounds the chunks that one request asks for.
const maxLocateChunks = 1024

// linearized makes an endpoint's handler of a read: it verifies leadership, then answers in a turn of the namespace
// actor, out of a state that holds all that was acknowledged before the request came.
func linearized[M any, P interface {
	*M
	proto.Message
}](e *edge, answer func(s *namespaceShell, r *bus.Request, request P)) func(*bus.Request) {
	return bus.Typed(func(r *bus.Request, request P) {
		e.counters.reads.Add(1)
		e.around.LinearizeAsync(func(err error) {
			if err != nil {
				e.counters.failures.Add(1)
				r.Fail(err)
				return
			}
			e.namespace.Send(read{r, func(s *namespaceShell, r *bus.Request) { answer(s, r, request) }})
		})
	})
}

func stat(s *namespaceShell, r *bus.Request, request *pb.StatRequest) {
	var status *pb.FileStatus
	var err error
	if file := gfs.FileID(request.GetFileId()); file != 0 {
		status, err = s.view().StatID(request.GetIdentity(), file)
	} else {
		status, err = s.view().Stat(request.GetIdentity(), request.GetPath())
	}
	if err != nil {
		r.Fail(err)
		return
	}
	r.Reply(status)
}

// list reads a page of a directory, which takes up to some milliseconds: on a worker, over a view.
func list(s *namespaceShell, r *bus.Request, request *pb.ListRequest) {
	view := s.view()
	admitted := s.workers.Go(func() {
		entries, more, err := view.List(request.GetIdentity(), request.GetPath(), request.GetAfter(), int(min(request.GetLimit(), gfs.MaxListEntries)))
		if err != nil {
			r.Fail(err)
			return
		}
		r.Reply(&pb.ListReply{Entries: entries, More: more})
	})
	if !admitted {
		r.Fail(gfs.Errorf(gfs.CodeBusy, "too many directories are being listed: try again"))
	}
}

// listTrash reads a page of the trash, on a worker as list does.
func listTrash(s *namespaceShell, r *bus.Request, request *pb.TrashRequest) {
	view := s.view()
	admitted := s.workers.Go(func() {
		entries, next, err := view.ListTrash(request.GetIdentity(), request.GetAfter(), int(min(request.GetLimit(), gfs.MaxListEntries)))
		if err != nil {
			r.Fail(err)
			return
		}
		r.Reply(&pb.TrashReply{Entries: entries, Next: next})
	})
	if !admitted {
		r.Fail(gfs.Errorf(gfs.CodeBusy, "too many directories are being listed: try again"))
	}
}

func askStatFS(s *namespaceShell, r *bus.Request, _ *pb.StatFSRequest) {
	s.registry.Send(statFS{r, s.view().Counts()})
}

func locate(s *namespaceShell, r *bus.Request, request *pb.LocateRequest) {
	file, err := s.view().CheckFile(request.GetIdentity(), gfs.FileID(request.GetFileId()), false)
	if err != nil {
		r.Fail(err)
		return
	}
	if count := request.GetCount(); count < 1 || count > maxLocateChunks {
		r.Fail(gfs.Errorf(gfs.CodeInvalid, "%d chunks asked for: want 1 to %d", count, maxLocateChunks))
		return
	}
	first := int(min(request.GetFirstIndex(), gfs.MaxFileChunks))
	chunks, total, err := s.view().FileChunks(file.ID, first, int(request.GetCount()))
	if err != nil {
		r.Fail(err)
		return
	}
	lost := make([]gfs.Version, len(chunks))
	for i, chunk := range chunks {
		lost[i] = s.view().LostBefore(chunk.Handle)
	}
	s.registry.Send(locateChunks{request: r, chunks: chunks, lost: lost, first: first, total: total})
}
