package clientlib

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const (
	// maxLocations bounds the cache: 16,384 chunks are 1 TiB of files, at about 500 bytes each.
	maxLocations = 16384
	// locateAhead is how many chunks one request asks for: a sequential reader needs them soon.
	locateAhead = 8
)

// location is where one chunk of a file is. It is never changed once made, so it may be shared.
type location struct {
	index    uint32
	handle   gfs.ChunkHandle
	version  gfs.Version
	length   int64 // as of the last close
	open     bool
	primary  gfs.ServerID
	replicas []Server
	// lost is the version before which unsynced mutations may be lost. Only fetchLocations knows it.
	lost gfs.Version
}

// newLocation checks what the master said.
func newLocation(m *pb.ChunkLocation) (location, error) {
	l := location{index: m.GetIndex(), handle: gfs.ChunkHandle(m.GetHandle()), version: gfs.Version(m.GetVersion()),
		length: m.GetLength(), open: m.GetOpen(), primary: gfs.ServerID(m.GetPrimary()), lost: gfs.Version(m.GetLostBefore())}
	if l.handle == 0 || l.index >= gfs.MaxFileChunks || l.length < 0 || l.length > gfs.ChunkSize {
		return location{}, gfs.Errorf(gfs.CodeInternal, "the master placed chunk %v with length %d at index %d", l.handle, l.length, l.index)
	}
	for _, s := range m.GetReplicas() {
		l.replicas = append(l.replicas, Server{ID: gfs.ServerID(s.GetId()), Addr: s.GetAddress(), Rack: s.GetRack()})
	}
	return l, nil
}

// primaryServer is the server that orders the chunk's mutations; ok is false if nobody holds the lease.
func (l location) primaryServer() (Server, bool) {
	i := slices.IndexFunc(l.replicas, func(s Server) bool { return s.ID == l.primary })
	if l.primary == "" || i < 0 {
		return Server{}, false
	}
	return l.replicas[i], true
}

type locationKey struct {
	file  gfs.FileID
	index uint32
}

type locationEntry struct {
	key     locationKey
	at      location
	fetched time.Time // zero: to be asked for again
	seen    int64     // what this client knows to be committed of the chunk: it never reads less
}

// locationCache remembers chunk locations for gfs.LocationCacheTime, and for longer how much of a chunk was seen. It
// is pure, and not safe for concurrent use. What was used least lately makes room.
type locationCache struct {
	limit   int
	entries map[locationKey]*list.Element // of *locationEntry
	recent  *list.List                    // most recently used first
}

func newLocationCache(limit int) locationCache {
	return locationCache{limit: limit, entries: make(map[locationKey]*list.Element), recent: list.New()}
}

func (c *locationCache) find(key locationKey) *locationEntry {
	element, ok := c.entries[key]
	if !ok {
		return nil
	}
	c.recent.MoveToFront(element)
	return element.Value.(*locationEntry)
}

// get is the chunk's location if it is fresh at now, and what was seen of the chunk.
func (c *locationCache) get(key locationKey, now time.Time) (at location, seen int64, ok bool) {
	entry := c.find(key)
	if entry == nil || entry.fetched.IsZero() || now.Sub(entry.fetched) >= gfs.LocationCacheTime {
		return location{}, 0, false
	}
	return entry.at, entry.seen, true
}

// put remembers a location. An older version than the one known does not replace it.
func (c *locationCache) put(key locationKey, at location, now time.Time) {
	entry := c.find(key)
	if entry == nil {
		if len(c.entries) >= c.limit {
			oldest := c.recent.Back()
			delete(c.entries, oldest.Value.(*locationEntry).key)
			c.recent.Remove(oldest)
		}
		entry = &locationEntry{key: key}
		c.entries[key] = c.recent.PushFront(entry)
	}
	if entry.at.handle == at.handle && entry.at.version > at.version {
		return
	}
	if entry.at.handle != at.handle {
		entry.seen = 0
	}
	entry.at, entry.fetched = at, now
}

// drop forgets the location if it still is the one of version, which did not work; what was seen stays known.
func (c *locationCache) drop(key locationKey, version gfs.Version) {
	if entry := c.find(key); entry != nil && entry.at.version == version {
		entry.fetched = time.Time{}
	}
}

// saw says that the chunk is known to be committed up to length.
func (c *locationCache) saw(key locationKey, handle gfs.ChunkHandle, length int64) {
	if entry := c.find(key); entry != nil && entry.at.handle == handle {
		entry.seen = max(entry.seen, length)
	}
}

// cut forgets the chunks of a file from an index on.
func (c *locationCache) cut(file gfs.FileID, first uint32) {
	for key, element := range c.entries {
		if key.file == file && key.index >= first {
			delete(c.entries, key)
			c.recent.Remove(element)
		}
	}
}

// locations is the client's cache and the requests under way that fill it.
type locations struct {
	mu      sync.Mutex
	cache   locationCache
	flights map[locationKey]chan struct{} // closed when the request for the key is over
}

func (l *locations) init(limit int) {
	l.cache = newLocationCache(limit)
	l.flights = make(map[locationKey]chan struct{})
}

func (l *locations) put(file gfs.FileID, at location) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.put(locationKey{file, at.index}, at, time.Now())
}

func (l *locations) drop(file gfs.FileID, at location) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.drop(locationKey{file, at.index}, at.version)
}

func (l *locations) cut(file gfs.FileID, first uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.cut(file, first)
}

func (l *locations) saw(file gfs.FileID, at location, length int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.saw(locationKey{file, at.index}, at.handle, length)
}

// seen is what this client knows to be committed of the chunk.
func (l *locations) seen(file gfs.FileID, at location) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if entry := l.cache.find(locationKey{file, at.index}); entry != nil && entry.at.handle == at.handle {
		return entry.seen
	}
	return 0
}

// cached is a chunk of a file as the cache has it.
func (l *locations) cached(file gfs.FileID, index uint32) (location, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, _, known := l.cache.get(locationKey{file, index}, time.Now())
	return at, known
}

// locate finds the chunk of a file at index, in the cache or by asking the master. Exists is false if the file has
// no such chunk; that is never taken from the cache.
func (c *Client) locate(p *patience, file gfs.FileID, index uint32) (at location, exists bool, err error) {
	key := locationKey{file, index}
	l := &c.locations
	for {
		l.mu.Lock()
		if at, _, ok := l.cache.get(key, time.Now()); ok {
			l.mu.Unlock()
			return at, true, nil
		}
		flight, waiting := l.flights[key]
		if !waiting {
			flight = make(chan struct{})
			l.flights[key] = flight
		}
		l.mu.Unlock()
		if waiting {
			if err := p.await(flight); err != nil {
				return location{}, false, err
			}
			continue
		}
		at, exists, err := c.fetchLocations(p, file, index)
		l.mu.Lock()
		delete(l.flights, key)
		l.mu.Unlock()
		close(flight)
		return at, exists, err
	}
}

// fetchLocations asks the master for the chunk at index and a few behind it.
func (c *Client) fetchLocations(p *patience, file gfs.FileID, index uint32) (at location, exists bool, err error) {
	reply := &pb.LocateReply{}
	if _, err := c.askUntil(p, messages.OpLocate,
		&pb.LocateRequest{Identity: c.identify(), FileId: uint64(file), FirstIndex: index, Count: locateAhead}, reply); err != nil {
		return location{}, false, err
	}
	for _, m := range reply.GetChunks() {
		found, err := newLocation(m)
		if err != nil {
			return location{}, false, err
		}
		c.locations.put(file, found)
		if found.index == index {
			at, exists = found, true
		}
	}
	return at, exists, nil
}

// lease asks the master for a chunk that can be mutated.
func (c *Client) lease(p *patience, request *pb.LeaseRequest) (location, error) {
	request.Identity = c.identify()
	reply := &pb.ChunkLocation{}
	if _, err := c.askUntil(p, messages.OpLease, request, reply); err != nil {
		return location{}, err
	}
	at, err := newLocation(reply)
	if err != nil {
		return location{}, err
	}
	at.open = true // whoever holds a lease may be mutated
	c.locations.put(gfs.FileID(request.GetFileId()), at)
	return at, nil
}
