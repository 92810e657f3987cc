package chunkserver

import (
	"context"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// progress tells the master that an order is still at work; it may be called from any goroutine.
type progress func()

// onPrepare fences every version below the order's. It overtakes whatever waits for others: a grant, a chain that is
// being opened, a close. One that comes twice, or late, overtakes nothing.
func (c *chunk) onPrepare(order *pb.PrepareOrder, reply actors.Reply[*pb.PrepareReply], busy progress) {
	if replica, err := c.cs.store.Get(c.handle); err == nil {
		if err := stale(order, replica.Status()); err != nil {
			reply.Fail(err)
			return
		}
	}
	c.overtaken = true
	if c.cancel != nil {
		c.cancel()
	}
	if c.closing != nil {
		c.endClosing()
	}
	stop := c.sayBusy(busy)
	answer := func(status *pb.PrepareReply, err error) {
		stop()
		reply.Send(status, err)
	}
	c.queue(func() { c.prepare(order, answer) }, func(err error) {
		c.overtaken = false
		answer(nil, err)
	})
}

// sayBusy sends signs of life until stop is called.
func (c *chunk) sayBusy(busy progress) (stop func()) {
	over := false
	var timer *actors.Timer
	var say actors.Func[*chunk]
	say = func(c *chunk) {
		if !over {
			busy()
			timer = actors.After(c.entry.ref, gfs.PrepareBusyInterval, say)
		}
	}
	timer = actors.After(c.entry.ref, gfs.PrepareBusyInterval, say)
	return func() {
		over = true
		timer.Stop()
	}
}

func (c *chunk) prepare(order *pb.PrepareOrder, answer func(*pb.PrepareReply, error)) {
	c.overtaken = false
	replica, err := c.cs.store.Get(c.handle)
	if err == nil {
		status := replica.Status()
		err = stale(order, status)
		if err == nil && order.Joiner && (status.State != gfs.ReplicaLearner || order.Source.GetAddress() == "") {
			err = gfs.Errorf(gfs.CodeConflict, "chunk %s: a %s cannot join, or has nobody to take from: clone it first", c.handle, status.State)
		}
	}
	if err != nil {
		answer(nil, err)
		c.finish()
		return
	}
	c.freeze()
	c.dropPatch()
	c.whenDrained(func() {
		var status *pb.PrepareReply
		pool := c.cs.disk
		if order.Joiner {
			pool = c.cs.joiners
		}
		c.work(pool, func(ctx context.Context) (err error) {
			status, err = c.cs.promise(ctx, replica, order)
			return err
		}, func(err error) {
			answer(status, err)
			c.finish()
		})
	})
}

// stale is the error of a Prepare whose version is not above what the replica has promised.
func stale(order *pb.PrepareOrder, status store.Status) error {
	if version := gfs.Version(order.Version); version <= status.Promised {
		return gfs.Errorf(gfs.CodeStaleVersion, "chunk %s: version %s is not above %s, which is promised", status.Handle, version, status.Promised)
	}
	return nil
}

// promise is the slow part of Prepare: nothing is being written.
func (cs *Chunkserver) promise(ctx context.Context, replica *store.Replica, order *pb.PrepareOrder) (*pb.PrepareReply, error) {
	if err := replica.DiscardBeyondLength(); err != nil && gfs.CodeOf(err) != gfs.CodeConflict { // closed: nothing to discard
		return nil, err
	}
	if err := replica.Promise(gfs.Version(order.Version), gfs.Version(order.FromVersion), order.Joiner); err != nil {
		return nil, err
	}
	if order.Joiner {
		if err := cs.join(ctx, replica, order); err != nil {
			return nil, err
		}
	}
	digest, err := replica.Digest()
	if err != nil {
		return nil, err
	}
	status, sum := replica.Status(), digest.Sum()
	return &pb.PrepareReply{
		Promised: uint64(status.Promised), Active: uint64(status.Active), Length: status.Length, Digest: sum[:],
		State: uint32(status.State), CommitLength: status.CommitLength,
	}, nil
}

// onCreate makes an empty replica, which is active at once. The primary opens the chain by itself: mutations wait for
// it.
func (c *chunk) onCreate(order *pb.CreateOrder, reply actors.Reply[*pb.OrderReply]) {
	c.queue(func() {
		var replica *store.Replica
		c.work(c.cs.disk, func(context.Context) (err error) {
			if c.cs.deletions.has(c.handle) {
				return gfs.Errorf(gfs.CodeExist, "chunk %s was deleted here: handles are given out once", c.handle)
			}
			if replica, err = create(c.cs.store, c.handle, gfs.Version(order.Version)); err == nil && order.Stream {
				// Without room to be generous the pipeline tries again, for what it needs.
				_ = replica.Preallocate(gfs.ChunkSize)
			}
			return err
		}, func(err error) {
			if err != nil {
				reply.Fail(err)
				c.finish()
				return
			}
			reply.Ok(&pb.OrderReply{})
			if c.role != bystander || order.Members[0].Id != string(c.cs.ID()) {
				c.finish()
				return
			}
			c.endOrder(c.notPrimary()) // if the order came twice
			c.version, c.used, c.synced = gfs.Version(order.Version), c.cs.now(), order.Synced
			c.order = mutation.NewPrimary[*dataplane.Mutation](c.cs.now(), 0, new(mutation.Table), false)
			c.order.Freeze()
			configuration := configuration{version: c.version, members: order.Members, synced: order.Synced, fresh: true}
			c.activate(configuration, replica, func(_ int64, accused string, err error) {
				if err != nil && accused != "" {
					c.role, c.members, c.position = primary, order.Members, 0
					c.accuse(gfs.ServerID(accused), err.Error())
				}
			})
		})
	}, reply.Fail)
}

// create makes the replica; the same order again finds it.
func create(s *store.Store, handle gfs.ChunkHandle, version gfs.Version) (*store.Replica, error) {
	replica, err := s.Create(handle, version)
	if gfs.CodeOf(err) != gfs.CodeExist {
		return replica, err
	}
	if replica, found := s.Get(handle); found == nil {
		status := replica.Status()
		if status.Promised == version && status.Active == version && status.Length == 0 && status.Marked { // not closed since
			return replica, nil
		}
	}
	return nil, err
}

// onGrant makes this server the primary of a configuration. The answer comes when every member is active and equal.
func (c *chunk) onGrant(order *pb.GrantOrder, reply actors.Reply[*pb.GrantReply], busy progress) {
	version := gfs.Version(order.Version)
	stop := c.sayBusy(busy)
	fail := func(err error) {
		stop()
		reply.Fail(err)
	}
	c.queue(func() {
		if c.version == version && c.role == primary {
			stop()
			c.grantAgain(reply)
			c.finish()
			return
		}
		replica, err := c.cs.store.Get(c.handle)
		if err == nil {
			err = c.mayJoin(version)
		}
		believed := order.Believe && len(order.Members) == 1 && err == nil && replica.Status().State == gfs.ReplicaSuspect
		if err == nil && replica.Status().State != gfs.ReplicaMember && !believed {
			err = gfs.Errorf(gfs.CodeNoReplica, "chunk %s: a %s cannot be primary", c.handle, replica.Status().State)
		}
		if err != nil {
			fail(err)
			c.finish()
			return
		}
		c.freeze()
		c.whenDrained(func() {
			configuration := configuration{
				version: version, members: order.Members, synced: order.Synced, believed: believed, doubted: order.Doubted,
			}
			c.activate(configuration, replica, func(length int64, accused string, err error) {
				stop()
				switch {
				case accused != "":
					reply.Ok(&pb.GrantReply{Accused: accused})
				default:
					reply.Send(&pb.GrantReply{Length: length}, err)
				}
			})
		})
	}, fail)
}

// grantAgain answers an order that has been obeyed.
func (c *chunk) grantAgain(reply actors.Reply[*pb.GrantReply]) {
	if c.complaint != nil || c.order == nil {
		reply.Fail(gfs.Errorf(gfs.CodeConflict, "version %s of chunk %s has ended: grant a new one", c.version, c.handle))
		return
	}
	reply.Ok(&pb.GrantReply{Length: c.order.Commit()})
}

// activate brings every member of a configuration to this replica's state, and then is its primary. done hears the
// chunk's length, or who could not be brought in and why.
func (c *chunk) activate(conf configuration, replica *store.Replica, done func(length int64, accused string, err error)) {
	held := replica.Status().Active
	a := &activation{configuration: conf, cs: c.cs, replica: replica}
	c.work(c.cs.chainPool(0, len(conf.members)), a.run, func(err error) {
		defer c.finish()
		if c.overtaken {
			a.accused, err = "", gfs.Errorf(gfs.CodeStaleVersion, "version %s of chunk %s was overtaken by another", conf.version, c.handle)
		}
		if err != nil {
			if a.down != nil {
				a.down.Drop()
			}
			done(0, a.accused, err)
			return
		}
		c.becomePrimary(a, held)
		done(a.length, "", nil)
	})
}

// becomePrimary opens the chunk for mutation: every member is equal to this replica. held is the version whose content
// the replica held before.
func (c *chunk) becomePrimary(a *activation, held gfs.Version) {
	alone, now := len(a.members) == 1, c.cs.now()
	if c.order != nil && (c.version != held || !c.order.Drained() || c.order.Length() != a.length) {
		c.endOrder(c.notPrimary())
	}
	if c.order == nil {
		c.order = mutation.NewPrimary[*dataplane.Mutation](now, a.length, a.table, alone)
	} else {
		c.replies = c.order.Reopen(alone, c.replies)
	}
	c.role, c.version, c.members, c.position, c.synced = primary, a.version, a.members, 0, a.synced
	c.below, c.owedBelow, c.complaint, c.unheard = 0, false, nil, false
	c.used, c.ticked = now, -1
	a.replica.SetCommit(a.length)
	c.startPipeline(a.replica, a.down)
	c.entry.primaryIn.Store(uint64(a.version))
	c.lease = c.cs.leases.hold(c.handle, a.version, a.members, a.length)
	c.committed()
	c.wake(livelyPulse)
	c.log.WithField("version", c.version.String()).Debug("primary")
}

// onDigest answers a primary that brings its members up to date in a version, a joiner that takes from this replica, or
// whoever compares replicas (version 0).
func (c *chunk) onDigest(request *pb.Digest, reply func(*pb.DigestReply, *dataplane.Buffer)) {
	refuse := func(err error) { reply(&pb.DigestReply{Code: uint32(gfs.CodeOf(err)), Detail: err.Error()}, nil) }
	c.queue(func() {
		if version := gfs.Version(request.Version); version != 0 {
			if err := c.mayJoin(version); err != nil {
				refuse(err)
				c.finish()
				return
			}
		}
		c.whenDrained(func() {
			pool := c.cs.disk
			if len(request.Blocks) > 0 {
				pool = c.cs.network // it waits for the peer to take them
			}
			c.work(pool, func(context.Context) error {
				answer, data, err := c.cs.digest(c.handle, request)
				if err == nil {
					reply(answer, data)
				}
				return err
			}, func(err error) {
				defer c.finish()
				if err != nil {
					refuse(err)
				}
			})
		})
	}, refuse)
}

// digest is the slow part of onDigest.
func (cs *Chunkserver) digest(handle gfs.ChunkHandle, request *pb.Digest) (*pb.DigestReply, *dataplane.Buffer, error) {
	replica, err := cs.store.Get(handle)
	if err != nil {
		return nil, nil, err
	}
	digest, err := replica.Digest()
	if err != nil {
		return nil, nil, err
	}
	sum, status := digest.Sum(), replica.Status()
	reply := &pb.DigestReply{
		Length: digest.Length, Checksums: digest.Blocks, Digest: sum[:], UnknownBlocks: digest.Unknown,
		Active: uint64(status.Active), State: uint32(status.State),
	}
	if len(request.Blocks) == 0 && !request.Table {
		return reply, nil, nil
	}
	data, err := cs.readBlocks(replica, request, reply)
	return reply, data, err
}

// onDelete removes the replica if it still is as stated and takes part in no version here.
func (c *chunk) onDelete(stated *pb.ReplicaStatus, done func()) {
	c.queue(func() {
		if c.role != bystander {
			c.log.Debug("replica not deleted: it is open here")
			done()
			c.finish()
			return
		}
		c.whenDrained(func() {
			c.work(c.cs.disk, func(context.Context) error {
				return c.cs.store.Delete(c.handle, store.Status{
					Handle: c.handle, Promised: gfs.Version(stated.Promised), Active: gfs.Version(stated.Active),
					Length: stated.Length, State: gfs.ReplicaState(stated.State), Marked: stated.Marked,
				})
			}, func(err error) {
				if err != nil {
					c.log.WithError(err).Debug("replica not deleted")
				} else {
					c.cs.deletions.add(c.handle, c.cs.now())
				}
				done()
				c.finish()
			})
		})
	}, func(error) { done() })
}
