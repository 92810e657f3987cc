package chunkserver_test

import (
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Each server is the primary of a third of more chunks than it has workers, and all are granted at once: primaries that
// wait for members must not keep their servers from being members themselves.
func TestChainsThatCrossAreOpenedTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3)
	const chunks = 216
	versions := make([]gfs.Version, chunks)
	each := func(do func(handle gfs.ChunkHandle, members [3]int, version *gfs.Version)) {
		var wg sync.WaitGroup
		for i := range versions {
			wg.Go(func() { do(gfs.ChunkHandle(i+1), [3]int{i % 3, (i + 1) % 3, (i + 2) % 3}, &versions[i]) })
		}
		wg.Wait()
	}
	each(func(handle gfs.ChunkHandle, members [3]int, version *gfs.Version) {
		for _, i := range members {
			r.create(handle, i)
		}
		*version = r.nextVersion()
		for _, i := range members {
			if _, err := r.prepare(i, handle, *version, 0); err != nil {
				t.Errorf("prepare chunk %s at server %d: %v", handle, i, err)
			}
		}
	})
	began := time.Now()
	each(func(handle gfs.ChunkHandle, members [3]int, version *gfs.Version) {
		if reply, err := r.grant(handle, *version, members[:]...); err != nil || reply.Accused != "" {
			t.Errorf("grant of chunk %s to server %d: %v, accused %q", handle, members[0], err, reply.GetAccused())
		}
	})
	t.Logf("%d chains opened in %v", chunks, time.Since(began).Round(time.Millisecond))
}
