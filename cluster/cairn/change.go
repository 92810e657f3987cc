package main

import (
	"context"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

func (a *app) mkdirCommand() *cobra.Command {
	var parents bool
	cmd := &cobra.Command{
		Use:   "mkdir [-p] PATH…",
		Short: "Make directories",
		Args:  atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				make := client.Mkdir
				if parents {
					make = client.MkdirAll
				}
				for _, name := range args {
					if err := make(cmd.Context(), name, 0o755); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make missing parents too; an existing directory is no error")
	return cmd
}

func (a *app) rmCommand() *cobra.Command {
	var recursive, now bool
	cmd := &cobra.Command{
		Use:   "rm [-r] [--now] PATH…",
		Short: "Remove files and empty directories, into the trash",
		Args:  atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				remove := client.Remove
				switch {
				case recursive && now:
					remove = client.RemoveAllNow
				case recursive:
					remove = client.RemoveAll
				case now:
					remove = client.RemoveNow
				}
				for _, name := range args {
					if recursive { // a missing path counts as removed then; a person who names one has mistyped it
						if _, err := client.Stat(cmd.Context(), name); err != nil {
							return err
						}
					}
					if err := remove(cmd.Context(), name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories with all they hold")
	cmd.Flags().BoolVar(&now, "now", false, "past the trash: nothing brings them back")
	return cmd
}

func (a *app) mvCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mv FROM TO",
		Short: "Rename a file or directory",
		Args:  exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				to, err := a.target(cmd.Context(), client, args[0], args[1])
				if err != nil {
					return err
				}
				return client.Rename(cmd.Context(), args[0], to)
			})
		},
	}
}

func (a *app) undeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "undelete PATH…",
		Short: "Bring back what was removed, the latest of each path",
		Args:  atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				for _, name := range args {
					if err := client.Undelete(cmd.Context(), name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) trashCommand() *cobra.Command {
	trash := &cobra.Command{Use: "trash", Short: "See what was removed and can be brought back"}
	trash.AddCommand(&cobra.Command{
		Use:   "ls [PATH]",
		Short: "List what undelete can bring back, the oldest first; with PATH only that and what was below it",
		Args:  between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			below := "/"
			if len(args) == 1 {
				clean, err := gfs.CleanPath(args[0])
				if err != nil {
					return err
				}
				below = clean
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				return a.listTrash(cmd.Context(), client, below)
			})
		},
	})
	return trash
}

// removal is what trash ls prints of one.
type removal struct {
	Removed time.Time `json:"removed"`
	entry
}

func (a *app) listTrash(ctx context.Context, client *clientlib.Client, below string) error {
	rows := []string{"REMOVED\tSIZE\tOWNER\tPATH"}
	for r, err := range client.Trash(ctx) {
		if err != nil {
			return err
		}
		if r.Path != below && !strings.HasPrefix(r.Path, strings.TrimSuffix(below, "/")+"/") {
			continue
		}
		info, err := r.Entry.Info()
		if err != nil {
			return err
		}
		e := removal{r.Removed.UTC(), newEntry(r.Path, info)}
		if a.json {
			if err := a.printJSON(e); err != nil {
				return err
			}
			continue
		}
		size, name := sizeText(e.Size), e.Path
		if e.Kind == "directory" {
			size, name = "-", name+"/"
		}
		rows = append(rows, strings.Join([]string{r.Removed.Local().Format(time.DateTime), size, dash(a.name(e.Owner)), a.name(name)}, "\t"))
	}
	if a.json || len(rows) == 1 {
		return nil
	}
	return a.table(rows)
}

func (a *app) chmodCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "chmod [-R] MODE PATH…",
		Short: "Set permission bits, in octal",
		Args:  atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			bits, err := strconv.ParseUint(args[0], 8, 32)
			if err != nil || bits > uint64(fs.ModePerm) {
				return usagef("mode %q: want permission bits in octal, 0 to 777: 644, say", args[0])
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				return each(cmd.Context(), client, args[1:], recursive, func(name string, _ fs.FileInfo) error {
					return client.Chmod(cmd.Context(), name, fs.FileMode(bits))
				})
			})
		},
	}
	recursiveFlag(cmd, &recursive)
	return cmd
}

func (a *app) chownCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "chown [-R] [OWNER][:GROUP] PATH…",
		Short: "Set owner and group",
		Args:  atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			owner, group, _ := strings.Cut(args[0], ":")
			if owner == "" && group == "" {
				return usagef("%q names neither owner nor group: want OWNER, OWNER:GROUP or :GROUP", args[0])
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				return each(cmd.Context(), client, args[1:], recursive, func(name string, _ fs.FileInfo) error {
					return client.Chown(cmd.Context(), name, owner, group)
				})
			})
		},
	}
	recursiveFlag(cmd, &recursive)
	return cmd
}

func (a *app) setrepCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "setrep [-R] N PATH…",
		Short: "Set how many replicas each chunk of a file should have",
		Args:  atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > gfs.MaxReplicas {
				return usagef("%q replicas: want a number from 1 to %d", args[0], gfs.MaxReplicas)
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				return each(cmd.Context(), client, args[1:], recursive, func(name string, info fs.FileInfo) error {
					if recursive && info.IsDir() {
						return nil // it has no chunks
					}
					return client.SetReplicas(cmd.Context(), name, n)
				})
			})
		},
	}
	recursiveFlag(cmd, &recursive)
	return cmd
}

func (a *app) truncateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "truncate SIZE PATH…",
		Short: "Make files SIZE bytes long (4096, 64K, 1GiB): cut their ends off or add zeros",
		Args:  atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var bytes size
			if err := bytes.Set(args[0]); err != nil {
				return usagef("%q is %w", args[0], err)
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				for _, name := range args[1:] {
					if err := client.Truncate(cmd.Context(), name, int64(bytes)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func recursiveFlag(cmd *cobra.Command, recursive *bool) {
	cmd.Flags().BoolVarP(recursive, "recursive", "R", false, "directories with all they hold")
}

// each visits the names, with recursive also what is below them. Without it the info is nil.
func each(ctx context.Context, client *clientlib.Client, names []string, recursive bool, visit func(name string, info fs.FileInfo) error) error {
	for _, name := range names {
		if !recursive {
			if err := visit(name, nil); err != nil {
				return err
			}
			continue
		}
		info, err := client.Stat(ctx, name)
		if err != nil {
			return err
		}
		if err := walk(ctx, client, name, info, visit); err != nil {
			return err
		}
	}
	return nil
}

// walk visits name and all that is below it, a directory before what it holds.
func walk(ctx context.Context, client *clientlib.Client, name string, info fs.FileInfo, visit func(name string, info fs.FileInfo) error) error {
	if err := visit(name, info); err != nil || !info.IsDir() {
		return err
	}
	for d, err := range client.ReadDir(ctx, name) {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := walk(ctx, client, path.Join(name, d.Name()), info, visit); err != nil {
			return err
		}
	}
	return nil
}
