package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/wire"
)

// chunkShares is the number of windows that chunks share, each taking one by its handle: a bound for every chunk
// without a list of them. Chunks that fall together wait for each other only when both have much to do.
const chunkShares = 256

// Config is what a Server needs. All fields but Insecure and Pushes are required.
type Config struct {
	// Listen is the HOST:PORT to listen on; port 0 picks a free one.
	Listen string
	// Insecure allows a listener beyond loopback. The data plane has no authentication: whoever reaches it can read
	// and write every chunk.
	Insecure bool
	Handler  Handler
	Pool     *Pool
	Log      *logrus.Entry
	Clock    func() time.Time
	Around   Runtime
	Pushes   PushLimits
}

// Runtime is how a Server does what takes time beside its connections: see Surroundings of package chunkserver, of which
// it is a part. What Go runs ends soon after Close.
type Runtime interface {
	Go(f func())
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
	Pause(ctx context.Context, d time.Duration) error
	Fetch(ctx context.Context, pool *Pool, address string, op wire.Op, request, reply proto.Message) (*Buffer, error)
}

// Server accepts data connections. It is safe for concurrent use.
type Server struct {
	listener net.Listener
	handler  Handler
	pool     *Pool
	log      *logrus.Entry
	requests *window   // of clients, on all connections together
	shares   []*window // see share
	pushes   *pushStore
	quiet    logLimit
	now      func() time.Time
	around   Runtime

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  map[*conn]struct{}

	counters Counters
}

// Counters count since the server began.
type Counters struct {
	Connections   atomic.Int64 // accepted
	Malformed     atomic.Int64 // connections closed for what they said
	Reads         atomic.Int64
	ReadBytes     atomic.Int64
	SendfileBytes atomic.Int64 // of ReadBytes, those that never left the kernel
	Mutations     atomic.Int64
	MutationBytes atomic.Int64
	ChainFrames   atomic.Int64
	ChainBytes    atomic.Int64 // but for data that were pushed
	Pushes        atomic.Int64 // taken in as a whole
	PushBytes     atomic.Int64
	References    atomic.Int64 // of Mutations, those whose data were pushed
	Pulls         atomic.Int64 // of pushed data that another member lacked
}

// Listen starts a server. Errors are those of the listener, and gfs.CodeInvalid for an address beyond loopback
// without Insecure.
func Listen(cfg Config) (*Server, error) {
	if err := checkLoopback(cfg); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for data connections: %w", err)
	}
	s := assemble(cfg)
	s.listener = listener
	s.wg.Go(s.accept)
	s.wg.Go(s.sweepPushes)
	return s, nil
}

func assemble(cfg Config) *Server {
	s := &Server{
		handler:  cfg.Handler,
		pool:     cfg.Pool,
		log:      cfg.Log,
		requests: newWindow(gfs.MaxInFlightRequests, gfs.MaxRequestBufferBytes),
		shares:   newShares(),
		pushes:   newPushStore(cfg.Pushes),
		now:      cfg.Clock,
		around:   cfg.Around,
		conns:    make(map[*conn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func newShares() []*window {
	shares := make([]*window, chunkShares)
	for i := range shares {
		shares[i] = newWindow(gfs.MaxChunkPending/2, gfs.MaxChunkBufferBytes)
	}
	return shares
}

// share is the window for the data of a chunk's mutations that this server holds.
func (s *Server) share(handle gfs.ChunkHandle) *window { return s.shares[uint64(handle)%chunkShares] }

// checkLoopback looks at what the address means before anything listens on it.
func checkLoopback(cfg Config) error {
	if cfg.Insecure {
		return nil
	}
	address, err := net.ResolveTCPAddr("tcp", cfg.Listen)
	if err != nil {
		return gfs.Errorf(gfs.CodeInvalid, "listen address %q: want HOST:PORT: %v", cfg.Listen, err)
	}
	if !address.IP.IsLoopback() {
		return gfs.Errorf(gfs.CodeInvalid, "listen address %q is not loopback, and data connections are not authenticated: "+
			"listen on 127.0.0.1, or allow it explicitly on a network where every host is trusted", cfg.Listen)
	}
	return nil
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Counters are the server's counters, which go on counting.
func (s *Server) Counters() *Counters { return &s.counters }

// InFlight is the number of clients' requests accepted and not yet answered.
func (s *Server) InFlight() int { return s.requests.inUse() }

// Close ends the listener and all connections and waits for their goroutines. Replies that come later are dropped. It
// is idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	err := s.listener.Close()
	s.requests.close()
	for _, share := range s.shares {
		share.close()
	}
	s.pushes.close()
	s.mu.Lock()
	for c := range s.conns {
		c.close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) closed() bool { return s.ctx.Err() != nil }

func (s *Server) accept() {
	pause := time.Millisecond
	for {
		tcp, err := s.listener.Accept()
		if err != nil {
			if s.closed() {
				return
			}
			// Out of file descriptors, most likely: what is open goes on, and room may come.
			s.quiet.warn(s.log.WithError(err), "cannot accept a data connection")
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		s.counters.Connections.Add(1)
		if !s.start(tcp.(*net.TCPConn)) {
			tcp.Close()
		}
	}
}

// start serves one more connection unless there are too many or the server is closing.
func (s *Server) start(tcp *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed() {
		return false
	}
	if len(s.conns) >= gfs.MaxConnections {
		s.quiet.warn(s.log.WithField("connections", len(s.conns)), "too many data connections")
		return false
	}
	c, err := newConn(s, tcp)
	if err != nil {
		s.quiet.warn(s.log.WithError(err), "cannot serve a data connection")
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Go(func() {
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
	s.wg.Go(c.out.run)
	return true
}

// trace logs what came of a client's call here, if anybody reads that: the id is in the logs of the client and of the
// master too.
func (s *Server) trace(op string, call uint64, handle gfs.ChunkHandle, err error) {
	if !s.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	entry := s.log.WithFields(logrus.Fields{"op": op, "request": messages.CallID(call), "chunk": handle.String()})
	if err != nil {
		entry = entry.WithError(err)
	}
	entry.Debug("request")
}

// logLimit lets one line pass each second, with the number of those held back: whoever talks nonsense to the port
// must not fill the disk with it.
type logLimit struct {
	mu   sync.Mutex
	last time.Time
	held int
}

func (l *logLimit) warn(entry *logrus.Entry, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.held++
		return
	}
	if l.held > 0 {
		entry = entry.WithField("held_back", l.held)
	}
	l.last, l.held = now, 0
	entry.Warn(message)
}
