package registry

import (
	"iter"
	"maps"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// pageSize is the number of handles that share a page: a page is 6 KiB.
const pageSize = 256

// slotServers is the number of replicas that a slot holds in place. One more is in the overflow.
const slotServers = 4

// maxChunkReplicas bounds what is kept of one handle: members, learners and leftovers of earlier configurations.
const maxChunkReplicas = 32

// slot is what is known of one chunk: the content that most of its replicas have, and who has it. Server indexes
// are kept plus one, so that zero means none. version is active and promised at once.
type slot struct {
	version gfs.Version
	length  uint32
	state   uint8
	marked  bool
	servers [slotServers]uint16
}

type page struct {
	used  int // slots that hold a replica or have an overflow
	slots [pageSize]slot
}

// entry is one replica in full.
type entry struct {
	server   uint16 // index
	promised gfs.Version
	active   gfs.Version
	length   uint32
	state    gfs.ReplicaState
	marked   bool
}

// like reports whether a slot's common content can stand for e.
func (e entry) like(s *slot) bool {
	return e.promised == e.active && e.active == s.version && e.length == s.length && uint8(e.state) == s.state && e.marked == s.marked
}

// locations maps handles to replicas. The zero value is not usable.
type locations struct {
	pages    map[uint64]*page
	overflow map[gfs.ChunkHandle][]entry
	count    int      // replicas
	numbers  []uint64 // of the pages, ascending; nil when it has to be made anew
}

func newLocations() locations {
	return locations{pages: map[uint64]*page{}, overflow: map[gfs.ChunkHandle][]entry{}}
}

func split(handle gfs.ChunkHandle) (pageNumber uint64, index int) {
	return uint64(handle) / pageSize, int(uint64(handle) % pageSize)
}

// appendEntries adds the replicas of handle to into and returns it.
func (l *locations) appendEntries(into []entry, handle gfs.ChunkHandle) []entry {
	number, index := split(handle)
	p := l.pages[number]
	if p == nil {
		return into
	}
	s := &p.slots[index]
	for _, server := range s.servers {
		if server != 0 {
			into = append(into, entry{
				server: server - 1, promised: s.version, active: s.version, length: s.length,
				state: gfs.ReplicaState(s.state), marked: s.marked,
			})
		}
	}
	if len(l.overflow) == 0 {
		return into
	}
	return append(into, l.overflow[handle]...)
}

// replace makes entries all that is known of handle. entries is reordered and not kept.
func (l *locations) replace(handle gfs.ChunkHandle, entries []entry) {
	number, index := split(handle)
	p := l.pages[number]
	if p == nil {
		if len(entries) == 0 {
			return
		}
		p = &page{}
		l.pages[number], l.numbers = p, nil
	}
	s := &p.slots[index]
	before := l.size(handle, s)
	common := commonest(entries)
	*s = slot{}
	if common >= 0 {
		c := entries[common]
		*s = slot{version: c.active, length: c.length, state: uint8(c.state), marked: c.marked}
	}
	var rest []entry
	placed := 0
	for _, e := range entries {
		if common >= 0 && placed < slotServers && e.like(s) {
			s.servers[placed] = e.server + 1
			placed++
		} else {
			rest = append(rest, e)
		}
	}
	if len(rest) > 0 {
		l.overflow[handle] = rest
	} else {
		delete(l.overflow, handle)
	}
	l.count += len(entries) - before
	switch {
	case before == 0 && len(entries) > 0:
		p.used++
	case before > 0 && len(entries) == 0:
		p.used--
		if p.used == 0 {
			delete(l.pages, number)
			l.numbers = nil
		}
	}
}

func (l *locations) size(handle gfs.ChunkHandle, s *slot) int {
	n := 0
	for _, server := range s.servers {
		if server != 0 {
			n++
		}
	}
	return n + len(l.overflow[handle])
}

// commonest is the index of an entry that the most others equal, -1 when none can be held in place (one whose
// promised and active versions differ never can).
func commonest(entries []entry) int {
	best, bestCount := -1, 0
	for i, e := range entries {
		if e.promised != e.active {
			continue
		}
		n := 0
		for _, other := range entries {
			other.server = e.server
			if other == e {
				n++
			}
		}
		if n > bestCount {
			best, bestCount = i, n
		}
	}
	return best
}

// set records one replica, whatever was known of it before. It reports false when the handle has too many.
func (l *locations) set(handle gfs.ChunkHandle, e entry) bool {
	var buffer [8]entry
	entries := l.appendEntries(buffer[:0], handle)
	if i := slices.IndexFunc(entries, func(x entry) bool { return x.server == e.server }); i >= 0 {
		if entries[i] == e {
			return true
		}
		entries[i] = e
	} else if len(entries) >= maxChunkReplicas {
		return false
	} else {
		entries = append(entries, e)
	}
	l.replace(handle, entries)
	return true
}

// from lists the numbers of the pages from one on, in order. It is valid until the locations change.
func (l *locations) from(number uint64) []uint64 {
	if l.numbers == nil {
		l.numbers = slices.Sorted(maps.Keys(l.pages))
	}
	first, _ := slices.BinarySearch(l.numbers, number)
	return l.numbers[first:]
}

// get finds the replica of handle at a server.
func (l *locations) get(handle gfs.ChunkHandle, server uint16) (entry, bool) {
	var buffer [8]entry
	for _, e := range l.appendEntries(buffer[:0], handle) {
		if e.server == server {
			return e, true
		}
	}
	return entry{}, false
}

// remove forgets the replica of handle at a server.
func (l *locations) remove(handle gfs.ChunkHandle, server uint16) {
	var buffer [8]entry
	entries := l.appendEntries(buffer[:0], handle)
	if i := slices.IndexFunc(entries, func(x entry) bool { return x.server == server }); i >= 0 {
		l.replace(handle, slices.Delete(entries, i, i+1))
	}
}

// held lists the handles in [first, last] of which the server is known to have a replica, in no order. The
// locations must not change while it runs.
func (l *locations) held(server uint16, first, last gfs.ChunkHandle) iter.Seq[gfs.ChunkHandle] {
	return func(yield func(gfs.ChunkHandle) bool) {
		firstPage, _ := split(first)
		lastPage, _ := split(last)
		if lastPage-firstPage < uint64(len(l.pages)) {
			for number := firstPage; ; number++ { // not "<= lastPage": that may be the greatest number there is
				if p := l.pages[number]; p != nil && !l.heldInPage(p, number, server, first, last, yield) {
					return
				}
				if number == lastPage {
					return
				}
			}
		}
		for number, p := range l.pages {
			if number >= firstPage && number <= lastPage && !l.heldInPage(p, number, server, first, last, yield) {
				return
			}
		}
	}
}

func (l *locations) heldInPage(p *page, number uint64, server uint16, first, last gfs.ChunkHandle, yield func(gfs.ChunkHandle) bool) bool {
	for i := range p.slots {
		handle := gfs.ChunkHandle(number*pageSize + uint64(i))
		if handle < first || handle > last {
			continue
		}
		here := slices.Contains(p.slots[i].servers[:], server+1)
		if !here && len(l.overflow) > 0 {
			here = slices.ContainsFunc(l.overflow[handle], func(e entry) bool { return e.server == server })
		}
		if here && !yield(handle) {
			return false
		}
	}
	return true
}
