package clientlib

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// connectTimeout bounds Connect: a wrong address should be noticed while the user still looks.
const connectTimeout = 5 * time.Second

// Client is a connection to one cluster, for one user. It is safe for concurrent use. Close it when done.
type Client struct {
	options  options
	url      string
	subjects messages.Subjects
	identity *pb.Identity
	nats     *nats.Conn
	dialer   *natsDialer
	log      *logrus.Entry

	life context.Context // ends with Close
	end  context.CancelFunc

	taskLock sync.Mutex
	closed   bool
	tasks    sync.WaitGroup // every goroutine of the client but those of nats

	session   sessionRef
	locations locations
	pool      *pool
	near      nearness
	buffers   buffers
	pusher    uint64        // random, not 0: it names this client's pushes, together with
	pushes    atomic.Uint64 // the number of the last one
	writers   atomic.Uint64 // Files that took a writer id
	calls     atomic.Uint64 // the id of the last call, from a random beginning
	reports   chan struct{} // a token for each report of a fault under way
}

// Connect connects to the cluster whose messages travel over the NATS server at url (several may be given, with
// commas). It returns within 5 s, or earlier if ctx ends: with a Client if both NATS and an acting master answer,
// else with an error that says what to start. ctx bounds only Connect itself.
func Connect(ctx context.Context, url string, opts ...Option) (*Client, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	subjects, err := messages.NewSubjects(o.cluster)
	if err != nil {
		return nil, err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()

	c := &Client{options: o, url: url, subjects: subjects, log: o.log, identity: &pb.Identity{User: o.user, Groups: o.groups},
		near: newNearness(o.rack), pusher: rand.Uint64() | 1, reports: make(chan struct{}, maxReports)}
	c.calls.Store(rand.Uint64())
	c.life, c.end = context.WithCancel(context.Background())
	c.locations.init(maxLocations)
	c.pool = newPool(c)
	if err := c.connectNATS(ctx); err != nil {
		c.end()
		if caller.Err() != nil { // the NATS library tells only that its connection was closed
			err = withReason(context.Cause(caller), err)
		}
		return nil, fmt.Errorf("%w: no NATS server answers at %s (%w): start one with: cairn nats, or cairn dev",
			gfs.ErrUnavailable, url, err)
	}
	if err := c.findMaster(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends every call of the client and closes its connections. Files should be closed before: what they have
// queued is dropped. It returns when no goroutine of the client is left; a second call does nothing.
func (c *Client) Close() error {
	c.taskLock.Lock()
	c.closed = true
	c.taskLock.Unlock()
	c.end()
	c.pool.close()
	c.dialer.abandon()
	c.nats.Close()
	c.tasks.Wait()
	return nil
}

// spawn runs task on a goroutine that Close waits for; false if the client is closed.
func (c *Client) spawn(task func()) bool {
	c.taskLock.Lock()
	defer c.taskLock.Unlock()
	if c.closed {
		return false
	}
	c.tasks.Go(task)
	return true
}

// connectNATS connects once; later losses are repaired by the NATS library in the background.
func (c *Client) connectNATS(ctx context.Context) error {
	dialer := &natsDialer{client: c, first: ctx}
	c.dialer = dialer
	opts := []nats.Option{
		nats.Name("cairn client " + c.options.user),
		nats.SetCustomDialer(dialer),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1), // what is not sent now must not be sent later: retries are ours
		nats.PingInterval(time.Second),
		nats.MaxPingsOutstanding(2),
		nats.NoCallbacksAfterClientClose(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.log.WithError(err).Warn("nats disconnected") }),
		nats.ReconnectHandler(func(*nats.Conn) {
			dialer.connected()
			c.log.Info("nats reconnected")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.log.WithError(err).Warn("nats error") }),
	}
	if c.options.tls != nil {
		opts = append(opts, nats.Secure(c.options.tls))
	}
	if c.options.credentials != "" {
		opts = append(opts, nats.UserCredentials(c.options.credentials))
	}
	connection, err := nats.Connect(c.url, opts...)
	if err != nil {
		return err
	}
	dialer.connected()
	c.nats = connection
	return nil
}

// findMaster waits until a master answers.
func (c *Client) findMaster(ctx context.Context) error {
	err := c.ask(ctx, messages.OpStatFS, &pb.StatFSRequest{}, &pb.StatFSReply{})
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: no master answers for cluster %q at %s (%w): start one with: cairn master, or cairn dev; or name the cluster with WithCluster",
		gfs.ErrUnavailable, c.options.cluster, c.url, err)
}

// identify is the identity that goes with every request.
func (c *Client) identify() *pb.Identity { return c.identity }

// takeWriter gives a File its writer id and the sequence number of its first append. A fixed id may have been used
// by an earlier process, whose appends are still remembered: its numbers then begin above any of theirs, at the
// time in nanoseconds, so that a new append is never taken for the retry of an old one.
func (c *Client) takeWriter() (gfs.WriterID, uint64) {
	if c.options.writerID == 0 {
		return gfs.WriterID(rand.Uint64() | 1), 1
	}
	return gfs.WriterID(c.options.writerID + c.writers.Add(1) - 1), uint64(time.Now().UnixNano())
}

// natsDialer gives NATS the client's dialer. While Connect runs, its context bounds the connection as a whole, the
// handshake included. Later it is Close that a handshake ends with: the NATS library holds its lock meanwhile.
type natsDialer struct {
	client *Client
	mu     sync.Mutex
	first  context.Context // nil once connected
	stops  []func() bool
	shakes net.Conn // the last one dialled, until its handshake is over
}

// Dial makes one connection; the NATS library calls it.
func (d *natsDialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	first := d.first
	d.mu.Unlock()
	ctx := first
	if ctx == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(d.client.life, connectTimeout)
		defer cancel()
	}
	conn, err := d.client.options.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client.life.Err() != nil {
		return nil, errors.Join(errClientClosed(), conn.Close())
	}
	d.shakes = conn
	if first != nil {
		d.stops = append(d.stops, context.AfterFunc(first, func() { conn.Close() }))
	}
	return conn, nil
}

// abandon ends a handshake that is under way, after the end of the client's life.
func (d *natsDialer) abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shakes != nil {
		d.shakes.Close()
	}
}

// connected ends the hold of Connect's context, and of Close, on the connection.
func (d *natsDialer) connected() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, stop := range d.stops {
		stop()
	}
	d.first, d.stops, d.shakes = nil, nil, nil
}
