package oplog

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"testing"
)

func BenchmarkPropose(b *testing.B) {
	record := append([]byte("key="), bytes.Repeat([]byte("v"), 196)...)
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			cfg := testConfig(b, b.TempDir(), newTable())
			cfg.SegmentBytes = 0
			l := openActing(b, cfg)
			before := l.Stats()
			b.ResetTimer()
			inParallel(b, callers, func() {
				if _, err := l.Propose(b.Context(), record); err != nil {
					b.Error(err)
				}
			})
			after := l.Stats()
			b.ReportMetric(float64(after.Records-before.Records)/float64(max(1, after.Entries-before.Entries)), "records/entry")
		})
	}
}

func BenchmarkProposeToThree(b *testing.B) {
	record := append([]byte("key="), bytes.Repeat([]byte("v"), 196)...)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			g := startGroup(b)
			l := g.logs[g.acting()]
			b.ResetTimer()
			inParallel(b, callers, func() {
				if _, err := l.Propose(b.Context(), record); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func BenchmarkLinearizeAmongThree(b *testing.B) {
	g := startGroup(b)
	l := g.logs[g.acting()]
	b.ResetTimer()
	inParallel(b, 64, func() {
		if err := l.Linearize(b.Context()); err != nil {
			b.Error(err)
		}
	})
}

func BenchmarkLinearize(b *testing.B) {
	l := openActing(b, testConfig(b, b.TempDir(), newTable()))
	inParallel(b, 64, func() {
		if err := l.Linearize(b.Context()); err != nil {
			b.Error(err)
		}
	})
}

// inParallel shares b.N calls between callers.
func inParallel(b *testing.B, callers int, call func()) {
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	done := make(chan struct{})
	for range callers {
		go func() {
			for range work {
				call()
			}
			done <- struct{}{}
		}()
	}
	for range callers {
		<-done
	}
}

// As large as a namespace of a million files: 15,625 groups of leaf pages, 2 KiB each.
func BenchmarkCheckpoint(b *testing.B) {
	pages := make(pagesView, 15_625)
	for i := range pages {
		pages[i] = Page{Key: fmt.Appendf(nil, "%08d", i), Value: bytes.Repeat([]byte{byte(i)}, 2<<10)}
	}
	path := filepath.Join(b.TempDir(), "checkpoint")
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if err := streamCheckpoint(io.Discard, path, pages, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := writeCheckpoint(path, pages, nil); err != nil {
		b.Fatal(err)
	}
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			err := readCheckpoint(path, func(loaded iter.Seq2[Page, error]) error {
				for _, err := range loaded {
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
