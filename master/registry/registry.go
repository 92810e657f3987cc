package registry

import (
	"cmp"
	"slices"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// MaxServers is the most chunkservers a cluster has; one more is refused. The bound keeps a stray program that
// draws a new id at each start from growing the master for ever.
const MaxServers = 4096

// noteMemory is how long the master's own knowledge of a replica outweighs what a chunkserver says: longer than a
// heartbeat is under way.
const noteMemory = 10 * time.Second

// creationMemory is how long a replica that was placed counts as a recent creation.
const creationMemory = time.Minute

// unreachedMemory is how long a server that another one could not reach is no first choice for new replicas: what keeps it
// from joining chunks is told anew at each attempt, and attempts get rarer.
const unreachedMemory = 30 * time.Second

// Replica is what is known of one replica, with what is needed to reach it.
type Replica struct {
	placement.Server
	Incarnation gfs.Incarnation
	Up          bool
	Promised    gfs.Version
	Active      gfs.Version
	Length      int64
	State       gfs.ReplicaState
	Marked      bool // open for mutation on its disk
}

// Good reports whether the replica counts for logged: it holds or has promised that version and is a sound member.
// Source: semantics 3
func (r Replica) Good(logged gfs.Version) bool {
	return r.State == gfs.ReplicaMember && (r.Active == logged || r.Promised == logged)
}

// Newest is the newest version before an epoch of which the replica may be a member, 0 if it is none: what it promised or,
// if it has promised a version since, what it holds. After a restoration from a backup it tells what the log has lost:
// of all replicas those with the newest hold every acknowledged mutation.
func (r Replica) Newest(before gfs.Epoch) gfs.Version {
	return newest(r.State, r.Promised, r.Active, before)
}

func newest(state gfs.ReplicaState, promised, active gfs.Version, before gfs.Epoch) gfs.Version {
	switch {
	case state != gfs.ReplicaMember && state != gfs.ReplicaSuspect:
		return 0
	case promised.Epoch() < before:
		return promised
	case active.Epoch() < before:
		return active
	}
	return 0
}

// Lease is who the primary of a chunk is, in which version.
type Lease struct {
	Version gfs.Version
	Server  gfs.ServerID
}

// lease is a Lease with the server's index.
type lease struct {
	version gfs.Version
	server  uint16
}

// server is one chunkserver.
type server struct {
	placement.Server
	incarnation gfs.Incarnation
	previous    gfs.Incarnation // the one that incarnation replaced
	up          bool
	draining    bool
	heard       time.Time
	sequence    uint64 // of the last heartbeat of this incarnation
	capacity    int64
	used        int64
	free        int64
	chunks      uint64
	leases      int             // granted by this master
	held        []*pb.HeldLease // as of the last heartbeat
	creations   [2]int          // in this and the last creationMemory
	unreached   time.Time       // another chunkserver failed to reach it then; zero if none has

	strange     uint64 // replicas beyond the handle limit that this or the last full inventory named
	inventoried bool   // a full inventory of this incarnation was heard
	wanted      bool   // the next heartbeat's reply asks for a full inventory
	receiving   inventory
}

// inventory is how far a full inventory has arrived.
type inventory struct {
	number   uint64
	page     uint32          // expected next
	next     gfs.ChunkHandle // first handle expected next
	underWay bool
	began    time.Time
}

// Registry is the core. Make one with New; its methods must not be called at once from several goroutines.
type Registry struct {
	servers   []*server
	byID      map[gfs.ServerID]uint16
	locations locations
	leases    map[gfs.ChunkHandle]lease
	notes     [2]map[gfs.ChunkHandle]struct{} // handles noted within this and the last noteMemory
	limit     gfs.ChunkHandle                 // handles from here on are not believed in
	ticked    time.Time                       // the last Tick
	rotated   time.Time                       // when notes moved on
	counted   time.Time                       // when creations moved on
	strange   uint64                          // replicas that were refused because of limit
}

// New makes an empty registry.
func New(now time.Time) *Registry {
	return &Registry{
		byID: map[gfs.ServerID]uint16{}, locations: newLocations(), leases: map[gfs.ChunkHandle]lease{},
		notes: [2]map[gfs.ChunkHandle]struct{}{{}, {}}, ticked: now, rotated: now, counted: now,
	}
}

// SetHandleLimit says that handles from limit on were never given out: what chunkservers say of them is not
// recorded, so that a wrong handle cannot make the registry grow. Zero believes in none.
func (r *Registry) SetHandleLimit(limit gfs.ChunkHandle) { r.limit = max(r.limit, limit) }

// StrangeReplicas counts the replicas that chunkservers claimed to hold beyond the handle limit: a sign that this
// log is younger than the data.
func (r *Registry) StrangeReplicas() uint64 { return r.strange }

// AskAgain is for a master that begins to act, after SetHandleLimit: every chunkserver is asked for a full inventory
// with its next heartbeat. What a standby knows may be old, and it may have refused replicas because its log was not
// yet applied. Until the answers come, what is known stays.
func (r *Registry) AskAgain() {
	r.strange = 0
	for _, s := range r.servers {
		s.wanted = true
	}
}

// Down is a process of a chunkserver that counts as dead.
type Down struct {
	Server      gfs.ServerID
	Incarnation gfs.Incarnation
	Silent      time.Duration
}

// Tick lets time pass: it returns the chunkservers that were silent for gfs.HeartbeatTimeout and so went down now.
// It is to be called several times in that time. If it was not, this process was held up itself and could not hear
// anybody: the gap counts as nobody's silence.
func (r *Registry) Tick(now time.Time) []Down {
	if gap := now.Sub(r.ticked); gap > gfs.HeartbeatTimeout/2 {
		for _, s := range r.servers {
			s.heard = s.heard.Add(min(gap, max(now.Sub(s.heard), 0)))
		}
	}
	r.ticked = now
	if now.Sub(r.rotated) >= noteMemory {
		r.notes[1], r.notes[0] = r.notes[0], map[gfs.ChunkHandle]struct{}{}
		r.rotated = now
	}
	count := now.Sub(r.counted) >= creationMemory
	if count {
		r.counted = now
	}
	var down []Down
	for _, s := range r.servers {
		if count {
			s.creations[1], s.creations[0] = s.creations[0], 0
		}
		if silent := now.Sub(s.heard); s.up && silent >= gfs.HeartbeatTimeout {
			s.up = false
			down = append(down, Down{Server: s.ID, Incarnation: s.incarnation, Silent: silent})
		}
	}
	return down
}

// Replicas returns what is known of a chunk's replicas, those of servers that are down among them, by server id.
func (r *Registry) Replicas(handle gfs.ChunkHandle) []Replica {
	entries := r.locations.appendEntries(nil, handle)
	replicas := make([]Replica, 0, len(entries))
	for _, e := range entries {
		replicas = append(replicas, r.replica(e))
	}
	slices.SortFunc(replicas, func(a, b Replica) int { return cmp.Compare(a.ID, b.ID) })
	return replicas
}

func (r *Registry) replica(e entry) Replica {
	s := r.servers[e.server]
	return Replica{
		Server: s.Server, Incarnation: s.incarnation, Up: s.up, Promised: e.promised, Active: e.active,
		Length: int64(e.length), State: e.state, Marked: e.marked,
	}
}

// Survey is what is known of a chunk's replicas, in numbers.
type Survey struct {
	Good    int // at servers that are up
	Suspect int // at servers that are up, and good but for that
	Corrupt int // anywhere
}

// Survey counts the replicas of a chunk.
func (r *Registry) Survey(handle gfs.ChunkHandle, logged gfs.Version) Survey {
	var buffer [8]entry
	var found Survey
	for _, e := range r.locations.appendEntries(buffer[:0], handle) {
		switch up := r.servers[e.server].up; {
		case e.state == gfs.ReplicaCorrupt:
			found.Corrupt++
		case e.good(logged) && up:
			found.Good++
		case e.state == gfs.ReplicaSuspect && (e.active == logged || e.promised == logged) && up:
			found.Suspect++
		}
	}
	return found
}

// Ahead reports whether a server that is up holds a replica of a newer version than the logged one, of an epoch before the
// given one: the log was restored from a backup that is older.
func (r *Registry) Ahead(handle gfs.ChunkHandle, logged gfs.Version, before gfs.Epoch) bool {
	var buffer [8]entry
	return slices.ContainsFunc(r.locations.appendEntries(buffer[:0], handle), func(e entry) bool {
		return r.servers[e.server].up && newest(e.state, e.promised, e.active, before) > logged
	})
}

// Thin is a chunk with too few good replicas at servers that are up, and what can be done about it.
type Thin struct {
	Good  []Replica      // up
	Stale *Replica       // the best replica at a server that is up that could be brought up to date; nil if there is none
	Fresh bool           // a server without a replica may get one: those that are missing have been so for long
	Held  []gfs.ServerID // servers that hold, or held, a replica in whatever state
}

// Thin looks closer at a chunk whose Survey counted too few. What a server holds that has not told all its replicas
// since it came up is not known: it is waited for. A server counts as missing for good after delay.
// Source: semantics 5, Join; 8
func (r *Registry) Thin(handle gfs.ChunkHandle, logged gfs.Version, delay time.Duration, now time.Time) Thin {
	thin := Thin{Fresh: r.settled(delay, now)}
	for _, replica := range r.Replicas(handle) {
		s := r.servers[r.byID[replica.ID]]
		thin.Held = append(thin.Held, replica.ID)
		switch {
		case !replica.Up || !s.inventoried:
		case replica.Good(logged):
			thin.Good = append(thin.Good, replica)
		case replica.State == gfs.ReplicaCorrupt || s.draining:
		case thin.Stale == nil || replica.Active > thin.Stale.Active:
			thin.Stale = &replica
		}
	}
	return thin
}

// settled reports whether no server went missing a moment ago and all that are up have told all their replicas.
func (r *Registry) settled(delay time.Duration, now time.Time) bool {
	return !slices.ContainsFunc(r.servers, func(s *server) bool {
		return s.up && !s.inventoried || !s.up && now.Sub(s.heard) < delay
	})
}

// Note is what the master learnt of a replica itself, from an order's answer.
type Note struct {
	Server   gfs.ServerID
	Promised gfs.Version
	Active   gfs.Version
	Length   int64
	State    gfs.ReplicaState
	Marked   bool
}

// Note records what orders' answers say of a chunk's replicas. For noteMemory it outweighs older news.
func (r *Registry) Note(handle gfs.ChunkHandle, notes []Note) {
	for _, n := range notes {
		index, known := r.byID[n.Server]
		if !known || n.Length < 0 || n.Length > gfs.ChunkSize {
			continue
		}
		r.locations.set(handle, entry{
			server: index, promised: n.Promised, active: n.Active, length: uint32(n.Length), state: n.State, marked: n.Marked,
		})
	}
	r.notes[0][handle] = struct{}{}
}

func (r *Registry) noted(handle gfs.ChunkHandle) bool {
	_, here := r.notes[0][handle]
	if !here {
		_, here = r.notes[1][handle]
	}
	return here
}

// GrantLease records that a chunk has a primary; EndLease, that it has none any more.
func (r *Registry) GrantLease(handle gfs.ChunkHandle, version gfs.Version, primary gfs.ServerID) {
	r.EndLease(handle)
	if index, known := r.byID[primary]; known {
		r.leases[handle] = lease{version: version, server: index}
		r.servers[index].leases++
	}
}

// EndLease records that a chunk has no primary. It does nothing if none is known.
func (r *Registry) EndLease(handle gfs.ChunkHandle) {
	if l, held := r.leases[handle]; held {
		r.servers[l.server].leases--
		delete(r.leases, handle)
	}
}

// EndLeases forgets every lease: this master acts no longer, and another decides.
func (r *Registry) EndLeases() {
	clear(r.leases)
	for _, s := range r.servers {
		s.leases = 0
	}
}

// Lease tells who a chunk's primary is, and false when none is known.
func (r *Registry) Lease(handle gfs.ChunkHandle) (Lease, bool) {
	l, held := r.leases[handle]
	if !held {
		return Lease{}, false
	}
	return Lease{Version: l.version, Server: r.servers[l.server].ID}, true
}

// Unreached records that other chunkservers have just failed to reach these over the data plane, or that they did not answer an
// order to make a chunk: they may well be heard of here. A new process of such a server is given the benefit of the doubt.
func (r *Registry) Unreached(servers []gfs.ServerID, now time.Time) {
	for _, id := range servers {
		if index, known := r.byID[id]; known {
			r.servers[index].unreached = now
		}
	}
}

// Candidates lists the chunkservers for placement.Choose.
func (r *Registry) Candidates(now time.Time) []placement.Candidate {
	candidates := make([]placement.Candidate, 0, len(r.servers))
	for _, s := range r.servers {
		candidates = append(candidates, placement.Candidate{
			Server: s.Server, Up: s.up, Draining: s.draining,
			Unreached: !s.unreached.IsZero() && now.Sub(s.unreached) < unreachedMemory, CapacityBytes: s.capacity, FreeBytes: s.free,
			Leases: s.leases, Creations: s.creations[0] + s.creations[1],
		})
	}
	return candidates
}

// Placed counts a creation at each of the servers.
func (r *Registry) Placed(servers []placement.Server) {
	for _, s := range servers {
		if index, known := r.byID[s.ID]; known {
			r.servers[index].creations[0]++
		}
	}
}

// Incarnation is the process of a server that was heard last, 0 for a server that never was.
func (r *Registry) Incarnation(id gfs.ServerID) gfs.Incarnation {
	if index, known := r.byID[id]; known {
		return r.servers[index].incarnation
	}
	return 0
}

// Totals are sums over the chunkservers: bytes over those that are up.
type Totals struct {
	Servers, Up            int
	Capacity, Used, Free   int64
	Replicas               int
	Inventoried            bool // every server that is up has told all its replicas
	LeasesHeld             int
	LocationPages, Strange int
}

// Totals sums up what is known.
func (r *Registry) Totals() Totals {
	t := Totals{
		Servers: len(r.servers), Replicas: r.locations.count, Inventoried: true, LeasesHeld: len(r.leases),
		LocationPages: len(r.locations.pages), Strange: int(min(r.strange, 1<<31)),
	}
	for _, s := range r.servers {
		if !s.up {
			continue
		}
		t.Up++
		t.Capacity += s.capacity
		t.Used += s.used
		t.Free += s.free
		t.Inventoried = t.Inventoried && s.inventoried
	}
	return t
}

// Servers describes the chunkservers, by id.
func (r *Registry) Servers(now time.Time) []*pb.ServerStatus {
	statuses := make([]*pb.ServerStatus, 0, len(r.servers))
	for _, s := range r.servers {
		statuses = append(statuses, &pb.ServerStatus{
			Server: &pb.Server{Id: string(s.ID), Address: s.Address, Rack: s.Rack},
			Up:     s.up, LastHeardMs: now.Sub(s.heard).Milliseconds(), CapacityBytes: s.capacity, UsedBytes: s.used,
			FreeBytes: s.free, Chunks: s.chunks, Leases: uint32(s.leases), Incarnation: uint64(s.incarnation),
		})
	}
	slices.SortFunc(statuses, func(a, b *pb.ServerStatus) int { return cmp.Compare(a.GetServer().GetId(), b.GetServer().GetId()) })
	return statuses
}
