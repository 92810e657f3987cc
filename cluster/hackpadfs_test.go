package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hack-pad/hackpadfs"
	"github.com/hack-pad/hackpadfs/fstest"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// notForCairn are the tests of the suite that do not apply, by the end of their names, each with its reason.
var notForCairn = map[string]string{
	"fs.Chmod/change_symlink_target_permission_bits": "there are no symbolic links",
	"file.ReadDir/list_on_file":                      "a File is not a directory and has no ReadDir: directories are listed by Client.ReadDir and FS",
	"fs.Rename/same_directory":                       "a directory renamed to its own name stays as it is, as with rename(2); package os refuses it",
	"fs.Rename/newpath_is_directory":                 "a directory takes the place of an empty one, as with rename(2); package os refuses it",
	"fs.MkdirAll/file_exists":                        "the error has the path that was asked for; its text names the file that is in the way",
	"file.WriteAt/negative_offset":                   "the error is a fs.ErrInvalid of the operation write; package os has a text alone, and texts decide nothing",
}

// TestHackpadFS runs a suite that was written for other file systems through an adapter to its interfaces.
func TestHackpadFS(t *testing.T) {
	c := clustertest.Start(t)
	client := c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel) // after the parallel tests below
	var roots atomic.Int64
	options := fstest.FSOptions{
		Name:        "cairn",
		Constraints: fstest.Constraints{FileModeMask: fs.ModePerm}, // whether it is a directory is compared apart
		TestFS: func(tb testing.TB) fstest.SetupFS {
			root := fmt.Sprintf("/%d", roots.Add(1))
			if err := client.Mkdir(ctx, root, 0o777); err != nil {
				tb.Fatal(err)
			}
			return &adapter{FS: subtree(tb, client.FS(ctx), root[1:]), client: client, ctx: ctx, root: root}
		},
		ShouldSkip: func(facets fstest.Facets) bool {
			for name := range notForCairn {
				if strings.HasSuffix(facets.Name, name) {
					return true
				}
			}
			return false
		},
	}
	t.Run("suite", func(t *testing.T) {
		fstest.FS(t, options)
		fstest.File(t, options)
	})
}

func subtree(tb testing.TB, view fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(view, dir)
	if err != nil {
		tb.Fatal(err)
	}
	return sub
}

// adapter is a directory of Cairn as the suite wants a file system: names without a leading slash, no contexts.
type adapter struct {
	fs.FS
	client *clientlib.Client
	ctx    context.Context
	root   string
}

// call runs f with the absolute path of name, whose error then tells the suite's name again.
func (a *adapter) call(op, name string, f func(path string) error) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: op, Path: name, Err: hackpadfs.ErrInvalid}
	}
	err := f(path.Join(a.root, name))
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return &fs.PathError{Op: op, Path: name, Err: failed.Err}
	}
	return err
}

func (a *adapter) OpenFile(name string, flag int, perm fs.FileMode) (hackpadfs.File, error) {
	if flag == os.O_RDONLY {
		return a.Open(name)
	}
	var f *clientlib.File
	err := a.call("open", name, func(path string) (err error) {
		f, err = a.client.OpenFile(a.ctx, path, flag, clientlib.WithMode(perm.Perm()))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &file{File: f.WithContext(a.ctx), adapter: a, name: name}, nil
}

func (a *adapter) Create(name string) (hackpadfs.File, error) {
	return a.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

func (a *adapter) Mkdir(name string, perm fs.FileMode) error {
	return a.call("mkdir", name, func(path string) error { return a.client.Mkdir(a.ctx, path, perm) })
}

func (a *adapter) MkdirAll(name string, perm fs.FileMode) error {
	return a.call("mkdir", name, func(path string) error { return a.client.MkdirAll(a.ctx, path, perm) })
}

func (a *adapter) Remove(name string) error {
	return a.call("remove", name, func(path string) error { return a.client.Remove(a.ctx, path) })
}

func (a *adapter) RemoveAll(name string) error {
	return a.call("removeall", name, func(path string) error { return a.client.RemoveAll(a.ctx, path) })
}

func (a *adapter) Rename(from, to string) error {
	if !fs.ValidPath(from) || !fs.ValidPath(to) {
		return &hackpadfs.LinkError{Op: "rename", Old: from, New: to, Err: hackpadfs.ErrInvalid}
	}
	err := a.client.Rename(a.ctx, path.Join(a.root, from), path.Join(a.root, to))
	var failed *os.LinkError
	if errors.As(err, &failed) {
		return &hackpadfs.LinkError{Op: "rename", Old: from, New: to, Err: failed.Err}
	}
	return err
}

func (a *adapter) Stat(name string) (info fs.FileInfo, err error) {
	err = a.call("stat", name, func(path string) (err error) {
		info, err = a.client.Stat(a.ctx, path)
		return err
	})
	return info, err
}

func (a *adapter) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = a.call("open", name, func(path string) error {
		for entry, err := range a.client.ReadDir(a.ctx, path) {
			if err != nil {
				return err
			}
			entries = append(entries, entry)
		}
		return nil
	})
	var failed *fs.PathError
	if errors.As(err, &failed) && errors.Is(err, hackpadfs.ErrNotDir) {
		failed.Op = "readdir" // elsewhere a file is opened first
	}
	return entries, err
}

func (a *adapter) Chmod(name string, mode fs.FileMode) error {
	return a.call("chmod", name, func(path string) error { return a.client.Chmod(a.ctx, path, mode) })
}

func (a *adapter) Chtimes(name string, _, modified time.Time) error {
	return a.call("chtimes", name, func(path string) error { return a.client.Chtimes(a.ctx, path, modified) })
}

func (a *adapter) WriteFile(name string, data []byte, perm fs.FileMode) error {
	return a.call("open", name, func(path string) error { return a.client.WriteFile(a.ctx, path, data, perm) })
}

// file is an open file for the suite.
type file struct {
	*clientlib.File
	adapter *adapter
	name    string
}

func (f *file) Stat() (fs.FileInfo, error) { return f.File.Stat(f.adapter.ctx) }
func (f *file) Sync() error                { return f.File.Sync(f.adapter.ctx) }
func (f *file) Truncate(size int64) error  { return f.named(f.File.Truncate(f.adapter.ctx, size)) }

func (f *file) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.named(err)
}

func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.File.WriteAt(p, offset)
	return n, f.named(err)
}

// named is an error with the suite's name of the file.
func (f *file) named(err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return &fs.PathError{Op: failed.Op, Path: f.name, Err: failed.Err}
	}
	return err
}
