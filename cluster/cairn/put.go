package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
)

func (a *app) putCommand() *cobra.Command {
	var recursive bool
	var replicas int
	cmd := &cobra.Command{
		Use:   "put [-r] LOCAL… PATH",
		Short: "Store local files; - is stdin",
		Args:  atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			sources, dst := args[:len(args)-1], args[len(args)-1]
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				p := putter{app: a, client: client, recursive: recursive, replicas: replicas, progress: a.newProgress()}
				defer p.progress.wait()
				for _, src := range sources {
					to, err := p.destination(cmd.Context(), src, dst, len(sources) > 1)
					if err != nil {
						return err
					}
					if err := p.put(cmd.Context(), src, to); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories with all they hold")
	cmd.Flags().IntVar(&replicas, "replicas", 0, "copies of each chunk, 1 to 8 (0: the default, 3)")
	return cmd
}

// putter stores local files and trees.
type putter struct {
	*app
	client    *clientlib.Client
	recursive bool
	replicas  int
	progress  *progress
}

// destination is where a source goes: into dst if that is a directory, else to dst itself.
func (p putter) destination(ctx context.Context, src, dst string, many bool) (string, error) {
	info, err := p.client.Stat(ctx, dst)
	switch {
	case err == nil && info.IsDir():
		if src == "-" {
			return "", usagef("%s is a directory: name the file that takes stdin", dst)
		}
		abs, err := filepath.Abs(src)
		if err != nil {
			return "", err
		}
		return path.Join(dst, filepath.Base(abs)), nil
	case many && err == nil:
		return "", usagef("several sources go into a directory, %s is a file", dst)
	case many:
		return "", usagef("several sources go into a directory, %s does not exist: make it with cairn mkdir", dst)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return dst, nil
}

func (p putter) put(ctx context.Context, src, dst string) error {
	if src == "-" {
		return p.copyIn(ctx, p.stdin, "stdin", -1, 0o644, dst)
	}
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return p.putFile(ctx, src, info, dst)
	}
	if !p.recursive {
		return usagef("%s is a directory: add -r to store it with all it holds", src)
	}
	return filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		to := path.Join(dst, filepath.ToSlash(rel))
		info, err := os.Stat(name) // a link is stored as what it points to
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return p.client.MkdirAll(ctx, to, info.Mode().Perm())
		case info.Mode().IsRegular():
			return p.putFile(ctx, name, info, to)
		default:
			return fmt.Errorf("%s is neither a file nor a directory: leave it out", name)
		}
	})
}

func (p putter) putFile(ctx context.Context, src string, info fs.FileInfo, dst string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return p.copyIn(ctx, f, src, info.Size(), info.Mode().Perm(), dst)
}

// copyIn makes or replaces dst with what r holds. The size is for the progress bar, -1 where it is not known.
func (p putter) copyIn(ctx context.Context, r io.Reader, name string, size int64, mode fs.FileMode, dst string) error {
	opts := []clientlib.CreateOption{clientlib.WithMode(mode)}
	if p.replicas != 0 {
		opts = append(opts, clientlib.WithReplicas(p.replicas))
	}
	f, err := p.client.OpenFile(ctx, dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, opts...)
	if err != nil {
		return err
	}
	_, err = io.Copy(f.WithContext(ctx), p.progress.reader(r, name, size))
	if err != nil {
		err = fmt.Errorf("put %s: %w", name, err)
	}
	return closed(f, err)
}

// closed closes f, and gives what failed first: a write that failed is what Close tells as well.
func closed(f io.Closer, err error) error {
	if failed := f.Close(); err == nil {
		err = failed
	}
	return err
}

func (a *app) getCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "get [-r] PATH… LOCAL",
		Short: "Fetch files; - is stdout",
		Args:  atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			sources, dst := args[:len(args)-1], args[len(args)-1]
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				g := getter{app: a, client: client, recursive: recursive, progress: a.newProgress()}
				defer g.progress.wait()
				for _, src := range sources {
					to, err := localDestination(src, dst, len(sources) > 1)
					if err != nil {
						return err
					}
					if err := g.get(cmd.Context(), src, to); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories with all they hold")
	return cmd
}

func localDestination(src, dst string, many bool) (string, error) {
	if dst == "-" {
		return dst, nil
	}
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir():
		return filepath.Join(dst, path.Base(src)), nil
	case many:
		return "", usagef("several sources go into a directory, %s is none", dst)
	}
	return dst, nil
}

// getter fetches files and trees.
type getter struct {
	*app
	client    *clientlib.Client
	recursive bool
	progress  *progress
}

func (g getter) get(ctx context.Context, src, dst string) error {
	info, err := g.client.Stat(ctx, src)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return g.getFile(ctx, src, dst, info)
	}
	if !g.recursive || dst == "-" {
		return usagef("%s is a directory: add -r and name a local directory to fetch it with all it holds", src)
	}
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	for d, err := range g.client.ReadDir(ctx, src) {
		if err != nil {
			return err
		}
		if err := g.get(ctx, path.Join(src, d.Name()), filepath.Join(dst, d.Name())); err != nil {
			return err
		}
	}
	return os.Chmod(dst, info.Mode().Perm()|0o700)
}

// getFile writes into a file beside dst and renames it when it is whole, so that dst is never half a file.
func (g getter) getFile(ctx context.Context, src, dst string, info fs.FileInfo) (err error) {
	f, err := g.client.Open(ctx, src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	from := g.progress.reader(f.WithContext(ctx), src, info.Size())
	if dst == "-" {
		_, err = io.Copy(g.stdout, from)
		return err
	}
	if local, err := os.Stat(dst); err == nil && !local.Mode().IsRegular() {
		return copyInto(dst, from) // a device or a pipe cannot be renamed over
	}
	part, err := os.CreateTemp(filepath.Dir(dst), "."+filepath.Base(dst)+".*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	_, err = io.Copy(part, from)
	err = errors.Join(err, part.Chmod(info.Mode().Perm()), part.Close())
	if err != nil {
		return fmt.Errorf("get %s: %w", src, err)
	}
	return os.Rename(part.Name(), dst)
}

func copyInto(dst string, from io.Reader) error {
	f, err := os.OpenFile(dst, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

func (a *app) catCommand() *cobra.Command {
	var records bool
	cmd := &cobra.Command{
		Use:   "cat [--records] PATH…",
		Short: "Print files",
		Args:  atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				for _, name := range args {
					if err := a.cat(cmd.Context(), client, name, records); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&records, "records", false, "the payloads of framed records, one a line, each once")
	return cmd
}

// target is where FROM goes: into TO if that is a directory.
func (a *app) target(ctx context.Context, client *clientlib.Client, from, to string) (string, error) {
	info, err := client.Stat(ctx, to)
	switch {
	case err == nil && info.IsDir():
		return path.Join(to, path.Base(strings.TrimRight(from, "/"))), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return to, nil
}
