package dataplane

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/wire"
)

// pushKey names pushed data. The zero key names none.
type pushKey struct{ session, counter uint64 }

// none reports whether the key names no data.
func (k pushKey) none() bool { return k.session == 0 }

// PushLimits say what a server may keep of pushed data. A field that is 0 is the constant of package gfs.
type PushLimits struct {
	// PositionBytes bounds what waits at one position in a chain: gfs.MaxPositionBytes.
	PositionBytes int
	// Patience is how long data wait for room: gfs.PushPatience. If it is negative they do not wait.
	Patience time.Duration
	// Lifetime is how long data wait for their mutation: gfs.PushLifetime.
	Lifetime time.Duration
}

// pushStore keeps pushed data: those that wait for their mutation, which are bounded for each position in a chain, and
// those that a mutation uses, which are bounded as its other data are. It is safe for concurrent use.
type pushStore struct {
	limits    PushLimits // none of them 0
	positions [gfs.MaxReplicas]*window

	mu   sync.Mutex
	kept map[pushKey]*pushed
}

// pushed is data in a pushStore. Every holder releases them once.
type pushed struct {
	store    *pushStore
	key      pushKey
	position int
	buffer   *Buffer
	offset   int64 // within a block, where the data begin
	sums     []uint32
	room     [9]uint32 // for the checksums of a stream's piece
	came     time.Time

	holders int  // guarded by the store's lock, as is claimed
	claimed bool // a mutation uses the data: they wait no longer
}

func newPushStore(limits PushLimits) *pushStore {
	limits.PositionBytes = cmp.Or(limits.PositionBytes, gfs.MaxPositionBytes)
	limits.Patience = cmp.Or(limits.Patience, gfs.PushPatience)
	limits.Lifetime = cmp.Or(limits.Lifetime, gfs.PushLifetime)
	s := &pushStore{limits: limits, kept: make(map[pushKey]*pushed)}
	for i := range s.positions {
		s.positions[i] = newWindow(limits.PositionBytes/gfs.SmallMutationBytes, limits.PositionBytes)
	}
	return s
}

// admit takes room for n bytes at a position. It waits for the limits' Patience at most; false means that there is none.
func (s *pushStore) admit(position, n int) bool {
	return s.positions[position].takeWithin(n, s.limits.Patience)
}

// refund gives back the room of data that never got into the store.
func (s *pushStore) refund(position, n int) { s.positions[position].put(n) }

// put takes over p, with the room that was taken for it. The error, gfs.CodeConflict, is about a name that was used
// before; then p stays the caller's.
func (s *pushStore) put(p *pushed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[p.key] != nil {
		return gfs.Errorf(gfs.CodeConflict, "push %d of session %016x is here already", p.key.counter, p.key.session)
	}
	p.store, p.holders = s, 1
	s.kept[p.key] = p
	return nil
}

// claim gives waiting data to a mutation, with a number of holders; nil if none of that name wait. They can be borrowed
// until the last holder has released them.
func (s *pushStore) claim(key pushKey, holders int) *pushed {
	s.mu.Lock()
	p := s.kept[key]
	if p == nil || p.claimed {
		s.mu.Unlock()
		return nil
	}
	p.claimed, p.holders = true, p.holders-1+holders
	s.mu.Unlock()
	s.positions[p.position].put(len(p.buffer.Data))
	return p
}

// borrow adds a holder to data that are here, whether they wait or are used; nil if there are none.
func (s *pushStore) borrow(key pushKey) *pushed {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.kept[key]
	if p != nil {
		p.holders++
	}
	return p
}

// withdraw drops waiting data.
func (s *pushStore) withdraw(key pushKey) {
	if p := s.claim(key, 1); p != nil {
		p.release(1)
	}
}

// sweep drops what has waited for longer than the limits' Lifetime. It returns how many that were.
func (s *pushStore) sweep(now time.Time) int {
	limit := now.Add(-s.limits.Lifetime)
	s.mu.Lock()
	var old []pushKey
	for key, p := range s.kept {
		if !p.claimed && p.came.Before(limit) {
			old = append(old, key)
		}
	}
	s.mu.Unlock()
	for _, key := range old {
		s.withdraw(key)
	}
	return len(old)
}

// held is how many pushes are here, and how many bytes of them wait for their mutation or are about to.
func (s *pushStore) held() (pushes, waiting int) {
	s.mu.Lock()
	pushes = len(s.kept)
	s.mu.Unlock()
	for _, w := range s.positions {
		waiting += w.bytesInUse()
	}
	return pushes, waiting
}

// close lets nobody wait any longer.
func (s *pushStore) close() {
	for _, w := range s.positions {
		w.close()
	}
}

// release ends a number of holds.
func (p *pushed) release(holds int) {
	s := p.store
	s.mu.Lock()
	defer s.mu.Unlock()
	p.holders -= holds
	switch {
	case p.holders < 0:
		panic("dataplane: pushed data released more often than held")
	case p.holders == 0:
		delete(s.kept, p.key)
		p.buffer.Release()
	}
}

// fits reports whether the data are those that a mutation names: n bytes at offset in a chunk with these checksums.
// Where the checksums are cut as on arrival, the lists tell; otherwise the data are looked at.
func (p *pushed) fits(n int, offset int64, sums []uint32) bool {
	switch {
	case len(p.buffer.Data) != n:
		return false
	case p.offset == offset%gfs.BlockSize:
		return slices.Equal(p.sums, sums)
	}
	return wire.Verify(sums, offset, p.buffer.Data) == nil
}
