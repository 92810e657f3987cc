package cluster_test

import (
	"context"
	"io"
	"runtime"
	"testing"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// Allocations of all roles together, for each MiB of a stream: its bytes are in buffers that are used again, and what
// else is allocated is for its pieces, not for its bytes. A fresh buffer for every piece at one of the three replicas, at
// the client or at the reader would be 1 MiB. Not all buffers are there when counting begins, the garbage collector and
// the race detector take some, and heartbeats and metrics allocate meanwhile: hence three quarters of that.
const (
	mostBytesAMiB  = 768 << 10
	mostNumberAMiB = 400
)

func TestStreamsAllocateLittle(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const warm, measured, call = 32, 96, 1 << 20 // the first two in MiB
	data := make([]byte, call)
	written := func(what, name string, client *clientlib.Client) {
		f := mustCreate(ctx, t, client, name)
		write := func(n int) {
			for range n {
				if _, err := f.Write(data); err != nil {
					t.Fatal(err)
				}
			}
		}
		write(warm)
		check(t, what, measured, func() { write(measured) })
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	client := c.Client()
	written("written", "/stream", client)
	written("pushed", "/pushed", c.Client(clientlib.WithDataPath(clientlib.Decoupled)))

	f, err := client.Open(ctx, "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(n int) {
		for range n {
			if _, err := io.ReadFull(f, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(warm)
	check(t, "read", measured, func() { read(measured) })
}

// check holds what work allocates in this process, which is the whole cluster, to the bound for n MiB.
func check(t *testing.T, what string, n uint64, work func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	bytes, number := (after.TotalAlloc-before.TotalAlloc)/n, (after.Mallocs-before.Mallocs)/n
	t.Logf("%d bytes in %d allocations for each MiB %s", bytes, number, what)
	if bytes > mostBytesAMiB || number > mostNumberAMiB {
		t.Errorf("%d bytes in %d allocations for each MiB %s, at most %d in %d", bytes, number, what, mostBytesAMiB, mostNumberAMiB)
	}
}
