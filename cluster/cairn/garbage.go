package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

// garbageFacts is what admin gc prints of a chunkserver.
type garbageFacts struct {
	ID       string `json:"id"`
	Replicas int64  `json:"replicas"`
	Orphaned int64  `json:"orphaned"`
	Stale    int64  `json:"stale"`
	Held     string `json:"held,omitempty"`
}

func (a *app) garbageCommand() *cobra.Command {
	confirm := ""
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "List the replicas that no file needs and that are still there; they are deleted by themselves",
		Long: "List the chunkservers with replicas that no file needs. They are deleted by themselves, a few hundred a second, but\n" +
			"where they are many more than what was removed lately: that is a sign that the masters lost some of their history.\n" +
			"Restore a backup, or have them deleted with --confirm and the chunkserver's id.",
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				all, err := client.Garbage(cmd.Context(), gfs.ServerID(confirm))
				if err != nil {
					return err
				}
				rows := []string{"CHUNKSERVER\tREPLICAS\tORPHANED\tSTALE\tKEPT BECAUSE"}
				for _, s := range all {
					if a.json {
						if err := a.printJSON(garbageFacts{string(s.ID), s.Replicas, s.Orphaned, s.Stale, s.Held}); err != nil {
							return err
						}
						continue
					}
					rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%d\t%s", s.ID, s.Replicas, s.Orphaned, s.Stale, dash(s.Held)))
				}
				if a.json {
					return nil
				}
				return a.table(rows)
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "delete what is kept back at the chunkserver with this id")
	return cmd
}
