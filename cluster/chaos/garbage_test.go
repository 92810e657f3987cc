package chaos_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

var churning = flag.Duration("chaos.churn", 8*time.Second, "how long files come and go while processes are killed")

// Files come and go while masters and chunkservers are killed. In the end every file that was not removed is whole, and
// the disks hold no replica but theirs.
func TestGarbageIsCollectedAndNothingElse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), *churning+time.Minute)
	defer cancel()
	const workers = 3
	r := newRig(t, ctx, 3, 4)
	load, stop := context.WithTimeout(ctx, *churning)
	defer stop()
	var wg sync.WaitGroup
	var failed [workers + 1]error
	var kept [workers]map[string][32]byte
	for i := range workers {
		wg.Go(func() { kept[i], failed[i] = r.churn(ctx, load, i) })
	}
	wg.Go(func() { failed[workers] = r.killSome(ctx, load) })
	wg.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		t.Fatal(err)
	}
	client, err := clientlib.Connect(ctx, r.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	files := map[string][32]byte{}
	for _, k := range kept {
		maps.Copy(files, k)
	}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		wrong, err := r.disksDiffer(ctx, client, files)
		if err == nil && wrong == "" {
			break
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			garbage, gcErr := client.Garbage(t.Context(), "")
			t.Fatalf("%s, %v; the master knows of %+v, %v", wrong, err, garbage, gcErr)
		}
	}
	for name, sum := range files {
		data, err := client.ReadFile(ctx, name)
		if err != nil || sha256.Sum256(data) != sum {
			t.Errorf("%s: %d bytes, %v: not what was written", name, len(data), err)
		}
	}
	t.Logf("%d files were kept", len(files))
}

// churn writes and removes files until load ends, and returns the sums of those that it kept.
func (r *rig) churn(ctx, load context.Context, worker int) (kept map[string][32]byte, err error) {
	client, err := clientlib.Connect(ctx, r.URL())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	random := rand.New(rand.NewPCG(*seed, uint64(worker)))
	kept = map[string][32]byte{}
	data := make([]byte, 300_000)
	for i := 0; load.Err() == nil; i++ {
		for j := range data {
			data[j] = byte(random.Uint32())
		}
		name, part := fmt.Sprintf("/churn%d-%d", worker, i), data[:1+random.IntN(len(data))]
		if err := client.WriteFile(ctx, name, part, 0o644); err != nil {
			return kept, err
		}
		kept[name] = sha256.Sum256(part)
		for old := range kept {
			if random.IntN(len(kept)) < 20 {
				break
			}
			if err := client.RemoveNow(ctx, old); err != nil {
				return kept, err
			}
			delete(kept, old)
		}
	}
	return kept, nil
}

// killSome kills one process after the other, and starts it again, until load ends.
func (r *rig) killSome(ctx, load context.Context) error {
	names := r.Names()[1:]
	for load.Err() == nil {
		name := names[r.random.IntN(len(names))]
		if err := r.Kill(name); err != nil {
			return err
		}
		select {
		case <-time.After(r.between(100*time.Millisecond, time.Second)):
		case <-ctx.Done():
		}
		if err := r.Start(ctx, name); err != nil {
			return err
		}
		select {
		case <-time.After(r.between(500*time.Millisecond, 2*time.Second)):
		case <-load.Done():
		}
	}
	return nil
}

// disksDiffer says how the replicas on the disks differ from those that the files want; empty if they do not.
func (r *rig) disksDiffer(ctx context.Context, client *clientlib.Client, files map[string][32]byte) (string, error) {
	want := map[string]int{}
	for name := range files {
		locations, err := client.Locations(ctx, name, 0, gfs.ChunkSize)
		if err != nil {
			return "", err
		}
		for _, l := range locations {
			want[l.Handle.String()] = gfs.DefaultReplicas
		}
	}
	var surplus []string
	missing := 0
	for _, name := range r.Names() {
		if !strings.HasPrefix(name, "cs") {
			continue
		}
		err := filepath.WalkDir(filepath.Join(r.Dir(), name, "chunks"), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && filepath.Ext(path) == "" {
				if want[entry.Name()]--; want[entry.Name()] < 0 {
					surplus = append(surplus, name+"/"+entry.Name())
				}
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // moved away meanwhile
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	for _, n := range want {
		missing += max(n, 0)
	}
	if len(surplus)+missing > 0 {
		return fmt.Sprintf("too many: %v; %d missing", surplus, missing), nil
	}
	return "", nil
}
