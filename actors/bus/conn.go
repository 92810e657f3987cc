package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Times of a connection.
const (
	// ConnectTimeout bounds Connect over all servers named.
	ConnectTimeout = 5 * time.Second
	// WriteTimeout is how long a write to a server that takes nothing may last; then the connection counts as lost.
	WriteTimeout = time.Second
	// pingInterval and maxPings notice a dead server within 3 s.
	pingInterval = time.Second
	maxPings     = 2
	// reconnectWait is the pause between attempts to come back, plus up to reconnectJitter.
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond
	// closeTimeout bounds Close.
	closeTimeout = 2 * time.Second
)

// DefaultURL is where `cairn nats` listens unless told otherwise.
const DefaultURL = nats.DefaultURL

// Config says how to connect.
type Config struct {
	// URL names the servers, separated by commas; empty is DefaultURL. Names are looked up by the dialer, addresses
	// are not looked up at all.
	URL string
	// Name is shown by the server's monitoring, such as "cairn-master m1".
	Name string
	// Log gets losses and returns of the connection (Warn, Info) and dropped messages (Warn). Required.
	Log *logrus.Entry
	// InProcess connects to a server of the same process (a *server.Server of nats-server) instead of URL.
	InProcess nats.InProcessConnProvider
	// TLS, if not nil, is required of the server.
	TLS *tls.Config
	// CredentialsFile, if not empty, holds the user's JWT and seed as made by nsc.
	CredentialsFile string
	// Dialer, if not nil, replaces net.Dialer.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// Conn is a connection to NATS that comes back by itself. It is safe for concurrent use.
type Conn struct {
	nc      *nats.Conn
	log     *logrus.Entry
	address string        // for people
	closed  chan struct{} // closed when the library has closed the connection
	once    sync.Once
	away    atomic.Bool // between onDisconnect and onReconnect
	dialer  dialer
	calls   callTable
}

// Connect dials the servers and fails within ConnectTimeout if none takes the connection: ErrUnavailable where
// nobody listens, ErrPermission where the credentials are refused, ErrInvalid for a URL that is none. Once it has
// succeeded, the connection is kept up until Close.
func Connect(cfg Config) (*Conn, error) {
	if cfg.Log == nil {
		panic("bus: Config.Log is required")
	}
	cfg.URL = cmp.Or(cfg.URL, DefaultURL)
	c := &Conn{log: cfg.Log, address: redact(cfg.URL), closed: make(chan struct{})}
	if cfg.InProcess != nil {
		c.address = "this process's own server"
	}
	c.calls.pending = make(map[string]*call)
	if cfg.CredentialsFile != "" {
		if _, err := os.Stat(cfg.CredentialsFile); err != nil {
			return nil, gfs.Errorf(gfs.CodeInvalid, "credentials file: %v; name one that can be read", err)
		}
	}
	nc, err := nats.Connect(cfg.URL, c.options(cfg)...)
	if err != nil {
		return nil, c.refused(err)
	}
	c.nc = nc
	c.dialer.connected()
	c.log.WithField("url", c.address).Debug("nats connected")
	return c, nil
}

func (c *Conn) options(cfg Config) []nats.Option {
	servers := strings.Count(cfg.URL, ",") + 1
	patience := ConnectTimeout / time.Duration(servers)
	options := []nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(patience),
		nats.SkipHostLookup(), // the dialer looks names up, within its time
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.RetryOnFailedConnect(false),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.FlusherTimeout(WriteTimeout),
		nats.DisconnectErrHandler(c.onDisconnect),
		nats.ReconnectHandler(c.onReconnect),
		nats.ErrorHandler(c.onError),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if cfg.InProcess != nil {
		options = append(options, nats.InProcessServer(cfg.InProcess))
	}
	if cfg.TLS != nil {
		options = append(options, nats.Secure(cfg.TLS))
	}
	if cfg.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(cfg.CredentialsFile))
	}
	c.dialer.dial, c.dialer.patience = cfg.Dialer, patience
	if cfg.Dialer == nil {
		c.dialer.dial = new(net.Dialer).DialContext
	}
	return append(options, nats.SetCustomDialer(&c.dialer))
}

// dialer bounds what it dials as the library bounds its own, and can end a handshake: the library holds its lock through it, for
// as long as a server that accepts and then says nothing lets it wait.
type dialer struct {
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	patience time.Duration

	mu     sync.Mutex
	shakes net.Conn // the last one dialled, until its handshake is over
	closed bool
}

// Dial is what the client library calls.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d.patience)
	defer cancel()
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.Join(nats.ErrConnectionClosed, conn.Close())
	}
	d.shakes = conn
	return conn, nil
}

// connected says that no handshake is under way.
func (d *dialer) connected() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shakes = nil
}

// abandon ends a handshake that is under way, and lets none begin.
func (d *dialer) abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.shakes != nil {
		d.shakes.Close()
	}
}

// refused says why there is no connection and what to do.
func (c *Conn) refused(err error) error {
	var parse *url.Error
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return gfs.Errorf(gfs.CodePermission, "NATS at %s refused the credentials (%v); give a valid credentials file",
			c.address, err)
	case errors.As(err, &parse):
		return gfs.Errorf(gfs.CodeInvalid, "%q is no NATS URL (%v); want nats://HOST:PORT", c.address, parse.Err)
	default:
		return gfs.Errorf(gfs.CodeUnavailable, "no NATS server at %s (%v); start one with: cairn nats", c.address, err)
	}
}

// redact leaves passwords out of what people and logs see.
func redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, text := range list {
		if u, err := url.Parse(strings.TrimSpace(text)); err == nil {
			list[i] = u.Redacted()
		}
	}
	return strings.Join(list, ",")
}

// NATS is the client library's connection, for what this package does not offer. Its owner remains the Conn.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// Address is the server's URL as given to Connect, without passwords: for messages to people.
func (c *Conn) Address() string { return c.address }

// Flush returns when the server has taken all that was published and subscribed before.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := boundedContext(ctx)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return c.explain(err, "flush")
	}
	return nil
}

// Close delivers what was published and ends everything: within about 2 s, also when the server is away. Calls that
// wait end with ErrOutcomeUnknown. It is idempotent.
//
// (The library's Drain would do more, but its timers come from a pool shared by all goroutines, which ends a
// program that runs in more than one bubble of testing/synctest.)
func (c *Conn) Close() {
	c.once.Do(func() {
		c.dialer.abandon()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		// Without a connection there is nothing to flush into, and the wait would be for nothing.
		if !c.nc.IsConnected() {
			cancel()
		}
		if err := c.nc.FlushWithContext(ctx); err != nil {
			c.log.WithFields(logrus.Fields{"url": c.address, "err": err}).Debug("nats closed without flush")
		}
		c.nc.Close()
		<-c.closed // the services have ended by then: they hear of it first
		c.endCalls()
	})
}

func (c *Conn) onDisconnect(_ *nats.Conn, err error) {
	if err == nil {
		return // closed by us
	}
	c.away.Store(true)
	c.log.WithFields(logrus.Fields{"url": c.address, "err": err}).Warn("nats disconnected")
}

func (c *Conn) onReconnect(nc *nats.Conn) {
	c.away.Store(false)
	c.dialer.connected()
	c.log.WithField("url", nc.ConnectedUrlRedacted()).Info("nats reconnected")
}

// send is the library's, but that it waits for nobody while the connection is away: the library holds its lock while it
// connects again, for as long as a server that accepts and then says nothing lets it wait, and actors send.
func (c *Conn) send(msg *nats.Msg) error {
	if c.away.Load() {
		return nats.ErrConnectionReconnecting
	}
	return c.nc.PublishMsg(msg)
}

func (c *Conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	fields := logrus.Fields{"url": c.address, "err": err}
	if sub != nil {
		fields["subject"] = sub.Subject
		if dropped, dropErr := sub.Dropped(); dropErr == nil {
			fields["dropped"] = dropped
		}
	}
	c.log.WithFields(fields).Warn("nats error")
}

// explain turns an error of the client library into one that crosses processes. what is the subject, or what was
// tried.
func (c *Conn) explain(err error, what string) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return gfs.Errorf(gfs.CodeUnavailable, "nobody serves %s at %s; is that process running?", what, c.address)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", gfs.Errorf(gfs.CodeOutcomeUnknown, "no answer on %s", what), err)
	case errors.Is(err, nats.ErrMaxPayload):
		return gfs.Errorf(gfs.CodeInvalid, "%s: message exceeds the server's limit of %d bytes", what, c.nc.MaxPayload())
	case errors.Is(err, nats.ErrBadSubject):
		return gfs.Errorf(gfs.CodeInvalid, "%q is no subject: want tokens without spaces, separated by dots", what)
	case errors.Is(err, nats.ErrDisconnected):
		return gfs.Errorf(gfs.CodeOutcomeUnknown, "%s: the connection to NATS at %s ended before the answer", what, c.address)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return gfs.Errorf(gfs.CodeUnavailable, "%s: NATS at %s is away; start one with: cairn nats", what, c.address)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return gfs.Errorf(gfs.CodeUnavailable, "%s: the connection to NATS at %s was closed", what, c.address)
	default:
		return gfs.Errorf(gfs.CodeOutcomeUnknown, "%s: NATS at %s: %v", what, c.address, err)
	}
}
