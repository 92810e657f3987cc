package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// stampBytes is what tells a record from every other: run, producer and number, 8 bytes each.
	stampBytes = 24
	// shifts is how many different bodies there are, so that a mixture of two records is noticed.
	shifts = 1 << 16
)

// stamp names a record.
type stamp struct{ run, producer, number uint64 }

// acknowledged is a record that the cluster has said to hold.
type acknowledged struct {
	offset           int64
	producer, number uint64
}

// maker makes records of one size and recognizes them. It is safe for concurrent use.
type maker struct {
	size  int // MinRecordBytes or more
	noise []byte
}

func newMaker(size int, noise func(n int) []byte) maker {
	return maker{size: size, noise: noise(size - stampBytes + shifts)}
}

// fill writes the record that s names into buf, which has the maker's size.
func (m maker) fill(buf []byte, s stamp) {
	s.put(buf)
	copy(buf[stampBytes:], m.body(s))
}

// named reports whether buf begins as the record that s names, and whole whether all of it is that record.
func (m maker) named(buf []byte, s stamp) (named, whole bool) {
	var want [stampBytes]byte
	s.put(want[:])
	if !bytes.Equal(buf[:stampBytes], want[:]) {
		return false, false
	}
	return true, bytes.Equal(buf[stampBytes:], m.body(s))
}

func (m maker) body(s stamp) []byte {
	shift := (s.number*0x9e3779b97f4a7c15 + s.producer*0xbf58476d1ce4e5b9 + s.run) >> 32 % shifts
	return m.noise[shift:][:m.size-stampBytes]
}

func (s stamp) put(buf []byte) {
	binary.BigEndian.PutUint64(buf, s.run)
	binary.BigEndian.PutUint64(buf[8:], s.producer)
	binary.BigEndian.PutUint64(buf[16:], s.number)
}

// finding is what is wrong with the acknowledged records of a file.
type finding struct {
	lost, torn int64
	first      error // names the first one; nil if there is none
}

func (f *finding) add(count *int64, what string, a acknowledged) {
	*count++
	if f.first == nil {
		f.first = fmt.Errorf("record %d of producer %d, acknowledged at offset %d, is %s", a.number, a.producer, a.offset, what)
	}
}

func (f *finding) addLost(records ...acknowledged) {
	for _, a := range records {
		f.add(&f.lost, "lost", a)
	}
}

func (f *finding) addTorn(a acknowledged) { f.add(&f.torn, "torn", a) }

// check reads a file from its beginning and looks for the acknowledged records of a run, which it sorts by offset.
// A record is torn if it overlaps another or is not the same bytes to its end, and lost if something else is in its
// place. An error means that the file could not be read.
func (m maker) check(r io.Reader, run uint64, records []acknowledged) (found finding, err error) {
	slices.SortFunc(records, func(a, b acknowledged) int { return cmp.Compare(a.offset, b.offset) })
	in := bufio.NewReaderSize(r, ioBytes)
	buf := make([]byte, m.size)
	position := int64(0)
	for i, a := range records {
		if a.offset < position {
			found.addTorn(a)
			continue
		}
		if err := skip(in, a.offset-position); err == io.EOF {
			found.addLost(records[i:]...)
			return found, nil
		} else if err != nil {
			return found, err
		}
		n, err := io.ReadFull(in, buf)
		position = a.offset + int64(n)
		switch {
		case err == io.EOF:
			found.addLost(records[i:]...)
			return found, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			found.addTorn(a)
			found.addLost(records[i+1:]...)
			return found, nil
		case err != nil:
			return found, err
		}
		switch named, whole := m.named(buf, stamp{run, a.producer, a.number}); {
		case !named:
			found.addLost(a)
		case !whole:
			found.addTorn(a)
		}
	}
	return found, nil
}

// skip discards n bytes; at the end of the stream the error is io.EOF.
func skip(r *bufio.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return err
}
