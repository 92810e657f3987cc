package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/processes"
)

func TestUpKillStartDown(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	binary, err := processes.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c, err := Make(dir, Config{Cluster: "test", Masters: 1, Chunkservers: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := c.Up(ctx, binary); err != nil {
		t.Fatal(err)
	}
	before := c.pids(t)
	if err := c.Up(ctx, binary); err != nil {
		t.Errorf("up again: %v", err)
	}
	if after := c.pids(t); fmt.Sprint(after) != fmt.Sprint(before) || len(after) != 5 {
		t.Errorf("up again started others: %v, then %v", before, after)
	}
	client, err := clientlib.Connect(ctx, c.NATS(), clientlib.WithCluster("test"))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.WriteFile(ctx, "/f", []byte("stays"), 0o644); err != nil {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Kill(ctx, "cs2"); err != nil {
		t.Error(err)
	}
	if c.pids(t)["cs2"] != 0 {
		t.Error("cs2 was killed and runs")
	}
	if err := c.Kill(ctx, "cs2"); err == nil {
		t.Error("cs2 was killed twice")
	}
	if err := c.Start(ctx, binary, "cs2"); err != nil {
		t.Error(err)
	}
	if err := c.Start(ctx, binary, "cs2"); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second cs2: %v", err)
	}
	if err := c.Start(ctx, binary, "cs9"); err == nil || !strings.Contains(err.Error(), "cs3") {
		t.Errorf("a process that is none: %v", err)
	}
	// Another command finds the same cluster, and its data after down and up.
	c, err = Make(dir, Config{Cluster: "other", Masters: 1, Chunkservers: 4})
	if err != nil || c.Name() != "test" {
		t.Fatalf("a running cluster was changed: %v", err)
	}
	if err := errors.Join(c.Down(ctx), c.Up(ctx, binary)); err != nil {
		t.Fatal(err)
	}
	client, err = clientlib.Connect(ctx, c.NATS(), clientlib.WithCluster("test"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.ReadFile(ctx, "/f"); err != nil || string(got) != "stays" {
		t.Errorf("after down and up: %q, %v", got, err)
	}
	if err := errors.Join(client.Close(), c.Down(ctx)); err != nil {
		t.Error(err)
	}
	for name, pid := range c.pids(t) {
		if pid != 0 {
			t.Errorf("%s still runs after down", name)
		}
	}
}

func (c *Cluster) pids(t *testing.T) map[string]int {
	t.Helper()
	all, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{}
	for _, s := range all {
		pids[s.Name] = s.Pid
	}
	return pids
}

// A process id that belongs to another process by now is left alone.
func TestAnotherProcessWithTheIdIsLeftAlone(t *testing.T) {
	c, err := Make(t.TempDir(), Config{Cluster: "test", Masters: 1, Chunkservers: 1})
	if err != nil {
		t.Fatal(err)
	}
	own, err := identify(os.Getpid())
	if err != nil || !own.alive() {
		t.Fatalf("this process: %+v, %v", own, err)
	}
	stale := fmt.Sprintf("%d %d\n", own.pid, own.ticks-1)
	if err := os.WriteFile(c.files("cs1").pid, []byte(stale), 0o644); err != nil {
		t.Fatal(err)
	}
	if pid := c.pids(t)["cs1"]; pid != 0 {
		t.Fatalf("cs1 is taken for process %d", pid)
	}
	if err := c.Kill(t.Context(), "cs1"); err == nil {
		t.Error("killed another process")
	}
	if err := c.Down(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.files("cs1").pid); !os.IsNotExist(err) {
		t.Errorf("the stale pid file is still there: %v", err)
	}
}

func TestWhatCannotBe(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("a directory without a cluster: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cluster.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(dir, Config{}); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("a damaged cluster.json: %v", err)
	}
	c, err := Make(t.TempDir(), Config{Cluster: "test", Masters: 1, Chunkservers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.files("m1").pid, []byte("1 x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(); err == nil {
		t.Error("a pid file that names process 1 was taken")
	}
	if err := c.Up(t.Context(), "/bin/false"); err == nil || !strings.Contains(err.Error(), "nats") {
		t.Errorf("a command that fails: %v", err)
	}
	if unlock, err := c.lock(); err != nil {
		t.Error(err)
	} else {
		if err := c.Up(t.Context(), "/bin/false"); err == nil || !strings.Contains(err.Error(), "another command") {
			t.Errorf("two at once: %v", err)
		}
		unlock()
	}
}
