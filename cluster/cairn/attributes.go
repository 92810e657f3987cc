package main

import (
	"context"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

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
