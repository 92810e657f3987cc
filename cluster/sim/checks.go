package sim

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// The checkers, by the names that failures have.
const (
	// checkDurable: no good replica lacks an acknowledged mutation.
	checkDurable = "good replicas hold what was acknowledged"
	// checkConfiguration: mutations are completed in one configuration at a time, by one process.
	checkConfiguration = "one configuration completes mutations"
	// checkVersions: versions, promised, active or logged, never fall.
	checkVersions = "versions only grow"
	// checkEpoch: a replica promises nothing to a master whose server has heard of a later one.
	checkEpoch = "no order of a replaced master is obeyed"
	// checkClosed: the replicas of a closed chunk are identical.
	checkClosed = "replicas of a closed chunk are identical"
	// checkSeen: what a reader saw of appended bytes stays.
	checkSeen = "appended bytes that were seen stay"
	// checkOnce: an append is applied once, at one offset.
	checkOnce = "an append is applied once"
	// checkSound: a replica's bytes match their checksums, and records lie one behind another.
	checkSound = "replicas are sound"
	// checkOnDisk: what is acknowledged as synced is on every disk.
	checkOnDisk = "what was synced is on disk"
	// checkErrors: clients meet no errors but those that they were promised.
	checkErrors = "no error at a client"
	// checkSettled: when all faults are over, everything comes to rest.
	checkSettled = "the cluster comes to rest"
	// checkPanic: no code panics, and no actor ends with an error of its own.
	checkPanic = "no panic"
)

// checks know what must be true of a cluster.
type checks struct {
	cluster  *cluster
	chunks   map[gfs.ChunkHandle]*truth
	order    []gfs.ChunkHandle // of chunks
	versions map[replicaName]store.Status
	epochs   map[string]gfs.Epoch // that servers had heard of at the last look
	records  map[appendName][]byte
	files    ledger
	rounds   int // records heard of
	writes   int // completed mutations
	reads    int
	looks    int
	looking  bool // what is read at present only a checker reads
	pushed   pushed
}

type replicaName struct {
	server string
	handle gfs.ChunkHandle
}

type appendName struct {
	writer   gfs.WriterID
	sequence uint64
}

// piece is bytes that every good replica holds.
type piece struct {
	offset int64
	data   []byte
}

// truth is what is known of a chunk's content.
type truth struct {
	pieces  []piece
	length  int64 // that every good replica has at least
	offsets map[appendName]int64
	base    int64  // where its records begin
	seen    []byte // by readers, from base on
	by      map[gfs.Version]string
	version gfs.Version // the highest in which a mutation was completed
	logged  gfs.Version
	appends bool

	row    namespace.Chunk // as the log had it last
	listed int             // after how many records that was; 0 for never
	index  int             // in its file
	left   time.Duration   // when its file lost it; 0 while it has it
	heir   gfs.ChunkHandle // the copy that took its place, 0 if none did
	found  map[appendName]int64

	first   int64             // the length that it was made with: that of a copy, or 0
	image   map[uint32][]byte // some blocks of a copy as they were then; nil if they are not known
	within  map[appendName]int64
	slotted bool         // it is written to at offsets
	tried   map[int]bool // the slots to which somebody has tried to write
}

func newChecks(c *cluster) checks {
	return checks{cluster: c, chunks: make(map[gfs.ChunkHandle]*truth), versions: make(map[replicaName]store.Status), records: make(map[appendName][]byte), epochs: make(map[string]gfs.Epoch), files: newLedger(),
		pushed: pushed{content: make(map[contentName][]byte)}}
}

func (k *checks) truth(h gfs.ChunkHandle) *truth {
	t := k.chunks[h]
	if t == nil {
		t = &truth{offsets: make(map[appendName]int64), by: make(map[gfs.Version]string)}
		k.chunks[h] = t
		k.order = append(k.order, h)
	}
	return t
}

// completed hears that a primary answers a mutation without an error.
func (k *checks) completed(s *server, m *pb.Mutate, data []byte, offset int64) {
	h := gfs.ChunkHandle(m.Handle)
	t := k.truth(h)
	k.writes++
	if m.Kind == pb.Mutate_APPEND {
		k.records[appendName{gfs.WriterID(m.Writer), m.Sequence}] = data
	}
	k.cluster.note("%s completes %v of writer %d, sequence %d, at %d of chunk %s", s.name, m.Kind, m.Writer, m.Sequence, offset, h)
	k.onDisk(h, piece{offset, data})
	if m.Kind == pb.Mutate_APPEND {
		t.appends = true
		name := appendName{gfs.WriterID(m.Writer), m.Sequence}
		if before, again := t.offsets[name]; again {
			if before != offset {
				k.cluster.fail(checkOnce, "append %d of writer %d to chunk %s is said to be at %d, and was at %d before", m.Sequence, m.Writer, h, offset, before)
			}
			return
		}
		t.offsets[name] = offset
	}
	t.pieces = append(t.pieces, piece{offset, data})
	k.late(t, appendName{gfs.WriterID(m.Writer), m.Sequence}, piece{offset, data})
	t.length = max(t.length, offset+int64(len(data)))
	_, version, err := s.server.Handler().Replica(h)
	if err != nil || version == 0 {
		return
	}
	if by := t.by[version]; by != "" && by != s.life.name {
		k.cluster.fail(checkConfiguration, "%s completes a mutation of chunk %s in version %s, and %s did", s.life.name, h, version, by)
	}
	if version < t.version {
		// It was applied everywhere before the next version, and its primary was held up: then all who count have it.
		k.look(true)
	}
	t.version, t.by[version] = max(t.version, version), s.life.name
}

// acknowledged hears what a client was told of an append.
func (k *checks) acknowledged(handle uint64, id gfs.WriterID, sequence uint64, offset int64) {
	t := k.truth(gfs.ChunkHandle(handle))
	if at, completed := t.offsets[appendName{id, sequence}]; !completed || at != offset {
		k.cluster.fail(checkOnce, "append %d of writer %d to chunk %d was acknowledged at %d, and completed at %d (%v)", sequence, id, handle, offset, at, completed)
	}
}

// read hears what a reader was given of a chunk from an offset on that is not above what was seen before.
func (k *checks) read(q *pb.Read, from string, data []byte, reply *pb.ReadReply) {
	t := k.truth(gfs.ChunkHandle(q.Handle))
	k.reads++
	if t.slotted || q.Offset < t.base {
		k.readOld(t, gfs.ChunkHandle(q.Handle), from, q.Offset, data)
		return
	}
	known := t.seen[min(q.Offset-t.base, int64(len(t.seen))):]
	n := min(len(data), len(known))
	if i := difference(data[:n], known[:n]); i >= 0 {
		k.cluster.fail(checkSeen, "%s in version %s gives another byte at %d of chunk %d than was seen before", from, gfs.Version(reply.Version), q.Offset+int64(i), q.Handle)
		return
	}
	if end := q.Offset + int64(len(data)); end > t.base+int64(len(t.seen)) {
		t.seen = append(t.seen, data[n:]...)
		t.length = max(t.length, end)
	}
}

// difference is where two equally long slices differ first, negative if nowhere.
func difference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// committed hears that the log has a record more.
func (k *checks) committed(record *pb.Record, outcome namespace.Outcome) {
	k.rounds++
	for chunk := range k.cluster.state.View().Chunks(0) {
		t := k.list(chunk)
		if chunk.Version < t.logged {
			k.cluster.fail(checkVersions, "chunk %s is logged in version %s after %s", chunk.Handle, chunk.Version, t.logged)
		}
		t.logged = chunk.Version
	}
	k.account(record, outcome)
	k.look(false)
}

// look checks all replicas at servers that are up; deep says whether their bytes as well.
func (k *checks) look(deep bool) {
	k.looks++
	k.looking = true
	defer func() { k.looking = false }()
	defer k.heard()
	view := k.cluster.state.View()
	for _, h := range k.order {
		chunk, logged := view.Chunk(h)
		chunk.Handle = h
		var first *store.Replica
		for _, s := range k.cluster.servers {
			if !s.up() || s.server == nil {
				continue
			}
			replica, err := s.server.Store().Get(h)
			if err != nil {
				k.kept(s, chunk, logged) // it was deleted; a new one begins anew
				continue
			}
			status := replica.Status()
			k.grown(s, status)
			if !logged || !countsFor(chunk, status) {
				continue
			}
			k.good(s, replica, status, deep)
			if !chunk.Open && !status.Marked && status.Active == chunk.Version {
				first = k.same(chunk, first, replica, s)
			}
		}
	}
}

// heard notes the epochs that the servers know.
func (k *checks) heard() {
	for _, s := range k.cluster.servers {
		if s.up() {
			k.epochs[s.name] = s.server.Store().Epoch()
		}
	}
}

// grown checks that a replica's versions do not fall.
func (k *checks) grown(s *server, status store.Status) {
	name := replicaName{s.name, status.Handle}
	fell := func(before store.Status) bool { // the files of one that is in doubt may be of any moment
		doubted := status.State == gfs.ReplicaSuspect || status.State == gfs.ReplicaCorrupt
		return status.Promised < before.Promised || status.Active < before.Active && !doubted
	}
	if before, known := k.versions[name]; known && fell(before) {
		k.cluster.fail(checkVersions, "chunk %s at %s: promised %s and active %s, after %s and %s",
			status.Handle, s.name, status.Promised, status.Active, before.Promised, before.Active)
	}
	// A learner counts for nothing: a copy that was begun before the epoch was heard may end after that.
	if epoch := k.epochs[s.name]; k.versions[name].Promised != status.Promised && status.Promised.Epoch() < epoch && status.State != gfs.ReplicaLearner {
		k.cluster.fail(checkEpoch, "chunk %s at %s: promised %s, after epoch %d was heard", status.Handle, s.name, status.Promised, epoch)
	}
	k.versions[name] = status
}

// good checks a replica that counts.
func (k *checks) good(s *server, replica *store.Replica, status store.Status, deep bool) {
	t := k.chunks[status.Handle]
	lacks := func(format string, args ...any) {
		k.cluster.fail(checkDurable, "chunk %s at %s (active %s, promised %s, %d bytes): "+format,
			append([]any{status.Handle, s.name, status.Active, status.Promised, status.Length}, args...)...)
	}
	if status.Length < t.length {
		lacks("%d bytes were acknowledged", t.length)
		return
	}
	if len(t.offsets) > 0 {
		table, err := replica.Table()
		if err != nil {
			lacks("%v", err)
			return
		}
		latest := make(map[gfs.WriterID]uint64)
		for name := range t.offsets {
			latest[name.writer] = max(latest[name.writer], name.sequence)
		}
		for id, sequence := range latest {
			entry, outcome := table.Lookup(id, sequence)
			if outcome == mutation.Unknown || outcome == mutation.Known && int64(entry.Offset) != t.offsets[appendName{id, sequence}] {
				lacks("append %d of writer %d is not in its table as it was acknowledged", sequence, id)
			}
		}
	}
	if deep {
		t.found = nil
		k.content(s, replica, status, t, lacks)
	}
}

// content checks a replica's bytes.
func (k *checks) content(s *server, replica *store.Replica, status store.Status, t *truth, lacks func(string, ...any)) {
	unknown, err := replica.UnknownBlocks()
	if err != nil {
		lacks("%v", err)
		return
	}
	from := t.base / gfs.BlockSize * gfs.BlockSize
	if t.first > 0 {
		from = max(0, from-pictured*gfs.BlockSize)
	}
	length := status.Length
	if t.slotted {
		from, length = 0, min(length, pictured*gfs.BlockSize)
	}
	content := make([]byte, 0, max(0, length-from)+gfs.BlockSize)
	for block := uint32(from / gfs.BlockSize); int64(block)*gfs.BlockSize < length; block++ {
		n := len(content)
		data, err := replica.Block(content[n:n+gfs.BlockSize], block)
		if err != nil {
			flipped := k.cluster.flipped(s, status.Handle, block)
			if flipped {
				unknown = append(unknown, block)
			}
			if flipped || slices.Contains(unknown, block) { // it knows that it lacks it
				data = content[n : n+int(min(gfs.BlockSize, status.Length-from-int64(n)))]
				content = content[:n+len(data)]
				continue
			}
			k.cluster.fail(checkSound, "chunk %s at %s: %v", status.Handle, s.name, err)
			return
		}
		content = content[:n+len(data)]
	}
	blind := func(offset int64, n int) bool {
		return slices.ContainsFunc(unknown, func(b uint32) bool {
			return offset < int64(b+1)*gfs.BlockSize && offset+int64(n) > int64(b)*gfs.BlockSize
		})
	}
	for _, p := range t.pieces {
		if p.offset < from {
			continue // it is far from the end of a copy
		}
		at, end := p.offset-from, p.offset-from+int64(len(p.data))
		if end > int64(len(content)) {
			lacks("bytes to %d were acknowledged", from+end)
			return
		}
		if i := difference(content[at:end], p.data); i >= 0 && !blind(p.offset, len(p.data)) {
			lacks("the byte at %d is not what was acknowledged", p.offset+int64(i))
			return
		}
		if !blind(p.offset, len(p.data)) {
			k.onDiskAt(s, status.Handle, p)
		}
	}
	if t.first > 0 || t.slotted {
		k.unaltered(s, replica, status, t, unknown)
	}
	if t.slotted || status.Length < t.base {
		return
	}
	if i := difference(content[t.base-from:][:len(t.seen)], t.seen); i >= 0 && len(unknown) == 0 {
		k.cluster.fail(checkSeen, "the byte at %d of chunk %s at %s is not what a reader saw", i, status.Handle, s.name)
	}
	if t.appends && len(unknown) == 0 {
		k.whole(s, status, t, content[t.base-from:])
	}
}

// whole takes a chunk of records apart.
func (k *checks) whole(s *server, status store.Status, t *truth, content []byte) {
	found := make(map[appendName]int64)
	maps.Copy(found, t.within)
	t.found = found
	for at := 0; at < len(content); {
		rest := content[at:]
		if status.Length == gfs.ChunkSize && len(bytes.Trim(rest, "\x00")) == 0 {
			return // padding
		}
		if len(rest) < recordHeader || binary.LittleEndian.Uint32(rest) != recordMagic || len(rest) < int(binary.LittleEndian.Uint32(rest[20:])) {
			k.cluster.fail(checkSound, "no record at %d of chunk %s at %s", at, status.Handle, s.name)
			return
		}
		name := appendName{gfs.WriterID(binary.LittleEndian.Uint64(rest[4:])), binary.LittleEndian.Uint64(rest[12:])}
		want := k.records[name]
		if want == nil { // it was never completed
			want = record(name.writer, name.sequence)
		}
		if len(rest) < len(want) || !bytes.Equal(rest[:len(want)], want) {
			k.cluster.fail(checkSound, "the record at %d of chunk %s at %s is damaged", at, status.Handle, s.name)
			return
		}
		if before, twice := found[name]; twice {
			k.cluster.fail(checkOnce, "append %d of writer %d is at %d and at %d of chunk %s at %s", name.sequence, name.writer, before, t.base+int64(at), status.Handle, s.name)
			return
		}
		found[name] = t.base + int64(at)
		at += len(want)
	}
}

// same compares a replica of a closed chunk with the first one.
func (k *checks) same(chunk namespace.Chunk, first, replica *store.Replica, s *server) *store.Replica {
	digest, err := replica.Digest()
	if err != nil {
		k.cluster.fail(checkSound, "chunk %s at %s: %v", chunk.Handle, s.name, err)
		return first
	}
	if digest.Length != chunk.Length {
		k.cluster.fail(checkClosed, "chunk %s has %d bytes at %s, and was closed with %d", chunk.Handle, digest.Length, s.name, chunk.Length)
	}
	if first == nil {
		return replica
	}
	if other, err := first.Digest(); err == nil && other.Sum() != digest.Sum() {
		k.cluster.fail(checkClosed, "chunk %s at %s differs from another replica", chunk.Handle, s.name)
	}
	return first
}

// rest reports what is not yet at rest, empty if everything is: every writer done, every chunk closed, with as many good
// replicas as are wanted.
func (k *checks) rest() string {
	c := k.cluster
	if c.clients.busy > 0 {
		return "clients wait"
	}
	if which := c.rotten(); which != "" {
		return which
	}
	for chunk := range c.state.View().Chunks(0) {
		if chunk.Open {
			return "chunk " + chunk.Handle.String() + " is open"
		}
		good := 0
		for _, s := range c.servers {
			if !s.up() {
				return s.name + " is down"
			}
			if replica, err := s.server.Store().Get(chunk.Handle); err == nil {
				status := replica.Status()
				if status.State == gfs.ReplicaMember && status.Active == chunk.Version { // a Prepare that came to nothing may have marked it
					good++
				}
			}
		}
		if good < chunk.Replicas {
			return "chunk " + chunk.Handle.String() + " has too few replicas"
		}
	}
	if why := k.litter(); why != "" {
		return why
	}
	return c.pushesHeld()
}

// describe notes how all replicas are.
func (k *checks) describe() {
	for chunk := range k.cluster.state.View().Chunks(0) {
		k.cluster.note("chunk %s: version %s, open %v, %d bytes, %d members", chunk.Handle, chunk.Version, chunk.Open, chunk.Length, chunk.Members)
		for _, s := range k.cluster.servers {
			if s.server == nil {
				continue
			}
			if replica, err := s.server.Store().Get(chunk.Handle); err == nil {
				unknown, err := replica.UnknownBlocks()
				k.cluster.note("  %s: %+v, unknown %v, %v", s.name, replica.Status(), unknown, err)
			}
		}
	}
}

// watch looks at everything now and then.
func (k *checks) watch() {
	w := k.cluster.world
	w.after(w.between(50*time.Millisecond, 400*time.Millisecond), nil, func() {
		k.look(w.chance(20))
		k.watch()
	})
}
