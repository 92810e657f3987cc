package clientlib

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Create makes a file that does not exist yet (else fs.ErrExist) and opens it for reading and writing.
func (c *Client) Create(ctx context.Context, name string, opts ...CreateOption) (*File, error) {
	return c.OpenFile(ctx, name, os.O_RDWR|os.O_CREATE|os.O_EXCL, opts...)
}

// Open opens a file for reading.
func (c *Client) Open(ctx context.Context, name string) (*File, error) {
	return c.OpenFile(ctx, name, os.O_RDONLY)
}

// OpenFile opens a file as flag says: one of os.O_RDONLY, os.O_WRONLY and os.O_RDWR, with any of os.O_CREATE,
// os.O_EXCL, os.O_TRUNC (a new, empty file takes the place of the old one) and os.O_APPEND (each Write is a record
// append). The options are those of a file that is made. A directory is EISDIR: see ReadDir and FS.
func (c *Client) OpenFile(ctx context.Context, name string, flag int, opts ...CreateOption) (*File, error) {
	status, err := c.openStatus(ctx, name, flag, opts)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if status.GetDirectory() {
		return nil, pathError("open", name, gfs.Errorf(gfs.CodeIsDirectory, "list it with ReadDir"))
	}
	return &File{openFile: newOpenFile(c, name, flag, status), ctx: c.life}, nil
}

// knownFlags is what OpenFile understands; os.O_SYNC is asked for with Synced.
const knownFlags = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_CREATE | os.O_EXCL | os.O_TRUNC | os.O_APPEND

func (c *Client) openStatus(ctx context.Context, name string, flag int, opts []CreateOption) (*pb.FileStatus, error) {
	o, err := newCreateOptions(opts)
	if err != nil {
		return nil, err
	}
	path, err := gfs.CleanPath(name)
	if err != nil {
		return nil, err
	}
	access := flag & (os.O_WRONLY | os.O_RDWR)
	switch {
	case flag&^knownFlags != 0 || access == os.O_WRONLY|os.O_RDWR:
		return nil, gfs.Errorf(gfs.CodeInvalid, "flags %#x: want one of os.O_RDONLY, os.O_WRONLY, os.O_RDWR with os.O_CREATE, os.O_EXCL, os.O_TRUNC, os.O_APPEND", flag)
	case access == os.O_RDONLY && flag&(os.O_TRUNC|os.O_APPEND) != 0:
		return nil, gfs.Errorf(gfs.CodeInvalid, "os.O_TRUNC and os.O_APPEND need os.O_WRONLY or os.O_RDWR")
	}
	if flag&(os.O_CREATE|os.O_TRUNC) == 0 {
		return c.statPath(ctx, path)
	}
	if flag&os.O_CREATE == 0 { // there must be something to replace
		if status, err := c.statPath(ctx, path); err != nil || status.GetDirectory() {
			return status, err
		}
	}
	return c.mutate(ctx, &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{
		Path: path, Mode: uint32(o.mode), Replicas: uint32(o.replicas), Synced: o.synced,
		Exclusive: flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0, Replace: flag&os.O_TRUNC != 0}}})
}

// statPath asks for the status of a clean path, without the true length.
func (c *Client) statPath(ctx context.Context, path string) (*pb.FileStatus, error) {
	status := &pb.FileStatus{}
	err := c.ask(ctx, messages.OpStat, &pb.StatRequest{Identity: c.identify(), Path: path}, status)
	return status, err
}

// ReadFile reads a whole file.
func (c *Client) ReadFile(ctx context.Context, name string) ([]byte, error) {
	file, err := c.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	data, err := file.WithContext(ctx).readAll()
	if closed := file.Close(); err == nil {
		err = closed
	}
	return data, err
}

// readAll reads what the file holds now.
func (f *File) readAll() ([]byte, error) {
	info, err := f.Stat(f.ctx)
	if err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return data[:n], nil
}

// WriteFile makes the file hold data: a new file takes the place of an existing one, and is acknowledged on every
// replica when WriteFile returns. Readers may see it while it is being written.
func (c *Client) WriteFile(ctx context.Context, name string, data []byte, perm fs.FileMode) error {
	file, err := c.OpenFile(ctx, name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, WithMode(perm))
	if err != nil {
		return err
	}
	file = file.WithContext(ctx)
	_, err = io.Copy(file, bytes.NewReader(data))
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

// Mkdir makes a directory; its parent must exist, and it must not.
func (c *Client) Mkdir(ctx context.Context, name string, perm fs.FileMode) error {
	return c.makeDirectory(ctx, name, perm, false)
}

// MkdirAll makes a directory and what is missing of its parents; one that exists is no error.
func (c *Client) MkdirAll(ctx context.Context, name string, perm fs.FileMode) error {
	return c.makeDirectory(ctx, name, perm, true)
}

func (c *Client) makeDirectory(ctx context.Context, name string, perm fs.FileMode, parents bool) error {
	return c.change(ctx, "mkdir", name, func(path string) *pb.NamespaceMutation {
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_MakeDirectory{MakeDirectory: &pb.MakeDirectory{
			Path: path, Mode: uint32(perm.Perm()), Parents: parents}}}
	})
}

// Remove moves a file or an empty directory into the trash, from which Undelete brings it back.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.change(ctx, "remove", name, func(path string) *pb.NamespaceMutation {
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path}}}
	})
}

// RemoveAll moves a file, or a directory with all that is in it, into the trash. A missing name is no error.
func (c *Client) RemoveAll(ctx context.Context, name string) error {
	return c.change(ctx, "removeall", name, func(path string) *pb.NamespaceMutation {
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Recursive: true}}}
	})
}

// RemoveNow is Remove past the trash: nothing brings the file or empty directory back.
func (c *Client) RemoveNow(ctx context.Context, name string) error {
	return c.change(ctx, "removenow", name, func(path string) *pb.NamespaceMutation {
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Now: true}}}
	})
}

// RemoveAllNow is RemoveAll past the trash: nothing brings back what was removed.
func (c *Client) RemoveAllNow(ctx context.Context, name string) error {
	return c.change(ctx, "removeallnow", name, func(path string) *pb.NamespaceMutation {
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Recursive: true, Now: true}}}
	})
}

// Undelete brings back what Remove or RemoveAll moved into the trash from name, the latest if there are several.
func (c *Client) Undelete(ctx context.Context, name string) error {
	return c.change(ctx, "undelete", name, func(path string) *pb.NamespaceMutation {
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: path}}}
	})
}

// Rename moves a file or directory. A file at to is replaced, a directory only if it is empty. Open Files follow.
// The error is an *os.LinkError.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	source, err := gfs.CleanPath(from)
	if err != nil {
		return linkError("rename", from, to, err)
	}
	target, err := gfs.CleanPath(to)
	if err != nil {
		return linkError("rename", from, to, err)
	}
	_, err = c.mutate(ctx, &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Rename{Rename: &pb.Rename{From: source, To: target}}})
	return linkError("rename", from, to, err)
}

// change asks for a mutation of one path.
func (c *Client) change(ctx context.Context, op, name string, make func(path string) *pb.NamespaceMutation) error {
	path, err := gfs.CleanPath(name)
	if err == nil {
		_, err = c.mutate(ctx, make(path))
	}
	return pathError(op, name, err)
}
