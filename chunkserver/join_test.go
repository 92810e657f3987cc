package chunkserver_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// clone orders server i to come close to a source's state in a version.
func (r *rig) clone(i int, handle gfs.ChunkHandle, version gfs.Version, source int) (int, error) {
	reply := &pb.CloneReply{}
	err := r.order(i, messages.CommandClone, &pb.CloneOrder{
		Header: r.header(i), Handle: uint64(handle), Version: uint64(version), Promise: uint64(r.nextVersion()), Source: r.member(source),
	}, reply)
	return int(reply.DifferingBlocks), err
}

// joining is an answer to a joiner's Prepare.
type joining struct {
	reply *pb.PrepareReply
	err   error
}

// prepareJoiner tells server i of a version while others are told.
func (r *rig) prepareJoiner(i int, handle gfs.ChunkHandle, version, from gfs.Version, source int) <-chan joining {
	answer := make(chan joining, 1)
	go func() {
		reply := &pb.PrepareReply{}
		err := r.order(i, messages.CommandPrepare, &pb.PrepareOrder{
			Header: r.header(i), Handle: uint64(handle), Version: uint64(version), FromVersion: uint64(from), Joiner: true, Source: r.member(source),
		}, reply)
		answer <- joining{reply, err}
	}()
	return answer
}

// join makes server i a member beside the given ones, the first of which stays primary.
func (r *rig) join(i int, handle gfs.ChunkHandle, from gfs.Version, numbers ...int) gfs.Version {
	r.t.Helper()
	version := r.nextVersion()
	joiner := r.prepareJoiner(i, handle, version, from, numbers[len(numbers)-1])
	var digest []byte
	for _, n := range numbers {
		reply, err := r.prepare(n, handle, version, from)
		if err != nil {
			r.t.Fatalf("prepare at server %d: %v", n, err)
		}
		digest = reply.Digest
	}
	answer := <-joiner
	if answer.err != nil {
		r.t.Fatalf("the joiner: %v", answer.err)
	}
	if state := gfs.ReplicaState(answer.reply.State); state != gfs.ReplicaLearner || !bytes.Equal(answer.reply.Digest, digest) {
		r.t.Fatalf("the joiner is a %s with digest %x, the source has %x", state, answer.reply.Digest, digest)
	}
	r.logged.Store(uint64(handle), uint64(version))
	if reply, err := r.grant(handle, version, append(numbers, i)...); err != nil || reply.Accused != "" {
		r.t.Fatalf("grant: %v, accused %q", err, reply.GetAccused())
	}
	return version
}

func TestStaleAndEmptyReplicasJoin(t *testing.T) {
	r := newRig(t, 4)
	const handle = gfs.ChunkHandle(7)
	first := r.create(handle, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())
	want := pattern(1, 3<<20+777)
	for at := 0; at < len(want); at += 1 << 20 {
		must(t, c.write(handle, first, int64(at), want[at:min(at+1<<20, len(want))]))
	}
	r.stop(2)
	second := r.reconfigure(handle, first, 0, 1)
	overwrite := func(version gfs.Version, at int, data []byte) {
		must(t, c.write(handle, version, int64(at), data))
		want = append(want[:at], append(bytes.Clone(data), want[min(at+len(data), len(want)):]...)...)
	}
	overwrite(second, 70_000, pattern(2, 200_000))
	must(t, c.append(handle, second, 5, 1, pattern(3, 5000)))
	want = append(want, pattern(3, 5000)...)
	overwrite(second, len(want), pattern(4, 2<<20))
	r.start(2)

	version := second
	members := []int{0, 1}
	for _, joiner := range []int{2, 3} {
		differing, err := r.clone(joiner, handle, version, 0)
		if err != nil || differing >= gfs.JoinBlocks {
			t.Fatalf("the clone on server %d: %d blocks differ, %v", joiner, differing, err)
		}
		reader := dial(t, r.servers[joiner].Addr())
		if reply, _ := reader.read(&pb.Read{Handle: uint64(handle), Length: 1}); gfs.Code(reply.Code) != gfs.CodeNoReplica {
			t.Errorf("a learner answers a reader with %s", gfs.Code(reply.Code))
		}
		// More comes before the attempt.
		overwrite(version, 1_000_000, pattern(uint64(5+joiner), 100_000))
		must(t, c.append(handle, version, 6, uint64(joiner), pattern(9, 3000)))
		want = append(want, pattern(9, 3000)...)
		version = r.join(joiner, handle, version, members...)
		members = append(members, joiner)
		must(t, c.append(handle, version, 6, uint64(10+joiner), pattern(8, 3000)))
		want = append(want, pattern(8, 3000)...)
		if got := reader.readAll(handle, version, int64(len(want))); !bytes.Equal(got, want) {
			t.Fatalf("server %d holds other bytes", joiner)
		}
		if state, err := r.clone(joiner, handle, version, 0); gfs.CodeOf(err) != gfs.CodeConflict {
			t.Errorf("a member was cloned: %d, %v", state, err)
		}
	}
	// The table came along: the joiner as a primary knows a retry.
	version = r.reconfigure(handle, version, 3, 0)
	c = dial(t, r.servers[3].Addr())
	if got := must(t, c.append(handle, version, 5, 1, pattern(3, 5000))); got.offset != 3<<20+777 {
		t.Errorf("a retry at the joiner has offset %d, want %d", got.offset, 3<<20+777)
	}
}

func TestJoinersThatCannotJoinAreRefused(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(7)
	first := r.create(handle, 0, 1)
	c := dial(t, r.servers[0].Addr())
	must(t, c.write(handle, first, 0, pattern(1, 300_000)))

	// A member is none, and a server without a replica has to be cloned first.
	for i, code := range map[int]gfs.Code{1: gfs.CodeConflict, 2: gfs.CodeNoReplica} {
		if answer := <-r.prepareJoiner(i, handle, r.nextVersion(), first, 0); gfs.CodeOf(answer.err) != code {
			t.Errorf("joiner at server %d: %v, want %s", i, answer.err, code)
		}
	}
	if _, err := r.clone(2, handle, r.nextVersion(), 0); gfs.CodeOf(err) != gfs.CodeStaleVersion {
		t.Errorf("clone of a version that the source has not: %v", err)
	}
	if differing, err := r.clone(2, handle, first, 0); err != nil || differing != 0 {
		t.Fatalf("clone: %d blocks differ, %v", differing, err)
	}
	// The source never promises: the joiner gives up in time, and the chunk goes on.
	began := time.Now()
	if answer := <-r.prepareJoiner(2, handle, r.nextVersion(), first, 0); gfs.CodeOf(answer.err) != gfs.CodeUnavailable {
		t.Errorf("a joiner without a source: %v", answer.err)
	}
	if took := time.Since(began); took > 2*gfs.JoinTimeout {
		t.Errorf("the joiner gave up after %v", took)
	}
	must(t, c.append(handle, first, 1, 1, pattern(2, 1000)))
	if version := r.join(2, handle, first, 0, 1); version == 0 {
		t.Error("it cannot join later")
	}
}

// A learner that dies half way is a learner when it comes back, and the next clone goes on.
func TestLearnerSurvivesARestart(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(7)
	first := r.create(handle, 0, 1)
	c := dial(t, r.servers[0].Addr())
	must(t, c.write(handle, first, 0, pattern(1, 300_000)))
	if _, err := r.clone(2, handle, first, 1); err != nil {
		t.Fatal(err)
	}
	r.stop(2)
	r.start(2)
	if reply, _ := dial(t, r.servers[2].Addr()).read(&pb.Read{Handle: uint64(handle), Length: 1}); gfs.Code(reply.Code) != gfs.CodeNoReplica {
		t.Errorf("a learner answers a reader with %s", gfs.Code(reply.Code))
	}
	if differing, err := r.clone(2, handle, first, 1); err != nil || differing != 0 {
		t.Fatalf("clone: %d blocks differ, %v", differing, err)
	}
	version := r.join(2, handle, first, 0, 1)
	if got := dial(t, r.servers[2].Addr()).readAll(handle, version, 300_000); !bytes.Equal(got, pattern(1, 300_000)) {
		t.Error("the joiner holds other bytes")
	}
}

// A joiner gives up as soon as its source has not answered one ping: it may join another time.
func TestAJoinerGivesASilentSourceOnePing(t *testing.T) {
	t.Parallel()
	soon := sooner(func() bool {
		r := newRig(t, 2)
		source := newMute(t, false).member()
		version := r.create(7, 0)
		if _, err := r.clone(1, 7, version, 0); err != nil {
			t.Fatal(err)
		}
		return r.order(1, messages.CommandPrepare, &pb.PrepareOrder{
			Header: r.header(1), Handle: 7, Version: uint64(r.nextVersion()), FromVersion: uint64(version), Joiner: true, Source: source,
		}, &pb.PrepareReply{}) != nil
	})
	if !soon {
		t.Error("it gave up later than two pings need")
	}
}

// A joiner whose source has stopped gives up soon: mutations wait for it. The stop is known already to one that begins while
// the first still waits.
func TestJoinersWhoseSourceStoppedGiveUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	source := newMute(t, false).member()
	var learners []gfs.Version
	for i := range gfs.MaxServerJoins {
		handle := gfs.ChunkHandle(7 + i)
		version := r.create(handle, 0)
		if _, err := r.clone(1, handle, version, 0); err != nil {
			t.Fatal(err)
		}
		learners = append(learners, version)
	}
	type end struct {
		err  error
		took time.Duration
	}
	ends := make(chan end, len(learners))
	for i, version := range learners {
		if i > 0 {
			<-time.After(gfs.MemberSilence * 6 / 5) // the source has been pinged once in vain
		}
		order := &pb.PrepareOrder{
			Header: r.header(1), Handle: uint64(7 + i), Version: uint64(r.nextVersion()), FromVersion: uint64(version), Joiner: true, Source: source,
		}
		go func() {
			began := time.Now()
			err := r.order(1, messages.CommandPrepare, order, &pb.PrepareReply{})
			ends <- end{err, time.Since(began)}
		}()
	}
	for i := range learners {
		e := <-ends
		t.Logf("gave up after %v: %v", e.took, e.err)
		if limit := gfs.JoinTimeout * 3 / 4; e.err == nil || e.took > limit {
			t.Errorf("joiner %d: %v after %v, want an error within %v", i, e.err, e.took, limit)
		}
	}
}
