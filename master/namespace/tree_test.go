package namespace

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// contents lists a tree, for comparison with a map.
func contents(t *tree) map[string]string {
	m := map[string]string{}
	for k, v := range t.from(nil) {
		m[string(k)] = string(v)
	}
	return m
}

// checkTree asserts what the algorithms rely on: pages that pass their check in order, separators that hold.
func checkTree(t *rapid.T, tr *tree) {
	var last []byte
	size, depth := 0, -1
	var visit func(n *node, level int, low, high string)
	visit = func(n *node, level int, low, high string) {
		if len(n.keys) != len(n.kids)+len(n.leaves) || len(n.keys) == 0 || len(n.keys) > nodeFanout {
			t.Fatalf("node with %d keys, %d kids, %d leaves", len(n.keys), len(n.kids), len(n.leaves))
		}
		for i := range n.keys {
			lo, hi := low, high
			if i > 0 {
				lo = n.keys[i]
			}
			if i+1 < len(n.keys) {
				hi = n.keys[i+1]
			}
			if n.kids != nil {
				visit(n.kids[i], level+1, lo, hi)
				continue
			}
			if depth >= 0 && depth != level {
				t.Fatalf("leaves at levels %d and %d", depth, level)
			}
			depth = level
			p := n.leaves[i].page
			size += p.count()
			var err error
			last, err = p.check(last, func(key, _ []byte) error {
				if string(key) < lo || hi != "" && string(key) >= hi {
					return fmt.Errorf("key %q outside [%q, %q)", key, lo, hi)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if tr.root != nil {
		visit(tr.root, 0, "", "")
	}
	if size != tr.size {
		t.Fatalf("size %d, %d entries", tr.size, size)
	}
}

func TestTreeIsASortedMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tr tree
		edit := uint64(1)
		model := map[string]string{}
		type snapshot struct {
			tree  tree
			model map[string]string
		}
		var snapshots []snapshot
		// Few letters make long common prefixes; many keys make several levels.
		key := rapid.Custom(func(t *rapid.T) string {
			if rapid.Bool().Draw(t, "numbered") {
				return fmt.Sprintf("d%06d", rapid.IntRange(0, 20000).Draw(t, "n"))
			}
			return "k" + rapid.StringOfN(rapid.RuneFrom([]rune("ab\x00\xff")), 0, 40, -1).Draw(t, "key")
		})
		put := func(k, v string) { tr.put(edit, []byte(k), []byte(v)); model[k] = v }
		remove := func(k string) {
			_, want := model[k]
			if got := tr.remove(edit, []byte(k)); got != want {
				t.Fatalf("remove(%q) = %t", k, got)
			}
			delete(model, k)
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				put(key.Draw(t, "key"), rapid.StringN(0, 300, -1).Draw(t, "value"))
			},
			"huge": func(t *rapid.T) {
				put(key.Draw(t, "key"), string(make([]byte, rapid.IntRange(3000, 8000).Draw(t, "n"))))
			},
			"rising": func(t *rapid.T) {
				from := rapid.IntRange(0, 20000).Draw(t, "from")
				for i := range rapid.IntRange(1, 3000).Draw(t, "count") {
					put(fmt.Sprintf("d%06d", from+i), fmt.Sprint(i))
				}
			},
			"remove": func(t *rapid.T) { remove(key.Draw(t, "key")) },
			"removeMany": func(t *rapid.T) {
				step := rapid.IntRange(1, 4).Draw(t, "step")
				keys := slices.Sorted(maps.Keys(model))
				start := rapid.IntRange(0, len(keys)).Draw(t, "start")
				for i := start; i < len(keys) && i < start+2000; i += step {
					remove(keys[i])
				}
			},
			"get": func(t *rapid.T) {
				k := key.Draw(t, "key")
				want, ok := model[k]
				if got, found := tr.get([]byte(k)); found != ok || string(got) != want {
					t.Fatalf("get(%q) = %.20q, %t", k, got, found)
				}
			},
			"from": func(t *rapid.T) {
				k := key.Draw(t, "key")
				keys := slices.Sorted(maps.Keys(model))
				i, _ := slices.BinarySearch(keys, k)
				for got, value := range tr.from([]byte(k)) {
					if i == len(keys) || string(got) != keys[i] || string(value) != model[keys[i]] {
						t.Fatalf("from(%q) yields %q", k, got)
					}
					i++
				}
				if i != len(keys) {
					t.Fatalf("from(%q) ends early", k)
				}
			},
			"snapshot": func(t *rapid.T) {
				if len(snapshots) < 3 {
					edit++
					snapshots = append(snapshots, snapshot{tr, maps.Clone(model)})
				}
			},
			"": func(t *rapid.T) {
				checkTree(t, &tr)
			},
		})
		if !maps.Equal(contents(&tr), model) {
			t.Fatal("the tree differs from the map")
		}
		for _, s := range snapshots {
			if !maps.Equal(contents(&s.tree), s.model) {
				t.Fatal("a snapshot changed")
			}
		}
	})
}

func TestTreeShrinksWithItsContents(t *testing.T) {
	var tr tree
	const n = 20000
	for i := range n {
		tr.put(1, fmt.Appendf(nil, "key-%08d", i*7919%n), []byte("value"))
	}
	for i := range n {
		if i%100 != 0 {
			tr.remove(1, fmt.Appendf(nil, "key-%08d", i))
		}
	}
	leaves := 0
	var count func(*node)
	count = func(n *node) {
		leaves += len(n.leaves)
		for _, kid := range n.kids {
			count(kid)
		}
	}
	count(tr.root)
	if tr.size != n/100 || leaves > 40 {
		t.Errorf("%d entries in %d pages", tr.size, leaves)
	}
	for i := range n {
		tr.remove(1, fmt.Appendf(nil, "key-%08d", i))
	}
	if tr.root != nil || tr.size != 0 {
		t.Errorf("an empty tree keeps %d entries, root %v", tr.size, tr.root)
	}
}

func FuzzPage(f *testing.F) {
	p := newPage([]byte("alpha"), []byte("1"))
	p, _, _ = p.put([]byte("alphabet"), bytes.Repeat([]byte("x"), 200), true)
	p, _, _ = p.put([]byte("beta"), nil, true)
	f.Add([]byte(p), []byte("alpine"), []byte("v"))
	f.Add([]byte{1, 0, 1, 0, 'k'}, []byte("k"), []byte{})
	f.Add([]byte{2, 0, 1, 0, 'k', 1, 1, 0, 'a'}, []byte("ka"), []byte("w"))
	f.Fuzz(func(t *testing.T, data, key, value []byte) {
		if len(key) == 0 || len(key)+len(value) > entryBytes {
			return
		}
		model := map[string]string{}
		p := page(data)
		if _, err := p.check(nil, func(k, v []byte) error { model[string(k)] = string(v); return nil }); err != nil {
			return // refused, which is all that is asked of damaged bytes
		}
		equal := func(p page, what string) {
			got := map[string]string{}
			for c := p.first(); c.valid(); c.next() {
				got[string(c.key)] = string(c.value())
			}
			if !maps.Equal(got, model) {
				t.Fatalf("%s: %q instead of %q", what, got, model)
			}
		}
		equal(p, "as it came")
		p, _, _ = p.put(key, value, false)
		model[string(key)] = string(value)
		equal(p, "after put")
		at := p.search(key)
		if !at.found || string(p.valueOf(at.entry)) != string(value) {
			t.Fatalf("%q is not found", key)
		}
		if p.count() > 1 {
			left, right, separator := p.split(0)
			equal(left.join(right), "after split and join")
			if c := right.first(); string(c.key) < separator {
				t.Fatalf("separator %q above %q", separator, c.key)
			}
		}
		p = p.remove(at, false)
		delete(model, string(key))
		equal(p, "after remove")
	})
}
