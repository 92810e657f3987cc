package cluster

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages/gfs"
)

// natsStartPatience is how long the embedded NATS server may take to listen.
const natsStartPatience = 10 * time.Second

// NATS is an embedded NATS server. It keeps nothing on disk: JetStream stays off.
type NATS struct{ server *server.Server }

// StartNATS runs a NATS server that listens on listen (HOST:PORT; port 0 picks a free one). An address beyond
// loopback is refused unless insecure is set.
func StartNATS(listen string, insecure bool, log *logrus.Entry) (*NATS, error) {
	host, port, err := CheckListen(listen, insecure)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "cairn", Host: host, Port: port, NoSigs: true,
		MaxPayload: gfs.MaxMessageBytes, MaxPending: 256 << 20, WriteDeadline: 10 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("nats server: %w", err)
	}
	s.SetLoggerV2(natsLog{log}, false, false, false)
	// The server ends the process where it cannot listen; a listener of our own finds that out first.
	if port != server.RANDOM_PORT {
		probe, err := net.Listen("tcp", listen)
		if err != nil {
			return nil, fmt.Errorf("nats server: %w: choose another port, 0 picks a free one", err)
		}
		_ = probe.Close()
	}
	s.Start()
	if !s.ReadyForConnections(natsStartPatience) {
		s.Shutdown()
		return nil, fmt.Errorf("nats server does not listen on %s after %s", listen, natsStartPatience)
	}
	return &NATS{server: s}, nil
}

// URL is what clients connect to.
func (n *NATS) URL() string { return "nats://" + n.server.Addr().String() }

// Close stops the server and waits until it has.
func (n *NATS) Close() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// CheckListen splits a listen address and refuses one beyond loopback unless insecure is set: nothing that Cairn
// speaks is authenticated yet.
func CheckListen(address string, insecure bool) (host string, port int, err error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, gfs.Errorf(gfs.CodeInvalid, "listen address %q: want HOST:PORT, as in 127.0.0.1:4222", address)
	}
	port, err = strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, gfs.Errorf(gfs.CodeInvalid, "listen address %q: want a port from 0 to 65535", address)
	}
	ip := net.ParseIP(host)
	if insecure || host == "localhost" || ip != nil && ip.IsLoopback() {
		return host, port, nil
	}
	return "", 0, gfs.Errorf(gfs.CodeInvalid, "listen address %q is open to other machines and nothing is authenticated yet: listen on 127.0.0.1, or add --insecure on a network you trust", address)
}

// natsLog sends the server's log to logrus: its notices are of no use to a person who runs Cairn.
type natsLog struct{ log *logrus.Entry }

func (l natsLog) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }
func (l natsLog) Warnf(format string, v ...any)   { l.log.Warnf(format, v...) }
func (l natsLog) Fatalf(format string, v ...any)  { l.log.Errorf(format, v...) }
func (l natsLog) Errorf(format string, v ...any)  { l.log.Errorf(format, v...) }
func (l natsLog) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l natsLog) Tracef(format string, v ...any)  { l.log.Tracef(format, v...) }
