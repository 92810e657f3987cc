package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/messages/gfs"
)

// maxChunkservers bounds a cluster in one process: each takes file descriptors and a heartbeat.
const maxChunkservers = 64

// Config says what cluster to start. The zero value of each field but Dir has a meaning.
type Config struct {
	Dir          string        // where everything is kept; made if it does not exist
	Name         string        // the cluster's name; "" is "local"
	Masters      int           // 1, 3 or 5; 0 means 1
	Chunkservers int           // 0 means 4
	Capacity     int64         // bytes that each chunkserver may hold; 0 means what its disk has
	Racks        int           // the chunkservers are spread over so many racks in turn; 0 means 2
	Listen       string        // of the NATS server; "" is 127.0.0.1:0
	Insecure     bool          // allow Listen beyond loopback
	Log          *logrus.Entry // nil discards
	// ReplicationDelay is how long a chunkserver is missing before others get replicas in the place of its own; 0 is
	// the master's default.
	ReplicationDelay time.Duration
}

// Cluster is a running cluster. Its methods are safe for concurrent use.
type Cluster struct {
	config Config

	mu           sync.Mutex
	nats         *NATS
	url          string
	masters      []*master.Master           // none while they are stopped
	chunkservers []*chunkserver.Chunkserver // nil where stopped
}

// Start starts a cluster and waits until its master acts and every chunkserver has been heard. The context bounds
// the start alone; Close ends the cluster.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	c := &Cluster{config: cfg, chunkservers: make([]*chunkserver.Chunkserver, cfg.Chunkservers)}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (cfg *Config) fill() error {
	if cfg.Dir == "" {
		return gfs.Errorf(gfs.CodeInvalid, "a cluster needs a directory to keep its data in")
	}
	if cfg.Masters == 0 {
		cfg.Masters = 1
	}
	if cfg.Masters != 1 && cfg.Masters != 3 && cfg.Masters != 5 {
		return gfs.Errorf(gfs.CodeInvalid, "%d masters: want 1, 3 or 5", cfg.Masters)
	}
	if cfg.Chunkservers < 0 || cfg.Chunkservers > maxChunkservers {
		return gfs.Errorf(gfs.CodeInvalid, "%d chunkservers in one process: want 1 to %d", cfg.Chunkservers, maxChunkservers)
	}
	if cfg.Chunkservers == 0 {
		cfg.Chunkservers = 4
	}
	if cfg.Racks <= 0 {
		cfg.Racks = 2
	}
	if cfg.Name == "" {
		cfg.Name = "local"
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		cfg.Log = logrus.NewEntry(quiet)
	}
	return nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := os.MkdirAll(c.config.Dir, 0o755); err != nil {
		return fmt.Errorf("cluster directory: %w", err)
	}
	server, err := StartNATS(c.config.Listen, c.config.Insecure, c.config.Log.WithField("role", "nats"))
	if err != nil {
		return err
	}
	c.nats, c.url = server, server.URL()
	if err := c.StartMaster(ctx); err != nil {
		return err
	}
	for i := range c.chunkservers {
		if err := c.StartChunkserver(ctx, i); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// Close stops every part. It is idempotent. The masters go first: they would take each chunkserver that stops for
// lost and go on with the chunk's other members, until one alone is left.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := []error{c.closeMasters()}
	for i, s := range c.chunkservers {
		if s != nil {
			failed = append(failed, s.Close())
			c.chunkservers[i] = nil
		}
	}
	if c.nats != nil {
		c.nats.Close()
		c.nats = nil
	}
	return errors.Join(failed...)
}

// URL is the address of the cluster's NATS server.
func (c *Cluster) URL() string { return c.url }

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.config.Name }

// Connect opens a client of the cluster, which the caller closes.
func (c *Cluster) Connect(ctx context.Context, opts ...clientlib.Option) (*clientlib.Client, error) {
	return clientlib.Connect(ctx, c.url, append([]clientlib.Option{clientlib.WithCluster(c.config.Name)}, opts...)...)
}

// WaitReady waits until the master answers and has heard every chunkserver that runs.
func (c *Cluster) WaitReady(ctx context.Context) error {
	c.mu.Lock()
	running := 0
	for _, s := range c.chunkservers {
		if s != nil {
			running++
		}
	}
	c.mu.Unlock()
	client, err := c.Connect(ctx)
	if err != nil {
		return err
	}
	return errors.Join(WaitChunkservers(ctx, client, running), client.Close())
}

// WaitChunkservers waits until the master counts at least want chunkservers as up.
func WaitChunkservers(ctx context.Context, client *clientlib.Client, want int) error {
	const pause = 20 * time.Millisecond
	for {
		info, err := client.StatFS(ctx)
		switch {
		case err == nil && info.ChunkserversUp >= want:
			return nil
		case ctx.Err() != nil && err != nil:
			return fmt.Errorf("the cluster is not ready: %w", err)
		case ctx.Err() != nil:
			return fmt.Errorf("the cluster is not ready: %d of %d chunkservers are up: %w", info.ChunkserversUp, want, ctx.Err())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// StartMaster starts the master, or all of them, after StopMaster.
func (c *Cluster) StartMaster(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.masters) > 0 {
		return nil
	}
	peers, listeners, err := c.group()
	if err != nil {
		return err
	}
	for i := range c.config.Masters {
		id := fmt.Sprintf("m%d", i+1)
		cfg := master.Config{
			ID: id, Dir: filepath.Join(c.config.Dir, id), Cluster: c.config.Name, NATS: bus.Config{URL: c.url}, Log: c.config.Log,
			Peers: peers, ReplicationDelay: c.config.ReplicationDelay,
		}
		if len(peers) > 0 {
			cfg.RaftListener = listeners[i]
		}
		m, err := master.Start(ctx, cfg)
		if err != nil {
			for _, l := range listeners[min(i, len(listeners)):] {
				_ = l.Close() // it accepted nothing, or was closed by the master
			}
			return errors.Join(err, c.closeMasters())
		}
		c.masters = append(c.masters, m)
	}
	return nil
}

// group is what makes several masters one group, on ports that are free now; nothing for one.
func (c *Cluster) group() (peers []oplog.Peer, listeners []net.Listener, err error) {
	if c.config.Masters == 1 {
		return nil, nil, nil
	}
	for i := range c.config.Masters {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			for _, l := range listeners {
				_ = l.Close() // it accepted nothing
			}
			return nil, nil, err
		}
		listeners = append(listeners, listener)
		peers = append(peers, oplog.Peer{ID: fmt.Sprintf("m%d", i+1), Addr: listener.Addr().String()})
	}
	return peers, listeners, nil
}

// StopMaster stops the master, or all of them, cleanly.
func (c *Cluster) StopMaster() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeMasters()
}

// closeMasters closes the masters at once: one that is left alone would look for the others. The caller holds mu.
func (c *Cluster) closeMasters() error {
	failed := make([]error, len(c.masters))
	var wg sync.WaitGroup
	for i, m := range c.masters {
		wg.Go(func() { failed[i] = m.Close() })
	}
	wg.Wait()
	c.masters = nil
	return errors.Join(failed...)
}

// StopNATS stops the bus: whatever is still possible afterwards goes around it.
func (c *Cluster) StopNATS() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nats != nil {
		c.nats.Close()
		c.nats = nil
	}
}

// StartChunkserver starts chunkserver number i (from 0) after StopChunkserver, on its old data.
func (c *Cluster) StartChunkserver(ctx context.Context, i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.chunkservers) {
		return gfs.Errorf(gfs.CodeInvalid, "chunkserver %d: the cluster has 0 to %d", i, len(c.chunkservers)-1)
	}
	if c.chunkservers[i] != nil {
		return nil
	}
	s, err := chunkserver.Start(ctx, chunkserver.Config{
		Dirs: []string{filepath.Join(c.config.Dir, fmt.Sprintf("cs%d", i+1))}, Cluster: c.config.Name, NATS: c.url,
		Listen: "127.0.0.1:0", Rack: fmt.Sprintf("rack%d", i%c.config.Racks+1), CapacityBytes: c.config.Capacity, Log: c.config.Log,
	})
	c.chunkservers[i] = s
	return err
}

// StopChunkserver stops chunkserver number i (from 0).
func (c *Cluster) StopChunkserver(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.chunkservers) {
		return gfs.Errorf(gfs.CodeInvalid, "chunkserver %d: the cluster has 0 to %d", i, len(c.chunkservers)-1)
	}
	s := c.chunkservers[i]
	c.chunkservers[i] = nil
	if s == nil {
		return nil
	}
	return s.Close()
}

// ServerID is the id of chunkserver number i (from 0), "" while it is stopped.
func (c *Cluster) ServerID(i int) gfs.ServerID {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.chunkservers) || c.chunkservers[i] == nil {
		return ""
	}
	return c.chunkservers[i].ID()
}

// ChunkDir is where chunkserver number i (from 0) keeps its replicas.
func (c *Cluster) ChunkDir(i int) string {
	return filepath.Join(c.config.Dir, fmt.Sprintf("cs%d", i+1), "chunks")
}
