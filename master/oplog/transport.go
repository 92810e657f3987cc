package oplog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	streamMagic  = "CAIRNRFT"
	streamFormat = 1
	// greetingTimeout bounds how long a stranger may hold a connection without saying anything.
	greetingTimeout = 5 * time.Second
	// maxStreams bounds the accepted connections: a peer opens a handful.
	maxStreams = 256
	// rpcTimeout bounds each read and write between masters.
	rpcTimeout = 10 * time.Second
	// pooledStreams is how many idle connections are kept to each peer.
	pooledStreams = 3
)

// greeting is what a master sends first on a connection: magic, format, and which cluster it is of. A stray client,
// or a master of another cluster that was given our address, gets no further.
func greeting(cluster string) []byte {
	sum := sha256.Sum256([]byte(cluster))
	return append(append([]byte(streamMagic), streamFormat), sum[:]...)
}

// DialFunc opens a connection to another master.
type DialFunc func(addr string, timeout time.Duration) (net.Conn, error)

func dialTCP(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// streams is the layer below Raft's transport: TCP with a greeting. It closes its connections when it is closed; the
// Raft library leaves them to the other side.
type streams struct {
	net.Listener
	greeting []byte
	dial     DialFunc

	mu       sync.Mutex
	open     map[*stream]struct{}
	accepted int // of open
	closed   bool
}

// Accept waits for a connection; its greeting is checked by its first reader, so that a slow peer holds up nobody.
func (s *streams) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tracked := s.track(conn, s.greeting); tracked != nil {
			return tracked, nil
		}
		_ = conn.Close() // too many of them, or closing
	}
}

// Dial connects to a peer and greets it.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := s.dial(string(addr), timeout)
	if err != nil {
		return nil, err
	}
	err = conn.SetWriteDeadline(time.Now().Add(greetingTimeout))
	if err == nil {
		_, err = conn.Write(s.greeting)
	}
	if err == nil {
		err = conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if tracked := s.track(conn, nil); tracked != nil {
		return tracked, nil
	}
	return nil, errors.Join(net.ErrClosed, conn.Close())
}

// track makes a connection ours; await is the greeting that it must begin with, nil for one that we opened. It
// returns nil if the connection is not wanted.
func (s *streams) track(conn net.Conn, await []byte) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || await != nil && s.accepted >= maxStreams {
		return nil
	}
	tracked := &stream{Conn: conn, layer: s, await: await, incoming: await != nil}
	s.open[tracked] = struct{}{}
	if tracked.incoming {
		s.accepted++
	}
	return tracked
}

func (s *streams) forget(conn *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[conn]; !ok {
		return
	}
	delete(s.open, conn)
	if conn.incoming {
		s.accepted--
	}
}

// Close stops listening and closes every connection.
func (s *streams) Close() error {
	s.mu.Lock()
	s.closed = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, conn := range open {
		_ = conn.Close() // its user sees the error
	}
	return s.Listener.Close()
}

// stream is a connection to a peer.
type stream struct {
	net.Conn
	layer    *streams
	incoming bool
	await    []byte // the greeting still to come; only the one reader touches it
}

// Read returns what follows the greeting.
func (s *stream) Read(p []byte) (int, error) {
	if s.await != nil {
		if err := s.checkGreeting(); err != nil {
			return 0, err
		}
		s.await = nil
	}
	return s.Conn.Read(p)
}

func (s *stream) checkGreeting() error {
	if err := s.SetReadDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return err
	}
	got := make([]byte, len(s.await))
	if _, err := io.ReadFull(s.Conn, got); err != nil {
		return fmt.Errorf("greeting of %s: %w", s.RemoteAddr(), err)
	}
	if !bytes.Equal(got, s.await) {
		return gfs.Errorf(gfs.CodeWrongCluster, "%s is no master of this cluster, or speaks another format", s.RemoteAddr())
	}
	return s.SetReadDeadline(time.Time{})
}

// Close closes the connection.
func (s *stream) Close() error {
	s.layer.forget(s)
	return s.Conn.Close()
}

// addressBook gives Raft the addresses of today's --peers, wherever the masters were when they formed the group.
type addressBook map[raft.ServerID]raft.ServerAddress

// ServerAddr looks a peer up.
func (b addressBook) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if addr, ok := b[id]; ok {
		return addr, nil
	}
	return "", gfs.Errorf(gfs.CodeInvalid, "master %s is not among the peers given", id)
}

// newTransport connects a master to its peers. One that stands alone has no socket: its address is its id, so that
// its folder can be started anywhere.
func newTransport(cfg *Config, logger hclog.Logger) (raft.Transport, error) {
	if len(cfg.Peers) == 0 {
		_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.ID))
		return transport, nil
	}
	book := make(addressBook, len(cfg.Peers))
	for _, peer := range cfg.Peers {
		book[raft.ServerID(peer.ID)] = raft.ServerAddress(peer.Addr)
	}
	own := string(book[raft.ServerID(cfg.ID)])
	listener := cfg.Listener
	if listener == nil {
		listen := cfg.Listen
		if listen == "" {
			listen = own
		}
		var err error
		if listener, err = net.Listen("tcp", listen); err != nil {
			return nil, fmt.Errorf("listen for masters: %w", err)
		}
	}
	layer := &streams{Listener: advertised{listener, own}, greeting: greeting(cfg.Cluster), dial: cfg.Dial, open: map[*stream]struct{}{}}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                layer,
		MaxPool:               pooledStreams,
		Timeout:               rpcTimeout,
		Logger:                logger,
		ServerAddressProvider: book,
		// No pipelining: a master that loses its lead while a message waits in the library's pipeline leaves a
		// goroutine there that nothing ends, and Close would wait for it for ever.
		MaxRPCsInFlight: 1,
	}), nil
}

// advertised is a listener that says it is where its peers see it.
type advertised struct {
	net.Listener
	addr string
}

// Addr is the address that peers use.
func (a advertised) Addr() net.Addr { return peerAddr(a.addr) }

type peerAddr string

// Network is tcp.
func (peerAddr) Network() string { return "tcp" }

// String is host and port.
func (a peerAddr) String() string { return string(a) }
