package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/processes"
)

// rig is a cluster of processes and a way to run commands against it, each a process too.
type rig struct {
	*processes.Cluster
	t            *testing.T
	binary       string
	chunkservers int
	random       *rand.Rand
}

// newRig starts a cluster that ends with the test. If the test fails, the processes' last words are logged.
func newRig(t *testing.T, ctx context.Context, masters, chunkservers int) *rig {
	t.Helper()
	binary, err := processes.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := *logFile
	if name == "" {
		name = filepath.Join(t.TempDir(), "log")
	}
	log, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := processes.StartCluster(ctx, processes.Config{Binary: binary, Dir: t.TempDir(), Masters: masters, Chunkservers: chunkservers, Racks: 2, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(parts.Close(), log.Close()); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the processes' last words:\n%s", text[max(0, len(text)-8<<10):])
		}
	})
	r := &rig{Cluster: parts, t: t, binary: binary, chunkservers: chunkservers, random: rand.New(rand.NewPCG(*seed, *seed))}
	r.waitReady(ctx)
	return r
}

// waitReady waits until the master has heard of every chunkserver.
func (r *rig) waitReady(ctx context.Context) {
	r.t.Helper()
	client, err := clientlib.Connect(ctx, r.URL())
	if err == nil {
		err = errors.Join(cluster.WaitChunkservers(ctx, client, r.chunkservers), client.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// run runs the cairn command as a process and returns what it printed on stdout.
func (r *rig) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := r.runTo(ctx, stdin, &out, args...)
	return out.Bytes(), err
}

// runTo runs the cairn command as a process; its stdout goes to out.
func (r *rig) runTo(ctx context.Context, stdin io.Reader, out io.Writer, args ...string) error {
	command := exec.CommandContext(ctx, r.binary, append([]string{"--nats", r.URL()}, args...)...)
	var said bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = stdin, out, &said
	begin := time.Now()
	if err := command.Run(); err != nil {
		return fmt.Errorf("cairn %s, after %s: %w: %s", args, time.Since(begin).Round(time.Millisecond), err, said.Bytes())
	}
	return nil
}

// must runs the cairn command, which has to succeed.
func (r *rig) must(ctx context.Context, args ...string) []byte {
	r.t.Helper()
	out, err := r.run(ctx, nil, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// killAll ends every process at once with SIGKILL.
func (r *rig) killAll() error {
	names := r.Names()
	failed := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { failed[i] = r.Kill(name) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// startAll starts every process again: NATS, which the others want to find, and then all at once.
func (r *rig) startAll(ctx context.Context) error {
	names := r.Names()
	if err := r.Start(ctx, names[0]); err != nil {
		return err
	}
	failed := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names[1:] {
		wg.Go(func() { failed[i] = r.Start(ctx, name) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// between draws a duration.
func (r *rig) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.random.Int64N(int64(most-least)))
}

// slowLines gives lines a few at a time, so that whoever reads them is at work for as long as the test wants.
type slowLines struct {
	ctx    context.Context
	format string // of the line's number
	next   int
	lines  int
	pace   *time.Ticker
	left   []byte
}

// newSlowLines gives lines in about the given time; the caller stops its pace.
func newSlowLines(ctx context.Context, format string, lines int, within time.Duration) *slowLines {
	const batch = 20
	return &slowLines{ctx: ctx, format: format, lines: lines, pace: time.NewTicker(within * batch / time.Duration(lines))}
}

// Read implements io.Reader.
func (s *slowLines) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		if s.next == s.lines {
			return 0, io.EOF
		}
		select {
		case <-s.pace.C:
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
		for range min(20, s.lines-s.next) {
			s.left = append(fmt.Appendf(s.left, s.format, s.next), '\n')
			s.next++
		}
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

// sameTrees compares two local trees: names and bytes.
func sameTrees(want, got string) error {
	files := 0
	err := filepath.WalkDir(want, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		rel, err := filepath.Rel(want, name)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(got, rel))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%s: %d bytes were stored and %d others came back", rel, len(a), len(b))
		}
		return nil
	})
	if err == nil && files == 0 {
		return fmt.Errorf("%s holds no file", want)
	}
	return err
}
