package chaos_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
)

var (
	rounds = flag.Int("chaos.rounds", 1, "how often everything is killed")
	lines  = flag.Int("chaos.lines", 2000, "how many lines each process appends meanwhile")
)

const (
	appenders   = 8
	linesWithin = 4 * time.Second
)

// Every process of the cluster is killed at once while a tree is stored and eight processes append to one file. All of
// them finish once the cluster is back, and nothing that was acknowledged is lost or there twice.
func TestEverythingIsKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*rounds+1)*time.Minute)
	defer cancel()
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(strings.TrimSpace(string(root)), "src", "net")
	r := newRig(t, ctx, 3, 5)
	for round := range *rounds {
		tree, log := fmt.Sprintf("/tree%d", round), fmt.Sprintf("/log%d", round)
		var failed [appenders + 1]error
		var offsets [appenders][]int64
		var wg sync.WaitGroup
		begin := time.Now()
		wg.Go(func() { _, failed[appenders] = r.run(ctx, nil, "put", "-r", local, tree) })
		for i := range appenders {
			wg.Go(func() { offsets[i], failed[i] = r.appendLines(ctx, log, i) })
		}
		moment := r.between(200*time.Millisecond, linesWithin)
		select {
		case <-time.After(moment):
		case <-ctx.Done():
		}
		if err := r.killAll(); err != nil {
			t.Fatal(err)
		}
		if err := r.startAll(ctx); err != nil {
			t.Fatal(err)
		}
		back := time.Since(begin)
		wg.Wait()
		t.Logf("round %d: all killed after %s, started again after %s, all done after %s", round,
			moment.Round(time.Millisecond), back.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		if err := errors.Join(failed[:]...); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if err := r.checkLines(ctx, log, offsets[:]); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if failed[appenders] != nil {
			continue
		}
		got := filepath.Join(t.TempDir(), "tree")
		r.must(ctx, "get", "-r", tree, got)
		if err := sameTrees(local, got); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
}

// A master is killed and started again, one after the other, while producers append: they go on, whether it was the acting
// one or not, whether there are others or not.
func TestMastersAreKilled(t *testing.T) {
	for _, masters := range []int{1, 3} {
		t.Run(fmt.Sprintf("of %d", masters), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			r := newRig(t, ctx, masters, 5)
			var failed [appenders]error
			var offsets [appenders][]int64
			var wg sync.WaitGroup
			for i := range appenders {
				wg.Go(func() { offsets[i], failed[i] = r.appendLines(ctx, "/log", i) })
			}
			for i := range 3 {
				select {
				case <-time.After(r.between(200*time.Millisecond, linesWithin/3)):
				case <-ctx.Done():
				}
				name := fmt.Sprintf("m%d", i%masters+1)
				if err := r.Kill(name); err != nil {
					t.Fatal(err)
				}
				if err := r.Start(ctx, name); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
			if err := errors.Join(failed[:]...); err != nil {
				t.Error(err)
			}
			if err := r.checkLines(ctx, "/log", offsets[:]); err != nil {
				t.Error(err)
			}
		})
	}
}

func line(appender, i int) string { return fmt.Sprintf("%d/%d", appender, i) }

// appendLines appends an appender's lines by the cairn command and returns the offsets that it printed, one a line in
// the order of the lines.
func (r *rig) appendLines(ctx context.Context, name string, appender int) (offsets []int64, err error) {
	in := newSlowLines(ctx, fmt.Sprintf("%d/%%d", appender), *lines, linesWithin)
	defer in.pace.Stop()
	out, err := r.run(ctx, in, "append", "-v", name)
	for text := range strings.Lines(string(out)) {
		offset, parseErr := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if parseErr != nil {
			return offsets, errors.Join(err, fmt.Errorf("append -v printed %q: %w", text, parseErr))
		}
		offsets = append(offsets, offset)
	}
	if err == nil && len(offsets) != *lines {
		err = fmt.Errorf("appender %d acknowledged %d of %d lines and ended well", appender, len(offsets), *lines)
	}
	return offsets, err
}

// checkLines reads a file's records: each acknowledged line is at its offset and nowhere else, and no line is there
// twice, acknowledged or not.
func (r *rig) checkLines(ctx context.Context, name string, offsets [][]int64) (err error) {
	client, err := clientlib.Connect(ctx, r.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	f, err := client.Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	found := map[string]int64{}
	for rec, err := range record.NewReader(f).Records(ctx) {
		if err != nil {
			return fmt.Errorf("read %s back: %w", name, err)
		}
		if at, twice := found[string(rec.Payload)]; twice {
			return fmt.Errorf("%s: line %q is at %d and at %d", name, rec.Payload, at, rec.Offset)
		}
		found[string(rec.Payload)] = rec.Offset
	}
	acknowledged := 0
	for appender := range offsets {
		for i, offset := range offsets[appender] {
			at, ok := found[line(appender, i)]
			if !ok || at != offset {
				return fmt.Errorf("%s: line %q was acknowledged at %d; found: %t, at %d", name, line(appender, i), offset, ok, at)
			}
			acknowledged++
		}
	}
	if acknowledged == 0 {
		return fmt.Errorf("%s: no line was acknowledged", name)
	}
	r.t.Logf("%s: %d lines acknowledged, %d found", name, acknowledged, len(found))
	return nil
}
