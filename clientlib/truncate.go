package clientlib

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Truncate makes a file size bytes long, from 0 to gfs.MaxFileBytes. A shorter one loses its end, in one step and for
// every reader; a longer one gets zeros, which take no disk, and more than one chunk of them one chunk after the other.
// What is appended or written meanwhile comes before or after the truncation, nothing in between.
func (c *Client) Truncate(ctx context.Context, name string, size int64) error {
	path, err := gfs.CleanPath(name)
	if err == nil {
		_, err = c.truncate(ctx, &pb.Truncate{Path: path, Size: size})
	}
	return pathError("truncate", name, err)
}

// Truncate is Client.Truncate of the open file, wherever it was renamed to, after everything that was queued before. The
// position stays. The file must be open for writing.
func (f *File) Truncate(ctx context.Context, size int64) error {
	return pathError("truncate", f.name, f.truncate(ctx, size))
}

func (f *openFile) truncate(ctx context.Context, size int64) error {
	p := f.client.patience(ctx)
	if err := f.usable(true); err != nil {
		return err
	}
	if err := f.turn.take(p); err != nil {
		return err
	}
	defer f.turn.give()
	if err := f.settleQueued(p); err != nil {
		return err
	}
	f.ahead.drop()
	chunks, err := f.client.truncate(ctx, &pb.Truncate{FileId: uint64(f.id), Size: size})
	if err == nil {
		f.chunks.Store(chunks)
	}
	return err
}

// truncate returns how many chunks the file has then.
func (c *Client) truncate(ctx context.Context, request *pb.Truncate) (chunks uint32, err error) {
	size := request.GetSize()
	if size < 0 || size > gfs.MaxFileBytes {
		return 0, gfs.Errorf(gfs.CodeInvalid, "%d bytes: want 0 to %d", size, int64(gfs.MaxFileBytes))
	}
	want := uint32((size + gfs.ChunkSize - 1) / gfs.ChunkSize)
	for p := c.patience(ctx); ; {
		status, err := c.mutate(ctx, &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Truncate{Truncate: proto.CloneOf(request)}})
		if err != nil {
			return 0, err
		}
		file := gfs.FileID(status.GetFileId())
		c.locations.cut(file, max(want, 1)-1)
		if status.GetChunks() >= want {
			return status.GetChunks(), nil
		}
		// It has to grow: what it lacks is made, empty, and then the last one as long as it has to be.
		if err := c.makeChunks(p, file, status.GetChunks(), want); err != nil && gfs.CodeOf(err) != gfs.CodeNotExist {
			return 0, err
		}
		if err := p.pause(nil); err != nil { // after an extension, or because somebody cut the file meanwhile
			return 0, err
		}
	}
}

// makeChunks makes the chunks of a file from one index to another.
func (c *Client) makeChunks(p *patience, file gfs.FileID, from, to uint32) error {
	for index := from; index < to; index++ {
		if _, err := c.lease(p, &pb.LeaseRequest{FileId: uint64(file), Index: index, Allocate: true}); err != nil {
			return err
		}
		p.progress()
	}
	return nil
}
