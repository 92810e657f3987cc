package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Durability says what an acknowledgement of a case means. It stands beside every result.
type Durability string

// The policies.
const (
	SyncNone  Durability = "none"  // acknowledged data is in the page cache of every replica
	SyncFsync Durability = "fsync" // acknowledged data is on the disk of every replica
	SyncLog   Durability = "log"   // acknowledged once the operation log has it on disk
)

// Case is one thing to measure. Its functions are called one at a time, Prepare first and once, Close last and once,
// also when Prepare failed.
type Case struct {
	Name       string     // as in a Result: unique in a Plan
	Durability Durability // "" counts as SyncNone
	// Prepare makes what all runs share. May be nil.
	Prepare func(ctx context.Context) error
	// Run does the work once. It calls watch.Start and watch.Stop around what is to be measured; what is before and
	// after costs nothing. Failures of the work itself are counted in the Tally; an error ends the whole Plan.
	Run func(ctx context.Context, watch *Stopwatch) (*Tally, error)
	// CPU is the CPU time used so far by every process that does the work. Nil means this process alone.
	CPU func() (time.Duration, error)
	// ServerCPU is that of the cluster's processes. Nil means that it is not known.
	ServerCPU func() (time.Duration, error)
	// Limit is what the machine can do at most: it runs right before each run, and the two rates are held against each
	// other. Several cases may share one. Nil: there is none.
	Limit *Case
	// Close frees what Prepare and Run made. Its context outlives that of Run, by little. May be nil.
	Close func(ctx context.Context) error
}

// Tally is what a run, or one of its workers, did. The zero value is nothing yet. Not safe for concurrent use.
type Tally struct {
	Latency Histogram
	Bytes   int64 // moved
	Ops     int64 // done; only of cases that are about operations
	Errors  int64 // operations that failed
	Lost    int64 // acknowledged records that are not in the file
	Torn    int64 // acknowledged records that are there in part, or mixed with others
	// FirstError is one of the errors counted, for a person to read.
	FirstError error

	unavailable bool
}

// maxFailures is how many operations of a worker may fail before it does no more.
const maxFailures = 100

// Fail counts a failed operation.
func (t *Tally) Fail(err error) {
	t.Errors++
	if t.FirstError == nil {
		t.FirstError = err
	}
	t.unavailable = t.unavailable || errors.Is(err, gfs.ErrUnavailable)
}

// hopeless reports whether a worker should stop: what is unavailable has been retried by the client library for as
// long as it would, and another such wait for each operation left would never end.
func (t *Tally) hopeless() bool { return t.unavailable || t.Errors >= maxFailures }

// Merge adds what other counted. The error kept is the first, but a record lost or torn weighs more than a failure.
func (t *Tally) Merge(other *Tally) {
	damaged, otherDamaged := t.Lost+t.Torn > 0, other.Lost+other.Torn > 0
	if t.FirstError == nil || otherDamaged && !damaged {
		t.FirstError = other.FirstError
	}
	t.Latency.Merge(&other.Latency)
	t.Bytes += other.Bytes
	t.Ops += other.Ops
	t.Errors += other.Errors
	t.Lost += other.Lost
	t.Torn += other.Torn
	t.unavailable = t.unavailable || other.unavailable
}

// Parallel runs work in n goroutines, waits for all of them and adds up what they did. Each has a Tally of its own.
func Parallel(n int, work func(worker int, tally *Tally)) *Tally {
	tallies := make([]Tally, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { work(i, &tallies[i]) })
	}
	wg.Wait()
	for i := range n - 1 {
		tallies[0].Merge(&tallies[i+1])
	}
	return &tallies[0]
}

// Share is the part of total that worker number i (from 0) of n does: the shares differ by at most 1.
func Share(total int64, i, n int) int64 {
	return total/int64(n) + min(max(total%int64(n)-int64(i), 0), 1)
}

// Stopwatch measures the wall and CPU time of one run. Its owner is the run.
type Stopwatch struct {
	clocks    []func() (time.Duration, error) // of CPU time
	begin     time.Time
	atBegin   []time.Duration // of each clock
	wall      time.Duration
	used      []time.Duration
	failed    error
	completed bool
}

// Start writes all dirty pages of the machine back (sync(2)), which may take seconds, and starts the clock.
func (w *Stopwatch) Start() {
	syscall.Sync()
	w.atBegin = w.read()
	w.begin = time.Now()
}

// Stop stops the clock. It is called once, after Start.
func (w *Stopwatch) Stop() {
	w.wall = time.Since(w.begin)
	w.used = w.read()
	for i := range w.used {
		w.used[i] -= w.atBegin[i]
	}
	w.completed = true
}

func (w *Stopwatch) read() []time.Duration {
	times := make([]time.Duration, len(w.clocks))
	for i, clock := range w.clocks {
		var err error
		if times[i], err = clock(); err != nil && w.failed == nil {
			w.failed = err
		}
	}
	return times
}

func (w *Stopwatch) check(name string) error {
	switch {
	case w.failed != nil:
		return fmt.Errorf("%s: CPU time: %w", name, w.failed)
	case !w.completed:
		return fmt.Errorf("%s: a run that was not timed", name)
	}
	return nil
}

// OwnCPU is the CPU time, user and system, that this process has used so far.
func OwnCPU() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// ProcessCPU is the CPU time that processes of this machine have used together, in steps of 10 ms. The error says which
// one is not there.
func ProcessCPU(pids []int) (time.Duration, error) {
	sum := time.Duration(0)
	for _, pid := range pids {
		proc, err := procfs.NewProc(pid)
		if err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		stat, err := proc.Stat()
		if err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(stat.CPUTime() * float64(time.Second))
	}
	return sum, nil
}
