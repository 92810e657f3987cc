package oplog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	streamMagic   = "CAIRNRFT"
	streamFormat  = 1
	greetingBytes = len(streamMagic) + 1 + sha256.Size
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

// streams is the layer below Raft's transport: TCP with a greeting.
type streams struct {
	net.Listener
	greeting []byte
	dial     DialFunc
	open     atomic.Int64
}

// Accept waits for a connection; its greeting is checked by its first reader, so that a slow peer holds up nobody.
func (s *streams) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if s.open.Add(1) <= maxStreams {
			return &acceptedStream{Conn: conn, want: s.greeting, open: &s.open}, nil
		}
		s.open.Add(-1)
		_ = conn.Close()
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
	return conn, nil
}

// acceptedStream checks the greeting at the first Read.
type acceptedStream struct {
	net.Conn
	want    []byte
	greeted bool // read and written by the one reader
	open    *atomic.Int64
	closing sync.Once
}

// Read returns what follows the greeting.
func (s *acceptedStream) Read(p []byte) (int, error) {
	if !s.greeted {
		if err := s.checkGreeting(); err != nil {
			return 0, err
		}
		s.greeted = true
	}
	return s.Conn.Read(p)
}

func (s *acceptedStream) checkGreeting() error {
	if err := s.Conn.SetReadDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return err
	}
	got := make([]byte, greetingBytes)
	if _, err := io.ReadFull(s.Conn, got); err != nil {
		return fmt.Errorf("greeting of %s: %w", s.RemoteAddr(), err)
	}
	if string(got) != string(s.want) {
		return gfs.Errorf(gfs.CodeWrongCluster, "%s is no master of this cluster, or speaks another format", s.RemoteAddr())
	}
	return s.Conn.SetReadDeadline(time.Time{})
}

// Close closes the connection once.
func (s *acceptedStream) Close() error {
	s.closing.Do(func() { s.open.Add(-1) })
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
	layer := &streams{Listener: advertised{listener, own}, greeting: greeting(cfg.Cluster), dial: cfg.Dial}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                layer,
		MaxPool:               pooledStreams,
		Timeout:               rpcTimeout,
		Logger:                logger,
		ServerAddressProvider: book,
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
