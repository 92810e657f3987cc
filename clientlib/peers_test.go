package clientlib

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peers is a scripted cluster: a real NATS server, a master on it and chunkservers on real sockets, which keep
// everything in memory and behave as the protocol says, or misbehave as a test asks.
type peers struct {
	t    testing.TB
	url  string
	bus  *server.Server
	nats *nats.Conn

	mu       sync.Mutex
	servers  []*peerServer
	chunks   map[gfs.ChunkHandle]*peerChunk
	nodes    map[string]*peerNode // by path
	trash    map[string]*peerNode
	files    map[gfs.FileID]*peerNode
	sessions map[uint64]map[uint64][]byte // session → sequence → reply
	lastID   uint64
	attempts uint32
	applied  map[string]int // mutations that took effect, by kind
	asked    map[string]int // requests, by operation
	reports  []*pb.Report
	pushed   map[[2]uint64][]byte // by session and counter: every server has what one was sent
	fenced   bool                 // no replica knows its end
	chunkCap int64                // what a chunk holds before it is full for appends: small ones make tests fast

	// onMaster, if set, may answer a request in the master's place: done without a reply means silence. It is
	// called without the lock.
	onMaster func(op string, nth int) (code gfs.Code, silent, applyFirst bool)
}

type peerNode struct {
	status *pb.FileStatus
	chunks []gfs.ChunkHandle
}

// peerChunk is a chunk: its members are always equal, but for those that a test makes corrupt.
type peerChunk struct {
	handle  gfs.ChunkHandle
	version gfs.Version
	lost    gfs.Version // as in location
	open    bool
	members []*peerServer // the primary first
	data    []byte
	table   map[[2]uint64]int64
	full    bool
	appends int // that took effect
}

// newPeers starts a cluster with a number of chunkservers.
func newPeers(t testing.TB, servers int) *peers {
	t.Helper()
	p := &peers{t: t, chunks: make(map[gfs.ChunkHandle]*peerChunk), nodes: make(map[string]*peerNode),
		trash: make(map[string]*peerNode), files: make(map[gfs.FileID]*peerNode), sessions: make(map[uint64]map[uint64][]byte),
		lastID: 1, applied: make(map[string]int), pushed: make(map[[2]uint64][]byte), asked: make(map[string]int), chunkCap: gfs.ChunkSize}
	p.startNATS(-1)
	t.Cleanup(func() { p.bus.Shutdown(); p.bus.WaitForShutdown() })
	root := &peerNode{status: &pb.FileStatus{FileId: uint64(gfs.RootID), Name: "/", Directory: true, Mode: 0o755}}
	p.nodes["/"], p.files[gfs.RootID] = root, root
	for i := range servers {
		p.servers = append(p.servers, newPeerServer(t, p, i))
	}
	p.serveMaster(t)
	return p
}

func (p *peers) startNATS(port int) {
	p.t.Helper()
	bus, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		p.t.Fatal(err)
	}
	bus.Start()
	if !bus.ReadyForConnections(10 * time.Second) {
		p.t.Fatal("the NATS server does not start")
	}
	p.bus, p.url = bus, bus.ClientURL()
}

// restartNATS ends the NATS server and starts another at the same address.
func (p *peers) restartNATS() {
	p.t.Helper()
	port := p.bus.Addr().(*net.TCPAddr).Port
	p.bus.Shutdown()
	p.bus.WaitForShutdown()
	p.startNATS(port)
}

// connect gives a client that is closed at the test's end.
func (p *peers) connect(opts ...Option) *Client {
	p.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() {
		log.SetOutput(testWriter{p.t})
		log.SetLevel(logrus.DebugLevel)
	}
	opts = append([]Option{WithCluster("test"), WithUser("root"), WithLogger(logrus.NewEntry(log))}, opts...)
	c, err := Connect(p.t.Context(), p.url, opts...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// server is the chunkserver with an id; the lock is held.
func (p *peers) server(id string) *peerServer {
	for _, s := range p.servers {
		if s.id == id {
			return s
		}
	}
	return nil
}

// primaryOf is the primary of the only chunk of a file at index.
func (p *peers) primaryOf(path string, index int) *peerServer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chunks[p.nodes[path].chunks[index]].members[0]
}

// chunkOf is a copy of what a file's chunk holds.
func (p *peers) chunkOf(path string, index int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]byte(nil), p.chunks[p.nodes[path].chunks[index]].data...)
}

// closeChunks closes every chunk, as after a pause.
func (p *peers) closeChunks() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.chunks {
		c.open = false
	}
}

func (p *peers) count(kind string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied[kind] + p.asked[kind]
}

// newVersion is called with the lock held.
func (p *peers) newVersion() gfs.Version {
	p.attempts++
	return gfs.NewVersion(1, p.attempts)
}

// reconfigure gives a chunk a new version with its members that are up; the lock is held.
func (p *peers) reconfigure(c *peerChunk) error {
	var left []*peerServer
	for _, s := range c.members {
		if s.alive() {
			left = append(left, s)
		}
	}
	if len(left) == 0 {
		return gfs.Errorf(gfs.CodeUnavailable, "no member of chunk %v is up", c.handle)
	}
	c.members, c.version, c.open = left, p.newVersion(), true
	return nil
}

// mustWrite makes a file with data.
func mustWrite(t testing.TB, c *Client, name string, data []byte) {
	t.Helper()
	if err := c.WriteFile(t.Context(), name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// pattern is data whose every position shows.
func pattern(n int, seed byte) []byte {
	data := make([]byte, n)
	x := uint32(seed) + 1
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 24)
	}
	return data
}

// within fails the test if f takes longer than d.
func within(t testing.TB, d time.Duration, f func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	select {
	case <-done:
	case <-time.After(d + 10*time.Second):
		t.Fatal(fmt.Errorf("not over after %v", d+10*time.Second))
	}
}
