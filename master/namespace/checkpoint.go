package namespace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Page is a key and its value in a checkpoint.
type Page struct{ Key, Value []byte }

// The checkpoint: pages in the order of their keys, the first byte of which says what they are. Every value ends
// with the CRC32C of key and value. Equal states make equal pages, whatever their history was. Keys have at most
// nine bytes.
const (
	pageHeader = 0 // one: the format and the scalars
	pageTable  = 1 // first handle of a group → rows
	pageTree   = 2 // number of a group, from 0 → leaf pages
	pageEnd    = 3 // one: how much there was

	// checkpointFormat 1 had neither what was dropped lately nor a restoration.
	checkpointFormat = 2
	// groupPages is the number of leaf pages in a value.
	groupPages = 8
	// groupRows is the number of rows in a value.
	groupRows = 8 * rowsPerPage
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Pages writes the state down: a checkpoint that Load reads. Keys ascend. The slices belong to the receiver. The
// error is always nil: what is in memory cannot fail to be read.
func (v *View) Pages() iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		count := 0
		each := func(p Page) bool {
			count++
			return yield(p, nil)
		}
		if each(seal([]byte{pageHeader}, v.header())) && v.packTable(each) && v.packTree(each) {
			each(seal([]byte{pageEnd}, v.trailer(count)))
		}
	}
}

func seal(key, value []byte) Page {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return Page{key, binary.BigEndian.AppendUint32(value, sum)}
}

func (v *View) header() []byte {
	b := binary.AppendUvarint(nil, checkpointFormat)
	for _, n := range [...]uint64{
		uint64(v.epoch), uint64(v.clock), uint64(v.nextFile), uint64(v.nextHandle), uint64(v.epochFirst),
	} {
		b = binary.AppendUvarint(b, n)
	}
	for _, slot := range v.drops {
		b = binary.AppendUvarint(binary.AppendUvarint(b, slot.day), slot.chunks)
	}
	return v.restoration.pack(b)
}

func (v *View) trailer(pages int) []byte {
	b := binary.AppendUvarint(nil, uint64(pages))
	b = binary.AppendUvarint(b, uint64(v.entries.size))
	return binary.AppendUvarint(b, uint64(v.counts.Chunks))
}

// Tags of rows in a checkpoint.
const (
	tagUnused = iota // and how many follow one another
	tagGone          // likewise
	tagLive
)

// packTable writes the groups of rows.
func (v *View) packTable(yield func(Page) bool) bool {
	for first := uint64(1); first < uint64(v.nextHandle); first += groupRows {
		if v.table.blank(gfs.ChunkHandle(first)) {
			continue
		}
		rows, needed := v.packRows(gfs.ChunkHandle(first))
		key := binary.BigEndian.AppendUint64([]byte{pageTable}, first)
		if needed && !yield(seal(key, rows)) {
			return false
		}
	}
	return true
}

// packRows writes the rows of a group, and tells whether there is anything to say of them.
func (v *View) packRows(first gfs.ChunkHandle) (b []byte, needed bool) {
	end := min(first+groupRows, v.nextHandle)
	before := row{}
	for h := first; h < end; {
		r := v.table.get(h)
		if r.live() {
			needed = true
			b = append(b, tagLive)
			b = binary.AppendVarint(b, int64(r.version-before.version))
			b = binary.AppendVarint(b, int64(r.file-before.file))
			b = binary.AppendUvarint(b, uint64(r.bits))
			b = binary.AppendUvarint(b, uint64(r.references))
			before = r
			h++
			continue
		}
		tag := v.deadTag(h)
		count := uint64(1)
		for h++; h < end && !v.table.get(h).live() && v.deadTag(h) == tag; h++ {
			count++
		}
		needed = needed || tag == tagGone
		b = binary.AppendUvarint(append(b, tag), count)
	}
	return b, needed
}

// deadTag is the tag of a handle without a chunk. Below the epoch's first handle it makes no difference whether
// one was used, and the table does not always remember.
func (v *View) deadTag(h gfs.ChunkHandle) byte {
	if h >= v.epochFirst && v.table.get(h) != (row{}) {
		return tagGone
	}
	return tagUnused
}

// packTree puts the entries of the tree into full pages and those into groups.
func (v *View) packTree(yield func(Page) bool) bool {
	var group, last []byte
	var current page
	pages, groups := 0, uint64(0)
	endPage := func() {
		group = binary.AppendUvarint(group, uint64(len(current)))
		group = append(group, current...)
		current = current[:0]
		pages++
	}
	endGroup := func() bool {
		sealed := seal(binary.BigEndian.AppendUint64([]byte{pageTree}, groups), bytes.Clone(group))
		group, pages = group[:0], 0
		groups++
		return yield(sealed)
	}
	for k, value := range v.entries.from(nil) {
		if len(current) > 0 && (current.count() == pageEntries || len(current) >= pageBytes) {
			endPage()
			if pages == groupPages && !endGroup() {
				return false
			}
		}
		shared := 0
		if len(current) == 0 {
			current = append(current, 0)
		} else {
			shared = commonPrefix(last, k)
		}
		current[0]++
		current = appendHead(current, shared, len(k)-shared, len(value))
		current = append(current, k[shared:]...)
		current = append(current, value...)
		last = append(last[:0], k...)
	}
	endPage() // there is always a root directory
	return endGroup()
}

var errCheckpoint = errors.New("damaged checkpoint: take another master's or an older one")

// Load makes a State of a checkpoint. Every value is checked: checksums, bounds, order, and that the whole of it
// is there. It keeps none of the slices. An error from pages is returned as it is.
func Load(pages iter.Seq2[Page, error]) (*State, error) {
	l := loader{s: &State{edit: 1, numbers: map[string]int{}}}
	for p, err := range pages {
		if err != nil {
			return nil, err
		}
		if err := l.page(p); err != nil {
			return nil, fmt.Errorf("%w: page %.40x: %w", errCheckpoint, p.Key, err)
		}
	}
	s, err := l.finish()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCheckpoint, err)
	}
	return s, nil
}

func unseal(p Page) ([]byte, error) {
	if len(p.Key) == 0 || len(p.Value) < 4 {
		return nil, errors.New("too short")
	}
	value := p.Value[:len(p.Value)-4]
	sum := crc32.Update(crc32.Checksum(p.Key, castagnoli), castagnoli, value)
	if sum != binary.BigEndian.Uint32(p.Value[len(value):]) {
		return nil, errors.New("wrong checksum")
	}
	return value, nil
}

// loader is a State in the making.
type loader struct {
	s       *State
	builder builder
	pages   int    // read
	before  []byte // the key of the last one
	groups  uint64 // of leaf pages, read
	last    []byte // the last key of the tree
	ended   bool   // the trailer was read and is right

	chunksNamed int    // by inodes and segments
	references  uint64 // of rows
	given       int    // chunks given up by what is being dropped
}

// page takes the next page.
func (l *loader) page(p Page) error {
	value, err := unseal(p)
	switch {
	case err != nil:
		return err
	case (l.pages == 0) != (p.Key[0] == pageHeader):
		return errors.New("header out of place")
	case bytes.Compare(p.Key, l.before) <= 0:
		return errors.New("keys out of order")
	}
	switch p.Key[0] {
	case pageHeader:
		err = l.header(p.Key, value)
	case pageTable:
		err = l.rows(p.Key, value)
	case pageTree:
		err = l.group(p.Key, value)
	case pageEnd:
		err = l.trailer(p.Key, value)
	default:
		err = errors.New("page of an unknown kind")
	}
	l.before = append(l.before[:0], p.Key...)
	l.pages++
	return err
}

func (l *loader) header(key, value []byte) error {
	d := decoder{rest: value}
	format := d.uvarint(1<<64 - 1)
	if format > checkpointFormat {
		return fmt.Errorf("format %d, this release reads %d: start the newer release", format, checkpointFormat)
	}
	s := l.s
	s.epoch = gfs.Epoch(d.uvarint(1<<32 - 1))
	s.clock = int64(d.uvarint(1<<63 - 1))
	s.nextFile = gfs.FileID(d.uvarint(maxFileID))
	s.nextHandle = gfs.ChunkHandle(d.uvarint(maxHandle))
	s.epochFirst = gfs.ChunkHandle(d.uvarint(uint64(s.nextHandle)))
	if format > 1 {
		for i := range s.drops {
			s.drops[i].day, s.drops[i].chunks = d.uvarint(1<<63-1), d.uvarint(1<<63-1)
		}
		s.restoration = d.restoration(s.epoch, s.nextHandle)
	}
	if !d.done() || len(key) != 1 || format == 0 || s.nextFile <= gfs.RootID || s.nextHandle == 0 || s.epochFirst == 0 {
		return errors.New("bad header")
	}
	return nil
}

// trailer compares what was read with what was written.
func (l *loader) trailer(key, value []byte) error {
	d := decoder{rest: value}
	pages, entries, chunks := d.uvarint(1<<63-1), d.uvarint(1<<63-1), d.uvarint(maxHandle)
	if !d.done() || len(key) != 1 {
		return errors.New("bad trailer")
	}
	if pages != uint64(l.pages) || entries != uint64(l.builder.size) || chunks != uint64(l.s.table.live) {
		return fmt.Errorf("%d pages with %d entries and %d chunks instead of %d, %d and %d", l.pages, l.builder.size, l.s.table.live, pages, entries, chunks)
	}
	l.ended = true
	return nil
}

// rows reads a group of the chunk table.
func (l *loader) rows(key, value []byte) error {
	s := l.s
	if len(key) != 9 || (number(key, 1)-1)%groupRows != 0 || number(key, 1) >= uint64(s.nextHandle) {
		return errors.New("bad first handle")
	}
	h := gfs.ChunkHandle(number(key, 1))
	end := min(h+groupRows, s.nextHandle)
	d := decoder{rest: value}
	before := row{}
	for h < end && !d.failed {
		tag := d.byte()
		if tag == tagLive {
			r := row{version: before.version + gfs.Version(d.varint()), file: before.file + gfs.FileID(d.varint())}
			r.bits, r.references = uint32(d.uvarint(1<<32-1)), uint32(d.uvarint(1<<32-1))
			if r.references == 0 || r.file == 0 || r.file >= s.nextFile || r.length() > gfs.ChunkSize || r.members() == 0 ||
				r.version == 0 || r.version.Epoch() > s.epoch {
				return errors.New("bad row")
			}
			s.table.set(s.edit, h, r)
			l.references += uint64(r.references)
			before = r
			h++
			continue
		}
		count := d.uvarint(uint64(end - h))
		if count == 0 || tag > tagLive || tag == tagGone && h < s.epochFirst {
			return errors.New("bad rows")
		}
		for range count {
			if tag == tagGone {
				s.table.set(s.edit, h, row{version: goneVersion})
			}
			h++
		}
	}
	if !d.done() {
		return errors.New("bad rows")
	}
	return nil
}

// group reads leaf pages.
func (l *loader) group(key, value []byte) error {
	if len(key) != 9 || number(key, 1) != l.groups {
		return errors.New("a group is missing")
	}
	l.groups++
	d := decoder{rest: value}
	for len(d.rest) > 0 {
		p := page(bytes.Clone(d.bytes(d.uvarint(pageBytes + 2*entryBytes))))
		if d.failed {
			break
		}
		last, err := p.check(l.last, l.entry)
		if err != nil {
			return err
		}
		e := p.entryAt(1)
		l.builder.add(p, l.last, p[e.body:e.body+e.suffix])
		l.last = last
	}
	if d.failed || len(value) == 0 {
		return errPage
	}
	return nil
}

func (l *loader) finish() (*State, error) {
	s := l.s
	if !l.ended {
		return nil, errors.New("its end is missing")
	}
	s.entries = l.builder.tree()
	s.counts.Chunks = s.table.live
	if uint64(l.chunksNamed) > l.references+uint64(l.given) {
		return nil, fmt.Errorf("files name %d chunks, there are %d", l.chunksNamed, l.references)
	}
	if len(s.names) == 0 || s.names[0] != "" {
		return nil, errors.New("no names")
	}
	root, found, err := s.findInode(gfs.RootID)
	if err != nil || !found || !root.directory || root.dropping {
		return nil, errors.New("no root directory")
	}
	if s.counts.Sessions > gfs.MaxSessions {
		return nil, errors.New("too many sessions")
	}
	return s, nil
}
