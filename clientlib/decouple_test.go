package clientlib

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

// pushes is what a window has pushed ahead, as its stream sees it: pushes are answered in any order, well or not, and
// answers from before a fault are nobody's.
type pushes struct {
	t        *rapid.T
	w        *window
	underway []*mutation
	arrived  map[*mutation]bool
}

// begin pushes what the window gives, as a stream does before it sends.
func (p *pushes) begin() {
	for m := p.w.takeAhead(); m != nil; m = p.w.takeAhead() {
		if m.bytes < gfs.SmallMutationBytes || m.ordered || slices.Contains(p.underway, m) {
			p.t.Fatalf("%+v is pushed", m)
		}
		p.underway = append(p.underway, m)
	}
}

// take takes what may be sent. Its data go with it, or are where they were pushed to.
func (p *pushes) take() *mutation {
	p.begin()
	m := p.w.take()
	if m != nil && m.reference && !p.arrived[m] {
		p.t.Fatal("a reference to data that have not arrived")
	}
	return m
}

// end answers one push.
func (p *pushes) end(t *rapid.T) {
	if len(p.underway) == 0 {
		return
	}
	i := rapid.IntRange(0, len(p.underway)-1).Draw(t, "push")
	m := p.underway[i]
	p.underway = slices.Delete(p.underway, i, i+1)
	switch rapid.IntRange(0, 5).Draw(t, "outcome") {
	case 0:
		p.w.couple(m)
	case 1:
		p.w.coupleAll()
	default:
		p.arrive(m)
	}
}

func (p *pushes) arrive(m *mutation) {
	if p.arrived == nil {
		p.arrived = make(map[*mutation]bool)
	}
	p.arrived[m] = true
	p.w.arrived(m)
}

// finish answers all pushes well.
func (p *pushes) finish() {
	p.begin()
	for _, m := range p.underway {
		p.arrive(m)
	}
	p.underway = nil
}

// forget is for a new target: what was pushed is not there.
func (p *pushes) forget() { p.underway, p.arrived = nil, nil }

// check compares the window's counters with what is in it.
func (p *pushes) check() {
	underway, ready, early := 0, 0, int64(0)
	for _, m := range p.w.entries {
		switch m.state {
		case pushing:
			underway++
		case pushed:
			ready++
		default:
			continue
		}
		early += m.bytes
	}
	if underway != p.w.underway || ready != p.w.ready || early != p.w.early {
		p.t.Fatalf("%d pushes under way and %d arrived with %d bytes, counted %d, %d and %d",
			underway, ready, early, p.w.underway, p.w.ready, p.w.early)
	}
}

// Pushes are not held back by each other, mutations are: they are sent in the order of the calls.
func TestMutationsDoNotOvertakeEachOther(t *testing.T) {
	w := window{decoupled: true}
	large, other, small := &mutation{bytes: 1 << 20}, &mutation{bytes: 1 << 20}, &mutation{bytes: 10}
	for _, m := range []*mutation{large, other, small} {
		w.push(m)
	}
	if w.takeAhead() != large || w.takeAhead() != other || w.takeAhead() != nil {
		t.Fatal("what is large enough is pushed at once")
	}
	w.arrived(other)
	if w.take() != nil {
		t.Fatal("the first one's data are on their way")
	}
	w.couple(large)
	for i, want := range []*mutation{large, other, small} {
		if m := w.take(); m != want || m.reference != (m == other) {
			t.Fatalf("mutation %d: %+v", i, m)
		}
	}
}

// What was pushed for a chunk that turns out to be full is pushed again for the next.
func TestPushesForAFullChunkAreLost(t *testing.T) {
	w := window{appends: true, decoupled: true}
	first, second := &mutation{sequence: 1, bytes: 1 << 18}, &mutation{sequence: 2, bytes: 1 << 18}
	w.push(first)
	w.push(second)
	w.takeAhead()
	w.takeAhead()
	w.arrived(first)
	w.arrived(second)
	if w.take() != first {
		t.Fatal("the first one leaves")
	}
	w.refuse(first)
	if w.take() != nil || !w.exhausted() {
		t.Fatal("the chunk has no room for the second either")
	}
	w.advance()
	if w.take(); first.reference {
		t.Fatal("a reference to data that went to the chunk before")
	}
	if w.takeAhead() != second {
		t.Fatal("the second is pushed again")
	}
}

func TestAnOpenPieceIsNotPushedWhileItMayGrow(t *testing.T) {
	w := window{decoupled: true}
	first, second := &mutation{bytes: 1 << 17, open: true}, &mutation{bytes: 1 << 17, open: true}
	w.push(first)
	if w.takeAhead() != first || w.tail() != nil {
		t.Fatal("a lone piece is pushed at once, and then nothing joins it")
	}
	w.push(second)
	if w.takeAhead() != nil || w.take() != nil || w.tail() != second {
		t.Fatal("behind one that is pushed it waits for more")
	}
	w.seal()
	if w.takeAhead() != second {
		t.Fatal("sealed it is pushed")
	}
}

func TestChainsGoToTheNearest(t *testing.T) {
	n := nearnessOf(Server{Addr: "10.0.1.9:1", Rack: "a"})
	servers := []Server{
		{ID: "far", Addr: "10.9.0.1:1", Rack: "z"},
		{ID: "far's rack", Addr: "192.168.0.1:1", Rack: "z"},
		{ID: "primary", Addr: "10.0.1.8:1", Rack: "b"},
		{ID: "same rack", Addr: "10.200.0.1:1", Rack: "a"},
		{ID: "same host", Addr: "10.0.1.9:2", Rack: "x"},
	}
	primary := servers[2]
	for seed := range uint64(20) {
		chain := slices.Clone(servers)
		n.chain(chain, seed)
		var ids []gfs.ServerID
		for _, s := range chain {
			ids = append(ids, s.ID)
		}
		// From the same host on: primary by its address, the one that shares 8 bits with it by either way, and so on.
		want := []gfs.ServerID{"same host", "primary", "far", "far's rack", "same rack"}
		if !slices.Equal(ids, want) {
			t.Fatalf("seed %d: %q, want %q", seed, ids, want)
		}
	}
	for id, want := range map[gfs.ServerID]bool{"same host": true, "same rack": true, "primary": false, "far": false} {
		i := slices.IndexFunc(servers, func(s Server) bool { return s.ID == id })
		if got := n.nearer(servers[i], primary); got != want {
			t.Errorf("%s is nearer than the primary: %t", id, got)
		}
	}
	named := nearnessOf(Server{Addr: "storage-1:7500"})
	if named.distance(Server{Addr: "storage-1:7501"}) != sameHost || named.distance(Server{Addr: "storage-2:7501"}) == sameHost {
		t.Error("names tell hosts apart")
	}
	spread := make(map[gfs.ServerID]bool)
	for seed := range uint64(20) {
		chain := []Server{{ID: "1", Addr: "10.0.2.1:1"}, {ID: "2", Addr: "10.0.2.2:1"}, {ID: "3", Addr: "10.0.2.3:1"}}
		nearness{}.chain(chain, seed)
		spread[chain[0].ID] = true
	}
	if len(spread) != 3 {
		t.Errorf("equally near servers are chosen as %v", spread)
	}
}
