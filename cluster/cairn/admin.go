package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/top"
)

func (a *app) adminCommand() *cobra.Command {
	admin := &cobra.Command{Use: "admin", Short: "See how the cluster is: for operators"}
	admin.AddCommand(a.statusCommand(), a.serversCommand(), a.mastersCommand(), a.eventsCommand(), a.topCommand(), a.garbageCommand(),
		a.backupCommand(), a.restoreCommand())
	return admin
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the cluster is, in short",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				info, err := client.StatFS(cmd.Context())
				if err != nil {
					return err
				}
				acting, err := client.ActingMaster(cmd.Context())
				if err != nil {
					return err
				}
				s := statusFacts{Cluster: a.cluster, Master: newMaster(acting), space: newSpace(info)}
				if a.json {
					return a.printJSON(s)
				}
				return a.table([]string{
					"cluster\t" + s.Cluster,
					fmt.Sprintf("master\t%s, epoch %d, operation log at %d", s.Master.ID, s.Master.Epoch, s.Master.AppliedIndex),
					fmt.Sprintf("chunkservers\t%d of %d up", s.ChunkserversUp, s.Chunkservers),
					fmt.Sprintf("space\t%s used, %s free of %s", sizeText(s.UsedBytes), sizeText(s.FreeBytes), sizeText(s.CapacityBytes)),
					fmt.Sprintf("files\t%d in %d directories", s.Files, s.Directories),
					fmt.Sprintf("chunks\t%d: %d under-replicated, %d corrupt, %d missing", s.Chunks, s.UnderReplicated, s.Corrupt, s.Missing),
				})
			})
		},
	}
}

// statusFacts is what admin status prints.
type statusFacts struct {
	Cluster string      `json:"cluster"`
	Master  masterFacts `json:"master"`
	space
}

// masterFacts is what admin masters prints of one. The last three are known of the acting one alone.
type masterFacts struct {
	ID           string `json:"id"`
	Version      string `json:"version,omitempty"`
	Acting       bool   `json:"acting"`
	Epoch        uint32 `json:"epoch,omitempty"`
	AppliedIndex uint64 `json:"applied_index,omitempty"`
}

func newMaster(m clientlib.MasterStatus) masterFacts {
	return masterFacts{ID: m.ID, Version: m.Version, Acting: m.Acting, Epoch: uint32(m.Epoch), AppliedIndex: m.AppliedIndex}
}

func (a *app) mastersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "masters",
		Short: "List the masters that answer",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				all, err := client.Masters(cmd.Context())
				if err != nil {
					return err
				}
				rows := []string{"MASTER\tROLE\tEPOCH\tLOG AT\tVERSION"}
				for _, m := range all {
					if a.json {
						if err := a.printJSON(newMaster(m)); err != nil {
							return err
						}
						continue
					}
					row := []string{m.ID, "standby", "-", "-", dash(m.Version)}
					if m.Acting {
						row[1], row[2], row[3] = "acting", fmt.Sprint(m.Epoch), fmt.Sprint(m.AppliedIndex)
					}
					rows = append(rows, strings.Join(row, "\t"))
				}
				if a.json {
					return nil
				}
				return a.table(rows)
			})
		},
	}
}

// serverFacts is what admin servers prints of one.
type serverFacts struct {
	ID            string `json:"id"`
	Address       string `json:"address"`
	Rack          string `json:"rack"`
	Up            bool   `json:"up"`
	LastHeardMS   int64  `json:"last_heard_ms"`
	CapacityBytes int64  `json:"capacity_bytes"`
	UsedBytes     int64  `json:"used_bytes"`
	FreeBytes     int64  `json:"free_bytes"`
	Chunks        int64  `json:"chunks"`
	Leases        int64  `json:"leases"`
}

func (a *app) serversCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "servers",
		Short: "List the chunkservers",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				all, err := client.Servers(cmd.Context())
				if err != nil {
					return err
				}
				rows := []string{"CHUNKSERVER\tSTATE\tHEARD\tRACK\tADDRESS\tUSED\tFREE\tCHUNKS\tLEASES"}
				for _, s := range all {
					if a.json {
						if err := a.printJSON(serverFacts{
							ID: string(s.ID), Address: s.Addr, Rack: s.Rack, Up: s.Up, LastHeardMS: s.LastHeard.Milliseconds(),
							CapacityBytes: s.CapacityBytes, UsedBytes: s.UsedBytes, FreeBytes: s.FreeBytes, Chunks: s.Chunks, Leases: s.Leases,
						}); err != nil {
							return err
						}
						continue
					}
					state := "up"
					if !s.Up {
						state = "DOWN"
					}
					rows = append(rows, fmt.Sprintf("%s\t%s\t%s ago\t%s\t%s\t%s\t%s\t%d\t%d", s.ID, state, s.LastHeard.Round(100*time.Millisecond),
						dash(s.Rack), s.Addr, sizeText(s.UsedBytes), sizeText(s.FreeBytes), s.Chunks, s.Leases))
				}
				if a.json {
					return nil
				}
				return a.table(rows)
			})
		},
	}
}

func (a *app) eventsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Print what happens in the cluster, until interrupted",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				for e, err := range client.Events(cmd.Context()) {
					switch {
					case err != nil && cmd.Context().Err() != nil:
						return nil // the signal to stop
					case err != nil:
						return err
					}
					if a.json {
						err = a.printJSON(eventFacts{Kind: e.Kind, Time: e.Time.UTC(), Server: e.Server, Chunk: e.Chunk, Version: e.Version, Path: e.Path, Detail: e.Detail})
					} else {
						_, err = fmt.Fprintln(a.stdout, top.EventLine(e))
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// eventFacts is what admin events prints of one.
type eventFacts struct {
	Kind    string    `json:"kind"`
	Time    time.Time `json:"time"`
	Server  string    `json:"server,omitempty"`
	Chunk   string    `json:"chunk,omitempty"`
	Version string    `json:"version,omitempty"`
	Path    string    `json:"path,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

func (a *app) topCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster, drawn anew every second until interrupted; with --json a line a second",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := top.Config{Cluster: a.cluster, JSON: a.json, Out: a.stdout}
			if !a.json {
				f, ok := a.stdout.(*os.File)
				if !ok || !isTerminal(f) {
					return usagef("%s draws on a terminal, which stdout is not: add --json for a line a second", cmd.CommandPath())
				}
				cfg.Size = func() (width, height int) { return terminalSize(f) }
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error { return top.Run(cmd.Context(), client, cfg) })
		},
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// terminalSize is in columns and rows, 80 and 24 where the terminal does not say.
func terminalSize(f *os.File) (width, height int) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}
