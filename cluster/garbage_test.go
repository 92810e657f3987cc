package cluster_test

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// chunkFiles lists the handles of which chunkserver number i has a file, whatever its index says.
func chunkFiles(t *testing.T, c *clustertest.Cluster, i int) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(c.ChunkDir(i), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == "" {
			found[entry.Name()] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// eventually waits until a condition holds.
func eventually(ctx context.Context, t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// handles lists the chunks of a file.
func handles(ctx context.Context, t *testing.T, client *clientlib.Client, path string) []string {
	t.Helper()
	info, err := client.Stat(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	locations, err := client.Locations(ctx, path, 0, max(info.Size(), 1))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, l := range locations {
		found = append(found, l.Handle.String())
	}
	return found
}

// Replicas of removed files are deleted, also those that were open, and those at a chunkserver that was away meanwhile.
func TestRemovedFilesGiveTheirSpaceBack(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	client := c.Client()
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	names := []string{"/kept", "/removed1", "/removed2", "/removed3"}
	for _, name := range names {
		if err := client.WriteFile(ctx, name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	open := mustCreate(ctx, t, client, "/open")
	if _, err := open.Append(ctx, data[:1<<20]); err != nil {
		t.Fatal(err)
	}
	kept := handles(ctx, t, client, "/kept")
	if err := c.StopChunkserver(0); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names[1:], "/open") {
		if err := client.RemoveNow(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.StartChunkserver(ctx, 0); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "every other replica is gone", func() bool {
		for i := range 4 {
			for handle := range chunkFiles(t, c, i) {
				if !slices.Contains(kept, handle) {
					return false
				}
			}
		}
		return true
	})
	eventually(ctx, t, "the space counts as free", func() bool {
		info, err := client.StatFS(ctx)
		return err == nil && info.UsedBytes == int64(3*len(data))
	})
	if got, err := client.ReadFile(ctx, "/kept"); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the file that was kept: %d bytes, %v", len(got), err)
	}
}

// A replica that a flipped bit made corrupt is replaced, although the only place for the new one is its own.
func TestACorruptReplicaIsReplacedInItsPlace(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.WithChunkservers(3), clustertest.WithReplicationDelay(time.Second))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	client := c.Client()
	data := bytes.Repeat([]byte("sixteen bytes…\n"), 1<<16)
	if err := client.WriteFile(ctx, "/file", data, 0o644); err != nil {
		t.Fatal(err)
	}
	handle := handles(ctx, t, client, "/file")[0]
	path := chunkFiles(t, c, 0)[handle]
	flip := func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], 70_000); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := f.WriteAt(b[:], 70_000); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	eventually(ctx, t, "a reader meets the bad block, and reads another replica", func() bool {
		got, err := c.Client().ReadFile(ctx, "/file")
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		info, err := client.StatFS(ctx)
		return err == nil && info.Corrupt > 0
	})
	eventually(ctx, t, "there are three good replicas again", func() bool {
		info, err := client.StatFS(ctx)
		return err == nil && info.Corrupt == 0 && info.UnderReplicated == 0
	})
	mended, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(mended, data) {
		t.Fatalf("the replica at %s has %d bytes: %v", path, len(mended), err)
	}
}
