package processes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// startPatience bounds the start of one process.
const startPatience = 30 * time.Second

// Config says what cluster to start.
type Config struct {
	Binary       string    // the cairn command
	Dir          string    // where everything is kept; must exist
	Masters      int       // 3 or 5 form a group; 0 and 1: one that stands alone
	Chunkservers int       // from 1
	Racks        int       // the chunkservers are spread over so many racks in turn
	Log          io.Writer // takes every process's stderr; nil discards
	NATS         string    // HOST:PORT that NATS listens on; empty: a free port

	// Chunkserver, unless nil, gives the chunkserver called name arguments on top of the usual ones, which it may repeat.
	Chunkserver func(name string) (args []string, err error)
}

// Cluster is a local cluster of separate processes: "nats", "m1", …, "cs1", "cs2", …. Its methods are safe for
// concurrent use.
type Cluster struct {
	config Config
	url    string

	mu      sync.Mutex
	roles   []*role
	servers map[string]string // server id → name
}

// role is one process of the cluster, running or not.
type role struct {
	name    string
	args    []string
	process *Process // nil while it does not run
}

// StartCluster starts NATS, the masters and the chunkservers and returns when each is ready. That the master has heard
// of the chunkservers is for the caller to see.
func StartCluster(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{config: cfg, servers: map[string]string{}}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	c.add("nats", "nats", "--listen", cmp.Or(c.config.NATS, "127.0.0.1:0"))
	if err := c.Start(ctx, "nats"); err != nil {
		return err
	}
	c.url = c.role("nats").process.Ready()
	// Started again it listens where the others look for it.
	c.role("nats").args = []string{"nats", "--listen", c.url[len("nats://"):]}
	peers, err := c.group()
	if err != nil {
		return err
	}
	for i := range max(c.config.Masters, 1) {
		name := fmt.Sprintf("m%d", i+1)
		c.add(name, append([]string{"master", "--nats", c.url, "--id", name, "--data", filepath.Join(c.config.Dir, name), "--http", ""}, peers...)...)
	}
	for i := range c.config.Chunkservers {
		name := fmt.Sprintf("cs%d", i+1)
		args := []string{"chunkserver", "--nats", c.url, "--data", filepath.Join(c.config.Dir, name), "--listen", "127.0.0.1:0", "--http", "",
			"--rack", fmt.Sprintf("rack%d", i%max(c.config.Racks, 1)+1)}
		if c.config.Chunkserver != nil {
			more, err := c.config.Chunkserver(name)
			if err != nil {
				return err
			}
			args = append(args, more...)
		}
		c.add(name, args...)
	}
	for _, name := range c.Names()[1:] {
		if err := c.Start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// group is the argument that makes masters a group, on ports that are free now; none for one master.
func (c *Cluster) group() (args []string, err error) {
	if c.config.Masters <= 1 {
		return nil, nil
	}
	var peers []string
	for i := range c.config.Masters {
		listener, listenErr := net.Listen("tcp", "127.0.0.1:0")
		if listenErr != nil {
			return nil, listenErr
		}
		defer func() { err = errors.Join(err, listener.Close()) }() // in the end, so that none is drawn twice
		peers = append(peers, fmt.Sprintf("m%d=%s", i+1, listener.Addr()))
	}
	return []string{"--peers", strings.Join(peers, ",")}, nil
}

func (c *Cluster) add(name string, args ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roles = append(c.roles, &role{name: name, args: args})
}

func (c *Cluster) role(name string) *role {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.roles, func(r *role) bool { return r.name == name }); i >= 0 {
		return c.roles[i]
	}
	return &role{name: name}
}

// URL is the address of the cluster's NATS server.
func (c *Cluster) URL() string { return c.url }

// Dir is where everything is kept, each process's data in a folder of its name.
func (c *Cluster) Dir() string { return c.config.Dir }

// Names are the names of all processes in the order of their start.
func (c *Cluster) Names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, r := range c.roles {
		names = append(names, r.name)
	}
	return names
}

// Start starts a process that does not run, on its old data, and waits until it is ready.
func (c *Cluster) Start(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	r := c.role(name)
	if len(r.args) == 0 {
		return fmt.Errorf("the cluster has no process %q", name)
	}
	p, err := Start(ctx, c.config.Log, name, c.config.Binary, r.args...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.process = p
	var id, address string
	if n, _ := fmt.Sscan(p.Ready(), &id, &address); n == 2 { // a chunkserver says both
		c.servers[id] = name
	}
	return nil
}

// Args are the arguments with which a process is started, without the command's own name.
func (c *Cluster) Args(name string) []string {
	r := c.role(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(r.args)
}

// Process is the running process called name, nil if it does not run.
func (c *Cluster) Process(name string) *Process {
	r := c.role(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.process
}

// Server is the name of the chunkserver with the given id, "" if it was never started.
func (c *Cluster) Server(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[id]
}

// Kill ends a running process with SIGKILL.
func (c *Cluster) Kill(name string) error {
	p := c.take(name)
	if p == nil {
		return fmt.Errorf("%s does not run", name)
	}
	return p.Kill()
}

// Stop ends a process with SIGTERM. One that does not run is no error.
func (c *Cluster) Stop(name string) error {
	if p := c.take(name); p != nil {
		return p.Stop()
	}
	return nil
}

func (c *Cluster) take(name string) *Process {
	r := c.role(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	p := r.process
	r.process = nil
	return p
}

// Close ends every process, NATS last. What they stored stays. The masters go before the chunkservers: they would
// take each that stops for lost.
func (c *Cluster) Close() error {
	var failed []error
	for _, name := range c.stopOrder() {
		failed = append(failed, c.Stop(name))
	}
	return errors.Join(failed...)
}

// stopOrder is the order of the start, but for NATS, which comes first there and last here.
func (c *Cluster) stopOrder() []string {
	names := c.Names()
	if len(names) == 0 {
		return nil
	}
	return append(names[1:], names[0])
}

// Build builds the cairn command into dir and returns its path: for tests that run it as separate processes.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "cairn")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/cairnfs/cairn/cluster/cairn")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the cairn command: %w\n%s", err, out)
	}
	if _, err := os.Stat(binary); err != nil {
		return "", err
	}
	return binary, nil
}
