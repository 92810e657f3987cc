package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Cut is what a Proxy does with what goes through.
type Cut string

// The cuts.
const (
	None    Cut = ""        // everything passes
	Refuse  Cut = "refuse"  // connections are reset, new ones at once
	Silence Cut = "silence" // nothing passes, connections stay
	Deafen  Cut = "deafen"  // nothing reaches the target; what it says passes
	Mute    Cut = "mute"    // nothing that the target says passes; what it is told does
)

// dialTimeout bounds the connection to the target.
const dialTimeout = 5 * time.Second

// pieceBytes is what is forwarded at once: small enough that a cut takes hold soon.
const pieceBytes = 64 << 10

// Proxy listens on a port of its own and forwards each connection to a target. It is safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	life     context.Context
	end      context.CancelFunc
	tasks    sync.WaitGroup

	mu      sync.Mutex
	cut     Cut
	changed chan struct{} // closed when cut changes
	links   map[*link]struct{}
}

// link is one connection through the proxy.
type link struct{ from, to net.Conn }

// NewProxy starts a proxy on a free port of 127.0.0.1 before the address target, which need not listen yet.
func NewProxy(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", target, err)
	}
	p := &Proxy{target: target, listener: listener, changed: make(chan struct{}), links: map[*link]struct{}{}}
	p.life, p.end = context.WithCancel(context.Background())
	p.tasks.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set makes the cut the present one; None ends it: what a cut held back goes on then, however late it is.
func (p *Proxy) Set(cut Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	close(p.changed)
	p.changed = make(chan struct{})
	if cut == Refuse {
		for l := range p.links {
			l.reset()
		}
	}
}

// Close resets every connection and returns when no goroutine of the proxy is left.
func (p *Proxy) Close() error {
	p.end()
	err := p.listener.Close()
	p.Set(Refuse)
	p.tasks.Wait()
	return err
}

// present is the cut, and what tells of the next.
func (p *Proxy) present() (Cut, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut, p.changed
}

func (p *Proxy) accept() {
	for {
		from, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.tasks.Go(func() { p.serve(from) })
		}
	}
}

// serve forwards one connection until either side or a cut ends it.
func (p *Proxy) serve(from net.Conn) {
	l := &link{from: from}
	defer l.reset()
	if !p.await(Silence, Deafen, Mute) {
		return
	}
	ctx, cancel := context.WithTimeout(p.life, dialTimeout)
	to, err := new(net.Dialer).DialContext(ctx, "tcp", p.target)
	cancel()
	if err != nil {
		return
	}
	l.to = to
	p.mu.Lock()
	refused := p.cut == Refuse || p.life.Err() != nil
	if !refused {
		p.links[l] = struct{}{}
	}
	p.mu.Unlock()
	if refused {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.forward(l, l.to, l.from, Silence, Deafen) })
	both.Go(func() { p.forward(l, l.from, l.to, Silence, Mute) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// forward copies one direction, which the named cuts hold back. An end on one side ends the whole connection.
func (p *Proxy) forward(l *link, into, from net.Conn, held ...Cut) {
	defer l.reset()
	piece := make([]byte, pieceBytes)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			if !p.await(held...) {
				return
			}
			if _, err := into.Write(piece[:n]); err != nil {
				return
			}
		}
		if err != nil {
			p.await(held...) // that a connection ended is not heard of through a cut either
			return
		}
	}
}

// await waits until the cut is none of those; it is false if connections are to end.
func (p *Proxy) await(held ...Cut) bool {
	for {
		cut, changed := p.present()
		blocked := false
		for _, h := range held {
			blocked = blocked || cut == h
		}
		switch {
		case cut == Refuse || p.life.Err() != nil:
			return false
		case !blocked:
			return true
		}
		select {
		case <-changed:
		case <-p.life.Done():
		}
	}
}

// reset ends both sides at once, without the farewell of an orderly close.
func (l *link) reset() {
	for _, conn := range []net.Conn{l.from, l.to} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it may be closed already
			_ = tcp.Close()
		}
	}
}
