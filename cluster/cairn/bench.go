package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/cluster/bench/limits"
	"github.com/cairnfs/cairn/messages/gfs"
)

// limitsRole is the hidden command that runs one part of bench limits.
const limitsRole = "limits-role"

// benchFlags is what a person may choose; 0 is the default of each case.
type benchFlags struct {
	clients, runs, inFlight int
	size, record            size
	ops                     int64
	synced, random, limits  bool
	warm                    size
	servers                 []int
	path                    dataPath
	in, dir                 string
}

func (a *app) benchCommand() *cobra.Command {
	f := &benchFlags{size: 1 << 30, record: 1 << 10}
	cmd := &cobra.Command{
		Use:   "bench write|read|append|meta|all|limits",
		Short: "Measure the cluster, or this machine's raw limits",
		RunE: func(cmd *cobra.Command, args []string) error {
			return usagef("say what to measure: %s", cmd.UseLine())
		},
	}
	flags := cmd.PersistentFlags()
	flags.IntVar(&f.runs, "runs", 5, "run each case `N` times, in shuffled order; the median counts")
	flags.IntVar(&f.clients, "clients", 0, "`N` clients or producers, in limits: streams (0: 16 to append, else 1)")
	flags.Var(&f.size, "size", "move `SIZE` bytes a run, over all clients: 512M, 1GiB")
	flags.Int64Var(&f.ops, "ops", 50_000, "do `N` metadata operations a run")
	flags.IntVar(&f.inFlight, "in-flight", 0, "`N` records a producer, random reads a client, or metadata requests at a time (0: 64, random reads 4)")
	cmd.AddCommand(
		a.benchCase(f, "write", "Clients write a file each", f.write, f.pathFlag),
		a.benchCase(f, "read", "Clients read a file each, warm", f.read, func(cmd *cobra.Command) {
			cmd.Flags().BoolVar(&f.random, "random", false, "read blocks of 64 KiB at random places")
		}),
		a.benchCase(f, "append", "Producers append records to one file; what is acknowledged is read back and checked", f.append, func(cmd *cobra.Command) {
			cmd.Flags().Var(&f.record, "record", "records of `SIZE` bytes, 24 B to 16 MiB")
		}, f.pathFlag),
		a.benchCase(f, "meta", "stat and create", f.meta),
		a.benchCase(f, "all", "Every case of the project's own figures, at their own numbers of clients", f.all),
		a.benchLimitsCommand(f), a.limitsRoleCommand(),
	)
	return cmd
}

// benchCase is a command that measures the cluster.
func (a *app) benchCase(f *benchFlags, name, short string, cases func(bench.Config) ([]bench.Case, error), more ...func(*cobra.Command)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			inFlight := f.inFlight
			if inFlight == 0 {
				inFlight = bench.MetaInFlight
			}
			cfg := bench.Config{
				Connect: a.connect, Path: clientlib.DataPath(f.path), Dir: f.in, Bytes: int64(f.size), Ops: f.ops, InFlight: inFlight,
				Synced: f.synced, Seed: rand.Uint64(),
			}
			if err := errors.Join(cfg.Check(), f.check()); err != nil {
				return usageError{err}
			}
			if len(f.servers) > 0 {
				cfg.ServerCPU = func() (time.Duration, error) { return bench.ProcessCPU(f.servers) }
			}
			held, err := f.beside(&cfg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, held.remove()) }()
			list, err := cases(cfg)
			if err = errors.Join(err, held.failed); err != nil {
				return usageError{err}
			}
			return a.measure(cmd.Context(), list, f.runs, held.before)
		},
	}
	cmd.Flags().BoolVar(&f.synced, "synced", false, "an acknowledgement waits for fsync on all replicas")
	cmd.Flags().StringVar(&f.in, "in", "/", "work in a directory below `DIR` of the cluster, removed afterwards")
	cmd.Flags().BoolVar(&f.limits, "limits", false, "right before each run measure what the machine can do at most, and print the ratio")
	cmd.Flags().Var(&f.warm, "warm", "before each run write and remove a file of `SIZE` bytes, so that a virtual machine's memory is backed by its host")
	cmd.Flags().IntSliceVar(&f.servers, "server-pid", nil, "count the CPU time of the process `PID` of this machine as the cluster's; may be repeated")
	cmd.Flags().StringVar(&f.dir, "dir", "", "keep the files of --limits and --warm in a new directory below `DIR`, on the disk to measure (default: TMPDIR)")
	for _, add := range more {
		add(cmd)
	}
	return cmd
}

// pathFlag is a flag of the cases that write.
func (f *benchFlags) pathFlag(cmd *cobra.Command) {
	cmd.Flags().Var(&f.path, "path", "send data by `WAY`: in-order to the primary, decoupled from it to the nearest replica, or auto")
}

func (f *benchFlags) check() error {
	switch {
	case f.runs < 1 || f.runs > bench.MaxRuns:
		return fmt.Errorf("--runs %d: want 1 to %d", f.runs, bench.MaxRuns)
	case f.clients < 0 || f.clients > bench.MaxClients:
		return fmt.Errorf("--clients %d: want 1 to %d", f.clients, bench.MaxClients)
	case int(f.record) < bench.MinRecordBytes || f.record > gfs.MaxRecordBytes:
		return fmt.Errorf("--record %s: want %d to %d bytes", &f.record, bench.MinRecordBytes, gfs.MaxRecordBytes)
	}
	return nil
}

// clientsOr is the number of clients asked for, or else n.
func (f *benchFlags) clientsOr(n int) int {
	if f.clients > 0 {
		return f.clients
	}
	return n
}

func (f *benchFlags) write(cfg bench.Config) ([]bench.Case, error) {
	return []bench.Case{cfg.Write(f.clientsOr(1))}, nil
}

func (f *benchFlags) read(cfg bench.Config) ([]bench.Case, error) {
	if !f.random {
		return []bench.Case{cfg.Read(f.clientsOr(1))}, nil
	}
	inFlight := f.inFlight
	if inFlight == 0 {
		inFlight = bench.RandomInFlight
	}
	return []bench.Case{cfg.RandomRead(f.clientsOr(1), inFlight)}, nil
}

func (f *benchFlags) append(cfg bench.Config) ([]bench.Case, error) {
	return []bench.Case{cfg.Append(f.clientsOr(16), int(f.record))}, nil
}

func (f *benchFlags) meta(cfg bench.Config) ([]bench.Case, error) {
	n := f.clientsOr(1)
	return []bench.Case{cfg.Stat(n, cfg.InFlight), cfg.Create(n, cfg.InFlight)}, nil
}

func (f *benchFlags) all(cfg bench.Config) ([]bench.Case, error) {
	if f.clients != 0 {
		return nil, errors.New("--clients is for one case: all has its own numbers")
	}
	return cfg.All(), nil
}

func (a *app) benchLimitsCommand(f *benchFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "limits [CASE…]",
		Short: "What this machine can do at most: hold the cluster's figures against it",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			binary, err := ownBinary()
			if err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return usageError{err}
			}
			dir, err := os.MkdirTemp(f.dir, "cairn-limits-")
			if err != nil {
				return fmt.Errorf("a directory for the files: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
			cases, err := limits.Cases(limits.Config{
				Command: []string{binary, "bench", limitsRole}, Dir: dir, Bytes: int64(f.size), Ops: f.ops,
				Streams: f.clientsOr(1), Seed: rand.Uint64(),
			})
			if err != nil {
				return usageError{err}
			}
			if cases, err = only(cases, args); err != nil {
				return usageError{err}
			}
			return a.measure(cmd.Context(), cases, f.runs, nil)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", "", "keep files in a new directory below `DIR`, on the disk to measure, removed afterwards (default: TMPDIR)")
	return cmd
}

// only is the cases whose names begin with one of the wanted, or all of them if none is wanted.
func only(cases []bench.Case, wanted []string) (chosen []bench.Case, err error) {
	if len(wanted) == 0 {
		return cases, nil
	}
	used := make([]bool, len(wanted))
	for _, c := range cases {
		matches := false
		for i, prefix := range wanted {
			if prefix != "" && strings.HasPrefix(c.Name, prefix) {
				used[i], matches = true, true
			}
		}
		if matches {
			chosen = append(chosen, c)
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		var names []string
		for _, c := range cases {
			names = append(names, c.Name)
		}
		return nil, fmt.Errorf("no case begins with %q: there are %s", wanted[i], strings.Join(names, ", "))
	}
	return chosen, nil
}

func (a *app) limitsRoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:    limitsRole + " ROLE [ARGUMENT…]",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := limits.Role(cmd.Context(), args, a.stdout, a.stderr)
			if errors.Is(err, fs.ErrInvalid) {
				return usageError{err}
			}
			return err
		},
	}
}

// measure runs cases, each after before unless that is nil, and prints a result each. An operation that failed is an error, once everything is printed.
func (a *app) measure(ctx context.Context, cases []bench.Case, runs int, before func(context.Context) error) error {
	bar := a.newProgress()
	plan := bench.Plan{
		Cases: cases, Runs: runs, Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Before: before, Progress: bar.steps(),
	}
	results, err := plan.Run(ctx)
	bar.wait()
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted before every run was done, so there is nothing to print: %w", err)
	case err != nil && len(results) == 0:
		return err
	}
	failed := []error{err} // what could not be cleaned up
	rows := []string{bench.Header}
	for _, r := range results {
		rows = append(rows, r.Row())
		failed = append(failed, r.Err())
		if a.json {
			if err := a.printJSON(r); err != nil {
				return err
			}
		}
	}
	if !a.json {
		failed = append(failed, a.table(rows))
	}
	return errors.Join(failed...)
}

// steps is a bar that shows how many runs are done and which one is under way; nil where no bars are shown.
func (p *progress) steps() func(done, total int, name string) {
	if p.bars == nil {
		return nil
	}
	var bar *mpb.Bar
	var current atomic.Value // the name, which the bar's own goroutine reads
	return func(done, total int, name string) {
		current.Store(name)
		if bar == nil {
			bar = p.bars.AddBar(int64(total), mpb.BarRemoveOnComplete(),
				mpb.PrependDecorators(decor.CountersNoUnit("%d/%d runs ")),
				mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprint(" ", current.Load()) })))
		}
		bar.SetCurrent(int64(done))
	}
}

// dataPath is a flag's way of data.
type dataPath clientlib.DataPath

// String is the way's name.
func (d *dataPath) String() string { return clientlib.DataPath(*d).String() }

// Set takes the way's name.
func (d *dataPath) Set(name string) error {
	path, err := clientlib.ParseDataPath(name)
	*d = dataPath(path)
	return err
}

// Type names the flag's value in help texts.
func (d *dataPath) Type() string { return "way" }

// size is a flag's number of bytes: 4096, 64K, 1MiB, 2GB, with units of 1024.
type size int64

// String writes the size as Set reads it.
func (s *size) String() string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if shift := 40 - 10*i; *s != 0 && *s%(1<<shift) == 0 {
			return strconv.FormatInt(int64(*s)>>shift, 10) + unit
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Set reads a whole number with a unit or none.
func (s *size) Set(text string) error {
	digits := strings.TrimRight(text, "kKmMgGtTiIbB")
	shift, known := sizeUnit(strings.ToLower(text[len(digits):]))
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 0 || n > (1<<62)>>shift {
		return errors.New("not a size: write 4096, 64K or 1GiB")
	}
	*s = size(n << shift)
	return nil
}

// sizeUnit is the power of two that a unit in lower case stands for.
func sizeUnit(unit string) (shift int, known bool) {
	if unit == "" || unit == "b" {
		return 0, true
	}
	power, rest := strings.IndexByte("kmgt", unit[0])+1, unit[1:]
	return 10 * power, power > 0 && (rest == "" || rest == "b" || rest == "ib")
}

// Type names the flag's value in help texts.
func (s *size) Type() string { return "size" }
