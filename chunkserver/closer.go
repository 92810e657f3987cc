package chunkserver

import (
	"sync"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
)

// closer makes replicas durable and drops their marks, all that wait together with one sync of the disk and one commit
// of the index. It is safe for concurrent use.
type closer struct {
	store *store.Store

	mu      sync.Mutex
	waiting []closeRequest
	running bool
	wg      sync.WaitGroup
}

type closeRequest struct {
	replica *store.Replica
	done    func(error)
}

// close queues a replica that nobody writes to; done is called on the closer's goroutine and must not wait.
func (k *closer) close(replica *store.Replica, done func(error)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting = append(k.waiting, closeRequest{replica, done})
	if !k.running {
		k.running = true
		k.wg.Go(k.run)
	}
}

func (k *closer) run() {
	for {
		k.mu.Lock()
		n := min(len(k.waiting), gfs.MaxCloseBatch)
		if n == 0 {
			k.running = false
			k.mu.Unlock()
			return
		}
		batch := k.waiting[:n:n]
		k.waiting = k.waiting[n:]
		k.mu.Unlock()
		k.closeAll(batch)
	}
}

func (k *closer) closeAll(batch []closeRequest) {
	replicas := make([]*store.Replica, len(batch))
	for i := range batch {
		replicas[i] = batch[i].replica
	}
	err := k.store.SyncAll(replicas)
	if err == nil {
		err = k.store.Unmark(replicas)
	}
	for i := range batch {
		if batch[i].replica.Status().Marked {
			if err == nil {
				err = gfs.Errorf(gfs.CodeConflict, "chunk %s is still marked", batch[i].replica.Handle())
			}
			batch[i].done(err)
		} else {
			batch[i].done(nil)
		}
	}
}

// wait returns when nothing is being closed. Nothing may be queued meanwhile.
func (k *closer) wait() { k.wg.Wait() }
