package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/faults"
	"github.com/cairnfs/cairn/cluster/processes"
	"github.com/cairnfs/cairn/messages/gfs"
)

// Config says what to run.
type Config struct {
	Binary       string // the cairn command
	Dir          string // must exist and be empty
	Seed         uint64
	Duration     time.Duration // of the load
	Chunkservers int
	Producers    int // of records, from 3; a stream and a file of blocks are written besides
	Faults       []Fault
	Path         clientlib.DataPath // of what the clients write
	Slow         time.Duration      // what takes longer is told one by one
	Log          io.Writer          // takes what the processes log, each line behind its second of the run
	Say          func(format string, args ...any)
}

// Report is what was seen.
type Report struct {
	Acknowledged int // records and entries
	Strikes      int
	Worst        time.Duration // the longest of all operations
	Chunks       int           // compared on all their replicas
	Healing      time.Duration // from the end of the load until no replica was missing and every chunk was closed
}

// The files of a run.
const (
	recordsPath = "/records" // framed records
	rawPath     = "/raw"     // bare entries, whose duplicates no reader would hide
	streamPath  = "/stream"  // written from beginning to end
	blocksPath  = "/blocks"  // overwritten in place
	pausesPath  = "/pauses"  // closed after each append, or nearly
)

var paths = []string{recordsPath, rawPath, streamPath, blocksPath, pausesPath} //nolint:gochecknoglobals // a constant

// run is one run.
type run struct {
	Config
	parts   *processes.Cluster
	proxies map[string]shield
	nats    string // host and port of NATS, for the proxies before it
	watch   *watch
	ops     *operations
	stop    atomic.Bool
	report  Report

	mu      sync.Mutex
	records map[string]ack // payload → where and when it was acknowledged
	entries map[entryID]int64
	recent  []sample // of entries, for those who read at random
	stream  atomic.Int64
	blocks  []uint64 // by block: the salt of its content
}

// shield is the two proxies of a chunkserver.
type shield struct{ data, bus *faults.Proxy }

func (s shield) set(f Fault) {
	data, bus := f.cuts()
	s.data.Set(data)
	s.bus.Set(bus)
}

type ack struct {
	offset int64
	at     time.Time
}

type sample struct {
	id     entryID
	offset int64
	length int
}

// Run runs load and faults, then checks. An error means that a promise was broken or that the run could not be made.
func Run(ctx context.Context, cfg Config) (report Report, err error) {
	r := &run{
		Config: cfg, proxies: map[string]shield{}, watch: newWatch(cfg.Log), ops: newOperations(cfg.Slow),
		records: map[string]ack{}, entries: map[entryID]int64{},
	}
	strikes := plan(cfg.Seed, cfg.Duration, cfg.Faults)
	cfg.Say("seed %d: %d faults", cfg.Seed, len(strikes))
	for _, s := range strikes {
		cfg.Say("%s", s)
	}
	defer func() {
		for _, s := range r.proxies {
			err = errors.Join(err, s.data.Close(), s.bus.Close())
		}
	}()
	if err := r.start(ctx); err != nil {
		return Report{}, err
	}
	err = r.load(ctx, strikes)
	cfg.Say("%s", r.ops.longestStalls())
	cfg.Say("%s", r.ops.table())
	if err == nil {
		err = r.check(ctx)
	}
	r.report.Worst = r.ops.worst()
	return r.report, errors.Join(err, r.parts.Close())
}

// start starts the cluster, each chunkserver behind two proxies.
func (r *run) start(ctx context.Context) (err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.nats = listener.Addr().String()
	if err := listener.Close(); err != nil { // free again for NATS
		return err
	}
	r.parts, err = processes.StartCluster(ctx, processes.Config{
		Binary: r.Binary, Dir: r.Dir, Chunkservers: r.Chunkservers, Racks: 2, Log: r.watch, NATS: r.nats, Chunkserver: r.shield,
	})
	return err
}

// shield makes the proxies of a chunkserver and returns the arguments that have it use them.
func (r *run) shield(name string) ([]string, error) {
	// On an address of its own, whose ports no connection from 127.0.0.1 takes while the chunkserver is down.
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return nil, err
	}
	listen := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	var s shield
	if s.data, err = faults.NewProxy(listen); err != nil {
		return nil, err
	}
	if s.bus, err = faults.NewProxy(r.nats); err != nil {
		return nil, errors.Join(err, s.data.Close())
	}
	r.proxies[name] = s
	return []string{"--nats", "nats://" + s.bus.Addr(), "--listen", listen, "--advertise", s.data.Addr()}, nil
}

// load runs producers, readers and faults together until the plan is carried out.
func (r *run) load(ctx context.Context, strikes []Strike) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := clientlib.Connect(ctx, r.parts.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := cluster.WaitChunkservers(ctx, client, r.Chunkservers); err != nil {
		return err
	}
	for _, path := range paths {
		f, err := client.Create(ctx, path)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	tasks := []func(context.Context, *clientlib.Client) error{
		r.writeStream, r.writeBlocks, r.appendWithPauses, r.followRecords, r.readAtRandom, r.readInOrder,
	}
	for i := range r.Producers {
		produce := []func(context.Context, *clientlib.Client, uint32) error{r.appendRecords, r.appendEntries, r.appendEntries, r.appendAhead}[i%4]
		tasks = append(tasks, func(ctx context.Context, c *clientlib.Client) error { return produce(ctx, c, uint32(i)) })
	}
	failed := make([]error, len(tasks)+1)
	var wg sync.WaitGroup
	for i, task := range tasks {
		wg.Go(func() {
			failed[i] = r.withClient(ctx, fmt.Sprint(i), task)
			if failed[i] != nil {
				r.Say("after %s: %v", time.Since(r.ops.begin).Round(time.Millisecond), failed[i])
				r.stop.Store(true)
			}
		})
	}
	failed[len(tasks)] = r.strikeAll(ctx, client, strikes)
	r.stop.Store(true)
	wg.Wait()
	r.report.Acknowledged = len(r.records) + len(r.entries)
	return errors.Join(failed...)
}

// withClient runs a task that has a client of its own, as a process would. It logs where the processes do.
func (r *run) withClient(ctx context.Context, name string, task func(context.Context, *clientlib.Client) error) (err error) {
	log := logrus.New()
	log.SetOutput(r.watch)
	log.SetLevel(logrus.DebugLevel)
	client, err := clientlib.Connect(ctx, r.parts.URL(), clientlib.WithDataPath(r.Path),
		clientlib.WithLogger(log.WithField("role", "client").WithField("client", name)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return task(ctx, client)
}

// rest waits, or ends with ctx.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// indexOf is the chunk that an offset lies in.
func indexOf(offset int64) int64 { return offset / gfs.ChunkSize }

// unexpected says that a reader met something that was never written.
func unexpected(reader, path string, offset int64, why error) error {
	return fmt.Errorf("%s: %s at offset %d: %w", reader, path, offset, why)
}
