package dataplane

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

// TestPushStore compares a store with a list of what must be in it.
func TestPushStore(t *testing.T) {
	type entry struct {
		holders  int
		claimed  bool
		position int
		came     time.Time
	}
	const lifetime = 3 * time.Second
	rapid.Check(t, func(t *rapid.T) {
		var pool Pool
		s, model := newPushStore(PushLimits{Lifetime: lifetime}), make(map[pushKey]*entry)
		held := make(map[pushKey]*pushed)
		now := time.Unix(1000, 0)
		key := func(t *rapid.T) pushKey {
			return pushKey{1, rapid.Uint64Range(1, 4).Draw(t, "counter")}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				now = now.Add(time.Second)
				k, position := key(t), rapid.IntRange(0, 2).Draw(t, "position")
				p := &pushed{key: k, position: position, buffer: pool.Get(1000), came: now}
				s.admit(position, 1000)
				if err := s.put(p); (err != nil) != (model[k] != nil) {
					t.Fatalf("put: %v", err)
				} else if err != nil {
					s.refund(position, 1000)
					p.buffer.Release()
					return
				}
				model[k], held[k] = &entry{holders: 1, position: position, came: now}, p
			},
			"claim": func(t *rapid.T) {
				k, n := key(t), rapid.IntRange(1, 2).Draw(t, "holders")
				e, p := model[k], s.claim(k, n)
				if (p != nil) != (e != nil && !e.claimed) {
					t.Fatalf("claimed %v of %+v", p, e)
				}
				if p != nil {
					e.claimed, e.holders = true, e.holders-1+n
				}
			},
			"borrow": func(t *rapid.T) {
				k := key(t)
				if p := s.borrow(k); p != held[k] {
					t.Fatal("not what was put there")
				} else if p != nil {
					model[k].holders++
				}
			},
			"release": func(t *rapid.T) {
				k := key(t)
				e := model[k]
				if e == nil || !e.claimed && e.holders == 1 {
					return // nobody but the store has it
				}
				held[k].release(1)
				if e.holders--; e.holders == 0 {
					delete(model, k)
					delete(held, k)
				}
			},
			"sweep": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second)
				limit := now.Add(-lifetime)
				s.sweep(now)
				for k, e := range model {
					if e.claimed || !e.came.Before(limit) {
						continue
					}
					e.claimed = true
					if e.holders > 1 { // lent: gone with the last holder
						e.holders--
						continue
					}
					delete(model, k)
					delete(held, k)
				}
			},
			"": func(t *rapid.T) {
				if len(s.kept) != len(model) {
					t.Fatalf("%d are kept, want %d", len(s.kept), len(model))
				}
				var waiting [gfs.MaxReplicas]int
				for k, e := range model {
					if s.kept[k].holders != e.holders {
						t.Fatalf("%d holders, want %d", s.kept[k].holders, e.holders)
					}
					if !e.claimed {
						waiting[e.position]++
					}
				}
				if pushes, bytes := s.held(); pushes != len(model) || bytes != 1000*(waiting[0]+waiting[1]+waiting[2]) {
					t.Fatalf("it tells of %d pushes and %d bytes that wait", pushes, bytes)
				}
				for i, w := range s.positions {
					if w.inUse() != waiting[i] || w.bytes != 1000*waiting[i] {
						t.Fatalf("position %d counts %d with %d bytes, %d wait", i, w.inUse(), w.bytes, waiting[i])
					}
				}
			},
		})
	})
}
