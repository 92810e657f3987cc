package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// waitWhole waits until every chunk of a file has as many good replicas as the file wants.
func waitWhole(ctx context.Context, t *testing.T, client *clientlib.Client, path string, replicas int) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		missing := -1
		info, err := client.Stat(ctx, path)
		if err == nil {
			var locations []clientlib.ChunkLocation
			if locations, err = client.Locations(ctx, path, 0, max(info.Size(), 1)); err == nil {
				missing = 0
				for _, l := range locations {
					missing += max(0, replicas-len(l.Servers))
				}
			}
		}
		if missing == 0 {
			if fs, err := client.StatFS(ctx); err == nil && fs.UnderReplicated == 0 {
				return
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("%d replicas of %s are missing (%v)", missing, path, err)
		}
	}
}

// An open file survives the loss of each chunkserver in turn: who comes back is brought up to date.
func TestAnOpenFileSurvivesTheLossOfEachChunkserver(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	client := c.Client()
	f := mustCreate(ctx, t, client, "/log")
	w := record.NewWriter(f)
	n := 0
	appendSome := func() {
		t.Helper()
		for range 50 {
			if _, err := w.Append(ctx, append(fmt.Appendf(nil, "%d ", n), bytes.Repeat([]byte("x"), 4000)...)); err != nil {
				t.Fatalf("record %d: %v", n, err)
			}
			n++
		}
	}
	appendSome()
	for i := range 4 {
		if err := c.StopChunkserver(i); err != nil {
			t.Fatal(err)
		}
		appendSome()
		if err := c.StartChunkserver(ctx, i); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		waitWhole(ctx, t, client, "/log", 3)
		t.Logf("chunkserver %d: whole again after %v", i, time.Since(began).Round(time.Millisecond))
	}
	want := 0
	for r, err := range record.NewReader(f).Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(r.Payload, fmt.Appendf(nil, "%d ", want)) {
			t.Fatalf("record %d is %.20q", want, r.Payload)
		}
		want++
	}
	if want != n {
		t.Errorf("%d records of %d", want, n)
	}
}
