package clientlib

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

// TestAppendWindow drives a window against chunks that keep an append table and may be full, lose connections and
// answer in any order, and checks that every append takes effect once, that those of one File stay in order, and
// that an append leaves a chunk only when that chunk said that it has no room for it, or is full to the brim.
func TestAppendWindow(t *testing.T) {
	const unit = gfs.ChunkSize / 8
	rapid.Check(t, func(t *rapid.T) {
		w := window{appends: true, decoupled: rapid.Bool().Draw(t, "decoupled")}
		ahead := pushes{t: t, w: &w}
		type chunk struct {
			table  map[uint64]int64 // where an append ends
			order  []uint64
			filled int64
		}
		newChunk := func() *chunk { // somebody else has appended as well
			return &chunk{table: make(map[uint64]int64), filled: rapid.Int64Range(0, 8).Draw(t, "filled") * unit}
		}
		chunks := []*chunk{newChunk()}
		type answer struct {
			m    *mutation
			full bool
			end  int64
		}
		var inbox []*mutation // sent, not yet processed: in order
		var answers []answer
		var made []*mutation
		process := func(n int) {
			here := chunks[len(chunks)-1]
			for _, m := range inbox[:n] {
				switch end := here.table[m.sequence]; {
				case end > 0:
					answers = append(answers, answer{m, false, end})
				case here.filled+m.bytes > gfs.ChunkSize:
					here.filled = gfs.ChunkSize // padded
					answers = append(answers, answer{m, true, 0})
				default:
					here.filled += m.bytes
					here.table[m.sequence] = here.filled
					here.order = append(here.order, m.sequence)
					answers = append(answers, answer{m, false, here.filled})
				}
			}
			inbox = inbox[n:]
		}
		settle := func(i int) {
			a := answers[i]
			answers = slices.Delete(answers, i, i+1)
			if a.m.state != inFlight {
				return
			}
			if a.full {
				w.refuse(a.m)
			} else {
				w.acknowledge(a.m, a.end, 0)
			}
		}
		advance := func() {
			if w.exhausted() {
				if chunks[len(chunks)-1].filled < gfs.ChunkSize {
					t.Fatal("on to the next chunk while this one has room: readers would take that for a hole")
				}
				w.advance()
				inbox, answers = nil, nil
				ahead.forget()
				chunks = append(chunks, newChunk())
			}
		}
		send := func() {
			if m := ahead.take(); m != nil {
				inbox = append(inbox, m)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				m := &mutation{sequence: uint64(len(made) + 1), bytes: rapid.SampledFrom([]int64{1, unit, 2 * unit, 3 * unit}).Draw(t, "bytes")}
				made = append(made, m)
				w.push(m)
			},
			"send":    func(*rapid.T) { send() },
			"process": func(t *rapid.T) { process(rapid.IntRange(0, len(inbox)).Draw(t, "n")) },
			"answer": func(t *rapid.T) {
				if len(answers) > 0 {
					settle(rapid.IntRange(0, len(answers)-1).Draw(t, "i"))
				}
			},
			"lose the connection": func(t *rapid.T) {
				process(rapid.IntRange(0, len(inbox)).Draw(t, "arrived")) // some of it arrived all the same
				inbox, answers = nil, nil
				w.rewind()
				ahead.forget()
			},
			"push ahead": func(*rapid.T) { ahead.begin() },
			"arrive":     ahead.end,
			"advance":    func(*rapid.T) { advance() },
			"": func(t *rapid.T) {
				ahead.check()
				if n := len(w.entries); n > 0 && w.entries[0].state == acked {
					t.Fatal("an acknowledged append at the front")
				}
				flying, aloft := 0, int64(0)
				for _, m := range w.entries {
					if m.state == inFlight {
						flying++
						aloft += m.bytes
					}
				}
				if flying != w.flying || aloft != w.aloft {
					t.Fatalf("%d in flight with %d bytes, counted %d with %d", flying, aloft, w.flying, w.aloft)
				}
			},
		})
		for steps := 0; !w.empty(); steps++ {
			if steps > 10_000 {
				t.Fatal("the window does not empty")
			}
			ahead.finish()
			send()
			process(len(inbox))
			for len(answers) > 0 {
				settle(0)
			}
			advance()
		}
		var order []uint64
		for _, c := range chunks {
			order = append(order, c.order...)
		}
		for i := range made {
			if i >= len(order) || order[i] != uint64(i+1) {
				t.Fatalf("%d appends took effect as %v", len(made), order)
			}
		}
		if len(order) != len(made) {
			t.Fatalf("%d appends took effect %d times", len(made), len(order))
		}
	})
}

// A lone appender's records that have no room in the chunk are not sent there, but for one that asks if it must.
func TestAppendWindowForeseesTheEndOfAChunk(t *testing.T) {
	const unit = gfs.ChunkSize / 8
	for _, test := range []struct {
		first int64 // units of the first record; the others have 2
		asked int   // records sent to the chunk without room
	}{{2, 0}, {1, 1}} {
		w := window{appends: true}
		for i := range uint64(6) {
			w.push(&mutation{sequence: i + 1, bytes: 2 * unit})
		}
		w.entries[0].bytes = test.first * unit
		var flying []*mutation
		filled, asked := int64(0), 0
		for !w.exhausted() {
			for m := w.take(); m != nil; m = w.take() {
				flying = append(flying, m)
			}
			if len(flying) == 0 {
				t.Fatal("nothing leaves, though the chunk is not exhausted")
			}
			m := flying[0]
			flying = flying[1:]
			if filled+m.bytes > gfs.ChunkSize {
				asked++
				w.refuse(m)
			} else {
				filled += m.bytes
				w.acknowledge(m, filled, 0)
			}
		}
		if asked != test.asked || len(w.entries) != 2 {
			t.Errorf("%d records were refused, want %d; %d left for the next chunk, want 2", asked, test.asked, len(w.entries))
		}
	}
}

// TestWriteWindow writes overlapping ranges through a window whose connections are lost at any moment: in the end
// the bytes are those of the last call.
func TestWriteWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := window{decoupled: rapid.Bool().Draw(t, "decoupled")}
		ahead := pushes{t: t, w: &w}
		var disk, want [16]byte
		var inbox []*mutation
		var answers []*mutation
		content := make(map[*mutation]byte)
		apply := func(n int) {
			for _, m := range inbox[:n] {
				for i := m.offset; i < min(m.offset+4, 16); i++ {
					disk[i] = content[m]
				}
				answers = append(answers, m)
			}
			inbox = inbox[n:]
		}
		gone := 0
		settle := func(i int) {
			m := answers[i]
			answers = slices.Delete(answers, i, i+1)
			if m.state == inFlight {
				gone += len(w.acknowledge(m, 0, 0))
			}
		}
		made := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				made++
				m := &mutation{offset: rapid.Int64Range(0, 15).Draw(t, "offset"), bytes: rapid.SampledFrom([]int64{4, gfs.SmallMutationBytes}).Draw(t, "bytes")}
				content[m] = byte(made)
				for i := m.offset; i < min(m.offset+4, 16); i++ {
					want[i] = byte(made)
				}
				w.push(m)
			},
			"send": func(*rapid.T) {
				if m := ahead.take(); m != nil {
					inbox = append(inbox, m)
				}
			},
			"push ahead": func(*rapid.T) { ahead.begin() },
			"arrive":     ahead.end,
			"apply":      func(t *rapid.T) { apply(rapid.IntRange(0, len(inbox)).Draw(t, "n")) },
			"answer": func(t *rapid.T) {
				if len(answers) > 0 {
					settle(rapid.IntRange(0, len(answers)-1).Draw(t, "i"))
				}
			},
			"lose the connection": func(t *rapid.T) {
				apply(rapid.IntRange(0, len(inbox)).Draw(t, "arrived"))
				inbox, answers = nil, nil
				w.rewind()
				ahead.forget()
			},
			"": func(*rapid.T) { ahead.check() },
		})
		for steps := 0; !w.empty(); steps++ {
			if steps > 10_000 {
				t.Fatal("the window does not empty")
			}
			ahead.finish()
			if m := ahead.take(); m != nil {
				inbox = append(inbox, m)
			}
			apply(len(inbox))
			for len(answers) > 0 {
				settle(0)
			}
		}
		if disk != want {
			t.Fatalf("the disk holds %v, want %v", disk, want)
		}
		if gone != made {
			t.Fatalf("%d of %d were decided", gone, made)
		}
	})
}

func TestWindowHoldsAnOpenPieceBack(t *testing.T) {
	w := window{}
	first, second := &mutation{open: true}, &mutation{open: true}
	w.push(first)
	if w.tail() != first || w.take() != first || w.tail() != nil {
		t.Fatal("a lone piece leaves at once, and then nothing joins it")
	}
	w.push(second)
	if w.take() != nil || w.tail() != second {
		t.Fatal("behind one in flight it waits for more")
	}
	w.seal()
	if w.take() != second {
		t.Fatal("sealed it leaves")
	}
}

func TestAppendWindowIsBounded(t *testing.T) {
	w := window{appends: true}
	var sent []*mutation
	for i := range 3 * gfs.AppendWindow {
		w.push(&mutation{sequence: 1000 + uint64(i)})
	}
	for m := w.take(); m != nil; m = w.take() {
		sent = append(sent, m)
	}
	if len(sent) != gfs.AppendWindow {
		t.Fatalf("%d in flight", len(sent))
	}
	w.acknowledge(sent[1], 0, 0)
	if w.take() != nil {
		t.Fatal("the first is still undecided")
	}
	w.acknowledge(sent[0], 0, 0)
	free := 0
	for m := w.take(); m != nil; m = w.take() {
		free++
	}
	if free != 2 {
		t.Fatalf("%d places are free, want two", free)
	}
}

func TestSequences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sequences
		outstanding := map[uint64]bool{}
		last := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				lowestWanted := last + 1
				for n := range outstanding {
					lowestWanted = min(lowestWanted, n)
				}
				n, lowest, ok := s.begin()
				if ok != (last+1-lowestWanted < gfs.SessionWindow) {
					t.Fatalf("begin %t with %d after %d", ok, lowestWanted, last)
				}
				if !ok {
					return
				}
				if n != last+1 || lowest != lowestWanted {
					t.Fatalf("number %d lowest %d, want %d and %d", n, lowest, last+1, lowestWanted)
				}
				last = n
				outstanding[n] = true
			},
			"end": func(t *rapid.T) {
				if last > 0 {
					n := rapid.Uint64Range(1, last).Draw(t, "n")
					s.end(n)
					delete(outstanding, n)
				}
			},
		})
	})
}

func TestLocationCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 3
		c := newLocationCache(limit)
		type known struct {
			at   location
			when time.Time
			seen int64
			live bool
		}
		model := make(map[locationKey]*known)
		var recent []locationKey // least recently used first
		use := func(key locationKey) {
			if i := slices.Index(recent, key); i >= 0 {
				recent = append(slices.Delete(recent, i, i+1), key)
			}
		}
		now := time.Unix(1000, 0)
		key := func(t *rapid.T) locationKey { return locationKey{1, rapid.Uint32Range(0, 4).Draw(t, "index")} }
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k := key(t)
				at := location{index: k.index, handle: gfs.ChunkHandle(rapid.IntRange(1, 2).Draw(t, "handle")), version: gfs.Version(rapid.IntRange(1, 4).Draw(t, "version"))}
				c.put(k, at, now)
				if _, ok := model[k]; !ok {
					if len(recent) == limit {
						delete(model, recent[0])
						recent = recent[1:]
					}
					model[k] = &known{}
					recent = append(recent, k)
				}
				use(k)
				m := model[k]
				if m.at.handle == at.handle && m.at.version > at.version {
					return
				}
				if m.at.handle != at.handle {
					m.seen = 0
				}
				m.at, m.when, m.live = at, now, true
			},
			"get": func(t *rapid.T) {
				k := key(t)
				at, seen, ok := c.get(k, now)
				m := model[k]
				use(k)
				want := m != nil && m.live && now.Sub(m.when) < gfs.LocationCacheTime
				if ok != want || ok && (at.handle != m.at.handle || at.version != m.at.version || seen != m.seen) {
					t.Fatalf("got %v %d %t, want %+v", at, seen, ok, m)
				}
			},
			"drop": func(t *rapid.T) {
				k, version := key(t), gfs.Version(rapid.IntRange(1, 4).Draw(t, "version"))
				c.drop(k, version)
				use(k)
				if m := model[k]; m != nil && m.at.version == version {
					m.live = false
				}
			},
			"saw": func(t *rapid.T) {
				k, handle, length := key(t), gfs.ChunkHandle(rapid.IntRange(1, 2).Draw(t, "handle")), rapid.Int64Range(0, 100).Draw(t, "length")
				c.saw(k, handle, length)
				use(k)
				if m := model[k]; m != nil && m.at.handle == handle {
					m.seen = max(m.seen, length)
				}
			},
			"wait": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second) },
			"": func(t *rapid.T) {
				if len(c.entries) > limit || c.recent.Len() != len(c.entries) {
					t.Fatalf("%d entries, %d in the list", len(c.entries), c.recent.Len())
				}
			},
		})
	})
}

func TestCutReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.Int64Range(0, 3*gfs.ChunkSize).Draw(t, "offset")
		buf := make([]byte, rapid.IntRange(0, 5<<20).Draw(t, "length"))
		next := offset
		for _, p := range cutReads(buf, offset) {
			if p.offset != next || len(p.into) == 0 || len(p.into) > readPieceBytes {
				t.Fatalf("piece of %d at %d, want one at %d", len(p.into), p.offset, next)
			}
			if p.offset/gfs.ChunkSize != (p.offset+int64(len(p.into))-1)/gfs.ChunkSize {
				t.Fatalf("piece of %d at %d crosses a chunk's end", len(p.into), p.offset)
			}
			next += int64(len(p.into))
		}
		if next != offset+int64(len(buf)) {
			t.Fatalf("cut to %d", next)
		}
	})
}

func TestNearness(t *testing.T) {
	n := newNearness("r1")
	servers := []Server{{ID: "far", Addr: "203.0.113.9:1"}, {ID: "rack", Addr: "203.0.113.8:1", Rack: "r1"}, {ID: "here", Addr: "127.0.0.1:1"},
		{ID: "suspect", Addr: "127.0.0.1:2"}}
	for seed := range uint64(20) {
		order := slices.Clone(servers)
		n.order(order, seed, func(address string) bool { return address == "127.0.0.1:2" })
		var ids []string
		for _, s := range order {
			ids = append(ids, string(s.ID))
		}
		if fmt.Sprint(ids) != "[here rack far suspect]" {
			t.Fatalf("seed %d: %v", seed, ids)
		}
	}
	first := make(map[string]int)
	for seed := range uint64(300) {
		equal := []Server{{Addr: "127.0.0.1:1"}, {Addr: "127.0.0.1:2"}, {Addr: "127.0.0.1:3"}}
		n.order(equal, seed, func(string) bool { return false })
		first[equal[0].Addr]++
	}
	for address, count := range first {
		if len(first) != 3 || count < 50 {
			t.Errorf("%s is first %d times of 300", address, count)
		}
	}
}

func TestBuffersAreLentAgain(t *testing.T) {
	var b buffers
	for _, size := range []int{0, 1, 1 << 15, 1 << 16, 1<<16 + 1, 1 << 24} {
		lent := b.get(size)
		if len(lent.data) != 0 || cap(lent.data) < size {
			t.Fatalf("%d: %d of %d", size, len(lent.data), cap(lent.data))
		}
		lent.data = append(lent.data, bytes.Repeat([]byte{1}, size)...)
		lent.retain()
		lent.release()
		lent.release()
	}
	defer func() {
		if recover() == nil {
			t.Error("one release too many passes")
		}
	}()
	lent := b.get(1)
	lent.release()
	lent.release()
}
