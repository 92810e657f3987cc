package chaos_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/cluster/processes"
	"github.com/cairnfs/cairn/messages/gfs"
)

var manyChunks = flag.Int("chaos.chunks", 2000, "how many chunks a chunkserver has that is started again")

// restartPatience is what a chunkserver with 100,000 chunks may take until it is ready.
const restartPatience = 2 * time.Second

// A chunkserver with many closed chunks is ready soon after it is started: it reads its index and not each file. One that
// was killed is no slower.
func TestAChunkserverWithManyChunksStartsAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	binary, err := processes.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cs")
	makeChunks(t, dir, *manyChunks)
	nats, err := processes.Start(ctx, nil, "nats", binary, "nats", "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := nats.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for _, before := range []string{"it was stopped", "it was killed"} {
		begin := time.Now()
		cs, err := processes.Start(ctx, nil, "cs1", binary, "chunkserver", "--nats", nats.Ready(), "--data", dir, "--listen", "127.0.0.1:0", "--http", "")
		took := time.Since(begin)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d chunks, after %s: ready in %s", *manyChunks, before, took.Round(time.Millisecond))
		if took > restartPatience {
			t.Errorf("%d chunks, after %s: ready in %s, want %s", *manyChunks, before, took, restartPatience)
		}
		if err := cs.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

// makeChunks makes closed chunks in a directory.
func makeChunks(t *testing.T, dir string, count int) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := store.Open(store.Config{Dirs: []string{dir}, Cluster: "local", Log: logrus.NewEntry(log)})
	if err != nil {
		t.Fatal(err)
	}
	const together = 1000 // they share commits of the index, and have their files open
	for first := 0; first < count; first += together {
		replicas := make([]*store.Replica, min(together, count-first))
		failed := make([]error, len(replicas))
		var wg sync.WaitGroup
		for i := range replicas {
			wg.Go(func() { replicas[i], failed[i] = s.Create(gfs.ChunkHandle(first+i+1), gfs.NewVersion(1, 1)) })
		}
		wg.Wait()
		err := errors.Join(failed...)
		if err == nil {
			err = s.SyncAll(replicas)
		}
		if err == nil {
			err = s.Unmark(replicas)
		}
		if err != nil {
			t.Fatalf("%.1000v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
