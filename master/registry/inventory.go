package registry

import (
	"math"
	"slices"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// inventoryPatience is how long a full inventory may take before it is asked for again.
const inventoryPatience = time.Minute

// active reports whether an inventory is arriving.
func (i inventory) active(now time.Time) bool {
	return i.underWay && now.Sub(i.began) < inventoryPatience
}

// lastHandle is the end of a page's range; nothing follows the last page, whatever it says.
func lastHandle(page *pb.InventoryPage) gfs.ChunkHandle {
	if page.GetLast() {
		return math.MaxUint64
	}
	return gfs.ChunkHandle(page.GetLastHandle())
}

// repeats reports whether a page is the one that was recorded last, sent again.
func (i inventory) repeats(page *pb.InventoryPage) bool {
	return i.number == page.GetInventory() && i.page == page.GetPage()+1 && i.next == lastHandle(page)+1
}

// Inventory records one page of a full inventory and reports whether it was the last, so that what the server holds
// is now known. Pages come in order and leave no handle out; a page may be sent again until the next one is; one that does not follow ends the inventory, and the
// next heartbeat's reply asks for another. Errors are CodeInvalid, CodeWrongIncarnation (also for a server whose
// heartbeat was never heard), and CodeConflict for a page out of order.
func (r *Registry) Inventory(page *pb.InventoryPage, now time.Time) (complete bool, err error) {
	if err := checkPage(page); err != nil {
		return false, err
	}
	if page.GetInventory() == 0 {
		return false, gfs.Errorf(gfs.CodeInvalid, "inventory of server %.16s without a number", page.GetServer())
	}
	index, known := r.byID[gfs.ServerID(page.GetServer())]
	if !known {
		return false, gfs.Errorf(gfs.CodeWrongIncarnation, "server %.16s is not known: heartbeats come before inventories", page.GetServer())
	}
	s := r.servers[index]
	if s.incarnation != gfs.Incarnation(page.GetIncarnation()) {
		return false, gfs.Errorf(gfs.CodeWrongIncarnation, "server %s has another incarnation than the page", s.ID)
	}
	if page.GetPage() == 0 {
		s.receiving, s.strange = inventory{number: page.GetInventory(), underWay: true, began: now}, 0
	}
	want := s.receiving
	first := gfs.ChunkHandle(page.GetFirstHandle())
	if want.repeats(page) {
		return page.GetLast(), nil // its acknowledgement was lost
	}
	if !want.underWay || want.number != page.GetInventory() || want.page != page.GetPage() || first > max(want.next, 1) {
		s.receiving, s.wanted = inventory{}, true
		return false, gfs.Errorf(gfs.CodeConflict, "inventory %d of server %s: page %d from chunk %s does not follow; begin again",
			page.GetInventory(), s.ID, page.GetPage(), first)
	}
	last := lastHandle(page)
	r.applyPage(s, page, last)
	s.receiving.page++
	s.receiving.next = last + 1
	if !page.GetLast() {
		return false, nil
	}
	s.receiving.underWay, s.wanted, s.inventoried = false, false, true
	return true, nil
}

// applyPage makes the page what is known of the server's replicas from the page's first handle to last.
func (r *Registry) applyPage(s *server, page *pb.InventoryPage, last gfs.ChunkHandle) {
	index := r.byID[s.ID]
	statuses := page.GetReplicas()
	var gone []gfs.ChunkHandle
	for handle := range r.locations.held(index, gfs.ChunkHandle(page.GetFirstHandle()), last) {
		_, listed := slices.BinarySearchFunc(statuses, uint64(handle), func(status *pb.ReplicaStatus, h uint64) int {
			switch {
			case status.GetHandle() < h:
				return -1
			case status.GetHandle() > h:
				return 1
			}
			return 0
		})
		if !listed && !r.noted(handle) {
			gone = append(gone, handle)
		}
	}
	for _, handle := range gone {
		r.locations.remove(handle, index)
	}
	for _, status := range statuses {
		r.applyStatus(index, status)
	}
}

func (r *Registry) applyStatus(index uint16, status *pb.ReplicaStatus) {
	handle := gfs.ChunkHandle(status.GetHandle())
	if handle >= r.limit {
		r.strange++
		r.servers[index].strange++
		return
	}
	told := entry{
		server: index, promised: gfs.Version(status.GetPromised()), active: gfs.Version(status.GetActive()),
		length: uint32(status.GetLength()), state: gfs.ReplicaState(status.GetState()), marked: status.GetMarked(),
	}
	if r.noted(handle) {
		known, here := r.locations.get(handle, index)
		if here && (told.promised < known.promised || told.promised == known.promised && told.active < known.active) {
			return // older than what an order's answer said
		}
	}
	r.locations.set(handle, told)
}

// checkPage checks what no chunkserver sends. The error is CodeInvalid.
func checkPage(page *pb.InventoryPage) error {
	statuses := page.GetReplicas()
	first, last := page.GetFirstHandle(), page.GetLastHandle()
	if len(statuses) > gfs.InventoryPageEntries {
		return gfs.Errorf(gfs.CodeInvalid, "inventory page of %d replicas: at most %d are allowed", len(statuses), gfs.InventoryPageEntries)
	}
	if first > last {
		return gfs.Errorf(gfs.CodeInvalid, "inventory page of chunks %016x to %016x: the first is beyond the last", first, last)
	}
	before := uint64(0)
	for _, status := range statuses {
		handle := status.GetHandle()
		state := gfs.ReplicaState(status.GetState())
		switch {
		case handle < first || handle > last || handle <= before:
			return gfs.Errorf(gfs.CodeInvalid, "inventory page of chunks %016x to %016x names chunk %016x after %016x", first, last, handle, before)
		case status.GetLength() < 0 || status.GetLength() > gfs.ChunkSize:
			return gfs.Errorf(gfs.CodeInvalid, "replica of chunk %016x has %d bytes: want 0 to %d", handle, status.GetLength(), gfs.ChunkSize)
		case state < gfs.ReplicaMember || state > gfs.ReplicaCorrupt:
			return gfs.Errorf(gfs.CodeInvalid, "replica of chunk %016x is in %s", handle, state)
		}
		before = handle
	}
	return nil
}
