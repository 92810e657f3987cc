package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/cluster/local"
)

// localCommand groups the commands for a cluster of separate processes on this machine.
func (a *app) localCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "local up|down|status|logs|kill|start",
		Short: "A cluster of separate processes on this machine",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("want one of up, down, status, logs, kill, start: see %s --help", cmd.CommandPath())
		},
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", envOr("CAIRN_LOCAL_DIR", ".cluster"), "keep the cluster in `DIR` (or CAIRN_LOCAL_DIR)")
	cmd.AddCommand(a.localUp(&dir), a.localDown(&dir), a.localStatus(&dir), a.localLogs(&dir), a.localKill(&dir), a.localStart(&dir))
	return cmd
}

func (a *app) localUp(dir *string) *cobra.Command {
	var cfg local.Config
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start NATS, the masters and the chunkservers on two racks; those that run are left alone",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			const most = 50 // beyond it the ports would meet those of others
			if cfg.Chunkservers < 1 || cfg.Chunkservers > most {
				return usagef("--chunkservers %d: want 1 to %d", cfg.Chunkservers, most)
			}
			if n := cfg.Masters; n != 1 && n != 3 && n != 5 {
				return usagef("--masters %d: want 1, 3 or 5", n)
			}
			for _, port := range []int{cfg.NATSPort, cfg.DataPort, cfg.RaftPort, cfg.HTTPPort} {
				if port < 0 || port > 65000 {
					return usagef("port %d: want 0 (free ones) to 65000", port)
				}
			}
			binary, err := ownBinary()
			if err != nil {
				return err
			}
			cfg.Cluster = a.cluster
			c, err := local.Make(*dir, cfg)
			if err != nil {
				return err
			}
			if err := c.Up(cmd.Context(), binary); err != nil {
				return err
			}
			return a.printLocal(c)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&cfg.Masters, "masters", 3, "how many masters: 1, 3 or 5")
	flags.IntVar(&cfg.Chunkservers, "chunkservers", 5, "how many chunkservers")
	flags.IntVar(&cfg.NATSPort, "port", intEnvOr("CAIRN_LOCAL_PORT", 4222), "`PORT` of NATS (or CAIRN_LOCAL_PORT); 0 picks a free one")
	flags.IntVar(&cfg.DataPort, "data-port", intEnvOr("CAIRN_LOCAL_DATA_PORT", 7500), "first `PORT` for data (or CAIRN_LOCAL_DATA_PORT)")
	flags.IntVar(&cfg.RaftPort, "raft-port", intEnvOr("CAIRN_LOCAL_RAFT_PORT", 7400), "first `PORT` between masters (or CAIRN_LOCAL_RAFT_PORT)")
	flags.IntVar(&cfg.HTTPPort, "http-port", intEnvOr("CAIRN_LOCAL_HTTP_PORT", 7480), "first `PORT` for metrics, chunkservers 100 later (or CAIRN_LOCAL_HTTP_PORT)")
	return cmd
}

// intEnvOr is a number from the environment; what is no number is left to be refused as a port.
func intEnvOr(name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// printLocal says what runs and how to talk to it.
func (a *app) printLocal(c *local.Cluster) error {
	all, err := c.Status()
	if err != nil {
		return err
	}
	if err := a.printParts(all); err != nil || a.json {
		return err
	}
	fmt.Fprintf(a.stdout, "\nTalk to it:  export CAIRN_NATS_URL=%s CAIRN_CLUSTER=%s\n             go run ./cluster/cairn ls /\n", c.NATS(), c.Name())
	return nil
}

func (a *app) printParts(all []local.Status) error {
	if a.json {
		for _, s := range all {
			fact := map[string]any{"name": s.Name, "role": s.Role, "pid": s.Pid, "running": s.Pid != 0, "ready": s.Ready, "http": s.HTTP, "log": s.Log}
			if err := a.printJSON(fact); err != nil {
				return err
			}
		}
		return nil
	}
	rows := []string{"NAME\tSTATE\tREADY\tHTTP"}
	for _, s := range all {
		state := "down"
		if s.Pid != 0 {
			state = "pid " + strconv.Itoa(s.Pid)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", s.Name, state, s.Ready, s.HTTP))
	}
	return a.table(rows)
}

func (a *app) localDown(dir *string) *cobra.Command {
	return a.localDo(dir, "down", "Stop every process; what is stored stays", 0, func(ctx context.Context, c *local.Cluster, _ []string) error {
		return c.Down(ctx)
	})
}

func (a *app) localKill(dir *string) *cobra.Command {
	return a.localDo(dir, "kill NAME", "End one process with SIGKILL: cs2, say", 1, func(ctx context.Context, c *local.Cluster, args []string) error {
		return c.Kill(ctx, args[0])
	})
}

func (a *app) localStart(dir *string) *cobra.Command {
	return a.localDo(dir, "start NAME", "Start one process that does not run", 1, func(ctx context.Context, c *local.Cluster, args []string) error {
		binary, err := ownBinary()
		if err != nil {
			return err
		}
		return c.Start(ctx, binary, args[0])
	})
}

func (a *app) localStatus(dir *string) *cobra.Command {
	return a.localDo(dir, "status", "Which processes run, and where; status 1 if one does not", 0, func(_ context.Context, c *local.Cluster, _ []string) error {
		all, err := c.Status()
		if err != nil {
			return err
		}
		if err := a.printParts(all); err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(s local.Status) bool { return s.Pid == 0 }); i >= 0 {
			return fmt.Errorf("%s does not run: start it with cairn local start %s, or all with cairn local up", all[i].Name, all[i].Name)
		}
		return nil
	})
}

// localDo is a command about a cluster that was made before.
func (a *app) localDo(dir *string, use, short string, args int, do func(context.Context, *local.Cluster, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactly(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := local.Open(*dir)
			if err != nil {
				return err
			}
			return do(cmd.Context(), c, args)
		},
	}
}

func (a *app) localLogs(dir *string) *cobra.Command {
	var follow bool
	var last int
	cmd := &cobra.Command{
		Use:   "logs [-f] [-n N] [NAME…]",
		Short: "The last lines that the processes logged",
		Args:  between(0, 1<<10),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := local.Open(*dir)
			if err != nil {
				return err
			}
			all, err := c.Status()
			if err != nil {
				return err
			}
			for _, name := range args {
				if !slices.ContainsFunc(all, func(s local.Status) bool { return s.Name == name }) {
					return fmt.Errorf("the cluster has no process %q: see cairn local status", name)
				}
			}
			if len(args) > 0 {
				all = slices.DeleteFunc(all, func(s local.Status) bool { return !slices.Contains(args, s.Name) })
			}
			return a.printLogs(cmd.Context(), all, last, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as they log more, until interrupted")
	cmd.Flags().IntVarP(&last, "lines", "n", 20, "begin with the last `N` lines of each")
	return cmd
}

// printLogs prints the last lines of each log, each with the name of its process in front, then what is added.
func (a *app) printLogs(ctx context.Context, all []local.Status, last int, follow bool) error {
	const pause = 200 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	var readers []*bufio.Reader
	for _, s := range all {
		f, err := os.Open(s.Log)
		if errors.Is(err, os.ErrNotExist) {
			readers = append(readers, bufio.NewReader(strings.NewReader(""))) // it was never started
			continue
		}
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		r := bufio.NewReader(f)
		lines := newLines(r)
		for _, line := range lines[max(0, len(lines)-last):] {
			fmt.Fprintf(a.stdout, "%-5s %s", s.Name, line)
		}
		readers = append(readers, r)
	}
	for follow {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		for i, r := range readers {
			for _, line := range newLines(r) {
				fmt.Fprintf(a.stdout, "%-5s %s", all[i].Name, line)
			}
		}
	}
	return nil
}

// newLines reads the lines that are there to read, the last one though it may be cut.
func newLines(r *bufio.Reader) (lines []string) {
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			lines = append(lines, line)
		}
		if err != nil {
			return lines
		}
	}
}
