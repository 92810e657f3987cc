package cluster_test

import (
	"context"
	"testing"

	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

// TestLocationsTellHolesFromData writes behind the end, into the third chunk.
func TestLocationsTellHolesFromData(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	f := mustCreate(ctx, t, client, "/dir-less")
	for _, at := range []int64{0, 2 * gfs.ChunkSize} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	locations, err := client.Locations(ctx, "/dir-less", 0, gfs.MaxFileBytes)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{4, 0, 4} {
		if len(locations) != 3 || locations[i].Length != want || locations[i].Offset != int64(i)*gfs.ChunkSize || len(locations[i].Servers) != 3 {
			t.Fatalf("locations %+v, of which chunk %d should hold %d bytes", locations, i, want)
		}
	}
	info, err := f.Stat(ctx)
	if err != nil || info.Name() != "dir-less" || info.Size() != 2*gfs.ChunkSize+4 {
		t.Errorf("status %v, %v", info, err)
	}
}
