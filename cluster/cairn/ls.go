package main

import (
	"context"
	"fmt"
	"io/fs"
	"path"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
)

func (a *app) lsCommand() *cobra.Command {
	var long, recursive bool
	cmd := &cobra.Command{
		Use:   "ls [-l] [-R] [PATH…]",
		Short: "List files and directories",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"/"}
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				l := lister{app: a, client: client, long: long, recursive: recursive, headings: len(args) > 1 || recursive}
				for _, name := range args {
					if err := l.list(cmd.Context(), name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "mode, replicas, owner, group, size and time too")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "directories below too")
	return cmd
}

// lister lists one argument of ls after the other.
type lister struct {
	*app
	client                    *clientlib.Client
	long, recursive, headings bool
}

func (l lister) list(ctx context.Context, name string) error {
	info, err := l.client.Stat(ctx, name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return l.print([]entry{newEntry(name, info)}, []fs.FileInfo{info})
	}
	var entries []entry
	var infos []fs.FileInfo
	for d, err := range l.client.ReadDir(ctx, name) {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		entries, infos = append(entries, newEntry(path.Join(name, d.Name()), info)), append(infos, info)
	}
	if l.headings && !l.json {
		fmt.Fprintf(l.stdout, "%s:\n", l.name(name))
	}
	if err := l.print(entries, infos); err != nil {
		return err
	}
	if !l.recursive {
		return nil
	}
	for _, e := range entries {
		if e.Kind == "directory" {
			if err := l.list(ctx, e.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l lister) print(entries []entry, infos []fs.FileInfo) error {
	var rows []string
	for i, e := range entries {
		switch {
		case l.json:
			if err := l.printJSON(e); err != nil {
				return err
			}
		case l.long:
			rows = append(rows, l.row(e, infos[i].Mode()))
		case infos[i].IsDir():
			rows = append(rows, l.name(e.Name)+"/")
		default:
			rows = append(rows, l.name(e.Name))
		}
	}
	return l.table(rows)
}

func (a *app) statCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stat PATH…",
		Short: "Say what is known of files and directories",
		Args:  atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				for _, name := range args {
					info, err := client.Stat(cmd.Context(), name)
					if err != nil {
						return err
					}
					if err := a.printStatus(newEntry(name, info), info); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) printStatus(e entry, info fs.FileInfo) error {
	if a.json {
		return a.printJSON(e)
	}
	return a.table([]string{
		"path\t" + a.name(e.Path),
		"kind\t" + e.Kind,
		fmt.Sprintf("size\t%d (%s)", e.Size, sizeText(e.Size)),
		fmt.Sprintf("chunks\t%d", e.Chunks),
		fmt.Sprintf("replicas\t%d", e.Replicas),
		fmt.Sprintf("mode\t%s (%s)", info.Mode(), e.Mode),
		fmt.Sprintf("owner\t%s:%s", dash(a.name(e.Owner)), dash(a.name(e.Group))),
		"modified\t" + e.Modified.Local().Format("2006-01-02 15:04:05.000 -0700"),
		"id\t" + e.ID,
	})
}

func (a *app) locateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "locate PATH",
		Short: "Say where the chunks of a file are",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				locations, err := client.Locations(cmd.Context(), args[0], 0, 1<<62)
				if err != nil {
					return err
				}
				return a.printLocations(locations)
			})
		},
	}
}

func (a *app) printLocations(locations []clientlib.ChunkLocation) error {
	type server struct {
		ID      string `json:"id"`
		Address string `json:"address"`
		Rack    string `json:"rack"`
	}
	type location struct {
		Offset  int64    `json:"offset"`
		Length  int64    `json:"length"`
		Handle  string   `json:"handle"`
		Version string   `json:"version"`
		Servers []server `json:"servers"`
	}
	rows := []string{"OFFSET\tLENGTH\tCHUNK\tVERSION\tSERVERS"}
	for _, l := range locations {
		out := location{Offset: l.Offset, Length: l.Length, Handle: l.Handle.String(), Version: l.Version.String(), Servers: []server{}}
		names := ""
		for _, s := range l.Servers {
			out.Servers = append(out.Servers, server{string(s.ID), s.Addr, s.Rack})
			names += fmt.Sprintf("%s (%s, %s) ", s.ID, s.Addr, dash(a.name(s.Rack)))
		}
		if a.json {
			if err := a.printJSON(out); err != nil {
				return err
			}
		}
		rows = append(rows, fmt.Sprintf("%d\t%d\t%s\t%s\t%s", l.Offset, l.Length, l.Handle, l.Version, names))
	}
	if a.json {
		return nil
	}
	return a.table(rows)
}
