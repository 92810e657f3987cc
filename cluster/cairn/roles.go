package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/monitor"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/master/oplog"
)

// ready tells whoever started the process that it can serve, then waits for the signal to stop.
func (a *app) ready(ctx context.Context, what ...any) {
	fmt.Fprintln(a.stdout, append([]any{"ready"}, what...)...)
	<-ctx.Done()
}

func (a *app) devCommand() *cobra.Command {
	var dir string
	var chunkservers, masters, port int
	var http httpFlag
	cmd := &cobra.Command{
		Use:   "dev [--data DIR] [--chunkservers N] [--masters N] [--port PORT] [--http PORT]",
		Short: "Run a whole cluster in one process",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case masters != 1 && masters != 3 && masters != 5:
				return usagef("--masters %d: want 1, 3 or 5", masters)
			case chunkservers < 1:
				return usagef("--chunkservers %d: want at least 1", chunkservers)
			case port < 0 || port > 65535:
				return usagef("--port %d: want 0 (a free one) to 65535", port)
			}
			c, err := cluster.Start(cmd.Context(), cluster.Config{
				Dir: dir, Name: a.cluster, Masters: masters, Chunkservers: chunkservers, Log: a.logger(),
				Listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
			})
			if err != nil {
				return err
			}
			return a.serve(cmd, &http, false, monitor.Config{Masters: c.Masters, Chunkservers: c.Chunkservers}, c.Close, c.URL())
		},
	}
	cmd.Flags().StringVar(&dir, "data", ".cairn", "keep all data in `DIR`")
	cmd.Flags().IntVar(&chunkservers, "chunkservers", 4, "how many chunkservers, on two racks")
	cmd.Flags().IntVar(&masters, "masters", 1, "how many masters: 1, 3 or 5; counts at the first start")
	cmd.Flags().IntVar(&port, "port", 4222, "port of the NATS server on 127.0.0.1; 0 picks a free one")
	http.add(cmd, masterHTTP)
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
			if err := checkListen(listen, insecure); err != nil {
				return err
			}
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
	var http httpFlag
	var insecure bool
	var peers []string
	cmd := &cobra.Command{
		Use:   "master --id ID --data DIR [--peers ID=HOST:PORT,…]",
		Short: "Run a master, alone or as one of a group",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.ID == "" || cfg.Dir == "" {
				return usagef("a master needs --id and --data: %s", cmd.UseLine())
			}
			var err error
			if cfg.Peers, err = parsePeers(cfg.ID, peers, insecure); err != nil {
				return err
			}
			cfg.Cluster, cfg.NATS.URL, cfg.Log = a.cluster, a.natsURL, a.logger()
			m, err := master.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			parts := monitor.Config{Masters: func() []*master.Master { return []*master.Master{m} }}
			return a.serve(cmd, &http, insecure, parts, m.Close, cfg.ID)
		},
	}
	cmd.Flags().StringVar(&cfg.ID, "id", "", "the master's `ID`: m1, say")
	cmd.Flags().StringVar(&cfg.Dir, "data", "", "keep the operation log and checkpoints in `DIR`")
	cmd.Flags().StringSliceVar(&peers, "peers", nil, "the 3 or 5 masters of the group, this one too, as `ID=HOST:PORT`,…; counts at the first start (none: it stands alone)")
	http.add(cmd, masterHTTP)
	insecureFlag(cmd, &insecure)
	return cmd
}

// checkListen makes an error of usage of an address on which nobody may listen.
func checkListen(address string, insecure bool) error {
	if _, _, err := cluster.CheckListen(address, insecure); err != nil {
		return usageError{err}
	}
	return nil
}

// parsePeers reads --peers. The master listens at its own address among them, which is to be on loopback unless insecure.
func parsePeers(own string, texts []string, insecure bool) (peers []oplog.Peer, err error) {
	if len(texts) == 0 {
		return nil, nil
	}
	if n := len(texts); n != 3 && n != 5 {
		return nil, usagef("--peers names %d masters: want 3 or 5, or no --peers for one that stands alone", n)
	}
	listed := false
	for _, text := range texts {
		id, address, ok := strings.Cut(text, "=")
		host, _, err := net.SplitHostPort(address)
		if !ok || id == "" || err != nil || host == "" {
			return nil, usagef("--peers %q: want ID=HOST:PORT, as in m1=127.0.0.1:7400", text)
		}
		if slices.ContainsFunc(peers, func(p oplog.Peer) bool { return p.ID == id || p.Addr == address }) {
			return nil, usagef("--peers %q: its id or address is listed twice", text)
		}
		if id == own {
			listed = true
			if err := checkListen(address, insecure); err != nil {
				return nil, err
			}
		}
		peers = append(peers, oplog.Peer{ID: id, Addr: address})
	}
	if !listed {
		return nil, usagef("--peers lacks this master, %s", own)
	}
	return peers, nil
}

func (a *app) chunkserverCommand() *cobra.Command {
	cfg := chunkserver.Config{}
	var http httpFlag
	var capacity size
	cmd := &cobra.Command{
		Use:   "chunkserver --data DIR [--data DIR2 …] [--capacity SIZE]",
		Short: "Run a chunkserver",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.Dirs) == 0 {
				return usagef("a chunkserver needs --data: %s", cmd.UseLine())
			}
			if err := checkListen(cfg.Listen, cfg.Insecure); err != nil {
				return err
			}
			cfg.Cluster, cfg.NATS, cfg.Log, cfg.CapacityBytes = a.cluster, a.natsURL, a.logger(), int64(capacity)
			s, err := chunkserver.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			parts := monitor.Config{Chunkservers: func() []*chunkserver.Chunkserver { return []*chunkserver.Chunkserver{s} }}
			return a.serve(cmd, &http, cfg.Insecure, parts, s.Close, s.ID(), s.Addr())
		},
	}
	cmd.Flags().StringArrayVar(&cfg.Dirs, "data", nil, "keep replicas in `DIR`; several make one server over several disks")
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:7500", "listen for data on `HOST:PORT`; port 0 picks a free one")
	cmd.Flags().StringVar(&cfg.Advertise, "advertise", "", "tell others to connect to `HOST:PORT` instead")
	cmd.Flags().StringVar(&cfg.Rack, "rack", "", "the rack's `NAME`: copies of a chunk go to different racks")
	cmd.Flags().Var(&capacity, "capacity", "hold at most `SIZE` of data, as in 200G (what the disks have)")
	http.add(cmd, chunkserverHTTP)
	insecureFlag(cmd, &cfg.Insecure)
	return cmd
}

// Where metrics and health are served unless --http says otherwise.
const (
	masterHTTP      = "127.0.0.1:7480"
	chunkserverHTTP = "127.0.0.1:7580"
)

// httpFlag is the flag --http.
type httpFlag struct{ listen string }

func (f *httpFlag) add(cmd *cobra.Command, otherwise string) {
	cmd.Flags().StringVar(&f.listen, "http", otherwise,
		"serve /metrics and /healthz on `HOST:PORT`, or on this port of 127.0.0.1; 0 picks a free one, \"\" serves none; the default is left out if it is taken")
}

// serve serves metrics and says that a role is ready, waits for the signal to stop, and stops the role.
func (a *app) serve(cmd *cobra.Command, http *httpFlag, insecure bool, parts monitor.Config, stop func() error, what ...any) error {
	server, err := a.serveHTTP(cmd, http, insecure, parts)
	if err != nil {
		return errors.Join(err, stop())
	}
	a.ready(cmd.Context(), what...)
	if server == nil {
		return stop()
	}
	return errors.Join(server.Close(), stop())
}

// serveHTTP returns nil where nothing is to be served: by wish, or since the default address is taken, as it is by the
// second chunkserver of a machine. An address that was asked for must be free.
func (a *app) serveHTTP(cmd *cobra.Command, http *httpFlag, insecure bool, parts monitor.Config) (*monitor.Server, error) {
	if http.listen == "" {
		return nil, nil
	}
	parts.Listen, parts.Insecure, parts.Log = http.listen, insecure, a.logger().WithField("role", cmd.Name())
	if !strings.Contains(http.listen, ":") {
		parts.Listen = net.JoinHostPort("127.0.0.1", http.listen)
	}
	server, err := monitor.Serve(parts)
	switch {
	case err != nil && !cmd.Flags().Changed("http") && errors.Is(err, syscall.EADDRINUSE):
		parts.Log.WithField("address", parts.Listen).Info("no metrics: the address is taken, choose another with --http")
		return nil, nil
	case err != nil:
		return nil, err
	case strings.HasSuffix(parts.Listen, ":0"):
		fmt.Fprintf(a.stderr, "metrics %s/metrics\n", server.URL())
	}
	return server, nil
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
