package clientlib

import (
	"bytes"
	"io"
	"maps"
	"testing"
	"time"
)

// A reader in the middle of a file, whose fetches go directly to a connection, meets a server that fails: it reads on at
// another, and nobody sees what was spoilt.
func TestStreamsGoToAnotherReplica(t *testing.T) {
	data := pattern(12<<20, 5)
	fails := maps.Clone(failures)
	fails["nothing"] = func(*peerServer) {}
	for name, fail := range fails {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, 3)
			c := p.connect()
			mustWrite(t, c, "/file", data)
			p.closeChunks()
			c.locations.init(maxLocations) // as another client
			file, err := c.Open(t.Context(), "/file")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			var got bytes.Buffer
			buf := make([]byte, 100_000)
			direct, failed, worst := 0, false, time.Duration(0)
			for {
				began := time.Now()
				n, err := file.Read(buf)
				worst = max(worst, time.Since(began))
				got.Write(buf[:n])
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("after %d bytes: %v", got.Len(), err)
				}
				for _, s := range file.ahead.segments {
					if s.direct != nil {
						direct++
					}
				}
				if !failed && got.Len() > len(data)/3 {
					failed = true
					for _, s := range p.servers { // both that may be asked first
						if s.get(&s.reads) > 0 {
							fail(s)
							break
						}
					}
				}
			}
			if !bytes.Equal(got.Bytes(), data) {
				t.Error("the reader saw other bytes")
			}
			if direct == 0 {
				t.Error("no fetch was direct")
			}
			if worst > 5*time.Second {
				t.Errorf("a Read took %v", worst)
			}
		})
	}
}
