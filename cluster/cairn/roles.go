package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/master"
)

// ready tells whoever started the process that it can serve, then waits for the signal to stop.
func (a *app) ready(ctx context.Context, what ...any) {
	fmt.Fprintln(a.stdout, append([]any{"ready"}, what...)...)
	<-ctx.Done()
}

func (a *app) devCommand() *cobra.Command {
	var dir string
	var chunkservers, masters, port int
	cmd := &cobra.Command{
		Use:   "dev [--data DIR] [--chunkservers N] [--port PORT]",
		Short: "Run a whole cluster in one process",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case masters != 1:
				return usagef("--masters %d: one master is all that runs in one process so far", masters)
			case chunkservers < 1:
				return usagef("--chunkservers %d: want at least 1", chunkservers)
			case port < 0 || port > 65535:
				return usagef("--port %d: want 0 (a free one) to 65535", port)
			}
			c, err := cluster.Start(cmd.Context(), cluster.Config{
				Dir: dir, Name: a.cluster, Chunkservers: chunkservers, Log: a.logger(),
				Listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
			})
			if err != nil {
				return err
			}
			a.ready(cmd.Context(), c.URL())
			return c.Close()
		},
	}
	cmd.Flags().StringVar(&dir, "data", ".cairn", "keep all data in `DIR`")
	cmd.Flags().IntVar(&chunkservers, "chunkservers", 4, "how many chunkservers, on two racks")
	cmd.Flags().IntVar(&masters, "masters", 1, "how many masters")
	cmd.Flags().IntVar(&port, "port", 4222, "port of the NATS server on 127.0.0.1; 0 picks a free one")
	return cmd
}

func (a *app) natsCommand() *cobra.Command {
	var listen string
	var insecure bool
	cmd := &cobra.Command{
		Use:   "nats [--listen HOST:PORT]",
		Short: "Run an embedded NATS server",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := cluster.StartNATS(listen, insecure, a.logger().WithField("role", "nats"))
			if err != nil {
				return err
			}
			a.ready(cmd.Context(), n.URL())
			n.Close()
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:4222", "listen on `HOST:PORT`; port 0 picks a free one")
	insecureFlag(cmd, &insecure)
	return cmd
}

func (a *app) masterCommand() *cobra.Command {
	cfg := master.Config{}
	cmd := &cobra.Command{
		Use:   "master --id ID --data DIR",
		Short: "Run a master",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.ID == "" || cfg.Dir == "" {
				return usagef("a master needs --id and --data: %s", cmd.UseLine())
			}
			cfg.Cluster, cfg.NATS.URL, cfg.Log = a.cluster, a.natsURL, a.logger()
			m, err := master.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			a.ready(cmd.Context(), cfg.ID)
			return m.Close()
		},
	}
	cmd.Flags().StringVar(&cfg.ID, "id", "", "the master's `ID`: m1, say")
	cmd.Flags().StringVar(&cfg.Dir, "data", "", "keep the operation log and checkpoints in `DIR`")
	return cmd
}

func (a *app) chunkserverCommand() *cobra.Command {
	cfg := chunkserver.Config{}
	cmd := &cobra.Command{
		Use:   "chunkserver --data DIR [--data DIR2 …]",
		Short: "Run a chunkserver",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.Dirs) == 0 {
				return usagef("a chunkserver needs --data: %s", cmd.UseLine())
			}
			if _, _, err := cluster.CheckListen(cfg.Listen, cfg.Insecure); err != nil {
				return err
			}
			cfg.Cluster, cfg.NATS, cfg.Log = a.cluster, a.natsURL, a.logger()
			s, err := chunkserver.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			a.ready(cmd.Context(), s.ID(), s.Addr())
			return s.Close()
		},
	}
	cmd.Flags().StringArrayVar(&cfg.Dirs, "data", nil, "keep replicas in `DIR`; several make one server over several disks")
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:7500", "listen for data on `HOST:PORT`; port 0 picks a free one")
	cmd.Flags().StringVar(&cfg.Advertise, "advertise", "", "tell others to connect to `HOST:PORT` instead")
	cmd.Flags().StringVar(&cfg.Rack, "rack", "", "the rack's `NAME`: copies of a chunk go to different racks")
	insecureFlag(cmd, &cfg.Insecure)
	return cmd
}

func insecureFlag(cmd *cobra.Command, insecure *bool) {
	cmd.Flags().BoolVar(insecure, "insecure", false, "allow a listener beyond loopback although nothing is authenticated yet")
}

// errNoBinary says that the command cannot find itself.
var errNoBinary = errors.New("cannot find this program's own file to start the parts of a cluster")

func ownBinary() (string, error) {
	binary, err := os.Executable()
	if err != nil {
		return "", errors.Join(errNoBinary, err)
	}
	return binary, nil
}
