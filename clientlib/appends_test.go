package clientlib

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// checkAppends reads a file back and checks that each writer's records 0 to n-1 are there once, in order, and where
// offsets says.
func checkAppends(t *testing.T, p *peers, path string, offsets map[uint64]int64, writers, n int) {
	t.Helper()
	p.mu.Lock()
	chunks := len(p.nodes[path].chunks)
	p.mu.Unlock()
	next := make([]uint64, writers)
	seen := 0
	for index := range chunks {
		data := p.chunkOf(path, index)
		for at := 0; at < len(data); at += 8 + int(binary.BigEndian.Uint32(data[at+4:])) {
			writer, size := int(data[at]), int(binary.BigEndian.Uint32(data[at+4:]))
			number := uint64(binary.BigEndian.Uint16(data[at+2:]))
			if number != next[writer] {
				t.Fatalf("chunk %d offset %d: record %d of writer %d, want %d (size %d)", index, at, number, writer, next[writer], size)
			}
			next[writer]++
			seen++
			if want := int64(index)*gfs.ChunkSize + int64(at); offsets[uint64(writer)<<32|number] != want {
				t.Fatalf("record %d of writer %d is at %d, its append said %d", number, writer, want, offsets[uint64(writer)<<32|number])
			}
		}
	}
	if seen != writers*n {
		t.Fatalf("%d records, want %d", seen, writers*n)
	}
}

func testRecord(writer, number, size int) []byte {
	record := make([]byte, 8, 8+size)
	record[0] = byte(writer)
	binary.BigEndian.PutUint16(record[2:], uint16(number))
	binary.BigEndian.PutUint32(record[4:], uint32(size))
	return append(record, bytes.Repeat([]byte{byte(number)}, size)...)
}

// appendAll appends n records on each of several Files at once, many in flight, and gives the offsets.
func appendAll(t *testing.T, c *Client, path string, writers, n, size int) map[uint64]int64 {
	t.Helper()
	offsets := make(map[uint64]int64)
	var mu sync.Mutex
	var all sync.WaitGroup
	for w := range writers {
		file, err := c.OpenFile(t.Context(), path, 2)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer file.Close()
			pending := make([]*Pending, n)
			for i := range n {
				pending[i] = file.AppendAsync(t.Context(), testRecord(w, i, (size*(i+3))%(2*size)))
			}
			for i, one := range pending {
				offset, err := one.Wait(t.Context())
				if err != nil {
					t.Errorf("append: %v", err)
				}
				mu.Lock()
				offsets[uint64(w)<<32|uint64(i)] = offset
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return offsets
}

func TestAppendsOnceAndInOrder(t *testing.T) {
	for name, fault := range map[string]func(t *testing.T, p *peers){
		"no fault": func(*testing.T, *peers) {},
		"cut connections, lost replies": func(_ *testing.T, p *peers) {
			for _, s := range p.servers {
				s.onMutate = func(nth int, _ *pb.Mutate) (gfs.Code, bool) { return 0, nth%37 == 5 }
			}
		},
		"new versions": func(t *testing.T, p *peers) {
			ctx, cancel := context.WithCancel(t.Context())
			var task sync.WaitGroup
			t.Cleanup(func() { cancel(); task.Wait() })
			task.Go(func() {
				for ticker := time.NewTicker(20 * time.Millisecond); ; {
					select {
					case <-ticker.C:
					case <-ctx.Done():
						ticker.Stop()
						return
					}
					p.mu.Lock()
					for _, c := range p.chunks {
						c.members = append(c.members[1:], c.members[0])
						p.reconfigure(c)
					}
					p.mu.Unlock()
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeers(t, 4)
			p.chunkCap = 40_000
			c := p.connect()
			if file, err := c.Create(t.Context(), "/log"); err != nil {
				t.Fatal(err)
			} else {
				file.Close()
			}
			fault(t, p)
			const writers, n = 4, 300
			offsets := appendAll(t, c, "/log", writers, n, 100)
			checkAppends(t, p, "/log", offsets, writers, n)
		})
	}
}

func TestAppendBatchTellsWhichFailed(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	offsets, err := file.AppendBatch(t.Context(), [][]byte{[]byte("one"), make([]byte, gfs.MaxRecordBytes+1), []byte("three")})
	if !errors.Is(err, ErrRecordTooLarge) || fmt.Sprint(offsets) != "[0 -1 3]" {
		t.Errorf("%v, %v", offsets, err)
	}
	largest := pattern(gfs.MaxRecordBytes, 1)
	offset, err := file.Append(t.Context(), largest)
	if err != nil || offset != 8 {
		t.Fatalf("the largest record: %d, %v", offset, err)
	}
	got := make([]byte, len(largest))
	if _, err := file.ReadAt(got, offset); err != nil || !bytes.Equal(got, largest) {
		t.Errorf("read it back: %v", err)
	}
}

func TestRefusedAppendDoesNotStopOthers(t *testing.T) {
	p := newPeers(t, 1)
	c := p.connect()
	file, err := c.Create(t.Context(), "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p.servers[0].onMutate = func(_ int, m *pb.Mutate) (gfs.Code, bool) {
		if m.GetSequence()%3 == 0 {
			return gfs.CodeNoSpace, false
		}
		return 0, false
	}
	failed := 0
	for i := range 9 {
		_, err := file.Append(t.Context(), []byte{byte(i)})
		if errors.Is(err, ErrNoSpace) {
			failed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if failed != 3 || len(p.chunkOf("/log", 0)) != 6 {
		t.Errorf("%d failed, %d bytes", failed, len(p.chunkOf("/log", 0)))
	}
}

func TestBusyPrimaryIsAskedAgain(t *testing.T) {
	p := newPeers(t, 1)
	c := p.connect()
	file, err := c.Create(t.Context(), "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	codes := []gfs.Code{gfs.CodeBusy, gfs.CodeUnavailable, gfs.CodeNotPrimary, gfs.CodeStaleVersion, gfs.CodeNoReplica, gfs.CodeCorrupt}
	p.servers[0].onMutate = func(nth int, _ *pb.Mutate) (gfs.Code, bool) {
		if nth%2 == 1 {
			return codes[nth/2%len(codes)], false
		}
		return 0, false
	}
	for i := range 2 * len(codes) {
		if offset, err := file.Append(t.Context(), []byte{byte(i)}); err != nil || offset != int64(i) {
			t.Errorf("append %d: %d, %v", i, offset, err)
		}
	}
}

func TestWriterIDsAreNeverTakenForRetries(t *testing.T) {
	p := newPeers(t, 3)
	for round := range 3 { // as three processes that use the same id
		c := p.connect(WithWriterID(7))
		file, err := c.OpenFile(t.Context(), "/log", 2|64)
		if err != nil {
			t.Fatal(err)
		}
		offset, err := file.Append(t.Context(), []byte("record"))
		if err != nil || offset != int64(6*round) {
			t.Errorf("round %d: %d, %v", round, offset, err)
		}
		if file.WriterID() != 7 {
			t.Errorf("writer %d", file.WriterID())
		}
		file.Close()
		c.Close()
	}
}

func TestManySmallWritesAreJoined(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(1<<20, 4)
	for i := 0; i < len(data); i += 256 {
		if _, err := file.Write(data[i : i+256]); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.chunkOf("/file", 0), data) {
		t.Error("the file differs")
	}
	frames := 0
	for _, s := range p.servers {
		frames += s.get(&s.frames)
	}
	if frames > 400 {
		t.Errorf("4096 writes went in %d mutations", frames)
	}
	if n, err := io.Copy(io.Discard, strings.NewReader("")); n != 0 || err != nil {
		t.Error(err)
	}
}

// What ends a stream says nothing of what its chunk was sent before.
func TestALostAcknowledgementIsNoFailure(t *testing.T) {
	var lent buffers
	s := newStream(&openFile{room: room{size: 100}})
	s.appends, s.window.appends = true, true
	push := func(m mutation) *mutation {
		m.data, m.done, m.sequence = lent.get(1), make(chan struct{}), uint64(len(s.window.entries)+1)
		s.window.push(&m)
		return &m
	}
	sent := push(mutation{state: waiting, sent: true, ever: true})
	full := push(mutation{state: refused, sent: true, ever: true})
	fresh := push(mutation{state: waiting})
	s.giveUp(gfs.Errorf(gfs.CodeNotExist, "the file was removed"))
	if !errors.Is(sent.err, ErrOutcomeUnknown) || !errors.Is(sent.err, fs.ErrNotExist) {
		t.Errorf("sent and not answered: %v", sent.err)
	}
	for _, m := range []*mutation{full, fresh} {
		if m.err == nil || errors.Is(m.err, ErrOutcomeUnknown) {
			t.Errorf("not in the file for certain: %v", m.err)
		}
	}
}
