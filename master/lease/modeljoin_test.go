package lease

import (
	"cmp"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
	"pgregory.net/rapid"
)

// This file is the part of the model that has to do with joiners, what must hold of a grant, and wrong registries.

type modelGrant struct {
	primary process
	members []gfs.ServerID
}

func (w *world) checkGrant(order Order) {
	if _, granted := w.grants[order.Version]; granted {
		w.t.Fatalf("%s is granted twice", order.Version)
	}
	if w.logged.Version < order.Version {
		w.t.Fatalf("%s is granted and not logged", order.Version)
	}
	var members []gfs.ServerID
	for _, s := range order.Members {
		members = append(members, s.ID)
		if !slices.Contains(w.promises[order.Version], s.ID) {
			w.t.Fatalf("%s is granted with %s, which never answered", order.Version, s.ID)
		}
	}
	for _, id := range w.told[order.Version] {
		if !slices.Contains(members, id) && w.joiners[order.Version] == id {
			w.late++
			continue
		}
		if w.joiners[order.Version] == id {
			w.joined++
			told := w.digests[order.Version]
			mine := told[slices.Index(w.promises[order.Version], id)]
			if len(slices.DeleteFunc(slices.Clone(told), func(d string) bool { return d != mine })) < 2 {
				w.t.Fatalf("%s is granted with joiner %s, which differs from every member", order.Version, id)
			}
		}
		if slices.Contains(members, id) {
			continue
		}
		w.t.Fatalf("%s was told to %v and granted with %v", order.Version, w.told[order.Version], members)
	}
	if order.To.ID == w.joiners[order.Version] {
		w.t.Fatalf("%s is granted to joiner %s", order.Version, order.To.ID)
	}
	w.grants[order.Version] = modelGrant{order.To.process(), members}
}

// fetch is a joiner's part of Prepare: it waits for its source to promise too, and takes its state.
func (w *world) fetch(r *modelReplica, order Order, answer func(PrepareAnswer)) {
	switch source := w.replica(order.Source.ID); {
	case r.promised != order.Version || rapid.IntRange(0, 9).Draw(w.t, "gives up") == 9:
		answer(PrepareAnswer{Err: gfs.Errorf(gfs.CodeUnavailable, "")})
	case source.promised > order.Version || rapid.IntRange(0, 9).Draw(w.t, "lacks something") == 9:
		w.promised(r, answer)
	case source.promised == order.Version:
		r.data = source.data // it may have gone on since the attempt was decided without this one
		w.promised(r, answer)
	default:
		w.soup = append(w.soup, func() { w.fetch(r, order, answer) })
	}
}

// clone makes a learner of a replica that does not count, with some of what its source has.
func (w *world) clone(epoch gfs.Epoch, order Order, answer func(int, error)) {
	r, err := w.check(epoch, order)
	switch {
	case err != nil:
		answer(0, err)
		return
	case r.good(order.From) || r.role != nil:
		answer(0, gfs.Errorf(gfs.CodeConflict, "a member"))
		return
	case order.Version <= r.promised && !r.learner:
		answer(0, gfs.Errorf(gfs.CodeStaleVersion, "promised %s", r.promised))
		return
	}
	for len(r.landing) > 0 {
		w.land(r)
	}
	r.learner, r.promised = true, max(r.promised, order.Version)
	r.data = w.replica(order.Source.ID).data & rapid.Uint64().Draw(w.t, "copied")
	answer(rapid.IntRange(0, gfs.JoinBlocks).Draw(w.t, "differing"), nil)
}

// probe is what a server says of those that it was to ask, rightly or not.
func (w *world) probe(epoch gfs.Epoch, order Order) func(*Chunk) {
	_, err := w.check(epoch, order)
	var silent []gfs.ServerID
	for _, s := range order.Members {
		if rapid.IntRange(0, 3).Draw(w.t, "hears nothing") == 3 {
			silent = append(silent, s.ID)
		}
	}
	return func(c *Chunk) { c.ProbeAnswered(order.To.ID, order.Version, silent, err, w.now) }
}

// bring asks a master for any server to be made a member.
func (w *world) bring() {
	m := w.masters[rapid.IntRange(0, len(w.masters)-1).Draw(w.t, "brings")]
	if m.core == nil && !m.acting {
		return
	}
	core := w.core(m)
	targets := w.replicas
	if stale := slices.DeleteFunc(slices.Clone(targets), func(r *modelReplica) bool { return r.good(w.logged.Version) }); len(stale) > 0 && rapid.Bool().Draw(w.t, "stale") {
		targets = stale
	}
	r := targets[rapid.IntRange(0, len(targets)-1).Draw(w.t, "target")]
	var sources []Member
	for _, k := range m.known {
		if k.Good(core.Logged().Version) {
			sources = append(sources, Member{Server: k.Server, Incarnation: k.Incarnation})
		}
	}
	slices.SortFunc(sources, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	core.Join(Member{Server: r.server(), Incarnation: r.incarnation}, core.Logged().Version, sources, w.now)
	w.carry(m)
}

// mislead makes a registry think better of a replica than it is.
func (w *world) mislead() {
	m := w.masters[rapid.IntRange(0, len(w.masters)-1).Draw(w.t, "misled")]
	id := w.replicas[rapid.IntRange(0, len(w.replicas)-1).Draw(w.t, "praised")].id
	if r, heard := m.known[id]; heard {
		r.Active = w.logged.Version
		m.known[id] = r
	}
}

// lose makes a registry think that a server is down.
func (w *world) lose() {
	m := w.masters[rapid.IntRange(0, len(w.masters)-1).Draw(w.t, "loser")]
	id := w.replicas[rapid.IntRange(0, len(w.replicas)-1).Draw(w.t, "lost server")].id
	if r, heard := m.known[id]; heard {
		r.Up = false
		m.known[id] = r
	}
}
