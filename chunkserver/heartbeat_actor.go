package chunkserver

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// heartbeat is the shell of the actor that tells the masters of this server: that it is alive, what leases it holds,
// and what replicas it has.
type heartbeat struct {
	cs   *Chunkserver
	self actors.Ref[*heartbeat]

	sequence  uint64
	next      gfs.ChunkHandle // where the next slice of the inventory begins
	beating   bool            // a heartbeat is being put together or waits for its answer
	inventory uint64          // number of the last full inventory begun
	acked     uint64          // number of the last full inventory that a master acknowledged
	sending   bool            // a full inventory is under way
	measured  time.Time
	swept     time.Time
	tidied    bool // what the process before left half made was looked for
	timer     *actors.Timer
}

// Stopped ends the heartbeats.
func (h *heartbeat) Stopped() { h.timer.Stop() }

const (
	// sliceEntries is how many replicas a heartbeat states: a million are audited in an hour.
	sliceEntries = 256
	// inventoryTimeout is what a master has to acknowledge one page.
	inventoryTimeout = 5 * time.Second
	// inventoryTries is how often a page is sent before the inventory is given up, until the master asks again.
	inventoryTries = 3
	// trashTime is how long the files of deleted replicas are kept, unless less than 1/scarceSpace of the capacity is
	// free; sweepInterval is the pause between looks.
	trashTime     = 24 * time.Hour
	scarceSpace   = 20
	sweepInterval = time.Minute
)

// beat is sent each second.
func (h *heartbeat) beat() {
	h.timer = actors.After(h.self, gfs.HeartbeatInterval, actors.Func[*heartbeat]((*heartbeat).beat))
	now := h.cs.now()
	if now.Sub(h.measured) >= gfs.MetricsInterval {
		h.measured = now
		h.cs.network.Go(h.cs.publishMetrics)
	}
	if now.Sub(h.swept) >= sweepInterval {
		h.swept = now
		h.cs.disk.Go(h.cs.sweepTrash)
		if !h.tidied {
			h.tidied = h.cs.disk.Go(h.cs.sweepLeftovers)
		}
	}
	if h.beating {
		return // the disk or the master is slow: one at a time
	}
	h.sequence++
	message := &pb.Heartbeat{
		Server: h.cs.self, Incarnation: uint64(h.cs.cfg.Incarnation), Sequence: h.sequence, InventorySequence: h.acked,
	}
	from := h.next
	h.beating = h.cs.disk.Go(func() {
		h.cs.fillHeartbeat(message, from)
		h.self.Send(actors.Func[*heartbeat](func(h *heartbeat) { h.publish(message) }))
	})
}

// fillHeartbeat is the slow part of a heartbeat.
func (cs *Chunkserver) fillHeartbeat(message *pb.Heartbeat, from gfs.ChunkHandle) {
	message.Epoch = uint32(cs.store.Epoch())
	message.CapacityBytes, message.UsedBytes, message.FreeBytes = cs.store.Space()
	message.Chunks = uint64(cs.store.Len())
	message.Leases = cs.leases.heartbeat()
	message.MutationsInFlight = uint32(cs.server.InFlight())
	message.Slice = cs.inventoryPage(from, sliceEntries)
}

// sweepSoon makes the next heartbeat look for trash to unlink.
func (h *heartbeat) sweepSoon() { h.swept = time.Time{} }

// stateSoon makes the next heartbeat's slice begin at a chunk of which the master should hear soon.
func stateSoon(handle gfs.ChunkHandle) actors.Func[*heartbeat] {
	return func(h *heartbeat) { h.next = handle }
}

// sweepTrash unlinks the files of replicas that were deleted long ago, or all of them when space is scarce.
func (cs *Chunkserver) sweepTrash() {
	before := cs.now()
	if capacity, _, free := cs.store.Space(); free >= capacity/scarceSpace {
		before = before.Add(-trashTime)
	}
	freed, err := cs.store.Sweep(before)
	if err != nil {
		cs.log.WithError(err).Warn("trash not swept")
	} else if freed > 0 {
		cs.log.WithField("bytes", freed).Info("trash swept")
	}
}

// sweepLeftovers moves aside what the process before left half made.
func (cs *Chunkserver) sweepLeftovers() {
	n, err := cs.store.SweepLeftovers()
	if err != nil {
		cs.log.WithError(err).Warn("leftovers not swept")
	} else if n > 0 {
		cs.log.WithField("replicas", n).Info("leftovers swept")
	}
}

// inventoryPage states the replicas from a handle on.
func (cs *Chunkserver) inventoryPage(from gfs.ChunkHandle, limit int) *pb.InventoryPage {
	page := &pb.InventoryPage{
		Server: string(cs.ID()), Incarnation: uint64(cs.cfg.Incarnation), FirstHandle: uint64(from), LastHandle: math.MaxUint64,
	}
	statuses := cs.store.Statuses(from, limit)
	page.Replicas = make([]*pb.ReplicaStatus, len(statuses))
	for i, s := range statuses {
		page.Replicas[i] = describeReplica(s)
	}
	if page.Last = len(statuses) < limit; !page.Last {
		page.LastHandle = uint64(statuses[len(statuses)-1].Handle)
	}
	return page
}

func describeReplica(s store.Status) *pb.ReplicaStatus {
	return &pb.ReplicaStatus{
		Handle: uint64(s.Handle), Promised: uint64(s.Promised), Active: uint64(s.Active), Length: s.Length,
		State: uint32(s.State), Marked: s.Marked,
	}
}

// publish sends a heartbeat to all masters; the acting one answers.
func (h *heartbeat) publish(message *pb.Heartbeat) {
	if h.next == gfs.ChunkHandle(message.Slice.FirstHandle) { // nobody asked for another place meanwhile
		if h.next = gfs.ChunkHandle(message.Slice.LastHandle) + 1; message.Slice.Last {
			h.next = 0
		}
	}
	h.cs.around.AskAsync(bus.Call{
		Subject: h.cs.subjects.Heartbeat(h.cs.ID()), Request: message, Total: gfs.HeartbeatInterval,
	}, func(answer bus.Answer) (done bool) {
		var reply pb.HeartbeatReply
		err := answer.Decode(&reply)
		h.self.Send(actors.Func[*heartbeat](func(h *heartbeat) { h.onReply(&reply, err) }))
		return true
	})
}

func (h *heartbeat) onReply(reply *pb.HeartbeatReply, err error) {
	h.beating = false
	if err != nil {
		h.cs.log.WithError(err).Debug("heartbeat not answered")
		return
	}
	switch epoch := gfs.Epoch(reply.Epoch); {
	case epoch < h.cs.store.Epoch():
		return // a master that another has replaced
	case epoch > h.cs.store.Epoch():
		h.cs.disk.Go(func() {
			if err := h.cs.store.RaiseEpoch(epoch); err != nil && gfs.CodeOf(err) != gfs.CodeStaleEpoch {
				h.cs.log.WithError(err).Error("epoch not persisted")
			}
		})
	}
	h.cs.heardMaster()
	if reply.SendInventory {
		h.sendInventory()
	}
}

// sendInventory begins a full inventory unless one is under way.
func (h *heartbeat) sendInventory() {
	if h.sending {
		return
	}
	h.inventory++
	number := h.inventory
	h.sending = h.cs.network.Go(func() {
		err := h.cs.sendInventory(h.cs.ctx, number)
		h.self.Send(actors.Func[*heartbeat](func(h *heartbeat) {
			h.sending = false
			if err != nil {
				h.cs.log.WithError(err).Warn("inventory not acknowledged")
				return
			}
			h.acked = number
		}))
	})
}

func (cs *Chunkserver) sendInventory(ctx context.Context, number uint64) error {
	from := gfs.ChunkHandle(0)
	for n := uint32(0); ; n++ {
		page := cs.inventoryPage(from, gfs.InventoryPageEntries)
		page.Inventory, page.Page = number, n
		if err := cs.sendPage(ctx, page); err != nil {
			return err
		}
		if page.Last {
			cs.log.WithFields(logrus.Fields{"inventory": number, "pages": n + 1}).Debug("inventory sent")
			return nil
		}
		from = gfs.ChunkHandle(page.LastHandle) + 1
	}
}

func (cs *Chunkserver) sendPage(ctx context.Context, page *pb.InventoryPage) (err error) {
	for range inventoryTries {
		bounded, cancel := cs.around.WithTimeout(ctx, inventoryTimeout)
		var ack pb.InventoryAck
		err = cs.around.Ask(bounded, cs.subjects.Master(messages.OpInventory), page, &ack)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// leaseBook is the leases that this server holds as primary, for heartbeats. It is safe for concurrent use.
type leaseBook struct {
	mu   sync.Mutex
	held map[gfs.ChunkHandle]*heldLease
}

// heldLease is one lease. mutated says whether the chunk was mutated since the last heartbeat; its actor sets it.
type heldLease struct {
	version gfs.Version
	members []string
	mutated atomic.Bool
	length  atomic.Int64
}

// hold notes a lease and returns it, for its chunk's actor to keep up to date.
func (b *leaseBook) hold(handle gfs.ChunkHandle, version gfs.Version, members []*pb.Server, length int64) *heldLease {
	l := &heldLease{version: version}
	for _, m := range members {
		l.members = append(l.members, m.Id)
	}
	l.mutated.Store(true)
	l.length.Store(length)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		b.held = make(map[gfs.ChunkHandle]*heldLease)
	}
	b.held[handle] = l
	return l
}

// drop forgets the lease of a chunk, if it is held.
func (b *leaseBook) drop(handle gfs.ChunkHandle) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, handle)
}

// heartbeat is every lease held, by rising handle. Mutations from now on count for the next one.
func (b *leaseBook) heartbeat() []*pb.HeldLease {
	b.mu.Lock()
	held := maps.Clone(b.held)
	b.mu.Unlock()
	leases := make([]*pb.HeldLease, 0, len(held))
	for handle, l := range held {
		leases = append(leases, &pb.HeldLease{
			Handle: uint64(handle), Version: uint64(l.version), Extend: l.mutated.Swap(false), Length: l.length.Load(), Members: l.members,
		})
	}
	slices.SortFunc(leases, func(a, b *pb.HeldLease) int { return cmp.Compare(a.Handle, b.Handle) })
	return leases
}

// len is the number of leases held.
func (b *leaseBook) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held)
}
