package clientlib

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestPrimaryFails(t *testing.T) {
	for name, fail := range map[string]func(s *peerServer){"killed": (*peerServer).kill, "silent": (*peerServer).hush} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, 4)
			c := p.connect()
			file, err := c.Create(t.Context(), "/log")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			stream, err := c.Create(t.Context(), "/stream")
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			data := pattern(6<<20, 7)
			if _, err := stream.Write(data[:1<<20]); err != nil {
				t.Fatal(err)
			}
			if _, err := file.Append(t.Context(), []byte("first")); err != nil {
				t.Fatal(err)
			}
			if err := stream.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			fail(p.primaryOf("/log", 0))
			if s := p.primaryOf("/stream", 0); s.alive() {
				fail(s)
			}
			start := time.Now()
			offset, err := file.Append(t.Context(), []byte("second"))
			if err != nil || offset != 5 {
				t.Errorf("append: %d, %v", offset, err)
			}
			stalls := []time.Duration{time.Since(start)}
			start = time.Now()
			if _, err := stream.Write(data[1<<20:]); err != nil {
				t.Fatal(err)
			}
			if err := stream.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			limit := 4 * time.Second // on a busy machine; far below the client's timeout
			if name == "killed" {
				limit = 2 * time.Second
			}
			for _, took := range append(stalls, time.Since(start)) {
				if took > limit {
					t.Errorf("the stall took %v", took)
				}
			}
			if got := p.chunkOf("/stream", 0); !bytes.Equal(got, data) {
				t.Errorf("%d bytes written, the stream differs", len(got))
			}
		})
	}
}

// A primary that cannot go on may not know that another has its role: the master does.
func TestPrimaryThatWaitsForAConfigurationIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Append(t.Context(), []byte("first")); err != nil {
		t.Fatal(err)
	}
	p.primaryOf("/log", 0).onMutate = func(int, *pb.Mutate) (gfs.Code, bool) { return gfs.CodeUnavailable, false }
	p.mu.Lock()
	for _, c := range p.chunks {
		c.members = append(c.members[1:], c.members[0])
		p.reconfigure(c)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if offset, err := file.Append(ctx, []byte("second")); err != nil || offset != 5 {
		t.Fatalf("%d, %v", offset, err)
	}
}

// What a sequential reader's fetches ahead found to be the end is not, once the file has grown.
func TestTheEndIsNotTakenFromWhatWasReadAhead(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	writer, reader := p.connect(), p.connect()
	data := pattern(3*gfs.BlockSize, 5)
	mustWrite(t, writer, "/file", data[:gfs.BlockSize])
	file, err := reader.Open(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(data))
	n, err := io.ReadFull(file, got[:gfs.BlockSize]) // the next segment is fetched now, and finds nothing
	if err != nil {
		t.Fatal(err)
	}
	waitReadAhead(t, file)
	grow, err := writer.OpenFile(t.Context(), "/file", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer grow.Close()
	if _, err := grow.WriteAt(data[gfs.BlockSize:], gfs.BlockSize); err != nil {
		t.Fatal(err)
	}
	if n, err = file.Read(got[n:]); n == 0 || err != nil {
		t.Errorf("%d, %v behind the former end", n, err)
	}
}

// waitReadAhead waits until everything is fetched that a reader's file fetches ahead.
func waitReadAhead(t *testing.T, file *File) {
	t.Helper()
	for _, s := range file.ahead.segments {
		select {
		case <-s.done:
		case <-t.Context().Done():
			t.Fatal("not fetched")
		}
	}
}

// failures are what befalls a server that is being read from.
var failures = map[string]func(s *peerServer){
	"killed":        (*peerServer).kill,
	"silent":        (*peerServer).hush,
	"corrupt":       func(s *peerServer) { s.set(func() { s.corrupt = 2 }) },
	"torn sendfile": func(s *peerServer) { s.set(func() { s.corrupt = 1 }) },
	"orphaned":      func(s *peerServer) { s.set(func() { s.orphaned = true }) },
}

func TestReadersGoToAnotherReplica(t *testing.T) {
	data := pattern(2<<20, 5)
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, 3)
			c := p.connect()
			mustWrite(t, c, "/file", data)
			p.closeChunks()
			c.locations.init(maxLocations) // as another client
			fail(p.servers[0])
			fail(p.servers[1])
			got, err := c.ReadFile(t.Context(), "/file")
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if name == "torn sendfile" && p.servers[0].get(&p.servers[0].copies)+p.servers[1].get(&p.servers[1].copies) == 0 {
				if p.servers[2].get(&p.servers[2].reads) == 0 {
					t.Error("nobody was read")
				}
			}
		})
	}
}

func TestCorruptOnEveryReplica(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	mustWrite(t, c, "/file", pattern(1000, 5))
	p.closeChunks()
	for _, s := range p.servers {
		s.set(func() { s.corrupt = 2 })
	}
	p.mu.Lock()
	handle := p.nodes["/file"].chunks[0]
	p.mu.Unlock()
	_, err := c.ReadFile(t.Context(), "/file")
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), handle.String()) {
		t.Errorf("%v, want ErrCorrupt and %v", err, handle)
	}
	for reported := 0; reported == 0; { // they go out in the background
		select {
		case <-t.Context().Done():
			t.Fatal("nothing was reported")
		case <-time.After(time.Millisecond):
		}
		p.mu.Lock()
		reported = len(p.reports)
		p.mu.Unlock()
	}
	p.mu.Lock() // more may come
	defer p.mu.Unlock()
	if p.reports[0].GetKind() != pb.Report_CORRUPT || gfs.ChunkHandle(p.reports[0].GetHandle()) != handle {
		t.Errorf("report %v", p.reports[0])
	}
}

func TestEndIsAskedOfThePrimary(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c, other := p.connect(), p.connect()
	writer, err := c.Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if _, err := writer.Append(t.Context(), []byte("12345")); err != nil {
		t.Fatal(err)
	}
	if info, err := other.Stat(t.Context(), "/file"); err != nil || info.Size() != 5 {
		t.Errorf("stat: %v, %v", info, err)
	}
	data, err := other.ReadFile(t.Context(), "/file")
	if err != nil || string(data) != "12345" {
		t.Errorf("%q, %v", data, err)
	}
	p.primaryOf("/file", 0).kill()
	within(t, 5*time.Second, func(ctx context.Context) {
		if info, err := other.Stat(ctx, "/file"); err != nil || info.Size() != 5 {
			t.Errorf("stat without the primary: %v, %v", info, err)
		}
	})
}

// An attempt at a new version that came to nothing leaves the replicas of a closed chunk fenced.
func TestEndOfAClosedChunkIsKnownToTheMaster(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect()
	mustWrite(t, c, "/file", []byte("12345"))
	p.closeChunks()
	p.mu.Lock()
	p.fenced = true
	p.mu.Unlock()
	c.locations.init(maxLocations) // as another client
	within(t, 5*time.Second, func(ctx context.Context) {
		file, err := c.Open(ctx, "/file")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		data := make([]byte, 10)
		if n, err := file.WithContext(ctx).ReadAt(data, 0); err != io.EOF || string(data[:n]) != "12345" {
			t.Errorf("%q, %v", data[:n], err)
		}
	})
}

func TestReadsGoOnWithoutAMaster(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect()
	data := pattern(3<<20, 2)
	mustWrite(t, c, "/file", data)
	file, err := c.OpenFile(t.Context(), "/file", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{data[0]}, 0); err != nil {
		t.Fatal(err)
	}
	p.nats.Close()
	got := make([]byte, len(data))
	if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v", err)
	}
	if _, err := file.WriteAt([]byte{data[1]}, 1); err != nil {
		t.Errorf("write: %v", err)
	}
	// The end needs the master: whether there is another chunk.
	within(t, 200*time.Millisecond, func(ctx context.Context) {
		if _, err := file.WithContext(ctx).ReadAt(got, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read over the end: %v", err)
		}
	})
}

func TestReplacedMasterIsAskedAgain(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	refusals := 0
	p.onMaster = func(op string, _ int) (gfs.Code, bool, bool) {
		if op == messages.OpStat && refusals < 5 {
			refusals++
			return gfs.CodeNotActing, refusals == 5, false // the last time it does not even answer
		}
		return 0, false, false
	}
	if _, err := c.Stat(t.Context(), "/"); err != nil || refusals != 5 {
		t.Errorf("%v after %d refusals", err, refusals)
	}
}

func TestNATSComesBack(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect()
	p.restartNATS()
	if err := c.Mkdir(t.Context(), "/after", 0o755); err != nil {
		t.Error(err)
	}
	if n := p.count("mkdir"); n != 1 {
		t.Errorf("%d directories made", n)
	}
}

// TestConnectSaysThatItsContextEnded connects to an address that accepts and says nothing.
func TestConnectSaysThatItsContextEnded(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Connect(ctx, "nats://"+silent.Addr().String())
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v: want one that matches context.DeadlineExceeded and ErrUnavailable", err)
	}
}

// TestFrozenNATSHoldsNoCall loses the connection to NATS while the address goes on accepting connections and says
// nothing on them, as a stopped process does: a call ends with its context all the same.
func TestFrozenNATSHoldsNoCall(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 1)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var frozen atomic.Bool
	first := make(chan net.Conn, 1)
	dialled := make(chan struct{}, 100)
	c := p.connect(WithDialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		if frozen.Load() {
			dialled <- struct{}{}
			address = silent.Addr().String()
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil && !frozen.Load() {
			first <- conn
		}
		return conn, err
	}))
	t.Cleanup(func() { _ = silent.Close() })
	frozen.Store(true)
	if err := (<-first).Close(); err != nil {
		t.Fatal(err)
	}
	<-dialled
	for range 20 { // some of them meet the handshake
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		_, err := c.Stat(ctx, "/")
		cancel()
		if took := time.Since(began); took > time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a call for 50 ms took %v: %v", took, err)
		}
	}
	began := time.Now()
	if err := c.Close(); err != nil || time.Since(began) > connectTimeout/5 {
		t.Errorf("Close: %v after %v", err, time.Since(began))
	}
}

// TestFollowerReadsNoZeros follows a file that is being written across a chunk's end: what a reader gets is what was
// written, never a hole where bytes are still on their way.
func TestFollowerReadsNoZeros(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	for _, s := range p.servers {
		var first time.Time
		s.onMutate = func(_ int, m *pb.Mutate) (gfs.Code, bool) {
			if m.GetOffset() < gfs.ChunkSize-gfs.StreamPieceBytes {
				return 0, false
			}
			if first.IsZero() {
				first = time.Now()
			}
			if time.Since(first) < 300*time.Millisecond { // the last piece takes longer
				return gfs.CodeBusy, false
			}
			return 0, false
		}
	}
	c := p.connect()
	file, err := c.Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	begin := int64(gfs.ChunkSize - 4<<20)
	data := bytes.Repeat([]byte{0xaa}, 8<<20)
	if _, err := file.WriteAt(data[:1], begin-1); err != nil {
		t.Fatal(err)
	}
	var follower sync.WaitGroup
	follower.Go(func() {
		reader, err := c.Open(t.Context(), "/file")
		if err != nil {
			t.Error(err)
			return
		}
		defer reader.Close()
		if _, err := reader.Seek(begin, io.SeekStart); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 1<<20)
		for got := 0; got < len(data); {
			n, err := reader.Read(buf)
			if err != nil && err != io.EOF {
				t.Error(err)
				return
			}
			if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
				t.Errorf("a zero at %d", begin+int64(got+i))
				return
			}
			got += n
		}
	})
	if _, err := file.Seek(begin, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	follower.Wait()
}
