package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
)

// Config says what cluster is made where there is none yet.
type Config struct {
	Cluster      string // its name
	Masters      int    // 1, 3 or 5
	Chunkservers int    // from 1, on two racks in turn
	// The first ports, on 127.0.0.1. Chunkservers take DataPort and those that follow for data; masters take RaftPort and
	// those that follow to talk to each other, HTTPPort and those that follow for metrics, chunkservers those from
	// HTTPPort+100. 0 picks free ones, once.
	NATSPort, DataPort, RaftPort, HTTPPort int
}

// chunkserverHTTP is how far the chunkservers' HTTP ports are from the masters'.
const chunkserverHTTP = 100

// Part is one process of the cluster.
type Part struct {
	Name string   `json:"name"` // nats, m1, cs1, …
	Role string   `json:"role"` // nats, master or chunkserver
	Args []string `json:"args"` // of the cairn command
	HTTP string   `json:"http,omitempty"`
}

// Cluster is a cluster of processes on this machine. One command at a time changes it.
type Cluster struct {
	dir    string
	layout layout
}

// layout is the content of cluster.json.
type layout struct {
	Cluster string `json:"cluster"`
	NATS    string `json:"nats"`
	Parts   []Part `json:"parts"`
	Config  Config `json:"config"`
}

// ErrNone says that a directory holds no cluster.
var ErrNone = errors.New("there is no local cluster here: start one with cairn local up")

// Open finds the cluster that Make made in dir. The error is ErrNone if there is none.
func Open(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir}
	text, err := os.ReadFile(c.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &c.layout); err != nil {
		return nil, fmt.Errorf("%s: %w: move the directory away and start anew", c.file(), err)
	}
	return c, nil
}

func (c *Cluster) file() string { return filepath.Join(c.dir, "cluster.json") }

// Make finds the cluster in dir, or makes one of the given form; nothing is started. A cluster of another form is
// changed to the new one if none of its processes runs: its data stays.
func Make(dir string, cfg Config) (*Cluster, error) {
	c, err := Open(dir)
	if err == nil && (c.layout.Config == cfg || c.running()) {
		return c, nil
	}
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	c = &Cluster{dir: dir}
	if c.layout, err = arrange(dir, cfg); err != nil {
		return nil, err
	}
	for _, below := range []string{"run", "log", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, below), 0o755); err != nil {
			return nil, err
		}
	}
	text, err := json.MarshalIndent(c.layout, "", "\t")
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(c.file(), text, 0o644)
}

// arrange lays the processes out in the order of their start.
func arrange(dir string, cfg Config) (layout, error) {
	ports := freePorts{}
	defer ports.release()
	nats, err := ports.address(cfg.NATSPort, 0)
	if err != nil {
		return layout{}, err
	}
	l := layout{Cluster: cfg.Cluster, NATS: "nats://" + nats, Config: cfg}
	l.Parts = []Part{{Name: "nats", Role: "nats", Args: []string{"nats", "--listen", nats}}}
	add := func(name, role string, httpOffset int, args ...string) error {
		http, err := ports.address(cfg.HTTPPort, httpOffset)
		args = append([]string{role, "--nats", l.NATS, "--cluster", cfg.Cluster, "--data", filepath.Join(dir, "data", name), "--http", http}, args...)
		l.Parts = append(l.Parts, Part{Name: name, Role: role, Args: args, HTTP: "http://" + http})
		return err
	}
	peers, err := groupOf(cfg, &ports)
	for i := range cfg.Masters {
		name := "m" + strconv.Itoa(i+1)
		err = errors.Join(err, add(name, "master", i, append([]string{"--id", name}, peers...)...))
	}
	for i := range cfg.Chunkservers {
		data, listenErr := ports.address(cfg.DataPort, i)
		err = errors.Join(err, listenErr, add("cs"+strconv.Itoa(i+1), "chunkserver", chunkserverHTTP+i,
			"--listen", data, "--rack", fmt.Sprintf("rack%d", i%2+1)))
	}
	return l, err
}

// groupOf is the argument that makes masters a group, none for one master.
func groupOf(cfg Config, ports *freePorts) ([]string, error) {
	if cfg.Masters == 1 {
		return nil, nil
	}
	var peers []string
	for i := range cfg.Masters {
		address, err := ports.address(cfg.RaftPort, i)
		if err != nil {
			return nil, err
		}
		peers = append(peers, fmt.Sprintf("m%d=%s", i+1, address))
	}
	return []string{"--peers", strings.Join(peers, ",")}, nil
}

// freePorts draws free ports and keeps them until all are drawn, so that none is drawn twice.
type freePorts []net.Listener

// address is 127.0.0.1 with the port first+offset, or a free one if first is 0.
func (p *freePorts) address(first, offset int) (string, error) {
	if first != 0 {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(first+offset)), nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	*p = append(*p, listener)
	return listener.Addr().String(), nil
}

func (p *freePorts) release() {
	for _, listener := range *p {
		_ = listener.Close() // it accepted nothing
	}
}

// lock keeps other commands from changing the cluster until unlock is called.
func (c *Cluster) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "run", "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another command is changing the cluster in %s: wait until it has ended", c.dir), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

// NATS is the URL of the cluster's NATS server; Name is the cluster's name.
func (c *Cluster) NATS() string { return c.layout.NATS }

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.layout.Cluster }

// Parts are the cluster's processes in the order of their start.
func (c *Cluster) Parts() []Part { return slices.Clone(c.layout.Parts) }

func (c *Cluster) part(name string) (Part, error) {
	var names []string
	for _, p := range c.layout.Parts {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Part{}, fmt.Errorf("the cluster has no process %q, but %s", name, strings.Join(names, ", "))
}

// Status is one process as it is now.
type Status struct {
	Part
	Pid   int    // 0 if it does not run
	Ready string // what it printed behind `ready `
	Log   string // the file that takes its stderr
}

// Status looks at every process.
func (c *Cluster) Status() ([]Status, error) {
	var all []Status
	for _, p := range c.layout.Parts {
		at := c.files(p.Name)
		id, ok, err := readIdentity(at.pid)
		if err != nil {
			return nil, err
		}
		s := Status{Part: p, Log: at.log}
		if ok {
			s.Pid, s.Ready = id.pid, readyLine(at.out)
		}
		all = append(all, s)
	}
	return all, nil
}

func (c *Cluster) running() bool {
	all, err := c.Status()
	return err != nil || slices.ContainsFunc(all, func(s Status) bool { return s.Pid != 0 })
}

// Up starts every process that does not run, with the given cairn command, and returns when the master has heard of all
// chunkservers. What was started stays when something fails: Down ends it.
func (c *Cluster) Up(ctx context.Context, binary string) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	// NATS first, which the others want to find; then all at once.
	if err := c.startMissing(ctx, binary, func(p Part) bool { return p.Role == "nats" }); err != nil {
		return err
	}
	if err := c.startMissing(ctx, binary, func(p Part) bool { return p.Role != "nats" }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	client, err := clientlib.Connect(ctx, c.NATS(), clientlib.WithCluster(c.Name()))
	if err != nil {
		return err
	}
	return errors.Join(cluster.WaitChunkservers(ctx, client, c.layout.Config.Chunkservers), client.Close())
}

func (c *Cluster) startMissing(ctx context.Context, binary string, which func(Part) bool) error {
	return c.each(which, func(p Part) error {
		_, ok, err := readIdentity(c.files(p.Name).pid)
		if ok || err != nil {
			return err
		}
		return c.spawn(ctx, binary, p)
	})
}

// each does something with some parts, with all at once.
func (c *Cluster) each(which func(Part) bool, do func(Part) error) error {
	failed := make([]error, len(c.layout.Parts))
	var wg sync.WaitGroup
	for i, p := range c.layout.Parts {
		if which(p) {
			wg.Go(func() { failed[i] = do(p) })
		}
	}
	wg.Wait()
	return errors.Join(failed...)
}

// Down ends every process: masters, which would take each chunkserver that stops for lost, then chunkservers, then NATS.
// What they stored stays.
func (c *Cluster) Down(ctx context.Context) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var failed []error
	for _, role := range []string{"master", "chunkserver", "nats"} {
		failed = append(failed, c.each(func(p Part) bool { return p.Role == role }, func(p Part) error {
			at := c.files(p.Name)
			id, ok, err := readIdentity(at.pid)
			if err == nil && ok {
				err = id.stop(ctx)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			if err := os.Remove(at.pid); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}))
	}
	return errors.Join(failed...)
}

// Start starts one process that does not run and returns when it is ready. That the master has heard of it may take a
// heartbeat longer.
func (c *Cluster) Start(ctx context.Context, binary, name string) error {
	p, err := c.part(name)
	if err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	id, ok, err := readIdentity(c.files(name).pid)
	if err != nil {
		return err
	}
	if ok {
		return fmt.Errorf("%s runs already, as process %d", name, id.pid)
	}
	return c.spawn(ctx, binary, p)
}

// Kill ends one process with SIGKILL and waits until it is gone.
func (c *Cluster) Kill(ctx context.Context, name string) error {
	if _, err := c.part(name); err != nil {
		return err
	}
	id, ok, err := readIdentity(c.files(name).pid)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s does not run: start it with cairn local start %s", name, name)
	}
	return errors.Join(id.signal(syscall.SIGKILL), id.gone(ctx))
}
