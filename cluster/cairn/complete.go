package main

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
)

const (
	// completeTime is how long somebody who pressed the tab key waits at most.
	completeTime = time.Second
	// maxCompletions bounds what one press of it lists.
	maxCompletions = 1000
)

// complete lets a shell complete what a command takes: the cluster's paths, local ones, or nothing.
func (a *app) complete(cmd *cobra.Command) {
	for _, below := range cmd.Commands() {
		a.complete(below)
	}
	if cmd.HasSubCommands() || cmd.ValidArgsFunction != nil || cmd.ValidArgs != nil {
		return
	}
	switch cmd.Name() {
	case "cat", "ls", "stat", "mkdir", "rm", "mv", "append", "tail", "locate", "du", "undelete":
		cmd.ValidArgsFunction = a.completePaths(0, cobra.ShellCompDirectiveNoFileComp)
	case "chmod", "chown", "setrep", "truncate":
		cmd.ValidArgsFunction = a.completePaths(1, cobra.ShellCompDirectiveNoFileComp)
	case "get":
		cmd.ValidArgsFunction = a.completePaths(0, cobra.ShellCompDirectiveDefault)
	case "put":
		cmd.ValidArgsFunction = a.completePaths(1, cobra.ShellCompDirectiveDefault)
	case "demo": // local files, as shells do by themselves
	default:
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
}

// completePaths completes the cluster's paths in the arguments from number first on, and lets the shell complete
// local ones if otherwise says so.
func (a *app) completePaths(first int, otherwise cobra.ShellCompDirective) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) < first {
			return nil, otherwise
		}
		return a.completePath(cmd.Context(), begun), otherwise | cobra.ShellCompDirectiveNoSpace
	}
}

// completePath lists the paths of the cluster that begin so. Nobody reads an error here: then there are none.
func (a *app) completePath(ctx context.Context, begun string) (found []string) {
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	client, err := a.connect(ctx)
	if err != nil {
		return nil
	}
	defer func() { _ = client.Close() }()
	return pathsLike(ctx, client, begun)
}

func pathsLike(ctx context.Context, client *clientlib.Client, begun string) (found []string) {
	switch {
	case begun == "":
		begun = "/"
	case begun[0] != '/':
		return nil // perhaps a local one
	}
	dir, prefix := path.Split(begun)
	for d, err := range client.ReadDir(ctx, dir) {
		if err != nil || len(found) == maxCompletions {
			return found
		}
		if !strings.HasPrefix(d.Name(), prefix) {
			continue
		}
		name := dir + d.Name()
		if d.IsDir() {
			name += "/"
		}
		found = append(found, name)
	}
	return found
}
