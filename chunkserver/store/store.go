package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Config is what Open needs. Dirs and Cluster are required, the rest has defaults.
type Config struct {
	// Dirs are the data directories, which together make one server, each best on a disk of its own. They are
	// made if need be; a directory added later becomes part of the server, and so may not be another's.
	Dirs []string
	// Cluster is the id of the cluster that the server belongs to.
	Cluster string
	// CapacityBytes bounds what all replicas together may hold. Zero: what the disks have.
	CapacityBytes int64
	// ReserveBytes is what is left free on each disk: new replicas are refused below it.
	ReserveBytes int64
	// OpenChunks bounds the closed chunks whose two files are kept open for reading. Zero: 512.
	OpenChunks int
	// Boot names the life of the page cache: what was written without fsync is there as long as it stays the
	// same. Empty: the kernel's boot id with the directory's device, inode and mount.
	Boot string
	// Log gets what a person may want to know. Nil: nothing is logged.
	Log *logrus.Entry
	// Random is where a new server's id comes from. Nil: crypto/rand.
	Random io.Reader
	// Now is the clock by which deleted replicas age. Nil: time.Now.
	Now func() time.Time

	// Intercept, if not nil, is asked before each operation on the disk, named as in "write", with the path and the
	// number of bytes: it may let pass less than all bytes, or refuse with an error; an allocation of which it lets
	// pass nothing is left out. NoFsync leaves fsync out. They are for simulations, which lose what they want to be lost.
	Intercept func(op, path string, bytes int) (allowed int, err error)
	NoFsync   bool

	// What only tests set: see faultFunc and defaultLogBytes. Without fsync a test that only kills processes is
	// no different, but fast.
	fault    faultFunc
	logBytes int64
	noSync   bool
}

// Store is one chunkserver's replicas on its data directories. All methods are safe for concurrent use.
type Store struct {
	id     gfs.ServerID
	dirs   []*directory
	config Config
	log    *logrus.Entry
	now    func() time.Time
	cache  fileCache
	blocks sync.Pool // of *[gfs.BlockSize]byte

	epoch     atomic.Uint32
	epochTurn sync.Mutex // held while an epoch is persisted

	mu       sync.RWMutex
	replicas map[gfs.ChunkHandle]*Replica // nil while it is being made
	order    []gfs.ChunkHandle            // all handles, rising, among some that are gone
	dead     int                          // how many of order are gone
}

// Open opens the data directories, or makes them at a first start, and takes their locks. It reads the index of
// each and, of the replicas that were open for mutation, the checksum file and the blocks that may be torn. It
// blocks for that: 100,000 closed replicas take a fraction of a second.
//
// Errors: CodeExist when another process has a directory, CodeWrongCluster when it belongs to another cluster,
// CodeInvalid when it is another server's or of a newer format.
func Open(cfg Config) (*Store, error) {
	if len(cfg.Dirs) == 0 || cfg.Cluster == "" {
		return nil, gfs.Errorf(gfs.CodeInvalid, "a chunkserver needs a data directory and the id of its cluster")
	}
	s := newStore(cfg)
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func newStore(cfg Config) *Store {
	s := &Store{config: cfg, log: cfg.Log, now: cfg.Now, replicas: make(map[gfs.ChunkHandle]*Replica)}
	if s.log == nil {
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		s.log = logrus.NewEntry(quiet)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.config.Random == nil {
		s.config.Random = rand.Reader
	}
	if s.config.logBytes == 0 {
		s.config.logBytes = defaultLogBytes
	}
	s.cache.limit = cfg.OpenChunks
	if s.cache.limit <= 0 {
		s.cache.limit = defaultOpenChunks
	}
	s.config.noSync = cfg.noSync || cfg.NoFsync
	if intercept := cfg.Intercept; intercept != nil {
		s.config.fault = func(op operation, path string, n int) (int, error) { return intercept(string(op), path, n) }
	}
	s.blocks.New = func() any { return new([gfs.BlockSize]byte) }
	return s
}

// defaultOpenChunks is Config.OpenChunks where that is zero: 1,024 files, a quarter of a MiB of memory each 50.
const defaultOpenChunks = 512

func (s *Store) open() error {
	for _, path := range s.config.Dirs {
		d, err := lockDirectory(path, &s.config)
		if err != nil {
			return err
		}
		s.dirs = append(s.dirs, d)
	}
	var err error
	if s.id, err = settleIdentity(s.config.Dirs, s.config.Cluster, s.config.Random); err != nil {
		return err
	}
	for _, d := range s.dirs {
		if err := s.openDirectory(d); err != nil {
			return err
		}
	}
	slices.Sort(s.order)
	for _, d := range s.dirs {
		if err := s.recoverDirectory(d); err != nil {
			return err
		}
	}
	return nil
}

// openDirectory reads a directory's index.
func (s *Store) openDirectory(d *directory) error {
	if err := d.open(); err != nil {
		return err
	}
	value, err := d.index.fact(keyEpoch)
	if err != nil {
		return err
	}
	s.epoch.Store(max(s.epoch.Load(), uint32(parseNumber(value))))
	if err := d.finishRemovals(); err != nil {
		return err
	}
	return d.index.each(func(h gfs.ChunkHandle, row row, err error) error {
		r := &Replica{store: s, dir: d, handle: h, row: row}
		if err != nil {
			// A replica that nothing is known of any more: the master gets to hear that it is corrupt.
			s.log.WithError(err).WithField("chunk", h.String()).Error("index row unreadable, replica corrupt")
			r.row = rowOfCorrupt()
			r.broken = gfs.Errorf(gfs.CodeCorrupt, "chunk %s: index: %v", h, err)
		}
		if other := s.replicas[h]; other != nil {
			return gfs.Errorf(gfs.CodeInvalid, "chunk %s is in %s and in %s: move one of its copies away", h, other.dir.path, d.path)
		}
		s.replicas[h] = r
		s.order = append(s.order, h)
		return nil
	})
}

func rowOfCorrupt() row { return row{state: gfs.ReplicaCorrupt} }

// recoverDirectory brings back the replicas that were open for mutation.
func (s *Store) recoverDirectory(d *directory) error {
	boot := s.config.Boot
	if boot == "" {
		var err error
		if boot, err = bootOf(d.path); err != nil {
			return err
		}
	}
	before, err := d.index.fact(keyBoot)
	if err != nil {
		return err
	}
	powerLost := before != nil && string(before) != boot
	var marked []*Replica
	for _, h := range s.order {
		r := s.replicas[h]
		if r.dir != d || !r.row.marked {
			continue
		}
		marked = append(marked, r)
		if powerLost && r.row.state == gfs.ReplicaMember {
			r.row.state = gfs.ReplicaSuspect
		}
	}
	d.dropPatches(s.replicas)
	var changes []change
	for _, r := range marked {
		found := r.row
		if err := r.recover(powerLost); err != nil {
			return err
		}
		if !errors.Is(r.broken, errUnread) {
			found = r.row
		}
		if powerLost {
			changes = append(changes, rowChange(r.handle, found))
		}
	}
	if string(before) != boot {
		// In one commit: after the next restart nobody could tell any more that they are suspect. And last: if this restart
		// is cut short, the next one has to know it as well.
		changes = append(changes, change{bucketServer, []byte(keyBoot), []byte(boot)})
		if err := d.commit(changes...); err != nil {
			return err
		}
	}
	used := int64(0) // only now: a patch that is applied again counts by itself
	for _, h := range s.order {
		if r := s.replicas[h]; r.dir == d {
			used += r.row.length
		}
	}
	d.used.Store(used)
	return nil
}

// Close ends everything and lets another process open the directories. It syncs nothing: marked replicas are
// recovered at the next Open. No other method may be running or called later; files that Settled handed out stay
// open until they are given back.
func (s *Store) Close() error {
	for _, r := range s.replicas {
		if r != nil && r.content != nil {
			r.content.release()
			r.content = nil
		}
	}
	var errs error
	for _, d := range s.dirs {
		errs = errors.Join(errs, d.close())
	}
	return errs
}

// ID is the server's id, made at its first start.
func (s *Store) ID() gfs.ServerID { return s.id }

// Epoch is the highest epoch heard.
func (s *Store) Epoch() gfs.Epoch { return gfs.Epoch(s.epoch.Load()) }

// RaiseEpoch makes an epoch the highest heard, durably before it returns; CodeStaleEpoch when a higher one was.
// It costs nothing when the epoch is known already.
func (s *Store) RaiseEpoch(e gfs.Epoch) error {
	if e == s.Epoch() {
		return nil
	}
	s.epochTurn.Lock()
	defer s.epochTurn.Unlock()
	if now := s.Epoch(); e <= now {
		if e == now {
			return nil
		}
		return gfs.Errorf(gfs.CodeStaleEpoch, "epoch %d: epoch %d was heard", e, now)
	}
	// In every directory, as any of them may be missing one day; but one whose disk has failed keeps nobody from the
	// replicas on the others.
	var failed error
	noted := 0
	for _, d := range s.dirs {
		err := d.commit(change{bucketServer, []byte(keyEpoch), binary.BigEndian.AppendUint64(nil, uint64(e))})
		switch {
		case err == nil:
			noted++
		case d.failed.Load():
			failed = err
		default:
			return err
		}
	}
	if noted == 0 {
		return failed
	}
	s.epoch.Store(uint32(e))
	return nil
}

// Space is over all directories, in bytes: what there is, what replicas hold, and what is free for new ones.
func (s *Store) Space() (capacity, used, free int64) {
	for _, d := range s.dirs {
		c, f := d.space()
		capacity += c
		free += max(f-s.config.ReserveBytes, 0)
		used += d.used.Load()
	}
	if limit := s.config.CapacityBytes; limit > 0 {
		capacity, free = min(capacity, limit), min(free, max(limit-used, 0))
	}
	return capacity, used, free
}

// Len is the number of replicas.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.order) - s.dead
}

// Create makes an empty replica, exclusively: CodeExist if there is one. It is a member, active and promised in v,
// and marked as open for mutation. The index says so durably when Create returns; the empty files reach the disk
// with the first sync.
func (s *Store) Create(h gfs.ChunkHandle, v gfs.Version) (*Replica, error) {
	return s.create(h, row{promised: v, active: v, state: gfs.ReplicaMember, marked: true})
}

// CreateLearner makes an empty replica to be filled, exclusively: a learner, promised in v, active in no version,
// and marked.
func (s *Store) CreateLearner(h gfs.ChunkHandle, v gfs.Version) (*Replica, error) {
	return s.create(h, row{promised: v, state: gfs.ReplicaLearner, marked: true})
}

func (s *Store) create(h gfs.ChunkHandle, first row) (*Replica, error) {
	if h == 0 || first.promised == 0 {
		return nil, gfs.Errorf(gfs.CodeInvalid, "create chunk %s in version %s: neither may be zero", h, first.promised)
	}
	d, err := s.roomiest()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if _, there := s.replicas[h]; there {
		s.mu.Unlock()
		return nil, gfs.Errorf(gfs.CodeExist, "chunk %s has a replica here", h)
	}
	s.replicas[h] = nil // nobody else makes it meanwhile
	s.mu.Unlock()

	r := &Replica{store: s, dir: d, handle: h, row: first}
	if err = r.makeFiles(); err != nil {
		err = diskError(h, "create", err)
	} else if err = d.commit(rowChange(h, first)); err != nil {
		r.content.release()
		// Left where they are the files would be moved aside by the next attempt.
		_ = d.moveAside(h, trashFileName(h, s.now().UnixNano()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.replicas, h)
		return nil, err
	}
	s.replicas[h] = r
	s.insert(h)
	return r, nil
}

// roomiest is the directory with the most free space; CodeNoSpace where none has any, CodeUnavailable where all failed.
func (s *Store) roomiest() (*directory, error) {
	_, _, total := s.Space()
	var best *directory
	var most int64
	failed := 0
	for _, d := range s.dirs {
		if d.failed.Load() {
			failed++
			continue
		}
		if _, free := d.space(); free-s.config.ReserveBytes > most {
			best, most = d, free-s.config.ReserveBytes
		}
	}
	if failed == len(s.dirs) {
		return nil, gfs.Errorf(gfs.CodeUnavailable, "chunkserver %s: every disk has failed: replace them", s.id)
	}
	if best == nil || total <= 0 {
		return nil, gfs.Errorf(gfs.CodeNoSpace, "chunkserver %s is full: free space on it or add another", s.id)
	}
	return best, nil
}

// insert puts a handle in order: at the end, mostly. The caller holds mu.
func (s *Store) insert(h gfs.ChunkHandle) {
	at, found := slices.BinarySearch(s.order, h)
	if found {
		s.dead-- // deleted before and back again
		return
	}
	s.order = slices.Insert(s.order, at, h)
}

// forget takes a deleted replica out of the map; order is cleaned once half of it is dead.
func (s *Store) forget(h gfs.ChunkHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.replicas, h)
	if s.dead++; s.dead > len(s.order)/2 {
		s.order = slices.DeleteFunc(s.order, func(h gfs.ChunkHandle) bool { return s.replicas[h] == nil })
		s.dead = 0
	}
}

// Get finds a replica, in whatever state; CodeNoReplica when there is none.
func (s *Store) Get(h gfs.ChunkHandle) (*Replica, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.replicas[h]; r != nil {
		return r, nil
	}
	return nil, gfs.Errorf(gfs.CodeNoReplica, "chunk %s", h)
}

// Statuses is a page of the inventory: the first at most limit replicas from a handle on, by rising handle. The
// next page begins behind the last one's handle; there is none when it is shorter than limit. Each Status is of
// the moment it was read.
func (s *Store) Statuses(from gfs.ChunkHandle, limit int) []Status {
	out := make([]Status, 0, max(0, min(limit, s.Len())))
	for _, r := range s.page(from, limit) {
		out = append(out, r.Status())
	}
	return out
}

func (s *Store) page(from gfs.ChunkHandle, limit int) []*Replica {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*Replica
	at, _ := slices.BinarySearch(s.order, from)
	for ; at < len(s.order) && len(out) < limit; at++ {
		if r := s.replicas[s.order[at]]; r != nil {
			out = append(out, r)
		}
	}
	return out
}
