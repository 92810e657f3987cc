package lease

import (
	"fmt"
	"slices"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"pgregory.net/rapid"
)

// This file runs the core against model chunkservers: messages are late, lost and repeated, processes restart,
// the registry is behind the times, and a second master takes over while the first one still sends. After every
// step, each good replica must hold every acknowledged mutation, and there must be a good replica.

// modelReplica is one chunkserver's replica. What is durable survives a restart.
type modelReplica struct {
	id       gfs.ServerID
	active   gfs.Version // durable
	promised gfs.Version // durable
	epoch    gfs.Epoch   // durable
	data     uint64      // durable: a bit a mutation
	learner  bool        // durable

	incarnation gfs.Incarnation
	role        *modelRole
	landing     []int // mutations that were accepted and are on their way to the disk
}

type modelRole struct {
	version    gfs.Version
	members    []gfs.ServerID
	reconciled map[gfs.ServerID]bool
	answer     func(GrantAnswer) // not yet called
}

type modelMutation struct {
	version gfs.Version
	members []gfs.ServerID
	applied map[gfs.ServerID]bool
	acked   bool
}

type modelMaster struct {
	epoch    gfs.Epoch
	attempts uint32
	core     *Chunk
	known    map[gfs.ServerID]registry.Replica // what its registry was told
	record   *pb.Record                        // on its way to the log
	acting   bool
}

type world struct {
	t         *rapid.T
	now       time.Time
	logged    Logged
	epoch     gfs.Epoch
	restored  gfs.Epoch // the first epoch after the log was restored, 0 if it never was
	replicas  []*modelReplica
	masters   []*modelMaster
	soup      []func() // messages under way; each is delivered at most once
	mutations []*modelMutation
	told      map[gfs.Version][]gfs.ServerID
	joiners   map[gfs.Version]gfs.ServerID   // among told
	promises  map[gfs.Version][]gfs.ServerID // who answered a Prepare
	digests   map[gfs.Version][]string       // and with what
	grants    map[gfs.Version]modelGrant
	waiting   map[uint64]bool
	waiter    uint64
	calm      bool // no message is lost
	opened    int
	joined    int // joiners that became members
	late      int // joiners that were left out
}

// newWorld has n members and some servers without a replica.
func newWorld(t *rapid.T, n, spare int) *world {
	first := gfs.NewVersion(1, 1)
	w := &world{
		t: t, now: time.Unix(1_000_000, 0), epoch: 1, logged: Logged{Version: first, Members: n, Open: true, Replicas: n + spare},
		told: map[gfs.Version][]gfs.ServerID{}, promises: map[gfs.Version][]gfs.ServerID{}, grants: map[gfs.Version]modelGrant{},
		waiting: map[uint64]bool{}, joiners: map[gfs.Version]gfs.ServerID{}, digests: map[gfs.Version][]string{},
	}
	var ids []gfs.ServerID
	for i := range n {
		ids = append(ids, gfs.ServerID(rune('a'+i)))
		w.replicas = append(w.replicas, &modelReplica{id: ids[i], active: first, promised: first, epoch: 1, incarnation: 1})
	}
	for i := range spare {
		w.replicas = append(w.replicas, &modelReplica{id: gfs.ServerID(rune('a' + n + i)), incarnation: 1})
	}
	reconciled := map[gfs.ServerID]bool{}
	for _, id := range ids {
		reconciled[id] = true
	}
	w.replicas[0].role = &modelRole{version: first, members: ids, reconciled: reconciled}
	w.grants[first] = modelGrant{process{ids[0], 1}, ids}
	w.masters = []*modelMaster{{epoch: 1, attempts: 1, acting: true, known: map[gfs.ServerID]registry.Replica{}}}
	for i := range w.replicas {
		w.hear(w.masters[0], i)
	}
	return w
}

func (w *world) replica(id gfs.ServerID) *modelReplica {
	return w.replicas[slices.IndexFunc(w.replicas, func(r *modelReplica) bool { return r.id == id })]
}

func (r *modelReplica) server() placement.Server {
	return placement.Server{ID: r.id, Address: string(r.id) + ":1"}
}

// hear tells a master's registry how replica i is now.
func (w *world) hear(m *modelMaster, i int) {
	r := w.replicas[i]
	if r.promised == 0 {
		return // it has no replica
	}
	m.known[r.id] = registry.Replica{
		Server: r.server(), Incarnation: r.incarnation, Up: true, Active: r.active, Promised: r.promised, State: r.state(),
	}
}

func (r *modelReplica) state() gfs.ReplicaState {
	if r.learner {
		return gfs.ReplicaLearner
	}
	return gfs.ReplicaMember
}

// good is what the whole design is about.
func (r *modelReplica) good(logged gfs.Version) bool {
	return !r.learner && (r.active == logged || r.promised == logged)
}

func (r *modelReplica) digest() string { return fmt.Sprint(r.data) }

// core is a master's core, made from the log if it has none.
func (w *world) core(m *modelMaster) *Chunk {
	if m.core == nil {
		m.core = New(Config{Handle: 7, ActingSince: w.now.Add(-time.Hour), Restored: w.restored, NextVersion: func() gfs.Version {
			m.attempts++
			return gfs.NewVersion(m.epoch, m.attempts)
		}}, w.logged)
	}
	return m.core
}

// carry does what a master's core wants.
func (w *world) carry(m *modelMaster) {
	out := m.core.Take()
	if out.Record != nil {
		if m.record != nil {
			w.t.Fatal("a second record while the outcome of the first is not known")
		}
		m.record = out.Record
	}
	for _, order := range out.Orders {
		w.send(m, order)
	}
	for _, a := range out.Answers {
		if !w.waiting[a.Waiter] {
			w.t.Fatalf("waiter %d was answered twice or never asked", a.Waiter)
		}
		delete(w.waiting, a.Waiter)
		if a.Err == nil && a.Location.Version != 0 {
			w.opened++
			if g := w.grants[a.Location.Version]; g.primary.id != a.Location.Primary {
				w.t.Fatalf("a client hears of primary %s in %s, which was granted to %s", a.Location.Primary, a.Location.Version, g.primary.id)
			}
		}
	}
	if out.Locate {
		known := make([]registry.Replica, 0, len(m.known))
		for _, r := range w.replicas {
			if k, heard := m.known[r.id]; heard {
				known = append(known, k)
			}
		}
		core := m.core
		core.Located(known, w.now)
		w.carry(m)
	}
	if out.Done && m.core.Phase() != Open {
		m.core = nil
	}
}

// send puts an order into the soup, and checks what must hold of orders.
func (w *world) send(m *modelMaster, order Order) {
	core := m.core
	deliver := func(f func(c *Chunk)) {
		w.soup = append(w.soup, func() {
			if m.core == core { // else the actor has gone
				f(core)
				w.carry(m)
			}
		})
	}
	switch order.Kind {
	case Prepare:
		if slices.Contains(w.told[order.Version], order.To.ID) {
			w.t.Fatalf("%s was told of %s twice", order.To.ID, order.Version)
		}
		w.told[order.Version] = append(w.told[order.Version], order.To.ID)
		if order.Joiner {
			w.joiners[order.Version] = order.To.ID
		}
		w.soup = append(w.soup, func() {
			w.prepare(m.epoch, order, func(a PrepareAnswer) {
				deliver(func(c *Chunk) { c.PrepareAnswered(order.To.ID, order.Version, a, w.now) })
			})
		})
	case Clone:
		w.soup = append(w.soup, func() {
			w.clone(m.epoch, order, func(differing int, err error) {
				deliver(func(c *Chunk) { c.CloneAnswered(order.To.ID, order.Version, differing, err, w.now) })
			})
		})
	case Probe:
		w.soup = append(w.soup, func() { deliver(w.probe(m.epoch, order)) })
	case Grant:
		w.checkGrant(order)
		w.soup = append(w.soup, func() {
			w.grant(m.epoch, order, func(a GrantAnswer) {
				deliver(func(c *Chunk) { c.GrantAnswered(order.To.ID, order.Version, a, w.now) })
			})
		})
	}
}

// check is what a chunkserver checks of every order.
func (w *world) check(epoch gfs.Epoch, order Order) (*modelReplica, error) {
	r := w.replica(order.To.ID)
	switch {
	case r.incarnation != order.To.Incarnation:
		return r, gfs.Errorf(gfs.CodeWrongIncarnation, "")
	case epoch < r.epoch:
		return r, gfs.Errorf(gfs.CodeStaleEpoch, "")
	}
	r.epoch = epoch
	return r, nil
}

func (w *world) prepare(epoch gfs.Epoch, order Order, answer func(PrepareAnswer)) {
	r, err := w.check(epoch, order)
	if err != nil {
		answer(PrepareAnswer{Err: err})
		return
	}
	if order.Version <= r.promised {
		answer(PrepareAnswer{Err: gfs.Errorf(gfs.CodeStaleVersion, "promised %s", r.promised)})
		return
	}
	for len(r.landing) > 0 { // the drain: what was handed to the disk lands first
		w.land(r)
	}
	if order.Joiner && !r.learner {
		answer(PrepareAnswer{Err: gfs.Errorf(gfs.CodeConflict, "a member cannot join")})
		return
	}
	if r.promised == order.From && !r.learner {
		r.active = order.From
	}
	r.promised, r.role = order.Version, nil
	if order.Joiner {
		w.fetch(r, order, answer)
		return
	}
	w.promised(r, answer)
}

func (w *world) promised(r *modelReplica, answer func(PrepareAnswer)) {
	w.promises[r.promised] = append(w.promises[r.promised], r.id)
	w.digests[r.promised] = append(w.digests[r.promised], r.digest())
	answer(PrepareAnswer{Promised: r.promised, Active: r.active, Length: int64(r.data % gfs.ChunkSize), State: r.state(), Digest: r.digest()})
}

func (w *world) grant(epoch gfs.Epoch, order Order, answer func(GrantAnswer)) {
	r, err := w.check(epoch, order)
	switch {
	case err != nil:
		answer(GrantAnswer{Err: err})
	case r.promised != order.Version:
		answer(GrantAnswer{Err: gfs.Errorf(gfs.CodeStaleVersion, "promised %s", r.promised)})
	default:
		r.active = order.Version
		r.role = &modelRole{version: order.Version, reconciled: map[gfs.ServerID]bool{r.id: true}, answer: answer}
		for _, s := range order.Members {
			r.role.members = append(r.role.members, s.ID)
		}
		w.finishGrant(r)
	}
}

func (w *world) finishGrant(p *modelReplica) {
	if len(p.role.reconciled) == len(p.role.members) && p.role.answer != nil {
		p.role.answer(GrantAnswer{Length: int64(p.data)})
		p.role.answer = nil
	}
}

// land lets the first accepted mutation of a replica reach its disk.
func (w *world) land(r *modelReplica) {
	k := r.landing[0]
	r.landing = r.landing[1:]
	r.data |= 1 << k
	m := w.mutations[k]
	m.applied[r.id] = true
	m.acked = m.acked || len(m.applied) == len(m.members)
}

// The steps that the world takes by itself.

func (w *world) deliver() {
	if len(w.soup) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.soup)-1).Draw(w.t, "message")
	message := w.soup[i]
	w.soup = slices.Delete(w.soup, i, i+1)
	if w.calm || rapid.IntRange(0, 9).Draw(w.t, "lost") > 0 {
		message()
	}
}

func (w *world) commit() {
	i := rapid.IntRange(0, len(w.masters)-1).Draw(w.t, "committer")
	m := w.masters[i]
	if m.record == nil {
		return
	}
	record := m.record
	m.record = nil
	var err error
	if rapid.IntRange(0, 9).Draw(w.t, "doubt") == 9 {
		err = gfs.Errorf(gfs.CodeOutcomeUnknown, "")
		w.soup = append(w.soup, func() { _ = w.apply(m, record) }) // it may be applied later, or never
	} else {
		err = w.apply(m, record)
	}
	m.core.Recorded(err, w.now)
	w.carry(m)
}

// apply is the state machine.
func (w *world) apply(m *modelMaster, record *pb.Record) error {
	if m.epoch != w.epoch {
		return gfs.Errorf(gfs.CodeNotActing, "")
	}
	switch r := record.GetCommand().(type) {
	case *pb.Record_ConfigureChunk:
		if gfs.Version(r.ConfigureChunk.FromVersion) != w.logged.Version {
			return gfs.Errorf(gfs.CodeConflict, "")
		}
		w.logged.Version, w.logged.Members = gfs.Version(r.ConfigureChunk.Version), int(r.ConfigureChunk.Members)
	case *pb.Record_CloseChunk:
		return gfs.Errorf(gfs.CodeConflict, "") // the model closes nothing
	}
	return nil
}

func (w *world) takeOver() {
	if len(w.masters) >= 3 {
		return
	}
	for _, m := range w.masters {
		m.acting = false
	}
	w.epoch++
	m := &modelMaster{epoch: w.epoch, acting: true, known: map[gfs.ServerID]registry.Replica{}}
	w.masters = append(w.masters, m)
	for i := range w.replicas {
		w.hear(m, i)
	}
}

func (w *world) ask() { w.want(true) }

// quietly asks for the chunk without a complaint.
func (w *world) quietly() { w.want(false) }

func (w *world) want(complains bool) {
	m := w.masters[rapid.IntRange(0, len(w.masters)-1).Draw(w.t, "asked")]
	if m.core == nil && !m.acting {
		return // a new actor is made by the acting master alone
	}
	core := w.core(m)
	w.waiter++
	w.waiting[w.waiter] = true
	accused, failed := gfs.ServerID(""), gfs.Version(0)
	if complains {
		failed = core.Logged().Version
	}
	if complains && rapid.Bool().Draw(w.t, "accuses") {
		accused = w.replicas[rapid.IntRange(0, len(w.replicas)-1).Draw(w.t, "accused")].id
	}
	core.Want(w.waiter, failed, accused, w.now)
	w.carry(m)
}

func (w *world) pass() {
	w.now = w.now.Add(time.Duration(rapid.IntRange(50, 400).Draw(w.t, "ms")) * time.Millisecond)
	for _, m := range w.masters {
		if m.core != nil {
			m.core.Tick(w.now)
			w.carry(m)
		}
	}
}

func (w *world) listen() {
	w.hear(w.masters[rapid.IntRange(0, len(w.masters)-1).Draw(w.t, "listener")], rapid.IntRange(0, len(w.replicas)-1).Draw(w.t, "heard"))
}

func (w *world) restart() {
	r := w.replicas[rapid.IntRange(0, len(w.replicas)-1).Draw(w.t, "restarted")]
	r.incarnation++
	r.role, r.landing = nil, nil
}

// seldom makes a step that mostly does nothing.
func (w *world) seldom(step func()) func() {
	return func() {
		if rapid.IntRange(0, 7).Draw(w.t, "seldom") == 7 {
			step()
		}
	}
}

// work is a step of some primary or replica.
func (w *world) work() {
	r := w.replicas[rapid.IntRange(0, len(w.replicas)-1).Draw(w.t, "worker")]
	if len(r.landing) > 0 && rapid.Bool().Draw(w.t, "lands") {
		w.land(r)
		return
	}
	if r.role == nil {
		return
	}
	for _, id := range r.role.members {
		other := w.replica(id)
		if !r.role.reconciled[id] && other.promised == r.role.version && len(other.landing) == 0 {
			other.active, other.data, other.learner = r.role.version, r.data, false
			r.role.reconciled[id] = true
			w.finishGrant(r)
			return
		}
	}
	if len(r.role.reconciled) == len(r.role.members) && len(w.mutations) < 60 {
		k := len(w.mutations)
		r.data |= 1 << k
		w.mutations = append(w.mutations, &modelMutation{
			version: r.role.version, members: r.role.members, applied: map[gfs.ServerID]bool{r.id: true}, acked: len(r.role.members) == 1,
		})
		for _, id := range r.role.members {
			if id != r.id {
				w.soup = append(w.soup, func() { w.accept(w.replica(id), k) })
			}
		}
	}
}

func (w *world) accept(r *modelReplica, k int) {
	if v := w.mutations[k].version; r.active == v && r.promised == v && !r.learner {
		r.landing = append(r.landing, k)
	}
}

func (w *world) invariant() {
	if w.logged.Version.Epoch() < w.restored {
		return // until the chunk has a new version, the log knows no more than the backup did
	}
	var acked uint64
	for k, m := range w.mutations {
		if m.acked {
			acked |= 1 << k
		}
	}
	good := 0
	for _, r := range w.replicas {
		if !r.good(w.logged.Version) {
			continue
		}
		good++
		if r.data&acked != acked {
			w.t.Fatalf("replica %s counts as good in %s and lacks acknowledged mutations %b of %b", r.id, w.logged.Version, acked&^r.data, acked)
		}
	}
	if good == 0 {
		w.t.Fatalf("no replica is good in %s", w.logged.Version)
	}
}
