package sim

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
)

// The verbs of steps about a server's disk.
const (
	badRead  = "badread"
	badWrite = "badwrite"
	badSync  = "badsync"
	badName  = "badname"
	badIndex = "badindex"
	diskFull = "full"
	flipBit  = "flip"
)

const (
	// replaceTime is what somebody takes to look after a disk.
	replaceTime = 10 * time.Second
	// fullPause is how long a client waits for space.
	fullPause = 300 * time.Millisecond
	// startPause is how long a process that its disk did not let start takes to try again.
	startPause = 200 * time.Millisecond
)

// diskVerbs are those by which operations fail.
var diskVerbs = []string{badRead, badWrite, badSync, badName, badIndex, diskFull}

// disk is what is wrong with a server's disk, whichever process uses it.
type disk struct {
	until map[string]time.Duration // by verb: operations fail up to then
	once  map[string]bool          // or the next one does
	given bool                     // this process heard of something that its store does without from then on
	doubt bool                     // a commit that failed was done all the same: the next process finds it
	last  time.Duration            // when something failed last, if ever
	full  time.Duration            // when it was last said that there is no space, if ever
}

// begin makes operations fail for a time, or the next one if d is zero.
func (k *disk) begin(verb string, now, d time.Duration) {
	if k.until == nil {
		k.until, k.once = make(map[string]time.Duration), make(map[string]bool)
	}
	if d == 0 {
		k.once[verb] = true
	} else {
		k.until[verb] = now + d
	}
}

// heal ends all that is wrong.
func (k *disk) heal() { k.until, k.once = nil, nil }

// wrong reports whether an operation is to fail, and that the next one is not if only one was to.
func (k *disk) wrong(verb string, now time.Duration) bool {
	if k.once[verb] {
		delete(k.once, verb)
		return true
	}
	return k.until[verb] > now
}

// troubled reports whether anything is wrong.
func (k *disk) troubled(now time.Duration) bool {
	return k.until != nil && (len(k.once) > 0 || slices.ContainsFunc(diskVerbs, func(verb string) bool { return k.until[verb] > now }))
}

// fails decides what becomes of an operation on a disk with which something is wrong: of a write so many bytes are
// done, and err says whether that is all that is known.
func (s *server) fails(op, path string, n int) (done int, err error) {
	c, k := s.cluster, &s.disk
	if c.checks.looking || !k.troubled(c.now) {
		return n, nil
	}
	wrong := func(verb string) bool { return k.wrong(verb, c.now) }
	switch op {
	case "read":
		if c.mayDamage(s, path) && wrong(badRead) {
			return 0, s.eio(op, path)
		}
	case "write":
		if wrong(badWrite) {
			return c.random.IntN(n + 1), s.eio(op, path)
		}
		if c.chance(2) && wrong(diskFull) {
			return c.random.IntN(n + 1), s.noSpace(op, path)
		}
	case "truncate":
		if wrong(badWrite) {
			return 0, s.eio(op, path)
		}
	case "allocate":
		if c.chance(2) && wrong(diskFull) {
			return 0, s.noSpace(op, path)
		}
	case "create", "open", "rename", "replace":
		if wrong(badName) {
			k.given = k.given || op == "open" // a replica that was not given is out of use until the next process
			return 0, s.eio(op, path)
		}
		if op == "create" && c.chance(2) && wrong(diskFull) {
			return 0, s.noSpace(op, path)
		}
	case "sync", "sync names":
		if c.chance(2) && wrong(badSync) { // the next one may well succeed
			return 0, s.failSync(op, path)
		}
	case "commit":
		if c.chance(2) && wrong(badIndex) {
			k.given = true
			return 0, s.eio(op, path)
		}
		if c.chance(3) && wrong(diskFull) {
			return 0, s.noSpace(op, path)
		}
	case "committed": // it was done, and nobody knows
		if wrong(badIndex) {
			k.given, k.doubt = true, true
			return 0, s.eio(op, path)
		}
	}
	return n, nil
}

func (s *server) eio(op, path string) error {
	s.disk.last = s.cluster.now
	s.cluster.note("%s: input/output error in %s of %s", s.life.name, op, filepath.Base(path))
	return syscall.EIO
}

func (s *server) noSpace(op, path string) error {
	s.disk.full, s.disk.last = s.cluster.now, s.cluster.now
	s.cluster.note("%s: no space for %s of %s", s.life.name, op, filepath.Base(path))
	return syscall.ENOSPC
}

// failSync is an fsync that fails: pages that were not on disk are lost, as far as somebody else has what was acknowledged
// of them, and the next fsync knows nothing of it.
func (s *server) failSync(op, path string) error {
	c := s.cluster
	s.disk.given = true
	lose := func(path string) error {
		if !c.power && !c.mayDamage(s, path) {
			return nil
		}
		return s.durable.forget(c.world, path)
	}
	var err error
	switch {
	case op == "sync names" || strings.Contains(path, "/patches/"):
	case chunkFile(path):
		err = lose(path)
	default:
		err = eachChunkFile(path, lose)
	}
	if err != nil {
		c.fail("set-up", "pages of %s: %v", path, err)
	}
	return s.eio(op, path)
}

// handleOf is the chunk whose replica a file belongs to, zero if that cannot be said.
func handleOf(path string) gfs.ChunkHandle {
	h, err := gfs.ParseChunkHandle(strings.TrimSuffix(filepath.Base(path), ".crc"))
	if err != nil {
		return 0
	}
	return h
}

// mayDamage reports whether a server's replica of a chunk may lose something for good, and if so that no other server's
// may from now on: in a script that leaves all other servers alone, where another replica counts as well.
func (c *cluster) mayDamage(s *server, path string) bool {
	h := handleOf(path)
	if !c.oneDisk || h == 0 {
		return false
	}
	chunk, logged := c.state.View().Chunk(h)
	if !logged {
		return false
	}
	for _, other := range c.servers {
		if other == s || !other.up() || other.server == nil {
			continue
		}
		replica, err := other.server.Store().Get(h)
		if err == nil && counts(replica.Status(), chunk) {
			return true
		}
	}
	return false
}

// counts reports whether a replica is good.
func counts(status store.Status, chunk namespace.Chunk) bool {
	return status.State == gfs.ReplicaMember && (status.Active == chunk.Version || status.Promised == chunk.Version)
}

// refusedForSpace checks that a client was rightly told that there is no space: its primary's disk was full, and of what
// it wanted nothing was done.
func (c *cluster) refusedForSpace(a *writer) bool {
	primary, h := c.byID[gfs.ServerID(a.location.Primary)], gfs.ChunkHandle(a.location.Handle)
	if primary.disk.full == 0 || primary.disk.full < c.now-requestPatience {
		return false
	}
	c.note("a client is told that %s has no space", primary.name)
	c.checks.looking = true
	defer func() { c.checks.looking = false }()
	chunk, logged := c.state.View().Chunk(h)
	for _, s := range c.servers {
		if a.id == 0 || !logged || !s.up() || s.server == nil {
			continue
		}
		replica, err := s.server.Store().Get(h)
		if err != nil || !counts(replica.Status(), chunk) {
			continue
		}
		if table, err := replica.Table(); err == nil {
			if _, outcome := table.Lookup(a.id, a.sequence); outcome != mutation.Unknown {
				c.fail(checkOnce, "append %d of writer %d to chunk %s was refused for lack of space, and is at %s", a.sequence, a.id, h, s.name)
			}
		}
	}
	return true
}

// mayRefuse checks that a client is told of a lack of space only where there is one: it would give up.
func (c *cluster) mayRefuse(err error) {
	lacks := func(s *server) bool { return s.disk.full > 0 && s.disk.full >= c.now-2*requestPatience }
	if gfs.CodeOf(err) == gfs.CodeNoSpace && !slices.ContainsFunc(c.servers, lacks) {
		c.fail("no error at a client", "a chunk: %v", err)
	}
}

// healDisk ends what is wrong with a disk. Where the process has given it up somebody puts another in its place, with what
// could be read of it, and starts the process again.
func (s *server) healDisk() {
	s.disk.heal()
	if !s.disk.given {
		return
	}
	s.cluster.after(s.cluster.between(0, replaceTime), nil, func() {
		s.crash()
		s.start()
	})
}

// befallDisk carries out a step about a server's disk.
func (s *server) befallDisk(verb string, d time.Duration) {
	switch {
	case verb != flipBit:
		s.disk.begin(verb, s.cluster.now, d)
	case s.up() && s.server != nil:
		s.cluster.flipOne(s)
	}
}

// settleDoubt takes what a new process finds promised, or made, for so since it was committed, though nobody was told.
func (s *server) settleDoubt() {
	if !s.disk.doubt {
		return
	}
	s.disk.doubt = false
	for _, status := range s.server.Store().Statuses(0, math.MaxInt32) {
		name := replicaName{s.name, status.Handle}
		before, known := s.cluster.checks.versions[name]
		if !known {
			before = status
		}
		before.Promised = max(before.Promised, status.Promised)
		s.cluster.checks.versions[name] = before
	}
}
