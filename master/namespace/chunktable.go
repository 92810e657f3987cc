package namespace

import (
	"iter"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	// rowsPerPage makes a page of 3 KiB, what a copy on write costs.
	rowsPerPage = 128
	// pagesPerDirectory makes a directory of 6 KiB.
	pagesPerDirectory = 256
	rowsPerDirectory  = rowsPerPage * pagesPerDirectory
)

// goneVersion marks the row of a handle that was used and whose chunk is gone.
const goneVersion = gfs.Version(1<<64 - 1)

// row is a chunk in the table: 24 bytes. The zero row is a handle never used.
type row struct {
	version    gfs.Version
	file       gfs.FileID
	bits       uint32 // length 27, members 4, open 1
	references uint32
}

const (
	lengthBits = 27
	lengthMask = 1<<lengthBits - 1
	memberMask = 15
	openBit    = 1 << 31
)

func newRow(version gfs.Version, file gfs.FileID, length int64, members int, open bool, references int) row {
	bits := uint32(length) | uint32(members)<<lengthBits
	if open {
		bits |= openBit
	}
	return row{version, file, bits, uint32(references)}
}

func (r row) length() int64 { return int64(r.bits & lengthMask) }
func (r row) members() int  { return int(r.bits >> lengthBits & memberMask) }
func (r row) open() bool    { return r.bits&openBit != 0 }
func (r row) live() bool    { return r.references > 0 }

// chunkTable holds a row for each chunk handle. Handles are sequential, so it is an array: of directories, of
// pages, of rows, each copied on write under an edit number as the tree's nodes are. The value itself is the
// snapshot. The zero value is empty.
type chunkTable struct {
	edit        uint64
	directories []*directory
	live        int // rows with a reference
}

type directory struct {
	edit  uint64
	pages [pagesPerDirectory]rowPage
}

// rowPage counts what it holds, so that iterations pass over empty pages and pages of gone chunks are let go.
type rowPage struct {
	rows *[rowsPerPage]row // nil if no row is live and none will be
	edit uint64
	used uint8 // rows that are not zero
	live uint8
	open uint8
}

// get returns the row of a handle, the zero row if there is none. A gone one may have become a zero row.
func (t *chunkTable) get(h gfs.ChunkHandle) row {
	i := uint64(h - 1)
	if i/rowsPerDirectory >= uint64(len(t.directories)) {
		return row{}
	}
	d := t.directories[i/rowsPerDirectory]
	if d == nil {
		return row{}
	}
	p := &d.pages[i/rowsPerPage%pagesPerDirectory]
	if p.rows == nil {
		if p.used == rowsPerPage {
			return row{version: goneVersion}
		}
		return row{}
	}
	return p.rows[i%rowsPerPage]
}

// blank reports whether there is no row in the directory of a handle, nor any that was.
func (t *chunkTable) blank(h gfs.ChunkHandle) bool {
	at := uint64(h-1) / rowsPerDirectory
	return at >= uint64(len(t.directories)) || t.directories[at] == nil
}

// set writes the row of a handle other than zero.
func (t *chunkTable) set(edit uint64, h gfs.ChunkHandle, r row) {
	i := uint64(h - 1)
	p := t.own(edit, int(i/rowsPerPage))
	slot := &p.rows[i%rowsPerPage]
	p.used += tally(r != row{}) - tally(*slot != row{})
	p.live += tally(r.live()) - tally(slot.live())
	p.open += tally(r.open()) - tally(slot.open())
	t.live += int(tally(r.live())) - int(tally(slot.live()))
	*slot = r
	if p.live == 0 && p.used == rowsPerPage {
		p.rows = nil
	}
}

// forgetBefore lets go of pages wholly below a handle that hold no live row: no row will be written there.
func (t *chunkTable) forgetBefore(edit uint64, h gfs.ChunkHandle) {
	for page := range int(uint64(h-1) / rowsPerPage) {
		d := t.directories
		if at := page / pagesPerDirectory; at >= len(d) {
			return
		} else if d[at] == nil || d[at].pages[page%pagesPerDirectory].rows == nil || d[at].pages[page%pagesPerDirectory].live > 0 {
			continue
		}
		*t.own(edit, page) = rowPage{used: rowsPerPage}
	}
}

// own is page number page, ready to be changed.
func (t *chunkTable) own(edit uint64, page int) *rowPage {
	at := page / pagesPerDirectory
	if t.edit != edit {
		t.directories, t.edit = slices.Clone(t.directories), edit
	}
	for at >= len(t.directories) {
		t.directories = append(t.directories, nil)
	}
	d := t.directories[at]
	switch {
	case d == nil:
		d = &directory{edit: edit}
	case d.edit != edit:
		d = &directory{edit: edit, pages: d.pages}
	}
	t.directories[at] = d
	p := &d.pages[page%pagesPerDirectory]
	switch {
	case p.rows == nil:
		p.rows, p.edit = new([rowsPerPage]row), edit
		if p.used == rowsPerPage {
			for i := range p.rows {
				p.rows[i].version = goneVersion
			}
		}
	case p.edit != edit:
		rows := *p.rows
		p.rows, p.edit = &rows, edit
	}
	return p
}

// from iterates over the live rows from a handle on, or over the open ones alone, in order of handles.
func (t *chunkTable) from(h gfs.ChunkHandle, open bool) iter.Seq2[gfs.ChunkHandle, row] {
	return func(yield func(gfs.ChunkHandle, row) bool) {
		start := uint64(max(h, 1) - 1)
		for at := start / rowsPerDirectory; at < uint64(len(t.directories)); at++ {
			d := t.directories[at]
			if d == nil {
				continue
			}
			for page := range d.pages {
				p, base := &d.pages[page], at*rowsPerDirectory+uint64(page)*rowsPerPage
				if p.live == 0 || open && p.open == 0 || base+rowsPerPage <= start {
					continue
				}
				for i, r := range p.rows {
					if r.live() && (r.open() || !open) && base+uint64(i) >= start && !yield(gfs.ChunkHandle(base+uint64(i)+1), r) {
						return
					}
				}
			}
		}
	}
}

func tally(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
