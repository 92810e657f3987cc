package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/processes"
)

// Fault is what can be done to a process.
type Fault string

// The faults.
const (
	Kill Fault = "kill -9" // then started again after a pause
	Stop Fault = "SIGSTOP" // then SIGCONT after a pause
)

// Config says what to run.
type Config struct {
	Binary       string // the cairn command
	Dir          string // must exist and be empty
	Seed         uint64
	Duration     time.Duration // of the load
	Chunkservers int
	Producers    int
	Readers      int
	RecordBytes  int      // least length of a record's payload
	Targets      []string // names of processes that may be struck; nil: the chunkservers
	Faults       []Fault  // nil: Kill alone
	Log          io.Writer
	Say          func(format string, args ...any) // progress, for people
}

// Report is what was seen.
type Report struct {
	Acknowledged int
	Found        int
	Faults       map[string]int // "kill -9 cs2" → how often
	LongestStall time.Duration  // of one append
	Chunks       int            // compared on all their replicas
	Healing      time.Duration  // from the end of the load until no replica was missing
}

// run is one run.
type run struct {
	Config
	parts  *processes.Cluster
	random *rand.Rand
	stop   atomic.Bool
	report Report

	mu           sync.Mutex
	acknowledged map[string]int64 // payload → offset
	longest      time.Duration
}

// Run runs load and faults, then checks. An error means that a promise was broken or that the run could not be made.
func Run(ctx context.Context, cfg Config) (Report, error) {
	r := &run{Config: cfg, random: rand.New(rand.NewPCG(cfg.Seed, cfg.Seed)), acknowledged: map[string]int64{}, report: Report{Faults: map[string]int{}}}
	var err error
	r.parts, err = processes.StartCluster(ctx, processes.Config{Binary: cfg.Binary, Dir: cfg.Dir, Chunkservers: cfg.Chunkservers, Racks: 2, Log: cfg.Log})
	if err != nil {
		return Report{}, err
	}
	err = r.load(ctx)
	if err == nil {
		err = r.check(ctx)
	}
	return r.report, errors.Join(err, r.parts.Close())
}

const path = "/chaos"

// load runs producers, readers and faults together until the time is up.
func (r *run) load(ctx context.Context) error {
	client, err := clientlib.Connect(ctx, r.parts.URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := cluster.WaitChunkservers(ctx, client, r.Chunkservers); err != nil {
		return err
	}
	f, err := client.Create(ctx, path)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	failed := make([]error, r.Producers+r.Readers+1)
	var wg sync.WaitGroup
	for i := range r.Producers {
		wg.Go(func() { failed[i] = r.produce(ctx, i) })
	}
	for i := range r.Readers {
		wg.Go(func() { failed[r.Producers+i] = r.follow(ctx) })
	}
	failed[r.Producers+r.Readers] = r.strike(ctx)
	r.stop.Store(true)
	wg.Wait()
	r.report.Acknowledged, r.report.LongestStall = len(r.acknowledged), r.longest
	return errors.Join(failed...)
}

// strike does one fault after the other until the time is up, and leaves every process running.
func (r *run) strike(ctx context.Context) error {
	targets, faults := r.Targets, r.Faults
	if targets == nil {
		for i := range r.Chunkservers {
			targets = append(targets, fmt.Sprintf("cs%d", i+1))
		}
	}
	if faults == nil {
		faults = []Fault{Kill}
	}
	end := time.Now().Add(r.Duration)
	for time.Now().Before(end) {
		target, fault := targets[r.random.IntN(len(targets))], faults[r.random.IntN(len(faults))]
		if err := r.pause(ctx, 500, 1500); err != nil {
			return err
		}
		r.Say("%s %s", fault, target)
		r.report.Faults[string(fault)+" "+target]++
		if err := r.do(ctx, target, fault); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) do(ctx context.Context, target string, fault Fault) error {
	if fault == Stop {
		p := r.parts.Process(target)
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		return errors.Join(r.pause(ctx, 1000, 4000), p.Signal(syscall.SIGCONT))
	}
	if err := r.parts.Kill(target); err != nil {
		return err
	}
	return errors.Join(r.pause(ctx, 200, 2000), r.parts.Start(ctx, target))
}

// pause waits between least and most milliseconds, as the seed says.
func (r *run) pause(ctx context.Context, least, most int) error {
	select {
	case <-time.After(time.Duration(least+r.random.IntN(most-least)) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
