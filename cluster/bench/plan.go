package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// closePatience bounds the cleaning up after an interruption.
const closePatience = 15 * time.Second

// MaxRuns bounds a plan: what more runs would tell is no longer about the machine.
const MaxRuns = 1000

// Plan is which cases to run, and how often.
type Plan struct {
	Cases []Case
	Runs  int        // of each case, 1 to MaxRuns
	Rand  *rand.Rand // shuffles the order; used by Run alone while it lasts
	// Before is called before each run, and what it does is not measured. May be nil.
	Before func(ctx context.Context) error
	// Progress is called before each run with what was done so far, and once at the end with name "". May be nil.
	Progress func(done, total int, name string)
}

// run is what one run of a case gave.
type run struct {
	tally              *Tally
	wall, cpu, servers time.Duration
	ratio              float64 // to the limit that ran right before, 0 if there is none
}

func (r run) rate() float64 {
	amount := r.tally.Bytes
	if r.tally.Ops > 0 {
		amount = r.tally.Ops
	}
	return perSecond(amount, r.wall)
}

// Run runs the plan and returns a result a case, in the order of Cases. It ends early when ctx ends or a case cannot
// run at all; whatever the cases made is cleaned up in any case.
func (p Plan) Run(ctx context.Context) (results []Result, err error) {
	if p.Runs < 1 || p.Runs > MaxRuns {
		return nil, fmt.Errorf("%d runs: want 1 to %d", p.Runs, MaxRuns)
	}
	all := p.withLimits()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
		defer cancel()
		for _, c := range all {
			if c.Close != nil {
				err = errors.Join(err, c.Close(closing))
			}
		}
	}()
	for _, c := range all {
		p.progress(0, "preparing "+c.Name)
		if c.Prepare == nil {
			continue
		}
		if err := c.Prepare(ctx); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if err != nil {
			return nil, fmt.Errorf("prepare %s: %w", c.Name, err)
		}
	}
	runs := make([][]run, len(p.Cases))
	for round := range p.Runs {
		for turn, i := range p.Rand.Perm(len(p.Cases)) {
			p.progress(round*len(p.Cases)+turn, p.Cases[i].Name)
			r, err := p.held(ctx, p.Cases[i])
			if err != nil {
				return nil, err
			}
			runs[i] = append(runs[i], r)
		}
	}
	p.progress(p.Runs*len(p.Cases), "")
	for i, c := range p.Cases {
		results = append(results, summarize(c, runs[i]))
	}
	return results, nil
}

// withLimits is the cases and their limits, each once.
func (p Plan) withLimits() []Case {
	all := slices.Clone(p.Cases)
	seen := map[*Case]bool{}
	for _, c := range p.Cases {
		if c.Limit != nil && !seen[c.Limit] {
			seen[c.Limit] = true
			all = append(all, *c.Limit)
		}
	}
	return all
}

// held runs a case once, right after its limit.
func (p Plan) held(ctx context.Context, c Case) (run, error) {
	if p.Before != nil {
		if err := p.Before(ctx); err != nil {
			return run{}, err
		}
	}
	if c.Limit == nil {
		return once(ctx, c)
	}
	limit, err := once(ctx, *c.Limit)
	if err == nil && limit.tally.Errors > 0 {
		err = fmt.Errorf("%s: %w", c.Limit.Name, limit.tally.FirstError)
	}
	if err != nil {
		return run{}, err
	}
	r, err := once(ctx, c)
	if err == nil {
		r.ratio = r.against(limit)
	}
	return r, err
}

// against is the rate of a run as a part of another's: of bytes, if both move some, else of operations.
func (r run) against(limit run) float64 {
	mine, its := perSecond(r.tally.Bytes, r.wall), perSecond(limit.tally.Bytes, limit.wall)
	if mine == 0 || its == 0 {
		mine, its = perSecond(r.tally.Ops, r.wall), perSecond(limit.tally.Ops, limit.wall)
	}
	if its == 0 {
		return 0
	}
	return mine / its
}

func (p Plan) progress(done int, name string) {
	if p.Progress != nil {
		p.Progress(done, p.Runs*len(p.Cases), name)
	}
}

func once(ctx context.Context, c Case) (run, error) {
	if err := ctx.Err(); err != nil {
		return run{}, err
	}
	own, servers := c.CPU, c.ServerCPU
	if own == nil {
		own = OwnCPU
	}
	if servers == nil {
		servers = func() (time.Duration, error) { return 0, nil }
	}
	watch := &Stopwatch{clocks: []func() (time.Duration, error){own, servers}}
	tally, err := c.Run(ctx, watch)
	switch {
	case ctx.Err() != nil: // failures that the interruption caused are not the cluster's
		return run{}, ctx.Err()
	case err != nil:
		return run{}, fmt.Errorf("%s: %w", c.Name, err)
	}
	if err := watch.check(c.Name); err != nil {
		return run{}, err
	}
	return run{tally: tally, wall: watch.wall, cpu: watch.used[0], servers: watch.used[1]}, nil
}

// summarize takes the median run, the slower of the middle ones of an even number, with latencies and errors of all.
func summarize(c Case, runs []run) Result {
	var all Tally
	for _, r := range runs {
		all.Merge(r.tally)
	}
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.rate(), b.rate()) })
	median := runs[(len(runs)-1)/2]
	result := Result{
		Name: c.Name, Bytes: median.tally.Bytes, Ops: median.tally.Ops, Seconds: median.wall.Seconds(),
		Rate: median.rate(), Unit: "bytes/s", Slowest: runs[0].rate(), Fastest: runs[len(runs)-1].rate(), Runs: len(runs),
		P50: milliseconds(all.Latency.Quantile(0.50)), P99: milliseconds(all.Latency.Quantile(0.99)),
		Max: milliseconds(all.Latency.Max()), CPUSeconds: median.cpu.Seconds(), ServerCPUSeconds: median.servers.Seconds(),
		Errors: all.Errors, Lost: all.Lost, Torn: all.Torn, Sync: c.Durability, FirstError: all.FirstError,
	}
	if result.Ops > 0 {
		result.Unit = "ops/s"
	}
	if result.Bytes > 0 {
		gib := float64(result.Bytes) / (1 << 30)
		result.CPUPerGiB, result.ServerCPUPerGiB = result.CPUSeconds/gib, result.ServerCPUSeconds/gib
	}
	if c.Limit != nil {
		slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.ratio, b.ratio) })
		result.Limit, result.Ratio = c.Limit.Name, runs[(len(runs)-1)/2].ratio
		result.LowestRatio, result.BestRatio = runs[0].ratio, runs[len(runs)-1].ratio
	}
	if result.Sync == "" {
		result.Sync = SyncNone
	}
	return result
}

func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
