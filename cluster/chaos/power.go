package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/processes"
)

// PowerConfig says how often power is to be lost, and where.
type PowerConfig struct {
	Binary       string // the cairn command
	Dir          string // must exist and be empty
	Seed         uint64
	Rounds       int
	Masters      int
	Chunkservers int       // at least as many as there are replicas
	Log          io.Writer // takes what the processes log
	Say          func(format string, args ...any)
}

// outage is where power is lost.
type outage string

// The outages.
const (
	everywhere       outage = "everywhere"
	allChunkservers  outage = "at all chunkservers"
	oneChunkserver   outage = "at one chunkserver"
	diskBytes               = 2 << 30 // of each process, sparse
	leastUptime             = time.Second
	mostUptime              = 6 * time.Second
	recoveryPatience        = 90 * time.Second // until every writer has written again
	writtenAgain            = 3                // acknowledgements that show it
	writeBackPause          = 3 * time.Millisecond
)

// power is one run.
type power struct {
	PowerConfig
	parts  *processes.Cluster
	disks  map[string]*disk // by the process whose data it has
	random *rand.Rand
}

// LosePower runs a cluster whose processes have a file system each. Round by round clients append and write, power is lost
// at a moment that the seed tells, and everything is started again: what was synced must be there, what was not may be
// missing, and nothing is torn. An error means that a promise was broken or that the run could not be made. It needs root.
func LosePower(ctx context.Context, cfg PowerConfig) (err error) {
	p := &power{PowerConfig: cfg, disks: map[string]*disk{}, random: rand.New(rand.NewPCG(cfg.Seed, cfg.Seed))}
	defer func() {
		for _, d := range p.disks {
			err = errors.Join(err, d.close())
		}
	}()
	if err := p.makeDisks(ctx); err != nil {
		return err
	}
	p.parts, err = processes.StartCluster(ctx, processes.Config{
		Binary: cfg.Binary, Dir: cfg.Dir, Masters: cfg.Masters, Chunkservers: cfg.Chunkservers, Racks: 2, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.parts.Close()) }()
	var before *written
	for round := range cfg.Rounds {
		now := newWritten(round, cfg.Seed)
		if err := p.round(ctx, now, before); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		before = now
	}
	return nil
}

func (p *power) makeDisks(ctx context.Context) error {
	images := filepath.Join(p.Dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return err
	}
	var names []string
	for i := range max(p.Masters, 1) {
		names = append(names, fmt.Sprintf("m%d", i+1))
	}
	for i := range p.Chunkservers {
		names = append(names, fmt.Sprintf("cs%d", i+1))
	}
	for _, name := range names {
		d, err := newDisk(ctx, filepath.Join(images, name), filepath.Join(p.Dir, name), diskBytes)
		if err != nil {
			return err
		}
		p.disks[name] = d
	}
	return nil
}

// round writes, loses power, starts again and checks: what was written now, and before that in the last round.
func (p *power) round(ctx context.Context, now, before *written) (err error) {
	kind := []outage{everywhere, allChunkservers, oneChunkserver}[now.round%3]
	victims := p.victims(kind)
	uptime := between(p.random, leastUptime, mostUptime)
	client, err := clientlib.Connect(ctx, p.parts.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := cluster.WaitChunkservers(ctx, client, p.Chunkservers); err != nil {
		return err
	}
	if err := now.create(ctx, client); err != nil {
		return err
	}
	writing := now.start(ctx, p.parts.URL())
	failed := errors.Join(p.writeBack(ctx, uptime), p.lose(victims))
	if failed == nil {
		failed = errors.Join(p.startAgain(ctx, victims), writing.awaitProgress(ctx))
	}
	if err := errors.Join(failed, writing.end()); err != nil {
		return err
	}
	p.Say("round %d: power lost %s after %s; %s", now.round, kind, uptime.Round(time.Millisecond), now)
	if before != nil {
		if err := before.check(ctx, client, false); err != nil {
			return fmt.Errorf("what round %d wrote: %w", before.round, err)
		}
	}
	if err := now.check(ctx, client, kind == oneChunkserver); err != nil {
		return err
	}
	return p.compare(ctx, client, now.paths())
}

// victims are those whose power is lost.
func (p *power) victims(kind outage) []string {
	names := p.parts.Names()
	if kind == everywhere {
		return names
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "cs") })
	if kind == oneChunkserver {
		i := p.random.IntN(len(names))
		names = names[i : i+1]
	}
	return names
}

// writeBack has the chunkservers' disks write back what they like until power is lost.
func (p *power) writeBack(ctx context.Context, uptime time.Duration) error {
	for end := time.Now().Add(uptime); time.Now().Before(end); {
		name := fmt.Sprintf("cs%d", 1+p.random.IntN(p.Chunkservers))
		if err := errors.Join(p.disks[name].writeBack(p.random), rest(ctx, writeBackPause)); err != nil {
			return err
		}
	}
	return nil
}

// lose stops the victims, has their disks forget what was not flushed, and ends them. Stopped first, they learn nothing
// of it: power does not tell either.
func (p *power) lose(victims []string) error {
	var failed []error
	for _, name := range victims {
		failed = append(failed, p.parts.Process(name).Signal(syscall.SIGSTOP))
	}
	for _, name := range victims {
		if d := p.disks[name]; d != nil {
			failed = append(failed, d.lose())
		}
	}
	for _, name := range victims {
		failed = append(failed, p.parts.Kill(name))
	}
	return errors.Join(failed...)
}

// startAgain mounts the disks of the victims and starts them: NATS first, which the others look for.
func (p *power) startAgain(ctx context.Context, victims []string) error {
	for _, name := range victims {
		if d := p.disks[name]; d != nil {
			if err := d.mountAgain(); err != nil {
				return err
			}
		}
	}
	if victims[0] == "nats" {
		if err := p.parts.Start(ctx, victims[0]); err != nil {
			return err
		}
		victims = victims[1:]
	}
	failed := make([]error, len(victims))
	var wg sync.WaitGroup
	for i, name := range victims {
		wg.Go(func() { failed[i] = p.parts.Start(ctx, name) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// compare waits until every chunk has its replicas and is closed, and compares them.
func (p *power) compare(ctx context.Context, client *clientlib.Client, paths []string) error {
	if err := waitWhole(ctx, client, paths, true); err != nil {
		return err
	}
	chunks, err := chunksOf(ctx, client, paths)
	if err != nil {
		return err
	}
	for _, l := range chunks {
		if err := compareReplicas(p.parts, l); err != nil {
			return err
		}
	}
	return nil
}

// writing is the clients of a round at work.
type writing struct {
	stop    atomic.Bool
	writers sync.WaitGroup
	counts  []atomic.Int64 // acknowledgements, by writer
	failed  []error        // by writer
}

// awaitProgress waits until every writer has had answers that are later than this call.
func (w *writing) awaitProgress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoveryPatience)
	defer cancel()
	for i := range w.counts {
		for want := w.counts[i].Load() + writtenAgain; w.counts[i].Load() < want && !w.stop.Load(); {
			if err := rest(ctx, 20*time.Millisecond); err != nil {
				return fmt.Errorf("writer %d wrote nothing more: %w", i, err)
			}
		}
	}
	return nil
}

// end waits for the writers to end, and returns what failed.
func (w *writing) end() error {
	w.stop.Store(true)
	w.writers.Wait()
	return errors.Join(w.failed...)
}
