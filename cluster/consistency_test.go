package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

// The table of what a region of a file holds after a mutation, cell by cell: writes at an offset and record appends, one
// after the other, at once, and such as fail. In each cell every replica is compared byte by byte with the others and with
// what a client reads. Source: GFS 2.7.1, where the lower cells are "inconsistent"

const (
	// regionOffset and regionBytes are where the writes go: into two blocks in part, and in several pieces.
	regionOffset = gfs.BlockSize/2 + 1
	regionBytes  = 3*gfs.StreamPieceBytes + 12_345
	// recordBytes is such that four records fit into a chunk and a fifth does not.
	recordBytes = 15 << 20
	// writers mutate at once.
	writers = 4
)

// table is one cell's cluster, file and clients.
type table struct {
	*clustertest.Cluster
	t      *testing.T
	ctx    context.Context
	client *clientlib.Client
}

func newTable(t *testing.T) *table {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	c := clustertest.Start(t)
	cell := &table{Cluster: c, t: t, ctx: ctx, client: c.Client()}
	mustCreate(ctx, t, cell.client, "/file")
	return cell
}

// open opens the file with a client of its own.
func (c *table) open(flag int, opts ...clientlib.Option) *clientlib.File {
	c.t.Helper()
	f, err := c.Client(opts...).OpenFile(c.ctx, "/file", os.O_RDWR|flag)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// settled waits until each chunk is closed with all its replicas, wants them to be the same, and returns the file.
func (c *table) settled() []byte { return c.settledAt("/file") }

func (c *table) settledAt(path string) []byte {
	c.t.Helper()
	waitWhole(c.ctx, c.t, c.client, path, gfs.DefaultReplicas)
	var chunks []clientlib.ChunkLocation
	for ticker := time.NewTicker(50 * time.Millisecond); ; <-ticker.C {
		var err error
		if chunks, err = c.client.Locations(c.ctx, path, 0, gfs.MaxFileBytes); err != nil {
			c.t.Fatal(err)
		}
		if !slices.ContainsFunc(chunks, func(l clientlib.ChunkLocation) bool { return l.Open || len(l.Servers) < gfs.DefaultReplicas }) {
			ticker.Stop()
			break
		}
	}
	content, err := c.client.ReadFile(c.ctx, path)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, l := range chunks {
		compared := 0
		for i := range 4 {
			if !slices.ContainsFunc(l.Servers, func(s clientlib.Server) bool { return s.ID == c.ServerID(i) }) {
				continue
			}
			replica, err := os.ReadFile(chunkFiles(c.t, c.Cluster, i)[l.Handle.String()])
			if err != nil {
				c.t.Fatal(err)
			}
			if want := content[l.Offset : l.Offset+l.Length]; !bytes.Equal(replica[:min(l.Length, int64(len(replica)))], want) {
				c.t.Errorf("chunk %s: the replica at chunkserver %d differs from what a client reads", l.Handle, i)
			}
			compared++
		}
		if compared != gfs.DefaultReplicas {
			c.t.Errorf("chunk %s: %d replicas compared", l.Handle, compared)
		}
	}
	return content
}

// stopPrimary ends the server that orders the mutations of the file's last chunk, and starts it again.
func (c *table) stopPrimary() {
	c.t.Helper()
	chunks, err := c.client.Locations(c.ctx, "/file", 0, gfs.MaxFileBytes)
	if err != nil || len(chunks) == 0 {
		c.t.Fatalf("%d chunks, %v", len(chunks), err)
	}
	for i := range 4 {
		if c.ServerID(i) == chunks[len(chunks)-1].Primary {
			if err := c.StopChunkserver(i); err != nil {
				c.t.Fatal(err)
			}
			if err := c.StartChunkserver(c.ctx, i); err != nil {
				c.t.Fatal(err)
			}
			return
		}
	}
	c.t.Fatalf("chunk %s has no primary", chunks[len(chunks)-1].Handle)
}

// filling is what writer number i writes.
func filling(i, length int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, length) }

func TestWritesOneAfterTheOtherAreDefined(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	f := c.open(0)
	for i := range writers {
		if _, err := f.WriteAt(filling(i, regionBytes), regionOffset); err != nil {
			t.Fatal(err)
		}
	}
	want := append(make([]byte, regionOffset), filling(writers-1, regionBytes)...)
	if got := c.settled(); !bytes.Equal(got, want) {
		t.Error("the region is not what the last write wrote")
	}
}

func TestWritesAtOnceAreConsistent(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	var all sync.WaitGroup
	for i := range writers {
		f := c.open(0)
		all.Go(func() {
			for range 5 {
				if _, err := f.WriteAt(filling(i, regionBytes), regionOffset); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	c.checkMixture(c.settled(), writers)
}

// checkMixture wants each byte of the region to be one of the writers'. Which one's is not defined.
func (c *table) checkMixture(content []byte, count int) {
	c.t.Helper()
	if len(content) != regionOffset+regionBytes || len(bytes.Trim(content[:regionOffset], "\x00")) != 0 {
		c.t.Fatalf("%d bytes, and something before the region", len(content))
	}
	for i, b := range content[regionOffset:] {
		if b < 'a' || b >= byte('a'+count) {
			c.t.Fatalf("byte %d of the region is %#x: nobody wrote that", i, b)
		}
	}
}

func TestWritesThatFailLeaveTheReplicasTheSame(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	first := c.open(0)
	if _, err := first.WriteAt(filling(0, regionBytes), regionOffset); err != nil {
		t.Fatal(err)
	}
	// Another client writes on and on; its primary is lost, and so is the client itself.
	failing, cancel := context.WithCancel(c.ctx)
	f := c.open(0).WithContext(failing)
	failed := make(chan error)
	go func() {
		for {
			if _, err := f.WriteAt(filling(1, regionBytes), regionOffset); err != nil {
				failed <- err
				return
			}
		}
	}()
	go cancel()
	c.stopPrimary()
	if err := <-failed; err == nil {
		t.Fatal("nothing failed")
	}
	c.checkMixture(c.settled(), 2)
}

// recordOf is one record of an appender: every byte says whose, and the head which.
func recordOf(appender, number, length int) []byte {
	record := filling(appender, length)
	copy(record, fmt.Sprintf("<%d/%d>", appender, number))
	return record
}

// checkAppends wants each acknowledged record whole at its offset, none of them twice, and nothing between records but the
// zeros that fill a chunk up. Tried are those of which nobody knows; each is there whole, or not at all.
func (c *table) checkAppends(content []byte, length int, acknowledged map[string]int64, tried map[string]bool) {
	c.t.Helper()
	found := map[string]int64{}
	for at := 0; at < len(content); {
		if content[at] == 0 {
			end := (at/gfs.ChunkSize + 1) * gfs.ChunkSize
			if end > len(content) || len(bytes.Trim(content[at:end], "\x00")) != 0 {
				c.t.Fatalf("what begins at offset %d is neither a record nor the padding of a full chunk", at)
			}
			at = end
			continue
		}
		var appender, number int
		if _, err := fmt.Sscanf(string(content[at:at+16]), "<%d/%d>", &appender, &number); err != nil {
			c.t.Fatalf("no record begins at offset %d: %q", at, content[at:at+16])
		}
		name := fmt.Sprintf("%d/%d", appender, number)
		if at+length > len(content) || !bytes.Equal(content[at:at+length], recordOf(appender, number, length)) {
			c.t.Fatalf("record %s at offset %d is torn", name, at)
		}
		if _, twice := found[name]; twice {
			c.t.Errorf("record %s is there twice", name)
		}
		found[name] = int64(at)
		at += length
	}
	for name, offset := range acknowledged {
		if at, ok := found[name]; !ok || at != offset {
			c.t.Errorf("record %s was acknowledged at offset %d; found: %t, at %d", name, offset, ok, at)
		}
		delete(found, name)
	}
	for name := range found {
		if !tried[name] {
			c.t.Errorf("record %s was never appended", name)
		}
	}
}

func TestAppendsOneAfterTheOtherAreDefined(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	f := c.open(os.O_APPEND)
	acknowledged := map[string]int64{}
	for i := range 5 {
		offset, err := f.Append(c.ctx, recordOf(0, i, recordBytes))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged[fmt.Sprintf("0/%d", i)] = offset
	}
	if at := acknowledged["0/4"]; at != gfs.ChunkSize {
		t.Errorf("the fifth record is at offset %d: the first chunk was to be padded", at)
	}
	c.checkAppends(c.settled(), recordBytes, acknowledged, nil)
}

func TestAppendsAtOnceAreDefined(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	var mu sync.Mutex
	acknowledged := map[string]int64{}
	var all sync.WaitGroup
	for appender := range writers {
		f := c.open(os.O_APPEND)
		all.Go(func() {
			for i := range 2 {
				offset, err := f.Append(c.ctx, recordOf(appender, i, recordBytes))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[fmt.Sprintf("%d/%d", appender, i)] = offset
				mu.Unlock()
			}
		})
	}
	all.Wait()
	c.checkAppends(c.settled(), recordBytes, acknowledged, nil)
}

func TestAppendsThatFailLeaveTheReplicasTheSame(t *testing.T) {
	t.Parallel()
	c := newTable(t)
	acknowledged, tried := map[string]int64{}, map[string]bool{}
	survivor := c.open(os.O_APPEND)
	keep := func(i int) {
		t.Helper()
		offset, err := survivor.Append(c.ctx, recordOf(0, i, recordBytes))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged[fmt.Sprintf("0/%d", i)] = offset
	}
	keep(0)
	failing, cancel := context.WithCancel(c.ctx)
	lost := c.Client()
	f, err := lost.OpenFile(c.ctx, "/file", os.O_RDWR|os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	var pending []*clientlib.Pending
	for i := range 2 {
		tried[fmt.Sprintf("1/%d", i)] = true
		pending = append(pending, f.AppendAsync(failing, recordOf(1, i, recordBytes)))
	}
	go cancel()
	c.stopPrimary()
	if err := lost.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range pending {
		_, _ = p.Wait(failing) // it may have been acknowledged before
	}
	keep(1)
	c.checkAppends(c.settled(), recordBytes, acknowledged, tried)
}
