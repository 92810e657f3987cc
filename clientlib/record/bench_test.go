package record

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
)

// randomBytes is incompressible and reproducible.
func randomBytes(n int) []byte {
	p := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(p) // never fails
	return p
}

// records is one chunk of 1 KiB records.
func records(b *testing.B) (content []byte, count int) {
	payload := randomBytes(1 << 10)
	for len(content)+len(payload)+FrameOverheadBytes <= gfs.ChunkSize {
		count++
		content = append(content, encode(b, uint64(count%16), uint64(count/16), payload)...)
	}
	return content, count
}

func BenchmarkEncode1KiB(b *testing.B) {
	payload := randomBytes(1 << 10)
	var buffer []byte
	b.SetBytes(1 << 10)
	b.ReportAllocs()
	for b.Loop() {
		buffer, _ = appendFrame(buffer[:0], 1, 1, payload, rand.Uint32)
	}
}

func BenchmarkRead1KiB(b *testing.B) {
	content, want := records(b)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		count := 0
		for _, err := range NewReader(bytes.NewReader(content)).Records(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
			count++
		}
		if count != want {
			b.Fatalf("%d records, want %d", count, want)
		}
	}
	b.ReportMetric(float64(want)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// A chunk of padding costs what reading it costs.
func BenchmarkPadding(b *testing.B) {
	content := make([]byte, gfs.ChunkSize)
	b.SetBytes(gfs.ChunkSize)
	for b.Loop() {
		for range NewReader(bytes.NewReader(content)).Records(b.Context()) {
			b.Fatal("a record in zeros")
		}
	}
}

func BenchmarkGarbage(b *testing.B) {
	content := randomBytes(gfs.ChunkSize)
	b.SetBytes(gfs.ChunkSize)
	for b.Loop() {
		for range NewReader(bytes.NewReader(content)).Records(b.Context()) {
			b.Fatal("a record in garbage")
		}
	}
}

func BenchmarkWriterEnqueue1KiB(b *testing.B) {
	payload := randomBytes(1 << 10)
	file := &memory{content: make([]byte, 0, 1<<20)}
	file.outcome = func(int) (bool, error) {
		file.content = file.content[:0] // keep the file small
		return false, nil
	}
	writer := NewWriter(file)
	b.SetBytes(1 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if err := writer.Enqueue(b.Context(), payload); err != nil {
			b.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		b.Fatal(err)
	}
}
