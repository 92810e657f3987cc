package chunkserver_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	source.Read(b)
	return b
}

func must(t testing.TB, answer <-chan result) result {
	t.Helper()
	r := <-answer
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r
}

// settled is must for a mutation that waited while its chunk was reconfigured: on a slow machine its primary may have sent
// it away, and it is made again, as a client does.
func settled(t testing.TB, answer <-chan result, again func() <-chan result) result {
	t.Helper()
	got := <-answer
	if !errors.Is(got.err, gfs.ErrNotPrimary) {
		again = func() <-chan result { return told(got) }
	}
	return must(t, again())
}

// told is an answer that is there.
func told(r result) <-chan result {
	answer := make(chan result, 1)
	answer <- r
	return answer
}

func TestWritesAndAppendsReachEveryReplica(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(7)
	version := r.create(handle, 0, 1, 2)
	c := dial(t, r.servers[0].Addr())

	var want []byte
	var answers []<-chan result
	for i := range 8 {
		piece := pattern(uint64(i), 300_000)
		answers = append(answers, c.write(handle, version, int64(len(want)), piece))
		want = append(want, piece...)
	}
	for _, a := range answers {
		must(t, a)
	}
	for i := range 100 {
		record := pattern(uint64(100+i), 1+i*37)
		got := must(t, c.append(handle, version, 9, uint64(i+1), record))
		if got.offset != int64(len(want)) {
			t.Fatalf("append %d at %d, want %d", i, got.offset, len(want))
		}
		want = append(want, record...)
		if got.length != int64(len(want)) {
			t.Fatalf("committed length %d, want %d", got.length, len(want))
		}
	}
	for i := range 3 {
		got := dial(t, r.servers[i].Addr()).readAll(handle, version, int64(len(want)))
		if !bytes.Equal(got, want) {
			t.Fatalf("server %d holds other bytes", i)
		}
	}
	if reply, _ := c.read(&pb.Read{Handle: uint64(handle), Offset: 0, Length: 1}); !reply.EndKnown {
		t.Error("the primary does not know the end")
	}
	if got := must(t, c.append(handle, version, 9, 100, pattern(199, 1+99*37))); got.offset != int64(len(want))-int64(1+99*37) {
		t.Errorf("a retry got offset %d", got.offset)
	}
}

func TestConcurrentAppendersAreEachAcknowledgedOnce(t *testing.T) {
	r := newRig(t, 3)
	const handle, writers, records = gfs.ChunkHandle(1), 8, 400
	version := r.create(handle, 0, 1, 2)
	type place struct {
		offset int64
		data   []byte
	}
	var mu sync.Mutex
	var places []place
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			c := dial(t, r.servers[0].Addr())
			var pending []<-chan result
			var data [][]byte
			for i := range records {
				record := pattern(uint64(w*records+i), 200+(w*i)%3000)
				data = append(data, record)
				pending = append(pending, c.append(handle, version, gfs.WriterID(w+1), uint64(i+1), record))
				if i >= 32 {
					must(t, wrap(pending, i-32))
				}
			}
			for i := range records {
				got := must(t, wrap(pending, i))
				mu.Lock()
				places = append(places, place{got.offset, data[i]})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total := int64(0)
	for _, p := range places {
		total = max(total, p.offset+int64(len(p.data)))
	}
	var first []byte
	for i := range 3 {
		got := dial(t, r.servers[i].Addr()).readAll(handle, version, total)
		if i == 0 {
			first = got
		} else if !bytes.Equal(first, got) {
			t.Fatalf("server %d differs from server 0", i)
		}
	}
	taken := make([]bool, total)
	for _, p := range places {
		if !bytes.Equal(first[p.offset:p.offset+int64(len(p.data))], p.data) {
			t.Fatalf("the record at %d is another", p.offset)
		}
		for i := range p.data {
			if taken[p.offset+int64(i)] {
				t.Fatalf("two records overlap at %d", p.offset)
			}
			taken[p.offset+int64(i)] = true
		}
	}
	if len(places) != writers*records {
		t.Fatalf("%d records acknowledged, want %d", len(places), writers*records)
	}
}

// wrap gives an answer that can be received more than once.
func wrap(pending []<-chan result, i int) <-chan result {
	r := <-pending[i]
	again := make(chan result, 2)
	again <- r
	pending[i] = again
	once := make(chan result, 1)
	once <- r
	return once
}
