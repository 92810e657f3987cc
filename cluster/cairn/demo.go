package main

import (
	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/cluster/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo [FILE…]",
		Short: "Show the whole system once: store, append, lose a chunkserver, read back, check",
		RunE: func(cmd *cobra.Command, args []string) error {
			binary, err := ownBinary()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{binary}
			}
			out := a.stdout
			if a.json {
				out = a.stderr
			}
			summary, err := demo.Run(cmd.Context(), demo.Config{Binary: binary, Files: args, Out: out, Keep: keep})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(summary)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the temporary directory behind")
	return cmd
}
