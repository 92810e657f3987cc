package backup

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	magic  = "CAIRNBACKUP\n"
	format = 1

	// maxDescriptionBytes bounds the description: two names of at most 64 bytes and three numbers.
	maxDescriptionBytes = 1024
	crcBytes            = 4
	pageHeadBytes       = 6 // lengths of key and value
	endBytes            = 2 + 8 + crcBytes
)

// Bounds of a page: what is longer is not read.
const (
	MaxKeyBytes   = 4096
	MaxValueBytes = 16 << 20
)

// ErrDamaged means that a backup is not as it was written.
var ErrDamaged = errors.New("the backup is damaged")

// Header says what a backup is of.
type Header struct {
	Cluster string
	Master  string // that made it
	Index   uint64 // of the operation log: all records up to it are in
	Epoch   gfs.Epoch
	Made    time.Time
}

// Page is one page of a checkpoint.
type Page struct{ Key, Value []byte }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Encoder makes a backup. Make one with NewEncoder.
type Encoder struct {
	pages uint64
	sums  uint32
}

// NewEncoder begins a backup: it appends the header to b.
func NewEncoder(b []byte, h Header) (*Encoder, []byte) {
	from := len(b)
	description := fmt.Sprintf("%s\n%s\n%d\n%d\n%d\n", h.Cluster, h.Master, h.Index, h.Epoch, h.Made.UnixNano())
	b = binary.LittleEndian.AppendUint32(append(b, magic...), format)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(description))), description...)
	return &Encoder{}, appendCRC(b, from)
}

// Page appends a page to b and keeps nothing of it. Keys must ascend and be within the bounds.
func (e *Encoder) Page(b []byte, p Page) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p.Key)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.Value)))
	b = appendCRC(append(append(b, p.Key...), p.Value...), from)
	e.pages++
	e.sums = crc32.Update(e.sums, castagnoli(), b[len(b)-crcBytes:])
	return b
}

// End appends the end of the backup to b.
func (e *Encoder) End(b []byte) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint64(append(b, 0, 0), e.pages)
	return appendCRC(binary.LittleEndian.AppendUint32(b, e.sums), from)
}

// appendCRC appends the checksum of b from an index on.
func appendCRC(b []byte, from int) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli()))
}

// Read reads a backup's header and returns its pages, which may be gone through once. A page's memory is valid until the
// next step. The end of the iteration without an error means that the backup was whole; damage, or an end that is
// missing, is ErrDamaged in the last pair, and so the pages before it are to be used only when all were read.
// A newer format is gfs.CodeInvalid; an error of r is returned wrapped.
func Read(r io.Reader) (Header, iter.Seq2[Page, error], error) {
	d := &decoder{r: bufio.NewReaderSize(r, 1<<16)}
	h, err := d.header()
	if err != nil {
		return Header{}, nil, err
	}
	return h, d.all, nil
}

// decoder reads a backup.
type decoder struct {
	r     *bufio.Reader
	read  int64 // bytes
	pages uint64
	sums  uint32
	last  []byte // the key of the last page
	part  []byte // what is being read
}

func (d *decoder) corrupt(text string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s: take another one", ErrDamaged, d.read, fmt.Sprintf(text, args...))
}

// more reads n more bytes behind those of the part at hand, and returns these alone. It takes memory as bytes come.
func (d *decoder) more(n int) ([]byte, error) {
	from := len(d.part)
	for n > 0 {
		step := min(n, 1<<16)
		at := len(d.part)
		d.part = append(d.part, make([]byte, step)...)
		got, err := io.ReadFull(d.r, d.part[at:])
		d.read += int64(got)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, d.corrupt("it breaks off")
		case err != nil:
			return nil, fmt.Errorf("read the backup: %w", err)
		}
		n -= step
	}
	return d.part[from:], nil
}

// seal reads the checksum of the part and begins the next one.
func (d *decoder) seal() error {
	want := crc32.Checksum(d.part, castagnoli())
	sum, err := d.more(crcBytes)
	if err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint32(sum); got != want {
		return d.corrupt("it has CRC32C %08x and was written with %08x", want, got)
	}
	return nil
}

func (d *decoder) header() (Header, error) {
	head, err := d.more(len(magic) + 8)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return Header{}, err
	}
	if err != nil || string(head[:len(magic)]) != magic {
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "this is no backup of a master: it begins with other bytes")
	}
	if number := binary.LittleEndian.Uint32(head[len(magic):]); number > format {
		return Header{}, gfs.Errorf(gfs.CodeInvalid, "the backup has format %d, this program knows up to %d: run a newer one", number, format)
	} else if number == 0 {
		return Header{}, d.corrupt("format 0")
	}
	length := binary.LittleEndian.Uint32(head[len(magic)+4:])
	if length > maxDescriptionBytes {
		return Header{}, d.corrupt("a description of %d bytes", length)
	}
	text, err := d.more(int(length))
	if err != nil {
		return Header{}, err
	}
	text = bytes.Clone(text)
	if err := d.seal(); err != nil {
		return Header{}, err
	}
	d.part = d.part[:0]
	var h Header
	var nanoseconds int64
	if n, err := fmt.Sscanf(string(text), "%s\n%s\n%d\n%d\n%d\n", &h.Cluster, &h.Master, &h.Index, &h.Epoch, &nanoseconds); err != nil || n != 5 {
		return Header{}, d.corrupt("a description that makes no sense")
	}
	h.Made = time.Unix(0, nanoseconds)
	return h, nil
}

// all yields the pages, and an error if the backup is not whole.
func (d *decoder) all(yield func(Page, error) bool) {
	for {
		p, more, err := d.page()
		switch {
		case err != nil:
			yield(Page{}, err)
			return
		case !more, !yield(p, nil):
			return
		}
	}
}

// page reads the next page. It reports false at the end, when everything was right.
func (d *decoder) page() (Page, bool, error) {
	d.part = d.part[:0]
	head, err := d.more(2)
	if err != nil {
		return Page{}, false, err
	}
	keyBytes := int(binary.LittleEndian.Uint16(head))
	if keyBytes == 0 {
		return Page{}, false, d.end()
	}
	if head, err = d.more(pageHeadBytes - 2); err != nil {
		return Page{}, false, err
	}
	valueBytes := binary.LittleEndian.Uint32(head)
	if keyBytes > MaxKeyBytes || valueBytes > MaxValueBytes {
		return Page{}, false, d.corrupt("a page with a key of %d and a value of %d bytes", keyBytes, valueBytes)
	}
	if _, err := d.more(keyBytes + int(valueBytes)); err != nil {
		return Page{}, false, err
	}
	if err := d.seal(); err != nil {
		return Page{}, false, err
	}
	end := len(d.part) - crcBytes
	d.sums = crc32.Update(d.sums, castagnoli(), d.part[end:])
	d.pages++
	p := Page{Key: d.part[pageHeadBytes : pageHeadBytes+keyBytes], Value: d.part[pageHeadBytes+keyBytes : end]}
	if bytes.Compare(p.Key, d.last) <= 0 {
		return Page{}, false, d.corrupt("page %x follows %x", p.Key, d.last)
	}
	d.last = append(d.last[:0], p.Key...)
	return p, true, nil
}

// end checks what the backup says of itself in the end.
func (d *decoder) end() error {
	totals, err := d.more(endBytes - 2)
	if err != nil {
		return err
	}
	pages, sums := binary.LittleEndian.Uint64(totals), binary.LittleEndian.Uint32(totals[8:])
	if err := d.seal(); err != nil {
		return err
	}
	if pages != d.pages || sums != d.sums {
		return d.corrupt("%d pages with CRC32C %08x instead of %d with %08x", d.pages, d.sums, pages, sums)
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		return d.corrupt("something follows its end")
	}
	return nil
}
