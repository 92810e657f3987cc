package chunkserver

import (
	"bytes"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// configuration is a version of a chunk with its members, primary first.
type configuration struct {
	version gfs.Version
	members []*pb.Server
	synced  bool
	fresh   bool // made by CreateOrder: the other members may not have their replicas yet
	// believed says that the replica is suspect, as all are, and that there is none better.
	believed bool
	// doubted are members that somebody found silent a moment ago, though they answer the master.
	doubted []string
}

// activation is the slow part of becoming a primary: it activates the replica, opens the chain, and makes members
// that differ equal to this one. The primary's state wins: any member's state holds all that was acknowledged.
type activation struct {
	configuration
	cs      *Chunkserver
	replica *store.Replica

	// The outcome.
	length  int64
	table   *mutation.Table
	down    Downstream
	accused string // the member that could not be brought in
}

// Bounds of one activation.
const (
	// maxReconciles is how often members are made equal before one that still differs is accused.
	maxReconciles = 3
	// createPatience is how long a new chunk's members have to make their replicas.
	createPatience = 3 * time.Second
	createPause    = 10 * time.Millisecond
	// openTimeout is what the members have to open their chain, all of them, and memberTimeout what one has to answer
	// a request, as long as they answer pings: a member must be named before the master gives its primary up.
	openTimeout   = 6 * time.Second
	memberTimeout = 6 * time.Second
	// busyPatience is how long members without room are asked again.
	busyPatience = 3 * time.Second
	busyPause    = 50 * time.Millisecond
	// activateTimeout bounds all of it: a chunk of differences over a slow link.
	activateTimeout = 30 * time.Second
	// patchBytes is how much of a patch travels in one frame.
	patchBytes = 4 << 20
)

// run fails with an error, and with accused set if it is a member's fault. It ends with ctx; that is nobody's fault.
func (a *activation) run(ctx context.Context) error {
	bounded, cancel := a.cs.around.WithTimeout(ctx, activateTimeout)
	defer cancel()
	err := a.bringIn(bounded)
	if ctx.Err() != nil {
		a.accused = ""
	}
	return err
}

func (a *activation) bringIn(ctx context.Context) error {
	if a.believed {
		torn, err := a.replica.Believe()
		if err != nil {
			return err
		}
		for _, block := range torn {
			a.cs.tellTorn(a.replica.Handle(), block)
		}
	}
	if err := a.replica.Activate(a.version); err != nil {
		return err
	}
	digest, err := a.replica.Digest()
	if err != nil {
		return err
	}
	if len(digest.Unknown) > 0 {
		if digest, err = a.settleUnknown(ctx, digest); err != nil {
			return err
		}
	}
	if a.table, err = a.replica.Table(); err != nil {
		return err
	}
	a.length = digest.Length
	if err := settleOnDisk(a.replica, a.synced); err != nil {
		return err
	}
	if len(a.members) == 1 {
		return nil
	}
	return a.openChain(ctx, digest)
}

// settleOnDisk makes what a replica holds durable before it takes part in a version, where acknowledgements promise that: a
// process that ended between a write and its fsync has left what no later fsync of a mutation need cover, and a retry
// of it is acknowledged at once.
func settleOnDisk(replica *store.Replica, synced bool) error {
	if !synced || replica.Status().Length == 0 {
		return nil
	}
	return replica.Sync()
}

func (a *activation) openChain(ctx context.Context, digest store.Digest) error {
	sum := digest.Sum()
	open := &pb.ChainOpen{
		Handle: uint64(a.replica.Handle()), Version: uint64(a.version), Members: a.members, Position: 1,
		Digest: sum[:], Length: digest.Length, CommitLength: a.replica.Status().CommitLength, Synced: a.synced,
		Doubted: a.doubted,
	}
	began := a.cs.now()
	for reconciled := 0; ; {
		down, opened, err := a.cs.openBelow(ctx, open)
		switch {
		case err != nil:
			a.accused = a.members[1].Id
			return err
		case gfs.Code(opened.Code) == gfs.CodeBusy && a.cs.now().Sub(began) < busyPatience: // somebody has no room, and is well
			if err := a.cs.around.Pause(ctx, busyPause); err != nil {
				return err
			}
		case gfs.Code(opened.Code) == gfs.CodeNoReplica && a.fresh && a.cs.now().Sub(began) < createPatience:
			if err := a.cs.around.Pause(ctx, createPause); err != nil {
				return err
			}
		case opened.Code != 0:
			if a.accused = opened.Accused; a.accused == "" {
				a.accused = a.members[1].Id
			}
			return gfs.FromCode(gfs.Code(opened.Code), opened.Detail)
		case len(opened.Differing) == 0:
			a.down = down
			return nil
		case reconciled == maxReconciles:
			a.accused = opened.Differing[0]
			return gfs.Errorf(gfs.CodeConflict, "chunkserver %s still differs after %d patches", a.accused, reconciled)
		default:
			reconciled++
			if err := a.reconcileAll(ctx, opened.Differing, digest); err != nil {
				return err
			}
		}
	}
}

// openBelow opens the chain at the member at open.Position. Those further down get less time, so that it is the one
// just before a member that is silent who names it.
func (cs *Chunkserver) openBelow(ctx context.Context, open *pb.ChainOpen) (Downstream, *pb.ChainOpened, error) {
	n := len(open.Members)
	ctx, cancel := cs.around.WithTimeout(ctx, openTimeout*time.Duration(n-int(open.Position))/time.Duration(n-1))
	defer cancel()
	next, attended := open.Members[open.Position], cs.attended
	if slices.Contains(open.Doubted, next.Id) {
		attended = cs.attendedAtOnce
	}
	ctx, release := attended(ctx, next.Address)
	defer release()
	return cs.around.OpenChain(ctx, open)
}

// callMember sends a request to a member and waits for its answer.
func (cs *Chunkserver) callMember(ctx context.Context, member *pb.Server, op wire.Op, request, reply proto.Message, payload ...[]byte) error {
	ctx, cancel := cs.around.WithTimeout(ctx, memberTimeout)
	defer cancel()
	ctx, release := cs.attended(ctx, member.Address)
	defer release()
	return cs.around.Call(ctx, member.Address, op, request, reply, payload...)
}

func (a *activation) reconcileAll(ctx context.Context, differing []string, digest store.Digest) error {
	for _, id := range differing {
		at := slices.IndexFunc(a.members, func(m *pb.Server) bool { return m.Id == id })
		if at < 1 {
			a.accused = a.members[1].Id
			return gfs.Errorf(gfs.CodeInvalid, "chunkserver %q is said to differ and is no member", id)
		}
		a.accused = id // unless it turns out that nobody but this server is to blame
		if err := a.reconcile(ctx, a.members[at], digest); err != nil {
			return err
		}
		a.accused = ""
	}
	return nil
}

// reconcile makes one member equal: it gets the blocks that differ, the length and the append table.
func (a *activation) reconcile(ctx context.Context, member *pb.Server, digest store.Digest) error {
	var theirs pb.DigestReply
	request := &pb.Digest{Handle: uint64(a.replica.Handle()), Version: uint64(a.version)}
	if err := a.cs.callMember(ctx, member, wire.OpDigest, request, &theirs); err != nil {
		return err
	}
	if theirs.Code != 0 {
		return gfs.FromCode(gfs.Code(theirs.Code), theirs.Detail)
	}
	var blocks []uint32
	for i, sum := range digest.Blocks {
		block := uint32(i)
		if i >= len(theirs.Checksums) || theirs.Checksums[i] != sum || slices.Contains(theirs.UnknownBlocks, block) {
			blocks = append(blocks, block)
		}
	}
	a.cs.log.WithFields(map[string]any{
		"chunk": a.replica.Handle().String(), "version": a.version.String(), "member": member.Id, "blocks": len(blocks),
		"length": digest.Length, "member_length": theirs.Length,
	}).Info("reconcile")
	sum := digest.Sum()
	for {
		n := min(len(blocks), patchBytes/gfs.BlockSize)
		patch := &pb.Patch{
			Handle: request.Handle, Version: request.Version, Length: digest.Length, Blocks: blocks[:n],
			More: n < len(blocks), Digest: sum[:],
		}
		if err := a.sendPatch(ctx, member, patch); err != nil {
			return err
		}
		if blocks = blocks[n:]; len(blocks) == 0 {
			return nil
		}
	}
}

// sendPatch sends some of the blocks, and with the last ones the table.
func (a *activation) sendPatch(ctx context.Context, member *pb.Server, patch *pb.Patch) error {
	buffer := a.cs.pool.Get((len(patch.Blocks) + 1) * gfs.BlockSize)
	defer buffer.Release()
	data := buffer.Data[:0]
	for _, block := range patch.Blocks {
		room := data[len(data) : len(data)+gfs.BlockSize]
		content, err := a.replica.Block(room, block)
		if err != nil { // another member has to be the primary, and this one may be worth nothing
			a.accused = ""
			a.cs.tellCorrupt(a.replica.Handle(), err.Error())
			return err
		}
		data = data[:len(data)+len(content)]
		patch.Checksums = append(patch.Checksums, wire.Checksum(content))
	}
	payload := [][]byte{data}
	if !patch.More {
		table := a.table.AppendBinary(nil)
		patch.TableBytes = uint32(len(table))
		payload = append(payload, table)
	}
	var reply pb.PatchReply
	if err := a.cs.callMember(ctx, member, wire.OpPatch, patch, &reply, payload...); err != nil {
		return err
	}
	return gfs.FromCode(gfs.Code(reply.Code), reply.Detail)
}

// patchInProgress is what a member has received of a patch.
type patchInProgress struct {
	version gfs.Version
	blocks  []store.PatchBlock
	buffers []*dataplane.Buffer
}

// dropPatch forgets a patch that was not completed.
func (c *chunk) dropPatch() {
	if c.patch != nil {
		for _, b := range c.patch.buffers {
			b.Release()
		}
		c.patch = nil
	}
}

// onPatch collects a patch from the primary and, with its last part, applies it.
func (c *chunk) onPatch(request *pb.Patch, payload *dataplane.Buffer, reply func(error)) {
	refuse := func(err error) {
		payload.Release()
		reply(err)
	}
	c.queue(func() {
		if err := c.mayJoin(gfs.Version(request.Version)); err != nil {
			refuse(err)
			c.finish()
			return
		}
		if c.role != bystander && c.version == gfs.Version(request.Version) && (c.role == primary || c.follow.Started()) {
			refuse(gfs.Errorf(gfs.CodeConflict, "version %s of chunk %s has mutations already", c.version, c.handle))
			c.finish()
			return
		}
		c.freeze()
		if c.patch != nil && c.patch.version != gfs.Version(request.Version) {
			c.dropPatch()
		}
		if c.patch == nil {
			c.patch = &patchInProgress{version: gfs.Version(request.Version)}
		}
		c.patch.buffers = append(c.patch.buffers, payload)
		table, err := c.patch.add(request, payload.Data)
		if err != nil || request.More {
			if err != nil {
				c.dropPatch()
			}
			reply(err)
			c.finish()
			return
		}
		c.endOrder(c.notPrimary())
		c.whenDrained(func() { c.applyPatch(request, table, reply) })
	}, refuse)
}

// add takes apart one part of a patch; table is set in the last.
func (p *patchInProgress) add(request *pb.Patch, data []byte) (table *mutation.Table, err error) {
	bad := func(what string) (*mutation.Table, error) {
		return nil, gfs.Errorf(gfs.CodeInvalid, "patch of chunk %016x: %s", request.Handle, what)
	}
	if len(request.Blocks) != len(request.Checksums) || len(p.blocks)+len(request.Blocks) > gfs.BlocksPerChunk {
		return bad("more blocks than a chunk has, or not a checksum for each")
	}
	if request.Length < 0 || request.Length > gfs.ChunkSize || int(request.TableBytes) > len(data) {
		return bad("length or table out of bounds")
	}
	data, encoded := data[:len(data)-int(request.TableBytes)], data[len(data)-int(request.TableBytes):]
	for i, block := range request.Blocks {
		n := int(min(gfs.BlockSize, request.Length-int64(block)*gfs.BlockSize))
		if n <= 0 || n > len(data) {
			return bad("a block beyond its length or its data")
		}
		p.blocks = append(p.blocks, store.PatchBlock{Index: block, Data: data[:n:n], CRC: request.Checksums[i]})
		data = data[n:]
	}
	if len(data) > 0 {
		return bad("data of no block")
	}
	if request.More {
		return nil, nil
	}
	return mutation.ParseTable(encoded)
}

// applyPatch makes this replica what the primary's is; the chain is then opened anew.
func (c *chunk) applyPatch(request *pb.Patch, table *mutation.Table, reply func(error)) {
	patch := c.patch
	c.work(c.cs.disk, func(context.Context) error {
		replica, err := c.cs.store.Get(c.handle)
		if err != nil {
			return err
		}
		err = replica.ApplyPatch(store.Patch{
			Length: request.Length, Commit: replica.Status().CommitLength, Active: gfs.Version(request.Version),
			State: gfs.ReplicaMember, Blocks: patch.blocks, Table: table,
		})
		if err != nil {
			return err
		}
		digest, err := replica.Digest()
		if sum := digest.Sum(); err == nil && !bytes.Equal(sum[:], request.Digest) {
			err = gfs.Errorf(gfs.CodeConflict, "chunk %s differs from the primary's after the patch", c.handle)
		}
		return err
	}, func(err error) {
		c.dropPatch()
		reply(err)
		c.finish()
	})
}
