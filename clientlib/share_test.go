package clientlib

import (
	"fmt"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
)

// sharedFile is a file to which producers append records of 1 MiB, each with some under way: a primary that takes one
// record a turn, in the order of arrival, and answers some turns later.
type sharedFile struct {
	chunks    []int64 // filled
	queue     []arrival
	answers   []arrival
	producers []*sharingProducer
	arrivals  int
}

type sharingProducer struct {
	window window
	chunk  int
	made   uint64
	want   uint64 // records in all
	done   int
}

type arrival struct {
	from  *sharingProducer
	chunk int
	m     *mutation
	full  bool
	end   int64
	due   int
}

const (
	sharedRecord   = 1 << 20
	sharedInFlight = 7 // what a File's room holds of such records
	answerTurns    = 6
)

// turn is everyone's next step; it is false when all is done.
func (f *sharedFile) turn(now int) bool {
	busy := false
	for _, p := range f.producers {
		for p.made < p.want && len(p.window.entries) < sharedInFlight {
			p.made++
			p.window.push(&mutation{sequence: p.made, bytes: sharedRecord})
		}
		if p.window.exhausted() {
			p.window.advance()
			if p.chunk++; p.chunk == len(f.chunks) {
				f.chunks = append(f.chunks, 0)
			}
		}
		for m := p.window.take(); m != nil; m = p.window.take() {
			f.queue = append(f.queue, arrival{from: p, chunk: p.chunk, m: m})
			f.arrivals++
		}
		busy = busy || !p.window.empty()
	}
	if len(f.queue) > 0 {
		a := f.queue[0]
		f.queue = f.queue[1:]
		if a.full = f.chunks[a.chunk]+sharedRecord > gfs.ChunkSize; a.full {
			f.chunks[a.chunk] = gfs.ChunkSize
		} else {
			f.chunks[a.chunk] += sharedRecord
			a.end = f.chunks[a.chunk]
		}
		a.due = now + answerTurns
		f.answers = append(f.answers, a)
	}
	for len(f.answers) > 0 && f.answers[0].due <= now {
		a := f.answers[0]
		f.answers = f.answers[1:]
		if a.full {
			a.from.window.refuse(a.m)
			continue
		}
		claimed := f.chunks[a.chunk]
		for _, q := range f.queue {
			if q.chunk == a.chunk {
				claimed += sharedRecord
			}
		}
		a.from.window.acknowledge(a.m, a.end, claimed)
		a.from.done++
	}
	return busy || len(f.queue)+len(f.answers) > 0
}

// TestProducersShareAChunk counts how many records arrive at primaries and how long that takes: a record that does not
// fit has travelled for nothing, and a producer that holds back too much leaves the primary idle.
func TestProducersShareAChunk(t *testing.T) {
	for _, test := range []struct {
		records  []uint64 // of each producer
		arrivals float64  // for each record, at most
		turns    float64  // for each record, at most; the primary takes one a turn
	}{
		{records: repeated(1, 1024), arrivals: 1, turns: 1.15},
		{records: repeated(4, 512), arrivals: 1.15, turns: 1.15},
		{records: repeated(16, 128), arrivals: 1.3, turns: 1.3},
		{records: append(repeated(15, 16), 1024), arrivals: 1.15, turns: 1.3}, // one goes on alone
	} {
		t.Run(fmt.Sprint(len(test.records), "x", test.records[0]), func(t *testing.T) {
			f := &sharedFile{chunks: []int64{0}}
			total := uint64(0)
			for _, n := range test.records {
				f.producers = append(f.producers, &sharingProducer{want: n})
				f.producers[len(f.producers)-1].window.appends = true
				total += n
			}
			turns := 0
			for ; f.turn(turns); turns++ {
				if turns > 100*int(total) {
					t.Fatal("the producers do not come to an end")
				}
			}
			for i, p := range f.producers {
				if p.done != int(p.want) {
					t.Errorf("producer %d: %d of %d records", i, p.done, p.want)
				}
			}
			arrivals, took := float64(f.arrivals)/float64(total), float64(turns)/float64(total)
			t.Logf("%.2f arrivals and %.2f turns a record", arrivals, took)
			if arrivals > test.arrivals || took > test.turns {
				t.Errorf("%.2f arrivals and %.2f turns a record, want at most %.2f and %.2f", arrivals, took, test.arrivals, test.turns)
			}
		})
	}
}

func repeated(n int, records uint64) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		all[i] = records
	}
	return all
}
