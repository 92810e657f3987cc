package bench

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

func random() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// work is a case that does what f does with its tally.
func work(name string, f func(t *Tally)) Case {
	return Case{Name: name, Run: func(_ context.Context, watch *Stopwatch) (*Tally, error) {
		tally := &Tally{}
		watch.Start()
		f(tally)
		watch.Stop()
		return tally, nil
	}}
}

func TestJSONHasTheFixedNames(t *testing.T) {
	cases := []Case{
		work("bytes", func(t *Tally) { t.Bytes = 1 << 20; t.Latency.Record(time.Millisecond) }),
		work("ops", func(t *Tally) { t.Ops = 10; t.Fail(errors.New("no")) }),
	}
	cases[1].Durability = SyncLog
	results, err := Plan{Cases: cases, Runs: 3, Rand: random()}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	common := []string{"name", "seconds", "rate", "unit", "rate_lowest", "rate_best", "runs", "p50_ms", "p99_ms", "max_ms", "errors", "lost", "torn", "sync", "cpu_seconds"}
	for i, extra := range [][]string{{"bytes", "cpu_seconds_per_gib"}, {"ops"}} {
		encoded, err := json.Marshal(results[i])
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(encoded, &got); err != nil {
			t.Fatal(err)
		}
		want := slices.Sorted(slices.Values(append(extra, common...)))
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) && results[i].CPUSeconds > 0 {
			t.Errorf("%s: names %q, want %q", results[i].Name, names, want)
		}
	}
	if r := results[1]; r.Errors != 3 || r.Err() == nil || r.Sync != "log" || r.Unit != "ops/s" {
		t.Errorf("errors of all runs count, and the policy is the case's: %+v", r)
	}
	if columns, cells := strings.Count(Header, "\t"), strings.Count(results[0].Row(), "\t"); columns != cells {
		t.Errorf("%d columns and rows of %d", columns+1, cells+1)
	}
}

func TestTheMedianRunIsTheResult(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) run {
			return run{tally: &Tally{Bytes: rapid.Int64Range(1, 1000).Draw(t, "bytes")}, wall: time.Second}
		}), 1, 9).Draw(t, "runs")
		var sizes []int64
		for _, r := range runs {
			sizes = append(sizes, r.tally.Bytes)
		}
		slices.Sort(sizes)
		r := summarize(Case{Name: "x"}, runs)
		if want := sizes[(len(sizes)-1)/2]; r.Bytes != want || r.Rate != float64(want) || r.Slowest != float64(sizes[0]) || r.Fastest != float64(sizes[len(sizes)-1]) {
			t.Errorf("%+v of runs with %v", r, sizes)
		}
	})
}

func TestEachRunIsHeldAgainstTheLimitBeforeIt(t *testing.T) {
	var order []string
	limit := work("limit", func(tally *Tally) { order = append(order, "limit"); tally.Bytes = 100 })
	prepared := 0
	limit.Prepare = func(context.Context) error { prepared++; return nil }
	cases := []Case{
		work("a", func(tally *Tally) { order = append(order, "a"); tally.Bytes = 50 }),
		work("b", func(tally *Tally) { order = append(order, "b"); tally.Bytes, tally.Ops = 10, 3 }),
		work("c", func(*Tally) { order = append(order, "c") }),
	}
	cases[0].Limit, cases[1].Limit = &limit, &limit
	befores := 0
	results, err := Plan{Cases: cases, Runs: 3, Rand: random(), Before: func(context.Context) error { befores++; return nil }}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range order {
		if held := i > 0 && order[i-1] == "limit"; name != "limit" && held != (name != "c") {
			t.Errorf("%s is held against a limit: %t, in %v", name, held, order)
		}
	}
	if prepared != 1 || befores != 9 {
		t.Errorf("the limit was prepared %d times, want once; %d calls before a run, want 9", prepared, befores)
	}
	for i, want := range []string{"limit", "limit", ""} {
		r := results[i]
		if r.Limit != want || (r.Ratio > 0) != (want != "") || r.LowestRatio > r.Ratio || r.Ratio > r.BestRatio {
			t.Errorf("%+v, want a ratio to %q", r, want)
		}
	}
	one := run{tally: &Tally{Bytes: 30, Ops: 3}, wall: time.Second}
	for want, other := range map[float64]run{
		0.5:  {tally: &Tally{Bytes: 60}, wall: time.Second},         // bytes, where both move some
		0.25: {tally: &Tally{Ops: 6}, wall: 500 * time.Millisecond}, // else operations
	} {
		if got := one.against(other); got != want {
			t.Errorf("ratio %v, want %v", got, want)
		}
	}
}

func TestEveryRoundHasEveryCaseOnceAndOrdersDiffer(t *testing.T) {
	var order []string
	var cases []Case
	for _, name := range []string{"a", "b", "c", "d"} {
		cases = append(cases, work(name, func(*Tally) { order = append(order, name) }))
	}
	var progress []int
	const rounds = 6
	_, err := Plan{Cases: cases, Runs: rounds, Rand: random(), Progress: func(done, total int, name string) {
		if total != 4*rounds {
			t.Errorf("%d runs in all, want %d", total, 4*rounds)
		}
		if !strings.HasPrefix(name, "preparing ") {
			progress = append(progress, done)
		}
	}}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for round := range slices.Chunk(order, 4) {
		seen[strings.Join(round, "")] = true
		if slices.Sort(round); strings.Join(round, "") != "abcd" {
			t.Errorf("a round of %v", round)
		}
	}
	if len(seen) < 2 {
		t.Error("every round has the same order")
	}
	if len(progress) != 4*rounds+1 || !slices.IsSorted(progress) {
		t.Errorf("progress %v", progress)
	}
}

func TestWhateverHappensEveryCaseIsClosed(t *testing.T) {
	for name, spoil := range map[string]func(c *Case, cancel func()){
		"prepare fails": func(c *Case, _ func()) { c.Prepare = func(context.Context) error { return errors.New("no") } },
		"run fails": func(c *Case, _ func()) {
			c.Run = func(context.Context, *Stopwatch) (*Tally, error) { return nil, errors.New("no") }
		},
		"not timed": func(c *Case, _ func()) {
			c.Run = func(context.Context, *Stopwatch) (*Tally, error) { return &Tally{}, nil }
		},
		"no CPU time": func(c *Case, _ func()) { c.CPU = func() (time.Duration, error) { return 0, errors.New("no") } },
		"interrupted": func(c *Case, cancel func()) { c.Prepare = func(context.Context) error { cancel(); return nil } },
		"close fails": nil,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			closed := 0
			cases := []Case{work("first", func(*Tally) {}), work("second", func(*Tally) {})}
			for i := range cases {
				cases[i].Close = func(ctx context.Context) error {
					closed++
					if spoil == nil {
						return errors.New("no")
					}
					return ctx.Err()
				}
			}
			if spoil != nil {
				spoil(&cases[1], cancel)
			}
			if _, err := (Plan{Cases: cases, Runs: 1, Rand: random()}).Run(ctx); err == nil || closed != 2 {
				t.Errorf("error %v, %d closed; want an error and 2", err, closed)
			}
		})
	}
}

func TestSharesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, n := rapid.Int64Range(0, 1<<40).Draw(t, "total"), rapid.IntRange(1, 100).Draw(t, "n")
		sum, least, most := int64(0), int64(1)<<62, int64(0)
		for i := range n {
			s := Share(total, i, n)
			sum, least, most = sum+s, min(least, s), max(most, s)
		}
		if sum != total || most-least > 1 {
			t.Errorf("shares of %d add up to %d and reach from %d to %d", total, sum, least, most)
		}
	})
}

func TestBoundsOfAPlanAndAConfig(t *testing.T) {
	for _, runs := range []int{-1, 0, MaxRuns + 1} {
		if _, err := (Plan{Runs: runs, Rand: random()}).Run(t.Context()); err == nil {
			t.Errorf("%d runs are accepted", runs)
		}
	}
	good := Config{Bytes: 1, Ops: 1, InFlight: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Config{
		{Bytes: 0, Ops: 1, InFlight: 1}, {Bytes: MaxBytes + 1, Ops: 1, InFlight: 1}, {Bytes: 1, Ops: 0, InFlight: 1},
		{Bytes: 1, Ops: MaxOps + 1, InFlight: 1}, {Bytes: 1, Ops: 1, InFlight: 0}, {Bytes: 1, Ops: 1, InFlight: MaxInFlight + 1},
	} {
		if bad.Check() == nil {
			t.Errorf("accepted: %+v", bad)
		}
	}
}

func TestAWorkerStopsWhereNothingAnswersAnyMore(t *testing.T) {
	for err, want := range map[error]int64{
		gfs.Errorf(gfs.CodeUnavailable, "nobody answers"): 3, // counted from 0, the third is the first that fails
		errors.New("another"):                             2 + maxFailures,
	} {
		var tally Tally
		done := int64(0)
		timed(t.Context(), 1000, &tally, func(k int64) error {
			if done++; k < 2 {
				return nil
			}
			return err
		})
		if done != want || tally.Ops != 2 {
			t.Errorf("%v: %d operations, %d good; want %d and 2", err, done, tally.Ops, want)
		}
	}
}
