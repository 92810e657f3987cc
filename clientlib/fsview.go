package clientlib

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// FS is a read-only view of the file system for programs that know io/fs: it implements fs.StatFS, fs.ReadDirFS,
// fs.ReadFileFS, fs.SubFS and fs.GlobFS, so that fs.WalkDir, fs.Glob, http.FileServerFS and templates work. Names
// are those of io/fs: without a leading slash, "." for the root. Every call on it ends when ctx ends.
func (c *Client) FS(ctx context.Context) fs.FS { return &fsView{client: c, ctx: ctx, root: "/"} }

// fsView shows the tree below root.
type fsView struct {
	client *Client
	ctx    context.Context
	root   string
}

var (
	_ fs.StatFS     = (*fsView)(nil)
	_ fs.ReadDirFS  = (*fsView)(nil)
	_ fs.ReadFileFS = (*fsView)(nil)
	_ fs.SubFS      = (*fsView)(nil)
	_ fs.GlobFS     = (*fsView)(nil)
)

// path is the absolute path of a name of io/fs.
func (v *fsView) path(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: gfs.Errorf(gfs.CodeInvalid, "want a relative path such as dir/file, or .")}
	}
	return path.Join(v.root, name), nil
}

// renamed gives an error the name that the caller knows.
func renamed(op, name string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		err = wrapped.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file for reading, or a directory for listing.
func (v *fsView) Open(name string) (fs.File, error) {
	absolute, err := v.path("open", name)
	if err != nil {
		return nil, err
	}
	status, err := v.client.statPath(v.ctx, absolute)
	if err != nil {
		return nil, renamed("open", name, err)
	}
	if status.GetDirectory() {
		return &viewDir{view: v, name: name, path: absolute, status: status}, nil
	}
	file := &File{openFile: newOpenFile(v.client, name, 0, status), ctx: v.ctx}
	return &viewFile{File: file, label: path.Base(name)}, nil
}

// Stat describes a file or directory.
func (v *fsView) Stat(name string) (fs.FileInfo, error) {
	absolute, err := v.path("stat", name)
	if err != nil {
		return nil, err
	}
	info, err := v.client.stat(v.client.patience(v.ctx), &pb.StatRequest{Path: absolute})
	if err != nil {
		return nil, renamed("stat", name, err)
	}
	info.name = path.Base(name)
	return info, nil
}

// ReadDir lists a directory in the order of names.
func (v *fsView) ReadDir(name string) ([]fs.DirEntry, error) {
	absolute, err := v.path("readdir", name)
	if err != nil {
		return nil, err
	}
	var entries []fs.DirEntry
	for entry, err := range v.client.ReadDir(v.ctx, absolute) {
		if err != nil {
			return entries, renamed("readdir", name, err)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// ReadFile reads a whole file.
func (v *fsView) ReadFile(name string) ([]byte, error) {
	absolute, err := v.path("read", name)
	if err != nil {
		return nil, err
	}
	data, err := v.client.ReadFile(v.ctx, absolute)
	return data, renamed("read", name, err)
}

// Sub is the view of the tree below dir.
func (v *fsView) Sub(dir string) (fs.FS, error) {
	absolute, err := v.path("sub", dir)
	if err != nil {
		return nil, err
	}
	return &fsView{client: v.client, ctx: v.ctx, root: absolute}, nil
}

// Glob lists the names that match pattern, as fs.Glob does.
func (v *fsView) Glob(pattern string) ([]string, error) {
	return fs.Glob(struct{ fs.ReadDirFS }{v}, pattern) // without this method, or it would call itself
}

// viewFile is a File that knows itself by the name in the view.
type viewFile struct {
	*File
	label string
}

// Stat describes the file.
func (f *viewFile) Stat() (fs.FileInfo, error) {
	info, err := f.statWith(f.patience())
	if err != nil {
		return nil, pathError("stat", f.name, err)
	}
	info.name = f.label
	return info, nil
}

// viewDir is an open directory; it is listed a page at a time. Not safe for concurrent use, as all of fs.
type viewDir struct {
	view   *fsView
	name   string
	path   string
	status *pb.FileStatus
	after  string
	ended  bool
	closed bool
}

var _ fs.ReadDirFile = (*viewDir)(nil)

// Stat describes the directory.
func (d *viewDir) Stat() (fs.FileInfo, error) {
	if d.closed {
		return nil, pathError("stat", d.name, fs.ErrClosed)
	}
	info := newFileInfo(d.status, 0)
	info.name = path.Base(d.name)
	return info, nil
}

// Read fails: a directory has no bytes.
func (d *viewDir) Read([]byte) (int, error) {
	return 0, pathError("read", d.name, gfs.Errorf(gfs.CodeIsDirectory, "list it with ReadDir"))
}

// Close ends the listing.
func (d *viewDir) Close() error {
	if d.closed {
		return pathError("close", d.name, fs.ErrClosed)
	}
	d.closed = true
	return nil
}

// ReadDir gives the next n entries, or all that are left if n <= 0.
func (d *viewDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, pathError("readdir", d.name, fs.ErrClosed)
	}
	var entries []fs.DirEntry
	for !d.ended && (n <= 0 || len(entries) < n) {
		limit := gfs.MaxListEntries
		if n > 0 {
			limit = min(limit, n-len(entries))
		}
		page, err := d.view.client.list(d.view.ctx, d.path, d.after, limit)
		if err != nil {
			return entries, renamed("readdir", d.name, err)
		}
		for _, status := range page.GetEntries() {
			entries = append(entries, &dirEntry{client: d.view.client, ctx: d.view.ctx, status: status})
			d.after = status.GetName()
		}
		d.ended = !page.GetMore() || len(page.GetEntries()) == 0
	}
	if n > 0 && len(entries) == 0 {
		return nil, io.EOF
	}
	return entries, nil
}
