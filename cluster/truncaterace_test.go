package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

// span is a call with the time that it took, and where in the file it took effect.
type span struct {
	begun, ended time.Time
	at           int64
	data         []byte
}

// truncateAll truncates a file to each size in turn, and says when. Before each, and after the last, others do something
// 30 times.
func truncateAll(ctx context.Context, t *testing.T, f *clientlib.File, sizes []int64, others <-chan struct{}) (cuts []span) {
	await := func() {
		for range 30 {
			select {
			case <-others:
			case <-ctx.Done():
			}
		}
	}
	defer await()
	for _, size := range sizes {
		await()
		s := span{begun: time.Now(), at: size}
		if err := f.Truncate(ctx, size); err != nil {
			t.Error(err)
			return cuts
		}
		s.ended = time.Now()
		cuts = append(cuts, s)
	}
	return cuts
}

// TestTruncationsBesideAppends truncates a file again and again to which others append: no append that was acknowledged
// after a truncation is lost, none is there twice, and nothing that was cut away comes back.
func TestTruncationsBesideAppends(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	const record, appenders = 1000, 4
	f := mustCreate(ctx, t, c.Client(), "/f")
	var stop atomic.Bool
	done := make(chan struct{}, 10)
	var mu sync.Mutex
	var appends []span
	var wg sync.WaitGroup
	for a := range appenders {
		own, err := c.Client().OpenFile(ctx, "/f", os.O_RDWR|os.O_APPEND)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer own.Close()
			var mine []span
			for i := 0; !stop.Load(); i++ {
				s := span{begun: time.Now(), data: bytes.Repeat(fmt.Appendf(nil, "%d/%07d ", a, i), record/10)}
				if s.at, err = own.Append(ctx, s.data); err != nil {
					t.Errorf("appender %d: %v", a, err)
					return
				}
				s.ended = time.Now()
				mine = append(mine, s)
				select {
				case done <- struct{}{}:
				default:
				}
			}
			mu.Lock()
			defer mu.Unlock()
			appends = append(appends, mine...)
		})
	}
	var sizes []int64
	for range 20 {
		sizes = append(sizes, record*rand.Int64N(200))
	}
	cuts := truncateAll(ctx, t, f, sizes, done)
	stop.Store(true)
	wg.Wait()
	data, err := c.Client().ReadFile(ctx, "/f")
	if err != nil || len(data)%record != 0 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	there := map[string]int64{}
	for at := int64(0); at < int64(len(data)); at += record {
		text := string(data[at : at+record])
		if first, twice := there[text]; twice && text != string(make([]byte, record)) {
			t.Errorf("%.10s is at %d and at %d", text, first, at)
		}
		there[text] = at
	}
	kept := 0
	for _, a := range appends {
		must, cut := true, false
		for _, c := range cuts {
			if c.ended.After(a.begun) && c.at < a.at+record {
				must = false
			}
			cut = cut || a.ended.Before(c.begun) && c.at <= a.at
		}
		at, found := there[string(a.data)]
		switch {
		case must && (!found || at != a.at):
			t.Errorf("%.10s was acknowledged at %d, found %t at %d", a.data, a.at, found, at)
		case cut && found:
			t.Errorf("%.10s was cut away at %d and is at %d", a.data, a.at, at)
		case must:
			kept++
		}
	}
	t.Logf("%d appends, of which %d had to stay, and %d truncations", len(appends), kept, len(cuts))
}

// TestTruncationsBesideWrites does the same with writes all over three chunks, so that chunks are cut away and made again.
func TestTruncationsBesideWrites(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	const length, writers = 10, 3
	f := mustCreate(ctx, t, c.Client(), "/f")
	var stop atomic.Bool
	done := make(chan struct{}, 10)
	var wg sync.WaitGroup
	writes := make([][]span, writers)
	var places [writers]*rand.Rand
	for w := range writers {
		places[w] = rand.New(rand.NewPCG(uint64(w), 1))
		own, err := c.Client().OpenFile(ctx, "/f", os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer own.Close()
			for i := 0; !stop.Load(); i++ {
				at := (places[w].Int64N(3*gfs.ChunkSize/length/writers)*writers + int64(w)) * length // nobody writes where another does
				s := span{begun: time.Now(), at: at, data: fmt.Appendf(nil, "%d/%07d.", w, i)}
				if _, err := own.WriteAt(s.data, at); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				s.ended = time.Now()
				writes[w] = append(writes[w], s)
				select {
				case done <- struct{}{}:
				default:
				}
			}
		})
	}
	var sizes []int64
	for range 15 {
		sizes = append(sizes, rand.Int64N(3*gfs.ChunkSize))
	}
	cuts := truncateAll(ctx, t, f, sizes, done)
	stop.Store(true)
	wg.Wait()
	reader, err := c.Client().Open(ctx, "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	kept, gone := 0, 0
	for _, mine := range writes {
		for _, s := range mine {
			must, cut := true, false
			for _, c := range cuts {
				if c.ended.After(s.begun) && c.at < s.at+length {
					must = false
				}
				cut = cut || s.ended.Before(c.begun) && c.at <= s.at
			}
			got := make([]byte, length)
			if !must && !cut {
				continue
			}
			n, err := reader.WithContext(ctx).ReadAt(got, s.at)
			switch {
			case err != nil && err != io.EOF:
				t.Fatal(err)
			case must && string(got[:n]) != string(s.data):
				t.Errorf("%s at %d was acknowledged, there is %q", s.data, s.at, got[:n])
			case cut && bytes.Equal(got[:n], s.data):
				t.Errorf("%s at %d was cut away, and is there", s.data, s.at)
			case must:
				kept++
			default:
				gone++
			}
		}
	}
	t.Logf("%d writes had to stay, %d had to go", kept, gone)
}
