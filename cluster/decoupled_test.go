package cluster_test

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairnfs/cairn/clientlib"
)

const (
	// pushedRecordBytes is long enough to be pushed, and such that hardly a record begins where a block does.
	pushedRecordBytes = 100_003
	// pushedBefore and pushedAfter are how many records are acknowledged before a chunkserver is lost, and then while it is
	// away.
	pushedBefore, pushedAfter = 60, 120
)

// TestPushedDataThroughFaults writes a stream and appends records from several producers, all of whose data are pushed, while
// chunkservers are lost and come back: every acknowledged record is there once, and the replicas are the same.
func TestPushedDataThroughFaults(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	decoupled := clientlib.WithDataPath(clientlib.Decoupled)
	var mu sync.Mutex
	acknowledged := map[string]int64{}
	moved := make(chan struct{}, 1)
	var done atomic.Bool
	var all sync.WaitGroup
	for appender := range writers {
		f := c.open(os.O_APPEND, decoupled)
		all.Go(func() {
			const window = 8
			var pending []*clientlib.Pending
			for i, last := 0, int64(-1); i < len(pending) || !done.Load(); i++ {
				for !done.Load() && len(pending) < i+window {
					pending = append(pending, f.AppendAsync(c.ctx, recordOf(appender, len(pending), pushedRecordBytes)))
				}
				offset, err := pending[i].Wait(c.ctx)
				if err != nil || offset <= last {
					t.Errorf("record %d/%d at offset %d after one at %d: %v", appender, i, offset, last, err)
					return
				}
				last = offset
				mu.Lock()
				acknowledged[fmt.Sprintf("%d/%d", appender, i)] = offset
				mu.Unlock()
				select {
				case moved <- struct{}{}:
				default:
				}
			}
		})
	}
	var stream bytes.Buffer
	file := mustCreate(c.ctx, t, c.Client(decoupled), "/stream")
	all.Go(func() {
		for i := 0; !done.Load() && stream.Len() < 256<<20; i++ {
			piece := filling(i%26, 700_001)
			stream.Write(piece)
			if _, err := file.Write(piece); err != nil {
				t.Error(err)
				return
			}
			if i%50 == 49 { // no faster than records are acknowledged
				if err := file.Sync(c.ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	until := func(records int) {
		t.Helper()
		for more := true; more; {
			select {
			case <-moved:
			case <-c.ctx.Done():
				t.Fatal("no record is acknowledged any more")
			}
			mu.Lock()
			more = len(acknowledged) < records
			mu.Unlock()
		}
	}
	for i := range 2 {
		until((i + 1) * pushedBefore)
		if err := c.StopChunkserver(i); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		n := len(acknowledged)
		mu.Unlock()
		until(n + pushedAfter)
		if err := c.StartChunkserver(c.ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	references := int64(0)
	for _, cs := range c.Chunkservers() {
		references += cs.Metrics().References
	}
	done.Store(true)
	all.Wait()
	if references == 0 {
		t.Error("nothing was pushed")
	}
	c.checkAppends(c.settled(), pushedRecordBytes, acknowledged, nil)
	if got := c.settledAt("/stream"); !bytes.Equal(got, stream.Bytes()) {
		t.Errorf("the stream has %d bytes, %d were written, or others", len(got), stream.Len())
	}
}
