package sim

import (
	"bytes"
	"fmt"

	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// checkReference: who names pushed data gets those that were pushed.
const checkReference = "a reference gives what was pushed"

// pushed is what the checkers know of pushed data.
type pushed struct {
	content    map[contentName][]byte // of mutations that are long enough
	references int                    // mutations that a primary took
	frames     int                    // mutations in frames that named their data
}

// contentName is what decides a mutation's data.
type contentName struct {
	append appendName
	offset int64 // of a write
}

// taken hears that a primary takes up a mutation.
func (k *checks) taken(s *server, request *pb.Mutate, m *dataplane.Mutation, data []byte) {
	if len(data) < gfs.SmallMutationBytes {
		return
	}
	k.pushed.content[contentName{appendName{gfs.WriterID(request.Writer), request.Sequence}, request.Offset}] = data
	if request.PushedSession == 0 {
		return
	}
	k.pushed.references++
	if !bytes.Equal(m.Data(), data) {
		k.cluster.fail(checkReference, "%s takes other data for push %d than its client named", s.name, request.PushedCounter)
	}
}

// carried hears of a frame that a member takes up.
func (k *checks) carried(s *server, message *pb.ChainApply, frame *dataplane.Apply) {
	for _, m := range message.Mutations {
		if m.PushedSession == 0 {
			continue
		}
		k.pushed.frames++
		name := contentName{appendName{gfs.WriterID(m.Writer), m.Sequence}, m.Offset}
		if m.Writer != 0 {
			name.offset = 0
		}
		for _, run := range frame.Runs {
			if run.Offset == m.Offset && !bytes.Equal(run.Data, k.pushed.content[name]) {
				k.cluster.fail(checkReference, "%s takes other data for push %d than its client named", s.name, m.PushedCounter)
			}
		}
	}
}

// pushesHeld says which server holds pushed data, empty if none does.
func (c *cluster) pushesHeld() string {
	for _, s := range c.servers {
		if pushes, waiting := s.server.Data().Pushed(); pushes != 0 || waiting != 0 {
			return fmt.Sprintf("%s holds %d pushes, and room for %d bytes", s.name, pushes, waiting)
		}
	}
	return ""
}
