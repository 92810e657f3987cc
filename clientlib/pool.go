package clientlib

import (
	"context"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/wire"
)

const (
	// dialTimeout bounds one connection attempt to a chunkserver.
	dialTimeout = time.Second
	// suspicionTime is how long a chunkserver that failed is tried after all others.
	suspicionTime = 5 * time.Second
	// watchInterval is how often silence is looked for.
	watchInterval = 50 * time.Millisecond
	// firstRedial and maxRedial bound the pause after a failed dial, which doubles.
	firstRedial = 20 * time.Millisecond
	maxRedial   = 500 * time.Millisecond
	// maxSuspects bounds the list of suspected addresses.
	maxSuspects = 4096
)

// lane separates the connections to one chunkserver: the bulk of reads does not delay the answers to mutations.
type lane uint8

const (
	readLane lane = iota
	mutateLane
	pushLane // for data ahead of their mutations: a full one may not be read on, and holds up no mutation then
	pingLane // for signs of life: a full connection is not read on, so a ping on it would wait
)

// silence is how long a peer that owes an answer on such a connection may be silent.
func (l lane) silence() time.Duration {
	if l == readLane {
		return readSilenceLimit
	}
	return silenceLimit
}

type poolKey struct {
	address string
	lane    lane
}

// poolEntry is one connection of the pool, or the way to it.
type poolEntry struct {
	conn    *dataConn
	dialing chan struct{} // closed when the dial under way is over; nil when none is
	redial  time.Time     // no dial before
	pause   time.Duration
	err     error // of the last dial
}

// pool holds one connection for each chunkserver and lane, and which chunkservers failed lately.
type pool struct {
	client *Client

	mu       sync.Mutex
	entries  map[poolKey]*poolEntry
	suspects map[string]time.Time // address → until when
	watching bool
	closed   bool
}

func newPool(c *Client) *pool {
	return &pool{client: c, entries: make(map[poolKey]*poolEntry), suspects: make(map[string]time.Time)}
}

// get is a live connection to the chunkserver at address, dialling if there is none. The error is a fault, or the
// end of ctx.
func (p *pool) get(ctx context.Context, address string, l lane) (*dataConn, error) {
	key := poolKey{address, l}
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errClientClosed()
		}
		entry := p.entries[key]
		if entry == nil {
			entry = &poolEntry{}
			p.entries[key] = entry
		}
		if conn := entry.conn; conn != nil && conn.failure() == nil {
			p.mu.Unlock()
			return conn, nil
		}
		if entry.dialing == nil {
			if err := entry.err; err != nil && time.Now().Before(entry.redial) {
				p.mu.Unlock()
				return nil, err
			}
			entry.dialing = make(chan struct{})
			p.client.tasks.Go(func() { p.dial(key, entry) })
			p.watch()
		}
		dialing := entry.dialing
		p.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		p.mu.Lock()
		err := entry.err
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// live is the connection to the chunkserver at address, nil if there is none.
func (p *pool) live(address string, l lane) *dataConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if entry := p.entries[poolKey{address, l}]; entry != nil && entry.conn != nil && entry.conn.failure() == nil {
		return entry.conn
	}
	return nil
}

// dial makes the entry's connection. It runs on its own: a caller that gives up does not end it for the others.
func (p *pool) dial(key poolKey, entry *poolEntry) {
	ctx, cancel := context.WithTimeout(p.client.life, dialTimeout)
	defer cancel()
	raw, err := p.client.options.dial(ctx, "tcp", key.address)

	p.mu.Lock()
	defer p.mu.Unlock()
	close(entry.dialing)
	entry.dialing = nil
	if err == nil && p.closed {
		raw.Close()
		err = errClientClosed()
	}
	if err != nil {
		entry.err = &fault{address: key.address, cause: err}
		entry.pause = min(max(2*entry.pause, firstRedial), maxRedial)
		entry.redial = time.Now().Add(entry.pause)
		return
	}
	conn := newDataConn(key.address, key.lane, raw)
	entry.conn, entry.err, entry.pause = conn, nil, 0
	p.client.tasks.Go(conn.readLoop)
	p.client.tasks.Go(conn.writeLoop)
}

// watch looks after silent and idle connections as long as there are any; the lock is held.
func (p *pool) watch() {
	if p.watching {
		return
	}
	p.watching = true
	p.client.tasks.Go(func() {
		ticker := time.NewTicker(watchInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-p.client.life.Done():
				return
			}
			if !p.sweep(time.Now()) {
				return
			}
		}
	})
}

// sweep checks every connection once and forgets the dead; it reports whether any entry is left.
func (p *pool) sweep(now time.Time) bool {
	p.mu.Lock()
	live := make(map[poolKey]*dataConn, len(p.entries))
	for key, entry := range p.entries {
		switch {
		case entry.conn != nil && entry.conn.failure() == nil:
			live[key] = entry.conn
		case entry.dialing == nil && (entry.conn != nil || now.Sub(entry.redial) > idleLimit):
			if entry.conn = nil; now.After(entry.redial) {
				delete(p.entries, key)
			}
		}
	}
	for address, until := range p.suspects {
		if now.After(until) {
			delete(p.suspects, address)
		}
	}
	p.watching = len(p.entries) > 0
	watching := p.watching
	p.mu.Unlock()
	for key, conn := range live {
		if conn.check(now) && key.lane != pingLane {
			p.client.spawn(func() { p.ping(conn) })
		}
	}
	return watching
}

// ping asks the chunkserver behind conn for a sign of life.
func (p *pool) ping(conn *dataConn) {
	ctx, cancel := context.WithTimeout(p.client.life, silenceLimit)
	defer cancel()
	line, err := p.get(ctx, conn.address, pingLane)
	if err == nil {
		err = line.do(ctx, wire.OpPing, nil, nil, 0)
	}
	conn.pinged(err == nil)
}

// suspect makes the chunkserver at address the last choice for a while.
func (p *pool) suspect(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.suspects) < maxSuspects {
		p.suspects[address] = time.Now().Add(suspicionTime)
	}
}

// suspected reports whether the chunkserver at address failed lately.
func (p *pool) suspected(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.suspects[address]
	return ok && time.Now().Before(until)
}

// close ends every connection.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	var live []*dataConn
	for _, entry := range p.entries {
		if entry.conn != nil {
			live = append(live, entry.conn)
		}
	}
	p.mu.Unlock()
	for _, conn := range live {
		conn.fail(errClientClosed())
	}
}
