package namespace

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Bounds of a leaf page. Sixty-four entries are few enough to scan from the front and enough that front coding
// pays; the bound in bytes keeps an edit cheap where entries are long.
const (
	pageEntries = 64
	pageBytes   = 8 << 10
	// entryBytes bounds key and value of one entry: the longest are trash entries and remembered errors, of a path each.
	entryBytes = 8 << 10
)

// page is a leaf of the tree: a byte that counts the entries, then each entry as
//
//	uvarint shared, uvarint len(suffix), uvarint len(value), suffix, value
//
// where shared is the exact number of bytes that the key has in common with the key before it (0 for the first)
// and suffix is the rest of it. Keys rise strictly. Methods trust that; check makes sure of it for foreign bytes.
type page []byte

// entry is where one entry lies in its page.
type entry struct {
	off    int // of its first byte
	body   int // of its suffix
	shared int
	suffix int
	value  int
}

func (e entry) end() int { return e.body + e.suffix + e.value }

// place is where a key is in a page, or would be.
type place struct {
	entry      // that of the key if found, else the first greater one; past the last one only off is set
	index  int // of the entry
	found  bool
	before int // bytes that the key has in common with the entry before
	common int // bytes that the key has in common with the entry
}

func newPage(key, value []byte) page {
	p := page{1}
	p = appendHead(p, 0, len(key), len(value))
	p = append(p, key...)
	return append(p, value...)
}

func (p page) count() int { return int(p[0]) }

func (p page) valueOf(e entry) []byte {
	return p[e.body+e.suffix : e.end() : e.end()]
}

// entryAt reads the entry that begins at off.
func (p page) entryAt(off int) entry {
	e := entry{off: off}
	if b := p[off:]; len(b) >= 3 && b[0]|b[1]|b[2] < 0x80 {
		e.shared, e.suffix, e.value, e.body = int(b[0]), int(b[1]), int(b[2]), off+3
		return e
	}
	e.body = off
	for _, field := range [...]*int{&e.shared, &e.suffix, &e.value} {
		n, size := binary.Uvarint(p[e.body:])
		*field = int(n)
		e.body += size
	}
	return e
}

// search finds key without ever putting a whole key together: an entry that shares more with its predecessor
// than the key does is on the same side of the key, one that shares less is greater.
func (p page) search(key []byte) place {
	off, matched := 1, 0
	for i := range p.count() {
		// The common case, without the calls: an entry with short lengths that is plainly less than the key.
		if head := p[off:]; len(head) >= 4 && head[0]|head[1]|head[2] < 0x80 && matched < len(key) {
			if shared := int(head[0]); shared > matched || shared == matched && head[3] < key[matched] {
				off += 3 + int(head[1]) + int(head[2])
				continue
			}
		}
		e := p.entryAt(off)
		off = e.end()
		if e.shared > matched {
			continue
		}
		if e.shared < matched {
			return place{entry: e, index: i, before: matched, common: e.shared}
		}
		suffix, rest := p[e.body:e.body+e.suffix], key[matched:]
		same := commonPrefix(suffix, rest)
		switch {
		case same == len(suffix) && same == len(rest):
			return place{entry: e, index: i, found: true, before: matched, common: len(key)}
		case same == len(rest) || same < len(suffix) && suffix[same] > rest[same]:
			return place{entry: e, index: i, before: matched, common: matched + same}
		}
		matched += same
	}
	return place{entry: entry{off: len(p)}, index: p.count(), before: matched}
}

// put inserts or replaces an entry and tells at which index. The page itself is changed only if it is owned.
func (p page) put(key, value []byte, owned bool) (changed page, index int, inserted bool) {
	at := p.search(key)
	var scratch [256]byte
	with := scratch[:0]
	if at.found {
		with = appendHead(with, at.shared, at.suffix, len(value))
		with = append(with, key[at.shared:]...)
		with = append(with, value...)
		return p.splice(at.off, at.end(), with, owned), at.index, false
	}
	with = appendHead(with, at.before, len(key)-at.before, len(value))
	with = append(with, key[at.before:]...)
	with = append(with, value...)
	to := at.off
	if at.off < len(p) { // the next entry shares at least as much with the new key as with the one before
		more := at.common - at.shared
		with = appendHead(with, at.common, at.suffix-more, at.value)
		to = at.body + more
	}
	changed = p.splice(at.off, to, with, owned)
	changed[0]++
	return changed, at.index, true
}

// remove takes out the entry at a place that was found.
func (p page) remove(at place, owned bool) page {
	var scratch [256]byte
	with, to := scratch[:0], at.end()
	if to < len(p) {
		if next := p.entryAt(to); next.shared > at.shared { // it borrowed from the key that goes
			more := next.shared - at.shared
			with = appendHead(with, at.shared, next.suffix+more, next.value)
			with = append(with, p[at.body:at.body+more]...)
			to = next.body
		}
	}
	changed := p.splice(at.off, to, with, owned)
	changed[0]--
	return changed
}

// splice puts other bytes in place of those in [from, to). It works in place if the page is owned and has the
// room, and takes other memory if less than half of it would be used.
func (p page) splice(from, to int, with []byte, owned bool) page {
	n := len(p) - (to - from) + len(with)
	var q page
	if !owned || n > cap(p) || n < cap(p)/2 {
		q = slices.Grow(page(nil), n)[:n]
		copy(q, p[:from])
	} else {
		q = p[:n]
	}
	copy(q[from+len(with):], p[to:])
	copy(q[from:], with)
	return q
}

func (p page) overfull() bool {
	return p.count() > pageEntries || len(p) > pageBytes && p.count() > 1
}

// split divides a page before the entry at index, or near the middle of its bytes if index is 0. The separator
// is the shortest string above every key of the left and not above any of the right.
func (p page) split(index int) (left, right page, separator string) {
	var key []byte
	off, i := 1, 0
	for {
		e := p.entryAt(off)
		key = append(key[:e.shared], p[e.body:e.body+e.suffix]...)
		last := i == p.count()-1
		if i > 0 && (last || i == index || index == 0 && e.end() > len(p)/2) {
			right = page{byte(p.count() - i)}
			right = appendHead(right, 0, len(key), e.value)
			right = append(right, key...)
			right = append(right, p[e.end()-e.value:]...)
			left = slices.Clone(p[:e.off])
			left[0] = byte(i)
			return left, right, string(key[:e.shared+1])
		}
		off = e.end()
		i++
	}
}

// join appends right, all of whose keys are greater, to a copy of p.
func (p page) join(right page) page {
	var last []byte
	for c := p.first(); c.valid(); c.next() {
		last = append(last[:0], c.key...)
	}
	e := right.entryAt(1)
	key := right[e.body : e.body+e.suffix]
	shared := commonPrefix(last, key)
	joined := slices.Grow(slices.Clone(p), len(right))
	joined[0] += right[0]
	joined = appendHead(joined, shared, len(key)-shared, e.value)
	joined = append(joined, key[shared:]...)
	return append(joined, right[e.end()-e.value:]...)
}

// cursor steps over the entries of a page. Its key is overwritten by next.
type cursor struct {
	page page
	entry
	key []byte
}

func (p page) first() cursor {
	return p.at(entry{off: 1}, nil)
}

// at is a cursor at an entry whose predecessor's key begins with the shared bytes in prefix.
func (p page) at(e entry, prefix []byte) cursor {
	c := cursor{page: p, entry: e, key: append(make([]byte, 0, 64), prefix...)}
	c.load()
	return c
}

func (c *cursor) valid() bool   { return c.off < len(c.page) }
func (c *cursor) value() []byte { return c.page.valueOf(c.entry) }

func (c *cursor) next() {
	c.off = c.end()
	c.load()
}

func (c *cursor) load() {
	if c.valid() {
		c.entry = c.page.entryAt(c.off)
		c.key = append(c.key[:c.shared], c.page[c.body:c.body+c.suffix]...)
	}
}

var errPage = errors.New("damaged leaf page")

// check verifies a page of unknown origin: whole, within bounds, its keys rising strictly and above after, and
// front-coded exactly. It calls each with every entry (valid during the call) and returns the last key.
func (p page) check(after []byte, each func(key, value []byte) error) (last []byte, err error) {
	if len(p) == 0 || p.count() == 0 || p.count() > pageEntries || len(p) > pageBytes+entryBytes {
		return nil, errPage
	}
	off := 1
	var key []byte
	for i := range p.count() {
		e := entry{off: off, body: off}
		for _, field := range [...]*int{&e.shared, &e.suffix, &e.value} {
			n, size := binary.Uvarint(p[e.body:])
			if size <= 0 || n > entryBytes {
				return nil, errPage
			}
			*field, e.body = int(n), e.body+size
		}
		if e.end() > len(p) || e.suffix == 0 || e.shared > len(key) || e.shared+e.suffix+e.value > entryBytes {
			return nil, errPage
		}
		if e.shared < len(key) && p[e.body] <= key[e.shared] {
			return nil, errPage
		}
		key = append(key[:e.shared], p[e.body:e.body+e.suffix]...)
		if i == 0 && string(key) <= string(after) {
			return nil, errPage
		}
		if err := each(key, p.valueOf(e)); err != nil {
			return nil, err
		}
		off = e.end()
	}
	if off != len(p) {
		return nil, errPage
	}
	return key, nil
}

func appendHead[B ~[]byte](b B, shared, suffix, value int) B {
	if shared|suffix|value < 0x80 {
		return append(b, byte(shared), byte(suffix), byte(value))
	}
	b = binary.AppendUvarint(b, uint64(shared))
	b = binary.AppendUvarint(b, uint64(suffix))
	return binary.AppendUvarint(b, uint64(value))
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
