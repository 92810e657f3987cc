package clientlib

import (
	"context"
	"io/fs"
	"iter"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// ReadDir lists a directory in the order of names, in pages: what is made or removed meanwhile may or may not be
// seen. A pair with an error is the last.
func (c *Client) ReadDir(ctx context.Context, name string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		path, err := gfs.CleanPath(name)
		if err != nil {
			yield(nil, pathError("readdir", name, err))
			return
		}
		for after := ""; ; {
			page, err := c.list(ctx, path, after, 0)
			if err != nil {
				yield(nil, pathError("readdir", name, err))
				return
			}
			for _, status := range page.GetEntries() {
				if !yield(&dirEntry{client: c, ctx: ctx, status: status}, nil) {
					return
				}
				after = status.GetName()
			}
			if !page.GetMore() || len(page.GetEntries()) == 0 {
				return
			}
		}
	}
}

// list asks for one page of at most limit entries, 0 for as many as there may be.
func (c *Client) list(ctx context.Context, path, after string, limit int) (*pb.ListReply, error) {
	reply := &pb.ListReply{}
	err := c.ask(ctx, messages.OpList, &pb.ListRequest{Identity: c.identify(), Path: path, After: after, Limit: uint32(limit)}, reply)
	if err != nil {
		return nil, err
	}
	for _, status := range reply.GetEntries() {
		if status.GetName() <= after { // a listing that does not advance would never end
			return nil, gfs.Errorf(gfs.CodeInternal, "the master listed %q behind %q", status.GetName(), after)
		}
		after = status.GetName()
	}
	return reply, nil
}

// dirEntry implements fs.DirEntry.
type dirEntry struct {
	client *Client
	ctx    context.Context // of the listing
	status *pb.FileStatus
}

func (e *dirEntry) Name() string   { return e.status.GetName() }
func (e *dirEntry) IsDir() bool    { return e.status.GetDirectory() }
func (e *dirEntry) String() string { return fs.FormatDirEntry(e) }

func (e *dirEntry) Type() fs.FileMode {
	if e.IsDir() {
		return fs.ModeDir
	}
	return 0
}

// Info is the status as it was listed. Only for a file that was being written a chunkserver is asked for the length.
func (e *dirEntry) Info() (fs.FileInfo, error) {
	length, err := e.client.trueLength(e.client.patience(e.ctx), e.status)
	if err != nil {
		return nil, pathError("stat", e.Name(), err)
	}
	return newFileInfo(e.status, length), nil
}

// Removal is what Remove or RemoveAll moved into the trash. A directory with all that was in it is one.
type Removal struct {
	Path    string // where it was, and where Undelete brings it back
	Removed time.Time
	Entry   fs.DirEntry // Info asks a chunkserver for the length of a file that was being written
}

// Trash lists what Undelete could bring back and this user may: the oldest removal first, in pages. A pair with an
// error is the last.
func (c *Client) Trash(ctx context.Context) iter.Seq2[Removal, error] {
	return func(yield func(Removal, error) bool) {
		for after := (*pb.TrashPlace)(nil); ; {
			reply := &pb.TrashReply{}
			if err := c.ask(ctx, messages.OpTrash, &pb.TrashRequest{Identity: c.identify(), After: after}, reply); err != nil {
				yield(Removal{}, pathError("trash", "/", err))
				return
			}
			for _, e := range reply.GetEntries() {
				entry := &dirEntry{client: c, ctx: ctx, status: e.GetStatus()}
				if !yield(Removal{Path: e.GetPath(), Removed: time.Unix(0, e.GetRemovedUnixNano()), Entry: entry}, nil) {
					return
				}
			}
			next := reply.GetNext()
			if next == nil {
				return
			}
			if !behind(next, after) { // a listing that does not advance would never end
				yield(Removal{}, pathError("trash", "/", gfs.Errorf(gfs.CodeInternal, "the master's list of the trash goes back from %v to %v", after, next)))
				return
			}
			after = next
		}
	}
}

// behind reports whether a place in the trash follows another; a nil one is before all.
func behind(place, before *pb.TrashPlace) bool {
	if before == nil || place.GetRemovedUnixNano() != before.GetRemovedUnixNano() {
		return before == nil || place.GetRemovedUnixNano() > before.GetRemovedUnixNano()
	}
	return place.GetFileId() > before.GetFileId()
}
