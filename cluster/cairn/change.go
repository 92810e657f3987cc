package main

import (
	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
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
	var recursive bool
	cmd := &cobra.Command{
		Use:   "rm [-r] PATH…",
		Short: "Remove files and empty directories",
		Args:  atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				for _, name := range args {
					if recursive { // RemoveAll takes a missing path for done; a person who names one has mistyped it
						if _, err := client.Stat(cmd.Context(), name); err != nil {
							return err
						}
						if err := client.RemoveAll(cmd.Context(), name); err != nil {
							return err
						}
					} else if err := client.Remove(cmd.Context(), name); err != nil {
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
