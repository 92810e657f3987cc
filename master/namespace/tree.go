package namespace

import (
	"iter"
	"slices"
	"sort"
)

// nodeFanout bounds the children of an inner node: a copy of one costs about three kilobytes.
const nodeFanout = 64

// tree is a B+tree from byte strings to byte strings: immutable front-coded pages below inner nodes that are
// copied on write. The value itself is the snapshot: copy it, and edit either copy under another edit number.
// The zero value is empty.
type tree struct {
	root *node
	size int // entries
}

// node is an inner node: its children are either nodes or leaves. Nodes and pages of the current edit number
// belong to the tree that is being edited and change in place; all others never change.
type node struct {
	edit   uint64
	keys   []string // keys[i] is not above any key of child i and above all keys of child i-1; keys[0] is unused
	kids   []*node
	leaves []leaf
}

type leaf struct {
	page page
	edit uint64
}

// get returns the value of key, which is valid until the next edit.
func (t *tree) get(key []byte) ([]byte, bool) {
	n := t.root
	if n == nil {
		return nil, false
	}
	for n.kids != nil {
		n = n.kids[n.find(key)]
	}
	p := n.leaves[n.find(key)].page
	at := p.search(key)
	if !at.found {
		return nil, false
	}
	return p.valueOf(at.entry), true
}

// from iterates over the entries with keys from key on, in order. Key and value are valid until the next step;
// the tree must not be edited meanwhile.
func (t *tree) from(key []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		if t.root != nil {
			t.root.ascend(key, yield)
		}
	}
}

// prefixed iterates over the entries whose keys begin with prefix, as from does.
func (t *tree) prefixed(prefix []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for key, value := range t.from(prefix) {
			if len(key) < len(prefix) || string(key[:len(prefix)]) != string(prefix) || !yield(key, value) {
				return
			}
		}
	}
}

// put inserts or replaces an entry under an edit number. It keeps neither slice.
func (t *tree) put(edit uint64, key, value []byte) {
	if t.root == nil {
		t.root = &node{edit: edit, keys: []string{""}, leaves: []leaf{{newPage(key, value), edit}}}
		t.size = 1
		return
	}
	t.root = t.root.own(edit)
	inserted := t.root.put(edit, key, value)
	if inserted {
		t.size++
	}
	if len(t.root.keys) > nodeFanout {
		separator, right := t.root.split()
		t.root = &node{edit: edit, keys: []string{"", separator}, kids: []*node{t.root, right}}
	}
}

// remove deletes the entry of key and tells whether there was one.
func (t *tree) remove(edit uint64, key []byte) bool {
	if _, found := t.get(key); !found {
		return false
	}
	t.size--
	t.root = t.root.own(edit)
	t.root.remove(edit, key)
	for t.root != nil && len(t.root.kids) == 1 {
		t.root = t.root.kids[0]
	}
	if len(t.root.keys) == 0 {
		t.root = nil
	}
	return true
}

// find is the index of the child that holds key.
func (n *node) find(key []byte) int {
	return sort.Search(len(n.keys)-1, func(i int) bool { return string(key) < n.keys[i+1] })
}

// own is the node itself if it may be changed under this edit number, else a copy that may.
func (n *node) own(edit uint64) *node {
	if n.edit == edit {
		return n
	}
	owned := &node{edit: edit, keys: append(make([]string, 0, len(n.keys)+1), n.keys...)}
	if n.kids != nil {
		owned.kids = append(make([]*node, 0, len(n.kids)+1), n.kids...)
	} else {
		owned.leaves = append(make([]leaf, 0, len(n.leaves)+1), n.leaves...)
	}
	return owned
}

// put works on an owned node, which may end with one child too many.
func (n *node) put(edit uint64, key, value []byte) (inserted bool) {
	i := n.find(key)
	if n.kids != nil {
		kid := n.kids[i].own(edit)
		n.kids[i] = kid
		inserted = kid.put(edit, key, value)
		if len(kid.keys) > nodeFanout {
			separator, right := kid.split()
			n.keys = slices.Insert(n.keys, i+1, separator)
			n.kids = slices.Insert(n.kids, i+1, right)
		}
		return inserted
	}
	at := &n.leaves[i]
	p, index, inserted := at.page.put(key, value, at.edit == edit)
	*at = leaf{p, edit}
	if p.overfull() {
		if index != p.count()-1 {
			index = 0 // rising keys leave full pages behind; all others divide them evenly
		}
		left, right, separator := p.split(index)
		at.page = left
		n.keys = slices.Insert(n.keys, i+1, separator)
		n.leaves = slices.Insert(n.leaves, i+1, leaf{right, edit})
	}
	return inserted
}

// split moves the upper half of an owned node to a new one.
func (n *node) split() (separator string, right *node) {
	middle := len(n.keys) / 2
	right = &node{edit: n.edit, keys: slices.Clone(n.keys[middle:])}
	separator, right.keys[0] = right.keys[0], ""
	n.keys = slices.Delete(n.keys, middle, len(n.keys))
	if n.kids != nil {
		right.kids = slices.Clone(n.kids[middle:])
		n.kids = slices.Delete(n.kids, middle, len(n.kids))
	} else {
		right.leaves = slices.Clone(n.leaves[middle:])
		n.leaves = slices.Delete(n.leaves, middle, len(n.leaves))
	}
	return separator, right
}

// remove deletes key, which is there, from an owned node, which may end without children.
func (n *node) remove(edit uint64, key []byte) {
	i := n.find(key)
	if n.kids != nil {
		kid := n.kids[i].own(edit)
		n.kids[i] = kid
		kid.remove(edit, key)
		switch {
		case len(kid.keys) == 0:
			n.keys = slices.Delete(n.keys, i, i+1)
			n.kids = slices.Delete(n.kids, i, i+1)
		case len(kid.keys) < nodeFanout/4:
			if !n.joinKids(edit, i) && i > 0 {
				n.joinKids(edit, i-1)
			}
		}
		return
	}
	at := &n.leaves[i]
	p := at.page.remove(at.page.search(key), at.edit == edit)
	*at = leaf{p, edit}
	switch {
	case p.count() == 0:
		n.keys = slices.Delete(n.keys, i, i+1)
		n.leaves = slices.Delete(n.leaves, i, i+1)
	case p.count() < pageEntries/4:
		if !n.joinLeaves(edit, i) && i > 0 {
			n.joinLeaves(edit, i-1)
		}
	}
}

// joinKids merges children i and i+1 if both are small.
func (n *node) joinKids(edit uint64, i int) bool {
	if i+1 >= len(n.kids) || len(n.kids[i].keys)+len(n.kids[i+1].keys) > nodeFanout*3/4 {
		return false
	}
	left, right := n.kids[i].own(edit), n.kids[i+1]
	first := len(left.keys)
	left.keys = append(left.keys, right.keys...)
	left.keys[first] = n.keys[i+1]
	left.kids = append(left.kids, right.kids...)
	left.leaves = append(left.leaves, right.leaves...)
	n.kids[i] = left
	n.keys = slices.Delete(n.keys, i+1, i+2)
	n.kids = slices.Delete(n.kids, i+1, i+2)
	return true
}

// joinLeaves merges pages i and i+1 if both are small.
func (n *node) joinLeaves(edit uint64, i int) bool {
	if i+1 >= len(n.leaves) {
		return false
	}
	left, right := n.leaves[i].page, n.leaves[i+1].page
	if left.count()+right.count() > pageEntries*3/4 || len(left)+len(right) > pageBytes*3/4 {
		return false
	}
	n.leaves[i] = leaf{left.join(right), edit}
	n.keys = slices.Delete(n.keys, i+1, i+2)
	n.leaves = slices.Delete(n.leaves, i+1, i+2)
	return true
}

func (n *node) ascend(key []byte, yield func(key, value []byte) bool) bool {
	first := 0
	if key != nil {
		first = n.find(key)
	}
	for i := first; i < len(n.keys); i++ {
		if i > first {
			key = nil
		}
		if n.kids != nil {
			if !n.kids[i].ascend(key, yield) {
				return false
			}
			continue
		}
		p := n.leaves[i].page
		c := p.first()
		if key != nil {
			at := p.search(key)
			c = p.at(at.entry, key[:at.shared])
		}
		for ; c.valid(); c.next() {
			if !yield(c.key, c.value()) {
				return false
			}
		}
	}
	return true
}

// builder makes a tree of pages that come in key order, filling its nodes.
type builder struct {
	levels [][]built // of nodes that wait for a parent; levels[0] are leaves
	size   int
}

type built struct {
	separator string
	node      *node
	leaf      leaf
}

// add appends a checked page, given its first key and the last one of the page before.
func (b *builder) add(p page, before, firstKey []byte) {
	b.size += p.count()
	separator := string(firstKey[:commonPrefix(before, firstKey)+1]) // the shortest that will do, as split has it
	b.push(0, built{separator: separator, leaf: leaf{page: p}})
}

func (b *builder) push(level int, child built) {
	if level == len(b.levels) {
		b.levels = append(b.levels, nil)
	}
	b.levels[level] = append(b.levels[level], child)
	if len(b.levels[level]) == nodeFanout {
		b.close(level)
	}
}

// close puts what waits at a level below a node of the next.
func (b *builder) close(level int) {
	waiting := b.levels[level]
	n := &node{}
	for _, child := range waiting {
		n.keys = append(n.keys, child.separator)
		if level == 0 {
			n.leaves = append(n.leaves, child.leaf)
		} else {
			n.kids = append(n.kids, child.node)
		}
	}
	separator := n.keys[0]
	n.keys[0] = ""
	b.levels[level] = nil
	b.push(level+1, built{separator: separator, node: n})
}

// tree ends the building.
func (b *builder) tree() tree {
	for level := 0; level < len(b.levels); level++ {
		top := level == len(b.levels)-1
		if top && level > 0 && len(b.levels[level]) == 1 {
			return tree{root: b.levels[level][0].node, size: b.size}
		}
		if len(b.levels[level]) > 0 {
			b.close(level)
		}
	}
	return tree{}
}
