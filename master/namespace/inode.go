package namespace

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/cairnfs/cairn/messages/gfs"
)

// inode is a file or a directory. A file's chunks are runs of handles: the last few here, those of a large file
// before them in segments of their own, so that adding a chunk costs the same in a file of any size.
type inode struct {
	directory bool
	synced    bool
	dropping  bool // in the queue: its chunks go, nobody opens it any more
	replicas  int  // files: wanted, 1 to gfs.MaxReplicas
	mode      uint32
	owner     string
	group     string
	modified  int64 // nanoseconds since 1970
	spilled   int   // files: chunks in segments
	runs      []run // files: the chunks after those
}

// run is a row of chunks with rising handles.
type run struct {
	first gfs.ChunkHandle
	count int
}

const (
	maxTailRuns = 32 // runs in an inode before the older half moves to a segment
	spillRuns   = maxTailRuns / 2
	maxNames    = 1 << 16 // interned users and groups; further ones are written out in each inode
)

const (
	flagDirectory = 1 << iota
	flagSynced
	flagDropping
	flagSpilled
	replicasShift = 4
)

var errInode = errors.New("damaged inode")

// chunks is the number of the file's chunks.
func (n *inode) chunks() int {
	return n.spilled + chunksIn(n.runs)
}

// last is the handle of the last chunk, zero if there is none.
func (n *inode) last() gfs.ChunkHandle {
	if len(n.runs) == 0 {
		return 0
	}
	r := n.runs[len(n.runs)-1]
	return r.first + gfs.ChunkHandle(r.count-1)
}

// add appends a chunk to the tail.
func (n *inode) add(handle gfs.ChunkHandle) {
	if len(n.runs) > 0 && n.last()+1 == handle {
		n.runs[len(n.runs)-1].count++
		return
	}
	n.runs = append(n.runs, run{handle, 1})
}

func appendRuns(b []byte, runs []run) []byte {
	b = binary.AppendUvarint(b, uint64(len(runs)))
	next := gfs.ChunkHandle(0)
	for _, r := range runs {
		b = binary.AppendVarint(b, int64(r.first-next))
		b = binary.AppendUvarint(b, uint64(r.count-1))
		next = r.first + gfs.ChunkHandle(r.count)
	}
	return b
}

// parseRuns reads all of b as runs that hold at most gfs.MaxFileChunks chunks.
func parseRuns(b []byte) ([]run, error) {
	d := decoder{rest: b}
	n := d.uvarint(maxTailRuns + 1)
	runs := make([]run, 0, n)
	next, total := gfs.ChunkHandle(0), uint64(0)
	for range n {
		first := next + gfs.ChunkHandle(d.varint())
		count := d.uvarint(gfs.MaxFileChunks-1) + 1
		total += count
		next = first + gfs.ChunkHandle(count)
		if first == 0 || next < first || total > gfs.MaxFileChunks {
			return nil, errInode
		}
		runs = append(runs, run{first, int(count)})
	}
	if !d.done() {
		return nil, errInode
	}
	return runs, nil
}

// pack writes an inode; number says under which number a name is interned, from 1, or 0.
func (n *inode) pack(number func(name string) int) []byte {
	flags := byte(n.replicas)<<replicasShift | tally(n.directory)*flagDirectory | tally(n.synced)*flagSynced |
		tally(n.dropping)*flagDropping | tally(n.spilled > 0)*flagSpilled
	b := append(make([]byte, 0, 128), flags)
	b = binary.AppendUvarint(b, uint64(n.mode))
	for _, name := range [...]string{n.owner, n.group} {
		interned := number(name)
		b = binary.AppendUvarint(b, uint64(interned))
		if interned == 0 {
			b = binary.AppendUvarint(b, uint64(len(name)))
			b = append(b, name...)
		}
	}
	b = binary.BigEndian.AppendUint64(b, uint64(n.modified))
	if n.spilled > 0 {
		b = binary.AppendUvarint(b, uint64(n.spilled))
	}
	if len(n.runs) > 0 {
		b = appendRuns(b, n.runs)
	}
	return b
}

// unpackInode reads what pack wrote; names[i] is the name interned under i+1.
func unpackInode(value []byte, names []string) (inode, error) {
	d := decoder{rest: value}
	flags := d.byte()
	n := inode{
		directory: flags&flagDirectory != 0,
		synced:    flags&flagSynced != 0,
		dropping:  flags&flagDropping != 0,
		replicas:  int(flags >> replicasShift),
	}
	n.mode = uint32(d.uvarint(maxMode))
	for _, name := range [...]*string{&n.owner, &n.group} {
		if interned := d.uvarint(uint64(len(names))); interned > 0 {
			*name = names[interned-1]
		} else {
			*name = string(d.bytes(d.uvarint(gfs.MaxNameBytes)))
			if !utf8.ValidString(*name) {
				d.fail() // a reply could not carry it
			}
		}
	}
	n.modified = int64(d.uint64())
	if flags&flagSpilled != 0 {
		n.spilled = int(d.uvarint(gfs.MaxFileChunks))
	}
	if d.failed {
		return inode{}, errInode
	}
	if len(d.rest) > 0 {
		runs, err := parseRuns(d.rest)
		if err != nil {
			return inode{}, err
		}
		n.runs = runs
	}
	plain := n.replicas == 0 && !n.synced && n.spilled == 0 && n.runs == nil
	if n.directory && !plain || !n.directory && (n.replicas < 1 || n.replicas > gfs.MaxReplicas) ||
		n.spilled > 0 && len(n.runs) == 0 || n.chunks() > gfs.MaxFileChunks {
		return inode{}, errInode
	}
	return n, nil
}

// decoder reads numbers and bytes; after the first failure all that it reads is zero.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) fail() uint64 {
	d.rest, d.failed = nil, true
	return 0
}

func (d *decoder) done() bool { return !d.failed && len(d.rest) == 0 }

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		return byte(d.fail())
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

// uvarint reads a number of at most limit.
func (d *decoder) uvarint(limit uint64) uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || n > limit {
		return d.fail()
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.rest)
	if size <= 0 {
		return int64(d.fail())
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) uint64() uint64 {
	if len(d.rest) < 8 {
		return d.fail()
	}
	n := binary.BigEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return n
}

// bytes are the next n, not copied.
func (d *decoder) bytes(n uint64) []byte {
	if uint64(len(d.rest)) < n {
		d.fail()
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
