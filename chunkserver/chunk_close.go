package chunkserver

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// closeTimeout is what the members below have to close a chunk; then its primary asks for a new version.
const closeTimeout = 10 * time.Second

// closing is the end of a version by agreement: every member compares, syncs and unmarks its replica, and answers its
// predecessor; the primary then tells the master. Once begun, the version takes no mutation again, whatever comes of it.
type closing struct {
	since     time.Time
	unmarking bool // under way or done: cannot be taken back
	unmarked  bool
	below     bool // everyone below has closed, or nobody is below
	length    int64
}

// onCloseOrder has the primary close its chunk, though it may not be idle: it takes nothing new, and closes once what is
// pending is answered.
func (c *chunk) onCloseOrder(version gfs.Version, reply actors.Reply[*pb.OrderReply]) {
	if c.role != primary || c.version != version || c.complaint != nil {
		reply.Fail(gfs.Errorf(gfs.CodeConflict, "chunkserver %s is not the primary of chunk %s in version %s, or asks for another", c.cs.ID(), c.handle, version))
		return
	}
	reply.Ok(&pb.OrderReply{})
	c.sealed = true
	c.closeSealed()
	c.wake(livelyPulse)
}

// closeSealed begins an ordered close as soon as nothing stands against it.
func (c *chunk) closeSealed() {
	if c.sealed && !c.busy && c.closing == nil && c.complaint == nil && c.order != nil && c.order.Quiet() {
		c.beginClose()
	}
}

// beginClose closes a chunk of which this server is the idle primary.
func (c *chunk) beginClose() {
	c.queue(func() {
		if c.role != primary || c.order == nil || !c.order.Quiet() || c.complaint != nil {
			c.finish()
			return
		}
		c.endOrder(nil)
		c.entry.primaryIn.Store(0)
		k := &closing{since: c.cs.now(), below: c.pipe.down == nil}
		c.closing = k
		c.log.WithField("version", c.version.String()).Debug("closing")
		c.workOn(k, func(replica *store.Replica) (*pb.ChainClose, error) {
			digest, err := replica.Digest()
			sum := digest.Sum()
			return &pb.ChainClose{Length: digest.Length, Digest: sum[:]}, err
		}, func(request *pb.ChainClose) {
			k.length = request.Length
			if !k.below {
				c.pipe.put(pipelineItem{close: request})
			}
			c.unmark(k)
		})
	}, func(error) {})
}

// workOn does slow work of a closing, and goes on with what it found unless the closing failed.
func (c *chunk) workOn(k *closing, slow func(*store.Replica) (*pb.ChainClose, error), then func(*pb.ChainClose)) {
	replica := c.pipe.replica
	var request *pb.ChainClose
	c.work(c.cs.disk, func(context.Context) (err error) {
		request, err = slow(replica)
		return err
	}, func(err error) {
		switch {
		case c.closing != k:
		case err != nil:
			c.failClosing(err)
		default:
			then(request)
		}
	})
}

// onCloseFromAbove closes this member's replica and those below.
func (c *chunk) onCloseFromAbove(request *pb.ChainClose) {
	if c.role != secondary || c.closing != nil {
		return
	}
	if c.follow.Owes() {
		c.up.Closed(gfs.Errorf(gfs.CodeConflict, "chunk %s has mutations that are not applied everywhere", c.handle))
		return
	}
	c.follow.Freeze()
	c.queue(func() {
		if c.role != secondary || c.pipe == nil {
			c.finish()
			return
		}
		k := &closing{since: c.cs.now(), below: c.pipe.down == nil, length: request.Length}
		c.closing = k
		if !k.below {
			c.pipe.put(pipelineItem{close: request})
		}
		c.workOn(k, func(replica *store.Replica) (*pb.ChainClose, error) {
			digest, err := replica.Digest()
			if sum := digest.Sum(); err == nil && !bytes.Equal(sum[:], request.Digest) {
				err = gfs.Errorf(gfs.CodeConflict, "chunkserver %s differs from the primary in chunk %s", c.cs.ID(), c.handle)
			}
			return request, err
		}, func(*pb.ChainClose) { c.unmark(k) })
	}, c.up.Closed)
}

// unmark makes the replica durable and closes it.
func (c *chunk) unmark(k *closing) {
	k.unmarking = true
	c.pipe.replica.SetCommit(k.length)
	c.cs.closer.close(c.pipe.replica, func(err error) {
		c.send(func(c *chunk) {
			if c.closing != k {
				c.finish() // given up meanwhile, but for this
				return
			}
			k.unmarking = false
			if err != nil {
				c.failClosing(err)
				return
			}
			k.unmarked = true
			c.closed(k)
		})
	})
}

func (c *chunk) onClosedBelow(err error) {
	k := c.closing
	switch {
	case k == nil:
	case err != nil:
		c.failClosing(err)
	default:
		k.below = true
		c.closed(k)
	}
}

// closed ends the closing when this replica and everyone below is closed.
func (c *chunk) closed(k *closing) {
	if !k.unmarked || !k.below {
		return
	}
	wasPrimary, version := c.role == primary, c.version
	if !wasPrimary {
		c.up.Closed(nil)
		c.up = nil // the predecessor ends the stream
	}
	c.endClosing()
	c.freeze()
	if wasPrimary {
		c.cs.recordClose(&pb.CloseRequest{
			Handle: uint64(c.handle), Version: uint64(version), Length: k.length, Server: string(c.cs.ID()),
		})
	}
}

// failClosing gives up: only a new version can bring the members to agree.
func (c *chunk) failClosing(err error) {
	c.log.WithError(err).WithField("version", c.version.String()).Warn("chunk not closed")
	wasPrimary := c.role == primary
	if !wasPrimary && c.up != nil {
		c.up.Closed(err)
		c.up = nil
	}
	c.endClosing()
	c.freeze()
	if wasPrimary {
		c.complainAbout("", pb.Report_RENEW, "close: "+err.Error())
	}
}

// endClosing lets the next order begin, at once or, while the replica is being unmarked, after that.
func (c *chunk) endClosing() {
	k := c.closing
	c.closing = nil
	if !k.unmarking {
		c.finish()
	}
}

// closingPulse bounds the wait for the members below.
func (c *chunk) closingPulse(now time.Time) {
	if now.Sub(c.closing.since) > closeTimeout {
		c.failClosing(gfs.Errorf(gfs.CodeUnavailable, "chunkserver %s has not closed chunk %s within %s", c.successor(), c.handle, closeTimeout))
	}
}

// closer makes replicas durable and drops their marks, all that wait together with one commit of the index. It is safe
// for concurrent use.
type closer struct {
	store *store.Store

	mu      sync.Mutex
	waiting []closeRequest
	running bool
	around  Runtime
}

// maxSyncedAlone is how many replicas are synced one by one; above it, one sync of each disk costs less.
const maxSyncedAlone = 8

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
		k.around.Go(k.run)
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
	err := k.sync(replicas)
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

// sync makes replicas durable: a few one by one, since one sync of the whole disk would also write what is being
// mutated at the moment, and delay that; many together.
func (k *closer) sync(replicas []*store.Replica) error {
	if len(replicas) > maxSyncedAlone {
		return k.store.SyncAll(replicas)
	}
	for _, r := range replicas {
		if err := r.DiscardBeyondLength(); err != nil { // the space that was reserved
			return err
		}
		if err := r.Sync(); err != nil {
			return err
		}
	}
	return nil
}
